"""Run as a script on 3.12 and later: rings between own-GIL interpreters."""

import sys
import threading

from rings import broadcast, spsc
from rings.errors import ShutDown

if sys.version_info >= (3, 13):
    import _interpreters as interpreters
else:
    import _xxsubinterpreters as interpreters

ECHO = """
from rings import spsc
requests, answers = spsc.attach{requests}, spsc.attach{answers}
with requests.consumer() as consumer, answers.producer() as producer:
    for message in consumer:
        producer.put(message[::-1])
requests.close()
answers.close()
"""

LISTEN = """
from rings import broadcast, spsc
ring, answers = broadcast.attach{ring}, spsc.attach{answers}
with ring.consumer() as consumer, answers.producer() as producer:
    producer.put(b"joined")
    for message in consumer:
        producer.put(message)
ring.close()
answers.close()
"""

VANISH = """
from rings import spsc
ring = spsc.attach{ring}
producer = ring.producer()
producer.put(b"last words")
"""


def run(code):
    """Run code in an interpreter of its own, in a thread of its own."""

    def target():
        interpreter = interpreters.create()
        failure = None
        if sys.version_info >= (3, 13):
            failure = interpreters.exec(interpreter, code)
        else:
            interpreters.run_string(interpreter, code)
        interpreters.destroy(interpreter)
        assert failure is None, failure

    thread = threading.Thread(target=target)
    thread.start()
    return thread


def main():
    """Echo, broadcast, and an interpreter that is destroyed with its end open."""
    pool = {"ring_bytes": 4096, "pool_bytes": 1 << 18}
    requests, answers = (spsc.create(**pool) for _ in range(2))
    numbers = {
        k: tuple(v.handle()) for k, v in (("requests", requests), ("answers", answers))
    }
    thread = run(ECHO.format(**numbers))
    with requests.producer() as producer, answers.consumer() as consumer:
        for n in range(2000):
            producer.put(b"%d" % n)
            assert consumer.get(30) == (b"%d" % n)[::-1]
        for n in range(100):
            producer.put(b"%d" % n * 50_000)  # by reference
            with consumer.peek(timeout=30) as message:
                assert message == (b"%d" % n * 50_000)[::-1]
        producer.close()
        thread.join()
        assert list(consumer) == []
    requests.close()

    ring = broadcast.create(slots=4, slot_size=16, policy="block")
    handle = tuple(ring.handle())
    thread = run(LISTEN.format(ring=handle, answers=numbers["answers"]))
    with answers.consumer() as consumer, ring.producer() as producer:
        consumer.wait_peer(30)
        assert consumer.get(30) == b"joined"
        for n in range(100):
            producer.put(b"%d" % n, 30)
            assert consumer.get(30) == b"%d" % n
        producer.close()
        thread.join()
    ring.close()

    with answers.consumer() as consumer:
        thread = run(VANISH.format(ring=numbers["answers"]))
        consumer.wait_peer(30)
        assert consumer.get(30) == b"last words"
        try:
            consumer.get(30)
        except ShutDown:
            print("passed")
        thread.join()
    answers.close()


main()
