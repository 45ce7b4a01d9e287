/* rings._core.QueueMember and QueueLease: a queue of Python objects over an MPMC ring.
 *
 * A message is a frame: one byte that says what follows, or a `reference` to a run of
 * blocks (blocks.h) if it does not fit a slot.  py_queue_put.c and py_queue_get.c
 * are the two ends, py_queue.c is the type.
 */
#ifndef RINGS_PY_QUEUE_H
#define RINGS_PY_QUEUE_H

#include "py_mpmc.h"

#include "blocks.h"

enum { QUEUE_MIN_SLOT = sizeof(struct reference), QUEUE_MAX_SLOT = 4096 };
enum { COPY_WITHOUT_GIL = 64 << 10 };
#define TRY_ONCE UINT64_C(0) /* a deadline: do not wait at all */

typedef struct {
    Mpmc mpmc; /* must be first */
    Py_buffer pool;
    bool pool_held;
    bool views;           /* get may return views of blocks instead of copies */
    struct blocks blocks;
    uint64_t collect_ns;  /* when collecting may be tried again */
    bool short_of_blocks; /* the last put that gave up lacked blocks, not a slot */
    uint64_t freed_seen;  /* and looked when the pool was at this */
    PyObject *dumps;      /* pickle.dumps, for what pickles alone */
    PyObject *encode;     /* object -> pickle, or (pickle, [buffers]) */
    PyObject *loads;      /* pickle.loads */
    PyObject *decode;     /* (lease, views) -> object */
    PyObject *lease_type;
    PyObject *unread;     /* an exception that a batch met after its first object */
} Queue;

/* Open, and a member of this process?  0, or -1 raised. */
int queue_check_open(Queue *self);

/* Keep memory and membership over a close. */
void queue_let_go(Queue *self);

/* Raise queue.`name`; NULL. */
PyObject *queue_raise(const char *name, PyObject *message);

/* The same with the message of a call on `side` that timed out; -1. */
int queue_raise_late(Queue *self, const char *name, enum mpmc_side side, enum mpmc_result result);

/* Give the blocks of the dead back; how many, -1 without memory. */
int64_t queue_collect(Queue *self);

/* Copy, without the GIL if it takes long. */
void queue_copy(void *to, const void *from, size_t length);

/* 1 put, 0 dropped by the policy, -1 raised: Full, ShutDown, ValueError, or what
 * pickling raised. */
int queue_put_object(Queue *self, PyObject *object, uint64_t deadline_ns);

/* NULL raised: Empty, ShutDown, or what unpickling raised. */
PyObject *queue_get_object(Queue *self, uint64_t deadline_ns);

extern PyType_Spec queue_lease_spec;

#endif
