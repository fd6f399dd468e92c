/* An input's bytes as a stream of choices: what a fuzzer mutates becomes numbers within bounds.
 *
 * Knows: bytes.   Must not know: what is chosen.
 */
#ifndef FUZZ_CHOICES_H
#define FUZZ_CHOICES_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *next, *end;
} choices;

/* The next byte; 0 where there is none. */
static inline unsigned take_byte(choices *c) { return c->next < c->end ? *c->next++ : 0; }

static inline unsigned take_short(choices *c) {
    const unsigned low = take_byte(c);
    return low | take_byte(c) << 8;
}

/* One of 0 ... count - 1. */
static inline int take_choice(choices *c, int count) {
    return (int)(take_byte(c) % (unsigned)count);
}

static inline int take_flag(choices *c) { return (int)(take_byte(c) & 1); }

static inline uint64_t take_bits(choices *c, int bytes) {
    uint64_t bits = 0;
    for (int k = 0; k < bytes; ++k)
        bits |= (uint64_t)take_byte(c) << 8 * k;
    return bits;
}

static inline int has_choices(const choices *c) { return c->next < c->end; }

/* Chance that an input names by its seed. */
static inline uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

#endif
