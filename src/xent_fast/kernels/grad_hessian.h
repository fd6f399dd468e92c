/* Gradient and Hessian diagonal of every row from one pass over the logits.  A template over
 * REAL_BITS.
 *
 * Knows: both formulas, and how 1 - p keeps its digits; that every layout goes without a copy of
 * the matrix.
 * Must not know: instruction sets, threads, Python; how a softmax is computed.
 *
 *     class indices    grad = a/T (p - onehot(y))          hessian = f a/T^2 p (1 - p)
 *
 * A few classes write the diagonal beside the gradient, which is that of the loss
 * (curvature_lanes.h).  Of more, the row kernels write p of a row, exact to a few ulp in every
 * class however small, to where it stays in cache; a second sweep makes both of it at once.  1 - p
 * is such a difference where p <= 1/2; of the one class where p is larger it is the sum of the
 * others.  -(1 - p) is the gradient of the label.
 *
 * Targets with mass at every class (dense ones, label smoothing) and z_loss take the gradient from
 * its own kernels and the diagonal from second_order.h: two softmaxes, the same interface.
 *
 * Factors from LARGE_HERE on, which make digits visible that small probabilities lost when they
 * were rounded, take the same way where there are more than a few classes.
 *
 * The smallest value that is asked for comes last: max(hessian, least).
 */

#undef LARGE_HERE
#define LARGE_HERE 16

/* What a row's p and p (1 - p) are multiplied with. */
typedef struct {
    double gradient, hessian;
} row_factors;

KERNEL_INLINE row_factors factors_of_row(const xent_grad_hessian_batch *problem, int64_t row,
                                         int64_t label) {
    const xent_batch *batch = &problem->batch;
    const double weight =
        weight_of_row(batch, row, clamped_label(label, batch->classes), XENT_INDEX_TARGETS);
    const double gradient = weight / batch->options.temperature;
    const row_factors factors = {gradient,
                                 problem->factor * (gradient / batch->options.temperature)};
    return factors;
}

/* The same for any of a row's numbers, however large the factors are. */
typedef struct {
    scaled_factor down, curve;
    int way;
} row_scales;

/* How a row's probabilities are multiplied; all ways but the last are for factors of middling
 * size. */
enum { KEEP_PROBABILITIES, SCALE_PROBABILITIES, SCALE_IN_STEPS };

KERNEL_INLINE row_scales scales_of_row(const row_factors *factors) {
    const int third = third_of_exponent(factors->gradient);
    const int third_of_hessian = third_of_exponent(factors->hessian);
    const row_scales scales = {scaled_factor_of(factors->gradient, third),
                               scaled_factor_of(factors->hessian, third_of_hessian),
                               third || third_of_hessian ? SCALE_IN_STEPS
                               : factors->gradient == 1  ? KEEP_PROBABILITIES
                                                         : SCALE_PROBABILITIES};
    return scales;
}

/* Of `count` probabilities p times the gradient's factor, in their place, and p (1 - p) times that
 * of the diagonal.  Returns the largest p that is above 1/2, or that. */
KERNEL_INLINE REAL differentiate_classes(REAL *p, REAL *hessian, int64_t count,
                                         const scaled_factor *down, const scaled_factor *curve,
                                         REAL min_hessian, int way) {
    const vec one = v_splat(1), zero = v_splat(0), least = v_splat(min_hessian),
              half = v_splat((REAL)0.5);
    const vec down_factor = down->factor.high, curve_factor = curve->factor.high;
    vec x[4], diagonal[4], largest[4] = {half, half, half, half};
    int64_t k = 0;
    for (; way != SCALE_IN_STEPS && k + HALF_GROUP <= count; k += HALF_GROUP) {
        EACH_OF(4, x[j] = v_load(p + k + j * LANES); largest[j] = v_max(x[j], largest[j]));
        EACH_OF(4, diagonal[j] = v_mul(v_mul(x[j], curve_factor), v_sub(one, x[j])));
        EACH_OF(4, v_store(hessian + k + j * LANES, v_max(least, diagonal[j])));
        if (way == SCALE_PROBABILITIES)
            EACH_OF(4, v_store(p + k + j * LANES, v_fma(x[j], down_factor, zero))); /* no -0 */
    }
    for (; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        x[0] = load_up_to(p + k, left, 0);
        largest[0] = v_max(x[0], largest[0]);
        if (way == SCALE_IN_STEPS) {
            diagonal[0] = times_factor(v_mul(x[0], v_sub(one, x[0])), curve, zero);
            x[0] = v_add(times_factor(x[0], down, zero), zero);
        } else {
            diagonal[0] = v_mul(v_mul(x[0], curve_factor), v_sub(one, x[0]));
            x[0] = v_fma(x[0], down_factor, zero);
        }
        store_up_to(hessian + k, left, v_max(least, diagonal[0]));
        if (way != KEEP_PROBABILITIES)
            store_up_to(p + k, left, x[0]);
    }
    return v_largest(v_max(v_max(largest[0], largest[1]), v_max(largest[2], largest[3])));
}

/* The class whose p is above 1/2, or -1; asked where p of the label is not. */
KERNEL_INLINE int64_t likely_class(const REAL *p, int64_t count) {
    const vec half = v_splat((REAL)0.5);
    vec largest[4] = {half, half, half, half};
    int64_t k = 0;
    for (; k + HALF_GROUP <= count; k += HALF_GROUP)
        EACH_OF(4, largest[j] = v_max(v_load(p + k + j * LANES), largest[j]));
    for (; k < count; k += LANES)
        largest[0] =
            v_max(load_up_to(p + k, count - k < LANES ? (int)(count - k) : LANES, 0), largest[0]);
    if (v_largest(v_max(v_max(largest[0], largest[1]), v_max(largest[2], largest[3]))) == (REAL)0.5)
        return -1;
    for (k = 0; k < count && !(p[k] > (REAL)0.5); ++k) {
    }
    return k;
}

/* Number c of class `likely`, the one whose p is above 1/2; `others` is 1 - p. */
KERNEL_INLINE REAL diagonal_of_likely(REAL p, REAL others, const scaled_factor *curve,
                                      REAL min_hessian) {
    const vec small = times_factor(v_splat(others), curve, v_splat(0));
    return v_first(v_max(v_splat(min_hessian), v_mul(small, v_splat(p))));
}

/* The gradient in place of the probabilities, and the diagonal.  Probabilities that stay as they
 * are are looked through once. */
KERNEL_INLINE void differentiate_row(REAL *p, REAL *hessian, int64_t count, int64_t label,
                                     const row_scales *scales, REAL min_hessian) {
    const scaled_factor *down = &scales->down, *curve = &scales->curve;
    const vec zero = v_splat(0);
    const REAL p_of_label = p[label], half = (REAL)0.5;
    const int keeps = scales->way == KEEP_PROBABILITIES;
    int64_t likely = p_of_label > half ? label : keeps ? -1 : likely_class(p, count);
    REAL p_of_likely = likely < 0 ? 0 : p[likely];
    REAL others = likely < 0 ? 0 : (REAL)sum_of_other_classes(p, count, likely);
    if (scales->way == SCALE_IN_STEPS) {
        differentiate_classes(p, hessian, count, down, curve, min_hessian, SCALE_IN_STEPS);
    } else if (!keeps) {
        differentiate_classes(p, hessian, count, down, curve, min_hessian, SCALE_PROBABILITIES);
    } else if (differentiate_classes(p, hessian, count, down, curve, min_hessian,
                                     KEEP_PROBABILITIES) > half &&
               likely < 0) {
        likely = likely_class(p, count);
        p_of_likely = p[likely];
        others = (REAL)sum_of_other_classes(p, count, likely);
    }
    if (likely >= 0)
        hessian[likely] = diagonal_of_likely(p_of_likely, others, curve, min_hessian);
    const vec rest = v_splat(likely == label ? others : 1 - p_of_label);
    p[label] = v_first(v_add(times_factor(v_sub(zero, rest), down, zero), zero));
}

/* Rows whose probabilities stand in the gradient's place, and where both are; row 0 is the batch's
 * `first_row`. */
typedef struct {
    const xent_grad_hessian_batch *problem;
    int64_t first_row;
    const int64_t *labels;
    xent_matrix grad, hessian;
    int has_own_weights;
    row_scales scales; /* of all rows, unless they have their own */
} differentiated_rows;

/* One of them, which is in the nearest cache. */
static NEVER_INLINE void differentiate_long_row(const void *context, int64_t row) {
    const differentiated_rows *rows = (const differentiated_rows *)context;
    const xent_batch *batch = &rows->problem->batch;
    const REAL least = (REAL)rows->problem->min_hessian;
    REAL *diagonal = (REAL *)(void *)xent_row(&rows->hessian, row);
    REAL *grad = (REAL *)(void *)xent_row(&rows->grad, row);
    const int64_t label = rows->labels[row];
    if (is_ignored(&batch->labels, label)) {
        fill_classes(diagonal, batch->classes, least > 0 ? least : 0);
        return;
    }
    if (!rows->has_own_weights) {
        differentiate_row(grad, diagonal, batch->classes, clamped_label(label, batch->classes),
                          &rows->scales, least);
        return;
    }
    const row_factors factors = factors_of_row(rows->problem, rows->first_row + row, label);
    const row_scales own = scales_of_row(&factors);
    differentiate_row(grad, diagonal, batch->classes, clamped_label(label, batch->classes), &own,
                      least);
}

/* --- class indices ---------------------------------------------------------------------------- */

static size_t grad_hessian_workspace_bytes(int64_t classes) {
    return (second_order_workspace_bytes(classes) + 63) / 64 * 64;
}

/* Places for rows that turn, after what the kernels need. */
KERNEL_INLINE xent_matrix place_of_grad_hessian(void *workspace, int64_t classes, int number) {
    char *places =
        (char *)workspace + grad_hessian_workspace_bytes(classes) + bytes_of_turning(classes);
    return place_for_turned(places + (size_t)number * bytes_of_turned_rows(classes), classes);
}

/* Both derivatives of rows whose classes are contiguous wherever results go, and their losses; the
 * logits may turn.  Row by row, p comes to the gradient's place and is made to both while it is in
 * the nearest cache. */
static NEVER_INLINE void differentiate_rows(const xent_batch *batch, int64_t first_row,
                                            int64_t row_count, const differentiated_rows *rows,
                                            double *losses, void *workspace) {
    const int64_t classes = batch->classes;
    xent_batch part = xent_batch_from(batch, first_row, sizeof(REAL));
    part.rows = row_count;
    part.grad = rows->grad;
    part.output = XENT_PROBABILITIES;
    part.lse = NULL;
    part.prediction = NULL;
    if (lies_in_columns(&part.logits)) {
        turn(part.logits, rows->grad, row_count, classes);
        part.logits = rows->grad;
    }
    many_long_rows(&part, 0, row_count, rows->labels, losses, workspace, differentiate_long_row,
                   rows, XENT_INDEX_TARGETS);
    write_losses(&part, 0, row_count, losses);
}

/* Few classes: the diagonal is a second writer of their vectors of rows, the gradient that of the
 * loss. */
static NEVER_INLINE void grad_hessian_of_few_classes(const xent_grad_hessian_batch *problem,
                                                     int64_t first_row, int64_t row_count,
                                                     double *losses) {
    xent_second_order_batch second = {problem->batch, {0}, problem->mean_class_weight};
    int64_t labels[XENT_MAX_ROWS_PER_CALL + LANES] = {0};
    curvature_writer writer;
    second.batch.weight_factor *= problem->factor;
    second.batch.grad = problem->hessian;
    xent_read_labels(&problem->batch.labels, first_row, row_count, labels);
    begin_curvature(&second, first_row, row_count, labels, (REAL)problem->min_hessian, &writer);
    index_rows_and_curvature(&problem->batch, first_row, row_count, labels, losses, &writer);
    write_losses(&problem->batch, first_row, row_count, losses);
}

KERNEL_INLINE void grad_hessian_of_indices(const xent_grad_hessian_batch *problem,
                                           int64_t first_row, int64_t row_count, double *losses,
                                           void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int64_t classes = batch->classes;
    int64_t labels[XENT_MAX_ROWS_PER_CALL];
    xent_read_labels(&batch->labels, first_row, row_count, labels);
    const xent_matrix grad = xent_matrix_from(&batch->grad, first_row);
    const xent_matrix hessian = xent_matrix_from(&problem->hessian, first_row);
    const int turns =
        lies_in_columns(&batch->logits) || lies_in_columns(&grad) || lies_in_columns(&hessian);
    const int64_t at_once = turns ? rows_per_turn(classes) : rows_of_part(classes);
    const xent_matrix grad_place = place_of_grad_hessian(workspace, classes, 0);
    const xent_matrix hessian_place = place_of_grad_hessian(workspace, classes, 1);
    const row_factors factors = factors_of_row(problem, first_row, labels[0]);
    differentiated_rows rows = {problem,
                                first_row,
                                labels,
                                grad_place,
                                hessian_place,
                                batch->sample_weight != NULL || batch->class_weight != NULL,
                                scales_of_row(&factors)};
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        const xent_matrix grad_of_part = xent_matrix_from(&grad, k);
        const xent_matrix hessian_of_part = xent_matrix_from(&hessian, k);
        rows.first_row = first_row + k;
        rows.labels = labels + k;
        if (!turns) {
            rows.grad = grad_of_part;
            rows.hessian = hessian_of_part;
        }
        differentiate_rows(batch, first_row + k, count, &rows, losses + k, workspace);
        if (turns) {
            turn(grad_place, grad_of_part, count, classes);
            turn(hessian_place, hessian_of_part, count, classes);
        }
    }
}

/* --- targets with mass ------------------------------------------------------------------------ */

KERNEL_INLINE void raise_to_least(xent_matrix hessian, int64_t row_count, int64_t classes,
                                  REAL least) {
    for (int64_t k = 0; k < row_count; ++k) {
        REAL *row = (REAL *)(void *)xent_row(&hessian, k);
        for (int64_t c = 0; c < classes; ++c)
            row[c] = least > row[c] ? least : row[c];
    }
}

/* The diagonal of a batch whose classes are contiguous, to `hessian`. */
KERNEL_INLINE void diagonal_of_contiguous_rows(const xent_grad_hessian_batch *problem,
                                               const xent_batch *turned, xent_matrix hessian,
                                               int64_t row_count, void *workspace) {
    xent_second_order_batch second = {*turned, {0}, problem->mean_class_weight};
    second.batch.weight_factor *= problem->factor;
    second.batch.grad = hessian;
    second_order_rows(&second.batch, 0, row_count, workspace);
    raise_to_least(hessian, row_count, turned->classes, (REAL)problem->min_hessian);
}

/* The diagonal first, since the gradient may take the logits' place. */
KERNEL_INLINE void diagonal_of_masses(const xent_grad_hessian_batch *problem, int64_t first_row,
                                      int64_t row_count, void *workspace) {
    const xent_batch batch = xent_batch_from(&problem->batch, first_row, sizeof(REAL));
    const int64_t classes = batch.classes;
    const xent_matrix hessian = xent_matrix_from(&problem->hessian, first_row);
    if (has_few_classes(&batch)) {
        xent_second_order_batch second = {batch, {0}, problem->mean_class_weight};
        second.batch.weight_factor *= problem->factor;
        second.batch.grad = hessian;
        second_order_of_few_classes(&second, 0, row_count, (REAL)problem->min_hessian);
        return;
    }
    if (!lies_in_columns(&batch.logits) && !lies_in_columns(&hessian) &&
        !(batch.dense_targets.data && lies_in_columns(&batch.dense_targets))) {
        diagonal_of_contiguous_rows(problem, &batch, hessian, row_count, workspace);
        return;
    }
    const int64_t at_once = rows_per_turn(classes);
    const xent_matrix logits_place = place_of_grad_hessian(workspace, classes, 0);
    const xent_matrix targets_place = place_of_grad_hessian(workspace, classes, 1);
    const xent_matrix hessian_place = place_of_grad_hessian(workspace, classes, 2);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        xent_batch turned = xent_batch_from(&batch, k, sizeof(REAL));
        turn(turned.logits, logits_place, count, classes);
        turned.logits = logits_place;
        if (turned.dense_targets.data) {
            turn(turned.dense_targets, targets_place, count, classes);
            turned.dense_targets = targets_place;
        }
        diagonal_of_contiguous_rows(problem, &turned, hessian_place, count, workspace);
        turn(hessian_place, xent_matrix_from(&hessian, k), count, classes);
    }
}

/* Rows from `first_row` on, at most `most`, that are alike in whether their factors are large. */
KERNEL_INLINE int64_t rows_alike(const xent_grad_hessian_batch *problem, int64_t first_row,
                                 int64_t most, int *are_large) {
    const xent_batch *batch = &problem->batch;
    const int64_t weighed = batch->sample_weight || batch->class_weight ? most : 1;
    int64_t labels[XENT_MAX_ROWS_PER_CALL];
    xent_read_labels(&batch->labels, first_row, weighed, labels);
    for (int64_t k = 0; k < weighed; ++k) {
        const row_factors own = factors_of_row(problem, first_row + k, labels[k]);
        const int is_large = fmax(fabs(own.gradient), fabs(own.hessian)) >= LARGE_HERE;
        if (k == 0)
            *are_large = is_large;
        else if (is_large != *are_large)
            return k;
    }
    return most;
}

/* Class indices of many classes.  Which way a row goes is a question of its own weight alone. */
KERNEL_INLINE void grad_hessian_of_many_classes(const xent_grad_hessian_batch *problem,
                                                int64_t first_row, int64_t row_count,
                                                double *losses, void *workspace) {
    for (int64_t k = 0, count; k < row_count; k += count) {
        int are_large = 0;
        count = rows_alike(problem, first_row + k, row_count - k, &are_large);
        if (are_large) {
            diagonal_of_masses(problem, first_row + k, count, workspace);
            rows_to(&problem->batch, first_row + k, count, workspace, NAME(unturned_index_rows),
                    losses + k, XENT_INDEX_TARGETS);
        } else {
            grad_hessian_of_indices(problem, first_row + k, count, losses + k, workspace);
        }
    }
}

/* --- functions of the contract ---------------------------------------------------------------- */

static double grad_hessian_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                void *workspace) {
    const xent_grad_hessian_batch *problem = (const xent_grad_hessian_batch *)(const void *)batch;
    double losses[XENT_MAX_ROWS_PER_CALL];
    assert_softmax_function(batch, first_row, row_count, workspace, 1);
    xent_assert_matrix(&problem->hessian, sizeof(REAL), batch->rows);
    XENT_ASSERT(batch->grad.data);
    XENT_ASSERT(problem->target_kernels ||
                (!batch->dense_targets.data && batch->options.label_smoothing == 0 &&
                 !lse_counts(&batch->options)));
    if (problem->target_kernels) {
        diagonal_of_masses(problem, first_row, row_count, workspace);
        return problem->target_kernels->process_rows(batch, first_row, row_count, workspace);
    }
    if (batch->classes <= MOST_CLASSES_ALONG_ROWS)
        grad_hessian_of_few_classes(problem, first_row, row_count, losses);
    else
        grad_hessian_of_many_classes(problem, first_row, row_count, losses, workspace);
    return xent_pairwise_sum(losses, row_count);
}

static size_t grad_hessian_turning_bytes(int64_t classes) {
    return bytes_of_turning(classes) + 3 * bytes_of_turned_rows(classes);
}

#ifndef GRAD_HESSIAN_TABLE
#define GRAD_HESSIAN_TABLE(dtype)                            \
    {.process_rows = grad_hessian_rows##dtype,               \
     .workspace_bytes = grad_hessian_workspace_bytes##dtype, \
     .turning_bytes = grad_hessian_turning_bytes##dtype}
#endif
