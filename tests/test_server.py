"""The control plane against a stand-in for the engine, in this process."""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from daemons import devices
from daemons.device import RingSpec
from daemons.limits import Limits
from daemons.listener import Listener
from daemons.log import Log
from daemons.server import Server
from rings.codec import MAX_PACKET, decode, encode
from rings.errors import BrokenError, BusyError, RegionMemoryError
from rings.layout import PAGE
from rings.messages import (
    Closed,
    Closing,
    Connected,
    Error,
    Hello,
    Message,
    Offer,
    Ready,
    Setup,
    Stat,
)
from rings.protocol import FEATURES
from rings.rendezvous import devices as devices_of
from rings.rendezvous import open_session, query

PATIENCE_S = 30.0


class FakeEngine:
    """Takes rings and does nothing with them."""

    name = "fake"
    why = ""

    def __init__(self) -> None:
        self.on_broken: Callable[[int, str], None] | None = None
        self.rings: dict[int, RingSpec] = {}
        self.attached = 0
        self.detached: list[tuple[int, bool]] = []

    def start(self) -> None:
        pass

    def attach(self, spec: RingSpec) -> int:
        self.attached += 1
        self.rings[self.attached] = spec
        return self.attached

    def detach(self, ring: int, *, drain: bool, timeout_s: float | None = None) -> None:
        del self.rings[ring]
        self.detached.append((ring, drain))

    def statistics(self) -> dict[str, object]:
        return {"turns": 1, "rings": {ring: {"requests": 0} for ring in self.rings}}

    def stop(self) -> None:
        pass


@contextmanager
def serving(path: Path, *, shared: bool = False, **options: object) -> Iterator[Server]:
    listener = Listener(str(path), shared=shared)
    server = Server(
        listener,
        [devices.null("null0"), devices.echo("echo0")],
        FakeEngine(),
        log=Log(logging.getLogger("test")),
        **options,  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        server.close()
        listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "s") as server:
        yield server


@pytest.fixture
def engine(server: Server) -> FakeEngine:
    assert isinstance(server.engine, FakeEngine)
    return server.engine


def knock(server: Server) -> socket.socket:
    """Connect and say nothing."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PATIENCE_S)
    sock.connect(server.listener.path)
    return sock


def hear(sock: socket.socket) -> Message | None:
    """Return what the daemon says, None when it hangs up."""
    for _ in range(2):
        try:
            packet = sock.recv(MAX_PACKET)
            return decode(packet) if packet else None
        except ConnectionResetError:
            continue
    return None


def until(true: Callable[[], object]) -> None:
    """Wait for what another thread is about to do; a guard against a hang."""
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.002)


def our_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_session_opens_and_closes(
    server: Server, engine: FakeEngine, start: int
) -> None:
    with open_session(server.listener.path, "null0", start=start) as session:
        assert session.geometry.start == start
        assert session.check()
        until(lambda: engine.rings)
        report = query(session.address)
        (told,) = report["sessions"]  # who asks is no session
        assert told["geometry"] == session.geometry._asdict()
        assert told["ring"] == {"requests": 0}
    assert session.closed
    assert engine.detached == [(1, True)]


def test_engine_gets_the_memory_and_the_channel(
    server: Server, engine: FakeEngine
) -> None:
    with open_session(server.listener.path, "echo0") as session:
        until(lambda: engine.rings)
        (spec,) = engine.rings.values()
        assert spec.geometry == session.geometry
        assert spec.device.name == "echo0"
        assert spec.peer_pid == os.getpid()
        assert spec.region.generation == session.generation
        spec.region.buffer[session.geometry.data_offset] = 77
        assert session.region.buffer[session.geometry.data_offset] == 77
        session.channel.notify()
        assert os.eventfd_read(spec.wait_fd) == 1
        os.eventfd_write(spec.notify_fd, 1)
        assert session.channel.wait(PATIENCE_S)


def test_sessions_differ_in_generation(server: Server) -> None:
    with (
        open_session(server.listener.path, "echo0") as one,
        open_session(server.listener.path, "echo0") as other,
    ):
        assert one.generation != other.generation


def test_devices_are_listed(server: Server) -> None:
    assert [facts.name for facts in devices_of(server.listener.path)] == [
        "null0",
        "echo0",
    ]


def test_unknown_device_names_those_there_are(server: Server) -> None:
    with pytest.raises(LookupError, match=r"no device disk9.*echo0, null0"):
        open_session(server.listener.path, "disk9")


def test_long_report_comes_in_pieces(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(open_session(server.listener.path, "null0"))
        report = query(server.listener.path)
        assert len(json.dumps(report)) > 2 * MAX_PACKET
        assert sum(told["device"] == "null0" for told in report["sessions"]) == 60


# -- ends ------------------------------------------------------------------------


def test_broken_ring_ends_its_session_and_no_other(
    server: Server, engine: FakeEngine
) -> None:
    bad = open_session(server.listener.path, "null0")
    until(lambda: engine.rings)
    with open_session(server.listener.path, "null0") as good:
        assert engine.on_broken is not None
        engine.on_broken(1, "req_prod jumped")
        assert select.select([bad.socket], [], [], PATIENCE_S)[0]
        with pytest.raises(BrokenError, match="req_prod jumped"):
            bad.check()
        until(lambda: engine.detached == [(1, False)])
        assert good.check()
        engine.on_broken(1, "said too late")
        engine.on_broken(99, "of no ring")
        assert good.check()
    bad.close()


def test_session_ends_once_however_many_reasons_it_has(
    server: Server, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, detach = threading.Event(), engine.detach

    def slow(ring: int, *, drain: bool, timeout_s: float | None = None) -> None:
        may_end.wait(PATIENCE_S)
        detach(ring, drain=drain, timeout_s=timeout_s)

    monkeypatch.setattr(engine, "detach", slow)
    session = open_session(server.listener.path, "null0")
    until(lambda: engine.rings)
    assert engine.on_broken is not None
    for reason in ("first", "second", "third"):
        engine.on_broken(1, reason)
    session.close()
    may_end.set()
    until(lambda: not server._clients)
    assert engine.detached == [(1, False)]
    assert not server.stuck


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BusyError("no credit left"), BusyError),
        (OSError(12, "no memory to register"), BrokenError),
        (ZeroDivisionError("a defect"), BrokenError),
    ],
)
def test_ring_the_engine_will_not_take(
    server: Server,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
) -> None:
    def refuse(spec: RingSpec) -> int:
        raise error

    monkeypatch.setattr(engine, "attach", refuse)
    session = open_session(server.listener.path, "null0")
    assert select.select([session.socket], [], [], PATIENCE_S)[0]
    with pytest.raises(BrokenError, match=str(error.args[-1])):
        session.check()
    session.close()
    monkeypatch.undo()
    open_session(server.listener.path, "null0").close()


@pytest.mark.parametrize("packets", range(3))
def test_handshake_has_a_deadline(tmp_path: Path, packets: int) -> None:
    with serving(tmp_path / "s", hello_timeout=0.05) as server, knock(server) as sock:
        for message in SPOKEN[:packets]:
            sock.send(encode(message))
        heard = []
        while (heard_now := hear(sock)) is not None:
            heard.append(heard_now)
        assert heard[-1] == Error("late", "no connection within 0.05 s")


def test_deadline_is_over_once_connected(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "s", hello_timeout=0.2) as server,
        open_session(server.listener.path, "null0") as session,
        knock(server) as late,
    ):
        while hear(late) is not None:
            pass
        assert session.check()


def test_client_that_does_not_read_is_dropped(server: Server) -> None:
    fds = our_fds()
    with knock(server) as sock:
        sock.setblocking(False)
        assert any(not flooded(sock) for _ in range(100_000))
        open_session(server.listener.path, "null0").close()
    until(lambda: our_fds() <= fds)


def flooded(sock: socket.socket) -> bool:
    """Ask once more without reading; return False once the daemon has had enough."""
    try:
        sock.send(encode(Stat(0)))
    except BlockingIOError:
        select.select([], [sock], [], PATIENCE_S)
    except ConnectionError:
        return False
    return True


# -- limits ------------------------------------------------------------------------


def test_one_session_is_lowered_to_the_limits(tmp_path: Path) -> None:
    limits = Limits(slots=64, grants=10, data_size=PAGE)
    with (
        serving(tmp_path / "s", limits=limits) as server,
        open_session(server.listener.path, "null0") as session,
    ):
        shape = session.geometry
        assert (shape.slots, shape.grants, shape.data_size) == (64, 10, PAGE)


@pytest.mark.parametrize(
    ("limits", "option"),
    [
        (Limits(connections_total=2), "--max-connections-total"),
        (Limits(connections_per_uid=2), "--max-connections-per-uid"),
        (Limits(slots_total=300), "--max-slots-total"),
        (Limits(slots_per_uid=300), "--max-slots-per-uid"),
        (Limits(grants_total=2500), "--max-grants-total"),
        (Limits(data_size_per_uid=9 << 20), "--max-data-size-per-uid"),
        (Limits(data_size_total=9 << 20), "--max-data-size-total"),
    ],
)
def test_refusal_names_the_option_and_what_is_closed_counts_no_more(
    tmp_path: Path, limits: Limits, option: str
) -> None:
    with serving(tmp_path / "s", limits=limits) as server:
        address = server.listener.path
        for _ in range(3):
            with (
                open_session(address, "null0"),
                open_session(address, "null0"),
                pytest.raises(BusyError, match=option),
            ):
                open_session(address, "null0")
            until(lambda: not any(server._quota.used().values()))


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="--max-data-size"):
        Limits(data_size=1)
    with pytest.raises(ValueError, match="--max-grants"):
        Limits(grants=(1 << 20) + 1)


def test_short_memory_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*args: object, **kwargs: object) -> None:
        raise RegionMemoryError("raise the limit of shared memory")

    monkeypatch.setattr("daemons.attached.Region.create", short)
    fds = our_fds()
    for _ in range(5):
        with pytest.raises(RegionMemoryError, match="raise the limit"):
            open_session(server.listener.path, "null0")
    until(lambda: our_fds() == fds)


def test_no_descriptors_left_pauses_accepting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = server.listener.accept
    failures = [OSError(errno.EMFILE, "too many")] * 3

    def sometimes() -> socket.socket:
        if failures:
            raise failures.pop()
        return accept()

    monkeypatch.setattr(server.listener, "accept", sometimes)
    open_session(server.listener.path, "null0").close()
    assert not failures


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Return a directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="rings-open-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(
    ("shared", "allowed", "heard"),
    [
        (True, [], "uid 65534 may not use this daemon"),
        (True, [65534], "Offer"),
        (False, [65534], "PermissionError"),
    ],
)
def test_other_user(
    open_directory: Path, shared: bool, allowed: list[int], heard: str
) -> None:
    with serving(open_directory / "s", shared=shared, allow_uids=allowed) as server:
        program = NOBODY.format(path=server.listener.path, hello=encode(HELLO))
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True
        )
        assert done.stdout.strip() == heard, done.stderr


NOBODY = """
import json, os, socket
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    sock.connect({path!r})
except PermissionError:
    print("PermissionError")
else:
    try:
        sock.send({hello!r})
        body = sock.recv(8192)
    except OSError:
        body = sock.recv(8192)
    body = json.loads(body[16:])
    print(body["message"].split(";")[0] if "message" in body else "Offer")
"""


# -- the end of the daemon ------------------------------------------------------------


def test_stop_lets_sessions_drain_and_tells_them(tmp_path: Path) -> None:
    with serving(tmp_path / "s") as server:
        session = open_session(server.listener.path, "null0")
        session.socket.settimeout(PATIENCE_S)
        idle = knock(server)
        until(lambda: len(server._clients) == 2 and server.engine.rings)  # type: ignore[attr-defined]
        server.stop()
        assert hear(session.socket) == Closing("the daemon shuts down")
        assert hear(session.socket) == Closed()
        assert hear(session.socket) is None
        assert hear(idle) == Closing("the daemon shuts down")
        assert server.engine.detached == [(1, True)]  # type: ignore[attr-defined]
    assert server.drained
    session.close()
    idle.close()


def test_detach_that_fails_keeps_the_memory(
    server: Server, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ring: int, *, drain: bool, timeout_s: float | None = None) -> None:
        raise OSError(5, "stuck")

    session = open_session(server.listener.path, "null0")
    until(lambda: engine.rings)
    monkeypatch.setattr(engine, "detach", fail)
    (spec,) = engine.rings.values()
    session.link.close()
    until(lambda: server.stuck)
    assert not spec.region.closed
    session.close()
    server.stuck.pop().release()
    assert spec.region.closed


# -- clients that die ------------------------------------------------------------------


SPOKEN = (
    HELLO := Hello("null0", tuple(sorted(FEATURES))),
    Setup(HELLO.features, 1, 1, 8, 8, PAGE, 0),
    Connected(),
    Closing("enough"),
)


@pytest.mark.parametrize("packets", range(len(SPOKEN) + 1))
@pytest.mark.parametrize("reading", [False, True])
def test_client_that_closes_at_any_step_leaves_nothing(
    server: Server, engine: FakeEngine, packets: int, reading: bool
) -> None:
    until(lambda: not server._clients)
    fds = our_fds()
    for _ in range(40):
        with knock(server) as sock:
            for message in SPOKEN[:packets]:
                sock.send(encode(message))
                if reading and isinstance(message, (Hello, Setup)):
                    assert isinstance(hear(sock), (Offer, Ready))
    until(lambda: not server._clients)
    until(lambda: our_fds() == fds)
    assert not any(server._quota.used().values())
    assert not engine.rings


def test_client_killed_at_any_step_leaves_nothing(
    server: Server, engine: FakeEngine
) -> None:
    """A grandchild keeps the socket open: it is the process's death that counts."""
    fds = our_fds()
    for number in range(200):
        dying = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", DYING, server.listener.path]
            + [encode(message).hex() for message in SPOKEN[: number % 4]],
            stdout=subprocess.PIPE,
        )
        assert dying.stdout is not None
        survivor = int(dying.stdout.readline())
        dying.wait()
        until(lambda: not server._clients)
        os.kill(survivor, signal.SIGKILL)
        dying.stdout.close()
    until(lambda: our_fds() == fds)
    assert not any(server._quota.used().values())
    assert not engine.rings


DYING = """
import os, signal, socket, sys, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
child = os.fork()
if not child:
    os.close(1)
    time.sleep(60)
    os._exit(0)
for packet in sys.argv[2:]:
    sock.send(bytes.fromhex(packet))
    if packet != sys.argv[-1]:
        sock.recv(8192)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
