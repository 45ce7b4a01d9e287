/* A ring of one producer and one consumer for the kill rigs, and whole calls on it:
 * what the extension does in try_put, put_many, try_get and get_many. */
#ifndef SPSC_RIG_H
#define SPSC_RIG_H

#include "message.h"
#include "spsc.h"

enum { RIG_BATCH = 4 };

static size_t rig_size(uint32_t units, bool records)
{
    return sizeof(struct spsc_header) + (size_t)units * (records ? 8 : RIG_SLOT_SIZE);
}

static void rig_init(void *base, uint32_t units, bool records, uint32_t start)
{
    struct spsc_header *header = base;
    memset(base, 0, sizeof *header);
    header->mode = records ? SPSC_RECORDS : SPSC_FIXED;
    header->unit_size = records ? 8 : RIG_SLOT_SIZE;
    header->units = units;
    header->start = start;
    header->data_offset = sizeof *header;
    header->data_size = (uint64_t)units * header->unit_size;
    spsc_init(header);
}

/* Take one end of the ring from whoever had it; false if it lives, or left a ruin. */
static bool rig_take(struct spsc_end *end, void *base, bool records, bool producer, uint64_t self)
{
    struct spsc_header *header = base;
    struct owned_end *mine = producer ? &header->producer : &header->consumer;
    if (owner_take(mine, self) != 0)
        return false;
    if (!spsc_bind(end, base, rig_size(header->units, records)))
        return false;
#ifdef LIGHT
    end->registered = end->heavy = barrier_join();
    end->worth = 0;
    if (!end->heavy)
        return false;
#endif
    return producer ? spsc_producer_attach(end) : spsc_consumer_attach(end);
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
    return end->records ? spsc_record_need(end, end->index, batch->length) : batch->count;
}

static void rig_store(struct spsc_end *end, const struct batch *batch)
{
    if (end->records)
        memcpy(spsc_record_claim(end, end->index, batch->length), batch->bytes, batch->length);
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
            found = (struct spsc_found){spsc_unit(end, end->index + *units), RIG_SLOT_SIZE, 1};
        else if (!spsc_record_find(end, end->index + *units, ready - *units, &found) ||
                 found.length > RIG_SLOT_SIZE)
            return -1;
        memcpy(out + count * RIG_SLOT_SIZE, found.bytes, found.length);
        lengths[count++] = found.length;
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
    return true;
}

#endif
