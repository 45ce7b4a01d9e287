"""Ranges of grants, and the segments of a request that name them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from . import layout
from .grants import Grant

SEGMENT: Final = struct.Struct("<IIII")
Range = tuple[Grant, int, int]


def to_segments(ranges: Sequence[Range]) -> tuple[bytes, int]:
    """Return the bytes of the ranges' segments, and how long they are together.

    Raises:
        ValueError: They are none, too many, or outside their grants.
    """
    check_ranges(ranges)
    segments = b"".join(
        SEGMENT.pack(grant.gref, grant.generation, at, size)
        for grant, at, size in ranges
    )
    return segments, sum(size for _, _, size in ranges)


def check_ranges(ranges: Sequence[Range]) -> None:
    """Refuse ranges that are none, too many, or outside their grants."""
    if not 1 <= len(ranges) <= layout.IO_MAX_SEGMENTS:
        raise ValueError(
            f"1 to {layout.IO_MAX_SEGMENTS} ranges a request, not {len(ranges)}"
        )
    for grant, at, size in ranges:
        if at < 0 or size < 1 or at + size > grant.length:
            raise ValueError(f"{size} bytes at {at} are not within {grant!r}")
