/* Putting messages into an MPMC ring: one, many, and records of one buffer. */
#include "py_mpmc.h"

/* Reading a message may run Python, which may close us: look at both, in this order. */
static int take_open(Mpmc *self, PyObject *message, Py_buffer *data)
{
    if (PyObject_GetBuffer(message, data, PyBUF_SIMPLE) < 0)
        return -1;
    if (member_check(self) == 0) {
        if (data->len <= (Py_ssize_t)self->member.ring.slot_size)
            return 0;
        member_too_long(self, data->len);
    }
    PyBuffer_Release(data);
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
    PyBuffer_Release(&data);
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

PyObject *member_put(Mpmc *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"message", "timeout", NULL};
    PyObject *message, *timeout = NULL;
    uint64_t deadline_ns;
    Py_buffer data;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O", names, &message, &timeout) ||
        py_deadline(timeout, &deadline_ns) < 0 || take_open(self, message, &data) < 0)
        return NULL;
    int rc = put_waiting(self, &data, deadline_ns);
    PyBuffer_Release(&data);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

/* One that fails may have looked at an index before the run's: the run stays where it is. */
static void put_run(Mpmc *self, struct run *run, const Py_buffer *data)
{
    uint64_t at;
    do {
        at = run->at;
        run->result = mpmc_put_at(&self->member, &at, data->buf, (uint32_t)data->len);
    } while (run->result == MPMC_STALLED && mpmc_unstall(&self->member, MPMC_PUT, at));
    if (run->result == MPMC_OK)
        run->at = at;
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
        put_run(self, run, &data);
        PyBuffer_Release(&data);
        if (!run_goes_on(run))
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
    struct run run = {.at = mpmc_index(&self->member.ring, MPMC_PUT)};
    int rc = put_sequence(self, sequence, &run);
    Py_DECREF(sequence);
    if (!self->closed)
        run_end(self, MPMC_PUT, &run);
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
    struct run run = {.at = mpmc_index(&self->member.ring, MPMC_PUT)};
    Py_buffer record = {.buf = records.buf, .len = size};
    for (Py_ssize_t left = records.len / size; left > 0; left--) {
        put_run(self, &run, &record);
        if (!run_goes_on(&run))
            break;
        record.buf = (char *)record.buf + size;
    }
    run_end(self, MPMC_PUT, &run);
    PyBuffer_Release(&records);
    return run_count(&run);
}
