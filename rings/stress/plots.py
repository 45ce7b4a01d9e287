"""Plots of a sweep as PNG files, drawn by matplotlib without a screen.

One function a kind of plot; `canvas` dresses them all, `findings` and `growth` say
what is drawn and what it shows.

This module needs matplotlib (`pip install 'rings[stress]'`), and only when it draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from . import canvas
from .canvas import BLUE, GREEN, GREY, ORANGE, Point
from .findings import (
    Cell,
    Curve,
    Grid,
    Result,
    curves,
    grids,
    latency,
    measured,
    p99,
)
from .growth import Load, Scaling, loads, lost, scalings
from .quantities import count, duration, share
from .strips import Strips, strips

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAME = 100  # characters above a strip


def draw(result: Result, folder: str | Path) -> list[Path]:
    """Draw all that a result has to show.

    Args:
        result: What `rings stress --json` wrote.
        folder: Where the files go; it is made if it is missing.

    Returns:
        The files, in the order in which to look at them.

    Raises:
        ModuleNotFoundError: There is no matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'rings[stress]'")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [
        canvas.save(Path(folder, name), make)
        for name, make in _figures(measured(result))
    ]


def _figures(result: Result) -> Iterator[tuple[str, Callable[[], Figure]]]:
    kinds: list[tuple[str, Sequence[Any], Callable[[Any], Figure]]] = [
        ("slots", curves(result), over_slots),
        ("batch", grids(result), over_batch),
        ("producers", scalings(result), over_producers),
        ("load", loads(result), over_load),
        ("occupancy", strips(result), occupancy),
    ]
    for kind, found, make in kinds:
        for number, one in enumerate(found, 1):
            name = f"{kind}-{number}.png" if len(found) > 1 else f"{kind}.png"
            yield name, partial(make, one)


def _points(
    cells: Sequence[Cell], x: str, y: Callable[[Cell], float | None]
) -> list[Point]:
    found = [(cell["parameters"][x], y(cell), cell["valid"]) for cell in cells]
    return [
        Point(at, value, valid)
        for at, value, valid in found
        if value is not None and math.isfinite(value)
    ]


def _latencies(axes: Axes, cells: Sequence[Cell], x: str) -> None:
    """Draw p50 and p99 with the band between them."""
    middle = _points(cells, x, lambda cell: latency(cell, "p50"))
    late = _points(cells, x, p99)
    both = [(a, b) for a, b in zip(middle, late, strict=True) if a.valid]
    axes.fill_between(
        [a.x for a, _ in both], [a.y for a, _ in both], [b.y for _, b in both],
        color=ORANGE, alpha=0.15, linewidth=0,
    )  # fmt: skip
    canvas.line(axes, middle, "p50", ORANGE, -7, linestyle="--", linewidth=1.2)
    canvas.line(axes, late, "p99", ORANGE, 7, marker="s")
    canvas.hollow(axes, late, ORANGE, "s", down=-13)
    canvas.latency_axis(axes, [point.y for point in (*middle, *late)])
    canvas.written(axes.yaxis, duration)
    axes.set_ylabel("latency")


def over_slots(curve: Curve) -> Figure:
    """Draw throughput above latency over the size of the ring."""
    cells = curve.group.cells
    figure = canvas.figure(curve.finding, 6.4)
    above, below = figure.subplots(2, 1, sharex=True)
    canvas.subtitle(above, curve.label)
    canvas.powers_of_two(above, curve.group.values("slots"))
    predicted = _points(cells, "slots", lambda cell: cell["predicted_per_s"])
    measured = _points(cells, "slots", lambda cell: cell["achieved_per_s"])
    law = [point._replace(valid=True) for point in predicted]
    above.plot([p.x for p in law], [p.y for p in law], "--", color=GREY, linewidth=1.4)
    if law:
        canvas.beside(
            above, law[-1], "Little: min(N, K) / S", GREY, (0, 10), ha="right"
        )
    canvas.line(above, measured, "measured", BLUE, marker="o")
    canvas.hollow(above, measured, BLUE, "o", down=13)
    above.set_ylim(0, 1.15 * max((p.y for p in (*law, *measured)), default=1))
    above.set_ylabel("requests a second")
    canvas.written(above.yaxis, count)
    _latencies(below, cells, "slots")
    below.set_xlabel("slots of the ring")
    if curve.knee is not None:
        canvas.upright(above, curve.knee, "")
        canvas.upright(below, curve.knee, f"knee: {curve.knee:,} slots")
    return figure


def over_batch(grid: Grid) -> Figure:
    """Draw throughput and p99 as heat maps of ring and batch."""
    height_in = 2.3 + 0.42 * len(grid.slots)
    figure = canvas.figure(grid.finding, height_in, 2 + 1.9 * len(grid.batches))
    left, right = figure.subplots(1, 2, sharey=True)
    _heat(left, grid, "requests a second", lambda c: c["achieved_per_s"], count)
    _heat(right, grid, "p99 latency", p99, duration)
    left.set_ylabel("slots of the ring")
    return figure


def _heat(
    axes: Axes,
    grid: Grid,
    title: str,
    value: Callable[[Cell], float],
    write: Callable[[float], str],
) -> None:
    fields = grid.fields(value)
    finite = [field.value for row in fields for field in row if field]
    low, high = min(finite, default=0), max(finite, default=1)
    width = high - low or 1
    rows = [[field.value if field else math.nan for field in row] for row in fields]
    canvas.heat(axes, rows, vmin=low - 0.1 * width, vmax=high)
    axes.invert_yaxis()
    for y, row in enumerate(fields):
        for x, field in enumerate(row):
            if field:
                text = write(field.value) + ("" if field.valid else "\nnot valid")
                dark = field.value > low + 0.62 * width
                canvas.written_into(axes, y, x, text, dark)
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.set_xticks(range(len(grid.batches)), [str(b) for b in grid.batches])
    axes.set_yticks(range(len(grid.slots)), [f"{s:,}" for s in grid.slots])
    axes.set_xlabel("requests a publish (batch)")


def over_producers(scaling: Scaling) -> Figure:
    """Draw throughput over producers with the fitted law."""
    figure = canvas.figure(scaling.finding, 4.6)
    axes = figure.subplots()
    canvas.subtitle(axes, scaling.label)
    last = scaling.points[-1][0]
    fine = [1 + (last - 1) * step / 200 for step in range(201)]
    axes.plot(fine, [scaling.fit(n) for n in fine], "--", color=GREY, linewidth=1.4)
    axes.plot(*zip(*scaling.points, strict=True), "o", color=BLUE)
    canvas.hollow(axes, [Point(*p, False) for p in scaling.hollow], BLUE, "o", down=13)
    canvas.beside(axes, Point(last, 0), scaling.law, GREY, (0, 10), ha="right")
    if 1 <= scaling.best <= last:
        canvas.upright(axes, scaling.best, f"peak of the fit: {scaling.best:.1f}")
    every = [*scaling.points, *scaling.hollow]
    axes.set_xticks([number for number, _ in every])
    axes.set_ylim(0, 1.2 * max(per_s for _, per_s in every))
    axes.set_xlabel("producers")
    axes.set_ylabel("requests a second")
    canvas.written(axes.yaxis, count)
    return figure


def over_load(load: Load) -> Figure:
    """Draw latency and loss over the offered rate."""
    cells = load.group.cells
    figure = canvas.figure(load.finding, 6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    canvas.subtitle(above, load.label)
    _predicted(above, cells, "p99_us", "p99 of M/M/c/K", (0, 10))
    _latencies(above, cells, "rate_per_s")
    _predicted(below, cells, "blocking", "blocking of M/M/c/K", (0, 10))
    gone = _points(cells, "rate_per_s", lost)
    canvas.line(below, gone, "dropped", GREEN, marker="^")
    canvas.hollow(below, gone, GREEN, "^", down=-13)
    below.set_ylim(bottom=0)
    below.set_ylabel("share lost")
    canvas.written(below.yaxis, share)
    below.set_xlabel("offered requests a second")
    canvas.written(below.xaxis, count)
    return figure


def _predicted(
    axes: Axes, cells: Sequence[Cell], name: str, text: str, offset: tuple[float, float]
) -> None:
    found = _points(cells, "rate_per_s", lambda c: (c.get("predicted") or {}).get(name))
    axes.plot(
        [p.x for p in found], [p.y for p in found], "--", color=GREY, linewidth=1.4
    )
    if found:
        middle = found[len(found) // 2]
        canvas.beside(axes, middle, text, GREY, offset, ha="right")


def occupancy(strips: Strips) -> Figure:
    """Draw how full each ring was over time: a strip for each cell, named above it."""
    rows = strips.rows
    figure = canvas.figure(strips.finding, 2.1 + 0.46 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        where = (0.0, 1.0, place + 0.95, place + 0.5)
        image = canvas.heat(axes, [row.shares], vmin=0, vmax=1, extent=where)
        name = shorten(row.label, MAX_NAME, placeholder=" …")
        text = axes.text(0, place + 0.45, name, va="bottom", fontsize=9.5)
        text.set_in_layout(False)
        if not row.valid:
            text.set_text(f"{name} (not valid)")
    axes.set_ylim(len(rows), 0)
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xticks([0, 1], ["start", "end"])
    axes.set_xlabel("time")
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40)
    bar.set_label("share of the slots in flight")
    canvas.written(bar.ax.xaxis, share)
    return figure
