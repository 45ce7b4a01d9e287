"""Another ring under load: for how long is nothing answered, and what does it cost?

A device is asked without end, so many requests in flight, in windows of a tenth of a
second; in the middle of every other window its ring is replaced, by a larger one and by
the smaller one in turn.  So each window with a resize has one without beside it.

Reported, over the windows of each kind: the longest time between two answers, median
and maximum; how long ``resize()`` took; and the throughput that is lost if the ring is
replaced once a second, from the medians of both kinds.  On a device that answers at
once the gaps tell as well who else ran on the worker's core, or the daemon's.
"""

from __future__ import annotations

import argparse
import json
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import daemons
import rings
from rings.block import Block
from rings.loading import HDR_COUNTS, Gauge, Load
from rings.loading import run as run_load
from rings.table import table
from rings.units import show_number, show_s

LARGER = 4  # times the slots of the smaller ring
SETTLE_S = 0.02  # of a window, not watched
PATIENCE_S = 30.0


class Device(NamedTuple):
    """What serves, and how many requests are in flight."""

    name: str
    options: dict[str, Any]
    depth: int


DELAY = {"kind": "delay", "servers": 100, "service_time": "5ms"}
DEVICES = (
    Device("null", {"kind": "null"}, 32),
    Device("null", {"kind": "null"}, 256),
    Device("delay, 100 servers, 5 ms", DELAY, 32),
    Device("delay, 100 servers, 5 ms", DELAY, 256),
)


class Window(NamedTuple):
    """What was seen in one window; `resize_s` is 0 in one without."""

    answers: int
    gap_s: float
    resize_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m bench resize``."""
    parser.add_argument("--smoke", action="store_true", help="two resizes a device")
    parser.add_argument("--resizes", type=int, default=50, help="of each device")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each window")
    parser.add_argument("--wait", default="block", help="strategy of the worker")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all here")


def run(options: argparse.Namespace) -> int:
    """Measure every device and print the table; always 0."""
    resizes = 2 if options.smoke else options.resizes
    rows = []
    for device in DEVICES:
        with opened(device, options.wait) as disk:
            windows = list(measured(disk, device, resizes, options.seconds))
        rows.append(row(device, windows, options.seconds))
    print(table([shown(each) for each in rows]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


@contextmanager
def opened(device: Device, wait: str) -> Iterator[Block]:
    """Yield the device with the larger of its two rings."""
    slots = LARGER * device.depth
    with daemons.spawn(**device.options, max_slots=slots) as daemon:
        name = f"{device.options['kind']}0"
        connection = rings.connect(daemon.address)
        with connection.block(name, slots=slots, wait=wait) as disk:
            yield disk


def measured(
    disk: Block, device: Device, resizes: int, seconds: float
) -> Iterator[Window]:
    """Yield windows without and with a resize by turns, in pairs."""
    with ThreadPoolExecutor(1) as thread:
        for turn in range(2 * resizes):
            slots = device.depth * (LARGER if turn % 4 == 3 else 1)
            yield window(disk, device, thread, seconds, slots if turn % 2 else 0)


def window(
    disk: Block, device: Device, thread: ThreadPoolExecutor, seconds: float, slots: int
) -> Window:
    """Ask for a while; if a number of slots is given, replace the ring meanwhile."""
    now = time.monotonic_ns()
    from_ns = now + round(SETTLE_S * 1e9)
    until_ns = from_ns + round(seconds * 1e9)
    with Gauge(disk, from_ns, until_ns):
        told = thread.submit(asked, disk, device.depth, now, from_ns, until_ns)
        time.sleep(SETTLE_S + seconds / 2)
        took_s = replaced(disk, slots) if slots else 0.0
        counts = told.result(PATIENCE_S)
    return Window(counts["measured"], counts["gap_max_ns"] / 1e9, took_s)


def asked(
    disk: Block, depth: int, start_ns: int, from_ns: int, until_ns: int
) -> dict[str, int]:
    """Keep so many requests in flight until the window is over."""
    counts = array("Q", bytes(8 * HDR_COUNTS))
    return run_load(
        disk,
        Load(size=0, depth=depth),
        start_ns=start_ns,
        from_ns=from_ns,
        until_ns=until_ns,
        counts=counts,
    )


def replaced(disk: Block, slots: int) -> float:
    """Replace the ring; return the seconds that took."""
    begin = time.perf_counter()
    disk.resize(slots)
    return time.perf_counter() - begin


def row(device: Device, windows: list[Window], seconds: float) -> dict[str, Any]:
    """Set the windows with a resize beside those without."""
    without, beside = windows[::2], windows[1::2]
    usual = median(each.answers for each in without)
    answers = median(each.answers for each in beside)
    return {
        "device": device.name,
        "depth": device.depth,
        "resizes": len(beside),
        "rate_per_s": usual / seconds,
        "gap_p50_s": median(each.gap_s for each in beside),
        "gap_max_s": max(each.gap_s for each in beside),
        "gap_without_p50_s": median(each.gap_s for each in without),
        "gap_without_max_s": max(each.gap_s for each in without),
        "resize_p50_s": median(each.resize_s for each in beside),
        "resize_max_s": max(each.resize_s for each in beside),
        "lost": (1 - answers / usual) * seconds,  # of a second's answers
    }


def shown(row: dict[str, Any]) -> dict[str, object]:
    """Lay a row out for people."""
    pairs = {
        name: f"{show_s(row[f'{key}_p50_s'])}, {show_s(row[f'{key}_max_s'])}"
        for name, key in (
            ("gap with a resize", "gap"),
            ("without", "gap_without"),
            ("resize()", "resize"),
        )
    }
    return {
        "device": row["device"],
        "in flight": row["depth"],
        "rate": f"{show_number(row['rate_per_s'])}/s",
        **pairs,
        "lost at one a second": f"{100 * row['lost']:.2f} %",
    }
