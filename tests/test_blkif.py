"""Blkif codec: what goes in comes out, and what has no right is refused by number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rings import RemoteProtocolError, blkif, blkif_rights

u64, u32, u16 = (st.integers(0, 2**bits - 1) for bits in (64, 32, 16))
byte = st.integers(0, 255)
segment = st.builds(blkif.Segment, u32, byte, byte)
direct = st.builds(
    blkif.Request,
    st.sampled_from([blkif.READ, blkif.WRITE, blkif.WRITE_BARRIER, blkif.FLUSH]),
    u64,
    u64,
    st.lists(segment, max_size=blkif.MAX_SEGMENTS).map(tuple),
    u16,
)
discard = st.builds(blkif.Discard, u64, u64, u64, st.booleans(), u16)


@st.composite
def indirect(draw):
    count = draw(st.integers(1, blkif.MAX_INDIRECT_SEGMENTS))
    pages = -(-count // blkif.SEGMENTS_PER_PAGE)
    grefs = tuple(draw(st.lists(u32, min_size=pages, max_size=pages)))
    operation = draw(st.sampled_from([blkif.READ, blkif.WRITE]))
    return blkif.Indirect(operation, draw(u64), draw(u64), count, grefs, draw(u16))


@settings(max_examples=300, deadline=None)
@given(request=direct | discard | indirect())
def test_a_request_survives_its_slot(request):
    slot = blkif.encode_request(request)
    assert len(slot) == blkif.SLOT_SIZE
    assert blkif.decode_request(slot) == request
    assert blkif.refuse(slot).id == request.id
    assert blkif.refuse(slot).operation == request.operation


@given(ident=u64, operation=byte, status=st.integers(-2, 0))
def test_a_response_survives_and_its_padding_is_zero(ident, operation, status):
    response = blkif.Response(ident, operation, status)
    record = blkif.encode_response(response)
    assert blkif.decode_response(record) == response
    assert record[9] == 0
    assert record[12:] == bytes(4)


@given(status=st.integers(-(2**15), 2**15 - 1).filter(lambda s: not -2 <= s <= 0))
def test_a_status_of_no_meaning_is_the_peers_error(status):
    record = blkif.encode_response(blkif.Response(1, 0, status))
    with pytest.raises(RemoteProtocolError, match=f"status {status}"):
        blkif.decode_response(record)


@settings(max_examples=1000, deadline=None)
@given(slot=st.binary(min_size=112, max_size=112), op=st.integers(0, 8))
def test_any_slot_is_a_bounded_request_or_refused(slot, op):
    """The fuzz rule: nothing but RefusedError, and no extent outside the limits."""
    slot = bytes([op]) + slot[1:]
    try:
        request = blkif.decode_request(slot)
        blkif_rights.check(request, sectors=1000, pages=100)
    except blkif.RefusedError as error:
        blkif.encode_response(blkif.refuse(slot, error.status))
        return
    if isinstance(request, blkif.Request):
        for offset, length in (each.extent for each in request.segments):
            assert 0 < length <= blkif.PAGE
            assert 0 <= offset <= 100 * blkif.PAGE - length
        if request.segments:
            total = sum(each.sectors for each in request.segments)
            assert request.sector + total <= 1000


GOOD = blkif.Segment(0, 0, 7)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (blkif.Request(blkif.READ, 1, 0), "needs a segment"),
        (blkif.Request(blkif.WRITE, 1, 0), "needs a segment"),
        (blkif.Request(blkif.READ, 1, 993, (GOOD,)), "8 sectors from 993"),
        (blkif.Request(blkif.READ, 1, 2**64 - 1, (GOOD,)), "on a device of 1000"),
        (blkif.Request(blkif.READ, 1, 2**55, (GOOD,)), "on a device of 1000"),
        (blkif.Request(blkif.READ, 1, 0, (GOOD._replace(gref=100),)), "gref 100 and"),
        (
            blkif.Request(blkif.READ, 1, 0, (GOOD._replace(last_sect=8),)),
            "within a page",
        ),
        (blkif.Request(blkif.READ, 1, 0, (blkif.Segment(0, 5, 4),)), "within a page"),
        (blkif.Discard(1, 1, 1000), "1000 sectors from 1"),
        (blkif.Discard(1, 2**64 - 1, 2), "on a device of 1000"),
        (blkif.Indirect(0, 1, 0, 1, (100,)), "gref 100"),
    ],
)
def test_what_leaves_the_device_or_the_data_is_refused(request_, message):
    with pytest.raises(blkif.RefusedError, match=message) as caught:
        blkif_rights.check(request_, sectors=1000, pages=100)
    assert caught.value.status == blkif.ERROR


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\x04\x00", blkif.UNSUPPORTED),
        (b"\xff\x00", blkif.UNSUPPORTED),
        (b"\x00\x0c", blkif.ERROR),
        (b"\x00\xff", blkif.ERROR),
        (b"\x06\x06\x01\x00", blkif.ERROR),
        (b"\x06\x03\x01\x00", blkif.ERROR),
        (b"\x06\x00\x00\x00", blkif.ERROR),
        (b"\x06\x00\x01\x10", blkif.ERROR),
        (b"\x06\x00\xff\xff", blkif.ERROR),
    ],
)
def test_a_slot_without_meaning_is_refused_with_the_right_status(head, status):
    with pytest.raises(blkif.RefusedError) as caught:
        blkif.decode_request(head.ljust(blkif.SLOT_SIZE, b"\0"))
    assert caught.value.status == status


def test_a_read_only_device_refuses_every_change():
    limits = {"sectors": 1000, "pages": 100, "read_only": True}
    for allowed in (
        blkif.Request(blkif.READ, 1, 0, (GOOD,)),
        blkif.Request(blkif.FLUSH, 1, 0),
        blkif.Indirect(blkif.READ, 1, 0, 1, (0,)),
    ):
        blkif_rights.check(allowed, **limits)
    for refused in (
        blkif.Request(blkif.WRITE, 1, 0, (GOOD,)),
        blkif.Request(blkif.WRITE_BARRIER, 1, 0),
        blkif.Request(blkif.FLUSH, 1, 0, (GOOD,)),
        blkif.Indirect(blkif.WRITE, 1, 0, 1, (0,)),
        blkif.Discard(1, 0, 1),
    ):
        with pytest.raises(blkif.RefusedError, match="read-only"):
            blkif_rights.check(refused, **limits)


def test_too_much_for_a_slot_is_your_error():
    with pytest.raises(ValueError, match="12 segments and room for 11: use Indirect"):
        blkif.encode_request(blkif.Request(0, 1, 0, (GOOD,) * 12))
    with pytest.raises(ValueError, match="9 pages of segments and room for 8"):
        blkif.encode_request(blkif.Indirect(0, 1, 0, 4096, (0,) * 9))
    with pytest.raises(ValueError, match="112 bytes, not 111"):
        blkif.decode_request(bytes(111))
