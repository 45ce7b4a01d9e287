"""A delay device on three engines: K servers for all its rings, and clean endings."""

from __future__ import annotations

import errno
import heapq
import math
import os
import signal
import sys
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import pytest

import daemons
import rings
from daemons import devices
from daemons.options import parse
from rings import layout
from rings.block import Block
from rings.handle import Handle
from rings.rendezvous import query

from .interp import start_python
from .served import ENGINES, HANG_S, raises, require, ring, sessions, until

MS = 10**6


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return require(request.param)


@pytest.fixture(scope="module", params=[name for name in ENGINES if name != "mock"])
def real(request: pytest.FixtureRequest) -> str:
    """An engine whose time is real: on it an hour does not pass."""
    return require(request.param)


@contextmanager
def delay(engine: str, servers: int, time: str, **options: Any) -> Iterator[str]:
    with daemons.spawn(
        kind="delay",
        servers=servers,
        service_time=time,
        engine=engine,
        timeout=HANG_S,
        **options,
    ) as daemon:
        yield daemon.address


def open_delay(address: str, **wishes: Any) -> Block:
    return rings.connect(address).block("delay0", **wishes)


def station(address: str) -> dict[str, int]:
    told: dict[str, int] = query(address)["stations"]["delay0"]
    return told


def busy(address: str) -> tuple[int, int]:
    told = station(address)
    return told.get("in_service", 0), told.get("queued", 0)


def flushes(disk: Block, count: int) -> list[Handle]:
    """Publish `count` requests with one store."""
    with disk.batch() as batch:
        return [batch.submit_flush() for _ in range(count)]


# -- one behaviour -------------------------------------------------------------


def test_it_answers_as_null(engine: str) -> None:
    with delay(engine, 2, "1ms") as address, open_delay(address) as disk:
        assert disk.session.device.kind == "delay"
        assert disk.size == 1 << 40
        assert disk.write(1 << 39, b"forgotten") == 9
        with disk.pool.alloc(4096) as grant:
            with grant.view() as view:
                view[:] = b"\xff" * 4096
            assert disk.readinto(grant, 12345) == 4096
            with grant.view() as view:
                assert bytes(view) == bytes(4096)
            assert disk.read_many(array("Q", range(50)), grant, length=64) == 50
        disk.flush()
        disk.discard(0, 1 << 40)
        disk.write_zeroes(7, 9)
        assert disk.echo(99) == 99
        assert station(address)["served"] == 56


def test_what_fails_a_check_is_refused_at_once(engine: str) -> None:
    with delay(engine, 1, "3600s") as address, open_delay(address) as disk:
        with raises(errno.ENXIO):
            disk.read((1 << 40) - 1, 2)
        assert busy(address) == (0, 0)


def test_a_read_is_zeroed_when_it_is_answered(real: str) -> None:
    with (
        delay(real, 1, "3600s") as address,
        open_delay(address) as disk,
        disk.pool.alloc(64) as grant,
    ):
        with grant.view() as view:
            view[:] = b"\xff" * 64
        handle = disk.submit_read(0, grant)
        until(lambda: busy(address) == (1, 0), "it is in service")
        with grant.view() as view:
            assert bytes(view) == b"\xff" * 64
        assert handle.cancel(HANG_S) == "cancelled"
        with grant.view() as view:
            assert bytes(view) == b"\xff" * 64


# -- how many, in which order: the mock's clock is exact -----------------------


def model(servers: int, times_ns: list[int]) -> dict[str, int]:
    """First come, first served by `servers`, all having come at once."""
    free = [0] * servers
    waited = 0
    for time_ns in times_ns:
        begins = heapq.heappop(free)
        waited += begins
        heapq.heappush(free, begins + time_ns)
    told = {"waited_ns": waited, "busy_ns": sum(times_ns), "elapsed_ns": max(free)}
    return {**told, "in_service_peak": min(servers, len(times_ns))}


def measured(address: str) -> dict[str, int]:
    told = station(address)
    names = ("waited_ns", "busy_ns", "in_service_peak")
    elapsed = {"elapsed_ns": ring(address)["observed_ns"]}
    return {name: told[name] for name in names} | elapsed


@pytest.mark.parametrize("servers", [1, 10, 100, 1000])
@pytest.mark.parametrize("count", [1, 32, 100, 512])
def test_k_servers_and_no_more(servers: int, count: int) -> None:
    with (
        delay("mock", servers, "5ms") as address,
        open_delay(address, slots=512) as disk,
    ):
        for handle in flushes(disk, count):
            handle.result(HANG_S)
        assert measured(address) == model(servers, [5 * MS] * count)
        told = station(address)
        assert told["queued_peak"] == max(0, count - servers)
        assert told["late_ns"] == 0


def test_answers_come_in_the_order_of_service() -> None:
    with (
        delay("mock", 3, "5ms") as address,
        open_delay(address, slots=64, start=0) as disk,
    ):
        handles = flushes(disk, 64)
        for handle in handles:
            handle.result(HANG_S)
        shape, region = disk.session.geometry, disk.session.region
        at = shape.ring_offset + layout.RING_WORDS[shape.ring_layout].slots
        answers = [
            int.from_bytes(region.view(at + i * shape.slot_size, 8), "little")
            for i in range(64)
        ]
        assert answers == [handle.id for handle in handles]


@pytest.mark.parametrize("depth", [1, 7, 32, 256])
@pytest.mark.parametrize("distribution", devices.DISTRIBUTIONS)
def test_littles_law_is_exact_by_a_clock_that_is(depth: int, distribution: str) -> None:
    """L T, the area under what is in flight, is the sum of all sojourns, X T R."""
    options = {"distribution": distribution, "seed": 3}
    with (
        delay("mock", 32, "5ms", **options) as address,
        open_delay(address, slots=256) as disk,
        disk.pool.alloc(64 * depth) as grant,
    ):
        for _ in range(3):
            disk.read_many(array("Q", [0] * 2000), grant, length=64, depth=depth)
        told, counted = station(address), ring(address)
        assert counted["in_flight"] == 0
        assert counted["in_flight_ns"] == told["waited_ns"] + told["busy_ns"] > 0


def split_mix(seed: int) -> Iterator[int]:
    mask = 2**64 - 1
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def exponential_ns(seed: int, count: int, mean_ns: int) -> list[int]:
    draws = (
        next_ >> 11 for next_, _ in zip(split_mix(seed), range(count), strict=False)
    )
    return [int(-math.log((draw + 1) * 2**-53) * mean_ns) for draw in draws]


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_exponential_times_are_those_of_the_seed(seed: int) -> None:
    times = exponential_ns(seed, 2048, 5 * MS)
    assert sum(times) / 2048 == pytest.approx(5 * MS, rel=0.07)  # three sigma
    options = {"distribution": "exponential", "seed": seed}
    with (
        delay("mock", 16, "5ms", **options) as address,
        open_delay(address, slots=2048) as disk,
    ):
        for handle in flushes(disk, 2048):
            handle.result(HANG_S)
        assert measured(address) == model(16, times)


# -- cancel --------------------------------------------------------------------


def test_cancel_in_service_and_in_the_queue(engine: str) -> None:
    """All with one store, so that the mock's clock stands still between them."""
    with delay(engine, 1, "3600s") as address, open_delay(address) as disk:
        with disk.batch() as batch:
            asked = [batch.submit_flush() for _ in range(4)]
            cancels = [
                disk._requester.submit(layout.OP_CANCEL, handle.id, 0, None, 0)
                for handle in (asked[0], asked[3], asked[3])
            ]
        assert [cancels[0].result(HANG_S), cancels[1].result(HANG_S)] == [0, 0]
        with raises(errno.ENOENT):
            cancels[2].result(HANG_S)
        for handle in (asked[0], asked[3]):
            with raises(errno.ECANCELED):
                handle.result(HANG_S)
        wanted = "done" if engine == "mock" else "cancelled"
        for handle in (asked[2], asked[1]):
            if engine == "mock":
                handle.result(HANG_S)
            assert handle.cancel(HANG_S) == wanted
        assert busy(address) == (0, 0)
        assert ring(address)["in_flight"] == 0


# -- two rings, and their ends -------------------------------------------------


def test_two_rings_share_the_servers(real: str) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(delay(real, 3, "3600s", drain_timeout=0.1))
        first, second = (stack.enter_context(open_delay(address)) for _ in range(2))
        flushes(first, 2)
        until(lambda: busy(address) == (2, 0), "two are in service")
        flushes(second, 5)
        until(lambda: busy(address) == (3, 4), "one server was left for five")
        first.close()
        until(lambda: busy(address) == (3, 2), "the other ring has all servers")
        second.close()
        until(lambda: busy(address) == (0, 0), "nobody is left")
        told = station(address)
        assert (told["in_service_peak"], told["abandoned"]) == (3, 7)


def test_first_come_first_served_whichever_the_ring(engine: str) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(delay(engine, 1, "50ms"))
        first, second = (stack.enter_context(open_delay(address)) for _ in range(2))
        handles = []
        for number, disk in enumerate((first, second, first, second, first), 1):
            handles += flushes(disk, 1)
            until(lambda n=number: taken(address) == n, "it has come")  # type: ignore[misc]
        for before, after in pairwise(handles):
            after.result(HANG_S)
            assert before.done()


def taken(address: str) -> int:
    return sum(told["ring"]["requests"] for told in sessions(address))


KILLED = """
import sys, time
import rings

disk = rings.connect(sys.argv[1]).block("delay0")
with disk.batch() as batch:
    handles = [batch.submit_flush() for _ in range(60)]
time.sleep(600)
"""


def test_a_dead_frontend_gives_its_servers_back(real: str) -> None:
    with (
        delay(real, 4, "3600s", drain_timeout=0.1) as address,
        open_delay(address) as disk,
    ):
        with start_python(sys.executable, KILLED, address) as killed:
            until(lambda: busy(address) == (4, 56), "its requests are there")
            (mine,) = flushes(disk, 1)
            until(lambda: busy(address) == (4, 57), "ours waits behind them")
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait()
        until(lambda: busy(address) == (1, 0), "ours is in service")
        assert not mine.done()
        assert mine.cancel(HANG_S) == "cancelled"
        assert station(address)["abandoned"] == 61


def test_closing_drains_what_was_published(engine: str) -> None:
    with delay(engine, 4, "5ms") as address:
        with open_delay(address) as disk:
            flushes(disk, 40)
        until(lambda: not sessions(address), "the session has ended")
        told = station(address)
        assert (told["served"], told["abandoned"]) == (40, 0)


def test_the_daemon_ends_with_servers_busy(real: str) -> None:
    with daemons.spawn(
        kind="delay", servers=2, service_time="3600s", engine=real, drain_timeout=0.1
    ) as daemon:
        disk = open_delay(daemon.address)
        flushes(disk, 9)
        until(lambda: busy(daemon.address) == (2, 7), "its servers are busy")
        assert daemon.stop() == 0
        disk.close()


# -- what may be asked for -----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("5ms", 5 * MS),
        ("250us", 250_000),
        ("1.5ms", 1_500_000),
        ("1s", 10**9),
        ("7ns", 7),
    ],
)
def test_service_times(text: str, ns: int) -> None:
    words = ["delay", "--servers", "1", "--service-time", text]
    assert parse(words).service_time == ns


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"servers": 0}, "use 1 to"),
        ({"servers": devices.MAX_SERVERS + 1}, "use 1 to"),
        ({"service_ns": 0}, "1ns to 3600s"),
        ({"service_ns": devices.MAX_SERVICE_NS + 1}, "1ns to 3600s"),
        ({"distribution": "normal"}, "fixed or exponential"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
    ],
)
def test_servers_that_cannot_be(change: dict[str, Any], told: str) -> None:
    wishes: dict[str, Any] = {"servers": 1, "service_ns": 1, **change}
    with pytest.raises(ValueError, match=told):
        devices.delay(**wishes)


# -- what is counted -----------------------------------------------------------


@pytest.mark.parametrize("count", [1, 20, 32])
def test_a_batch_is_one_take(engine: str, count: int) -> None:
    with delay(engine, 100, "1ms") as address, open_delay(address) as disk:
        for _ in range(5):
            for handle in flushes(disk, count):
                handle.result(HANG_S)
        until(lambda: told_all(address), "the last notification is counted too")
        told, whole = ring(address), query(address)["engine"]
        assert (told["requests"], told["takes"]) == (5 * count, 5)
        for name in ("requests", "takes", *NOTIFICATIONS):
            assert whole[name] == told[name]


NOTIFICATIONS = ("notifications_sent", "notifications_held_off")


def told_all(address: str) -> bool:
    """Whether each published batch was one of the two; an answer is seen before."""
    told = ring(address)
    return told["batches"] == sum(told[name] for name in NOTIFICATIONS)


def test_the_engine_counts_on_when_a_ring_has_gone(engine: str) -> None:
    with delay(engine, 100, "1ms") as address:
        for _ in range(3):
            with open_delay(address) as disk:
                disk.flush()
        assert query(address)["engine"]["requests"] == 3


def test_the_process_is_told(engine: str) -> None:
    with delay(engine, 100, "1ms") as address, open_delay(address) as disk:
        before = query(address)
        for handle in flushes(disk, 64):
            handle.result(HANG_S)
        after = query(address)
    for name, least in (("user_s", 0.0), ("system_s", 0.0), ("voluntary_switches", 1)):
        assert after["process"][name] >= before["process"][name] >= least, name
    assert after["process"]["resident"] > 1 << 20
    assert after["engine"]["cpu_s"] > before["engine"]["cpu_s"] >= 0
