/* Taking and giving back an end of a broadcast ring. */
#include "py_broadcast.h"

bool end_refuse(const struct end *self)
{
    if (self->open && self->forks != py_fork_count())
        py_raise("ClosedError", "this end belongs to the process that forked; pass the ring to "
                                "the child and attach there");
    else if (!self->open)
        py_raise("ClosedError", "this end is closed; take it again from the ring");
    else
        py_raise("BusyError", "this end is in use; a handle belongs to one thread at a time");
    return false;
}

int end_watch(struct end *self)
{
    self->busy = true;
    return py_watch_end((PyObject *)self, "close");
}

int end_bind(struct end *self)
{
    if (broadcast_bind(&self->ring, self->region.buf, (uint64_t)self->region.len))
        return 0;
    py_raise("LayoutError", "this memory holds no broadcast ring, or its numbers do not fit %zd "
                            "bytes; create one with rings.broadcast.create()", self->region.len);
    return -1;
}

int end_take(struct end *self, struct owned_end *mine, const char *name)
{
    uint64_t self_word = owner_self(), other = owner_take(mine, self_word);
    if (other != 0) {
        py_raise("BusyError", "the ring has a %s already: pid %u, alive; close that one first",
                 name, (unsigned)owner_pid(other));
        return -1;
    }
    self->mine = mine;
    self->self = self_word;
    self->forks = py_fork_count();
    self->open = true;
    return 0;
}

void end_tell(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one);
    (void)ignored;
}

bool end_held(const struct end *self)
{
    return self->open && self->forks == py_fork_count();
}

void end_let_go(struct end *self)
{
    if (end_held(self))
        owner_give_back(self->mine, self->self);
    self->open = false;
    if (self->region.obj != NULL)
        PyBuffer_Release(&self->region);
}

PyObject *end_get_closed(PyObject *op, void *ignored)
{
    return PyBool_FromLong(!end_held((struct end *)op));
}

void end_free(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((struct end *)op)->weakrefs != NULL)
        PyObject_ClearWeakRefs(op);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

/* The owner of the producer's end: its pid, 0 nobody yet, -1 closed, -2 dead. */
PyObject *end_owner_state(const struct end *self)
{
    uint64_t owner = atomic_load(&self->ring.header->producer.owner);
    if (!owner_is_process(owner))
        return PyLong_FromLong(owner == OWNER_CLOSED ? -1 : 0);
    return PyLong_FromLong(owner_is_dead(owner) ? -2 : (long)owner_pid(owner));
}

int py_add_broadcast(PyObject *module)
{
    if (py_add_broadcast_producer(module) < 0)
        return -1;
    return py_add_broadcast_consumer(module);
}
