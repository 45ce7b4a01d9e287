/* Kill rig: a broadcast's producer and consumers SIGKILL themselves at any store.
 *
 * A message says its index and the life that wrote it.  All who see an index must
 * see the same life there, an acknowledged one must keep it, and one that blocks
 * the producer misses nothing between joining and death.
 *
 *   broadcast_fault KILLS START SEED POLICY(0 block|1 drop_old)
 *
 * Exit status: 0 all good, 1 something lost, torn or twice, 2 stuck, 9 rig trouble.
 */
#include "faults.h"

#include "broadcast.h"

enum { SLOTS = 8, CONSUMERS = 3, MESSAGES = 1 << 24 };

struct shared {
    shared_u32 lives;
    shared_u32 writer[MESSAGES]; /* the life that wrote what somebody saw there */
    shared_u32 acknowledged[MESSAGES];
};

static struct shared *shared;
static struct broadcast ring;
static uint64_t self;

static void moved(void)
{
    atomic_fetch_add_explicit(&storm->moves, 1, memory_order_relaxed);
}

/* Both must name the same life, or one of them nobody. */
static void agree(shared_u32 *names, uint64_t index, uint32_t life)
{
    uint32_t seen = 0;
    if (!atomic_compare_exchange_strong_explicit(&names[index % MESSAGES], &seen, life,
                                                 memory_order_seq_cst,
                                                 memory_order_seq_cst) &&
        seen != life)
        rig_give_up(&storm->twice);
}

/* ---- the producer ------------------------------------------------------------------ */

static void store(struct broadcast_producer *producer, uint32_t life, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t message[RIG_SLOT_SIZE];
        uint32_t length = rig_fill(message, life, (uint32_t)(producer->prod + i));
        broadcast_write(producer, producer->prod + i, message, length);
    }
}

static void put(struct broadcast_producer *producer, uint32_t life, uint32_t count)
{
    uint64_t first = producer->prod;
    while (!broadcast_room(producer, first + count - 1)) {
        broadcast_reap(&ring, self);
        broadcast_await_room(producer);
        sched_yield();
    }
#ifdef PUBLISH_FIRST
    broadcast_publish(producer, count);
    producer->prod = first;
    store(producer, life, count);
    producer->prod = first + count;
#else
    store(producer, life, count);
    broadcast_publish(producer, count);
#endif
    for (uint32_t i = 0; i < count; i++)
        agree(shared->acknowledged, first + i, life);
    moved();
}

static void produce(uint64_t seed)
{
    uint32_t life = 1 + atomic_fetch_add_explicit(&shared->lives, 1, memory_order_relaxed);
    struct broadcast_producer producer = {.ring = ring, .prod = broadcast_published(&ring)};
    while (rig_random(&seed) % 200 != 0)
        put(&producer, life, 1 + (uint32_t)(rig_random(&seed) % 3));
}

/* ---- a consumer -------------------------------------------------------------------- */

/* One message: 1 seen, 0 none there, -1 overtaken. */
static int get(struct broadcast_consumer *consumer)
{
    uint8_t message[RIG_SLOT_SIZE];
    uint64_t index = consumer->cons, behind = broadcast_published(&ring) - index;
    uint32_t life = 0, number = 0;
    if (behind == 0)
        return 0;
    if (behind > INT64_MAX || (ring.policy == BROADCAST_BLOCK && behind > SLOTS))
        rig_give_up(&storm->wrong);
    int64_t length = broadcast_length(consumer, index);
    if (length == -1 ||
        (length >= 0 && !broadcast_copy(consumer, index, message, (uint32_t)length)))
        return -1;
    if (length < 0 || !rig_whole(message, (uint32_t)length, &life, &number) ||
        number != (uint32_t)index)
        rig_give_up(&storm->torn);
    agree(shared->writer, index, life);
    broadcast_pass(consumer, index + 1);
    return 1;
}

static void get_next(struct broadcast_consumer *consumer)
{
    for (unsigned times = 0;; times++) {
        int got = get(consumer);
        if (got > 0)
            moved();
        if (got > 0 || (got == 0 && broadcast_await_message(consumer)))
            return;
        if (got < 0 && ring.policy == BROADCAST_BLOCK)
            rig_give_up(&storm->wrong);
        if (got < 0)
            broadcast_lose(consumer, broadcast_resume(consumer, times) - consumer->cons);
        else
            sched_yield();
    }
}

static void consume(uint32_t index, uint64_t seed)
{
    struct broadcast_consumer consumer = {.ring = ring, .index = index};
    broadcast_join(&consumer);
    while (rig_random(&seed) % 200 != 0)
        get_next(&consumer);
    atomic_store(&broadcast_mine(&consumer)->cons, BROADCAST_ABSENT);
}

/* ---- the storm --------------------------------------------------------------------- */

static void work(uint32_t worker, uint64_t seed)
{
    struct broadcast_header *header = ring.header;
    struct owned_end *end = worker == 0 ? &header->producer : &header->entries[worker - 1].end;
    self = owner_self();
    while (owner_take(end, self) != 0)
        sched_yield(); /* the producer is reaping it */
    if (worker == 0)
        produce(seed);
    else
        consume(worker - 1, seed);
    fatal_count = 1 + (long)(seed >> 8 & 1); /* die while leaving, or just after */
    owner_give_back(end, self);
    fatal_count = 1;
    rig_fault("work", __LINE__);
}

static uint32_t count_missing(void)
{
    uint32_t missing = 0;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        uint32_t seen = shared->writer[i], put = shared->acknowledged[i];
        missing += seen != 0 && put != 0 && seen != put;
    }
    return missing;
}

/* With nobody there, the whole ring may be written; with a newcomer, one ring more. */
static bool capacity_is_whole(void)
{
    struct broadcast_producer producer = {.ring = ring, .prod = broadcast_published(&ring)};
    struct broadcast_consumer consumer = {.ring = ring};
    self = owner_self();
    broadcast_reap(&ring, self);
    for (uint32_t i = 0; i < CONSUMERS; i++)
        if (owner_take(&ring.header->entries[i].end, self) != 0 ||
            ring.header->entries[i].cons != BROADCAST_ABSENT)
            return false;
    if (owner_take(&ring.header->producer, self) != 0)
        return false;
    broadcast_join(&consumer);
    for (uint32_t lap = 0; lap < 3; lap++) {
        put(&producer, 1u << 30, SLOTS);
        if (ring.policy == BROADCAST_BLOCK && broadcast_room(&producer, producer.prod))
            return false;
        for (uint32_t i = 0; i < SLOTS; i++)
            if (get(&consumer) != 1)
                return false;
    }
    return get(&consumer) == 0;
}

static int report(bool stuck, uint32_t missing, bool whole)
{
    printf("{\"moves\": %lu, \"messages\": %lu, \"torn\": %u, \"twice\": %u, \"wrong\": %u, "
           "\"missing\": %u, \"whole\": %d, \"stuck\": %d, ",
           storm->moves, ring.header->prod, storm->torn, storm->twice, storm->wrong, missing,
           whole, stuck);
    print_kills();
    printf("}\n");
    if (stuck)
        return 2;
    return storm->torn || storm->twice || storm->wrong || missing || !whole;
}

static void make_ring(uint64_t start, uint32_t policy)
{
    size_t header_size = sizeof(struct broadcast_header) +
                         CONSUMERS * sizeof(struct broadcast_entry);
    shared_size = header_size + SLOTS * broadcast_stride(RIG_SLOT_SIZE);
    shared_base = rig_map(shared_size);
    struct broadcast_header *header = (void *)shared_base;
    header->slots = SLOTS;
    header->slot_size = RIG_SLOT_SIZE;
    header->consumers = CONSUMERS;
    header->policy = policy;
    header->data_offset = header_size;
    header->prod = start;
    for (uint32_t i = 0; i < CONSUMERS; i++)
        header->entries[i].cons = BROADCAST_ABSENT;
    if (!broadcast_bind(&ring, shared_base, shared_size))
        rig_die("ring");
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 9;
    storm = rig_map(sizeof *storm);
    shared = rig_map(sizeof *shared);
    make_ring(strtoull(argv[2], NULL, 0), (uint32_t)atoi(argv[4]));
    bool stuck = !run_storm(work, 1 + CONSUMERS, (uint32_t)atoi(argv[1]),
                            strtoull(argv[3], NULL, 0));
    if (stuck || storm->torn || storm->wrong || storm->twice)
        return report(stuck, 0, false);
    watch_the_end();
    uint32_t missing = count_missing();
    return report(false, missing, capacity_is_whole());
}
