"""sandbox.lock_down: the filter's every verdict, and a worker that lives under it."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rings import sandbox
from rings.atomics import Atomics
from tests.interp import VERSIONS, finish, require_python, run_python, start_python

ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
lockable = pytest.mark.skipif(
    os.uname().machine not in ARCHES, reason="lock_down has no numbers for it"
)


def verdict(program: bytes, arch: int, number: int) -> int:
    """Run a filter as the kernel would; jumps go forward only."""
    lines = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=II", number, arch)
    place = register = 0
    while True:
        code, if_true, if_false, value = lines[place]
        place += 1
        if code == 0x20:
            (register,) = struct.unpack_from("=I", data, value)
        elif code == 0x15:
            place += if_true if register == value else if_false
        elif code == 0x35:
            place += if_true if register >= value else if_false
        else:
            assert code == 0x06
            return int(value)


def numbers_in(header: Path) -> dict[str, int]:
    if not header.exists():
        pytest.skip(f"needs {header}")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    return {name: int(number) for name, number in found}


# -- the program, without a kernel ----------------------------------------------


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("strict", [False, True])
def test_the_filter_decides_as_the_lists_say(machine: str, strict: bool) -> None:
    headers = numbers_in(HEADERS[machine])
    program = sandbox.build_filter(machine, strict=strict)
    names = sandbox.STRICT if strict else sandbox.DENIED
    listed = {headers[name] for name in names if name in headers}
    assert len(listed) > 25
    for number in range(max(headers.values()) + 20):
        refused = (number in listed) is not strict
        expected = REFUSE if refused else ALLOW
        assert verdict(program, ARCHES[machine], number) == expected, number


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("strict", [False, True])
def test_other_kinds_of_call_are_refused(machine: str, strict: bool) -> None:
    program = sandbox.build_filter(machine, strict=strict)
    for arch in (0x40000003, 0x40000028, *ARCHES.values()):
        if arch != ARCHES[machine]:
            assert {verdict(program, arch, n) for n in range(600)} == {REFUSE}
    x32 = range(0x40000000, 0x40000400)
    assert {verdict(program, ARCHES[machine], n) for n in x32} == {REFUSE}


@pytest.mark.parametrize("machine", ARCHES)
def test_allow_leaves_a_call(machine: str) -> None:
    headers = numbers_in(HEADERS[machine])
    for strict in (False, True):
        plain = sandbox.build_filter(machine, strict=strict)
        left = sandbox.build_filter(machine, ["openat", "socket"], strict=strict)
        for name in ("openat", "socket"):
            assert verdict(plain, ARCHES[machine], headers[name]) == REFUSE
            assert verdict(left, ARCHES[machine], headers[name]) == ALLOW
        assert verdict(left, ARCHES[machine], headers["execve"]) == REFUSE


def test_what_it_does_not_know_is_said() -> None:
    with pytest.raises(ValueError, match=r"sandbox\.DENIED.*: opne"):
        sandbox.lock_down(["opne"])
    with pytest.raises(NotImplementedError, match=r"riscv64.*x86_64 and aarch64"):
        sandbox.build_filter("riscv64")


# -- the kernel ------------------------------------------------------------------

CALLS = [
    "open",
    "openat",
    "openat2",
    "creat",
    "execve",
    "socket",
    "memfd_create",
    "ptrace",
]
RING_CALLS = ["io_uring_setup", "io_uring_enter", "io_uring_register"]

# Tries calls with arguments that no call takes; prints each one's errno.
PROBE = """
import ctypes, errno, json, os, sys, threading
from rings import sandbox

modes, names = json.loads(sys.argv[1]), sys.argv[2:]
column = ["x86_64", "aarch64"].index(os.uname().machine)
numbers = {name: sandbox._NUMBERS[name][column] for name in names}
syscall = ctypes.CDLL(None, use_errno=True).syscall
found, locked = {}, threading.Event()

def probe():
    locked.wait()
    for name, number in numbers.items():
        if number != "-":
            bad = [ctypes.c_long(-1)] * 6
            rc = syscall(ctypes.c_long(int(number)), *bad)
            found[name] = errno.errorcode[ctypes.get_errno()] if rc < 0 else "done"

early = threading.Thread(target=probe)
early.start()
for mode in modes:
    sandbox.lock_down(**mode)
locked.set()
early.join()
seen, found = found, {}
probe()
assert seen == found, (seen, found)
print(json.dumps(found))
"""


def probe(mode: dict[str, bool] | None) -> dict[str, str]:
    modes = [] if mode is None else [mode]
    argument = json.dumps(modes)
    output = run_python(sys.executable, PROBE, argument, *CALLS, *RING_CALLS)
    found: dict[str, str] = json.loads(output)
    return found


@lockable
@pytest.mark.parametrize("mode", [{}, {"strict": True}], ids=["default", "strict"])
def test_ways_out_are_refused_in_every_thread(mode: dict[str, bool]) -> None:
    found = probe(mode)
    assert {*found} >= {"openat", "socket", *RING_CALLS}
    assert set(found.values()) == {"EPERM"}


@lockable
def test_control_without_a_filter_they_fail_otherwise() -> None:
    found = probe(None)
    assert "EPERM" not in {found[name] for name in found if name not in RING_CALLS}


TRIES = """
import os, socket, subprocess, sys, threading
from rings import sandbox

sandbox.lock_down(strict=sys.argv[1] == "strict")
tries = {
    "open": lambda: open("/proc/self/maps").close(),
    "socket": lambda: socket.socket().close(),
    "memfd": lambda: os.close(os.memfd_create("x")),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getpid(), 0),
    "fork": lambda: os.fork() or os._exit(0),
}
for name, attempt in tries.items():
    try:
        attempt()
    except OSError as error:
        assert isinstance(error, PermissionError), error
        print(name)
try:
    threading.Thread(target=print, args=("threads",)).start()
except RuntimeError:
    print("no threads")
"""


@lockable
@pytest.mark.parametrize("version", VERSIONS)
def test_python_sees_permission_errors(version: str) -> None:
    python = require_python(version)
    default = run_python(python, TRIES, "default").split("\n")
    assert default == ["open", "socket", "memfd", "exec", "threads", ""]
    strict = run_python(python, TRIES, "strict").split("\n")
    assert strict[:6] == ["open", "socket", "memfd", "exec", "kill", "fork"]
    assert strict[6:] == ["no threads", ""]


@lockable
def test_children_are_locked_too() -> None:
    script = """
import os
from rings import sandbox

sandbox.lock_down()
if os.fork() == 0:
    try:
        os.open("/dev/null", os.O_RDONLY)
    except PermissionError:
        os._exit(7)
    os._exit(8)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert run_python(sys.executable, script).strip() == "7"


# -- a worker under the filter ---------------------------------------------------

# Answers ROUNDS requests in shared memory, by futex and by event channel, and does
# what a ring client does in between: allocates, polls, tells the time, sleeps.
WORKER = """
import mmap, os, select, sys, time
from rings import sandbox
from rings.atomics import Atomics

fd, wake, answer, rounds, mode = map(int, sys.argv[1:])
words = Atomics(mmap.mmap(fd, 4096), format="q")
poll, epoll = select.poll(), select.epoll()
poll.register(wake, select.POLLIN)
epoll.register(wake, select.EPOLLIN)
if mode:
    sandbox.lock_down(strict=mode == 2)
for turn in range(1, rounds + 1):
    while (seen := words.load(0)) != turn:
        assert words.wait(0, seen, 60) != "timed-out"
    assert (poll.poll(60000) if turn % 2 else epoll.poll(60)), turn
    assert os.eventfd_read(wake) == 1
    bytearray(turn << 14)
    time.sleep(0)
    words.store(1, words.load(1) + turn)
    words.store(0, -turn)
    words.notify(0)
    os.eventfd_write(answer, 1)
print(len(os.urandom(8)), time.monotonic() > 0, os.getpid() > 0)
"""
ROUNDS = 200


@pytest.fixture
def descriptors() -> Iterator[tuple[int, int, int]]:
    memory = os.memfd_create("worker")
    os.ftruncate(memory, 4096)
    found = memory, os.eventfd(0), os.eventfd(0)
    yield found
    for fd in found:
        os.close(fd)


def serve(words: Atomics, child: subprocess.Popen[str], wake: int, answer: int) -> None:
    for turn in range(1, ROUNDS + 1):
        words.store(0, turn)
        words.notify(0)
        os.eventfd_write(wake, 1)
        while words.load(0) == turn:
            words.wait(0, turn, 1)
            assert child.poll() is None, finish(child)
        assert words.load(0) == -turn
        assert os.eventfd_read(answer) == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [0, 1, 2], ids=["control", "default", "strict"])
@lockable
def test_a_worker_does_the_same_work_under_the_filter(
    version: str, mode: int, descriptors: tuple[int, int, int]
) -> None:
    memory, wake, answer = descriptors
    python = require_python(version)
    child = start_python(python, WORKER, *descriptors, ROUNDS, mode, fds=descriptors)
    with mmap.mmap(memory, 4096) as mapped, Atomics(mapped, format="q") as words:
        serve(words, child, wake, answer)
        assert words.load(1) == ROUNDS * (ROUNDS + 1) // 2
    assert finish(child).split() == ["8", "True", "True"]
