/* What the engine's own files share: rings, requests in service, and the verbs on them.
 *
 * serve.c    one request's way: taken, checked, started, done, answered
 * backend.c  the same for requests that Python answers, from other threads
 * delay.c    the same for requests that are held for a while
 * attach.c   how a ring comes and goes
 * engine.c   the loop over all rings, and the life of the engine
 */
#ifndef RINGSD_RING_H
#define RINGSD_RING_H

#include <pthread.h>

#include "engine.h"
#include "exec.h"
#include "notify.h"
#include "request.h"
#include "wait.h"
#include "xen.h"

enum { MAX_RINGS = 512, MAX_EVENTS = 4 * MAX_RINGS, MAX_STATIONS = 64 };

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
    struct visit visit;     /* at the station of a delay device */
    struct op canceller; /* cancels `op` when the ring is let go */
};

struct ring {
    struct engine *engine;
    uint32_t number;
    enum ring_state state;
    struct xen_back back;
    struct memory memory;
    struct engine_device device;
    struct station *station; /* of a delay device, else NULL */
    uint64_t looked_ns;      /* when its requests were seen, for the station */
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
    uint64_t attached_ns, accounted_ns, accounted_in_flight;
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
    struct station *stations[MAX_STATIONS];
    uint32_t nr_stations;
    pthread_mutex_t mutex; /* over the injected answers and the statistics' copy */
    struct injected *injected;
    uint32_t nr_injected;
    _Atomic uint32_t any_injected;
    struct engine_stats stats;
};

/* A ring's number is its place and a count of lives: no two rings ever share one. */
static inline struct ring *ring_of(struct engine *engine, uint32_t number)
{
    struct ring *ring = engine->rings[number % MAX_RINGS];
    return ring != NULL && ring->number == number ? ring : NULL;
}

static inline uint64_t engine_now_ns(struct engine *engine)
{
    return engine->exec->calls->now_ns(engine->exec);
}

/* ---- engine.c ---- */

void ring_control(struct engine *engine);

/* ---- serve.c ---- */

void add_event(struct engine *engine, struct ring *ring, uint32_t kind, const char *reason);
/* Lend an operation to the executor. */
void submit_op(struct ring *ring, struct op *op);
/* Write a response; it is published at the end of the turn. */
void answer(struct ring *ring, struct request *req, int64_t result);
/* What the null device answers, which forgets writes and reads zeroes. */
void answer_as_null(struct ring *ring, struct request *req);
/* The request of this id in service, if any. */
struct request *find(struct ring *ring, uint64_t id);
/* A request's record is free again; nothing is answered. */
void give_back(struct ring *ring, struct request *req);
/* Requests that may be taken now; -1 if req_prod is impossible. */
int64_t ready_requests(struct ring *ring);
/* One turn for one ring: true if it took anything. */
bool serve(struct ring *ring);
/* What an executor gave back. */
void completed(struct engine *engine, struct op *op);
/* Show the frontend its responses, and wake it if it asked for that. */
void publish(struct ring *ring);

/* ---- backend.c ---- */

void hand_to_backend(struct ring *ring, struct request *req);
/* True if there was anything to take. */
bool take_injected(struct engine *engine);

/* ---- delay.c ---- */

void delay_start(struct ring *ring, struct request *req);
/* Its ring is let go: it leaves the station, unanswered. */
void delay_drop(struct ring *ring, struct request *req);
/* When the next request of any station is to be answered, or NEVER_DUE. */
uint64_t delay_due_ns(const struct engine *engine);
bool delay_is_due(struct engine *engine);
/* Answer all that is due; true if there was any. */
bool delay_turn(struct engine *engine);

/* ---- attach.c ---- */

/* True once nothing of a ring that was let go is anywhere any more: then it is gone. */
bool finish_detach(struct engine *engine, struct ring *ring);
void free_ring(struct ring *ring);

#endif
