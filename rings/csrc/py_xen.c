/* FrontRing and BackRing, xen.h over any writable buffer: life and looks. */
#include "py_xen.h"

int ring_raise_broken(const Ring *self)
{
    py_raise("RemoteProtocolError",
             "the peer stored an impossible %s_prod, %u: this ring is dead; close it and "
             "connect again", self->end.is_front ? "rsp" : "req", end_bad_prod(&self->end));
    return -1;
}

int ring_enter(Ring *self)
{
    if (self->memory.obj == NULL)
        py_raise("ClosedError", "this ring is closed; make another over its memory");
    else if (self->busy)
        py_raise("BusyError", "this ring is inside another call; make one call at a time");
    else if (end_broken(&self->end))
        ring_raise_broken(self);
    else {
        self->busy = true;
        return 0;
    }
    return -1;
}

void ring_leave(Ring *self)
{
    uint32_t in_flight = end_in_flight(&self->end);
    if (in_flight > self->in_flight_peak)
        self->in_flight_peak = in_flight;
    self->busy = false;
}

/* ---- attach, close ----------------------------------------------------- */

struct options {
    PyObject *buffer;
    long long layout, slots, slot_size, response_size, offset, start;
    int initialise;
};

static int parse_options(PyObject *args, PyObject *keywords, struct options *options)
{
    static char *names[] = {"buffer", "layout", "slots", "slot_size", "response_size",
                            "offset", "start", "initialise", NULL};
    PyObject *response_size = Py_None;
    *options = (struct options){.layout = RING_PADDED};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$LLLOLLp:ring", names,
                                     &options->buffer, &options->layout, &options->slots,
                                     &options->slot_size, &response_size, &options->offset,
                                     &options->start, &options->initialise))
        return -1;
    options->response_size = options->slot_size;
    if (response_size != Py_None)
        options->response_size = PyLong_AsLongLong(response_size);
    return PyErr_Occurred() ? -1 : 0;
}

static int refuse(const char *format, long long value)
{
    PyErr_Format(PyExc_ValueError, format, value);
    return -1;
}

static int check_options(const struct options *options)
{
    if (options->layout != RING_XEN && options->layout != RING_PADDED)
        return refuse("layout must be layout.XEN or layout.PADDED, not %lld", options->layout);
    if (options->slots < 1 || options->slots > MAX_SLOTS ||
        !is_power_of_two((uint32_t)options->slots))
        return refuse("slots must be a power of two up to 65536, not %lld", options->slots);
    if (options->slot_size < 1 || options->slot_size > MAX_SLOT_SIZE)
        return refuse("slot_size must be in 1..4096, not %lld", options->slot_size);
    if (options->response_size < 1 || options->response_size > options->slot_size)
        return refuse("response_size must be in 1..slot_size, not %lld", options->response_size);
    if (options->offset < 0 || options->offset % 8)
        return refuse("offset must be a multiple of 8, not %lld", options->offset);
    if (options->start < 0 || options->start > UINT32_MAX)
        return refuse("start must be a u32, not %lld", options->start);
    return 0;
}

static int borrow_memory(Ring *self, PyObject *buffer)
{
    if (PyObject_GetBuffer(buffer, &self->memory, PyBUF_WRITABLE) == 0)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_BufferError))
        PyErr_SetString(PyExc_BufferError, "a ring needs contiguous memory that it may write: "
                                           "pass a writable buffer");
    return -1;
}

static int bind_ring(Ring *self, const struct options *options)
{
    long long header = (long long)xen_header_size(self->layout);
    long long needed = options->offset + header + options->slots * options->slot_size;
    if (self->memory.len < needed) {
        PyErr_Format(PyExc_ValueError,
                     "%lld slots of %lld bytes at offset %lld need a buffer of %lld bytes, not %zd",
                     options->slots, options->slot_size, options->offset, needed,
                     self->memory.len);
        return -1;
    }
    uint8_t *base = (uint8_t *)self->memory.buf + options->offset;
    if (!xen_bind(end_ring(&self->end), base, (size_t)(needed - options->offset), self->layout,
                  (uint32_t)options->slots, (uint32_t)options->slot_size)) {
        PyErr_SetString(PyExc_ValueError, "the ring's first byte must be 8-byte aligned in memory");
        return -1;
    }
    return 0;
}

static int attach(Ring *self, const struct options *options)
{
    struct xen_end *end = &self->end;
    uint32_t start = (uint32_t)options->start;
    self->layout = (enum ring_layout)options->layout;
    end->put_size = (uint32_t)(end->is_front ? options->slot_size : options->response_size);
    end->take_size = (uint32_t)(end->is_front ? options->response_size : options->slot_size);
    if (borrow_memory(self, options->buffer) < 0 || bind_ring(self, options) < 0)
        return -1;
    if (options->initialise)
        xen_init(end_ring(end), self->layout, start);
    end_attach(end, start);
    return 0;
}

static PyObject *make_ring(PyTypeObject *type, PyObject *args, PyObject *keywords, bool is_front)
{
    struct options options;
    if (parse_options(args, keywords, &options) < 0 || check_options(&options) < 0)
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Ring *self = (Ring *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->end.is_front = is_front;
    if (attach(self, &options) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyObject *front_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    return make_ring(type, args, keywords, true);
}

static PyObject *back_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    return make_ring(type, args, keywords, false);
}

static PyObject *ring_close(PyObject *op, PyObject *unused)
{
    Ring *self = (Ring *)op;
    if (self->busy)
        return py_raise("BusyError", "this ring is inside a call; close it afterwards");
    PyBuffer_Release(&self->memory);
    return py_none();
}

static PyObject *ring_self(PyObject *op, PyObject *unused)
{
    Py_IncRef(op);
    return op;
}

static int ring_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((Ring *)op)->memory.obj);
    return 0;
}

static int ring_clear(PyObject *op)
{
    PyBuffer_Release(&((Ring *)op)->memory);
    return 0;
}

static void ring_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    ring_clear(op);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

/* ---- properties -------------------------------------------------------- */

enum fact { CREDIT, IN_FLIGHT, UNSERVED, UNPUBLISHED, SLOTS, SLOT_SIZE, RESPONSE_SIZE, LAYOUT };

static uint32_t ring_fact(Ring *self, enum fact fact)
{
    struct xen_end *end = &self->end;
    switch (fact) {
    case CREDIT: return end_room(end);
    case IN_FLIGHT: return end_in_flight(end);
    case UNSERVED: return xen_back_unserved(&end->back);
    case UNPUBLISHED: return end_unpublished(end);
    case SLOTS: return end_ring(end)->nr_slots;
    case SLOT_SIZE: return end_ring(end)->slot_size;
    case RESPONSE_SIZE: return end->is_front ? end->take_size : end->put_size;
    default: return self->layout;
    }
}

static PyObject *get_fact(PyObject *op, void *fact)
{
    return PyLong_FromUnsignedLong(ring_fact((Ring *)op, (enum fact)(intptr_t)fact));
}

static PyObject *get_is_broken(PyObject *op, void *unused)
{
    return PyBool_FromLong(end_broken(&((Ring *)op)->end));
}

static PyObject *get_closed(PyObject *op, void *unused)
{
    return PyBool_FromLong(((Ring *)op)->memory.obj == NULL);
}

static PyObject *ring_statistics(PyObject *op, PyObject *unused)
{
    Ring *self = (Ring *)op;
    bool front = self->end.is_front;
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:I}",
                         "requests", front ? self->put : self->taken,
                         "responses", front ? self->taken : self->put,
                         "notifications_wanted", self->notified, "held_off", self->held_off,
                         "full", self->full, "in_flight_peak", self->in_flight_peak);
}

static PyObject *ring_repr(PyObject *op)
{
    Ring *self = (Ring *)op;
    const char *state = self->memory.obj == NULL ? "closed"
                        : end_broken(&self->end) ? "broken" : "open";
    return PyUnicode_FromFormat("<%s %s: %u slots of %u bytes, %u in flight>",
                                self->end.is_front ? "FrontRing" : "BackRing", state,
                                end_ring(&self->end)->nr_slots, end_ring(&self->end)->slot_size,
                                end_in_flight(&self->end));
}

/* ---- types ------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"put", ring_put, METH_O,
     "put($self, data, /)\n--\n\nCopy one record into a claimed slot; False when full."},
    {"put_many", ring_put_many, METH_O,
     "put_many($self, records, /)\n--\n\nPut as many as there is room for; how many."},
    {"publish", ring_publish, METH_NOARGS,
     "publish($self, /)\n--\n\nShow the peer what was put; True if it must be notified."},
    {"take", (PyCFunction)(void (*)(void))ring_take, METH_VARARGS | METH_KEYWORDS,
     "take($self, max=None)\n--\n\nCopy out what the peer published."},
    {"take_into", ring_take_into, METH_O,
     "take_into($self, buffer, /)\n--\n\nThe same into a writable buffer; how many."},
    {"final_check", ring_final_check, METH_NOARGS,
     "final_check($self, /)\n--\n\nAsk to be notified and look again: sleep only if False."},
    {"statistics", ring_statistics, METH_NOARGS,
     "statistics($self, /)\n--\n\nCounts since the ring was attached."},
    {"close", ring_close, METH_NOARGS,
     "close($self, /)\n--\n\nGive the buffer back; may be called again."},
    {"__enter__", ring_self, METH_NOARGS, NULL},
    {"__exit__", ring_close, METH_VARARGS, NULL},
    {NULL},
};

#define FACT(name, fact, doc) {name, get_fact, NULL, doc, (void *)(intptr_t)(fact)}
#define SHARED_PROPERTIES                                                                    \
    FACT("in_flight", IN_FLIGHT, "Requests this half has on its hands."),                    \
    FACT("unpublished", UNPUBLISHED, "Records put that the peer cannot see yet."),           \
    FACT("slots", SLOTS, "Slots of the ring."),                                              \
    FACT("slot_size", SLOT_SIZE, "Bytes of a slot and of a request."),                       \
    FACT("response_size", RESPONSE_SIZE, "Bytes of a response."),                            \
    FACT("layout", LAYOUT, "layout.XEN or layout.PADDED."),                                  \
    {"is_broken", get_is_broken, NULL, "True once the peer stored an impossible index."},    \
    {"closed", get_closed, NULL, "True after close()."},                                     \
    {NULL}

static PyGetSetDef front_properties[] = {
    FACT("credit", CREDIT, "Requests that may be put now."), SHARED_PROPERTIES};
static PyGetSetDef back_properties[] = {
    FACT("unserved", UNSERVED, "Requests taken and not answered."), SHARED_PROPERTIES};

#define RING_SLOTS(make, properties, doc)                                                    \
    {                                                                                        \
        {Py_tp_new, make}, {Py_tp_dealloc, ring_dealloc}, {Py_tp_traverse, ring_traverse},   \
        {Py_tp_clear, ring_clear}, {Py_tp_methods, methods}, {Py_tp_getset, properties},     \
        {Py_tp_repr, ring_repr}, {Py_tp_doc, doc}, {0, NULL},                                \
    }

static PyType_Slot front_slots[] = RING_SLOTS(
    front_new, front_properties, "The half that asks: puts requests, takes responses.");
static PyType_Slot back_slots[] = RING_SLOTS(
    back_new, back_properties, "The half that serves: takes requests, puts responses.");

#define RING_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE)
static PyType_Spec front_spec = {"rings._core.FrontRing", sizeof(Ring), 0, RING_FLAGS, front_slots};
static PyType_Spec back_spec = {"rings._core.BackRing", sizeof(Ring), 0, RING_FLAGS, back_slots};

int py_add_xen(PyObject *module)
{
    if (py_add_type(module, &front_spec) < 0)
        return -1;
    return py_add_type(module, &back_spec);
}
