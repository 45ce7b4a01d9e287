"""One-way transfers: verified once by content and order, then timed by counters.

*Verified*: every message has its own number and a pattern that follows from it.  Each
must arrive exactly once, unharmed, and each consumer must see each producer's messages
in order.  *Timed*: one payload is sent again and again; consumers count, the parent
reads the counters at both ends of a window, after a warm-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench import machine
from bench.board import COUNT, STRIDE, Board, pids
from bench.channel import (
    BATCH,
    Adapter,
    Receiver,
    Sender,
    Spec,
    blocking_get,
    blocking_put,
    cores_for,
    pause_for,
)

LONGEST = 16 << 20
PATTERN = bytes(range(256)) * (1 + LONGEST // 256)
NUMBER = 8
LIMIT_BYTES_PER_S = 200e9
VERIFY_S = 30.0
WARM_S = 0.2
ONE, MANY, ARRAY = "one", "many", "array"


def message(number: int, size: int) -> bytes:
    """Return message `number`: itself as u64, then bytes that follow from it."""
    if size > LONGEST:
        raise ValueError(f"size must be at most {LONGEST}, not {size}")
    head = number.to_bytes(NUMBER, "little")
    shift = number & 255
    return head + PATTERN[shift : shift + size - NUMBER]


def step(size: int) -> int:
    """Return how many messages pass between two looks at the shared words."""
    return 64 if size <= 4096 else 4 if size <= 65536 else 1


def touch(array: Any) -> None:
    """Look at both ends of an array: a frame that nobody reads proves nothing."""
    if array[0] != array[-1]:
        raise AssertionError("the array's ends differ")


def produce(board: Board, end: Sender, spec: Spec, kind: str, placement: str) -> None:
    """Put as fast as the end allows until the board says stop."""
    words, some, pause = board.words, range(step(spec.size)), pause_for(placement)
    data = message(7, spec.size)
    board.ready()
    if kind == ARRAY:
        repeat(words, end.put_array, float_array(spec.size, 7.0), range(1))
    elif kind == MANY:
        assert end.batch is not None
        repeat(words, end.put_many, end.batch([data] * BATCH), range(1))
    elif end.put is not None:
        repeat(words, end.put, data, some)
    else:
        attempt = end.try_put
        assert attempt is not None
        while not words[0]:
            for _ in some:
                while not attempt(data):
                    pause()


def repeat(words: Any, put: Any, data: Any, some: range) -> None:
    """Call ``put(data)`` until the first word is set."""
    while not words[0]:
        for _ in some:
            put(data)


def consume(
    board: Board, end: Receiver, spec: Spec, kind: str, placement: str, index: int
) -> None:
    """Get and count until the board says stop."""
    words, mine, some = board.words, COUNT + STRIDE * index, range(step(spec.size))
    pause, many, array = pause_for(placement), end.get_many, end.get_array
    board.ready()
    while not words[0]:
        if kind == ARRAY:
            assert array is not None
            array(touch)
            words[mine] += 1
        elif kind == MANY:
            assert many is not None
            words[mine] += many()
        else:
            get_some(end, some, pause)
            words[mine] += len(some)


def get_some(end: Receiver, some: range, pause: Callable[[], None]) -> None:
    """Get as many messages as `some` is long, one call a message."""
    if end.get is not None:
        get = end.get
        for _ in some:
            get()
        return
    attempt = end.try_get
    assert attempt is not None
    for _ in some:
        while attempt() is None:
            pause()


def float_array(size: int, value: float) -> Any:
    """Return a float64 array of `size` bytes, all of one value."""
    import numpy

    return numpy.full(size // 8, value)


def timed(
    adapter: Adapter, spec: Spec, placement: str, seconds: float, kind: str = ONE
) -> dict[str, float]:
    """Return the rate, the bytes a second and the CPU time a message."""
    made = adapter.create(spec)
    try:
        with Board() as board:
            launch(
                board, adapter, made, spec, placement,
                lambda end, _: produce(board, end, spec, kind, placement),
                lambda end, i: consume(board, end, spec, kind, placement, i),
            )  # fmt: skip
            return window(board, spec, seconds)
    finally:
        adapter.destroy(made)


def launch(
    board: Board,
    adapter: Adapter,
    made: Any,
    spec: Spec,
    placement: str,
    producer: Callable[[Sender, int], None],
    consumer: Callable[[Receiver, int], None],
) -> None:
    """Fork the consumers, then the producers; return when all may begin."""
    first, second = cores_for(placement, spec.producers, spec.consumers)
    for i in range(spec.consumers):
        board.start(lambda i=i: consumer(adapter.receiver(made, i), i), second[i])
    board.wait_ready()
    for i in range(spec.producers):
        board.start(lambda i=i: producer(adapter.sender(made, i), i), first[i])
    board.wait_ready()
    board.go()


def window(board: Board, spec: Spec, seconds: float) -> dict[str, float]:
    """Count what arrives between two moments, with the CPU time spent on it."""

    def look() -> tuple[int, float, float]:
        cpu = sum(machine.ProcessWork.of(pid).cpu_s for pid in pids(board.children))
        return board.counts(spec.consumers), time.perf_counter(), cpu

    time.sleep(min(WARM_S, seconds))
    first = look()
    last = first
    while last[0] == first[0]:  # a busy machine may not run one of the ends for long
        if last[1] - first[1] > VERIFY_S:
            raise RuntimeError(f"no message arrived in {VERIFY_S:g} s")
        time.sleep(seconds)
        last = look()
        board.check()
    got, took = last[0] - first[0], last[1] - first[1]
    rate = got / took
    if rate * spec.size > LIMIT_BYTES_PER_S:
        raise AssertionError(f"{rate:.3g} messages/s of {spec.size} B cannot be")
    return {
        "rate": rate,
        "mb_per_s": rate * spec.size / 1e6,
        "cpu_us_per_msg": (last[2] - first[2]) / got * 1e6,
    }


def verify(
    adapter: Adapter, spec: Spec, placement: str, count: int, kind: str = ONE
) -> None:
    """Send `count` numbered messages a producer; raise unless all is right."""
    if kind == MANY:
        count = -(-count // BATCH) * BATCH
    total = count * spec.producers
    made = adapter.create(spec)
    try:
        with Board(total * spec.consumers) as board:
            launch(
                board, adapter, made, spec, placement,
                lambda end, i: send_numbered(
                    board, end, spec, kind, placement, range(i * count, (i + 1) * count)
                ),
                lambda end, i: take_numbered(
                    board, end, spec, kind, placement, i, total, count
                ),
            )  # fmt: skip
            board.wait(
                lambda: board.counts(spec.consumers) >= total, VERIFY_S, "verification"
            )
            tally(board, total, spec.consumers)
    finally:
        adapter.destroy(made)


def tally(board: Board, total: int, consumers: int) -> None:
    """Raise unless each number was seen exactly once by all consumers together."""
    for number in range(total):
        seen = sum(board.extra[total * i + number] for i in range(consumers))
        if seen != 1:
            raise AssertionError(f"message {number} arrived {seen} times")


def send_numbered(
    board: Board, end: Sender, spec: Spec, kind: str, placement: str, numbers: range
) -> None:
    """Put the messages of these numbers once each."""
    put = None if kind != ONE else blocking_put(end, pause_for(placement))
    board.ready()
    if put is not None:
        for number in numbers:
            put(message(number, spec.size))
    elif kind == ARRAY:
        assert end.put_array is not None
        for number in numbers:
            end.put_array(float_array(spec.size, float(number)))
    else:
        assert end.batch is not None
        assert end.put_many is not None
        for at in range(0, len(numbers), BATCH):
            part = [message(n, spec.size) for n in numbers[at : at + BATCH]]
            end.put_many(end.batch(part))
    board.until_stop()  # an end that is dropped now could take unsent messages along


def take_numbered(
    board: Board,
    end: Receiver,
    spec: Spec,
    kind: str,
    placement: str,
    index: int,
    total: int,
    count: int,
) -> None:
    """Get until stopped; check each message and mark its number as seen."""
    last = [-1] * spec.producers
    seen = board.extra[total * index : total * (index + 1)]
    get = blocking_get(end, pause_for(placement)) if kind == ONE else None

    def mark(number: int) -> None:
        producer = number // count
        if number <= last[producer]:
            raise AssertionError(f"message {number} came after {last[producer]}")
        last[producer] = number
        seen[number] += 1
        board.words[COUNT + STRIDE * index] += 1

    def mark_bytes(data: Any) -> None:
        number = int.from_bytes(data[:NUMBER], "little")
        if bytes(data)[: spec.size] != message(number, spec.size) or number >= total:
            raise AssertionError(f"message {number} is torn: {bytes(data)[:24]!r}")
        mark(number)

    def mark_array(array: Any) -> None:
        if not (array == array[0]).all() or array.nbytes != spec.size:
            raise AssertionError("an array is torn")
        mark(int(array[0]))

    board.ready()
    while not board.words[0]:
        if get is not None:
            mark_bytes(get())
        elif kind == ARRAY:
            assert end.get_array is not None
            end.get_array(mark_array)
        else:
            assert end.get_many is not None
            assert end.records is not None
            end.get_many()
            for record in end.records():
                mark_bytes(record)
