"""A ring replaced in use: nothing is lost, asked again or answered twice.

Every block of the image says its own number, so data of another request, or of none,
is noticed.  Writers have blocks of their own and read back what they wrote.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import daemons
import rings
from rings import layout
from rings.block import Block
from rings.codec import encode
from rings.errors import BrokenError, BusyError, LayoutError
from rings.messages import Reconfigure, Switched, Unchanged
from rings.rendezvous import query

from .interp import start_python
from .served import (
    ENGINES,
    HANG_S,
    descriptors,
    frozen,
    require,
    sessions,
    until,
)

BLOCK = 512
BLOCKS = 4096
SIZES = (32, 64, 256, 16, 1024, 128)
READERS = 3


CONTENT_BLOCKS = 2 * BLOCKS


def new_image(folder: Path) -> Path:
    path = folder / "disk.img"
    path.write_bytes(b"".join(map(numbered, range(CONTENT_BLOCKS))))
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return new_image(tmp_path)


@pytest.fixture(scope="module", params=ENGINES)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[daemons.Daemon]:
    image = new_image(tmp_path_factory.mktemp("resize"))
    engine = require(request.param)
    with daemons.spawn(image=image, engine=engine, timeout=HANG_S) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemons.Daemon]:
    """One daemon for what has nothing to do with the engine."""
    image = new_image(tmp_path_factory.mktemp("plain"))
    with daemons.spawn(image=image, timeout=HANG_S, max_slots=1024) as daemon:
        yield daemon


def numbered(number: int, salt: int = 0) -> bytes:
    return struct.pack("<QQ", number, salt) * (BLOCK // 16)


def opened(daemon: daemons.Daemon, slots: int = 64, **options: int) -> Block:
    return rings.connect(daemon.address).block("disk0", slots=slots, **options)


def used(daemon: daemons.Daemon) -> dict[str, int]:
    counts: dict[str, int] = query(daemon.address)["used"]
    return counts


def alone(daemon: daemons.Daemon, slots: int) -> Callable[[], bool]:
    """Return what tells that one ring of so many slots is all there is."""
    return lambda: used(daemon)["slots"] == slots


def settled(daemon: daemons.Daemon) -> list[str]:
    """Return what the daemon has open once that stays the same for a while."""
    looks: list[list[str]] = []

    def same() -> bool:
        looks.append(descriptors(daemon.pid))
        time.sleep(0.02)
        return len(looks) > 3 and looks[-1] == looks[-2] == looks[-3]

    until(same, "the daemon's descriptors stay the same")
    return looks[-1]


# -- what stays --------------------------------------------------------------------


@pytest.mark.parametrize("ring_layout", [layout.PADDED, layout.XEN])
def test_buffers_handles_and_depth_live_on(
    daemon: daemons.Daemon, start: int, ring_layout: int
) -> None:
    with opened(daemon, start=start, ring_layout=ring_layout) as disk:
        grant = disk.pool.alloc(64 * BLOCK)
        wait_fd = disk.fileno()
        for turn, slots in enumerate(SIZES * 2):
            with disk.batch():
                handles = [
                    disk.submit_read(
                        (turn + n) * BLOCK, grant, at=n * BLOCK, length=BLOCK
                    )
                    for n in range(10)
                ]
                disk.resize(slots)
            later = disk.submit_read(0, grant, at=60 * BLOCK, length=BLOCK)
            assert [handle.result(HANG_S) for handle in (*handles, later)] == [
                BLOCK
            ] * 11
            with grant.view() as view:
                wanted = b"".join(numbered(turn + n) for n in range(10))
                assert view[: 10 * BLOCK] == wanted
            assert disk.depth.slots == disk.depth.limit == slots
        assert disk.fileno() == wait_fd
        counts = disk.statistics()
        assert counts["requests"] == counts["responses"] == 11 * len(SIZES) * 2
        until(alone(daemon, SIZES[-1]), "the last elder's slots are given back")
        (told,) = sessions(daemon.address)
        assert (told["resizes"], told["geometry"]["slots"]) == (12, SIZES[-1])
        grant.revoke()


def test_it_can_be_filled_to_its_new_size(daemon: daemons.Daemon) -> None:
    """Bigger than ever before, and back: no entry of the table is lost."""
    with opened(daemon, 16, data_size=1 << 20) as disk:
        grant = disk.pool.alloc(1024 * BLOCK)
        for slots in (256, 1024, 8, 512):
            disk.resize(slots)
            with disk.batch():
                handles = [
                    disk.submit_read(n * BLOCK, grant, at=n * BLOCK, length=BLOCK)
                    for n in range(slots)
                ]
                assert disk.statistics()["credit"] == 0
            assert {handle.result(HANG_S) for handle in handles} == {BLOCK}
            with grant.view() as view:
                for n in range(slots):
                    assert view[n * BLOCK : (n + 1) * BLOCK] == numbered(n)


def test_a_size_may_be_given_as_an_order(plain: daemons.Daemon) -> None:
    with opened(plain) as disk:
        disk.resize(order=3)
        assert disk.depth.slots == 256
        for wrong in ({}, {"slots": 64, "order": 1}):
            with pytest.raises(ValueError, match="either slots or order"):
                disk.resize(**wrong)


def test_auto_depth_has_the_new_room(plain: daemons.Daemon) -> None:
    connection = rings.connect(plain.address)
    with connection.block("disk0", slots=8, depth="auto") as disk:
        disk.resize(512)
        assert disk.depth.limit <= 8
        grant = disk.pool.alloc(512 * BLOCK)
        offsets = array("Q", [BLOCK * (n % BLOCKS) for n in range(4000)])
        while disk.depth.highest <= 8:
            disk.read_many(offsets, grant, length=BLOCK)
        disk.resize(4)
        assert disk.depth.limit <= 4
        disk.read_many(offsets, grant, length=BLOCK)


# -- under load --------------------------------------------------------------------


@contextmanager
def load(disk: Block, seed: int) -> Iterator[list[int]]:
    """Read, write and move many blocks from several threads; check every byte."""
    over = threading.Event()
    turns = [0] * (READERS + 2)

    def read_singly(which: int) -> None:
        chance = random.Random(seed * 100 + which)
        while not over.is_set():
            number = chance.randrange(BLOCKS)
            assert disk.read(number * BLOCK, BLOCK) == numbered(number)
            turns[which] += 1

    def read_many(which: int) -> None:
        numbers = [(7 * n + which) % BLOCKS for n in range(64)]
        offsets = array("Q", [number * BLOCK for number in numbers])
        wanted = b"".join(map(numbered, numbers))
        with disk.pool.alloc(64 * BLOCK) as grant:
            while not over.is_set():
                disk.read_many(offsets, grant, length=BLOCK, depth=50)
                with grant.view() as view:
                    assert view == wanted
                turns[which] += 1

    def write_and_read_back(which: int) -> None:
        with disk.pool.alloc(8 * BLOCK) as grant:
            while not over.is_set():
                wanted = b"".join(numbered(n, turns[which]) for n in range(8))
                with grant.view() as view:
                    view[:] = wanted
                at = BLOCKS * BLOCK
                writes = [
                    disk.submit_write(at + n * BLOCK, grant, at=n * BLOCK, length=BLOCK)
                    for n in range(8)
                ]
                assert [each.result(HANG_S) for each in writes] == [BLOCK] * 8
                assert disk.read(at, 8 * BLOCK) == wanted
                turns[which] += 1

    jobs = [read_singly] * READERS + [read_many, write_and_read_back]
    with ThreadPoolExecutor(len(jobs)) as threads:
        running = [threads.submit(job, n) for n, job in enumerate(jobs)]
        try:
            yield turns
        finally:
            over.set()
            for each in running:
                each.result(HANG_S)


def resize_under_load(disk: Block, times: int, seed: int) -> None:
    with load(disk, seed) as turns:
        for turn in range(times):
            disk.resize(SIZES[turn % len(SIZES)], timeout=HANG_S)
        done = list(turns)
        until(lambda: all(now > then for now, then in zip(turns, done, strict=True)),
              "every thread has gone on")  # fmt: skip
    counts = disk.statistics()
    assert counts["requests"] == counts["responses"]
    assert counts["in_flight"] == 0


def test_threads_under_load_lose_nothing(daemon: daemons.Daemon, start: int) -> None:
    with opened(daemon, start=start) as disk:
        resize_under_load(disk, 40, start)


@pytest.mark.parametrize("wait", ["spin:50", "busy"])
def test_those_who_spin_lose_nothing(plain: daemons.Daemon, wait: str) -> None:
    with rings.connect(plain.address).block("disk0", slots=64, wait=wait) as disk:
        resize_under_load(disk, 10, 1)


@pytest.mark.soak
def test_a_thousand_times(daemon: daemons.Daemon) -> None:
    before = settled(daemon)
    with opened(daemon) as disk:
        resize_under_load(disk, 1000, 7)
    until(lambda: descriptors(daemon.pid) == before, "the daemon has let go of all")


def test_two_who_resize_take_turns(plain: daemons.Daemon) -> None:
    with opened(plain) as disk, ThreadPoolExecutor(4) as threads:
        list(threads.map(disk.resize, SIZES * 4))
        assert disk.read(0, BLOCK) == numbered(0)
        assert disk.depth.slots in SIZES


# -- what is held up ---------------------------------------------------------------

HOLDING = """
import os, sys, time
sys.modules["holding"] = sys.modules["__main__"]
from daemons.backend import OP_READ, Backend
from daemons.__main__ import main

class Holding(Backend):
    size = 1 << 20

    def serve(self, batch):
        for place, request in enumerate(batch):
            while request.offset == 4096 and not os.path.exists(sys.argv[1]):
                time.sleep(0.001)
            for part in request.segments:
                part[:] = bytes([request.offset // 512 % 251]) * len(part)
            batch.respond(place, request.length)

if __name__ == "__main__":
    main(sys.argv[2:])
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Block, Path, daemons.Daemon]]:
    """A device that keeps what is read at 4096 until a file is there."""
    gate = tmp_path / "gate"
    (tmp_path / "holding.py").write_text(HOLDING)
    program = (sys.executable, str(tmp_path / "holding.py"), str(gate))
    with (
        daemons.spawn(
            kind="python", backend="holding:Holding", program=program, timeout=HANG_S
        ) as daemon,
        rings.connect(daemon.address).block("python0", slots=16) as disk,
    ):
        yield disk, gate, daemon
        gate.touch()


def test_a_request_that_takes_long_holds_up_nobody(held) -> None:
    disk, gate, _ = held
    grant = disk.pool.alloc(2 * BLOCK)
    slow = disk.submit_read(4096, grant, length=BLOCK)
    disk.resize(64)
    assert disk.read(BLOCK, BLOCK) == b"\1" * BLOCK
    assert not slow.done()
    assert disk.statistics()["in_flight"] == 1
    with pytest.raises(TimeoutError, match=r"replaced before.*resize again"):
        disk.resize(32, timeout=0.01)
    assert disk.depth.slots == 64
    assert slow.cancel(HANG_S) in ("done", "running")
    gate.touch()
    assert slow.result(HANG_S) == BLOCK
    disk.resize(32, timeout=HANG_S)
    assert disk.read(BLOCK, BLOCK) == b"\1" * BLOCK
    grant.revoke()


def test_it_can_be_closed_while_the_elder_holds_something(held) -> None:
    disk, gate, daemon = held
    grant = disk.pool.alloc(BLOCK)
    disk.submit_read(4096, grant)
    disk.resize(64)
    gate.touch()
    disk.close()
    until(lambda: not any(used(daemon).values()) or used(daemon)["slots"] == 0, "free")


def test_a_daemon_that_does_not_answer_leaves_the_ring_in_use(
    plain: daemons.Daemon,
) -> None:
    with opened(plain) as disk:
        for _ in range(3):
            with frozen(plain.pid), pytest.raises(TimeoutError, match="Reconfigured"):
                disk.resize(128, timeout=0.02)
            assert disk.depth.slots == 64
            assert disk.read(BLOCK, BLOCK) == numbered(1)
        disk.resize(128, timeout=HANG_S)
        assert disk.read(BLOCK, BLOCK) == numbered(1)
        until(alone(plain, 128), "what came too late was given back")


# -- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "slots", "named"),
    [
        ({"max_slots": 128}, 256, "--max-slots"),
        ({"max_slots_per_uid": 128}, 128, "--max-slots-per-uid"),
        ({"max_slots_total": 128}, 128, "--max-slots-total"),
    ],
)
def test_a_limit_is_told_and_the_old_ring_stays(
    image: Path, options: dict[str, int], slots: int, named: str
) -> None:
    with (
        daemons.spawn(image=image, timeout=HANG_S, **options) as daemon,
        opened(daemon) as disk,
    ):
        for _ in range(3):
            with pytest.raises(BusyError, match=named):
                disk.resize(slots)
            assert disk.read(BLOCK, BLOCK) == numbered(1)
        disk.resize(32)
        assert disk.read(BLOCK, BLOCK) == numbered(1)
        until(alone(daemon, 32), "slots refused were never booked")


@pytest.mark.parametrize("slots", [3, 100, -64, 1 << 17])
def test_a_size_that_cannot_be_is_refused_here(
    plain: daemons.Daemon, slots: int
) -> None:
    with opened(plain) as disk:
        with pytest.raises(ValueError, match="power of two"):
            disk.resize(slots)
        assert disk.read(BLOCK, BLOCK) == numbered(1)


def test_a_daemon_of_an_older_release_is_named(plain: daemons.Daemon) -> None:
    with opened(plain) as disk:
        older = disk.session.features - {"reconfigure"}
        object.__setattr__(disk.session, "features", older)
        with pytest.raises(LayoutError, match="same release"):
            disk.resize(128)
        assert disk.read(BLOCK, BLOCK) == numbered(1)


def test_no_descriptor_left_leaves_the_old_ring(plain: daemons.Daemon) -> None:
    """Here it fails after the daemon has made the ring: that one is declined."""
    with opened(plain) as disk:
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            os.close(taken.pop())
        try:
            with pytest.raises((OSError, rings.RingError)):
                disk.resize(128)
        finally:
            for fd in taken:
                os.close(fd)
        assert disk.read(BLOCK, BLOCK) == numbered(1)
        until(alone(plain, 64), "what was declined is given back")
        disk.resize(128)
        assert disk.read(BLOCK, BLOCK) == numbered(1)


def read_until_broken(disk: Block) -> None:
    """The ring is faster than the socket: a read or two may still be answered."""

    def broken() -> bool:
        try:
            return disk.read(BLOCK, BLOCK) != numbered(1)
        except rings.RingError:  # also our own: a message that we never asked for
            return True

    until(broken, "the daemon has ended the session")


@pytest.mark.parametrize("said", [Switched(), Unchanged("why", "not")], ids=repr)
def test_a_word_out_of_order_ends_that_session_only(
    plain: daemons.Daemon, said: Switched | Unchanged
) -> None:
    with opened(plain) as witness, opened(plain) as hostile:
        hostile.session.socket.send(encode(said))
        read_until_broken(hostile)
        assert witness.read(BLOCK, BLOCK) == numbered(1)


def test_rings_asked_for_and_never_used_are_given_back(plain: daemons.Daemon) -> None:
    with opened(plain) as witness:
        before = settled(plain)
        for _ in range(20):
            hostile = opened(plain)
            hostile.session.socket.send(encode(Reconfigure(1024, 0)))
            hostile.session.socket.send(encode(Reconfigure(1024, 0)))
            read_until_broken(hostile)
            hostile.close()
        assert witness.read(BLOCK, BLOCK) == numbered(1)
        until(lambda: descriptors(plain.pid) == before, "nothing of them is left")
        until(alone(plain, 64), "nor of their slots")


# -- death -------------------------------------------------------------------------


def test_a_daemon_that_dies_meanwhile_names_what_is_in_doubt(image: Path) -> None:
    with daemons.spawn(image=image, timeout=HANG_S) as daemon, opened(daemon) as disk:
        grant = disk.pool.alloc(BLOCK)
        with frozen(daemon.pid):
            disk.submit_read(0, grant)
            killer = threading.Timer(0.05, daemon.kill)
            killer.start()
            with pytest.raises(BrokenError, match="in doubt: read of 512") as caught:
                disk.resize(128, timeout=HANG_S)
            assert caught.value.in_flight == ("read of 512 bytes at 0",)
            killer.join()
        with pytest.raises(BrokenError):
            disk.read(0, BLOCK)


WORKER = """
import random, sys
from array import array
from threading import Thread
import rings

disk = rings.connect(sys.argv[1]).block("disk0", slots=64)
chance = random.Random(int(sys.argv[2]))
offsets = array("Q", [512 * n for n in range(256)])

def read():
    grant = disk.pool.alloc(64 * 512)
    while True:
        disk.read_many(offsets, grant, length=512)

Thread(target=read, daemon=True).start()
print("ready", flush=True)
while True:
    disk.resize(1 << chance.randrange(3, 9))
"""


def storm(daemon: daemons.Daemon, kills: int) -> None:
    with opened(daemon) as witness:
        until(lambda: len(sessions(daemon.address)) == 1, "the witness is alone")
        before = settled(daemon)
        chance = random.Random(kills)
        for turn in range(kills):
            worker = start_python(sys.executable, WORKER, daemon.address, turn)
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            time.sleep(chance.random() * 0.02)
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
            assert witness.read(BLOCK, BLOCK) == numbered(1)
        until(lambda: descriptors(daemon.pid) == before, "nothing of the dead is left")
        until(alone(daemon, 64), "nor of their slots")


def test_workers_killed_while_they_resize_leave_nothing(daemon: daemons.Daemon) -> None:
    storm(daemon, 4)


@pytest.mark.soak
def test_many_workers_killed_while_they_resize(daemon: daemons.Daemon) -> None:
    storm(daemon, 100)


def test_a_daemon_told_to_stop_meanwhile_answers_everything(image: Path) -> None:
    """Whatever a resize meets, a request is answered or named, none is lost."""
    with daemons.spawn(image=image, timeout=HANG_S) as daemon, opened(daemon) as disk:
        grant = disk.pool.alloc(16 * BLOCK)
        handles = [
            disk.submit_read(n * BLOCK, grant, at=n * BLOCK, length=BLOCK)
            for n in range(16)
        ]
        disk.resize(128)
        handles.append(disk.submit_flush())
        assert daemon.stop() == 0
        assert [handle.result(HANG_S) for handle in handles] == [BLOCK] * 16 + [0]
        with pytest.raises(BrokenError):
            disk.resize(64)
