/* Two threads, one ring: everything that is put is got, once, whole, in order.
 *
 *   spsc_stress KIND(0 slots, 1 records, 2 by reference) START COUNT SLEEP
 *
 * With SLEEP both ends sleep on eventfds when the ring is full or empty; a wake-up
 * that has to be helped by the clock is a lost one and fails the run.  With SLEEP 2
 * whoever sleeps runs the barrier of both, which ThreadSanitizer cannot see.  Exit status
 * 0, or 1 with a line that says what went wrong.  Built with sanitizers, and with
 * the headers mutated, by test_spsc_sanitize.py.
 */
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "spsc_pool.h"
#include "wait.h"

enum { BYTES = 4096, POOL = 1024, INLINE = 40, LONGEST = 200, PATIENCE_MS = 3000 };

static _Alignas(4096) uint8_t memory[sizeof(struct spsc_header) + BYTES + POOL];
static struct spsc_loans loans;
static bool sleeps, barriers;
static uint64_t count;
static int data_fd, space_fd;

static void fail(const char *what)
{
    printf("failed: %s\n", what);
    fflush(stdout);
    _exit(1);
}

struct side {
    struct spsc_end end;
    uint32_t want;
    uint64_t length; /* of a message that waits for room */
    int wait_fd;
    bool producer;
    uint64_t state; /* pseudo-random */
};

static uint32_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static int64_t verdict(struct side *side, int64_t units)
{
    return units < 0 ? -1 : units >= side->want;
}

static int64_t look(void *ring)
{
    struct side *side = ring;
    if (side->producer)
        return spsc_message_fits(&side->end, side->end.index, side->want, side->length);
    return verdict(side, spsc_ready(&side->end, side->want));
}

static int64_t announce(void *ring)
{
    struct side *side = ring;
    if (side->producer)
        return spsc_await_fit(&side->end, side->want, side->length,
                              next(&side->state) % (side->end.units / 8 + 1));
    return verdict(side, spsc_await_message(&side->end));
}

static enum wait_result patient_sleep(void *ring, uint64_t deadline_ns)
{
    struct side *side = ring;
    struct pollfd fd = {.fd = side->wait_fd, .events = POLLIN};
    if (poll(&fd, 1, PATIENCE_MS) == 0)
        fail(look(side) > 0 ? "lost wake-up" : "stuck");
    event_drain(side->wait_fd);
    return WAIT_INTERRUPTED;
}

static void wait_for(struct side *side, uint32_t want)
{
    struct waiter waiter = {.ring = side, .look = look, .final_check = announce,
                            .sleep = patient_sleep, .event_fd = side->wait_fd, .hangup_fd = -1};
    side->want = want;
    enum wait_result result = WAIT_INTERRUPTED;
    while (result != WAIT_READY) {
        result = sleeps ? wait_once(&waiter, NO_DEADLINE)
                        : (enum wait_result)(look(side) != 0 ? WAIT_READY : WAIT_INTERRUPTED);
        if (result == WAIT_BROKEN || side->end.broken)
            fail("broken");
    }
}

static void tell(int fd)
{
    uint64_t one = 1;
    if (write(fd, &one, sizeof one) < 0)
        fail("eventfd");
}

static uint32_t length_of(uint64_t number, bool records)
{
    uint64_t state = number;
    return records ? 8 + next(&state) % (LONGEST - 8) : 64;
}

static void fill(uint8_t *bytes, uint32_t length, uint64_t number)
{
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(number + i);
    memcpy(bytes, &number, sizeof number);
}

static void check(const uint8_t *bytes, uint32_t length, uint64_t number)
{
    uint8_t expected[LONGEST];
    fill(expected, length, number);
    if (memcmp(bytes, expected, length) != 0)
        fail("torn, lost or duplicated");
}

static void put_record(struct side *side, uint64_t number)
{
    uint8_t message[LONGEST];
    uint32_t length = length_of(number, true);
    uint32_t units = spsc_message_need(&side->end, side->end.index, length);
    fill(message, length, number);
    side->length = length;
    wait_for(side, units);
    memcpy(spsc_message_claim(&side->end, side->end.index, length), message, length);
    if (spsc_publish(&side->end, units))
        tell(data_fd);
}

static uint32_t put_slots(struct side *side, uint64_t number)
{
    uint8_t messages[64 * 16];
    uint32_t n = 1 + next(&side->state) % 16;
    if (n > count - number)
        n = (uint32_t)(count - number);
    for (uint32_t i = 0; i < n; i++)
        fill(messages + 64 * i, 64, number + i);
    wait_for(side, n);
    spsc_fill(&side->end, side->end.index, messages, n);
    if (spsc_publish(&side->end, n))
        tell(data_fd);
    return n;
}

static void attach(struct side *side)
{
    struct spsc_end *end = &side->end;
    if (!spsc_bind(end, memory, sizeof memory))
        fail("bind");
    end->registered = end->heavy = barriers && barrier_join();
    end->worth = barriers ? 0 : end->worth;
    if (!(side->producer ? spsc_producer_attach(end) : spsc_consumer_attach(end)))
        fail("attach");
}

static void *produce(void *arg)
{
    struct side side = {.producer = true, .wait_fd = space_fd, .state = 1};
    attach(&side);
    if (!spsc_recall_loans(&side.end, &loans))
        fail("loans");
    for (uint64_t number = 0; number < count;) {
        if (side.end.records)
            put_record(&side, number++);
        else
            number += put_slots(&side, number);
    }
    return NULL;
}

static uint32_t get_records(struct side *side, uint64_t number, uint32_t ready)
{
    uint8_t message[LONGEST];
    struct spsc_found found;
    uint32_t units = 0, n = 0, most = 1 + next(&side->state) % 4;
    while (units < ready && n < most) {
        if (!spsc_record_find(&side->end, side->end.index + units, ready - units, &found))
            fail("no record");
        if (found.length != length_of(number + n, true))
            fail("length");
        memcpy(message, found.bytes, found.length);
        check(message, (uint32_t)found.length, number + n++);
        units += found.units;
    }
    if (spsc_release(&side->end, units))
        tell(space_fd);
    return n;
}

static uint32_t get_slots(struct side *side, uint64_t number, uint32_t ready)
{
    uint8_t messages[64 * 16];
    uint32_t most = 1 + next(&side->state) % 16, n = ready < most ? ready : most;
    spsc_copy(&side->end, side->end.index, messages, n);
    if (spsc_release(&side->end, n))
        tell(space_fd);
    for (uint32_t i = 0; i < n; i++)
        check(messages + 64 * i, 64, number + i);
    return n;
}

static void consume(void)
{
    struct side side = {.producer = false, .wait_fd = data_fd, .state = 2};
    attach(&side);
    for (uint64_t number = 0; number < count;) {
        wait_for(&side, 1);
        uint32_t ready = (uint32_t)spsc_ready(&side.end, 1);
        number += side.end.records ? get_records(&side, number, ready)
                                   : get_slots(&side, number, ready);
    }
    if (spsc_ready(&side.end, 1) != 0)
        fail("more came than was put");
}

int main(int argc, char **argv)
{
    if (argc != 5)
        fail("usage: spsc_stress KIND START COUNT SLEEP");
    struct spsc_header *header = (struct spsc_header *)memory;
    int kind = atoi(argv[1]);
    bool records = kind != 0;
    header->mode = records ? SPSC_RECORDS : SPSC_FIXED;
    header->unit_size = records ? 8 : 64;
    header->units = BYTES / header->unit_size;
    header->start = (uint32_t)strtoul(argv[2], NULL, 10);
    header->data_offset = sizeof *header;
    header->data_size = BYTES;
    header->pool_offset = sizeof *header + BYTES;
    header->pool_size = kind == 2 ? POOL : 0;
    header->inline_max = INLINE;
    count = strtoull(argv[3], NULL, 10);
    sleeps = atoi(argv[4]) > 0;
    barriers = atoi(argv[4]) > 1;
    data_fd = eventfd(0, EFD_NONBLOCK);
    space_fd = eventfd(0, EFD_NONBLOCK);
    spsc_init(header);
    pthread_t producer;
    pthread_create(&producer, NULL, produce, NULL);
    consume();
    pthread_join(producer, NULL);
    printf("passed: %llu messages\n", (unsigned long long)count);
    return 0;
}
