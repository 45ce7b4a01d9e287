"""A load on a block device, and a gauge of how full its ring is meanwhile.

The gauge is told every change of the ring's own indices, so it works under any use of
a `Block`; a load's requests are timed by the same clock reading.  What both counted
must agree: the mean number in flight is the rate times the mean time in the ring
(Little's law), or something was measured wrong.

*Source*: csrc/gauge.h, csrc/load.h, csrc/load_run.h.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import layout
from .errors import BusyError

if TYPE_CHECKING:
    from .block import Block
    from .grants import Grant

SLICES: Final = 120
HDR_COUNTS: Final = 31744
POLICIES: Final = ("block", "spill", "drop_new", "error")


class Gauge:
    """For how long each number of requests was in flight, between two moments.

    Use it as a context manager around the work; `time_ns` and `slice_ns` are
    complete when it has been left.

    Args:
        block: Whose ring to watch.
        from_ns: Begin, on the monotonic clock.
        until_ns: End.

    Attributes:
        time_ns: ``time_ns[n]`` is how long ``n`` were in flight, uint64,
            shape ``(slots + 1,)``.
        slice_ns: The area under the curve, in requests times ns, of each of 120
            equal slices of the time.
    """

    def __init__(self, block: Block, from_ns: int, until_ns: int) -> None:
        self._front = block._requester._front
        self._slots = block.session.geometry.slots
        self._words = array("Q", bytes(8 * (self._slots + 1 + SLICES)))
        self._until = (from_ns, until_ns)

    def __enter__(self) -> Gauge:
        self._front.watch(self._words, *self._until)
        return self

    def __exit__(self, *_: object) -> None:
        self._front.unwatch()

    @property
    def time_ns(self) -> array[int]:
        """How long each number was in flight."""
        return self._words[: self._slots + 1]

    @property
    def slice_ns(self) -> array[int]:
        """The area of each slice."""
        return self._words[self._slots + 1 :]


@dataclass(frozen=True)
class Load:
    """What to put on a ring.

    Attributes:
        size: Bytes of each read; 0: a flush, which moves no data.
        depth: Requests kept in flight (closed loop), or at most in flight (open).
        batch: Requests a publication.
        offsets: On the device, used round and round.
        gaps_ns: Between arrivals, used round and round; none: a closed loop.
        policy: What becomes of an arrival that finds no room: ``block`` waits,
            ``spill`` waits among at most `spill` others, ``drop_new`` is lost,
            ``error`` is lost and was an error.
        spill: See `policy`.
    """

    size: int = 4096
    depth: int = 1
    batch: int = 1
    offsets: Sequence[int] = (0,)
    gaps_ns: Sequence[int] = ()
    policy: str = "block"
    spill: int = 0


def run(
    block: Block,
    load: Load,
    *,
    start_ns: int,
    from_ns: int,
    until_ns: int,
    counts: array[int],
) -> dict[str, int]:
    """Put a load on a watched device; return what was counted when all is answered.

    Several threads may do so at once, each with its own `counts`.

    Args:
        block: The device, inside a `Gauge`.
        load: What to put on it.
        start_ns: When the first request of an open loop arrives.
        from_ns: From when on answers are timed.
        until_ns: The end; what is in flight then is waited for.
        counts: Latencies, counted as HdrHistogram(1, 2**40 - 1, 3) would, uint64,
            shape ``(31744,)``; added to.

    Raises:
        ValueError: A number is out of range; the message says which.
        BrokenError: The daemon is gone.
    """
    if load.policy not in POLICIES:
        raise ValueError(f"policy must be one of {POLICIES}, not {load.policy!r}")
    with _buffer(block, max(1, load.depth * load.size)) as grant:
        return block._requester._front.load(
            grant.memory,
            layout.OP_READ if load.size else layout.OP_FLUSH,
            load.size,
            grant.gref,
            grant.generation,
            0,
            offsets=array("Q", load.offsets),
            gaps=array("Q", load.gaps_ns),
            counts=counts,
            policy=POLICIES.index(load.policy),
            depth=load.depth,
            batch=load.batch,
            spill=load.spill,
            start_ns=start_ns,
            from_ns=from_ns,
            until_ns=until_ns,
        )


@contextmanager
def _buffer(block: Block, size: int) -> Iterator[Grant]:
    grant = block.pool.alloc(size)
    try:
        yield grant
    finally:
        try:
            grant.revoke()
        except BusyError:  # the load ended early: the device may still use it
            block.pool.abandon(grant)
