"""Our rows of the block benchmark: a daemon, a ring, and a reader in this process."""

from __future__ import annotations

import multiprocessing
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from bench import machine
from bench.harness import latencies
from bench.image import BLOCK, Load, check
from bench.readers import CHECKED, CHUNK, DEPTHS, timed_rate

SLOTS = 256
DATA_SIZE = 4 << 20


@dataclass
class Split:
    """The ring with one waiting strategy at both ends."""

    name: str
    spin_us: int
    depths: tuple[int, ...] = DEPTHS

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """At depth 1 one `readinto` at a time, deeper `read_many` in one C call."""
        with (
            connected(load, self.spin_us) as (daemon, disk),
            disk.pool.alloc(places(load, depth) * BLOCK) as grant,
        ):
            before = counters(daemon, disk)
            if depth == 1:
                found = one_at_a_time(disk, grant, load)
            else:
                found = many_in_flight(disk, grant, load, depth)
            after = counters(daemon, disk)
        return found | per_request(before, after)


@dataclass
class Handles:
    """The ring as futures: a handle a read, as `ThreadPool` has a task a read."""

    name: str = "ring, a handle a read, spin 50 us"
    spin_us: int = 50
    depths: tuple[int, ...] = DEPTHS[1:]

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """Keep `depth` handles in flight from a Python loop, the oldest waited for."""
        with (
            connected(load, self.spin_us) as (daemon, disk),
            disk.pool.alloc(depth * BLOCK) as grant,
        ):
            before = counters(daemon, disk)
            found = handles_in_flight(disk, grant, load, depth)
            after = counters(daemon, disk)
        return found | per_request(before, after)


def places(load: Load, depth: int) -> int:
    """Return how many buffers to use in turn.

    A disk answers out of order, and the next buffer in turn may still be waited for:
    then there are more of them than requests in flight.  The page cache answers in
    order, and fewer buffers stay in the processor's caches.
    """
    return 4 * depth if load.direct and depth > 1 else depth


@contextmanager
def connected(load: Load, spin_us: int) -> Iterator[tuple[Any, Any]]:
    """Start a daemon on the load's file and attach to its disk."""
    import daemons
    from rings.frontend import connect

    with daemons.spawn(
        image=load.path, engine="uring", spin_us=spin_us, direct=load.direct
    ) as daemon:
        wait = f"spin:{spin_us}" if spin_us else "block"
        connection = connect(daemon.address)
        with connection.block(
            "disk0", slots=SLOTS, data_size=DATA_SIZE, wait=wait
        ) as disk:
            if load.pinned:
                pin_apart(daemon.pid)
            yield daemon, disk


def pin_apart(daemon_pid: int) -> None:
    """Give this process the first allowed core and the daemon the second."""
    import os

    first, second, *_ = sorted(os.sched_getaffinity(0)) * 2
    machine.pin(os.getpid(), first)
    machine.pin(daemon_pid, second)


def one_at_a_time(disk: Any, grant: Any, load: Load) -> dict[str, float]:
    """Depth 1: each read waits for the one before, from a Python loop."""
    endless = cycle(load.offsets)
    clock = time.perf_counter_ns
    samples: list[int] = []
    with grant.view() as view:
        for offset in islice(endless, CHECKED):
            disk.readinto(grant, offset)
            check(view, offset)

        def chunk() -> int:
            for offset in islice(endless, CHUNK):
                disk.readinto(grant, offset)
            return CHUNK

        def clocked() -> int:
            for offset in islice(endless, CHUNK):
                start = clock()
                disk.readinto(grant, offset)
                samples.append(clock() - start)
            return CHUNK

        rate = timed_rate(load.rate_s, chunk)
        timed_rate(load.latency_s, clocked)
    return {"iops": rate} | latencies(samples)


def many_in_flight(disk: Any, grant: Any, load: Load, depth: int) -> dict[str, float]:
    """Deeper: one C call keeps `depth` reads in flight over thousands of offsets."""
    verify_many(disk, grant, load.offsets, depth)
    step = 1 << (11 if load.direct else 14)
    portions = [load.offsets[i : i + step] for i in range(0, len(load.offsets), step)]
    endless = cycle(portions)

    def chunk() -> int:
        portion = next(endless)
        disk.read_many(portion, grant, length=BLOCK, depth=depth)
        return len(portion)

    rate = timed_rate(load.rate_s + load.latency_s, chunk)
    return {"iops": rate, "mean_us": depth / rate * 1e6}


def handles_in_flight(
    disk: Any, grant: Any, load: Load, depth: int
) -> dict[str, float]:
    """Rate and latencies in one run: two clocks are little beside a handle."""
    endless = cycle(load.offsets)
    clock = time.perf_counter_ns
    flight: deque[tuple[int, int, Any]] = deque()
    samples: list[int] = []

    def submit(place: int) -> None:
        at, offset = place * BLOCK, next(endless)
        start = clock()
        handle = disk.submit_read(offset, grant, at=at, length=BLOCK)
        flight.append((place, start, handle))

    def chunk() -> int:
        for _ in range(CHUNK):
            place, start, handle = flight.popleft()
            handle.result()
            samples.append(clock() - start)
            submit(place)
        return CHUNK

    verify_many(disk, grant, load.offsets, depth)
    for place in range(depth):
        submit(place)
    rate = timed_rate(load.rate_s + load.latency_s, chunk)
    for _, _, handle in flight:
        handle.result()
    return {"iops": rate} | latencies(samples)


def verify_many(disk: Any, grant: Any, offsets: array[int], depth: int) -> None:
    """Read in portions of `depth`, so that every answer still lies in its place."""
    for at in range(0, CHECKED, depth):
        portion = offsets[at : at + depth]
        disk.read_many(portion, grant, length=BLOCK, depth=depth)
        with grant.view() as view:
            for place, offset in enumerate(portion):
                check(view[place * BLOCK : (place + 1) * BLOCK], offset)


def counters(daemon: Any, disk: Any) -> dict[str, int]:
    """Return requests served, io_uring_enter calls and notifications of both ends."""
    from rings.rendezvous import query

    report, asked = query(daemon.address), disk.statistics()
    served = report["sessions"][0]["ring"]
    notifications = served["notifications_sent"] + asked["notifications"]
    return {
        "requests": asked["requests"],
        "enters": report["engine"]["enters"],
        "notifications": notifications,
    }


def per_request(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    """Return what a request cost in system calls of either kind."""
    requests = max(1, after["requests"] - before["requests"])
    enters = after["enters"] - before["enters"]
    notifications = after["notifications"] - before["notifications"]
    return {
        "enters_per_op": enters / requests,
        "notifies_per_op": notifications / requests,
    }


def idle(load: Load, spin_us: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return what a daemon and a connected client cost that have nothing to do."""
    import daemons

    context = multiprocessing.get_context("spawn")
    with daemons.spawn(image=load.path, engine="uring", spin_us=spin_us) as daemon:
        ours, theirs = context.Pipe()
        arguments = (daemon.address, spin_us, theirs)
        client = context.Process(target=idle_client, args=arguments)
        client.start()
        try:
            ours.recv()
            found = watch({"daemon": daemon.pid, "client": client.pid or 0}, seconds)
        finally:
            ours.close()
            theirs.close()
            client.join()
    return found


def watch(pids: Mapping[str, int], seconds: float) -> dict[str, dict[str, float]]:
    """Return the CPU share and switches of each process over `seconds`."""
    time.sleep(0.2)
    before = {name: machine.ProcessWork.of(pid) for name, pid in pids.items()}
    start = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - start
    return {
        name: before[name].until(machine.ProcessWork.of(pid), took)
        for name, pid in pids.items()
    }


def idle_client(address: str, spin_us: int, pipe: Any) -> None:
    """Connect, read once, say so, and do nothing until the pipe closes."""
    from rings.frontend import connect

    wait = f"spin:{spin_us}" if spin_us else "block"
    with connect(address).block("disk0", wait=wait) as disk:
        disk.read(0, BLOCK)
        pipe.send("ready")
        try:
            pipe.recv()
        except EOFError:
            return
