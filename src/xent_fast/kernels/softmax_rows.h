/* The softmax of a few rows at a time, in memory that stays in cache.  A template over REAL_BITS.
 *
 * Knows: the row kernels as functions of a batch, and what functions of the softmax have in common.
 * Must not know: instruction sets, threads, Python; what is made of the probabilities.
 *
 * A function of the softmax takes a chunk of rows in parts: the row kernels write a part's
 * probabilities to the workspace, and a second sweep over them, and over whatever else belongs to
 * the same rows, writes the result.  Each matrix makes one trip from memory.
 */

/* Rows of a part: few enough for the nearest caches, many enough for the kernels' vectors of
 * rows. */
KERNEL_INLINE int64_t rows_of_part(int64_t classes) {
    const int64_t rows = LOGITS_AT_ONCE / classes;
    if (rows >= XENT_MAX_ROWS_PER_CALL)
        return XENT_MAX_ROWS_PER_CALL;
    if (rows >= XENT_ROW_GRANULARITY)
        return rows - rows % XENT_ROW_GRANULARITY;
    return rows < 1 ? 1 : rows;
}

/* Bytes from one row to the next in the workspace, and those of a matrix there. */
KERNEL_INLINE ptrdiff_t part_row_stride(int64_t classes) {
    return (ptrdiff_t)((classes + LANES - 1) / LANES) * LANES * (ptrdiff_t)sizeof(REAL);
}
KERNEL_INLINE size_t part_bytes(int64_t classes) {
    return (size_t)rows_of_part(classes) * (size_t)part_row_stride(classes);
}

/* Matrices in the workspace stand after what the row kernels need there. */
KERNEL_INLINE size_t workspace_with_matrices(int64_t classes, int count) {
    return (bytes_of_workspace(classes) + 63) / 64 * 64 + (size_t)count * part_bytes(classes);
}
KERNEL_INLINE REAL *part_matrix(void *workspace, int64_t classes, int number) {
    return (REAL *)(void *)((char *)workspace + workspace_with_matrices(classes, number));
}

/* The batch whose gradients are the softmax of `row_count` rows at a temperature: rows without
 * targets, and without weight. */
KERNEL_INLINE xent_batch softmax_batch(xent_matrix logits, int64_t row_count, int64_t classes,
                                       double temperature, REAL *probabilities) {
    xent_batch part = {0};
    part.rows = row_count;
    part.classes = classes;
    part.logits = logits;
    part.grad = xent_matrix_of(probabilities, part_row_stride(classes), 0);
    part.options.temperature = temperature;
    part.output = XENT_PROBABILITIES;
    return part;
}

/* These to `probabilities`, and each row's first largest class, -1 where it has no softmax; `lse`
 * may be NULL. */
KERNEL_INLINE void softmax_part(xent_matrix logits, int64_t row_count, int64_t classes,
                                double temperature, REAL *probabilities, int64_t *likeliest,
                                REAL *lse, void *workspace) {
    xent_batch part = softmax_batch(logits, row_count, classes, temperature, probabilities);
    part.weight_factor = 1;
    part.prediction = likeliest;
    part.lse = (char *)lse;
    NAME(index_rows)(&part, 0, row_count, workspace);
}

/* What every function of the softmax may assume; `turns`: it takes classes that lie apart. */
KERNEL_INLINE void assert_softmax_function(const xent_batch *batch, int64_t first_row,
                                           int64_t row_count, const void *workspace, int turns) {
    xent_assert_batch(batch, sizeof(REAL));
    xent_assert_computed_matrices(batch, turns);
    xent_assert_row_range(first_row, row_count, batch->rows);
    xent_assert_workspace(workspace, workspace_with_matrices(batch->classes, 1));
}

/* A factor of any size: `factor`, which the dtype holds, times `power`^3, a power of two. */
typedef struct {
    vec_pair factor;
    vec power;
    int has_power;
} scaled_factor;

/* n, such that a factor times 2^(-3 n) is of middling size; 0 for those that are. */
KERNEL_INLINE int third_of_exponent(double factor) {
    const int most = 3 * (EXPONENT_BIAS - 1) < 1023 ? 3 * (EXPONENT_BIAS - 1) : 1023;
    int exponent = 0;
    if (isfinite(factor) && factor != 0)
        frexp(factor, &exponent);
    if (exponent > -EXPONENT_BIAS / 2 && exponent < EXPONENT_BIAS / 2)
        return 0;
    return (exponent > most ? most : exponent < -most ? -most : exponent) / 3;
}

/* factor 2^(-3 third) as a number of the dtype, its largest where it is beyond those. */
KERNEL_INLINE double scaled_down(double factor, int third) {
    const double scaled = third ? ldexp(factor, -3 * third) : factor;
    return isfinite(factor) && fabs(scaled) > LARGEST_REAL ? copysign(LARGEST_REAL, scaled)
                                                           : scaled;
}

KERNEL_INLINE scaled_factor scaled_factor_of(double factor, int third) {
    const scaled_factor result = {splat_pair(scaled_down(factor, third), 0),
                                  v_splat((REAL)ldexp(1, third)), third != 0};
    return result;
}

/* value factor + addend, the addend given times 2^(-3 third). */
KERNEL_INLINE vec times_factor(vec value, const scaled_factor *f, vec addend) {
    vec product = v_add(product_with_pair(value, f->factor), addend);
    if (f->has_power)
        product = v_mul(v_mul(v_mul(product, f->power), f->power), f->power);
    return product;
}

/* Adds up all probabilities of a row but that of one class: 1 - p of the class where that is the
 * small one. */
KERNEL_INLINE double sum_of_other_classes(const REAL *p, int64_t count, int64_t likeliest) {
    wide_sum sum = zero_wide();
    int64_t k = 0;
    vec x[4];
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        EACH_OF(4, x[j] = v_load(p + k + j * LANES));
        if (likeliest >= k && likeliest < k + HALF_GROUP)
            EACH_OF(4, x[j] = v_drop(
                           v_equal(v_lane_numbers(), v_splat((REAL)(likeliest - k - j * LANES))),
                           x[j]));
        add_four(&sum, x);
    }
    for (; k < count; k += LANES) {
        x[0] = load_up_to(p + k, count - k < LANES ? (int)(count - k) : LANES, 0);
        if (likeliest >= k && likeliest < k + LANES)
            x[0] = v_drop(v_equal(v_lane_numbers(), v_splat((REAL)(likeliest - k))), x[0]);
        wide_add(&sum, x[0]);
    }
    return wide_total(sum);
}

/* The row of the contract's table for a function of the softmax. */
#ifndef SOFTMAX_FUNCTION_TABLE
#define SOFTMAX_FUNCTION_TABLE(name, dtype) \
    {.process_rows = name##_rows##dtype, .workspace_bytes = name##_workspace_bytes##dtype}
#endif
