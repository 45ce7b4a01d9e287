"""Light publishes: when they are on, and who must never call membarrier(2)."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time

import pytest

from rings import _core, layout, sandbox, spsc

HANG_S = 60
STARTS = (0, 2**31 - 2, 2**32 - 2)

pytestmark = pytest.mark.skipif(
    not _core.membarrier() or os.uname().machine != "x86_64",
    reason="needs membarrier(2), no filter, and its number",
)


def word(ring, offset):
    return struct.unpack_from("=I", ring.region.buffer, offset)[0]


def lights(ring):
    return word(ring, layout.SPSC_PROD_LIGHT), word(ring, layout.SPSC_CONS_LIGHT)


def wishes(ring):
    return word(ring, layout.SPSC_PROD_WISH), word(ring, layout.SPSC_CONS_WISH)


@pytest.fixture(params=["slots", "records"])
def ring(request):
    kinds = {"slots": {"slots": 8, "slot_size": 8}, "records": {"ring_bytes": 256}}
    with spsc.create(start=2**32 - 2, **kinds[request.param]) as made:
        yield made


def pass_one(producer, consumer):
    producer.put(b"12345678")
    assert consumer.get() == b"12345678"


def test_both_ends_publish_lightly_once_both_are_there(ring):
    with ring.producer() as producer, ring.consumer() as consumer:
        assert (lights(ring), wishes(ring)) == ((0, 0), (1, 1))
        pass_one(producer, consumer)
        assert lights(ring) == (1, 1)


def nap(producer, consumer):
    """Announce a sleep, find nothing, and be told of the next message."""
    assert consumer.arm() is False
    pass_one(producer, consumer)
    consumer.clear()


def test_who_sleeps_often_wishes_full_barriers_until_it_does_not(ring):
    with ring.producer() as producer, ring.consumer() as consumer:
        for _ in range(4):
            nap(producer, consumer)
        assert wishes(ring) == (0, 1)
        assert lights(ring) == (0, 1)
        for _ in range(70_000):
            pass_one(producer, consumer)
        assert (lights(ring), wishes(ring)) == ((1, 1), (1, 1))


def test_a_successor_begins_with_full_barriers_and_its_own_wish(ring):
    with ring.consumer() as consumer:
        with ring.producer() as producer:
            pass_one(producer, consumer)
        assert lights(ring) == (1, 1)
        with ring.producer() as producer:
            assert lights(ring) == (0, 1)
            pass_one(producer, consumer)
            assert lights(ring) == (1, 1)


def take_without(ring, count):
    """Be a consumer whose process has no heavy barrier."""
    assert _core.membarrier(False) is False
    with ring.consumer() as consumer:
        for _ in range(count):
            assert consumer.get(HANG_S) == b"12345678"
    os._exit(0)


def test_a_successor_without_barriers_turns_its_peer_and_misses_nothing(ring):
    with ring.producer() as producer:
        with ring.consumer() as consumer:
            pass_one(producer, consumer)
        assert (lights(ring), wishes(ring)) == ((1, 1), (1, 1))
        pid = os.fork()
        if pid == 0:
            take_without(ring, 50)
        assert producer.wait_peer(HANG_S) == pid
        while wishes(ring)[0]:
            time.sleep(0.001)
        for number in range(50):
            producer.put(b"12345678", HANG_S)
            assert lights(ring)[0] == 0
            time.sleep(0.003 * (number % 2))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_words_of_another_make_bind_nobody(ring):
    """A light word that nobody stands behind costs a barrier and nothing else."""
    struct.pack_into("=I", ring.region.buffer, layout.SPSC_PROD_LIGHT, 77)
    with ring.consumer() as consumer:
        assert consumer.arm() is False
        with ring.producer() as producer:
            struct.pack_into("=I", ring.region.buffer, layout.SPSC_PROD_WISH, 99)
            pass_one(producer, consumer)


# -- filters --------------------------------------------------------------------------

# One process has both ends of two rings, and an echo thread so that it really sleeps.
FILTERED = """
import struct, sys, threading
from rings import _core, layout, sandbox, spsc

when, filters, said = sys.argv[1:]
LOAD, EQUAL, RETURN, ALLOW = 0x20, 0x15, 0x06, 0x7FFF0000
ANSWER = {"kill": 0x80000000, "errno": 0x00050001}

def lock():
    if filters in ("default", "strict"):
        return sandbox.lock_down(strict=filters == "strict")
    lines = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, 324), (RETURN, 0, 0, ANSWER[filters]),
             (RETURN, 0, 0, ALLOW)]
    sandbox._install(b"".join(struct.pack("=HBBI", *line) for line in lines), 317)

def say():
    if said != "nothing":
        sandbox.permit_membarrier(said == "yes")

there = spsc.create(slots=4, slot_size=8)
back = spsc.create(slots=4, slot_size=8)

def light():
    words = []
    for ring in (there, back):
        for at in (layout.SPSC_PROD_LIGHT, layout.SPSC_CONS_LIGHT):
            words += struct.unpack_from("=I", ring.region.buffer, at)
    return words

def echo():
    for message in there_out:
        back_in.put(message)

if when == "first":
    lock(); say()
there_in, there_out = there.producer(), there.consumer()
back_in, back_out = back.producer(), back.consumer()
thread = threading.Thread(target=echo)
thread.start()
def pass_some():
    for number in range(50):
        there_in.put(number.to_bytes(8, "little"))
        assert back_out.get() == number.to_bytes(8, "little")
    for _ in range(1200):
        for _ in range(4):
            there_in.put(bytes(8))
        for _ in range(4):
            back_out.get()
pass_some()
if when == "later":
    say(); lock()
    pass_some()
there_in.close()
thread.join()
print("light" if _core.membarrier() else "full")
"""


def run_filtered(when, filters, said):
    command = [sys.executable, "-c", FILTERED, when, filters, said]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)


@pytest.mark.parametrize(
    ("when", "filters", "said", "outcome"),
    [
        ("later", "default", "nothing", "light"),
        ("later", "strict", "nothing", "light"),
        ("first", "kill", "nothing", "full"),
        ("first", "errno", "nothing", "full"),
        ("first", "errno", "yes", "full"),
        ("later", "kill", "no", "full"),
        ("later", "errno", "nothing", "full"),
    ],
)
def test_a_filter_is_never_provoked(when, filters, said, outcome):
    done = run_filtered(when, filters, said)
    assert (done.stdout, done.returncode) == (f"{outcome}\n", 0), done.stderr


@pytest.mark.parametrize("when", ["first", "later"])
def test_control_that_filter_kills_who_believes_it_may(when):
    """What was said, or was true when the end was taken, is believed."""
    done = run_filtered(when, "kill", "yes")
    assert done.returncode == -signal.SIGSYS


def test_the_lists_leave_it():
    assert "membarrier" in sandbox.STRICT
    assert "membarrier" not in sandbox.DENIED
