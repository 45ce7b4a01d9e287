"""A ring that cannot be had, for want of descriptors, leaves none behind."""

import os
from itertools import count

import pytest

from rings import broadcast, mpmc, spsc
from rings.channel import EventChannel

from .served import descriptors_left, open_descriptors


def close_all(ends):
    for end in ends:
        end.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda _: [spsc.create()],
        lambda _: [broadcast.create(consumers=3)],
        lambda _: [mpmc.create()],
        lambda _: EventChannel.pair(),
        lambda rings: [spsc.attach(*rings[0].handle())],
        lambda rings: [broadcast.attach(*rings[1].handle())],
        lambda rings: [mpmc.attach(*rings[2].handle())],
    ],
    ids=["spsc", "broadcast", "mpmc", "channel", "spsc-2", "broadcast-2", "mpmc-2"],
)
def test_all_or_nothing(make):
    with spsc.create() as one, broadcast.create() as two, mpmc.create() as three:
        before = open_descriptors(os.getpid())
        for left in count():
            failed = False
            with descriptors_left(os.getpid(), left):
                try:
                    close_all(make((one, two, three)))
                except OSError:
                    failed = True
            assert open_descriptors(os.getpid()) == before, left
            if not failed:
                break
        assert left >= 3
