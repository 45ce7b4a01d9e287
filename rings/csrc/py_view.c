/* View: a range of a buffer that knows how many exports of it are alive.
 *
 * `memoryview.release()` succeeds while a slice, a cast or a numpy array of the
 * same bytes is still in use, so it cannot prove that nobody looks any more.
 * Here every export is taken and given back through the buffer protocol itself,
 * and `release()` is refused until the last one is gone.
 *
 * A *pin* keeps the bytes in use without an export: a request in flight names them.
 * Exports and pins are one word, so nothing can slip in beside a release.
 *
 * An export takes one of the underlying buffer with it; a View without exports
 * holds nothing but a reference, so it does not keep a mapping from being closed.
 */
#include "py.h"

#define RELEASED UINT64_MAX
#define ONE_EXPORT ((uint64_t)1)
#define ONE_PIN ((uint64_t)1 << 32)

struct view {
    PyObject_HEAD
    PyObject *base;
    Py_ssize_t offset;
    Py_ssize_t length;
    int readonly;
    shared_u64 uses; /* RELEASED, or pins << 32 | exports */
};

static bool count_use(struct view *view, uint64_t one)
{
    uint64_t uses = atomic_load(&view->uses);
    do {
        if (uses == RELEASED)
            return false;
    } while (!atomic_compare_exchange_weak(&view->uses, &uses, uses + one));
    return true;
}

static void uncount_export(struct view *view)
{
    atomic_fetch_sub(&view->uses, ONE_EXPORT);
}

/* False if there is no pin to take away. */
static bool uncount_pin(struct view *view)
{
    uint64_t uses = atomic_load(&view->uses);
    do {
        if (uses == RELEASED || uses < ONE_PIN)
            return false;
    } while (!atomic_compare_exchange_weak(&view->uses, &uses, uses - ONE_PIN));
    return true;
}

static uint32_t exports_of(struct view *view)
{
    uint64_t uses = atomic_load(&view->uses);
    return uses == RELEASED ? 0 : (uint32_t)uses;
}

static uint32_t pins_of(struct view *view)
{
    uint64_t uses = atomic_load(&view->uses);
    return uses == RELEASED ? 0 : (uint32_t)(uses >> 32);
}

static bool fits(const struct view *view, Py_ssize_t size)
{
    return view->offset <= size && view->length <= size - view->offset;
}

/* Take an export of the base into `held`. 0, or -1 with an error. */
static int hold_base(struct view *view, Py_buffer *held)
{
    int flags = view->readonly ? PyBUF_SIMPLE : PyBUF_WRITABLE;
    if (PyObject_GetBuffer(view->base, held, flags) < 0)
        return -1;
    if (fits(view, held->len))
        return 0;
    PyErr_Format(PyExc_ValueError, "bytes %zd..%zd lie outside a buffer of %zd",
                 view->offset, view->offset + view->length, held->len);
    PyBuffer_Release(held);
    return -1;
}

static int export_held(struct view *view, Py_buffer *out, int flags)
{
    Py_buffer *held = PyMem_Malloc(sizeof *held);
    if (held == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (hold_base(view, held) < 0) {
        PyMem_Free(held);
        return -1;
    }
    char *start = (char *)held->buf + view->offset;
    if (PyBuffer_FillInfo(out, (PyObject *)view, start, view->length, view->readonly,
                          flags) < 0) {
        PyBuffer_Release(held);
        PyMem_Free(held);
        return -1;
    }
    out->internal = held;
    return 0;
}

static int view_getbuffer(PyObject *self, Py_buffer *out, int flags)
{
    struct view *view = (struct view *)self;
    out->obj = NULL;
    if (!count_use(view, ONE_EXPORT)) {
        py_raise("ClosedError", "this view was released; ask its grant for no more bytes");
        return -1;
    }
    if (export_held(view, out, flags) == 0)
        return 0;
    uncount_export(view);
    return -1;
}

static void view_releasebuffer(PyObject *self, Py_buffer *out)
{
    Py_buffer *held = out->internal;
    PyBuffer_Release(held);
    PyMem_Free(held);
    uncount_export((struct view *)self);
}

static int parse_view(struct view *view, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "offset", "length", "readonly", NULL};
    PyObject *base;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn|p:View", names, &base,
                                     &view->offset, &view->length, &view->readonly))
        return -1;
    if (view->offset < 0 || view->length < 0) {
        PyErr_SetString(PyExc_ValueError, "offset and length must not be negative");
        return -1;
    }
    Py_IncRef(base);
    view->base = base;
    return 0;
}

static PyObject *view_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct view *view = (struct view *)alloc(type, 0);
    if (view == NULL)
        return NULL;
    Py_buffer held;
    if (parse_view(view, args, kwargs) < 0 || hold_base(view, &held) < 0) {
        Py_DECREF(view);
        return NULL;
    }
    PyBuffer_Release(&held);
    return (PyObject *)view;
}

static void view_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((struct view *)self)->base);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *view_release(PyObject *self, PyObject *ignored)
{
    struct view *view = (struct view *)self;
    uint64_t uses = 0;
    if (atomic_compare_exchange_strong(&view->uses, &uses, RELEASED) || uses == RELEASED)
        return py_none();
    if (uses >= ONE_PIN)
        return py_raise("BusyError",
                        "in flight, pinned %u time(s): wait for its requests or cancel "
                        "them first",
                        (unsigned)(uses >> 32));
    return py_raise("BusyError",
                    "%u view(s) of these bytes are still in use: release them "
                    "(memoryview.release(), del the array) first",
                    (unsigned)uses);
}

static void view_dealloc(PyObject *self);

bool py_view_pin(PyObject *view)
{
    /* A View is told by its destructor: the type is final, and each interpreter has its own. */
    if (PyType_GetSlot(Py_TYPE(view), Py_tp_dealloc) != (void *)view_dealloc)
        PyErr_SetString(PyExc_TypeError, "memory is named by a View of it");
    else if (count_use((struct view *)view, ONE_PIN))
        return true;
    else
        py_raise("ClosedError", "this grant was revoked: allocate another one");
    return false;
}

void py_view_unpin(PyObject *view)
{
    uncount_pin((struct view *)view);
}

static PyObject *view_pin(PyObject *self, PyObject *ignored)
{
    return py_view_pin(self) ? py_none() : NULL;
}

static PyObject *view_unpin(PyObject *self, PyObject *ignored)
{
    if (uncount_pin((struct view *)self))
        return py_none();
    return py_raise("LocalProtocolError", "this grant is not pinned: one unpin() a pin()");
}

static PyObject *view_exports(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLong(exports_of((struct view *)self));
}

static PyObject *view_pins(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLong(pins_of((struct view *)self));
}

static PyObject *view_released(PyObject *self, void *closure)
{
    return PyBool_FromLong(atomic_load(&((struct view *)self)->uses) == RELEASED);
}

static PyMethodDef view_methods[] = {
    {"release", view_release, METH_NOARGS,
     "Allow no more uses; BusyError while there is any."},
    {"pin", view_pin, METH_NOARGS, "Count one more request in flight that names the bytes."},
    {"unpin", view_unpin, METH_NOARGS, "Count one request less: it was answered."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef view_getset[] = {
    {"exports", view_exports, NULL, "How many exports of the bytes are alive.", NULL},
    {"pins", view_pins, NULL, "How many requests in flight name the bytes.", NULL},
    {"released", view_released, NULL, "Whether release() has been done.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_doc, "View(buffer, offset, length, readonly=False)\n--\n\n"
                "A range of a buffer, which counts the exports of itself."},
    {Py_tp_new, view_new},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_methods, view_methods},
    {Py_tp_getset, view_getset},
    {Py_bf_getbuffer, view_getbuffer},
    {Py_bf_releasebuffer, view_releasebuffer},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "rings._core.View",
    .basicsize = sizeof(struct view),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = view_slots,
};

int py_add_view(PyObject *module)
{
    return py_add_type(module, &view_spec);
}
