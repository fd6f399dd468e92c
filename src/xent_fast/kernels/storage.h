/* Numbers that lie in memory in 16 bits: widened to float32, and rounded from it.  Included once, with float32's vocabulary.
 *
 * Knows: the formats' bits.  Must not know: what the numbers are, where they go.
 *
 * Widening is exact.  Rounding is to nearest, ties to even, subnormal numbers included; what is beyond the largest number becomes
 * infinite, and NaN stays NaN.  float16 has instructions of its own and so operations of the vocabulary; bfloat16 is the upper half
 * of a float32, which compilers turn into vectors by themselves.
 */
#include <string.h>

KERNEL_INLINE void widen_float16(const uint16_t *stored, int64_t count, float *numbers) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        v_store(numbers + i, v_load_float16(stored + i));
    if (i < count) {
        ALIGNED_64 uint16_t last[LANES] = {0};
        ALIGNED_64 float widened[LANES];
        memcpy(last, stored + i, (size_t)(count - i) * sizeof(uint16_t));
        v_store(widened, v_load_float16(last));
        memcpy(numbers + i, widened, (size_t)(count - i) * sizeof(float));
    }
}

KERNEL_INLINE void round_float16(const float *numbers, int64_t count, uint16_t *stored) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        v_store_float16(stored + i, v_load(numbers + i));
    if (i < count) {
        ALIGNED_64 uint16_t last[LANES];
        v_store_float16(last, v_load_first(numbers + i, (int)(count - i), 0));
        memcpy(stored + i, last, (size_t)(count - i) * sizeof(uint16_t));
    }
}

KERNEL_INLINE void widen_bfloat16(const uint16_t *stored, int64_t count, float *numbers) {
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t bits = (uint32_t)stored[i] << 16;
        memcpy(numbers + i, &bits, sizeof bits);
    }
}

/* Half a unit, less one bit where the last place is even, carries where the rest rounds up; all ones are a NaN. */
KERNEL_INLINE void round_bfloat16(const float *numbers, int64_t count, uint16_t *stored) {
    for (int64_t i = 0; i < count; ++i) {
        const float number = numbers[i];
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        bits += 0x7fff + (bits >> 16 & 1);
        bits |= (uint32_t)0 - (uint32_t)(number != number);
        stored[i] = (uint16_t)(bits >> 16);
    }
}

/* Numbers that are widened between requests for those AHEAD of them, which come from memory while others are computed. */
enum { AT_ONCE = 512, AHEAD = BLOCK };

/* `lines` lines of `count` numbers side by side; those of a matrix without gaps are one. */
#define STORAGE_KERNELS(type)                                                                                        \
    static void load_##type(const char *stored, ptrdiff_t stored_step, int64_t lines, int64_t count, float *numbers, \
                            int64_t step) {                                                                          \
        if (step == count && stored_step == (ptrdiff_t)(count * (int64_t)sizeof(uint16_t))) {                        \
            count *= lines;                                                                                          \
            lines = 1;                                                                                               \
        }                                                                                                            \
        for (int64_t line = 0; line < lines; ++line) {                                                               \
            const uint16_t *source = (const uint16_t *)(const void *)(stored + line * stored_step);                  \
            for (int64_t i = 0; i < count; i += AT_ONCE) {                                                           \
                const int64_t some = count - i < AT_ONCE ? count - i : AT_ONCE;                                      \
                for (int64_t k = 0; k < some; k += 64 / (int64_t)sizeof(uint16_t))                                   \
                    PREFETCH(source + i + k + AHEAD);                                                                \
                widen_##type(source + i, some, numbers + line * step + i);                                           \
            }                                                                                                        \
        }                                                                                                            \
    }                                                                                                                \
    static void store_##type(const float *numbers, int64_t step, int64_t lines, int64_t count, char *stored,         \
                             ptrdiff_t stored_step) {                                                                \
        if (step == count && stored_step == (ptrdiff_t)(count * (int64_t)sizeof(uint16_t))) {                        \
            count *= lines;                                                                                          \
            lines = 1;                                                                                               \
        }                                                                                                            \
        for (int64_t line = 0; line < lines; ++line)                                                                 \
            round_##type(numbers + line * step, count, (uint16_t *)(void *)(stored + line * stored_step));           \
    }

STORAGE_KERNELS(float16)
STORAGE_KERNELS(bfloat16)

#define STORAGE_KERNELS_TABLE                                                          \
    {                                                                                  \
        {NULL, NULL}, {load_float16, store_float16}, { load_bfloat16, store_bfloat16 } \
    }
