"""What a daemon tells of itself, its devices and its sessions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping

import rings

from .client import Client
from .device import Device
from .devices import facts
from .limits import Quota
from .spec import EngineLike


def report(
    *,
    address: str,
    since: float,
    engine: EngineLike,
    quota: Quota,
    devices: Iterable[Device],
    clients: Iterable[Client],
) -> str:
    """Return the report as JSON, in ASCII."""
    statistics = engine.statistics()
    for told_already in ("engine", "why"):
        statistics.pop(told_already, None)
    per_ring = statistics.pop("rings", None)
    known = per_ring if isinstance(per_ring, Mapping) else {}
    sessions = (client for client in clients if not client.asks)
    in_order = sorted(sessions, key=lambda client: client.number)
    told = {
        "pid": os.getpid(),
        "version": rings.__version__,
        "uptime_s": round(time.monotonic() - since, 3),
        "address": address,
        "engine": {"name": engine.name, "why": engine.why, **statistics},
        "used": quota.used(),
        "limits": vars(quota.limits),
        "devices": [vars(facts(device)) for device in devices],
        "sessions": [client.told(known) for client in in_order],
    }
    return json.dumps(told, default=str)


def who(client: Client) -> dict[str, object]:
    """Return whose session it is, for the log."""
    return {"pid": client.peer.pid, "uid": client.peer.uid}


def described(client: Client) -> dict[str, object]:
    """Return what the log tells of a session that has a ring."""
    shape = client.rings.geometry
    assert shape is not None
    return {
        "session": client.number,
        **who(client),
        "device": client.device.name if client.device else "",
        "slots": shape.slots,
        "grants": shape.grants,
        "data_size": shape.data_size,
    }
