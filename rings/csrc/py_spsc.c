/* The Producer and the Consumer of a message ring: the calls users make.
 *
 * These types are the public classes; a Python layer over them would double the
 * cost of a call.  Reading order: store/put, load/get, batches, views, types.
 */
#include "py_spsc.h"

/* ---- the bytes of a message that somebody handed in ---------------------------- */

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

static uint32_t refuse_length(const struct py_spsc *self, Py_ssize_t length)
{
    if (self->end.records)
        PyErr_Format(PyExc_ValueError,
                     "a message of %zd bytes cannot fit: this ring takes up to %llu, half its "
                     "size; create it with more ring_bytes", length,
                     (unsigned long long)spsc_longest(&self->end));
    else
        PyErr_Format(PyExc_ValueError,
                     "a message of this ring is exactly %u bytes, not %zd; pad it, or create "
                     "the ring with ring_bytes= for messages of any length",
                     (unsigned)self->end.unit_size, length);
    return 0;
}

/* Units that a message takes at `index`; 0, with an exception, if it never fits. */
static inline uint32_t units_for(struct py_spsc *self, uint32_t index, Py_ssize_t length)
{
    if (!self->end.records)
        return (size_t)length == self->end.unit_size ? 1 : refuse_length(self, length);
    if ((uint64_t)length > spsc_longest(&self->end))
        return refuse_length(self, length);
    return spsc_record_need(&self->end, index, (uint64_t)length);
}

/* ---- put -------------------------------------------------------------------------- */

static inline void store(struct py_spsc *self, uint32_t index, const struct source *source)
{
    uint8_t *slot = self->end.records
                        ? spsc_record_claim(&self->end, index, (uint32_t)source->length)
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
    int64_t room = spsc_room(&self->end, *units);
    if (room < 0)
        return spsc_raise_broken(self), -1;
    if (room < *units)
        return 0;
    store_and_publish(self, source, *units);
    return 1;
}

static PyObject *try_put(PyObject *op, PyObject *data)
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

static int put_later(struct py_spsc *self, const struct source *source, uint32_t units,
                     PyObject *timeout_s)
{
    if (self->policy == POLICY_DROP_NEW) {
        atomic_fetch_add_explicit(&self->mine->lost, 1, memory_order_relaxed);
        return 0;
    }
    int there = self->policy == POLICY_ERROR ? 0 : spsc_sleep(self, units, timeout_s);
    if (there == 0)
        spsc_raise_timeout(self);
    if (there <= 0)
        return -1;
    store_and_publish(self, source, units);
    return 1;
}

static PyObject *put(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"data", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    struct source source;
    uint32_t units;
    if (!spsc_arguments(names, 1, given, args, nargs, kwnames) ||
        !open_source(given[0], &source))
        return NULL;
    int stored = put_now(self, &source, &units);
    if (stored == 0)
        stored = put_later(self, &source, units, given[1]);
    close_source(&source);
    return stored < 0 ? NULL : PyBool_FromLong(stored);
}

/* ---- get ---------------------------------------------------------------------------- */

/* A new bytes object; copied without the GIL if it is big. */
static inline PyObject *to_bytes(struct py_spsc *self, const uint8_t *from, size_t size)
{
    if (size <= BIG_COPY)
        return PyBytes_FromStringAndSize((const char *)from, (Py_ssize_t)size);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes != NULL)
        spsc_move(self, PyBytes_AsString(bytes), from, size);
    return bytes;
}

/* Find the message at `index`, of `ready` units; false, with an exception, if broken. */
static inline bool find(struct py_spsc *self, uint32_t index, uint32_t ready,
                        struct spsc_found *found)
{
    if (self->end.records) {
        if (spsc_record_find(&self->end, index, ready, found))
            return true;
        spsc_raise_broken(self);
        return false;
    }
    *found = (struct spsc_found){spsc_unit(&self->end, index), self->end.unit_size, 1};
    return true;
}

static inline PyObject *take(struct py_spsc *self, int64_t ready)
{
    struct spsc_found found;
    if ((uint64_t)ready > self->high_water)
        self->high_water = (uint64_t)ready;
    if (!find(self, self->end.index, (uint32_t)ready, &found))
        return NULL;
    PyObject *bytes = to_bytes(self, found.bytes, found.length);
    if (bytes != NULL)
        spsc_done(self, 1, spsc_release(&self->end, found.units));
    return bytes;
}

/* Units ready; 0 none, -1 with an exception. */
static inline int64_t ready_now(struct py_spsc *self, uint32_t want)
{
    if (!spsc_usable(self))
        return -1;
    int64_t ready = spsc_ready(&self->end, want);
    if (ready < 0)
        spsc_raise_broken(self);
    return ready;
}

/* The same, asleep until there is one: 0 when the time is up. */
static inline int64_t ready_later(struct py_spsc *self, uint32_t want, PyObject *timeout_s)
{
    int64_t ready = ready_now(self, want);
    if (ready != 0)
        return ready;
    int there = spsc_sleep(self, 1, timeout_s);
    return there <= 0 ? there : spsc_ready(&self->end, want);
}

static PyObject *try_get(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    int64_t ready = ready_now(self, 1);
    if (ready > 0)
        return take(self, ready);
    return ready < 0 ? NULL : py_none();
}

static PyObject *get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"timeout", NULL};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    if (!spsc_arguments(names, 0, given, args, nargs, kwnames))
        return NULL;
    int64_t ready = ready_later(self, 1, given[0]);
    if (ready > 0)
        return take(self, ready);
    if (ready == 0)
        spsc_raise_timeout(self);
    return NULL;
}

/* ---- batches of the producer ------------------------------------------------------------ */

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
        int64_t room = units == 0 ? -1 : spsc_room(&self->end, batch->units + units);
        if (room >= (int64_t)batch->units + units) {
            store(self, index, &source);
            batch->units += units;
            batch->count++;
            done = 1;
        } else if (room < 0) {
            done = -1;
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
    struct batch batch = {0, 0};
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
    if (done < 0)
        return -1;
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

/* A timeout that is missing is 0: batches never wait unless asked to. */
static bool waits(PyObject *timeout_s)
{
    return timeout_s != NULL;
}

static PyObject *put_many(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"data", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    if (!spsc_arguments(names, 1, given, args, nargs, kwnames))
        return NULL;
    int64_t count = put_any(self, given[0]);
    if (count == 0 && waits(given[1]) && how_many(given[0]) > 0) {
        /* A record's need depends on where it goes: half the ring is enough for any. */
        uint32_t want = self->end.records ? self->end.units : 1;
        int there = spsc_sleep(self, want, given[1]);
        count = there <= 0 ? there : put_any(self, given[0]);
    }
    return count < 0 ? NULL : PyLong_FromLongLong(count);
}

/* ---- batches of the consumer --------------------------------------------------------------- */

static PyObject *take_list(struct py_spsc *self, uint32_t ready, Py_ssize_t max)
{
    struct spsc_found found;
    uint32_t units = 0, count = 0;
    bool fine = true;
    Py_ssize_t expected = self->end.records ? 0 : (Py_ssize_t)ready < max ? (Py_ssize_t)ready : max;
    self->stops |= STOP_BUSY; /* a garbage collection may run Python */
    PyObject *list = PyList_New(expected);
    while (list != NULL && fine && units < ready && (Py_ssize_t)count < max) {
        uint32_t index = self->end.index + units;
        PyObject *bytes = find(self, index, ready - units, &found)
                              ? PyBytes_FromStringAndSize((const char *)found.bytes, found.length)
                              : NULL;
        fine = bytes != NULL;
        if (fine && expected != 0)
            PyList_SetItem(list, count, bytes);
        else if (fine) {
            fine = PyList_Append(list, bytes) == 0;
            Py_DecRef(bytes);
        }
        count += fine;
        units += fine ? found.units : 0;
    }
    self->stops &= ~STOP_BUSY;
    if (list == NULL || !fine) {
        Py_XDECREF(list);
        return NULL;
    }
    if (units > 0)
        spsc_done(self, count, spsc_release(&self->end, units));
    return list;
}

static bool parse_max(PyObject *given, Py_ssize_t *max)
{
    *max = PY_SSIZE_T_MAX;
    if (given == NULL || given == Py_None)
        return true;
    *max = PyLong_AsSsize_t(given);
    if (*max >= 0 || PyErr_Occurred())
        return !PyErr_Occurred();
    PyErr_Format(PyExc_ValueError, "max must be None or at least 0, not %zd", *max);
    return false;
}

static PyObject *get_many(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"max", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    Py_ssize_t max;
    if (!spsc_arguments(names, 0, given, args, nargs, kwnames) || !parse_max(given[0], &max))
        return NULL;
    uint32_t want = max < (Py_ssize_t)self->end.units ? (uint32_t)max : self->end.units;
    if (want == 0 || self->end.records)
        want = self->end.units;
    int64_t ready = waits(given[1]) ? ready_later(self, want, given[1]) : ready_now(self, want);
    if (ready < 0)
        return NULL;
    if ((uint64_t)ready > self->high_water)
        self->high_water = (uint64_t)ready;
    return take_list(self, (uint32_t)ready, max);
}

/* Bytes copied; -1 with an exception. */
static Py_ssize_t copy_slots(struct py_spsc *self, uint32_t ready, uint8_t *to, size_t space)
{
    uint32_t size = self->end.unit_size;
    uint64_t fit = space / size;
    uint32_t count = fit < ready ? (uint32_t)fit : ready;
    uint32_t run = spsc_run(&self->end, self->end.index);
    size_t first = (size_t)(count < run ? count : run) * size;
    spsc_move(self, to, spsc_unit(&self->end, self->end.index), first);
    spsc_move(self, to + first, self->end.data, (size_t)count * size - first);
    if (count > 0)
        spsc_done(self, count, spsc_release(&self->end, count));
    return (Py_ssize_t)((size_t)count * size);
}

static Py_ssize_t copy_record(struct py_spsc *self, uint32_t ready, uint8_t *to, size_t space)
{
    struct spsc_found found;
    if (!find(self, self->end.index, ready, &found))
        return -1;
    if (found.length > space) {
        PyErr_Format(PyExc_ValueError, "the message has %u bytes and the buffer only %zu; it "
                                       "stays first in the ring", (unsigned)found.length, space);
        return -1;
    }
    spsc_move(self, to, found.bytes, found.length);
    spsc_done(self, 1, spsc_release(&self->end, found.units));
    return (Py_ssize_t)found.length;
}

static Py_ssize_t copy_into(struct py_spsc *self, Py_buffer *into, PyObject *timeout_s)
{
    uint32_t size = self->end.unit_size;
    uint64_t fit = (size_t)into->len / size;
    uint32_t want = self->end.records || fit == 0 ? 1
                    : fit < self->end.units       ? (uint32_t)fit
                                                  : self->end.units;
    if (fit == 0 && !self->end.records)
        return refuse_length(self, into->len), -1;
    int64_t ready = waits(timeout_s) ? ready_later(self, want, timeout_s) : ready_now(self, want);
    if (ready <= 0)
        return (Py_ssize_t)ready;
    if ((uint64_t)ready > self->high_water)
        self->high_water = (uint64_t)ready;
    if (self->end.records)
        return copy_record(self, (uint32_t)ready, into->buf, (size_t)into->len);
    return copy_slots(self, (uint32_t)ready, into->buf, (size_t)into->len);
}

static PyObject *get_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"buffer", "timeout"};
    PyObject *given[2];
    Py_buffer into;
    if (!spsc_arguments(names, 1, given, args, nargs, kwnames) ||
        PyObject_GetBuffer(given[0], &into, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t copied = copy_into((struct py_spsc *)op, &into, given[1]);
    PyBuffer_Release(&into);
    return copied < 0 ? NULL : PyLong_FromSsize_t(copied);
}

/* ---- views ---------------------------------------------------------------------------------- */

static bool parse_count(PyObject *given, uint32_t *count)
{
    *count = 1;
    if (given == NULL)
        return true;
    unsigned long value = PyLong_AsUnsignedLong(given);
    if (PyErr_Occurred())
        return false;
    if (value == 0 || value > 1ul << 31) {
        PyErr_Format(PyExc_ValueError, "ask for 1 to %lu, not %lu", 1ul << 31, value);
        return false;
    }
    *count = (uint32_t)value;
    return true;
}

/* Slots in one piece: at most `count`, the ring's rest, and what is there. */
static uint32_t piece(struct py_spsc *self, uint32_t count, int64_t there)
{
    uint32_t run = spsc_run(&self->end, self->end.index);
    uint32_t most = count < run ? count : run;
    return there < most ? (uint32_t)there : most;
}

static PyObject *claim_units(struct py_spsc *self, uint32_t count, uint32_t units)
{
    struct spsc_end *end = &self->end;
    if (!end->records) {
        uint32_t n = piece(self, count, spsc_room(end, count < end->units ? count : end->units));
        return spsc_view_new(self, spsc_unit(end, end->index), (size_t)n * end->unit_size, n, n, 0);
    }
    uint8_t *bytes = spsc_record_claim(end, end->index, count);
    return spsc_view_new(self, bytes, count, 1, units, units - spsc_record_units(count));
}

static PyObject *claim_any(struct py_spsc *self, PyObject *given, bool wait, PyObject *timeout_s)
{
    uint32_t count;
    if (!parse_count(given, &count) || !spsc_usable(self))
        return NULL;
    uint32_t units = self->end.records ? units_for(self, self->end.index, count) : 1;
    if (units == 0)
        return NULL;
    int64_t room = spsc_room(&self->end, units);
    if (room < 0)
        return spsc_raise_broken(self);
    int there = room >= units;
    if (!there && wait)
        there = spsc_sleep(self, units, timeout_s);
    if (there > 0)
        return claim_units(self, count, units);
    if (there == 0 && wait)
        spsc_raise_timeout(self);
    return there < 0 || wait ? NULL : py_none();
}

static PyObject *claim(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"n", "timeout"};
    PyObject *given[2];
    if (!spsc_arguments(names, 0, given, args, nargs, kwnames))
        return NULL;
    return claim_any((struct py_spsc *)op, given[0], true, given[1]);
}

static PyObject *try_claim(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const char *const names[2] = {"n", NULL};
    PyObject *given[2];
    if (!spsc_arguments(names, 0, given, args, nargs, kwnames))
        return NULL;
    return claim_any((struct py_spsc *)op, given[0], false, NULL);
}

static PyObject *peek_any(struct py_spsc *self, uint32_t count, int64_t ready)
{
    struct spsc_found found;
    if (!find(self, self->end.index, (uint32_t)ready, &found))
        return NULL;
    if (self->end.records)
        return spsc_view_new(self, (uint8_t *)found.bytes, found.length, 1, found.units,
                             found.units - spsc_record_units(found.length));
    uint32_t n = piece(self, count, ready);
    return spsc_view_new(self, (uint8_t *)found.bytes, (size_t)n * found.length, n, n, 0);
}

static PyObject *peek(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"n", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    uint32_t count;
    if (!spsc_arguments(names, 0, given, args, nargs, kwnames) || !parse_count(given[0], &count))
        return NULL;
    int64_t ready = ready_later(self, count < self->end.units ? count : self->end.units, given[1]);
    if (ready == 0)
        spsc_raise_timeout(self);
    return ready <= 0 ? NULL : peek_any(self, count, ready);
}

static PyObject *try_peek(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"n", NULL};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    uint32_t count;
    if (!spsc_arguments(names, 0, given, args, nargs, kwnames) || !parse_count(given[0], &count))
        return NULL;
    int64_t ready = ready_now(self, count < self->end.units ? count : self->end.units);
    if (ready == 0)
        return py_none();
    return ready < 0 ? NULL : peek_any(self, count, ready);
}

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

/* ---- the types --------------------------------------------------------------------------------- */

static PyObject *next(PyObject *op)
{
    struct py_spsc *self = (struct py_spsc *)op;
    int64_t ready = ready_later(self, 1, NULL);
    if (ready > 0)
        return take(self, ready);
    bool ended = self->peer_state == PEER_CLOSED && self->stops == 0;
    if (ended && self->forks == py_fork_count())
        PyErr_Clear(); /* ShutDown: the end of the iteration */
    return NULL;
}

static PyObject *leave(PyObject *op, PyObject *args)
{
    return spsc_close(op, NULL);
}

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
     "arm()\n--\n\nAsk for an event on fileno(); True: do not sleep, look again."}, \
    {"clear", spsc_clear, METH_NOARGS, "clear()\n--\n\nTake the event off fileno()."}, \
    {"close", spsc_close, METH_NOARGS, \
     "close()\n--\n\nGive the end back and wake the peer; a sleeper in another\n" \
     "thread gets ClosedError.  BusyError while a view is out."}, \
    {"fileno", spsc_fileno, METH_NOARGS, \
     "fileno()\n--\n\nThe eventfd that this end is woken by."}, \
    {"statistics", spsc_statistics, METH_NOARGS, \
     "statistics()\n--\n\nCounters of this handle and of the ring, as a dict."}, \
    FAST("wait_peer", spsc_wait_peer, \
         "wait_peer(timeout=None)\n--\n\nWait until a live process holds the other end,\n" \
         "or has left messages: its pid.  So a survivor waits for a successor."), \
    {"__enter__", spsc_enter, METH_NOARGS, NULL}, \
    {"__exit__", leave, METH_VARARGS, NULL}, {NULL}

static PyMethodDef producer_methods[] = {
    {"try_put", try_put, METH_O,
     "try_put(data)\n--\n\nStore one message; False if there is no room.  Never waits."},
    FAST("put", put, "put(data, timeout=None)\n--\n\nStore one message, waiting for room."),
    FAST("put_many", put_many,
         "put_many(data, timeout=0)\n--\n\nStore what fits of a list of messages or of one\n"
         "buffer of them; how many.  One publish, at most one event."),
    FAST("claim", claim,
         "claim(n=1, timeout=None)\n--\n\nUp to n free slots, or n bytes of a record, in place."),
    FAST("try_claim", try_claim, "try_claim(n=1)\n--\n\nThe same, or None if there is no room."),
    {"publish", (PyCFunction)(void (*)(void))finish_view, METH_FASTCALL,
     "publish(count=None)\n--\n\nMake what was claimed visible."},
    COMMON_METHODS,
};

static PyMethodDef consumer_methods[] = {
    {"try_get", try_get, METH_NOARGS,
     "try_get()\n--\n\nTake one message; None if there is none.  Never waits."},
    FAST("get", get, "get(timeout=None)\n--\n\nTake one message, waiting for it."),
    FAST("get_many", get_many,
         "get_many(max=None, timeout=0)\n--\n\nTake what is there, up to max, as a list."),
    FAST("get_into", get_into,
         "get_into(buffer, timeout=0)\n--\n\nCopy messages into a buffer: whole slots, or one\n"
         "record.  Bytes written; 0 if there was nothing."),
    FAST("peek", peek,
         "peek(n=1, timeout=None)\n--\n\nUp to n messages in place, until release()."),
    FAST("try_peek", try_peek, "try_peek(n=1)\n--\n\nThe same, or None if there is none."),
    {"release", (PyCFunction)(void (*)(void))finish_view, METH_FASTCALL,
     "release(count=None)\n--\n\nGive what was peeked back to the producer."},
    COMMON_METHODS,
};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, "Producer(buffer, notify_fd, wait_fd, *, spin_us=0, policy='block')\n--\n\n"
                "The end that puts.  Usually made by Ring.producer()."},
    {Py_tp_new, new_producer},
    {Py_tp_dealloc, spsc_dealloc},
    {Py_tp_methods, producer_methods},
    {Py_tp_getset, spsc_getset},
    {0, NULL},
};

static PyType_Slot consumer_slots[] = {
    {Py_tp_doc, "Consumer(buffer, notify_fd, wait_fd, *, spin_us=0)\n--\n\n"
                "The end that gets.  Usually made by Ring.consumer().  Iterating takes\n"
                "messages until the producer closed its end."},
    {Py_tp_new, new_consumer},
    {Py_tp_dealloc, spsc_dealloc},
    {Py_tp_methods, consumer_methods},
    {Py_tp_getset, spsc_getset},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, next},
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
