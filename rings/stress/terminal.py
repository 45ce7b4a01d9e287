"""A sweep on the terminal: progress while it runs, and tables at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from .cell import Cell
from .quantities import count, duration, rate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

Result = Mapping[str, Any]


COLUMNS: Final[dict[str, Callable[[Result], str]]] = {
    "rate": lambda cell: rate(cell["achieved_per_s"]),
    "p50": lambda cell: duration(cell["latency_us"]["p50"]),
    "p99": lambda cell: duration(cell["latency_us"]["p99"]),
    "in flight": lambda cell: f"{cell['occupancy']['mean']:.1f}",
    "blocked": lambda cell: f"{cell['blocked']:.0%}",
    "lost": lambda cell: str(cell["dropped"] + cell["errors"]),
    "calls": lambda cell: f"{cell['per_request']['syscalls']:.3f}",
    "Little": lambda cell: f"{cell['little']:.3f}{'' if cell['valid'] else ' !'}",
}
MORE: Final[dict[str, Callable[[Result], str]]] = {
    "of Little's law": lambda c: "" if c["error"] is None else f"{1 + c['error']:.1%}",
    "p99.9": lambda cell: duration(cell["latency_us"]["p99_9"]),
    "batch": lambda cell: f"{cell['batch_achieved']:.1f}",
    "CPU us": lambda cell: f"{cell['cpu_s_per_million']['client']:.2f}",
    "daemon's": lambda cell: f"{cell['cpu_s_per_million']['daemon']:.2f}",
}
WIDE: Final = 110
DERIVED: Final = ("device", "order", "loop", "servers", "service_s", "variability")


@contextmanager
def progress(console: Console, cells: Sequence[Cell]) -> Iterator[Progress]:
    """Show a bar; it is drawn between cells only, so as to disturb none."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        bar.add_task("measuring", total=len(cells))
        bar.refresh()
        yield bar


def table(console: Console, cells: Sequence[Result]) -> None:
    """Print a line for each cell, under its device."""
    for device, members in groupby(cells, lambda cell: cell["parameters"]["device"]):
        console.print(f"\n[bold]{device}[/]")
        console.print(_lines(list(members), console.width >= WIDE))


def _lines(cells: Sequence[Result], wide: bool) -> Table:
    from rich.table import Table

    columns = {**COLUMNS, **(MORE if wide else {})}
    lines = Table(box=None, header_style="dim", pad_edge=False)
    lines.add_column("", overflow="fold")
    for column in columns:
        lines.add_column(column, justify="right", no_wrap=True)
    for cell in cells:
        words = (
            ["failed"] if cell.get("failed") else [f(cell) for f in columns.values()]
        )
        lines.add_row(name(cell), *words, style=None if cell["valid"] else "dim")
    return lines


def name(cell: Result) -> str:
    """Return what is particular about a cell, its device left out."""
    given = cell["parameters"]
    usual = {**Cell().parameters(), "slots": None, "seconds": given["seconds"]}
    words = [
        f"rate={count(value)}" if key == "rate_per_s" else f"{key}={value}"
        for key, value in given.items()
        if key not in DERIVED and value != usual[key]
    ]
    return " ".join(words)


def invalid(console: Console, cells: Iterable[Result]) -> None:
    """Say of each cell that must not be believed why."""
    for cell in cells:
        if not cell["valid"]:
            device = cell["parameters"]["device"]
            console.print(f"not valid: {device} {name(cell)}: {cell['why_invalid']}")
