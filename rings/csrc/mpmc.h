/* Bounded queue for many producers and many consumers, any of which may die.
 *
 * Every slot carries one word {seq:48, owner:12, state:4}, and everything that
 * happens to a slot is one compare-and-swap of it.  For index i of a ring of
 * `slots` slots:
 *
 *        claim              publish            take               free
 *   FREE(i) ---> WRITING(i,me) ---> FULL(i) ---> READING(i,me) ---> FREE(i+slots)
 *                      |                               |                 ^
 *                      | owner died                    | owner died      |
 *                      v                               +-----(in doubt)--+
 *                   TOMB(i) ----------- skipped by whoever meets it -----+
 *
 * Who drops the oldest message (a policy) takes it into DROPPING instead of READING:
 * the same to everybody else, but counted as lost, by itself or by who recovers it.
 *
 * The claim and the name of the claimer are the same swap, so a dead owner's
 * slots can be told from a live one's at every instant; seq never repeats (but
 * modulo 2^48, see below), so a swap prepared for one lap fails on every other.
 *
 * `prod` and `cons` are hints that never run ahead: all indices below prod have
 * been claimed, all below cons taken.  They are only helped along, by anybody;
 * a batch moves them once.  Whoever starts at a hint walks forward over slots
 * that are already past, so an index is claimed (taken) only after every index
 * before it.  Hints are u64 because a helper may sleep between its load and its
 * swap: with u32, 2^32 messages later (minutes) its swap would succeed and skip
 * a slot that nobody claimed.  A slot's seq is the low 48 bits of its index; the
 * same accident there needs a sleep of exactly 2^48 messages, a month at 10^8/s.
 *
 * Sleeping.  A waiter adds 1 to its side's `sleeps` and looks again; who publishes
 * (frees) looks at `sleeps` afterwards and notifies if it changed since that member's
 * last notification.  Nothing is ever cleared, so nothing is owed by a waiter that
 * dies.  What a producer owes that dies between publish and notify is paid by the
 * next one, or by the sleepers' own looks, which get rare (mpmc_call.h).  A producer
 * that waits for room is not told of each free slot, or it would sleep again after one
 * message: only once `few` are free.  Till then it has its own looks as well.
 *
 * Runs.  Of a batch each message is complete before the next is begun, so a death
 * leaves one slot in hand.  Nobody but its owner, or a survivor of it, changes a word
 * that names one, so within a run publish and free are stores: the barrier between
 * the store and the look at `sleeps` is the next claim's swap, and after the last
 * one mpmc_run_over.  It halves the price of a message.
 *
 * Recovery (owners.h) needs a confirmed death: payload is written by plain
 * stores, and a live owner that is taken for dead would write into a slot that
 * has moved on.
 *
 * Source: D. Vyukov's bounded MPMC queue for the turn in the slot; the owner in
 * the word and the tombstone are ours.  tests/model/mpmc.pml kills it anywhere.
 */
#ifndef RINGS_MPMC_H
#define RINGS_MPMC_H

#include "core.h"

#ifndef FAULT /* the fault rig kills the process here; empty in what is shipped */
#define FAULT(point)
#endif

enum {
    MPMC_MAX_SLOTS = 1 << 20,
    MPMC_MAX_SLOT_SIZE = 1 << 24,
    MPMC_OWNERS = 256,
    MPMC_FEW = 256,
    MPMC_LIMIT_OFFSET = 80,
    MPMC_HEADER_OFFSET = 4096,
    MPMC_SLOTS_OFFSET = MPMC_HEADER_OFFSET + 8 * 4096,
};

enum mpmc_state {
    MPMC_FREE = 0,
    MPMC_WRITING = 1,
    MPMC_FULL = 2,
    MPMC_READING = 3,
    MPMC_TOMB = 4,
    MPMC_DROPPING = 5, /* READING by somebody who throws the message away */
};

enum mpmc_side { MPMC_PUT = 0, MPMC_GET = 1 };

enum mpmc_result {
    MPMC_BROKEN = -2,  /* a word that no member writes */
    MPMC_SHUT = -1,    /* shut down */
    MPMC_WOULD_BLOCK = 0,
    MPMC_OK = 1,
    MPMC_STALLED = 2,  /* would block, on a slot that somebody is working on */
};

enum { SHUT_PUTS = 1, SHUT_GETS = 2 };

struct mpmc_side_words {
    shared_u64 index;  /* prod or cons */
    uint8_t pad0[120];
    shared_u64 sleeps; /* announcements of those who wait for this side */
    shared_u32 shut;   /* SHUT_PUTS, SHUT_GETS */
    uint8_t pad1[116];
};
_Static_assert(offsetof(struct mpmc_side_words, sleeps) == 128, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_side_words, shut) == 136, "LAYOUT.md");
_Static_assert(sizeof(struct mpmc_side_words) == 256, "LAYOUT.md");

/* One member.  `word` = {state:4, generation:19, deaths:19, pid:22}; the counts of
 * losses are {count:24, index + 1:40}, so that counting twice is impossible; what was
 * dropped is {count:40, tag:24}, see owner_count_drop. */
struct mpmc_owner {
    shared_u64 word;
    shared_u64 start_time; /* clock ticks since boot */
    shared_u64 pid_space;  /* inode of its pid namespace; 0 unknown */
    shared_u64 messages_put;
    shared_u64 messages_got;
    shared_u64 tombstones;
    shared_u64 in_doubt;
    shared_u64 lost;
};
_Static_assert(offsetof(struct mpmc_owner, start_time) == 8, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_owner, pid_space) == 16, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_owner, messages_put) == 24, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_owner, messages_got) == 32, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_owner, tombstones) == 40, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_owner, in_doubt) == 48, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_owner, lost) == 56, "LAYOUT.md");
_Static_assert(sizeof(struct mpmc_owner) == 64, "LAYOUT.md");

struct mpmc_header {
    struct mpmc_side_words side[2];
    uint8_t pad[512];
    struct mpmc_owner owners[MPMC_OWNERS];
};
_Static_assert(offsetof(struct mpmc_header, owners) == 1024, "LAYOUT.md");
_Static_assert(sizeof(struct mpmc_header) <= MPMC_SLOTS_OFFSET - MPMC_HEADER_OFFSET, "LAYOUT.md");

struct mpmc_slot {
    shared_u64 word;
    shared_u32 length;
    uint32_t reserved;
    uint8_t data[];
};
_Static_assert(offsetof(struct mpmc_slot, length) == 8, "LAYOUT.md");
_Static_assert(offsetof(struct mpmc_slot, data) == 16, "LAYOUT.md");

/* One ring as one member sees it. */
struct mpmc {
    struct mpmc_header *header;
    uint8_t *slots;
    uint32_t nr_slots;
    uint32_t slot_size;
    uint32_t limit;         /* messages it may hold, at most nr_slots */
    uint32_t few;           /* of them must be missing for a sleeping producer to be told */
    size_t stride;
    uint32_t owner;         /* 1..MPMC_OWNERS; 0: not a member */
    uint64_t owner_word;    /* what our entry says */
    uint64_t notified[2];   /* `sleeps` of each side when we last notified it */
};

/* ---- words --------------------------------------------------------------- */

#define MPMC_SEQ_MASK ((UINT64_C(1) << 48) - 1)

static inline uint64_t mpmc_make(uint64_t index, uint32_t owner, enum mpmc_state state)
{
    return index << 16 | (uint64_t)owner << 4 | (uint64_t)state;
}

static inline enum mpmc_state mpmc_state(uint64_t word)
{
    return (enum mpmc_state)(word & 15);
}

static inline uint32_t mpmc_owner_of(uint64_t word)
{
    return (uint32_t)(word >> 4) & 0xfff;
}

/* How far the slot's word is past `index`, modulo 2^48. */
static inline int64_t mpmc_past(uint64_t word, uint64_t index)
{
    return (int64_t)((word & ~UINT64_C(0xffff)) - (index << 16)) >> 16;
}

static inline uint64_t load64(const shared_u64 *word)
{
    return atomic_load_explicit((shared_u64 *)word, memory_order_relaxed);
}

static inline uint64_t load64_acquire(const shared_u64 *word)
{
    return atomic_load_explicit((shared_u64 *)word, memory_order_acquire);
}

/* Sequentially consistent: it is the look at the other's word that follows a swap
 * (announced) or a count of `sleeps` (awaited). */
static inline uint64_t load64_seq_cst(const shared_u64 *word)
{
    return atomic_load_explicit((shared_u64 *)word, memory_order_seq_cst);
}

static inline bool swap64(shared_u64 *word, uint64_t old, uint64_t new)
{
    return atomic_compare_exchange_strong_explicit(word, &old, new, memory_order_seq_cst,
                                                   memory_order_relaxed);
}

static inline void count64(shared_u64 *word, uint64_t more)
{
    atomic_store_explicit(word, load64(word) + more, memory_order_relaxed);
}

static inline struct mpmc_slot *mpmc_slot(const struct mpmc *ring, uint64_t index)
{
    return (void *)(ring->slots + (index & (ring->nr_slots - 1)) * ring->stride);
}

/* ---- making and binding --------------------------------------------------- */

static inline size_t mpmc_stride(uint32_t slot_size)
{
    return (sizeof(struct mpmc_slot) + slot_size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
}

/* The fewer messages that a ring was asked to hold; 0 and nonsense mean all slots. */
static inline uint32_t mpmc_limit(const void *base, uint32_t nr_slots)
{
    uint32_t limit;
    memcpy(&limit, (const uint8_t *)base + MPMC_LIMIT_OFFSET, sizeof limit);
    return limit == 0 || limit > nr_slots ? nr_slots : limit;
}

/* An eighth of the ring, from one message to MPMC_FEW. */
static inline uint32_t mpmc_few(uint32_t limit)
{
    return limit < 16 ? 1 : limit / 8 < MPMC_FEW ? limit / 8 : MPMC_FEW;
}

/* Bind to the region at `base`.  False if the numbers do not fit it. */
static inline bool mpmc_bind(struct mpmc *ring, void *base, size_t size, uint32_t nr_slots,
                             uint32_t slot_size)
{
    if (!is_power_of_two(nr_slots) || nr_slots < 2 || nr_slots > MPMC_MAX_SLOTS ||
        slot_size == 0 || slot_size > MPMC_MAX_SLOT_SIZE || (uintptr_t)base % CACHE_LINE != 0)
        return false;
    if (size < MPMC_SLOTS_OFFSET || (size - MPMC_SLOTS_OFFSET) / mpmc_stride(slot_size) < nr_slots)
        return false;
    memset(ring, 0, sizeof *ring);
    ring->header = (void *)((uint8_t *)base + MPMC_HEADER_OFFSET);
    ring->slots = (uint8_t *)base + MPMC_SLOTS_OFFSET;
    ring->nr_slots = nr_slots;
    ring->slot_size = slot_size;
    ring->limit = mpmc_limit(base, nr_slots);
    ring->few = mpmc_few(ring->limit);
    ring->stride = mpmc_stride(slot_size);
    return true;
}

/* Write a fresh ring whose first index is `start`: once, before anyone attaches. */
static inline void mpmc_init(struct mpmc *ring, uint64_t start)
{
    memset(ring->header, 0, sizeof *ring->header);
    atomic_init(&ring->header->side[MPMC_PUT].index, start);
    atomic_init(&ring->header->side[MPMC_GET].index, start);
    for (uint64_t i = start; i != start + ring->nr_slots; i++)
        atomic_store(&mpmc_slot(ring, i)->word, mpmc_make(i, 0, MPMC_FREE));
}

/* ---- hints and sleepers ---------------------------------------------------- */

static inline uint64_t mpmc_index(const struct mpmc *ring, enum mpmc_side side)
{
    return load64_acquire(&ring->header->side[side].index);
}

/* True if we were taken for dead, and our number may be somebody else's by now. */
static inline bool mpmc_buried(const struct mpmc *ring)
{
    return load64(&ring->header->owners[ring->owner - 1].word) != ring->owner_word;
}

/* Help prod (cons) up to `to`; every index below it has been claimed (taken). */
static inline void mpmc_advance(struct mpmc *ring, enum mpmc_side side, uint64_t to)
{
    shared_u64 *index = &ring->header->side[side].index;
    uint64_t old = load64(index);
    while ((int64_t)(to - old) > 0 && !swap64(index, old, to))
        old = load64(index);
}

/* True if somebody went to sleep on `side` since we last notified it: notify now. */
static inline bool mpmc_must_notify(struct mpmc *ring, enum mpmc_side side)
{
    uint64_t sleeps = load64_seq_cst(&ring->header->side[side].sleeps);
    if (sleeps == ring->notified[side])
        return false;
    ring->notified[side] = sleeps;
    return true;
}

/* True if there is room for a few; all below `freed` has been taken, or will be soon.
 * Whoever frees has advanced cons before, so the last who does sees all who did
 * (tests/model/room.pml). */
static inline bool mpmc_roomy(const struct mpmc *ring, uint64_t freed)
{
    uint64_t prod = mpmc_index(ring, MPMC_PUT), cons = mpmc_index(ring, MPMC_GET);
    int64_t most = (int64_t)(ring->limit - ring->few);
    return (int64_t)(prod - cons) <= most || (int64_t)(prod - freed) <= most;
}

/* The same for producers that sleep, but not before they can go on for a while. */
static inline bool mpmc_must_notify_room(struct mpmc *ring, uint64_t freed)
{
    uint64_t sleeps = load64_seq_cst(&ring->header->side[MPMC_PUT].sleeps);
    if (sleeps == ring->notified[MPMC_PUT] || !mpmc_roomy(ring, freed))
        return false;
    ring->notified[MPMC_PUT] = sleeps;
    return true;
}

static inline void mpmc_announce(struct mpmc *ring, enum mpmc_side side)
{
    /* full barrier: message-awaited (MPMC_GET), full barrier: room-awaited (MPMC_PUT). */
    atomic_fetch_add_explicit(&ring->header->side[side].sleeps, 1, memory_order_seq_cst);
}

static inline uint32_t mpmc_shut(const struct mpmc *ring)
{
    return load_seq_cst(&ring->header->side[MPMC_GET].shut);
}

/* ---- producing ------------------------------------------------------------- */

/* Where a walk goes after meeting a slot that is past `index`. */
static inline uint64_t mpmc_onward(const struct mpmc *ring, enum mpmc_side side, uint64_t index)
{
    uint64_t hint = mpmc_index(ring, side);
    return (int64_t)(hint - index) > 1 ? hint : index + 1;
}

/* A ring limited to fewer messages than it has slots: `*at` may be claimed once the
 * message `limit` before it is gone, which stays true.  If not, `*at` is that one. */
static inline enum mpmc_result mpmc_within(struct mpmc *ring, uint64_t *at)
{
    uint64_t index = *at - ring->limit;
    struct mpmc_slot *slot = mpmc_slot(ring, index);
    /* acquire: slot-freed. */
    uint64_t seen = load64_seq_cst(&slot->word);
    if (mpmc_past(seen, index) > 0)
        return MPMC_OK;
    if (mpmc_state(seen) == MPMC_TOMB) {
        swap64(&slot->word, seen, mpmc_make(index + ring->nr_slots, 0, MPMC_FREE));
        return MPMC_OK;
    }
    *at = index;
    return mpmc_state(seen) == MPMC_FULL ? MPMC_WOULD_BLOCK : MPMC_STALLED;
}

/* The first index at or after `*at` that is not claimed: MPMC_OK if its slot is free. */
static inline enum mpmc_result mpmc_room(struct mpmc *ring, uint64_t *at)
{
    for (uint64_t index = *at;;) {
        struct mpmc_slot *slot = mpmc_slot(ring, index);
        /* acquire: slot-freed. */
        uint64_t seen = load64_seq_cst(&slot->word);
        int64_t past = mpmc_past(seen, index);
        *at = index;
        if (seen == mpmc_make(index, 0, MPMC_FREE))
            return ring->limit == ring->nr_slots ? MPMC_OK : mpmc_within(ring, at);
        if (past >= 0)
            index = mpmc_onward(ring, MPMC_PUT, index);
        else if (past != -(int64_t)ring->nr_slots)
            return MPMC_BROKEN;
        else if (mpmc_state(seen) == MPMC_TOMB)
            swap64(&slot->word, seen, mpmc_make(index, 0, MPMC_FREE));
        else
            return mpmc_state(seen) == MPMC_FULL ? MPMC_WOULD_BLOCK : MPMC_STALLED;
    }
}

/* Claim the first free slot at or after `*at`, which becomes its index. */
static inline enum mpmc_result mpmc_claim(struct mpmc *ring, uint64_t *at,
                                          struct mpmc_slot **claimed)
{
    for (*claimed = NULL;;) {
        enum mpmc_result result = mpmc_room(ring, at);
        if (result != MPMC_OK)
            return result;
        *claimed = mpmc_slot(ring, *at);
        if (swap64(&(*claimed)->word, mpmc_make(*at, 0, MPMC_FREE),
                   mpmc_make(*at, ring->owner, MPMC_WRITING)))
            break;
    }
    FAULT(1);
    return MPMC_OK;
}

/* False if we were taken for dead and the slot is no longer ours. */
static inline bool mpmc_publish(struct mpmc *ring, struct mpmc_slot *slot, uint64_t index)
{
    /* release: message-published; full barrier: message-announced. */
    return swap64(&slot->word, mpmc_make(index, ring->owner, MPMC_WRITING),
                  mpmc_make(index, 0, MPMC_FULL));
}

/* The same in a run of messages: no barrier but the next claim's, or mpmc_run_over's.
 * While we live nobody else may change the word, so a store will do. */
static inline bool mpmc_publish_in_run(struct mpmc *ring, struct mpmc_slot *slot,
                                       uint64_t index)
{
    if (mpmc_buried(ring))
        return false;
    /* release: message-published. */
    atomic_store_explicit(&slot->word, mpmc_make(index, 0, MPMC_FULL), memory_order_release);
    return true;
}

/* Give a claimed slot back as a tombstone. */
static inline void mpmc_abandon(struct mpmc *ring, struct mpmc_slot *slot, uint64_t index)
{
    swap64(&slot->word, mpmc_make(index, ring->owner, MPMC_WRITING),
           mpmc_make(index, 0, MPMC_TOMB));
}

/* ---- consuming ------------------------------------------------------------- */

/* The first index at or after `*at` that is not taken: MPMC_OK if it is published. */
static inline enum mpmc_result mpmc_ready(struct mpmc *ring, uint64_t *at)
{
    for (uint64_t index = *at;;) {
        struct mpmc_slot *slot = mpmc_slot(ring, index);
        /* acquire: message-published. */
        uint64_t seen = load64_seq_cst(&slot->word);
        int64_t past = mpmc_past(seen, index);
        enum mpmc_state state = mpmc_state(seen);
        *at = index;
        if (past > 0 || (past == 0 && (state == MPMC_READING || state == MPMC_DROPPING)))
            index = mpmc_onward(ring, MPMC_GET, index);
        else if (past < 0)
            return past == -(int64_t)ring->nr_slots ? MPMC_WOULD_BLOCK : MPMC_BROKEN;
        else if (state == MPMC_TOMB)
            swap64(&slot->word, seen, mpmc_make(index + ring->nr_slots, 0, MPMC_FREE));
        else if (state == MPMC_FULL)
            return MPMC_OK;
        else
            return state == MPMC_WRITING ? MPMC_STALLED : MPMC_WOULD_BLOCK;
    }
}

/* Length of the message at `index`, true only if mpmc_take then succeeds. */
static inline uint32_t mpmc_length(const struct mpmc *ring, uint64_t index)
{
    return load_relaxed(&mpmc_slot(ring, index)->length);
}

static inline bool mpmc_take(struct mpmc *ring, struct mpmc_slot *slot, uint64_t index)
{
    bool taken = swap64(&slot->word, mpmc_make(index, 0, MPMC_FULL),
                        mpmc_make(index, ring->owner, MPMC_READING));
    FAULT(5);
    return taken;
}

/* Take the message at `index` to throw it away, and free its slot: each once, or false. */
static inline bool mpmc_condemn(struct mpmc *ring, uint64_t index)
{
    return swap64(&mpmc_slot(ring, index)->word, mpmc_make(index, 0, MPMC_FULL),
                  mpmc_make(index, ring->owner, MPMC_DROPPING));
}

static inline bool mpmc_free_condemned(struct mpmc *ring, uint64_t index)
{
    /* release: slot-freed; full barrier: room-announced. */
    return swap64(&mpmc_slot(ring, index)->word, mpmc_make(index, ring->owner, MPMC_DROPPING),
                  mpmc_make(index + ring->nr_slots, 0, MPMC_FREE));
}

/* False if we were taken for dead: then the message counts as in doubt. */
static inline bool mpmc_free(struct mpmc *ring, struct mpmc_slot *slot, uint64_t index)
{
    /* release: slot-freed; full barrier: room-announced. */
    return swap64(&slot->word, mpmc_make(index, ring->owner, MPMC_READING),
                  mpmc_make(index + ring->nr_slots, 0, MPMC_FREE));
}

/* The same in a run of messages: no barrier but the next take's, or mpmc_run_over's. */
static inline bool mpmc_free_in_run(struct mpmc *ring, struct mpmc_slot *slot, uint64_t index)
{
    if (mpmc_buried(ring))
        return false;
    /* release: slot-freed. */
    atomic_store_explicit(&slot->word, mpmc_make(index + ring->nr_slots, 0, MPMC_FREE),
                          memory_order_release);
    return true;
}

/* The last word of a run as it is, so that a look at `sleeps` cannot overtake it. */
static inline void mpmc_run_over(struct mpmc *ring, uint64_t last)
{
    /* full barrier: message-announced, full barrier: room-announced. */
    atomic_fetch_add_explicit(&mpmc_slot(ring, last)->word, 0, memory_order_seq_cst);
}

/* Messages in the ring, give or take those in motion. */
static inline uint64_t mpmc_size(const struct mpmc *ring)
{
    uint64_t cons = mpmc_index(ring, MPMC_GET);
    int64_t size = (int64_t)(mpmc_index(ring, MPMC_PUT) - cons);
    if (size < 0)
        return 0;
    return (uint64_t)size > ring->nr_slots ? ring->nr_slots : (uint64_t)size;
}

#endif
