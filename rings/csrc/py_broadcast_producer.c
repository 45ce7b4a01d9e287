/* The end of a broadcast ring that puts. */
#include "py_broadcast.h"

struct producer {
    struct end base;
    struct broadcast_producer state;
    int fds[BROADCAST_MOST]; /* not ours: rings/broadcast.py keeps them open */
    uint64_t notified;
};

static void wake(struct producer *self, uint64_t sleepers)
{
    for (uint32_t i = 0; sleepers != 0 && i < self->base.ring.consumers; i++) {
        if (sleepers >> i & 1) {
            end_tell(self->fds[i]);
            self->notified++;
        }
    }
}

/* 1 written, 0 no room, -1 with an exception. */
static int write_one(struct producer *self, PyObject *data, uint64_t number)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0)
        return -1;
    int written = 0;
    if ((uint64_t)bytes.len > self->base.ring.slot_size) {
        PyErr_Format(PyExc_ValueError, "a message of this ring has up to %u bytes, not %zd",
                     (unsigned)self->base.ring.slot_size, bytes.len);
        written = -1;
    } else if (broadcast_room(&self->state, number)) {
        broadcast_write(&self->state, number, bytes.buf, (uint32_t)bytes.len);
        written = 1;
    }
    PyBuffer_Release(&bytes);
    return written;
}

static PyObject *try_put(PyObject *op, PyObject *data)
{
    struct producer *self = (struct producer *)op;
    if (!end_usable(&self->base))
        return NULL;
    self->base.busy = true;
    int written = write_one(self, data, self->state.prod);
    self->base.busy = false;
    if (written > 0)
        wake(self, broadcast_publish(&self->state, 1));
    return written < 0 ? NULL : PyBool_FromLong(written);
}

static PyObject *put_many(PyObject *op, PyObject *list)
{
    struct producer *self = (struct producer *)op;
    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "put_many takes a list of messages");
        return NULL;
    }
    if (!end_usable(&self->base))
        return NULL;
    uint64_t count = 0;
    int written = 1;
    self->base.busy = true;
    while (written > 0 && count < self->base.ring.slots &&
           (Py_ssize_t)count < PyList_Size(list)) {
        PyObject *item = PyList_GetItem(list, (Py_ssize_t)count);
        Py_IncRef(item);
        written = write_one(self, item, self->state.prod + count);
        Py_DecRef(item);
        count += written > 0;
    }
    self->base.busy = false;
    if (written < 0)
        return NULL;
    if (count > 0)
        wake(self, broadcast_publish(&self->state, count));
    return PyLong_FromUnsignedLongLong(count);
}

static PyObject *await_room(PyObject *op, PyObject *ignored)
{
    struct producer *self = (struct producer *)op;
    if (!end_usable(&self->base))
        return NULL;
    return PyBool_FromLong(broadcast_await_room(&self->state));
}

static PyObject *has_room(PyObject *op, PyObject *ignored)
{
    struct producer *self = (struct producer *)op;
    if (!end_usable(&self->base))
        return NULL;
    return PyBool_FromLong(broadcast_room(&self->state, self->state.prod));
}

static PyObject *reap(PyObject *op, PyObject *ignored)
{
    struct producer *self = (struct producer *)op;
    if (!end_usable(&self->base))
        return NULL;
    return PyLong_FromUnsignedLong(broadcast_reap(&self->base.ring, self->base.self));
}

static PyObject *consumers(PyObject *op, PyObject *ignored)
{
    struct end *self = (struct end *)op;
    if (!end_usable(self))
        return NULL;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < self->ring.consumers; i++) {
        struct broadcast_entry *entry = &self->ring.header->entries[i];
        uint64_t owner = atomic_load(&entry->end.owner);
        if (!owner_is_process(owner))
            continue;
        uint64_t behind = broadcast_published(&self->ring) - atomic_load(&entry->cons);
        PyObject *row = Py_BuildValue("(IKK)", (unsigned)owner_pid(owner), behind,
                                      (unsigned long long)atomic_load(&entry->end.lost));
        if (row == NULL || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *close_producer(PyObject *op, PyObject *ignored)
{
    struct producer *self = (struct producer *)op;
    if (self->base.busy)
        return end_refuse(&self->base), NULL;
    bool mine = end_held(&self->base);
    end_let_go(&self->base);
    for (uint32_t i = 0; mine && i < self->base.ring.consumers; i++)
        end_tell(self->fds[i]);
    return py_none();
}

static void dealloc_producer(PyObject *op)
{
    end_let_go(&((struct producer *)op)->base);
    end_free(op);
}

static int read_fds(struct producer *self, PyObject *fds)
{
    if (PyTuple_Size(fds) != (Py_ssize_t)self->base.ring.consumers) {
        PyErr_Format(PyExc_ValueError, "this ring needs %u eventfds, not %zd",
                     (unsigned)self->base.ring.consumers, PyTuple_Size(fds));
        return -1;
    }
    for (uint32_t i = 0; i < self->base.ring.consumers; i++) {
        self->fds[i] = (int)PyLong_AsLong(PyTuple_GetItem(fds, i));
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

static PyObject *new_producer(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct producer *self = (struct producer *)PyType_GenericAlloc(type, 0);
    PyObject *fds;
    if (self == NULL)
        return NULL;
    if (end_watch(&self->base) < 0 ||
        !PyArg_ParseTuple(args, "w*O!", &self->base.region, &PyTuple_Type, &fds) ||
        end_bind(&self->base) < 0 || read_fds(self, fds) < 0 ||
        end_take(&self->base, &self->base.ring.header->producer, "producer") < 0) {
        Py_DecRef((PyObject *)self);
        return NULL;
    }
    self->state.ring = self->base.ring;
    self->state.prod = broadcast_published(&self->base.ring);
    self->base.busy = false;
    return (PyObject *)self;
}

static PyObject *get_notified(PyObject *op, void *ignored)
{
    return PyLong_FromUnsignedLongLong(((struct producer *)op)->notified);
}

/* ---- the type ------------------------------------------------------------- */

static PyMethodDef producer_methods[] = {
    {"try_put", try_put, METH_O,
     "try_put($self, data, /)\n--\n\nStore a message; False without room."},
    {"put_many", put_many, METH_O, "put_many($self, data, /)\n--\n\nStore what fits; how many."},
    {"has_room", has_room, METH_NOARGS, "has_room($self, /)\n--\n\nWhether a put would succeed."},
    {"await_room", await_room, METH_NOARGS,
     "await_room($self, /)\n--\n\nThe same, and ask for an event."},
    {"reap", reap, METH_NOARGS, "reap($self, /)\n--\n\nForget dead consumers; how many."},
    {"consumers", consumers, METH_NOARGS,
     "consumers($self, /)\n--\n\n(pid, behind, lost) of each."},
    {"close", close_producer, METH_NOARGS, "close($self, /)\n--\n\nGive the end back."},
    {NULL},
};

static PyGetSetDef producer_getset[] = {
    {"closed", end_get_closed, NULL, "Whether this end can no longer be used.", NULL},
    {"notified", get_notified, NULL, "Events sent.", NULL},
    {NULL},
};

static PyMemberDef producer_members[] = {PY_WEAKREFS(struct producer, base.weakrefs)};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, "The end that puts; see rings/broadcast.py."},
    {Py_tp_new, new_producer},
    {Py_tp_dealloc, dealloc_producer},
    {Py_tp_methods, producer_methods},
    {Py_tp_getset, producer_getset},
    {Py_tp_members, producer_members},
    {0, NULL},
};

static PyType_Spec producer_spec = {.name = "rings._core.BroadcastProducer",
                                    .basicsize = sizeof(struct producer),
                                    .flags = Py_TPFLAGS_DEFAULT,
                                    .slots = producer_slots};

int py_add_broadcast_producer(PyObject *module)
{
    return py_add_type(module, &producer_spec);
}
