/* What became of every message: a byte for each, in memory that outlives all workers. */
#ifndef FATES_H
#define FATES_H

#include "rig.h"

enum { MOST_WORKERS = 4, MESSAGES = 1 << 24 };
enum { ACKNOWLEDGED = 1, GOT = 2 };

struct fates {
    shared_u64 moves; /* successful calls of all workers */
    shared_u32 next[MOST_WORKERS];
    shared_u32 torn;
    shared_u32 twice;
    _Atomic uint8_t of[MOST_WORKERS][MESSAGES];
};

static struct fates *fates;

static void *rig_share(size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        rig_die("mmap");
    return base;
}

/* Stored first: a killed call's number is never used again. */
static uint32_t take_number(uint32_t who)
{
    uint32_t number = load_relaxed(&fates->next[who]);
    if (number >= MESSAGES)
        _exit(8);
    store_relaxed(&fates->next[who], number + 1);
    return number;
}

static bool number_was_put(uint32_t who, uint32_t number, bool put)
{
    if (!put) {
        store_relaxed(&fates->next[who], number);
        return false;
    }
    atomic_fetch_or(&fates->of[who][number], ACKNOWLEDGED);
    atomic_fetch_add(&fates->moves, 1);
    return true;
}

static void number_was_got(bool whole, uint32_t who, uint32_t number)
{
    if (!whole || who >= MOST_WORKERS || number >= MESSAGES)
        atomic_fetch_add(&fates->torn, 1);
    else if (atomic_fetch_or(&fates->of[who][number], GOT) & GOT)
        atomic_fetch_add(&fates->twice, 1);
}

static uint64_t count_missing(void)
{
    uint64_t missing = 0;
    for (uint32_t who = 0; who < MOST_WORKERS; who++)
        for (uint32_t i = 0; i < load_relaxed(&fates->next[who]) && i < MESSAGES; i++)
            missing += atomic_load(&fates->of[who][i]) == ACKNOWLEDGED;
    return missing;
}

/* Every slot must hold a message again, lap after lap. */
static bool capacity_is_whole(struct mpmc_member *member, void *out)
{
    uint32_t slots = member->ring.nr_slots, length;
    uint64_t at;
    for (uint32_t lap = 0; lap < 3; lap++) {
        uint32_t room = 0, full = 0;
        while (room <= slots && mpmc_put(member, &at, "x", 1) == MPMC_OK)
            room++;
        while (full <= slots && mpmc_get(member, &at, out, &length) == MPMC_OK)
            full++;
        if (room != slots || full != slots)
            return false;
    }
    return true;
}

#endif
