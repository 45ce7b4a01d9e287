"""MPMC rings: messages, limits, waiting, sharing; death is in test_mpmc_death.py."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial

import pytest

from rings import (
    BusyError,
    ClosedError,
    LayoutError,
    RemoteProtocolError,
    ShutDown,
    layout,
)
from rings.memory import Region
from rings.mpmc import Consumer, Member, Producer, Ring

STARTS = (0, 2**31 - 2, 2**32 - 2, 2**48 - 2, 2**64 - 2)
HANG_S = 30.0


@pytest.fixture(params=STARTS, ids=lambda start: f"start={start:#x}")
def start(request):
    return request.param


@pytest.fixture
def ring(start):
    with Ring.create(slots=4, slot_size=48, start=start) as ring:
        yield ring


# -- messages ------------------------------------------------------------------


def test_messages_come_out_as_they_went_in(ring):
    with Producer(ring) as producer, Consumer(ring) as consumer:
        for i in range(48):
            assert producer.try_put(bytes([i]) * i)
            assert consumer.try_get() == bytes([i]) * i
        assert consumer.try_get() is None


def test_a_full_ring_refuses_and_holds_exactly_its_slots(ring):
    with Member(ring) as member:
        assert [member.try_put(b"x") for _ in range(5)] == [True] * 4 + [False]
        assert member.size == 4
        assert [member.try_get() for _ in range(5)] == [b"x"] * 4 + [None]
        assert member.size == 0


def test_batches_stop_at_full_and_at_empty(ring):
    with Member(ring) as member:
        for lap in range(10):
            messages = [b"%d.%d" % (lap, i) for i in range(7)]
            assert member.put_many(messages) == 4
            assert member.get_many(3) == messages[:3]
            assert member.put_many(messages[4:]) == 3
            assert member.get_many(100) == messages[3:]
            assert member.get_many(1) == []


def test_records_go_through_buffers(ring):
    with Member(ring) as member:
        out = bytearray(24)
        assert member.put_records(bytes(range(24)), 6) == 4
        assert member.get_records(out, 6) == 4
        assert out == bytes(range(24))
        assert member.get_records(out, 6) == 0


def test_a_message_of_another_size_stops_a_run_of_records(ring):
    with Member(ring) as member:
        out = bytearray(8)
        member.put_many([b"abcd", b"wrong"])
        assert member.get_records(out, 4) == 1
        with pytest.raises(ValueError, match="5 bytes, not 4"):
            member.get_records(out, 4)
        assert member.get() == b"wrong"


def test_order_is_kept_for_each_producer(ring):
    with Member(ring) as one, Member(ring) as two, Consumer(ring) as consumer:
        one.put(b"1a"), two.put(b"2a"), one.put(b"1b"), two.put(b"2b")
        assert consumer.get_many(4) == [b"1a", b"2a", b"1b", b"2b"]


def test_any_bytes_like_object_may_be_put(ring):
    with Member(ring) as member:
        for message in (b"ab", bytearray(b"ab"), memoryview(b"ab")):
            member.put(message)
            assert member.get() == b"ab"
        with pytest.raises(TypeError):
            member.put("text")


# -- limits ----------------------------------------------------------------------


def test_a_message_longer_than_a_slot_is_refused_with_numbers(ring):
    with Member(ring) as member:
        with pytest.raises(ValueError, match=r"49 bytes is longer .* of 48"):
            member.put(bytes(49))
        assert member.put_many([b"fits"]) == 1
        with pytest.raises(ValueError, match="longer"):
            member.put_many([bytes(49)])
        with pytest.raises(ValueError, match="longer"):
            member.put_records(bytes(98), 49)
        with pytest.raises(ValueError, match="whole number"):
            member.put_records(bytes(10), 3)
        assert member.get_many(9) == [b"fits"]


def test_an_error_in_a_batch_does_not_hide_what_was_put():
    with Ring.create(slots=4, slot_size=48) as ring, Member(ring) as member:
        assert member.put_many([b"one", bytes(49), b"two"]) == 1
        assert member.get_many(9) == [b"one"]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"slots": 3}, "power of two"),
        ({"slots": 1}, "power of two"),
        ({"slots": 2**21}, "power of two"),
        ({"slot_size": 0}, "slot_size"),
        ({"slot_size": 2**25}, "slot_size"),
        ({"start": -1}, "start"),
    ],
)
def test_impossible_numbers_are_refused(numbers, text):
    with pytest.raises(ValueError, match=text):
        Ring.create(**numbers)


def test_a_damaged_header_is_refused():
    with Ring.create(slots=4, slot_size=48) as ring:
        for slots in (0, 3, 2**20):
            at = layout.MPMC_SLOTS
            ring.buffer[at : at + 4] = slots.to_bytes(4, "little")
            with pytest.raises(LayoutError):
                Ring.attach(ring.handle())


def test_another_kind_of_region_is_refused():
    with Region.create(1 << 16) as region, pytest.raises(LayoutError):
        Ring.attach((region.fd, -1, -1))


def test_a_garbled_length_is_not_believed():
    with Ring.create(slots=4, slot_size=48) as ring, Member(ring) as member:
        member.put(b"x")
        at = layout.MPMC_SLOTS_OFFSET + layout.MPMC_SLOT_LENGTH
        ring.buffer[at : at + 4] = (49).to_bytes(4, "little")
        with pytest.raises(RemoteProtocolError, match="no member"):
            member.get()


def test_the_table_of_members_is_bounded_and_its_numbers_return():
    with Ring.create(slots=2, slot_size=8) as ring:
        members = [Producer(ring) for _ in range(layout.MPMC_OWNERS)]
        assert sorted(m.owner for m in members) == list(range(1, 257))
        with pytest.raises(BusyError, match="256 members"):
            Producer(ring)
        members.pop().close()
        with Producer(ring) as again:
            assert again.owner == 256
        for member in members:
            member.close()
        assert ring.statistics().members == ()


# -- waiting -----------------------------------------------------------------------


def test_a_timeout_bounds_the_wait_and_says_why(ring):
    with Member(ring) as member:
        with pytest.raises(TimeoutError, match="stayed empty"):
            member.get(timeout=0.01)
        with pytest.raises(TimeoutError):
            member.get(0)
        member.put_many([b""] * 4)
        with pytest.raises(TimeoutError, match=r"stayed full \(4 of 4"):
            member.put(b"", timeout=0.01)


def in_thread(call, *args):
    done = []
    thread = threading.Thread(target=lambda: done.append(call(*args)))
    thread.start()
    return thread, done


def test_a_sleeping_getter_is_woken(ring):
    with Member(ring) as getter, Member(ring) as putter:
        thread, got = in_thread(getter.get, HANG_S)
        time.sleep(0.05)
        putter.put(b"wake")
        thread.join()
        assert got == [b"wake"]


def test_a_sleeping_putter_is_woken(ring):
    with Member(ring) as getter, Member(ring) as putter:
        putter.put_many([b"1", b"2", b"3", b"4"])
        thread, _ = in_thread(putter.put, b"5", HANG_S)
        time.sleep(0.05)
        assert getter.get() == b"1"
        thread.join()
        assert getter.get_many(9) == [b"2", b"3", b"4", b"5"]


def test_threads_of_one_member_sleep_and_wake_apart(ring):
    with Member(ring) as getter, Member(ring) as putter:
        waits = [in_thread(getter.get, HANG_S) for _ in range(4)]
        time.sleep(0.05)
        putter.put_many([b"1", b"2", b"3", b"4"])
        for thread, _ in waits:
            thread.join()
        assert sorted(got[0] for _, got in waits) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("spin_us", [0, 50, -1])
def test_every_strategy_passes_messages_both_ways(spin_us):
    with (
        Ring.create(slots=2, slot_size=8) as there,
        Ring.create(slots=2, slot_size=8) as back,
        Member(there, spin_us=spin_us) as ping,
        Member(back, spin_us=spin_us) as pong,
    ):
        count = 20 if spin_us < 0 else 500
        echo = threading.Thread(
            target=lambda: [pong.put(ping.get(HANG_S)) for _ in range(count)]
        )
        echo.start()
        with Member(there) as asker, Member(back) as reader:
            for i in range(count):
                asker.put(b"%d" % i)
                assert reader.get(HANG_S) == b"%d" % i
        echo.join()


def sleep_until(call, arm, fileno):
    """Go on by notifications alone: a lost one is not made good by a slice."""
    while not (done := call()):
        longest_s = arm()
        woken = select.select([fileno], [], [], longest_s if longest_s < 1 else HANG_S)
        assert longest_s < 1 or woken[0], "a wake-up was lost"
    return done


def putting_process(ring, count):
    pid = os.fork()
    if pid == 0:
        with Producer(ring) as producer:
            fileno = producer.put_fileno()
            for i in range(count):
                message = b"%d" % i
                sleep_until(
                    partial(producer.try_put, message), producer.arm_put, fileno
                )
        os._exit(0)
    return pid


def test_no_wake_up_is_lost_between_processes():
    each = int(os.environ.get("RINGS_WAKES", "2000"))
    with Ring.create(slots=2, slot_size=8) as ring:
        pids = [putting_process(ring, each) for _ in range(2)]
        with Consumer(ring) as consumer:
            fileno = consumer.get_fileno()
            got = Counter(
                sleep_until(consumer.try_get, consumer.arm_get, fileno)
                for _ in range(2 * each)
            )
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
        assert got == {b"%d" % i: 2 for i in range(each)}


def test_ctrl_c_ends_a_wait(ring):
    with Member(ring) as member:
        main = threading.get_ident()
        timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            member.get(HANG_S)
        timer.join()
        member.put(b"still")
        assert member.get() == b"still"


def test_close_ends_the_waits_of_other_threads(ring):
    member = Member(ring)
    failed = []

    def wait():
        with pytest.raises(ClosedError):
            member.get(HANG_S)
        failed.append(True)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    member.close()
    for thread in threads:
        thread.join()
    assert failed == [True, True]


def test_idle_readers_cost_next_to_nothing():
    """Eight processes asleep: of the 0.1 s allowed for 10 s, each has its share.

    Shorter runs are allowed as much: most looks fall into the first second, and a
    timer alone costs half a millisecond on some virtual machines.
    """
    asleep_s = float(os.environ.get("RINGS_IDLE_S", "2"))
    with Ring.create(slots=4, slot_size=8) as ring:
        pids = []
        for _ in range(8):
            pids.append(os.fork())
            if pids[-1] == 0:
                idle_reader(ring, asleep_s)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8


def idle_reader(ring, asleep_s):
    """Exit with 0 if a wait for nothing cost no more than its share."""
    with Consumer(ring) as consumer:
        before = time.process_time()
        with contextlib.suppress(TimeoutError):
            consumer.get(asleep_s)
        used_s = time.process_time() - before
    os._exit(0 if used_s < 0.1 / 8 else 1)


# -- event loops --------------------------------------------------------------------


def test_an_event_loop_sleeps_on_the_descriptor(ring):
    async def get(consumer):
        loop = asyncio.get_running_loop()
        while (message := consumer.try_get()) is None:
            if consumer.arm_get() == 0.0:
                continue
            woken = loop.create_future()
            loop.add_reader(consumer.get_fileno(), woken.set_result, None)
            try:
                await woken
            finally:
                loop.remove_reader(consumer.get_fileno())
        return message

    async def main():
        with Consumer(ring) as consumer, Producer(ring) as producer:
            waiting = asyncio.ensure_future(get(consumer))
            await asyncio.sleep(0.02)
            producer.put(b"async")
            assert await waiting == b"async"

    asyncio.run(main())


def test_arming_says_how_long_to_sleep(ring):
    with Member(ring) as member:
        assert member.arm_get() == 1.0
        assert member.arm_put() == 0.0
        member.put_many([b""] * 4)
        assert member.arm_get() == 0.0
        assert member.arm_put() == 1.0


# -- shutting down ------------------------------------------------------------------


def test_shutdown_lets_the_ring_drain(ring):
    with Member(ring) as member:
        member.put_many([b"1", b"2"])
        member.shutdown()
        with pytest.raises(ShutDown):
            member.put(b"3")
        with pytest.raises(ShutDown):
            member.put_many([b"3"])
        assert member.get() == b"1"
        assert member.get_many(9) == [b"2"]
        for refused in (member.get, member.try_get, lambda: member.get_many(1)):
            with pytest.raises(ShutDown):
                refused()


def test_an_immediate_shutdown_refuses_gets_too(ring):
    with Member(ring) as member:
        member.put(b"1")
        member.shutdown(immediate=True)
        with pytest.raises(ShutDown):
            member.get()


def test_shutdown_wakes_every_sleeper(ring):
    refused = []

    def sleeper():
        with Consumer(ring) as consumer, pytest.raises(ShutDown):
            consumer.get(HANG_S)
        refused.append(True)

    threads = [threading.Thread(target=sleeper) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    with Producer(ring) as producer:
        producer.shutdown()
    for thread in threads:
        thread.join()
    assert refused == [True] * 3


def test_shutdown_wakes_a_putter_on_a_full_ring(ring):
    with Member(ring) as member, Member(ring) as putter:
        member.put_many([b""] * 4)
        refused = []

        def put():
            with pytest.raises(ShutDown):
                putter.put(b"", HANG_S)
            refused.append(True)

        thread = threading.Thread(target=put)
        thread.start()
        time.sleep(0.05)
        member.shutdown()
        thread.join(HANG_S)
        assert refused == [True]
        assert len(member.get_many(9)) == 4


# -- sharing ------------------------------------------------------------------------


def test_a_closed_member_says_so(ring):
    member = Member(ring)
    member.close()
    member.close()
    assert member.closed
    for call in (member.try_get, member.arm_put, member.recover):
        with pytest.raises(ClosedError):
            call()
    with pytest.raises(ClosedError):
        member.put(b"")


def test_a_ring_cannot_close_under_its_members(ring):
    with Member(ring) as member:
        with pytest.raises(BusyError, match="open members"):
            ring.close()
        member.put(b"still here")
        assert member.get() == b"still here"


def test_a_message_that_closes_the_member_finds_it_closed(ring):
    if sys.version_info < (3, 12):
        pytest.skip("objects have __buffer__ from Python 3.12 on")
    member = Member(ring)

    class Closer:
        def __buffer__(self, flags):
            member.close()
            return memoryview(b"late")

    with pytest.raises(ClosedError):
        member.put(Closer())


def test_a_forked_child_is_a_member_of_its_own(ring):
    with Member(ring) as member:
        pid = os.fork()
        if pid == 0:
            member.put(b"%d" % member.owner)
            os._exit(0 if member.owner != 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert member.get(HANG_S) == b"2"
        assert member.owner == 1
        assert member.recover() == 1


def work(ring, count):
    with Consumer(ring) as consumer:
        total = sum(int(consumer.get(HANG_S)) for _ in range(count))
    sys.exit(0 if total == sum(range(count)) else 1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_ring_travels_to_children(method):
    context = multiprocessing.get_context(method)
    with Ring.create(slots=4, slot_size=48) as ring, Producer(ring) as producer:
        process = context.Process(target=work, args=(ring, 50))
        process.start()
        for i in range(50):
            producer.put(b"%d" % i, HANG_S)
        process.join()
        assert process.exitcode == 0
        process.close()


def test_a_ring_travels_by_pickle_to_itself():
    with Ring.create(slots=4, slot_size=48) as ring, Producer(ring) as producer:
        data = multiprocessing.reduction.ForkingPickler.dumps(ring)
        with pickle.loads(data) as copy, Consumer(copy) as consumer:
            producer.put(b"copied")
            assert consumer.get(HANG_S) == b"copied"


def test_a_subprocess_attaches_by_numbers():
    script = (
        "import sys; from rings.mpmc import Member, Ring\n"
        "ring = Ring.attach([int(n) for n in sys.argv[1:]])\n"
        "member = Member(ring)\n"
        "member.put(member.get(30)[::-1])\n"
    )
    with Ring.create(slots=4, slot_size=48) as ring, Member(ring) as member:
        command = [sys.executable, "-c", script, *map(str, ring.handle())]
        child = subprocess.Popen(command, pass_fds=ring.handle())
        member.put(b"abc")
        assert child.wait() == 0
        assert member.get(HANG_S) == b"cba"


def test_statistics_add_up(ring):
    with Member(ring) as one, Member(ring) as two:
        one.put_many([b"1", b"2", b"3"])
        two.get_many(2)
        facts = ring.statistics()
        assert (facts.messages_put, facts.messages_got, facts.size) == (3, 2, 1)
        assert [m.owner for m in facts.members] == [1, 2]
        assert {m.pid for m in facts.members} == {os.getpid()}
    facts = ring.statistics()
    assert (facts.messages_put, facts.messages_got, facts.members) == (3, 2, ())
    assert (facts.tombstones, facts.in_doubt, facts.recovered) == (0, 0, 0)


def test_what_is_iterated_over_may_close_the_member():
    """The ring's memory was gone, and used."""

    def closing(*ends):
        for end in ends:
            end.close()
        yield b"x"

    ring = Ring.create(slots=4, slot_size=48)
    producer = Producer(ring)
    with pytest.raises(ClosedError):
        producer.put_many(closing(producer, ring))


def test_a_garbage_collection_may_close_the_member():
    script = """
import gc
from rings import mpmc

class Closing:
    def __del__(self):
        consumer.close()
        ring.close()

ring = mpmc.create()
consumer = mpmc.Consumer(ring)
gc.disable()
cycle = Closing()
cycle.me = cycle
del cycle
gc.set_threshold(1, 1000, 1000)
get_many = consumer.get_many
gc.enable()
try:
    get_many(5)
except mpmc.ClosedError:
    pass
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG_S)


def test_a_closed_ring_does_not_travel():
    ring = Ring.create(slots=4, slot_size=48)
    ring.close()
    with pytest.raises(ClosedError, match="travel"):
        pickle.dumps(ring)
