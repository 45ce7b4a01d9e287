/* Kill rig: two members stepped by single instructions, one killed in between.
 *
 * B makes j instructions of its call, A makes i of its own and is killed, B goes on
 * to the end of its call without recovery; then A is buried, the ring is drained,
 * every message accounted for, and two laps must find the whole capacity.  B begins:
 * what it has loaded by then is what A's instructions make stale.
 *
 *   step SECONDS START SEED RECOVERY(0|1)   a random sample, for so long
 *   step all START RUNS(0|1) HOW PART/PARTS
 *                                           all pairs of calls with one message, or with
 *                                           a run of them; every j, and i as HOW says:
 *                                           "each" or, where A's last instruction has
 *                                           changed what is shared, "stores"
 *
 * Between two stores of A the ring is the same, and a dead A is nothing else: the rest
 * of "each" repeats "stores" on purpose.  Rows of one j are dealt out to the PARTS.
 *
 * Exit status: 0 all good, 1 any failure (counted in the report), 9 rig trouble.
 */
#include <sys/time.h>

#include "rig.h"
#include "trace.h"

enum { SLOTS = 4, MAX_IDS = 64, OWN_ID = 50 };
enum { PUT = 0, GET = 1, PUT_RUN = 2, GET_RUN = 3, CALLS = 4, RUN = 2 };

/* What a victim did, in shared memory: its parent reads it after the kill. */
struct diary {
    bool ended;
    uint32_t done; /* messages of the call that are put or got */
    uint32_t lengths[RUN];
    uint8_t messages[RUN][RIG_SLOT_SIZE];
};

/* Of processor time, in one call that is not stepped to its end. */
static const struct itimerval STUCK_AFTER = {.it_value = {.tv_usec = 200000}};

struct counts {
    unsigned long injections, stuck, torn, twice, lost, in_doubt, tombstones;
};

struct plan {
    int calls[2]; /* of A and of B */
    uint32_t fill;
    int steps[2];
};

static struct rig rig;
static struct diary *diaries;
static struct counts counts;
static struct trace traces[2];
static uint64_t at, start;

static bool is_put(int call) { return call == PUT || call == PUT_RUN; }

/* `volatile`: what is in the diary is what was done, at every instruction. */
static void note(struct diary *diary, uint64_t done)
{
    *(volatile uint32_t *)&diary->done = (uint32_t)done;
}

static void put_run(struct mpmc_member *member, struct diary *diary)
{
    struct run run = mpmc_run(member, MPMC_PUT);
    while (run.done < RUN &&
           mpmc_run_put(member, &run, diary->messages[run.done], diary->lengths[run.done]))
        note(diary, run.done);
    mpmc_run_end(member, MPMC_PUT, &run);
}

static void get_run(struct mpmc_member *member, struct diary *diary)
{
    struct run run = mpmc_run(member, MPMC_GET);
    uint32_t length;
    while (run.done < RUN && mpmc_peek(member, &run.at, &length) == MPMC_OK) {
        diary->lengths[run.done] = length;
        if (mpmc_run_get(member, &run, diary->messages[run.done], length))
            note(diary, run.done);
    }
    mpmc_run_end(member, MPMC_GET, &run);
}

static void call_it(struct mpmc_member *member, int call, uint32_t who)
{
    struct diary *diary = &diaries[who];
    for (uint32_t i = 0; i < RUN && is_put(call); i++)
        diary->lengths[i] = rig_fill(diary->messages[i], 0, OWN_ID + RUN * who + i);
    trace_mark();
    if (call == PUT)
        note(diary, mpmc_put(member, &at, diary->messages[0], diary->lengths[0]) == MPMC_OK);
    else if (call == GET)
        note(diary, mpmc_get(member, &at, diary->messages[0], &diary->lengths[0]) == MPMC_OK);
    else if (call == PUT_RUN)
        put_run(member, diary);
    else
        get_run(member, diary);
    diary->ended = true;
    trace_mark();
}

/* A victim stopped before the first instruction of its call. */
static pid_t start_victim(int call, uint32_t who)
{
    pid_t pid = fork();
    if (pid < 0)
        rig_die("fork");
    if (pid == 0) {
        struct mpmc_member member;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setitimer(ITIMER_PROF, &STUCK_AFTER, NULL);
        rig_join(&rig, &member);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(9);
        call_it(&member, call, who);
        _exit(0);
    }
    if (next_stop(pid) != 2)
        rig_die("victim");
    return pid;
}

static void fill_ring(struct mpmc_member *member, uint32_t fill)
{
    uint8_t message[RIG_SLOT_SIZE];
    for (uint32_t i = 0; i < fill; i++) {
        uint32_t length = rig_fill(message, 0, i);
        mpmc_put(member, &at, message, length);
    }
}

static void account(const uint8_t *message, uint32_t length, uint8_t *seen)
{
    uint32_t who, number;
    if (!rig_whole(message, length, &who, &number) || number >= MAX_IDS)
        counts.torn++;
    else if (seen[number]++)
        counts.twice++;
}

static bool capacity_is_whole(struct mpmc_member *member)
{
    uint8_t out[RIG_SLOT_SIZE];
    uint32_t length;
    for (int lap = 0; lap < 2; lap++) {
        uint32_t room = 0, full = 0;
        while (room <= SLOTS && mpmc_put(member, &at, "x", 1) == MPMC_OK)
            room++;
        while (full <= SLOTS && mpmc_get(member, &at, out, &length) == MPMC_OK)
            full++;
        if (room != SLOTS || full != SLOTS)
            return false;
    }
    return true;
}

/* What must be there and is not, beyond what is counted in doubt. */
static void count_lost(const struct plan *plan, const uint8_t *seen, uint64_t in_doubt)
{
    uint64_t lost = 0;
    for (uint32_t i = 0; i < plan->fill; i++)
        lost += seen[i] == 0;
    for (uint32_t who = 0; who < 2; who++)
        for (uint32_t i = 0; i < diaries[who].done && is_put(plan->calls[who]); i++)
            lost += seen[OWN_ID + RUN * who + i] == 0;
    if (lost > in_doubt)
        counts.lost += lost - in_doubt;
}

static void account_got(const struct diary *diary, uint8_t *seen)
{
    for (uint32_t i = 0; i < diary->done; i++)
        account(diary->messages[i], diary->lengths[i], seen);
}

/* A killed getter that is not in doubt has freed its slot or taken none: the copy
 * it made before freeing tells. */
static void credit_copy(const struct diary *diary, uint8_t *seen)
{
    uint32_t who, number, i = diary->done;
    if (i < RUN && diary->lengths[i] != 0 &&
        rig_whole(diary->messages[i], diary->lengths[i], &who, &number) &&
        number < MAX_IDS && seen[number] == 0)
        seen[number] = 1;
}

static void judge(const struct plan *plan, struct mpmc_member *member, bool recovery)
{
    uint8_t seen[MAX_IDS] = {0}, out[RIG_SLOT_SIZE];
    uint32_t length;
    if (recovery)
        owner_recover_all(&member->ring, &member->self, member->lock_fd);
    uint64_t in_doubt = rig_losses(&member->ring, true);
    while (mpmc_get(member, &at, out, &length) == MPMC_OK)
        account(out, length, seen);
    for (uint32_t who = 0; who < 2; who++)
        if (!is_put(plan->calls[who]))
            account_got(&diaries[who], seen);
    if (!is_put(plan->calls[0]) && in_doubt == 0)
        credit_copy(&diaries[0], seen);
    count_lost(plan, seen, in_doubt);
    counts.in_doubt += in_doubt;
    counts.tombstones += rig_losses(&member->ring, false);
    counts.stuck += !capacity_is_whole(member);
}

struct pair {
    struct mpmc_member member; /* who looks on */
    pid_t a, b;
};

static struct pair begin(const struct plan *plan)
{
    struct pair pair;
    struct mpmc ring;
    if (!mpmc_bind(&ring, rig.base, rig.size, SLOTS, RIG_SLOT_SIZE))
        rig_die("bind");
    mpmc_init(&ring, start);
    memset(diaries, 0, 2 * sizeof *diaries);
    rig_join(&rig, &pair.member);
    fill_ring(&pair.member, plan->fill);
    pair.a = start_victim(plan->calls[0], 0);
    pair.b = start_victim(plan->calls[1], 1);
    return pair;
}

/* Kill A where it is, let B go on, and judge. */
static void end(const struct plan *plan, struct pair *pair, bool recovery)
{
    bury(pair->a);
    if (!diaries[1].ended && !finish(pair->b))
        counts.stuck++;
    bury(pair->b);
    judge(plan, &pair->member, recovery);
    mpmc_leave(&pair->member);
    counts.injections++;
}

/* One injection; steps[] become what they could be.  A has ended if fewer. */
static void inject(struct plan *plan, bool recovery)
{
    struct pair pair = begin(plan);
    plan->steps[1] = step(pair.b, plan->steps[1]);
    plan->steps[0] = step(pair.a, plan->steps[0]);
    end(plan, &pair, recovery);
}

/* Length of a call in instructions, alone. */
static int call_length(struct plan plan, int who)
{
    plan.steps[who] = MAX_STEPS;
    plan.steps[1 - who] = 0;
    inject(&plan, true);
    return plan.steps[who];
}

static void sample(double seconds, uint64_t seed, bool recovery)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    int lengths[CALLS];
    for (int call = 0; call < CALLS; call++)
        lengths[call] = call_length((struct plan){{call, PUT}, 2, {0, 0}}, 0);
    while (now_ns() < until) {
        uint64_t bits = rig_random(&seed);
        struct plan plan = {{bits & 3, bits >> 2 & 3}, (bits >> 4) % 3 * 2, {0, 0}};
        plan.steps[0] = (int)((bits >> 8) % (unsigned)lengths[plan.calls[0]]);
        plan.steps[1] = (int)((bits >> 24) % (unsigned)lengths[plan.calls[1]]);
        inject(&plan, recovery);
    }
}

/* Let B make `j` instructions and A go on to its end; A's moments. */
static void trace_a(const struct plan *plan, int j)
{
    struct area shared[] = {{rig.base, rig.size}, {diaries, 2 * sizeof *diaries}};
    struct pair pair = begin(plan);
    run_to(pair.b, &traces[1], j);
    trace_call(pair.a, &traces[0], shared, 2);
    end(plan, &pair, true);
}

static void trace_b(const struct plan *plan)
{
    struct pair pair = begin(plan);
    trace_call(pair.b, &traces[1], NULL, 0);
    end(plan, &pair, true);
}

static void kill_at(const struct plan *plan, int i, int j)
{
    struct pair pair = begin(plan);
    run_to(pair.b, &traces[1], j);
    run_to(pair.a, &traces[0], i);
    end(plan, &pair, true);
}

static void every_pair(const struct plan *plan, bool stores, struct share *share)
{
    trace_b(plan);
    for (int j = 0; j < traces[1].count; j++) {
        if (!is_mine(share))
            continue;
        trace_a(plan, j);
        for (int i = 0; i < traces[0].count; i++)
            if (!stores || traces[0].moments[i].changed)
                kill_at(plan, i, j);
    }
}

static void every_mix(bool runs, bool stores, struct share share)
{
    for (int a = PUT; a <= GET; a++)
        for (int b = PUT; b <= GET; b++)
            for (uint32_t fill = 0; fill <= SLOTS; fill += 2)
                every_pair(&(struct plan){{a + 2 * runs, b + 2 * runs}, fill, {0, 0}}, stores,
                           &share);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 9;
    start = strtoull(argv[2], NULL, 0);
    rig = rig_make(SLOTS, start);
    diaries = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (diaries == MAP_FAILED)
        rig_die("mmap");
    trace_pin();
    if (strcmp(argv[1], "all") == 0 && argc == 6)
        every_mix(atoi(argv[3]), strcmp(argv[4], "stores") == 0, share_of(argv[5]));
    else
        sample(atof(argv[1]), strtoull(argv[3], NULL, 0) | 1, atoi(argv[4]));
    printf("{\"injections\": %lu, \"stuck\": %lu, \"torn\": %lu, \"twice\": %lu, \"lost\": %lu, "
           "\"in_doubt\": %lu, \"tombstones\": %lu}\n",
           counts.injections, counts.stuck, counts.torn, counts.twice, counts.lost,
           counts.in_doubt, counts.tombstones);
    return counts.stuck || counts.torn || counts.twice || counts.lost;
}
