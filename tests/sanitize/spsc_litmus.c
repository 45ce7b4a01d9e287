/* Publish against final check in an SPSC ring, when the barrier is the sleeper's.
 *
 *   spsc_litmus message|room full|light|turning ROUNDS START
 *
 * Each round both threads start level from an unarmed event word.  One publishes one
 * or two units (message) or releases them (room), the other makes its final check.
 * Forbidden: nobody is to be notified and nothing is found, for then the second sleeps
 * for ever beside work.  `turning` wishes light and full publishes by turns.  Exit
 * status 3: there is no membarrier(2) here.
 */
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "spsc.h"

enum { UNITS = 8, UNIT_SIZE = 8, PATIENCE = 2000, NO_BARRIER = 3 };

static union {
    struct spsc_header header;
    uint8_t bytes[sizeof(struct spsc_header) + UNITS * UNIT_SIZE];
} memory __attribute__((aligned(4096)));
static struct spsc_end producer, consumer;
static uint32_t rounds;
static bool messages, turning, notified;
static int64_t found;
static unsigned long light_rounds;
static _Atomic uint32_t level __attribute__((aligned(128)));

/* Both threads leave together: `level` counts arrivals. */
static void meet(uint32_t target)
{
    atomic_fetch_add(&level, 1);
    for (uint32_t looks = 0; atomic_load(&level) < target; looks++)
        if (looks > PATIENCE)
            sched_yield();
}

/* By a little or a lot: who comes first by how much depends on where the lines are. */
static void dawdle(uint64_t *state)
{
    for (uint32_t n = chance(state, 1u << chance(state, 11)); n > 0; n--)
        __asm__ __volatile__("" ::: "memory");
}

/* Nobody armed, and nothing to find: the ring is empty, or full. */
static void set_up(uint64_t *state)
{
    struct spsc_end *sleeper = messages ? &consumer : &producer;
    if (messages)
        consumer.index = producer.index;
    else
        producer.index = consumer.index + UNITS;
    consumer.seen = producer.index;
    producer.seen = consumer.index;
    store_relaxed(&memory.header.cons, consumer.index);
    store_relaxed(&memory.header.prod, producer.index);
    store_relaxed(&memory.header.prod_event, consumer.index);
    store_relaxed(&memory.header.cons_event, consumer.index);
    sleeper->rested = sleeper->index;
    sleeper->worth = turning ? UINT32_MAX : 0;
    sleeper->naps = turning && chance(state, 2) ? SPSC_NAPS : 0;
}

/* Fetch the line of the index, so that its next store waits in the other's buffer. */
static void fetch(void)
{
    volatile uint8_t *beside = messages ? memory.header.pad1 : memory.header.pad2;
    *beside = 0;
}

static bool publish(uint32_t count)
{
    return messages ? spsc_publish(&producer, count) : spsc_release(&consumer, count);
}

static void *sleep_once_a_round(void *unused)
{
    uint64_t state = 88172645463325252u;
    for (uint32_t round = 0; round < rounds; round++) {
        fetch();
        meet(4 * round + 2);
        dawdle(&state);
        found = messages ? spsc_await_message(&consumer) : spsc_await_room(&producer, 1);
        meet(4 * round + 4);
    }
    return unused;
}

static void attach(bool barriers, uint32_t start)
{
    memory.header.mode = SPSC_FIXED;
    memory.header.units = UNITS;
    memory.header.unit_size = UNIT_SIZE;
    memory.header.start = start;
    memory.header.data_offset = sizeof memory.header;
    memory.header.data_size = UNITS * UNIT_SIZE;
    spsc_init(&memory.header);
    CHECK(spsc_bind(&producer, &memory, sizeof memory), "bind");
    CHECK(spsc_bind(&consumer, &memory, sizeof memory), "bind");
    if (barriers && !barrier_join())
        exit(NO_BARRIER);
    producer.registered = producer.heavy = consumer.registered = consumer.heavy = barriers;
    CHECK(spsc_producer_attach(&producer) && spsc_consumer_attach(&consumer), "attach");
}

int main(int argc, char **argv)
{
    alarm(HANG_S);
    messages = argc > 1 && strcmp(argv[1], "message") == 0;
    turning = argc > 2 && strcmp(argv[2], "turning") == 0;
    rounds = argument(argc, argv, 3, 100000);
    uint64_t state = 1234567891011u;
    pthread_t sleeper;
    bool barriers = turning || (argc > 2 && strcmp(argv[2], "light") == 0);
    attach(barriers, argument(argc, argv, 4, 0));
    set_up(&state);
    CHECK(pthread_create(&sleeper, NULL, sleep_once_a_round, NULL) == 0, "pthread_create");
    for (uint32_t round = 0; round < rounds; round++) {
        meet(4 * round + 2);
        dawdle(&state);
        notified = publish(1 + chance(&state, 2));
        while (atomic_load(&level) < 4 * round + 3)
            sched_yield();
        CHECK(notified || found > 0, "wake-up lost in round %u", round);
        light_rounds += messages ? producer.light : consumer.light;
        set_up(&state);
        meet(4 * round + 4);
    }
    pthread_join(sleeper, NULL);
    CHECK(rounds < 100 || !barriers == !light_rounds, "%lu light rounds", light_rounds);
    return 0;
}
