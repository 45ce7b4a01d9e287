"""`rings.Queue`: what somebody gets who only changes the import."""

from __future__ import annotations

from typing import Any

from bench.channel import ANY_FAN, Adapter, Receiver, Sender, Spec
from rings import Queue as RingsQueue


class Queue(Adapter):
    """`rings.Queue` in the place of `multiprocessing.Queue`."""

    name = "rings.Queue"
    ours = True
    fan = ANY_FAN
    arrays = True

    def create(self, spec: Spec) -> Any:
        return RingsQueue(spec.slots)

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(put=made.put, put_array=made.put)

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(get=made.get, get_array=lambda use: use(made.get()))

    def destroy(self, made: Any) -> None:
        made.close()


ADAPTERS: list[Adapter] = [Queue()]
