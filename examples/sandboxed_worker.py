"""A worker that may not open files nor use io_uring reads and writes a disk.

It connects, then puts a seccomp filter on itself that answers EPERM to every
way of opening a file, to every io_uring call and to new sockets.  What is left is
a mapped region and two eventfds, and that is enough.

Prints::

    open: EPERM, io_uring_setup: EPERM, socket: EPERM
    wrote and read 1 MiB in the sandbox: equal
    the image holds what the worker wrote: True
"""

import ctypes
import errno
import multiprocessing
import os
import socket
import sys
import tempfile
from pathlib import Path

import daemons
import rings
from rings import sandbox

IO_URING_SETUP = 425


def refused() -> str:
    """Try what is forbidden; say what the kernel answered."""
    answers = []
    for name, call in (
        ("open", lambda: os.open("/etc/passwd", os.O_RDONLY)),
        ("io_uring_setup", io_uring_setup),
        ("socket", lambda: socket.socket(socket.AF_INET)),
    ):
        try:
            call()
            answers.append(f"{name}: allowed")
        except OSError as error:
            answers.append(f"{name}: {errno.errorcode[error.errno or 0]}")
    return ", ".join(answers)


def io_uring_setup() -> None:
    """Ask for an io_uring."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(IO_URING_SETUP, 4, ctypes.create_string_buffer(120)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")


def work(address: str) -> None:
    """In the worker: connect, lock the door, then do the I/O."""
    with rings.connect(address).block("disk0") as disk:
        sandbox.lock_down()
        print(refused(), flush=True)
        data = bytes(range(256)) * (disk.size // 256)
        disk.write(0, data)
        disk.flush()
        verdict = "equal" if disk.read(0, disk.size) == data else "DIFFERENT"
        print(f"wrote and read 1 MiB in the sandbox: {verdict}", flush=True)


def main() -> int:
    """Serve an image to one locked-in worker; look at it from outside."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        image.write_bytes(bytes(1 << 20))
        with daemons.spawn(image=image, name="disk0") as daemon:
            worker = spawn.Process(target=work, args=(daemon.address,))
            worker.start()
            worker.join()
        same = image.read_bytes() == bytes(range(256)) * (1 << 12)
    print(f"the image holds what the worker wrote: {same}")
    return worker.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
