"""The first bytes of every region: written once, by its creator, and checked.

A header is read into private memory in one go and only the copy is looked at.
Offsets: docs/LAYOUT.md.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from . import layout
from .errors import LayoutError

FIELDS: Final = struct.Struct("=QIIQQIIQ")
MAX_SIZE: Final = 1 << 62
U64: Final = (1 << 64) - 1


class Header(NamedTuple):
    """The fields of a region's header, in their order in memory."""

    magic: int
    version: int
    kind: int
    size: int
    generation: int
    creator_pid: int
    byte_order: int
    creator_start: int


def new_header(size: int, *, kind: int, generation: int) -> Header:
    """Return the header that this process writes into a region of its own.

    Raises:
        ValueError: A number is out of range; the message says which and why.
    """
    if not layout.REGION_HEADER_SIZE <= size <= MAX_SIZE:
        raise ValueError(
            f"size must be in {layout.REGION_HEADER_SIZE}..{MAX_SIZE} bytes"
            f" (the header takes the first page), not {size}"
        )
    if not 0 <= kind <= layout.U32:
        raise ValueError(f"kind must be one of layout.KIND_*, not {kind}")
    if not 0 <= generation <= U64:
        raise ValueError(f"generation must be a u64, not {generation}")
    return Header(
        layout.MAGIC,
        layout.VERSION,
        kind,
        size,
        generation,
        os.getpid(),
        layout.BYTE_ORDER,
        process_start(os.getpid()),
    )


def write_header(buffer: memoryview, header: Header) -> None:
    """Write the header of fresh memory: everything, and then the magic.

    *Memory order.*  release: region-created.  The magic is one aligned 8-byte
    store after all others.  x86-64 keeps stores in order; a weakly ordered
    machine need not, but the only way to this memory is a descriptor that the
    creator passes on later, and the system calls that pass and take it order
    both sides.
    """
    packed = FIELDS.pack(*header)
    buffer[8 : len(packed)] = packed[8:]
    with buffer[:8] as first, first.cast("Q") as magic:
        magic[0] = header.magic


def read_header(fd: int) -> Header:
    """Return a private copy of the header of the memory behind ``fd``.

    *Memory order.*  acquire: region-created, by the system call.

    Raises:
        LayoutError: The memory is too small to have one.
    """
    size = os.fstat(fd).st_size
    first = os.pread(fd, FIELDS.size, 0) if size >= layout.REGION_HEADER_SIZE else b""
    if len(first) < FIELDS.size:
        raise LayoutError(
            f"this is no region: it has {size} bytes and a header alone takes"
            f" {layout.REGION_HEADER_SIZE}"
        )
    return Header._make(FIELDS.unpack(first))


def check_header(
    header: Header, file_size: int, *, size: int | None, kind: int | None
) -> None:
    """Check a copied header against the memory and against what is expected.

    Raises:
        LayoutError: They differ; the message says in what.
    """
    expect("magic", header.magic, layout.MAGIC, "this memory is no region")
    wrong_machine = "it was created on a machine of another byte order"
    expect("byte order", header.byte_order, layout.BYTE_ORDER, wrong_machine)
    other_release = "use the same release of rings on both sides"
    expect("version", header.version, layout.VERSION, other_release)
    expect("size", header.size, file_size, "the header contradicts the memory")
    if size is not None:
        expect("size", header.size, size, "this is another region than expected")
    if kind is not None:
        expect("kind", header.kind, kind, "this region is for something else")


def expect(field: str, found: int, expected: int, meaning: str) -> None:
    """Raise LayoutError unless ``found`` is what was expected."""
    if found != expected:
        raise LayoutError(
            f"region {field} is {found:#x}, expected {expected:#x}: {meaning}"
        )


def process_start(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none.

    A pid comes back after a while, a pid with its start time does not.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
