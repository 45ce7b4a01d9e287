"""Typed messages: numpy structured arrays through a ring, without a loop.

    ring = records.create(np.dtype([("time", "u8"), ("price", "f8")]), slots=4096)
    with ring.producer() as producer:
        producer.put_many(array)                    # there: consumer.get_many()

A slot is one record, so a batch is one copy each way; `fill` and `read` do without
even that.  A fingerprint of the dtype lies in the ring's header, and attaching
with another dtype is a LayoutError.

**In place.**  `RecordProducer.fill` and `RecordConsumer.read` call a function with
an array over the slots themselves.  The array must not outlive the call: a kept
one makes them raise BusyError, and its slots stay as they are until it is gone:
nothing was published, nothing was released.

This module needs numpy; nothing in the library imports it.
"""

from __future__ import annotations

import hashlib
import struct
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import layout, spsc
from ._core import SpscView
from .errors import LayoutError

__all__ = [
    "RecordConsumer",
    "RecordProducer",
    "RecordRing",
    "attach",
    "create",
    "fingerprint",
]

Array = npt.NDArray[Any]
Result = TypeVar("Result")


def fingerprint(dtype: npt.DTypeLike) -> int:
    """Return a number that two dtypes share only if they mean the same bytes.

    Raises:
        ValueError: The dtype holds Python objects, which cannot be shared, or is an
            array by itself.
    """
    full = np.dtype(dtype)
    if full.subdtype is not None:
        named = f"np.dtype([('data', {full.base.str!r}, {full.shape})])"
        raise ValueError(f"{full} is an array; make it a field of a record: {named}")
    if full.hasobject:
        raise ValueError(f"{full} holds Python objects; use numbers and fixed bytes")
    if full.itemsize == 0:
        raise ValueError(f"{full} has no bytes; give it at least one field")
    text = repr((np.lib.format.dtype_to_descr(full), full.itemsize))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1


def create(dtype: npt.DTypeLike, *, slots: int = 1024, start: int = 0) -> RecordRing:
    """Make a ring whose messages are records of ``dtype``."""
    full = np.dtype(dtype)
    mark = fingerprint(full)
    size = full.itemsize
    ring = spsc.create(slots=slots, slot_size=size, start=start, dtype=mark)
    return RecordRing(ring, full)


def attach(
    dtype: npt.DTypeLike, fd: int, size: int, data_fd: int, space_fd: int
) -> RecordRing:
    """Map a ring from the numbers of `spsc.Ring.handle`.

    Raises:
        LayoutError: Its records are of another dtype.
    """
    ring = spsc.attach(fd, size, data_fd, space_fd)
    try:
        return RecordRing(ring, np.dtype(dtype))
    except BaseException:
        ring.close()
        raise


class RecordRing:
    """An `spsc.Ring` and the dtype of its messages; pickles like the ring.

    Attributes:
        ring: The ring.
        dtype: What one message is.
    """

    __slots__ = ("dtype", "ring")

    def __init__(self, ring: spsc.Ring, dtype: np.dtype[Any]) -> None:
        """Give a ring its type back.

        Raises:
            LayoutError: Its records are of another dtype.
        """
        found = struct.unpack_from("=Q", ring.region.buffer, layout.SPSC_DTYPE)[0]
        if found != fingerprint(dtype):
            raise LayoutError(
                f"the ring's records are not {dtype} (fingerprint {found:#x}, expected"
                f" {fingerprint(dtype):#x}): use the dtype that it was created with"
            )
        self.ring = ring
        self.dtype = dtype

    def producer(self, *, policy: str = "block", wait: str = "block") -> RecordProducer:
        """Take the end that puts; see `spsc.Ring.producer`."""
        return RecordProducer(self.ring.producer(policy=policy, wait=wait), self.dtype)

    def consumer(self, *, wait: str = "block") -> RecordConsumer:
        """Take the end that gets; see `spsc.Ring.consumer`."""
        return RecordConsumer(self.ring.consumer(wait=wait), self.dtype)

    def close(self) -> None:
        """Let go of memory and descriptors."""
        self.ring.close()

    def __enter__(self) -> RecordRing:
        self.ring.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[RecordRing], tuple[object, ...]]:
        return RecordRing, (self.ring, self.dtype)


class RecordProducer:
    """The end that puts arrays.

    Attributes:
        end: The untyped end, for all else that it can do.
    """

    __slots__ = ("dtype", "end")

    def __init__(self, end: spsc.Producer, dtype: np.dtype[Any]) -> None:
        self.end = end
        self.dtype = dtype

    def put_many(self, array: Array, timeout: float | None = 0) -> int:
        """Store the first records of an array; return how many there was room for.

        Raises:
            TypeError: The array is of another dtype.
        """
        if getattr(array, "dtype", None) != self.dtype:
            given = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"the ring takes arrays of {self.dtype}, not {given}")
        return self.end.put_many(np.ascontiguousarray(array).view("u1").data, timeout)

    def fill(
        self,
        function: Callable[[Array], int | None],
        n: int = 1,
        timeout: float | None = None,
    ) -> int:
        """Let a function write up to ``n`` records where they lie, then publish them.

        Args:
            function: Gets the array; returns how many it filled, None for all.
            n: Records wanted; fewer come where the ring wraps.
            timeout: Seconds to wait for room, None for ever.

        Returns:
            How many were published.

        Raises:
            BusyError: The function kept the array.
        """
        view = self.end.claim(n, timeout)
        count = _call(function, view, self.dtype)
        try:
            view.publish(count)
        except (TypeError, ValueError, OverflowError):
            view.abandon()
            raise
        return view.messages if count is None else count

    def close(self) -> None:
        """Give the end back."""
        self.end.close()

    def __enter__(self) -> RecordProducer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RecordConsumer:
    """The end that gets arrays.

    Attributes:
        end: The untyped end, for all else that it can do.
    """

    __slots__ = ("dtype", "end")

    def __init__(self, end: spsc.Consumer, dtype: np.dtype[Any]) -> None:
        self.end = end
        self.dtype = dtype

    def get_many(
        self,
        max: int | None = None,
        timeout: float | None = 0,
        *,
        out: Array | None = None,
    ) -> Array:
        """Take what is there as an array.

        Args:
            max: Records at most.
            timeout: Seconds to wait for a first record, None for ever.
            out: Where to copy them; the result is then its first part.

        Raises:
            TypeError: ``out`` is of another dtype or not contiguous.
            ValueError: ``max`` is negative.
        """
        if max is not None and max < 0:
            raise ValueError(f"max must be 0 or more, not {max}")
        if out is None:
            room = self.end.statistics()["units"] if timeout != 0 else self.end.depth
            out = np.empty(room if max is None else min(room, max), self.dtype)
        elif out.dtype != self.dtype or not out.flags.c_contiguous:
            raise TypeError(f"out must be a contiguous array of {self.dtype}")
        out = out if max is None else out[:max]
        if out.size == 0:
            return out
        size = self.end.get_into(out.reshape(-1).view("u1").data, timeout)
        return out.reshape(-1)[: size // self.dtype.itemsize]

    def read(
        self,
        function: Callable[[Array], Result],
        n: int = 1,
        timeout: float | None = None,
    ) -> Result:
        """Let a function read up to ``n`` records where they lie, then release them.

        An exception out of the function leaves them in the ring.

        Raises:
            BusyError: The function kept the array.
        """
        view = self.end.peek(n, timeout)
        result = _call(function, view, self.dtype)
        view.release()
        return result

    def close(self) -> None:
        """Give the end back."""
        self.end.close()

    def __enter__(self) -> RecordConsumer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _call(
    function: Callable[[Array], Result], view: SpscView, dtype: np.dtype[Any]
) -> Result:
    """Call with an array over the view; after an error nothing holds the slots.

    The locals of the function's frames, which a traceback keeps, are cleared: the
    array is among them.
    """
    try:
        return function(np.frombuffer(memoryview(view), dtype))
    except BaseException as error:
        if error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__.tb_next)
        view.abandon()
        raise
