"""Two own-GIL interpreters work for a third; one is stopped, one fails.

Each has a ring of jobs and a ring of answers, which go into it as ints.  The one
that fails never closes its ends: its reader is told when it is destroyed.

Before Python 3.12 it prints::

    own-GIL interpreters need Python 3.12 or newer: ...; use a process instead

Prints::

    worker 0 answered 10000 jobs, all right
    worker 1 answered 10000 jobs, all right
    worker 1 failed (...ZeroDivisionError...), its reader was told: ShutDown
    worker 0 was stopped, its reader was told: ShutDown
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from rings import ShutDown, interpreters, spsc

JOBS = 10_000
BATCH = 500
TOTAL = 10**12

WORK = """
import select
from rings import spsc

def messages(consumer):
    poll = select.poll()
    poll.register(consumer.fileno(), select.POLLIN)
    poll.register(stop, select.POLLIN)
    while True:
        try:
            yield consumer.get(0)
        except TimeoutError:
            consumer.clear()
            if not consumer.arm() and stop in dict(poll.poll(1000)):
                return

consumer = spsc.attach(*jobs).consumer()
producer = spsc.attach(*answers).producer()
for message in messages(consumer):
    share = total // int.from_bytes(message, "little")
    producer.put(share.to_bytes(8, "little"))
"""


def work(jobs: spsc.Ring, answers: spsc.Ring, stop: int) -> None:
    """Run WORK in an interpreter; this thread is taken until it has ended."""
    ints = f"jobs, answers = {tuple(jobs.handle())}, {tuple(answers.handle())}\n"
    with interpreters.create() as worker:
        worker.run(ints + WORK, stop=stop, total=TOTAL)


def ask(number: int, producer: spsc.Producer, consumer: spsc.Consumer) -> None:
    """Send all jobs, a batch at a time, and check all answers."""
    for first in range(1, JOBS + 1, BATCH):
        jobs = range(first, first + BATCH)
        producer.put_many([n.to_bytes(8, "little") for n in jobs])
        for n in jobs:
            assert int.from_bytes(consumer.get(), "little") == TOTAL // n
    print(f"worker {number} answered {JOBS} jobs, all right")


def tell_end(number: int, consumer: spsc.Consumer, worker: Future[None]) -> None:
    """Wait for an answer that cannot come, and say how the worker ended."""
    try:
        consumer.get()
    except ShutDown as told:
        error = worker.exception()
        how = f"failed ({error})" if error else "was stopped"
        print(f"worker {number} {how}, its reader was told: {type(told).__name__}")


def run_workers(stop: int) -> None:
    """Ask both workers, break one, stop the other."""
    with ThreadPoolExecutor(2) as threads, ExitStack() as rings:
        made = [rings.enter_context(spsc.create(slot_size=8)) for _ in range(4)]
        jobs, answers = made[:2], made[2:]
        workers = [threads.submit(work, jobs[n], answers[n], stop) for n in (0, 1)]
        producers = [rings.enter_context(ring.producer()) for ring in jobs]
        consumers = [rings.enter_context(ring.consumer()) for ring in answers]
        try:
            for number in range(2):
                ask(number, producers[number], consumers[number])
            producers[1].put(bytes(8))
            tell_end(1, consumers[1], workers[1])
        finally:
            os.eventfd_write(stop, 1)
        tell_end(0, consumers[0], workers[0])


def main() -> None:
    """Run the workers, where this Python has such interpreters."""
    try:
        interpreters.create().close()
    except NotImplementedError as error:
        print(error)
        return
    stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    run_workers(stop)
    os.close(stop)


if __name__ == "__main__":
    main()
