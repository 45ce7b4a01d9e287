"""A device of your own: a disk in the daemon's memory that holds what was written.

`serve` gets requests in batches, copied out of the ring and checked; the segments are
the worker's own memory.  A connection has a thread; all share this one backend.

Prints::

    a 4096 MiB disk called python0
    page 7 says b'hello', page 8 says b'0000'
"""

from pathlib import Path

import daemons
import rings
from daemons.backend import OP_READ, OP_WRITE, Backend, Batch, Request

PAGE = 4096


class Sparse(Backend):
    size = 1 << 32
    block_size = PAGE

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def serve(self, batch: Batch) -> None:
        for index, request in enumerate(batch):
            if request.op == OP_READ:
                self.read(request)
            elif request.op == OP_WRITE:
                self.write(request)
            batch.respond(index, request.length)  # or minus an errno

    def read(self, request: Request) -> None:
        places = range(request.offset, request.offset + request.length, PAGE)
        data = memoryview(b"".join(self.pages.get(at, b"0" * PAGE) for at in places))
        for part in request.segments:
            part[:], data = data[: len(part)], data[len(part) :]

    def write(self, request: Request) -> None:
        data = b"".join(request.segments)  # a copy: the worker may change its memory
        for at in range(0, len(data), PAGE):
            self.pages[request.offset + at] = data[at : at + PAGE]


def main() -> None:
    backend = f"{Path(__file__).stem}:Sparse"
    with (
        daemons.spawn(kind="python", backend=backend) as daemon,
        rings.connect(daemon.address).block("python0") as disk,
    ):
        print(f"a {disk.size >> 20} MiB disk called python0")
        disk.write(7 * PAGE, b"hello".ljust(PAGE))
        text = disk.read(7 * PAGE, 2 * PAGE)
        print(f"page 7 says {text[:5]}, page 8 says {text[PAGE : PAGE + 4]}")


if __name__ == "__main__":
    main()
