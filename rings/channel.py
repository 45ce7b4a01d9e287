"""Event channels: a pair of eventfds that wake the peer, and how to wait for one.

An eventfd is a counter with a sleeper: notifying twice before the peer looks is
one wake-up, and a notification sent before anybody waits is kept.  It carries no
meaning: whoever wakes looks at the ring.

Waiting is the same everywhere here (the rings' own C wait is csrc/wait.h):

    look -> spin a while -> announce, look again -> sleep -> look

``final_check`` announces to the peer that we are about to sleep, and looks once
more; without it a message published between look and sleep would wake nobody.
No sleep is longer than a second, since a signal between look and sleep would
otherwise wait as long as the peer does.

Spinning adapts: after a few spins in a row that ended in sleep the next waits
sleep at once for a while, as that spin only burns time.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from . import eventfds
from .errors import BrokenError, ClosedError

if TYPE_CHECKING:
    from multiprocessing.resource_sharer import DupFd

SLICE_S: Final = 1.0
MISSES: Final = 4
SKIP: Final = 64
LOOKS: Final = 16

Look = Callable[[], bool]


class Wait(NamedTuple):
    """A waiting strategy: make one with `block`, `spin`, `busy` or `parse`.

    Attributes:
        spin_us: Microseconds to spin before sleeping; 0 never, -1 for ever.
    """

    spin_us: int

    def __str__(self) -> str:
        names = {0: "block", -1: "busy"}
        return names.get(self.spin_us, f"spin:{self.spin_us}")


BLOCK: Final = Wait(0)
BUSY: Final = Wait(-1)


def block() -> Wait:
    """Sleep at once: no CPU while idle, one wake-up of delay."""
    return BLOCK


def spin(us: int) -> Wait:
    """Look again and again for ``us`` microseconds, and sleep then."""
    if us < 1:
        raise ValueError(f"spin takes at least 1 microsecond, not {us}")
    return Wait(us)


def busy() -> Wait:
    """Never sleep: the least delay, and a whole core gone."""
    return BUSY


def parse(text: str) -> Wait:
    """Return the strategy called ``block``, ``busy`` or ``spin:MICROSECONDS``.

    Raises:
        ValueError: There is none of that name.
    """
    name, _, us = text.partition(":")
    if text in ("block", "busy"):
        return BLOCK if text == "block" else BUSY
    if name == "spin" and us.isascii() and us.isdecimal() and int(us) > 0:
        return Wait(int(us))
    raise ValueError(
        f"unknown waiting strategy {text!r}: use block, busy or spin:MICROSECONDS"
    )


class EventChannel:
    """One end of a channel: wakes the peer, and is woken by it.

    The channel owns its two descriptors and closes them; ``hangup_fd`` stays the
    caller's.

    Args:
        notify_fd: Eventfd, non-blocking, on which the peer waits.
        wait_fd: Eventfd, non-blocking, on which the peer notifies us.
        hangup_fd: Socket or pidfd that becomes readable when the peer is gone.
    """

    __slots__ = ("_misses", "_notify_fd", "_skip", "_wait_fd", "hangup_fd")

    def __init__(self, notify_fd: int, wait_fd: int, *, hangup_fd: int = -1) -> None:
        self._notify_fd = notify_fd
        self._wait_fd = wait_fd
        self.hangup_fd = hangup_fd
        self._misses = 0
        self._skip = 0

    @classmethod
    def pair(cls) -> tuple[EventChannel, EventChannel]:
        """Return two ends that wake each other."""
        there, back = eventfds.create(2)
        return cls(there, back), cls(*eventfds.duplicate((back, there)))

    @property
    def closed(self) -> bool:
        """Whether `close` has been done."""
        return self._wait_fd < 0

    @property
    def notify_fd(self) -> int:
        """The eventfd on which the peer waits."""
        self.fileno()
        return self._notify_fd

    def fileno(self) -> int:
        """Return the eventfd on which the peer notifies: for select and asyncio.

        It is readable from a notification until `clear`.
        """
        if self._wait_fd < 0:
            raise ClosedError("this event channel is closed; make or connect another")
        return self._wait_fd

    def notify(self) -> None:
        """Wake the peer, or leave word that it was to be woken.  Never blocks.

        A full counter is a peer that was told often and has not looked yet.
        """
        try:
            os.eventfd_write(self.notify_fd, 1)
        except BlockingIOError:
            return

    def clear(self) -> bool:
        """Forget the notifications so far; return whether there were any."""
        try:
            return os.eventfd_read(self.fileno()) > 0
        except BlockingIOError:
            return False

    def wait(
        self,
        timeout: float | None = None,
        *,
        ready: Look | None = None,
        final_check: Look | None = None,
        strategy: Wait = BLOCK,
    ) -> bool:
        """Wait until something is ready.

        Args:
            timeout: Seconds, or None to wait for ever.
            ready: Looks at the ring; without it a notification is awaited.
            final_check: Announces the sleep and looks again.
            strategy: How to wait.

        Returns:
            True when ready, False when the time was over.

        Raises:
            BrokenError: The peer is gone and nothing is ready.
        """
        deadline = deadline_of(timeout)
        look = ready or self.clear
        if look() or (
            self._may_spin(strategy) and self._spin(look, strategy, deadline)
        ):
            return True
        if strategy == BUSY:
            return False
        while not (final_check or look)():
            if self._sleep(deadline, look):
                return True
            if time.monotonic() >= deadline:
                return False
        return True

    def _may_spin(self, strategy: Wait) -> bool:
        if strategy.spin_us <= 0 or self._skip == 0:
            return strategy.spin_us != 0
        self._skip -= 1
        return False

    def _spin(self, look: Look, strategy: Wait, deadline: float) -> bool:
        """Look until something is there, the spin is over or the time is."""
        limit = deadline
        if strategy != BUSY:
            limit = min(deadline, time.monotonic() + strategy.spin_us * 1e-6)
        while True:
            for _ in range(LOOKS):
                if look():
                    self._misses = 0
                    return True
            if strategy == BUSY and self._poll(0, events=False):
                return found_or_gone(look)
            if time.monotonic() >= limit:
                break
        self._missed()
        return False

    def _missed(self) -> None:
        self._misses += 1
        if self._misses >= MISSES:
            self._misses = MISSES - 1
            self._skip = SKIP

    def _sleep(self, deadline: float, look: Look) -> bool:
        """Sleep for a slice at most; return whether something is there then."""
        left = min(SLICE_S, max(0.0, deadline - time.monotonic()))
        found = self._poll(left * 1000)
        if self._wait_fd in found and look != self.clear:
            self.clear()
        return found_or_gone(look) if self.hangup_fd in found else look()

    def _poll(self, timeout_ms: float, *, events: bool = True) -> set[int]:
        """Return which of our descriptors have something to say."""
        poll = select.poll()
        if events:
            poll.register(self.fileno(), select.POLLIN)
        if self.hangup_fd >= 0:
            poll.register(self.hangup_fd, select.POLLIN | select.POLLRDHUP)
        return {fd for fd, _ in poll.poll(timeout_ms)}

    def close(self) -> None:
        """Close both descriptors; again is harmless."""
        fds = {self._notify_fd, self._wait_fd} - {-1}
        self._notify_fd = self._wait_fd = -1
        for fd in fds:
            os.close(fd)

    def __enter__(self) -> EventChannel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_wait_fd", -1) >= 0:
            self.close()

    def __reduce__(self) -> tuple[Callable[..., EventChannel], tuple[object, ...]]:
        """Travel to another process, without ``hangup_fd``: set it there."""
        from multiprocessing.reduction import DupFd

        return rejoin, (DupFd(self.notify_fd), DupFd(self.fileno()))


def rejoin(notify: DupFd, wait: DupFd) -> EventChannel:
    """Make a channel of descriptors that came by pickle."""
    return EventChannel(notify.detach(), wait.detach())


def found_or_gone(look: Look) -> bool:
    """Return True if there is something left to find, or else raise BrokenError."""
    if look():
        return True
    raise BrokenError(
        "the peer is gone (its connection hung up): connect again; what was in"
        " flight is in doubt"
    )


def deadline_of(timeout: float | None) -> float:
    """Return when, on the monotonic clock, ``timeout`` seconds are over."""
    if timeout is None:
        return math.inf
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds or None, not NaN")
    return time.monotonic() + max(0.0, timeout)
