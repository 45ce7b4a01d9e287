"""Just enough SVG: escaped elements, two kinds of scale, and a panel with axes.

A chart is text in a page, so its colours are classes of the page's style sheet and
follow light and dark with it.  Lengths are those of the view box; the page scales it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 560
FONT = 13
TICKS = 5


def number(value: float) -> str:
    """Return a coordinate with one decimal at most."""
    return f"{round(value, 1):g}"


def element(name: str, content: str = "", /, **attributes: object) -> str:
    """Return an element; `content` is markup, attributes are escaped."""
    words = [name]
    for key, value in attributes.items():
        text = number(value) if isinstance(value, float) else str(value)
        words.append(f'{key.strip("_").replace("_", "-")}="{escape(text)}"')
    inner = " ".join(words)
    return f"<{inner}>{content}</{name}>" if content else f"<{inner}/>"


def text(x: float, y: float, words: str, /, **attributes: object) -> str:
    """Return a text, escaped."""
    return element("text", escape(words), x=float(x), y=float(y), **attributes)


def picture(name: str, height: float, title: str, about: str, parts: list[str]) -> str:
    """Return a whole picture with its title and description for who cannot see it."""
    named = element("title", escape(title), id=f"{name}-title")
    told = element("desc", escape(about), id=f"{name}-desc")
    return element(
        "svg", "".join([named, told, *parts]), viewBox=f"0 0 {WIDTH} {number(height)}",
        role="img", aria_labelledby=f"{name}-title {name}-desc",
    )  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Values onto a line, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        part = (value - low) / (high - low) if high > low else 0.5
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return about five round values."""
        if self.log:
            low, high = math.ceil(math.log10(self.low)), int(math.log10(self.high))
            return [
                10.0**n for n in range(low, high + 1, max(1, (high - low) // TICKS))
            ]
        step = nice((self.high - self.low) / TICKS)
        low, high = math.ceil(self.low / step), int(self.high / step)
        return [n * step for n in range(low, high + 1)]


def nice(step: float) -> float:
    """Return `step` or a little more: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(
        power * part for part in (1, 2, 2.5, 5, 10) if power * part >= step * 0.999
    )


Points = Sequence[tuple[float, float]]


@dataclass
class Panel:
    """A pair of axes and what is drawn between them."""

    x: Scale
    y: Scale
    parts: list[str] = field(default_factory=list)

    def y_axis(self, title: str, write: Callable[[float], str]) -> None:
        """Draw a faint line and a number at each tick, and the title above."""
        for value in self.y.ticks():
            at = self.y(value)
            ends = {"x1": self.x.start - 6, "x2": self.x.end + 6}
            self.parts.append(element("line", y1=at, y2=at, class_="rule", **ends))
            at_text = self.x.start - 12
            look = {"class_": "tick", "text_anchor": "end"}
            self.parts.append(text(at_text, at + 4, write(value), **look))
        self.parts.append(text(4, self.y.end - 14, title, class_="axis"))

    def x_axis(
        self, title: str, values: Iterable[float], write: Callable[[float], str]
    ) -> None:
        """Draw the base line, a number at each value, and the title below."""
        base = self.y.start
        ends = {"x1": self.x.start - 6, "x2": self.x.end + 6}
        self.parts.append(element("line", y1=base, y2=base, class_="base", **ends))
        for value in values:
            look = {"class_": "tick", "text_anchor": "middle"}
            self.parts.append(text(self.x(value), base + 18, write(value), **look))
        middle = (self.x.start + self.x.end) / 2
        look = {"class_": "axis", "text_anchor": "middle"}
        self.parts.append(text(middle, base + 38, title, **look))

    def line(self, points: Points, look: str) -> None:
        """Draw a line through points."""
        if len(points) > 1:
            way = " ".join(f"{number(x)},{number(y)}" for x, y in self.places(points))
            self.parts.append(element("polyline", points=way, class_=f"line {look}"))

    def band(self, lower: Points, upper: Points, look: str) -> None:
        """Fill what lies between two lines."""
        around = self.places([*lower, *reversed(upper)])
        way = " ".join(f"{number(x)},{number(y)}" for x, y in around)
        self.parts.append(element("polygon", points=way, class_=f"band {look}"))

    def dots(self, points: Points, look: str, told: Callable[[float], str]) -> None:
        """Draw markers; each tells its value when it is pointed at."""
        for (x, y), (_, value) in zip(self.places(points), points, strict=True):
            title = element("title", escape(told(value)))
            self.parts.append(
                element("circle", title, cx=x, cy=y, r=4, class_=f"dot {look}")
            )

    def label(
        self, point: tuple[float, float], words: str, look: str, dx: float = 0,
        dy: float = 0, anchor: str = "start",
    ) -> None:  # fmt: skip
        """Write beside a point."""
        ((x, y),) = self.places([point])
        style = {"class_": f"label {look}", "text_anchor": anchor}
        self.parts.append(text(x + dx, y + dy, words, **style))

    def upright(self, value: float, words: str) -> None:
        """Mark a value of x in full height, named at the top."""
        at = self.x(value)
        ends = {"y1": self.y.start, "y2": self.y.end}
        self.parts.append(element("line", x1=at, x2=at, class_="knee", **ends))
        right_half = at > self.x.start + 0.6 * (self.x.end - self.x.start)
        look = {"class_": "label", "text_anchor": "end" if right_half else "start"}
        shift = -6 if right_half else 6
        self.parts.append(text(at + shift, self.y.end + 11, words, **look))

    def places(self, points: Points) -> list[tuple[float, float]]:
        """Return where points lie in the picture."""
        return [(self.x(x), self.y(y)) for x, y in points]
