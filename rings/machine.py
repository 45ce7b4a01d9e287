"""What this machine lets rings and the daemon do, one check a question.

A check looks at one thing and answers with a `Row`: what was found, whether
that is good enough, and what to do about it if not.  A *fail* means that rings
cannot work here; a *warn*, that they work with something missing.  Checks
change nothing and leave nothing behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

MIB: Final = 1 << 20
IO_URING_SETUP: Final = 425  # the same number on every architecture we build for
IO_URING_PARAMS_SIZE: Final = 120
IO_URING_FLAGS: Final = 1 << 6 | 1 << 9 | 1 << 12 | 1 << 13  # as daemons/csrc/uring.c
ENOUGH_MEMLOCK: Final = 8 * MIB
ENOUGH_NOFILE: Final = 1024
ENOUGH_MEMORY: Final = 64 * MIB
FIRST_USER_UID: Final = 1000  # logind's RemoveIPC spares the uids below


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


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def _reason(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    return f"{name}: {os.strerror(error.errno or 0)}"


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def _limit(value: int, unit: Callable[[int], str] = str) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else unit(value)


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
    found = f"io_uring_setup: {_reason(OSError(number, ''))}; `threads` serves instead"
    return Row("io_uring", "warn", found, fix)


def check_io_uring_sysctl(
    path: str = "/proc/sys/kernel/io_uring_disabled",
) -> Row:
    """Read kernel.io_uring_disabled."""
    text = _read(path)
    name = "kernel.io_uring_disabled"
    if text is None:
        return Row(name, "ok", "no such switch on this kernel")
    value = text.strip()
    if value == "0":
        return Row(name, "ok", "0, open to all")
    who = "nobody" if value == "2" else "CAP_SYS_ADMIN and kernel.io_uring_group only"
    return Row(name, "warn", f"{value}, {who}", "sysctl kernel.io_uring_disabled=0")


def check_seccomp(path: str = "/proc/self/status") -> Row:
    """Say whether a seccomp filter is on this process."""
    fields = dict(
        line.split(":", 1) for line in (_read(path) or "").splitlines() if ":" in line
    )
    mode = fields.get("Seccomp", "0").strip()
    found = {"0": "no filter", "1": "strict mode", "2": "a filter is installed"}
    return Row("seccomp", "ok", found.get(mode, f"mode {mode}"))


def check_memlock(limit: int | None = None) -> Row:
    """Compare RLIMIT_MEMLOCK with what registering buffers takes."""
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] if limit is None else limit
    found = _limit(soft, _mib)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_MEMLOCK:
        return Row("RLIMIT_MEMLOCK", "ok", found)
    fix = "ulimit -l 65536, or LimitMEMLOCK=64M in the unit: buffers go unregistered"
    return Row("RLIMIT_MEMLOCK", "warn", found, fix)


def check_nofile(limit: int | None = None) -> Row:
    """Compare RLIMIT_NOFILE with what a daemon of many connections takes."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    found = _limit(soft)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_NOFILE:
        return Row("RLIMIT_NOFILE", "ok", found)
    fix = f"ulimit -n {ENOUGH_NOFILE}: the daemon holds five descriptors a connection"
    return Row("RLIMIT_NOFILE", "warn", found, fix)


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
        return Row(name, "fail", _reason(error), fix)
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
        return Row("eventfd", "fail", _reason(error), fix)
    return Row("eventfd", "ok", f"works, read {count}")


def check_pidfd() -> Row:
    """Open a pidfd of this process."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        fix = "allow pidfd_open: without it only the socket tells of a peer's death"
        return Row("pidfd", "warn", _reason(error), fix)
    return Row("pidfd", "ok", "works")


def check_shm(path: str = "/dev/shm") -> Row:
    """Ask how much room named regions have."""
    try:
        stat = os.statvfs(path)
    except OSError as error:
        fix = "mount a tmpfs there; only named regions need it"
        return Row(path, "warn", _reason(error), fix)
    free, total = stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize
    found = f"{_mib(free)} free of {_mib(total)}"
    if free >= ENOUGH_MEMORY:
        return Row(path, "ok", found)
    fix = f"mount -o remount,size=1G {path} (docker: --shm-size); memfds do not need it"
    return Row(path, "warn", found, fix)


def check_cgroup(
    membership: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> Row:
    """Compare the cgroup's memory limit with what it holds: regions are charged."""
    name = "cgroup memory"
    lines = (_read(membership) or "").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = Path(root) / path.lstrip("/")
    limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
    if limit is None or used is None or limit.strip() == "max":
        return Row(name, "ok", "no limit")
    free = int(limit) - int(used)
    found = f"{_mib(free)} free of {_mib(int(limit))}"
    if free >= ENOUGH_MEMORY:
        return Row(name, "ok", found)
    return Row(name, "warn", found, "raise memory.max (docker: --memory)")


def check_cores(allowed: int | None = None) -> Row:
    """Count the cores this process may use: spinning needs two."""
    count = len(os.sched_getaffinity(0)) if allowed is None else allowed
    found = f"{count} of {os.cpu_count()} may be used"
    if count > 1:
        return Row("cores", "ok", found)
    fix = "stay with the `block` strategy: a spin takes the core the peer needs"
    return Row("cores", "warn", found, fix)


def check_runtime_dir(path: str | None = None) -> Row:
    """Look at XDG_RUNTIME_DIR, where the daemon's socket lies by default."""
    name = "XDG_RUNTIME_DIR"
    folder = os.environ.get(name, "") if path is None else path
    if not folder:
        fix = f"export {name}=/run/user/$(id -u)"
        return Row(name, "warn", f"not set; /tmp/rings-{os.getuid()} is used", fix)
    try:
        stat = os.stat(folder)
    except OSError as error:
        found = f"{folder}: {_reason(error)}"
        return Row(name, "fail", found, f"mkdir -m 700 {folder}")
    if stat.st_uid != os.getuid() or stat.st_mode & 0o077:
        fix = f"chmod 700 {folder} and be its owner, or set RINGS_SOCKET"
        return Row(name, "fail", f"{folder}: others may enter or own it", fix)
    return Row(name, "ok", folder)


def check_remove_ipc(root: str = "/", uid: int | None = None) -> Row:
    """See whether logind deletes this user's named regions at logout."""
    name = "logind RemoveIPC"
    base = Path(root) / "etc" / "systemd"
    main = base / "logind.conf"
    if not main.exists():
        return Row(name, "ok", "no logind here")
    files = [main, *sorted((base / "logind.conf.d").glob("*.conf"))]
    value = "yes"  # logind's own default
    for line in "\n".join(_read(file) or "" for file in files).splitlines():
        key, _, text = line.partition("=")
        value = text.strip() if key.strip() == "RemoveIPC" else value
    spared = (os.getuid() if uid is None else uid) < FIRST_USER_UID
    if value.lower() in ("no", "false", "0", "off") or spared:
        return Row(name, "ok", "system users are spared" if spared else "no")
    fix = f"RemoveIPC=no in {main}; regions without a name are not touched"
    return Row(name, "warn", "named regions vanish at logout", fix)


CHECKS: Final[tuple[Callable[[], Row], ...]] = (
    check_kernel,
    check_io_uring,
    check_io_uring_sysctl,
    check_seccomp,
    check_memlock,
    check_nofile,
    check_memfd,
    check_eventfd,
    check_pidfd,
    check_shm,
    check_cgroup,
    check_cores,
    check_runtime_dir,
    check_remove_ipc,
)
