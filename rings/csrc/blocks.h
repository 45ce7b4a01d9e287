/* Memory for what does not fit a slot: runs of blocks, referred to by messages.
 *
 * Every block carries one word {turn:29, joined:19, owner:12, state:4}:
 *
 *   FREE --claim--> HELD(putter) --slot filled--> SENT --slot taken--> HELD(getter)
 *     ^                                                                    |
 *     +--------------------------------------------------------------------+
 *
 * A run is claimed block by block, filled, and then goes through the ring as a
 * `reference` in an ordinary message.  It changes hands while its slot does: it is
 * SENT while the putter's claimed slot already holds the reference, and HELD by the
 * getter before that one frees the slot.  So at every instant
 *
 *   - a HELD block belongs to a member, by number and by how often that number has
 *     been given away (`joined`): if that one has left or died, nobody uses it;
 *   - a SENT block is in use only if a slot refers to it: one being written, full,
 *     or being read.
 *
 * Collecting what the dead left is these two lines: note the words that look lost,
 * strike out what slots refer to, swap what remains to FREE.  The order matters: a
 * reference that exists when a word is noted stays in its slot until the word
 * changes hands, and then the swap fails.  `turn` counts the claims of a block, so
 * a word noted in one use cannot be mistaken for the next.
 *
 * Claims and collection swap; everything else is a store by the only one who may.
 */
#ifndef RINGS_BLOCKS_H
#define RINGS_BLOCKS_H

#include <stdlib.h>

#include "mpmc_call.h"

enum { BLOCKS_FREED_OFFSET = 4096, BLOCKS_WORDS_OFFSET = 4160, BLOCKS_MAX = 1 << 20 };
enum block_state { BLOCK_FREE = 0, BLOCK_HELD = 1, BLOCK_SENT = 2 };
enum frame_kind { FRAME_BYTES = 0, FRAME_PICKLE = 1, FRAME_IN_BLOCKS = 16 };

enum { BLOCKS_SHORT = 4, BLOCKS_LAPS = 128 };

#define NO_RUN UINT32_MAX

/* A message of `kind` FRAME_IN_BLOCKS and up is this; others follow their first byte. */
struct reference {
    uint8_t kind;
    uint8_t reserved[3];
    uint32_t first, count;
    uint32_t parts;  /* 1, or as many as lengths stand before the data */
    uint64_t length; /* bytes of the run in use */
};
_Static_assert(sizeof(struct reference) == 24, "an ABI of the queue's messages");

struct blocks {
    shared_u64 *freed;
    shared_u64 *words;
    uint8_t *data;
    uint32_t count;
    uint32_t size; /* of a block */
    uint32_t next; /* where this member looks for a short run: behind its last one */
    uint32_t turn; /* until it is this far */
};

static inline uint64_t block_make(uint64_t word, uint64_t joined, uint32_t owner,
                                  enum block_state state)
{
    return (word & ~OWNER_FIELD(35)) | (joined & OWNER_FIELD(19)) << 16 | (uint64_t)owner << 4 |
           (uint64_t)state;
}

static inline enum block_state block_state(uint64_t word) { return (enum block_state)(word & 15); }
static inline uint32_t block_owner(uint64_t word) { return (uint32_t)(word >> 4) & 0xfff; }
static inline uint64_t block_joined(uint64_t word) { return word >> 16 & OWNER_FIELD(19); }

static inline uint64_t block_next_turn(uint64_t word)
{
    return word + (UINT64_C(1) << 35);
}

static inline size_t blocks_data_offset(uint32_t count)
{
    return (BLOCKS_WORDS_OFFSET + count * sizeof(uint64_t) + 4095) & ~(size_t)4095;
}

static inline bool blocks_bind(struct blocks *blocks, void *base, size_t size, uint32_t count,
                               uint32_t block_size)
{
    if (count == 0 || count > BLOCKS_MAX || block_size == 0 || (uintptr_t)base % CACHE_LINE != 0)
        return false;
    if (size < blocks_data_offset(count) ||
        (size - blocks_data_offset(count)) / block_size < count)
        return false;
    blocks->freed = (void *)((uint8_t *)base + BLOCKS_FREED_OFFSET);
    blocks->words = (void *)((uint8_t *)base + BLOCKS_WORDS_OFFSET);
    blocks->data = (uint8_t *)base + blocks_data_offset(count);
    blocks->count = count;
    blocks->size = block_size;
    blocks->next = blocks->turn = 0;
    return true;
}

static inline uint8_t *blocks_at(const struct blocks *blocks, uint32_t block)
{
    return blocks->data + (size_t)block * blocks->size;
}

static inline bool blocks_has(const struct blocks *blocks, const struct reference *run)
{
    return run->count <= blocks->count && run->first <= blocks->count - run->count &&
           run->length <= (uint64_t)run->count * blocks->size;
}

/* Set the state of every block of a run that is ours. */
static inline void blocks_mark(struct blocks *blocks, const struct reference *run,
                               const struct mpmc *ring, enum block_state state)
{
    uint64_t joined = owner_generation(ring->owner_word);
    for (uint32_t i = run->first; i < run->first + run->count; i++) {
        uint64_t word = block_make(load64(&blocks->words[i]), joined, ring->owner, state);
        /* release: block-handed-over. */
        atomic_store_explicit(&blocks->words[i], word, memory_order_release);
    }
}

static inline void blocks_free(struct blocks *blocks, const struct reference *run,
                               struct mpmc_member *member)
{
    blocks_mark(blocks, run, &member->ring, BLOCK_FREE);
    /* full barrier: room-announced. */
    atomic_fetch_add_explicit(blocks->freed, 1, memory_order_seq_cst);
    mpmc_notify_sleepers(member, MPMC_PUT);
}

static inline bool block_claim(struct blocks *blocks, uint32_t i, const struct mpmc *ring)
{
    /* acquire: block-handed-over. */
    uint64_t word = load64_acquire(&blocks->words[i]);
    return block_state(word) == BLOCK_FREE &&
           swap64(&blocks->words[i], word,
                  block_make(block_next_turn(word), owner_generation(ring->owner_word),
                             ring->owner, BLOCK_HELD));
}

/* The first of `count` neighbours that look free, from `from` on.  The last of them is
 * looked at first: one in use rules out all that would have it. */
static inline uint32_t blocks_find(const struct blocks *blocks, uint32_t from, uint32_t count)
{
    while (count <= blocks->count - from) {
        uint32_t i = from + count;
        while (i > from && block_state(load64(&blocks->words[i - 1])) == BLOCK_FREE)
            i--;
        if (i == from)
            return from;
        from = i;
    }
    return NO_RUN;
}

/* Where a search begins.  Messages are mostly taken in the order in which they were put,
 * so the next block is mostly free, and the first ones seldom are. */
static inline uint32_t blocks_from(const struct blocks *blocks, uint32_t count)
{
    return count > BLOCKS_SHORT || blocks->next >= blocks->turn ? 0 : blocks->next;
}

/* A lap goes twice as far as the first free block was, and a little: so short that its
 * blocks stay warm and long runs find room behind it, and worth the search for it. */
static inline void blocks_went(struct blocks *blocks, uint32_t from, uint32_t first,
                               uint32_t count)
{
    if (count > BLOCKS_SHORT)
        return;
    blocks->next = first + count;
    if (from == 0)
        blocks->turn = 2 * first + blocks->count / BLOCKS_LAPS;
}

/* The first of `count` blocks from `from` on that are ours now, or NO_RUN. */
static inline uint32_t blocks_claim_from(struct blocks *blocks, uint32_t from, uint32_t count,
                                         struct mpmc_member *member)
{
    uint32_t first = from;
    while ((first = blocks_find(blocks, first, count)) != NO_RUN) {
        uint32_t got = 0;
        while (got < count && block_claim(blocks, first + got, &member->ring))
            got++;
        if (got == count)
            break;
        struct reference part = {.first = first, .count = got};
        if (got > 0)
            blocks_free(blocks, &part, member);
        first += got + 1;
    }
    return first;
}

/* Long runs take the first place that fits: what was freed last is likely to be warm,
 * and likely to be low.  The first block of the run, or NO_RUN. */
static inline uint32_t blocks_claim(struct blocks *blocks, uint32_t count,
                                    struct mpmc_member *member)
{
    uint32_t from = blocks_from(blocks, count);
    uint32_t first = blocks_claim_from(blocks, from, count, member);
    if (first == NO_RUN && from != 0)
        first = blocks_claim_from(blocks, from = 0, count, member);
    if (first != NO_RUN)
        blocks_went(blocks, from, first, count);
    return first;
}

/* ---- collecting what the dead left ------------------------------------------------- */

/* Whether each owner may still use what it holds; asked once a collection. */
struct census {
    uint8_t verdict[MPMC_OWNERS + 1]; /* 0 not asked, 1 there, 2 gone or another one */
    uint64_t joined[MPMC_OWNERS + 1];
};

static inline bool census_holds(struct census *census, const struct mpmc_member *member,
                                uint32_t owner, uint64_t joined)
{
    if (owner == 0 || owner > MPMC_OWNERS)
        return false;
    if (census->verdict[owner] == 0) {
        uint64_t word = load64_acquire(&owner_entry(&member->ring, owner)->word);
        bool gone = owner_state(word) == OWNER_FREE ||
                    owner_is_dead(&member->ring, &member->self, member->lock_fd, owner, word);
        census->verdict[owner] = gone ? 2 : 1;
        census->joined[owner] = owner_generation(word);
    }
    return census->verdict[owner] == 1 && census->joined[owner] == joined;
}

static inline bool block_looks_lost(struct census *census, const struct mpmc_member *member,
                                    uint64_t word)
{
    if (block_state(word) == BLOCK_HELD)
        return !census_holds(census, member, block_owner(word), block_joined(word));
    return block_state(word) == BLOCK_SENT;
}

/* The reference in a slot that somebody may still follow; count 0: none. */
static inline struct reference slot_reference(const struct mpmc_slot *slot)
{
    struct reference run;
    uint64_t seen;
    do {
        seen = load64_acquire(&slot->word);
        run = (struct reference){0};
        if (mpmc_state(seen) == MPMC_FREE || mpmc_state(seen) == MPMC_TOMB)
            break;
        memcpy(&run, slot->data, sizeof run);
        if (run.kind < FRAME_IN_BLOCKS)
            run.count = 0;
        atomic_thread_fence(memory_order_acquire);
    } while (load64(&slot->word) != seen);
    return run;
}

static inline void blocks_strike(const struct blocks *blocks, uint64_t *noted,
                                 const struct mpmc *ring)
{
    for (uint64_t i = 0; i < ring->nr_slots; i++) {
        struct reference run = slot_reference(mpmc_slot(ring, i));
        if (run.count != 0 && blocks_has(blocks, &run))
            memset(&noted[run.first], 0, run.count * sizeof *noted);
    }
}

/* Free every block that nobody can use any more; how many, or -1 without memory. */
static inline int64_t blocks_collect(struct blocks *blocks, struct mpmc_member *member)
{
    uint64_t *noted = calloc(blocks->count, sizeof *noted);
    struct census *census = calloc(1, sizeof *census);
    int64_t freed = noted != NULL && census != NULL ? 0 : -1;
    for (uint32_t i = 0; freed == 0 && i < blocks->count; i++) {
        /* acquire: block-handed-over. */
        uint64_t word = load64_acquire(&blocks->words[i]);
        noted[i] = block_looks_lost(census, member, word) ? word : 0;
    }
    if (freed == 0)
        blocks_strike(blocks, noted, &member->ring);
    for (uint32_t i = 0; freed >= 0 && i < blocks->count; i++)
        if (noted[i] != 0)
            freed += swap64(&blocks->words[i], noted[i], block_make(noted[i], 0, 0, BLOCK_FREE));
    free(census);
    free(noted);
    if (freed > 0)
        atomic_fetch_add_explicit(blocks->freed, 1, memory_order_seq_cst);
    return freed;
}

#endif
