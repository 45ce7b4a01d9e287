"""Queueing theory for rings: pure functions, seconds and requests per second.

A ring of N slots before a device of K servers that each take S seconds is one of:

- *open*, who asks does not wait for answers: M/M/K if he waits for a free slot,
  M/M/K/N if a request that finds all slots in use is lost;
- *closed*, each slot is asked again as soon as it is answered: N customers go round.

Service times here are exponential, and all is exact; `constant_service` has those that
are not.  Distributions are taken in logarithms, so 65536 places and thousands of
servers neither overflow nor vanish.

Sources: Little, *Operations Research* 9 (1961); Kleinrock, *Queueing Systems* I (1975),
sections 3.5 to 3.8; Lavenberg and Reiser, *J. Applied Probability* 17 (1980), for what
an arrival finds in a closed network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .station import Station, solve
from .usl import Usl, fit_usl, usl

__all__ = [
    "Station",
    "Usl",
    "closed",
    "erlang_b",
    "erlang_c",
    "fit_usl",
    "little",
    "mmck",
    "pause_slots",
    "quantile_s",
    "usl",
    "wait_s",
]


def little(rate_per_s: float, time_s: float) -> float:
    """Return how many are inside when so many come a second and stay so long."""
    return rate_per_s * time_s


def pause_slots(rate_per_s: float, pause_s: float) -> float:
    """Return how many pile up while the consumer pauses (4096 at 14.8 M/s: 277 us)."""
    return rate_per_s * pause_s


def erlang_b(load: float, servers: int) -> float:
    """Return the share lost by `servers` without a queue; `load` is rate x service.

    True of any distribution of the service time.
    """
    positive(servers=servers)
    lost = 1.0
    for n in range(1, servers + 1):
        lost = load * lost / (n + load * lost)
    return lost


def erlang_c(load: float, servers: int) -> float:
    """Return the share that waits for one of `servers` with an endless queue."""
    if load >= servers:
        return 1.0
    lost = erlang_b(load, servers)
    return lost / (1 - load / servers * (1 - lost))


def mmck(arrival_per_s: float, service_s: float, servers: int, places: int) -> Station:
    """Poisson arrivals, exponential service, `places` counting those in service."""
    positive(arrival_per_s=arrival_per_s, service_s=service_s, servers=servers)
    positive(places=places)
    load = arrival_per_s * service_s
    steps = (math.log(load / min(n, servers)) for n in range(1, places + 1))
    distribution = _normalised(steps)
    blocking = distribution[-1]
    open_share = 1 - blocking if blocking < 0.5 else math.fsum(distribution[:-1])
    found = [p / open_share for p in distribution[:-1]]
    throughput = arrival_per_s * open_share
    return Station(servers, service_s, throughput, blocking, distribution, found)


def closed(
    customers: int, service_s: float, servers: int, think_s: float = 0.0
) -> Station:
    """`customers` who each think, are served, and think again (machine repair).

    Without thinking all are always inside and X = min(N, K) / S.
    """
    positive(customers=customers, service_s=service_s, servers=servers)
    inside = _repair(customers, service_s, servers, think_s)
    found = _repair(customers - 1, service_s, servers, think_s)
    busy = math.fsum(min(n, servers) * p for n, p in enumerate(inside))
    return Station(servers, service_s, busy / service_s, 0.0, inside, found)


def _repair(
    customers: int, service_s: float, servers: int, think_s: float
) -> list[float]:
    if think_s == 0:
        return [0.0] * customers + [1.0]
    ratio = service_s / think_s
    return _normalised(
        math.log(ratio * (customers - n + 1) / min(n, servers))
        for n in range(1, customers + 1)
    )


def quantile_s(
    share: float, arrival_per_s: float, service_s: float, servers: int
) -> float:
    """Return the time within which `share` are answered by an endless M/M/c queue."""
    stable(arrival_per_s, service_s, servers)
    waits = erlang_c(arrival_per_s * service_s, servers)
    spare = servers - arrival_per_s * service_s  # of the wait's rate, in 1 / service_s
    apart = spare - 1

    def above(time_s: float) -> float:
        x = time_s / service_s
        both = math.exp(-x) * x * (1 - apart * x / 2)
        if abs(apart * x) > 1e-6:
            both = (math.exp(-x) - math.exp(-spare * x)) / apart
        return math.exp(-x) + waits * both

    return solve(above, share, service_s)


def wait_s(arrival_per_s: float, service_s: float, servers: int) -> float:
    """Return the mean wait for one of `servers` with an endless queue."""
    stable(arrival_per_s, service_s, servers)
    load = arrival_per_s * service_s
    return erlang_c(load, servers) * service_s / (servers - load)


def _normalised(steps: Iterable[float]) -> list[float]:
    """Probabilities from the logarithms of the ratios between neighbours."""
    logs = [0.0]
    for step in steps:
        logs.append(logs[-1] + step)
    top = max(logs)
    weights = [math.exp(value - top) for value in logs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def positive(**numbers: float) -> None:
    """Refuse a number that is not, naming it."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive, not {number}")


def stable(arrival_per_s: float, service_s: float, servers: int) -> None:
    """Refuse a rate that the servers cannot keep up with."""
    positive(arrival_per_s=arrival_per_s, service_s=service_s, servers=servers)
    if arrival_per_s * service_s >= servers:
        raise ValueError(
            f"{servers} servers of {service_s} s serve {servers / service_s:g}/s at "
            f"most: without end, {arrival_per_s:g}/s make an endless queue"
        )
