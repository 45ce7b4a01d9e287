"""Is the advice right?  `rings.advise` beside the knee that `rings stress` measures.

Thirteen loads on the `delay` device: how many servers, how long each takes and how
evenly, asked always or so often a second, kept or lost when the ring is full, with an
objective for p99 or with a daemon that stops for a while again and again.  None of them
was used to find a rule, but for "wide", which taught one.  Each is advised on first,
then measured with rings of six sizes and as advised; the knee is the smallest ring that
carries 95 % of the most and keeps the objective.

Between the advice and the knee lie so many *orders*, that is doublings: 0 is right, 1 a
ring twice as large as needed.  A ring that is stopped loses what does not fit in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from rings.advice import Advice, advise, compare, knee
from rings.table import table
from rings.units import show_number, show_s

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Workload:
    """A load, and the device that serves it."""

    name: str
    servers: int
    service_s: float
    variability: str
    rate_per_s: float | None = None
    policy: str = "block"
    p99_s: float | None = None
    pause_s: float = 0.0
    pause_every_s: float = 0.1

    def advice(self) -> Advice:
        """Return what is advised, for ends that sleep when there is nothing to do."""
        return advise(
            self.rate_per_s,
            self.service_s,
            servers=self.servers,
            variability=self.variability,
            policy=self.policy,
            p99_s=self.p99_s,
            pause_s=self.pause_s,
            wait="block",
        )

    @property
    def sizes(self) -> list[int]:
        """Rings from an eighth of what the device and the pause hold to four times."""
        held = self.servers
        if self.rate_per_s is not None:
            held = self.rate_per_s * (self.service_s + self.pause_s)
        middle = max(3, math.ceil(math.log2(held)))
        return [1 << order for order in range(middle - 3, middle + 3)]

    def command(self, path: Path, seconds: float, *sizes: str) -> list[str]:
        """Return a sweep over rings of some sizes."""
        device = f"delay:K={self.servers},S={self.service_s * 1e6:.0f}us"
        axes = [*sizes, f"policy={self.policy}"]
        if self.rate_per_s is not None:
            axes.append(f"rate={self.rate_per_s:.0f}")
        return [
            sys.executable, "-m", "rings", "stress", *axes,
            "--device", f"{device},{self.variability}",
            "--seconds", f"{seconds:g}s", "--json", str(path),
        ]  # fmt: skip


WORKLOADS = (
    Workload("small", 48, 2e-3, "fixed"),
    Workload("random", 300, 4e-3, "exponential"),
    Workload("wide", 1000, 10e-3, "fixed", p99_s=15e-3),
    Workload("narrow", 12, 1e-3, "exponential"),
    Workload("slow", 700, 20e-3, "exponential", p99_s=120e-3),
    Workload("fast", 8, 100e-6, "fixed"),
    Workload("open", 64, 5e-3, "exponential", 8000, p99_s=40e-3),
    Workload("even", 200, 3e-3, "fixed", 20000, p99_s=6e-3),
    Workload("lossy", 24, 4e-3, "exponential", 5000, "drop_new"),
    Workload("stopped", 64, 2e-3, "fixed", 10000, "drop_new", pause_s=20e-3),
    Workload("broad", 150, 8e-3, "fixed", p99_s=30e-3),
    Workload("spilling", 40, 3e-3, "exponential", 9000, "spill", p99_s=30e-3),
    Workload("dropping", 60, 1e-3, "fixed", 40000, "drop_new"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m bench advice``."""
    parser.add_argument("--smoke", action="store_true", help="one load, for a moment")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each cell")
    parser.add_argument("--rounds", type=int, default=1, help="sweeps; medians count")
    parser.add_argument("--only", action="append", default=[], help="a load, by name")
    parser.add_argument("--folder", type=Path, help="keep the sweeps here, go on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the table here")


def run(options: argparse.Namespace) -> int:
    """Advise, measure, compare; 1 if a load is more than one order off."""
    chosen = [w for w in WORKLOADS if not options.only or w.name in options.only]
    seconds = options.seconds
    if options.smoke:
        chosen, seconds = [WORKLOADS[3]], 0.1
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for workload in chosen:
            rounds = [
                measured(workload, folder / f"{workload.name}-{turn}.json", seconds)
                for turn in range(options.rounds)
            ]
            rows.append(row(workload, medians(rounds)))
    print(table([shown(each) for each in rows]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    off = [each["load"] for each in rows if is_off(each)]
    print(f"\n{len(rows) - len(off)} of {len(rows)} within one order")
    return 1 if off and not options.smoke else 0


def medians(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one cell for each size that was valid in half of the rounds or more."""
    found: dict[tuple[int, int | None], list[dict[str, Any]]] = {}
    for cell in chain.from_iterable(rounds):
        found.setdefault(_size(cell), []).append(cell)
    return [
        {
            "parameters": cells[0]["parameters"],
            "achieved_per_s": median(cell["achieved_per_s"] for cell in cells),
            "latency_us": {"p99": median(cell["latency_us"]["p99"] for cell in cells)},
        }
        for cells in found.values()
        if 2 * len(cells) >= len(rounds)
    ]


def _size(cell: dict[str, Any]) -> tuple[int, int | None]:
    return cell["parameters"]["slots"], cell["parameters"].get("depth")


def row(workload: Workload, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Set the advice beside what was measured, at the advised size too."""
    advice = workload.advice()
    measured = knee(cells, workload.p99_s)
    orders = compare(advice, cells, workload.p99_s).orders if measured else None
    there = [c for c in cells if _size(c) == (advice.slots, advice.depth)]
    return {
        "load": workload.name,
        "advised": advice.slots,
        "depth": advice.depth,
        "measured": measured,
        "orders": orders,
        "predicted_per_s": advice.predicted.throughput_per_s,
        "achieved_per_s": there[0]["achieved_per_s"] if there else None,
        "predicted_p99_s": advice.predicted.p99_s,
        "p99_s": there[0]["latency_us"]["p99"] / 1e6 if there else None,
        "why": advice.why,
        "sweep": [
            [*_size(c), c["achieved_per_s"], c["latency_us"]["p99"] / 1e6]
            for c in cells
        ],
    }


def is_off(row: dict[str, Any]) -> bool:
    """Whether the advice is more than one order away, or nothing met the objective."""
    return row["orders"] is None or abs(row["orders"]) > 1


def shown(row: dict[str, Any]) -> dict[str, object]:
    """Lay a row out for people."""
    told: dict[str, object] = {
        k: v for k, v in row.items() if k not in ("why", "sweep")
    }
    for name, value in told.items():
        if name.endswith("_s") and isinstance(value, float):
            show = show_number if name.endswith("_per_s") else show_s
            told[name] = show(value)
    return told


# -- measuring ---------------------------------------------------------------------


def measured(workload: Workload, path: Path, seconds: float) -> list[dict[str, Any]]:
    """Measure rings of all sizes, and as advised; return the valid cells."""
    advice = workload.advice()
    axes = [f"slots={','.join(map(str, workload.sizes))}"]
    cells = sweep(workload, path, workload.command(path, seconds, *axes))
    if advice.depth:
        path = path.with_stem(f"{path.stem}-depth")
        axes = [f"slots={advice.slots}", f"depth={advice.depth}"]
        cells += sweep(workload, path, workload.command(path, seconds, *axes))
    return cells


def sweep(workload: Workload, path: Path, command: list[str]) -> list[dict[str, Any]]:
    """Run a sweep and return its valid cells."""
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while running.poll() is None:
            _pause(running.pid, workload)
    finally:
        running.kill()
        running.wait()
    if running.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {running.returncode}")
    cells = json.loads(path.read_text())["cells"]
    for cell in cells:
        if not cell["valid"]:
            print(f"{workload.name}: {cell['key']}: {cell['why_invalid']}")
    return [cell for cell in cells if cell["valid"]]


def _pause(pid: int, workload: Workload) -> None:
    """Let the daemons of a sweep run for a while, and stop them for a while."""
    time.sleep(workload.pause_every_s - workload.pause_s)
    if not workload.pause_s:
        return
    stopped = [daemon for daemon in _descendants(pid) if _send(daemon, signal.SIGSTOP)]
    time.sleep(workload.pause_s)
    for daemon in stopped:
        _send(daemon, signal.SIGCONT)


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _descendants(pid: int) -> Iterator[int]:
    """Yield the daemons among the processes that a process started."""
    for name in os.listdir(f"/proc/{pid}/task"):
        children = Path(f"/proc/{pid}/task/{name}/children").read_text()
        for child in map(int, children.split()):
            if b"daemons" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield child
