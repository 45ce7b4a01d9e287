/* Waiting for the other end, and noticing that it is gone.
 *
 * A sleeper waits, in an epoll of its own, for its eventfd and for a pidfd of the
 * other end's owner.  The eventfd is registered for its edges: a wake-up is one system
 * call of each side, as nobody has to read the counter back to nothing.  A signal that
 * comes between look and sleep is seen when the slice is over, and what ends a slice is
 * an alarm (alarm.h).  A producer is not told of each free slot, or it would sleep again
 * after one message: only once `few` are free.  Till then it looks every ROOM_SLICE_NS,
 * and less often the longer it waits.  What is left of a timeout below EDGE_LEAST_NS goes
 * to ppoll, which counts nanoseconds.  While there is no owner to watch, or it never
 * sleeps, it looks again every ABSENT_SLICE_NS.
 */
#include "py_spsc.h"

#include <sys/epoll.h>

#define ABSENT_SLICE_NS 100000000u
#define ROOM_SLICE_NS 50000000u /* then doubling up to WAIT_SLICE_NS */
#define EDGE_LEAST_NS 10000000u

/* ---- the peer ------------------------------------------------------------- */

void spsc_forget_peer(struct py_spsc *self)
{
    if (self->peer_pidfd < 0)
        return;
    if (self->forks == py_fork_count()) /* a child shares the epoll of its parent */
        epoll_ctl(self->sleep_fd, EPOLL_CTL_DEL, self->peer_pidfd, NULL);
    close(self->peer_pidfd);
    self->peer_pidfd = -1;
}

int spsc_watch(struct py_spsc *self, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(self->sleep_fd, EPOLL_CTL_ADD, fd, &event);
}

static __attribute__((cold)) void meet_another(struct py_spsc *self, uint64_t owner)
{
    spsc_forget_peer(self);
    self->peer = owner;
    if (!owner_is_process(owner)) {
        self->peer_state = owner == OWNER_CLOSED ? PEER_CLOSED : PEER_ABSENT;
        return;
    }
    int pidfd = owner_pidfd(owner);
    self->peer_state = pidfd == PIDFD_DEAD ? PEER_DEAD : PEER_ALIVE;
    self->peer_pidfd = pidfd < 0 ? -1 : pidfd;
    if (pidfd >= 0)
        spsc_watch(self, pidfd, EPOLLIN);
}

/* Learn who holds the other end now, if that has changed. */
static inline void meet_peer(struct py_spsc *self)
{
    uint64_t owner = atomic_load(&self->theirs->owner);
    if (__builtin_expect(owner != self->peer, 0))
        meet_another(self, owner);
}

/* Look at the other end's owner once more, the one we cannot be told about included. */
static void check_peer(struct py_spsc *self)
{
    meet_peer(self);
    if (self->peer_state != PEER_ALIVE)
        return;
    bool dead = self->peer_pidfd >= 0 ? pidfd_is_dead(self->peer_pidfd)
                                      : owner_is_dead(self->peer);
    if (dead)
        self->peer_state = PEER_DEAD;
}

static int raise_gone(struct py_spsc *self)
{
    const char *peer = self->producer ? "consumer" : "producer";
    unsigned pid = owner_pid(self->peer);
    if (self->peer_state == PEER_DEAD)
        py_raise("BrokenError",
                 "the %s (pid %u) died; what it published is delivered; start another and wait "
                 "again", peer, pid);
    else if (self->producer)
        py_raise("BrokenError", "the consumer closed its end and the ring is full; start "
                                "another consumer and put again");
    else
        py_raise("ShutDown", "the producer closed its end and every message was taken");
    return -1;
}

void spsc_raise_timeout(struct py_spsc *self)
{
    static const char *const states[] = {"not attached yet", "alive", "closed", "dead"};
    check_peer(self);
    PyErr_Format(PyExc_TimeoutError, "%s in time: the %s is pid %u (%s), %u of %u units are used",
                 self->producer ? "no room" : "no message",
                 self->producer ? "consumer" : "producer",
                 (unsigned)owner_pid(self->peer), states[self->peer_state],
                 load_relaxed(&self->end.header->prod) - load_relaxed(&self->end.header->cons),
                 (unsigned)self->end.units);
}

/* ---- sleeping ------------------------------------------------------------- */

static inline int64_t units_there(struct py_spsc *self)
{
    if (self->producer)
        return spsc_message_fits(&self->end, self->end.index, self->want, self->want_length);
    int64_t units = spsc_ready(&self->end, self->want);
    return units < 0 ? -1 : units >= self->want;
}

static inline bool disturbed(struct py_spsc *self)
{
    return atomic_load_explicit(&self->closing, memory_order_relaxed) ||
           atomic_load_explicit(&self->theirs->owner, memory_order_acquire) != self->peer;
}

static int64_t look(void *ring)
{
    int64_t there = units_there(ring);
    return there != 0 ? there : disturbed(ring);
}

static inline int64_t announce_for(struct py_spsc *self, uint32_t few)
{
    self->end.heavy = self->end.heavy && py_barrier_may();
    int64_t there = self->producer
                        ? spsc_await_fit(&self->end, self->want, self->want_length, few)
                        : spsc_await_message(&self->end);
    if (there < 0)
        return -1;
    return there >= (self->producer ? 1 : self->want) || disturbed(self);
}

static int64_t announce(void *ring)
{
    struct py_spsc *self = ring;
    return announce_for(self, self->few);
}

static enum wait_result sleep_exactly(struct py_spsc *self, uint64_t deadline_ns)
{
    struct waiter waiter = {.ring = self, .look = look, .event_fd = self->wait_fd,
                            .hangup_fd = self->peer_pidfd};
    return wait_sleep(&waiter, deadline_ns);
}

static enum wait_result sleep_until_edge(void *ring, uint64_t deadline_ns)
{
    struct py_spsc *self = ring;
    struct epoll_event event;
    uint64_t most_ns = alarm_slice(&self->alarm, self->slice_ns, deadline_ns);
    if (most_ns < EDGE_LEAST_NS)
        return sleep_exactly(self, deadline_ns);
    int most_ms = most_ns == ALARM_ENDS_IT ? -1 : (int)(most_ns / 1000000u);
    int n = epoll_wait(self->sleep_fd, &event, 1, most_ms);
    if (n < 0)
        return WAIT_INTERRUPTED;
    bool rang = n == 1 && alarm_rang(&self->alarm, &event);
    if (rang && self->slice_ns < WAIT_SLICE_NS)
        self->slice_ns *= 2;
    int64_t ready = look(ring);
    if (ready != 0)
        return wait_verdict(ready);
    return n == 1 && !rang && event.data.fd == self->peer_pidfd ? WAIT_HUNG_UP : WAIT_INTERRUPTED;
}

static inline WAIT_INLINE int sleep_on(struct py_spsc *self, const struct waiter *waiter,
                                       uint64_t deadline_ns)
{
    self->stops |= STOP_BUSY;
    int result = py_wait(waiter, deadline_ns);
    self->stops &= ~STOP_BUSY;
    if (__builtin_expect(self->stops == 0, 1))
        return result;
    if (!PyErr_Occurred())
        spsc_refuse(self);
    return -1;
}

static uint64_t sooner(uint64_t deadline_ns, uint64_t slice_ns)
{
    uint64_t slice = now_ns() + slice_ns;
    return slice < deadline_ns ? slice : deadline_ns;
}

static int sleep_slice(struct py_spsc *self, uint64_t deadline_ns)
{
    const struct waiter waiter = {.ring = self, .look = look, .final_check = announce,
                                  .sleep = sleep_until_edge, .spin = &self->spin,
                                  .event_fd = self->wait_fd, .hangup_fd = self->peer_pidfd};
    if (self->peer_pidfd < 0 || self->spin.max_ns == SPIN_FOREVER)
        deadline_ns = sooner(deadline_ns, ABSENT_SLICE_NS);
    return sleep_on(self, &waiter, deadline_ns);
}

/* 1 there, -1 with an exception, 0 neither. */
static int look_and_say(struct py_spsc *self)
{
    int64_t there = units_there(self);
    if (there < 0)
        spsc_raise_broken(self);
    return there < 0 ? -1 : there > 0;
}

/* The caller has looked, and wait_once looks before it sleeps. */
int spsc_sleep(struct py_spsc *self, uint32_t want, PyObject *timeout_s)
{
    uint64_t deadline_ns;
    if (py_deadline(timeout_s, &deadline_ns) < 0)
        return -1;
    self->want = want;
    self->slice_ns = self->few > want ? ROOM_SLICE_NS : WAIT_SLICE_NS;
    self->waited++;
    for (;;) {
        meet_peer(self);
        bool gone = self->peer_state == PEER_CLOSED || self->peer_state == PEER_DEAD;
        int result = gone ? WAIT_READY : sleep_slice(self, deadline_ns);
        if (result < 0)
            return -1;
        if (result == WAIT_HUNG_UP || result == WAIT_TIMED_OUT)
            check_peer(self);
        int there = look_and_say(self);
        if (there != 0)
            return there;
        if (gone)
            return raise_gone(self);
        if (result == WAIT_TIMED_OUT && is_past(deadline_ns))
            return 0;
    }
}

static int64_t look_peer(void *ring)
{
    return disturbed(ring);
}

/* Sleep until another owner takes the other end, a slice is over or the time is. */
static int sleep_for_peer(struct py_spsc *self, uint64_t deadline_ns)
{
    const struct waiter waiter = {.ring = self, .look = look_peer, .final_check = look_peer,
                                  .event_fd = self->wait_fd, .hangup_fd = -1};
    return sleep_on(self, &waiter, sooner(deadline_ns, ABSENT_SLICE_NS));
}

PyObject *spsc_wait_peer(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"timeout", NULL};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    uint64_t deadline_ns;
    if (!py_arguments(names, 0, given, args, nargs, kwnames) || !spsc_usable(self) ||
        py_deadline(given[0], &deadline_ns) < 0)
        return NULL;
    for (;;) {
        check_peer(self);
        /* One that came and went may have left messages. */
        bool left = !self->producer && spsc_ready(&self->end, 1) != 0;
        if (self->peer_state == PEER_ALIVE || left)
            return PyLong_FromUnsignedLong(owner_pid(self->peer));
        if (is_past(deadline_ns))
            return spsc_raise_timeout(self), NULL;
        if (sleep_for_peer(self, deadline_ns) < 0)
            return NULL;
    }
}

PyObject *spsc_arm(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (!spsc_usable(self))
        return NULL;
    self->want = 1;
    check_peer(self);
    int64_t ready = announce_for(self, 0);
    if (ready < 0)
        return spsc_raise_broken(self);
    return PyBool_FromLong(ready > 0 || self->peer_state >= PEER_CLOSED);
}

PyObject *spsc_clear(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (!spsc_usable(self))
        return NULL;
    event_drain(self->wait_fd);
    return py_none();
}
