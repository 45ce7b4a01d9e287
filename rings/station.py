"""Some servers and the queue before them, and how long a request takes there.

With c servers busy, departures come at c / S a second, so who finds n >= c inside
waits an Erlang time of n - c + 1 stages and is then served an Exp(S).  For k stages

    P(T > t) = P(Poisson(ct/S) < k) + I_k

where I_k, "served at t", has the backward recursion I_(k-1) = (1 - 1/c) I_k + pi_(k-1)
with Poisson weights pi.  Forward it subtracts and explodes; backward every term is
positive and each step shrinks an error, so it holds for thousands of servers and
65536 stages.  The mixture over what an arrival finds is then exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple


class Station(NamedTuple):
    """Some servers and their queue, in the long run.

    Attributes:
        servers: How many serve at the same time.
        service_s: What each takes on average.
        throughput_per_s: Requests answered.
        blocking: Share of requests that find no place.
        distribution: Share of time with 0, 1, 2, ... inside.
        found: The same as an accepted request finds it.
        halved: The service is constant: what waits is half of what stands above.
    """

    servers: int
    service_s: float
    throughput_per_s: float
    blocking: float
    distribution: Sequence[float]
    found: Sequence[float]
    halved: bool = False

    @property
    def mean_number(self) -> float:
        """How many are inside, waiting or served."""
        part = 0.5 if self.halved else 1.0
        return math.fsum(
            p * (min(n, self.servers) + part * max(0, n - self.servers))
            for n, p in enumerate(self.distribution)
        )

    @property
    def mean_wait_s(self) -> float:
        """From being accepted to being served."""
        stages = math.fsum(n * p for n, p in enumerate(self.found[self.servers :], 1))
        return stages * self.service_s / self.servers / (2 if self.halved else 1)

    @property
    def mean_response_s(self) -> float:
        """From being accepted to being answered."""
        return self.mean_wait_s + self.service_s

    def quantile_s(self, share: float) -> float:
        """Return the time within which `share` of the accepted are answered."""
        if self.halved:
            return self.service_s + self._steady_wait_s(share)
        return Mixture(self.found, self.servers, self.service_s).quantile_s(share)

    def _steady_wait_s(self, share: float) -> float:
        """Constant services leave at a steady pace: the place in the queue decides."""
        sums = enumerate(accumulate(self.found))
        place = next((n for n, below in sums if below >= share), len(self.found))
        return max(0, place - self.servers) / 2 * self.service_s / self.servers


class Mixture:
    """The time of a request that finds n inside with probability found[n]."""

    def __init__(
        self,
        found: Sequence[float],
        servers: int,
        service_s: float,
    ) -> None:
        self._at_once = math.fsum(found[:servers])
        self._stages = found[servers:]
        self._beyond = list(accumulate(reversed(self._stages), initial=0.0))[::-1]
        self._servers = servers
        self._service_s = service_s

    def above(self, time_s: float) -> float:
        """Return the probability of taking longer than `time_s`."""
        x = time_s / self._service_s
        served = self._at_once * math.exp(-x)
        return min(1.0, served + self._staged(self._servers * x))

    def _staged(self, departures: float) -> float:
        if not self._stages or departures == 0:
            return self._beyond[0]
        first, weights = poisson(departures)
        last = first + len(weights) - 1
        keep = 1 - 1 / self._servers
        stages = self._stages
        total = self._beyond[min(last + 1, len(stages))]
        waiting, served = 1.0, 0.0
        for k in range(last, -1, -1):
            if k < len(stages):
                total += stages[k] * (waiting + served)
            weight = weights[k - first] if k >= first else 0.0
            waiting = max(0.0, waiting - weight) if k > first else 0.0
            served = keep * served + weight
            if k <= first and served < 1e-18:
                break
        return total

    def quantile_s(self, share: float) -> float:
        """Return the time within which `share` are answered."""
        return solve(self.above, share, self._service_s)


def poisson(mean: float) -> tuple[int, list[float]]:
    """Return where the weights that matter begin, and those weights.

    What is left out, on both sides together, is less than 1e-20.
    """
    spread = 10 * math.sqrt(mean) + 30
    first = max(0, math.floor(mean - spread))
    weights = [math.exp(first * math.log(mean) - mean - math.lgamma(first + 1))]
    for n in range(first + 1, math.ceil(mean + spread) + 1):
        weights.append(weights[-1] * mean / n)
    total = math.fsum(weights)
    return first, [weight / total for weight in weights]


def solve(above: Callable[[float], float], share: float, scale_s: float) -> float:
    """Return the time that 1 - `share` exceed, where `above` falls from 1 to 0."""
    if not 0 < share < 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}")
    rest = 1 - share
    if above(0.0) <= rest:
        return 0.0
    low, high = 0.0, scale_s
    while above(high) > rest:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > rest else (low, middle)
    return high
