"""Results of `rings stress` that nobody measured: what each chart and table reads.

Little's law, an M/M/c/K queue and the USL make the numbers, a seed the noise; the
shape is that of version 1 of the file.  Nothing here is ever a figure in a document.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

Result = dict[str, Any]
Cell = dict[str, Any]

PARAMETERS = {
    "device": "delay:K=100,S=5ms", "servers": 100, "service_s": 0.005,
    "order": 0, "slots": 32, "batch": 1, "producers": 1, "queues": 1,
    "policy": "block", "depth": None, "size": 4096, "wait": "block",
    "loop": "closed", "rate_per_s": None, "arrivals": "poisson",
    "variability": "fixed", "place": "free",
    "seconds": 2.0, "start": 0,
}  # fmt: skip
MACHINE = {
    "cpu": "Imaginary <CPU> & co", "cores": 2, "kernel": "6.18.0",
    "python": "3.11.7", "engine": "uring",
}  # fmt: skip
SLICES = 120


def parameters(**given: Any) -> dict[str, Any]:
    found = PARAMETERS | given
    if "order" in given and "slots" not in given:
        found["slots"] = 32 << given["order"]
    elif "slots" in given and "order" not in given:
        found["order"] = None
    return found


def key(of: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in of.items())


def latency(mean_us: float, spread: float = 1.2) -> dict[str, float]:
    names = ("p50", "p90", "p99", "p99_9", "max")
    return {"mean": mean_us} | {
        name: mean_us * spread**power for power, name in enumerate(names)
    }


def occupancy(slots: int, mean: float, seed: str) -> dict[str, Any]:
    chance = random.Random(seed)
    strip = [
        max(0.0, min(slots, mean * chance.uniform(0.9, 1.1))) for _ in range(SLICES)
    ]
    histogram = [0.0] * (slots + 1)
    for value in strip:
        histogram[round(value)] += 1 / SLICES
    return {
        "mean": mean,
        "max": round(max(strip)),
        "histogram": histogram,
        "strip": strip,
    }


def cell(achieved_per_s: float, in_flight: float, **given: Any) -> Cell:
    of = parameters(**given)
    seconds = of["seconds"]
    predicted = None
    if of["servers"] and of["loop"] == "closed":
        predicted = min(of["slots"], of["servers"]) / of["service_s"]
    return {
        "key": key(of),
        "parameters": of,
        "offered_per_s": of["rate_per_s"],
        "achieved_per_s": achieved_per_s,
        "requests": round(achieved_per_s * seconds),
        "latency_us": latency(in_flight / achieved_per_s * 1e6),
        "latency_hdr": "",
        "occupancy": occupancy(of["slots"], in_flight, key(of)),
        "blocked": min(1.0, in_flight / of["slots"]),
        "full_events": 12,
        "dropped": 0,
        "errors": 0,
        "per_request": {"notifications": 0.01, "wakeups": 0.02, "syscalls": 0.05},
        "batch_achieved": of["batch"] * 0.8,
        "cpu_s_per_million": {"client": 0.61, "daemon": 1.12},
        "context_switches": {"client": 123, "daemon": 456},
        "rss_mib": {"client": 22.1, "daemon": 30.5},
        "bytes_copied": 0,
        "little": 1.002,
        "predicted_per_s": predicted,
        "error": (achieved_per_s - predicted) / predicted if predicted else None,
        "predicted": None,
        "limit": None,
        "valid": True,
        "why_invalid": "",
    }


def invalid(of: Cell, why: str) -> Cell:
    return of | {"valid": False, "why_invalid": why, "little": 0.91}


def over_slots(orders: Iterable[int] = range(7), servers: int = 100) -> list[Cell]:
    device = f"delay:K={servers},S=5ms"
    given = {"device": device, "servers": servers, "service_s": 0.005}
    return [
        cell(0.93 * min(32 << order, servers) / 0.005, 32 << order, order=order,
             **given)
        for order in orders
    ]  # fmt: skip


def over_order_and_batch() -> list[Cell]:
    return [
        cell(
            1e6 * min(1, 0.2 + 0.1 * order) * batch / (batch + 3), 20 << order,
            order=order, batch=batch, device="null", servers=None, service_s=None,
        )
        for order in range(5)
        for batch in (1, 4, 16, 64)
    ]  # fmt: skip


def usl(producers: float, sigma: float, kappa: float, gamma: float) -> float:
    waits = sigma * (producers - 1) + kappa * producers * (producers - 1)
    return gamma * producers / (1 + waits)


def over_producers() -> list[Cell]:
    return [
        cell(usl(n, 0.1, 0.03, 9e5), 60, producers=n, order=2, device="null",
             servers=None, service_s=None, size=512)
        for n in (1, 2, 3, 4, 6, 8)
    ]  # fmt: skip


def over_rate() -> list[Cell]:
    found = []
    for share in (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1):
        offered = share * 20_000
        blocking = max(0.0, 1 - 1 / share) + 0.02 * share**8
        wait = 1 + 2 * min(1.0, share) ** 12
        made = cell(offered * (1 - blocking), 100 * share * wait / 3, order=3,
                    loop="open", rate_per_s=offered, policy="drop_new",
                    device="delay:K=100,S=5ms,exponential")  # fmt: skip
        made["latency_us"] = latency(5000 * wait, 1.35)
        made["dropped"] = round(blocking * offered * 2)
        made["predicted"] = {"blocking": blocking, "p99_us": 16_000 * wait}
        found.append(made)
    return found


def groups(cells: list[Cell], *names: str) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for one in cells:
        same = {k: v for k, v in one["parameters"].items() if k not in names}
        found.setdefault(key(same), []).append(one)
    return found


def knee(cells: list[Cell]) -> dict[str, Any]:
    most = max(one["achieved_per_s"] for one in cells)
    first = next(one for one in cells if one["achieved_per_s"] >= 0.95 * most)
    of = first["parameters"]
    same = {k: v for k, v in of.items() if k not in ("slots", "order")}
    return {
        "over": "slots",
        "fixed": same,
        "slots": of["slots"],
        "achieved_per_s": first["achieved_per_s"],
        "p99_us": first["latency_us"].get("p99"),
    }


def scaling(cells: list[Cell]) -> dict[str, Any]:
    of = cells[0]["parameters"]
    return {
        "fixed": {k: v for k, v in of.items() if k != "producers"},
        "sigma": 0.1,
        "kappa": 0.03,
        "gamma": 9e5,
        "best_producers": 5.5,
        "points": [[c["parameters"]["producers"], c["achieved_per_s"]] for c in cells],
    }


def result(cells: list[Cell], **given: Any) -> Result:
    over = [g for g in groups(cells, "slots", "order").values() if len(g) > 1]
    crowds = [g for g in groups(cells, "producers").values() if len(g) > 2]
    return {
        "version": 1,
        "command": ["rings", "stress", "--device", "delay:K=100,S=5ms", "<&>"],
        "started": "2026-01-02T03:04:05Z",
        "took_s": 41.2,
        "machine": MACHINE,
        "objective": {"p99_s": None, "share": 0.95},
        "cells": cells,
        "knees": [knee(group) for group in over],
        "usl": [scaling(group) for group in crowds],
        "advice": ["A ring of 128 slots carries 18.6 k/s; it is <enough>."],
    } | given


def everything() -> Result:
    """One of each chart, and a cell that is not to be believed."""
    curve = over_slots()
    curve[1] = invalid(curve[1], "Little check 0.91 <of 0.97>")
    return result([*curve, *over_order_and_batch(), *over_producers(), *over_rate()])
