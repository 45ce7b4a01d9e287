"""Ask a daemon for another ring beside the one in use: same device, same memory.

The new ring has a region of its own, with a header, the ring and nothing else; grants
and data stay in the region of the session, so buffers live on.  The daemon serves both
rings until it is told `Switched`; then it answers what is left in the old one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import layout
from .errors import BrokenError, LayoutError
from .layout import Geometry
from .memory import Region
from .messages import Reconfigure, Reconfigured, Switched
from .peer import close_all
from .protocol import read_split, ring_geometry, same_geometry
from .states import State

if TYPE_CHECKING:
    from .rendezvous import Session

RECONFIGURED_FDS: Final = 2


@dataclass(frozen=True, eq=False)
class Ring:
    """A ring that takes another's place.

    Attributes:
        region: Its memory.
        geometry: Where it lies in there.
        notify_fd: Wakes the daemon for this ring; responses come over the session's
            channel.
    """

    region: Region
    geometry: Geometry
    notify_fd: int

    def close(self) -> None:
        """Unmap it."""
        self.region.close()
        os.close(self.notify_fd)


def ask(session: Session, slots: int, start: int, timeout: float) -> Ring:
    """Have a ring made; `switched` or `Session.decline` must follow.

    Raises:
        ValueError: A number is out of range.
        BusyError: A limit of the daemon is reached; the message says which.
        TimeoutError: The daemon did not answer in time.
        BrokenError: It is gone, or is shutting down.
    """
    if "reconfigure" not in session.features:
        raise LayoutError(
            f"the daemon on {session.address} cannot replace a ring: install the same "
            "release of rings on both ends, or open the device anew"
        )
    shape = ring_geometry(session.geometry, slots, start)
    with session.reading:
        try:
            made, fds = _ask(session, Reconfigure(slots, start), timeout)
            return _map(shape, made, fds)
        except BaseException as error:
            if session.link.side.peer == State.RECONFIGURED:
                session.decline(str(error))
            raise


def switched(session: Session) -> None:
    """Say that the old ring has had its last request."""
    with session.reading:
        session.link.send(Switched())


def _ask(
    session: Session, wanted: Reconfigure, timeout: float
) -> tuple[Reconfigured, list[int]]:
    link = session.link
    link.extend(timeout)
    while link.side.mine == State.RECONFIGURING:  # one was asked for and not awaited
        if isinstance(link.receive_any("Reconfigured"), Reconfigured):
            session.decline("it came too late")
            link.extend(timeout)
    if not link.side.may_send(Reconfigure):
        raise BrokenError(f"the daemon on {session.address} is shutting down")
    link.send(wanted)
    return link.receive_with_fds(Reconfigured, RECONFIGURED_FDS)


def _map(shape: Geometry, made: Reconfigured, fds: list[int]) -> Ring:
    try:
        same_geometry(shape, made.geometry, "the daemon's Reconfigured")
        region = Region.attach(fds[0], size=shape.size, kind=layout.KIND_RING)
    except BaseException:
        close_all(fds)
        raise
    try:
        there = read_split(region.buffer, region.size)._asdict()
        same_geometry(shape, there, "the new ring's region")
    except BaseException:
        region.close()
        close_all(fds)
        raise
    os.close(fds[0])
    return Ring(region, shape, fds[1])
