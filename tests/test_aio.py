"""asyncio's face: order, cancellation, several tasks, no threads; and a device."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import select
import signal
import threading
import time

import pytest

import daemons
import rings
from rings import ClosedError, Queue, ShutDown, aio
from rings.queue import Empty, Full
from tests.served import all_stopped, until

HANG_S = 30
SMALL = {"pool_size": 64 << 10}


@pytest.fixture
def q(start):
    with Queue(4, start=start, **SMALL) as q:
        yield q


def run(main):
    async def bounded():
        async with asyncio.timeout(HANG_S):
            return await main

    return asyncio.run(bounded())


def test_get_and_put(q):
    async def main():
        async with aio.Queue(q) as face:
            await face.put({"a": 1})
            await face.put(bytearray(5000))
            assert face.qsize() == 2
            return [await face.get(), await face.get()]

    assert run(main()) == [{"a": 1}, bytearray(5000)]


def test_a_get_sleeps_until_another_process_puts(q):
    def late():
        time.sleep(0.05)
        q.put_many(["late", "later"])

    async def main():
        async with aio.Queue(q) as face:
            process = multiprocessing.get_context("fork").Process(target=late)
            process.start()
            got = [await face.get(), await face.get()]
            process.join()
            return got

    assert run(main()) == ["late", "later"]


@pytest.mark.parametrize("obj", ["small", bytes(40 << 10)], ids=["slots", "blocks"])
def test_a_put_sleeps_until_there_is_room(q, obj):
    async def main():
        async with aio.Queue(q) as face:
            with contextlib.suppress(Full):
                while True:
                    face.put_nowait(obj)
            held = q.qsize()
            putting = asyncio.create_task(face.put(obj))
            await asyncio.sleep(0.05)
            assert not putting.done()
            assert q.get() == obj
            await putting
            assert [await face.get() for _ in range(held)] == [obj] * held

    run(main())


def test_many_tasks_are_served_in_the_order_in_which_they_came(q):
    async def main():
        async with aio.Queue(q) as face:
            served = []

            async def get(number):
                served.append((number, await face.get()))

            tasks = []
            for number in range(8):
                tasks.append(asyncio.create_task(get(number)))
                await asyncio.sleep(0)
            with pytest.raises(Empty, match="others wait"):
                face.get_nowait()
            for n in range(8):
                q.put(n, timeout=HANG_S)
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            assert served == [(n, n) for n in range(8)]

    run(main())


def test_async_for_ends_with_shutdown(q):
    async def main():
        async with aio.Queue(q) as face:
            q.put_many([1, 2, 3])
            q.shutdown()
            assert [obj async for obj in face] == [1, 2, 3]
            with pytest.raises(ShutDown):
                await face.put(4)

    run(main())


def test_shutdown_ends_those_who_wait(q):
    async def main():
        async with aio.Queue(q) as face:
            tasks = [asyncio.create_task(face.get()) for _ in range(3)]
            await asyncio.sleep(0.02)
            face.shutdown()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(error) for error in done] == [ShutDown] * 3

    run(main())


def test_get_many(q):
    async def main():
        async with aio.Queue(q) as face:
            asked = asyncio.create_task(face.get_many(3))
            await asyncio.sleep(0.02)
            q.put_many(range(4))
            got = await asked
            return got + await face.get_many(4 - len(got))

    assert run(main()) == [0, 1, 2, 3]


def test_close_ends_those_who_wait_and_no_more(q):
    async def main():
        face = aio.Queue(q)
        tasks = [asyncio.create_task(face.get()) for _ in range(3)]
        await asyncio.sleep(0.02)
        face.close()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in done] == [ClosedError] * 3

    run(main())
    q.put(1)
    assert q.get() == 1


def test_cancelling_loses_and_doubles_nothing(start):
    """Ten thousand gets and puts, cancelled at random moments."""
    total, seed = 10_000, 5
    rng = random.Random(seed)
    got: list[int] = []
    put: list[int] = []

    async def getter(face):
        got.append(await face.get())

    async def putter(face, n):
        await face.put(n)
        put.append(n)

    async def main(q):
        async with aio.Queue(q) as face:
            tasks: list[asyncio.Task[None]] = []
            for n in range(total):
                tasks.append(asyncio.create_task(putter(face, n)))
                tasks.append(asyncio.create_task(getter(face)))
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                if len(tasks) > 24:
                    for task in rng.sample(tasks, 12):
                        task.cancel()
                    await asyncio.sleep(0)
                    tasks = [task for task in tasks if not task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(Empty):
                while True:
                    got.append(q.get_nowait())

    with Queue(3, start=start, **SMALL) as q:
        run(main(q))
        assert len(got) > total / 20
        assert got == put


def test_cancelled_while_a_message_arrives(q):
    """The worst moment: the wake-up has come, the task has not run yet."""

    async def main():
        async with aio.Queue(q) as face:
            for n in range(200):
                first = asyncio.create_task(face.get())
                second = asyncio.create_task(face.get())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                q.put(n)
                face._getting._sleeper._wake()
                first.cancel()
                assert await second == n
                assert first.cancelled() or (await first) is None
            assert q.empty()

    run(main())


def test_it_needs_no_thread_and_leaves_no_reader(q):
    async def main():
        loop = asyncio.get_running_loop()
        before = threading.active_count()
        async with aio.Queue(q) as face:
            task = asyncio.create_task(face.get())
            await asyncio.sleep(0.02)
            assert threading.active_count() == before
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not loop._selector.get_map().keys() - {loop._ssock.fileno()}

    run(main())


def test_a_waiting_loop_costs_nothing(q):
    async def main():
        async with aio.Queue(q) as face:
            task = asyncio.create_task(face.get())
            before = time.process_time()
            await asyncio.sleep(2)
            used = time.process_time() - before
            q.put(1)
            assert await task == 1
            assert used < 0.05

    run(main())


def test_threads_and_a_loop_share_a_queue(q):
    """The loop's member is its own: a thread that sleeps takes no wake-up of it."""
    got = []

    def get():
        with contextlib.suppress(ShutDown):
            while True:
                got.append(q.get())

    async def main():
        async with aio.Queue(q) as face:
            for n in range(500):
                await face.put(n)
                if n % 3 == 0:
                    with contextlib.suppress(asyncio.TimeoutError):
                        got.append(await asyncio.wait_for(face.get(), 0.002))
            face.shutdown()

    thread = threading.Thread(target=get)
    thread.start()
    run(main())
    thread.join(HANG_S)
    assert sorted(got) == list(range(500))


# -- devices -------------------------------------------------------------------

PAGE = 4096
PAGES = 64


@pytest.fixture
def disk(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(b"".join(bytes([n]) * PAGE for n in range(PAGES)))
    with (
        daemons.spawn(image=image, name="disk0", engine="threads") as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
    ):
        yield disk


def test_many_reads_at_once(disk):
    async def main():
        rng = random.Random(3)
        pages = [rng.randrange(PAGES) for _ in range(400)]
        reads = (aio.read(disk, page * PAGE, PAGE) for page in pages)
        for page, data in zip(pages, await asyncio.gather(*reads), strict=True):
            assert data == bytes([page]) * PAGE

    run(main())
    assert disk.pool.statistics().used == 0


def test_writes_and_flushes(disk):
    async def main():
        assert await aio.write(disk, PAGE, b"w" * PAGE) == PAGE
        await aio.result(disk, disk.submit_flush())
        assert await aio.read(disk, PAGE, PAGE) == b"w" * PAGE
        with pytest.raises(OSError, match="Errno"):
            await aio.read(disk, 1, PAGE)

    run(main())


def test_cancelled_reads_give_their_buffers_back(disk):
    async def main():
        rng = random.Random(4)
        for _ in range(300):
            tasks = [
                asyncio.create_task(aio.read(disk, n * PAGE, PAGE)) for n in range(4)
            ]
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            tasks[rng.randrange(4)].cancel()
            for n, data in enumerate(
                await asyncio.gather(*tasks, return_exceptions=True)
            ):
                assert isinstance(data, asyncio.CancelledError) or data == (
                    bytes([n]) * PAGE
                )

    run(main())
    disk.flush()
    disk.pool.alloc(disk.session.geometry.data_size).revoke()
    assert disk.pool.statistics().used == 0


def test_the_daemons_death_ends_those_who_wait(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(PAGE))
    with (
        daemons.spawn(image=image, name="disk0", engine="threads") as daemon,
        rings.connect(daemon.address).block("disk0") as disk,
    ):
        os.kill(daemon.pid, signal.SIGSTOP)
        until(lambda: all_stopped(daemon.pid), "no thread of the daemon runs")

        async def main():
            tasks = [
                asyncio.create_task(aio.read(disk, 0, PAGE)),
                asyncio.create_task(aio.read(disk, 0, PAGE)),
            ]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in tasks)
            daemon.kill()
            return await asyncio.gather(*tasks, return_exceptions=True)

        ended = run(main())
        assert [type(error) for error in ended] == [rings.BrokenError] * 2


def is_readable(fd, seconds):
    return bool(select.select([fd], [], [], seconds)[0])


def test_arm_makes_the_descriptor_readable(disk):
    with disk.pool.alloc(PAGE) as grant:
        for _ in range(20):
            while disk.arm():
                pass
            assert not is_readable(disk.fileno(), 0)
            handle = disk.submit_read(0, grant)
            assert is_readable(disk.fileno(), HANG_S)
            assert disk.arm()
            assert handle.done()


def test_arm_finds_what_came_before_it(disk):
    with disk.pool.alloc(PAGE) as grant:
        handle = disk.submit_read(0, grant)
        give_up = time.monotonic() + HANG_S
        while not handle.answered:
            disk.arm()
            assert time.monotonic() < give_up
        assert handle.result(0) == PAGE
