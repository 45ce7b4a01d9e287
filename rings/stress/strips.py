"""How full each ring was over time: a strip for each cell, evenly thinned out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .findings import Cell, Result, label, varied
from .quantities import share

MOST = 20
NEARLY = 0.9  # a ring is full from this share of its slots on


@dataclass(frozen=True)
class Strip:
    """One ring, slice by slice, as a share of its slots."""

    label: str
    shares: list[float]
    full: float
    valid: bool

    @property
    def mean(self) -> float:
        """The mean share of its slots that was in flight."""
        return sum(self.shares) / len(self.shares)


@dataclass(frozen=True)
class Strips:
    """All that are drawn, and one sentence."""

    rows: list[Strip]
    label: str
    finding: str


def strip(cell: Cell, names: Sequence[str]) -> Strip:
    """Return the strip of one cell."""
    of, measured = cell["parameters"], cell["occupancy"]
    room = of["slots"] * of["queues"]
    full = (measured["histogram"] or [0.0])[-1]
    shares = [min(1.0, value / room) for value in measured["strip"]]
    return Strip(label(of, names), shares, full, cell["valid"])


def finding(rows: Sequence[Strip]) -> str:
    """Say how many rings were full, and which had the least room if none was."""
    rows = [row for row in rows if row.valid]
    full = sum(row.mean > NEARLY for row in rows)
    if not rows:
        return "No strip is of a valid cell"
    if full == len(rows):
        return "Every ring was full nearly all the time: there was always more to send"
    if full:
        return f"{full} of {len(rows)} rings were full nearly all the time"
    most = max(rows, key=lambda row: row.mean)
    return f"No ring was full: at most {share(most.mean)}, with {most.label}"


def strips(result: Result) -> list[Strips]:
    """Return the strips of a result as one picture, or nothing."""
    cells = [cell for cell in result["cells"] if cell["occupancy"]["strip"]]
    if not cells:
        return []
    alone = len({cell["parameters"]["device"] for cell in cells}) == 1
    others = (name for name in varied(cells) if name not in ("device", "slots"))
    names = [*([] if alone else ["device"]), "slots", *others]
    step = math.ceil(len(cells) / MOST)
    rows = [strip(cell, names) for cell in cells[::step]]
    told = "Each strip is a cell from its start to its end; stronger colour: fuller"
    if step > 1:
        told += f"; {len(rows)} of {len(cells)} cells are shown"
    return [Strips(rows, told, finding(rows))]
