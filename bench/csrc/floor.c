/* The floor under every message ring here: what C does between two processes.
 *
 * stream_N   64-byte slots, one producer, one consumer, published every N messages:
 *            each message is written, read and checked by sequence.
 * pingpong   one cache line, both ends spinning.
 * eventfd    each side sleeps in read(2) until the other writes: no spinning.
 *
 *   floor CORE_A CORE_B SECONDS PART...   (pins the ends; -1: leaves them alone)
 *   PART: stream_1 stream_32 stream_1024 pingpong eventfd
 *
 * Prints JSON.  With both ends on one core the spinning parts call sched_yield,
 * or they would measure the scheduler's time slice.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 4096, SLOT_WORDS = 8, MAX_TRIPS = 1 << 20, TURNS_A_CLOCK = 256 };

typedef _Atomic uint32_t shared_u32;

struct shared {
    _Alignas(128) shared_u32 prod;
    _Alignas(128) shared_u32 cons;
    _Alignas(128) shared_u32 ping;
    _Alignas(128) shared_u32 stop;
    _Alignas(128) uint64_t slots[SLOTS][SLOT_WORDS];
};

static struct shared *shared;
static int core_a, core_b, event_a, event_b;
static bool one_core;
static uint32_t trips_ns[MAX_TRIPS];

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void pin(int core)
{
    cpu_set_t set;
    if (core < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        die("sched_setaffinity");
}

static void relax(void)
{
    if (one_core)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#endif
}

static uint32_t peek(shared_u32 *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void publish(shared_u32 *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static void produce(uint32_t batch)
{
    uint32_t prod = 0, cons = 0;
    while (!peek(&shared->stop)) {
        while (SLOTS - (prod - cons) < batch) {
            cons = peek(&shared->cons);
            if (SLOTS - (prod - cons) >= batch)
                break;
            if (peek(&shared->stop))
                return;
            relax();
        }
        for (uint32_t i = 0; i < batch; i++, prod++)
            for (int word = 0; word < SLOT_WORDS; word++)
                shared->slots[prod % SLOTS][word] = prod + (uint64_t)word;
        publish(&shared->prod, prod);
    }
}

static uint32_t take(uint32_t cons, uint32_t prod)
{
    for (; cons != prod; cons++) {
        uint64_t sum = 0;
        for (int word = 0; word < SLOT_WORDS; word++)
            sum += shared->slots[cons % SLOTS][word];
        if (sum != (uint64_t)cons * SLOT_WORDS + 28)
            die("a message is torn or out of order");
    }
    return cons;
}

static double consume(double seconds)
{
    uint32_t cons = 0;
    uint64_t total = 0, start = now_ns(), end = start + (uint64_t)(seconds * 1e9), now = start;
    for (uint32_t turn = 1; now < end; turn++) {
        uint32_t prod = peek(&shared->prod);
        if (prod == cons) {
            relax();
        } else {
            total += prod - cons;
            cons = take(cons, prod);
            publish(&shared->cons, cons);
        }
        if (turn % TURNS_A_CLOCK == 0)
            now = now_ns();
    }
    return (double)total / ((double)(now - start) / 1e9);
}

static void answer_spinning(uint32_t unused)
{
    (void)unused;
    while (!peek(&shared->stop)) {
        uint32_t seen = peek(&shared->ping);
        if (seen & 1)
            publish(&shared->ping, seen + 1);
        else
            relax();
    }
}

static void trip_spinning(void)
{
    uint32_t seen = peek(&shared->ping);
    publish(&shared->ping, seen + 1);
    while (peek(&shared->ping) != seen + 2)
        relax();
}

static void answer_sleeping(uint32_t unused)
{
    (void)unused;
    uint64_t count, one = 1;
    while (read(event_a, &count, 8) == 8 && !peek(&shared->stop))
        if (write(event_b, &one, 8) != 8)
            die("write");
}

static void trip_sleeping(void)
{
    uint64_t count, one = 1;
    if (write(event_a, &one, 8) != 8 || read(event_b, &count, 8) != 8)
        die("eventfd");
}

static pid_t start_peer(void (*peer)(uint32_t), uint32_t argument)
{
    memset(shared, 0, sizeof *shared);
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(core_b);
        peer(argument);
        _exit(0);
    }
    return pid;
}

static void stop_peer(pid_t pid)
{
    int status;
    uint64_t one = 1;
    publish(&shared->stop, 1);
    if (write(event_a, &one, 8) != 8 || waitpid(pid, &status, 0) != pid || status != 0)
        die("the peer failed");
}

static void stream(const char *name, uint32_t batch, double seconds)
{
    pid_t pid = start_peer(produce, batch);
    consume(seconds / 5);
    stop_peer(pid);
    pid = start_peer(produce, batch);
    printf("\"%s\": {\"rate\": %.0f}, ", name, consume(seconds));
    stop_peer(pid);
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void round_trips(const char *name, void (*peer)(uint32_t), void (*trip)(void),
                        double seconds)
{
    size_t n = 0;
    pid_t pid = start_peer(peer, 0);
    for (int warm = 0; warm < 100; warm++)
        trip();
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9);
    while (start < end && n < MAX_TRIPS) {
        trip();
        uint64_t now = now_ns();
        trips_ns[n++] = (uint32_t)(now - start);
        start = now;
    }
    stop_peer(pid);
    qsort(trips_ns, n, sizeof *trips_ns, ascending);
    printf("\"%s\": {\"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, \"trips\": %zu}, ",
           name, trips_ns[n / 2] / 1e3, trips_ns[n * 99 / 100] / 1e3,
           trips_ns[n * 999 / 1000] / 1e3, n);
}

static void part(const char *name, double seconds)
{
    if (strcmp(name, "stream_1") == 0)
        stream(name, 1, seconds);
    else if (strcmp(name, "stream_32") == 0)
        stream(name, 32, seconds);
    else if (strcmp(name, "stream_1024") == 0)
        stream(name, 1024, seconds);
    else if (strcmp(name, "pingpong") == 0)
        round_trips(name, answer_spinning, trip_spinning, seconds);
    else if (strcmp(name, "eventfd") == 0)
        round_trips(name, answer_sleeping, trip_sleeping, seconds);
    else
        die(name);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: floor CORE_A CORE_B SECONDS PART...\n");
        return 2;
    }
    core_a = atoi(argv[1]);
    core_b = atoi(argv[2]);
    one_core = core_a >= 0 && core_a == core_b;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    event_a = eventfd(0, EFD_CLOEXEC);
    event_b = eventfd(0, EFD_CLOEXEC);
    if (shared == MAP_FAILED || event_a < 0 || event_b < 0)
        die("set-up");
    pin(core_a);
    printf("{");
    for (int i = 4; i < argc; i++) {
        fflush(stdout);
        part(argv[i], atof(argv[3]));
    }
    printf("\"one_core\": %s}\n", one_core ? "true" : "false");
    return 0;
}
