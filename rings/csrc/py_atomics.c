/* rings._core.Atomics: the operations of atomics.h on a Python buffer.
 *
 * Everything but `users` is fixed when the object is made, so calls need no lock,
 * with the GIL or without.  `users. counts the calls now using the memory; close
 * turns 0 into CLOSED and refuses anything else, so the memory cannot go away
 * under a call, and a sleeping one least of all.
 */
#include "py.h"

#include "atomics.h"

#define CLOSED 0x80000000u

struct atomics {
    PyObject_HEAD
    Py_buffer view;
    uint8_t *words;
    Py_ssize_t count;
    bool wide;
    bool is_signed;
    char format[2];
    shared_u32 users;
};

/* ---- words and numbers ----------------------------------------------------- */

static int to_operand(PyObject *value, uint64_t *operand)
{
    *operand = PyLong_AsUnsignedLongLongMask(value);
    return *operand == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

static PyObject *from_word(const struct atomics *self, uint64_t value)
{
    if (!self->is_signed)
        return PyLong_FromUnsignedLongLong(value);
    return PyLong_FromLongLong(self->wide ? (int64_t)value : (int32_t)value);
}

static int to_word(const struct atomics *self, PyObject *index, struct atomics_word *word)
{
    Py_ssize_t i = PyNumber_AsSsize_t(index, PyExc_IndexError);
    if (i == -1 && PyErr_Occurred())
        return -1;
    if (i < 0 || i >= self->count) {
        PyErr_Format(PyExc_IndexError, "no word %zd: this Atomics has %zd, counted from 0", i,
                     self->count);
        return -1;
    }
    word->at = self->words + (size_t)i * (self->wide ? 8 : 4);
    word->wide = self->wide;
    return 0;
}

static int acquire_memory(struct atomics *self)
{
    if (!(atomic_fetch_add(&self->users, 1) & CLOSED))
        return 0;
    atomic_fetch_sub(&self->users, 1);
    py_raise("ClosedError", "this Atomics was closed: make another over the region");
    return -1;
}

static int acquire_writable(struct atomics *self)
{
    if (!self->view.readonly)
        return acquire_memory(self);
    PyErr_SetString(PyExc_TypeError, "this Atomics is over read-only memory: attach the "
                                     "region with writable=True to store");
    return -1;
}

static void release_memory(struct atomics *self)
{
    atomic_fetch_sub(&self->users, 1);
}

static bool takes(Py_ssize_t given, Py_ssize_t wanted, const char *name)
{
    if (given == wanted)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", name, wanted, given);
    return false;
}

/* ---- operations ------------------------------------------------------------- */

static PyObject *atomics_load_method(PyObject *object, PyObject *index)
{
    struct atomics *self = (struct atomics *)object;
    struct atomics_word word;
    if (to_word(self, index, &word) < 0 || acquire_memory(self) < 0)
        return NULL;
    uint64_t value = atomics_load(word);
    release_memory(self);
    return from_word(self, value);
}

static int change(struct atomics *self, PyObject *const *args, enum atomics_op op, uint64_t *old)
{
    struct atomics_word word;
    uint64_t operand;
    if (to_word(self, args[0], &word) < 0 || to_operand(args[1], &operand) < 0 ||
        acquire_writable(self) < 0)
        return -1;
    *old = atomics_apply(word, op, operand);
    release_memory(self);
    return 0;
}

#define CHANGING_METHOD(method, op)                                                        \
    static PyObject *atomics_##method(PyObject *object, PyObject *const *args, Py_ssize_t n) \
    {                                                                                      \
        struct atomics *self = (struct atomics *)object;                                   \
        uint64_t old;                                                                      \
        if (!takes(n, 2, #method) || change(self, args, op, &old) < 0)                     \
            return NULL;                                                                   \
        return from_word(self, old);                                                       \
    }

CHANGING_METHOD(add, ATOMICS_ADD)
CHANGING_METHOD(sub, ATOMICS_SUB)
CHANGING_METHOD(and_, ATOMICS_AND)
CHANGING_METHOD(or_, ATOMICS_OR)
CHANGING_METHOD(xor, ATOMICS_XOR)
CHANGING_METHOD(exchange, ATOMICS_EXCHANGE)

static PyObject *atomics_store(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    uint64_t old;
    if (!takes(n, 2, "store"))
        return NULL;
    PyObject *value = PyNumber_Index(args[1]);
    if (value == NULL)
        return NULL;
    PyObject *pair[2] = {args[0], value};
    if (change((struct atomics *)object, pair, ATOMICS_EXCHANGE, &old) < 0)
        Py_CLEAR(value);
    return value;
}

static PyObject *atomics_compare_exchange_method(PyObject *object, PyObject *const *args,
                                                 Py_ssize_t n)
{
    struct atomics *self = (struct atomics *)object;
    struct atomics_word word;
    uint64_t expected, desired;
    if (!takes(n, 3, "compare_exchange") || to_word(self, args[0], &word) < 0 ||
        to_operand(args[1], &expected) < 0 || to_operand(args[2], &desired) < 0 ||
        acquire_writable(self) < 0)
        return NULL;
    uint64_t old = atomics_compare_exchange(word, expected, desired);
    release_memory(self);
    return from_word(self, old);
}

/* ---- wait and notify ---------------------------------------------------------- */

/* Only the main thread runs signal handlers, so only there can a signal that
 * falls between look and sleep matter: it sleeps in slices. */
static uint64_t slice_end(uint64_t now, uint64_t deadline_ns)
{
    bool main_thread = syscall(SYS_gettid) == getpid();
    return main_thread && deadline_ns - now > WAIT_SLICE_NS ? now + WAIT_SLICE_NS : deadline_ns;
}

static PyObject *sleep_failed(bool wide)
{
    if (wide && errno == ENOSYS)
        return PyErr_Format(PyExc_OSError, "a 64-bit wait needs futex_waitv, Linux 5.16 and a "
                                           "seccomp profile that allows it: wait on format 'i'");
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *wait_on(struct atomics_word word, uint64_t expected, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now = now_ns();
        enum atomics_wait_result result = ATOMICS_CHANGED;
        if (atomics_load(word) == expected) {
            if (now >= deadline_ns)
                return PyUnicode_FromString("timed-out");
            Py_BEGIN_ALLOW_THREADS
            result = atomics_sleep(word, expected, slice_end(now, deadline_ns));
            Py_END_ALLOW_THREADS
        }
        if (result == ATOMICS_WOKEN)
            return PyUnicode_FromString("ok");
        if (result == ATOMICS_CHANGED)
            return PyUnicode_FromString("not-equal");
        if (result == ATOMICS_FAILED)
            return sleep_failed(word.wide);
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (now_ns() >= deadline_ns)
            return PyUnicode_FromString("timed-out");
    }
}

static PyObject *atomics_wait(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"index", "expected", "timeout", NULL};
    struct atomics *self = (struct atomics *)object;
    PyObject *index, *value, *timeout = NULL;
    struct atomics_word word;
    uint64_t expected, deadline_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:wait", names, &index, &value, &timeout) ||
        to_word(self, index, &word) < 0 || to_operand(value, &expected) < 0 ||
        py_deadline(timeout, &deadline_ns) < 0 || acquire_memory(self) < 0)
        return NULL;
    PyObject *answer = wait_on(word, self->wide ? expected : (uint32_t)expected, deadline_ns);
    release_memory(self);
    return answer;
}

static int to_wake_count(PyObject *count, uint32_t *wake)
{
    *wake = INT_MAX;
    if (count == NULL || count == Py_None)
        return 0;
    Py_ssize_t n = PyNumber_AsSsize_t(count, NULL);
    if (n == -1 && PyErr_Occurred())
        return -1;
    *wake = n < 0 ? 0 : n < INT_MAX ? (uint32_t)n : INT_MAX;
    return 0;
}

static PyObject *atomics_notify_method(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"index", "count", NULL};
    struct atomics *self = (struct atomics *)object;
    PyObject *index, *count = NULL;
    struct atomics_word word;
    uint32_t wake;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:notify", names, &index, &count) ||
        to_word(self, index, &word) < 0 || to_wake_count(count, &wake) < 0 ||
        acquire_memory(self) < 0)
        return NULL;
    long woken = atomics_notify(word, wake);
    release_memory(self);
    return woken < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(woken);
}

/* ---- life -------------------------------------------------------------------- */

static PyObject *atomics_close(PyObject *object, PyObject *unused)
{
    struct atomics *self = (struct atomics *)object;
    uint32_t none = 0;
    if (atomic_compare_exchange_strong(&self->users, &none, CLOSED))
        PyBuffer_Release(&self->view);
    else if (!(none & CLOSED))
        return py_raise("BusyError", "%u calls are using this Atomics: notify its sleepers, "
                                     "then close it", (unsigned)none);
    return py_none();
}

static PyObject *atomics_enter(PyObject *object, PyObject *unused)
{
    struct atomics *self = (struct atomics *)object;
    if (acquire_memory(self) < 0)
        return NULL;
    release_memory(self);
    Py_IncRef(object);
    return object;
}

static PyObject *atomics_exit(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
    return atomics_close(object, NULL);
}

/* The buffer itself, or the `buffer` of a Region. */
static int get_view(PyObject *memory, Py_buffer *view)
{
    if (PyObject_CheckBuffer(memory))
        return PyObject_GetBuffer(memory, view, PyBUF_SIMPLE);
    PyObject *buffer = PyObject_GetAttrString(memory, "buffer");
    if (buffer == NULL && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_SetString(PyExc_TypeError, "Atomics needs a Region or a bytes-like object");
    if (buffer == NULL)
        return -1;
    int rc = PyObject_GetBuffer(buffer, view, PyBUF_SIMPLE);
    Py_DECREF(buffer);
    return rc;
}

static int set_format(struct atomics *self, const char *format)
{
    if (strlen(format) != 1 || strchr("iIqQ", format[0]) == NULL) {
        PyErr_Format(PyExc_ValueError, "format must be 'i', 'I', 'q' or 'Q', not '%s'", format);
        return -1;
    }
    self->format[0] = format[0];
    self->is_signed = format[0] == 'i' || format[0] == 'q';
    self->wide = format[0] == 'q' || format[0] == 'Q';
    return 0;
}

/* `count` words (None: all that fit) from byte `offset` of the view. */
static int set_words(struct atomics *self, Py_ssize_t offset, PyObject *count)
{
    Py_ssize_t size = self->wide ? 8 : 4;
    self->words = (uint8_t *)self->view.buf + offset;
    if (offset < 0 || offset > self->view.len || (uintptr_t)self->words % (size_t)size) {
        PyErr_Format(PyExc_ValueError, "offset %zd must be inside the buffer's %zd bytes and "
                                       "fall on a multiple of %zd in memory",
                     offset, self->view.len, size);
        return -1;
    }
    Py_ssize_t room = (self->view.len - offset) / size;
    self->count = count == Py_None ? room : PyNumber_AsSsize_t(count, PyExc_ValueError);
    if (self->count == -1 && PyErr_Occurred())
        return -1;
    if (self->count < 0 || self->count > room) {
        PyErr_Format(PyExc_ValueError, "count must be in 0..%zd, what fits behind the offset, "
                                       "not %zd", room, self->count);
        return -1;
    }
    return 0;
}

static PyObject *atomics_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "offset", "count", "format", NULL};
    PyObject *memory, *count = Py_None;
    Py_ssize_t offset = 0;
    const char *format = "i";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|nOs:Atomics", names, &memory, &offset,
                                     &count, &format))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct atomics *self = (struct atomics *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (set_format(self, format) < 0 || get_view(memory, &self->view) < 0 ||
        set_words(self, offset, count) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void atomics_dealloc(PyObject *object)
{
    struct atomics *self = (struct atomics *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyBuffer_Release(&self->view);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static Py_ssize_t atomics_length(PyObject *object)
{
    return ((struct atomics *)object)->count;
}

static PyObject *get_format(PyObject *object, void *unused)
{
    return PyUnicode_FromString(((struct atomics *)object)->format);
}

static PyObject *get_itemsize(PyObject *object, void *unused)
{
    return PyLong_FromLong(((struct atomics *)object)->wide ? 8 : 4);
}

static PyObject *get_readonly(PyObject *object, void *unused)
{
    return PyBool_FromLong(((struct atomics *)object)->view.readonly);
}

static PyObject *get_closed(PyObject *object, void *unused)
{
    struct atomics *self = (struct atomics *)object;
    return PyBool_FromLong((load_seq_cst(&self->users) & CLOSED) != 0);
}

/* ---- the type ------------------------------------------------------------------ */

#define METHOD(name, function, flags, doc) {name, (PyCFunction)(void (*)(void))function, flags, doc}
#define CHANGING(name, what) \
    METHOD(#name, atomics_##name, METH_FASTCALL, #name "($self, index, value, /)\n--\n\n" what)

static PyMethodDef methods[] = {
    METHOD("load", atomics_load_method, METH_O, "load($self, index, /)\n--\n\nReturn the word."),
    CHANGING(store, "Store value; returns value as it was given."),
    CHANGING(add, "Add value modulo the word's size; returns the word before."),
    CHANGING(sub, "Subtract value modulo the word's size; returns the word before."),
    CHANGING(and_, "Store word & value; returns the word before."),
    CHANGING(or_, "Store word | value; returns the word before."),
    CHANGING(xor, "Store word ^ value; returns the word before."),
    CHANGING(exchange, "Store value; returns the word before."),
    METHOD("compare_exchange", atomics_compare_exchange_method, METH_FASTCALL,
           "compare_exchange($self, index, expected, value, /)\n--\n\n"
           "Store value if the word is expected; returns the word before."),
    METHOD("wait", atomics_wait, METH_VARARGS | METH_KEYWORDS,
           "wait($self, /, index, expected, timeout=None)\n--\n\n"
           "Sleep while the word is expected: 'ok', 'not-equal' or 'timed-out'."),
    METHOD("notify", atomics_notify_method, METH_VARARGS | METH_KEYWORDS,
           "notify($self, /, index, count=None)\n--\n\n"
           "Wake up to count sleepers (None: all); returns how many."),
    METHOD("close", atomics_close, METH_NOARGS,
           "close($self, /)\n--\n\nLet go of the buffer; BusyError while a call uses it."),
    METHOD("__enter__", atomics_enter, METH_NOARGS, NULL),
    METHOD("__exit__", atomics_exit, METH_FASTCALL, NULL),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"format", get_format, NULL, "'i', 'I', 'q' or 'Q', as struct has them.", NULL},
    {"itemsize", get_itemsize, NULL, "Bytes a word: 4 or 8.", NULL},
    {"readonly", get_readonly, NULL, "True if only load, wait and notify are allowed.", NULL},
    {"closed", get_closed, NULL, "True once close() has let go of the buffer.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Atomics(buffer, offset=0, count=None, format='i')\n--\n\n"
                "Words in shared memory, with the operations of ECMAScript's Atomics."},
    {Py_tp_new, atomics_new},
    {Py_tp_dealloc, atomics_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {Py_sq_length, atomics_length},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "rings._core.Atomics",
    .basicsize = sizeof(struct atomics),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int py_add_atomics(PyObject *module)
{
    return py_add_type(module, &spec);
}
