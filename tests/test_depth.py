"""How deep a device is used: a limit below the slots, fixed or found; every engine."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import daemons
import rings
from rings.block import Block
from rings.loading import HDR_COUNTS, Gauge, Load, run

from .served import ENGINES, HANG_S, require

SLOTS = 64
THREADS = 8
SIZE = 4096


@pytest.fixture(scope="module", params=ENGINES)
def daemon(request: pytest.FixtureRequest) -> Iterator[daemons.Daemon]:
    with daemons.spawn(
        kind="null", engine=require(request.param), timeout=HANG_S
    ) as daemon:
        yield daemon


def opened(daemon: daemons.Daemon, depth: int | str | None, **options: int) -> Block:
    connection = rings.connect(daemon.address)
    return connection.block("null0", slots=SLOTS, depth=depth, **options)


def read_all(disk: Block, count: int, depth: int | str | None = None) -> None:
    with disk.pool.alloc(SLOTS * SIZE) as grant:
        offsets = array("Q", bytes(8 * count))
        assert disk.read_many(offsets, grant, length=SIZE, depth=depth) == count


@pytest.mark.parametrize("depth", [1, 2, 5, SLOTS - 1, SLOTS])
def test_no_more_than_the_depth_is_in_flight(
    daemon: daemons.Daemon, start: int, depth: int
) -> None:
    with opened(daemon, depth, start=start) as disk:
        read_all(disk, 4 * SLOTS)
        counts = disk.statistics()
        assert counts["in_flight_peak"] == depth
        assert counts["responses"] == 4 * SLOTS
        assert counts["credit"] == depth
        assert disk.depth == (depth, SLOTS, depth, depth, 0, 0)


def test_every_way_of_asking_heeds_it(daemon: daemons.Daemon) -> None:
    with opened(daemon, 3) as disk, disk.pool.alloc(SIZE) as grant:
        handles = [disk.submit_read(0, grant) for _ in range(20)]
        assert [handle.result(HANG_S) for handle in handles] == [SIZE] * 20
        with ThreadPoolExecutor(THREADS) as threads:
            for done in threads.map(lambda _: disk.read(0, SIZE), range(20 * THREADS)):
                assert len(done) == SIZE
        counts = disk.statistics()
        assert counts["in_flight_peak"] == 3
        assert counts["limited"] > 0
        assert counts["full"] == 0


def test_without_a_depth_all_slots_are_there(daemon: daemons.Daemon) -> None:
    with opened(daemon, None) as disk:
        read_all(disk, 4 * SLOTS, depth=10 * SLOTS)
        counts = disk.statistics()
        assert counts["in_flight_peak"] == counts["limit"] == SLOTS
        assert counts["limited"] == 0
        read_all(disk, 4 * SLOTS)  # many blocks ask for 32 of them, as ever


def test_it_can_be_changed(daemon: daemons.Daemon) -> None:
    with opened(daemon, 1) as disk:
        for depth, limit in [(2, 2), (None, SLOTS), (7, 7)]:
            disk.set_depth(depth)
            assert disk.depth.limit == limit
            read_all(disk, 4 * SLOTS, depth="auto")
        assert disk.statistics()["in_flight_peak"] == SLOTS


def test_auto_moves_within_its_bounds(daemon: daemons.Daemon, start: int) -> None:
    with opened(daemon, "auto", start=start) as disk:
        while disk.statistics()["limit_rounds"] < 30:
            read_all(disk, 1000)
        depth = disk.depth
        assert 2 <= depth.lowest <= depth.limit <= depth.highest <= SLOTS == depth.slots
        assert depth.raised + depth.lowered > 0 or depth.limit == 32
        assert disk.statistics()["in_flight_peak"] <= SLOTS


def test_groups_that_do_not_fit_below_the_limit_raise_it() -> None:
    """30 at once are never 32 in flight, and yet 32 are in the way of 60."""
    with daemons.spawn(
        kind="delay", servers=SLOTS, service_time="1ms", timeout=HANG_S
    ) as delay:
        connection = rings.connect(delay.address)
        with connection.block("delay0", slots=SLOTS, depth="auto") as disk:
            deadline = time.monotonic() + HANG_S
            while disk.depth.raised == 0:
                assert time.monotonic() < deadline, disk.statistics()
                put_groups(disk, 30)


def put_groups(disk: Block, batch: int) -> None:
    begin = time.monotonic_ns()
    end = begin + 100_000_000
    counts = array("Q", bytes(8 * HDR_COUNTS))
    with Gauge(disk, begin, end):
        load = Load(size=0, depth=SLOTS, batch=batch)
        run(disk, load, start_ns=begin, from_ns=begin, until_ns=end, counts=counts)


def test_several_threads_and_auto(daemon: daemons.Daemon) -> None:
    with opened(daemon, "auto") as disk, ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda _: read_all_small(disk), range(THREADS)))
        assert disk.statistics()["in_flight"] == 0
        assert disk.statistics()["responses"] == THREADS * 2000


def read_all_small(disk: Block) -> None:
    with disk.pool.alloc(8 * SIZE) as grant:
        offsets = array("Q", bytes(8 * 2000))
        assert disk.read_many(offsets, grant, length=SIZE) == 2000


@pytest.mark.parametrize("depth", [0, -1, SLOTS + 1, "deep", 1.5])
def test_a_depth_that_cannot_be_says_what_can(
    daemon: daemons.Daemon, depth: object
) -> None:
    with pytest.raises(ValueError, match='"auto", None or 1 to 64'):
        opened(daemon, depth)  # type: ignore[arg-type]
    with opened(daemon, None) as disk, pytest.raises(ValueError, match="slots="):
        disk.set_depth(depth)  # type: ignore[arg-type]
    with opened(daemon, None) as disk, pytest.raises(ValueError, match="at least 1"):
        read_all(disk, 1, depth=0)
