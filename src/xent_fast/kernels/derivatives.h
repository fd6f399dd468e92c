/* Backward passes of softmax and log_softmax, from what these returned.  A template over REAL_BITS.
 *
 * Knows: the two formulas; rows of a few classes side by side, longer ones one at a time, vectors
 * along their classes.
 * Must not know: instruction sets, threads, Python; the loss.
 *
 *     softmax        grad = p (dp - s)         s = sum p dp
 *     log_softmax    grad = dl - exp(l) s      s = sum dl
 *
 * Two sweeps: the sum, then the gradient, which may take the place of either input.  Summands may
 * have either sign and may cancel, so each goes to the wide sum at once, products without their
 * rounding, and s comes as a pair: its error is below one unit of 2^-53 (float32) or 2^-100
 * (float64) times the sum of all magnitudes.
 *
 *     softmax        (dp - high) - low and the product are rounded once each: three roundings, at
 *                    most 3 units in the last
 *                    place of a gradient that is no subnormal number
 *     log_softmax    the errors of the exponential and of the product, in units of exp(l) s, and
 *                    one rounding of the sum
 *
 * docs/numerics.md states the bounds that a search has left standing.
 */

/* Adds a vector's worth of numbers, and what is left of them in a last vector. */
KERNEL_INLINE wide_sum sum_of(const REAL *values, int64_t count) {
    wide_sum sum = zero_wide();
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        wide_add(&sum, v_load(values + k));
    if (k < count)
        wide_add(&sum, v_load_first(values + k, (int)(count - k), 0));
    return sum;
}

KERNEL_INLINE wide_sum sum_of_products(const REAL *a, const REAL *b, int64_t count) {
    wide_sum sum = zero_wide();
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        wide_add_product(&sum, v_load(a + k), v_load(b + k));
    if (k < count) {
        const int left = (int)(count - k);
        wide_add_product(&sum, v_load_first(a + k, left, 0), v_load_first(b + k, left, 0));
    }
    return sum;
}

/* A scalar as a pair of the dtype, the same in all lanes; one that is not finite has no low
 * part. */
KERNEL_INLINE vec_pair splat_pair(double value, double error) {
    const REAL high = (REAL)value;
    const vec_pair pair = {v_splat(high),
                           v_splat(isfinite(high) ? (REAL)((value - (double)high) + error) : 0)};
    return pair;
}

KERNEL_INLINE vec softmax_gradient(vec p, vec dp, vec_pair s) {
    return v_mul(p, v_sub(v_sub(dp, s.high), s.low));
}

/* The same of `count` numbers, fewer than a vector has. */
KERNEL_INLINE void softmax_gradients_of_few(const REAL *p, const REAL *dp, REAL *grad, int count,
                                            vec_pair s) {
    XENT_ASSERT(count >= 0 && count < LANES);
    if (count > 0)
        v_store_first(grad, count,
                      softmax_gradient(v_load_first(p, count, 0), v_load_first(dp, count, 0), s));
}

KERNEL_INLINE void softmax_vjp_row(const REAL *p, const REAL *dp, REAL *grad, int64_t count) {
    double error;
    const double total = wide_total_and_error(sum_of_products(p, dp, count), &error);
    const vec_pair s = splat_pair(total, error);
    const int64_t before = numbers_before_line((const char *)grad); /* see backward_vectors */
    int64_t k = before < count ? before : 0;
    softmax_gradients_of_few(p, dp, grad, (int)k, s);
    for (; k + LANES <= count; k += LANES)
        v_store(grad + k, softmax_gradient(v_load(p + k), v_load(dp + k), s));
    softmax_gradients_of_few(p + k, dp + k, grad + k, (int)(count - k), s);
}

/* What exp(l) s of one row is made of.
 *
 * With s = m 2^k, 1/2 <= |m| < 1, exponentials are taken relative to 2^c, c = SCALE_UP -
 * SIGNIFICAND_SHIFT - k, and multiplied by -m 2^-SIGNIFICAND_SHIFT / K: so every product down to
 * the subnormal numbers comes out, whatever the size of s, up to some 2^100 (float32) or 2^970
 * (float64).  Larger ones, which log-probabilities have only by mistake or with a huge s, begin at
 * l = `limit`: there the reference is 2^RAISED higher, and products beyond `highest` are infinite
 * anyway. */
typedef struct {
    exponential_reference reference, raised_reference;
    vec_pair minus_factor;
    vec limit, highest;
} log_softmax_frame;

#undef RAISED
#define RAISED 64

KERNEL_INLINE log_softmax_frame frame_of_sum(double total, double error) {
    log_softmax_frame frame;
    int exponent = 0;
    if (isfinite(total)) {
        total = frexp(total, &exponent);
        error = ldexp(error, -exponent);
    }
    const double unit = 1.0 / (double)((BITS_TYPE)1 << SIGNIFICAND_SHIFT);
    const REAL c = (REAL)(SCALE_UP - SIGNIFICAND_SHIFT - exponent);
    const REAL most = (EXPONENT_BIAS - SCALE_UP - 1) + c; /* of round(l log2 e) */
    const exponent_scale scale = unit_scale();
    frame.reference = reference_for(v_splat(c), &scale);
    frame.raised_reference = reference_for(v_splat(c + RAISED), &scale);
    const double factor = -total * unit / EXPONENTIAL_UNIT;
    const double residual = scalar_product_residual(factor, EXPONENTIAL_UNIT, -total * unit);
    frame.minus_factor = splat_pair(factor, (-error * unit - residual) / EXPONENTIAL_UNIT);
    frame.limit = v_splat(most * REAL_CONSTANT(ln_2));
    frame.highest = v_splat((most + RAISED) * REAL_CONSTANT(ln_2));
    return frame;
}

/* exponential * minus_factor + addend */
KERNEL_INLINE vec minus_product(vec exponential, vec_pair minus_factor, vec addend) {
#if HAS_FMA
    return product_with_pair_plus(exponential, minus_factor, addend);
#else
    /* the halves of an infinite factor are not numbers, and small products have no halves */
    const vec plain = v_mul(exponential, minus_factor.high),
              rounded_once = product_with_pair(exponential, minus_factor);
    const vec large = v_select(v_equal(rounded_once, rounded_once), rounded_once, plain);
    const vec_mask is_large = v_greater(magnitude_of(plain), v_splat((REAL)SMALLEST_EXACT));
    return v_add(v_select(is_large, large, plain), addend);
#endif
}

/* Gradients where some l are beyond the limit. */
static vec large_gradients(vec l, vec dl, vec usual, const log_softmax_frame *frame) {
    const vec capped = v_select(v_greater(l, frame->highest), frame->highest, l);
    const vec raised = scaled_exponential(capped, frame->raised_reference);
    const vec finite = minus_product(raised, frame->minus_factor, v_splat(0));
    const vec product =
        v_select(v_equal(l, v_splat(INFINITY)), v_mul(l, frame->minus_factor.high), finite);
    return v_select(v_greater(l, frame->limit), v_fma(product, v_splat((REAL)0x1p64), dl), usual);
}

/* Gradients of `count` vectors (1 or INTERLEAVED), to `grad`. */
KERNEL_INLINE void log_softmax_gradients(const vec *l, const vec *dl, int count,
                                         const log_softmax_frame *frame, vec *grad) {
    scaled_exponentials(l, count, frame->reference, grad, NULL);
    EACH_OF(count, grad[j] = minus_product(grad[j], frame->minus_factor, dl[j]));
    EACH_OF(count, if (v_mask_bits(v_greater(l[j], frame->limit))) grad[j] =
                       large_gradients(l[j], dl[j], grad[j], frame));
}

KERNEL_INLINE void log_softmax_vjp_row(const REAL *l, const REAL *dl, REAL *grad, int64_t count) {
    double error;
    const double total = wide_total_and_error(sum_of(dl, count), &error);
    const log_softmax_frame frame = frame_of_sum(total, error);
    vec x[4], dx[4], gradients[4];
    int64_t k = 0;
    for (; k + INTERLEAVED * LANES <= count; k += INTERLEAVED * LANES) {
        EACH_OF(INTERLEAVED, x[j] = v_load(l + k + j * LANES); dx[j] = v_load(dl + k + j * LANES));
        log_softmax_gradients(x, dx, INTERLEAVED, &frame, gradients);
        EACH_OF(INTERLEAVED, v_store(grad + k + j * LANES, gradients[j]));
    }
    for (; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        x[0] = v_load_first(l + k, left, -INFINITY);
        dx[0] = v_load_first(dl + k, left, 0);
        log_softmax_gradients(x, dx, 1, &frame, gradients);
        v_store_first(grad + k, left, gradients[0]);
    }
}

/* grad times f, while the row is in cache. */
KERNEL_INLINE void multiply_row(REAL *grad, int64_t count, REAL f) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        v_store(grad + k, v_mul(v_load(grad + k), v_splat(f)));
    if (k < count)
        v_store_first(grad + k, (int)(count - k),
                      v_mul(v_load_first(grad + k, (int)(count - k), 0), v_splat(f)));
}

KERNEL_INLINE void multiply_by_output(const xent_vjp_batch *batch, int64_t row) {
    if (batch->grad_output)
        multiply_row((REAL *)(void *)xent_row(&batch->grad, row), batch->classes,
                     (REAL)batch->grad_output[row * batch->grad_output_step]);
}

/* --- few classes: lanes along rows ------------------------------------------------------------ */

/* Rows of no more classes stand side by side: so little is done with a class that it is not worth
 * turning more of them. */
#ifndef MOST_CLASSES_OF_VJP
#define MOST_CLASSES_OF_VJP 32
#endif

/* A vector of rows as columns: p and dp, or l and dl; the gradient takes the place of the
 * latter. */
typedef struct {
    REAL (*values)[LANES], (*slopes)[LANES];
    int classes;
} vjp_columns;

/* Each lane's sum as two numbers; one that is not finite has no low part. */
KERNEL_INLINE vec_pair pair_of_wide(wide_sum sum) {
#if REAL_BITS == 32
    ALIGNED_64 double doubles[LANES];
    v_store_f64(doubles, sum.low);
    v_store_f64(doubles + LANES / 2, sum.high);
    vec_pair pair = pairs_of(doubles);
#else
    vec_pair pair = sum;
#endif
    pair.low = v_keep(v_equal(v_sub(pair.high, pair.high), v_splat(0)), pair.low);
    return pair;
}

KERNEL_INLINE void softmax_vjp_columns(const vjp_columns *rows) {
    wide_sum sum = zero_wide();
    for (int k = 0; k < rows->classes; ++k)
        wide_add_product(&sum, v_load(rows->values[k]), v_load(rows->slopes[k]));
    const vec_pair s = pair_of_wide(sum);
    for (int k = 0; k < rows->classes; ++k) {
        const vec above = v_sub(v_sub(v_load(rows->slopes[k]), s.high), s.low);
        v_store(rows->slopes[k], v_mul(v_load(rows->values[k]), above));
    }
}

/* The row of a lane by itself, whose s or its exponent the lanes do not hold. */
static NEVER_INLINE void log_softmax_vjp_of_lane(const vjp_columns *rows, int lane) {
    REAL l[MOST_CLASSES_OF_VJP] = {0}, dl[MOST_CLASSES_OF_VJP] = {0};
    for (int k = 0; k < rows->classes; ++k) {
        l[k] = rows->values[k][lane];
        dl[k] = rows->slopes[k][lane];
    }
    log_softmax_vjp_row(l, dl, dl, rows->classes);
    for (int k = 0; k < rows->classes; ++k)
        rows->slopes[k][lane] = dl[k];
}

/* The frames of sums of which every one is 0 or of middling size, and so many powers of two that
 * their number is exact. */
KERNEL_INLINE log_softmax_frame frames_of_sums(vec_pair s, vec size) {
    const double inverse = -1.0 / (double)((BITS_TYPE)1 << SIGNIFICAND_SHIFT) / EXPONENTIAL_UNIT;
    const exponent_scale scale = unit_scale();
    log_softmax_frame frame;
    const vec exponent = v_exponent(size),
              c = v_sub(v_splat(SCALE_UP - SIGNIFICAND_SHIFT), exponent);
    const vec power = v_bits_to_exponent(v_sub(v_splat(ROUNDING_MAGIC + EXPONENT_BIAS), exponent));
    s.high = v_mul(s.high, power);
    s.low = v_mul(s.low, power);
    frame.reference = reference_for(c, &scale);
    frame.raised_reference = reference_for(v_add(c, v_splat(RAISED)), &scale);
    frame.minus_factor = pair_product(s, pair_of(inverse));
    const vec most = v_add(v_splat(EXPONENT_BIAS - SCALE_UP - 1), c);
    frame.limit = v_mul(most, v_splat(REAL_CONSTANT(ln_2)));
    frame.highest = v_mul(v_add(most, v_splat(RAISED)), v_splat(REAL_CONSTANT(ln_2)));
    return frame;
}

KERNEL_INLINE void log_softmax_vjp_columns(const vjp_columns *rows) {
    enum { LARGEST_EXPONENT = EXPONENT_BIAS - SIGNIFICAND_SHIFT };
    const vec zero = v_splat(0), one = v_splat(1);
    wide_sum sum = zero_wide();
    for (int k = 0; k < rows->classes; ++k)
        wide_add(&sum, v_load(rows->slopes[k]));
    const vec_pair s = pair_of_wide(sum);
    const vec limit = v_splat((REAL)ldexp(1, LARGEST_EXPONENT)),
              lowest = v_splat((REAL)ldexp(1, -LARGEST_EXPONENT));
    const vec size = v_select(v_equal(s.high, zero), one, magnitude_of(s.high));
    const vec held = v_keep(v_not_less(size, lowest), v_keep(v_greater(limit, size), one));
    const vec_mask is_held = v_equal(held, one);
    const unsigned leaving = ~v_mask_bits(is_held) & ((1u << LANES) - 1);
    const log_softmax_frame frame = frames_of_sums(s, size);
    for (int lane = 0; leaving >> lane; ++lane)
        if (leaving >> lane & 1)
            log_softmax_vjp_of_lane(rows, lane);
    for (int k = 0; k < rows->classes;) {
        vec l[4], dl[4], grad[4];
        const int count = rows->classes - k < INTERLEAVED ? 1 : INTERLEAVED;
        for (int j = 0; j < count; ++j) {
            l[j] = v_load(rows->values[k + j]);
            dl[j] = v_load(rows->slopes[k + j]);
        }
        if (count == INTERLEAVED)
            log_softmax_gradients(l, dl, INTERLEAVED, &frame, grad);
        else
            log_softmax_gradients(l, dl, 1, &frame, grad);
        for (int j = 0; j < count; ++j)
            v_store(rows->slopes[k + j], v_select(is_held, grad[j], dl[j]));
        k += count;
    }
}

/* The gradients of rows, each times its own number. */
KERNEL_INLINE void multiply_columns(const vjp_columns *rows, const double *numbers, int64_t step,
                                    int row_count) {
    ALIGNED_64 REAL factors[LANES] = {0};
    for (int row = 0; row < row_count; ++row)
        factors[row] = (REAL)numbers[row * step];
    for (int k = 0; k < rows->classes; ++k)
        v_store(rows->slopes[k], v_mul(v_load(rows->slopes[k]), v_load(factors)));
}

KERNEL_INLINE void vjp_of_few_classes(const xent_vjp_batch *batch, int64_t first_row,
                                      int64_t row_count, void (*compute)(const vjp_columns *)) {
    ALIGNED_64 REAL values[MOST_CLASSES_OF_VJP][LANES], slopes[MOST_CLASSES_OF_VJP][LANES];
    const vjp_columns rows = {values, slopes, (int)batch->classes};
    for (int64_t row = first_row; row < first_row + row_count; row += LANES) {
        const int64_t left = first_row + row_count - row;
        const int count = left < LANES ? (int)left : LANES;
        load_columns(values, contiguous(batch->values), row, count, rows.classes);
        load_columns(slopes, contiguous(batch->slopes), row, count, rows.classes);
        compute(&rows);
        if (batch->grad_output)
            multiply_columns(&rows, batch->grad_output + row * batch->grad_output_step,
                             batch->grad_output_step, count);
        store_columns(slopes, contiguous(batch->grad), row, count, rows.classes);
    }
}

/* The functions of the contract. */
#ifndef VJP_KERNELS
#define VJP_KERNELS(function)                                                            \
    static void NAME(function##_rows)(const xent_vjp_batch *batch, int64_t first_row,    \
                                      int64_t row_count) {                               \
        xent_assert_vjp(batch, sizeof(REAL));                                            \
        xent_assert_row_range(first_row, row_count, batch->rows);                        \
        if (batch->classes <= MOST_CLASSES_OF_VJP) {                                     \
            vjp_of_few_classes(batch, first_row, row_count, function##_columns);         \
            return;                                                                      \
        }                                                                                \
        for (int64_t row = first_row; row < first_row + row_count; ++row) {              \
            function##_row((const REAL *)(const void *)xent_row(&batch->values, row),    \
                           (const REAL *)(const void *)xent_row(&batch->slopes, row),    \
                           (REAL *)(void *)xent_row(&batch->grad, row), batch->classes); \
            multiply_by_output(batch, row);                                              \
        }                                                                                \
    }
#define VJP_KERNELS_TABLE(dtype) {softmax_vjp_rows##dtype, log_softmax_vjp_rows##dtype}
#endif

VJP_KERNELS(softmax_vjp)
VJP_KERNELS(log_softmax_vjp)
