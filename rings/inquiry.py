"""Ask a daemon what it serves and how it fares; no session is needed."""

from __future__ import annotations

import json
from typing import Any, Final

from .address import default_address
from .errors import RemoteProtocolError
from .link import Link
from .messages import DeviceFacts, Stat, StatReply

MAX_REPORT: Final = 16 << 20


def query(
    address: str | None, what: str = "stat", *, timeout: float = 5.0
) -> dict[str, Any]:
    """Return the daemon's report: itself, its devices, its sessions.

    Raises:
        ValueError: `what` is not "stat".
        BrokenError, PermissionError, TimeoutError: As `open_session` has them.
    """
    if what != "stat":
        raise ValueError(f'a daemon can be asked for "stat" only, not {what!r}')
    with Link(address or default_address(), timeout) as link:
        text = ""
        total = 1
        while len(text) < total:
            link.send(Stat(len(text)))
            reply = link.receive(StatReply)
            if reply.offset != len(text) or not reply.text or reply.total > MAX_REPORT:
                raise RemoteProtocolError("the daemon's report comes out of order")
            text, total = text + reply.text, reply.total
    return _report(text)


def _report(text: str) -> dict[str, Any]:
    try:
        report = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"the daemon's report is no JSON: {error}") from None
    if not isinstance(report, dict):
        raise RemoteProtocolError("the daemon's report is not an object")
    return report


def devices(
    address: str | None = None, *, timeout: float = 5.0
) -> tuple[DeviceFacts, ...]:
    """Return what a daemon serves."""
    report = query(address, "stat", timeout=timeout)
    try:
        return tuple(
            DeviceFacts(**{**facts, "ops": tuple(facts["ops"])})
            for facts in report["devices"]
        )
    except (TypeError, KeyError) as error:
        raise RemoteProtocolError(f"the daemon's device list lacks {error}") from None
