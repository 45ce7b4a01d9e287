/* Kill rig: two members stepped by single instructions, one killed in between.
 *
 * A makes i instructions of its call, B makes j of its own, A is killed, B goes on
 * to the end of its call without recovery; then A is buried, the ring is drained,
 * every message accounted for, and two laps must find the whole capacity.
 *
 *   step SECONDS START SEED RECOVERY(0|1)    a random sample, for so long
 *   step all START STRIDE RECOVERY           every i and every STRIDEth j
 *
 * Exit status: 0 all good, 1 any failure (counted in the report), 9 rig trouble.
 */
#include "rig.h"
#include "trace.h"

enum { SLOTS = 4, MAX_IDS = 64, OWN_ID = 50 };
enum { PUT = 0, GET = 1 };

/* What a victim did, in shared memory: its parent reads it after the kill. */
struct diary {
    int result;
    uint32_t length;
    uint8_t message[RIG_SLOT_SIZE];
};

struct counts {
    unsigned long injections, stuck, torn, twice, lost, in_doubt, tombstones;
};

struct plan {
    int calls[2]; /* PUT or GET, of A and of B */
    uint32_t fill;
    int steps[2];
};

static struct rig rig;
static struct diary *diaries;
static struct counts counts;
static uint64_t at;

static void call_once(struct mpmc_member *member, int call, uint32_t who)
{
    struct diary *diary = &diaries[who];
    uint8_t message[RIG_SLOT_SIZE];
    uint32_t length = rig_fill(message, 0, OWN_ID + who);
    trace_mark();
    if (call == PUT)
        diary->result = mpmc_put(member, &at, message, length);
    else
        diary->result = mpmc_get(member, &at, diary->message, &diary->length);
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
        rig_join(&rig, &member);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(9);
        call_once(&member, call, who);
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
        lost += plan->calls[who] == PUT && diaries[who].result == MPMC_OK &&
                seen[OWN_ID + who] == 0;
    if (lost > in_doubt)
        counts.lost += lost - in_doubt;
}

/* A killed getter that is not in doubt has freed its slot or taken none: the copy
 * it made before freeing tells. */
static void credit_copy(const struct diary *diary, uint8_t *seen)
{
    uint32_t who, number;
    if (diary->length != 0 && rig_whole(diary->message, diary->length, &who, &number) &&
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
    if (plan->calls[1] == GET && diaries[1].result == MPMC_OK)
        account(diaries[1].message, diaries[1].length, seen);
    if (plan->calls[0] == GET && in_doubt == 0)
        credit_copy(&diaries[0], seen);
    count_lost(plan, seen, in_doubt);
    counts.in_doubt += in_doubt;
    counts.tombstones += rig_losses(&member->ring, false);
    counts.stuck += !capacity_is_whole(member);
}

/* One injection; steps[] become what they could be.  A has ended if fewer. */
static void inject(struct plan *plan, uint64_t start, bool recovery)
{
    struct mpmc_member member;
    struct mpmc ring;
    if (!mpmc_bind(&ring, rig.base, rig.size, SLOTS, RIG_SLOT_SIZE))
        rig_die("bind");
    mpmc_init(&ring, start);
    memset(diaries, 0, 2 * sizeof *diaries);
    rig_join(&rig, &member);
    fill_ring(&member, plan->fill);
    pid_t a = start_victim(plan->calls[0], 0), b = start_victim(plan->calls[1], 1);
    plan->steps[0] = step(a, plan->steps[0]);
    plan->steps[1] = step(b, plan->steps[1]);
    bury(a);
    if (diaries[1].result == 0 && step(b, MAX_STEPS) == MAX_STEPS)
        counts.stuck++;
    bury(b);
    judge(plan, &member, recovery);
    mpmc_leave(&member);
    counts.injections++;
}

/* Length of a call in instructions, alone. */
static int call_length(struct plan plan, int who, uint64_t start)
{
    plan.steps[who] = MAX_STEPS;
    plan.steps[1 - who] = 0;
    inject(&plan, start, true);
    return plan.steps[who];
}

static void sample(double seconds, uint64_t start, uint64_t seed, bool recovery)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    int lengths[2];
    for (int call = PUT; call <= GET; call++)
        lengths[call] = call_length((struct plan){{call, PUT}, 2, {0, 0}}, 0, start);
    while (now_ns() < until) {
        uint64_t bits = rig_random(&seed);
        struct plan plan = {{(int)(bits & 1), (int)(bits >> 1 & 1)}, (bits >> 2) % 3 * 2, {0, 0}};
        plan.steps[0] = (int)((bits >> 8) % (unsigned)lengths[plan.calls[0]]);
        plan.steps[1] = (int)((bits >> 24) % (unsigned)lengths[plan.calls[1]]);
        inject(&plan, start, recovery);
    }
}

static void every_pair(uint64_t start, int stride, bool recovery)
{
    for (uint32_t mix = 0; mix < 12; mix++) {
        struct plan plan = {{(int)(mix & 1), (int)(mix >> 1 & 1)}, 2 * (mix >> 2), {0, 0}};
        int a = call_length(plan, 0, start), b = call_length(plan, 1, start);
        for (int i = 0; i <= a; i++)
            for (int j = i % stride; j <= b; j += stride) {
                plan.steps[0] = i;
                plan.steps[1] = j;
                inject(&plan, start, recovery);
            }
    }
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 9;
    uint64_t start = strtoull(argv[2], NULL, 0);
    rig = rig_make(SLOTS, start);
    diaries = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (diaries == MAP_FAILED)
        rig_die("mmap");
    trace_pin();
    if (strcmp(argv[1], "all") == 0)
        every_pair(start, atoi(argv[3]), atoi(argv[4]));
    else
        sample(atof(argv[1]), start, strtoull(argv[3], NULL, 0) | 1, atoi(argv[4]));
    printf("{\"injections\": %lu, \"stuck\": %lu, \"torn\": %lu, \"twice\": %lu, \"lost\": %lu, "
           "\"in_doubt\": %lu, \"tombstones\": %lu}\n",
           counts.injections, counts.stuck, counts.torn, counts.twice, counts.lost,
           counts.in_doubt, counts.tombstones);
    return counts.stuck || counts.torn || counts.twice || counts.lost;
}
