"""One thread's event loop: descriptors, posts from other threads, nothing else."""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

Step: TypeAlias = Callable[[], None]


class Loop:
    """Does one step for each readable descriptor in turn, so that none starves.

    Attributes:
        wake_fd: A byte written there wakes the loop, for `signal.set_wakeup_fd`.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._posts: deque[Step] = deque()
        self._wake_read, self.wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wake_read, self._woken)

    def watch(self, fd: int, step: Step) -> None:
        """Do `step` whenever `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, step)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; harmless if it is not watched."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def post(self, step: Step) -> None:
        """Have the loop do `step` once.  For any thread, and for signal handlers."""
        self._posts.append(step)
        with suppress(BlockingIOError):
            os.write(self.wake_fd, b"\0")

    def turn(self, patience: float | None) -> None:
        """Wait for at most `patience` seconds, then do what is due, each thing once."""
        for key, _ in self._selector.select(patience):
            if self._selector.get_map().get(key.fd) is key:
                key.data()

    def close(self) -> None:
        """Close the loop's own descriptors; what it watched stays open."""
        self._selector.close()
        os.close(self._wake_read)
        os.close(self.wake_fd)

    def _woken(self) -> None:
        """Do what was posted up to now; what these steps post has its own wake-up."""
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        for _ in range(len(self._posts)):
            self._posts.popleft()()
