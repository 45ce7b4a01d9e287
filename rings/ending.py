"""What becomes of an interpreter's open ends when it is destroyed.

CPython destroys one in this order: it waits for the threads that `threading` started
there, calls what `atexit` was given, and ends the other threads, those of `_thread`.
If one of these is left, 3.13 and older abort the process; from 3.14 on it stops for
good where it waits, and what it holds stays held by a process that lives.

So the first end that is opened in an interpreter leaves word with `atexit`.  Then each
end is closed, which wakes whoever waits in it with ClosedError, and the GIL is given
away in naps until those threads have gone, PATIENCE_S at most.

Not in the main interpreter, which ends with its process: its daemon threads are not
told.  The C types call `watch` in all others, for every end, whoever made it.
"""

from __future__ import annotations

import atexit
from _thread import _count as count_threads
from contextlib import suppress
from time import monotonic, sleep
from typing import Final
from weakref import ref

from .errors import ClosedError

PATIENCE_S: Final = 1.0
NAP_S: Final = 0.001
LAST_NAP_S: Final = 0.005


class Ending:
    """The ends of one interpreter, and whether it is being destroyed."""

    def __init__(self) -> None:
        # By id, as an end need not be hashable; with the method that closes it.
        self.ends: dict[int, tuple[ref[object], str]] = {}
        self.expected = False
        self.begun = False

    def watch(self, end: object, closer: str) -> None:
        """Remember an end that was opened here, until it dies.

        Args:
            end: What was opened.
            closer: Its method that gives it back and wakes whoever waits in it.

        Raises:
            ClosedError: The interpreter is being destroyed; the end is closed.
        """
        if not self.expected:
            self.expected = True
            atexit.register(self.finish)
        key, ends = id(end), self.ends
        ends[key] = (ref(end, lambda _: ends.pop(key, None)), closer)
        if self.begun:  # after it is kept: it is closed here or by `close_all`
            close(end, closer)
            raise ClosedError("this interpreter is being destroyed: open no ends in it")

    def finish(self) -> None:
        """Close all ends and wait, for PATIENCE_S at most, until no thread is left.

        Whoever opens an end meanwhile gets ClosedError; afterwards too, if a thread is
        left: it would never give that end back.
        """
        self.begun = True
        self.close_all()
        late = monotonic() + PATIENCE_S
        alone = not count_threads()
        while count_threads() and monotonic() < late:
            sleep(NAP_S)
            self.close_all()
        if not alone:
            sleep(LAST_NAP_S)  # a thread counts itself out just before it is gone
        self.begun = count_threads() > 0

    def close_all(self) -> None:
        """Close what is open, and what could not be closed the last time."""
        for alive, closer in list(self.ends.values()):
            end = alive()
            if end is not None:
                close(end, closer)


def close(end: object, closer: str) -> None:
    """Close one end; if it refuses, as a view of it is out, it goes with its object."""
    with suppress(Exception):  # whatever one says, the others are closed too
        getattr(end, closer)()


watch = Ending().watch
