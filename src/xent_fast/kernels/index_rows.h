/* Rows of a few classes with class indices: which of them take which way.  A template over
 * REAL_BITS.
 *
 * Knows: plain rows, some vectors of which go side by side; all others; those that leave the lanes
 * (double_rows.h).
 * Must not know: the formulas (index_lanes.h), instruction sets, threads, Python.
 */
#include "index_lanes.h"

/* A vector of rows: where it stands in the batch, and its numbers. */
typedef struct {
    const xent_batch *batch;
    const call_settings *settings;
    const int64_t *label_values;
    int64_t first_row;
    int row_count, classes;
    vec labels;
    unsigned counts; /* bit k for lane k: a row with a label */
} lane_rows;

/* Rows that are taken as double_rows.h says, known before their exponentials. */
static NEVER_INLINE unsigned leaving_index_lanes(REAL (*columns)[LANES], const lane_rows *rows,
                                                 const lane_weights *weights) {
    const call_settings *settings = rows->settings;
    vec maximum = v_splat(-INFINITY);
    if (settings->all_leave)
        return (1u << LANES) - 1;
    if (settings->row.output != XENT_GRADIENT)
        return 0;
    for (int64_t k = 0; k < rows->classes; ++k)
        maximum = v_max(v_load(columns[k]), maximum);
    const vec factor = v_mul(magnitude_of(weights->gradient_weight.high), weights->last_factor);
    return lanes_out_of_reach(columns, rows->classes, maximum, factor, factor, &settings->scale);
}

/* Loss and, if asked for, lse, prediction, gradient and, where `curvature` is not NULL, second
 * derivatives of a vector of rows. */
KERNEL_INLINE void take_index_rows(const lane_rows *rows, const lane_weights *weights,
                                   double *row_loss, const curvature_writer *curvature,
                                   int is_exact) {
    const xent_batch *batch = rows->batch;
    const call_settings *settings = rows->settings;
    const int classes = rows->classes;
    const unsigned all = (1u << LANES) - 1;
    const vec labels = rows->labels;
    ALIGNED_64 REAL place[MOST_CLASSES_ALONG_ROWS][LANES];
    const lane_columns columns = {(const char *)place, sizeof place[0]};
    index_sums sums;
    unsigned leaving = 0;

    load_columns(place, batch->logits, rows->first_row, rows->row_count, classes);
    if (rows->counts != all)
        clear_rows_without_label(place, classes, labels);
    if (weights->may_leave)
        leaving = leaving_index_lanes(place, rows, weights);
    sums.maximum = maximum_of_columns(columns, classes);
    vec base = sums.maximum, shift = v_splat(0), first_maximum = v_splat(-1);
    if (settings->wants_prediction || settings->row.wants_lse)
        first_maximum = first_of_columns(columns, classes, sums.maximum);
    if (v_mask_bits(v_greater(magnitude_of(base), v_splat(settings->scale.huge_logit)))) {
        base = finite_maximum(base);
        shift = shift_huge_columns(place, classes, base, settings->scale.huge_logit);
    }
    sums.top = v_sub(base, shift);
    sum_columns(columns, classes, labels, &settings->scale, place, &sums, NULL, is_exact);

    const vec_mask leads = v_equal(sums.label_logit, sums.top);
    vec_pair weight = weights->gradient_weight;
    const int is_softmax = settings->row.output == XENT_PROBABILITIES;
    if (is_softmax) {
        weight.high = v_splat(1);
        weight.low = v_splat(0);
    }
    index_factors factors = index_factors_of(&sums, leads, weight, is_exact);
    const vec distance =
        divided_by_temperature(v_sub(sums.top, sums.label_logit), settings->row.temperature);
    vec loss = lane_index_losses(index_ratio(&sums, leads, is_exact), distance), lse = v_splat(0);
    if (settings->row.wants_lse)
        lse = v_add(divided_by_temperature(sums.maximum, settings->row.temperature),
                    log_of_columns(place, classes, first_maximum, sums.exp_of_maximum.high));
    if (settings->row.has_lse_terms) {
        const lse_terms terms = lse_terms_of(&settings->row.options, lse);
        loss = v_fma(terms.left, terms.right, loss);
        factors.of_label = v_fma(v_mul(terms.slope, sums.exp_of_label.high),
                                 factors.of_exponentials, factors.of_label);
        factors.of_exponentials =
            v_fma(terms.slope, factors.of_exponentials, factors.of_exponentials);
        weight.high = v_fma(terms.slope, weight.high, weight.high);
    }
    if (is_softmax)
        factors.of_label = v_mul(sums.exp_of_label.high, factors.of_exponentials);

    const vec finite = v_keep(v_greater(v_splat(INFINITY), loss), loss);
    if (rows->counts == all && v_mask_bits(v_greater(finite, v_splat((REAL)TINY_LOSS))) == all) {
        weigh_finite_losses(loss, weights->of_loss, row_loss);
    } else {
        const vec_mask is_number = v_greater(
            v_keep(v_equal(base, sums.maximum), v_add(sums.others.high, sums.exp_of_label.high)),
            v_splat(0));
        ALIGNED_64 double losses[LANES];
        mend_losses(&sums, loss, is_number, REAL_BITS == 32 && !settings->row.has_lse_terms,
                    weights->of_loss, losses);
        for (int row = 0; row < rows->row_count; ++row)
            row_loss[row] = rows->counts >> row & 1 ? losses[row] : 0;
        if (settings->row.output == XENT_GRADIENT)
            leaving |= ~v_mask_bits(v_equal(v_sub(loss, loss), v_splat(0)));
        leaving &= v_mask_bits(is_number) & rows->counts;
        lse = v_select(is_number, lse, v_splat(NAN));
        first_maximum = v_select(is_number, first_maximum, v_splat(-1));
        if (v_mask_bits(is_number) != all) {
            /* one NaN everywhere: which of two an operation passes on differs between processors */
            factors.of_exponentials = v_select(is_number, factors.of_exponentials, v_splat(NAN));
            factors.of_label = v_select(is_number, factors.of_label, v_splat(NAN));
            for (int64_t k = 0; k < classes; ++k)
                v_store(place[k], v_select(is_number, v_load(place[k]), v_splat(NAN)));
        }
        if (rows->counts != all)
            factors.of_exponentials =
                v_keep(v_not_less(labels, v_splat(0)), factors.of_exponentials);
    }
    if (batch->lse || batch->prediction)
        write_lse_and_predictions(batch, rows->first_row, rows->row_count, labels, lse,
                                  first_maximum, 1);
    if (curvature) {
        const curved_rows curved = {place,
                                    classes,
                                    rows->row_count,
                                    rows->first_row,
                                    labels,
                                    rows->label_values,
                                    v_add(sums.others.high, sums.exp_of_label.high),
                                    sums.exp_of_maximum.high};
        write_curvature(curvature, &curved);
    }
    if (batch->grad.data)
        index_gradients(place, classes, labels, factors, sums.exp_of_maximum.high, weight.high,
                        is_exact, (char *)place, sizeof place[0]);
    if (batch->grad.data && weights->is_rescaled && !is_softmax)
        for (int64_t k = 0; k < classes; ++k)
            v_store(place[k], v_mul(v_load(place[k]), weights->last_factor));
    if (leaving)
        take_leaving_rows(batch, rows->first_row, rows->row_count, leaving, rows->label_values,
                          batch->grad.data ? place : NULL, row_loss, XENT_INDEX_TARGETS);
    if (batch->grad.data)
        store_columns(place, batch->grad, rows->first_row, rows->row_count, classes);
}

static NEVER_INLINE void take_two_or_three_classes(const lane_rows *rows,
                                                   const lane_weights *weights, double *row_loss,
                                                   const curvature_writer *curvature) {
    take_index_rows(rows, weights, row_loss, curvature, 0);
}

static NEVER_INLINE void take_more_classes(const lane_rows *rows, const lane_weights *weights,
                                           double *row_loss, const curvature_writer *curvature) {
    take_index_rows(rows, weights, row_loss, curvature, 1);
}

KERNEL_INLINE void take_any_rows(const lane_rows *rows, const lane_weights *weights,
                                 double *row_loss, const curvature_writer *curvature) {
    if (rows->classes == 2 || rows->classes == 3)
        take_two_or_three_classes(rows, weights, row_loss, curvature);
    else
        take_more_classes(rows, weights, row_loss, curvature);
}

/* Plain rows: a whole vector of them, which all count, of a batch of which nothing but losses,
 * gradients and the diagonal is asked for, in one layout; their weights neither leave the lanes nor
 * are rescaled.  They take the same operations as any others, but each step of some vectors before
 * the next. */
KERNEL_INLINE int allows_plain_rows(const xent_batch *batch, const curvature_writer *curvature) {
    const int has_columns = lies_in_columns(&batch->logits);
    if (curvature && (curvature->vector.data || has_columns != lies_in_columns(&curvature->result)))
        return 0;
    return batch->output == XENT_GRADIENT && batch->options.temperature == 1 &&
           !lse_counts(&batch->options) && !batch->lse && !batch->prediction &&
           (!batch->grad.data || has_columns == lies_in_columns(&batch->grad));
}

typedef struct {
    /* logits that were turned, exponentials, gradients */
    ALIGNED_64 REAL place[MOST_CLASSES_ALONG_ROWS][LANES];
    index_sums sums;
    index_factors factors;
    vec_pair weight;
    vec labels;
    int64_t row;  /* among those of the call */
    int is_taken; /* whether these are plain indeed */
} plain_vector;

/* R and m - x_y of a call's plain rows.  Their logarithms come last, for the same reason. */
typedef struct {
    ALIGNED_64 REAL ratio[XENT_MAX_ROWS_PER_CALL + LANES], distance[XENT_MAX_ROWS_PER_CALL + LANES];
    int64_t row[XENT_MAX_ROWS_PER_CALL / LANES + 1]; /* the first of each vector */
    int vectors;
} plain_losses;

/* Whether memory is asked for the lines of plain rows: processors look after a few planes by
 * themselves. */
KERNEL_INLINE int wants_lines(int classes, int has_columns) {
    return !has_columns || classes > SET_LINES;
}

/* What is asked for while the exponentials of the vector at `row` are made: the logits that come
 * after those that are taken at once with it, and where its own results go. */
KERNEL_INLINE wanted_lines wanted_on_the_way(const xent_batch *batch, int64_t row,
                                             const curvature_writer *curvature) {
    wanted_lines wanted;
    wanted.count = 0;
    want_rows(&wanted, &batch->logits, row + VECTORS_AT_ONCE * LANES);
    if (batch->grad.data && batch->grad.data != batch->logits.data)
        want_rows(&wanted, &batch->grad, row);
    if (curvature)
        want_rows(&wanted, &curvature->result, row);
    return wanted;
}

/* Loads and sums up; a huge logit is not plain. */
KERNEL_INLINE void sum_plain_rows(plain_vector *rows, const xent_batch *batch, int64_t first_row,
                                  const curvature_writer *curvature, int classes, int is_exact,
                                  int has_columns) {
    const exponent_scale scale = unit_scale();
    const int64_t row = first_row + rows->row;
    lane_columns columns = {xent_row(&batch->logits, row), batch->logits.class_stride};
    index_sums sums;
    if (!has_columns) {
        load_columns(rows->place, contiguous(batch->logits), row, LANES, classes);
        columns.first = (const char *)rows->place;
        columns.step = sizeof rows->place[0];
    }
    sums.top = sums.maximum = maximum_of_columns(columns, classes);
    rows->is_taken = v_mask_bits(v_greater(magnitude_of(sums.top), v_splat(scale.huge_logit))) == 0;
    if (is_exact && wants_lines(classes, has_columns)) {
        const wanted_lines wanted = wanted_on_the_way(batch, row, curvature);
        sum_columns(columns, classes, rows->labels, &scale, rows->place, &sums, &wanted, 1);
    } else {
        sum_columns(columns, classes, rows->labels, &scale, rows->place, &sums, NULL, is_exact);
    }
    rows->sums = sums;
}

/* Losses that are tiny, infinite or NaN are not plain. */
KERNEL_INLINE void settle_plain_rows(plain_vector *rows, plain_losses *losses, int is_exact) {
    const vec_mask leads = v_equal(rows->sums.label_logit, rows->sums.top);
    const vec ratio = index_ratio(&rows->sums, leads, is_exact);
    const vec distance = v_sub(rows->sums.top, rows->sums.label_logit);
    /* at most twice a loss that is small, infinite where it is, and NaN */
    const vec about = v_add(ratio, distance);
    const vec finite = v_keep(v_greater(v_splat(INFINITY), about), about);
    rows->is_taken &=
        v_mask_bits(v_greater(finite, v_splat((REAL)(2 * TINY_LOSS)))) == (1u << LANES) - 1;
    rows->factors = index_factors_of(&rows->sums, leads, rows->weight, is_exact);
    v_store(losses->ratio + rows->row, ratio);
    v_store(losses->distance + rows->row, distance);
}

/* The diagonal of plain rows, whose exponentials still stand in their place. */
KERNEL_INLINE void write_plain_curvature(plain_vector *rows, const curvature_writer *curvature,
                                         int64_t first_row, int classes, int has_columns) {
    ALIGNED_64 REAL columns[MOST_CLASSES_ALONG_ROWS][LANES];
    const int64_t row = first_row + rows->row;
    const vec weight = v_load(curvature->weights + (curvature->has_own_weights ? rows->row : 0));
    const vec total = v_add(rows->sums.others.high, rows->sums.exp_of_label.high);
    const curved_rows curved = {rows->place,  classes, LANES, row,
                                rows->labels, NULL,    total, rows->sums.exp_of_maximum.high};
    if (has_columns) {
        diagonal_columns(
            &curved, weight, v_splat(curvature->least), xent_row(&curvature->result, row),
            curvature->result.class_stride,
            wants_lines(classes, 1) ? 0 : VECTORS_AT_ONCE * LANES * (ptrdiff_t)sizeof(REAL));
        return;
    }
    diagonal_columns(&curved, weight, v_splat(curvature->least), (char *)columns, sizeof columns[0],
                     0);
    store_columns(columns, contiguous(curvature->result), row, LANES, classes);
}

/* Whether the lanes hold the weights of the diagonal of the vector of rows that begins at `row` of
 * a call. */
KERNEL_INLINE int has_plain_curvature(const curvature_writer *curvature, int64_t row) {
    const vec weight = v_load(curvature->weights + (curvature->has_own_weights ? row : 0));
    return v_mask_bits(v_not_less(magnitude_of(weight), v_splat(LARGEST_HERE))) == 0;
}

KERNEL_INLINE void write_plain_rows(plain_vector *rows, const xent_batch *batch, int64_t first_row,
                                    int classes, int is_exact, int has_columns) {
    const int64_t row = first_row + rows->row;
    index_gradients(rows->place, classes, rows->labels, rows->factors,
                    rows->sums.exp_of_maximum.high, rows->weight.high, is_exact,
                    has_columns ? xent_row(&batch->grad, row) : (char *)rows->place,
                    has_columns ? batch->grad.class_stride : (ptrdiff_t)sizeof rows->place[0]);
    if (!has_columns)
        store_columns(rows->place, contiguous(batch->grad), row, LANES, classes);
}

/* `count` vectors of them; those that are not taken are as they were. */
KERNEL_INLINE void take_plain_rows(plain_vector *rows, int count, const xent_batch *batch,
                                   int64_t first_row, plain_losses *losses,
                                   const curvature_writer *curvature, int classes, int is_exact,
                                   int has_columns) {
    XENT_ASSERT(count <= VECTORS_AT_ONCE);
    XENT_ASSERT(losses->vectors + count <= XENT_MAX_ROWS_PER_CALL / LANES + 1);
    for (int j = 0; j < count; ++j)
        sum_plain_rows(&rows[j], batch, first_row, curvature, classes, is_exact, has_columns);
    for (int j = 0; j < count; ++j)
        settle_plain_rows(&rows[j], losses, is_exact);
    for (int j = 0; j < count; ++j) {
        if (!rows[j].is_taken)
            continue;
        losses->row[losses->vectors++] = rows[j].row;
        if (curvature)
            write_plain_curvature(&rows[j], curvature, first_row, classes, has_columns);
        if (batch->grad.data)
            write_plain_rows(&rows[j], batch, first_row, classes, is_exact, has_columns);
    }
}

/* Their losses.  Each row's weight is `weight`'s or, where that is NULL, lies in the loss's
 * place. */
KERNEL_INLINE void finish_plain_rows(const plain_losses *losses, const double *weight,
                                     double *row_loss) {
    for (int j = 0; j < losses->vectors; ++j) {
        const int64_t row = losses->row[j];
        const vec loss =
            lane_index_losses(v_load(losses->ratio + row), v_load(losses->distance + row));
        weigh_finite_losses(loss, weight ? weight : row_loss + row, row_loss + row);
    }
}

KERNEL_INLINE lane_rows lane_rows_at(const xent_batch *batch, const call_settings *settings,
                                     const int64_t *labels, int64_t first_row, int row_count) {
    const unsigned all = (1u << LANES) - 1;
    lane_rows rows = {batch,
                      settings,
                      labels,
                      first_row,
                      row_count,
                      (int)batch->classes,
                      lane_labels(&batch->labels, labels, row_count),
                      all};
    if (row_count < LANES || batch->labels.has_ignore_index)
        rows.counts = v_mask_bits(v_not_less(rows.labels, v_splat(0)));
    return rows;
}

/* Their weights; whether those of a plain batch may be plain with them. */
KERNEL_INLINE int weigh_index_rows(const xent_batch *batch, const call_settings *settings,
                                   int64_t first_row, int row_count, const int64_t *labels,
                                   lane_weights *weights) {
    weights_of_rows(batch, first_row, row_count, labels, XENT_INDEX_TARGETS, weights);
    weights->may_leave |= settings->all_leave;
    return !weights->may_leave && !weights->is_rescaled;
}

/* Vectors of rows, `most` of them at a time as far as they are plain. */
KERNEL_INLINE void index_rows_of(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                 int classes, const int64_t *labels, double *row_loss,
                                 const curvature_writer *curvature, int is_exact, int most) {
    const int has_own_weights = weights_differ(batch) || batch->class_weight != NULL;
    const int is_plain_batch = allows_plain_rows(batch, curvature);
    const int has_columns = lies_in_columns(&batch->logits);
    const call_settings settings = call_settings_of(batch);
    lane_weights weights;
    plain_vector plain[VECTORS_AT_ONCE];
    plain_losses losses;
    losses.vectors = 0;
    int is_plain = 0;
    if (!has_own_weights)
        is_plain = weigh_index_rows(batch, &settings, first_row, LANES, labels, &weights) &&
                   is_plain_batch;
    int count = rows_of_first_vector(batch, first_row);
    for (int64_t k = 0; k < row_count;) {
        int vectors = 0;
        for (; k < row_count && vectors < most; k += count, count = LANES) {
            if (row_count - k < count)
                count = (int)(row_count - k);
            if (has_own_weights)
                is_plain = weigh_index_rows(batch, &settings, first_row + k, count, labels + k,
                                            &weights) &&
                           is_plain_batch;
            const lane_rows rows = lane_rows_at(batch, &settings, labels + k, first_row + k, count);
            if (!is_plain || rows.counts != (1u << LANES) - 1 ||
                (curvature && !has_plain_curvature(curvature, k))) {
                take_any_rows(&rows, &weights, row_loss + k, curvature);
                continue;
            }
            if (has_own_weights)
                memcpy(row_loss + k, weights.of_loss, sizeof weights.of_loss);
            plain[vectors].labels = rows.labels;
            plain[vectors].weight = weights.gradient_weight;
            plain[vectors++].row = k;
        }
        if (has_columns)
            take_plain_rows(plain, vectors, batch, first_row, &losses, curvature, classes, is_exact,
                            1);
        else
            take_plain_rows(plain, vectors, batch, first_row, &losses, curvature, classes, is_exact,
                            0);
        for (int j = 0; j < vectors; ++j) {
            if (plain[j].is_taken)
                continue;
            const int64_t row = plain[j].row;
            const lane_rows rows =
                lane_rows_at(batch, &settings, labels + row, first_row + row, LANES);
            if (has_own_weights)
                weigh_index_rows(batch, &settings, first_row + row, LANES, labels + row, &weights);
            take_any_rows(&rows, &weights, row_loss + row, curvature);
        }
    }
    finish_plain_rows(&losses, has_own_weights ? NULL : weights.of_loss, row_loss);
}

/* The fewest classes, of which every vector of rows is a matter of some tens of instructions, have
 * code of their own, and processors find the next vector by themselves; but for three classes where
 * registers hold four. `labels` has a whole vector from each row on. */
KERNEL_INLINE void index_rows_with(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                   const int64_t *labels, double *row_loss,
                                   const curvature_writer *curvature) {
    if (batch->classes == 2)
        index_rows_of(batch, first_row, row_count, 2, labels, row_loss, curvature, 0, 1);
    else if (batch->classes == 3)
        index_rows_of(batch, first_row, row_count, 3, labels, row_loss, curvature, 0, INTERLEAVED);
    else
        index_rows_of(batch, first_row, row_count, (int)batch->classes, labels, row_loss, curvature,
                      1, vectors_at_once(batch->classes));
}

KERNEL_INLINE void many_index_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                   const int64_t *labels, double *row_loss) {
    index_rows_with(batch, first_row, row_count, labels, row_loss, NULL);
}

/* With second derivatives. */
static NEVER_INLINE void index_rows_and_curvature(const xent_batch *batch, int64_t first_row,
                                                  int64_t row_count, const int64_t *labels,
                                                  double *row_loss,
                                                  const curvature_writer *curvature) {
    index_rows_with(batch, first_row, row_count, labels, row_loss, curvature);
}
