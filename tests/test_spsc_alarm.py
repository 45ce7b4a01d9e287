"""The alarm that ends a sleep without a timeout once a second."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from rings import spsc
from rings.errors import BrokenError

from .served import descriptors_left

FORK = multiprocessing.get_context("fork")


def alarms():
    """Return what the kernel says of each timerfd of this process, by descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fdinfo", name)
        text = path.read_text() if path.exists() else ""
        if "it_interval" in text:
            found[int(name)] = dict(line.split(":", 1) for line in text.splitlines())
    return found


def open_fds():
    return len(os.listdir("/proc/self/fd"))


def is_set(alarm):
    return alarm["it_value"].strip() != "(0, 0)"


def test_each_open_end_has_one_alarm_and_takes_it_along():
    with spsc.create(slots=4, slot_size=8) as ring:
        before = open_fds()
        with ring.producer(), ring.consumer():
            assert len(alarms()) == 2
        assert not alarms()
        assert open_fds() == before


def test_who_slept_through_the_alarm_has_set_it_again():
    """It is not set at each sleep: that is what a timeout would cost."""
    with (
        spsc.create(slots=4, slot_size=8) as ring,
        ring.producer(),
        ring.consumer() as consumer,
    ):
        with pytest.raises(TimeoutError):
            consumer.get(timeout=1.3)
        rung = [alarm for alarm in alarms().values() if is_set(alarm)]
        assert len(rung) == 1, "the producer's rang unheard, the consumer's is set"
        assert rung[0]["ticks"].strip() == "0"


def wait_for_ever(ring, told):
    with ring.producer() as producer:
        producer.put(bytes(8))
        told.set()
        producer.put(bytes(8))
        signal.pause()


def test_without_an_alarm_an_end_works_and_sees_a_death():
    with spsc.create(slots=1, slot_size=8) as ring:
        told = FORK.Event()
        child = FORK.Process(target=wait_for_ever, args=(ring, told))
        child.start()
        told.wait()
        with descriptors_left(os.getpid(), 3):  # and none for its alarm
            consumer = ring.consumer()
        with consumer:
            assert not alarms()
            assert consumer.get() == bytes(8)
            assert consumer.get() == bytes(8)
            threading.Timer(0.2, os.kill, (child.pid, signal.SIGKILL)).start()
            with pytest.raises(BrokenError, match="died"):
                consumer.get()
        child.join()
