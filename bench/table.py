"""Tables on the terminal: by rich where it is installed, else plain columns."""

from __future__ import annotations

import sys
from typing import Any

COLUMNS = (
    "iops", "rate", "p50_us", "pair_ns", "mean_us", "p99_us", "p999_us", "mb_per_s",
    "cpu_us_per_msg", "enters_per_op", "notifies_per_op", "cpu_percent",
    "switches_per_s", "trips",
)  # fmt: skip
WIDTH = 160  # where the output is no terminal


def number(value: float) -> str:
    """Return `value` with three or four figures and a unit prefix."""
    for limit, scale, suffix in ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(value) >= limit:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.4g}"


def median(summary: dict[str, Any]) -> str:
    """Return the median alone."""
    return number(summary["median"])


def spread(summary: dict[str, Any]) -> str:
    """Return the median and, when there is more than one round, the range."""
    if len(summary["values"]) < 2:
        return number(summary["median"])
    low, high = number(summary["low"]), number(summary["high"])
    return f"{number(summary['median'])} [{low}-{high}]"


def tables(data: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return (title, header, lines) for each workload."""
    made = []
    workloads = dict.fromkeys(row["workload"] for row in data["rows"])
    for workload in workloads:
        rows = [row for row in data["rows"] if row["workload"] == workload]
        names = sorted({name for row in rows for name in row["metrics"]}, key=place)
        header = ["", *names, f"x {data['reference']}"]
        lines = [[row["contender"], *_cells(row, names)] for row in rows]
        made.append((workload, header, lines))
    return made


def place(name: str) -> int:
    """Return where the column of a metric stands."""
    return COLUMNS.index(name) if name in COLUMNS else len(COLUMNS)


def _cells(row: dict[str, Any], names: list[str]) -> list[str]:
    metrics = row["metrics"]
    first = next((name for name in COLUMNS if name in metrics), "")
    cells = []
    for name in names:
        show_one = spread if name == first else median
        cells.append(show_one(metrics[name]) if name in metrics else "-")
    return [*cells, spread(row["ratio"]) if "ratio" in row else "-"]


def plain(title: str, header: list[str], lines: list[list[str]]) -> str:
    """Return one table as aligned text."""
    columns = zip(header, *lines, strict=True)
    widths = [max(len(cell) for cell in column) for column in columns]
    text = [title]
    for line in [header, *lines]:
        pairs = zip(line, widths, strict=True)
        text.append("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())
    return "\n".join(text) + "\n"


def show(data: dict[str, Any]) -> None:
    """Print every workload's table, then what failed and what was left out."""
    try:
        _show_rich(data)
    except ImportError:
        for table in tables(data):
            print(plain(*table))
    meanwhile = data["meanwhile"]
    print(
        f"{data['machine']['cpu_model']}, {data['machine']['kernel'].split(' #')[0]}, "
        f"{data['machine']['python']}; took {meanwhile['took_s']} s, "
        f"load before {meanwhile['load_average_before'][0]}, "
        f"steal {meanwhile['steal_fraction']:.1%}"
    )
    for name, why in data["skipped"].items():
        print(f"left out: {name}: {why}")
    if data["failures"]:
        print(f"{len(data['failures'])} measurements failed; see above and the JSON")


def _show_rich(data: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=sys.stdout, width=width)
    for title, header, lines in tables(data):
        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        for position, name in enumerate(header):
            table.add_column(name, justify="right" if position else "left")
        for line in lines:
            table.add_row(*line)
        console.print(table)
