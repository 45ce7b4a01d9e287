/* The one place where anything of ours goes to sleep.
 *
 * look -> spin a while -> announce, look again -> sleep -> look
 *
 * `final_check` announces (a full-barrier store of an event index or a waiter
 * count) and looks once more; only when that finds nothing does the caller
 * sleep.  Nothing here retries EINTR: the caller decides, so Ctrl-C works.
 *
 * Spinning adapts: a spin shorter than the time that passes anyway costs CPU and
 * gains nothing, so after SPIN_MISSES spins in a row that ended in sleep the next
 * SPIN_SKIP waits sleep at once, and then one spin is tried again.
 */
#ifndef RINGS_WAIT_H
#define RINGS_WAIT_H

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "core.h"

#ifndef POLLRDHUP
#define POLLRDHUP 0x2000
#endif

enum { SPIN_MISSES = 4, SPIN_SKIP = 64, SPIN_LOOKS = 16 };
#define SPIN_FOREVER UINT64_MAX /* the `busy` strategy */
#define NO_DEADLINE UINT64_MAX
#define WAIT_SLICE_NS 1000000000u /* a signal between look and sleep waits this long */
#define BUSY_SLICE_NS 10000000u   /* and between two looks at hangup_fd when never asleep */

/* Inlined where a ring waits, so that its own look is, too: after a sleep each call
 * through a pointer is a jump that the processor has forgotten. */
#define WAIT_INLINE __attribute__((always_inline))

struct spin {
    uint64_t max_ns; /* 0: never spin */
    uint32_t misses;
    uint32_t skip;
};

enum wait_result {
    WAIT_TIMED_OUT = 0,
    WAIT_READY = 1,
    WAIT_BROKEN = 2,      /* the ring's own words are impossible */
    WAIT_HUNG_UP = 3,     /* the peer, or the connection to it, is gone */
    WAIT_INTERRUPTED = 4, /* a signal, or a slice is over: look at signals, call again */
};

struct waiter {
    void *ring;
    int64_t (*look)(void *ring);        /* > 0 ready, 0 nothing, < 0 broken */
    int64_t (*final_check)(void *ring); /* the same, having announced */
    /* How to sleep, or NULL for poll() on the two descriptors below. */
    enum wait_result (*sleep)(void *ring, uint64_t deadline_ns);
    struct spin *spin;                  /* NULL: never spin */
    int event_fd;                       /* the peer writes it (eventfd, non-blocking) */
    int hangup_fd;                      /* socket or pidfd of the peer, or -1 */
};

static inline bool is_past(uint64_t deadline_ns)
{
    return deadline_ns != NO_DEADLINE && now_ns() >= deadline_ns;
}

static inline enum wait_result wait_verdict(int64_t ready)
{
    return ready < 0 ? WAIT_BROKEN : ready > 0 ? WAIT_READY : WAIT_TIMED_OUT;
}

/* True if it is worth spinning this time. */
static inline bool spin_allowed(struct spin *spin)
{
    if (spin == NULL || spin->max_ns == 0)
        return false;
    if (spin->skip == 0)
        return true;
    spin->skip--;
    return false;
}

static inline void spin_missed(struct spin *spin)
{
    if (++spin->misses >= SPIN_MISSES) {
        spin->misses = SPIN_MISSES - 1;
        spin->skip = SPIN_SKIP;
    }
}

static inline int64_t wait_spin(const struct waiter *waiter, uint64_t deadline_ns)
{
    uint64_t start = now_ns(), now = start;
    uint64_t limit = waiter->spin->max_ns == SPIN_FOREVER ? start + BUSY_SLICE_NS
                                                          : start + waiter->spin->max_ns;
    if (limit > deadline_ns)
        limit = deadline_ns;
    do {
        for (int i = 0; i < SPIN_LOOKS; i++) {
            int64_t ready = waiter->look(waiter->ring);
            if (ready != 0) {
                waiter->spin->misses = 0;
                return ready;
            }
            cpu_relax();
        }
        now = now_ns();
    } while (now < limit);
    if (waiter->spin->max_ns != SPIN_FOREVER)
        spin_missed(waiter->spin);
    return 0;
}

static inline void event_drain(int event_fd)
{
    uint64_t count;
    ssize_t ignored = read(event_fd, &count, sizeof count);
    (void)ignored;
}

/* Sleep until the peer notifies, hangs up, a signal comes or a slice is over. */
static inline enum wait_result wait_sleep(const struct waiter *waiter, uint64_t deadline_ns)
{
    uint64_t now = now_ns();
    if (now >= deadline_ns)
        return WAIT_TIMED_OUT;
    uint64_t left = deadline_ns - now;
    if (left > WAIT_SLICE_NS)
        left = WAIT_SLICE_NS;
    struct pollfd fds[2] = {
        {.fd = waiter->event_fd, .events = POLLIN},
        {.fd = waiter->hangup_fd, .events = POLLIN | POLLRDHUP},
    };
    struct timespec ts = {.tv_sec = (time_t)(left / 1000000000u),
                          .tv_nsec = (long)(left % 1000000000u)};
    int n = ppoll(fds, 2, &ts, NULL);
    if (n < 0)
        return WAIT_INTERRUPTED;
    if (fds[0].revents)
        event_drain(waiter->event_fd);
    int64_t ready = waiter->look(waiter->ring);
    if (ready != 0)
        return wait_verdict(ready);
    if (fds[1].revents)
        return WAIT_HUNG_UP;
    return WAIT_INTERRUPTED;
}

/* A slice of `busy` is over: the peer may be gone. */
static inline enum wait_result wait_busy(const struct waiter *waiter, uint64_t deadline_ns)
{
    struct pollfd fd = {.fd = waiter->hangup_fd, .events = POLLIN | POLLRDHUP};
    if (waiter->hangup_fd >= 0 && poll(&fd, 1, 0) > 0) {
        int64_t ready = waiter->look(waiter->ring);
        return ready != 0 ? wait_verdict(ready) : WAIT_HUNG_UP;
    }
    return now_ns() >= deadline_ns ? WAIT_TIMED_OUT : WAIT_INTERRUPTED;
}

/* Wait until `look` finds something.  Call again on WAIT_INTERRUPTED. */
static inline WAIT_INLINE
enum wait_result wait_once(const struct waiter *waiter, uint64_t deadline_ns)
{
    int64_t ready = waiter->look(waiter->ring);
    if (ready == 0 && spin_allowed(waiter->spin))
        ready = wait_spin(waiter, deadline_ns);
    if (ready == 0 && waiter->spin != NULL && waiter->spin->max_ns == SPIN_FOREVER)
        return wait_busy(waiter, deadline_ns);
    if (ready == 0)
        ready = waiter->final_check(waiter->ring);
    if (ready != 0)
        return wait_verdict(ready);
    if (waiter->sleep != NULL)
        return waiter->sleep(waiter->ring, deadline_ns);
    return wait_sleep(waiter, deadline_ns);
}

#endif
