"""The tables of docs/SIZING.md: sweeps of `rings stress`, measured and written in.

    python -m bench sizing --folder sweeps --write docs/SIZING.md

measures what the folder does not have yet and fills the marked regions of the page;
what stands between them is written by hand.  Each region names its command.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench import capacity
from bench.sizing_tables import REGIONS, Results

REGION = re.compile(r"<!-- generated: (\w+) -->\n(.*?)<!-- end: \1 -->\n", re.S)
CAPACITY = "capacity"
ROUNDS = 3


class Sweep(NamedTuple):
    """One run of `rings stress`: what is varied, on which device."""

    device: str
    axes: str

    def words(self, seconds: float) -> list[str]:
        """Return its arguments."""
        return [
            "stress", "--device", self.device, *self.axes.split(),
            "--seconds", f"{seconds:g}s",
        ]  # fmt: skip


RANDOM = "delay:K=8,S=1ms,exponential"
SWEEPS = {
    "hundred": Sweep("delay:K=100,S=5ms", "order=0..6"),
    "many": Sweep("delay:K=1500,S=5ms", "order=0..6"),
    "auto": Sweep("delay:K=100,S=5ms", "slots=2048 depth=auto,slots"),
    "rings": Sweep("null", "queues=1,2,4,8 producers=1,2,4,8 slots=128"),
    "push": Sweep("null", "producers=1,2,3,4,6,8 slots=128"),
    "batch": Sweep("null", "order=0,2,4,6 batch=1,4,16 wait=spin:50 place=two"),
    "depth": Sweep("null", "depth=1,8,32,128 slots=128 wait=spin:50 place=two"),
    "sizes": Sweep(
        "file",
        "queues=1,2 producers=2 size=512,4k,16k,64k slots=64 wait=spin:50 place=two",
    ),
    "load": Sweep(RANDOM, "rate=2400,4000,5600,6400,7200,8800 slots=128"),
    "full": Sweep(RANDOM, "policy=block,spill,drop_new,error rate=7200,8800 slots=16"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m bench sizing``."""
    add = parser.add_argument
    add("--write", type=Path, metavar="FILE", help="fill the regions of this page")
    add("--folder", type=Path, help="keep the sweeps here, and go on with them")
    add("--measured", action="store_true", help="measure nothing, take the folder's")
    add("--only", action="append", default=[], help="one sweep, by name; repeatable")
    add("--seconds", type=float, default=1.0, help="of each cell")
    add("--smoke", action="store_true", help="one sweep, for a moment")


def run(options: argparse.Namespace) -> int:
    """Measure and write; 1 if a sweep failed or the page has other regions."""
    if options.measured and not options.folder:
        print("--measured needs --folder: where the sweeps are", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not options.measured and not all(_measure(options, folder)):
            return 1
        return _write(options.write, load(folder)) if options.write else 0


def _measure(options: argparse.Namespace, folder: Path) -> list[bool]:
    chosen = options.only or [*SWEEPS, CAPACITY]
    seconds = options.seconds
    if options.smoke:
        chosen, seconds = options.only or ["depth"], 0.05
    return [measured(name, folder, seconds) for name in chosen]


def measured(name: str, folder: Path, seconds: float) -> bool:
    """Measure one sweep, or what its file lacks; False if that failed."""
    path = folder / f"{name}.json"
    if name == CAPACITY:
        if not path.exists():
            path.write_text(json.dumps(capacity.measure(seconds / 2, ROUNDS)))
        return True
    words = ["-m", "rings", *SWEEPS[name].words(seconds), "--json", str(path)]
    return subprocess.run([sys.executable, *words]).returncode == 0


def load(folder: Path) -> Results:
    """Return all sweeps of a folder by name, the ones of no known name left out."""
    names = [name for name in (*SWEEPS, CAPACITY) if (folder / f"{name}.json").exists()]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def command(name: str, result: Mapping[str, Any]) -> str:
    """Return the command that made a sweep, as a reader would type it."""
    if name == CAPACITY:
        return f"python -m bench sizing --only {CAPACITY}"
    seconds = result["cells"][0]["parameters"]["seconds"]
    words = SWEEPS[name].words(seconds)
    return " ".join(["rings", *words])


def fill(page: str, results: Results) -> str:
    """Return a page with its regions written anew, those that were not measured kept.

    Raises:
        ValueError: The page has a region that we do not know, or lacks one.
    """
    there = {name for name, _ in REGION.findall(page)}
    if there != REGIONS.keys():
        unknown, missing = there - REGIONS.keys(), REGIONS.keys() - there
        raise ValueError(f"regions: {unknown or 'none'} unknown, {missing} missing")

    def anew(match: re.Match[str]) -> str:
        name = match[1]
        needs, table = REGIONS[name]
        if not all(need in results for need in needs):
            return match[0]
        made = [f"`{command(need, results[need])}`" for need in needs]
        text = f"{table(results)}\n\n{'; '.join(made)}".strip()
        return f"<!-- generated: {name} -->\n{text}\n<!-- end: {name} -->\n"

    return REGION.sub(anew, page)


def _write(path: Path, results: Results) -> int:
    try:
        path.write_text(fill(path.read_text(), results))
    except ValueError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    return 0
