/* What the files of rings.mpmc's types share; py_mpmc.c has the essay. */
#ifndef RINGS_PY_MPMC_H
#define RINGS_PY_MPMC_H

#include "py.h"

#include "alarm.h"
#include "mpmc_call.h"

typedef struct {
    PyObject_HEAD
    struct mpmc_member member;
    struct spin spin[2];
    PyObject *ring;      /* rings.mpmc.Ring: keeps the eventfds */
    Py_buffer memory;    /* keeps the mapping */
    int poll_fd[2];      /* an epoll on each side's eventfd for event loops, or -1 */
    int wake_fd[2];      /* one more, to sleep on */
    struct alarm alarm[2]; /* in each of these */
    bool wake_taken[2];  /* a thread of ours sleeps on it */
    int region_fd;
    unsigned forks;
    unsigned waiting;    /* threads of ours inside a wait */
    enum policy policy;  /* of put */
    bool latest;         /* get takes the newest and drops the others */
    uint64_t lost_before; /* by those who had our number before us */
    bool closed;
    PyObject *weakrefs;
} Mpmc;

/* What a put waits for when it needs something else than a slot: `*word != seen`. */
struct change {
    shared_u64 *word;
    uint64_t seen;
};

/* py_mpmc.c */
int member_rejoin(Mpmc *self);
int member_closed(void);
void member_tear_down(Mpmc *self);
void member_close_fd(int *fd);
void member_close_wakes(Mpmc *self);
/* Join the ring; `self` is zeroes, `closer` the method that leaves it.  0, or -1 with an
 * error: then let it be deallocated. */
int member_open(Mpmc *self, PyObject *ring, long spin_us, const char *closer);
PyObject *member_lost(Mpmc *self, void *unused);
/* Keep the memory and the membership over a close, until member_let_go. */
void member_hold(Mpmc *self);
void member_let_go(Mpmc *self);
PyObject *member_close(Mpmc *self, PyObject *unused);
PyObject *member_recover(Mpmc *self, PyObject *unused);
PyObject *member_shut_down(Mpmc *self, PyObject *args, PyObject *kwargs);

/* py_mpmc_wait.c: errors and waiting */
PyObject *member_raise(enum mpmc_result result);
PyObject *member_timed_out(Mpmc *self, enum mpmc_side side, enum mpmc_result result);
PyObject *member_too_long(Mpmc *self, Py_ssize_t length);
int member_record_size(Mpmc *self, const Py_buffer *records, Py_ssize_t size);
/* A put found no room: 1 look again, 0 give the message up, -1 with an error set. */
int member_no_room(Mpmc *self, enum mpmc_result result, uint64_t deadline_ns);
/* Wait until `side` may be tried again: 0, or -1 with an error set. */
int member_wait(Mpmc *self, enum mpmc_side side, enum mpmc_result result, uint64_t deadline_ns);
/* Wait for the change, or for a slice: 0, or -1 with an error set. */
int member_wait_change(Mpmc *self, const struct change *change, uint64_t slice_ns,
                       uint64_t deadline_ns);
PyObject *member_arm(Mpmc *self, enum mpmc_side side, const struct change *change);
PyObject *member_put_fileno(Mpmc *self, PyObject *unused);
PyObject *member_get_fileno(Mpmc *self, PyObject *unused);
PyObject *member_arm_put(Mpmc *self, PyObject *unused);
PyObject *member_arm_get(Mpmc *self, PyObject *unused);

/* py_mpmc_put.c */
PyObject *member_try_put(Mpmc *self, PyObject *message);
PyObject *member_put(Mpmc *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *member_put_many(Mpmc *self, PyObject *messages);
PyObject *member_put_records(Mpmc *self, PyObject *args);

/* py_mpmc_get.c */
PyObject *member_try_get(Mpmc *self, PyObject *unused);
PyObject *member_get(Mpmc *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *member_get_many(Mpmc *self, PyObject *limit);
PyObject *member_get_records(Mpmc *self, PyObject *args);

static inline int member_check(Mpmc *self)
{
    if (self->closed)
        return member_closed();
    return self->forks == py_fork_count() ? 0 : member_rejoin(self);
}

static inline void member_skip(Mpmc *self)
{
    if (self->latest)
        mpmc_drop_to_newest(&self->member);
}

static inline shared_u64 *member_lost_word(Mpmc *self)
{
    return &owner_entry(&self->member.ring, self->member.ring.owner)->lost;
}

/* What a finished run returns: its count, or the error that came before any. */
static inline PyObject *run_count(const struct run *run)
{
    return run->done == 0 && run->result < 0 ? member_raise(run->result)
                                             : PyLong_FromUnsignedLongLong(run->done);
}

#endif
