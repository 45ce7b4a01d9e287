/* rings._core.QueueMember: the type, what its calls share, and the calls themselves. */
#include "py_queue.h"

/* ---- what calls share -------------------------------------------------------------- */

int queue_check_open(Queue *self)
{
    if (!self->mpmc.closed)
        return member_check(&self->mpmc);
    py_raise("ClosedError", "this Queue is closed: make another, or attach one by its handle");
    return -1;
}

static void release_pool(Queue *self)
{
    if (self->pool_held && self->mpmc.ring == NULL) {
        self->pool_held = false;
        PyBuffer_Release(&self->pool);
    }
}

void queue_let_go(Queue *self)
{
    member_let_go(&self->mpmc);
    release_pool(self);
}

PyObject *queue_raise(const char *name, PyObject *message)
{
    PyObject *module = message ? PyImport_ImportModule("queue") : NULL;
    PyObject *type = module ? PyObject_GetAttrString(module, name) : NULL;
    if (type != NULL)
        PyErr_SetObject(type, message);
    Py_XDECREF(type);
    Py_XDECREF(module);
    Py_XDECREF(message);
    return NULL;
}

static PyObject *take_message(void)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *message = value ? PyObject_Str(value) : NULL;
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return message;
}

int queue_raise_late(Queue *self, const char *name, enum mpmc_side side, enum mpmc_result result)
{
    member_timed_out(&self->mpmc, side, result);
    queue_raise(name, take_message());
    return -1;
}

int64_t queue_collect(Queue *self)
{
    struct mpmc_member *member = &self->mpmc.member;
    uint32_t buried = owner_recover_all(&member->ring, &member->self, member->lock_fd);
    int64_t freed = blocks_collect(&self->blocks, member);
    if (buried > 0 || freed > 0)
        mpmc_notify_recovery(member);
    return freed;
}

void queue_copy(void *to, const void *from, size_t length)
{
    if (length <= COPY_WITHOUT_GIL) {
        memcpy(to, from, length);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, length);
    Py_END_ALLOW_THREADS
}

/* A frame that refers to blocks makes them change hands with its slot. */
static void hand_over(struct mpmc_member *member, const void *frame, uint32_t length,
                      enum block_state state)
{
    Queue *self = (Queue *)((char *)member - offsetof(Mpmc, member));
    struct reference run;
    if (length != sizeof run || *(const uint8_t *)frame < FRAME_IN_BLOCKS)
        return;
    memcpy(&run, frame, sizeof run);
    if (blocks_has(&self->blocks, &run))
        blocks_mark(&self->blocks, &run, &member->ring, state);
}

static void sending(struct mpmc_member *member, const void *frame, uint32_t length)
{
    hand_over(member, frame, length, BLOCK_SENT);
}

static void receiving(struct mpmc_member *member, const void *frame, uint32_t length)
{
    hand_over(member, frame, length, BLOCK_HELD);
}

/* A dropped message's blocks are free while its slot still is in our hands: who dies in
 * between leaves blocks that no slot refers to, to be collected. */
static void dropping(struct mpmc_member *member, const void *frame, uint32_t length)
{
    Queue *self = (Queue *)((char *)member - offsetof(Mpmc, member));
    struct reference run;
    if (length != sizeof run || *(const uint8_t *)frame < FRAME_IN_BLOCKS)
        return;
    memcpy(&run, frame, sizeof run);
    if (blocks_has(&self->blocks, &run))
        blocks_free(&self->blocks, &run, member);
}

/* ---- life ---------------------------------------------------------------------------- */

static int read_number(PyObject *object, const char *name, uint32_t *out)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    unsigned long number = value ? PyLong_AsUnsignedLong(value) : 0;
    Py_XDECREF(value);
    *out = (uint32_t)number;
    return PyErr_Occurred() ? -1 : 0;
}

static int open_pool(Queue *self, PyObject *pool)
{
    uint32_t count, size;
    PyObject *buffer = PyObject_GetAttrString(pool, "buffer");
    int rc = buffer ? PyObject_GetBuffer(buffer, &self->pool, PyBUF_WRITABLE) : -1;
    Py_XDECREF(buffer);
    self->pool_held = rc == 0;
    if (rc < 0 || read_number(pool, "blocks", &count) < 0 ||
        read_number(pool, "block_size", &size) < 0)
        return -1;
    if (blocks_bind(&self->blocks, self->pool.buf, (size_t)self->pool.len, count, size))
        return 0;
    py_raise("LayoutError", "%u blocks of %u bytes do not fit the pool's %zd bytes", count, size,
             self->pool.len);
    return -1;
}

static int open_codec(Queue *self, PyObject *codec)
{
    if (!PyArg_ParseTuple(codec, "OOOO", &self->dumps, &self->encode, &self->loads,
                          &self->decode)) {
        self->dumps = self->encode = self->loads = self->decode = NULL;
        return -1;
    }
    Py_INCREF(self->dumps);
    Py_INCREF(self->encode);
    Py_INCREF(self->loads);
    Py_INCREF(self->decode);
    PyObject *module = PyImport_ImportModule("rings._core");
    self->lease_type = module ? PyObject_GetAttrString(module, "QueueLease") : NULL;
    Py_XDECREF(module);
    return self->lease_type ? 0 : -1;
}

static int open_queue(Queue *self, PyObject *ring, PyObject *pool, PyObject *codec, long spin_us)
{
    if (member_open(&self->mpmc, ring, spin_us, "leave") < 0)
        return -1;
    uint32_t slot_size = self->mpmc.member.ring.slot_size;
    if (slot_size < QUEUE_MIN_SLOT || slot_size > QUEUE_MAX_SLOT) {
        PyErr_Format(PyExc_ValueError, "slot_size must be in %d..%d for a queue, not %u",
                     QUEUE_MIN_SLOT, QUEUE_MAX_SLOT, slot_size);
        return -1;
    }
    self->mpmc.member.sending = sending;
    self->mpmc.member.receiving = receiving;
    self->mpmc.member.dropping = dropping;
    return open_pool(self, pool) < 0 || open_codec(self, codec) < 0 ? -1 : 0;
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ring", "pool", "codec", "views", "spin_us", "policy", NULL};
    PyObject *ring, *pool, *codec;
    const char *policy = "block";
    int views = 0;
    long spin_us = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO!|$pls", names, &ring, &pool,
                                     &PyTuple_Type, &codec, &views, &spin_us, &policy))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Queue *self = (Queue *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->views = views;
    if (open_queue(self, ring, pool, codec, spin_us) < 0 ||
        py_policy(policy, true, &self->mpmc.policy) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static void queue_dealloc(Queue *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    if (self->mpmc.weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    if (self->mpmc.ring != NULL)
        member_tear_down(&self->mpmc);
    release_pool(self);
    Py_CLEAR(self->dumps);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->loads);
    Py_CLEAR(self->decode);
    Py_CLEAR(self->lease_type);
    Py_CLEAR(self->unread);
    release(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(leave_doc, "leave($self, /)\n--\n\n"
                        "Leave the ring, as soon as no view of a message lives.");

static PyObject *leave(Queue *self, PyObject *unused)
{
    PyObject *result = member_close(&self->mpmc, NULL);
    release_pool(self);
    return result;
}

/* ---- arguments ------------------------------------------------------------------------- */

enum { MAX_NAMES = 3 };

static int find_name(const char *const *names, PyObject *name)
{
    for (int i = 0; i < MAX_NAMES && names[i] != NULL; i++)
        if (PyUnicode_CompareWithASCIIString(name, names[i]) == 0)
            return i;
    PyErr_Format(PyExc_TypeError, "unexpected keyword argument '%U'", name);
    return -1;
}

static int parse(const char *const *names, int most, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *keywords, PyObject **out)
{
    Py_ssize_t more = keywords ? PyTuple_Size(keywords) : 0;
    if (nargs > most) {
        PyErr_Format(PyExc_TypeError, "at most %d arguments, not %zd", most, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        out[i] = args[i];
    for (Py_ssize_t i = 0; i < more; i++) {
        int at = find_name(names, PyTuple_GetItem(keywords, i));
        if (at < 0)
            return -1;
        out[at] = args[nargs + i];
    }
    return 0;
}

/* `block` and `timeout` as the queue module has them, to a deadline. */
static int deadline_of(PyObject *block, PyObject *timeout, uint64_t *deadline_ns)
{
    int blocks = block == NULL ? 1 : PyObject_IsTrue(block);
    if (blocks > 0)
        return py_deadline(timeout, deadline_ns);
    *deadline_ns = TRY_ONCE;
    return blocks;
}

/* ---- putting ------------------------------------------------------------------------------ */

PyDoc_STRVAR(put_doc, "put($self, obj, block=True, timeout=None)\n--\n\n"
                      "Put an object, waiting for room; Full if there is none in time.\n\n"
                      "On return it is in the queue, whatever becomes of this process;\n"
                      "False if the queue's policy dropped it.");

static PyObject *put(Queue *self, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    static const char *const names[MAX_NAMES] = {"obj", "block", "timeout"};
    PyObject *in[MAX_NAMES] = {NULL};
    uint64_t deadline_ns;
    if (parse(names, 3, args, nargs, keywords, in) < 0 ||
        deadline_of(in[1], in[2], &deadline_ns) < 0)
        return NULL;
    if (in[0] == NULL)
        return PyErr_Format(PyExc_TypeError, "put() misses its argument 'obj'");
    int rc = queue_check_open(self) < 0 ? -1 : queue_put_object(self, in[0], deadline_ns);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

PyDoc_STRVAR(put_nowait_doc, "put_nowait($self, obj, /)\n--\n\nPut an object, or raise Full.");

static PyObject *put_nowait(Queue *self, PyObject *object)
{
    int rc = queue_check_open(self) < 0 ? -1 : queue_put_object(self, object, TRY_ONCE);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

/* After an error in a batch: keep it if nothing was done yet or nobody may miss it. */
static bool batch_failed(Py_ssize_t done)
{
    return done == 0 || !PyErr_ExceptionMatches(PyExc_Exception);
}

PyDoc_STRVAR(put_many_doc,
             "put_many($self, objects, block=True, timeout=None)\n--\n\n"
             "Put the objects of a sequence in order; return how many were put.\n\n"
             "Fewer than all if time ran out or one failed: what was wrong is raised if\n"
             "it was the first one, so put the rest again to see it.");

static PyObject *put_many(Queue *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *keywords)
{
    static const char *const names[MAX_NAMES] = {"objects", "block", "timeout"};
    PyObject *in[MAX_NAMES] = {NULL};
    uint64_t deadline_ns;
    if (parse(names, 3, args, nargs, keywords, in) < 0 ||
        deadline_of(in[1], in[2], &deadline_ns) < 0)
        return NULL;
    PyObject *objects = in[0] ? PySequence_Tuple(in[0]) : NULL;
    if (objects == NULL)
        return in[0] ? NULL : PyErr_Format(PyExc_TypeError, "put_many() misses 'objects'");
    Py_ssize_t count = PyTuple_Size(objects), done = 0;
    int rc = 0;
    for (Py_ssize_t i = 0; i < count && rc >= 0; i++) {
        rc = queue_check_open(self);
        if (rc == 0)
            rc = queue_put_object(self, PyTuple_GetItem(objects, i), deadline_ns);
        done += rc > 0;
    }
    Py_DECREF(objects);
    if (rc < 0 && batch_failed(done))
        return NULL;
    PyErr_Clear();
    return PyLong_FromSsize_t(done);
}

/* ---- getting ------------------------------------------------------------------------------- */

PyDoc_STRVAR(get_doc, "get($self, block=True, timeout=None)\n--\n\n"
                      "Return the next object, waiting for one; Empty if none comes in time.");

static PyObject *get(Queue *self, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    static const char *const names[MAX_NAMES] = {"block", "timeout", NULL};
    PyObject *in[MAX_NAMES] = {NULL};
    uint64_t deadline_ns;
    if (parse(names, 2, args, nargs, keywords, in) < 0 ||
        deadline_of(in[0], in[1], &deadline_ns) < 0 || queue_check_open(self) < 0)
        return NULL;
    return queue_get_object(self, deadline_ns);
}

PyDoc_STRVAR(get_nowait_doc, "get_nowait($self, /)\n--\n\nReturn the next object, or raise Empty.");

static PyObject *get_nowait(Queue *self, PyObject *unused)
{
    return queue_check_open(self) < 0 ? NULL : queue_get_object(self, TRY_ONCE);
}

/* An object that cannot be unpickled is gone: let the next get say so. */
static void keep_error(Queue *self)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    self->unread = value;
}

static bool is_end_of_batch(void)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *module = PyImport_ImportModule("queue");
    PyObject *empty = module ? PyObject_GetAttrString(module, "Empty") : NULL;
    bool matches = empty != NULL && PyErr_GivenExceptionMatches(type, empty);
    Py_XDECREF(empty);
    Py_XDECREF(module);
    PyErr_Restore(type, value, trace);
    return matches;
}

static int get_more(Queue *self, PyObject *list, Py_ssize_t limit)
{
    while (!self->mpmc.closed && PyList_Size(list) < limit &&
           mpmc_size(&self->mpmc.member.ring) > 0) {
        PyObject *object = queue_get_object(self, TRY_ONCE);
        if (object == NULL && is_end_of_batch())
            PyErr_Clear();
        else if (object == NULL)
            keep_error(self);
        int rc = object ? PyList_Append(list, object) : 1;
        Py_XDECREF(object);
        if (rc != 0)
            return rc;
    }
    return 0;
}

PyDoc_STRVAR(get_many_doc, "get_many($self, limit, block=True, timeout=None)\n--\n\n"
                           "Return a list of up to `limit` objects, waiting for the first.");

static PyObject *get_many(Queue *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *keywords)
{
    static const char *const names[MAX_NAMES] = {"limit", "block", "timeout"};
    PyObject *in[MAX_NAMES] = {NULL};
    uint64_t deadline_ns;
    if (parse(names, 3, args, nargs, keywords, in) < 0 ||
        deadline_of(in[1], in[2], &deadline_ns) < 0 || queue_check_open(self) < 0)
        return NULL;
    Py_ssize_t limit = in[0] ? PyLong_AsSsize_t(in[0]) : 0;
    if (limit < 1)
        return PyErr_Occurred() ? NULL
                                : PyErr_Format(PyExc_ValueError, "limit must be 1 or more");
    PyObject *first = queue_get_object(self, deadline_ns);
    PyObject *list = first ? PyList_New(0) : NULL;
    int rc = list ? PyList_Append(list, first) : -1;
    Py_XDECREF(first);
    if (rc < 0 || get_more(self, list, limit) < 0)
        Py_CLEAR(list);
    return list;
}

/* ---- the rest ------------------------------------------------------------------------------ */

PyDoc_STRVAR(get_fileno_doc, "get_fileno($self, /)\n--\n\n"
                             "A descriptor that polls readable when get may go on; see arm_get.");
PyDoc_STRVAR(arm_get_doc,
             "arm_get($self, /)\n--\n\n"
             "Announce that the caller will sleep on get_fileno(), and look once more: "
             "0.0 if get may go on now, else how many seconds to sleep at most.");
PyDoc_STRVAR(put_fileno_doc, "put_fileno($self, /)\n--\n\n"
                             "A descriptor that polls readable when put may go on; see arm_put.");
PyDoc_STRVAR(arm_put_doc,
             "arm_put($self, /)\n--\n\n"
             "As arm_get, to be called after a put that raised Full.");
PyDoc_STRVAR(recover_doc, "recover($self, /)\n--\n\n"
                          "Settle what dead members left behind, slots and blocks; "
                          "how many members this call buried.");
PyDoc_STRVAR(shutdown_doc,
             "shutdown($self, immediate=False)\n--\n\n"
             "Refuse puts from now on, and gets once the queue is empty (`immediate`: at once); "
             "those refused raise ShutDown, in every process.");

static PyObject *get_fileno(Queue *self, PyObject *unused)
{
    return queue_check_open(self) < 0 ? NULL : member_get_fileno(&self->mpmc, NULL);
}

static PyObject *put_fileno(Queue *self, PyObject *unused)
{
    return queue_check_open(self) < 0 ? NULL : member_put_fileno(&self->mpmc, NULL);
}

static PyObject *arm_get(Queue *self, PyObject *unused)
{
    return queue_check_open(self) < 0 ? NULL : member_arm(&self->mpmc, MPMC_GET, NULL);
}

static PyObject *arm_put(Queue *self, PyObject *unused)
{
    struct change change = {self->blocks.freed, self->freed_seen};
    if (queue_check_open(self) < 0)
        return NULL;
    return member_arm(&self->mpmc, MPMC_PUT, self->short_of_blocks ? &change : NULL);
}

static PyObject *recover(Queue *self, PyObject *unused)
{
    if (queue_check_open(self) < 0)
        return NULL;
    PyObject *buried = member_recover(&self->mpmc, NULL);
    if (buried != NULL && queue_collect(self) < 0) {
        Py_CLEAR(buried);
        PyErr_NoMemory();
    }
    return buried;
}

static PyObject *shut_down(Queue *self, PyObject *args, PyObject *kwargs)
{
    return queue_check_open(self) < 0 ? NULL : member_shut_down(&self->mpmc, args, kwargs);
}

PyDoc_STRVAR(qsize_doc, "qsize($self, /)\n--\n\nHow many objects are in the queue, about.");

static PyObject *qsize(Queue *self, PyObject *unused)
{
    if (queue_check_open(self) < 0)
        return NULL;
    const struct mpmc *ring = &self->mpmc.member.ring;
    return PyLong_FromUnsignedLongLong(mpmc_shut(ring) & SHUT_GETS ? 0 : mpmc_size(ring));
}

static PyObject *get_blocks_used(Queue *self, void *unused)
{
    unsigned long used = 0;
    if (queue_check_open(self) < 0)
        return NULL;
    for (uint32_t i = 0; i < self->blocks.count; i++)
        used += block_state(load64(&self->blocks.words[i])) != BLOCK_FREE;
    return PyLong_FromUnsignedLong(used);
}

static PyObject *get_is_shutdown(Queue *self, void *unused)
{
    return queue_check_open(self) < 0 ? NULL
                                      : PyBool_FromLong(mpmc_shut(&self->mpmc.member.ring) != 0);
}

static PyObject *get_lost(Queue *self, void *unused)
{
    return queue_check_open(self) < 0 ? NULL : member_lost(&self->mpmc, NULL);
}

static PyObject *get_closed(Queue *self, void *unused)
{
    return PyBool_FromLong(self->mpmc.closed);
}

static PyObject *get_owner(Queue *self, void *unused)
{
    return queue_check_open(self) < 0 ? NULL
                                      : PyLong_FromUnsignedLong(self->mpmc.member.ring.owner);
}

/* ---- the type ------------------------------------------------------------------------------ */

#define NOARGS(name) {#name, (PyCFunction)name, METH_NOARGS, name##_doc}
#define ONE(name) {#name, (PyCFunction)name, METH_O, name##_doc}
#define FAST(name)                                                                          \
    {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL | METH_KEYWORDS, name##_doc}

static PyMethodDef queue_methods[] = {
    FAST(put),
    ONE(put_nowait),
    FAST(put_many),
    FAST(get),
    NOARGS(get_nowait),
    FAST(get_many),
    NOARGS(qsize),
    NOARGS(get_fileno),
    NOARGS(put_fileno),
    NOARGS(arm_get),
    NOARGS(arm_put),
    NOARGS(recover),
    NOARGS(leave),
    {"shutdown", (PyCFunction)shut_down, METH_VARARGS | METH_KEYWORDS, shutdown_doc},
    {NULL},
};

static PyGetSetDef queue_getset[] = {
    {"lost", (getter)get_lost, NULL, "Objects that this member dropped by its policy.", NULL},
    {"blocks_used", (getter)get_blocks_used, NULL, "Blocks of the pool in use.", NULL},
    {"is_shutdown", (getter)get_is_shutdown, NULL, "Whether shutdown() was called.", NULL},
    {"closed", (getter)get_closed, NULL, "True after close() in this process.", NULL},
    {"owner", (getter)get_owner, NULL, "Our number in the table of members.", NULL},
    {NULL},
};

static PyMemberDef queue_members[] = {PY_WEAKREFS(Queue, mpmc.weakrefs)};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "QueueMember(ring, pool, codec, *, views=False, spin_us=0, policy='block')\n--\n\n"
                "A member of an MPMC ring that puts and gets objects; see rings.Queue."},
    {Py_tp_new, queue_new},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_methods, queue_methods},
    {Py_tp_getset, queue_getset},
    {Py_tp_members, queue_members},
    {0, NULL},
};

static PyType_Spec queue_spec = {"rings._core.QueueMember", sizeof(Queue), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, queue_slots};

int py_add_queue(PyObject *module)
{
    return py_add_type(module, &queue_lease_spec) < 0 ? -1 : py_add_type(module, &queue_spec);
}
