"""A daemon without a free descriptor says so, and goes on when it has some."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import daemons
import rings
from rings.errors import BusyError
from rings.rendezvous import query

from .served import descriptors_left

ADVICE = r"Too many open files.*RLIMIT_NOFILE \(ulimit -n"
PATIENCE_S = 30.0


@contextmanager
def serving() -> Iterator[daemons.Daemon]:
    with daemons.spawn(kind="null", name="disk0", log_level="debug") as daemon:
        query(daemon.address)  # answered only after the daemon's last step of starting
        yield daemon


def has_ended(daemon: daemons.Daemon, sessions: int) -> bool:
    log = daemon.log()
    return log.count(" accepted ") - log.count(" ended ") == sessions


@contextmanager
def only(daemon: daemons.Daemon, count: int, *, sessions: int = 0) -> Iterator[None]:
    """Leave a daemon so many descriptors, once it has only these sessions."""
    deadline = time.monotonic() + PATIENCE_S
    while not has_ended(daemon, sessions):
        assert time.monotonic() < deadline, daemon.log()
        time.sleep(0.01)
    with descriptors_left(daemon.pid, count):
        yield


def test_who_connects_in_a_shortage_is_told_and_the_others_are_served() -> None:
    refusals = []
    with (
        serving() as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
    ):
        for count in range(8):
            with only(daemon, count, sessions=1):
                try:
                    rings.connect(daemon.address).block("disk0").close()
                except BusyError as error:
                    refusals.append(str(error))
                assert disk.read(0, 512) == bytes(512)
            rings.connect(daemon.address).block("disk0").close()
    assert 3 <= len(refusals) < 8
    assert all(re.search(ADVICE, refusal) for refusal in refusals)


def test_who_waits_in_a_shortage_that_passes_is_let_in() -> None:
    with serving() as daemon:
        with only(daemon, 0):
            asking = subprocess.Popen(
                [sys.executable, "-m", "rings", "ls", f"--socket={daemon.address}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            while "accept-paused" not in daemon.log():
                assert asking.poll() is None
        assert "disk0" in asking.communicate()[0]
        assert asking.returncode == 0


def test_a_report_is_refused_in_words_too() -> None:
    with serving() as daemon:
        with only(daemon, 0), pytest.raises(BusyError, match=ADVICE):
            query(daemon.address)
        assert query(daemon.address)["pid"] == daemon.pid
        assert re.search(f"accept-paused.*{ADVICE}", daemon.log())


def test_a_daemon_that_cannot_start_says_what_to_raise() -> None:
    program = "import resource, sys; from daemons.__main__ import main; "
    program += "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); sys.exit(main())"
    with (
        pytest.raises(rings.BrokenError, match="LimitNOFILE=4096"),
        daemons.spawn(kind="null", program=[sys.executable, "-c", program]),
    ):
        pass
