/* Messages by reference: bytes in a pool beside a ring of records.
 *
 *        oldest loan            newest loan
 *   +---------+#############+######+----------------+
 *   |  free   |   referred to by records in the ring |  pool
 *   +---------+#############+######+----------------+
 *             from                 to
 *
 * A long message is copied once into the pool, and a record of 16 bytes says where
 * it lies.  Records are released in order, so the pool is a ring too: each message
 * lies in one piece behind the one before, or at the beginning if it does not fit
 * before the end, and always at the beginning when nothing is lent.
 *
 * The pool has no shared word of its own.  What is lent is what the records between
 * cons and prod refer to, and nothing else: a producer that dies before it published
 * has lent nothing, a consumer that dies before it released gives nothing back, and
 * the successor of a producer reads the records to learn what the first one knew.
 * Only a producer writes records, so it may read its own while the consumer lives.
 *
 * The producer remembers its loans privately, oldest first, by the index behind each
 * record: cons at or past it means that the bytes are back.  A claim at `index` looks
 * at loans in (cons, index] only, so one long back is never taken for one still out.
 * Who waits for room waits for that index, with the event word of the ring.
 *
 * Source: ours; the byte ring is that of spsc.h.  docs/RATIONALE.md has why no blocks.
 */
#ifndef RINGS_SPSC_POOL_H
#define RINGS_SPSC_POOL_H

#include "spsc.h"

enum { SPSC_LOANS = 256 }; /* messages by reference in the ring at once */

#define SPSC_NOWHERE UINT64_MAX

struct spsc_loan {
    uint32_t after; /* index behind the record */
    uint64_t from, to;
};

struct spsc_loans {
    uint32_t first, count;
    struct spsc_loan loan[SPSC_LOANS];
};

static inline bool spsc_goes_by_reference(const struct spsc_end *end, uint64_t length)
{
    return length > end->inline_max;
}

/* The longest message that the ring takes in either way. */
static inline uint64_t spsc_max_size(const struct spsc_end *end)
{
    return end->pool_size > end->inline_max ? end->pool_size : end->inline_max;
}

/* Units that a message takes in the ring at `index`. */
static inline uint32_t spsc_message_need(const struct spsc_end *end, uint32_t index,
                                         uint64_t length)
{
    if (spsc_goes_by_reference(end, length))
        length = sizeof(struct spsc_reference);
    return spsc_record_need(end, index, length);
}

static inline uint64_t spsc_loan_size(uint64_t length)
{
    return length == 0 ? CACHE_LINE : (length + CACHE_LINE - 1) & ~(uint64_t)(CACHE_LINE - 1);
}

/* The i-th loan from the oldest. */
static inline struct spsc_loan *spsc_loan(const struct spsc_end *end, uint32_t i)
{
    return &end->loans->loan[(end->loans->first + i) % SPSC_LOANS];
}

static inline bool spsc_lend(struct spsc_end *end, uint32_t after, uint64_t from, uint64_t length)
{
    if (end->loans->count == SPSC_LOANS || spsc_loan_size(length) > end->pool_size - from)
        return false;
    struct spsc_loan *loan = spsc_loan(end, end->loans->count++);
    *loan = (struct spsc_loan){after, from, from + spsc_loan_size(length)};
    return true;
}

/* Take the newest `count` loans back: their records were not published. */
static inline void spsc_unlend(struct spsc_end *end, uint32_t count)
{
    end->loans->count -= count;
}

/* Forget the loans whose records the consumer has released, as far as `seen` tells. */
static inline void spsc_settle_loans(struct spsc_end *end, uint32_t index)
{
    struct spsc_loans *loans = end->loans;
    while (loans->count != 0 &&
           (uint32_t)(spsc_loan(end, 0)->after - end->seen - 1) >= (uint32_t)(index - end->seen)) {
        loans->first = (loans->first + 1) % SPSC_LOANS;
        loans->count--;
    }
}

/* Where `length` bytes would lie once the oldest `back` loans are back. */
static inline uint64_t spsc_pool_place(const struct spsc_end *end, uint32_t back, uint64_t length)
{
    uint32_t count = end->loans->count;
    if (back == count)
        return length <= end->pool_size ? 0 : SPSC_NOWHERE;
    if (count - back == SPSC_LOANS)
        return SPSC_NOWHERE;
    uint64_t from = spsc_loan(end, back)->from, to = spsc_loan(end, count - 1)->to;
    uint64_t size = spsc_loan_size(length);
    if (to <= from)
        return size <= from - to ? to : SPSC_NOWHERE;
    if (size <= end->pool_size - to)
        return to;
    return size <= from ? 0 : SPSC_NOWHERE;
}

/* What is rare: that a message has room in ring and pool.  Always looks at cons again. */
__attribute__((cold)) static inline int
spsc_reference_fits(struct spsc_end *end, uint32_t index, uint32_t want, uint64_t length)
{
    int64_t room = spsc_room(end, end->units + 1);
    if (room < want)
        return room < 0 ? -1 : 0;
    spsc_settle_loans(end, index);
    return spsc_pool_place(end, 0, length) != SPSC_NOWHERE;
}

/* Whether a message that needs `units` at `index` has room: 1, 0, or -1 if broken.
 * `index` lies behind records that are filled and not yet published. */
static inline int spsc_message_fits(struct spsc_end *end, uint32_t index, uint32_t units,
                                    uint64_t length)
{
    uint32_t want = index - end->index + units;
    if (__builtin_expect(spsc_goes_by_reference(end, length), 0))
        return spsc_reference_fits(end, index, want, length);
    int64_t room = spsc_room(end, want);
    return room >= want ? 1 : room < 0 ? -1 : 0;
}

__attribute__((cold)) static inline uint8_t *
spsc_reference_claim(struct spsc_end *end, uint32_t index, uint64_t length)
{
    struct spsc_reference to = {spsc_pool_place(end, 0, length), length};
    uint32_t units = spsc_record_need(end, index, sizeof to);
    memcpy(spsc_record_place(end, index, sizeof to, SPSC_REFERENCE), &to, sizeof to);
    spsc_lend(end, index + units, to.offset, length);
    return end->pool + to.offset;
}

/* Where the bytes of a message go that spsc_message_fits has found room for. */
static inline uint8_t *spsc_message_claim(struct spsc_end *end, uint32_t index, uint64_t length)
{
    if (__builtin_expect(spsc_goes_by_reference(end, length), 0))
        return spsc_reference_claim(end, index, length);
    return spsc_record_claim(end, index, (uint32_t)length);
}

/* Make the message claimed last, whose record begins at `index`, shorter. */
static inline void spsc_message_cut(struct spsc_end *end, uint32_t index, uint64_t length)
{
    struct spsc_loan *loan = spsc_loan(end, end->loans->count - 1);
    struct spsc_reference to = {loan->from, length};
    memcpy(spsc_unit(end, index) + SPSC_RECORD_HEADER, &to, sizeof to);
    loan->to = loan->from + spsc_loan_size(length);
}

/* Index that cons has to reach until a message fits. */
static inline uint32_t spsc_message_awaited(struct spsc_end *end, uint32_t units, uint64_t length)
{
    uint32_t awaited = end->index + units - end->units, back = 0;
    if (!spsc_goes_by_reference(end, length))
        return awaited;
    while (spsc_pool_place(end, back, length) == SPSC_NOWHERE)
        back++;
    if (back == 0)
        return awaited;
    uint32_t after = spsc_loan(end, back - 1)->after;
    return end->index - after < end->index - awaited ? after : awaited;
}

/* Ask to be told when a message fits, and `few` units are free, or else one is told of
 * each; and look once more: 1 it fits, 0, or -1 if broken. */
static inline int spsc_await_fit(struct spsc_end *end, uint32_t units, uint64_t length,
                                 uint32_t few)
{
    uint32_t want = spsc_message_awaited(end, units, length) - end->index + end->units;
    if (spsc_await_room(end, want > few ? want : few) < 0)
        return -1;
    return spsc_message_fits(end, end->index, units, length);
}

/* Learn from the records what is lent: false, and broken, if they cannot be. */
static inline bool spsc_recall_loans(struct spsc_end *end, struct spsc_loans *loans)
{
    struct spsc_found found;
    end->loans = loans;
    loans->first = loans->count = 0;
    for (uint32_t index = end->seen; index != end->index;) {
        if (!spsc_record_find(end, index, end->index - index, &found))
            return false;
        index += found.units;
        if (found.by_reference &&
            !spsc_lend(end, index, (uint64_t)(found.bytes - end->pool), found.length))
            end->broken = true;
    }
    return !end->broken;
}

#endif
