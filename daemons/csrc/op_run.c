/* One operation, done at once with plain system calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "exec.h"

static ssize_t run(const struct op *op, int fd, int rwf_flags)
{
    switch (op->kind) {
    case OP_KIND_READ:
        return preadv2(fd, op->iov, (int)op->nr_iov, (off_t)op->offset, rwf_flags);
    case OP_KIND_WRITE:
        return pwritev2(fd, op->iov, (int)op->nr_iov, (off_t)op->offset, rwf_flags);
    case OP_KIND_SYNC:
        return fdatasync(fd);
    case OP_KIND_PUNCH:
        return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (off_t)op->offset,
                         (off_t)op->length);
    case OP_KIND_ZERO:
        return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE, (off_t)op->offset,
                         (off_t)op->length);
    default:
        errno = EOPNOTSUPP;
        return -1;
    }
}

int32_t op_run(const struct op *op, int fd, int rwf_flags)
{
    ssize_t rc;
    do
        rc = run(op, fd, rwf_flags);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : (int32_t)rc;
}
