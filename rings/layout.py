"""Where every shared byte lies: offsets, sizes and constants, nothing else.

``docs/LAYOUT.md`` is the normative text; a test holds its tables, these numbers
and the C ``offsetof`` values against one another.  All integers are in the
machine's own byte order (little-endian on every supported machine).
"""

from __future__ import annotations

from typing import Final, NamedTuple

PAGE: Final = 4096
U32: Final = 0xFFFF_FFFF

# -- region header: the first page of every region ----------------------------
MAGIC: Final = 0x4D454D53474E4952  # b"RINGSMEM" as a little-endian u64
VERSION: Final = 1
BYTE_ORDER: Final = 0x01020304

REGION_MAGIC: Final = 0  # u64, stored last with release
REGION_VERSION: Final = 8  # u32
REGION_KIND: Final = 12  # u32, KIND_*
REGION_SIZE: Final = 16  # u64, bytes of the whole region
REGION_GENERATION: Final = 24  # u64
REGION_CREATOR_PID: Final = 32  # u32
REGION_BYTE_ORDER: Final = 36  # u32
REGION_CREATOR_START: Final = 40  # u64, clock ticks since boot
REGION_PARAMS: Final = 64  # kind-specific parameters, up to the page's end
REGION_HEADER_SIZE: Final = PAGE

KIND_PLAIN: Final = 0
KIND_SPLIT: Final = 1
KIND_SPSC: Final = 2
KIND_MPMC: Final = 3
KIND_BROADCAST: Final = 4
KIND_BLOCKS: Final = 5
KIND_RING: Final = 6

# -- parameters of a split connection (KIND_SPLIT) ----------------------------
SPLIT_RING_LAYOUT: Final = 64  # u32, XEN or PADDED
SPLIT_SLOTS: Final = 68  # u32
SPLIT_SLOT_SIZE: Final = 72  # u32
SPLIT_PROTOCOL: Final = 76  # u32, PROTOCOL_*
SPLIT_RING_OFFSET: Final = 80  # u64
SPLIT_RING_SIZE: Final = 88  # u64
SPLIT_GRANTS_OFFSET: Final = 96  # u64
SPLIT_GRANTS: Final = 104  # u32, entries in the grant table
SPLIT_START: Final = 108  # u32, index of the first request
SPLIT_DATA_OFFSET: Final = 112  # u64
SPLIT_DATA_SIZE: Final = 120  # u64

# -- MPMC rings (KIND_MPMC) ---------------------------------------------------
MPMC_SLOTS: Final = 64  # u32
MPMC_SLOT_SIZE: Final = 68  # u32, bytes of a message at most
MPMC_START: Final = 72  # u64, index of the first message
MPMC_LIMIT: Final = 80  # u32, messages it may hold; 0: as many as slots

MPMC_HEADER_OFFSET: Final = PAGE
MPMC_PROD: Final = 4096  # u64, index; this and the next two are the putters' side
MPMC_PUT_SLEEPS: Final = 4224  # u64, announcements of sleepers for room
MPMC_CONS: Final = 4352  # u64, index
MPMC_GET_SLEEPS: Final = 4480  # u64, announcements of sleepers for a message
MPMC_SHUT: Final = 4488  # u32, MPMC_SHUT_*
MPMC_OWNERS_OFFSET: Final = 5120
MPMC_OWNERS: Final = 256
MPMC_SLOTS_OFFSET: Final = 9 * PAGE

MPMC_SHUT_PUTS: Final = 1
MPMC_SHUT_GETS: Final = 2

MPMC_OWNER_SIZE: Final = 64
MPMC_OWNER_WORD: Final = 0  # u64 {state:4, generation:19, deaths:19, pid:22}
MPMC_OWNER_START_TIME: Final = 8  # u64, clock ticks since boot
MPMC_OWNER_PID_SPACE: Final = 16  # u64, {pid namespace:32, time namespace:32}
MPMC_OWNER_PUT: Final = 24  # u64, messages
MPMC_OWNER_GOT: Final = 32  # u64, messages
MPMC_OWNER_TOMBSTONES: Final = 40  # u64 {2**39 + index of the last:40, count:24}
MPMC_OWNER_IN_DOUBT: Final = 48  # u64 {2**39 + index of the last:40, count:24}
MPMC_OWNER_LOST: Final = 56  # u64 {tag of the last:24, count:40}

MPMC_SLOT_HEADER: Final = 16
MPMC_SLOT_WORD: Final = 0  # u64 {state:4, owner:12, seq:48}
MPMC_SLOT_LENGTH: Final = 8  # u32, bytes of the message
MPMC_SLOT_DATA: Final = 16
MPMC_SLOT_UNIT: Final = 64  # slots lie at multiples of this
MPMC_MAX_SLOTS: Final = 1 << 20
MPMC_MAX_SLOT_SIZE: Final = 1 << 24

# -- blocks beside an MPMC ring (KIND_BLOCKS) -----------------------------------
BLOCKS_COUNT: Final = 64  # u32
BLOCKS_SIZE: Final = 68  # u32, bytes of a block
BLOCKS_FREED: Final = 4096  # u64, how often blocks were given back
BLOCKS_WORDS: Final = 4160  # u64 each {turn:29, joined:19, owner:12, state:4}

# -- ring headers -------------------------------------------------------------
XEN: Final = 0
PADDED: Final = 1


class RingWords(NamedTuple):
    """Offsets, from the ring's first byte, of its four words and its slots."""

    req_prod: int
    req_event: int
    rsp_prod: int
    rsp_event: int
    slots: int


XEN_WORDS: Final = RingWords(0, 4, 8, 12, 64)
PADDED_WORDS: Final = RingWords(0, 132, 128, 4, 256)
RING_WORDS: Final = {XEN: XEN_WORDS, PADDED: PADDED_WORDS}
MAX_SLOTS: Final = 1 << 16
MAX_SLOT_SIZE: Final = 4096

# -- grant table entry --------------------------------------------------------
GRANT_SIZE: Final = 32
GRANT_OFFSET: Final = 0  # u64, from the region's first byte
GRANT_LENGTH: Final = 8  # u64
GRANT_GENERATION: Final = 16  # u32
GRANT_RIGHTS: Final = 20  # u32, stored last with release; 0 = not granted
GRANT_RESERVED: Final = 24  # u64, zero

RIGHT_DEVICE_READS: Final = 1  # the device may read it (a write request's data)
RIGHT_DEVICE_WRITES: Final = 2  # the device may write it (a read request's buffer)

# -- protocols in the slots of a split ring -----------------------------------
PROTOCOL_IO: Final = 1
PROTOCOL_BLKIF: Final = 2  # Xen blkif, x86_64 ABI

IO_REQUEST_SIZE: Final = 64
IO_ID: Final = 0  # u64, echoed in the response
IO_OP: Final = 8  # u8, OP_*
IO_FLAGS: Final = 9  # u8, IO_FLAG_*
IO_NR_SEGMENTS: Final = 10  # u16
IO_RESERVED: Final = 12  # u32, zero
IO_OFFSET: Final = 16  # u64, bytes on the device; for OP_CANCEL the id meant
IO_LENGTH: Final = 24  # u64, bytes; for read and write the sum of the segments
IO_SEGMENTS: Final = 32  # two segments of 16 bytes
IO_INLINE_SEGMENTS: Final = 2
IO_MAX_SEGMENTS: Final = 64

SEGMENT_SIZE: Final = 16
SEGMENT_GREF: Final = 0  # u32, index in the grant table
SEGMENT_GENERATION: Final = 4  # u32, the grant's generation
SEGMENT_OFFSET: Final = 8  # u32, from the grant's first byte
SEGMENT_LENGTH: Final = 12  # u32

IO_FLAG_INDIRECT: Final = 1  # segment 0 names the table of nr_segments segments

OP_ECHO: Final = 1
OP_READ: Final = 2
OP_WRITE: Final = 3
OP_FLUSH: Final = 4
OP_DISCARD: Final = 5
OP_WRITE_ZEROES: Final = 6
OP_CANCEL: Final = 7

IO_RESPONSE_SIZE: Final = 16
IO_RSP_ID: Final = 0  # u64
IO_RSP_RESULT: Final = 8  # s64, bytes done, or minus an errno

BLKIF_SLOT_SIZE: Final = 112


class Geometry(NamedTuple):
    """Where the parts of one split connection's region lie.  All in bytes."""

    size: int
    ring_layout: int
    slots: int
    slot_size: int
    protocol: int
    ring_offset: int
    ring_size: int
    grants_offset: int
    grants: int
    start: int
    data_offset: int
    data_size: int


def round_up(value: int, unit: int = PAGE) -> int:
    """Return ``value`` raised to the next multiple of ``unit``."""
    return -(-value // unit) * unit


def split_geometry(
    *,
    ring_layout: int = PADDED,
    slots: int = 128,
    slot_size: int = IO_REQUEST_SIZE,
    protocol: int = PROTOCOL_IO,
    grants: int = 1024,
    data_size: int = 4 << 20,
    start: int = 0,
) -> Geometry:
    """Lay out header, ring, grant table and data area, each on its own pages.

    Raises:
        ValueError: A number is out of range; the message says which and why.
    """
    if slots < 1 or slots & (slots - 1) or slots > MAX_SLOTS:
        raise ValueError(f"slots must be a power of two up to {MAX_SLOTS}, not {slots}")
    if not 16 <= slot_size <= MAX_SLOT_SIZE or slot_size % 8:
        raise ValueError(
            f"slot_size must be a multiple of 8 in 16..{MAX_SLOT_SIZE}, not {slot_size}"
        )
    if ring_layout not in RING_WORDS:
        raise ValueError(f"ring_layout must be XEN or PADDED, not {ring_layout}")
    if not 1 <= grants <= 1 << 20:
        raise ValueError(f"grants must be in 1..{1 << 20}, not {grants}")
    if not 0 <= start <= U32:
        raise ValueError(f"start must be a u32, not {start}")
    if data_size < 0 or data_size % PAGE:
        raise ValueError(f"data_size must be a multiple of {PAGE}, not {data_size}")
    ring_offset = REGION_HEADER_SIZE
    ring_size = round_up(RING_WORDS[ring_layout].slots + slots * slot_size)
    grants_offset = ring_offset + ring_size
    data_offset = grants_offset + round_up(grants * GRANT_SIZE)
    return Geometry(
        size=data_offset + data_size, ring_layout=ring_layout, slots=slots,
        slot_size=slot_size, protocol=protocol, ring_offset=ring_offset,
        ring_size=ring_size, grants_offset=grants_offset, grants=grants, start=start,
        data_offset=data_offset, data_size=data_size,
    )  # fmt: skip


# -- message ring, one producer and one consumer (KIND_SPSC) ---------------------
SPSC_FIXED: Final = 0  # a unit is a slot: every message has slot_size bytes
SPSC_RECORDS: Final = 1  # a unit is 8 bytes: messages of any length
SPSC_MODE: Final = 64  # u32, SPSC_FIXED or SPSC_RECORDS
SPSC_UNITS: Final = 68  # u32, a power of two
SPSC_UNIT_SIZE: Final = 72  # u32
SPSC_START: Final = 76  # u32, index of the first unit
SPSC_DATA_OFFSET: Final = 80  # u64
SPSC_DATA_SIZE: Final = 88  # u64
SPSC_DTYPE: Final = 96  # u64, fingerprint of the messages' type, 0 if untyped
SPSC_POOL_OFFSET: Final = 128  # u64, of the pool; SPSC_RECORDS only
SPSC_POOL_SIZE: Final = 136  # u64, 0: no message goes by reference
SPSC_INLINE_MAX: Final = 144  # u32, longer messages do
SPSC_SKIP_LOST: Final = 192  # u64, by a consumer that is about to skip: its lost then
SPSC_SKIP_CONS: Final = 200  # u32, and its cons
SPSC_PROD: Final = 256  # u32, by the producer
SPSC_PROD_LIGHT: Final = 260  # u32, by the producer: prod has no barrier
SPSC_CONS: Final = 384  # u32, by the consumer
SPSC_CONS_LIGHT: Final = 388  # u32, by the consumer: cons has no barrier
SPSC_PROD_EVENT: Final = 512  # u32, by the consumer
SPSC_PROD_WISH: Final = 516  # u32, by the consumer: prod may have no barrier
SPSC_CONS_EVENT: Final = 640  # u32, by the producer
SPSC_CONS_WISH: Final = 644  # u32, by the producer: cons may have no barrier
SPSC_PRODUCER: Final = 768  # an end, by whoever takes it
SPSC_CONSUMER: Final = 896  # an end, by whoever takes it
SPSC_DATA: Final = REGION_HEADER_SIZE  # where create() puts the units

END_OWNER: Final = 0  # u64, {start time: 42, pid: 22}; 0 nobody yet
END_GENERATION: Final = 8  # u32, owners so far
END_LOST: Final = 16  # u64, messages refused and not stored
END_PID_BITS: Final = 22
END_CLOSED: Final = 1 << END_PID_BITS  # owner word of an end given back

SPSC_RECORD_LENGTH: Final = 0  # u32, bytes that follow
SPSC_RECORD_KIND: Final = 4  # u32, SPSC_MESSAGE, SPSC_WRAP or SPSC_REFERENCE
SPSC_RECORD_HEADER: Final = 8
SPSC_MESSAGE: Final = 0
SPSC_WRAP: Final = 1  # nothing more before the end of the array
SPSC_REFERENCE: Final = 2  # where in the pool the message lies
SPSC_REFERENCE_OFFSET: Final = 0  # u64, from the pool's first byte
SPSC_REFERENCE_LENGTH: Final = 8  # u64, bytes of the message

# -- broadcast ring, one producer and many consumers (KIND_BROADCAST) -------------
BROADCAST_BLOCK: Final = 0  # the producer waits for the slowest consumer
BROADCAST_DROP_OLD: Final = 1  # it overwrites, and consumers count what they lost
BROADCAST_SLOTS: Final = 64  # u32, a power of two from 2 up
BROADCAST_SLOT_SIZE: Final = 68  # u32, bytes of the longest message
BROADCAST_CONSUMERS: Final = 72  # u32, entries
BROADCAST_POLICY: Final = 76  # u32
BROADCAST_DATA_OFFSET: Final = 80  # u64
BROADCAST_PROD: Final = 256  # u64, by the producer: number of the next message
BROADCAST_SLEEPING: Final = 384  # u64, bit i set by consumer i, cleared by producer
BROADCAST_ROOM_WANTED: Final = 512  # u32, set by the producer, cleared by consumers
BROADCAST_PRODUCER: Final = 640  # an end
BROADCAST_ENTRIES: Final = 1024
BROADCAST_MOST: Final = 64  # entries at most

ENTRY_SIZE: Final = 128
ENTRY_END: Final = 0  # an end
ENTRY_CONS: Final = 24  # u64, next message wanted, by the consumer
ENTRY_ABSENT: Final = 0xFFFF_FFFF_FFFF_FFFF

BROADCAST_SLOT_SEQ: Final = 0  # u64, 2n + 1 while n is written, 2n + 2 when whole
BROADCAST_SLOT_LENGTH: Final = 8  # u32
BROADCAST_SLOT_WORDS: Final = 16  # the message, padded to 8 bytes
