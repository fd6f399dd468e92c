/* Loss of a student against a teacher and against targets, and its gradient.  A template over REAL_BITS.
 *
 * Knows: the divergence of two softmaxes, and how two losses are mixed.
 * Must not know: instruction sets, threads, Python; how a softmax, or the loss of targets, is computed.
 *
 * With the softmax P of the teacher's row y and Q of the student's row x, both at temperature T, and b = a alpha the row's weight:
 *
 *     loss = b T^2 sum P d + loss of the targets      grad = b T (Q - P) + its gradient      d = log(P / Q)
 *
 *     d = ((y - max y) - (x - max x)) / T - (log Y - log X)      log Y = log1p((1 - P_max) / P_max), 1 - P_max by a sum
 *
 * The divergence is added up as the sum of P (d + exp(-d) - 1), none of them negative and each exact where P = Q:
 *
 *     |d| < 1       P d^2 (1/2! - d/3! + d^2/4! - ...)
 *     beyond        P d + (Q - P), which is Q where P = 0
 *
 * Where all d are small, at a high temperature or where the two agree, P and Q as rounded numbers say nothing of their
 * difference, and the logits say all. With v = (y - x) - (y_m - x_m), taken without rounding y - x, and u = v - U = T d
 *
 *     F(d) = (d + exp(-d) - 1) / d^2     M = sum P v (1 - v F(v / T) / T)     U = -T log(1 - M / T), so that sum Q = 1
 *     loss = b sum P u^2 F(d)            grad = -b P u (1 - d F(d))           in which no T^2 and no difference of near numbers is left
 *
 * To first order the sum does not change with a constant added to every d, so that errors of log Y - log X do not show.  The
 * differences Q - P add up to 0: that of the teacher's likeliest class m is minus all others where P_m + Q_m > 1.
 */
#undef DIVERGENCE_TERMS
#if REAL_BITS == 32
#define DIVERGENCE_TERMS 10 /* the next one, 1/12!, is below 2^-28 */
#else
#define DIVERGENCE_TERMS 17 /* the next one, 1/19!, is below 2^-56 */
#endif

/* (-1)^k / (k + 2)! */
static const REAL NAME(divergence_polynomial)[17] = {
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

#if REAL_BITS == 64
KERNEL_INLINE double log_of_1_plus_number(double r) {
    return v_first(NAME(pair_total)(NAME(log_of_1_plus)(v_splat(r))));
}
#endif

/* What one row's d are made of, and what the gradient is multiplied with. */
typedef struct {
    vec largest_of_teacher, largest_of_student, inverse_temperature, shift;
    NAME(scaled_factor) factor;
} NAME(divergence_frame);

typedef struct {
    NAME(wide) terms, differences;
} NAME(divergence_sums);

/* F(d) */
KERNEL_INLINE vec NAME(divergence_series)(vec d) {
    const REAL *c = NAME(divergence_polynomial);
    vec series = v_splat(c[DIVERGENCE_TERMS - 1]);
    for (int k = DIVERGENCE_TERMS - 2; k >= 0; --k)
        series = v_fma(series, d, v_splat(c[k]));
    return series;
}

/* P (d + exp(-d) - 1), the difference Q - P given. */
KERNEL_INLINE vec NAME(divergence_terms)(vec big_p, vec d, vec difference) {
    const vec zero = v_splat(0), series = NAME(divergence_series)(d);
    const vec near = v_mul(v_mul(v_mul(d, d), series), big_p), far = v_fma(big_p, d, difference);
    const vec_mask is_near = v_greater(v_splat(1), v_max(v_sub(zero, d), d));
    return v_select(v_equal(big_p, zero), difference, v_select(is_near, near, far));
}

KERNEL_INLINE vec NAME(log_ratios)(vec teacher, vec student, const NAME(divergence_frame) * frame) {
    const vec distance = v_sub(v_sub(teacher, frame->largest_of_teacher), v_sub(student, frame->largest_of_student));
    return v_sub(v_mul(distance, frame->inverse_temperature), frame->shift);
}

/* 1 - p of the likeliest class, and its p, which gives way to 0. */
KERNEL_INLINE double NAME(take_out_likeliest)(REAL *p, int64_t count, int64_t likeliest, REAL *largest) {
    *largest = p[likeliest];
    p[likeliest] = 0;
    return NAME(wide_total)(NAME(sum_of)(p, count));
}

/* Gradient of a vector of classes, of which `count` are there; what they add goes to `terms` and `differences`. */
KERNEL_INLINE vec NAME(distil_vector)(vec big_p, vec big_q, vec teacher, vec student, vec grad_of_targets,
                                      const NAME(divergence_frame) * frame, vec *term, vec *difference) {
    *difference = v_sub(big_q, big_p);
    *term = NAME(divergence_terms)(big_p, NAME(log_ratios)(teacher, student, frame), *difference);
    return v_add(NAME(times_factor)(*difference, &frame->factor, v_splat(0)), grad_of_targets);
}

/* All classes but the one whose P and Q were set to 0. `grad_of_targets` may be NULL. */
KERNEL_INLINE NAME(divergence_sums)
    NAME(distil_classes)(const REAL *big_p, const REAL *big_q, const REAL *teacher, const REAL *student,
                         const REAL *grad_of_targets, REAL *grad, int64_t count, const NAME(divergence_frame) * frame) {
    const vec zero = v_splat(0);
    NAME(divergence_sums) sums = {NAME(zero_wide)(), NAME(zero_wide)()};
    vec terms[4], differences[4], grads[4];
    int64_t k = 0;
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        EACH_OF(4, const int64_t at = k + j * LANES;
                grads[j] = NAME(distil_vector)(
                    v_load(big_p + at), v_load(big_q + at), v_load(teacher + at), v_load(student + at),
                    grad_of_targets ? v_load(grad_of_targets + at) : zero, frame, terms + j, differences + j);
                v_store(grad + at, grads[j]));
        NAME(add_four)(&sums.terms, terms);
        NAME(add_four)(&sums.differences, differences);
    }
    for (; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        grads[0] = NAME(distil_vector)(v_load_first(big_p + k, left, 0), v_load_first(big_q + k, left, 0),
                                       v_load_first(teacher + k, left, 0), v_load_first(student + k, left, 0),
                                       grad_of_targets ? v_load_first(grad_of_targets + k, left, 0) : zero, frame,
                                       terms, differences);
        v_store_first(grad + k, left, grads[0]);
        NAME(wide_add)(&sums.terms, terms[0]);
        NAME(wide_add)(&sums.differences, differences[0]);
    }
    return sums;
}

/* What the v of a row are relative to. */
typedef struct {
    NAME(pair) of_likeliest;        /* y_m - x_m */
    vec teacher, student;           /* y_m and x_m, for lanes where no class is */
    vec inverse_temperature, shift; /* 1 / T and U */
    NAME(scaled_factor) factor;
} NAME(near_frame);

/* y - x as a sum of two; beside an infinite one there is no error. */
KERNEL_INLINE NAME(pair) NAME(exact_difference)(vec teacher, vec student) {
    NAME(pair) difference;
    difference.high = NAME(two_sum)(teacher, v_sub(v_splat(0), student), &difference.low);
    difference.low = v_keep(v_equal(difference.low, difference.low), difference.low);
    return difference;
}

/* v of a vector of classes; 0 where both logits are -inf. */
KERNEL_INLINE vec NAME(logit_differences)(vec teacher, vec student, const NAME(near_frame) * frame) {
    const NAME(pair) d = NAME(exact_difference)(teacher, student);
    const vec v = v_add(v_sub(d.high, frame->of_likeliest.high), v_sub(d.low, frame->of_likeliest.low));
    return v_keep(v_equal(v, v), v);
}

KERNEL_INLINE vec NAME(differences_at)(const REAL *teacher, const REAL *student, int64_t k, int64_t count,
                                       const NAME(near_frame) * frame) {
    const int left = count - k < LANES ? (int)(count - k) : LANES;
    vec y = frame->teacher, x = frame->student;
    if (left == LANES) {
        y = v_load(teacher + k);
        x = v_load(student + k);
    } else {
        y = v_load_first(teacher + k, left, v_first(y));
        x = v_load_first(student + k, left, v_first(x));
    }
    return NAME(logit_differences)(y, x, frame);
}

KERNEL_INLINE NAME(near_frame) NAME(near_frame_of)(REAL teacher, REAL student, double temperature, double weight) {
    const double inverse = 1 / temperature;
    const NAME(near_frame) frame = {NAME(exact_difference)(v_splat(teacher), v_splat(student)),
                                    v_splat(teacher),
                                    v_splat(student),
                                    v_splat((REAL)(inverse < LARGEST_REAL ? inverse : LARGEST_REAL)),
                                    v_splat(0),
                                    NAME(scaled_factor_of)(-weight, NAME(third_of_exponent)(weight))};
    return frame;
}

/* Whether all |v| / T are below 1/4, so that the d are below 1/2. */
KERNEL_INLINE int NAME(is_near)(const REAL *teacher, const REAL *student, int64_t count,
                                const NAME(near_frame) * frame) {
    vec largest = v_splat(0);
    for (int64_t k = 0; k < count; k += LANES) {
        const vec v = v_mul(NAME(differences_at)(teacher, student, k, count, frame), frame->inverse_temperature);
        largest = v_max(v_max(v_sub(v_splat(0), v), v), largest);
    }
    return v_largest(largest) < (REAL)0.25;
}

/* -T log(1 - M / T) for |M| / T up to 0.3, by 2 T atanh(s) with s = (M / T) / (2 - M / T) */
KERNEL_INLINE double NAME(common_shift)(double mean, double temperature) {
    const double ratio = mean / temperature, s = ratio / (2 - ratio), square = s * s;
    double series = 0;
    for (int k = 23; k >= 1; k -= 2)
        series = series * square + 1.0 / k;
    return 2 * (mean / (2 - ratio)) * series;
}

/* A row whose d are all small: T^2 times its divergence, and the gradient to `grad`. */
static NEVER_INLINE double NAME(distil_near_row)(const REAL *big_p, const REAL *teacher, const REAL *student,
                                                 const REAL *grad_of_targets, REAL *grad, int64_t count,
                                                 double temperature, NAME(near_frame) frame) {
    const vec one = v_splat(1), zero = v_splat(0);
    NAME(wide) mean = NAME(zero_wide)(), sum = NAME(zero_wide)();
    for (int64_t k = 0; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        const vec v = NAME(differences_at)(teacher, student, k, count, &frame);
        const vec d = v_mul(v, frame.inverse_temperature);
        const vec p = NAME(load_up_to)(big_p + k, left, 0);
        NAME(wide_add)(&mean, v_mul(p, v_mul(v, v_sub(one, v_mul(d, NAME(divergence_series)(d))))));
    }
    frame.shift = v_splat((REAL)NAME(common_shift)(NAME(wide_total)(mean), temperature));
    for (int64_t k = 0; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        const vec u = v_sub(NAME(differences_at)(teacher, student, k, count, &frame), frame.shift);
        const vec d = v_mul(u, frame.inverse_temperature), series = NAME(divergence_series)(d);
        const vec p = NAME(load_up_to)(big_p + k, left, 0);
        const vec slope = v_mul(v_mul(p, u), v_sub(one, v_mul(d, series)));
        const vec target_part = grad_of_targets ? NAME(load_up_to)(grad_of_targets + k, left, 0) : zero;
        NAME(store_up_to)(grad + k, left, v_add(NAME(times_factor)(slope, &frame.factor, zero), target_part));
        NAME(wide_add)(&sum, v_mul(p, v_mul(v_mul(u, u), series)));
    }
    return NAME(wide_total)(sum);
}

/* One row: T^2 times its divergence, and the gradient to `grad`.  Overwrites P and Q. */
KERNEL_INLINE double NAME(distil_row)(REAL *big_p, REAL *big_q, int64_t likeliest_of_teacher,
                                      int64_t likeliest_of_student, const REAL *teacher, const REAL *student,
                                      const REAL *grad_of_targets, REAL *grad, int64_t count, double temperature,
                                      double weight) {
    const int64_t m = likeliest_of_teacher;
    const NAME(near_frame) near = NAME(near_frame_of)(teacher[m], student[m], temperature, weight);
    if (NAME(is_near)(teacher, student, count, &near))
        return NAME(distil_near_row)(big_p, teacher, student, grad_of_targets, grad, count, temperature, near);
    const double inverse_temperature = 1 / temperature;
    REAL p_of_likeliest, largest_q;
    const double others_of_student = NAME(take_out_likeliest)(big_q, count, likeliest_of_student, &largest_q);
    big_q[likeliest_of_student] = largest_q;
    const REAL q_of_likeliest = big_q[m];
    big_q[m] = 0;
    const double others_of_teacher = NAME(take_out_likeliest)(big_p, count, m, &p_of_likeliest);
    const double shift = log_of_1_plus_number(others_of_teacher / (double)p_of_likeliest) -
                         log_of_1_plus_number(others_of_student / (double)largest_q);
    const double slope = weight * temperature;
    const NAME(divergence_frame)
        frame = {v_splat(teacher[m]), v_splat(student[likeliest_of_student]),
                 v_splat((REAL)(inverse_temperature < LARGEST_REAL ? inverse_temperature : LARGEST_REAL)),
                 v_splat((REAL)shift), NAME(scaled_factor_of)(slope, NAME(third_of_exponent)(slope))};
    const vec d = NAME(log_ratios)(v_splat(teacher[m]), v_splat(student[m]), &frame);
    const REAL target_part = grad_of_targets ? grad_of_targets[m] : 0;
    const NAME(divergence_sums) sums =
        NAME(distil_classes)(big_p, big_q, teacher, student, grad_of_targets, grad, count, &frame);
    const int is_likely = (double)p_of_likeliest + (double)q_of_likeliest > 1;
    const vec difference =
        v_splat(is_likely ? (REAL)-NAME(wide_total)(sums.differences) : q_of_likeliest - p_of_likeliest);
    grad[m] = v_first(NAME(times_factor)(difference, &frame.factor, v_splat(0))) + target_part;
    const double term = (double)v_first(NAME(divergence_terms)(v_splat(p_of_likeliest), d, difference));
    return temperature * temperature * (NAME(wide_total)(sums.terms) + term);
}

/* The same rows of the batch of targets, its gradient to `grad` and its losses to `row_loss`. */
KERNEL_INLINE xent_batch NAME(batch_of_targets)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                                REAL *grad, REAL *row_loss) {
    xent_batch part = xent_batch_from(batch, first_row, sizeof(REAL));
    part.rows = row_count;
    part.grad = (char *)grad;
    part.grad_row_stride = NAME(part_row_stride)(batch->classes);
    part.row_loss = (char *)row_loss;
    part.lse = NULL;
    part.prediction = NULL;
    return part;
}

/* Rows that share the workspace; losses to `losses`. */
KERNEL_INLINE void NAME(distillation_part)(const xent_distillation_batch *problem, int64_t first_row, int64_t row_count,
                                           double *losses, void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int64_t classes = batch->classes;
    const ptrdiff_t step = NAME(part_row_stride)(classes) / (ptrdiff_t)sizeof(REAL);
    const int has_labels = batch->dense_targets == NULL;
    const double temperature = problem->temperature;
    const char *students = batch->logits + first_row * batch->logits_row_stride;
    const char *teachers = problem->teacher + first_row * problem->teacher_row_stride;
    REAL *big_p = NAME(part_matrix)(workspace, classes, 0), *big_q = NAME(part_matrix)(workspace, classes, 1);
    REAL *grad_of_targets = problem->target_kernels ? NAME(part_matrix)(workspace, classes, 2) : NULL;
    REAL target_loss[XENT_MAX_ROWS_PER_CALL];
    int64_t labels[XENT_MAX_ROWS_PER_CALL] = {0};
    int64_t likeliest_of_teacher[XENT_MAX_ROWS_PER_CALL], likeliest_of_student[XENT_MAX_ROWS_PER_CALL];
    if (has_labels)
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    NAME(softmax_part)(teachers, problem->teacher_row_stride, row_count, classes, temperature, big_p,
                       likeliest_of_teacher, NULL, workspace);
    NAME(softmax_part)(students, batch->logits_row_stride, row_count, classes, temperature, big_q, likeliest_of_student,
                       NULL, workspace);
    if (grad_of_targets) {
        const xent_batch part = NAME(batch_of_targets)(batch, first_row, row_count, grad_of_targets, target_loss);
        problem->target_kernels->process_rows(&part, 0, row_count, workspace);
    }
    for (int64_t k = 0; k < row_count; ++k) {
        const int64_t row = first_row + k;
        REAL *grad = (REAL *)(void *)(batch->grad + row * batch->grad_row_stride);
        const int ignored = has_labels && is_ignored(&batch->labels, labels[k]);
        if (ignored || likeliest_of_teacher[k] < 0 || likeliest_of_student[k] < 0) {
            losses[k] = ignored ? 0 : (double)NAN;
            NAME(fill)(grad, classes, (REAL)losses[k]);
            continue;
        }
        const double weight =
            batch->sample_weight ? problem->weight_factor * batch->sample_weight[row] : problem->weight_factor;
        const double divergence =
            NAME(distil_row)(big_p + k * step, big_q + k * step, likeliest_of_teacher[k], likeliest_of_student[k],
                             (const REAL *)(const void *)(teachers + k * problem->teacher_row_stride),
                             (const REAL *)(const void *)(students + k * batch->logits_row_stride),
                             grad_of_targets ? grad_of_targets + k * step : NULL, grad, classes, temperature, weight);
        const double loss = weight == 0 && isinf(divergence) ? 0 : weight * divergence;
        losses[k] = loss + (grad_of_targets ? (double)target_loss[k] : 0);
    }
}

/* Function of the contract. */
static double NAME(distillation_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace) {
    double losses[XENT_MAX_ROWS_PER_CALL];
    const int64_t at_once = NAME(rows_of_part)(batch->classes);
    for (int64_t k = 0; k < row_count; k += at_once)
        NAME(distillation_part)((const xent_distillation_batch *)(const void *)batch, first_row + k,
                                row_count - k < at_once ? row_count - k : at_once, losses + k, workspace);
    NAME(tell_losses)(batch, first_row, row_count, losses);
    return xent_pairwise_sum(losses, row_count);
}

static size_t NAME(distillation_workspace_bytes)(int64_t classes) { return NAME(workspace_with_matrices)(classes, 3); }
