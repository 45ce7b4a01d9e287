/* How the members of an MPMC ring fail and wait. */
#include "py_mpmc.h"

#include <sys/epoll.h>

/* ---- errors ------------------------------------------------------------------ */

PyObject *member_raise(enum mpmc_result result)
{
    if (result == MPMC_SHUT)
        return py_raise("ShutDown", "the ring was shut down: no more messages will pass");
    return py_raise("RemoteProtocolError",
                    "a slot of the ring holds what no member writes: make a new ring");
}

/* What a call on `side` would meet now, and where. */
static enum mpmc_result member_state(Mpmc *self, enum mpmc_side side, uint64_t *at)
{
    struct mpmc *ring = &self->member.ring;
    *at = mpmc_index(ring, side);
    return side == MPMC_PUT ? mpmc_room(ring, at) : mpmc_ready(ring, at);
}

PyObject *member_timed_out(Mpmc *self, enum mpmc_side side, enum mpmc_result result)
{
    const struct mpmc *ring = &self->member.ring;
    uint64_t at;
    member_state(self, side, &at);
    uint32_t owner = mpmc_owner_of(load64(&mpmc_slot(ring, at)->word));
    unsigned size = (unsigned)mpmc_size(ring);
    if (result == MPMC_STALLED && owner != 0 && owner <= MPMC_OWNERS)
        return PyErr_Format(PyExc_TimeoutError,
                            "%u of %u slots in use, and the next is in the hands of pid %u, "
                            "which lives: continue it if it is stopped, or kill it",
                            size, ring->nr_slots,
                            owner_pid(load64(&owner_entry(ring, owner)->word)));
    return PyErr_Format(PyExc_TimeoutError, "the ring stayed %s (%u of %u slots in use)",
                        side == MPMC_GET ? "empty" : "full", size, ring->nr_slots);
}

PyObject *member_too_long(Mpmc *self, Py_ssize_t length)
{
    return PyErr_Format(PyExc_ValueError,
                        "message of %zd bytes is longer than the ring's slots of %u: "
                        "make the ring with a larger slot_size, or split the message",
                        length, self->member.ring.slot_size);
}

int member_record_size(Mpmc *self, const Py_buffer *records, Py_ssize_t size)
{
    if (size > (Py_ssize_t)self->member.ring.slot_size) {
        member_too_long(self, size);
        return -1;
    }
    if (size > 0 && records->len % size == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "a buffer of %zd bytes is not a whole number of records of %zd",
                 records->len, size);
    return -1;
}

/* ---- waiting ------------------------------------------------------------------ */

struct wait_for {
    Mpmc *self;
    enum mpmc_side side;
    const struct change *change; /* wait for this, not for a slot; or NULL */
    bool stalled;      /* it began on a slot in somebody's hands: that is no news */
    int epoll_fd;
    struct alarm *alarm; /* in that epoll */
    uint64_t slice_ns; /* of the next sleep */
};

static int64_t look(void *context)
{
    struct wait_for *wait = context;
    uint64_t at;
    uint32_t shut = mpmc_shut(&wait->self->member.ring);
    if (__atomic_load_n(&wait->self->closed, __ATOMIC_RELAXED))
        return 1;
    if (wait->change != NULL)
        return shut != 0 || load64_seq_cst(wait->change->word) != wait->change->seen;
    enum mpmc_result result = member_state(wait->self, wait->side, &at);
    if (result == MPMC_WOULD_BLOCK)
        return shut != 0;
    if (result == MPMC_STALLED && wait->stalled)
        return wait->side == MPMC_PUT ? shut != 0 : (shut & SHUT_GETS) != 0;
    return result;
}

/* A wake-up after this is kept for us. */
static int64_t final_check(void *context)
{
    struct wait_for *wait = context;
    mpmc_announce(&wait->self->member.ring, wait->side);
    return look(wait);
}

/* Sleep on our epoll, which forgets a wake-up as it tells of it; an old one costs a turn. */
static enum wait_result sleep_woken(void *context, uint64_t deadline_ns)
{
    struct wait_for *wait = context;
    struct epoll_event event;
    uint64_t most_ns = alarm_slice(wait->alarm, wait->slice_ns, deadline_ns);
    if (most_ns == 0)
        return WAIT_TIMED_OUT;
    int most_ms = most_ns == ALARM_ENDS_IT ? -1 : (int)((most_ns + 999999u) / 1000000u);
    int woken = epoll_wait(wait->epoll_fd, &event, 1, most_ms);
    bool over = woken == 0 || (woken == 1 && alarm_rang(wait->alarm, &event));
    if (over && wait->slice_ns < SLEEP_MAX_NS)
        wait->slice_ns *= 2;
    int64_t ready = look(wait);
    return ready != 0 ? wait_verdict(ready) : WAIT_INTERRUPTED;
}

/* Edge-triggered: every notification wakes every sleeper, and none can use up
 * another's; so none is lost with a sleeper that dies. */
static int open_wake_fd(int event_fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = event_fd};
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, event_fd, &event) < 0)
        member_close_fd(&fd);
    if (fd < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    return fd;
}

static int member_wake_fd(Mpmc *self, enum mpmc_side side)
{
    if (self->wake_fd[side] < 0) {
        self->wake_fd[side] = open_wake_fd(self->member.event_fd[side]);
        if (self->wake_fd[side] >= 0)
            alarm_open(&self->alarm[side], self->wake_fd[side]);
    }
    return self->wake_fd[side];
}

/* An event loop's: it would take edges away from a thread that sleeps on the other. */
static int member_poll_fd(Mpmc *self, enum mpmc_side side)
{
    if (self->poll_fd[side] < 0)
        self->poll_fd[side] = open_wake_fd(self->member.event_fd[side]);
    return self->poll_fd[side];
}

void member_close_wakes(Mpmc *self)
{
    for (int side = 0; side < 2; side++) {
        member_close_fd(&self->poll_fd[side]);
        member_close_fd(&self->wake_fd[side]);
        alarm_close(&self->alarm[side]);
        self->wake_taken[side] = false;
    }
}

/* One sleep, with an epoll that no other thread sleeps on; one of its own has no alarm. */
static int sleep_once(struct wait_for *wait, uint64_t deadline_ns)
{
    Mpmc *self = wait->self;
    enum mpmc_side side = wait->side;
    struct alarm none = {.fd = -1};
    bool shared = self->wake_taken[side];
    wait->slice_ns = SLEEP_MIN_NS;
    wait->alarm = shared ? &none : &self->alarm[side];
    wait->epoll_fd = shared ? open_wake_fd(self->member.event_fd[side])
                            : member_wake_fd(self, side);
    if (wait->epoll_fd < 0)
        return -1;
    const struct waiter waiter = {
        .ring = wait,
        .look = look,
        .final_check = final_check,
        .sleep = sleep_woken,
        .spin = &self->spin[side],
        .event_fd = -1,
        .hangup_fd = -1,
    };
    self->wake_taken[side] = true;
    self->waiting++;
    int result = py_wait(&waiter, deadline_ns);
    self->waiting--;
    if (shared)
        close(wait->epoll_fd);
    else
        self->wake_taken[side] = false;
    return result;
}

/* One sleep of a call that goes on afterwards: 0, or -1 raised. */
static int sleep_open(struct wait_for *wait, uint64_t until_ns, uint64_t deadline_ns)
{
    Mpmc *self = wait->self;
    int woken = sleep_once(wait, until_ns < deadline_ns ? until_ns : deadline_ns);
    if (self->closed && self->waiting == 0 && self->ring != NULL)
        member_tear_down(self);
    return woken < 0 ? -1 : member_check(self);
}

int member_wait(Mpmc *self, enum mpmc_side side, enum mpmc_result result,
                     uint64_t deadline_ns)
{
    bool stalled = result == MPMC_STALLED;
    struct wait_for wait = {.self = self, .side = side, .stalled = stalled};
    if (is_past(deadline_ns)) {
        member_timed_out(self, side, result);
        return -1;
    }
    uint64_t until_ns = stalled ? now_ns() + mpmc_slice_ns(&self->member, side, result)
                                : NO_DEADLINE;
    return sleep_open(&wait, until_ns, deadline_ns);
}

int member_no_room(Mpmc *self, enum mpmc_result result, uint64_t deadline_ns)
{
    if (self->policy == POLICY_DROP_NEW) {
        owner_count_refused(member_lost_word(self), 1);
        return 0;
    }
    if (self->policy == POLICY_ERROR) {
        member_timed_out(self, MPMC_PUT, result);
        return -1;
    }
    /* A slot in somebody's hands is waited for: dropping others would not free it. */
    bool full = self->policy == POLICY_DROP_OLD && result == MPMC_WOULD_BLOCK;
    if (full && mpmc_drop_oldest(&self->member) == MPMC_OK)
        return 1;
    return member_wait(self, MPMC_PUT, result, deadline_ns) < 0 ? -1 : 1;
}

int member_wait_change(Mpmc *self, const struct change *change, uint64_t slice_ns,
                       uint64_t deadline_ns)
{
    struct wait_for wait = {.self = self, .side = MPMC_PUT, .change = change};
    uint64_t now = now_ns();
    return now >= deadline_ns ? 0 : sleep_open(&wait, now + slice_ns, deadline_ns);
}

/* ---- sleeping elsewhere (an event loop) -------------------------------------------- */

static PyObject *side_fileno(Mpmc *self, enum mpmc_side side)
{
    if (member_check(self) < 0 || member_poll_fd(self, side) < 0)
        return NULL;
    return PyLong_FromLong(self->poll_fd[side]);
}

PyObject *member_arm(Mpmc *self, enum mpmc_side side, const struct change *change)
{
    struct wait_for wait = {.self = self, .side = side, .change = change, .stalled = true};
    if (member_check(self) < 0 || (wait.epoll_fd = member_poll_fd(self, side)) < 0)
        return NULL;
    struct epoll_event event;
    epoll_wait(wait.epoll_fd, &event, 1, 0); /* forget what has been acted upon */
    if (final_check(&wait) != 0)
        return PyFloat_FromDouble(0.0);
    uint64_t at;
    enum mpmc_result result = member_state(self, side, &at);
    return PyFloat_FromDouble((double)mpmc_slice_ns(&self->member, side, result) / 1e9);
}

PyObject *member_get_fileno(Mpmc *self, PyObject *unused) { return side_fileno(self, MPMC_GET); }
PyObject *member_put_fileno(Mpmc *self, PyObject *unused) { return side_fileno(self, MPMC_PUT); }
PyObject *member_arm_get(Mpmc *self, PyObject *unused) { return member_arm(self, MPMC_GET, NULL); }
PyObject *member_arm_put(Mpmc *self, PyObject *unused) { return member_arm(self, MPMC_PUT, NULL); }
