"""One connection of the daemon: its handshake, its memory, its ring.

A client makes one step each time its socket is readable.  What goes wrong is an
exception that ends this connection and none other; `server.py` sees to that.
"""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from rings.codec import (
    MAX_PACKET,
    MAX_STAT_TEXT,
    decode,
    encode,
)
from rings.errors import RingError
from rings.messages import (
    Closing,
    Connected,
    Error,
    Hello,
    Message,
    Offer,
    Ready,
    Reconfigure,
    Reconfigured,
    Setup,
    Stat,
    StatReply,
    Switched,
    Unchanged,
)
from rings.peer import Peer, open_pidfd
from rings.protocol import (
    FEATURES,
    LIMITED,
    agree,
    geometry,
    refusal,
    ring_geometry,
)
from rings.states import Role, Side

from .attached import AttachedRings, Memory, make_memory
from .device import Device, RingSpec
from .devices import facts
from .endings import Gone, Leaves, Refused, error_message
from .limits import Quota
from .spec import EngineLike


@dataclass(frozen=True)
class Service:
    """What every client needs of the server."""

    devices: Mapping[str, Device]
    engine: EngineLike
    quota: Quota
    report: Callable[[], str]
    features: frozenset[str] = FEATURES


class Client:
    """The daemon's end of one connection.

    Attributes:
        number: Distinguishes it in the log.
        peer: The process that connected.
        pidfd: Becomes readable when that process dies; -1 if there is none.
        side: Which states the two ends are in.
        device: What it asked for, from `Hello` on.
        rings: Its rings, once attached.
        outgoing: Rings to be taken out of service, each with the reason.
        leaving: Set when the server has begun to end this connection.
    """

    def __init__(self, number: int, sock: socket.socket, service: Service) -> None:
        self.number = number
        self.socket = sock
        self.side = Side(Role.BACKEND)
        self.since = time.monotonic()
        self.device: Device | None = None
        self.memory: Memory | None = None
        self.outgoing: list[tuple[str, int]] = []
        self.leaving = False
        self._service = service
        self._offer: Offer | None = None
        self.asks = False  # for the report, not for a ring
        self._report = ""
        self._wanted: Reconfigure | None = None
        self._held = ExitStack()
        self._held.callback(sock.close)
        try:
            self.peer = Peer.of(sock)
            self.pidfd = open_pidfd(sock, self.peer)
        except OSError as error:
            with suppress(OSError):
                sock.send(encode(error_message(error)))
            self._held.close()
            raise Gone(str(error)) from None
        if self.pidfd >= 0:
            self._held.callback(os.close, self.pidfd)
        self.rings = AttachedRings(service.engine, service.quota, self.peer.uid)
        self._held.callback(self.rings.close)

    def step(self) -> None:
        """Take one packet and do what it asks for.

        Raises:
            Gone: The client has hung up.
            Refused: It may not have what it wants.
            RingError, OSError: The connection cannot go on.
        """
        try:
            packet = self.socket.recv(MAX_PACKET + 1)
        except BlockingIOError:
            return
        except OSError as error:
            raise Gone(f"reset: {error.strerror}") from None
        if not packet:
            raise Gone("hung up")
        message = decode(packet)
        self.side.receive(type(message))
        self._answer(message)

    def admit(self, allowed: frozenset[int]) -> None:
        """Book the connection if its user may use this daemon.

        Raises:
            Refused: It may not, or too many connections are open.
        """
        if self.peer.uid not in allowed:
            raise Refused(
                "refused",
                f"uid {self.peer.uid} may not use this daemon; its operator can start "
                f"it with --allow-uid {self.peer.uid}",
            )
        self._book({"connections": 1})

    def say(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message without waiting.

        Raises:
            Gone: The client is gone, or has not read what was sent before.
        """
        self.side.send(type(message))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            self.socket.sendmsg([encode(message)], rights if fds else [])
        except BlockingIOError:
            raise Gone("does not read") from None
        except OSError as error:
            raise Gone(f"hung up: {error.strerror}") from None

    def farewell(self, message: Message) -> None:
        """Send a last message if it is still in order and the client takes it."""
        if self.side.may_send(type(message)):
            try:
                self.say(message)
            except Gone:
                self.side.lost()

    def release(self) -> None:
        """Close the memory, the descriptors and the socket."""
        self.side.lost()
        self._held.close()

    def told(self, rings: Mapping[Any, Any]) -> dict[str, object]:
        """Return what the report tells of this connection."""
        shape = self.rings.geometry
        return {
            "session": self.number,
            "pid": self.peer.pid,
            "uid": self.peer.uid,
            "state": self.side.mine.name.lower(),
            "age_s": round(time.monotonic() - self.since, 3),
            "device": self.device.name if self.device else None,
            "geometry": shape._asdict() if shape else None,
            "ring": rings.get(self.rings.current),
            "resizes": self.rings.replaced,
        }

    def _answer(self, message: Message) -> None:
        match message:
            case Hello():
                self._hello(message)
            case Setup():
                self._setup(message)
            case Connected():
                self._connected()
            case Stat():
                self._stat(message)
            case Reconfigure():
                self._wanted = message
                self.reconfigure()
            case Switched():
                self.outgoing.append(("resized", self.rings.switch()))
            case Unchanged():
                self.outgoing.append(("declined", self.rings.decline()))
            case Closing():
                raise Leaves(message.reason)
            case Error():
                raise Gone(f"gave up: {message.message}")

    def _hello(self, hello: Hello) -> None:
        device = self._service.devices.get(hello.device)
        if device is None:
            served = ", ".join(sorted(self._service.devices))
            raise Refused("no-device", f"no device {hello.device}; it serves {served}")
        limits = self._service.quota.limits
        self.device = device
        self._offer = Offer(
            features=agree(self._service.features, hello.features),
            limits={name: getattr(limits, name) for name in LIMITED},
            device=facts(device),
        )
        self.say(self._offer)

    def _setup(self, setup: Setup) -> None:
        assert self._offer is not None
        reason = refusal(self._offer, setup)
        if reason is not None:
            raise Refused("setup", reason)
        self._book_setup({name: getattr(setup, name) for name in LIMITED})
        memory = make_memory(geometry(setup), self.peer.pid, self._held)
        self.memory = memory
        ready = Ready(memory.geometry._asdict(), memory.region.generation)
        self.say(ready, (memory.region.fd, memory.to_back, memory.to_front))

    def _connected(self) -> None:
        assert self.memory is not None
        assert self.device is not None
        self.rings.current = self.rings.attach(
            RingSpec(
                region=self.memory.region,
                geometry=self.memory.geometry,
                device=self.device,
                wait_fd=self.memory.to_back,
                notify_fd=self.memory.to_front,
                peer_pid=self.peer.pid,
            )
        )

    def reconfigure(self) -> None:
        """Make the ring that was asked for, once nothing is left of an elder."""
        wanted = self._wanted
        if wanted is None or len(self.rings.numbers) > 1:
            return
        self._wanted = None
        try:
            region, spec = self.rings.prepare(wanted.slots, wanted.start)
        except (RingError, OSError, ValueError) as error:
            said = error_message(error)
            return self.say(Unchanged(said.code, said.message))
        shape = ring_geometry(spec.geometry, wanted.slots, wanted.start)
        made = Reconfigured(shape._asdict(), region.generation)
        self.say(made, (region.fd, spec.wait_fd))

    def _stat(self, stat: Stat) -> None:
        self.asks = True
        if stat.offset == 0:
            self._report = self._service.report()
        piece = self._report[stat.offset : stat.offset + MAX_STAT_TEXT]
        self.say(StatReply(stat.offset, len(self._report), piece))

    def _book_setup(self, amounts: dict[str, int]) -> None:
        """Book what the session has, and apart from it what its ring has."""
        self._service.quota.take(self.peer.uid, amounts)
        for name, amount in amounts.items():
            holder = self.rings.booking if name == "slots" else self._held
            holder.callback(self._service.quota.give, self.peer.uid, {name: amount})

    def _book(self, amounts: dict[str, int]) -> None:
        self._service.quota.take(self.peer.uid, amounts)
        self._held.callback(self._service.quota.give, self.peer.uid, amounts)
