"""One adapter a peer; `load` finds those that are installed here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from bench.channel import Adapter

MODULES = (
    "ours_spsc",
    "ours_mpmc",
    "ours_queue",
    "stdlib",
    "pyzmq_push",
    "pynng_push",
    "faster_fifo_queue",
    "iceoryx2_topic",
    "cloudtoid_queue",
    "subetha_ring",
    "membridge_ring",
)


def load(only: Iterable[str] = ()) -> tuple[list[Adapter], dict[str, str]]:
    """Return the adapters whose package imports, and why each other one does not."""
    found: list[Adapter] = []
    missing: dict[str, str] = {}
    for name in MODULES:
        try:
            module = importlib.import_module(f"bench.rivals.{name}")
        except ImportError as error:
            missing[name] = str(error)
            continue
        found += module.ADAPTERS
    wanted = tuple(only)
    if wanted:
        found = [a for a in found if any(word in a.name for word in wanted)]
    return found, missing
