"""The control messages of the handshake; `codec` has their form on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class DeviceFacts:
    """What a frontend needs to know of a device.  Sizes in bytes."""

    name: str
    kind: str
    size: int
    block_size: int
    read_only: bool
    direct: bool
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Hello:
    """Frontend: the device I want and the features I know."""

    device: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Offer:
    """Backend: the features we share, my limits, and what the device is."""

    features: tuple[str, ...]
    limits: Mapping[str, int]
    device: DeviceFacts


@dataclass(frozen=True)
class Setup:
    """Frontend: the features and numbers I chose within the offer."""

    features: tuple[str, ...]
    ring_layout: int
    protocol: int
    slots: int
    grants: int
    data_size: int
    start: int


@dataclass(frozen=True)
class Ready:
    """Backend: the memory is made; three file descriptors come with this."""

    geometry: Mapping[str, int]
    generation: int


@dataclass(frozen=True)
class Connected:
    """Frontend: I have mapped the memory."""


@dataclass(frozen=True)
class Reconfigure:
    """Frontend: make me another ring beside this one, of so many slots."""

    slots: int
    start: int


@dataclass(frozen=True)
class Reconfigured:
    """Backend: it is made and served; two file descriptors come with this."""

    geometry: Mapping[str, int]
    generation: int


@dataclass(frozen=True)
class Switched:
    """Frontend: the new ring takes all requests; the old one had its last."""


@dataclass(frozen=True)
class Unchanged:
    """Either end: there will be no other ring, and why; the old one goes on."""

    code: str
    message: str


@dataclass(frozen=True)
class Closing:
    """Either end: no new requests; what is in flight is being finished."""

    reason: str


@dataclass(frozen=True)
class Closed:
    """Backend: nothing is in flight, I do not touch the memory any more."""


@dataclass(frozen=True)
class Error:
    """Either end: this connection is over, and why."""

    code: str
    message: str


@dataclass(frozen=True)
class Stat:
    """Ask for the daemon's report from a character on; 0 takes it anew."""

    offset: int


@dataclass(frozen=True)
class StatReply:
    """A piece of the daemon's report, which is JSON of `total` characters."""

    offset: int
    total: int
    text: str


Message: TypeAlias = (
    Hello
    | Offer
    | Setup
    | Ready
    | Connected
    | Closing
    | Closed
    | Error
    | Stat
    | StatReply
    | Reconfigure
    | Reconfigured
    | Switched
    | Unchanged
)
