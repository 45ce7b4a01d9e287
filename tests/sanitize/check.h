/* What the plain C programs share: a failing check, chance, a bound on hanging. */
#ifndef SANITIZE_CHECK_H
#define SANITIZE_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { EXIT_WRONG = 1, HANG_S = 100 };

#define CHECK(condition, ...)                                                                \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            fprintf(stderr, "%s:%d: not %s: ", __FILE__, __LINE__, #condition);              \
            fprintf(stderr, __VA_ARGS__);                                                    \
            fputc('\n', stderr);                                                             \
            _exit(EXIT_WRONG);                                                               \
        }                                                                                    \
    } while (0)

static inline uint32_t chance(uint64_t *state, uint32_t below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)((*state >> 20) % below);
}

static inline uint32_t argument(int argc, char **argv, int which, uint32_t otherwise)
{
    return argc > which ? (uint32_t)strtoul(argv[which], NULL, 0) : otherwise;
}

#endif
