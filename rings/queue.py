"""`Queue`: what `multiprocessing.Queue` does, over a ring in shared memory.

    queue = rings.Queue()
    Process(target=work, args=(queue,)).start()
    queue.put({"frame": array})

An object is in the queue when `Queue.put` returns: no thread feeds it later, an
object that cannot be pickled raises there, and a process that dies afterwards has
sent it.  A process killed inside a call harms nobody: the others find its slot and
its memory and settle them.  docs/QUEUE.md says what is promised, and what differs
from `multiprocessing.Queue`.

A small object lies in a slot of an MPMC ring (mpmc.py).  A larger one, and the
memory of numpy arrays and the like, lies in blocks beside it (blocks.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from . import layout, mpmc
from ._core import QueueMember
from .blocks import Blocks
from .errors import BusyError, ShutDown
from .memory import Region
from .pickling import CODEC

__all__ = ["Empty", "Full", "Handle", "Queue", "QueueStatistics", "ShutDown"]

DEFAULT_MAXSIZE: Final = 16384
DEFAULT_POOL_SIZE: Final = 16 << 20
DEFAULT_SLOT_SIZE: Final = 240


class Handle(NamedTuple):
    """A queue as numbers: what an interpreter or a subprocess needs to attach.

    The descriptors are the sender's: they must be open where they are used.
    """

    region_fd: int
    not_full_fd: int
    not_empty_fd: int
    blocks_fd: int


class QueueStatistics(NamedTuple):
    """Counts since the queue was made; those of messages lag by what is in motion.

    Attributes:
        size: Objects in the queue.
        objects_put: Objects put.
        objects_got: Objects got.
        tombstones: Puts that died with their process before they were done.
        in_doubt: Objects taken by processes that died before get returned.
        recovered: Members found dead and settled.
        lost: Objects that were dropped by policy.
        pool_size: Bytes for what does not fit a slot.
        pool_used: Bytes of it in use.
        members: Who takes part: number, pid, and counts of each.
    """

    size: int
    objects_put: int
    objects_got: int
    tombstones: int
    in_doubt: int
    recovered: int
    lost: int
    pool_size: int
    pool_used: int
    members: tuple[mpmc.MemberFacts, ...]


class Queue(QueueMember):
    """A queue of picklable objects for any number of processes and threads.

    Pass it to a `multiprocessing` process by any start method, through a pipe or
    another queue; elsewhere `attach` it by its `handle`.

    Every call that waits takes ``block`` and ``timeout`` as `queue.Queue.get` does
    and keeps to them also while another process is dead or stopped.

    Attributes:
        ring: The slots.
        pool: The blocks.
        views: Whether `get` may return arrays that lie in the queue's memory.
    """

    ring: mpmc.Ring
    pool: Blocks
    views: bool
    spin_us: int
    policy: str

    __class_getitem__ = classmethod(lambda cls, item: cls)

    def __new__(
        cls,
        maxsize: int = 0,
        *,
        pool_size: int = DEFAULT_POOL_SIZE,
        slot_size: int = DEFAULT_SLOT_SIZE,
        views: bool = False,
        spin_us: int = 0,
        policy: str = "block",
        start: int = 0,
    ) -> Self:
        """Make a queue.

        Args:
            maxsize: How many objects it holds at most; 0 or less means 16384.
            pool_size: Bytes for what does not fit a slot; no object can be larger.
            slot_size: Bytes of a slot, 24 to 4096: smaller objects lie in slots.
            views: Let `get` return arrays that lie in the pool, without a copy.
                Each keeps its part of the pool from the others until it dies.
            spin_us: How long to spin before sleeping; -1 never sleeps.
            policy: What `put` does without room: ``block`` waits, ``error`` raises
                Full at once, ``drop_new`` drops the object and returns False,
                ``drop_old`` drops the oldest ones instead; `lost` counts them.
            start: Index of the first object; tests wrap with it.

        Raises:
            RegionMemoryError: There is not that much memory.
            ValueError: A number is out of range.
        """
        limit = maxsize if maxsize > 0 else DEFAULT_MAXSIZE
        if limit > layout.MPMC_MAX_SLOTS:
            most = layout.MPMC_MAX_SLOTS
            raise ValueError(f"maxsize must be at most {most}, not {maxsize}")
        slots = max(2, 1 << (limit - 1).bit_length())
        ring = mpmc.Ring.create(
            slots=slots,
            slot_size=slot_size,
            limit=limit,
            start=start,
            name="rings-queue",
        )
        return cls._over(ring, Blocks.create(pool_size), views, spin_us, policy)

    @classmethod
    def _over(
        cls, ring: mpmc.Ring, pool: Blocks, views: bool, spin_us: int, policy: str
    ) -> Self:
        self = super().__new__(
            cls, ring, pool, CODEC, views=views, spin_us=spin_us, policy=policy
        )
        self.ring = ring
        self.pool = pool
        self.views = views
        self.spin_us = spin_us
        self.policy = policy
        return self

    @classmethod
    def attach(
        cls,
        handle: tuple[int, int, int, int],
        *,
        views: bool = False,
        spin_us: int = 0,
        policy: str = "block",
    ) -> Self:
        """Attach a queue by its `handle`; the descriptors stay the caller's.

        Raises:
            LayoutError: They are no queue's.
        """
        ring = mpmc.Ring.attach((handle[0], handle[1], handle[2]))
        return cls._over(ring, Blocks.attach(handle[3]), views, spin_us, policy)

    def handle(self) -> Handle:
        """Return the queue as four descriptor numbers, for `attach`."""
        return Handle(*self.ring.handle(), self.pool.region.fileno())

    def twin(self) -> Self:
        """Return another member of this queue in this process, to be closed alone."""
        return self._over(self.ring, self.pool, self.views, self.spin_us, self.policy)

    @property
    def maxsize(self) -> int:
        """How many objects it holds at most."""
        return self.ring.limit

    def empty(self) -> bool:
        """Whether there is nothing to get; stale as soon as it is known."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether it holds `maxsize` objects; stale as soon as it is known."""
        return self.qsize() >= self.ring.limit

    def statistics(self) -> QueueStatistics:
        """Return the counts; they tell who takes part and what was lost to deaths."""
        facts = self.ring.statistics()
        used = self.blocks_used * self.pool.block_size
        return QueueStatistics(*facts[:-1], self.pool.size, used, facts.members)

    def close(self) -> None:
        """Leave the queue in this process; again is harmless.

        What was put stays for the others.  Views of messages stay valid.
        """
        self.leave()
        for part in (self.ring, self.pool.region):
            with suppress(BusyError):  # a twin, a view, a thread on its way out
                part.close()

    def join_thread(self) -> None:
        """Return at once: there is no thread."""

    def cancel_join_thread(self) -> None:
        """Return at once: there is no thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.qsize()} of {self.maxsize}"
        return f"<rings.Queue {state}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        """Travel to another process by `multiprocessing`."""
        manner = (self.views, self.spin_us, self.policy)
        return reattach, (type(self), self.ring, self.pool.region, *manner)


def reattach(
    cls: type[Queue],
    ring: mpmc.Ring,
    region: Region,
    views: bool,
    spin_us: int,
    policy: str,
) -> Queue:
    """Make a queue of what came by pickle."""
    return cls._over(ring, Blocks(region), views, spin_us, policy)
