/* K servers that each hold one request for its service time; the rest wait their turn.
 *
 * First come, first served, over all rings of the device.  A request waits in its own
 * record (its `visit`), so nothing grows with load; those in service are a heap by due
 * time, no larger than the number of servers.
 *
 * Due-time chaining: a server whose request was due at T begins the next one that had
 * come by then at T, not at the moment when the loop got round to it.  So a late loop
 * makes answers late, and whoever asked sees that in its latency, but it takes no
 * capacity from the servers: K servers with work do K / S a second.
 *
 * No clock and no I/O in here: the caller says what time it is, and may make it up.
 */
#ifndef RINGSD_STATION_H
#define RINGSD_STATION_H

#include <stdbool.h>
#include <stdint.h>

#define NEVER_DUE UINT64_MAX

struct station_plan {
    uint32_t servers;
    uint64_t service_ns; /* of each request, or the mean of an exponential distribution */
    bool exponential;
    uint64_t seed;
};

struct station_stats {
    uint64_t served, abandoned, in_service, in_service_peak, queued, queued_peak;
    uint64_t busy_ns;   /* of all servers together */
    uint64_t waited_ns; /* for a server, by all that got one */
    uint64_t late_ns;   /* between due and noticed, of all served */
    uint64_t late_peak_ns;
};

enum visit_place { VISIT_NONE, VISIT_QUEUED, VISIT_IN_SERVICE };

/* One request at a station. */
struct visit {
    enum visit_place place;
    uint32_t at;             /* in the heap */
    struct visit *prev, *next; /* in the queue */
    uint64_t order, arrived_ns, began_ns, due_ns;
};

struct station {
    struct station_plan plan;
    struct visit **serving; /* a heap: by due time, then by order */
    struct visit *first, *last;
    uint64_t random, begun;
    struct station_stats stats;
};

/* NULL: no memory for that many servers. */
struct station *station_new(const struct station_plan *);
void station_free(struct station *);
void station_arrive(struct station *, struct visit *, uint64_t now_ns);
/* The next whose service has ended by now; its server takes the next in the queue. */
struct visit *station_leave(struct station *, uint64_t now_ns);
/* A visit ends before its time, wherever it is. */
void station_abandon(struct station *, struct visit *, uint64_t now_ns);
/* When the next service ends; NEVER_DUE if none goes on. */
uint64_t station_due_ns(const struct station *);

#endif
