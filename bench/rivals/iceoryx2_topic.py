"""iceoryx2: publish-subscribe by loaned samples, polled (its events cost more)."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path
from typing import Any

import iceoryx2 as iox2

from bench.channel import FAN_IN, Adapter, Receiver, Sender, Spec

iox2.set_log_level(iox2.LogLevel.Error)
BYTES = iox2.Slice[ctypes.c_uint8]


class Topic(Adapter):
    """A sample a message: loan, memmove, send; receive, copy out."""

    name = "iceoryx2 (polled)"
    package = "iceoryx2"
    fan = FAN_IN

    def create(self, spec: Spec) -> Any:
        return spec

    def _service(self, spec: Spec) -> tuple[Any, Any]:
        config = iox2.config.default()
        config.global_cfg.prefix = iox2.FileName.new(f"{spec.tag}_")
        config.global_cfg.root_path = iox2.Path.new(f"{spec.folder}/{spec.tag}.d")
        node = iox2.NodeBuilder.new().config(config).create(iox2.ServiceType.Ipc)
        service = (
            node.service_builder(iox2.ServiceName.new(spec.tag))
            .publish_subscribe(BYTES)
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(min(1024, spec.slots))
            .max_publishers(spec.producers)
            .max_subscribers(spec.consumers)
            .open_or_create()
        )
        return node, service

    def sender(self, made: Any, index: int) -> Sender:
        node, service = self._service(made)
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(made.size)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        loan, move = publisher.loan_slice_uninit, ctypes.memmove

        def put(data: bytes, keep: Any = (node, service)) -> None:
            sample = loan(len(data))
            move(sample.payload_ptr, data, len(data))
            sample.assume_init().send()

        return Sender(put=put)

    def receiver(self, made: Any, index: int) -> Receiver:
        node, service = self._service(made)
        subscriber = service.subscriber_builder().create()
        receive, copy = subscriber.receive, ctypes.string_at

        def try_get(keep: Any = (node, service)) -> bytes | None:
            sample = receive()
            if sample is None:
                return None
            data = copy(sample.payload_ptr, sample.payload().number_of_elements)
            sample.delete()
            return data

        return Receiver(try_get=try_get)

    def destroy(self, made: Any) -> None:
        shutil.rmtree(made.folder / f"{made.tag}.d", ignore_errors=True)
        for left in Path("/dev/shm").glob(f"{made.tag}_*"):
            left.unlink(missing_ok=True)


ADAPTERS = [Topic()]
