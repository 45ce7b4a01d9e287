"""A frontend against a daemon that answers nonsense: broken, never wrong or dead."""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import daemons
import rings
from rings import layout, protocol
from rings.block import Block
from rings.codec import MAX_PACKET, decode, encode
from rings.errors import BrokenError, ClosedError
from rings.layout import Geometry
from rings.memory import Region
from rings.messages import (
    Closed,
    DeviceFacts,
    Message,
    Offer,
    Ready,
    Setup,
)
from rings.rendezvous import open_session

from .served import HANG_S, raises, until

OPS = ("read", "write", "flush", "discard", "write-zeroes", "cancel")
FACTS = DeviceFacts("disk0", "block", 1 << 20, 512, False, False, OPS)
LIMITS = {"slots": 128, "grants": 1024, "data_size": 1 << 20}
SLOTS = 8
RESPONSE = struct.Struct("=Qq")


class Liar:
    """A daemon of one session, whose every answer the test makes."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=self._shake_hands)
        self._thread.start()
        self.last_moment: Callable[[], None] = lambda: None

    def _shake_hands(self) -> None:
        self.socket = self._listener.accept()[0]
        self._hear()
        self._say(Offer(tuple(sorted(protocol.FEATURES)), LIMITS, FACTS))
        setup = self._hear()
        assert isinstance(setup, Setup)
        self.shape: Geometry = protocol.geometry(setup)
        self.region = Region.create(
            self.shape.size, kind=layout.KIND_SPLIT, generation=7
        )
        protocol.write_split(self.region.buffer, self.shape)
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.to_back, self.to_front = os.eventfd(0, flags), os.eventfd(0, flags)
        ready = Ready(self.shape._asdict(), 7)
        self._say(ready, [self.region.fd, self.to_back, self.to_front])
        self._hear()
        self.produced = self.shape.start

    def _hear(self) -> Message:
        return decode(self.socket.recv(MAX_PACKET))

    def _say(self, message: Message, fds: list[int] | None = None) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds or []))
        self.socket.sendmsg([encode(message)], [rights] if fds else [])

    def connected(self) -> None:
        self._thread.join(HANG_S)

    @property
    def words(self) -> layout.RingWords:
        return layout.RING_WORDS[self.shape.ring_layout]

    def _slot(self, index: int) -> int:
        place = index % self.shape.slots * self.shape.slot_size
        return self.shape.ring_offset + self.words.slots + place

    def asked(self, number: int) -> tuple[int, int, int, int]:
        """Wait for a request, the first is 0; return its id, op, offset and length."""
        index = (self.shape.start + number) % 2**32
        at = self.shape.ring_offset + self.words.req_prod
        view = self.region.buffer

        def published() -> bool:
            (prod,) = struct.unpack_from("=I", view, at)
            return (prod - index) % 2**32 in range(1, self.shape.slots + 1)

        until(published, f"request {number} is published")
        slot = self._slot(index)
        ident, op = struct.unpack_from("=QB", view, slot)
        offset, length = struct.unpack_from("=QQ", view, slot + layout.IO_OFFSET)
        return ident, op, offset, length

    def answer(self, ident: int, result: int) -> None:
        """Write one response, and do not publish it yet."""
        RESPONSE.pack_into(self.region.buffer, self._slot(self.produced), ident, result)
        self.produced = (self.produced + 1) % 2**32

    def publish(self, ahead: int = 0) -> None:
        """Publish what was answered; `ahead` lies about how much that is."""
        at = self.shape.ring_offset + self.words.rsp_prod
        prod = (self.produced + ahead) % 2**32
        struct.pack_into("=I", self.region.buffer, at, prod)
        os.eventfd_write(self.to_front, 1)

    def farewell(self) -> None:
        self._say(Closed())

    def close(self) -> None:
        self.connected()
        self.socket.close()
        self.region.close()
        os.close(self.to_back)
        os.close(self.to_front)


@pytest.fixture
def lied_to(tmp_path: Path, start: int) -> Iterator[tuple[Block, Liar]]:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        liar = Liar(listener)
        session = open_session(
            path, "disk0", slots=SLOTS, data_size=1 << 20, start=start
        )
        liar.connected()
        check = session.check
        object.__setattr__(session, "check", lambda: (liar.last_moment(), check())[1])
        block = Block(session)
        yield block, liar
        liar.close()
        block.close()
    os.unlink(path)


def test_control_honest_answers_are_taken(lied_to: tuple[Block, Liar]) -> None:
    block, liar = lied_to
    with block.pool.alloc(4096) as grant:
        for turn in range(3 * SLOTS):
            handle = block.submit_read(0, grant)
            ident, *asked = liar.asked(turn)
            assert asked == [layout.OP_READ, 0, 4096]
            liar.answer(ident, 4096)
            liar.publish()
            assert handle.result(HANG_S) == 4096


def unknown(liar: Liar, ident: int) -> None:
    liar.answer(ident ^ 1, 4096)
    liar.publish()


def beyond_the_table(liar: Liar, ident: int) -> None:
    liar.answer(ident | 0xFFFF_FFFF, 4096)
    liar.publish()


def of_another_generation(liar: Liar, ident: int) -> None:
    liar.answer(ident + (1 << 32), 4096)
    liar.publish()


def never_asked(liar: Liar, ident: int) -> None:
    liar.answer(ident, 4096)
    liar.answer(ident, 4096)
    liar.publish()


def index_ahead(liar: Liar, ident: int) -> None:
    liar.publish(ahead=SLOTS + 1)


def index_by_half_the_range(liar: Liar, ident: int) -> None:
    liar.publish(ahead=2**31)


def index_backwards(liar: Liar, ident: int) -> None:
    liar.publish(ahead=-1)


def more_than_was_asked(liar: Liar, ident: int) -> None:
    liar.answer(ident, 4097)
    liar.publish()


def huge(liar: Liar, ident: int) -> None:
    liar.answer(ident, 2**63 - 1)
    liar.publish()


LIES = [
    unknown,
    beyond_the_table,
    of_another_generation,
    never_asked,
    index_ahead,
    index_by_half_the_range,
    index_backwards,
    more_than_was_asked,
    huge,
]
WAYS: dict[str, Callable[[Block], object]] = {
    "call": lambda block: block.read(0, 4096),
    "handle": lambda block: block.submit_read(0, block.pool.alloc(4096)).result(HANG_S),
    "many": lambda block: block.read_many(
        array.array("Q", [0]), block.pool.alloc(4096), length=4096
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_breaks_the_session(
    lied_to: tuple[Block, Liar], lie: Callable[[Liar, int], None], way: str
) -> None:
    block, liar = lied_to
    if lie is never_asked:  # else there is only one request to be answered
        block.submit_flush()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(WAYS[way], block)
        lie(liar, liar.asked(1 if lie is never_asked else 0)[0])
        if lie is never_asked and way == "handle":
            assert answer.result(HANG_S) == 4096
        elif lie is never_asked:
            assert answer.exception(HANG_S) is None or answer.exception()
        else:
            with pytest.raises(BrokenError, match="'disk0' on"):
                answer.result(HANG_S)
    for again in WAYS.values():
        with pytest.raises(BrokenError, match="the daemon"):
            again(block)


@pytest.mark.parametrize("result", [0, 1, 4095])
@pytest.mark.parametrize("way", WAYS)
def test_less_than_was_asked_is_an_error(
    lied_to: tuple[Block, Liar], way: str, result: int
) -> None:
    """What lies in the rest of the buffer must not pass for data."""
    block, liar = lied_to
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(WAYS[way], block)
        liar.answer(liar.asked(0)[0], result)
        liar.publish()
        if way == "handle":
            assert answer.result(HANG_S) == result
            return
        with raises(5):
            answer.result(HANG_S)


@pytest.mark.parametrize("result", [-4096, -(2**31), -(2**63)])
@pytest.mark.parametrize("way", WAYS)
def test_errors_that_are_none_are_errors(
    lied_to: tuple[Block, Liar], way: str, result: int
) -> None:
    block, liar = lied_to
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(WAYS[way], block)
        liar.answer(liar.asked(0)[0], result)
        liar.publish()
        with raises(5):
            answer.result(HANG_S)


def test_what_was_answered_before_the_end_counts(lied_to: tuple[Block, Liar]) -> None:
    """Answered between the waiter's last look and the daemon's last word."""
    block, liar = lied_to
    with block.pool.alloc(4096) as grant:
        handle = block.submit_read(0, grant)
        ident = liar.asked(0)[0]

        def last_moment() -> None:
            if liar.produced == liar.shape.start:
                liar.answer(ident, 4096)
                liar.publish()

        liar.last_moment = last_moment
        liar.farewell()
        assert handle.result(HANG_S) == 4096
        assert grant.pins == 0
    with pytest.raises(BrokenError):
        block.flush()


def test_other_sessions_are_unaffected(lied_to: tuple[Block, Liar]) -> None:
    block, liar = lied_to
    with (
        daemons.spawn(engine="threads", timeout=HANG_S) as honest,
        rings.connect(honest.address).block("null0") as other,
    ):
        unknown(liar, 1 << 32)
        with pytest.raises(BrokenError):
            block.read(0, 512)
        assert other.write(0, b"x" * 512) == 512
        assert other.read(0, 512) == bytes(512)


def test_broken_is_not_closed(lied_to: tuple[Block, Liar]) -> None:
    block, liar = lied_to
    index_ahead(liar, 0)
    with pytest.raises(BrokenError):
        block.flush()
    assert not block.closed
    liar.socket.shutdown(socket.SHUT_RDWR)
    block.close()
    with pytest.raises(ClosedError):
        block.flush()
