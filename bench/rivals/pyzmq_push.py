"""ØMQ PUSH/PULL over ``ipc://``: each producer connects to every consumer."""

from __future__ import annotations

from typing import Any

import zmq

from bench.channel import ANY_FAN, Adapter, Receiver, Sender, Spec


class Push(Adapter):
    """pyzmq, whose high-water mark is set so that 1 MiB messages fit in memory."""

    name = "pyzmq push/pull"
    max_size = 16 << 20
    package = "pyzmq"
    fan = ANY_FAN
    arrays = True

    def create(self, spec: Spec) -> Any:
        addresses = [
            f"ipc://{spec.folder}/{spec.tag}-{i}" for i in range(spec.consumers)
        ]
        return addresses, max(8, spec.slots // 4)

    def _socket(self, kind: int, limit: int) -> Any:
        socket = zmq.Context().socket(kind)
        socket.set_hwm(limit)
        return socket

    def sender(self, made: Any, index: int) -> Sender:
        addresses, limit = made
        socket = self._socket(zmq.PUSH, limit)
        for address in addresses:
            socket.connect(address)
        return Sender(
            put=socket.send, put_array=lambda array: socket.send(array, copy=False)
        )

    def receiver(self, made: Any, index: int) -> Receiver:
        import numpy

        addresses, limit = made
        socket = self._socket(zmq.PULL, limit)
        socket.bind(addresses[index])

        def get_array(use: Any) -> None:
            frame = socket.recv(copy=False)
            use(numpy.frombuffer(frame.buffer, numpy.float64))

        return Receiver(get=socket.recv, get_array=get_array)


ADAPTERS = [Push()]
