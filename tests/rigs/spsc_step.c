/* Kill rig: a producer and a consumer stepped by single instructions.
 *
 * B makes j instructions of its life, A makes i of its own and is killed, B goes on
 * to its end: what it has loaded by then is what A's instructions make stale.  Or A
 * begins, and B makes its j before A is killed.  A life is: take the end, one put or
 * get, or the announcement that it will sleep, and give the end back.  Then successors
 * take both ends, every message is accounted for, and three laps must find the whole
 * capacity.
 *
 *   spsc_step INJECTIONS START SEED       so many random ones, up to the first failure
 *   spsc_step all START HOW PART/PARTS    B begins; every j, and i as HOW says: "each" or,
 *                                         where A's last instruction has changed what is
 *                                         shared, "stores"
 *
 * Between two stores of A the ring is the same, and a dead A is nothing else: the rest of
 * "each" repeats "stores" on purpose.  Rows of one j are dealt out to the PARTS.
 *
 * Exit status: 0 all good, 1 any failure (counted in the report), 9 rig trouble.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "spsc_rig.h"
#include "trace.h"

enum { UNITS = 4, RECORD_UNITS = 32, OWN_ID = 50, DRAIN = 16, MIXES = 18, SIZE = 1 << 16 };

/* Of processor time, in one life that is not stepped to its end. */
static const struct itimerval STUCK_AFTER = {.it_value = {.tv_usec = 200000}};

/* What a victim did, in shared memory: its parent reads it after the kill. */
struct diary {
    bool ended;    /* its life has */
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
    bool a_puts, a_begins;
    uint32_t fill;
    int steps[2];
};

static uint8_t *base;
static uint32_t start;
static struct diary *diaries;
static struct counts counts;
static struct trace traces[2];

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
    setitimer(ITIMER_PROF, &STUCK_AFTER, NULL);
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
    diary->ended = true;
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

struct pair {
    pid_t a, b;
};

static struct pair begin(const struct plan *plan)
{
    prepare(plan);
    return (struct pair){start_victim(plan, plan->a_puts, &diaries[0]),
                         start_victim(plan, !plan->a_puts, &diaries[1])};
}

/* Kill A where it is, let B go on, and judge. */
static void end(const struct plan *plan, const struct pair *pair)
{
    bury(pair->a);
    if (!diaries[1].ended && !finish(pair->b))
        counts.stuck++;
    bury(pair->b);
    judge(plan);
    counts.injections++;
}

/* One injection; steps[] become what they could be. */
static void inject(struct plan *plan)
{
    struct pair pair = begin(plan);
    if (plan->a_begins)
        plan->steps[0] = step(pair.a, plan->steps[0]);
    plan->steps[1] = step(pair.b, plan->steps[1]);
    if (!plan->a_begins)
        plan->steps[0] = step(pair.a, plan->steps[0]);
    end(plan, &pair);
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
    return (struct plan){(enum rig_kind)(mix % 3), mix / 3 % 2, false, mix / 6 * 2, {0, 0}};
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
        plan.a_begins = bits >> 63;
        plan.steps[0] = (int)((bits >> 8) % (unsigned)(lengths[mix][0] + 1));
        plan.steps[1] = (int)((bits >> 24) % (unsigned)(lengths[mix][1] + 1));
        inject(&plan);
    }
}

/* Let B make `j` instructions and A go on to its end; A's moments. */
static void trace_a(const struct plan *plan, int j)
{
    struct area shared = {base, SIZE};
    struct pair pair = begin(plan);
    run_to(pair.b, &traces[1], j);
    trace_call(pair.a, &traces[0], &shared, 1);
    end(plan, &pair);
}

static void trace_b(const struct plan *plan)
{
    struct pair pair = begin(plan);
    trace_call(pair.b, &traces[1], NULL, 0);
    end(plan, &pair);
}

static void kill_at(const struct plan *plan, int i, int j)
{
    struct pair pair = begin(plan);
    run_to(pair.b, &traces[1], j);
    run_to(pair.a, &traces[0], i);
    end(plan, &pair);
}

static void every_pair(bool stores, struct share share)
{
    for (uint32_t mix = 0; mix < MIXES; mix++) {
        struct plan plan = plan_of(mix);
        trace_b(&plan);
        for (int j = 0; j < traces[1].count; j++) {
            if (!is_mine(&share))
                continue;
            trace_a(&plan, j);
            for (int i = 0; i < traces[0].count; i++)
                if (!stores || traces[0].moments[i].changed)
                    kill_at(&plan, i, j);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 9;
    start = (uint32_t)strtoul(argv[2], NULL, 0);
    base = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        rig_die("mmap");
    diaries = (struct diary *)(base + SIZE / 2);
    trace_pin();
    if (strcmp(argv[1], "all") == 0 && argc == 5)
        every_pair(strcmp(argv[3], "stores") == 0, share_of(argv[4]));
    else
        sample(strtoul(argv[1], NULL, 0), strtoull(argv[3], NULL, 0) | 1);
    printf("{\"injections\": %lu, \"stuck\": %lu, \"torn\": %lu, \"twice\": %lu, \"lost\": %lu, "
           "\"again\": %lu, \"unacknowledged\": %lu}\n",
           counts.injections, counts.stuck, counts.torn, counts.twice, counts.lost,
           counts.again, counts.unacknowledged);
    return failed();
}
