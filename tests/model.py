"""The request/response ring in plain Python: what the C halves are compared with.

Right in one thread only, which is all that a reference needs.
"""

from __future__ import annotations

from rings import layout

WRAP = 2**32


class Broken(Exception):
    """The peer's producer index is impossible."""


class Ring:
    """Four words and the slots, in a bytearray laid out as the C code has them."""

    def __init__(self, memory: bytearray, ring_layout: int, slots: int, size: int):
        self.memory, self.slots, self.size = memory, slots, size
        self.at = layout.RING_WORDS[ring_layout]

    def initialise(self, start: int) -> None:
        self.memory[: self.at.slots] = bytes(self.at.slots)
        self.store(self.at.req_prod, start)
        self.store(self.at.rsp_prod, start)
        self.store(self.at.req_event, start + 1)
        self.store(self.at.rsp_event, start + 1)

    def load(self, offset: int) -> int:
        return int.from_bytes(self.memory[offset : offset + 4], "little")

    def store(self, offset: int, value: int) -> None:
        self.memory[offset : offset + 4] = (value % WRAP).to_bytes(4, "little")

    def slot(self, index: int) -> int:
        return self.at.slots + index % self.slots * self.size

    def read(self, index: int, size: int) -> bytes:
        return bytes(self.memory[self.slot(index) : self.slot(index) + size])

    def write(self, index: int, record: bytes) -> None:
        self.memory[self.slot(index) : self.slot(index) + len(record)] = record


def wanted(event: int, old: int, new: int) -> bool:
    """Whether ``event`` is one of old+1 .. new."""
    return event in {index % WRAP for index in range(old + 1, new + 1)}


class Half:
    """One half; indices are plain integers that never wrap, words in memory do."""

    def __init__(self, ring: Ring, front: bool, start: int, response_size: int):
        self.ring, self.front = ring, front
        self.claimed = self.published = self.consumed = start
        at, full = ring.at, ring.size
        if front:
            self.mine, self.peer_event = at.req_prod, at.req_event
            self.theirs, self.my_event = at.rsp_prod, at.rsp_event
        else:
            self.mine, self.peer_event = at.rsp_prod, at.rsp_event
            self.theirs, self.my_event = at.req_prod, at.req_event
        self.take_size = response_size if front else full

    def room(self) -> int:
        if self.front:
            return self.ring.slots - (self.claimed - self.consumed)
        return self.consumed - self.claimed

    def put(self, record: bytes) -> bool:
        if self.room() == 0:
            return False
        self.ring.write(self.claimed, record)
        self.claimed += 1
        return True

    def publish(self) -> bool:
        old, self.published = self.published, self.claimed
        self.ring.store(self.mine, self.published)
        return wanted(self.ring.load(self.peer_event), old, self.published)

    def ready(self) -> int:
        count = (self.ring.load(self.theirs) - self.consumed) % WRAP
        most = self.published - self.consumed + (0 if self.front else self.ring.slots)
        if count > most:
            raise Broken
        return count

    def take(self, most: int) -> list[bytes]:
        count = min(self.ready(), most)
        records = [
            self.ring.read(self.consumed + i, self.take_size) for i in range(count)
        ]
        self.consumed += count
        return records

    def final_check(self) -> bool:
        if not self.ready():
            self.ring.store(self.my_event, self.consumed + 1)
        return self.ready() > 0
