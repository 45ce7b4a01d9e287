"""What a ring can be attached to: the facts of one device, and a ring's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rings import layout
from rings.memory import Region

if TYPE_CHECKING:
    from .backend import Backend

NULL_OPS = ("read", "write", "flush", "discard", "write-zeroes", "echo")
OPS = {
    "block": ("read", "write", "flush", "discard", "write-zeroes", "cancel"),
    "null": NULL_OPS,
    "delay": (*NULL_OPS, "cancel"),
    "echo": ("echo",),
    "python": NULL_OPS,
}


@dataclass(frozen=True)
class Station:
    """The servers of a ``delay`` device.

    Attributes:
        servers: How many requests are in service at once.
        service_ns: How long each is held, or the mean of that.
        distribution: ``fixed`` or ``exponential``.
        seed: Of the exponential times: the same seed, the same times.
    """

    servers: int
    service_ns: int
    distribution: str = "fixed"
    seed: int = 0


@dataclass(frozen=True)
class Device:
    """One device that the daemon serves.

    Attributes:
        name: What a frontend asks for.
        kind: ``block``, ``null``, ``echo``, ``delay`` or ``python``.
        fd: The image, open; -1 for the other kinds.
        size: Bytes.
        block_size: Bytes; every offset and length is a multiple of it.
        read_only: Writes, discards and zeroes are answered EROFS.
        direct: The image is open with O_DIRECT.
        backend: Who serves a ``python`` device.
        station: Who serves a ``delay`` device.
    """

    name: str
    kind: str
    fd: int = -1
    size: int = 0
    block_size: int = 512
    read_only: bool = False
    direct: bool = False
    backend: Backend | None = None
    station: Station | None = None

    @property
    def ops(self) -> tuple[str, ...]:
        """The operations it answers, by name."""
        return OPS[self.kind]


@dataclass(frozen=True)
class RingSpec:
    """One attached ring: its memory, its event channel and what it is attached to.

    Attributes:
        region: The mapped region; stays open until the ring is detached.
        geometry: Where ring, grants and data lie: the daemon's own numbers.
        device: What serves the requests.
        wait_fd: eventfd that the frontend writes.
        notify_fd: eventfd that the backend writes.
        ring_region: Where the ring lies, if not in `region`; stays open as well.
        peer_pid: The frontend's process, for statistics and the log.
    """

    region: Region
    geometry: layout.Geometry
    device: Device
    wait_fd: int
    notify_fd: int
    peer_pid: int = 0
    ring_region: Region | None = None
