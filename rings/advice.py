"""How many slots, queues and requests a batch: the smallest that do, and why.

The rules, each with a number behind it (`forecast` has the model):

- slots >= rate x time in the ring (Little), plus rate x the longest pause;
- the smallest power of two that carries 95 % of what any ring would, loses no more
  than allowed and keeps p99; a larger one only lets answers become older;
- where all its slots in use answer too late and who asks can ask less, a depth in it;
- no more queues than there are cores and producers to push, and than the rate needs;
- a batch so large that a wake-up costs less than a tenth of the time of its requests.

`knee` finds the same ring in what was measured, and `compare` says how far apart.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .channel import parse as parse_wait
from .forecast import POLICIES, VARIABILITIES, Forecast, Load, forecast
from .needs import (
    BUSY_SHARE,
    SHARE,
    Needs,
    Size,
    check_p99,
    check_rate,
    needs,
    smallest_ring,
)
from .units import show_number, show_s

WAKE_SHARE = 0.1  # of the time between requests, at most
USUAL_MAX_SLOTS = 4096  # what a daemon grants if it is not told otherwise


@dataclass(frozen=True)
class Advice:
    """What to use, what it will do, and why.

    Attributes:
        slots: Of each ring, a power of two.
        order: The same in pages of a Xen ring, `32 << order`; None below one page.
        depth: How many of the slots to use at most (`Block`'s `depth`); None for all.
        queues: Rings, each with a worker of its own.
        batch: Requests to publish together where that is possible.
        wait: Waiting strategy: `block`, `spin:MICROSECONDS` or `busy`.
        knee: The least number of slots, in all rings, that carries 95 %.
        utilisation: Share of what servers and processes can carry.
        predicted: What all rings together will do.
        smaller: The same with half the slots (or half the depth), or None.
        bigger: The same with twice the slots (or all of them).
        why: A sentence with the numbers.
    """

    slots: int
    order: int | None
    depth: int | None
    queues: int
    batch: int
    wait: str
    knee: int
    utilisation: float
    predicted: Forecast
    smaller: Forecast | None
    bigger: Forecast
    why: str


def advise(
    rate_per_s: float | None,
    service_s: float,
    *,
    servers: int | None = None,
    pause_s: float = 0.0,
    p99_s: float | None = None,
    producers: int = 1,
    variability: str = "exponential",
    policy: str = "block",
    loss: float = 0.05,
    wait: str | None = None,
    wake_s: float = 30e-6,
    request_s: float = 2e-6,
    cores: int | None = None,
) -> Advice:
    """Say how large a ring to use.

    Args:
        rate_per_s: Requests a second that come whether or not others are answered;
            None for as many as the device takes (a closed loop).
        service_s: Mean time the device works on a request.
        servers: Requests it works on at the same time; None if there is no limit.
        pause_s: The longest time for which the consumer stops: a collection, a
            lost time slice, a slow page.
        p99_s: What 99 in 100 answers may take, pauses left aside.
        producers: Threads or processes that push.
        variability: Of the service time: ``"fixed"`` or ``"exponential"``.
        policy: When the ring is full: ``"block"`` or ``"spill"`` keep the request,
            ``"drop_new"`` or ``"error"`` lose it.
        loss: Share of requests that may be lost with the latter.
        wait: Waiting strategy; None chooses one.
        wake_s: What it takes to wake a sleeper; half of what `python -m bench block`
            shows as the latency of "ring, block" at depth 1.
        request_s: CPU time a request costs the busier end.
        cores: Cores that push; None for those of this process.

    Raises:
        ValueError: A number makes no sense, or no ring can do what is asked; the
            message says which number to change, and to what.
    """
    _above(0, rate_per_s=rate_per_s, service_s=service_s, p99_s=p99_s, wake_s=wake_s)
    _above(0, servers=servers, producers=producers, request_s=request_s, cores=cores)
    _above(-1e-300, pause_s=pause_s, loss=loss)
    _among(VARIABILITIES, "variability", variability)
    _among(POLICIES, "policy", policy)
    if wait is not None:
        parse_wait(wait)
    load = Load(rate_per_s, service_s, servers, variability, policy, wake_s, request_s)
    cores = cores or len(os.sched_getaffinity(0))
    load = replace(load, queues=_queues(load, min(cores, producers)))
    load = replace(load, wait=wait or _wait(load, p99_s, cores))
    check_rate(load, producers, cores, loss)
    check_p99(load, p99_s)
    need = needs(load, pause_s=pause_s, p99_s=p99_s, loss=loss)
    return _advice(load, need, smallest_ring(load, need))


def _above(least: float, **numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not least < number < math.inf:
            floor = "more than 0" if least == 0 else "at least 0"
            raise ValueError(f"{name} must be {floor}, not {number}")


def _among(choices: tuple[str, ...], name: str, chosen: str) -> None:
    if chosen not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {chosen!r}")


def _queues(load: Load, most: int) -> int:
    """As few rings as keep each pusher busy for 80 % of its time at most."""
    rate = min(load.rate_per_s or math.inf, load.served_per_s)
    wanted = rate * load.request_s / BUSY_SHARE
    return max(1, min(most, math.ceil(min(wanted, most))))


def _wait(load: Load, p99_s: float | None, cores: int) -> str:
    """Spin if the next request comes sooner than a sleeper wakes, or p99 needs it."""
    if cores < 2:
        return "block"
    if load.useful_per_s * load.wake_s > load.queues:
        return f"spin:{max(1, round(2 * load.wake_s * 1e6))}"
    asleep_s, awake_s = (replace(load, wait=w).alone_s(0.99) for w in ("block", "busy"))
    is_tight = p99_s is not None and awake_s <= p99_s < asleep_s
    return "busy" if is_tight else "block"


def _batch(load: Load, slots: int) -> int:
    """What shares a wake-up, as long as filling it delays nobody by a tenth."""
    rate = load.useful_per_s / load.queues
    batch = math.ceil(load.wake_s * rate / WAKE_SHARE)
    if load.rate_per_s is not None:
        batch = min(batch, 1 + int(load.service_s * rate / 10))
    return max(1, min(batch, slots // 2))


def _advice(load: Load, need: Needs, size: Size) -> Advice:
    slots, depth = size
    used = (depth or slots) * load.queues
    predicted = forecast(load, used)
    bigger = forecast(load, (slots if depth else 2 * slots) * load.queues)
    return Advice(
        slots=slots,
        order=slots.bit_length() - 6 if slots >= 32 else None,
        depth=depth,
        queues=load.queues,
        batch=_batch(load, depth or slots),
        wait=load.wait,
        knee=need.knee,
        utilisation=predicted.throughput_per_s / load.most_per_s,
        predicted=predicted,
        smaller=forecast(load, used // 2) if used > load.queues else None,
        bigger=bigger,
        why=_why(load, need, size, predicted, bigger),
    )


def _why(
    load: Load, need: Needs, size: Size, chosen: Forecast, bigger: Forecast
) -> str:
    rate = f"{show_number(load.useful_per_s)}/s"
    reason = f"{need.knee} slots carry {100 * SHARE:.0f} % of {rate}"
    if load.rate_per_s is not None:
        time_s = need.in_flight / load.useful_per_s
        reason = f"{rate} x {show_s(time_s)} are {need.in_flight:.3g} in flight"
    if need.pause:
        reason += f", a pause of {show_s(need.pause_s)} adds {show_number(need.pause)}"
    if chosen.slots >= 2 * load.queues * need.slots:
        reason += _decided_by(load, need)
    why = f"{reason}: {_said(load, size, chosen, bigger)}"
    if need.pause_s > need.p99_s:
        why += "; p99 holds as long as less than 1 request in 100 meets a pause"
    if size.slots > USUAL_MAX_SLOTS:
        why += f"; start the daemon with --max-slots {size.slots}"
    return why


def _said(load: Load, size: Size, chosen: Forecast, bigger: Forecast) -> str:
    """Say what to use, and what more of it would do."""
    rings = f" in {load.queues} rings" if load.queues > 1 else ""
    if size.depth:
        return (
            f"{bigger.slots} slots{rings}, of which {chosen.slots} in use; with all in "
            f"use 99 in 100 take up to {show_s(bigger.p99_s)} instead of "
            f"{show_s(chosen.p99_s)}"
        )
    return (
        f"{chosen.slots} slots{rings}; with {bigger.slots} a full ring would "
        f"answer in {show_s(bigger.full_s)} instead of {show_s(chosen.full_s)}"
    )


def _decided_by(load: Load, need: Needs) -> str:
    if load.is_lossy:
        return f", losing {100 * need.loss:.3g} % at most needs more"
    return f", 99 in 100 within {show_s(need.p99_s)} need more"


# -- beside what was measured ------------------------------------------------------

Cell = Mapping[str, Any]


def knee(
    cells: Iterable[Cell], p99_s: float | None = None, share: float = SHARE
) -> int | None:
    """Return the smallest slots of valid cells that carry `share` of the most, in time.

    Args:
        cells: Of one sweep over slots, as `python -m rings stress --json` writes them.
        p99_s: What 99 in 100 answers may take.
        share: Of the throughput of the best cell.
    """
    valid = [cell for cell in cells if cell.get("valid", True)]
    enough = share * max((cell["achieved_per_s"] for cell in valid), default=0.0)
    limit_us = math.inf if p99_s is None else 1e6 * p99_s
    return min(
        (
            cell["parameters"]["slots"]
            for cell in valid
            if cell["achieved_per_s"] >= enough
            and cell["latency_us"]["p99"] <= limit_us
        ),
        default=None,
    )


class Comparison(NamedTuple):
    """Advice beside a measurement.

    Attributes:
        advised: Slots by advice.
        measured: Slots at the measured knee.
        orders: How many doublings the advice is above it; negative: below.
    """

    advised: int
    measured: int
    orders: int


def compare(
    advice: Advice, cells: Iterable[Cell], p99_s: float | None = None
) -> Comparison:
    """Set advice beside the knee of measured cells.

    Raises:
        ValueError: No valid cell meets the objective.
    """
    measured = knee(cells, p99_s)
    if measured is None:
        raise ValueError(f"no valid cell answers within {p99_s} s: measure more sizes")
    orders = round(math.log2(advice.slots / measured))
    return Comparison(advice.slots, measured, orders)
