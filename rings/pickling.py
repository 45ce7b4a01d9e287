"""Objects as bytes: pickle protocol 5, big buffers beside the pickle.

Numpy arrays and whatever else offers its memory to pickle travels out of band:
`encode` returns views of that memory, which the queue copies once, into blocks.
What `multiprocessing` knows to send (connections, sockets) is sent by the reducers
that are registered there, if it is in use at all.

Making a pickler costs three times what pickling a small object does, so picklers
are kept; one that fails is thrown away with all it held.

On 3.12 a keyword argument to a function of `_pickle` breaks the process at its end
if the first to use it is an own-GIL interpreter: none is used there.
"""

from __future__ import annotations

import copyreg
import sys
from importlib import import_module
from io import BytesIO
from pickle import PickleBuffer, Pickler, dumps, loads
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

    from ._core import QueueLease

    Reducers = dict[type, Callable[[Any], Any]]

PROTOCOL: Final = 5
OUT_OF_BAND: Final = 1024  # bytes; smaller buffers stay in the pickle
PART_UNIT: Final = 64
NO_REDUCERS: Final[Reducers] = {}


class Encoder:
    """A pickler, what it writes to, and the buffers it was told to leave out."""

    __slots__ = ("buffers", "file", "known", "pickler")

    def __init__(self) -> None:
        self.file = BytesIO()
        self.buffers: list[memoryview] = []
        self.pickler = Pickler(self.file, PROTOCOL, True, self.leave_out)
        self.known = (0, 0)

    def leave_out(self, buffer: PickleBuffer) -> bool:
        """Take a buffer of some size; True lets the pickler write it after all."""
        view = memoryview(buffer)
        if view.nbytes < OUT_OF_BAND:
            return True
        self.buffers.append(buffer.raw())
        return False

    def dump(self, obj: object) -> bytes | tuple[bytes, list[memoryview]]:
        """Pickle one object, knowing nothing of those before."""
        self.learn_reducers()
        self.pickler.dump(obj)
        self.pickler.clear_memo()
        pickle = self.file.getvalue()
        self.file.seek(0)
        self.file.truncate()
        if not self.buffers:
            return pickle
        buffers = self.buffers[:]
        self.buffers.clear()
        return pickle, buffers

    def learn_reducers(self) -> None:
        """Use what was registered with `copyreg` and `multiprocessing` by now."""
        reduction = sys.modules.get("multiprocessing.reduction")
        extra = reduction.ForkingPickler._extra_reducers if reduction else NO_REDUCERS
        known = (len(copyreg.dispatch_table), len(extra))
        if known != self.known:
            self.pickler.dispatch_table = copyreg.dispatch_table | extra
            self.known = known


idle: list[Encoder] = []


def encode(obj: object) -> Buffer | tuple[Buffer, list[memoryview]]:
    """Return an object's pickle, and the buffers that belong to it if there are any."""
    if type(obj) is bytearray:
        obj = PickleBuffer(obj)
    try:
        encoder = idle.pop()
    except IndexError:
        encoder = Encoder()
    encoded = encoder.dump(obj)
    idle.append(encoder)
    return encoded


def dump_plain(obj: object) -> bytes:
    """Pickle an object that has no say in how that is done."""
    return dumps(obj, PROTOCOL)


def decode(lease: QueueLease, views: bool) -> object:
    """Return the object of a pickle that came with buffers.

    Args:
        lease: The message: a table of lengths, the pickle, the buffers.
        views: Let the object use the blocks themselves; they are given back when
            nothing refers to them any more.  Else it gets copies.
    """
    whole = memoryview(lease)
    at = round_up(8 * lease.parts)
    parts = []
    for entry in whole[: 8 * lease.parts].cast("Q"):
        length = entry >> 1
        part = whole[at : at + length]
        parts.append(part.toreadonly() if entry & 1 else part)
        at = round_up(at + length)
    pickle, *buffers = parts
    return loads_beside(pickle, buffers if views else [*map(copy_of, buffers)])


def loads_beside(pickle: Buffer, buffers: Sequence[Buffer]) -> object:
    """Unpickle with buffers that are not in the pickle."""
    if sys.version_info[:2] == (3, 12) and not is_main_interpreter():
        from pickle import _Unpickler  # type: ignore[attr-defined]

        return _Unpickler(BytesIO(pickle), buffers=buffers).load()
    return loads(pickle, buffers=buffers)


def is_main_interpreter() -> bool:
    """Return whether this is the one the process began with; on 3.12 only."""
    interpreters = import_module("_xxsubinterpreters")
    return bool(interpreters.get_current() == interpreters.get_main())


def copy_of(part: memoryview) -> bytes | bytearray:
    """Return the bytes of a buffer, as writable as it was."""
    return bytes(part) if part.readonly else bytearray(part)


def round_up(at: int) -> int:
    """Return where the next part begins."""
    return -(-at // PART_UNIT) * PART_UNIT


CODEC: Final = (dump_plain, encode, loads, decode)
