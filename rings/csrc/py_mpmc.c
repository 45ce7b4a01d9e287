/* rings.mpmc: Producer, Consumer and Member, three faces of one membership.
 *
 * A type is the membership itself, not a wrapper of it: a Python class round it
 * would double the cost of a call.  Claim and publish lie in one call that never
 * gives up the GIL; what a call needs from Python (a bytes object to fill) it
 * gets before it takes a slot, so nothing can fail with a slot in hand.
 */
#include "py_mpmc.h"

/* ---- membership ------------------------------------------------------------- */

static int mpmc_full_table(void)
{
    py_raise("BusyError",
             "all %d members of the ring are alive: close some of them, or use more rings",
             MPMC_OWNERS);
    return -1;
}

void member_close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int join(Mpmc *self)
{
    if (!mpmc_join(&self->member, self->region_fd))
        return mpmc_full_table();
    self->lost_before = load64(member_lost_word(self)) >> 24;
    return 0;
}

/* A forked child becomes a member of its own; its epolls would be the parent's. */
int member_rejoin(Mpmc *self)
{
    mpmc_forget(&self->member);
    member_close_wakes(self);
    self->waiting = 0;
    self->forks = py_fork_count();
    return join(self);
}

int member_closed(void)
{
    py_raise("ClosedError", "this member of the ring was closed: make another one");
    return -1;
}

void member_tear_down(Mpmc *self)
{
    if (self->forks == py_fork_count())
        mpmc_leave(&self->member);
    else
        mpmc_forget(&self->member);
    member_close_wakes(self);
    PyBuffer_Release(&self->memory);
    Py_CLEAR(self->ring);
}

static int int_of(PyObject *object, const char *name, int *out)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    long number = value ? PyLong_AsLong(value) : -1;
    Py_XDECREF(value);
    *out = (int)number;
    return number == -1 && PyErr_Occurred() ? -1 : 0;
}

static int read_ring(Mpmc *self, int *slots, int *slot_size)
{
    PyObject *buffer = PyObject_GetAttrString(self->ring, "buffer");
    int rc = buffer ? PyObject_GetBuffer(buffer, &self->memory, PyBUF_WRITABLE) : -1;
    Py_XDECREF(buffer);
    if (rc < 0 || int_of(self->ring, "slots", slots) < 0 ||
        int_of(self->ring, "slot_size", slot_size) < 0 ||
        int_of(self->ring, "region_fd", &self->region_fd) < 0 ||
        int_of(self->ring, "not_full_fd", &self->member.event_fd[MPMC_PUT]) < 0 ||
        int_of(self->ring, "not_empty_fd", &self->member.event_fd[MPMC_GET]) < 0)
        return -1;
    return 0;
}

static int join_ring(Mpmc *self, long spin_us)
{
    int slots, slot_size;
    if (read_ring(self, &slots, &slot_size) < 0)
        return -1;
    if (!mpmc_bind(&self->member.ring, self->memory.buf, (size_t)self->memory.len,
                   (uint32_t)slots, (uint32_t)slot_size)) {
        py_raise("LayoutError", "%d slots of %d bytes do not fit the ring's %zd bytes",
                 slots, slot_size, self->memory.len);
        return -1;
    }
    for (int side = 0; side < 2; side++)
        self->spin[side].max_ns = spin_us < 0 ? SPIN_FOREVER : (uint64_t)spin_us * 1000;
    return join(self);
}

int member_open(Mpmc *self, PyObject *ring, long spin_us, const char *closer)
{
    self->closed = true;
    self->member.lock_fd = -1;
    for (int side = 0; side < 2; side++)
        self->poll_fd[side] = self->wake_fd[side] = self->alarm[side].fd = -1;
    self->forks = py_fork_count();
    if (py_watch_end((PyObject *)self, closer) < 0)
        return -1;
    Py_INCREF(ring);
    self->ring = ring;
    if (join_ring(self, spin_us) < 0)
        return -1;
    self->closed = false;
    return 0;
}

struct options {
    PyObject *ring;
    long spin_us;
    const char *policy;
    int latest;
};

static PyObject *member_make(PyTypeObject *type, const struct options *options)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Mpmc *self = (Mpmc *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->latest = options->latest;
    if (member_open(self, options->ring, options->spin_us, "close") < 0 ||
        py_policy(options->policy, true, &self->policy) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *producer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ring", "spin_us", "policy", NULL};
    struct options o = {.policy = "block"};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$ls", names, &o.ring, &o.spin_us, &o.policy))
        return NULL;
    return member_make(type, &o);
}

static PyObject *consumer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ring", "spin_us", "latest", NULL};
    struct options o = {.policy = "block"};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$lp", names, &o.ring, &o.spin_us, &o.latest))
        return NULL;
    return member_make(type, &o);
}

static PyObject *member_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"ring", "spin_us", "policy", "latest", NULL};
    struct options o = {.policy = "block"};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$lsp", names, &o.ring, &o.spin_us, &o.policy,
                                     &o.latest))
        return NULL;
    return member_make(type, &o);
}

static void member_dealloc(Mpmc *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    if (self->ring != NULL)
        member_tear_down(self);
    release(self);
    Py_DECREF(type);
}

void member_hold(Mpmc *self)
{
    self->waiting++;
}

void member_let_go(Mpmc *self)
{
    if (--self->waiting == 0 && self->closed && self->ring != NULL)
        member_tear_down(self);
}

PyObject *member_close(Mpmc *self, PyObject *unused)
{
    if (self->closed)
        return py_none();
    self->closed = true;
    if (self->forks == py_fork_count() && self->waiting)
        mpmc_notify_recovery(&self->member); /* the last of them tears down */
    else
        member_tear_down(self);
    return py_none();
}

static PyObject *member_enter(PyObject *self, PyObject *unused)
{
    Py_INCREF(self);
    return self;
}

static PyObject *member_exit(Mpmc *self, PyObject *args)
{
    return member_close(self, NULL);
}

/* ---- everybody ------------------------------------------------------------------------ */

PyDoc_STRVAR(recover_doc, "recover($self, /)\n--\n\n"
                          "Settle what dead members left behind; how many this call buried.");

PyObject *member_recover(Mpmc *self, PyObject *unused)
{
    struct mpmc_member *member = &self->member;
    if (member_check(self) < 0)
        return NULL;
    uint32_t freed = owner_recover_all(&member->ring, &member->self, member->lock_fd);
    if (freed)
        mpmc_notify_recovery(member);
    return PyLong_FromUnsignedLong(freed);
}

PyDoc_STRVAR(shutdown_doc,
             "shutdown($self, immediate=False)\n--\n\n"
             "Refuse puts from now on, and gets once the ring is empty (`immediate`: at once); "
             "those refused raise ShutDown.");

PyObject *member_shut_down(Mpmc *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"immediate", NULL};
    int immediate = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p", names, &immediate) ||
        member_check(self) < 0)
        return NULL;
    mpmc_shut_down(&self->member, immediate);
    return py_none();
}

static PyObject *get_size(Mpmc *self, void *unused)
{
    if (member_check(self) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(mpmc_size(&self->member.ring));
}

static PyObject *get_owner(Mpmc *self, void *unused)
{
    return member_check(self) < 0 ? NULL : PyLong_FromUnsignedLong(self->member.ring.owner);
}

PyObject *member_lost(Mpmc *self, void *unused)
{
    if (member_check(self) < 0)
        return NULL;
    uint64_t lost = (load64(member_lost_word(self)) >> 24) - self->lost_before;
    return PyLong_FromUnsignedLongLong(lost);
}

static PyObject *get_closed(Mpmc *self, void *unused)
{
    return PyBool_FromLong(self->closed);
}

static PyObject *get_ring(Mpmc *self, void *unused)
{
    if (member_check(self) < 0)
        return NULL;
    Py_INCREF(self->ring);
    return self->ring;
}

/* ---- making rings ----------------------------------------------------------------------- */

static PyObject *initialise(PyObject *module, PyObject *args)
{
    Py_buffer memory;
    unsigned slots, slot_size;
    unsigned long long start;
    struct mpmc ring;
    if (!PyArg_ParseTuple(args, "w*IIK", &memory, &slots, &slot_size, &start))
        return NULL;
    bool fits = mpmc_bind(&ring, memory.buf, (size_t)memory.len, slots, slot_size);
    if (fits)
        mpmc_init(&ring, start);
    PyBuffer_Release(&memory);
    return fits ? py_none() : py_raise("LayoutError", "the ring does not fit its memory");
}

/* ---- types ------------------------------------------------------------------------------- */

PyDoc_STRVAR(try_put_doc, "try_put($self, message, /)\n--\n\nPut it; False if the ring is full.");
PyDoc_STRVAR(put_doc, "put($self, message, timeout=None)\n--\n\n"
                      "Put it, waiting for room; TimeoutError after `timeout` seconds.\n"
                      "False if the policy dropped it.");
PyDoc_STRVAR(put_many_doc,
             "put_many($self, messages, /)\n--\n\n"
             "Put messages of a sequence until the ring is full; how many were put.");
PyDoc_STRVAR(put_records_doc,
             "put_records($self, buffer, record_size, /)\n--\n\n"
             "Put each `record_size` bytes of `buffer` as a message until the ring is full; "
             "how many were put.");
PyDoc_STRVAR(try_get_doc, "try_get($self, /)\n--\n\nThe next message, or None if there is none.");
PyDoc_STRVAR(get_doc, "get($self, timeout=None)\n--\n\n"
                      "The next message, waiting for one; TimeoutError after `timeout` seconds.");
PyDoc_STRVAR(get_many_doc, "get_many($self, limit, /)\n--\n\n"
                           "A list of up to `limit` messages, empty if there is none.");
PyDoc_STRVAR(get_records_doc,
             "get_records($self, buffer, record_size, /)\n--\n\n"
             "Fill `buffer` with messages of `record_size` bytes each; how many were taken.");
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
             "Announce that the caller will sleep on put_fileno(), and look once more: "
             "0.0 if put may go on now, else how many seconds to sleep at most.");

#define NOARGS(name) {#name, (PyCFunction)member_##name, METH_NOARGS, name##_doc}
#define ONE(name) {#name, (PyCFunction)member_##name, METH_O, name##_doc}
#define VARARGS(name) {#name, (PyCFunction)member_##name, METH_VARARGS, name##_doc}
#define FAST(name)                                                                          \
    {#name, (PyCFunction)(void (*)(void))member_##name, METH_FASTCALL | METH_KEYWORDS, name##_doc}

#define PUT_METHODS                                                                         \
    ONE(try_put), FAST(put), ONE(put_many), VARARGS(put_records), NOARGS(put_fileno),   \
        NOARGS(arm_put)
#define GET_METHODS                                                                         \
    NOARGS(try_get), FAST(get), ONE(get_many), VARARGS(get_records), NOARGS(get_fileno), \
        NOARGS(arm_get)
#define ALL_METHODS                                                                         \
    NOARGS(recover), {"shutdown", (PyCFunction)member_shut_down, METH_VARARGS | METH_KEYWORDS,     \
                      shutdown_doc},                                                        \
        {"close", (PyCFunction)member_close, METH_NOARGS, "Leave the ring."},               \
        {"__enter__", (PyCFunction)member_enter, METH_NOARGS, NULL},                        \
        {"__exit__", (PyCFunction)member_exit, METH_VARARGS, NULL}, {NULL}

static PyMethodDef producer_methods[] = {PUT_METHODS, ALL_METHODS};
static PyMethodDef consumer_methods[] = {GET_METHODS, ALL_METHODS};
static PyMethodDef member_methods[] = {PUT_METHODS, GET_METHODS, ALL_METHODS};

static PyGetSetDef member_getset[] = {
    {"size", (getter)get_size, NULL, "Messages in the ring now.", NULL},
    {"lost", (getter)member_lost, NULL, "Messages that we dropped, by policy or latest.", NULL},
    {"owner", (getter)get_owner, NULL, "Our number in the table of members.", NULL},
    {"closed", (getter)get_closed, NULL, "True after close().", NULL},
    {"ring", (getter)get_ring, NULL, "The ring we are a member of.", NULL},
    {NULL},
};

static PyMemberDef member_members[] = {PY_WEAKREFS(Mpmc, weakrefs)};

#define MPMC_SPEC(kind, text)                                                               \
    static PyType_Slot kind##_slots[] = {                                                   \
        {Py_tp_doc, text},                                                                  \
        {Py_tp_new, kind##_new},                                                            \
        {Py_tp_dealloc, member_dealloc},                                                    \
        {Py_tp_methods, kind##_methods},                                                    \
        {Py_tp_getset, member_getset},                                                      \
        {Py_tp_members, member_members},                                                    \
        {0, NULL},                                                                          \
    }

MPMC_SPEC(producer, "Producer(ring, *, spin_us=0, policy='block')\n--\n\n"
                    "A member of an MPMC ring that puts.");
MPMC_SPEC(consumer, "Consumer(ring, *, spin_us=0, latest=False)\n--\n\n"
                    "A member of an MPMC ring that gets.");
MPMC_SPEC(member, "Member(ring, *, spin_us=0, policy='block', latest=False)\n--\n\n"
                  "A member of an MPMC ring that does both.");

static PyType_Spec specs[] = {
    {"rings._core.MpmcProducer", sizeof(Mpmc), 0, Py_TPFLAGS_DEFAULT, producer_slots},
    {"rings._core.MpmcConsumer", sizeof(Mpmc), 0, Py_TPFLAGS_DEFAULT, consumer_slots},
    {"rings._core.MpmcMember", sizeof(Mpmc), 0, Py_TPFLAGS_DEFAULT, member_slots},
};

static PyMethodDef functions[] = {
    {"mpmc_initialise", initialise, METH_VARARGS,
     "mpmc_initialise(memory, slots, slot_size, start, /)\n--\n\nWrite a fresh ring."},
    {NULL},
};

int py_add_mpmc(PyObject *module)
{
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        if (py_add_type(module, &specs[i]) < 0)
            return -1;
    return PyModule_AddFunctions(module, functions);
}
