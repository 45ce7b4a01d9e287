"""A share of a long run: with RINGS_SHARE=3/10, the fourth of ten; without, all of it.

The shares together are the whole. Where seeds matter, each share has its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")

SHARE = os.environ.get("RINGS_SHARE", "0/1")
PART, PARTS = map(int, SHARE.split("/"))
assert 0 <= PART < PARTS, "RINGS_SHARE is PART/PARTS, and parts count from 0"


def dealt(things: Sequence[Thing]) -> Sequence[Thing]:
    """Return every so many-th of them."""
    return things[PART::PARTS]


def portion(count: int) -> int:
    """Return how many of a count this share has."""
    return len(dealt(range(count)))
