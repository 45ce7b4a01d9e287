"""How many slots a load needs, by which rule, and what no ring can do for it.

Who asks for the impossible is told which number to change, and to what; each such
answer works if it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from . import constant_service, queueing
from .forecast import Forecast, Load, forecast, throughput_per_s
from .layout import MAX_SLOTS
from .units import down, show_number, show_s, up

SHARE = 0.95  # of the most that any ring carries
BUSY_SHARE = 0.8  # of a producer's time, at most
MOST_SERVERS = 1 << 20


class Needs(NamedTuple):
    """What decides the number of slots, in all rings together.

    Attributes:
        knee: The least number that carries 95 % of what any would.
        in_flight: Rate x time (Little).
        used: Share of the slots that these may take: where all requests are kept, what
            piles up in a moment's stop must drain again.
        pause: Rate x the longest pause.
        pause_s: The longest pause.
        p99_s: What 99 in 100 may take, or infinity.
        loss: Share of requests that may be lost.
    """

    knee: int
    in_flight: float
    used: float
    pause: float
    pause_s: float
    p99_s: float
    loss: float

    @property
    def slots(self) -> int:
        """The least number by all rules but p99 and loss."""
        return max(self.knee, math.ceil(self.in_flight / self.used + self.pause))


class Size(NamedTuple):
    """A ring that does.

    Attributes:
        slots: Of each ring, a power of two.
        depth: How many of them to use at most, None for all.
    """

    slots: int
    depth: int | None = None


def needs(load: Load, *, pause_s: float, p99_s: float | None, loss: float) -> Needs:
    """Say what Little's law, the pause and the knee ask for."""
    enough = SHARE * load.useful_per_s
    if load.is_lossy and load.rate_per_s is not None:
        enough = min(enough, (1 - loss) * load.rate_per_s)
    knee = least(lambda slots: throughput_per_s(load, slots) >= enough, 2 * MAX_SLOTS)
    inside, used = float(knee), 1.0
    if load.rate_per_s is not None:
        endless = in_flight(load, load.rate_per_s)
        inside, used = (
            (min(inside, endless), 1.0) if load.is_lossy else (endless, SHARE)
        )
    pause = queueing.pause_slots(load.useful_per_s, pause_s)
    return Needs(knee, inside, used, pause, pause_s, p99_s or math.inf, loss)


def in_flight(load: Load, rate_per_s: float) -> float:
    """Return how many are inside when there is always a free slot."""
    wait_s = 0.0
    if load.servers is not None and rate_per_s < load.served_per_s:
        law = constant_service if load.is_fixed else queueing
        wait_s = law.wait_s(rate_per_s, load.service_s, load.servers)
    time_s = load.service_s + load.round_trip_s + wait_s
    return queueing.little(load.useful_per_s, time_s)


def least(is_enough: Callable[[int], bool], most: int) -> int:
    """Return the least number that is enough, or `most` if none below it is."""
    high = 1
    while high < most and not is_enough(high):
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def smallest_ring(load: Load, need: Needs) -> Size:
    """Return the smallest ring that does.

    Raises:
        ValueError: None does.
    """
    slots = 1
    while slots * load.queues < need.slots:
        slots *= 2
    while slots <= MAX_SLOTS:
        found = forecast(load, slots * load.queues)
        loses = load.is_lossy and found.blocking > need.loss
        if not loses and found.p99_s <= need.p99_s:
            return Size(slots)
        if not loses and load.rate_per_s is None:
            return Size(slots, _depth_in_time(load, need, slots))
        if not loses and load.is_lossy:
            raise ValueError(_too_old(load, need, found))
        slots *= 2
    if need.slots > MAX_SLOTS * load.queues:
        raise ValueError(_too_many(load, need))
    raise ValueError(_too_slow(load, need))


def _depth_in_time(load: Load, need: Needs, slots: int) -> int:
    """Return how many slots of a ring to use if all of them make answers too old.

    Halfway between the least that carry enough and the most that answer in time: at
    either end chance would decide.
    """

    def is_late(depth: int) -> bool:
        return forecast(load, depth * load.queues).p99_s > need.p99_s

    first = math.ceil(need.slots / load.queues)
    if is_late(first):
        raise ValueError(_too_old(load, need, forecast(load, first * load.queues)))
    return (first + least(is_late, slots) - 1) // 2


# -- what no ring can do ---------------------------------------------------------


def check_rate(load: Load, producers: int, cores: int, loss: float) -> None:
    """Refuse a rate that servers or producers cannot carry."""
    rate = load.rate_per_s
    if rate is None or rate * (1 - loss * load.is_lossy) < load.most_per_s:
        return
    asked = f"{show_number(rate)}/s are asked"
    if load.servers is not None and load.served_per_s <= load.most_per_s:
        raise ValueError(
            f"{load.servers} servers of {show_s(load.service_s)} serve "
            f"{show_number(load.served_per_s)}/s at most, and {asked}: set servers to "
            f"{math.ceil(rate * load.service_s / SHARE)} or more, service_s to "
            f"{show_s(down(SHARE * load.servers / rate))} or less, or rate_per_s to "
            f"{show_number(down(SHARE * load.served_per_s))} or less"
        )
    wanted = math.ceil(rate * load.request_s / BUSY_SHARE)
    pushers = min(producers, cores)
    raise ValueError(
        f"{pushers} producer{'s' * (pushers > 1)} with a core each can push "
        f"{show_number(load.most_per_s)}/s at most at {show_s(load.request_s)} a "
        f"request, and {asked}: set producers and cores to {wanted} or more, or "
        f"rate_per_s to {show_number(down(BUSY_SHARE * load.most_per_s))} or less"
    )


def check_p99(load: Load, p99_s: float | None) -> None:
    """Refuse an objective that not even a lone request meets."""
    floor_s, round_s = load.alone_s(0.99), load.round_trip_s
    if p99_s is None or p99_s >= floor_s:
        return
    ways = [f"p99_s to {show_s(up(floor_s))} or more"]
    if p99_s > round_s:
        service_s = (p99_s - round_s) / load.spread(0.99)
        ways.append(f"service_s to {show_s(down(service_s))} or less")
    raise ValueError(
        f"99 in 100 of {load.variability} services of {show_s(load.service_s)} take up "
        f"to {show_s(floor_s - round_s)}, and the ring adds {show_s(round_s)}: set "
        + ", or ".join(ways)
    )


def _too_old(load: Load, need: Needs, found: Forecast) -> str:
    """So many slots are needed that answers become too old."""
    reason = f"{show_number(load.useful_per_s)}/s"
    ways = [f"p99_s to {show_s(up(found.p99_s))} or more"]
    in_time = _largest_in_time(load, need.p99_s)
    room = in_time.slots - max(need.in_flight / need.used, need.knee)
    if need.pause > 0 and need.slots > need.knee:
        reason = f"a pause of {show_s(need.pause_s)} at {reason}"
        if room > 0:
            shorter_s = down(room / load.useful_per_s)
            ways.append(f"pause_s to {show_s(shorter_s)} or less")
    elif load.is_lossy:
        reason = f"losing {100 * need.loss:.3g} % at most"
        ways.append(f"loss to {up(in_time.blocking):.3g} or more")
    return (
        f"{reason} needs {found.slots} slots, and 99 in 100 answers then take up to "
        f"{show_s(found.p99_s)}: set " + ", or ".join(ways)
    )


def _largest_in_time(load: Load, p99_s: float) -> Forecast:
    best = forecast(load, load.queues)
    while best.slots < MAX_SLOTS * load.queues:
        bigger = forecast(load, 2 * best.slots)
        if bigger.p99_s > p99_s:
            break
        best = bigger
    return best


def _too_many(load: Load, need: Needs) -> str:
    most = MAX_SLOTS * load.queues
    room = most - max(need.in_flight / need.used, need.knee)
    asks = f"{need.slots} slots are needed, and a ring has {MAX_SLOTS} at most: set "
    if room > 0 and need.pause > 0:
        return f"{asks}pause_s to {show_s(down(room / load.useful_per_s))} or less"
    if load.rate_per_s is None:
        return f"{asks}servers to {int(SHARE * most)} or less"
    rate = load.rate_per_s * SHARE * most / need.slots
    return f"{asks}rate_per_s to {show_number(down(rate))} or less"


def _too_slow(load: Load, need: Needs) -> str:
    """The queue before the servers takes too long, however large the ring."""
    found = forecast(load, MAX_SLOTS * load.queues)
    if load.is_lossy:
        return (
            f"even {MAX_SLOTS} slots lose {100 * found.blocking:.3g} %: set loss to "
            f"{up(found.blocking):.3g} or more, or servers higher"
        )
    ways = [f"p99_s to {show_s(up(found.p99_s))} or more"]
    ways += _ways_to_be_faster(load, need)
    return (
        f"however large the ring, 99 in 100 answers take up to {show_s(found.p99_s)}, "
        f"as servers are in use {load.useful_per_s / load.served_per_s:.0%} of the "
        "time: set " + ", or ".join(ways)
    )


def _ways_to_be_faster(load: Load, need: Needs) -> Iterator[str]:
    def in_time(changed: Load) -> bool:
        return forecast(changed, MAX_SLOTS * load.queues).p99_s <= need.p99_s

    servers = least(lambda n: in_time(replace(load, servers=n)), MOST_SERVERS)
    yield f"servers to {servers} or more"
    step = (load.rate_per_s or 0.0) / 1000
    late = least(lambda n: not in_time(replace(load, rate_per_s=n * step)), 1000)
    if late > 1:
        yield f"rate_per_s to {show_number(down((late - 1) * step))} or less"
