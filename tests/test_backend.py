"""A service in Python: every request is answered once, whatever the service does."""

from __future__ import annotations

import errno
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons import backend
from daemons.backend import Backend, Batch, Request
from rings.errors import LocalProtocolError

Answers = list[tuple[int, int]]


def batch_of(count: int) -> tuple[Batch, Answers]:
    answers: Answers = []
    requests = [
        Request(100 + i, backend.OP_READ, 512 * i, 4, (memoryview(bytearray(4)),))
        for i in range(count)
    ]
    return Batch(
        requests, lambda place, result: answers.append((100 + place, result))
    ), answers


class Calls(Backend):
    """Serves by calling a function."""

    def __init__(self, function: Callable[[Batch], object]) -> None:
        self.function = function

    def serve(self, batch: Batch) -> None:
        self.function(batch)


def test_batch_is_a_sequence_of_requests() -> None:
    batch, _ = batch_of(3)
    assert len(batch) == 3
    assert [request.id for request in batch] == [100, 101, 102]
    assert batch[-1].offset == 1024
    assert [request.id for request in batch[1:]] == [101, 102]
    assert isinstance(batch, Sequence)


def test_each_is_answered_by_its_place() -> None:
    batch, answers = batch_of(3)
    batch.respond(2, 4)
    batch.respond(0, -errno.ENOSPC)
    batch.respond(-2, 0)
    assert answers == [(102, 4), (100, -errno.ENOSPC), (101, 0)]
    assert batch.statistics().unanswered == 0


def test_all_are_answered_at_once() -> None:
    batch, answers = batch_of(3)
    batch.respond_all([1, 2, 3])
    assert answers == [(100, 1), (101, 2), (102, 3)]


def test_second_answer_is_refused() -> None:
    batch, answers = batch_of(2)
    batch.respond(1, 0)
    with pytest.raises(LocalProtocolError, match="request 1"):
        batch.respond(-1, 0)
    with pytest.raises(LocalProtocolError, match="some requests"):
        batch.respond_all([0, 0])
    assert answers == [(101, 0)]


def test_impossible_answers_are_refused_and_nothing_is_answered() -> None:
    batch, answers = batch_of(2)
    for result in (-4096, 1 << 63):
        with pytest.raises(ValueError, match="minus an errno"):
            batch.respond(0, result)
        with pytest.raises(ValueError, match="minus an errno"):
            batch.respond_all([0, result])
    with pytest.raises(ValueError, match="3 results for 2"):
        batch.respond_all([0, 0, 0])
    with pytest.raises(IndexError):
        batch.respond(2, 0)
    assert not answers


def test_segment_is_gone_once_answered() -> None:
    batch, _ = batch_of(2)
    segment = batch[0].segments[0]
    segment[:] = b"data"
    batch.respond(0, 4)
    with pytest.raises(ValueError, match="released"):
        segment[0]
    assert batch[1].segments[0][0] == 0


def test_segment_still_exported_does_not_stop_the_answer() -> None:
    batch, answers = batch_of(1)
    kept = memoryview(batch[0].segments[0])
    batch.respond(0, 4)
    assert answers == [(100, 4)]
    kept.release()


def test_exception_answers_what_is_left_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(batch: Batch) -> None:
        batch.respond(1, 4)
        raise ZeroDivisionError("a defect of the service")

    batch, answers = batch_of(3)
    with caplog.at_level(logging.ERROR, "rings.daemon"):
        backend.serve(Calls(fail), batch)
    assert answers == [(101, 4), (100, -errno.EIO), (102, -errno.EIO)]
    assert "2 of 3 requests answered EIO" in caplog.text
    assert "a defect of the service" in caplog.text


def test_forgotten_requests_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    batch, answers = batch_of(2)
    with caplog.at_level(logging.ERROR, "rings.daemon"):
        backend.serve(Calls(lambda batch: batch.respond(0, 4)), batch)
    assert answers == [(100, 4), (101, -errno.EIO)]
    assert "without answering 1 of 2" in caplog.text


def test_default_service_knows_no_operation() -> None:
    batch, answers = batch_of(1)
    backend.serve(Backend(), batch)
    assert answers == [(100, -errno.EOPNOTSUPP)]


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-5000, 5000)), max_size=20))
def test_whatever_it_does_each_request_has_one_answer(
    calls: list[tuple[int, int]],
) -> None:
    def serve(batch: Batch) -> None:
        for index, result in calls:
            batch.respond(index, result)

    batch, answers = batch_of(5)
    backend.serve(Calls(serve), batch)
    assert Counter(id for id, _ in answers) == dict.fromkeys(range(100, 105), 1)


def test_many_threads_answer_each_request_once() -> None:
    batch, answers = batch_of(200)
    refused = []

    def answer() -> None:
        for index in range(200):
            try:
                batch.respond(index, 0)
            except LocalProtocolError:
                refused.append(index)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(100 + i, 0) for i in range(200)]
    assert len(refused) == 600


def test_numpy_view_of_a_batch() -> None:
    numpy = pytest.importorskip("numpy")
    batch, answers = batch_of(3)
    rows = batch.array()
    assert rows["offset"].tolist() == [0, 512, 1024]
    assert rows["id"].tolist() == [100, 101, 102]
    batch.respond_all(numpy.minimum(rows["length"], 3))
    assert answers == [(100, 3), (101, 3), (102, 3)]
