/* One request's way: taken, checked, started, done, answered. */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>

/* One turn takes at most this much from a ring before the next ring is looked at. */
enum { TURN_REQUESTS = 32, TURN_BYTES = 1 << 20 };
/* A doorbell that rings this often with nothing behind it is armed later and later. */
enum { STORM_WAKES = 3, STORM_MAX_SHIFT = 5 };
#define STORM_DELAY_NS 2000000u

void add_event(struct engine *engine, struct ring *ring, uint32_t kind, const char *reason)
{
    if (engine->nr_events < MAX_EVENTS)
        engine->events[engine->nr_events++] =
            (struct engine_event){.ring = ring->number, .kind = kind, .reason = reason};
}

void give_back(struct ring *ring, struct request *req)
{
    req->in_service = req->with_backend = false;
    req->generation++;
    req->next = ring->free;
    ring->free = req;
    ring->stats.in_flight--;
}

void answer(struct ring *ring, struct request *req, int64_t result)
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
    if (!notifier_raise(&ring->engine->notifier, ring->notify_fd)) {
        break_ring(ring, "the frontend made its eventfd blocking");
        return;
    }
    ring->stats.notifications_sent++;
    ring->engine->stats.notifications_sent++;
}

void publish(struct ring *ring)
{
    ring->dirty = false;
    ring->stats.batches++;
    if (xen_back_publish(&ring->back)) {
        notify_front(ring);
        return;
    }
    ring->stats.notifications_held_off++;
    ring->engine->stats.notifications_held_off++;
}

/* ---- from a request to an operation ---- */

void submit_op(struct ring *ring, struct op *op)
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
    submit_op(ring, &req->op);
}

struct request *find(struct ring *ring, uint64_t id)
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

/* Writes are forgotten, reads are zeroes. */
void answer_as_null(struct ring *ring, struct request *req)
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
        answer_as_null(ring, req);
        break;
    case DEVICE_DELAY:
        delay_start(ring, req);
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

int64_t ready_requests(struct ring *ring)
{
    int64_t ready = ring->state == RING_CLOSING ? 0 : xen_back_ready(&ring->back);
    if (ready > 0 && ring->state == RING_DRAINING) {
        uint32_t left = ring->drain_until - ring->back.req_cons;
        return left < ready ? left : ready;
    }
    return ready;
}

bool serve(struct ring *ring)
{
    int64_t ready = ready_requests(ring);
    if (ready < 0) {
        break_ring(ring, "req_prod claims more requests than the ring has slots");
        return true;
    }
    if (ready > 0 && ring->station != NULL)
        ring->looked_ns = engine_now_ns(ring->engine);
    uint64_t bytes = 0;
    uint32_t taken = 0;
    while (taken < ready && taken < TURN_REQUESTS && bytes < TURN_BYTES) {
        bytes += take_one(ring);
        taken++;
    }
    if (taken > 0) {
        ring->stats.takes++;
        ring->engine->stats.takes++;
        ring->engine->stats.requests += taken;
        ring->worked = true;
        ring->empty_wakes = 0;
        ring->arm_after_ns = 0;
    }
    return taken > 0;
}

/* ---- completions ---- */

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
    submit_op(ring, &req->op);
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

void completed(struct engine *engine, struct op *op)
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
