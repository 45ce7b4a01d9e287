"""The daemon dies, drains, or is asked by a forked process: who is told what."""

from __future__ import annotations

import os
import signal
import sys
from array import array
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import daemons
import rings
from rings.block import Block
from rings.errors import BrokenError, ClosedError

from .interp import run_python
from .served import ENGINES, HANG_S, frozen, require, ring, sessions, until

SIZE = 1 << 20


@pytest.fixture(params=ENGINES)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[daemons.Daemon]:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(SIZE))
    engine = require(request.param)
    with daemons.spawn(image=image, engine=engine, timeout=HANG_S) as daemon:
        yield daemon


@pytest.fixture
def disk(daemon: daemons.Daemon) -> Iterator[Block]:
    with rings.connect(daemon.address).block("disk0", slots=64) as block:
        yield block


def broken(answer: Future[object], pid: int) -> tuple[str, ...]:
    """Return what the BrokenError of a waiter names as in doubt."""
    error = answer.exception(HANG_S)
    assert isinstance(error, BrokenError), error
    assert f"(daemon pid {pid})" in str(error)
    return error.in_flight


# -- death ---------------------------------------------------------------------


def test_every_waiter_is_told_what_is_in_doubt(
    daemon: daemons.Daemon, disk: Block
) -> None:
    offsets = array("Q", range(0, 100 * 512, 512))
    many = disk.pool.alloc(100 * 512)
    grant = disk.pool.alloc(4096)
    with ThreadPoolExecutor(8) as pool:
        with frozen(daemon.pid):
            handle = disk.submit_write(8192, grant)
            waiters = [
                pool.submit(disk.read, 512, 1024),
                pool.submit(handle.result),
                pool.submit(disk.flush),
                pool.submit(disk.readinto, bytearray(200 << 10), 0),
                pool.submit(disk.read_many, offsets, many, length=512, depth=8),
            ]
            until(lambda: disk.statistics()["in_flight"] >= 3 + 3 + 8, "all ask")
            daemon.process.kill()
        named = [broken(waiter, daemon.pid) for waiter in waiters]
    assert "read of 1024 bytes at 512" in named[0]
    assert "write of 4096 bytes at 8192" in named[1]
    assert "flush" in named[2]
    assert sum(text.startswith("read of 512 bytes") for text in named[4]) == 8
    assert grant.pins == 1
    for again in (disk.flush, handle.result, lambda: disk.read(0, 512)):
        with pytest.raises(BrokenError):
            again()


def test_nobody_waits_and_the_next_call_is_told(
    daemon: daemons.Daemon, disk: Block
) -> None:
    daemon.kill()
    with pytest.raises(BrokenError, match=r"gone|closed|hung") as caught:
        disk.read(0, 512)
    assert caught.value.in_flight == ("read of 512 bytes at 0",)


def test_a_full_ring_is_told(daemon: daemons.Daemon, disk: Block) -> None:
    grant = disk.pool.alloc(512)
    with ThreadPoolExecutor(1) as pool, frozen(daemon.pid):
        for _ in range(64):
            disk.submit_read(0, grant)
        waiter = pool.submit(disk.read, 0, 512)
        until(lambda: disk.statistics()["full"] > 0, "the ring is full")
        daemon.process.kill()
        assert len(broken(waiter, daemon.pid)) == 64


def test_what_was_answered_before_the_end_is_not_in_doubt(
    daemon: daemons.Daemon, disk: Block
) -> None:
    """Each handle tells, also when nobody has looked at its answer before."""
    grant = disk.pool.alloc(8 * 4096)
    with ExitStack() as held:
        with frozen(daemon.pid):
            handles = [
                disk.submit_write(n * 4096, grant, at=n * 4096, length=4096)
                for n in range(8)
            ]
            held.enter_context(disk.batch())  # so that it is not published
            late = disk.submit_write(0, grant, length=512)
        until(lambda: ring(daemon.address)["responses"] == 8, "all are answered")
        daemon.kill()
    with pytest.raises(BrokenError) as caught:
        late.result(HANG_S)
    assert caught.value.in_flight == ("write of 512 bytes at 0",)
    assert not late.answered
    assert [handle.answered for handle in handles] == [True] * 8
    assert [handle.result() for handle in handles] == [4096] * 8


@pytest.mark.parametrize("wait", ["spin:50", "busy"])
def test_a_spinning_waiter_is_told(daemon: daemons.Daemon, wait: str) -> None:
    with (
        rings.connect(daemon.address).block("disk0", wait=wait) as disk,
        ThreadPoolExecutor(1) as pool,
    ):
        with frozen(daemon.pid):
            waiter = pool.submit(disk.read, 0, 512)
            until(lambda: disk.statistics()["in_flight"] == 1, "it asks")
            daemon.process.kill()
        assert broken(waiter, daemon.pid)


# -- drain ---------------------------------------------------------------------


def test_what_is_in_flight_is_answered_before_the_end(
    daemon: daemons.Daemon, disk: Block
) -> None:
    content = disk.read(0, 64 * 4096)
    grant = disk.pool.alloc(64 * 4096)
    with frozen(daemon.pid):
        handles = [
            disk.submit_read(n * 4096, grant, at=n * 4096, length=4096)
            for n in range(64)
        ]
        daemon.process.send_signal(signal.SIGTERM)
    assert [handle.result(HANG_S) for handle in handles] == [4096] * 64
    with grant.view() as view:
        assert view == content
    assert daemon.process.wait(HANG_S) == 0
    with pytest.raises(BrokenError, match="shut down"):
        disk.read(0, 512)


def test_waiters_are_answered_before_the_end(
    daemon: daemons.Daemon, disk: Block
) -> None:
    with ThreadPoolExecutor(8) as pool:
        with frozen(daemon.pid):
            waiters = [pool.submit(disk.read, n * 512, 512) for n in range(8)]
            until(lambda: disk.statistics()["in_flight"] == 8, "all ask")
            daemon.process.send_signal(signal.SIGTERM)
        assert [len(each.result(HANG_S)) for each in waiters] == [512] * 8
    assert daemon.process.wait(HANG_S) == 0


def test_a_frontend_that_keeps_asking_is_told(
    daemon: daemons.Daemon, disk: Block
) -> None:
    def ask() -> None:
        while True:
            disk.read(0, 512)

    with ThreadPoolExecutor(4) as pool:
        waiters = [pool.submit(ask) for _ in range(4)]
        until(lambda: disk.statistics()["responses"] > 100, "they are served")
        daemon.process.send_signal(signal.SIGTERM)
        for waiter in waiters:
            broken(waiter, daemon.pid)
    assert daemon.process.wait(HANG_S) == 0


# -- fork ----------------------------------------------------------------------

FORKED = """
import os, sys, rings
from rings.errors import ClosedError

disk = rings.connect(sys.argv[1]).block("disk0")
grant = disk.pool.alloc(4096)
before = disk.read(0, 4096)
handle = disk.submit_read(0, grant)
asks = [
    lambda: disk.read(0, 512),
    lambda: disk.write(0, b"!" * 512),
    lambda: disk.flush(),
    lambda: disk.submit_read(0, grant),
    lambda: handle.result(),
    lambda: disk.read(0, 1 << 20),
]
if os.fork() == 0:
    told = 0
    for ask in asks:
        try:
            ask()
        except ClosedError as error:
            told += "connect again in the child" in str(error)
        except BaseException as error:
            print(repr(error), flush=True)
    with rings.connect(sys.argv[1]).block("disk0") as own:
        told += own.read(0, 4096) == before
    os._exit(told)
assert os.waitstatus_to_exitcode(os.wait()[1]) == len(asks) + 1
assert handle.result(60) == 4096
assert disk.read(0, 4096) == before
disk.flush()
disk.close()
print("good")
"""


def test_a_forked_child_is_told_and_its_parent_goes_on(daemon: daemons.Daemon) -> None:
    assert run_python(sys.executable, FORKED, daemon.address) == "good\n"


ORPHANED = """
import os, signal, sys, rings

disk = rings.connect(sys.argv[1]).block("disk0")
disk.read(0, 512)
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.close(write)
    os.read(0, 1)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_with_the_socket_does_not_keep_a_dead_session(
    daemon: daemons.Daemon, tmp_path: Path
) -> None:
    import subprocess

    hold, release = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", ORPHANED, daemon.address],
            stdin=hold,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            assert parent.wait(HANG_S) == -signal.SIGKILL
            until(lambda: not sessions(daemon.address), "the session has ended")
            os.kill(child, 0)
    finally:
        os.close(release)
        os.close(hold)
    until(lambda: gone(child), "the child has ended")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_closing_the_parents_own_end_in_the_child(daemon: daemons.Daemon) -> None:
    """A child that closes what it inherited does not end its parent's session."""
    script = """
import os, sys, rings
disk = rings.connect(sys.argv[1]).block("disk0")
if os.fork() == 0:
    try:
        disk.close()
    except BaseException:
        pass
    os._exit(0)
os.wait()
assert len(disk.read(0, 512)) == 512
disk.close()
print("good")
"""
    assert run_python(sys.executable, script, daemon.address) == "good\n"


def test_closed_here_is_closed_error(disk: Block) -> None:
    disk.close()
    with pytest.raises(ClosedError):
        disk.flush()
