/* One producer, one consumer: messages through a ring in shared memory.
 *
 *          cons                     prod
 *           |                        |
 *   --------+------------------------+-------------->  index, in units
 *     free  |  published, not taken  |  free
 *
 *   cons <= prod <= cons + units, all differences modulo 2^32
 *
 * A unit is a whole slot in a ring of fixed-size messages, and eight bytes in a
 * ring of records, where a message is an eight-byte header {length, kind}, its
 * bytes, and padding to the next unit.  A record never wraps: when it does not
 * fit before the end of the array, a header of kind WRAP gives the rest away.
 * No message takes more than half the ring, so an empty ring always has room; a
 * longer one goes by reference, through a pool beside the ring (spsc_pool.h).
 *
 * prod and cons lie on cache lines of their own, each end remembers what it last
 * saw of the other's, and looks again only when that is not enough.  The event
 * words lie on lines of their own too: they change when somebody goes to sleep,
 * and are read at every publish.  An end never reads its own word back.
 *
 * Announce, look again, only then sleep, as in xen.h: publish is a full-barrier
 * store of the index and then a look at the peer's event word; the final check is a
 * full-barrier store of the event word and then a look at the peer's index.  One of
 * the two always sees the other.
 *
 * A *light* publish has no barrier, and then the sleeper runs it for both, between
 * its two steps (barrier.h).  `prod_light` says that prod is published so; who sleeps
 * looks at it after it has announced, and nothing else decides:
 *
 *   publisher            light = 1, full barrier    ..    light = 0, full barrier
 *                        then publish lightly             then publish fully
 *   sleeper     event = .., full barrier; if light: heavy barrier; look at the index
 *
 * If it reads 1, the heavy barrier is there.  If it reads the 0 from before, its
 * event word was stored before the publisher turned, and every light publish sees it.
 * If it reads the 0 from after, all that was published lightly is there to see.
 *
 * When to turn is the sleeper's to say, in `prod_wish`, beside the event word that
 * the publisher reads anyway: never without a heavy barrier of its own, and not while
 * there is a sleep every few messages, since one heavy barrier costs as much as
 * hundreds of full ones.  A wish binds nobody: a publisher whose process is not
 * registered stays with full barriers, and each owner of an end begins with them.
 *
 * The peer belongs to the same trust domain, yet what it writes is bounded before
 * use: an index that ran backwards or past the ring, or a length past what was
 * published, makes the end broken and touches nothing outside the ring.
 *
 * Source: the cached peer index is Rigtorp's SPSCQueue; the event words are Xen's
 * ring.h.  Offsets: docs/LAYOUT.md.
 */
#ifndef RINGS_SPSC_H
#define RINGS_SPSC_H

#include "barrier.h"
#include "core.h"
#include "owner.h"

enum spsc_mode { SPSC_FIXED = 0, SPSC_RECORDS = 1 };
enum { SPSC_RECORD_UNIT = 8, SPSC_RECORD_HEADER = 8 };
enum spsc_kind { SPSC_MESSAGE = 0, SPSC_WRAP = 1, SPSC_REFERENCE = 2 };
enum { SPSC_WORTH = 16384, SPSC_NAPS = 4 }; /* messages a sleep; sleeps in a row with fewer */

struct spsc_header {
    uint8_t region[64];
    uint32_t mode;
    uint32_t units; /* a power of two */
    uint32_t unit_size;
    uint32_t start; /* index of the first message */
    uint64_t data_offset;
    uint64_t data_size;
    uint64_t dtype; /* fingerprint of the messages' type, 0 if untyped */
    uint8_t pad0[24];
    uint64_t pool_offset;
    uint64_t pool_size;  /* 0: no message goes by reference */
    uint32_t inline_max; /* longer ones do */
    uint8_t pad7[44];
    shared_u64 skip_lost; /* by a consumer that skips: see spsc_latest.h */
    shared_u32 skip_cons;
    uint8_t pad8[52];
    shared_u32 prod; /* by the producer */
    shared_u32 prod_light; /* by the producer: it publishes without a barrier */
    uint8_t pad1[120];
    shared_u32 cons; /* by the consumer */
    shared_u32 cons_light; /* by the consumer: it releases without a barrier */
    uint8_t pad2[120];
    shared_u32 prod_event; /* by the consumer: tell me when prod passes this */
    shared_u32 prod_wish;  /* by the consumer: publish lightly */
    uint8_t pad3[120];
    shared_u32 cons_event; /* by the producer: tell me when cons passes this */
    shared_u32 cons_wish;  /* by the producer: release lightly */
    uint8_t pad4[120];
    struct owned_end producer;
    uint8_t pad5[104];
    struct owned_end consumer;
    uint8_t pad6[104];
};
_Static_assert(offsetof(struct spsc_header, mode) == 64, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, units) == 68, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, unit_size) == 72, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, start) == 76, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, data_offset) == 80, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, data_size) == 88, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, dtype) == 96, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, pool_offset) == 128, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, pool_size) == 136, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, inline_max) == 144, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, skip_lost) == 192, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, skip_cons) == 200, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, prod) == 256, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, prod_light) == 260, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, cons) == 384, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, cons_light) == 388, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, prod_event) == 512, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, prod_wish) == 516, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, cons_event) == 640, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, cons_wish) == 644, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, producer) == 768, "LAYOUT.md");
_Static_assert(offsetof(struct spsc_header, consumer) == 896, "LAYOUT.md");
_Static_assert(sizeof(struct spsc_header) == 1024, "LAYOUT.md");

/* One end, as its process sees it.  Nothing here is shared. */
struct spsc_end {
    struct spsc_header *header;
    uint8_t *data;
    uint32_t units;
    uint32_t unit_size;
    bool records;
    bool broken;
    uint32_t index; /* mine, as published */
    uint32_t seen;  /* the peer's, when last looked at */
    uint32_t wish;  /* the peer's, when last looked at */
    uint32_t naps;  /* sleeps announced in a row with less than `worth` between them */
    bool light;      /* I publish without a barrier now */
    bool registered; /* a peer's heavy barrier reaches this process */
    bool heavy;      /* and this one may run it */
    uint32_t wished; /* mine */
    uint32_t worth;  /* units a sleep that are worth a heavy barrier */
    uint32_t rested; /* my index when I last announced a sleep */
    uint32_t high, low; /* most and fewest units in the ring, whenever we looked */
    uint64_t inline_max;
    uint8_t *pool;
    uint64_t pool_size;
    struct spsc_loans *loans; /* the producer's, of a ring with a pool */
};

/* The longest message that a ring of records takes inline. */
static inline uint64_t spsc_longest(uint32_t units)
{
    return (uint64_t)(units / 2 - 1) * SPSC_RECORD_UNIT;
}

/* Bind the pool of a ring of records, if it has one. */
static inline bool spsc_bind_pool(struct spsc_end *end, void *base, uint64_t size)
{
    struct spsc_header *header = base;
    uint64_t offset = header->pool_offset, pool_size = header->pool_size;
    uint32_t inline_max = header->inline_max;
    end->inline_max = end->records ? spsc_longest(end->units) : end->unit_size;
    if (pool_size == 0)
        return true;
    if (!end->records || end->units < 8 || pool_size % CACHE_LINE || offset % CACHE_LINE)
        return false;
    if (offset < sizeof *header || offset > size || pool_size > size - offset)
        return false;
    if (inline_max < end->inline_max)
        end->inline_max = inline_max;
    end->pool = (uint8_t *)base + offset;
    end->pool_size = pool_size;
    return true;
}

/* Bind an end to a region.  False if the header's numbers contradict its size. */
static inline bool spsc_bind(struct spsc_end *end, void *base, uint64_t size)
{
    struct spsc_header *header = base;
    if (size < sizeof *header || (uintptr_t)base % 8 != 0)
        return false;
    uint32_t mode = header->mode, units = header->units, unit_size = header->unit_size;
    uint64_t offset = header->data_offset, data_size = header->data_size;
    if (mode > SPSC_RECORDS || !is_power_of_two(units) || units > 1u << 31)
        return false;
    if (unit_size == 0 || (mode == SPSC_RECORDS && (unit_size != 8 || units < 4)))
        return false;
    if (offset < sizeof *header || offset % 8 || offset > size || data_size > size - offset)
        return false;
    if ((uint64_t)units * unit_size > data_size)
        return false;
    *end = (struct spsc_end){.header = header, .data = (uint8_t *)base + offset,
                             .units = units, .unit_size = unit_size,
                             .records = mode == SPSC_RECORDS, .low = UINT32_MAX,
                             .worth = SPSC_WORTH * (mode == SPSC_RECORDS ? 8 : 1)};
    return spsc_bind_pool(end, base, size);
}

/* The indices of a new ring; its creator does this once, before anyone attaches. */
static inline void spsc_init(struct spsc_header *header)
{
    store_relaxed(&header->prod, header->start);
    store_relaxed(&header->cons, header->start);
    store_relaxed(&header->prod_event, header->start);
    store_release(&header->cons_event, header->start);
}

static inline uint32_t spsc_offset(const struct spsc_end *end, uint32_t index)
{
    return index & (end->units - 1);
}

static inline uint8_t *spsc_unit(const struct spsc_end *end, uint32_t index)
{
    return end->data + (size_t)spsc_offset(end, index) * end->unit_size;
}

/* Units from this index to where the array ends. */
static inline uint32_t spsc_run(const struct spsc_end *end, uint32_t index)
{
    return end->units - spsc_offset(end, index);
}

/* Remember how full the ring was found. */
static inline void spsc_note_depth(struct spsc_end *end, uint32_t used)
{
    if (used > end->high)
        end->high = used;
    if (used < end->low)
        end->low = used;
}

/* ---- whose the barrier is ------------------------------------------------- */

/* Turn to what the peer wishes, if this process can. */
static inline __attribute__((cold))
void spsc_turn(struct spsc_end *end, shared_u32 *light, uint32_t wish)
{
    end->wish = wish;
    end->light = wish != 0 && end->registered;
    /* release: publish-turned; and a full barrier. */
    store_seq_cst(light, end->light);
}

static inline void spsc_wish(struct spsc_end *end, shared_u32 *wish)
{
    uint32_t light = end->heavy && end->naps < SPSC_NAPS;
    if (light == end->wished)
        return;
    end->wished = light;
    store_relaxed(wish, light);
}

static inline bool spsc_worth(const struct spsc_end *end)
{
    return end->index - end->rested >= end->worth;
}

/* Called when a sleep is announced: was it worth a heavy barrier, lately? */
static inline void spsc_nap(struct spsc_end *end, shared_u32 *wish)
{
    end->naps = spsc_worth(end) ? 0 : end->naps + (end->naps < SPSC_NAPS);
    end->rested = end->index;
    spsc_wish(end, wish);
}

static inline __attribute__((cold))
void spsc_nap_no_more(struct spsc_end *end, shared_u32 *wish)
{
    end->naps = 0;
    spsc_wish(end, wish);
}

/* Called when the peer's index is looked at: one who no longer sleeps naps no more. */
static inline void spsc_stir(struct spsc_end *end, shared_u32 *wish)
{
    if (__builtin_expect(end->naps >= SPSC_NAPS, 0) && end->heavy && spsc_worth(end))
        spsc_nap_no_more(end, wish);
}

/* Having announced: what the peer published without a barrier is there to see. */
static inline void spsc_settle_peer(struct spsc_end *end, const shared_u32 *light)
{
    /* acquire: publish-turned. */
    if (load_seq_cst(light) != 0)
        end->heavy = barrier_heavy(end->heavy);
}

/* A new owner's first words: its own publishes are full, its wish is its own. */
static inline void spsc_begin(struct spsc_end *end, shared_u32 *light, shared_u32 *wish)
{
    spsc_turn(end, light, 0);
    end->rested = end->index;
    end->wished = end->heavy;
    store_relaxed(wish, end->heavy);
}

/* ---- the producer --------------------------------------------------------- */

/* Begin where the last owner stopped.  False if the two indices are impossible. */
static inline bool spsc_producer_attach(struct spsc_end *end)
{
    end->index = load_acquire(&end->header->prod);
    end->seen = load_acquire(&end->header->cons);
    end->broken = end->index - end->seen > end->units;
    spsc_begin(end, &end->header->prod_light, &end->header->cons_wish);
    return !end->broken;
}

/* Free units, looking at the consumer again only if fewer than `want` are known. */
static inline int64_t spsc_room(struct spsc_end *end, uint32_t want)
{
    uint32_t used = end->index - end->seen;
    if (end->units - used >= want)
        return end->units - used;
    /* acquire: message-released. */
    uint32_t cons = load_acquire(&end->header->cons);
    if (end->index - cons > used) {
        end->broken = true;
        return -1;
    }
    end->seen = cons;
    spsc_stir(end, &end->header->cons_wish);
    spsc_note_depth(end, end->index - cons);
    return end->units - (end->index - cons);
}

/* Make `count` filled units visible: true if the consumer asked to be told. */
static inline bool spsc_publish(struct spsc_end *end, uint32_t count)
{
    uint32_t new = end->index + count;
    end->index = new;
    /* release: message-published; full barrier: message-announced, a heavy one if light. */
    if (end->light)
        store_release(&end->header->prod, new);
    else
        store_seq_cst(&end->header->prod, new);
    barrier_light();
    uint32_t wish = load_relaxed(&end->header->prod_wish);
    if (__builtin_expect(wish != end->wish, 0))
        spsc_turn(end, &end->header->prod_light, wish);
    return (uint32_t)(new - load_seq_cst(&end->header->prod_event)) < count;
}

/* Ask to be told when `want` units are free, and look once more: room or -1. */
static inline int64_t spsc_await_room(struct spsc_end *end, uint32_t want)
{
    spsc_nap(end, &end->header->cons_wish);
    /* full barrier: room-awaited. */
    store_seq_cst(&end->header->cons_event, end->index + want - end->units);
    spsc_settle_peer(end, &end->header->cons_light);
    return spsc_room(end, want);
}

/* ---- the consumer --------------------------------------------------------- */

static inline bool spsc_consumer_attach(struct spsc_end *end)
{
    end->index = load_acquire(&end->header->cons);
    end->seen = load_acquire(&end->header->prod);
    end->broken = end->seen - end->index > end->units;
    spsc_begin(end, &end->header->cons_light, &end->header->prod_wish);
    return !end->broken;
}

/* Units ready, looking at the producer again only if fewer than `want` are known. */
static inline int64_t spsc_ready(struct spsc_end *end, uint32_t want)
{
    uint32_t ready = end->seen - end->index;
    if (ready >= want)
        return ready;
    /* acquire: message-published. */
    uint32_t prod = load_acquire(&end->header->prod);
    uint32_t now_ready = prod - end->index;
    if (now_ready > end->units || now_ready < ready) {
        end->broken = true;
        return -1;
    }
    end->seen = prod;
    spsc_stir(end, &end->header->prod_wish);
    spsc_note_depth(end, now_ready);
    return now_ready;
}

/* Give `count` taken units back: true if the producer asked to be told. */
static inline bool spsc_release(struct spsc_end *end, uint32_t count)
{
    uint32_t new = end->index + count;
    end->index = new;
    /* release: message-released; full barrier: room-announced, a heavy one if light. */
    if (end->light)
        store_release(&end->header->cons, new);
    else
        store_seq_cst(&end->header->cons, new);
    barrier_light();
    uint32_t wish = load_relaxed(&end->header->cons_wish);
    if (__builtin_expect(wish != end->wish, 0))
        spsc_turn(end, &end->header->cons_light, wish);
    return (uint32_t)(new - load_seq_cst(&end->header->cons_event)) < count;
}

/* Ask to be told of the next message, and look once more: units ready or -1. */
static inline int64_t spsc_await_message(struct spsc_end *end)
{
    spsc_nap(end, &end->header->prod_wish);
    /* full barrier: message-awaited. */
    store_seq_cst(&end->header->prod_event, end->index + 1);
    spsc_settle_peer(end, &end->header->prod_light);
    return spsc_ready(end, 1);
}

/* ---- fixed-size messages -------------------------------------------------- */

/* Copy whole slots in at `index`, in one piece or two. */
static inline void spsc_fill(struct spsc_end *end, uint32_t index, const uint8_t *from,
                             uint32_t count)
{
    uint32_t run = spsc_run(end, index);
    uint32_t first = count < run ? count : run;
    size_t split = (size_t)first * end->unit_size;
    memcpy(spsc_unit(end, index), from, split);
    memcpy(end->data, from + split, (size_t)(count - first) * end->unit_size);
}

/* Copy whole slots out from `index`, in one piece or two. */
static inline void spsc_copy(const struct spsc_end *end, uint32_t index, uint8_t *to,
                             uint32_t count)
{
    uint32_t run = spsc_run(end, index);
    uint32_t first = count < run ? count : run;
    size_t split = (size_t)first * end->unit_size;
    memcpy(to, spsc_unit(end, index), split);
    memcpy(to + split, end->data, (size_t)(count - first) * end->unit_size);
}

/* ---- records -------------------------------------------------------------- */

struct spsc_record {
    uint32_t length;
    uint32_t kind;
};
_Static_assert(sizeof(struct spsc_record) == SPSC_RECORD_HEADER, "LAYOUT.md");

/* The bytes of a record of kind SPSC_REFERENCE: where in the pool its message lies. */
struct spsc_reference {
    uint64_t offset;
    uint64_t length;
};
_Static_assert(sizeof(struct spsc_reference) == 16, "LAYOUT.md");

static inline uint32_t spsc_record_units(uint64_t length)
{
    return 1 + (uint32_t)((length + SPSC_RECORD_UNIT - 1) / SPSC_RECORD_UNIT);
}

/* Units a message takes at `index`, the way to the end of the array included. */
static inline uint32_t spsc_record_need(const struct spsc_end *end, uint32_t index,
                                        uint64_t length)
{
    uint32_t units = spsc_record_units(length), run = spsc_run(end, index);
    return units <= run ? units : run + units;
}

static inline void spsc_record_mark(struct spsc_end *end, uint32_t index, uint32_t length,
                                    enum spsc_kind kind)
{
    struct spsc_record record = {.length = length, .kind = kind};
    memcpy(spsc_unit(end, index), &record, sizeof record);
}

/* Where the bytes of a record go; its need has been checked against the room. */
static inline uint8_t *spsc_record_place(struct spsc_end *end, uint32_t index, uint32_t length,
                                         enum spsc_kind kind)
{
    uint32_t run = spsc_run(end, index);
    if (spsc_record_units(length) > run) {
        spsc_record_mark(end, index, 0, SPSC_WRAP);
        index += run;
    }
    spsc_record_mark(end, index, length, kind);
    return spsc_unit(end, index) + SPSC_RECORD_HEADER;
}

static inline uint8_t *spsc_record_claim(struct spsc_end *end, uint32_t index, uint32_t length)
{
    return spsc_record_place(end, index, length, SPSC_MESSAGE);
}

struct spsc_found {
    const uint8_t *bytes;
    uint64_t length;
    uint32_t units;   /* to release, a WRAP before it included */
    bool by_reference; /* the bytes lie in the pool */
};

/* From a reference to what it refers to: false, and broken, if that is not all pool. */
__attribute__((cold)) static inline bool spsc_record_follow(struct spsc_end *end,
                                                            const struct spsc_record *record,
                                                            struct spsc_found *found)
{
    struct spsc_reference to;
    if (record->kind != SPSC_REFERENCE || record->length != sizeof to || end->pool_size == 0) {
        end->broken = true;
        return false;
    }
    memcpy(&to, found->bytes, sizeof to);
    if (to.offset > end->pool_size || to.length > end->pool_size - to.offset) {
        end->broken = true;
        return false;
    }
    found->bytes = end->pool + to.offset;
    found->length = to.length;
    found->by_reference = true;
    return true;
}

/* The record at `index`, of `ready` units: false, and broken, if it cannot be one. */
static inline bool spsc_record_find(struct spsc_end *end, uint32_t index, uint32_t ready,
                                    struct spsc_found *found)
{
    struct spsc_record record;
    uint32_t skipped = 0;
    memcpy(&record, spsc_unit(end, index), sizeof record);
    if (record.kind == SPSC_WRAP) {
        skipped = spsc_run(end, index);
        if (skipped >= ready)
            goto broken;
        memcpy(&record, spsc_unit(end, index + skipped), sizeof record);
    }
    if (record.length > spsc_longest(end->units))
        goto broken;
    uint32_t units = spsc_record_units(record.length);
    if (units > ready - skipped || units > spsc_run(end, index + skipped))
        goto broken;
    found->bytes = spsc_unit(end, index + skipped) + SPSC_RECORD_HEADER;
    found->length = record.length;
    found->units = skipped + units;
    found->by_reference = false;
    return record.kind == SPSC_MESSAGE || spsc_record_follow(end, &record, found);
broken:
    end->broken = true;
    return false;
}

#endif
