/* Front: what a call may be asked, and requests submitted to be waited for later. */
#include "py_front.h"

#include <pthread.h>

bool front_usable(Front *self)
{
    if (!self->held) {
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

/* ---- submit, flush, collect ---- */

void front_give_holder(struct call *call, PyObject *holder)
{
    Py_INCREF(holder);
    call->holder = holder;
    call->answer = &((Answer *)holder)->answer;
    call->state = CALL_HELD;
}

bool front_is_answer(Front *self, PyObject *holder)
{
    int is = PyObject_IsInstance(holder, self->answer_type);
    if (is == 0)
        PyErr_SetString(PyExc_TypeError, "the holder must be an Answer");
    return is == 1;
}

static PyObject *id_of(const Front *self, const struct call *call)
{
    uint64_t index = (uint64_t)(call - self->front.calls);
    return PyLong_FromUnsignedLongLong((uint64_t)call->generation << 32 | index);
}

/* submit(holder, op, offset, length, gref, generation, segment_offset) -> id | None */
PyObject *front_submit(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct asked asked;
    if (!front_check_count(count, 7, "submit") || !front_usable(self) ||
        !front_is_answer(self, args[0]) ||
        !front_parse_asked(args + 1, &asked))
        return NULL;
    pthread_mutex_lock(&self->front.mutex);
    struct call *call = front_put(self, &asked);
    if (call != NULL)
        front_give_holder(call, args[0]);
    pthread_mutex_unlock(&self->front.mutex);
    return call == NULL ? py_none() : id_of(self, call);
}

/* submit_request(holder, request) -> id | None; the request's own id field is ignored. */
PyObject *front_submit_request(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct io_request request, *slot;
    Py_buffer view;
    if (!front_check_count(count, 2, "submit_request") || !front_usable(self) ||
        !front_is_answer(self, args[0]) ||
        PyObject_GetBuffer(args[1], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    bool whole = view.len == sizeof request;
    if (whole)
        memcpy(&request, view.buf, sizeof request);
    PyBuffer_Release(&view);
    if (!whole)
        return PyErr_Format(PyExc_ValueError, "a request has %zu bytes", sizeof request);
    pthread_mutex_lock(&self->front.mutex);
    struct call *call = front_claim(&self->front, &slot);
    if (call != NULL) {
        request.id = slot->id;
        *slot = request;
        call->op = request.op;
        call->offset = request.offset;
        call->length = request.length;
        front_give_holder(call, args[0]);
    }
    pthread_mutex_unlock(&self->front.mutex);
    return call == NULL ? py_none() : id_of(self, call);
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

/* collect() -> [holder]: what was answered since the last time; never waits. */
PyObject *front_collect(Front *self, PyObject *ignored)
{
    struct front *front = &self->front;
    PyObject *list = PyList_New(0);
    while (list != NULL) {
        pthread_mutex_lock(&front->mutex);
        if (front->nr_done == 0) {
            pthread_mutex_unlock(&front->mutex);
            break;
        }
        uint32_t index = front->done[front->first_done];
        PyObject *holder = front->calls[index].holder;
        front->first_done = (front->first_done + 1) % front->nr_calls;
        front->nr_done--;
        front->calls[index].holder = NULL;
        front_free_call(front, index);
        pthread_mutex_unlock(&front->mutex);
        if (PyList_Append(list, holder) < 0)
            Py_CLEAR(list);
        Py_DECREF(holder);
    }
    return list;
}
