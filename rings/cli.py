"""The `rings` command: what is served, how it goes, what this machine allows.

    rings ls       devices and sessions of a daemon
    rings stat     everything it counts
    rings doctor   what this machine allows, and what to change

Each takes `--json` for programs.  The exit code is 0, or 1 if there is no
daemon to ask or the doctor found a failure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from . import doctor
from .errors import RingError
from .rendezvous import query


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Lay rows of the same kind out under their keys, numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [all(isinstance(row.get(n), (int, float)) for row in rows) for n in names]
    lines = []
    for line in cells:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _text(value)


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
    return _show(query(options.socket), _everything, options.json)


def examine(options: argparse.Namespace) -> int:
    """Run the doctor; 1 if something failed."""
    rows = doctor.examine(options.socket)
    print(doctor.to_json(rows) if options.json else doctor.to_text(rows))
    return 0 if doctor.is_healthy(rows) else 1


COMMANDS = {"ls": ls, "stat": stat, "doctor": examine}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="rings", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        help_text = (function.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.add_argument("--socket", metavar="PATH", help="the daemon's address")
        command.add_argument("--json", action="store_true", help="for programs")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `rings` command."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except (OSError, RingError) as error:
        print(f"rings: {error}", file=sys.stderr)
        return 1
