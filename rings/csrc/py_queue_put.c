/* Putting an object: a frame in a slot, or a run of blocks and a reference to it. */
#include "py_queue.h"

enum { PART_UNIT = 64, COLLECT_SLICE_NS = 200000000, COLLECT_PAUSE_NS = 10000000 };

/* The buffers that one message consists of: its pickle, and what that refers to. */
struct parts {
    Py_buffer *buffers;
    uint32_t count;
    uint8_t kind;
};

/* ---- into a slot --------------------------------------------------------------- */

static bool is_late(const Queue *self, uint64_t deadline_ns)
{
    return self->mpmc.policy == POLICY_ERROR || deadline_ns == TRY_ONCE || is_past(deadline_ns);
}

/* 1 look again, 0 the object is dropped, -1 raised. */
static int no_slot(Queue *self, enum mpmc_result result, uint64_t deadline_ns)
{
    bool full = result == MPMC_WOULD_BLOCK; /* else a slot is in somebody's hands */
    if (self->mpmc.policy == POLICY_DROP_NEW) {
        owner_count_refused(member_lost_word(&self->mpmc), 1);
        return 0;
    }
    if (self->mpmc.policy == POLICY_DROP_OLD && full &&
        mpmc_drop_oldest(&self->mpmc.member) == MPMC_OK)
        return 1;
    if (is_late(self, deadline_ns))
        return queue_raise_late(self, "Full", MPMC_PUT, result);
    return member_wait(&self->mpmc, MPMC_PUT, result, deadline_ns) < 0 ? -1 : 1;
}

static int put_frame(Queue *self, const void *frame, uint32_t length, uint64_t deadline_ns)
{
    int goes_on = 1;
    while (goes_on > 0) {
        uint64_t at;
        enum mpmc_result result = mpmc_put_unstalling(&self->mpmc.member, &at, frame, length);
        if (result == MPMC_OK)
            return 1;
        if (result < 0) {
            member_raise(result);
            return -1;
        }
        goes_on = no_slot(self, result, deadline_ns);
    }
    return goes_on;
}

static int put_inline(Queue *self, uint8_t kind, const Py_buffer *data, uint64_t deadline_ns)
{
    uint8_t frame[QUEUE_MAX_SLOT];
    frame[0] = kind;
    memcpy(frame + 1, data->buf, (size_t)data->len);
    return put_frame(self, frame, (uint32_t)data->len + 1, deadline_ns);
}

/* ---- into blocks ---------------------------------------------------------------- */

static uint64_t part_end(uint64_t at, Py_ssize_t length)
{
    return (at + (uint64_t)length + PART_UNIT - 1) & ~(uint64_t)(PART_UNIT - 1);
}

static uint64_t parts_start(const struct parts *parts)
{
    return parts->count == 1 ? 0 : part_end(0, parts->count * sizeof(uint64_t));
}

static uint64_t parts_length(const struct parts *parts)
{
    uint64_t length = parts_start(parts);
    for (uint32_t i = 0; i + 1 < parts->count; i++)
        length = part_end(length, parts->buffers[i].len);
    return length + (uint64_t)parts->buffers[parts->count - 1].len;
}

/* One part stands alone; more stand behind a table of {length:63, read-only:1}. */
static void parts_fill(uint8_t *to, const struct parts *parts)
{
    uint64_t at = parts_start(parts);
    for (uint32_t i = 0; i < parts->count; i++) {
        const Py_buffer *part = &parts->buffers[i];
        uint64_t entry = (uint64_t)part->len << 1 | (part->readonly != 0);
        if (parts->count > 1)
            memcpy(to + i * sizeof entry, &entry, sizeof entry);
        queue_copy(to + at, part->buf, (size_t)part->len);
        at = part_end(at, part->len);
    }
}

static int raise_no_blocks(Queue *self, uint32_t count, uint64_t freed_seen)
{
    self->short_of_blocks = true;
    self->freed_seen = freed_seen;
    PyObject *message = PyUnicode_FromFormat(
        "a message of %u blocks found no room among the queue's %u blocks of %u bytes: "
        "get some, or make the queue with a larger pool_size",
        count, self->blocks.count, self->blocks.size);
    queue_raise("Full", message);
    return -1;
}

static bool collect_due(Queue *self)
{
    uint64_t start = now_ns();
    if (start < self->collect_ns)
        return false;
    int64_t freed = queue_collect(self);
    self->collect_ns = now_ns() + COLLECT_PAUSE_NS;
    return freed > 0;
}

static int wait_blocks(Queue *self, const struct change *change, uint64_t deadline_ns)
{
    if (mpmc_shut(&self->mpmc.member.ring) & SHUT_PUTS) {
        member_raise(MPMC_SHUT);
        return -1;
    }
    return member_wait_change(&self->mpmc, change, COLLECT_SLICE_NS, deadline_ns);
}

/* Whether it is worth looking for blocks again at once. */
static bool made_room(Queue *self)
{
    return collect_due(self) || (self->mpmc.policy == POLICY_DROP_OLD &&
                                 mpmc_drop_oldest(&self->mpmc.member) == MPMC_OK);
}

/* The first of `count` blocks that are ours now; NO_RUN if raised, or to be dropped. */
static uint32_t claim_blocks(Queue *self, uint32_t count, uint64_t deadline_ns)
{
    for (;;) {
        struct change change = {self->blocks.freed, load64_seq_cst(self->blocks.freed)};
        uint32_t first = blocks_claim(&self->blocks, count, &self->mpmc.member);
        if (first != NO_RUN)
            return first;
        if (made_room(self))
            continue;
        if (self->mpmc.policy == POLICY_DROP_NEW) {
            owner_count_refused(member_lost_word(&self->mpmc), 1);
            return NO_RUN;
        }
        if (is_late(self, deadline_ns)) {
            raise_no_blocks(self, count, change.seen);
            return NO_RUN;
        }
        if (wait_blocks(self, &change, deadline_ns) < 0)
            return NO_RUN;
    }
}

static int put_run(Queue *self, struct reference *run, const struct parts *parts,
                   uint64_t deadline_ns)
{
    run->first = claim_blocks(self, run->count, deadline_ns);
    if (run->first == NO_RUN)
        return PyErr_Occurred() ? -1 : 0;
    parts_fill(blocks_at(&self->blocks, run->first), parts);
    int rc = queue_check_open(self);
    if (rc == 0)
        rc = put_frame(self, run, sizeof *run, deadline_ns);
    if (rc <= 0 && self->mpmc.forks == py_fork_count())
        blocks_free(&self->blocks, run, &self->mpmc.member);
    return rc;
}

static int put_parts(Queue *self, const struct parts *parts, uint64_t deadline_ns)
{
    uint64_t length = parts_length(parts), size = self->blocks.size;
    if (length > size * self->blocks.count) {
        PyErr_Format(PyExc_ValueError,
                     "a message of %llu bytes is larger than the queue's pool of %llu: "
                     "make the queue with a larger pool_size, or split the message",
                     (unsigned long long)length, (unsigned long long)size * self->blocks.count);
        return -1;
    }
    struct reference run = {
        .kind = FRAME_IN_BLOCKS + parts->kind,
        .count = length == 0 ? 1 : (uint32_t)((length + size - 1) / size),
        .parts = parts->count,
        .length = length,
    };
    member_hold(&self->mpmc);
    int rc = put_run(self, &run, parts, deadline_ns);
    queue_let_go(self);
    return rc;
}

/* ---- objects ---------------------------------------------------------------------- */

static int put_buffer(Queue *self, uint8_t kind, PyObject *bytes, uint64_t deadline_ns)
{
    Py_buffer data;
    if (PyObject_GetBuffer(bytes, &data, PyBUF_SIMPLE) < 0)
        return -1;
    struct parts parts = {.buffers = &data, .count = 1, .kind = kind};
    int rc = data.len < (Py_ssize_t)self->mpmc.member.ring.slot_size
                 ? put_inline(self, kind, &data, deadline_ns)
                 : put_parts(self, &parts, deadline_ns);
    PyBuffer_Release(&data);
    return rc;
}

static int open_parts(struct parts *parts, PyObject *pickle, PyObject *buffers)
{
    Py_ssize_t more = PyList_Size(buffers);
    parts->buffers = PyMem_Calloc((size_t)more + 1, sizeof *parts->buffers);
    if (more < 0 || parts->buffers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i <= more; i++) {
        PyObject *part = i == 0 ? pickle : PyList_GetItem(buffers, i - 1);
        if (part == NULL || PyObject_GetBuffer(part, &parts->buffers[i], PyBUF_SIMPLE) < 0)
            return -1;
        parts->count++;
    }
    return 0;
}

static int put_with_buffers(Queue *self, PyObject *encoded, uint64_t deadline_ns)
{
    PyObject *pickle, *buffers;
    struct parts parts = {.kind = FRAME_PICKLE};
    if (!PyArg_ParseTuple(encoded, "OO!", &pickle, &PyList_Type, &buffers))
        return -1;
    int rc = open_parts(&parts, pickle, buffers);
    if (rc == 0)
        rc = put_parts(self, &parts, deadline_ns);
    for (uint32_t i = 0; i < parts.count; i++)
        PyBuffer_Release(&parts.buffers[i]);
    PyMem_Free(parts.buffers);
    return rc;
}

/* What has no parts that somebody may have taught to pickle in another way. */
static bool is_plain(PyObject *object)
{
    return object == Py_None || PyUnicode_CheckExact(object) || PyLong_CheckExact(object) ||
           PyFloat_CheckExact(object) || PyBool_Check(object);
}

int queue_put_object(Queue *self, PyObject *object, uint64_t deadline_ns)
{
    self->short_of_blocks = false;
    if (PyBytes_CheckExact(object))
        return put_buffer(self, FRAME_BYTES, object, deadline_ns);
    PyObject *encoded =
        PyObject_CallFunctionObjArgs(is_plain(object) ? self->dumps : self->encode, object, NULL);
    if (encoded == NULL)
        return -1;
    int rc = queue_check_open(self); /* pickling runs anything */
    if (rc == 0)
        rc = PyTuple_Check(encoded) ? put_with_buffers(self, encoded, deadline_ns)
                                    : put_buffer(self, FRAME_PICKLE, encoded, deadline_ns);
    Py_DECREF(encoded);
    return rc;
}
