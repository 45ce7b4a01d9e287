/* What the two kinds of end of a broadcast ring have in common.
 *
 * A handle belongs to one thread at a time; the GIL is held throughout.  Sleeping is
 * done by rings/broadcast.py.
 */
#ifndef RINGS_PY_BROADCAST_H
#define RINGS_PY_BROADCAST_H

#include "py.h"

#include "broadcast.h"

struct end {
    PyObject_HEAD
    struct broadcast ring;
    bool open;
    bool busy; /* inside a call that may run Python, or still being made */
    unsigned forks;
    uint64_t self;
    struct owned_end *mine;
    Py_buffer region;
    PyObject *weakrefs;
};

bool end_refuse(const struct end *self);
/* Before anything is taken; `busy` until the end is made. */
int end_watch(struct end *self);
int end_bind(struct end *self);
int end_take(struct end *self, struct owned_end *mine, const char *name);
void end_tell(int fd);
bool end_held(const struct end *self);
void end_let_go(struct end *self);
PyObject *end_get_closed(PyObject *op, void *ignored);
void end_free(PyObject *op);
PyObject *end_owner_state(const struct end *self);

static inline bool end_usable(const struct end *self)
{
    if (self->open && !self->busy && self->forks == py_fork_count())
        return true;
    return end_refuse(self);
}

int py_add_broadcast_producer(PyObject *module);
int py_add_broadcast_consumer(PyObject *module);

#endif
