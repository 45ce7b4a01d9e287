/* rings._core.Front in six files: its life and facts, submitting, waiting, transfers of
 * many blocks, loads that measure, and how deep it goes.
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
} Answer;

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    bool held; /* the buffer */
    Py_buffer elder_view;
    bool elder_held;
    unsigned forks;
    PyObject *answer_type;
    PyObject *on_hangup; /* called when the control socket has something; raises if it is over */
    PyObject *orphan;    /* called with a holder when nobody waits any more; returns an Answer */
    struct front front;
    struct gauge gauge;
    Py_buffer gauge_view; /* obj NULL: nobody watches */
} Front;

/* op, offset, length, gref, generation, segment offset; gref None: no segment. */
struct asked {
    uint32_t op;
    uint64_t offset, length;
    struct io_segment segment;
    bool has_segment;
};

/* ---- py_front_submit.c ---- */

/* Open, of this process and not broken; false with an exception. */
bool front_usable(Front *self);
bool front_check_count(Py_ssize_t count, Py_ssize_t wanted, const char *name);
bool front_get_u32(PyObject *number, uint32_t *out);
bool front_parse_asked(PyObject *const *args, struct asked *asked);
bool front_is_answer(Front *self, PyObject *holder);
/* Claim and fill; NULL without credit.  Mutex held. */
struct call *front_put(Front *self, const struct asked *asked);
/* The answer is owed to `holder`, an Answer.  Mutex held. */
void front_give_holder(struct call *call, PyObject *holder);
PyObject *front_submit(Front *self, PyObject *const *args, Py_ssize_t count);
PyObject *front_submit_request(Front *self, PyObject *const *args, Py_ssize_t count);
PyObject *front_flush_(Front *self, PyObject *ignored);
PyObject *front_collect(Front *self, PyObject *ignored);

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
/* A holder for an answer that nobody waits for any more; NULL, and the front broken. */
PyObject *front_make_keeper(Front *self, PyObject *holder);
void front_settle(PyObject *keeper);
PyObject *front_raise_errno(int64_t error);
PyObject *front_wait_answer(Front *self, PyObject *const *args, Py_ssize_t count);
PyObject *front_wait_credit(Front *self, PyObject *timeout);
PyObject *front_arm(Front *self, PyObject *ignored);
PyObject *front_call(Front *self, PyObject *const *args, Py_ssize_t count);

/* ---- py_front_many.c ---- */

/* Give up on everything in flight of `owner`, a struct many or load: see orphan(). */
void front_orphan_all(Front *self, void *owner, PyObject *holder);
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
