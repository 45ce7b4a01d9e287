"""The daemon as a process: its command line, its signals, its end."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import daemons
from daemons.__main__ import main
from daemons.options import parse
from daemons.server import CANCEL_TIMEOUT_S
from rings.errors import BrokenError
from rings.rendezvous import devices, open_session, query

START_S = 60.0
DAEMON = (sys.executable, "-m", "daemons")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(1 << 16))
    return path


def until_dead(process: subprocess.Popen[bytes]) -> int:
    return process.wait(START_S)


# -- life ------------------------------------------------------------------------


def test_block_device_is_served(image: Path) -> None:
    with daemons.spawn(image=image, timeout=START_S) as daemon:
        (disk,) = devices(daemon.address)
        assert (disk.name, disk.kind, disk.size) == ("disk0", "block", 1 << 16)
        assert disk.block_size == 512
        with open_session(daemon.address, "disk0") as session:
            assert session.peer.pid == daemon.pid
        assert f"serving disk0 (65536 bytes) on {daemon.address} with" in daemon.log()
        directory = os.path.dirname(daemon.address)
        assert os.stat(directory).st_mode & 0o777 == 0o700
        assert os.stat(daemon.address).st_mode & 0o777 == 0o600
        assert daemon.stop() == 0
        assert not os.path.exists(daemon.address)
    assert not os.path.exists(directory)


@pytest.mark.parametrize("engine", ["threads", "mock"])
@pytest.mark.parametrize("kind", ["echo", "null"])
def test_trivial_devices_are_served(kind: str, engine: str) -> None:
    with daemons.spawn(kind=kind, engine=engine, timeout=START_S) as daemon:
        assert [facts.name for facts in devices(daemon.address)] == [f"{kind}0"]
        assert query(daemon.address)["engine"]["name"] == engine


def test_several_images_and_options(image: Path) -> None:
    again = image.with_name("b=c.img")
    again.write_bytes(b"x" * 1000)
    with daemons.spawn(
        image=[f"first={image}", str(again)],
        read_only=True,
        engine="threads",
        max_slots=64,
        allow_uid=[65534],
        timeout=START_S,
    ) as daemon:
        served = {facts.name: facts for facts in devices(daemon.address)}
        assert served["first"].read_only
        assert "write" not in served["first"].ops
        assert served["disk1"].block_size == 1
        with open_session(daemon.address, "first") as session:
            assert session.geometry.slots == 64
        assert os.stat(daemon.address).st_mode & 0o777 == 0o666


def test_report_tells_of_daemon_devices_and_sessions() -> None:
    with (
        daemons.spawn(engine="threads", timeout=START_S) as daemon,
        open_session(daemon.address, "null0") as session,
    ):
        while not (report := query(daemon.address))["sessions"][0]["ring"]:
            assert daemon.process.poll() is None
        assert report["pid"] == daemon.pid
        (told,) = report["sessions"]  # who asks is no session
        assert (told["pid"], told["uid"]) == (os.getpid(), os.getuid())
        assert told["device"] == "null0"
        assert told["geometry"] == session.geometry._asdict()
        assert told["ring"]["requests"] == 0
        assert report["used"]["slots"] == session.geometry.slots


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_the_exit_code_is_0(number: signal.Signals) -> None:
    with daemons.spawn(engine="threads", timeout=START_S) as daemon:
        session = open_session(daemon.address, "null0")
        daemon.process.send_signal(number)
        assert until_dead(daemon.process) == 0
        with pytest.raises(BrokenError, match="shut down"):
            session.check()
        session.close()
        assert not os.path.exists(daemon.address)
        assert not os.path.exists(daemon.address + ".lock")


def test_killed_daemon_breaks_its_sessions_and_its_socket_is_reclaimed() -> None:
    with daemons.spawn(engine="threads", timeout=START_S) as daemon:
        session = open_session(daemon.address, "null0")
        daemon.kill()
        with pytest.raises(BrokenError, match=f"pid {daemon.pid}"):
            session.check()
        session.close()
        assert os.path.exists(daemon.address)
        with daemons.spawn(
            engine="threads", socket=daemon.address, timeout=START_S
        ) as second:
            assert "reclaimed" in second.log()
            open_session(second.address, "null0").close()


def test_second_daemon_names_the_first() -> None:
    with daemons.spawn(engine="threads", timeout=START_S) as first:
        with (
            pytest.raises(BrokenError, match=f"code 2[^$]*pid {first.pid} already"),
            daemons.spawn(engine="threads", socket=first.address, timeout=START_S),
        ):
            pass
        open_session(first.address, "null0").close()


def test_daemon_ends_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env={**os.environ}
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    pidfd = os.pidfd_open(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert select.select([pidfd], [], [], START_S)[0]
    os.close(pidfd)


PARENT = """
import daemons, shutil, signal, sys, os
with daemons.spawn(engine="threads") as daemon:
    shutil.rmtree(os.path.dirname(daemon.address))
    print(daemon.pid, flush=True)
    signal.pause()
"""


def test_daemon_that_does_not_start_in_time_is_killed() -> None:
    sleeper = (sys.executable, "-c", "import time; time.sleep(1000)")
    with (
        pytest.raises(TimeoutError, match="not ready after"),
        daemons.spawn(program=sleeper, timeout=0.2),
    ):
        pass


def test_daemon_that_does_not_stop_is_killed() -> None:
    deaf = (
        sys.executable,
        "-c",
        "import os, signal, sys, time; signal.signal(15, signal.SIG_IGN);"
        "fd = int([a for a in sys.argv if 'ready' in a][0].split('=')[1]);"
        "os.write(fd, b'1\\n'); time.sleep(1000)",
    )
    with daemons.spawn(program=deaf, timeout=START_S) as daemon:
        with pytest.raises(TimeoutError, match="was killed"):
            daemon.stop(timeout=0.2)
        assert daemon.process.returncode == -signal.SIGKILL


# -- the command line --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["block", "--image", "{}/absent"], "truncate -s"),
        (["block", "--image", "{}"], "is a directory"),
        (["block", "--image", "/dev/null"], "is a character device"),
        (["block", "--image", "{}/empty"], "truncate -s"),
        (["block", "--image", "{}/disk.img", "--block-size", "3"], "power of two"),
        (["block", "--image", "{}/disk.img", "--name", "a/b"], "device name"),
        (["block", "--image", "a={0}/disk.img", "--image", "a={0}/disk.img"], "serve"),
        (["block", "--image", "{}/disk.img", "--image", "x", "--name", "n"], "--name"),
        (["null", "--max-slots", "3"], "--max-slots must be a power of two"),
        (["null", "--max-connections-total", "0"], "--max-connections-total"),
        (["null", "--exit-with", "1"], "not the parent"),
        (["null", "--spin-us", "-1"], "--spin-us"),
        (["null", "--drain-timeout", "nan"], "--drain-timeout"),
        (["null", "--hello-timeout", "soon"], "number of seconds"),
        (["null", "--ready-fd", "999"], "no open descriptor"),
        (["delay"], "--servers"),
        (["delay", "--servers", "4"], "--service-time"),
        (["delay", "--servers", "4", "--service-time", "5"], "5ms"),
        (["delay", "--servers", "4", "--service-time=-5ms"], "--service-time"),
        (["delay", "--servers", "4", "--service-time", "0ms"], "1ns to 3600s"),
        (["delay", "--servers", "4", "--service-time", "2h"], "ns, us, ms, s"),
        (["delay", "--servers", "0", "--service-time", "1s"], "use 1 to 1048576"),
        (["delay", "--servers", "x", "--service-time", "1s"], "whole number"),
        (["delay", "--distribution", "normal"], "exponential"),
        (["python", "--backend", "os"], "MODULE:CLASS"),
        (["python", "--backend", "os:absent"], "no attribute"),
        (["python", "--backend", "absent:Absent"], "No module named"),
        (["python", "--backend", "os:path"], "no subclass of daemons.Backend"),
        (["disk"], "block"),
        ([], "block"),
    ],
)
def test_bad_input_says_what_to_do_and_exits_2(
    tmp_path: Path,
    image: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    (tmp_path / "empty").touch()
    words = [word.format(tmp_path) for word in arguments]
    if words:
        words += ["--socket", str(tmp_path / "s"), "--engine", "threads"]
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert told in capfd.readouterr().err
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "s.lock").exists()


def test_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """A session whose frontend is stopped must not hold a daemon that is told twice."""
    with daemons.spawn(program=UNDRAINING, timeout=START_S) as daemon:
        session = open_session(daemon.address, "null0")
        daemon.process.send_signal(signal.SIGTERM)
        while "stopping" not in daemon.log():
            time.sleep(0.01)
        daemon.process.send_signal(signal.SIGTERM)
        assert until_dead(daemon.process) == 128 + signal.SIGTERM
        assert not os.path.exists(daemon.address)
        session.close()


UNDRAINING = (
    sys.executable,
    "-c",
    "import sys, threading, daemons.engine as e;"
    "e.Engine.detach = lambda *a, **k: threading.Event().wait();"
    "from daemons.__main__ import main; sys.exit(main())",
)


def test_ring_that_will_not_drain_costs_the_exit_code() -> None:
    with daemons.spawn(
        program=(*UNDRAINING[:2], f"import daemons.server as s; "
                 f"s.CANCEL_TIMEOUT_S = 0.1; {UNDRAINING[2]}"),
        drain_timeout=0.1,
        timeout=START_S,
    ) as daemon:  # fmt: skip
        session = open_session(daemon.address, "null0")
        daemon.process.send_signal(signal.SIGTERM)
        assert until_dead(daemon.process) == 1
        assert "undrained" in daemon.log()
        session.close()


# -- under a supervisor ------------------------------------------------------------


@contextmanager
def supervised(place: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(START_S)
        heard.bind(place.replace("@", "\0"))
        yield heard
    if not place.startswith("@"):
        os.unlink(place)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_supervisor_hears_of_the_start_and_the_stop(
    tmp_path: Path, abstract: bool
) -> None:
    place = f"@rings-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with supervised(place) as heard:
        process = subprocess.Popen(
            [*DAEMON, "null", f"--socket={tmp_path}/s"],
            env={**os.environ, "NOTIFY_SOCKET": place},
        )
        try:
            assert heard.recv(64) == b"READY=1"
            assert devices(f"{tmp_path}/s")[0].name == "null0"
            process.send_signal(signal.SIGTERM)
            assert heard.recv(64) == b"STOPPING=1"
            assert until_dead(process) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("place", ["/no/such/socket", "nonsense", ""])
def test_a_supervisor_that_is_not_there_is_no_obstacle(
    tmp_path: Path, place: str
) -> None:
    command = [*DAEMON, "null", f"--socket={tmp_path}/s", "--ready-fd=1"]
    env = {**os.environ, "NOTIFY_SOCKET": place}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGTERM)
        assert until_dead(process) == 0


def test_a_spawned_daemon_does_not_speak_for_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with supervised(str(tmp_path / "notify")) as heard:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with daemons.spawn(kind="null", timeout=START_S):
            pass
        heard.setblocking(False)
        with pytest.raises(BlockingIOError):
            heard.recv(64)


def test_the_unit_we_show_is_one_that_starts(tmp_path: Path) -> None:
    """Its command line is understood, and its limits are those that we ask for."""
    unit = Path(__file__).parent.parent / "examples" / "ringsd.service"
    lines = dict(
        line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line
    )
    program, *words = lines["ExecStart"].split()
    assert os.path.basename(program) == "ringsd"
    options = parse(words)
    assert options.socket.startswith(f"/run/{lines['RuntimeDirectory']}/")
    assert int(lines["TimeoutStopSec"]) > options.drain_timeout + CANCEL_TIMEOUT_S
    assert lines["Type"] == "notify"
