/* Sums that stay exact where plain ones would not.  A template over REAL_BITS; float64 first.
 *
 * Knows: how two numbers are added or multiplied without loss, how long sums are kept.
 * Must not know: what is summed.
 *
 * Short runs of additions are made in the lanes' own dtype, then folded into a `wide` sum: doubles
 * for float32, sum and error (Knuth's two-sum) for float64.  A run of n additions is off by at most
 * n u of its own result, and folding adds nothing that shows in the dtype.
 */

/* a + b = sum + error, exactly, in any order of size. */
VECTOR_INLINE vec NAME(two_sum)(vec a, vec b, vec *error) {
    const vec sum = v_add(a, b);
    const vec b_rounded = v_sub(sum, a);
    *error = v_add(v_sub(a, v_sub(sum, b_rounded)), v_sub(b, b_rounded));
    return sum;
}

/* The sum of `count` vectors (1, 2 or 4) in a tree. */
VECTOR_INLINE vec NAME(sum_of_some)(const vec *a, int count) {
    return count == 4   ? v_add(v_add(a[0], a[1]), v_add(a[2], a[3]))
           : count == 2 ? v_add(a[0], a[1])
                        : a[0];
}

/* That of their products a b, two by two without the second's own rounding. */
VECTOR_INLINE vec NAME(sum_of_some_products)(const vec *a, const vec *b, int count) {
    const vec first = v_mul(a[0], b[0]);
    if (count == 1)
        return first;
    const vec two = v_fma(a[1], b[1], first);
    return count == 2 ? two : v_add(two, v_fma(a[3], b[3], v_mul(a[2], b[2])));
}

/* A number and what it lacks. */
typedef struct {
    vec high, low;
} NAME(pair);

VECTOR_INLINE NAME(pair) NAME(zero_pair)(void) {
    const NAME(pair) zero = {v_splat(0), v_splat(0)};
    return zero;
}

VECTOR_INLINE void NAME(pair_add)(NAME(pair) * pair, vec a) {
    vec error;
    pair->high = NAME(two_sum)(pair->high, a, &error);
    pair->low = v_add(pair->low, error);
}

/* Adds a summand; the first is the sum. */
VECTOR_INLINE void NAME(add_or_begin)(NAME(pair) * sum, vec a, int is_first) {
    if (is_first)
        sum->high = a;
    else
        NAME(pair_add)(sum, a);
}

VECTOR_INLINE void NAME(pair_add_pair)(NAME(pair) * pair, NAME(pair) a) {
    NAME(pair_add)(pair, a.high);
    pair->low = v_add(pair->low, a.low);
}

/* The sum as one number; beside an infinite one the error is inf - inf and does not count. */
VECTOR_INLINE vec NAME(pair_total)(NAME(pair) pair) {
    return v_add(pair.high, v_keep(v_equal(pair.low, pair.low), pair.low));
}

/* a b - c, the product exact. */
VECTOR_INLINE vec NAME(product_residual)(vec a, vec b, vec c) {
#if HAS_FMA
    return v_fms(a, b, c);
#else
    const vec a_high = v_high_half(a), b_high = v_high_half(b);
    const vec a_low = v_sub(a, a_high), b_low = v_sub(b, b_high);
    const vec a_high_rest = v_add(v_sub(v_mul(a_high, b_high), c), v_mul(a_high, b_low));
    return v_add(v_add(a_high_rest, v_mul(a_low, b_high)), v_mul(a_low, b_low));
#endif
}

/* a b, but for the product of both low parts. */
VECTOR_INLINE NAME(pair) NAME(pair_product)(NAME(pair) a, NAME(pair) b) {
    NAME(pair) product;
    product.high = v_mul(a.high, b.high);
    product.low = NAME(product_residual)(a.high, b.high, product.high);
    product.low = v_fma(a.high, b.low, v_fma(a.low, b.high, product.low));
    return product;
}

/* a f, rounded once but for terms that do not show. */
VECTOR_INLINE vec NAME(product_with_pair)(vec a, NAME(pair) f) {
#if HAS_FMA
    return v_fma(a, f.high, v_mul(a, f.low));
#else
    const vec f_high = v_high_half(f.high), f_rest = v_add(v_sub(f.high, f_high), f.low),
              a_high = v_high_half(a);
    return v_add(v_mul(a_high, f_high), v_add(v_mul(v_sub(a, a_high), f_high), v_mul(a, f_rest)));
#endif
}

/* a f + b; where b is the larger, its sum with a times the low part is rounded too. */
VECTOR_INLINE vec NAME(product_with_pair_plus)(vec a, NAME(pair) f, vec b) {
#if HAS_FMA
    return v_fma(a, f.high, v_fma(a, f.low, b));
#else
    return v_add(NAME(product_with_pair)(a, f), b);
#endif
}

/* a f + b c: with FMA b c is rounded by itself, a f with the sum alone. */
VECTOR_INLINE vec NAME(product_with_pair_and_product)(vec a, NAME(pair) f, vec b, vec c) {
#if HAS_FMA
    return v_fma(a, f.high, v_fma(b, c, v_mul(a, f.low)));
#else
    return v_add(NAME(product_with_pair)(a, f), v_mul(b, c));
#endif
}

VECTOR_INLINE vec NAME(inverse_of)(NAME(pair) denominator) {
    return v_div(v_splat(1), denominator.high);
}

/* numerator / denominator, both without their last roundings; `inverse` is 1 / denominator but for
 * a few units in its last place. */
VECTOR_INLINE NAME(pair) NAME(quotient)(NAME(pair) numerator, NAME(pair) denominator, vec inverse) {
    NAME(pair) result;
    result.high = v_mul(numerator.high, inverse);
    const vec residual =
        v_sub(v_sub(numerator.low, v_mul(result.high, denominator.low)),
              NAME(product_residual)(result.high, denominator.high, numerator.high));
    result.low = v_mul(residual, inverse);
    return result;
}

#if REAL_BITS == 64
typedef NAME(pair) NAME(wide);

VECTOR_INLINE NAME(wide) NAME(zero_wide)(void) { return NAME(zero_pair)(); }

VECTOR_INLINE void NAME(wide_add)(NAME(wide) * wide, vec a) { NAME(pair_add)(wide, a); }

/* Adds a b without its last rounding. */
VECTOR_INLINE void NAME(wide_add_product)(NAME(wide) * wide, vec a, vec b) {
    const vec product = v_mul(a, b);
    NAME(pair_add)(wide, product);
    wide->low = v_add(wide->low, NAME(product_residual)(a, b, product));
}

/* Adds to a sum and its error, scalars. */
VECTOR_INLINE void compensated_add(double *sum, double *error, double a) {
    const double total = *sum + a, a_rounded = total - *sum;
    *error += (*sum - (total - a_rounded)) + (a - a_rounded);
    *sum = total;
}

/* Both together; beside an infinite sum the error is inf - inf. */
VECTOR_INLINE double sum_and_error(double sum, double error) {
    return sum - sum == 0 ? sum + error : sum;
}

/* The sum, and in `error` what to add to it. */
VECTOR_INLINE double NAME(wide_total_and_error)(NAME(wide) wide, double *error) {
    ALIGNED_64 double sums[LANES], errors[LANES];
    v_store(sums, wide.high);
    v_store(errors, wide.low);
    double total = 0;
    *error = 0;
    for (int lane = 0; lane < LANES; ++lane) {
        compensated_add(&total, error, sums[lane]);
        *error += errors[lane];
    }
    return total;
}

VECTOR_INLINE double NAME(wide_total)(NAME(wide) wide) {
    double error;
    const double total = NAME(wide_total_and_error)(wide, &error);
    return sum_and_error(total, error);
}
#else
typedef struct {
    vec_f64 low, high;
} NAME(wide);

VECTOR_INLINE NAME(wide) NAME(zero_wide)(void) {
    const NAME(wide) zero = {v_splat_f64(0), v_splat_f64(0)};
    return zero;
}

VECTOR_INLINE void NAME(wide_add)(NAME(wide) * wide, vec a) {
    wide->low = v_add_f64(wide->low, v_low_half_as_f64(a));
    wide->high = v_add_f64(wide->high, v_high_half_as_f64(a));
}

/* Adds a b, which is exact in double. */
VECTOR_INLINE void NAME(wide_add_product)(NAME(wide) * wide, vec a, vec b) {
    wide->low = v_fma_f64(v_low_half_as_f64(a), v_low_half_as_f64(b), wide->low);
    wide->high = v_fma_f64(v_high_half_as_f64(a), v_high_half_as_f64(b), wide->high);
}

/* Lanes in a tree, halves onto halves. */
VECTOR_INLINE double NAME(wide_total)(NAME(wide) wide) {
    ALIGNED_64 double sums[LANES / 2];
    v_store_f64(sums, v_add_f64(wide.low, wide.high));
    for (int half = LANES / 4; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane)
            sums[lane] += sums[lane + half];
    return sums[0];
}

/* The sum; the doubles' own error does not show in the dtype. */
VECTOR_INLINE double NAME(wide_total_and_error)(NAME(wide) wide, double *error) {
    *error = 0;
    return NAME(wide_total)(wide);
}
#endif
