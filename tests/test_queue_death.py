"""`rings.Queue` among processes that are killed, and stopped, at random moments."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest

from rings import Queue, ShutDown
from rings.queue import Empty, Full

HANG_S = 30
KILLS = int(os.environ.get("RINGS_KILLS", "200"))
LENGTHS = (0, 10, 200, 300, 5_000, 20_000)
fork = multiprocessing.get_context("fork")


def message(producer, seq):
    length = LENGTHS[seq % len(LENGTHS)]
    fill = (producer * 31 + seq) % 251
    if seq % 3 == 0:
        return (producer, seq, np.full(length, fill, np.uint8))
    return (producer, seq, bytes([fill]) * length)


def is_torn(obj):
    producer, seq, payload = obj
    return bytes(payload) != bytes(message(producer, seq)[2])


def produce(q, log, producer):
    seq = 0
    while True:
        q.put(message(producer, seq))
        os.write(log, b"put %d %d\n" % (producer, seq))
        seq += 1


def consume(q, log, _):
    while True:
        producer, seq, payload = obj = q.get()
        word = b"torn" if is_torn(obj) else b"got"
        del obj, payload
        os.write(log, b"%s %d %d\n" % (word, producer, seq))


class Storm:
    """Processes of both kinds, killed and started again."""

    def __init__(self, q, log, seed):
        self.q, self.log = q, log
        self.rng = random.Random(seed)
        self.started = 0
        self.killed = collections.Counter()
        self.crew = [self.start(work) for work in (produce, consume) * 3]

    def start(self, work):
        self.started += 1
        process = fork.Process(target=work, args=(self.q, self.log, self.started))
        process.start()
        return work, process

    def kill(self, place):
        work, process = self.crew[place]
        process.kill()
        process.join()
        process.close()
        self.killed[work] += 1
        return work

    def rage(self, kills):
        for _ in range(kills):
            time.sleep(self.rng.random() * 0.008)
            place = self.rng.randrange(len(self.crew))
            self.crew[place] = self.start(self.kill(place))

    def end(self):
        for place in range(len(self.crew)):
            self.kill(place)


def read_log(path):
    seen = collections.defaultdict(collections.Counter)
    for line in path.read_text().splitlines():
        word, producer, seq = line.split()
        seen[word][int(producer), int(seq)] += 1
    return seen


def drain(q):
    """Get all there is; a slot of somebody dead takes some milliseconds."""
    q.recover()
    while True:
        try:
            obj = q.get(timeout=0.2)
        except Empty:
            return
        yield obj


def assert_whole(q):
    """Capacity is what it was: slots, and blocks."""
    q.recover()
    assert q.blocks_used == 0
    assert q.put_many(range(q.maxsize + 1), block=False) == q.maxsize
    assert q.get_many(q.maxsize + 1) == list(range(q.maxsize))
    whole = bytes(q.pool.size)
    q.put(whole, timeout=HANG_S)
    assert q.get() == whole


@pytest.mark.parametrize("views", [False, True])
def test_a_storm_of_kills(tmp_path, start, views):
    path = tmp_path / "log"
    log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    with Queue(13, pool_size=256 << 10, start=start, views=views) as q:
        storm = Storm(q, log, seed=start + views)
        storm.rage(KILLS // 6 + 1)
        before = path.stat().st_size
        give_up = time.monotonic() + HANG_S
        while path.stat().st_size < before + 2000:  # the survivors make progress
            assert time.monotonic() < give_up, "the survivors are stuck"
            time.sleep(0.01)
        storm.end()
        left = collections.Counter()
        for obj in drain(q):
            assert not is_torn(obj)
            left[obj[:2]] += 1
            del obj
        seen = read_log(path)
        facts = q.statistics()
        assert_whole(q)
    os.close(log)
    got = seen["got"] + left
    assert not seen["torn"]
    assert set(got.values()) == {1}, "got twice"
    lost = seen["put"].keys() - got.keys()
    assert len(lost) <= storm.killed[consume]
    assert facts.in_doubt <= storm.killed[consume]
    assert facts.tombstones <= storm.killed[produce]
    assert len(got) > KILLS


# -- one death at a chosen place -------------------------------------------------


def in_child(work, *args):
    """Start `work` and kill it once it says so."""
    ours, theirs = multiprocessing.Pipe()
    process = fork.Process(target=work, args=(*args, theirs))
    process.start()
    assert ours.poll(HANG_S)
    assert ours.recv() == "ready"
    ours.close(), theirs.close()
    return process


def hold_a_view(q, pipe):
    array = q.get()
    pipe.send("ready")
    time.sleep(HANG_S)
    print(array)


def test_blocks_of_a_dead_reader_come_back():
    with Queue(4, views=True, pool_size=64 << 10) as q:
        q.put(np.arange(5000))
        process = in_child(hold_a_view, q)
        whole = bytes(64 << 10)
        with pytest.raises(Full):  # it lives
            q.put(whole, timeout=0.05)
        process.kill()
        process.join()
        q.put(whole, timeout=HANG_S)
        assert q.get() == whole
        assert_whole(q)


def put_without_room(q, pipe):
    pipe.send("ready")
    q.put(bytes(30_000))


def test_blocks_of_a_dead_waiting_putter_come_back():
    with Queue(2, pool_size=64 << 10) as q:
        q.put_many([1, 2])
        process = in_child(put_without_room, q)
        give_up = time.monotonic() + HANG_S
        while q.blocks_used < 8:
            assert time.monotonic() < give_up
            time.sleep(0.001)
        q.recover()
        assert q.blocks_used == 8
        process.kill()
        process.join()
        assert q.blocks_used == 8
        q.recover()
        assert q.blocks_used == 0
        assert q.get_many(2) == [1, 2]
        assert_whole(q)


def put_and_wait(q, pipe):
    q.put(np.arange(3000))
    pipe.send("ready")
    time.sleep(HANG_S)


def test_a_message_of_a_dead_putter_keeps_its_blocks():
    with Queue(4, pool_size=64 << 10) as q:
        process = in_child(put_and_wait, q)
        process.kill()
        process.join()
        q.recover()
        assert q.blocks_used > 0
        with pytest.raises(Full):
            q.put(bytes(64 << 10), timeout=0.05)
        assert np.array_equal(q.get(), np.arange(3000))
        assert_whole(q)


# -- stopped is not dead ---------------------------------------------------------


def exchange(q, pipe):
    pipe.send("ready")
    try:
        while True:
            q.put(b"x" * 9000)
            q.get()
    except ShutDown:
        pass


def test_a_stopped_process_is_not_taken_for_dead_and_times_out_nobody(start):
    with Queue(3, pool_size=64 << 10, start=start) as q:
        process = in_child(exchange, q)
        for _ in range(20):
            time.sleep(0.003)
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            for call in (
                lambda: q.put(b"y" * 9000, timeout=0.01),
                lambda: q.get(timeout=0.01),
            ):
                with contextlib.suppress(Full, Empty):
                    call()
            assert q.statistics().recovered == 0
            os.kill(process.pid, signal.SIGCONT)
        q.shutdown()
        process.join(HANG_S)
        assert process.exitcode == 0
        while True:
            try:
                assert len(q.get(timeout=0.1)) == 9000
            except ShutDown:
                break
        assert q.blocks_used == 0
