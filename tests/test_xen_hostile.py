"""A peer that may write any byte of the ring at any time, and what it can reach."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rings import RemoteProtocolError, layout
from rings.xen_style import PADDED, XEN, BackRing, FrontRing, ring_size

SLOTS, SIZE = 8, 16
STARTS = [0, 2**31 - 2, 2**32 - 2]

layouts = st.sampled_from([XEN, PADDED])
starts = st.sampled_from(STARTS)
near = st.integers(-2 * SLOTS, 2 * SLOTS)
anywhere = st.integers(0, 2**32 - 1)
quick = settings(max_examples=300, deadline=None)
both_layouts = pytest.mark.parametrize("ring_layout", [XEN, PADDED], ids=["xen", "pad"])


class Rig:
    """A front, a back, and a hand that pokes the words between them."""

    def __init__(self, ring_layout, start):
        self.memory = bytearray(ring_size(ring_layout, SLOTS, SIZE))
        self.words = layout.RING_WORDS[ring_layout]
        sizes = {
            "layout": ring_layout,
            "slots": SLOTS,
            "slot_size": SIZE,
            "start": start,
        }
        self.front = FrontRing(self.memory, **sizes, initialise=True)
        self.back = BackRing(self.memory, **sizes)

    def poke(self, word: str, value: int) -> None:
        at = getattr(self.words, word)
        self.memory[at : at + 4] = (value % 2**32).to_bytes(4, "little")

    def peek(self, word: str) -> int:
        at = getattr(self.words, word)
        return int.from_bytes(self.memory[at : at + 4], "little")

    def walk(self, asked: int, taken: int, answered: int) -> None:
        """Bring the ring to a state by honest steps."""
        self.front.put_many([bytes([i]) * SIZE for i in range(asked)])
        self.front.publish()
        self.back.put_many(self.back.take(taken)[:answered])
        self.back.publish()


def assert_dead(half, word: str, value: int) -> None:
    assert half.is_broken
    puts = bytes(SIZE)
    calls = [half.take, half.publish, half.final_check]
    calls += [lambda: half.put(puts), lambda: half.put_many([puts])]
    calls += [lambda: half.take_into(bytearray(SIZE))]
    for call in calls:
        with pytest.raises(
            RemoteProtocolError, match=f"impossible {word}, {value % 2**32}:"
        ):
            call()


counts = st.tuples(*[st.integers(0, SLOTS)] * 3).map(lambda c: sorted(c, reverse=True))


@quick
@given(ring_layout=layouts, start=starts, counts=counts, to=near | anywhere)
def test_any_req_prod_is_an_error_or_bounded_work(ring_layout, start, counts, to):
    rig = Rig(ring_layout, start)
    _, taken, answered = counts
    rig.walk(*counts)
    rig.poke("req_prod", start + to)
    ready = (to - taken) % 2**32
    if ready <= SLOTS - (taken - answered):
        assert len(rig.back.take()) == ready
        assert not rig.back.is_broken
        return
    with pytest.raises(RemoteProtocolError, match="close it and connect again"):
        rig.back.take()
    rig.poke("req_prod", start + taken)
    assert_dead(rig.back, "req_prod", start + to)


@quick
@given(ring_layout=layouts, start=starts, counts=counts, to=near | anywhere)
def test_any_rsp_prod_is_an_error_or_bounded_work(ring_layout, start, counts, to):
    rig = Rig(ring_layout, start)
    asked, _, answered = counts
    rig.walk(*counts)
    assert len(rig.front.take()) == answered
    rig.poke("rsp_prod", start + to)
    ready = (to - answered) % 2**32
    if ready <= asked - answered:
        assert len(rig.front.take()) == ready
        assert not rig.front.is_broken
        return
    with pytest.raises(RemoteProtocolError, match="close it and connect again"):
        rig.front.final_check()
    rig.poke("rsp_prod", start + answered)
    assert_dead(rig.front, "rsp_prod", start + to)


@quick
@given(ring_layout=layouts, start=starts)
def test_a_claimed_request_is_not_one_the_back_may_answer(ring_layout, start):
    rig = Rig(ring_layout, start)
    rig.front.put(bytes(SIZE))
    rig.poke("rsp_prod", start + 1)
    with pytest.raises(RemoteProtocolError):
        rig.front.take()


@quick
@given(ring_layout=layouts, start=starts, own=st.tuples(anywhere, anywhere))
def test_a_half_never_reads_its_own_words_back(ring_layout, start, own):
    """The back overwrites the front's words, the front the back's: no effect."""
    rig = Rig(ring_layout, start)
    rig.front.put_many([bytes([i]) * SIZE for i in range(3)])
    rig.poke("req_prod", own[0])
    rig.poke("rsp_event", own[1])
    assert rig.front.credit == SLOTS - 3
    assert rig.front.publish()
    assert rig.peek("req_prod") == (start + 3) % 2**32
    rig.poke("rsp_prod", own[0])
    rig.poke("req_event", own[1])
    requests = rig.back.take()
    assert [each[0] for each in requests] == [0, 1, 2]
    rig.back.put_many(requests)
    rig.poke("rsp_event", start + 1)
    assert rig.back.publish()
    assert rig.peek("rsp_prod") == (start + 3) % 2**32
    assert not rig.back.final_check()
    assert rig.peek("req_event") == (start + 4) % 2**32
    rig.poke("req_prod", own[1])
    rig.poke("rsp_event", own[0])
    assert rig.front.take() == requests
    assert not rig.front.final_check()
    assert rig.peek("rsp_event") == (start + 4) % 2**32


@both_layouts
@pytest.mark.parametrize("start", STARTS)
def test_what_was_taken_does_not_change_afterwards(ring_layout, start):
    rig = Rig(ring_layout, start)
    rig.walk(2, 0, 0)
    into = bytearray(SIZE)
    [taken] = rig.back.take(1)
    rig.back.take_into(into)
    rig.memory[rig.words.slots :] = b"\xff" * (SLOTS * SIZE)
    assert taken == bytes(SIZE)
    assert into == b"\x01" * SIZE


@both_layouts
@pytest.mark.parametrize("start", STARTS)
def test_a_false_event_word_costs_a_notification_at_most(ring_layout, start):
    rig = Rig(ring_layout, start)
    for event in (start, start + 1, start + 2**31, start - 1):
        rig.poke("req_event", event)
        rig.front.put(bytes(SIZE))
        rig.front.publish()
        rig.back.put_many(rig.back.take())
        rig.back.publish()
        assert len(rig.front.take()) == 1


@settings(max_examples=400, deadline=None)
@given(data=st.data(), ring_layout=layouts, start=starts)
def test_scribbling_anywhere_is_survived(data, ring_layout, start):
    """Between any two calls the peer writes anything: bounded work or one error."""
    rig = Rig(ring_layout, start)
    half, puts = data.draw(
        st.sampled_from([(rig.front, "credit"), (rig.back, "unserved")])
    )
    for _ in range(data.draw(st.integers(1, 12))):
        where = data.draw(st.sampled_from(["req_prod", "req_event", "rsp_prod"]))
        rig.poke(where, start + data.draw(near | anywhere))
        rig.memory[-SIZE:] = data.draw(st.binary(min_size=SIZE, max_size=SIZE))
        try:
            room = getattr(half, puts)
            assert 0 <= room <= SLOTS
            assert (
                half.put_many([bytes(SIZE)] * data.draw(st.integers(0, room))) <= room
            )
            half.publish()
            assert len(half.take()) <= SLOTS
            half.final_check()
        except RemoteProtocolError:
            assert half.is_broken
            break
        assert 0 <= half.in_flight <= SLOTS


@quick
@given(ring_layout=layouts, start=starts, to=anywhere)
def test_one_broken_ring_harms_no_other(ring_layout, start, to):
    assume(to > SLOTS)
    bad, good = Rig(ring_layout, start), Rig(ring_layout, start)
    bad.poke("req_prod", start + to)
    with pytest.raises(RemoteProtocolError):
        bad.back.take()
    good.walk(3, 3, 3)
    assert len(good.front.take()) == 3
