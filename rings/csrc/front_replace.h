/* A front goes on with another ring while requests are in flight.
 *
 *     exclude -> replace -> admit
 *
 * The leader looks at the rings without the mutex, so it must be out of its wait before
 * they change: it is woken by its own eventfd, and while `changing` nobody leads; whoever
 * waits meanwhile follows.  Then what was claimed is published in the ring that is given
 * up, the elder; from here on it brings answers only, and requests go to the new one.
 * Nothing waits for the elder to run dry but its successor's own replacement.
 */
#ifndef RINGS_FRONT_REPLACE_H
#define RINGS_FRONT_REPLACE_H

#include <stdlib.h>

#include "front.h"

/* Return with nobody leading, until front_admit.  Mutex held at entry and exit. */
static inline void front_exclude(struct front *front)
{
    uint64_t one = 1;
    store_relaxed(&front->changing, load_relaxed(&front->changing) + 1);
    while (front->leading) {
        ssize_t ignored = write(front->waiter.event_fd, &one, sizeof one);
        (void)ignored;
        front_follow(front, NO_DEADLINE);
    }
}

/* Mutex held. */
static inline void front_admit(struct front *front)
{
    store_relaxed(&front->changing, load_relaxed(&front->changing) - 1);
    if (front->followers > 0)
        pthread_cond_broadcast(&front->changed);
}

static inline bool front_elder_idle(void *arg)
{
    struct front *front = arg;
    return !front->has_elder || xen_front_idle(&front->elder);
}

/* Room for `nr` calls in flight, and never less than before; false without memory.  Calls
 * keep their index, not their address.  Mutex held. */
static inline bool front_grow(struct front *front, uint32_t nr)
{
    if (nr <= front->nr_calls)
        return true;
    uint32_t *done = calloc(nr, sizeof *done);
    struct call *calls = realloc(front->calls, nr * sizeof *calls);
    uint32_t *spare = realloc(front->free, nr * sizeof *spare);
    front->calls = calls != NULL ? calls : front->calls;
    front->free = spare != NULL ? spare : front->free;
    if (done == NULL || calls == NULL || spare == NULL) {
        free(done);
        return false;
    }
    for (uint32_t i = 0; i < front->nr_done; i++)
        done[i] = front->done[(front->first_done + i) % front->nr_calls];
    free(front->done);
    front->done = done;
    front->first_done = 0;
    for (uint32_t i = nr; i-- > front->nr_calls;) {
        calls[i] = (struct call){.generation = 1};
        spare[front->nr_free++] = i;
    }
    front->nr_calls = nr;
    return true;
}

/* Mutex held, nobody leads, the elder is idle. */
static inline void front_replace(struct front *front, const struct xen_ring *next, uint32_t start,
                                 int notify_fd)
{
    front_flush(front);
    xen_front_move(&front->elder, &front->ring);
    front->has_elder = true;
    front->ring.ring = *next;
    xen_front_attach(&front->ring, start);
    front->notify_fd = notify_fd;
    limit_resize(&front->limit, next->nr_slots);
}

#endif
