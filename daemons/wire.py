"""Python values to the engine's C structs and back; nothing here waits."""

from __future__ import annotations

import errno
from typing import Any, Final

from rings.errors import BusyError

from ._engine import ffi, lib
from .device import Device, RingSpec, Station
from .service import Wire

KINDS: Final = {"uring": 0, "threads": 1, "mock": 2}
DEVICE_KINDS: Final = {
    "block": lib.DEVICE_FILE,
    "null": lib.DEVICE_NULL,
    "echo": lib.DEVICE_ECHO,
    "python": lib.DEVICE_BACKEND,
    "delay": lib.DEVICE_DELAY,
}
RING_STATS: Final = (
    "requests", "responses", "errors", "bytes_read", "bytes_written", "batches",
    "notifications_sent", "notifications_held_off", "wakes", "spurious_wakes",
    "in_flight", "in_flight_peak", "fixed_buffer", "takes", "in_flight_ns",
    "observed_ns",
)  # fmt: skip
STATION_STATS: Final = (
    "served", "abandoned", "in_service", "in_service_peak", "queued", "queued_peak",
    "busy_ns", "waited_ns", "late_ns", "late_peak_ns",
)  # fmt: skip
ENGINE_STATS: Final = (
    "enters", "turns", "sleeps", "credit", "credit_used", "requests", "takes",
    "notifications_sent", "notifications_held_off",
)  # fmt: skip


def errno_name(code: int) -> str:
    """Name an errno: 1 gives ``EPERM``, 95 ``EOPNOTSUPP`` and not its twin."""
    if code == errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return errno.errorcode.get(code, str(code))


def new_engine(kind: str, spin_us: int, entries: int, credit: int, seed: int) -> Any:
    """Make an engine.

    Raises:
        OSError: Its ``strerror`` names the step that failed and the errno.
    """
    error, where = ffi.new("int *"), ffi.new("char const **")
    spin_ns = max(0, spin_us) * 1000
    engine = lib.engine_new(KINDS[kind], spin_ns, entries, credit, seed, error, where)
    if engine == ffi.NULL:
        step = ffi.string(where[0]).decode()
        raise OSError(-error[0], f"{step}: {errno_name(-error[0])}")
    return engine


def add_station(engine: Any, station: Station) -> int:
    """Make the servers of a delay device.

    Returns:
        Their number in the engine.

    Raises:
        OSError: There are too many stations, or no memory for so many servers.
    """
    plan = ffi.new("struct station_plan *")
    plan.servers, plan.service_ns = station.servers, station.service_ns
    plan.exponential = station.distribution == "exponential"
    plan.seed = station.seed
    number = lib.engine_add_station(engine, plan)
    if number < 0:
        raise OSError(-number, f"cannot make the servers: {errno_name(-number)}")
    return number


def memory_of(spec: RingSpec) -> list[Any]:
    """Hold a ring's memory for the engine: its region, and the ring's own if any."""
    regions = [spec.region] if spec.ring_region is None else [
        spec.region, spec.ring_region,
    ]  # fmt: skip
    return [
        ffi.from_buffer("char[]", region.buffer, require_writable=True)
        for region in regions
    ]


def let_go(memory: list[Any]) -> None:
    """Let go of what `memory_of` holds."""
    for held in memory:
        ffi.release(held)


def attach(engine: Any, spec: RingSpec, memory: list[Any], station: int) -> int:
    """Attach a ring whose memory is held by ``memory``: its number, or -errno."""
    ring = ffi.new("struct engine_ring_spec *")
    ring.memory = memory[0]
    if spec.ring_region is not None:
        ring.ring_memory = memory[1]
        ring.ring_memory_size = spec.ring_region.size
    for name, value in spec.geometry._asdict().items():
        setattr(ring, name, value)
    ring.wait_fd, ring.notify_fd = spec.wait_fd, spec.notify_fd
    return lib.engine_attach(engine, ring, _device(spec.device, station))


def _device(device: Device, station: int) -> Any:
    struct = ffi.new("struct engine_device *")
    struct.kind, struct.fd = DEVICE_KINDS[device.kind], device.fd
    struct.size, struct.block_size = device.size, device.block_size
    struct.read_only, struct.station = device.read_only, station
    return struct


def attach_error(code: int, spec: RingSpec) -> Exception:
    """Say what an errno of `attach` means."""
    if code == errno.ENOBUFS:
        return BusyError(
            f"no credit left for a ring of {spec.geometry.slots} slots: close other "
            "connections or ask for fewer slots"
        )
    return OSError(code, f"cannot attach the ring: {errno_name(code)}")


def take(engine: Any, ring: int, slots: int) -> list[Wire]:
    """Take what a ring has for its backend."""
    requests = ffi.new("struct backend_request[]", slots)
    count = lib.engine_take(engine, ring, requests, slots)
    return [_request(requests[i]) for i in range(count)]


def _request(struct: Any) -> Wire:
    segments = tuple(
        (int(struct.segments[i].offset), int(struct.segments[i].length))
        for i in range(struct.nr_segments)
    )
    return Wire(
        int(struct.id), int(struct.index), int(struct.generation),
        int(struct.op), int(struct.offset), int(struct.length), segments,
    )  # fmt: skip


def ring_statistics(engine: Any, ring: int) -> dict[str, int]:
    """Counters of one ring; empty if it is gone."""
    out = ffi.new("struct engine_ring_stats *")
    if lib.engine_ring_stats(engine, ring, out) < 0:
        return {}
    return {name: int(getattr(out, name)) for name in RING_STATS}


def engine_statistics(engine: Any) -> dict[str, int]:
    """Counters of the engine."""
    out = ffi.new("struct engine_stats *")
    lib.engine_stats(engine, out)
    return {name: int(getattr(out, name)) for name in ENGINE_STATS}


def station_statistics(engine: Any, station: int) -> dict[str, int]:
    """Counters of the servers of a delay device."""
    out = ffi.new("struct station_stats *")
    lib.engine_station_stats(engine, station, out)
    return {name: int(getattr(out, name)) for name in STATION_STATS}
