"""What the kernel lets rings and the daemon do, one check a question.

A check looks at one thing and answers with a `Row`: what was found, whether
that is good enough, and what to do about it if not.  A *fail* means that rings
cannot work here; a *warn*, that they work with something missing.  Checks
change nothing outside of this process and leave nothing behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ._core import membarrier

IO_URING_SETUP: Final = 425  # the same number on every architecture we build for
IO_URING_PARAMS_SIZE: Final = 120
IO_URING_FLAGS: Final = 1 << 6 | 1 << 9 | 1 << 12 | 1 << 13  # as daemons/csrc/uring.c


Status = Literal["ok", "warn", "fail"]


class Row(NamedTuple):
    """One answer.

    Attributes:
        name: What was asked.
        status: Whether the answer is good enough.
        found: What was found, in words.
        fix: What to do about it; empty when there is nothing to do.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def read(path: str | Path) -> str | None:
    """Return a file's text, None if it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return None


def reason(error: OSError) -> str:
    """Return the name of an errno, and what it means."""
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    return f"{name}: {os.strerror(error.errno or 0)}"


def check_kernel(release: str = "") -> Row:
    """Ask which kernel runs: the daemon's io_uring needs 6.1, the rest 5.3."""
    release = release or os.uname().release
    major, minor = (int(part) for part in release.split("-")[0].split(".")[:2])
    if (major, minor) >= (6, 1):
        return Row("kernel", "ok", release)
    fix = "before Linux 6.1 the daemon serves with its `threads` engine"
    return Row("kernel", "warn", release, fix)


def _io_uring_setup() -> int:
    """Make a small io_uring with the engine's flags; return 0 or the errno."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(IO_URING_PARAMS_SIZE)
    struct.pack_into("=3I", params, 0, 0, 0, IO_URING_FLAGS)
    fd = libc.syscall(IO_URING_SETUP, 4, params)
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


def check_io_uring(answer: int | None = None) -> Row:
    """Ask the kernel for an io_uring, as the daemon will."""
    number = _io_uring_setup() if answer is None else answer
    if number == 0:
        return Row("io_uring", "ok", "io_uring_setup succeeds")
    fix = {
        errno.EPERM: "allow io_uring_setup, io_uring_enter and io_uring_register in the"
        " seccomp profile of the daemon's container (workers need none of them)",
        errno.ENOSYS: "this kernel has no io_uring; use one built with CONFIG_IO_URING",
        errno.EINVAL: "this kernel's io_uring is older than 6.1; use a newer kernel",
        errno.ENOMEM: "raise the locked-memory limit: ulimit -l 65536",
    }.get(number, "read man io_uring_setup")
    found = f"io_uring_setup: {reason(OSError(number, ''))}; `threads` serves instead"
    return Row("io_uring", "warn", found, fix)


def check_io_uring_sysctl(
    path: str = "/proc/sys/kernel/io_uring_disabled",
) -> Row:
    """Read kernel.io_uring_disabled."""
    text = read(path)
    name = "kernel.io_uring_disabled"
    if text is None:
        return Row(name, "ok", "no such switch on this kernel")
    value = text.strip()
    if value == "0":
        return Row(name, "ok", "0, open to all")
    who = "nobody" if value == "2" else "CAP_SYS_ADMIN and kernel.io_uring_group only"
    return Row(name, "warn", f"{value}, {who}", "sysctl kernel.io_uring_disabled=0")


def _seccomp(path: str = "/proc/self/status") -> str:
    fields = dict(
        line.split(":", 1) for line in (read(path) or "").splitlines() if ":" in line
    )
    return fields.get("Seccomp", "0").strip()


def check_seccomp(path: str = "/proc/self/status") -> Row:
    """Say whether a seccomp filter is on this process."""
    mode = _seccomp(path)
    found = {"0": "no filter", "1": "strict mode", "2": "a filter is installed"}
    return Row("seccomp", "ok", found.get(mode, f"mode {mode}"))


def check_membarrier(permitted: bool | None = None, filtered: bool = False) -> Row:
    """Ask whether sleepers of SPSC rings can pay for the barriers of both ends."""
    if permitted is None:
        permitted, filtered = membarrier(), _seccomp() != "0"
    if permitted:
        return Row("membarrier", "ok", "SPSC messages cost no full barrier")
    cost = "each SPSC message costs a full barrier, some ten nanoseconds"
    if filtered:
        fix = "if the filter allows it: rings.sandbox.permit_membarrier() before an end"
        return Row("membarrier", "warn", f"not asked under a filter: {cost}", fix)
    fix = "use a kernel built with CONFIG_MEMBARRIER"
    return Row("membarrier", "warn", f"this kernel has none: {cost}", fix)


def _seal_holds() -> bool:
    fd = os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        try:
            os.ftruncate(fd, 0)
        except PermissionError:
            return True
        return False
    finally:
        os.close(fd)


def check_memfd() -> Row:
    """Make, reserve and seal a memfd, and see that the seal holds."""
    name = "memfd and seals"
    try:
        held = _seal_holds()
    except OSError as error:
        fix = "allow memfd_create, fallocate and fcntl; a region cannot exist otherwise"
        return Row(name, "fail", reason(error), fix)
    if held:
        return Row(name, "ok", "created, reserved, sealed")
    return Row(name, "fail", "a sealed memfd was truncated", "use another kernel")


def check_eventfd() -> Row:
    """Make an eventfd and count with it."""
    try:
        fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            count = os.eventfd_read(fd)
        finally:
            os.close(fd)
    except OSError as error:
        fix = "allow eventfd2: it is how one end wakes the other"
        return Row("eventfd", "fail", reason(error), fix)
    return Row("eventfd", "ok", f"works, read {count}")


def check_pidfd() -> Row:
    """Open a pidfd of this process."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        fix = "allow pidfd_open: without it only the socket tells of a peer's death"
        return Row("pidfd", "warn", reason(error), fix)
    return Row("pidfd", "ok", "works")


CHECKS: Final[tuple[Callable[[], Row], ...]] = (
    check_kernel,
    check_io_uring,
    check_io_uring_sysctl,
    check_seccomp,
    check_membarrier,
    check_memfd,
    check_eventfd,
    check_pidfd,
)
