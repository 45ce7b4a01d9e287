"""What a request in flight looks like from outside: `Handle`."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from . import layout
from ._core import Answer

if TYPE_CHECKING:
    from .requester import Requester

OP_NAMES: Final = {
    layout.OP_ECHO: "echo",
    layout.OP_READ: "read",
    layout.OP_WRITE: "write",
    layout.OP_FLUSH: "flush",
    layout.OP_DISCARD: "discard",
    layout.OP_WRITE_ZEROES: "write-zeroes",
    layout.OP_CANCEL: "cancel",
}


class Handle(Answer):
    """One submitted request; it pins its grants until the answer has come.

    Attributes:
        op: One of ``layout.OP_*``.
        offset: Bytes on the device.
        length: Bytes asked for.
        id: The request's number in the ring.
        answered: Whether the answer has come.
        value: The answer: bytes moved, or minus an errno; None before it has come.
    """

    __slots__ = ()
    _requester: Requester

    def done(self) -> bool:
        """Whether the answer has come; never waits."""
        return self.answered or self._requester.look(self)

    def result(self, timeout: float | None = None) -> int:
        """Wait for the answer.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Bytes moved; 0 for operations that move none.

        Raises:
            OSError: The device's own answer.  ``ECANCELED`` after `cancel`.
            TimeoutError: Not answered in time; the request is still in flight and
                its buffer stays pinned: wait again, or `cancel`.
            BrokenError: The daemon is gone; whether it was done is not known.
        """
        value = self._requester.wait(self, timeout)
        if value < 0:
            raise self._requester.refused(-value, self.op, self.offset, self.length)
        return value

    def cancel(self, timeout: float | None = None) -> str:
        """Ask the daemon to stop the operation, and wait for what it says of it.

        Returns:
            ``cancelled`` when it was stopped, ``done`` when it had been answered,
            ``running`` when it can no longer be stopped and will be answered soon.
        """
        if self.answered:
            return "done"
        try:
            self._requester.cancel(self, timeout)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return "done"
            if error.errno == errno.EALREADY:
                return "running"
            raise
        with suppress(OSError):
            self.result(timeout)
        return "cancelled" if self.value == -errno.ECANCELED else "done"

    def __str__(self) -> str:
        return describe(self.op, self.offset, self.length)

    def __repr__(self) -> str:
        state = f"answered {self.value}" if self.answered else "in flight"
        return f"<Handle {self}, {state}>"


def describe(op: int, offset: int, length: int) -> str:
    """Say what a request asks for."""
    name = OP_NAMES.get(op, f"op {op}")
    return name if op == layout.OP_FLUSH else f"{name} of {length} bytes at {offset}"
