"""What the figures were taken on: the machine, and how quiet it was meanwhile."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def _read(path: str, otherwise: str = "") -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return otherwise


def _cpu_fact(name: str) -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def governors() -> list[str]:
    """Return the frequency governors in use; none where the machine shows none."""
    paths = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return sorted({_read(str(path)) for path in paths})


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the version of each of `packages` that is installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, object]:
    """Return the facts of this machine that the figures depend on."""
    uname = os.uname()
    return {
        "kernel": f"{uname.sysname} {uname.release} {uname.version}",
        "architecture": uname.machine,
        "cpu_model": _cpu_fact("model name"),
        "cpu_family_model": f"{_cpu_fact('cpu family')}/{_cpu_fact('model')}",
        "cores_online": os.cpu_count(),
        "cores_allowed": sorted(os.sched_getaffinity(0)),
        "governors": governors(),
        "hypervisor": " hypervisor" in _cpu_fact("flags"),
        "clocksource": _read(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        ),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "python_flags": sys._xoptions | {"optimize": sys.flags.optimize},
    }


@dataclass(frozen=True)
class Load:
    """The machine's work so far, to be subtracted from a later look."""

    at_s: float
    busy_ticks: int
    steal_ticks: int
    total_ticks: int
    load_average: tuple[float, float, float]

    @classmethod
    def now(cls) -> Load:
        """Look at ``/proc/stat`` and ``/proc/loadavg``."""
        ticks = [int(word) for word in _read("/proc/stat").split("\n")[0].split()[1:9]]
        total, idle = sum(ticks), ticks[3] + ticks[4]
        return cls(time.time(), total - idle, ticks[7], total, os.getloadavg())

    def until(self, later: Load) -> dict[str, object]:
        """Return what happened between this look and a later one."""
        total = max(1, later.total_ticks - self.total_ticks)
        return {
            "started_unix_s": round(self.at_s, 1),
            "took_s": round(later.at_s - self.at_s, 1),
            "load_average_before": self.load_average,
            "load_average_after": later.load_average,
            "busy_fraction": round((later.busy_ticks - self.busy_ticks) / total, 4),
            "steal_fraction": round((later.steal_ticks - self.steal_ticks) / total, 4),
        }


@dataclass(frozen=True)
class ProcessWork:
    """CPU time and context switches of one process, all its threads."""

    cpu_s: float
    switches: int

    @classmethod
    def of(cls, pid: int) -> ProcessWork:
        """Read ``/proc/PID``: time from ``stat``, switches from every thread."""
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        switches = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            for line in _read(f"{task}/status").splitlines():
                if "ctxt_switches" in line:
                    switches += int(line.split()[1])
        return cls((int(fields[11]) + int(fields[12])) * TICK_S, switches)

    def until(self, later: ProcessWork, took_s: float) -> dict[str, float]:
        """Return the share of a core and the switches a second in between."""
        return {
            "cpu_percent": 100 * (later.cpu_s - self.cpu_s) / took_s,
            "switches_per_s": (later.switches - self.switches) / took_s,
        }


def pin(pid: int, core: int | None) -> None:
    """Put every thread of a process on one core; None leaves it where it is."""
    if core is None:
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def filesystem(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    best, kind = "", "unknown"
    resolved = str(path.resolve())
    for line in _read("/proc/self/mounts").splitlines():
        _, mount, name, *_ = line.split()
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, name
    return kind
