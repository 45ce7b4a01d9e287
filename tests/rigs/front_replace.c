/* A front used by several threads, whose ring is replaced again and again.
 *
 *   front_replace poll|sleep REPLACEMENTS START
 *
 * Askers put requests, singly and in crowds that are published late; each has a number of
 * its own.  A back serves the ring in use and the one before it, in any order, and counts
 * how often it was asked each; an answer is made of its number, so one that is handed to
 * another is noticed.  The replacer does what py_front_replace.c does, and frees a ring as
 * soon as the front says that it is done with: who looks at it later is found out.  `poll`
 * never sleeps, so that nothing but front_replace.h keeps the threads apart.  Answers are
 * owed within OWED_NS.  Prints how many there were.
 */
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>

#ifndef OWED_NS
#define OWED_NS 10000000000u
#endif
#include "../sanitize/front_asker.h"
#include "front_replace.h"

enum { ASKERS = 3, CROWD = 5, MAX_ASKED = 1 << 22, GIVE_UP_S = 90, LEAST = 4 };

/* A ring, its memory, and the back's end of it. */
struct served {
    void *memory;
    struct xen_ring ring;
    struct xen_back back;
    uint32_t owed;
    struct io_request *held;
    int notify_fd;
};

static struct served *served[2]; /* the elder and the one in use; guarded by `serving` */
static pthread_mutex_t serving = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool over, stopped;
static _Atomic uint8_t asked[MAX_ASKED];
static shared_u32 next_number;

/* ---- rings ---------------------------------------------------------------------- */

static struct served *new_ring(uint32_t slots, uint32_t start)
{
    size_t size = sizeof(struct padded_header) + slots * sizeof(struct io_request);
    struct served *made = calloc(1, sizeof *made);
    made->memory = aligned_alloc(64, (size + 63) / 64 * 64);
    made->held = calloc(slots, sizeof *made->held);
    CHECK(xen_bind(&made->ring, made->memory, size, RING_PADDED, slots,
                   sizeof(struct io_request)), "xen_bind");
    xen_init(&made->ring, RING_PADDED, start);
    made->back.ring = made->ring;
    xen_back_attach(&made->back, start);
    made->notify_fd = eventfd(0, EFD_NONBLOCK);
    return made;
}

static void drop_ring(struct served *ring)
{
    CHECK(ring->owed == 0 && xen_back_ready(&ring->back) == 0, "given up with requests in it");
    close(ring->notify_fd);
    free(ring->held);
    free(ring->memory);
    free(ring);
}

/* ---- the back ------------------------------------------------------------------- */

static void take(struct served *ring)
{
    int64_t ready = xen_back_ready(&ring->back);
    CHECK(ready >= 0, "req_prod is impossible");
    for (; ready > 0; ready--) {
        struct io_request *request = &ring->held[ring->owed++];
        xen_back_take(&ring->back, request, sizeof *request);
        CHECK(request->offset < MAX_ASKED, "no such number");
        CHECK(atomic_fetch_add(&asked[request->offset], 1) == 0, "asked twice");
    }
}

static void respond(struct served *ring, uint32_t which)
{
    struct io_response response = {.id = ring->held[which].id,
                                   .result = answer_to(ring->held[which].offset)};
    memcpy(xen_back_claim(&ring->back), &response, sizeof response);
    ring->held[which] = ring->held[--ring->owed];
}

static void serve_ring(struct served *ring, uint64_t *state)
{
    take(ring);
    while (ring->owed > 0 && chance(state, 4) != 0)
        respond(ring, chance(state, ring->owed));
    if (xen_back_publish(&ring->back) && sleeping)
        CHECK(eventfd_write(call_fd, 1) == 0, "eventfd_write");
}

static void *serve(void *unused)
{
    uint64_t state = 88172645463325252u;
    while (!atomic_load(&stopped)) {
        pthread_mutex_lock(&serving);
        for (int i = 0; i < 2; i++)
            if (served[i] != NULL)
                serve_ring(served[i], &state);
        pthread_mutex_unlock(&serving);
        sched_yield();
    }
    return unused;
}

/* ---- those who ask ---------------------------------------------------------------- */

/* Mutex held. */
static struct call *put(uint64_t *number)
{
    struct io_request *slot;
    struct call *call = claim(&slot);
    *number = atomic_fetch_add(&next_number, 1);
    front_fill(call, slot, 2, *number, LENGTH, NULL);
    return call;
}

static void ask_one(void)
{
    uint64_t number;
    pthread_mutex_lock(&front.mutex);
    int64_t result = waited_result(put(&number));
    pthread_mutex_unlock(&front.mutex);
    CHECK(result == answer_to(number), "the answer of another");
}

/* Claimed one by one, published all at once: the ring may be replaced in between. */
static void ask_crowd(void)
{
    struct answer answers[CROWD] = {{false, 0}};
    uint64_t numbers[CROWD];
    for (int i = 0; i < CROWD; i++) {
        pthread_mutex_lock(&front.mutex);
        struct call *call = put(&numbers[i]);
        call->state = CALL_HELD;
        call->answer = &answers[i];
        pthread_mutex_unlock(&front.mutex);
        sched_yield();
    }
    pthread_mutex_lock(&front.mutex);
    front_flush(&front);
    pthread_mutex_unlock(&front.mutex);
    for (int i = 0; i < CROWD; i++) {
        /* acquire: answer-given. */
        while (!atomic_load_explicit(&answers[i].done, memory_order_acquire))
            ask_one();
        CHECK(answers[i].result == answer_to(numbers[i]), "the answer of another");
    }
}

static void *ask(void *arg)
{
    uint64_t state = 88172645463325252u + (uintptr_t)arg;
    while (!atomic_load(&over) && load_relaxed(&next_number) < MAX_ASKED / 2) {
        if (chance(&state, 3) == 0)
            ask_crowd();
        else
            ask_one();
    }
    return NULL;
}

/* ---- who replaces the ring -------------------------------------------------------- */

static void exclude(void)
{
    pthread_mutex_lock(&front.mutex);
    front_exclude(&front);
    pthread_mutex_unlock(&front.mutex);
}

static void admit(void)
{
    pthread_mutex_lock(&front.mutex);
    front_admit(&front);
    pthread_mutex_unlock(&front.mutex);
}

/* The elder has brought its last answer: nobody looks at it again. */
static void retire(void)
{
    pthread_mutex_lock(&front.mutex);
    await(front_elder_idle, &front);
    pthread_mutex_unlock(&front.mutex);
    exclude();
    pthread_mutex_lock(&front.mutex);
    front.has_elder = false;
    pthread_mutex_unlock(&front.mutex);
    admit();
    pthread_mutex_lock(&serving);
    struct served *elder = served[0];
    served[0] = NULL;
    pthread_mutex_unlock(&serving);
    if (elder != NULL)
        drop_ring(elder);
}

static void replace(uint32_t slots, uint32_t start)
{
    struct served *next = new_ring(slots, start);
    pthread_mutex_lock(&serving);
    served[0] = served[1];
    served[1] = next;
    pthread_mutex_unlock(&serving);
    exclude();
    pthread_mutex_lock(&front.mutex);
    CHECK(front_grow(&front, slots), "no memory");
    front_replace(&front, &next->ring, start, next->notify_fd);
    pthread_mutex_unlock(&front.mutex);
    admit();
}

/* Larger now and then, so that calls in flight move; mostly not. */
static uint32_t slots_of(uint32_t turn, uint32_t turns)
{
    uint32_t largest = LEAST << (turn * 6 / turns);
    return turn % 3 == 0 ? LEAST : turn % 3 == 1 ? largest : largest > 8 ? largest / 2 : 8;
}

static void init(uint32_t start)
{
    init_asker();
    served[1] = new_ring(LEAST, start);
    front.ring.ring = served[1]->ring;
    xen_front_attach(&front.ring, start);
    front.notify_fd = served[1]->notify_fd;
    CHECK(front_grow(&front, LEAST), "no memory");
    limit_adapt(&front.limit, LIMIT_LEAST, LEAST, LIMIT_HOLD_NS);
}

static void count(void)
{
    check_all_answered();
    CHECK(front.stats.requests == load_relaxed(&next_number), "a request is lost");
    for (uint32_t i = 0; i < load_relaxed(&next_number); i++)
        CHECK(asked[i] == 1, "not asked once");
}

int main(int argc, char **argv)
{
    alarm(GIVE_UP_S);
    CHECK(argc == 4, "front_replace poll|sleep REPLACEMENTS START");
    sleeping = strcmp(argv[1], "sleep") == 0;
    uint32_t turns = (uint32_t)atoi(argv[2]), start = (uint32_t)strtoul(argv[3], NULL, 0);
    pthread_t askers[ASKERS], back;
    init(start);
    CHECK(pthread_create(&back, NULL, serve, NULL) == 0, "pthread_create");
    for (uintptr_t i = 0; i < ASKERS; i++)
        CHECK(pthread_create(&askers[i], NULL, ask, (void *)i) == 0, "pthread_create");
    for (uint32_t turn = 0; turn < turns; turn++) {
        retire();
        replace(slots_of(turn, turns), start);
        for (uint32_t i = 0; i < turn % 4; i++)
            ask_one();
    }
    atomic_store(&over, true);
    for (int i = 0; i < ASKERS; i++)
        pthread_join(askers[i], NULL);
    retire();
    atomic_store(&stopped, true);
    pthread_join(back, NULL);
    count();
    drop_ring(served[1]);
    free_calls();
    printf("{\"answers\": %lu, \"replaced\": %u}\n", (unsigned long)front.stats.responses, turns);
    return 0;
}
