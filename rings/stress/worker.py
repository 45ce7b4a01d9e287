"""The worker of a stress test: one ring, some threads that push, and what they saw.

A process of its own, started with ``python -m rings.stress.worker``.  It reads a `Job`
as a line of JSON, opens its ring and says so with a line, reads the moments to be
watched, and answers with what was counted between them.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import threading
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .. import loading
from ..block import Block
from ..errors import RingError
from ..frontend import connect
from ..loading import Gauge, Load

OFFSETS: Final = 4096
GAPS: Final = 8192
LIMITS: Final = ("limit_lowest", "limit_highest")
ROOM: Final = 1 << 20  # beside the buffers, for alignment and a spare


@dataclass(frozen=True)
class Job:
    """What one worker does: its share of a cell.

    Attributes:
        address: Of the daemon.
        device: Its name there.
        number: Of this worker, from 0; seeds what is random.
        producers: Threads that push here.
        rate_per_s: Of each thread's arrivals; None for a closed loop.
    """

    address: str
    device: str
    number: int
    producers: int
    slots: int
    depth: int | str | None
    depth_each: int
    batch: int
    size: int
    wait: str
    start: int
    policy: str
    spill: int
    arrivals: str
    rate_per_s: float | None

    def open(self) -> Block:
        """Connect and map the ring."""
        data = self.producers * max(4096, self.depth_each * self.size) + ROOM
        return connect(self.address).block(
            self.device,
            slots=self.slots,
            data_size=-(-data // 4096) * 4096,
            wait=self.wait,
            start=self.start,
            depth=self.depth,
        )

    def load(self, block: Block, producer: int) -> Load:
        """Return what one thread puts on the ring."""
        chance = random.Random(f"{self.number}.{producer}")
        return Load(
            size=self.size,
            depth=self.depth_each,
            batch=self.batch,
            offsets=_offsets(block.size, self.size, chance),
            gaps_ns=self._gaps_ns(chance),
            policy=self.policy,
            spill=self.spill,
        )

    def _gaps_ns(self, chance: random.Random) -> tuple[int, ...]:
        if self.rate_per_s is None:
            return ()
        gap_ns = 1e9 / self.rate_per_s
        if self.arrivals == "even":
            return (max(1, round(gap_ns)),)
        gaps = [chance.expovariate(1) for _ in range(GAPS)]
        scale = gap_ns * GAPS / sum(gaps)  # the mean is what was asked for
        return tuple(max(1, round(scale * gap)) for gap in gaps)


def _offsets(device_size: int, size: int, chance: random.Random) -> tuple[int, ...]:
    if size == 0:
        return (0,)
    places = max(1, device_size // size)
    return tuple(size * chance.randrange(places) for _ in range(OFFSETS))


def _sample(block: Block) -> dict[str, float]:
    """Return what this process has counted and used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **block.statistics(),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "context_switches": usage.ru_nvcsw + usage.ru_nivcsw,
    }


def _sleep_until(moment_ns: int) -> None:
    time.sleep(max(0.0, (moment_ns - time.monotonic_ns()) / 1e9))


class Producers:
    """The threads that push, and what each of them counted."""

    def __init__(self, job: Job, block: Block, moments: Mapping[str, int]) -> None:
        self.counts = array("Q", bytes(8 * loading.HDR_COUNTS))
        self.told: list[dict[str, int]] = []
        self._failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(
                target=self._push, args=(block, job.load(block, i), moments)
            )
            for i in range(job.producers)
        ]
        for thread in self._threads:
            thread.start()

    def _push(self, block: Block, load: Load, moments: Mapping[str, int]) -> None:
        counts = array("Q", bytes(8 * loading.HDR_COUNTS))
        _sleep_until(moments["start_ns"])
        try:
            told = loading.run(block, load, counts=counts, **moments)
        except BaseException as error:
            self._failures.append(error)
            return
        with self._lock:
            self.told.append(told)
            for index, count in enumerate(counts):
                if count:
                    self.counts[index] += count

    def join(self) -> None:
        """Wait until all have ended; raise what ended one of them early."""
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]


def work(job: Job, block: Block, moments: Mapping[str, int]) -> dict[str, Any]:
    """Put the load on the ring; return what was counted while it was watched."""
    from_ns, until_ns = moments["from_ns"], moments["until_ns"]
    with Gauge(block, from_ns, until_ns) as gauge:
        producers = Producers(job, block, moments)
        _sleep_until(from_ns)
        before = _sample(block)
        _sleep_until(until_ns)
        after = _sample(block)
        producers.join()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "producers": producers.told,
        "counts": [[i, n] for i, n in enumerate(producers.counts) if n],
        "time_ns": list(gauge.time_ns),
        "slice_ns": list(gauge.slice_ns),
        "used": {name: after[name] - before[name] for name in after},
        "rss_mib": peak_kib / 1024,
        "limit": {name: after[name] for name in ("limit", *LIMITS)},
    }


def _say(message: Mapping[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    """Do one job, told on standard input; answer on standard output."""
    try:
        job = Job(**json.loads(sys.stdin.readline()))
        with job.open() as block:
            _say({"slots": block.session.geometry.slots})
            line = sys.stdin.readline()
            if line:  # else the parent has given up
                _say(work(job, block, json.loads(line)))
    except (OSError, RingError, ValueError, LookupError) as error:
        _say({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
