"""The daemon's socket: private, locked, reclaimed when its daemon is dead."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemons.listener import Listener
from rings.errors import BusyError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_directory_and_socket_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"
    mask = os.umask(0)
    try:
        listener = Listener(str(path))
    finally:
        os.umask(mask)
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)
    assert mode(path.with_name("s.lock")) == 0o600
    listener.close()
    assert not list(path.parent.iterdir())
    listener.close()


def test_shared_socket_lets_others_ask(tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "s"), shared=True)
    assert mode(tmp_path / "s") == 0o666
    listener.close()


def test_second_daemon_is_told_the_first_ones_pid(tmp_path: Path) -> None:
    first = Listener(str(tmp_path / "s"))
    with pytest.raises(BusyError, match=rf"pid {os.getpid()} .*kill {os.getpid()}"):
        Listener(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / "s"))
        first.accept().close()
    first.close()


def test_address_stays_taken_while_the_first_one_drains(tmp_path: Path) -> None:
    first = Listener(str(tmp_path / "s"))
    first.stop()
    with pytest.raises(BusyError):
        Listener(str(tmp_path / "s"))
    first.close()
    Listener(str(tmp_path / "s")).close()


def test_dead_daemons_socket_is_reclaimed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    die = "import os, sys; from daemons.listener import Listener;"
    die += "Listener(sys.argv[1]); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", die, path], check=False)
    assert os.path.exists(path)
    assert os.path.exists(path + ".lock")
    listener = Listener(path)
    assert listener.reclaimed
    listener.close()


def test_living_stranger_without_a_lock_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.bind(path)
        stranger.listen()
        with pytest.raises(BusyError, match="holds no lock"):
            Listener(path)
        assert os.path.exists(path)
    os.unlink(path)


@pytest.mark.parametrize("name", ["s", "s.lock"])
def test_symbolic_link_is_refused(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(PermissionError, match="is a symbolic link"):
        Listener(str(tmp_path / "s"))
    assert victim.read_text() == "precious"
    assert (tmp_path / name).is_symlink()


def test_dangling_link_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="is a symbolic link"):
        Listener(str(tmp_path / "s"))
    assert not (tmp_path / "elsewhere").exists()


def test_ordinary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(PermissionError, match="not a socket"):
        Listener(str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"


@pytest.mark.parametrize("loose", [0o770, 0o707, 0o1777])
def test_directory_others_may_write_in_is_refused(tmp_path: Path, loose: int) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    directory.chmod(loose)
    with pytest.raises(PermissionError, match="mkdir -m 700"):
        Listener(str(directory / "s"))
    assert not list(directory.iterdir())


def test_too_long_a_path_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter --socket"):
        Listener(str(tmp_path / ("x" * 108)))


def test_socket_put_in_our_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = Listener(str(path))
    path.unlink()
    path.write_text("somebody else's")
    listener.close()
    assert path.read_text() == "somebody else's"


def test_lock_that_its_holder_has_removed_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our open and our lock the first daemon ends and another starts."""
    path = str(tmp_path / "s")
    first, others = Listener(path), []
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.close()
        others.append(Listener(path))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BusyError, match=f"pid {os.getpid()}"):
        Listener(path)
    assert os.path.exists(path + ".lock")
    others[0].close()


def test_many_newcomers_one_winner(tmp_path: Path) -> None:
    """Over and over: of all that try at once, exactly one gets the address."""
    path = str(tmp_path / "s")
    for _ in range(20):
        won: list[Listener] = []
        lost: list[BusyError] = []

        def attempt(won: list[Listener] = won, lost: list[BusyError] = lost) -> None:
            try:
                won.append(Listener(path))
            except BusyError as error:
                lost.append(error)

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 7)
        won[0].close()
