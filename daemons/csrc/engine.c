/* The loop over all rings, and the life of the engine. */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLEEP_NS 3600000000000u

static int64_t look(void *arg)
{
    struct engine *engine = arg;
    if (atomic_load_explicit(&engine->woken, memory_order_acquire) ||
        atomic_load_explicit(&engine->any_injected, memory_order_acquire) ||
        engine->exec->calls->pending(engine->exec) || delay_is_due(engine))
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
    submit_op(ring, &ring->bell);
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
    engine->exec->alarm_ns = delay_due_ns(engine);
    engine->stats.sleeps++;
    engine->exec->calls->enter(engine->exec, timeout);
    return WAIT_READY;
}

/* The area under the curve of what is in flight at the ends of turns; while that is
 * nothing, nobody asks what time it is. */
static void account(struct ring *ring, uint64_t *now)
{
    if (ring->accounted_in_flight == 0 && ring->stats.in_flight == 0)
        return;
    if (*now == 0)
        *now = engine_now_ns(ring->engine);
    ring->stats.in_flight_ns += ring->accounted_in_flight * (*now - ring->accounted_ns);
    ring->accounted_in_flight = ring->stats.in_flight;
    ring->accounted_ns = *now;
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
    moved |= take_injected(engine);
    moved |= delay_turn(engine);
    uint64_t now = 0;
    for (uint32_t i = 0; i < engine->nr_rings; i++) {
        struct ring *ring = engine->rings[i];
        if (ring == NULL)
            continue;
        if (moved)
            account(ring, &now);
        if (ring->dirty)
            publish(ring);
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

/* End the engine's sleep; any thread may. */
void ring_control(struct engine *engine)
{
    uint64_t one = 1;
    ssize_t ignored = write(engine->control_fd, &one, sizeof one);
    (void)ignored;
}

void engine_wake(engine *engine)
{
    atomic_store_explicit(&engine->woken, true, memory_order_release);
    ring_control(engine);
}

/* ---- life, statistics ---- */

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
    if (ring != NULL) {
        uint64_t now = engine_now_ns(engine), since = ring->accounted_ns;
        *out = ring->stats;
        out->observed_ns = now - ring->attached_ns;
        out->in_flight_ns += now > since ? ring->accounted_in_flight * (now - since) : 0;
    }
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
            if (engine->rings[i] != NULL) {
                struct ring *ring = engine->rings[i];
                engine->rings[i] = NULL;
                free_ring(ring);
            }
        engine->exec->calls->destroy(engine->exec);
    }
    for (uint32_t i = 0; i < engine->nr_stations; i++)
        station_free(engine->stations[i]);
    if (engine->control_fd >= 0)
        close(engine->control_fd);
    notifier_close(&engine->notifier);
    pthread_mutex_destroy(&engine->mutex);
    free(engine->injected);
    free(engine);
}
