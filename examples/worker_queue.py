"""Workers on a shared queue; one is killed in the middle, the others finish.

The same program with `multiprocessing.Queue` may hang for ever: a worker that is
killed while it holds the queue's lock takes it along.  Here a task is in the queue
when `put` returns, and a dead worker's slot and memory are found and reused.  The
task it was working on is lost, as anywhere: who needs it asks again.

Prints::

    4 workers, one killed by signal 9
    1000 tasks: all done, ... again after the kill
    slots and memory of the dead are back: True
"""

import multiprocessing
import os
import queue
import signal
import time

import rings

TASKS = 1000
WORKERS = 4


def work(tasks: rings.Queue, results: rings.Queue) -> None:
    """In a worker: answer each task, until the queue is shut down."""
    try:
        while True:
            number = tasks.get()
            time.sleep(0.0005)
            results.put((number, bytes([number % 256]) * number))
    except rings.ShutDown:
        pass


def collect(tasks: rings.Queue, results: rings.Queue) -> tuple[set[int], int]:
    """Gather results; ask again for what is missing once nothing more comes."""
    done: set[int] = set()
    again = 0
    while len(done) < TASKS:
        try:
            number, data = results.get(timeout=1)
            assert data == bytes([number % 256]) * number
            done.add(number)
        except queue.Empty:
            missing = sorted(set(range(TASKS)) - done)
            again += tasks.put_many(missing)
    return done, again


def main() -> None:
    """Start the workers, kill one, finish."""
    spawn = multiprocessing.get_context("spawn")
    with rings.Queue() as tasks, rings.Queue() as results:
        crew = [
            spawn.Process(target=work, args=(tasks, results)) for _ in range(WORKERS)
        ]
        for process in crew:
            process.start()
        tasks.put_many(range(TASKS))
        first = results.get()
        os.kill(crew[0].pid or 0, signal.SIGKILL)
        results.put(first)
        crew[0].join()
        print(f"{WORKERS} workers, one killed by signal {-(crew[0].exitcode or 0)}")
        done, again = collect(tasks, results)
        print(f"{len(done)} tasks: all done, {again} again after the kill")
        tasks.shutdown()
        for process in crew:
            process.join()
        tasks.recover()
        results.recover()
        whole = not tasks.statistics().pool_used and not results.statistics().pool_used
        print(f"slots and memory of the dead are back: {whole}")


if __name__ == "__main__":
    main()
