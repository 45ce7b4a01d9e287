"""Loads on a ring, and the gauge beside them: what one counts, the other confirms."""

import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate

import pytest

import daemons
import rings
from rings import loading
from rings.loading import HDR_COUNTS, Gauge, Load

from .served import frozen

MS = 1_000_000


@pytest.fixture(scope="module")
def address():
    with daemons.spawn(kind="null") as daemon:
        yield daemon.address


@contextmanager
def watched(address, *, slots=32, start=0, warm_ms=20, ms=100):
    """A device whose ring is gauged for a moment: what `put` needs."""
    with rings.connect(address).block("null0", slots=slots, start=start) as block:
        begin = time.monotonic_ns()
        from_ns = begin + warm_ms * MS
        with Gauge(block, from_ns, from_ns + ms * MS) as gauge:
            yield block, gauge, (begin, from_ns, from_ns + ms * MS)


def table():
    return array("Q", bytes(8 * HDR_COUNTS))


def put(block, moments, load, counts=None):
    begin, from_ns, until_ns = moments
    counts = table() if counts is None else counts
    return loading.run(
        block, load, start_ns=begin, from_ns=from_ns, until_ns=until_ns, counts=counts
    )


def area(gauge):
    return sum(number * ns for number, ns in enumerate(gauge.time_ns))


def confirmed(in_ring_ns, *tables, depth):
    """What is in flight as the watch begins or ends is cut in two by one count only."""
    longest = max(value_of(i) for t in tables for i, count in enumerate(t) if count)
    return pytest.approx(in_ring_ns, abs=0.03 * in_ring_ns + depth * longest)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [0, 512])
def test_what_is_in_flight_is_rate_times_time_in_the_ring(address, start, size, batch):
    counts = table()
    with watched(address, start=start) as (block, gauge, moments):
        told = put(block, moments, Load(size=size, depth=32, batch=batch), counts)
    assert told["submitted"] == told["answered"] > 100
    assert told["failed"] == told["dropped"] == 0
    assert sum(counts) == told["measured"]
    assert sum(gauge.time_ns) == moments[2] - moments[1]
    assert area(gauge) == sum(gauge.slice_ns)
    assert area(gauge) == confirmed(told["in_ring_ns"], counts, depth=32)


def test_an_open_loop_sends_what_was_to_be_sent(address):
    gap = 200_000
    with watched(address) as (block, _gauge, moments):
        load = Load(size=512, depth=32, gaps_ns=(gap,))
        told = put(block, moments, load)
    begin, from_ns, until_ns = moments
    assert told["submitted"] == -(-(until_ns - begin) // gap)
    assert told["offered"] == -(-(until_ns - begin) // gap) + (begin - from_ns) // gap
    assert told["dropped"] == 0


def test_uneven_gaps_go_round_and_round(address):
    gaps = (100_000, 900_000, 50_000)
    with watched(address) as (block, _, moments):
        told = put(block, moments, Load(size=0, depth=32, gaps_ns=gaps))
    rounds = (moments[2] - moments[0]) // sum(gaps) + 1
    arrivals = [0, *accumulate(gaps * rounds)]
    assert told["submitted"] == sum(at < moments[2] - moments[0] for at in arrivals)


@pytest.mark.parametrize("policy", loading.POLICIES)
def test_what_finds_no_room_goes_by_the_policy(address, policy):
    gap = 100  # far more than one slot can carry
    with watched(address, slots=1, ms=60) as (block, _gauge, moments):
        load = Load(size=4096, gaps_ns=(gap,), policy=policy, spill=8)
        told = put(block, moments, load)
    arrivals = -(-(moments[2] - moments[0]) // gap)
    left = arrivals - told["submitted"] - told["dropped"]
    if policy == "block":
        assert told["dropped"] == 0 < left  # what was still to come
    else:
        assert told["dropped"] > 0
        assert left >= 0  # what waited at the last look, or came after it
    assert told["full"] > 0
    assert (told["blocked_ns"] > 0) == (policy in ("block", "spill"))


def test_latency_begins_when_it_was_meant_to_be_sent(address):
    counts = table()
    with watched(address, slots=1, ms=60) as (block, _gauge, moments):
        told = put(block, moments, Load(size=4096, gaps_ns=(100,)), counts)
    assert told["measured"] == sum(counts)
    mean_in_ring = told["in_ring_ns"] / told["measured"]
    shortest = next(index for index, count in enumerate(counts) if count)
    assert value_of(shortest) > 2 * mean_in_ring  # the wait for the ring is in it


def value_of(index):
    """The least value that HdrHistogram counts there."""
    bucket = max(0, (index >> 10) - 1)
    return (index - (bucket << 10)) << bucket


def test_the_longest_time_without_an_answer_is_told():
    with (
        daemons.spawn(kind="null") as daemon,
        watched(daemon.address, ms=150) as (block, _, moments),
        ThreadPoolExecutor(1) as thread,
    ):
        told = thread.submit(put, block, moments, Load(depth=8))
        time.sleep(0.05)
        with frozen(daemon.pid):
            time.sleep(0.04)
        assert 30 * MS < told.result()["gap_max_ns"] < 150 * MS


def test_counts_are_those_of_hdrhistogram():
    histogram = pytest.importorskip("hdrh.histogram").HdrHistogram(1, 2**40 - 1, 3)
    assert histogram.counts_len == HDR_COUNTS
    for index in range(HDR_COUNTS):
        if (index >> 10) > 1 or index < 2048:
            assert histogram.get_value_from_index(index) == value_of(index)


def test_threads_share_a_ring(address):
    tables = [table() for _ in range(4)]
    told = []
    with watched(address, slots=32) as (block, gauge, moments):

        def produce(counts):
            told.append(put(block, moments, Load(size=512, depth=8), counts))

        threads = [threading.Thread(target=produce, args=(t,)) for t in tables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(told) == 4
    assert all(part["submitted"] == part["answered"] > 0 for part in told)
    in_ring_ns = sum(part["in_ring_ns"] for part in told)
    assert area(gauge) == confirmed(in_ring_ns, *tables, depth=32)


def test_a_gauge_watches_ordinary_use_too(address):
    with watched(address, warm_ms=0, ms=10_000) as (block, gauge, _):
        held = [block.submit_flush() for _ in range(3)]
        for handle in held:
            handle.result()
        block.flush()
    assert sum(ns > 0 for ns in gauge.time_ns) >= 2
    assert not any(gauge.time_ns[5:])


def test_one_gauge_at_a_time(address):
    with watched(address) as (block, _gauge, moments):
        with pytest.raises(rings.BusyError), Gauge(block, 0, 1):
            raise AssertionError
        put(block, moments, Load(size=0))


def test_a_load_wants_a_gauge(address):
    with (
        rings.connect(address).block("null0") as block,
        pytest.raises(ValueError, match="watch"),
    ):
        put(block, (0, 1, 2), Load())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depth": 0}, "depth"),
        ({"depth": 64}, "depth"),
        ({"batch": 0}, "batch"),
        ({"depth": 2, "batch": 3}, "batch"),
        ({"offsets": ()}, "offsets"),
        ({"spill": 2**21, "policy": "spill"}, "spill"),
        ({"policy": "hope"}, "hope"),
    ],
)
def test_bad_loads_are_refused(address, wrong, said):
    with (
        watched(address) as (block, _, moments),
        pytest.raises(ValueError, match=said),
    ):
        put(block, moments, Load(**wrong))


def test_the_buffer_is_free_afterwards(address):
    with watched(address) as (block, _, moments):
        put(block, moments, Load(size=4096, depth=32))
        used = block.pool.statistics().used
    assert used == 0


def test_a_daemon_that_dies_ends_the_load():
    with (
        daemons.spawn(kind="null") as daemon,
        watched(daemon.address, ms=60_000) as (block, _, moments),
    ):
        killer = threading.Timer(0.2, daemon.kill)
        killer.start()
        with pytest.raises(rings.BrokenError):
            put(block, moments, Load(depth=32))
        killer.join()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_indices_wrap_for_real(address):
    """More than 2**32 requests in batches over one ring, from index 0."""
    asked = answered = 0
    with rings.connect(address).block("null0", slots=2048) as block:
        while asked <= 2**32 + 2**20:
            begin = time.monotonic_ns()
            moments = (begin, begin, begin + 10_000 * MS)
            counts = table()
            with Gauge(block, *moments[1:]) as gauge:
                told = put(block, moments, Load(size=0, depth=2048, batch=64), counts)
            asked += told["submitted"]
            answered += told["answered"]
            assert told["failed"] == told["dropped"] == 0
            assert area(gauge) == confirmed(told["in_ring_ns"], counts, depth=2048)
        assert asked == answered == block.statistics()["responses"]
        assert block.echo(7) == 7
