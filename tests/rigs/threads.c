/* Threads on one ring, for the sanitizers; some of them die inside a call.
 *
 * A thread that "dies" leaves by pthread_exit at a FAULT point; whoever joins it
 * knows that it is dead, and two threads bury it at once, beside the others'
 * traffic.  Payloads are plain memory: an ordering too weak shows as a data race
 * even where the machine happens to be strong.
 *
 *   threads MESSAGES DEATHS START
 */
static void rig_fault(int point);
#define FAULT(point) rig_fault(point)

#include <pthread.h>

#include "rig.h"

enum { WORKERS = 4, MAX_MESSAGES = 1 << 20, SLOTS = 8, CALL_POINTS = 9, GIVE_UP = 2000,
       RUN = 3 };
#define NOTHING UINT32_MAX

static struct rig rig;
static _Atomic uint8_t got[MAX_MESSAGES];
static shared_u32 next_message, torn, twice, received, stop;
static uint32_t messages;
static _Thread_local struct mpmc_member member;
static _Thread_local int fatal_point;

static void rig_fault(int point)
{
    if (point != 0 && point == fatal_point)
        pthread_exit(&member.ring);
}

static void account(const uint8_t *message, uint32_t length)
{
    uint32_t who, number;
    if (!rig_whole(message, length, &who, &number) || number >= MAX_MESSAGES)
        atomic_fetch_add(&torn, 1);
    else if (atomic_exchange(&got[number], 1))
        atomic_fetch_add(&twice, 1);
    atomic_fetch_add(&received, 1);
}

static void get_some(void)
{
    uint8_t message[RIG_SLOT_SIZE];
    uint32_t length;
    struct run run = mpmc_run(&member, MPMC_GET);
    while (run.done < RUN && mpmc_peek(&member, &run.at, &length) == MPMC_OK)
        if (mpmc_run_get(&member, &run, message, length))
            account(message, length);
    mpmc_run_end(&member, MPMC_GET, &run);
}

static void get_one(void)
{
    uint8_t message[RIG_SLOT_SIZE];
    uint32_t length;
    uint64_t at;
    if (mpmc_get(&member, &at, message, &length) == MPMC_OK)
        account(message, length);
}

static bool put_one(uint32_t number)
{
    uint8_t message[RIG_SLOT_SIZE];
    uint64_t at;
    uint32_t length = rig_fill(message, 0, number);
    return mpmc_put(&member, &at, message, length) == MPMC_OK;
}

/* A number in hand, or a new one, as long as there are any. */
static bool has_next(uint32_t *in_hand)
{
    if (*in_hand == NOTHING && load_relaxed(&next_message) < messages)
        *in_hand = atomic_fetch_add(&next_message, 1);
    return *in_hand < messages;
}

static void put_next(uint32_t *in_hand)
{
    if (has_next(in_hand) && put_one(*in_hand))
        *in_hand = NOTHING;
}

static void put_some(uint32_t *in_hand)
{
    uint8_t message[RIG_SLOT_SIZE];
    struct run run = mpmc_run(&member, MPMC_PUT);
    while (run.done < RUN && has_next(in_hand)) {
        uint32_t length = rig_fill(message, 0, *in_hand);
        if (!mpmc_run_put(&member, &run, message, length))
            break;
        *in_hand = NOTHING;
    }
    mpmc_run_end(&member, MPMC_PUT, &run);
}

static void call(uint32_t which, uint32_t *in_hand)
{
    switch (which) {
    case 0: put_next(in_hand); break;
    case 1: get_one(); break;
    case 2: put_some(in_hand); break;
    default: get_some(); break;
    }
}

/* A thread's life; one that dies reports its membership to who joins it. */
struct life {
    pthread_t thread;
    struct mpmc ring; /* as it joined */
    int fatal_point;
    uint64_t calls;
    uint64_t seed;
};

static void join_ring(struct life *life)
{
    static const struct self nobody;
    rig_bind(&rig, &member);
    if (!owner_join(&member.ring, &nobody, -1))
        rig_die("join");
    life->ring = member.ring;
}

static void *live(void *argument)
{
    struct life *life = argument;
    uint32_t in_hand = NOTHING;
    join_ring(life);
    for (uint64_t i = 0; !load_acquire(&stop); i++) {
        if (i >= life->calls + GIVE_UP && in_hand == NOTHING)
            break;
        fatal_point = i >= life->calls ? life->fatal_point : 0;
        if (rig_random(&life->seed) % 16 == 0)
            mpmc_drop_oldest(&member);
        else
            call(rig_random(&life->seed) & 3, &in_hand);
    }
    owner_leave(&member.ring, -1);
    return NULL;
}

static void *bury(void *argument)
{
    struct life *life = argument;
    struct mpmc ring = life->ring;
    owner_recover(&ring, ring.owner, ring.owner_word);
    return NULL;
}

static void bury_by_two(struct life *life)
{
    pthread_t second;
    if (pthread_create(&second, NULL, bury, life) != 0)
        rig_die("thread");
    bury(life);
    pthread_join(second, NULL);
}

static void start(struct life *life, uint64_t *seed, bool mortal)
{
    life->seed = rig_random(seed) | 1;
    life->fatal_point = mortal ? 1 + (int)(rig_random(seed) % CALL_POINTS) : 0;
    if (life->fatal_point > 7) /* 8 to 12 are those of joining and recovery */
        life->fatal_point += 5;
    life->calls = mortal ? rig_random(seed) % 200 : UINT64_MAX - GIVE_UP;
    if (pthread_create(&life->thread, NULL, live, life) != 0)
        rig_die("thread");
}

static void run_deaths(struct life *mortal, uint32_t deaths, uint64_t *seed)
{
    for (uint32_t i = 0; i < deaths; i++) {
        void *died;
        start(mortal, seed, true);
        pthread_join(mortal->thread, &died);
        if (died != NULL)
            bury_by_two(mortal);
    }
}

static bool wait_for_all(uint64_t limit_s)
{
    uint64_t until = now_ns() + limit_s * 1000000000u;
    struct mpmc_member looker;
    rig_bind(&rig, &looker);
    while (now_ns() < until) {
        if (load_acquire(&next_message) >= messages && mpmc_size(&looker.ring) == 0)
            return true;
        usleep(1000);
    }
    return false;
}

int main(int argc, char **argv)
{
    struct life lives[WORKERS];
    uint64_t seed = 88172645463325252u;
    if (argc != 4 || (messages = (uint32_t)atoi(argv[1])) > MAX_MESSAGES)
        return 9;
    rig = rig_make(SLOTS, strtoull(argv[3], NULL, 0));
    for (int i = 1; i < WORKERS; i++)
        start(&lives[i], &seed, false);
    run_deaths(&lives[0], (uint32_t)atoi(argv[2]), &seed);
    bool done = wait_for_all(60);
    atomic_store(&stop, 1);
    for (int i = 1; i < WORKERS; i++)
        pthread_join(lives[i].thread, NULL);
    struct mpmc_member looker;
    rig_bind(&rig, &looker);
    uint64_t deaths = rig_deaths(&looker.ring);
    uint64_t lost = rig_lost(&looker.ring);
    int64_t missing = (int64_t)(load_relaxed(&next_message) - load_relaxed(&received) - lost);
    printf("{\"lost\": %lu, ", lost);
    printf("\"torn\": %u, \"twice\": %u, \"missing\": %ld, \"in_doubt\": %lu, "
           "\"tombstones\": %lu, \"deaths\": %lu, \"done\": %d}\n",
           load_relaxed(&torn), load_relaxed(&twice), missing,
           rig_losses(&looker.ring, true), rig_losses(&looker.ring, false), deaths, done);
    return !done || torn || twice || missing < 0 || (uint64_t)missing > deaths + WORKERS;
}
