"""`rings doctor`: can this machine do it, and if not, what is to be changed?

The questions about the kernel are in `rings.kernel`, those about the machine in
`rings.machine`; the one about the daemon is here.  Warnings are advice; a failure
makes the command exit with 1, so that it serves as a health check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from .errors import BrokenError, RingError
from .kernel import Row, Status
from .machine import CHECKS


def check_daemon(address: str | None = None) -> Row:
    """Knock at the daemon's door.  An address asked for must be answered."""
    from .rendezvous import default_address, query

    name = "daemon"
    status: Status = "fail" if address else "warn"
    try:
        where = address or default_address()
        query(where)
    except BrokenError as error:
        found, _, fix = str(error).partition("; ")
        return Row(name, status, found, fix or "look into its log")
    except (OSError, RingError) as error:
        return Row(name, status, str(error), "look into its log, or start another")
    return Row(name, "ok", f"answers at {where}")


def examine(address: str | None = None) -> list[Row]:
    """Run every check; the daemon's last."""
    return [check() for check in CHECKS] + [check_daemon(address)]


def is_healthy(rows: Iterable[Row]) -> bool:
    """Return True if no row failed; warnings are not failures."""
    return all(row.status != "fail" for row in rows)


def to_text(rows: Iterable[Row]) -> str:
    """Lay rows out for people: aligned, each fix under what it fixes."""
    rows = list(rows)
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.status:4}  {row.name:{width}}  {row.found}")
        if row.fix:
            lines.append(f"{'':4}  {'':{width}}  -> {row.fix}")
    return "\n".join(lines)


def to_json(rows: Iterable[Row]) -> str:
    """Lay rows out for programs: a list of objects, one a row."""
    return json.dumps([row._asdict() for row in rows], indent=2)
