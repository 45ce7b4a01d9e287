import fcntl
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings import (
    LayoutError,
    layout,
    memfd,
)
from rings.header import FIELDS, new_header
from rings.memory import Region

HANG_S = 30
SIZE = 3 * layout.PAGE


@pytest.fixture
def region():
    with Region.create(SIZE, generation=3) as region:
        yield region


def sealed(content=b"", *, size=SIZE, seals=memfd.FIXED_SIZE, flags=0):
    """Return a memfd as a peer might make it."""
    fd = os.memfd_create("peer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    if content:
        os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_both_see_the_same_bytes(region):
    with Region.attach(region.fd, size=SIZE, kind=layout.KIND_PLAIN) as other:
        assert other.fd != region.fd
        other.buffer[layout.PAGE] = 9
        assert region.buffer[layout.PAGE] == 9
        assert (other.kind, other.size, other.generation) == (0, SIZE, 3)
        assert other.writable


def test_attach_changes_no_byte(region):
    before = bytes(region.buffer)
    for writable in (True, False):
        Region.attach(region.fd, writable=writable).close()
    for wrong in ({"size": SIZE + 1}, {"kind": 4}):
        with pytest.raises(LayoutError):
            Region.attach(region.fd, **wrong)
    assert bytes(region.buffer) == before


def test_an_attached_region_outlives_its_creators():
    region = Region.create(SIZE)
    region.buffer[5000] = 1
    with Region.attach(region.fd) as other:
        region.close()
        assert other.buffer[5000] == 1


def test_a_read_only_mapping(region):
    with Region.attach(region.fd, writable=False) as other:
        assert other.buffer.readonly
        assert not other.writable
        with pytest.raises(TypeError):
            other.buffer[5000] = 1
        view = other.view(0, 16)
        assert memoryview(view).readonly


GOOD = new_header(SIZE, kind=2, generation=0)


def pipe():
    reader, writer = os.pipe()
    os.close(writer)
    return reader


REFUSED = {
    "a file": lambda: os.open(__file__, os.O_RDONLY),
    "a pipe": pipe,
    "no seals": lambda: sealed(FIELDS.pack(*GOOD), seals=0),
    "may shrink": lambda: sealed(FIELDS.pack(*GOOD), seals=fcntl.F_SEAL_GROW),
    "may grow": lambda: sealed(FIELDS.pack(*GOOD), seals=fcntl.F_SEAL_SHRINK),
    "empty": lambda: sealed(size=0),
    "short": lambda: sealed(size=layout.PAGE - 1),
    "zeros": sealed,
    "huge": lambda: sealed(size=1 << 61),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_region(what):
    fd = REFUSED[what]()
    with pytest.raises(LayoutError, match=r"Region\.create|is no region"):
        Region.attach(fd)
    os.close(fd)


def test_a_closed_descriptor_is_an_os_error():
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Region.attach(fd)


def test_huge_pages_are_refused():
    try:
        fd = sealed(size=0, flags=os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"no huge pages here: {error}")
    with pytest.raises(LayoutError, match="huge"):
        Region.attach(fd)
    os.close(fd)


def test_seals_are_looked_at_before_the_size(monkeypatch):
    looks = []
    fd = sealed(seals=0)
    with monkeypatch.context() as patch:
        for name in ("fstat", "pread", "dup"):
            patch.setattr(os, name, lambda *_: looks.append(1))
        with pytest.raises(LayoutError, match="seals"):
            Region.attach(fd)
    assert not looks
    os.close(fd)


MISMATCHES = {
    "magic": 1, "version": 2, "byte_order": 0x04030201, "size": SIZE + 1, "kind": 3
}  # fmt: skip


@pytest.mark.parametrize("field", MISMATCHES)
def test_the_error_says_what_was_found_and_expected(field):
    found = MISMATCHES[field]
    fd = sealed(FIELDS.pack(*GOOD._replace(**{field: found})))
    with pytest.raises(LayoutError) as caught:
        Region.attach(fd, kind=2, size=SIZE)
    os.close(fd)
    assert f"{found:#x}" in str(caught.value)
    assert f"{getattr(GOOD, field):#x}" in str(caught.value)
    assert field.replace("_", " ") in str(caught.value)


def words(value):
    """Numbers near the right one, and any others."""
    near = st.sampled_from([value, value + 1, max(0, value - 1), 0, SIZE, layout.MAGIC])
    return near | st.integers(0, 2**64 - 1)


headers = st.binary(max_size=layout.PAGE) | st.tuples(*map(words, GOOD)).map(
    lambda fields: FIELDS.pack(
        *(f & (0xFFFFFFFF if i in (1, 2, 5, 6) else 2**64 - 1)
          for i, f in enumerate(fields))
    )
)  # fmt: skip


@given(
    content=headers,
    size=st.sampled_from([0, 1, 48, layout.PAGE, SIZE, SIZE + 1, 1 << 40]),
    expected=st.sampled_from([None, SIZE, 0]),
    kind=st.sampled_from([None, 2, 0]),
)
def test_any_header_is_attached_or_a_layout_error(content, size, expected, kind):
    fd = sealed(content[:size], size=size)
    try:
        with Region.attach(fd, size=expected, kind=kind) as region:
            assert region.size == size
            assert bytes(region.buffer[: len(content)]) == content
    except LayoutError:
        pass
    finally:
        os.close(fd)
