import ctypes
import errno
import fcntl
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from rings import (
    BusyError,
    ClosedError,
    layout,
    memfd,
)
from rings.header import FIELDS, process_start
from rings.memory import Region

HANG_S = 30
SIZE = 3 * layout.PAGE
METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def region():
    with Region.create(SIZE, generation=3) as region:
        yield region


def run(code, *args, fds=(), python=sys.executable):
    return subprocess.run(
        [python, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True, text=True, timeout=HANG_S, pass_fds=fds,
    )  # fmt: skip


# -- create --------------------


def test_the_header_is_what_the_layout_says(region):
    words = region.buffer.cast("Q")
    halves = region.buffer.cast("I")
    assert words[layout.REGION_MAGIC // 8] == layout.MAGIC
    assert bytes(region.buffer[:8]) == b"RINGSMEM"
    assert halves[layout.REGION_VERSION // 4] == layout.VERSION
    assert halves[layout.REGION_KIND // 4] == layout.KIND_PLAIN
    assert words[layout.REGION_SIZE // 8] == SIZE
    assert words[layout.REGION_GENERATION // 8] == 3
    assert halves[layout.REGION_CREATOR_PID // 4] == os.getpid()
    assert halves[layout.REGION_BYTE_ORDER // 4] == layout.BYTE_ORDER
    assert words[layout.REGION_CREATOR_START // 8] == process_start(os.getpid())
    assert not any(region.buffer[FIELDS.size :])
    words.release()
    halves.release()


def test_the_magic_is_written_last(monkeypatch):
    from rings import header, memory

    seen = []

    class Spy:
        def __init__(self, view):
            self.view = view

        def __setitem__(self, where, value):
            seen.append(bytes(self.view[:8]))
            self.view[where] = value

        def __getitem__(self, where):
            seen.append(bytes(self.view[8:48]))
            return self.view[where]

    write = header.write_header
    monkeypatch.setattr(memory, "write_header", lambda view, h: write(Spy(view), h))
    with Region.create(SIZE) as region:
        assert seen[0] == bytes(8)
        assert seen[1] == bytes(region.buffer[8:48])


def test_a_process_start_tells_a_process_from_a_later_one():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        assert process_start(child.pid) >= process_start(os.getpid()) > 0
        child.communicate(b"\n", timeout=HANG_S)
    assert process_start(child.pid) == 0


def test_a_zombie_has_no_start():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process_start(pid) == 0
    os.waitpid(pid, 0)


def test_every_page_is_there_from_the_start(region):
    assert os.fstat(region.fd).st_blocks * 512 >= SIZE


def test_the_size_cannot_change(region):
    for size in (0, SIZE - 1, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, size)
    with pytest.raises(PermissionError):
        os.posix_fallocate(region.fd, SIZE, 1)
    with pytest.raises(PermissionError):
        fcntl.fcntl(region.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_an_unsealed_file_that_shrinks_kills_and_ours_does_not():
    """The control beside the promise: the signal is real where seals are missing."""
    code = """
        import mmap, os, sys
        from rings.memory import Region
        if sys.argv[1] == "sealed":
            region = Region.create(8192)
            fd, view = region.fd, region.buffer
        else:
            fd = os.memfd_create("bare")
            os.ftruncate(fd, 8192)
            view = mmap.mmap(fd, 8192)
        try:
            os.ftruncate(fd, 0)
        except PermissionError:
            pass
        print(view[4096])
        """
    assert run(code, "bare").returncode == -signal.SIGBUS
    assert run(code, "sealed").stdout == "0\n"


def test_it_cannot_be_executed_nor_inherited(region):
    assert not os.get_inheritable(region.fd)
    seals = fcntl.fcntl(region.fd, fcntl.F_GET_SEALS)
    if seals & 0x20:  # F_SEAL_EXEC: the kernel knows MFD_NOEXEC_SEAL
        assert os.fstat(region.fd).st_mode & 0o111 == 0


def test_a_kernel_without_noexec_is_served_too(monkeypatch):
    create, asked = os.memfd_create, []

    def older(name, flags):
        asked.append(flags)
        if flags & memfd.MFD_NOEXEC_SEAL:
            raise OSError(errno.EINVAL, "no such flag")
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", older)
    Region.create(SIZE).close()
    assert len(asked) == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0}, {"size": -1}, {"size": layout.PAGE - 1}, {"size": 1 << 63},
        {"kind": -1}, {"kind": 1 << 32}, {"generation": -1}, {"generation": 1 << 64},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_numbers(bad):
    with pytest.raises(ValueError, match="must be"):
        Region.create(**({"size": SIZE} | bad))


# -- close --------------------


def test_close_twice_and_use_after():
    region = Region.create(SIZE)
    assert not region.closed
    assert f"fd {region.fd}" in repr(region)
    region.close()
    region.close()
    assert region.closed
    assert "closed" in repr(region)
    for use in (region.fileno, region.read_only_fd, lambda: region.buffer):
        with pytest.raises(ClosedError):
            use()


USES = {
    "slice": lambda region: region.buffer[5:],
    "cast": lambda region: region.buffer.cast("Q"),
    "array": lambda region: np.frombuffer(region.buffer, "u1"),
    "array of an array": lambda region: np.frombuffer(region.buffer, "u1")[::2],
    "ctypes": lambda region: ctypes.c_char.from_buffer(region.buffer),
    "view": lambda region: memoryview(region.view(0, 8)),
}


@pytest.mark.parametrize("how", USES)
def test_close_is_refused_while_bytes_are_in_use(how):
    region = Region.create(SIZE)
    used = USES[how](region)
    with pytest.raises(BusyError, match=f"fd {region.fd}"):
        region.close()
    assert not region.closed
    region.buffer[5000] = 1
    del used
    gc.collect()
    region.close()


def test_a_views_existence_is_no_use():
    region = Region.create(SIZE)
    view = region.view(4096, 16)
    region.close()
    with pytest.raises(ValueError, match="closed"):
        memoryview(view)


def test_the_blocks_own_exception_is_the_one_that_comes_out():
    kept = []
    region = Region.create(SIZE)
    kept.append(region.buffer[1:])
    with pytest.raises(ZeroDivisionError), region:
        raise ZeroDivisionError
    assert not region.closed
    kept.clear()
    region.close()


def test_a_forgotten_region_leaves_nothing():
    Region.create(SIZE)


# -- other processes -------------------


def work(region, answer):
    """Run in a child; must be importable there."""
    region.buffer[5000] += 1
    answer.send((region.size, region.kind, region.writable, os.getpid()))
    region.close()


CHILD = """
import multiprocessing, os, sys
from rings.memory import Region

def work(region, answer):
    if region.writable:
        region.buffer[5000] += 1
    answer.send((region.size, region.writable, region.buffer[5000]))
    answer.close()
    region.close()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    region = Region.create(12288, readers=True)
    region.buffer[5000] = 41
    for frozen in (False, True):
        if frozen:
            os.close(region.read_only_fd())
        ours, theirs = context.Pipe()
        child = context.Process(target=work, args=(region, theirs))
        child.start()
        theirs.close()
        print(*ours.recv())
        child.join()
        assert child.exitcode == 0
        ours.close()
    region.close()
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_region_travels_through_multiprocessing(method, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(CHILD)
    child = subprocess.run(
        [sys.executable, str(script), method],
        capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert (child.returncode, child.stderr) == (0, "")
    frozen = "12288 True 43" if method == "fork" else "12288 False 42"
    assert child.stdout.splitlines() == ["12288 True 42", frozen]


def test_a_region_travels_through_a_queue(region):
    here, there = multiprocessing.Pipe()
    with here, there:
        sender = threading.Thread(target=here.send, args=(region,))
        sender.start()
        with there.recv() as other:
            other.buffer[5000] = 6
        sender.join()
    assert region.buffer[5000] == 6


def test_a_region_goes_on_working_after_fork(region):
    pid = os.fork()
    if pid == 0:
        region.buffer[5000] = 8
        region.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert region.buffer[5000] == 8


def test_import_pulls_in_nothing_heavy():
    code = """
        import sys
        import rings.memory, rings.channel, rings.grants, rings.pool
        heavy = {"numpy", "posix_ipc", "cffi", "asyncio", "hashlib", "ssl", "ctypes",
                 "multiprocessing"}
        print(sorted(heavy & set(sys.modules)))
        """
    child = run(code)
    assert (child.stdout, child.stderr) == ("[]\n", "")


def test_a_name_too_long_for_the_kernel():
    Region.create(SIZE, name="x" * 249).close()
    with pytest.raises(ValueError, match="249 bytes"):
        Region.create(SIZE, name="é" * 125)
