/* Kill rig: workers that SIGKILL themselves between any two stores of a call.
 *
 * Built with FAULT(n) compiled in, over the code that is shipped.  Each worker
 * draws a point and a number, puts, gets and drops until it has met that point that
 * often, and kills itself there; another takes its place.  What was taken to be
 * dropped must be what counts as lost, exactly.  Every message has a
 * byte in `fates`; after the last kill the ring is drained and must be as good as
 * new.
 *
 *   fault KILLS START SEED RECOVERY(0|1)
 *
 * Exit status: 0 all good, 1 something lost, torn or twice, 2 stuck, 9 rig trouble.
 */
static void rig_fault(int point);
#define FAULT(point) rig_fault(point)
#define STALL_MIN_NS 20000u

#include "fates.h"

enum { WORKERS = 3, POINTS = 14, SLOTS = 8, STUCK_MS = 3000, RUN = 3 };

struct shared {
    shared_u32 kills[POINTS + 1];
    shared_u32 condemned;
    shared_u32 stop;
};

static struct shared *shared;
static struct rig rig;
static struct mpmc_member member;
static uint8_t in_hand[RIG_SLOT_SIZE];
static uint32_t in_hand_length;
static uint64_t at; /* where the last call stood */
static int fatal_point, fatal_count;
static bool uncounted; /* its messages are no worker's */

static void record(void)
{
    uint32_t who, number;
    bool whole = rig_whole(in_hand, in_hand_length, &who, &number);
    number_was_got(whole, who, number);
}

/* Point 6 lies between copying a message and freeing its slot: it counts as got
 * before it can count as in doubt. */
static void rig_fault(int point)
{
    if (point == 6 && !uncounted)
        record();
    if (point == 13)
        atomic_fetch_add(&shared->condemned, 1);
    if (point == 0 || fatal_count == 0 || (fatal_point != 0 && point != fatal_point))
        return;
    if (--fatal_count > 0)
        return;
    atomic_fetch_add(&shared->kills[point], 1);
    kill(getpid(), SIGKILL);
}

static void put_next(uint32_t who)
{
    uint8_t message[RIG_SLOT_SIZE];
    uint32_t number = take_number(who), length = rig_fill(message, who, number);
    bool put = mpmc_put_unstalling(&member, &at, message, length) == MPMC_OK;
    number_was_put(who, number, put);
}

static bool put_in_run(uint32_t who, struct run *run)
{
    uint8_t message[RIG_SLOT_SIZE];
    uint32_t number = take_number(who), length = rig_fill(message, who, number);
    return number_was_put(who, number, mpmc_run_put(&member, run, message, length));
}

static void put_some(uint32_t who)
{
    struct run run = mpmc_run(&member, MPMC_PUT);
    while (run.done < RUN && put_in_run(who, &run))
        ;
    mpmc_run_end(&member, MPMC_PUT, &run);
    if (run.result == MPMC_STALLED)
        mpmc_unstall(&member, MPMC_PUT, run.looked);
}

static void get_next(void)
{
    if (mpmc_get_unstalling(&member, &at, in_hand, &in_hand_length) == MPMC_OK)
        atomic_fetch_add(&fates->moves, 1);
}

static void get_some(void)
{
    struct run run = mpmc_run(&member, MPMC_GET);
    while (run.done < RUN) {
        run.result = mpmc_peek(&member, &run.at, &in_hand_length);
        if (run.result != MPMC_OK)
            break;
        if (mpmc_run_get(&member, &run, in_hand, in_hand_length))
            atomic_fetch_add(&fates->moves, 1);
    }
    mpmc_run_end(&member, MPMC_GET, &run);
    if (run.result == MPMC_STALLED)
        mpmc_unstall(&member, MPMC_GET, run.at);
}

static void drop_next(void)
{
    if (mpmc_drop_oldest(&member) == MPMC_OK)
        atomic_fetch_add(&fates->moves, 1);
}

static void call(uint32_t which, uint32_t who)
{
    switch (which) {
    case 0: put_next(who); break;
    case 1: get_next(); break;
    case 2: put_some(who); break;
    case 3: get_some(); break;
    default: drop_next(); break;
    }
}

static void work(uint32_t who, uint64_t seed, bool recovery)
{
    fatal_point = 1 + (int)(rig_random(&seed) % POINTS);
    fatal_count = 1 + (int)(rig_random(&seed) % 20);
    if (fatal_point >= 8 && fatal_point <= 12)
        fatal_count = 1;
    rig_join(&rig, &member);
    member.no_recovery = !recovery;
    for (uint64_t i = 0; load_relaxed(&shared->stop) == 0; i++) {
        if (i == 2000) /* a point that does not come by: any will do */
            fatal_point = 0, fatal_count = 1 + (int)(rig_random(&seed) % POINTS);
        call(rig_random(&seed) % 5, who);
    }
    _exit(0);
}

static pid_t start_worker(uint32_t who, uint64_t seed, bool recovery)
{
    pid_t pid = fork();
    if (pid < 0)
        rig_die("fork");
    if (pid == 0)
        work(who, seed | 1, recovery);
    return pid;
}

/* Wait for any worker's death; 0 if nothing at all moved for too long. */
static pid_t wait_for_death(void)
{
    uint64_t moves = load64(&fates->moves), idle_since = now_ns();
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid > 0 && WIFEXITED(status))
            _exit(WEXITSTATUS(status) | 1);
        if (pid != 0)
            return pid;
        if (load64(&fates->moves) != moves)
            moves = load64(&fates->moves), idle_since = now_ns();
        if (now_ns() - idle_since > STUCK_MS * UINT64_C(1000000))
            return 0;
        usleep(20);
    }
}

/* Workers that hang are killed; the others end their call, for exact counts. */
static void stop_all(const pid_t *pids, bool stuck)
{
    store_relaxed(&shared->stop, 1);
    for (int i = 0; i < WORKERS; i++)
        if (pids[i] > 0) {
            if (stuck)
                kill(pids[i], SIGKILL);
            waitpid(pids[i], NULL, 0);
        }
}

/* False if the ring got stuck. */
static bool kill_many(uint32_t kills, uint64_t seed, bool recovery)
{
    pid_t pids[WORKERS];
    for (uint32_t i = 0; i < WORKERS; i++)
        pids[i] = start_worker(i, rig_random(&seed), recovery);
    for (uint32_t done = 0; done < kills; done++) {
        pid_t dead = wait_for_death();
        for (uint32_t i = 0; dead != 0 && i < WORKERS; i++)
            if (pids[i] == dead)
                pids[i] = start_worker(i, rig_random(&seed), recovery);
        if (dead != 0)
            continue;
        stop_all(pids, true);
        return false;
    }
    stop_all(pids, false);
    return true;
}

static void drain(void)
{
    rig_join(&rig, &member);
    owner_recover_all(&member.ring, &member.self, member.lock_fd);
    while (mpmc_get(&member, &at, in_hand, &in_hand_length) == MPMC_OK)
        ;
}

static int report(bool stuck)
{
    uint64_t missing = count_missing(), in_doubt = rig_losses(&member.ring, true);
    uint64_t lost = rig_lost(&member.ring), condemned = load_relaxed(&shared->condemned);
    uint32_t torn = load_relaxed(&fates->torn), twice = load_relaxed(&fates->twice);
    printf("{\"lost\": %lu, \"condemned\": %lu, ", lost, condemned);
    printf("\"moves\": %lu, \"torn\": %u, \"twice\": %u, \"missing\": %lu, \"in_doubt\": %lu, "
           "\"tombstones\": %lu, \"recovered\": %lu, \"stuck\": %d, \"points\": [",
           load64(&fates->moves), torn, twice, missing, in_doubt,
           rig_losses(&member.ring, false), rig_deaths(&member.ring), stuck);
    for (int i = 1; i <= POINTS; i++)
        printf("%s%u", i > 1 ? ", " : "", load_relaxed(&shared->kills[i]));
    printf("]}\n");
    if (stuck)
        return 2;
    return torn == 0 && twice == 0 && lost == condemned && missing <= in_doubt + lost ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 9;
    bool recovery = atoi(argv[4]);
    rig = rig_make(SLOTS, strtoull(argv[2], NULL, 0));
    fates = rig_share(sizeof *fates);
    shared = rig_share(sizeof *shared);
    bool stuck = !kill_many((uint32_t)atoi(argv[1]), strtoull(argv[3], NULL, 0), recovery);
    drain();
    int status = report(stuck);
    uncounted = true;
    return status == 0 && !capacity_is_whole(&member, in_hand) ? 1 : status;
}
