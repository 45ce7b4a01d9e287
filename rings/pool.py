"""A pool of buffers for I/O: granted runs of pages from a region's data area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import layout
from .errors import BusyError, LocalProtocolError, RegionMemoryError
from .grants import ALL_RIGHTS, Grant, GrantTable
from .pages import FreePages

if TYPE_CHECKING:
    from .layout import Geometry
    from .memory import Region


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool has and has done.  Sizes are in bytes of whole pages."""

    size: int
    used: int
    peak_used: int
    longest_free: int
    grants: int
    allocations: int
    refusals: int


class BufferPool:
    """Hands out page-aligned grants of the data area.  Threads may share it."""

    def __init__(self, region: Region, geometry: Geometry, table: GrantTable) -> None:
        if table.region is not region:
            raise LocalProtocolError("the grant table belongs to another region")
        self._table = table
        self._lock = table.lock
        self._first = geometry.data_offset
        self._pages = geometry.data_size // layout.PAGE
        self._free = FreePages(self._pages)
        self._abandoned: list[Grant] = []
        self._peak = self._grants = self._allocations = self._refusals = 0

    def alloc(self, size: int, *, rights: int = ALL_RIGHTS) -> Grant:
        """Return a grant of ``size`` bytes on pages of its own, contiguous.

        Args:
            size: In bytes.
            rights: What the device may do, ``layout.RIGHT_*``.

        Raises:
            RegionMemoryError: There is none now; names what is free.
        """
        with self._lock:
            grant = self.try_alloc(size, rights=rights)
            if grant is None:
                raise self._short_of(size)
            return grant

    def try_alloc(self, size: int, *, rights: int = ALL_RIGHTS) -> Grant | None:
        """Return a grant of ``size`` bytes, or None if there is none now."""
        if size < 1:
            raise ValueError(f"size must be at least 1 byte, not {size}")
        with self._lock:
            first = self._take(pages_of(size))
            if first is None:
                self._refusals += 1
                return None
            return self._granted(first, size, rights)

    def free(self, grant: Grant) -> None:
        """Revoke a grant and take its pages back.

        Raises:
            BusyError: It is in flight, or its bytes are in use here.
            LocalProtocolError: It is not this pool's, or was freed before.
        """
        with self._lock:
            if grant.owner is not self or not grant.rights:
                raise LocalProtocolError(
                    f"{grant!r} is not this pool's to free: free a grant once, to the"
                    " pool it came from"
                )
            grant.revoke()

    def statistics(self) -> PoolStatistics:
        """Return the pool's figures, all of one moment."""
        with self._lock:
            return PoolStatistics(
                size=self._pages * layout.PAGE,
                used=(self._pages - self._free.free) * layout.PAGE,
                peak_used=self._peak * layout.PAGE,
                longest_free=self._free.longest() * layout.PAGE,
                grants=self._grants,
                allocations=self._allocations,
                refusals=self._refusals,
            )

    def take_back(self, grant: Grant) -> None:
        """Reuse the pages of a grant that was just revoked."""
        first = (grant.offset - self._first) // layout.PAGE
        self._free.give(first, pages_of(grant.length))
        self._grants -= 1

    def abandon(self, grant: Grant) -> None:
        """Remember a busy grant that nobody will free."""
        with self._lock:
            self._abandoned.append(grant)

    def _take(self, pages: int) -> int | None:
        if not self._table.free:
            self._sweep()
        if not self._table.free:
            return None
        first = self._free.take(pages)
        if first is None and self._abandoned:
            self._sweep()
            first = self._free.take(pages)
        return first

    def _sweep(self) -> None:
        """Take back what was abandoned and is idle by now."""
        abandoned, self._abandoned = self._abandoned, []
        for grant in abandoned:
            try:
                grant.revoke()
            except BusyError:
                self._abandoned.append(grant)

    def _granted(self, first: int, size: int, rights: int) -> Grant:
        offset = self._first + first * layout.PAGE
        try:
            grant = self._table.permit(offset, size, rights=rights, owner=self)
        except BaseException:
            self._free.give(first, pages_of(size))
            raise
        self._grants += 1
        self._allocations += 1
        self._peak = max(self._peak, self._pages - self._free.free)
        return grant

    def _short_of(self, size: int) -> RegionMemoryError:
        if not self._table.free:
            return RegionMemoryError(
                f"cannot allocate {size} bytes: all grants are in use; free some, or"
                " connect with a larger grants="
            )
        free = self._free
        return RegionMemoryError(
            f"cannot allocate {size} bytes: the longest free run of the pool has"
            f" {free.longest() * layout.PAGE} bytes of {free.free * layout.PAGE} free"
            " ones; free some grants, or connect with a larger data_size="
        )


def pages_of(size: int) -> int:
    """Return how many pages ``size`` bytes take."""
    return -(-size // layout.PAGE)
