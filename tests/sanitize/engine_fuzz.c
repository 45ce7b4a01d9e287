/* A hostile frontend against the engine, a million states, under ASan and UBSan.
 *
 * Two rings in one engine with the mock executor.  The victim asks for pages and
 * checks each one; the attacker writes anything anywhere in its own region between
 * turns: indices, slots, grants, segment tables, some of it nearly right.  The I/O
 * function here does no I/O: it asserts that every byte it is to touch lies in the
 * attacker's (or victim's) data area, and marks it.  In some of its lives the attacker
 * asks a delay device, by a clock that goes on a tick a look.
 *
 *   engine_fuzz SEED STATES      prints "ok" and counts; aborts on any violation
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring.h"

enum { SLOTS = 8, GRANTS = 8, PAGE = 4096, DATA_PAGES = 8 };
enum { RING_AT = PAGE, GRANTS_AT = 2 * PAGE, DATA_AT = 3 * PAGE };
enum { REGION = DATA_AT + DATA_PAGES * PAGE, DEVICE = 1 << 20, CANARY = 0x5A };

#define CHECK(what)                                                                    \
    do {                                                                               \
        if (!(what)) {                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                 \
            abort();                                                                   \
        }                                                                              \
    } while (0)

static uint64_t state;

static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint32_t below(uint32_t limit)
{
    return (uint32_t)(rnd() % limit);
}

struct client {
    uint8_t *memory; /* REGION bytes between two unmapped pages */
    int wait_fd, notify_fd;
    int ring;
    uint32_t protocol;
};

static struct client attacker, victim;

static bool in_data(const struct client *client, const struct iovec *iov)
{
    uint8_t *first = iov->iov_base, *end = client->memory + REGION;
    return first >= client->memory + DATA_AT && first < end &&
           iov->iov_len <= (size_t)(end - first);
}

/* Stands in for the system calls: see the essay above. */
int32_t op_run(const struct op *op, int fd, int flags)
{
    uint64_t total = 0;
    if (op->kind == OP_KIND_SYNC)
        return 0;
    CHECK(op->offset <= DEVICE);
    if (op->kind != OP_KIND_READ && op->kind != OP_KIND_WRITE) {
        CHECK(op->length <= DEVICE - op->offset);
        return 0;
    }
    CHECK(op->nr_iov >= 1 && op->nr_iov <= MAX_SEGMENTS);
    for (uint32_t i = 0; i < op->nr_iov; i++) {
        CHECK(in_data(&attacker, &op->iov[i]) || in_data(&victim, &op->iov[i]));
        if (op->kind == OP_KIND_READ)
            memset(op->iov[i].iov_base, (int)(op->offset / PAGE), op->iov[i].iov_len);
        total += op->iov[i].iov_len;
    }
    CHECK(total <= MAX_TRANSFER && total <= DEVICE - op->offset);
    return (int32_t)total;
}

static void make_memory(struct client *client)
{
    uint8_t *base = mmap(NULL, REGION + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    client->memory = base + PAGE;
    CHECK(mprotect(client->memory, REGION, PROT_READ | PROT_WRITE) == 0);
    client->wait_fd = eventfd(0, EFD_NONBLOCK);
    client->notify_fd = eventfd(0, EFD_NONBLOCK);
    memset(client->memory, CANARY, PAGE);
}

static uint32_t slot_size(const struct client *client)
{
    return client->protocol == PROTOCOL_BLKIF ? 112 : 64;
}

static struct xen_ring bind(struct client *client)
{
    struct xen_ring ring;
    CHECK(xen_bind(&ring, client->memory + RING_AT, PAGE, RING_PADDED, SLOTS, slot_size(client)));
    return ring;
}

static uint64_t tick_ns(struct executor *exec)
{
    static uint64_t ticks;
    return ++ticks;
}

static void set_clock(struct engine *engine)
{
    static struct executor_calls calls;
    calls = *engine->exec->calls;
    calls.now_ns = tick_ns;
    engine->exec->calls = &calls;
}

static void attach(struct engine *engine, struct client *client, uint32_t start)
{
    struct xen_ring ring = bind(client);
    xen_init(&ring, RING_PADDED, start);
    struct engine_ring_spec spec = {
        .memory = client->memory, .size = REGION, .ring_layout = RING_PADDED, .slots = SLOTS,
        .slot_size = slot_size(client), .protocol = client->protocol, .ring_offset = RING_AT,
        .ring_size = PAGE, .grants_offset = GRANTS_AT, .grants = GRANTS, .start = start,
        .data_offset = DATA_AT, .data_size = DATA_PAGES * PAGE,
        .wait_fd = client->wait_fd, .notify_fd = client->notify_fd,
    };
    struct engine_device device = {
        .kind = DEVICE_FILE, .fd = 0, .size = DEVICE, .block_size = 512,
        .read_only = below(4) == 0 && client == &attacker,
    };
    if (client == &attacker && below(3) == 0)
        device.kind = DEVICE_DELAY;
    client->ring = engine_attach(engine, &spec, &device);
    CHECK(client->ring >= 0);
}

/* ---- the attacker ------------------------------------------------------------ */

static uint64_t nearly(uint64_t good)
{
    switch (below(8)) {
    case 0:
        return rnd();
    case 1:
        return good + (rnd() % 3) - 1;
    case 2:
        return UINT64_MAX - (rnd() % 4096);
    case 3:
        return (uint64_t)1 << below(64);
    default:
        return good;
    }
}

static void scribble_grant(struct client *client)
{
    uint64_t *grant = (uint64_t *)(client->memory + GRANTS_AT + below(GRANTS) * 32);
    grant[0] = nearly(below(8) ? DATA_AT + below(DATA_PAGES) * PAGE : below(3) * PAGE);
    grant[1] = nearly((1 + below(3)) * PAGE);
    grant[2] = nearly(1 | (uint64_t)3 << 32);
}

static void scribble_segment(struct wire_segment *segment)
{
    *segment = (struct wire_segment){
        .gref = (uint32_t)nearly(below(GRANTS)),
        .generation = (uint32_t)nearly(1),
        .offset = (uint32_t)nearly(below(8) * 512),
        .length = (uint32_t)nearly(512 * (1 + below(8))),
    };
}

static void scribble_request(struct client *client)
{
    struct xen_ring ring = bind(client);
    struct wire_request *wire = (struct wire_request *)xen_slot(&ring, below(SLOTS));
    if (below(8) == 0) {
        for (uint32_t i = 0; i < slot_size(client); i++)
            ((uint8_t *)wire)[i] = (uint8_t)rnd();
        return;
    }
    scribble_segment(&wire->segments[0]);
    scribble_segment(&wire->segments[1]);
    wire->id = nearly(below(SLOTS));
    wire->op = (uint8_t)nearly(1 + below(7));
    wire->flags = (uint8_t)nearly(below(2));
    wire->nr_segments = (uint16_t)nearly(1 + below(4));
    wire->reserved = (uint32_t)(below(16) ? 0 : rnd());
    wire->offset = nearly(below(DEVICE / 512) * 512);
    wire->length = nearly(wire->segments[0].length);
}

/* blkif requests, nearly right: operation, segments, sectors, indirect pages. */
static void scribble_blkif(struct client *client)
{
    struct xen_ring ring = bind(client);
    uint8_t *wire = xen_slot(&ring, below(SLOTS));
    uint64_t sector = nearly(below(DEVICE / 512));
    for (uint32_t i = 0; i < 112; i++)
        wire[i] = (uint8_t)(below(4) ? 0 : nearly(below(8)));
    wire[0] = (uint8_t)nearly(below(7));
    wire[1] = (uint8_t)nearly(below(12));
    memcpy(wire + 16, &sector, 8);
    for (uint32_t i = 0; i < 11; i++)
        wire[24 + i * 8 + 5] = (uint8_t)nearly(below(8));
}

static void scribble_word(struct client *client)
{
    uint32_t *words = (uint32_t *)(client->memory + RING_AT);
    uint32_t index = (uint32_t[]){0, 1, 32, 33}[below(4)];
    words[index] = (uint32_t)nearly(words[index]);
}

static void attack(void)
{
    struct xen_ring ring = bind(&attacker);
    for (uint32_t i = 1 + below(6); i > 0; i--) {
        switch (below(8)) {
        case 0:
            scribble_word(&attacker);
            break;
        case 1:
        case 2:
            scribble_grant(&attacker);
            break;
        case 3: {
            uint32_t at = DATA_AT + below(DATA_PAGES * PAGE / 16) * 16;
            scribble_segment((struct wire_segment *)(attacker.memory + at));
            break;
        }
        default:
            if (attacker.protocol == PROTOCOL_BLKIF)
                scribble_blkif(&attacker);
            else
                scribble_request(&attacker);
        }
    }
    if (below(3))
        atomic_fetch_add(ring.req_prod, 1 + below(3));
}

/* ---- the victim ---------------------------------------------------------------- */

static struct xen_front front;
static uint32_t asked[SLOTS]; /* the device page that each buffer page was asked for */
static uint64_t victim_served;

static void victim_start(struct engine *engine, uint32_t start)
{
    struct wire_grant *grants = (struct wire_grant *)(victim.memory + GRANTS_AT);
    for (uint32_t i = 0; i < GRANTS; i++)
        grants[i] = (struct wire_grant){
            .offset = DATA_AT + i * PAGE, .length = PAGE, .generation = 1, .rights = 3};
    attach(engine, &victim, start);
    front.ring = bind(&victim);
    xen_front_attach(&front, start);
}

static void victim_turn(void)
{
    int64_t ready = xen_front_ready(&front);
    CHECK(ready >= 0);
    for (int64_t i = 0; i < ready; i++) {
        struct wire_response response;
        xen_front_copy(&front, (uint32_t)i, &response, sizeof response);
        CHECK(response.id < SLOTS && response.result == PAGE);
        uint8_t *page = victim.memory + DATA_AT + response.id * PAGE;
        for (uint32_t b = 0; b < PAGE; b += 512)
            CHECK(page[b] == (uint8_t)asked[response.id]);
        asked[response.id] = UINT32_MAX;
        victim_served++;
    }
    xen_front_release(&front, (uint32_t)ready);
    for (uint32_t i = 0; i < SLOTS && xen_front_credit(&front) > 0; i++) {
        if (asked[i] != UINT32_MAX)
            continue;
        asked[i] = below(DEVICE / PAGE);
        struct wire_request *wire = (struct wire_request *)xen_front_claim(&front);
        *wire = (struct wire_request){
            .id = i, .op = WIRE_READ, .nr_segments = 1, .offset = (uint64_t)asked[i] * PAGE,
            .length = PAGE, .segments = {{.gref = i, .generation = 1, .length = PAGE}}};
    }
    xen_front_publish(&front);
}

/* ---- the loop --------------------------------------------------------------------- */

static int step(struct engine *engine, struct engine_event *events)
{
    engine_wake(engine);
    return engine_run(engine, events, 16);
}

static uint32_t attacker_start;

/* req_prod claims more requests than there are free slots, or takes some back: then, and
 * only then, the engine must break the ring. */
static bool must_break(struct engine *engine)
{
    struct engine_ring_stats stats;
    struct xen_ring ring = bind(&attacker);
    CHECK(engine_ring_stats(engine, (uint32_t)attacker.ring, &stats) == 0);
    uint32_t published = attacker_start + (uint32_t)stats.responses;
    uint32_t taken = attacker_start + (uint32_t)stats.requests;
    return load_relaxed(ring.req_prod) - taken > SLOTS - (taken - published);
}

/* The attacker's ring was broken, or its time is over: let go, begin again. */
static void restart_attacker(struct engine *engine)
{
    struct engine_event events[16];
    engine_detach(engine, (uint32_t)attacker.ring, below(2));
    for (int turns = 0;; turns++) {
        CHECK(turns < 10000);
        victim_turn();
        int count = step(engine, events);
        for (int i = 0; i < count; i++)
            if (events[i].kind == EVENT_DETACHED) {
                CHECK(events[i].ring == (uint32_t)attacker.ring);
                attacker.protocol = below(3) ? PROTOCOL_IO : PROTOCOL_BLKIF;
                attacker_start = (uint32_t)nearly(0);
                attach(engine, &attacker, attacker_start);
                return;
            }
    }
}

static void check_canaries(void)
{
    for (uint32_t i = 0; i < PAGE; i++)
        CHECK(attacker.memory[i] == CANARY && victim.memory[i] == CANARY);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    uint64_t seed = strtoull(argv[1], NULL, 0), states = strtoull(argv[2], NULL, 0);
    const char *where;
    int error;
    state = seed * 2654435761u + 88172645463325252u;
    struct engine *engine = engine_new(ENGINE_MOCK, 0, 64, 256, seed, &error, &where);
    CHECK(engine != NULL && engine_start(engine) == 0);
    const struct station_plan plan = {.servers = 3, .service_ns = 8, .exponential = true};
    CHECK(engine_add_station(engine, &plan) == 0);
    set_clock(engine);
    make_memory(&attacker);
    make_memory(&victim);
    victim.protocol = attacker.protocol = PROTOCOL_IO;
    memset(asked, 0xFF, sizeof asked);
    victim_start(engine, 0xFFFFFFF0u);
    attach(engine, &attacker, 0);
    uint64_t broken = 0;
    for (uint64_t i = 0; i < states; i++) {
        struct engine_event events[16];
        attack();
        victim_turn();
        bool over = below(500) == 0, must = must_break(engine), did = false;
        for (int count = step(engine, events); count > 0; count--)
            if (events[count - 1].kind == EVENT_BROKEN) {
                CHECK(events[count - 1].ring == (uint32_t)attacker.ring);
                broken++;
                over = did = true;
            }
        CHECK(did == must);
        if (over)
            restart_attacker(engine);
        if (i % 64 == 0)
            check_canaries();
    }
    struct station_stats station;
    CHECK(engine_station_stats(engine, 0, &station) == 0);
    CHECK(station.served > 0 && station.abandoned > 0 && station.in_service_peak == 3);
    CHECK(victim_served > states / 4);
    printf("ok states=%llu broken=%llu victim_served=%llu\n", (unsigned long long)states,
           (unsigned long long)broken, (unsigned long long)victim_served);
    engine_free(engine);
    munmap(attacker.memory - PAGE, REGION + 2 * PAGE);
    munmap(victim.memory - PAGE, REGION + 2 * PAGE);
    return 0;
}
