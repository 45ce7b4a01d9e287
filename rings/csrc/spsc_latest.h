/* A consumer that wants the newest message: what is older is skipped and counted.
 *
 * Skipping is one release of many units, and the count lies in another word than
 * cons; a consumer killed between the two would leave a wrong count behind.  So it
 * first says what it is about to do, in this order, and then does it:
 *
 *   1  skip_cons = where cons will be      3  cons = skip_cons
 *   2  skip_lost = what lost will be       4  lost = skip_lost
 *
 * A successor that finds cons at skip_cons knows that the skip was done, and counts
 * it unless that was done too: lost only grows.  One that finds cons elsewhere knows
 * that it was not, and withdraws it, lest cons come to that place in another way.
 *
 * Source: ours.
 */
#ifndef RINGS_SPSC_LATEST_H
#define RINGS_SPSC_LATEST_H

#include "spsc.h"

/* Messages before the newest of `ready` units, and their units: -1 if broken. */
static inline int64_t spsc_count_older(struct spsc_end *end, uint32_t ready, uint32_t *units)
{
    struct spsc_found found;
    uint32_t at = 0;
    int64_t count = -1;
    *units = ready - 1;
    if (!end->records)
        return ready - 1;
    for (; at < ready; count++) {
        if (!spsc_record_find(end, end->index + at, ready - at, &found))
            return -1;
        *units = at;
        at += found.units;
    }
    return count;
}

/* Give `units` back unread, as so many messages lost: true if the producer asked to be told. */
static inline bool spsc_skip(struct spsc_end *end, struct owned_end *mine, uint32_t units,
                             uint64_t messages)
{
    struct spsc_header *header = end->header;
    uint64_t lost = atomic_load_explicit(&mine->lost, memory_order_relaxed) + messages;
    store_relaxed(&header->skip_cons, end->index + units);
    /* release: skip-intended. */
    atomic_store_explicit(&header->skip_lost, lost, memory_order_release);
    bool tell = spsc_release(end, units);
    atomic_store_explicit(&mine->lost, lost, memory_order_release);
    return tell;
}

/* What a consumer does that has just taken the end: finish or withdraw a skip. */
static inline void spsc_settle_skip(struct spsc_end *end, struct owned_end *mine)
{
    struct spsc_header *header = end->header;
    /* acquire: skip-intended. */
    uint64_t lost = atomic_load_explicit(&header->skip_lost, memory_order_acquire);
    bool done = load_relaxed(&header->skip_cons) == end->index;
    if (done && lost > atomic_load_explicit(&mine->lost, memory_order_relaxed))
        atomic_store_explicit(&mine->lost, lost, memory_order_relaxed);
    atomic_store_explicit(&header->skip_lost, 0, memory_order_release);
}

#endif
