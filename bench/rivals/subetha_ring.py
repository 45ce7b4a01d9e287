"""subetha-ipc: rings that never block; `SpscRing` has slots of 64 bytes."""

from __future__ import annotations

from typing import Any

import subetha

from bench.channel import ANY_FAN, BATCH, Adapter, Receiver, Sender, Spec, cut, napping

SLOT = 64


class Spsc(Adapter):
    """`SpscRing`, whose batches cross as one buffer."""

    name = "subetha SpscRing (polled)"
    package = "subetha-ipc"
    max_size = SLOT
    batches = True
    in_process = True

    def create(self, spec: Spec) -> Any:
        path = str(spec.folder / spec.tag)
        return path, spec, subetha.SpscRing(path, spec.slots)

    def sender(self, made: Any, index: int) -> Sender:
        path, spec, _ = made
        ring = subetha.SpscRing.open(path, spec.slots)

        def put_many(data: bytes) -> None:
            pause, done = napping(), ring.push_buffer(data, SLOT)
            while done < len(data) // SLOT:
                pause()
                done += ring.push_buffer(data[done * SLOT :], SLOT)

        return Sender(try_put=ring.push, batch=b"".join, put_many=put_many)

    def receiver(self, made: Any, index: int) -> Receiver:
        path, spec, _ = made
        ring = subetha.SpscRing.open(path, spec.slots)
        last = b""

        def get_many() -> int:
            nonlocal last
            pause = napping()
            last, _ = ring.pop_buffer(BATCH)
            while not last:
                pause()
                last, _ = ring.pop_buffer(BATCH)
            return len(last) // SLOT

        return Receiver(
            try_get=ring.pop,
            get_many=get_many,
            records=lambda: cut(last, SLOT, len(last) // SLOT),
        )


class Shared(Adapter):
    """`Ring` with registered producers and consumers."""

    name = "subetha Ring (polled)"
    package = "subetha-ipc"
    max_size = SLOT
    fan = ANY_FAN

    def create(self, spec: Spec) -> Any:
        path = str(spec.folder / spec.tag)
        ring = subetha.Ring(path, spec.slots, spec.producers, spec.consumers)
        return path, spec, ring

    def _open(self, made: Any) -> Any:
        path, spec, _ = made
        return subetha.Ring.open(path, spec.slots, spec.producers, spec.consumers)

    def sender(self, made: Any, index: int) -> Sender:
        ring = self._open(made)
        producer, send = ring.register_producer(), ring.send
        return Sender(try_put=lambda data: send(producer, data))

    def receiver(self, made: Any, index: int) -> Receiver:
        ring = self._open(made)
        consumer, recv = ring.register_consumer(), ring.recv
        return Receiver(try_get=lambda: recv(consumer))


ADAPTERS = [Spsc(), Shared()]
