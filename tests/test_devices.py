"""What may be served, and what a frontend is told of it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import devices
from daemons.backend import Backend
from daemons.device import Device
from rings.errors import BusyError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 64)
    return path


@pytest.fixture
def opened() -> Iterator[list[Device]]:
    """Collect devices to be closed."""
    found: list[Device] = []
    yield found
    for device in found:
        devices.close(device)


def test_image(image: Path, opened: list[Device]) -> None:
    disk = devices.open_block("disk0", image)
    opened.append(disk)
    facts = devices.facts(disk)
    assert (facts.name, facts.kind, facts.size) == ("disk0", "block", 16384)
    assert (facts.block_size, facts.read_only, facts.direct) == (512, False, False)
    assert "write" in facts.ops
    assert fcntl.fcntl(disk.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert os.get_blocking(disk.fd)
    assert os.pread(disk.fd, 2, 255) == b"\xff\0"


@pytest.mark.parametrize(("size", "block"), [(1, 1), (511, 1), (512, 512), (513, 1)])
def test_block_size_follows_the_size(
    tmp_path: Path, opened: list[Device], size: int, block: int
) -> None:
    (tmp_path / "i").write_bytes(b"x" * size)
    opened.append(devices.open_block("disk0", tmp_path / "i"))
    assert opened[0].block_size == block


def test_block_size_can_be_asked_for(image: Path, opened: list[Device]) -> None:
    opened.append(devices.open_block("disk0", image, block_size=4096))
    assert opened[0].block_size == 4096


@pytest.mark.parametrize("block_size", [0, -1, 3, 1 << 21, 32768])
def test_impossible_block_size(image: Path, block_size: int) -> None:
    with pytest.raises(ValueError, match="block size"):
        devices.open_block("disk0", image, block_size=block_size)


def test_direct_image_can_be_read_in_its_blocks(
    image: Path, opened: list[Device]
) -> None:
    try:
        disk = devices.open_block("disk0", image, direct=True)
    except ValueError as error:
        pytest.skip(str(error))
    opened.append(disk)
    assert disk.direct
    assert disk.block_size >= 512
    devices.close(opened.pop())
    with pytest.raises(ValueError, match="direct"):
        devices.open_block("d", image, direct=True, block_size=256)


def test_link_of_the_operators_own_is_followed(
    image: Path, opened: list[Device]
) -> None:
    link = image.with_name("link")
    link.symlink_to(image)
    opened.append(devices.open_block("disk0", link))
    assert opened[0].size == 16384


def test_read_only_image_takes_no_writes(image: Path, opened: list[Device]) -> None:
    opened.append(devices.open_block("disk0", image, read_only=True))
    assert set(devices.facts(opened[0]).ops) == {"read", "flush", "cancel"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(opened[0].fd, b"x", 0)


def test_writable_image_is_nobody_elses(
    image: Path, opened: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "LOCK_TIMEOUT_S", 0.02)
    opened.append(devices.open_block("disk0", image))
    for read_only in (False, True):
        with pytest.raises(BusyError, match=str(image)):
            devices.open_block("disk1", image, read_only=read_only)
    devices.close(opened.pop())
    opened.append(devices.open_block("disk1", image))


def test_many_may_read_an_image_and_none_write_it(
    image: Path, opened: list[Device]
) -> None:
    opened.append(devices.open_block("a", image, read_only=True))
    opened.append(devices.open_block("b", image, read_only=True))
    with pytest.raises(BusyError, match="--read-only"):
        devices.open_block("c", image)


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_image_is_refused(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    for name, told in [
        (".", "a directory"),
        ("fifo", "a fifo"),
        ("socket", "a socket"),
        ("/dev/null", "a character device"),
        ("empty", "no bytes"),
    ]:
        with pytest.raises(ValueError, match=told):
            devices.open_block("disk0", tmp_path / name, read_only=read_only)
    os.unlink(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        devices.open_block("disk0", tmp_path / "absent", read_only=read_only)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "x" * 65, "ä"])
def test_names_that_are_none(name: str, image: Path) -> None:
    for make in (devices.echo, devices.null):
        with pytest.raises(ValueError, match="device name"):
            make(name)
    with pytest.raises(ValueError, match="device name"):
        devices.open_block(name, image)


def test_the_lock_of_a_killed_daemon_is_waited_for(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives it up when its last write has ended; here after three looks."""
    looks: list[float] = []
    with image.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def look(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                fcntl.flock(held, fcntl.LOCK_UN)

        monkeypatch.setattr(devices, "sleep", look)
        devices.close(devices.open_block("disk0", image))
    assert len(looks) == 3


def test_devices_without_an_image() -> None:
    service = Backend()
    service.size, service.block_size = 4096, 8
    facts = [
        devices.facts(device)
        for device in (
            devices.echo("e"),
            devices.null("n"),
            devices.python("p", service),
            devices.delay("d", servers=3, service_ns=5),
        )
    ]
    assert [fact.kind for fact in facts] == ["echo", "null", "python", "delay"]
    assert (facts[2].size, facts[2].block_size) == (4096, 8)
    for fact in facts:
        assert fact.size % fact.block_size == 0
