"""Shared-memory rings between processes and interpreters, and a door to a daemon.

Nothing but the errors is imported before it is used, so an interpreter that wants one
ring gets no sockets, threads or third parties with it.
"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from .advice import Advice, advise
    from .atomics import Atomics
    from .block import Block
    from .channel import EventChannel
    from .frontend import Connection, connect
    from .grants import Grant
    from .handle import Handle
    from .memory import Region
    from .queue import Queue

__version__ = "0.1.0"

__all__ = [
    "Advice",
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
    "Queue",
    "Region",
    "RegionMemoryError",
    "RemoteProtocolError",
    "RingError",
    "ShutDown",
    "__version__",
    "advise",
    "connect",
]

HOMES = {
    "Advice": "advice",
    "Atomics": "atomics",
    "Block": "block",
    "Connection": "frontend",
    "EventChannel": "channel",
    "Grant": "grants",
    "Handle": "handle",
    "Queue": "queue",
    "Region": "memory",
    "advise": "advice",
    "connect": "frontend",
}


MODULES = (
    "aio",
    "broadcast",
    "interpreters",
    "mpmc",
    "named",
    "records",
    "sandbox",
    "spsc",
    "trio",
    "xen_style",
)


def __getattr__(name: str) -> object:
    """Import what is asked for by name, a public class or a module of this package."""
    from importlib import import_module

    if name in HOMES:
        value = getattr(import_module(f".{HOMES[name]}", __name__), name)
    elif name in MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
