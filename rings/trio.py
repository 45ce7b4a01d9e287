"""trio's face: queues and block devices to be awaited, without threads.

    async with rings.trio.Queue(queue) as inbox:
        async for message in inbox:
            ...

Like `rings.aio` in all else.  trio is imported when the first face is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .awaiting import AsyncQueue, Bell, Requests

if TYPE_CHECKING:
    from .queue import Queue as SharedQueue

__all__ = ["Queue", "read", "result", "write"]


class Queue(AsyncQueue):
    """A `rings.Queue` in trio."""

    def __init__(self, queue: SharedQueue) -> None:
        import trio

        super().__init__(queue, trio.Lock, Reader)


class Reader:
    """One sleeper on a descriptor."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = -1

    async def sleep(self, fd: int, seconds: float) -> None:
        """Return when ``fd`` is readable, and after ``seconds`` at the latest."""
        import trio

        self._fd = fd
        try:
            with trio.move_on_after(seconds):
                await trio.lowlevel.wait_readable(fd)
        except trio.ClosedResourceError:
            return
        finally:
            self._fd = -1

    def forget(self) -> None:
        """Wake the sleeper; its descriptor may then be closed."""
        import trio

        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)


def new_bell() -> Bell:
    """Return a bell of this run of trio."""
    import trio

    return Bell(Reader(), trio.Event)


requests = Requests(new_bell)
result, read, write = requests.result, requests.read, requests.write
