"""4 KiB random reads: what does the ring cost between a reader and its disk?

Measured: reads a second and latency at queue depths 1, 8, 32 and 128 on one file,
cached (or ``--direct``), by the ring with two waiting strategies, by io_uring from C
in one process (the reference), by `os.preadv`, by threads, and by fio.  Further, what
a request costs in system calls, and the CPU time of an idle daemon and idle client.

Not measured: writes, flushes, several clients, other block sizes, a device of one's
own.  Cached reads show the ring's cost and nothing else; what a *disk* gains from
depth needs ``--direct`` on the disk meant.  At depth 1 the ring is asked by one Python
call a read, as `os.preadv` is; deeper, one call keeps many in flight, and its latency
is the mean by Little's law (``mean_us``), since nobody clocks each answer.
"""

from __future__ import annotations

import argparse
import os

from bench import image, machine, readers, split
from bench.harness import Report, interleave

REFERENCE = readers.DirectUring.name
OURS = (
    split.Split("ring, spin 50 us", 50),
    split.Split("ring, block", 0),
    split.Handles(),
)
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m bench block``."""
    parser.add_argument("--smoke", action="store_true", help="a short run that checks")
    parser.add_argument("--seconds", type=float, help="time of each measurement")
    parser.add_argument("--rounds", type=int, help="how often each one is repeated")
    parser.add_argument("--json", metavar="FILE", help="save everything here")
    parser.add_argument("--file", help="read this file (made if it does not exist)")
    parser.add_argument("--size", type=int, help="MiB of a file that is made here")
    parser.add_argument("--direct", action="store_true", help="O_DIRECT, no page cache")
    parser.add_argument("--depths", default="1,8,32,128", help="queue depths")
    parser.add_argument("--only", action="append", default=[], help="part of a name")
    parser.add_argument("--idle-seconds", type=float, help="0 leaves the idle rows out")
    parser.add_argument(
        "--pin", action="store_true", help="reader and daemon on a core each"
    )


def settle(options: argparse.Namespace) -> None:
    """Fill in what was not said, for a smoke or a full run."""
    smoke = options.smoke
    given = vars(options)
    for name, small, full in (
        ("seconds", 0.06, 1.0),
        ("rounds", 1, 5),
        ("size", 8, 256),
        ("idle_seconds", 0.3, 3.0),
    ):
        if given[name] is None:
            given[name] = small if smoke else full


def contenders(options: argparse.Namespace, report: Report) -> list[readers.Reader]:
    """Return those to run, the reference always among them."""
    found, report.skipped = readers.rivals()
    everyone: list[readers.Reader] = [*OURS, *found]
    wanted = options.only
    return [
        reader
        for reader in everyone
        if not wanted
        or reader.name == REFERENCE
        or any(word in reader.name for word in wanted)
    ]


def measure(
    report: Report, chosen: list[readers.Reader], options: argparse.Namespace
) -> None:
    """Run every round: at each depth all contenders, one after another."""
    cores = os.sched_getaffinity(0)
    with image.prepared(
        options.file,
        options.size * MIB,
        direct=options.direct,
        seconds=options.seconds,
        pinned=options.pin,
    ) as (load, residency):
        report.facts |= {
            "file_bytes": residency.size,
            "filesystem": machine.filesystem(load.path),
            "mlocked": residency.locked,
            "clock_ns": clock_cost_ns(),
        }
        for depth in (int(word) for word in options.depths.split(",")):
            able = [reader for reader in chosen if depth in reader.depths]
            for turn, reader in interleave(options.rounds, able):
                if not options.direct:
                    residency.ensure()
                one(report, load, reader, depth, turn)
                os.sched_setaffinity(0, cores)
        report.facts["resident_after"] = residency.fraction()
        idle(report, load, chosen, options.idle_seconds)


def one(
    report: Report, load: image.Load, reader: readers.Reader, depth: int, turn: int
) -> None:
    """Take one measurement; a failure is a line of the report, not its end."""
    workload = f"4 KiB random reads, depth {depth}"
    try:
        report.add(workload, reader.name, turn, reader.measure(load, depth))
    except Exception as error:
        report.fail(workload, reader.name, turn, error)


def idle(
    report: Report, load: image.Load, chosen: list[readers.Reader], seconds: float
) -> None:
    """Add the rows of a daemon and a client that have nothing to do."""
    for reader in chosen:
        if not isinstance(reader, split.Split) or not seconds:
            continue
        try:
            found = split.idle(load, reader.spin_us, seconds)
        except Exception as error:
            report.fail("idle", reader.name, 0, error)
            continue
        for process, metrics in found.items():
            report.add("idle", f"{process} ({reader.name})", 0, metrics)


def clock_cost_ns() -> float:
    """Return what two looks at Python's clock add to each latency here."""
    import time

    clock = time.perf_counter_ns
    samples = sorted(-(clock() - clock()) for _ in range(2001))
    return float(samples[1000])


def run(options: argparse.Namespace) -> int:
    """Measure, print, save; 1 if anything failed."""
    settle(options)
    report = Report("block", REFERENCE, vars(options))
    measure(report, contenders(options, report), options)
    report.write(options.json)
    return 1 if report.failures else 0
