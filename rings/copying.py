"""Reads and writes of ordinary buffers: copied through a grant of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import layout
from .errors import ClosedError
from .grants import Grant

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .requester import Requester

SMALL: Final = 64 << 10
LARGE: Final = 1 << 20


class Copier:
    """Lends bounce buffers: small ones are kept, large ones made when needed."""

    def __init__(self, requester: Requester, block_size: int) -> None:
        self._requester = requester
        self._block_size = block_size
        self._kept: list[Grant] = []
        self._closed = False

    def read(self, offset: int, length: int, timeout: float | None) -> bytes:
        """Return bytes of the device."""
        if 0 < length <= SMALL:
            grant = self._take()
            self._call(layout.OP_READ, offset, grant, length, timeout)
            with grant.view() as view:
                data = bytes(view[:length])
            self._give_back(grant)
            return data
        out = bytearray(length)
        self.readinto(out, offset, timeout)
        return bytes(out)

    def readinto(self, buffer: Buffer, offset: int, timeout: float | None) -> int:
        """Fill an ordinary buffer from the device."""

        def take(view: memoryview, at: int, grant: Grant) -> None:
            self._call(layout.OP_READ, offset + at, grant, len(view), timeout)
            with grant.view() as bounce:
                view[:] = bounce[: len(view)]

        return self._pieces(buffer, take)

    def write(self, offset: int, data: Buffer, timeout: float | None) -> int:
        """Write an ordinary buffer to the device."""

        def put(view: memoryview, at: int, grant: Grant) -> None:
            with grant.view() as bounce:
                bounce[: len(view)] = view
            self._call(layout.OP_WRITE, offset + at, grant, len(view), timeout)

        return self._pieces(data, put)

    def _pieces(
        self, buffer: Buffer, move: Callable[[memoryview, int, Grant], None]
    ) -> int:
        with memoryview(buffer).cast("B") as whole:
            size = len(whole)
            if size <= SMALL:
                grant = self._take()
                move(whole, 0, grant)
                self._give_back(grant)
                return size
            with self._requester.pool.alloc(self._large(size)) as grant:
                for at in range(0, size, grant.length):
                    move(whole[at : at + grant.length], at, grant)
            return size

    def _large(self, size: int) -> int:
        spare = self._requester.pool.statistics().longest_free
        unit = max(layout.PAGE, self._block_size)
        return max(unit, min(size, LARGE, spare // unit * unit))

    def _call(
        self, op: int, offset: int, grant: Grant, length: int, timeout: float | None
    ) -> None:
        try:
            if length <= SMALL:
                self._requester.call(op, offset, length, grant, 0, timeout)
            else:
                self._requester.pieces(op, offset, length, grant, timeout)
        except BaseException:
            if length <= SMALL:
                self._requester.pool.abandon(grant)
            raise

    def _take(self) -> Grant:
        if self._closed:
            raise ClosedError("this device is closed: connect again")
        try:
            return self._kept.pop()
        except IndexError:
            return self._requester.pool.alloc(SMALL)

    def _give_back(self, grant: Grant) -> None:
        self._kept.append(grant)

    def close(self) -> None:
        """Give the kept buffers back to the pool."""
        self._closed = True
        while self._kept:
            self._kept.pop().revoke()
