"""The `rings` command: what is served, how it goes, what this machine allows.

    rings ls       devices and sessions of a daemon
    rings stat     everything it counts
    rings doctor   what this machine allows, and what to change
    rings size     how large a ring to use, and why
    rings stress   measure rings of many sizes: which one is enough?
    rings report   draw what `rings stress --json` wrote

`--json` is for programs, and so is `rings stat --prometheus`.  The exit code is 0,
or 1 if there is no daemon to ask, the doctor found a failure, or no ring does what is
asked of it; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from . import __version__, doctor, size
from .errors import RingError
from .prometheus import exposition
from .rendezvous import query
from .stress import command as stress
from .stress import report
from .table import table, text

INTERRUPTED: Final = 128 + signal.SIGINT


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, text(value)


def listing(facts: Mapping[str, object]) -> str:
    """Lay single facts out one a line: dotted name, then value."""
    lines = list(_flat(facts))
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _flat_columns(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    deep = {name for row in rows for name in row if isinstance(row[name], dict)}
    return [{name: row[name] for name in row if name not in deep} for row in rows]


def _overview(report: Mapping[str, Any]) -> Iterable[str]:
    for name, rows in report.items():
        if _is_table(rows):
            yield f"{name}\n{table(_flat_columns(rows)) if rows else '(none)'}"


def _everything(report: Mapping[str, Any]) -> Iterable[str]:
    yield listing({k: v for k, v in report.items() if not _is_table(v)})
    for name, rows in report.items():
        if _is_table(rows):
            for number, row in enumerate(rows):
                yield f"{name}[{number}]\n{listing(row)}"


Lay: TypeAlias = Callable[[Mapping[str, Any]], Iterable[str]]


def _show(report: Mapping[str, Any], lay_out: Lay, as_json: bool) -> int:
    print(json.dumps(report, indent=2) if as_json else "\n\n".join(lay_out(report)))
    return 0


def ls(options: argparse.Namespace) -> int:
    """List a daemon's devices and sessions."""
    report = query(options.socket)
    if options.json:
        report = {name: rows for name, rows in report.items() if _is_table(rows)}
    return _show(report, _overview, options.json)


def stat(options: argparse.Namespace) -> int:
    """Show everything a daemon counts."""
    report = query(options.socket)
    if options.prometheus:
        print(exposition(report))
        return 0
    return _show(report, _everything, options.json)


def examine(options: argparse.Namespace) -> int:
    """Say what this machine allows, and what to change; 1 if something failed."""
    rows = doctor.examine(options.socket)
    print(doctor.to_json(rows) if options.json else doctor.to_text(rows))
    return 0 if doctor.is_healthy(rows) else 1


Command: TypeAlias = Callable[[argparse.Namespace], int]
OF_A_DAEMON: dict[str, Command] = {"ls": ls, "stat": stat, "doctor": examine}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="rings", description=__doc__.splitlines()[0])
    top.add_argument("--version", action="version", version=f"rings {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    for name, function in OF_A_DAEMON.items():
        command = _add(commands, name, function.__doc__, function)
        command.add_argument("--socket", metavar="PATH", help="the daemon's address")
        forms = command.add_mutually_exclusive_group()
        forms.add_argument("--json", action="store_true", help="for programs")
        if name == "stat":
            prometheus = "in the text format of Prometheus"
            forms.add_argument("--prometheus", action="store_true", help=prometheus)
    for name, module in {"size": size, "stress": stress, "report": report}.items():
        module.add_arguments(_add(commands, name, module.__doc__, module.run))
    return top


def _add(
    commands: Any, name: str, about: str | None, run: Command
) -> argparse.ArgumentParser:
    about = about or ""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about.splitlines()[0],
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `rings` command."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("rings: stopped", file=sys.stderr)
        return INTERRUPTED
    except (OSError, RingError, ValueError) as error:
        print(f"rings: {error}", file=sys.stderr)
        return 1
