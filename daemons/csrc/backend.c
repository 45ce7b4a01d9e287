/* Requests that a backend in Python answers, from threads of its own. */
#define _GNU_SOURCE
#include "ring.h"

void hand_to_backend(struct ring *ring, struct request *req)
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
    ring_control(engine);
}

bool take_injected(struct engine *engine)
{
    if (atomic_load_explicit(&engine->any_injected, memory_order_acquire) == 0)
        return false;
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
    return true;
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
