"""Numbers as people read them: three digits, and the unit beside them."""

from __future__ import annotations

import math

SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit
STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
TIMES = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"), (1e-3, "ns"))


def digits(value: float) -> str:
    """Return `value` with three significant digits, never as a power of ten."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = f"{round(value, places):.{places}f}" if places else f"{value:,.0f}"
    return rounded.rstrip("0").rstrip(".") if "." in rounded else rounded


def count(value: float) -> str:
    """Return `value` in thousands, millions, … where that is shorter."""
    for step, name in STEPS:
        if abs(value) >= step * (1 if step > 1e3 else 10):
            return f"{digits(value / step)}{SPACE}{name}"
    return digits(value)


def rate(per_s: float) -> str:
    """Return a rate, such as `18.6 k/s`."""
    return f"{count(per_s)}/s"


def duration(us: float) -> str:
    """Return a time given in microseconds in the unit that suits it."""
    for step, name in TIMES:
        if us and abs(us) >= step:
            return f"{digits(us / step)}{SPACE}{name}"
    return digits(us)


def share(part: float) -> str:
    """Return a share of one in percent."""
    percent = 100 * part
    written = f"{percent:.0f}" if abs(percent) >= 10 else f"{round(percent, 1):g}"
    return f"{written}{SPACE}%"


def times(ratio: float) -> str:
    """Return a ratio, such as `16 times`."""
    number = count(round(ratio)) if ratio >= 9.95 else f"{ratio:.1f}"
    return f"{number}{SPACE}times"
