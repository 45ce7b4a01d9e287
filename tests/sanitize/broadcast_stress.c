/* One producer and two consumers in threads: whole messages, in order, all counted.
 *
 *   broadcast_stress POLICY START COUNT
 *
 * Exit status 0, or 1 with a line that says what went wrong.  See
 * test_spsc_sanitize.py for the sanitizers and the mutants.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "broadcast.h"

enum { SLOTS = 4, SIZE = 520, DATA = 2048, BYTES = DATA + SLOTS * (SIZE + 16) };

static _Alignas(4096) uint8_t memory[BYTES];
static uint64_t first, count;
static atomic_uint joined;

static void fail(const char *what)
{
    printf("failed: %s\n", what);
    fflush(stdout);
    _exit(1);
}

static uint32_t length_of(uint64_t number)
{
    return 8 + (uint32_t)(number * 37 % (SIZE - 8));
}

static void fill(uint8_t *bytes, uint64_t number)
{
    memset(bytes, (int)(number % 251), length_of(number));
    memcpy(bytes, &number, sizeof number);
}

static void *produce(void *arg)
{
    struct broadcast_producer producer = {.limit = 0};
    uint8_t message[SIZE];
    if (!broadcast_bind(&producer.ring, memory, sizeof memory))
        fail("bind");
    producer.prod = first;
    while (atomic_load(&joined) < 2)
        sched_yield();
    while (producer.prod < first + count) {
        fill(message, producer.prod);
        while (!broadcast_room(&producer, producer.prod))
            sched_yield();
        broadcast_write(&producer, producer.prod, message, length_of(producer.prod));
        broadcast_publish(&producer, 1);
    }
    return NULL;
}

/* One message, or what was lost before it; how many numbers that accounts for. */
static void consume_one(struct broadcast_consumer *consumer, unsigned *times)
{
    uint8_t message[SIZE], expected[SIZE];
    uint64_t number = consumer->cons;
    int64_t length = broadcast_length(consumer, number);
    if (length == -2)
        fail("broken");
    if (length == -1 || !broadcast_copy(consumer, number, message, (uint32_t)length)) {
        broadcast_lose(consumer, broadcast_resume(consumer, (*times)++) - number);
        return;
    }
    fill(expected, number);
    if (length != length_of(number) || memcmp(message, expected, (size_t)length) != 0)
        fail("torn, or another message");
    *times = 0;
    broadcast_pass(consumer, number + 1);
}

static void *consume(void *index)
{
    struct broadcast_consumer consumer = {.index = (uint32_t)(uintptr_t)index};
    unsigned times = 0;
    if (!broadcast_bind(&consumer.ring, memory, sizeof memory))
        fail("bind");
    broadcast_join(&consumer);
    atomic_fetch_add(&joined, 1);
    while (consumer.cons < first + count) {
        if (broadcast_published(&consumer.ring) == consumer.cons)
            sched_yield();
        else
            consume_one(&consumer, &times);
    }
    if (consumer.cons != first + count)
        fail("went too far");
    if (consumer.lost != 0 && consumer.ring.policy == BROADCAST_BLOCK)
        fail("lost though the producer waits");
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        fail("usage: broadcast_stress POLICY START COUNT");
    struct broadcast_header *header = (struct broadcast_header *)memory;
    header->slots = SLOTS;
    header->slot_size = SIZE;
    header->consumers = 2;
    header->policy = (uint32_t)atoi(argv[1]);
    header->data_offset = DATA;
    first = strtoull(argv[2], NULL, 10);
    count = strtoull(argv[3], NULL, 10);
    atomic_store(&header->prod, first);
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 2; i++) {
        atomic_store(&header->entries[i].cons, BROADCAST_ABSENT);
        pthread_create(&threads[i], NULL, consume, (void *)i);
    }
    pthread_create(&threads[2], NULL, produce, NULL);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("passed: %llu messages\n", (unsigned long long)count);
    return 0;
}
