/* What the kill rigs share: a ring on a memfd, and messages that can be checked. */
#ifndef RIG_H
#define RIG_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "mpmc_call.h"

enum { RIG_SLOT_SIZE = 48, RIG_MAX_SLOTS = 64 };

struct rig {
    int fd;
    size_t size;
    void *base;
    uint32_t nr_slots;
};

static inline void rig_die(const char *what)
{
    perror(what);
    _exit(9);
}

static inline struct rig rig_make(uint32_t nr_slots, uint64_t start)
{
    struct rig rig = {.nr_slots = nr_slots};
    struct mpmc ring;
    rig.size = MPMC_SLOTS_OFFSET + nr_slots * mpmc_stride(RIG_SLOT_SIZE);
    rig.fd = memfd_create("rig", MFD_CLOEXEC);
    if (rig.fd < 0 || ftruncate(rig.fd, (off_t)rig.size) < 0)
        rig_die("memfd");
    rig.base = mmap(NULL, rig.size, PROT_READ | PROT_WRITE, MAP_SHARED, rig.fd, 0);
    if (rig.base == MAP_FAILED || !mpmc_bind(&ring, rig.base, rig.size, nr_slots, RIG_SLOT_SIZE))
        rig_die("ring");
    mpmc_init(&ring, start);
    return rig;
}

static inline void rig_bind(const struct rig *rig, struct mpmc_member *member)
{
    memset(member, 0, sizeof *member);
    member->lock_fd = member->event_fd[0] = member->event_fd[1] = -1;
    if (!mpmc_bind(&member->ring, rig->base, rig->size, rig->nr_slots, RIG_SLOT_SIZE))
        rig_die("bind");
}

static inline void rig_join(const struct rig *rig, struct mpmc_member *member)
{
    rig_bind(rig, member);
    if (!mpmc_join(member, rig->fd))
        rig_die("join");
}

/* A message: who, its number, and every later byte made from the two. */
static inline uint8_t rig_byte(uint32_t who, uint32_t number, uint32_t i)
{
    return (uint8_t)((who * 131 + number * 31 + i) * 167 >> 3);
}

static inline uint32_t rig_fill(uint8_t *out, uint32_t who, uint32_t number)
{
    uint32_t length = 8 + (who + number) % (RIG_SLOT_SIZE - 8 + 1);
    memcpy(out, &who, 4);
    memcpy(out + 4, &number, 4);
    for (uint32_t i = 8; i < length; i++)
        out[i] = rig_byte(who, number, i);
    return length;
}

static inline bool rig_whole(const uint8_t *message, uint32_t length, uint32_t *who,
                             uint32_t *number)
{
    uint8_t expected[RIG_SLOT_SIZE];
    if (length < 8 || length > RIG_SLOT_SIZE)
        return false;
    memcpy(who, message, 4);
    memcpy(number, message + 4, 4);
    return rig_fill(expected, *who, *number) == length && memcmp(expected, message, length) == 0;
}

static inline uint64_t rig_losses(const struct mpmc *ring, bool in_doubt)
{
    uint64_t sum = 0;
    for (int i = 0; i < MPMC_OWNERS; i++) {
        struct mpmc_owner *owner = &ring->header->owners[i];
        sum += load64(in_doubt ? &owner->in_doubt : &owner->tombstones) >> 40;
    }
    return sum;
}

static inline uint64_t rig_deaths(const struct mpmc *ring)
{
    uint64_t sum = 0;
    for (int i = 0; i < MPMC_OWNERS; i++)
        sum += owner_deaths(load64(&ring->header->owners[i].word));
    return sum;
}

static inline uint64_t rig_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
