"""What `rings.aio` and `rings.trio` share: waiting without a thread.

Whoever waits stands in line for a lock; the first in line tries, and if it must
wait it announces that, looks once more and sleeps on a descriptor.  A try either
does its whole work or nothing, and nothing is awaited after it: so a cancelled
`get` has taken nothing and a cancelled `put` has put nothing.

A face is a member of the queue by itself (`rings.Queue.twin`): its wake-ups are its
own, whatever threads of the process wait on the queue meanwhile.

Answers of a device come to one descriptor for all requests.  Of the tasks that wait
for some, one sleeps on it and the others on an event, which is set when it woke.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary

from .errors import ShutDown
from .queue import Empty, Full, Queue

if TYPE_CHECKING:
    from .block import Block
    from .handle import Handle

T = TypeVar("T")
RECHECK_S: Final = 0.05  # a thread that waits on the same device may take our wake-up


class Lock(Protocol):
    """First come, first served."""

    def acquire(self) -> Awaitable[object]:
        """Wait for it."""

    def release(self) -> None:
        """Let the next one have it."""


class Sleeper(Protocol):
    """Sleeps until a descriptor is readable."""

    async def sleep(self, fd: int, seconds: float) -> None:
        """Return when ``fd`` is readable, and after ``seconds`` at the latest."""

    def forget(self) -> None:
        """Wake who sleeps, and never look at its descriptor again."""


class AsyncQueue:
    """A `rings.Queue` to be awaited; made by `rings.aio.Queue` or `rings.trio.Queue`.

    Any number of tasks may wait; they are served in the order in which they came.
    Other processes may put and get by any face.  One event loop uses one face.
    """

    def __init__(
        self, queue: Queue, lock: Callable[[], Lock], sleeper: Callable[[], Sleeper]
    ) -> None:
        self._member = queue.twin()
        self._getting = Side(lock(), sleeper())
        self._putting = Side(lock(), sleeper())

    async def get(self) -> Any:
        """Return the next object, waiting for one.

        Raises:
            ShutDown: The queue was shut down and, unless at once, emptied.
        """
        member = self._member
        return await self._getting.when(
            member.get_nowait, Empty, member.arm_get, member.get_fileno
        )

    async def get_many(self, limit: int) -> list[Any]:
        """Return up to ``limit`` objects, waiting for the first."""
        member = self._member
        return await self._getting.when(
            lambda: member.get_many(limit, False), Empty, member.arm_get,
            member.get_fileno,
        )  # fmt: skip

    async def put(self, obj: Any) -> None:
        """Put an object, waiting for room; as long as it waits it may be pickled anew.

        Raises:
            ShutDown: The queue was shut down.
            ValueError: The object is larger than the queue's pool.
        """
        member = self._member
        await self._putting.when(
            lambda: member.put_nowait(obj), Full, member.arm_put, member.put_fileno
        )

    def get_nowait(self) -> Any:
        """Return the next object, or raise Empty; not before those who wait."""
        if self._getting.waiting:
            raise Empty("others wait already")
        return self._member.get_nowait()

    def put_nowait(self, obj: Any) -> None:
        """Put an object, or raise Full; not before those who wait."""
        if self._putting.waiting:
            raise Full("others wait already")
        self._member.put_nowait(obj)

    def qsize(self) -> int:
        """Return how many objects are in the queue, about."""
        return self._member.qsize()

    def shutdown(self, immediate: bool = False) -> None:
        """Shut the queue down for everybody; see `rings.Queue.shutdown`."""
        self._member.shutdown(immediate)

    def close(self) -> None:
        """End this face; who waits gets ClosedError.  The queue goes on."""
        self._getting.forget()
        self._putting.forget()
        self._member.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.get()
        except ShutDown:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Side:
    """Those who wait to get, or those who wait to put.

    Attributes:
        waiting: How many there are.
    """

    __slots__ = ("_lock", "_sleeper", "waiting")

    def __init__(self, lock: Lock, sleeper: Sleeper) -> None:
        self._lock = lock
        self._sleeper = sleeper
        self.waiting = 0

    async def when(
        self,
        attempt: Callable[[], T],
        refused: type[Exception],
        arm: Callable[[], float],
        fileno: Callable[[], int],
    ) -> T:
        """Return what ``attempt`` returns, once it does not raise ``refused``."""
        self.waiting += 1
        try:
            await self._lock.acquire()
            try:
                while True:
                    try:
                        return attempt()
                    except refused:
                        seconds = arm()
                    if seconds:
                        await self._sleeper.sleep(fileno(), seconds)
            finally:
                self._lock.release()
        finally:
            self.waiting -= 1

    def forget(self) -> None:
        """Wake the first in line; it finds the queue closed, and so do the others."""
        self._sleeper.forget()


# -- devices -------------------------------------------------------------------


class Event(Protocol):
    """Set once, for all who wait."""

    def set(self) -> object:
        """Wake them."""

    def wait(self) -> Awaitable[object]:
        """Wait for it."""


class Bell:
    """The tasks of one event loop that wait for answers of one device."""

    __slots__ = ("_event", "_new_event", "_sleeper", "_sleeping")

    def __init__(self, sleeper: Sleeper, new_event: Callable[[], Event]) -> None:
        self._sleeper = sleeper
        self._sleeping = False
        self._new_event = new_event
        self._event = new_event()

    async def wait(self, block: Block, ready: Callable[[], bool]) -> None:
        """Return once ``ready()``, which answers may bring about."""
        while not ready():
            if self._sleeping:
                await self._event.wait()
            else:
                await self._sleep(block)

    async def _sleep(self, block: Block) -> None:
        self._sleeping = True
        try:
            if not block.arm():
                await self._sleeper.sleep(block.fileno(), RECHECK_S)
            block.session.check()
        finally:
            self._sleeping = False
            self._event.set()
            self._event = self._new_event()


class Requests:
    """Operations on a device, awaited; `rings.aio` and `rings.trio` have one each."""

    def __init__(self, new_bell: Callable[[], Bell]) -> None:
        self._new_bell = new_bell
        self._bells: WeakKeyDictionary[Block, Bell] = WeakKeyDictionary()

    async def result(self, block: Block, handle: Handle) -> int:
        """Await the answer of a submitted request; see `rings.Handle.result`.

        Cancelled, it leaves the request in flight and its buffer pinned until the
        answer has come: await it again, or call ``handle.cancel``.
        """
        await self._bell(block).wait(block, handle.done)
        return handle.result(0)

    def _bell(self, block: Block) -> Bell:
        bell = self._bells.get(block)
        if bell is None:
            bell = self._bells[block] = self._new_bell()
        return bell

    async def _credit(self, block: Block) -> None:
        if not block.has_credit():
            await self._bell(block).wait(block, block.has_credit)

    async def read(self, block: Block, offset: int, length: int) -> bytes:
        """Return bytes of the device, copied out of its pool."""
        await self._credit(block)
        with block.pool.alloc(length) as grant:
            await self.result(block, block.submit_read(offset, grant))
            with grant.view() as view:
                return bytes(view)

    async def write(self, block: Block, offset: int, data: bytes) -> int:
        """Write bytes to the device; how many, always all."""
        await self._credit(block)
        with block.pool.alloc(len(data)) as grant:
            with grant.view() as view:
                view[:] = data
            return await self.result(block, block.submit_write(offset, grant))
