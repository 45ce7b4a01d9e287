"""FrontRing and BackRing against the model, byte for byte, and what they promise."""

from __future__ import annotations

import gc
import mmap
import os
import random
import select
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rings import BusyError, ClosedError, LocalProtocolError, layout
from rings.xen_style import PADDED, XEN, BackRing, FrontRing, ring_size

from . import model

STARTS = [0, 2**31 - 2, 2**32 - 2]
LAYOUTS = [XEN, PADDED]
SLOTS, SIZE, RESPONSE = 4, 24, 16

both_layouts = pytest.mark.parametrize("ring_layout", LAYOUTS, ids=["xen", "padded"])
all_starts = pytest.mark.parametrize("start", STARTS)


def make_pair(ring_layout=PADDED, start=0, *, slots=SLOTS, size=SIZE, memory=None):
    if memory is None:
        memory = bytearray(ring_size(ring_layout, slots, size))
    sizes = {"layout": ring_layout, "slots": slots, "slot_size": size, "start": start}
    front = FrontRing(memory, **sizes, response_size=RESPONSE, initialise=True)
    return memory, front, BackRing(memory, **sizes, response_size=RESPONSE)


def record(value: int, size: int) -> bytes:
    return random.Random(value).randbytes(size)


# -- against the model ---------------------------------------------------------


class Compared(RuleBasedStateMachine):
    """The same steps on two memories: C halves on one, the model on the other."""

    ring_layout, start, slots = XEN, 0, 1

    def __init__(self):
        super().__init__()
        self.memory, self.front, self.back = make_pair(
            self.ring_layout, self.start, slots=self.slots
        )
        shadow = bytearray(len(self.memory))
        ring = model.Ring(shadow, self.ring_layout, self.slots, SIZE)
        ring.initialise(self.start)
        self.shadow = shadow
        self.model_front = model.Half(ring, True, self.start, RESPONSE)
        self.model_back = model.Half(ring, False, self.start, RESPONSE)
        self.count = 0

    def fresh(self, how_many: int, size: int) -> list[bytes]:
        self.count += how_many
        return [record(self.count + i, size) for i in range(how_many)]

    @rule(how_many=st.integers(0, SLOTS + 2), joined=st.booleans())
    def put_requests(self, how_many, joined):
        records = self.fresh(how_many, SIZE)
        accepted = self.front.put_many(b"".join(records) if joined else records)
        assert accepted == sum(self.model_front.put(each) for each in records)

    @rule()
    def put_one_request(self):
        [request] = self.fresh(1, SIZE)
        assert self.front.put(request) == self.model_front.put(request)

    @precondition(lambda self: self.back.unserved)
    @rule(data=st.data())
    def put_responses(self, data):
        how_many = data.draw(st.integers(1, self.back.unserved))
        records = self.fresh(how_many, RESPONSE)
        assert self.back.put_many(records) == how_many
        assert all([self.model_back.put(each) for each in records])

    @rule()
    def publish_requests(self):
        assert self.front.publish() == self.model_front.publish()

    @rule()
    def publish_responses(self):
        assert self.back.publish() == self.model_back.publish()

    @rule(most=st.integers(0, SLOTS))
    def take_requests(self, most):
        assert self.back.take(most) == self.model_back.take(most)

    @rule(most=st.integers(0, SLOTS))
    def take_responses_into(self, most):
        out = bytearray(most * RESPONSE)
        expected = b"".join(self.model_front.take(most))
        assert self.front.take_into(out) * RESPONSE == len(expected)
        assert out[: len(expected)] == expected

    @rule()
    def final_check_of_front(self):
        assert self.front.final_check() == self.model_front.final_check()

    @rule()
    def final_check_of_back(self):
        assert self.back.final_check() == self.model_back.final_check()

    @invariant()
    def same_bytes_and_counts(self):
        assert self.memory == self.shadow
        assert self.front.credit == self.model_front.room()
        assert self.back.unserved == self.model_back.room()
        assert self.front.in_flight + self.front.credit == self.slots


@both_layouts
@all_starts
@pytest.mark.parametrize("slots", [1, SLOTS])
def test_same_as_the_model_byte_for_byte(ring_layout, start, slots):
    place = {"ring_layout": ring_layout, "start": start, "slots": slots}
    case = type("Case", (Compared,), place)
    case.TestCase.settings = settings(max_examples=40, deadline=None)
    case.TestCase("runTest").runTest()


# -- hold-off and final check ---------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(
    old=st.one_of(st.sampled_from(STARTS), st.integers(0, 2**32 - 1)),
    count=st.integers(0, 8),
    distance=st.one_of(st.integers(-10, 10), st.integers(0, 2**32 - 1)),
    ring_layout=st.sampled_from(LAYOUTS),
)
def test_notify_exactly_when_the_event_lies_in_the_window(
    old, count, distance, ring_layout
):
    memory, front, back = make_pair(ring_layout, old, slots=8)
    words = layout.RING_WORDS[ring_layout]
    event = (old + distance) % 2**32
    expected = model.wanted(event, old, old + count)
    memory[words.req_event : words.req_event + 4] = event.to_bytes(4, "little")
    front.put_many([bytes(SIZE)] * count)
    assert front.publish() == expected
    memory[words.rsp_event : words.rsp_event + 4] = event.to_bytes(4, "little")
    back.put_many([bytes(RESPONSE)] * len(back.take()))
    assert back.publish() == expected


@both_layouts
@all_starts
def test_an_awake_consumer_is_not_notified_and_a_sleeping_one_once(ring_layout, start):
    _, front, back = make_pair(ring_layout, start)
    put_one = lambda: (front.put(bytes(SIZE)), front.publish())[1]  # noqa: E731
    assert put_one()
    assert not put_one()
    assert back.final_check(), "there are two requests: do not sleep"
    assert len(back.take()) == 2
    assert not back.final_check()
    assert put_one()
    assert not put_one()
    assert front.statistics()["notifications_wanted"] == 2
    assert front.statistics()["held_off"] == 2


@both_layouts
@all_starts
def test_publish_of_nothing_asks_for_nothing(ring_layout, start):
    memory, front, back = make_pair(ring_layout, start)
    before = bytes(memory)
    assert not front.publish()
    assert not back.publish()
    assert memory == before
    assert front.statistics()["held_off"] == 0


# -- credit, sizes, misuse -------------------------------------------------------


@both_layouts
@all_starts
def test_a_full_ring_is_a_value_and_counted(ring_layout, start):
    _, front, back = make_pair(ring_layout, start)
    assert front.put_many([bytes(SIZE)] * (SLOTS + 3)) == SLOTS
    assert not front.put(bytes(SIZE))
    front.publish()
    requests = back.take()
    assert front.credit == 0, "taking a request frees nothing"
    back.put_many([bytes(RESPONSE)] * len(requests))
    back.publish()
    assert front.credit == 0, "nor does answering it"
    assert len(front.take(1)) == 1
    assert front.credit == 1
    assert front.statistics() == {
        "requests": SLOTS,
        "responses": 1,
        "notifications_wanted": 1,
        "held_off": 0,
        "full": 2,
        "in_flight_peak": SLOTS,
    }
    assert back.statistics()["in_flight_peak"] == SLOTS


def test_a_wrong_size_is_an_error_with_numbers_and_moves_nothing():
    memory, front, back = make_pair()
    before = bytes(memory[: layout.PADDED_WORDS.slots])
    with pytest.raises(ValueError, match="request of this ring has 24 bytes, not 23"):
        front.put(bytes(SIZE - 1))
    with pytest.raises(ValueError, match="has 24 bytes, not 25"):
        front.put_many([bytes(SIZE), bytes(SIZE), bytes(SIZE + 1)])
    with pytest.raises(ValueError, match="30 bytes are not a whole number of requests"):
        front.put_many(bytes(30))
    with pytest.raises(TypeError):
        front.put_many([bytes(SIZE), "text"])
    with pytest.raises(ValueError, match="17 bytes do not hold a whole number of resp"):
        front.take_into(bytearray(17))
    with pytest.raises(ValueError, match="max must be None or 0 and more, not -1"):
        back.take(-1)
    assert front.credit == SLOTS
    assert not front.publish()
    assert memory[: layout.PADDED_WORDS.slots] == before


def test_a_response_to_no_request_is_your_error():
    _, front, back = make_pair()
    front.put_many([bytes(SIZE)] * 2)
    front.publish()
    with pytest.raises(LocalProtocolError, match="1 responses put and 0 requests"):
        back.put(bytes(RESPONSE))
    back.take()
    with pytest.raises(LocalProtocolError, match="3 responses put and 2 requests"):
        back.put_many([bytes(RESPONSE)] * 3)
    assert back.unserved == 2
    assert back.put_many([bytes(RESPONSE)] * 2) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slots": 3}, "power of two up to 65536, not 3"),
        ({"slots": 0}, "power of two up to 65536, not 0"),
        ({"slots": 2**17}, "power of two up to 65536, not 131072"),
        ({"slots": 2**32 + 4}, "power of two up to 65536, not 4294967300"),
        ({"slot_size": 0}, "slot_size must be in 1..4096, not 0"),
        ({"slot_size": 4097}, "slot_size must be in 1..4096, not 4097"),
        ({"response_size": 25}, "response_size must be in 1..slot_size, not 25"),
        ({"layout": 2}, "layout must be .* not 2"),
        ({"offset": 4}, "offset must be a multiple of 8, not 4"),
        ({"offset": -8}, "offset must be a multiple of 8, not -8"),
        ({"offset": 8}, "need a buffer of 360 bytes, not 352"),
        ({"offset": 2**62}, "need a buffer of"),
        ({"start": -1}, "start must be a u32, not -1"),
        ({"start": 2**32}, "start must be a u32, not 4294967296"),
    ],
)
def test_impossible_numbers_are_refused_by_name(wrong, message):
    memory = bytearray(ring_size(PADDED, SLOTS, SIZE))
    for half in FrontRing, BackRing:
        with pytest.raises(ValueError, match=message):
            half(memory, **{"slots": SLOTS, "slot_size": SIZE, **wrong})
    memory.append(0)


def test_memory_must_be_writable_and_contiguous():
    with pytest.raises(BufferError, match="pass a writable buffer"):
        FrontRing(bytes(352), slots=SLOTS, slot_size=SIZE)
    with pytest.raises(BufferError, match="pass a writable buffer"):
        FrontRing(memoryview(bytearray(800))[::2], slots=SLOTS, slot_size=SIZE)
    with pytest.raises(ValueError, match="8-byte aligned"):
        FrontRing(memoryview(bytearray(800))[1:], slots=SLOTS, slot_size=SIZE)


def test_close_gives_the_memory_back_and_ends_the_half():
    memory, front, back = make_pair()
    with pytest.raises(BufferError):
        memory.append(0)
    with front:
        assert not front.closed
    back.close()
    back.close()
    memory.append(0)
    for call in front.publish, front.take, front.final_check, back.take:
        with pytest.raises(ClosedError, match="closed"):
            call()
    with pytest.raises(ClosedError):
        front.put(bytes(SIZE))
    assert front.closed
    assert not front.is_broken
    assert front.credit == SLOTS
    assert "closed" in repr(front)
    assert front.statistics()["requests"] == 0


def test_a_half_in_a_cycle_is_collected():
    class Memory(bytearray):
        half: FrontRing

    memory = Memory(ring_size(PADDED, SLOTS, SIZE))
    memory.half = FrontRing(memory, slots=SLOTS, slot_size=SIZE)
    gone = weakref.ref(memory)
    del memory
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ in Python: 3.12")
def test_a_call_from_inside_a_call_is_refused():
    _, front, _ = make_pair()

    class Sly:
        def __buffer__(self, flags):
            for call in front.publish, front.close:
                with pytest.raises(BusyError):
                    call()
            return memoryview(bytes(SIZE))

    assert front.put_many([bytes(SIZE), Sly()]) == 2
    assert front.publish()


def test_any_buffer_will_do():
    import array

    _, front, back = make_pair(slots=8)
    numbers = array.array("Q", range(6))
    assert front.put(memoryview(numbers)[:3])
    assert front.put_many(numbers) == 2
    front.publish()
    taken = b"".join(back.take())
    assert taken == numbers.tobytes()[:24] + numbers.tobytes()
    assert front.put_many(iter([bytes(SIZE)])) == 1


def test_taking_more_than_is_there_takes_what_is_there():
    _, front, back = make_pair()
    front.put_many([bytes([i]) * SIZE for i in range(3)])
    assert back.take() == []
    front.publish()
    assert [each[0] for each in back.take(max=2)] == [0, 1]
    assert [each[0] for each in back.take(None)] == [2]
    assert back.take(0) == []


# -- two processes ------------------------------------------------------------------


def echo_through_another_process(requests: int, start: int, seed: int) -> dict:
    """Send requests in random small batches, sleep at once, count who slept."""
    fd = os.memfd_create("rings-test", os.MFD_CLOEXEC)
    kick, call = os.eventfd(0), os.eventfd(0)
    os.ftruncate(fd, 4096)
    memory = mmap.mmap(fd, 4096)
    sizes = {"slots": 8, "slot_size": 16, "start": start}
    front = FrontRing(memory, **sizes, initialise=True)
    script = Path(__file__).with_name("xen_echo.py")
    arguments = [sys.executable, script, *map(str, (fd, kick, call, start, requests))]
    peer = subprocess.Popen(
        [*map(str, arguments), str(seed)], pass_fds=(fd, kick, call)
    )
    try:
        waits = drive_echo(front, kick, call, requests, random.Random(seed))
        assert peer.wait(30) == 0
    finally:
        peer.kill()
        peer.wait()
        front.close()
        memory.close()
        for each in fd, kick, call:
            os.close(each)
    return {**front.statistics(), "waits": waits}


def drive_echo(front, kick, call, requests, chance) -> int:
    sent = received = waits = 0
    poll = select.poll()
    poll.register(call, select.POLLIN)
    while received < requests:
        batch = min(chance.randint(0, 4), requests - sent)
        sent += front.put_many(
            [(sent + i).to_bytes(8, "little") * 2 for i in range(batch)]
        )
        if front.publish():
            os.eventfd_write(kick, 1)
        for response in front.take():
            assert response == received.to_bytes(8, "little") + bytes(8)
            received += 1
        if front.in_flight and not front.final_check():
            waits += 1
            assert poll.poll(30_000), f"lost wake-up after {received} responses"
            os.eventfd_read(call)
    return waits


@all_starts
def test_no_wake_up_is_lost_between_processes(start):
    result = echo_through_another_process(4_000, start, seed=start + 1)
    assert result["responses"] == 4_000
    assert result["waits"] > 0


@pytest.mark.soak
def test_no_wake_up_is_lost_in_a_million_between_processes():
    assert echo_through_another_process(1_000_000, 2**32 - 2, seed=7)["waits"] > 0
