/* Gradient and Hessian diagonal of every row from one pass over the logits.  A template over REAL_BITS.
 *
 * Knows: both formulas, and how 1 - p keeps its digits; that every layout goes without a copy of the matrix.
 * Must not know: instruction sets, threads, Python; how a softmax is computed.
 *
 *     class indices    grad = a/T (p - onehot(y))          hessian = f a/T^2 p (1 - p)
 *
 * The row kernels write p, exact to a few ulp in every class however small, to where it stays in cache; a second sweep makes both
 * of it.  1 - p is such a difference where p <= 1/2; of the one class where p is larger it is the sum of the others.  -(1 - p)
 * is the gradient of the label.
 *
 * Targets with mass at every class (dense ones, label smoothing) and z_loss take the gradient from its own kernels and the
 * diagonal from second_order.h: two softmaxes, the same interface.
 *
 * Factors from LARGE_HERE on, which make digits visible that small probabilities lost when they were rounded, take the same way.
 *
 * The smallest value that is asked for comes last: max(hessian, least).
 */

#undef LARGE_HERE
#define LARGE_HERE 16

/* What a row's p and p (1 - p) are multiplied with. */
typedef struct {
    double gradient, hessian;
} NAME(row_factors);

KERNEL_INLINE NAME(row_factors)
    NAME(factors_of_row)(const xent_grad_hessian_batch *problem, int64_t row, int64_t label) {
    const xent_batch *batch = &problem->batch;
    const double weight = NAME(weight_of_row)(batch, row, clamped_label(label, batch->classes), XENT_INDEX_TARGETS);
    const double gradient = weight / batch->temperature;
    const NAME(row_factors) factors = {gradient, problem->factor * (gradient / batch->temperature)};
    return factors;
}

/* --- few classes: lanes along rows ---------------------------------------------------------------- */

/* From one class of a chunk's rows to the next; not a power of two, so that the columns lie in different sets of the cache. */
enum { NAME(column_length) = XENT_MAX_ROWS_PER_CALL + LANES };

/* The factors of a vector of rows. */
typedef struct {
    ALIGNED_64 double gradient[LANES], hessian[LANES];
    NAME(pair) gradient_pair, hessian_pair;
    int are_usual; /* all pairs and their products are normal numbers: else doubles do it */
} NAME(lane_factors);

/* The vocabulary's vectors multiply as accurately as doubles if no low part is lost. */
KERNEL_INLINE int NAME(is_usual_factor)(double factor) {
    const double magnitude = fabs(factor);
    return magnitude == 0 || (magnitude > 0x1p-60 && magnitude < 0x1p60);
}

KERNEL_INLINE void NAME(pair_factors)(NAME(lane_factors) * factors) {
    factors->are_usual = 1;
    for (int lane = 0; lane < LANES; ++lane)
        factors->are_usual &=
            NAME(is_usual_factor)(factors->gradient[lane]) & NAME(is_usual_factor)(factors->hessian[lane]);
    factors->gradient_pair = NAME(pairs_of)(factors->gradient);
    factors->hessian_pair = NAME(pairs_of)(factors->hessian);
}

/* Those of `count` rows from `row`; an ignored row, of probabilities 0, has factors of 0. */
KERNEL_INLINE void NAME(factors_of_lanes)(const xent_grad_hessian_batch *problem, int64_t row, const int64_t *labels,
                                          int count, NAME(lane_factors) * factors) {
    for (int lane = 0; lane < LANES; ++lane) {
        NAME(row_factors) own = {0, 0};
        if (lane < count && !is_ignored(&problem->batch.labels, labels[lane]))
            own = NAME(factors_of_row)(problem, row + lane, labels[lane]);
        factors->gradient[lane] = own.gradient;
        factors->hessian[lane] = own.hessian;
    }
    NAME(pair_factors)(factors);
}

/* Sum of each lane's probabilities but for the one above 1/2. */
KERNEL_INLINE vec NAME(small_probabilities_of_columns)(REAL (*columns)[LANES], int classes) {
    const vec half = v_splat((REAL)0.5), zero = v_splat(0);
    NAME(pair) sum = NAME(zero_pair)();
    for (int first = 0; first < classes; first += 4) {
        vec p[4] = {zero, zero, zero, zero};
        for (int j = 0; j < 4 && first + j < classes; ++j) {
            p[j] = v_load(columns[first + j]);
            p[j] = v_drop(v_greater(p[j], half), p[j]);
        }
        const vec four = v_add(v_add(p[0], p[1]), v_add(p[2], p[3]));
        if (classes <= 4)
            return four;
        NAME(pair_add)(&sum, four);
    }
    return NAME(pair_total)(sum);
}

/* p (1 - p) to `hessian`, and p - onehot(y) in place of p; times their factors unless those are unusual. */
KERNEL_INLINE void NAME(differentiate_columns)(REAL (*columns)[LANES], REAL (*hessian)[LANES], int classes, vec labels,
                                               const NAME(lane_factors) * factors, vec least, int are_usual) {
    const vec half = v_splat((REAL)0.5), one = v_splat(1), zero = v_splat(0);
    const vec others = NAME(small_probabilities_of_columns)(columns, classes);
    REAL number = 0;
    for (int k = 0; k < classes; ++k, ++number) {
        const vec p = v_load(columns[k]), rest = v_select(v_greater(p, half), others, v_sub(one, p));
        vec gradient = v_select(v_equal(labels, v_splat(number)), v_sub(zero, rest), p), diagonal = v_mul(p, rest);
        if (are_usual) {
            gradient = v_add(NAME(product_with_pair)(gradient, factors->gradient_pair), zero); /* no -0 */
            diagonal = v_max(least, NAME(product_with_pair)(diagonal, factors->hessian_pair));
        }
        v_store(columns[k], gradient);
        v_store(hessian[k], diagonal);
    }
}

/* Factors of any size, number by number. */
static NEVER_INLINE void NAME(multiply_columns)(REAL (*columns)[LANES], REAL (*hessian)[LANES], int classes,
                                                const NAME(lane_factors) * factors, REAL least) {
    for (int k = 0; k < classes; ++k)
        for (int lane = 0; lane < LANES; ++lane) {
            const REAL diagonal = (REAL)((double)hessian[k][lane] * factors->hessian[lane]);
            columns[k][lane] = (REAL)((double)columns[k][lane] * factors->gradient[lane] + 0);
            hessian[k][lane] = least > diagonal ? least : diagonal;
        }
}

/* Rows of up to MOST_CLASSES_ALONG_ROWS classes whose probabilities lie in `place` as columns. */
KERNEL_INLINE void NAME(differentiate_short_rows)(const xent_grad_hessian_batch *problem, int64_t first_row,
                                                  int64_t row_count, const int64_t *labels, const REAL *place) {
    const xent_batch *batch = &problem->batch;
    const int classes = (int)batch->classes;
    const int are_alike = !batch->sample_weight && !batch->class_weight && !batch->labels.has_ignore_index;
    const vec least = v_splat((REAL)problem->min_hessian);
    NAME(tile) tile; /* its masses take the diagonal */
    NAME(lane_factors) factors;
    for (int64_t k = 0; k < row_count; k += LANES) {
        const int count = row_count - k < LANES ? (int)(row_count - k) : LANES;
        const int64_t row = first_row + k;
        ALIGNED_64 REAL numbers[LANES];
        if (!are_alike || k == 0)
            NAME(factors_of_lanes)(problem, row, labels + k, are_alike ? LANES : count, &factors);
        for (int lane = 0; lane < LANES; ++lane)
            numbers[lane] = (REAL)(int32_t)labels[k + lane];
        for (int c = 0; c < classes; ++c) {
            const REAL *column = place + c * NAME(column_length) + k;
            v_store(tile.columns[c], count == LANES ? v_load(column) : v_load_first(column, count, 0));
        }
        if (factors.are_usual) {
            NAME(differentiate_columns)(tile.columns, tile.masses, classes, v_load(numbers), &factors, least, 1);
        } else {
            NAME(differentiate_columns)(tile.columns, tile.masses, classes, v_load(numbers), &factors, least, 0);
            NAME(multiply_columns)(tile.columns, tile.masses, classes, &factors, (REAL)problem->min_hessian);
        }
        NAME(store_columns)(tile.columns, batch->grad + row * batch->grad_row_stride, batch->grad_row_stride,
                            batch->grad_class_stride, count, classes);
        NAME(store_columns)(tile.masses, problem->hessian + row * problem->hessian_row_stride,
                            problem->hessian_row_stride, problem->hessian_class_stride, count, classes);
    }
}

/* --- more classes: lanes along classes ------------------------------------------------------------ */

/* Sum of a row's probabilities but for the one above 1/2. */
KERNEL_INLINE vec NAME(small_probabilities_of_row)(const REAL *p, int64_t count) {
    const vec half = v_splat((REAL)0.5);
    NAME(wide) sum = NAME(zero_wide)();
    int64_t k = 0;
    for (; k + 4 * LANES <= count; k += 4 * LANES) {
        vec x[4];
        EACH_OF(4, x[j] = v_load(p + k + j * LANES); x[j] = v_drop(v_greater(x[j], half), x[j]));
        NAME(wide_add)(&sum, v_add(v_add(x[0], x[1]), v_add(x[2], x[3])));
    }
    for (; k < count; k += LANES) {
        const vec x = count - k < LANES ? v_load_first(p + k, (int)(count - k), 0) : v_load(p + k);
        NAME(wide_add)(&sum, v_drop(v_greater(x, half), x));
    }
    return v_splat((REAL)NAME(wide_total)(sum));
}

/* The gradient in place of the probabilities, and the diagonal. */
KERNEL_INLINE void NAME(differentiate_row)(REAL *p, REAL *hessian, int64_t count, int64_t label,
                                           const NAME(row_factors) * factors, REAL min_hessian) {
    const int third = NAME(third_of_exponent)(factors->gradient);
    const int third_of_hessian = NAME(third_of_exponent)(factors->hessian);
    const NAME(scaled_factor) down = NAME(scaled_factor_of)(factors->gradient, third);
    const NAME(scaled_factor) curve = NAME(scaled_factor_of)(factors->hessian, third_of_hessian);
    const vec half = v_splat((REAL)0.5), one = v_splat(1), zero = v_splat(0), least = v_splat(min_hessian);
    const vec others = NAME(small_probabilities_of_row)(p, count), p_of_label = v_splat(p[label]);
    for (int64_t k = 0; k < count; k += LANES) {
        const int left = (int)(count - k < LANES ? count - k : LANES);
        const vec x = left < LANES ? v_load_first(p + k, left, 0) : v_load(p + k);
        const vec rest = v_select(v_greater(x, half), others, v_sub(one, x));
        const vec gradient = v_add(NAME(times_factor)(x, &down, zero), zero);
        const vec diagonal = v_max(least, NAME(times_factor)(v_mul(x, rest), &curve, zero));
        if (left < LANES) {
            v_store_first(p + k, left, gradient);
            v_store_first(hessian + k, left, diagonal);
        } else {
            v_store(p + k, gradient);
            v_store(hessian + k, diagonal);
        }
    }
    const vec rest = v_select(v_greater(p_of_label, half), others, v_sub(one, p_of_label));
    p[label] = v_first(v_add(NAME(times_factor)(v_sub(zero, rest), &down, zero), zero));
}

/* Rows whose probabilities stand in the gradient's place. */
KERNEL_INLINE void NAME(differentiate_long_rows)(const xent_grad_hessian_batch *problem, int64_t first_row,
                                                 int64_t row_count, const int64_t *labels, NAME(matrix) grad,
                                                 NAME(matrix) hessian) {
    const xent_batch *batch = &problem->batch;
    const REAL least = (REAL)problem->min_hessian;
    for (int64_t k = 0; k < row_count; ++k) {
        REAL *diagonal = (REAL *)(void *)(hessian.data + k * hessian.row_stride);
        if (is_ignored(&batch->labels, labels[k])) {
            NAME(fill)(diagonal, batch->classes, least > 0 ? least : 0);
            continue;
        }
        const NAME(row_factors) factors = NAME(factors_of_row)(problem, first_row + k, labels[k]);
        NAME(differentiate_row)((REAL *)(void *)(grad.data + k * grad.row_stride), diagonal, batch->classes,
                                clamped_label(labels[k], batch->classes), &factors, least);
    }
}

/* --- class indices -------------------------------------------------------------------------------- */

static size_t NAME(grad_hessian_workspace_bytes)(int64_t classes) {
    const size_t columns = (size_t)classes * NAME(column_length) * sizeof(REAL);
    const size_t bytes = NAME(second_order_workspace_bytes)(classes);
    return ((classes <= MOST_CLASSES_ALONG_ROWS && columns > bytes ? columns : bytes) + 63) / 64 * 64;
}

/* Places for rows that turn, after what the kernels need. */
KERNEL_INLINE NAME(matrix) NAME(place_of_grad_hessian)(void *workspace, int64_t classes, int number) {
    char *places = (char *)workspace + NAME(grad_hessian_workspace_bytes)(classes) + NAME(turning_bytes)(classes);
    return NAME(place_for_turned)(places + (size_t)number * NAME(bytes_of_turned)(classes), classes);
}

/* Probabilities and losses of rows that the row kernels take, p to `place`. */
KERNEL_INLINE void NAME(probabilities_and_losses)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                                  NAME(matrix) place, double *losses, void *workspace) {
    xent_batch part = xent_batch_from(batch, first_row, sizeof(REAL));
    part.rows = row_count;
    part.grad = place.data;
    part.grad_row_stride = place.row_stride;
    part.grad_class_stride = place.class_stride;
    part.output = XENT_PROBABILITIES;
    part.lse = NULL;
    part.prediction = NULL;
    NAME(rows_to)(&part, 0, row_count, workspace, NAME(plain_index_rows), losses, XENT_INDEX_TARGETS);
}

/* Asks for the lines of rows that will be written, while their probabilities are computed. */
KERNEL_INLINE void NAME(prefetch_matrix)(NAME(matrix) matrix, int64_t row_count, int64_t classes) {
    if (NAME(has_columns)(matrix.class_stride)) {
        NAME(prefetch_columns)(matrix, row_count, classes);
        return;
    }
    const ptrdiff_t bytes = (ptrdiff_t)row_count * matrix.row_stride;
    for (ptrdiff_t at = 0; at < bytes; at += 64)
        PREFETCH(matrix.data + at);
}

KERNEL_INLINE void NAME(grad_hessian_of_indices)(const xent_grad_hessian_batch *problem, int64_t first_row,
                                                 int64_t row_count, double *losses, void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int64_t classes = batch->classes;
    const ptrdiff_t size = (ptrdiff_t)sizeof(REAL);
    int64_t labels[XENT_MAX_ROWS_PER_CALL + LANES] = {0};
    xent_read_labels(&batch->labels, first_row, row_count, labels);
    const NAME(matrix) grad = NAME(matrix_of)(batch->grad + first_row * batch->grad_row_stride, batch->grad_row_stride,
                                              batch->grad_class_stride);
    const NAME(matrix) hessian = NAME(matrix_of)(problem->hessian + first_row * problem->hessian_row_stride,
                                                 problem->hessian_row_stride, problem->hessian_class_stride);
    if (classes <= MOST_CLASSES_ALONG_ROWS) {
        NAME(prefetch_matrix)(hessian, row_count, classes);
        if (batch->grad != batch->logits)
            NAME(prefetch_matrix)(grad, row_count, classes);
        const NAME(matrix) place = NAME(matrix_of)((const char *)workspace, size, NAME(column_length) * size);
        NAME(probabilities_and_losses)(batch, first_row, row_count, place, losses, workspace);
        NAME(differentiate_short_rows)(problem, first_row, row_count, labels, (const REAL *)workspace);
        return;
    }
    if (!NAME(has_columns)(batch->logits_class_stride) && !NAME(has_columns)(grad.class_stride) &&
        !NAME(has_columns)(hessian.class_stride)) {
        NAME(probabilities_and_losses)(batch, first_row, row_count, grad, losses, workspace);
        NAME(differentiate_long_rows)(problem, first_row, row_count, labels, grad, hessian);
        return;
    }
    const int64_t at_once = NAME(rows_per_turn)(classes);
    const NAME(matrix) grad_place = NAME(place_of_grad_hessian)(workspace, classes, 0);
    const NAME(matrix) hessian_place = NAME(place_of_grad_hessian)(workspace, classes, 1);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        NAME(matrix) grad_of_part = grad, hessian_of_part = hessian;
        grad_of_part.data += k * grad.row_stride;
        hessian_of_part.data += k * hessian.row_stride;
        NAME(probabilities_and_losses)(batch, first_row + k, count, grad_place, losses + k, workspace);
        NAME(differentiate_long_rows)(problem, first_row + k, count, labels + k, grad_place, hessian_place);
        NAME(turn)(grad_place, grad_of_part, count, classes);
        NAME(turn)(hessian_place, hessian_of_part, count, classes);
    }
}

/* --- targets with mass ---------------------------------------------------------------------------- */

KERNEL_INLINE void NAME(raise_to_least)(NAME(matrix) hessian, int64_t row_count, int64_t classes, REAL least) {
    for (int64_t k = 0; k < row_count; ++k) {
        REAL *row = (REAL *)(void *)(hessian.data + k * hessian.row_stride);
        for (int64_t c = 0; c < classes; ++c)
            row[c] = least > row[c] ? least : row[c];
    }
}

/* The diagonal of a batch whose rows are plain, to `hessian`. */
KERNEL_INLINE void NAME(diagonal_of_plain_rows)(const xent_grad_hessian_batch *problem, const xent_batch *plain,
                                                NAME(matrix) hessian, int64_t row_count, void *workspace) {
    xent_second_order_batch second = {*plain, NULL, 0, problem->mean_class_weight};
    second.batch.weight_factor *= problem->factor;
    second.batch.grad = hessian.data;
    second.batch.grad_row_stride = hessian.row_stride;
    NAME(second_order_rows)(&second.batch, 0, row_count, workspace);
    NAME(raise_to_least)(hessian, row_count, plain->classes, (REAL)problem->min_hessian);
}

/* The diagonal first, since the gradient may take the logits' place. */
KERNEL_INLINE void NAME(diagonal_of_masses)(const xent_grad_hessian_batch *problem, int64_t first_row,
                                            int64_t row_count, void *workspace) {
    const xent_batch batch = xent_batch_from(&problem->batch, first_row, sizeof(REAL));
    const int64_t classes = batch.classes;
    NAME(matrix)
    hessian = NAME(matrix_of)(problem->hessian + first_row * problem->hessian_row_stride, problem->hessian_row_stride,
                              problem->hessian_class_stride);
    if (!NAME(has_columns)(batch.logits_class_stride) && !NAME(has_columns)(hessian.class_stride) &&
        !(batch.dense_targets && NAME(has_columns)(batch.dense_targets_class_stride))) {
        NAME(diagonal_of_plain_rows)(problem, &batch, hessian, row_count, workspace);
        return;
    }
    const int64_t at_once = NAME(rows_per_turn)(classes);
    const NAME(matrix) logits_place = NAME(place_of_grad_hessian)(workspace, classes, 0);
    const NAME(matrix) targets_place = NAME(place_of_grad_hessian)(workspace, classes, 1);
    const NAME(matrix) hessian_place = NAME(place_of_grad_hessian)(workspace, classes, 2);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        xent_batch plain = xent_batch_from(&batch, k, sizeof(REAL));
        NAME(turn)(NAME(matrix_of)(plain.logits, plain.logits_row_stride, plain.logits_class_stride), logits_place,
                   count, classes);
        plain.logits = logits_place.data;
        plain.logits_row_stride = logits_place.row_stride;
        plain.logits_class_stride = 0;
        if (plain.dense_targets) {
            NAME(turn)(
                NAME(matrix_of)(plain.dense_targets, plain.dense_targets_row_stride, plain.dense_targets_class_stride),
                targets_place, count, classes);
            plain.dense_targets = targets_place.data;
            plain.dense_targets_row_stride = targets_place.row_stride;
            plain.dense_targets_class_stride = 0;
        }
        NAME(diagonal_of_plain_rows)(problem, &plain, hessian_place, count, workspace);
        NAME(matrix) destination = hessian;
        destination.data += k * hessian.row_stride;
        NAME(turn)(hessian_place, destination, count, classes);
    }
}

/* Whether some row's factors are large. */
KERNEL_INLINE int NAME(has_large_factors)(const xent_grad_hessian_batch *problem, int64_t first_row,
                                          int64_t row_count) {
    const xent_batch *batch = &problem->batch;
    const int64_t count = batch->sample_weight || batch->class_weight ? row_count : 1;
    int64_t labels[XENT_MAX_ROWS_PER_CALL];
    double largest = 0;
    xent_read_labels(&batch->labels, first_row, count, labels);
    for (int64_t k = 0; k < count; ++k) {
        const NAME(row_factors) own = NAME(factors_of_row)(problem, first_row + k, labels[k]);
        largest = fmax(largest, fmax(fabs(own.gradient), fabs(own.hessian)));
    }
    return largest >= LARGE_HERE;
}

/* --- functions of the contract -------------------------------------------------------------------- */

static double NAME(grad_hessian_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace) {
    const xent_grad_hessian_batch *problem = (const xent_grad_hessian_batch *)(const void *)batch;
    double losses[XENT_MAX_ROWS_PER_CALL];
    if (problem->target_kernels) {
        NAME(diagonal_of_masses)(problem, first_row, row_count, workspace);
        return problem->target_kernels->process_rows(batch, first_row, row_count, workspace);
    }
    if (NAME(has_large_factors)(problem, first_row, row_count)) {
        NAME(diagonal_of_masses)(problem, first_row, row_count, workspace);
        return NAME(index_rows)(batch, first_row, row_count, workspace);
    }
    NAME(grad_hessian_of_indices)(problem, first_row, row_count, losses, workspace);
    return xent_pairwise_sum(losses, row_count);
}

static size_t NAME(grad_hessian_turning_bytes)(int64_t classes) {
    return NAME(turning_bytes)(classes) + 3 * NAME(bytes_of_turned)(classes);
}

#ifndef GRAD_HESSIAN_TABLE
#define GRAD_HESSIAN_TABLE(dtype)                      \
    {PASTE_NAMES(grad_hessian_rows, dtype),            \
     PASTE_NAMES(grad_hessian_workspace_bytes, dtype), \
     NULL,                                             \
     NULL,                                             \
     NULL,                                             \
     NULL,                                             \
     NULL,                                             \
     NULL,                                             \
     PASTE_NAMES(grad_hessian_turning_bytes, dtype),   \
     NULL}
#endif
