/* How a ring comes and goes. */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <stdlib.h>

static void let_go(struct ring *ring, struct op *canceller, struct op *target)
{
    *canceller = (struct op){.kind = OP_KIND_CANCEL, .role = ROLE_LETTING_GO, .owner = ring,
                             .target = target, .buffer = -1};
    submit_op(ring, canceller);
}

static void drop_requests(struct ring *ring)
{
    for (uint32_t i = 0; i < ring->back.ring.nr_slots; i++) {
        struct request *req = &ring->requests[i];
        if (req->in_executor && req->op.kind != OP_KIND_CANCEL)
            let_go(ring, &req->canceller, &req->op);
        else if (req->with_backend)
            give_back(ring, req);
        else if (req->visit.place != VISIT_NONE)
            delay_drop(ring, req);
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

/* Another ring over the same memory, as while one is replaced: they share what the executor
 * knows of memory and device. */
static struct ring *sharer(const struct ring *ring)
{
    struct engine *engine = ring->engine;
    for (uint32_t i = 0; i < engine->nr_rings; i++) {
        struct ring *other = engine->rings[i];
        if (other != NULL && other != ring && other->memory.base == ring->memory.base)
            return other;
    }
    return NULL;
}

void free_ring(struct ring *ring)
{
    const struct executor_calls *calls = ring->engine->exec->calls;
    bool last = sharer(ring) == NULL;
    if (ring->bell_file >= 0)
        calls->remove_file(ring->engine->exec, ring->bell_file);
    if (ring->device_file >= 0 && last)
        calls->remove_file(ring->engine->exec, ring->device_file);
    if (ring->buffer >= 0 && last)
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

bool finish_detach(struct engine *engine, struct ring *ring)
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

/* ---- attach ---- */

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
    uint64_t size = spec->ring_memory != NULL ? spec->ring_memory_size : spec->size;
    return spec->ring_offset <= size && spec->ring_size <= size - spec->ring_offset &&
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
    const struct ring *other = sharer(ring);
    if (other != NULL) {
        ring->device_file = other->device_file;
        ring->buffer = other->buffer;
    } else if (ring->device.kind == DEVICE_FILE) {
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
    uint8_t *base = spec->ring_memory != NULL ? spec->ring_memory : spec->memory;
    if (!spec_fits(spec) ||
        !xen_bind(&ring->back.ring, base + spec->ring_offset, spec->ring_size,
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
    if (device->kind == DEVICE_DELAY && (uint32_t)device->station >= engine->nr_stations)
        return -EINVAL;
    struct ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL)
        return -ENOMEM;
    ring->engine = engine;
    ring->number = (engine->lives++ % (INT32_MAX / MAX_RINGS)) * MAX_RINGS + (uint32_t)place;
    ring->protocol = spec->protocol;
    ring->device = *device;
    ring->attached_ns = ring->accounted_ns = engine_now_ns(engine);
    if (device->kind == DEVICE_DELAY)
        ring->station = engine->stations[device->station];
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
