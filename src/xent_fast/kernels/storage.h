/* How numbers lie in memory: as they are computed with or, for float32, in 16 bits.  A template
 * over REAL_BITS.
 *
 * Knows: the storage types, each a pair of load and store.  Must not know: what the numbers are,
 * where they go.
 *
 * Widening is exact.  Rounding is to nearest, ties to even, subnormal numbers included; what is
 * beyond the largest number becomes infinite, and NaN stays NaN.  `storage` is a constant where it
 * matters.
 */
#ifndef XENT_FAST_STORAGE_H
#define XENT_FAST_STORAGE_H
/* Fewer than sixteen numbers. */
VECTOR_INLINE void copy_few(const uint16_t *source, int count, uint16_t *destination) {
    for (int some = 8; some > 0; some /= 2) {
        if (!(count & some))
            continue;
        for (int k = 0; k < some; ++k)
            destination[k] = source[k];
        source += some;
        destination += some;
    }
}

VECTOR_INLINE int16_t larger_of(int16_t a, int16_t b) { return a > b ? a : b; }
VECTOR_INLINE int16_t smaller_of(int16_t a, int16_t b) { return a < b ? a : b; }

/* The largest of `count` integers; four stretches side by side, which overlap. */
VECTOR_INLINE int16_t largest_integer(const int16_t *x, int64_t count) {
    int16_t a = x[0], b = a, c = a, d = a;
    if (count >= 192) {
        const int64_t length = (count / 4 + 16) / 16 * 16, last = count - length;
        for (int64_t k = 0; k < length; ++k) {
            a = larger_of(a, x[k]);
            b = larger_of(b, x[length + k]);
            c = larger_of(c, x[2 * length + k]);
            d = larger_of(d, x[last + k]);
        }
        return larger_of(larger_of(a, b), larger_of(c, d));
    }
    for (int64_t k = 0; k < count; ++k)
        a = larger_of(a, x[k]);
    return a;
}

VECTOR_INLINE int16_t smallest_integer(const int16_t *x, int64_t count) {
    int16_t a = x[0];
    for (int64_t k = 0; k < count; ++k)
        a = smaller_of(a, x[k]);
    return a;
}

/* The bits of the largest of `count` numbers of 16 bits, or those of a NaN where that takes a
 * closer look: as integers the positive ones are in order, those below 0 in the opposite one, and
 * NaN is the largest of either. */
VECTOR_INLINE uint16_t largest_of_16_bits(const void *numbers, int64_t count) {
    const int16_t largest = largest_integer((const int16_t *)numbers, count);
    return (uint16_t)(largest < 0 ? smallest_integer((const int16_t *)numbers, count) : largest);
}
#endif

/* each(name, storage, ...) for every storage type of the dtype */
#undef EACH_STORAGE
#if REAL_BITS == 32
#define EACH_STORAGE(each, ...)                                                               \
    each(as_computed, XENT_AS_COMPUTED, __VA_ARGS__) each(float16, XENT_FLOAT16, __VA_ARGS__) \
        each(bfloat16, XENT_BFLOAT16, __VA_ARGS__)

VECTOR_INLINE vec v_load_16_bits(const uint16_t *source, int storage) {
    return storage == XENT_FLOAT16 ? v_load_float16(source) : v_load_bfloat16(source);
}

/* One number; all lanes alike are written in one piece, which can be read without waiting. */
VECTOR_INLINE float widened(uint16_t number, int storage) {
    ALIGNED_64 uint16_t lanes[LANES];
    for (int lane = 0; lane < LANES; ++lane)
        lanes[lane] = number;
    return v_first(v_load_16_bits(lanes, storage));
}

VECTOR_INLINE void v_store_16_bits(uint16_t *destination, vec a, int storage) {
    if (storage == XENT_FLOAT16)
        v_store_float16(destination, a);
    else
        v_store_bfloat16(destination, a);
}

VECTOR_INLINE void v_store_two_of_16_bits(uint16_t *destination, vec a, vec b, int storage) {
    if (storage == XENT_BFLOAT16) {
        v_store_two_bfloat16(destination, a, b);
        return;
    }
    v_store_float16(destination, a);
    v_store_float16(destination + LANES, b);
}

/* A statement in which a storage of 16 bits is the constant `kept`. */
#define WITH_STORAGE(storage, statement)   \
    do {                                   \
        if ((storage) == XENT_FLOAT16) {   \
            enum { kept = XENT_FLOAT16 };  \
            statement;                     \
        } else {                           \
            enum { kept = XENT_BFLOAT16 }; \
            statement;                     \
        }                                  \
    } while (0)

#if HAS_PAIRS
/* The first and the second of two numbers in each lane, and back. */
VECTOR_INLINE void split_pairs(vec pairs, vec *first, vec *second, int storage) {
    if (storage == XENT_FLOAT16)
        v_split_float16(pairs, first, second);
    else
        v_split_bfloat16(pairs, first, second);
}

VECTOR_INLINE vec join_pairs(vec first, vec second, int storage) {
    return storage == XENT_FLOAT16 ? v_join_float16(first, second) : v_join_bfloat16(first, second);
}
#endif
#else
#define EACH_STORAGE(each, ...) each(as_computed, XENT_AS_COMPUTED, __VA_ARGS__)
#endif

VECTOR_INLINE int64_t stored_bytes(int storage) {
    return storage == XENT_AS_COMPUTED ? (int64_t)sizeof(REAL) : (int64_t)sizeof(uint16_t);
}

/* The place of number `at`. */
VECTOR_INLINE const char *stored_at(const char *numbers, int64_t at, int storage) {
    return numbers + at * stored_bytes(storage);
}

/* A vector from number `at` on. */
VECTOR_INLINE vec load_stored(const char *numbers, int64_t at, int storage) {
    const void *place = stored_at(numbers, at, storage);
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED)
        return v_load_16_bits((const uint16_t *)place, storage);
#endif
    return v_load((const REAL *)place);
}

VECTOR_INLINE void store_stored(char *numbers, int64_t at, vec a, int storage) {
    void *place = numbers + at * stored_bytes(storage);
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED) {
        v_store_16_bits((uint16_t *)place, a, storage);
        return;
    }
#endif
    v_store((REAL *)place, a);
}

/* Two vectors, whose lanes hold no NaN. */
VECTOR_INLINE void store_two_stored(char *numbers, int64_t at, vec a, vec b, int storage) {
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED) {
        void *place = numbers + at * stored_bytes(storage);
        v_store_two_of_16_bits((uint16_t *)place, a, b, storage);
        return;
    }
#endif
    store_stored(numbers, at, a, storage);
    store_stored(numbers, at + LANES, b, storage);
}

/* The first `count` lanes of it, 1 to LANES; `fill` in the others. */
VECTOR_INLINE vec load_first_stored(const char *numbers, int64_t at, int count, REAL fill,
                                    int storage) {
    const void *place = stored_at(numbers, at, storage);
    XENT_ASSERT(count >= 1);
    if (count >= LANES)
        return load_stored(numbers, at, storage);
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED) {
        ALIGNED_64 uint16_t few[LANES] = {0};
        copy_few((const uint16_t *)place, count, few);
        const vec_mask is_there = v_greater(v_splat((REAL)count), v_lane_numbers());
        return v_select(is_there, v_load_16_bits(few, storage), v_splat(fill));
    }
#endif
    return v_load_first((const REAL *)place, count, fill);
}

VECTOR_INLINE void store_first_stored(char *numbers, int64_t at, int count, vec a, int storage) {
    void *place = numbers + at * stored_bytes(storage);
    XENT_ASSERT(count >= 1);
    if (count >= LANES) {
        store_stored(numbers, at, a, storage);
        return;
    }
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED) {
        ALIGNED_64 uint16_t few[LANES];
        v_store_16_bits(few, a, storage);
        copy_few(few, count, (uint16_t *)place);
        return;
    }
#endif
    v_store_first((REAL *)place, count, a);
}

/* The same for one number. */
VECTOR_INLINE REAL load_number(const char *numbers, int64_t at, int storage) {
    const void *place = stored_at(numbers, at, storage);
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED)
        return widened(*(const uint16_t *)place, storage);
#endif
    return *(const REAL *)place;
}

/* That of a row and class of a matrix. */
VECTOR_INLINE REAL number_at(const xent_matrix *matrix, int64_t row, int64_t k) {
    const char *class_0 = xent_row(matrix, row);
    return matrix->class_stride
               ? load_number(class_0 + k * matrix->class_stride, 0, (int)matrix->storage)
               : load_number(class_0, k, (int)matrix->storage);
}

VECTOR_INLINE void store_number(char *numbers, int64_t at, REAL number, int storage) {
    store_first_stored(numbers, at, 1, v_splat(number), storage);
}

VECTOR_INLINE void widen(const char *numbers, int64_t count, REAL *destination, int storage) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        v_store(destination + k, load_stored(numbers, k, storage));
    if (k < count)
        v_store_first(destination + k, (int)(count - k),
                      load_first_stored(numbers, k, (int)(count - k), 0, storage));
}

VECTOR_INLINE void narrow(const REAL *source, int64_t count, char *numbers, int storage) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        store_stored(numbers, k, v_load(source + k), storage);
    if (k < count)
        store_first_stored(numbers, k, (int)(count - k),
                           v_load_first(source + k, (int)(count - k), 0), storage);
}

#if REAL_BITS == 32
/* Numbers that are widened between requests for those AHEAD of them, which come from memory while
 * others are computed. */
enum { AT_ONCE = 512, AHEAD = BLOCK };

/* `lines` lines of `count` numbers side by side; those of a matrix without gaps are one. */
VECTOR_INLINE void load_lines(const char *stored, ptrdiff_t stored_step, int64_t lines,
                              int64_t count, float *numbers, int64_t step, int storage) {
    XENT_ASSERT(lines >= 0 && count >= 0 && xent_is_aligned(stored, sizeof(uint16_t)));
    if (step == count && stored_step == (ptrdiff_t)(count * (int64_t)sizeof(uint16_t))) {
        count *= lines;
        lines = 1;
    }
    for (int64_t line = 0; line < lines; ++line) {
        const char *source = stored + line * stored_step;
        for (int64_t i = 0; i < count; i += AT_ONCE) {
            const int64_t some = count - i < AT_ONCE ? count - i : AT_ONCE;
            for (int64_t k = 0; k < some; k += 64 / (int64_t)sizeof(uint16_t))
                PREFETCH(source + (i + k + AHEAD) * (int64_t)sizeof(uint16_t));
            widen(stored_at(source, i, storage), some, numbers + line * step + i, storage);
        }
    }
}

VECTOR_INLINE void store_lines(const float *numbers, int64_t step, int64_t lines, int64_t count,
                               char *stored, ptrdiff_t stored_step, int storage) {
    XENT_ASSERT(lines >= 0 && count >= 0 && xent_is_aligned(stored, sizeof(uint16_t)));
    if (step == count && stored_step == (ptrdiff_t)(count * (int64_t)sizeof(uint16_t))) {
        count *= lines;
        lines = 1;
    }
    for (int64_t line = 0; line < lines; ++line)
        narrow(numbers + line * step, count, stored + line * stored_step, storage);
}

#define STORAGE_KERNELS(type, storage)                                                         \
    static void load_##type(const char *stored, ptrdiff_t stored_step, int64_t lines,          \
                            int64_t count, float *numbers, int64_t step) {                     \
        load_lines(stored, stored_step, lines, count, numbers, step, storage);                 \
    }                                                                                          \
    static void store_##type(const float *numbers, int64_t step, int64_t lines, int64_t count, \
                             char *stored, ptrdiff_t stored_step) {                            \
        store_lines(numbers, step, lines, count, stored, stored_step, storage);                \
    }

STORAGE_KERNELS(float16, XENT_FLOAT16)
STORAGE_KERNELS(bfloat16, XENT_BFLOAT16)

#define STORAGE_KERNELS_TABLE                                                          \
    {                                                                                  \
        {NULL, NULL}, {load_float16, store_float16}, { load_bfloat16, store_bfloat16 } \
    }
#endif
