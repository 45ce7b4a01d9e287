/* Messages that can be checked, and numbers to play with. */
#ifndef MESSAGE_H
#define MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { RIG_SLOT_SIZE = 48 };

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

static inline uint64_t rig_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
