"""What more load does: producers against the USL, offered rates against M/M/c/K.

Like `findings`: groups of cells with one sentence each, and nothing drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .findings import HOLDS, MOST, Cell, Group, Result, groups, label, p99, varied
from .quantities import duration, rate, share, times


@dataclass(frozen=True)
class Scaling:
    """Throughput over producers, with the fit of the universal scalability law."""

    label: str
    points: list[tuple[int, float]]
    hollow: list[tuple[int, float]]
    sigma: float
    kappa: float
    gamma: float
    best: float
    finding: str

    @property
    def law(self) -> str:
        """The parameters of the fit."""
        return f"USL fit: sigma {self.sigma:.3f}, kappa {self.kappa:.4f}"

    def fit(self, producers: float) -> float:
        """Return what the law gives for some number of producers."""
        waiting = self.sigma * (producers - 1)
        agreeing = self.kappa * producers * (producers - 1)
        return self.gamma * producers / (1 + waiting + agreeing)


def scaling_finding(points: list[tuple[int, float]], best: float) -> str:
    """Say how many producers pay."""
    most, peak = max(points, key=lambda point: point[1])
    if most == points[0][0]:
        one = "pushes" if most == 1 else "push"
        return f"{producers(most)} {one} most, {rate(peak)}; more than that push less"
    gain = f"{producers(most)} push {times(peak / points[0][1])} what one does"
    if most < points[-1][0]:
        return f"{gain}, {rate(peak)}; more than that push less"
    if math.isfinite(best):
        return f"{gain}; the fit has its peak at {best:.0f}"
    return f"{gain}, and no peak is in sight"


def producers(number: int) -> str:
    """Return a number of producers in words."""
    return "1 producer" if number == 1 else f"{number} producers"


def hollow(found: list[Group], fixed: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return the points that are not valid, and had no say in the fit."""
    return [
        (cell["parameters"]["producers"], cell["achieved_per_s"])
        for group in found
        if group.is_fixed_as(fixed)
        for cell in group.cells
        if not cell["valid"]
    ]


def scalings(result: Result) -> list[Scaling]:
    """Return the curves over producers that the result has a fit for."""
    found = groups(result, "producers")
    names = [n for n in varied(result["cells"]) if n != "producers"]
    made = []
    for law in (result.get("usl") or ())[:MOST]:
        points = sorted((int(n), float(per_s)) for n, per_s in law["points"])
        best = law["best_producers"] or math.inf
        made.append(
            Scaling(
                label(law["fixed"], names), points, hollow(found, law["fixed"]),
                law["sigma"], law["kappa"], law["gamma"], best,
                scaling_finding(points, best),
            )
        )  # fmt: skip
    return made


@dataclass(frozen=True)
class Load:
    """Latency and loss over what was offered, in the open loop."""

    group: Group
    finding: str

    @property
    def label(self) -> str:
        """What was measured."""
        return self.group.label


def lost(cell: Cell) -> float:
    """Return the share of what was offered that was dropped or failed."""
    gone = cell["dropped"] + cell["errors"]
    return float(gone / max(1, cell["requests"] + gone))


def load_finding(group: Group) -> str:
    """Say up to which rate the latency holds."""
    if not group.valid:
        return "No cell of this curve is valid; the table says why"
    least = min(map(p99, group.valid))
    holding = [cell for cell in group.valid if p99(cell) <= HOLDS * least]
    last, beyond = holding[-1], group.valid[-1]
    at = rate(last["parameters"]["rate_per_s"])
    if last is beyond:
        return f"Latency holds up to {at}, the most that was offered"
    longer = times(p99(beyond) / least)
    gone = lost(beyond)
    end = f", and {share(gone)} are lost" if gone else ""
    return (
        f"Latency holds up to {at}; at {rate(beyond['parameters']['rate_per_s'])} "
        f"p99 is {duration(p99(beyond))}, {longer} the least{end}"
    )


def loads(result: Result) -> list[Load]:
    """Return the open-loop curves over the offered rate, at most a few."""
    return [
        Load(group, load_finding(group))
        for group in groups(result, "rate_per_s")
        if group.fixed["loop"] == "open" and len(group.values("rate_per_s")) > 1
    ][:MOST]
