/* Publish against final check, a million times: one of the two must see the other.
 *
 *   wakeup_litmus request|response ROUNDS START
 *
 * Each round both threads start level from an unarmed event word.  The producer
 * publishes one or two slots, the consumer makes its final check.  Forbidden: the
 * producer does not notify and the consumer finds nothing, for then it sleeps for
 * ever beside work.  A store buffer is enough to do it if a barrier is missing.
 */
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "xen.h"

enum { SLOTS = 8, SLOT_SIZE = 16, PATIENCE = 2000 };

static union {
    struct padded_header header;
    uint8_t bytes[sizeof(struct padded_header) + SLOTS * SLOT_SIZE];
} memory;
static struct xen_front front;
static struct xen_back back;
static uint32_t rounds;
static bool requests, notified;
static int64_t found;
static _Atomic uint32_t level __attribute__((aligned(128)));

/* Both threads leave together: `level` counts arrivals. */
static void meet(uint32_t target)
{
    atomic_fetch_add(&level, 1);
    for (uint32_t looks = 0; atomic_load(&level) < target; looks++)
        if (looks > PATIENCE)
            sched_yield();
}

static void dawdle(uint64_t *state)
{
    for (uint32_t n = chance(state, 24); n > 0; n--)
        __asm__ __volatile__("" ::: "memory");
}

/* Nothing published, nobody armed, at index `start`. */
static void set_up(uint32_t start)
{
    xen_init(&front.ring, RING_PADDED, start);
    xen_front_attach(&front, start);
    xen_back_attach(&back, start);
    if (!requests) {
        for (int i = 0; i < 2; i++)
            xen_front_claim(&front);
        xen_front_publish(&front);
        back.req_cons = start + 2;
    }
    store_relaxed(front.ring.req_event, start);
    store_relaxed(front.ring.rsp_event, start);
}

static bool publish(uint32_t count)
{
    for (; count > 0; count--)
        if (requests)
            xen_front_claim(&front);
        else
            xen_back_claim(&back);
    return requests ? xen_front_publish(&front) : xen_back_publish(&back);
}

static void *consume(void *unused)
{
    uint64_t state = 88172645463325252u;
    for (uint32_t round = 0; round < rounds; round++) {
        meet(4 * round + 2);
        dawdle(&state);
        found = requests ? xen_back_final_check(&back) : xen_front_final_check(&front);
        meet(4 * round + 4);
    }
    return unused;
}

int main(int argc, char **argv)
{
    alarm(HANG_S);
    requests = argc > 1 && strcmp(argv[1], "request") == 0;
    rounds = argument(argc, argv, 2, 100000);
    uint32_t start = argument(argc, argv, 3, 0);
    uint64_t state = 1234567891011u;
    pthread_t consumer;
    CHECK(xen_bind(&front.ring, &memory, sizeof memory, RING_PADDED, SLOTS, SLOT_SIZE), "bind");
    back.ring = front.ring;
    set_up(start);
    CHECK(pthread_create(&consumer, NULL, consume, NULL) == 0, "pthread_create");
    for (uint32_t round = 0; round < rounds; round++) {
        meet(4 * round + 2);
        dawdle(&state);
        notified = publish(1 + chance(&state, 2));
        while (atomic_load(&level) < 4 * round + 3)
            sched_yield();
        CHECK(notified || found > 0, "wake-up lost in round %u", round);
        set_up(start + round);
        meet(4 * round + 4);
    }
    pthread_join(consumer, NULL);
    return 0;
}
