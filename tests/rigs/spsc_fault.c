/* Kill rig: a producer and a consumer that SIGKILL themselves at any store.
 *
 * Numbers ascend for ever, whoever is the producer: `next` counts them before they
 * are used.  The consumer notes what it sees before it releases, so a message may
 * be seen again by the successor of one that died in between, and by nobody else.
 * What a put returned for must be seen; at the end the ring must be as good as new.
 *
 * A consumer that wants the newest only skips, so that what counts as lost must be how
 * far cons has come, exactly.
 *
 *   spsc_fault KILLS START SEED KIND(0 slots|1 records|2 references|3 latest, of slots)
 *
 * Exit status: 0 all good, 1 something lost, torn or twice, 2 stuck, 9 rig trouble.
 */
#include "faults.h"

#include "spsc_rig.h"

enum { UNITS = 16, MESSAGES = 1 << 26 };
enum { ACKNOWLEDGED = 1, SEEN = 2 };

struct shared {
    shared_u32 next; /* number of the next message */
    shared_u32 last; /* number seen last */
    shared_u32 held; /* first number of the batch that was seen last */
    _Atomic uint8_t fates[MESSAGES];
};

static struct shared *shared;
static enum rig_kind kind;
static bool latest;

static void note(uint32_t number, uint8_t fate)
{
    atomic_fetch_or_explicit(&shared->fates[number % MESSAGES], fate, memory_order_seq_cst);
}

static void count(shared_u32 *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void moved(void)
{
    atomic_fetch_add_explicit(&storm->moves, 1, memory_order_relaxed);
}

static void take(struct spsc_end *end, bool producer)
{
    if (!rig_take(end, shared_base, kind, producer, owner_self()))
        for (;;) /* never ours: survivors will see that nothing moves */
            pause();
}

/* ---- the producer ------------------------------------------------------------------ */

static void put(struct spsc_end *end, uint64_t *seed)
{
    uint32_t number = load_relaxed(&shared->next);
    uint32_t n = kind ? 1 : 1 + (uint32_t)(rig_random(seed) % RIG_BATCH);
    struct batch batch;
    rig_make(&batch, number, n);
    uint32_t units = rig_need(end, &batch);
    for (int fits; (fits = rig_fits(end, &batch, units)) <= 0; sched_yield())
        if (fits < 0 || rig_await_fit(end, &batch, units) < 0)
            rig_give_up(&storm->wrong);
    /* Stored first: a killed call's numbers are never used again. */
    store_relaxed(&shared->next, number + n);
    rig_put(end, &batch, units);
    for (uint32_t i = 0; i < n; i++)
        note(number + i, ACKNOWLEDGED);
    moved();
}

/* ---- the consumer ------------------------------------------------------------------ */

struct life {
    uint32_t first; /* what the one before may have seen and not released */
    uint32_t last;
    uint32_t mine; /* number I saw last */
};

static void see(struct life *life, uint32_t number)
{
    if (number <= life->mine)
        count(&storm->twice);
    else if (number > life->last)
        store_relaxed(&shared->last, number);
    else
        count(number >= life->first ? &storm->again : &storm->twice);
    life->mine = number;
    note(number, SEEN);
}

static void get(struct spsc_end *end, struct life *life, uint64_t *seed)
{
    uint8_t messages[RIG_BATCH * RIG_SLOT_SIZE];
    uint32_t lengths[RIG_BATCH], numbers[RIG_BATCH], units;
    int64_t ready;
    for (; (ready = spsc_ready(end, 1)) < 1; sched_yield())
        if (ready < 0 || spsc_await_message(end) < 0)
            rig_give_up(&storm->wrong);
    int n = rig_peek(end, (uint32_t)ready, 1 + (int)(rig_random(seed) % RIG_BATCH), messages,
                     lengths, &units);
    for (int i = 0; i < n; i++)
        if (!rig_is_whole(end, messages + i * RIG_SLOT_SIZE, lengths[i], &numbers[i]))
            n = -1;
    if (n < 0)
        rig_give_up(&storm->torn);
    store_relaxed(&shared->held, numbers[0]);
    for (int i = 0; i < n; i++)
        see(life, numbers[i]);
    spsc_release(end, units);
    moved();
}

/* Skip to the newest message and look at it. */
static void get_latest(struct spsc_end *end, struct life *life)
{
    uint32_t units, number;
    uint8_t message[RIG_SLOT_SIZE];
    int64_t ready;
    for (; (ready = spsc_ready(end, end->units)) < 2; sched_yield())
        if (ready < 0 || spsc_await_message(end) < 0)
            rig_give_up(&storm->wrong);
    int64_t older = spsc_count_older(end, (uint32_t)ready, &units);
    spsc_skip(end, &end->header->consumer, units, (uint64_t)older);
    memcpy(message, spsc_unit(end, end->index), RIG_SLOT_SIZE);
    if (!rig_is_whole(end, message, RIG_SLOT_SIZE, &number))
        rig_give_up(&storm->torn);
    if (number < life->mine)
        rig_give_up(&storm->wrong);
    life->mine = number;
    moved();
}

/* ---- the storm --------------------------------------------------------------------- */

static void work(uint32_t worker, uint64_t seed)
{
    struct spsc_end end;
    struct life life = {load_relaxed(&shared->held), load_relaxed(&shared->last), 0};
    bool producer = worker == 0;
    take(&end, producer);
    while (rig_random(&seed) % 200 != 0) {
        if (producer)
            put(&end, &seed);
        else if (latest)
            get_latest(&end, &life);
        else
            get(&end, &life, &seed);
    }
    struct spsc_header *header = end.header;
    fatal_count = 1 + (long)(rig_random(&seed) % 3); /* die while leaving, or just after */
    owner_give_back(producer ? &header->producer : &header->consumer, owner_self());
    fatal_count = 1;
    rig_fault("work", __LINE__);
}

/* Everything that was acknowledged must have been seen or be there still. */
static uint32_t count_missing(struct spsc_end *consumer)
{
    struct life life = {load_relaxed(&shared->held), load_relaxed(&shared->last), 0};
    uint64_t seed = 1;
    uint32_t missing = 0;
    while (spsc_ready(consumer, 1) > 0)
        get(consumer, &life, &seed);
    for (uint32_t i = 0; i < MESSAGES && i < load_relaxed(&shared->next); i++)
        missing += shared->fates[i] == ACKNOWLEDGED;
    return missing;
}

static uint64_t load_lost(const struct spsc_end *consumer)
{
    return atomic_load(&consumer->header->consumer.lost);
}

static int report(bool stuck, uint32_t missing, bool whole)
{
    printf("{\"moves\": %lu, \"messages\": %u, \"torn\": %u, \"twice\": %u, \"again\": %u, "
           "\"wrong\": %u, \"missing\": %u, \"whole\": %d, \"stuck\": %d, ",
           storm->moves, shared->next - 1, storm->torn, storm->twice, storm->again,
           storm->wrong, missing, whole, stuck);
    print_kills();
    printf("}\n");
    if (stuck)
        return 2;
    return storm->torn || storm->twice || storm->wrong || missing || !whole;
}

int main(int argc, char **argv)
{
    struct spsc_end producer, consumer;
    if (argc != 5)
        return 9;
    latest = atoi(argv[4]) == 3;
    kind = latest ? RIG_SLOTS : (enum rig_kind)atoi(argv[4]);
    storm = rig_map(sizeof *storm);
    shared = rig_map(sizeof *shared);
    shared_size = rig_size(UNITS, kind);
    shared_base = rig_map(shared_size);
    rig_init(shared_base, UNITS, kind, (uint32_t)strtoul(argv[2], NULL, 0));
    store_relaxed(&shared->next, 1);
    bool stuck = !run_storm(work, 2, (uint32_t)atoi(argv[1]), strtoull(argv[3], NULL, 0));
    if (stuck || storm->torn || storm->wrong)
        return report(stuck, 0, false);
    watch_the_end();
    uint64_t self = owner_self();
    if (!rig_take(&producer, shared_base, kind, true, self) ||
        !rig_take(&consumer, shared_base, kind, false, self))
        return report(true, 0, false);
    uint64_t lost = load_lost(&consumer);
    uint32_t missing = latest ? lost != (uint32_t)(consumer.index - consumer.header->start)
                              : count_missing(&consumer);
    if (latest)
        spsc_release(&consumer, (uint32_t)spsc_ready(&consumer, UNITS));
    return report(false, missing, rig_capacity_is_whole(&producer, &consumer));
}
