"""Traffic both ways between any two ends of any kind of message ring.

Imported by tests, by the children they start and by the interpreters in those, so
it needs rings and the stdlib alone.  `first` sends COUNT messages, `second` sends
as many back; each checks every byte of what it gets.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from rings import broadcast, interpreters, mpmc, spsc
from rings.errors import ShutDown

COUNT = 100_000
BATCH = 64
SLOTS = 256
SIZE = 64
HANG_S = 60
KINDS = ("fixed", "records", "mpmc", "broadcast")


def create(kind, start):
    """Make a ring of a kind."""
    if kind == "mpmc":
        return mpmc.Ring.create(slots=SLOTS, slot_size=SIZE, start=start)
    if kind == "broadcast":
        facts = {"slots": SLOTS, "slot_size": SIZE, "start": start}
        return broadcast.create(policy="block", consumers=2, **facts)
    if kind == "records":
        return spsc.create(ring_bytes=SLOTS * SIZE, start=start)
    return spsc.create(slots=SLOTS, slot_size=SIZE, start=start)


def numbers(kind, ring):
    """Return a ring as nothing but ints, for `attach`."""
    nested = ([n] if isinstance(n, int) else n for n in ring.handle())
    return (KINDS.index(kind), *chain.from_iterable(nested))


def attach(ints):
    """Map a ring that came as ints."""
    kind, *handle = ints
    if KINDS[kind] == "mpmc":
        return mpmc.Ring.attach(tuple(handle))
    if KINDS[kind] == "broadcast":
        return broadcast.attach(*handle[:3], tuple(handle[3:]))
    return spsc.attach(*handle)


def descriptors(kind, ring):
    """Return the file descriptors of a ring."""
    handle = ring.handle()
    if kind == "broadcast":
        return (handle.fd, handle.space_fd, *handle.event_fds)
    return tuple(handle) if kind == "mpmc" else (handle[0], *handle[2:])


def message(kind, n):
    """Return message `n`, which no other is like; of many lengths if it may be."""
    check = (n * 0x9E3779B97F4A7C15) % (1 << 64)
    data = (n.to_bytes(8, "little") + check.to_bytes(8, "little")) * 4
    return data if kind == "fixed" else data[: 16 + n % 49]


def send(kind, producer, count=COUNT):
    """Put `count` messages, half of them one by one, half in batches."""
    while kind == "broadcast" and not producer.consumers():
        time.sleep(0.001)
    for n in range(count // 2):
        producer.put(message(kind, n), HANG_S)
    for n in range(count // 2, count, BATCH):
        batch = [message(kind, m) for m in range(n, min(n + BATCH, count))]
        while batch := batch[producer.put_many(batch) :]:
            producer.put(batch.pop(0), HANG_S)


def receive(kind, consumer, count=COUNT):
    """Get `count` messages, one by one and in batches, and check each."""
    n = 0
    while n < count:
        got = consumer.get_many(BATCH) if n % 3 else []
        for found in got or [consumer.get(HANG_S)]:
            if found != message(kind, n):
                raise AssertionError(f"message {n} of {kind} is {found!r}")
            n += 1


def expect(error, call, *args):
    """Fail unless `call` raises `error`."""
    try:
        result = call(*args)
    except error:
        return
    raise AssertionError(f"{result!r} and no {error.__name__}")


def first(there_ints, back_ints, count=COUNT):
    """Send, then receive, then see the other side leave."""
    kind = KINDS[there_ints[0]]
    with (
        attach(there_ints) as there,
        attach(back_ints) as back,
        back.consumer() as consumer,
        there.producer() as producer,
    ):
        expect(TimeoutError, consumer.get, 0.01)
        send(kind, producer, count)
        receive(kind, consumer, count)
        expect(ShutDown, consumer.get, HANG_S)


def second(there_ints, back_ints, count=COUNT):
    """Receive, then send as many back, and leave."""
    kind = KINDS[there_ints[0]]
    with (
        attach(there_ints) as there,
        attach(back_ints) as back,
        there.consumer() as consumer,
        back.producer() as producer,
    ):
        receive(kind, consumer, count)
        send(kind, producer, count)
        if kind == "mpmc":
            producer.shutdown()


def in_interpreter(side, *ints):
    """Run `first` or `second` in an own-GIL interpreter; occupies this thread."""
    with interpreters.create() as worker:
        worker.run(f"from tests.interp_traffic import {side}; {side}{ints!r}")


def in_main(side, *ints):
    """Run `first` or `second` in this interpreter."""
    {"first": first, "second": second}[side](*ints)


def meet(kind, start, first_place):
    """Let an interpreter exchange messages with `first_place` of this process."""
    before = sorted(os.listdir("/proc/self/fd"))
    with create(kind, start) as there, create(kind, start) as back:
        ints = numbers(kind, there), numbers(kind, back)
        with ThreadPoolExecutor(2) as threads:
            other = threads.submit(in_interpreter, "second", *ints)
            threads.submit(first_place, "first", *ints).result()
            other.result()
    give_up = time.monotonic() + HANG_S / 10
    while (after := sorted(os.listdir("/proc/self/fd"))) != before:
        if (
            time.monotonic() > give_up
        ):  # a thread that ends opens one in malloc, briefly
            raise AssertionError(f"descriptors {before} became {after}")
