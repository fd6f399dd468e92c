/* Loss of a student against a teacher and against targets, and its gradient.  A template over REAL_BITS.
 *
 * Knows: the divergence of two softmaxes, and how two losses are mixed.
 * Must not know: instruction sets, threads, Python; how a softmax, or the loss of targets, is computed.
 *
 * With the softmax P of the teacher's row y and Q of the student's row x, both at temperature T, and b = a alpha the row's weight:
 *
 *     loss = b T^2 sum P d + loss of the targets      grad = b T (Q - P) + its gradient      d = log(P / Q)
 *
 * divergence.h says how both are kept accurate.  Rows of a few classes stand side by side; longer ones are taken one by one.
 */
#include "divergence.h"

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
    frame.shift = v_splat((REAL)v_first_f64(common_shifts(v_splat_f64(NAME(wide_total)(mean)), temperature)));
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

/* b */
KERNEL_INLINE double NAME(divergence_weight)(const xent_distillation_batch *problem, int64_t row) {
    const double *sample_weight = problem->batch.sample_weight;
    return sample_weight ? problem->weight_factor * sample_weight[row] : problem->weight_factor;
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
        const double weight = NAME(divergence_weight)(problem, row);
        const double divergence =
            NAME(distil_row)(big_p + k * step, big_q + k * step, likeliest_of_teacher[k], likeliest_of_student[k],
                             (const REAL *)(const void *)(teachers + k * problem->teacher_row_stride),
                             (const REAL *)(const void *)(students + k * batch->logits_row_stride),
                             grad_of_targets ? grad_of_targets + k * step : NULL, grad, classes, temperature, weight);
        const double loss = weight == 0 && isinf(divergence) ? 0 : weight * divergence;
        losses[k] = loss + (grad_of_targets ? (double)target_loss[k] : 0);
    }
}

/* The same, once for all who call it. */
static NEVER_INLINE void NAME(distil_one_by_one)(const xent_distillation_batch *problem, int64_t first_row,
                                                 int64_t row_count, double *losses, void *workspace) {
    NAME(distillation_part)(problem, first_row, row_count, losses, workspace);
}

/* --- few classes: lanes along rows ---------------------------------------------------------------- */

/* Weights of `row_count` rows from `first_row`, as doubles too; which of them the lanes' type cannot hold. */
KERNEL_INLINE unsigned NAME(divergence_weights_of)(const xent_distillation_batch *problem, int64_t first_row,
                                                   int row_count, double *weight, NAME(divergence_weights) * weights) {
    ALIGNED_64 double slope_weight[LANES];
    const double temperature = problem->temperature;
    unsigned leaving = 0;
    for (int lane = 0; lane < LANES; ++lane) {
        const int64_t row = first_row + (lane < row_count ? lane : 0);
        weight[lane] = NAME(divergence_weight)(problem, row);
        slope_weight[lane] = weight[lane] * temperature;
        const double size = fabs(weight[lane]), slope = fabs(slope_weight[lane]);
        const int is_held = size < LARGEST_FACTOR && slope < LARGEST_FACTOR && size >= SMALL_WEIGHT &&
                            slope >= SMALL_WEIGHT && temperature < RESCALE && temperature > 1 / RESCALE;
        leaving |= (unsigned)(!is_held && size != 0) << lane;
    }
    weights->weight = NAME(pairs_of)(weight).high;
    weights->slope_weight = NAME(pairs_of)(slope_weight).high;
    weights->temperature = temperature;
    return leaving;
}

/* A row that leaves the lanes, by itself: its loss, and the gradient to `grad`. */
static NEVER_INLINE double NAME(distil_leaving_row)(const xent_distillation_batch *problem, int64_t row, REAL *grad,
                                                    void *workspace) {
    xent_distillation_batch alone = *problem;
    double loss;
    alone.batch = xent_batch_from(&problem->batch, row, sizeof(REAL));
    alone.batch.grad = (char *)grad;
    alone.teacher += row * problem->teacher_row_stride;
    NAME(distil_one_by_one)(&alone, 0, 1, &loss, workspace);
    return loss;
}

/* Rows [first_row, first_row + row_count), at most a vector of them. `labels` has a whole vector; `targets` is where their own
 * loss and gradient are, or NULL. */
KERNEL_INLINE void NAME(distil_vector_of_rows)(const xent_distillation_batch *problem, int64_t first_row, int row_count,
                                               const int64_t *labels, const NAME(exponent_scale) * scale,
                                               const REAL *target_loss, const REAL *grad_of_targets, double *losses,
                                               void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int classes = (int)batch->classes;
    const unsigned all = (1u << LANES) - 1;
    NAME(softmax_lanes) teacher, student;
    NAME(divergence_weights) weights;
    ALIGNED_64 double weight[LANES], divergence[LANES];
    ALIGNED_64 REAL columns[MOST_CLASSES_ALONG_ROWS][LANES];
    NAME(load_columns)(teacher.logits, problem->teacher + first_row * problem->teacher_row_stride,
                       problem->teacher_row_stride, 0, row_count, classes);
    NAME(load_columns)(student.logits, batch->logits + first_row * batch->logits_row_stride, batch->logits_row_stride,
                       0, row_count, classes);
    unsigned leaving = NAME(divergence_weights_of)(problem, first_row, row_count, weight, &weights);
    const vec counted = NAME(lane_labels)(&batch->labels, labels, row_count);
    const vec_mask counts = v_not_less(counted, v_splat(0));
    NAME(softmax_of_columns)(&teacher, classes, scale);
    NAME(softmax_of_columns)(&student, classes, scale);
    const vec_mask teaches = teacher.is_number, learns = student.is_number;
    const NAME(divergence_results) results = NAME(diverge)(&teacher, &student, classes, &weights);
    if (grad_of_targets)
        NAME(load_columns)(columns, (const char *)grad_of_targets, classes * (ptrdiff_t)sizeof(REAL), 0, row_count,
                           classes);
    for (int k = 0; k < classes; ++k) {
        const vec slope = v_select(v_equal(results.likeliest, v_splat((REAL)k)), results.slope_of_likeliest,
                                   v_load(student.exponentials[k]));
        v_store(columns[k],
                grad_of_targets ? v_fma(slope, results.factor, v_load(columns[k])) : v_mul(slope, results.factor));
    }
    const unsigned numbers = v_mask_bits(teaches) & v_mask_bits(learns), counting = v_mask_bits(counts);
    if ((numbers & counting) != all)
        for (int k = 0; k < classes; ++k) {
            const vec grad = v_select(teaches, v_select(learns, v_load(columns[k]), v_splat(NAN)), v_splat(NAN));
            v_store(columns[k], v_keep(counts, grad));
        }
    for (int j = 0; j < LANES / 8; ++j)
        v_store_f64(divergence + 8 * j, NAME(weighted_losses)(results.divergence[j], weight + 8 * j));
    for (int lane = 0; lane < row_count; ++lane)
        losses[lane] = !(counting >> lane & 1)  ? 0
                       : !(numbers >> lane & 1) ? (double)NAN
                                                : divergence[lane] + (target_loss ? (double)target_loss[lane] : 0);
    leaving &= numbers & counting;
    for (int lane = 0; leaving && lane < row_count; ++lane) {
        REAL grad[MOST_CLASSES_ALONG_ROWS];
        if (!(leaving >> lane & 1))
            continue;
        losses[lane] = NAME(distil_leaving_row)(problem, first_row + lane, grad, workspace);
        for (int k = 0; k < classes; ++k)
            columns[k][lane] = grad[k];
    }
    NAME(store_columns)(columns, batch->grad + first_row * batch->grad_row_stride, batch->grad_row_stride, 0, row_count,
                        classes);
}

/* Rows of a few classes; losses to `losses`. */
static NEVER_INLINE void NAME(distil_few_classes)(const xent_distillation_batch *problem, int64_t first_row,
                                                  int64_t row_count, double *losses, void *workspace) {
    const xent_batch *batch = &problem->batch;
    const NAME(exponent_scale) scale = NAME(scale_for)(problem->temperature);
    REAL target_loss[XENT_MAX_ROWS_PER_CALL];
    int64_t labels[XENT_MAX_ROWS_PER_CALL + LANES] = {0};
    REAL *grad = problem->target_kernels ? NAME(part_matrix)(workspace, batch->classes, 3) : NULL;
    xent_distillation_batch rows = *problem;
    if (batch->dense_targets)
        rows.batch.labels.has_ignore_index = 0;
    else
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    if (grad) {
        xent_batch part = NAME(batch_of_targets)(batch, first_row, row_count, grad, target_loss);
        part.grad_row_stride = batch->classes * (ptrdiff_t)sizeof(REAL);
        part.grad_class_stride = 0;
        problem->target_kernels->process_rows(&part, 0, row_count, workspace);
    }
    for (int64_t k = 0; k < row_count; k += LANES) {
        const int count = row_count - k < LANES ? (int)(row_count - k) : LANES;
        NAME(distil_vector_of_rows)(&rows, first_row + k, count, labels + k, &scale, grad ? target_loss + k : NULL,
                                    grad ? grad + k * batch->classes : NULL, losses + k, workspace);
    }
}

/* Function of the contract. */
static double NAME(distillation_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace) {
    const xent_distillation_batch *problem = (const xent_distillation_batch *)(const void *)batch;
    const int64_t classes = batch->classes;
    double losses[XENT_MAX_ROWS_PER_CALL];
    const int64_t at_once = NAME(rows_of_part)(classes);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        if (classes <= MOST_CLASSES_ALONG_ROWS)
            NAME(distil_few_classes)(problem, first_row + k, count, losses + k, workspace);
        else
            NAME(distil_one_by_one)(problem, first_row + k, count, losses + k, workspace);
    }
    NAME(tell_losses)(batch, first_row, row_count, losses);
    return xent_pairwise_sum(losses, row_count);
}

/* Probabilities of both, the gradient of the targets and, of a few classes, that of the rows beside one that leaves the lanes. */
static size_t NAME(distillation_workspace_bytes)(int64_t classes) {
    return NAME(workspace_with_matrices)(classes, classes <= MOST_CLASSES_ALONG_ROWS ? 4 : 3);
}
