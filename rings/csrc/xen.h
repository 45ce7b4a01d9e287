/* Xen-style request/response ring: one array of slots, used twice.
 *
 *      rsp_cons      rsp_prod      req_cons      req_prod
 *         |             |             |             |
 *   ------+-------------+-------------+-------------+------>  index
 *    free |  responses  |  in service |   requests  | free
 *         |  published  |  by backend |  published  |
 *
 *   rsp_cons <= rsp_prod <= req_cons <= req_prod <= rsp_cons + slots
 *
 * Indices count up for ever modulo 2^32; only `index & mask` names a slot and
 * every comparison is a difference.  req_prod and rsp_event belong to the
 * front, rsp_prod and req_event to the back; req_cons and rsp_cons are private
 * and never in shared memory.  Neither half ever reads back a word of its own:
 * the peer could have changed it.
 *
 * Announce, look again, only then sleep: publish is a full-barrier store and
 * then a look at the peer's event word; the final check is a full-barrier store
 * of the event word and then a look at the peer's producer index.  One of the
 * two always sees the other (tests/model/notify.pml).
 *
 * Source: Xen, xen/include/public/io/ring.h (Deegan and Warfield, 2004).
 * Offsets: docs/LAYOUT.md.
 */
#ifndef RINGS_XEN_H
#define RINGS_XEN_H

#include "core.h"

enum ring_layout { RING_XEN = 0, RING_PADDED = 1 };

struct xen_header {
    shared_u32 req_prod;
    shared_u32 req_event;
    shared_u32 rsp_prod;
    shared_u32 rsp_event;
    uint8_t pad[48];
};
_Static_assert(offsetof(struct xen_header, req_prod) == 0, "LAYOUT.md");
_Static_assert(offsetof(struct xen_header, req_event) == 4, "LAYOUT.md");
_Static_assert(offsetof(struct xen_header, rsp_prod) == 8, "LAYOUT.md");
_Static_assert(offsetof(struct xen_header, rsp_event) == 12, "LAYOUT.md");
_Static_assert(sizeof(struct xen_header) == 64, "LAYOUT.md");

struct padded_header {
    shared_u32 req_prod;
    shared_u32 rsp_event;
    uint8_t front_pad[120];
    shared_u32 rsp_prod;
    shared_u32 req_event;
    uint8_t back_pad[120];
};
_Static_assert(offsetof(struct padded_header, req_prod) == 0, "LAYOUT.md");
_Static_assert(offsetof(struct padded_header, rsp_event) == 4, "LAYOUT.md");
_Static_assert(offsetof(struct padded_header, rsp_prod) == 128, "LAYOUT.md");
_Static_assert(offsetof(struct padded_header, req_event) == 132, "LAYOUT.md");
_Static_assert(sizeof(struct padded_header) == 256, "LAYOUT.md");

/* One ring seen by one process: four words, the slots, the sizes. */
struct xen_ring {
    shared_u32 *req_prod;
    shared_u32 *req_event;
    shared_u32 *rsp_prod;
    shared_u32 *rsp_event;
    uint8_t *slots;
    uint32_t nr_slots;
    uint32_t slot_size;
};

static inline size_t xen_header_size(enum ring_layout layout)
{
    return layout == RING_XEN ? sizeof(struct xen_header) : sizeof(struct padded_header);
}

/* Bind a ring to memory.  False if the numbers do not fit it. */
static inline bool xen_bind(struct xen_ring *ring, void *base, size_t size,
                            enum ring_layout layout, uint32_t nr_slots, uint32_t slot_size)
{
    if (!is_power_of_two(nr_slots) || slot_size == 0 || (uintptr_t)base % 8 != 0)
        return false;
    if (size < xen_header_size(layout) ||
        (size - xen_header_size(layout)) / slot_size < nr_slots)
        return false;
    if (layout == RING_XEN) {
        struct xen_header *header = base;
        ring->req_prod = &header->req_prod;
        ring->req_event = &header->req_event;
        ring->rsp_prod = &header->rsp_prod;
        ring->rsp_event = &header->rsp_event;
    } else {
        struct padded_header *header = base;
        ring->req_prod = &header->req_prod;
        ring->req_event = &header->req_event;
        ring->rsp_prod = &header->rsp_prod;
        ring->rsp_event = &header->rsp_event;
    }
    ring->slots = (uint8_t *)base + xen_header_size(layout);
    ring->nr_slots = nr_slots;
    ring->slot_size = slot_size;
    return true;
}

/* Write a fresh header: the creator does this once, before anyone attaches. */
static inline void xen_init(struct xen_ring *ring, enum ring_layout layout, uint32_t start)
{
    uint8_t *base = ring->slots - xen_header_size(layout);
    memset(base, 0, xen_header_size(layout));
    store_relaxed(ring->req_prod, start);
    store_relaxed(ring->rsp_prod, start);
    store_relaxed(ring->req_event, start + 1);
    store_release(ring->rsp_event, start + 1);
}

static inline uint8_t *xen_slot(const struct xen_ring *ring, uint32_t index)
{
    return ring->slots + (size_t)(index & (ring->nr_slots - 1)) * ring->slot_size;
}

/* Store a producer index so that the peer sees whole slots, then ask whether the
 * peer wants to be told: whether its event word lies in (old, new]. */
static inline bool xen_push(shared_u32 *prod, const shared_u32 *event, uint32_t old, uint32_t new)
{
    store_seq_cst(prod, new);
    return (uint32_t)(new - load_seq_cst(event)) < (uint32_t)(new - old);
}

/* ---- front ------------------------------------------------------------- */

struct xen_front {
    struct xen_ring ring;
    uint32_t req_prod_pvt;  /* claimed so far */
    uint32_t req_published; /* what the shared word says */
    shared_u32 rsp_cons;    /* taken so far; one thread stores, others may look */
    bool broken;
};

static inline void xen_front_attach(struct xen_front *front, uint32_t start)
{
    front->req_prod_pvt = front->req_published = start;
    atomic_init(&front->rsp_cons, start);
    front->broken = false;
}

/* Requests that may still be claimed. */
static inline uint32_t xen_front_credit(const struct xen_front *front)
{
    /* acquire: response-taken. A slot is written again only after it was read. */
    return front->ring.nr_slots - (front->req_prod_pvt - load_acquire(&front->rsp_cons));
}

/* The next free slot, for writing; call only with credit. */
static inline uint8_t *xen_front_claim(struct xen_front *front)
{
    return xen_slot(&front->ring, front->req_prod_pvt++);
}

/* True if the back asked to be notified of one of these requests. */
static inline bool xen_front_publish(struct xen_front *front)
{
    uint32_t old = front->req_published;
    if (old == front->req_prod_pvt)
        return false;
    front->req_published = front->req_prod_pvt;
    /* release: request-published; full barrier: request-announced. */
    return xen_push(front->ring.req_prod, front->ring.req_event, old, front->req_published);
}

/* Responses ready to be taken, or -1 if rsp_prod is impossible: the back is broken. */
static inline int64_t xen_front_ready(struct xen_front *front)
{
    uint32_t cons = load_relaxed(&front->rsp_cons);
    /* acquire: response-published. */
    uint32_t ready = load_acquire(front->ring.rsp_prod) - cons;
    if (ready > (uint32_t)(front->req_published - cons)) {
        front->broken = true;
        return -1;
    }
    return ready;
}

/* Copy response number `n` of the ready ones out of the ring. */
static inline void xen_front_copy(const struct xen_front *front, uint32_t n, void *out, size_t size)
{
    memcpy(out, xen_slot(&front->ring, load_relaxed(&front->rsp_cons) + n), size);
}

static inline void xen_front_release(struct xen_front *front, uint32_t count)
{
    /* release: response-taken. */
    store_release(&front->rsp_cons, load_relaxed(&front->rsp_cons) + count);
}

/* Ask to be told of the next response, and look once more: ready count or -1. */
static inline int64_t xen_front_final_check(struct xen_front *front)
{
    int64_t ready = xen_front_ready(front);
    if (ready != 0)
        return ready;
    /* full barrier: response-awaited. */
    store_seq_cst(front->ring.rsp_event, load_relaxed(&front->rsp_cons) + 1);
    return xen_front_ready(front);
}

/* ---- back -------------------------------------------------------------- */

struct xen_back {
    struct xen_ring ring;
    uint32_t rsp_prod_pvt;
    uint32_t rsp_published;
    uint32_t req_cons;
    bool broken;
};

static inline void xen_back_attach(struct xen_back *back, uint32_t start)
{
    back->rsp_prod_pvt = back->rsp_published = back->req_cons = start;
    back->broken = false;
}

/* Requests ready to be taken, or -1 if req_prod is impossible: the front is broken. */
static inline int64_t xen_back_ready(struct xen_back *back)
{
    /* acquire: request-published. */
    uint32_t prod = load_acquire(back->ring.req_prod);
    uint32_t ready = prod - back->req_cons;
    if (ready > back->ring.nr_slots - (back->req_cons - back->rsp_published)) {
        back->broken = true;
        return -1;
    }
    return ready;
}

/* Copy the next request out of the ring; call only when one is ready. */
static inline void xen_back_take(struct xen_back *back, void *out, size_t size)
{
    memcpy(out, xen_slot(&back->ring, back->req_cons), size);
    back->req_cons++;
}

/* The slot of the next response, for writing: always the slot of a taken request. */
static inline uint8_t *xen_back_claim(struct xen_back *back)
{
    return xen_slot(&back->ring, back->rsp_prod_pvt++);
}

/* True if the front asked to be notified of one of these responses. */
static inline bool xen_back_publish(struct xen_back *back)
{
    uint32_t old = back->rsp_published;
    if (old == back->rsp_prod_pvt)
        return false;
    back->rsp_published = back->rsp_prod_pvt;
    /* release: response-published; full barrier: response-announced. */
    return xen_push(back->ring.rsp_prod, back->ring.rsp_event, old, back->rsp_published);
}

/* Ask to be told of the next request, and look once more: ready count or -1. */
static inline int64_t xen_back_final_check(struct xen_back *back)
{
    int64_t ready = xen_back_ready(back);
    if (ready != 0)
        return ready;
    /* full barrier: request-awaited. */
    store_seq_cst(back->ring.req_event, back->req_cons + 1);
    return xen_back_ready(back);
}

#endif
