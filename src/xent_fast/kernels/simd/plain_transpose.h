/* Squares of rows and columns turned over number by number, for vocabularies without shuffles.  A template over REAL_BITS.
 *
 * Knows: the C language.  Must not know: what the numbers are.
 */
#undef TRANSPOSE_WIDTH
#define TRANSPOSE_WIDTH 4

KERNEL_INLINE void v_load_transposed(const char *source, ptrdiff_t row_stride, REAL (*columns)[LANES]) {
    for (int row = 0; row < LANES; ++row) {
        const REAL *values = (const REAL *)(const void *)(source + row * row_stride);
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            columns[k][row] = values[k];
    }
}

KERNEL_INLINE void v_store_transposed(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride) {
    for (int row = 0; row < LANES; ++row) {
        REAL *values = (REAL *)(void *)(destination + row * row_stride);
        for (int k = 0; k < TRANSPOSE_WIDTH; ++k)
            values[k] = columns[k][row];
    }
}
