"""An interpreter that is destroyed while a thread of it waits, and who notices.

A thread of `_thread`, for destroying waits for those of `threading`.  Its waits end,
its ends come back, its peers are told, and CPython finds it gone: nothing aborts on
3.12 and 3.13, and nothing stops for good on 3.14.  Then what cannot be helped: threads
that do not go when they are woken, or sleep in something that is not ours.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

import daemons
from rings import spsc
from rings.errors import BrokenError, ShutDown
from tests import interp_traffic as traffic
from tests.interp import OWN_GIL, find_python, require_python, run_python, start_python
from tests.served import sessions, until

HANG_S = 60

PRELUDE = """
import os, resource, sys, time
import rings
from rings import broadcast, errors, interpreters, mpmc, spsc
from tests import interp_traffic as traffic

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
HANG_S = 60
started = os.eventfd(0)
FIRST = f'''
import _thread, os, rings, time
from rings import spsc
from rings.errors import *
from tests import interp_traffic as traffic

def wait(call):
    os.eventfd_write({started}, 1)
    try:
        while True:
            call()
    except ClosedError:
        print("woken ", end="", flush=True)

def begin(call, delay_s=0.02):
    _thread.start_new_thread(wait, (call,))
    os.eventfd_read({started})
    time.sleep(delay_s)

'''

def outcome(call, *args):
    try:
        while True:
            call(*args)
    except Exception as error:
        return type(error).__name__

def attached(name, kind, ring):
    return f"{name} = traffic.attach({traffic.numbers(kind, ring)})\\n"

def descriptors():
    return sorted(os.listdir("/proc/self/fd"))
"""


@pytest.fixture(params=OWN_GIL)
def python(request: pytest.FixtureRequest) -> str:
    return require_python(request.param)


# ---- every wait of every ring --------------------------------------------------

# Destroyed at once, when the thread may not be asleep yet, and later, when it is.
DESTROYED = """
kind, side, call = sys.argv[1:]
other = {"producer": "consumer", "consumer": "producer"}[side]

def notice(ring, peer):
    if kind == "mpmc":
        assert [m.owner for m in ring.statistics().members] == [peer.owner]
        return "left"
    if kind == "broadcast" and side == "consumer":
        return f"{len(peer.consumers())} consumers"
    return outcome(peer.put, bytes(64), HANG_S) if side == "consumer" else \\
        outcome(peer.get, HANG_S)

def destroy(delay_s):
    with traffic.create(kind, 2**32 - 2) as ring, getattr(ring, other)() as peer:
        worker = interpreters.create()
        script = f"end = ring.{side}()\\nbegin(lambda: {call}, {delay_s})"
        worker.run(FIRST + attached("ring", kind, ring) + script)
        worker.close()
        print(notice(ring, peer), flush=True)
        getattr(ring, side)().close()

before = descriptors()
for delay_s in (0, 0.001, 0.02, 0):
    destroy(delay_s)
while descriptors() != before:
    time.sleep(0.001)
"""
WAITS = (
    ("fixed", "consumer", "end.get()", "BrokenError"),
    ("fixed", "consumer", "end.get(60)", "BrokenError"),
    ("fixed", "consumer", "end.peek()", "BrokenError"),
    ("fixed", "consumer", "end.get_many(8, None)", "BrokenError"),
    ("fixed", "producer", "end.put(bytes(64))", "ShutDown"),
    ("records", "consumer", "end.get()", "BrokenError"),
    ("records", "producer", "end.put(bytes(64))", "ShutDown"),
    ("mpmc", "consumer", "end.get()", "left"),
    ("mpmc", "producer", "end.put(bytes(64))", "left"),
    ("broadcast", "consumer", "end.get()", "0 consumers"),
    ("broadcast", "producer", "end.put(bytes(64))", "ShutDown"),
)


@pytest.mark.parametrize(
    ("kind", "side", "call", "noticed"), WAITS, ids=[" ".join(w[:3]) for w in WAITS]
)
def test_a_wait_ends_with_its_interpreter(
    python: str, kind: str, side: str, call: str, noticed: str
) -> None:
    output = run_python(python, PRELUDE + DESTROYED, kind, side, call)
    assert output.splitlines() == [f"woken {noticed}"] * 4


QUEUE = """
with rings.Queue(4) as queue:
    for call in ("end.get()", "end.put(0)", "end.get_many(4)"):
        worker = interpreters.create()
        script = f"end = rings.Queue.attach({tuple(queue.handle())})\\n"
        worker.run(FIRST + script + f"begin(lambda: {call})")
        worker.close()
        print(len(queue.statistics().members), flush=True)
        while not queue.empty():
            queue.get()
"""


def test_a_wait_in_a_queue_ends_with_its_interpreter(python: str) -> None:
    assert run_python(python, PRELUDE + QUEUE).split() == ["woken", "1"] * 3


MANY = """
names = {"spun": "fixed", "full": "records", "shared": "mpmc"}
kept = {name: traffic.create(kind, 0) for name, kind in names.items()}
for name, ring in kept.items():
    FIRST += attached(name, names[name], ring)
worker = interpreters.create()
worker.run(FIRST + '''
spinning, putting = spun.consumer(wait="busy").get, full.producer().put
sharing = shared.consumer().get
for call in (spinning, lambda: putting(bytes(64)), sharing, sharing):
    begin(call, 0)
''')
worker.close()
kept["spun"].consumer().close()
kept["full"].producer().close()
print(len(kept["shared"].statistics().members))
"""


def test_all_threads_are_woken(python: str) -> None:
    """One that spins, one that has filled its ring, two in one member."""
    output = run_python(python, PRELUDE + MANY).split()
    assert output == ["woken"] * 4 + ["0"]


MAKING = """
class Slow:
    def __init__(self, ring):
        self.ring = ring

    def __getattr__(self, name):
        if name == "slots":
            os.eventfd_write(making, 1)
            time.sleep(0.05)
        return getattr(self.ring, name)

def call():
    type(ring.consumer())(Slow(ring)).get()

begin(call, 0)
"""
MADE = """
with traffic.create("mpmc", 0) as ring:
    worker = interpreters.create()
    making = os.eventfd(0)
    worker.run(FIRST + attached("ring", "mpmc", ring) + sys.argv[1], making=making)
    os.eventfd_read(making)
    worker.close()
    print(len(ring.statistics().members))
"""


def test_a_wait_in_an_end_that_was_being_made(python: str) -> None:
    """It was let in before destroying began, and is found open afterwards."""
    assert run_python(python, PRELUDE + MADE, MAKING).split() == ["woken", "0"]


# ---- the peer is another process -----------------------------------------------

# It reads from one ring and writes to the other.
DOOMED = """
ints = tuple(map(int, sys.argv[2:]))
worker = interpreters.create()
worker.run(FIRST + f'''
ring, there = spsc.attach(*{ints[:4]}), spsc.attach(*{ints[4:]})
end, producer = there.consumer(), ring.producer()
begin(end.get)
producer.put(b"s" * 64)
''')
worker.close() if sys.argv[1] == "destroy" else os.kill(os.getpid(), 9)
print("stands", flush=True)
time.sleep(HANG_S)
"""


def fill(producer: spsc.Producer) -> None:
    """Put until something is raised."""
    while True:
        producer.put(bytes(64), HANG_S)


def start(
    python: str, script: str, *rings: spsc.Ring, args: tuple[object, ...] = ()
) -> subprocess.Popen[str]:
    """Start a script with its arguments and the numbers of rings."""
    ints = [number for ring in rings for number in ring.handle()]
    fds = [fd for ring in rings for fd in traffic.descriptors("fixed", ring)]
    return start_python(python, PRELUDE + script, *args, *ints, fds=fds)


def line(child: subprocess.Popen[str]) -> str:
    """Return the next line that the child prints."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_destroyed_in_its_wait_it_is_noticed_by_another_process(python: str) -> None:
    with spsc.create() as ring, spsc.create() as there:
        child = start(python, DOOMED, ring, there, args=("destroy",))
        with child, ring.consumer() as consumer, there.producer() as producer:
            assert consumer.get(HANG_S) == b"s" * 64
            with pytest.raises(ShutDown):
                consumer.get(HANG_S)
            with pytest.raises(BrokenError, match="the consumer closed its end"):
                fill(producer)
            assert line(child) == "woken stands"
            ring.producer().close()
            there.consumer().close()
            child.kill()


def test_killed_in_its_wait_it_is_noticed_too(python: str) -> None:
    with spsc.create() as ring, spsc.create() as there:
        child = start(python, DOOMED, ring, there, args=("kill",))
        with child, ring.consumer() as consumer, there.producer() as producer:
            assert consumer.get(HANG_S) == b"s" * 64
            with pytest.raises(BrokenError, match=f"pid {child.pid}.* died"):
                consumer.get(HANG_S)
            with pytest.raises(BrokenError, match=f"pid {child.pid}.* died"):
                fill(producer)
            ring.producer().close()
            there.consumer().close()
            assert child.wait(HANG_S) == -9


# ---- threads that do not go ----------------------------------------------------

STUBBORN = """
ints = tuple(map(int, sys.argv[2:]))
worker = interpreters.create()
worker.run(FIRST + f"ring = spsc.attach(*{ints})\\n" + sys.argv[1] + "\\nbegin(call)")
worker.close()
print("stands", flush=True)
time.sleep(HANG_S)
"""
WAYS = {
    "tries again": """
end = ring.consumer()

def call():
    while True:
        try:
            end.get()
        except ClosedError:
            pass
""",
    "opens again": """
import atexit
atexit.register(time.sleep, 0.05)  # called after ours: the thread runs on

def call():
    while True:
        try:
            ring.consumer().get()
        except ClosedError:
            pass
""",
    "sleeps elsewhere": """
end, lock = ring.consumer(), _thread.allocate_lock()
lock.acquire()
call = lock.acquire
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_thread_that_stays_keeps_no_end(python: str, way: str) -> None:
    """The peer is told all the same; then 3.12 and 3.13 abort, and 3.14 stands."""
    with spsc.create() as ring:
        child = start(python, STUBBORN, ring, args=(WAYS[way],))
        with child, ring.producer() as producer:
            producer.wait_peer(HANG_S)
            with pytest.raises(BrokenError, match="the consumer closed its end"):
                fill(producer)
            if python == find_python("3.14"):
                assert line(child) == "stands"
                ring.consumer().close()
                child.kill()
            else:
                assert "not the last thread" in child.communicate(timeout=HANG_S)[0]
                assert child.returncode == -6
                ring.consumer().close()


# ---- what is out stays as it was -----------------------------------------------

VIEWS = """
with (traffic.create("fixed", 0) as claimed, traffic.create("fixed", 0) as peeked,
      traffic.create("fixed", 0) as waited, claimed.consumer() as consumer):
    with peeked.producer() as producer:
        producer.put(b"x" * 64)
    for name, ring in (("claimed", claimed), ("peeked", peeked), ("waited", waited)):
        FIRST += attached(name, "fixed", ring)
    worker = interpreters.create()
    worker.run(FIRST + sys.argv[1])
    worker.close()
    print(outcome(consumer.get, HANG_S), flush=True)
    with peeked.consumer() as again:
        print(again.get(HANG_S) == b"x" * 64)
    waited.consumer().close()
"""
KEPT = {
    "by the script": """
claim, peek = claimed.producer().claim(), peeked.consumer().peek()
written, read = claim.__enter__(), peek.__enter__()
written[:] = b"z" * 64
kept = written[8:], read[8:]  # with these out, closing is refused
begin(waited.consumer().get)
""",
    "by the thread": """
def call():
    with claimed.producer().claim() as written, peeked.consumer().peek() as read:
        written[:] = b"z" * 64
        waited.consumer().get()

begin(call)
""",
}


@pytest.mark.parametrize("by", KEPT)
def test_a_claim_and_a_peek_end_with_their_interpreter(python: str, by: str) -> None:
    """What was claimed is not seen, what was peeked is delivered again."""
    output = run_python(python, PRELUDE + VIEWS, KEPT[by])
    assert output.split() == ["woken", "ShutDown", "True"]


BYE = """
with (traffic.create("fixed", 0) as there, traffic.create("fixed", 0) as waited,
      there.consumer() as consumer):
    worker = interpreters.create()
    worker.run(FIRST + attached("there", "fixed", there)
               + attached("waited", "fixed", waited) + '''
import atexit

def last():
    with there.producer() as producer:
        producer.put(b"l" * 64)

atexit.register(last)
end = there.producer()
atexit.register(end.put, b"f" * 64)
begin(waited.consumer().get)
''')
    worker.close()
    print(consumer.get(HANG_S)[:1], consumer.get(HANG_S)[:1], outcome(consumer.get))
"""


def test_what_atexit_was_given_may_still_send(python: str) -> None:
    """On an end that is open before ours is called, on a new one after it."""
    output = run_python(python, PRELUDE + BYE)
    assert output.strip() == "woken b'f' b'l' ShutDown"


FORGOTTEN = """
KINDS = ("fixed", "mpmc", "broadcast")
with rings.Queue(4) as queue, interpreters.create() as worker:
    kept = [traffic.create(kind, 0) for kind in KINDS]
    ints = [traffic.numbers(kind, ring) for kind, ring in zip(KINDS, kept)]
    worker.run(FIRST + f'''
from rings import ending

ends = []
for ring in map(traffic.attach, {ints}):
    ends += [ring.producer(), ring.consumer()]
ends.append(rings.Queue.attach({tuple(queue.handle())}))
print(len(ending.watch.__self__.ends))
ends[0].close()
ends.clear()
print(len(ending.watch.__self__.ends))
''')
for ring in kept:
    ring.close()
"""


def test_ends_that_are_gone_are_forgotten(python: str) -> None:
    assert run_python(python, PRELUDE + FORGOTTEN).split() == ["7", "0"]


# ---- the main interpreter ------------------------------------------------------

MAIN = """
import sys, threading, time
from rings import spsc

ring = spsc.create()
end = ring.consumer()
thread = threading.Thread(target=end.get, daemon=True)
thread.start()
time.sleep(0.05)
print("rings.ending" in sys.modules)
"""


@pytest.mark.parametrize("version", ["3.11", *OWN_GIL])
def test_the_main_interpreter_ends_as_ever(version: str) -> None:
    """Nothing is remembered, and a daemon thread prints nothing as it goes."""
    assert run_python(require_python(version), MAIN).split() == ["False"]


# ---- a session with a daemon ---------------------------------------------------

SESSION = """
worker = interpreters.create()
worker.run(FIRST + f'''
from rings import ending

ending.PATIENCE_S = 0.5  # less than a sleep takes that nobody ends
disk = rings.connect({sys.argv[1]!r}).block("delay0")

def call():
    try:
        disk.read(0, 4096)
    except BrokenError as error:
        raise ClosedError from error

begin(call)
''')
worker.close()
print("stands", flush=True)
time.sleep(HANG_S)
"""


def test_a_wait_for_a_device_ends_with_its_interpreter(python: str) -> None:
    """Its session ends, while the process lives and the device has not answered."""
    with (
        daemons.spawn(kind="delay", servers=1, service_time="30s") as daemon,
        start(python, SESSION, args=(daemon.address,)) as child,
    ):
        assert line(child) == "woken stands"
        until(lambda: not sessions(daemon.address), "the session has ended")
        child.kill()


def test_a_session_that_nobody_waits_in_is_left_alone() -> None:
    """What `atexit` was given may use it: it is closed with its objects."""
    script = """
disk = rings.connect(sys.argv[1]).block("null0")
disk._requester._front.end_waits()
print(disk.read(0, 4096) == bytes(4096))
"""
    with daemons.spawn(kind="null") as daemon:
        assert run_python(sys.executable, PRELUDE + script, daemon.address).split() == [
            "True"
        ]
