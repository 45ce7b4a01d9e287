"""A sweep: cell after cell, kept in a file so that it can go on, and what follows.

A file that has cells already is gone on with: what has the same key is not measured
again.  It is written after every cell, whole, and then put in the place of the old
one, so that whoever stops a sweep loses one cell at most.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..advice import knee
from ..errors import RingError
from ..usl import fit_usl
from .cell import Cell
from .conclusions import advice
from .findings import SIZE, groups
from .stage import Stage

VERSION: Final = 1
SHARE: Final = 0.95
TRIES: Final = 3  # on a busy machine one may be spoilt

Result = dict[str, Any]


@dataclass
class Sweep:
    """What was measured, and under what.

    Attributes:
        command: As typed.
        p99_s: What 99 in 100 answers may take, for the knee; None: anything.
        path: Where to keep it; None: nowhere.
        cells: What was measured, in the order of the plan.
    """

    command: Sequence[str] = ()
    p99_s: float | None = None
    path: Path | None = None
    cells: list[Result] = field(default_factory=list)
    engine: str = ""
    took_s: float = 0.0
    started: str = field(default_factory=lambda: _now())

    def load(self) -> None:
        """Take what the file has already.

        Raises:
            ValueError: It is no sweep of this version.
        """
        if self.path is None or not self.path.exists():
            return
        try:
            kept = json.loads(self.path.read_text())
            assert kept["version"] == VERSION
            self.cells = list(kept["cells"])
            self.took_s = float(kept["took_s"])
            self.engine = str(kept["machine"]["engine"])
        except (ValueError, KeyError, TypeError, AssertionError):
            raise ValueError(
                f"{self.path} is no sweep of version {VERSION}: move it away"
            ) from None

    def run(
        self,
        cells: Iterable[Cell],
        stage: Stage,
        seen: Callable[[Cell, Result, bool], None] = lambda *_: None,
    ) -> None:
        """Measure what is not there yet; tell `seen` of each, and whether it is new."""
        known = {result["key"]: result for result in self.cells}
        self.cells = []
        for cell in cells:
            began = time.monotonic()
            old = known.pop(cell.key, None)
            result = old or measured(cell, stage)
            self.cells.append(result)
            self.engine = stage.engine or self.engine
            if old is None:
                self.took_s += time.monotonic() - began
                self.save(known.values())
            seen(cell, result, old is None)
        self.cells += known.values()
        self.save()

    def save(self, others: Iterable[Result] = ()) -> None:
        """Write the file, if there is to be one."""
        if self.path is None:
            return
        told = self.told()
        told["cells"] = [*told["cells"], *others]
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text(json.dumps(told, indent=1))
        part.replace(self.path)

    def told(self) -> Result:
        """Return all of it as JSON has it."""
        result = {
            "version": VERSION,
            "command": list(self.command),
            "started": self.started,
            "took_s": round(self.took_s, 1),
            "machine": {**machine(), "engine": self.engine},
            "objective": {"p99_s": self.p99_s, "share": SHARE},
            "cells": self.cells,
            "knees": knees(self.cells, self.p99_s),
            "usl": usl_curves(self.cells),
        }
        return {**result, "advice": advice(result)}


def measured(cell: Cell, stage: Stage) -> Result:
    """Measure a cell, again if it is not valid; one that cannot be says why."""
    try:
        for tries in range(1, TRIES + 1):
            result = {**stage.measure(cell), "tries": tries}
            if result["valid"]:
                break
        return result
    except (OSError, RingError, TimeoutError) as error:
        why = f"{type(error).__name__}: {error}"
        told = {"key": cell.key, "parameters": cell.parameters(), "achieved_per_s": 0.0}
        return {**told, "valid": False, "why_invalid": why, "failed": True}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def machine() -> dict[str, Any]:
    """Say what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


# -- what follows from them ----------------------------------------------------


def _measured(cells: Iterable[Result]) -> Result:
    return {"cells": [cell for cell in cells if not cell.get("failed")]}


def knees(cells: Iterable[Result], p99_s: float | None) -> list[Result]:
    """Return the knee of each group of three or more sizes in a closed loop."""
    found = []
    for group in groups(_measured(cells), *SIZE):
        slots = knee(group.cells, p99_s, SHARE)
        if len(group.cells) < 3 or group.fixed["loop"] != "closed" or slots is None:
            continue
        at = next(c for c in group.cells if c["parameters"]["slots"] == slots)
        found.append(
            {
                "over": "slots",
                "fixed": group.fixed,
                "slots": slots,
                "achieved_per_s": at["achieved_per_s"],
                "p99_us": at["latency_us"]["p99"],
            }
        )
    return found


def usl_curves(cells: Iterable[Result]) -> list[Result]:
    """Return the law that fits each group of three or more numbers of producers."""
    found = []
    for group in groups(_measured(cells), "producers"):
        points = [
            (cell["parameters"]["producers"], cell["achieved_per_s"])
            for cell in group.valid
        ]
        if len(points) < 3 or group.fixed["loop"] != "closed":
            continue
        law = fit_usl(points)
        best = law.best_producers
        found.append(
            {
                "fixed": group.fixed,
                "sigma": law.sigma,
                "kappa": law.kappa,
                "gamma": law.gamma_per_s,
                "best_producers": best if math.isfinite(best) else None,
                "points": [list(point) for point in points],
            }
        )
    return found
