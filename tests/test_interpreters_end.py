"""An interpreter that ends in the middle of something, and who notices.

CPython refuses to destroy an interpreter while a script runs in it, and waits for
threads that `threading` started there.  So its ends come back when it is destroyed
after its script, or they are found dead with the process.  These tests show both, each
refusal, and how a wait is stopped; test_ending.py has threads of `_thread`, whose waits
end with their interpreter.
"""

from __future__ import annotations

import pytest

from tests.interp import OWN_GIL, find_python, require_python, run_python

HANG_S = 60
KINDS = ("fixed", "mpmc", "broadcast")
OWNED = ("fixed", "broadcast")  # kinds whose ends have one owner each

PRELUDE = """
import os, sys, threading, time
from rings import broadcast, errors, interpreters, mpmc, spsc
from tests import interp_traffic as traffic

HANG_S = 60
ENDINGS = {
    "raises": "1 / 0",
    "idle": "pass",
    "cycle": "class Box: pass\\nbox = Box(); box.box, box.end = box, end; del end",
    "generator": "def hold(it):\\n    with it: yield\\nheld = hold(end); next(held)",
    "module": "import rings; rings.kept = end; del end",
}

def here(ring, kind, script):
    ints = traffic.numbers(kind, ring)
    imports = "from tests import interp_traffic as traffic; from rings.errors import *"
    return f"{imports}; ring = traffic.attach({ints})\\n" + script

def start(worker, *args):
    thread = threading.Thread(target=worker.run, args=args)
    thread.start()
    return thread

def leave(ring, kind, script, delay_s=0.0):
    def work():
        worker = interpreters.create()
        try:
            worker.run(here(ring, kind, script))
        except interpreters.ScriptError as error:
            assert "ZeroDivisionError" in str(error), error
        time.sleep(delay_s)
        worker.close()
    thread = threading.Thread(target=work)
    thread.start()
    return thread

def outcome(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error).__name__

def await_consumer(ring, kind, producer):
    joined = {
        "broadcast": lambda: producer.consumers(),
        "mpmc": lambda: len(ring.statistics().members) == 2,
    }.get(kind, lambda: producer.peer_pid)
    while not joined():
        time.sleep(0.001)

def descriptors():
    return sorted(os.listdir("/proc/self/fd"))

"""

# Runs the script in argv[1] once for each kind of ring that follows.
DRIVER = """
for kind in sys.argv[2:]:
    before = descriptors()
    exec(sys.argv[1])
    if descriptors() != before:
        print("left open", set(descriptors()) - set(before))
"""


def run_kinds(python: str, script: str, *kinds: str) -> list[str]:
    """Return the words that `script` prints, run for one kind after the other."""
    return run_python(python, PRELUDE + DRIVER, script, *kinds).split()


@pytest.fixture(params=OWN_GIL)
def python(request: pytest.FixtureRequest) -> str:
    return require_python(request.param)


# ---- destroyed after its script, with its ends still open ----------------------

# The consumer waits without end, from before the interpreter is destroyed.
PRODUCER_LEAVES = """
SCRIPT = "end = ring.producer()\\nend.put(b'x' * 64)\\n"
for name, ending in ENDINGS.items():
    with traffic.create(kind, 2**32 - 2) as ring, ring.consumer() as consumer:
        thread = leave(ring, kind, SCRIPT + ending, 0.05)
        assert consumer.get(HANG_S) == b"x" * 64
        if kind == "mpmc":
            thread.join()
            alone = [member.owner for member in ring.statistics().members]
            assert alone == [consumer.owner], alone
        else:
            assert (end := outcome(consumer.get, HANG_S)) == "ShutDown", (name, end)
        thread.join()
        leave(ring, kind, SCRIPT).join()
        assert consumer.get(HANG_S) == b"x" * 64
        print(name)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_producer_ends_with_its_interpreter(python: str, kind: str) -> None:
    output = run_kinds(python, PRODUCER_LEAVES, kind)
    assert output == ["raises", "idle", "cycle", "generator", "module"]


# The producer fills the ring and waits for room that its consumer will not make.
CONSUMER_LEAVES = """
SCRIPT = "end = ring.consumer()\\nend.get(60)\\n"
COUNT = '''
end, n = ring.consumer(), 0
while end.try_get() is not None:
    n += 1
print(n, flush=True)
'''
TIMEOUT_S = 0.2 if kind == "mpmc" else HANG_S
for name in ("raises", "generator"):
    with traffic.create(kind, 2**32 - 2) as ring, ring.producer() as producer:
        thread = leave(ring, kind, SCRIPT + ENDINGS[name], 0.05)
        await_consumer(ring, kind, producer)
        n = 0
        while n < 1000:
            refused = outcome(producer.put, b"y" * 64, TIMEOUT_S)
            if isinstance(refused, str):
                break
            n += 1
        thread.join()
        print(name, refused, n - 1, flush=True)
        leave(ring, kind, COUNT).join()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_ends_with_its_interpreter(python: str, kind: str) -> None:
    output = run_kinds(python, CONSUMER_LEAVES, kind)
    refusals, put, left = set(output[1::4]), output[2::4], output[3::4]
    if kind == "broadcast":  # nobody is waited for any more, nobody sees the old ones
        assert (refusals, set(put), set(left)) == ({"None"}, {"999"}, {"0"})
    else:
        wanted = "TimeoutError" if kind == "mpmc" else "BrokenError"
        assert refusals == {wanted}
        assert put == left
        assert len(put) == 2


CLAIMED = """
with traffic.create(kind, 2**32 - 2) as ring, ring.consumer() as consumer:
    script = "end = ring.producer()\\nview = end.claim()\\nkept = view.__enter__()\\n"
    leave(ring, kind, script + "kept[:] = b'z' * 64\\n1 / 0").join()
    print(outcome(consumer.get, HANG_S))
    leave(ring, kind, "end = ring.producer(); end.put(b'x' * 64)").join()
    script = "end = ring.consumer()\\nview = end.peek(1, 60)\\nkept = view.__enter__()"
    consumer.close()
    leave(ring, kind, script + "\\n1 / 0").join()
    with ring.consumer() as consumer:
        print(consumer.get(HANG_S) == b"x" * 64)
"""


def test_a_claim_and_a_peek_end_with_their_interpreter(python: str) -> None:
    """What was claimed is not seen, what was peeked is delivered again."""
    assert run_kinds(python, CLAIMED, "fixed") == ["ShutDown", "True"]


# ---- waiting, when somebody wants it destroyed ---------------------------------

REFUSED = """
with traffic.create(kind, 2**32 - 2) as ring, ring.producer() as producer:
    worker = interpreters.create()
    script = "with ring.consumer() as end: print(len(end.get()), flush=True)"
    thread = start(worker, here(ring, kind, script))
    await_consumer(ring, kind, producer)
    print(outcome(worker.close), outcome(worker._api.destroy))
    producer.put(b"x" * 64)
    thread.join()
    worker.close()
"""


def test_one_that_waits_is_not_destroyed_and_goes_on(python: str) -> None:
    oldest = python == find_python("3.12")
    refusal = "RuntimeError" if oldest else "InterpreterError"
    output = run_kinds(python, REFUSED, *KINDS)
    assert output == ["BusyError", refusal, "64"] * len(KINDS)


OTHER_SIDE = """
SCRIPT = '''
with ring.consumer() as end:
    try:
        end.get()
    except ShutDown:
        print("told")
'''
with traffic.create(kind, 0) as ring, interpreters.create() as worker:
    with ring.producer() as producer:
        thread = start(worker, here(ring, kind, SCRIPT))
        await_consumer(ring, kind, producer)
        time.sleep(0.05)
        producer.shutdown() if kind == "mpmc" else producer.close()
        thread.join()
"""


def test_a_wait_without_end_is_stopped_from_the_other_side(python: str) -> None:
    assert run_kinds(python, OTHER_SIDE, *KINDS) == ["told"] * len(KINDS)


STOP = """
SCRIPT = '''
import select

def wait(end):
    if hasattr(end, "arm_get"):
        return end.get_fileno(), end.arm_get() == 0
    getattr(end, "clear", int)()
    return end.fileno(), end.arm()

with there.consumer() as end, ring.producer() as producer:
    producer.put(b"s" * 64)
    while True:
        fd, ready = wait(end)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(stop, select.POLLIN)
        if end.try_get() is None and not ready and stop in dict(poll.poll()):
            break
'''
stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
with traffic.create(kind, 0) as there, traffic.create(kind, 0) as ring:
    with interpreters.create() as worker, ring.consumer() as consumer:
        names = f"stop, there = {stop}, traffic.attach({traffic.numbers(kind, there)})"
        thread = start(worker, here(ring, kind, names + SCRIPT))
        assert consumer.get(HANG_S) == b"s" * 64
        time.sleep(0.05)
        os.eventfd_write(stop, 1)
        if kind == "mpmc":
            thread.join()
            print(len(ring.statistics().members))
        else:
            print(outcome(consumer.get, HANG_S))
            thread.join()
os.close(stop)
"""


def test_a_wait_on_an_eventfd_too_is_stopped_by_it(python: str) -> None:
    assert run_kinds(python, STOP, *KINDS) == ["ShutDown", "1", "ShutDown"]


THREAD = """
SCRIPT = '''
import threading

def listen():
    with ring.consumer() as end:
        try:
            end.get()
        except ShutDown:
            print("told", flush=True)

threading.Thread(target=listen).start()
'''
with traffic.create(kind, 0) as ring, ring.producer() as producer:
    thread = leave(ring, kind, SCRIPT)
    await_consumer(ring, kind, producer)
    thread.join(0.2)
    print("alive" if thread.is_alive() else "destroyed", flush=True)
    producer.shutdown() if kind == "mpmc" else producer.close()
    thread.join()
"""


def test_destroying_waits_for_a_thread_that_waits(python: str) -> None:
    assert run_kinds(python, THREAD, *KINDS) == ["alive", "told"] * len(KINDS)


# ---- nobody destroys it ---------------------------------------------------------

DROPPED = """
import gc

def drop():
    script = "end = ring.producer()\\nend.put(bytes(64))"
    interpreters.create().run(here(ring, kind, script))

with traffic.create(kind, 0) as ring, ring.consumer() as consumer:
    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    gc.collect()
    print(len(consumer.get(HANG_S)), outcome(consumer.get, 0.1))
"""


def test_one_that_nobody_refers_to_is_destroyed(python: str) -> None:
    """Not on 3.13, whose ids are plain numbers: there it keeps its ends."""
    stays = python == find_python("3.13")
    told = run_kinds(python, DROPPED, "fixed")[:2]  # and 3.13 leaves descriptors open
    assert told == ["64", "TimeoutError" if stays else "ShutDown"]


# ---- two interpreters share pid and start time ---------------------------------

OWNERS = """
TAKE = '''
try:
    end = ring.{0}()
    print("taken", flush=True)
except BusyError as error:
    import os
    print("busy" if f"pid {{os.getpid()}}, alive" in str(error) else error, flush=True)
'''
for name in ("producer", "consumer")[: 1 if kind == "broadcast" else 2]:
    with traffic.create(kind, 0) as ring:
        with getattr(ring, name)():
            leave(ring, kind, TAKE.format(name)).join()
        with interpreters.create() as worker:
            start(worker, here(ring, kind, TAKE.format(name))).join()
            leave(ring, kind, TAKE.format(name)).join()
            print(outcome(getattr(ring, name)))
        leave(ring, kind, TAKE.format(name)).join()
        getattr(ring, name)().close()
"""


def test_an_end_has_one_owner_among_interpreters(python: str) -> None:
    each = ["busy", "taken", "busy", "BusyError", "taken"]
    assert run_kinds(python, OWNERS, *OWNED) == each * 3


RACE = """
import mmap
TAKE = '''
import mmap
from rings.atomics import Atomics
words = Atomics(mmap.mmap({fd}, 4096))

def meet(word, n):
    words.add(word, 1)
    while words.load(word) < 2 * n:
        pass

for n in range(1, {rounds} + 1):
    meet(1, n)
    try:
        end = ring.producer()
        words.add(0, 1)
    except BusyError:
        end = None
    meet(2, n)
    if end is not None:
        end.close()
if words.load(0) != {rounds}:
    print(words.load(0), "times taken in {rounds} rounds")
'''
fd = os.memfd_create("race")
os.ftruncate(fd, 4096)
script = TAKE.format(fd=fd, rounds=200)
with traffic.create(kind, 0) as ring:
    threads = [leave(ring, kind, script) for _ in range(2)]
    for thread in threads:
        thread.join()
os.close(fd)
print("raced")
"""


def test_two_interpreters_race_for_an_end(python: str) -> None:
    assert run_kinds(python, RACE, *OWNED) == ["raced"] * len(OWNED)
