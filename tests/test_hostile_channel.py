"""A frontend that turns the shared eventfds against the daemon."""

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

import daemons
import rings
from daemons import Daemon
from rings import Block, layout

FULL = (1 << 64) - 2
SECTOR = bytes(range(256)) * 2


@pytest.fixture(scope="module", params=["uring", "threads"])
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    image = tmp_path_factory.mktemp("image") / "disk.img"
    image.write_bytes(SECTOR * 2048)
    with daemons.spawn(image=image, engine=request.param) as running:
        yield running


def make_blocking(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def ask_to_be_notified(block: Block) -> None:
    """Set rsp_event so that the next response is told."""
    offset = block.session.geometry.ring_offset
    ring = block.session.region.buffer[offset : offset + 256]
    words, at = ring.cast("I"), layout.PADDED_WORDS
    words[at.rsp_event // 4] = words[at.rsp_prod // 4] + 1
    words.release()
    ring.release()


def test_a_full_and_blocking_eventfd_does_not_stop_the_daemon(daemon: Daemon) -> None:
    door = rings.connect(daemon.address)
    with door.block("disk0") as hostile, door.block("disk0") as honest:
        bell = hostile.fileno()
        make_blocking(bell)
        with hostile.pool.alloc(4096) as grant:
            for _ in range(200):
                ask_to_be_notified(hostile)
                os.eventfd_write(bell, FULL)
                handle = hostile.submit_read(0, grant)
                assert honest.read(0, 512, timeout=30) == SECTOR
                assert os.eventfd_read(bell) >= FULL
                assert handle.result(30) == 4096
                while readable(bell):
                    os.eventfd_read(bell)


def test_an_eventfd_emptied_behind_its_poll_does_not_stop_the_daemon(
    daemon: Daemon,
) -> None:
    door = rings.connect(daemon.address)
    with door.block("disk0") as hostile, door.block("disk0") as honest:
        bell = hostile.session.channel.notify_fd
        make_blocking(bell)
        child = os.fork()
        if child == 0:
            while True:
                os.eventfd_write(bell, 1)
        try:
            for _ in range(20_000):
                os.eventfd_read(bell)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert honest.read(0, 512, timeout=30) == SECTOR
