"""Devices written in Python, behind the real engine."""

import errno
import os
import socket
import threading
import time
from array import array
from collections.abc import Iterator

import pytest

from daemons.backend import OP_READ, OP_WRITE, Backend, Batch
from daemons.device import Device, RingSpec
from daemons.engine import Engine
from rings import layout
from rings.block import Block
from rings.channel import EventChannel
from rings.memory import Region
from rings.messages import DeviceFacts
from rings.peer import Peer
from rings.rendezvous import Session


class Upper(Backend):
    """Keeps what is written, in upper case."""

    size = 1 << 16
    block_size = 1

    def __init__(self) -> None:
        self.bytes = bytearray(self.size)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def serve(self, batch: Batch) -> None:
        self.gate.wait(30)
        self.batches.append(len(batch))
        for index, request in enumerate(batch):
            at = request.offset
            if request.offset == 666:
                raise RuntimeError("a fault in the user's code")
            for part in request.segments:
                if request.op == OP_READ:
                    part[:] = self.bytes[at : at + len(part)]
                elif request.op == OP_WRITE:
                    assert part.readonly
                    self.bytes[at : at + len(part)] = bytes(part).upper()
                at += len(part)
            batch.respond(index, request.length)


class Rig:
    """An engine, a region and both ends of one ring in this process."""

    def __init__(self, kind: str, backend: Backend) -> None:
        self.engine = Engine(kind)
        self.engine.start()
        shape = layout.split_geometry(slots=16, data_size=1 << 20)
        self.region = Region.create(shape.size, kind=layout.KIND_SPLIT)
        words = self.region.buffer[shape.ring_offset :][:256].cast("I")
        words[33] = words[1] = 1
        words.release()
        front, self.back = EventChannel.pair()
        self.sockets = socket.socketpair()
        self.device = Device(
            "upper", "python", size=backend.size, block_size=1, backend=backend
        )
        self.ring = self.engine.attach(
            RingSpec(
                self.region, shape, self.device, self.back.fileno(), self.back.notify_fd
            )
        )
        facts = DeviceFacts(
            "upper", "python", backend.size, 1, False, False, self.device.ops
        )
        self.channel = front
        session = Session(
            self.region, shape, front, facts, frozenset(), self.sockets[0], 1,
            Peer(os.getpid(), 0, 0, 0), None,  # type: ignore[arg-type]
        )  # fmt: skip
        self.block = Block(session)

    def close(self) -> None:
        self.engine.detach(self.ring, drain=False)
        self.block._copier.close()
        self.block._requester.close()
        self.engine.stop()
        self.region.close()
        for end in (self.channel, self.back, *self.sockets):
            end.close()


@pytest.fixture(params=["uring", "threads", "mock"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    try:
        made = Rig(request.param, Upper())
    except OSError as error:
        pytest.skip(f"no {request.param} here: {error}")
    yield made
    made.close()


def upper(rig: Rig) -> Upper:
    backend = rig.device.backend
    assert isinstance(backend, Upper)
    return backend


def test_a_backend_in_python_serves(rig: Rig) -> None:
    rig.block.write(100, b"hello")
    assert rig.block.read(100, 5) == b"HELLO"


def test_what_is_in_the_ring_together_is_one_batch(rig: Rig) -> None:
    backend = upper(rig)
    backend.gate.clear()
    with rig.block.pool.alloc(4096) as grant:
        first = rig.block.submit_read(0, grant, length=1)
        with rig.block.batch():
            more = [rig.block.submit_read(i, grant, length=1) for i in range(10)]
        backend.gate.set()
        assert [handle.result(30) for handle in [first, *more]] == [1] * 11
    assert sum(backend.batches) == 11
    assert len(backend.batches) <= 3


def test_a_fault_is_an_io_error_and_no_more(rig: Rig) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        rig.block.read(666, 10)
    assert caught.value.errno == errno.EIO
    assert rig.block.read(0, 4) == bytes(4)


def test_a_request_with_the_backend_cannot_be_cancelled(rig: Rig) -> None:
    upper(rig).gate.clear()
    with rig.block.pool.alloc(4096) as grant:
        handle = rig.block.submit_read(0, grant)
        assert handle.cancel(30) == "running"
        upper(rig).gate.set()
        assert handle.result(30) == 4096


def test_letting_go_does_not_wait_for_answers(rig: Rig) -> None:
    upper(rig).gate.clear()
    with rig.block.pool.alloc(4096) as grant:
        rig.block.submit_read(0, grant)
        threading.Timer(0.2, upper(rig).gate.set).start()
        rig.engine.detach(rig.ring, drain=False)
        grant.unpin()


class Backwards(Backend):
    """Answers what came together in the opposite order, the first one later."""

    size = 1 << 20
    block_size = 1

    def serve(self, batch: Batch) -> None:
        for index in reversed(range(len(batch))):
            if index == 0:
                time.sleep(0.01)
            for part in batch[index].segments:
                part[:] = bytes([batch[index].offset >> 12]) * len(part)
            batch.respond(index, batch[index].length)


@pytest.mark.parametrize("blocks", [4, 16, 64])
def test_many_blocks_answered_out_of_order_in_few_buffers(blocks: int) -> None:
    """A window no larger than the depth: the next buffer may be the last one free."""
    rig = Rig("mock", Backwards())
    try:
        with rig.block.pool.alloc(4096 * 4) as grant:
            offsets = array("Q", [i * 4096 for i in range(blocks)])
            assert (
                rig.block.read_many(offsets, grant, length=4096, depth=4, timeout=30)
                == blocks
            )
            with grant.view() as view:
                firsts = [view[i * 4096] for i in range(4)]
            assert firsts == list(range(blocks - 4, blocks))
    finally:
        rig.close()
