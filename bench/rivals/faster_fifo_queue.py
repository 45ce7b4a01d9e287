"""faster-fifo: a bytes ring with a mutex, pickling like multiprocessing.Queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faster_fifo

from bench.channel import ANY_FAN, BATCH, Adapter, Receiver, Sender, Spec

FOREVER_S = 1e6


class Fifo(Adapter):
    """As its README uses it; the timeout is raised, since the default gives up."""

    name = "faster-fifo"
    package = "faster-fifo"
    fan = ANY_FAN
    batches = True

    def create(self, spec: Spec) -> Any:
        return faster_fifo.Queue(max_size_bytes=2 * spec.capacity)

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(
            put=lambda data: made.put(data, True, FOREVER_S),
            batch=list,
            put_many=lambda batch: made.put_many(batch, True, FOREVER_S),
        )

    def receiver(self, made: Any, index: int) -> Receiver:
        last: list[bytes] = []

        def get_many() -> int:
            nonlocal last
            last = made.get_many(True, FOREVER_S, BATCH)
            return len(last)

        def records() -> Sequence[bytes]:
            return last

        return Receiver(
            get=lambda: made.get(True, FOREVER_S), get_many=get_many, records=records
        )

    def destroy(self, made: Any) -> None:
        made.close()


ADAPTERS = [Fifo()]
