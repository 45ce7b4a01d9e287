"""A worker that may not open files nor use io_uring reads and writes a disk.

It connects, then puts a seccomp filter on itself that answers EPERM to every
way of opening a file, to every io_uring call and to new sockets.  What is left is
a mapped region and two eventfds, and that is enough.  (To keep the example short the
filter lists what is forbidden; a real sandbox lists what is allowed.)

Prints::

    open: EPERM, io_uring_setup: EPERM, socket: EPERM
    wrote and read 1 MiB in the sandbox: equal
    the image holds what the worker wrote: True
"""

import ctypes
import errno
import multiprocessing
import os
import platform
import socket
import struct
import sys
import tempfile
from pathlib import Path

import daemons
import rings

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
FORBIDDEN = {  # open, creat, openat, openat2, socket, execve, io_uring_*
    "x86_64": (2, 85, 257, 437, 41, 59, 425, 426, 427),
    "aarch64": (56, 437, 198, 221, 425, 426, 427),
}
IO_URING_SETUP = 425


def lock_down() -> None:
    """Put the filter on this process; it cannot be taken off again."""
    numbers = FORBIDDEN[platform.machine()]
    program = [(LOAD, 0, 0, 0)]  # the system call's number
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        program.append((JUMP_IF_EQUAL, left, 0, number))
    program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")


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
        lock_down()
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
