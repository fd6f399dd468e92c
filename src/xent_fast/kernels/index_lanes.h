/* Class indices of a few classes: as many rows side by side as a vector has lanes.  A template
 * over REAL_BITS.
 *
 * Knows: loss and gradient of such rows in the lanes' own dtype; which rows need more
 * (double_rows.h).
 * Must not know: instruction sets, threads, Python, how rows become columns (tile.h).
 *
 * Each lane is a row with the class y.  With m its maximum, exponentials e relative to a power
 * of two near that of m, and O the sum of all but the label's:
 *
 *     S = O + e_y           R = O / e_m, or ((O - e_m) + e_y) / e_m where y is not the maximum
 *     F = a / (T S)         loss = (m - x_y) / T + log1p(R)
 *     grad_k = e_k F        grad_y = -O F
 *
 * Where y is the maximum, R and the loss have the relative accuracy of O, however small.
 * Elsewhere the loss is at least log 2, and what O - e_m loses does not show beside it.
 *
 * With u half a unit at 1: e 1.25 u (1.9 u without FMA, exp.h), fours of them added in a tree 2
 * u, the logarithm 1.7 u, each product u.  From four classes on (`is_exact`) the fours are added
 * without loss, e_y and e_m keep what their last rounding dropped, and the quotients R and F are
 * rounded once, the weight's own rounding included: a few operations for a whole vector of rows.
 * Two classes need none of that, three the lossless additions alone.
 *
 * With terms of lse (lse_terms.h) of the slope h: (1 + h) F in place of F, grad_y = (h e_y - O)
 * F, and lse = m / T + log1p of the others over the first maximum.
 */

/* What the sweeps find of each lane: the maximum as it is, and with the label's logit less what is
 * taken from huge ones. */
typedef struct {
    vec maximum, top, label_logit;
    vec_pair others, exp_of_label, exp_of_maximum;
} index_sums;

/* Exponentials of `count` columns (1, 2 or 4) from `k` to `place`, and to `e`, but 0 for the
 * labels', which count from there.  The label's and the largest are found here unless their low
 * parts count, too. */
KERNEL_INLINE void some_index_exponentials(lane_columns columns, int64_t k, int count, vec labels,
                                           const exponential_reference *reference,
                                           REAL (*place)[LANES], vec *e, index_sums *sums,
                                           int is_exact) {
    vec x[4];
    EACH_OF(count, x[j] = load_column(columns, k + j);
            sums->label_logit = v_select(v_equal(labels, v_splat(j)), x[j], sums->label_logit));
    if (count > INTERLEAVED) {
        for (int first = 0; first < count; first += INTERLEAVED)
            scaled_exponentials(x + first, INTERLEAVED, *reference, e + first, NULL);
    } else {
        scaled_exponentials(x, count, *reference, e, NULL);
    }
    if (!is_exact)
        EACH_OF(count, sums->exp_of_label.high =
                           v_select(v_equal(labels, v_splat(j)), e[j], sums->exp_of_label.high);
                sums->exp_of_maximum.high = v_max(e[j], sums->exp_of_maximum.high));
    EACH_OF(count, v_store(place[k + j], e[j]); e[j] = v_drop(v_equal(labels, v_splat(j)), e[j]));
}

/* Lines of memory that will be wanted: as many of each matrix as there are classes. */
typedef struct {
    const char *first[3];
    ptrdiff_t step[3];
    int count;
} wanted_lines;

/* Those of a vector of rows from `row` on: a line of each plane, or all lines of rows without gaps
 * (of others, some; an address outside the matrix does no harm). */
KERNEL_INLINE void want_rows(wanted_lines *wanted, const xent_matrix *matrix, int64_t row) {
    wanted->first[wanted->count] = xent_row(matrix, row);
    wanted->step[wanted->count++] =
        lies_in_columns(matrix) ? matrix->class_stride : LANES * stored_bytes((int)matrix->storage);
}

KERNEL_INLINE void ask_for(const wanted_lines *wanted, int64_t k, int count) {
    for (int matrix = 0; wanted && matrix < wanted->count; ++matrix)
        for (int j = 0; j < count; ++j)
            PREFETCH(wanted->first[matrix] + (k + j) * wanted->step[matrix]);
}

/* Exponentials and sums relative to sums->top: of fours in a tree; the additions of these lose
 * nothing, nor do those of three classes.  Meanwhile memory is asked for `wanted`, if it is not
 * NULL. */
KERNEL_INLINE void sum_columns(lane_columns columns, int classes, vec labels,
                               const exponent_scale *scale, REAL (*place)[LANES], index_sums *sums,
                               const wanted_lines *wanted, int is_exact) {
    const exponential_reference reference =
        reference_for(reference_exponent(sums->top, scale), scale);
    sums->label_logit = v_splat(0);
    sums->others = sums->exp_of_label = sums->exp_of_maximum = zero_pair();
    EACH_CLASS(
        classes, labels, vec e[4]; ask_for(wanted, k, count);
        some_index_exponentials(columns, k, count, from_k, &reference, place, e, sums, is_exact);
        if (is_exact || classes == 2) add_or_begin(&sums->others, sum_of_some(e, count), k == 0);
        else EACH_OF(count, add_or_begin(&sums->others, e[j], k + j == 0)));
    if (!is_exact)
        return;
    const vec ends[2] = {sums->label_logit, sums->top};
    vec exponentials[2], dropped[2];
    for (int j = 0; j < 2; j += INTERLEAVED)
        scaled_exponentials(ends + j, INTERLEAVED < 2 ? 1 : 2, reference, exponentials + j,
                            dropped + j);
    sums->exp_of_label.high = exponentials[0];
    sums->exp_of_label.low = dropped[0];
    sums->exp_of_maximum.high = exponentials[1];
    sums->exp_of_maximum.low = dropped[1];
}

/* log of the sum of all exponentials over the maximum's: the same whatever the label is. */
KERNEL_INLINE vec log_of_columns(REAL (*place)[LANES], int classes, vec first_maximum,
                                 vec exp_of_maximum) {
    vec_pair total = zero_pair();
    EACH_CLASS(classes, first_maximum, vec e[4];
               EACH_OF(count, e[j] = v_drop(v_equal(from_k, v_splat(j)), v_load(place[k + j])));
               const vec sum = count == 4   ? v_add(v_add(e[0], e[1]), v_add(e[2], e[3]))
                               : count == 2 ? v_add(e[0], e[1])
                                            : e[0];
               pair_add(&total, sum));
    return log_of_1_plus_rounded(v_div(v_add(total.high, total.low), exp_of_maximum));
}

/* a / b as one number; `is_exact` says whether low parts count. */
KERNEL_INLINE vec rounded_quotient(vec_pair a, vec_pair b, int is_exact) {
    if (!is_exact)
        return v_div(a.high, b.high);
    const vec_pair ratio = pair_quotient(a, b, inverse_of(b));
    return v_add(ratio.high, ratio.low);
}

/* R */
KERNEL_INLINE vec index_ratio(const index_sums *sums, vec_mask leads, int is_exact) {
    vec_pair below = sums->others;
    below.high =
        v_select(leads, below.high,
                 v_add(v_sub(below.high, sums->exp_of_maximum.high), sums->exp_of_label.high));
    return rounded_quotient(below, sums->exp_of_maximum, is_exact);
}

/* Losses for a weight of 1, without the z-loss, of R and (m - x_y) / T. */
KERNEL_INLINE vec lane_index_losses(vec ratio, vec distance) {
    return v_add(distance, log_of_1_plus_rounded(ratio));
}

/* What exponentials are multiplied by; the gradient of the label's class, and of others that are as
 * large as the maximum's. */
typedef struct {
    vec of_exponentials, of_label, of_maximum;
} index_factors;

KERNEL_INLINE index_factors index_factors_of(const index_sums *sums, vec_mask leads,
                                             vec_pair weight, int is_exact) {
    vec_pair others = sums->others;
    index_factors factors;
    if (!is_exact) {
        const vec rest = v_add(sums->exp_of_label.high, others.low);
        factors.of_exponentials = v_div(weight.high, v_add(others.high, rest));
        factors.of_label = v_sub(v_splat(0), product_with_pair(factors.of_exponentials, others));
        return factors;
    }
    others.low = v_add(others.low, v_drop(leads, sums->exp_of_maximum.low));
    vec_pair sum = others;
    pair_add_pair(&sum, sums->exp_of_label);
    const vec_pair factor = pair_quotient(weight, sum, inverse_of(sum));
    const vec low = v_fma(others.high, factor.low, v_mul(others.low, factor.high));
    factors.of_exponentials = v_add(factor.high, factor.low);
    factors.of_label = v_sub(v_splat(0), v_fma(others.high, factor.high, low));
    return factors;
}

/* F e_m, and no larger than `weight`: p of the maximum is at most 1, though e_m and F may both have
 * been rounded up. */
KERNEL_INLINE vec gradient_of_maximum(vec exp_of_maximum, vec factor, vec weight) {
    const vec grad = v_mul(exp_of_maximum, factor);
    return v_select(v_greater(magnitude_of(grad), magnitude_of(weight)), weight, grad);
}

/* The gradient of as many in place of their exponentials, to `destination`. */
KERNEL_INLINE void some_index_gradients(REAL (*place)[LANES], int64_t k, int count, vec labels,
                                        index_factors factors, vec exp_of_maximum, int is_bounded,
                                        char *destination, ptrdiff_t step) {
    EACH_OF(count, const vec e = v_load(place[k + j]); vec grad = v_mul(e, factors.of_exponentials);
            if (is_bounded) grad = v_select(v_equal(e, exp_of_maximum), factors.of_maximum, grad);
            v_store((REAL *)(void *)(destination + (k + j) * step),
                    v_select(v_equal(labels, v_splat(j)), factors.of_label, grad)));
}

/* All of them.  Only where F e_m is larger than the weight are there others than e F. */
KERNEL_INLINE void index_gradients(REAL (*place)[LANES], int classes, vec labels,
                                   index_factors factors, vec exp_of_maximum, vec weight,
                                   int is_exact, char *destination, ptrdiff_t step) {
    factors.of_maximum = gradient_of_maximum(exp_of_maximum, factors.of_exponentials, weight);
    const vec product = v_mul(exp_of_maximum, factors.of_exponentials);
    if (is_exact && v_mask_bits(v_equal(product, factors.of_maximum)) != (1u << LANES) - 1)
        EACH_CLASS(classes, labels,
                   some_index_gradients(place, k, count, from_k, factors, exp_of_maximum, 1,
                                        destination, step));
    else
        EACH_CLASS(classes, labels,
                   some_index_gradients(place, k, count, from_k, factors, exp_of_maximum, 0,
                                        destination, step));
}

/* a times losses that are finite numbers, in double. */
KERNEL_INLINE void weigh_finite_losses(vec loss, const double *weight, double *losses) {
#if REAL_BITS == 32
    v_store_f64(losses, v_mul_f64(v_load_f64(weight), v_low_half_as_f64(loss)));
    v_store_f64(losses + LANES / 2,
                v_mul_f64(v_load_f64(weight + LANES / 2), v_high_half_as_f64(loss)));
#else
    v_store(losses, v_mul(v_load(weight), loss));
#endif
}

/* What takes the place of losses that the lanes' type does not hold as numbers: NaN, and in double
 * those too small for it. */
static NEVER_INLINE void mend_losses(const index_sums *sums, vec loss, vec_mask is_number,
                                     int has_tiny, const double *weight, double *losses) {
    ALIGNED_64 REAL others[LANES], exp_of_label[LANES], numbers[LANES];
    v_store(others, sums->others.high);
    v_store(exp_of_label, sums->exp_of_label.high);
    v_store(numbers, v_select(is_number, loss, v_splat(NAN)));
    for (int lane = 0; lane < LANES; ++lane) {
        double number = (double)numbers[lane];
        if (has_tiny && number < (double)TINY_LOSS && others[lane] > 0)
            number = (double)others[lane] / (double)exp_of_label[lane];
        /* no 0 * inf; a zero keeps the sign that weigh_finite_losses would give it */
        losses[lane] = weight[lane] == 0 && number == number ? weight[lane] : weight[lane] * number;
    }
}
