"""nng PUSH/PULL over ``ipc://`` by pynng."""

from __future__ import annotations

from typing import Any

import pynng

from bench.channel import ANY_FAN, Adapter, Receiver, Sender, Spec


class Push(Adapter):
    """pynng with buffers of the ring's own depth (its limit is 8192 messages)."""

    name = "pynng push/pull"
    package = "pynng"
    fan = ANY_FAN

    def create(self, spec: Spec) -> Any:
        addresses = [
            f"ipc://{spec.folder}/{spec.tag}-{i}" for i in range(spec.consumers)
        ]
        return addresses, min(4096, spec.slots)

    def sender(self, made: Any, index: int) -> Sender:
        addresses, limit = made
        socket = pynng.Push0(send_buffer_size=limit)
        for address in addresses:
            socket.dial(address, block=False)
        return Sender(put=socket.send)

    def receiver(self, made: Any, index: int) -> Receiver:
        addresses, limit = made
        socket = pynng.Pull0(recv_buffer_size=limit, recv_max_size=0)
        socket.listen(addresses[index])
        return Receiver(get=socket.recv)


ADAPTERS = [Push()]
