"""`rings.Queue` as one uses it: objects, bounds, waiting, sharing, shutdown."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import queue as stdlib_queue
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rings import ClosedError, Queue, ShutDown
from rings.queue import Empty, Full
from tests.interp import OWN_GIL, finish, require_python, start_in_interpreter

HANG_S = 30
METHODS = ("fork", "spawn", "forkserver")
SMALL = {"pool_size": 64 << 10}


@pytest.fixture
def q(start):
    with Queue(4, start=start, **SMALL) as q:
        yield q


def context(method):
    return multiprocessing.get_context(method)


# -- objects -------------------------------------------------------------------

OBJECTS = [
    None, True, -1, 2**100, 1.5, "text", "t" * 5000, b"", b"bytes", b"b" * 239,
    b"b" * 240, b"b" * 5000, bytearray(b"small"), bytearray(9000), (1, [2, {3: "x"}]),
    list(range(2000)), {"nested": {"deep": [b"x" * 4096] * 3}}, Full, len,
]  # fmt: skip


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: repr(obj)[:20])
def test_objects_come_out_as_they_went_in(q, obj):
    for _ in range(9):
        q.put(obj)
        got = q.get()
        assert got == obj
        assert type(got) is type(obj)
    assert q.blocks_used == 0


ARRAYS = [
    np.arange(10),
    np.arange(6000.0).reshape(2, 3, -1),
    np.asfortranarray(np.arange(4000).reshape(40, 100)),
    np.arange(8000)[::2],
    np.zeros(0),
    np.array([(1, 2.5)] * 500, dtype=[("a", "<i4"), ("b", ">f8")]),
    np.array([{"an": "object"}, None], dtype=object),
]


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}"[:24])
def test_arrays_come_out_as_they_went_in(array, views):
    with Queue(4, views=views, **SMALL) as q:
        q.put({"array": array, "again": array})
        got = q.get()["array"]
        assert got.dtype == array.dtype
        assert np.array_equal(got, array)
        assert got.flags.writeable


def test_what_was_read_only_stays_so(q):
    array = np.arange(2000)
    array.flags.writeable = False
    q.put(array)
    assert not q.get().flags.writeable


def test_copies_leave_nothing_in_the_pool(q):
    for lap in range(50):
        q.put([np.full(3000, lap), bytearray(7000)])
        array, raw = q.get()
        assert q.blocks_used == 0
        assert (array == lap).all()
        assert len(raw) == 7000


def test_views_lie_in_the_pool_until_the_last_one_dies():
    with Queue(4, views=True, **SMALL) as q:
        q.put([np.arange(1000), np.arange(1000, 2000)])
        one, two = q.get()
        assert not one.flags.owndata
        assert q.blocks_used > 0
        del one
        assert q.blocks_used > 0
        part = two[10:20]
        del two
        assert q.blocks_used > 0
        assert list(part) == list(range(1010, 1020))
        del part
        assert q.blocks_used == 0


def test_a_view_is_never_overwritten_by_the_next_message():
    with Queue(4, views=True, **SMALL) as q:
        kept = []
        for i in range(8):  # two blocks each
            q.put(np.full(1000, i))
            kept.append(q.get())
        with pytest.raises(Full, match="larger pool_size"):
            q.put(np.full(1000, 8), timeout=0.01)
        assert [int(a[0]) for a in kept if (a == a[0]).all()] == list(range(8))
        del kept[:]
        q.put(np.full(1000, 8))
        assert (q.get() == 8).all()


def test_views_outlive_close_and_the_queue():
    q = Queue(4, views=True, **SMALL)
    q.put(np.arange(3000))
    array = q.get()
    q.close()
    del q
    gc.collect()
    assert array.sum() == 2999 * 1500
    array[:] = 1


def test_a_message_larger_than_the_pool_is_refused_at_once(q):
    for obj in (bytes(65 << 10), np.zeros(65 << 10, "u1")):
        with pytest.raises(ValueError, match=r"larger than the queue's pool of 65536"):
            q.put(obj, timeout=HANG_S)
    q.put(bytes(64 << 10))
    assert q.get() == bytes(64 << 10)


def test_a_full_pool_waits_for_a_get(q):
    big = bytes(40 << 10)
    q.put(big)
    with pytest.raises(Full):
        q.put_nowait(big)
    with pytest.raises(Full, match="blocks"):
        q.put(big, timeout=0.01)
    q.put(b"small ones pass")
    late = threading.Timer(0.1, q.get)
    late.start()
    q.put(big, timeout=HANG_S)
    late.join()
    assert q.get() == b"small ones pass"
    assert q.get() == big
    assert q.blocks_used == 0


BLOCK = bytes(4096)


def put_until_full(queue, message):
    for count in range(1000):
        try:
            queue.put_nowait(message)
        except Full:
            return count
    raise AssertionError("the queue takes more than it has")


@pytest.mark.parametrize("used_before", [0, 1, 3, 70, 200])
@pytest.mark.parametrize("taken", [1, 2, 40, 127, 128])
def test_each_block_that_is_free_is_found(used_before, taken):
    with Queue(256, pool_size=128 * len(BLOCK)) as queue:
        for _ in range(used_before):
            queue.put(BLOCK)
            queue.put(BLOCK)
            queue.get()
            queue.get()
        assert put_until_full(queue, BLOCK) == 128
        for _ in range(taken):
            queue.get()
        assert put_until_full(queue, BLOCK) == taken


@pytest.mark.parametrize("taken", range(1, 17))
def test_a_run_is_found_where_just_so_many_neighbours_are_free(taken):
    with Queue(256, pool_size=128 * len(BLOCK)) as queue:
        assert put_until_full(queue, BLOCK) == 128
        queue.get()
        queue.put(BLOCK)
        for _ in range(taken):
            queue.get()
        with pytest.raises(Full):
            queue.put_nowait(BLOCK * (taken + 1))
        queue.put_nowait(BLOCK * taken)
        assert queue.blocks_used == 128


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not this one")


class Poison:
    def __reduce__(self):
        return (int, ("not a number",))


def test_what_cannot_be_pickled_raises_in_put(q):
    for bad in (Unpicklable(), [np.zeros(9000), Unpicklable()], lambda: None):
        with pytest.raises((RuntimeError, pickle.PicklingError, AttributeError)):
            q.put(bad)
    assert q.empty()
    q.put("next")
    assert q.get() == "next"


def test_what_cannot_be_unpickled_raises_in_get_and_is_gone(q):
    q.put(Poison())
    q.put(1)
    with pytest.raises(ValueError, match="not a number"):
        q.get()
    assert q.get() == 1


def test_pickling_may_use_the_queue_itself(q):
    class Nosy:
        def __reduce__(self):
            q.put("from within")
            return (int, ())

    q.put(Nosy())
    assert [q.get(), q.get()] == ["from within", 0]


def test_pickling_may_close_the_queue(q):
    class Rude:
        def __reduce__(self):
            q.close()
            return (bytes, (b"x" * 9000,))

    with pytest.raises(ClosedError):
        q.put(Rude())


# -- bounds --------------------------------------------------------------------


@pytest.mark.parametrize("maxsize", [1, 2, 3, 4, 5, 7, 8, 100])
def test_it_holds_exactly_maxsize(maxsize, start):
    with Queue(maxsize, start=start, **SMALL) as q:
        assert q.maxsize == maxsize
        for lap in range(5):
            for i in range(maxsize):
                assert q.qsize() == i
                assert not q.full()
                q.put_nowait((lap, i))
            assert q.full()
            with pytest.raises(Full):
                q.put_nowait(None)
            assert [q.get_nowait() for _ in range(maxsize)] == [
                (lap, i) for i in range(maxsize)
            ]
            assert q.empty()
            with pytest.raises(Empty):
                q.get_nowait()


def test_without_maxsize_it_holds_a_generous_number():
    with Queue() as q:
        assert q.maxsize == 16384
        assert q.put_many(range(20000), block=False) == 16384
        assert q.get_many(20000) == list(range(16384))


def test_several_threads_never_exceed_maxsize(start):
    with Queue(3, start=start, **SMALL) as q:
        seen, got = [], []

        def put():
            for i in range(400):
                q.put(i, timeout=HANG_S)
                seen.append(q.qsize())

        def get():
            for _ in range(400):
                got.append(q.get(timeout=HANG_S))

        threads = [threading.Thread(target=f) for f in (put, put, get, get)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(seen) <= 3
        assert sorted(got) == sorted([*range(400)] * 2)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"maxsize": 2**21}, "maxsize"),
        ({"slot_size": 23}, "slot_size"),
        ({"slot_size": 4097}, "slot_size"),
        ({"pool_size": 0}, "pool_size"),
    ],
)
def test_impossible_numbers_are_refused(numbers, text):
    with pytest.raises(ValueError, match=text):
        Queue(**numbers)
    gc.collect()


# -- batches -------------------------------------------------------------------


def test_batches(q):
    assert q.put_many(["a", "b", "c", "d", "e"], timeout=0) == 4
    assert q.get_many(3) == ["a", "b", "c"]
    assert q.get_many(9) == ["d"]
    with pytest.raises(Empty):
        q.get_many(9, block=False)
    assert q.put_many([]) == 0
    with pytest.raises(ValueError, match="limit"):
        q.get_many(0)


def test_a_batch_says_how_far_it_came(q):
    assert q.put_many([1, 2, Unpicklable(), 3]) == 2
    with pytest.raises(RuntimeError):
        q.put_many([Unpicklable()])
    assert q.get_many(9) == [1, 2]
    assert q.put_many([1, Poison(), 3]) == 3
    assert q.get_many(9) == [1]
    with pytest.raises(ValueError, match="not a number"):
        q.get()
    assert q.get() == 3


# -- waiting -------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.001, 0.05, -1])
def test_timeouts_bound(q, timeout):
    with pytest.raises(Empty):
        q.get(True, timeout)
    q.put_many(range(4))
    with pytest.raises(Full):
        q.put(4, True, timeout)


def test_keywords_and_positions(q):
    q.put(1, True, None)
    q.put(obj=2, block=False)
    q.put(3, timeout=1)
    assert q.get(False) == 1
    assert q.get(block=True, timeout=None) == 2
    assert q.get(True, 1) == 3
    for call in (
        lambda: q.put(),
        lambda: q.put(1, True, None, None),
        lambda: q.get(nonsense=1),
        lambda: q.put(1, timeout="soon"),
    ):
        with pytest.raises(TypeError):
            call()


def test_a_waiting_get_can_be_interrupted(q):
    def interrupt(number, frame):
        raise InterruptedError

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError):
            q.get()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def wait_and_report(q, pipe):
    pipe.send("ready")
    message = q.get()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((message, usage.ru_utime + usage.ru_stime))


def test_blocked_readers_cost_nothing():
    """Eight readers for three seconds: what they used after they began to wait."""
    with Queue(**SMALL) as q:
        readers = []
        for _ in range(8):
            ours, theirs = multiprocessing.Pipe()
            process = context("fork").Process(target=wait_and_report, args=(q, theirs))
            process.start()
            readers.append((process, ours, theirs))
        for _, ours, _ in readers:
            assert ours.poll(HANG_S)
            assert ours.recv() == "ready"
        time.sleep(0.3)
        before = sum(cpu_s(process.pid) for process, _, _ in readers)
        time.sleep(3)
        used = sum(cpu_s(process.pid) for process, _, _ in readers) - before
        q.put_many(range(8))
        for process, ours, theirs in readers:
            assert ours.recv()[0] in range(8)
            process.join()
            ours.close()
            theirs.close()
        assert used <= 0.05


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- processes -----------------------------------------------------------------


def double(asked, answers):
    for n in iter(asked.get, None):
        answers.put((n, n["array"] * 2) if isinstance(n, dict) else n * 2)


@pytest.mark.parametrize("method", METHODS)
def test_it_goes_to_processes(method, start):
    with Queue(8, start=start) as asked, Queue(8, start=start) as answers:
        worker = context(method).Process(target=double, args=(asked, answers))
        worker.start()
        for n in (1, "x", b"y" * 1000):
            asked.put(n)
            assert answers.get(timeout=HANG_S) == n * 2
        asked.put({"array": np.arange(5000)})
        assert np.array_equal(answers.get(timeout=HANG_S)[1], np.arange(5000) * 2)
        asked.put(None)
        worker.join()
        assert worker.exitcode == 0


def test_a_queue_travels_through_a_queue():
    with Queue(4, **SMALL) as outer, Queue(4, **SMALL) as inner:
        outer.put(inner)
        with outer.get() as again:
            again.put("hello")
        assert inner.get(timeout=HANG_S) == "hello"


def test_connections_travel_as_multiprocessing_sends_them():
    ours, theirs = multiprocessing.Pipe()
    with Queue(4, **SMALL) as q:
        q.put(theirs)
        with q.get() as copy:
            assert copy.fileno() != theirs.fileno()
            copy.send("by the copy")
        assert ours.recv() == "by the copy"
    ours.close()
    theirs.close()


SUBPROCESS = """
import sys
from rings import Queue
with Queue.attach(tuple(map(int, sys.argv[1:]))) as q:
    q.put(q.get()[::-1])
"""


def test_a_subprocess_attaches_by_the_handle(q):
    handle = q.handle()
    q.put("abc" * 1000)
    subprocess.run(
        [sys.executable, "-c", SUBPROCESS, *map(str, handle)],
        pass_fds=handle,
        check=True,
    )
    assert q.get(timeout=HANG_S) == "cba" * 1000


INTERPRETER = """
from rings import Queue
asked, answers = Queue.attach(ints[:4]), Queue.attach(ints[4:])
for n in range(200):
    got = asked.get(timeout=30)
    assert got == {"n": n, "data": b"x" * n * 10}, got
    answers.put((n, bytearray(5000)))
asked.close(), answers.close()
"""


@pytest.mark.parametrize("version", OWN_GIL)
def test_it_goes_to_own_gil_interpreters(version):
    python = require_python(version)
    with Queue(4) as asked, Queue(4) as answers:
        handles = (*asked.handle(), *answers.handle())
        child = start_in_interpreter(python, INTERPRETER, *handles, fds=handles)
        for n in range(200):
            asked.put({"n": n, "data": b"x" * n * 10}, timeout=HANG_S)
            assert answers.get(timeout=HANG_S) == (n, bytearray(5000))
        finish(child)
        assert asked.blocks_used == answers.blocks_used == 0


def test_a_forked_child_is_a_member_of_its_own(q):
    number = q.owner
    pid = os.fork()
    if pid == 0:
        q.put((q.owner, os.getpid()))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert q.get(timeout=HANG_S)[0] != number
    assert q.owner == number


def test_a_forked_child_gives_back_nothing_of_its_parents():
    with Queue(4, views=True, **SMALL) as q:
        q.put(np.arange(3000))
        kept = q.get()
        used = q.blocks_used
        pid = os.fork()
        if pid == 0:
            del kept
            q.recover()
            os._exit(q.blocks_used != used)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert q.blocks_used == used
        del kept
        assert q.blocks_used == 0


def put_and_exit(q):
    q.put("small")
    q.put(b"large" * 2000)
    os._exit(0)


def test_what_was_put_outlives_the_putter(q):
    process = context("fork").Process(target=put_and_exit, args=(q,))
    process.start()
    process.join()
    assert q.get(timeout=HANG_S) == "small"
    assert q.get(timeout=HANG_S) == b"large" * 2000
    assert q.blocks_used == 0


def test_join_before_get_does_not_hang():
    """`multiprocessing.Queue` deadlocks here: its feeder waits for a reader."""
    with Queue() as q:
        process = context("fork").Process(
            target=q.put_many, args=([b"x" * 999] * 2000,)
        )
        process.start()
        process.join(HANG_S)
        assert process.exitcode == 0
        assert q.get_many(5000) == [b"x" * 999] * 2000


# -- shutdown and close --------------------------------------------------------


def test_shutdown_lets_what_was_put_be_got(q):
    q.put(1)
    q.put(b"x" * 5000)
    q.shutdown()
    with pytest.raises(ShutDown):
        q.put(2)
    with pytest.raises(ShutDown):
        q.put(b"y" * 5000)
    assert [q.get(), q.get()] == [1, b"x" * 5000]
    for call in (q.get, q.get_nowait, lambda: q.get_many(3)):
        with pytest.raises(ShutDown):
            call()
    assert q.blocks_used == 0


def test_an_immediate_shutdown_drops_what_is_in_it(q):
    q.put(1)
    q.shutdown(immediate=True)
    assert q.qsize() == 0
    with pytest.raises(ShutDown):
        q.get()
    q.shutdown()


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("blocked", ["get", "put", "put_large"])
def test_shutdown_wakes_those_who_wait(start, immediate, blocked):
    with Queue(2, start=start, **SMALL) as q:
        if blocked == "put":
            q.put_many([1, 2])
        elif blocked == "put_large":
            q.put(bytes(40 << 10))
        calls = {
            "get": q.get,
            "put": lambda: q.put(3),
            "put_large": lambda: q.put(bytes(40 << 10)),
        }
        raised = []

        def wait():
            try:
                calls[blocked]()
            except ShutDown as error:
                raised.append(error)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        q.shutdown(immediate)
        for thread in threads:
            thread.join(HANG_S)
        assert len(raised) == 3


def test_shut_down_is_what_the_stdlib_calls_it():
    if hasattr(stdlib_queue, "ShutDown"):
        assert issubclass(ShutDown, stdlib_queue.ShutDown)
    assert Empty is stdlib_queue.Empty
    assert Full is stdlib_queue.Full


def test_close_is_final_here_and_here_only(q):
    with q.twin() as other:
        q.put(1)
        q.close()
        q.close()
        q.join_thread()
        q.cancel_join_thread()
        for call in (q.get, q.get_nowait, lambda: q.put(1), q.qsize, q.empty):
            with pytest.raises(ValueError, match="is closed"):
                call()
        assert other.get() == 1
    assert "closed" in repr(q)


def test_close_wakes_threads_of_this_process(q):
    raised = []

    def wait():
        try:
            q.get()
        except ClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    q.close()
    thread.join(HANG_S)
    assert len(raised) == 1


def test_statistics_add_up(q):
    q.put_many([1, 2, bytes(9000)])
    assert q.get() == 1
    facts = q.statistics()
    assert (facts.size, facts.objects_put, facts.objects_got) == (2, 3, 1)
    assert (facts.tombstones, facts.in_doubt, facts.recovered) == (0, 0, 0)
    assert (facts.pool_size, facts.pool_used) == (64 << 10, 12 << 10)
    assert [member.pid for member in facts.members] == [os.getpid()]


# -- against a model -----------------------------------------------------------


class Model(RuleBasedStateMachine):
    """A queue of three, and a list."""

    def __init__(self):
        super().__init__()
        self.queue = Queue(3, start=2**32 - 5, pool_size=16 << 10)
        self.model = []

    objects = st.one_of(
        st.integers(), st.binary(max_size=9000), st.text(), st.lists(st.booleans())
    )

    @rule(obj=objects)
    def put(self, obj):
        try:
            self.queue.put_nowait(obj)
        except Full:
            assert len(self.model) == 3 or self.queue.blocks_used > 0
        else:
            self.model.append(obj)
            assert len(self.model) <= 3

    @rule(objects=st.lists(objects, max_size=5))
    def put_many(self, objects):
        try:
            done = self.queue.put_many(objects, block=False)
        except Full:
            done = 0
        self.model += objects[:done]

    @rule()
    def get(self):
        try:
            got = self.queue.get_nowait()
        except Empty:
            assert not self.model
        else:
            assert got == self.model.pop(0)

    @precondition(lambda self: self.model)
    @rule(limit=st.integers(1, 5))
    def get_many(self, limit):
        assert self.queue.get_many(limit) == self.model[:limit]
        del self.model[:limit]

    @invariant()
    def agrees(self):
        assert self.queue.qsize() == len(self.model)
        if not self.model:
            assert self.queue.blocks_used == 0

    def teardown(self):
        self.queue.close()


TestModel = Model.TestCase
TestModel.settings = settings(settings.get_profile("ci"), stateful_step_count=40)
