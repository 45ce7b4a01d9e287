"""What others published about rings and their sizes, and what our cells show of it.

Machines differ, so the two are compared by ratios: how many times better, how much
worse.  A row is *measured* from the cells of a sweep that has the ones it needs, or
is *arithmetic* on a layout, or says why we cannot show it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from .. import layout
from .findings import SIZE, Cell, p99
from .quantities import digits, duration, share, times

Cells: TypeAlias = Sequence[Cell]
Measure: TypeAlias = Callable[[Cells], "str | None"]

PAGE = 4096
SEGMENTS_PER_BLKIF = 11  # of a page each, in a request of Xen's block protocol
NETIF_REQUEST_SIZE = 12
SLOTS_PER_PACKET = 18  # that a netback reserves: a page each, and one for the rest


@dataclass(frozen=True)
class Effect:
    """One published effect; `ours` is None where only a reason can be given."""

    name: str
    theirs: str
    source: str
    ours: Measure | None
    note: str = ""


class Row(NamedTuple):
    """An effect beside what was measured here, or an empty text."""

    name: str
    theirs: str
    source: str
    ours: str
    note: str
    measured: bool


def rows(cells: Cells, elsewhere: Mapping[str, str] | None = None) -> list[Row]:
    """Return every effect with ours beside it.

    Args:
        cells: Of one sweep or several; those that are not valid have no say.
        elsewhere: What other benchmarks measured, by the name of the effect.
    """
    valid = [cell for cell in cells if cell["valid"]]
    return [
        _row(effect, valid, (elsewhere or {}).get(effect.name)) for effect in EFFECTS
    ]


def _row(effect: Effect, valid: Cells, elsewhere: str | None) -> Row:
    here = effect.ours(valid) if effect.ours else None
    ours = elsewhere or here or ""
    measured = bool(ours) and effect.ours not in ARITHMETIC
    return Row(effect.name, effect.theirs, effect.source, ours, effect.note, measured)


def series(cells: Cells, over: str, **fixed: Any) -> dict[Any, Cell]:
    """Return cells by one parameter: the longest series in which no other differs.

    Args:
        cells: To choose from.
        over: The parameter that differs.
        fixed: What others must be.
    """
    follows = SIZE if over in SIZE else (over,)
    found: dict[str, dict[Any, Cell]] = {}
    for cell in cells:
        of = cell["parameters"]
        if all(of[name] == value for name, value in fixed.items()):
            others = {k: v for k, v in of.items() if k not in follows}
            found.setdefault(json.dumps(others), {})[of[over]] = cell
    return max(found.values(), key=len, default={})


def per_s(cell: Cell) -> float:
    """Return what a cell achieved."""
    return float(cell["achieved_per_s"])


# -- measured ------------------------------------------------------------------


def multi_page(cells: Cells) -> str | None:
    """Throughput of 64 pages over one page, with more servers than slots."""
    for servers in (1500, 100):
        device = f"delay:K={servers},S=5ms"
        curve = series(cells, "slots", device=device, loop="closed", depth=None)
        if len(curve) > 1:
            small, big = min(curve), max(curve)
            ratio = per_s(curve[big]) / per_s(curve[small])
            return f"{times(ratio)} from {small} to {big:,} slots, {servers:,} servers"
    return None


def multi_queue(cells: Cells) -> str | None:
    """Throughput with the best number of queues over one queue."""
    curve = series(cells, "queues", device="null")
    if len(curve) < 2 or 1 not in curve:
        return None
    best = max(curve, key=lambda number: per_s(curve[number]))
    ratio = per_s(curve[best]) / per_s(curve[1])
    crowd = curve[best]["parameters"]["producers"]
    return f"{times(ratio)} with {best} queues, {crowd} producers"


def too_many_queues(cells: Cells) -> str | None:
    """Throughput with the most queues over the best number."""
    curve = series(cells, "queues", device="null")
    if len(curve) < 3:
        return None
    best = max(curve, key=lambda number: per_s(curve[number]))
    most = max(curve)
    if best == most:
        return f"not seen up to {most} queues"
    return (
        f"{times(per_s(curve[most]) / per_s(curve[best]))} at {most} what {best} give"
    )


def queues_by_size(cells: Cells) -> str | None:
    """Gain of two queues over one, by the size of a request."""
    sizes = sorted({cell["parameters"]["size"] for cell in cells})
    gains = {}
    for size in sizes:
        curve = series(cells, "queues", device="file", size=size)
        if {1, 2} <= curve.keys():
            gains[size] = per_s(curve[2]) / per_s(curve[1])
    if len(gains) < 2:
        return None
    return ", ".join(f"{digits(gain)} at {size:,} B" for size, gain in gains.items())


def depth_one(cells: Cells) -> str | None:
    """Throughput at depth 128 over depth 1, on a device that answers at once."""
    every = series(cells, "depth", device="null", loop="closed")
    curve = {depth: cell for depth, cell in every.items() if isinstance(depth, int)}
    if 1 not in curve or len(curve) < 2:
        return None
    best = max(curve, key=lambda depth: per_s(curve[depth]))
    ratio = per_s(curve[best]) / per_s(curve[1])
    return f"{times(ratio)} at depth {best}, the best, over depth 1"


def auto_depth(cells: Cells) -> str | None:
    """Latency and throughput of auto depth beside the whole ring."""
    curve = series(cells, "depth", batch=1, servers=100)
    if not {"auto", None} <= curve.keys():
        return None
    auto, whole = curve["auto"], curve[None]
    given_up = 1 - per_s(auto) / per_s(whole)
    return (
        f"p99 {duration(p99(whole))} to {duration(p99(auto))}, "
        f"{times(p99(whole) / p99(auto))}; {share(max(0.0, given_up))} slower"
    )


def no_overflow(cells: Cells) -> str | None:
    """How many requests failed or were lost inside, over all closed cells."""
    closed = [cell for cell in cells if cell["parameters"]["loop"] == "closed"]
    errors = sum(cell["errors"] + cell["dropped"] for cell in closed)
    requests = sum(cell["requests"] for cell in closed)
    return f"{errors} of {requests:,} requests" if closed else None


# -- arithmetic ----------------------------------------------------------------


def slots_of(size: int, slot_size: int) -> int:
    """Return the slots of a Xen ring in `size` bytes: a power of two."""
    places = (size - layout.XEN_WORDS.slots) // slot_size
    return 1 << (places.bit_length() - 1)


def one_page(cells: Cells) -> str:
    """How much one page of requests can ask for."""
    slots = slots_of(PAGE, layout.BLKIF_SLOT_SIZE)
    in_flight = slots * SEGMENTS_PER_BLKIF * PAGE
    return f"{slots} requests, {in_flight / 1e6:.2f} MB in flight"


def ring_of_ours(cells: Cells) -> str:
    """How many 64 KiB requests a ring of 128 slots holds: one each."""
    return f"{layout.split_geometry(slots=128).slots} requests of any length"


def netif_packets(cells: Cells) -> str:
    """How many packets of 18 slots a one-page network ring holds."""
    slots = slots_of(PAGE, NETIF_REQUEST_SIZE)
    return f"{slots} slots, {slots // SLOTS_PER_PACKET} packets"


ARITHMETIC = (one_page, ring_of_ours, netif_packets)

EFFECTS = (
    Effect("a one-page ring", "32 requests, 1.4 MB in flight",
           "Xen blog 2013; blkif.h", one_page, "arithmetic on our Xen layout"),
    Effect("a multi-page ring", "about 15 times the IOPS with 64 pages, 100 disks",
           "Linux 86839c56dee2", multi_page),
    Effect("several queues", "4.2 times at 8 jobs (89 to 372 k/s)",
           "LKML, February 2015", multi_queue,
           "theirs has 16 cores or more; ours two, and threads for jobs"),
    Effect("too many queues", "0.73 times at 16 what 4 give (1,024 to 750 k/s)",
           "LKML, November 2015", too_many_queues),
    Effect("several queues, by request size",
           "1.67 at 512 B, 1.74 at 4 KiB, 1.25 at 16 KiB, 1.13 at 64 KiB",
           "Citrix, August 2015", queues_by_size,
           "theirs has a core for each queue; where ours share one, expect no gain"),
    Effect("a depth of one", "about 3 times slower than 128, the best",
           "liburing issue 830", depth_one),
    Effect("a limit inside the ring (BQL)",
           "latency 4.888 to 0.241 ms, 20 times; up to 12 % slower",
           "netdev, veth series 2026", auto_depth),
    Effect("completions that overflow",
           "libuv over 128, tokio at 3,000 connections",
           "libuv 3991, tokio-uring 302", no_overflow,
           "lost or failed in closed loops: credit leaves no room for it"),
    Effect("packets in a network ring", "256 slots, 18 a packet: 14 packets",
           "Xen 0e81c993", netif_packets, "arithmetic on our Xen layout"),
    Effect("segments in a ring", "12 to 16 requests of 64 KiB in 128 descriptors",
           "DragonFly list, 2014", ring_of_ours, "a slot names a grant, not pages"),
    Effect("capacity of a message ring",
           "Eio, domains: 10.1, 1.6, 0.29, 0.105 µs at 1, 16, 100, 1,000: 96 times",
           "Eio 1.5, another machine", None, "`python -m bench sizing` has the curve"),
    Effect("persistent grants", "650 k/s at 5 guests fall to 400 k/s at 10 without",
           "Xen RFC 2012; QEMU 9e496d74", None,
           "no way to try: a region is mapped once, there is no mapping per request"),
    Effect("indirect segments", "2,888 to 3,293 MiB/s, 1.14 times",
           "Linux 402b27f9; cloud-hypervisor 6826", None,
           "no way to try: the pool gives contiguous memory, so one segment is enough"),
    Effect("reap before submit", "277 to 414 MB/s, 1.49 times", "Eio's history", None,
           "no way to try: our engine always reaps first, and has no switch for it"),
    Effect("DPDK's defaults", "1,024 descriptors, bursts of 32", "dpdk-dev, 2018",
           None, "a default is no effect; ours: 128 slots, one publish a batch"),
)  # fmt: skip
