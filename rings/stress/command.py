"""Measure rings of many sizes, and say which one is enough.

    rings stress --quick
    rings stress --device delay:K=100,S=5ms order=0..6
    rings stress --device null order=0..6 batch=1,4,16,64 --html sweep.html

Without axes or devices: the sweep that answers all four questions, under five minutes.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import units
from . import plan as plans
from .cell import Cell
from .plan import Plan
from .sweep import Sweep

if TYPE_CHECKING:
    from rich.console import Console

EXTRA: Final = "pip install 'rings[stress]'"
AXES: Final = f"NAME=VALUES; NAME is one of {', '.join(plans.AXES)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rings stress``."""
    add = parser.add_argument
    add("axes", nargs="*", metavar="AXIS", help=AXES)
    add(
        "--device",
        action="append",
        default=[],
        help="null, delay:K=100,S=5ms[,exponential], file or file:PATH; repeatable",
    )
    add("--quick", action="store_true", help="a sweep of ten seconds, of all kinds")
    add(
        "--seconds", type=units.seconds, default=1.0, help="for which a cell is watched"
    )
    add("--p99", type=units.seconds, metavar="TIME", help="what the knee must keep to")
    add("--engine", default="auto", help="of the daemon: auto, uring, threads or mock")
    add("--json", type=Path, metavar="FILE", help="keep all here; go on if it exists")
    add("--csv", type=Path, metavar="FILE", help="a line for each cell")
    add("--html", type=Path, metavar="FILE", help="a report in one file")
    add("--plots", type=Path, metavar="FOLDER", help="the charts as PNG")
    add("--fresh", action="store_true", help="measure again what FILE has")
    add("--list", action="store_true", help="say what would be measured")


def run(options: argparse.Namespace) -> int:
    """Run ``rings stress``; 1 if a cell could not be measured."""
    try:
        from rich.console import Console

        from .stage import Stage
    except ImportError as error:
        print(f"rings stress needs {error.name}: {EXTRA}", file=sys.stderr)
        return 1
    plan = chosen(options)
    console = Console(highlight=False)
    if options.list:
        console.print("\n".join(map(str, plan)))
        return 0
    if plan.left_out:
        console.print(f"left out: {len(plan.left_out)}, such as {plan.left_out[0]}")
    sweep = Sweep(["rings", *sys.argv[1:]], options.p99, options.json)
    if not options.fresh:
        sweep.load()
    _check_outputs(options)
    with ended_by_sigterm(), Stage(options.engine) as stage:
        try:
            _measure(sweep, plan, stage, console)
        except KeyboardInterrupt:
            _tell_stopped(sweep, plan)
            raise
    result = sweep.told()
    _print(result, console)
    _write(result, options, console)
    return 1 if any(cell.get("failed") for cell in result["cells"]) else 0


def chosen(options: argparse.Namespace) -> Plan:
    """Return the cells that the options ask for.

    Raises:
        ValueError: An axis or a device makes no sense; the message says which.
    """
    if options.quick:
        return plans.quick()
    if not options.axes and not options.device:
        return plans.default(options.seconds)
    devices = options.device or ["null"]
    return plans.sweep(devices, options.axes, Cell(seconds=options.seconds))


def _measure(sweep: Sweep, plan: Plan, stage: Any, console: Console) -> None:
    from . import terminal

    with terminal.progress(console, plan.cells) as bar:

        def seen(cell: Cell, result: Mapping[str, Any], new: bool) -> None:
            bar.update(bar.task_ids[0], advance=1, description=str(cell))
            bar.refresh()

        sweep.run(plan, stage, seen)


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse what could not be written when all has been measured."""
    for name in ("json", "csv", "html", "plots"):
        path = getattr(options, name)
        if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
            raise ValueError(
                f"--{name} {path}: no folder {path.parent} to write in; "
                f"mkdir -p {path.parent}, or name another"
            )
    if options.plots and find_spec("matplotlib") is None:
        raise ValueError(f"--plots needs matplotlib: {EXTRA}")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does, so that nothing is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_stopped(sweep: Sweep, plan: Plan) -> None:
    told = f"{len(sweep.cells)} of {len(plan.cells)} cells were measured"
    kept = f"in {sweep.path}: the same command goes on" if sweep.path else "nowhere"
    lost = "" if sweep.path else "; with --json FILE it could go on"
    print(f"\n{told}, kept {kept}{lost}", file=sys.stderr)


def _print(result: Mapping[str, Any], console: Console) -> None:
    from . import terminal

    terminal.table(console, result["cells"])
    console.print()
    for sentence in result["advice"]:
        console.print(sentence)
    terminal.invalid(console, result["cells"])


def _write(
    result: Mapping[str, Any], options: argparse.Namespace, console: Console
) -> None:
    if options.csv:
        options.csv.write_text(as_csv(result["cells"]))
    written = [options.json, options.csv]
    if options.html or options.plots:
        from . import report

        written += report.write(result, options.html, options.plots)
    for path in filter(None, written):
        console.print(f"wrote {path}")


def as_csv(cells: Iterable[Mapping[str, Any]]) -> str:
    """Return a line for each cell, columns by dotted names; lists are left out."""
    rows = [dict(_flat(cell)) for cell in cells]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(told: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list) and name != "latency_hdr":
            yield prefix + name, value
