/* A frontend's requests in flight: who waits for which answer.
 *
 * Any number of threads submit; the answers arrive in one ring.  So at any time at
 * most one thread, the leader, waits on the ring and hands out what arrives, also
 * what others wait for; the others sleep on a condition variable until their answer
 * has come or the leader has left and one of them must lead.  One mutex guards the
 * table and the ring's private indices; it is never held while anybody sleeps.
 *
 * An id is an index in the table and that entry's generation, so an answer that is
 * late, doubled or invented matches nothing: the ring is then broken.  What was asked
 * is kept here and never read back from the ring, which the peer can write.
 *
 * A ring may be replaced in use (front_replace.h): new requests go to its successor at
 * once, and the elder is looked at as well until its last answer has come.
 */
#ifndef RINGS_FRONT_H
#define RINGS_FRONT_H

#include <pthread.h>

#include "gauge.h"
#include "limit.h"
#include "load.h"
#include "wait.h"
#include "xen.h"

enum { FOLLOWER_SLICE_NS = 100000000, MAX_ERRNO = 4095 };

struct io_segment {
    uint32_t gref, generation, offset, length;
};

struct io_request {
    uint64_t id;
    uint8_t op, flags;
    uint16_t nr_segments;
    uint32_t reserved;
    uint64_t offset, length;
    struct io_segment segments[2];
};
_Static_assert(sizeof(struct io_request) == 64, "LAYOUT.md");
_Static_assert(offsetof(struct io_request, op) == 8, "LAYOUT.md");
_Static_assert(offsetof(struct io_request, offset) == 16, "LAYOUT.md");
_Static_assert(offsetof(struct io_request, segments) == 32, "LAYOUT.md");

struct io_response {
    uint64_t id;
    int64_t result;
};
_Static_assert(sizeof(struct io_response) == 16, "LAYOUT.md");

enum call_state {
    CALL_FREE,
    CALL_HELD,  /* `answer`, inside `holder`, is owed the result */
    CALL_WAITED, /* a thread inside `call` has `waited` on its stack */
    CALL_MANY,   /* part `part` of a transfer of many blocks */
    CALL_LOAD,   /* buffer slot `part` of a load */
    CALL_DONE,   /* answered; in the done list until the holder is settled */
};

/* Where the result of a submitted request goes. */
struct answer {
    _Atomic bool done;
    int64_t result;
};

struct waited {
    bool done;
    int64_t result;
};

struct many {
    uint64_t nr, next, completed; /* blocks: in all, submitted, answered */
    uint32_t window;              /* buffer slots; block i uses slot i % window */
    uint32_t length;
    int64_t error;                /* the first failure, or 0 */
    uint64_t error_part;
    uint8_t *busy;                /* one byte a buffer slot */
};

struct call {
    uint32_t generation;
    uint8_t state, op;
    uint64_t offset, length;
    void *holder; /* the owner of `answer`, kept alive until it is settled */
    union {
        struct answer *answer;
        struct waited *waited;
        struct many *many;
        struct load *load;
        void *owner; /* of `many` or `load` */
    };
    uint64_t part;
};

struct front_stats {
    uint64_t requests, responses, notifications, held_off, in_flight_peak, full, sleeps, limited;
};

struct front {
    struct xen_front ring;  /* takes new requests */
    struct xen_front elder; /* the one before it: answers only */
    bool has_elder;         /* changes only while nobody leads */
    shared_u32 changing;    /* threads that want to replace the ring: nobody may lead */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool leading;
    uint32_t followers;
    uint32_t nr_calls, nr_free, nr_done, first_done;
    struct call *calls;
    uint32_t *free, *done;
    int notify_fd;
    struct waiter waiter;
    struct spin spin;
    const char *_Atomic broken; /* why, once it is */
    struct front_stats stats;
    struct limit limit;
    struct gauge *gauge; /* NULL: nobody watches how full the ring is */
    uint64_t flushed_ns, answered_ns; /* when last, if front_is_timed() */
};

static inline int64_t front_look(void *arg)
{
    struct front *front = arg;
    if (load_relaxed(&front->changing) > 0)
        return 1;
    int64_t ready = front->has_elder ? xen_front_ready(&front->elder) : 0;
    return ready != 0 ? ready : xen_front_ready(&front->ring);
}

static inline int64_t front_final_check(void *arg)
{
    struct front *front = arg;
    front->stats.sleeps++;
    int64_t ready = front->has_elder ? xen_front_final_check(&front->elder) : 0;
    return ready != 0 ? ready : xen_front_final_check(&front->ring);
}

static inline uint32_t front_in_flight(const struct front *front)
{
    return front->nr_calls - front->nr_free - front->nr_done;
}

/* Whether a request may be claimed: the ring has room and the limit leaves some. */
static inline bool front_has_credit(const struct front *front)
{
    return front->nr_free > 0 && xen_front_credit(&front->ring) > 0 &&
           front_in_flight(front) < front->limit.now;
}

/* The next request's entry, its slot in *slot; NULL without credit.  Mutex held. */
static inline struct call *front_claim(struct front *front, struct io_request **slot)
{
    if (front_in_flight(front) >= front->limit.now) {
        front->stats.limited++;
        return NULL;
    }
    if (front->nr_free == 0 || xen_front_credit(&front->ring) == 0) {
        front->stats.full++;
        return NULL;
    }
    uint32_t index = front->free[--front->nr_free];
    struct call *call = &front->calls[index];
    *slot = (struct io_request *)xen_front_claim(&front->ring);
    (*slot)->id = (uint64_t)call->generation << 32 | index;
    front->stats.requests++;
    if (front_in_flight(front) > front->stats.in_flight_peak)
        front->stats.in_flight_peak = front_in_flight(front);
    return call;
}

/* A request with at most one segment.  Mutex held. */
static inline void front_fill(struct call *call, struct io_request *slot, uint8_t op,
                              uint64_t offset, uint64_t length, const struct io_segment *segment)
{
    uint64_t id = slot->id;
    *slot = (struct io_request){.id = id, .op = op, .offset = offset, .length = length};
    if (segment != NULL) {
        slot->nr_segments = 1;
        slot->segments[0] = *segment;
    }
    call->op = op;
    call->offset = offset;
    call->length = length;
}

/* Whether somebody wants to know when: one reading of the clock serves them all. */
static inline bool front_is_timed(const struct front *front)
{
    return front->gauge != NULL || front->limit.adapts;
}

/* Tell the gauge what the rings' own indices say is in flight.  Mutex held. */
static inline void front_gauge(struct front *front, uint64_t now)
{
    uint32_t elder = front->has_elder ? front->elder.req_prod_pvt - front->elder.rsp_cons : 0;
    gauge_note(front->gauge, now, elder + front->ring.req_prod_pvt - front->ring.rsp_cons);
}

/* Publish what was claimed; wake the back if it asked for that.  Mutex held. */
static inline void front_flush(struct front *front)
{
    if (front->ring.req_published == front->ring.req_prod_pvt)
        return;
    if (front_is_timed(front))
        front->flushed_ns = now_ns();
    if (front->gauge != NULL)
        front_gauge(front, front->flushed_ns);
    if (front->limit.adapts)
        limit_note(&front->limit, front->flushed_ns, front_in_flight(front), 0);
    if (!xen_front_publish(&front->ring)) {
        front->stats.held_off++;
        return;
    }
    uint64_t one = 1;
    ssize_t ignored = write(front->notify_fd, &one, sizeof one);
    (void)ignored;
    front->stats.notifications++;
}

static inline void front_free_call(struct front *front, uint32_t index)
{
    front->calls[index].state = CALL_FREE;
    front->calls[index].generation++;
    front->free[front->nr_free++] = index;
}

static inline void many_answered(struct many *many, uint64_t part, int64_t result)
{
    many->completed++;
    many->busy[part % many->window] = 0;
    if (result != (int64_t)many->length && many->error == 0) {
        many->error = result < 0 ? result : -EIO;
        many->error_part = part;
    }
}

/* Hand one answer to whoever it is for; false if it answers nothing we asked, or says
 * that more was done. */
static inline bool front_answered(struct front *front, const struct io_response *response)
{
    uint32_t index = (uint32_t)response->id;
    if (index >= front->nr_calls)
        return false;
    struct call *call = &front->calls[index];
    if (call->generation != (uint32_t)(response->id >> 32))
        return false;
    if (response->result > 0 && (uint64_t)response->result > call->length)
        return false;
    int64_t result = response->result < -MAX_ERRNO ? -EIO : response->result;
    switch (call->state) {
    case CALL_HELD:
        call->answer->result = result;
        /* release: answer-given. */
        atomic_store_explicit(&call->answer->done, true, memory_order_release);
        call->state = CALL_DONE;
        front->done[(front->first_done + front->nr_done++) % front->nr_calls] = index;
        return true;
    case CALL_WAITED:
        call->waited->result = result;
        call->waited->done = true;
        front_free_call(front, index);
        return true;
    case CALL_MANY:
        many_answered(call->many, call->part, result);
        front_free_call(front, index);
        return true;
    case CALL_LOAD:
        load_answered(call->load, call->part, result, front->answered_ns);
        front_free_call(front, index);
        return true;
    default:
        return false;
    }
}

/* Take every response of one ring; how many. */
static inline uint32_t front_take(struct front *front, struct xen_front *ring)
{
    int64_t ready = front->broken ? 0 : xen_front_ready(ring);
    if (ready < 0)
        front->broken = "the daemon published more responses than there were requests";
    if (ready > 0 && front_is_timed(front))
        front->answered_ns = now_ns();
    for (int64_t i = 0; i < ready; i++) {
        struct io_response response;
        xen_front_copy(ring, (uint32_t)i, &response, sizeof response);
        if (!front_answered(front, &response)) {
            front->broken = "the daemon answered what was not asked";
            break;
        }
        front->stats.responses++;
    }
    if (ready <= 0)
        return 0;
    xen_front_release(ring, (uint32_t)ready);
    return (uint32_t)ready;
}

/* Take every response there is.  Mutex held. */
static inline void front_dispatch(struct front *front)
{
    uint32_t taken = front->has_elder ? front_take(front, &front->elder) : 0;
    taken += front_take(front, &front->ring);
    if (taken > 0 && front->gauge != NULL)
        front_gauge(front, front->answered_ns);
    if (taken > 0 && front->limit.adapts)
        limit_note(&front->limit, front->answered_ns, front_in_flight(front), taken);
}

/* Lead for one wait: mutex held at entry and exit, free while waiting. */
static inline enum wait_result front_lead(struct front *front, uint64_t deadline_ns)
{
    front->leading = true;
    pthread_mutex_unlock(&front->mutex);
    enum wait_result result = wait_once(&front->waiter, deadline_ns);
    pthread_mutex_lock(&front->mutex);
    front_dispatch(front);
    front->leading = false;
    if (front->followers > 0)
        pthread_cond_broadcast(&front->changed);
    return result;
}

static inline enum wait_result front_follow(struct front *front, uint64_t deadline_ns)
{
    uint64_t now = now_ns();
    if (now >= deadline_ns)
        return WAIT_TIMED_OUT;
    uint64_t until = now + FOLLOWER_SLICE_NS < deadline_ns ? now + FOLLOWER_SLICE_NS : deadline_ns;
    struct timespec ts = {.tv_sec = (time_t)(until / 1000000000u),
                          .tv_nsec = (long)(until % 1000000000u)};
    front->followers++;
    int rc = pthread_cond_timedwait(&front->changed, &front->mutex, &ts);
    front->followers--;
    return rc == ETIMEDOUT ? WAIT_INTERRUPTED : WAIT_READY;
}

/* Wait until `done(arg)`; mutex held at entry and exit.  WAIT_INTERRUPTED: look at signals,
 * call again.  WAIT_HUNG_UP: look at the control socket, break the front or call again.
 * WAIT_BROKEN: see front->broken; nothing more will be answered. */
static inline enum wait_result front_wait(struct front *front, bool (*done)(void *), void *arg,
                                          uint64_t deadline_ns)
{
    for (;;) {
        if (done(arg))
            return WAIT_READY;
        if (front->broken != NULL)
            return WAIT_BROKEN;
        bool held_up = load_relaxed(&front->changing) > 0;
        enum wait_result result = held_up || front->leading ? front_follow(front, deadline_ns)
                                                            : front_lead(front, deadline_ns);
        if (done(arg))
            return WAIT_READY;
        if (result != WAIT_READY && result != WAIT_BROKEN)
            return result;
    }
}

#endif
