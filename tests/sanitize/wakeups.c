/* Two processes that sleep whenever they can, over shared memory and two eventfds.
 *
 *   wakeups ROUNDS START
 *
 * Each side waits through wait.h, which looks again after each slice and so would
 * hide a lost wake-up: the test builds this with slices of 5 s, and to sleep through
 * a whole one is to have lost a wake-up.
 */
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"
#include "wait.h"
#include "xen.h"

enum { SLOTS = 8, SLOT_SIZE = 16 };

static uint32_t rounds;
static int kick_fd, call_fd;
static unsigned long sleeps;

static void await(const struct waiter *waiter)
{
    enum wait_result result;
    sleeps += waiter->look(waiter->ring) == 0;
    do {
        uint64_t start = now_ns();
        result = wait_once(waiter, NO_DEADLINE);
        CHECK(now_ns() - start < WAIT_SLICE_NS, "a wake-up was lost");
    } while (result == WAIT_INTERRUPTED);
    CHECK(result != WAIT_HUNG_UP, "the other process is gone");
    CHECK(result == WAIT_READY, "the ring is broken");
}

static void notify(bool wanted, int fd)
{
    if (wanted)
        CHECK(eventfd_write(fd, 1) == 0, "eventfd_write");
}

static int64_t look_front(void *ring) { return xen_front_ready(ring); }
static int64_t final_front(void *ring) { return xen_front_final_check(ring); }
static int64_t look_back(void *ring) { return xen_back_ready(ring); }
static int64_t final_back(void *ring) { return xen_back_final_check(ring); }

static int life_of(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static void serve(struct xen_back *back)
{
    struct waiter waiter = {.ring = back,
                            .look = look_back,
                            .final_check = final_back,
                            .event_fd = kick_fd,
                            .hangup_fd = life_of(getppid())};
    uint64_t value[SLOT_SIZE / 8], state = 42;
    for (uint64_t served = 0; served < rounds;) {
        await(&waiter);
        int64_t ready = xen_back_ready(back);
        for (ready -= chance(&state, (uint32_t)ready); ready > 0; ready--) {
            xen_back_take(back, value, sizeof value);
            CHECK(value[0] == served, "request %lu out of order", served);
            memset(xen_back_claim(back), 0, SLOT_SIZE);
            served++;
        }
        notify(xen_back_publish(back), call_fd);
    }
}

static void ask(struct xen_front *front, pid_t child)
{
    struct waiter waiter = {.ring = front,
                            .look = look_front,
                            .final_check = final_front,
                            .event_fd = call_fd,
                            .hangup_fd = life_of(child)};
    uint64_t state = 4711;
    for (uint64_t sent = 0, taken = 0; taken < rounds;) {
        for (uint32_t n = chance(&state, 4); n > 0 && sent < rounds; n--, sent++) {
            if (xen_front_credit(front) == 0)
                break;
            memcpy(xen_front_claim(front), &sent, sizeof sent);
        }
        notify(xen_front_publish(front), kick_fd);
        if (sent > taken) {
            await(&waiter);
            int64_t ready = xen_front_ready(front);
            xen_front_release(front, (uint32_t)ready);
            taken += (uint64_t)ready;
        }
    }
}

int main(int argc, char **argv)
{
    rounds = argument(argc, argv, 1, 20000);
    uint32_t start = argument(argc, argv, 2, 0);
    struct xen_front front;
    struct xen_back back;
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "mmap");
    kick_fd = eventfd(0, EFD_NONBLOCK);
    call_fd = eventfd(0, EFD_NONBLOCK);
    CHECK(xen_bind(&front.ring, memory, 4096, RING_PADDED, SLOTS, SLOT_SIZE), "xen_bind");
    xen_init(&front.ring, RING_PADDED, start);
    back.ring = front.ring;
    xen_front_attach(&front, start);
    xen_back_attach(&back, start);
    pid_t child = fork();
    if (child == 0) {
        serve(&back);
        _exit(0);
    }
    ask(&front, child);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the serving process failed");
    CHECK(sleeps > rounds / 100, "it slept only %lu times", sleeps);
    return 0;
}
