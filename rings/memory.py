"""Regions: shared memory behind a file descriptor.

Two verbs.  `Region.create` makes memory, reserves every page, writes the header
and puts the magic in last; `Region.attach` maps memory that somebody else made
and changes no byte of it.  A descriptor is the whole capability: nothing has a
name, so nothing is left behind when the last holder dies.

What keeps a mapping safe from its peers, and a reader from writing, are the seals
of the file: see memfd.py.

**Fork.**  A child inherits the mapping and the descriptor and its `Region`
objects go on working; the two processes share the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import layout
from ._core import View
from .errors import BusyError, ClosedError
from .header import Header, check_header, new_header, read_header, write_header
from .memfd import (
    check_seals,
    freeze_writers,
    is_frozen,
    map_shared,
    memory_file,
    seal,
)
from .reserve import reserve

if TYPE_CHECKING:
    from multiprocessing.resource_sharer import DupFd


class Region:
    """Shared memory, mapped.

    Attributes:
        fd: The region's own descriptor, or -1 when closed.
        size: Bytes, header included.
        kind: One of ``layout.KIND_*``.
        generation: The number its creator gave it.
        writable: Whether this mapping may be written.
    """

    __slots__ = (
        "__weakref__", "_buffer", "_map", "_sealed", "fd", "generation", "kind", "size",
        "writable",
    )  # fmt: skip

    def __init__(
        self, fd: int, header: Header, *, writable: bool, sealed: bool
    ) -> None:
        """Map ``fd``, whose header has been checked, and own it from now on."""
        self.fd = -1
        self._sealed = sealed
        self.size = header.size
        self.kind = header.kind
        self.generation = header.generation
        self.writable = writable
        self._map = map_shared(fd, header.size, writable)
        self._buffer = memoryview(self._map)
        self.fd = fd

    @classmethod
    def create(
        cls,
        size: int,
        *,
        kind: int = layout.KIND_PLAIN,
        name: str = "rings",
        generation: int = 0,
        readers: bool = False,
    ) -> Region:
        """Make a region of ``size`` zero bytes behind a new header.

        Args:
            size: Bytes, the header's page included.
            kind: What will lie in it, one of ``layout.KIND_*``.
            name: Shown in ``/proc/PID/maps``; it names nothing else.
            generation: A number for the creator's use.
            readers: Leave room for `read_only_fd`; otherwise all seals are final.

        Raises:
            RegionMemoryError: There is not that much memory.
            ValueError: The size is not a possible one.
        """
        header = new_header(size, kind=kind, generation=generation)
        fd = memory_file(name)
        try:
            reserve(fd, size)
            seal(fd, readers=readers)
            region = cls(fd, header, writable=True, sealed=True)
        except BaseException:
            os.close(fd)
            raise
        write_header(region._buffer, header)
        return region

    @classmethod
    def attach(
        cls,
        fd: int,
        *,
        size: int | None = None,
        kind: int | None = None,
        writable: bool = True,
    ) -> Region:
        """Map a region that another process, or interpreter, created.

        The region gets a descriptor of its own; ``fd`` stays the caller's.

        Args:
            fd: The region's descriptor.
            size: The size it must have, if known.
            kind: The kind it must be, if known.
            writable: Whether to ask for a mapping that may be written.

        Raises:
            LayoutError: This is no region, or not the expected one.
            PermissionError: The memory may only be read: attach so.
        """
        check_seals(fd)
        return cls.adopt(fd, size=size, kind=kind, writable=writable, sealed=True)

    @classmethod
    def adopt(
        cls,
        fd: int,
        *,
        size: int | None,
        kind: int | None,
        writable: bool,
        sealed: bool,
    ) -> Region:
        """Attach without a look at the seals: for memory that has none."""
        header = read_header(fd)
        check_header(header, os.fstat(fd).st_size, size=size, kind=kind)
        own = os.dup(fd)
        try:
            return cls(own, header, writable=writable, sealed=sealed)
        except BaseException:
            os.close(own)
            raise

    @property
    def closed(self) -> bool:
        """Whether `close` has been done."""
        return self.fd < 0

    @property
    def buffer(self) -> memoryview:
        """All bytes of the region, format ``B``; read-only if the mapping is.

        Closing the region releases this view itself, but is refused while slices
        or arrays made from it are in use.
        """
        self.fileno()
        return self._buffer

    def view(self, offset: int, length: int, *, readonly: bool = False) -> View:
        """Return some of the bytes as an object that counts its exports."""
        self.fileno()
        return View(self._map, offset, length, readonly or not self.writable)

    def fileno(self) -> int:
        """Return the descriptor."""
        if self.fd < 0:
            raise ClosedError("this region is closed; attach it again from its fd")
        return self.fd

    def read_only_fd(self) -> int:
        """Freeze the set of writers; return a new descriptor for a reader.

        After the first call nobody can map the memory for writing any more, this
        process included: whoever is to write must have attached before.

        Raises:
            LocalProtocolError: The region was not created with ``readers=True``.
        """
        freeze_writers(self.fileno())
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Unmap the memory and close the descriptor; again is harmless.

        Raises:
            BusyError: Somebody still uses its bytes; nothing was closed.
        """
        if self.fd < 0:
            return
        try:
            self._buffer.release()
            self._map.close()
        except BufferError:
            self._buffer = memoryview(self._map)
            raise BusyError(
                f"region fd {self.fd} ({self.size} bytes) is in use: release its"
                " slices, arrays, rings and grants' views first"
            ) from None
        fd, self.fd = self.fd, -1
        os.close(fd)

    def __enter__(self) -> Region:
        return self

    def __exit__(self, *exc: object) -> None:
        leave(self.close, exc[1])

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            self.fd = -1
            close(fd)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self.fd}"
        return f"<Region {state}, kind {self.kind}, {self.size} bytes>"

    def __reduce__(self) -> tuple[Callable[..., Region], tuple[object, ...]]:
        """Travel to another process; a frozen region arrives read-only."""
        from multiprocessing.reduction import DupFd

        frozen = self._sealed and is_frozen(self.fileno())
        writable = self.writable and not frozen
        return reattach, (DupFd(self.fd), self.size, self.kind, writable, self._sealed)


def leave(close: Callable[[], None], error: object) -> None:
    """End a ``with``: what went wrong inside of it is worth more than what does now."""
    try:
        close()
    except (BusyError, TimeoutError) as late:
        if not isinstance(error, BaseException):
            raise
        error.add_note(f"and it could not be closed: {late}")


def reattach(
    handle: DupFd, size: int, kind: int, writable: bool, sealed: bool
) -> Region:
    """Attach a region that came by pickle, and let go of the courier's fd."""
    fd = handle.detach()
    try:
        if sealed:
            check_seals(fd)
        return Region.adopt(fd, size=size, kind=kind, writable=writable, sealed=sealed)
    finally:
        os.close(fd)
