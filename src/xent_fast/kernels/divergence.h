/* The divergence of two softmaxes, for vectors of numbers: along classes, or of rows of a few
 * classes side by side.  A template over REAL_BITS.
 *
 * Knows: the divergence's formulas, and those of rows whose lanes hold one class of each.
 * Must not know: instruction sets, threads, Python; how two losses are mixed.
 *
 * With the softmax P of the teacher's row y and Q of the student's row x, both at temperature T:
 *
 *     divergence = sum P d        slope = Q - P        d = log(P / Q)
 *
 *     d = ((y - max y) - (x - max x)) / T - (log Y - log X)
 *     log Y = log1p((1 - P_max) / P_max), 1 - P_max by a sum
 *
 * The divergence is added up as the sum of P (d + exp(-d) - 1), none of them negative and each
 * exact where P = Q:
 *
 *     |d| < 1       P d^2 (1/2! - d/3! + d^2/4! - ...)
 *     beyond        P d + (Q - P), which is Q where P = 0
 *
 * Where all d are small, at a high temperature or where the two agree, P and Q as rounded numbers
 * say nothing of their difference, and the logits say all. With v = (y - x) - (y_m - x_m), taken
 * without rounding y - x, and u = v - U = T d
 *
 *     F(d) = (d + exp(-d) - 1) / d^2      M = sum P v (1 - v F(v / T) / T)
 *     U = -T log(1 - M / T), so that sum Q = 1
 *     T^2 divergence = sum P u^2 F(d)      T slope = -P u (1 - d F(d))
 *     in which no T^2 and no difference of near numbers is left
 *
 * To first order the sum does not change with a constant added to every d, so that errors of log Y
 * - log X do not show.  The differences Q - P add up to 0: that of the teacher's likeliest class m
 * is minus all others where P_m + Q_m > 1.
 */
#undef DIVERGENCE_TERMS
#if REAL_BITS == 32
#define DIVERGENCE_TERMS 10 /* the next one, 1/12!, is below 2^-28 */
#else
#define DIVERGENCE_TERMS 17 /* the next one, 1/19!, is below 2^-56 */
#endif

/* (-1)^k / (k + 2)! */
static const REAL divergence_polynomial[17] = {
    (REAL)(1.0 / 2),
    (REAL)(-1.0 / 6),
    (REAL)(1.0 / 24),
    (REAL)(-1.0 / 120),
    (REAL)(1.0 / 720),
    (REAL)(-1.0 / 5040),
    (REAL)(1.0 / 40320),
    (REAL)(-1.0 / 362880),
    (REAL)(1.0 / 3628800),
    (REAL)(-1.0 / 39916800),
    (REAL)(1.0 / 479001600),
    (REAL)(-1.0 / 6227020800),
    (REAL)(1.0 / 87178291200),
    (REAL)(-1.0 / 1307674368000),
    (REAL)(1.0 / 20922789888000),
    (REAL)(-1.0 / 355687428096000),
    (REAL)(1.0 / 6402373705728000),
};

/* F(d) */
KERNEL_INLINE vec divergence_series(vec d) {
    const REAL *c = divergence_polynomial;
    vec series = v_splat(c[DIVERGENCE_TERMS - 1]);
    for (int k = DIVERGENCE_TERMS - 2; k >= 0; --k)
        series = v_fma(series, d, v_splat(c[k]));
    return series;
}

/* P (d + exp(-d) - 1), the difference Q - P given. */
KERNEL_INLINE vec divergence_terms(vec big_p, vec d, vec difference) {
    const vec zero = v_splat(0), series = divergence_series(d);
    const vec square = v_mul(d, d);
    const vec near = v_mul(v_mul(square, series), big_p), far = v_fma(big_p, d, difference);
    const vec_mask is_near = v_greater(v_splat(1), square);
    return v_select(v_equal(big_p, zero), difference, v_select(is_near, near, far));
}

/* y - x as a sum of two; beside an infinite one there is no error. */
KERNEL_INLINE vec_pair exact_difference(vec teacher, vec student) {
    vec_pair difference;
    difference.high = two_sum(teacher, v_sub(v_splat(0), student), &difference.low);
    difference.low = v_keep(v_equal(difference.low, difference.low), difference.low);
    return difference;
}

#if REAL_BITS == 64
/* -T log(1 - M / T) for |M| / T up to 0.3, by 2 T atanh(s) with s = (M / T) / (2 - M / T) */
KERNEL_INLINE vec common_shifts(vec mean, double temperature) {
    const vec ratio = v_div(mean, v_splat(temperature)), below = v_sub(v_splat(2), ratio);
    const vec s = v_div(ratio, below), square = v_mul(s, s);
    vec series = v_splat(0);
    for (int k = 23; k >= 1; k -= 2)
        series = v_fma(series, square, v_splat(1.0 / k));
    return v_mul(v_mul(v_splat(2), v_div(mean, below)), series);
}
#endif

/* --- lanes along rows ------------------------------------------------------------------------- */

/* Each lane's sum of two as a double. */
KERNEL_INLINE void widen_pair(vec_pair pair, vec_f64 *wide) {
#if REAL_BITS == 32
    wide[0] = v_add_f64(v_low_half_as_f64(pair.high), v_low_half_as_f64(pair.low));
    wide[1] = v_add_f64(v_high_half_as_f64(pair.high), v_high_half_as_f64(pair.low));
#else
    wide[0] = v_add(pair.high, pair.low);
#endif
}

/* a / b in double. */
KERNEL_INLINE void wide_quotient(vec_pair a, vec b, vec_f64 *quotient) {
    const vec_pair divisor = {b, v_splat(0)};
    vec_f64 below[LANES / 8];
    widen_pair(a, quotient);
    widen_pair(divisor, below);
    for (int j = 0; j < LANES / 8; ++j)
        quotient[j] = v_div_f64(quotient[j], below[j]);
}

/* The softmax of a vector of rows.  The first maximum's exponential is left out of the sum that its
 * logarithm is taken of. */
typedef struct {
    ALIGNED_64 REAL logits[MOST_CLASSES_ALONG_ROWS][LANES]; /* less what is taken from huge ones */
    ALIGNED_64 REAL exponentials[MOST_CLASSES_ALONG_ROWS][LANES]; /* relative to a power of two */
    vec likeliest, largest, exp_of_largest; /* the first maximum: its class, logit, exponential */
    vec total, log_of_total;                /* the logarithm: relative to exp_of_largest */
    vec_mask is_number;
} softmax_lanes;

/* All of it, of the logits that lie there. */
KERNEL_INLINE void softmax_of_columns(softmax_lanes *rows, int classes,
                                      const exponent_scale *scale) {
    const lane_columns columns = {(const char *)rows->logits, sizeof rows->logits[0]};
    lane_sums sums;
    sums.maximum = maximum_of_columns(columns, classes);
    const vec base = finite_maximum(sums.maximum);
    rows->largest = v_sub(base, shift_huge_columns(rows->logits, classes, base, scale->huge_logit));
    sum_softmax(columns, rows->exponentials, classes, rows->largest, scale, &sums, 0);
    const vec others = v_add(sums.sum_of_others.high, sums.sum_of_others.low);
    rows->likeliest = sums.pivot;
    rows->exp_of_largest = sums.exp_of_pivot.high;
    rows->total = v_add(others, rows->exp_of_largest);
    rows->log_of_total = log_of_1_plus_rounded(v_div(others, rows->exp_of_largest));
    rows->is_number = has_softmax(&sums, base);
}

/* What the divergence of a vector of rows is made of; the teacher's total is 1. */
typedef struct {
    vec inverse_temperature, shift, ratio; /* shift: log Y - log X; ratio of the totals */
    vec_pair terms, differences; /* sums but for the teacher's likeliest class, which has */
    vec distance_of_likeliest, difference_of_likeliest;
    vec farthest; /* the largest d^2 */
} divergence_lanes;

/* (y - max y) - (x - max x) of a class. */
KERNEL_INLINE vec distance_of_class(const softmax_lanes *teacher, const softmax_lanes *student,
                                    int64_t k) {
    return v_sub(v_sub(v_load(teacher->logits[k]), teacher->largest),
                 v_sub(v_load(student->logits[k]), student->largest));
}

/* `count` classes (1 or 2) from `k`: their terms and differences, which take the place of the
 * student's exponentials, to the sums given.  `likeliest` counts from there. */
KERNEL_INLINE void two_divergences(const softmax_lanes *teacher, softmax_lanes *student, int64_t k,
                                   int count, vec likeliest, divergence_lanes *lanes,
                                   vec *sum_of_terms, vec *sum_of_differences) {
    vec terms[4], differences[4]; /* EACH_OF names four */
    EACH_OF(count, const vec e = v_load(teacher->exponentials[k + j]);
            const vec distance = distance_of_class(teacher, student, k + j);
            const vec d = v_fms(distance, lanes->inverse_temperature, lanes->shift);
            const vec difference = v_fms(v_load(student->exponentials[k + j]), lanes->ratio, e);
            const vec_mask is_likeliest = v_equal(likeliest, v_splat(j));
            lanes->farthest = v_max(v_mul(d, d), lanes->farthest);
            lanes->distance_of_likeliest =
                v_select(is_likeliest, distance, lanes->distance_of_likeliest);
            lanes->difference_of_likeliest =
                v_select(is_likeliest, difference, lanes->difference_of_likeliest);
            v_store(student->exponentials[k + j], difference);
            terms[j] = v_drop(is_likeliest, divergence_terms(e, d, difference));
            differences[j] = v_drop(is_likeliest, difference));
    *sum_of_terms = sum_of_some(terms, count);
    *sum_of_differences = sum_of_some(differences, count);
}

/* The same of 1, 2 or 4 classes, added in a tree. */
KERNEL_INLINE void some_divergences(const softmax_lanes *teacher, softmax_lanes *student, int64_t k,
                                    int count, vec likeliest, divergence_lanes *lanes) {
    vec terms[2], differences[2];
    two_divergences(teacher, student, k, count < 2 ? 1 : 2, likeliest, lanes, terms, differences);
    if (count == 4)
        two_divergences(teacher, student, k + 2, 2, v_sub(likeliest, v_splat(2)), lanes, terms + 1,
                        differences + 1);
    pair_add(&lanes->terms, sum_of_some(terms, count == 4 ? 2 : 1));
    pair_add(&lanes->differences, sum_of_some(differences, count == 4 ? 2 : 1));
}

/* What is written of them: the gradient is `factor` times the slopes, which lie in the student's
 * exponentials' place but for the likeliest class of rows that have one here. */
typedef struct {
    vec likeliest, slope_of_likeliest, factor;
    vec_f64 divergence[LANES / 8]; /* times T^2 */
} divergence_results;

/* The weights of a vector of rows. */
typedef struct {
    ALIGNED_64 double of_loss[LANES]; /* b */
    vec weight, slope_weight;         /* b and b T */
    double temperature;
    unsigned leaving; /* bit k for lane k: the lanes' type cannot hold them */
} divergence_weights;

/* v of a class. */
KERNEL_INLINE vec near_difference(const softmax_lanes *teacher, const softmax_lanes *student,
                                  int64_t k, vec_pair of_likeliest) {
    const vec_pair difference =
        exact_difference(v_load(teacher->logits[k]), v_load(student->logits[k]));
    const vec v =
        v_add(v_sub(difference.high, of_likeliest.high), v_sub(difference.low, of_likeliest.low));
    return v_keep(v_equal(v, v), v);
}

/* Rows all of whose |v| / T are below 1/4, so that the d are below 1/2. */
KERNEL_INLINE vec_mask near_lanes(const softmax_lanes *teacher, const softmax_lanes *student,
                                  int classes, vec of_likeliest, vec inverse_temperature) {
    vec highest = v_splat(-INFINITY), minus_lowest = highest;
    for (int64_t k = 0; k < classes; ++k) {
        const vec distance = distance_of_class(teacher, student, k);
        highest = v_max(distance, highest);
        minus_lowest = v_max(v_sub(v_splat(0), distance), minus_lowest);
    }
    const vec largest = v_max(v_sub(highest, of_likeliest), v_add(minus_lowest, of_likeliest));
    return v_greater(v_splat((REAL)0.25), v_mul(largest, inverse_temperature));
}

/* The rows whose d are all small; `distance` is that of the likeliest class. */
static NEVER_INLINE void take_near_lanes(const softmax_lanes *teacher, softmax_lanes *student,
                                         int classes, const divergence_weights *weights,
                                         vec distance, divergence_results *results) {
    const vec one = v_splat(1), inverse_temperature = v_splat((REAL)(1 / weights->temperature));
    const vec_mask is_near = near_lanes(teacher, student, classes, distance, inverse_temperature);
    if (v_mask_bits(is_near) == 0)
        return;
    vec_pair of_likeliest = zero_pair(), mean = zero_pair(), sum = zero_pair();
    vec_f64 wide[LANES / 8];
    ALIGNED_64 double shifts[LANES];
    for (int64_t k = 0; k < classes; ++k) {
        const vec_mask is_likeliest = v_equal(teacher->likeliest, v_splat((REAL)k));
        const vec_pair difference =
            exact_difference(v_load(teacher->logits[k]), v_load(student->logits[k]));
        of_likeliest.high = v_select(is_likeliest, difference.high, of_likeliest.high);
        of_likeliest.low = v_select(is_likeliest, difference.low, of_likeliest.low);
    }
    for (int64_t k = 0; k < classes; ++k) {
        const vec v = near_difference(teacher, student, k, of_likeliest),
                  d = v_mul(v, inverse_temperature);
        const vec part = v_mul(v, v_sub(one, v_mul(d, divergence_series(d))));
        pair_add(&mean, v_mul(v_load(teacher->exponentials[k]), part));
    }
    wide_quotient(mean, teacher->total, wide);
    for (int j = 0; j < LANES / 8; ++j)
        v_store_f64(shifts + 8 * j, common_shifts(wide[j], weights->temperature));
    const vec shift = pairs_of(shifts).high;
    for (int64_t k = 0; k < classes; ++k) {
        const vec u = v_sub(near_difference(teacher, student, k, of_likeliest), shift);
        const vec d = v_mul(u, inverse_temperature), series = divergence_series(d);
        const vec e = v_load(teacher->exponentials[k]);
        const vec slope = v_mul(v_mul(e, u), v_sub(one, v_mul(d, series)));
        v_store(student->exponentials[k],
                v_select(is_near, slope, v_load(student->exponentials[k])));
        pair_add(&sum, v_mul(e, v_mul(v_mul(u, u), series)));
    }
    const vec factor = v_div(v_sub(v_splat(0), weights->weight), teacher->total);
    results->factor = v_select(is_near, factor, results->factor);
    results->likeliest = v_select(is_near, v_splat(-1), results->likeliest);
    wide_quotient(sum, teacher->total, wide);
    const unsigned taken = v_mask_bits(is_near);
    ALIGNED_64 double near[LANES], far[LANES];
    for (int j = 0; j < LANES / 8; ++j) {
        v_store_f64(near + 8 * j, wide[j]);
        v_store_f64(far + 8 * j, results->divergence[j]);
    }
    for (int lane = 0; lane < LANES; ++lane)
        far[lane] = taken >> lane & 1 ? near[lane] : far[lane];
    for (int j = 0; j < LANES / 8; ++j)
        results->divergence[j] = v_load_f64(far + 8 * j);
}

/* A vector of rows from their softmaxes. */
KERNEL_INLINE divergence_results diverge(const softmax_lanes *teacher, softmax_lanes *student,
                                         int classes, const divergence_weights *weights) {
    const vec zero = v_splat(0), e = teacher->exp_of_largest;
    const double inverse = 1 / weights->temperature,
                 square = weights->temperature * weights->temperature;
    divergence_lanes lanes = {v_splat((REAL)inverse),
                              v_sub(teacher->log_of_total, student->log_of_total),
                              v_div(teacher->total, student->total),
                              zero_pair(),
                              zero_pair(),
                              zero,
                              zero,
                              zero};
    divergence_results results;
    EACH_CLASS(classes, teacher->likeliest,
               some_divergences(teacher, student, k, count, from_k, &lanes));
    const vec distance = lanes.distance_of_likeliest,
              d = v_fms(distance, lanes.inverse_temperature, lanes.shift);
    const vec both = v_add(v_add(e, e), lanes.difference_of_likeliest);
    results.likeliest = teacher->likeliest;
    results.slope_of_likeliest =
        v_select(v_greater(both, teacher->total),
                 v_sub(zero, v_add(lanes.differences.high, lanes.differences.low)),
                 lanes.difference_of_likeliest);
    pair_add(&lanes.terms, divergence_terms(e, d, results.slope_of_likeliest));
    /* beside an infinite sum the error is inf - inf */
    lanes.terms.low = v_keep(v_equal(lanes.terms.low, lanes.terms.low), lanes.terms.low);
    wide_quotient(lanes.terms, teacher->total, results.divergence);
    for (int j = 0; j < LANES / 8; ++j)
        results.divergence[j] = v_mul_f64(results.divergence[j], v_splat_f64(square));
    results.factor = v_div(weights->slope_weight, teacher->total);
    if (v_mask_bits(v_greater(v_splat(1), lanes.farthest)))
        take_near_lanes(teacher, student, classes, weights, distance, &results);
    return results;
}
