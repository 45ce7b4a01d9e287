"""Own-GIL interpreters: what imports there, how long it lives, how it stops."""

from __future__ import annotations

import signal
import sys

import pytest

from rings import interpreters
from tests.interp import (
    OWN_GIL,
    ROOT,
    find_python,
    finish,
    require_python,
    run_in_interpreter,
    run_python,
    start_python,
)

# Modules that are no part of a worker's core, and the module they need instead of
# the stdlib alone.  Anything else in rings/ must import in an own-GIL interpreter.
EDGES = {
    "aio": "asyncio",
    "cli": "the command line",
    "fibers": "greenlet",
    "named": "posix_ipc",
    "records": "numpy",
}
FORBIDDEN = ["hashlib", "ssl", "asyncio", "ctypes", "numpy", "cffi", "posix_ipc"]


def worker_modules() -> list[str]:
    stems = {path.stem for path in (ROOT / "rings").glob("*.py")}
    names = stems - set(EDGES) - {"__init__", "__main__"}
    return ["rings", *(f"rings.{name}" for name in sorted(names))]


@pytest.fixture(params=OWN_GIL)
def python(request: pytest.FixtureRequest) -> str:
    return require_python(request.param)


@pytest.mark.parametrize("module", worker_modules())
def test_worker_modules_import_in_an_own_gil_interpreter(
    python: str, module: str
) -> None:
    script = f"""
import sys, {module}
print([name for name in {FORBIDDEN!r} if name in sys.modules])
"""
    assert run_in_interpreter(python, script).strip() == "[]"


def test_control_an_extension_without_the_slot_is_refused(python: str) -> None:
    script = """
try:
    import {module}
except ImportError as error:
    print(error)
"""
    module = "_ctypes" if python == find_python("3.12") else "readline"
    output = run_in_interpreter(python, script.format(module=module))
    if "No module named" in output:
        pytest.skip(f"this Python has no {module}")
    assert "does not support loading in subinterpreters" in output


def test_each_interpreter_has_a_gil_of_its_own(python: str) -> None:
    """A worker that never lets go of its GIL must not stop this interpreter."""
    script = """
import threading, mmap
from rings import interpreters
from rings.atomics import Atomics
import os

fd = os.memfd_create("gil")
os.ftruncate(fd, 4096)
word = Atomics(mmap.mmap(fd, 4096))
SPIN = '''
import mmap, sys
from rings.atomics import Atomics
sys.setswitchinterval(1000)
word = Atomics(mmap.mmap(fd, 4096))
word.store(0, 1)
while word.load(1) == 0:
    pass
'''
with interpreters.create() as worker:
    thread = threading.Thread(target=worker.run, args=(SPIN,), kwargs={"fd": fd})
    thread.start()
    while word.load(0) == 0:
        pass
    word.store(1, 1)
    thread.join()
print("both ran")
"""
    assert run_python(python, script).strip() == "both ran"


def test_lifecycle_stress_with_two_threads(python: str) -> None:
    script = """
import threading
from rings import interpreters

USE = '''
import rings, rings.errors, rings.layout
from rings.atomics import Atomics
words = Atomics(bytearray(4096), format="q")
for _ in range(2000):
    words.add(0, 3)
    words.wait(1, 1, 0)
assert words.load(0) == 6000
'''
done = []

def live():
    for _ in range(20):
        with interpreters.create() as worker:
            worker.run(USE)
        done.append(worker.id)

threads = [threading.Thread(target=live) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(done), len(set(done)))
"""
    assert run_python(python, script).split() == ["40", "40"]


def test_what_cannot_go_in_is_refused(python: str) -> None:
    """3.13 crashed."""
    script = """
from rings import interpreters

with interpreters.create() as worker:
    for wrong in ([], object(), bytearray(1), 2**80, worker, (1, [])):
        try:
            worker.run("pass", a=1, wrong=wrong)
        except TypeError as error:
            assert "wrong" in str(error)
        else:
            print(wrong)
    worker.run("pass", low=-(2**63), high=2**63 - 1)
"""
    assert run_python(python, script) == ""


def test_names_go_in_and_errors_come_out(python: str) -> None:
    script = """
from rings import errors, interpreters

with interpreters.create() as worker:
    names = {"a": 1, "b": "x", "c": b"y", "d": None}
    worker.run("assert (a, b, c, d) == (1, 'x', b'y', None)", **names)
    try:
        worker.run("{}['missing']")
    except interpreters.ScriptError as error:
        text = str(error)
        assert "KeyError" in text and "missing" in text and "\\n" not in text, text
        print("raised")
try:
    worker.run("pass")
except errors.ClosedError:
    print("closed")
worker.close()
"""
    assert run_python(python, script).split() == ["raised", "closed"]


def test_a_running_interpreter_is_busy(python: str) -> None:
    script = """
import os, threading
from rings import errors, interpreters

started, stop = os.eventfd(0), os.eventfd(0)
WAIT = "import os; os.eventfd_write(started, 1); os.eventfd_read(stop)"
with interpreters.create() as worker:
    names = {"started": started, "stop": stop}
    thread = threading.Thread(target=worker.run, args=(WAIT,), kwargs=names)
    thread.start()
    os.eventfd_read(started)
    for call in (worker.close, lambda: worker.run("pass")):
        try:
            call()
        except errors.BusyError:
            print("busy")
    os.eventfd_write(stop, 1)
    thread.join()
"""
    assert run_python(python, script).split() == ["busy", "busy"]


@pytest.mark.parametrize("module", ["rings", "threading", "rings.spsc, rings.mpmc"])
def test_any_thread_may_destroy_it(python: str, module: str) -> None:
    """On 3.12 it hung where `threading` was imported by another thread."""
    script = """
import sys, threading
from rings import interpreters

worker = interpreters.create()
thread = threading.Thread(target=worker.run, args=("import " + sys.argv[1],))
thread.start()
thread.join()
worker.close()
print("closed")
"""
    assert run_python(python, script, module).strip() == "closed"


STOPPABLE = """
import os
from concurrent.futures import ThreadPoolExecutor
from rings import interpreters

SCRIPT = '''
import os, select
poll = select.poll()
poll.register(stop, select.POLLIN)
print("waiting", flush=True)
while stop not in dict(poll.poll()):
    pass
print("left", flush=True)
'''
stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
with interpreters.create() as worker, ThreadPoolExecutor(1) as threads:
    try:
        threads.submit(worker.run, SCRIPT, stop=stop).result()
    except KeyboardInterrupt:
        print("told", flush=True)
        os.eventfd_write(stop, 1)
"""


def test_ctrl_c_stops_a_script_by_its_eventfd(python: str) -> None:
    child = start_python(python, STOPPABLE)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "waiting"
    child.send_signal(signal.SIGINT)
    assert finish(child).split() == ["told", "left"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="3.11 has none")
def test_311_says_that_it_is_process_only() -> None:
    with pytest.raises(NotImplementedError, match=r"3\.12 or newer.*use a process"):
        interpreters.create()
