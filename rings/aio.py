"""asyncio's face: queues and block devices to be awaited, without threads.

    async with aio.Queue(queue) as inbox:
        async for offset, length in inbox:
            data = await aio.read(disk, offset, length)

Cancelling is safe.  A cancelled ``get`` has taken nothing, a cancelled ``put`` has
put nothing; a cancelled request to a device goes on in the daemon, and its buffer
stays pinned until the answer has come.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .awaiting import AsyncQueue, Bell, Requests

if TYPE_CHECKING:
    from .queue import Queue as SharedQueue

__all__ = ["Queue", "read", "result", "write"]


class Queue(AsyncQueue):
    """A `rings.Queue` in an asyncio event loop."""

    def __init__(self, queue: SharedQueue) -> None:
        super().__init__(queue, asyncio.Lock, Reader)


class Reader:
    """One sleeper on a descriptor, known to the loop only while it sleeps."""

    __slots__ = ("_fd", "_loop", "_woken")

    def __init__(self) -> None:
        self._fd = -1

    async def sleep(self, fd: int, seconds: float) -> None:
        """Return when ``fd`` is readable, and after ``seconds`` at the latest."""
        self._loop = asyncio.get_running_loop()
        self._woken = self._loop.create_future()
        self._fd = fd
        self._loop.add_reader(fd, self._wake)
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self.forget()

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    def forget(self) -> None:
        """Wake the sleeper and unregister its descriptor, which may then be closed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._wake()


def new_bell() -> Bell:
    """Return a bell of this event loop."""
    return Bell(Reader(), asyncio.Event)


requests = Requests(new_bell)
result, read, write = requests.result, requests.read, requests.write
