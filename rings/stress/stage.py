"""Where cells are measured: the daemon that serves, for as long as it fits."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from ..channel import parse as parse_wait
from ..rendezvous import query
from .cell import Cell
from .crew import Crew
from .device import NAME
from .measure import result
from .worker import Job

if TYPE_CHECKING:
    from daemons import Daemon

BUSY_SPIN_US: Final = 1_000_000
MOMENT_NS: Final = 30_000_000  # for the word to begin to reach the workers
PATIENCE_S: Final = 60.0
LIMITS: Final = {
    "max_slots": 1 << 16,
    "max_data_size": 1 << 30,
    "max_slots_per_uid": 1 << 20,
    "max_slots_total": 1 << 20,
    "max_data_size_per_uid": 4 << 30,
    "max_data_size_total": 4 << 30,
}


class Stage:
    """Measures cells, keeping the daemon while the next cell wants the same one.

    Args:
        engine: Of the daemon: ``auto``, ``uring``, ``threads``, ``mock``.
    """

    def __init__(self, engine: str = "auto") -> None:
        self._engine = engine
        self._stack = ExitStack()
        self._scratch = ""
        self._daemon: Daemon | None = None
        self._served: tuple[str, str] | None = None
        self._running = ExitStack()
        self.engine = ""

    def __enter__(self) -> Stage:
        folder = tempfile.TemporaryDirectory(prefix="rings-stress-")
        self._scratch = self._stack.enter_context(folder)
        self._stack.callback(self._running.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
        self._stack.close()

    def _serve(self, cell: Cell) -> Daemon:
        """Return a daemon for this cell's device and way of waiting."""
        wanted = (str(cell.device), cell.wait)
        if self._daemon is None or self._served != wanted:
            import daemons

            self._running.close()
            self._daemon = None
            options = {
                **cell.device.spawn_options(self._scratch),
                "spin_us": _spin_us(cell.wait),
                "engine": self._engine,
                **LIMITS,
            }
            self._daemon = self._running.enter_context(daemons.spawn(**options))
            self._served = wanted
            self.engine = query(self._daemon.address)["engine"]["name"]
        return self._daemon

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Measure one cell.

        Raises:
            BrokenError: Daemon or worker died, or would not do it; the message says.
        """
        daemon = self._serve(cell)
        home, away = cores_of(cell.place)
        pin(daemon.pid, home)
        with Crew(_jobs(cell, daemon.address)) as crew:
            crew.ready()
            for pid in crew.pids:
                pin(pid, away)
            start_ns = time.monotonic_ns() + MOMENT_NS
            from_ns = start_ns + round(cell.settle_s * 1e9)
            until_ns = from_ns + round(cell.seconds * 1e9)
            crew.go(start_ns, from_ns, until_ns)
            _sleep_until(from_ns)
            before = query(daemon.address)
            _sleep_until(until_ns)
            after = query(daemon.address)
            workers = crew.results(PATIENCE_S + 4 * cell.settle_s)
        return result(cell, workers, before, after)


def _jobs(cell: Cell, address: str) -> list[Job]:
    each, more = divmod(cell.producers, cell.queues)
    return [
        Job(
            address=address,
            device=NAME,
            number=number,
            producers=each + (number < more),
            slots=cell.slots,
            depth=cell.depth,
            depth_each=cell.depth_each,
            batch=cell.batch,
            size=cell.size,
            wait=cell.wait,
            start=cell.start,
            policy=cell.policy,
            spill=cell.spill,
            arrivals=cell.arrivals,
            rate_per_s=cell.rate_per_s and cell.rate_per_s / cell.producers,
        )
        for number in range(cell.queues)
    ]


def _spin_us(wait: str) -> int:
    spin_us = parse_wait(wait).spin_us
    return spin_us if spin_us >= 0 else BUSY_SPIN_US


def cores_of(place: str) -> tuple[set[int], set[int]]:
    """Return the cores for the daemon and those for the workers.

    Raises:
        ValueError: There is one core only, and two are wanted.
    """
    cores = sorted(os.sched_getaffinity(0))
    if place == "free":
        return set(cores), set(cores)
    if place == "two" and len(cores) < 2:
        raise ValueError("place=two: this process may use one core only")
    return {cores[0]}, {cores[0] if place == "one" else cores[-1]}


def pin(pid: int, cores: set[int]) -> None:
    """Let every thread of a process run on these cores only."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def _sleep_until(moment_ns: int) -> None:
    time.sleep(max(0.0, (moment_ns - time.monotonic_ns()) / 1e9))
