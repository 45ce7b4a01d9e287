/* limit.h against devices that exist on paper only, on a clock that is a number.
 *
 *   limit_sim RULE DEVICE A B REQUESTS WANTED [REQUESTS2 A2 [SEED]]
 *
 * RULE is `auto`, a number (that limit and no other), or `queue`: the control, the rule of
 * byte queue limits in a few lines.  DEVICE is `fixed` or `random` (A servers, service time
 * B ns, 5 % of chance or exponential) or `batch` (takes all that waits: A ns, and B more for
 * each).  WANTED requests are kept in flight as far as the limit lets.  After REQUESTS2 the
 * device's A becomes A2.  Prints over the last third: limit, answers a second, mean ns in
 * the ring, times raised, times lowered.
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
    uint64_t due[MOST]; /* of what is in service, in no order */
    uint32_t busy, waiting;
};

static double service(const struct device *device)
{
    if (strcmp(device->kind, "random") == 0)
        return -log(unit()) * device->b + 1;
    return device->b * (0.95 + 0.1 * unit());
}

static void start(struct device *device, uint64_t now)
{
    if (strcmp(device->kind, "batch") == 0) {
        if (device->busy > 0 || device->waiting == 0)
            return;
        uint64_t end = now + (uint64_t)((device->a + device->b * device->waiting) *
                                        (0.8 + 0.4 * unit()));
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

/* ---- a closed loop ---------------------------------------------------------------- */

int main(int argc, char **argv)
{
    CHECK(argc >= 7, "seven arguments");
    bool adapts = strcmp(argv[1], "auto") == 0, queue = strcmp(argv[1], "queue") == 0;
    struct device device = {.kind = argv[2], .a = atof(argv[3]), .b = atof(argv[4])};
    uint32_t requests = argument(argc, argv, 5, 0), wanted = argument(argc, argv, 6, 0);
    uint32_t change = argument(argc, argv, 7, UINT32_MAX), in_flight = 0, answered = 0;
    chance_state += 7919 * (uint64_t)argument(argc, argv, 9, 0);
    struct queue_rule rule = {.limit = LIMIT_FIRST, .least_slack = MOST};
    struct limit limit;
    if (adapts)
        limit_adapt(&limit, LIMIT_LEAST, MOST, LIMIT_HOLD_NS);
    else
        limit_fix(&limit, queue ? MOST : argument(argc, argv, 1, 0));
    uint64_t now = 1000000, from = 0;
    uint32_t from_answered = 0;
    double area = 0;
    while (answered < requests) {
        uint32_t most = queue ? (uint32_t)rule.limit : limit.now;
        most = most < wanted ? most : wanted;
        while (in_flight < most && in_flight < MOST) {
            in_flight++;
            rule.queued++;
            device.waiting++;
        }
        if (adapts)
            limit_note(&limit, now, in_flight, 0);
        start(&device, now);
        uint64_t then = next_due(&device);
        if (from > 0)
            area += (double)in_flight * (double)(then - now);
        now = then;
        uint32_t done = finish(&device, now);
        answered += done;
        in_flight -= done;
        if (adapts)
            limit_note(&limit, now, in_flight, done);
        if (queue)
            queue_completed(&rule, done, most < wanted, now);
        if (answered >= change && answered - done < change)
            device.a = atof(argv[8]);
        if (from == 0 && answered >= requests / 3 * 2)
            from = now, from_answered = answered;
    }
    uint32_t counted = answered - from_answered;
    printf("%u %.0f %.0f %lu %lu\n", queue ? (uint32_t)rule.limit : adapts ? limit.base : limit.now,
           counted * 1e9 / (double)(now - from), area / counted,
           (unsigned long)(adapts ? limit.raised : 0), (unsigned long)(adapts ? limit.lowered : 0));
    return 0;
}
