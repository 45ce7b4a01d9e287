/* The Producer and the Consumer of a message ring, as types.
 *
 * These are the public classes; a Python layer over them would double the cost of
 * a call.  What they do: py_spsc_put.c, py_spsc_get.c, py_spsc_end.c.
 */
#include "py_spsc.h"

static PyObject *finish_view(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct py_spsc *self = (struct py_spsc *)op;
    if (self->view == NULL)
        return py_raise("LocalProtocolError", self->producer ? "nothing is claimed: claim() first"
                                                             : "nothing is peeked: peek() first");
    PyObject *view = (PyObject *)self->view;
    Py_IncRef(view);
    PyObject *result = nargs == 0
                           ? PyObject_CallMethod(view, "publish", NULL)
                           : PyObject_CallMethod(view, "publish", "O", args[0]);
    Py_DecRef(view);
    return result;
}

static PyObject *leave(PyObject *op, PyObject *args)
{
    return spsc_close(op, NULL);
}

/* ---- the types ------------------------------------------------------------ */

static int bind_view_type(struct py_spsc *self)
{
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self));
    self->view_type = module == NULL ? NULL : PyObject_GetAttrString(module, "SpscView");
    return self->view_type == NULL ? -1 : 0;
}

static PyObject *new_end(PyTypeObject *type, PyObject *args, PyObject *kwargs, bool producer)
{
    PyObject *op = PyType_GenericAlloc(type, 0);
    if (op == NULL)
        return NULL;
    struct py_spsc *self = (struct py_spsc *)op;
    if (spsc_open(self, args, kwargs, producer) < 0 || bind_view_type(self) < 0) {
        Py_DecRef(op);
        return NULL;
    }
    return op;
}

static PyObject *new_producer(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return new_end(type, args, kwargs, true);
}

static PyObject *new_consumer(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return new_end(type, args, kwargs, false);
}

#define FAST(name, function, doc) \
    {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, doc}
#define COMMON_METHODS \
    {"arm", spsc_arm, METH_NOARGS, \
     "arm($self, /)\n--\n\nAsk for an event on fileno(); True: do not sleep, look again."}, \
    {"clear", spsc_clear, METH_NOARGS, "clear($self, /)\n--\n\nTake the event off fileno()."}, \
    {"close", spsc_close, METH_NOARGS, \
     "close($self, /)\n--\n\nGive the end back and wake the peer; a sleeper in another\n" \
     "thread gets ClosedError.  BusyError while a view is out."}, \
    {"fileno", spsc_fileno, METH_NOARGS, \
     "fileno($self, /)\n--\n\nThe eventfd that this end is woken by."}, \
    {"statistics", spsc_statistics, METH_NOARGS, \
     "statistics($self, /)\n--\n\nCounters of this handle and of the ring, as a dict."}, \
    {"reset_watermarks", spsc_reset_watermarks, METH_NOARGS, \
     "reset_watermarks($self, /)\n--\n\nForget high_water and low_water of statistics()."}, \
    FAST("wait_peer", spsc_wait_peer, \
         "wait_peer($self, timeout=None)\n--\n\nWait until a live process holds the other end,\n" \
         "or has left messages: its pid.  So a survivor waits for a successor."), \
    {"__enter__", spsc_enter, METH_NOARGS, NULL}, \
    {"__exit__", leave, METH_VARARGS, NULL}, {NULL}

static PyMethodDef producer_methods[] = {
    {"try_put", spsc_try_put, METH_O,
     "try_put($self, data, /)\n--\n\nStore one message; False if there is no room.  Never waits."},
    FAST("put", spsc_put,
         "put($self, data, timeout=None)\n--\n\nStore one message, waiting for room."),
    FAST("put_many", spsc_put_many,
         "put_many($self, data, timeout=0)\n--\n\nStore what fits of a list of messages or of one\n"
         "buffer of them; how many.  One publish, at most one event."),
    FAST("claim", spsc_claim,
         "claim($self, n=1, timeout=None)\n--\n\n"
         "Up to n free slots, or n bytes of a record, in place."),
    FAST("try_claim", spsc_try_claim,
         "try_claim($self, n=1)\n--\n\nThe same, or None if there is no room."),
    {"publish", (PyCFunction)(void (*)(void))finish_view, METH_FASTCALL,
     "publish($self, count=None, /)\n--\n\nMake what was claimed visible."},
    COMMON_METHODS,
};

static PyMethodDef consumer_methods[] = {
    {"try_get", spsc_try_get, METH_NOARGS,
     "try_get($self, /)\n--\n\nTake one message; None if there is none.  Never waits."},
    FAST("get", spsc_get, "get($self, timeout=None)\n--\n\nTake one message, waiting for it."),
    FAST("get_many", spsc_get_many,
         "get_many($self, max=None, timeout=0)\n--\n\nTake what is there, up to max, as a list."),
    FAST("get_into", spsc_get_into,
         "get_into($self, buffer, timeout=0)\n--\n\n"
         "Copy messages into a buffer: whole slots, or one\n"
         "record.  Bytes written; 0 if there was nothing."),
    FAST("peek", spsc_peek,
         "peek($self, n=1, timeout=None)\n--\n\nUp to n messages in place, until release()."),
    FAST("try_peek", spsc_try_peek,
         "try_peek($self, n=1)\n--\n\nThe same, or None if there is none."),
    {"release", (PyCFunction)(void (*)(void))finish_view, METH_FASTCALL,
     "release($self, count=None, /)\n--\n\nGive what was peeked back to the producer."},
    COMMON_METHODS,
};

static PyMemberDef members[] = {PY_WEAKREFS(struct py_spsc, weakrefs)};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, "Producer(buffer, notify_fd, wait_fd, *, spin_us=0, policy='block')\n--\n\n"
                "The end that puts.  Usually made by Ring.producer()."},
    {Py_tp_new, new_producer},
    {Py_tp_dealloc, spsc_dealloc},
    {Py_tp_methods, producer_methods},
    {Py_tp_getset, spsc_getset},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Slot consumer_slots[] = {
    {Py_tp_doc, "Consumer(buffer, notify_fd, wait_fd, *, spin_us=0, latest=False)\n--\n\n"
                "The end that gets.  Usually made by Ring.consumer().  Iterating takes\n"
                "messages until the producer closed its end."},
    {Py_tp_new, new_consumer},
    {Py_tp_dealloc, spsc_dealloc},
    {Py_tp_methods, consumer_methods},
    {Py_tp_getset, spsc_getset},
    {Py_tp_members, members},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, spsc_next},
    {0, NULL},
};

static PyType_Spec producer_spec = {
    .name = "rings._core.SpscProducer",
    .basicsize = sizeof(struct py_spsc),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = producer_slots,
};

static PyType_Spec consumer_spec = {
    .name = "rings._core.SpscConsumer",
    .basicsize = sizeof(struct py_spsc),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = consumer_slots,
};

int py_add_spsc(PyObject *module)
{
    if (py_add_spsc_view(module) < 0 || py_add_type(module, &producer_spec) < 0)
        return -1;
    return py_add_type(module, &consumer_spec);
}
