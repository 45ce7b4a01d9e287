#include "uring.h"

#include <errno.h>
#include <linux/time_types.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int sys_setup(uint32_t entries, struct io_uring_params *params)
{
    int fd = (int)syscall(__NR_io_uring_setup, entries, params);
    return fd < 0 ? -errno : fd;
}

static int sys_register(int fd, unsigned opcode, const void *arg, unsigned count)
{
    int rc = (int)syscall(__NR_io_uring_register, fd, opcode, arg, count);
    return rc < 0 ? -errno : rc;
}

static int map_rings(struct uring *ring, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = sq > cq ? sq : cq;
    ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
    if (ring->rings == MAP_FAILED)
        return -errno;
    ring->sqes_size = p->sq_entries * sizeof(struct io_uring_sqe);
    ring->sqes = mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                      ring->fd, IORING_OFF_SQES);
    if (ring->sqes == MAP_FAILED)
        return -errno;
    char *base = ring->rings;
    ring->sq_head_shared = (uint32_t *)(base + p->sq_off.head);
    ring->sq_tail_shared = (uint32_t *)(base + p->sq_off.tail);
    ring->sq_flags_shared = (uint32_t *)(base + p->sq_off.flags);
    ring->cq_head_shared = (uint32_t *)(base + p->cq_off.head);
    ring->cq_tail_shared = (uint32_t *)(base + p->cq_off.tail);
    ring->cqes = (struct io_uring_cqe *)(base + p->cq_off.cqes);
    ring->sq_entries = p->sq_entries;
    ring->sq_mask = p->sq_entries - 1;
    ring->cq_entries = p->cq_entries;
    ring->cq_mask = p->cq_entries - 1;
    uint32_t *array = (uint32_t *)(base + p->sq_off.array);
    for (uint32_t i = 0; i < p->sq_entries; i++)
        array[i] = i;
    return 0;
}

static int register_sparse(struct uring *ring, unsigned opcode, uint32_t count)
{
    struct io_uring_rsrc_register reg = {.nr = count, .flags = IORING_RSRC_REGISTER_SPARSE};
    return sys_register(ring->fd, opcode, &reg, sizeof reg);
}

/* Only what the engine issues, only on registered files. */
static int restrict_operations(struct uring *ring)
{
    static const uint8_t allowed[] = {
        IORING_OP_NOP,        IORING_OP_READ,       IORING_OP_WRITE,     IORING_OP_READV,
        IORING_OP_WRITEV,     IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC,
        IORING_OP_FALLOCATE,  IORING_OP_POLL_ADD,   IORING_OP_ASYNC_CANCEL,
    };
    enum { OPS = sizeof allowed, ALL = OPS + 4 };
    struct io_uring_restriction rules[ALL];
    memset(rules, 0, sizeof rules);
    for (unsigned i = 0; i < OPS; i++) {
        rules[i].opcode = IORING_RESTRICTION_SQE_OP;
        rules[i].sqe_op = allowed[i];
    }
    rules[OPS].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    rules[OPS].sqe_flags = IOSQE_FIXED_FILE;
    rules[OPS + 1].opcode = IORING_RESTRICTION_REGISTER_OP;
    rules[OPS + 1].register_op = IORING_REGISTER_ENABLE_RINGS;
    rules[OPS + 2].opcode = IORING_RESTRICTION_REGISTER_OP;
    rules[OPS + 2].register_op = IORING_REGISTER_FILES_UPDATE2;
    rules[OPS + 3].opcode = IORING_RESTRICTION_REGISTER_OP;
    rules[OPS + 3].register_op = IORING_REGISTER_BUFFERS_UPDATE;
    return sys_register(ring->fd, IORING_REGISTER_RESTRICTIONS, rules, ALL);
}

int uring_open(struct uring *ring, uint32_t sq_entries, uint32_t cq_entries, uint32_t files,
               uint32_t buffers, const char **where)
{
    memset(ring, 0, sizeof *ring);
    ring->rings = ring->sqes = MAP_FAILED;
    struct io_uring_params params = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER |
                 IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        .cq_entries = cq_entries,
    };
    *where = "io_uring_setup";
    ring->fd = sys_setup(sq_entries, &params);
    if (ring->fd < 0)
        return ring->fd;
    *where = "mmap of the io_uring";
    int rc = map_rings(ring, &params);
    if (rc == 0) {
        *where = "io_uring_register of files";
        rc = register_sparse(ring, IORING_REGISTER_FILES2, files);
    }
    if (rc == 0) {
        *where = "io_uring_register of buffers";
        rc = register_sparse(ring, IORING_REGISTER_BUFFERS2, buffers);
    }
    if (rc == 0) {
        *where = "io_uring_register of restrictions";
        rc = restrict_operations(ring);
    }
    if (rc < 0)
        uring_close(ring);
    return rc < 0 ? rc : 0;
}

int uring_enable(struct uring *ring)
{
    return sys_register(ring->fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

void uring_close(struct uring *ring)
{
    if (ring->sqes != MAP_FAILED)
        munmap(ring->sqes, ring->sqes_size);
    if (ring->rings != MAP_FAILED)
        munmap(ring->rings, ring->rings_size);
    if (ring->fd >= 0)
        close(ring->fd);
    ring->fd = -1;
    ring->rings = ring->sqes = MAP_FAILED;
}

struct io_uring_sqe *uring_sqe(struct uring *ring)
{
    uint32_t head = __atomic_load_n(ring->sq_head_shared, __ATOMIC_ACQUIRE);
    if (ring->sq_tail - head >= ring->sq_entries)
        return NULL;
    struct io_uring_sqe *sqe = &ring->sqes[ring->sq_tail++ & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

int uring_enter(struct uring *ring, uint64_t timeout_ns)
{
    uint32_t count = ring->sq_tail - ring->sq_submitted;
    __atomic_store_n(ring->sq_tail_shared, ring->sq_tail, __ATOMIC_RELEASE);
    struct __kernel_timespec ts = {.tv_sec = (long long)(timeout_ns / 1000000000u),
                                   .tv_nsec = (long long)(timeout_ns % 1000000000u)};
    struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&ts};
    unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
    ring->enters++;
    int rc = (int)syscall(__NR_io_uring_enter, ring->fd, count, timeout_ns ? 1 : 0, flags, &arg,
                          sizeof arg);
    if (rc < 0)
        return errno == ETIME || errno == EINTR ? 0 : -errno;
    ring->sq_submitted += (uint32_t)rc;
    return rc;
}

struct io_uring_cqe *uring_peek(struct uring *ring)
{
    uint32_t head = *ring->cq_head_shared;
    if (head == __atomic_load_n(ring->cq_tail_shared, __ATOMIC_ACQUIRE))
        return NULL;
    return &ring->cqes[head & ring->cq_mask];
}

void uring_seen(struct uring *ring)
{
    __atomic_store_n(ring->cq_head_shared, *ring->cq_head_shared + 1, __ATOMIC_RELEASE);
}

bool uring_pending(const struct uring *ring)
{
    if (*ring->cq_head_shared != __atomic_load_n(ring->cq_tail_shared, __ATOMIC_ACQUIRE))
        return true;
    return __atomic_load_n(ring->sq_flags_shared, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN;
}

int uring_set_file(struct uring *ring, uint32_t index, int fd)
{
    int32_t fds[1] = {fd};
    struct io_uring_rsrc_update2 update = {
        .offset = index, .data = (uint64_t)(uintptr_t)fds, .nr = 1};
    int rc = sys_register(ring->fd, IORING_REGISTER_FILES_UPDATE2, &update, sizeof update);
    return rc < 0 ? rc : 0;
}

int uring_set_buffer(struct uring *ring, uint32_t index, void *base, size_t size)
{
    struct iovec iov[1] = {{.iov_base = base, .iov_len = size}};
    struct io_uring_rsrc_update2 update = {
        .offset = index, .data = (uint64_t)(uintptr_t)iov, .nr = 1};
    int rc = sys_register(ring->fd, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof update);
    return rc < 0 ? rc : 0;
}
