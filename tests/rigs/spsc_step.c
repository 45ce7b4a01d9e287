/* Kill rig: a producer and a consumer stepped by single instructions.
 *
 * A makes i instructions of its life, B makes j of its own, A is killed, B goes on
 * to its end.  A life is: take the end, one put or get, or the announcement that it
 * will sleep, and give the end back.  Then successors take both ends, every message
 * is accounted for, and three laps must find the whole capacity.
 *
 *   spsc_step INJECTIONS START SEED    so many random ones, up to the first failure
 *   spsc_step all START STRIDE         every i and every STRIDEth j
 *
 * Exit status: 0 all good, 1 any failure (counted in the report), 9 rig trouble.
 */
#include <stdio.h>
#include <sys/mman.h>

#include "spsc_rig.h"
#include "trace.h"

enum { UNITS = 4, RECORD_UNITS = 32, OWN_ID = 50, DRAIN = 16, MIXES = 18 };

/* What a victim did, in shared memory: its parent reads it after the kill. */
struct diary {
    bool finished; /* the put or get has returned */
    int count;     /* messages that were there to get */
    uint32_t length, units;
    uint8_t message[RIG_SLOT_SIZE];
};

struct counts {
    unsigned long injections, stuck, torn, twice, lost;
    unsigned long again, unacknowledged; /* as promised */
};

struct plan {
    enum rig_kind kind;
    bool a_puts;
    uint32_t fill;
    int steps[2];
};

static uint8_t *base;
static uint32_t start;
static struct diary *diaries;
static struct counts counts;

static void rig_die(const char *what)
{
    perror(what);
    _exit(9);
}

/* ---- the two lives ------------------------------------------------------------------- */

static void put_once(struct spsc_end *end, const struct batch *batch, struct diary *diary)
{
    uint32_t units = rig_need(end, batch);
    if (rig_fits(end, batch, units) <= 0) {
        rig_await_fit(end, batch, units);
        return;
    }
    rig_put(end, batch, units);
    diary->finished = true;
}

static void get_once(struct spsc_end *end, struct diary *diary)
{
    int64_t ready = spsc_ready(end, 1);
    if (ready == 0)
        ready = spsc_await_message(end);
    if (ready < 1)
        return;
    diary->count = rig_peek(end, (uint32_t)ready, 1, diary->message, &diary->length,
                            &diary->units);
    spsc_release(end, diary->units);
    diary->finished = true;
}

static void live(const struct plan *plan, bool puts, struct diary *diary)
{
    struct spsc_header *header = (void *)base;
    struct spsc_end end;
    struct batch batch;
    uint64_t self = owner_self();
    rig_make(&batch, OWN_ID, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(9);
    trace_mark();
    if (!rig_take(&end, base, plan->kind, puts, self))
        _exit(9);
    if (puts)
        put_once(&end, &batch, diary);
    else
        get_once(&end, diary);
    owner_give_back(puts ? &header->producer : &header->consumer, self);
    trace_mark();
    _exit(0);
}

/* A victim stopped before the first instruction of its life. */
static pid_t start_victim(const struct plan *plan, bool puts, struct diary *diary)
{
    pid_t pid = fork();
    if (pid < 0)
        rig_die("fork");
    if (pid == 0)
        live(plan, puts, diary);
    if (next_stop(pid) != 2)
        rig_die("victim");
    return pid;
}

/* ---- one injection ------------------------------------------------------------------- */

/* Both ends in their successors' hands; false, and stuck, if one is not to be had. */
static bool take_over(const struct plan *plan, struct spsc_end ends[2])
{
    uint64_t self = owner_self();
    return rig_take(&ends[0], base, plan->kind, true, self) &&
           rig_take(&ends[1], base, plan->kind, false, self);
}

static void prepare(const struct plan *plan)
{
    struct spsc_header *header = (void *)base;
    struct spsc_end ends[2];
    struct batch batch;
    uint64_t self = owner_self();
    rig_init(base, plan->kind ? RECORD_UNITS : UNITS, plan->kind, start);
    memset(diaries, 0, 2 * sizeof *diaries);
    if (!take_over(plan, ends))
        rig_die("prepare");
    for (uint32_t i = 0; i < plan->fill; i++) {
        rig_make(&batch, i, 1);
        uint32_t units = rig_need(&ends[0], &batch);
        if (rig_fits(&ends[0], &batch, units) <= 0)
            rig_die("prefill");
        rig_put(&ends[0], &batch, units);
    }
    owner_give_back(&header->producer, self);
    owner_give_back(&header->consumer, self);
}

/* The numbers of all messages still there, in order; -1 if one is torn. */
static int drain(struct spsc_end *consumer, uint32_t *numbers)
{
    uint8_t messages[DRAIN * RIG_SLOT_SIZE];
    uint32_t lengths[DRAIN], units;
    int64_t ready = spsc_ready(consumer, consumer->units);
    int n = ready < 0 ? -1
                      : rig_peek(consumer, (uint32_t)ready, DRAIN, messages, lengths, &units);
    for (int i = 0; i < n; i++)
        if (!rig_is_whole(consumer, messages + i * RIG_SLOT_SIZE, lengths[i], &numbers[i]))
            return -1;
    if (n > 0)
        spsc_release(consumer, units);
    return n;
}

/* Who got is in `getter`: a message it released must be whole in its hands, and one
 * that it did not release comes first again. */
static void account(const struct plan *plan, const struct diary *putter,
                    const struct diary *getter, struct spsc_end *consumer)
{
    uint32_t numbers[DRAIN], got = 0, released = consumer->index != start;
    int n = drain(consumer, numbers), at = 0;
    if (n < 0 || (released && !rig_is_whole(consumer, getter->message, getter->length, &got))) {
        counts.torn++;
        return;
    }
    counts.twice += getter->finished && n > 0 && numbers[0] == got;
    counts.again += !getter->finished && getter->count > 0 && !released;
    for (uint32_t i = released ? (got == OWN_ID ? OWN_ID : got + 1) : 0; i < plan->fill; i++)
        counts.lost += at >= n || numbers[at++] != i;
    bool there = (at < n && numbers[at++] == OWN_ID) || (released && got == OWN_ID);
    counts.lost += putter->finished && !there;
    counts.unacknowledged += there && !putter->finished;
    counts.twice += at < n;
}

static void judge(const struct plan *plan)
{
    struct spsc_end ends[2];
    const struct diary *a = &diaries[0], *b = &diaries[1];
    if (!take_over(plan, ends)) {
        counts.stuck++;
        return;
    }
    account(plan, plan->a_puts ? a : b, plan->a_puts ? b : a, &ends[1]);
    spsc_producer_attach(&ends[0]);
    counts.stuck += !rig_capacity_is_whole(&ends[0], &ends[1]);
}

/* One injection; steps[] become what they could be. */
static void inject(struct plan *plan)
{
    prepare(plan);
    pid_t a = start_victim(plan, plan->a_puts, &diaries[0]);
    pid_t b = start_victim(plan, !plan->a_puts, &diaries[1]);
    int wanted = plan->steps[1];
    plan->steps[0] = step(a, plan->steps[0]);
    plan->steps[1] = step(b, wanted);
    bury(a);
    if (plan->steps[1] == wanted && step(b, MAX_STEPS) == MAX_STEPS)
        counts.stuck++;
    bury(b);
    judge(plan);
    counts.injections++;
}

/* ---- which of them ------------------------------------------------------------------- */

/* Length of a life in instructions, alone. */
static int life_length(struct plan plan, int who)
{
    plan.steps[who] = MAX_STEPS;
    plan.steps[1 - who] = 0;
    inject(&plan);
    return plan.steps[who];
}

static struct plan plan_of(uint32_t mix)
{
    return (struct plan){(enum rig_kind)(mix % 3), mix / 3 % 2, mix / 6 * 2, {0, 0}};
}

static bool failed(void)
{
    return counts.stuck || counts.torn || counts.twice || counts.lost;
}

static void sample(unsigned long injections, uint64_t seed)
{
    int lengths[MIXES][2];
    for (uint32_t mix = 0; mix < MIXES; mix++)
        for (int who = 0; who < 2; who++)
            lengths[mix][who] = life_length(plan_of(mix), who);
    while (counts.injections < injections && !failed()) {
        uint64_t bits = rig_random(&seed);
        uint32_t mix = (uint32_t)(bits % MIXES);
        struct plan plan = plan_of(mix);
        plan.steps[0] = (int)((bits >> 8) % (unsigned)(lengths[mix][0] + 1));
        plan.steps[1] = (int)((bits >> 24) % (unsigned)(lengths[mix][1] + 1));
        inject(&plan);
    }
}

static void every_pair(int stride)
{
    for (uint32_t mix = 0; mix < MIXES; mix++) {
        struct plan plan = plan_of(mix);
        int a = life_length(plan, 0), b = life_length(plan, 1);
        for (int i = 0; i <= a; i++)
            for (int j = i % stride; j <= b; j += stride) {
                plan.steps[0] = i;
                plan.steps[1] = j;
                inject(&plan);
            }
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 9;
    start = (uint32_t)strtoul(argv[2], NULL, 0);
    base = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        rig_die("mmap");
    diaries = (struct diary *)(base + (1 << 15));
    trace_pin();
    if (strcmp(argv[1], "all") == 0)
        every_pair(atoi(argv[3]));
    else
        sample(strtoul(argv[1], NULL, 0), strtoull(argv[3], NULL, 0) | 1);
    printf("{\"injections\": %lu, \"stuck\": %lu, \"torn\": %lu, \"twice\": %lu, \"lost\": %lu, "
           "\"again\": %lu, \"unacknowledged\": %lu}\n",
           counts.injections, counts.stuck, counts.torn, counts.twice, counts.lost,
           counts.again, counts.unacknowledged);
    return failed();
}
