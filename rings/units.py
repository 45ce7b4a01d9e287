"""Times and numbers as people write them: `200us`, `5ms`, `2s`; `50k`, `1.2M`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
TIMES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ]*)")


def seconds(text: str) -> float:
    """Return the seconds that `text` says; a bare number is one of seconds.

    Raises:
        ValueError: It says something else.
    """
    return _scaled(text, {**SECONDS, "": 1.0, "µs": 1e-6}, "a time", "200us, 5ms or 2s")


def number(text: str) -> float:
    """Return the number that `text` says, such as 1.2M.

    Raises:
        ValueError: It says something else.
    """
    return _scaled(text, {**TIMES, "K": 1e3}, "a number", "800, 50k or 1.2M")


def _scaled(text: str, units: dict[str, float], what: str, examples: str) -> float:
    match = WRITTEN.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is not {what}: write {examples}")
    value, unit = float(match[1]), units[match[2]]
    return value * unit if unit >= 1 else value / round(1 / unit)


def show_s(time_s: float) -> str:
    """Write a time with three digits and the unit that suits it."""
    if time_s == math.inf:
        return "for ever"
    fitting = [u for u in ("ns", "us", "ms") if round(time_s / SECONDS[u], 1) < 1000]
    unit = fitting[0] if fitting else "s"
    return f"{_digits(time_s / SECONDS[unit])} {unit}"


def show_number(value: float) -> str:
    """Write a number with three digits, or all of a whole one, in groups."""
    return _digits(value)


def _digits(value: float) -> str:
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def up(value: float) -> float:
    """Round up to three digits."""
    return _rounded(value, math.ceil)


def down(value: float) -> float:
    """Round down to three digits."""
    return _rounded(value, math.floor)


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 0 else 1.0
    return towards(value / unit) * unit
