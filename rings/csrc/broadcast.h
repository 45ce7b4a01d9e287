/* One producer, many consumers, and each of them sees every message.
 *
 *   slot of message n:  seq = 2n + 1 while it is written, 2n + 2 when it is whole
 *
 * Message numbers are u64 and never wrap: a loss is counted exactly, and a slot's
 * seq never says the same thing twice.  A consumer copies the slot between two
 * looks at seq; had the producer begun to overwrite it, the second look says so
 * and the copy is thrown away.  That needs every word of the message to be stored
 * with release and loaded with acquire: who has seen one word of message m has
 * seen that its slot is no longer n's.  (On x86 these are plain moves.)
 *
 * With BROADCAST_BLOCK the producer waits for the slowest consumer, by the number
 * each one keeps in its entry; with BROADCAST_DROP_OLD it waits for nobody, and a
 * consumer that was overtaken skips to the oldest whole message and counts.
 *
 * A consumer joins by storing the producer's number twice: every scan that missed
 * the first store was done before the second number was read, so it allows nothing
 * beyond that number plus the ring, and the consumer begins there.
 *
 * Sleeping consumers set their bit in one word; publish is a full-barrier store
 * and then one look at that word.  The producer asleep sets room_wanted; moving on
 * is a full-barrier store and then a look at that.
 *
 * Source: the seqlock per slot is Aeron's and Disruptor's idea of a lapped reader,
 * with the orderings of Boehm, "Can seqlocks get along with programming language
 * memory models?" (MSPC 2012).  Offsets: docs/LAYOUT.md.
 */
#ifndef RINGS_BROADCAST_H
#define RINGS_BROADCAST_H

#include "core.h"
#include "owner.h"

enum broadcast_policy { BROADCAST_BLOCK = 0, BROADCAST_DROP_OLD = 1 };
enum { BROADCAST_MOST = 64 };
#define BROADCAST_ABSENT UINT64_MAX

struct broadcast_entry {
    struct owned_end end;
    shared_u64 cons; /* next message wanted, or BROADCAST_ABSENT */
    uint8_t pad[96];
};
_Static_assert(offsetof(struct broadcast_entry, cons) == 24, "LAYOUT.md");
_Static_assert(sizeof(struct broadcast_entry) == 128, "LAYOUT.md");

struct broadcast_header {
    uint8_t region[64];
    uint32_t slots; /* a power of two */
    uint32_t slot_size;
    uint32_t consumers;
    uint32_t policy;
    uint64_t data_offset;
    uint8_t pad0[168];
    shared_u64 prod; /* by the producer: number of the next message */
    uint8_t pad1[120];
    shared_u64 sleeping; /* bit i: consumer i wants to be told */
    uint8_t pad2[120];
    shared_u32 room_wanted; /* the producer wants to be told */
    uint8_t pad3[124];
    struct owned_end producer;
    uint8_t pad4[360];
    struct broadcast_entry entries[];
};
_Static_assert(offsetof(struct broadcast_header, slots) == 64, "LAYOUT.md");
_Static_assert(offsetof(struct broadcast_header, data_offset) == 80, "LAYOUT.md");
_Static_assert(offsetof(struct broadcast_header, prod) == 256, "LAYOUT.md");
_Static_assert(offsetof(struct broadcast_header, sleeping) == 384, "LAYOUT.md");
_Static_assert(offsetof(struct broadcast_header, room_wanted) == 512, "LAYOUT.md");
_Static_assert(offsetof(struct broadcast_header, producer) == 640, "LAYOUT.md");
_Static_assert(offsetof(struct broadcast_header, entries) == 1024, "LAYOUT.md");

struct broadcast_slot {
    shared_u64 seq;
    shared_u32 length;
    uint32_t reserved;
    shared_u64 words[];
};
_Static_assert(offsetof(struct broadcast_slot, length) == 8, "LAYOUT.md");
_Static_assert(offsetof(struct broadcast_slot, words) == 16, "LAYOUT.md");

/* A ring as one process sees it. */
struct broadcast {
    struct broadcast_header *header;
    uint8_t *data;
    uint64_t stride;
    uint32_t slots;
    uint32_t slot_size;
    uint32_t consumers;
    enum broadcast_policy policy;
};

static inline uint64_t broadcast_stride(uint32_t slot_size)
{
    return sizeof(struct broadcast_slot) + ((uint64_t)slot_size + 7) / 8 * 8;
}

/* Bind to a region.  False if the header's numbers contradict its size. */
static inline bool broadcast_bind(struct broadcast *ring, void *base, uint64_t size)
{
    struct broadcast_header *header = base;
    if (size < sizeof *header || (uintptr_t)base % 8 != 0)
        return false;
    uint32_t slots = header->slots, consumers = header->consumers;
    uint32_t slot_size = header->slot_size, policy = header->policy;
    uint64_t offset = header->data_offset, stride = broadcast_stride(slot_size);
    if (!is_power_of_two(slots) || slots < 2 || slot_size == 0 || policy > BROADCAST_DROP_OLD)
        return false;
    if (consumers == 0 || consumers > BROADCAST_MOST)
        return false;
    if (offset < sizeof *header + consumers * sizeof(struct broadcast_entry) || offset % 8)
        return false;
    if (offset > size || (size - offset) / stride < slots)
        return false;
    *ring = (struct broadcast){header, (uint8_t *)base + offset, stride, slots, slot_size,
                               consumers, (enum broadcast_policy)policy};
    return true;
}

static inline struct broadcast_slot *broadcast_slot(const struct broadcast *ring, uint64_t number)
{
    return (struct broadcast_slot *)(ring->data + (number & (ring->slots - 1)) * ring->stride);
}

/* ---- the producer --------------------------------------------------------- */

struct broadcast_producer {
    struct broadcast ring;
    uint64_t prod;
    uint64_t limit; /* messages below this number may be written without a scan */
};

/* The next message that some consumer still wants; prod if none does. */
static inline uint64_t broadcast_slowest(const struct broadcast *ring, uint64_t prod)
{
    uint64_t slowest = prod;
    for (uint32_t i = 0; i < ring->consumers; i++) {
        /* acquire: message-passed; full barrier: joined. */
        uint64_t cons = atomic_load(&ring->header->entries[i].cons);
        if (cons < slowest)
            slowest = cons;
    }
    return slowest;
}

/* Whether message `number` may be written: always, or when everybody has room.  The
 * scan starts from what is published: a consumer may be joining just there. */
static inline bool broadcast_room(struct broadcast_producer *producer, uint64_t number)
{
    if (producer->ring.policy == BROADCAST_DROP_OLD || number < producer->limit)
        return true;
    uint64_t slowest = broadcast_slowest(&producer->ring, producer->prod);
    producer->limit = slowest + producer->ring.slots;
    return number < producer->limit;
}

/* Write the next message into its slot; nobody sees it before publish. */
static inline void broadcast_write(struct broadcast_producer *producer, uint64_t number,
                                   const uint8_t *bytes, uint32_t length)
{
    struct broadcast_slot *slot = broadcast_slot(&producer->ring, number);
    atomic_store_explicit(&slot->seq, 2 * number + 1, memory_order_relaxed);
    /* release: slot-taken, by the length and by every word. */
    atomic_store_explicit(&slot->length, length, memory_order_release);
    uint32_t whole = length / 8;
    for (uint32_t i = 0; i < whole; i++) {
        uint64_t word;
        memcpy(&word, bytes + 8 * (size_t)i, 8);
        atomic_store_explicit(&slot->words[i], word, memory_order_release);
    }
    if (length % 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + 8 * (size_t)whole, length % 8);
        atomic_store_explicit(&slot->words[whole], word, memory_order_release);
    }
    /* release: slot-whole. */
    atomic_store_explicit(&slot->seq, 2 * number + 2, memory_order_release);
}

/* Make `count` written messages visible: the consumers to be told, as bits. */
static inline uint64_t broadcast_publish(struct broadcast_producer *producer, uint64_t count)
{
    struct broadcast_header *header = producer->ring.header;
    producer->prod += count;
    /* release: message-published; full barrier: message-announced. */
    (void)atomic_exchange(&header->prod, producer->prod);
    if (atomic_load(&header->sleeping) == 0)
        return 0;
    return atomic_exchange(&header->sleeping, 0);
}

/* Ask to be told of room, and look once more. */
static inline bool broadcast_await_room(struct broadcast_producer *producer)
{
    /* full barrier: room-awaited. */
    store_seq_cst(&producer->ring.header->room_wanted, 1);
    return broadcast_room(producer, producer->prod);
}

/* Free the entries of dead consumers, so that nobody waits for them: how many.  The
 * producer holds such an entry itself for a moment, so that nobody joins there. */
static inline uint32_t broadcast_reap(const struct broadcast *ring, uint64_t self)
{
    uint32_t reaped = 0;
    for (uint32_t i = 0; i < ring->consumers; i++) {
        struct broadcast_entry *entry = &ring->header->entries[i];
        uint64_t owner = atomic_load(&entry->end.owner);
        if (!owner_is_process(owner) || !owner_is_dead(owner) ||
            !atomic_compare_exchange_strong(&entry->end.owner, &owner, self))
            continue;
        atomic_store(&entry->cons, BROADCAST_ABSENT);
        owner_give_back(&entry->end, self);
        reaped++;
    }
    return reaped;
}

/* ---- a consumer ----------------------------------------------------------- */

struct broadcast_consumer {
    struct broadcast ring;
    uint32_t index;
    uint64_t cons;
    uint64_t lost; /* overtaken by the producer, or skipped for the latest */
};

static inline uint64_t broadcast_published(const struct broadcast *ring)
{
    /* acquire: message-published. */
    return atomic_load(&ring->header->prod);
}

static inline struct broadcast_entry *broadcast_mine(const struct broadcast_consumer *consumer)
{
    return &consumer->ring.header->entries[consumer->index];
}

static inline void broadcast_join(struct broadcast_consumer *consumer)
{
    struct broadcast_entry *entry = broadcast_mine(consumer);
    /* full barrier: joined. */
    (void)atomic_exchange(&entry->cons, broadcast_published(&consumer->ring));
    consumer->cons = broadcast_published(&consumer->ring);
    (void)atomic_exchange(&entry->cons, consumer->cons);
}

/* Move on to message `number`: true if the producer asked to be told. */
static inline bool broadcast_pass(struct broadcast_consumer *consumer, uint64_t number)
{
    struct broadcast_header *header = consumer->ring.header;
    struct broadcast_entry *entry = broadcast_mine(consumer);
    consumer->cons = number;
    if (consumer->ring.policy == BROADCAST_DROP_OLD) {
        atomic_store_explicit(&entry->cons, number, memory_order_relaxed);
        return false;
    }
    /* release: message-passed; full barrier: room-announced. */
    (void)atomic_exchange(&entry->cons, number);
    return load_seq_cst(&header->room_wanted) && atomic_exchange(&header->room_wanted, 0);
}

static inline void broadcast_lose(struct broadcast_consumer *consumer, uint64_t count)
{
    consumer->lost += count;
    consumer->cons += count;
    atomic_store_explicit(&broadcast_mine(consumer)->end.lost, consumer->lost,
                          memory_order_relaxed);
}

/* The length of message `number` if its slot holds it whole; -1 if it was
 * overtaken, -2 if the slot says what cannot be. */
static inline int64_t broadcast_length(const struct broadcast_consumer *consumer, uint64_t number)
{
    struct broadcast_slot *slot = broadcast_slot(&consumer->ring, number);
    /* acquire: slot-whole. */
    uint64_t seq = atomic_load_explicit(&slot->seq, memory_order_acquire);
    if (seq != 2 * number + 2)
        return seq > 2 * number + 2 ? -1 : -2;
    uint32_t length = load_acquire(&slot->length);
    if (length <= consumer->ring.slot_size)
        return length;
    seq = atomic_load_explicit(&slot->seq, memory_order_relaxed);
    return seq != 2 * number + 2 ? -1 : -2;
}

/* Copy the message out; false if it was overtaken meanwhile: then `to` is garbage. */
static inline bool broadcast_copy(const struct broadcast_consumer *consumer, uint64_t number,
                                  uint8_t *to, uint32_t length)
{
    struct broadcast_slot *slot = broadcast_slot(&consumer->ring, number);
    uint32_t whole = length / 8;
    for (uint32_t i = 0; i < whole; i++) {
        /* acquire: slot-taken. */
        uint64_t word = atomic_load_explicit(&slot->words[i], memory_order_acquire);
        memcpy(to + 8 * (size_t)i, &word, 8);
    }
    if (length % 8) {
        uint64_t word = atomic_load_explicit(&slot->words[whole], memory_order_acquire);
        memcpy(to + 8 * (size_t)whole, &word, length % 8);
    }
    return atomic_load_explicit(&slot->seq, memory_order_relaxed) == 2 * number + 2;
}

/* Where to go on after being overtaken `times` times in a row: first the oldest
 * message that is certainly whole, then ever nearer to the newest, so that it ends. */
static inline uint64_t broadcast_resume(const struct broadcast_consumer *consumer, unsigned times)
{
    uint64_t prod = broadcast_published(&consumer->ring);
    uint64_t behind = times < 32 ? (consumer->ring.slots - 1) >> times : 0;
    if (behind == 0)
        behind = 1;
    uint64_t resume = prod - behind;
    return resume > consumer->cons ? resume : consumer->cons + 1;
}

/* Ask to be told of the next message, and look once more. */
static inline bool broadcast_await_message(struct broadcast_consumer *consumer)
{
    /* full barrier: message-awaited. */
    (void)atomic_fetch_or(&consumer->ring.header->sleeping, UINT64_C(1) << consumer->index);
    return broadcast_published(&consumer->ring) != consumer->cons;
}

#endif
