/* What the consumer does: get, batches of it, and peeks in place. */
#include "py_spsc.h"

/* ---- get ------------------------------------------------------------------ */

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

static PyObject *to_bytes_here(const struct spsc_found *found)
{
    return PyBytes_FromStringAndSize((const char *)found->bytes, (Py_ssize_t)found->length);
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
    *found = (struct spsc_found){spsc_unit(&self->end, index), self->end.unit_size, 1, false};
    return true;
}

static inline PyObject *take(struct py_spsc *self, int64_t ready)
{
    struct spsc_found found;
    if (!find(self, self->end.index, (uint32_t)ready, &found))
        return NULL;
    PyObject *bytes = to_bytes(self, found.bytes, found.length);
    if (bytes != NULL)
        spsc_done(self, 1, spsc_release(&self->end, found.units));
    return bytes;
}

/* Units ready once all but the newest message have been skipped. */
__attribute__((cold)) static int64_t skip_to_newest(struct py_spsc *self)
{
    uint32_t units = 0;
    int64_t ready = spsc_ready(&self->end, self->end.units);
    int64_t older = ready > 0 ? spsc_count_older(&self->end, (uint32_t)ready, &units) : ready;
    if (older > 0)
        spsc_done(self, 0, spsc_skip(&self->end, self->mine, units, (uint64_t)older));
    return older < 0 ? -1 : ready - units;
}

/* Units ready; 0 none, -1 with an exception. */
static inline int64_t ready_now(struct py_spsc *self, uint32_t want)
{
    if (!spsc_usable(self))
        return -1;
    int64_t ready = __builtin_expect(self->latest, 0) ? skip_to_newest(self)
                                                      : spsc_ready(&self->end, want);
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
    return there <= 0 ? there : ready_now(self, want);
}

static int64_t ready_in_time(struct py_spsc *self, uint32_t want, PyObject *timeout_s)
{
    return spsc_waits(timeout_s) ? ready_later(self, want, timeout_s) : ready_now(self, want);
}

PyObject *spsc_try_get(PyObject *op, PyObject *ignored)
{
    struct py_spsc *self = (struct py_spsc *)op;
    int64_t ready = ready_now(self, 1);
    if (ready > 0)
        return take(self, ready);
    return ready < 0 ? NULL : py_none();
}

PyObject *spsc_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"timeout", NULL};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    if (!py_arguments(names, 0, given, args, nargs, kwnames))
        return NULL;
    int64_t ready = ready_later(self, 1, given[0]);
    if (ready > 0)
        return take(self, ready);
    if (ready == 0)
        spsc_raise_timeout(self);
    return NULL;
}

/* ---- batches of the consumer ---------------------------------------------- */

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
                              ? to_bytes_here(&found)
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

PyObject *spsc_get_many(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"max", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    Py_ssize_t max;
    if (!py_arguments(names, 0, given, args, nargs, kwnames) || !parse_max(given[0], &max))
        return NULL;
    uint32_t want = max < (Py_ssize_t)self->end.units ? (uint32_t)max : self->end.units;
    if (want == 0 || self->end.records)
        want = self->end.units;
    int64_t ready = ready_in_time(self, want, given[1]);
    if (ready < 0)
        return NULL;
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
        PyErr_Format(PyExc_ValueError, "the message has %llu bytes and the buffer only %zu; it "
                                       "stays first in the ring",
                     (unsigned long long)found.length, space);
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
        return spsc_refuse_length(self, into->len), -1;
    int64_t ready = ready_in_time(self, want, timeout_s);
    if (ready <= 0)
        return (Py_ssize_t)ready;
    if (self->end.records)
        return copy_record(self, (uint32_t)ready, into->buf, (size_t)into->len);
    return copy_slots(self, (uint32_t)ready, into->buf, (size_t)into->len);
}

PyObject *spsc_get_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"buffer", "timeout"};
    PyObject *given[2];
    Py_buffer into;
    if (!py_arguments(names, 1, given, args, nargs, kwnames) ||
        PyObject_GetBuffer(given[0], &into, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t copied = copy_into((struct py_spsc *)op, &into, given[1]);
    PyBuffer_Release(&into);
    return copied < 0 ? NULL : PyLong_FromSsize_t(copied);
}

/* ---- peeks in place ------------------------------------------------------- */

static PyObject *peek_any(struct py_spsc *self, uint32_t count, int64_t ready)
{
    struct spsc_found found;
    if (!find(self, self->end.index, (uint32_t)ready, &found))
        return NULL;
    if (self->end.records)
        return spsc_view_new(self, (uint8_t *)found.bytes, found.length, 1, found.units, 0);
    uint32_t n = spsc_piece(self, count, ready);
    return spsc_view_new(self, (uint8_t *)found.bytes, (size_t)n * found.length, n, n, 0);
}

PyObject *spsc_peek(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"n", "timeout"};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    uint32_t count;
    if (!py_arguments(names, 0, given, args, nargs, kwnames) ||
        !spsc_parse_count(given[0], &count))
        return NULL;
    int64_t ready = ready_later(self, count < self->end.units ? count : self->end.units, given[1]);
    if (ready == 0)
        spsc_raise_timeout(self);
    return ready <= 0 ? NULL : peek_any(self, count, ready);
}

PyObject *spsc_try_peek(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[2] = {"n", NULL};
    struct py_spsc *self = (struct py_spsc *)op;
    PyObject *given[2];
    uint32_t count;
    if (!py_arguments(names, 0, given, args, nargs, kwnames) ||
        !spsc_parse_count(given[0], &count))
        return NULL;
    int64_t ready = ready_now(self, count < self->end.units ? count : self->end.units);
    if (ready == 0)
        return py_none();
    return ready < 0 ? NULL : peek_any(self, count, ready);
}

PyObject *spsc_next(PyObject *op)
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
