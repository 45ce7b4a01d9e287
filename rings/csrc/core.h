/* The words every ring is made of: memory-order primitives and time.
 *
 * No Python in here, no allocation, no I/O: this file and the ring headers
 * beside it also build as plain C for the sanitizers and for the engine.
 *
 * Each ordering has a name, and the name stands at both of its ends:
 *   release: request-published   pairs with   acquire: request-published
 */
#ifndef RINGS_CORE_H
#define RINGS_CORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

typedef _Atomic uint32_t shared_u32;
typedef _Atomic uint64_t shared_u64;

_Static_assert(sizeof(shared_u32) == 4, "u32 in shared memory");
_Static_assert(sizeof(shared_u64) == 8, "u64 in shared memory");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian only");

#define CACHE_LINE 64

static inline uint32_t load_relaxed(const shared_u32 *word)
{
    return atomic_load_explicit((shared_u32 *)word, memory_order_relaxed);
}

static inline uint32_t load_acquire(const shared_u32 *word)
{
    return atomic_load_explicit((shared_u32 *)word, memory_order_acquire);
}

static inline uint32_t load_seq_cst(const shared_u32 *word)
{
    return atomic_load_explicit((shared_u32 *)word, memory_order_seq_cst);
}

static inline void store_relaxed(shared_u32 *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void store_release(shared_u32 *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

/* A store that later loads cannot overtake.  An exchange, not a fence: the proof
 * is the same and ThreadSanitizer understands it. */
static inline void store_seq_cst(shared_u32 *word, uint32_t value)
{
    (void)atomic_exchange_explicit(word, value, memory_order_seq_cst);
}

static inline bool is_power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#endif
}

static inline uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#endif
