/* The executor for places without io_uring: a pool of threads around preadv.
 *
 * A read that the page cache can answer is done at once (RWF_NOWAIT); everything
 * else goes to the pool.  Queue and finished list are one mutex; the engine sleeps
 * in epoll on its doorbells and on `done_fd`, which a worker writes only when the
 * engine has said that it sleeps.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "exec.h"

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

#ifndef __NR_epoll_pwait2
#define __NR_epoll_pwait2 441
#endif

enum { WORKERS = 16, EVENTS = 64 };
enum stage { STAGE_QUEUED = 1, STAGE_RUNNING, STAGE_DONE };

struct list {
    struct op *first, *last;
};

struct exec_threads {
    struct executor base;
    pthread_t workers[WORKERS];
    uint32_t nr_workers;
    pthread_mutex_t mutex;
    pthread_cond_t queued;
    struct list queue;         /* under the mutex */
    struct list finished;      /* under the mutex, from workers */
    struct list done;          /* the engine's own */
    bool stopping;             /* under the mutex */
    bool asleep;               /* under the mutex */
    _Atomic uint32_t nr_finished;
    int epoll_fd, done_fd;
    int fds[EXEC_FILES];
    struct op *bells[EXEC_FILES];
    struct index_table files;
    uint8_t files_used[EXEC_FILES];
    uint64_t enters;
};

static void append(struct list *list, struct op *op)
{
    op->next = NULL;
    op->prev = list->last;
    if (list->last != NULL)
        list->last->next = op;
    else
        list->first = op;
    list->last = op;
}

static void unlink_op(struct list *list, struct op *op)
{
    if (op->prev != NULL)
        op->prev->next = op->next;
    else
        list->first = op->next;
    if (op->next != NULL)
        op->next->prev = op->prev;
    else
        list->last = op->prev;
}

static void finish(struct exec_threads *exec, struct op *op, int32_t result)
{
    op->result = result;
    op->stage = STAGE_DONE;
    append(&exec->done, op);
}

static void wake_engine(struct exec_threads *exec)
{
    uint64_t one = 1;
    ssize_t ignored = write(exec->done_fd, &one, sizeof one);
    (void)ignored;
}

/* A worker: the mutex is held but while an operation runs. */
static void *work(void *arg)
{
    struct exec_threads *exec = arg;
    pthread_mutex_lock(&exec->mutex);
    while (!exec->stopping) {
        struct op *op = exec->queue.first;
        if (op == NULL) {
            pthread_cond_wait(&exec->queued, &exec->mutex);
            continue;
        }
        unlink_op(&exec->queue, op);
        op->stage = STAGE_RUNNING;
        pthread_mutex_unlock(&exec->mutex);
        int32_t result = op_run(op, exec->fds[op->file], 0);
        pthread_mutex_lock(&exec->mutex);
        op->result = result;
        op->stage = STAGE_DONE;
        append(&exec->finished, op);
        atomic_fetch_add_explicit(&exec->nr_finished, 1, memory_order_release);
        if (exec->asleep)
            wake_engine(exec);
    }
    pthread_mutex_unlock(&exec->mutex);
    return NULL;
}

static int threads_start(struct executor *base)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    for (; exec->nr_workers < WORKERS; exec->nr_workers++)
        if (pthread_create(&exec->workers[exec->nr_workers], NULL, work, exec) != 0)
            break;
    return exec->nr_workers ? 0 : -EAGAIN;
}

static void enqueue(struct exec_threads *exec, struct op *op)
{
    pthread_mutex_lock(&exec->mutex);
    op->stage = STAGE_QUEUED;
    append(&exec->queue, op);
    pthread_cond_signal(&exec->queued);
    pthread_mutex_unlock(&exec->mutex);
}

static void arm_bell(struct exec_threads *exec, struct op *op)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u32 = (uint32_t)op->file};
    exec->bells[op->file] = op;
    op->stage = STAGE_QUEUED;
    if (epoll_ctl(exec->epoll_fd, EPOLL_CTL_MOD, exec->fds[op->file], &event) == 0)
        return;
    if (epoll_ctl(exec->epoll_fd, EPOLL_CTL_ADD, exec->fds[op->file], &event) < 0) {
        exec->bells[op->file] = NULL;
        finish(exec, op, -errno);
    }
}

static void cancel(struct exec_threads *exec, struct op *op)
{
    struct op *target = op->target;
    if (target->kind == OP_KIND_BELL) {
        bool armed = exec->bells[target->file] == target;
        if (armed) {
            exec->bells[target->file] = NULL;
            finish(exec, target, -ECANCELED);
        }
        finish(exec, op, armed ? 0 : -ENOENT);
        return;
    }
    pthread_mutex_lock(&exec->mutex);
    int32_t result = target->stage == STAGE_QUEUED ? 0 : -EALREADY;
    if (target->stage == STAGE_QUEUED)
        unlink_op(&exec->queue, target);
    pthread_mutex_unlock(&exec->mutex);
    if (result == 0)
        finish(exec, target, -ECANCELED);
    finish(exec, op, result);
}

static void threads_submit(struct executor *base, struct op *op)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    if (op->kind == OP_KIND_BELL) {
        arm_bell(exec, op);
        return;
    }
    if (op->kind == OP_KIND_CANCEL) {
        cancel(exec, op);
        return;
    }
    if (op->kind == OP_KIND_READ) {
        int32_t result = op_run(op, exec->fds[op->file], RWF_NOWAIT);
        if (result >= 0) {
            finish(exec, op, result);
            return;
        }
    }
    enqueue(exec, op);
}

static void take_finished(struct exec_threads *exec)
{
    if (atomic_load_explicit(&exec->nr_finished, memory_order_acquire) == 0)
        return;
    pthread_mutex_lock(&exec->mutex);
    struct op *op = exec->finished.first;
    exec->finished = (struct list){NULL, NULL};
    atomic_store_explicit(&exec->nr_finished, 0, memory_order_relaxed);
    pthread_mutex_unlock(&exec->mutex);
    while (op != NULL) {
        struct op *next = op->next;
        append(&exec->done, op);
        op = next;
    }
}

static void set_asleep(struct exec_threads *exec, bool asleep)
{
    pthread_mutex_lock(&exec->mutex);
    exec->asleep = asleep;
    pthread_mutex_unlock(&exec->mutex);
}

static void ring_bells(struct exec_threads *exec, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        uint32_t index = events[i].data.u32;
        if (index == UINT32_MAX) {
            uint64_t ignored_count;
            ssize_t ignored = read(exec->done_fd, &ignored_count, sizeof ignored_count);
            (void)ignored;
            continue;
        }
        struct op *bell = exec->bells[index];
        exec->bells[index] = NULL;
        if (bell != NULL)
            finish(exec, bell, 1);
    }
}

static int wait_for_events(int epoll_fd, struct epoll_event *events, uint64_t timeout_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                          .tv_nsec = (long)(timeout_ns % 1000000000u)};
    int count = (int)syscall(__NR_epoll_pwait2, epoll_fd, events, EVENTS, &ts, NULL, 0);
    if (count >= 0 || errno == EINTR) /* before Linux 5.11 there are only milliseconds */
        return count;
    uint64_t ms = (timeout_ns + 999999) / 1000000;
    return epoll_wait(epoll_fd, events, EVENTS, ms > 1000000000 ? 1000000000 : (int)ms);
}

static int threads_enter(struct executor *base, uint64_t timeout_ns)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    take_finished(exec);
    if (timeout_ns == 0 || exec->done.first != NULL)
        return 0;
    struct epoll_event events[EVENTS];
    set_asleep(exec, true);
    bool ready = atomic_load_explicit(&exec->nr_finished, memory_order_acquire) != 0;
    exec->enters++;
    int count =
        wait_for_events(exec->epoll_fd, events, ready ? 0 : patience_ns(base, timeout_ns));
    set_asleep(exec, false);
    ring_bells(exec, events, count);
    take_finished(exec);
    return 0;
}

static bool threads_pending(struct executor *base)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    return exec->done.first != NULL ||
           atomic_load_explicit(&exec->nr_finished, memory_order_acquire) != 0;
}

static struct op *threads_reap(struct executor *base)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    take_finished(exec);
    struct op *op = exec->done.first;
    if (op != NULL)
        unlink_op(&exec->done, op);
    return op;
}

static int threads_add_file(struct executor *base, int fd)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    int index = index_take(&exec->files);
    if (index < 0)
        return -ENFILE;
    exec->fds[index] = fd;
    return index;
}

static void threads_remove_file(struct executor *base, int index)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    epoll_ctl(exec->epoll_fd, EPOLL_CTL_DEL, exec->fds[index], NULL);
    exec->files_used[index] = 0;
}

static int threads_add_buffer(struct executor *base, void *memory, size_t size)
{
    return -EOPNOTSUPP;
}

static void threads_remove_buffer(struct executor *base, int index)
{
}

static uint64_t threads_enters(struct executor *base)
{
    return ((struct exec_threads *)base)->enters;
}

static void threads_destroy(struct executor *base)
{
    struct exec_threads *exec = (struct exec_threads *)base;
    pthread_mutex_lock(&exec->mutex);
    exec->stopping = true;
    pthread_cond_broadcast(&exec->queued);
    pthread_mutex_unlock(&exec->mutex);
    for (uint32_t i = 0; i < exec->nr_workers; i++)
        pthread_join(exec->workers[i], NULL);
    pthread_cond_destroy(&exec->queued);
    pthread_mutex_destroy(&exec->mutex);
    close(exec->epoll_fd);
    close(exec->done_fd);
    free(exec);
}

static const struct executor_calls threads_calls = {
    .name = "threads",
    .start = threads_start,
    .submit = threads_submit,
    .enter = threads_enter,
    .now_ns = monotonic_now_ns,
    .pending = threads_pending,
    .reap = threads_reap,
    .add_file = threads_add_file,
    .remove_file = threads_remove_file,
    .add_buffer = threads_add_buffer,
    .remove_buffer = threads_remove_buffer,
    .enters = threads_enters,
    .destroy = threads_destroy,
};

struct executor *exec_threads(int *error, const char **where)
{
    struct exec_threads *exec = calloc(1, sizeof *exec);
    *where = "memory";
    *error = -ENOMEM;
    if (exec == NULL)
        return NULL;
    exec->base.calls = &threads_calls;
    exec->files = (struct index_table){exec->files_used, EXEC_FILES};
    pthread_mutex_init(&exec->mutex, NULL);
    pthread_cond_init(&exec->queued, NULL);
    exec->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    exec->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    *where = "epoll";
    if (exec->epoll_fd < 0 || exec->done_fd < 0 ||
        epoll_ctl(exec->epoll_fd, EPOLL_CTL_ADD, exec->done_fd, &event) < 0) {
        *error = -errno;
        threads_destroy(&exec->base);
        return NULL;
    }
    *error = 0;
    return &exec->base;
}
