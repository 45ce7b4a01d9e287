"""Rendezvous with a daemon: open a session on a device."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from . import layout
from .address import default_address
from .channel import EventChannel
from .codec import plain_text
from .errors import BrokenError, LayoutError, RemoteProtocolError
from .inquiry import devices, query
from .layout import Geometry
from .link import Link
from .memory import Region, leave
from .messages import (
    Closed,
    Closing,
    Connected,
    DeviceFacts,
    Error,
    Hello,
    Offer,
    Ready,
    Reconfigured,
    Setup,
    Unchanged,
)
from .peer import Peer, close_all
from .protocol import (
    FEATURES,
    check_device,
    choose,
    geometry,
    read_split,
    same_geometry,
)

__all__ = [
    "DeviceFacts",
    "Peer",
    "Session",
    "default_address",
    "devices",
    "open_session",
    "query",
]

CLOSE_TIMEOUT_S: Final = 5.0
READY_FDS: Final = 3


@dataclass(frozen=True, eq=False)
class Session:
    """A frontend's connection to one device: the memory, the channel, the socket.

    Attributes:
        region: The memory both ends have mapped.
        geometry: Where ring, grant table and data area lie in it.
        channel: Wakes the daemon and is woken by it.
        device: What is served.
        features: What both ends know.
        socket: The control socket; it hangs up when the daemon dies.
        generation: Distinguishes this session's memory from any other's.
        peer: The daemon's process.
    """

    region: Region
    geometry: Geometry
    channel: EventChannel
    device: DeviceFacts
    features: frozenset[str]
    socket: socket.socket
    generation: int
    peer: Peer
    link: Link = field(repr=False)
    reading: Lock = field(default_factory=Lock, repr=False)
    owner_pid: int = field(default_factory=os.getpid, repr=False)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        leave(self.close, exc[1])

    @property
    def address(self) -> str:
        """The path of the daemon's socket."""
        return self.link.address

    @property
    def closed(self) -> bool:
        """True once `close` has released the memory."""
        return self.region.closed

    def check(self) -> bool:
        """Read what the daemon has said; call it when the socket is readable.

        Returns:
            True to go on; False when the daemon is closing: what is in flight will
            be answered, new requests will not.

        Raises:
            BrokenError: The daemon is gone or has ended the session.
        """
        if not self.reading.acquire(blocking=False):
            return True  # whoever reads sees it
        try:
            return self._check()
        finally:
            self.reading.release()

    def _check(self) -> bool:
        while (message := self.link.poll()) is not None:
            if isinstance(message, Reconfigured):
                self.decline("it came too late")
            if isinstance(message, Error):
                raise BrokenError(
                    f"the daemon on {self.address} ended the session: {message.message}"
                )
            if isinstance(message, Closed):
                raise BrokenError(f"the daemon on {self.address} has shut down")
        return self.link.side.connected

    def decline(self, why: str) -> None:
        """Tell the daemon that the ring it has made is not wanted any more."""
        self.link.extend(CLOSE_TIMEOUT_S)
        self.link.send(Unchanged("declined", plain_text(why)))

    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> None:
        """Let the daemon finish, then unmap the memory.  Safe to call again.

        In a forked child this only unmaps: the session is still the parent's.

        Raises:
            BusyError: A view of the memory is still in use; nothing was closed.
            TimeoutError: The daemon did not finish in time; the memory is unmapped
                here all the same, and the daemon drops it when it has finished.
        """
        if self.region.closed:
            return
        try:
            self._finish(timeout)
        finally:
            self.region.close()
            self.channel.close()
            self.link.close()

    def _finish(self, timeout: float) -> None:
        if os.getpid() != self.owner_pid:
            return
        self.link.extend(timeout)
        with suppress(BrokenError, RemoteProtocolError):
            if self.link.side.may_send(Closing):
                self.link.send(Closing("the frontend closes"))
            while not self.link.side.closed:
                self.link.receive_any()


def open_session(
    address: str | None,
    device: str,
    *,
    slots: int = 128,
    ring_layout: int = layout.PADDED,
    protocol: int = layout.PROTOCOL_IO,
    data_size: int = 4 << 20,
    grants: int = 1024,
    start: int = 0,
    timeout: float = 5.0,
) -> Session:
    """Connect to a daemon's device and map the memory it makes for us.

    `slots`, `grants` and `data_size` are lowered to the daemon's limits where
    those are smaller; `Session.geometry` tells what was agreed.

    Raises:
        BrokenError: No daemon listens there, or it went away.
        LookupError: It has no such device.
        PermissionError: It, or this process, does not trust the other's user.
        BusyError: A limit of the daemon is reached; the message says which.
        LayoutError: The two ends are of different versions.
        TimeoutError: It did not answer in time.
        ValueError: A number is out of range.
    """
    wanted = Setup(
        features=tuple(sorted(FEATURES)),
        ring_layout=ring_layout,
        protocol=protocol,
        slots=slots,
        grants=grants,
        data_size=data_size,
        start=start,
    )
    geometry(wanted)
    link = Link(address or default_address(), timeout)
    try:
        return _handshake(link, device, wanted)
    except BaseException as error:
        link.complain(error)
        link.close()
        raise


def _handshake(link: Link, device: str, wanted: Setup) -> Session:
    link.send(Hello(device, wanted.features))
    offer = link.receive(Offer)
    check_device(offer.device)
    setup = choose(offer, wanted)
    link.send(setup)
    ready, fds = link.receive_with_fds(Ready, READY_FDS)
    session = _map(link, offer, setup, ready, fds)
    try:
        link.send(Connected())
    except BaseException:
        session.region.close()
        session.channel.close()
        raise
    return session


def _map(
    link: Link, offer: Offer, setup: Setup, ready: Ready, fds: list[int]
) -> Session:
    """Map the region and take over the descriptors, or close all of them."""
    try:
        shape = geometry(setup)
        same_geometry(shape, ready.geometry, "the daemon's Ready")
        region = Region.attach(fds[0], size=shape.size, kind=layout.KIND_SPLIT)
    except BaseException:
        close_all(fds)
        raise
    try:
        _check_header(region, shape, ready)
        channel = EventChannel(fds[1], fds[2], hangup_fd=link.socket.fileno())
    except BaseException:
        region.close()
        close_all(fds)
        raise
    os.close(fds[0])
    return Session(
        region=region,
        geometry=shape,
        channel=channel,
        device=offer.device,
        features=frozenset(setup.features),
        socket=link.socket,
        generation=ready.generation,
        peer=link.peer,
        link=link,
    )


def _check_header(region: Region, shape: Geometry, ready: Ready) -> None:
    same_geometry(shape, read_split(region.buffer, region.size)._asdict(), "the region")
    if region.generation != ready.generation:
        raise LayoutError(
            f"the region is of generation {region.generation}, Ready names "
            f"{ready.generation}; connect again"
        )
