"""How every plot is dressed: fonts, colours, a finding on top, labels beside lines.

Colours are those of Okabe and Ito, which the colour-blind tell apart; lines differ in
dashes and markers as well, so that they do in grey print.  A point that is not valid
is hollow, and no line passes it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5f5f5f"
WIDTH_IN = 8.0
TITLE_COLUMNS = 72
LOG_FROM = 30.0  # a range of latencies from which their axis is logarithmic
STYLE = {
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "savefig.dpi": 144,
}


class Point(NamedTuple):
    """One measured value, or what stands there though it cannot be believed."""

    x: float
    y: float
    valid: bool = True


def save(path: Path, draw: Callable[[], Figure]) -> Path:
    """Draw a figure in our style and write it."""
    from matplotlib import rc_context

    with rc_context(STYLE):  # type: ignore[arg-type]
        draw().savefig(path)
    return path


def figure(finding: str, height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty figure with its finding as the title."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width_in, height_in), layout="constrained")
    columns = TITLE_COLUMNS * width_in / WIDTH_IN
    lines = math.ceil(len(finding) / columns)
    title = textwrap.fill(finding, int(len(finding) / lines) + 8)
    made.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    made.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr,call-arg]
    return made


def subtitle(axes: Axes, text: str) -> None:
    """Write what was measured above the axes, in grey."""
    axes.set_title(textwrap.fill(text, 95), loc="left", fontsize=9.5, color=GREY)


def line(
    axes: Axes,
    points: Sequence[Point],
    text: str,
    colour: str,
    up: float = 0,
    **look: Any,
) -> None:
    """Draw points with a line through the valid ones, and its name at its end."""
    valid = [point for point in points if point.valid]
    axes.plot([p.x for p in valid], [p.y for p in valid], color=colour, **look)
    if valid:
        beside(axes, valid[-1], text, colour, (8, up))


def hollow(
    axes: Axes, points: Sequence[Point], colour: str, marker: str, down: float
) -> None:
    """Draw those points that are not valid hollow, and name the first."""
    bad = [point for point in points if not point.valid]
    x, y = [point.x for point in bad], [point.y for point in bad]
    look = {"mfc": "white", "mec": colour, "mew": 1.4, "zorder": 3}
    axes.plot(x, y, marker, **look)  # type: ignore[arg-type]
    if bad:
        beside(axes, bad[0], "not valid", colour, (0, -down), ha="center", fontsize=9)


def beside(
    axes: Axes,
    point: Point,
    text: str,
    colour: str,
    offset: tuple[float, float] = (8, 0),
    **given: Any,
) -> None:
    """Write a label in the colour of what it names."""
    look: dict[str, Any] = {"va": "center", "fontsize": 10} | given
    axes.annotate(
        text, (point.x, point.y), offset, textcoords="offset points", color=colour,
        annotation_clip=False, **look,
    )  # fmt: skip


def upright(axes: Axes, x: float, text: str) -> None:
    """Mark a value of x in full height, named at the top if there is a name."""
    axes.axvline(x, color="black", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    right_half = axes.transLimits.transform(axes.transScale.transform((x, 1)))[0] > 0.6
    if text:
        axes.annotate(
            text, (x, 1), (-5 if right_half else 5, -3), va="top", fontsize=10,
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if right_half else "left",
        )  # fmt: skip


def powers_of_two(axes: Axes, values: Sequence[int]) -> None:
    """Make x a logarithmic axis with a tick at each measured value."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.set_xticks([], minor=True)


def written(axis: Axis, write: Callable[[float], str]) -> None:
    """Write the numbers of an axis our way, its minor ones not at all."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_formatter(NullFormatter())


def latency_axis(axes: Axes, values_us: Sequence[float]) -> None:
    """Scale y for latencies: from zero, or logarithmic if they differ much."""
    finite = [value for value in values_us if math.isfinite(value) and value > 0]
    if finite and max(finite) > LOG_FROM * min(finite):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.2 * max(finite, default=1))


def heat(axes: Axes, rows: Sequence[Sequence[float]], **look: Any) -> Any:
    """Draw a matrix, first row at the top: the more, the darker, in grey as well."""
    image = axes.imshow(rows, cmap="Blues", aspect="auto", **look)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def written_into(axes: Axes, row: int, column: int, text: str, dark: bool) -> None:
    """Write a text into a field of a matrix, white where the field is dark."""
    look = {"ha": "center", "va": "center", "fontsize": 9.5}
    colour = "white" if dark else "black"
    axes.text(column, row, text, color=colour, **look)  # type: ignore[arg-type]
