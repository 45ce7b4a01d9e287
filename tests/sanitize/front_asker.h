/* What the programs share that put requests into one `front` from several threads.
 *
 * Each request has a number, and the answer is made of it: one that is handed to another
 * caller is noticed.  With OWED_NS defined, who waits longer than that for an answer fails.
 */
#ifndef SANITIZE_FRONT_ASKER_H
#define SANITIZE_FRONT_ASKER_H

#include "check.h"
#include "front.h"

enum { LENGTH = 1 << 30 };
#ifdef OWED_NS
#define OWED_UNTIL (now_ns() + OWED_NS)
#else
#define OWED_UNTIL NO_DEADLINE
#endif

static struct front front;
static bool sleeping;
static int call_fd;

static int64_t answer_to(uint64_t number)
{
    return (int64_t)(number * 2654435761u % LENGTH);
}

static bool is_waited(void *arg) { return ((struct waited *)arg)->done; }
static bool can_claim(void *unused)
{
    (void)unused;
    return front.nr_done > 0 || front_has_credit(&front);
}

/* Mutex held, here and below. */
static void await(bool (*done)(void *), void *arg)
{
    uint64_t late = OWED_UNTIL;
    enum wait_result result;
    while ((result = front_wait(&front, done, arg, late)) != WAIT_READY) {
        CHECK(result != WAIT_TIMED_OUT, "an answer is owed");
        CHECK(result == WAIT_INTERRUPTED, "the wait ended with %d: %s", (int)result,
              front.broken ? front.broken : "");
    }
}

static void collect(void)
{
    for (; front.nr_done > 0; front.nr_done--) {
        front_free_call(&front, front.done[front.first_done]);
        front.first_done = (front.first_done + 1) % front.nr_calls;
    }
}

/* The next entry and slot, after waiting for one. */
static struct call *claim(struct io_request **slot)
{
    struct call *call;
    while ((call = front_claim(&front, slot)) == NULL) {
        front_flush(&front);
        await(can_claim, NULL);
        collect();
    }
    return call;
}

/* Publish a filled request and wait for its answer, on this stack. */
static int64_t waited_result(struct call *call)
{
    struct waited waited = {false, 0};
    call->state = CALL_WAITED;
    call->waited = &waited;
    front_flush(&front);
    await(is_waited, &waited);
    return waited.result;
}

/* ---- before and after, without the mutex ------------------------------------------ */

static void init_asker(void)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&front.changed, &attr);
    pthread_mutex_init(&front.mutex, NULL);
    call_fd = eventfd(0, EFD_NONBLOCK);
    front.spin.max_ns = sleeping ? 0 : SPIN_FOREVER;
    front.waiter = (struct waiter){.ring = &front, .look = front_look,
                                   .final_check = front_final_check, .spin = &front.spin,
                                   .event_fd = call_fd, .hangup_fd = -1};
}

static void check_all_answered(void)
{
    pthread_mutex_lock(&front.mutex);
    collect();
    CHECK(front.nr_free == front.nr_calls && front_in_flight(&front) == 0, "an entry is lost");
    CHECK(front.stats.requests == front.stats.responses, "an answer is lost");
    pthread_mutex_unlock(&front.mutex);
}

static void free_calls(void)
{
    free(front.calls);
    free(front.free);
    free(front.done);
}

#endif
