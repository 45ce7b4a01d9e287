/* rings._core.Front: submit, wait and collect, a C call each. */
#include "py.h"

#include <pthread.h>
#include <stdlib.h>

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
    unsigned forks;
    PyObject *answer_type;
    PyObject *on_hangup; /* called when the control socket has something; raises if it is over */
    PyObject *orphan;    /* called with a holder when nobody waits any more; returns an Answer */
    struct front front;
} Front;

/* ---- life ------------------------------------------------------------------ */

static void init_locks(struct front *front)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&front->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&front->mutex, NULL);
}

static bool init_calls(struct front *front, uint32_t nr)
{
    front->calls = calloc(nr, sizeof *front->calls);
    front->free = calloc(nr, sizeof *front->free);
    front->done = calloc(nr, sizeof *front->done);
    if (front->calls == NULL || front->free == NULL || front->done == NULL)
        return false;
    front->nr_calls = nr;
    for (uint32_t i = nr; i-- > 0;) {
        front->calls[i].generation = 1;
        front->free[front->nr_free++] = i;
    }
    return true;
}

static void init_waiter(struct front *front, int wait_fd, int hangup_fd, uint64_t spin_ns)
{
    front->spin.max_ns = spin_ns;
    front->waiter = (struct waiter){
        .ring = front,
        .look = front_look,
        .final_check = front_final_check,
        .spin = &front->spin,
        .event_fd = wait_fd,
        .hangup_fd = hangup_fd,
    };
}

static PyObject *answer_type(void)
{
    PyObject *module = PyImport_ImportModule("rings._core");
    PyObject *type = module ? PyObject_GetAttrString(module, "Answer") : NULL;
    Py_XDECREF(module);
    return type;
}

struct front_args {
    PyObject *buffer, *on_hangup, *orphan;
    unsigned layout, slots, slot_size, start;
    int notify_fd, wait_fd, hangup_fd;
    long long spin_us;
};

static bool parse_front(PyObject *args, PyObject *kwargs, struct front_args *out)
{
    static char *names[] = {"buffer",    "layout",  "slots",     "slot_size", "start",
                            "notify_fd", "wait_fd", "hangup_fd", "spin_us",   "on_hangup",
                            "orphan",    NULL};
    return PyArg_ParseTupleAndKeywords(args, kwargs, "OIIIIiiiLOO", names, &out->buffer,
                                       &out->layout, &out->slots, &out->slot_size, &out->start,
                                       &out->notify_fd, &out->wait_fd, &out->hangup_fd,
                                       &out->spin_us, &out->on_hangup, &out->orphan);
}

/* Bind to the ring's memory. 0, or -1 with an exception. */
static int bind_ring(Front *self, const struct front_args *args)
{
    struct front *front = &self->front;
    if (PyObject_GetBuffer(args->buffer, &self->view, PyBUF_WRITABLE) < 0)
        return -1;
    self->held = true;
    if (args->slot_size < sizeof(struct io_request) || args->slot_size % 8 != 0 ||
        args->layout > RING_PADDED ||
        !xen_bind(&front->ring.ring, self->view.buf, (size_t)self->view.len,
                  (enum ring_layout)args->layout, args->slots, args->slot_size)) {
        PyErr_Format(PyExc_ValueError, "a ring of %u slots of %u bytes does not fit in %zd",
                     args->slots, args->slot_size, self->view.len);
        return -1;
    }
    xen_front_attach(&front->ring, args->start);
    front->notify_fd = args->notify_fd;
    init_waiter(front, args->wait_fd, args->hangup_fd,
                args->spin_us < 0 ? SPIN_FOREVER : (uint64_t)args->spin_us * 1000);
    if (init_calls(front, args->slots))
        return 0;
    PyErr_NoMemory();
    return -1;
}

static PyObject *front_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct front_args parsed;
    if (!parse_front(args, kwargs, &parsed))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Front *self = (Front *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    init_locks(&self->front);
    self->forks = py_fork_count();
    Py_IncRef(parsed.on_hangup);
    self->on_hangup = parsed.on_hangup;
    Py_IncRef(parsed.orphan);
    self->orphan = parsed.orphan;
    self->answer_type = answer_type();
    if (self->answer_type == NULL || bind_ring(self, &parsed) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int front_traverse(Front *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->on_hangup);
    Py_VISIT(self->orphan);
    for (uint32_t i = 0; i < self->front.nr_calls; i++)
        Py_VISIT((PyObject *)self->front.calls[i].holder);
    return 0;
}

static int front_clear(Front *self)
{
    Py_CLEAR(self->on_hangup);
    Py_CLEAR(self->orphan);
    for (uint32_t i = 0; i < self->front.nr_calls; i++) {
        PyObject *holder = self->front.calls[i].holder;
        self->front.calls[i].holder = NULL;
        Py_XDECREF(holder);
    }
    return 0;
}

static void front_dealloc(Front *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    front_clear(self);
    Py_XDECREF(self->answer_type);
    if (self->held)
        PyBuffer_Release(&self->view);
    pthread_mutex_destroy(&self->front.mutex);
    pthread_cond_destroy(&self->front.changed);
    free(self->front.calls);
    free(self->front.free);
    free(self->front.done);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* ---- what every call checks ---------------------------------------------------- */

static bool usable(Front *self)
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

static PyObject *raise_errno(int64_t error)
{
    errno = (int)(error < -4095 ? EIO : -error);
    return PyErr_SetFromErrno(PyExc_OSError);
}

static bool get_u64(PyObject *number, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(number);
    return !(*out == (uint64_t)-1 && PyErr_Occurred());
}

static bool get_u32(PyObject *number, uint32_t *out)
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

/* op, offset, length, gref, generation, segment offset; gref None: no segment. */
struct asked {
    uint32_t op;
    uint64_t offset, length;
    struct io_segment segment;
    bool has_segment;
};

static bool parse_asked(PyObject *const *args, struct asked *asked)
{
    asked->has_segment = args[3] != Py_None;
    if (!get_u32(args[0], &asked->op) || !get_u64(args[1], &asked->offset) ||
        !get_u64(args[2], &asked->length))
        return false;
    if (!asked->has_segment)
        return true;
    if (asked->length > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a segment's length must fit in 32 bits");
        return false;
    }
    asked->segment.length = (uint32_t)asked->length;
    return get_u32(args[3], &asked->segment.gref) && get_u32(args[4], &asked->segment.generation) &&
           get_u32(args[5], &asked->segment.offset);
}

static struct call *put(Front *self, const struct asked *asked)
{
    struct io_request *slot;
    struct call *call = front_claim(&self->front, &slot);
    if (call != NULL)
        front_fill(call, slot, (uint8_t)asked->op, asked->offset, asked->length,
                   asked->has_segment ? &asked->segment : NULL);
    return call;
}

static bool check_count(Py_ssize_t count, Py_ssize_t wanted, const char *name)
{
    if (count == wanted)
        return true;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", name, wanted, count);
    return false;
}

/* ---- submit, flush, reap --------------------------------------------------------- */

static void give_holder(struct call *call, PyObject *holder)
{
    Py_INCREF(holder);
    call->holder = holder;
    call->answer = &((Answer *)holder)->answer;
    call->state = CALL_HELD;
}

static bool is_answer(Front *self, PyObject *holder)
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
static PyObject *front_submit(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct asked asked;
    if (!check_count(count, 7, "submit") || !usable(self) || !is_answer(self, args[0]) ||
        !parse_asked(args + 1, &asked))
        return NULL;
    pthread_mutex_lock(&self->front.mutex);
    struct call *call = put(self, &asked);
    if (call != NULL)
        give_holder(call, args[0]);
    pthread_mutex_unlock(&self->front.mutex);
    return call == NULL ? py_none() : id_of(self, call);
}

/* submit_request(holder, request) -> id | None; the request's own id field is ignored. */
static PyObject *front_submit_request(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct io_request request, *slot;
    Py_buffer view;
    if (!check_count(count, 2, "submit_request") || !usable(self) || !is_answer(self, args[0]) ||
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
        give_holder(call, args[0]);
    }
    pthread_mutex_unlock(&self->front.mutex);
    return call == NULL ? py_none() : id_of(self, call);
}

static PyObject *front_flush_(Front *self, PyObject *ignored)
{
    if (!usable(self))
        return NULL;
    pthread_mutex_lock(&self->front.mutex);
    front_flush(&self->front);
    pthread_mutex_unlock(&self->front.mutex);
    return py_none();
}

/* collect() -> [holder]: what was answered since the last time; never waits. */
static PyObject *front_collect(Front *self, PyObject *ignored)
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

/* ---- waiting ------------------------------------------------------------------------ */

static void break_front(struct front *front, const char *why)
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
    break_front(front, "the connection to the daemon is gone");
}

/* After a wait that ended early: 0 to wait again, -1 with an exception. */
static int interrupted(Front *self, enum wait_result result)
{
    if (result == WAIT_INTERRUPTED)
        return PyErr_CheckSignals();
    PyObject *ok = PyObject_CallNoArgs(self->on_hangup);
    if (ok == NULL)
        last_answers(&self->front);
    Py_XDECREF(ok);
    return ok == NULL ? -1 : 0;
}

static bool ended_early(enum wait_result result)
{
    return result == WAIT_INTERRUPTED || result == WAIT_HUNG_UP;
}

/* Wait with the GIL released: WAIT_READY, WAIT_TIMED_OUT, WAIT_BROKEN, or -1 with an
 * exception. */
static int wait_for(Front *self, bool (*done)(void *), void *arg, uint64_t deadline_ns)
{
    for (;;) {
        enum wait_result result;
        Py_BEGIN_ALLOW_THREADS
        pthread_mutex_lock(&self->front.mutex);
        result = front_wait(&self->front, done, arg, deadline_ns);
        pthread_mutex_unlock(&self->front.mutex);
        Py_END_ALLOW_THREADS
        if (!ended_early(result))
            return (int)result;
        if (interrupted(self, result) < 0) {
            if (result != WAIT_HUNG_UP || !done(arg))
                return -1;
            PyErr_Clear();
        }
    }
}

/* True when done, False when the time is over; NULL with an exception. */
static PyObject *wait_outcome(Front *self, int result)
{
    if (result == WAIT_BROKEN)
        usable(self);
    return result < 0 || result == WAIT_BROKEN ? NULL : PyBool_FromLong(result == WAIT_READY);
}

static bool answer_done(void *arg)
{
    /* acquire: answer-given. */
    return atomic_load_explicit(&((struct answer *)arg)->done, memory_order_acquire);
}

/* wait(answer, timeout) -> bool */
static PyObject *front_wait_answer(Front *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t deadline_ns;
    if (!check_count(count, 2, "wait") || !is_answer(self, args[0]) ||
        py_deadline(args[1], &deadline_ns) < 0)
        return NULL;
    struct answer *answer = &((Answer *)args[0])->answer;
    if (answer_done(answer))
        return PyBool_FromLong(1);
    if (!usable(self))
        return NULL;
    return wait_outcome(self, wait_for(self, answer_done, answer, deadline_ns));
}

static bool can_submit(void *arg)
{
    struct front *front = arg;
    return front->nr_done > 0 || (front->nr_free > 0 && xen_front_credit(&front->ring) > 0);
}

/* wait_credit(timeout) -> bool: until something can be submitted or collected. */
static PyObject *front_wait_credit(Front *self, PyObject *timeout)
{
    uint64_t deadline_ns;
    if (!usable(self) || py_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    return wait_outcome(self, wait_for(self, can_submit, &self->front, deadline_ns));
}

/* arm() -> bool: announce that an event loop will sleep on the wait descriptor, and look
 * once more; true if something was there.  A thread of ours that sleeps already leads: it
 * has announced, and hands out what comes. */
static PyObject *front_arm(Front *self, PyObject *ignored)
{
    struct front *front = &self->front;
    if (!usable(self))
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
    return PyBool_FromLong(ready);
}

/* ---- one call, whole --------------------------------------------------------------- */

static bool waited_done(void *arg)
{
    return ((struct waited *)arg)->done;
}

/* A holder for an answer that nobody waits for any more: it keeps the buffer in use until
 * the answer comes.  NULL, and the front broken, if there is none to be had. */
static PyObject *make_keeper(Front *self, PyObject *holder)
{
    PyObject *keeper = PyObject_CallFunctionObjArgs(self->orphan, holder, NULL);
    if (keeper != NULL && is_answer(self, keeper))
        return keeper;
    Py_XDECREF(keeper);
    break_front(&self->front, "no memory to keep track of a buffer in flight");
    return NULL;
}

static void settle(PyObject *keeper)
{
    PyObject *ignored = PyObject_CallMethod(keeper, "settle", NULL);
    Py_XDECREF(ignored);
}

/* Give up on a call whose answer would go to our stack.  The answer may come while Python
 * makes the keeper; the stack is still there then.  An exception that is set stays set. */
static void orphan(Front *self, struct call *call, const struct waited *waited, PyObject *holder)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *keeper = make_keeper(self, holder);
    pthread_mutex_lock(&self->front.mutex);
    bool needed = !waited->done;
    if (needed && keeper != NULL)
        give_holder(call, keeper);
    else if (needed)
        call->state = CALL_DONE;
    pthread_mutex_unlock(&self->front.mutex);
    if (!needed && keeper != NULL)
        settle(keeper);
    Py_XDECREF(keeper);
    PyErr_Restore(type, value, trace);
}

/* call(holder, op, offset, length, gref, generation, segment_offset, timeout) -> result
 * None without credit; OSError of the device; the holder is orphaned if the wait ends early. */
static PyObject *front_call(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct asked asked;
    struct waited waited = {false, 0};
    uint64_t deadline_ns;
    if (!check_count(count, 8, "call") || !usable(self) || !parse_asked(args + 1, &asked) ||
        py_deadline(args[7], &deadline_ns) < 0)
        return NULL;
    pthread_mutex_lock(&self->front.mutex);
    struct call *call = put(self, &asked);
    if (call != NULL) {
        call->state = CALL_WAITED;
        call->waited = &waited;
        front_flush(&self->front);
    }
    pthread_mutex_unlock(&self->front.mutex);
    if (call == NULL)
        return py_none();
    int result = wait_for(self, waited_done, &waited, deadline_ns);
    if (waited.done && result >= 0)
        return waited.result < 0 ? raise_errno(waited.result)
                                 : PyLong_FromLongLong(waited.result);
    orphan(self, call, &waited, args[0]);
    if (result == WAIT_TIMED_OUT)
        PyErr_SetString(PyExc_TimeoutError, "no answer in time");
    else if (result >= 0)
        usable(self);
    return NULL;
}

/* ---- many blocks in one call ---------------------------------------------------------- */

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
    uint64_t low = call->depth - (call->depth + 3) / 4;
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

static struct call *many_next_open(struct many_call *call, uint32_t *from)
{
    struct front *front = &call->self->front;
    for (; *from < front->nr_calls; (*from)++) {
        struct call *one = &front->calls[*from];
        if (one->state == CALL_MANY && one->many == &call->many)
            return one;
    }
    return NULL;
}

/* Give up on every block in flight: see orphan(). */
static void many_orphan(struct many_call *call, PyObject *holder)
{
    struct front *front = &call->self->front;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    uint32_t from = 0;
    for (;;) {
        PyObject *keeper = make_keeper(call->self, holder);
        pthread_mutex_lock(&front->mutex);
        struct call *one = many_next_open(call, &from);
        if (one != NULL && keeper != NULL)
            give_holder(one, keeper);
        else if (one != NULL)
            one->state = CALL_DONE;
        pthread_mutex_unlock(&front->mutex);
        if (one == NULL && keeper != NULL)
            settle(keeper);
        Py_XDECREF(keeper);
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
        if (!ended_early(result))
            return (int)result;
        if (interrupted(call->self, result) < 0) {
            bool all = call->many.next == call->many.nr && many_in_flight(&call->many) == 0;
            if (result != WAIT_HUNG_UP || !all)
                return -1;
            PyErr_Clear();
        }
    }
}

static PyObject *many_outcome(struct many_call *call, int result, PyObject *holder)
{
    if (result == WAIT_READY && call->many.error == 0)
        return PyLong_FromUnsignedLongLong(call->many.completed);
    if (result != WAIT_READY)
        many_orphan(call, holder);
    if (result == WAIT_READY) {
        errno = (int)-call->many.error;
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (result == WAIT_TIMED_OUT) {
        PyErr_SetString(PyExc_TimeoutError, "not all blocks were answered in time");
    } else if (result >= 0) {
        usable(call->self);
    }
    return NULL;
}

/* many(holder, op, offsets, length, gref, generation, segment_offset, window, depth, timeout) */
static PyObject *front_many(Front *self, PyObject *const *args, Py_ssize_t count)
{
    struct many_call call = {.self = self};
    uint64_t deadline_ns;
    Py_buffer offsets;
    if (!check_count(count, 10, "many") || !usable(self) || !get_u32(args[1], &call.op) ||
        !get_u32(args[3], &call.many.length) || !get_u32(args[4], &call.segment.gref) ||
        !get_u32(args[5], &call.segment.generation) || !get_u32(args[6], &call.segment.offset) ||
        !get_u32(args[7], &call.many.window) || !get_u32(args[8], &call.depth) ||
        py_deadline(args[9], &deadline_ns) < 0)
        return NULL;
    if (call.many.window == 0 || call.depth == 0 || call.many.length == 0) {
        PyErr_SetString(PyExc_ValueError, "length, window and depth must be at least 1");
        return NULL;
    }
    if (PyObject_GetBuffer(args[2], &offsets, PyBUF_CONTIG_RO) < 0)
        return NULL;
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
    return outcome;
}

/* ---- facts ------------------------------------------------------------------------------ */

/* in_flight() -> [(id, op, offset, length)] */
static PyObject *front_in_flight_(Front *self, PyObject *ignored)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < self->front.nr_calls; i++) {
        struct call *call = &self->front.calls[i];
        if (call->state == CALL_FREE || call->state == CALL_DONE)
            continue;
        PyObject *one = Py_BuildValue("KIKK", (unsigned long long)call->generation << 32 | i,
                                      (unsigned)call->op, (unsigned long long)call->offset,
                                      (unsigned long long)call->length);
        if (one == NULL || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *front_statistics(Front *self, PyObject *ignored)
{
    const struct front_stats *stats = &self->front.stats;
    return Py_BuildValue("{sKsKsKsKsKsKsKsI}", "requests", stats->requests, "responses",
                         stats->responses, "notifications", stats->notifications, "held_off",
                         stats->held_off, "in_flight_peak", stats->in_flight_peak, "full",
                         stats->full, "sleeps", stats->sleeps, "in_flight",
                         front_in_flight(&self->front));
}

/* break_(): nothing is sent or awaited any more. */
static PyObject *front_break(Front *self, PyObject *ignored)
{
    break_front(&self->front, "the daemon closed the connection");
    return py_none();
}

/* close(): let go of the memory; BusyError while another thread waits in here. */
static PyObject *front_close(Front *self, PyObject *ignored)
{
    if (self->front.leading || self->front.followers > 0)
        return py_raise("BusyError", "another thread is waiting on this frontend");
    if (self->held) {
        self->held = false;
        PyBuffer_Release(&self->view);
    }
    return py_none();
}

static PyMethodDef front_methods[] = {
    {"submit", (PyCFunction)(void (*)(void))front_submit, METH_FASTCALL, NULL},
    {"submit_request", (PyCFunction)(void (*)(void))front_submit_request, METH_FASTCALL, NULL},
    {"flush", (PyCFunction)front_flush_, METH_NOARGS, NULL},
    {"collect", (PyCFunction)front_collect, METH_NOARGS, NULL},
    {"wait", (PyCFunction)(void (*)(void))front_wait_answer, METH_FASTCALL, NULL},
    {"wait_credit", (PyCFunction)front_wait_credit, METH_O, NULL},
    {"call", (PyCFunction)(void (*)(void))front_call, METH_FASTCALL, NULL},
    {"many", (PyCFunction)(void (*)(void))front_many, METH_FASTCALL, NULL},
    {"in_flight", (PyCFunction)front_in_flight_, METH_NOARGS, NULL},
    {"statistics", (PyCFunction)front_statistics, METH_NOARGS, NULL},
    {"break_", (PyCFunction)front_break, METH_NOARGS, NULL},
    {"arm", (PyCFunction)front_arm, METH_NOARGS, NULL},
    {"close", (PyCFunction)front_close, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot front_slots[] = {
    {Py_tp_new, front_new},
    {Py_tp_dealloc, front_dealloc},
    {Py_tp_traverse, front_traverse},
    {Py_tp_clear, front_clear},
    {Py_tp_methods, front_methods},
    {Py_tp_doc, "A frontend's requests in flight over one ring; see rings.frontend."},
    {0, NULL},
};

static PyType_Spec front_spec = {
    .name = "rings._core.Front",
    .basicsize = sizeof(Front),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = front_slots,
};

/* ---- Answer ------------------------------------------------------------------------------- */

static PyObject *answer_get_done(Answer *self, void *ignored)
{
    return PyBool_FromLong(answer_done(&self->answer));
}

static PyObject *answer_get_value(Answer *self, void *ignored)
{
    return answer_done(&self->answer) ? PyLong_FromLongLong(self->answer.result) : py_none();
}

static PyGetSetDef answer_getset[] = {
    {"answered", (getter)answer_get_done, NULL, "Whether the answer has come.", NULL},
    {"value", (getter)answer_get_value, NULL, "Bytes, or minus an errno; None before.", NULL},
    {NULL},
};

static PyType_Slot answer_slots[] = {
    {Py_tp_getset, answer_getset},
    {Py_tp_doc, "What a submitted request will be answered."},
    {0, NULL},
};

static PyType_Spec answer_spec = {
    .name = "rings._core.Answer",
    .basicsize = sizeof(Answer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = answer_slots,
};

int py_add_front(PyObject *module)
{
    return py_add_type(module, &answer_spec) < 0 ? -1 : py_add_type(module, &front_spec);
}
