"""cloudtoid-interprocess: a shared-memory byte queue; its send only tries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudtoid_interprocess import Publisher, Subscriber

from bench.channel import ANY_FAN, BATCH, Adapter, Receiver, Sender, Spec, napping


class Queue(Adapter):
    """`try_send` retried here, `receive` that blocks."""

    name = "cloudtoid-interprocess"
    package = "cloudtoid-interprocess"
    fan = ANY_FAN
    batches = True
    arrays = True
    in_process = True

    def create(self, spec: Spec) -> Any:
        capacity = 2 * max(spec.capacity, 1 << 16)
        where = (spec.tag, capacity, spec.folder)
        return where, Subscriber(*where)

    def sender(self, made: Any, index: int) -> Sender:
        publisher = Publisher(*made[0])

        def put_many(batch: Sequence[bytes]) -> None:
            pause, sent = napping(), publisher.try_send_batch(batch)
            while sent < len(batch):
                pause()
                sent += publisher.try_send_batch(batch[sent:])

        nap = napping()

        def put_array(array: Any) -> None:
            while not publisher.try_send(array):
                nap()

        return Sender(
            try_put=publisher.try_send,
            batch=list,
            put_many=put_many,
            put_array=put_array,
        )

    def receiver(self, made: Any, index: int) -> Receiver:
        import numpy

        subscriber = Subscriber(*made[0])
        last: list[bytes] = []

        def get_many() -> int:
            last.clear()
            record = subscriber.receive()
            while record is not None and len(last) < BATCH:
                last.append(record)
                record = subscriber.try_receive()
            if record is not None:
                last.append(record)
            return len(last)

        return Receiver(
            get=subscriber.receive,
            get_many=get_many,
            records=lambda: last,
            get_array=lambda use: use(
                numpy.frombuffer(subscriber.receive() or b"", numpy.float64)
            ),
        )

    def destroy(self, made: Any) -> None:
        made[1].close()
        for left in Path("/dev/shm").glob(f"*{made[0][0]}*"):
            left.unlink(missing_ok=True)


ADAPTERS = [Queue()]
