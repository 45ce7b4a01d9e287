"""Threads that share a frontend: one leads, the others are handed their answers."""

from __future__ import annotations

import random
import signal
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import daemons
import rings
from rings import layout
from rings.block import Block

from .served import ENGINES, HANG_S, frozen, require, until

THREADS = 8
SHARE = 256 << 10


@pytest.fixture(scope="module", params=ENGINES)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[daemons.Daemon]:
    path = tmp_path_factory.mktemp("threads") / "disk.img"
    path.write_bytes(bytes(THREADS * SHARE))
    with daemons.spawn(
        image=path, engine=require(request.param), timeout=HANG_S
    ) as daemon:
        yield daemon


def shared(
    daemon: daemons.Daemon, slots: int, wait: str = "block", **more: int
) -> Block:
    connection = rings.connect(daemon.address)
    return connection.block("disk0", slots=slots, data_size=8 << 20, wait=wait, **more)


class Worker:
    """Writes and reads its own share of the image, and knows what it must hold."""

    def __init__(self, disk: Block, number: int) -> None:
        self.disk = disk
        self.base = number * SHARE
        self.chance = random.Random(number)
        self.content = bytearray(disk.read(self.base, SHARE))

    def run(self, turns: int) -> None:
        steps = [self.write, self.read, self.large, self.handles, self.many]
        for _ in range(turns):
            self.chance.choice(steps)()
        assert self.disk.read(self.base, SHARE) == self.content

    def place(self, size: int) -> int:
        return self.chance.randrange((SHARE - size) // 512 + 1) * 512

    def fresh(self, at: int, size: int) -> bytes:
        self.content[at : at + size] = data = self.chance.randbytes(size)
        return data

    def write(self) -> None:
        size = self.chance.choice([512, 4096, 8192])
        at = self.place(size)
        self.disk.write(self.base + at, self.fresh(at, size))

    def read(self) -> None:
        size = self.chance.choice([512, 4096, 8192])
        at = self.place(size)
        data = self.disk.read(self.base + at, size)
        assert data == self.content[at : at + size]

    def large(self) -> None:
        at = self.place(100 << 10)
        self.disk.write(self.base + at, self.fresh(at, 100 << 10))

    def handles(self) -> None:
        with self.disk.pool.alloc(16 * 512) as grant:
            with self.disk.batch() as batch:
                handles = [
                    batch.submit_read(
                        self.base + n * 512, grant, at=n * 512, length=512
                    )
                    for n in range(16)
                ]
            for handle in reversed(handles):
                assert handle.result(HANG_S) == 512
            with grant.view() as view:
                assert view == self.content[: 16 * 512]

    def many(self) -> None:
        places = self.chance.sample(range(SHARE // 512), 40)
        offsets = array("Q", [self.base + place * 512 for place in places])
        with self.disk.pool.alloc(40 * 512) as grant:
            with grant.view() as view:
                for number, place in enumerate(places):
                    data = self.fresh(place * 512, 512)
                    view[number * 512 : number * 512 + 512] = data
            self.disk.write_many(offsets, grant, length=512, depth=12)


def all_run(disk: Block, turns: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        workers = [Worker(disk, number) for number in range(THREADS)]
        for done in [pool.submit(worker.run, turns) for worker in workers]:
            done.result(HANG_S)
    assert disk.statistics()["in_flight"] == 0


@pytest.mark.parametrize("wait", ["block", "spin:50"])
@pytest.mark.parametrize("slots", [4, 64])
def test_eight_threads_share_a_device(
    daemon: daemons.Daemon, slots: int, wait: str, start: int
) -> None:
    with shared(daemon, slots, wait, start=start) as disk:
        all_run(disk, 30)


@pytest.mark.parametrize("kind", [layout.PADDED, layout.XEN], ids=["padded", "xen"])
def test_eight_threads_share_one_slot(daemon: daemons.Daemon, kind: int) -> None:
    """No credit most of the time: nobody is overlooked for ever, nothing recurses."""
    with shared(daemon, 1, ring_layout=kind) as disk:
        all_run(disk, 10)


@pytest.mark.soak
def test_eight_threads_for_longer(daemon: daemons.Daemon) -> None:
    for slots in (1, 2, 4, 64):
        with shared(daemon, slots) as disk:
            all_run(disk, 1000)


def test_a_thread_that_waits_stops_no_other(daemon: daemons.Daemon) -> None:
    """Threads that may not wait any longer go, while others lead or follow."""
    with shared(daemon, 16) as disk, ThreadPoolExecutor(THREADS) as pool:
        with frozen(daemon.pid):
            patient = [pool.submit(disk.read, 0, 512) for _ in range(THREADS // 2)]
            until(lambda: disk.statistics()["in_flight"] == THREADS // 2, "all ask")
            hasty = [
                pool.submit(disk.read, 512, 512, 0.05) for _ in range(THREADS // 2)
            ]
            for each in hasty:
                assert isinstance(each.exception(HANG_S), TimeoutError)
            with disk.pool.alloc(512) as grant:
                handle = disk.submit_read(0, grant)
                assert not handle.done()
                assert not any(each.done() for each in patient)
                assert grant.pins == 1
                daemon.process.send_signal(signal.SIGCONT)
                assert handle.result(HANG_S) == 512
        for each in patient:
            assert len(each.result(HANG_S)) == 512


def test_the_lead_is_handed_over(daemon: daemons.Daemon) -> None:
    """The leader leaves first, by time-out; a follower must lead and be answered."""
    with shared(daemon, 16) as disk, ThreadPoolExecutor(THREADS) as pool:
        with frozen(daemon.pid):
            sleeps = disk.statistics()["sleeps"]
            leader = pool.submit(disk.read, 0, 512, 0.3)
            until(lambda: disk.statistics()["sleeps"] > sleeps, "the leader sleeps")
            followers = [pool.submit(disk.read, 512, 512) for _ in range(4)]
            until(lambda: disk.statistics()["in_flight"] == 5, "the followers ask")
            assert isinstance(leader.exception(HANG_S), TimeoutError)
        assert {len(each.result(HANG_S)) for each in followers} == {512}


def test_followers_are_answered_while_the_leader_waits(daemon: daemons.Daemon) -> None:
    """The leader waits for what never comes; what comes meanwhile is handed out."""
    with shared(daemon, 16) as disk, ThreadPoolExecutor(2) as pool:
        never = rings.handle.Handle(disk._requester, 0, 0, 0)
        sleeps = disk.statistics()["sleeps"]
        leader = pool.submit(disk._requester._front.result, never, 0.5)
        until(lambda: disk.statistics()["sleeps"] > sleeps, "the leader sleeps")
        for _ in range(50):
            assert len(disk.read(0, 512)) == 512
        assert leader.result(HANG_S) is None
        assert threading.active_count() <= 4
