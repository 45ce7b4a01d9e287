/* The calls of FrontRing and BackRing that move indices: put, publish, take. */
#include "py_xen.h"

/* Bytes of an argument: a bytes object is read in place, anything else lends a buffer. */
struct view {
    const char *bytes;
    Py_ssize_t size;
    Py_buffer buffer;
};

static int view_open(struct view *view, PyObject *object)
{
    view->buffer.obj = NULL;
    if (PyBytes_CheckExact(object)) {
        view->bytes = PyBytes_AsString(object);
        view->size = PyBytes_Size(object);
        return 0;
    }
    if (PyObject_GetBuffer(object, &view->buffer, PyBUF_SIMPLE) < 0)
        return -1;
    view->bytes = view->buffer.buf;
    view->size = view->buffer.len;
    return 0;
}

static void view_close(struct view *view)
{
    if (view->buffer.obj != NULL)
        PyBuffer_Release(&view->buffer);
}

static const char *put_noun(const Ring *self)
{
    return self->end.is_front ? "request" : "response";
}

static const char *take_noun(const Ring *self)
{
    return self->end.is_front ? "response" : "request";
}

/* ---- put, publish ------------------------------------------------------ */

/* How many of `wanted` may be put now, or -1 with an error. */
static int64_t ring_room(Ring *self, Py_ssize_t wanted)
{
    uint32_t room = end_room(&self->end);
    if (wanted <= (Py_ssize_t)room)
        return wanted;
    if (!self->end.is_front) {
        py_raise("LocalProtocolError",
                 "%zd responses put and %u requests unanswered: answer each request you "
                 "took once", wanted, room);
        return -1;
    }
    self->full++;
    return room;
}

static int check_size(const Ring *self, Py_ssize_t size)
{
    if (size == (Py_ssize_t)self->end.put_size)
        return 0;
    PyErr_Format(PyExc_ValueError, "a %s of this ring has %u bytes, not %zd", put_noun(self),
                 self->end.put_size, size);
    return -1;
}

static void place(Ring *self, const char *bytes)
{
    memcpy(end_claim(&self->end), bytes, self->end.put_size);
}

PyObject *ring_put(PyObject *op, PyObject *data)
{
    Ring *self = (Ring *)op;
    struct view view;
    if (view_open(&view, data) < 0)
        return NULL;
    int64_t room = -1;
    if (check_size(self, view.size) == 0 && ring_enter(self) == 0) {
        room = ring_room(self, 1);
        if (room == 1)
            place(self, view.bytes);
        ring_leave(self);
    }
    view_close(&view);
    return room < 0 ? NULL : PyBool_FromLong(room == 1);
}

/* Put the records that lie one after the other in a buffer. */
static int64_t put_buffer(Ring *self, PyObject *data)
{
    struct view view;
    if (view_open(&view, data) < 0)
        return -1;
    Py_ssize_t size = self->end.put_size;
    int64_t count = -1;
    if (view.size % size)
        PyErr_Format(PyExc_ValueError, "%zd bytes are not a whole number of %ss of %zd bytes",
                     view.size, put_noun(self), size);
    else
        count = ring_room(self, view.size / size);
    for (int64_t i = 0; i < count; i++)
        place(self, view.bytes + i * size);
    view_close(&view);
    return count;
}

static int put_item(Ring *self, PyObject *item)
{
    struct view view;
    if (view_open(&view, item) < 0)
        return -1;
    int rc = check_size(self, view.size);
    if (rc == 0)
        place(self, view.bytes);
    view_close(&view);
    return rc;
}

/* Put the items of a sequence; after an error none of them is claimed. */
static int64_t put_sequence(Ring *self, PyObject *data)
{
    PyObject *items = PySequence_Tuple(data);
    if (items == NULL)
        return -1;
    int64_t count = ring_room(self, PyTuple_Size(items));
    for (int64_t i = 0; i < count; i++)
        if (put_item(self, PyTuple_GetItem(items, i)) < 0) {
            end_unclaim(&self->end, (uint32_t)i);
            count = -1;
        }
    Py_DECREF(items);
    return count;
}

PyObject *ring_put_many(PyObject *op, PyObject *data)
{
    Ring *self = (Ring *)op;
    if (ring_enter(self) < 0)
        return NULL;
    int64_t count = PyObject_CheckBuffer(data) ? put_buffer(self, data)
                                               : put_sequence(self, data);
    ring_leave(self);
    return count < 0 ? NULL : PyLong_FromLongLong(count);
}

PyObject *ring_publish(PyObject *op, PyObject *unused)
{
    Ring *self = (Ring *)op;
    if (ring_enter(self) < 0)
        return NULL;
    uint32_t count = end_unpublished(&self->end);
    bool notify = end_publish(&self->end);
    self->put += count;
    if (count > 0)
        (*(notify ? &self->notified : &self->held_off))++;
    ring_leave(self);
    return PyBool_FromLong(notify);
}

/* ---- take -------------------------------------------------------------- */

/* How many to take: the ready ones, at most `max`; -1 with an error. */
static Py_ssize_t ring_ready(Ring *self, Py_ssize_t max)
{
    int64_t ready = end_ready(&self->end);
    if (ready < 0)
        return ring_raise_broken(self);
    return ready < max ? (Py_ssize_t)ready : max;
}

static void ring_release(Ring *self, Py_ssize_t count)
{
    end_release(&self->end, (uint32_t)count);
    self->taken += (uint64_t)count;
}

static PyObject *copy_out(Ring *self, Py_ssize_t n)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, self->end.take_size);
    if (bytes != NULL)
        end_copy(&self->end, (uint32_t)n, PyBytes_AsString(bytes));
    return bytes;
}

static PyObject *take_list(Ring *self, Py_ssize_t max)
{
    Py_ssize_t count = ring_ready(self, max);
    PyObject *list = count < 0 ? NULL : PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *bytes = copy_out(self, i);
        if (bytes == NULL)
            Py_CLEAR(list);
        else
            PyList_SetItem(list, i, bytes);
    }
    if (list != NULL)
        ring_release(self, count);
    return list;
}

/* `max` of take(): None is no limit.  -1 with an error. */
static Py_ssize_t parse_max(PyObject *args, PyObject *keywords)
{
    static char *names[] = {"max", NULL};
    PyObject *max = Py_None;
    if (keywords == NULL && PyTuple_Size(args) == 0)
        return PY_SSIZE_T_MAX;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O:take", names, &max))
        return -1;
    if (max == Py_None)
        return PY_SSIZE_T_MAX;
    Py_ssize_t limit = PyNumber_AsSsize_t(max, PyExc_OverflowError);
    if (limit < 0 && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "max must be None or 0 and more, not %zd", limit);
    return limit;
}

PyObject *ring_take(PyObject *op, PyObject *args, PyObject *keywords)
{
    Ring *self = (Ring *)op;
    Py_ssize_t max = parse_max(args, keywords);
    if (max < 0 || ring_enter(self) < 0)
        return NULL;
    PyObject *list = take_list(self, max);
    ring_leave(self);
    return list;
}

static Py_ssize_t take_buffer(Ring *self, char *out, Py_ssize_t size)
{
    Py_ssize_t each = self->end.take_size;
    if (size % each) {
        PyErr_Format(PyExc_ValueError, "%zd bytes do not hold a whole number of %ss of %zd bytes",
                     size, take_noun(self), each);
        return -1;
    }
    Py_ssize_t count = ring_ready(self, size / each);
    for (Py_ssize_t i = 0; i < count; i++)
        end_copy(&self->end, (uint32_t)i, out + i * each);
    if (count > 0)
        ring_release(self, count);
    return count;
}

PyObject *ring_take_into(PyObject *op, PyObject *target)
{
    Ring *self = (Ring *)op;
    Py_buffer out;
    if (PyObject_GetBuffer(target, &out, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t count = -1;
    if (ring_enter(self) == 0) {
        count = take_buffer(self, out.buf, out.len);
        ring_leave(self);
    }
    PyBuffer_Release(&out);
    return count < 0 ? NULL : PyLong_FromSsize_t(count);
}

PyObject *ring_final_check(PyObject *op, PyObject *unused)
{
    Ring *self = (Ring *)op;
    if (ring_enter(self) < 0)
        return NULL;
    int64_t ready = end_final_check(&self->end);
    ring_leave(self);
    if (ready < 0)
        ring_raise_broken(self);
    return ready < 0 ? NULL : PyBool_FromLong(ready > 0);
}
