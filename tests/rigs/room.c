/* Threads that sleep on a full and on an empty ring, and never look by themselves.
 *
 * Who waits for room is told only once a few slots are free.  Whoever frees decides by
 * two hints that others move at the same time, and the last must see enough of them: if
 * it does not, all sleep for good here, as nobody has a time limit.
 *
 *   room MESSAGES SLOTS PRODUCERS CONSUMERS SEED
 *
 * Exit status: 0 all messages passed, 2 stuck, 9 rig trouble.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "rig.h"

enum { MOST_THREADS = 16, RUN = 5, PAUSE = 64, STUCK_S = 10 };

static struct rig rig;
static int event_fd[2];
static uint64_t wanted, seeds;
static shared_u64 put, got, sleeps;

struct worker {
    struct mpmc_member member;
    int epoll_fd;
    uint64_t random;
};

static uint32_t draw(struct worker *self, uint32_t below)
{
    self->random = self->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(self->random >> 33) % below;
}

static void join(struct worker *self, enum mpmc_side side)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    rig_join(&rig, &self->member);
    self->member.event_fd[0] = event_fd[0];
    self->member.event_fd[1] = event_fd[1];
    self->random = atomic_fetch_add(&seeds, 77);
    self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, event_fd[side], &event) < 0)
        rig_die("epoll");
}

/* Sleep, unless the slot in question has changed hands since it was announced. */
static void wait_for(struct worker *self, enum mpmc_side side)
{
    struct mpmc *ring = &self->member.ring;
    struct epoll_event event;
    mpmc_announce(ring, side);
    uint64_t at = mpmc_index(ring, side);
    enum mpmc_result now = side == MPMC_PUT ? mpmc_room(ring, &at) : mpmc_ready(ring, &at);
    if (now != MPMC_WOULD_BLOCK || mpmc_shut(ring) != 0)
        return;
    atomic_fetch_add(&sleeps, 1);
    epoll_wait(self->epoll_fd, &event, 1, -1);
}

static void after(struct worker *self, enum mpmc_side side, enum mpmc_result result)
{
    if (result == MPMC_WOULD_BLOCK)
        wait_for(self, side);
    else if (result == MPMC_STALLED || draw(self, PAUSE) == 0)
        sched_yield();
}

static void *produce(void *unused)
{
    (void)unused;
    struct worker self;
    uint8_t message[8] = {0};
    join(&self, MPMC_PUT);
    while (atomic_fetch_add(&put, 1) < wanted) {
        enum mpmc_result result;
        uint64_t at;
        do {
            result = mpmc_put(&self.member, &at, message, sizeof message);
            after(&self, MPMC_PUT, result);
        } while (result == MPMC_WOULD_BLOCK || result == MPMC_STALLED);
        if (result != MPMC_OK)
            rig_die("put");
    }
    return NULL;
}

/* One message, or a run of some. */
static enum mpmc_result get(struct worker *self, uint64_t *count)
{
    uint8_t message[RIG_SLOT_SIZE];
    uint32_t length;
    uint64_t at, most = draw(self, RUN);
    struct run run = mpmc_run(&self->member, MPMC_GET);
    if (most == 0) {
        enum mpmc_result result = mpmc_get(&self->member, &at, message, &length);
        *count = result == MPMC_OK;
        return result;
    }
    while (run.done < most &&
           (run.result = mpmc_peek(&self->member, &run.at, &length)) == MPMC_OK)
        mpmc_run_get(&self->member, &run, message, length);
    mpmc_run_end(&self->member, MPMC_GET, &run);
    *count = run.done;
    return run.done > 0 ? MPMC_OK : run.result;
}

static void *consume(void *unused)
{
    (void)unused;
    struct worker self;
    join(&self, MPMC_GET);
    for (;;) {
        uint64_t count;
        enum mpmc_result result = get(&self, &count);
        if (result < 0)
            return NULL; /* shut: all have passed */
        if (atomic_fetch_add(&got, count) + count == wanted && count > 0)
            mpmc_shut_down(&self.member, true);
        after(&self, MPMC_GET, result);
    }
}

/* False if nothing moved for too long. */
static bool watch(void)
{
    uint64_t last = 0;
    for (int still = 0; still < STUCK_S * 100; still++) {
        uint64_t now = load64(&got);
        if (now == wanted)
            return true;
        if (now != last)
            still = 0;
        last = now;
        usleep(10000);
    }
    return false;
}

int main(int argc, char **argv)
{
    pthread_t threads[MOST_THREADS];
    if (argc != 6)
        return 9;
    int producers = atoi(argv[3]), all = producers + atoi(argv[4]);
    wanted = strtoull(argv[1], NULL, 0);
    atomic_init(&seeds, strtoull(argv[5], NULL, 0));
    rig = rig_make((uint32_t)atoi(argv[2]), 0);
    event_fd[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    event_fd[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (int i = 0; i < all && i < MOST_THREADS; i++)
        if (pthread_create(&threads[i], NULL, i < producers ? produce : consume, NULL) != 0)
            rig_die("thread");
    bool passed = watch();
    printf("{\"got\": %lu, \"sleeps\": %lu}\n", load64(&got), load64(&sleeps));
    fflush(stdout);
    if (!passed)
        _exit(2);
    for (int i = 0; i < all; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
