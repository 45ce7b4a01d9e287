"""Every exception of the library, and whose fault each one is.

A device's own failure is a plain `OSError` with the real errno, and a wait that
ran out is a `TimeoutError`; the classes here are about rings and connections.
"""

import sys
from typing import TYPE_CHECKING

if not TYPE_CHECKING and sys.version_info >= (3, 13):
    from queue import ShutDown as QueueShutDown
else:  # where the standard library has none
    QueueShutDown = Exception


class RingError(Exception):
    """Base of every error that this library defines."""


class ClosedError(RingError, ValueError):
    """You closed this object; it cannot be used any more."""


class BrokenError(RingError, ConnectionError):
    """The peer is gone or has broken the protocol; what was in flight is in doubt.

    Attributes:
        in_flight: What had been asked and not answered, a tuple of descriptions.
    """

    def __init__(self, message: str, in_flight: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.in_flight = in_flight


class UnreachableError(BrokenError):
    """Nobody serves at an address just now; who asks again may find the next daemon."""


class BusyError(RingError):
    """The thing asked for is in use: a ring's end, a grant in flight, a socket."""


class LayoutError(RingError):
    """The memory is not ours, is of another version, or contradicts itself."""


class ProtocolError(RingError):
    """A rule of the protocol was broken; see the two subclasses for by whom."""


class LocalProtocolError(ProtocolError):
    """This process broke a rule: a call out of order or with impossible values."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule; its ring is dead, nothing else is harmed."""


class RegionMemoryError(RingError, MemoryError):
    """Shared memory could not be reserved; the message names what to raise."""


class ShutDown(RingError, QueueShutDown):
    """The queue or ring was shut down: no more messages will come.

    Where the standard library has `queue.ShutDown` this is one.
    """
