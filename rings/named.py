"""Regions with a name, for peers that have no way to pass a descriptor.

Prefer a nameless `Region`: a name outlives its users, anybody of the same user id
can open it, and **there are no seals on it**.  Whoever can open a named region can
truncate it under everybody who has it mapped, and their next touch is SIGBUS; can
write it through any handle, so ``writable=False`` is a courtesy; can punch holes
in it.  Names are for processes that trust one another.

A name belongs to its creator, process and start time, until it is unlinked.  When
that process is dead, `create` takes the name over; those who still have the old
memory mapped keep it, nameless.  Pids mean something within one pid namespace
only: do not share ``/dev/shm`` between containers and rely on this.

Every step that makes or removes a name holds a lock (flock) on the memory it
names, and looks whether that memory still has the name.  The lock dies with its
process, so memory without a magic and without a lock is a creation that failed.

systemd's ``RemoveIPC=yes`` removes names when their user logs out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Final

from . import layout
from .errors import BusyError, LayoutError
from .header import Header, new_header, process_start, read_header, write_header
from .memory import Region
from .reserve import reserve

MOUNT: Final = "/dev/shm"
NAME: Final = re.compile(r"/?[A-Za-z0-9_.-]{1,200}")
MODE: Final = 0o600
EMPTY: Final = Header(0, 0, 0, 0, 0, 0, 0, 0)


def create(
    name: str, size: int, *, kind: int = layout.KIND_PLAIN, generation: int = 0
) -> Region:
    """Make a region called ``name``, mode 0600, in place of a dead creator's.

    Args:
        name: Letters, digits, ``_.-``; a slash in front is allowed.
        size: Bytes, the header's page included.
        kind: What will lie in it, one of ``layout.KIND_*``.
        generation: A number for the creator's use.

    Raises:
        BusyError: Its creator is alive, or it is being created; names the pid.
        RegionMemoryError: There is not that much memory.
    """
    path = checked(name)
    header = new_header(size, kind=kind, generation=generation)
    while True:
        try:
            fd = opened(path, posix_ipc().O_CREX)
        except FileExistsError:
            reclaim(path)
            continue
        with locked(fd):
            if has_name(fd):
                return filled(path, fd, header)


def attach(
    name: str,
    *,
    size: int | None = None,
    kind: int | None = None,
    writable: bool = True,
) -> Region:
    """Map the region called ``name``.

    Raises:
        BusyError: It is being created: try again.
        FileNotFoundError: There is none of that name.
        LayoutError: It is no region, not the expected one, or somebody else's.
    """
    path = checked(name)
    fd = opened(path, 0)
    try:
        check_owner(path, fd)
        if header_of(fd).magic == 0:
            raise unfinished(path, fd)
        return Region.adopt(fd, size=size, kind=kind, writable=writable, sealed=False)
    finally:
        os.close(fd)


def unlink(name: str) -> None:
    """Remove the name; the memory goes when the last process unmaps it.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    path = checked(name)
    with locked(opened(path, 0)) as fd:
        if has_name(fd):
            posix_ipc().unlink_shared_memory(path)


def reclaim(path: str) -> None:
    """Remove the name of a dead creator's region, and of nothing else."""
    try:
        fd = opened(path, 0)
    except FileNotFoundError:
        return
    with locked(fd, busy=path):
        check_owner(path, fd)
        check_dead(path, header_of(fd))
        if has_name(fd):
            posix_ipc().unlink_shared_memory(path)


def filled(path: str, fd: int, header: Header) -> Region:
    """Give new, empty memory its pages and its header; no name if that fails."""
    own = os.dup(fd)
    try:
        reserve(own, header.size, path=MOUNT)
        region = Region(own, header, writable=True, sealed=False)
    except BaseException:
        os.close(own)
        posix_ipc().unlink_shared_memory(path)
        raise
    write_header(region.buffer, header)
    return region


def header_of(fd: int) -> Header:
    """Return the header, all zero if the memory is too small for one."""
    try:
        return read_header(fd)
    except LayoutError:
        return EMPTY


def check_dead(path: str, header: Header) -> None:
    """Raise BusyError if the creator lives, LayoutError if it was none of ours."""
    if header.magic not in (0, layout.MAGIC):
        raise LayoutError(
            f"shared memory {path} exists and is no region: choose another name"
        )
    if header.magic and is_alive(header):
        raise BusyError(
            f"region {path} belongs to process {header.creator_pid}, which is alive:"
            " attach to it, or choose another name"
        )


def is_alive(header: Header) -> bool:
    """Return whether a region's creator still runs; by its pid alone without /proc."""
    if header.creator_start and process_start(os.getpid()):
        return process_start(header.creator_pid) == header.creator_start
    try:
        os.kill(header.creator_pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def unfinished(path: str, fd: int) -> Exception:
    """Say why there is no magic: a creation under way, or one that died."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return BusyError(f"region {path} is being created: try again in a moment")
    return LayoutError(
        f"region {path} was never finished, its creator died: create it again"
    )


def check_owner(path: str, fd: int) -> None:
    """Raise LayoutError if another user made this: it could be a trap."""
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        raise LayoutError(
            f"region {path} belongs to user {owner}, not to {os.geteuid()}: choose"
            " another name, or run both sides as one user"
        )


@contextmanager
def locked(fd: int, *, busy: str = "") -> Iterator[int]:
    """Hold the lock on memory, and close the descriptor afterwards.

    Args:
        fd: The memory, through a descriptor of our own.
        busy: Its name, to raise BusyError at once instead of waiting.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        yield fd
    except BlockingIOError:
        raise BusyError(
            f"region {busy} is being created or removed by another process: try again"
        ) from None
    finally:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def has_name(fd: int) -> bool:
    """Return whether the memory still has its name."""
    return os.fstat(fd).st_nlink > 0


def opened(path: str, flags: int) -> int:
    """Open shared memory by name; return a descriptor of our own."""
    module = posix_ipc()
    try:
        fd: int = module.SharedMemory(path, flags, MODE).fd
    except module.ExistentialError:
        if flags & module.O_CREX:
            raise FileExistsError(errno.EEXIST, "there is one already", path) from None
        hint = "there is no region of that name: create it first"
        raise FileNotFoundError(errno.ENOENT, hint, path) from None
    except module.PermissionsError:
        hint = "this name is another user's: choose another one"
        raise PermissionError(errno.EACCES, hint, path) from None
    os.set_inheritable(fd, False)
    return fd


def checked(name: str) -> str:
    """Return the name as the kernel wants it.

    Raises:
        ValueError: It cannot be one.
    """
    if not NAME.fullmatch(name) or name.strip("/.") == "":
        raise ValueError(
            f"{name!r} is no name for a region: use 1 to 200 letters, digits, _ . -"
        )
    return "/" + name.removeprefix("/")


def posix_ipc() -> ModuleType:
    """Return the module, which only this file uses."""
    try:
        return import_module("posix_ipc")
    except ImportError as error:
        raise ImportError(
            "named regions need posix_ipc: pip install 'rings[named]'"
        ) from error
