"""trio's face: the same promises as asyncio's."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time

import pytest
import trio

import daemons
import rings
from rings import ClosedError, Queue, ShutDown
from rings import trio as face_of
from rings.queue import Empty, Full

HANG_S = 30
PAGE = 4096
SMALL = {"pool_size": 64 << 10}


@pytest.fixture
def q(start):
    with Queue(4, start=start, **SMALL) as q:
        yield q


def run(main):
    async def bounded():
        with trio.fail_after(HANG_S):
            return await main()

    return trio.run(bounded)


def test_get_and_put(q):
    async def main():
        async with face_of.Queue(q) as face:
            await face.put({"a": 1})
            await face.put(bytearray(5000))
            return await face.get(), await face.get_many(5)

    assert run(main) == ({"a": 1}, [bytearray(5000)])


def test_a_get_sleeps_until_a_put(q):
    async def main():
        async with face_of.Queue(q) as face:
            late = threading.Timer(0.05, q.put, ["late"])
            late.start()
            got = await face.get()
            late.join()
            return got

    assert run(main) == "late"


@pytest.mark.parametrize("obj", ["small", bytes(40 << 10)], ids=["slots", "blocks"])
def test_a_put_sleeps_until_there_is_room(q, obj):
    async def main():
        async with face_of.Queue(q) as face:
            with contextlib.suppress(Full):
                while True:
                    face.put_nowait(obj)
            held = q.qsize()
            with trio.move_on_after(0.05) as scope:
                await face.put(obj)
            assert scope.cancelled_caught
            assert q.qsize() == held
            assert q.get() == obj
            await face.put(obj)
            assert [await face.get() for _ in range(held)] == [obj] * held

    run(main)


def test_tasks_are_served_in_the_order_in_which_they_came(q):
    served = []

    async def get(face, number):
        served.append((number, await face.get()))

    async def main():
        async with face_of.Queue(q) as face, trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(get, face, number)
                await trio.testing.wait_all_tasks_blocked()
            for n in range(6):
                q.put(n)
                await trio.testing.wait_all_tasks_blocked()

    run(main)
    assert served == [(n, n) for n in range(6)]


def test_async_for_ends_with_shutdown(q):
    async def main():
        async with face_of.Queue(q) as face:
            q.put_many([1, 2, 3])
            face.shutdown()
            assert [obj async for obj in face] == [1, 2, 3]
            with pytest.raises(ShutDown):
                await face.put(4)

    run(main)


def test_close_ends_those_who_wait(q):
    async def wait(face):
        with pytest.raises(ClosedError):
            await face.get()

    async def main():
        face = face_of.Queue(q)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, face)
            nursery.start_soon(wait, face)
            await trio.testing.wait_all_tasks_blocked()
            face.close()

    run(main)


def test_cancelling_loses_and_doubles_nothing(start):
    total, rng = 3000, random.Random(6)
    got, put = [], []

    async def getter(face, patience_s):
        with trio.move_on_after(patience_s):
            got.append(await face.get())

    async def putter(face, n, patience_s):
        with trio.move_on_after(patience_s):
            await face.put(n)
            put.append(n)

    async def main(q):
        async with face_of.Queue(q) as face, trio.open_nursery() as nursery:
            for n in range(total):
                nursery.start_soon(putter, face, n, rng.random() * 0.002)
                nursery.start_soon(getter, face, rng.random() * 0.002)
                if n % 8 == 0:
                    await trio.sleep(rng.random() * 0.001)
        with contextlib.suppress(Empty):
            while True:
                got.append(q.get_nowait())

    with Queue(3, start=start, **SMALL) as q:
        run(lambda: main(q))
    assert len(got) > total / 20
    assert sorted(got) == sorted(put)


def test_a_waiting_task_costs_nothing(q):
    async def main():
        async with face_of.Queue(q) as face:
            before = time.process_time()
            with trio.move_on_after(2):
                await face.get()
            return time.process_time() - before

    assert run(main) < 0.05


def test_reads_of_a_device(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(b"".join(bytes([n]) * PAGE for n in range(64)))

    async def read(disk, page):
        data = await face_of.read(disk, page * PAGE, PAGE)
        assert data == bytes([page]) * PAGE

    async def main(disk):
        async with trio.open_nursery() as nursery:
            for n in range(200):
                nursery.start_soon(read, disk, n % 64)
        await face_of.write(disk, 0, b"w" * PAGE)
        assert await face_of.read(disk, 0, PAGE) == b"w" * PAGE
        with trio.move_on_after(0):
            await face_of.read(disk, 0, PAGE)

    with (
        daemons.spawn(image=image, name="disk0", engine="threads") as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
    ):
        run(lambda: main(disk))
        disk.flush()


def test_trio_is_imported_only_when_used():
    program = "import sys, rings.trio, rings.aio; assert 'trio' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
