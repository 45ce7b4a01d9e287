/* A process that is stepped by single instructions between two marks of its own. */
#ifndef TRACE_H
#define TRACE_H

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_STEPS = 20000 };

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

static void bury(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
        ;
}

#endif
