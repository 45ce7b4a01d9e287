"""What a blkif request may touch: refused unless it stays on device and data area.

Takes what `rings.blkif` decoded.  Between the two no number reaches a device
unbounded.
"""

from __future__ import annotations

from .blkif import (
    FLUSH,
    READ,
    SECTORS_PER_PAGE,
    WRITE,
    AnyRequest,
    Discard,
    Indirect,
    RefusedError,
    Request,
    Segment,
)


def check(
    request: AnyRequest, *, sectors: int, pages: int, read_only: bool = False
) -> None:
    """Refuse a request that leaves the device or the data area.

    For an `Indirect` this looks at the grefs of its tables; give the decoded segments
    to `check_segments` as well.

    Raises:
        RefusedError: The message says which number is wrong, for the log.
    """
    if read_only and _changes(request):
        raise RefusedError("the device is read-only")
    if isinstance(request, Discard):
        _check_range(request.sector, request.nr_sectors, sectors)
    elif isinstance(request, Indirect):
        for gref in request.grefs:
            _check_gref(gref, pages)
    else:
        check_segments(request, request.segments, sectors=sectors, pages=pages)


def _changes(request: AnyRequest) -> bool:
    if isinstance(request, Request) and request.operation == FLUSH:
        return bool(request.segments)
    return request.operation != READ


def check_segments(
    request: Request | Indirect,
    segments: tuple[Segment, ...],
    *,
    sectors: int,
    pages: int,
) -> None:
    """Refuse segments outside their page, the data area or the device.

    Raises:
        RefusedError: The message says which number is wrong, for the log.
    """
    if not segments:
        if request.operation in (READ, WRITE):
            raise RefusedError("a read or write needs a segment")
        return
    for segment in segments:
        _check_gref(segment.gref, pages)
        if not segment.first_sect <= segment.last_sect < SECTORS_PER_PAGE:
            raise RefusedError(f"{segment} is not within a page of 8 sectors")
    _check_range(request.sector, sum(each.sectors for each in segments), sectors)


def _check_gref(gref: int, pages: int) -> None:
    if gref >= pages:
        raise RefusedError(f"gref {gref} and a data area of {pages} pages")


def _check_range(sector: int, count: int, sectors: int) -> None:
    if count > sectors or sector > sectors - count:
        raise RefusedError(f"{count} sectors from {sector} on a device of {sectors}")
