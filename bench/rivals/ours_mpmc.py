"""Our MPMC ring in each waiting strategy: anybody may put, get, or be killed."""

from __future__ import annotations

from typing import Any

from bench.channel import ANY_FAN, BATCH, Adapter, Receiver, Sender, Spec, cut
from rings import mpmc

SPINS_US = {"block": 0, "spin 50 us": 50, "busy": -1}


class Mpmc(Adapter):
    """`rings.mpmc`: any number of ends, any of which may be killed."""

    ours = True
    fan = ANY_FAN
    batches = True
    in_process = True

    def __init__(self, manner: str) -> None:
        self.name = f"rings MPMC, {manner}"
        self.spin_us = SPINS_US[manner]
        self.needs_two_cores = manner == "busy"

    def create(self, spec: Spec) -> Any:
        return mpmc.create(slots=max(2, spec.slots), slot_size=spec.size)

    def sender(self, made: Any, index: int) -> Sender:
        producer = made.producer(spin_us=self.spin_us)
        size = made.slot_size

        def put_all(data: memoryview) -> None:
            done = producer.put_records(data, size) * size
            while done < len(data):
                producer.put(data[done : done + size])
                done += size
                done += producer.put_records(data[done:], size) * size

        return Sender(
            put=producer.put,
            batch=lambda records: memoryview(b"".join(records)),
            put_many=put_all,
        )

    def receiver(self, made: Any, index: int) -> Receiver:
        consumer = made.consumer(spin_us=self.spin_us)
        size = made.slot_size
        room = memoryview(bytearray(BATCH * size if size <= 4096 else size))
        last = 0

        def get_many() -> int:
            nonlocal last
            last = consumer.get_records(room, size)
            if not last:
                room[:size] = consumer.get()
                last = 1 + consumer.get_records(room[size:], size)
            return last

        return Receiver(
            get=consumer.get, get_many=get_many, records=lambda: cut(room, size, last)
        )

    def destroy(self, made: Any) -> None:
        made.close()


ADAPTERS: list[Adapter] = [Mpmc(manner) for manner in SPINS_US]
