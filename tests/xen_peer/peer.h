/* What the two Xen peers share: Xen's own headers, the memory, the two eventfds.
 *
 * Nothing of ours is included here: a peer knows only Xen's header, so that it can
 * tell whether the other side's bytes are Xen's.
 */
#ifndef XEN_PEER_H
#define XEN_PEER_H

#define _GNU_SOURCE
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define __XEN_INTERFACE_VERSION__ 0x00040700 /* names barriers xen_*mb */
#define xen_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#include <xen/xen.h>
#include <xen/io/blkif.h>

enum { SECTOR = 512, PAGE = 4096, PAGE_SECTORS = 8, TABLE_SEGMENTS = PAGE / 8 };
enum { HANG_MS = 30000 };
enum { EXIT_DATA = 1, EXIT_USAGE = 2, EXIT_PROTOCOL = 3, EXIT_HANG = 4 };

#define FAIL(code, ...)                                                                      \
    do {                                                                                     \
        fprintf(stderr, __VA_ARGS__);                                                        \
        fputc('\n', stderr);                                                                 \
        exit(code);                                                                          \
    } while (0)

/* Every option is a number; those with -1 must be given. */
struct peer {
    long memfd, ring_offset, slots, data_offset, data_pages, kick_fd, call_fd;
    long sectors, ops, seed, start, indirect;
    uint8_t *memory, *data;
    uint64_t chance;
    long kicks, held_off, waits;
};

static inline void peer_options(struct peer *peer, int argc, char **argv)
{
    static const struct option names[] = {
        {"memfd", 1, NULL, 0},      {"ring-offset", 1, NULL, 1}, {"slots", 1, NULL, 2},
        {"data-offset", 1, NULL, 3}, {"data-pages", 1, NULL, 4}, {"kick-fd", 1, NULL, 5},
        {"call-fd", 1, NULL, 6},    {"sectors", 1, NULL, 7},     {"ops", 1, NULL, 8},
        {"seed", 1, NULL, 9},       {"start", 1, NULL, 10},      {"indirect", 1, NULL, 11},
        {NULL, 0, NULL, 0}};
    long values[] = {-1, -1, -1, -1, 256, -1, -1, -1, -1, 1, 0, 0};
    for (int which; (which = getopt_long(argc, argv, "", names, NULL)) >= 0;) {
        if (which == '?')
            exit(EXIT_USAGE);
        values[which] = strtol(optarg, NULL, 0);
    }
    for (int i = 0; names[i].name != NULL; i++)
        if (values[i] < 0)
            FAIL(EXIT_USAGE, "--%s N is missing", names[i].name);
    memcpy(peer, values, sizeof values);
}

static inline void peer_map(struct peer *peer)
{
    struct stat status;
    if (fstat((int)peer->memfd, &status) < 0)
        FAIL(EXIT_USAGE, "--memfd %ld is no file", peer->memfd);
    if (status.st_size < peer->data_offset + peer->data_pages * PAGE)
        FAIL(EXIT_USAGE, "%ld bytes do not hold the data area", (long)status.st_size);
    peer->memory = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                        (int)peer->memfd, 0);
    if (peer->memory == MAP_FAILED)
        FAIL(EXIT_USAGE, "mmap of --memfd failed");
    peer->data = peer->memory + peer->data_offset;
    peer->chance = (uint64_t)peer->seed * 2654435761u + 88172645463325252u;
}

static inline struct blkif_sring *peer_ring(struct peer *peer)
{
    return (struct blkif_sring *)(peer->memory + peer->ring_offset);
}

static inline unsigned long peer_ring_bytes(const struct peer *peer)
{
    return offsetof(struct blkif_sring, ring) +
           (unsigned long)peer->slots * sizeof(union blkif_sring_entry);
}

static inline unsigned chance(struct peer *peer, unsigned below)
{
    peer->chance ^= peer->chance << 13;
    peer->chance ^= peer->chance >> 7;
    peer->chance ^= peer->chance << 17;
    return (unsigned)((peer->chance >> 16) % below);
}

static inline void peer_notify(struct peer *peer, bool wanted, long fd)
{
    if (!wanted) {
        peer->held_off++;
        return;
    }
    peer->kicks++;
    if (eventfd_write((int)fd, 1) < 0)
        FAIL(EXIT_PROTOCOL, "eventfd_write failed");
}

static inline void peer_wait(struct peer *peer, long fd)
{
    struct pollfd poller = {.fd = (int)fd, .events = POLLIN};
    eventfd_t count;
    peer->waits++;
    if (poll(&poller, 1, HANG_MS) != 1)
        FAIL(EXIT_HANG, "nothing came for %d ms: a lost wake-up or a dead peer", HANG_MS);
    if (eventfd_read((int)fd, &count) < 0)
        FAIL(EXIT_PROTOCOL, "eventfd_read failed");
}

#endif
