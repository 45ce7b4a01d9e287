"""The fixture that every test leans on: each kind of leak must be seen."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

HANG_S = 30


@contextmanager
def a_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        yield
        child.communicate(b"\n")


@contextmanager
def a_zombie():
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    yield
    os.waitpid(child, 0)


@contextmanager
def a_thread():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()
    thread.join()


@contextmanager
def a_descriptor():
    with tempfile.TemporaryFile():
        yield


@contextmanager
def a_name():
    path = Path(f"/dev/shm/rings-test-{os.getpid()}-inventory")
    path.touch()
    yield
    path.unlink()


@contextmanager
def a_socket_file():
    path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "left.sock")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path)
    yield
    os.unlink(path)


LEAKS = {
    "process": a_process, "zombie": a_zombie, "thread": a_thread,
    "fd": a_descriptor, "shared memory": a_name, "socket file": a_socket_file,
}  # fmt: skip


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_seen(kind, inventory, run_directory):
    before = set(inventory(set(), run_directory))
    assert inventory(before, run_directory) == []
    with LEAKS[kind]():
        left = inventory(before, run_directory)
        assert any(kind.replace("zombie", "process") in item for item in left)
    give_up = time.monotonic() + HANG_S
    while inventory(before, run_directory):
        assert time.monotonic() < give_up


@contextmanager
def a_bench_name(pid):
    path = Path(f"/dev/shm/rings-bench-{pid}-inventory")
    path.touch()
    yield
    path.unlink()


def test_another_runs_names_are_not_ours(inventory):
    before = set(inventory(set()))
    path = Path(f"/dev/shm/rings-test-1-{os.getpid()}")
    path.touch()
    assert inventory(before) == []
    path.unlink()
    with a_bench_name(os.getppid()):  # a bench that runs beside this suite
        assert inventory(before) == []


def test_a_bench_of_ours_is_ours_even_when_it_has_died(inventory):
    before = set(inventory(set()))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        with a_bench_name(child.pid):
            assert inventory(before)
        child.communicate(b"\n")
    with a_bench_name(child.pid):
        assert inventory(before)
