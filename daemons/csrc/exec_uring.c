/* The executor that hands each operation to the kernel's ring. */
#include <errno.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdlib.h>

#include "exec.h"
#include "uring.h"

struct exec_uring {
    struct executor base;
    struct uring ring;
    struct index_table files, buffers;
    uint8_t files_used[EXEC_FILES], buffers_used[EXEC_BUFFERS];
    struct op *failed; /* completions of what the kernel would not take */
};

static int uring_start(struct executor *base)
{
    return uring_enable(&((struct exec_uring *)base)->ring);
}

static void fill_io(struct io_uring_sqe *sqe, const struct op *op)
{
    bool reads = op->kind == OP_KIND_READ;
    sqe->off = op->offset;
    if (op->nr_iov == 1) {
        sqe->addr = (uint64_t)(uintptr_t)op->iov[0].iov_base;
        sqe->len = (uint32_t)op->iov[0].iov_len;
        if (op->buffer >= 0) {
            sqe->opcode = reads ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
            sqe->buf_index = (uint16_t)op->buffer;
        } else {
            sqe->opcode = reads ? IORING_OP_READ : IORING_OP_WRITE;
        }
        return;
    }
    sqe->opcode = reads ? IORING_OP_READV : IORING_OP_WRITEV;
    sqe->addr = (uint64_t)(uintptr_t)op->iov;
    sqe->len = op->nr_iov;
}

static void fill_fallocate(struct io_uring_sqe *sqe, const struct op *op)
{
    sqe->opcode = IORING_OP_FALLOCATE;
    sqe->off = op->offset;
    sqe->addr = op->length;
    sqe->len = FALLOC_FL_KEEP_SIZE |
               (op->kind == OP_KIND_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

static void fill(struct io_uring_sqe *sqe, struct op *op)
{
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->fd = op->file;
    sqe->user_data = (uint64_t)(uintptr_t)op;
    switch (op->kind) {
    case OP_KIND_READ:
    case OP_KIND_WRITE:
        fill_io(sqe, op);
        break;
    case OP_KIND_SYNC:
        sqe->opcode = IORING_OP_FSYNC;
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
        break;
    case OP_KIND_PUNCH:
    case OP_KIND_ZERO:
        fill_fallocate(sqe, op);
        break;
    case OP_KIND_BELL:
        sqe->opcode = IORING_OP_POLL_ADD;
        sqe->poll32_events = POLLIN;
        break;
    default:
        sqe->opcode = IORING_OP_ASYNC_CANCEL;
        sqe->fd = 0;
        sqe->addr = (uint64_t)(uintptr_t)op->target;
    }
}

static void uring_submit(struct executor *base, struct op *op)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    struct io_uring_sqe *sqe = uring_sqe(&exec->ring);
    if (sqe == NULL) {
        uring_enter(&exec->ring, 0);
        sqe = uring_sqe(&exec->ring);
    }
    if (sqe != NULL) {
        fill(sqe, op);
        return;
    }
    op->result = -EAGAIN;
    op->next = exec->failed;
    exec->failed = op;
}

static int uring_enter_exec(struct executor *base, uint64_t timeout_ns)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    if (timeout_ns == 0 && exec->ring.sq_tail == exec->ring.sq_submitted &&
        !uring_pending(&exec->ring))
        return 0;
    if (timeout_ns > 0)
        timeout_ns = exec->failed ? 0 : patience_ns(base, timeout_ns);
    return uring_enter(&exec->ring, timeout_ns);
}

static bool uring_pending_exec(struct executor *base)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    return exec->failed != NULL || uring_pending(&exec->ring);
}

static struct op *uring_reap(struct executor *base)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    struct op *op = exec->failed;
    if (op != NULL) {
        exec->failed = op->next;
        return op;
    }
    struct io_uring_cqe *cqe = uring_peek(&exec->ring);
    if (cqe == NULL)
        return NULL;
    op = (struct op *)(uintptr_t)cqe->user_data;
    op->result = cqe->res;
    uring_seen(&exec->ring);
    return op;
}

static int uring_add_file(struct executor *base, int fd)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    int index = index_take(&exec->files);
    if (index < 0)
        return -ENFILE;
    int rc = uring_set_file(&exec->ring, (uint32_t)index, fd);
    if (rc < 0)
        exec->files_used[index] = 0;
    return rc < 0 ? rc : index;
}

static void uring_remove_file(struct executor *base, int index)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    uring_set_file(&exec->ring, (uint32_t)index, -1);
    exec->files_used[index] = 0;
}

static int uring_add_buffer(struct executor *base, void *memory, size_t size)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    int index = index_take(&exec->buffers);
    if (index < 0)
        return -ENOBUFS;
    int rc = uring_set_buffer(&exec->ring, (uint32_t)index, memory, size);
    if (rc < 0)
        exec->buffers_used[index] = 0;
    return rc < 0 ? rc : index;
}

static void uring_remove_buffer(struct executor *base, int index)
{
    struct exec_uring *exec = (struct exec_uring *)base;
    uring_set_buffer(&exec->ring, (uint32_t)index, NULL, 0);
    exec->buffers_used[index] = 0;
}

static uint64_t uring_enters(struct executor *base)
{
    return ((struct exec_uring *)base)->ring.enters;
}

static void uring_destroy(struct executor *base)
{
    uring_close(&((struct exec_uring *)base)->ring);
    free(base);
}

static const struct executor_calls uring_calls = {
    .name = "uring",
    .start = uring_start,
    .submit = uring_submit,
    .enter = uring_enter_exec,
    .now_ns = monotonic_now_ns,
    .pending = uring_pending_exec,
    .reap = uring_reap,
    .add_file = uring_add_file,
    .remove_file = uring_remove_file,
    .add_buffer = uring_add_buffer,
    .remove_buffer = uring_remove_buffer,
    .enters = uring_enters,
    .destroy = uring_destroy,
};

struct executor *exec_uring(uint32_t entries, uint32_t credit, int *error, const char **where)
{
    struct exec_uring *exec = calloc(1, sizeof *exec);
    *where = "memory";
    *error = -ENOMEM;
    if (exec == NULL)
        return NULL;
    exec->base.calls = &uring_calls;
    exec->files = (struct index_table){exec->files_used, EXEC_FILES};
    exec->buffers = (struct index_table){exec->buffers_used, EXEC_BUFFERS};
    *error = uring_open(&exec->ring, entries, credit, EXEC_FILES, EXEC_BUFFERS, where);
    if (*error < 0) {
        free(exec);
        return NULL;
    }
    return &exec->base;
}
