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

import errno
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rings.errors import BusyError, ClosedError

from ._engine import ffi, lib
from .device import Device, RingSpec
from .service import Service

log = logging.getLogger("rings.daemon")

T = TypeVar("T")

KINDS = {"uring": 0, "threads": 1, "mock": 2}
DEVICE_KINDS = {
    "block": lib.DEVICE_FILE,
    "null": lib.DEVICE_NULL,
    "echo": lib.DEVICE_ECHO,
    "python": lib.DEVICE_BACKEND,
}
MAX_EVENTS = 256
RING_STATS = (
    "requests", "responses", "errors", "bytes_read", "bytes_written", "batches",
    "notifications_sent", "notifications_held_off", "wakes", "spurious_wakes",
    "in_flight", "in_flight_peak", "fixed_buffer",
)  # fmt: skip
ENGINE_STATS = ("enters", "turns", "sleeps", "credit", "credit_used")


def errno_name(code: int) -> str:
    """Name an errno: 1 gives ``EPERM``."""
    return errno.errorcode.get(code, str(code))


def _new(kind: str, spin_us: int, entries: int, credit: int, seed: int) -> Any:
    """Make one engine, or raise OSError whose text names the step that failed."""
    error, where = ffi.new("int *"), ffi.new("char const **")
    spin_ns = max(0, spin_us) * 1000
    handle = lib.engine_new(KINDS[kind], spin_ns, entries, credit, seed, error, where)
    if handle == ffi.NULL:
        step = ffi.string(where[0]).decode()
        raise OSError(-error[0], f"{step}: {errno_name(-error[0])}")
    return handle


class Engine:
    """Serves many rings from one thread.

    Args:
        kind: ``auto``, ``uring``, ``threads`` or ``mock``.
        spin_us: How long to look for work before sleeping; 0 sleeps at once.
        entries: Submission entries of the kernel's ring.
        credit: Completions there is room for: each ring takes ``2 * slots + 2``.
        seed: Of the mock engine's order.

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
        if kind not in (*KINDS, "auto"):
            raise ValueError(f"engine must be auto or one of {list(KINDS)}, not {kind!r}")
        self.why = ""
        self.on_broken: Callable[[int, str], None] | None = None
        try:
            first = "uring" if kind == "auto" else kind
            self._engine = _new(first, spin_us, entries, credit, seed)
        except OSError as error:
            if kind != "auto":
                raise
            self.why = error.strerror
            self._engine = _new("threads", spin_us, entries, credit, seed)
        self.name = ffi.string(lib.engine_name(self._engine)).decode()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rings: dict[int, RingSpec] = {}
        self._memory: dict[int, Any] = {}
        self._detached: dict[int, Future[None]] = {}
        self._services: dict[int, Service] = {}
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

    # -- rings ------------------------------------------------------------------

    def attach(self, spec: RingSpec) -> int:
        """Begin to serve a ring.

        Returns:
            The ring's number.

        Raises:
            BusyError: The engine has no credit left for this many slots.
            OSError: The ring cannot be registered.
        """
        return self._call(lambda: self._attach(spec))

    def _attach(self, spec: RingSpec) -> int:
        memory = ffi.from_buffer("char[]", spec.region.buffer, require_writable=True)
        wire, device = _ring_struct(spec, memory), _device_struct(spec.device)
        ring: int = lib.engine_attach(self._engine, wire, device)
        if ring < 0:
            ffi.release(memory)
            _raise_attach(-ring, spec)
        self._rings[ring] = spec
        self._memory[ring] = memory
        self._detached[ring] = Future()
        if spec.device.backend is not None:
            self._services[ring] = Service(self._answer, ring, spec)
        return ring

    def detach(self, ring: int, *, drain: bool, timeout_s: float | None = None) -> None:
        """Let go of a ring; on return nothing of it is in flight any more.

        Args:
            ring: What `attach` returned.
            drain: Answer what the frontend has published, first.
            timeout_s: Drain for at most this long, then cancel what is left.
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

    # -- events, on the engine's thread -------------------------------------------

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
        service = self._services.pop(ring, None)
        if service is not None:
            service.stop()
        ffi.release(self._memory.pop(ring))
        del self._rings[ring]
        self._detached.pop(ring).set_result(None)

    def _take(self, ring: int) -> None:
        slots = self._rings[ring].geometry.slots
        requests = ffi.new("struct backend_request[]", slots)
        count = lib.engine_take(self._engine, ring, requests, slots)
        if count:
            self._services[ring].serve([_request(requests[i]) for i in range(count)])

    def _answer(self, ring: int, index: int, generation: int, result: int) -> None:
        lib.engine_complete(self._engine, ring, index, generation, result)

    # -- statistics -----------------------------------------------------------------

    def ring_statistics(self, ring: int) -> dict[str, int]:
        """Counters of one ring since it was attached; empty if it is gone."""
        out = ffi.new("struct engine_ring_stats *")
        if lib.engine_ring_stats(self._engine, ring, out) < 0:
            return {}
        return {name: int(getattr(out, name)) for name in RING_STATS}

    def statistics(self) -> dict[str, object]:
        """Counters of the engine, and of each ring under ``rings``."""
        out = ffi.new("struct engine_stats *")
        lib.engine_stats(self._engine, out)
        total: dict[str, object] = {"engine": self.name, "why": self.why}
        total.update({name: int(getattr(out, name)) for name in ENGINE_STATS})
        total["rings"] = {ring: self.ring_statistics(ring) for ring in list(self._rings)}
        return total


def _ring_struct(spec: RingSpec, memory: Any) -> Any:
    fields = spec.geometry._asdict()
    wire = ffi.new("struct engine_ring_spec *")
    wire.memory = memory
    for name, value in fields.items():
        setattr(wire, name, value)
    wire.wait_fd, wire.notify_fd = spec.wait_fd, spec.notify_fd
    return wire


def _device_struct(device: Device) -> Any:
    wire = ffi.new("struct engine_device *")
    wire.kind, wire.fd = DEVICE_KINDS[device.kind], device.fd
    wire.size, wire.block_size = device.size, device.block_size
    wire.read_only = device.read_only
    return wire


def _raise_attach(code: int, spec: RingSpec) -> None:
    if code == errno.ENOBUFS:
        raise BusyError(
            f"no credit left for a ring of {spec.geometry.slots} slots: close other "
            "connections, ask for fewer slots, or start the daemon with more --credit"
        )
    raise OSError(code, f"cannot attach the ring: {errno_name(code)}")


def _request(wire: Any) -> tuple[int, int, int, int, int, int, tuple[tuple[int, int], ...]]:
    """(id, index, generation, op, offset, length, ((offset, length) in region, ...))."""
    segments = tuple(
        (int(wire.segments[i].offset), int(wire.segments[i].length))
        for i in range(wire.nr_segments)
    )
    return (
        int(wire.id), int(wire.index), int(wire.generation),
        int(wire.op), int(wire.offset), int(wire.length), segments,
    )  # fmt: skip
