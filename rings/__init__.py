"""Shared-memory rings between processes and interpreters, and a door to a daemon."""

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

__version__ = "0.1.0"

__all__ = [
    "BrokenError",
    "BusyError",
    "ClosedError",
    "LayoutError",
    "LocalProtocolError",
    "ProtocolError",
    "RegionMemoryError",
    "RemoteProtocolError",
    "RingError",
    "ShutDown",
    "__version__",
]
