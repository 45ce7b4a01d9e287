/* Who holds one end of a ring, and how an end changes hands.
 *
 * An owner is one 64-bit word {start time : 42, pid : 22}, so that taking an end,
 * taking it over and giving it back are each one CAS.  A pid alone may be reused;
 * a pid with the clock tick at which it started is not.  Two values name nobody:
 * 0, an end never taken, and OWNER_CLOSED, one given back in good order.
 *
 * An end is taken over on proof of its owner's death only (process.h), so one that
 * we may not look at counts as alive.  Both ends must see the same pid namespace.
 */
#ifndef RINGS_OWNER_H
#define RINGS_OWNER_H

#include "core.h"
#include "process.h"

#define OWNER_NOBODY 0u
#define OWNER_PID_BITS 22
#define OWNER_CLOSED (UINT64_C(1) << OWNER_PID_BITS)

/* One end of a ring in shared memory. */
struct owned_end {
    shared_u64 owner;
    shared_u32 generation; /* counts the owners so far */
    uint32_t reserved;
    shared_u64 lost; /* messages refused and not stored; kept across owners */
};
_Static_assert(offsetof(struct owned_end, owner) == 0, "LAYOUT.md");
_Static_assert(offsetof(struct owned_end, generation) == 8, "LAYOUT.md");
_Static_assert(offsetof(struct owned_end, lost) == 16, "LAYOUT.md");

static inline uint32_t owner_pid(uint64_t owner)
{
    return (uint32_t)(owner & ((1u << OWNER_PID_BITS) - 1));
}

static inline uint64_t owner_start(uint64_t owner)
{
    return owner >> OWNER_PID_BITS;
}

static inline uint64_t owner_pack(uint32_t pid, uint64_t start)
{
    return start << OWNER_PID_BITS | pid;
}

static inline uint64_t owner_self(void)
{
    uint32_t pid = (uint32_t)getpid();
    return owner_pack(pid, process_start(pid));
}

static inline int owner_pidfd(uint64_t owner)
{
    return process_pidfd(owner_pid(owner), owner_start(owner));
}

static inline bool owner_is_dead(uint64_t owner)
{
    return process_verdict(owner_pid(owner), owner_start(owner)) == VERDICT_DEAD;
}

static inline bool owner_is_process(uint64_t owner)
{
    return owner_pid(owner) != 0;
}

/* Take an end that is free or whose owner is dead: 0, or the live owner in the way. */
static inline uint64_t owner_take(struct owned_end *end, uint64_t self)
{
    uint64_t owner = atomic_load(&end->owner);
    for (;;) {
        if (owner_is_process(owner) && !owner_is_dead(owner))
            return owner;
        if (atomic_compare_exchange_strong(&end->owner, &owner, self))
            break;
    }
    atomic_fetch_add(&end->generation, 1);
    return 0;
}

static inline void owner_give_back(struct owned_end *end, uint64_t self)
{
    atomic_compare_exchange_strong(&end->owner, &self, OWNER_CLOSED);
}

#endif
