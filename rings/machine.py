"""What this machine has for rings and the daemon: limits, room, cores, places.

The checks are as those of `rings.kernel`, and `CHECKS` has them all.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

from . import kernel
from .kernel import Row, read, reason

MIB: Final = 1 << 20
ENOUGH_MEMLOCK: Final = 8 * MIB
ENOUGH_NOFILE: Final = 1024
ENOUGH_MEMORY: Final = 64 * MIB
FIRST_USER_UID: Final = 1000  # logind's RemoveIPC spares the uids below


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def _limit(value: int, unit: Callable[[int], str] = str) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else unit(value)


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


def check_shm(path: str = "/dev/shm") -> Row:
    """Ask how much room named regions have."""
    try:
        stat = os.statvfs(path)
    except OSError as error:
        fix = "mount a tmpfs there; only named regions need it"
        return Row(path, "warn", reason(error), fix)
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
    lines = (read(membership) or "").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = Path(root) / path.lstrip("/")
    limit, used = read(folder / "memory.max"), read(folder / "memory.current")
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
        found = f"{folder}: {reason(error)}"
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
    for line in "\n".join(read(file) or "" for file in files).splitlines():
        key, _, text = line.partition("=")
        value = text.strip() if key.strip() == "RemoveIPC" else value
    spared = (os.getuid() if uid is None else uid) < FIRST_USER_UID
    if value.lower() in ("no", "false", "0", "off") or spared:
        return Row(name, "ok", "system users are spared" if spared else "no")
    fix = f"RemoveIPC=no in {main}; regions without a name are not touched"
    return Row(name, "warn", "named regions vanish at logout", fix)


CHECKS: Final[tuple[Callable[[], Row], ...]] = (
    *kernel.CHECKS,
    check_memlock,
    check_nofile,
    check_shm,
    check_cgroup,
    check_cores,
    check_runtime_dir,
    check_remove_ipc,
)
