/* The memory of a claimed or peeked message, lent out for as long as it is there.
 *
 * Exports are counted: while anything (memoryview, numpy array) still points into
 * the slot, publish() and release() raise BusyError and nothing moves; once they
 * went through, no new export is given.  So no view ever sees the next message.
 */
#include "py_spsc.h"

PyObject *spsc_view_new(struct py_spsc *self, uint8_t *bytes, size_t length, uint32_t messages,
                        uint32_t units, uint32_t skipped)
{
    PyTypeObject *type = (PyTypeObject *)self->view_type;
    struct py_spsc_view *view = (struct py_spsc_view *)PyType_GenericAlloc(type, 0);
    if (view == NULL)
        return NULL;
    Py_IncRef((PyObject *)self);
    view->owner = self;
    view->bytes = bytes;
    view->length = (Py_ssize_t)length;
    view->messages = messages;
    view->units = units;
    view->skipped = skipped;
    view->read_only = !self->producer;
    view->lent = self->loans != NULL && spsc_goes_by_reference(&self->end, length);
    self->view = view;
    self->stops |= STOP_VIEW;
    return (PyObject *)view;
}

/* Release the memoryview that `with` gave out; arrays over it keep it exported. */
static void leave(struct py_spsc_view *view)
{
    if (view->entered == NULL)
        return;
    PyObject *done = PyObject_CallMethod(view->entered, "release", NULL);
    if (done == NULL)
        PyErr_Clear();
    else
        Py_CLEAR(view->entered);
    Py_XDECREF(done);
}

static int still_exported(struct py_spsc_view *view)
{
    if (view->exports == 0)
        return 0;
    py_raise("BusyError",
             "%zd view(s) still point into this message; delete or release() them first",
             view->exports);
    return -1;
}

static void detach(struct py_spsc_view *view)
{
    struct py_spsc *owner = view->owner;
    owner->view = NULL;
    owner->stops &= ~STOP_VIEW;
    if (view->lent)
        spsc_unlend(&owner->end, 1);
    view->owner = NULL;
    Py_DecRef((PyObject *)owner);
}

/* False, with an exception, if this view cannot be finished here and now. */
static bool finishable(struct py_spsc_view *view)
{
    if (view->owner == NULL) {
        py_raise("ClosedError", "this view is over: published, released or abandoned");
        return false;
    }
    if (view->owner->forks != py_fork_count() || view->owner->stops & STOP_BUSY)
        return spsc_refuse(view->owner);
    leave(view);
    return still_exported(view) == 0;
}

/* Units that `count` messages, or `count` bytes of one record, come to. */
static int64_t units_of(struct py_spsc_view *view, uint32_t count)
{
    struct spsc_end *end = &view->owner->end;
    bool bytes = end->records && view->owner->producer;
    uint64_t most = bytes ? (uint64_t)view->length : view->messages;
    if (count > most) {
        PyErr_Format(PyExc_ValueError, "the view holds %llu, not %u", (unsigned long long)most,
                     (unsigned)count);
        return -1;
    }
    if (!end->records)
        return count;
    if (!bytes)
        return count == 0 ? 0 : view->units;
    if (view->lent) {
        spsc_message_cut(end, end->index + view->skipped, count);
        return view->units;
    }
    spsc_record_mark(end, end->index + view->skipped, count, SPSC_MESSAGE);
    return view->skipped + spsc_record_units(count);
}

int spsc_view_finish(struct py_spsc_view *view, uint32_t count, bool all)
{
    if (!finishable(view))
        return -1;
    struct py_spsc *owner = view->owner;
    int64_t units = all ? view->units : units_of(view, count);
    if (units < 0)
        return -1;
    uint32_t messages = all || owner->end.records ? view->messages : count;
    bool tell = units != 0 && (owner->producer ? spsc_publish(&owner->end, (uint32_t)units)
                                               : spsc_release(&owner->end, (uint32_t)units));
    spsc_done(owner, messages, tell);
    view->lent = false;
    detach(view);
    return 0;
}

int spsc_view_abandon(struct py_spsc_view *view)
{
    if (view->owner == NULL)
        return 0;
    leave(view);
    if (still_exported(view) < 0)
        return -1;
    detach(view);
    return 0;
}

/* ---- the type ------------------------------------------------------------- */

static int get_buffer(PyObject *op, Py_buffer *buffer, int flags)
{
    struct py_spsc_view *view = (struct py_spsc_view *)op;
    buffer->obj = NULL;
    if (view->owner == NULL || view->owner->forks != py_fork_count()) {
        PyErr_SetString(PyExc_BufferError, "this view is over: its message was published, "
                                           "released or abandoned");
        return -1;
    }
    if (PyBuffer_FillInfo(buffer, op, view->bytes, view->length, view->read_only, flags) < 0)
        return -1;
    view->exports++;
    return 0;
}

static void release_buffer(PyObject *op, Py_buffer *buffer)
{
    ((struct py_spsc_view *)op)->exports--;
}

static int traverse(PyObject *op, visitproc visit, void *arg)
{
    struct py_spsc_view *view = (struct py_spsc_view *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(view->entered);
    return 0;
}

static int clear(PyObject *op)
{
    Py_CLEAR(((struct py_spsc_view *)op)->entered);
    return 0;
}

static void dealloc(PyObject *op)
{
    struct py_spsc_view *view = (struct py_spsc_view *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    clear(op);
    if (view->owner != NULL)
        detach(view);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

static PyObject *enter(PyObject *op, PyObject *ignored)
{
    struct py_spsc_view *view = (struct py_spsc_view *)op;
    if (view->entered != NULL)
        return py_raise("LocalProtocolError", "this view is entered already");
    view->entered = PyMemoryView_FromObject(op);
    if (view->entered != NULL)
        Py_IncRef(view->entered);
    return view->entered;
}

/* Without an error the message is published or released; with one, nothing moves. */
static PyObject *leave_with(PyObject *op, PyObject *args)
{
    struct py_spsc_view *view = (struct py_spsc_view *)op;
    PyObject *error, *value, *trace;
    if (!PyArg_ParseTuple(args, "OOO", &error, &value, &trace))
        return NULL;
    if (view->owner == NULL)
        return py_none();
    int rc = 0;
    if (error == Py_None)
        rc = spsc_view_finish(view, 0, true);
    else
        rc = spsc_view_abandon(view);
    return rc < 0 ? NULL : py_none();
}

static PyObject *finish(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct py_spsc_view *view = (struct py_spsc_view *)op;
    unsigned long count = 0;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "the argument is count (optional)");
        return NULL;
    }
    if (nargs == 1 && args[0] != Py_None) {
        count = PyLong_AsUnsignedLong(args[0]);
        if (PyErr_Occurred())
            return NULL;
    }
    if (count > UINT32_MAX)
        count = UINT32_MAX;
    bool all = nargs == 0 || args[0] == Py_None;
    return spsc_view_finish(view, (uint32_t)count, all) < 0 ? NULL : py_none();
}

static PyObject *abandon(PyObject *op, PyObject *ignored)
{
    struct py_spsc_view *view = (struct py_spsc_view *)op;
    return spsc_view_abandon(view) < 0 ? NULL : py_none();
}

static Py_ssize_t length(PyObject *op)
{
    return ((struct py_spsc_view *)op)->length;
}

static PyObject *get_exports(PyObject *op, void *ignored)
{
    return PyLong_FromSsize_t(((struct py_spsc_view *)op)->exports);
}

static PyObject *get_messages(PyObject *op, void *ignored)
{
    return PyLong_FromUnsignedLong(((struct py_spsc_view *)op)->messages);
}

static PyMethodDef methods[] = {
    {"publish", (PyCFunction)(void (*)(void))finish, METH_FASTCALL,
     "publish($self, count=None, /)\n--\n\n"
     "Make the claimed messages visible: all of them, the first "
     "`count`, or\nin a ring of records the first `count` bytes."},
    {"release", (PyCFunction)(void (*)(void))finish, METH_FASTCALL,
     "release($self, count=None, /)\n--\n\n"
     "Give the peeked messages back: all, or the first `count`."},
    {"abandon", abandon, METH_NOARGS,
     "abandon($self, /)\n--\n\nEnd the view; a claim is forgotten, a peeked message stays first."},
    {"__enter__", enter, METH_NOARGS, NULL},
    {"__exit__", leave_with, METH_VARARGS, NULL},
    {NULL},
};

static PyGetSetDef getset[] = {
    {"exports", get_exports, NULL, "Views that still point into the message.", NULL},
    {"messages", get_messages, NULL, "Messages in this view.", NULL},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Claimed or peeked messages in place; see Producer.claim, Consumer.peek."},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_sq_length, length},
    {Py_bf_getbuffer, get_buffer},
    {Py_bf_releasebuffer, release_buffer},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "rings._core.SpscView",
    .basicsize = sizeof(struct py_spsc_view),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int py_add_spsc_view(PyObject *module)
{
    return py_add_type(module, &spec);
}
