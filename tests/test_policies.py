"""What becomes of messages that find no room: the same words everywhere, exact counts.

Each policy against a plain bounded deque, and then in company and under kills: what was
put is what was got, lost, left, or in doubt.
"""

from __future__ import annotations

import collections
import contextlib
import mmap
import os
import queue
import random
import signal
import struct
import threading
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import rings
from rings import broadcast, layout, mpmc, spsc

STARTS = [0, 2**31 - 2, 2**32 - 2, 2**48 - 3, 2**64 - 3]
POLICIES = ["block", "drop_new", "drop_old", "error"]
SLOTS = 4
KILLS = 60


def number(n):
    return n.to_bytes(8, "little")


# -- SPSC ------------------------------------------------------------------------

KINDS = {
    "slots": {"slots": 8, "slot_size": 8},
    "records": {"ring_bytes": 256},
    "references": {"ring_bytes": 256, "pool_bytes": 4096, "inline_max": 0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", STARTS[:3])
def test_the_newest_of_one_producer(kind, start):
    with (
        spsc.create(start=start, **KINDS[kind]) as ring,
        ring.producer() as producer,
        ring.consumer(latest=True) as consumer,
    ):
        assert consumer.try_get() is None
        for count in (1, 3, 8, 2) * 5:
            producer.put_many([number(n) for n in range(count)])
            assert consumer.get() == number(count - 1)
            assert consumer.try_get() is None
        producer.put_many([number(n) for n in range(3)])
        with consumer.peek() as memory:
            assert bytes(memory) == number(2)
        producer.put_many([number(n) for n in range(3)])
        assert consumer.get_many() == [number(2)]
        producer.put_many([number(n) for n in range(3)])
        into = bytearray(8)
        assert consumer.get_into(into) == 8
        assert into == number(2)
        assert consumer.lost == ring.lost == 5 * (0 + 2 + 7 + 1) + 3 * 2
        assert consumer.statistics()["lost"] == consumer.lost
        assert producer.lost == 0


def test_what_is_lost_belongs_to_who_lost_it():
    with spsc.create(slots=4, slot_size=8) as ring:
        with ring.producer(policy="drop_new") as producer:
            assert [producer.put(number(n)) for n in range(6)] == [1] * 4 + [0] * 2
            with ring.consumer(latest=True) as consumer:
                assert consumer.get() == number(3)
                assert (producer.lost, consumer.lost, ring.lost) == (2, 3, 5)
        with ring.producer() as producer, ring.consumer() as consumer:
            assert (producer.lost, consumer.lost, ring.lost) == (0, 0, 5)


def test_a_producer_asleep_is_woken_by_what_is_skipped():
    with (
        spsc.create(slots=2, slot_size=8) as ring,
        ring.producer() as producer,
        ring.consumer(latest=True) as consumer,
    ):

        def produce():
            for n in range(2000):
                producer.put(number(n))

        thread = threading.Thread(target=produce)
        thread.start()
        seen = []
        while not seen or seen[-1] != number(1999):
            seen.append(consumer.get())
        thread.join()
        assert seen == sorted(seen, key=lambda m: int.from_bytes(m, "little"))
        assert len(seen) + consumer.lost == 2000


def test_watermarks_say_how_full_it_was_found():
    with (
        spsc.create(slots=8, slot_size=8) as ring,
        ring.producer() as producer,
        ring.consumer() as consumer,
    ):
        producer.put_many([number(n) for n in range(5)])
        consumer.get_many()
        facts = consumer.statistics()
        assert (facts["low_water"], facts["high_water"]) == (5, 5)
        assert consumer.try_get() is None
        assert consumer.statistics()["low_water"] == 0
        consumer.reset_watermarks()
        facts = consumer.statistics()
        assert (facts["low_water"], facts["high_water"]) == (0, 0)
        producer.put_many([number(n) for n in range(8)])
        assert not producer.try_put(number(9))
        assert producer.statistics()["high_water"] == 8
        assert consumer.get() == number(0)
        assert consumer.statistics()["high_water"] == 8


@pytest.mark.parametrize("stage", range(5))
@pytest.mark.parametrize("start", STARTS[:3])
def test_a_skip_cut_short_is_finished_or_withdrawn(stage, start):
    """The stores of csrc/spsc_latest.h, made by hand up to one of them."""
    with (
        spsc.create(slots=8, slot_size=8, start=start) as ring,
        ring.producer() as producer,
    ):
        producer.put_many([number(n) for n in range(6)])
        with ring.consumer(latest=True) as consumer:
            consumer.get()
        producer.put_many([number(n) for n in range(6)])
        cons = (start + 11) % 2**32  # five of the six
        words = [
            ("=I", layout.SPSC_SKIP_CONS, cons),
            ("=Q", layout.SPSC_SKIP_LOST, 10),
            ("=I", layout.SPSC_CONS, cons),
            ("=Q", layout.SPSC_CONSUMER + layout.END_LOST, 10),
        ]
        for form, offset, value in words[:stage]:
            struct.pack_into(form, ring.region.buffer, offset, value)
        with ring.consumer() as successor:
            assert ring.lost == (10 if stage >= 3 else 5)
            left = successor.get_many()
            assert left == [number(n) for n in range(5 if stage >= 3 else 0, 6)]
            assert successor.lost == 0
        with ring.consumer():
            assert ring.lost == (10 if stage >= 3 else 5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_killed_consumers_skipped_is_counted(kind):
    """Each get takes one and is noted; all others that are gone were lost, but for at
    most one that a killed consumer had taken and not noted."""
    rng = random.Random(11)
    taken = mmap.mmap(-1, 8)
    count = memoryview(taken).cast("Q")

    def drink(_, ring):
        with ring.consumer(latest=True) as consumer:
            while True:
                consumer.get()
                count[0] += 1

    put = 0
    with spsc.create(**KINDS[kind]) as ring, ring.producer() as producer:
        for _ in range(KILLS):
            with children(1, drink, ring) as (pid,):
                producer.wait_peer()
                for _ in range(rng.randrange(100)):
                    put += producer.put_many([number(put), number(put + 1)])
                kill(pid)
        with ring.consumer() as consumer:
            left = len(consumer.get_many())
            assert 0 <= put - (count[0] + ring.lost + left) <= KILLS
    count.release()
    taken.close()


class OneProducer(RuleBasedStateMachine):
    """Ends that change hands and policies, and a bounded deque."""

    @initialize(start=st.sampled_from(STARTS[:3]), kind=st.sampled_from(list(KINDS)))
    def create(self, start, kind):
        self.ring = spsc.create(start=start, **KINDS[kind])
        self.most = (
            8 if kind == "slots" else None
        )  # a record's need depends on its place
        self.model, self.made, self.lost = collections.deque(), 0, 0
        self.producer, self.consumer = self.ring.producer(), self.ring.consumer()
        self.policy, self.latest = "block", False

    @rule(policy=st.sampled_from(["block", "drop_new", "error"]))
    def another_producer(self, policy):
        self.producer.close()
        self.producer, self.policy = self.ring.producer(policy=policy), policy

    @rule(latest=st.booleans())
    def another_consumer(self, latest):
        self.consumer.close()
        self.consumer, self.latest = self.ring.consumer(latest=latest), latest

    @rule()
    def put(self):
        self.made += 1
        try:
            stored = self.producer.put(number(self.made), timeout=0)
        except TimeoutError:
            assert self.policy != "drop_new"
            stored = None
        assert stored is not False or self.policy == "drop_new"
        assert self.model or stored, "an empty ring has room"
        if self.most is not None:
            assert bool(stored) == (len(self.model) < self.most)
        self.lost += stored is False
        if stored:
            self.model.append(number(self.made))

    def skip(self):
        while self.latest and len(self.model) > 1:
            self.model.popleft()
            self.lost += 1

    @rule()
    def get(self):
        self.skip()
        expected = self.model.popleft() if self.model else None
        assert self.consumer.try_get() == expected

    @rule(most=st.integers(1, 9))
    def get_many(self, most):
        self.skip()
        assert self.consumer.get_many(most) == list(self.model)[:most]
        for _ in range(min(most, len(self.model))):
            self.model.popleft()

    @invariant()
    def counts_are_exact(self):
        if hasattr(self, "ring"):
            assert self.ring.lost == self.lost

    def teardown(self):
        self.producer.close()
        self.consumer.close()
        self.ring.close()


OneProducer.TestCase.settings = settings(max_examples=80, deadline=None)
TestOneProducer = OneProducer.TestCase


# -- broadcast: the words are its own, see tests/test_broadcast.py -------------------


def test_what_cannot_be_says_what_can():
    with spsc.create() as ring:
        with pytest.raises(ValueError, match=r"rings.broadcast or rings.mpmc.*latest"):
            ring.producer(policy="drop_old")
        with pytest.raises(
            ValueError, match="policy is 'block', 'drop_new' or 'error'"
        ):
            ring.producer(policy="latest")
    with pytest.raises(ValueError, match="policy must be one of"):
        broadcast.create(policy="drop_new")


# -- MPMC ------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_full_by_policy(start):
    with mpmc.create(slots=SLOTS, slot_size=8, start=start) as ring:
        with ring.consumer() as consumer:
            for _ in range(20):
                with ring.producer(policy="drop_old") as producer:
                    assert all(producer.put(number(n)) for n in range(7))
                    assert producer.lost == 3
                    assert consumer.get_many(9) == [number(n) for n in range(3, 7)]
            with ring.producer(policy="drop_new") as producer:
                assert [producer.put(number(n)) for n in range(7)] == [1] * 4 + [0] * 3
                assert producer.lost == 3
                assert consumer.get_many(9) == [number(n) for n in range(4)]
            with ring.producer(policy="error") as producer:
                assert all(producer.put(number(n)) for n in range(4))
                with pytest.raises(TimeoutError, match="4 of 4 slots"):
                    producer.put(number(9))
                assert producer.lost == 0
            with ring.producer() as producer, pytest.raises(TimeoutError):
                producer.put(number(9), timeout=0)
        facts = ring.statistics()
        assert facts.lost == 20 * 3 + 3
        assert facts.messages_put == facts.messages_got + 60 + facts.size


def test_only_put_has_a_policy():
    """What says that it never waits says what it found, and counts nothing."""
    with (
        mpmc.create(slots=2, slot_size=8) as ring,
        ring.producer(policy="drop_old") as producer,
    ):
        assert producer.put_many([number(n) for n in range(5)]) == 2
        assert producer.try_put(number(9)) is False
        assert producer.lost == 0


def test_a_ring_of_fewer_messages_than_slots_drops_at_its_limit():
    with (
        mpmc.create(slots=8, slot_size=8, limit=3) as ring,
        ring.producer(policy="drop_old") as producer,
        ring.consumer() as consumer,
    ):
        assert all(producer.put(number(n)) for n in range(20))
        assert consumer.get_many(9) == [number(n) for n in (17, 18, 19)]
        assert ring.statistics().lost == 17
        assert producer.put_many([number(n) for n in range(9)]) == 3
        assert ring.statistics().size == 3


@pytest.mark.parametrize("start", STARTS)
def test_the_newest_and_no_other(start):
    with mpmc.create(slots=8, slot_size=8, start=start) as ring:
        with ring.producer() as producer, ring.consumer(latest=True) as consumer:
            assert consumer.try_get() is None
            for count in (1, 3, 8, 2):
                producer.put_many([number(n) for n in range(count)])
                assert consumer.get() == number(count - 1)
                assert consumer.try_get() is None
            producer.put_many([number(1), number(2)])
            assert consumer.get_many(5) == [number(2)]
            assert consumer.lost == ring.statistics().lost == 0 + 2 + 7 + 1 + 1
        assert ring.statistics().size == 0


def test_a_member_has_both():
    with (
        mpmc.create(slots=2, slot_size=8) as ring,
        ring.member(policy="drop_old", latest=True) as member,
    ):
        for n in range(5):
            member.put(number(n))
        assert member.get() == number(4)
        assert member.lost == 4


def test_wrong_words_are_refused():
    with mpmc.create(slots=2, slot_size=8) as ring:
        with pytest.raises(ValueError, match="'drop_old' or 'error', not 'overwrite'"):
            ring.producer(policy="overwrite")
        with pytest.raises(ValueError, match="policy is"):
            rings.Queue(2, policy="latest")
        assert ring.statistics().members == ()


def test_a_slot_in_somebodys_hands_is_waited_for():
    """Dropping others would not free it; the message in its hands is not lost."""
    slot = slice(layout.MPMC_SLOTS_OFFSET, layout.MPMC_SLOTS_OFFSET + 8)
    with (
        mpmc.create(slots=2, slot_size=8) as ring,
        ring.producer() as producer,
        ring.consumer() as consumer,
        ring.producer(policy="drop_old") as dropper,
    ):
        producer.put_many([number(1), number(2)])
        full = int.from_bytes(ring.buffer[slot], "little")
        reading = (full & ~15) | consumer.owner << 4 | 3
        ring.buffer[slot] = reading.to_bytes(8, "little")
        with pytest.raises(TimeoutError, match=f"pid {os.getpid()}"):
            dropper.put(number(3), timeout=0.05)
        assert dropper.lost == 0
        ring.buffer[slot] = full.to_bytes(8, "little")


class Model(RuleBasedStateMachine):
    """One ring, one member of each policy and both consumers, and a bounded deque."""

    @initialize(start=st.sampled_from(STARTS), limit=st.sampled_from([0, 3]))
    def create(self, start, limit):
        self.ring = mpmc.create(slots=4, slot_size=8, limit=limit, start=start)
        self.most = limit or 4
        self.producers = {name: self.ring.producer(policy=name) for name in POLICIES}
        self.consumer = self.ring.consumer()
        self.latest = self.ring.consumer(latest=True)
        self.model, self.made = collections.deque(), 0
        self.lost = collections.Counter()

    def message(self):
        self.made += 1
        return number(self.made)

    @rule(policy=st.sampled_from(POLICIES))
    def put(self, policy):
        message, full = self.message(), len(self.model) == self.most
        producer = self.producers[policy]
        if full and policy in ("block", "error"):
            with pytest.raises(TimeoutError):
                producer.put(message, timeout=0)
            return
        assert producer.put(message) is not (full and policy == "drop_new")
        self.lost[policy] += full
        if full and policy == "drop_old":
            self.model.popleft()
        if not full or policy == "drop_old":
            self.model.append(message)

    @rule(policy=st.sampled_from(POLICIES), count=st.integers(0, 5))
    def put_many(self, policy, count):
        batch = [self.message() for _ in range(count)]
        self.model += batch[: self.producers[policy].put_many(batch)]
        assert len(self.model) <= self.most

    @rule()
    def get(self):
        assert self.consumer.try_get() == (self.model.popleft() if self.model else None)

    @rule(many=st.booleans())
    def get_latest(self, many):
        self.lost["latest"] += max(0, len(self.model) - 1)
        newest = self.model.pop() if self.model else None
        self.model.clear()
        if many:
            assert self.latest.get_many(9) == ([newest] if newest else [])
        else:
            assert self.latest.try_get() == newest

    @invariant()
    def counts_are_exact(self):
        if not hasattr(self, "ring"):
            return
        facts = self.ring.statistics()
        for name, producer in self.producers.items():
            assert producer.lost == self.lost[name]
        assert self.latest.lost == self.lost["latest"]
        assert facts.lost == sum(self.lost.values())
        taken = facts.messages_got + facts.lost - self.lost["drop_new"]
        assert facts.messages_put == taken + len(self.model)

    def teardown(self):
        for member in (*self.producers.values(), self.consumer, self.latest):
            member.close()
        self.ring.close()


Model.TestCase.settings = settings(max_examples=80, deadline=None)
TestModel = Model.TestCase


# -- in company, and under kills ---------------------------------------------------


@contextlib.contextmanager
def children(count, run, *args):
    """Fork so many; they are killed and reaped in the end."""
    pids = []
    for i in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                run(i, *args)
            finally:
                os._exit(0)
        pids.append(pid)
    try:
        yield pids
    finally:
        for pid in pids:
            kill(pid)


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def settle(ring):
    """Bury the dead; return the statistics, when nothing moves."""
    with ring.member() as member:
        member.recover()
    return ring.statistics()


def work(which, ring):
    policy, latest = [("drop_old", False), ("drop_old", True), ("block", True)][which]
    rng = random.Random(os.getpid())
    with ring.member(policy=policy, latest=latest) as member:
        while True:
            if rng.randrange(3) and (policy != "block" or member.size < 6):
                member.put(number(rng.randrange(1 << 60)))
            else:
                member.try_get()


def test_every_message_is_accounted_for_when_nobody_dies():
    rounds = 3000

    def produce(member):
        for n in range(rounds):
            member.put(number(n))
            if n % 64 == 0:
                time.sleep(0)

    with mpmc.create(slots=8, slot_size=8) as ring, contextlib.ExitStack() as stack:
        producers = [
            stack.enter_context(ring.producer(policy=name))
            for name in ("drop_old", "drop_old", "drop_new")
        ]
        latest = stack.enter_context(ring.consumer(latest=True))
        plain = stack.enter_context(ring.consumer())
        threads = [threading.Thread(target=produce, args=(p,)) for p in producers]
        for thread in threads:
            thread.start()
        got = 0
        while any(thread.is_alive() for thread in threads):
            got += (plain.try_get() is not None) + (latest.try_get() is not None)
        left = len(plain.get_many(100))
        lost = [member.lost for member in (*producers, latest)]
        facts = ring.statistics()
        assert facts.lost == sum(lost) > 0
        assert facts.messages_got == got + left
        assert 3 * rounds == facts.messages_put + producers[2].lost
        assert facts.messages_put == got + left + facts.lost - producers[2].lost


def test_what_the_killed_dropped_is_counted():
    """What a member puts and gets it counts after the fact: the last of each that is
    killed may be missing, on either side.  All else is exact."""
    rng = random.Random(7)
    with mpmc.create(slots=8, slot_size=8) as ring:
        for _ in range(KILLS):
            with children(3, work, ring) as pids:
                time.sleep(rng.random() / 50)
                for pid in pids:
                    kill(pid)
            facts = settle(ring)
            assert facts.size <= 8
        with ring.producer(policy="drop_old") as producer, ring.consumer() as consumer:
            left = sum(1 for _ in iter(consumer.try_get, None))
            gone = facts.messages_got + facts.lost + facts.in_doubt + left
            assert abs(facts.messages_put - gone) <= 3 * KILLS
            assert min(facts.messages_put, facts.lost, facts.recovered) > 0
            for n in range(20):
                producer.put(number(n))
            assert ring.statistics().lost == facts.lost + 12
            assert consumer.get_many(9) == [number(n) for n in range(12, 20)]


# -- rings.Queue -------------------------------------------------------------------


def test_a_queue_by_policy():
    with rings.Queue(3, policy="drop_old") as q:
        assert all(q.put(n) for n in range(5))
        assert q.put_many([5, 6]) == 2
        assert q.put_nowait(7)
        assert q.get_many(9) == [5, 6, 7]
        assert q.lost == q.statistics().lost == 5
    with rings.Queue(3, policy="drop_new") as q:
        assert [q.put(n) for n in range(5)] == [True] * 3 + [False] * 2
        assert q.put_many([5, 6]) == 0
        assert q.put_nowait(7) is False
        assert q.get_many(9) == [0, 1, 2]
        assert q.lost == 5
    with rings.Queue(1, policy="error") as q:
        q.put(0)
        with pytest.raises(queue.Full):
            q.put(1)
    with rings.Queue(1) as q:
        q.put(0)
        with pytest.raises(queue.Full):
            q.put(1, timeout=0)


def test_dropped_objects_give_their_blocks_back():
    big = 100_000
    with rings.Queue(8, policy="drop_old", pool_size=4 * big) as q:
        for n in range(40):
            assert q.put(bytes([n]) * big)
        got = q.get_many(9)
        assert [item[0] for item in got] == list(range(40 - len(got), 40))
        assert 1 <= len(got) <= 4
        assert q.lost == 40 - len(got)
        assert q.blocks_used == 0
    with rings.Queue(2, policy="drop_old") as q:  # for want of slots
        for n in range(40):
            assert q.put(bytes([n]) * big)
        assert q.lost == 38
        assert q.blocks_used == 2 * -(-big // q.pool.block_size)


def test_new_objects_without_blocks_are_dropped_whole():
    with rings.Queue(8, policy="drop_new", pool_size=1 << 20) as q:
        results = [q.put(bytes(300_000)) for _ in range(5)]
        assert results == [True] * 3 + [False] * 2
        assert q.lost == 2
        q.get_many(3)
        assert q.blocks_used == 0
        with rings.Queue(1, policy="drop_new", pool_size=1 << 20) as small:
            assert [small.put(bytes(300_000)) for _ in range(9)].count(False) == 8
            small.get()
            assert small.blocks_used == 0


def test_a_queue_keeps_its_policy_when_it_travels():
    with rings.Queue(2, policy="drop_old") as q:
        assert (q.twin().policy, q.policy) == ("drop_old", "drop_old")
        with rings.Queue.attach(q.handle(), policy="drop_new") as there:
            there.put_many([1, 2, 3])
            assert there.lost == 1
        assert q.__reduce__()[1][-1] == "drop_old"


def test_a_queue_that_drops_under_kills_stays_whole():
    """Producers and consumers die; no slot and no block is gone afterwards."""

    def produce(_, q):
        rng = random.Random(os.getpid())
        while True:
            q.put(bytes(rng.choice([10, 5000, 60_000])))

    rng = random.Random(3)
    with rings.Queue(8, policy="drop_old", pool_size=1 << 19) as q:
        for _ in range(KILLS // 2):
            with children(2, produce, q) as pids:
                time.sleep(rng.random() / 30)
                for pid in pids:
                    kill(pid)
        q.recover()
        while not q.empty():
            q.get()
        q.recover()
        assert q.blocks_used == 0
        assert q.put(bytes((1 << 19) - 4096))
        assert q.statistics().lost > 0
