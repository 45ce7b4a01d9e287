"""A frontend's end of the control socket: addresses, time limits, descriptors.

Plain `recv` is used everywhere: it installs no descriptor, whatever the peer
attaches.  `receive_with_fds` alone uses `recvmsg`, with room for exactly as many as
the message is due to bring.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from typing import NoReturn, TypeVar

from .address import trusted_uids
from .codec import (
    MAX_PACKET,
    decode,
    encode,
    plain_text,
)
from .errors import (
    BrokenError,
    BusyError,
    LayoutError,
    RegionMemoryError,
    RemoteProtocolError,
    RingError,
    UnreachableError,
)
from .messages import Closing, Error, Message, Unchanged
from .peer import Peer, close_all
from .states import Role, Side

M = TypeVar("M", bound=Message)

CONNECT_RETRY_S = 0.01
ERRORS: dict[str, type[Exception]] = {
    "no-device": LookupError,
    "refused": PermissionError,
    "limit": BusyError,
    "busy": BusyError,
    "memory": RegionMemoryError,
    "version": LayoutError,
    "late": UnreachableError,
}


class Link:
    """One connection to a daemon, with one deadline for all that is said on it.

    Attributes:
        address: The path of the daemon's socket.
        socket: The connected socket.
        peer: The daemon's process.
        side: Which states the two ends are in.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout
        self.peer = Peer(0, 0, 0, 0)
        self.side = Side(Role.FRONTEND)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._connect()
            self.peer = Peer.of(self.socket)
            self._check_uid(trusted_uids())
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        self.side.lost()
        self.socket.close()

    def extend(self, timeout: float) -> None:
        """Start a new deadline."""
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout

    def send(self, message: Message) -> None:
        """Send a message within the deadline.

        Raises:
            TimeoutError: The daemon does not read.
            BrokenError: The daemon is gone.
        """
        self.side.send(type(message))
        self._await(select.POLLOUT, "to take a message")
        try:
            self.socket.send(encode(message))
        except BlockingIOError:
            raise self._late("to take a message") from None
        except OSError:
            self._last_words()

    def receive(self, kind: type[M]) -> M:
        """Return the next message, which must be of this kind.

        Raises:
            TimeoutError: It did not come in time.
            BrokenError: The daemon is gone; and what `Error` tells otherwise.
        """
        return self._expect(kind, self._receive(kind.__name__, 0)[0])

    def receive_with_fds(self, kind: type[M], count: int) -> tuple[M, list[int]]:
        """Return a message and its descriptors, which the caller must close."""
        packet, fds = self._receive(kind.__name__, count)
        try:
            message = self._expect(kind, packet)
            if len(fds) != count:
                raise RemoteProtocolError(
                    f"{kind.__name__} did not come with just {count} file descriptors, "
                    "or there was no room for them: see RLIMIT_NOFILE"
                )
        except BaseException:
            close_all(fds)
            raise
        return message, fds

    def receive_any(self, awaited: str = "Closed") -> Message:
        """Return the next message, whatever it is, within the deadline."""
        return self._take(self._receive(awaited, 0)[0])

    def complain(self, error: BaseException) -> None:
        """Tell the daemon why this end gives up, if it is the daemon's doing."""
        if isinstance(error, RingError) and self.side.may_send(Error):
            with suppress(OSError, RingError):
                self.socket.send(encode(Error("protocol", plain_text(str(error)))))

    def poll(self) -> Message | None:
        """Return the next message if one is there, without waiting.

        Raises:
            BrokenError: The daemon is gone.
        """
        try:
            packet = self.socket.recv(MAX_PACKET + 1)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if not packet:
            self._gone(BrokenError)  # of a session: nothing to ask again for
        return self._take(packet)

    def _connect(self) -> None:
        while True:
            try:
                self.socket.settimeout(self._left("to accept a connection"))
                self.socket.connect(self.address)
                return self.socket.setblocking(False)
            except BlockingIOError:  # its backlog is full
                time.sleep(CONNECT_RETRY_S)
            except (FileNotFoundError, ConnectionRefusedError):
                raise UnreachableError(
                    f"no daemon listens on {self.address}; start one with "
                    f"`python -m daemons block --image disk.img "
                    f"--socket {self.address}`"
                ) from None
            except PermissionError:
                raise PermissionError(
                    f"{self.address} belongs to another user; its daemon must be "
                    f"started with --allow-uid {os.geteuid()}"
                ) from None

    def _check_uid(self, trusted: Collection[int]) -> None:
        if self.peer.uid not in trusted:
            raise PermissionError(
                f"the daemon on {self.address} ({self.peer}) is another user's; set "
                f"RINGS_TRUST_UIDS={self.peer.uid} if you trust it"
            )

    def _left(self, what: str) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late(what)
        return left

    def _await(self, event: int, what: str) -> None:
        """Wait for the socket by poll(): under a filter its mode cannot be changed."""
        poller = select.poll()
        poller.register(self.socket, event)
        while not poller.poll(self._left(what) * 1000):
            pass

    def _late(self, what: str) -> TimeoutError:
        pid = self.peer.pid or "unknown"
        return TimeoutError(
            f"waited {self.timeout:g} s for the daemon on {self.address} "
            f"(pid {pid}) {what}"
        )

    def _receive(self, what: str, fds: int) -> tuple[bytes, list[int]]:
        """Receive one packet, and look twice after a reset.

        A daemon that closes with our packets unread resets the connection, which
        hides what it had said before; that is still there for a second look.
        """
        for final in (False, True):
            self._await(select.POLLIN, f"to send {what}")
            try:
                packet, received = self._receive_once(fds)
            except BlockingIOError:
                raise self._late(f"to send {what}") from None
            except ConnectionResetError:
                if final:
                    break
                continue
            if packet:
                return packet, received
            close_all(received)
            break
        self._gone()

    def _receive_once(self, fds: int) -> tuple[bytes, list[int]]:
        if not fds:
            return self.socket.recv(MAX_PACKET + 1), []
        received: list[int] = []
        room = socket.CMSG_LEN(fds * array.array("i").itemsize)
        packet, ancillary, flags, _ = self.socket.recvmsg(
            MAX_PACKET + 1, room, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received += _descriptors(data)
        if (
            flags & socket.MSG_CTRUNC
        ):  # more than there is room for, here or in the limit
            close_all(received)
            received.clear()
        return packet, received

    def _expect(self, kind: type[M], packet: bytes) -> M:
        message = self._take(packet)
        if isinstance(message, Error):
            self._raise(message)
        if isinstance(message, Unchanged):
            raise self._refusal(message)
        if isinstance(message, Closing):
            raise UnreachableError(f"the daemon on {self.address} is shutting down")
        if not isinstance(message, kind):
            raise RemoteProtocolError(
                f"{type(message).__name__} came where {kind.__name__} was due"
            )
        return message

    def _take(self, packet: bytes) -> Message:
        message = decode(packet)
        self.side.receive(type(message))
        return message

    def _last_words(self) -> NoReturn:
        """Say why the daemon dropped us, if it told before it did."""
        for _ in range(2):
            try:
                packet = self.socket.recv(MAX_PACKET + 1)
            except OSError:
                continue
            message = decode(packet) if packet else None
            if isinstance(message, Error):
                self._raise(message)
        self._gone()

    def _raise(self, error: Error) -> NoReturn:
        self.side.lost()
        raise self._refusal(error)

    def _refusal(self, said: Error | Unchanged) -> Exception:
        kind = ERRORS.get(said.code, BrokenError)
        return kind(f"the daemon on {self.address} answered: {said.message}")

    def _gone(self, kind: type[BrokenError] = UnreachableError) -> NoReturn:
        self.side.lost()
        raise kind(
            f"the daemon on {self.address} ({self.peer}) closed the connection; "
            "look into its log, or start it again"
        )


def _descriptors(data: bytes) -> list[int]:
    fds = array.array("i")
    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()
