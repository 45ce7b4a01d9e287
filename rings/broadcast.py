"""One producer, many consumers: each of them sees every message, or counts its losses.

    ring = broadcast.create(slots=256, slot_size=4096, consumers=4)
    with ring.producer() as producer:
        producer.put(frame)                  # there: for frame in ring.consumer(): ...

Who joins sees the messages put from then on.  What happens when a consumer is
slower than the producer is the ring's policy:

- ``drop_old`` (default): the producer never waits.  An overtaken consumer goes on
  with the oldest message that the next put will not overwrite, and ``lost`` has grown
  by exactly the number it missed.
- ``block``: the producer waits for the slowest consumer; nobody loses anything.

A consumer taken with ``latest=True`` always gets the newest message, under either
policy; what it skipped counts as lost.  A message is delivered whole or not at all:
one overwritten while it was being copied is thrown away and counted.

**When an end dies.**  A dead producer's end may be taken by another one, and no
half-written message was visible.  A dead consumer is forgotten as soon as the
producer has to wait for it.  Whoever waits gets BrokenError when the producer died,
ShutDown when it closed, in both cases after the last message.  A stopped process is
not dead: under ``block`` it holds the producer up until put's timeout.

*Memory order* and *Source*: csrc/broadcast.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from . import eventfds, layout
from .broadcast_ends import Consumer, Producer
from .channel import parse
from .errors import ClosedError, LayoutError
from .memory import Region, leave

if TYPE_CHECKING:
    from multiprocessing.resource_sharer import DupFd

__all__ = ["Consumer", "Handle", "Producer", "Ring", "attach", "create"]

POLICIES: Final = {
    "block": layout.BROADCAST_BLOCK,
    "drop_old": layout.BROADCAST_DROP_OLD,
}
PARAMS: Final = struct.Struct("=IIIIQ")


class Handle(NamedTuple):
    """A ring as numbers: its descriptors are the caller's to pass on."""

    fd: int
    size: int
    space_fd: int
    event_fds: tuple[int, ...]


class Ring:
    """The memory of a broadcast ring and the eventfds that wake its ends."""

    __slots__ = ("_event_fds", "_space_fd", "region")

    def __init__(
        self, region: Region, space_fd: int, event_fds: tuple[int, ...]
    ) -> None:
        """Own a region of kind BROADCAST, and one eventfd for each possible end."""
        self.region = region
        self._space_fd = space_fd
        self._event_fds = event_fds

    def producer(self, *, wait: str = "block") -> Producer:
        """Take the end that puts.

        Raises:
            BusyError: A live process, named in the message, holds it.
        """
        return Producer(self, parse(wait))

    def consumer(self, *, latest: bool = False, wait: str = "block") -> Consumer:
        """Join, seeing every message put from now on.

        Args:
            latest: Get only the newest message each time.
            wait: How to wait: ``block``, ``busy`` or ``spin:MICROSECONDS``.

        Raises:
            BusyError: As many consumers as the ring was made for are there.
        """
        self._check_events()
        return Consumer(self, parse(wait), latest)

    def _check_events(self) -> None:
        consumers = PARAMS.unpack_from(self.region.buffer, layout.BROADCAST_SLOTS)[2]
        if consumers != len(self._event_fds):
            raise LayoutError(
                f"the ring needs {consumers} eventfds, not {len(self._event_fds)}:"
                " pass all numbers of Ring.handle()"
            )

    def handle(self) -> Handle:
        """Return the ring as numbers, for `attach` elsewhere.  Nothing is copied."""
        fd = self.region.fileno()
        return Handle(fd, self.region.size, self._space_fd, self._event_fds)

    def close(self) -> None:
        """Let go of memory and descriptors; again is harmless.

        Raises:
            BusyError: An end taken from this object is still open here.
        """
        if not self.region.closed:
            self.region.close()
            self._close_fds()

    def _close_fds(self, close: Callable[[int], None] = os.close) -> None:
        fds = (self._space_fd, *self._event_fds)
        self._space_fd, self._event_fds = -1, ()
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
        if hasattr(self, "_event_fds"):
            self._close_fds()

    def __reduce__(self) -> tuple[Callable[..., Ring], tuple[object, ...]]:
        """Travel to another process by `multiprocessing`."""
        from multiprocessing.reduction import DupFd

        handle = self.handle()
        fds = [DupFd(fd) for fd in (handle.space_fd, *handle.event_fds)]
        return _rebuild, (self.region, fds)


def _rebuild(region: Region, couriers: list[DupFd]) -> Ring:
    space_fd, *event_fds = [courier.detach() for courier in couriers]
    return Ring(region, space_fd, tuple(event_fds))


def create(
    *,
    slots: int = 256,
    slot_size: int = 4096,
    consumers: int = 8,
    policy: str = "drop_old",
    start: int = 0,
) -> Ring:
    """Make a new broadcast ring.

    Args:
        slots: Messages that are kept, a power of two from 2 up.
        slot_size: Bytes of the longest message.
        consumers: How many can be there at once, up to 64.
        policy: ``drop_old`` or ``block``, see above.
        start: Number of the first message; tests start near 2**32.

    Raises:
        ValueError: A number is out of range.
        RegionMemoryError: There is not that much memory.
    """
    _check(slots, slot_size, consumers, policy, start)
    stride = layout.BROADCAST_SLOT_WORDS + layout.round_up(slot_size, 8)
    entries = layout.BROADCAST_ENTRIES + consumers * layout.ENTRY_SIZE
    offset = layout.round_up(entries)
    size = offset + layout.round_up(slots * stride)
    region = Region.create(size, kind=layout.KIND_BROADCAST, name="rings-broadcast")
    params = (slots, slot_size, consumers, POLICIES[policy], offset)
    PARAMS.pack_into(region.buffer, layout.BROADCAST_SLOTS, *params)
    struct.pack_into("=Q", region.buffer, layout.BROADCAST_PROD, start)
    for entry in range(layout.BROADCAST_ENTRIES, entries, layout.ENTRY_SIZE):
        cons = entry + layout.ENTRY_CONS
        struct.pack_into("=Q", region.buffer, cons, layout.ENTRY_ABSENT)
    space_fd, *event_fds = eventfds.create(1 + consumers)
    return Ring(region, space_fd, tuple(event_fds))


def _check(slots: int, slot_size: int, consumers: int, policy: str, start: int) -> None:
    if slots < 2 or slots & (slots - 1) or slots > 1 << 30:
        raise ValueError(f"slots must be a power of two in 2..{1 << 30}, not {slots}")
    if not 1 <= slot_size <= layout.U32 // 2:
        raise ValueError(f"slot_size must be in 1..{layout.U32 // 2}, not {slot_size}")
    if not 1 <= consumers <= layout.BROADCAST_MOST:
        raise ValueError(
            f"consumers must be in 1..{layout.BROADCAST_MOST}, not {consumers}"
        )
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {sorted(POLICIES)}, not {policy!r}")
    if not 0 <= start < 1 << 62:
        raise ValueError(f"start must be in 0..2**62, not {start}")


def attach(fd: int, size: int, space_fd: int, event_fds: tuple[int, ...]) -> Ring:
    """Map a ring from the numbers of `Ring.handle`; the descriptors stay yours.

    Raises:
        LayoutError: The memory is no broadcast ring, or not of that size.
    """
    region = Region.attach(fd, size=size, kind=layout.KIND_BROADCAST)
    space, *events = eventfds.duplicate((space_fd, *event_fds))
    ring = Ring(region, space, tuple(events))
    try:
        ring._check_events()
    except LayoutError:
        ring.close()
        raise
    return ring
