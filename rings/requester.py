"""Requests over one session: submit, wait, name what went wrong.

Under every method lies one call of `rings._core.Front`, which knows who waits for
which answer.  Here are the slow parts: no credit, a timeout, a daemon that is gone.
"""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import local
from time import monotonic
from typing import TYPE_CHECKING, Final

from . import layout
from ._core import Front, View
from .depth import bounds
from .doubt import Doubt
from .errors import BrokenError
from .grants import Grant, GrantTable
from .handle import Handle, describe
from .many import MAX_TRANSFER, Many
from .pool import BufferPool
from .ranges import Range, to_segments
from .replacing import Replacing

if TYPE_CHECKING:
    from .rendezvous import Session

REQUEST: Final = struct.Struct("<QBBHIQQ")
PIECE: Final = 64 << 10
NOWHERE: Final = (None, None, 0)


def named(grant: Grant) -> tuple[View, int, int]:
    """Return what a request says of a grant, and its memory."""
    return grant.memory, grant.gref, grant.generation


class Batching(local):
    """How deep this thread is in batches of one requester."""

    depth = 0


class Requester:
    """Turns operations on grants into requests, and answers into results."""

    def __init__(
        self, session: Session, spin_us: int, depth: int | str | None = None
    ) -> None:
        shape = session.geometry
        limits = bounds(depth, shape.slots)
        self.pool = BufferPool(session.region, shape, GrantTable(session.region, shape))
        self._batching = Batching()
        self._front = Front(
            buffer=session.region.view(shape.ring_offset, shape.ring_size),
            layout=shape.ring_layout,
            slots=shape.slots,
            slot_size=shape.slot_size,
            start=shape.start,
            notify_fd=session.channel.notify_fd,
            wait_fd=session.channel.fileno(),
            hangup_fd=session.socket.fileno(),
            spin_us=spin_us,
            on_hangup=session.check,
            answer=Handle,
        )
        self._front.set_depth(*limits)
        self._doubt = Doubt(session, self._front)
        self.refused = self._doubt.refused
        self.blocks = Many(self._front, self._wait_credit, self._doubt)
        self.blocks.limited = depth is not None
        self._replacing = Replacing(session, self._front, self._doubt)

    # -- one operation, waited for --------------------------------------------

    def call(
        self, op: int, offset: int, length: int, grant: Grant | None, at: int,
        timeout: float | None,
    ) -> int:  # fmt: skip
        """Do one operation on ``grant[at:at + length]`` and return its result."""
        late = None if timeout is None else monotonic() + timeout
        while True:
            result = self._call_once(op, offset, length, grant, at, timeout)
            if result is not None:
                break
            self._wait_credit(late)
            timeout = None if late is None else max(0.0, late - monotonic())
        if grant is not None and result != length:
            what = describe(op, offset, length)
            raise OSError(errno.EIO, f"{what}: only {result} bytes were moved")
        return result

    def _call_once(
        self, op: int, offset: int, length: int, grant: Grant | None, at: int,
        timeout: float | None,
    ) -> int | None:  # fmt: skip
        """Return the result, or None if there was no credit."""
        memory, gref, generation = NOWHERE if grant is None else named(grant)
        try:
            return self._front.call(
                memory, op, offset, length, gref, generation, at, timeout
            )
        except TimeoutError as error:
            if error.errno is not None:  # the device's own answer
                raise self.refused(error.errno, op, offset, length) from None
            raise self._doubt.late(op, offset, length, timeout) from None
        except BrokenError as error:
            raise self._doubt.gone(error) from None
        except OSError as error:
            raise self.refused(error.errno or 0, op, offset, length) from None

    def pieces(
        self, op: int, offset: int, length: int, grant: Grant, timeout: float | None
    ) -> int:
        """Move the first ``length`` bytes of a grant by several requests at once.

        A failure leaves the rest in an unknown state.
        """
        piece = min(MAX_TRANSFER, layout.round_up(max(length // 8, PIECE), PIECE))
        whole = length // piece
        late = None if timeout is None else monotonic() + timeout
        offsets = array("Q", range(offset, offset + whole * piece, piece))
        self.blocks.move(op, offsets, grant, 0, piece, max(1, whole), late)
        rest = length - whole * piece
        if rest:
            left = None if late is None else max(0.0, late - monotonic())
            at = whole * piece
            self.call(op, offset + at, rest, grant, at, left)
        return length

    # -- requests that are waited for later -----------------------------------

    def submit(
        self, op: int, offset: int, length: int, grant: Grant | None, at: int
    ) -> Handle:
        """Begin one operation."""
        memory, gref, generation = NOWHERE if grant is None else named(grant)
        while True:
            handle: Handle | None = self._front.begin(
                self, memory, op, offset, length, gref, generation, at,
                not self._batching.depth,
            )  # fmt: skip
            if handle is not None:
                return handle
            self._wait_credit(None)

    def submit_part(
        self, op: int, offset: int, grant: Grant, at: int, length: int | None
    ) -> Handle:
        """Begin to move ``grant[at:at + length]``, by default all after ``at``."""
        if length is None:
            length = grant.length - at
        if at < 0 or length < 1 or at + length > grant.length:
            raise ValueError(f"{length} bytes at {at} are not within {grant!r}")
        return self.submit(op, offset, length, grant, at)

    def submit_ranges(self, op: int, offset: int, ranges: Sequence[Range]) -> Handle:
        """Begin one operation on several ranges of memory, in their order."""
        segments, length = to_segments(ranges)
        grants = [part[0] for part in ranges]
        flags = 0
        if len(ranges) > layout.IO_INLINE_SEGMENTS:
            table = self.pool.alloc(len(segments), rights=layout.RIGHT_DEVICE_READS)
            with table.view() as view:
                view[:] = segments
            segments, _ = to_segments([(table, 0, len(segments))])
            flags = layout.IO_FLAG_INDIRECT
            grants.append(table)
        fixed = REQUEST.pack(0, op, flags, len(ranges), 0, offset, length)
        request = (fixed + segments).ljust(layout.IO_REQUEST_SIZE, b"\0")
        try:
            return self.submit_raw(request, *grants)
        finally:
            if flags:
                self.pool.abandon(table)

    def submit_raw(self, request: bytes, *grants: Grant) -> Handle:
        """Begin an operation that is laid out already; ``grants`` are what it names."""
        memory = tuple(grant.memory for grant in grants)
        while True:
            handle: Handle | None = self._front.begin_request(
                self, memory, request, not self._batching.depth
            )
            if handle is not None:
                return handle
            self._wait_credit(None)

    def has_credit(self) -> bool:
        """Whether one more operation could begin without waiting."""
        return self._front.has_credit()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Publish this thread's submissions at the end of the block only."""
        self._batching.depth += 1
        try:
            yield
        finally:
            self._batching.depth -= 1
            self._front.flush()

    # -- answers --------------------------------------------------------------

    def wait(self, handle: Handle, timeout: float | None) -> int:
        """Wait until a handle is answered, and return the answer."""
        try:
            value = self._front.result(handle, timeout)
        except BrokenError as error:
            raise self._doubt.gone(error) from None
        if value is None:
            raise self._doubt.late(handle.op, handle.offset, handle.length, timeout)
        return value

    def look(self, handle: Handle) -> bool:
        """Return whether a handle is answered, having taken what has come."""
        try:
            return self._front.result(handle, 0) is not None
        except BrokenError as error:
            raise self._doubt.gone(error) from None

    def cancel(self, handle: Handle, timeout: float | None) -> None:
        """Ask the daemon to cancel a request; OSError is its answer."""
        self.submit(layout.OP_CANCEL, handle.id, 0, None, 0).result(timeout)

    def arm(self) -> bool:
        """Ask to be woken through the wait descriptor; True if answers were there."""
        return self._front.arm()

    def _wait_credit(self, late: float | None) -> None:
        self._front.flush()
        left = None if late is None else max(0.0, late - monotonic())
        try:
            if not self._front.wait_credit(left):
                raise self._doubt.late(0, 0, 0, left)
        except BrokenError as error:
            raise self._doubt.gone(error) from None

    def set_depth(self, depth: int | str | None) -> None:
        """Limit what is in flight; see `rings.depth`."""
        self._front.set_depth(*bounds(depth, self._front.statistics()["slots"]))
        self.blocks.limited = depth is not None

    def resize(self, slots: int, timeout: float) -> None:
        """Go on with a ring of another size."""
        self._replacing.replace(slots, timeout)

    # -- facts ----------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        """Counters of the front."""
        return self._front.statistics()

    def close(self) -> None:
        """Let go of the ring's memory."""
        self._front.close()
        self._replacing.close()
