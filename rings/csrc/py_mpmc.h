/* The membership of an MPMC ring as Python objects hold it; see py_mpmc.c. */
#ifndef RINGS_PY_MPMC_H
#define RINGS_PY_MPMC_H

#include "py.h"

#include "mpmc_call.h"

typedef struct {
    PyObject_HEAD
    struct mpmc_member member;
    struct spin spin[2];
    PyObject *ring;      /* rings.mpmc.Ring: keeps the eventfds */
    Py_buffer memory;    /* keeps the mapping */
    int wake_fd[2];      /* an epoll of our own on each side's eventfd, or -1 */
    bool wake_taken[2];  /* a thread of ours sleeps on it */
    int region_fd;
    unsigned forks;
    unsigned waiting;    /* threads of ours inside a wait */
    bool closed;
} Mpmc;

/* What a put waits for when it needs something else than a slot: `*word != seen`. */
struct change {
    shared_u64 *word;
    uint64_t seen;
};

/* Join the ring; `self` is zeroes.  0, or -1 with an error: then let it be deallocated. */
int member_open(Mpmc *self, PyObject *ring, long spin_us);

/* Before anything else in a call: open, and a member of this process?  0, or -1 raised. */
int member_check_open(Mpmc *self);

/* Keep the memory and the membership over a close, until member_let_go. */
void member_hold(Mpmc *self);
void member_let_go(Mpmc *self);
void member_tear_down(Mpmc *self);

/* What a call on a ring that is shut or broken raises; NULL. */
PyObject *member_raise(Mpmc *self, enum mpmc_result result);

/* TimeoutError of a call on `side`, which says what is in the way; NULL. */
PyObject *member_raise_timed_out(Mpmc *self, enum mpmc_side side, enum mpmc_result result);

/* Sleep until `side` may be tried again: 1, or -1 raised, TimeoutError perhaps. */
int member_wait(Mpmc *self, enum mpmc_side side, enum mpmc_result result, uint64_t deadline_ns);

/* Sleep until the change, or for a slice: 1, 0 if the deadline passed, or -1 raised. */
int member_wait_change(Mpmc *self, const struct change *change, uint64_t slice_ns,
                       uint64_t deadline_ns);

/* For event loops; see the doc strings of arm_get and get_fileno. */
PyObject *member_fileno(Mpmc *self, enum mpmc_side side);
PyObject *member_arm(Mpmc *self, enum mpmc_side side, const struct change *change);

PyObject *member_close(Mpmc *self, PyObject *unused);
PyObject *member_recover(Mpmc *self, PyObject *unused);
PyObject *member_shut_down(Mpmc *self, PyObject *args, PyObject *kwargs);

#endif
