/* From bytes a stranger wrote to an operation that is safe to do.
 *
 * The slot has been copied once; every check and every use is of the copy.  Grants
 * are copied out of the shared table and checked against the sizes that the daemon
 * itself chose.  What fails a check is answered with an errno and touches nothing.
 */
#ifndef RINGSD_REQUEST_H
#define RINGSD_REQUEST_H

#include "core.h"
#include "engine.h"

#include <sys/uio.h>

enum { RAW_SIZE = 112, MAX_SEGMENTS = 64, MAX_TRANSFER = 1 << 20 };
enum { PROTOCOL_IO = 1, PROTOCOL_BLKIF = 2 };

enum wire_op {
    WIRE_ECHO = 1,
    WIRE_READ,
    WIRE_WRITE,
    WIRE_FLUSH,
    WIRE_DISCARD,
    WIRE_WRITE_ZEROES,
    WIRE_CANCEL,
    WIRE_OPS
};

enum { RIGHT_DEVICE_READS = 1, RIGHT_DEVICE_WRITES = 2 };
enum { FLAG_INDIRECT = 1 };

struct wire_segment {
    uint32_t gref, generation, offset, length;
};
_Static_assert(sizeof(struct wire_segment) == 16, "LAYOUT.md");

struct wire_request {
    uint64_t id;
    uint8_t op, flags;
    uint16_t nr_segments;
    uint32_t reserved;
    uint64_t offset, length;
    struct wire_segment segments[2];
};
_Static_assert(offsetof(struct wire_request, op) == 8, "LAYOUT.md");
_Static_assert(offsetof(struct wire_request, nr_segments) == 10, "LAYOUT.md");
_Static_assert(offsetof(struct wire_request, offset) == 16, "LAYOUT.md");
_Static_assert(offsetof(struct wire_request, length) == 24, "LAYOUT.md");
_Static_assert(offsetof(struct wire_request, segments) == 32, "LAYOUT.md");
_Static_assert(sizeof(struct wire_request) == 64, "LAYOUT.md");

struct wire_response {
    uint64_t id;
    int64_t result;
};
_Static_assert(sizeof(struct wire_response) == 16, "LAYOUT.md");

struct wire_grant {
    uint64_t offset, length;
    uint32_t generation;
    shared_u32 rights;
    uint64_t reserved;
};
_Static_assert(offsetof(struct wire_grant, generation) == 16, "LAYOUT.md");
_Static_assert(offsetof(struct wire_grant, rights) == 20, "LAYOUT.md");
_Static_assert(sizeof(struct wire_grant) == 32, "LAYOUT.md");

/* Where a ring's memory lies: the daemon's private copy, never read from shared memory. */
struct memory {
    uint8_t *base;
    uint64_t size, data_offset, data_size;
    struct wire_grant *grants;
    uint32_t nr_grants;
};

/* One request, checked: what decode fills. */
struct checked {
    uint64_t id;
    uint8_t op;       /* enum wire_op */
    uint8_t blkif_op; /* echoed in a blkif response */
    uint64_t offset, length;
    uint32_t nr_iov;
    struct iovec *iov; /* room for MAX_SEGMENTS */
};

/* 0, or the errno to answer with; `out->id` is valid either way. */
int decode_io(const struct memory *, const struct engine_device *, const uint8_t *raw,
              struct checked *out);
int decode_blkif(const struct memory *, const struct engine_device *, const uint8_t *raw,
                 struct checked *out);
/* The bytes of a response, padding zeroed; at most 16. */
void encode_response(uint32_t protocol, const struct checked *, int64_t result, uint8_t out[16]);

#endif
