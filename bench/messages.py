"""Messages between two processes: what does one cost, alone and in company?

Measured, with both ends on one core and on two (sched_setaffinity): one put and one get
a message at 8 B to 16 MiB, batches of 1,024 records of 64 B, 1 MiB numpy arrays, fan-in
2 and 4 to 1 and 4 to 4, round trips, the CPU time of a blocked receiver, and a call
pair inside one process beside two empty Python methods.  Before a contender is timed,
each kind of transfer is verified: every message once, unharmed, in order.

Not measured: start-up, more than one machine, messages of mixed sizes, what happens
when an end dies.  Not pinned, a figure would tell where the scheduler put the ends: a
blocking peer's round trip differs tenfold between one core and two.  A peer that
only polls has the retry loop of this benchmark in its latency and its idle CPU.
A batch is 1,024 separate records; who may join them into one message should read the
64 KiB row.  An array's receiver looks at its first and last element only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no threads in a process that forks

from bench import machine, rivals, transfer, trips
from bench.channel import FREE, ONE_CORE, PLACEMENTS, Adapter, Spec
from bench.harness import Report, compile_c, interleave, run_json
from bench.transfer import ARRAY, MANY, ONE

REFERENCE = "multiprocessing.Queue"
MIB = 1 << 20
SIZES = (8, 64, 1024, 64 << 10, MIB, 16 * MIB)
SMOKE_SIZES = (64, 64 << 10)
SMALL = 64
FANS = ((2, 1), (4, 1), (4, 4))
FLOOR = "C floor"
EMPTY = "two empty Python methods"
KINDS = ("stream", "batch", "array", "fan", "trip", "idle", "pair")

Measure = Callable[[Adapter], Mapping[str, float]]


@dataclass(frozen=True)
class Workload:
    """One table: who can do it, how it is verified, how it is measured."""

    name: str
    able: Callable[[Adapter], bool]
    verify: Callable[[Adapter], None]
    measure: Measure
    floor: Callable[[], Mapping[str, Mapping[str, float]]] = dict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m bench messages``."""
    parser.add_argument("--smoke", action="store_true", help="a short run that checks")
    parser.add_argument("--seconds", type=float, help="time of each measurement")
    parser.add_argument("--rounds", type=int, help="how often each one is repeated")
    parser.add_argument("--json", metavar="FILE", help="save everything here")
    parser.add_argument("--only", action="append", default=[], help="part of a name")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which workloads")
    parser.add_argument("--verify", action="store_true", help="verify, time nothing")
    parser.add_argument("--unpinned", action="store_true", help="a third placement")


class Bench:
    """The workloads of one run, and the names and files that they use."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.seconds: float = options.seconds
        self._tags = count()
        few = len(os.sched_getaffinity(0)) < 2
        self.placements = (ONE_CORE,) if few else PLACEMENTS
        if options.unpinned:
            self.placements = (*self.placements, FREE)

    def spec(self, size: int, producers: int = 1, consumers: int = 1) -> Spec:
        """Return a fresh Spec: its tag is used once on this machine."""
        tag = f"rings-bench-{os.getpid()}-{next(self._tags)}"
        return Spec(size, producers, consumers, self.folder, tag)

    def checked(self, size: int) -> int:
        """Return how many messages of `size` a verification sends."""
        if self.options.smoke:
            return 300 if size <= 4096 else 8
        return 5000 if size <= 4096 else 64 if size <= MIB else 16

    def workloads(self) -> Iterator[Workload]:
        """Yield all tables that were asked for."""
        kinds = self.options.kinds.split(",")
        for place in self.placements:
            if "stream" in kinds:
                sizes = SMOKE_SIZES if self.options.smoke else SIZES
                yield from (self.transfers(size, place, ONE) for size in sizes)
            if "batch" in kinds:
                yield self.transfers(SMALL, place, MANY)
            if "array" in kinds:
                yield self.transfers(MIB, place, ARRAY)
            if "fan" in kinds:
                fans = FANS[1:] if self.options.smoke else FANS
                yield from (self.transfers(SMALL, place, ONE, *fan) for fan in fans)
            if "trip" in kinds:
                yield self.round_trips(place)
        if "idle" in kinds:
            yield self.idle()
        if "pair" in kinds:
            yield self.pairs()

    def transfers(
        self, size: int, place: str, kind: str, producers: int = 1, consumers: int = 1
    ) -> Workload:
        """Return the one-way workload of these sizes and numbers of ends."""
        fan = (producers, consumers)

        def able(adapter: Adapter) -> bool:
            return (
                fan in adapter.fan
                and not (place == ONE_CORE and adapter.needs_two_cores)
                and adapter.min_size <= size <= adapter.max_size
                and (kind != MANY or adapter.batches)
                and (kind != ARRAY or adapter.arrays)
            )

        def verify(adapter: Adapter) -> None:
            made = self.spec(size, *fan)
            transfer.verify(adapter, made, place, self.checked(size), kind)

        def measure(adapter: Adapter) -> Mapping[str, float]:
            return transfer.timed(
                adapter, self.spec(size, *fan), place, self.seconds, kind
            )

        what = {ONE: f"{size} B", MANY: f"{size} B, 1024 a call", ARRAY: "1 MiB array"}
        name = f"one way, {what[kind]}, {producers} to {consumers}, {place}"
        if size == SMALL and fan == (1, 1):
            part = "stream_1024" if kind == MANY else "stream_1"
            floor = partial(self.floor, place, part)
            return Workload(name, able, verify, measure, floor)
        return Workload(name, able, verify, measure)

    def round_trips(self, place: str) -> Workload:
        """Return the ping-pong workload."""

        def measure(adapter: Adapter) -> Mapping[str, float]:
            there, back = self.spec(SMALL), self.spec(SMALL)
            return trips.round_trip(adapter, there, back, place, self.seconds)

        return Workload(
            f"round trip, 64 B, {place}",
            lambda adapter: (
                adapter.round_trips
                and adapter.max_size >= SMALL
                and not (place == ONE_CORE and adapter.needs_two_cores)
            ),
            lambda adapter: None,  # each measurement checks its first trips
            measure,
            lambda: self.floor(place, "eventfd", "pingpong"),
        )

    def idle(self) -> Workload:
        """Return the workload of a receiver that nobody sends to."""
        seconds = max(self.seconds, 0.3 if self.options.smoke else 2.0)
        return Workload(
            "blocked receiver",
            lambda adapter: bool(adapter.fan) and adapter.max_size >= SMALL,
            lambda adapter: None,
            lambda adapter: trips.idle(adapter, self.spec(SMALL), seconds),
        )

    def pairs(self) -> Workload:
        """Return the workload of a put and a get in one process."""
        empty = trips.Empty()

        def floor() -> Mapping[str, Mapping[str, float]]:
            cost = trips.pair_ns(empty.put, empty.get, b"", self.seconds)
            return {EMPTY: {"pair_ns": cost}}

        return Workload(
            "one put and one get, 64 B, one process",
            lambda adapter: adapter.in_process,
            lambda adapter: None,
            lambda adapter: trips.call_pair(adapter, self.spec(SMALL), self.seconds),
            floor,
        )

    def floor(self, place: str, *parts: str) -> Mapping[str, Mapping[str, float]]:
        """Run ``csrc/floor.c``; return its parts as contenders of their own."""
        allowed = sorted(os.sched_getaffinity(0))
        cores = {ONE_CORE: (allowed[0], allowed[0]), FREE: (-1, -1)}
        pair = cores.get(place, (allowed[0], allowed[-1]))
        command = [*map(str, (compile_c("floor"), *pair, self.seconds)), *parts]
        answer = run_json(command, timeout_s=60 + 20 * self.seconds)
        return {f"{FLOOR}: {part}": answer[part] for part in parts}


def settle(options: argparse.Namespace) -> None:
    """Fill in what was not said, for a smoke or a full run."""
    if options.seconds is None:
        options.seconds = 0.03 if options.smoke else 0.5
    if options.rounds is None:
        options.rounds = 1 if options.smoke else 3


def work(
    report: Report, workload: Workload, found: list[Adapter], bench: Bench
) -> None:
    """Verify each contender once, then take the rounds of those that were right."""
    right = []
    for adapter in filter(workload.able, found):
        try:
            workload.verify(adapter)
            right.append(adapter)
        except Exception as error:
            report.fail(f"{workload.name} (verification)", adapter.name, 0, error)
    if bench.options.verify:
        return
    contenders: list[Adapter | None] = [*right, None]  # None: the floor
    for turn, contender in interleave(bench.options.rounds, contenders):
        name = contender.name if contender else FLOOR
        try:
            if contender:
                report.add(workload.name, name, turn, workload.measure(contender))
                continue
            for part, metrics in workload.floor().items():
                report.add(workload.name, part, turn, metrics)
        except Exception as error:
            report.fail(workload.name, name, turn, error)


def against_best(report: Report, found: list[Adapter]) -> dict[str, dict[str, object]]:
    """Return, for each table, ours over the best rival in it, paired by round."""
    theirs = [a.name for a in found if not a.ours and "references" not in a.name]
    ours = [a.name for a in found if a.ours]
    judged: dict[str, dict[str, object]] = {}
    for workload in dict.fromkeys(cell.workload for cell in report.cells):
        best = report.best(workload, theirs)
        mine = {name: report.ratio(workload, name, best) for name in ours if best}
        judged[workload] = {"best_rival": best} | {
            name: ratio._asdict() for name, ratio in mine.items() if ratio
        }
    return judged


def run(options: argparse.Namespace) -> int:
    """Verify, measure, print, save; 1 if anything failed."""
    settle(options)
    report = Report("messages", REFERENCE, vars(options))
    found, report.skipped = rivals.load(options.only)
    packages = tuple({adapter.package for adapter in found if adapter.package})
    report.facts["versions"] = machine.versions(packages)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    prefix = f"rings-bench-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=base) as folder:
        bench = Bench(options, Path(folder))
        for workload in bench.workloads():
            work(report, workload, found, bench)
    report.facts["against_best_rival"] = against_best(report, found)
    report.write(options.json)
    return 1 if report.failures else 0
