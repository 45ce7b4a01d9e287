"""The rings between own-GIL interpreters, and between these and other processes."""

from __future__ import annotations

import os
import re
import textwrap

import pytest

import daemons
from tests import interp_traffic as traffic
from tests.conftest import STARTS
from tests.interp import (
    OWN_GIL,
    ROOT,
    finish,
    require_python,
    run_in_interpreter,
    run_python,
    start_in_interpreter,
)
from tests.test_examples import as_pattern

MEET = """
import sys
from tests import interp_traffic as traffic

kind, start, place = sys.argv[1:]
traffic.meet(kind, int(start), getattr(traffic, place))
print("met")
"""
SECOND = """
from tests.interp_traffic import second

half = len(ints) // 2
second(ints[:half], ints[half:])
"""


@pytest.fixture(params=OWN_GIL)
def python(request: pytest.FixtureRequest) -> str:
    return require_python(request.param)


def start_for(kind: str, place: int) -> int:
    """Return an index start, so that each kind of ring meets all of them."""
    return STARTS[(traffic.KINDS.index(kind) + place) % len(STARTS)]


@pytest.mark.parametrize("kind", traffic.KINDS)
@pytest.mark.parametrize("place", [0, 1], ids=["main", "interpreter"])
def test_an_interpreter_and_another_of_its_process(
    python: str, kind: str, place: int
) -> None:
    name = ["in_main", "in_interpreter"][place]
    output = run_python(python, MEET, kind, start_for(kind, place), name)
    assert output.strip() == "met"


@pytest.mark.parametrize("kind", traffic.KINDS)
def test_an_interpreter_and_another_process(python: str, kind: str) -> None:
    start = start_for(kind, 2)
    with traffic.create(kind, start) as there, traffic.create(kind, start) as back:
        ints = [traffic.numbers(kind, ring) for ring in (there, back)]
        fds = [fd for ring in (there, back) for fd in traffic.descriptors(kind, ring)]
        child = start_in_interpreter(python, SECOND, *ints[0], *ints[1], fds=fds)
        try:
            traffic.first(*ints)
        finally:
            finish(child)


@pytest.mark.parametrize("kind", traffic.KINDS)
def test_control_a_wrong_message_is_found(kind: str) -> None:
    ring = traffic.create(kind, 0)
    with ring, ring.consumer() as consumer, ring.producer() as producer:
        producer.put(traffic.message(kind, 0))
        producer.put(traffic.message(kind, 2))
        with pytest.raises(AssertionError, match="message 1 of"):
            traffic.receive(kind, consumer, 2)


def test_a_worker_needs_the_standard_library_alone(python: str) -> None:
    script = """
import sys
before = set(sys.modules)
import rings, rings.spsc, rings.mpmc, rings.broadcast, rings.frontend, rings.channel

ours = {*sys.stdlib_module_names, "rings"}
print(*(m for m in set(sys.modules) - before if m.partition(".")[0] not in ours))
"""
    assert run_in_interpreter(python, script).strip() == ""


# ---- split rings: the frontend in an interpreter, the daemon elsewhere ---------

SESSIONS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from rings import interpreters

WORK = '''
import os
import rings
from array import array

PAGE, PAGES = 4096, 64

def page(n, turn):
    return (n * 7 + turn).to_bytes(8, "little") * (PAGE // 8)

first = worker * PAGES
with rings.connect(address).block("disk0", start=start) as disk:
    pages = range(first, first + PAGES)
    offsets = array("Q", [n * PAGE for n in pages])
    for n in pages:
        disk.write(n * PAGE, page(n, 0))
    assert all(disk.read(n * PAGE, PAGE) == page(n, 0) for n in pages)
    with disk.pool.alloc(PAGES * PAGE) as grant:
        for turn in range(1, 9):
            with grant.view() as view:
                view[:] = b"".join(page(n, turn) for n in pages)
            disk.write_many(offsets, grant, length=PAGE)
            with grant.view() as view:
                view[:] = bytes(len(view))
            disk.read_many(offsets, grant, length=PAGE)
            with grant.view() as view:
                assert view == b"".join(page(n, turn) for n in pages)
    disk.flush()
os.write(1, b"worker %d\\\\n" % worker)  # whole: the others print too
'''

def work(worker):
    start = [0, 2**31 - 2, 2**32 - 2][worker]
    with interpreters.create() as interpreter:
        interpreter.run(WORK, worker=worker, start=start, address=sys.argv[1])

with ThreadPoolExecutor(3) as threads:
    list(threads.map(work, range(3)))
"""


def test_interpreters_have_sessions_of_their_own_with_a_daemon(python, tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(3 * 64 * 4096))
    with daemons.spawn(image=image, name="disk0") as daemon:
        output = run_python(python, SESSIONS, daemon.address)
    assert sorted(output.splitlines()) == ["worker 0", "worker 1", "worker 2"]
    last = b"".join((n * 7 + 8).to_bytes(8, "little") * 512 for n in range(3 * 64))
    assert image.read_bytes() == last


VANISH = """
import os, sys
from threading import Thread
from rings import connect, interpreters

LEAVE = '''
import rings
disk = rings.connect(address).block("disk0")
grant = disk.pool.alloc(4096)
handle = disk.submit_read(0, grant)
1 / 0
'''

def work():
    worker = interpreters.create()
    try:
        worker.run(LEAVE, address=sys.argv[1])
    except interpreters.ScriptError as error:
        print("ZeroDivisionError" in str(error))
    worker.close()

before = sorted(os.listdir("/proc/self/fd"))
for _ in range(3):
    thread = Thread(target=work)
    thread.start()
    thread.join()
print(sorted(os.listdir("/proc/self/fd")) == before)
with connect(sys.argv[1]).block("disk0") as disk:
    print(len(disk.read(0, 4096)))
"""


def test_a_frontend_that_ends_with_its_interpreter_leaves_nothing(python, tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8192))
    with daemons.spawn(image=image, name="disk0") as daemon:
        output = run_python(python, VANISH, daemon.address)
        count = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        again = run_python(python, VANISH, daemon.address)
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) == count
    assert output.split() == again.split() == ["True"] * 4 + ["4096"]


def test_the_example_prints_what_it_promises(python: str) -> None:
    path = ROOT / "examples" / "interpreters.py"
    done = run_python(python, path.read_text())
    promised = path.read_text().partition("\nPrints::\n")[2].partition('"""')[0]
    assert re.fullmatch(as_pattern(textwrap.dedent(promised).strip()), done.strip())
