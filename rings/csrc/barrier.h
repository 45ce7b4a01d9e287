/* A full barrier between two, for which only the one that sleeps pays.
 *
 * Who publishes stores an index and looks at an event word; who goes to sleep stores
 * the event word and looks at the index.  One of them must see the other's store, so
 * each needs a full barrier in between, and the publisher has one for each message
 * while the sleeper has one for each sleep.  membarrier(2) moves the publisher's to
 * where the sleeper is: the call returns once every running thread of every process
 * that is registered for it has had a full barrier of its own; a thread that does not
 * run had one when it stopped.  A registered publisher then needs to keep its store
 * and its look in this order for the compiler only.
 *
 * Where the call is missing or refused, the sleeper pauses instead.  A store waits in
 * its processor's buffer for some hundred nanoseconds; the pause is thousands of times
 * that.  It is taken once, until the publisher has turned to full barriers.
 *
 * A seccomp filter may kill who makes a call it does not know, and nothing but such a
 * call would tell: a thread under any filter makes none unless it is told that it may.
 *
 * Source: membarrier(2).
 */
#ifndef RINGS_BARRIER_H
#define RINGS_BARRIER_H

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

#ifndef SYS_membarrier
#if defined(__x86_64__)
#define SYS_membarrier 324
#else
#define SYS_membarrier 283
#endif
#endif

enum {
    BARRIER_QUERY = 0,
    BARRIER_GLOBAL = 2,   /* MEMBARRIER_CMD_GLOBAL_EXPEDITED */
    BARRIER_REGISTER = 4, /* MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED */
    BARRIER_PAUSE_MS = 1,
};

/* Register this process; false if the kernel has no such barrier, or refuses it. */
static inline bool barrier_join(void)
{
    long known = syscall(SYS_membarrier, BARRIER_QUERY, 0, 0);
    long needed = BARRIER_GLOBAL | BARRIER_REGISTER;
    return known > 0 && (known & needed) == needed &&
           syscall(SYS_membarrier, BARRIER_REGISTER, 0, 0) == 0;
}

/* Whether no filter stands between this thread and the kernel, for all we can read. */
static inline bool barrier_unfiltered(void)
{
    char text[4096];
    int fd = open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, "\nSeccomp:\t0\n") != NULL;
}

/* Keep a store before a load, for the compiler: the publisher's part. */
static inline void barrier_light(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* The sleeper's part, for both.  False if it took a pause: `permitted` was not so. */
static inline bool barrier_heavy(bool permitted)
{
    if (permitted && syscall(SYS_membarrier, BARRIER_GLOBAL, 0, 0) == 0)
        return true;
    uint64_t end = now_ns() + BARRIER_PAUSE_MS * UINT64_C(1000000);
    do
        poll(NULL, 0, BARRIER_PAUSE_MS);
    while (now_ns() < end);
    return false;
}

#endif
