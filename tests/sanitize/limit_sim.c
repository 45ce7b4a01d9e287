/* limit.h against devices that exist on paper only, on a clock that is a number.
 *
 *   limit_sim RULE DEVICE A B REQUESTS WANTED [NAME=NUMBER ...]
 *
 * RULE is `auto`, a number (that limit and no other), or `queue`: the control, the rule of
 * byte queue limits in a few lines.  DEVICE is `fixed` or `random` (A servers, service time
 * B ns, 5 % of chance or exponential) or `batch` (takes all that waits: A ns, and B more for
 * each).  WANTED requests are kept in flight as far as the limit lets.  Prints over the last
 * third: limit, answers a second of work, mean ns in the ring, times raised, times lowered.
 *
 *   change=N after=A     after N answers the device's A becomes this
 *   seed=N               other chance
 *   even=1               without the 5 % of chance
 *   unrest=X             every 5 ms the device is quicker or slower, by as much as this part
 *   begin=NS each=NS     what the user needs to write requests, and for each one of them
 *   group=N              so many are put at once, or none
 *   burst=N pause=NS     after so many, and all their answers, the user does something else
 *   every=N crowd=M few=L   of N answers M are wanted as said, the others with L in flight
 */
#include <math.h>
#include <string.h>

#include "check.h"
#include "limit.h"

enum { MOST = 4096 };

static uint64_t chance_state = 88172645463325252u;
static double unit(void) { return (chance(&chance_state, 1 << 24) + 1) / (double)(1 << 24); }

/* ---- the control: shrink by slack, grow when the queue ran dry -------------------- */

struct queue_rule {
    double limit, queued, completed, base_queued, least_slack;
    uint64_t slack_since;
    bool was_limited, was_busy;
};

static void queue_completed(struct queue_rule *rule, double count, bool limited, uint64_t now)
{
    double done = rule->completed + count, left = rule->queued - done;
    bool all = done >= rule->base_queued;
    if ((limited && left == 0) || (rule->was_limited && all)) {
        rule->limit += fmax(done - rule->base_queued, 0) + 1;
        rule->slack_since = now;
        rule->least_slack = MOST;
    } else if (left > 0 && rule->was_busy && !all) {
        rule->least_slack = fmin(rule->least_slack, fmax(rule->limit - 2 * count, 0));
        if (now - rule->slack_since > 1000000000) {
            rule->limit = fmax(rule->limit - rule->least_slack, 1);
            rule->slack_since = now;
            rule->least_slack = MOST;
        }
    }
    rule->limit = fmin(rule->limit, MOST);
    rule->was_limited = limited;
    rule->was_busy = left > 0;
    rule->completed = done;
    rule->base_queued = rule->queued;
}

/* ---- devices ---------------------------------------------------------------------- */

struct device {
    const char *kind;
    double a, b;
    double unrest, slower; /* by what part, at most; by what factor now */
    uint64_t calm_until;
    bool even;
    uint64_t due[MOST]; /* of what is in service, in no order */
    uint32_t busy, waiting;
};

static double service(const struct device *device)
{
    double mean = device->b * device->slower;
    if (strcmp(device->kind, "random") == 0)
        return -log(unit()) * mean + 1;
    return device->even ? mean : mean * (0.95 + 0.1 * unit());
}

static void start(struct device *device, uint64_t now)
{
    if (device->unrest > 0 && now >= device->calm_until) {
        device->slower = 1 - device->unrest + 2 * device->unrest * unit();
        device->calm_until = now + 5000000;
    }
    if (strcmp(device->kind, "batch") == 0) {
        if (device->busy > 0 || device->waiting == 0)
            return;
        uint64_t end = now + (uint64_t)((device->a + device->b * device->waiting) *
                                        device->slower * (0.8 + 0.4 * unit()));
        while (device->waiting > 0 && device->waiting--)
            device->due[device->busy++] = end;
        return;
    }
    while (device->waiting > 0 && device->busy < device->a) {
        device->waiting--;
        device->due[device->busy++] = now + (uint64_t)service(device);
    }
}

static uint64_t next_due(const struct device *device)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < device->busy; i++)
        first = device->due[i] < first ? device->due[i] : first;
    return first;
}

static uint32_t finish(struct device *device, uint64_t now)
{
    uint32_t done = 0;
    for (uint32_t i = 0; i < device->busy;) {
        if (device->due[i] > now) {
            i++;
            continue;
        }
        device->due[i] = device->due[--device->busy];
        done++;
    }
    return done;
}

/* ---- a user ----------------------------------------------------------------------- */

static int nr_words;
static char **words;

/* The number that the words give this name. */
static double given(const char *name, double otherwise)
{
    size_t length = strlen(name);
    for (int i = 7; i < nr_words; i++)
        if (strncmp(words[i], name, length) == 0 && words[i][length] == '=')
            return atof(words[i] + length + 1);
    return otherwise;
}

/* Takes answers, writes requests, publishes them; one thing at a time. */
struct user {
    uint32_t wanted, group, burst, left, every, crowd, few;
    double begin, each, pause;
    uint32_t in_flight, writing;
    uint64_t busy_until; /* writing or pausing; UINT64_MAX: neither */
};

static struct user new_user(void)
{
    struct user user = {.wanted = argument(nr_words, words, 6, 0), .busy_until = UINT64_MAX};
    user.group = (uint32_t)given("group", 1);
    user.burst = user.left = (uint32_t)given("burst", UINT32_MAX);
    user.every = (uint32_t)given("every", 1);
    user.crowd = (uint32_t)given("crowd", 1);
    user.few = (uint32_t)given("few", 0);
    user.begin = given("begin", 0);
    user.each = given("each", 0);
    user.pause = given("pause", 0);
    return user;
}

static uint32_t may_put(const struct user *user, uint32_t most)
{
    uint32_t room = most > user->in_flight ? most - user->in_flight : 0;
    room = room < user->left ? room : user->left;
    return room < user->left ? room - room % user->group : room;
}

/* Begin to write, or to pause if there is nothing left to ask; how long that pause is. */
static uint64_t go_on(struct user *user, uint32_t most, uint64_t now)
{
    user->writing = may_put(user, most);
    user->left -= user->writing;
    if (user->writing > 0)
        user->busy_until = now + (uint64_t)(user->begin + user->each * user->writing);
    if (user->left > 0 || user->writing > 0 || user->in_flight > 0)
        return 0;
    user->left = user->burst;
    user->busy_until = now + (uint64_t)user->pause;
    return (uint64_t)user->pause;
}

/* ---- both of them ----------------------------------------------------------------- */

struct run {
    bool adapts, queue;
    struct limit limit;
    struct queue_rule rule;
    struct device device;
    struct user user;
    uint64_t now, paused;
    uint32_t answered, ready; /* answers taken; answers in the ring */
    double area;
};

static uint32_t most_of(const struct run *run)
{
    uint32_t most = run->queue ? (uint32_t)run->rule.limit : run->limit.now;
    const struct user *user = &run->user;
    uint32_t wanted = run->answered % user->every < user->crowd ? user->wanted : user->few;
    return most < wanted ? most : wanted;
}

static void note(struct run *run, uint32_t answered)
{
    const struct limit *limit = &run->limit;
    struct user *user = &run->user;
    if (run->adapts && answered == 0 && user->left >= user->group && user->group > 1 &&
        user->in_flight + user->group > limit->now)
        limit_reached(&run->limit);
    if (run->adapts)
        limit_note(&run->limit, run->now, user->in_flight, answered);
}

static void take(struct run *run)
{
    uint32_t done = run->ready;
    run->ready = 0;
    run->answered += done;
    run->user.in_flight -= done;
    note(run, done);
    if (run->queue)
        queue_completed(&run->rule, done, run->rule.limit < run->user.wanted, run->now);
}

static void publish(struct run *run)
{
    struct user *user = &run->user;
    user->busy_until = UINT64_MAX;
    user->in_flight += user->writing;
    run->rule.queued += user->writing;
    run->device.waiting += user->writing;
    if (user->writing > 0)
        note(run, 0);
    user->writing = 0;
}

/* From one moment to the next at which something happens. */
static void step(struct run *run)
{
    struct user *user = &run->user;
    if (user->busy_until == UINT64_MAX && run->ready > 0)
        take(run);
    if (user->busy_until == UINT64_MAX)
        run->paused += go_on(user, most_of(run), run->now);
    uint64_t due = next_due(&run->device);
    uint64_t then = due < user->busy_until ? due : user->busy_until;
    CHECK(then < UINT64_MAX, "nothing will ever happen again");
    run->area += (double)user->in_flight * (double)(then - run->now);
    run->now = then;
    run->ready += finish(&run->device, then);
    if (user->busy_until == then)
        publish(run);
    start(&run->device, then);
}

int main(int argc, char **argv)
{
    nr_words = argc;
    words = argv;
    CHECK(argc >= 7, "six arguments");
    static struct run run;
    run = (struct run){.adapts = strcmp(argv[1], "auto") == 0,
                       .queue = strcmp(argv[1], "queue") == 0,
                       .rule = {.limit = LIMIT_FIRST, .least_slack = MOST},
                       .device = {.kind = argv[2], .a = atof(argv[3]), .b = atof(argv[4]),
                                  .unrest = given("unrest", 0), .slower = 1,
                                  .even = given("even", 0) > 0},
                       .user = new_user(), .now = 1000000};
    uint32_t requests = argument(argc, argv, 5, 0);
    uint32_t change = (uint32_t)given("change", UINT32_MAX);
    chance_state += 7919 * (uint64_t)given("seed", 0);
    if (run.adapts)
        limit_adapt(&run.limit, LIMIT_LEAST, MOST, LIMIT_HOLD_NS);
    else
        limit_fix(&run.limit, run.queue ? MOST : argument(argc, argv, 1, 0));
    struct run before = {.now = 0};
    while (run.answered < requests) {
        step(&run);
        if (run.answered >= change)
            run.device.a = given("after", run.device.a);
        if (before.now == 0 && run.answered >= requests / 3 * 2)
            before = run;
    }
    uint32_t counted = run.answered - before.answered;
    uint64_t worked = run.now - before.now - (run.paused - before.paused);
    uint32_t limit = run.adapts ? run.limit.base : most_of(&run);
    printf("%u %.0f %.0f %lu %lu\n", limit, counted * 1e9 / (double)worked,
           (run.area - before.area) / counted, (unsigned long)run.limit.raised,
           (unsigned long)run.limit.lowered);
    return 0;
}
