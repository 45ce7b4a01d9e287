import asyncio
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from rings import BrokenError, ClosedError, channel
from rings.channel import BLOCK, BUSY, EventChannel, Wait, spin

STRATEGIES = [BLOCK, spin(50), BUSY]
HANG_S = 30

by_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=str)


@pytest.fixture
def ends():
    here, there = EventChannel.pair()
    with here, there:
        yield here, there


def test_strategies_have_names():
    for text in ("block", "busy", "spin:50"):
        assert str(channel.parse(text)) == text
    assert channel.parse("spin:7") == channel.spin(7) == Wait(7)
    assert channel.block() == BLOCK
    assert channel.busy() == BUSY


@pytest.mark.parametrize(
    "text", ["", "spin", "spin:", "spin:0", "spin:-1", "spin:x", "spin:²", "block:1"]
)
def test_unknown_strategy_names_the_known_ones(text):
    with pytest.raises(ValueError, match="block, busy or spin"):
        channel.parse(text)


def test_spin_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        spin(0)


@by_strategy
def test_a_notification_sent_before_the_wait_is_kept(ends, strategy):
    here, there = ends
    there.notify()
    there.notify()
    assert here.wait(HANG_S, strategy=strategy)
    assert not here.wait(0, strategy=strategy)
    assert not there.wait(0, strategy=strategy)


@by_strategy
def test_a_wait_ends_by_time(ends, strategy):
    assert not ends[0].wait(0.02, strategy=strategy)
    assert not ends[0].wait(-1, strategy=strategy)


@by_strategy
def test_a_wait_does_not_end_early(ends, strategy):
    begun = time.monotonic()
    assert not ends[0].wait(0.05, strategy=strategy)
    assert time.monotonic() - begun >= 0.05


def test_nan_is_no_timeout(ends):
    with pytest.raises(ValueError, match="NaN"):
        ends[0].wait(math.nan)


@by_strategy
def test_a_sleeper_is_woken(ends, strategy):
    here, there = ends
    waker = threading.Timer(0.05, there.notify)
    waker.start()
    assert here.wait(HANG_S, strategy=strategy)
    waker.join()


@by_strategy
def test_round_trips_lose_no_wake_up(ends, strategy):
    here, there = ends

    def answer():
        for _ in range(200):
            assert there.wait(HANG_S, strategy=strategy)
            there.notify()

    peer = threading.Thread(target=answer)
    peer.start()
    for _ in range(200):
        here.notify()
        assert here.wait(HANG_S, strategy=strategy)
    peer.join(HANG_S)
    assert not peer.is_alive()


def test_ready_is_believed_and_the_event_is_not(ends):
    here, there = ends
    there.notify()
    assert not here.wait(0.02, ready=lambda: False)
    assert here.wait(0, ready=lambda: True)


def test_final_check_comes_after_the_look_and_before_the_sleep(ends):
    seen = []
    ready = lambda: seen.append("look") or False  # noqa: E731
    final = lambda: seen.append("final") or True  # noqa: E731
    assert ends[0].wait(None, ready=ready, final_check=final)
    assert seen == ["look", "final"]


@pytest.mark.parametrize(("looks_again", "sleeps"), [(True, 0), (False, 1)])
def test_a_message_between_look_and_sleep_is_found(
    ends, monkeypatch, looks_again, sleeps
):
    """With a final check that does not look, the control, it is slept upon."""
    published, slept = [], []
    sleep = EventChannel._sleep
    monkeypatch.setattr(
        EventChannel, "_sleep", lambda *args: slept.append(1) or sleep(*args)
    )

    def look():
        found = bool(published)
        published.append("after the look, and nobody had announced a sleeper")
        return found

    def final_check():
        return looks_again and bool(published)

    assert ends[0].wait(0.01, ready=look, final_check=final_check)
    assert len(slept) == sleeps


def test_notify_never_blocks_at_a_full_counter(ends):
    here, there = ends
    os.eventfd_write(there.notify_fd, 2**64 - 2)
    there.notify()
    assert here.wait(0)
    there.notify()
    assert here.wait(0)


@by_strategy
def test_a_hang_up_is_noticed_by_a_waiter(ends, strategy):
    here, _ = ends
    reader, writer = os.pipe()
    here.hangup_fd = reader
    closer = threading.Timer(0.05, os.close, [writer])
    closer.start()
    with pytest.raises(BrokenError, match="connect again"):
        here.wait(None, strategy=strategy)
    with pytest.raises(BrokenError):
        here.wait(0, strategy=strategy)
    closer.join()
    os.close(reader)


@by_strategy
def test_what_is_ready_comes_before_the_hang_up(ends, strategy):
    here, there = ends
    reader, writer = os.pipe()
    os.close(writer)
    here.hangup_fd = reader
    there.notify()
    assert here.wait(HANG_S, strategy=strategy)
    assert here.wait(HANG_S, ready=lambda: True, strategy=strategy)
    with pytest.raises(BrokenError):
        here.wait(HANG_S, strategy=strategy)
    os.close(reader)


@by_strategy
def test_a_last_message_before_the_hang_up_is_found(ends, strategy):
    reader, writer = os.pipe()
    ends[0].hangup_fd = reader
    published = []
    poll = EventChannel._poll

    def publish_and_die(*args, **options):
        published.append("between our last look and the hang-up")
        if len(published) == 1:
            os.close(writer)
        return poll(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventChannel, "_poll", publish_and_die)
        assert ends[0].wait(HANG_S, ready=lambda: bool(published), strategy=strategy)
    os.close(reader)


def test_a_useless_spin_is_given_up_for_a_while(ends, monkeypatch):
    here = ends[0]
    spins = []
    spun = EventChannel._spin
    monkeypatch.setattr(
        EventChannel, "_spin", lambda *args: spins.append(1) or spun(*args)
    )
    for _ in range(channel.MISSES + channel.SKIP):
        assert not here.wait(0, strategy=spin(1))
    assert len(spins) == channel.MISSES
    assert not here.wait(0, strategy=spin(1))
    assert len(spins) == channel.MISSES + 1


def test_select_and_poll_see_the_event(ends):
    here, there = ends
    assert select.select([here], [], [], 0)[0] == []
    there.notify()
    assert select.select([here], [], [], HANG_S)[0] == [here]
    assert here.clear()
    assert not here.clear()
    assert select.select([here], [], [], 0)[0] == []


def test_asyncio_sees_the_event(ends):
    here, there = ends

    async def main():
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        loop.add_reader(here, woken.set)
        loop.call_later(0.01, there.notify)
        await asyncio.wait_for(woken.wait(), HANG_S)
        loop.remove_reader(here)
        return here.clear()

    assert asyncio.run(main())


def test_a_closed_channel_says_so():
    here, there = EventChannel.pair()
    here.close()
    here.close()
    assert here.closed
    for use in (here.notify, here.clear, here.fileno, here.wait):
        with pytest.raises(ClosedError):
            use()
    there.notify()
    there.close()


def test_closing_one_end_leaves_the_other_usable():
    here, there = EventChannel.pair()
    here.close()
    there.notify()
    assert not there.wait(0)
    there.close()


def test_descriptors_are_not_inherited_by_exec(ends):
    for end in ends:
        assert not os.get_inheritable(end.fileno())
        assert not os.get_inheritable(end.notify_fd)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_channel_travels_through_multiprocessing(method, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    child = subprocess.run(
        [sys.executable, str(script), method],
        capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert (child.stdout, child.stderr) == ("answered\n", "")


PARENT = """
import multiprocessing, sys
from rings.channel import EventChannel

def answer(end):
    assert end.wait(30)
    end.notify()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    here, there = EventChannel.pair()
    child = context.Process(target=answer, args=(there,))
    child.start()
    here.notify()
    print("answered" if here.wait(30) else "silence")
    child.join()
"""

INTERRUPTED = """
import sys
from rings.channel import EventChannel, parse
here, there = EventChannel.pair()
print("waiting", flush=True)
try:
    here.wait(None, strategy=parse(sys.argv[1]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@by_strategy
def test_ctrl_c_ends_a_wait(strategy):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(strategy)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=HANG_S)[0] == "interrupted\n"
    assert child.returncode == 0
