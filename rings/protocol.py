"""What the two ends of a split connection agree on, and how it is written down.

Negotiation is data: the features are intersected, every limit is the smaller of
what is wanted and what is offered, and the result is a `Geometry` that both ends
compute for themselves, that `Ready` repeats and that stands in the region's
first page.  Three accounts that differ are a `LayoutError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from . import layout
from .errors import LayoutError, RemoteProtocolError
from .layout import Geometry
from .messages import DeviceFacts, Offer, Setup

RING_FEATURES: Final = {layout.XEN: "ring-xen", layout.PADDED: "ring-padded"}
PROTOCOL_FEATURES: Final = {
    layout.PROTOCOL_IO: "protocol-io",
    layout.PROTOCOL_BLKIF: "protocol-blkif",
}
FEATURES: Final = frozenset(
    {
        *RING_FEATURES.values(),
        *PROTOCOL_FEATURES.values(),
        "indirect",
        "cancel",
        "reconfigure",
    }
)
SLOT_SIZES: Final = {
    layout.PROTOCOL_IO: layout.IO_REQUEST_SIZE,
    layout.PROTOCOL_BLKIF: layout.BLKIF_SLOT_SIZE,
}
LIMITED: Final = ("slots", "grants", "data_size")

_PARAMETERS: Final = struct.Struct("=4I3Q2I2Q")
_WORD: Final = struct.Struct("=I")


def agree(mine: Iterable[str], theirs: Iterable[str]) -> tuple[str, ...]:
    """Return the features both ends know, in a fixed order."""
    return tuple(sorted(frozenset(mine) & frozenset(theirs)))


def features_needed(ring_layout: int, protocol: int) -> frozenset[str]:
    """Return the features without which these choices cannot work.

    Raises:
        ValueError: The number of a layout or protocol that does not exist.
    """
    if ring_layout not in RING_FEATURES:
        raise ValueError(f"ring_layout must be XEN or PADDED, not {ring_layout}")
    if protocol not in PROTOCOL_FEATURES:
        raise ValueError(
            f"protocol must be PROTOCOL_IO or PROTOCOL_BLKIF, not {protocol}"
        )
    return frozenset({RING_FEATURES[ring_layout], PROTOCOL_FEATURES[protocol]})


def choose(offer: Offer, wanted: Setup) -> Setup:
    """Fit what a frontend wants into an offer: features in common, limits by min.

    Raises:
        LayoutError: The backend lacks the ring layout or protocol wanted.
    """
    missing = features_needed(wanted.ring_layout, wanted.protocol) - {*offer.features}
    if missing:
        raise LayoutError(
            f"the daemon does not offer {', '.join(sorted(missing))}, only "
            f"{', '.join(offer.features)}; ask for another ring_layout or protocol"
        )
    return Setup(
        features=agree(offer.features, wanted.features),
        ring_layout=wanted.ring_layout,
        protocol=wanted.protocol,
        slots=_least(offer, "slots", wanted.slots),
        grants=_least(offer, "grants", wanted.grants),
        data_size=_least(offer, "data_size", wanted.data_size),
        start=wanted.start,
    )


def _least(offer: Offer, name: str, wanted: int) -> int:
    return min(wanted, offer.limits.get(name, wanted))


def refusal(offer: Offer, setup: Setup) -> str | None:
    """Return why a backend must not accept `setup` after `offer`, or None."""
    excess = {*setup.features} - {*offer.features}
    if excess:
        return f"features never offered: {', '.join(sorted(excess))}"
    try:
        missing = features_needed(setup.ring_layout, setup.protocol) - {*setup.features}
        geometry(setup)
    except ValueError as error:
        return str(error)
    if missing:
        return f"features not agreed on: {', '.join(sorted(missing))}"
    for name in LIMITED:
        if getattr(setup, name) > offer.limits[name]:
            return f"{name}={getattr(setup, name)} is over {offer.limits[name]} offered"
    return None


def geometry(setup: Setup) -> Geometry:
    """Lay out the region for the numbers chosen.

    Raises:
        ValueError: A number is out of range.
    """
    features_needed(setup.ring_layout, setup.protocol)
    return layout.split_geometry(
        ring_layout=setup.ring_layout,
        slots=setup.slots,
        slot_size=SLOT_SIZES[setup.protocol],
        protocol=setup.protocol,
        grants=setup.grants,
        data_size=setup.data_size,
        start=setup.start,
    )


def ring_geometry(shape: Geometry, slots: int, start: int) -> Geometry:
    """Lay out a region with another ring for a connection: no grants, no data.

    Raises:
        ValueError: A number is out of range.
    """
    whole = layout.split_geometry(
        ring_layout=shape.ring_layout,
        slots=slots,
        slot_size=shape.slot_size,
        protocol=shape.protocol,
        start=start,
    )
    end = whole.grants_offset
    return whole._replace(size=end, grants=0, data_offset=end, data_size=0)


def write_split(buffer: memoryview, shape: Geometry) -> None:
    """Write the parameters and the ring's four words into a fresh region."""
    _PARAMETERS.pack_into(
        buffer,
        layout.SPLIT_RING_LAYOUT,
        *(shape.ring_layout, shape.slots, shape.slot_size, shape.protocol),
        *(shape.ring_offset, shape.ring_size, shape.grants_offset),
        *(shape.grants, shape.start, shape.data_offset, shape.data_size),
    )
    words = layout.RING_WORDS[shape.ring_layout]
    event = (shape.start + 1) & layout.U32
    for offset, value in (
        (words.req_prod, shape.start),
        (words.rsp_prod, shape.start),
        (words.req_event, event),
        (words.rsp_event, event),
    ):
        _WORD.pack_into(buffer, shape.ring_offset + offset, value)


def read_split(buffer: memoryview, size: int) -> Geometry:
    """Read the parameters that `write_split` wrote."""
    numbers = _PARAMETERS.unpack_from(buffer, layout.SPLIT_RING_LAYOUT)
    ring_layout, slots, slot_size, protocol, ring_offset, ring_size = numbers[:6]
    grants_offset, grants, start, data_offset, data_size = numbers[6:]
    return Geometry(
        size=size,
        ring_layout=ring_layout,
        slots=slots,
        slot_size=slot_size,
        protocol=protocol,
        ring_offset=ring_offset,
        ring_size=ring_size,
        grants_offset=grants_offset,
        grants=grants,
        start=start,
        data_offset=data_offset,
        data_size=data_size,
    )


def same_geometry(mine: Geometry, theirs: Mapping[str, int], whose: str) -> None:
    """Check another account of the geometry against one's own.

    Raises:
        LayoutError: They differ; the message says in what.
    """
    wanted = mine._asdict()
    if wanted == theirs:
        return
    names = sorted({*wanted, *theirs})
    name = next(name for name in names if wanted.get(name) != theirs.get(name))
    raise LayoutError(
        f"{whose} has {name}={theirs.get(name)}, this end has {wanted.get(name)}; "
        "install the same release of rings on both ends"
    )


def check_device(device: DeviceFacts) -> DeviceFacts:
    """Return the facts if they make sense.

    Raises:
        RemoteProtocolError: A size that no device can have.
    """
    if device.block_size < 1 or device.size % device.block_size:
        raise RemoteProtocolError(
            f"device {device.name} claims {device.size} bytes in blocks of "
            f"{device.block_size}"
        )
    return device
