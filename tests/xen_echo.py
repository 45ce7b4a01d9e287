"""The serving process of test_xen_style: answers each request with its number."""

import mmap
import os
import random
import select
import sys

from rings.xen_style import BackRing


def main(fd: int, kick: int, call: int, start: int, requests: int, seed: int) -> None:
    back = BackRing(mmap.mmap(fd, 4096), slots=8, slot_size=16, start=start)
    chance = random.Random(seed + 1)
    poll = select.poll()
    poll.register(kick, select.POLLIN)
    served = 0
    while served < requests:
        for request in back.take(chance.randint(1, 8)):
            served += back.put(request[:8] + bytes(8))
        if back.publish():
            os.eventfd_write(call, 1)
        if served < requests and not back.final_check():
            if not poll.poll(30_000):
                raise SystemExit(f"lost wake-up after {served} requests")
            os.eventfd_read(kick)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
