"""Services written in Python: a batch of requests in, a result for each out.

    class Alphas(Backend):
        size = 1 << 20

        def serve(self, batch):
            for index, request in enumerate(batch):
                if request.op != OP_READ:
                    batch.respond(index, -errno.EOPNOTSUPP)
                    continue
                for part in request.segments:
                    part[:] = b"A" * len(part)
                batch.respond(index, request.length)

`serve` runs on a thread of the daemon's, one batch of a ring at a time.  Requests are
private copies and have been checked; the *bytes* of their segments are the
frontend's own memory, which it can change at any time: copy what you must rely on.
A segment is a `memoryview`, read-only for a write, and valid until its request is
answered; it is released then.

Whatever `serve` leaves unanswered is answered for it: `-EIO` after an exception,
which is logged and goes no further, and after a plain return as well.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, overload

from rings import layout
from rings.errors import LocalProtocolError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("rings.daemon")

MAX_RESULT: Final = (1 << 63) - 1
MAX_ERRNO: Final = 4095
OP_ECHO: Final = layout.OP_ECHO
OP_READ: Final = layout.OP_READ
OP_WRITE: Final = layout.OP_WRITE
OP_FLUSH: Final = layout.OP_FLUSH
OP_DISCARD: Final = layout.OP_DISCARD
OP_WRITE_ZEROES: Final = layout.OP_WRITE_ZEROES

NUMPY_FIELDS: Final = [("id", "u8"), ("op", "u1"), ("offset", "u8"), ("length", "u8")]

Respond = Callable[[int, int], None]


class Request(NamedTuple):
    """One request, copied out of the ring.

    Attributes:
        id: The frontend's own number, echoed to it.
        op: One of ``OP_*``.
        offset: Where on the device.  Bytes.
        length: How much.  Bytes; the sum of the segments' lengths if it has any.
        segments: The frontend's buffers, in order.
    """

    id: int
    op: int
    offset: int
    length: int
    segments: tuple[memoryview, ...]


@dataclass(frozen=True)
class BatchStatistics:
    """How a batch stands.

    Attributes:
        requests: How many it has.
        unanswered: How many of them have no result yet.
    """

    requests: int
    unanswered: int


class Batch(Sequence[Request]):
    """Requests that were in the ring together, and the way to answer them.

    Any thread may answer, in any order, each request once.

    Args:
        requests: Private copies of the requests.
        respond: Takes a request's place in the batch and its result.
    """

    def __init__(self, requests: Sequence[Request], respond: Respond) -> None:
        self._requests = tuple(requests)
        self._respond = respond
        self._lock = threading.Lock()
        self._waiting = set(range(len(self._requests)))

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        return self._requests[index]

    def respond(self, index: int, result: int) -> None:
        """Answer one request.

        Args:
            index: Its place in the batch.
            result: Bytes done, or minus an errno.

        Raises:
            IndexError: The batch has no such request.
            ValueError: No result can be so large or so small.
            LocalProtocolError: It has been answered before.
        """
        _check_result(result)
        place = range(len(self._requests))[index]
        with self._lock:
            if place not in self._waiting:
                raise LocalProtocolError(
                    f"request {place} of this batch is answered already; "
                    "answer each request once"
                )
            self._waiting.remove(place)
        self._answer(place, result)

    def respond_all(self, results: Sequence[int] | NDArray[np.int64]) -> None:
        """Answer every request of the batch, in its order.

        Raises:
            ValueError: There are not as many results as requests, or one of them
                is impossible; nothing was answered.
            LocalProtocolError: Some request has been answered before.
        """
        values = [int(result) for result in results]
        if len(values) != len(self._requests):
            raise ValueError(
                f"{len(values)} results for {len(self._requests)} requests; "
                "give one for each"
            )
        for value in values:
            _check_result(value)
        self._claim_all()
        for place, value in enumerate(values):
            self._answer(place, value)

    def array(self) -> NDArray[np.void]:
        """Return id, op, offset and length of all requests as a structured array.

        Raises:
            ImportError: numpy is not installed.
        """
        import numpy

        rows = [(r.id, r.op, r.offset, r.length) for r in self._requests]
        return numpy.array(rows, dtype=NUMPY_FIELDS)

    def statistics(self) -> BatchStatistics:
        """Return how many requests there are and how many wait for an answer."""
        with self._lock:
            return BatchStatistics(len(self._requests), len(self._waiting))

    def finish(self, result: int) -> int:
        """Answer with `result` whatever is left; return how many that were."""
        with self._lock:
            places, self._waiting = sorted(self._waiting), set()
        for place in places:
            self._answer(place, result)
        return len(places)

    def _claim_all(self) -> None:
        with self._lock:
            if len(self._waiting) != len(self._requests):
                raise LocalProtocolError(
                    "some requests of this batch are answered already; use respond "
                    "for each of the others"
                )
            self._waiting.clear()

    def _answer(self, place: int, result: int) -> None:
        """Let go of the frontend's bytes first: it may reuse them once answered."""
        request = self._requests[place]
        for segment in request.segments:
            with suppress(BufferError):  # an array over it lives a little longer
                segment.release()
        self._respond(place, result)


class Backend:
    """Subclass it, define `serve`, and give an instance to `devices.python`.

    Attributes:
        size: Bytes the device has.
        block_size: Offsets and lengths of requests are multiples of it.  Bytes.
    """

    size: int = 0
    block_size: int = 1

    def serve(self, batch: Batch) -> None:
        """Answer the requests of a batch; the default knows no operation."""
        batch.finish(-errno.EOPNOTSUPP)


def serve(backend: Backend, batch: Batch) -> None:
    """Have a backend serve a batch; every request is answered when this returns."""
    try:
        backend.serve(batch)
    except Exception:
        left = batch.finish(-errno.EIO)
        log.exception(
            "%s.serve raised; %d of %d requests answered EIO",
            type(backend).__name__,
            left,
            len(batch),
        )
        return
    if left := batch.finish(-errno.EIO):
        log.error(
            "%s.serve returned without answering %d of %d requests; answered EIO",
            type(backend).__name__,
            left,
            len(batch),
        )


def _check_result(result: int) -> None:
    if not -MAX_ERRNO <= result <= MAX_RESULT:
        raise ValueError(
            f"result {result}: give the bytes done, or minus an errno "
            f"(-{MAX_ERRNO} to {MAX_RESULT})"
        )
