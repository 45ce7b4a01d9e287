/* One question about a process whose fate is known: process CASE.
 *
 * Exit status: 0 the right verdict, 1 a wrong one (said on stdout), 77 the case is
 * not to be had here.
 */
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "process.h"

enum { SKIPPED = 77 };

static void expect(const char *what, int got, int wanted)
{
    if (got == wanted)
        return;
    printf("%s: %d instead of %d\n", what, got, wanted);
    exit(1);
}

/* What a child does: nothing, and not beyond its parent's life. */
static void idle(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (getppid() == parent)
        pause();
    _exit(0);
}

static void *go_on(void *parent)
{
    idle(*(pid_t *)parent);
    return NULL;
}

static uint32_t a_child(void)
{
    pid_t self = getpid(), pid = fork();
    if (pid == 0)
        idle(self);
    return (uint32_t)pid;
}

static void end(uint32_t pid)
{
    kill((pid_t)pid, SIGKILL);
    waitpid((pid_t)pid, NULL, 0);
}

static void let_become_a_zombie(uint32_t pid)
{
    siginfo_t info;
    kill((pid_t)pid, SIGKILL);
    waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
}

/* ---- what makes the asker's life harder ----------------------------------------- */

static void forbid_pidfds(void)
{
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof steps / sizeof *steps, steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
        exit(SKIPPED);
}

static void hide_proc(void)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/proc", "tmpfs", 0, NULL) < 0)
        exit(SKIPPED);
}

static void use_up_descriptors(void)
{
    struct rlimit none = {3, 3};
    if (setrlimit(RLIMIT_NOFILE, &none) < 0)
        exit(SKIPPED);
}

/* ---- the cases ------------------------------------------------------------------- */

static void self(void)
{
    uint32_t pid = (uint32_t)getpid();
    uint64_t start = process_start(pid);
    expect("start", start > 0, true);
    expect("space", process_space() > 0, true);
    expect("self", process_verdict(pid, start), VERDICT_ALIVE);
    expect("self, started whenever", process_verdict(pid, 0), VERDICT_ALIVE);
    expect("a later process", process_verdict(pid, start - 1), VERDICT_DEAD);
    prctl(PR_SET_NAME, "a) Z 1 (b");
    expect("a name like fields", process_start(pid) == start, true);
}

static void life(void)
{
    uint32_t pid = a_child();
    uint64_t start = process_start(pid);
    int pidfd = process_pidfd(pid, start), status;
    expect("pidfd", pidfd >= 0, true);
    kill((pid_t)pid, SIGSTOP);
    waitpid((pid_t)pid, &status, WUNTRACED);
    expect("stopped", process_verdict(pid, start), VERDICT_ALIVE);
    expect("stopped, pidfd", pidfd_is_dead(pidfd), false);
    let_become_a_zombie(pid);
    expect("zombie", process_verdict(pid, start), VERDICT_DEAD);
    expect("zombie, pidfd", pidfd_is_dead(pidfd), true);
    end(pid);
    expect("reaped", process_verdict(pid, start), VERDICT_DEAD);
    expect("reaped, started whenever", process_verdict(pid, 0), VERDICT_DEAD);
    expect("reaped, no pidfd", process_pidfd(pid, start), PIDFD_DEAD);
    expect("reaped, old pidfd", pidfd_is_dead(pidfd), true);
}

/* The first thread has ended, /proc calls the process a zombie, another goes on. */
static void leader(void)
{
    pid_t self = getpid(), pid = fork();
    if (pid == 0) {
        pthread_t other;
        pthread_create(&other, NULL, go_on, &self);
        pthread_exit(NULL);
    }
    usleep(100000);
    expect("leader", process_verdict((uint32_t)pid, process_start((uint32_t)pid)),
           VERDICT_ALIVE);
    end((uint32_t)pid);
}

static void reused(void)
{
    uint32_t pid = a_child();
    uint64_t start = process_start(pid);
    int old = process_pidfd(pid, start);
    end(pid);
    usleep(50000); /* a few clock ticks, so that the start times differ */
    pid_t wanted[1] = {(pid_t)pid};
    struct clone_args clone = {
        .exit_signal = SIGCHLD, .set_tid = (uintptr_t)wanted, .set_tid_size = 1};
    pid_t self = getpid();
    long next = syscall(SYS_clone3, &clone, sizeof clone);
    if (next < 0)
        exit(SKIPPED);
    if (next == 0)
        idle(self);
    expect("same pid", next == (long)pid, true);
    expect("reused", process_verdict(pid, start), VERDICT_DEAD);
    expect("reused, pidfd", process_pidfd(pid, start), PIDFD_DEAD);
    expect("reused, old pidfd", pidfd_is_dead(old), true);
    expect("successor", process_verdict(pid, process_start(pid)), VERDICT_ALIVE);
    end(pid);
}

/* A live process and a dead one, seen by one who may not see everything. */
static void dimly(void (*dim)(void), int alive, int alive_whenever, int later)
{
    uint32_t pid = a_child(), gone = a_child();
    uint64_t start = process_start(pid);
    end(gone);
    dim();
    expect("alive", process_verdict(pid, start), alive);
    expect("alive, started whenever", process_verdict(pid, 0), alive_whenever);
    expect("later", process_verdict(pid, start - 1), later);
    expect("gone", process_verdict(gone, start), VERDICT_DEAD);
    end(pid);
}

static void forbidden(void)
{
    dimly(forbid_pidfds, VERDICT_ALIVE, VERDICT_UNKNOWN, VERDICT_DEAD);
}

static void hidden(void)
{
    dimly(hide_proc, VERDICT_ALIVE, VERDICT_ALIVE, VERDICT_ALIVE);
    expect("space", process_space() == 0, true);
}

static void hide_and_forbid(void)
{
    hide_proc();
    forbid_pidfds();
}

static void blind(void)
{
    dimly(hide_and_forbid, VERDICT_UNKNOWN, VERDICT_UNKNOWN, VERDICT_UNKNOWN);
}

static void exhausted(void)
{
    dimly(use_up_descriptors, VERDICT_UNKNOWN, VERDICT_UNKNOWN, VERDICT_UNKNOWN);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {{"self", self},           {"life", life},     {"leader", leader},
                 {"reused", reused},       {"hidden", hidden}, {"forbidden", forbidden},
                 {"exhausted", exhausted}, {"blind", blind}};
    for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof *cases; i++)
        if (strcmp(argv[1], cases[i].name) == 0) {
            cases[i].run();
            return 0;
        }
    return 9;
}
