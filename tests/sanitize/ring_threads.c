/* One ring, three threads: a front that submits, a front that reaps, a back.
 *
 *   ring_threads poll|sleep ROUNDS START
 *
 * `poll` only looks, so nothing orders the threads but the ring's own acquire and
 * release: what ThreadSanitizer must see.  `sleep` waits through wait.h on eventfds.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "check.h"
#include "wait.h"
#include "xen.h"

enum { SLOTS = 8, WORDS = 7 };

struct message {
    uint64_t words[WORDS];
};

static union {
    struct padded_header header;
    uint8_t bytes[sizeof(struct padded_header) + SLOTS * sizeof(struct message)];
} memory;
static struct xen_front front;
static struct xen_back back;
static uint32_t rounds;
static bool sleeping;
static int kick_fd, call_fd;

static void fill(uint8_t *slot, uint64_t value)
{
    struct message message;
    for (int i = 0; i < WORDS; i++)
        message.words[i] = value + (uint64_t)i;
    memcpy(slot, &message, sizeof message);
}

static void check(const struct message *message, uint64_t value)
{
    for (int i = 0; i < WORDS; i++)
        CHECK(message->words[i] == value + (uint64_t)i, "word %d of message %lu", i, value);
}

static void notify(bool wanted, int fd)
{
    if (wanted && sleeping)
        CHECK(eventfd_write(fd, 1) == 0, "eventfd_write");
}

static int64_t look_front(void *ring) { return xen_front_ready(ring); }
static int64_t final_front(void *ring) { return xen_front_final_check(ring); }
static int64_t look_back(void *ring) { return xen_back_ready(ring); }
static int64_t final_back(void *ring) { return xen_back_final_check(ring); }

static const struct waiter front_waiter = {
    .ring = &front, .look = look_front, .final_check = final_front, .hangup_fd = -1};
static const struct waiter back_waiter = {
    .ring = &back, .look = look_back, .final_check = final_back, .hangup_fd = -1};

/* The number ready, after waiting for one. */
static uint32_t await(const struct waiter *which, int fd)
{
    struct waiter waiter = *which;
    waiter.event_fd = fd;
    for (;;) {
        int64_t ready = waiter.look(waiter.ring);
        CHECK(ready >= 0, "the ring is broken");
        if (ready > 0)
            return (uint32_t)ready;
        if (sleeping)
            (void)wait_once(&waiter, NO_DEADLINE);
        else
            sched_yield();
    }
}

static void *submit(void *unused)
{
    uint64_t state = 88172645463325252u;
    for (uint64_t sent = 0; sent < rounds;) {
        uint32_t batch = 1 + chance(&state, SLOTS), credit = xen_front_credit(&front);
        for (; batch > 0 && credit > 0 && sent < rounds; batch--, credit--)
            fill(xen_front_claim(&front), sent++);
        notify(xen_front_publish(&front), kick_fd);
        sched_yield();
    }
    return unused;
}

static void *serve(void *unused)
{
    struct message message;
    for (uint64_t served = 0; served < rounds;) {
        for (uint32_t ready = await(&back_waiter, kick_fd); ready > 0; ready--) {
            xen_back_take(&back, &message, sizeof message);
            check(&message, served);
            fill(xen_back_claim(&back), ~served++);
        }
        notify(xen_back_publish(&back), call_fd);
    }
    return unused;
}

static void *reap(void *unused)
{
    struct message message;
    for (uint64_t taken = 0; taken < rounds;) {
        uint32_t ready = await(&front_waiter, call_fd);
        for (uint32_t n = 0; n < ready; n++) {
            xen_front_copy(&front, n, &message, sizeof message);
            check(&message, ~taken++);
        }
        xen_front_release(&front, ready);
    }
    return unused;
}

static void run(void)
{
    void *(*const bodies[])(void *) = {submit, serve, reap};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, bodies[i], NULL) == 0, "pthread_create");
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    alarm(HANG_S);
    sleeping = argc > 1 && strcmp(argv[1], "sleep") == 0;
    rounds = argument(argc, argv, 2, 20000);
    uint32_t start = argument(argc, argv, 3, 0);
    kick_fd = eventfd(0, EFD_NONBLOCK);
    call_fd = eventfd(0, EFD_NONBLOCK);
    CHECK(xen_bind(&front.ring, &memory, sizeof memory, RING_PADDED, SLOTS,
                   sizeof(struct message)), "xen_bind");
    xen_init(&front.ring, RING_PADDED, start);
    back.ring = front.ring;
    xen_front_attach(&front, start);
    xen_back_attach(&back, start);
    run();
    return 0;
}
