"""The daemon's socket: made in private, guarded by a lock, reclaimed when stale.

The lock lies beside the socket.  Whoever holds it is the one daemon of that
address; the kernel lets go of it when its holder dies, however it dies.  The file
is removed by its holder, so a newcomer that locked a file which is no longer at
that path has locked nothing and tries again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress
from typing import Final

from rings.address import check_private
from rings.errors import BusyError

BACKLOG: Final = 128
MAX_PATH: Final = 107


class Listener:
    """A listening SOCK_SEQPACKET socket at a path that is ours alone.

    Args:
        path: Where to listen.
        shared: Whether users other than this one and root are to connect.

    Attributes:
        path: Where it listens.
        reclaimed: Whether a dead daemon's socket was removed first.
    """

    def __init__(self, path: str, *, shared: bool = False) -> None:
        if len(os.fsencode(path)) > MAX_PATH:
            raise ValueError(
                f"socket path of {len(os.fsencode(path))} bytes, {MAX_PATH} are "
                f"possible: {path}; choose a shorter --socket"
            )
        self.path = path
        self.reclaimed = False
        _private_directory(os.path.dirname(path) or ".")
        self._lock_path = f"{path}.lock"
        self._lock = _take_lock(self._lock_path, path)
        try:
            self.reclaimed = _clear(path)
            self.socket = _bind(path, 0o666 if shared else 0o600)
            self._identity = _identity(path)
        except BaseException:
            self._unlock()
            raise

    def fileno(self) -> int:
        """Return the listening descriptor."""
        return self.socket.fileno()

    def accept(self) -> socket.socket:
        """Accept one connection; BlockingIOError if none is waiting."""
        sock, _ = self.socket.accept()
        sock.setblocking(False)
        return sock

    def stop(self) -> None:
        """Take no more connections; the address stays ours.  Again is harmless."""
        if self.socket.fileno() < 0:
            return
        if _identity(self.path) == self._identity:
            os.unlink(self.path)
        self.socket.close()

    def close(self) -> None:
        """Stop, and give the address up."""
        self.stop()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.unlink(self._lock_path)
            os.close(self._lock)
            self._lock = -1


def _identity(path: str) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        return status.st_dev, status.st_ino
    return None


def _private_directory(directory: str) -> None:
    """Make the directory with mode 0700, or check that nobody else writes in it."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno,
            f"no directory for the socket: mkdir -p {os.path.dirname(directory)}, or "
            "choose another --socket",
        ) from None
    if directory == f"/tmp/rings-{os.geteuid()}":
        check_private(directory)
    status = os.stat(directory)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise PermissionError(
            f"others may write in {directory}, so they could take the socket's place; "
            f"put it into a directory of your own: mkdir -m 700 {directory}/rings"
        )


def _take_lock(lock_path: str, path: str) -> int:
    while True:
        fd = _open_lock(lock_path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise BusyError(
                f"a daemon with pid {holder or 'unknown'} already serves {path}; stop "
                f"it (kill {holder or 'PID'}), or choose another --socket"
            ) from None
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) == _identity(lock_path):
            os.truncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
            return fd
        os.close(fd)


def _open_lock(lock_path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(lock_path, flags, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise PermissionError(
            f"{lock_path} is a symbolic link; remove it, somebody may have laid it "
            "there on purpose"
        ) from None


def _clear(path: str) -> bool:
    """Remove a dead daemon's socket; the lock is held, so nobody else does."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a socket"
        raise PermissionError(
            f"{path} is {kind}; remove it, or choose another --socket"
        )
    if _answers(path):
        raise BusyError(
            f"somebody who holds no lock listens on {path}; stop that program, or "
            "choose another --socket"
        )
    os.unlink(path)
    return True


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def _bind(path: str, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    mask = os.umask(0o777 & ~mode)  # and no chmod: who asks too early is not let in
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    try:
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        os.unlink(path)
        raise
    return sock
