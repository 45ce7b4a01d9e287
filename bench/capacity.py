"""How much room does a message ring need?  Time a message over its number of slots.

Two processes on a core each, one putting 64 bytes at a time and one getting, both
sleeping when there is nothing to do: with room for one message they take turns, with
more they work beside each other and wake each other less often.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import transfer
from bench.channel import TWO_CORES, Adapter, Spec
from bench.harness import interleave
from bench.rivals.ours_mpmc import Mpmc
from bench.rivals.ours_spsc import Spsc
from bench.rivals.stdlib import MpQueue

PLACES = (1, 16, 128, 1024)
SIZE = 64

Curve = Mapping[int, float]


@dataclass(frozen=True)
class Tight(Spec):
    """A Spec with room for so many messages and no more."""

    places: int = 1

    @property
    def slots(self) -> int:
        """Messages of room."""
        return self.places


def able(adapter: Adapter, places: int) -> bool:
    """Whether it can be that small: an MPMC ring has two slots at least."""
    return places > 1 or not isinstance(adapter, Mpmc)


def measure(seconds: float, rounds: int) -> dict[str, Curve]:
    """Return µs a message over places, medians of the rounds, by contender."""
    contenders = [Spsc("block"), Spsc("spin 50 us"), Mpmc("block"), MpQueue()]
    found: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="rings-bench-") as folder:
        for places in PLACES:
            for turn, adapter in interleave(rounds, contenders):
                if able(adapter, places):
                    tag = f"capacity-{places}-{turn}"
                    spec = Tight(SIZE, 1, 1, Path(folder), tag, places)
                    rate = transfer.timed(adapter, spec, TWO_CORES, seconds)["rate"]
                    found.setdefault((adapter.name, places), []).append(1e6 / rate)
    return {
        adapter.name: {
            places: statistics.median(found[adapter.name, places])
            for places in PLACES
            if able(adapter, places)
        }
        for adapter in contenders
    }
