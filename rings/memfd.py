"""Memory files: nameless, of a size that cannot change, and what their seals say.

**Why a peer cannot hurt us through the mapping.**  Touching a page beyond a
file's end is SIGBUS, so a region is a memfd sealed against shrinking and growing
(``F_SEAL_SHRINK | F_SEAL_GROW``), and `attach` looks at the seals *before* it
asks for the size and maps.  Seals exist on memory files only, but on huge pages
too, and those can still SIGBUS when their pool is empty: a memory file on huge
pages reports the huge page as its file system's block size (``fstatvfs``), and
is refused.  A peer may still punch holes: bytes turn to zero, and what a peer
can write is never believed anyway.

**Read-only that really is.**  A descriptor opened ``O_RDONLY`` protects nothing:
its holder opens ``/proc/self/fd/N`` again for writing.  What protects is
``F_SEAL_FUTURE_WRITE``: mappings that exist go on writing, no new one ever can,
through any descriptor, nor can ``write`` or ``mprotect``.  Seals cannot be added
after ``F_SEAL_SEAL``, so a region for readers is created with ``readers=True``;
its writers attach, and then `Region.read_only_fd` freezes the set of writers.
Until then a peer could do the same: harmless to every mapping that exists, which
is why `attach` insists on the two seals above and not on ``F_SEAL_SEAL``.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
from typing import Final

from .errors import LayoutError, LocalProtocolError, RegionMemoryError

F_SEAL_FUTURE_WRITE: Final = 0x10
MFD_NOEXEC_SEAL: Final = 0x08
NAME_MAX: Final = 249
FIXED_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def memory_file(name: str) -> int:
    """Return a new, empty memfd that may be sealed and cannot be executed.

    Raises:
        ValueError: The name is too long for the kernel.
    """
    if len(os.fsencode(name)) > NAME_MAX:
        raise ValueError(f"name must be at most {NAME_MAX} bytes long, not {name!r}")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)  # a kernel before 6.3


def seal(fd: int, *, readers: bool) -> None:
    """Fix the size of a memfd; unless it is for readers, allow no further seals."""
    seals = FIXED_SIZE if readers else FIXED_SIZE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def freeze_writers(fd: int) -> None:
    """Let nobody map the memory for writing from now on; again is harmless.

    Raises:
        LocalProtocolError: Its seals are final already, or it can have none.
    """
    if is_frozen(fd):
        return
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    except PermissionError:
        raise LocalProtocolError(
            "this region's seals are final and let anybody write: create it with"
            " Region.create(..., readers=True) to have read-only handles"
        ) from None


def map_shared(fd: int, size: int, writable: bool) -> mmap.mmap:
    """Map a file whole; the mapping keeps no descriptor where Python lets it."""
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        if sys.version_info >= (3, 13):
            return mmap.mmap(fd, size, mmap.MAP_SHARED, prot, trackfd=False)
        return mmap.mmap(fd, size, mmap.MAP_SHARED, prot)
    except OSError as error:
        raise unmapped(size, error) from None


def unmapped(size: int, error: OSError) -> Exception:
    """Say what the kernel's refusal to map ``size`` bytes means."""
    if error.errno == errno.ENOMEM:
        return RegionMemoryError(
            f"cannot map {size} bytes: ask for less, or raise RLIMIT_AS (ulimit -v)"
        )
    if isinstance(error, PermissionError):
        hint = "this region may only be read: use Region.attach(fd, writable=False)"
        return PermissionError(error.errno, hint)
    return error


def check_seals(fd: int) -> None:
    """Raise LayoutError unless the size of ``fd`` can never change, nor SIGBUS."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise LayoutError(
            f"fd {fd} is not a memfd: get it from Region.create"
        ) from None
    if seals & FIXED_SIZE != FIXED_SIZE:
        raise LayoutError(
            f"fd {fd} has seals {seals:#x} and needs {FIXED_SIZE:#x} (SHRINK, GROW):"
            " its size could change under us; get it from Region.create"
        )
    block = os.fstatvfs(fd).f_bsize
    if block != mmap.PAGESIZE:
        raise LayoutError(
            f"fd {fd} has pages of {block} bytes, not {mmap.PAGESIZE}: regions on huge"
            " pages can fault; get it from Region.create"
        )


def is_frozen(fd: int) -> bool:
    """Return whether no new mapping of ``fd`` can be a writable one."""
    return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & F_SEAL_FUTURE_WRITE)
