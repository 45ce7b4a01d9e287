"""A daemon under test: its report, its process, and how to hold it still."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count as counted
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from daemons.engine import Engine
from rings.errors import BrokenError, BusyError, LayoutError, RegionMemoryError
from rings.rendezvous import query

HANG_S = 60.0
ENGINES = ("uring", "threads", "mock")

#: What a worker gets for each code that a backend may refuse with.
REFUSALS = {
    "no-device": LookupError,
    "refused": PermissionError,
    "limit": BusyError,
    "memory": RegionMemoryError,
    "version": LayoutError,
    "failed": BrokenError,
}


@cache
def refusal(kind: str) -> str:
    """Return why an engine cannot be had here; nothing if it can."""
    try:
        Engine(kind).stop()
    except OSError as error:
        return str(error)
    return ""


def require(kind: str) -> str:
    """Return an engine's kind, or skip the test."""
    if refusal(kind):
        pytest.skip(f"no {kind} engine here: {refusal(kind)}")
    return kind


@contextmanager
def raises(number: int) -> Iterator[None]:
    """Expect an OSError of this errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno tells
        yield
    assert caught.value.errno == number, repr(caught.value)


def until(condition: Callable[[], object], what: str) -> None:
    """Look again and again until `condition` holds; the bound is against a hang."""
    give_up = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < give_up, f"waited {HANG_S:g} s in vain until {what}"
        time.sleep(0.001)


def sessions(address: str) -> list[dict[str, Any]]:
    """Return what the daemon tells of the sessions that have a ring."""
    return [told for told in query(address)["sessions"] if told["ring"]]


def ring(address: str, pid: int | None = None) -> dict[str, int]:
    """Return the counters of a process's only ring."""
    wanted = os.getpid() if pid is None else pid
    (told,) = [told for told in sessions(address) if told["pid"] == wanted]
    counters: dict[str, int] = told["ring"]
    return counters


def cpu_ticks(pid: int) -> int:
    """Return the time a process has used, its threads together, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def descriptors(pid: int) -> list[str]:
    """Return what a process has open, sorted."""
    folder = Path(f"/proc/{pid}/fd")
    found = []
    for fd in folder.iterdir():
        try:
            found.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    return sorted(found)


def resident(pid: int) -> int:
    """Return a process's private memory in bytes: what it has leaked would be there.

    Mapped regions count as shared memory, and only while they are mapped.
    """
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE")


def all_stopped(pid: int) -> bool:
    """Whether no thread runs any more: the first to stop need not be the last."""
    stats = (task / "stat" for task in Path(f"/proc/{pid}/task").iterdir())
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats} == {"T"}


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for the time of the block; it is not dead."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all_stopped(pid), f"every thread of process {pid} has stopped")
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def descriptors_left(pid: int, count: int) -> Iterator[None]:
    """Leave a process so many descriptors that it can still open."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = open_descriptors(pid)
    limit = next(islice((fd for fd in counted() if fd not in taken), count, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def open_descriptors(pid: int) -> set[int]:
    """Return them, without the one that this takes to find out."""
    folder = f"/proc/{pid}/fd"
    return {int(fd) for fd in os.listdir(folder) if os.path.lexists(f"{folder}/{fd}")}
