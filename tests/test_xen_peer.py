"""Peers compiled from Xen's own headers, as our front and as our back.

Debian's libxen-dev has the headers.  The other half is FrontRing or BackRing with
`rings.blkif`, over a memfd, with two eventfds that the peer inherits.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from rings import blkif, layout
from rings.xen_style import XEN, BackRing, FrontRing, ring_size

from .xen_disk import Disk, Worker, serve_until

HERE = Path(__file__).with_name("xen_peer")
HEADER = Path("/usr/include/xen/io/ring.h")
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing"]
RING_AT = 4096
STARTS = [0, 2**31 - 2, 2**32 - 2]
SHAPES = [(32, 0), (32, 2**31 - 2), (32, 2**32 - 2), (64, 2**32 - 70), (512, 2**32 - 2)]

pytestmark = [
    pytest.mark.skipif(not HEADER.exists(), reason="needs Debian's libxen-dev"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xen_peer")
    for name in ("xen_front_peer", "xen_back_peer", "xen_offsets"):
        command = ["gcc", *FLAGS, "-o", str(folder / name), str(HERE / f"{name}.c")]
        subprocess.run(command, check=True)
    return folder


class Shared:
    """One memfd: a page of nothing, the ring, the data pages; and two eventfds."""

    def __init__(self, slots: int, start: int, pages: int = 256):
        self.slots, self.start, self.pages = slots, start, pages
        ring_bytes = layout.round_up(ring_size(XEN, slots, blkif.SLOT_SIZE))
        self.data_at = RING_AT + ring_bytes
        size = self.data_at + pages * blkif.PAGE
        self.fd = os.memfd_create("rings-test", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.data = memoryview(self.memory)[self.data_at :]
        self.kick, self.call = os.eventfd(0), os.eventfd(0)

    def ring(self, kind, **more):
        return kind(
            self.memory,
            layout=XEN,
            slots=self.slots,
            slot_size=blkif.SLOT_SIZE,
            response_size=blkif.RESPONSE_SIZE,
            offset=RING_AT,
            start=self.start,
            **more,
        )

    def command(self, program: Path, **numbers: int) -> list[str]:
        numbers |= {
            "memfd": self.fd,
            "ring-offset": RING_AT,
            "slots": self.slots,
            "data-offset": self.data_at,
            "data-pages": self.pages,
            "kick-fd": self.kick,
            "call-fd": self.call,
            "start": self.start,
        }
        return [str(program), *(f"--{name}={value}" for name, value in numbers.items())]

    def close(self) -> None:
        self.data.release()
        self.memory.close()
        for fd in self.fd, self.kick, self.call:
            os.close(fd)


@contextmanager
def shared(slots: int, start: int, pages: int = 256):
    area = Shared(slots, start, pages)
    try:
        yield area
    finally:
        area.close()


@contextmanager
def running(command: list[str], area: Shared):
    fds = (area.fd, area.kick, area.call)
    with subprocess.Popen(
        command, pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as peer:
        try:
            yield peer
        finally:
            peer.kill()


def finish(peer) -> dict:
    out, errors = peer.communicate(timeout=60)
    assert peer.returncode == 0, errors
    return json.loads(out)


# -- numbers ----------------------------------------------------------------------


def marks(encoded: bytes, value: bytes) -> int:
    assert encoded.count(value) == 1
    return encoded.index(value)


def test_every_offset_is_xens(compiled):
    program = str(compiled / "xen_offsets")
    xen = json.loads(subprocess.run([program], check=True, capture_output=True).stdout)
    words = layout.XEN_WORDS
    ring = {
        "req_prod": words.req_prod,
        "req_event": words.req_event,
        "rsp_prod": words.rsp_prod,
        "rsp_event": words.rsp_event,
        "ring": words.slots,
    }
    assert ring == {name: xen[f"blkif_sring.{name}"] for name in ring}
    assert xen["entry"] == xen["blkif_request"] == blkif.SLOT_SIZE
    assert xen["entry"] == layout.BLKIF_SLOT_SIZE
    assert xen["blkif_response"] == blkif.RESPONSE_SIZE
    assert xen["blkif_request_segment"] == 8
    assert xen["slots in a page"] == 32
    assert xen["slots in 16 pages"] == 512
    u64, u32, u16, u8 = (b"\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8"[:n] for n in (8, 4, 2, 1))
    sector = int.from_bytes(u64, "little")
    word, half, byte = (int.from_bytes(each, "little") for each in (u32, u16, u8))
    segment = blkif.Segment(word, 3, 5)
    whole = blkif.encode_request(blkif.Request(1, sector, 0, (segment,)))
    assert marks(whole, u64) == xen["blkif_request.id"]
    whole = blkif.encode_request(blkif.Request(1, 0, sector, handle=7))
    assert marks(whole, u64) == xen["blkif_request.sector_number"]
    assert marks(whole, b"\x07") == xen["blkif_request.handle"]
    whole = blkif.encode_request(blkif.Request(2, 0, 0, (segment,) * 11))
    assert whole[xen["blkif_request.operation"]] == 2
    assert whole[xen["blkif_request.nr_segments"]] == 11
    assert whole.index(u32) == xen["blkif_request.seg"]
    assert blkif.encode_segments((segment,))[:6] == u32 + b"\x03\x05"
    assert xen["blkif_request_segment.first_sect"] == 4
    assert xen["blkif_request_segment.last_sect"] == 5
    whole = blkif.encode_request(blkif.Indirect(1, sector, 0, half, (word,), 9))
    named = {"id": u64, "nr_segments": u16 + bytes(1), "handle": b"\x09"}
    at = {name: marks(whole[2:], value) + 2 for name, value in named.items()}
    assert at == {name: xen[f"blkif_request_indirect.{name}"] for name in named}
    assert whole[0] == 6
    assert whole[xen["blkif_request_indirect.indirect_op"]] == 1
    assert marks(whole, u32 + bytes(1)) == xen["blkif_request_indirect.indirect_grefs"]
    whole = blkif.encode_request(blkif.Discard(1, 2, sector, secure=True))
    assert marks(whole, u64) == xen["blkif_request_discard.nr_sectors"]
    assert whole[xen["blkif_request_discard.flag"]] == 1
    assert whole[xen["blkif_request_discard.sector_number"]] == 2
    whole = blkif.encode_response(blkif.Response(sector, byte, -2))
    assert marks(whole, u64) == xen["blkif_response.id"]
    assert whole[xen["blkif_response.operation"]] == byte
    assert whole[xen["blkif_response.status"] :][:2] == b"\xfe\xff"
    assert whole[9] == 0
    assert whole[12:] == bytes(4)


@pytest.mark.parametrize(("slots", "start"), SHAPES)
def test_xen_is_the_front_of_our_back(compiled, slots, start):
    with shared(slots, start) as area:
        image = bytearray(1024 * blkif.SECTOR)
        command = area.command(
            compiled / "xen_front_peer", sectors=1024, ops=1500, seed=slots, indirect=1
        )
        with area.ring(BackRing, initialise=False) as back:
            area.ring(FrontRing, initialise=True).close()
            with running(command, area) as peer:
                disk = Disk(image, area.data)
                serve_until(
                    lambda: peer.poll() is not None, back, disk, area.kick, area.call, 1
                )
                told = finish(peer)
            counted = back.statistics()
    assert counted["requests"] == counted["responses"] == 1500 + 128
    assert told["reads"] + told["writes"] + told["flushes"] + told["discards"] == 1628
    assert min(told["indirect"], told["flushes"], told["discards"]) > 0
    assert told["verified"] > 1 << 20


@pytest.mark.parametrize(("slots", "start"), SHAPES)
def test_xen_is_the_back_of_our_front(compiled, slots, start):
    with shared(slots, start) as area:
        command = area.command(
            compiled / "xen_back_peer", sectors=1024, ops=1500, seed=slots
        )
        with (
            area.ring(FrontRing, initialise=True) as front,
            running(command, area) as peer,
        ):
            worker = Worker(front, area.data, 1024, random.Random(slots))
            worker.run(1500, area.kick, area.call)
            finish(peer)
            counted = front.statistics()
    assert counted["requests"] == counted["responses"] == 1500
    assert worker.verified > 1 << 20


def test_the_front_peer_notices_a_wrong_byte(compiled):
    """The control: a disk that flips one bit of one sector must not pass."""

    class Rotten(Disk):
        def perform(self, request):
            super().perform(request)
            self.image[100 * blkif.SECTOR] ^= 1

    with shared(32, 0) as area, area.ring(BackRing, initialise=True) as back:
        command = area.command(
            compiled / "xen_front_peer", sectors=256, ops=2000, seed=3
        )
        with running(command, area) as peer:
            disk = Rotten(bytearray(256 * blkif.SECTOR), area.data)
            serve_until(
                lambda: peer.poll() is not None, back, disk, area.kick, area.call, 1
            )
            _, errors = peer.communicate(timeout=60)
    assert peer.returncode == 1
    assert "sector 100 does not read as it was written" in errors
