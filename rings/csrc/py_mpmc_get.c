/* Getting messages out of an MPMC ring: one, many, and records of one buffer. */
#include "py_mpmc.h"

static inline enum mpmc_result peek_run(Mpmc *self, struct run *run, uint32_t *length)
{
    do
        run->result = mpmc_peek(&self->member, &run->at, length);
    while (run->result == MPMC_STALLED && mpmc_unstall(&self->member, MPMC_GET, run->at));
    return run->result;
}

/* A bytes object of `length`: `*spare` if it fits, else a new one. */
static PyObject *bytes_of(PyObject **spare, uint32_t length)
{
    PyObject *bytes = *spare;
    *spare = NULL;
    if (bytes != NULL && PyBytes_Size(bytes) == (Py_ssize_t)length)
        return bytes;
    Py_XDECREF(bytes);
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
}

static inline bool take(Mpmc *self, struct run *run, bool alone, void *out, uint32_t length)
{
    return alone ? mpmc_get_alone(&self->member, run->at, out, length)
                 : mpmc_run_get(&self->member, run, out, length);
}

/* The next message of a run, or one alone, or NULL: `run->result` says why, or an error
 * is set. */
static inline PyObject *get_run(Mpmc *self, struct run *run, bool alone)
{
    PyObject *spare = NULL;
    uint32_t length = 0;
    while (peek_run(self, run, &length) == MPMC_OK) {
        PyObject *bytes = bytes_of(&spare, length);
        if (bytes == NULL)
            return NULL;
        if (take(self, run, alone, PyBytes_AsString(bytes), length))
            return bytes;
        spare = bytes;
    }
    Py_XDECREF(spare);
    return NULL;
}

static PyObject *get_once(Mpmc *self, struct run *run)
{
    member_skip(self);
    *run = mpmc_run(&self->member, MPMC_GET);
    return get_run(self, run, true);
}

PyObject *member_try_get(Mpmc *self, PyObject *unused)
{
    struct run run;
    if (member_check(self) < 0)
        return NULL;
    PyObject *message = get_once(self, &run);
    if (message != NULL || PyErr_Occurred())
        return message;
    return run.result < 0 ? member_raise(run.result) : py_none();
}

static PyObject *get_waiting(Mpmc *self, uint64_t deadline_ns)
{
    for (;;) {
        struct run run;
        PyObject *message = get_once(self, &run);
        if (message != NULL || PyErr_Occurred())
            return message;
        if (run.result < 0)
            return member_raise(run.result);
        if (member_wait(self, MPMC_GET, run.result, deadline_ns) < 0)
            return NULL;
    }
}

PyObject *member_get(Mpmc *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"timeout", NULL};
    PyObject *given[2];
    uint64_t deadline_ns;
    if (!py_arguments(names, 0, given, args, nargs, kwnames) ||
        py_deadline(given[0], &deadline_ns) < 0 || member_check(self) < 0)
        return NULL;
    return get_waiting(self, deadline_ns);
}

static void fill_list(Mpmc *self, PyObject *list, Py_ssize_t count, struct run *run)
{
    Py_ssize_t got;
    for (got = 0; got < count; got++) {
        PyObject *message = get_run(self, run, false);
        if (message == NULL)
            break;
        PyList_SetItem(list, got, message);
    }
    if (got < count)
        PyList_SetSlice(list, got, count, NULL);
}

PyObject *member_get_many(Mpmc *self, PyObject *limit)
{
    Py_ssize_t count = PyLong_AsSsize_t(limit);
    if ((count == -1 && PyErr_Occurred()) || member_check(self) < 0)
        return NULL;
    if (count < 1)
        return PyErr_Format(PyExc_ValueError, "limit must be 1 or more, not %zd", count);
    member_skip(self);
    Py_ssize_t size = (Py_ssize_t)mpmc_size(&self->member.ring);
    if (count > size)
        count = size ? size : 1;
    PyObject *list = PyList_New(count);
    if (list == NULL || member_check(self) < 0) { /* a garbage collection may close us */
        Py_XDECREF(list);
        return NULL;
    }
    struct run run = mpmc_run(&self->member, MPMC_GET);
    fill_list(self, list, count, &run);
    mpmc_run_end(&self->member, MPMC_GET, &run);
    if (run.done > 0)
        PyErr_Clear();
    if (run.done == 0 && (run.result < 0 || PyErr_Occurred())) {
        Py_DECREF(list);
        return run.result < 0 ? member_raise(run.result) : NULL;
    }
    return list;
}

/* Copy messages of just `size` bytes; -1 raised if the first is of another size. */
static int get_into(Mpmc *self, struct run *run, Py_buffer *out, Py_ssize_t size)
{
    char *record = out->buf;
    uint32_t length;
    for (Py_ssize_t left = out->len / size; left > 0;) {
        if (peek_run(self, run, &length) != MPMC_OK)
            return 0;
        if ((Py_ssize_t)length != size && run->done == 0) {
            PyErr_Format(PyExc_ValueError,
                         "the next message has %u bytes, not %zd: take it with get()", length,
                         size);
            return -1;
        }
        if ((Py_ssize_t)length != size)
            return 0;
        if (!mpmc_run_get(&self->member, run, record, length))
            continue;
        record += size;
        left--;
    }
    return 0;
}

PyObject *member_get_records(Mpmc *self, PyObject *args)
{
    Py_buffer records;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "w*n", &records, &size))
        return NULL;
    if (member_check(self) < 0 || member_record_size(self, &records, size) < 0) {
        PyBuffer_Release(&records);
        return NULL;
    }
    member_skip(self);
    struct run run = mpmc_run(&self->member, MPMC_GET);
    int rc = get_into(self, &run, &records, size);
    mpmc_run_end(&self->member, MPMC_GET, &run);
    PyBuffer_Release(&records);
    return rc < 0 ? NULL : run_count(&run);
}
