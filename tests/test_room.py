"""Who waits for room is told when an eighth is free, and looks by itself."""

import asyncio
import os
import threading
from contextlib import contextmanager, suppress

import pytest

import rings
from rings import aio, mpmc, spsc

from .served import until

KINDS = ("fixed", "records", "mpmc")
SLOTS = 64
FEW = 8
MESSAGE = bytes(8)  # 16 bytes as a record


def create(kind, slots=SLOTS, limit=0):
    if kind == "mpmc":
        return mpmc.create(slots=slots, slot_size=8, limit=limit)
    if kind == "records":
        return spsc.create(ring_bytes=16 * SLOTS)
    return spsc.create(slots=SLOTS, slot_size=8)


def times_told(ring, consumer):
    """Return how often producers have been told of room."""
    if isinstance(ring, spsc.Ring):
        return consumer.statistics()["notified"]
    with suppress(BlockingIOError):
        times_told.mpmc += os.eventfd_read(ring.not_full_fd)
    return times_told.mpmc


times_told.mpmc = 0


@contextmanager
def waiting_for_room(kind, **shape):
    """Yield a full ring, its consumer, and a thread that waits to put one more."""
    with (
        create(kind, **shape) as ring,
        ring.producer() as producer,
        ring.consumer() as consumer,
    ):
        while producer.try_put(MESSAGE):
            pass
        thread = threading.Thread(target=producer.put, args=(MESSAGE,))
        thread.start()
        until(lambda: asleep(thread), "the producer sleeps")
        try:
            yield ring, consumer, thread
        finally:
            while thread.is_alive():
                consumer.try_get()
            thread.join()


def asleep(thread):
    with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
        return file.read().split()[0] in {"232", "281", "22"}  # epoll_wait, _pwait


@pytest.mark.parametrize("kind", KINDS)
def test_a_producer_is_told_once_an_eighth_is_free(kind):
    with waiting_for_room(kind) as (ring, consumer, thread):
        before = times_told(ring, consumer)
        for _ in range(FEW - 1):
            assert consumer.try_get() is not None
            assert times_told(ring, consumer) == before
        # By its own look it may have put already, and wait no more.
        until(lambda: not thread.is_alive(), "the producer has looked by itself")
        assert times_told(ring, consumer) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_that_makes_an_eighth_free_tells(kind):
    """Tried until the producer has not looked by itself in between."""
    for _ in range(100):
        with waiting_for_room(kind) as (ring, consumer, thread):
            before = times_told(ring, consumer)
            for _ in range(FEW):
                consumer.try_get()
            if times_told(ring, consumer) == before + 1:
                thread.join()
                return
    pytest.fail("nobody told the producer, ever")


@pytest.mark.parametrize("limit", [2, 8, 15])
def test_in_a_small_ring_each_free_slot_tells(limit):
    for _ in range(100):
        with waiting_for_room("mpmc", slots=16, limit=limit) as (ring, consumer, _):
            before = times_told(ring, consumer)
            consumer.get()
            if times_told(ring, consumer) == before + 1:
                return
    pytest.fail("nobody told the producer, ever")


@pytest.mark.parametrize(("limit", "longest_s"), [(15, 1.0), (16, 0.05)])
def test_an_event_loop_looks_by_itself_where_it_may_not_be_told(limit, longest_s):
    with (
        mpmc.create(slots=16, slot_size=8, limit=limit) as ring,
        ring.producer() as end,
    ):
        assert end.put_many([MESSAGE] * limit) == limit
        assert end.arm_put() == longest_s


def test_a_coroutine_puts_though_less_than_an_eighth_is_free():
    async def main():
        queue = rings.Queue(SLOTS)
        try:
            for number in range(SLOTS):
                queue.put(number)
            face = aio.Queue(queue)
            put = asyncio.ensure_future(face.put("late"))
            await asyncio.sleep(0)
            assert not put.done()
            assert queue.get() == 0
            await put
        finally:
            queue.close()

    asyncio.run(main())
