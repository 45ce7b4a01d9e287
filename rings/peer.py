"""Who is at the other end of a Unix socket, by the kernel's account."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from contextlib import suppress
from typing import Final, NamedTuple

OUT_OF_FDS: Final = (errno.EMFILE, errno.ENFILE)
SO_PEERPIDFD: Final = 77  # Linux 6.5; not in the socket module of 3.11
_CREDENTIALS: Final = struct.Struct("=iII")
_START_TIME_FIELD: Final = 19  # counted after the command's closing parenthesis


class Peer(NamedTuple):
    """The process that made or accepted a connection.

    Attributes:
        pid: Its process id, 0 when it lies outside our pid namespace.
        uid: Its effective user id when it connected or listened.
        gid: Its effective group id at that time.
        start_time: When it started, in clock ticks since boot; 0 when not known.
    """

    pid: int
    uid: int
    gid: int
    start_time: int

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """Return who is connected to `sock` (SO_PEERCRED)."""
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(data)
        return cls(pid, uid, gid, start_time(pid))

    def __str__(self) -> str:
        return f"pid {self.pid} of uid {self.uid}"


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            rest = file.read().rpartition(b")")[2]
        return int(rest.split()[_START_TIME_FIELD])
    except (OSError, IndexError, ValueError):
        return 0


def open_pidfd(sock: socket.socket, peer: Peer) -> int:
    """Return a pidfd of the process that connected `sock`, -1 if there is none.

    SO_PEERPIDFD cannot name a stranger.  Where the kernel lacks it, the pid may
    have been given to a new process since the connection was made; one that
    started at another time than `peer` is recognised, and the socket's own
    hang-up remains in any case.

    Raises:
        ProcessLookupError: The process is already dead.
        OSError: There is no descriptor left.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno in OUT_OF_FDS:
            raise
        if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            raise ProcessLookupError(f"{peer} is already dead") from None
    return _pidfd_by_number(peer)


def _pidfd_by_number(peer: Peer) -> int:
    if peer.pid == 0:
        return -1
    pidfd = os.pidfd_open(peer.pid)
    if start_time(peer.pid) == peer.start_time and not is_dead(pidfd):
        return pidfd
    os.close(pidfd)
    raise ProcessLookupError(f"{peer} is already dead")


def is_dead(pidfd: int) -> bool:
    """Return whether the process behind a pidfd has exited."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def close_all(fds: list[int]) -> None:
    """Close every descriptor of a list and empty it."""
    while fds:
        with suppress(OSError):
            os.close(fds.pop())
