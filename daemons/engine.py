"""The engine as Python sees it: a thread inside C, and the commands it takes.

One thread lives in ``engine_run`` with the GIL released; it comes out only when
woken for a command (attach, detach) or with an event (a broken ring, a ring let go,
requests for a backend written in Python).  So every call that touches the kernel's
ring is made by the one thread that owns it, and the data path never meets Python.

The ladder: ``auto`` tries io_uring and falls back to a pool of threads on *any*
error of setting it up, keeping the reason in `Engine.why`; a kind that is named is
strict.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rings.errors import BusyError, ClosedError

from . import wire
from ._engine import ffi, lib
from .device import Device, RingSpec
from .service import Service

log = logging.getLogger("rings.daemon")

T = TypeVar("T")

MAX_EVENTS = 256


class Engine:
    """Serves many rings from one thread.

    Args:
        kind: ``auto``, ``uring``, ``threads`` or ``mock``.
        spin_us: How long to look for work before sleeping; 0 sleeps at once.
        entries: Submission entries of the kernel's ring.
        credit: Completions there is room for: each ring takes ``2 * slots + 2``.
        seed: Of the mock engine's order.

    Attributes:
        name: Of the kind in use.
        why: Why it is not io_uring, after a fall-back: the step and the errno.
        on_broken: Called with a ring's number and the reason, on the engine's
            thread, when its frontend has broken the protocol.

    Raises:
        ValueError: There is no such kind.
        OSError: The kind was named and cannot be had here; the text says which
            step failed and with which errno.
    """

    def __init__(
        self,
        kind: str = "auto",
        *,
        spin_us: int = 0,
        entries: int = 1024,
        credit: int = 32768,
        seed: int = 0,
    ) -> None:
        if kind not in (*wire.KINDS, "auto"):
            kinds = ", ".join(wire.KINDS)
            raise ValueError(f"engine must be auto, {kinds}; not {kind!r}")
        self.why = ""
        self.on_broken: Callable[[int, str], None] | None = None
        try:
            first = "uring" if kind == "auto" else kind
            self._engine = wire.new_engine(first, spin_us, entries, credit, seed)
        except OSError as error:
            if kind != "auto":
                raise
            self.why = str(error.strerror)
            self._engine = wire.new_engine("threads", spin_us, entries, credit, seed)
        self.name = ffi.string(lib.engine_name(self._engine)).decode()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rings: dict[int, RingSpec] = {}
        self._memory: dict[int, Any] = {}
        self._detached: dict[int, Future[None]] = {}
        self._services: dict[int, Service] = {}
        self._stations: dict[str, int] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- life -----------------------------------------------------------------

    def start(self) -> None:
        """Start the engine's thread."""
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(started,), name="rings-engine", daemon=True
        )
        self._thread.start()
        started.result()

    def stop(self) -> None:
        """Stop the thread and free everything; rings still attached are dropped."""
        if self._thread is not None:
            for ring in list(self._rings):
                self.detach(ring, drain=False)
            self._stopping = True
            lib.engine_wake(self._engine)
            self._thread.join()
            self._thread = None
        if self._engine is not None:
            lib.engine_free(self._engine)
            self._engine = None

    def _main(self, started: Future[None]) -> None:
        rc = lib.engine_start(self._engine)
        if rc < 0:
            started.set_exception(OSError(-rc, f"engine: {os.strerror(-rc)}"))
            return
        started.set_result(None)
        events = ffi.new("struct engine_event[]", MAX_EVENTS)
        while not self._stopping:
            count = lib.engine_run(self._engine, events, MAX_EVENTS)
            for i in range(count):
                self._dispatch(events[i])
            self._run_commands()

    def _run_commands(self) -> None:
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command()

    def _call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the engine's thread and return what it returns."""
        if self._thread is None or not self._thread.is_alive():
            raise ClosedError("the engine is not running: call start() first")
        future: Future[T] = Future()

        def command() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._commands.put(command)
        lib.engine_wake(self._engine)
        return future.result()

    # -- rings ----------------------------------------------------------------

    def attach(self, spec: RingSpec) -> int:
        """Begin to serve a ring.

        Returns:
            The ring's number, which no other ring ever gets.

        Raises:
            BusyError: The engine has no credit left for this many slots.
            OSError: The ring cannot be registered.
        """
        service = None
        if spec.device.backend is not None:
            service = Service(self._answer, spec)
        try:
            return self._call(lambda: self._attach(spec, service))
        except BaseException:
            if service is not None:
                service.stop()
            raise

    def _attach(self, spec: RingSpec, service: Service | None) -> int:
        station = self._station(spec.device)
        memory = wire.memory_of(spec)
        ring = wire.attach(self._engine, spec, memory, station)
        if ring < 0:
            wire.let_go(memory)
            raise wire.attach_error(-ring, spec)
        self._rings[ring] = spec
        self._memory[ring] = memory
        self._detached[ring] = Future()
        if service is not None:
            self._services[ring] = service
        return ring

    def _station(self, device: Device) -> int:
        """Return the number of a device's servers; all its rings share them."""
        if device.station is None:
            return -1
        if device.name not in self._stations:
            made = wire.add_station(self._engine, device.station)
            self._stations[device.name] = made
        return self._stations[device.name]

    def detach(self, ring: int, *, drain: bool, timeout_s: float | None = None) -> None:
        """Let go of a ring; on return nothing of it is in flight any more.

        Args:
            ring: What `attach` returned.
            drain: Answer what the frontend has published, first.
            timeout_s: Drain for at most this long, then cancel what is left.

        Raises:
            BusyError: The device's backend, in Python, does not come back; the
                region must stay mapped.
        """
        future = self._detached.get(ring)
        if future is None:
            return
        self._call(lambda: lib.engine_detach(self._engine, ring, drain))
        try:
            future.result(timeout_s if drain else None)
        except TimeoutError:
            self._call(lambda: lib.engine_detach(self._engine, ring, False))
            future.result()
        self._detached.pop(ring, None)
        service = self._services.pop(ring, None)
        if service is not None and not service.stop():
            raise BusyError(f"the backend of ring {ring} does not return from serve()")

    # -- events, on the engine's thread ---------------------------------------

    def _dispatch(self, event: Any) -> None:
        ring = int(event.ring)
        if event.kind == lib.EVENT_BROKEN:
            self._broken(ring, ffi.string(event.reason).decode())
        elif event.kind == lib.EVENT_DETACHED:
            self._forget(ring)
        elif ring in self._services:
            self._take(ring)

    def _broken(self, ring: int, reason: str) -> None:
        log.warning("ring-broken ring=%d reason=%r", ring, reason)
        if self.on_broken is not None:
            self.on_broken(ring, reason)

    def _forget(self, ring: int) -> None:
        wire.let_go(self._memory.pop(ring))
        del self._rings[ring]
        self._detached[ring].set_result(None)

    def _take(self, ring: int) -> None:
        requests = wire.take(self._engine, ring, self._rings[ring].geometry.slots)
        if requests:
            self._services[ring].serve(ring, requests)

    def _answer(self, ring: int, index: int, generation: int, result: int) -> None:
        lib.engine_complete(self._engine, ring, index, generation, result)

    # -- statistics -----------------------------------------------------------

    def ring_statistics(self, ring: int) -> dict[str, int]:
        """Counters of one ring since it was attached; empty if it is gone."""
        return wire.ring_statistics(self._engine, ring)

    def statistics(self) -> dict[str, object]:
        """Counters of the engine, and of each ring under ``rings``."""
        total: dict[str, object] = {"engine": self.name, "why": self.why}
        total.update(wire.engine_statistics(self._engine))
        total["cpu_s"] = self._cpu_s()
        rings = list(self._rings)
        stations = self._stations.items()
        total["stations"] = {
            name: wire.station_statistics(self._engine, number)
            for name, number in list(stations)
        }
        total["rings"] = {ring: self.ring_statistics(ring) for ring in rings}
        return total

    def _cpu_s(self) -> float:
        """Return the processor time that the engine's thread has used."""
        thread = self._thread
        if thread is None or thread.ident is None or not thread.is_alive():
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
