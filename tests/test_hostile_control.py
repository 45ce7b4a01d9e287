"""Ten thousand hostile packets and floods of descriptors against a real daemon."""

from __future__ import annotations

import array
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

import daemons
from daemons import Daemon
from rings.codec import (
    HEADER,
    MAGIC,
    MAX_PACKET,
    VERSION,
    encode,
)
from rings.messages import Closing, Connected, Error, Hello, Setup, Stat
from rings.protocol import FEATURES
from rings.rendezvous import Session, open_session, query

PACKETS = 10_000
PATIENCE_S = 30.0
ALL = tuple(sorted(FEATURES))
GOOD = [
    encode(Hello("null0", ALL)),
    encode(Setup(ALL, 1, 1, 8, 8, 4096, 2**32 - 2)),
    encode(Connected()),
    encode(Stat(0)),
    encode(Closing("bye")),
    encode(Error("protocol", "no")),
]
PIECES = [
    b"{}", b"[]", b"null", b"NaN", b"1e999", b'"\\ud800"', b"9" * 400, b"[" * 2000,
    b'{"offset":-1}', b'{"offset":0,"offset":1}', b'{"device":"\\u0000"}', b"\xff\xfe",
]  # fmt: skip


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemons.spawn(
        engine="threads", log_level="error", hello_timeout=1, timeout=PATIENCE_S
    ) as daemon:
        yield daemon


@pytest.fixture
def witness(daemon: Daemon) -> Iterator[Session]:
    """Return another client's session, which must notice nothing."""
    with open_session(daemon.address, "null0") as session:
        yield session


def fds_of(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def at_rest(daemon: Daemon) -> int:
    """Return how many descriptors it has when only the witness is connected."""
    while len(query(daemon.address)["sessions"]) > 2:
        time.sleep(0.01)
    count = -1
    while count != (count := fds_of(daemon)):
        time.sleep(0.1)
    return count


def settles(daemon: Daemon, fds: int) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while fds_of(daemon) > fds and time.monotonic() < give_up:
        time.sleep(0.01)
    return fds_of(daemon) <= fds


def hostile(chance: random.Random) -> bytes:
    """Return a packet that is wrong in one of many ways, or even right."""
    good = bytearray(chance.choice(GOOD))
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.choice([0, 1, 15, 16, 17, 200, 9000]))
        case 1:
            body = chance.choice(PIECES)
            kind = chance.randrange(14)
            return HEADER.pack(MAGIC, VERSION, kind, len(body), 0) + body
        case 2:
            for _ in range(chance.randrange(1, 4)):
                good[chance.randrange(len(good))] = chance.randrange(256)
            return bytes(good)
        case 3:
            return bytes(good[: chance.randrange(len(good))])
        case 4:
            return bytes(good) + chance.randbytes(chance.randrange(1, MAX_PACKET))
        case _:
            return bytes(good)


def rights(chance: random.Random, fd: int) -> list[tuple[int, int, array.array[int]]]:
    count = chance.choice([0, 0, 1, 3, 4, 253])
    fds = array.array("i", [fd] * count)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if count else []


def attack(address: str, chance: random.Random, fd: int) -> int:
    """Make one connection, send some packets on it; return how many."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(address)
        opening = GOOD[: chance.choice([0, 0, 1, 2, 3])]
        packets = opening + [hostile(chance) for _ in range(chance.randrange(1, 6))]
        sent = 0
        with suppress(OSError):
            for packet in packets:
                sock.sendmsg([packet], rights(chance, fd))
                sent += 1
        if chance.random() < 0.5:
            with suppress(OSError):
                sock.recv(MAX_PACKET)
        return sent


def test_hostile_packets_cost_nobody_anything(daemon: Daemon, witness: Session) -> None:
    chance = random.Random(20)
    before = at_rest(daemon)
    sent = 0
    with open("/dev/null") as null:
        while sent < PACKETS:
            sent += attack(daemon.address, chance, null.fileno())
            if chance.random() < 0.01:
                assert witness.check()
                assert query(daemon.address)["pid"] == daemon.pid
    assert settles(daemon, before)
    assert daemon.process.poll() is None
    assert witness.check()
    with open_session(daemon.address, "null0") as session:
        assert session.check()
    assert "Traceback" not in daemon.log()


def test_flood_of_descriptors_installs_none(daemon: Daemon, witness: Session) -> None:
    before = at_rest(daemon)
    stat = encode(Stat(0))
    with (
        open("/dev/null") as null,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock,
    ):
        fds = array.array("i", [null.fileno()] * 253)
        sock.settimeout(PATIENCE_S)
        sock.connect(daemon.address)
        for _ in range(200):
            sock.sendmsg([stat], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            assert sock.recv(MAX_PACKET)
            assert fds_of(daemon) <= before + 3  # its socket, its pidfd, /proc
    assert settles(daemon, before)
    assert witness.check()


def test_storm_of_connections_starves_nobody(daemon: Daemon, witness: Session) -> None:
    before = at_rest(daemon)
    silent = []
    for _ in range(300):  # more than are allowed at once
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        if sock.connect_ex(daemon.address) == 0:
            silent.append(sock)
        else:
            sock.close()
        assert witness.check()
    for sock in silent:
        sock.close()
    assert settles(daemon, before)
    with open_session(daemon.address, "null0") as session:
        assert session.check()
