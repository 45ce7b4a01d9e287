"""A daemon ends and is started again: for how long is its worker without one?

A worker reads without end from one daemon.  That is ended, by SIGKILL or by SIGTERM,
and started again at the same address as soon as its process is gone, as a supervisor
would; the worker goes on with ``patience``.  All times are from the signal: until the
worker is told, until the next daemon is ready, until the worker has its next answer.

Most of it is what a Python process takes to start.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import daemons
import rings
from rings.table import table
from rings.units import show_s

ENGINES = ("uring", "threads", "mock")
WAYS = (signal.SIGKILL, signal.SIGTERM)
LOAD_S = 0.03
PATIENCE_S = 30.0
IMAGE_SIZE = 1 << 20
READ = 4096


class Restart(NamedTuple):
    """Seconds from the signal until each."""

    told_s: float
    ready_s: float
    answered_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m bench restart``."""
    parser.add_argument("--smoke", action="store_true", help="one restart of each")
    parser.add_argument("--restarts", type=int, default=15, help="of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all here")


def run(options: argparse.Namespace) -> int:
    """Restart with every engine in both ways and print the table; always 0."""
    count = 1 if options.smoke else options.restarts
    rows = []
    for engine in ENGINES:
        for way in WAYS:
            rows.append(row(engine, way.name, list(restarts(engine, way, count))))
    print(table([shown(each) for each in rows]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


def restarts(engine: str, way: signal.Signals, count: int) -> Iterator[Restart]:
    """Yield what restarts took, each of a daemon of its own."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
        image = Path(folder, "disk.img")
        image.write_bytes(os.urandom(IMAGE_SIZE))
        for _ in range(count):
            yield restart(engine, way, image, thread)


def restart(
    engine: str, way: signal.Signals, image: Path, thread: ThreadPoolExecutor
) -> Restart:
    """End a daemon under its worker and start another."""
    path = str(image.with_name("ringsd.sock"))
    with daemons.spawn(image=image, engine=engine, socket=path) as daemon:
        connection = rings.connect(path, patience=PATIENCE_S)
        worker = thread.submit(told_and_answered, connection)
        time.sleep(LOAD_S)
        began = time.monotonic()
        daemon.process.send_signal(way)
        daemon.process.wait()
    with daemons.spawn(image=image, engine=engine, socket=path):
        ready = time.monotonic()
        told, answered = worker.result()
    return Restart(told - began, ready - began, answered - began)


def told_and_answered(connection: rings.Connection) -> tuple[float, float]:
    """Read until the daemon is gone, then once from the next; return both moments."""
    try:
        with connection.block("disk0") as disk:
            while True:
                disk.read(0, READ)
    except rings.BrokenError:
        told = time.monotonic()
    with connection.block("disk0") as disk:
        disk.read(0, READ)
        return told, time.monotonic()


def row(engine: str, way: str, seen: list[Restart]) -> dict[str, Any]:
    """Sum restarts of one kind up: medians and maxima, in seconds."""
    found: dict[str, Any] = {"engine": engine, "ended_by": way, "restarts": len(seen)}
    for place, name in enumerate(Restart._fields):
        times = [each[place] for each in seen]
        found |= {f"p50_{name}": median(times), f"max_{name}": max(times)}
    return found


def shown(row: dict[str, Any]) -> dict[str, object]:
    """Lay a row out for people."""
    told = {
        name: f"{show_s(row[f'p50_{key}_s'])}, {show_s(row[f'max_{key}_s'])}"
        for name, key in (
            ("worker is told", "told"),
            ("next is ready", "ready"),
            ("worker is answered", "answered"),
        )
    }
    return {"engine": row["engine"], "ended by": row["ended_by"], **told}
