/* Front: what a call may be asked, and requests submitted to be waited for later. */
#include "py_front.h"

#include <pthread.h>

bool front_usable(Front *self)
{
    if (!self->held || self->on_hangup == NULL) {
        py_raise("ClosedError", "this frontend is closed");
        return false;
    }
    if (self->forks != py_fork_count()) {
        py_raise("ClosedError",
                 "this frontend was made before a fork: connect again in the child");
        return false;
    }
    if (self->front.broken != NULL) {
        py_raise("BrokenError", "%s", self->front.broken);
        return false;
    }
    return true;
}

static bool get_u64(PyObject *number, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(number);
    return !(*out == (uint64_t)-1 && PyErr_Occurred());
}

bool front_get_u32(PyObject *number, uint32_t *out)
{
    uint64_t value;
    if (!get_u64(number, &value))
        return false;
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the number must fit in 32 bits");
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

bool front_parse_asked(PyObject *const *args, struct asked *asked)
{
    asked->has_segment = args[3] != Py_None;
    if (!front_get_u32(args[0], &asked->op) || !get_u64(args[1], &asked->offset) ||
        !get_u64(args[2], &asked->length))
        return false;
    if (!asked->has_segment)
        return true;
    if (asked->length > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a segment's length must fit in 32 bits");
        return false;
    }
    asked->segment.length = (uint32_t)asked->length;
    return front_get_u32(args[3], &asked->segment.gref) &&
           front_get_u32(args[4], &asked->segment.generation) &&
           front_get_u32(args[5], &asked->segment.offset);
}

struct call *front_put(Front *self, const struct asked *asked)
{
    struct io_request *slot;
    struct call *call = front_claim(&self->front, &slot);
    if (call != NULL)
        front_fill(call, slot, (uint8_t)asked->op, asked->offset, asked->length,
                   asked->has_segment ? &asked->segment : NULL);
    return call;
}

bool front_check_count(Py_ssize_t count, Py_ssize_t wanted, const char *name)
{
    if (count == wanted)
        return true;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", name, wanted, count);
    return false;
}

/* ---- begin, flush, settle ---- */

void front_owe(struct call *call, Answer *answer)
{
    Py_INCREF((PyObject *)answer);
    call->holder = answer;
    call->answer = &answer->answer;
    call->state = CALL_HELD;
}

PyObject *front_or_null(PyObject *argument)
{
    return argument == Py_None ? NULL : argument;
}

/* Claim a slot whose result is owed to `answer`; false without credit. */
static bool claim_for(Front *self, Answer *answer, bool publish,
                      struct call *(*claim)(Front *, void *), void *what)
{
    struct front *front = &self->front;
    pthread_mutex_lock(&front->mutex);
    struct call *call = claim(self, what);
    if (call != NULL) {
        front_owe(call, answer);
        answer->id = (uint64_t)call->generation << 32 | (uint64_t)(call - front->calls);
        if (publish)
            front_flush(front);
    }
    pthread_mutex_unlock(&front->mutex);
    return call != NULL;
}

/* The answer that is owed now; None without credit; NULL with an exception.  Whatever ran
 * while it was allocated may have closed the front, so that is looked at here. */
static PyObject *begin(Front *self, PyObject *const who[2], const struct asked *asked,
                       PyObject *publish, struct call *(*claim)(Front *, void *), void *what)
{
    int now = PyObject_IsTrue(publish);
    if (now < 0)
        return NULL;
    Answer *answer = answer_make(self->answer, who[0], asked, front_or_null(who[1]));
    if (answer == NULL)
        return NULL;
    bool usable = front_usable(self);
    if (usable && claim_for(self, answer, now, claim, what))
        return (PyObject *)answer;
    answer_settle(answer);
    Py_DECREF((PyObject *)answer);
    return usable ? py_none() : NULL;
}

static struct call *claim_asked(Front *self, void *asked)
{
    return front_put(self, asked);
}

/* begin(requester, memory, op, offset, length, gref, generation, segment_offset, publish)
 * -> Answer, or None without credit */
PyObject *front_begin(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct asked asked;
    if (!front_check_count(count, 9, "begin") || !front_parse_asked(args + 2, &asked))
        return NULL;
    return begin(self, args, &asked, args[8], claim_asked, &asked);
}

static struct call *claim_request(Front *self, void *what)
{
    struct io_request *request = what, *slot;
    struct call *call = front_claim(&self->front, &slot);
    if (call == NULL)
        return NULL;
    request->id = slot->id;
    *slot = *request;
    call->op = request->op;
    call->offset = request->offset;
    call->length = request->length;
    return call;
}

/* begin_request(requester, memory, request, publish) -> Answer, or None without credit; the
 * request is its 64 bytes, of which the id is ignored. */
PyObject *front_begin_request(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct io_request request;
    Py_buffer view;
    if (!front_check_count(count, 4, "begin_request") ||
        PyObject_GetBuffer(args[2], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    bool whole = view.len == sizeof request;
    if (whole)
        memcpy(&request, view.buf, sizeof request);
    PyBuffer_Release(&view);
    if (!whole)
        return PyErr_Format(PyExc_ValueError, "a request has %zu bytes", sizeof request);
    struct asked asked = {.op = request.op, .offset = request.offset, .length = request.length};
    return begin(self, args, &asked, args[3], claim_request, &request);
}

/* has_credit() -> bool: whether a request could be submitted now. */
PyObject *front_has_credit_(Front *self, PyObject *ignored)
{
    if (!front_usable(self))
        return NULL;
    pthread_mutex_lock(&self->front.mutex);
    bool has = front_has_credit(&self->front);
    pthread_mutex_unlock(&self->front.mutex);
    return PyBool_FromLong(has);
}

PyObject *front_flush_(Front *self, PyObject *ignored)
{
    if (!front_usable(self))
        return NULL;
    pthread_mutex_lock(&self->front.mutex);
    front_flush(&self->front);
    pthread_mutex_unlock(&self->front.mutex);
    return py_none();
}

enum { SETTLED_AT_ONCE = 32 };

/* Take what was answered off the list; how many. */
static uint32_t take_done(struct front *front, Answer *taken[SETTLED_AT_ONCE])
{
    uint32_t count = 0;
    pthread_mutex_lock(&front->mutex);
    for (; front->nr_done > 0 && count < SETTLED_AT_ONCE; front->nr_done--) {
        uint32_t index = front->done[front->first_done];
        taken[count++] = front->calls[index].holder;
        front->first_done = (front->first_done + 1) % front->nr_calls;
        front->calls[index].holder = NULL;
        front_free_call(front, index);
    }
    pthread_mutex_unlock(&front->mutex);
    return count;
}

void front_settle(Front *self)
{
    Answer *taken[SETTLED_AT_ONCE];
    uint32_t count;
    do {
        count = take_done(&self->front, taken);
        for (uint32_t i = 0; i < count; i++) {
            answer_settle(taken[i]);
            Py_DECREF((PyObject *)taken[i]);
        }
    } while (count == SETTLED_AT_ONCE);
}
