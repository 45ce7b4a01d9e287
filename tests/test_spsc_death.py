"""Two processes, and what is left when one of them is killed at any moment."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from rings import layout, spsc
from rings.errors import BrokenError, BusyError, ClosedError
from tests.shares import PART, portion

KILLS = 200
MANY = 10_000 // 3  # of each kind
HANG_S = 60.0  # only against a hang: nothing here is timed


@contextlib.contextmanager
def child(run, *args):
    """Fork a child that runs a function; it is killed and reaped in the end."""
    pid = os.fork()
    if pid == 0:
        try:
            run(*args)
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def message(life, number, length=40):
    body = struct.pack("=QQ", life, number) + bytes([number % 251]) * length
    return body + zlib.crc32(body).to_bytes(4, "little")


def opened(data):
    """Return life and number of a whole message."""
    assert zlib.crc32(data[:-4]).to_bytes(4, "little") == data[-4:], "torn"
    return struct.unpack_from("=QQ", data)


def flood(ring, life, seed):
    """Put numbered messages for ever, in each way there is."""
    rng = random.Random(seed)
    number = 0
    producer = ring.producer()
    while True:
        length = rng.randrange(40) if ring.slot_size == 0 else 36
        data = message(life, number, length)
        way = rng.randrange(4)
        if way == 0:
            batch = [message(life, number + i, length) for i in range(5)]
            number += producer.put_many(batch, None)
        elif way == 1:
            with producer.claim(len(data) if ring.slot_size == 0 else 1) as memory:
                memory[:] = data
            number += 1
        else:
            producer.put(data)
            number += 1


KINDS = ["slots", "records", "references"]


def a_ring(kind, start):
    if kind == "references":  # all of them, and the pool is full before the ring is
        return spsc.create(ring_bytes=1024, pool_bytes=4096, inline_max=0, start=start)
    if kind == "records":
        return spsc.create(ring_bytes=1024, start=start)
    return spsc.create(slots=8, slot_size=56, start=start)


def kill_producers(kind, kills, seed):
    """Nothing torn, lost or doubled before each death, and then BrokenError."""
    rng = random.Random(seed)
    with a_ring(kind, 2**32 - 100) as ring, ring.consumer() as consumer:
        for life in range(kills):
            with child(flood, ring, life, life) as pid:
                expected = 0
                until = rng.randrange(1, 60)
                assert consumer.wait_peer(HANG_S) == pid
                with contextlib.suppress(BrokenError):
                    while True:
                        assert opened(consumer.get(HANG_S)) == (life, expected)
                        expected += 1
                        if expected == until:
                            kill(pid)
                assert expected >= until
        assert consumer.statistics()["generation"] == 1
        assert still_whole(ring, consumer, kills)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_producers_leave_whole_messages(kind):
    kill_producers(kind, KILLS, 3)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_many_killed_producers_leave_whole_messages(kind):
    kill_producers(kind, portion(MANY), 30 + PART)


def still_whole(ring, consumer, kills):
    """Whether the ring takes as much as a new one."""
    size = 56 if ring.slot_size else 512 if ring.pool_size else 120
    fits = 8  # 1024 / (8 + 120) records, or 4096 / 512 in the pool
    with ring.producer() as producer:
        assert producer.statistics()["generation"] > kills
        assert producer.put_many([bytes(size)] * (fits + 1)) >= fits - 1
    return consumer.get_many() != []


class Log:
    """Numbers that a child got, in memory that outlives it."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 1 << 22)
        self.words = memoryview(self.memory).cast("Q")

    def add(self, number):
        self.words[self.words[0] + 1] = number
        self.words[0] += 1

    def numbers(self):
        return self.words[1 : self.words[0] + 1].tolist()

    def close(self):
        self.words.release()
        self.memory.close()


def drink(ring, log, peeks):
    consumer = ring.consumer()
    while True:
        if peeks:
            with consumer.peek() as memory:
                log.add(opened(bytes(memory))[1])
        else:
            log.add(opened(consumer.get())[1])


def kill_consumers(kind, peeks, kills, seed):
    """`get`: at most one message a death; `peek`: none, and at most one twice."""
    rng = random.Random(seed)
    log = Log()
    number = deaths = 0
    with a_ring(kind, 2**31 - 50) as ring, ring.producer() as producer:
        for _ in range(kills):
            with child(drink, ring, log, peeks) as pid:
                assert producer.wait_peer(HANG_S) == pid
                for _ in range(rng.randrange(1, 40)):
                    producer.put(message(0, number, 36), HANG_S)
                    number += 1
                for _ in range(rng.randrange(3000)):
                    pass  # die while taking, not only while it sleeps
                kill(pid)
                deaths += 1
        with ring.consumer() as consumer:
            rest = [opened(data)[1] for data in consumer.get_many()]
    got = log.numbers() + rest
    assert got == sorted(got)
    missing = number - len(set(got))
    assert missing <= (0 if peeks else deaths)
    assert len(got) - len(set(got)) <= (deaths if peeks else 0)
    log.close()


PEEKS = pytest.mark.parametrize("peeks", [False, True], ids=["get", "peek"])


@PEEKS
@pytest.mark.parametrize("kind", KINDS)
def test_killed_consumers_lose_at_most_what_they_had(kind, peeks):
    kill_consumers(kind, peeks, KILLS, 5)


@pytest.mark.soak
@PEEKS
@pytest.mark.parametrize("kind", KINDS)
def test_many_killed_consumers_lose_at_most_what_they_had(kind, peeks):
    kill_consumers(kind, peeks, portion(MANY), 50 + PART)


def test_a_producer_asleep_notices_a_dead_consumer():
    with a_ring("slots", 0) as ring, ring.producer() as producer:
        with child(sleeper, ring.consumer) as pid:
            assert producer.wait_peer(HANG_S) == pid
            producer.put_many([bytes(56)] * 8)
            watcher = os.fork()
            if watcher == 0:
                time.sleep(0.3)
                os.kill(pid, signal.SIGKILL)
                os._exit(0)
            with pytest.raises(BrokenError, match=rf"consumer \(pid {pid}\) died"):
                producer.put(bytes(56), HANG_S)
            os.waitpid(watcher, 0)
            with pytest.raises(BrokenError):
                producer.put(bytes(56))
        with ring.consumer() as consumer:
            assert len(consumer.get_many()) == 8
            producer.put(bytes(56))


def sleeper(take):
    end = take()
    while not end.closed:
        time.sleep(1)


@pytest.mark.parametrize("how", ["block", "spin:50", "busy"])
def test_a_consumer_asleep_notices_death_and_a_successor(how):
    with a_ring("records", 0) as ring, ring.consumer(wait=how) as consumer:
        with child(flood_a_few, ring, 5):
            assert consumer.wait_peer(HANG_S)
            assert [opened(consumer.get(HANG_S)) for _ in range(5)] == [
                (0, number) for number in range(5)
            ]
            with pytest.raises(BrokenError, match=r"producer \(pid \d+\) died"):
                consumer.get(HANG_S)
        with child(flood_a_few, ring, 2) as pid:
            assert consumer.wait_peer(HANG_S) == pid
            assert opened(consumer.get(HANG_S)) == (0, 0)


def flood_a_few(ring, count):
    producer = ring.producer()
    for number in range(count):
        producer.put(message(0, number))
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def stopped_is_not_dead(seconds):
    with (
        a_ring("slots", 0) as ring,
        ring.consumer() as consumer,
        child(sleeper, ring.producer) as pid,
    ):
        assert consumer.wait_peer(HANG_S) == pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match=rf"pid {pid} \(alive\)"):
            consumer.get(timeout=seconds)
        with pytest.raises(BusyError, match=f"pid {pid}, alive"):
            ring.producer()


def test_a_stopped_peer_is_not_dead():
    stopped_is_not_dead(1.0)


@pytest.mark.soak
def test_a_peer_stopped_for_long_is_not_dead():
    stopped_is_not_dead(30.0)


def test_an_unreaped_owner_is_dead():
    """A zombie still has its pid and start time, and nothing will come of it."""
    with a_ring("slots", 0) as ring, child(lambda: ring.producer()) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with ring.producer() as producer:
            assert producer.statistics()["generation"] in (1, 2)


def test_a_reused_pid_is_not_the_owner():
    """The owner word names a process of another start time: our own pid."""
    with a_ring("slots", 0) as ring:
        word = (12345 << layout.END_PID_BITS) | os.getpid()
        struct.pack_into("=Q", ring.region.buffer, layout.SPSC_PRODUCER, word)
        with ring.consumer() as consumer, pytest.raises(BrokenError):
            consumer.get()
        ring.producer().close()


def test_control_without_start_times_a_reused_pid_blocks():
    """The same word with our real start time is a live owner."""
    with a_ring("slots", 0) as ring:
        start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        word = (start << layout.END_PID_BITS) | os.getpid()
        struct.pack_into("=Q", ring.region.buffer, layout.SPSC_PRODUCER, word)
        with pytest.raises(BusyError):
            ring.producer()


def test_a_forked_child_cannot_use_or_give_back_an_end():
    with a_ring("slots", 0) as ring, ring.producer() as producer:
        view = producer.claim()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                view.publish()
            except ClosedError:
                producer.close()
                status = 0 if producer.closed else 2
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        view.publish()
        with pytest.raises(BusyError):
            ring.producer()


def hold(ring, gate):
    with ring.producer() as producer:
        producer.put(bytes(56))
        os.read(gate, 1)


def test_what_a_forked_child_closes_still_watches_the_peer():
    """Parent and child share the epoll that the parent sleeps in."""
    gate, never = os.pipe()
    with (
        spsc.create(slots=8, slot_size=56) as ring,
        ring.consumer() as consumer,
        child(hold, ring, gate) as pid,
    ):
        assert consumer.get(HANG_S) == bytes(56)
        with pytest.raises(TimeoutError):
            consumer.get(0.02)
        forked = os.fork()
        if forked == 0:
            consumer.close()
            os._exit(0)
        os.waitpid(forked, 0)
        kill(pid)
        with pytest.raises(BrokenError):
            consumer.get(HANG_S / 4)
    os.close(gate)
    os.close(never)


def crc_batches(ring, count, seed, result_fd):
    """Put ``count`` random slots in batches of random size; report their CRC."""
    rng = random.Random(seed)
    pool = rng.randbytes(1 << 20)
    crc = left = 0
    with ring.producer() as producer:
        left = count
        while left:
            at = rng.randrange(0, (1 << 20) - 64 * 256, 8)
            some = memoryview(pool)[at : at + 64 * min(left, rng.randrange(1, 257))]
            sent = producer.put_many(some, None)
            crc = zlib.crc32(some[: sent * 64], crc)
            left -= sent
    os.write(result_fd, crc.to_bytes(4, "little"))


def transfer(count, start):
    reader, writer = os.pipe()
    into = memoryview(bytearray(64 * 512))
    crc = got = 0
    with (
        spsc.create(slots=512, slot_size=64, start=start) as ring,
        ring.consumer() as consumer,
        child(crc_batches, ring, count, start, writer),
    ):
        while got < count:
            size = consumer.get_into(into, HANG_S)
            crc = zlib.crc32(into[:size], crc)
            got += size // 64
        assert int.from_bytes(os.read(reader, 4), "little") == crc
        assert (got, consumer.depth) == (count, 0)
    os.close(reader)
    os.close(writer)


def test_a_million_messages_checksummed(start):
    transfer(333_334, start)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_million_messages_checksummed():
    transfer(portion(10**9), 2**32 - 2)


def echo(there, back, seed):
    rng = random.Random(seed)
    with there.consumer() as consumer, back.producer() as producer:
        for data in consumer:
            idle(rng)
            producer.put(data)


def idle(rng):
    """Be late, sometimes by about as long as the other side takes to fall asleep."""
    for _ in range(rng.choice((0, 0, 0, 3, 30, 300))):
        pass


@pytest.mark.parametrize("wait", ["block", "spin:5"])
def test_no_wake_up_is_lost(wait, start):
    """Ping-pong without time-outs: one lost wake-up and this hangs."""
    rng = random.Random(start)
    there = spsc.create(slots=1, slot_size=8, start=start)
    back = spsc.create(slots=1, slot_size=8, start=start)
    with (
        there.producer(wait=wait) as producer,
        back.consumer(wait=wait) as consumer,
        child(echo, there, back, start),
    ):
        for number in range(3000):
            producer.put(number.to_bytes(8, "little"))
            idle(rng)
            assert consumer.get() == number.to_bytes(8, "little")
        producer.close()
        assert list(consumer) == []
    there.close()
    back.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pickles_to_children(method):
    script = Path(__file__).with_name("spsc_pickle.py")
    command = [sys.executable, "-W", "error", script, method]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert (result.stdout, result.stderr) == ("passed\n", "")


def test_a_subprocess_attaches_by_numbers():
    code = (
        "import sys; from rings import spsc\n"
        "ring = spsc.attach(*map(int, sys.argv[1:]))\n"
        "with ring.producer() as producer: producer.put(b'12345678')\n"
    )
    with spsc.create(slots=2, slot_size=8) as ring, ring.consumer() as consumer:
        fd, size, data, space = ring.handle()
        numbers = [str(number) for number in (fd, size, data, space)]
        command = [sys.executable, "-c", code, *numbers]
        subprocess.run(command, check=True, pass_fds=(fd, data, space))
        assert list(consumer) == [b"12345678"]


def waits_in_vain(rings):
    """Eight threads would share one GIL: eight ends, each in its own process."""
    with contextlib.ExitStack() as stack:
        for ring in rings:
            stack.enter_context(child(lambda ring=ring: ring.consumer().get()))
        time.sleep(10)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(after[:2]) - sum(before[:2])


@pytest.mark.soak
def test_eight_sleepers_cost_next_to_nothing():
    with contextlib.ExitStack() as stack:
        rings = [stack.enter_context(a_ring("slots", 0)) for _ in range(8)]
        for ring in rings:
            stack.enter_context(ring.producer())
        assert waits_in_vain(rings) < 0.1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs own-GIL interpreters")
def test_between_interpreters():
    script = Path(__file__).with_name("spsc_interpreter.py")
    command = [sys.executable, script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert (result.stdout, result.stderr) == ("passed\n", "")
