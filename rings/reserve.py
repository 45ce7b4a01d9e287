"""Pages of shared memory, reserved before anybody touches them.

A sparse file in memory kills with SIGBUS whoever touches a page that the kernel
cannot find, and a cgroup over its limit kills with SIGKILL.  So a region has
every page from the start, and a size that plainly does not fit is refused before
the first page is taken: short memory is an exception with a remedy in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from .errors import RegionMemoryError

CHUNK: Final = 16 << 20  # a signal undoes the call it interrupts: keep calls small
FULL: Final = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT)


class Room(NamedTuple):
    """How many bytes something lets us have, and how to get more of them."""

    free: int
    what: str
    remedy: str


UNKNOWN: Final = Room(0, "the kernel", "ask for less, or see vm.overcommit_memory")


def reserve(fd: int, size: int, *, path: str | None = None) -> None:
    """Give the file ``fd`` exactly ``size`` bytes, every page of them present.

    A signal during the call runs its Python handler and the call goes on.

    Args:
        fd: An empty file in memory: a memfd, or one on a tmpfs.
        size: Bytes to reserve.
        path: Where the file's tmpfs is mounted; None for a memfd.

    Raises:
        RegionMemoryError: There is not that much; names size, room and remedy.
    """
    rooms = [*memory_rooms(wanted=size), *([mount_room(path)] if path else [])]
    for room in rooms:
        if size > room.free:
            raise short_of(size, room)
    try:
        for offset in range(0, size, CHUNK):
            os.posix_fallocate(fd, offset, min(CHUNK, size - offset))
    except OSError as error:
        raise refused(size, error, path) from error


def refused(size: int, error: OSError, path: str | None) -> Exception:
    """Say what the kernel's refusal to reserve ``size`` bytes means."""
    if error.errno == errno.EFBIG:
        return short_of(size, file_size_room())
    if error.errno not in FULL:
        return error
    rooms = [mount_room(path)] if path else memory_rooms()
    return short_of(size, min(rooms, default=UNKNOWN))


def short_of(size: int, room: Room) -> RegionMemoryError:
    """Return the error for ``size`` bytes that do not fit into ``room``."""
    return RegionMemoryError(
        f"cannot reserve {size} bytes of shared memory: {room.what} has"
        f" {room.free} bytes free; {room.remedy}"
    )


def file_size_room() -> Room:
    """Return this process's limit on the size of a file."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    remedy = "ask for less, or raise RLIMIT_FSIZE (ulimit -f, LimitFSIZE=)"
    return Room(limit, "a file of this process (RLIMIT_FSIZE)", remedy)


def mount_room(path: str) -> Room:
    """Return what the file system mounted at ``path`` has left."""
    stat = os.statvfs(path)
    remedy = "ask for less, remove old regions, or enlarge it (docker run --shm-size)"
    return Room(stat.f_bavail * stat.f_frsize, path, remedy)


def memory_rooms(
    proc: str = "/proc", cgroups: str = "/sys/fs/cgroup", wanted: int | None = None
) -> list[Room]:
    """Return what this machine and each enclosing cgroup have left.

    Where the kernel does not say (no ``/proc``, a sandbox), there is no entry.

    Args:
        proc: Where procfs is mounted.
        cgroups: Where cgroups are mounted.
        wanted: Bytes; what could be reclaimed beside is looked up for more only.
    """
    rooms = cgroup_rooms(Path(proc), Path(cgroups), wanted)
    return [*machine_room(Path(proc)), *rooms]


def machine_room(proc: Path) -> Iterator[Room]:
    """Yield what the machine can hand out without killing anybody."""
    fields = dict(pairs(read(proc / "meminfo").replace(" kB", "")))
    if "MemAvailable:" in fields:
        free = (fields["MemAvailable:"] + fields.get("SwapFree:", 0)) << 10
        yield Room(free, "this machine (MemAvailable + SwapFree)", "ask for less")


def cgroup_rooms(
    proc: Path, cgroups: Path, wanted: int | None = None
) -> Iterator[Room]:
    """Yield what each memory cgroup above this process has left."""
    for line in read(proc / "self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            files = "memory.max", "memory.current"
            yield from rooms_above(cgroups, path, files, wanted)
        elif "memory" in controllers.split(","):
            files = "memory.limit_in_bytes", "memory.usage_in_bytes"
            yield from rooms_above(cgroups / "memory", path, files, wanted)


def rooms_above(
    root: Path, path: str, files: tuple[str, str], wanted: int | None
) -> Iterator[Room]:
    """Yield the room in the cgroup ``path`` of ``root`` and in all its parents."""
    limit, usage = files
    group = root / path.lstrip("/")
    for directory in (group, *group.parents):
        maximum = read(directory / limit).strip()
        used = read(directory / usage).strip() if maximum.isdecimal() else ""
        if used.isdecimal():
            free = int(maximum) - int(used)
            if wanted is None or free < wanted:
                free += reclaimable(directory)
            remedy = f"ask for less, or raise {limit} (docker --memory, MemoryMax=)"
            yield Room(max(0, free), f"cgroup {directory}", remedy)
        if directory == root:
            return


def reclaimable(directory: Path) -> int:
    """Return the bytes of file cache that a cgroup can drop when it must."""
    fields = dict(pairs(read(directory / "memory.stat")))
    return fields.get("inactive_file", 0) + fields.get("active_file", 0)


def pairs(text: str) -> Iterator[tuple[str, int]]:
    """Yield the ``name number`` lines of a kernel table."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if number.strip().isdecimal():
            yield name, int(number)


def read(path: Path) -> str:
    """Return the text of a kernel file, or nothing if it cannot be had."""
    try:
        return path.read_text()
    except OSError:
        return ""
