#include "station.h"

#include <math.h>
#include <stdlib.h>

/* ---- the heap of those in service ---- */

static bool before(const struct visit *a, const struct visit *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void put(struct station *station, uint64_t at, struct visit *visit)
{
    station->serving[at] = visit;
    visit->at = (uint32_t)at;
}

/* Find `visit` its place, upwards from `at`. */
static void rise(struct station *station, uint64_t at, struct visit *visit)
{
    for (; at > 0 && before(visit, station->serving[(at - 1) / 2]); at = (at - 1) / 2)
        put(station, at, station->serving[(at - 1) / 2]);
    put(station, at, visit);
}

/* The same downwards. */
static void sink(struct station *station, uint64_t at, struct visit *visit)
{
    uint64_t count = station->stats.in_service;
    for (uint64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(station->serving[child + 1], station->serving[child]))
            child++;
        if (!before(station->serving[child], visit))
            break;
        put(station, at, station->serving[child]);
    }
    put(station, at, visit);
}

static void remove_from_heap(struct station *station, const struct visit *visit)
{
    struct visit *moved = station->serving[--station->stats.in_service];
    if (moved == visit)
        return;
    if (visit->at > 0 && before(moved, station->serving[(visit->at - 1) / 2]))
        rise(station, visit->at, moved);
    else
        sink(station, visit->at, moved);
}

/* ---- the queue ---- */

static void append(struct station *station, struct visit *visit)
{
    visit->place = VISIT_QUEUED;
    visit->next = NULL;
    visit->prev = station->last;
    *(station->last != NULL ? &station->last->next : &station->first) = visit;
    station->last = visit;
    if (++station->stats.queued > station->stats.queued_peak)
        station->stats.queued_peak = station->stats.queued;
}

static void unlink_visit(struct station *station, struct visit *visit)
{
    *(visit->prev != NULL ? &visit->prev->next : &station->first) = visit->next;
    *(visit->next != NULL ? &visit->next->prev : &station->last) = visit->prev;
    station->stats.queued--;
}

/* ---- service ---- */

/* Steele, Lea and Flood's SplitMix64: the same times for the same seed, everywhere. */
static uint64_t next_random(struct station *station)
{
    uint64_t z = station->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t draw_service_ns(struct station *station)
{
    if (!station->plan.exponential)
        return station->plan.service_ns;
    double above_zero = (double)((next_random(station) >> 11) + 1) * 0x1p-53;
    return (uint64_t)(-log(above_zero) * (double)station->plan.service_ns);
}

static void begin(struct station *station, struct visit *visit, uint64_t free_ns)
{
    visit->place = VISIT_IN_SERVICE;
    visit->began_ns = free_ns > visit->arrived_ns ? free_ns : visit->arrived_ns;
    visit->due_ns = visit->began_ns + draw_service_ns(station);
    visit->order = station->begun++;
    station->stats.waited_ns += visit->began_ns - visit->arrived_ns;
    rise(station, station->stats.in_service++, visit);
    if (station->stats.in_service > station->stats.in_service_peak)
        station->stats.in_service_peak = station->stats.in_service;
}

/* Its server is free from `free_ns` on: for the one that has waited longest. */
static void end(struct station *station, struct visit *visit, uint64_t free_ns)
{
    remove_from_heap(station, visit);
    visit->place = VISIT_NONE;
    station->stats.busy_ns += free_ns - visit->began_ns;
    struct visit *next = station->first;
    if (next == NULL)
        return;
    unlink_visit(station, next);
    begin(station, next, free_ns);
}

void station_arrive(struct station *station, struct visit *visit, uint64_t now_ns)
{
    visit->arrived_ns = now_ns;
    if (station->stats.in_service < station->plan.servers)
        begin(station, visit, now_ns);
    else
        append(station, visit);
}

struct visit *station_leave(struct station *station, uint64_t now_ns)
{
    if (station_due_ns(station) > now_ns)
        return NULL;
    struct visit *visit = station->serving[0];
    uint64_t late_ns = now_ns - visit->due_ns;
    end(station, visit, visit->due_ns);
    station->stats.served++;
    station->stats.late_ns += late_ns;
    if (late_ns > station->stats.late_peak_ns)
        station->stats.late_peak_ns = late_ns;
    return visit;
}

void station_abandon(struct station *station, struct visit *visit, uint64_t now_ns)
{
    station->stats.abandoned++;
    if (visit->place == VISIT_QUEUED) {
        unlink_visit(station, visit);
        visit->place = VISIT_NONE;
    } else {
        end(station, visit, now_ns < visit->due_ns ? now_ns : visit->due_ns);
    }
}

uint64_t station_due_ns(const struct station *station)
{
    return station->stats.in_service > 0 ? station->serving[0]->due_ns : NEVER_DUE;
}

/* ---- life ---- */

struct station *station_new(const struct station_plan *plan)
{
    struct station *station = calloc(1, sizeof *station);
    if (station == NULL)
        return NULL;
    station->plan = *plan;
    station->random = plan->seed;
    station->serving = calloc(plan->servers, sizeof *station->serving);
    if (station->serving == NULL) {
        free(station);
        return NULL;
    }
    return station;
}

void station_free(struct station *station)
{
    free(station->serving);
    free(station);
}
