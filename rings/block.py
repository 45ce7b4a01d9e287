"""A block device as a worker sees it: requests through a ring, data in place.

The data of a request lies in a grant: bytes of the shared region that the device
reads or writes itself.  Buffers that are grants of this device's `Block.pool` move
without a copy; any other buffer is copied through one.

Threads may share a `Block`.  A process made by fork may not: connect again there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import layout
from .copying import Copier
from .depth import Depth, slots_of
from .errors import ClosedError
from .grants import Grant
from .handle import Handle
from .many import MAX_TRANSFER
from .memory import leave
from .ranges import Range
from .requester import Requester

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .rendezvous import Session


class Block:
    """A connected block device.

    Offsets and lengths are bytes and multiples of `block_size`.  Every call that
    waits takes ``timeout`` in seconds, None for ever, and may raise, beside its own:

    * `OSError` with the device's errno: EINVAL (unaligned), ENXIO (read past the
      end), ENOSPC (write past the end), EROFS, EOPNOTSUPP, or the kernel's own;
    * `TimeoutError`: not answered in time; it may still be done;
    * `BrokenError`: the daemon is gone; ``in_flight`` names what is in doubt;
    * `ClosedError`: this end was closed, or belongs to the parent of this process.

    Attributes:
        size: Bytes of the device.
        block_size: Bytes; the unit of offsets and lengths.
        read_only: Whether writes are answered EROFS.
        pool: Buffers that move without a copy: ``pool.alloc(size)``.
        session: The connection below.
    """

    def __init__(
        self, session: Session, *, spin_us: int = 0, depth: int | str | None = None
    ) -> None:
        self.session = session
        self.size = session.device.size
        self.block_size = session.device.block_size
        self.read_only = session.device.read_only
        self._requester = Requester(session, spin_us, depth)
        self.pool = self._requester.pool
        self._copier = Copier(self._requester, self.block_size)

    # -- whole operations -----------------------------------------------------

    def read(self, offset: int, length: int, timeout: float | None = None) -> bytes:
        """Return ``length`` bytes of the device, copied out of the ring's memory."""
        return self._copier.read(offset, length, timeout)

    def readinto(
        self, buffer: Grant | Buffer, offset: int, timeout: float | None = None
    ) -> int:
        """Fill a buffer from the device; without a copy if it is a grant.

        Returns:
            The number of bytes, always the buffer's length.
        """
        if isinstance(buffer, Grant):
            return self._move(layout.OP_READ, offset, buffer, timeout)
        return self._copier.readinto(buffer, offset, timeout)

    def write(
        self, offset: int, data: Grant | Buffer, timeout: float | None = None
    ) -> int:
        """Write a buffer to the device; without a copy if it is a grant.

        The data is in the device's cache on return; `flush` makes it durable.
        """
        if isinstance(data, Grant):
            return self._move(layout.OP_WRITE, offset, data, timeout)
        return self._copier.write(offset, data, timeout)

    def flush(self, timeout: float | None = None) -> None:
        """Make every write that was answered before this call durable."""
        self._requester.call(layout.OP_FLUSH, 0, 0, None, 0, timeout)

    def discard(self, offset: int, length: int, timeout: float | None = None) -> None:
        """Give the bytes back to the image's file system; they read as zeroes."""
        self._requester.call(layout.OP_DISCARD, offset, length, None, 0, timeout)

    def write_zeroes(
        self, offset: int, length: int, timeout: float | None = None
    ) -> None:
        """Make the bytes zero without sending any."""
        self._requester.call(layout.OP_WRITE_ZEROES, offset, length, None, 0, timeout)

    def echo(self, number: int = 0, timeout: float | None = None) -> int:
        """Send a number to an echo device and return its answer, the same number.

        A round trip through the ring and nothing else: for timing.
        """
        return self._requester.call(layout.OP_ECHO, 0, number, None, 0, timeout)

    def _move(self, op: int, offset: int, grant: Grant, timeout: float | None) -> int:
        if grant.length <= MAX_TRANSFER:
            return self._requester.call(op, offset, grant.length, grant, 0, timeout)
        return self._requester.pieces(op, offset, grant.length, grant, timeout)

    # -- many blocks ----------------------------------------------------------

    def read_many(
        self,
        offsets: Buffer,
        into: Grant,
        *,
        length: int,
        depth: int | str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Read many blocks of one length, keeping ``depth`` in flight.

        Block ``i`` lands at byte ``i * length`` of ``into``.  A shorter ``into`` is
        used round and round, and holds the last blocks at the end: for measuring,
        or for warming the page cache.

        Args:
            offsets: Where the blocks are: ``uint64``, shape ``(n,)``.
            into: A grant of ``pool`` with room for at least one block.
            length: Bytes of each block, at most 1 MiB.
            depth: How many requests to keep in flight; 32, or what `depth` allows if
                the device was opened with a depth.  "auto" is the latter.
            timeout: Seconds for all of them.

        Returns:
            ``n``.
        """
        return self._requester.blocks.all(
            layout.OP_READ, offsets, into, length, depth, timeout
        )

    def write_many(
        self,
        offsets: Buffer,
        data: Grant,
        *,
        length: int,
        depth: int | str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Write many blocks; block ``i`` is byte ``i * length`` of ``data`` and on.

        Like `read_many`; no order among the blocks is promised.
        """
        return self._requester.blocks.all(
            layout.OP_WRITE, offsets, data, length, depth, timeout
        )

    # -- requests that are waited for later -----------------------------------

    def submit_read(
        self, offset: int, into: Grant, *, at: int = 0, length: int | None = None
    ) -> Handle:
        """Begin to read into ``into[at:at + length]``; see `Handle` for the answer."""
        return self._requester.submit_part(layout.OP_READ, offset, into, at, length)

    def submit_write(
        self, offset: int, data: Grant, *, at: int = 0, length: int | None = None
    ) -> Handle:
        """Begin to write ``data[at:at + length]``."""
        return self._requester.submit_part(layout.OP_WRITE, offset, data, at, length)

    def submit_flush(self) -> Handle:
        """Begin a flush."""
        return self._requester.submit(layout.OP_FLUSH, 0, 0, None, 0)

    def submit_readv(self, offset: int, ranges: Sequence[Range]) -> Handle:
        """Begin to read consecutive bytes into ``(grant, at, length)`` ranges."""
        return self._requester.submit_ranges(layout.OP_READ, offset, ranges)

    def submit_writev(self, offset: int, ranges: Sequence[Range]) -> Handle:
        """Begin to write ``(grant, at, length)`` ranges to consecutive bytes."""
        return self._requester.submit_ranges(layout.OP_WRITE, offset, ranges)

    def has_credit(self) -> bool:
        """Whether a request could be submitted now without waiting for a slot."""
        return self._requester.has_credit()

    @contextmanager
    def batch(self) -> Iterator[Block]:
        """Publish what is submitted in the ``with`` block at its end, all at once.

        One notification at most.  Do not wait for one of its handles inside.
        """
        with self._requester.held_back():
            yield self

    # -- life -----------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable once answers have come; see `arm`."""
        return self.session.channel.fileno()

    def arm(self) -> bool:
        """Announce that an event loop will sleep on `fileno`, and look once more.

        Without it the daemon need not make the descriptor readable.

        Returns:
            True if answers were there, taken now: look at your handles again.
        """
        return self._requester.arm()

    def statistics(self) -> dict[str, int]:
        """Counts since the connection was made.

        ``requests``, ``responses``, ``notifications`` sent, ``held_off`` (batches
        that needed none), ``in_flight``, ``in_flight_peak``, ``full`` (how often
        there was no slot), ``limited`` (how often the depth refused), ``credit``,
        ``sleeps``, and what `depth` tells, as ``slots`` and ``limit...``.
        """
        return self._requester.statistics()

    @property
    def depth(self) -> Depth:
        """How many requests may be in flight, and how that came."""
        return Depth.of(self.statistics())

    def set_depth(self, depth: int | str | None) -> None:
        """Let at most ``depth`` requests be in flight.

        Args:
            depth: A number up to the slots; "auto" to have it found while requests
                run; None for all the slots.
        """
        self._requester.set_depth(depth)

    def resize(
        self, slots: int = 0, *, order: int | None = None, timeout: float = 5.0
    ) -> None:
        """Go on with a ring of ``slots``, or ``32 << order``, slots.

        What is in flight is answered in the old ring, what comes now goes to the new
        one.  Grants, handles and `fileno` stay; other threads notice nothing.

        Raises:
            BusyError: A limit of the daemon; the message names its option.
            TimeoutError: The daemon, or a request in the ring before this one, did
                not answer.  The old ring stays in use after either error.
            BrokenError: The daemon is gone.
        """
        self._requester.resize(slots_of(slots, order), timeout)

    @property
    def closed(self) -> bool:
        """Whether `close` has been done."""
        return self.session.closed

    def close(self) -> None:
        """Let what is in flight finish, end the session, unmap; again is harmless.

        Raises:
            BusyError: A view of a grant is in use, or a thread is waiting.
            TimeoutError: The daemon did not finish in 5 s; the memory is unmapped here
                all the same, and the daemon cancels what takes it too long.
        """
        if not self.session.closed:
            self._requester.close()
            self._copier.close()
            self.session.close()

    def __enter__(self) -> Block:
        if self.closed:
            raise ClosedError("this device is closed: connect again")
        return self

    def __exit__(self, *exc: object) -> None:
        leave(self.close, exc[1])

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.size} bytes"
        return f"<Block {self.session.device.name!r}, {state}>"
