/* What the kill rigs share: a ring on a memfd, and messages that can be checked. */
#ifndef RIG_H
#define RIG_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "message.h"
#include "mpmc_call.h"

struct rig {
    int fd;
    size_t size;
    void *base;
    uint32_t nr_slots;
    uint32_t slot_size;
};

static inline void rig_die(const char *what)
{
    perror(what);
    _exit(9);
}

static inline struct rig rig_make_of(uint32_t nr_slots, uint32_t slot_size, uint64_t start)
{
    struct rig rig = {.nr_slots = nr_slots, .slot_size = slot_size};
    struct mpmc ring;
    rig.size = MPMC_SLOTS_OFFSET + nr_slots * mpmc_stride(slot_size);
    rig.fd = memfd_create("rig", MFD_CLOEXEC);
    if (rig.fd < 0 || ftruncate(rig.fd, (off_t)rig.size) < 0)
        rig_die("memfd");
    rig.base = mmap(NULL, rig.size, PROT_READ | PROT_WRITE, MAP_SHARED, rig.fd, 0);
    if (rig.base == MAP_FAILED || !mpmc_bind(&ring, rig.base, rig.size, nr_slots, slot_size))
        rig_die("ring");
    mpmc_init(&ring, start);
    return rig;
}

static inline struct rig rig_make(uint32_t nr_slots, uint64_t start)
{
    return rig_make_of(nr_slots, RIG_SLOT_SIZE, start);
}

static inline void rig_bind(const struct rig *rig, struct mpmc_member *member)
{
    memset(member, 0, sizeof *member);
    member->lock_fd = member->event_fd[0] = member->event_fd[1] = -1;
    if (!mpmc_bind(&member->ring, rig->base, rig->size, rig->nr_slots, rig->slot_size))
        rig_die("bind");
}

static inline void rig_join(const struct rig *rig, struct mpmc_member *member)
{
    rig_bind(rig, member);
    if (!mpmc_join(member, rig->fd))
        rig_die("join");
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

static inline uint64_t rig_lost(const struct mpmc *ring)
{
    uint64_t sum = 0;
    for (int i = 0; i < MPMC_OWNERS; i++)
        sum += load64(&ring->header->owners[i].lost) >> 24;
    return sum;
}

static inline uint64_t rig_deaths(const struct mpmc *ring)
{
    uint64_t sum = 0;
    for (int i = 0; i < MPMC_OWNERS; i++)
        sum += owner_deaths(load64(&ring->header->owners[i].word));
    return sum;
}

#endif
