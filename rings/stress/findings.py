"""What a sweep says: cells grouped into curves and grids, each with one sentence.

Charts and pages draw what is here and decide nothing themselves.  A group is all
cells that differ in the named parameters only.  Cells that are not valid stay in
their group, to be drawn hollow, and have no say in any sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ..advice import knee as smallest
from .quantities import duration, rate, times

Cell: TypeAlias = Mapping[str, Any]
Result: TypeAlias = Mapping[str, Any]

SIZE = ("slots", "order")
FOLLOWS = {
    "order",
    "servers",
    "service_s",
    "variability",
}  # said by another parameter already
GROWS = 1.2  # a ratio of latencies from which we speak of longer
HOLDS = 2.0  # up to this many times the least p99 a latency still holds
MOST = 4  # groups of a kind that are drawn; the table has them all

USUAL = {  # goes without saying
    "batch": 1, "producers": 1, "queues": 1, "policy": "block", "depth": None,
    "size": 0, "wait": "block", "loop": "closed", "rate_per_s": None,
    "arrivals": "poisson", "place": "free", "start": 0,
}  # fmt: skip
WORDS: Mapping[str, Callable[[Any], str]] = {
    "slots": lambda value: f"{value:,} slots",
    "batch": lambda value: f"batch {value}",
    "producers": lambda value: f"{value} producer{'s'[: value != 1]}",
    "queues": lambda value: f"{value} queue{'s'[: value != 1]}",
    "policy": lambda value: f"{value.replace('_', ' ')} when full",
    "depth": lambda value: f"depth {value}",
    "size": lambda value: f"{value:,} B",
    "wait": lambda value: f"wait {value}",
    "loop": lambda value: f"{value} loop",
    "rate_per_s": lambda value: f"{rate(value)} offered",
    "arrivals": lambda value: f"{value} arrivals",
    "place": lambda value: f"on {value} core{'s'[: value != 'one']}",
    "seconds": lambda value: f"{value:g} s",
    "start": lambda value: f"indices from {value}",
}


def measured(result: Result) -> Result:
    """Return a result without the cells of which nothing could be measured."""
    cells = [cell for cell in result["cells"] if not cell.get("failed")]
    return {**result, "cells": cells}


def said(name: str, value: Any) -> str:
    """Return one parameter in words."""
    return WORDS.get(name, str)(value)


def varied(cells: Iterable[Cell]) -> list[str]:
    """Return the parameters that differ among `cells`, derived ones left out."""
    seen: dict[str, set[str]] = {}
    for cell in cells:
        for name, value in cell["parameters"].items():
            seen.setdefault(name, set()).add(json.dumps(value))
    differ = {name for name, values in seen.items() if len(values) > 1}
    return [name for name in seen if name in (differ | {"device"}) - FOLLOWS]


def label(of: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return those of the named parameters in words that are not as usual."""
    told = [n for n in names if n in of and (n not in USUAL or of[n] != USUAL[n])]
    return ", ".join(said(name, of[name]) for name in told)


def latency(cell: Cell, name: str) -> float | None:
    """Return a latency in µs, or None where too little was measured for one."""
    found = (cell.get("latency_us") or {}).get(name)
    return float(found) if found is not None else None


def p99(cell: Cell) -> float:
    """Return the p99 in µs, endless if there is none: so it wins nothing."""
    found = latency(cell, "p99")
    return math.inf if found is None else found


@dataclass(frozen=True)
class Group:
    """Cells that differ in one or two parameters only, ascending in them."""

    label: str
    fixed: Mapping[str, Any]
    cells: Sequence[Cell]

    @property
    def valid(self) -> list[Cell]:
        """The cells that may be believed."""
        return [cell for cell in self.cells if cell["valid"]]

    def values(self, name: str) -> list[Any]:
        """Return the different values of a parameter, ascending."""
        return sorted({cell["parameters"][name] for cell in self.cells})

    def is_fixed_as(self, fixed: Mapping[str, Any]) -> bool:
        """Whether `fixed`, of a knee or a fit in the result, is about this group."""
        return all(self.fixed[n] == fixed[n] for n in self.fixed.keys() & fixed.keys())


def rank(value: Any) -> tuple[str, float]:
    """Return what sorts a parameter: numbers by size, then names."""
    return (value, 0) if isinstance(value, str) else ("", value or 0)


def groups(result: Result, *over: str) -> list[Group]:
    """Return all groups of cells over some parameters, the fullest first."""
    names = [n for n in varied(result["cells"]) if n not in over]
    found: dict[str, list[Cell]] = {}
    for cell in result["cells"]:
        fixed = {k: v for k, v in cell["parameters"].items() if k not in over}
        found.setdefault(json.dumps(fixed, sort_keys=True), []).append(cell)
    made = [
        Group(
            label(fixed := json.loads(same), names),
            fixed,
            sorted(cells, key=lambda c: [rank(c["parameters"][n]) for n in over]),
        )
        for same, cells in found.items()
    ]
    return sorted(made, key=lambda group: -len(group.cells))


@dataclass(frozen=True)
class Curve:
    """Throughput and latency over slots; the knee, if they show one."""

    group: Group
    knee: int | None
    finding: str

    @property
    def label(self) -> str:
        """What was measured."""
        return self.group.label


def knee(result: Result, group: Group) -> int | None:
    """Return the slots of the knee, as the result has it or by the same rule."""
    if not group.valid:
        return None
    for known in result.get("knees") or ():
        if known["over"] == "slots" and group.is_fixed_as(known["fixed"]):
            return known["slots"]  # type: ignore[no-any-return]
    objective = result.get("objective") or {}
    return smallest(group.cells, objective.get("p99_s"), objective.get("share", 0.95))


def curve_finding(group: Group, slots: int | None) -> str:
    """Say whether a bigger ring gives more, and what it costs."""
    valid = group.valid
    at = next((c for c in valid if c["parameters"]["slots"] == slots), None)
    if not valid:
        return "No cell of this curve is valid; the table says why"
    if len(valid) == 1:
        return "Only one cell of this curve is valid: one size shows no knee"
    if at is None:
        best = min(valid, key=p99)
        return (
            f"No ring here meets the objective: the least p99 is {duration(p99(best))},"
            f" with {best['parameters']['slots']:,} slots"
        )
    last = valid[-1]
    most = last["parameters"]["slots"]
    if slots == most:
        return f"Throughput still grows at {most:,} slots: measure bigger rings too"
    longer = p99(last) / p99(at)
    if longer >= GROWS:
        so = f"{most:,} only make p99 latency {times(longer)} as long"
    else:
        so = f"up to {most:,} more change nothing"
    return f"A ring of {slots:,} slots is enough: {so}"


def curves(result: Result) -> list[Curve]:
    """Return the curves over slots, at most a few: of several batches the best."""
    found = [group for group in groups(result, *SIZE) if len(group.values("slots")) > 1]
    best: dict[str, Group] = {}
    for group in sorted(found, key=peak):
        others = {k: v for k, v in group.fixed.items() if k != "batch"}
        best[json.dumps(others)] = group
    drawn = [group for group in found if group in best.values()]
    return [curve(group, knee(result, group)) for group in drawn[:MOST]]


def peak(group: Group) -> float:
    """Return the most that a group achieved."""
    return max((cell["achieved_per_s"] for cell in group.valid), default=0.0)


def curve(group: Group, enough: int | None) -> Curve:
    """Return a curve; where throughput still grows at its end, there is no knee."""
    sizes = [cell["parameters"]["slots"] for cell in group.valid]
    shown = enough if enough in sizes[:-1] else None
    return Curve(group, shown, curve_finding(group, enough))


class Field(NamedTuple):
    """One number of a grid."""

    value: float
    valid: bool


@dataclass(frozen=True)
class Grid:
    """Cells by slots (rows) and batch (columns)."""

    group: Group
    slots: list[int]
    batches: list[int]
    finding: str

    @property
    def label(self) -> str:
        """What was measured."""
        return self.group.label

    def fields(self, value: Callable[[Cell], float]) -> list[list[Field | None]]:
        """Return a number of each cell, row by row; None where nothing was measured."""
        found = {
            (cell["parameters"]["slots"], cell["parameters"]["batch"]): Field(
                number, cell["valid"]
            )
            for cell in self.group.cells
            if math.isfinite(number := value(cell))
        }
        return [[found.get((s, b)) for b in self.batches] for s in self.slots]


def grid_finding(group: Group) -> str:
    """Say which of ring and batch matters more."""
    if not group.valid:
        return "No cell of this grid is valid; the table says why"
    best = max(group.valid, key=lambda cell: cell["achieved_per_s"])
    gains = {name: gain(group, best, name) for name in ("slots", "batch")}
    strong = max(gains, key=lambda name: gains[name])
    weak = "batch" if strong == "slots" else "slots"
    names = {"slots": "a bigger ring", "batch": "a bigger batch"}
    place = ", ".join(said(name, best["parameters"][name]) for name in gains)
    return (
        f"{names[strong].capitalize()} brings up to {times(gains[strong])} the "
        f"throughput, {names[weak]} {times(gains[weak])}; most is "
        f"{rate(best['achieved_per_s'])} with {place}"
    )


def gain(group: Group, best: Cell, name: str) -> float:
    """Return the best cell over the worst that differs from it in `name` only."""
    fixed = "batch" if name == "slots" else "slots"
    line = [
        cell["achieved_per_s"]
        for cell in group.valid
        if cell["parameters"][fixed] == best["parameters"][fixed]
    ]
    return float(max(line) / min(line)) if min(line) else math.inf


def grids(result: Result) -> list[Grid]:
    """Return the grids of slots and batch, at most a few."""
    return [
        Grid(g, g.values("slots"), g.values("batch"), grid_finding(g))
        for g in groups(result, *SIZE, "batch")
        if len(g.values("slots")) > 1 and len(g.values("batch")) > 1
    ][:MOST]
