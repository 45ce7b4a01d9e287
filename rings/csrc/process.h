/* Whether one very process is dead, and nothing short of proof.
 *
 * A pid alone may be reused; a pid with the clock tick at which it started is not.
 * Death is what the kernel says: no such pid, another start time, or a pidfd that
 * polls readable (a zombie's does, that of a process whose first thread alone has
 * ended does not).  It cannot be wrong about a live process: one that is stopped,
 * swapped out, or hidden from us in /proc is alive.  Where it will not say, the
 * verdict is "unknown", and the asker decides: what nobody can prove is no death.
 *
 * All of it presumes that pid and start time mean the same to who wrote them down
 * and to who asks: the same pid and time namespaces, see process_space.
 */
#ifndef RINGS_PROCESS_H
#define RINGS_PROCESS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum verdict { VERDICT_ALIVE, VERDICT_DEAD, VERDICT_UNKNOWN };
enum { PIDFD_DEAD = -1, PIDFD_UNKNOWN = -2 };

/* When a process started, in clock ticks since boot; 0 if that cannot be read: the
 * 22nd field of its stat, after a name that may hold anything. */
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

static inline uint64_t process_inode(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint32_t)st.st_ino : 0;
}

/* Pids and start times mean the same to two processes with the same number here;
 * 0 if that cannot be known, or /proc shows some other namespace's pids. */
static inline uint64_t process_space(void)
{
    char link[16] = "";
    ssize_t n = readlink("/proc/self", link, sizeof link - 1);
    if (n <= 0 || (pid_t)atol(link) != getpid())
        return 0;
    uint64_t pids = process_inode("/proc/self/ns/pid");
    return pids ? pids | process_inode("/proc/self/ns/time") << 32 : 0;
}

/* A pidfd of exactly the process that started then (0: whenever), or PIDFD_*.  The
 * pidfd comes first: if the pid is reused in between, it polls readable. */
static inline int process_pidfd(uint32_t pid, uint64_t start)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0 && errno == ESRCH)
        return PIDFD_DEAD;
    uint64_t now = process_start(pid);
    if (now != 0 && start != 0 && now != start) {
        if (pidfd >= 0)
            close(pidfd);
        return PIDFD_DEAD;
    }
    return pidfd < 0 ? PIDFD_UNKNOWN : pidfd;
}

static inline bool pidfd_is_dead(int pidfd)
{
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    return poll(&ended, 1, 0) == 1;
}

static inline enum verdict process_verdict(uint32_t pid, uint64_t start)
{
    int pidfd = process_pidfd(pid, start);
    if (pidfd == PIDFD_DEAD)
        return VERDICT_DEAD;
    if (pidfd >= 0) {
        enum verdict verdict = pidfd_is_dead(pidfd) ? VERDICT_DEAD : VERDICT_ALIVE;
        close(pidfd);
        return verdict;
    }
    if (kill((pid_t)pid, 0) < 0 && errno == ESRCH)
        return VERDICT_DEAD;
    return start != 0 && process_start(pid) == start ? VERDICT_ALIVE : VERDICT_UNKNOWN;
}

#endif
