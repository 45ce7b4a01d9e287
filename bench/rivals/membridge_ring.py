"""membridge: a byte ring in a named segment; it never blocks."""

from __future__ import annotations

from typing import Any

import membridge

from bench.channel import Adapter, Receiver, Sender, Spec

HEADER = 24


class Spsc(Adapter):
    """`SharedMemory.spsc()`."""

    name = "membridge SPSC (polled)"
    package = "membridge"
    in_process = True

    def create(self, spec: Spec) -> Any:
        size = (1 << (2 * spec.capacity - 1).bit_length()) + HEADER
        name = f"/{spec.tag}"
        memory = membridge.SharedMemory.create(name, size)
        return name, size, memory, memory.spsc()

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(try_put=made[3].push)

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(try_get=made[3].pop)

    def destroy(self, made: Any) -> None:
        membridge.SharedMemory.remove(made[0])


ADAPTERS = [Spsc()]
