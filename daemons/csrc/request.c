#include "request.h"

#include <errno.h>

/* ---- what both protocols check ------------------------------------------- */

static bool within(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

static bool op_writes(uint8_t op)
{
    return op == WIRE_WRITE || op == WIRE_DISCARD || op == WIRE_WRITE_ZEROES;
}

/* The device's own limits on offset and length. */
static int check_range(const struct engine_device *device, const struct checked *req)
{
    if (op_writes(req->op) && device->read_only)
        return EROFS;
    if (req->offset % device->block_size != 0 || req->length % device->block_size != 0)
        return EINVAL;
    if (!within(req->offset, req->length, device->size))
        return op_writes(req->op) ? ENOSPC : ENXIO;
    return 0;
}

/* Append one stretch of memory, joining it to the last where they touch. */
static void add_stretch(struct checked *req, uint8_t *base, uint32_t length)
{
    struct iovec *last = req->nr_iov ? &req->iov[req->nr_iov - 1] : NULL;
    if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == base)
        last->iov_len += length;
    else
        req->iov[req->nr_iov++] = (struct iovec){base, length};
}

/* ---- the native protocol -------------------------------------------------- */

/* Where a segment's bytes lie, if its grant allows `rights`.  An honest frontend wrote the
 * entry before it published the request: acquiring that one ordered this one too. */
static int resolve(const struct memory *memory, const struct wire_segment *segment,
                   uint32_t rights, uint8_t **base)
{
    if (segment->gref >= memory->nr_grants)
        return EFAULT;
    struct wire_grant *shared = &memory->grants[segment->gref];
    uint32_t granted = load_relaxed(&shared->rights);
    uint64_t offset = __atomic_load_n(&shared->offset, __ATOMIC_RELAXED);
    uint64_t length = __atomic_load_n(&shared->length, __ATOMIC_RELAXED);
    uint32_t generation = __atomic_load_n(&shared->generation, __ATOMIC_RELAXED);
    if (generation != segment->generation || (granted & rights) != rights)
        return EACCES;
    if (!within(segment->offset, segment->length, length) || segment->length == 0)
        return EFAULT;
    if (offset < memory->data_offset || !within(offset, length, memory->size))
        return EFAULT;
    *base = memory->base + offset + segment->offset;
    return 0;
}

static int add_segments(const struct memory *memory, const struct wire_segment *segments,
                        uint32_t count, uint32_t rights, struct checked *req)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *base;
        int error = resolve(memory, &segments[i], rights, &base);
        if (error)
            return error;
        total += segments[i].length;
        add_stretch(req, base, segments[i].length);
    }
    return total == req->length ? 0 : EINVAL;
}

/* Segment 0 names the table; the table is copied before any of it is looked at. */
static int add_indirect(const struct memory *memory, const struct wire_request *wire,
                        uint32_t rights, struct checked *req)
{
    struct wire_segment table[MAX_SEGMENTS];
    uint8_t *base;
    if (wire->segments[0].length != wire->nr_segments * sizeof table[0])
        return EINVAL;
    int error = resolve(memory, &wire->segments[0], RIGHT_DEVICE_READS, &base);
    if (error)
        return error;
    memcpy(table, base, wire->segments[0].length);
    __asm__ __volatile__("" ::: "memory");
    return add_segments(memory, table, wire->nr_segments, rights, req);
}

static int decode_transfer(const struct memory *memory, const struct wire_request *wire,
                           struct checked *req)
{
    bool indirect = wire->flags & FLAG_INDIRECT;
    uint32_t rights = req->op == WIRE_READ ? RIGHT_DEVICE_WRITES : RIGHT_DEVICE_READS;
    if (req->length == 0 || req->length > MAX_TRANSFER)
        return EINVAL;
    if (wire->nr_segments == 0 || wire->nr_segments > (indirect ? MAX_SEGMENTS : 2))
        return EINVAL;
    if (indirect)
        return add_indirect(memory, wire, rights, req);
    return add_segments(memory, wire->segments, wire->nr_segments, rights, req);
}

int decode_io(const struct memory *memory, const struct engine_device *device, const uint8_t *raw,
              struct checked *req)
{
    struct wire_request wire;
    memcpy(&wire, raw, sizeof wire);
    req->id = wire.id;
    req->op = wire.op;
    req->offset = wire.offset;
    req->length = wire.length;
    req->nr_iov = 0;
    if (wire.op == 0 || wire.op >= WIRE_OPS)
        return EOPNOTSUPP;
    if (wire.flags & ~FLAG_INDIRECT || wire.reserved != 0)
        return EINVAL;
    if (wire.op == WIRE_ECHO || wire.op == WIRE_CANCEL || wire.op == WIRE_FLUSH)
        return wire.nr_segments ? EINVAL : 0;
    int error = check_range(device, req);
    if (error)
        return error;
    if (wire.op == WIRE_READ || wire.op == WIRE_WRITE)
        return decode_transfer(memory, &wire, req);
    return wire.nr_segments || wire.length == 0 ? EINVAL : 0;
}

/* ---- Xen blkif, x86_64 ABI --------------------------------------------------
 * Sectors of 512 bytes; a grant reference is a page number of the data area. */

enum { SECTOR = 512, XEN_PAGE = 4096, BLKIF_SEGMENTS = 11, SEGMENTS_PER_PAGE = 512 };
enum { BLKIF_READ, BLKIF_WRITE, BLKIF_BARRIER, BLKIF_FLUSH, BLKIF_DISCARD = 5, BLKIF_INDIRECT };
enum { BLKIF_OKAY = 0, BLKIF_ERROR = -1, BLKIF_EOPNOTSUPP = -2 };

struct blkif_segment {
    uint32_t gref;
    uint8_t first_sect, last_sect;
    uint16_t pad;
};
_Static_assert(sizeof(struct blkif_segment) == 8, "blkif.h");

struct blkif_rw {
    uint8_t operation, nr_segments;
    uint16_t handle;
    uint32_t pad;
    uint64_t id, sector_number;
    struct blkif_segment seg[BLKIF_SEGMENTS];
};
_Static_assert(offsetof(struct blkif_rw, id) == 8, "blkif.h");
_Static_assert(offsetof(struct blkif_rw, sector_number) == 16, "blkif.h");
_Static_assert(offsetof(struct blkif_rw, seg) == 24, "blkif.h");
_Static_assert(sizeof(struct blkif_rw) == RAW_SIZE, "blkif.h");

struct blkif_discard {
    uint8_t operation, flag;
    uint16_t handle;
    uint32_t pad;
    uint64_t id, sector_number, nr_sectors;
};
_Static_assert(offsetof(struct blkif_discard, nr_sectors) == 24, "blkif.h");

struct blkif_indirect {
    uint8_t operation, indirect_op;
    uint16_t nr_segments;
    uint32_t pad;
    uint64_t id, sector_number;
    uint16_t handle, pad2;
    uint32_t indirect_grefs[8];
};
_Static_assert(offsetof(struct blkif_indirect, nr_segments) == 2, "blkif.h");
_Static_assert(offsetof(struct blkif_indirect, indirect_grefs) == 28, "blkif.h");

static int add_blkif_segments(const struct memory *memory, const struct blkif_segment *segments,
                              uint32_t count, struct checked *req)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct blkif_segment *segment = &segments[i];
        if (segment->gref >= memory->data_size / XEN_PAGE)
            return EFAULT;
        if (segment->first_sect > segment->last_sect || segment->last_sect > 7)
            return EINVAL;
        uint32_t length = (segment->last_sect - segment->first_sect + 1u) * SECTOR;
        add_stretch(req,
                    memory->base + memory->data_offset + (uint64_t)segment->gref * XEN_PAGE +
                        segment->first_sect * SECTOR,
                    length);
        req->length += length;
    }
    return 0;
}

static int decode_indirect(const struct memory *memory, const uint8_t *raw, struct checked *req)
{
    struct blkif_indirect wire;
    struct blkif_segment table[MAX_SEGMENTS];
    memcpy(&wire, raw, sizeof wire);
    req->blkif_op = wire.indirect_op;
    if (wire.indirect_op != BLKIF_READ && wire.indirect_op != BLKIF_WRITE)
        return EINVAL;
    if (wire.nr_segments == 0 || wire.nr_segments > MAX_SEGMENTS)
        return EINVAL;
    if (wire.indirect_grefs[0] >= memory->data_size / XEN_PAGE)
        return EFAULT;
    req->op = wire.indirect_op == BLKIF_READ ? WIRE_READ : WIRE_WRITE;
    memcpy(table,
           memory->base + memory->data_offset + (uint64_t)wire.indirect_grefs[0] * XEN_PAGE,
           wire.nr_segments * sizeof table[0]);
    __asm__ __volatile__("" ::: "memory");
    return add_blkif_segments(memory, table, wire.nr_segments, req);
}

static int decode_discard(const uint8_t *raw, struct checked *req)
{
    struct blkif_discard wire;
    memcpy(&wire, raw, sizeof wire);
    req->op = WIRE_DISCARD;
    if (wire.nr_sectors == 0 || wire.nr_sectors > UINT64_MAX / SECTOR)
        return EINVAL;
    if (wire.flag != 0)
        return EOPNOTSUPP;
    req->length = wire.nr_sectors * SECTOR;
    return 0;
}

static int decode_blkif_op(const struct memory *memory, const uint8_t *raw,
                           const struct blkif_rw *wire, struct checked *req)
{
    switch (wire->operation) {
    case BLKIF_READ:
    case BLKIF_WRITE:
        req->op = wire->operation == BLKIF_READ ? WIRE_READ : WIRE_WRITE;
        if (wire->nr_segments == 0 || wire->nr_segments > BLKIF_SEGMENTS)
            return EINVAL;
        return add_blkif_segments(memory, wire->seg, wire->nr_segments, req);
    case BLKIF_FLUSH:
        req->op = WIRE_FLUSH;
        return wire->nr_segments ? EOPNOTSUPP : 0;
    case BLKIF_DISCARD:
        return decode_discard(raw, req);
    case BLKIF_INDIRECT:
        return decode_indirect(memory, raw, req);
    default:
        return EOPNOTSUPP;
    }
}

int decode_blkif(const struct memory *memory, const struct engine_device *device,
                 const uint8_t *raw, struct checked *req)
{
    struct blkif_rw wire;
    memcpy(&wire, raw, sizeof wire);
    *req = (struct checked){.id = wire.id, .blkif_op = wire.operation, .iov = req->iov};
    int error = decode_blkif_op(memory, raw, &wire, req);
    if (error || req->op == WIRE_FLUSH)
        return error;
    if (wire.sector_number > UINT64_MAX / SECTOR)
        return ENXIO;
    req->offset = wire.sector_number * SECTOR;
    return check_range(device, req);
}

/* ---- responses -------------------------------------------------------------- */

void encode_response(uint32_t protocol, const struct checked *req, int64_t result, uint8_t out[16])
{
    memset(out, 0, 16);
    memcpy(out, &req->id, 8);
    if (protocol == PROTOCOL_IO) {
        memcpy(out + 8, &result, 8);
        return;
    }
    int16_t status = result >= 0             ? BLKIF_OKAY
                     : result == -EOPNOTSUPP ? BLKIF_EOPNOTSUPP
                                             : BLKIF_ERROR;
    out[8] = req->blkif_op;
    memcpy(out + 10, &status, 2);
}
