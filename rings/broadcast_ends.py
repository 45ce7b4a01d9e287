"""The two ends of a broadcast ring: putting, getting, and waiting for each other.

The C types know all but sleeping.  Nobody can poll many processes for their death,
so a sleeper looks every SLICE_S whether those it waits for are alive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from ._core import BroadcastConsumer, BroadcastProducer
from .channel import EventChannel, Wait, deadline_of
from .errors import BrokenError, ShutDown

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .memory import Region

SLICE_S: Final = 0.1


class Events(Protocol):
    """The eventfds of a ring."""

    @property
    def space_fd(self) -> int:
        """The one that wakes the producer."""

    @property
    def event_fds(self) -> tuple[int, ...]:
        """One for each consumer."""


class RingLike(Protocol):
    """What an end needs of `rings.broadcast.Ring`, and keeps alive."""

    region: Region

    def handle(self) -> Events:
        """Return the ring as numbers."""


class Producer:
    """The end that puts.

    Attributes:
        try_put: Stores one message and returns True, or False without room.
        put_many: Stores what fits of a list, with one event; returns how many.
        consumers: Returns (pid, messages behind, messages lost) of each consumer.
    """

    def __init__(self, ring: RingLike, strategy: Wait) -> None:
        """Take the ring's producing end; use `Ring.producer`."""
        self._ring = ring
        handle = ring.handle()
        self._core = BroadcastProducer(ring.region.buffer, handle.event_fds)
        self._channel = _channel(handle.event_fds[0], handle.space_fd)
        self._strategy = strategy
        self.try_put = self._core.try_put
        self.put_many = self._core.put_many
        self.consumers = self._core.consumers

    def put(self, data: Buffer, timeout: float | None = None) -> None:
        """Store one message, waiting for the slowest consumer if the ring blocks.

        Raises:
            TimeoutError: There was no room in time; the message names the slowest.
        """
        if self.try_put(data):
            return
        deadline = deadline_of(timeout)
        core = self._core
        while not (core.reap() and self.try_put(data)):
            left = _wait(
                self._channel, deadline, core.has_room, core.await_room, self._strategy
            )
            if self.try_put(data):
                return
            if left <= 0:
                self._raise_timeout()

    def _raise_timeout(self) -> None:
        pid, behind, _ = max(
            self.consumers(), key=lambda row: row[1], default=(0, 0, 0)
        )
        raise TimeoutError(
            f"no room in time: the slowest consumer, pid {pid}, is {behind} messages"
            " behind; use policy='drop_old' to leave it behind"
        )

    @property
    def closed(self) -> bool:
        """Whether this end can no longer be used."""
        return self._core.closed

    def close(self) -> None:
        """Give the end back and wake all consumers."""
        self._core.close()
        self._channel.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Consumer:
    """An end that gets.

    Attributes:
        try_get: Takes one message, or returns None.
        get_many: Takes up to so many messages as a list.
    """

    def __init__(self, ring: RingLike, strategy: Wait, latest: bool) -> None:
        """Join the ring; use `Ring.consumer`."""
        self._ring = ring
        handle = ring.handle()
        core = BroadcastConsumer(ring.region.buffer, handle.space_fd, latest)
        self._core = core
        self._channel = _channel(handle.space_fd, handle.event_fds[core.index])
        self._strategy = strategy
        self.try_get = core.try_get
        self.get_many = core.get_many

    @property
    def lost(self) -> int:
        """Messages that were overtaken or skipped so far, exactly."""
        return self._core.lost

    @property
    def closed(self) -> bool:
        """Whether this end can no longer be used."""
        return self._core.closed

    def get(self, timeout: float | None = None) -> bytes:
        """Take one message, waiting for it.

        Raises:
            TimeoutError: None came in time.
            ShutDown: The producer closed and the last message was taken.
            BrokenError: The producer died; all that it published was taken.
        """
        message = self.try_get()
        if message is not None:
            return message
        deadline = deadline_of(timeout)
        core = self._core
        while True:
            state = core.producer_state()
            if (message := self.try_get()) is not None:
                return message
            _raise_if_gone(state)
            left = _wait(
                self._channel,
                deadline,
                core.has_message,
                core.await_message,
                self._strategy,
            )
            if left <= 0 and (message := self.try_get()) is None:
                who = f"is pid {state}" if state else "has not attached yet"
                raise TimeoutError(f"no message in time; the producer {who}")
            if message is not None:
                return message

    def fileno(self) -> int:
        """Return the eventfd that is written after `arm`, for select and asyncio."""
        return self._channel.fileno()

    def arm(self) -> bool:
        """Ask for an event on `fileno`; True: do not sleep, there is a message."""
        self._channel.clear()
        return self._core.await_message()

    def close(self) -> None:
        """Leave the ring: nobody waits for this consumer any more."""
        self._core.close()
        self._channel.close()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                yield self.get()
            except ShutDown:
                return

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _channel(notify_fd: int, wait_fd: int) -> EventChannel:
    return EventChannel(os.dup(notify_fd), os.dup(wait_fd))


def _wait(
    channel: EventChannel,
    deadline: float,
    ready: Callable[[], bool],
    final_check: Callable[[], bool],
    strategy: Wait,
) -> float:
    """Wait for a slice at most; return the seconds that are left."""
    left = min(SLICE_S, max(0.0, deadline - time.monotonic()))
    channel.wait(left, ready=ready, final_check=final_check, strategy=strategy)
    return deadline - time.monotonic()


def _raise_if_gone(state: int) -> None:
    if state == -1:
        raise ShutDown("the producer closed its end and every message was taken")
    if state == -2:
        raise BrokenError(
            "the producer died; what it published is delivered; start another"
        )
