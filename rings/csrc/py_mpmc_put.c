/* Putting messages into an MPMC ring: one, many, and records of one buffer. */
#include "py_mpmc.h"

/* Exact bytes need no export, and run no Python. */
static inline int take_buffer(PyObject *message, Py_buffer *data)
{
    if (!PyBytes_CheckExact(message))
        return PyObject_GetBuffer(message, data, PyBUF_SIMPLE);
    data->obj = NULL;
    return PyBytes_AsStringAndSize(message, (char **)&data->buf, &data->len);
}

static inline void give_buffer(Py_buffer *data)
{
    if (data->obj != NULL)
        PyBuffer_Release(data);
}

/* Reading a message may run Python, which may close us: look at both, in this order. */
static int take_open(Mpmc *self, PyObject *message, Py_buffer *data)
{
    if (take_buffer(message, data) < 0)
        return -1;
    if (member_check(self) == 0) {
        if (data->len <= (Py_ssize_t)self->member.ring.slot_size)
            return 0;
        member_too_long(self, data->len);
    }
    give_buffer(data);
    return -1;
}

PyObject *member_try_put(Mpmc *self, PyObject *message)
{
    Py_buffer data;
    if (take_open(self, message, &data) < 0)
        return NULL;
    uint64_t at;
    enum mpmc_result result =
        mpmc_put_unstalling(&self->member, &at, data.buf, (uint32_t)data.len);
    give_buffer(&data);
    return result < 0 ? member_raise(result) : PyBool_FromLong(result == MPMC_OK);
}

/* 1 put, 0 dropped, -1 with an error set. */
static int put_waiting(Mpmc *self, const Py_buffer *data, uint64_t deadline_ns)
{
    int goes_on = 1;
    while (goes_on > 0) {
        uint64_t at;
        enum mpmc_result result =
            mpmc_put_unstalling(&self->member, &at, data->buf, (uint32_t)data->len);
        if (result == MPMC_OK)
            return 1;
        if (result < 0) {
            member_raise(result);
            return -1;
        }
        goes_on = member_no_room(self, result, deadline_ns);
    }
    return goes_on;
}

PyObject *member_put(Mpmc *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[2] = {"message", "timeout"};
    PyObject *given[2];
    uint64_t deadline_ns;
    Py_buffer data;
    if (!py_arguments(names, 1, given, args, nargs, kwnames) ||
        py_deadline(given[1], &deadline_ns) < 0 || take_open(self, given[0], &data) < 0)
        return NULL;
    int rc = put_waiting(self, &data, deadline_ns);
    give_buffer(&data);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

static inline bool put_run(Mpmc *self, struct run *run, const void *data, uint32_t length)
{
    do
        if (mpmc_run_put(&self->member, run, data, length))
            return true;
    while (run->result == MPMC_STALLED && mpmc_unstall(&self->member, MPMC_PUT, run->looked));
    return false;
}

/* Messages are read one by one: reading one may run Python, with no slot in hand. */
static int put_sequence(Mpmc *self, PyObject *messages, struct run *run)
{
    Py_ssize_t count = PySequence_Size(messages);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *message = PySequence_GetItem(messages, i);
        Py_buffer data;
        int rc = message ? take_open(self, message, &data) : -1;
        Py_XDECREF(message);
        if (rc < 0)
            return -1;
        bool went = put_run(self, run, data.buf, (uint32_t)data.len);
        give_buffer(&data);
        if (!went)
            return 0;
    }
    return count < 0 ? -1 : 0;
}

PyObject *member_put_many(Mpmc *self, PyObject *messages)
{
    if (member_check(self) < 0)
        return NULL;
    PyObject *sequence = PySequence_Tuple(messages);
    if (sequence == NULL)
        return NULL;
    if (member_check(self) < 0) { /* what was iterated over may have closed us */
        Py_DECREF(sequence);
        return NULL;
    }
    struct run run = mpmc_run(&self->member, MPMC_PUT);
    int rc = put_sequence(self, sequence, &run);
    Py_DECREF(sequence);
    if (!self->closed)
        mpmc_run_end(&self->member, MPMC_PUT, &run);
    if (rc < 0 && run.done == 0)
        return NULL;
    PyErr_Clear();
    return run_count(&run);
}

PyObject *member_put_records(Mpmc *self, PyObject *args)
{
    Py_buffer records;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "y*n", &records, &size))
        return NULL;
    if (member_check(self) < 0 || member_record_size(self, &records, size) < 0) {
        PyBuffer_Release(&records);
        return NULL;
    }
    struct run run = mpmc_run(&self->member, MPMC_PUT);
    const char *record = records.buf, *end = record + records.len;
    while (record < end && put_run(self, &run, record, (uint32_t)size))
        record += size;
    mpmc_run_end(&self->member, MPMC_PUT, &run);
    PyBuffer_Release(&records);
    return run_count(&run);
}
