/* io_uring through the kernel's own interface: no liburing.
 *
 * Constants that older kernel headers lack are defined here from the ABI.  The
 * ring is made disabled, its tables registered and its operations restricted to
 * what the engine issues; the engine's thread enables it and is then its only
 * user (SINGLE_ISSUER, DEFER_TASKRUN: Linux 6.1).
 */
#ifndef RINGSD_URING_H
#define RINGSD_URING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif

struct uring {
    int fd;
    bool restricted;
    uint32_t sq_mask, sq_entries, cq_mask, cq_entries;
    uint32_t sq_tail;      /* private: filled so far */
    uint32_t sq_submitted; /* private: handed to the kernel so far */
    uint32_t *sq_head_shared, *sq_tail_shared, *sq_flags_shared;
    uint32_t *cq_head_shared, *cq_tail_shared;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    void *rings;
    size_t rings_size, sqes_size;
    uint64_t enters;
};

/* Each returns 0 or a count, or minus an errno.  `where` names the failing step. */
int uring_open(struct uring *ring, uint32_t sq_entries, uint32_t cq_entries, uint32_t files,
               uint32_t buffers, const char **where);
int uring_enable(struct uring *ring);
void uring_close(struct uring *ring);

/* The next submission entry, zeroed; NULL if the queue is full: uring_enter, retry. */
struct io_uring_sqe *uring_sqe(struct uring *ring);
/* Submit what is filled and, if timeout_ns > 0, wait that long for one completion. */
int uring_enter(struct uring *ring, uint64_t timeout_ns);
/* The oldest completion, or NULL; uring_seen() gives it back. */
struct io_uring_cqe *uring_peek(struct uring *ring);
void uring_seen(struct uring *ring);
/* True if a completion is visible or waits for the kernel to be entered. */
bool uring_pending(const struct uring *ring);

int uring_set_file(struct uring *ring, uint32_t index, int fd); /* fd -1: clear */
int uring_set_buffer(struct uring *ring, uint32_t index, void *base, size_t size);

#endif
