"""A worker writes and reads on while its daemon is killed three times under it.

With patience a connection finds the next daemon; nothing is asked again behind the
worker's back.  A read without an answer is asked again.  A write without one is in
doubt: the worker reads the block back, and writes only what is not there.

Prints::

    break 1: in doubt ...; of these ... were done
    break 2: in doubt ...; of these ... were done
    break 3: in doubt ...; of these ... were done
    256 blocks, written ... times: each holds what the worker knows
"""

import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import daemons
import rings
from rings.rendezvous import query

PAGE, BLOCKS, BATCH = 4096, 256, 16
KILLS = 3
TURNS = 100  # after the last kill
Asked = dict[int, rings.Handle]  # by block, a write whose answer was not seen


def content(block: int, times: int) -> bytes:
    """Return what a block holds when it has been written so many times."""
    return (block.to_bytes(8, "little") + times.to_bytes(8, "little")) * (PAGE // 16)


def turn(disk: rings.Block, data: rings.Grant, known: list[int], asked: Asked) -> None:
    """Write a batch of blocks, and check another block meanwhile."""
    *chosen, other = random.sample(range(BLOCKS), BATCH + 1)
    with disk.batch(), data.view() as view:
        for at, block in zip(range(0, BATCH * PAGE, PAGE), chosen, strict=True):
            view[at : at + PAGE] = content(block, known[block] + 1)
            asked[block] = disk.submit_write(block * PAGE, data, at=at, length=PAGE)
    assert disk.read(other * PAGE, PAGE) == content(other, known[other])
    for handle in asked.values():
        handle.result()
    take_answers(known, asked)


def take_answers(known: list[int], asked: Asked) -> None:
    """Note which writes were answered; `asked` keeps what is in doubt."""
    for block in [block for block, handle in asked.items() if handle.answered]:
        known[block] += 1
        del asked[block]


def settle(disk: rings.Block, known: list[int], asked: Asked) -> None:
    """Read back what is in doubt; if this breaks, too, all of it still is."""
    wanted = {block: content(block, known[block] + 1) for block in asked}
    missing = [n for n in asked if disk.read(n * PAGE, PAGE) != wanted[n]]
    for block in missing:
        disk.write(block * PAGE, wanted[block])
    told, done = " ".join(map(str, asked)), len(asked) - len(missing)
    print(f"in doubt {told or 'nothing'}; of these {done} were done", flush=True)
    for block in asked:
        known[block] += 1
    asked.clear()


def work(address: str) -> list[int]:
    """In the worker: go on through every break; return what it knows."""
    known, asked, breaks, turns = [0] * BLOCKS, Asked(), 0, 0
    connection = rings.connect(address, patience=30)
    while turns < TURNS:
        with connection.block("disk0") as disk:  # raises when the patience is over
            try:
                if breaks:
                    settle(disk, known, asked)
                data = disk.pool.alloc(BATCH * PAGE)
                while turns < TURNS:
                    turn(disk, data, known, asked)
                    turns += breaks == KILLS
            except rings.BrokenError:
                take_answers(known, asked)
                breaks += 1
                print(f"break {breaks}: ", end="")
    return known


def main() -> None:
    """Kill the daemon under its worker and start it again; then look at the image."""
    with tempfile.TemporaryDirectory() as folder:
        image, path = Path(folder) / "disk.img", f"{folder}/ringsd.sock"
        image.write_bytes(b"".join(content(block, 0) for block in range(BLOCKS)))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            worker = pool.submit(work, path)  # nobody listens there yet
            for _ in range(KILLS):
                with daemons.spawn(image=image, socket=path) as daemon:
                    while query(path)["engine"]["requests"] < 500 and not worker.done():
                        time.sleep(0.01)
                    daemon.kill()
            with daemons.spawn(image=image, socket=path):
                known = worker.result()
        right = image.read_bytes() == b"".join(map(content, range(BLOCKS), known))
    verdict = "each holds what the worker knows" if right else "some are WRONG"
    print(f"{BLOCKS} blocks, written {sum(known)} times: {verdict}")


if __name__ == "__main__":
    main()
