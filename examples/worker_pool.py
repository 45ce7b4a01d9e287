"""Four workers share a daemon; one is killed, and the others do not notice.

Each has a ring of its own, so a worker's death is an event on one ring: the
daemon drains it and gives its memory back.

Prints::

    worker 0 was killed by signal 9
    worker 1 read 20480 pages, all right
    worker 2 read 20480 pages, all right
    worker 3 read 20480 pages, all right
    the daemon answers, and no ring is left
"""

import multiprocessing
import os
import signal
import sys
import tempfile
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


def read_pages(disk: rings.Block, numbers: range) -> None:
    """Read some pages in one batch and check each."""
    pages = disk.read_many([(number * PAGE, PAGE) for number in numbers])
    for number, page in zip(numbers, pages, strict=True):
        assert page == content(number), f"page {number} is wrong"


def work(worker: int, address: str) -> None:
    """In a worker: read the image again and again; number 0 dies half way."""
    with rings.connect(address) as connection, connection.block("disk0") as disk:
        for round_ in range(ROUNDS):
            for start in range(0, PAGES, BATCH):
                read_pages(disk, range(start, start + BATCH))
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
        with daemons.spawn(image, name="disk0", read_only=True) as daemon:
            run_workers(daemon.address)
            left = len(daemon.statistics()["rings"]) or "no"
            print(f"the daemon answers, and {left} ring is left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
