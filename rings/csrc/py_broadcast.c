/* The two ends of a broadcast ring: everything but sleeping, which rings/broadcast.py
 * does.  A handle belongs to one thread at a time; the GIL is held throughout.
 */
#include "py.h"

#include "broadcast.h"

struct end {
    PyObject_HEAD
    struct broadcast ring;
    bool open;
    bool busy; /* inside a call that may run Python */
    unsigned forks;
    uint64_t self;
    struct owned_end *mine;
    Py_buffer region;
};

struct producer {
    struct end base;
    struct broadcast_producer state;
    int fds[BROADCAST_MOST]; /* not ours: rings/broadcast.py keeps them open */
    uint64_t notified;
};

struct consumer {
    struct end base;
    struct broadcast_consumer state;
    int space_fd;
    bool latest;
};

/* ---- both ends ----------------------------------------------------------------- */

static bool refuse(const struct end *self)
{
    if (self->open && self->forks != py_fork_count())
        py_raise("ClosedError", "this end belongs to the process that forked; pass the ring to "
                                "the child and attach there");
    else if (!self->open)
        py_raise("ClosedError", "this end is closed; take it again from the ring");
    else
        py_raise("BusyError", "this end is in use; a handle belongs to one thread at a time");
    return false;
}

static inline bool usable(const struct end *self)
{
    if (self->open && !self->busy && self->forks == py_fork_count())
        return true;
    return refuse(self);
}

static int bind(struct end *self)
{
    if (broadcast_bind(&self->ring, self->region.buf, (uint64_t)self->region.len))
        return 0;
    py_raise("LayoutError", "this memory holds no broadcast ring, or its numbers do not fit %zd "
                            "bytes; create one with rings.broadcast.create()", self->region.len);
    return -1;
}

static int take_end(struct end *self, struct owned_end *mine, const char *name)
{
    uint64_t self_word = owner_self(), other = owner_take(mine, self_word);
    if (other != 0) {
        py_raise("BusyError", "the ring has a %s already: pid %u, alive; close that one first",
                 name, (unsigned)owner_pid(other));
        return -1;
    }
    self->mine = mine;
    self->self = self_word;
    self->forks = py_fork_count();
    self->open = true;
    return 0;
}

static void tell(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one);
    (void)ignored;
}

static bool held(const struct end *self)
{
    return self->open && self->forks == py_fork_count();
}

static void let_go(struct end *self)
{
    if (held(self))
        owner_give_back(self->mine, self->self);
    self->open = false;
    if (self->region.obj != NULL)
        PyBuffer_Release(&self->region);
}

static PyObject *get_closed(PyObject *op, void *ignored)
{
    return PyBool_FromLong(!held((struct end *)op));
}

static void free_end(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

/* The owner of the producer's end: its pid, 0 nobody yet, -1 closed, -2 dead. */
static PyObject *owner_state(const struct end *self)
{
    uint64_t owner = atomic_load(&self->ring.header->producer.owner);
    if (!owner_is_process(owner))
        return PyLong_FromLong(owner == OWNER_CLOSED ? -1 : 0);
    return PyLong_FromLong(owner_is_dead(owner) ? -2 : (long)owner_pid(owner));
}

/* ---- the producer ------------------------------------------------------------------ */

static void wake(struct producer *self, uint64_t sleepers)
{
    for (uint32_t i = 0; sleepers != 0 && i < self->base.ring.consumers; i++) {
        if (sleepers >> i & 1) {
            tell(self->fds[i]);
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
    if (!usable(&self->base))
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
    if (!usable(&self->base))
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
    if (!usable(&self->base))
        return NULL;
    return PyBool_FromLong(broadcast_await_room(&self->state));
}

static PyObject *has_room(PyObject *op, PyObject *ignored)
{
    struct producer *self = (struct producer *)op;
    if (!usable(&self->base))
        return NULL;
    return PyBool_FromLong(broadcast_room(&self->state, self->state.prod));
}

/* Free the entries of dead consumers, so that nobody waits for them: how many.  The
 * producer holds such an entry itself for a moment, so that nobody joins there. */
static PyObject *reap(PyObject *op, PyObject *ignored)
{
    struct producer *self = (struct producer *)op;
    long reaped = 0;
    if (!usable(&self->base))
        return NULL;
    for (uint32_t i = 0; i < self->base.ring.consumers; i++) {
        struct broadcast_entry *entry = &self->base.ring.header->entries[i];
        uint64_t owner = atomic_load(&entry->end.owner);
        if (!owner_is_process(owner) || !owner_is_dead(owner) ||
            !atomic_compare_exchange_strong(&entry->end.owner, &owner, self->base.self))
            continue;
        atomic_store(&entry->cons, BROADCAST_ABSENT);
        owner_give_back(&entry->end, self->base.self);
        reaped++;
    }
    return PyLong_FromLong(reaped);
}

static PyObject *consumers(PyObject *op, PyObject *ignored)
{
    struct end *self = (struct end *)op;
    if (!usable(self))
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
        return refuse(&self->base), NULL;
    bool mine = held(&self->base);
    let_go(&self->base);
    for (uint32_t i = 0; mine && i < self->base.ring.consumers; i++)
        tell(self->fds[i]);
    return py_none();
}

static void dealloc_producer(PyObject *op)
{
    let_go(&((struct producer *)op)->base);
    free_end(op);
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
    if (!PyArg_ParseTuple(args, "w*O!", &self->base.region, &PyTuple_Type, &fds) ||
        bind(&self->base) < 0 || read_fds(self, fds) < 0 ||
        take_end(&self->base, &self->base.ring.header->producer, "producer") < 0) {
        Py_DecRef((PyObject *)self);
        return NULL;
    }
    self->state.ring = self->base.ring;
    self->state.prod = broadcast_published(&self->base.ring);
    return (PyObject *)self;
}

/* ---- a consumer --------------------------------------------------------------------- */

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
                tell(self->space_fd);
            return bytes;
        }
        broadcast_lose(&self->state, broadcast_resume(&self->state, times) - self->state.cons);
    }
}

static PyObject *try_get(PyObject *op, PyObject *ignored)
{
    struct consumer *self = (struct consumer *)op;
    if (!usable(&self->base))
        return NULL;
    PyObject *bytes = take(self);
    return bytes != NULL || PyErr_Occurred() ? bytes : py_none();
}

static PyObject *get_many(PyObject *op, PyObject *max)
{
    struct consumer *self = (struct consumer *)op;
    Py_ssize_t most = PyLong_AsSsize_t(max);
    if ((most == -1 && PyErr_Occurred()) || !usable(&self->base))
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
    if (!usable(&self->base))
        return NULL;
    return PyBool_FromLong(broadcast_await_message(&self->state));
}

static PyObject *has_message(PyObject *op, PyObject *ignored)
{
    struct consumer *self = (struct consumer *)op;
    if (!usable(&self->base))
        return NULL;
    return PyBool_FromLong(behind(self) != 0);
}

static PyObject *producer_state(PyObject *op, PyObject *ignored)
{
    return usable((struct end *)op) ? owner_state((struct end *)op) : NULL;
}

static PyObject *close_consumer(PyObject *op, PyObject *ignored)
{
    struct consumer *self = (struct consumer *)op;
    if (self->base.busy)
        return refuse(&self->base), NULL;
    bool mine = held(&self->base);
    if (mine)
        atomic_store(&broadcast_mine(&self->state)->cons, BROADCAST_ABSENT);
    let_go(&self->base);
    if (mine)
        tell(self->space_fd);
    return py_none();
}

static void dealloc_consumer(PyObject *op)
{
    struct consumer *self = (struct consumer *)op;
    if (held(&self->base))
        atomic_store(&broadcast_mine(&self->state)->cons, BROADCAST_ABSENT);
    let_go(&self->base);
    free_end(op);
}

static int take_entry(struct consumer *self)
{
    struct broadcast_header *header = self->base.ring.header;
    for (uint32_t i = 0; i < self->base.ring.consumers; i++) {
        if (take_end(&self->base, &header->entries[i].end, "consumer") == 0) {
            self->state = (struct broadcast_consumer){.ring = self->base.ring, .index = i};
            atomic_store(&header->entries[i].end.lost, 0);
            broadcast_join(&self->state);
            return 0;
        }
        PyErr_Clear();
    }
    py_raise("BusyError", "all %u consumer entries are held by live processes; close one, or "
                          "create the ring with more consumers", (unsigned)self->base.ring.consumers);
    return -1;
}

static PyObject *new_consumer(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct consumer *self = (struct consumer *)PyType_GenericAlloc(type, 0);
    int latest;
    if (self == NULL)
        return NULL;
    if (!PyArg_ParseTuple(args, "w*ip", &self->base.region, &self->space_fd, &latest) ||
        bind(&self->base) < 0 || take_entry(self) < 0) {
        Py_DecRef((PyObject *)self);
        return NULL;
    }
    self->latest = latest;
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

static PyObject *get_notified(PyObject *op, void *ignored)
{
    return PyLong_FromUnsignedLongLong(((struct producer *)op)->notified);
}

/* ---- the types ------------------------------------------------------------------------ */

static PyMethodDef producer_methods[] = {
    {"try_put", try_put, METH_O, "try_put(data)\n--\n\nStore a message; False without room."},
    {"put_many", put_many, METH_O, "put_many(list)\n--\n\nStore what fits; how many."},
    {"has_room", has_room, METH_NOARGS, "has_room()\n--\n\nWhether a put would succeed."},
    {"await_room", await_room, METH_NOARGS, "await_room()\n--\n\nThe same, and ask for an event."},
    {"reap", reap, METH_NOARGS, "reap()\n--\n\nForget dead consumers; how many."},
    {"consumers", consumers, METH_NOARGS, "consumers()\n--\n\n(pid, behind, lost) of each."},
    {"close", close_producer, METH_NOARGS, "close()\n--\n\nGive the end back."},
    {NULL},
};

static PyMethodDef consumer_methods[] = {
    {"try_get", try_get, METH_NOARGS, "try_get()\n--\n\nTake a message; None without one."},
    {"get_many", get_many, METH_O, "get_many(max)\n--\n\nTake up to max, as a list."},
    {"has_message", has_message, METH_NOARGS, "has_message()\n--\n\nWhether there is one."},
    {"await_message", await_message, METH_NOARGS,
     "await_message()\n--\n\nThe same, and ask for an event."},
    {"producer_state", producer_state, METH_NOARGS,
     "producer_state()\n--\n\nThe producer's pid; 0 not yet, -1 closed, -2 dead."},
    {"close", close_consumer, METH_NOARGS, "close()\n--\n\nGive the end back."},
    {NULL},
};

static PyGetSetDef producer_getset[] = {
    {"closed", get_closed, NULL, "Whether this end can no longer be used.", NULL},
    {"notified", get_notified, NULL, "Events sent.", NULL},
    {NULL},
};

static PyGetSetDef consumer_getset[] = {
    {"closed", get_closed, NULL, "Whether this end can no longer be used.", NULL},
    {"lost", get_lost, NULL, "Messages overtaken or skipped, exactly.", NULL},
    {"index", get_index, NULL, "Which of the ring's entries this is.", NULL},
    {NULL},
};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, "The end that puts; see rings/broadcast.py."},
    {Py_tp_new, new_producer},
    {Py_tp_dealloc, dealloc_producer},
    {Py_tp_methods, producer_methods},
    {Py_tp_getset, producer_getset},
    {0, NULL},
};

static PyType_Slot consumer_slots[] = {
    {Py_tp_doc, "An end that gets; see rings/broadcast.py."},
    {Py_tp_new, new_consumer},
    {Py_tp_dealloc, dealloc_consumer},
    {Py_tp_methods, consumer_methods},
    {Py_tp_getset, consumer_getset},
    {0, NULL},
};

static PyType_Spec producer_spec = {.name = "rings._core.BroadcastProducer",
                                    .basicsize = sizeof(struct producer),
                                    .flags = Py_TPFLAGS_DEFAULT,
                                    .slots = producer_slots};
static PyType_Spec consumer_spec = {.name = "rings._core.BroadcastConsumer",
                                    .basicsize = sizeof(struct consumer),
                                    .flags = Py_TPFLAGS_DEFAULT,
                                    .slots = consumer_slots};

int py_add_broadcast(PyObject *module)
{
    if (py_add_type(module, &producer_spec) < 0)
        return -1;
    return py_add_type(module, &consumer_spec);
}
