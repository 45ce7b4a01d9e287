"""Every consumer sees every message, or knows exactly how many it did not."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rings import broadcast, layout
from rings.errors import (
    BrokenError,
    BusyError,
    ClosedError,
    LayoutError,
    RemoteProtocolError,
    ShutDown,
)

from .test_spsc_death import HANG_S, child

STARTS = (0, 2**31 - 2, 2**32 - 2)


def number(n):
    return n.to_bytes(8, "little")


@pytest.mark.parametrize("policy", ["block", "drop_old"])
def test_each_sees_all_from_when_it_joined(policy, start):
    with (
        broadcast.create(slots=8, slot_size=20, policy=policy, start=start) as ring,
        ring.producer() as producer,
        ring.consumer() as early,
    ):
        producer.put(b"one")
        with ring.consumer() as late:
            for data in (b"", b"two", b"x" * 20):
                producer.put(data)
            assert early.get_many(9) == [b"one", b"", b"two", b"x" * 20]
            assert [late.get() for _ in range(3)] == [b"", b"two", b"x" * 20]
            assert late.try_get() is early.try_get() is None
            assert late.lost == early.lost == 0
        with pytest.raises(ValueError, match="up to 20 bytes, not 21"):
            producer.put(bytes(21))


def test_drop_old_counts_exactly(start):
    with (
        broadcast.create(slots=4, slot_size=8, start=start) as ring,
        ring.producer() as producer,
        ring.consumer() as consumer,
        ring.consumer(latest=True) as latest,
    ):
        assert producer.put_many([number(i) for i in range(10)]) == 4
        for n in range(4, 10):
            assert producer.try_put(number(n))
        got = consumer.get_many(99)
        assert got == [number(n) for n in (7, 8, 9)]
        assert consumer.lost == 7
        assert latest.get() == number(9)
        assert latest.lost == 9
        assert latest.try_get() is None
        assert [row[2] for row in producer.consumers()] == [7, 9]


def test_block_waits_for_the_slowest(start):
    with (
        broadcast.create(slots=4, slot_size=8, policy="block", start=start) as ring,
        ring.producer() as producer,
        ring.consumer() as slow,
        ring.consumer() as quick,
    ):
        assert producer.put_many([number(i) for i in range(9)]) == 4
        assert len(quick.get_many(9)) == 4
        assert producer.try_put(number(4)) is False
        with pytest.raises(TimeoutError, match=f"pid {os.getpid()}, is 4 messages"):
            producer.put(number(4), timeout=0.05)
        assert slow.get() == number(0)
        producer.put(number(4))
        slow.close()
        assert producer.put_many([number(5), number(6), number(7), number(8)]) == 3
        assert quick.get_many(9) == [number(n) for n in (4, 5, 6, 7)]


def test_nobody_there_means_nobody_to_wait_for():
    with (
        broadcast.create(slots=2, slot_size=8, policy="block") as ring,
        ring.producer() as producer,
    ):
        for n in range(10):
            producer.put(number(n))
        with ring.consumer() as consumer:
            assert consumer.try_get() is None


@settings(max_examples=150, deadline=None)
@given(
    block=st.booleans(),
    start=st.sampled_from(STARTS),
    steps=st.lists(st.tuples(st.sampled_from("pPgGjl"), st.integers(0, 9))),
)
def test_like_a_plain_list(block, start, steps):
    """Against one list and a position for each consumer."""
    policy = "block" if block else "drop_old"
    sent: list[bytes] = []
    joined = []
    with (
        broadcast.create(
            slots=4, slot_size=8, consumers=3, policy=policy, start=start
        ) as ring,
        ring.producer() as producer,
    ):

        def take(who, most):
            consumer, at, lost = who
            if not block and len(sent) - at > 4:
                skipped = len(sent) - 3 - at
                at, lost = at + skipped, lost + skipped
            expected = sent[at : at + most]
            assert consumer.get_many(most) == expected
            if most > 0:
                assert consumer.lost == lost
                who[1:] = [at + len(expected), lost]

        for step, n in steps:
            if step in "pP":
                batch = [number(len(sent) + i) for i in range(n if step == "P" else 1)]
                sent += batch[: producer.put_many(batch)]
            elif step == "j" and len(joined) < 3:
                joined.append([ring.consumer(), len(sent), 0])
            elif step == "l" and joined:
                joined.pop(n % len(joined))[0].close()
            elif joined:
                take(joined[n % len(joined)], n if step == "G" else 1)
        for who in joined:
            take(who, 99)
            who[0].close()


@pytest.mark.parametrize("wait", ["block", "spin:20"])
def test_threads_that_wait(wait):
    ring = broadcast.create(slots=2, slot_size=8, policy="block")
    got: list[list[bytes]] = [[], []]
    consumers = [ring.consumer(wait=wait) for _ in got]
    threads = [
        threading.Thread(target=lambda i=i: got[i].extend(consumers[i]))
        for i in range(2)
    ]
    with ring.producer(wait=wait) as producer:
        for thread in threads:
            thread.start()
        for n in range(200):
            producer.put(number(n))
    for thread in threads:
        thread.join()
    assert got == [[number(n) for n in range(200)]] * 2
    for consumer in consumers:
        with pytest.raises(ShutDown):
            consumer.get()
        consumer.close()
    ring.close()


def pattern(n, size):
    return struct.pack("=Q", n) + bytes([n % 253]) * (size - 8)


def storm(ring, size, seed):
    """Put self-checking messages of changing sizes, as fast as it goes."""
    rng = random.Random(seed)
    sizes = [rng.randrange(8, size) for _ in range(1024)]
    producer = ring.producer()
    n = 0
    while True:
        producer.try_put(pattern(n, sizes[n % 1024]))
        n += 1


def test_overtaken_while_reading_is_never_torn(start):
    """Two slots of 40 kB: nearly every copy is overtaken, none is delivered torn."""
    with (
        broadcast.create(slots=2, slot_size=40_000, start=start) as ring,
        ring.consumer() as consumer,
        child(storm, ring, 40_000, start),
    ):
        last = -1
        for _ in range(400):
            data = consumer.get(HANG_S)
            (n,) = struct.unpack_from("=Q", data)
            assert data == pattern(n, len(data)), "torn"
            assert n > last
            last = n
        assert last + 1 == 400 + consumer.lost


def test_a_killed_producer_is_replaced():
    with (
        broadcast.create(slots=8, slot_size=500) as ring,
        ring.consumer() as consumer,
    ):
        for seed in range(50):
            with child(storm, ring, 500, seed) as pid:
                while consumer._core.producer_state() != pid:
                    time.sleep(0.001)
                for _ in range(seed):
                    whole(consumer.get(HANG_S))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            with pytest.raises(BrokenError, match="died"):
                drain(consumer)


def drain(consumer):
    while True:
        whole(consumer.get(HANG_S))


def whole(data):
    assert data == pattern(struct.unpack_from("=Q", data)[0], len(data))


def test_a_killed_consumer_holds_nobody_up():
    with (
        broadcast.create(slots=2, slot_size=8, policy="block", consumers=2) as ring,
        ring.producer() as producer,
        ring.consumer() as survivor,
    ):
        for _ in range(30):
            with child(lambda: (ring.consumer(), time.sleep(60))) as pid:
                while pid not in [row[0] for row in producer.consumers()]:
                    time.sleep(0.001)
                assert producer.put_many([number(1), number(2)]) == 2
                survivor.get_many(9)
                assert producer.try_put(number(3)) is False
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                producer.put(number(3), HANG_S)
                assert survivor.get() == number(3)
        assert survivor.lost == 0


def test_ends_and_damage():
    ring = broadcast.create(slots=2, slot_size=8, consumers=1)
    with ring.producer() as producer, ring.consumer() as consumer:
        with pytest.raises(BusyError, match=f"pid {os.getpid()}, alive"):
            ring.producer()
        with pytest.raises(BusyError, match="all 1 consumer"):
            ring.consumer()
        with pytest.raises(TimeoutError, match=f"producer is pid {os.getpid()}"):
            consumer.get(0.01)
        producer.put(number(1))
        slot = struct.unpack_from("=Q", ring.region.buffer, 80)[0]
        struct.pack_into("=I", ring.region.buffer, slot + 8, 9)
        with pytest.raises(RemoteProtocolError):
            consumer.try_get()
        struct.pack_into("=Q", ring.region.buffer, slot, 0)
        with pytest.raises(RemoteProtocolError):
            consumer.get_many(1)
        struct.pack_into("=Q", ring.region.buffer, layout.BROADCAST_PROD, 2**63)
        consumer._core.has_message()
    fd, size, space, events = ring.handle()
    with pytest.raises(LayoutError, match="1 eventfds, not 2"):
        broadcast.attach(fd, size, space, events * 2)
    for call in (lambda: producer.try_put(b""), consumer.try_get):
        with pytest.raises(ClosedError, match="take it again"):
            call()
    ring.close()


@settings(max_examples=150, deadline=None)
@given(damage=st.binary(min_size=24, max_size=24), prod=st.integers(0, 2**64 - 1))
def test_no_header_reads_outside_the_region(damage, prod):
    with broadcast.create(slots=2, slot_size=8) as ring:
        ring.region.buffer[64:88] = damage
        try:
            consumer = ring.consumer()
        except LayoutError:
            return
        with consumer:
            struct.pack_into("=Q", ring.region.buffer, layout.BROADCAST_PROD, prod)
            with contextlib.suppress(RemoteProtocolError):
                assert len(consumer.get_many(5)) <= 5


def test_numbers_out_of_range_and_attach():
    for options in (
        {"slots": 1},
        {"slots": 3},
        {"slot_size": 0},
        {"consumers": 65},
        {"policy": "hope"},
        {"start": -1},
    ):
        with pytest.raises(ValueError, match="must be"):
            broadcast.create(**options)
    with (
        broadcast.create(slots=2, slot_size=8) as ring,
        broadcast.attach(*ring.handle()) as twin,
        ring.producer() as producer,
        twin.consumer() as consumer,
    ):
        assert consumer.arm() is False
        producer.put(number(1))
        assert os.eventfd_read(consumer.fileno()) == 1
        assert consumer.arm() is True
        assert consumer.get() == number(1)
