/* A load on a ring: requests sent by a rule, and how long each one took.
 *
 * Closed loop: so many are kept in flight, each answer makes room for the next.
 * Open loop: requests arrive at moments of their own, whatever the ring does.  What
 * the ring has no room for waits (LOAD_BLOCK), waits in a queue of bounded length and
 * is lost beyond it (LOAD_SPILL), or is lost at once (LOAD_DROP, LOAD_ERROR).
 *
 * Two times are taken of each request.  `latency` begins when it was *meant* to be
 * sent: a sender that was held up cannot hide the wait of those behind (coordinated
 * omission).  `in_ring` begins when it was put into the ring: what Little's law is
 * about.  Latencies are counted in the buckets of HdrHistogram(1, 2**40 ns, 3 digits),
 * so a table of fixed size holds any number of them.
 *
 * Source: HdrHistogram's index of a value; Tene, "How NOT to measure latency".
 */
#ifndef RINGS_LOAD_H
#define RINGS_LOAD_H

#include "core.h"

enum load_policy { LOAD_BLOCK, LOAD_SPILL, LOAD_DROP, LOAD_ERROR };

enum { HDR_HALF_BITS = 10, HDR_MAX_BITS = 40, HDR_BUCKETS = HDR_MAX_BITS - HDR_HALF_BITS };
enum { HDR_COUNTS = (HDR_BUCKETS + 1) << HDR_HALF_BITS };

struct load_sums {
    uint64_t submitted, answered, failed, dropped;     /* of the whole run */
    uint64_t measured, in_ring_ns;                     /* answered while it was watched */
    uint64_t offered;                                  /* arrivals while it was watched */
    uint64_t full, blocked_ns, late, late_ns, late_max_ns; /* likewise */
    uint64_t gap_max_ns; /* the longest time in which nothing was answered, likewise */
};

/* One request in flight: the buffer slot with its number is its alone. */
struct load_stamp {
    uint64_t meant_ns, put_ns;
};

struct load {
    uint64_t from_ns, until_ns; /* watched */
    uint64_t answered_ns;       /* when last, while it was watched */
    uint32_t in_flight;
    uint32_t nr_free;
    uint32_t *free; /* buffer slots */
    struct load_stamp *stamps;
    uint64_t *counts; /* HDR_COUNTS words */
    struct load_sums sums;
};

static inline uint32_t hdr_index(uint64_t value)
{
    uint64_t largest = (1ull << HDR_MAX_BITS) - 1;
    if (value > largest)
        value = largest;
    uint64_t least = (2u << HDR_HALF_BITS) - 1;
    uint32_t bucket = 63 - HDR_HALF_BITS - (uint32_t)__builtin_clzll(value | least);
    return (bucket << HDR_HALF_BITS) + (uint32_t)(value >> bucket);
}

static inline bool load_watches(const struct load *load, uint64_t now)
{
    return load->from_ns <= now && now < load->until_ns;
}

/* An arrival was noticed so long after its moment: the sender's own lateness. */
static inline void load_late(struct load_sums *sums, uint64_t late_ns)
{
    sums->late++;
    sums->late_ns += late_ns;
    if (late_ns > sums->late_max_ns)
        sums->late_max_ns = late_ns;
}

static inline void load_answered(struct load *load, uint64_t part, int64_t result, uint64_t now)
{
    const struct load_stamp *stamp = &load->stamps[part];
    load->free[load->nr_free++] = (uint32_t)part;
    load->in_flight--;
    load->sums.answered++;
    load->sums.failed += result < 0;
    if (!load_watches(load, now))
        return;
    if (load->answered_ns != 0 && now - load->answered_ns > load->sums.gap_max_ns)
        load->sums.gap_max_ns = now - load->answered_ns;
    load->answered_ns = now;
    load->sums.measured++;
    load->sums.in_ring_ns += now - stamp->put_ns;
    load->counts[hdr_index(now - stamp->meant_ns)]++;
}

#endif
