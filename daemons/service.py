"""Runs a `Backend` for one ring: a thread, so that Python never stops the engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .device import RingSpec

Answer = Callable[[int, int, int, int], None]
Wire = tuple[int, int, int, int, int, int, tuple[tuple[int, int], ...]]


class Service:
    """To be joined with the backend."""

    def __init__(self, answer: Answer, ring: int, spec: RingSpec) -> None:
        self._queue: queue.SimpleQueue[list[Wire] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def serve(self, wires: list[Wire]) -> None:
        """Hand requests over."""
        self._queue.put(wires)

    def stop(self) -> None:
        """End the thread."""
        self._queue.put(None)

    def _run(self) -> None:
        return
