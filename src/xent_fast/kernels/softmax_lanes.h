/* The softmax of a few classes: as many rows side by side as a vector has lanes.  A template over
 * REAL_BITS.
 *
 * Knows: probabilities, their logarithms and lse of such rows, which no target is asked for.
 * Must not know: instruction sets, threads, Python, how rows become columns (tile.h).
 *
 * The sums are those of targets with mass (lanes_along_rows.h), the first maximum m left out of T:
 *
 *     p = e / (T + e_m)    log p = (x - m) / T' - log1p(T / e_m)    lse = m / T' + log1p(T / e_m)
 *
 * with the temperature T'.  The logarithm counts what the exponentials' last roundings dropped; p
 * is of exponentials as they are stored, so that none exceeds 1.
 */
#include "lanes_along_rows.h"

/* Sums of a vector of rows, whose logits less what is taken from huge ones have the largest `top`;
 * exponentials to `place` unless that is NULL. */
KERNEL_INLINE void sum_softmax(lane_columns columns, REAL (*place)[LANES], int classes, vec top,
                               const exponent_scale *scale, lane_sums *sums, int has_dropped) {
    sums->pivot = first_of_columns(columns, classes, top);
    columns_exponentials(columns, place, classes, top, scale, sums, has_dropped);
}

/* Where the sums are those of a row of numbers; `base` is their finite maximum. */
KERNEL_INLINE vec_mask has_softmax(const lane_sums *sums, vec base) {
    const vec sum = v_add(sums->sum_of_others.high, sums->exp_of_pivot.high);
    return v_greater(v_keep(v_equal(base, sums->maximum), sum), v_splat(0));
}

/* A vector of rows on its way. */
typedef struct {
    ALIGNED_64 REAL place[MOST_CLASSES_ALONG_ROWS][LANES]; /* logits unless they lie as columns in
                                                              memory; exponentials; results */
    lane_columns columns;                                  /* the logits */
    lane_sums sums;
    vec_pair factor; /* 1 / (T + e_m) */
    vec top, labels; /* the maximum less what is taken from huge ones; -1 where rows are ignored */
    vec_mask is_number;
    int64_t first; /* among the rows of the call */
    int row_count;
} softmax_vector;

/* Loads and sums up. */
KERNEL_INLINE void sum_softmax_vector(softmax_vector *rows, const xent_batch *batch,
                                      int64_t first_row, const int64_t *labels,
                                      const exponent_scale *scale, int classes,
                                      int keeps_exponentials) {
    const int has_ignored = batch->labels.has_ignore_index;
    const lane_columns place = {(const char *)rows->place, sizeof rows->place[0]},
                       lying = {xent_row(&batch->logits, first_row), batch->logits.class_stride};
    const int turns = has_ignored || rows->row_count < LANES || !lies_in_columns(&batch->logits);
    rows->columns = turns ? place : lying;
    if (turns)
        load_columns(rows->place, batch->logits, first_row, rows->row_count, classes);
    if (has_ignored) {
        rows->labels = lane_labels(&batch->labels, labels, rows->row_count);
        clear_rows_without_label(rows->place, classes, rows->labels);
    }
    vec base = maximum_of_columns(rows->columns, classes);
    rows->sums.maximum = rows->top = base;
    if (v_mask_bits(v_greater(magnitude_of(base), v_splat(scale->huge_logit)))) {
        if (!turns)
            load_columns(rows->place, batch->logits, first_row, LANES, classes);
        rows->columns = place;
        base = finite_maximum(base);
        rows->top = v_sub(base, shift_huge_columns(rows->place, classes, base, scale->huge_logit));
    }
    sum_softmax(rows->columns, keeps_exponentials ? rows->place : NULL, classes, rows->top, scale,
                &rows->sums, !keeps_exponentials);
    rows->is_number = has_softmax(&rows->sums, base);
}

/* Quotient and logarithm. */
KERNEL_INLINE void settle_softmax_vector(softmax_vector *rows, int keeps_exponentials) {
    lane_sums *sums = &rows->sums;
    if (keeps_exponentials) {
        const vec_pair one = {v_splat(1), v_splat(0)};
        vec_pair sum = sums->sum_of_others;
        pair_add(&sum, sums->exp_of_pivot.high);
        rows->factor = pair_quotient(one, sum, inverse_of(sum));
    } else {
        sums->log_of_sum = pair_total(log_of_pair_ratio(accurate_others(sums), sums->exp_of_pivot));
    }
}

/* What is asked for of a class, NaN where there is none. */
KERNEL_INLINE vec softmax_of_class(const softmax_vector *rows, int64_t k, double temperature,
                                   int keeps_exponentials) {
    vec result;
    if (keeps_exponentials) {
        result = product_with_pair(v_load(rows->place[k]), rows->factor);
    } else {
        const vec above = v_sub(load_column(rows->columns, k), rows->top);
        result = v_sub(divided_by_temperature(above, temperature), rows->sums.log_of_sum);
    }
    return v_select(rows->is_number, result, v_splat(NAN));
}

KERNEL_INLINE void write_softmax_vector(softmax_vector *rows, const xent_batch *batch,
                                        int64_t first_row, const int64_t *labels, double *row_loss,
                                        const call_settings *settings, int classes,
                                        int keeps_exponentials) {
    const int row_count = rows->row_count, has_ignored = batch->labels.has_ignore_index;
    const double temperature = settings->row.temperature;
    const unsigned numbers = v_mask_bits(rows->is_number);
    char *grad = batch->grad.data ? xent_row(&batch->grad, first_row) : NULL;
    const int lies =
        !has_ignored && !settings->all_leave && row_count == LANES && lies_in_columns(&batch->grad);
    for (int row = 0; numbers != (1u << LANES) - 1 && row < row_count; ++row)
        if (!(numbers >> row & 1) && !(has_ignored && is_ignored(&batch->labels, labels[row])))
            row_loss[row] = (double)NAN;
    if (batch->lse || batch->prediction) {
        const vec lse =
            v_add(divided_by_temperature(rows->sums.maximum, temperature), rows->sums.log_of_sum);
        write_lse_and_predictions(
            batch, first_row, row_count, rows->labels, v_select(rows->is_number, lse, v_splat(NAN)),
            v_select(rows->is_number, rows->sums.pivot, v_splat(-1)), has_ignored);
    }
    if (lies) {
        for (int64_t k = 0; grad && k < classes; ++k)
            v_store((REAL *)(void *)(grad + k * batch->grad.class_stride),
                    softmax_of_class(rows, k, temperature, keeps_exponentials));
        return;
    }
    for (int64_t k = 0; grad && k < classes; ++k)
        v_store(rows->place[k], softmax_of_class(rows, k, temperature, keeps_exponentials));
    if (has_ignored)
        clear_rows_without_label(rows->place, classes, rows->labels);
    if (settings->all_leave)
        take_leaving_rows(batch, first_row, row_count, numbers, labels, grad ? rows->place : NULL,
                          row_loss, XENT_SMOOTHED_TARGETS);
    if (grad)
        store_columns(rows->place, batch->grad, first_row, row_count, classes);
}

/* All of them; their losses are 0, or NaN where there is no softmax. */
KERNEL_INLINE void softmax_rows_of(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                   const int64_t *labels, double *row_loss, int classes,
                                   int keeps_exponentials) {
    const call_settings settings = call_settings_of(batch);
    const int most = vectors_at_once(classes);
    softmax_vector some[VECTORS_AT_ONCE];
    int count = rows_of_first_vector(batch, first_row);
    memset(row_loss, 0, (size_t)row_count * sizeof *row_loss);
    for (int64_t k = 0; k < row_count;) {
        int vectors = 0;
        for (; k < row_count && vectors < most; k += count, count = LANES, ++vectors) {
            if (row_count - k < count)
                count = (int)(row_count - k);
            some[vectors].first = k;
            some[vectors].row_count = count;
            sum_softmax_vector(&some[vectors], batch, first_row + k, labels + k, &settings.scale,
                               classes, keeps_exponentials);
        }
        for (int j = 0; j < vectors; ++j)
            settle_softmax_vector(&some[j], keeps_exponentials);
        for (int j = 0; j < vectors; ++j)
            write_softmax_vector(&some[j], batch, first_row + some[j].first, labels + some[j].first,
                                 row_loss + some[j].first, &settings, classes, keeps_exponentials);
    }
}

/* Probabilities take no logarithm, logarithms and lse keep no exponentials: who asks for both has
 * the rows swept twice. */
KERNEL_INLINE void softmax_rows_with(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                     const int64_t *labels, double *row_loss, int classes) {
    xent_batch part = *batch;
    if (!batch->grad.data || batch->output == XENT_LOG_PROBABILITIES || batch->lse) {
        part.grad.data = batch->output == XENT_LOG_PROBABILITIES ? batch->grad.data : NULL;
        softmax_rows_of(&part, first_row, row_count, labels, row_loss, classes, 0);
    }
    if (!batch->grad.data || batch->output == XENT_LOG_PROBABILITIES)
        return;
    part.grad.data = batch->grad.data;
    part.lse = NULL;
    softmax_rows_of(&part, first_row, row_count, labels, row_loss, classes, 1);
}

KERNEL_INLINE void many_softmax_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                     const int64_t *labels, double *row_loss) {
    if (batch->classes == 2)
        softmax_rows_with(batch, first_row, row_count, labels, row_loss, 2);
    else if (batch->classes == 3)
        softmax_rows_with(batch, first_row, row_count, labels, row_loss, 3);
    else
        softmax_rows_with(batch, first_row, row_count, labels, row_loss, (int)batch->classes);
}
