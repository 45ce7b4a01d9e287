/* Front: life, facts and the type. */
#include "py_front.h"

#include <pthread.h>
#include <stdlib.h>

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

/* 1 if a type is one of answers, 0 with an exception if it is not. */
static bool is_answer_type(PyObject *type)
{
    PyObject *module = PyImport_ImportModule("rings._core");
    PyObject *base = module ? PyObject_GetAttrString(module, "Answer") : NULL;
    int is = base && PyType_Check(type) ? PyObject_IsSubclass(type, base) : -(base == NULL);
    Py_XDECREF(module);
    Py_XDECREF(base);
    if (is == 0)
        PyErr_SetString(PyExc_TypeError, "answer must be a subclass of Answer");
    return is == 1;
}

struct front_args {
    PyObject *buffer, *on_hangup, *answer;
    unsigned layout, slots, slot_size, start;
    int notify_fd, wait_fd, hangup_fd;
    long long spin_us;
};

static bool parse_front(PyObject *args, PyObject *kwargs, struct front_args *out)
{
    static char *names[] = {"buffer",    "layout",  "slots",     "slot_size", "start",
                            "notify_fd", "wait_fd", "hangup_fd", "spin_us",   "on_hangup",
                            "answer",    NULL};
    return PyArg_ParseTupleAndKeywords(args, kwargs, "OIIIIiiiLOO", names, &out->buffer,
                                       &out->layout, &out->slots, &out->slot_size, &out->start,
                                       &out->notify_fd, &out->wait_fd, &out->hangup_fd,
                                       &out->spin_us, &out->on_hangup, &out->answer);
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
    limit_fix(&front->limit, NO_LIMIT);
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
    Py_IncRef(parsed.answer);
    self->answer = (PyTypeObject *)parsed.answer;
    if (!is_answer_type(parsed.answer) || bind_ring(self, &parsed) < 0 ||
        py_watch_end((PyObject *)self, "end_waits") < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int front_traverse(Front *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->on_hangup);
    Py_VISIT((PyObject *)self->answer);
    for (uint32_t i = 0; i < self->front.nr_calls; i++)
        Py_VISIT((PyObject *)self->front.calls[i].holder);
    return 0;
}

static int front_clear(Front *self)
{
    Py_CLEAR(self->on_hangup);
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
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    front_clear(self);
    Py_XDECREF((PyObject *)self->answer);
    if (self->gauge_view.obj != NULL)
        PyBuffer_Release(&self->gauge_view);
    if (self->held)
        PyBuffer_Release(&self->view);
    front_release_elder(self);
    pthread_mutex_destroy(&self->front.mutex);
    pthread_cond_destroy(&self->front.changed);
    free(self->front.calls);
    free(self->front.free);
    free(self->front.done);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* ---- facts ---- */

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

/* break_(): nothing is sent or awaited any more. */
static PyObject *front_break_(Front *self, PyObject *ignored)
{
    front_break(&self->front, "the daemon closed the connection");
    return py_none();
}

/* end_waits(): the threads that wait in here get BrokenError; without any, nothing happens. */
static PyObject *front_end_waits(Front *self, PyObject *ignored)
{
    struct front *front = &self->front;
    pthread_mutex_lock(&front->mutex);
    bool waited = front->leading || front->followers > 0;
    pthread_mutex_unlock(&front->mutex);
    if (waited) {
        uint64_t one = 1;
        front_break(front, "the interpreter of this end is being destroyed");
        ssize_t ignored_too = write(front->waiter.event_fd, &one, sizeof one);
        (void)ignored_too;
    }
    return py_none();
}

/* close(): let go of the memory; BusyError while another thread waits in here. */
static PyObject *front_close(Front *self, PyObject *ignored)
{
    if (self->front.leading || self->front.followers > 0 || self->front.changing > 0)
        return py_raise("BusyError", "another thread is waiting on this frontend");
    front_unwatch(self);
    if (self->held) {
        self->held = false;
        PyBuffer_Release(&self->view);
    }
    front_release_elder(self);
    return py_none();
}

static PyMethodDef front_methods[] = {
    {"begin", (PyCFunction)(void (*)(void))front_begin, METH_FASTCALL, NULL},
    {"begin_request", (PyCFunction)(void (*)(void))front_begin_request, METH_FASTCALL, NULL},
    {"has_credit", (PyCFunction)front_has_credit_, METH_NOARGS, NULL},
    {"flush", (PyCFunction)front_flush_, METH_NOARGS, NULL},
    {"result", (PyCFunction)(void (*)(void))front_result, METH_FASTCALL, NULL},
    {"wait_credit", (PyCFunction)front_wait_credit, METH_O, NULL},
    {"call", (PyCFunction)(void (*)(void))front_call, METH_FASTCALL, NULL},
    {"many", (PyCFunction)(void (*)(void))front_many, METH_FASTCALL, NULL},
    {"watch", (PyCFunction)front_watch, METH_VARARGS, NULL},
    {"unwatch", (PyCFunction)front_unwatch_, METH_NOARGS, NULL},
    {"load", (PyCFunction)(void (*)(void))front_load, METH_VARARGS | METH_KEYWORDS, NULL},
    {"in_flight", (PyCFunction)front_in_flight_, METH_NOARGS, NULL},
    {"wait_elder", (PyCFunction)front_wait_elder, METH_O, NULL},
    {"replace", (PyCFunction)(void (*)(void))front_replace_, METH_FASTCALL, NULL},
    {"set_depth", (PyCFunction)(void (*)(void))front_set_depth, METH_FASTCALL, NULL},
    {"statistics", (PyCFunction)front_statistics, METH_NOARGS, NULL},
    {"break_", (PyCFunction)front_break_, METH_NOARGS, NULL},
    {"end_waits", (PyCFunction)front_end_waits, METH_NOARGS, NULL},
    {"arm", (PyCFunction)front_arm, METH_NOARGS, NULL},
    {"close", (PyCFunction)front_close, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef front_members[] = {PY_WEAKREFS(Front, weakrefs)};

static PyType_Slot front_slots[] = {
    {Py_tp_new, front_new},
    {Py_tp_dealloc, front_dealloc},
    {Py_tp_traverse, front_traverse},
    {Py_tp_clear, front_clear},
    {Py_tp_methods, front_methods},
    {Py_tp_members, front_members},
    {Py_tp_doc, "A frontend's requests in flight over one ring; see rings.frontend."},
    {0, NULL},
};

static PyType_Spec front_spec = {
    .name = "rings._core.Front",
    .basicsize = sizeof(Front),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = front_slots,
};

int py_add_front(PyObject *module)
{
    return py_add_type(module, &front_spec);
}
