/* The few numbers a row needs in double, whatever the dtype of its logits.  Include it once, while REAL_BITS is 64.
 *
 * Knows: how to take one exponential or logarithm, a row's weight and label.
 * Must not know: how rows are cut or laid out.
 */

KERNEL_INLINE double first_lane(vec a) {
    ALIGNED_64 double lanes[LANES];
    v_store(lanes, a);
    return lanes[0];
}

/* 2^(x log2(e) - reference + SCALE_UP of float64) */
KERNEL_INLINE double scaled_exponential_of(double x, double reference) {
    return first_lane(NAME(scaled_exponential)(v_splat(x), NAME(reference_for)(v_splat(reference))));
}

KERNEL_INLINE double log_of_1_plus(double r) { return first_lane(NAME(pair_total)(NAME(log_of_1_plus)(v_splat(r)))); }

/* 2^n for integer n from -1022 to 0. */
KERNEL_INLINE double power_of_normal_two(double n) {
    return first_lane(v_bits_to_exponent(v_splat(ROUNDING_MAGIC + EXPONENT_BIAS + n)));
}

/* 2^n for integer n <= 0, subnormal numbers too. */
KERNEL_INLINE double power_of_two(double n) {
    if (n < -1022)
        return n < -1074 ? 0 : 0x1p-1022 * power_of_normal_two(n + 1022);
    return power_of_normal_two(n);
}

/* a b - c, the product exact. */
KERNEL_INLINE double scalar_product_residual(double a, double b, double c) {
    return first_lane(NAME(product_residual)(v_splat(a), v_splat(b), v_splat(c)));
}

/* exp(a + n ln 2) for an integer n below 2^31 and a sum below 1: a and n ln 2 may cancel. */
KERNEL_INLINE double exponential_of_difference(double a, double n) {
    const double product = n * ln_2_f64;
    double sum = 0, error = 0;
    compensated_add(&sum, &error, a);
    compensated_add(&sum, &error, product);
    compensated_add(&sum, &error, scalar_product_residual(n, ln_2_f64, product));
    compensated_add(&sum, &error, n * ln_2_tail_f64);
    const double exponential = scaled_exponential_of(sum, 0) * power_of_two(-SCALE_UP);
    return exponential + exponential * error;
}

/* numerator / (sum + sum_error) as a sum of two. */
KERNEL_INLINE double scalar_quotient(double numerator, double sum, double sum_error, double *low) {
    const double result = numerator / sum;
    *low = -(scalar_product_residual(result, sum, numerator) + result * sum_error) / sum;
    return result;
}

enum { FLOAT64_SCALE_UP = SCALE_UP };

KERNEL_INLINE double weight_of_row(const xent_batch *batch, int64_t row) {
    return batch->sample_weight ? batch->weight_factor * batch->sample_weight[row] : batch->weight_factor;
}

KERNEL_INLINE int is_ignored(const xent_labels *labels, int64_t label) {
    return labels->has_ignore_index && label == labels->ignore_index;
}

/* A label that another thread has spoilt since it was checked must not lead out of the row. */
KERNEL_INLINE int64_t clamped_label(int64_t label, int64_t classes) {
    return (uint64_t)label < (uint64_t)classes ? label : 0;
}
