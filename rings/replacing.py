"""The rings that a session has had: one in use, and the one before it.

A replacement in steps; the first that fails leaves everything as it was:

1. the ring before this one, if any, has brought its last answer;
2. the daemon makes another and serves it (reconfigure.py);
3. the front puts requests there from now on (csrc/front_replace.h): the switch;
4. the daemon is told, answers what the old ring still holds and drops it.
"""

from __future__ import annotations

from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from . import reconfigure
from .errors import BrokenError
from .reconfigure import Ring

if TYPE_CHECKING:
    from ._core import Front
    from .doubt import Doubt
    from .rendezvous import Session


class Replacing:
    """Replaces the ring of one front, any number of times."""

    def __init__(self, session: Session, front: Front, doubt: Doubt) -> None:
        self._session = session
        self._front = front
        self._doubt = doubt
        self._lock = Lock()
        self._ring: Ring | None = None  # None: the session's own
        self._elder: Ring | None = None

    def replace(self, slots: int, timeout: float) -> None:
        """Go on with a ring of so many slots."""
        late = monotonic() + timeout
        with self._lock:
            try:
                self._retire(timeout)
                left = max(0.001, late - monotonic())
                self._switch(slots, left)
            except BrokenError as error:
                raise self._doubt.gone(error) from None

    def _retire(self, timeout: float) -> None:
        """Wait until the ring before this one is certainly done with."""
        if not self._front.wait_elder(timeout):
            raise self._doubt.elder(timeout)
        elder, self._elder = self._elder, None
        if elder is not None:
            elder.close()

    def _switch(self, slots: int, timeout: float) -> None:
        session = self._session
        start = session.geometry.start
        ring = reconfigure.ask(session, slots, start, timeout)
        try:
            self._front.replace(
                ring.region.view(ring.geometry.ring_offset, ring.geometry.ring_size),
                *(ring.geometry.ring_layout, slots, start, ring.notify_fd),
            )
        except BaseException as error:
            ring.close()
            with session.reading:
                session.decline(str(error))
            raise
        self._elder, self._ring = self._ring, ring
        reconfigure.switched(session)

    def close(self) -> None:
        """Unmap the rings; the front has let go of them."""
        with self._lock:
            rings = (self._elder, self._ring)
            self._elder = self._ring = None
        for ring in rings:
            if ring is not None:
                ring.close()
