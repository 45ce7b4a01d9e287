"""The rings of one client that the engine serves.

Usually one.  While it is being replaced there is a second, served from the moment it is
made, and after the switch the elder, until all that it held is answered.  Never three:
another replacement waits until the elder is gone.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace

from rings import eventfds, layout
from rings.errors import BusyError
from rings.memory import Region
from rings.protocol import ring_geometry, write_split

from .device import RingSpec
from .limits import Quota, option
from .spec import EngineLike


@dataclass(frozen=True, eq=False)
class Memory:
    """What a session holds from `Setup` on."""

    region: Region
    geometry: layout.Geometry
    to_back: int
    to_front: int


def make_memory(shape: layout.Geometry, pid: int, held: ExitStack) -> Memory:
    """Make a session's region and eventfds; ``held`` closes them."""
    region = Region.create(
        shape.size,
        kind=layout.KIND_SPLIT,
        name=f"rings-{pid}",
        generation=time.time_ns(),
    )
    held.callback(region.close)
    write_split(region.buffer, shape)
    return Memory(region, shape, new_eventfd(held), new_eventfd(held))


def new_eventfd(held: ExitStack) -> int:
    """Make an eventfd that ``held`` closes."""
    (fd,) = eventfds.create(1)
    held.callback(os.close, fd)
    return fd


class AttachedRings:
    """One client's rings, by the engine's numbers.

    Attributes:
        current: The ring that takes requests, once there is one.
        coming: The ring made to take its place, until the client has switched.
        replaced: How often it has.
        booking: What the next ring to be attached will hold.
    """

    def __init__(self, engine: EngineLike, quota: Quota, uid: int) -> None:
        self.current: int | None = None
        self.coming: int | None = None
        self.replaced = 0
        self.booking = ExitStack()
        self._engine = engine
        self._quota = quota
        self._uid = uid
        self._specs: dict[int, RingSpec] = {}
        self._held: dict[int, ExitStack] = {}

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of all that are attached."""
        return list(self._held)

    @property
    def geometry(self) -> layout.Geometry | None:
        """Return the geometry of the ring in use."""
        return self._specs[self.current].geometry if self.current is not None else None

    def attach(self, spec: RingSpec) -> int:
        """Have a ring served; what is booked stays booked while it is."""
        number = self._engine.attach(spec)
        self._specs[number] = spec
        self._held[number] = self.booking.pop_all()
        return number

    def prepare(self, slots: int, start: int) -> tuple[Region, RingSpec]:
        """Have another ring served beside the one in use.

        Raises:
            BusyError: A limit is in the way; the message names the option.
            ValueError: A number is out of range.
        """
        assert self.current is not None
        try:
            region, spec = self._make(self._specs[self.current], slots, start)
            self.coming = self.attach(spec)
        except BaseException:
            self.booking.close()
            raise
        return region, spec

    def _make(self, old: RingSpec, slots: int, start: int) -> tuple[Region, RingSpec]:
        most = self._quota.limits.slots
        if slots > most:
            raise BusyError(
                f"{slots} slots are more than the {most} of one ring; start the daemon "
                f"with a higher {option('slots')}"
            )
        shape = ring_geometry(old.geometry, slots, start)
        self._quota.take(self._uid, {"slots": slots})
        self.booking.callback(self._quota.give, self._uid, {"slots": slots})
        region = Region.create(
            shape.size,
            kind=layout.KIND_RING,
            name=f"rings-{old.peer_pid}",
            generation=old.region.generation,
        )
        self.booking.callback(region.close)
        write_split(region.buffer, shape)
        wait_fd = new_eventfd(self.booking)
        theirs = old.geometry._replace(
            slots=slots,
            start=start,
            ring_offset=shape.ring_offset,
            ring_size=shape.ring_size,
        )
        spec = replace(old, geometry=theirs, wait_fd=wait_fd, ring_region=region)
        return region, spec

    def switch(self) -> int:
        """The client uses the ring that was coming; return the elder, to let go."""
        assert self.current is not None
        elder, self.current, self.coming = self.current, self.coming, None
        self.replaced += 1
        return elder

    def decline(self) -> int:
        """The client does not want the ring that was coming; return it, to let go."""
        assert self.coming is not None
        unwanted, self.coming = self.coming, None
        return unwanted

    def let_go(self, number: int) -> None:
        """The engine has let go of a ring: close what it held.  Again is harmless."""
        self._specs.pop(number, None)
        held = self._held.pop(number, None)
        if held is not None:
            held.close()

    def close(self) -> None:
        """Close what all of them held; the engine has let go of them."""
        self.current = None
        for number in self.numbers:
            self.let_go(number)
        self.booking.close()
