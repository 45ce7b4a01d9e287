/* View: a range of a buffer that knows how many exports of it are alive.
 *
 * `memoryview.release()` succeeds while a slice, a cast or a numpy array of the
 * same bytes is still in use, so it cannot prove that nobody looks any more.
 * Here every export is taken and given back through the buffer protocol itself,
 * and `release()` is refused until the last one is gone.
 *
 * An export takes one of the underlying buffer with it; a View without exports
 * holds nothing but a reference, so it does not keep a mapping from being closed.
 */
#include "py.h"

#define RELEASED (-1)

struct view {
    PyObject_HEAD
    PyObject *base;
    Py_ssize_t offset;
    Py_ssize_t length;
    int readonly;
    shared_u64 exports; /* RELEASED, or how many are alive */
};

static bool count_export(struct view *view)
{
    uint64_t count = atomic_load(&view->exports);
    do {
        if (count == (uint64_t)RELEASED)
            return false;
    } while (!atomic_compare_exchange_weak(&view->exports, &count, count + 1));
    return true;
}

static void uncount_export(struct view *view)
{
    atomic_fetch_sub(&view->exports, 1);
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
    if (!count_export(view)) {
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
    uint64_t count = 0;
    if (atomic_compare_exchange_strong(&view->exports, &count, (uint64_t)RELEASED) ||
        count == (uint64_t)RELEASED)
        return py_none();
    return py_raise("BusyError",
                    "%llu view(s) of these bytes are still in use: release them "
                    "(memoryview.release(), del the array) first",
                    (unsigned long long)count);
}

static PyObject *view_exports(PyObject *self, void *closure)
{
    uint64_t count = atomic_load(&((struct view *)self)->exports);
    return PyLong_FromUnsignedLongLong(count == (uint64_t)RELEASED ? 0 : count);
}

static PyObject *view_released(PyObject *self, void *closure)
{
    return PyBool_FromLong(atomic_load(&((struct view *)self)->exports) ==
                           (uint64_t)RELEASED);
}

static PyMethodDef view_methods[] = {
    {"release", view_release, METH_NOARGS,
     "Allow no more exports; BusyError while any is alive."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef view_getset[] = {
    {"exports", view_exports, NULL, "How many exports of the bytes are alive.", NULL},
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
