/* Distillation of rows of any length, one by one: both softmaxes are measured, then one sweep
 * writes.  A template over REAL_BITS.
 *
 * Knows: d near the teacher and far from it; where the matrices of some rows lie.
 * Must not know: instruction sets, threads, Python; how a softmax, or the loss of targets, is
 * computed.
 */
#include "divergence.h"

/* Exponentials of both, the gradient of the targets and, of a few classes, that of the rows beside
 * one that leaves the lanes. */
#undef DISTILLATION_MATRICES
#define DISTILLATION_MATRICES(classes) ((classes) <= MOST_CLASSES_ALONG_ROWS ? 4 : 3)

#if REAL_BITS == 64
KERNEL_INLINE double log_of_1_plus_number(double r) {
    return v_first(pair_total(log_of_1_plus(v_splat(r))));
}
#endif

/* What one row's d are made of, and what the gradient is multiplied with. */
typedef struct {
    vec largest_of_teacher, largest_of_student, inverse_temperature, shift;
    scaled_factor factor;
    vec factor_of_teacher, factor_of_student; /* of a block's exponentials: P and Q */
    lines_ahead teacher_ahead, student_ahead;
} divergence_frame;

typedef struct {
    wide_sum terms, differences;
} divergence_sums;

KERNEL_INLINE vec log_ratios(vec teacher, vec student, const divergence_frame *frame) {
    const vec distance =
        v_sub(v_sub(teacher, frame->largest_of_teacher), v_sub(student, frame->largest_of_student));
    return v_fms(distance, frame->inverse_temperature, frame->shift);
}

/* difference factor + addend */
KERNEL_INLINE vec gradient_of_difference(vec difference, const scaled_factor *factor, vec addend) {
    if (factor->has_power)
        return v_add(times_factor(difference, factor, v_splat(0)), addend);
    return product_with_pair_plus(difference, factor->factor, addend);
}

/* Gradient of a vector of classes from their exponentials; what they add goes to `terms` and
 * `differences`. */
KERNEL_INLINE vec distil_vector(vec exp_of_teacher, vec exp_of_student, vec teacher, vec student,
                                vec grad_of_targets, const divergence_frame *frame, vec *term,
                                vec *difference) {
    const vec big_p = v_mul(exp_of_teacher, frame->factor_of_teacher);
    *difference = v_fms(exp_of_student, frame->factor_of_student, big_p);
    *term = divergence_terms(big_p, log_ratios(teacher, student, frame), *difference);
    return gradient_of_difference(*difference, &frame->factor, grad_of_targets);
}

/* `count` classes of a block, from class `first`; the likeliest of the teacher has exponentials of
 * 0.  `grad_of_targets` may be NULL. */
KERNEL_INLINE void distil_classes(const REAL *exp_of_teacher, const REAL *exp_of_student,
                                  const REAL *teacher, const REAL *student,
                                  const REAL *grad_of_targets, REAL *grad, int64_t first,
                                  int64_t count, const divergence_frame *frame,
                                  divergence_sums *sums) {
    const vec zero = v_splat(0);
    vec terms[4], differences[4], grads[4];
    int64_t k = first;
    for (; k + HALF_GROUP <= first + count; k += HALF_GROUP) {
        ask_ahead(&frame->teacher_ahead, k, 1, XENT_INDEX_TARGETS);
        ask_ahead(&frame->student_ahead, k, 1, XENT_INDEX_TARGETS);
        EACH_OF(4, const int64_t at = k + j * LANES;
                grads[j] = distil_vector(v_load(exp_of_teacher + at), v_load(exp_of_student + at),
                                         v_load(teacher + at), v_load(student + at),
                                         grad_of_targets ? v_load(grad_of_targets + at) : zero,
                                         frame, terms + j, differences + j);
                v_store(grad + at, grads[j]));
        add_four(&sums->terms, terms);
        add_four(&sums->differences, differences);
    }
    for (; k < first + count; k += LANES) {
        const int left = first + count - k < LANES ? (int)(first + count - k) : LANES;
        grads[0] = distil_vector(
            v_load_first(exp_of_teacher + k, left, 0), v_load_first(exp_of_student + k, left, 0),
            v_load_first(teacher + k, left, 0), v_load_first(student + k, left, 0),
            grad_of_targets ? v_load_first(grad_of_targets + k, left, 0) : zero, frame, terms,
            differences);
        v_store_first(grad + k, left, grads[0]);
        wide_add(&sums->terms, terms[0]);
        wide_add(&sums->differences, differences[0]);
    }
}

/* What the v of a row are relative to. */
typedef struct {
    vec_pair of_likeliest;          /* y_m - x_m */
    vec teacher, student;           /* y_m and x_m, for lanes where no class is */
    vec inverse_temperature, shift; /* 1 / T and U */
    scaled_factor factor;
} near_frame;

/* v of a vector of classes; 0 where both logits are -inf. */
KERNEL_INLINE vec logit_differences(vec teacher, vec student, const near_frame *frame) {
    const vec_pair d = exact_difference(teacher, student);
    const vec v =
        v_add(v_sub(d.high, frame->of_likeliest.high), v_sub(d.low, frame->of_likeliest.low));
    return v_keep(v_equal(v, v), v);
}

KERNEL_INLINE vec differences_at(const REAL *teacher, const REAL *student, int64_t k, int64_t count,
                                 const near_frame *frame) {
    const int left = count - k < LANES ? (int)(count - k) : LANES;
    vec y = frame->teacher, x = frame->student;
    if (left == LANES) {
        y = v_load(teacher + k);
        x = v_load(student + k);
    } else {
        y = v_load_first(teacher + k, left, v_first(y));
        x = v_load_first(student + k, left, v_first(x));
    }
    return logit_differences(y, x, frame);
}

KERNEL_INLINE near_frame near_frame_of(REAL teacher, REAL student, double temperature,
                                       double weight) {
    const double inverse = 1 / temperature;
    const near_frame frame = {exact_difference(v_splat(teacher), v_splat(student)),
                              v_splat(teacher),
                              v_splat(student),
                              v_splat((REAL)(inverse < LARGEST_REAL ? inverse : LARGEST_REAL)),
                              v_splat(0),
                              scaled_factor_of(-weight, third_of_exponent(weight))};
    return frame;
}

/* Whether all |v| / T are below 1/4, so that the d are below 1/2. */
KERNEL_INLINE int is_near_row(const REAL *teacher, const REAL *student, int64_t count,
                              const near_frame *frame) {
    for (int64_t k = 0; k < count; k += LANES) {
        const vec v =
            v_mul(differences_at(teacher, student, k, count, frame), frame->inverse_temperature);
        if (v_mask_bits(v_not_less(v_max(v_sub(v_splat(0), v), v), v_splat((REAL)0.25))))
            return 0;
    }
    return 1;
}

/* A row whose d are all small: T^2 times its divergence, and the gradient to `grad`. */
static NEVER_INLINE double distil_near_row(const REAL *big_p, const REAL *teacher,
                                           const REAL *student, const REAL *grad_of_targets,
                                           REAL *grad, int64_t count, double temperature,
                                           near_frame frame) {
    const vec one = v_splat(1), zero = v_splat(0);
    wide_sum mean = zero_wide(), sum = zero_wide();
    for (int64_t k = 0; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        const vec v = differences_at(teacher, student, k, count, &frame);
        const vec d = v_mul(v, frame.inverse_temperature);
        const vec p = load_up_to(big_p + k, left, 0);
        wide_add(&mean, v_mul(p, v_mul(v, v_sub(one, v_mul(d, divergence_series(d))))));
    }
    frame.shift =
        v_splat((REAL)v_first_f64(common_shifts(v_splat_f64(wide_total(mean)), temperature)));
    for (int64_t k = 0; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        const vec u = v_sub(differences_at(teacher, student, k, count, &frame), frame.shift);
        const vec d = v_mul(u, frame.inverse_temperature), series = divergence_series(d);
        const vec p = load_up_to(big_p + k, left, 0);
        const vec slope = v_mul(v_mul(p, u), v_sub(one, v_mul(d, series)));
        const vec target_part = grad_of_targets ? load_up_to(grad_of_targets + k, left, 0) : zero;
        store_up_to(grad + k, left, v_add(times_factor(slope, &frame.factor, zero), target_part));
        wide_add(&sum, v_mul(p, v_mul(v_mul(u, u), series)));
    }
    return wide_total(sum);
}

/* Rows of softmax between their two sweeps. */
typedef struct {
    long_row rows[ROWS_AT_ONCE]; /* pivot: the first largest class */
    row_results results;
} measured_softmaxes;

/* Rows whose temperature no lane can hold: their exponentials are probabilities already. */
static NEVER_INLINE void measure_far_softmaxes(const xent_batch *batch,
                                               measured_softmaxes *softmaxes, void *workspace) {
    row_results *results = &softmaxes->results;
    int64_t likeliest[ROWS_AT_ONCE];
    xent_batch rows = *batch;
    rows.prediction = likeliest;
    rows.weight_factor = 1;
    NAME(index_rows)(&rows, 0, rows.rows, workspace);
    results->is_number = 0;
    for (int k = 0; k < (int)rows.rows; ++k) {
        long_row *row = softmaxes->rows + k;
        row->pivot = likeliest[k];
        for (int64_t b = 0; b < count_blocks(row->classes); ++b)
            row->blocks[b].weight = 1;
        if (row->pivot < 0)
            continue;
        const double p = (double)row->exponentials[row->pivot];
        results->is_number |= 1u << k;
        results->factor[k] = 1;
        results->factor_low[k] = 0;
        results->pivot_gradient[k] = p;
        results->log_of_sum[k] = log_of_1_plus_number(
            sum_of_other_classes(row->exponentials, row->classes, row->pivot) / p);
    }
}

/* Forward sweeps of the rows of a softmax_batch, `rows_at_once` at most; `blocks` is theirs.  A
 * row's largest class is its pivot, so that log_of_sum has all digits. */
static NEVER_INLINE void measure_softmaxes(const xent_batch *batch, block_summary *blocks,
                                           measured_softmaxes *softmaxes, void *workspace) {
    const call_settings settings = call_settings_of(batch);
    const int64_t block_count = count_blocks(batch->classes);
    const int count = (int)batch->rows;
    XENT_ASSERT(count >= 1 && count <= rows_at_once(batch->classes));
    row_sums sums;
    for (int k = 0; k < count; ++k) {
        long_row *row = softmaxes->rows + k;
        *row =
            long_row_at(batch, k, 0, blocks + k * block_count, NULL, NULL, XENT_SMOOTHED_TARGETS);
        row->asks_ahead = count == 1;
        if (settings.all_leave)
            continue;
        sums.target_logit[k] = 0;
        forward_some_blocks(row, 0, block_count, &settings, XENT_SMOOTHED_TARGETS);
        merge_blocks(row, &settings, &sums, k, XENT_SMOOTHED_TARGETS);
    }
    if (settings.all_leave) {
        measure_far_softmaxes(batch, softmaxes, workspace);
        return;
    }
    repeat_first_lane(&sums, count);
    settle_rows(&sums, &settings.row, &softmaxes->results, XENT_SMOOTHED_TARGETS);
}

/* Probabilities of some blocks of row `k` in their exponentials' place. */
KERNEL_INLINE void write_probabilities(const measured_softmaxes *softmaxes, int k, int64_t first,
                                       int64_t count) {
    backward_some_blocks(softmaxes->rows + k, first, count, 1, &softmaxes->results, k,
                         XENT_SMOOTHED_TARGETS);
}

/* What makes probabilities of the exponentials of block `b`: those that so small a factor would
 * leave no digits become them here. */
KERNEL_INLINE vec probability_factor(const measured_softmaxes *softmaxes, int k, int64_t b) {
    const double factor = softmaxes->results.factor[k] * softmaxes->rows[k].blocks[b].weight;
    if (factor >= SMALL_FACTOR)
        return v_splat((REAL)factor);
    write_probabilities(softmaxes, k, b, 1);
    return v_splat(1);
}

/* Row `k` of both: T^2 times its divergence, and the gradient to `grad`.  Overwrites the
 * exponentials. */
KERNEL_INLINE double distil_row(const measured_softmaxes *teachers,
                                const measured_softmaxes *students, int k,
                                const REAL *grad_of_targets, REAL *grad, double temperature,
                                double weight) {
    const long_row *of_teacher = teachers->rows + k, *of_student = students->rows + k;
    const REAL *teacher = (const REAL *)(const void *)of_teacher->logits;
    const REAL *student = (const REAL *)(const void *)of_student->logits;
    REAL *exp_of_teacher = of_teacher->exponentials, *exp_of_student = of_student->exponentials;
    const int64_t classes = of_teacher->classes, blocks = count_blocks(classes),
                  m = of_teacher->pivot;
    const near_frame near = near_frame_of(teacher[m], student[m], temperature, weight);
    if (is_near_row(teacher, student, classes, &near)) {
        write_probabilities(teachers, k, 0, blocks);
        return distil_near_row(exp_of_teacher, teacher, student, grad_of_targets, grad, classes,
                               temperature, near);
    }
    const double inverse_temperature = 1 / temperature, slope = weight * temperature;
    const double shift = teachers->results.log_of_sum[k] - students->results.log_of_sum[k];
    divergence_frame frame = {
        v_splat(teacher[m]),
        v_splat(student[of_student->pivot]),
        v_splat((REAL)(inverse_temperature < LARGEST_REAL ? inverse_temperature : LARGEST_REAL)),
        v_splat((REAL)shift),
        scaled_factor_of(slope, third_of_exponent(slope)),
        v_splat(1),
        v_splat(1),
        ahead_of_backward(of_teacher),
        ahead_of_backward(of_student)};
    const vec d = log_ratios(v_splat(teacher[m]), v_splat(student[m]), &frame);
    const vec target_part = v_splat(grad_of_targets ? grad_of_targets[m] : 0);
    const REAL p = (REAL)teachers->results.pivot_gradient[k];
    const double factor_of_m = students->results.factor[k] * of_student->blocks[m / BLOCK].weight;
    const REAL q = (REAL)(m == of_student->pivot ? students->results.pivot_gradient[k]
                                                 : (double)exp_of_student[m] * factor_of_m);
    exp_of_teacher[m] = exp_of_student[m] = 0;
    divergence_sums sums = {zero_wide(), zero_wide()};
    for (int64_t b = 0; b < blocks; ++b) {
        frame.factor_of_teacher = probability_factor(teachers, k, b);
        frame.factor_of_student = probability_factor(students, k, b);
        distil_classes(exp_of_teacher, exp_of_student, teacher, student, grad_of_targets, grad,
                       b * BLOCK, block_length(classes, b * BLOCK), &frame, &sums);
    }
    const int is_likely = (double)p + (double)q > 1;
    const vec difference = v_splat(is_likely ? (REAL)-wide_total(sums.differences) : q - p);
    grad[m] = v_first(gradient_of_difference(difference, &frame.factor, target_part));
    const double term = (double)v_first(divergence_terms(v_splat(p), d, difference));
    return temperature * temperature * (wide_total(sums.terms) + term);
}

/* The same rows of the batch of targets, its gradient to `grad` and its losses to `row_loss`. */
KERNEL_INLINE xent_batch batch_of_targets(const xent_batch *batch, int64_t first_row,
                                          int64_t row_count, REAL *grad, REAL *row_loss) {
    xent_batch part = xent_batch_from(batch, first_row, sizeof(REAL));
    part.rows = row_count;
    part.grad = xent_matrix_of(grad, part_row_stride(batch->classes), 0);
    part.row_loss = (char *)row_loss;
    part.lse = NULL;
    part.prediction = NULL;
    return part;
}

/* b */
KERNEL_INLINE double divergence_weight(const xent_distillation_batch *problem, int64_t row) {
    const double *sample_weight = problem->batch.sample_weight;
    return sample_weight ? problem->weight_factor * sample_weight[row] : problem->weight_factor;
}

/* Bytes of the summaries of the rows between their sweeps; those of teacher and student stand after
 * the matrices. */
KERNEL_INLINE size_t summary_bytes(int64_t classes) {
    const size_t count = (size_t)(rows_at_once(classes) * count_blocks(classes));
    return (count * sizeof(block_summary) + 63) / 64 * 64;
}
KERNEL_INLINE block_summary *summaries(void *workspace, int64_t classes, int number) {
    char *after = (char *)(void *)part_matrix(workspace, classes, DISTILLATION_MATRICES(classes));
    return (block_summary *)(void *)(after + (size_t)number * summary_bytes(classes));
}

/* At most `rows_at_once` rows, one by one; losses to `losses`. */
static NEVER_INLINE void distil_one_by_one(const xent_distillation_batch *problem,
                                           int64_t first_row, int64_t row_count, double *losses,
                                           void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int64_t classes = batch->classes;
    const ptrdiff_t step = part_row_stride(classes) / (ptrdiff_t)sizeof(REAL);
    const int has_labels = batch->dense_targets.data == NULL;
    const xent_batch teacher_batch =
        softmax_batch(xent_matrix_from(&problem->teacher, first_row), row_count, classes,
                      problem->temperature, part_matrix(workspace, classes, 0));
    const xent_batch student_batch =
        softmax_batch(xent_matrix_from(&batch->logits, first_row), row_count, classes,
                      problem->temperature, part_matrix(workspace, classes, 1));
    REAL *grad_of_targets = problem->target_kernels ? part_matrix(workspace, classes, 2) : NULL;
    REAL target_loss[ROWS_AT_ONCE];
    int64_t labels[ROWS_AT_ONCE] = {0};
    measured_softmaxes teachers, students;
    if (has_labels)
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    if (grad_of_targets) {
        const xent_batch part =
            batch_of_targets(batch, first_row, row_count, grad_of_targets, target_loss);
        problem->target_kernels->process_rows(&part, 0, row_count, workspace);
    }
    measure_softmaxes(&teacher_batch, summaries(workspace, classes, 0), &teachers, workspace);
    measure_softmaxes(&student_batch, summaries(workspace, classes, 1), &students, workspace);
    const unsigned numbers = teachers.results.is_number & students.results.is_number;
    for (int k = 0; k < (int)row_count; ++k) {
        REAL *grad = (REAL *)(void *)xent_row(&batch->grad, first_row + k);
        const int ignored = has_labels && is_ignored(&batch->labels, labels[k]);
        if (ignored || !(numbers >> k & 1)) {
            losses[k] = ignored ? 0 : (double)NAN;
            fill_classes(grad, classes, (REAL)losses[k]);
            continue;
        }
        const double weight = divergence_weight(problem, first_row + k);
        const double divergence =
            distil_row(&teachers, &students, k, grad_of_targets ? grad_of_targets + k * step : NULL,
                       grad, problem->temperature, weight);
        const double loss = weight == 0 && isinf(divergence) ? 0 : weight * divergence;
        losses[k] = loss + (grad_of_targets ? (double)target_loss[k] : 0);
    }
}
