"""The alarm that ends a sleep without a timeout of its own, once a slice."""

import multiprocessing
import os
import select
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from rings import mpmc, spsc
from rings.errors import BrokenError

from .served import descriptors_left, until

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


def left_ns():
    """Return what each alarm has left until it rings; 0: it is not set."""
    values = [alarm["it_value"].strip(" ()").split(",") for alarm in alarms().values()]
    return [10**9 * int(seconds) + int(rest) for seconds, rest in values]


@contextmanager
def asleep(get, put):
    """Leave a thread in a get that only the put can end, and check that it did."""
    got = []
    sleeper = threading.Thread(target=lambda: got.append(get()))
    sleeper.start()
    try:
        until(lambda: any(left_ns()), "an alarm is set")
        yield
    finally:
        assert not got
        put(bytes(8))
        sleeper.join()
    assert got == [bytes(8)]


@contextmanager
def asleep_in(ring):
    """Yield the consumer of a ring, in whose get a thread is left as by `asleep`."""
    with (
        ring,
        ring.producer() as producer,
        ring.consumer() as consumer,
        asleep(consumer.get, producer.put),
    ):
        yield consumer


def see_it_set_again():
    """Watch the only alarm that is set ring, which is when it has more time left."""
    before = max(left_ns())

    def grown():
        nonlocal before
        now = max(left_ns())
        grown, before = now > before, now
        return grown

    until(grown, "the alarm is set again")


def test_each_open_end_has_one_alarm_and_takes_it_along():
    with spsc.create(slots=4, slot_size=8) as ring:
        before = open_fds()
        with ring.producer(), ring.consumer():
            assert len(alarms()) == 2
            assert not any(left_ns())
        assert not alarms()
        assert open_fds() == before


def test_who_sleeps_through_the_alarm_sets_it_again():
    """It is not set at each sleep: that is what a timeout would cost."""
    with asleep_in(spsc.create(slots=4, slot_size=8)):
        see_it_set_again()


def test_a_member_has_an_alarm_once_it_has_slept():
    with (
        mpmc.create(slots=4, slot_size=8) as ring,
        ring.producer() as producer,
    ):
        before = open_fds()
        with ring.consumer() as consumer:
            assert not alarms()
            with asleep(consumer.get, producer.put):
                assert len(alarms()) == 1
                see_it_set_again()
        assert open_fds() == before


def test_slices_of_a_member_double():
    """The next is told from what is left of it: more than any before it has been."""
    with asleep_in(mpmc.create(slots=4, slot_size=8)):
        for slice_s in (0.05, 0.1, 0.2, 0.4):
            until(
                lambda least=slice_s: max(left_ns()) > least * 1e9,
                f"a slice is longer than {slice_s} s",
            )


def test_a_thread_that_polls_a_member_leaves_a_sleeper_its_wake_ups():
    """Both look at one eventfd; an epoll in common would tell only one of them.

    What the sleeper would miss here is its alarm, and nothing else would wake it.
    """
    with asleep_in(mpmc.create(slots=4, slot_size=8)) as consumer:
        enough = time.monotonic() + 0.5  # some slices
        while time.monotonic() < enough:
            consumer.arm_get()
        assert select.select([consumer.get_fileno()], [], [], 0) == ([], [], [])
        see_it_set_again()


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


def put_twice(ring):
    with ring.producer() as producer:
        producer.put(bytes(8))
        producer.put(bytes(8))


def test_without_an_alarm_a_member_sleeps_and_is_woken():
    with (
        mpmc.create(slots=2, slot_size=8) as ring,
        ring.consumer() as consumer,
    ):
        child = FORK.Process(target=put_twice, args=(ring,))
        only_one = descriptors_left(os.getpid(), 1)  # for its epoll
        with only_one, pytest.raises(TimeoutError):
            consumer.get(timeout=0.01)
        assert not alarms()
        child.start()
        assert consumer.get() == bytes(8)
        assert consumer.get() == bytes(8)
        child.join()
