"""A worker that may open nothing and may not touch io_uring reads and writes."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import pytest

import daemons

from .interp import VERSIONS, require_python, run_python
from .served import HANG_S

SIZE = 1 << 20

# Connects, locks itself down, then does whatever a frontend can do.
WORKER = """
import ctypes, errno, os, random, sys
from array import array
import rings
from rings import sandbox

address, mode, wait = sys.argv[1:]
disk = rings.connect(address).block("disk0", slots=32, wait=wait)
content = bytearray(disk.read(0, disk.size))
syscall = ctypes.CDLL(None, use_errno=True).syscall
if mode != "control":
    sandbox.lock_down(strict=mode == "strict")

def refused(number, *arguments):
    rc = syscall(*map(ctypes.c_long, (number, *arguments)))
    return rc < 0 and ctypes.get_errno() == errno.EPERM

setup = refused(425, 0, 0)
try:
    os.close(os.open("/proc/self/maps", os.O_RDONLY))
    opened = True
except PermissionError:
    opened = False
assert opened == (mode == "control"), opened
assert setup or mode == "control"

chance = random.Random(5)
def fresh(at, size):
    content[at : at + size] = data = chance.randbytes(size)
    return data

for _ in range(100):
    at = chance.randrange(disk.size // 4096 - 1) * 4096
    disk.write(at, fresh(at, 4096))
    assert disk.read(at, 8192) == content[at : at + 8192]
disk.write(0, fresh(0, 300 << 10))
grant = disk.pool.alloc(64 * 512)
with disk.batch():
    handles = [
        disk.submit_read(n * 512, grant, at=n * 512, length=512) for n in range(24)
    ]
assert {handle.result(60) for handle in handles} == {512}
offsets = array("Q", [n * 1024 for n in range(64)])
disk.read_many(offsets, grant, length=512)
with grant.view() as view:
    for n in range(64):
        assert view[n * 512 : n * 512 + 512] == content[n * 1024 : n * 1024 + 512]
disk.submit_readv(0, [(grant, n * 1024, 512) for n in range(20)]).result(60)
disk.discard(4096, 4096)
content[4096:8192] = bytes(4096)
try:
    disk.read(disk.size, 512)
except OSError as error:
    assert error.errno == errno.ENXIO
disk.flush()
assert disk.read(0, disk.size) == content
disk.close()
print("good")
"""

pytestmark = pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "aarch64"), reason="lock_down needs numbers"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("sandbox") / "disk.img"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    with daemons.spawn(image=path, timeout=HANG_S) as daemon:
        yield daemon.address


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["control", "default", "strict"])
def test_a_locked_worker_does_the_same(address: str, version: str, mode: str) -> None:
    python = require_python(version)
    assert run_python(python, WORKER, address, mode, "block") == "good\n"


@pytest.mark.parametrize("wait", ["spin:50", "busy"])
def test_a_strictly_locked_worker_may_spin(address: str, wait: str) -> None:
    assert run_python(sys.executable, WORKER, address, "strict", wait) == "good\n"
