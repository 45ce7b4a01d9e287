"""No use of a C type leaks an object, memory, or a reference to a singleton.

Under the limited API the headers of one Python may count references that another
does not, so each use runs in a loop under every Python that can be found: in one
process, one use after the other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rings import _core
from tests.interp import VERSIONS, finish, require_python, start_python

HANG_S = 100
ROUNDS = 5_000
TOLERANCE = ROUNDS // 10  # what is lost in every use drifts by ROUNDS or more
TOLERANCE_BYTES = ROUNDS * 256  # what is smaller is counted as a block

METER = """
import gc, json, os, resource, sys
from rings import _core

SINGLETONS = {"None": None, "True": True, "False": False, "bytes": b"", "tuple": ()}
KINDS = [kind for kind in vars(_core).values() if isinstance(kind, type)]

def fails(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception:
        return
    raise AssertionError(f"{call} does not fail")

def measure():
    gc.collect()
    found = {name: sys.getrefcount(one) for name, one in SINGLETONS.items()}
    found |= {kind.__name__: sys.getrefcount(kind) for kind in KINDS}
    found["blocks"] = sys.getallocatedblocks()
    with open("/proc/self/statm") as file:
        found["rss"] = int(file.read().split()[1]) * resource.getpagesize()
    found["fds"] = len(os.listdir("/proc/self/fd"))
    return found

def drift(script, rounds):
    names = {"_core": _core, "fails": fails, "os": os, "sys": sys}
    exec(script, names)
    use = names["use"]
    for _ in range(rounds // 4):
        use()
    before = measure()
    for _ in range(rounds):
        use()
    after = measure()
    return {name: after[name] - before[name] for name in before}

uses = json.loads(sys.argv[2])
print(json.dumps({name: drift(use, int(sys.argv[1])) for name, use in uses.items()}))
"""

ATOMICS = """
memory = bytearray(64)

def use():
    words = _core.Atomics(memory, format="q", offset=8, count=3)
    with words:
        words.store(0, 2**62), words.load(0), words.add(0, 2**62), words.sub(0, -1)
        words.and_(0, 7), words.or_(0, 2**40), words.xor(0, 2**41)
        words.exchange(0, 2**42), words.compare_exchange(0, 2**42, 2**43)
        words.wait(0, 0), words.wait(0, 2**43, 0), words.notify(0), words.notify(0, 0)
        len(words), words.format, words.itemsize, words.readonly, words.closed
        for call in (words.load, words.notify):
            fails(call, 3), fails(call, 2**80), fails(call, "x"), fails(call)
        fails(words.add, 0, 1.5), fails(words.store, 0, None)
        fails(words.store, 9, len(memory) << 60)
        fails(words.compare_exchange, 0, None, 1), fails(words.wait, 0, 0, "x")
    words.close()
    fails(words.load, 0), fails(words.__enter__)
    fails(_core.Atomics), fails(_core.Atomics, 3), fails(_core.Atomics, memory, 3)
    fails(_core.Atomics, memory, count=99), fails(_core.Atomics, memory, format="h")
    fails(_core.Atomics(bytes(8)).store, 0, 1)
"""

XEN = """
def use():
    memory = bytearray(256 + 4 * 64)
    sizes = {"slots": 4, "slot_size": 64, "response_size": 16}
    front = _core.FrontRing(memory, **sizes, initialise=True)
    back = _core.BackRing(memory, **sizes)
    front.put(b"q" * 64), front.put_many([b"r" * 64] * 2), front.put_many(bytes(64))
    front.put(bytes(64)), front.publish(), back.final_check(), back.take(1)
    back.take_into(bytearray(256)), back.take()
    back.put(bytes(16)), back.put_many([b"a" * 16] * 3), back.publish()
    front.take(1), front.take_into(bytearray(64)), front.take(), front.final_check()
    for half in (front, back):
        half.statistics(), half.in_flight, half.unpublished, half.is_broken
        fails(half.put, "x"), fails(half.take_into, b""), fails(half.put_many, 3)
        half.close()
        fails(half.publish)
    fails(_core.FrontRing), fails(_core.FrontRing, memory, slots=3, slot_size=64)
    fails(_core.BackRing), fails(_core.BackRing, b"", slots=4, slot_size=64)
"""

VIEW = """
def use():
    view = _core.View(bytearray(64), 8, 16)
    if sys.version_info >= (3, 12):
        memoryview(view).release()
    view.exports, view.released, view.release(), view.release()
    _core.View(bytes(8), 0, 8, True), fails(_core.View), fails(_core.View, b"", -1, 0)
    fails(_core.View, bytes(8), 0, 99), fails(memoryview, view)
"""

FRONT = """
def make(memory, slots=4):
    return _core.Front(
        buffer=memory, layout=1, slots=slots, slot_size=64, start=0, notify_fd=-1,
        wait_fd=-1, hangup_fd=-1, spin_us=0, on_hangup=list, answer=_core.Answer,
    )

def use():
    front, handle = make(bytearray(256 + 4 * 64)), _core.Answer(None, 1, 2, 3)
    handle.answered, handle.value, handle.id, handle.op, handle.offset, handle.length
    fails(front.begin), fails(front.begin, 1), fails(front.call), fails(front.many)
    memory, revoked = _core.View(bytearray(64), 8, 16), _core.View(bytearray(64), 8, 16)
    revoked.release()
    front.begin(front, memory, 2, 0, 16, 0, 1, 0, True)
    front.begin_request(front, (memory, memory), bytes(64), False)
    fails(front.begin, front, revoked, 2, 0, 16, 0, 1, 0, True)
    fails(front.begin, front, front, 2, 0, 16, 0, 1, 0, True)
    fails(front.begin_request, front, (memory, revoked), bytes(64), False)
    fails(front.call, memory, 2, 0, 16, 0, 1, 0, 0)
    front.has_credit(), front.flush(), front.in_flight()
    front.statistics(), front.arm(), front.end_waits()
    front.result(handle, 0), fails(front.result, 1, 2)
    front.close()
    fails(front.result, 1, 2, 3), fails(make, bytes(8)), fails(make, bytearray(8), 3)
    fails(_core.Answer), fails(_core.Front)
"""

MESSAGES = """
from rings import broadcast, layout, spsc

def ends(ring):
    buffer, data, space = ring.region.buffer, *ring.handle()[2:]
    producer = _core.SpscProducer(buffer, data, space)
    return producer, _core.SpscConsumer(buffer, space, data)

def spoil(end):
    for call in (end.wait_peer, end.fileno, end.clear, end.arm, end.statistics):
        fails(call, "x")
    fails(end.wait_peer, timeout=float("nan")), end.depth, end.peer_pid, end.max_size
    end.fileno(), end.clear(), end.arm(), end.statistics(), end.wait_peer(0)

def use_slots(ring):
    producer, consumer = ends(ring)
    with producer, consumer:
        producer.try_put(bytes(8)), producer.put(bytearray(8))
        producer.put(bytes(8), 0)
        producer.put_many([bytes(8)] * 9), consumer.try_get(), consumer.get(0)
        consumer.get_many(1), consumer.get_into(bytearray(8)), consumer.try_get()
        producer.put_many(bytes(32)), consumer.get_many(), consumer.get_many(timeout=0)
        with producer.claim() as view:
            view[0] = 1
        fails(producer.try_claim(2).publish, 9), producer.claim().abandon()
        with consumer.peek() as view:
            memoryview(view).release()
        view = producer.try_claim()
        view.exports, view.messages, len(view), fails(producer.try_put, bytes(8))
        producer.publish(1), fails(view.publish), fails(producer.publish)
        consumer.peek()
        consumer.try_peek(), fails(consumer.peek, 0), fails(consumer.release, "x")
        fails(producer.put, "x"), fails(producer.put, b""), fails(producer.put_many, 3)
        fails(producer.put_many, [b"x"]), fails(producer.put_many, bytes(7))
        fails(producer.put, bytes(8), what=1), consumer.get(), fails(consumer.get, 0)
        fails(consumer.get, "x"), fails(consumer.get_into, b"")
        fails(consumer.get_many, -1)
        fails(ring.producer), spoil(producer), spoil(consumer)
    fails(consumer.try_get), fails(consumer.__enter__)
    for kind in (_core.SpscProducer, _core.SpscConsumer):
        fails(kind), fails(kind, bytearray(8), 0, 0), fails(kind, bytes(8), 0, 0)

def use_records(ring):
    producer, consumer = ends(ring)
    with consumer:
        producer.put_many([b"abc", bytes(70)]), consumer.get_into(bytearray(3))
        with producer.claim(5) as view:
            view[:] = b"12345"
        fails(consumer.get_into, bytearray(3)), consumer.get_many()
        fails(producer.put, bytes(999)), fails(producer.put_many, b"abc")
        producer.put(b"x"), producer.close(), list(consumer), fails(consumer.get)

def use_broadcast(ring):
    buffer, (_, _, space, events) = ring.region.buffer, ring.handle()
    producer = _core.BroadcastProducer(buffer, events)
    consumer = _core.BroadcastConsumer(buffer, space, False)
    producer.put_many([b"abc"] * 5), producer.try_put(b""), consumer.try_get()
    consumer.get_many(9), consumer.try_get(), consumer.has_message()
    consumer.await_message(), producer.try_put(b"x"), consumer.producer_state()
    producer.has_room(), producer.await_room(), producer.reap(), producer.consumers()
    consumer.lost, consumer.index, producer.notified, producer.closed, consumer.closed
    fails(producer.try_put, bytes(99)), fails(producer.try_put, 3), fails(ring.producer)
    fails(producer.put_many, 3), fails(producer.put_many, [3]), fails(ring.consumer)
    fails(consumer.get_many, "x"), fails(_core.BroadcastProducer, bytearray(8), ())
    fails(_core.BroadcastConsumer, bytearray(8), 0, 0), fails(_core.BroadcastProducer)
    producer.close(), consumer.close(), fails(consumer.try_get), fails(producer.reap)

RINGS = [
    spsc.create(slots=4, slot_size=8),
    spsc.create(ring_bytes=256),
    broadcast.create(slots=4, slot_size=8, consumers=1),
]

def use():
    for each, ring in zip((use_slots, use_records, use_broadcast), RINGS):
        each(ring)
"""

MPMC = """
from rings import layout, mpmc

RING = mpmc.Ring.create(slots=4, slot_size=40)

def common(member):
    member.size, member.owner, member.closed, member.ring, member.recover()
    fails(member.shutdown, 1, 2), fails(type(member)), fails(type(member), 3)
    fails(type(member), RING, spin_us="x"), fails(type(member), RING, spin=1)

def puts(member):
    member.try_put(b"abc"), member.put(bytearray(40)), member.put(b"", timeout=1)
    member.put_fileno(), member.arm_put(), member.put_many([b"a"] * 9)
    member.try_put(b"x"), fails(member.put, b"x", 0), fails(member.put, b"x", "x")
    member.put_many((b"y",)), member.put_many([]), member.arm_put()
    fails(member.try_put, "x"), fails(member.try_put, bytes(41)), fails(member.put)
    fails(member.put, bytes(41)), fails(member.put_many, 3)
    fails(member.put_records, b"abc", 2), fails(member.put_records, 3, 3)

def gets(member):
    member.get_fileno(), member.arm_get(), member.try_get(), member.get()
    member.get(timeout=1), member.get_many(9), member.get_many(1), member.try_get()
    fails(member.get, 0), fails(member.get, "x"), fails(member.get_many, "x")
    fails(member.get_records, b"abc", 2), fails(member.get_records, bytearray(3), 0)

def use():
    producer, consumer, member = RING.producer(), RING.consumer(), RING.member()
    with producer, consumer, member:
        puts(producer), gets(consumer), puts(member), gets(member)
        producer.put_records(bytes(16), 8), consumer.get_records(bytearray(24), 8)
        producer.put(bytes(9)), fails(consumer.get_records, bytearray(8), 8)
        for each in (producer, consumer, member):
            common(each)
        producer.shutdown(), fails(member.put, b"x"), consumer.get_many(9)
        fails(consumer.get), member.shutdown(immediate=True), fails(consumer.try_get)
    fails(producer.try_put, b"x"), fails(consumer.try_get), fails(member.arm_get)
    fails(lambda: member.size), producer.close()
    _core.mpmc_initialise(RING.buffer, 4, 40, 0)
    fails(_core.mpmc_initialise, bytes(8), 4, 40, 0)
    fails(_core.mpmc_initialise, bytearray(8), 4, 40, 0)
"""

QUEUE = """
from rings.queue import Queue

QUEUE = Queue(8)
VIEWS = Queue(8, views=True)
BIG = bytes(20_000)

def use():
    for queue in (QUEUE, VIEWS):
        queue.put(b"abc"), queue.put_nowait(BIG), queue.put([BIG, "x"], True, 1)
        queue.put_many([1, None, BIG]), queue.qsize(), queue.blocks_used
        queue.get(), queue.get_nowait(), queue.get(timeout=1), queue.get_many(9)
        queue.get_fileno(), queue.put_fileno(), queue.arm_get(), queue.arm_put()
        queue.recover(), queue.is_shutdown, queue.closed, queue.owner
        fails(queue.get_nowait), fails(queue.get, True, 0), fails(queue.put, use)
        fails(queue.get, timeout="x"), fails(queue.put), fails(queue.get_many, "x")
        fails(queue.put_many, 3)
    fails(_core.QueueMember), fails(_core.QueueLease), fails(_core.QueueMember, 1, 2, 3)
"""

SCRIPTS = {
    "atomics": ATOMICS, "front": FRONT, "messages": MESSAGES, "mpmc": MPMC,
    "queue": QUEUE, "view": VIEW, "xen": XEN,
}  # fmt: skip

# The use of each type of the extension: every method, and the ways to fail.
USES = {
    "Answer": "front",
    "Atomics": "atomics",
    "BackRing": "xen",
    "BroadcastConsumer": "messages",
    "BroadcastProducer": "messages",
    "Front": "front",
    "FrontRing": "xen",
    "MpmcConsumer": "mpmc",
    "MpmcMember": "mpmc",
    "MpmcProducer": "mpmc",
    "QueueLease": "queue",
    "QueueMember": "queue",
    "SpscConsumer": "messages",
    "SpscProducer": "messages",
    "SpscView": "messages",
    "View": "view",
}


def c_types() -> list[str]:
    return sorted(name for name, kind in vars(_core).items() if isinstance(kind, type))


def drifts(python: str, scripts: dict[str, str]) -> dict[str, dict[str, int]]:
    """Return what drifts too much in each script."""
    child = start_python(python, METER, ROUNDS, json.dumps(scripts))
    found: dict[str, dict[str, int]] = json.loads(finish(child, HANG_S))
    return {script: too_much(changes) for script, changes in found.items()}


def too_much(changes: dict[str, int]) -> dict[str, int]:
    grown = {"rss": TOLERANCE_BYTES, "fds": 0}
    shrunk = {"rss": sys.maxsize, "fds": 0}
    return {
        name: change
        for name, change in changes.items()
        if change > grown.get(name, TOLERANCE) or -change > shrunk.get(name, TOLERANCE)
    }


def test_every_c_type_has_a_use() -> None:
    """Write one into SCRIPTS and USES: all methods and errors of the type."""
    assert set(c_types()) == USES.keys()
    assert set(USES.values()) == SCRIPTS.keys()


def test_references_are_counted_by_the_python_that_runs():
    """The inline counts of older headers drift on what newer ones never count."""
    assert _core.__file__ is not None
    assert b"_Py_Dealloc" not in Path(_core.__file__).read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
def test_uses_leave_nothing_behind(version: str) -> None:
    found = drifts(require_python(version), SCRIPTS)
    assert {script: changes for script, changes in found.items() if changes} == {}
    assert found.keys() == SCRIPTS.keys()


# What grows, and a use that makes it grow.
KEEPING = {
    "blocks": "kept = []\ndef use(): kept.append(object())",
    "rss": "kept = []\ndef use(): kept.append(bytes(1000))",
    "Atomics": "kept = []\ndef use(): kept.append(_core.Atomics(bytearray(8)))",
    "fds": "turns = []\ndef use(): turns.append(0) or len(turns) == 4999 and os.dup(1)",
}


def test_control_the_meter_sees_what_is_kept() -> None:
    found = drifts(sys.executable, KEEPING)
    assert [what for what in KEEPING if what not in found[what]] == []


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal there")
@pytest.mark.parametrize("call", ["Py_IncRef", "Py_DecRef"])
def test_control_the_meter_sees_a_miscounted_none(call: str) -> None:
    use = "import ctypes\nnone = ctypes.py_object(None)\n"
    use += "ctypes.pythonapi.Py_IncRef.argtypes = [ctypes.py_object]\n"
    use += "for _ in range(100_000): ctypes.pythonapi.Py_IncRef(none)\n"
    use += f"call = ctypes.pythonapi.{call}\ncall.argtypes = [ctypes.py_object]\n"
    use += "call.restype = ctypes.c_int\ndef use(): call(none)"
    assert "None" in drifts(sys.executable, {"miscounting": use})["miscounting"]
