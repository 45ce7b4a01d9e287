/* A process that is stepped by single instructions between two marks of its own.
 *
 * A step costs a trap, so a call that is to be stopped at each of its instructions would
 * cost their number squared.  It is stepped once, and each instruction noted; after that
 * a hardware breakpoint takes a process to any of them.
 */
#ifndef TRACE_H
#define TRACE_H

#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_STEPS = 20000, MAX_MOMENTS = 4000, MAX_SHARED = 1 << 17 };

/* Before an instruction: its address, how often the call came by before, and, of one that
 * repeats itself, how many times it has done so. */
struct moment {
    unsigned long at;
    int passes, repeats;
    bool changed; /* what is shared is not as it was at the moment before */
};

struct trace {
    int count; /* moments, of which the last is the end of the call */
    struct moment moments[MAX_MOMENTS];
};

struct area {
    const void *at;
    size_t size;
};

/* This share of all rows: the numbers that leave `part` when divided by `parts`. */
struct share {
    int part, parts, row;
};

#define trace_mark() __asm__ volatile("int3" ::: "memory")

/* All on one processor: stepping is nothing but switches, and twice as fast there. */
static void trace_pin(void)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    sched_getaffinity(0, sizeof all, &all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all)) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
        }
    sched_setaffinity(0, sizeof one, &one);
}

/* Wait for the next stop: 1 a step, 2 one of the two marks, 0 it has ended. */
static int next_stop(pid_t pid)
{
    int status;
    siginfo_t info;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        return 0;
    if (ptrace(PTRACE_GETSIGINFO, pid, NULL, &info) < 0)
        return 0;
    return info.si_code == SI_KERNEL ? 2 : 1;
}

/* Up to `steps` instructions; how many there were before the call ended. */
static int step(pid_t pid, int steps)
{
    for (int done = 0; done < steps; done++) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0)
            _exit(9);
        if (next_stop(pid) != 1)
            return done;
    }
    return steps;
}

static unsigned long instruction_of(pid_t pid)
{
    long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), NULL);
    return (unsigned long)at;
}

static void set_debug(pid_t pid, int which, unsigned long value)
{
    size_t offset = offsetof(struct user, u_debugreg) + (size_t)which * sizeof value;
    if (ptrace(PTRACE_POKEUSER, pid, offset, value) < 0)
        _exit(9);
}

static bool has_changed(const struct area *shared, int areas)
{
    static uint8_t before[MAX_SHARED];
    uint8_t *copy = before;
    bool changed = false;
    for (int i = 0; i < areas; copy += shared[i++].size)
        if (memcmp(copy, shared[i].at, shared[i].size) != 0) {
            memcpy(copy, shared[i].at, shared[i].size);
            changed = true;
        }
    return changed;
}

static void note_moment(struct trace *trace, unsigned long at, bool changed)
{
    struct moment *now = &trace->moments[trace->count], *last = now - 1;
    *now = (struct moment){.at = at, .changed = changed || trace->count == 0};
    if (trace->count > 0 && last->at == at) {
        now->passes = last->passes;
        now->repeats = last->repeats + 1;
    } else
        for (int i = 0; i < trace->count; i++)
            now->passes += trace->moments[i].at == at && trace->moments[i].repeats == 0;
    if (++trace->count == MAX_MOMENTS)
        _exit(9);
}

/* Step a call to its end; its moments. */
static void trace_call(pid_t pid, struct trace *trace, const struct area *shared, int areas)
{
    trace->count = 0;
    do
        note_moment(trace, instruction_of(pid), has_changed(shared, areas));
    while (step(pid, 1) == 1);
}

/* Take a process from the first moment of its call to another. */
static void run_to(pid_t pid, const struct trace *trace, int index)
{
    const struct moment *moment = &trace->moments[index];
    if (index == 0)
        return;
    set_debug(pid, 0, moment->at);
    set_debug(pid, 7, 1); /* break when it would execute what register 0 names */
    for (int i = 0; i <= moment->passes; i++)
        if (ptrace(PTRACE_CONT, pid, NULL, NULL) < 0 || next_stop(pid) != 1)
            _exit(9);
    set_debug(pid, 7, 0);
    if (instruction_of(pid) != moment->at || step(pid, moment->repeats) != moment->repeats)
        _exit(9);
}

/* "3/40" is the fourth of 40 shares. */
static struct share share_of(const char *text)
{
    struct share share = {atoi(text), 0, 0};
    const char *slash = strchr(text, '/');
    share.parts = slash ? atoi(slash + 1) : 0;
    if (share.parts < 1 || share.part < 0 || share.part >= share.parts)
        _exit(9);
    return share;
}

static bool is_mine(struct share *share)
{
    return share->row++ % share->parts == share->part;
}

/* Let a victim end its call; false if it cannot. */
static bool finish(pid_t pid)
{
    int status;
    return ptrace(PTRACE_CONT, pid, NULL, NULL) == 0 && waitpid(pid, &status, 0) == pid &&
           WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

static void bury(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
        ;
}

#endif
