"""A disk image in memory behind a BackRing, and a worker in front of a FrontRing.

What tests/test_xen_peer.py sets against peers that are compiled from Xen's headers.
"""

from __future__ import annotations

import os
import random
import select
from dataclasses import dataclass, field

from rings import blkif, blkif_rights
from rings.xen_style import BackRing, FrontRing

HANG_MS = 30_000


def sleep(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(HANG_MS), "nothing came: a lost wake-up or a dead peer"
    os.eventfd_read(fd)


class Disk:
    """Serves blkif requests from ``image``; ``data`` is the granted memory."""

    def __init__(self, image: bytearray, data: memoryview):
        self.image, self.data = image, data
        self.limits = {
            "sectors": len(image) // blkif.SECTOR,
            "pages": len(data) // blkif.PAGE,
        }

    def serve(self, slot: bytes) -> bytes:
        try:
            request = blkif.decode_request(slot)
            blkif_rights.check(request, **self.limits)
            self.perform(request)
        except blkif.RefusedError as error:
            return blkif.encode_response(blkif.refuse(slot, error.status))
        response = blkif.Response(request.id, request.operation)
        return blkif.encode_response(response)

    def perform(self, request: blkif.AnyRequest) -> None:
        at = request.sector * blkif.SECTOR
        if isinstance(request, blkif.Discard):
            size = request.nr_sectors * blkif.SECTOR
            self.image[at : at + size] = bytes(size)
            return
        segments = self.segments(request)
        blkif_rights.check_segments(request, segments, **self.limits)
        for offset, length in (segment.extent for segment in segments):
            page, disk = slice(offset, offset + length), slice(at, at + length)
            if request.operation == blkif.READ:
                self.data[page] = self.image[disk]
            else:
                self.image[disk] = self.data[page]
            at += length

    def segments(self, request) -> tuple[blkif.Segment, ...]:
        if isinstance(request, blkif.Request):
            return request.segments
        pages = [
            bytes(self.data[gref * blkif.PAGE : (gref + 1) * blkif.PAGE])
            for gref in request.grefs
        ]
        return blkif.decode_segments(b"".join(pages), request.nr_segments)


def serve_until(done, back: BackRing, disk: Disk, kick: int, call: int, seed: int):
    """Answer in random order until ``done()``; sleep whenever nothing is there."""
    chance = random.Random(seed)
    waiting: list[bytes] = []
    while not done():
        waiting += back.take(chance.randint(1, back.slots))
        chance.shuffle(waiting)
        now = (
            len(waiting) if not back.final_check() else chance.randint(0, len(waiting))
        )
        back.put_many([disk.serve(slot) for slot in waiting[:now]])
        del waiting[:now]
        if back.publish():
            os.eventfd_write(call, 1)
        if not waiting and not back.final_check():
            poll = select.poll()
            poll.register(kick, select.POLLIN)
            if poll.poll(20):
                os.eventfd_read(kick)


@dataclass
class Worker:
    """Writes and reads random segments, holding every byte against a shadow."""

    front: FrontRing
    data: memoryview
    sectors: int
    chance: random.Random
    shadow: bytearray = field(init=False)
    flying: dict = field(default_factory=dict)
    free: list = field(init=False)
    asked: int = 0
    verified: int = 0

    def __post_init__(self):
        self.shadow = bytearray(self.sectors * blkif.SECTOR)
        self.free = list(range(len(self.data) // blkif.PAGE))

    def run(self, operations: int, kick: int, call: int) -> None:
        while self.asked < operations or self.flying:
            for _ in range(self.chance.randint(1, 8)):
                if self.asked < operations and self.front.credit:
                    self.ask()
            if self.front.publish():
                os.eventfd_write(kick, 1)
            for record in self.front.take():
                self.answered(blkif.decode_response(record))
            if self.flying and not self.front.final_check():
                sleep(call)

    def ask(self) -> None:
        count = self.chance.choice([1, 2, 11, 20])
        if len(self.free) < count + 1:
            return
        segments = tuple(self.segment(gref) for gref in self.free[:count])
        total = sum(each.sectors for each in segments)
        sector = self.chance.randint(0, self.sectors - total)
        if any(
            sector < at + n and at < sector + total
            for at, n, *_ in self.flying.values()
        ):
            return
        operation = self.chance.choice([blkif.READ, blkif.WRITE])
        if operation == blkif.WRITE:
            self.fill(sector, segments)
        pages, request = self.request(operation, sector, segments)
        del self.free[: count + 1]
        self.flying[request.id] = (sector, total, operation, segments, pages)
        assert self.front.put(blkif.encode_request(request))
        self.asked += 1

    def segment(self, gref: int) -> blkif.Segment:
        first = self.chance.randint(0, 7)
        return blkif.Segment(gref, first, self.chance.randint(first, 7))

    def request(self, operation, sector, segments):
        """The request, direct or indirect, and the pages that it holds."""
        ident = (self.asked << 32 | self.asked) ^ (1 << 63)
        pages = self.free[: len(segments) + 1]
        if len(segments) <= blkif.MAX_SEGMENTS:
            return pages, blkif.Request(operation, ident, sector, segments)
        table = blkif.encode_segments(segments)
        at = pages[-1] * blkif.PAGE
        self.data[at : at + len(table)] = table
        return pages, blkif.Indirect(
            operation, ident, sector, len(segments), (pages[-1],)
        )

    def fill(self, sector, segments) -> None:
        for offset, length, at in self.extents(sector, segments):
            fresh = self.chance.randbytes(length)
            self.data[offset : offset + length] = fresh
            self.shadow[at : at + length] = fresh

    @staticmethod
    def extents(sector, segments):
        at = sector * blkif.SECTOR
        for offset, length in (each.extent for each in segments):
            yield offset, length, at
            at += length

    def answered(self, response: blkif.Response) -> None:
        sector, _, operation, segments, pages = self.flying.pop(response.id)
        assert response.operation == operation
        assert response.status == blkif.OKAY
        for offset, length, at in self.extents(sector, segments):
            assert self.data[offset : offset + length] == self.shadow[at : at + length]
            self.verified += length
        self.free += pages
