/* Kill rig: producers and consumers that are killed from outside, at any moment.
 *
 * Messages are long, so that many a kill falls into a copy; of short ones it would
 * find one slot in thirty in somebody's hands.  The next in line takes the place of
 * the killed one.  After each kill the rig waits until some message moves, and keeps
 * the longest such wait by its own clock.  In the end all must be accounted for.
 *
 *   storm KILLS START SEED RECOVERY(0|1)
 *
 * Exit status: 0 all good, 1 something lost, torn or twice, 2 stuck, 9 rig trouble.
 */
static void rig_fault(int point);
#define FAULT(point) rig_fault(point)

#include <sched.h>
#include <sys/prctl.h>

#include "fates.h"

enum { WORKERS = 4, PRODUCERS = 2, SLOTS = 8, RUN = 3, KINDS = 8, LONG = 16 << 10, STUCK_MS = 3000 };
enum { LATE_MS = 100, MOST_NAP_US = 500 };

static struct rig rig;
static struct mpmc_member member;
static uint8_t in_hand[LONG];
static uint32_t in_hand_length;
static uint64_t at;
static bool counting = true;

static uint8_t fill_byte(uint32_t who, uint32_t number)
{
    return (uint8_t)(number % KINDS * PRODUCERS + who);
}

/* All of a message but its number is made before the first of its kind is put: a
 * producer's time goes into claimed slots. */
static const uint8_t *make(uint32_t who, uint32_t number)
{
    static uint8_t messages[KINDS][LONG];
    uint8_t *message = messages[number % KINDS];
    if (message[8] != fill_byte(who, number) + 1)
        memset(message + 8, fill_byte(who, number) + 1, LONG - 8);
    memcpy(message, &who, 4);
    memcpy(message + 4, &number, 4);
    return message;
}

static uint32_t length_of(uint32_t number)
{
    return LONG - number % 99;
}

/* Between copying a message and freeing its slot: it counts as got before it can
 * count as in doubt. */
static void rig_fault(int point)
{
    uint32_t who, number;
    if (point != 6 || !counting)
        return;
    memcpy(&who, in_hand, 4);
    memcpy(&number, in_hand + 4, 4);
    bool whole = in_hand_length == length_of(number) &&
                 in_hand[8] == fill_byte(who, number) + 1 &&
                 memcmp(in_hand + 8, in_hand + 9, in_hand_length - 9) == 0;
    number_was_got(whole, who, number);
}

/* ---- workers --------------------------------------------------------------------- */

static bool put_in_run(uint32_t who, struct run *run)
{
    uint32_t number = take_number(who);
    bool put = mpmc_run_put(&member, run, make(who, number), length_of(number));
    return number_was_put(who, number, put);
}

static void put_some(uint32_t who, uint64_t count)
{
    struct run run = mpmc_run(&member, MPMC_PUT);
    while (run.done < count && put_in_run(who, &run))
        ;
    mpmc_run_end(&member, MPMC_PUT, &run);
    if (run.result == MPMC_STALLED)
        mpmc_unstall(&member, MPMC_PUT, run.looked);
}

static void put_one(uint32_t who)
{
    uint32_t number = take_number(who);
    bool put = mpmc_put_unstalling(&member, &at, make(who, number), length_of(number)) == MPMC_OK;
    number_was_put(who, number, put);
}

static void get_some(uint64_t count)
{
    struct run run = mpmc_run(&member, MPMC_GET);
    while (run.done < count &&
           (run.result = mpmc_peek(&member, &run.at, &in_hand_length)) == MPMC_OK)
        if (mpmc_run_get(&member, &run, in_hand, in_hand_length))
            atomic_fetch_add(&fates->moves, 1);
    mpmc_run_end(&member, MPMC_GET, &run);
    if (run.result == MPMC_STALLED)
        mpmc_unstall(&member, MPMC_GET, run.at);
}

static void get_one(void)
{
    if (mpmc_get_unstalling(&member, &at, in_hand, &in_hand_length) == MPMC_OK)
        atomic_fetch_add(&fates->moves, 1);
}

static void work(uint32_t who, uint64_t seed)
{
    for (;; sched_yield())
        for (int i = 0; i < 4; i++) {
            bool run = rig_random(&seed) & 1;
            if (who < PRODUCERS)
                run ? put_some(who, RUN) : put_one(who);
            else
                run ? get_some(RUN) : get_one();
        }
}

static pid_t start_worker(uint32_t who, uint64_t seed, bool recovery)
{
    pid_t pid = fork();
    if (pid < 0)
        rig_die("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    rig_join(&rig, &member);
    member.no_recovery = !recovery;
    work(who, seed | 1);
    _exit(8);
}

/* ---- the storm ------------------------------------------------------------------- */

struct waits {
    uint64_t slowest_ns;
    uint32_t late;
};

static void end_worker(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    if (waitpid(pid, &status, 0) == pid && WIFEXITED(status))
        _exit(9);
}

/* False if nothing at all moves any more. */
static bool wait_for_move(struct waits *waits)
{
    uint64_t before = load64(&fates->moves), since = now_ns(), took = 0;
    while (load64(&fates->moves) == before) {
        took = now_ns() - since;
        if (took > STUCK_MS * UINT64_C(1000000))
            return false;
        usleep(20);
    }
    if (took > waits->slowest_ns)
        waits->slowest_ns = took;
    waits->late += took > LATE_MS * UINT64_C(1000000);
    return true;
}

static bool kill_many(uint32_t kills, uint64_t seed, bool recovery, struct waits *waits)
{
    pid_t pids[WORKERS];
    bool moving = true;
    for (uint32_t who = 0; who < WORKERS; who++)
        pids[who] = start_worker(who, rig_random(&seed), recovery);
    for (uint32_t done = 0; done < kills && moving; done++) {
        usleep((useconds_t)(rig_random(&seed) % MOST_NAP_US));
        uint32_t who = (uint32_t)(rig_random(&seed) % WORKERS);
        end_worker(pids[who]);
        pids[who] = start_worker(who, rig_random(&seed), recovery);
        moving = wait_for_move(waits);
    }
    for (uint32_t who = 0; who < WORKERS; who++)
        end_worker(pids[who]);
    return moving;
}

static void drain(void)
{
    rig_join(&rig, &member);
    owner_recover_all(&member.ring, &member.self, member.lock_fd);
    while (mpmc_get(&member, &at, in_hand, &in_hand_length) == MPMC_OK)
        ;
    counting = false;
}

static int report(bool moving, const struct waits *waits)
{
    uint64_t missing = count_missing(), in_doubt = rig_losses(&member.ring, true);
    uint32_t torn = load_relaxed(&fates->torn), twice = load_relaxed(&fates->twice);
    bool whole = moving && capacity_is_whole(&member, in_hand);
    printf("{\"moves\": %lu, \"torn\": %u, \"twice\": %u, \"missing\": %lu, \"in_doubt\": %lu, "
           "\"tombstones\": %lu, \"recovered\": %lu, \"stuck\": %d, \"whole\": %d, "
           "\"late\": %u, \"slowest_ms\": %.1f}\n",
           load64(&fates->moves), torn, twice, missing, in_doubt,
           rig_losses(&member.ring, false), rig_deaths(&member.ring), !moving, whole,
           waits->late, (double)waits->slowest_ns / 1e6);
    if (!moving)
        return 2;
    return torn == 0 && twice == 0 && missing <= in_doubt && whole ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct waits waits = {0};
    if (argc != 5)
        return 9;
    rig = rig_make_of(SLOTS, LONG, strtoull(argv[2], NULL, 0));
    fates = rig_share(sizeof *fates);
    bool moving = kill_many((uint32_t)atoi(argv[1]), strtoull(argv[3], NULL, 0) | 1,
                            atoi(argv[4]), &waits);
    drain();
    return report(moving, &waits);
}
