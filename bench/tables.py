"""Print saved results as the tables of docs/PERFORMANCE.md.

Each figure is the median of the rounds, with the lowest and the highest in brackets.
The last column is how a contender stands to another one, paired by round: by default
to that of the run, or to the one that --against names, in each table that has it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.harness import KEYS, Summary, summarise
from bench.table import number, place

TITLES = {
    "rate": "messages/s",
    "iops": "reads/s",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "pair_ns": "ns a pair",
    "cpu_us_per_msg": "CPU µs a message",
    "cpu_percent": "CPU %",
    "switches_per_s": "switches/s",
    "enters_per_op": "enters",
    "notifies_per_op": "notifications",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Name the files, and what to compare with."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="of --json")
    parser.add_argument("--against", metavar="CONTENDER", help="the ratios' other side")
    parser.add_argument("--only", action="append", help="part of a workload's name")


def spread(summary: Mapping[str, Any], show: Any = number) -> str:
    """Return the median and, if there is more than one round, the range."""
    text: str = show(summary["median"])
    if len(summary["values"]) > 1:
        text += f" ({show(summary['low'])}–{show(summary['high'])})"  # noqa: RUF001
    return text


def paired(
    row: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]
) -> Summary | None:
    """Return the ratios of two rows by the first key metric that both have."""
    for name in names:
        mine, theirs = row["metrics"].get(name), other["metrics"].get(name)
        if mine and theirs and len(mine["values"]) == len(theirs["values"]):
            pairs = zip(mine["values"], theirs["values"], strict=True)
            return summarise([a / b for a, b in pairs])
    return None


def table(workload: str, rows: Sequence[Mapping[str, Any]], reference: str) -> str:
    """Return one workload in Markdown."""
    had = {name for row in rows for name in row["metrics"]}
    names = sorted(had & TITLES.keys(), key=place)
    others = [row for row in rows if row["contender"] == reference]
    titles = ["", *(TITLES[name] for name in names)]
    if others:
        titles.append(f"× {reference}")  # noqa: RUF001
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for row in rows:
        metrics = row["metrics"]
        cells = [spread(metrics[name]) if name in metrics else "-" for name in names]
        if others:
            ratio = paired(row, others[0], KEYS)
            cells.append(spread(ratio._asdict(), "{:.2f}".format) if ratio else "-")
        lines.append("| " + " | ".join([row["contender"], *cells]) + " |")
    return f"**{workload}**\n\n" + "\n".join(lines).replace("|  |", "| |") + "\n"


def run(options: argparse.Namespace) -> int:
    """Print each table of each file."""
    for file in options.files:
        with open(file, encoding="utf-8") as opened:
            data = json.load(opened)
        reference = options.against or data["reference"]
        workloads = dict.fromkeys(row["workload"] for row in data["rows"])
        for workload in workloads:
            if options.only and not any(part in workload for part in options.only):
                continue
            rows = [row for row in data["rows"] if row["workload"] == workload]
            print(table(workload, rows, reference))
    return 0
