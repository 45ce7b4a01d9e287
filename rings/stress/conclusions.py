"""The four questions asked of every ring, answered from a sweep in a sentence each.

How big, how many rings, what when it is full, how many push: whatever the sweep varied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .findings import Cell, Group, Result, curves, grids, groups, latency, peak
from .growth import lost, scalings
from .quantities import duration, rate, share


def advice(result: Result) -> list[str]:
    """Return the sentences that follow; none if nothing was varied."""
    answers = {
        "how big": _named(curves(result)),
        "how big, how many at once": _named(grids(result)),
        "how many rings": map(_rings, _varied(result, "queues")),
        "how many push": _named(scalings(result)),
        "what when full": map(_policies, _varied(result, "policy")),
        "how deep": filter(
            None, map(_depths, _varied(result, "depth", ("slots", "order")))
        ),
    }
    return [
        f"{question[0].upper()}{question[1:]}? {answer}."
        for question, found in answers.items()
        for answer in found
    ]


def _named(found: Any) -> Iterator[str]:
    for each in found:
        yield f"{each.label}: {each.finding}" if each.label else each.finding


def _varied(
    result: Result, name: str, derived: tuple[str, ...] = ()
) -> Iterator[Group]:
    for group in groups(result, name, *derived):
        if len({str(cell["parameters"][name]) for cell in group.valid}) > 1:
            yield group


def _rings(group: Group) -> str:
    best = max(group.valid, key=lambda cell: cell["achieved_per_s"])
    number = best["parameters"]["queues"]
    most = max(cell["parameters"]["queues"] for cell in group.valid)
    tried = f"of 1 to {most} rings"
    return f"{group.label}: {number} carried most {tried}, {rate(peak(group))}"


def _policies(group: Group) -> str:
    told = [
        f"{cell['parameters']['policy']} loses {share(lost(cell))}"
        f" and answers in {duration(latency(cell, 'p99') or 0)} (p99)"
        for cell in group.valid
    ]
    return f"{group.label}: {', '.join(told)}"


def _depths(group: Group) -> str:
    by_depth: Mapping[Any, Cell] = {
        cell["parameters"]["depth"]: cell for cell in group.valid
    }
    found, full = by_depth.get("auto"), by_depth.get(None)
    if found is None or full is None:
        return ""
    part: float = found["achieved_per_s"] / full["achieved_per_s"]
    shorter = (latency(full, "p50") or 0) / max(1e-9, latency(found, "p50") or 0)
    slots = full["parameters"]["slots"]
    return (
        f"{group.label}: depth=auto carries {share(part)} of what {slots:,} slots do,"
        f" its p50 latency is {shorter:.1f} times shorter"
    )
