"""One point of a sweep: everything that is set, under the names users write."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from .. import units
from ..channel import parse as parse_wait
from ..loading import POLICIES
from .device import NULL, Device

ONE_PAGE: Final = 32  # slots of a one-page ring in Xen: order 0
MAX_SLOTS: Final = 1 << 16
ARRIVALS: Final = ("poisson", "even")
SEARCH_S: Final = 1.5  # for a depth that is found by trial
SHOWN: Final = (
    "batch",
    "producers",
    "queues",
    "policy",
    "size",
    "wait",
    "depth",
    "place",
)
PLACES: Final = ("free", "one", "two")
SPILL_FACTOR: Final = 4  # what `spill` may keep waiting, in rings


@dataclass(frozen=True)
class Cell:
    """What is set for one measurement.

    Attributes:
        device: What serves.
        slots: Of each ring, a power of two.
        batch: Requests a publication.
        producers: Threads that push, spread over the queues.
        queues: Rings; each has a worker process of its own.
        policy: What becomes of an arrival that finds the ring full.
        size: Bytes a request moves; 0: none.
        wait: Strategy of both ends.
        depth: Requests in flight a ring at most: None for its slots, or ``auto``.
        rate_per_s: Of all arrivals together; None for a closed loop.
        arrivals: ``poisson`` or ``even``.
        place: Which cores: ``one`` for both ends, ``two`` with the daemon on one and
            all workers on another, ``free`` as the kernel likes.
        seconds: How long it is watched.
        start: Index of the first request.
    """

    device: Device = NULL
    slots: int = 128
    batch: int = 1
    producers: int = 1
    queues: int = 1
    policy: str = "block"
    size: int = 0
    wait: str = "block"
    depth: int | str | None = None
    rate_per_s: float | None = None
    arrivals: str = "poisson"
    place: str = "free"
    seconds: float = 1.0
    start: int = 0

    def __post_init__(self) -> None:
        slots = self.slots
        if not 1 <= slots <= MAX_SLOTS or slots & (slots - 1):
            raise ValueError(f"slots={slots}: use a power of two up to {MAX_SLOTS}")
        if self.producers < self.queues:
            raise ValueError(
                f"queues={self.queues} needs as many producers, not {self.producers}"
            )
        if self.depth_each < self.batch:
            raise ValueError(
                f"batch={self.batch} is more than the {self.depth_each} requests that "
                "each producer may have in flight"
            )
        _among("policy", self.policy, POLICIES)
        _among("arrivals", self.arrivals, ARRIVALS)
        _among("place", self.place, PLACES)
        parse_wait(self.wait)
        if self.seconds <= 0 or self.size < 0 or not 0 <= self.start < 1 << 32:
            raise ValueError("seconds must be above 0, size from 0 up, start a u32")
        if self.rate_per_s is not None and self.rate_per_s <= 0:
            raise ValueError(f"rate={self.rate_per_s:g}: use a number above 0")

    @property
    def order(self) -> int | None:
        """Doublings from a ring of one page, as Xen counts it."""
        order = (self.slots // ONE_PAGE).bit_length() - 1
        return order if order >= 0 else None

    @property
    def loop(self) -> str:
        """``open`` if requests arrive at a rate of their own, else ``closed``."""
        return "closed" if self.rate_per_s is None else "open"

    @property
    def depth_of_ring(self) -> int:
        """Requests in flight at most, a ring."""
        return self.depth if isinstance(self.depth, int) else self.slots

    @property
    def producers_of_ring(self) -> int:
        """Threads of the fullest worker."""
        return -(-self.producers // self.queues)

    @property
    def depth_each(self) -> int:
        """Requests in flight at most, a producer."""
        if self.rate_per_s is not None:
            return self.depth_of_ring
        return max(1, self.depth_of_ring // self.producers_of_ring)

    @property
    def most_in_flight(self) -> int:
        """Requests in flight at most, all together."""
        each = self.depth_each * self.producers
        return min(each, self.depth_of_ring * self.queues)

    @property
    def settle_s(self) -> float:
        """How long the ring may take until it is as full as it will be."""
        service_s, servers = self.device.service_s or 0.0, self.device.servers or 1
        turn_s = service_s * max(1.0, self.most_in_flight / servers)
        return 0.15 + 2 * turn_s + (SEARCH_S if self.depth == "auto" else 0.0)

    @property
    def spill(self) -> int:
        """Arrivals that may wait, a producer, under that policy."""
        return SPILL_FACTOR * self.slots if self.policy == "spill" else 0

    @property
    def predicted_per_s(self) -> float | None:
        """What Little's law says the device can carry; None if it says nothing."""
        most = self.device.most_per_s(self.most_in_flight)
        if most is None or self.rate_per_s is None:
            return most
        return min(most, self.rate_per_s)

    def parameters(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        device = {"device": str(self.device)}
        told = {k: v for k, v in asdict(self).items() if k != "device"}
        facts = {"servers": self.device.servers, "service_s": self.device.service_s}
        variability = self.device.variability if self.device.servers else None
        derived = {"order": self.order, "loop": self.loop, "variability": variability}
        return {**device, **facts, **derived, **told}

    @property
    def key(self) -> str:
        """All that is set, as text: what a sweep that goes on recognises it by."""
        told = {k: v for k, v in asdict(self).items() if k != "device"}
        words = [f"{name}={value}" for name, value in told.items() if value is not None]
        return " ".join([f"device={self.device}", *words])

    def __str__(self) -> str:
        plain = Cell(self.device, slots=self.slots, seconds=self.seconds)
        words = [str(self.device), f"slots={self.slots}"]
        for name in SHOWN:
            if getattr(self, name) != getattr(plain, name):
                words.append(f"{name}={getattr(self, name)}")
        if self.rate_per_s is not None:
            words.append(f"rate={units.show_number(self.rate_per_s)}")
        return " ".join(words)


def _among(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value}: use one of {', '.join(choices)}")
