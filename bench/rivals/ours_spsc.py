"""Our SPSC rings in each waiting strategy: of slots, of records, by reference."""

from __future__ import annotations

from typing import Any

from bench.channel import BATCH, Adapter, Receiver, Sender, Spec, cut
from rings import spsc

SPIN_US = 50
WAITS = {"block": "block", f"spin {SPIN_US} us": f"spin:{SPIN_US}", "busy": "busy"}


class Spsc(Adapter):
    """`rings.spsc` with slots as long as the message; arrays are read in place."""

    ours = True
    batches = True
    arrays = True
    in_process = True

    def __init__(self, manner: str) -> None:
        self.name = f"rings SPSC, {manner}"
        self.wait = WAITS[manner]
        self.needs_two_cores = manner == "busy"

    def create(self, spec: Spec) -> Any:
        return spsc.create(slots=spec.slots, slot_size=spec.size)

    def sender(self, made: Any, index: int) -> Sender:
        producer = made.producer(wait=self.wait)
        size, put_many = made.slot_size, producer.put_many

        def put_all(data: memoryview) -> None:
            done = put_many(data, None) * size
            while done < len(data):
                done += put_many(data[done:], None) * size

        return Sender(
            put=producer.put,
            batch=lambda records: memoryview(b"".join(records)),
            put_many=put_all,
            put_array=producer.put,
        )

    def receiver(self, made: Any, index: int) -> Receiver:
        import numpy

        consumer = made.consumer(wait=self.wait)
        size, get_into = made.slot_size, consumer.get_into
        room = memoryview(bytearray(BATCH * size if size <= 4096 else size))
        last = 0

        def get_many() -> int:
            nonlocal last
            last = get_into(room, None) // size
            return last

        def get_array(use: Any) -> None:
            with consumer.peek() as view:
                use(numpy.frombuffer(view, numpy.float64))

        return Receiver(
            get=consumer.get,
            get_many=get_many,
            records=lambda: cut(room, size, last),
            get_array=get_array,
        )

    def destroy(self, made: Any) -> None:
        made.close()


class Records(Adapter):
    """`rings.spsc` with messages of any length."""

    ours = True
    in_process = True

    def __init__(self, manner: str) -> None:
        self.name = f"rings SPSC records, {manner}"
        self.wait = WAITS[manner]

    def create(self, spec: Spec) -> Any:
        room = max(4 * (spec.size + 8), spec.capacity)
        return spsc.create(ring_bytes=1 << (room - 1).bit_length())

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(put=made.producer(wait=self.wait).put)

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(get=made.consumer(wait=self.wait).get)

    def destroy(self, made: Any) -> None:
        made.close()


class References(Records):
    """`rings.spsc` with the message in the pool; arrays are read there."""

    arrays = True
    round_trips = in_process = False
    min_size = 64 << 10
    max_size = 16 << 20

    def __init__(self, manner: str) -> None:
        self.name = f"rings SPSC by reference, {manner}"
        self.wait = WAITS[manner]

    def create(self, spec: Spec) -> Any:
        return spsc.create(ring_bytes=4096, pool_bytes=spec.capacity, inline_max=0)

    def sender(self, made: Any, index: int) -> Sender:
        put = made.producer(wait=self.wait).put
        return Sender(put=put, put_array=put)

    def receiver(self, made: Any, index: int) -> Receiver:
        import numpy

        consumer = made.consumer(wait=self.wait)

        def get_array(use: Any) -> None:
            with consumer.peek() as view:
                use(numpy.frombuffer(view, numpy.float64))

        return Receiver(get=consumer.get, get_array=get_array)


ADAPTERS: list[Adapter] = [
    *(Spsc(manner) for manner in WAITS),
    Records("block"),
    References("block"),
]
