/* The deterministic executor: a seed and a virtual clock decide every order.
 *
 * Each operation is given a due time of 0..MOCK_DELAY ticks; each enter is a tick.
 * What is due completes in the order of (due, submission); the I/O itself happens at
 * completion, so a cancel can still win.  Short transfers are part of the show: one
 * read or write in MOCK_SHORT moves only half of what was asked.
 *
 * The clock that tells the time stands still while there is anything to do, and leaps
 * to the alarm when the engine would sleep until it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"

enum { MOCK_DELAY = 8, MOCK_SHORT = 7 };
enum stage { STAGE_WAITING, STAGE_DECIDED };

struct exec_mock {
    struct executor base;
    uint64_t random, clock, enters;
    uint64_t now_ns;
    struct op *waiting; /* unordered; prev and next link it */
    struct op *bells;
    struct op *ready; /* to be reaped, newest last */
    struct op *ready_last;
    int fds[EXEC_FILES];
    struct index_table files;
    uint8_t files_used[EXEC_FILES];
};

static uint64_t next_random(struct exec_mock *exec)
{
    exec->random ^= exec->random << 13;
    exec->random ^= exec->random >> 7;
    exec->random ^= exec->random << 17;
    return exec->random;
}

static void push_front(struct op **list, struct op *op)
{
    op->prev = NULL;
    op->next = *list;
    if (*list != NULL)
        (*list)->prev = op;
    *list = op;
}

static void take_out(struct op **list, struct op *op)
{
    if (op->prev != NULL)
        op->prev->next = op->next;
    else
        *list = op->next;
    if (op->next != NULL)
        op->next->prev = op->prev;
}

static void complete(struct exec_mock *exec, struct op *op, int32_t result)
{
    op->result = result;
    op->next = NULL;
    if (exec->ready_last != NULL)
        exec->ready_last->next = op;
    else
        exec->ready = op;
    exec->ready_last = op;
}

static bool listed(struct op *list, const struct op *op)
{
    for (; list != NULL; list = list->next)
        if (list == op)
            return true;
    return false;
}

/* Decide a result now and deliver it later, as a kernel may. */
static void postpone(struct exec_mock *exec, struct op *op, int32_t result)
{
    op->stage = STAGE_DECIDED;
    op->result = result;
    op->due = exec->clock + next_random(exec) % MOCK_DELAY;
    push_front(&exec->waiting, op);
}

static void mock_cancel(struct exec_mock *exec, struct op *op)
{
    struct op *target = op->target;
    struct op **list = target->kind == OP_KIND_BELL ? &exec->bells : &exec->waiting;
    if (!listed(*list, target)) {
        postpone(exec, op, -ENOENT);
    } else if (target->stage == STAGE_DECIDED) {
        postpone(exec, op, -EALREADY);
    } else {
        take_out(list, target);
        postpone(exec, target, -ECANCELED);
        postpone(exec, op, 0);
    }
}

static void mock_submit(struct executor *base, struct op *op)
{
    struct exec_mock *exec = (struct exec_mock *)base;
    if (op->kind == OP_KIND_CANCEL) {
        mock_cancel(exec, op);
        return;
    }
    op->stage = STAGE_WAITING;
    op->due = exec->clock + next_random(exec) % MOCK_DELAY;
    push_front(op->kind == OP_KIND_BELL ? &exec->bells : &exec->waiting, op);
}

static int32_t run_maybe_short(struct exec_mock *exec, struct op *op)
{
    bool moves = op->kind == OP_KIND_READ || op->kind == OP_KIND_WRITE;
    if (!moves || next_random(exec) % MOCK_SHORT != 0 || op->iov[0].iov_len < 1024)
        return op_run(op, exec->fds[op->file], 0);
    struct iovec half = {op->iov[0].iov_base, op->iov[0].iov_len / 1024 * 512};
    struct op part = *op;
    part.iov = &half;
    part.nr_iov = 1;
    return op_run(&part, exec->fds[op->file], 0);
}

static struct op *next_due(struct exec_mock *exec)
{
    struct op *best = NULL;
    for (struct op *op = exec->waiting; op != NULL; op = op->next)
        if (op->due <= exec->clock && (best == NULL || op->due <= best->due))
            best = op;
    return best;
}

static void look_at_bells(struct exec_mock *exec, int timeout_ms)
{
    enum { BELLS = 256 };
    struct pollfd fds[BELLS];
    struct op *ops[BELLS];
    nfds_t count = 0;
    for (struct op *op = exec->bells; op != NULL && count < BELLS; op = op->next) {
        fds[count] = (struct pollfd){.fd = exec->fds[op->file], .events = POLLIN};
        ops[count++] = op;
    }
    if (poll(fds, count, timeout_ms) <= 0)
        return;
    for (nfds_t i = 0; i < count; i++)
        if (fds[i].revents) {
            take_out(&exec->bells, ops[i]);
            complete(exec, ops[i], 1);
        }
}

static int mock_enter(struct executor *base, uint64_t timeout_ns)
{
    struct exec_mock *exec = (struct exec_mock *)base;
    exec->enters++;
    exec->clock++;
    if (timeout_ns != 0 && exec->waiting != NULL && next_due(exec) == NULL)
        exec->clock += MOCK_DELAY;
    for (struct op *op; (op = next_due(exec)) != NULL;) {
        take_out(&exec->waiting, op);
        complete(exec, op, op->stage == STAGE_DECIDED ? op->result : run_maybe_short(exec, op));
    }
    bool idle = exec->ready == NULL && exec->waiting == NULL && timeout_ns != 0;
    uint64_t ms = timeout_ns / 1000000 + 1;
    bool leaps = idle && base->alarm_ns != UINT64_MAX;
    look_at_bells(exec, idle && !leaps ? (ms > 1000000 ? 1000000 : (int)ms) : 0);
    if (leaps && exec->ready == NULL && base->alarm_ns > exec->now_ns)
        exec->now_ns = base->alarm_ns;
    return 0;
}

static uint64_t mock_now_ns(struct executor *base)
{
    return ((struct exec_mock *)base)->now_ns;
}

static bool mock_pending(struct executor *base)
{
    struct exec_mock *exec = (struct exec_mock *)base;
    return exec->ready != NULL || exec->waiting != NULL;
}

static struct op *mock_reap(struct executor *base)
{
    struct exec_mock *exec = (struct exec_mock *)base;
    struct op *op = exec->ready;
    if (op == NULL)
        return NULL;
    exec->ready = op->next;
    if (exec->ready == NULL)
        exec->ready_last = NULL;
    return op;
}

static int mock_start(struct executor *base)
{
    return 0;
}

static int mock_add_file(struct executor *base, int fd)
{
    struct exec_mock *exec = (struct exec_mock *)base;
    int index = index_take(&exec->files);
    if (index < 0)
        return -ENFILE;
    exec->fds[index] = fd;
    return index;
}

static void mock_remove_file(struct executor *base, int index)
{
    ((struct exec_mock *)base)->files_used[index] = 0;
}

static int mock_add_buffer(struct executor *base, void *memory, size_t size)
{
    return -EOPNOTSUPP;
}

static void mock_remove_buffer(struct executor *base, int index)
{
}

static uint64_t mock_enters(struct executor *base)
{
    return ((struct exec_mock *)base)->enters;
}

static void mock_destroy(struct executor *base)
{
    free(base);
}

static const struct executor_calls mock_calls = {
    .name = "mock",
    .start = mock_start,
    .submit = mock_submit,
    .enter = mock_enter,
    .now_ns = mock_now_ns,
    .pending = mock_pending,
    .reap = mock_reap,
    .add_file = mock_add_file,
    .remove_file = mock_remove_file,
    .add_buffer = mock_add_buffer,
    .remove_buffer = mock_remove_buffer,
    .enters = mock_enters,
    .destroy = mock_destroy,
};

struct executor *exec_mock(uint64_t seed, int *error, const char **where)
{
    struct exec_mock *exec = calloc(1, sizeof *exec);
    *where = "memory";
    *error = exec == NULL ? -ENOMEM : 0;
    if (exec == NULL)
        return NULL;
    exec->base.calls = &mock_calls;
    exec->files = (struct index_table){exec->files_used, EXEC_FILES};
    exec->random = seed * 2654435761u + 88172645463325252u;
    return &exec->base;
}
