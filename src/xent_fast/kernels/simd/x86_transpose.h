/* Squares of rows and columns turned over in AVX registers, for every x86 vocabulary.  A template over REAL_BITS.
 *
 * Knows: shuffles.  Must not know: what the numbers are.
 */
#undef TRANSPOSE_WIDTH
#define TRANSPOSE_WIDTH (256 / REAL_BITS)

#if REAL_BITS == 32
KERNEL_INLINE void NAME(transpose_square)(__m256 r[8]) {
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
#define SQUARE_ROW __m256
#define SQUARE_INTRINSIC(operation) _mm256_##operation##_ps
#else
KERNEL_INLINE void NAME(transpose_square)(__m256d r[4]) {
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
#define SQUARE_ROW __m256d
#define SQUARE_INTRINSIC(operation) _mm256_##operation##_pd
#endif

KERNEL_INLINE void v_load_transposed(const char *source, ptrdiff_t row_stride, REAL (*columns)[LANES]) {
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH) {
        SQUARE_ROW square[TRANSPOSE_WIDTH];
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            square[k] = SQUARE_INTRINSIC(loadu)((const REAL *)(const void *)(source + (first + k) * row_stride));
        NAME(transpose_square)(square);
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            SQUARE_INTRINSIC(store)(columns[k] + first, square[k]);
    }
}

KERNEL_INLINE void v_store_transposed(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride) {
    for (int first = 0; first < LANES; first += TRANSPOSE_WIDTH) {
        SQUARE_ROW square[TRANSPOSE_WIDTH];
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            square[k] = SQUARE_INTRINSIC(load)(columns[k] + first);
        NAME(transpose_square)(square);
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            SQUARE_INTRINSIC(storeu)((REAL *)(void *)(destination + (first + k) * row_stride), square[k]);
    }
}
#undef SQUARE_ROW
#undef SQUARE_INTRINSIC
