/* A ring of one producer and one consumer for the kill rigs, and whole calls on it:
 * what the extension does in try_put, put_many, try_get and get_many. */
#ifndef SPSC_RIG_H
#define SPSC_RIG_H

#include "message.h"
#include "spsc_latest.h"
#include "spsc_pool.h"

enum { RIG_BATCH = 4 };

/* In a ring of references, messages longer than RIG_INLINE lie in a pool of a few. */
enum rig_kind { RIG_SLOTS, RIG_RECORDS, RIG_REFERENCES };

enum { RIG_INLINE = 9, RIG_POOL = 5 * 64 };

static size_t rig_data_size(uint32_t units, enum rig_kind kind)
{
    return ((size_t)units * (kind ? 8 : RIG_SLOT_SIZE) + 63) / 64 * 64;
}

static size_t rig_size(uint32_t units, enum rig_kind kind)
{
    size_t size = sizeof(struct spsc_header) + rig_data_size(units, kind);
    return size + (kind == RIG_REFERENCES ? RIG_POOL : 0);
}

static void rig_init(void *base, uint32_t units, enum rig_kind kind, uint32_t start)
{
    bool records = kind != RIG_SLOTS;
    struct spsc_header *header = base;
    memset(base, 0, sizeof *header);
    header->mode = records ? SPSC_RECORDS : SPSC_FIXED;
    header->unit_size = records ? 8 : RIG_SLOT_SIZE;
    header->units = units;
    header->start = start;
    header->data_offset = sizeof *header;
    header->data_size = (uint64_t)units * header->unit_size;
    if (kind == RIG_REFERENCES) {
        header->pool_offset = sizeof *header + rig_data_size(units, kind);
        header->pool_size = RIG_POOL;
        header->inline_max = RIG_INLINE;
    }
    spsc_init(header);
}

static bool rig_settle_skip(struct spsc_end *end)
{
    spsc_settle_skip(end, &end->header->consumer);
    return true;
}

/* A producer of references learns what is lent. */
static bool rig_recall(struct spsc_end *end)
{
    static struct spsc_loans loans;
    return end->pool_size == 0 || spsc_recall_loans(end, &loans);
}

/* Take one end of the ring from whoever had it; false if it lives, or left a ruin. */
static bool rig_take(struct spsc_end *end, void *base, enum rig_kind kind, bool producer,
                     uint64_t self)
{
    struct spsc_header *header = base;
    struct owned_end *mine = producer ? &header->producer : &header->consumer;
    if (owner_take(mine, self) != 0)
        return false;
    if (!spsc_bind(end, base, rig_size(header->units, kind)))
        return false;
#ifdef LIGHT
    end->registered = end->heavy = barrier_join();
    end->worth = 0;
    if (!end->heavy)
        return false;
#endif
    return producer ? spsc_producer_attach(end) && rig_recall(end)
                    : spsc_consumer_attach(end) && rig_settle_skip(end);
}

/* Messages made beforehand: slots, or one record. */
struct batch {
    uint32_t count, length;
    uint8_t bytes[RIG_BATCH * RIG_SLOT_SIZE];
};

static void rig_make(struct batch *batch, uint32_t number, uint32_t count)
{
    memset(batch, 0, sizeof *batch);
    batch->count = count;
    batch->length = rig_fill(batch->bytes, 0, number);
    for (uint32_t i = 1; i < count; i++)
        rig_fill(batch->bytes + i * RIG_SLOT_SIZE, 0, number + i);
}

static uint32_t rig_need(const struct spsc_end *end, const struct batch *batch)
{
    return end->records ? spsc_message_need(end, end->index, batch->length) : batch->count;
}

static int rig_fits(struct spsc_end *end, const struct batch *batch, uint32_t units)
{
    return spsc_message_fits(end, end->index, units, end->records ? batch->length : 0);
}

static int rig_await_fit(struct spsc_end *end, const struct batch *batch, uint32_t units)
{
    return spsc_await_fit(end, units, end->records ? batch->length : 0, end->units / 8);
}

static void rig_store(struct spsc_end *end, const struct batch *batch)
{
    if (end->records)
        memcpy(spsc_message_claim(end, end->index, batch->length), batch->bytes, batch->length);
    else
        spsc_fill(end, end->index, batch->bytes, batch->count);
}

/* Put messages that fit: stored first, published then. */
static bool rig_put(struct spsc_end *end, const struct batch *batch, uint32_t units)
{
#ifdef PUBLISH_FIRST
    bool notify = spsc_publish(end, units);
    end->index -= units;
    rig_store(end, batch);
    end->index += units;
    return notify;
#else
    rig_store(end, batch);
    return spsc_publish(end, units);
#endif
}

/* Look at up to `most` of `ready` units: the messages are appended to `out`, slot by
 * slot; how many, and the units to release.  -1 if the ring is broken. */
static int rig_peek(struct spsc_end *end, uint32_t ready, int most, uint8_t *out,
                    uint32_t *lengths, uint32_t *units)
{
    struct spsc_found found;
    int count = 0;
    *units = 0;
    while (*units < ready && count < most) {
        if (!end->records)
            found = (struct spsc_found){spsc_unit(end, end->index + *units), RIG_SLOT_SIZE, 1,
                                        false};
        else if (!spsc_record_find(end, end->index + *units, ready - *units, &found) ||
                 found.length > RIG_SLOT_SIZE)
            return -1;
        memcpy(out + count * RIG_SLOT_SIZE, found.bytes, found.length);
        lengths[count++] = (uint32_t)found.length;
        *units += found.units;
    }
    return count;
}

/* Whether these are all the bytes of a message of ours: a slot is longer than it. */
static bool rig_is_whole(const struct spsc_end *end, const uint8_t *message, uint32_t length,
                         uint32_t *number)
{
    uint32_t who = 0;
    if (length < 8)
        return false;
    if (!end->records) {
        memcpy(number, message + 4, 4);
        length = 8 + *number % (RIG_SLOT_SIZE - 8 + 1);
    }
    return rig_whole(message, length, &who, number) && who == 0;
}

/* One message must have all of the pool again, lap after lap; the ring is empty. */
static bool rig_pool_is_whole(struct spsc_end *producer, struct spsc_end *consumer)
{
    struct spsc_found found;
    for (int lap = 0; lap < 3 && producer->pool_size != 0; lap++) {
        uint32_t units = spsc_message_need(producer, producer->index, RIG_POOL);
        if (spsc_message_fits(producer, producer->index, units, RIG_POOL) != 1)
            return false;
        memset(spsc_message_claim(producer, producer->index, RIG_POOL), lap, RIG_POOL);
        spsc_publish(producer, units);
        int64_t ready = spsc_ready(consumer, units);
        if (ready != units ||
            !spsc_record_find(consumer, consumer->index, units, &found) ||
            found.length != RIG_POOL || found.bytes[RIG_POOL - 1] != lap)
            return false;
        spsc_release(consumer, units);
    }
    return true;
}

/* Every unit must hold a message again, lap after lap; the ring is empty. */
static bool rig_capacity_is_whole(struct spsc_end *producer, struct spsc_end *consumer)
{
    static const uint8_t message[RIG_SLOT_SIZE];
    for (int lap = 0; lap < 3; lap++) {
        uint32_t room = 0;
        while (spsc_room(producer, 1) >= 1 && room <= producer->units) {
            if (producer->records)
                spsc_record_claim(producer, producer->index, 0);
            else
                spsc_fill(producer, producer->index, message, 1);
            spsc_publish(producer, 1);
            room++;
        }
        if (room != producer->units || spsc_ready(consumer, room) != room)
            return false;
        spsc_release(consumer, room);
    }
    return rig_pool_is_whole(producer, consumer);
}

#endif
