"""How many requests may be in flight: as a number, or found while they run.

How the number is found stands in csrc/limit.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

AUTO: Final = "auto"
LEAST: Final = 2  # auto goes no lower: fewer tell too little of a device
SMALLEST: Final = 32  # slots of a ring of order 0
FIXED: Final = 32  # of many blocks, where there is nothing to go by


class Depth(NamedTuple):
    """How deep a device is used.

    Attributes:
        limit: Requests that may be in flight now.
        slots: Requests that the ring has room for.
        lowest: The lowest limit so far.
        highest: The highest limit so far.
        raised: How often the limit was raised by ``auto``.
        lowered: How often it was lowered.
    """

    limit: int
    slots: int
    lowest: int
    highest: int
    raised: int
    lowered: int

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Depth:
        """Pick it out of the statistics."""
        return cls(
            counts["limit"],
            counts["slots"],
            counts["limit_lowest"],
            counts["limit_highest"],
            counts["limit_raised"],
            counts["limit_lowered"],
        )


def bounds(depth: int | str | None, slots: int) -> tuple[int, int]:
    """Return the least and the greatest limit that a ``depth`` means; 0, 0: none.

    Raises:
        ValueError: It is none of "auto", None and 1 to ``slots``.
    """
    if depth is None:
        return 0, 0
    if depth == AUTO:
        return min(LEAST, slots), slots
    if isinstance(depth, int) and 1 <= depth <= slots:
        return depth, depth
    raise ValueError(
        f'depth must be "auto", None or 1 to {slots}, the slots of this ring, not'
        f" {depth!r}; for more, open the device with more slots="
    )


def slots_of(slots: int, order: int | None) -> int:
    """Return the slots of a ring that is asked for by one number or by the other."""
    if (slots != 0) == (order is not None):
        raise ValueError("give either slots or order=, for 32 << order slots")
    return slots if order is None else SMALLEST << order
