"""What a daemon tells of itself, its devices and its sessions."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterable, Mapping
from typing import Any

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
    known = _part(statistics, "rings")
    counted = _part(statistics, "stations")
    served = tuple(devices)
    stations = {
        device.name: {**vars(device.station), **counted.get(device.name, {})}
        for device in served
        if device.station is not None
    }
    sessions = (client for client in clients if not client.asks)
    in_order = sorted(sessions, key=lambda client: client.number)
    told = {
        "pid": os.getpid(),
        "version": rings.__version__,
        "uptime_s": round(time.monotonic() - since, 3),
        "address": address,
        "engine": {"name": engine.name, "why": engine.why, **statistics},
        "stations": stations,
        "process": _process(),
        "used": quota.used(),
        "limits": vars(quota.limits),
        "devices": [vars(facts(device)) for device in served],
        "sessions": [client.told(known) for client in in_order],
    }
    return json.dumps(told, default=str)


def _part(statistics: dict[str, object], name: str) -> Mapping[Any, Any]:
    """Take a part out of the statistics; empty if it is not there."""
    part = statistics.pop(name, None)
    return part if isinstance(part, Mapping) else {}


def _process() -> dict[str, object]:
    """Return what the daemon's process has used since it started."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1])
    return {
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "resident": resident * resource.getpagesize(),
        "voluntary_switches": usage.ru_nvcsw,
        "involuntary_switches": usage.ru_nivcsw,
    }


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
