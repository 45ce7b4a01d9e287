"""MPMC members that are killed, stopped or mistaken for dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from rings import ClosedError, layout
from rings.mpmc import Member, Producer, Ring
from tests.shares import PART, portion

HANG_S = 30.0
WRITING, FULL, READING = 1, 2, 3


def kill_and_reap(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def fork(call, *args):
    """Run `call` in a forked child; its status is 0 if that returned."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            call(*args)
            status = 0
        os._exit(status)
    return pid


def die_as_members(ring, count):
    """Let a child join so often and be killed; return its pid."""

    def live():
        members = [Producer(ring) for _ in range(count)]
        os.kill(os.getpid(), signal.SIGKILL)
        del members

    pid = fork(live)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    return pid


def slot_word(ring, index):
    stride = layout.round_up(layout.MPMC_SLOT_HEADER + ring.slot_size, 64)
    return layout.MPMC_SLOTS_OFFSET + index % ring.slots * stride


def poke_claim(ring, index, owner, state):
    """Leave a slot as a member does that dies with it in hand."""
    word = (index % 2**48) << 16 | owner << 4 | state
    at = slot_word(ring, index)
    ring.buffer[at : at + 8] = struct.pack("=Q", word)


def owner_of_child(ring, state, index):
    """Fork a member that leaves slot `index` in `state` and waits to be killed."""
    ready, done = os.pipe()

    def live():
        member = Member(ring)
        poke_claim(ring, index, member.owner, state)
        os.write(done, b"x")
        time.sleep(HANG_S)

    pid = fork(live)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(done)
    return pid


@pytest.fixture
def ring(start):
    with Ring.create(slots=4, slot_size=48, start=start) as ring:
        yield ring


# -- a dead member's slots ----------------------------------------------------------


def test_a_sleeping_getter_gets_past_a_dead_producer(ring, start):
    pid = owner_of_child(ring, WRITING, start)
    with Member(ring) as member:
        member.put(b"behind")
        assert member.try_get() is None
        killer = threading.Timer(0.1, kill_and_reap, (pid,))
        killer.start()
        assert member.get(HANG_S) == b"behind"
        killer.join()
        facts = ring.statistics()
        assert (facts.tombstones, facts.in_doubt, facts.recovered) == (1, 0, 1)
        assert member.put_many([b"x"] * 9) == 4


def sleeping_getter(member):
    """Start a thread that gets one message, and return it once it sleeps."""
    got = []

    def get():
        with contextlib.suppress(ClosedError):
            got.append(member.get())

    announced = layout.MPMC_GET_SLEEPS
    before = member.ring.buffer[announced]
    thread = threading.Thread(target=get)
    thread.start()
    while member.ring.buffer[announced] == before:
        time.sleep(0.001)
    return thread, got


def test_a_getter_that_slept_already_gets_past_a_dead_producer(ring, start):
    """Nobody wakes it at the claim; the message behind does."""
    with Member(ring) as member, Producer(ring) as producer:
        thread, got = sleeping_getter(member)
        pid = owner_of_child(ring, WRITING, start)
        producer.put(b"behind")
        kill_and_reap(pid)
        thread.join(HANG_S)
        assert got == [b"behind"]


def test_a_sleeper_finds_what_a_dead_producer_told_nobody(ring, start):
    with Member(ring) as member:
        thread, got = sleeping_getter(member)
        data = slot_word(ring, start) + layout.MPMC_SLOT_DATA
        ring.buffer[data - 8 : data + 5] = struct.pack("=II5s", 5, 0, b"alone")
        poke_claim(ring, start, 0, FULL)
        thread.join(HANG_S)
        assert got == [b"alone"]


def test_a_sleeping_putter_gets_past_a_dead_consumer(ring, start):
    with Member(ring) as member:
        member.put_many([b"%d" % i for i in range(4)])
        pid = owner_of_child(ring, READING, start)
        assert not member.try_put(b"4")
        killer = threading.Timer(0.1, kill_and_reap, (pid,))
        killer.start()
        member.put(b"4", HANG_S)
        killer.join()
        assert member.get_many(9) == [b"1", b"2", b"3", b"4"]
        facts = ring.statistics()
        assert (facts.tombstones, facts.in_doubt, facts.recovered) == (0, 1, 1)


@pytest.mark.parametrize("call", ["try_put", "try_get"])
def test_calls_that_never_wait_recover_too(ring, start, call):
    pid = owner_of_child(ring, WRITING, start)
    kill_and_reap(pid)
    with Member(ring) as member:
        assert member.put_many([b"1", b"2", b"3"]) == 3
        give_up = time.monotonic() + HANG_S
        calls = {"try_put": lambda: member.try_put(b"4"), "try_get": member.try_get}
        while not calls[call]():
            assert time.monotonic() < give_up
        assert ring.statistics().recovered == 1


def test_a_zombie_is_dead(ring, start):
    pid = owner_of_child(ring, WRITING, start)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with Member(ring) as member:
        member.put(b"behind")
        assert member.get(HANG_S) == b"behind"
    os.waitpid(pid, 0)


def test_a_dead_member_that_held_nothing_is_only_a_number(ring):
    pid = die_as_members(ring, 1)
    with Member(ring) as member:
        assert [m.pid for m in ring.statistics().members] == [pid, os.getpid()]
        assert member.recover() == 1
        assert [m.pid for m in ring.statistics().members] == [os.getpid()]
        assert member.recover() == 0


def test_joining_a_full_table_makes_room_of_the_dead():
    with Ring.create(slots=2, slot_size=8) as ring:
        die_as_members(ring, 256)
        assert len(ring.statistics().members) == 256
        with Producer(ring) as producer:
            producer.put(b"x")
            assert ring.statistics().recovered == 256


# -- who is not dead -------------------------------------------------------------------


def test_a_stopped_member_is_not_dead(ring, start):
    stopped_s = float(os.environ.get("RINGS_STOPPED_S", "1"))
    pid = owner_of_child(ring, WRITING, start)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    with Member(ring) as member:
        member.put(b"behind")
        with pytest.raises(TimeoutError, match=f"pid {pid}, which lives"):
            member.get(stopped_s)
        assert member.recover() == 0
        assert 0 < member.arm_get() <= 0.05
        kill_and_reap(pid)
        assert member.get(HANG_S) == b"behind"


def edit_owner(ring, number, offset, value):
    at = layout.MPMC_OWNERS_OFFSET + (number - 1) * layout.MPMC_OWNER_SIZE + offset
    ring.buffer[at : at + 8] = struct.pack("=Q", value)


def read_owner(ring, number, offset):
    at = layout.MPMC_OWNERS_OFFSET + (number - 1) * layout.MPMC_OWNER_SIZE + offset
    return struct.unpack("=Q", ring.buffer[at : at + 8])[0]


def test_a_pid_that_started_at_another_time_is_dead(ring, start):
    """The pid was used again: its new process is not the member."""
    pid = owner_of_child(ring, WRITING, start)
    with Member(ring) as member:
        member.put(b"behind")
        assert member.recover() == 0
        started = read_owner(ring, 1, layout.MPMC_OWNER_START_TIME)
        edit_owner(ring, 1, layout.MPMC_OWNER_START_TIME, started + 1)
        assert member.recover() == 1
        assert member.get() == b"behind"
    kill_and_reap(pid)


def test_across_pid_namespaces_the_lock_decides(ring, start):
    """Its pid means nothing here: it lives as long as it holds its lock."""
    pid = owner_of_child(ring, WRITING, start)
    edit_owner(ring, 1, layout.MPMC_OWNER_PID_SPACE, 12345)
    word = read_owner(ring, 1, 0)
    edit_owner(ring, 1, 0, word & (1 << 42) - 1 | (2**22 - 1) << 42)
    with Member(ring) as member:
        member.put(b"behind")
        assert member.recover() == 0
        with pytest.raises(TimeoutError):
            member.get(0.2)
        kill_and_reap(pid)
        assert member.get(HANG_S) == b"behind"


def hide(ring, number):
    """Take from a member's entry all that could prove its death."""
    edit_owner(ring, number, layout.MPMC_OWNER_PID_SPACE, 12345)
    edit_owner(ring, number, 0, read_owner(ring, number, 0) & ~8)


def test_without_any_proof_it_lives(ring, start):
    pid = owner_of_child(ring, WRITING, start)
    hide(ring, 1)
    kill_and_reap(pid)
    with Member(ring) as member:
        assert member.recover() == 0
        assert member.try_get() is None


def test_the_lock_alone_would_miss_a_parent_whose_child_lives_on(ring):
    """Why the pid is asked first: a forked child keeps its parent's lock."""
    reader, writer = os.pipe()

    def child():
        os.close(writer)
        os.read(reader, 1)

    def parent():
        member = Member(ring)
        fork(child)
        os.kill(os.getpid(), signal.SIGKILL)
        del member

    os.waitpid(fork(parent), 0)
    with Member(ring) as member:
        space = read_owner(ring, 1, layout.MPMC_OWNER_PID_SPACE)
        edit_owner(ring, 1, layout.MPMC_OWNER_PID_SPACE, 12345)
        assert member.recover() == 0
        edit_owner(ring, 1, layout.MPMC_OWNER_PID_SPACE, space)
        assert member.recover() == 1
    os.close(writer)
    os.close(reader)


NAMESPACED = """
import sys, time
from tests.test_mpmc_death import WRITING, poke_claim
from rings.mpmc import Member, Ring
ring = Ring.attach([int(number) for number in sys.argv[1:]])
member = Member(ring)
poke_claim(ring, 0, member.owner, WRITING)
print("claimed", flush=True)
time.sleep(30)
"""


def test_a_member_in_another_pid_namespace():
    """Its pid there is 1, which here is somebody who never dies."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    with Ring.create(slots=4, slot_size=48) as ring, Member(ring) as member:
        python = [sys.executable, "-c", NAMESPACED, *map(str, ring.handle())]
        with subprocess.Popen(
            unshare + python,
            pass_fds=ring.handle(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parent.parent,
        ) as there:
            claimed = there.stdout.readline()
            if claimed:
                member.put(b"behind")
                assert member.recover() == 0
                with pytest.raises(TimeoutError, match="pid 1, which lives"):
                    member.get(0.2)
            there.kill()
        if not claimed:
            pytest.skip("pid namespaces are not to be had here")
        assert member.get(HANG_S) == b"behind"


# -- random kills ----------------------------------------------------------------

WORKERS = 4
LONG = 32000  # bytes, so that many kills fall into a copy
LIMIT = 1 << 24  # numbers a worker may use in all its lives
UNPROVEN = layout.MPMC_OWNERS - 3 * WORKERS  # the dead keep their entries: so many fit


class Storm:
    """Workers that put and get by the public calls, and are killed at any time.

    A worker tells what it put and what it got by a pipe of its own, in records
    shorter than a pipe's atomic size: a killed one leaves no half record.
    """

    def __init__(self, ring, seed, *, provable=True):
        self.ring = ring
        self.provable = provable
        self.random = random.Random(seed)
        self.workers = {}
        self.next = Counter()
        self.put = set()
        self.got = Counter()
        self.torn = self.moves = 0

    def start(self, who):
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)  # no more than we can follow
        first = self.next[who]
        seed = self.random.random()

        def live():
            for inherited in (reader, *(fd for _, fd in self.workers.values())):
                os.close(inherited)
            storm_worker(self.ring, who, first, writer, seed, self.provable)

        pid = fork(live)
        os.close(writer)
        self.workers[who] = pid, reader

    def hear(self, reader):
        """Take in what a worker has told until now; False at its end."""
        told = os.read(reader, 1 << 16)
        for verb, who, number in struct.iter_unpack("=III", told):
            assert number < LIMIT
            assert who < WORKERS
            if verb == 0:
                self.next[who] = number + 1
            elif verb == 1:
                self.put.add((who, number))
            elif verb == 2:
                self.got[who, number] += 1
                self.moves += 1
            else:
                self.torn += 1
        return bool(told)

    def hear_all(self, timeout_s):
        readers = [reader for _, reader in self.workers.values()]
        for reader in select.select(readers, [], [], timeout_s)[0]:
            self.hear(reader)

    def kill(self, who):
        pid, reader = self.workers.pop(who)
        kill_and_reap(pid)
        while self.hear(reader):
            pass
        os.close(reader)

    def moved(self, limit_s):
        """Whether a message was got within `limit_s`."""
        before = self.moves
        give_up = time.monotonic() + limit_s
        while self.moves == before and time.monotonic() < give_up:
            self.hear_all(0.01)
        return self.moves > before

    def start_all(self):
        for who in range(WORKERS):
            self.start(who)

    def run(self, kills, stuck_s):
        """Kill so many, one after the other; how many until nothing moved."""
        self.start_all()
        for done in range(kills):
            self.hear_all(0)
            time.sleep(self.random.random() / 1000)
            who = self.random.randrange(WORKERS)
            self.kill(who)
            self.start(who)
            if done % 10 == 9 and not self.moved(stuck_s):
                return done
        return kills

    def stop(self):
        for who in list(self.workers):
            self.kill(who)


def storm_message(who, number):
    return struct.pack("=II", who, number) + bytes([number % 251]) * (
        LONG - number % 99
    )


def storm_worker(ring, who, number, writer, seed, provable):
    rng = random.Random(seed)
    told = number - 1
    with Member(ring) as member:
        if not provable:
            hide(ring, member.owner)
        while True:
            if rng.random() < 0.5:
                if told < number:
                    os.write(writer, struct.pack("=III", 0, who, number))
                    told = number
                if member.try_put(storm_message(who, number)):
                    os.write(writer, struct.pack("=III", 1, who, number))
                    number += 1
            elif (message := member.try_get()) is not None:
                their, its = struct.unpack_from("=II", message)
                verb = 2 if message == storm_message(their, its) else 3
                os.write(writer, struct.pack("=III", verb, their, its))


def drain(ring, storm):
    with Member(ring) as member:
        member.recover()
        while (message := member.try_get()) is not None:
            who, number = struct.unpack_from("=II", message)
            storm.torn += message != storm_message(who, number)
            storm.got[who, number] += 1


def check_capacity(ring):
    with Member(ring) as member:
        for _ in range(3):
            assert member.put_many([b"x"] * (ring.slots + 1)) == ring.slots
            assert len(member.get_many(ring.slots + 1)) == ring.slots


def storm(kills, seed):
    with Ring.create(slots=8, slot_size=LONG + 8, start=2**32 - 2) as ring:
        storm = Storm(ring, seed)
        try:
            assert storm.run(kills, HANG_S) == kills, "the survivors are stuck"
        finally:
            storm.stop()
        drain(ring, storm)
        check_capacity(ring)
        assert storm.torn == 0
        assert max(storm.got.values()) == 1, "a message came twice"
        # A killed getter may have had one in doubt and one that it had not told.
        missing = storm.put - set(storm.got)
        assert len(missing) <= ring.statistics().in_doubt + kills + WORKERS
        assert ring.statistics().members == ()  # some were killed before they joined
        assert 0 < ring.statistics().recovered <= kills + WORKERS


@pytest.mark.timeout(600)  # a hang is noticed sooner; a busy machine is only slow
def test_random_kills_leave_nobody_stuck():
    storm(int(os.environ.get("RINGS_KILLS", "500")), 5)


def left_in_hand(ring):
    """Whether the dead left a slot in hand, for nobody lives."""
    words = (slot_word(ring, index) for index in range(ring.slots))
    return any(ring.buffer[at] & 0xF in (WRITING, READING) for at in words)


def stuck_without_recovery(seed):
    """Whether a kill left a slot in hand; if so, those who come after must stick."""
    with Ring.create(slots=8, slot_size=LONG + 8) as ring:
        storm = Storm(ring, seed, provable=False)
        try:
            storm.run(UNPROVEN, 2.0)
            storm.stop()
            if not left_in_hand(ring):
                return False
            storm.start_all()
            moves = (storm.moved(2.0) for _ in range(2 * ring.slots))
            assert not all(moves), "messages move past a slot in dead hands"
            return True
        finally:
            storm.stop()


@pytest.mark.timeout(600)
def test_control_without_recovery_the_survivors_are_stuck():
    """Which kill finds a slot in hand is chance, so there is more than one try."""
    assert any(stuck_without_recovery(seed) for seed in range(7, 27))


@pytest.mark.soak
def test_many_random_kills():
    storm(portion(10_000), 6 + PART)
