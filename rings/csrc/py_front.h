/* rings._core.Front in seven files: its life and facts, submitting, waiting, transfers of
 * many blocks, loads that measure, another ring, and how deep it goes; and Answer.
 *
 * Under every method lies front.h; here is what needs Python.
 */
#ifndef RINGS_PY_FRONT_H
#define RINGS_PY_FRONT_H

#include "py.h"

#include "front.h"

/* rings._core.Answer: what a submitted request will be answered; made to be subclassed. */
typedef struct {
    PyObject_HEAD
    struct answer answer;
    PyObject *requester; /* whose method waits for it */
    PyObject *pinned;    /* a View or a tuple of Views; NULL once settled */
    uint64_t id, offset, length;
    uint8_t op;
} Answer;

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    bool held; /* the buffer */
    Py_buffer elder_view;
    bool elder_held;
    unsigned forks;
    PyTypeObject *answer; /* what `begin` returns: Answer or a subclass */
    PyObject *on_hangup;  /* called when the control socket has something; raises if it is over */
    struct front front;
    struct gauge gauge;
    Py_buffer gauge_view; /* obj NULL: nobody watches */
    PyObject *weakrefs;
} Front;

/* op, offset, length, gref, generation, segment offset; gref None: no segment. */
struct asked {
    uint32_t op;
    uint64_t offset, length;
    struct io_segment segment;
    bool has_segment;
};

/* ---- py_answer.c ---- */

/* An answer that is owed, and pins `memory`: a View, a tuple of them, or NULL for none.
 * NULL with an exception; ClosedError if some of it was revoked. */
Answer *answer_make(PyTypeObject *type, PyObject *requester, const struct asked *asked,
                    PyObject *memory);
/* Unpin, for the answer has come or nothing was asked; again is harmless.  With the GIL. */
void answer_settle(Answer *self);

/* ---- py_front_submit.c ---- */

/* Open, of this process and not broken; false with an exception. */
bool front_usable(Front *self);
bool front_check_count(Py_ssize_t count, Py_ssize_t wanted, const char *name);
bool front_get_u32(PyObject *number, uint32_t *out);
bool front_parse_asked(PyObject *const *args, struct asked *asked);
/* An argument that may be None. */
PyObject *front_or_null(PyObject *argument);
/* Claim and fill; NULL without credit.  Mutex held. */
struct call *front_put(Front *self, const struct asked *asked);
/* The result is owed to `answer`.  Mutex held. */
void front_owe(struct call *call, Answer *answer);
PyObject *front_begin(Front *self, PyObject *const *args, Py_ssize_t count);
PyObject *front_begin_request(Front *self, PyObject *const *args, Py_ssize_t count);
PyObject *front_has_credit_(Front *self, PyObject *ignored);
PyObject *front_flush_(Front *self, PyObject *ignored);
/* Settle what was answered since the last time; never waits. */
void front_settle(Front *self);

/* ---- py_front_wait.c ---- */

void front_break(struct front *front, const char *why);
bool front_ended_early(enum wait_result result);
/* After a wait that ended early: 0 to wait again, -1 with an exception. */
int front_interrupted(Front *self, enum wait_result result);
/* Wait with the GIL released: WAIT_READY, WAIT_TIMED_OUT, WAIT_BROKEN, or -1 with an
 * exception. */
int front_wait_for(Front *self, bool (*done)(void *), void *arg, uint64_t deadline_ns);
/* True when ready, False when the time is over; NULL with an exception. */
PyObject *front_wait_outcome(Front *self, int result);
bool front_answer_done(void *answer);
/* Who keeps memory pinned until an answer comes that nobody waits for any more; NULL, and
 * the front broken, if there is none to be had. */
Answer *front_make_keeper(Front *self, PyObject *memory);
PyObject *front_raise_errno(int64_t error);
PyObject *front_result(Front *self, PyObject *const *args, Py_ssize_t count);
PyObject *front_wait_credit(Front *self, PyObject *timeout);
PyObject *front_arm(Front *self, PyObject *ignored);
PyObject *front_call(Front *self, PyObject *const *args, Py_ssize_t count);

/* ---- py_front_many.c ---- */

/* Give up on everything in flight of `owner`, a struct many or load: see orphan(). */
void front_orphan_all(Front *self, void *owner, PyObject *memory);
PyObject *front_many(Front *self, PyObject *const *args, Py_ssize_t count);

/* ---- py_front_load.c ---- */

void front_unwatch(Front *self);
PyObject *front_watch(Front *self, PyObject *args);
PyObject *front_unwatch_(Front *self, PyObject *ignored);
PyObject *front_load(Front *self, PyObject *args, PyObject *kwargs);

/* ---- py_front_replace.c ---- */

void front_release_elder(Front *self);
PyObject *front_wait_elder(Front *self, PyObject *timeout);
PyObject *front_replace_(Front *self, PyObject *const *args, Py_ssize_t count);

/* ---- py_front_depth.c ---- */

PyObject *front_set_depth(Front *self, PyObject *const *args, Py_ssize_t count);
PyObject *front_statistics(Front *self, PyObject *ignored);

#endif
