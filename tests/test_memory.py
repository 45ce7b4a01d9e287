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
from hypothesis import given
from hypothesis import strategies as st

from rings import (
    BusyError,
    ClosedError,
    LayoutError,
    LocalProtocolError,
    RegionMemoryError,
    layout,
    memfd,
    reserve,
)
from rings._core import View
from rings.header import FIELDS, new_header, process_start
from rings.memory import Region

HANG_S = 30
SIZE = 3 * layout.PAGE
METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def region():
    with Region.create(SIZE, generation=3) as region:
        yield region


def sealed(content=b"", *, size=SIZE, seals=memfd.FIXED_SIZE, flags=0):
    """Return a memfd as a peer might make it."""
    fd = os.memfd_create("peer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    if content:
        os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def run(code, *args, fds=(), python=sys.executable):
    return subprocess.run(
        [python, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True, text=True, timeout=HANG_S, pass_fds=fds,
    )  # fmt: skip


# -- create --------------------------------------------------------------------


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


# -- short memory --------------------------------------------------------------


def test_more_than_there_is_is_an_exception_with_a_remedy():
    with pytest.raises(RegionMemoryError) as caught:
        Region.create(1 << 50)
    assert f"{1 << 50} bytes" in str(caught.value)
    assert "bytes free" in str(caught.value)
    assert "ask for less" in str(caught.value)
    assert isinstance(caught.value, MemoryError)


def test_the_file_size_limit_is_an_exception_too():
    code = """
        import resource
        from rings import RegionMemoryError
        from rings.memory import Region
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        Region.create(65536).close()
        try:
            Region.create(1 << 20)
        except RegionMemoryError as error:
            print(error)
        import os
        print(len(os.listdir("/proc/self/fd")))
        """
    child = run(code)
    assert child.returncode == 0, child.stderr
    message, fds = child.stdout.splitlines()
    assert "1048576 bytes" in message
    assert "65536 bytes free" in message
    assert "ulimit -f" in message
    assert fds == "4"  # 0, 1, 2 and the directory itself: nothing was kept


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EDQUOT])
def test_the_kernels_own_refusal(monkeypatch, number):
    def full(fd, offset, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RegionMemoryError, match=f"cannot reserve {SIZE} bytes"):
        Region.create(SIZE)


def test_an_unexpected_refusal_stays_what_it_is(monkeypatch):
    def broken(fd, offset, size):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="broken"):
        Region.create(SIZE)


def test_signals_during_the_reservation_are_served_and_it_goes_on():
    served = []
    before = signal.signal(signal.SIGALRM, lambda *_: served.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(10):
            with Region.create(64 << 20) as region:
                assert os.fstat(region.fd).st_blocks * 512 >= region.size
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert served


def test_reservation_goes_by_chunks_that_cover_it_all(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, *what: calls.append(what))
    monkeypatch.setattr(reserve, "CHUNK", 100)
    reserve.reserve(-1, 250)
    assert calls == [(0, 100), (100, 100), (200, 50)]


def kernel_files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root / "proc"), str(root / "cgroup")


def test_the_room_of_machine_and_cgroups_v2(tmp_path):
    files = {
        "proc/meminfo": "MemAvailable:  100 kB\nSwapFree: 10 kB\nHugePages_Total: 0\n",
        "proc/self/cgroup": "0::/a/b\n",
        "cgroup/a/memory.max": "5000\n",
        "cgroup/a/memory.current": "4000\n",
        "cgroup/a/memory.stat": "anon 1\ninactive_file 30\nactive_file 4\n",
        "cgroup/a/b/memory.max": "max\n",
        "cgroup/a/b/memory.current": "4000\n",
    }
    rooms = reserve.memory_rooms(*kernel_files(tmp_path, files))
    assert [room.free for room in rooms] == [110 << 10, 1034]
    assert "memory.max" in rooms[1].remedy


def test_the_room_of_cgroups_v1(tmp_path):
    files = {
        "proc/self/cgroup": "4:cpu,memory:/x\n3:cpuset:/\n",
        "cgroup/memory/memory.limit_in_bytes": "9000\n",
        "cgroup/memory/memory.usage_in_bytes": "9500\n",
    }
    rooms = reserve.memory_rooms(*kernel_files(tmp_path, files))
    assert [(room.free, "memory.limit_in_bytes" in room.remedy) for room in rooms] == [
        (0, True)
    ]


def test_without_proc_nothing_is_known_and_the_kernel_decides(tmp_path):
    assert reserve.memory_rooms(str(tmp_path), str(tmp_path)) == []


def test_a_cgroups_limit_refuses_before_a_page_is_taken(monkeypatch):
    def never(*_):
        raise AssertionError("a page was asked for")

    room = reserve.Room(SIZE - 1, "cgroup /x", "raise memory.max")
    monkeypatch.setattr(reserve, "memory_rooms", lambda: [room])
    monkeypatch.setattr(os, "posix_fallocate", never)
    with pytest.raises(RegionMemoryError, match=r"cgroup /x .* raise memory\.max"):
        Region.create(SIZE)


# -- attach --------------------------------------------------------------------


def test_both_see_the_same_bytes(region):
    with Region.attach(region.fd, size=SIZE, kind=layout.KIND_PLAIN) as other:
        assert other.fd != region.fd
        other.buffer[layout.PAGE] = 9
        assert region.buffer[layout.PAGE] == 9
        assert (other.kind, other.size, other.generation) == (0, SIZE, 3)
        assert other.writable


def test_attach_changes_no_byte(region):
    before = bytes(region.buffer)
    for writable in (True, False):
        Region.attach(region.fd, writable=writable).close()
    for wrong in ({"size": SIZE + 1}, {"kind": 4}):
        with pytest.raises(LayoutError):
            Region.attach(region.fd, **wrong)
    assert bytes(region.buffer) == before


def test_an_attached_region_outlives_its_creators():
    region = Region.create(SIZE)
    region.buffer[5000] = 1
    with Region.attach(region.fd) as other:
        region.close()
        assert other.buffer[5000] == 1


def test_a_read_only_mapping(region):
    with Region.attach(region.fd, writable=False) as other:
        assert other.buffer.readonly
        assert not other.writable
        with pytest.raises(TypeError):
            other.buffer[5000] = 1
        view = other.view(0, 16)
        assert memoryview(view).readonly


def pipe():
    reader, writer = os.pipe()
    os.close(writer)
    return reader


REFUSED = {
    "a file": lambda: os.open(__file__, os.O_RDONLY),
    "a pipe": pipe,
    "no seals": lambda: sealed(seals=0),
    "may shrink": lambda: sealed(seals=fcntl.F_SEAL_GROW),
    "may grow": lambda: sealed(seals=fcntl.F_SEAL_SHRINK),
    "empty": lambda: sealed(size=0),
    "short": lambda: sealed(size=layout.PAGE - 1),
    "zeros": sealed,
    "huge": lambda: sealed(size=1 << 61),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_region(what):
    fd = REFUSED[what]()
    with pytest.raises(LayoutError, match=r"Region\.create|is no region"):
        Region.attach(fd)
    os.close(fd)


def test_a_closed_descriptor_is_an_os_error():
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Region.attach(fd)


def test_huge_pages_are_refused():
    try:
        fd = sealed(size=0, flags=os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"no huge pages here: {error}")
    with pytest.raises(LayoutError, match="huge"):
        Region.attach(fd)
    os.close(fd)


def test_seals_are_looked_at_before_the_size(monkeypatch):
    looks = []
    fd = sealed(seals=0)
    with monkeypatch.context() as patch:
        for name in ("fstat", "pread", "dup"):
            patch.setattr(os, name, lambda *_: looks.append(1))
        with pytest.raises(LayoutError, match="seals"):
            Region.attach(fd)
    assert not looks
    os.close(fd)


GOOD = new_header(SIZE, kind=2, generation=0)
MISMATCHES = {
    "magic": 1, "version": 2, "byte_order": 0x04030201, "size": SIZE + 1, "kind": 3
}  # fmt: skip


@pytest.mark.parametrize("field", MISMATCHES)
def test_the_error_says_what_was_found_and_expected(field):
    found = MISMATCHES[field]
    fd = sealed(FIELDS.pack(*GOOD._replace(**{field: found})))
    with pytest.raises(LayoutError) as caught:
        Region.attach(fd, kind=2, size=SIZE)
    os.close(fd)
    assert f"{found:#x}" in str(caught.value)
    assert f"{getattr(GOOD, field):#x}" in str(caught.value)
    assert field.replace("_", " ") in str(caught.value)


def words(value):
    """Numbers near the right one, and any others."""
    near = st.sampled_from([value, value + 1, max(0, value - 1), 0, SIZE, layout.MAGIC])
    return near | st.integers(0, 2**64 - 1)


headers = st.binary(max_size=layout.PAGE) | st.tuples(*map(words, GOOD)).map(
    lambda fields: FIELDS.pack(
        *(f & (0xFFFFFFFF if i in (1, 2, 5, 6) else 2**64 - 1)
          for i, f in enumerate(fields))
    )
)  # fmt: skip


@given(
    content=headers,
    size=st.sampled_from([0, 1, 48, layout.PAGE, SIZE, SIZE + 1, 1 << 40]),
    expected=st.sampled_from([None, SIZE, 0]),
    kind=st.sampled_from([None, 2, 0]),
)
def test_any_header_is_attached_or_a_layout_error(content, size, expected, kind):
    fd = sealed(content[:size], size=size)
    try:
        with Region.attach(fd, size=expected, kind=kind) as region:
            assert region.size == size
            assert bytes(region.buffer[: len(content)]) == content
    except LayoutError:
        pass
    finally:
        os.close(fd)


# -- read-only handles ---------------------------------------------------------

WRITERS = {
    "mmap": """
        mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)[5000] = 1
        """,
    "reopen": """
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        mmap.mmap(again, size, mmap.MAP_SHARED, mmap.PROT_WRITE)[5000] = 1
        """,
    "write": """
        os.pwrite(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), b"x", 5000)
        """,
    "punch a hole": """
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int] + [ctypes.c_long] * 2
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        check(libc.fallocate(again, 3, 4096, 4096))
        """,
    "mprotect": """
        view = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        import numpy
        where = numpy.frombuffer(view, "u1").ctypes.data
        check(libc.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(size), 3))
        ctypes.memset(where + 5000, 1, 1)
        """,
    "attach": """
        Region.attach(fd).buffer[5000] = 1
        """,
}
TRY = """
import ctypes, mmap, os, sys
from rings.memory import Region
libc = ctypes.CDLL(None, use_errno=True)
def check(rc):
    if rc:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
fd, size = int(sys.argv[1]), int(sys.argv[2])
assert Region.attach(fd, writable=False).buffer[5000] == 42
try:
    {attempt}
except PermissionError as error:
    print("refused")
else:
    print("written")
"""


def attempt(how, fd):
    code = TRY.replace("{attempt}", textwrap.indent(textwrap.dedent(how), "    "))
    child = run(code, fd, SIZE, fds=[fd])
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


@pytest.mark.parametrize("how", WRITERS)
def test_a_read_only_handle_cannot_be_made_writable(how):
    with Region.create(SIZE, readers=True) as region:
        region.buffer[5000] = 42
        fd = region.read_only_fd()
        assert attempt(WRITERS[how], fd) == "refused"
        assert region.buffer[5000] == 42
        os.close(fd)


@pytest.mark.parametrize("how", ["reopen", "write"])
def test_a_descriptor_opened_for_reading_alone_protects_nothing(how):
    """The control: what the seal is for."""
    with Region.create(SIZE) as region:
        region.buffer[5000] = 42
        fd = os.open(f"/proc/self/fd/{region.fd}", os.O_RDONLY)
        assert attempt(WRITERS[how], fd) == "written"
        assert region.buffer[5000] != 42
        os.close(fd)


def test_the_writers_that_are_there_go_on_writing():
    with (
        Region.create(SIZE, readers=True) as region,
        Region.attach(region.fd) as writer,
    ):
        fd, again = region.read_only_fd(), region.read_only_fd()
        with Region.attach(fd, writable=False) as reader:
            region.buffer[5000] = 1
            writer.buffer[5001] = 2
            assert bytes(reader.buffer[5000:5002]) == b"\1\2"
            assert not os.get_inheritable(fd)
            with pytest.raises(PermissionError, match="writable=False"):
                Region.attach(region.fd)
        os.close(fd)
        os.close(again)


def test_a_region_with_final_seals_has_no_read_only_handle(region):
    with pytest.raises(LocalProtocolError, match="readers=True"):
        region.read_only_fd()


# -- close ---------------------------------------------------------------------


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


# -- views ---------------------------------------------------------------------


def test_a_view_counts_every_kind_of_export():
    view = View(bytearray(100), 10, 50)
    assert view.exports == 0
    alive = [
        memoryview(view), np.frombuffer(view, "u1"), np.asarray(view),
        (ctypes.c_char * 50).from_buffer(view),
    ]  # fmt: skip
    assert view.exports == 4
    alive.append(alive[0][1:3])
    alive[0].release()
    assert view.exports == 4
    with pytest.raises(BusyError, match=r"4 view\(s\)"):
        view.release()
    alive.clear()
    gc.collect()
    assert view.exports == 0
    view.release()
    view.release()
    assert view.released
    with pytest.raises(ClosedError):
        memoryview(view)


def test_a_memoryview_alone_does_not_notice_an_array():
    """The control: why there is a View at all."""
    view = memoryview(bytearray(100))
    array = np.frombuffer(view, "u1")
    view.release()
    assert array[0] == 0


@given(size=st.integers(0, 40), offset=st.integers(-2, 50), length=st.integers(-2, 50))
def test_a_view_lies_within_its_buffer(size, offset, length):
    base = bytes(range(size))
    if min(offset, length) >= 0 and offset + length <= size:
        view = View(base, offset, length, readonly=True)
        assert bytes(view) == base[offset : offset + length]
    else:
        with pytest.raises(ValueError, match=r"outside|negative"):
            View(base, offset, length, readonly=True)


def test_a_view_of_the_last_byte_of_nothing_overflows_no_sum():
    with pytest.raises(ValueError, match="outside"):
        View(b"", sys.maxsize, sys.maxsize, True)


def test_a_view_does_not_make_bytes_writable():
    with pytest.raises(BufferError):
        View(b"constant", 0, 4)
    view = View(b"constant", 0, 4, readonly=True)
    assert memoryview(view).readonly
    assert not np.frombuffer(view, "u1").flags.writeable
    with pytest.raises(TypeError, match="not writable"):
        ctypes.c_char.from_buffer(view)
    assert view.exports == 0


def test_a_view_keeps_count_when_the_base_refuses():
    base = bytearray(10)
    view = View(base, 5, 5)
    base.clear()
    for _ in range(3):
        with pytest.raises(ValueError, match="outside"):
            memoryview(view)
    assert view.exports == 0


def test_views_leak_no_reference():
    base = bytearray(10)
    before = sys.getrefcount(base)
    for _ in range(100):
        view = View(base, 0, 10)
        memoryview(view).release()
        view.release()
        with pytest.raises(ValueError, match="outside"):
            View(base, 0, 11)
    del view
    assert sys.getrefcount(base) == before
    base.append(1)  # BufferError if an export were still counted


# -- other processes and interpreters ------------------------------------------


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
                 "multiprocessing", "subprocess", "socket"}
        print(sorted(heavy & set(sys.modules)))
        """
    child = run(code)
    assert (child.stdout, child.stderr) == ("[]\n", "")
