"""Rounds, statistics, tables and JSON: what every benchmark here shares.

A *contender* does a *workload* once a *round* and gives *metrics*.  Contenders take
turns inside a round (A B C, then B C A), so that a machine that slows down slows all
of them.  A row is the median of its rounds with the least and the greatest; a ratio
is taken against the reference *of the same round* before its median is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bench import machine

SCHEMA = 1
CSRC = Path(__file__).parent / "csrc"
CFLAGS = ("-std=gnu11", "-O3", "-Wall", "-Wextra", "-Werror")

KEYS = ("iops", "rate", "p50_us", "pair_ns")  # what ratios are of, first one present
MORE_IS_BETTER = ("iops", "rate")

T = TypeVar("T")


class Summary(NamedTuple):
    """A metric over the rounds: median, least, greatest, and every value."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]


def summarise(values: Sequence[float]) -> Summary:
    """Return the median of `values` with their range."""
    return Summary(statistics.median(values), min(values), max(values), tuple(values))


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of the ascending `ordered` lie."""
    if not ordered:
        raise ValueError("a percentile needs at least one sample")
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def latencies(samples_ns: Sequence[int]) -> dict[str, float]:
    """Return p50, p99 and p99.9 of `samples_ns`, in microseconds."""
    ordered = sorted(samples_ns)
    return {
        "p50_us": percentile(ordered, 0.50) / 1e3,
        "p99_us": percentile(ordered, 0.99) / 1e3,
        "p999_us": percentile(ordered, 0.999) / 1e3,
    }


def interleave(rounds: int, contenders: Sequence[T]) -> Iterator[tuple[int, T]]:
    """Yield (round, contender), each round beginning one contender further on."""
    for turn in range(rounds):
        shift = turn % max(1, len(contenders))
        for contender in (*contenders[shift:], *contenders[:shift]):
            yield turn, contender


@dataclass(frozen=True)
class Cell:
    """What one contender did with one workload in one round."""

    workload: str
    contender: str
    turn: int
    metrics: Mapping[str, float]


@dataclass
class Report:
    """All cells of a run, and what is needed to judge them."""

    bench: str
    reference: str
    options: Mapping[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    before: machine.Load = field(default_factory=machine.Load.now)

    def add(
        self, workload: str, contender: str, turn: int, metrics: Mapping[str, float]
    ) -> None:
        """Keep one measurement."""
        self.cells.append(Cell(workload, contender, turn, dict(metrics)))

    def fail(self, workload: str, contender: str, turn: int, error: Exception) -> None:
        """Keep one failure: it stands in the report beside the figures."""
        text = f"{type(error).__name__}: {error}"
        where = {"workload": workload, "contender": contender, "round": turn}
        self.failures.append(where | {"error": text})
        print(f"failed: {workload} / {contender}: {text}", file=sys.stderr)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each workload and contender, in order of appearance."""
        keys = dict.fromkeys((cell.workload, cell.contender) for cell in self.cells)
        return [self._row(*key) for key in keys]

    def _row(self, workload: str, contender: str) -> dict[str, Any]:
        mine = self._cells(workload, contender)
        names = dict.fromkeys(name for cell in mine for name in cell.metrics)
        metrics = {
            name: summarise([c.metrics[name] for c in mine if name in c.metrics])
            for name in names
        }
        row: dict[str, Any] = {
            "workload": workload,
            "contender": contender,
            "metrics": {name: summary._asdict() for name, summary in metrics.items()},
        }
        ratio = self.ratio(workload, contender, self.reference)
        return row | ({"ratio": ratio._asdict()} if ratio else {})

    def _cells(self, workload: str, contender: str) -> list[Cell]:
        return [
            cell
            for cell in self.cells
            if cell.workload == workload and cell.contender == contender
        ]

    def key(self, workload: str) -> str | None:
        """Return the metric that ratios in `workload` are of."""
        names = {n for c in self.cells if c.workload == workload for n in c.metrics}
        return next((name for name in KEYS if name in names), None)

    def ratio(self, workload: str, contender: str, reference: str) -> Summary | None:
        """Return `contender` over `reference` by the key metric, paired by round."""
        key = self.key(workload)
        if key is None:
            return None
        base = {
            cell.turn: cell.metrics[key]
            for cell in self._cells(workload, reference)
            if key in cell.metrics
        }
        ratios = [
            cell.metrics[key] / base[cell.turn]
            for cell in self._cells(workload, contender)
            if key in cell.metrics and base.get(cell.turn)
        ]
        return summarise(ratios) if ratios else None

    def best(self, workload: str, among: Sequence[str]) -> str | None:
        """Return the contender of `among` with the best median in `workload`."""
        key = self.key(workload)
        if key is None:
            return None
        medians = {}
        for name in among:
            cells = self._cells(workload, name)
            if values := [cell.metrics[key] for cell in cells if key in cell.metrics]:
                medians[name] = statistics.median(values)
        if not medians:
            return None
        sign = 1 if key in MORE_IS_BETTER else -1
        return max(medians, key=lambda name: sign * medians[name])

    def as_json(self) -> dict[str, Any]:
        """Return the whole run: machine, options, rows, failures."""
        return {
            "schema": SCHEMA,
            "bench": self.bench,
            "reference": self.reference,
            "command": [Path(sys.executable).name, "-m", "bench", *sys.argv[1:]],
            "options": dict(self.options),
            "machine": machine.describe(),
            "meanwhile": self.before.until(machine.Load.now()),
            "facts": self.facts,
            "rows": self.rows(),
            "failures": self.failures,
            "skipped": self.skipped,
        }

    def write(self, path: str | None) -> None:
        """Print the tables and, if asked to, save the JSON."""
        from bench.table import show

        data = self.as_json()
        show(data)
        if path:
            Path(path).write_text(json.dumps(data, indent=1) + "\n")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "rings-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def compile_c(name: str) -> Path:
    """Compile ``csrc/NAME.c`` unless this very source is compiled already."""
    source = CSRC / f"{name}.c"
    compiler = os.environ.get("CC", "gcc")
    text = source.read_bytes() + repr((compiler, CFLAGS)).encode()
    program = _cache() / f"{name}-{hashlib.sha256(text).hexdigest()[:16]}"
    if not program.exists():
        half = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *CFLAGS, "-o", half, source], check=True)
        half.rename(program)
    return program


def run_json(command: Sequence[str | Path], timeout_s: float) -> dict[str, Any]:
    """Run a program that prints JSON; its complaint becomes the error's text."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
