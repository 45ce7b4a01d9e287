#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "exec.h"
#include "notify.h"
#include "request.h"
#include "wait.h"
#include "xen.h"

/* One turn takes at most this much from a ring before the next ring is looked at. */
enum { TURN_REQUESTS = 32, TURN_BYTES = 1 << 20 };
enum { MAX_RINGS = 256, MAX_EVENTS = 4 * MAX_RINGS };
/* A doorbell that rings this often with nothing behind it is armed later and later. */
enum { STORM_WAKES = 3, STORM_MAX_SHIFT = 5 };
#define STORM_DELAY_NS 2000000u
#define SLEEP_NS 3600000000000u

/* What a completed operation was for. */
enum role { ROLE_REQUEST, ROLE_BELL, ROLE_CONTROL, ROLE_LETTING_GO };
enum ring_state { RING_SERVING, RING_DRAINING, RING_CLOSING };

/* A request in service: reserved at attach, one for each slot. */
struct request {
    struct op op; /* first: an executor gives back this address */
    struct ring *ring;
    struct checked checked;
    struct request *next; /* in the free list or the list for the backend */
    uint64_t done;        /* bytes moved so far */
    uint32_t generation;
    bool in_service, in_executor, with_backend;
    struct op canceller; /* cancels `op` when the ring is let go */
};

struct ring {
    struct engine *engine;
    uint32_t number;
    enum ring_state state;
    struct xen_back back;
    struct memory memory;
    struct engine_device device;
    uint32_t protocol;
    int wait_fd, notify_fd;
    int bell_file, device_file, buffer;
    struct op bell, bell_canceller;
    bool bell_armed, worked, dirty, detached, announced;
    uint32_t drain_until;
    uint32_t empty_wakes;
    uint64_t arm_after_ns;
    struct request *requests, *free, *for_backend, *for_backend_last;
    struct iovec *iovs;
    uint32_t operations; /* in the executor, cancels and doorbell included */
    struct engine_ring_stats stats;
};

struct injected {
    uint32_t ring, index, generation;
    int64_t result;
};

struct engine {
    struct executor *exec;
    struct ring *rings[MAX_RINGS];
    uint32_t nr_rings; /* highest in use, plus one */
    uint32_t first;    /* whose turn comes first */
    uint32_t lives;    /* rings attached so far */
    struct spin spin;
    uint64_t arm_next_ns; /* when a stormy doorbell may be armed; NO_DEADLINE: none waits */
    struct notifier notifier;
    int control_fd, control_file;
    struct op control_bell;
    bool control_armed;
    _Atomic bool woken;
    struct engine_event events[MAX_EVENTS];
    uint32_t nr_events;
    pthread_mutex_t mutex; /* over the injected answers and the statistics' copy */
    struct injected *injected;
    uint32_t nr_injected;
    _Atomic uint32_t any_injected;
    struct engine_stats stats;
};

/* A ring's number is its place and a count of lives: no two rings ever share one. */
static struct ring *ring_of(struct engine *engine, uint32_t number)
{
    struct ring *ring = engine->rings[number % MAX_RINGS];
    return ring != NULL && ring->number == number ? ring : NULL;
}

/* ---- answers ---------------------------------------------------------------- */

static void add_event(struct engine *engine, struct ring *ring, uint32_t kind, const char *reason)
{
    if (engine->nr_events < MAX_EVENTS)
        engine->events[engine->nr_events++] =
            (struct engine_event){.ring = ring->number, .kind = kind, .reason = reason};
}

static void give_back(struct ring *ring, struct request *req)
{
    req->in_service = req->with_backend = false;
    req->generation++;
    req->next = ring->free;
    ring->free = req;
    ring->stats.in_flight--;
}

static void answer(struct ring *ring, struct request *req, int64_t result)
{
    uint8_t response[16];
    encode_response(ring->protocol, &req->checked, result, response);
    memcpy(xen_back_claim(&ring->back), response, sizeof response);
    ring->dirty = true;
    ring->stats.responses++;
    if (result < 0)
        ring->stats.errors++;
    else if (req->checked.op == WIRE_READ)
        ring->stats.bytes_read += (uint64_t)result;
    else if (req->checked.op == WIRE_WRITE)
        ring->stats.bytes_written += (uint64_t)result;
    give_back(ring, req);
}

static void break_ring(struct ring *ring, const char *reason)
{
    ring->back.broken = true;
    ring->state = RING_CLOSING;
    add_event(ring->engine, ring, EVENT_BROKEN, reason);
}

static void notify_front(struct ring *ring)
{
    if (notifier_raise(&ring->engine->notifier, ring->notify_fd))
        ring->stats.notifications_sent++;
    else
        break_ring(ring, "the frontend made its eventfd blocking");
}

static void publish(struct ring *ring)
{
    ring->dirty = false;
    ring->stats.batches++;
    if (xen_back_publish(&ring->back))
        notify_front(ring);
    else
        ring->stats.notifications_held_off++;
}

/* ---- from a request to an operation ------------------------------------------- */

static void submit(struct ring *ring, struct op *op)
{
    ring->operations++;
    ring->engine->exec->calls->submit(ring->engine->exec, op);
}

static void start_io(struct ring *ring, struct request *req, enum op_kind kind)
{
    req->op.kind = (uint8_t)kind;
    req->op.file = ring->device_file;
    req->op.buffer = ring->buffer;
    req->op.iov = req->checked.iov;
    req->op.nr_iov = req->checked.nr_iov;
    req->op.offset = req->checked.offset;
    req->op.length = req->checked.length;
    req->in_executor = true;
    submit(ring, &req->op);
}

static struct request *find(struct ring *ring, uint64_t id)
{
    for (uint32_t i = 0; i < ring->back.ring.nr_slots; i++) {
        struct request *req = &ring->requests[i];
        if (req->in_service && req->checked.id == id && req->checked.op != WIRE_CANCEL)
            return req;
    }
    return NULL;
}

static void start_cancel(struct ring *ring, struct request *req)
{
    struct request *target = find(ring, req->checked.offset);
    if (target == NULL || !target->in_executor) {
        answer(ring, req, target == NULL ? -ENOENT : -EALREADY);
        return;
    }
    req->op.target = &target->op;
    start_io(ring, req, OP_KIND_CANCEL);
}

static void start_file(struct ring *ring, struct request *req)
{
    static const uint8_t kinds[WIRE_OPS] = {
        [WIRE_READ] = OP_KIND_READ,      [WIRE_WRITE] = OP_KIND_WRITE,
        [WIRE_FLUSH] = OP_KIND_SYNC,     [WIRE_DISCARD] = OP_KIND_PUNCH,
        [WIRE_WRITE_ZEROES] = OP_KIND_ZERO,
    };
    if (req->checked.op == WIRE_CANCEL)
        start_cancel(ring, req);
    else if (req->checked.op == WIRE_ECHO)
        answer(ring, req, -EOPNOTSUPP);
    else
        start_io(ring, req, kinds[req->checked.op]);
}

static void hand_to_backend(struct ring *ring, struct request *req)
{
    req->with_backend = true;
    req->next = NULL;
    if (ring->for_backend_last != NULL && ring->for_backend != NULL)
        ring->for_backend_last->next = req;
    else
        ring->for_backend = req;
    ring->for_backend_last = req;
    if (!ring->announced)
        add_event(ring->engine, ring, EVENT_REQUESTS, NULL);
    ring->announced = true;
}

/* Writes are forgotten, reads are zeroes. */
static void start_null(struct ring *ring, struct request *req)
{
    const struct checked *checked = &req->checked;
    if (checked->op == WIRE_READ)
        for (uint32_t i = 0; i < checked->nr_iov; i++)
            memset(checked->iov[i].iov_base, 0, checked->iov[i].iov_len);
    answer(ring, req, checked->op == WIRE_CANCEL ? -ENOENT
                                                 : (int64_t)(checked->length & INT64_MAX));
}

static void start(struct ring *ring, struct request *req)
{
    switch (ring->device.kind) {
    case DEVICE_FILE:
        start_file(ring, req);
        break;
    case DEVICE_NULL:
        start_null(ring, req);
        break;
    case DEVICE_ECHO:
        answer(ring, req, req->checked.op == WIRE_ECHO
                              ? (int64_t)(req->checked.length & INT64_MAX)
                              : -EOPNOTSUPP);
        break;
    default:
        if (req->checked.op == WIRE_CANCEL)
            answer(ring, req, find(ring, req->checked.offset) ? -EALREADY : -ENOENT);
        else
            hand_to_backend(ring, req);
    }
}

/* Copy one request out of the ring, check the copy, start it.  Bytes it will move. */
static uint64_t take_one(struct ring *ring)
{
    uint8_t raw[RAW_SIZE] = {0};
    struct request *req = ring->free;
    uint32_t size = ring->back.ring.slot_size;
    ring->free = req->next;
    req->in_service = true;
    req->in_executor = false;
    req->done = 0;
    xen_back_take(&ring->back, raw, size < RAW_SIZE ? size : RAW_SIZE);
    ring->stats.requests++;
    if (++ring->stats.in_flight > ring->stats.in_flight_peak)
        ring->stats.in_flight_peak = ring->stats.in_flight;
    int error = ring->protocol == PROTOCOL_BLKIF
                    ? decode_blkif(&ring->memory, &ring->device, raw, &req->checked)
                    : decode_io(&ring->memory, &ring->device, raw, &req->checked);
    uint64_t bytes = req->checked.length;
    if (error)
        answer(ring, req, -error);
    else
        start(ring, req);
    return bytes < MAX_TRANSFER ? bytes : MAX_TRANSFER;
}

static int64_t ready_requests(struct ring *ring)
{
    int64_t ready = ring->state == RING_CLOSING ? 0 : xen_back_ready(&ring->back);
    if (ready > 0 && ring->state == RING_DRAINING) {
        uint32_t left = ring->drain_until - ring->back.req_cons;
        return left < ready ? left : ready;
    }
    return ready;
}

/* One turn for one ring: true if it took anything. */
static bool serve(struct ring *ring)
{
    int64_t ready = ready_requests(ring);
    if (ready < 0) {
        break_ring(ring, "req_prod claims more requests than the ring has slots");
        return true;
    }
    uint64_t bytes = 0;
    uint32_t taken = 0;
    while (taken < ready && taken < TURN_REQUESTS && bytes < TURN_BYTES) {
        bytes += take_one(ring);
        taken++;
    }
    if (taken > 0) {
        ring->worked = true;
        ring->empty_wakes = 0;
        ring->arm_after_ns = 0;
    }
    return taken > 0;
}

/* ---- completions --------------------------------------------------------------- */

/* Drop the first `count` bytes of what is still to be moved. */
static void advance(struct op *op, uint64_t count)
{
    op->offset += count;
    while (op->nr_iov > 0 && count >= op->iov[0].iov_len) {
        count -= op->iov[0].iov_len;
        op->iov++;
        op->nr_iov--;
    }
    if (op->nr_iov > 0) {
        op->iov[0].iov_base = (uint8_t *)op->iov[0].iov_base + count;
        op->iov[0].iov_len -= count;
    }
}

static void resubmit(struct ring *ring, struct request *req)
{
    req->in_executor = true;
    submit(ring, &req->op);
}

/* A transfer that moved only a part goes on; one that moves nothing is an I/O error. */
static void transfer_done(struct ring *ring, struct request *req)
{
    int32_t result = req->op.result;
    if (result < 0) {
        answer(ring, req, result);
        return;
    }
    req->done += (uint32_t)result;
    if (req->done >= req->checked.length || result == 0) {
        answer(ring, req, req->done == req->checked.length ? (int64_t)req->done : -EIO);
        return;
    }
    advance(&req->op, (uint32_t)result);
    if (ring->state == RING_CLOSING)
        answer(ring, req, -ECANCELED);
    else
        resubmit(ring, req);
}

static void request_done(struct ring *ring, struct request *req)
{
    req->in_executor = false;
    switch (req->op.kind) {
    case OP_KIND_READ:
    case OP_KIND_WRITE:
        transfer_done(ring, req);
        break;
    case OP_KIND_ZERO:
        if (req->op.result == -EOPNOTSUPP && ring->state != RING_CLOSING) {
            req->op.kind = OP_KIND_PUNCH;
            resubmit(ring, req);
            break;
        }
        /* fall through */
    default:
        answer(ring, req, req->op.result);
    }
}

static void bell_done(struct ring *ring)
{
    ring->bell_armed = false;
    if (ring->bell.result < 0)
        return;
    notifier_drain(ring->wait_fd);
    ring->stats.wakes++;
    if (ring->worked || ring->state != RING_SERVING || ready_requests(ring) != 0)
        return;
    ring->stats.spurious_wakes++;
    if (++ring->empty_wakes > STORM_WAKES) {
        uint32_t shift = ring->empty_wakes - STORM_WAKES;
        shift = shift > STORM_MAX_SHIFT ? STORM_MAX_SHIFT : shift;
        ring->arm_after_ns = now_ns() + ((uint64_t)STORM_DELAY_NS << shift);
    }
}

static void completed(struct engine *engine, struct op *op)
{
    if (op->role == ROLE_CONTROL) {
        engine->control_armed = false;
        event_drain(engine->control_fd);
        return;
    }
    struct ring *ring = op->owner;
    ring->operations--;
    if (op->role == ROLE_BELL)
        bell_done(ring);
    else if (op->role == ROLE_REQUEST)
        request_done(ring, (struct request *)op);
}

/* ---- answers of backends, from other threads ------------------------------------- */

void engine_complete(engine *engine, uint32_t ring, uint32_t index, uint32_t generation,
                     int64_t result)
{
    pthread_mutex_lock(&engine->mutex);
    if (engine->nr_injected < engine->stats.credit) {
        engine->injected[engine->nr_injected++] =
            (struct injected){ring, index, generation, result};
        atomic_store_explicit(&engine->any_injected, 1, memory_order_release);
    }
    pthread_mutex_unlock(&engine->mutex);
    uint64_t one = 1;
    ssize_t ignored = write(engine->control_fd, &one, sizeof one);
    (void)ignored;
}

static void take_injected(struct engine *engine)
{
    if (atomic_load_explicit(&engine->any_injected, memory_order_acquire) == 0)
        return;
    pthread_mutex_lock(&engine->mutex);
    for (uint32_t i = 0; i < engine->nr_injected; i++) {
        struct injected *one = &engine->injected[i];
        struct ring *ring = ring_of(engine, one->ring);
        if (ring == NULL || one->index >= ring->back.ring.nr_slots)
            continue;
        struct request *req = &ring->requests[one->index];
        if (req->with_backend && req->generation == one->generation)
            answer(ring, req, one->result);
    }
    engine->nr_injected = 0;
    atomic_store_explicit(&engine->any_injected, 0, memory_order_relaxed);
    pthread_mutex_unlock(&engine->mutex);
}

int engine_take(engine *engine, uint32_t number, struct backend_request *out, int max)
{
    struct ring *ring = ring_of(engine, number);
    int count = 0;
    if (ring == NULL)
        return 0;
    for (; ring->for_backend != NULL && count < max; count++) {
        struct request *req = ring->for_backend;
        ring->for_backend = req->next;
        struct backend_request *one = &out[count];
        *one = (struct backend_request){
            .id = req->checked.id,
            .index = (uint32_t)(req - ring->requests),
            .generation = req->generation,
            .op = req->checked.op,
            .nr_segments = req->checked.nr_iov,
            .offset = req->checked.offset,
            .length = req->checked.length,
        };
        for (uint32_t i = 0; i < req->checked.nr_iov; i++) {
            uint8_t *base = req->checked.iov[i].iov_base;
            one->segments[i].offset = (uint64_t)(base - ring->memory.base);
            one->segments[i].length = (uint32_t)req->checked.iov[i].iov_len;
        }
    }
    ring->announced = ring->for_backend != NULL;
    return count;
}

/* ---- letting a ring go --------------------------------------------------------------- */

static void let_go(struct ring *ring, struct op *canceller, struct op *target)
{
    *canceller = (struct op){.kind = OP_KIND_CANCEL, .role = ROLE_LETTING_GO, .owner = ring,
                             .target = target, .buffer = -1};
    submit(ring, canceller);
}

static void drop_requests(struct ring *ring)
{
    for (uint32_t i = 0; i < ring->back.ring.nr_slots; i++) {
        struct request *req = &ring->requests[i];
        if (req->in_executor && req->op.kind != OP_KIND_CANCEL)
            let_go(ring, &req->canceller, &req->op);
        else if (req->with_backend)
            give_back(ring, req);
    }
    ring->for_backend = NULL;
}

static void drop_bell(struct ring *ring)
{
    if (ring->bell_armed && ring->bell_canceller.owner == NULL)
        let_go(ring, &ring->bell_canceller, &ring->bell);
}

int engine_detach(engine *engine, uint32_t number, bool drain)
{
    struct ring *ring = ring_of(engine, number);
    if (ring == NULL || (ring->detached && (drain || ring->state != RING_DRAINING)))
        return -ENOENT;
    ring->detached = true;
    if (drain && ring->state == RING_SERVING) {
        int64_t ready = xen_back_ready(&ring->back);
        ring->drain_until = ring->back.req_cons + (uint32_t)(ready > 0 ? ready : 0);
        ring->state = RING_DRAINING;
    } else {
        ring->state = RING_CLOSING;
        drop_requests(ring);
    }
    drop_bell(ring);
    return 0;
}

static void free_ring(struct ring *ring)
{
    const struct executor_calls *calls = ring->engine->exec->calls;
    if (ring->bell_file >= 0)
        calls->remove_file(ring->engine->exec, ring->bell_file);
    if (ring->device_file >= 0)
        calls->remove_file(ring->engine->exec, ring->device_file);
    if (ring->buffer >= 0)
        calls->remove_buffer(ring->engine->exec, ring->buffer);
    free(ring->requests);
    free(ring->iovs);
    free(ring);
}

/* Operations one ring may have out at once: a request, its cancel, doorbell, its cancel. */
static uint64_t ring_credit(uint32_t slots)
{
    return 2 * (uint64_t)slots + 2;
}

/* True once nothing of the ring is anywhere any more: then it is gone. */
static bool finish_detach(struct engine *engine, struct ring *ring)
{
    if (!ring->detached || ring->operations > 0 || ring->dirty)
        return false;
    if (ring->state == RING_DRAINING && (ring->stats.in_flight > 0 || ready_requests(ring) > 0))
        return false;
    pthread_mutex_lock(&engine->mutex);
    engine->rings[ring->number % MAX_RINGS] = NULL;
    while (engine->nr_rings > 0 && engine->rings[engine->nr_rings - 1] == NULL)
        engine->nr_rings--;
    engine->stats.credit_used -= ring_credit(ring->back.ring.nr_slots);
    pthread_mutex_unlock(&engine->mutex);
    add_event(engine, ring, EVENT_DETACHED, NULL);
    free_ring(ring);
    return true;
}

/* ---- the loop ------------------------------------------------------------------------- */

static int64_t look(void *arg)
{
    struct engine *engine = arg;
    if (atomic_load_explicit(&engine->woken, memory_order_acquire) ||
        atomic_load_explicit(&engine->any_injected, memory_order_acquire) ||
        engine->exec->calls->pending(engine->exec))
        return 1;
    for (uint32_t i = 0; i < engine->nr_rings; i++)
        if (engine->rings[i] != NULL && ready_requests(engine->rings[i]) != 0)
            return 1;
    return 0;
}

static void arm(struct ring *ring, uint64_t now)
{
    if (ring->bell_armed || ring->state != RING_SERVING)
        return;
    if (ring->arm_after_ns > now) {
        if (ring->arm_after_ns < ring->engine->arm_next_ns)
            ring->engine->arm_next_ns = ring->arm_after_ns;
        return;
    }
    ring->bell_armed = true;
    ring->worked = false;
    submit(ring, &ring->bell);
}

static void arm_control(struct engine *engine)
{
    if (engine->control_armed)
        return;
    engine->control_armed = true;
    engine->exec->calls->submit(engine->exec, &engine->control_bell);
}

/* Announce on every ring, arm every doorbell, look once more. */
static int64_t final_check(void *arg)
{
    struct engine *engine = arg;
    uint64_t now = now_ns();
    int64_t found = 0;
    engine->arm_next_ns = NO_DEADLINE;
    arm_control(engine);
    for (uint32_t i = 0; i < engine->nr_rings; i++) {
        struct ring *ring = engine->rings[i];
        if (ring == NULL || ring->state == RING_CLOSING)
            continue;
        if (xen_back_final_check(&ring->back) != 0 && ready_requests(ring) != 0)
            found = 1;
        arm(ring, now);
    }
    return found ? found : look(engine);
}

static enum wait_result sleep_engine(void *arg, uint64_t deadline_ns)
{
    struct engine *engine = arg;
    uint64_t now = now_ns(), timeout = SLEEP_NS;
    if (engine->arm_next_ns != NO_DEADLINE)
        timeout = engine->arm_next_ns > now ? engine->arm_next_ns - now : 1;
    engine->stats.sleeps++;
    engine->exec->calls->enter(engine->exec, timeout);
    return WAIT_READY;
}

/* One turn for everybody: true if anything moved. */
static bool turn(struct engine *engine)
{
    bool moved = false;
    struct op *op;
    for (uint32_t i = 0; i < engine->nr_rings; i++) {
        struct ring *ring = engine->rings[(engine->first + i) % engine->nr_rings];
        if (ring != NULL && ring->state != RING_CLOSING)
            moved |= serve(ring);
    }
    engine->first = engine->nr_rings ? (engine->first + 1) % engine->nr_rings : 0;
    engine->exec->calls->enter(engine->exec, 0);
    while ((op = engine->exec->calls->reap(engine->exec)) != NULL) {
        completed(engine, op);
        moved = true;
    }
    take_injected(engine);
    for (uint32_t i = 0; i < engine->nr_rings; i++) {
        struct ring *ring = engine->rings[i];
        if (ring != NULL && ring->dirty)
            publish(ring);
        if (ring != NULL)
            moved |= finish_detach(engine, ring);
    }
    engine->stats.turns++;
    return moved;
}

static int hand_over_events(struct engine *engine, struct engine_event *events, int max)
{
    int count = engine->nr_events < (uint32_t)max ? (int)engine->nr_events : max;
    memcpy(events, engine->events, (size_t)count * sizeof *events);
    engine->nr_events -= (uint32_t)count;
    memmove(engine->events, engine->events + count, engine->nr_events * sizeof *events);
    return count;
}

int engine_run(engine *engine, struct engine_event *events, int max)
{
    const struct waiter waiter = {
        .ring = engine,
        .look = look,
        .final_check = final_check,
        .sleep = sleep_engine,
        .spin = &engine->spin,
    };
    for (;;) {
        bool moved = turn(engine);
        if (atomic_exchange_explicit(&engine->woken, false, memory_order_acquire) ||
            engine->nr_events > 0)
            return hand_over_events(engine, events, max);
        if (!moved)
            wait_once(&waiter, NO_DEADLINE);
    }
}

void engine_wake(engine *engine)
{
    atomic_store_explicit(&engine->woken, true, memory_order_release);
    uint64_t one = 1;
    ssize_t ignored = write(engine->control_fd, &one, sizeof one);
    (void)ignored;
}

/* ---- attach ------------------------------------------------------------------------------ */

static void init_memory(struct ring *ring, const struct engine_ring_spec *spec)
{
    ring->memory = (struct memory){
        .base = spec->memory,
        .size = spec->size,
        .data_offset = spec->data_offset,
        .data_size = spec->data_size,
        .grants = (struct wire_grant *)((uint8_t *)spec->memory + spec->grants_offset),
        .nr_grants = spec->grants,
    };
}

static bool spec_fits(const struct engine_ring_spec *spec)
{
    uint64_t grants_size = (uint64_t)spec->grants * sizeof(struct wire_grant);
    uint32_t least = spec->protocol == PROTOCOL_BLKIF ? RAW_SIZE : sizeof(struct wire_request);
    return spec->ring_offset <= spec->size && spec->ring_size <= spec->size - spec->ring_offset &&
           spec->grants_offset <= spec->size && grants_size <= spec->size - spec->grants_offset &&
           spec->data_offset <= spec->size && spec->data_size <= spec->size - spec->data_offset &&
           spec->slot_size >= least && spec->grants_offset % 8 == 0;
}

static bool init_requests(struct ring *ring, uint32_t slots)
{
    ring->requests = calloc(slots, sizeof *ring->requests);
    ring->iovs = calloc((size_t)slots * MAX_SEGMENTS, sizeof *ring->iovs);
    if (ring->requests == NULL || ring->iovs == NULL)
        return false;
    for (uint32_t i = slots; i-- > 0;) {
        struct request *req = &ring->requests[i];
        req->ring = ring;
        req->op.role = ROLE_REQUEST;
        req->op.owner = ring;
        req->checked.iov = &ring->iovs[(size_t)i * MAX_SEGMENTS];
        req->next = ring->free;
        ring->free = req;
    }
    return true;
}

/* The files and buffers the executor must know; a buffer is only an optimisation. */
static int register_ring(struct ring *ring)
{
    struct executor *exec = ring->engine->exec;
    ring->bell_file = exec->calls->add_file(exec, ring->wait_fd);
    if (ring->bell_file < 0)
        return ring->bell_file;
    if (ring->device.kind == DEVICE_FILE) {
        ring->device_file = exec->calls->add_file(exec, ring->device.fd);
        if (ring->device_file < 0)
            return ring->device_file;
        if (ring->memory.data_size > 0)
            ring->buffer = exec->calls->add_buffer(
                exec, ring->memory.base + ring->memory.data_offset, ring->memory.data_size);
    }
    ring->stats.fixed_buffer = ring->buffer >= 0;
    ring->bell = (struct op){.kind = OP_KIND_BELL, .role = ROLE_BELL, .owner = ring,
                             .file = ring->bell_file, .buffer = -1};
    return 0;
}

static int free_place(struct engine *engine)
{
    for (int i = 0; i < MAX_RINGS; i++)
        if (engine->rings[i] == NULL)
            return i;
    return -ENFILE;
}

static int attach(struct engine *engine, struct ring *ring, const struct engine_ring_spec *spec)
{
    if (!spec_fits(spec) ||
        !xen_bind(&ring->back.ring, (uint8_t *)spec->memory + spec->ring_offset, spec->ring_size,
                  (enum ring_layout)spec->ring_layout, spec->slots, spec->slot_size))
        return -EINVAL;
    xen_back_attach(&ring->back, spec->start);
    init_memory(ring, spec);
    if (!init_requests(ring, spec->slots))
        return -ENOMEM;
    return register_ring(ring);
}

int engine_attach(engine *engine, const struct engine_ring_spec *spec,
                  const struct engine_device *device)
{
    int place = free_place(engine);
    if (place < 0)
        return place;
    if (engine->stats.credit_used + ring_credit(spec->slots) > engine->stats.credit)
        return -ENOBUFS;
    struct ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL)
        return -ENOMEM;
    ring->engine = engine;
    ring->number = (engine->lives++ % (INT32_MAX / MAX_RINGS)) * MAX_RINGS + (uint32_t)place;
    ring->protocol = spec->protocol;
    ring->device = *device;
    ring->wait_fd = spec->wait_fd;
    ring->notify_fd = spec->notify_fd;
    ring->bell_file = ring->device_file = ring->buffer = -1;
    int rc = attach(engine, ring, spec);
    if (rc < 0) {
        free_ring(ring);
        return rc;
    }
    pthread_mutex_lock(&engine->mutex);
    engine->stats.credit_used += ring_credit(spec->slots);
    engine->rings[place] = ring;
    if ((uint32_t)place >= engine->nr_rings)
        engine->nr_rings = (uint32_t)place + 1;
    pthread_mutex_unlock(&engine->mutex);
    return (int)ring->number;
}

/* ---- life, statistics ---------------------------------------------------------------------- */

static struct executor *make_executor(int kind, uint32_t entries, uint32_t credit, uint64_t seed,
                                      int *error, const char **where)
{
    switch (kind) {
    case ENGINE_URING:
        return exec_uring(entries, credit, error, where);
    case ENGINE_THREADS:
        return exec_threads(error, where);
    default:
        return exec_mock(seed, error, where);
    }
}

engine *engine_new(int kind, uint64_t spin_ns, uint32_t entries, uint32_t credit, uint64_t seed,
                   int *error, const char **where)
{
    struct engine *engine = calloc(1, sizeof *engine);
    *error = -ENOMEM;
    *where = "memory";
    if (engine == NULL)
        return NULL;
    pthread_mutex_init(&engine->mutex, NULL);
    engine->spin.max_ns = spin_ns;
    engine->stats.credit = credit - 1;
    engine->control_fd = -1;
    notifier_open(&engine->notifier);
    engine->injected = calloc(credit, sizeof *engine->injected);
    if (engine->injected != NULL)
        engine->exec = make_executor(kind, entries, credit, seed, error, where);
    if (engine->exec != NULL) {
        engine->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        *where = "eventfd";
        *error = engine->control_fd < 0 ? -errno : 0;
    }
    if (*error < 0) {
        engine_free(engine);
        return NULL;
    }
    return engine;
}

const char *engine_name(engine *engine)
{
    return engine->exec->calls->name;
}

int engine_start(engine *engine)
{
    int rc = engine->exec->calls->start(engine->exec);
    if (rc < 0)
        return rc;
    engine->control_file = engine->exec->calls->add_file(engine->exec, engine->control_fd);
    if (engine->control_file < 0)
        return engine->control_file;
    engine->control_bell = (struct op){.kind = OP_KIND_BELL, .role = ROLE_CONTROL,
                                       .file = engine->control_file, .buffer = -1};
    return 0;
}

int engine_ring_stats(engine *engine, uint32_t number, struct engine_ring_stats *out)
{
    pthread_mutex_lock(&engine->mutex);
    struct ring *ring = ring_of(engine, number);
    if (ring != NULL)
        *out = ring->stats;
    pthread_mutex_unlock(&engine->mutex);
    return ring == NULL ? -ENOENT : 0;
}

void engine_stats(engine *engine, struct engine_stats *out)
{
    pthread_mutex_lock(&engine->mutex);
    *out = engine->stats;
    out->enters = engine->exec->calls->enters(engine->exec);
    pthread_mutex_unlock(&engine->mutex);
}

void engine_free(engine *engine)
{
    if (engine->exec != NULL) {
        for (uint32_t i = 0; i < MAX_RINGS; i++)
            if (engine->rings[i] != NULL)
                free_ring(engine->rings[i]);
        engine->exec->calls->destroy(engine->exec);
    }
    if (engine->control_fd >= 0)
        close(engine->control_fd);
    notifier_close(&engine->notifier);
    pthread_mutex_destroy(&engine->mutex);
    free(engine->injected);
    free(engine);
}
