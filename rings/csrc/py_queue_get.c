/* Getting an object: out of a slot, or out of the run of blocks that it refers to. */
#include "py_queue.h"

/* ---- leases ---------------------------------------------------------------------- */

/* A run of blocks that a message brought: exports its bytes while it or any of its
 * exports lives, then gives the blocks back. */
typedef struct {
    PyObject_HEAD
    Queue *queue; /* owned */
    struct reference run;
    unsigned forks;
} Lease;

static int lease_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    Lease *self = (Lease *)object;
    uint8_t *data = blocks_at(&self->queue->blocks, self->run.first);
    return PyBuffer_FillInfo(view, object, data, (Py_ssize_t)self->run.length, 0, flags);
}

static PyObject *lease_parts(Lease *self, void *unused)
{
    return PyLong_FromUnsignedLong(self->run.parts);
}

/* After a fork the blocks are the parent's to give back. */
static void give_back(Queue *queue, const struct reference *run, unsigned forks)
{
    if (forks != py_fork_count())
        return;
    blocks_free(&queue->blocks, run, &queue->mpmc.member);
    queue_let_go(queue);
}

static void lease_dealloc(Lease *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    give_back(self->queue, &self->run, self->forks);
    Py_DECREF((PyObject *)self->queue);
    release(self);
    Py_DECREF(type);
}

/* Takes over a hold of the queue and the run, also if it fails. */
static PyObject *lease_new(Queue *queue, const struct reference *run)
{
    PyTypeObject *type = (PyTypeObject *)queue->lease_type;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Lease *self = (Lease *)alloc(type, 0);
    if (self == NULL) {
        give_back(queue, run, queue->mpmc.forks);
        return NULL;
    }
    Py_INCREF((PyObject *)queue);
    self->queue = queue;
    self->run = *run;
    self->forks = queue->mpmc.forks;
    return (PyObject *)self;
}

static PyGetSetDef lease_getset[] = {
    {"parts", (getter)lease_parts, NULL, "How many buffers the run holds.", NULL},
    {NULL},
};

static PyType_Slot lease_slots[] = {
    {Py_tp_doc, "Bytes of a message in the queue's blocks, until the last view of them dies."},
    {Py_tp_dealloc, lease_dealloc},
    {Py_tp_getset, lease_getset},
    {Py_bf_getbuffer, lease_getbuffer},
    {0, NULL},
};

PyType_Spec queue_lease_spec = {"rings._core.QueueLease", sizeof(Lease), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                lease_slots};

/* ---- frames ----------------------------------------------------------------------- */

static PyObject *raise_garbled(void)
{
    return py_raise("RemoteProtocolError",
                    "a message of the queue is not what a Queue puts: only use a queue's ring "
                    "through rings.Queue");
}

static PyObject *unpickle(Queue *self, PyObject *pickle)
{
    PyObject *object =
        pickle ? PyObject_CallFunctionObjArgs(self->loads, pickle, NULL) : NULL;
    Py_XDECREF(pickle);
    return object;
}

static PyObject *of_kind(Queue *self, uint8_t kind, PyObject *bytes)
{
    return kind == FRAME_BYTES ? bytes : unpickle(self, bytes);
}

static PyObject *copy_run(Queue *self, const struct reference *run)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)run->length);
    if (bytes != NULL)
        queue_copy(PyBytes_AsString(bytes), blocks_at(&self->blocks, run->first),
                   (size_t)run->length);
    give_back(self, run, self->mpmc.forks);
    return bytes;
}

static PyObject *decode_run(Queue *self, const void *frame)
{
    struct reference run;
    memcpy(&run, frame, sizeof run);
    uint8_t kind = run.kind - FRAME_IN_BLOCKS;
    if (kind > FRAME_PICKLE || !blocks_has(&self->blocks, &run))
        return raise_garbled();
    member_hold(&self->mpmc);
    if (run.parts == 1)
        return of_kind(self, kind, copy_run(self, &run));
    PyObject *lease = lease_new(self, &run);
    PyObject *object = lease ? PyObject_CallFunctionObjArgs(
                                   self->decode, lease, self->views ? Py_True : Py_False, NULL)
                             : NULL;
    Py_XDECREF(lease);
    return object;
}

static PyObject *decode_frame(Queue *self, const uint8_t *frame, uint32_t length)
{
    if (length >= sizeof(struct reference) && frame[0] >= FRAME_IN_BLOCKS)
        return decode_run(self, frame);
    if (length == 0 || frame[0] > FRAME_PICKLE)
        return raise_garbled();
    return of_kind(self, frame[0],
                   PyBytes_FromStringAndSize((const char *)frame + 1, (Py_ssize_t)length - 1));
}

/* ---- objects ------------------------------------------------------------------------ */

static PyObject *raise_unread(Queue *self)
{
    PyObject *error = self->unread;
    self->unread = NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return NULL;
}

PyObject *queue_get_object(Queue *self, uint64_t deadline_ns)
{
    uint8_t frame[QUEUE_MAX_SLOT];
    if (self->unread != NULL)
        return raise_unread(self);
    for (;;) {
        uint64_t at;
        uint32_t length;
        enum mpmc_result result = mpmc_get_unstalling(&self->mpmc.member, &at, frame, &length);
        if (result == MPMC_OK)
            return decode_frame(self, frame, length);
        if (result < 0)
            return member_raise(result);
        if (deadline_ns == TRY_ONCE || is_past(deadline_ns)) {
            queue_raise_late(self, "Empty", MPMC_GET, result);
            return NULL;
        }
        if (member_wait(&self->mpmc, MPMC_GET, result, deadline_ns) < 0)
            return NULL;
    }
}
