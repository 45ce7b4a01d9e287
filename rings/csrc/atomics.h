/* ECMAScript's Atomics on words of 32 or 64 bits, and its wait and notify.
 *
 * Every operation is sequentially consistent.  Operands travel as u64 and are cut
 * to the word's size, which is ECMAScript's modular conversion; the caller gives
 * the sign back.
 *
 * Waiting is futex(2), never the private kind: the key is the page behind the
 * mapping, so waiter and notifier may be processes that map it at different
 * places.  The kernel compares and queues under one lock; that is the critical
 * section that ECMAScript's wait asks for.
 *
 * A futex is 32 bits wide.  A 64-bit wait therefore queues on both halves by one
 * futex_waitv(2), the low half first, and notify wakes the low half:
 *
 *   wait:    queue(low), low == expected?  queue(high), high == expected?  sleep
 *   notify:  wake(low)
 *
 * Whoever sleeps found each half equal after it was queued on the low one.  So a
 * change that makes the word differ comes after that queueing, and the notify
 * that follows the change finds the sleeper.  Each sleeper is queued on the low
 * half exactly once, so the number woken is right too.
 *
 * Source: ECMA-262, 25.4 (The Atomics Object); futex(2), futex_waitv(2).
 */
#ifndef RINGS_ATOMICS_H
#define RINGS_ATOMICS_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* the same number on every architecture */
#endif

struct atomics_word {
    void *at;
    bool wide; /* 64 bits, not 32 */
};

enum atomics_op {
    ATOMICS_ADD,
    ATOMICS_SUB,
    ATOMICS_AND,
    ATOMICS_OR,
    ATOMICS_XOR,
    ATOMICS_EXCHANGE,
};

#define ATOMICS_APPLY(word, op, operand)                        \
    switch (op) {                                               \
    case ATOMICS_ADD: return atomic_fetch_add(word, operand);   \
    case ATOMICS_SUB: return atomic_fetch_sub(word, operand);   \
    case ATOMICS_AND: return atomic_fetch_and(word, operand);   \
    case ATOMICS_OR: return atomic_fetch_or(word, operand);     \
    case ATOMICS_XOR: return atomic_fetch_xor(word, operand);   \
    case ATOMICS_EXCHANGE: break;                               \
    }                                                           \
    return atomic_exchange(word, operand)

static inline uint32_t atomics_apply32(shared_u32 *word, enum atomics_op op, uint32_t operand)
{
    ATOMICS_APPLY(word, op, operand);
}

static inline uint64_t atomics_apply64(shared_u64 *word, enum atomics_op op, uint64_t operand)
{
    ATOMICS_APPLY(word, op, operand);
}

/* Change the word; returns what was there before. */
static inline uint64_t atomics_apply(struct atomics_word word, enum atomics_op op,
                                     uint64_t operand)
{
    return word.wide ? atomics_apply64(word.at, op, operand)
                     : atomics_apply32(word.at, op, (uint32_t)operand);
}

static inline uint64_t atomics_load(struct atomics_word word)
{
    return word.wide ? atomic_load((shared_u64 *)word.at) : atomic_load((shared_u32 *)word.at);
}

/* Store `desired` if the word is `expected`; returns what was there before. */
static inline uint64_t atomics_compare_exchange(struct atomics_word word, uint64_t expected,
                                                uint64_t desired)
{
    if (word.wide) {
        atomic_compare_exchange_strong((shared_u64 *)word.at, &expected, desired);
        return expected;
    }
    uint32_t narrow = (uint32_t)expected;
    atomic_compare_exchange_strong((shared_u32 *)word.at, &narrow, (uint32_t)desired);
    return narrow;
}

/* ---- waiting ------------------------------------------------------------- */

#define ATOMICS_NO_DEADLINE UINT64_MAX

enum atomics_wait_result {
    ATOMICS_WOKEN,
    ATOMICS_CHANGED, /* the word was not `expected` when we came to queue */
    ATOMICS_TIMED_OUT,
    ATOMICS_INTERRUPTED,
    ATOMICS_FAILED, /* errno says why */
};

struct atomics_half { /* struct futex_waitv of <linux/futex.h> 5.16 */
    uint64_t val;
    uint64_t uaddr;
    uint32_t flags;
    uint32_t reserved;
};
_Static_assert(sizeof(struct atomics_half) == 24, "kernel ABI");
enum { ATOMICS_HALF_U32 = 2 }; /* FUTEX_32; no FUTEX_PRIVATE_FLAG */

static inline long atomics_sleep32(void *at, uint32_t expected, const struct timespec *until)
{
    return syscall(SYS_futex, at, FUTEX_WAIT_BITSET, expected, until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

static inline long atomics_sleep64(void *at, uint64_t expected, const struct timespec *until)
{
    struct atomics_half halves[2] = {
        {.val = (uint32_t)expected, .uaddr = (uintptr_t)at, .flags = ATOMICS_HALF_U32},
        {.val = expected >> 32, .uaddr = (uintptr_t)at + 4, .flags = ATOMICS_HALF_U32},
    };
    return syscall(SYS_futex_waitv, halves, 2, 0, until, CLOCK_MONOTONIC);
}

/* Sleep while the word is `expected`, until notified or CLOCK_MONOTONIC passes
 * `deadline_ns`.  Does not retry EINTR: the caller decides. */
static inline enum atomics_wait_result atomics_sleep(struct atomics_word word, uint64_t expected,
                                                     uint64_t deadline_ns)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                             .tv_nsec = (long)(deadline_ns % 1000000000u)};
    struct timespec *deadline = deadline_ns == ATOMICS_NO_DEADLINE ? NULL : &until;
    long rc = word.wide ? atomics_sleep64(word.at, expected, deadline)
                        : atomics_sleep32(word.at, (uint32_t)expected, deadline);
    if (rc >= 0)
        return ATOMICS_WOKEN;
    switch (errno) {
    case EAGAIN: return ATOMICS_CHANGED;
    case ETIMEDOUT: return ATOMICS_TIMED_OUT;
    case EINTR: return ATOMICS_INTERRUPTED;
    default: return ATOMICS_FAILED;
    }
}

/* Wake up to `count` sleepers, first come first served; how many, or -1 with errno.
 * Zero is answered here: the kernel takes it for one. */
static inline long atomics_notify(struct atomics_word word, uint32_t count)
{
    if (count == 0)
        return 0;
    if (count > INT_MAX)
        count = INT_MAX;
    return syscall(SYS_futex, word.at, FUTEX_WAKE, count, NULL, NULL, 0);
}

#endif
