"""Shared words between the processes of one measurement, and those processes.

The parent forks a child for each end, waits until all are ready, says go, looks at
the consumers' counters twice and says stop.  Whoever is blocked then is killed:
no peer needs an end-of-stream message, and the last stragglers are not timed.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

STOP, GO, FAILED, DONE = 0, 1, 2, 3
READY, COUNT = 64, 128
STRIDE = 8
MAX_CHILDREN = 8
ERROR_AT, ERROR_SIZE = 4096, 8192
EXTRA_AT = ERROR_AT + ERROR_SIZE
START_S = 20.0
POLL_S = 0.001
LEAVE_S = 0.03


class Board:
    """A page of u64 words, an error text, and `extra` bytes for the workload."""

    def __init__(self, extra: int = 0) -> None:
        self._map = mmap.mmap(-1, EXTRA_AT + max(8, extra))
        self._bytes = memoryview(self._map)
        self.words = self._bytes[:ERROR_AT].cast("Q")
        self.extra = self._bytes[EXTRA_AT:]
        self.children: list[Any] = []

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, work: Callable[[], None], core: int | None) -> Any:
        """Fork a child that pins itself, works, and exits without clean-up."""
        index = len(self.children)
        child = multiprocessing.get_context("fork").Process(
            target=self._child, args=(work, core, index), daemon=True
        )
        self.children.append(child)
        child.start()
        return child

    def _child(self, work: Callable[[], None], core: int | None, index: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            if core is not None:
                os.sched_setaffinity(0, {core})
            self._index = index
            work()
            self.until_stop()
        except BaseException:
            self._tell(traceback.format_exc(limit=-3))
        os._exit(0)

    def _tell(self, text: str) -> None:
        data = text.encode()[-ERROR_SIZE + 1 :]
        self._bytes[ERROR_AT : ERROR_AT + len(data)] = data
        self.words[FAILED] = 1

    def ready(self) -> None:
        """In a child: say that this end is open, and wait for the word go."""
        self.words[READY + self._index] = 1
        while not self.words[GO]:
            time.sleep(POLL_S)

    def until_stop(self) -> None:
        """In a child: stay, so that what was sent still gets delivered."""
        while not self.words[STOP]:
            time.sleep(POLL_S)

    def check(self) -> None:
        """In the parent: raise what a child complained of, or that it died."""
        if self.words[FAILED]:
            text = bytes(self._bytes[ERROR_AT : ERROR_AT + ERROR_SIZE]).rstrip(b"\0")
            raise RuntimeError(text.decode(errors="replace").strip())
        for child in self.children:
            if child.exitcode not in (None, 0):
                raise RuntimeError(f"a child died with exit code {child.exitcode}")

    def wait(self, what: Callable[[], bool], seconds: float, meaning: str) -> None:
        """In the parent: wait for `what`, look after the children meanwhile."""
        deadline = time.monotonic() + seconds
        while not what():
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{meaning} took more than {seconds} s")
            time.sleep(POLL_S)
        self.check()

    def wait_ready(self) -> None:
        """In the parent: wait until every child started so far is ready."""
        n = len(self.children)
        self.wait(lambda: sum(self.words[READY : READY + n]) == n, START_S, "opening")

    def go(self) -> None:
        """In the parent: let everybody begin."""
        self.words[GO] = 1

    def counts(self, consumers: int) -> int:
        """Return how many messages the consumers have taken."""
        return sum(self.words[COUNT + STRIDE * i] for i in range(consumers))

    def stop(self) -> None:
        """In the parent: end every child, by force if it is blocked."""
        self.words[STOP] = 1
        deadline = time.monotonic() + LEAVE_S
        for child in self.children:
            child.join(max(0.0, deadline - time.monotonic()))
        for child in self.children:
            if child.exitcode is None:
                child.kill()
            child.join()
        self.children.clear()


def pids(children: Sequence[Any]) -> list[int]:
    """Return the process ids of `children`."""
    return [child.pid for child in children]
