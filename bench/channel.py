"""What a message benchmark asks of a peer: two ends, opened in two processes.

An adapter makes the thing in the parent (`create`), each child opens its own end of
it after the fork, and the parent removes what is left (`destroy`).  The ends hand out
bare callables, so that nothing of ours stands in the timed loops: a peer that
blocks gives `put` and `get`; a peer that only tries gives `try_put` and `try_get`,
and the loops here retry.  The idle CPU and part of the latency of such a peer
are therefore those of `pause`, and its name says "polled".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 1024
TRIES = 200
NAP_S = 20e-6
FREE, ONE_CORE, TWO_CORES = "not pinned", "one core", "two cores"
PLACEMENTS = (ONE_CORE, TWO_CORES)


@dataclass(frozen=True)
class Spec:
    """What the ends will carry, and where a peer may leave files meanwhile."""

    size: int
    producers: int
    consumers: int
    folder: Path
    tag: str

    @property
    def capacity(self) -> int:
        """Bytes of room: 8 messages at least, 256 KiB to 8 MiB otherwise."""
        return max(256 << 10, min(8 << 20, 4096 * self.size), 8 * self.size)

    @property
    def slots(self) -> int:
        """Messages of room, a power of two up to 4096."""
        return 1 << ((min(4096, self.capacity // self.size)).bit_length() - 1)


@dataclass(frozen=True)
class Sender:
    """A producer's end.  `batch` prepares what one `put_many` call will put."""

    put: Callable[[Any], Any] | None = None
    try_put: Callable[[Any], Any] | None = None
    batch: Callable[[Sequence[bytes]], Any] | None = None
    put_many: Callable[[Any], Any] | None = None
    put_array: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Receiver:
    """A consumer's end.

    `get_many` returns how many records came, `records` those of the last call;
    `get_array` hands the array to its argument and takes it back afterwards.
    """

    get: Callable[[], Any] | None = None
    try_get: Callable[[], Any] | None = None
    get_many: Callable[[], int] | None = None
    records: Callable[[], Sequence[bytes]] | None = None
    get_array: Callable[[Callable[[Any], None]], None] | None = None


ONE_TO_ONE = ((1, 1),)
FAN_IN = ((1, 1), (2, 1), (4, 1))
ANY_FAN = (*FAN_IN, (4, 4))


class Adapter:
    """One peer in one manner of use.  What is not overridden, the peer cannot do."""

    name = ""
    package = ""
    ours = False
    min_size = 8
    max_size = 2 << 20
    fan: tuple[tuple[int, int], ...] = ONE_TO_ONE
    batches = False
    arrays = False
    round_trips = True
    in_process = False
    needs_two_cores = False

    def create(self, spec: Spec) -> Any:
        """Make the channel, in the parent, before any fork."""
        raise NotImplementedError(self.name)

    def sender(self, made: Any, index: int) -> Sender:
        """Open the end of producer `index`, in its own process."""
        raise NotImplementedError(self.name)

    def receiver(self, made: Any, index: int) -> Receiver:
        """Open the end of consumer `index`, in its own process."""
        raise NotImplementedError(self.name)

    def destroy(self, made: Any) -> None:
        """Remove what `create` made; ends that were killed left theirs open."""


def napping() -> Callable[[], None]:
    """Return a pause for retry loops: 200 tries, then a nap of 20 us."""
    tries = 0

    def pause() -> None:
        nonlocal tries
        tries += 1
        if tries >= TRIES:
            tries = 0
            time.sleep(NAP_S)

    return pause


def pause_for(placement: str) -> Callable[[], None]:
    """Return the pause that suits a polled peer best under `placement`."""
    return os.sched_yield if placement == ONE_CORE else napping()


def cores_for(placement: str, producers: int, consumers: int) -> tuple[list[Any], ...]:
    """Return the cores of the producers and of the consumers; None is not pinned."""
    allowed = sorted(os.sched_getaffinity(0))
    if placement == FREE:
        return [None] * producers, [None] * consumers
    if placement == ONE_CORE:
        return [allowed[0]] * producers, [allowed[0]] * consumers
    if consumers == 1:
        return [allowed[0]] * producers, [allowed[1]]
    return (
        [allowed[i % 2] for i in range(producers)],
        [allowed[(i + 1) % 2] for i in range(consumers)],
    )


def blocking_put(end: Sender, pause: Callable[[], None]) -> Callable[[Any], Any]:
    """Return a put that waits, whichever kind the end has."""
    if end.put is not None:
        return end.put
    attempt = end.try_put
    assert attempt is not None

    def put(data: Any) -> None:
        while not attempt(data):
            pause()

    return put


def blocking_get(end: Receiver, pause: Callable[[], None]) -> Callable[[], Any]:
    """Return a get that waits, whichever kind the end has."""
    if end.get is not None:
        return end.get
    attempt = end.try_get
    assert attempt is not None

    def get() -> Any:
        while (message := attempt()) is None:
            pause()
        return message

    return get


def cut(data: Any, size: int, count: int) -> Sequence[bytes]:
    """Return the first `count` records of `size` bytes in `data`."""
    return [bytes(data[i * size : (i + 1) * size]) for i in range(count)]
