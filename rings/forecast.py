"""What a ring of N slots would do for a given load: the model behind the advice.

A slot is taken for the service and the ring's own round trip r: two wake-ups, or next
to nothing while both ends spin, and c seconds of CPU time.  So N slots carry
N / (S + r) at most, K servers K / S, and the processes that push and serve 1 / c each:

    X(N) = min(N / (r + max(S, (N - 1) c)), K / S, 1 / c)

The inner `max` is for devices faster than the ring: then requests go round in lock
step, N at a time, and N is what shares the two wake-ups.  A load that is open brings
Poisson arrivals to what is narrower, slots or servers; there the times come from.

A pause of the consumer is rare: it decides how many slots are needed, and not p99.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from . import constant_service, queueing
from .station import Station

VARIABILITIES = ("exponential", "fixed")
POLICIES = ("block", "spill", "drop_new", "error")
SPINNING_ROUND_TRIP_S = 1e-6


@dataclass(frozen=True)
class Load:
    """What is asked of a ring and what serves it; `advise` documents each."""

    rate_per_s: float | None
    service_s: float
    servers: int | None = None
    variability: str = "exponential"
    policy: str = "block"
    wake_s: float = 30e-6
    request_s: float = 2e-6
    queues: int = 1
    wait: str = "block"

    @property
    def is_fixed(self) -> bool:
        """Whether each service takes the same time."""
        return self.variability == "fixed"

    @property
    def is_lossy(self) -> bool:
        """Whether a request that finds the ring full is not tried again."""
        return self.policy in ("drop_new", "error") and self.rate_per_s is not None

    @property
    def round_trip_s(self) -> float:
        """What the ring itself adds to each answer."""
        wakes_s = 2 * self.wake_s if self.wait == "block" else SPINNING_ROUND_TRIP_S
        return wakes_s + self.request_s

    @property
    def served_per_s(self) -> float:
        """What the servers can do."""
        return math.inf if self.servers is None else self.servers / self.service_s

    @property
    def most_per_s(self) -> float:
        """What servers and processes carry, however large the ring."""
        return min(self.served_per_s, self.queues / self.request_s)

    @property
    def useful_per_s(self) -> float:
        """What is asked, as far as it can be carried."""
        return min(self.rate_per_s or math.inf, self.most_per_s)

    def spread(self, share: float) -> float:
        """Return how many mean services `share` of the services take at most."""
        return 1.0 if self.is_fixed else -math.log(1 - share)

    def alone_s(self, share: float) -> float:
        """Return the time within which `share` are answered that need not wait."""
        return self.service_s * self.spread(share) + self.round_trip_s

    def carried_per_s(self, slots: int) -> float:
        """Return X(N) for so many slots, always asked."""
        others_s = (slots / self.queues - 1) * self.request_s
        cycle_s = self.round_trip_s + max(self.service_s, others_s)
        return min(slots / cycle_s, self.most_per_s)

    def narrowest(self, slots: int) -> tuple[int, float]:
        """Return how many at a time limit, slots or servers, and how long each."""
        held_s = self.service_s + self.round_trip_s
        if self.servers is None or slots * self.service_s < self.servers * held_s:
            return slots, held_s
        return self.servers, self.service_s


class Forecast(NamedTuple):
    """What so many slots, in all rings together, would do.

    Attributes:
        slots: In all rings together.
        throughput_per_s: Requests answered.
        p50_s: Half are answered within it, from when they were meant to start.
        p99_s: The same of 99 in 100; infinite if the ring cannot keep up.
        blocking: Share of requests that find no free slot.
        in_flight: Mean number of slots in use.
        full_s: How long an answer takes when all slots are in use.
        pause_s: How long the consumer may stop before that happens.
    """

    slots: int
    throughput_per_s: float
    p50_s: float
    p99_s: float
    blocking: float
    in_flight: float
    full_s: float
    pause_s: float


def forecast(load: Load, slots: int) -> Forecast:
    """Say what `slots` slots would do."""
    if load.rate_per_s is None:
        return _always_asked(load, slots)
    if load.is_lossy:
        return _lossy(load, slots, load.rate_per_s)
    return _patient(load, slots, load.rate_per_s)


def throughput_per_s(load: Load, slots: int) -> float:
    """Say how much `slots` slots would carry: `forecast` without its times."""
    carried = load.carried_per_s(slots)
    if load.is_lossy and load.rate_per_s is not None:
        return min(carried, _crowd(load, slots, load.rate_per_s).throughput_per_s)
    return min(carried, load.rate_per_s or math.inf)


def _always_asked(load: Load, slots: int) -> Forecast:
    """A closed loop: each slot is asked again as soon as it is answered."""
    carried = load.carried_per_s(slots)
    mean_s = slots / carried
    servers = load.servers or slots
    if load.is_fixed:
        more_s = max(0.0, mean_s - load.service_s * max(1.0, slots / servers))
        waves = (_waves(load, slots, share) for share in (0.50, 0.99))
        p50_s, p99_s = (load.service_s * wave + more_s for wave in waves)
    else:
        station = queueing.closed(slots, load.service_s, servers)
        more_s = mean_s - station.mean_response_s
        p50_s, p99_s = (station.quantile_s(share) + more_s for share in (0.50, 0.99))
    spare_s = max(0.0, mean_s - load.service_s - load.round_trip_s)
    return Forecast(slots, carried, p50_s, p99_s, 1.0, slots, mean_s, spare_s)


def _waves(load: Load, slots: int, share: float) -> float:
    """Return how many services `share` of the requests take, if all take the same time.

    They go round in waves of K, so what does not fit in a wave waits for all of the
    next: 64 slots before 48 servers make one in three take twice as long.  Waves drift
    apart in time, some more than others, and then that wait is shorter: never count on
    it (24 requests too many for 1,000 servers had a p99 of 1.2 to 1.9 services).
    """
    servers = load.servers or slots
    whole, rest = divmod(slots, servers)
    fits = rest <= (1 - share) * servers
    return whole if whole and fits else whole + 1


def _patient(load: Load, slots: int, rate_per_s: float) -> Forecast:
    """Who finds the ring full waits for a slot; nothing is lost."""
    carried = load.carried_per_s(slots)
    full_s = slots / carried
    if rate_per_s >= carried:
        return Forecast(slots, carried, math.inf, math.inf, 1.0, slots, full_s, 0.0)
    servers, service_s = load.narrowest(slots)
    queue = (rate_per_s, service_s, servers)
    law = constant_service if load.is_fixed else queueing
    p50_s, p99_s = (
        law.quantile_s(share, *queue)
        + load.alone_s(share)
        - load.spread(share) * service_s
        for share in (0.50, 0.99)
    )
    used = rate_per_s * service_s
    behind = (slots - servers) * (2 if load.is_fixed else 1)
    blocking = queueing.erlang_c(used, servers) * (used / servers) ** behind
    time_s = law.wait_s(*queue) + load.service_s + load.round_trip_s
    inside = min(slots, queueing.little(rate_per_s, time_s))
    pause_s = (slots - inside) / rate_per_s
    return Forecast(slots, rate_per_s, p50_s, p99_s, blocking, inside, full_s, pause_s)


def _lossy(load: Load, slots: int, rate_per_s: float) -> Forecast:
    """Who finds the ring full is turned away: fewer slots lose more, and wait less."""
    crowd = _crowd(load, slots, rate_per_s)
    p50_s, p99_s = (crowd.quantile_s(share) for share in (0.50, 0.99))
    round_s, carried = load.round_trip_s, load.carried_per_s(slots)
    inside = crowd.mean_number + queueing.little(crowd.throughput_per_s, round_s)
    return Forecast(
        slots,
        min(carried, crowd.throughput_per_s),
        p50_s + round_s,
        p99_s + round_s,
        crowd.blocking,
        inside,
        slots / carried,
        max(0.0, slots - inside) / rate_per_s,
    )


def _crowd(load: Load, slots: int, rate_per_s: float) -> Station:
    """The servers and the slots before them, less those that are on the way."""
    on_the_way = round(queueing.little(load.useful_per_s, load.round_trip_s))
    places = max(1, slots - on_the_way)
    servers = min(load.servers or places, places)
    station = constant_service.finite if load.is_fixed else queueing.mmck
    return station(rate_per_s, load.service_s, servers, places)
