"""The file that the block benchmarks read: its making, its check, its residency.

Every 4 KiB block begins and ends with its own number (u64), so a reader can tell
that it got the block it asked for.  *Cached* means: in the page cache, held there
by mlock where the limit allows, and found there by mincore before each round.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 4096
STAMP = 8
SEED = 20240229


def write_image(path: Path, size: int) -> None:
    """Fill `path` with numbered blocks and write them to the device."""
    filler = random.Random(SEED).randbytes(BLOCK - 2 * STAMP)
    with path.open("wb") as file:
        for number in range(size // BLOCK):
            stamp = number.to_bytes(STAMP, "little")
            file.write(stamp + filler + stamp)
        file.flush()
        os.fsync(file.fileno())


def check(block: memoryview, offset: int) -> None:
    """Raise unless `block` is the block at `offset` of an image of ours."""
    number = offset // BLOCK
    head = int.from_bytes(block[:STAMP], "little")
    tail = int.from_bytes(block[BLOCK - STAMP : BLOCK], "little")
    if head != number or tail != number:
        raise AssertionError(f"block {number} reads as {head}..{tail}")


def random_offsets(size: int, count: int) -> array[int]:
    """Return `count` block offsets as u64, the same ones in every run."""
    chance = random.Random(SEED)
    return array("Q", (chance.randrange(size // BLOCK) * BLOCK for _ in range(count)))


class Residency:
    """A mapping that holds the file in the page cache and can tell whether it is."""

    def __init__(self, path: Path) -> None:
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self.path = path
        self.size = path.stat().st_size
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            length, start = ctypes.c_size_t(self.size), ctypes.c_long(0)
            self._at = self._libc.mmap(
                None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, start
            )
        finally:
            os.close(fd)
        if self._at == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap", str(path))
        self.locked = False

    def _area(self) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
        return ctypes.c_void_p(self._at), ctypes.c_size_t(self.size)

    def load(self) -> None:
        """Read the whole file, then lock it in memory if the limit allows that."""
        with self.path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        self.locked = self._libc.mlock(*self._area()) == 0

    def fraction(self) -> float:
        """Return the share of the file's pages that lie in the page cache."""
        seen = (ctypes.c_ubyte * -(-self.size // mmap.PAGESIZE))()
        if self._libc.mincore(*self._area(), seen) != 0:
            raise OSError(ctypes.get_errno(), "mincore", str(self.path))
        return sum(byte & 1 for byte in bytes(seen)) / len(seen)

    def ensure(self) -> None:
        """Load what has left the cache; raise if it will not stay."""
        if self.fraction() < 1.0:
            self.load()
        if self.fraction() < 1.0:
            raise RuntimeError(f"{self.path} leaves the cache: lower --size")

    def close(self) -> None:
        """Unmap; the lock goes with the mapping."""
        self._libc.munmap(*self._area())


@dataclass(frozen=True)
class Load:
    """What every contender of the block benchmark is asked to do."""

    path: Path
    offsets: array[int]
    offsets_path: Path
    direct: bool
    rate_s: float
    latency_s: float
    pinned: bool


@contextmanager
def prepared(
    file: str | None, size: int, *, direct: bool, seconds: float, pinned: bool
) -> Iterator[tuple[Load, Residency]]:
    """Make (or take) the file, its offsets and, unless `direct`, cache it."""
    with tempfile.TemporaryDirectory(prefix="rings-bench-") as folder:
        path = Path(file) if file else Path(folder) / "disk.img"
        if not path.exists():
            write_image(path, size)
        size = path.stat().st_size
        offsets = random_offsets(size, min(1 << 16, max(1 << 12, size // BLOCK)))
        offsets_path = Path(folder) / "offsets"
        offsets_path.write_bytes(offsets.tobytes())
        residency = Residency(path)
        try:
            if not direct:
                residency.load()
            yield (
                Load(
                    path, offsets, offsets_path, direct,
                    seconds * 2 / 3, seconds / 3, pinned,
                ),
                residency,
            )  # fmt: skip
        finally:
            residency.close()
