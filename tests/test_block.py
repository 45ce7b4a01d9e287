"""A block device's handles: cancelled, late, interrupted; and the memory they hold."""

from __future__ import annotations

import errno
import os
import random
import re
import sys
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import daemons
import rings
from rings import layout
from rings.block import Block
from rings.errors import BusyError, ClosedError

from .interp import run_python
from .served import ENGINES, HANG_S, frozen, raises, require, ring, until

SIZE = 1 << 20
SLOTS = 16
SOON_S = 0.05


@pytest.fixture(scope="module", params=ENGINES)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[daemons.Daemon]:
    path = tmp_path_factory.mktemp("block") / "disk.img"
    path.write_bytes(random.Random(2).randbytes(SIZE))
    engine = require(request.param)
    with daemons.spawn(image=path, engine=engine, timeout=HANG_S) as daemon:
        yield daemon


@pytest.fixture
def disk(daemon: daemons.Daemon) -> Iterator[Block]:
    with rings.connect(daemon.address).block("disk0", slots=SLOTS) as block:
        yield block


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemons.Daemon]:
    path = tmp_path_factory.mktemp("mock") / "disk.img"
    path.write_bytes(random.Random(2).randbytes(SIZE))
    with daemons.spawn(image=path, engine="mock", timeout=HANG_S) as daemon:
        yield daemon


@pytest.fixture
def slow(mock: daemons.Daemon) -> Iterator[Block]:
    """A device of the mock engine: what it takes in one turn it can always cancel."""
    with rings.connect(mock.address).block("disk0", slots=SLOTS) as block:
        yield block


def in_flight(block: Block) -> int:
    return block.statistics()["in_flight"]


def settle(block: Block) -> None:
    """Wait until all that was given up is answered."""
    until(lambda: block.submit_flush().result(HANG_S) == 0 == in_flight(block), "idle")


def full_capacity(block: Block) -> None:
    """Fill every slot at once: nothing that was given up still holds one."""
    settle(block)
    with block.pool.alloc(SLOTS * 512) as grant:
        with block.batch() as batch:
            handles = [
                batch.submit_read(n * 512, grant, at=n * 512, length=512)
                for n in range(SLOTS)
            ]
            assert in_flight(block) == SLOTS
        assert [handle.result(HANG_S) for handle in handles] == [512] * SLOTS
    assert in_flight(block) == 0


# -- handles -------------------------------------------------------------------


def test_a_handle_tells_its_story(disk: Block) -> None:
    with disk.pool.alloc(4096) as grant:
        handle = disk.submit_read(512, grant)
        assert (handle.op, handle.offset, handle.length) == (layout.OP_READ, 512, 4096)
        assert str(handle) == "read of 4096 bytes at 512"
        assert handle.result(HANG_S) == 4096
        assert handle.done()
        assert handle.result() == 4096
        assert "answered 4096" in repr(handle)
        with raises(errno.ENXIO):
            disk.submit_read(SIZE, grant).result(HANG_S)


def test_done_takes_what_has_come(disk: Block) -> None:
    with disk.pool.alloc(4096) as grant:
        handle = disk.submit_read(0, grant)
        until(handle.done, "the read is answered")
        assert grant.pins == 0


def test_more_handles_than_slots(disk: Block) -> None:
    with disk.pool.alloc(512) as grant:
        handles = [disk.submit_read(n * 512, grant) for n in range(5 * SLOTS)]
        assert {handle.result(HANG_S) for handle in handles} == {512}


def test_a_batch_larger_than_the_ring(disk: Block) -> None:
    with disk.pool.alloc(512) as grant:
        with disk.batch() as batch:
            handles = [batch.submit_read(n * 512, grant) for n in range(3 * SLOTS)]
        assert {handle.result(HANG_S) for handle in handles} == {512}


def test_dropped_handles_hold_no_slot(disk: Block) -> None:
    with disk.pool.alloc(512) as grant:
        for n in range(3 * SLOTS):
            disk.submit_read(n * 512, grant)
        settle(disk)
        assert grant.pins == 0
    full_capacity(disk)


# -- cancel --------------------------------------------------------------------


def test_cancelled_or_running(slow: Block, mock: daemons.Daemon) -> None:
    """Of two cancels of one request the first stops it, the second comes too late."""
    with slow.pool.alloc(4096) as grant, ThreadPoolExecutor(2) as pool:
        with frozen(mock.pid):
            handle = slow.submit_read(0, grant)
            answers = [pool.submit(handle.cancel, HANG_S) for _ in range(2)]
            until(lambda: in_flight(slow) == 3, "both cancels are in the ring")
        assert sorted(each.result(HANG_S) for each in answers) == [
            "cancelled",
            "running",
        ]
        with raises(errno.ECANCELED):
            handle.result(HANG_S)
        assert grant.pins == 0
    full_capacity(slow)


def test_cancel_of_what_was_done(slow: Block, mock: daemons.Daemon) -> None:
    with slow.pool.alloc(4096) as grant:
        handle = slow.submit_read(0, grant)
        until(lambda: ring(mock.address)["responses"] == 1, "the read is answered")
        assert not handle.answered
        assert handle.cancel(HANG_S) == "done"
        assert handle.result(HANG_S) == 4096
        assert handle.cancel(HANG_S) == "done"
    assert ring(mock.address)["requests"] == 2


def test_cancelled_writes_write_nothing(slow: Block, mock: daemons.Daemon) -> None:
    before = slow.read(0, 8 * 512)
    with slow.pool.alloc(512) as grant, ThreadPoolExecutor(8) as pool:
        with grant.view() as view:
            view[:] = b"\xaa" * 512
        with frozen(mock.pid):
            handles = [slow.submit_write(n * 512, grant) for n in range(8)]
            answers = [pool.submit(each.cancel, HANG_S) for each in handles[::2]]
            until(lambda: in_flight(slow) == 12, "the cancels are in the ring")
        assert [each.result(HANG_S) for each in answers] == ["cancelled"] * 4
        assert [each.result(HANG_S) for each in handles[1::2]] == [512] * 4
    after = slow.read(0, 8 * 512)
    for n in range(8):
        wanted = b"\xaa" * 512 if n % 2 else before[n * 512 : n * 512 + 512]
        assert after[n * 512 : n * 512 + 512] == wanted


def test_cancel_on_every_engine_is_one_of_three(disk: Block) -> None:
    before = disk.read(0, 4096)
    with disk.pool.alloc(SLOTS * 4096) as grant:
        for _ in range(20):
            handles = [disk.submit_read(0, grant, at=0, length=4096) for _ in range(8)]
            for handle in handles:
                outcome = handle.cancel(HANG_S)
                try:
                    moved = handle.result(HANG_S)
                except OSError as error:
                    assert error.errno == errno.ECANCELED  # noqa: PT017 - or no error
                    assert outcome == "cancelled"
                else:
                    assert moved == 4096
                    assert outcome in ("done", "running")
    assert disk.read(0, 4096) == before
    full_capacity(disk)


# -- time-outs -----------------------------------------------------------------


def test_late_answers(disk: Block, daemon: daemons.Daemon) -> None:
    """A time-out says who is late, keeps the memory, and leaves the request alive."""
    data = random.Random(4).randbytes(4096)
    who = rf"'disk0' on {daemon.address} \(daemon pid {daemon.pid}\)"
    grant = disk.pool.alloc(4096)
    with grant.view() as view:
        view[:] = data
    with frozen(daemon.pid):
        with pytest.raises(TimeoutError, match=rf"write of 4096 bytes at 0.*{who}"):
            disk.write(0, grant, timeout=SOON_S)
        assert grant.pins == 1
        with pytest.raises(BusyError, match="in flight"):
            grant.revoke()
        handle = disk.submit_write(8192, grant)
        with pytest.raises(TimeoutError, match=f"within 0.05 s from {who}; 2 in fl"):
            handle.result(SOON_S)
        assert grant.pins == 2
        assert not handle.done()
    assert handle.result(HANG_S) == 4096
    settle(disk)
    assert grant.pins == 0
    grant.revoke()
    assert disk.read(0, 4096) == data
    full_capacity(disk)


@pytest.mark.parametrize(
    "what",
    [
        lambda disk: disk.read(0, 512, timeout=SOON_S),
        lambda disk: disk.read(0, 300 << 10, timeout=SOON_S),
        lambda disk: disk.readinto(bytearray(4096), 0, timeout=SOON_S),
        lambda disk: disk.write(0, bytes(4096), timeout=SOON_S),
        lambda disk: disk.flush(timeout=SOON_S),
        lambda disk: disk.discard(0, 512, timeout=SOON_S),
        lambda disk: disk.write_zeroes(0, 512, timeout=SOON_S),
    ],
    ids=["read", "large", "readinto", "write", "flush", "discard", "write_zeroes"],
)
def test_every_operation_can_be_late(what, disk: Block, daemon: daemons.Daemon) -> None:
    with frozen(daemon.pid):
        with pytest.raises(TimeoutError, match="in flight"):
            what(disk)
        assert in_flight(disk) > 0
    full_capacity(disk)


def test_many_blocks_can_be_late(disk: Block, daemon: daemons.Daemon) -> None:
    offsets = array("Q", range(0, 100 * 512, 512))
    grant = disk.pool.alloc(100 * 512)
    with frozen(daemon.pid):
        with pytest.raises(TimeoutError):
            disk.read_many(offsets, grant, length=512, depth=8, timeout=SOON_S)
        assert grant.pins == in_flight(disk) == 8
        with pytest.raises(BusyError):
            grant.revoke()
    settle(disk)
    assert grant.pins == 0
    grant.revoke()
    full_capacity(disk)


def test_a_full_ring_can_be_late(disk: Block, daemon: daemons.Daemon) -> None:
    with disk.pool.alloc(512) as grant:
        with frozen(daemon.pid):
            handles = [disk.submit_read(0, grant) for _ in range(SLOTS)]
            with pytest.raises(TimeoutError, match="16 in flight"):
                disk.read(0, 512, timeout=SOON_S)
        assert [handle.result(HANG_S) for handle in handles] == [512] * SLOTS
    full_capacity(disk)


# -- Ctrl-C --------------------------------------------------------------------

# Stops the daemon, begins to wait, interrupts itself while it sleeps, lets the daemon
# go on; then everything must be answered and every slot and pin free again.
INTERRUPTED = """
import os, signal, sys, threading, time
from array import array
import rings
from tests.served import all_stopped

address, pid, slots, way = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
disk = rings.connect(address).block("disk0", slots=slots)
grant = disk.pool.alloc(slots * 512)

def stop(pid):
    # every thread of it: the one that serves may outrun the one that takes the signal
    os.kill(pid, signal.SIGSTOP)
    tasks = f"/proc/{pid}/task"
    while any(open(f"{tasks}/{one}/stat").read().rpartition(")")[2].split()[0] != "T"
              for one in os.listdir(tasks)):
        time.sleep(0.001)

def wait_credit():
    for _ in range(slots):
        disk.submit_read(0, grant, at=0, length=512)
    disk.readinto(bytearray(512), 0)

ways = {
    "call": lambda: disk.readinto(grant, 0),
    "bounce": lambda: disk.read(0, 512),
    "wait": lambda: disk.submit_read(0, grant).result(),
    "flush": lambda: disk.flush(),
    "many": lambda: disk.read_many(
        array("Q", range(0, 1000 * 512, 512)), grant, length=512, depth=8),
    "large": lambda: disk.read(0, 900 << 10),
    "credit": wait_credit,
}

def interrupt(sleeps):
    while disk.statistics()["sleeps"] == sleeps:
        time.sleep(0.001)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

for turn in range(3):
    stop(pid)
    helper = threading.Thread(target=interrupt, args=(disk.statistics()["sleeps"],))
    helper.start()
    try:
        ways[way]()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("not interrupted")
    finally:
        helper.join()
        held = disk.statistics()["in_flight"]
        os.kill(pid, signal.SIGCONT)
    assert held > 0
    while disk.statistics()["in_flight"] or grant.pins:
        disk.submit_flush().result(60)
    handles = [disk.submit_read(0, grant, at=0, length=512) for _ in range(slots)]
    assert {handle.result(60) for handle in handles} == {512}
grant.revoke()
disk.close()
print("good")
"""


@pytest.mark.parametrize(
    "way", ["call", "bounce", "wait", "flush", "many", "large", "credit"]
)
def test_ctrl_c_while_it_waits(way: str, mock: daemons.Daemon) -> None:
    told = run_python(sys.executable, INTERRUPTED, mock.address, mock.pid, SLOTS, way)
    assert told == "good\n"


# Interrupts at any instruction, thousands of times: whatever a request in flight names
# must stay pinned, or its memory could be taken back under the device.
STORM = """
import signal, sys
from array import array
import rings

address, slots, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
disk = rings.connect(address).block("disk0", slots=slots)
grant = disk.pool.alloc(slots * 512)
offsets = array("Q", range(0, 100 * 512, 512))

class Interrupt(BaseException):
    pass

def interrupt(number, frame):
    raise Interrupt

def work():
    disk.readinto(grant, 0)
    handle = disk.submit_read(0, grant)
    with disk.batch():
        for _ in range(4):
            disk.submit_write(0, grant)
    handle.result()
    disk.read_many(offsets, grant, length=512, depth=4)

signal.signal(signal.SIGALRM, interrupt)
caught = 0
for turn in range(turns):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + turn % 997 * 1e-6)
        while True:
            work()
    except Interrupt:
        caught += 1
    named = len(disk._requester._front.in_flight())
    assert grant.pins >= named, (turn, grant.pins, named)
assert caught == turns
for _ in range(slots):
    disk.flush()
assert (disk.statistics()["in_flight"], grant.pins) == (0, 0)
print("good")
"""


def test_what_is_in_flight_stays_pinned_at_any_interrupt(disk: Block) -> None:
    address = disk.session.address
    assert run_python(sys.executable, STORM, address, SLOTS, 3000) == "good\n"


# -- the end -------------------------------------------------------------------


def test_close_is_refused_while_a_thread_waits(
    disk: Block, daemon: daemons.Daemon
) -> None:
    with disk.pool.alloc(512) as grant, ThreadPoolExecutor(1) as pool:
        with frozen(daemon.pid):
            sleeps = disk.statistics()["sleeps"]
            answer = pool.submit(disk.readinto, grant, 0)
            until(lambda: disk.statistics()["sleeps"] > sleeps, "the thread waits")
            with pytest.raises(BusyError, match="waiting"):
                disk.close()
        assert answer.result(HANG_S) == 512
        assert disk.read(0, 512)


def test_closed(daemon: daemons.Daemon) -> None:
    disk = rings.connect(daemon.address).block("disk0")
    assert not disk.closed
    disk.close()
    disk.close()
    assert disk.closed
    for ask in (
        lambda: disk.read(0, 512),
        disk.flush,
        lambda: disk.write(0, bytes(512)),
    ):
        with pytest.raises(ClosedError):
            ask()


def test_close_with_requests_in_flight(daemon: daemons.Daemon) -> None:
    """They are answered or cancelled; nothing writes to the memory afterwards."""
    disk = rings.connect(daemon.address).block("disk0")
    grant = disk.pool.alloc(64 * 4096)
    for n in range(64):
        disk.submit_read(n * 4096, grant, at=n * 4096, length=4096)
    disk.close()
    assert disk.closed


@pytest.mark.parametrize(
    ("ask", "number", "words"),
    [
        (lambda disk: disk.read(1, 512), errno.EINVAL, "its block_size, 512"),
        (lambda disk: disk.write(0, b"x"), errno.EINVAL, "its block_size, 512"),
        (lambda disk: disk.read(0, 0), errno.EINVAL, "more than 0 bytes"),
        (lambda disk: disk.read(SIZE, 512), errno.ENXIO, f"has {SIZE} bytes"),
        (
            lambda disk: disk.write(SIZE, bytes(512)),
            errno.ENOSPC,
            f"has {SIZE} bytes: 'write of 512 bytes at {SIZE}'",
        ),
        (lambda disk: disk.echo(1), errno.EOPNOTSUPP, "it can read, write"),
        (
            lambda disk: disk.submit_read(7, disk.pool.alloc(512)).result(),
            errno.EINVAL,
            "its block_size, 512: 'read of 512 bytes at 7'",
        ),
    ],
)
def test_a_refusal_says_which_rule_was_broken(ask, number, words, disk: Block) -> None:
    with pytest.raises(OSError, match=re.escape(words)) as caught:
        ask(disk)
    assert caught.value.errno == number


def test_a_write_to_what_is_read_only_says_so(tmp_path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(SIZE))
    with (
        daemons.spawn(
            image=tmp_path / "disk.img", read_only=True, timeout=HANG_S
        ) as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
        pytest.raises(OSError, match="--read-only: 'write of 512 bytes at 0'"),
    ):
        disk.write(0, bytes(512))


def test_what_went_wrong_is_not_hidden_by_a_daemon_that_ends_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rings.rendezvous.Session.close.__defaults__", (SOON_S,))
    delay = {"kind": "delay", "servers": 1, "service_time": "60s"}
    with daemons.spawn(**delay, drain_timeout=1, timeout=HANG_S) as daemon:
        connection = rings.connect(daemon.address)
        with pytest.raises(KeyboardInterrupt) as caught:
            interrupt_within(connection.block("delay0"))
        assert "to send Closed" in caught.value.__notes__[0]
        with (
            pytest.raises(TimeoutError, match="to send Closed"),
            connection.block("delay0") as disk,
        ):
            disk.submit_flush()


def interrupt_within(disk: Block) -> None:
    with disk:
        disk.submit_flush()
        raise KeyboardInterrupt


def test_lookups(daemon: daemons.Daemon) -> None:
    connection = rings.connect(daemon.address)
    assert [facts.name for facts in connection.devices()] == ["disk0"]
    with pytest.raises(LookupError, match="disk0"):
        connection.block("disk1")
    assert daemon.address in repr(connection)


def test_threads_and_descriptors_are_few(daemon: daemons.Daemon) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with rings.connect(daemon.address).block("disk0") as disk:
        disk.read(0, 512)
        assert threading.active_count() == before[0]
        assert len(os.listdir("/proc/self/fd")) <= before[1] + 5
