"""The table of all cells: what differs, what was measured, what one request cost."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from .findings import Cell, Result, latency, varied
from .quantities import count, digits, duration, rate, share
from .svg import element


class Column(NamedTuple):
    """A title, the value to sort by, and how it is written."""

    title: str
    value: Callable[[Cell], Any]
    write: Callable[[Any], str] = digits


def _latency(name: str) -> Column:
    title = name.replace("_", ".")
    return Column(title, lambda cell: latency(cell, name), duration)


def _request(name: str) -> Column:
    return Column(f"{name} a request", lambda cell: cell["per_request"][name])


MEASURED = (
    Column("offered", lambda cell: cell["offered_per_s"], rate),
    Column("achieved", lambda cell: cell["achieved_per_s"], rate),
    Column("predicted", lambda cell: cell["predicted_per_s"], rate),
    Column("error", lambda cell: cell["error"], lambda value: f"{100 * value:+.1f} %"),
    _latency("p50"),
    _latency("p90"),
    _latency("p99"),
    _latency("p99_9"),
    _latency("max"),
    Column("mean in flight", lambda cell: cell["occupancy"]["mean"]),
    Column("blocked", lambda cell: cell["blocked"], share),
    Column("times full", lambda cell: cell["full_events"], count),
    Column("dropped", lambda cell: cell["dropped"], count),
    Column("errors", lambda cell: cell["errors"], count),
    Column("achieved batch", lambda cell: cell["batch_achieved"]),
    _request("notifications"),
    _request("wakeups"),
    _request("syscalls"),
    Column("client CPU µs a request", lambda cell: cell["cpu_s_per_million"]["client"]),
    Column("daemon CPU µs a request", lambda cell: cell["cpu_s_per_million"]["daemon"]),
    Column("client switches", lambda cell: cell["context_switches"]["client"], count),
    Column("daemon switches", lambda cell: cell["context_switches"]["daemon"], count),
    Column("client MiB", lambda cell: cell["rss_mib"]["client"]),
    Column("daemon MiB", lambda cell: cell["rss_mib"]["daemon"]),
    Column("bytes copied", lambda cell: cell.get("bytes_copied"), count),
    Column("Little", lambda cell: cell["little"], lambda value: f"{value:.3f}"),
    Column("valid", lambda cell: int(cell["valid"]), lambda ok: "yes" if ok else "no"),
)


def columns(result: Result) -> list[Column]:
    """Return the parameters that differ, then all that was measured of any cell."""
    cells = result["cells"]
    names = ["slots", *(name for name in varied(cells) if name != "slots")]
    measured = (c for c in MEASURED if any(c.value(cell) is not None for cell in cells))
    return [*map(_parameter, names), *measured]


def _parameter(name: str) -> Column:
    return Column(name, lambda cell: cell["parameters"][name])


def _title(column: Column, example: Cell) -> str:
    look = {"class": "text"} if isinstance(column.value(example), str) else {}
    return element("th", escape(column.title), scope="col", **look)


def _field(column: Column, cell: Cell) -> str:
    value = column.value(cell)
    if isinstance(value, str):
        return element("td", escape(value), class_="text")
    if value is None:
        return '<td data-value="">-</td>'
    return element("td", escape(column.write(value)), data_value=repr(value))


def cells_table(result: Result) -> str:
    """Return the table, sortable where scripts may run."""
    if not result["cells"]:
        return ""
    shown = columns(result)
    titles = "".join(_title(column, result["cells"][0]) for column in shown)
    lines = [
        element(
            "tr", "".join(_field(column, cell) for column in shown),
            **({} if cell["valid"] else {"class": "invalid"}),
        )
        for cell in result["cells"]
    ]  # fmt: skip
    top = element("thead", element("tr", titles))
    return element("table", top + element("tbody", "".join(lines)), class_="sorted")
