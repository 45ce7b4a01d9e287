/* Whole calls on an MPMC ring: what lies between two states a caller may see.
 *
 * The extension, the rigs and the sanitizer programs all go through these, so
 * what is killed in the rigs is what is shipped.  Nothing here waits.
 */
#ifndef RINGS_MPMC_CALL_H
#define RINGS_MPMC_CALL_H

#include "owners.h"

/* A stalled slot is first asked about after STALL_MIN_NS, then at doubling
 * distances up to STALL_MAX_NS: a death shows within 50 ms. */
#ifndef STALL_MIN_NS
#define STALL_MIN_NS 1000000u
#endif
#define STALL_MAX_NS 50000000u

/* A sleeper whom nobody notifies looks again after SLEEP_MIN_NS, then at doubling
 * distances up to SLEEP_MAX_NS: whoever should have notified it may have died. */
#define SLEEP_MIN_NS 50000000u
#define SLEEP_MAX_NS 1000000000u

struct stall {
    uint64_t word;
    uint64_t since_ns;
    uint64_t ask_ns;
};

struct mpmc_member {
    struct mpmc ring;
    struct self self;
    int lock_fd;             /* our own open file description of the memory, or -1 */
    int event_fd[2];         /* eventfds by side: woken when it can go on; or -1 */
    struct stall stall[2];
    bool no_recovery;        /* the rigs' control */
    /* What a message refers to changes hands while its slot does: called with the slot
     * claimed and filled, with the slot taken and copied or to be dropped; or NULL. */
    void (*sending)(struct mpmc_member *member, const void *data, uint32_t length);
    void (*receiving)(struct mpmc_member *member, const void *data, uint32_t length);
    void (*dropping)(struct mpmc_member *member, const void *data, uint32_t length);
};

static inline void mpmc_notify(int event_fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(event_fd, &one, sizeof one);
    (void)ignored;
}

static inline void mpmc_notify_sleepers(struct mpmc_member *member, enum mpmc_side side)
{
    if (mpmc_must_notify(&member->ring, side) && member->event_fd[side] >= 0)
        mpmc_notify(member->event_fd[side]);
}

/* All below `freed` has been taken, or will be soon. */
static inline void mpmc_notify_room(struct mpmc_member *member, uint64_t freed)
{
    if (mpmc_must_notify_room(&member->ring, freed) && member->event_fd[MPMC_PUT] >= 0)
        mpmc_notify(member->event_fd[MPMC_PUT]);
}

static inline void mpmc_count(struct mpmc_member *member, enum mpmc_side side, uint64_t more)
{
    struct mpmc_owner *entry = owner_entry(&member->ring, member->ring.owner);
    count64(side == MPMC_PUT ? &entry->messages_put : &entry->messages_got, more);
}

static inline void mpmc_done_alone(struct mpmc_member *member, enum mpmc_side side, uint64_t at)
{
    mpmc_advance(&member->ring, side, at + 1);
    mpmc_count(member, side, 1);
}

/* ---- one message ---------------------------------------------------------------- */

/* Claim a slot and fill it.  After that it has to be published. */
__attribute__((always_inline)) static inline enum mpmc_result
mpmc_fill_at(struct mpmc_member *member, uint64_t *at, struct mpmc_slot **claimed,
             const void *data, uint32_t length)
{
    struct mpmc *ring = &member->ring;
    struct mpmc_slot *slot;
    enum mpmc_result result = mpmc_claim(ring, at, &slot);
    *claimed = slot;
    if (result != MPMC_OK)
        return mpmc_shut(ring) & SHUT_PUTS ? MPMC_SHUT : result;
    /* After the claim: who saw the ring empty and shut will not miss us. */
    if (mpmc_shut(ring) & SHUT_PUTS) {
        mpmc_abandon(ring, slot, *at);
        return MPMC_SHUT;
    }
    FAULT(2);
    store_relaxed(&slot->length, length);
    memcpy(slot->data, data, length);
    if (member->sending != NULL)
        member->sending(member, data, length);
    FAULT(3);
    return MPMC_OK;
}

/* Put at the first free index at or after `*at`.  The caller advances prod. */
static inline enum mpmc_result mpmc_put_at(struct mpmc_member *member, uint64_t *at,
                                           const void *data, uint32_t length)
{
    struct mpmc_slot *slot;
    enum mpmc_result result = mpmc_fill_at(member, at, &slot, data, length);
    if (result != MPMC_OK)
        return result;
    bool ours = mpmc_publish(&member->ring, slot, *at);
    FAULT(4);
    mpmc_notify_sleepers(member, MPMC_GET);
    return ours ? MPMC_OK : MPMC_BROKEN;
}

/* The next published index at or after `*at`, and the length of its message. */
static inline enum mpmc_result mpmc_peek(struct mpmc_member *member, uint64_t *at,
                                         uint32_t *length)
{
    struct mpmc *ring = &member->ring;
    /* Before the look: what a later claim would bring will see it too. */
    uint32_t shut = mpmc_shut(ring);
    enum mpmc_result result = shut & SHUT_GETS ? MPMC_SHUT : mpmc_ready(ring, at);
    if (result == MPMC_WOULD_BLOCK && shut)
        return MPMC_SHUT;
    if (result != MPMC_OK)
        return result;
    *length = mpmc_length(ring, *at);
    return *length <= ring->slot_size ? MPMC_OK : MPMC_BROKEN;
}

/* Take the peeked message into `out`.  False if somebody else did: peek again. */
__attribute__((always_inline)) static inline bool
mpmc_copy_at(struct mpmc_member *member, struct mpmc_slot *slot, uint64_t at, void *out,
             uint32_t length)
{
    if (!mpmc_take(&member->ring, slot, at))
        return false;
    memcpy(out, slot->data, length);
    if (member->receiving != NULL)
        member->receiving(member, out, length);
    FAULT(6);
    return true;
}

static inline bool mpmc_get_alone(struct mpmc_member *member, uint64_t at, void *out,
                                  uint32_t length)
{
    struct mpmc_slot *slot = mpmc_slot(&member->ring, at);
    if (!mpmc_copy_at(member, slot, at, out, length))
        return false;
    mpmc_free(&member->ring, slot, at);
    FAULT(7);
    mpmc_done_alone(member, MPMC_GET, at);
    mpmc_notify_room(member, at + 1);
    return true;
}

/* ---- one message of a run ---------------------------------------------------------- */

/* A run: consecutive messages of one call, each complete before the next is begun. */
struct run {
    uint64_t at;     /* where the next one is looked for */
    uint64_t looked; /* by a put that failed: it may have looked before the run */
    uint64_t last;   /* of ours */
    uint64_t done;
    enum mpmc_result result; /* what ended it */
};

static inline struct run mpmc_run(const struct mpmc_member *member, enum mpmc_side side)
{
    return (struct run){.at = mpmc_index(&member->ring, side)};
}

static inline void mpmc_run_goes_on(struct run *run)
{
    run->last = run->at++;
    run->done++;
}

static inline bool mpmc_run_put(struct mpmc_member *member, struct run *run, const void *data,
                                uint32_t length)
{
    struct mpmc_slot *slot;
    run->looked = run->at;
    run->result = mpmc_fill_at(member, &run->looked, &slot, data, length);
    if (run->result != MPMC_OK)
        return false;
    run->at = run->looked;
    bool ours = mpmc_publish_in_run(&member->ring, slot, run->at);
    FAULT(4);
    if (!ours) {
        run->result = MPMC_BROKEN;
        return false;
    }
    mpmc_run_goes_on(run);
    mpmc_notify_sleepers(member, MPMC_GET);
    return true;
}

/* False if somebody else took the message: peek again. */
static inline bool mpmc_run_get(struct mpmc_member *member, struct run *run, void *out,
                                uint32_t length)
{
    struct mpmc_slot *slot = mpmc_slot(&member->ring, run->at);
    if (!mpmc_copy_at(member, slot, run->at, out, length))
        return false;
    mpmc_free_in_run(&member->ring, slot, run->at);
    FAULT(7);
    mpmc_run_goes_on(run);
    mpmc_notify_room(member, run->at);
    return true;
}

/* What a run owes: the index, its count, and a look for those who went to sleep since. */
static inline void mpmc_run_end(struct mpmc_member *member, enum mpmc_side side,
                                const struct run *run)
{
    mpmc_advance(&member->ring, side, run->at);
    if (run->done == 0)
        return;
    mpmc_run_over(&member->ring, run->last);
    if (side == MPMC_PUT)
        mpmc_notify_sleepers(member, MPMC_GET);
    else
        mpmc_notify_room(member, run->at);
    mpmc_count(member, side, run->done);
}

/* ---- single calls ---------------------------------------------------------------- */

/* Where a call that would block stopped is in `*at`. */
static inline enum mpmc_result mpmc_put(struct mpmc_member *member, uint64_t *at,
                                        const void *data, uint32_t length)
{
    *at = mpmc_index(&member->ring, MPMC_PUT);
    enum mpmc_result result = mpmc_put_at(member, at, data, length);
    if (result == MPMC_OK)
        mpmc_done_alone(member, MPMC_PUT, *at);
    return result;
}

/* `out` holds slot_size bytes. */
static inline enum mpmc_result mpmc_get(struct mpmc_member *member, uint64_t *at, void *out,
                                        uint32_t *length)
{
    *at = mpmc_index(&member->ring, MPMC_GET);
    enum mpmc_result result;
    do
        result = mpmc_peek(member, at, length);
    while (result == MPMC_OK && !mpmc_get_alone(member, *at, out, *length));
    return result;
}

/* Refuse further puts (and, `immediate`, gets), and wake everybody to see it. */
static inline void mpmc_shut_down(struct mpmc_member *member, bool immediate)
{
    shared_u32 *shut = &member->ring.header->side[MPMC_GET].shut;
    atomic_fetch_or_explicit(shut, SHUT_PUTS | (immediate ? SHUT_GETS : 0), memory_order_seq_cst);
    mpmc_notify(member->event_fd[MPMC_PUT]);
    mpmc_notify(member->event_fd[MPMC_GET]);
}

/* ---- stalls ------------------------------------------------------------------------ */

/* Somebody died, his slots are settled: everybody looks again. */
static inline void mpmc_notify_recovery(struct mpmc_member *member)
{
    for (int side = 0; side < 2; side++)
        if (member->event_fd[side] >= 0)
            mpmc_notify(member->event_fd[side]);
}

static inline uint64_t mpmc_stall_age(const struct stall *stall, uint64_t now)
{
    uint64_t age = now - stall->since_ns;
    return age < STALL_MIN_NS ? STALL_MIN_NS : age > STALL_MAX_NS ? STALL_MAX_NS : age;
}

/* True if it is time to ask whether the owner of a stalled slot lives. */
static inline bool mpmc_stall_due(struct stall *stall, uint64_t word)
{
    uint64_t now = now_ns();
    if (word != stall->word)
        *stall = (struct stall){word, now, now + STALL_MIN_NS};
    if (now < stall->ask_ns)
        return false;
    stall->ask_ns = now + mpmc_stall_age(stall, now);
    return true;
}

/* A call found slot `at` in somebody's hands: if he is dead, settle what he left.
 * True if it is worth trying again at once. */
__attribute__((cold)) static inline bool mpmc_unstall(struct mpmc_member *member,
                                                      enum mpmc_side side, uint64_t at)
{
    struct mpmc *ring = &member->ring;
    uint64_t word = load64_acquire(&mpmc_slot(ring, at)->word);
    uint32_t owner = mpmc_owner_of(word);
    if (owner == 0 || owner > MPMC_OWNERS)
        return owner == 0;
    if (!mpmc_stall_due(&member->stall[side], word) || member->no_recovery)
        return false;
    uint64_t entry = load64_acquire(&owner_entry(ring, owner)->word);
    if (!owner_is_dead(ring, &member->self, member->lock_fd, owner, entry))
        return false;
    owner_recover(ring, owner, entry);
    mpmc_notify_recovery(member);
    return true;
}

/* ---- dropping the oldest ------------------------------------------------------------ */

/* Throw the peeked message away, and count it as lost.  False if somebody else took it. */
static inline bool mpmc_drop_at(struct mpmc_member *member, uint64_t at, uint32_t length)
{
    struct mpmc *ring = &member->ring;
    shared_u64 *lost = &owner_entry(ring, ring->owner)->lost;
    owner_forget_tag(lost, at);
    if (!mpmc_condemn(ring, at))
        return false;
    FAULT(13);
    if (member->dropping != NULL)
        member->dropping(member, mpmc_slot(ring, at)->data, length);
    owner_count_drop(lost, at);
    FAULT(14);
    mpmc_free_condemned(ring, at);
    mpmc_advance(ring, MPMC_GET, at + 1);
    mpmc_notify_room(member, at + 1);
    return true;
}

/* Peek, settling on the way what the dead left. */
static inline enum mpmc_result mpmc_peek_unstalling(struct mpmc_member *member, uint64_t *at,
                                                    uint32_t *length)
{
    enum mpmc_result result;
    do
        result = mpmc_peek(member, at, length);
    while (result == MPMC_STALLED && mpmc_unstall(member, MPMC_GET, *at));
    return result;
}

/* Make room by one message: MPMC_OK if the oldest is gone, by our hand or another's. */
static inline enum mpmc_result mpmc_drop_oldest(struct mpmc_member *member)
{
    uint64_t at = mpmc_index(&member->ring, MPMC_GET);
    uint32_t length;
    enum mpmc_result result = mpmc_peek_unstalling(member, &at, &length);
    if (result == MPMC_OK)
        mpmc_drop_at(member, at, length);
    return result;
}

/* Drop messages as long as there is a newer one, at most a ring of them: producers may be
 * faster.  Not up to prod, which may lag behind the newest. */
static inline void mpmc_drop_to_newest(struct mpmc_member *member)
{
    uint64_t at = mpmc_index(&member->ring, MPMC_GET);
    uint32_t length;
    for (uint32_t i = 0; i < member->ring.nr_slots; i++) {
        if (mpmc_peek_unstalling(member, &at, &length) != MPMC_OK)
            return;
        uint64_t newer = at + 1;
        if (mpmc_ready(&member->ring, &newer) != MPMC_OK)
            return;
        mpmc_drop_at(member, at, length);
    }
}

static inline enum mpmc_result mpmc_put_unstalling(struct mpmc_member *member, uint64_t *at,
                                                   const void *data, uint32_t length)
{
    enum mpmc_result result;
    do
        result = mpmc_put(member, at, data, length);
    while (result == MPMC_STALLED && mpmc_unstall(member, MPMC_PUT, *at));
    return result;
}

static inline enum mpmc_result mpmc_get_unstalling(struct mpmc_member *member, uint64_t *at,
                                                   void *out, uint32_t *length)
{
    enum mpmc_result result;
    do
        result = mpmc_get(member, at, out, length);
    while (result == MPMC_STALLED && mpmc_unstall(member, MPMC_GET, *at));
    return result;
}

/* How long to wait before the next try: not long while somebody works on the slot, nor
 * for room, of which nobody may tell. */
static inline uint64_t mpmc_slice_ns(const struct mpmc_member *member, enum mpmc_side side,
                                     enum mpmc_result result)
{
    if (result != MPMC_STALLED)
        return side == MPMC_PUT && member->ring.few > 1 ? SLEEP_MIN_NS : SLEEP_MAX_NS;
    return mpmc_stall_age(&member->stall[side], now_ns());
}

/* ---- membership -------------------------------------------------------------------- */

static inline int mpmc_open_lock(int region_fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", region_fd);
    return region_fd < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
}

/* Join a bound ring; false if all MPMC_OWNERS entries belong to the living. */
static inline bool mpmc_join(struct mpmc_member *member, int region_fd)
{
    member->self = self_now();
    member->lock_fd = mpmc_open_lock(region_fd);
    if (owner_join(&member->ring, &member->self, member->lock_fd))
        return true;
    FAULT(0);
    /* Whoever frees the entries of the dead, we or another that joins: try again. */
    owner_recover_all(&member->ring, &member->self, member->lock_fd);
    if (owner_join(&member->ring, &member->self, member->lock_fd))
        return true;
    if (member->lock_fd >= 0)
        close(member->lock_fd);
    member->lock_fd = -1;
    return false;
}

static inline void mpmc_leave(struct mpmc_member *member)
{
    owner_leave(&member->ring, member->lock_fd);
    if (member->lock_fd >= 0)
        close(member->lock_fd);
    member->lock_fd = -1;
}

/* In a forked child: the entry and its lock are the parent's. */
static inline void mpmc_forget(struct mpmc_member *member)
{
    if (member->lock_fd >= 0)
        close(member->lock_fd);
    member->lock_fd = -1;
    member->ring.owner = 0;
}

#endif
