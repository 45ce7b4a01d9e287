"""The rivals of the block benchmark: the ways to read a file without a ring of ours.

Each takes its rate without a clock around the reads and its latencies in a second
run with one, so that the clock's price does not flatter whoever has none.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Protocol

from bench.harness import compile_c, latencies, run_json
from bench.image import BLOCK, Load, check

CHUNK = 256
CHECKED = 512
DEPTHS = (1, 8, 32, 128)


class Reader(Protocol):
    """One contender: a name, the depths it can do, and a measurement."""

    name: str
    depths: tuple[int, ...]

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """Do the load at one queue depth; return ``iops`` and latencies in us."""


@contextmanager
def opened(load: Load) -> Iterator[int]:
    """Open the file as the load says; yield its descriptor."""
    fd = os.open(load.path, os.O_RDONLY | (os.O_DIRECT if load.direct else 0))
    try:
        yield fd
    finally:
        os.close(fd)


def page() -> mmap.mmap:
    """Return a page-aligned buffer of one block (O_DIRECT wants that)."""
    return mmap.mmap(-1, BLOCK)


def timed_rate(seconds: float, chunk: Callable[[], int]) -> float:
    """Call `chunk` until the time is over; return its items a second."""
    done = 0
    start = now = time.perf_counter()
    while now < start + seconds:
        done += chunk()
        now = time.perf_counter()
    return done / (now - start)


class Preadv:
    """`os.preadv` in a Python loop: one system call a read, nothing in flight."""

    name = "os.preadv loop"
    depths: tuple[int, ...] = (1,)

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """Rate, then one clock before and one after each read."""
        with opened(load) as fd:
            buffer = page()
            into = [buffer]
            endless = cycle(load.offsets)
            with memoryview(buffer) as block:
                for offset in islice(endless, CHECKED):
                    os.preadv(fd, into, offset)
                    check(block, offset)

            def chunk() -> int:
                for offset in islice(endless, CHUNK):
                    os.preadv(fd, into, offset)
                return CHUNK

            rate = timed_rate(load.rate_s, chunk)
            samples: list[int] = []
            clock = time.perf_counter_ns

            def clocked() -> int:
                for offset in islice(endless, CHUNK):
                    start = clock()
                    os.preadv(fd, into, offset)
                    samples.append(clock() - start)
                return CHUNK

            timed_rate(load.latency_s, clocked)
        return {"iops": rate} | latencies(samples)


class ThreadPool:
    """`ThreadPoolExecutor` with one task a read: what a user would write."""

    name = "thread pool, a task a read"
    depths: tuple[int, ...] = DEPTHS[1:]

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """Rate by `map` over many reads; latency with `depth` submitted at most."""
        mine = threading.local()

        def begin() -> None:
            mine.into = [page()]

        with opened(load) as fd, ThreadPoolExecutor(depth, initializer=begin) as pool:

            def read(offset: int) -> int:
                return os.preadv(fd, mine.into, offset)

            def verify(offset: int) -> None:
                read(offset)
                with memoryview(mine.into[0]) as block:
                    check(block, offset)

            endless = cycle(load.offsets)
            list(pool.map(verify, islice(endless, CHECKED)))
            many = max(CHUNK, 4 * depth)

            def chunk() -> int:
                return sum(1 for _ in pool.map(read, islice(endless, many)))

            rate = timed_rate(load.rate_s, chunk)
            samples = self._submit_clocked(pool, read, endless, load.latency_s, depth)
        return {"iops": rate} | latencies(samples)

    def _submit_clocked(
        self,
        pool: ThreadPoolExecutor,
        read: Callable[[int], int],
        endless: Iterator[int],
        seconds: float,
        depth: int,
    ) -> list[int]:
        places = threading.Semaphore(depth)
        samples: list[int] = []
        clock = time.perf_counter_ns
        end = clock() + int(seconds * 1e9)
        for offset in endless:
            places.acquire()
            start = clock()
            if start >= end:
                break

            def done(_: Future[int], start: int = start) -> None:
                samples.append(clock() - start)
                places.release()

            pool.submit(read, offset).add_done_callback(done)
        return samples


class ThreadLoops:
    """`depth` threads, each with its own `os.preadv` loop: no queue between them."""

    name = "threads, a loop each"
    depths: tuple[int, ...] = DEPTHS[1:]

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """Rate with the threads free running, then latency with clocks."""
        with opened(load) as fd, ThreadPoolExecutor(depth) as pool:
            rate, _ = self._run(pool, fd, load, depth, load.rate_s, clocked=False)
            _, samples = self._run(pool, fd, load, depth, load.latency_s, clocked=True)
        return {"iops": rate} | latencies(samples)

    def _run(
        self,
        pool: ThreadPoolExecutor,
        fd: int,
        load: Load,
        depth: int,
        seconds: float,
        clocked: bool,
    ) -> tuple[float, list[int]]:
        samples: list[int] = []
        gate = threading.Barrier(depth + 1)
        stop = threading.Event()

        def loop(which: int) -> int:
            buffer = page()
            into, done, clock = [buffer], 0, time.perf_counter_ns
            mine = load.offsets[which::depth]
            os.preadv(fd, into, mine[0])
            with memoryview(buffer) as block:
                check(block, mine[0])
            gate.wait()
            for offset in cycle(mine):
                if stop.is_set():
                    return done
                start = clock() if clocked else 0
                os.preadv(fd, into, offset)
                if clocked:
                    samples.append(clock() - start)
                done += 1
            return done

        tasks = [pool.submit(loop, which) for which in range(depth)]
        gate.wait()
        start = time.perf_counter()
        time.sleep(seconds)
        stop.set()
        done = sum(task.result() for task in tasks)
        return done / (time.perf_counter() - start), samples


class DirectUring:
    """io_uring from C in this one process: the reference of every ratio."""

    name = "direct io_uring (C)"
    depths: tuple[int, ...] = DEPTHS

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """Run ``csrc/direct_uring.c``."""
        program = compile_c("direct_uring")
        answer = run_json(
            [
                program, load.path, load.offsets_path, str(depth),
                str(load.rate_s), str(load.latency_s), str(int(load.direct)),
            ],
            timeout_s=60 + 4 * (load.rate_s + load.latency_s),
        )  # fmt: skip
        wanted = ("iops", "p50_us", "p99_us", "p999_us", "enters_per_op")
        return {name: float(answer[name]) for name in wanted}


@dataclass
class Fio:
    """fio's io_uring engine: a second opinion on the reference (its clocks are on)."""

    name: str = "fio io_uring"
    depths: tuple[int, ...] = DEPTHS

    def measure(self, load: Load, depth: int) -> Mapping[str, float]:
        """Run fio with registered file and buffers, batches as deep as the queue."""
        milliseconds = int(1000 * (load.rate_s + load.latency_s))
        command = [
            "fio", "--name=bench", f"--filename={load.path}", "--readonly",
            "--ioengine=io_uring", "--rw=randread", "--bs=4k", f"--iodepth={depth}",
            f"--iodepth_batch_submit={depth}", f"--iodepth_batch_complete_max={depth}",
            "--registerfiles=1", "--fixedbufs=1", "--norandommap=1", "--invalidate=0",
            f"--direct={int(load.direct)}", "--time_based=1",
            f"--runtime={milliseconds}ms", "--lat_percentiles=1",
            "--percentile_list=50:99:99.9", "--output-format=json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"fio: {done.stderr.strip()}")
        return self.metrics(json.loads(done.stdout[done.stdout.index("{") :]))

    def metrics(self, answer: dict[str, Any]) -> Mapping[str, float]:
        """Return our names for fio's figures."""
        read = answer["jobs"][0]["read"]
        slow = read["lat_ns"]["percentile"]
        return {
            "iops": read["iops"],
            "p50_us": slow["50.000000"] / 1e3,
            "p99_us": slow["99.000000"] / 1e3,
            "p999_us": slow["99.900000"] / 1e3,
        }


def rivals() -> tuple[list[Reader], dict[str, str]]:
    """Return the readers that can run here, and why the others cannot."""
    found: list[Reader] = [DirectUring(), Preadv(), ThreadPool(), ThreadLoops()]
    if shutil.which("fio"):
        return [*found, Fio()], {}
    return found, {"fio": "not installed"}
