"""Which cells a sweep has: axes as users write them, and the two sweeps of our own.

    order=0..6 batch=1,4,16 wait=block,spin:50

An axis is a name and its values, with commas or as a range of whole numbers; a sweep
is every combination of them.  Combinations that make no sense, such as more queues
than producers, are left out and said so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Final

from .. import units
from .cell import ONE_PAGE, Cell
from .device import Device
from .device import parse as parse_device

RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")
SIZES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20}
SIZE: Final = re.compile(r"(\d+)([kKmM]?)(?:i?B)?")
WRAP: Final = 2**32 - 1000

Values = Sequence[Any]


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _size(text: str) -> int:
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size: write 512, 4k or 1M")
    return int(match[1]) * SIZES[match[2].lower()]


def _depth(text: str) -> int | str | None:
    if text in ("auto", "slots"):
        return "auto" if text == "auto" else None
    return _whole(text)


AXES: Final[dict[str, Callable[[str], Any]]] = {
    "order": lambda text: ONE_PAGE << _whole(text),
    "slots": _whole,
    "batch": _whole,
    "producers": _whole,
    "queues": _whole,
    "policy": str,
    "size": _size,
    "wait": str,
    "depth": _depth,
    "rate": units.number,
    "arrivals": str,
    "place": str,
    "start": _whole,
}
FIELDS: Final = {"order": "slots", "rate": "rate_per_s"}


def axis(text: str) -> tuple[str, list[Any]]:
    """Return the field and the values that ``NAME=VALUES`` says.

    Raises:
        ValueError: There is no such axis, or a value of it makes no sense.
    """
    name, equals, values = text.partition("=")
    if name not in AXES or not equals:
        raise ValueError(f"{text!r} is no axis: write NAME=VALUES, NAME of {_names()}")
    found = [AXES[name](value) for part in values.split(",") for value in _each(part)]
    return FIELDS.get(name, name), found


def _names() -> str:
    return ", ".join(AXES)


def _each(part: str) -> list[str]:
    match = RANGE.fullmatch(part)
    if match is None:
        return [part]
    return [str(number) for number in range(int(match[1]), int(match[2]) + 1)]


class Plan:
    """Cells in their order, and how many combinations were left out and why."""

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        self.cells = list(dict.fromkeys(cells))
        self.left_out: list[str] = []

    def add(self, plain: Cell, axes: Mapping[str, Values]) -> Plan:
        """Add every combination of `axes`, all else as in `plain`; return self."""
        for values in product(*axes.values()):
            try:
                cell = replace(plain, **dict(zip(axes, values, strict=True)))
            except ValueError as error:
                self.left_out.append(str(error))
                continue
            if cell not in self.cells:
                self.cells.append(cell)
        return self

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)


def sweep(devices: Iterable[str], axes: Iterable[str], plain: Cell) -> Plan:
    """Return the cells of every device times every combination of the axes.

    Raises:
        ValueError: An axis or a device makes no sense, or no combination does.
    """
    found = dict(axis(text) for text in axes)
    plan = Plan()
    for device in devices:
        plan.add(replace(plain, device=parse_device(device)), found)
    if not plan.cells:
        raise ValueError(f"no combination makes sense: {plan.left_out[0]}")
    return plan


def orders(*numbers: int) -> list[int]:
    """Return the slots of rings of these orders."""
    return [ONE_PAGE << number for number in numbers]


def quick() -> Plan:
    """Return some cells of each kind: a sweep of about ten seconds."""
    plain = Cell(seconds=0.3)
    delay = replace(plain, device=Device("delay", 100, 0.005))
    random = replace(delay, device=Device("delay", 8, 0.001, "exponential"))
    return (
        Plan()
        .add(delay, {"slots": orders(0, 2, 4)})
        .add(plain, {"slots": orders(0, 3), "batch": [1, 16]})
        .add(replace(plain, slots=64), {"producers": [2, 4], "queues": [1, 2]})
        .add(replace(random, rate_per_s=6000), {"policy": ["block", "drop_new"]})
        .add(replace(plain, wait="spin:50", start=WRAP), {"slots": [128]})
        .add(replace(plain, device=Device("file")), {"size": [4096]})
    )


def default(seconds: float) -> Plan:
    """Return the sweep that answers all four questions, in under five minutes."""
    plain = Cell(seconds=seconds)
    apart = "two" if len(os.sched_getaffinity(0)) > 1 else "one"
    awake = replace(plain, wait="spin:50", place=apart)
    hundred = replace(plain, device=Device("delay", 100, 0.005))
    many = replace(plain, device=Device("delay", 1500, 0.005))
    eight = replace(plain, device=Device("delay", 8, 0.001, "exponential"))
    rates = [0.3, 0.5, 0.7, 0.8, 0.9, 1.1]
    file = replace(awake, device=Device("file"), slots=64)
    return (
        Plan()
        .add(hundred, {"slots": [1, *orders(*range(7))]})
        .add(many, {"slots": orders(*range(7))})
        .add(replace(hundred, slots=2048), {"depth": ["auto"]})
        .add(replace(many, slots=2048), {"depth": ["auto"]})
        .add(awake, {"batch": [1, 4, 16, 64], "slots": [8, *orders(0, 2, 4, 6)]})
        .add(awake, {"wait": ["block", "spin:50", "busy"], "slots": [1, 128]})
        .add(replace(plain, place="one"), {"slots": [1, 128]})
        .add(plain, {"queues": [1, 2, 4], "producers": [1, 2, 3, 4, 6, 8]})
        .add(eight, {"rate_per_s": [8000 * part for part in rates]})
        .add(
            replace(eight, slots=16, rate_per_s=7200),
            {"policy": ["block", "spill", "drop_new", "error"]},
        )
        .add(file, {"size": [512, 4096, 65536], "queues": [1, 2], "producers": [2]})
        .add(replace(plain, start=WRAP), {"slots": orders(0, 2)})
    )
