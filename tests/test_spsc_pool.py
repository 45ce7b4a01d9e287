"""Messages by reference: what the pool beside an SPSC ring holds, lends and bounds."""

from __future__ import annotations

import contextlib
import gc
import random
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rings import layout, spsc
from rings.errors import (
    BusyError,
    LayoutError,
    LocalProtocolError,
    RemoteProtocolError,
)

STARTS = [0, 2**31 - 2, 2**32 - 2]
KIB = 1024
POOL = 4 * 4096
RECORD = 24  # bytes of the ring that a reference takes


def a_ring(*, start=0, ring_bytes=1024, pool_bytes=POOL, inline_max=None):
    return spsc.create(
        ring_bytes=ring_bytes, pool_bytes=pool_bytes, inline_max=inline_max, start=start
    )


@contextlib.contextmanager
def all_three(**options):
    with (
        a_ring(**options) as ring,
        ring.producer() as producer,
        ring.consumer() as consumer,
    ):
        yield ring, producer, consumer


@contextlib.contextmanager
def both_ends(**options):
    with all_three(**options) as (_, producer, consumer):
        yield producer, consumer


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def poke(ring, offset, value, form="=Q"):
    struct.pack_into(form, ring.region.buffer, offset, value)


def in_pool(ring, size=POOL):
    offset = struct.unpack_from("=Q", ring.region.buffer, layout.SPSC_POOL_OFFSET)[0]
    return bytes(ring.region.buffer[offset : offset + size])


# -- putting and getting ---------------------------------------------------------


def test_longer_than_the_ring(start):
    with a_ring(start=start) as ring:
        assert ring.pool_size == POOL
        with ring.producer() as producer, ring.consumer() as consumer:
            assert producer.max_size == consumer.max_size == POOL
            for size in (1, 504, 505, 5000, POOL):
                data = noise(size)
                for _ in range(5):
                    assert producer.try_put(data)
                    assert consumer.try_get() == data
            with pytest.raises(ValueError, match=f"takes up to {POOL}"):
                producer.try_put(bytes(POOL + 1))
            with pytest.raises(ValueError, match="with more ring_bytes, or with pool"):
                producer.claim(POOL + 1)


def test_only_long_ones_take_pool():
    with all_three(inline_max=32) as (ring, producer, consumer):
        producer.put(b"i" * 32)
        assert set(in_pool(ring)) == {0}
        assert producer.depth == 5
        producer.put(b"r" * 33)
        assert in_pool(ring).startswith(b"r" * 33)
        assert producer.depth == 5 + RECORD // 8
        assert consumer.get_many() == [b"i" * 32, b"r" * 33]


def test_full_pool_is_no_room_and_frees_in_order(start):
    size = POOL // 4
    with both_ends(start=start) as (producer, consumer):
        for lap in range(9):
            sent = [noise(size, lap * 4 + i) for i in range(4)]
            assert producer.put_many([*sent, b"one too many" * 100]) == 4
            assert producer.try_put(b"x" * 600) is False
            assert producer.try_claim(600) is None
            assert producer.try_put(b"short ones still go")
            with pytest.raises(TimeoutError, match="no room"):
                producer.put(sent[0], timeout=0)
            assert consumer.get() == sent[0]
            assert producer.try_put(sent[0])
            rest = [*sent[1:], b"short ones still go", sent[0]]
            assert consumer.get_many() == rest


def test_a_message_in_one_piece_goes_to_the_beginning():
    with all_three() as (ring, producer, consumer):
        first, second, third = (noise(n * 4096, n) for n in (1, 2, 3))
        producer.put(first)
        producer.put(second)
        assert consumer.get() == first
        assert not producer.try_put(second)  # one page at either end
        assert producer.try_put(first)
        assert producer.try_put(first)
        assert not producer.try_put(bytes(505))
        assert consumer.get_many() == [second, first, first]
        assert producer.try_put(third)
        assert in_pool(ring).startswith(third)


def test_at_most_so_many_at_once():
    options = {"ring_bytes": 1 << 16, "pool_bytes": 1 << 16, "inline_max": 0}
    with both_ends(**options) as (producer, consumer):
        assert producer.put_many([b"x"] * 300) == 256
        assert consumer.get() == b"x"
        assert producer.put_many([b"y"] * 300) == 1
        assert consumer.get_many() == [b"x"] * 255 + [b"y"]
        assert producer.put_many([b"z"] * 300) == 256


def test_a_list_that_cannot_be_sent_takes_no_pool():
    with both_ends() as (producer, consumer):
        half = bytes(POOL // 2)
        producer.put(half)
        for _ in range(20):
            with pytest.raises(ValueError, match="cannot fit"):
                producer.put_many([bytes(3000), bytes(3000), bytes(POOL + 1)])
        assert producer.put_many([half, half]) == 1
        assert consumer.get_many() == [half, half]


def test_into_a_buffer():
    with both_ends() as (producer, consumer):
        data = noise(9000)
        producer.put(data)
        into = bytearray(9000)
        with pytest.raises(ValueError, match="9000 bytes and the buffer only 8999"):
            consumer.get_into(memoryview(into)[:8999])
        assert consumer.get_into(into) == 9000
        assert into == data


def test_huge_messages_copy_without_the_gil():
    size = 16 << 20
    with both_ends(pool_bytes=size, ring_bytes=64) as (producer, consumer):
        data = noise(size)
        producer.put(data)
        assert consumer.get() == data
        with producer.claim(size) as memory:
            memory[-4:] = b"last"
        with consumer.peek() as memory:
            assert len(memory) == size
            assert bytes(memory[-4:]) == b"last"


@pytest.mark.parametrize("wait", ["block", "spin:50", "busy"])
def test_each_side_waits_for_the_other(wait, start):
    """Without time-outs: a lost wake-up and this hangs."""
    rng = random.Random(start)
    sizes = [rng.choice([8, 400, 600, 3000, POOL // 2, POOL]) for _ in range(400)]

    def produce():
        with ring.producer(wait=wait) as producer:
            for number, size in enumerate(sizes):
                producer.put(bytes([number % 251]) * size)

    with a_ring(start=start) as ring, ring.consumer(wait=wait) as consumer:
        thread = threading.Thread(target=produce)
        thread.start()
        consumer.wait_peer()
        got = list(consumer)
        thread.join()
    assert [len(message) for message in got] == sizes
    assert all(set(m) == {number % 251} for number, m in enumerate(got))


# -- in place --------------------------------------------------------------------


def test_claim_and_peek_lie_in_the_pool():
    with all_three() as (ring, producer, consumer):
        with producer.claim(10_000) as memory:
            memory[:5] = b"first"
            assert in_pool(ring).startswith(b"first")
            with pytest.raises(LocalProtocolError, match="claim is out"):
                producer.put(bytes(600))
        with consumer.peek() as memory:
            assert memory.readonly
            assert memory[:5] == b"first"
            ring.region.buffer[
                struct.unpack_from("=Q", ring.region.buffer, layout.SPSC_POOL_OFFSET)[0]
            ] = ord("F")
            assert memory[:5] == b"First"  # no copy


def test_a_claim_in_part_or_not_at_all():
    with both_ends() as (producer, consumer):
        producer.put(bytes(4096))
        rest = POOL - 4096
        with pytest.raises(RuntimeError), producer.claim(rest):
            raise RuntimeError
        producer.try_claim(rest).abandon()
        producer.try_claim(rest)  # forgotten with its view
        gc.collect()
        producer.try_claim(rest).publish()
        assert consumer.get_many() == [bytes(4096), bytes(rest)]
        view = producer.claim(POOL)
        memoryview(view)[:3] = b"abc"
        with pytest.raises(ValueError, match=f"the view holds {POOL}, not {POOL + 1}"):
            view.publish(POOL + 1)
        view.publish(3)
        with producer.claim(POOL // 2) as memory:  # what was cut off is free again
            memory[:] = b"." * (POOL // 2)
        producer.claim(600).publish(0)
        assert consumer.get_many() == [b"abc", b"." * (POOL // 2), b""]
        assert producer.try_put(bytes(POOL))


def test_a_kept_view_keeps_its_block():
    with both_ends() as (producer, consumer):
        first, second = noise(POOL // 2, 1), noise(POOL // 2, 2)
        producer.put(first)
        view = consumer.peek()
        kept = memoryview(view)[100:200]
        for end in (view.release, consumer.release, consumer.close):
            with pytest.raises(BusyError, match="1 view"):
                end()
        assert producer.try_put(second)
        assert not producer.try_put(second)
        assert kept == first[100:200]
        kept.release()
        view.release()
        with pytest.raises(BufferError, match="over"):
            memoryview(view)
        assert producer.try_put(second)
        assert consumer.get_many() == [second, second]


def test_views_keep_the_memory_mapped():
    ring = a_ring()
    producer, consumer = ring.producer(), ring.consumer()
    producer.put(b"k" * 5000)
    kept = memoryview(consumer.peek())
    producer.close()
    del producer, consumer
    with pytest.raises(BusyError):
        ring.close()
    assert kept == b"k" * 5000
    del kept
    gc.collect()
    ring.close()


# -- successors ------------------------------------------------------------------


def test_a_successor_knows_what_is_lent(start):
    size = POOL // 4
    sent = [noise(size, i) for i in range(4)]
    with a_ring(start=start) as ring, ring.consumer() as consumer:
        for data in sent:
            with ring.producer() as producer:
                assert producer.try_put(data)
        with ring.producer() as producer:
            assert not producer.try_put(sent[0])
            assert consumer.get() == sent[0]
            assert producer.try_put(sent[0])
        assert consumer.get_many() == [*sent[1:], sent[0]]
        with ring.producer() as producer:
            assert producer.try_put(bytes(POOL))


def test_dropped_when_the_pool_is_full():
    with a_ring() as ring, ring.producer(policy="drop_new") as producer:
        assert producer.put(bytes(POOL)) is True
        assert producer.put(bytes(600)) is False
        assert producer.put(b"short") is True
        assert producer.statistics()["lost"] == 1
    with a_ring() as ring, ring.producer(policy="error") as producer:
        producer.put(bytes(POOL))
        with pytest.raises(TimeoutError):
            producer.put(bytes(600))


# -- against a plain list ----------------------------------------------------------


class Model(RuleBasedStateMachine):
    """Messages of all sizes in every way there is, with successors of both ends."""

    @initialize(
        start=st.sampled_from(STARTS),
        inline_max=st.sampled_from([None, 0, 64]),
        ring_bytes=st.sampled_from([64, 256, 2048]),
    )
    def create(self, start, inline_max, ring_bytes):
        self.ring = a_ring(start=start, inline_max=inline_max, ring_bytes=ring_bytes)
        self.producer, self.consumer = self.ring.producer(), self.ring.consumer()
        self.model, self.made = [], 0
        self.view = self.peeked = None

    def message(self, size):
        self.made += 1
        return random.Random(self.made).randbytes(size)

    @rule(size=st.integers(0, POOL))
    @precondition(lambda self: self.view is None)
    def put(self, size):
        data = self.message(size)
        if self.producer.try_put(data):
            self.model.append(data)
        else:
            assert self.model, "an empty ring has room for any message"

    @rule(sizes=st.lists(st.integers(0, POOL // 3), max_size=6))
    @precondition(lambda self: self.view is None)
    def put_many(self, sizes):
        batch = [self.message(size) for size in sizes]
        self.model += batch[: self.producer.put_many(batch)]

    @rule(size=st.integers(1, POOL))
    @precondition(lambda self: self.view is None)
    def claim(self, size):
        self.view = self.producer.try_claim(size)
        assert self.view is not None or self.model

    @rule(part=st.floats(0, 1))
    @precondition(lambda self: self.view is not None)
    def publish(self, part):
        count = int(len(self.view) * part)
        data = self.message(count)
        with memoryview(self.view) as memory:
            memory[:count] = data
        self.view.publish(count)
        self.model.append(data)
        self.view = None

    @rule()
    @precondition(lambda self: self.view is not None)
    def abandon(self):
        self.view.abandon()
        self.view = None

    @rule()
    @precondition(lambda self: self.peeked is None)
    def get(self):
        assert self.consumer.try_get() == (self.model.pop(0) if self.model else None)

    @rule(most=st.integers(0, 4))
    @precondition(lambda self: self.peeked is None)
    def get_many(self, most):
        assert self.consumer.get_many(most) == self.model[:most]
        del self.model[:most]

    @rule()
    @precondition(lambda self: self.peeked is None)
    def peek(self):
        self.peeked = self.consumer.try_peek()
        assert (self.peeked is None) == (not self.model)

    @rule()
    @precondition(lambda self: self.peeked is not None)
    def release(self):
        self.peeked.release()
        self.peeked = None
        del self.model[0]

    @rule()
    @precondition(lambda self: self.view is None)
    def another_producer(self):
        self.producer.close()
        self.producer = self.ring.producer()

    @rule()
    @precondition(lambda self: self.peeked is None)
    def another_consumer(self):
        self.consumer.close()
        self.consumer = self.ring.consumer()

    @invariant()
    def what_is_peeked_stays(self):
        if getattr(self, "peeked", None) is not None:
            assert bytes(self.peeked) == self.model[0]

    def teardown(self):
        if hasattr(self, "ring"):
            self.producer.close()
            self.consumer.close()
            self.ring.close()


Model.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestModel = Model.TestCase


# -- what the other end may have written --------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [(POOL + 64, 0), (0, POOL + 1), (POOL, 1), (2**64 - 64, 128), (64, 2**64 - 1)],
)
def test_references_past_the_pool_break_the_end(offset, length):
    with a_ring() as ring, ring.producer() as producer:
        producer.put(bytes(600))
        bytes_of_record = layout.SPSC_DATA + layout.SPSC_RECORD_HEADER
        poke(ring, bytes_of_record + layout.SPSC_REFERENCE_OFFSET, offset)
        poke(ring, bytes_of_record + layout.SPSC_REFERENCE_LENGTH, length)
        with ring.consumer() as consumer:
            for call in (consumer.try_get, consumer.get_many, consumer.peek):
                with pytest.raises(RemoteProtocolError):
                    call()
        producer.close()
        with pytest.raises(LayoutError, match="records are impossible"):
            ring.producer()


def test_a_reference_whose_line_ends_past_the_pool_is_refused():
    with a_ring(inline_max=0) as ring:
        with ring.producer() as producer:
            producer.put(b"12345")
        where = layout.SPSC_DATA + layout.SPSC_RECORD_HEADER
        poke(ring, where + layout.SPSC_REFERENCE_OFFSET, POOL - 10)
        with pytest.raises(LayoutError, match="records are impossible"):
            ring.producer()


def test_a_reference_in_a_ring_without_a_pool_breaks_the_end():
    with spsc.create(ring_bytes=256) as ring, ring.producer() as producer:
        producer.put(bytes(16))
        kind = layout.SPSC_DATA + layout.SPSC_RECORD_KIND
        poke(ring, kind, layout.SPSC_REFERENCE, "=I")
        with ring.consumer() as consumer, pytest.raises(RemoteProtocolError):
            consumer.try_get()


@settings(max_examples=300, deadline=None)
@given(
    pool=st.tuples(*[st.integers(0, 2**64 - 1) | st.integers(0, 20000)] * 2),
    inline_max=st.integers(0, 2**32 - 1),
)
def test_no_pool_lies_outside_the_region(pool, inline_max):
    with a_ring() as ring:
        numbers = (*pool, inline_max)
        struct.pack_into("=QQI", ring.region.buffer, layout.SPSC_POOL_OFFSET, *numbers)
        try:
            producer = ring.producer()
        except LayoutError:
            return
        with producer:
            assert producer.max_size <= ring.region.size
            producer.try_put(bytes(min(producer.max_size, 600)))


LINES = st.integers(0, POOL // 64).map(lambda n: n * 64)
AT_THE_END = st.integers(POOL - 70, POOL)
REFERENCE = (
    st.tuples(LINES, st.integers(0, POOL))
    | st.tuples(AT_THE_END, st.integers(0, 70))
    | st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
)


@settings(max_examples=300, deadline=None)
@given(records=st.lists(REFERENCE, max_size=4), sizes=st.lists(st.integers(1, POOL)))
def test_a_successor_believes_no_reference(records, sizes):
    """Whatever the records say: a LayoutError, or messages within the pool."""
    with a_ring(inline_max=0) as ring:
        at = layout.SPSC_DATA
        for offset, length in records:
            header = (16, layout.SPSC_REFERENCE, offset, length)
            struct.pack_into("=IIQQ", ring.region.buffer, at, *header)
            at += RECORD
        poke(ring, layout.SPSC_PROD, len(records) * 3, "=I")
        try:
            producer = ring.producer()
        except LayoutError:
            return
        with producer, ring.consumer() as consumer:
            for size in sizes:
                producer.try_put(bytes([1]) * size)
            assert len(consumer.get_many()) >= len(records)


def test_numbers_out_of_range():
    for options, what in (
        ({"pool_bytes": 4096}, "pool_bytes must come with ring_bytes"),
        ({"ring_bytes": 64, "pool_bytes": -1}, "pool_bytes must be in"),
        ({"ring_bytes": 64, "inline_max": 8}, "inline_max must be"),
        ({"ring_bytes": 64, "pool_bytes": 1, "inline_max": -1}, "inline_max must be"),
    ):
        with pytest.raises(ValueError, match=what):
            spsc.create(**options)
