/* Entropy of rows' softmax, and its gradient.  A template over REAL_BITS.
 *
 * Knows: the two formulas, and how an entropy near 0 keeps its digits.
 * Must not know: instruction sets, threads, Python; the loss.
 *
 *     d = (m - x) / T >= 0      e = exp(-d)      R = sum of e but the maximum's      M = sum of e d
 *     p = e / (1 + R)
 *     H = log(1 + R) + D                       D = M / (1 + R) = sum of p d
 *     dH/dx = p (d - D) / T                    = -p (log p + H) / T
 *
 * H is a sum of two numbers of which neither is negative, and both are sums of such: nothing
 * cancels, however small they are. A class of probability 0 adds 0 to both and has gradient 0.
 * With u half a unit in the last place at 1, exponentials are off by at most 1.25 u (1.9 u
 * without FMA), d by 2 u (u at T = 1) and the sums by nothing that shows:
 *
 *     H        at most 7 u (6 u at T = 1) of itself, and one rounding
 *     dH/dx    at most 11 u (13 u without FMA) of p (|log p| + H) / T
 *
 * as long as numbers are normal and T is below LARGEST_TEMPERATURE.  Exponentials below
 * 2^-(EXPONENT_BIAS + SCALE_UP - 1) count as 0, which is below the smallest number for H too.
 *
 * Two sweeps after the maximum, and one more for the gradient, which may take the logits' place.
 */

/* What exponentials and distances of one row are made of. */
typedef struct {
    exponential_reference reference;
    vec shift;        /* what logits lose before their exponentials are taken: 0 or, exactly, m */
    vec half;         /* 1/2 where m - x may overflow, else 1 */
    vec half_maximum; /* that times m */
    vec inverse;      /* 1 / (half T) */
} entropy_frame;

KERNEL_INLINE entropy_frame entropy_frame_of(REAL maximum, double temperature) {
    const exponent_scale scale = scale_for(temperature);
    /* below that, whatever is so far from the maximum that m - x overflows has the exponential 0 */
    const REAL half = (REAL)(temperature < (REAL_BITS == 32 ? 0x1p100 : 0x1p1000) ? 1 : 0.5);
    const double inverse = 1 / ((double)half * temperature);
    const int is_huge = fabs((double)maximum) >= (double)scale.huge_logit;
    entropy_frame frame;
    frame.shift = v_splat(is_huge ? maximum : 0);
    frame.half = v_splat(half);
    frame.half_maximum = v_splat(half * maximum);
    frame.inverse =
        v_splat((REAL)(inverse < (double)LARGEST_REAL ? inverse : (double)LARGEST_REAL));
    frame.reference =
        reference_for(is_huge ? v_splat(0) : reference_exponent(v_splat(maximum), &scale), &scale);
    return frame;
}

/* Exponentials e and distances d of `count` vectors (1 or INTERLEAVED) of logits; d is 0 where e
 * is. */
KERNEL_INLINE void entropy_terms(const vec *x, int count, const entropy_frame *frame, vec *e,
                                 vec *d) {
    vec shifted[4];
    EACH_OF(count, shifted[j] = v_sub(x[j], frame->shift));
    scaled_exponentials(shifted, count, frame->reference, e, NULL);
    EACH_OF(count,
            d[j] = v_mul(v_sub(frame->half_maximum, v_mul(x[j], frame->half)), frame->inverse));
    EACH_OF(count, d[j] = v_select(v_equal(e[j], v_splat(0)), v_splat(0), d[j]));
}

typedef struct {
    wide_sum others, moment;
} entropy_sums;

KERNEL_INLINE void add_entropy_terms(entropy_sums *sums, const REAL *logits, int64_t count,
                                     const entropy_frame *frame) {
    vec x[4], e[4], d[4];
    int64_t k = 0;
    for (; k + INTERLEAVED * LANES <= count; k += INTERLEAVED * LANES) {
        EACH_OF(INTERLEAVED, x[j] = v_load(logits + k + j * LANES));
        entropy_terms(x, INTERLEAVED, frame, e, d);
        EACH_OF(INTERLEAVED, wide_add(&sums->others, e[j]);
                wide_add_product(&sums->moment, e[j], d[j]));
    }
    for (; k < count; k += LANES) {
        x[0] = v_load_first(logits + k, count - k < LANES ? (int)(count - k) : LANES, -INFINITY);
        entropy_terms(x, 1, frame, e, d);
        wide_add(&sums->others, e[0]);
        wide_add_product(&sums->moment, e[0], d[0]);
    }
}

KERNEL_INLINE vec entropy_gradient(vec e, vec d, vec_pair mean, const scaled_factor *factor) {
    const vec above_mean = v_sub(v_sub(d, mean.high), mean.low);
    return times_factor(v_mul(e, above_mean), factor, v_splat(0));
}

/* `slope` is what p (d - D) is multiplied with. */
KERNEL_INLINE void write_entropy_gradient(const REAL *logits, REAL *grad, int64_t count,
                                          const entropy_frame *frame, vec_pair mean, double slope,
                                          double sum) {
    const double over_sum = slope / sum;
    const scaled_factor factor = scaled_factor_of(over_sum, third_of_exponent(over_sum));
    vec x[4], e[4], d[4];
    int64_t k = 0;
    for (; k + INTERLEAVED * LANES <= count; k += INTERLEAVED * LANES) {
        EACH_OF(INTERLEAVED, x[j] = v_load(logits + k + j * LANES));
        entropy_terms(x, INTERLEAVED, frame, e, d);
        EACH_OF(INTERLEAVED,
                v_store(grad + k + j * LANES, entropy_gradient(e[j], d[j], mean, &factor)));
    }
    for (; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        x[0] = v_load_first(logits + k, left, -INFINITY);
        entropy_terms(x, 1, frame, e, d);
        v_store_first(grad + k, left, entropy_gradient(e[0], d[0], mean, &factor));
    }
}

/* H of one row; its gradient times `slope` to `grad` unless that is NULL. */
KERNEL_INLINE double entropy_row(const REAL *logits, REAL *grad, int64_t count, double temperature,
                                 double slope) {
    const char *row = (const char *)logits;
    REAL smallest;
    const REAL maximum = block_maximum(row, count, XENT_AS_COMPUTED, &smallest);
    const int64_t likeliest =
        isfinite(maximum) ? first_position_of(maximum, row, count, XENT_AS_COMPUTED) : -1;
    if (likeliest >= 0) {
        const entropy_frame frame = entropy_frame_of(maximum, temperature);
        entropy_sums sums = {zero_wide(), zero_wide()};
        add_entropy_terms(&sums, logits, likeliest, &frame);
        add_entropy_terms(&sums, logits + likeliest + 1, count - likeliest - 1, &frame);
        const vec_pair top =
            scaled_exponential_pair(v_sub(v_splat(maximum), frame.shift), frame.reference);
        const vec_pair_f64 pivot = {v_splat_f64((double)v_first(top.high)),
                                    v_splat_f64((double)v_first(top.low))};
        const double others = wide_total(sums.others);
        const double sum = others + ((double)v_first(top.high) + (double)v_first(top.low));
        double error;
        const double moment = wide_total_and_error(sums.moment, &error), mean = moment / sum;
        if (isfinite(sum) && isfinite(mean)) {
            if (grad)
                write_entropy_gradient(logits, grad, count, &frame, splat_pair(mean, 0), slope,
                                       sum);
            return v_first_f64(log_of_ratio(v_splat_f64(others), pivot)) + mean;
        }
    }
    if (grad)
        fill_classes(grad, count, NAN);
    return NAN;
}

/* Function of the contract. */
static double entropy_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                           void *workspace) {
    double entropies[XENT_MAX_ROWS_PER_CALL];
    (void)workspace;
    xent_assert_batch(batch, sizeof(REAL));
    xent_assert_computed_matrices(batch, 0);
    xent_assert_row_range(first_row, row_count, batch->rows);
    for (int64_t k = 0; k < row_count; ++k) {
        const int64_t row = first_row + k;
        const double weight = batch->sample_weight
                                  ? batch->weight_factor * batch->sample_weight[row]
                                  : batch->weight_factor;
        const double upstream =
            batch->grad_output ? batch->grad_output[row * batch->grad_output_step] : 1;
        REAL *grad = batch->grad.data ? (REAL *)(void *)xent_row(&batch->grad, row) : NULL;
        entropies[k] =
            weight * entropy_row((const REAL *)(const void *)xent_row(&batch->logits, row), grad,
                                 batch->classes, batch->options.temperature,
                                 weight * upstream / batch->options.temperature);
    }
    write_losses(batch, first_row, row_count, entropies);
    return xent_pairwise_sum(entropies, row_count);
}

static size_t entropy_workspace_bytes(int64_t classes) {
    (void)classes;
    return 0;
}
