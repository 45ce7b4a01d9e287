/* The data plane: takes requests out of many rings, does them, answers.
 *
 *   take -> check -> submit -> one enter -> reap -> answer -> publish -> notify
 *
 * One thread runs it (engine_run) and makes every other call but engine_wake,
 * engine_complete and those for statistics, which any thread may make.
 * Nothing here grows with load: a request in service has a record reserved when its
 * ring was attached, and the executor's room for completions is reserved with it.
 */
#ifndef RINGSD_ENGINE_H
#define RINGSD_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "station.h"

typedef struct engine engine;

enum { ENGINE_URING, ENGINE_THREADS, ENGINE_MOCK };
enum { DEVICE_FILE, DEVICE_NULL, DEVICE_ECHO, DEVICE_BACKEND, DEVICE_DELAY };
enum { EVENT_BROKEN, EVENT_DETACHED, EVENT_REQUESTS };

struct engine_device {
    int kind;
    int fd; /* of an image; -1 for the others */
    uint64_t size;
    uint32_t block_size;
    bool read_only;
    int station; /* of a delay device: what engine_add_station returned */
};

struct engine_ring_spec {
    void *memory; /* the whole region, mapped; stays so until EVENT_DETACHED */
    uint64_t size;
    uint32_t ring_layout, slots, slot_size, protocol;
    uint64_t ring_offset, ring_size, grants_offset;
    uint32_t grants, start;
    uint64_t data_offset, data_size;
    int wait_fd, notify_fd; /* eventfds: the front writes the first, we the second */
    void *ring_memory; /* where the ring lies instead, at ring_offset; NULL: in `memory` */
    uint64_t ring_memory_size;
};

struct engine_event {
    uint32_t ring;
    uint32_t kind;
    const char *reason; /* of EVENT_BROKEN */
};

struct engine_ring_stats {
    uint64_t requests, responses, errors, bytes_read, bytes_written;
    uint64_t batches, notifications_sent, notifications_held_off;
    uint64_t wakes, spurious_wakes, in_flight, in_flight_peak, fixed_buffer;
    uint64_t takes;                     /* looks that found requests */
    uint64_t in_flight_ns, observed_ns; /* their quotient: the mean in flight */
};

struct engine_stats {
    uint64_t enters, turns, sleeps, credit, credit_used;
    uint64_t requests, takes, notifications_sent, notifications_held_off; /* of all rings */
};

struct backend_segment {
    uint64_t offset; /* in the region */
    uint32_t length, reserved;
};

struct backend_request {
    uint64_t id;
    uint32_t index, generation; /* name it to engine_complete */
    uint32_t op, nr_segments;
    uint64_t offset, length;
    struct backend_segment segments[64];
};

/* kind ENGINE_*; NULL with *error = minus an errno and *where = the failing step. */
engine *engine_new(int kind, uint64_t spin_ns, uint32_t entries, uint32_t credit, uint64_t seed,
                   int *error, const char **where);
const char *engine_name(engine *);
int engine_start(engine *);
/* Serve for one turn, and on until engine_wake or an event; the number of events. */
int engine_run(engine *, struct engine_event *events, int max);
void engine_wake(engine *);
/* The ring's number, or minus an errno: -ENOBUFS when the credit is used up. */
int engine_attach(engine *, const struct engine_ring_spec *, const struct engine_device *);
/* Servers for a delay device, there until the end; their number, or minus an errno. */
int engine_add_station(engine *, const struct station_plan *);
/* Begin to let go of a ring; EVENT_DETACHED follows.  drain: answer what is published. */
int engine_detach(engine *, uint32_t ring, bool drain);
/* Requests of a DEVICE_BACKEND ring, after EVENT_REQUESTS; their number. */
int engine_take(engine *, uint32_t ring, struct backend_request *out, int max);
/* Answer one of them: from any thread; late or unknown answers are ignored. */
void engine_complete(engine *, uint32_t ring, uint32_t index, uint32_t generation, int64_t result);
int engine_ring_stats(engine *, uint32_t ring, struct engine_ring_stats *);
int engine_station_stats(engine *, uint32_t station, struct station_stats *);
void engine_stats(engine *, struct engine_stats *);
void engine_free(engine *);

#endif
