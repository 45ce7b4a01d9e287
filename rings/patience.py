"""How long to ask again while nobody serves at an address.

A daemon that is started again is away for a moment: its socket is missing or refuses,
or the old one is just shutting down, or dies in the middle of a handshake.  Each of
these is an `UnreachableError` and worth another try.  Any other error is an answer.

A daemon that is there and silent, a stopped one say, is not asked twice: one try may
last as long as there is time, and keeps its place in the daemon's queue.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Final, TypeVar

from .errors import UnreachableError

SHORTEST_S: Final = 0.01
LONGEST_S: Final = 1.0
GROWTH: Final = 1.25  # a pause is a quarter of all before it, and so is its lateness
LAST_TRY_S: Final = 0.05
MAX_S: Final = 1e6  # poll() takes milliseconds, in 32 bits

T = TypeVar("T")


class Patience:
    """Seconds for which to ask again; 0 asks once.

    Raises:
        ValueError: They are negative, or more than a million.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds <= MAX_S:
            raise ValueError(f"patience must be 0 to {MAX_S:g} seconds, not {seconds}")
        self.seconds = seconds

    def ask(self, attempt: Callable[..., T], timeout: float) -> T:
        """Return what an attempt returns, the first that finds a daemon.

        Args:
            attempt: Called with ``timeout=``, the seconds that are left of the
                patience, or of `timeout` if that is longer.
            timeout: Seconds that an attempt may take however short the patience is.

        Raises:
            UnreachableError: None did; says how often, and why the last did not.
            Exception: What else an attempt raises, at once.
        """
        began, spent = monotonic(), 0.0
        limit = max(self.seconds, timeout)
        tries, pause = 0, pauses()
        while True:
            tries += 1
            try:  # whoever overslept has still time for one
                return attempt(timeout=max(limit - spent, min(limit, LAST_TRY_S)))
            except UnreachableError as error:
                spare = self.seconds - (monotonic() - began) - LAST_TRY_S
                if spare < SHORTEST_S:
                    raise self._over(error, tries) from None
            sleep(min(next(pause), spare))
            spent = monotonic() - began

    def _over(self, error: UnreachableError, tries: int) -> UnreachableError:
        if not self.seconds:
            return error
        return UnreachableError(
            f"tried {tries} times within {self.seconds:g} s; the last time: {error}"
        )


def pauses() -> Iterator[float]:
    """Yield ever longer pauses in seconds, each shortened by chance by up to a half.

    Workers that lost their daemon at the same moment should not come back together.
    """
    longest = SHORTEST_S
    while True:
        yield longest * (1 - os.urandom(1)[0] / 512)  # `random` would bring hashlib
        longest = min(GROWTH * longest, LONGEST_S)
