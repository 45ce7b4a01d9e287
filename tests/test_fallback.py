"""Where io_uring cannot be had the daemon serves with threads, and says why, once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import daemons
import rings
from rings.errors import BrokenError
from rings.rendezvous import query

from .served import HANG_S, require, ring

# A daemon for whom io_uring_setup answers errno {number}.
REFUSED = """
import platform, sys
from daemons.__main__ import main
from rings import sandbox

_, arch, seccomp = sandbox._MACHINES[platform.machine()]
lines = [
    sandbox._line(sandbox._LOAD, sandbox._DATA_NUMBER),
    sandbox._line(sandbox._JUMP_EQUAL, 425, if_false=1),
    sandbox._line(sandbox._RETURN, 0x00050000 | {number}),
    sandbox._line(sandbox._RETURN, sandbox._ALLOW),
]
sandbox._install(b"".join(lines), seccomp)
sys.exit(main())
"""

# A daemon that may lock next to no memory.
POOR = """
import ctypes, resource, struct, sys
from daemons.__main__ import main

libc = ctypes.CDLL(None, use_errno=True)
head = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
sets = ctypes.create_string_buffer(24)
assert libc.capget(head, sets) == 0
words = list(struct.unpack("=6I", sets.raw))
words[0] &= ~(1 << 14)  # CAP_IPC_LOCK, effective and permitted
words[1] &= ~(1 << 14)
assert libc.capset(head, struct.pack("=6I", *words)) == 0
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
sys.exit(main())
"""
ERRNOS = {"EPERM": 1, "ENOSYS": 38, "EOPNOTSUPP": 95, "ENOMEM": 12}

pytestmark = pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "aarch64"), reason="filters need numbers"
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(1 << 20))
    return path


def program(script: str, **words: object) -> tuple[str, ...]:
    text = script.format(**words) if words else script
    return (sys.executable, "-c", text)


def serves(address: str, image: Path) -> None:
    with rings.connect(address).block("disk0") as disk:
        assert disk.read(0, 1 << 20) == image.read_bytes()
        disk.write(4096, b"written." * 512)
        disk.flush()
        assert disk.read(4096, 4096) == b"written." * 512


@pytest.mark.parametrize("name", ERRNOS)
def test_auto_falls_back_and_says_why_once(image: Path, name: str) -> None:
    with daemons.spawn(
        image=image, program=program(REFUSED, number=ERRNOS[name]), timeout=HANG_S
    ) as daemon:
        report = query(daemon.address)["engine"]
        assert report["name"] == "threads"
        assert report["why"] == f"io_uring_setup: {name}"
        serves(daemon.address, image)
        assert daemon.log().count(name) == 1
        assert "io_uring_setup" in daemon.log()
        assert daemon.stop() == 0


@pytest.mark.parametrize("name", ERRNOS)
def test_uring_by_name_is_strict(image: Path, name: str) -> None:
    with (
        pytest.raises(BrokenError, match=rf"code 2 [^$]*io_uring_setup: {name}"),
        daemons.spawn(
            image=image,
            engine="uring",
            program=program(REFUSED, number=ERRNOS[name]),
            timeout=HANG_S,
        ),
    ):
        pass


def test_control_without_a_filter_auto_is_uring(image: Path) -> None:
    require("uring")
    with daemons.spawn(image=image, timeout=HANG_S) as daemon:
        assert query(daemon.address)["engine"]["name"] == "uring"
        with rings.connect(daemon.address).block("disk0") as disk:
            disk.read(0, 4096)
            assert ring(daemon.address)["fixed_buffer"] == 1
        assert "why" not in daemon.log()


def test_without_memory_to_lock_it_works_unregistered(image: Path) -> None:
    require("uring")
    with daemons.spawn(image=image, program=program(POOR), timeout=HANG_S) as daemon:
        assert query(daemon.address)["engine"]["name"] == "uring"
        serves(daemon.address, image)
        with rings.connect(daemon.address).block("disk0") as disk:
            disk.read(0, 4096)
            assert ring(daemon.address)["fixed_buffer"] == 0
