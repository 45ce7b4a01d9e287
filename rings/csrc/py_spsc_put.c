/* What the producer does: put, batches of it, and claims in place. */
#include "py_spsc.h"

/* ---- the bytes of a message that somebody handed in ----------------------- */

struct source {
    char *bytes;
    Py_ssize_t length;
    Py_buffer buffer; /* obj NULL for bytes, which need no export */
};

static inline bool open_source(PyObject *data, struct source *source)
{
    source->buffer.obj = NULL;
    if (PyBytes_CheckExact(data))
        return PyBytes_AsStringAndSize(data, &source->bytes, &source->length) == 0;
    if (PyObject_GetBuffer(data, &source->buffer, PyBUF_SIMPLE) < 0)
        return false;
    source->bytes = source->buffer.buf;
    source->length = source->buffer.len;
    return true;
}

static inline void close_source(struct source *source)
{
    if (source->buffer.obj != NULL)
        PyBuffer_Release(&source->buffer);
}

/* Units that a message takes at `index`; 0, with an exception, if it never fits. */
static inline uint32_t units_for(struct py_spsc *self, uint32_t index, Py_ssize_t length)
{
    if (!self->end.records)
        return (size_t)length == self->end.unit_size ? 1 : spsc_refuse_length(self, length);
    if (__builtin_expect(!spsc_goes_by_reference(&self->end, (uint64_t)length), 1))
        return spsc_record_need(&self->end, index, (uint64_t)length);
    if ((uint64_t)length > spsc_max_size(&self->end))
        return spsc_refuse_length(self, length);
    return spsc_message_need(&self->end, index, (uint64_t)length);
}

/* ---- put ------------------------------------------------------------------ */

static inline void store(struct py_spsc *self, uint32_t index, const struct source *source)
{
    uint8_t *slot = self->end.records
                        ? spsc_message_claim(&self->end, index, (uint64_t)source->length)
                        : spsc_unit(&self->end, index);
    spsc_move(self, slot, source->bytes, (size_t)source->length);
}

static inline void store_and_publish(struct py_spsc *self, const struct source *source,
                                     uint32_t units)
{
    store(self, self->end.index, source);
    spsc_done(self, 1, spsc_publish(&self->end, units));
}

/* 1 stored, 0 no room, -1 with an exception. */
static inline int put_now(struct py_spsc *self, const struct source *source, uint32_t *units)
{
    if (!spsc_usable(self))
        return -1;
    *units = units_for(self, self->end.index, source->length);
    if (*units == 0)
        return -1;
    int fits = spsc_message_fits(&self->end, self->end.index, *units, (uint64_t)source->length);
    if (fits > 0)
        store_and_publish(self, source, *units);
    else if (fits < 0)
        spsc_raise_broken(self);
    return fits;
}

PyObject *spsc_try_put(PyObject *op, PyObject *data)
{
    struct py_spsc *self = (struct py_spsc *)op;
    struct source source;
    uint32_t units;
    if (!open_source(data, &source))
        return NULL;
    int stored = put_now(self, &source, &units);
    close_source(&source);
    return stored < 0 ? NULL : PyBool_FromLong(stored);
}

/* Sleep until a message of this length, which needs so many units, has room. */
static int sleep_for_room(struct py_spsc *self, uint32_t units, uint64_t length,
                          PyObject *timeout_s)
{
    self->want_length = length;
    int there = spsc_sleep(self, units, timeout_s);
    self->want_length = 0;
    return there;
}

static int put_later(struct py_spsc *self, const struct source *source, uint32_t units,
                     PyObject *timeout_s)
{
    if (self->policy == POLICY_DROP_NEW) {
        atomic_fetch_add_explicit(&self->mine->lost, 1, memory_order_relaxed);
        return 0;
    }
    int there = self->policy == POLICY_ERROR
                    ? 0
                    : sleep_for_room(self, units, (uint64_t)source->length, timeout_s);
    if (there == 0)
        spsc_raise_timeout(self);
    if (there <= 0)
        return -1;
    store_and_publish(self, source, units);
    return 1;
}

PyObject *spsc_put(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"data", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    struct source source;
    uint32_t units;
    if (!py_arguments(names, 1, given, args, nargs, kwnames) ||
        !open_source(given[0], &source))
        return NULL;
    int stored = put_now(self, &source, &units);
    if (stored == 0)
        stored = put_later(self, &source, units, given[1]);
    close_source(&source);
    return stored < 0 ? NULL : PyBool_FromLong(stored);
}

/* ---- batches of the producer ---------------------------------------------- */

static int refuse_batch(const struct py_spsc *self, Py_ssize_t length)
{
    if (self->end.records)
        PyErr_SetString(PyExc_TypeError, "a ring of records takes a list of messages; one "
                                         "buffer does not say where they end");
    else
        PyErr_Format(PyExc_ValueError, "%zd bytes are not a whole number of messages of %u bytes",
                     length, (unsigned)self->end.unit_size);
    return -1;
}

static int64_t put_buffer(struct py_spsc *self, const struct source *source)
{
    if (!spsc_usable(self))
        return -1;
    uint32_t size = self->end.unit_size;
    if (self->end.records || (size_t)source->length % size != 0)
        return refuse_batch(self, source->length);
    uint64_t count = (size_t)source->length / size;
    uint32_t want = count < self->end.units ? (uint32_t)count : self->end.units;
    int64_t room = spsc_room(&self->end, want);
    if (room < 0)
        return spsc_raise_broken(self), -1;
    if (room < want)
        want = (uint32_t)room;
    if (want == 0)
        return 0;
    uint32_t run = spsc_run(&self->end, self->end.index);
    size_t first = (size_t)(want < run ? want : run) * size;
    spsc_move(self, spsc_unit(&self->end, self->end.index), source->bytes, first);
    spsc_move(self, self->end.data, source->bytes + first, (size_t)want * size - first);
    spsc_done(self, want, spsc_publish(&self->end, want));
    return want;
}

struct batch {
    uint32_t units; /* filled, not yet published */
    uint32_t count;
    uint32_t lent; /* of these, by reference */
};

/* Fill in one message of a list: 1 done, 0 no room, -1 with an exception. */
static int put_item(struct py_spsc *self, PyObject *item, struct batch *batch)
{
    struct source source;
    Py_IncRef(item);
    int done = open_source(item, &source) ? 0 : -1;
    if (done == 0) {
        uint32_t index = self->end.index + batch->units;
        uint32_t units = units_for(self, index, source.length);
        done = units == 0 ? -1
                          : spsc_message_fits(&self->end, index, units, (uint64_t)source.length);
        if (done > 0) {
            store(self, index, &source);
            batch->units += units;
            batch->count++;
            batch->lent += spsc_goes_by_reference(&self->end, (uint64_t)source.length);
        }
        close_source(&source);
    }
    Py_DecRef(item);
    if (self->end.broken)
        spsc_raise_broken(self);
    return done;
}

/* All of the list that fits, or nothing if one of those cannot be a message.  Another
 * object's buffer method may run Python: STOP_BUSY keeps it out of this end. */
static int64_t put_list(struct py_spsc *self, PyObject *list)
{
    struct batch batch = {0, 0, 0};
    int done = 1;
    if (!spsc_usable(self))
        return -1;
    self->stops |= STOP_BUSY;
    bool tuple = PyTuple_Check(list);
    for (Py_ssize_t i = 0; done > 0; i++) {
        if (i >= (tuple ? PyTuple_Size(list) : PyList_Size(list)))
            break;
        done = put_item(self, tuple ? PyTuple_GetItem(list, i) : PyList_GetItem(list, i), &batch);
        self->stops |= STOP_BUSY;
    }
    self->stops &= ~STOP_BUSY;
    if (done < 0) {
        if (batch.lent != 0)
            spsc_unlend(&self->end, batch.lent);
        return -1;
    }
    if (batch.count > 0)
        spsc_done(self, batch.count, spsc_publish(&self->end, batch.units));
    return batch.count;
}

static int64_t put_any(struct py_spsc *self, PyObject *data)
{
    struct source source;
    if (PyList_Check(data) || PyTuple_Check(data))
        return put_list(self, data);
    if (!PyObject_CheckBuffer(data)) {
        PyErr_SetString(PyExc_TypeError,
                        "put_many takes a list or tuple of messages, or one contiguous buffer");
        return -1;
    }
    if (!open_source(data, &source))
        return -1;
    int64_t count = put_buffer(self, &source);
    close_source(&source);
    return count;
}

static Py_ssize_t how_many(PyObject *data)
{
    Py_ssize_t count = PyObject_Size(data);
    PyErr_Clear();
    return count;
}

PyObject *spsc_put_many(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"data", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    if (!py_arguments(names, 1, given, args, nargs, kwnames))
        return NULL;
    int64_t count = put_any(self, given[0]);
    if (count == 0 && spsc_waits(given[1]) && how_many(given[0]) > 0) {
        /* A record's need depends on where it goes: half the ring is enough for any. */
        uint32_t want = self->end.records ? self->end.units : 1;
        int there = spsc_sleep(self, want, given[1]);
        count = there <= 0 ? there : put_any(self, given[0]);
    }
    return count < 0 ? NULL : PyLong_FromLongLong(count);
}

/* ---- claims in place ------------------------------------------------------ */

static PyObject *claim_units(struct py_spsc *self, uint32_t count, uint32_t units)
{
    struct spsc_end *end = &self->end;
    if (!end->records) {
        uint32_t want = count < end->units ? count : end->units;
        uint32_t n = spsc_piece(self, want, spsc_room(end, want));
        return spsc_view_new(self, spsc_unit(end, end->index), (size_t)n * end->unit_size, n, n, 0);
    }
    bool refers = spsc_goes_by_reference(end, count);
    uint64_t length = refers ? sizeof(struct spsc_reference) : count;
    uint8_t *bytes = spsc_message_claim(end, end->index, count);
    return spsc_view_new(self, bytes, count, 1, units, units - spsc_record_units(length));
}

static PyObject *claim_any(struct py_spsc *self, PyObject *given, bool wait, PyObject *timeout_s)
{
    uint32_t count;
    if (!spsc_parse_count(given, &count) || !spsc_usable(self))
        return NULL;
    uint32_t units = self->end.records ? units_for(self, self->end.index, count) : 1;
    if (units == 0)
        return NULL;
    uint64_t length = self->end.records ? count : 0;
    int there = spsc_message_fits(&self->end, self->end.index, units, length);
    if (there < 0)
        return spsc_raise_broken(self);
    if (!there && wait)
        there = sleep_for_room(self, units, length, timeout_s);
    if (there > 0)
        return claim_units(self, count, units);
    if (there == 0 && wait)
        spsc_raise_timeout(self);
    return there < 0 || wait ? NULL : py_none();
}

PyObject *spsc_claim(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"n", "timeout"};
    PyObject *given[2];
    if (!py_arguments(names, 0, given, args, nargs, kwnames))
        return NULL;
    return claim_any((struct py_spsc *)op, given[0], true, given[1]);
}

PyObject *spsc_try_claim(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const char *const names[2] = {"n", NULL};
    PyObject *given[2];
    if (!py_arguments(names, 0, given, args, nargs, kwnames))
        return NULL;
    return claim_any((struct py_spsc *)op, given[0], false, NULL);
}
