/* How full a ring was: for how long each number of requests was in flight.
 *
 *   in flight
 *     3 |         +----+                 time_ns[n]   how long n were in flight
 *     2 |    +----+    +------+          slice_ns[i]  the area under the curve in
 *     1 |----+                +---                    slice i of the time watched
 *       +--|---------|---------|---> t
 *        from     slice     until
 *
 * The one who moves the ring's indices tells the new number, with the time; what lies
 * before `from` and after `until` is cut off.  Under the mutex of the front.
 */
#ifndef RINGS_GAUGE_H
#define RINGS_GAUGE_H

#include "core.h"

enum { GAUGE_SLICES = 120 };

struct gauge {
    uint64_t from_ns, until_ns, slice_len_ns;
    uint64_t last_ns;
    uint32_t in_flight, slots;
    uint64_t *time_ns;  /* slots + 1 words */
    uint64_t *slice_ns; /* GAUGE_SLICES words */
};

static inline void gauge_init(struct gauge *gauge, uint64_t *words, uint32_t slots,
                              uint64_t from_ns, uint64_t until_ns)
{
    *gauge = (struct gauge){.from_ns = from_ns, .until_ns = until_ns, .slots = slots,
                            .time_ns = words, .slice_ns = words + slots + 1};
    gauge->slice_len_ns = (until_ns - from_ns + GAUGE_SLICES - 1) / GAUGE_SLICES;
}

/* Spread `in_flight` over the slices from one moment to another, both watched. */
static inline void gauge_spread(struct gauge *gauge, uint64_t begin, uint64_t end)
{
    while (begin < end) {
        uint64_t slice = (begin - gauge->from_ns) / gauge->slice_len_ns;
        uint64_t limit = gauge->from_ns + (slice + 1) * gauge->slice_len_ns;
        uint64_t stop = end < limit ? end : limit;
        gauge->slice_ns[slice] += (stop - begin) * gauge->in_flight;
        begin = stop;
    }
}

/* From now on, so many are in flight. */
static inline void gauge_note(struct gauge *gauge, uint64_t now, uint32_t in_flight)
{
    uint64_t begin = gauge->last_ns > gauge->from_ns ? gauge->last_ns : gauge->from_ns;
    uint64_t end = now < gauge->until_ns ? now : gauge->until_ns;
    if (begin < end) {
        gauge->time_ns[gauge->in_flight] += end - begin;
        gauge_spread(gauge, begin, end);
    }
    if (now > gauge->last_ns)
        gauge->last_ns = now;
    gauge->in_flight = in_flight < gauge->slots ? in_flight : gauge->slots;
}

#endif
