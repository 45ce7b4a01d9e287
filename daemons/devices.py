"""What a daemon serves: images and block devices, and the trivial devices."""

from __future__ import annotations

import array
import errno
import fcntl
import importlib
import mmap
import os
import stat
from contextlib import suppress
from time import monotonic, sleep
from typing import Final

from rings.codec import NAME
from rings.errors import BusyError
from rings.messages import DeviceFacts

from .backend import Backend
from .device import Device, Station

BLKGETSIZE64: Final = 0x80081272
BLKSSZGET: Final = 0x1268
SECTOR: Final = 512
MAX_BLOCK: Final = 4096
LOCK_TIMEOUT_S: Final = 2.0
LOCK_PAUSE_S: Final = 0.005
MAX_SERVERS: Final = 1 << 20
MAX_SERVICE_NS: Final = 3600 * 10**9
DISTRIBUTIONS: Final = ("fixed", "exponential")

WRITE_OPS: Final = ("write", "discard", "write-zeroes")
KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a fifo",
    stat.S_IFCHR: "a character device",
    stat.S_IFSOCK: "a socket",
}


def facts(device: Device) -> DeviceFacts:
    """Return what a frontend is told of a device."""
    changes = WRITE_OPS if device.read_only else ()
    return DeviceFacts(
        name=device.name,
        kind=device.kind,
        size=device.size,
        block_size=device.block_size,
        read_only=device.read_only,
        direct=device.direct,
        ops=tuple(op for op in device.ops if op not in changes),
    )


def close(device: Device) -> None:
    """Close a device's image, which gives up its lock."""
    if device.fd >= 0:
        os.close(device.fd)


def echo(name: str = "echo0") -> Device:
    """Return a device that answers every request with its length."""
    return Device(check_name(name), "echo", block_size=1)


def null(name: str = "null0", size: int = 1 << 40) -> Device:
    """Return a device that forgets writes and reads zeroes."""
    return Device(check_name(name), "null", size=size, block_size=1)


def delay(
    name: str = "delay0",
    *,
    servers: int,
    service_ns: int,
    distribution: str = "fixed",
    seed: int = 0,
    size: int = 1 << 40,
) -> Device:
    """Return a null device that is as slow as `servers` servers in parallel.

    Each holds one request for `service_ns`; the others wait, first come first served,
    whichever ring they came through.

    Raises:
        ValueError: There can be no such servers; the message says why.
    """
    if not 1 <= servers <= MAX_SERVERS:
        raise ValueError(f"{servers} servers: use 1 to {MAX_SERVERS}")
    if not 1 <= service_ns <= MAX_SERVICE_NS:
        raise ValueError(f"service time {service_ns} ns: use 1ns to 3600s")
    if distribution not in DISTRIBUTIONS:
        told = " or ".join(DISTRIBUTIONS)
        raise ValueError(f"distribution {distribution!r}: use {told}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed}: use a number from 0 to 2**64 - 1")
    station = Station(servers, service_ns, distribution, seed)
    return Device(check_name(name), "delay", size=size, block_size=1, station=station)


def python(name: str, backend: Backend) -> Device:
    """Return a device whose requests a `Backend` answers."""
    return Device(
        check_name(name),
        "python",
        size=backend.size,
        block_size=backend.block_size,
        backend=backend,
    )


def load_backend(name: str) -> Backend:
    """Import and make the backend called ``module:Class``.

    Raises:
        ValueError: There is none of that name, or it is no `Backend`.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"--backend wants MODULE:CLASS, not {name!r}")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--backend {name}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise ValueError(f"--backend {name} is no subclass of daemons.Backend")
    return kind()


def open_block(
    name: str,
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    direct: bool = False,
    block_size: int | None = None,
) -> Device:
    """Open a regular file or a block device to be served.

    The path is the operator's own and symbolic links in it are followed.  A
    writable image is locked against other daemons.

    Args:
        name: What frontends will ask for.
        path: The image.
        read_only: Refuse writes.
        direct: By-pass the page cache (O_DIRECT).
        block_size: Bytes; by default 512 if the size is a multiple of it, else 1;
            with `direct` the least the device can do.

    Raises:
        ValueError: The image cannot be served so; the message says why.
        BusyError: Another daemon has it open for writing.
        OSError: It cannot be opened.
    """
    check_name(name)
    path = os.fspath(path)
    fd = _open(path, read_only, direct)
    try:
        size, smallest = _measure(fd, path, direct)
        _lock(fd, path, read_only)
        block = _block_size(path, size, smallest, block_size)
    except BaseException:
        os.close(fd)
        raise
    return Device(name, "block", fd, size, block, read_only, direct)


def check_name(name: str) -> str:
    """Return `name` if it can be a device's name.

    Raises:
        ValueError: It cannot.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"device name {name!r}: use 1 to 64 characters out of A-Z a-z 0-9 . _ -"
        )
    return name


def _open(path: str, read_only: bool, direct: bool) -> int:
    flags = os.O_RDONLY if read_only else os.O_RDWR
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECT if direct else 0)
    try:
        _check_kind(os.stat(path).st_mode, path)
        return os.open(path, flags)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, f"{error.strerror}; make one: truncate -s 1G {path}", path
        ) from None
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            raise ValueError(
                f"{path}: its file system has no O_DIRECT; leave --direct out"
            ) from None
        if not read_only and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise PermissionError(
                error.errno, f"{error.strerror}; perhaps serve it --read-only", path
            ) from None
        raise


def _check_kind(mode: int, path: str) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        kind = KINDS.get(stat.S_IFMT(mode), "no file")
        raise ValueError(
            f"{path} is {kind}; a regular file or a block device can be served"
        )


def _measure(fd: int, path: str, direct: bool) -> tuple[int, int]:
    """Return the size and the smallest block that can be read, in bytes."""
    status = os.fstat(fd)
    _check_kind(status.st_mode, path)
    os.set_blocking(fd, True)
    if stat.S_ISBLK(status.st_mode):
        size, smallest = _ioctl(fd, BLKGETSIZE64, "Q"), _ioctl(fd, BLKSSZGET, "i")
    else:
        size, smallest = status.st_size, SECTOR
    if size == 0:
        raise ValueError(f"{path} has no bytes; make it larger: truncate -s 1G {path}")
    if not direct:
        return size, 1
    return size, max(SECTOR, smallest, _direct_alignment(fd, size))


def _ioctl(fd: int, request: int, typecode: str) -> int:
    answer = array.array(typecode, [0])
    fcntl.ioctl(fd, request, answer)
    return int(answer[0])


def _direct_alignment(fd: int, size: int) -> int:
    """Find by trial the smallest offset and length that a direct read accepts."""
    with mmap.mmap(-1, MAX_BLOCK) as page:
        for block in (SECTOR, 2 * SECTOR, 4 * SECTOR):
            offset = block if size > block else 0
            with memoryview(page)[:block] as buffer, suppress(OSError):
                os.preadv(fd, [buffer], offset)
                return block
    return MAX_BLOCK


def _block_size(path: str, size: int, smallest: int, asked: int | None) -> int:
    if asked is None:
        asked = SECTOR if size % SECTOR == 0 else 1
        asked = max(asked, smallest)
    if asked < 1 or asked & (asked - 1) or asked > 1 << 20:
        raise ValueError(f"block size {asked}: use a power of two up to {1 << 20}")
    if asked < smallest:
        raise ValueError(
            f"{path}: block size {asked} is below the {smallest} bytes that direct "
            f"access needs; use --block-size {smallest}, or leave --direct out"
        )
    if size % asked:
        raise ValueError(
            f"{path}: its {size} bytes are no multiple of the block size {asked}; "
            "choose another --block-size, or leave --direct out"
        )
    return asked


def _lock(fd: int, path: str, read_only: bool) -> None:
    """Lock the image, with patience for a daemon that was killed.

    The kernel holds its lock until the last of its writes has ended: so none of them
    can come after what this daemon writes, and so it takes a moment.
    """
    kind = fcntl.LOCK_SH if read_only else fcntl.LOCK_EX
    give_up = monotonic() + LOCK_TIMEOUT_S
    while not _try_lock(fd, kind):
        if monotonic() >= give_up:
            raise BusyError(
                f"{path} is being served already; name it once, stop the other daemon, "
                "or serve it --read-only from both"
            )
        sleep(LOCK_PAUSE_S)


def _try_lock(fd: int, kind: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        return True
    return False
