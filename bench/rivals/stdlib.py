"""What Python and the kernel bring along: queues, pipes, and a deque for scale."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import queue
from collections import deque
from typing import Any

from bench.channel import ANY_FAN, BATCH, FAN_IN, Adapter, Receiver, Sender, Spec, cut

FORK = multiprocessing.get_context("fork")
PIPE_SIZE = 1 << 20


class MpQueue(Adapter):
    """`multiprocessing.Queue`: pickles, a lock at each end, a feeder thread."""

    name = "multiprocessing.Queue"
    max_size = 16 << 20
    fan = ANY_FAN
    arrays = True

    def create(self, spec: Spec) -> Any:
        return FORK.Queue(spec.slots)

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(put=made.put, put_array=made.put)

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(get=made.get, get_array=lambda use: use(made.get()))

    def destroy(self, made: Any) -> None:
        made.cancel_join_thread()
        made.close()


class MpSimpleQueue(Adapter):
    """`multiprocessing.SimpleQueue`: the same without the thread."""

    name = "multiprocessing.SimpleQueue"
    max_size = 16 << 20
    fan = ANY_FAN

    def create(self, spec: Spec) -> Any:
        return FORK.SimpleQueue()

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(put=made.put)

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(get=made.get)

    def destroy(self, made: Any) -> None:
        made.close()


class MpPipe(Adapter):
    """`multiprocessing.Pipe` with `send_bytes`: a pipe and a length before each."""

    name = "multiprocessing.Pipe"
    max_size = 16 << 20
    arrays = True

    def create(self, spec: Spec) -> Any:
        return FORK.Pipe(duplex=False)

    def sender(self, made: Any, index: int) -> Sender:
        send = made[1].send_bytes

        def put_array(array: Any) -> None:
            send(memoryview(array).cast("B"))

        return Sender(put=send, put_array=put_array)

    def receiver(self, made: Any, index: int) -> Receiver:
        import numpy

        recv = made[0].recv_bytes
        return Receiver(
            get=recv, get_array=lambda use: use(numpy.frombuffer(recv(), numpy.float64))
        )

    def destroy(self, made: Any) -> None:
        for end in made:
            end.close()


class OsPipe(Adapter):
    """`os.pipe`, fixed sizes, no framing: the kernel's own, and an honest batch."""

    name = "os.pipe"
    max_size = 4096  # what a pipe takes whole
    fan = FAN_IN
    batches = True

    def create(self, spec: Spec) -> Any:
        ends = os.pipe()
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        return (*ends, spec.size)

    def sender(self, made: Any, index: int) -> Sender:
        fd = made[1]

        def put_all(data: bytes) -> None:
            done = os.write(fd, data)
            while done < len(data):
                done += os.write(fd, data[done:])

        return Sender(
            put=lambda data: os.write(fd, data), batch=b"".join, put_many=put_all
        )

    def receiver(self, made: Any, index: int) -> Receiver:
        fd, _, size = made
        last = b""

        def get_many() -> int:
            nonlocal last
            last = os.read(fd, BATCH * size)
            while len(last) % size:
                last += os.read(fd, size - len(last) % size)
            return len(last) // size

        return Receiver(
            get=lambda: os.read(fd, size),
            get_many=get_many,
            records=lambda: cut(last, size, len(last) // size),
        )

    def destroy(self, made: Any) -> None:
        os.close(made[0])
        os.close(made[1])


class ThreadQueue(Adapter):
    """`queue.SimpleQueue`: for scale, one process only, passes references."""

    name = "queue.SimpleQueue (references)"
    fan = ()
    round_trips = False
    in_process = True

    def create(self, spec: Spec) -> Any:
        return queue.SimpleQueue()

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(put=made.put)

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(get=made.get)


class Deque(ThreadQueue):
    """`collections.deque`: for scale, one process only, passes references."""

    name = "collections.deque (references)"

    def create(self, spec: Spec) -> Any:
        return deque()

    def sender(self, made: Any, index: int) -> Sender:
        return Sender(put=made.append)

    def receiver(self, made: Any, index: int) -> Receiver:
        return Receiver(get=made.popleft)


ADAPTERS = [MpQueue(), MpSimpleQueue(), MpPipe(), OsPipe(), ThreadQueue(), Deque()]
