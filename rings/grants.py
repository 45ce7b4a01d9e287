"""Grants: which bytes of a split region the device may touch, and for how long.

A grant is an entry of the region's grant table, named by its number (gref) and
its generation.  The frontend writes the table, the backend copies the entry that
a request names and checks it, every time.  Rights are written last and cleared
first, so an entry is either whole or not there.

Taking memory back while the device works on it would corrupt data in silence, so
a grant counts its *pins*, the requests in flight that name it, and its *views*,
the exports of its bytes in this process; it cannot be revoked while there is any
of either.  Both counts are private: what the peer could write proves nothing.
The generation is never 0, and a used entry comes back with the next one: a
request that names a revoked grant is refused, though the entry has a new owner.

*Memory order.*  Entries are written with plain stores.  The backend looks at one
only after it took a request naming it, and it is the publication of that request
(``release: request-published``) which orders the entry before it.

Source: Xen, xen/include/public/grant_table.h (entries made valid by their flags,
written last).  Offsets: docs/LAYOUT.md.
"""

from __future__ import annotations

import struct
from array import array
from threading import RLock
from typing import TYPE_CHECKING, Final, Protocol

from . import layout
from .errors import (
    BusyError,
    LayoutError,
    LocalProtocolError,
    RegionMemoryError,
)
from .memory import Region, leave

if TYPE_CHECKING:
    from .layout import Geometry

ENTRY: Final = struct.Struct("@QQI")
RIGHTS: Final = struct.Struct("@I")
ALL_RIGHTS: Final = layout.RIGHT_DEVICE_READS | layout.RIGHT_DEVICE_WRITES


class Owner(Protocol):
    """Whom a grant's bytes return to."""

    def take_back(self, grant: Grant, /) -> None:
        """Reuse the bytes: the grant is revoked."""

    def abandon(self, grant: Grant, /) -> None:
        """Revoke the grant later: it is busy, and nobody will ask again."""


class Grant:
    """Bytes of the region that the device may use until `revoke`.

    As a context manager it revokes itself.  When the block ends by an exception
    while the grant is busy, that exception goes on, and the pool the grant came
    from takes it back once it is idle.

    Attributes:
        gref: The entry's number in the table.
        generation: Tells this use of the entry from those before it.
        offset: Of its first byte, from the region's first byte.
        length: In bytes.
        rights: ``layout.RIGHT_*``; 0 when revoked.
        memory: The same bytes as a `_core.View`, which counts pins and views.
    """

    __slots__ = (
        "_owner", "_table", "generation", "gref", "length", "memory", "offset",
        "rights",
    )  # fmt: skip

    def __init__(
        self, table: GrantTable, gref: int, generation: int, offset: int, length: int,
        rights: int, owner: Owner | None,
    ) -> None:  # fmt: skip
        self._table = table
        self._owner = owner
        self.memory = table.region.view(offset, length)
        self.gref = gref
        self.generation = generation
        self.offset = offset
        self.length = length
        self.rights = rights

    def view(self) -> memoryview:
        """Return its bytes; while the view or anything made of it lives, it is busy."""
        return memoryview(self.memory)

    def pin(self) -> None:
        """Count one more request in flight that names the grant.

        Raises:
            ClosedError: It was revoked.
        """
        self.memory.pin()

    def unpin(self) -> None:
        """Count one request less: it was answered."""
        self.memory.unpin()

    @property
    def views(self) -> int:
        """How many views of its bytes are alive."""
        return self.memory.exports

    @property
    def owner(self) -> Owner | None:
        """The pool that it came from."""
        return self._owner

    @property
    def pins(self) -> int:
        """How many requests in flight name it."""
        return self.memory.pins

    def revoke(self) -> None:
        """End the grant; again is harmless.

        Raises:
            BusyError: Requests in flight name it, or its bytes are in use here.
        """
        with self._table.lock:
            if not self.rights:
                return
            self._check_idle()
            self.rights = 0
            self._table.withdraw(self)
            if self._owner is not None:
                self._owner.take_back(self)

    def _check_idle(self) -> None:
        try:
            self.memory.release()
        except BusyError as error:
            raise BusyError(f"{self!r}: {error}") from None

    def __enter__(self) -> Grant:
        return self

    def __exit__(self, *exc: object) -> None:
        leave(self.revoke, exc[1])
        if self.rights and self._owner is not None:
            self._owner.abandon(self)

    def __repr__(self) -> str:
        state = f"rights {self.rights}" if self.rights else "revoked"
        return (
            f"<Grant {self.gref}.{self.generation}, {self.length} bytes at"
            f" {self.offset}, {state}>"
        )


class GrantTable:
    """The frontend's side of a split region's grant table.  Threads may share it.

    Attributes:
        region: Whose bytes are granted.
        lock: Held while entries or pins change.
    """

    __slots__ = ("_free", "_fresh", "_generations", "_geometry", "lock", "region")

    def __init__(self, region: Region, geometry: Geometry) -> None:
        if region.size != geometry.size:
            raise LayoutError(
                f"region of {region.size} bytes, geometry of {geometry.size}: use the"
                " geometry that the region was made with"
            )
        if not region.writable:
            raise LocalProtocolError(
                "this region was attached for reading: grants are its frontend's"
            )
        self.lock = RLock()
        self.region = region
        self._geometry = geometry
        self._generations = array("I", bytes(4 * geometry.grants))
        self._fresh = 0
        self._free: list[int] = []

    @property
    def free(self) -> int:
        """How many more grants there can be."""
        return self._geometry.grants - self._fresh + len(self._free)

    def permit(
        self, offset: int, length: int, *, rights: int, owner: Owner | None = None
    ) -> Grant:
        """Let the device use bytes of the data area.

        Args:
            offset: Of the first byte, from the region's first byte.
            length: In bytes.
            rights: ``layout.RIGHT_DEVICE_READS``, ``RIGHT_DEVICE_WRITES`` or both.
            owner: Whom the bytes return to when the grant is revoked.

        Raises:
            RegionMemoryError: Every entry of the table is taken.
            ValueError: The bytes are no data, or the rights are none.
        """
        self._check(offset, length, rights)
        with self.lock:
            self.region.fileno()
            gref = self._take_entry()
            generation = next_generation(self._generations[gref])
            grant = Grant(self, gref, generation, offset, length, rights, owner)
            self._generations[gref] = generation
            at = self._entry(gref)
            ENTRY.pack_into(self.region.buffer, at, offset, length, generation)
            RIGHTS.pack_into(self.region.buffer, at + layout.GRANT_RIGHTS, rights)
            return grant

    def withdraw(self, grant: Grant) -> None:
        """Clear the entry of an idle grant, with one store, and reuse it later."""
        at = self._entry(grant.gref) + layout.GRANT_RIGHTS
        if not self.region.closed:
            RIGHTS.pack_into(self.region.buffer, at, 0)
        self._free.append(grant.gref)

    def _entry(self, gref: int) -> int:
        return self._geometry.grants_offset + gref * layout.GRANT_SIZE

    def _take_entry(self) -> int:
        if self._free:
            return self._free.pop()
        if self._fresh == self._geometry.grants:
            raise RegionMemoryError(
                f"all {self._fresh} grants are in use: free some, or connect with a"
                " larger grants="
            )
        self._fresh += 1
        return self._fresh - 1

    def _check(self, offset: int, length: int, rights: int) -> None:
        first = self._geometry.data_offset
        size = self._geometry.data_size
        if length < 1 or not first <= offset <= first + size - length:
            raise ValueError(
                f"{length} bytes at {offset} are not within the data area,"
                f" {size} bytes at {first}"
            )
        if rights & ~ALL_RIGHTS or not rights:
            raise ValueError(f"rights must be 1 (reads), 2 (writes) or 3, not {rights}")


def next_generation(generation: int) -> int:
    """Return the generation after this one; they wrap to 1, for 0 is no grant."""
    return generation + 1 if generation < layout.U32 else 1
