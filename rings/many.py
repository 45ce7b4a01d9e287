"""Many blocks of one length, moved by one call of the front."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from . import layout
from .depth import AUTO, FIXED
from .errors import BrokenError
from .grants import Grant

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._core import Front
    from .doubt import Doubt

MAX_TRANSFER: Final = 1 << 20


class Many:
    """Moves many blocks over one front.

    Attributes:
        limited: Whether the front has a limit to go by when no depth is given.
    """

    def __init__(
        self,
        front: Front,
        wait_credit: Callable[[float | None], None],
        doubt: Doubt,
    ) -> None:
        self._front = front
        self._wait_credit = wait_credit
        self._doubt = doubt
        self.limited = False

    def all(
        self, op: int, offsets: Buffer, grant: Grant, length: int,
        depth: int | str | None, timeout: float | None,
    ) -> int:  # fmt: skip
        """Move blocks into, or out of, a grant that is used round and round."""
        if not 1 <= length <= MAX_TRANSFER:
            raise ValueError(f"length must be 1 to {MAX_TRANSFER} bytes, not {length}")
        if grant.length < length:
            raise ValueError(f"{grant!r} is smaller than one block of {length} bytes")
        late = None if timeout is None else monotonic() + timeout
        window = grant.length // length
        return self.move(op, offsets, grant, 0, length, window, late, depth)

    def move(
        self, op: int, offsets: Buffer, grant: Grant, at: int, length: int,
        window: int, late: float | None, depth: int | str | None = None,
    ) -> int:  # fmt: skip
        """Move many blocks of one length; block ``i`` in buffer slot ``i % window``."""
        view = memoryview(offsets).cast("B").cast("Q")
        deep = self._deep(depth)
        done = 0
        try:
            while done < len(view):
                left = None if late is None else max(0.0, late - monotonic())
                start = at if window < len(view) else at + done * length
                done += self._front.many(
                    grant.memory, op, view[done:], length, grant.gref, grant.generation,
                    start, window, deep, left,
                )  # fmt: skip
                if done < len(view):
                    self._wait_credit(late)
        except TimeoutError:
            raise self._doubt.late(op, view[done], length, None) from None
        except BrokenError as error:
            raise self._doubt.gone(error) from None
        return done

    def _deep(self, depth: int | str | None) -> int:
        if depth is None:
            depth = AUTO if self.limited else FIXED
        if depth == AUTO:
            return layout.MAX_SLOTS  # the front's own limit bounds it
        if isinstance(depth, int) and depth >= 1:
            return depth
        raise ValueError(f'depth must be "auto", None or at least 1, not {depth!r}')
