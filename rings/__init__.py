"""Shared-memory rings between processes and interpreters, and a door to a daemon."""

from .atomics import Atomics
from .block import Block
from .channel import EventChannel
from .errors import (
    BrokenError,
    BusyError,
    ClosedError,
    LayoutError,
    LocalProtocolError,
    ProtocolError,
    RegionMemoryError,
    RemoteProtocolError,
    RingError,
    ShutDown,
)
from .frontend import Connection, connect
from .grants import Grant
from .handle import Handle
from .memory import Region

__version__ = "0.1.0"

__all__ = [
    "Atomics",
    "Block",
    "BrokenError",
    "BusyError",
    "ClosedError",
    "Connection",
    "EventChannel",
    "Grant",
    "Handle",
    "LayoutError",
    "LocalProtocolError",
    "ProtocolError",
    "Region",
    "RegionMemoryError",
    "RemoteProtocolError",
    "RingError",
    "ShutDown",
    "__version__",
    "connect",
]
