/* Who owns slots of an MPMC ring, whether they live, and what is done if not.
 *
 * A member is an entry of the owner table; its number stands in the slots it is
 * working on.  An entry is freed by its member when it leaves, or by a survivor
 * after every slot of the dead member has been settled, and only then can its
 * number be given away again.  Every step is one compare-and-swap whose outcome
 * does not depend on who makes it, so recoverers may race and may die.
 *
 * Proof of death, and nothing short of one:
 *
 *  1. Same pid namespace: what the kernel says of that very process (process.h).
 *  2. Elsewhere, or where it will not say: the member's lock on its entry's
 *     byte of the memory is gone.  The kernel drops that open-file-description
 *     lock when the last descriptor of it closes.
 *  3. Neither can be asked: it lives.
 *
 * The lock is second because it errs both ways: a forked child that outlives its
 * parent keeps the lock, and a process that closes all descriptors to become a
 * daemon drops it while it lives.
 */
#ifndef RINGS_OWNERS_H
#define RINGS_OWNERS_H

#include "mpmc.h"
#include "process.h"

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

enum owner_state { OWNER_FREE = 0, OWNER_JOINING = 1, OWNER_ALIVE = 2, OWNER_LOCKED = 8 };

#define OWNER_FIELD(bits) ((UINT64_C(1) << (bits)) - 1)

/* What one process knows of itself. */
struct self {
    uint32_t pid;
    uint64_t start_time;
    uint64_t pid_space;
};

static inline uint64_t owner_make(unsigned state, uint64_t generation, uint64_t deaths,
                                  uint32_t pid)
{
    return (state & 15) | (generation & OWNER_FIELD(19)) << 4 | (deaths & OWNER_FIELD(19)) << 23 |
           (uint64_t)pid << 42;
}

static inline unsigned owner_state(uint64_t word) { return word & 7; }
static inline bool owner_locked(uint64_t word) { return word & OWNER_LOCKED; }
static inline uint64_t owner_generation(uint64_t word) { return word >> 4 & OWNER_FIELD(19); }
static inline uint64_t owner_deaths(uint64_t word) { return word >> 23 & OWNER_FIELD(19); }
static inline uint32_t owner_pid(uint64_t word) { return (uint32_t)(word >> 42); }

static inline struct mpmc_owner *owner_entry(const struct mpmc *ring, uint32_t owner)
{
    return &ring->header->owners[owner - 1];
}

static inline struct self self_now(void)
{
    uint32_t pid = (uint32_t)getpid();
    return (struct self){pid, process_start(pid), process_space()};
}

/* ---- proof of death ---------------------------------------------------------- */

static inline enum verdict pid_verdict(const struct self *self, uint32_t pid, uint64_t start_time,
                                       uint64_t pid_space)
{
    if (pid_space == 0 || pid_space != self->pid_space)
        return VERDICT_UNKNOWN;
    return process_verdict(pid, start_time);
}

static inline struct flock owner_lock(uint32_t owner)
{
    return (struct flock){
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = (off_t)(MPMC_HEADER_OFFSET + offsetof(struct mpmc_header, owners) +
                           (owner - 1) * sizeof(struct mpmc_owner)),
        .l_len = 1,
    };
}

/* `lock_fd` is the asker's own open file description of the memory, or -1. */
static inline enum verdict lock_verdict(int lock_fd, uint32_t owner, uint64_t word)
{
    struct flock lock = owner_lock(owner);
    if (lock_fd < 0 || !owner_locked(word) || fcntl(lock_fd, F_OFD_GETLK, &lock) < 0)
        return VERDICT_UNKNOWN;
    return lock.l_type == F_UNLCK ? VERDICT_DEAD : VERDICT_ALIVE;
}

static inline bool owner_is_dead(const struct mpmc *ring, const struct self *self, int lock_fd,
                                 uint32_t owner, uint64_t word)
{
    struct mpmc_owner *entry = owner_entry(ring, owner);
    enum verdict verdict = VERDICT_UNKNOWN;
    if (owner_state(word) == OWNER_FREE || owner == ring->owner)
        return false;
    if (owner_state(word) == OWNER_ALIVE)
        verdict = pid_verdict(self, owner_pid(word), load64(&entry->start_time),
                              load64(&entry->pid_space));
    if (verdict == VERDICT_UNKNOWN)
        verdict = lock_verdict(lock_fd, owner, word);
    return verdict == VERDICT_DEAD && load64_acquire(&entry->word) == word;
}

/* ---- joining and leaving ------------------------------------------------------- */

static inline bool owner_try_lock(int lock_fd, uint32_t owner, short type)
{
    struct flock lock = owner_lock(owner);
    lock.l_type = type;
    return fcntl(lock_fd, F_OFD_SETLK, &lock) == 0;
}

static inline bool owner_take_entry(struct mpmc *ring, const struct self *self, unsigned locked,
                                    uint32_t owner, uint64_t word)
{
    struct mpmc_owner *entry = owner_entry(ring, owner);
    uint64_t generation = owner_generation(word) + 1, deaths = owner_deaths(word);
    uint64_t joining = owner_make(OWNER_JOINING | locked, generation, deaths, self->pid);
    uint64_t alive = owner_make(OWNER_ALIVE | locked, generation, deaths, self->pid);
    if (!swap64(&entry->word, word, joining))
        return false;
    FAULT(8);
    atomic_store_explicit(&entry->start_time, self->start_time, memory_order_relaxed);
    atomic_store_explicit(&entry->pid_space, self->pid_space, memory_order_relaxed);
    FAULT(9);
    /* release: member-joined. */
    if (!swap64(&entry->word, joining, alive))
        return false;
    ring->owner = owner;
    ring->owner_word = alive;
    return true;
}

/* Become a member: true, or false if every entry is taken. */
static inline bool owner_join(struct mpmc *ring, const struct self *self, int lock_fd)
{
    for (uint32_t owner = 1; owner <= MPMC_OWNERS; owner++) {
        uint64_t word = load64_acquire(&owner_entry(ring, owner)->word);
        if (owner_state(word) != OWNER_FREE)
            continue;
        bool locked = lock_fd >= 0 && owner_try_lock(lock_fd, owner, F_WRLCK);
        if (lock_fd >= 0 && !locked && (errno == EAGAIN || errno == EACCES))
            continue;
        if (owner_take_entry(ring, self, locked ? OWNER_LOCKED : 0, owner, word))
            return true;
        if (locked)
            owner_try_lock(lock_fd, owner, F_UNLCK);
    }
    return false;
}

/* Leave in good order: no slot is ours between calls. */
static inline void owner_leave(struct mpmc *ring, int lock_fd)
{
    uint64_t word = ring->owner_word;
    if (ring->owner == 0)
        return;
    swap64(&owner_entry(ring, ring->owner)->word, word,
           owner_make(OWNER_FREE, owner_generation(word), owner_deaths(word), 0));
    if (lock_fd >= 0)
        owner_try_lock(lock_fd, ring->owner, F_UNLCK);
    ring->owner = 0;
}

/* ---- recovery -------------------------------------------------------------------- */

/* Count the loss at `index` once, however many recoverers come by. */
static inline void owner_count_loss(shared_u64 *counter, uint64_t index)
{
    uint64_t tag = UINT64_C(1) << 39 | (index & OWNER_FIELD(39)); /* never 0: nothing lost */
    uint64_t old = load64(counter);
    while ((old & OWNER_FIELD(40)) != tag &&
           !swap64(counter, old, ((old >> 40) + 1) << 40 | tag))
        old = load64(counter);
    FAULT(10);
}

/* What was dropped is counted between taking its slot and freeing it, by the member or,
 * if it died there, by a recoverer: `tag` says that the message at this index has been
 * counted already.  It is shorter than an index, so the member clears one that happens
 * to fit before it takes the slot. */
static inline uint64_t owner_drop_tag(uint64_t index)
{
    return UINT64_C(1) << 23 | (index & OWNER_FIELD(23)); /* never 0, and of any width */
}

static inline void owner_forget_tag(shared_u64 *lost, uint64_t index)
{
    uint64_t old = load64(lost);
    if ((old & OWNER_FIELD(24)) == owner_drop_tag(index))
        swap64(lost, old, old & ~OWNER_FIELD(24));
}

static inline void owner_count_drop(shared_u64 *lost, uint64_t index)
{
    uint64_t tag = owner_drop_tag(index), old = load64(lost);
    while ((old & OWNER_FIELD(24)) != tag && !swap64(lost, old, ((old >> 24) + 1) << 24 | tag))
        old = load64(lost);
}

/* Count messages that were refused: they have no index. */
static inline void owner_count_refused(shared_u64 *lost, uint64_t count)
{
    atomic_fetch_add_explicit(lost, count << 24, memory_order_relaxed);
}

/* Settle one slot of a dead member.  `seen` was loaded before the caller found the
 * entry unchanged, so it is the dead one's and not a successor's. */
static inline void owner_settle(struct mpmc *ring, struct mpmc_owner *entry,
                                struct mpmc_slot *slot, uint64_t seen)
{
    uint64_t index = seen >> 16;
    if (mpmc_state(seen) == MPMC_WRITING) {
        owner_count_loss(&entry->tombstones, index);
        swap64(&slot->word, seen, mpmc_make(index, 0, MPMC_TOMB));
    } else if (mpmc_state(seen) == MPMC_READING) {
        owner_count_loss(&entry->in_doubt, index);
        swap64(&slot->word, seen, mpmc_make(index + ring->nr_slots, 0, MPMC_FREE));
    } else if (mpmc_state(seen) == MPMC_DROPPING) {
        owner_count_drop(&entry->lost, index);
        swap64(&slot->word, seen, mpmc_make(index + ring->nr_slots, 0, MPMC_FREE));
    }
    FAULT(11);
}

/* Settle every slot of a member that is known to be dead, then free its number.
 * True if this call freed it. */
static inline bool owner_recover(struct mpmc *ring, uint32_t owner, uint64_t word)
{
    struct mpmc_owner *entry = owner_entry(ring, owner);
    for (uint64_t i = 0; i < ring->nr_slots; i++) {
        struct mpmc_slot *slot = mpmc_slot(ring, i);
        uint64_t seen = load64_acquire(&slot->word);
        if (mpmc_owner_of(seen) != owner)
            continue;
        if (load64_acquire(&entry->word) != word)
            return false;
        owner_settle(ring, entry, slot, seen);
    }
    bool freed = swap64(&entry->word, word,
                        owner_make(OWNER_FREE, owner_generation(word), owner_deaths(word) + 1, 0));
    FAULT(12);
    return freed;
}

/* Recover every dead member; returns how many this call freed. */
static inline uint32_t owner_recover_all(struct mpmc *ring, const struct self *self, int lock_fd)
{
    uint32_t freed = 0;
    for (uint32_t owner = 1; owner <= MPMC_OWNERS; owner++) {
        /* acquire: member-joined. */
        uint64_t word = load64_acquire(&owner_entry(ring, owner)->word);
        if (owner_is_dead(ring, self, lock_fd, owner, word))
            freed += owner_recover(ring, owner, word);
    }
    return freed;
}

#endif
