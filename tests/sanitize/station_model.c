/* The station of a delay device against a model that has neither heap nor list.
 *
 * random: visits come, leave and are abandoned at random, time goes on in leaps, and
 *   whoever leaves must be whom the model names, with the times that it gives.
 * loop: `customers` go round and round; the caller looks only every `late_ns`.  What
 *   was served in how long must be what the servers can do, and L = X R.
 */
#include "station.h"

#include "check.h"

enum { VISITS = 300, STEPS = 3000 };

/* ---- the model: for each visit its place and times, all found by looking at all ---- */

struct modelled {
    enum visit_place place;
    uint64_t came, arrived_ns, began_ns, due_ns, order;
};

static struct modelled model[VISITS];
static struct visit visits[VISITS];
static uint64_t servers, service_ns, came, begun;

static uint32_t modelled_in(enum visit_place place)
{
    uint32_t count = 0;
    for (int i = 0; i < VISITS; i++)
        count += model[i].place == place;
    return count;
}

/* Whom to name first: in the queue who came first, in service who is due first. */
static int first_in(enum visit_place place)
{
    int best = -1;
    for (int i = 0; i < VISITS; i++) {
        const struct modelled *one = &model[i], *other = best < 0 ? NULL : &model[best];
        if (one->place != place)
            continue;
        bool sooner = other == NULL ||
                      (place == VISIT_QUEUED ? one->came < other->came
                       : one->due_ns != other->due_ns ? one->due_ns < other->due_ns
                                                      : one->order < other->order);
        best = sooner ? i : best;
    }
    return best;
}

static void model_begin(int which, uint64_t free_ns)
{
    struct modelled *one = &model[which];
    one->place = VISIT_IN_SERVICE;
    one->began_ns = free_ns > one->arrived_ns ? free_ns : one->arrived_ns;
    /* The times drawn are the station's own: their mean is another test's. */
    one->due_ns = visits[which].due_ns;
    one->order = begun++;
    CHECK(visits[which].began_ns == one->began_ns, "visit %d", which);
    CHECK(service_ns == 0 || one->due_ns == one->began_ns + service_ns, "visit %d", which);
}

static void model_end(int which, uint64_t free_ns)
{
    bool served = model[which].place == VISIT_IN_SERVICE;
    model[which].place = VISIT_NONE;
    int next = first_in(VISIT_QUEUED);
    if (served && next >= 0)
        model_begin(next, free_ns);
}

static void arrive(struct station *station, int which, uint64_t now)
{
    model[which] = (struct modelled){VISIT_QUEUED, came++, now, 0, 0, 0};
    bool idle = modelled_in(VISIT_IN_SERVICE) < servers;
    station_arrive(station, &visits[which], now);
    if (idle)
        model_begin(which, now);
}

static void leave(struct station *station, uint64_t now)
{
    for (;;) {
        int due = first_in(VISIT_IN_SERVICE);
        bool any = due >= 0 && model[due].due_ns <= now;
        struct visit *visit = station_leave(station, now);
        CHECK(visit == (any ? &visits[due] : NULL), "%d is due", due);
        if (!any)
            return;
        model_end(due, model[due].due_ns);
    }
}

static void abandon(struct station *station, int which, uint64_t now)
{
    station_abandon(station, &visits[which], now);
    uint64_t due_ns = model[which].due_ns;
    model_end(which, now < due_ns ? now : due_ns);
}

static void random_visits(uint64_t seed)
{
    uint64_t state = seed * 2654435761u + 1, now = 1000;
    struct station_plan plan = {
        .servers = 1 + chance(&state, 40),
        .service_ns = 1 + chance(&state, 2000),
        .exponential = chance(&state, 2),
        .seed = seed,
    };
    servers = plan.servers;
    service_ns = plan.exponential ? 0 : plan.service_ns;
    struct station *station = station_new(&plan);
    for (int step = 0; step < STEPS; step++) {
        int which = (int)chance(&state, VISITS);
        now += chance(&state, 4) == 0 ? chance(&state, 300) : 0;
        if (model[which].place == VISIT_NONE)
            arrive(station, which, now);
        else if (chance(&state, 3) == 0)
            abandon(station, which, now);
        if (chance(&state, 3) == 0)
            leave(station, now);
        CHECK(visits[which].place == model[which].place, "visit %d", which);
        CHECK(station->stats.in_service == modelled_in(VISIT_IN_SERVICE), "step %d", step);
        CHECK(station->stats.queued == modelled_in(VISIT_QUEUED), "step %d", step);
        CHECK(station->stats.in_service_peak <= servers, "step %d", step);
        int due = first_in(VISIT_IN_SERVICE);
        CHECK(station_due_ns(station) == (due < 0 ? NEVER_DUE : model[due].due_ns), "due");
    }
    for (int i = 0; i < VISITS; i++)
        if (model[i].place != VISIT_NONE)
            abandon(station, i, now);
    CHECK(station->stats.in_service + station->stats.queued == 0, "somebody is left");
    station_free(station);
}

/* ---- a closed loop with a late caller ---- */

static void loop(uint32_t customers, struct station_plan plan, uint64_t late_ns, uint64_t rounds)
{
    struct station *station = station_new(&plan);
    struct visit *loopers = calloc(customers, sizeof *loopers);
    uint64_t now = 0, sojourn_ns = 0, end_ns = rounds * plan.service_ns;
    for (uint32_t i = 0; i < customers; i++)
        station_arrive(station, &loopers[i], now);
    while ((now += late_ns) <= end_ns)
        for (struct visit *visit; (visit = station_leave(station, now)) != NULL;) {
            sojourn_ns += now - visit->arrived_ns;
            station_arrive(station, visit, now);
        }
    struct station_stats *stats = &station->stats;
    printf("{\"served\": %lu, \"elapsed_ns\": %lu, \"sojourn_ns\": %lu, \"busy_ns\": %lu, "
           "\"in_service_peak\": %lu}\n",
           stats->served, end_ns, sojourn_ns, stats->busy_ns, stats->in_service_peak);
    free(loopers);
    station_free(station);
}

int main(int argc, char **argv)
{
    if (argc > 3) {
        struct station_plan plan = {.servers = argument(argc, argv, 2, 1),
                                    .service_ns = argument(argc, argv, 3, 1),
                                    .exponential = argument(argc, argv, 6, 0),
                                    .seed = argument(argc, argv, 7, 0)};
        loop(argument(argc, argv, 1, 1), plan, argument(argc, argv, 4, 1),
             argument(argc, argv, 5, 100));
        return 0;
    }
    uint32_t first = argument(argc, argv, 1, 1), seeds = argument(argc, argv, 2, 20);
    for (uint32_t seed = first; seed < first + seeds; seed++)
        random_visits(seed);
    return 0;
}
