/* The sender of a load: what arrives, what is put, what waits, what is lost.
 *
 *   schedule --> queue --> ring --> answered
 *      (open)      |         (closed: straight from here, `depth` at a time)
 *                  +--> lost, by the policy
 *
 * A publication carries `batch` requests, so a lone one waits for its fellows.  Under
 * LOAD_BLOCK what finds the queue full stays in the schedule, and keeps the moment it
 * was meant for.  Between two arrivals an open loop sleeps if they are far apart, and
 * looks at the clock if the wake-up would come too late.  After `until` nothing more
 * is put, and the run ends with the last answer.
 */
#ifndef RINGS_LOAD_RUN_H
#define RINGS_LOAD_RUN_H

#include "front.h"

#define LOAD_NEAR_NS 100000u     /* too near to sleep until then */
#define LOAD_SLICE_NS 100000000u /* a signal waits this long */

struct load_rule {
    uint8_t op;
    uint32_t length;
    struct io_segment segment; /* of buffer slot 0 */
    const uint64_t *offsets;   /* on the device, used round and round */
    uint64_t nr_offsets;
    const uint64_t *gaps; /* between arrivals, round and round; none: closed loop */
    uint64_t nr_gaps;
    enum load_policy policy;
    uint32_t depth, batch, spill;
    uint64_t start_ns;
};

struct loader {
    struct front *front;
    struct load_rule rule;
    struct load load;
    uint64_t next_offset, next_gap, arrival_ns;
    uint64_t *queue; /* when those that wait were meant to be sent */
    uint32_t queue_size, queue_first, waiting;
    bool crowded;        /* the queue was full when last looked at: who comes late had to */
    uint64_t blocked_ns; /* since when, 0: not blocked */
    uint64_t slice_ns;
};

static inline uint32_t front_credit(const struct front *front)
{
    uint32_t in_flight = front_in_flight(front), credit = xen_front_credit(&front->ring);
    uint32_t left = in_flight < front->limit.now ? front->limit.now - in_flight : 0;
    uint32_t room = credit < front->nr_free ? credit : front->nr_free;
    return left < room ? left : room;
}

static inline bool loader_is_open(const struct loader *loader)
{
    return loader->rule.nr_gaps > 0;
}

/* ---- arrivals ------------------------------------------------------------- */

static inline bool loader_due(const struct loader *loader, uint64_t now)
{
    return loader->arrival_ns <= now && loader->arrival_ns < loader->load.until_ns;
}

static inline void loader_advance(struct loader *loader)
{
    loader->load.sums.offered += load_watches(&loader->load, loader->arrival_ns);
    loader->arrival_ns += loader->rule.gaps[loader->next_gap];
    loader->next_gap = (loader->next_gap + 1) % loader->rule.nr_gaps;
}

/* Let those that are due into the queue, as far as it has room. */
static inline void loader_admit(struct loader *loader, uint64_t now)
{
    while (loader_due(loader, now) && loader->waiting < loader->queue_size) {
        uint32_t place = (loader->queue_first + loader->waiting++) % loader->queue_size;
        loader->queue[place] = loader->arrival_ns;
        if (!loader->crowded && load_watches(&loader->load, now))
            load_late(&loader->load.sums, now - loader->arrival_ns);
        loader_advance(loader);
    }
    loader->crowded = loader->waiting == loader->queue_size;
}

/* The ring is full: what the policy does not keep is lost. */
static inline void loader_lose(struct loader *loader, uint64_t now)
{
    struct load_sums *sums = &loader->load.sums;
    uint64_t before = sums->dropped;
    if (loader->waiting > loader->rule.spill) {
        sums->dropped += loader->waiting - loader->rule.spill;
        loader->waiting = loader->rule.spill;
    }
    while (loader_due(loader, now)) {
        sums->dropped++;
        loader_advance(loader);
    }
    sums->full += sums->dropped > before && load_watches(&loader->load, now);
}

/* ---- sending -------------------------------------------------------------- */

/* Requests that want to be put now; mutex held. */
static inline uint32_t loader_wants(const struct loader *loader)
{
    uint32_t room = loader->rule.depth - loader->load.in_flight;
    if (loader_is_open(loader))
        return loader->waiting < room ? loader->waiting : room;
    return room;
}

/* How many go into the next publication: 0, or up to `batch`. */
static inline uint32_t loader_group(const struct loader *loader)
{
    uint32_t wants = loader_wants(loader), credit = front_credit(loader->front);
    uint32_t can = wants < credit ? wants : credit;
    if (can >= loader->rule.batch)
        return loader->rule.batch;
    return loader_is_open(loader) || loader->load.in_flight > 0 ? 0 : can;
}

/* When the next of those that wait was meant to be sent. */
static inline uint64_t loader_take_meant(struct loader *loader)
{
    uint64_t meant = loader->queue[loader->queue_first];
    loader->queue_first = (loader->queue_first + 1) % loader->queue_size;
    loader->waiting--;
    return meant;
}

static inline bool loader_put(struct loader *loader)
{
    struct io_request *slot;
    const struct load_rule *rule = &loader->rule;
    struct call *call = front_claim(loader->front, &slot);
    if (call == NULL)
        return false;
    uint32_t part = loader->load.free[--loader->load.nr_free];
    struct io_segment segment = rule->segment;
    segment.offset += part * rule->length;
    front_fill(call, slot, rule->op, rule->offsets[loader->next_offset], rule->length,
               rule->length ? &segment : NULL);
    loader->next_offset = (loader->next_offset + 1) % rule->nr_offsets;
    call->state = CALL_LOAD;
    call->load = &loader->load;
    call->part = part;
    loader->load.stamps[part].meant_ns = loader_is_open(loader) ? loader_take_meant(loader) : 0;
    loader->load.in_flight++;
    loader->load.sums.submitted++;
    return true;
}

/* The last `count` put were published at `now`: stamp them. */
static inline void loader_stamp(struct loader *loader, uint32_t count, uint64_t now)
{
    struct load *load = &loader->load;
    for (uint32_t i = 0; i < count; i++) {
        struct load_stamp *stamp = &load->stamps[load->free[load->nr_free + i]];
        stamp->put_ns = now;
        if (!loader_is_open(loader))
            stamp->meant_ns = now;
    }
}

/* Who sends whole batches may never come up to the limit; it is in the way all the same. */
static inline void loader_tell_limit(const struct loader *loader)
{
    struct limit *limit = &loader->front->limit;
    uint32_t batch = loader->rule.batch;
    if (limit->adapts && loader_wants(loader) >= batch &&
        front_in_flight(loader->front) + batch > limit->now)
        limit_reached(limit);
}

/* Publish as many whole batches as there are; true if any. */
static inline bool loader_send(struct loader *loader)
{
    bool sent = false;
    for (uint32_t group; (group = loader_group(loader)) > 0; sent = true) {
        uint32_t count = 0;
        while (count < group && loader_put(loader))
            count++;
        front_flush(loader->front);
        loader_stamp(loader, count, loader->front->flushed_ns);
    }
    loader_tell_limit(loader);
    return sent;
}

/* Keep account of the time in which something could not be put for want of credit. */
static inline void loader_account(struct loader *loader, uint64_t now)
{
    struct load *load = &loader->load;
    bool wants = loader_is_open(loader) ? loader->waiting > 0 : now < load->until_ns;
    bool blocked = wants && front_credit(loader->front) == 0;
    uint64_t begin = loader->blocked_ns > load->from_ns ? loader->blocked_ns : load->from_ns;
    uint64_t end = now < load->until_ns ? now : load->until_ns;
    if (loader->blocked_ns != 0 && begin < end)
        load->sums.blocked_ns += end - begin;
    if (blocked && loader->blocked_ns == 0)
        load->sums.full += load_watches(load, now);
    loader->blocked_ns = blocked ? now : 0;
}

/* All that can be done at this moment.  Mutex held. */
static inline void loader_turn(struct loader *loader, uint64_t now)
{
    loader_account(loader, now);
    if (now >= loader->load.until_ns)
        return;
    if (loader_is_open(loader)) {
        do
            loader_admit(loader, now);
        while (loader_send(loader));
        if (loader->rule.policy != LOAD_BLOCK && front_credit(loader->front) == 0)
            loader_lose(loader, now);
    } else {
        loader_send(loader);
    }
    loader_account(loader, now);
}

/* ---- waiting -------------------------------------------------------------- */

static inline bool loader_can_send(void *arg)
{
    return loader_group(arg) > 0;
}

static inline bool loader_is_done(void *arg)
{
    return ((struct loader *)arg)->load.in_flight == 0;
}

/* Look at the clock and the ring until the next arrival.  Mutex held, free meanwhile. */
static inline enum wait_result loader_watch(struct loader *loader, uint64_t until)
{
    struct front *front = loader->front;
    pthread_mutex_unlock(&front->mutex);
    while (now_ns() < until && front_look(front) == 0)
        cpu_relax();
    pthread_mutex_lock(&front->mutex);
    if (!front->leading)
        front_dispatch(front);
    return front->broken ? WAIT_BROKEN : WAIT_READY;
}

static inline enum wait_result loader_wait(struct loader *loader, uint64_t now)
{
    uint64_t until = loader->load.until_ns;
    if (now >= until)
        return front_wait(loader->front, loader_is_done, loader, loader->slice_ns);
    if (loader_is_open(loader) && loader->waiting < loader->queue_size &&
        loader->arrival_ns < until)
        until = loader->arrival_ns;
    if (loader_is_open(loader) && until < now + LOAD_NEAR_NS)
        return loader_watch(loader, until);
    if (loader_is_open(loader))
        until -= LOAD_NEAR_NS / 2;
    if (until > loader->slice_ns)
        until = loader->slice_ns;
    return front_wait(loader->front, loader_can_send, loader, until);
}

/* Run on; WAIT_READY: it is over.  WAIT_INTERRUPTED: look at signals, call again. */
static inline enum wait_result loader_run(struct loader *loader)
{
    enum wait_result result = WAIT_READY;
    uint64_t now = now_ns();
    loader->slice_ns = now + LOAD_SLICE_NS;
    pthread_mutex_lock(&loader->front->mutex);
    for (; result == WAIT_READY || result == WAIT_TIMED_OUT; now = now_ns()) {
        if (now >= loader->slice_ns) {
            result = WAIT_INTERRUPTED;
            break;
        }
        loader_turn(loader, now);
        if (now >= loader->load.until_ns && loader_is_done(loader)) {
            result = WAIT_READY;
            break;
        }
        result = loader_wait(loader, now);
    }
    pthread_mutex_unlock(&loader->front->mutex);
    return result;
}

#endif
