/* Who holds one end of a ring, and whether that process is dead.
 *
 * An owner is one 64-bit word {start time : 42, pid : 22}, so that taking an end,
 * taking it over and giving it back are each one CAS.  A pid alone may be reused;
 * a pid with the clock tick at which it started is not.  Two values name nobody:
 * 0, an end never taken, and OWNER_CLOSED, one given back in good order.
 *
 * Death is what the kernel says of that very process: no such pid, another start
 * time, or a pidfd that polls readable.  A stopped process, and one we may not
 * look at, count as alive.  Both ends must see the same pid namespace.
 */
#ifndef RINGS_OWNER_H
#define RINGS_OWNER_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

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

/* The 22nd field of /proc/<pid>/stat, after a name that may hold anything; 0 if hidden. */
static inline uint64_t process_start(uint32_t pid)
{
    char path[32], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *field = strrchr(text, ')');
    for (int i = 2; field != NULL && i < 22; i++)
        field = strchr(field + 1, ' ');
    return field == NULL ? 0 : strtoull(field, NULL, 10);
}

static inline uint64_t owner_self(void)
{
    uint32_t pid = (uint32_t)getpid();
    return owner_pack(pid, process_start(pid));
}

/* A pidfd of exactly this owner; -1 if it is dead, -2 if the kernel will not say. */
static inline int owner_pidfd(uint64_t owner)
{
    uint32_t pid = owner_pid(owner);
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno == ESRCH)
        return -1;
    uint64_t start = process_start(pid);
    if (start != 0 && owner_start(owner) != 0 && start != owner_start(owner)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd < 0 ? -2 : fd;
}

static inline bool pidfd_is_dead(int pidfd)
{
    struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

static inline bool owner_is_dead(uint64_t owner)
{
    int pidfd = owner_pidfd(owner);
    if (pidfd < 0)
        return pidfd == -1 ||
               (kill((pid_t)owner_pid(owner), 0) < 0 && errno == ESRCH);
    bool dead = pidfd_is_dead(pidfd);
    close(pidfd);
    return dead;
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
