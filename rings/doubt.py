"""What went wrong on a session: a refusal, a late answer, what is in doubt."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from . import layout
from .errors import BrokenError
from .handle import OP_NAMES, describe

if TYPE_CHECKING:
    from ._core import Front
    from .rendezvous import Session


class Doubt:
    """Makes the errors of one session's requests."""

    def __init__(self, session: Session, front: Front) -> None:
        self._session = session
        self._front = front

    def late(
        self, op: int, offset: int, length: int, timeout: float | None
    ) -> TimeoutError:
        """Return the error of an answer, or with op 0 a slot, that did not come."""
        what = describe(op, offset, length) if op else "a free slot"
        within = "in time" if timeout is None else f"within {timeout:.3g} s"
        return TimeoutError(
            f"{what}: no answer {within} from {self._where()};"
            f" {len(self._in_flight())} in flight"
        )

    def refused(self, number: int, op: int, offset: int, length: int) -> OSError:
        """Return the device's error, with the rule that was broken if it is ours."""
        rule = self._rule(number, op, offset, length)
        text = os.strerror(number) + (f"; {rule}" if rule else "")
        return OSError(number, text, describe(op, offset, length))

    def _rule(self, number: int, op: int, offset: int, length: int) -> str:
        device = self._session.device
        unit = device.block_size or 1
        if op in (layout.OP_FLUSH, layout.OP_CANCEL):
            return ""
        if number == errno.EINVAL and not length:
            return "ask for more than 0 bytes"
        if number == errno.EINVAL and (offset % unit or length % unit):
            return f"offset and length must be multiples of its block_size, {unit}"
        if number in (errno.ENXIO, errno.ENOSPC) and offset + length > device.size:
            return f"the device has {device.size} bytes"
        if number == errno.EROFS and device.read_only:
            return "the daemon serves it --read-only"
        if number == errno.EOPNOTSUPP and OP_NAMES.get(op) not in device.ops:
            return f"it can {', '.join(device.ops)}"
        return ""

    def elder(self, timeout: float) -> TimeoutError:
        """Return the error of a ring that cannot be replaced yet."""
        return TimeoutError(
            f"the ring was replaced before, and requests in that one are not answered "
            f"within {timeout:.3g} s by {self._where()}; the ring in use stays: wait "
            "for the requests in flight, then resize again"
        )

    def gone(self, error: BrokenError) -> BrokenError:
        """Return the error of a daemon that is gone, with all that is in flight."""
        lost = self._in_flight()
        doubt = f"; in doubt: {', '.join(lost[:8])}" if lost else ""
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        return BrokenError(f"{self._where()}: {error}{doubt}{more}", lost)

    def _in_flight(self) -> tuple[str, ...]:
        return tuple(describe(*call[1:]) for call in self._front.in_flight())

    def _where(self) -> str:
        session = self._session
        return (
            f"{session.device.name!r} on {session.address}"
            f" (daemon pid {session.peer.pid})"
        )
