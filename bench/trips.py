"""Round trips, a blocked receiver's CPU time, and call pairs inside one process."""

from __future__ import annotations

import time
from typing import Any

from bench import machine
from bench.board import COUNT, DONE, Board
from bench.channel import (
    Adapter,
    Spec,
    blocking_get,
    blocking_put,
    cores_for,
    napping,
    pause_for,
)
from bench.harness import latencies
from bench.transfer import message

MAX_TRIPS = 400_000
WARM = 200
PAIRS = 2_000


def round_trip(
    adapter: Adapter, there: Spec, back: Spec, placement: str, seconds: float
) -> dict[str, float]:
    """Return p50, p99 and p99.9 of one message there and back, in us."""
    (first,), (second,) = cores_for(placement, 1, 1)
    made = adapter.create(there), adapter.create(back)
    try:
        with Board(8 * MAX_TRIPS) as board:
            board.start(lambda: answer(board, adapter, made, placement), second)
            board.start(
                lambda: ask(board, adapter, made, there.size, placement, seconds), first
            )
            board.wait_ready()
            board.go()
            board.wait(lambda: bool(board.words[DONE]), 30 + 2 * seconds, "round trips")
            samples = board.extra.cast("Q")[: board.words[COUNT]]
            return latencies(list(samples)) | {"trips": float(len(samples))}
    finally:
        for one in made:
            adapter.destroy(one)


def answer(board: Board, adapter: Adapter, made: Any, placement: str) -> None:
    """Send back whatever comes, until killed."""
    pause = pause_for(placement)
    get = blocking_get(adapter.receiver(made[0], 0), pause)
    put = blocking_put(adapter.sender(made[1], 0), pause)
    board.ready()
    while True:
        put(get())


def ask(
    board: Board, adapter: Adapter, made: Any, size: int, placement: str, seconds: float
) -> None:
    """Check some trips by their content, then clock each one."""
    pause, clock = pause_for(placement), time.perf_counter_ns
    get = blocking_get(adapter.receiver(made[1], 0), pause)
    put = blocking_put(adapter.sender(made[0], 0), pause)
    board.ready()
    for number in range(WARM):
        put(message(number, size))
        if bytes(get())[:size] != message(number, size):
            raise AssertionError(f"round trip {number} came back changed")
    samples, count, data = board.extra.cast("Q"), 0, message(0, size)
    end = clock() + int(seconds * 1e9)
    before = clock()
    while before < end and count < MAX_TRIPS:
        put(data)
        get()
        now = clock()
        samples[count] = now - before
        count += 1
        before = clock()
    board.words[COUNT] = count
    board.words[DONE] = 1
    board.until_stop()  # an end that is dropped now would end the other process


def idle(adapter: Adapter, spec: Spec, seconds: float) -> dict[str, float]:
    """Return what a receiver costs to which nothing is sent."""
    made = adapter.create(spec)

    def wait_for_ever(board: Board) -> None:
        get = blocking_get(adapter.receiver(made, 0), napping())
        board.ready()
        get()

    def say_nothing(board: Board) -> None:
        end = adapter.sender(made, 0)
        board.ready()
        board.until_stop()
        del end

    try:
        with Board() as board:
            child = board.start(lambda: wait_for_ever(board), None)
            board.wait_ready()
            board.start(lambda: say_nothing(board), None)
            board.wait_ready()
            board.go()
            time.sleep(0.2)
            before, start = machine.ProcessWork.of(child.pid), time.monotonic()
            time.sleep(seconds)
            after, took = machine.ProcessWork.of(child.pid), time.monotonic() - start
            board.check()
            return before.until(after, took)
    finally:
        adapter.destroy(made)


def call_pair(adapter: Adapter, spec: Spec, seconds: float) -> dict[str, float]:
    """Return the nanoseconds of one put and one get in one process, loop included."""
    made = adapter.create(spec)
    try:
        return {"pair_ns": checked_pair_ns(adapter, made, spec, seconds)}
    finally:
        adapter.destroy(made)


def checked_pair_ns(adapter: Adapter, made: Any, spec: Spec, seconds: float) -> float:
    """Open both ends here, check one message, and time pairs."""
    sender, receiver = adapter.sender(made, 0), adapter.receiver(made, 0)
    put, get = sender.put or sender.try_put, receiver.get or receiver.try_get
    assert put is not None
    assert get is not None
    data = message(3, spec.size)
    put(data)
    if bytes(get() or b"")[: spec.size] != data:
        raise AssertionError("what was put is not what was got")
    return pair_ns(put, get, data, seconds)


def pair_ns(put: Any, get: Any, data: Any, seconds: float) -> float:
    """Return the median cost of ``put(data); get()`` over many short loops."""
    clock, many = time.perf_counter_ns, range(PAIRS)
    samples: list[float] = []
    end = clock() + int(seconds * 1e9)
    while not samples or clock() < end:
        start = clock()
        for _ in many:
            put(data)
            get()
        samples.append((clock() - start) / PAIRS)
    return sorted(samples)[len(samples) // 2]


class Empty:
    """Two methods that do nothing: the price of calling Python twice."""

    def put(self, data: Any) -> None:
        """Do nothing."""

    def get(self) -> None:
        """Do nothing."""
