"""One producer, one consumer: the fastest way from one process to another.

A `Ring` is the memory and the two eventfds; `Ring.producer` and `Ring.consumer`
take its two ends, each of which at most one process holds at a time:

    ring = spsc.create(slots=1024, slot_size=64)
    Process(target=work, args=(ring,)).start()      # there: ring.consumer()
    with ring.producer() as producer:
        producer.put(bytes(64))

**Two kinds.**  ``create(slots=, slot_size=)`` makes a ring whose messages all
have exactly ``slot_size`` bytes, any other length is a ValueError; nothing but
their bytes is stored, so a batch is one copy.  ``create(ring_bytes=)`` makes a
ring of records, whose messages have any length up to half the ring; with
``pool_bytes=`` a longer one goes by reference: its bytes lie in a pool beside the
ring, copied once by put, or not at all by ``claim`` and ``peek``, and go back to
the pool when the message is taken or its view released.

**What a call promises.**  ``try_*`` never waits, ``put``, ``get``, ``claim`` and
``peek`` wait (``timeout=None``: for ever) and end with TimeoutError;
``put_many``, ``get_many`` and ``get_into`` do what they can at once, and wait for
a first message only if given a timeout.  A message is visible to the consumer
when put returns; a batch, all at once.  Who waits for room is told once an eighth
of the ring is free, and until then looks every 50 ms and less and less often.

**When an end dies.**  Its process held the end by pid and start time; whoever
finds that process dead (never one that is merely stopped) may take the end over.
A producer killed before it published leaves nothing visible; a consumer killed
before it released leaves its messages to the next one, so what it had peeked is
delivered again.  Whoever waits for a dead peer gets BrokenError, after all that
was published has been taken; a consumer waiting for one that closed gets
ShutDown, and iteration ends.  After that, ``wait_peer`` waits for a successor.

**Handles** belong to one thread at a time and to the process that made them: in a
forked child they raise ClosedError.  The `Ring` itself may be inherited, pickled
to a child, or rebuilt from the numbers of `Ring.handle` (own-GIL interpreters,
``subprocess`` with ``pass_fds``).  Both ends must see the same pid namespace.

*Memory order* and *Source*: csrc/spsc.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from . import eventfds, layout
from ._core import SpscConsumer as Consumer
from ._core import SpscProducer as Producer
from .channel import parse
from .errors import ClosedError
from .memory import Region, leave

if TYPE_CHECKING:
    from multiprocessing.resource_sharer import DupFd

__all__ = ["Consumer", "Handle", "Producer", "Ring", "attach", "create"]

MAX_UNITS: Final = 1 << 30
MAX_POOL: Final = 1 << 40
PARAMS: Final = struct.Struct("=IIIIQQQ")
POOL: Final = struct.Struct("=QQI")
LOST: Final = struct.Struct("=Q")


class Handle(NamedTuple):
    """A ring as numbers: its descriptors are the caller's to pass on."""

    fd: int
    size: int
    data_fd: int
    space_fd: int


class Ring:
    """The memory of a ring and the two eventfds that wake its ends.

    Attributes:
        region: The memory.
    """

    __slots__ = ("_data_fd", "_space_fd", "region")

    def __init__(self, region: Region, data_fd: int, space_fd: int) -> None:
        """Own a region of kind SPSC and two eventfds."""
        self.region = region
        self._data_fd = data_fd
        self._space_fd = space_fd

    def producer(self, *, policy: str = "block", wait: str = "block") -> Producer:
        """Take the end that puts.

        Args:
            policy: What ``put`` does when there is no room: ``block`` waits,
                ``drop_new`` counts the message as lost and returns False,
                ``error`` raises TimeoutError at once.
            wait: How to wait: ``block``, ``busy`` or ``spin:MICROSECONDS``.

        Raises:
            BusyError: A live process, named in the message, holds this end.
        """
        fds = (self._notifier(self._data_fd), self._notifier(self._space_fd))
        spin_us = parse(wait).spin_us
        return Producer(self.region.buffer, *fds, spin_us=spin_us, policy=policy)

    def consumer(self, *, latest: bool = False, wait: str = "block") -> Consumer:
        """Take the end that gets.

        Args:
            latest: Get the newest message each time; what it skips counts as lost.
            wait: How to wait: ``block``, ``busy`` or ``spin:MICROSECONDS``.

        Raises:
            BusyError: A live process, named in the message, holds this end.
        """
        fds = (self._notifier(self._space_fd), self._notifier(self._data_fd))
        spin_us = parse(wait).spin_us
        return Consumer(self.region.buffer, *fds, spin_us=spin_us, latest=latest)

    def _notifier(self, fd: int) -> int:
        self.region.fileno()
        return fd

    @property
    def slots(self) -> int:
        """Messages that fit; in a ring of records, units of eight bytes."""
        return int(self._params()[1])

    @property
    def slot_size(self) -> int:
        """Bytes of every message, 0 in a ring of records."""
        params = self._params()
        return int(params[2]) if params[0] == layout.SPSC_FIXED else 0

    @property
    def pool_size(self) -> int:
        """Bytes for messages that go by reference."""
        return int(POOL.unpack_from(self.region.buffer, layout.SPSC_POOL_OFFSET)[1])

    @property
    def lost(self) -> int:
        """Messages refused by producers or skipped by consumers since it was made."""
        ends = (layout.SPSC_PRODUCER, layout.SPSC_CONSUMER)
        words = [end + layout.END_LOST for end in ends]
        return sum(LOST.unpack_from(self.region.buffer, word)[0] for word in words)

    def _params(self) -> tuple[int, ...]:
        return PARAMS.unpack_from(self.region.buffer, layout.SPSC_MODE)

    def handle(self) -> Handle:
        """Return the ring as numbers, for `attach` elsewhere.  Nothing is copied."""
        return Handle(
            self.region.fileno(), self.region.size, self._data_fd, self._space_fd
        )

    def close(self) -> None:
        """Let go of memory and descriptors; again is harmless.

        Raises:
            BusyError: An end taken from this object is still open here.
        """
        if self.region.closed:
            return
        self.region.close()
        self._close_fds()

    def _close_fds(self, close: Callable[[int], None] = os.close) -> None:
        fds = (self._data_fd, self._space_fd)
        self._data_fd = self._space_fd = -1
        for fd in fds:
            if fd >= 0:
                close(fd)

    def __enter__(self) -> Ring:
        if self.region.closed:
            raise ClosedError("this ring is closed; attach it again from its handle")
        return self

    def __exit__(self, *exc: object) -> None:
        leave(self.close, exc[1])

    def __del__(self) -> None:
        if hasattr(self, "_space_fd"):
            self._close_fds()

    def __repr__(self) -> str:
        if self.region.closed:
            return "<spsc.Ring closed>"
        kind = f"of {self.slot_size} bytes" if self.slot_size else "of 8-byte units"
        return f"<spsc.Ring {self.slots} slots {kind}, fd {self.region.fd}>"

    def __reduce__(self) -> tuple[Callable[..., Ring], tuple[object, ...]]:
        """Travel to another process by `multiprocessing`."""
        from multiprocessing.reduction import DupFd

        handle = self.handle()
        return _rebuild, (self.region, DupFd(handle.data_fd), DupFd(handle.space_fd))


def _rebuild(region: Region, data: DupFd, space: DupFd) -> Ring:
    return Ring(region, data.detach(), space.detach())


def create(
    *,
    slots: int = 1024,
    slot_size: int = 64,
    ring_bytes: int = 0,
    pool_bytes: int = 0,
    inline_max: int | None = None,
    start: int = 0,
    dtype: int = 0,
) -> Ring:
    """Make a new ring.

    Args:
        slots: Messages that fit, a power of two.
        slot_size: Bytes of every message, exactly.
        ring_bytes: Instead of both: bytes for messages of any length, a power of
            two; a message takes 8 bytes more than it has, rounded up to 8.
        pool_bytes: Beside ``ring_bytes``: for messages that go by reference, of
            which at most 256 are in the ring at once; each lies in one piece.
        inline_max: Bytes of the longest message that does not; half the ring if
            not told.
        start: Index of the first message; tests start near 2**32.
        dtype: Fingerprint of the messages' type, see `rings.records`.

    Raises:
        ValueError: A number is out of range.
        RegionMemoryError: There is not that much memory.
    """
    mode = layout.SPSC_RECORDS if ring_bytes else layout.SPSC_FIXED
    units, unit_size = (ring_bytes // 8, 8) if ring_bytes else (slots, slot_size)
    _check(units, unit_size, ring_bytes, start)
    _check_pool(ring_bytes, pool_bytes, inline_max)
    data_size, pool_size = units * unit_size, layout.round_up(pool_bytes)
    pool_offset = layout.SPSC_DATA + layout.round_up(data_size)
    size = pool_offset + pool_size
    region = Region.create(size, kind=layout.KIND_SPSC, name="rings-spsc")
    params = (mode, units, unit_size, start, layout.SPSC_DATA, data_size, dtype)
    PARAMS.pack_into(region.buffer, layout.SPSC_MODE, *params)
    pool = (pool_offset, pool_size, layout.U32 if inline_max is None else inline_max)
    if pool_size:
        POOL.pack_into(region.buffer, layout.SPSC_POOL_OFFSET, *pool)
    words = (layout.SPSC_PROD, layout.SPSC_CONS)
    for word in (*words, layout.SPSC_PROD_EVENT, layout.SPSC_CONS_EVENT):
        struct.pack_into("=I", region.buffer, word, start)
    return Ring(region, *eventfds.create(2))


def _check(units: int, unit_size: int, ring_bytes: int, start: int) -> None:
    if ring_bytes and (ring_bytes < 64 or ring_bytes & (ring_bytes - 1)):
        raise ValueError(
            f"ring_bytes must be a power of two from 64 up, not {ring_bytes}"
        )
    if units < 1 or units & (units - 1) or units > MAX_UNITS:
        raise ValueError(f"slots must be a power of two up to {MAX_UNITS}, not {units}")
    if not 1 <= unit_size <= layout.U32 // 2:
        raise ValueError(f"slot_size must be in 1..{layout.U32 // 2}, not {unit_size}")
    if not 0 <= start <= layout.U32:
        raise ValueError(f"start must be a u32, not {start}")


def _check_pool(ring_bytes: int, pool_bytes: int, inline_max: int | None) -> None:
    if not 0 <= pool_bytes <= MAX_POOL:
        raise ValueError(f"pool_bytes must be in 0..{MAX_POOL}, not {pool_bytes}")
    if pool_bytes and not ring_bytes:
        raise ValueError(
            "pool_bytes must come with ring_bytes: others have messages of one size"
        )
    if inline_max is not None and not (pool_bytes and 0 <= inline_max <= layout.U32):
        raise ValueError(
            f"inline_max must be a u32 and come with pool_bytes, not {inline_max}"
        )


def attach(fd: int, size: int, data_fd: int, space_fd: int) -> Ring:
    """Map a ring from the numbers of `Ring.handle`; the descriptors stay yours.

    Raises:
        LayoutError: The memory is no SPSC ring, or not of that size.
    """
    region = Region.attach(fd, size=size, kind=layout.KIND_SPSC)
    return Ring(region, *eventfds.duplicate((data_fd, space_fd)))
