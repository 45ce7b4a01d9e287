"""A ring before servers, event by event: what the formulas are held against.

First come first served needs no event list: a request starts when it is there and a
slot is free, is served when a server is, and frees its slot a round trip later.  One
heap holds when each slot is free again, the other when each server is.
"""

from __future__ import annotations

import random
from heapq import heapreplace
from itertools import accumulate
from typing import NamedTuple


class Run(NamedTuple):
    """What came out, the first fifth left out as warming up."""

    throughput_per_s: float
    lost: float
    response_s: list[float]
    wait_s: list[float]

    def quantile_s(self, share: float) -> float:
        ordered = sorted(self.response_s)
        return ordered[int(share * len(ordered))]

    def as_cell(self, slots: int) -> dict[str, object]:
        """Lay it out as the stress tool does."""
        return {
            "parameters": {"slots": slots},
            "achieved_per_s": self.throughput_per_s,
            "latency_us": {"p99": 1e6 * self.quantile_s(0.99)},
            "valid": True,
        }


class Pauses(NamedTuple):
    """Servers that stand still for `length_s` at the end of every `every_s`."""

    every_s: float = 1.0
    length_s: float = 0.0

    def after(self, start_s: float, work_s: float) -> float:
        """Return when so much work is done."""
        awake_s = self.every_s - self.length_s
        rounds, inside = divmod(start_s, self.every_s)
        done = rounds * awake_s + min(inside, awake_s) + work_s
        rounds, inside = divmod(done, awake_s)
        return rounds * self.every_s + inside


def simulate(
    requests: int,
    *,
    rate_per_s: float | None,
    service_s: float,
    servers: int,
    slots: int,
    is_fixed: bool = False,
    is_lossy: bool = False,
    round_trip_s: float = 0.0,
    request_s: float = 0.0,
    pauses: Pauses | None = None,
    seed: int = 1,
) -> Run:
    """Send so many requests through and say what came out."""
    dice = random.Random(seed)
    free = [slot * service_s / slots for slot in range(slots)]  # not all in one wave
    idle = [0.0] * servers
    gaps = (dice.expovariate(rate_per_s or 1.0) for _ in range(requests))
    ends, times, waits, lost, pushed_s = [], [], [], 0, 0.0
    for number, asked_s in enumerate(accumulate(gaps)):
        if rate_per_s is None:
            asked_s = max(free[0], pushed_s + request_s)
        if is_lossy and free[0] > asked_s:
            lost += number >= requests // 5
            continue
        pushed_s = max(asked_s, free[0], pushed_s + request_s)
        there, back = dice.random(), dice.random()  # half a round trip in the mean
        start_s = pushed_s + there * round_trip_s
        begun_s = max(start_s, idle[0])
        work_s = service_s if is_fixed else dice.expovariate(1 / service_s)
        done_s = begun_s + work_s if pauses is None else pauses.after(begun_s, work_s)
        heapreplace(idle, done_s)
        answered_s = done_s + back * round_trip_s
        heapreplace(free, answered_s)
        if number >= requests // 5:
            ends.append(done_s)
            times.append(answered_s - asked_s)
            waits.append(begun_s - start_s)
    ends = sorted(end for end in ends if end <= begun_s)
    rate = (len(ends) - 1) / (ends[-1] - ends[0])
    return Run(rate, lost / (requests - requests // 5), times, waits)
