/* A million random states of both halves with a hand that pokes any shared byte.
 *
 *   ring_fuzz STEPS SEED
 *
 * The memory is exactly as long as the ring, so AddressSanitizer sees the first byte
 * beyond it.  Whatever the words say: no more than `slots` entries of work, counts
 * within bounds, and a half that broke stays broken.
 */
#include "check.h"
#include "xen.h"

enum { MAX_BYTES = 128, GAME = 400 };

static const uint32_t starts[] = {0, 0x7FFFFFFE, 0xFFFFFFFE, 0xFFFFFFF0};
static uint64_t state;
static struct xen_front front;
static struct xen_back back;
static enum ring_layout layout;
static uint8_t private[MAX_BYTES];
static bool front_broke, back_broke, honest;
static unsigned long breaks;

static uint32_t slots(void) { return front.ring.nr_slots; }

static void check_counts(void)
{
    CHECK(xen_front_credit(&front) <= slots(), "credit");
    CHECK(xen_back_unserved(&back) <= slots(), "unserved");
    CHECK(!honest || (!front.broken && !back.broken), "honest peers broke a ring");
}

static void put_requests(void)
{
    for (uint32_t n = chance(&state, slots() + 1); n > 0 && xen_front_credit(&front) > 0; n--)
        memset(xen_front_claim(&front), (int)n, front.ring.slot_size);
}

static void put_responses(void)
{
    for (uint32_t n = chance(&state, slots() + 1); n > 0 && xen_back_unserved(&back) > 0; n--)
        memset(xen_back_claim(&back), (int)n, back.ring.slot_size);
}

static void publish_requests(void)
{
    (void)xen_front_publish(&front);
}

static void publish_responses(void)
{
    (void)xen_back_publish(&back);
}

/* -1 or a bounded count; once -1, always -1. */
static uint32_t judge(int64_t ready, bool *broke)
{
    CHECK(ready >= -1 && ready <= (int64_t)slots(), "%ld ready", (long)ready);
    CHECK(!*broke || ready == -1, "a broken ring came back to life");
    breaks += ready < 0 && !*broke;
    *broke = ready < 0;
    return ready < 0 ? 0 : (uint32_t)ready;
}

static void take_requests(void)
{
    uint32_t ready = judge(xen_back_ready(&back), &back_broke);
    for (uint32_t n = chance(&state, ready + 1); n > 0; n--)
        xen_back_take(&back, private, back.ring.slot_size);
}

static void take_responses(void)
{
    uint32_t ready = judge(xen_front_ready(&front), &front_broke);
    uint32_t count = chance(&state, ready + 1);
    for (uint32_t n = 0; n < count; n++)
        xen_front_copy(&front, n, private, front.ring.slot_size);
    xen_front_release(&front, count);
}

static void final_checks(void)
{
    judge(xen_front_final_check(&front), &front_broke);
    judge(xen_back_final_check(&back), &back_broke);
}

static void poke(void)
{
    shared_u32 *words[] = {front.ring.req_prod, front.ring.rsp_prod, front.ring.req_event,
                           front.ring.rsp_event};
    shared_u32 *word = words[chance(&state, honest ? 0x10000 : 4) & 3];
    if (honest)
        return;
    uint32_t near = load_relaxed(word) + chance(&state, 2 * slots() + 3) - slots() - 1;
    store_relaxed(word, chance(&state, 4) ? near : (uint32_t)state);
}

static void (*const steps[])(void) = {put_requests,  put_responses, publish_requests,
                                      publish_responses, take_requests, take_responses,
                                      final_checks,  poke};

static void set_up(uint8_t *memory, size_t size, uint32_t nr_slots, uint32_t slot_size)
{
    uint32_t start = starts[chance(&state, 4)];
    CHECK(xen_bind(&front.ring, memory, size, layout, nr_slots, slot_size), "xen_bind");
    CHECK(!xen_bind(&back.ring, memory, size - 1, layout, nr_slots, slot_size), "too short");
    xen_init(&front.ring, layout, start);
    back.ring = front.ring;
    xen_front_attach(&front, start);
    xen_back_attach(&back, start);
    front_broke = back_broke = false;
    honest = chance(&state, 4) == 0;
}

static void play(void)
{
    layout = chance(&state, 2) ? RING_XEN : RING_PADDED;
    uint32_t nr_slots = 1u << chance(&state, 6), slot_size = 8 + 8 * chance(&state, 15);
    size_t size = xen_header_size(layout) + (size_t)nr_slots * slot_size;
    uint8_t *memory = malloc(size);
    CHECK(memory != NULL, "no memory");
    set_up(memory, size, nr_slots, slot_size);
    for (int i = 0; i < GAME; i++) {
        steps[chance(&state, sizeof steps / sizeof *steps)]();
        check_counts();
    }
    free(memory);
}

int main(int argc, char **argv)
{
    alarm(HANG_S);
    uint32_t total = argument(argc, argv, 1, 1000000);
    state = 88172645463325252u + argument(argc, argv, 2, 0);
    for (uint32_t done = 0; done < total; done += GAME)
        play();
    CHECK(breaks > total / GAME / 8, "only %lu rings were broken", breaks);
    return 0;
}
