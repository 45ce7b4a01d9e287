/* Opening, closing and facts: what both ends of a message ring have in common. */
#include "py_spsc.h"

#include <sys/epoll.h>

/* ---- refusing ------------------------------------------------------------- */

static void give_back(struct py_spsc *self);

bool spsc_refuse(struct py_spsc *self)
{
    if (self->stops & STOP_CLOSING && !(self->stops & STOP_BUSY))
        give_back(self);
    const char *name = self->producer ? "producer" : "consumer";
    if (self->stops & STOP_CLOSED)
        py_raise("ClosedError", "this %s is closed; take the end again with ring.%s()", name, name);
    else if (self->forks != py_fork_count())
        py_raise("ClosedError",
                 "this %s belongs to the process that forked; pass the ring to the child and "
                 "attach there with ring.%s()", name, name);
    else if (self->stops & STOP_BROKEN)
        py_raise("RemoteProtocolError",
                 "the ring's indices or lengths are impossible: someone overwrote them; close "
                 "this %s and create a new ring", name);
    else if (self->stops & STOP_BUSY)
        py_raise("BusyError",
                 "another thread is inside this %s; a handle belongs to one thread at a time",
                 name);
    else
        py_raise("LocalProtocolError", self->producer
                     ? "a claim is out; publish() or abandon it first"
                     : "a peeked message is out; release() it first");
    return false;
}

PyObject *spsc_raise_broken(struct py_spsc *self)
{
    self->stops |= STOP_BROKEN;
    spsc_refuse(self);
    return NULL;
}

uint32_t spsc_refuse_length(const struct py_spsc *self, Py_ssize_t length)
{
    if (self->end.records)
        PyErr_Format(PyExc_ValueError,
                     "a message of %zd bytes cannot fit: this ring takes up to %llu; create it "
                     "with more ring_bytes, or with pool_bytes= for long ones", length,
                     (unsigned long long)spsc_max_size(&self->end));
    else
        PyErr_Format(PyExc_ValueError,
                     "a message of this ring is exactly %u bytes, not %zd; pad it, or create "
                     "the ring with ring_bytes= for messages of any length",
                     (unsigned)self->end.unit_size, length);
    return 0;
}

/* ---- without the GIL ------------------------------------------------------ */

void spsc_move_big(struct py_spsc *self, void *to, const void *from, size_t size)
{
    self->stops |= STOP_BUSY;
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, size);
    Py_END_ALLOW_THREADS
    self->stops &= ~STOP_BUSY;
}

static void notify(struct py_spsc *self)
{
    uint64_t one = 1;
    ssize_t ignored = write(self->notify_fd, &one, sizeof one);
    (void)ignored;
    self->notified++;
}

void spsc_settle(struct py_spsc *self, bool tell)
{
    if (tell)
        notify(self);
    if (self->stops & STOP_CLOSING && !(self->stops & STOP_BUSY))
        give_back(self);
}

/* ---- opening -------------------------------------------------------------- */

static int choose_spin(struct spin *spin, double spin_us)
{
    if (!(spin_us == -1.0 || (spin_us >= 0 && spin_us <= 1e6))) {
        PyErr_SetString(PyExc_ValueError, "spin_us is 0 (block), -1 (busy) or up to 1e6");
        return -1;
    }
    spin->max_ns = spin_us < 0 ? SPIN_FOREVER : (uint64_t)(spin_us * 1e3);
    return 0;
}

static int keep_fds(struct py_spsc *self, int notify_fd, int wait_fd)
{
    self->notify_fd = fcntl(notify_fd, F_DUPFD_CLOEXEC, 3);
    self->wait_fd = fcntl(wait_fd, F_DUPFD_CLOEXEC, 3);
    self->sleep_fd = epoll_create1(EPOLL_CLOEXEC);
    if (self->notify_fd >= 0 && self->wait_fd >= 0 && self->sleep_fd >= 0 &&
        spsc_watch(self, self->wait_fd, EPOLLIN | EPOLLET) == 0) {
        alarm_open(&self->alarm, self->sleep_fd);
        return 0;
    }
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static int take_end(struct py_spsc *self)
{
    struct spsc_header *header = self->end.header;
    const char *name = self->producer ? "producer" : "consumer";
    self->mine = self->producer ? &header->producer : &header->consumer;
    self->theirs = self->producer ? &header->consumer : &header->producer;
    uint64_t self_word = owner_self();
    uint64_t other = owner_take(self->mine, self_word);
    if (other != 0) {
        py_raise("BusyError", "the ring has a %s already: pid %u, alive; close that one first",
                 name, (unsigned)owner_pid(other));
        return -1;
    }
    self->self = self_word;
    self->peer = UINT64_MAX;
    self->end.registered = self->end.heavy = py_barrier_join();
    bool possible = self->producer ? spsc_producer_attach(&self->end)
                                   : spsc_consumer_attach(&self->end);
    if (possible && !self->producer)
        spsc_settle_skip(&self->end, self->mine);
    self->lost_before = atomic_load(&self->mine->lost);
    if (possible)
        return 0;
    py_raise("LayoutError", "the ring's two indices are further apart than it is long; it is "
                            "damaged, create a new one");
    return -1;
}

/* A producer of a ring with a pool learns what its predecessors have lent. */
static int recall_loans(struct py_spsc *self)
{
    if (!self->producer || self->end.pool_size == 0)
        return 0;
    self->loans = PyMem_Calloc(1, sizeof *self->loans);
    if (self->loans == NULL)
        return PyErr_NoMemory(), -1;
    if (spsc_recall_loans(&self->end, self->loans))
        return 0;
    py_raise("LayoutError", "the ring's records are impossible; it is damaged, create a new one");
    return -1;
}

static uint32_t few_units(const struct spsc_end *end)
{
    uint32_t eighth = end->units / 8, most = end->records ? FEW_RECORD_UNITS : FEW_SLOTS;
    return eighth < most ? eighth : most;
}

int spsc_open(struct py_spsc *self, PyObject *args, PyObject *kwargs, bool producer)
{
    static char *names[] = {"buffer", "notify_fd", "wait_fd", "spin_us", "policy", NULL};
    static char *fewer[] = {"buffer", "notify_fd", "wait_fd", "spin_us", "latest", NULL};
    int notify_fd, wait_fd, latest = 0;
    double spin_us = 0;
    const char *policy = "block";
    self->stops = STOP_CLOSED;
    self->notify_fd = self->wait_fd = self->sleep_fd = -1;
    self->peer_pidfd = self->alarm.fd = -1;
    self->producer = producer;
    self->forks = py_fork_count();
    if (py_watch_end((PyObject *)self, "close") < 0)
        return -1;
    void *last = producer ? (void *)&policy : (void *)&latest;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, producer ? "w*ii|$ds" : "w*ii|$dp",
                                     producer ? names : fewer, &self->region, &notify_fd, &wait_fd,
                                     &spin_us, last))
        return -1;
    self->latest = latest;
    if (!spsc_bind(&self->end, self->region.buf, (uint64_t)self->region.len)) {
        py_raise("LayoutError", "this memory holds no SPSC ring, or its numbers do not fit %zd "
                                "bytes; create one with rings.spsc.create()", self->region.len);
        return -1;
    }
    if (py_policy(policy, false, &self->policy) < 0 || choose_spin(&self->spin, spin_us) < 0 ||
        keep_fds(self, notify_fd, wait_fd) < 0 || take_end(self) < 0 || recall_loans(self) < 0)
        return -1;
    if (producer)
        self->few = few_units(&self->end);
    self->stops = 0;
    notify(self);
    return 0;
}

/* ---- closing -------------------------------------------------------------- */

void spsc_close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Return the end to the ring, wake the peer, let go of memory and descriptors. */
static void give_back(struct py_spsc *self)
{
    self->stops |= STOP_CLOSED;
    if (self->self != 0 && self->forks == py_fork_count()) {
        owner_give_back(self->mine, self->self);
        notify(self);
    }
    self->self = 0;
    spsc_close_fd(&self->notify_fd);
    spsc_forget_peer(self);
    spsc_close_fd(&self->sleep_fd);
    alarm_close(&self->alarm);
    spsc_close_fd(&self->wait_fd);
    if (self->region.obj != NULL)
        PyBuffer_Release(&self->region);
}

/* A sleeper in another thread sees `closing` and gives the end back itself. */
static void close_later(struct py_spsc *self)
{
    uint64_t one = 1;
    self->stops |= STOP_CLOSING;
    atomic_store(&self->closing, true);
    ssize_t ignored = write(self->wait_fd, &one, sizeof one);
    (void)ignored;
}

PyObject *spsc_close(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->stops & STOP_CLOSED)
        return py_none();
    if (self->stops & STOP_BUSY && self->forks == py_fork_count()) {
        close_later(self);
        return py_none();
    }
    if (self->view != NULL && spsc_view_abandon(self->view) < 0)
        return NULL;
    give_back(self);
    return py_none();
}

void spsc_dealloc(PyObject *op)
{
    struct py_spsc *self = (struct py_spsc *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    give_back(self);
    PyMem_Free(self->loans);
    Py_XDECREF(self->view_type);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

/* ---- facts ---------------------------------------------------------------- */

PyObject *spsc_enter(PyObject *op, PyObject *ignored)
{
    if (((struct py_spsc *)op)->stops & STOP_CLOSED)
        return spsc_refuse((struct py_spsc *)op), NULL;
    Py_IncRef(op);
    return op;
}

PyObject *spsc_fileno(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->stops & STOP_CLOSED)
        return spsc_refuse(self), NULL;
    return PyLong_FromLong(self->wait_fd);
}

static uint32_t depth(const struct py_spsc *self)
{
    const struct spsc_header *header = self->end.header;
    uint32_t cons = load_acquire(&header->cons);
    return load_acquire(&header->prod) - cons;
}

PyObject *spsc_statistics(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->stops & STOP_CLOSED)
        return spsc_refuse(self), NULL;
    struct spsc_header *header = self->end.header;
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:I,s:I,s:I,s:I,s:I,s:I}", "messages", self->messages, "notified",
        self->notified, "waited", self->waited, "lost",
        (unsigned long long)(atomic_load(&header->producer.lost) +
                             atomic_load(&header->consumer.lost)),
        "high_water", self->end.high, "low_water",
        self->end.low < self->end.high ? self->end.low : self->end.high, "depth", depth(self),
        "units", self->end.units, "generation",
        load_relaxed(&self->mine->generation), "peer_pid",
        (unsigned)owner_pid(atomic_load(&self->theirs->owner)));
}

PyObject *spsc_reset_watermarks(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->stops & STOP_CLOSED)
        return spsc_refuse(self), NULL;
    self->end.high = 0;
    self->end.low = UINT32_MAX;
    return py_none();
}

static PyObject *get_lost(PyObject *op, void *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->stops & STOP_CLOSED)
        return spsc_refuse(self), NULL;
    return PyLong_FromUnsignedLongLong(atomic_load(&self->mine->lost) - self->lost_before);
}

static PyObject *get_closed(PyObject *op, void *ignored)
{
    const struct py_spsc *self = (struct py_spsc *)op;
    return PyBool_FromLong(self->stops & STOP_CLOSED || self->forks != py_fork_count());
}

static PyObject *get_depth(PyObject *op, void *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->stops & STOP_CLOSED)
        return spsc_refuse(self), NULL;
    return PyLong_FromUnsignedLong(depth(self));
}

static PyObject *get_peer_pid(PyObject *op, void *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->stops & STOP_CLOSED)
        return spsc_refuse(self), NULL;
    return PyLong_FromUnsignedLong(owner_pid(atomic_load(&self->theirs->owner)));
}

static PyObject *get_max_size(PyObject *op, void *ignored)
{
    const struct py_spsc *self = (struct py_spsc *)op;
    return PyLong_FromUnsignedLongLong(spsc_max_size(&self->end));
}

PyGetSetDef spsc_getset[] = {
    {"closed", get_closed, NULL, "Whether this handle can no longer be used.", NULL},
    {"depth", get_depth, NULL,
     "Units in the ring: messages, or eight-byte units in a ring of records.", NULL},
    {"lost", get_lost, NULL, "Messages that this end refused or skipped.", NULL},
    {"peer_pid", get_peer_pid, NULL, "Pid of the other end's owner, 0 if it has none.", NULL},
    {"max_size", get_max_size, NULL, "Bytes of the longest message.", NULL},
    {NULL},
};
