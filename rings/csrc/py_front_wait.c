/* Front: waiting for answers, and one call from request to result. */
#include "py_front.h"

#include <pthread.h>

void front_break(struct front *front, const char *why)
{
    pthread_mutex_lock(&front->mutex);
    if (front->broken == NULL)
        front->broken = why;
    pthread_cond_broadcast(&front->changed);
    pthread_mutex_unlock(&front->mutex);
}

/* The daemon is gone: what it had answered still counts; then nothing more will come. */
static void last_answers(struct front *front)
{
    pthread_mutex_lock(&front->mutex);
    front_dispatch(front);
    pthread_mutex_unlock(&front->mutex);
    front_break(front, "the connection to the daemon is gone");
}

/* After a wait that ended early: 0 to wait again, -1 with an exception. */
int front_interrupted(Front *self, enum wait_result result)
{
    if (result == WAIT_INTERRUPTED)
        return PyErr_CheckSignals();
    PyObject *ok = PyObject_CallNoArgs(self->on_hangup);
    if (ok == NULL)
        last_answers(&self->front);
    Py_XDECREF(ok);
    return ok == NULL ? -1 : 0;
}

bool front_ended_early(enum wait_result result)
{
    return result == WAIT_INTERRUPTED || result == WAIT_HUNG_UP;
}

int front_wait_for(Front *self, bool (*done)(void *), void *arg, uint64_t deadline_ns)
{
    for (;;) {
        enum wait_result result;
        Py_BEGIN_ALLOW_THREADS
        pthread_mutex_lock(&self->front.mutex);
        result = front_wait(&self->front, done, arg, deadline_ns);
        pthread_mutex_unlock(&self->front.mutex);
        Py_END_ALLOW_THREADS
        if (!front_ended_early(result))
            return (int)result;
        if (front_interrupted(self, result) < 0) {
            if (result != WAIT_HUNG_UP || !done(arg))
                return -1;
            PyErr_Clear();
        }
    }
}

/* Whether a wait ended with an exception; it is set then. */
static bool wait_failed(Front *self, int result)
{
    if (result == WAIT_BROKEN)
        front_usable(self);
    return result < 0 || result == WAIT_BROKEN;
}

PyObject *front_wait_outcome(Front *self, int result)
{
    return wait_failed(self, result) ? NULL : PyBool_FromLong(result == WAIT_READY);
}

bool front_answer_done(void *arg)
{
    /* acquire: answer-given. */
    return atomic_load_explicit(&((struct answer *)arg)->done, memory_order_acquire);
}

/* result(answer, timeout) -> what it was answered, None when the time is over */
PyObject *front_result(Front *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t deadline_ns;
    if (!front_check_count(count, 2, "result") || py_deadline(args[1], &deadline_ns) < 0)
        return NULL;
    if (!PyObject_TypeCheck(args[0], self->answer)) {
        PyErr_SetString(PyExc_TypeError, "what is waited for must be an answer of this front");
        return NULL;
    }
    struct answer *answer = &((Answer *)args[0])->answer;
    int result = WAIT_READY;
    if (!front_answer_done(answer)) {
        if (!front_usable(self))
            return NULL;
        result = front_wait_for(self, front_answer_done, answer, deadline_ns);
    }
    front_settle(self);
    if (wait_failed(self, result))
        return NULL;
    if (result != WAIT_READY)
        return py_none();
    answer_settle((Answer *)args[0]);
    return PyLong_FromLongLong(answer->result);
}

static bool can_submit(void *arg)
{
    struct front *front = arg;
    return front->nr_done > 0 || front_has_credit(front);
}

/* wait_credit(timeout) -> bool: until something can be submitted or collected. */
PyObject *front_wait_credit(Front *self, PyObject *timeout)
{
    uint64_t deadline_ns;
    if (!front_usable(self) || py_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    int result = front_wait_for(self, can_submit, &self->front, deadline_ns);
    front_settle(self);
    return front_wait_outcome(self, result);
}

/* arm() -> bool: announce that an event loop will sleep on the wait descriptor, and look
 * once more; true if something was there.  A thread of ours that sleeps already leads: it
 * has announced, and hands out what comes. */
PyObject *front_arm(Front *self, PyObject *ignored)
{
    struct front *front = &self->front;
    if (!front_usable(self))
        return NULL;
    pthread_mutex_lock(&front->mutex);
    front_flush(front);
    bool ready = front->nr_done > 0;
    if (!front->leading) {
        event_drain(front->waiter.event_fd);
        ready |= front_final_check(front) != 0;
        front_dispatch(front);
    }
    pthread_mutex_unlock(&front->mutex);
    front_settle(self);
    return PyBool_FromLong(ready);
}

/* ---- one call, whole ---- */

PyObject *front_raise_errno(int64_t error)
{
    errno = (int)(error < -4095 ? EIO : -error);
    return PyErr_SetFromErrno(PyExc_OSError);
}

static bool waited_done(void *arg)
{
    return ((struct waited *)arg)->done;
}

Answer *front_make_keeper(Front *self, PyObject *memory)
{
    static const struct asked nothing;
    Answer *keeper = answer_make(self->answer, NULL, &nothing, memory);
    if (keeper == NULL)
        front_break(&self->front, "no memory to keep track of a buffer in flight");
    return keeper;
}

/* Give up on a call whose answer would go to our stack.  The answer may come while the
 * keeper is made; the stack is still there then.  An exception that is set stays set. */
static void orphan(Front *self, uint32_t index, const struct waited *waited, PyObject *memory)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    Answer *keeper = front_make_keeper(self, memory);
    pthread_mutex_lock(&self->front.mutex);
    struct call *call = &self->front.calls[index];
    bool needed = !waited->done;
    if (needed && keeper != NULL)
        front_owe(call, keeper);
    else if (needed)
        call->state = CALL_DONE;
    pthread_mutex_unlock(&self->front.mutex);
    if (!needed && keeper != NULL)
        answer_settle(keeper);
    Py_XDECREF((PyObject *)keeper);
    PyErr_Restore(type, value, trace);
}

static PyObject *call_pinned(Front *self, const struct asked *asked, uint64_t deadline_ns,
                             PyObject *memory)
{
    struct waited waited = {false, 0};
    pthread_mutex_lock(&self->front.mutex);
    struct call *call = front_put(self, asked);
    uint32_t index = call != NULL ? (uint32_t)(call - self->front.calls) : 0;
    if (call != NULL) {
        call->state = CALL_WAITED;
        call->waited = &waited;
        front_flush(&self->front);
    }
    pthread_mutex_unlock(&self->front.mutex);
    if (call == NULL)
        return py_none();
    int result = front_wait_for(self, waited_done, &waited, deadline_ns);
    if (waited.done && result >= 0)
        return waited.result < 0 ? front_raise_errno(waited.result)
                                 : PyLong_FromLongLong(waited.result);
    orphan(self, index, &waited, memory);
    if (result == WAIT_TIMED_OUT)
        PyErr_SetString(PyExc_TimeoutError, "no answer in time");
    else if (result >= 0)
        front_usable(self);
    return NULL;
}

/* call(memory, op, offset, length, gref, generation, segment_offset, timeout) -> result
 * None without credit; OSError of the device; the memory is pinned until the answer comes,
 * even if the wait ends early. */
PyObject *front_call(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct asked asked;
    uint64_t deadline_ns;
    if (!front_check_count(count, 8, "call") || !front_usable(self) ||
        !front_parse_asked(args + 1, &asked) ||
        py_deadline(args[7], &deadline_ns) < 0)
        return NULL;
    PyObject *memory = front_or_null(args[0]);
    if (memory != NULL && !py_view_pin(memory))
        return NULL;
    PyObject *result = call_pinned(self, &asked, deadline_ns, memory);
    front_settle(self);
    if (memory != NULL)
        py_view_unpin(memory);
    return result;
}
