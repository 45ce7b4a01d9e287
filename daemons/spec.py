"""What the server needs of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .device import RingSpec


class EngineLike(Protocol):
    """What the server needs of an engine; its methods may be called by any thread."""

    name: str
    why: str
    on_broken: Callable[[int, str], None] | None

    def start(self) -> None:
        """Start serving."""

    def attach(self, spec: RingSpec) -> int:
        """Serve a ring; return a number that no other ring ever gets."""

    def detach(self, ring: int, *, drain: bool, timeout_s: float | None = None) -> None:
        """Stop serving a ring; return when nothing of it is in flight.

        With `drain` what is published is answered first, for `timeout_s` at most.
        """

    def statistics(self) -> dict[str, object]:
        """Return totals, and under "rings" a dict for each ring's number."""

    def stop(self) -> None:
        """Stop serving and end the engine's threads."""
