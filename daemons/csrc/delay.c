/* Requests of a delay device: they spend their time in its station, then are answered. */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <sys/prctl.h>

/* The kernel may be this late to end our sleep, so that several wake-ups become one. */
enum { TIMER_SLACK_NS = 1000 };

int engine_add_station(engine *engine, const struct station_plan *plan)
{
    if (engine->nr_stations == MAX_STATIONS)
        return -ENFILE;
    if (plan->servers == 0 || plan->service_ns == 0)
        return -EINVAL;
    struct station *station = station_new(plan);
    if (station == NULL)
        return -ENOMEM;
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    pthread_mutex_lock(&engine->mutex);
    engine->stations[engine->nr_stations] = station;
    int number = (int)engine->nr_stations++;
    pthread_mutex_unlock(&engine->mutex);
    return number;
}

int engine_station_stats(engine *engine, uint32_t number, struct station_stats *out)
{
    pthread_mutex_lock(&engine->mutex);
    bool found = number < engine->nr_stations;
    if (found)
        *out = engine->stations[number]->stats;
    pthread_mutex_unlock(&engine->mutex);
    return found ? 0 : -ENOENT;
}

static struct request *request_of(struct visit *visit)
{
    return (struct request *)((uint8_t *)visit - offsetof(struct request, visit));
}

static void cancel(struct ring *ring, struct request *req)
{
    struct request *target = find(ring, req->checked.offset);
    if (target != NULL) {
        station_abandon(ring->station, &target->visit, engine_now_ns(ring->engine));
        answer(ring, target, -ECANCELED);
    }
    answer(ring, req, target != NULL ? 0 : -ENOENT);
}

void delay_start(struct ring *ring, struct request *req)
{
    if (req->checked.op == WIRE_CANCEL)
        cancel(ring, req);
    else
        station_arrive(ring->station, &req->visit, ring->looked_ns);
}

void delay_drop(struct ring *ring, struct request *req)
{
    station_abandon(ring->station, &req->visit, engine_now_ns(ring->engine));
    give_back(ring, req);
}

uint64_t delay_due_ns(const struct engine *engine)
{
    uint64_t soonest = NEVER_DUE;
    for (uint32_t i = 0; i < engine->nr_stations; i++) {
        uint64_t due_ns = station_due_ns(engine->stations[i]);
        soonest = due_ns < soonest ? due_ns : soonest;
    }
    return soonest;
}

bool delay_is_due(struct engine *engine)
{
    uint64_t due_ns = delay_due_ns(engine);
    return due_ns != NEVER_DUE && due_ns <= engine_now_ns(engine);
}

bool delay_turn(struct engine *engine)
{
    bool moved = false;
    if (delay_due_ns(engine) == NEVER_DUE)
        return false;
    uint64_t now = engine_now_ns(engine);
    for (uint32_t i = 0; i < engine->nr_stations; i++)
        for (struct visit *visit; (visit = station_leave(engine->stations[i], now)) != NULL;) {
            struct request *req = request_of(visit);
            answer_as_null(req->ring, req);
            moved = true;
        }
    return moved;
}
