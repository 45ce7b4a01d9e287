"""A daemon dies and another takes its place, again and again, under workers that go on.

Each worker writes and checks blocks of its own, reads back what is in doubt after each
break, and ends with every block as it should be.  A worker that takes for done what is
in doubt, the control, must find a wrong block.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import daemons
from rings.rendezvous import query

from .interp import child_environment
from .served import ENGINES, HANG_S, frozen, require, until
from .shares import dealt

WORKERS = 3
BLOCKS = 64
PAGE = 4096
LOAD = 200  # requests; who has answered so many is not done with who asked

WORKER = """
import json, os, random, select, sys
import rings

path, number, blind = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "blind"
PAGE, BLOCKS, BATCH = 4096, 64, 16
chance = random.Random(number)
known, asked = [0] * BLOCKS, {}
told = dict(breaks=0, doubtful=0, done=0, torn=0)
held = set()

def at(block):
    return (number * BLOCKS + block) * PAGE

def content(block, times):
    numbers = at(block).to_bytes(8, "little") + times.to_bytes(8, "little")
    return numbers * (PAGE // 16)

def holds(disk, block):
    return disk.read(at(block), PAGE)

def turn(disk, data):
    *chosen, other = chance.sample(range(BLOCKS), BATCH + 1)
    with disk.batch(), data.view() as view:
        for place, block in enumerate(chosen):
            view[place * PAGE :][:PAGE] = content(block, known[block] + 1)
            asked[block] = disk.submit_write(
                at(block), data, at=place * PAGE, length=PAGE
            )
    assert holds(disk, other) == content(other, known[other])
    for handle in asked.values():
        assert handle.result() == PAGE
    take_answers()

def take_answers():
    for block in [block for block in asked if blind or asked[block].answered]:
        known[block] += 1
        del asked[block]

def settle(disk):
    for block in list(asked):
        found, wanted = holds(disk, block), content(block, known[block] + 1)
        told["done"] += found == wanted
        told["torn"] += found not in (wanted, content(block, known[block]))
        if found != wanted:
            disk.write(at(block), wanted)
        known[block] += 1
        del asked[block]

def holdings():
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), maps.read().count("memfd:rings")

connection = rings.connect(path, patience=60)
finished = False
while not finished:
    with connection.block("disk0", slots=64, data_size=1 << 20) as disk:
        held.add(holdings())
        try:
            settle(disk)
            data = disk.pool.alloc(BATCH * PAGE)
            turn(disk, data)
            while not select.select([0], [], [], 0)[0]:
                turn(disk, data)
            for block in range(BLOCKS):
                assert holds(disk, block) == content(block, known[block])
            finished = True
        except rings.BrokenError:
            take_answers()
            told["breaks"] += 1
            told["doubtful"] += len(asked)
print(json.dumps({**told, "held": sorted(held), "known": known}))
"""

Crew = list["subprocess.Popen[str]"]


@contextmanager
def crew(path: str, manner: str) -> Iterator[Crew]:
    """Start the workers; whatever happens, none is left."""
    workers: Crew = []
    try:
        for number in range(WORKERS):
            command = [sys.executable, "-c", WORKER, path, str(number), manner]
            pipe = subprocess.PIPE
            workers.append(
                subprocess.Popen(
                    command,
                    stdin=pipe,
                    stdout=pipe,
                    stderr=pipe,
                    text=True,
                    env=child_environment(),
                )
            )
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def content(number: int, block: int, times: int) -> bytes:
    offset = (number * BLOCKS + block) * PAGE
    return (offset.to_bytes(8, "little") + times.to_bytes(8, "little")) * (PAGE // 16)


def make_image(path: Path) -> None:
    blocks = [(number, block) for number in range(WORKERS) for block in range(BLOCKS)]
    path.write_bytes(b"".join(content(*which, 0) for which in blocks))


def someone_failed(workers: Crew) -> bool:
    return any(worker.poll() is not None for worker in workers)


def go_down(daemon: daemons.Daemon, how: str, load: int, workers: Crew) -> None:
    """End a daemon after so many requests, in one of the ways that daemons end."""
    until(
        lambda: (
            query(daemon.address)["engine"]["requests"] >= load
            or someone_failed(workers)
        ),
        "they are served",
    )
    if how == "drain":
        assert daemon.stop() == 0
    elif how == "pause":
        with frozen(daemon.pid):
            time.sleep(0.02)
        daemon.kill()
    elif how == "frozen":
        with frozen(daemon.pid):
            time.sleep(0.02)
            daemon.kill()
    else:
        daemon.kill()


def ended(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a worker tells after its last check."""
    output, errors = worker.communicate("enough\n", timeout=HANG_S)
    assert worker.returncode == 0, errors
    told: dict[str, Any] = json.loads(output)
    return told


def check(told: list[dict[str, Any]], breaks: int) -> None:
    """Everyone got through, had its breaks, and held as much at the end as at first."""
    for each in told:
        assert sum(each["known"])
        assert len(each["held"]) == 1, each["held"]
        assert each["held"][0][1] > 0
    assert sum(each["breaks"] for each in told) >= breaks
    assert sum(each["doubtful"] for each in told) > 0


def outlive(place: Path, engine: str, kills: int, seed: int) -> list[dict[str, Any]]:
    """Let the daemon end so often under its workers; return what these tell."""
    chance = random.Random(seed)
    some = (0, 1, *(chance.randrange(LOAD, 3000) for _ in range(8)))
    loads = [chance.choice(some) for _ in range(kills)]
    loads[0] = loads[-1] = LOAD
    image, path = place / f"disk{seed}.img", str(place / "s")
    make_image(image)
    ways = ["kill"] * 6 + ["drain", "pause", "frozen"]
    with crew(path, "careful") as workers:
        for load in loads:
            with daemons.spawn(image=image, socket=path, engine=engine) as daemon:
                go_down(daemon, chance.choice(ways), load, workers)
        with daemons.spawn(image=image, socket=path, engine=engine):
            told = [ended(worker) for worker in workers]
    parts = [
        content(number, block, times)
        for number, each in enumerate(told)
        for block, times in enumerate(each["known"])
    ]
    assert image.read_bytes() == b"".join(parts)
    assert not os.path.lexists(path)
    check(told, sum(load >= LOAD for load in loads))
    return told


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_outlive_their_daemon(tmp_path: Path, engine: str) -> None:
    outlive(tmp_path, require(engine), 6, 1)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_workers_outlive_their_daemon_for_long(tmp_path: Path, engine: str) -> None:
    require(engine)
    for part in dealt(range(10)):
        told = outlive(tmp_path, engine, 40, 100 + part)
        print([{**each, "known": sum(each["known"])} for each in told])


def test_who_takes_for_done_what_is_in_doubt_is_wrong(tmp_path: Path) -> None:
    """Nothing that a stopped daemon is asked for is done when it is killed."""
    image, path = tmp_path / "disk.img", str(tmp_path / "s")
    make_image(image)
    with crew(path, "blind") as workers:
        for _ in range(3):
            with daemons.spawn(image=image, socket=path) as daemon:
                go_down(daemon, "frozen", 300, workers)
        with daemons.spawn(image=image, socket=path):
            until(lambda: someone_failed(workers), "a wrong block is found")
        failed = [worker for worker in workers if worker.poll() is not None]
        assert "AssertionError" in failed[0].communicate()[1]
