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
 * two always sees the other (tests/model/notify.pml): request-announced pairs with
 * request-awaited, response-announced with response-awaited.
 *
 * Source: Xen, xen/include/public/io/ring.h (Deegan and Warfield, 2004).
 * Offsets: docs/LAYOUT.md.
 */
#ifndef RINGS_XEN_H
#define RINGS_XEN_H

#include "core.h"

enum ring_layout { RING_XEN = 0, RING_PADDED = 1 };
enum { MAX_SLOTS = 1 << 16, MAX_SLOT_SIZE = 4096 };

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

/* Write a fresh header: the creator does this once, before anyone attaches.  What
 * hands the memory over (a region's magic, a socket) publishes it. */
static inline void xen_init(struct xen_ring *ring, enum ring_layout layout, uint32_t start)
{
    uint8_t *base = ring->slots - xen_header_size(layout);
    memset(base, 0, xen_header_size(layout));
    store_relaxed(ring->req_prod, start);
    store_relaxed(ring->rsp_prod, start);
    store_relaxed(ring->req_event, start + 1);
    store_relaxed(ring->rsp_event, start + 1);
}

static inline uint8_t *xen_slot(const struct xen_ring *ring, uint32_t index)
{
    return ring->slots + (size_t)(index & (ring->nr_slots - 1)) * ring->slot_size;
}

/* Copy a slot to private memory.  The empty statement keeps the compiler from
 * using the slot in the copy's stead: the peer may change it after our checks. */
static inline void xen_copy(const struct xen_ring *ring, uint32_t index, void *out, size_t size)
{
    memcpy(out, xen_slot(ring, index), size);
    __asm__ __volatile__("" : : "r"(out) : "memory");
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
    uint32_t req_prod_pvt;    /* claimed so far */
    shared_u32 req_published; /* what the shared word says; one stores, others may look */
    shared_u32 rsp_cons;      /* taken so far; one thread stores, others may look */
    shared_u32 bad_prod;      /* the rsp_prod that broke the ring */
    _Atomic bool broken;
};

static inline void xen_front_attach(struct xen_front *front, uint32_t start)
{
    front->req_prod_pvt = start;
    atomic_init(&front->req_published, start);
    atomic_init(&front->rsp_cons, start);
    atomic_init(&front->bad_prod, start);
    atomic_init(&front->broken, false);
}

/* Go on with a ring's place in another struct; nobody else may look at either. */
static inline void xen_front_move(struct xen_front *to, const struct xen_front *from)
{
    xen_front_attach(to, from->req_prod_pvt);
    to->ring = from->ring;
    store_relaxed(&to->req_published, load_relaxed(&from->req_published));
    store_relaxed(&to->rsp_cons, load_relaxed(&from->rsp_cons));
    store_relaxed(&to->bad_prod, load_relaxed(&from->bad_prod));
    to->broken = from->broken;
}

/* Whether every request published was answered, and the answer taken. */
static inline bool xen_front_idle(const struct xen_front *front)
{
    return load_relaxed(&front->req_published) == load_relaxed(&front->rsp_cons);
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
    uint32_t old = load_relaxed(&front->req_published);
    uint32_t new = front->req_prod_pvt;
    if (old == new)
        return false;
    store_relaxed(&front->req_published, new);
    /* release: request-published; full barrier: request-announced. */
    return xen_push(front->ring.req_prod, front->ring.req_event, old, new);
}

/* How many responses `prod` makes ready: no more than were asked for, or the back
 * is broken, and stays so. */
static inline int64_t xen_front_count(struct xen_front *front, uint32_t cons, uint32_t prod)
{
    uint32_t ready = prod - cons;
    if (front->broken)
        return -1;
    if (ready <= load_relaxed(&front->req_published) - cons)
        return ready;
    store_relaxed(&front->bad_prod, prod);
    front->broken = true;
    return -1;
}

/* Responses ready to be taken, or -1 if rsp_prod is impossible: the back is broken. */
static inline int64_t xen_front_ready(struct xen_front *front)
{
    /* acquire: response-taken. Before rsp_prod, which then cannot be older. */
    uint32_t cons = load_acquire(&front->rsp_cons);
    /* acquire: response-published. */
    return xen_front_count(front, cons, load_acquire(front->ring.rsp_prod));
}

/* Copy response number `n` of the ready ones out of the ring. */
static inline void xen_front_copy(const struct xen_front *front, uint32_t n, void *out, size_t size)
{
    xen_copy(&front->ring, load_relaxed(&front->rsp_cons) + n, out, size);
}

static inline void xen_front_release(struct xen_front *front, uint32_t count)
{
    /* release: response-taken. */
    store_release(&front->rsp_cons, load_relaxed(&front->rsp_cons) + count);
}

/* Ask to be told of the next response, and look once more: ready count or -1.  One
 * thread at a time: an older `cons` stored later would disarm a sleeper. */
static inline int64_t xen_front_final_check(struct xen_front *front)
{
    int64_t ready = xen_front_ready(front);
    if (ready != 0)
        return ready;
    /* acquire: response-taken. */
    uint32_t cons = load_acquire(&front->rsp_cons);
    /* full barrier: response-awaited. */
    store_seq_cst(front->ring.rsp_event, cons + 1);
    /* acquire: response-published; an acquire alone could overtake the store. */
    return xen_front_count(front, cons, load_seq_cst(front->ring.rsp_prod));
}

/* ---- back -------------------------------------------------------------- */

struct xen_back {
    struct xen_ring ring;
    uint32_t rsp_prod_pvt;
    uint32_t rsp_published;
    uint32_t req_cons;
    uint32_t bad_prod; /* the req_prod that broke the ring */
    bool broken;
};

static inline void xen_back_attach(struct xen_back *back, uint32_t start)
{
    back->rsp_prod_pvt = back->rsp_published = back->req_cons = back->bad_prod = start;
    back->broken = false;
}

/* How many requests `prod` makes ready: no more than the front has slots for, or
 * the front is broken, and stays so. */
static inline int64_t xen_back_count(struct xen_back *back, uint32_t prod)
{
    uint32_t ready = prod - back->req_cons;
    if (back->broken)
        return -1;
    if (ready <= back->ring.nr_slots - (back->req_cons - back->rsp_published))
        return ready;
    back->bad_prod = prod;
    back->broken = true;
    return -1;
}

/* Requests ready to be taken, or -1 if req_prod is impossible: the front is broken. */
static inline int64_t xen_back_ready(struct xen_back *back)
{
    /* acquire: request-published. */
    return xen_back_count(back, load_acquire(back->ring.req_prod));
}

/* Copy request number `n` of the ready ones out of the ring. */
static inline void xen_back_copy(const struct xen_back *back, uint32_t n, void *out, size_t size)
{
    xen_copy(&back->ring, back->req_cons + n, out, size);
}

/* Copy the next request out of the ring; call only when one is ready. */
static inline void xen_back_take(struct xen_back *back, void *out, size_t size)
{
    xen_copy(&back->ring, back->req_cons++, out, size);
}

/* Requests taken and not yet answered: the responses that may still be claimed. */
static inline uint32_t xen_back_unserved(const struct xen_back *back)
{
    return back->req_cons - back->rsp_prod_pvt;
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
    /* acquire: request-published; an acquire alone could overtake the store. */
    return xen_back_count(back, load_seq_cst(back->ring.req_prod));
}

#endif
