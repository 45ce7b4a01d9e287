"""Eventfds by the handful: all that were asked for, or none is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

FLAGS: Final = os.EFD_NONBLOCK | os.EFD_CLOEXEC


def create(count: int) -> tuple[int, ...]:
    """Return new eventfds, non-blocking, which the caller closes."""
    return _all(lambda _: os.eventfd(0, FLAGS), range(count))


def duplicate(fds: Iterable[int]) -> tuple[int, ...]:
    """Return duplicates, which the caller closes."""
    return _all(os.dup, fds)


def _all(make: Callable[[int], int], numbers: Iterable[int]) -> tuple[int, ...]:
    made: list[int] = []
    try:
        for number in numbers:
            made.append(make(number))
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    return tuple(made)
