/* What an engine needs of whatever does the I/O: the executor.
 *
 * Three of them, one behaviour: `uring` (the kernel's ring), `threads` (a pool
 * around preadv and pwritev) and `mock` (deterministic, with a virtual clock).
 * An operation is owned by the engine and lent to the executor from submit until
 * reap gives it back; the engine never has more operations out than it reserved
 * credit for, so no executor ever has to refuse one.
 */
#ifndef RINGSD_EXEC_H
#define RINGSD_EXEC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core.h"

enum op_kind {
    OP_KIND_READ,
    OP_KIND_WRITE,
    OP_KIND_SYNC,
    OP_KIND_PUNCH,
    OP_KIND_ZERO,
    OP_KIND_BELL,   /* completes once the eventfd `file` is readable */
    OP_KIND_CANCEL, /* completes with 0, -ENOENT or -EALREADY; so does `target`, later */
};

struct op {
    uint8_t kind;
    uint8_t stage;      /* the executor's own */
    uint8_t role;       /* the engine's own, like `owner` */
    int32_t file;       /* executor's file index */
    int32_t buffer;     /* executor's buffer index that holds iov[0], or -1 */
    int32_t result;     /* bytes or 0, or minus an errno; valid once reaped */
    uint32_t nr_iov;
    struct iovec *iov;
    uint64_t offset;
    uint64_t length;
    struct op *target;
    struct op *prev, *next; /* the executor's own */
    uint64_t due;           /* the executor's own */
    void *owner;
};

struct executor;

struct executor_calls {
    const char *name;
    int (*start)(struct executor *); /* on the thread that makes all later calls */
    void (*submit)(struct executor *, struct op *);
    /* 0: push, do not wait.  Else wait so long for a completion, or until the alarm. */
    int (*enter)(struct executor *, uint64_t timeout_ns);
    uint64_t (*now_ns)(struct executor *); /* the mock's clock is virtual */
    bool (*pending)(struct executor *);                   /* a cheap look */
    struct op *(*reap)(struct executor *);
    int (*add_file)(struct executor *, int fd);           /* index, or minus an errno */
    void (*remove_file)(struct executor *, int index);
    int (*add_buffer)(struct executor *, void *base, size_t size);
    void (*remove_buffer)(struct executor *, int index);
    uint64_t (*enters)(struct executor *);
    void (*destroy)(struct executor *);
};

struct executor {
    const struct executor_calls *calls;
    uint64_t alarm_ns; /* by its own clock; UINT64_MAX: none */
};

enum { EXEC_FILES = 2048, EXEC_BUFFERS = 512 };

/* Each makes an executor for at most `credit` operations at once; NULL with *error =
 * minus an errno and *where = the step that failed. */
struct executor *exec_uring(uint32_t entries, uint32_t credit, int *error, const char **where);
struct executor *exec_threads(int *error, const char **where);
struct executor *exec_mock(uint64_t seed, int *error, const char **where);

/* One operation done at once with plain system calls: what threads and mock share. */
int32_t op_run(const struct op *op, int fd, int rwf_flags);

/* The clock of uring and threads. */
static inline uint64_t monotonic_now_ns(struct executor *exec)
{
    return now_ns();
}

/* How long to wait for by that clock: until the time-out or the alarm, but never 0. */
static inline uint64_t patience_ns(struct executor *exec, uint64_t timeout_ns)
{
    if (exec->alarm_ns == UINT64_MAX)
        return timeout_ns;
    uint64_t now = now_ns(), left = exec->alarm_ns > now ? exec->alarm_ns - now : 1;
    return left < timeout_ns ? left : timeout_ns;
}

/* A table of small indices, for files and buffers. */
struct index_table {
    uint8_t *used;
    uint32_t count;
};

static inline int index_take(struct index_table *table)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (!table->used[i]) {
            table->used[i] = 1;
            return (int)i;
        }
    return -1;
}

#endif
