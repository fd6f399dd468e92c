/* Operations made of v_load and v_store, for vocabularies without masked loads and shuffles.  A
 * template over REAL_BITS.
 *
 * Knows: the C language.  Must not know: what the numbers are.
 */
VECTOR_INLINE vec v_load_first(const REAL *source, int count, REAL fill) {
    ALIGNED_64 REAL lanes[LANES];
    for (int lane = 0; lane < LANES; ++lane)
        lanes[lane] = lane < count ? source[lane] : fill;
    return v_load(lanes);
}

VECTOR_INLINE void v_store_first(REAL *destination, int count, vec a) {
    ALIGNED_64 REAL lanes[LANES];
    v_store(lanes, a);
    for (int lane = 0; lane < count; ++lane)
        destination[lane] = lanes[lane];
}

VECTOR_INLINE vec v_lane_numbers(void) {
    static const REAL numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v_load(numbers);
}

VECTOR_INLINE vec v_from_integers(const int64_t *source) {
    ALIGNED_64 REAL lanes[LANES];
    for (int lane = 0; lane < LANES; ++lane)
        lanes[lane] = (REAL)(int32_t)source[lane];
    return v_load(lanes);
}

VECTOR_INLINE REAL v_first(vec a) {
    ALIGNED_64 REAL lanes[LANES];
    v_store(lanes, a);
    return lanes[0];
}

VECTOR_INLINE REAL v_largest(vec a) {
    ALIGNED_64 REAL lanes[LANES];
    v_store(lanes, a);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane)
            lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
    return lanes[0];
}

#undef TRANSPOSE_WIDTH
#define TRANSPOSE_WIDTH 4
#define HAS_PAIRS 0

VECTOR_INLINE void v_load_transposed(const char *source, ptrdiff_t row_stride, int count,
                                     REAL (*columns)[LANES]) {
    for (int row = 0; row < LANES; ++row) {
        const REAL *values = (const REAL *)(const void *)(source + row * row_stride);
        for (int k = 0; k < count; ++k)
            columns[k][row] = values[k];
    }
}

VECTOR_INLINE void v_store_transposed(REAL (*columns)[LANES], char *destination,
                                      ptrdiff_t row_stride, int count) {
    for (int row = 0; row < LANES; ++row) {
        REAL *values = (REAL *)(void *)(destination + row * row_stride);
        for (int k = 0; k < count; ++k)
            values[k] = columns[k][row];
    }
}
