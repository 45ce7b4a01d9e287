import ctypes
import gc
import struct
import threading
from dataclasses import FrozenInstanceError
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from rings import (
    BusyError,
    ClosedError,
    LayoutError,
    LocalProtocolError,
    RegionMemoryError,
    layout,
)
from rings.grants import Grant, GrantTable, next_generation
from rings.memory import Region
from rings.pages import FreePages
from rings.pool import BufferPool

PAGE = layout.PAGE
PAGES = 16
GRANTS = 8
GEOMETRY = layout.split_geometry(slots=8, grants=GRANTS, data_size=PAGES * PAGE)
FIRST = GEOMETRY.data_offset


@pytest.fixture
def region():
    with Region.create(GEOMETRY.size, kind=layout.KIND_SPLIT) as region:
        yield region


@pytest.fixture
def table(region):
    return GrantTable(region, GEOMETRY)


@pytest.fixture
def pool(region, table):
    return BufferPool(region, GEOMETRY, table)


def entry(region, gref):
    """Read an entry as a backend would, by the offsets of the layout."""
    at = GEOMETRY.grants_offset + gref * layout.GRANT_SIZE
    raw = bytes(region.buffer[at : at + layout.GRANT_SIZE])
    return {
        "offset": struct.unpack_from("<Q", raw, layout.GRANT_OFFSET)[0],
        "length": struct.unpack_from("<Q", raw, layout.GRANT_LENGTH)[0],
        "generation": struct.unpack_from("<I", raw, layout.GRANT_GENERATION)[0],
        "rights": struct.unpack_from("<I", raw, layout.GRANT_RIGHTS)[0],
        "reserved": struct.unpack_from("<Q", raw, layout.GRANT_RESERVED)[0],
    }


# -- the table ------------------------------------------------------------------


def test_a_grant_is_an_entry_of_the_table(region, table):
    grant = table.permit(FIRST + 10, 100, rights=2)
    assert entry(region, grant.gref) == {
        "offset": FIRST + 10, "length": 100, "generation": 1, "rights": 2,
        "reserved": 0,
    }  # fmt: skip
    grant.revoke()
    assert entry(region, grant.gref)["rights"] == 0
    assert (grant.rights, grant.generation) == (0, 1)


def test_rights_are_written_last_and_cleared_alone(region, table, monkeypatch):
    from rings import grants

    writes = []

    class Spy:
        def __init__(self, name, words):
            self.name, self.words = name, words

        def pack_into(self, buffer, at, *values):
            writes.append((self.name, values))
            self.words.pack_into(buffer, at, *values)

    monkeypatch.setattr(grants, "ENTRY", Spy("entry", grants.ENTRY))
    monkeypatch.setattr(grants, "RIGHTS", Spy("rights", grants.RIGHTS))
    table.permit(FIRST, 8, rights=3).revoke()
    assert writes == [
        ("entry", (FIRST, 8, 1)), ("rights", (3,)), ("rights", (0,))
    ]  # fmt: skip


def test_a_used_entry_comes_back_with_the_next_generation(table):
    seen = set()
    for generation in range(1, 5):
        grant = table.permit(FIRST, 8, rights=1)
        assert grant.generation == generation
        seen.add(grant.gref)
        grant.revoke()
    assert len(seen) == 1


def test_generations_wrap_to_one_and_are_never_zero(region, table):
    assert next_generation(0) == 1
    assert next_generation(2**32 - 2) == 2**32 - 1
    assert next_generation(2**32 - 1) == 1
    table.permit(FIRST, 8, rights=1).revoke()
    table._generations[0] = 2**32 - 2
    found = []
    for _ in range(3):
        with table.permit(FIRST, 8, rights=1) as grant:
            found.append(entry(region, grant.gref)["generation"])
    assert found == [2**32 - 1, 1, 2]


def test_what_the_peer_writes_into_the_table_is_not_believed(region, table):
    grant = table.permit(FIRST, 8, rights=1)
    size = GRANTS * layout.GRANT_SIZE
    region.buffer[GEOMETRY.grants_offset :][:size] = b"\xff" * size
    assert (grant.offset, grant.length, grant.generation) == (FIRST, 8, 1)
    grant.revoke()
    again = table.permit(FIRST, 8, rights=1)
    assert entry(region, again.gref)["generation"] == 2


BAD = {
    "no bytes": (FIRST, 0, 1),
    "fewer than none": (FIRST, -1, 1),
    "the ring": (GEOMETRY.ring_offset, 8, 1),
    "the table": (GEOMETRY.grants_offset, 8, 1),
    "a byte before": (FIRST - 1, 8, 1),
    "a byte beyond": (FIRST, PAGES * PAGE + 1, 1),
    "the end": (GEOMETRY.size, 1, 1),
    "no rights": (FIRST, 8, 0),
    "other rights": (FIRST, 8, 4),
}


@pytest.mark.parametrize("what", BAD)
def test_impossible_grants(region, table, what):
    offset, length, rights = BAD[what]
    before = bytes(region.buffer)
    with pytest.raises(ValueError, match=r"data area|rights must be"):
        table.permit(offset, length, rights=rights)
    assert bytes(region.buffer) == before
    assert table.free == GRANTS


def test_a_full_table_says_what_to_raise(table):
    grants = [table.permit(FIRST, 8, rights=1) for _ in range(GRANTS)]
    assert {grant.gref for grant in grants} == set(range(GRANTS))
    assert table.free == 0
    with pytest.raises(RegionMemoryError, match="grants="):
        table.permit(FIRST, 8, rights=1)
    grants[3].revoke()
    assert table.permit(FIRST, 8, rights=1).gref == 3


def test_the_geometry_must_be_the_regions():
    with Region.create(PAGE) as region, pytest.raises(LayoutError, match="geometry"):
        GrantTable(region, GEOMETRY)


def test_a_reader_cannot_grant(region):
    with (
        Region.attach(region.fd, writable=False) as reader,
        pytest.raises(LocalProtocolError, match="for reading"),
    ):
        GrantTable(reader, GEOMETRY)


def test_a_closed_region_grants_nothing():
    region = Region.create(GEOMETRY.size)
    table = GrantTable(region, GEOMETRY)
    region.close()
    with pytest.raises(ClosedError):
        table.permit(FIRST, 8, rights=1)
    assert table.free == GRANTS


# -- revoking -------------------------------------------------------------------


def test_a_grant_in_flight_is_not_revoked(region, table):
    grant = table.permit(FIRST, 8, rights=1)
    grant.pin()
    grant.pin()
    with pytest.raises(BusyError, match=r"pinned 2 time\(s\)"):
        grant.revoke()
    assert entry(region, grant.gref)["rights"] == 1
    grant.unpin()
    with pytest.raises(BusyError):
        grant.revoke()
    grant.unpin()
    grant.revoke()
    grant.revoke()
    assert "revoked" in repr(grant)


def test_pins_are_counted_and_never_below_none(table):
    grant = table.permit(FIRST, 8, rights=1)
    with pytest.raises(LocalProtocolError, match="not pinned"):
        grant.unpin()
    grant.revoke()
    with pytest.raises(ClosedError):
        grant.pin()
    with pytest.raises(ClosedError):
        grant.view()


USES = {
    "view": lambda grant: grant.view(),
    "slice": lambda grant: grant.view()[1:2],
    "array": lambda grant: np.frombuffer(grant.view(), "u1"),
    "array after its view": lambda grant: released(grant.view()),
    "ctypes": lambda grant: ctypes.c_char.from_buffer(grant.view()),
}


def released(view):
    array = np.frombuffer(view, "u1")
    view.release()
    return array


@pytest.mark.parametrize("how", USES)
def test_bytes_in_use_are_not_revoked(region, pool, how):
    grant = pool.alloc(PAGE)
    used = USES[how](grant)
    assert grant.views == 1
    for end in (grant.revoke, lambda: pool.free(grant)):
        with pytest.raises(BusyError, match="still in use"):
            end()
    assert entry(region, grant.gref)["rights"] == 3
    del used
    gc.collect()
    pool.free(grant)
    assert grant.views == 0


def test_the_view_is_the_grants_bytes(region, table):
    grant = table.permit(FIRST + 5, 3, rights=1)
    grant.view()[:] = b"abc"
    assert bytes(region.buffer[FIRST + 4 : FIRST + 9]) == b"\0abc\0"


def test_grants_do_not_keep_their_region_open():
    region = Region.create(GEOMETRY.size)
    pool = BufferPool(region, GEOMETRY, GrantTable(region, GEOMETRY))
    grant = pool.alloc(PAGE)
    view = grant.view()
    with pytest.raises(BusyError, match="grants"):
        region.close()
    view.release()
    region.close()
    grant.revoke()


# -- the pool -------------------------------------------------------------------


def test_a_buffer_lies_on_pages_of_its_own(pool):
    sizes = [1, PAGE, PAGE + 1, 3 * PAGE]
    grants = [pool.alloc(size, rights=2) for size in sizes]
    assert [grant.length for grant in grants] == sizes
    assert all((grant.offset - FIRST) % PAGE == 0 for grant in grants)
    assert [(grant.offset - FIRST) // PAGE for grant in grants] == [0, 1, 2, 4]
    assert {grant.rights for grant in grants} == {2}


def test_the_block_frees_it(pool):
    with pool.alloc(PAGE) as grant:
        assert isinstance(grant, Grant)
        assert pool.statistics().used == PAGE
    assert pool.statistics().used == 0
    assert grant.rights == 0


def test_a_block_that_keeps_a_view_is_told(pool):
    kept = []
    grant = pool.alloc(PAGE)
    with pytest.raises(BusyError), grant:
        kept.append(grant.view())
    kept.clear()
    pool.free(grant)


def test_a_block_that_fails_in_flight_gives_its_pages_back_later(pool):
    grant = pool.alloc(PAGES * PAGE)
    grant.pin()
    with pytest.raises(TimeoutError), grant:
        raise TimeoutError
    assert pool.try_alloc(PAGE) is None
    grant.unpin()
    pool.alloc(PAGES * PAGE)


def test_abandoned_grants_return_to_a_full_table_too(pool):
    grants = [pool.alloc(PAGE) for _ in range(GRANTS)]
    grants[0].pin()
    with pytest.raises(TimeoutError), grants[0]:
        raise TimeoutError
    assert pool.try_alloc(PAGE) is None
    grants[0].unpin()
    assert pool.try_alloc(PAGE) is not None


def test_short_of_pages_says_how_many_there_are(pool):
    grants = [pool.alloc(PAGE * 4) for _ in range(4)]
    pool.free(grants[0])
    pool.free(grants[2])
    with pytest.raises(RegionMemoryError) as caught:
        pool.alloc(5 * PAGE)
    message = str(caught.value)
    assert f"{5 * PAGE} bytes" in message
    assert f"{4 * PAGE} bytes of {8 * PAGE} free" in message
    assert "data_size=" in message
    assert pool.try_alloc(5 * PAGE) is None


def test_short_of_grants_says_so(pool):
    for _ in range(GRANTS):
        pool.alloc(PAGE)
    with pytest.raises(RegionMemoryError, match="grants="):
        pool.alloc(PAGE)
    assert pool.statistics().used == GRANTS * PAGE


@pytest.mark.parametrize("size", [0, -1])
def test_impossible_sizes(pool, size):
    for alloc in (pool.alloc, pool.try_alloc):
        with pytest.raises(ValueError, match="at least 1"):
            alloc(size)


def test_impossible_rights_take_nothing(pool):
    with pytest.raises(ValueError, match="rights"):
        pool.alloc(PAGE, rights=8)
    assert pool.statistics().used == 0


def test_a_grant_is_freed_once_and_to_its_pool(region, table, pool):
    grant = pool.alloc(PAGE)
    pool.free(grant)
    foreign = table.permit(FIRST, 8, rights=1)
    other = BufferPool(region, GEOMETRY, table)
    for wrong in (grant, foreign):
        with pytest.raises(LocalProtocolError, match="pool"):
            pool.free(wrong)
    with pytest.raises(LocalProtocolError, match="pool"):
        pool.free(other.alloc(PAGE))


def test_a_pool_and_its_table_share_a_region(table):
    with (
        Region.create(GEOMETRY.size) as other,
        pytest.raises(LocalProtocolError, match="another region"),
    ):
        BufferPool(other, GEOMETRY, table)


def test_statistics(pool):
    one, two = pool.alloc(1), pool.alloc(2 * PAGE)
    pool.free(one)
    assert pool.try_alloc(1 << 30) is None
    found = pool.statistics()
    assert found.size == PAGES * PAGE
    assert found.used == 2 * PAGE
    assert found.peak_used == 3 * PAGE
    assert found.longest_free == (PAGES - 3) * PAGE
    assert (found.grants, found.allocations, found.refusals) == (1, 2, 1)
    with pytest.raises(FrozenInstanceError):
        found.used = 0
    pool.free(two)


def test_threads_never_share_a_page(pool):
    errors = []

    def work(mark):
        for turn in range(200):
            grant = pool.try_alloc(PAGE * (1 + turn % 3))
            if grant is None:
                continue
            with grant.view() as view:
                view[:] = bytes([mark]) * len(view)
                if bytes(view) != bytes([mark]) * len(view):
                    errors.append(mark)
            pool.free(grant)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pool.statistics().used == 0
    assert pool.statistics().longest_free == PAGES * PAGE


def test_two_threads_free_one_grant_once(pool):
    for _ in range(100):
        grant = pool.alloc(PAGE)
        failures = []

        def free(grant=grant, failures=failures):
            try:
                pool.free(grant)
            except LocalProtocolError:
                failures.append(1)

        threads = [threading.Thread(target=free) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(failures) == 1
    assert pool.statistics().grants == 0


# -- against a model --------------------------------------------------------------


@given(st.data())
def test_free_pages_against_a_set(data):
    pages = data.draw(st.integers(0, 24))
    free, model, taken = FreePages(pages), set(range(pages)), []
    for _ in range(data.draw(st.integers(0, 40))):
        if taken and data.draw(st.booleans()):
            first, count = taken.pop(data.draw(st.integers(0, len(taken) - 1)))
            free.give(first, count)
            model |= set(range(first, first + count))
        else:
            count = data.draw(st.integers(1, 6))
            fits = [p for p in model if set(range(p, p + count)) <= model]
            first = free.take(count)
            assert (first is None) == (not fits)
            if first is not None:
                assert first in fits
                model -= set(range(first, first + count))
                taken.append((first, count))
        assert free.free == len(model)
    longest = [n for p in model for n in range(1, 25) if {*range(p, p + n)} <= model]
    assert free.longest() == max(longest, default=0)


class Pool(RuleBasedStateMachine):
    """Grants live in the table exactly as long as the model says, and apart."""

    grants = Bundle("grants")

    def __init__(self):
        super().__init__()
        self.region = Region.create(GEOMETRY.size)
        self.pool = BufferPool(self.region, GEOMETRY, GrantTable(self.region, GEOMETRY))
        self.model = {}
        self.used = {}

    @rule(target=grants, size=st.integers(1, 6 * PAGE), rights=st.integers(1, 3))
    def alloc(self, size, rights):
        grant = self.pool.try_alloc(size, rights=rights)
        if grant is None:
            return None
        assert (grant.gref, grant.generation) not in self.used
        self.used[grant.gref, grant.generation] = True
        self.model[grant.gref] = grant
        return grant

    @rule(grant=grants)
    def pin(self, grant):
        if grant is not None and grant.rights:
            grant.pin()

    @rule(grant=grants)
    def unpin(self, grant):
        if grant is not None and grant.pins:
            grant.unpin()

    @rule(grant=consumes(grants))
    def free(self, grant):
        if grant is None:
            return
        if grant.pins:
            with pytest.raises(BusyError):
                self.pool.free(grant)
            for _ in range(grant.pins):
                grant.unpin()
        self.pool.free(grant)
        del self.model[grant.gref]

    @invariant()
    def table_is_the_model(self):
        for gref in range(GRANTS):
            found, grant = entry(self.region, gref), self.model.get(gref)
            assert found["rights"] == (grant.rights if grant else 0)
            if grant:
                assert found["offset"] == grant.offset
                assert found["length"] == grant.length
                assert found["generation"] == grant.generation

    @invariant()
    def buffers_lie_apart(self):
        ranges = sorted((g.offset, g.offset + g.length) for g in self.model.values())
        assert all(a[1] <= b[0] for a, b in pairwise(ranges))

    def teardown(self):
        self.region.close()


TestPool = Pool.TestCase
