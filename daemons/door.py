"""Lets clients in one at a time, also when no descriptor is left for one.

A shortage may pass, so whoever knocks is kept waiting at first.  One that lasts is
told to all who wait, over the descriptor that was kept for this, and they can say so
to their users: from outside, a daemon that does not accept looks like a dead one.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rings.codec import encode
from rings.peer import OUT_OF_FDS

from .endings import error_message
from .listener import Listener
from .log import Log
from .loop import Loop

PAUSE_S: Final = 0.1
LASTING_S: Final = 1.0
SHORTAGE: Final = (*OUT_OF_FDS, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """Accepts connections in a loop, and rests while there is no room for them.

    Args:
        listener: The socket; the caller closes it afterwards.
        loop: Does the steps.
        log: Where a shortage is told.
        enter: What is done with each connection.

    Attributes:
        opens_at: When it accepts again, on the monotonic clock; None if it does now.
    """

    def __init__(
        self,
        listener: Listener,
        loop: Loop,
        log: Log,
        enter: Callable[[socket.socket], None],
    ) -> None:
        self.opens_at: float | None = None
        self._listener = listener
        self._loop = loop
        self._log = log
        self._enter = enter
        self._short_since: float | None = None
        self._spare = _spare()
        loop.watch(listener.fileno(), self._accept)

    def open_when_due(self) -> None:
        """Accept again if the rest is over."""
        if self.opens_at is not None and time.monotonic() >= self.opens_at:
            self.opens_at = None
            self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Let nobody in any more; again is harmless."""
        self._loop.unwatch(self._listener.fileno())
        self._listener.stop()
        self.opens_at = None
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()
        except OSError as error:
            if error.errno in SHORTAGE:
                self._rest(error)
            return
        self._short_since = None
        self._enter(sock)

    def _rest(self, error: OSError) -> None:
        now = time.monotonic()
        if self._short_since is None:
            self._short_since = now
            self._log.warning("accept-paused", reason=error_message(error).message)
        elif now - self._short_since >= LASTING_S and self._turn_away(error):
            return
        self._loop.unwatch(self._listener.fileno())
        self.opens_at = now + PAUSE_S

    def _turn_away(self, error: OSError) -> bool:
        """Tell one who waits that there is no room; False if that cannot be."""
        if self._spare >= 0:
            os.close(self._spare)
        try:
            with self._listener.accept() as sock, suppress(OSError):
                sock.send(encode(error_message(error)))
        except OSError:
            return False
        finally:
            self._spare = _spare()
        return True


def _spare() -> int:
    """Return a descriptor to be given up in need, -1 if there is none."""
    with suppress(OSError):
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return -1
