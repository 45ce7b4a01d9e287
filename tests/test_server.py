"""The control plane against a stand-in for the engine, in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemons import devices
from daemons.device import RingSpec
from daemons.listener import Listener
from daemons.log import Log
from daemons.server import Server
from rings.rendezvous import open_session, query


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
def serving(path: Path, **options: object) -> Iterator[Server]:
    listener = Listener(str(path))
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


def test_session_opens_and_closes(server: Server, start: int) -> None:
    with open_session(server.listener.path, "null0", start=start) as session:
        assert session.geometry.start == start
        assert session.check()
        report = query(session.address)
        assert report["sessions"][0]["geometry"] == session.geometry._asdict()
    assert session.closed
