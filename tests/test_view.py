import ctypes
import gc
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings import (
    BusyError,
    ClosedError,
)
from rings._core import View


def test_a_view_counts_every_kind_of_export():
    view = View(bytearray(100), 10, 50)
    assert view.exports == 0
    alive = [
        memoryview(view), np.frombuffer(view, "u1"), np.asarray(view),
        (ctypes.c_char * 50).from_buffer(view),
    ]  # fmt: skip
    assert view.exports == 4
    alive.append(alive[0][1:3])
    alive[0].release()
    assert view.exports == 4
    with pytest.raises(BusyError, match=r"4 view\(s\)"):
        view.release()
    alive.clear()
    gc.collect()
    assert view.exports == 0
    view.release()
    view.release()
    assert view.released
    with pytest.raises(ClosedError):
        memoryview(view)


def test_a_memoryview_alone_does_not_notice_an_array():
    """The control: why there is a View at all."""
    view = memoryview(bytearray(100))
    array = np.frombuffer(view, "u1")
    view.release()
    assert array[0] == 0


@given(size=st.integers(0, 40), offset=st.integers(-2, 50), length=st.integers(-2, 50))
def test_a_view_lies_within_its_buffer(size, offset, length):
    base = bytes(range(size))
    if min(offset, length) >= 0 and offset + length <= size:
        view = View(base, offset, length, readonly=True)
        assert bytes(view) == base[offset : offset + length]
    else:
        with pytest.raises(ValueError, match=r"outside|negative"):
            View(base, offset, length, readonly=True)


def test_a_view_of_the_last_byte_of_nothing_overflows_no_sum():
    with pytest.raises(ValueError, match="outside"):
        View(b"", sys.maxsize, sys.maxsize, True)


def test_a_view_does_not_make_bytes_writable():
    with pytest.raises(BufferError):
        View(b"constant", 0, 4)
    view = View(b"constant", 0, 4, readonly=True)
    assert memoryview(view).readonly
    assert not np.frombuffer(view, "u1").flags.writeable
    with pytest.raises(TypeError, match="not writable"):
        ctypes.c_char.from_buffer(view)
    assert view.exports == 0


def test_a_view_keeps_count_when_the_base_refuses():
    base = bytearray(10)
    view = View(base, 5, 5)
    base.clear()
    for _ in range(3):
        with pytest.raises(ValueError, match="outside"):
            memoryview(view)
    assert view.exports == 0


def test_views_leak_no_reference():
    base = bytearray(10)
    before = sys.getrefcount(base)
    for _ in range(100):
        view = View(base, 0, 10)
        memoryview(view).release()
        view.release()
        with pytest.raises(ValueError, match="outside"):
            View(base, 0, 11)
    del view
    assert sys.getrefcount(base) == before
    base.append(1)  # BufferError if an export were still counted
