"""Run as a script: a ring handed to children of each kind by `multiprocessing`."""

import multiprocessing
import sys

from rings import spsc
from rings.errors import ClosedError, ShutDown


def work(requests, answers, inherited):
    """Echo backwards until the requests end; then say what a parent's end does."""
    with requests.consumer() as consumer, answers.producer() as producer:
        for message in consumer:
            producer.put(message[::-1])
        try:
            consumer.get()
        except ShutDown:
            producer.put(b"shutdown")
        if inherited is not None:
            try:
                inherited.try_put(b"from the child")
            except ClosedError as error:
                producer.put(str(error).encode())


def main(method):
    """Send three messages there and back."""
    context = multiprocessing.get_context(method)
    requests = spsc.create(ring_bytes=4096)
    answers = spsc.create(ring_bytes=4096)
    producer, consumer = requests.producer(), answers.consumer()
    inherited = producer if method == "fork" else None
    child = context.Process(target=work, args=(requests, answers, inherited))
    child.start()
    for message in (b"abc", b"", b"0123456789" * 10):
        producer.put(message)
        assert consumer.get(timeout=30) == message[::-1]
    producer.close()
    assert consumer.get(timeout=30) == b"shutdown"
    if method == "fork":
        assert b"belongs to the process that forked" in consumer.get(timeout=30)
    child.join()
    assert child.exitcode == 0
    assert list(consumer) == []
    consumer.close()
    requests.close()
    answers.close()
    print("passed")


if __name__ == "__main__":
    main(sys.argv[1])
