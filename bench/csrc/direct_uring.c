/* Random 4 KiB reads by io_uring from one process: what a split ring is held against.
 *
 * The strongest honest comparator that we know how to write: raw system calls,
 * SINGLE_ISSUER | DEFER_TASKRUN, a registered file, one registered buffer, every
 * free place refilled before each enter.  The rate is taken without a clock in
 * the loop, the latencies in a second run with one clock a completion.
 *
 *   direct_uring FILE OFFSETS DEPTH RATE_S LATENCY_S DIRECT
 *
 * OFFSETS is a file of little-endian u64.  Every block of FILE begins and ends with
 * its own number; an untimed pass over the first offsets checks that.  Prints JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

enum { BLOCK = 4096, MAX_SAMPLES = 1 << 20, TURNS_A_CLOCK = 32, CHECKED = 4096 };

typedef _Atomic unsigned shared_unsigned;

struct uring {
    int fd;
    bool deferred;
    unsigned sq_mask, cq_mask, sq_tail, to_submit;
    shared_unsigned *shared_sq_tail, *cq_head, *cq_tail;
    unsigned *sq_array;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
};

struct load {
    struct uring ring;
    uint8_t *buffer;
    const uint64_t *offsets;
    size_t count, next;
    unsigned depth;
    uint64_t enters, ops;
    uint64_t *submitted_ns;
    uint32_t *samples;
    size_t sampled;
};

static void die(const char *what)
{
    fprintf(stderr, "direct_uring: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void *map(int fd, size_t size, off_t offset)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_POPULATE, fd, offset);
    if (at == MAP_FAILED)
        die("mmap");
    return at;
}

static int setup(unsigned entries, struct io_uring_params *params, bool deferred)
{
    memset(params, 0, sizeof *params);
    if (deferred)
        params->flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    return (int)syscall(__NR_io_uring_setup, entries, params);
}

static void uring_open(struct uring *ring, unsigned entries)
{
    struct io_uring_params p;
    ring->deferred = true;
    ring->fd = setup(entries, &p, true);
    if (ring->fd < 0 && errno == EINVAL) {
        ring->deferred = false;
        ring->fd = setup(entries, &p, false);
    }
    if (ring->fd < 0)
        die("io_uring_setup");
    uint8_t *sq = map(ring->fd, p.sq_off.array + p.sq_entries * sizeof(unsigned),
                      IORING_OFF_SQ_RING);
    uint8_t *cq = map(ring->fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
                      IORING_OFF_CQ_RING);
    ring->sqes = map(ring->fd, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    ring->shared_sq_tail = (shared_unsigned *)(sq + p.sq_off.tail);
    ring->sq_mask = *(unsigned *)(sq + p.sq_off.ring_mask);
    ring->sq_array = (unsigned *)(sq + p.sq_off.array);
    ring->cq_head = (shared_unsigned *)(cq + p.cq_off.head);
    ring->cq_tail = (shared_unsigned *)(cq + p.cq_off.tail);
    ring->cq_mask = *(unsigned *)(cq + p.cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static void enlist(struct uring *ring, unsigned op, const void *what, unsigned n)
{
    if (syscall(__NR_io_uring_register, ring->fd, op, what, n) < 0)
        die("io_uring_register");
}

static void push(struct load *load, unsigned slot)
{
    struct uring *ring = &load->ring;
    unsigned index = ring->sq_tail & ring->sq_mask;
    struct io_uring_sqe *sqe = &ring->sqes[index];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_READ_FIXED;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->off = load->offsets[load->next];
    sqe->addr = (uint64_t)(uintptr_t)(load->buffer + (size_t)slot * BLOCK);
    sqe->len = BLOCK;
    sqe->user_data = slot;
    ring->sq_array[index] = index;
    ring->sq_tail++;
    ring->to_submit++;
    load->next = load->next + 1 == load->count ? 0 : load->next + 1;
}

static void enter(struct load *load, unsigned min_complete)
{
    struct uring *ring = &load->ring;
    atomic_store_explicit(ring->shared_sq_tail, ring->sq_tail, memory_order_release);
    long n = syscall(__NR_io_uring_enter, ring->fd, ring->to_submit, min_complete,
                     IORING_ENTER_GETEVENTS, NULL, 0);
    if (n < 0 && errno != EINTR)
        die("io_uring_enter");
    if (n > 0)
        ring->to_submit -= (unsigned)n;
    load->enters++;
}

static void sample(struct load *load, unsigned slot)
{
    uint64_t now = now_ns();
    if (load->sampled < MAX_SAMPLES)
        load->samples[load->sampled++] = (uint32_t)(now - load->submitted_ns[slot]);
    load->submitted_ns[slot] = now;
}

/* Take every completion there is; refill its place unless `last`. */
static unsigned reap(struct load *load, bool clocked, bool last)
{
    struct uring *ring = &load->ring;
    unsigned head = atomic_load_explicit(ring->cq_head, memory_order_relaxed);
    unsigned first = head;
    unsigned tail = atomic_load_explicit(ring->cq_tail, memory_order_acquire);
    for (; head != tail; head++) {
        const struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
        unsigned slot = (unsigned)cqe->user_data;
        if (cqe->res != BLOCK) {
            errno = cqe->res < 0 ? -cqe->res : EIO;
            die("read");
        }
        if (clocked)
            sample(load, slot);
        if (!last)
            push(load, slot);
    }
    atomic_store_explicit(ring->cq_head, tail, memory_order_release);
    return tail - first;
}

static double run(struct load *load, double seconds, bool clocked)
{
    load->ops = load->enters = 0;
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), now = start;
    for (unsigned slot = 0; slot < load->depth; slot++) {
        load->submitted_ns[slot] = start;
        push(load, slot);
    }
    for (unsigned turn = 1; now < end; turn++) {
        enter(load, 1);
        load->ops += reap(load, clocked, false);
        if (turn % TURNS_A_CLOCK == 0 || load->depth >= TURNS_A_CLOCK)
            now = now_ns();
    }
    double took = (double)(now - start) / 1e9;
    for (unsigned left = load->depth; left > 0; left -= reap(load, false, true))
        enter(load, 1);
    return took;
}

static void verify(struct load *load)
{
    for (size_t done = 0; done < load->count && done < CHECKED; done++) {
        uint64_t offset = load->offsets[load->next], first, last;
        push(load, 0);
        enter(load, 1);
        while (reap(load, false, true) == 0)
            enter(load, 1);
        memcpy(&first, load->buffer, 8);
        memcpy(&last, load->buffer + BLOCK - 8, 8);
        if (first != offset / BLOCK || last != first) {
            fprintf(stderr, "direct_uring: wrong data at %llu\n", (unsigned long long)offset);
            exit(1);
        }
    }
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(const struct load *load, double fraction)
{
    size_t index = (size_t)(fraction * (double)load->sampled);
    if (index >= load->sampled)
        index = load->sampled - 1;
    return load->samples[index] / 1e3;
}

static void load_offsets(struct load *load, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < 8)
        die(path);
    void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED)
        die("mmap offsets");
    load->offsets = at;
    load->count = (size_t)st.st_size / 8;
}

static void prepare(struct load *load, const char *path, bool direct)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
    if (fd < 0)
        die(path);
    struct iovec area = {.iov_len = (size_t)load->depth * BLOCK};
    area.iov_base = load->buffer = map(-1, area.iov_len, 0);
    load->submitted_ns = map(-1, load->depth * sizeof(uint64_t), 0);
    load->samples = map(-1, MAX_SAMPLES * sizeof(uint32_t), 0);
    uring_open(&load->ring, load->depth);
    enlist(&load->ring, IORING_REGISTER_FILES, &fd, 1);
    enlist(&load->ring, IORING_REGISTER_BUFFERS, &area, 1);
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: direct_uring FILE OFFSETS DEPTH RATE_S LATENCY_S DIRECT\n");
        return 2;
    }
    struct load load = {.depth = (unsigned)atoi(argv[3])};
    load_offsets(&load, argv[2]);
    prepare(&load, argv[1], argv[6][0] == '1');
    verify(&load);
    double took = run(&load, atof(argv[4]), false);
    uint64_t ops = load.ops, enters = load.enters;
    run(&load, atof(argv[5]), true);
    qsort(load.samples, load.sampled, sizeof *load.samples, ascending);
    printf("{\"iops\": %.1f, \"enters_per_op\": %.5f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
           "\"p999_us\": %.3f, \"samples\": %zu, \"deferred\": %s}\n",
           (double)ops / took, (double)enters / (double)ops, percentile_us(&load, 0.5),
           percentile_us(&load, 0.99), percentile_us(&load, 0.999), load.sampled,
           load.ring.deferred ? "true" : "false");
    return 0;
}
