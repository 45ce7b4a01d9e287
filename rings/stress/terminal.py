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


COLUMNS: Final[dict[str, Callable[[Result], str]]] = {  # what matters most comes first
    "rate": lambda cell: rate(cell["achieved_per_s"]),
    "p50": lambda cell: duration(cell["latency_us"]["p50"]),
    "p99": lambda cell: duration(cell["latency_us"]["p99"]),
    "in flight": lambda cell: f"{cell['occupancy']['mean']:.1f}",
    "Little": lambda cell: f"{cell['little']:.3f}{'' if cell['valid'] else ' !'}",
    "lost": lambda cell: count(cell["dropped"] + cell["errors"]),
    "blocked": lambda cell: f"{cell['blocked']:.0%}",
    "calls": lambda cell: f"{cell['per_request']['syscalls']:.3f}",
    "predicted": lambda c: "" if c["error"] is None else f"{1 + c['error']:.1%}",
    "p99.9": lambda cell: duration(cell["latency_us"]["p99_9"]),
    "batch": lambda cell: f"{cell['batch_achieved']:.1f}",
    "client": lambda cell: f"{cell['cpu_s_per_million']['client']:.2f} µs",
    "daemon": lambda cell: f"{cell['cpu_s_per_million']['daemon']:.2f} µs",
}
WIDTH: Final = 10  # of a column, about
TITLE: Final = ("device", "wait", "place", "start")
ROW: Final = (
    "slots",
    "depth",
    "batch",
    "producers",
    "queues",
    "policy",
    "size",
    "rate_per_s",
    "arrivals",
)
DERIVED: Final = ("order", "loop", "servers", "service_s", "variability", "seconds")


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
    """Print a line for each cell, under what it shares with its neighbours."""
    for shared, members in groupby(cells, lambda cell: name(cell, TITLE)):
        console.print(f"\n[bold]{shared}[/]")
        console.print(_lines(list(members), console.width))


def _lines(cells: Sequence[Result], width: int) -> Table:
    """Lay cells out with as many columns as there is room for."""
    from rich.table import Table

    names = [name(cell, ROW) for cell in cells]
    room = max(4, (width - max(map(len, names))) // WIDTH)
    columns = dict(list(COLUMNS.items())[:room])
    lines = Table(box=None, header_style="dim", pad_edge=False)
    lines.add_column("", no_wrap=True)
    for column in columns:
        lines.add_column(column, justify="right", no_wrap=True)
    for cell, words in zip(cells, names, strict=True):
        told = ["failed"] if cell.get("failed") else [f(cell) for f in columns.values()]
        lines.add_row(words, *told, style=None if cell["valid"] else "dim")
    return lines


def name(cell: Result, names: Sequence[str] = ()) -> str:
    """Return what is particular about a cell, by these parameters or all others."""
    given = cell["parameters"]
    usual = {**Cell().parameters(), "device": None, "slots": None}
    words = [
        f"rate={value:g}" if key == "rate_per_s" else f"{key}={value}"
        for key, value in given.items()
        if key not in DERIVED and value != usual[key] and (key in names or not names)
    ]
    return " ".join(words).removeprefix("device=")


def invalid(console: Console, cells: Iterable[Result]) -> None:
    """Say of each cell that must not be believed why."""
    for cell in cells:
        if not cell["valid"]:
            console.print(f"not valid: {name(cell)}: {cell['why_invalid']}")
