"""Asking again while nobody serves: what is worth it, how often, and how long."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import daemons
import rings
from daemons import listener
from rings import patience
from rings.codec import MAX_PACKET, encode
from rings.errors import (
    BrokenError,
    UnreachableError,
)
from rings.messages import Closing, Error, Message
from rings.patience import GROWTH, LONGEST_S, SHORTEST_S, Patience
from rings.rendezvous import open_session

from .interp import start_python
from .served import HANG_S, REFUSALS, frozen, until

LONG_S = 600.0


class Clock:
    """Time that passes only while somebody sleeps, or an attempt takes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(patience, "monotonic", lambda: self.now)
        monkeypatch.setattr(patience, "sleep", lambda seconds: self.sleep(seconds))

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# -- how often and how long ----------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "timeout", "each_s"),
    [(30, 5, 0.0), (30, 5, 0.7), (2, 5, 0.3), (0.1, 0.01, 0.0), (0.01, 5, 0.001)],
)
def test_it_never_takes_longer_than_it_may(
    clock: Clock, seconds: float, timeout: float, each_s: float
) -> None:
    given: list[float] = []

    def attempt(*, timeout: float) -> None:
        given.append(timeout)
        assert clock.now + timeout <= 1000 + bound + 1e-9
        clock.now += min(each_s, timeout)
        raise UnreachableError("nobody")

    bound = max(seconds, timeout)
    with pytest.raises(
        UnreachableError, match=f"within {seconds:g} s.*: nobody"
    ) as told:
        Patience(seconds).ask(attempt, timeout)
    assert f"tried {len(given)} times" in str(told.value)
    assert given[0] == bound
    assert min(given) >= min(patience.LAST_TRY_S, bound) - 1e-9
    assert 1000 + seconds - 0.06 - each_s <= clock.now <= 1000 + bound + 1e-9


def test_who_overslept_asks_once_more(clock: Clock) -> None:
    given: list[float] = []

    def attempt(*, timeout: float) -> None:
        given.append(timeout)
        raise UnreachableError("nobody")

    def oversleep(seconds: float) -> None:
        clock.now += seconds + 100

    clock.sleep = oversleep  # type: ignore[method-assign]
    with pytest.raises(UnreachableError, match="tried 2 times"):
        Patience(5).ask(attempt, 1)
    assert given == [5, patience.LAST_TRY_S]


def test_pauses_grow_and_differ() -> None:
    these, those = patience.pauses(), patience.pauses()
    longest = SHORTEST_S
    differ = 0
    for _ in range(40):
        one, other = next(these), next(those)
        for pause in (one, other):
            assert longest / 2 < pause <= longest
        differ += one != other
        longest = min(longest * GROWTH, LONGEST_S)
    assert longest == LONGEST_S
    assert differ > 20


def test_without_patience_one_try_and_its_own_words(clock: Clock) -> None:
    given: list[float] = []

    def attempt(*, timeout: float) -> None:
        given.append(timeout)
        raise UnreachableError("nobody")

    with pytest.raises(UnreachableError, match=r"^nobody$"):
        Patience(0).ask(attempt, 5)
    assert given == [5]
    assert not clock.slept


@pytest.mark.parametrize("seconds", [-1, 1e7, float("inf"), float("nan")])
def test_no_time_to_wait(seconds: float) -> None:
    with pytest.raises(ValueError, match="patience"):
        rings.connect("/nowhere", patience=seconds)


def test_the_end_says_how_often_and_why(tmp_path: Path) -> None:
    with pytest.raises(
        BrokenError, match=r"tried \d+ times within 0\.2 s; .*start one"
    ):
        rings.connect(str(tmp_path / "s"), patience=0.2)


# -- what is worth another try -------------------------------------------------


class Impostor:
    """Listens where a daemon will; drops those who come at the step it is told."""

    def __init__(self, path: str, steps: int, last: Message | None) -> None:
        self.dropped = 0
        self._steps = steps
        self._last = last
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(path)
        self._socket.listen()
        self._path = path
        self._real = f"{path}.real"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                with sock, suppress(ConnectionError, FileNotFoundError):
                    self._relay(sock)
                self.dropped += 1

    def _relay(self, sock: socket.socket) -> None:
        """Let a real daemon answer so many packets, then drop the connection."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as real:
            real.connect(self._real)
            for _ in range(self._steps):
                real.send(sock.recv(MAX_PACKET))
                sock.send(real.recv(MAX_PACKET))
        if self._last is not None:
            sock.recv(MAX_PACKET)
            sock.send(encode(self._last))

    def leave(self) -> None:
        """Make room for the real one."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        os.rename(self._real, self._path)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[str]:
    """Return where an impostor is to listen; the real daemon listens beside it."""
    path = str(tmp_path / "s")
    with daemons.spawn(socket=f"{path}.real", timeout=HANG_S):
        yield path
        if os.path.lexists(path):
            os.rename(path, f"{path}.real")  # the daemon removes its own


def open_device(path: str) -> str:
    with Patience(LONG_S).ask(
        lambda timeout: open_session(path, "null0", timeout=timeout),
        5.0,
    ) as session:
        return session.device.name


LAST: list[Message | None] = [None, Closing("bye"), Error("late", "too late")]


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("last", LAST, ids=["drops", "closes", "late"])
def test_a_daemon_that_goes_in_the_handshake(
    real: str, steps: int, last: Message | None
) -> None:
    impostor = Impostor(real, steps, last)
    with ThreadPoolExecutor(1) as pool:
        try:
            opened = pool.submit(open_device, real)
            until(lambda: impostor.dropped >= 3 or opened.done(), "it asks again")
            assert not opened.done()
        finally:
            impostor.leave()
        assert opened.result(HANG_S) == "null0"


def test_nobody_there_yet(tmp_path: Path) -> None:
    path = str(tmp_path / "made" / "later" / "s")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(rings.connect, path, patience=LONG_S)
        os.makedirs(os.path.dirname(path), 0o700)
        with daemons.spawn(socket=path, timeout=HANG_S):
            assert found.result(HANG_S).devices()[0].name == "null0"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_daemon_is_found_by_the_same_connection(
    tmp_path: Path, how: signal.Signals
) -> None:
    path = str(tmp_path / "s")
    with ThreadPoolExecutor(1) as pool:
        with daemons.spawn(socket=path, timeout=HANG_S) as daemon:
            connection = rings.connect(path, patience=LONG_S)
            disk = connection.block("null0", slots=16, data_size=1 << 16)
            daemon.process.send_signal(how)
            daemon.process.wait(HANG_S)
        with pytest.raises(BrokenError):
            disk.read(0, 512)
        again = pool.submit(connection.block, "null0", slots=16)
        with daemons.spawn(socket=path, timeout=HANG_S), again.result(HANG_S) as other:
            assert other.read(0, 512) == bytes(512)
            disk.close()


# -- what is not ---------------------------------------------------------------


@pytest.mark.parametrize(("code", "kind"), REFUSALS.items())
def test_an_answer_is_not_asked_for_again(
    real: str, code: str, kind: type[Exception]
) -> None:
    impostor = Impostor(real, 0, Error(code, "because"))
    try:
        with pytest.raises(kind, match=r": because$"):
            open_device(real)
        until(lambda: impostor.dropped, "it is done with us")
        assert impostor.dropped == 1
    finally:
        impostor.leave()


def test_a_missing_device_is_told_at_once(tmp_path: Path) -> None:
    with daemons.spawn(timeout=HANG_S) as daemon:
        connection = rings.connect(daemon.address, patience=LONG_S)
        with pytest.raises(LookupError, match="it serves null0"):
            connection.block("disk7")


# -- stopped, interrupted ------------------------------------------------------


def test_a_stopped_daemon_is_waited_for() -> None:
    with daemons.spawn(timeout=HANG_S) as daemon, ThreadPoolExecutor(1) as pool:
        with frozen(daemon.pid):
            found = pool.submit(
                rings.connect, daemon.address, timeout=0.01, patience=LONG_S
            )
            with pytest.raises(TimeoutError):
                found.result(0.05)
        with found.result(HANG_S).block("null0") as disk:
            assert disk.read(0, 512) == bytes(512)


def test_a_stopped_daemon_is_waited_for_no_longer_than_said() -> None:
    late = pytest.raises(TimeoutError, match=r"waited 0\.2 s .*to send StatReply")
    with daemons.spawn(timeout=HANG_S) as daemon, frozen(daemon.pid), late:
        rings.connect(daemon.address, timeout=0.1, patience=0.2)


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    script = """
import sys, rings
try:
    print("asking", flush=True)
    rings.connect(sys.argv[1], patience=600)
except KeyboardInterrupt:
    print("interrupted")
"""
    child = start_python(sys.executable, script, tmp_path / "s")
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "asking\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "interrupted\n"


# -- the daemon's side ---------------------------------------------------------


def test_a_shared_socket_was_never_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user who asks between bind and listen is refused, not forbidden."""
    modes: list[int] = []

    class Watched(socket.socket):
        def bind(self, path: str) -> None:
            super().bind(path)
            modes.append(os.stat(path).st_mode & 0o777)

    monkeypatch.setattr(listener.socket, "socket", Watched)
    for shared in (True, False):
        listener.Listener(str(tmp_path / "s"), shared=shared).close()
    assert modes == [0o666, 0o600]
