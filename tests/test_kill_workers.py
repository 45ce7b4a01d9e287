"""Workers killed at any moment: the daemon keeps nothing of them, others are right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import daemons
import rings
from rings.rendezvous import query

from .interp import finish, run_python, start_python
from .served import (
    ENGINES,
    HANG_S,
    descriptors,
    frozen,
    require,
    resident,
    ring,
    sessions,
    until,
)
from .shares import dealt

SHARE = 1 << 20
MAY_GROW = 4 << 20

# Forks workers that read and write at depth 16, and kills each at a random moment:
# mostly under load, now and then while it connects or closes.
NURSERY = """
import os, random, signal, sys, time
from array import array
import rings

address, count, seed, share = sys.argv[1], *map(int, sys.argv[2:])
chance = random.Random(seed)

def load(ready):
    offsets = array("Q", [chance.randrange(share // 4096) * 4096 for _ in range(256)])
    while True:
        with rings.connect(address).block("disk0") as disk:
            grant = disk.pool.alloc(64 * 4096)
            large = disk.pool.alloc(1 << 20)
            os.write(ready, b"1")
            for _ in range(chance.randrange(1, 200)):
                disk.write_many(offsets, grant, length=4096, depth=16)
                disk.read_many(offsets, grant, length=4096, depth=16)
                disk.submit_write(0, large)
                disk.read(0, 4096)

for turn in range(count):
    read, write = os.pipe()
    worker = os.fork()
    if worker == 0:
        chance.seed(seed * count + turn)
        try:
            load(write)
        finally:
            os._exit(9)
    if turn % 5:
        os.read(read, 1)
    time.sleep(chance.random() * 0.012)
    os.kill(worker, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -9
    os.close(read), os.close(write)
"""

# Writes and reads its own device all the while, and checks every byte.
WITNESS = """
import os, random, select, sys, time
from array import array
import rings

disk = rings.connect(sys.argv[1]).block("disk1")
size = disk.size
chance = random.Random(7)
content = bytearray(disk.read(0, size))
grant = disk.pool.alloc(64 * 4096)
checked = 0
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    at = chance.randrange(size // 4096) * 4096
    content[at : at + 4096] = data = chance.randbytes(4096)
    disk.write(at, data)
    offsets = array("Q", [chance.randrange(size // 4096) * 4096 for _ in range(64)])
    disk.read_many(offsets, grant, length=4096, depth=16)
    with grant.view() as view:
        for place, offset in enumerate(offsets):
            assert view[place * 4096 :][:4096] == content[offset : offset + 4096]
    checked += 64
    time.sleep(0.001)
assert disk.read(0, size) == content
disk.close()
print(checked)
"""


@pytest.fixture(params=ENGINES)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[daemons.Daemon]:
    images = [tmp_path / "disk0.img", tmp_path / "disk1.img"]
    for image in images:
        image.write_bytes(os.urandom(SHARE))
    with daemons.spawn(
        image=list(images), engine=require(request.param), timeout=HANG_S
    ) as daemon:
        yield daemon


def nothing_left(address: str, others: int = 0) -> None:
    """Wait until the daemon serves nobody but `others`, then look at its books."""
    until(lambda: len(sessions(address)) == others, "the dead are gone")
    report = query(address)
    assert report["used"]["connections"] == others + 1
    if not others:
        assert report["engine"]["credit_used"] == 0
        assert report["used"]["slots"] == report["used"]["data_size"] == 0


def at_rest(pid: int) -> list[str]:
    """Return what the daemon has open when our last question is forgotten."""
    samples = []
    for _ in range(20):
        samples.append(descriptors(pid))
        time.sleep(0.005)
    return min(samples, key=len)


def kill(address: str, count: int, seed: int) -> None:
    told = run_python(sys.executable, NURSERY, address, count, seed, SHARE)
    assert told == ""


def witnessed(daemon: daemons.Daemon, warm_up: int, count: int) -> int:
    """Kill workers beside a witness; return how many blocks it has checked."""
    witness = subprocess.Popen(
        [sys.executable, "-c", WITNESS, daemon.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert witness.stdin is not None
    assert witness.stdout is not None
    with witness:
        assert witness.stdout.readline() == "ready\n"
        kill(daemon.address, warm_up, 1)
        nothing_left(daemon.address, others=1)
        before = at_rest(daemon.pid), resident(daemon.pid)
        kill(daemon.address, count, 2)
        nothing_left(daemon.address, others=1)
        after = at_rest(daemon.pid), resident(daemon.pid)
        witness.stdin.write("enough\n")
        witness.stdin.flush()
        checked = int(witness.stdout.readline())
    assert witness.returncode == 0
    assert len(after[0]) == len(before[0]), (before[0], after[0])
    assert after[1] - before[1] <= MAY_GROW, f"{before[1]} bytes, then {after[1]}"
    return checked


@pytest.mark.timeout(600)
def test_five_hundred_workers_are_killed(daemon: daemons.Daemon) -> None:
    """500 in all, 170 with each engine, under load; one that checks lives on."""
    assert witnessed(daemon, 20, 150) > 500
    nothing_left(daemon.address)


@pytest.mark.soak
def test_five_hundred_workers_are_killed_with_each_engine(
    daemon: daemons.Daemon,
) -> None:
    for _ in dealt(range(10)):
        assert witnessed(daemon, 20, 200) > 500
        nothing_left(daemon.address)


def test_a_stopped_worker_is_not_dead(daemon: daemons.Daemon) -> None:
    script = """
import sys, rings
disk = rings.connect(sys.argv[1]).block("disk0")
while disk.read(0, 512) != b"stop" * 128:
    print("on", flush=True)
"""
    worker = start_python(sys.executable, script, daemon.address)
    assert worker.stdout is not None
    worker.stdout.readline()
    with rings.connect(daemon.address).block("disk0") as disk:
        with frozen(worker.pid):
            for n in range(300):
                disk.write(4096 + n * 512, bytes(512))
            assert len(sessions(daemon.address)) == 2
            assert ring(daemon.address, worker.pid)["requests"] > 0
        disk.write(0, b"stop" * 128)
    finish(worker)
    nothing_left(daemon.address)


def test_a_worker_killed_while_stopped_is_dead(daemon: daemons.Daemon) -> None:
    script = """
import sys, rings
disk = rings.connect(sys.argv[1]).block("disk0")
print("on", flush=True)
while True:
    disk.read(0, 512)
"""
    worker = start_python(sys.executable, script, daemon.address)
    assert worker.stdout is not None
    worker.stdout.readline()
    os.kill(worker.pid, signal.SIGSTOP)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    nothing_left(daemon.address)


def test_connect_and_close_in_a_storm(daemon: daemons.Daemon) -> None:
    def storm(turns: int) -> None:
        for turn in range(turns):
            with rings.connect(daemon.address).block("disk0", slots=8) as disk:
                if turn % 2:
                    disk.read(0, 512)

    def all_storm(turns: int) -> tuple[int, int, int]:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(storm, turns) for _ in range(4)]:
                done.result(HANG_S)
        nothing_left(daemon.address)
        fds = len(at_rest(daemon.pid)), len(os.listdir("/proc/self/fd"))
        return *fds, resident(daemon.pid)

    before, after = all_storm(5), all_storm(40)
    assert before[:2] == after[:2]
    assert after[2] - before[2] <= MAY_GROW
