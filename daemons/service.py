"""Runs a `Backend` for one ring: on a thread, so that Python never stops the engine.

The engine hands over what it took out of the ring, already copied and checked; the
bytes of the segments stay where they are, in the frontend's region.  An answer goes
back by the request's place and generation, never by the frontend's own id, which
need not be unique.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from rings import layout

from .backend import Backend, Batch, Request, serve

if TYPE_CHECKING:
    from .device import RingSpec

STOP_TIMEOUT_S: Final = 5.0
DEVICE_READS_ONLY: Final = layout.OP_WRITE


class Wire(NamedTuple):
    """One request as the engine hands it over.

    Attributes:
        id: The frontend's number.
        place: The engine's place for it.
        generation: Tells this use of the place from others.
        op: One of ``layout.OP_*``.
        offset: Bytes on the device.
        length: Bytes.
        segments: Offset in the region and length of each stretch of memory.
    """

    id: int
    place: int
    generation: int
    op: int
    offset: int
    length: int
    segments: tuple[tuple[int, int], ...]


Answer = Callable[[int, int, int, int], None]


class Service:
    """One ring's backend thread.

    Args:
        answer: Takes ring, index, generation and result; any thread may call it.
        spec: The ring; its device has a backend.
    """

    def __init__(self, answer: Answer, spec: RingSpec) -> None:
        if spec.device.backend is None:
            raise ValueError(f"device {spec.device.name!r} has no backend to run")
        self._answer = answer
        self._backend: Backend = spec.device.backend
        self._region = spec.region
        self._queue: queue.SimpleQueue[tuple[int, list[Wire]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=f"rings-{spec.device.name}", daemon=True
        )
        self._thread.start()

    def serve(self, ring: int, wires: list[Wire]) -> None:
        """Hand over requests; never waits."""
        self._queue.put((ring, wires))

    def stop(self) -> bool:
        """End the thread once it has served what it has; False if it is stuck."""
        self._queue.put(None)
        self._thread.join(STOP_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            ring, wires = work
            self._serve(ring, wires)

    def _serve(self, ring: int, wires: list[Wire]) -> None:
        def respond(which: int, result: int) -> None:
            wire = wires[which]
            self._answer(ring, wire.place, wire.generation, result)

        serve(self._backend, Batch([self._request(wire) for wire in wires], respond))

    def _request(self, wire: Wire) -> Request:
        readonly = wire.op == DEVICE_READS_ONLY
        segments = tuple(
            memoryview(self._region.view(offset, length, readonly=readonly))
            for offset, length in wire.segments
        )
        return Request(wire.id, wire.op, wire.offset, wire.length, segments)
