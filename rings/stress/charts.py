"""The charts of the page, as SVG: the same five pictures as the plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from textwrap import shorten

from .findings import Cell, Curve, Grid, latency, p99
from .growth import Load, Scaling, lost
from .quantities import count, duration, rate, share
from .strips import Strips
from .svg import WIDTH, Panel, Points, Scale, element, picture, text

LEFT, RIGHT = 74, 486  # between them lie the values, beside them the names
HIGH = 150  # of a panel
LEVELS = 10  # of how full a ring is drawn
LOG_FROM = 30.0
MAX_NAME = 64  # characters above a strip


def _split(
    cells: Sequence[Cell], x: str, y: Callable[[Cell], float | None]
) -> tuple[Points, Points]:
    """Return the points of valid cells, and of the others."""
    found: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for cell in cells:
        value = y(cell)
        if value is not None and math.isfinite(value):
            found[not cell["valid"]].append((cell["parameters"][x], value))
    return found


def _series(
    panel: Panel,
    points: tuple[Points, Points],
    name: str,
    look: str,
    told: Callable[[float], str],
    below: bool = False,
) -> None:
    """Draw a line with markers, hollow ones where a cell is not valid."""
    valid, hollow = points
    panel.line(valid, look)
    panel.dots(valid, look, told)
    panel.dots(hollow, f"{look} hollow", told)
    if valid:
        panel.label(valid[-1], name, look, dx=10, dy=-4 if name == "p99" else 4)
    if hollow:
        panel.label(
            hollow[0], "not valid", look, dy=18 if below else -10, anchor="middle"
        )


def _y(values: Sequence[float], top: float, may_log: bool = False) -> Scale:
    finite = [value for value in values if value > 0]
    low, high = min(finite, default=1.0), max(finite, default=1.0)
    if may_log and high > LOG_FROM * low:
        return Scale(low / 1.5, high * 2, top + HIGH, top, log=True)
    return Scale(0, 1.15 * high, top + HIGH, top)


def _latencies(cells: Sequence[Cell], x: str, across: Scale, top: float) -> Panel:
    """Return a panel of p50 and p99 with the band between them."""
    late = _split(cells, x, p99)
    middle, _ = _split(cells, x, lambda cell: latency(cell, "p50"))
    foreseen = _predicted(cells, "p99_us")
    high = [y for _, y in (*middle, *late[0], *late[1], *foreseen)]
    panel = Panel(across, _y(high, top, may_log=True))
    panel.y_axis("latency", duration)
    panel.band(middle, late[0], "late")
    panel.line(middle, "late thin")
    if middle:
        panel.label(middle[-1], "p50", "late", dx=10, dy=12)
    _series(panel, late, "p99", "late", lambda us: f"p99 {duration(us)}")
    if foreseen:
        panel.line(foreseen, "theory")
        middle_one = foreseen[len(foreseen) // 2]
        panel.label(middle_one, "M/M/c/K", "theory", dx=-4, dy=-10, anchor="end")
    return panel


def _predicted(cells: Sequence[Cell], name: str) -> Points:
    found = [
        (c["parameters"]["rate_per_s"], (c.get("predicted") or {}).get(name))
        for c in cells
    ]
    return [(x, float(y)) for x, y in found if y is not None]


def over_slots(name: str, curve: Curve) -> str:
    """Draw throughput above latency over the size of the ring."""
    cells, slots = curve.group.cells, curve.group.values("slots")
    across = Scale(slots[0], slots[-1], LEFT, RIGHT, log=True)
    measured = _split(cells, "slots", lambda cell: cell["achieved_per_s"])
    law = [
        (cell["parameters"]["slots"], cell["predicted_per_s"])
        for cell in cells
        if cell["predicted_per_s"] is not None
    ]
    panel = Panel(across, _y([y for _, y in (*measured[0], *measured[1], *law)], 30))
    panel.y_axis("requests a second", count)
    panel.line(law, "theory")
    if law:
        panel.label(law[-1], "Little: min(N, K) / S", "theory", dy=-9, anchor="end")
    _series(panel, measured, "measured", "most", rate, below=True)
    below = _latencies(cells, "slots", across, 236)
    below.x_axis("slots of the ring", slots, lambda value: f"{value:,}")
    if curve.knee is not None:
        panel.upright(curve.knee, "")
        below.upright(curve.knee, f"knee: {curve.knee:,} slots")
    about = "; ".join(
        f"{c['parameters']['slots']} slots: {rate(c['achieved_per_s'])}" for c in cells
    )
    return picture(name, 432, curve.finding, about, panel.parts + below.parts)


def over_batch(name: str, grid: Grid) -> str:
    """Draw throughput and p99 as two heat maps of ring and batch."""
    parts: list[str] = []
    high = 26 * len(grid.slots)
    panels: tuple[tuple[str, Callable[[Cell], float], Callable[[float], str]], ...] = (
        ("requests a second", lambda cell: cell["achieved_per_s"], count),
        ("p99 latency", p99, duration),
    )
    for place, (title, value, write) in enumerate(panels):
        parts += _heat(grid, title, value, write, 44 + place * (high + 74))
    height = 2 * high + 136
    about = f"slots {grid.slots} by batch {grid.batches}"
    return picture(name, height, grid.finding, about, parts)


def _heat(
    grid: Grid,
    title: str,
    value: Callable[[Cell], float],
    write: Callable[[float], str],
    top: int,
) -> list[str]:
    fields = grid.fields(value)
    finite = [field.value for row in fields for field in row if field]
    level = Scale(min(finite, default=0), max(finite, default=1), 0, LEVELS)
    wide = (WIDTH - LEFT - 8) / len(grid.batches)
    parts = [text(4, top - 24, title, class_="axis")]
    for x, batch in enumerate(grid.batches):
        name = f"batch {batch}" if x == 0 else str(batch)
        parts.append(_middle(LEFT + (x + 0.5) * wide, top - 6, name, "tick"))
    for y, row in enumerate(reversed(fields)):
        at = top + 26 * y
        name = f"{grid.slots[-1 - y]:,}" + (" slots" if y == 0 else "")
        parts.append(text(LEFT - 8, at + 17, name, class_="tick", text_anchor="end"))
        for x, field in enumerate(row):
            if field:
                look = f"l{round(level(field.value))}" if field.valid else "bad"
                box = {"y": at, "width": wide - 2, "height": 24}
                place = LEFT + x * wide
                parts.append(element("rect", x=place, class_=f"heat {look}", **box))
                words = write(field.value) + ("" if field.valid else " *")
                parts.append(_middle(place + wide / 2 - 1, at + 17, words, "cell"))
    return parts


def _middle(x: float, y: float, words: str, look: str) -> str:
    return text(x, y, words, class_=look, text_anchor="middle")


def over_producers(name: str, scaling: Scaling) -> str:
    """Draw throughput over producers with the fitted law."""
    last = scaling.points[-1][0]
    across = Scale(1, last, LEFT, RIGHT)
    every = sorted([*scaling.points, *scaling.hollow])
    panel = Panel(across, _y([per_s for _, per_s in every], 30))
    panel.y_axis("requests a second", count)
    panel.x_axis("producers", [n for n, _ in every], str)
    fine = [1 + (last - 1) * step / 60 for step in range(61)]
    panel.line([(n, scaling.fit(n)) for n in fine], "theory")
    panel.dots(scaling.points, "most", rate)
    panel.dots(scaling.hollow, "most hollow", rate)
    panel.label((last, 0), scaling.law, "theory", dy=-10, anchor="end")
    if 1 <= scaling.best <= last:
        panel.upright(scaling.best, f"peak of the fit: {scaling.best:.1f}")
    about = "; ".join(f"{n}: {rate(per_s)}" for n, per_s in scaling.points)
    return picture(name, 226, scaling.finding, about, panel.parts)


def over_load(name: str, load: Load) -> str:
    """Draw latency and loss over the offered rate."""
    cells, rates = load.group.cells, load.group.values("rate_per_s")
    across = Scale(0, rates[-1], LEFT, RIGHT)
    panel = _latencies(cells, "rate_per_s", across, 30)
    gone, foreseen = _split(cells, "rate_per_s", lost), _predicted(cells, "blocking")
    high = [y for _, y in (*gone[0], *gone[1], *foreseen)]
    below = Panel(across, _y([*high, 0.01], 236))
    below.y_axis("share lost", share)
    below.x_axis("offered requests a second", across.ticks(), count)
    below.line(foreseen, "theory")
    _series(below, gone, "dropped", "gone", share)
    about = "; ".join(
        f"{rate(c['parameters']['rate_per_s'])}: p99 {duration(p99(c))}" for c in cells
    )
    return picture(name, 432, load.finding, about, panel.parts + below.parts)


def occupancy(name: str, strips: Strips) -> str:
    """Draw how full each ring was over time: a strip for each cell."""
    rows, parts = strips.rows, []
    for place, row in enumerate(rows):
        at = 38 * place
        words = shorten(row.label, MAX_NAME, placeholder=" …")
        words += "" if row.valid else " (not valid)"
        parts.append(text(4, at + 14, words, class_="tick"))
        parts.append(
            element("rect", x=4, y=at + 19, width=WIDTH - 8, height=14, class_="empty")
        )
        parts += _strip(row.shares, at + 19)
    about = "; ".join(f"{row.label}: full {share(row.full)}" for row in rows)
    bottom = 38 * len(rows) + 16
    parts.append(text(4, bottom, "start", class_="tick"))
    parts.append(text(WIDTH - 4, bottom, "end", class_="tick", text_anchor="end"))
    return picture(name, bottom + 6, strips.finding, about, parts)


def _strip(shares: Sequence[float], top: int) -> list[str]:
    """Return one path a level of filling, neighbours of one level joined."""
    wide = (WIDTH - 8) / len(shares)
    levels = [min(LEVELS, round(part * LEVELS)) for part in shares]
    ways: dict[int, str] = {}
    place = 0
    for level, run in groupby(levels):
        length = len(list(run))
        way = f"M{4 + place * wide:.1f} {top + 7}h{length * wide:.1f}"
        ways[level] = ways.get(level, "") + way
        place += length
    return [
        element("path", d=way, class_=f"slice s{level}")
        for level, way in sorted(ways.items())
        if level
    ]
