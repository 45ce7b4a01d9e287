"""Xen's block protocol, x86_64 ABI: bytes of a slot to a request, and back.

Pure functions on private copies: no ring, no file.  A backend takes a slot, decodes
it, checks it (`rings.blkif_rights`), moves the bytes of its extents and answers::

    try:
        request = decode_request(slot)
        check(request, sectors=sectors, pages=pages)
    except RefusedError as error:
        response = refuse(slot, error.status)

Everything in a slot is the peer's word.  `decode_request` refuses what has no
meaning, `check` what has no right; between them no number reaches a device
unbounded.  A refused request costs its sender one failed response, never the ring.

Units: a *sector* is 512 bytes whatever the device says; a *gref* is the number of a
4096-byte page of the shared data area; ``first_sect``..``last_sect`` name the sectors
of a page, both included.

An indirect request (`Indirect`) names up to 8 pages of 512 segments each in place of
11 segments in the slot.  `decode_segments` reads them from a copy of those pages: copy
once, decode the copy.  Its response carries the inner operation, read or write: the
header's comment says otherwise, Linux's front insists.

Source:
    Xen, ``xen/include/public/io/blkif.h``; offsets are held against the header's
    ``offsetof`` by tests/test_xen_peer.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from .errors import RemoteProtocolError

READ: Final = 0
WRITE: Final = 1
WRITE_BARRIER: Final = 2
FLUSH: Final = 3
DISCARD: Final = 5
INDIRECT: Final = 6

OKAY: Final = 0
ERROR: Final = -1
UNSUPPORTED: Final = -2

SLOT_SIZE: Final = 112
RESPONSE_SIZE: Final = 16
SECTOR: Final = 512
PAGE: Final = 4096
SECTORS_PER_PAGE: Final = PAGE // SECTOR
MAX_SEGMENTS: Final = 11
MAX_INDIRECT_PAGES: Final = 8
SEGMENTS_PER_PAGE: Final = PAGE // 8
MAX_INDIRECT_SEGMENTS: Final = MAX_INDIRECT_PAGES * SEGMENTS_PER_PAGE

_DIRECT = struct.Struct("<BBH4xQQ")  # operation, nr_segments, handle, id, sector
_SEGMENT = struct.Struct("<IBB2x")
_INDIRECT = struct.Struct("<BBH4xQQH2x8I")
_DISCARD = struct.Struct("<BBH4xQQQ")
_RESPONSE = struct.Struct("<QBxh4x")
_ID_AT: Final = 8


class RefusedError(RemoteProtocolError):
    """This request cannot be served; its sender gets ``status``, the ring goes on.

    Attributes:
        status: `ERROR`, or `UNSUPPORTED` for an operation that is not offered.
    """

    def __init__(self, message: str, status: int = ERROR) -> None:
        super().__init__(message)
        self.status = status


class Segment(NamedTuple):
    """Sectors ``first_sect`` to ``last_sect``, both included, of page ``gref``."""

    gref: int
    first_sect: int
    last_sect: int

    @property
    def sectors(self) -> int:
        """How many sectors it has."""
        return self.last_sect - self.first_sect + 1

    @property
    def extent(self) -> tuple[int, int]:
        """Offset and length in bytes, from the data area's first byte."""
        return self.gref * PAGE + self.first_sect * SECTOR, self.sectors * SECTOR


@dataclass(frozen=True, slots=True)
class Request:
    """Read, write, barrier or flush, with up to 11 segments."""

    operation: int
    id: int
    sector: int
    segments: tuple[Segment, ...] = ()
    handle: int = 0


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget ``nr_sectors`` from ``sector`` on; what they read as is not promised."""

    id: int
    sector: int
    nr_sectors: int
    secure: bool = False
    handle: int = 0
    operation: int = DISCARD


@dataclass(frozen=True, slots=True)
class Indirect:
    """A read or write whose segments lie in the pages ``grefs``.

    ``operation`` is the inner one, which is also what its response carries.
    """

    operation: int
    id: int
    sector: int
    nr_segments: int
    grefs: tuple[int, ...]
    handle: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """What became of request ``id``."""

    id: int
    operation: int
    status: int = OKAY


AnyRequest = Request | Discard | Indirect

# -- to bytes -----------------------------------------------------------------


def encode_segments(segments: tuple[Segment, ...]) -> bytes:
    """Return the segments one after the other, as a slot or an indirect page has them.

    Raises:
        struct.error: A number does not fit its field.
    """
    return b"".join(_SEGMENT.pack(*segment) for segment in segments)


def encode_request(request: AnyRequest) -> bytes:
    """Return the 112 bytes of a slot, unused ones zero.

    Raises:
        ValueError: More segments or pages than the slot has places for.
    """
    if isinstance(request, Discard):
        return _encode_discard(request)
    if isinstance(request, Indirect):
        return _encode_indirect(request)
    count = len(request.segments)
    if count > MAX_SEGMENTS:
        raise ValueError(f"{count} segments and room for {MAX_SEGMENTS}: use Indirect")
    fixed = (request.operation, count, request.handle, request.id, request.sector)
    body = _DIRECT.pack(*fixed) + encode_segments(request.segments)
    return body.ljust(SLOT_SIZE, b"\0")


def _encode_discard(request: Discard) -> bytes:
    fixed = (DISCARD, request.secure, request.handle, request.id, request.sector)
    return _DISCARD.pack(*fixed, request.nr_sectors).ljust(SLOT_SIZE, b"\0")


def _encode_indirect(request: Indirect) -> bytes:
    pages = len(request.grefs)
    if pages > MAX_INDIRECT_PAGES:
        raise ValueError(f"{pages} pages of segments and room for {MAX_INDIRECT_PAGES}")
    fixed = (INDIRECT, request.operation, request.nr_segments, request.id)
    grefs = request.grefs + (0,) * (MAX_INDIRECT_PAGES - pages)
    body = _INDIRECT.pack(*fixed, request.sector, request.handle, *grefs)
    return body.ljust(SLOT_SIZE, b"\0")


def encode_response(response: Response) -> bytes:
    """Return the 16 bytes of a response; its padding is zero, so nothing leaks."""
    return _RESPONSE.pack(response.id, response.operation, response.status)


# -- from bytes ---------------------------------------------------------------


def decode_request(slot: bytes) -> AnyRequest:
    """Return what a copied slot asks for.

    Raises:
        RefusedError: It asks for nothing this protocol knows.
        ValueError: It is not 112 bytes long.
    """
    if len(slot) != SLOT_SIZE:
        raise ValueError(f"a blkif slot has {SLOT_SIZE} bytes, not {len(slot)}")
    operation = slot[0]
    if operation == INDIRECT:
        return _decode_indirect(slot)
    if operation == DISCARD:
        _, flag, handle, ident, sector, count = _DISCARD.unpack_from(slot)
        return Discard(ident, sector, count, bool(flag & 1), handle)
    if operation not in (READ, WRITE, WRITE_BARRIER, FLUSH):
        raise RefusedError(f"operation {operation} is not offered", UNSUPPORTED)
    _, count, handle, ident, sector = _DIRECT.unpack_from(slot)
    if count > MAX_SEGMENTS:
        raise RefusedError(f"{count} segments where {MAX_SEGMENTS} fit")
    segments = decode_segments(slot[_DIRECT.size :], count)
    return Request(operation, ident, sector, segments, handle)


def _decode_indirect(slot: bytes) -> Indirect:
    _, inner, count, ident, sector, handle, *grefs = _INDIRECT.unpack_from(slot)
    if inner not in (READ, WRITE):
        raise RefusedError(f"operation {inner} cannot be indirect")
    if not 1 <= count <= MAX_INDIRECT_SEGMENTS:
        raise RefusedError(f"{count} indirect segments, not 1..{MAX_INDIRECT_SEGMENTS}")
    pages = -(-count // SEGMENTS_PER_PAGE)
    return Indirect(inner, ident, sector, count, tuple(grefs[:pages]), handle)


def decode_segments(table: bytes, count: int) -> tuple[Segment, ...]:
    """Return the first ``count`` segments of a copied slot's or page's table."""
    return tuple(
        Segment(*_SEGMENT.unpack_from(table, i * _SEGMENT.size)) for i in range(count)
    )


def decode_response(record: bytes) -> Response:
    """Return the response in 16 copied bytes.

    Raises:
        RemoteProtocolError: Its status is none of the protocol's.
    """
    ident, operation, status = _RESPONSE.unpack(record)
    if status not in (OKAY, ERROR, UNSUPPORTED):
        raise RemoteProtocolError(f"a response has status {status}, not 0, -1 or -2")
    return Response(ident, operation, status)


def refuse(slot: bytes, status: int = ERROR) -> Response:
    """Return the response to a slot that may make no sense beyond its id."""
    operation = slot[0]
    if operation == INDIRECT and slot[1] in (READ, WRITE):
        operation = slot[1]
    ident = int.from_bytes(slot[_ID_AT : _ID_AT + 8], "little")
    return Response(ident, operation, status)
