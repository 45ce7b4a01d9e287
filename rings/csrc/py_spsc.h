/* One end of a message ring as a Python object; shared by the py_spsc*.c files.
 *
 * A handle belongs to one thread at a time.  The GIL is held through every try
 * operation and given up only to sleep and to copy more than BIG_COPY bytes; then
 * STOP_BUSY keeps others out.  `stops` and the fork count are all that an ordinary
 * call looks at before it goes ahead.
 */
#ifndef RINGS_PY_SPSC_H
#define RINGS_PY_SPSC_H

#include "py.h"

#include "alarm.h"
#include "spsc_latest.h"
#include "spsc_pool.h"

enum {
    STOP_CLOSED = 1, /* given back, or never opened */
    STOP_BUSY = 2,   /* asleep or copying without the GIL */
    STOP_VIEW = 4,   /* a claim or a peek is out */
    STOP_BROKEN = 8, /* the peer's words are impossible */
    STOP_CLOSING = 16, /* close() came while the end was busy */
};
enum peer { PEER_ABSENT, PEER_ALIVE, PEER_CLOSED, PEER_DEAD };
enum { BIG_COPY = 64 * 1024 };
enum { FEW_SLOTS = 256, FEW_RECORD_UNITS = 2048 }; /* and at most an eighth of the ring */

struct py_spsc_view;

struct py_spsc {
    PyObject_HEAD
    struct spsc_end end;
    unsigned stops;
    unsigned forks;
    bool producer;
    enum policy policy;
    uint32_t want; /* units that a wait waits for */
    uint64_t want_length; /* of a message that is waiting to be put, or 0 */
    struct owned_end *mine;
    struct owned_end *theirs;
    uint64_t self;        /* my owner word */
    uint64_t peer;        /* theirs, when last looked at */
    enum peer peer_state; /* of that owner */
    int peer_pidfd;       /* of that owner, or -1 */
    int notify_fd;
    int wait_fd;
    int sleep_fd; /* epoll: an edge of wait_fd, or peer_pidfd, or the alarm */
    struct alarm alarm; /* ends a sleep that has no timeout once a second */
    atomic_bool closing; /* STOP_CLOSING, for a sleeper without the GIL */
    uint32_t few;        /* a producer's: units that are worth to be told of */
    uint64_t slice_ns;   /* of the sleep that goes on */
    struct spin spin;
    struct py_spsc_view *view; /* borrowed; it holds us */
    struct spsc_loans *loans;  /* of the producer of a ring with a pool */
    PyObject *view_type;
    Py_buffer region;
    bool latest;          /* the consumer gets the newest */
    uint64_t lost_before; /* at this end, by those who held it before us */
    uint64_t messages, notified, waited;
    PyObject *weakrefs;
};

struct py_spsc_view {
    PyObject_HEAD
    struct py_spsc *owner; /* NULL once published, released or abandoned */
    PyObject *entered;     /* the memoryview that `with` gave out */
    uint8_t *bytes;
    Py_ssize_t length;
    Py_ssize_t exports;
    uint32_t units;     /* to publish or release if all of it is used */
    uint32_t skipped;   /* of these, units of a WRAP before it */
    uint32_t messages;
    bool read_only;
    bool lent; /* a claim in the pool, not published yet */
};

/* ---- py_spsc_end.c, py_spsc_wait.c: opening, closing, sleeping ------------ */

int spsc_open(struct py_spsc *self, PyObject *args, PyObject *kwargs, bool producer);
PyObject *spsc_close(PyObject *op, PyObject *ignored);
void spsc_dealloc(PyObject *op);
/* Say with an exception why the end is unusable; false. */
bool spsc_refuse(struct py_spsc *self);
/* The rare ends of an operation: tell the peer, finish a close() that came meanwhile. */
void spsc_settle(struct py_spsc *self, bool tell);
/* Sleep until `want` units are there: 1, 0 when time is up, -1 with an exception. */
int spsc_sleep(struct py_spsc *self, uint32_t want, PyObject *timeout_s);
void spsc_raise_timeout(struct py_spsc *self);
void spsc_forget_peer(struct py_spsc *self);
int spsc_watch(struct py_spsc *self, int fd, uint32_t events);
void spsc_close_fd(int *fd);
PyObject *spsc_raise_broken(struct py_spsc *self);
void spsc_move_big(struct py_spsc *self, void *to, const void *from, size_t size);
extern PyGetSetDef spsc_getset[];
PyObject *spsc_statistics(PyObject *op, PyObject *ignored);
PyObject *spsc_reset_watermarks(PyObject *op, PyObject *ignored);
PyObject *spsc_fileno(PyObject *op, PyObject *ignored);
PyObject *spsc_arm(PyObject *op, PyObject *ignored);
PyObject *spsc_wait_peer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames);
/* 0, with an exception: a message of this length never fits. */
uint32_t spsc_refuse_length(const struct py_spsc *self, Py_ssize_t length);
PyObject *spsc_clear(PyObject *op, PyObject *ignored);
PyObject *spsc_enter(PyObject *op, PyObject *ignored);

/* ---- py_spsc_view.c: views that cannot outlive their slot ----------------- */

int py_add_spsc_view(PyObject *module);
PyObject *spsc_view_new(struct py_spsc *self, uint8_t *bytes, size_t length, uint32_t messages,
                        uint32_t units, uint32_t skipped);
/* Publish or release the first `count` messages (or bytes of a record) of the view. */
int spsc_view_finish(struct py_spsc_view *view, uint32_t count, bool all);
int spsc_view_abandon(struct py_spsc_view *view);

/* ---- py_spsc_put.c and py_spsc_get.c: the calls users make ---------------- */

#define FAST_METHOD(name) \
    PyObject *name(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)

PyObject *spsc_try_put(PyObject *op, PyObject *data);
PyObject *spsc_try_get(PyObject *op, PyObject *ignored);
PyObject *spsc_next(PyObject *op);
FAST_METHOD(spsc_put);
FAST_METHOD(spsc_put_many);
FAST_METHOD(spsc_claim);
FAST_METHOD(spsc_try_claim);
FAST_METHOD(spsc_get);
FAST_METHOD(spsc_get_many);
FAST_METHOD(spsc_get_into);
FAST_METHOD(spsc_peek);
FAST_METHOD(spsc_try_peek);

/* ---- inline: what every call does first ----------------------------------- */

static inline bool spsc_usable(struct py_spsc *self)
{
    if (__builtin_expect(self->stops == 0 && self->forks == py_fork_count(), 1))
        return true;
    return spsc_refuse(self);
}

/* Copy; without the GIL if it is much. */
static inline void spsc_move(struct py_spsc *self, void *to, const void *from, size_t size)
{
    if (__builtin_expect(size > BIG_COPY, 0))
        spsc_move_big(self, to, from, size);
    else
        memcpy(to, from, size);
}

/* What every publish and release ends with. */
static inline void spsc_done(struct py_spsc *self, uint32_t messages, bool tell)
{
    self->messages += messages;
    if (__builtin_expect(tell || self->stops != 0, 0))
        spsc_settle(self, tell);
}

/* A timeout that is missing is 0: batches never wait unless asked to. */
static inline bool spsc_waits(PyObject *timeout_s)
{
    return timeout_s != NULL;
}

static inline bool spsc_parse_count(PyObject *given, uint32_t *count)
{
    *count = 1;
    if (given == NULL)
        return true;
    unsigned long value = PyLong_AsUnsignedLong(given);
    if (PyErr_Occurred())
        return false;
    if (value == 0 || value > 1ul << 31) {
        PyErr_Format(PyExc_ValueError, "ask for 1 to %lu, not %lu", 1ul << 31, value);
        return false;
    }
    *count = (uint32_t)value;
    return true;
}

/* Slots in one piece: at most `count`, the ring's rest, and what is there. */
static inline uint32_t spsc_piece(struct py_spsc *self, uint32_t count, int64_t there)
{
    uint32_t run = spsc_run(&self->end, self->end.index);
    uint32_t most = count < run ? count : run;
    return there < most ? (uint32_t)there : most;
}

#endif
