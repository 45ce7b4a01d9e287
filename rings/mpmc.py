"""MPMC rings: many producers, many consumers, and anybody may be killed.

A `Ring` is the memory and the two eventfds of one queue of messages; it can be
pickled to other processes and handed to interpreters.  Whoever puts or gets is a
*member*: a `Producer`, a `Consumer`, or a `Member` that is both.

    ring = mpmc.create(slots=1024, slot_size=240)
    with ring.producer() as producer, ring.consumer() as consumer:
        producer.put(b"hello")
        assert consumer.get() == b"hello"

A member killed at any instruction leaves the ring usable: the others find the
slot it was working on, make sure that it is dead and settle the slot.  A message
that was being put is skipped; one that was being got is counted in doubt.  What
is promised, and what is not, stands in docs/PROMISES-mpmc.md; how it works, on
top of csrc/mpmc.h and csrc/owners.h.

Members of a ring trust one another: one that writes where it should not can
garble every message (but not read or write outside of the ring).

**Threads.**  A member may be shared by the threads of a process.  **Fork.**  A
member used in a forked child joins there anew, as a member of its own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from . import eventfds, layout
from ._core import (
    MpmcConsumer as Consumer,
)
from ._core import (
    MpmcMember as Member,
)
from ._core import (
    MpmcProducer as Producer,
)
from ._core import mpmc_initialise
from .errors import BusyError, ClosedError, LayoutError
from .memory import Region, leave
from .mpmc_statistics import MemberFacts, Statistics, read_statistics

if TYPE_CHECKING:
    from multiprocessing.resource_sharer import DupFd

__all__ = [
    "Consumer",
    "Handle",
    "Member",
    "MemberFacts",
    "Producer",
    "Ring",
    "Statistics",
    "attach",
    "create",
]

U64: Final = (1 << 64) - 1


class Handle(NamedTuple):
    """A ring as numbers: what an interpreter or a subprocess needs to attach.

    The descriptors are the sender's: they must be open where they are used.
    """

    region_fd: int
    not_full_fd: int
    not_empty_fd: int


def region_size(slots: int, slot_size: int) -> int:
    """Return the bytes of a region for such a ring.

    Raises:
        ValueError: A number is out of range; the message says which and why.
    """
    if not 2 <= slots <= layout.MPMC_MAX_SLOTS or slots & (slots - 1):
        raise ValueError(
            f"slots must be a power of two in 2..{layout.MPMC_MAX_SLOTS}, not {slots}"
        )
    if not 1 <= slot_size <= layout.MPMC_MAX_SLOT_SIZE:
        raise ValueError(
            f"slot_size must be in 1..{layout.MPMC_MAX_SLOT_SIZE}, not {slot_size}"
        )
    stride = layout.round_up(layout.MPMC_SLOT_HEADER + slot_size, layout.MPMC_SLOT_UNIT)
    return layout.round_up(layout.MPMC_SLOTS_OFFSET + slots * stride)


class Ring:
    """The memory and the eventfds of one MPMC ring.

    Attributes:
        region: The memory.
        slots: How many messages it holds.
        slot_size: Bytes of a message at most.
        limit: How many messages it holds at once; the slots, if not fewer.
    """

    __slots__ = (
        "__weakref__", "limit", "not_empty_fd", "not_full_fd", "region", "slot_size",
        "slots",
    )  # fmt: skip

    def __init__(self, region: Region, not_full_fd: int, not_empty_fd: int) -> None:
        """Own a region that holds a ring, and its two eventfds."""
        self.not_full_fd = not_full_fd
        self.not_empty_fd = not_empty_fd
        self.region = region
        self.slots, self.slot_size = read_numbers(region)
        (limit,) = struct.unpack_from("=I", region.buffer, layout.MPMC_LIMIT)
        self.limit: int = limit or self.slots

    @classmethod
    def create(
        cls,
        *,
        slots: int = 1024,
        slot_size: int = 240,
        limit: int = 0,
        start: int = 0,
        name: str = "rings-mpmc",
    ) -> Ring:
        """Make a ring of ``slots`` messages of up to ``slot_size`` bytes.

        A slot takes 16 bytes more, rounded up to 64: 48, 112 and 240 fit well.

        Args:
            slots: Messages it holds, a power of two.
            slot_size: Bytes of the longest message.
            limit: How many messages it may hold at once, if not all ``slots``.
            start: Index of the first message; tests wrap with it.
            name: Shown in ``/proc/PID/maps``.

        Raises:
            RegionMemoryError: There is not that much memory.
            ValueError: A number is out of range.
        """
        if not 0 <= start <= U64:
            raise ValueError(f"start must be a u64, not {start}")
        if not 0 <= limit <= slots:
            raise ValueError(f"limit must be in 0..{slots}, the slots, not {limit}")
        size = region_size(slots, slot_size)
        region = Region.create(size, kind=layout.KIND_MPMC, name=name)
        buffer = region.buffer
        numbers = (slots, slot_size, start, limit)
        struct.pack_into("=IIQI", buffer, layout.MPMC_SLOTS, *numbers)
        mpmc_initialise(buffer, slots, slot_size, start)
        return cls(region, *eventfds.create(2))

    @classmethod
    def attach(cls, handle: tuple[int, int, int]) -> Ring:
        """Attach a ring by its `handle`; the descriptors stay the caller's.

        Raises:
            LayoutError: The region holds no MPMC ring.
        """
        region = Region.attach(handle[0], kind=layout.KIND_MPMC)
        ring = cls(region, -1, -1)  # which checks the numbers in the memory
        ring.not_full_fd, ring.not_empty_fd = eventfds.duplicate(handle[1:])
        return ring

    def handle(self) -> Handle:
        """Return the ring as three descriptor numbers, for `attach`."""
        return Handle(self.region_fd, self.not_full_fd, self.not_empty_fd)

    @property
    def region_fd(self) -> int:
        """Descriptor of the memory."""
        return self.region.fileno()

    @property
    def buffer(self) -> memoryview:
        """All bytes of the region."""
        if self.closed:
            raise ClosedError("this ring is closed: attach or create it again")
        return self.region.buffer

    @property
    def closed(self) -> bool:
        """Whether `close` has been done here."""
        return self.not_empty_fd < 0

    def producer(self, *, policy: str = "block", spin_us: int = 0) -> Producer:
        """Join as a member that puts.

        Args:
            policy: What ``put`` does when there is no room: ``block`` waits,
                ``drop_new`` counts the message as lost and returns False,
                ``drop_old`` takes the oldest out and counts that one,
                ``error`` raises TimeoutError at once.
            spin_us: How long to spin before sleeping; -1 never sleeps.
        """
        return Producer(self, policy=policy, spin_us=spin_us)

    def consumer(self, *, latest: bool = False, spin_us: int = 0) -> Consumer:
        """Join as a member that gets; ``latest``: the newest, dropping the others."""
        return Consumer(self, latest=latest, spin_us=spin_us)

    def member(
        self, *, policy: str = "block", latest: bool = False, spin_us: int = 0
    ) -> Member:
        """Join as a member that puts and gets."""
        return Member(self, policy=policy, latest=latest, spin_us=spin_us)

    def statistics(self) -> Statistics:
        """Return the counts; anybody may ask, member or not."""
        return read_statistics(self.buffer, self.slots)

    def close(self) -> None:
        """Let go of memory and eventfds in this process; again is harmless.

        Raises:
            BusyError: Members made here are still open; nothing was closed.
        """
        if self.closed:
            return
        try:
            self.region.close()
        except BusyError:
            raise BusyError(
                "the ring has open members in this process: close them first"
            ) from None
        os.close(self.not_full_fd)
        os.close(self.not_empty_fd)
        self.not_full_fd = self.not_empty_fd = -1

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *exc: object) -> None:
        leave(self.close, exc[1])

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        for fd in (self.not_full_fd, self.not_empty_fd):
            if fd >= 0:
                close(fd)
        self.not_full_fd = self.not_empty_fd = -1

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self.region.fd}"
        return f"<mpmc.Ring {state}, {self.slots} slots of {self.slot_size} bytes>"

    def __reduce__(self) -> tuple[Callable[..., Ring], tuple[object, ...]]:
        """Travel to another process by `multiprocessing`."""
        from multiprocessing.reduction import DupFd

        if self.closed:
            raise ClosedError("this ring is closed and cannot travel: attach it again")
        return reattach, (
            self.region,
            DupFd(self.not_full_fd),
            DupFd(self.not_empty_fd),
        )


def create(
    *, slots: int = 1024, slot_size: int = 240, limit: int = 0, start: int = 0
) -> Ring:
    """Make a new ring, see `Ring.create`."""
    return Ring.create(slots=slots, slot_size=slot_size, limit=limit, start=start)


def attach(region_fd: int, not_full_fd: int, not_empty_fd: int) -> Ring:
    """Map a ring from the numbers of `Ring.handle`; the descriptors stay yours.

    Raises:
        LayoutError: The memory is no MPMC ring.
    """
    return Ring.attach((region_fd, not_full_fd, not_empty_fd))


def reattach(region: Region, not_full: DupFd, not_empty: DupFd) -> Ring:
    """Make a ring of what came by pickle."""
    return Ring(region, not_full.detach(), not_empty.detach())


def read_numbers(region: Region) -> tuple[int, int]:
    """Return slots and slot size of a region, having checked that they fit it."""
    slots, slot_size = struct.unpack_from("=II", region.buffer, layout.MPMC_SLOTS)
    try:
        fits = region_size(slots, slot_size) <= region.size
    except ValueError as error:
        raise LayoutError(f"the region's header is damaged: {error}") from None
    if region.kind != layout.KIND_MPMC or not fits:
        raise LayoutError(
            f"a region of kind {region.kind} and {region.size} bytes does not hold an"
            f" MPMC ring of {slots} slots of {slot_size} bytes"
        )
    return slots, slot_size
