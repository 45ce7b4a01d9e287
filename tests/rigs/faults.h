/* Every store to shared memory becomes a place to die.
 *
 * Include this before the header of a ring: it wraps the names by which the rings
 * store, so that what is killed is the text that is shipped.  A copy into the ring
 * may end after any eight bytes.  Then run_storm: workers that each draw how many
 * places they pass before they kill themselves, and the next take their places.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "core.h"
#include "message.h"
#include "process.h"

enum { PLACES = 128, MOST_WORKERS = 8, STUCK_MS = 3000, LONGEST_LIFE = 400 };

struct place {
    shared_u64 key; /* the name's address, the line above it */
    shared_u32 kills;
};

struct storm {
    shared_u64 moves; /* successful calls of all workers */
    shared_u32 torn, twice, again, wrong;
    struct place places[PLACES];
};

static struct storm *storm;
static uint8_t *shared_base;
static size_t shared_size;
static long fatal_count; /* places to pass before death; 0: immortal */

static void rig_die(const char *what)
{
    perror(what);
    _exit(9);
}

static void *rig_map(size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        rig_die("mmap");
    return base;
}

static void count_kill(const char *function, int line)
{
    uint64_t key = (uint64_t)line << 48 | (uintptr_t)function;
    for (struct place *place = storm->places; place < storm->places + PLACES; place++) {
        uint64_t seen = 0;
        if (atomic_compare_exchange_strong(&place->key, &seen, key) || seen == key) {
            atomic_fetch_add(&place->kills, 1);
            return;
        }
    }
    _exit(9);
}

/* The end of a life that has seen what must not be. */
static void rig_give_up(shared_u32 *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
    kill(getpid(), SIGKILL);
}

static void rig_fault(const char *function, int line)
{
    if (fatal_count == 0 || --fatal_count > 0)
        return;
    count_kill(function, line);
    kill(getpid(), SIGKILL);
}

static inline void rig_copy(void *to, const void *from, size_t size, const char *function,
                            int line)
{
    bool shared = (uint8_t *)to >= shared_base && (uint8_t *)to < shared_base + shared_size;
    for (size_t done = 0; done < size; done += 8) {
        memcpy((uint8_t *)to + done, (const uint8_t *)from + done,
               size - done < 8 ? size - done : 8);
        if (shared)
            rig_fault(function, line);
    }
}

/* ---- the storm ------------------------------------------------------------------- */

typedef void work_function(uint32_t worker, uint64_t seed);

static pid_t start_worker(work_function *work, uint32_t worker, uint64_t seed)
{
    pid_t pid = fork();
    if (pid < 0)
        rig_die("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    seed |= 1;
    fatal_count = 1 + (long)(rig_random(&seed) % LONGEST_LIFE);
    if (rig_random(&seed) % 4 == 0)
        fatal_count = 1 + fatal_count % 16; /* while taking the end over */
    work(worker, seed);
    _exit(8);
}

/* Wait for any worker's death; 0 if nothing at all moved for too long. */
static pid_t wait_for_death(void)
{
    uint64_t moves = atomic_load(&storm->moves), idle_since = now_ns();
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid > 0 && WIFEXITED(status))
            _exit(WEXITSTATUS(status));
        if (pid != 0)
            return pid;
        if (atomic_load(&storm->moves) != moves)
            moves = atomic_load(&storm->moves), idle_since = now_ns();
        if (now_ns() - idle_since > STUCK_MS * UINT64_C(1000000))
            return 0;
        usleep(20);
    }
}

/* False if the survivors got stuck. */
static bool run_storm(work_function *work, uint32_t workers, uint32_t kills, uint64_t seed)
{
    pid_t pids[MOST_WORKERS], dead = 1;
    for (uint32_t i = 0; i < workers; i++)
        pids[i] = start_worker(work, i, rig_random(&seed));
    for (uint32_t done = 0; done < kills && (dead = wait_for_death()) != 0; done++)
        for (uint32_t i = 0; i < workers; i++)
            if (pids[i] == dead)
                pids[i] = start_worker(work, i, rig_random(&seed));
    for (uint32_t i = 0; i < workers; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    return dead != 0;
}

static void end_stuck(int signal)
{
    static const char text[] = "{\"stuck\": 1}\n";
    ssize_t ignored = write(1, text, sizeof text - 1);
    (void)ignored;
    _exit(signal == SIGPROF ? 2 : 9);
}

/* What the rig itself does with the ring must not spin for ever either. */
static void watch_the_end(void)
{
    struct itimerval two_seconds_of_work = {.it_value = {.tv_sec = 2}};
    signal(SIGPROF, end_stuck);
    setitimer(ITIMER_PROF, &two_seconds_of_work, NULL);
}

/* The kills by function, each name once. */
static void print_kills(void)
{
    printf("\"kills\": {");
    for (struct place *place = storm->places; atomic_load(&place->key) != 0; place++) {
        const char *name = (const char *)(uintptr_t)(place->key << 16 >> 16);
        uint32_t sum = 0, later = 0;
        for (struct place *other = storm->places; other < storm->places + PLACES; other++)
            if (other->key << 16 == place->key << 16)
                sum += other->kills, later += other < place;
        if (later == 0)
            printf("%s\"%s\": %u", place == storm->places ? "" : ", ", name, sum);
    }
    printf("}");
}

/* ---- the names by which the rings store -------------------------------------------- */

#define AROUND(store)                                                                       \
    ({                                                                                      \
        rig_fault(__func__, __LINE__);                                                      \
        __auto_type stored = (store);                                                       \
        rig_fault(__func__, __LINE__);                                                      \
        stored;                                                                             \
    })

#define memcpy(to, from, size) rig_copy(to, from, size, __func__, __LINE__)
#define store_seq_cst(word, value)                                                          \
    (rig_fault(__func__, __LINE__), store_seq_cst(word, value), rig_fault(__func__, __LINE__))

#undef atomic_store_explicit
#define atomic_store_explicit(word, value, order)                                           \
    ((void)AROUND(atomic_exchange_explicit(word, value, memory_order_seq_cst)), (void)(order))
#undef atomic_store
#define atomic_store(word, value) atomic_store_explicit(word, value, memory_order_seq_cst)
#undef atomic_exchange
#define atomic_exchange(word, value)                                                        \
    AROUND(atomic_exchange_explicit(word, value, memory_order_seq_cst))
#undef atomic_fetch_or
#define atomic_fetch_or(word, value)                                                        \
    AROUND(atomic_fetch_or_explicit(word, value, memory_order_seq_cst))
#undef atomic_fetch_add
#define atomic_fetch_add(word, value)                                                       \
    AROUND(atomic_fetch_add_explicit(word, value, memory_order_seq_cst))
#undef atomic_compare_exchange_strong
#define atomic_compare_exchange_strong(word, seen, value)                                   \
    AROUND(atomic_compare_exchange_strong_explicit(                                         \
        word, seen, value, memory_order_seq_cst, memory_order_seq_cst))

#endif
