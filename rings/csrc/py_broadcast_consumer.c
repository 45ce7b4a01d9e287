/* An end of a broadcast ring that gets. */
#include "py_broadcast.h"

struct consumer {
    struct end base;
    struct broadcast_consumer state;
    int space_fd;
    bool latest;
};

static PyObject *raise_broken(void)
{
    return py_raise("RemoteProtocolError", "the ring's numbers are impossible: someone overwrote "
                                           "them; create a new ring");
}

/* Copy message `cons` out as bytes; NULL without an exception if it was overtaken. */
static PyObject *copy_message(struct consumer *self)
{
    uint64_t number = self->state.cons;
    int64_t length = broadcast_length(&self->state, number);
    if (length < 0)
        return length == -1 ? NULL : raise_broken();
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (bytes == NULL)
        return NULL;
    if (broadcast_copy(&self->state, number, (uint8_t *)PyBytes_AsString(bytes), (uint32_t)length))
        return bytes;
    Py_DecRef(bytes);
    return NULL;
}

/* Messages not taken yet; -1 if the numbers are impossible. */
static int64_t behind(const struct consumer *self)
{
    uint64_t count = broadcast_published(&self->state.ring) - self->state.cons;
    bool blocks = self->state.ring.policy == BROADCAST_BLOCK;
    if (count > INT64_MAX || (blocks && count > self->state.ring.slots))
        return -1;
    return (int64_t)count;
}

/* The next message, counting those that were overtaken; NULL without an exception if
 * there is none. */
static PyObject *take(struct consumer *self)
{
    for (unsigned times = 0;; times++) {
        int64_t count = behind(self);
        if (count <= 0)
            return count < 0 ? raise_broken() : NULL;
        if (self->latest && count > 1)
            broadcast_lose(&self->state, (uint64_t)count - 1);
        PyObject *bytes = copy_message(self);
        if (bytes == NULL && PyErr_Occurred())
            return NULL;
        if (bytes != NULL) {
            if (broadcast_pass(&self->state, self->state.cons + 1))
                end_tell(self->space_fd);
            return bytes;
        }
        broadcast_lose(&self->state, broadcast_resume(&self->state, times) - self->state.cons);
    }
}

static PyObject *try_get(PyObject *op, PyObject *ignored)
{
    struct consumer *self = (struct consumer *)op;
    if (!end_usable(&self->base))
        return NULL;
    PyObject *bytes = take(self);
    return bytes != NULL || PyErr_Occurred() ? bytes : py_none();
}

static PyObject *get_many(PyObject *op, PyObject *max)
{
    struct consumer *self = (struct consumer *)op;
    Py_ssize_t most = PyLong_AsSsize_t(max);
    if ((most == -1 && PyErr_Occurred()) || !end_usable(&self->base))
        return NULL;
    self->base.busy = true; /* a garbage collection may run Python */
    PyObject *list = PyList_New(0);
    while (list != NULL && PyList_Size(list) < most) {
        PyObject *bytes = take(self);
        if (bytes == NULL)
            break;
        if (PyList_Append(list, bytes) < 0)
            Py_CLEAR(list);
        Py_DecRef(bytes);
    }
    self->base.busy = false;
    if (PyErr_Occurred())
        Py_CLEAR(list);
    return list;
}

static PyObject *await_message(PyObject *op, PyObject *ignored)
{
    struct consumer *self = (struct consumer *)op;
    if (!end_usable(&self->base))
        return NULL;
    return PyBool_FromLong(broadcast_await_message(&self->state));
}

static PyObject *has_message(PyObject *op, PyObject *ignored)
{
    struct consumer *self = (struct consumer *)op;
    if (!end_usable(&self->base))
        return NULL;
    return PyBool_FromLong(behind(self) != 0);
}

static PyObject *producer_state(PyObject *op, PyObject *ignored)
{
    return end_usable((struct end *)op) ? end_owner_state((struct end *)op) : NULL;
}

static PyObject *close_consumer(PyObject *op, PyObject *ignored)
{
    struct consumer *self = (struct consumer *)op;
    if (self->base.busy)
        return end_refuse(&self->base), NULL;
    bool mine = end_held(&self->base);
    if (mine)
        atomic_store(&broadcast_mine(&self->state)->cons, BROADCAST_ABSENT);
    end_let_go(&self->base);
    if (mine)
        end_tell(self->space_fd);
    return py_none();
}

static void dealloc_consumer(PyObject *op)
{
    struct consumer *self = (struct consumer *)op;
    if (end_held(&self->base))
        atomic_store(&broadcast_mine(&self->state)->cons, BROADCAST_ABSENT);
    end_let_go(&self->base);
    end_free(op);
}

static int take_entry(struct consumer *self)
{
    struct broadcast_header *header = self->base.ring.header;
    for (uint32_t i = 0; i < self->base.ring.consumers; i++) {
        if (end_take(&self->base, &header->entries[i].end, "consumer") == 0) {
            self->state = (struct broadcast_consumer){.ring = self->base.ring, .index = i};
            atomic_store(&header->entries[i].end.lost, 0);
            broadcast_join(&self->state);
            return 0;
        }
        PyErr_Clear();
    }
    py_raise("BusyError", "all %u consumer entries are held by live processes; close one, or "
                          "create the ring with more consumers",
             (unsigned)self->base.ring.consumers);
    return -1;
}

static PyObject *new_consumer(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct consumer *self = (struct consumer *)PyType_GenericAlloc(type, 0);
    int latest;
    if (self == NULL)
        return NULL;
    if (end_watch(&self->base) < 0 ||
        !PyArg_ParseTuple(args, "w*ip", &self->base.region, &self->space_fd, &latest) ||
        end_bind(&self->base) < 0 || take_entry(self) < 0) {
        Py_DecRef((PyObject *)self);
        return NULL;
    }
    self->latest = latest;
    self->base.busy = false;
    return (PyObject *)self;
}

static PyObject *get_lost(PyObject *op, void *ignored)
{
    return PyLong_FromUnsignedLongLong(((struct consumer *)op)->state.lost);
}

static PyObject *get_index(PyObject *op, void *ignored)
{
    return PyLong_FromUnsignedLong(((struct consumer *)op)->state.index);
}

/* ---- the type ------------------------------------------------------------- */

static PyMethodDef consumer_methods[] = {
    {"try_get", try_get, METH_NOARGS, "try_get($self, /)\n--\n\nTake a message; None without one."},
    {"get_many", get_many, METH_O, "get_many($self, max, /)\n--\n\nTake up to max, as a list."},
    {"has_message", has_message, METH_NOARGS, "has_message($self, /)\n--\n\nWhether there is one."},
    {"await_message", await_message, METH_NOARGS,
     "await_message($self, /)\n--\n\nThe same, and ask for an event."},
    {"producer_state", producer_state, METH_NOARGS,
     "producer_state($self, /)\n--\n\nThe producer's pid; 0 not yet, -1 closed, -2 dead."},
    {"close", close_consumer, METH_NOARGS, "close($self, /)\n--\n\nGive the end back."},
    {NULL},
};

static PyGetSetDef consumer_getset[] = {
    {"closed", end_get_closed, NULL, "Whether this end can no longer be used.", NULL},
    {"lost", get_lost, NULL, "Messages overtaken or skipped, exactly.", NULL},
    {"index", get_index, NULL, "Which of the ring's entries this is.", NULL},
    {NULL},
};

static PyMemberDef consumer_members[] = {PY_WEAKREFS(struct consumer, base.weakrefs)};

static PyType_Slot consumer_slots[] = {
    {Py_tp_doc, "An end that gets; see rings/broadcast.py."},
    {Py_tp_new, new_consumer},
    {Py_tp_dealloc, dealloc_consumer},
    {Py_tp_methods, consumer_methods},
    {Py_tp_getset, consumer_getset},
    {Py_tp_members, consumer_members},
    {0, NULL},
};

static PyType_Spec consumer_spec = {.name = "rings._core.BroadcastConsumer",
                                    .basicsize = sizeof(struct consumer),
                                    .flags = Py_TPFLAGS_DEFAULT,
                                    .slots = consumer_slots};


int py_add_broadcast_consumer(PyObject *module)
{
    return py_add_type(module, &consumer_spec);
}
