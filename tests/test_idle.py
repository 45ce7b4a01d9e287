"""What requests cost in system calls, and that idling costs nothing."""

from __future__ import annotations

import random
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import daemons
import rings
from rings.rendezvous import query

from .interp import start_python
from .served import ENGINES, HANG_S, cpu_ticks, refusal, require, ring

SIZE = 4 << 20
DEPTH = 32
REQUESTS = 3200
EDGE = 4  # the first wake-up and the last going to sleep are no request's
IDLE_S = 2.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("idle") / "disk.img"
    path.write_bytes(random.Random(8).randbytes(SIZE))
    return path


@pytest.fixture(scope="module", params=[0, 50], ids=["block", "spin"])
def daemon(request: pytest.FixtureRequest, image: Path) -> Iterator[daemons.Daemon]:
    with daemons.spawn(
        image=image, engine=require("uring"), spin_us=request.param, timeout=HANG_S
    ) as daemon:
        yield daemon


def wait_of(daemon: daemons.Daemon) -> str:
    return "spin:50" if "--spin-us=50" in daemon.process.args else "block"


def counters(daemon: daemons.Daemon, disk: rings.block.Block) -> dict[str, int]:
    told = ring(daemon.address)
    return {
        "requests": told["requests"],
        "enters": query(daemon.address)["engine"]["enters"],
        "from the daemon": told["notifications_sent"],
        "from the frontend": disk.statistics()["notifications"],
    }


def test_system_calls_at_depth_32(daemon: daemons.Daemon) -> None:
    """A sixteenth of an io_uring_enter and of a notification a request, at most."""
    chance = random.Random(1)
    connection = rings.connect(daemon.address)
    with (
        connection.block("disk0", wait=wait_of(daemon)) as disk,
        disk.pool.alloc(DEPTH * 4096) as grant,
    ):
        before = counters(daemon, disk)
        for _ in range(REQUESTS // DEPTH):
            with disk.batch() as batch:
                handles = [
                    batch.submit_read(
                        chance.randrange(SIZE // 4096) * 4096,
                        grant,
                        at=n * 4096,
                        length=4096,
                    )
                    for n in range(DEPTH)
                ]
            for handle in handles:
                handle.result(HANG_S)
        after = counters(daemon, disk)
    spent = {name: after[name] - before[name] for name in after}
    assert spent.pop("requests") == REQUESTS
    each = {name: (count - EDGE) / REQUESTS for name, count in spent.items()}
    assert max(each.values()) <= 1 / 16, each


def test_system_calls_of_many_blocks(daemon: daemons.Daemon) -> None:
    chance = random.Random(2)
    offsets = [chance.randrange(SIZE // 4096) * 4096 for _ in range(REQUESTS)]
    connection = rings.connect(daemon.address)
    with (
        connection.block("disk0", wait=wait_of(daemon)) as disk,
        disk.pool.alloc(DEPTH * 4096) as grant,
    ):
        before = counters(daemon, disk)
        disk.read_many(array("Q", offsets), grant, length=4096, depth=DEPTH)
        after = counters(daemon, disk)
    spent = {name: after[name] - before[name] for name in after}
    assert spent.pop("requests") == REQUESTS
    each = {name: (count - EDGE) / REQUESTS for name, count in spent.items()}
    assert max(each.values()) <= 1 / 16, each


# Serves one request, so that everything is awake once, then waits for ever.
IDLER = """
import sys, rings
from rings.handle import Handle
disk = rings.connect(sys.argv[1]).block("disk0", wait=sys.argv[2])
disk.read(0, 4096)
print("idle", flush=True)
disk._requester._front.result(Handle(disk._requester, 0, 0, 0), None)
"""


def test_idling_costs_nothing(image: Path, tmp_path: Path) -> None:
    """No tick of the clock in two seconds, of any engine or of its waiting client."""
    with ExitStack() as stack:
        processes = {}
        for kind in ENGINES:
            if refusal(kind):
                continue
            for spin in (0, 50):
                copy = tmp_path / f"{kind}{spin}.img"
                copy.write_bytes(bytes(1 << 20))
                daemon = stack.enter_context(
                    daemons.spawn(image=copy, engine=kind, spin_us=spin, timeout=HANG_S)
                )
                wait = "spin:50" if spin else "block"
                client = start_python(sys.executable, IDLER, daemon.address, wait)
                stack.callback(client.communicate)
                stack.callback(client.kill)
                assert client.stdout is not None
                assert client.stdout.readline() == "idle\n"
                processes[f"{kind} daemon, {wait}"] = daemon.pid
                processes[f"{kind} client, {wait}"] = client.pid
        time.sleep(0.2)
        before = {name: cpu_ticks(pid) for name, pid in processes.items()}
        time.sleep(IDLE_S)
        used = {name: cpu_ticks(pid) - before[name] for name, pid in processes.items()}
    assert max(used.values()) <= 1, used
