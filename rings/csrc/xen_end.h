/* Either half of a Xen-style ring, by the same verbs.
 *
 *             front               back
 *   room      credit              requests taken and not answered
 *   claim     a request's slot    a response's slot
 *   publish   requests            responses
 *   ready     responses           requests
 *
 * What differs is only which words move; xen.h has both halves in full.
 */
#ifndef RINGS_XEN_END_H
#define RINGS_XEN_END_H

#include "xen.h"

struct xen_end {
    bool is_front;
    uint32_t put_size;  /* bytes of what this half puts */
    uint32_t take_size; /* bytes of what it takes */
    union {
        struct xen_front front;
        struct xen_back back;
    };
};

static inline struct xen_ring *end_ring(struct xen_end *end)
{
    return end->is_front ? &end->front.ring : &end->back.ring;
}

static inline void end_attach(struct xen_end *end, uint32_t start)
{
    if (end->is_front)
        xen_front_attach(&end->front, start);
    else
        xen_back_attach(&end->back, start);
}

static inline uint32_t end_room(const struct xen_end *end)
{
    return end->is_front ? xen_front_credit(&end->front) : xen_back_unserved(&end->back);
}

/* Requests this half has on its hands. */
static inline uint32_t end_in_flight(const struct xen_end *end)
{
    return end->is_front ? end->front.ring.nr_slots - xen_front_credit(&end->front)
                         : xen_back_unserved(&end->back);
}

static inline uint8_t *end_claim(struct xen_end *end)
{
    return end->is_front ? xen_front_claim(&end->front) : xen_back_claim(&end->back);
}

/* Give back the last `count` claimed slots; none of them may be published. */
static inline void end_unclaim(struct xen_end *end, uint32_t count)
{
    *(end->is_front ? &end->front.req_prod_pvt : &end->back.rsp_prod_pvt) -= count;
}

/* Claimed slots that the peer cannot see yet. */
static inline uint32_t end_unpublished(const struct xen_end *end)
{
    return end->is_front ? end->front.req_prod_pvt - load_relaxed(&end->front.req_published)
                         : end->back.rsp_prod_pvt - end->back.rsp_published;
}

static inline bool end_publish(struct xen_end *end)
{
    return end->is_front ? xen_front_publish(&end->front) : xen_back_publish(&end->back);
}

static inline int64_t end_ready(struct xen_end *end)
{
    return end->is_front ? xen_front_ready(&end->front) : xen_back_ready(&end->back);
}

static inline int64_t end_final_check(struct xen_end *end)
{
    return end->is_front ? xen_front_final_check(&end->front)
                         : xen_back_final_check(&end->back);
}

static inline void end_copy(const struct xen_end *end, uint32_t n, void *out)
{
    if (end->is_front)
        xen_front_copy(&end->front, n, out, end->take_size);
    else
        xen_back_copy(&end->back, n, out, end->take_size);
}

static inline void end_release(struct xen_end *end, uint32_t count)
{
    if (end->is_front)
        xen_front_release(&end->front, count);
    else
        end->back.req_cons += count;
}

static inline bool end_broken(const struct xen_end *end)
{
    return end->is_front ? end->front.broken : end->back.broken;
}

static inline uint32_t end_bad_prod(const struct xen_end *end)
{
    return end->is_front ? load_relaxed(&end->front.bad_prod) : end->back.bad_prod;
}

#endif
