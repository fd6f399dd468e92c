/* Squares of rows and columns turned over in registers, for every x86 vocabulary.  A template over
 * REAL_BITS.
 *
 * Knows: shuffles.  Must not know: what the numbers are.
 */
#define has_half_row NAME(has_half_row)
#define high_half_row NAME(high_half_row)
#define join_halves NAME(join_halves)
#define load_first_of_half NAME(load_first_of_half)
#define load_half_row NAME(load_half_row)
#define load_halves NAME(load_halves)
#define load_pairs NAME(load_pairs)
#define load_squares NAME(load_squares)
#define low_half_row NAME(low_half_row)
#define store_first_of_half NAME(store_first_of_half)
#define store_half_row NAME(store_half_row)
#define store_halves NAME(store_halves)
#define store_pairs NAME(store_pairs)
#define store_squares NAME(store_squares)
#define swap_quarters NAME(swap_quarters)
#define transpose_halves NAME(transpose_halves)
#define transpose_quarters NAME(transpose_quarters)
#define transpose_square NAME(transpose_square)
#define transpose_wide NAME(transpose_wide)

#undef TRANSPOSE_WIDTH
#define TRANSPOSE_WIDTH (256 / REAL_BITS)
#define HAS_PAIRS 1
#define HALF_WIDTH (TRANSPOSE_WIDTH / 2)

#if REAL_BITS == 32
KERNEL_INLINE void transpose_square(__m256 r[8]) {
    __m256 pairs[8], fours[8];
    for (int k = 0; k < 4; ++k) {
        pairs[2 * k] = _mm256_unpacklo_ps(r[2 * k], r[2 * k + 1]);
        pairs[2 * k + 1] = _mm256_unpackhi_ps(r[2 * k], r[2 * k + 1]);
    }
    for (int k = 0; k < 8; k += 4) {
        fours[k] = _mm256_shuffle_ps(pairs[k], pairs[k + 2], 0x44);
        fours[k + 1] = _mm256_shuffle_ps(pairs[k], pairs[k + 2], 0xee);
        fours[k + 2] = _mm256_shuffle_ps(pairs[k + 1], pairs[k + 3], 0x44);
        fours[k + 3] = _mm256_shuffle_ps(pairs[k + 1], pairs[k + 3], 0xee);
    }
    for (int k = 0; k < 4; ++k) {
        r[k] = _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x20);
        r[k + 4] = _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x31);
    }
}

/* Both ways: register k holds the first four numbers of row k and of row k + 4, then column k of
 * eight rows. */
KERNEL_INLINE void transpose_halves(__m256 r[4]) {
    const __m256 low[2] = {_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpacklo_ps(r[2], r[3])};
    const __m256 high[2] = {_mm256_unpackhi_ps(r[0], r[1]), _mm256_unpackhi_ps(r[2], r[3])};
    r[0] = _mm256_shuffle_ps(low[0], low[1], 0x44);
    r[1] = _mm256_shuffle_ps(low[0], low[1], 0xee);
    r[2] = _mm256_shuffle_ps(high[0], high[1], 0x44);
    r[3] = _mm256_shuffle_ps(high[0], high[1], 0xee);
}

KERNEL_INLINE __m128 load_first_of_half(const REAL *source, int count) {
    const __m128i lanes = _mm_cmpgt_epi32(_mm_set1_epi32(count), _mm_setr_epi32(0, 1, 2, 3));
    return _mm_maskload_ps(source, lanes);
}

KERNEL_INLINE void store_first_of_half(REAL *destination, int count, __m128 a) {
    const __m128i lanes = _mm_cmpgt_epi32(_mm_set1_epi32(count), _mm_setr_epi32(0, 1, 2, 3));
    _mm_maskstore_ps(destination, lanes, a);
}
KERNEL_INLINE __m256 join_halves(__m128 low, __m128 high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}
KERNEL_INLINE __m128 low_half_row(__m256 a) { return _mm256_castps256_ps128(a); }
KERNEL_INLINE __m128 high_half_row(__m256 a) { return _mm256_extractf128_ps(a, 1); }
#define SQUARE_ROW __m256
#define HALF_ROW __m128
#define SQUARE_INTRINSIC(operation) _mm256_##operation##_ps
#define HALF_INTRINSIC(operation) _mm_##operation##_ps
#else
KERNEL_INLINE void transpose_square(__m256d r[4]) {
    __m256d low[2], high[2];
    for (int k = 0; k < 2; ++k) {
        low[k] = _mm256_unpacklo_pd(r[2 * k], r[2 * k + 1]);
        high[k] = _mm256_unpackhi_pd(r[2 * k], r[2 * k + 1]);
    }
    r[0] = _mm256_permute2f128_pd(low[0], low[1], 0x20);
    r[1] = _mm256_permute2f128_pd(high[0], high[1], 0x20);
    r[2] = _mm256_permute2f128_pd(low[0], low[1], 0x31);
    r[3] = _mm256_permute2f128_pd(high[0], high[1], 0x31);
}

/* Both ways: register k holds the first two numbers of row k and of row k + 2, then column k of
 * four rows. */
KERNEL_INLINE void transpose_halves(__m256d r[2]) {
    const __m256d low = _mm256_unpacklo_pd(r[0], r[1]);
    r[1] = _mm256_unpackhi_pd(r[0], r[1]);
    r[0] = low;
}

KERNEL_INLINE __m128d load_first_of_half(const REAL *source, int count) {
    return count == 1 ? _mm_load_sd(source) : _mm_loadu_pd(source);
}

KERNEL_INLINE void store_first_of_half(REAL *destination, int count, __m128d a) {
    if (count == 1)
        _mm_store_sd(destination, a);
    else
        _mm_storeu_pd(destination, a);
}
KERNEL_INLINE __m256d join_halves(__m128d low, __m128d high) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(low), high, 1);
}
KERNEL_INLINE __m128d low_half_row(__m256d a) { return _mm256_castpd256_pd128(a); }
KERNEL_INLINE __m128d high_half_row(__m256d a) { return _mm256_extractf128_pd(a, 1); }
#define SQUARE_ROW __m256d
#define HALF_ROW __m128d
#define SQUARE_INTRINSIC(operation) _mm256_##operation##_pd
#define HALF_INTRINSIC(operation) _mm_##operation##_pd
#endif

#if HAS_WIDE_SQUARES
/* Halves of a wide register hold two squares, whose rows are TRANSPOSE_WIDTH apart.  Each operation
 * works within quarters, but for the last, which brings quarters of the same half together. */
#if REAL_BITS == 32
#define WIDE_ROW __m512
#define WIDE_INTRINSIC(operation) _mm512_##operation##_ps
#define WIDE_AS_DOUBLES(a) _mm512_castps_pd(a)
#define WIDE_FROM_DOUBLES(a) _mm512_castpd_ps(a)
#define JOIN_SQUARE_ROWS(low, high) _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)
#define HIGH_SQUARE_ROW(a) _mm512_extractf32x8_ps(a, 1)
#define LOW_SQUARE_ROW(a) _mm512_castps512_ps256(a)
#else
#define WIDE_ROW __m512d
#define WIDE_INTRINSIC(operation) _mm512_##operation##_pd
#define WIDE_AS_DOUBLES(a) (a)
#define WIDE_FROM_DOUBLES(a) (a)
#define JOIN_SQUARE_ROWS(low, high) _mm512_insertf64x4(_mm512_castpd256_pd512(low), high, 1)
#define HIGH_SQUARE_ROW(a) _mm512_extractf64x4_pd(a, 1)
#define LOW_SQUARE_ROW(a) _mm512_castpd512_pd256(a)
#endif

KERNEL_INLINE void swap_quarters(WIDE_ROW *low, WIDE_ROW *high) {
    const __m512i firsts = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i lasts = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    const __m512d a = WIDE_AS_DOUBLES(*low), b = WIDE_AS_DOUBLES(*high);
    *low = WIDE_FROM_DOUBLES(_mm512_permutex2var_pd(a, firsts, b));
    *high = WIDE_FROM_DOUBLES(_mm512_permutex2var_pd(a, lasts, b));
}

/* Within quarters: of four (two) registers, quarter by quarter. */
KERNEL_INLINE void transpose_quarters(WIDE_ROW r[HALF_WIDTH]) {
#if REAL_BITS == 32
    const __m512 low[2] = {_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpacklo_ps(r[2], r[3])};
    const __m512 high[2] = {_mm512_unpackhi_ps(r[0], r[1]), _mm512_unpackhi_ps(r[2], r[3])};
    r[0] = _mm512_shuffle_ps(low[0], low[1], 0x44);
    r[1] = _mm512_shuffle_ps(low[0], low[1], 0xee);
    r[2] = _mm512_shuffle_ps(high[0], high[1], 0x44);
    r[3] = _mm512_shuffle_ps(high[0], high[1], 0xee);
#else
    const __m512d low = _mm512_unpacklo_pd(r[0], r[1]);
    r[1] = _mm512_unpackhi_pd(r[0], r[1]);
    r[0] = low;
#endif
}

KERNEL_INLINE void transpose_wide(WIDE_ROW r[TRANSPOSE_WIDTH]) {
    transpose_quarters(r);
    transpose_quarters(r + HALF_WIDTH);
    for (int k = 0; k < HALF_WIDTH; ++k)
        swap_quarters(&r[k], &r[k + HALF_WIDTH]);
}

KERNEL_INLINE void load_squares(const char *source, ptrdiff_t row_stride, REAL (*columns)[LANES]) {
    WIDE_ROW square[TRANSPOSE_WIDTH];
    for (int k = 0; k < TRANSPOSE_WIDTH; ++k) {
        const REAL *low = (const REAL *)(const void *)(source + k * row_stride);
        const REAL *high =
            (const REAL *)(const void *)(source + (k + TRANSPOSE_WIDTH) * row_stride);
        square[k] = JOIN_SQUARE_ROWS(SQUARE_INTRINSIC(loadu)(low), SQUARE_INTRINSIC(loadu)(high));
    }
    transpose_wide(square);
    for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
        WIDE_INTRINSIC(store)(columns[k], square[k]);
}

KERNEL_INLINE void store_squares(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride) {
    WIDE_ROW square[TRANSPOSE_WIDTH];
    for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
        square[k] = WIDE_INTRINSIC(load)(columns[k]);
    transpose_wide(square);
    for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
        SQUARE_INTRINSIC(storeu)((REAL *)(void *)(destination + k * row_stride),
                                 LOW_SQUARE_ROW(square[k]));
    for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
        SQUARE_INTRINSIC(storeu)
    ((REAL *)(void *)(destination + (k + TRANSPOSE_WIDTH) * row_stride),
     HIGH_SQUARE_ROW(square[k]));
}
#else
KERNEL_INLINE void load_squares(const char *source, ptrdiff_t row_stride, REAL (*columns)[LANES]) {
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH) {
        SQUARE_ROW square[TRANSPOSE_WIDTH];
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            square[k] = SQUARE_INTRINSIC(loadu)(
                (const REAL *)(const void *)(source + (first + k) * row_stride));
        transpose_square(square);
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            SQUARE_INTRINSIC(store)(columns[k] + first, square[k]);
    }
}

KERNEL_INLINE void store_squares(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride) {
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH) {
        SQUARE_ROW square[TRANSPOSE_WIDTH];
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            square[k] = SQUARE_INTRINSIC(load)(columns[k] + first);
        transpose_square(square);
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            SQUARE_INTRINSIC(storeu)((REAL *)(void *)(destination + (first + k) * row_stride),
                                     square[k]);
    }
}
#endif

/* Whether half a square's width from row `row` on lies within a vector of rows of `count`
 * numbers. */
KERNEL_INLINE int has_half_row(ptrdiff_t row_stride, int row, int count) {
    const int follow_one_another = row_stride == count * (ptrdiff_t)sizeof(REAL);
    const int rows_left = LANES - row;
    return count == HALF_WIDTH ||
           (follow_one_another && (rows_left >= HALF_WIDTH || rows_left * count >= HALF_WIDTH));
}

/* Row `row` of a vector of rows that have `count` numbers: half a square's width of it, beyond the
 * count only what belongs to the next of these rows. */
KERNEL_INLINE HALF_ROW load_half_row(const char *source, ptrdiff_t row_stride, int row, int count) {
    const REAL *values = (const REAL *)(const void *)(source + row * row_stride);
    if (has_half_row(row_stride, row, count))
        return HALF_INTRINSIC(loadu)(values);
    return load_first_of_half(values, count);
}

/* The same for storing: where rows follow one another the next rows, stored after this one, mend
 * what this one spoils. */
KERNEL_INLINE void store_half_row(char *destination, ptrdiff_t row_stride, int row, int count,
                                  HALF_ROW a) {
    REAL *values = (REAL *)(void *)(destination + row * row_stride);
    if (has_half_row(row_stride, row, count))
        HALF_INTRINSIC(storeu)(values, a);
    else
        store_first_of_half(values, count, a);
}

#if HAS_WIDE_SQUARES
/* Quarter q of register k holds row k + HALF_WIDTH q. */
KERNEL_INLINE void load_halves(const char *source, ptrdiff_t row_stride, int count,
                               REAL (*columns)[LANES]) {
    WIDE_ROW rows[HALF_WIDTH];
    for (int k = 0; k < HALF_WIDTH; ++k) {
        HALF_ROW quarters[4];
        for (int q = 0; q < 4; ++q)
            quarters[q] = load_half_row(source, row_stride, k + HALF_WIDTH * q, count);
        rows[k] = JOIN_SQUARE_ROWS(join_halves(quarters[0], quarters[1]),
                                   join_halves(quarters[2], quarters[3]));
    }
    transpose_quarters(rows);
    for (int k = 0; k < HALF_WIDTH; ++k)
        WIDE_INTRINSIC(store)(columns[k], rows[k]);
}

KERNEL_INLINE void store_halves(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride,
                                int count) {
    WIDE_ROW rows[HALF_WIDTH];
    for (int k = 0; k < HALF_WIDTH; ++k)
        rows[k] = WIDE_INTRINSIC(load)(columns[k]);
    transpose_quarters(rows);
    for (int row = 0; row < LANES; ++row) {
        const SQUARE_ROW both = row < LANES / 2 ? LOW_SQUARE_ROW(rows[row % HALF_WIDTH])
                                                : HIGH_SQUARE_ROW(rows[row % HALF_WIDTH]);
        store_half_row(destination, row_stride, row, count,
                       row % TRANSPOSE_WIDTH < HALF_WIDTH ? low_half_row(both)
                                                          : high_half_row(both));
    }
}
#undef WIDE_ROW
#undef WIDE_INTRINSIC
#undef WIDE_AS_DOUBLES
#undef WIDE_FROM_DOUBLES
#undef JOIN_SQUARE_ROWS
#undef HIGH_SQUARE_ROW
#undef LOW_SQUARE_ROW
#else
KERNEL_INLINE void load_halves(const char *source, ptrdiff_t row_stride, int count,
                               REAL (*columns)[LANES]) {
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH) {
        SQUARE_ROW halves[HALF_WIDTH];
        for (int k = 0; k < HALF_WIDTH; ++k) {
            const HALF_ROW low = load_half_row(source, row_stride, first + k, count);
            const HALF_ROW high = load_half_row(source, row_stride, first + k + HALF_WIDTH, count);
            halves[k] = join_halves(low, high);
        }
        transpose_halves(halves);
        for (int k = 0; k < HALF_WIDTH; ++k)
            SQUARE_INTRINSIC(store)(columns[k] + first, halves[k]);
    }
}

KERNEL_INLINE void store_halves(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride,
                                int count) {
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH) {
        SQUARE_ROW halves[HALF_WIDTH];
        for (int k = 0; k < HALF_WIDTH; ++k)
            halves[k] = SQUARE_INTRINSIC(load)(columns[k] + first);
        transpose_halves(halves);
        for (int row = 0; row < TRANSPOSE_WIDTH; ++row) {
            const SQUARE_ROW both = halves[row % HALF_WIDTH];
            store_half_row(destination, row_stride, first + row, count,
                           row < HALF_WIDTH ? low_half_row(both) : high_half_row(both));
        }
    }
}
#endif

/* Two classes of rows that follow one another, in registers: the first and the second number of
 * each pair. */
KERNEL_INLINE void load_pairs(const char *source, REAL (*columns)[LANES]) {
    const REAL *values = (const REAL *)(const void *)source;
#if HAS_WIDE_SQUARES
    const vec low = v_load(values), high = v_load(values + LANES);
#if REAL_BITS == 32
    const __m512i firsts =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i seconds =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
    const __m512i firsts = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    const __m512i seconds = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
#endif
    v_store(columns[0], INTRINSIC(permutex2var)(low, firsts, high));
    v_store(columns[1], INTRINSIC(permutex2var)(low, seconds, high));
#else
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH, values += 2 * TRANSPOSE_WIDTH) {
        const SQUARE_ROW low = SQUARE_INTRINSIC(loadu)(values),
                         high = SQUARE_INTRINSIC(loadu)(values + TRANSPOSE_WIDTH);
#if REAL_BITS == 32
        const __m256d firsts = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
        const __m256d seconds = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xdd));
        _mm256_store_ps(columns[0] + first, _mm256_castpd_ps(_mm256_permute4x64_pd(firsts, 0xd8)));
        _mm256_store_ps(columns[1] + first, _mm256_castpd_ps(_mm256_permute4x64_pd(seconds, 0xd8)));
#else
        _mm256_store_pd(columns[0] + first,
                        _mm256_permute4x64_pd(_mm256_unpacklo_pd(low, high), 0xd8));
        _mm256_store_pd(columns[1] + first,
                        _mm256_permute4x64_pd(_mm256_unpackhi_pd(low, high), 0xd8));
#endif
    }
#endif
}

KERNEL_INLINE void store_pairs(REAL (*columns)[LANES], char *destination) {
    REAL *values = (REAL *)(void *)destination;
#if HAS_WIDE_SQUARES
    const vec first = v_load(columns[0]), second = v_load(columns[1]);
#if REAL_BITS == 32
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
#endif
    v_store(values, INTRINSIC(permutex2var)(first, low, second));
    v_store(values + LANES, INTRINSIC(permutex2var)(first, high, second));
#else
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH, values += 2 * TRANSPOSE_WIDTH) {
        const SQUARE_ROW firsts = SQUARE_INTRINSIC(load)(columns[0] + first);
        const SQUARE_ROW seconds = SQUARE_INTRINSIC(load)(columns[1] + first);
        const SQUARE_ROW low = SQUARE_INTRINSIC(unpacklo)(firsts, seconds);
        const SQUARE_ROW high = SQUARE_INTRINSIC(unpackhi)(firsts, seconds);
        SQUARE_INTRINSIC(storeu)(values, SQUARE_INTRINSIC(permute2f128)(low, high, 0x20));
        SQUARE_INTRINSIC(storeu)(values + TRANSPOSE_WIDTH,
                                 SQUARE_INTRINSIC(permute2f128)(low, high, 0x31));
    }
#endif
}

KERNEL_INLINE void v_load_transposed(const char *source, ptrdiff_t row_stride, int count,
                                     REAL (*columns)[LANES]) {
    if (count == TRANSPOSE_WIDTH)
        load_squares(source, row_stride, columns);
    else if (count == 2 && row_stride == 2 * (ptrdiff_t)sizeof(REAL))
        load_pairs(source, columns);
    else if (count == HALF_WIDTH)
        load_halves(source, row_stride, HALF_WIDTH, columns);
    else
        load_halves(source, row_stride, count, columns);
}

KERNEL_INLINE void v_store_transposed(REAL (*columns)[LANES], char *destination,
                                      ptrdiff_t row_stride, int count) {
    if (count == TRANSPOSE_WIDTH)
        store_squares(columns, destination, row_stride);
    else if (count == 2 && row_stride == 2 * (ptrdiff_t)sizeof(REAL))
        store_pairs(columns, destination);
    else if (count == HALF_WIDTH)
        store_halves(columns, destination, row_stride, HALF_WIDTH);
    else
        store_halves(columns, destination, row_stride, count);
}
#undef SQUARE_ROW
#undef HALF_ROW
#undef SQUARE_INTRINSIC
#undef HALF_INTRINSIC
#undef HALF_WIDTH
#undef HAS_WIDE_SQUARES
