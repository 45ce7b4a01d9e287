"""Many rings, one loop: whose turn it is, and what a noisy ring costs the others.

The engine is stepped turn by turn on the test's own thread, so that what each ring is
given in a turn can be counted, not timed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

import daemons
import rings
from daemons._engine import ffi, lib
from daemons.device import RingSpec
from daemons.devices import open_block
from daemons.engine import MAX_EVENTS, Engine
from rings import layout, protocol
from rings.channel import EventChannel
from rings.memory import Region
from rings.requester import Requester

from .served import ENGINES, HANG_S, require, sessions, until

MIB = 1 << 20
SLOTS = 64
TURN_REQUESTS, TURN_BYTES = 32, MIB  # of engine.c


class Stepped:
    """A mock engine that takes one turn at a time."""

    def __init__(self, image: Path, stack: ExitStack) -> None:
        self.engine = Engine("mock")
        stack.callback(self.engine.stop)
        self._stack = stack
        self._handle = self.engine._engine
        assert lib.engine_start(self._handle) == 0
        self._events = ffi.new("struct engine_event[]", MAX_EVENTS)
        self.device = open_block("disk0", image)
        stack.callback(os.close, self.device.fd)

    def attach(self) -> tuple[int, Requester]:
        """Return the number of a new ring, and its frontend."""
        shape = layout.split_geometry(slots=SLOTS, data_size=2 * MIB)
        region = Region.create(shape.size, kind=layout.KIND_SPLIT)
        protocol.write_split(region.buffer, shape)
        front, back = EventChannel.pair()
        ours, theirs = socket.socketpair()
        session = SimpleNamespace(
            region=region,
            geometry=shape,
            channel=front,
            socket=ours,
            device=self.device,
            address="nowhere",
            peer=SimpleNamespace(pid=os.getpid()),
            check=lambda: True,
        )
        spec = RingSpec(region, shape, self.device, back.fileno(), back.notify_fd)
        number = self.engine._attach(spec, None)
        requester = Requester(session, 0)

        def let_go() -> None:
            lib.engine_detach(self._handle, number, False)
            while number in self.engine._rings:
                self.turn()
            requester.close()
            for each in (region, front, back, ours, theirs):
                each.close()

        self._stack.callback(let_go)
        return number, requester

    def turn(self) -> None:
        lib.engine_wake(self._handle)
        count = lib.engine_run(self._handle, self._events, MAX_EVENTS)
        for i in range(count):
            self.engine._dispatch(self._events[i])

    def taken(self, number: int) -> int:
        return self.engine.ring_statistics(number)["requests"]

    def answered(self, number: int) -> int:
        return self.engine.ring_statistics(number)["responses"]


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Stepped]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    with ExitStack() as stack:
        yield Stepped(image, stack)


def fill(requester: Requester, size: int) -> None:
    """Publish as many reads of a size as the ring has slots."""
    grant = requester.pool.alloc(size)
    with requester.held_back():
        for _ in range(SLOTS):
            requester.submit(layout.OP_READ, 0, size, grant, 0)


def test_a_turn_is_bounded_in_bytes_and_in_requests(stepped: Stepped) -> None:
    """Beside 64 MiB of large reads, 64 small ones are taken in two turns."""
    large, ask_large = stepped.attach()
    small, ask_small = stepped.attach()
    fill(ask_large, MIB)
    fill(ask_small, 4096)
    served: list[tuple[int, int]] = []
    while sum(each[0] for each in served) < SLOTS:
        before = stepped.taken(large), stepped.taken(small)
        stepped.turn()
        after = stepped.taken(large), stepped.taken(small)
        served.append((after[0] - before[0], after[1] - before[1]))
    assert max(each[0] for each in served) * MIB <= TURN_BYTES
    assert [each[1] for each in served[:3]] == [TURN_REQUESTS, TURN_REQUESTS, 0]
    assert [each[0] for each in served] == [1] * SLOTS


def test_of_many_rings_none_waits_for_a_second_turn_of_another(
    stepped: Stepped,
) -> None:
    rings_ = [stepped.attach() for _ in range(9)]
    for place, (_, requester) in enumerate(rings_):
        fill(requester, (512, 4096, 65536)[place % 3])
    while any(stepped.taken(number) < SLOTS for number, _ in rings_):
        before = [stepped.taken(number) for number, _ in rings_]
        stepped.turn()
        for (number, _), taken in zip(rings_, before, strict=True):
            assert stepped.taken(number) > taken or taken == SLOTS


def test_control_alone_a_ring_has_every_turn_to_itself(stepped: Stepped) -> None:
    number, requester = stepped.attach()
    fill(requester, 4096)
    turns = 0
    while stepped.answered(number) < SLOTS:
        stepped.turn()
        turns += 1
    assert stepped.taken(number) == SLOTS
    assert turns >= 2


# -- the real thing ------------------------------------------------------------


@pytest.fixture(scope="module", params=ENGINES)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[daemons.Daemon]:
    path = tmp_path_factory.mktemp("fair") / "disk.img"
    path.write_bytes(bytes(4 * MIB))
    with daemons.spawn(
        image=path, engine=require(request.param), timeout=HANG_S
    ) as daemon:
        yield daemon


def meanwhile(pool: ThreadPoolExecutor, body: Callable[[], None]) -> Callable[[], int]:
    """Run `body` again and again on a thread; return what ends it and counts."""
    enough = threading.Event()

    def repeat() -> int:
        turns = 0
        while not enough.is_set():
            body()
            turns += 1
        return turns

    running = pool.submit(repeat)

    def end() -> int:
        enough.set()
        return running.result(HANG_S)

    return end


def ring_of(address: str, slots: int) -> dict[str, int]:
    """Return the counters of the ring that has so many slots."""
    (told,) = [t for t in sessions(address) if t["geometry"]["slots"] == slots]
    counters: dict[str, int] = told["ring"]
    return counters


def test_small_reads_beside_large_ones(daemon: daemons.Daemon) -> None:
    """Both make progress: while one is answered 300 times the other is, too."""
    connection = rings.connect(daemon.address)
    with (
        connection.block("disk0", slots=32, data_size=2 * MIB) as large,
        connection.block("disk0", slots=32) as small,
        ThreadPoolExecutor(1) as pool,
    ):
        offsets = array("Q", [0] * 64)
        wide = large.pool.alloc(512 << 10)
        end = meanwhile(
            pool, lambda: large.read_many(offsets, wide, length=128 << 10, depth=4)
        )
        until(lambda: large.statistics()["responses"] > 0, "the large one is served")
        before = large.statistics()["responses"]
        for n in range(300):
            assert small.read(n * 4096, 4096) == bytes(4096)
        until(lambda: large.statistics()["responses"] > before, "both are served")
        assert end() >= 0


def test_a_storm_of_events_wakes_the_daemon_seldom(daemon: daemons.Daemon) -> None:
    """Notifications without a request: their bell is armed later and later."""
    connection = rings.connect(daemon.address)
    with (
        connection.block("disk0", slots=64) as noisy,
        connection.block("disk0", slots=32) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        notify_fd = noisy.session.channel.notify_fd

        def notify() -> None:
            for _ in range(64):
                os.eventfd_write(notify_fd, 1)

        began = time.monotonic()
        end = meanwhile(pool, notify)
        content = bytes(4096)
        for n in range(300):
            assert other.read(n % 100 * 4096, 4096) == content
        writes = end() * 64
        told = ring_of(daemon.address, 64)
        lasted_s = time.monotonic() - began
        # Three wake-ups are free; then at most one in 4 ms, later one in 64 ms.
        assert told["wakes"] == told["spurious_wakes"] <= 4 + lasted_s / 0.004
        assert writes > 2 * told["wakes"]
        assert noisy.read(0, 4096) == content
        assert noisy.read_many(array("Q", [0] * 500), noisy.pool.alloc(512), length=512)
        assert ring_of(daemon.address, 64)["requests"] == 501
