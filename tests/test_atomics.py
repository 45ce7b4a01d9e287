"""rings.Atomics: ECMAScript's results, between threads, processes, interpreters."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from textwrap import indent
from typing import Literal

import pytest

import rings
from rings.atomics import Atomics
from rings.errors import BusyError, ClosedError
from tests.interp import (
    OWN_GIL,
    finish,
    require_python,
    run_in_interpreter,
    run_python,
    start_in_interpreter,
    start_python,
)

Format = Literal["i", "I", "q", "Q"]
FORMATS: list[Format] = ["i", "I", "q", "Q"]
HANG_S = 60.0
SHORT_S = 0.05


@pytest.fixture(params=FORMATS)
def words(request: pytest.FixtureRequest) -> Atomics:
    return Atomics(bytearray(64), format=request.param)


@pytest.fixture
def memory_fd() -> Iterator[int]:
    fd = os.memfd_create("atomics")
    os.ftruncate(fd, 4096)
    yield fd
    os.close(fd)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def in_range(value: int, format: Format) -> int:
    bits = 32 if format in "iI" else 64
    value %= 1 << bits
    return value - (1 << bits) if format in "iq" and value >> (bits - 1) else value


# -- operations ---------------------------------------------------------------

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda old, value: old + value,
    "sub": lambda old, value: old - value,
    "and_": lambda old, value: old & value,
    "or_": lambda old, value: old | value,
    "xor": lambda old, value: old ^ value,
    "exchange": lambda old, value: value,
}
VALUES = [0, 1, -1, 5, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**63, -(2**63)]
VALUES += [2**64 - 1, 2**64 + 3, -(2**70) + 9]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_return_the_word_before_and_wrap(name: str, format: Format) -> None:
    words = Atomics(bytearray(64), format=format)
    for before in VALUES:
        for value in VALUES:
            assert words.store(3, before) == before
            old = getattr(words, name)(3, value)
            assert old == in_range(before, format)
            expected = in_range(OPERATIONS[name](before, value), format)
            assert words.load(3) == expected, (before, value)
    assert words.load(2) == words.load(4) == 0


@pytest.mark.parametrize("format", FORMATS)
def test_compare_exchange_compares_the_cut_value(format: Format) -> None:
    words = Atomics(bytearray(64), format=format)
    modulus = 1 << 8 * words.itemsize
    words.store(0, -5)
    assert words.compare_exchange(0, -4, 1) == in_range(-5, format)
    assert words.load(0) == in_range(-5, format)
    assert words.compare_exchange(0, -5 + 3 * modulus, modulus + 7) == in_range(
        -5, format
    )
    assert words.load(0) == 7


def test_operations_write_only_their_own_bytes(words: Atomics) -> None:
    memory = bytearray(b"\xaa" * 64)
    inner = Atomics(memory, offset=16, count=2, format=words.format)  # type: ignore[arg-type]
    size = inner.itemsize
    assert len(inner) == 2
    inner.store(1, 0)
    assert memory == b"\xaa" * (16 + size) + bytes(size) + b"\xaa" * (48 - 2 * size)


def test_values_must_be_integers(words: Atomics) -> None:
    calls = (words.store, words.add, words.exchange, words.wait)
    for call in calls:
        with pytest.raises(TypeError, match="integer"):
            call(0, 1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="2 arguments, not 1"):
        words.add(0)  # type: ignore[call-arg]
    assert words.store(0, True) == 1


@pytest.mark.parametrize("index", [-1, 16, 8, 2**31, 2**64, -(2**64)])
def test_an_index_outside_is_an_index_error(index: int) -> None:
    words = Atomics(bytearray(32), format="i")
    calls: list[Callable[[], object]] = [
        lambda: words.load(index),
        lambda: words.store(index, 1),
        lambda: words.xor(index, 1),
        lambda: words.compare_exchange(index, 0, 1),
        lambda: words.wait(index, 0, 0),
        lambda: words.notify(index),
    ]
    for call in calls:
        with pytest.raises(IndexError):
            call()
    assert [words.load(i) for i in range(8)] == [0] * 8


# -- what it is made over -----------------------------------------------------


def test_it_takes_a_buffer_or_what_has_one() -> None:
    class Region:
        def __init__(self) -> None:
            self.buffer = memoryview(bytearray(4096))

    region = Region()
    words = Atomics(region, offset=4088)
    assert (len(words), words.format, words.itemsize) == (2, "i", 4)
    words.store(1, 0x01020304)
    assert bytes(region.buffer[4092:]) == b"\x04\x03\x02\x01"
    with pytest.raises(TypeError, match="Region or a bytes-like"):
        Atomics(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset": 2}, "multiple of 4"),
        ({"offset": 4, "format": "q"}, "multiple of 8"),
        ({"offset": -4}, "inside the buffer"),
        ({"offset": 68}, "inside the buffer"),
        ({"count": 17}, r"0\.\.16"),
        ({"count": -1}, r"0\.\.16"),
        ({"offset": 60, "count": 2}, r"0\.\.1,"),
        ({"format": "h"}, "'i', 'I', 'q' or 'Q'"),
        ({"format": "ii"}, "'i', 'I', 'q' or 'Q'"),
        ({"format": ""}, "'i', 'I', 'q' or 'Q'"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: dict[str, object], message: str
) -> None:
    memory = bytearray(64)
    with pytest.raises(ValueError, match=message):
        Atomics(memory, **arguments)  # type: ignore[arg-type]
    memory.append(0)


def test_memory_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8 in memory"):
        Atomics(memoryview(bytearray(64))[4:], format="Q")


def test_read_only_memory_may_be_looked_at_and_waited_on(
    memory_fd: int, threads: ThreadPoolExecutor
) -> None:
    for format in FORMATS:
        with (
            mmap.mmap(memory_fd, 4096, prot=mmap.PROT_READ) as looked_at,
            mmap.mmap(memory_fd, 4096) as written,
            Atomics(looked_at, format=format) as reader,
            Atomics(written, format=format) as writer,
        ):
            assert reader.readonly
            assert not writer.readonly
            value = writer.add(0, 1) + 1
            assert reader.load(0) == value
            assert reader.wait(0, value, SHORT_S) == "timed-out"
            sleeper = threads.submit(reader.wait, 0, value, HANG_S)
            notify_until_woken(writer)
            assert sleeper.result() == "ok"
            assert reader.notify(0) == 0
            for call in (reader.store, reader.add, reader.exchange):
                with pytest.raises(TypeError, match="writable=True"):
                    call(0, 1)
            with pytest.raises(TypeError, match="writable=True"):
                reader.compare_exchange(0, 0, 1)


def test_close_lets_go_of_the_buffer(words: Atomics) -> None:
    memory = bytearray(64)
    with Atomics(memory) as inner:
        with pytest.raises(BufferError):
            memory.append(0)
        assert not inner.closed
    memory.append(0)
    assert inner.closed
    inner.close()
    calls: list[Callable[[], object]] = [
        lambda: inner.load(0),
        lambda: inner.add(0, 1),
        lambda: inner.compare_exchange(0, 0, 1),
        lambda: inner.wait(0, 0, 0),
        lambda: inner.notify(0),
        lambda: inner.__enter__(),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="make another"):
            call()


def test_close_by_an_argument_in_the_middle_of_a_call() -> None:
    words = Atomics(bytearray(64))

    class Closing:
        def __index__(self) -> int:
            words.close()
            return 0

    with pytest.raises(ClosedError):
        words.add(0, Closing())


def test_close_is_refused_while_a_call_sleeps(
    words: Atomics, threads: ThreadPoolExecutor
) -> None:
    sleeper = start_sleeper(threads, words, 0, 0)
    with pytest.raises(BusyError, match="1 calls are using"):
        words.close()
    assert words.notify(0) == 1
    assert sleeper.result() == "ok"
    words.close()


# -- wait and notify: the truth table -----------------------------------------


def asleep_in_ours(tid: int) -> bool:
    """True if the thread is in a futex call of the shared kind: one of ours."""
    with open(f"/proc/self/task/{tid}/syscall") as file:
        number, *arguments = file.read().split()
    if number in ("202", "98"):
        return int(arguments[1], 16) == 9
    return number == "449"


def start_sleeper(
    threads: ThreadPoolExecutor,
    words: Atomics,
    index: int,
    expected: int,
    timeout_s: float = HANG_S,
) -> Future[str]:
    """Return once a thread sleeps in `wait`; its result comes by the future."""
    tids: list[int] = []

    def wait() -> str:
        tids.append(threading.get_native_id())
        return words.wait(index, expected, timeout_s)

    sleeper = threads.submit(wait)
    while not tids or not asleep_in_ours(tids[0]):
        assert not sleeper.done(), sleeper.result()
        time.sleep(0.001)
    return sleeper


def notify_until_woken(words: Atomics, index: int = 0) -> None:
    deadline = time.monotonic() + HANG_S
    while words.notify(index, 1) == 0:
        assert time.monotonic() < deadline, "nobody came to sleep"
        time.sleep(0.001)


@pytest.mark.parametrize("timeout", [0, -1, SHORT_S, 0.0])
def test_equal_and_never_notified_is_timed_out(words: Atomics, timeout: float) -> None:
    words.store(1, 9)
    assert words.wait(1, 9, timeout) == "timed-out"


@pytest.mark.parametrize("timeout", [0, -1, SHORT_S, None, 1e300, float("inf")])
def test_not_equal_comes_before_timed_out(
    words: Atomics, timeout: float | None
) -> None:
    words.store(1, 9)
    assert words.wait(1, 8, timeout=timeout) == "not-equal"
    high = 9 + (1 << (8 * words.itemsize - 1))
    assert words.wait(1, high, timeout=timeout) == "not-equal"


def test_expected_is_cut_to_the_word(words: Atomics) -> None:
    words.store(1, -1)
    modulus = 1 << 8 * words.itemsize
    assert words.wait(1, modulus - 1, 0) == "timed-out"
    assert words.wait(1, -1 - modulus, 0) == "timed-out"


def test_a_nan_is_no_timeout(words: Atomics) -> None:
    with pytest.raises(ValueError, match="NaN"):
        words.wait(0, 0, float("nan"))


def test_notify_wakes_a_sleeper_whatever_the_word_holds(
    words: Atomics, threads: ThreadPoolExecutor
) -> None:
    for change in (0, 1):
        sleeper = start_sleeper(threads, words, 2, 0)
        words.store(2, change)
        assert words.notify(2) == 1
        assert sleeper.result() == "ok"


def test_a_change_without_notify_wakes_nobody(
    words: Atomics, threads: ThreadPoolExecutor
) -> None:
    sleeper = start_sleeper(threads, words, 0, 0, timeout_s=0.5)
    words.store(0, 1)
    assert sleeper.result() == "timed-out"


def test_a_notify_without_sleepers_is_not_remembered(words: Atomics) -> None:
    assert words.notify(0) == 0
    assert words.wait(0, 0, SHORT_S) == "timed-out"


def test_notify_counts_and_keeps_to_its_index(
    words: Atomics, threads: ThreadPoolExecutor
) -> None:
    sleepers = [start_sleeper(threads, words, 4, 0) for _ in range(5)]
    assert words.notify(3) == words.notify(5) == 0
    assert words.notify(4, 0) == words.notify(4, -7) == 0
    assert [sleeper.done() for sleeper in sleepers] == [False] * 5
    assert words.notify(4, 1) == 1
    assert sleepers[0].result() == "ok"
    assert words.notify(4, count=2) == 2
    assert [sleeper.result() for sleeper in sleepers[1:3]] == ["ok", "ok"]
    assert [sleeper.done() for sleeper in sleepers[3:]] == [False] * 2
    assert words.notify(4, 2**70) == 2
    assert [sleeper.result() for sleeper in sleepers] == ["ok"] * 5
    assert words.notify(4, None) == 0


@pytest.mark.parametrize("format", ["q", "Q"])
def test_a_64_bit_wait_looks_at_both_halves(
    format: Format, threads: ThreadPoolExecutor
) -> None:
    words = Atomics(bytearray(64), format=format)
    words.store(0, 1 << 32)
    assert words.wait(0, 0, 0.0) == "not-equal"
    assert words.wait(0, 1, HANG_S) == "not-equal"
    sleeper = start_sleeper(threads, words, 0, 1 << 32)
    words.store(0, 2 << 32)
    assert words.notify(0) == 1
    assert sleeper.result() == "ok"


# -- processes and interpreters -----------------------------------------------

OPEN = """
import mmap
from rings.atomics import Atomics
fd, format = ints[0], "iIqQ"[ints[1]]
words = Atomics(mmap.mmap(fd, 4096), format=format)
"""
FROM_ARGV = "import sys\nints = tuple(map(int, sys.argv[1:]))\n" + OPEN
MEET = """
words.add(0, 1)
words.notify(0)
while (here := words.load(0)) < 2:
    words.wait(0, here)
"""
ADD = MEET + "for _ in range(ints[2]):\n    words.add(1, 3)\n"
CAS = (
    MEET
    + """
for _ in range(ints[2]):
    old = words.load(1)
    while (seen := words.compare_exchange(1, old, old + 3)) != old:
        old = seen
"""
)
LOAD_STORE = MEET + "for _ in range(ints[2]):\n    words.store(1, words.load(1) + 3)\n"
PING_PONG = (
    MEET
    + """
unit, mine, other = ints[3], ints[4], 1 - ints[4]
for _ in range(ints[2]):
    while (turn := words.load(1)) != mine * unit:
        words.wait(1, turn)
    words.store(1, other * unit)
    words.notify(1)
"""
)


def run_two(script: str, fd: int, *ints: int) -> None:
    children = [
        start_python(sys.executable, FROM_ARGV + script, fd, *ints, player, fds=[fd])
        for player in range(2)
    ]
    for child in children:
        finish(child)


def read_word(fd: int, format: Format, index: int = 1) -> int:
    with mmap.mmap(fd, 4096) as memory, Atomics(memory, format=format) as words:
        return words.load(index)


@pytest.mark.parametrize("script", [ADD, CAS], ids=["add", "compare_exchange"])
@pytest.mark.parametrize("format", FORMATS)
def test_changes_of_two_processes_are_exact(
    script: str, format: Format, memory_fd: int
) -> None:
    run_two(script, memory_fd, FORMATS.index(format), 300_000)
    assert read_word(memory_fd, format) == 1_800_000


def test_control_load_and_store_lose_changes(memory_fd: int) -> None:
    for _ in range(20):
        os.pwrite(memory_fd, bytes(64), 0)
        run_two(LOAD_STORE, memory_fd, 0, 100_000)
        if read_word(memory_fd, "i") != 600_000:
            return
    pytest.fail("two processes never met: the exactness tests show nothing")


@pytest.mark.parametrize(("format", "unit"), [("i", 1), ("q", 1), ("q", 1 << 32)])
def test_two_processes_take_turns_without_a_lost_wake_up(
    format: Format, unit: int, memory_fd: int
) -> None:
    run_two(PING_PONG, memory_fd, FORMATS.index(format), 4000, unit)
    assert read_word(memory_fd, format) == 0


@pytest.mark.parametrize("version", OWN_GIL)
def test_adds_of_two_own_gil_interpreters_are_exact(
    version: str, memory_fd: int
) -> None:
    script = """
import sys, threading
from rings import interpreters

def add():
    with interpreters.create() as worker:
        worker.run(f"ints = ({fd}, 2, 1_000_000)\\n" + ADD)

fd, ADD = int(sys.argv[1]), sys.argv[2]
threads = [threading.Thread(target=add) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    python = require_python(version)
    run_python(python, script, memory_fd, OPEN + ADD, fds=[memory_fd])
    assert read_word(memory_fd, "q") == 6_000_000


@pytest.mark.parametrize("version", OWN_GIL)
def test_an_own_gil_interpreter_waits_for_this_process(
    version: str, memory_fd: int
) -> None:
    script = OPEN + "print(words.wait(1, 0, 60))"
    python = require_python(version)
    child = start_in_interpreter(python, script, memory_fd, 0, fds=[memory_fd])
    with mmap.mmap(memory_fd, 4096) as memory, Atomics(memory) as words:
        notify_until_woken(words, 1)
    assert finish(child).strip() == "ok"
    later = OPEN + "print(words.wait(1, 5), words.wait(1, 0, 0.01))"
    output = run_in_interpreter(python, later, memory_fd, 0, fds=[memory_fd])
    assert output.split() == ["not-equal", "timed-out"]


# -- signals ------------------------------------------------------------------

WAIT = FROM_ARGV + "print('waiting', flush=True)\nprint(words.wait(0, 0))"


@pytest.mark.parametrize("format", FORMATS)
def test_ctrl_c_ends_a_wait(format: Format, memory_fd: int) -> None:
    child = start_python(
        sys.executable,
        f"try:\n{indent(WAIT, ' ')}\nexcept KeyboardInterrupt:\n print('interrupted')",
        memory_fd,
        FORMATS.index(format),
        fds=[memory_fd],
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "waiting"
    child.send_signal(signal.SIGINT)
    assert finish(child).strip() == "interrupted"


def test_a_signal_that_raises_nothing_does_not_end_a_wait(memory_fd: int) -> None:
    handler = """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"handled\\n"))  # print re-enters
"""
    child = start_python(sys.executable, handler + WAIT, memory_fd, 2, fds=[memory_fd])
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "waiting"
    for _ in range(3):
        child.send_signal(signal.SIGUSR1)
        assert child.stdout.readline().strip() == "handled"
    with mmap.mmap(memory_fd, 4096) as memory, Atomics(memory, format="q") as words:
        notify_until_woken(words)
    assert finish(child).strip() == "ok"


# -- the C header on its own ----------------------------------------------------

SLEEP_C = r"""
#include "atomics.h"

/* What a sleeper finds that comes to queue after the word has changed. */
int main(void)
{
    static _Alignas(8) uint64_t word = 0x300000002;
    struct atomics_word wide = {.at = &word, .wide = true}, narrow = {.at = &word};
    uint64_t soon = now_ns() + 20000000;
    return atomics_sleep(wide, 0x300000002, soon) != ATOMICS_TIMED_OUT ? 1
           : atomics_sleep(wide, 0x300000001, soon) != ATOMICS_CHANGED ? 2
           : atomics_sleep(wide, 0x400000002, soon) != ATOMICS_CHANGED ? 3
           : atomics_sleep(narrow, 2, soon) != ATOMICS_TIMED_OUT       ? 4
           : atomics_sleep(narrow, 1, soon) != ATOMICS_CHANGED         ? 5
           : atomics_notify(wide, 0) != 0                              ? 6
                                                                       : 0;
}
"""


def test_the_kernel_compares_the_whole_word(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, program = tmp_path / "sleep.c", tmp_path / "sleep"
    source.write_text(SLEEP_C)
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    headers = Path(rings.__file__).parent / "csrc"  # a wheel has them too
    paths = [f"-I{headers}", str(source), "-o", str(program)]
    subprocess.run([compiler, *flags, *paths], check=True)
    assert subprocess.run([program], check=False).returncode == 0


def test_a_closed_region_says_so() -> None:
    region = rings.Region.create(4096)
    region.close()
    with pytest.raises(ClosedError):
        Atomics(region)
    with pytest.raises(TypeError, match="needs a Region"):
        Atomics(object())
