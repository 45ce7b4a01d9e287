/* One frontend shared by several threads, and a back that answers out of order.
 *
 *   front_threads poll|sleep|lie ROUNDS START
 *
 * Every thread mixes the three ways to be answered: on its own stack, in a handle that
 * it looks at without the mutex, and many blocks at once.  The back answers with a
 * number made of what was asked, so an answer handed to the wrong caller is noticed.
 * `poll` never sleeps: nothing orders the threads but front.h and xen.h themselves.
 * `lie` has one thread and a back that answers what was not asked.
 */
#include <sched.h>
#include <sys/eventfd.h>

#include "front_asker.h"

enum { THREADS = 4, SLOTS = 8, HANDLES = 3, BLOCKS = 12, WINDOW = 5 };

static union {
    struct padded_header header;
    uint8_t bytes[sizeof(struct padded_header) + SLOTS * sizeof(struct io_request)];
} memory;
static struct xen_back back;
static uint32_t rounds;
static _Atomic bool over;
static int kick_fd;

/* ---- the back ------------------------------------------------------------------ */

static void respond(uint64_t id, int64_t result)
{
    struct io_response response = {.id = id, .result = result};
    memcpy(xen_back_claim(&back), &response, sizeof response);
}

static void publish(void)
{
    if (xen_back_publish(&back) && sleeping)
        CHECK(eventfd_write(call_fd, 1) == 0, "eventfd_write");
}

static int64_t result_of(const struct io_request *request)
{
    return request->length == LENGTH ? answer_to(request->offset) : (int64_t)request->length;
}

static void *serve(void *unused)
{
    struct io_request held[SLOTS];
    uint32_t nr_held = 0;
    uint64_t state = 88172645463325252u;
    while (!atomic_load(&over)) {
        int64_t ready = xen_back_ready(&back);
        CHECK(ready >= 0, "req_prod is impossible");
        for (; ready > 0; ready--)
            xen_back_take(&back, &held[nr_held++], sizeof held[0]);
        while (nr_held > 0 && chance(&state, 4) != 0) {
            uint32_t which = chance(&state, nr_held);
            respond(held[which].id, result_of(&held[which]));
            held[which] = held[--nr_held];
        }
        publish();
        sched_yield();
    }
    return unused;
}

/* ---- the frontend's threads ------------------------------------------------------- */

static void ask_waited(uint64_t offset)
{
    struct io_request *slot;
    pthread_mutex_lock(&front.mutex);
    struct call *call = claim(&slot);
    front_fill(call, slot, 2, offset, LENGTH, NULL);
    int64_t result = waited_result(call);
    pthread_mutex_unlock(&front.mutex);
    CHECK(result == answer_to(offset), "the answer of another");
}

static void ask_held(uint64_t offset)
{
    struct answer answers[HANDLES] = {{false, 0}};
    pthread_mutex_lock(&front.mutex);
    for (int i = 0; i < HANDLES; i++) {
        struct io_request *slot;
        struct call *call = claim(&slot);
        front_fill(call, slot, 2, offset + (uint64_t)i, LENGTH, NULL);
        call->state = CALL_HELD;
        call->answer = &answers[i];
    }
    front_flush(&front);
    pthread_mutex_unlock(&front.mutex);
    for (int i = 0; i < HANDLES; i++) {
        /* acquire: answer-given. */
        while (!atomic_load_explicit(&answers[i].done, memory_order_acquire))
            ask_waited(offset + 99);
        CHECK(answers[i].result == answer_to(offset + (uint64_t)i), "the answer of another");
    }
}

static bool many_done(void *arg)
{
    struct many *many = arg;
    return many->completed == many->next;
}

static void ask_many(uint64_t offset)
{
    uint8_t busy[WINDOW] = {0};
    struct many many = {.nr = BLOCKS, .window = WINDOW, .length = 512, .busy = busy};
    pthread_mutex_lock(&front.mutex);
    while (many.completed < many.nr) {
        struct io_request *slot;
        struct call *call = NULL;
        while (many.next < many.nr && !busy[many.next % WINDOW] &&
               (call = front_claim(&front, &slot)) != NULL) {
            front_fill(call, slot, 2, offset, 512, NULL);
            call->state = CALL_MANY;
            call->many = &many;
            call->part = many.next;
            busy[many.next++ % WINDOW] = 1;
        }
        front_flush(&front);
        if (many.completed == many.next) {
            await(can_claim, NULL);
            collect();
        }
        await(many_done, &many);
    }
    pthread_mutex_unlock(&front.mutex);
    CHECK(many.error == 0, "block %lu failed", (unsigned long)many.error_part);
}

static void *ask(void *arg)
{
    uint64_t state = 88172645463325252u + (uintptr_t)arg;
    for (uint32_t i = 0; i < rounds; i++) {
        uint64_t offset = (uintptr_t)arg << 40 | (uint64_t)i << 8;
        uint32_t dice = chance(&state, 4);
        if (dice == 0)
            ask_many(offset);
        else if (dice == 1)
            ask_held(offset);
        else
            ask_waited(offset);
    }
    return NULL;
}

/* ---- a back that lies ------------------------------------------------------------------ */

/* Ask one thing and have it answered by `id_of(its id)`; true if that was taken. */
static bool taken(uint64_t (*id_of)(uint64_t), int64_t result)
{
    struct answer answer = {false, 0};
    struct io_request *slot, request;
    pthread_mutex_lock(&front.mutex);
    struct call *call = front_claim(&front, &slot);
    CHECK(call != NULL, "no credit");
    front_fill(call, slot, 2, 4096, 512, NULL);
    call->state = CALL_HELD;
    call->answer = &answer;
    front_flush(&front);
    CHECK(xen_back_ready(&back) == 1, "one request");
    xen_back_take(&back, &request, sizeof request);
    respond(id_of(request.id), result);
    publish();
    front_dispatch(&front);
    collect();
    pthread_mutex_unlock(&front.mutex);
    CHECK(answer.done == (front.broken == NULL), "taken and broken");
    return answer.done;
}

static uint64_t same(uint64_t id) { return id; }
static uint64_t before(uint64_t id) { return id - (1ull << 32); }
static uint64_t beyond(uint64_t id) { return id + SLOTS; }
static uint64_t far_beyond(uint64_t id) { return id | 0x7FFFFFFF; }

static void attach(uint32_t start)
{
    CHECK(xen_bind(&front.ring.ring, &memory, sizeof memory, RING_PADDED, SLOTS,
                   sizeof(struct io_request)), "xen_bind");
    xen_init(&front.ring.ring, RING_PADDED, start);
    back.ring = front.ring.ring;
    xen_front_attach(&front.ring, start);
    xen_back_attach(&back, start);
    front.broken = NULL;
    front.nr_free = front.nr_done = front.first_done = 0;
    for (uint32_t i = SLOTS; i-- > 0;) {
        front.calls[i].state = CALL_FREE;
        front.calls[i].generation++;
        front.free[front.nr_free++] = i;
    }
}

static void lie(uint32_t start)
{
    CHECK(taken(same, 512) && taken(same, 0) && taken(same, -5), "honest answers");
    CHECK(!taken(before, 512), "an answer to what this entry was before");
    attach(start);
    CHECK(!taken(beyond, 512), "an entry that is none");
    attach(start);
    CHECK(!taken(far_beyond, 512), "an entry that is none");
    attach(start);
    CHECK(!taken(same, 513), "more than was asked");
}

static void share(void)
{
    pthread_t threads[THREADS + 1];
    CHECK(pthread_create(&threads[THREADS], NULL, serve, NULL) == 0, "pthread_create");
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, ask, (void *)i) == 0, "pthread_create");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&over, true);
    pthread_join(threads[THREADS], NULL);
    check_all_answered();
}

static void init(void)
{
    init_asker();
    front.nr_calls = SLOTS;
    front.calls = calloc(SLOTS, sizeof *front.calls);
    front.free = calloc(SLOTS, sizeof *front.free);
    front.done = calloc(SLOTS, sizeof *front.done);
    kick_fd = eventfd(0, EFD_NONBLOCK);
    limit_fix(&front.limit, NO_LIMIT);
    front.notify_fd = kick_fd;
}

int main(int argc, char **argv)
{
    alarm(HANG_S);
    CHECK(argc > 1, "which mode?");
    sleeping = strcmp(argv[1], "sleep") == 0;
    rounds = argument(argc, argv, 2, 2000);
    init();
    attach(argument(argc, argv, 3, 0));
    if (strcmp(argv[1], "lie") == 0)
        lie(argument(argc, argv, 3, 0));
    else
        share();
    free_calls();
    return 0;
}
