"""What every test gets: index starts, a private run directory, and an inventory.

After each test nothing of it may be left: no process, thread, descriptor, name in
shared memory or socket file.  The inventory is taken before and after, and what
is new must go away by itself within a moment.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

with contextlib.suppress(ImportError):
    import numpy  # noqa: F401 - its thread pool starts at import, not in some test

settings.register_profile(
    "ci",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell starts what runs in the background with SIGINT ignored, and children inherit
# that: Ctrl-C would reach none of them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

STARTS = (0, 2**31 - 2, 2**32 - 2)
GRACE_S = 5.0
NAMES = Path("/dev/shm")
MAKER = re.compile(r"rings-(test|bench)-(\d+)-")
PASSING = ("/proc/", "/dev/urandom", "/sys/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let soaks take as long as they take, unless they say how long that may be."""
    for item in items:
        if item.get_closest_marker("soak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(params=STARTS, ids=lambda start: f"start={start:#x}")
def start(request: pytest.FixtureRequest) -> int:
    """Index of the first message or request of a ring."""
    value: int = request.param
    return value


@pytest.fixture(scope="session", autouse=True)
def run_directory() -> Iterator[Path]:
    """Keep default addresses away from this user's real daemon, and from others."""
    with tempfile.TemporaryDirectory(prefix="rings-run-") as path:
        patch = pytest.MonkeyPatch()
        patch.setenv("XDG_RUNTIME_DIR", path)
        patch.delenv("RINGS_SOCKET", raising=False)
        yield Path(path)
        patch.undo()


@pytest.fixture
def shm_name() -> Callable[[], str]:
    """Return names for shared memory that say whose they are."""
    numbers = count()
    return lambda: f"rings-test-{os.getpid()}-{next(numbers)}"


def children() -> set[str]:
    """Return our child processes, zombies among them."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found.update((task / "children").read_text().split())
    return {f"process {pid} ({command(pid)})" for pid in found}


def command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def threads() -> set[str]:
    """Return our threads: those Python knows by name, the others by number."""
    names = {t.native_id: t.name for t in threading.enumerate()}
    tasks = [int(task) for task in os.listdir("/proc/self/task")]
    return {f"thread {tid} ({names.get(tid, 'not of Python')})" for tid in tasks}


def descriptors() -> set[str]:
    """Return our open descriptors and what they are open on."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if not target.startswith(PASSING):
                found.add(f"fd {fd} on {target}")
    return found


def parent(pid: int) -> int:
    """Return the parent of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descends(pid: int) -> bool:
    """Whether a process is this one or comes from it."""
    while pid > 1 and pid != os.getpid():
        pid = parent(pid)
    return pid == os.getpid()


def of_another_run(name: str) -> bool:
    """Whether a name says who made it, and it is a process that is none of ours."""
    maker = MAKER.search(name)
    if maker is None:
        return False
    what, pid = maker[1], int(maker[2])
    if what == "test":
        return pid != os.getpid()
    return parent(pid) > 0 and not descends(pid)


def names() -> set[str]:
    """Return names in shared memory that are ours, not of another run beside us."""
    return {
        f"shared memory {name}"
        for name in (os.listdir(NAMES) if NAMES.is_dir() else [])
        if "rings" in name and not of_another_run(name)
    }


def sockets(*places: Path) -> set[str]:
    """Return the socket files below some directories."""
    found = set()
    for place in places:
        for directory, _, files in os.walk(place):
            for file in files:
                with contextlib.suppress(OSError):
                    path = Path(directory, file)
                    if stat.S_ISSOCK(path.lstat().st_mode):
                        found.add(f"socket file {path}")
    return found


def stop_courtesies() -> None:
    """Stop what `multiprocessing` starts once and keeps."""
    multiprocessing.active_children()
    if "multiprocessing.resource_sharer" in sys.modules:
        sys.modules["multiprocessing.resource_sharer"].stop(timeout=GRACE_S)
    if "multiprocessing.forkserver" in sys.modules:
        sys.modules["multiprocessing.forkserver"]._forkserver._stop()
    if "multiprocessing.resource_tracker" in sys.modules:
        sys.modules["multiprocessing.resource_tracker"]._resource_tracker._stop()


def left_over(before: set[str], *places: Path) -> list[str]:
    """Return what is there now and was not before."""
    now = children() | threads() | descriptors() | names() | sockets(*places)
    return sorted(now - before)


@pytest.fixture
def inventory() -> Callable[..., list[str]]:
    """Return what looks for what is left over."""
    return left_over


@pytest.fixture(autouse=True)
def leaves_nothing(
    request: pytest.FixtureRequest, run_directory: Path
) -> Iterator[None]:
    """Fail a test that leaves anything of its own behind."""
    places = [run_directory]
    if "tmp_path" in request.fixturenames:
        places.append(request.getfixturevalue("tmp_path"))
    before = set(left_over(set(), *places))
    yield
    stop_courtesies()
    give_up = time.monotonic() + GRACE_S
    while (left := left_over(before, *places)) and time.monotonic() < give_up:
        gc.collect()  # costly beside a test of a millisecond: only when in need
        multiprocessing.active_children()
        time.sleep(0.01)
    assert not left, "the test left behind: " + ", ".join(left)
