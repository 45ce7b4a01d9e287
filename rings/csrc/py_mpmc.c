/* rings.mpmc: Producer, Consumer and Member, three faces of one membership.
 *
 * A type is the membership itself, not a wrapper of it: a Python class round it
 * would double the cost of a call.  Claim and publish lie in one call that never
 * gives up the GIL; what a call needs from Python (a bytes object to fill) it
 * gets before it takes a slot, so nothing can fail with a slot in hand.
 */
#include "py.h"

#include <structmember.h>
#include <sys/epoll.h>

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

/* ---- membership ------------------------------------------------------------- */

static int mpmc_full_table(void)
{
    py_raise("BusyError",
             "all %d members of the ring are alive: close some of them, or use more rings",
             MPMC_OWNERS);
    return -1;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* A forked child becomes a member of its own; its epolls would be the parent's. */
static int rejoin(Mpmc *self)
{
    mpmc_forget(&self->member);
    close_fd(&self->wake_fd[0]);
    close_fd(&self->wake_fd[1]);
    self->wake_taken[0] = self->wake_taken[1] = false;
    self->waiting = 0;
    self->forks = py_fork_count();
    return mpmc_join(&self->member, self->region_fd) ? 0 : mpmc_full_table();
}

static int check_open(Mpmc *self)
{
    if (self->closed) {
        py_raise("ClosedError", "this member of the ring was closed: make another one");
        return -1;
    }
    return self->forks == py_fork_count() ? 0 : rejoin(self);
}

static void tear_down(Mpmc *self)
{
    if (self->forks == py_fork_count())
        mpmc_leave(&self->member);
    else
        mpmc_forget(&self->member);
    close_fd(&self->wake_fd[0]);
    close_fd(&self->wake_fd[1]);
    PyBuffer_Release(&self->memory);
    Py_CLEAR(self->ring);
}

static int int_of(PyObject *object, const char *name, int *out)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    long number = value ? PyLong_AsLong(value) : -1;
    Py_XDECREF(value);
    *out = (int)number;
    return number == -1 && PyErr_Occurred() ? -1 : 0;
}

static int read_ring(Mpmc *self, int *slots, int *slot_size)
{
    PyObject *buffer = PyObject_GetAttrString(self->ring, "buffer");
    int rc = buffer ? PyObject_GetBuffer(buffer, &self->memory, PyBUF_WRITABLE) : -1;
    Py_XDECREF(buffer);
    if (rc < 0 || int_of(self->ring, "slots", slots) < 0 ||
        int_of(self->ring, "slot_size", slot_size) < 0 ||
        int_of(self->ring, "region_fd", &self->region_fd) < 0 ||
        int_of(self->ring, "not_full_fd", &self->member.event_fd[MPMC_PUT]) < 0 ||
        int_of(self->ring, "not_empty_fd", &self->member.event_fd[MPMC_GET]) < 0)
        return -1;
    return 0;
}

static int join_ring(Mpmc *self, long spin_us)
{
    int slots, slot_size;
    if (read_ring(self, &slots, &slot_size) < 0)
        return -1;
    if (!mpmc_bind(&self->member.ring, self->memory.buf, (size_t)self->memory.len,
                   (uint32_t)slots, (uint32_t)slot_size)) {
        py_raise("LayoutError", "%d slots of %d bytes do not fit the ring's %zd bytes",
                 slots, slot_size, self->memory.len);
        return -1;
    }
    for (int side = 0; side < 2; side++)
        self->spin[side].max_ns = spin_us < 0 ? SPIN_FOREVER : (uint64_t)spin_us * 1000;
    return mpmc_join(&self->member, self->region_fd) ? 0 : mpmc_full_table();
}

static PyObject *member_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ring", "spin_us", NULL};
    PyObject *ring;
    long spin_us = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$l", names, &ring, &spin_us))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Mpmc *self = (Mpmc *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->closed = true;
    self->wake_fd[0] = self->wake_fd[1] = self->member.lock_fd = -1;
    self->forks = py_fork_count();
    Py_INCREF(ring);
    self->ring = ring;
    if (join_ring(self, spin_us) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->closed = false;
    return (PyObject *)self;
}

static void member_dealloc(Mpmc *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    if (self->ring != NULL)
        tear_down(self);
    release(self);
    Py_DECREF(type);
}

static PyObject *member_close(Mpmc *self, PyObject *unused)
{
    if (self->closed)
        return py_none();
    self->closed = true;
    if (self->forks == py_fork_count() && self->waiting)
        mpmc_notify_recovery(&self->member); /* the last of them tears down */
    else
        tear_down(self);
    return py_none();
}

static PyObject *member_enter(PyObject *self, PyObject *unused)
{
    Py_INCREF(self);
    return self;
}

static PyObject *member_exit(Mpmc *self, PyObject *args)
{
    return member_close(self, NULL);
}

/* ---- errors ------------------------------------------------------------------ */

static PyObject *raise_result(Mpmc *self, enum mpmc_result result)
{
    if (result == MPMC_SHUT)
        return py_raise("ShutDown", "the ring was shut down: no more messages will pass");
    return py_raise("RemoteProtocolError",
                    "a slot of the ring holds what no member writes: make a new ring");
}

/* What a call on `side` would meet now, and where. */
static enum mpmc_result side_state(Mpmc *self, enum mpmc_side side, uint64_t *at)
{
    struct mpmc *ring = &self->member.ring;
    *at = mpmc_index(ring, side);
    return side == MPMC_PUT ? mpmc_room(ring, at) : mpmc_ready(ring, at);
}

static PyObject *raise_timed_out(Mpmc *self, enum mpmc_side side, enum mpmc_result result)
{
    const struct mpmc *ring = &self->member.ring;
    uint64_t at;
    side_state(self, side, &at);
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

static PyObject *raise_too_long(Mpmc *self, Py_ssize_t length)
{
    return PyErr_Format(PyExc_ValueError,
                        "message of %zd bytes is longer than the ring's slots of %u: "
                        "make the ring with a larger slot_size, or split the message",
                        length, self->member.ring.slot_size);
}

/* ---- waiting ------------------------------------------------------------------ */

struct wait_for {
    Mpmc *self;
    enum mpmc_side side;
    int epoll_fd;
};

static int64_t look(void *context)
{
    struct wait_for *wait = context;
    uint64_t at;
    enum mpmc_result result = side_state(wait->self, wait->side, &at);
    if (mpmc_shut(&wait->self->member.ring) || __atomic_load_n(&wait->self->closed, __ATOMIC_RELAXED))
        return 1;
    if (result == MPMC_WOULD_BLOCK || result == MPMC_STALLED)
        return 0;
    return result;
}

/* Forget old wake-ups, announce, look again: a wake-up after this is kept for us. */
static int64_t final_check(void *context)
{
    struct wait_for *wait = context;
    struct epoll_event event;
    epoll_wait(wait->epoll_fd, &event, 1, 0);
    mpmc_announce(&wait->self->member.ring, wait->side);
    return look(wait);
}

/* Edge-triggered: every notification wakes every sleeper, and none can use up
 * another's; so none is lost with a sleeper that dies. */
static int open_wake_fd(int event_fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, event_fd, &event) < 0)
        close_fd(&fd);
    if (fd < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    return fd;
}

static int cached_wake_fd(Mpmc *self, enum mpmc_side side)
{
    if (self->wake_fd[side] < 0)
        self->wake_fd[side] = open_wake_fd(self->member.event_fd[side]);
    return self->wake_fd[side];
}

/* One sleep, with an epoll that no other thread sleeps on. */
static int sleep_once(Mpmc *self, enum mpmc_side side, uint64_t deadline_ns)
{
    bool shared = self->wake_taken[side];
    struct wait_for wait = {.self = self, .side = side};
    wait.epoll_fd = shared ? open_wake_fd(self->member.event_fd[side]) : cached_wake_fd(self, side);
    if (wait.epoll_fd < 0)
        return -1;
    struct waiter waiter = {
        .ring = &wait,
        .look = look,
        .final_check = final_check,
        .spin = &self->spin[side],
        .event_fd = wait.epoll_fd,
        .hangup_fd = -1,
    };
    self->wake_taken[side] = true;
    self->waiting++;
    int result = py_wait(&waiter, deadline_ns);
    self->waiting--;
    if (shared)
        close(wait.epoll_fd);
    else
        self->wake_taken[side] = false;
    return result;
}

/* Wait until `side` may be tried again: 1, 0 if the deadline passed, -1 raised. */
static int wait_side(Mpmc *self, enum mpmc_side side, enum mpmc_result result,
                     uint64_t deadline_ns)
{
    uint64_t now = now_ns(), slice = now + mpmc_slice_ns(&self->member, side, result);
    if (now >= deadline_ns)
        return raise_timed_out(self, side, result) ? 0 : -1;
    int woken = sleep_once(self, side, slice < deadline_ns ? slice : deadline_ns);
    if (self->closed && self->waiting == 0 && self->ring != NULL)
        tear_down(self);
    if (woken < 0 || check_open(self) < 0)
        return -1;
    return 1;
}

/* ---- putting -------------------------------------------------------------------- */

/* Reading a message may run Python, which may close us: look at both, in this order. */
static int take_open(Mpmc *self, PyObject *message, Py_buffer *data)
{
    if (PyObject_GetBuffer(message, data, PyBUF_SIMPLE) < 0)
        return -1;
    if (check_open(self) == 0) {
        if (data->len <= (Py_ssize_t)self->member.ring.slot_size)
            return 0;
        raise_too_long(self, data->len);
    }
    PyBuffer_Release(data);
    return -1;
}

PyDoc_STRVAR(try_put_doc, "try_put(message, /)\n--\n\nPut it; False if the ring is full.");

static PyObject *try_put(Mpmc *self, PyObject *message)
{
    Py_buffer data;
    if (take_open(self, message, &data) < 0)
        return NULL;
    uint64_t at;
    enum mpmc_result result =
        mpmc_put_unstalling(&self->member, &at, data.buf, (uint32_t)data.len);
    PyBuffer_Release(&data);
    return result < 0 ? raise_result(self, result) : PyBool_FromLong(result == MPMC_OK);
}

static int put_waiting(Mpmc *self, const Py_buffer *data, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t at;
        enum mpmc_result result =
            mpmc_put_unstalling(&self->member, &at, data->buf, (uint32_t)data->len);
        if (result == MPMC_OK)
            return 0;
        if (result < 0) {
            raise_result(self, result);
            return -1;
        }
        if (wait_side(self, MPMC_PUT, result, deadline_ns) < 0)
            return -1;
    }
}

PyDoc_STRVAR(put_doc, "put(message, timeout=None)\n--\n\n"
                      "Put it, waiting for room; TimeoutError after `timeout` seconds.");

static PyObject *put(Mpmc *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"message", "timeout", NULL};
    PyObject *message, *timeout = NULL;
    uint64_t deadline_ns;
    Py_buffer data;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O", names, &message, &timeout) ||
        py_deadline(timeout, &deadline_ns) < 0 || take_open(self, message, &data) < 0)
        return NULL;
    int rc = put_waiting(self, &data, deadline_ns);
    PyBuffer_Release(&data);
    return rc < 0 ? NULL : py_none();
}

/* A run of messages: its cursor, and what ended it. */
struct run {
    uint64_t at;
    Py_ssize_t done;
    enum mpmc_result result;
};

static bool run_goes_on(struct run *run)
{
    if (run->result != MPMC_OK)
        return false;
    run->at++;
    run->done++;
    return true;
}

static void run_end(Mpmc *self, enum mpmc_side side, const struct run *run)
{
    mpmc_advance(&self->member.ring, side, run->at);
    mpmc_count(&self->member, side, (uint64_t)run->done);
}

/* What a finished run returns: its count, or the error that came before any. */
static PyObject *run_count(Mpmc *self, const struct run *run)
{
    return run->done == 0 && run->result < 0 ? raise_result(self, run->result)
                                             : PyLong_FromSsize_t(run->done);
}

static void put_run(Mpmc *self, struct run *run, const Py_buffer *data)
{
    do
        run->result = mpmc_put_at(&self->member, &run->at, data->buf, (uint32_t)data->len);
    while (run->result == MPMC_STALLED && mpmc_unstall(&self->member, MPMC_PUT, run->at));
}

/* Messages are read one by one: reading one may run Python, with no slot in hand. */
static int put_sequence(Mpmc *self, PyObject *messages, struct run *run)
{
    Py_ssize_t count = PySequence_Size(messages);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *message = PySequence_GetItem(messages, i);
        Py_buffer data;
        int rc = message ? take_open(self, message, &data) : -1;
        Py_XDECREF(message);
        if (rc < 0)
            return -1;
        put_run(self, run, &data);
        PyBuffer_Release(&data);
        if (!run_goes_on(run))
            return 0;
    }
    return count < 0 ? -1 : 0;
}

PyDoc_STRVAR(put_many_doc,
             "put_many(messages, /)\n--\n\n"
             "Put messages of a sequence until the ring is full; how many were put.");

static PyObject *put_many(Mpmc *self, PyObject *messages)
{
    if (check_open(self) < 0)
        return NULL;
    PyObject *sequence = PySequence_Tuple(messages);
    if (sequence == NULL)
        return NULL;
    struct run run = {.at = mpmc_index(&self->member.ring, MPMC_PUT)};
    int rc = put_sequence(self, sequence, &run);
    Py_DECREF(sequence);
    if (!self->closed)
        run_end(self, MPMC_PUT, &run);
    if (rc < 0 && run.done == 0)
        return NULL;
    PyErr_Clear();
    return run_count(self, &run);
}

static int record_size(Mpmc *self, const Py_buffer *records, Py_ssize_t size)
{
    if (size > (Py_ssize_t)self->member.ring.slot_size) {
        raise_too_long(self, size);
        return -1;
    }
    if (size > 0 && records->len % size == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "a buffer of %zd bytes is not a whole number of records of %zd",
                 records->len, size);
    return -1;
}

PyDoc_STRVAR(put_records_doc,
             "put_records(buffer, record_size)\n--\n\n"
             "Put each `record_size` bytes of `buffer` as a message until the ring is full; "
             "how many were put.");

static PyObject *put_records(Mpmc *self, PyObject *args)
{
    Py_buffer records;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "y*n", &records, &size))
        return NULL;
    if (check_open(self) < 0 || record_size(self, &records, size) < 0) {
        PyBuffer_Release(&records);
        return NULL;
    }
    struct run run = {.at = mpmc_index(&self->member.ring, MPMC_PUT)};
    Py_buffer record = {.buf = records.buf, .len = size};
    for (Py_ssize_t left = records.len / size; left > 0; left--) {
        put_run(self, &run, &record);
        if (!run_goes_on(&run))
            break;
        record.buf = (char *)record.buf + size;
    }
    run_end(self, MPMC_PUT, &run);
    PyBuffer_Release(&records);
    return run_count(self, &run);
}

/* ---- getting ----------------------------------------------------------------------- */

static enum mpmc_result peek_run(Mpmc *self, struct run *run, uint32_t *length)
{
    do
        run->result = mpmc_peek(&self->member, &run->at, length);
    while (run->result == MPMC_STALLED && mpmc_unstall(&self->member, MPMC_GET, run->at));
    return run->result;
}

/* A bytes object of `length`: `*spare` if it fits, else a new one. */
static PyObject *bytes_of(PyObject **spare, uint32_t length)
{
    PyObject *bytes = *spare;
    *spare = NULL;
    if (bytes != NULL && PyBytes_Size(bytes) == (Py_ssize_t)length)
        return bytes;
    Py_XDECREF(bytes);
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
}

/* The next message of a run, or NULL: `run->result` says why, or an error is set. */
static PyObject *get_run(Mpmc *self, struct run *run)
{
    PyObject *spare = NULL;
    uint32_t length;
    while (peek_run(self, run, &length) == MPMC_OK) {
        PyObject *bytes = bytes_of(&spare, length);
        if (bytes == NULL)
            return NULL;
        if (mpmc_get_at(&self->member, run->at, PyBytes_AsString(bytes), length))
            return bytes;
        spare = bytes;
    }
    Py_XDECREF(spare);
    return NULL;
}

static PyObject *get_once(Mpmc *self, struct run *run)
{
    *run = (struct run){.at = mpmc_index(&self->member.ring, MPMC_GET)};
    PyObject *message = get_run(self, run);
    if (message != NULL) {
        run_goes_on(run);
        run_end(self, MPMC_GET, run);
    }
    return message;
}

PyDoc_STRVAR(try_get_doc, "try_get()\n--\n\nThe next message, or None if there is none.");

static PyObject *try_get(Mpmc *self, PyObject *unused)
{
    struct run run;
    if (check_open(self) < 0)
        return NULL;
    PyObject *message = get_once(self, &run);
    if (message != NULL || PyErr_Occurred())
        return message;
    return run.result < 0 ? raise_result(self, run.result) : py_none();
}

static PyObject *get_waiting(Mpmc *self, uint64_t deadline_ns)
{
    for (;;) {
        struct run run;
        PyObject *message = get_once(self, &run);
        if (message != NULL || PyErr_Occurred())
            return message;
        if (run.result < 0)
            return raise_result(self, run.result);
        if (wait_side(self, MPMC_GET, run.result, deadline_ns) < 0)
            return NULL;
    }
}

PyDoc_STRVAR(get_doc, "get(timeout=None)\n--\n\n"
                      "The next message, waiting for one; TimeoutError after `timeout` seconds.");

static PyObject *get(Mpmc *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = NULL;
    uint64_t deadline_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &timeout) ||
        py_deadline(timeout, &deadline_ns) < 0 || check_open(self) < 0)
        return NULL;
    return get_waiting(self, deadline_ns);
}

static PyObject *get_list(Mpmc *self, Py_ssize_t count, struct run *run)
{
    PyObject *list = PyList_New(count);
    while (list != NULL && run->done < count) {
        PyObject *message = get_run(self, run);
        if (message == NULL)
            break;
        PyList_SetItem(list, run->done, message);
        run_goes_on(run);
    }
    if (list != NULL && run->done < count)
        PyList_SetSlice(list, run->done, count, NULL);
    return list;
}

PyDoc_STRVAR(get_many_doc, "get_many(limit, /)\n--\n\n"
                           "A list of up to `limit` messages, empty if there is none.");

static PyObject *get_many(Mpmc *self, PyObject *limit)
{
    Py_ssize_t count = PyLong_AsSsize_t(limit);
    if ((count == -1 && PyErr_Occurred()) || check_open(self) < 0)
        return NULL;
    if (count < 1)
        return PyErr_Format(PyExc_ValueError, "limit must be 1 or more, not %zd", count);
    Py_ssize_t size = (Py_ssize_t)mpmc_size(&self->member.ring);
    if (count > size)
        count = size ? size : 1;
    struct run run = {.at = mpmc_index(&self->member.ring, MPMC_GET)};
    PyObject *list = get_list(self, count, &run);
    run_end(self, MPMC_GET, &run);
    if (list == NULL || run.done > 0)
        PyErr_Clear();
    if (list != NULL && run.done == 0 && (run.result < 0 || PyErr_Occurred())) {
        Py_DECREF(list);
        return run.result < 0 ? raise_result(self, run.result) : NULL;
    }
    return list;
}

/* Copy messages of just `size` bytes; -1 raised if the first is of another size. */
static int get_into(Mpmc *self, struct run *run, Py_buffer *out, Py_ssize_t size)
{
    char *record = out->buf;
    uint32_t length;
    for (Py_ssize_t left = out->len / size; left > 0;) {
        if (peek_run(self, run, &length) != MPMC_OK)
            return 0;
        if ((Py_ssize_t)length != size && run->done == 0) {
            PyErr_Format(PyExc_ValueError,
                         "the next message has %u bytes, not %zd: take it with get()", length,
                         size);
            return -1;
        }
        if ((Py_ssize_t)length != size)
            return 0;
        if (!mpmc_get_at(&self->member, run->at, record, length))
            continue;
        record += size;
        left--;
        run_goes_on(run);
    }
    return 0;
}

PyDoc_STRVAR(get_records_doc,
             "get_records(buffer, record_size)\n--\n\n"
             "Fill `buffer` with messages of `record_size` bytes each; how many were taken.");

static PyObject *get_records(Mpmc *self, PyObject *args)
{
    Py_buffer records;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "w*n", &records, &size))
        return NULL;
    if (check_open(self) < 0 || record_size(self, &records, size) < 0) {
        PyBuffer_Release(&records);
        return NULL;
    }
    struct run run = {.at = mpmc_index(&self->member.ring, MPMC_GET)};
    int rc = get_into(self, &run, &records, size);
    run_end(self, MPMC_GET, &run);
    PyBuffer_Release(&records);
    return rc < 0 ? NULL : run_count(self, &run);
}

/* ---- sleeping elsewhere (an event loop) -------------------------------------------- */

static PyObject *side_fileno(Mpmc *self, enum mpmc_side side)
{
    if (check_open(self) < 0 || cached_wake_fd(self, side) < 0)
        return NULL;
    return PyLong_FromLong(self->wake_fd[side]);
}

static PyObject *side_arm(Mpmc *self, enum mpmc_side side)
{
    struct wait_for wait = {.self = self, .side = side};
    if (check_open(self) < 0 || (wait.epoll_fd = cached_wake_fd(self, side)) < 0)
        return NULL;
    if (final_check(&wait) != 0)
        return PyFloat_FromDouble(0.0);
    uint64_t at;
    enum mpmc_result result = side_state(self, side, &at);
    return PyFloat_FromDouble((double)mpmc_slice_ns(&self->member, side, result) / 1e9);
}

PyDoc_STRVAR(get_fileno_doc, "get_fileno()\n--\n\n"
                             "A descriptor that polls readable when get may go on; see arm_get.");
PyDoc_STRVAR(arm_get_doc,
             "arm_get()\n--\n\n"
             "Announce that the caller will sleep on get_fileno(), and look once more: "
             "0.0 if get may go on now, else how many seconds to sleep at most.");
PyDoc_STRVAR(put_fileno_doc, "put_fileno()\n--\n\n"
                             "A descriptor that polls readable when put may go on; see arm_put.");
PyDoc_STRVAR(arm_put_doc,
             "arm_put()\n--\n\n"
             "Announce that the caller will sleep on put_fileno(), and look once more: "
             "0.0 if put may go on now, else how many seconds to sleep at most.");

static PyObject *get_fileno(Mpmc *self, PyObject *unused) { return side_fileno(self, MPMC_GET); }
static PyObject *put_fileno(Mpmc *self, PyObject *unused) { return side_fileno(self, MPMC_PUT); }
static PyObject *arm_get(Mpmc *self, PyObject *unused) { return side_arm(self, MPMC_GET); }
static PyObject *arm_put(Mpmc *self, PyObject *unused) { return side_arm(self, MPMC_PUT); }

/* ---- everybody ------------------------------------------------------------------------ */

PyDoc_STRVAR(recover_doc, "recover()\n--\n\n"
                          "Settle what dead members left behind; how many this call buried.");

static PyObject *recover(Mpmc *self, PyObject *unused)
{
    struct mpmc_member *member = &self->member;
    if (check_open(self) < 0)
        return NULL;
    uint32_t freed = owner_recover_all(&member->ring, &member->self, member->lock_fd);
    if (freed)
        mpmc_notify_recovery(member);
    return PyLong_FromUnsignedLong(freed);
}

PyDoc_STRVAR(shutdown_doc,
             "shutdown(immediate=False)\n--\n\n"
             "Refuse puts from now on, and gets once the ring is empty (`immediate`: at once); "
             "those refused raise ShutDown.");

static PyObject *shut_down(Mpmc *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"immediate", NULL};
    int immediate = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p", names, &immediate) ||
        check_open(self) < 0)
        return NULL;
    mpmc_shut_down(&self->member, immediate);
    return py_none();
}

static PyObject *get_size(Mpmc *self, void *unused)
{
    return check_open(self) < 0 ? NULL : PyLong_FromUnsignedLongLong(mpmc_size(&self->member.ring));
}

static PyObject *get_owner(Mpmc *self, void *unused)
{
    return check_open(self) < 0 ? NULL : PyLong_FromUnsignedLong(self->member.ring.owner);
}

static PyObject *get_closed(Mpmc *self, void *unused)
{
    return PyBool_FromLong(self->closed);
}

static PyObject *get_ring(Mpmc *self, void *unused)
{
    if (check_open(self) < 0)
        return NULL;
    Py_INCREF(self->ring);
    return self->ring;
}

/* ---- making rings ----------------------------------------------------------------------- */

static PyObject *initialise(PyObject *module, PyObject *args)
{
    Py_buffer memory;
    unsigned slots, slot_size;
    unsigned long long start;
    struct mpmc ring;
    if (!PyArg_ParseTuple(args, "w*IIK", &memory, &slots, &slot_size, &start))
        return NULL;
    bool fits = mpmc_bind(&ring, memory.buf, (size_t)memory.len, slots, slot_size);
    if (fits)
        mpmc_init(&ring, start);
    PyBuffer_Release(&memory);
    return fits ? py_none() : py_raise("LayoutError", "the ring does not fit its memory");
}

/* ---- types ------------------------------------------------------------------------------- */

#define NOARGS(name) {#name, (PyCFunction)name, METH_NOARGS, name##_doc}
#define ONE(name) {#name, (PyCFunction)name, METH_O, name##_doc}
#define VARARGS(name) {#name, (PyCFunction)name, METH_VARARGS, name##_doc}
#define KEYWORDS(name) {#name, (PyCFunction)name, METH_VARARGS | METH_KEYWORDS, name##_doc}

#define PUT_METHODS                                                                         \
    ONE(try_put), KEYWORDS(put), ONE(put_many), VARARGS(put_records), NOARGS(put_fileno),   \
        NOARGS(arm_put)
#define GET_METHODS                                                                         \
    NOARGS(try_get), KEYWORDS(get), ONE(get_many), VARARGS(get_records), NOARGS(get_fileno), \
        NOARGS(arm_get)
#define ALL_METHODS                                                                         \
    NOARGS(recover), {"shutdown", (PyCFunction)shut_down, METH_VARARGS | METH_KEYWORDS,     \
                      shutdown_doc},                                                        \
        {"close", (PyCFunction)member_close, METH_NOARGS, "Leave the ring."},               \
        {"__enter__", (PyCFunction)member_enter, METH_NOARGS, NULL},                        \
        {"__exit__", (PyCFunction)member_exit, METH_VARARGS, NULL}, {NULL}

static PyMethodDef producer_methods[] = {PUT_METHODS, ALL_METHODS};
static PyMethodDef consumer_methods[] = {GET_METHODS, ALL_METHODS};
static PyMethodDef member_methods[] = {PUT_METHODS, GET_METHODS, ALL_METHODS};

static PyGetSetDef member_getset[] = {
    {"size", (getter)get_size, NULL, "Messages in the ring now.", NULL},
    {"owner", (getter)get_owner, NULL, "Our number in the table of members.", NULL},
    {"closed", (getter)get_closed, NULL, "True after close().", NULL},
    {"ring", (getter)get_ring, NULL, "The ring we are a member of.", NULL},
    {NULL},
};

#define MPMC_SPEC(kind, text)                                                               \
    static PyType_Slot kind##_slots[] = {                                                   \
        {Py_tp_doc, text},                                                                  \
        {Py_tp_new, member_new},                                                            \
        {Py_tp_dealloc, member_dealloc},                                                    \
        {Py_tp_methods, kind##_methods},                                                    \
        {Py_tp_getset, member_getset},                                                      \
        {0, NULL},                                                                          \
    }

MPMC_SPEC(producer, "Producer(ring, *, spin_us=0)\n--\n\nA member of an MPMC ring that puts.");
MPMC_SPEC(consumer, "Consumer(ring, *, spin_us=0)\n--\n\nA member of an MPMC ring that gets.");
MPMC_SPEC(member, "Member(ring, *, spin_us=0)\n--\n\nA member of an MPMC ring that does both.");

static PyType_Spec specs[] = {
    {"rings._core.MpmcProducer", sizeof(Mpmc), 0, Py_TPFLAGS_DEFAULT, producer_slots},
    {"rings._core.MpmcConsumer", sizeof(Mpmc), 0, Py_TPFLAGS_DEFAULT, consumer_slots},
    {"rings._core.MpmcMember", sizeof(Mpmc), 0, Py_TPFLAGS_DEFAULT, member_slots},
};

static PyMethodDef functions[] = {
    {"mpmc_initialise", initialise, METH_VARARGS,
     "mpmc_initialise(memory, slots, slot_size, start, /)\n--\n\nWrite a fresh ring."},
    {NULL},
};

int py_add_mpmc(PyObject *module)
{
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        if (py_add_type(module, &specs[i]) < 0)
            return -1;
    return PyModule_AddFunctions(module, functions);
}
