"""An asyncio server's tasks share a queue with worker processes, without threads.

`rings.aio.Queue` sleeps on a descriptor in the event loop; a task that is cancelled
while it waits has taken nothing, so a time-out loses no answer.

Prints::

    worker processes: 2
    squares of 0..99 sum to 328350
    a time-out, and then the answer all the same: 144
"""

import asyncio
import multiprocessing
from typing import Any

import rings
from rings import aio


def square(asked: rings.Queue, answers: rings.Queue) -> None:
    """In a worker: square numbers until the queue is shut down."""
    try:
        while True:
            number = asked.get()
            answers.put((number, number * number))
    except rings.ShutDown:
        pass


async def serve(asked: Any, answers: Any) -> None:
    """Ask and listen at once; then give up on an answer, and get it later."""
    total = 0

    async def listen() -> None:
        nonlocal total
        for _ in range(100):
            total += (await answers.get())[1]

    listening = asyncio.create_task(listen())
    for number in range(100):
        await asked.put(number)
    await listening
    print(f"squares of 0..99 sum to {total}")
    try:
        await asyncio.wait_for(answers.get(), 0.01)
    except TimeoutError:
        await asked.put(12)
        late = (await answers.get())[1]
        print(f"a time-out, and then the answer all the same: {late}")


async def main() -> None:
    """Start two workers and serve."""
    spawn = multiprocessing.get_context("spawn")
    with rings.Queue(16) as asked, rings.Queue(16) as answers:
        crew = [spawn.Process(target=square, args=(asked, answers)) for _ in range(2)]
        for process in crew:
            process.start()
        print(f"worker processes: {len(crew)}")
        async with aio.Queue(asked) as asking, aio.Queue(answers) as answering:
            await serve(asking, answering)
        asked.shutdown()
        for process in crew:
            process.join()


if __name__ == "__main__":
    asyncio.run(main())
