"""The message ring in one process: what it holds, refuses, lends out and counts."""

from __future__ import annotations

import gc
import os
import random
import signal
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rings import broadcast, layout, mpmc, spsc
from rings.errors import (
    BusyError,
    ClosedError,
    LayoutError,
    LocalProtocolError,
    RemoteProtocolError,
    ShutDown,
)

STARTS = [0, 2**31 - 2, 2**32 - 2]


class Pair:
    """A ring with both ends taken, closed in order."""

    def __init__(self, *, policy="block", **options):
        self.ring = spsc.create(**options)
        self.producer = self.ring.producer(policy=policy)
        self.consumer = self.ring.consumer()

    def __enter__(self):
        return self.producer, self.consumer

    def __exit__(self, *exc):
        self.producer.close()
        self.consumer.close()
        self.ring.close()


def number(n, size=8):
    return n.to_bytes(size, "little")


def poke(ring, offset, value, form="=I"):
    struct.pack_into(form, ring.region.buffer, offset, value)


# -- fixed-size messages -------------------------------------------------------


def test_fixed_in_order_and_full(start):
    with Pair(slots=4, slot_size=8, start=start) as (producer, consumer):
        for lap in range(5):
            assert [producer.try_put(number(lap * 4 + i)) for i in range(4)] == [1] * 4
            assert producer.try_put(number(99)) is False
            assert consumer.depth == producer.depth == 4
            assert [consumer.try_get() for _ in range(4)] == [
                number(lap * 4 + i) for i in range(4)
            ]
            assert consumer.try_get() is None


def test_fixed_takes_exactly_its_size():
    with Pair(slots=4, slot_size=8) as (producer, consumer):
        for wrong in (b"", b"1234567", b"123456789"):
            with pytest.raises(ValueError, match=f"exactly 8 bytes, not {len(wrong)}"):
                producer.try_put(wrong)
        with pytest.raises(ValueError, match="12 bytes are not a whole number"):
            producer.put_many(bytes(12))
        assert consumer.try_get() is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_contiguous_buffer_is_a_message(kind):
    with Pair(slots=4, slot_size=8) as (producer, consumer):
        assert producer.put(kind(b"12345678"))
        assert consumer.get() == b"12345678"
        with pytest.raises((BufferError, TypeError)):
            producer.put(memoryview(bytes(16))[::2])
        with pytest.raises(TypeError):
            producer.put("12345678")


def test_batches_wrap_and_say_how_many(start):
    with Pair(slots=8, slot_size=16, start=start) as (producer, consumer):
        data = random.Random(1).randbytes(16 * 11)
        into = bytearray(16 * 20)
        for step in (3, 5, 8):
            assert producer.put_many(data[: step * 16]) == step
            assert consumer.get_into(into) == step * 16
            assert into[: step * 16] == data[: step * 16]
        assert producer.put_many(data) == 8
        assert producer.put_many(data) == 0
        assert consumer.get_into(memoryview(into)[:40]) == 32
        assert consumer.get_many(3) == [data[i * 16 :][:16] for i in (2, 3, 4)]
        assert consumer.get_many(0) == []
        assert b"".join(consumer.get_many()) == data[5 * 16 : 8 * 16]
        assert consumer.get_into(into) == 0


def test_lists_are_all_or_nothing_when_wrong(start):
    with Pair(slots=4, slot_size=8, start=start) as (producer, consumer):
        with pytest.raises(ValueError, match="exactly 8"):
            producer.put_many([number(1), number(2), b"short"])
        assert consumer.depth == 0
        assert producer.put_many([number(i) for i in range(6)]) == 4
        assert consumer.get_many() == [number(i) for i in range(4)]
        assert producer.put_many((number(7), bytearray(number(8)))) == 2
        assert consumer.get_many() == [number(7), number(8)]
        with pytest.raises(TypeError, match="list or tuple"):
            producer.put_many(number(i) for i in range(3))
        assert producer.put_many([]) == producer.put_many(b"") == 0


def test_a_buffer_method_cannot_reenter_the_end():
    class Sly(list):
        pass

    with Pair(slots=4, slot_size=8) as (producer, _):
        items: list[object] = [bytearray(8)]
        items.append(items)  # a list is no message
        with pytest.raises(TypeError):
            producer.put_many(items)
        assert producer.depth == 0
        assert producer.put_many(Sly([number(1)])) == 1


def test_big_slots_copy_without_the_gil():
    size = 300_000
    with Pair(slots=2, slot_size=size) as (producer, consumer):
        data = random.Random(2).randbytes(size * 2)
        assert producer.put_many(data) == 2
        assert consumer.get() == data[:size]
        assert producer.put(data[:size])
        into = bytearray(2 * size)
        assert consumer.get_into(into) == 2 * size
        assert into == data[size:] + data[:size]


# -- records -------------------------------------------------------------------


def test_records_of_any_length(start):
    with Pair(ring_bytes=256, start=start) as (producer, consumer):
        assert producer.max_size == 120
        for n in list(range(121)) * 3:
            assert producer.put(bytes([n]) * n)
            assert consumer.get() == bytes([n]) * n


def test_too_long_a_record_says_how_long_it_may_be():
    with Pair(ring_bytes=256) as (producer, _):
        for call in (producer.try_put, producer.put, lambda m: producer.put_many([m])):
            with pytest.raises(ValueError, match=r"121 bytes cannot fit.*up to 120"):
                call(bytes(121))
        with pytest.raises(TypeError, match="list"):
            producer.put_many(bytes(16))


def test_a_longest_record_fits_an_empty_ring_anywhere():
    for at in range(32):
        with Pair(ring_bytes=256, start=at) as (producer, consumer):
            assert producer.try_put(b"x" * 120)
            assert consumer.try_get() == b"x" * 120


def test_record_into_a_buffer(start):
    with Pair(ring_bytes=256, start=start) as (producer, consumer):
        producer.put_many([b"abc", b"", b"0123456789"])
        into = bytearray(9)
        assert consumer.get_into(into) == 3
        assert consumer.get_into(into) == 0
        with pytest.raises(ValueError, match="10 bytes and the buffer only 9"):
            consumer.get_into(into)
        assert consumer.get() == b"0123456789"


@settings(max_examples=150, deadline=None)
@given(
    records=st.booleans(),
    start=st.sampled_from(STARTS) | st.integers(0, 2**32 - 1),
    steps=st.lists(
        st.tuples(st.sampled_from("pPcCgG"), st.integers(0, 40)), max_size=60
    ),
)
def test_like_a_plain_list(records, start, steps):
    """Every call against a model that is a list and a budget of units."""
    options = {"ring_bytes": 256} if records else {"slots": 8, "slot_size": 8}
    made = 0
    model: list[bytes] = []

    def message(n):
        nonlocal made
        made += 1
        return number(made) * (n % 6) + b"." * n if records else number(made)

    with Pair(start=start, **options) as (producer, consumer):
        for step, n in steps:
            if step == "p":
                data = message(n)
                if producer.try_put(data):
                    model.append(data)
                else:
                    assert model
            elif step == "P":
                batch = [message(n) for _ in range(n % 7)]
                model += batch[: producer.put_many(batch)]
            elif step == "c":
                if (view := producer.try_claim(n + 1 if records else 1)) is not None:
                    data = message(n)[: len(view)]
                    with view as memory:
                        memory[: len(data)] = data
                        if records:
                            memory[len(data) :] = bytes(len(view) - len(data))
                    model.append(data.ljust(len(view), b"\0"))
            elif step == "C":
                got = consumer.try_peek()
                assert (got is None) == (not model)
                if got is not None:
                    assert bytes(got) == model[0]
                    got.release()
                    del model[0]
            elif step == "g":
                assert consumer.try_get() == (model.pop(0) if model else None)
            else:
                taken = consumer.get_many(n)
                assert taken == model[:n]
                del model[:n]
        assert consumer.get_many() == model


# -- views ---------------------------------------------------------------------


def test_claim_and_peek_in_place(start):
    with Pair(slots=4, slot_size=8, start=start) as (producer, consumer):
        with producer.claim(2) as memory:
            memory[:8] = number(5)
            assert consumer.try_get() is None
        with consumer.peek(4) as memory:
            assert memory.readonly
            assert bytes(memory[:8]) == number(5)
            with pytest.raises(LocalProtocolError, match=r"release\(\) it first"):
                consumer.try_get()
        assert consumer.depth == 0


def test_claims_end_at_the_wrap():
    with Pair(slots=4, slot_size=8, start=3) as (producer, consumer):
        view = producer.claim(3)
        assert (len(view), view.messages) == (8, 1)
        view.publish()
        view = producer.claim(9)
        assert view.messages == 3
        view.publish(2)
        assert producer.depth == 3
        assert [consumer.peek(9).messages for _ in range(2)] == [1, 1]


def test_a_claim_in_part_or_not_at_all():
    with Pair(ring_bytes=256) as (producer, consumer):
        view = producer.claim(100)
        memoryview(view)[:3] = b"abc"
        producer.publish(3)
        with pytest.raises(ClosedError, match="over"):
            view.publish()
        with pytest.raises(RuntimeError), producer.claim(50):
            raise RuntimeError
        producer.claim(20).abandon()
        producer.try_claim(20)  # forgotten with its view
        with pytest.raises(ValueError, match="the view holds 5, not 6"):
            producer.claim(5).publish(6)
        with pytest.raises(LocalProtocolError, match=r"claim\(\) first"):
            producer.publish()
        assert consumer.get_many() == [b"abc"]


def test_an_error_while_peeking_leaves_the_message():
    with Pair(slots=4, slot_size=8) as (producer, consumer):
        producer.put(number(1))
        with pytest.raises(RuntimeError), consumer.peek():
            raise RuntimeError
        assert consumer.get() == number(1)


def test_a_kept_view_never_sees_the_next_message():
    with Pair(slots=1, slot_size=8) as (producer, consumer):
        producer.put(number(1))
        view = consumer.peek()
        kept = memoryview(view)[2:]
        assert view.exports == 1
        for end in (view.release, consumer.release, consumer.close):
            with pytest.raises(BusyError, match="1 view"):
                end()
        assert producer.try_put(number(2)) is False
        assert bytes(kept) == number(1)[2:]
        kept.release()
        view.release()
        with pytest.raises(BufferError, match="over"):
            memoryview(view)
        assert producer.try_put(number(2))


def test_a_slice_kept_past_with_holds_the_slot():
    with Pair(slots=1, slot_size=8) as (producer, consumer):
        view = producer.claim()
        with pytest.raises(BusyError, match="1 view"), view as memory:
            kept = memory[1:3]
        assert bytes(kept) == bytes(2)
        kept.release()
        producer.publish()
        assert consumer.try_get() is not None
        with pytest.raises(ValueError, match="released"):
            memory[0] = 1


def test_views_keep_the_memory_mapped():
    ring = spsc.create(slots=1, slot_size=8)
    consumer = ring.consumer()
    with ring.producer() as producer:
        producer.put(number(1))
    view = memoryview(consumer.peek())
    del consumer
    with pytest.raises(BusyError):
        ring.close()
    assert bytes(view) == number(1)
    view.release()
    gc.collect()
    ring.close()


def test_an_abandoned_with_is_collected():
    ring = spsc.create(slots=1, slot_size=8)
    producer = ring.producer()
    producer.claim().__enter__()
    del producer
    gc.collect()
    ring.close()


# -- waiting and policies ------------------------------------------------------


def test_timeouts_name_the_peer():
    with Pair(slots=1, slot_size=8) as (producer, consumer):
        with pytest.raises(TimeoutError, match=rf"producer is pid {os.getpid()} \(ali"):
            consumer.get(timeout=0.01)
        with pytest.raises(TimeoutError):
            consumer.peek(1, 0)
        producer.put(number(1))
        with pytest.raises(TimeoutError, match=r"no room.*1 of 1 units"):
            producer.put(number(2), 0.01)
        with pytest.raises(TimeoutError):
            producer.claim(timeout=0)
        assert producer.put_many([number(2)], 0.01) == 0
        assert consumer.get_many() == [number(1)]
        assert consumer.get_many(timeout=0.01) == []
        with pytest.raises(ValueError, match="NaN"):
            consumer.get(float("nan"))
        with pytest.raises(TypeError):
            consumer.get(timeout="soon")
        with pytest.raises(TypeError, match="the arguments are"):
            consumer.get(0, 0)
        with pytest.raises(TypeError, match="the arguments are"):
            producer.put(number(1), wait=3)


@pytest.mark.parametrize("wait", ["block", "spin:20", "busy"])
def test_both_sides_wait_for_each_other(wait, start):
    ring = spsc.create(slots=2, slot_size=8, start=start)
    count = 300

    def produce():
        with ring.producer(wait=wait) as producer:
            for i in range(count):
                producer.put(number(i), timeout=30)

    thread = threading.Thread(target=produce)
    with ring.consumer(wait=wait) as consumer:
        thread.start()
        assert list(consumer) == [number(i) for i in range(count)]
        with pytest.raises(ShutDown):
            consumer.get()
    thread.join()
    ring.close()


def test_policies():
    with Pair(slots=1, slot_size=8, policy="drop_new") as (producer, consumer):
        assert [producer.put(number(i)) for i in range(4)] == [True] + [False] * 3
        assert producer.statistics()["lost"] == consumer.statistics()["lost"] == 3
        assert consumer.get() == number(0)
    with Pair(slots=1, slot_size=8, policy="error") as (producer, consumer):
        producer.put(number(0))
        with pytest.raises(TimeoutError):
            producer.put(number(1))
    with spsc.create() as ring, pytest.raises(ValueError, match="broadcast"):
        ring.producer(policy="drop_old")


def test_a_signal_handler_ends_a_wait_and_harms_nothing():
    def handler(number, frame):
        with pytest.raises(BusyError):
            consumer.try_get()
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, handler)
    with Pair(slots=1, slot_size=8) as (producer, consumer):
        for call in (consumer.get, consumer.peek, consumer.wait_peer):
            if call == consumer.wait_peer:
                producer.close()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                call()
        assert consumer.try_get() is None
    signal.signal(signal.SIGALRM, old)


def test_close_wakes_a_sleeper_of_another_thread():
    ring = spsc.create(slots=1, slot_size=8)
    consumer = ring.consumer()
    producer = ring.producer()
    caught = []

    def sleep():
        try:
            consumer.get()
        except ClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    while consumer.statistics()["waited"] == 0:
        pass
    with pytest.raises(BusyError, match="another thread"):
        try_until_it_raises(consumer)
    consumer.close()
    thread.join()
    assert len(caught) == 1
    assert consumer.closed
    producer.close()
    ring.close()


def try_until_it_raises(consumer):
    while True:
        consumer.try_get()


def test_closed_peers_are_told_apart():
    ring = spsc.create(slots=1, slot_size=8)
    producer, consumer = ring.producer(), ring.consumer()
    producer.put(number(1))
    producer.close()
    assert consumer.get() == number(1)
    with pytest.raises(ShutDown, match="every message was taken"):
        consumer.get()
    producer = ring.producer()
    producer.put(number(2))
    consumer.close()
    with pytest.raises(ConnectionError, match="consumer closed"):
        producer.put(number(3))
    consumer = ring.consumer()
    assert consumer.get() == number(2)
    producer.close()
    consumer.close()
    for call in (producer.statistics, consumer.try_get, producer.fileno):
        with pytest.raises(ClosedError, match="take the end again"):
            call()
    ring.close()


def test_arm_for_an_event_loop():
    with Pair(slots=2, slot_size=8) as (producer, consumer):
        consumer.clear()
        assert consumer.arm() is False
        with pytest.raises(BlockingIOError):
            os.eventfd_read(consumer.fileno())
        producer.put(number(1))
        assert os.eventfd_read(consumer.fileno()) == 1
        producer.put(number(2))
        with pytest.raises(BlockingIOError):
            os.eventfd_read(consumer.fileno())
        assert consumer.arm() is True
        producer.clear()
        assert producer.arm() is False
        consumer.get_many()
        assert os.eventfd_read(producer.fileno()) == 1


def test_no_event_while_nobody_sleeps():
    with Pair(slots=64, slot_size=8) as (producer, consumer):
        before = producer.statistics()["notified"]
        for _ in range(1000):
            producer.put(number(1))
            consumer.get()
        assert producer.statistics()["notified"] == before
        assert consumer.statistics()["messages"] == 1000


# -- ends and damage -----------------------------------------------------------


def test_an_end_is_taken_once():
    with Pair(slots=1, slot_size=8) as (producer, consumer):
        assert producer.peer_pid == consumer.peer_pid == os.getpid()
    alive = f"pid {os.getpid()}, alive"
    with (
        spsc.create() as ring,
        ring.producer(),
        pytest.raises(BusyError, match=alive),
    ):
        ring.producer()
    with spsc.create() as ring:
        for generation in (1, 2, 3):
            with ring.consumer() as consumer:
                assert consumer.statistics()["generation"] == generation


def test_impossible_indices_break_the_end(start):
    for offset in (3, -1):
        ring = spsc.create(slots=2, slot_size=8, start=start)
        with ring.consumer() as victim:
            poke(ring, layout.SPSC_PROD, (start + offset) % 2**32)
            for call in (victim.try_get, victim.get_many, victim.get, victim.peek):
                with pytest.raises(RemoteProtocolError, match="impossible"):
                    call()
        ring.close()
    ring = spsc.create(slots=2, slot_size=8, start=start)
    with ring.producer() as victim:
        victim.put_many([number(1)] * 2)
        poke(ring, layout.SPSC_CONS, (start + 3) % 2**32)
        for call in (victim.try_put, victim.put):
            with pytest.raises(RemoteProtocolError, match="impossible"):
                call(number(1))
    ring.close()


@pytest.mark.parametrize(
    ("length", "kind"), [(2**32 - 1, 0), (24, 0), (200, 0), (8, 7), (0, 1), (0, 2**31)]
)
def test_impossible_records_break_the_end(length, kind):
    with spsc.create(ring_bytes=256) as ring, ring.producer() as producer:
        producer.put(b"12345678")
        poke(ring, layout.SPSC_DATA, length)
        poke(ring, layout.SPSC_DATA + 4, kind)
        with ring.consumer() as consumer:
            for call in (consumer.try_get, consumer.get_many, consumer.peek):
                with pytest.raises(RemoteProtocolError):
                    call()


@settings(max_examples=200, deadline=None)
@given(damage=st.binary(min_size=32, max_size=32), words=st.binary(max_size=256))
def test_no_header_reads_outside_the_region(damage, words):
    """Whatever the numbers say: an exception, or bytes of this very region."""
    with spsc.create(ring_bytes=256) as ring:
        ring.region.buffer[64:96] = damage
        ring.region.buffer[layout.SPSC_DATA :][: len(words)] = words
        try:
            consumer = ring.consumer()
        except LayoutError:
            return
        with consumer:
            poke(ring, layout.SPSC_PROD, 5)
            try:
                consumer.get_many(50)
            except RemoteProtocolError:
                return


@settings(max_examples=200, deadline=None)
@given(words=st.binary(min_size=256, max_size=256), prod=st.integers(0, 2**32 - 1))
def test_no_record_reads_outside_the_ring(words, prod):
    with spsc.create(ring_bytes=256) as ring, ring.consumer() as consumer:
        ring.region.buffer[layout.SPSC_DATA :][:256] = words
        poke(ring, layout.SPSC_PROD, prod)
        try:
            taken = consumer.get_many()
        except RemoteProtocolError:
            return
        assert all(message in words for message in taken)


def test_numbers_out_of_range():
    for options in (
        {"slots": 3},
        {"slots": 0},
        {"slot_size": 0},
        {"ring_bytes": 63},
        {"ring_bytes": 96},
        {"start": 2**32},
    ):
        with pytest.raises(ValueError, match="must be"):
            spsc.create(**options)
    with spsc.create() as ring:
        with pytest.raises(ValueError, match="unknown waiting strategy"):
            ring.consumer(wait="sleepily")
        fd, size, data, space = ring.handle()
        with pytest.raises(LayoutError):
            spsc.attach(fd, size + 1, data, space)


def test_attach_by_numbers():
    with spsc.create(slots=2, slot_size=8) as ring, spsc.attach(*ring.handle()) as twin:
        assert (twin.slots, twin.slot_size) == (2, 8)
        assert "2 slots of 8 bytes" in repr(twin)
        with ring.producer() as producer, twin.consumer() as consumer:
            producer.put(number(1))
            assert consumer.get() == number(1)
            with pytest.raises(BusyError):
                ring.consumer()
    with pytest.raises(ClosedError):
        ring.producer()
    assert repr(ring) == "<spsc.Ring closed>"


@pytest.mark.parametrize("rings_of", [spsc, mpmc, broadcast])
def test_every_ring_is_made_and_attached_alike(rings_of):
    with (
        rings_of.create(slots=4, slot_size=8) as ring,
        rings_of.attach(*ring.handle()) as twin,
        twin.consumer() as consumer,
        ring.producer() as producer,
    ):
        producer.put(number(1))
        assert consumer.get() == number(1)


@pytest.mark.parametrize("create", [spsc.create, mpmc.create, broadcast.create])
def test_what_went_wrong_inside_is_worth_more_than_busy(create):
    with pytest.raises(ZeroDivisionError), create() as ring:  # noqa: PT012
        end = ring.consumer()
        raise ZeroDivisionError
    with pytest.raises(BusyError), ring:
        pass
    end.close()
    ring.close()


def test_end_layout_is_as_documented():
    with spsc.create() as ring, ring.producer() as producer:
        start = layout.SPSC_PRODUCER + layout.END_OWNER
        owner = struct.unpack_from("=Q", ring.region.buffer, start)[0]
        assert owner & ((1 << layout.END_PID_BITS) - 1) == os.getpid()
        producer.close()
        owner = struct.unpack_from("=Q", ring.region.buffer, start)[0]
        assert owner == layout.END_CLOSED
