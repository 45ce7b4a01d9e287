"""Four workers share a daemon; one is killed, and the others do not notice.

Each has a ring of its own, so a worker's death is an event on one ring: the
daemon drains it and gives its memory back.

Prints::

    worker 0 was killed by signal 9
    worker 1 read 20480 pages, all right
    worker 2 read 20480 pages, all right
    worker 3 read 20480 pages, all right
    the daemon answers as before
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from array import array
from pathlib import Path

import daemons
import rings

PAGE = 4096
PAGES = 1024
ROUNDS = 20
BATCH = 64
WORKERS = 4


def content(number: int) -> bytes:
    """Return what page `number` of the image holds."""
    return number.to_bytes(8, "little") * (PAGE // 8)


def check_pages(disk: rings.Block, numbers: range, grant: rings.Grant) -> None:
    """Read some pages in one batch and check each."""
    disk.read_many(array("Q", [n * PAGE for n in numbers]), grant, length=PAGE)
    with grant.view() as view:
        for place, number in enumerate(numbers):
            page = view[place * PAGE : (place + 1) * PAGE]
            assert page == content(number), f"page {number} is wrong"


def work(worker: int, address: str) -> None:
    """In a worker: read the image again and again; number 0 dies half way."""
    disk = rings.connect(address).block("disk0")
    with disk, disk.pool.alloc(BATCH * PAGE) as grant:
        for round_ in range(ROUNDS):
            for start in range(0, PAGES, BATCH):
                check_pages(disk, range(start, start + BATCH), grant)
            if worker == 0 and round_ == ROUNDS // 2:
                os.kill(os.getpid(), signal.SIGKILL)


def run_workers(address: str) -> None:
    """Start all workers at once, wait for them, say how each ended."""
    spawn = multiprocessing.get_context("spawn")
    numbers = range(WORKERS)
    workers = [spawn.Process(target=work, args=(n, address)) for n in numbers]
    for worker in workers:
        worker.start()
    for number, worker in enumerate(workers):
        worker.join()
        if worker.exitcode == 0:
            print(f"worker {number} read {ROUNDS * PAGES} pages, all right")
        else:
            print(f"worker {number} was killed by signal {-worker.exitcode}")


def main() -> int:
    """Serve an image to four processes and lose one."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        image.write_bytes(b"".join(map(content, range(PAGES))))
        with daemons.spawn(image=image, name="disk0", read_only=True) as daemon:
            run_workers(daemon.address)
            rings.connect(daemon.address).block("disk0").close()
            print("the daemon answers as before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
