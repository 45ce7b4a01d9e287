import os
import subprocess
import sys
import textwrap

import pytest

from rings import (
    LocalProtocolError,
    layout,
)
from rings.memory import Region

HANG_S = 30
SIZE = 3 * layout.PAGE


@pytest.fixture
def region():
    with Region.create(SIZE, generation=3) as region:
        yield region


def run(code, *args, fds=(), python=sys.executable):
    return subprocess.run(
        [python, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True, text=True, timeout=HANG_S, pass_fds=fds,
    )  # fmt: skip


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
