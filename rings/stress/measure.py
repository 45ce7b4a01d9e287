"""From what workers and daemon counted to the figures of one cell.

Little's check sets two counts beside each other that share nothing but the clock: the
gauge, which follows the ring's indices, and the stamps of the requests themselves.  A
cell in which they differ by more than 3 % was measured wrong, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..forecast import Load, forecast
from ..loading import SLICES
from .cell import Cell

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LITTLE: Final = (0.97, 1.03)
FEWEST: Final = 100
LATE_S: Final = 100e-6
LATE_SHARE: Final = 0.2
HIGHEST_NS: Final = 2**40 - 1
DIGITS: Final = 3
PERCENTILES: Final = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9}

Told = Mapping[str, Any]


def result(
    cell: Cell, workers: Sequence[Told], before: Told, after: Told
) -> dict[str, Any]:
    """Return a cell's figures, as JSON has them.

    Args:
        cell: What was set.
        workers: What each worker counted while it was watched.
        before: The daemon's report when that began.
        after: The daemon's report when it ended.
    """
    sums = _sums(told for worker in workers for told in worker["producers"])
    histogram = latencies(worker["counts"] for worker in workers)
    occupancy = _occupancy(cell, workers)
    achieved = sums["measured"] / cell.seconds
    in_ring_s = sums["in_ring_ns"] / 1e9 / max(1, sums["measured"])
    figures: dict[str, Any] = {
        "key": cell.key,
        "parameters": cell.parameters(),
        "offered_per_s": _offered(cell, sums),
        "achieved_per_s": achieved,
        "requests": sums["measured"],
        "latency_us": _latency_us(histogram),
        "latency_hdr": histogram.encode().decode(),
        "occupancy": occupancy,
        "blocked": sums["blocked_ns"] / 1e9 / cell.seconds / cell.producers,
        "full_events": sums["full"],
        "dropped": sums["dropped"] if cell.policy != "error" else 0,
        "errors": sums["failed"] + (sums["dropped"] if cell.policy == "error" else 0),
        "late_us": sums["late_ns"] / 1e3 / max(1, sums["late"]),
        **_costs(workers, before, after, max(1, sums["measured"])),
        "little": occupancy["mean"] / max(1e-12, achieved * in_ring_s),
        "limit": _limit(workers) if cell.depth == "auto" else None,
        "predicted_per_s": cell.predicted_per_s,
        "predicted": predicted(cell),
    }
    most = cell.predicted_per_s
    figures["error"] = achieved / most - 1 if most else None
    figures["why_invalid"] = _why_invalid(cell, figures, sums)
    figures["valid"] = not figures["why_invalid"]
    return figures


def _sums(told: Iterable[Told]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for one in told:
        for name, count in one.items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _offered(cell: Cell, sums: Told) -> float | None:
    """Return what arrived; what waits in the schedule has not, but would have."""
    if cell.rate_per_s is None or cell.policy == "block":
        return cell.rate_per_s
    return float(sums["offered"] / cell.seconds)


def predicted(cell: Cell) -> dict[str, float] | None:
    """Return what M/M/c/K says of an open loop; None where it does not apply."""
    device, rate_per_s = cell.device, cell.rate_per_s
    if rate_per_s is None or cell.arrivals != "poisson" or device.service_s is None:
        return None
    if device.variability != "exponential" or cell.depth == "auto":
        return None
    load = Load(
        rate_per_s,
        device.service_s,
        device.servers,
        policy=cell.policy,
        queues=cell.queues,
    )
    told = forecast(load, cell.most_in_flight)
    if not math.isfinite(told.p99_s):
        return None
    return {
        "throughput_per_s": told.throughput_per_s,
        "blocking": told.blocking,
        "p50_us": told.p50_s * 1e6,
        "p99_us": told.p99_s * 1e6,
    }


def _limit(workers: Sequence[Told]) -> dict[str, int]:
    """Return where the limits that were found by trial ended, of all rings together."""
    limits = [worker["limit"] for worker in workers]
    return {
        "final": sum(limit["limit"] for limit in limits),
        "min": sum(limit["limit_lowest"] for limit in limits),
        "max": sum(limit["limit_highest"] for limit in limits),
    }


# -- latency -------------------------------------------------------------------


def latencies(tables: Iterable[Sequence[Sequence[int]]]) -> HdrHistogram:
    """Return one histogram of ns from the workers' pairs of index and count."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, HIGHEST_NS, DIGITS)
    for table in tables:
        for index, count in table:
            histogram.record_value(histogram.get_value_from_index(index), count)
    return histogram


def _latency_us(histogram: HdrHistogram) -> dict[str, float]:
    if not histogram.get_total_count():
        return dict.fromkeys(("mean", *PERCENTILES, "max"), 0.0)
    at = {
        name: histogram.get_value_at_percentile(percent) / 1e3
        for name, percent in PERCENTILES.items()
    }
    mean, most = histogram.get_mean_value(), histogram.get_max_value()
    return {"mean": mean / 1e3, **at, "max": most / 1e3}


# -- occupancy -----------------------------------------------------------------


def _occupancy(cell: Cell, workers: Sequence[Told]) -> dict[str, Any]:
    """Return what was in flight in all rings: means are sums, shares are of a ring."""
    total_ns = cell.seconds * 1e9
    rows = [worker["time_ns"] for worker in workers]
    share = [sum(ns) / total_ns / len(rows) for ns in zip(*rows, strict=True)]
    slice_ns = total_ns / SLICES
    areas = zip(*(worker["slice_ns"] for worker in workers), strict=True)
    return {
        "mean": sum(n * part for n, part in enumerate(share)) * len(rows),
        "max": sum(
            max((n for n, ns in enumerate(row) if ns), default=0) for row in rows
        ),
        "histogram": [round(part, 6) for part in share],
        "strip": [round(sum(area) / slice_ns, 3) for area in areas],
    }


# -- costs ---------------------------------------------------------------------


def _costs(
    workers: Sequence[Told], before: Told, after: Told, requests: int
) -> dict[str, Any]:
    client = _sums(worker["used"] for worker in workers)
    engine = _difference(before["engine"], after["engine"])
    daemon = _difference(before["process"], after["process"])
    notified = client["notifications"] + engine["notifications_sent"]
    sleeps = client["sleeps"] + engine["sleeps"]
    published = client["notifications"] + client["held_off"]
    cpu_s = daemon["user_s"] + daemon["system_s"]
    switches = daemon["voluntary_switches"] + daemon["involuntary_switches"]
    resident = after["process"]["resident"] / 2**20
    return {
        "per_request": {
            "notifications": notified / requests,
            "wakeups": sleeps / requests,
            "syscalls": (engine["enters"] + notified + client["sleeps"]) / requests,
        },
        "batch_achieved": client["requests"] / max(1, published),
        "cpu_s_per_million": {
            "client": client["cpu_s"] / requests * 1e6,
            "daemon": cpu_s / requests * 1e6,
        },
        "context_switches": {
            "client": client["context_switches"],
            "daemon": switches,
        },
        "rss_mib": {
            "client": sum(worker["rss_mib"] for worker in workers),
            "daemon": resident,
        },
    }


def _difference(before: Told, after: Told) -> dict[str, float]:
    return {
        name: after[name] - value
        for name, value in before.items()
        if isinstance(value, int | float)
    }


# -- may it be believed --------------------------------------------------------


def _why_invalid(cell: Cell, figures: Told, sums: Told) -> str:
    """Return why a cell must not be believed; nothing if it may."""
    if sums["measured"] < FEWEST:
        return (
            f"fewer than {FEWEST} requests in {cell.seconds:g} s: watch it for longer"
        )
    if sums["failed"]:
        return f"{sums['failed']} requests failed"
    if not LITTLE[0] <= figures["little"] <= LITTLE[1]:
        return (
            f"Little check {figures['little']:.3f}, outside {LITTLE[0]} to {LITTLE[1]}"
        )
    late_us = figures["late_us"]
    too_late = max(LATE_S * 1e6, LATE_SHARE * figures["latency_us"]["mean"])
    if cell.rate_per_s is not None and late_us > too_late and cell.batch == 1:
        return f"the sender itself was late, by {late_us:.0f} us in the mean"
    return ""
