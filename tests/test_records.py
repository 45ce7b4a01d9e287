"""Structured arrays through a ring: whole, typed, and not outliving their slots."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from rings import records, spsc
from rings.errors import BusyError, LayoutError

TICK = np.dtype([("time", "<u8"), ("price", "<f8"), ("name", "S4")])


def ticks(n, first=0):
    array = np.zeros(n, TICK)
    array["time"] = np.arange(first, first + n)
    array["price"] = array["time"] * 0.5
    array["name"] = b"abc"
    return array


@pytest.fixture
def pair(start):
    with (
        records.create(TICK, slots=8, start=start) as ring,
        ring.producer() as producer,
        ring.consumer() as consumer,
    ):
        yield producer, consumer


def test_arrays_there_and_back(pair):
    producer, consumer = pair
    for first in range(0, 40, 5):
        assert producer.put_many(ticks(5, first)) == 5
        assert (consumer.get_many() == ticks(5, first)).all()
    assert producer.put_many(ticks(11)) == 8
    out = np.empty(20, TICK)
    assert (consumer.get_many(3, out=out) == ticks(3)).all()
    assert (consumer.get_many(out=out) == ticks(5, 3)).all()
    assert consumer.get_many().size == consumer.get_many(0).size == 0
    assert consumer.get_many(2, timeout=0.01).size == 0


def test_strided_arrays_are_packed(pair):
    producer, consumer = pair
    assert producer.put_many(ticks(6)[::2]) == 3
    assert consumer.get_many()["time"].tolist() == [0, 2, 4]


def test_wrong_types_are_refused(pair):
    producer, consumer = pair
    with pytest.raises(TypeError, match="the ring takes"):
        producer.put_many(np.zeros(3))
    with pytest.raises(TypeError, match="contiguous array"):
        consumer.get_many(out=np.zeros(3))
    with pytest.raises(TypeError, match="contiguous array"):
        consumer.get_many(out=np.empty(8, TICK)[::2])
    with pytest.raises(ValueError, match="Python objects"):
        records.create([("x", object)])
    with pytest.raises(ValueError, match="no bytes"):
        records.create([])


def test_fill_and_read_in_place(pair):
    producer, consumer = pair

    def fill(array):
        array[:2] = ticks(2, 7)
        return 2

    assert producer.fill(fill, 2) in (1, 2) or pytest.fail("a piece is 1 or 2")
    assert consumer.read(lambda array: array["time"].tolist(), 8)[:1] == [7]
    assert producer.fill(lambda array: None) == 1
    assert consumer.read(lambda array: array.flags.writeable) is False


def test_an_error_in_place_changes_nothing(pair):
    producer, consumer = pair
    producer.put_many(ticks(1))

    def fail(array):
        raise KeyError(array["time"][0])

    with pytest.raises(KeyError):
        consumer.read(fail)
    with pytest.raises(KeyError):
        producer.fill(fail)
    assert producer.put_many(ticks(1, 1)) == 1
    assert consumer.get_many()["time"].tolist() == [0, 1]


def test_a_kept_array_holds_its_slot(pair):
    producer, consumer = pair
    producer.put_many(ticks(8))
    kept = []
    with pytest.raises(BusyError, match="still point"):
        consumer.read(kept.append)
    assert producer.put_many(ticks(1, 100)) == 0
    assert kept[0]["time"].tolist() == [0]
    part = kept.pop()["price"]
    with pytest.raises(BusyError):
        consumer.end.release()
    assert producer.put_many(ticks(1, 100)) == 0
    assert part.tolist() == [0]
    del part
    assert consumer.get_many()["time"].tolist() == list(range(8))


def test_another_dtype_does_not_attach():
    with records.create(TICK, slots=8) as ring:
        handle = ring.ring.handle()
        with records.attach(TICK, *handle) as twin:
            assert twin.dtype == TICK
        swapped = np.dtype([("price", "<f8"), ("time", "<u8"), ("name", "S4")])
        for other in (swapped, TICK.newbyteorder(), np.dtype("V20"), "f8"):
            with pytest.raises(LayoutError, match="use the dtype"):
                records.attach(other, *handle)
    with spsc.create() as plain, pytest.raises(LayoutError):
        records.RecordRing(plain, np.dtype("V64"))


def send(ring, count):
    with ring.producer() as producer:
        sent = 0
        while sent < count:
            sent += producer.put_many(ticks(count - sent, sent), None)


def test_ten_thousand_to_another_process():
    context = multiprocessing.get_context("fork")
    with records.create(TICK, slots=256) as ring, ring.consumer() as consumer:
        child = context.Process(target=send, args=(ring, 10_000))
        child.start()
        got = 0
        while got < 10_000:
            array = consumer.get_many(timeout=30)
            assert (array == ticks(array.size, got)).all()
            got += array.size
        child.join()
        assert child.exitcode == 0


def test_an_array_by_itself_is_no_record():
    """numpy spreads its shape over the array that is asked for."""
    with pytest.raises(ValueError, match=r"field.*\('data', '\|u1', \(2, 3\)\)"):
        records.create(np.dtype(("u1", (2, 3))))
    records.create(np.dtype([("data", "|u1", (2, 3))])).close()


@pytest.mark.parametrize("count", [np.int64(1), 99, -1, "1"], ids=repr)
def test_a_wrong_count_gives_the_claim_back(pair, count):
    """The exception held the claim as long as somebody kept it."""
    producer, consumer = pair
    with pytest.raises((TypeError, ValueError, OverflowError)) as kept:
        producer.fill(lambda array: count, 2)
    assert producer.put_many(ticks(1)) == 1
    assert consumer.get_many().size == 1
    assert kept.value


@pytest.mark.parametrize("wrong", [[1, 2], None, np.zeros(1)], ids=str)
def test_what_is_no_array_of_records_is_named(pair, wrong):
    with pytest.raises(TypeError, match="arrays of"):
        pair[0].put_many(wrong)


def test_a_negative_number_of_records_is_refused(pair):
    producer, consumer = pair
    producer.put_many(ticks(3))
    for out in (None, np.empty(3, TICK)):
        with pytest.raises(ValueError, match="max must be 0 or more"):
            consumer.get_many(-1, out=out)
    assert consumer.get_many().size == 3
