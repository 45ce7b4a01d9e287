/* Front: many blocks moved by one call, `depth` of them in flight. */
#include "py_front.h"

#include <pthread.h>
#include <stdlib.h>

struct many_call {
    struct many many;
    Front *self;
    const uint64_t *offsets;
    struct io_segment segment; /* of slot 0 */
    uint32_t op, depth;
    uint64_t seen; /* completed, when nothing more could be submitted */
};

static uint64_t many_in_flight(const struct many *many)
{
    return many->next - many->completed;
}

static bool many_refill_due(void *arg)
{
    struct many_call *call = arg;
    const struct many *many = &call->many;
    uint32_t limit = call->self->front.limit.now;
    uint32_t depth = call->depth < limit ? call->depth : limit;
    uint64_t low = depth - (depth + 3) / 4;
    if (many_in_flight(many) == 0)
        return true;
    return many->completed != call->seen && many->next < many->nr &&
           many_in_flight(many) <= low && !many->busy[many->next % many->window];
}

/* Submit as many blocks as depth, credit and free buffer slots allow.  Mutex held. */
static void many_submit(struct many_call *call)
{
    struct many *many = &call->many;
    while (many->next < many->nr && many_in_flight(many) < call->depth && many->error == 0 &&
           !many->busy[many->next % many->window]) {
        struct io_request *slot;
        struct call *one = front_claim(&call->self->front, &slot);
        if (one == NULL)
            break;
        struct io_segment segment = call->segment;
        segment.offset += (uint32_t)(many->next % many->window) * many->length;
        front_fill(one, slot, (uint8_t)call->op, call->offsets[many->next], many->length, &segment);
        one->state = CALL_MANY;
        one->many = many;
        one->part = many->next;
        many->busy[many->next++ % many->window] = 1;
    }
    front_flush(&call->self->front);
}

/* Run until all is answered; WAIT_INTERRUPTED: look at signals.  Without the GIL. */
static enum wait_result many_run(struct many_call *call, uint64_t deadline_ns)
{
    struct front *front = &call->self->front;
    enum wait_result result = WAIT_READY;
    pthread_mutex_lock(&front->mutex);
    while (result == WAIT_READY) {
        if (call->many.error != 0)
            call->many.nr = call->many.next;
        many_submit(call);
        if (many_in_flight(&call->many) == 0)
            break; /* all answered, or others hold every slot: the caller continues */
        call->seen = call->many.completed;
        result = front_wait(front, many_refill_due, call, deadline_ns);
    }
    pthread_mutex_unlock(&front->mutex);
    return result;
}

static struct call *next_open(struct front *front, const void *owner, uint32_t *from)
{
    for (; *from < front->nr_calls; (*from)++) {
        struct call *one = &front->calls[*from];
        if ((one->state == CALL_MANY || one->state == CALL_LOAD) && one->owner == owner)
            return one;
    }
    return NULL;
}

void front_orphan_all(Front *self, void *owner, PyObject *memory)
{
    struct front *front = &self->front;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    uint32_t from = 0;
    for (;;) {
        Answer *keeper = front_make_keeper(self, memory);
        pthread_mutex_lock(&front->mutex);
        struct call *one = next_open(front, owner, &from);
        if (one != NULL && keeper != NULL)
            front_owe(one, keeper);
        else if (one != NULL)
            one->state = CALL_DONE;
        pthread_mutex_unlock(&front->mutex);
        if (one == NULL && keeper != NULL)
            answer_settle(keeper);
        Py_XDECREF((PyObject *)keeper);
        if (one == NULL)
            break;
    }
    PyErr_Restore(type, value, trace);
}

static int many_wait(struct many_call *call, uint64_t deadline_ns)
{
    for (;;) {
        enum wait_result result;
        Py_BEGIN_ALLOW_THREADS
        result = many_run(call, deadline_ns);
        Py_END_ALLOW_THREADS
        if (!front_ended_early(result))
            return (int)result;
        if (front_interrupted(call->self, result) < 0) {
            bool all = call->many.next == call->many.nr && many_in_flight(&call->many) == 0;
            if (result != WAIT_HUNG_UP || !all)
                return -1;
            PyErr_Clear();
        }
    }
}

static PyObject *many_outcome(struct many_call *call, int result, PyObject *memory)
{
    if (result == WAIT_READY && call->many.error == 0)
        return PyLong_FromUnsignedLongLong(call->many.completed);
    if (result != WAIT_READY)
        front_orphan_all(call->self, &call->many, memory);
    if (result == WAIT_READY) {
        errno = (int)-call->many.error;
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (result == WAIT_TIMED_OUT) {
        PyErr_SetString(PyExc_TimeoutError, "not all blocks were answered in time");
    } else if (result >= 0) {
        front_usable(call->self);
    }
    return NULL;
}

/* many(memory, op, offsets, length, gref, generation, segment_offset, window, depth, timeout) */
PyObject *front_many(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct many_call call = {.self = self};
    uint64_t deadline_ns;
    Py_buffer offsets;
    if (!front_check_count(count, 10, "many") || !front_usable(self) ||
        !front_get_u32(args[1], &call.op) || !front_get_u32(args[3], &call.many.length) ||
        !front_get_u32(args[4], &call.segment.gref) ||
        !front_get_u32(args[5], &call.segment.generation) ||
        !front_get_u32(args[6], &call.segment.offset) ||
        !front_get_u32(args[7], &call.many.window) || !front_get_u32(args[8], &call.depth) ||
        py_deadline(args[9], &deadline_ns) < 0)
        return NULL;
    if (call.many.window == 0 || call.depth == 0 || call.many.length == 0) {
        PyErr_SetString(PyExc_ValueError, "length, window and depth must be at least 1");
        return NULL;
    }
    if (!py_view_pin(args[0]))
        return NULL;
    if (PyObject_GetBuffer(args[2], &offsets, PyBUF_CONTIG_RO) < 0) {
        py_view_unpin(args[0]);
        return NULL;
    }
    call.segment.length = call.many.length;
    call.offsets = offsets.buf;
    call.many.nr = (uint64_t)offsets.len / sizeof(uint64_t);
    call.many.busy = calloc(call.many.window, 1);
    PyObject *outcome;
    if ((uintptr_t)offsets.buf % 8 != 0 || offsets.len % 8 != 0)
        outcome = PyErr_Format(PyExc_ValueError, "offsets must be an array of aligned uint64");
    else if (call.many.busy == NULL)
        outcome = PyErr_NoMemory();
    else
        outcome = many_outcome(&call, many_wait(&call, deadline_ns), args[0]);
    free(call.many.busy);
    PyBuffer_Release(&offsets);
    py_view_unpin(args[0]);
    return outcome;
}
