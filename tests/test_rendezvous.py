"""A frontend's way in, against daemons that are absent, slow, old or hostile."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rings import address as addresses
from rings import layout, link, protocol
from rings.codec import (
    HEADER,
    MAGIC,
    MAX_PACKET,
    decode,
    encode,
)
from rings.errors import (
    BrokenError,
    BusyError,
    LayoutError,
    RemoteProtocolError,
)
from rings.memory import Region
from rings.messages import (
    Closed,
    Closing,
    Connected,
    DeviceFacts,
    Error,
    Hello,
    Message,
    Offer,
    Ready,
    Setup,
)
from rings.peer import Peer, is_dead, open_pidfd, start_time
from rings.rendezvous import default_address, devices, open_session, query
from rings.states import State

from .served import REFUSALS

FACTS = DeviceFacts("disk0", "null", 1 << 20, 512, False, False, ("read",))
LIMITS = {"slots": 128, "grants": 1024, "data_size": 1 << 16}

Script = Callable[["Backend"], None]


class Backend:
    """The daemon's end of one connection, which says what a script wants."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.fds: list[int] = []

    def hear(self) -> Message:
        return decode(self.socket.recv(MAX_PACKET))

    def say(self, message: Message | bytes, fds: list[int] | None = None) -> None:
        packet = message if isinstance(message, bytes) else encode(message)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds or []))
        self.socket.sendmsg([packet], [rights] if fds else [])

    def offer(self) -> Setup:
        assert isinstance(self.hear(), Hello)
        self.say(Offer(tuple(sorted(protocol.FEATURES)), LIMITS, FACTS))
        setup = self.hear()
        assert isinstance(setup, Setup)
        return setup

    def memory(self, setup: Setup, **changes: int) -> tuple[Ready, list[int]]:
        """Make what Ready brings; `changes` are lies about the geometry."""
        shape = protocol.geometry(setup)
        region = Region.create(shape.size, kind=layout.KIND_SPLIT, generation=7)
        protocol.write_split(region.buffer, shape)
        self.fds = [os.dup(region.fd)]
        self.fds += [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        region.close()
        return Ready({**shape._asdict(), **changes}, 7), self.fds

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.socket.close()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[[Script], str]]:
    """Return how to have a script answer the next connection."""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def serve(script: Script) -> None:
        backend = Backend(listener.accept()[0])
        try:
            script(backend)
            while backend.socket.recv(MAX_PACKET):
                pass
        except ConnectionError:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            backend.close()

    def start(script: Script) -> str:
        threads.append(threading.Thread(target=serve, args=(script,)))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(30)
    listener.close()
    os.unlink(path)
    assert not failures


def test_session_has_what_the_daemon_sent(
    scripted: Callable[[Script], str], start: int
) -> None:
    heard: list[Message] = []

    def script(backend: Backend) -> None:
        backend.say(*backend.memory(backend.offer()))
        heard.append(backend.hear())
        heard.append(backend.hear())
        backend.say(Closed())

    address = scripted(script)
    with open_session(address, "disk0", start=start, data_size=1 << 20) as session:
        assert session.device == FACTS
        assert session.generation == session.region.generation == 7
        assert session.geometry.data_size == LIMITS["data_size"]
        assert session.geometry.start == start
        assert session.features == protocol.FEATURES
        assert session.peer == Peer(
            os.getpid(), os.geteuid(), os.getegid(), start_time(os.getpid())
        )
        fds = (session.region.fd, session.channel.fileno(), session.channel.notify_fd)
        for fd in (*fds, session.socket.fileno()):
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert session.check()
    assert session.closed
    session.close()
    assert [type(message) for message in heard] == [Connected, Closing]


# -- whom it cannot reach ------------------------------------------------------


def test_no_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="python -m daemons"):
        open_session(str(tmp_path / "nobody"), "disk0")


def test_dead_daemons_socket_says_how_to_start_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(BrokenError, match="python -m daemons"):
        open_session(str(tmp_path / "s"), "disk0")
    os.unlink(tmp_path / "s")


def test_silent_daemon_is_a_timeout_naming_address_and_pid(
    scripted: Callable[[Script], str],
) -> None:
    address = scripted(lambda backend: None)
    with pytest.raises(TimeoutError, match=rf"{address}.*pid {os.getpid()}"):
        open_session(address, "disk0", timeout=0.1)


def test_daemon_that_never_accepts_is_a_timeout(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as busy:
        busy.bind(path)
        busy.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
            first.connect(path)
            with pytest.raises(TimeoutError, match="to accept a connection"):
                open_session(path, "disk0", timeout=0.1)
    os.unlink(path)


def test_another_users_daemon_is_not_trusted(
    scripted: Callable[[Script], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "trusted_uids", lambda: {os.geteuid() + 1})
    address = scripted(lambda backend: None)
    with pytest.raises(PermissionError, match=f"RINGS_TRUST_UIDS={os.geteuid()}"):
        open_session(address, "disk0")


def test_trust_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGS_TRUST_UIDS", "1234, 5678")
    assert addresses.trusted_uids() == {0, os.geteuid(), 1234, 5678}


@pytest.mark.parametrize(
    "numbers", [{"slots": 3}, {"data_size": 1}, {"protocol": 9}, {"start": -1}]
)
def test_impossible_numbers_are_told_before_connecting(
    numbers: dict[str, int], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        open_session(str(tmp_path / "nobody"), "disk0", **numbers)


def test_default_address(monkeypatch: pytest.MonkeyPatch, run_directory: Path) -> None:
    assert default_address() == f"{run_directory}/rings/ringsd.sock"
    monkeypatch.setenv("RINGS_SOCKET", "/somewhere")
    assert default_address() == "/somewhere"
    monkeypatch.delenv("RINGS_SOCKET")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(addresses, "check_private", lambda directory: None)
    assert default_address() == f"/tmp/rings-{os.geteuid()}/ringsd.sock"


def test_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    addresses.check_private(str(directory))
    directory.mkdir(mode=0o700)
    addresses.check_private(str(directory))
    directory.chmod(0o750)
    with pytest.raises(PermissionError, match="RINGS_SOCKET"):
        addresses.check_private(str(directory))
    other = tmp_path / "l"
    other.symlink_to(directory)
    with pytest.raises(PermissionError, match="RINGS_SOCKET"):
        addresses.check_private(str(other))


# -- what it refuses to believe ------------------------------------------------


def says_to_hello(answer: Message | bytes) -> Script:
    def script(backend: Backend) -> None:
        backend.hear()
        backend.say(answer)

    return script


@pytest.mark.parametrize(
    ("code", "kind"), [*REFUSALS.items(), ("unheard-of", BrokenError)]
)
def test_errors_arrive_as_what_they_are(
    scripted: Callable[[Script], str], code: str, kind: type[Exception]
) -> None:
    address = scripted(says_to_hello(Error(code, "because")))
    with pytest.raises(kind, match="because"):
        open_session(address, "disk0")


def test_error_is_heard_though_our_packets_were_never_read(
    scripted: Callable[[Script], str],
) -> None:
    def script(backend: Backend) -> None:
        backend.socket.recv(1, socket.MSG_PEEK)
        backend.say(Error("limit", "too many"))
        raise ConnectionAbortedError

    with pytest.raises(BusyError, match="too many"):
        open_session(scripted(script), "disk0")


def test_other_version_names_both(scripted: Callable[[Script], str]) -> None:
    packet = HEADER.pack(MAGIC, 9, 2, 2, 0) + b"{}"
    with pytest.raises(LayoutError, match=r"version 9.*version 1"):
        open_session(scripted(says_to_hello(packet)), "disk0")


@pytest.mark.parametrize(
    "answer",
    [
        b"\0",
        b"x" * (MAX_PACKET + 1),
        encode(Connected()),
        encode(Ready({}, 0)),
        encode(Closed()),
        encode(Offer((), LIMITS, DeviceFacts("d", "null", 5, 2, False, False, ()))),
        encode(Offer((), LIMITS, DeviceFacts("d", "null", 5, 0, False, False, ()))),
    ],
    ids=["short", "long", "Connected", "Ready", "Closed", "ragged", "no block"],
)
def test_nonsense_after_hello(scripted: Callable[[Script], str], answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_session(scripted(says_to_hello(answer)), "disk0")


def test_closing_daemon_is_told(scripted: Callable[[Script], str]) -> None:
    with pytest.raises(BrokenError, match="shutting down"):
        open_session(scripted(says_to_hello(Closing("bye"))), "disk0")


def test_lacking_feature_is_a_layout_error(scripted: Callable[[Script], str]) -> None:
    with pytest.raises(LayoutError, match="ring-padded"):
        open_session(scripted(says_to_hello(Offer((), LIMITS, FACTS))), "disk0")


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 200])
def test_wrong_number_of_descriptors(
    scripted: Callable[[Script], str], count: int
) -> None:
    def script(backend: Backend) -> None:
        ready, fds = backend.memory(backend.offer())
        backend.say(ready, (fds * 70)[:count])

    with pytest.raises(RemoteProtocolError, match="file descriptors"):
        open_session(scripted(script), "disk0")


def test_descriptors_with_an_offer_are_not_taken(
    scripted: Callable[[Script], str],
) -> None:
    def script(backend: Backend) -> None:
        backend.hear()
        offer = Offer(tuple(sorted(protocol.FEATURES)), LIMITS, FACTS)
        backend.say(offer, [0, 0, 0, 0])
        setup = backend.hear()
        assert isinstance(setup, Setup)
        backend.say(*backend.memory(setup))

    session = open_session(scripted(script), "disk0")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(TimeoutError):
        session.close(timeout=0.05)
    assert len(before) > len(os.listdir("/proc/self/fd"))


def test_ready_without_a_region(scripted: Callable[[Script], str]) -> None:
    def script(backend: Backend) -> None:
        ready, fds = backend.memory(backend.offer())
        backend.say(ready, [fds[1], fds[1], fds[2]])

    with pytest.raises(LayoutError):
        open_session(scripted(script), "disk0")


def test_memory_that_could_shrink_is_refused(scripted: Callable[[Script], str]) -> None:
    def script(backend: Backend) -> None:
        ready, fds = backend.memory(backend.offer())
        unsealed = os.memfd_create("unsealed")
        backend.fds.append(unsealed)
        os.ftruncate(unsealed, os.fstat(fds[0]).st_size)
        os.write(unsealed, os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
        backend.say(ready, [unsealed, *fds[1:3]])

    with pytest.raises(LayoutError, match="seal"):
        open_session(scripted(script), "disk0")


@pytest.mark.parametrize("name", ["slots", "size", "data_offset", "start"])
def test_ready_of_another_geometry(
    scripted: Callable[[Script], str], name: str
) -> None:
    def script(backend: Backend) -> None:
        backend.say(*backend.memory(backend.offer(), **{name: 64}))

    with pytest.raises(LayoutError, match=name):
        open_session(scripted(script), "disk0")


@pytest.mark.parametrize(
    ("at", "code", "value"),
    [
        (layout.SPLIT_SLOTS, "=I", 64),
        (layout.SPLIT_DATA_OFFSET, "=Q", 1 << 40),
        (layout.REGION_GENERATION, "=Q", 8),
        (layout.REGION_VERSION, "=I", 2),
        (layout.REGION_KIND, "=I", layout.KIND_PLAIN),
    ],
)
def test_header_that_contradicts_ready(
    scripted: Callable[[Script], str], at: int, code: str, value: int
) -> None:
    def script(backend: Backend) -> None:
        ready, fds = backend.memory(backend.offer())
        os.pwrite(fds[0], struct.pack(code, value), at)
        backend.say(ready, fds)

    with pytest.raises(LayoutError):
        open_session(scripted(script), "disk0")


# -- a session's end -----------------------------------------------------------


def connected(then: Script) -> Script:
    def script(backend: Backend) -> None:
        backend.say(*backend.memory(backend.offer()))
        backend.hear()
        then(backend)

    return script


def until(session_check: Callable[[], bool]) -> None:
    """Call `check` until the daemon's word has come."""
    while session_check():
        pass


def test_daemons_error_breaks_the_session(scripted: Callable[[Script], str]) -> None:
    address = scripted(connected(lambda b: b.say(Error("broken", "bad index"))))
    with (
        open_session(address, "disk0") as session,
        pytest.raises(BrokenError, match="bad index"),
    ):
        until(session.check)


def test_daemons_death_breaks_the_session(scripted: Callable[[Script], str]) -> None:
    address = scripted(connected(lambda b: b.socket.shutdown(socket.SHUT_RDWR)))
    with (
        open_session(address, "disk0") as session,
        pytest.raises(BrokenError, match="closed the connection"),
    ):
        until(session.check)


def test_closing_daemon_lets_us_finish(scripted: Callable[[Script], str]) -> None:
    def script(backend: Backend) -> None:
        backend.say(Closing("the daemon shuts down"))
        assert isinstance(backend.hear(), Closing)
        backend.say(Closed())

    with open_session(scripted(connected(script)), "disk0") as session:
        until(session.check)
        assert session.link.side.peer == State.CLOSING
    assert session.closed


def test_close_waits_no_longer_than_told(scripted: Callable[[Script], str]) -> None:
    session = open_session(scripted(connected(lambda backend: None)), "disk0")
    with pytest.raises(TimeoutError, match="Closed"):
        session.close(timeout=0.05)
    assert session.closed


def test_close_is_refused_while_the_memory_is_in_use(
    scripted: Callable[[Script], str],
) -> None:
    session = open_session(scripted(connected(lambda b: b.say(Closed()))), "disk0")
    view = session.region.buffer[:1]
    with pytest.raises(BusyError):
        session.close()
    view.release()
    session.close()
    assert session.closed


def test_forked_child_says_nothing(
    scripted: Callable[[Script], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []
    script = connected(lambda b: heard.append(b.socket.recv(MAX_PACKET)))
    session = open_session(scripted(script), "disk0")
    monkeypatch.setattr(os, "getpid", lambda: session.owner_pid + 1)
    session.close()
    monkeypatch.undo()
    assert session.closed
    while not heard:
        time.sleep(0.001)
    assert heard == [b""]


# -- asking --------------------------------------------------------------------


def test_only_stat_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stat"):
        query(str(tmp_path / "nobody"), "secrets")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 3000])
def test_reports_that_are_none(scripted: Callable[[Script], str], text: str) -> None:
    from rings.messages import StatReply

    address = scripted(says_to_hello(StatReply(0, len(text), text)))
    with pytest.raises(RemoteProtocolError, match="report"):
        query(address)


def test_devices_of_a_report_without_them(scripted: Callable[[Script], str]) -> None:
    from rings.messages import StatReply

    with pytest.raises(RemoteProtocolError, match="device list"):
        devices(scripted(says_to_hello(StatReply(0, 2, "{}"))))


# -- the peer's process --------------------------------------------------------


def test_pidfd_tells_life_from_death() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pidfd = open_pidfd(ours, Peer.of(ours))
        assert not is_dead(pidfd)
        os.close(pidfd)


def test_pidfd_by_number_knows_a_reused_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rings.peer.SO_PEERPIDFD", 9999)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        peer = Peer.of(ours)
        os.close(open_pidfd(ours, peer))
        with pytest.raises(ProcessLookupError, match="already dead"):
            open_pidfd(ours, peer._replace(start_time=peer.start_time - 1))
        assert open_pidfd(ours, peer._replace(pid=0)) == -1


def test_start_time_of_nobody_is_unknown() -> None:
    assert start_time(0) == 0
