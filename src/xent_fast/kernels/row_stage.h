/* The few numbers a row needs in double, whatever the dtype of its logits.  Include it once, while
 * REAL_BITS is 64.
 *
 * Knows: loss and gradient factors of a row from its sums, several rows side by side; a row's
 * weight and label.
 * Must not know: how rows are cut or laid out.
 *
 * With T the sum of all exponentials but the pivot's e_p, all relative to one reference, and the
 * row's weight a:
 *
 *     index targets (the pivot is the target y)
 *         loss = a log1p(T / e_y)      or, where e_y is next to nothing beside T,
 *         loss = a ((m - x_y) + log1p(((T - e_m) + e_y) / e_m))
 *         grad_y = -a T / (T + e_y)
 *     targets with mass q (the row's maximum)
 *         loss = a (Q log1p(T / e_m) + sum of q (m - x))
 *         grad_m = a ((Q - q_m) e_m - q_m T) / (T + e_m)
 *     factor of all other exponentials
 *         a Q / (T + e_p)
 *
 * With terms of lse (lse_terms.h), Q plus their slope takes the place of Q before e and in the
 * factor. A temperature divides x, and a in the gradient.
 *
 * Leaving the pivot out of T keeps what small losses are made of.
 */

/* Rows side by side, one a lane: what their forward sweeps left. */
typedef struct {
    ALIGNED_64 double others[LANES], others_low[LANES]; /* T as a sum of two */
    ALIGNED_64 double maximum[LANES],
        shift[LANES]; /* m; what the logits lost before their exponentials were taken */
    ALIGNED_64 double reference[LANES]; /* of exponentials kept times 2^SCALE_UP of float64 */
    ALIGNED_64 double weight[LANES],
        gradient_weight[LANES]; /* a, and what takes its place in the gradient */
    /* class indices */
    ALIGNED_64 double target_logit[LANES];
    /* the same, where lse is wanted: T without the maximum instead of the target, as a sum of two,
     * and e of the maximum in exp_of_pivot */
    ALIGNED_64 double below[LANES], below_low[LANES];
    /* targets with mass; other_mass: Q - q of the pivot */
    ALIGNED_64 double exp_of_pivot[LANES], target_mass[LANES], pivot_target[LANES],
        other_mass[LANES];
    ALIGNED_64 double distance[LANES]; /* sum of q (m - x) times DISTANCE_UNIT */
} row_sums;

/* What goes back to them. */
typedef struct {
    ALIGNED_64 double loss[LANES];
    ALIGNED_64 double factor[LANES], factor_low[LANES]; /* a sum of two */
    ALIGNED_64 double pivot_gradient[LANES];
    ALIGNED_64 double lse[LANES];
    ALIGNED_64 double log_of_sum[LANES]; /* lse - m / T, targets with mass */
    unsigned is_number;                  /* bit k for lane k: else loss and gradient are NaN */
} row_results;

enum { ROWS_AT_ONCE = LANES, FLOAT64_SCALE_UP = SCALE_UP };

/* What is the same for all rows of a call. */
typedef struct {
    exponent_scale_f64 scale;
    double temperature;
    xent_options options;
    double unit; /* of the row's exponentials, over that of float64's */
    int wants_lse, has_lse_terms;
    xent_output output;
} row_settings;

KERNEL_INLINE row_settings row_settings_of(const xent_batch *batch) {
    const int has_lse_terms = lse_counts(&batch->options);
    const row_settings settings = {scale_for_f64(batch->options.temperature),
                                   batch->options.temperature,
                                   batch->options,
                                   1,
                                   batch->lse != NULL || has_lse_terms,
                                   has_lse_terms,
                                   batch->output};
    return settings;
}

/* 2^n for integer n from -1022 to 0. */
KERNEL_INLINE double power_of_normal_two(double n) {
    return v_first(v_bits_to_exponent(v_splat(ROUNDING_MAGIC + EXPONENT_BIAS + n)));
}

/* 2^n for integer n <= 0, subnormal numbers too. */
KERNEL_INLINE double power_of_two(double n) {
    XENT_ASSERT(n <= 0 && n == floor(n));
    if (n < -1022)
        return n < -1074 ? 0 : 0x1p-1022 * power_of_normal_two(n + 1022);
    return power_of_normal_two(n);
}

/* exp(a / T + n ln 2) for an integer n below 2^31 and a sum below 1: a / T and n ln 2 may cancel, a
 * / T be -inf. */
KERNEL_INLINE double exponential_of_difference(double a, double n, double temperature) {
    const double product = n * ln_2_f64, quotient = a / temperature;
    XENT_ASSERT(fabs(n) < 0x1p31 && n == floor(n));
    if (quotient + product <
        -1000) /* below half the smallest number; beyond it the residuals may be no numbers */
        return 0;
    const exponent_scale_f64 unit = unit_scale_f64();
    double sum = 0, error = 0;
    compensated_add(&sum, &error, quotient);
    compensated_add(&sum, &error, product);
    compensated_add(&sum, &error, -scalar_product_residual(quotient, temperature, a) / temperature);
    compensated_add(&sum, &error, scalar_product_residual(n, ln_2_f64, product));
    compensated_add(&sum, &error, n * ln_2_tail_f64);
    const double exponential =
        scaled_exponential_of(sum, 0, &unit) * power_of_two(-SCALE_UP) / double_unit;
    return exponential + exponential * error;
}

KERNEL_INLINE vec log_of_ratio(vec numerator, vec_pair denominator) {
    const vec_pair whole = {numerator, v_splat(0)};
    const vec_pair ratio = pair_quotient(whole, denominator, inverse_of(denominator));
    return pair_total(log_of_1_plus(pair_total(ratio)));
}

/* lse - x_y, index targets. */
KERNEL_INLINE vec index_losses(const row_sums *rows, vec others, vec exp_of_target,
                               exponential_reference reference, vec temperature, double unit) {
    const vec zero = v_splat(0), target_logit = v_load(rows->target_logit);
    const vec_pair target = {exp_of_target, zero};
    const vec loss = log_of_ratio(others, target);
    const vec_mask is_distant = v_greater(v_splat(DISTANT_TARGET), exp_of_target);
    if (v_mask_bits(is_distant) == 0)
        return loss;
    const vec maximum = v_load(rows->maximum);
    const vec exp_of_maximum = scaled_exponential(v_sub(maximum, v_load(rows->shift)), reference);
    const vec_pair top = {v_mul(exp_of_maximum, v_splat(unit)), zero};
    const vec below = v_add(v_sub(others, top.high), exp_of_target);
    const vec distance = v_div(v_sub(maximum, target_logit), temperature),
              log_sum = log_of_ratio(below, top);
    return v_select(is_distant, v_add(distance, log_sum), loss);
}

/* The lanes from `count` on become what the first one is: numbers, and none that take longer. */
KERNEL_INLINE void repeat_first_lane(row_sums *rows, int count) {
    double (*members)[LANES] = (double (*)[LANES])(void *)rows;
    XENT_ASSERT(count >= 1 && count <= LANES);
    for (size_t member = 0; member < sizeof *rows / sizeof *members; ++member)
        for (int k = count; k < LANES; ++k)
            members[member][k] = members[member][0];
}

/* Loss and gradient factors of rows side by side. */
static NEVER_INLINE void settle_rows(const row_sums *rows, const row_settings *settings,
                                     row_results *results, int kind) {
    const vec zero = v_splat(0), weight = v_load(rows->weight),
              temperature = v_splat(settings->temperature);
    const int is_softmax = settings->output == XENT_PROBABILITIES;
    const vec gradient_weight =
        is_softmax ? v_splat(1) : v_div(v_load(rows->gradient_weight), temperature);
    vec_pair sum = {v_load(rows->others), v_load(rows->others_low)};
    const vec others = v_add(sum.high, sum.low);
    vec exp_of_pivot, loss, lse = zero, down = others, mass = v_splat(1);
    if (HAS_MASS(kind)) {
        const vec pivot_target = v_load(rows->pivot_target);
        mass = v_load(rows->target_mass);
        exp_of_pivot = v_load(rows->exp_of_pivot);
        const vec_pair pivot = {exp_of_pivot, zero};
        const vec log_sum = log_of_ratio(others, pivot);
        lse = v_add(v_div(v_load(rows->maximum), temperature), log_sum);
        v_store(results->log_of_sum, log_sum);
        const vec distance = v_div(v_load(rows->distance), temperature);
        loss = v_add(v_mul(mass, log_sum), v_mul(distance, v_splat(1 / DISTANCE_UNIT)));
        down = v_sub(v_mul(pivot_target, others), v_mul(v_load(rows->other_mass), exp_of_pivot));
    } else {
        const vec target_logit = v_load(rows->target_logit);
        const exponential_reference reference =
            reference_for(v_load(rows->reference), &settings->scale);
        exp_of_pivot = scaled_exponential(v_sub(target_logit, v_load(rows->shift)), reference);
        exp_of_pivot = v_mul(exp_of_pivot, v_splat(settings->unit));
        loss = index_losses(rows, others, exp_of_pivot, reference, temperature, settings->unit);
        if (settings->wants_lse) {
            /* from the maximum, whatever the target: what is added back to x_y would cancel */
            const vec_pair top = {v_load(rows->exp_of_pivot), zero};
            const vec below = v_add(v_load(rows->below), v_load(rows->below_low));
            lse = v_add(v_div(v_load(rows->maximum), temperature), log_of_ratio(below, top));
        }
    }
    if (settings->has_lse_terms) {
        const lse_terms terms = lse_terms_of(&settings->options, lse);
        loss = v_add(loss, v_mul(terms.left, terms.right));
        mass = v_add(mass, terms.slope);
        down = v_sub(down, v_mul(terms.slope, exp_of_pivot));
    }
    pair_add(&sum, exp_of_pivot);
    const vec inverse = inverse_of(sum);
    const vec_pair whole_mass = {mass, zero};
    vec_pair weight_over = {gradient_weight, zero}, whole_down = {down, zero};
    if (settings->temperature != 1 && !is_softmax)
        weight_over.low = v_div(v_sub(zero, product_residual(gradient_weight, temperature,
                                                             v_load(rows->gradient_weight))),
                                temperature);
    vec_pair numerator = pair_product(weight_over, whole_mass);
    if (is_softmax) {
        numerator.high = v_splat(1);
        numerator.low = zero;
        whole_down.high = v_sub(zero, exp_of_pivot);
    }
    const vec_pair factor = pair_quotient(numerator, sum, inverse);
    const vec ratio = pair_total(pair_quotient(whole_down, sum, inverse));
    vec weighted = v_mul(weight, loss);
    const vec_mask is_infinite = v_equal(loss, v_splat(INFINITY));
    if (!settings->has_lse_terms && v_mask_bits(is_infinite)) {
        /* m - x may overflow on the way to a result that does not; beside it the logarithm does not
         * show */
        const vec unit = v_splat(DISTANCE_UNIT);
        const vec distance = HAS_MASS(kind) ? v_load(rows->distance)
                                            : v_sub(v_mul(v_load(rows->maximum), unit),
                                                    v_mul(v_load(rows->target_logit), unit));
        const vec part = v_mul(weight, v_div(distance, temperature));
        weighted = v_select(is_infinite, v_mul(part, v_splat(1 / DISTANCE_UNIT)), weighted);
    }
    v_store(results->loss, v_select(v_equal(weight, zero), zero, weighted));
    const vec rounded = pair_total(factor), low = v_add(v_sub(factor.high, rounded), factor.low);
    v_store(results->factor, rounded);
    v_store(results->factor_low, v_keep(v_equal(low, low), low));
    v_store(results->pivot_gradient, v_sub(zero, v_mul(gradient_weight, ratio)));
    v_store(results->lse, lse);
    results->is_number = v_mask_bits(v_greater(sum.high, zero));
}

KERNEL_INLINE int is_ignored(const xent_labels *labels, int64_t label) {
    return labels->has_ignore_index && label == labels->ignore_index;
}

/* A label that another thread has spoilt since it was checked must not lead out of the row. */
KERNEL_INLINE int64_t clamped_label(int64_t label, int64_t classes) {
    return (uint64_t)label < (uint64_t)classes ? label : 0;
}
