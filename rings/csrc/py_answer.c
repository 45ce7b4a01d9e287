/* Answer: what a request will be answered, and the memory that it keeps in use.
 *
 * Memory must not be taken back while the device may touch it.  So an answer pins what
 * its request names before that is published, and unpins it when it is *settled*: the
 * answer has come, and a thread with the GIL has seen it.  An answer that is never
 * settled leaves its pins: the device may still be at work there.
 *
 * All of it happens in C: no signal handler runs between a pin and its request.
 */
#include "py_front.h"

/* ---- pins: of one View, or of each in a tuple ---- */

static void unpin_first(PyObject *memory, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        py_view_unpin(PyTuple_GetItem(memory, i));
}

static bool pin_all(PyObject *memory)
{
    if (!PyTuple_Check(memory))
        return py_view_pin(memory);
    for (Py_ssize_t i = 0; i < PyTuple_Size(memory); i++)
        if (!py_view_pin(PyTuple_GetItem(memory, i))) {
            unpin_first(memory, i);
            return false;
        }
    return true;
}

static void unpin_all(PyObject *memory)
{
    if (PyTuple_Check(memory))
        unpin_first(memory, PyTuple_Size(memory));
    else
        py_view_unpin(memory);
}

/* ---- life ---- */

Answer *answer_make(PyTypeObject *type, PyObject *requester, const struct asked *asked,
                    PyObject *memory)
{
    if (memory != NULL && !pin_all(memory))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Answer *self = (Answer *)alloc(type, 0);
    if (self == NULL) {
        if (memory != NULL)
            unpin_all(memory);
        return NULL;
    }
    Py_XINCREF(requester);
    self->requester = requester;
    Py_XINCREF(memory);
    self->pinned = memory;
    self->op = (uint8_t)asked->op;
    self->offset = asked->offset;
    self->length = asked->length;
    return self;
}

void answer_settle(Answer *self)
{
    PyObject *memory = self->pinned;
    self->pinned = NULL;
    if (memory == NULL)
        return;
    unpin_all(memory);
    Py_DECREF(memory);
}

/* Answer(requester, op, offset, length): of nothing that was submitted. */
static PyObject *answer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *requester;
    unsigned long long offset, length;
    struct asked asked = {0};
    if (!PyArg_ParseTuple(args, "OIKK:Answer", &requester, &asked.op, &offset, &length))
        return NULL;
    asked.offset = offset;
    asked.length = length;
    return (PyObject *)answer_make(type, requester, &asked, NULL);
}

static int answer_traverse(Answer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->requester);
    Py_VISIT(self->pinned);
    return 0;
}

static int answer_clear(Answer *self)
{
    Py_CLEAR(self->requester);
    Py_CLEAR(self->pinned);
    return 0;
}

static void answer_dealloc(Answer *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    answer_clear(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* ---- facts ---- */

static PyObject *answer_get_done(Answer *self, void *ignored)
{
    return PyBool_FromLong(front_answer_done(&self->answer));
}

static PyObject *answer_get_value(Answer *self, void *ignored)
{
    return front_answer_done(&self->answer) ? PyLong_FromLongLong(self->answer.result) : py_none();
}

static PyGetSetDef answer_getset[] = {
    {"answered", (getter)answer_get_done, NULL, "Whether the answer has come.", NULL},
    {"value", (getter)answer_get_value, NULL, "Bytes, or minus an errno; None before.", NULL},
    {NULL},
};

static PyMemberDef answer_members[] = {
    {"_requester", T_OBJECT_EX, offsetof(Answer, requester), READONLY, NULL},
    {"id", T_ULONGLONG, offsetof(Answer, id), READONLY, "In the ring; 0: not submitted."},
    {"op", T_UBYTE, offsetof(Answer, op), READONLY, "One of layout.OP_*."},
    {"offset", T_ULONGLONG, offsetof(Answer, offset), READONLY, "Bytes on the device."},
    {"length", T_ULONGLONG, offsetof(Answer, length), READONLY, "Bytes asked for."},
    {NULL},
};

static PyType_Slot answer_slots[] = {
    {Py_tp_new, answer_new},
    {Py_tp_dealloc, answer_dealloc},
    {Py_tp_traverse, answer_traverse},
    {Py_tp_clear, answer_clear},
    {Py_tp_getset, answer_getset},
    {Py_tp_members, answer_members},
    {Py_tp_doc, "What a submitted request will be answered."},
    {0, NULL},
};

static PyType_Spec answer_spec = {
    .name = "rings._core.Answer",
    .basicsize = sizeof(Answer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = answer_slots,
};

int py_add_answer(PyObject *module)
{
    return py_add_type(module, &answer_spec);
}
