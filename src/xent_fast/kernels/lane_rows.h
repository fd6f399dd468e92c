/* A vector of rows of a few classes, one row a lane: its weights and labels, what is written of
 * it besides its gradient, and which of its rows the lanes' own dtype cannot hold.  A template
 * over REAL_BITS.
 *
 * Knows: what targets with mass (lanes_along_rows.h) and class indices (index_rows.h) have in
 * common.
 * Must not know: losses and gradients, instruction sets, threads, Python.
 */
#include "tile.h"

/* Vectors of rows are taken so many at a time, each step of all of them before the next: one vector
 * is a chain whose operations wait for each other, several are not. */
#ifndef VECTORS_AT_ONCE
#define VECTORS_AT_ONCE 4
#endif

/* Fewer of more classes, so that they stay in the nearest cache. */
KERNEL_INLINE int vectors_at_once(int64_t classes) {
    return classes <= MOST_CLASSES_ALONG_ROWS / 2 ? VECTORS_AT_ONCE : VECTORS_AT_ONCE / 2;
}

/* A statement for k = 0, 4, ... with a constant `count` of 4, then for the one to three classes
 * that are left; `from_k` are the labels counted from k.  Loops over classes count in 64 bits: of
 * 32, which wrap around by Python's flags for extensions, each use would make 64. */
#ifndef EACH_CLASS
#define EACH_CLASS(classes, labels, statement)  \
    do {                                        \
        vec from_k = labels;                    \
        int64_t k = 0;                          \
        for (; k + 4 <= (classes); k += 4) {    \
            enum { count = 4 };                 \
            statement;                          \
            from_k = v_sub(from_k, v_splat(4)); \
        }                                       \
        if ((classes) - k >= 2) {               \
            enum { count = 2 };                 \
            statement;                          \
            from_k = v_sub(from_k, v_splat(2)); \
            k += 2;                             \
        }                                       \
        if (k < (classes)) {                    \
            enum { count = 1 };                 \
            statement;                          \
        }                                       \
    } while (0)
#endif

/* The weights of a vector of rows. */
typedef struct {
    double of_loss[LANES];    /* a */
    vec_pair gradient_weight; /* a / T, times what multiplies the gradient alone */
    vec last_factor;          /* 1, or 1 / RESCALE where the weight is RESCALE times larger */
    int is_rescaled;          /* whether any lane is */
    int may_leave;            /* whether some weight reaches VISIBLE_FACTOR */
} lane_weights;

/* Columns of a vector of rows: class k of all of them lies `step` bytes after class k - 1. */
typedef struct {
    const char *first;
    ptrdiff_t step;
} lane_columns;

KERNEL_INLINE vec load_column(lane_columns columns, int64_t k) {
    return v_load((const REAL *)(const void *)(columns.first + k * columns.step));
}

KERNEL_INLINE vec maximum_of_columns(lane_columns columns, int classes) {
    vec maximum = v_splat(-INFINITY), another = v_splat(-INFINITY);
    int64_t k = 0;
    for (; k + 2 <= classes; k += 2) {
        maximum = v_max(load_column(columns, k), maximum);
        another = v_max(load_column(columns, k + 1), another);
    }
    if (k < classes)
        maximum = v_max(load_column(columns, k), maximum);
    return v_max(maximum, another);
}

/* First class that has the maximum. */
KERNEL_INLINE vec first_of_columns(lane_columns columns, int classes, vec maximum) {
    vec first = v_splat(-1), number = v_splat((REAL)(classes - 1));
    for (int64_t k = classes - 1; k >= 0; --k) {
        first = v_select(v_equal(load_column(columns, k), maximum), number, first);
        number = v_sub(number, v_splat(1));
    }
    return first;
}

/* The maximum where it is a finite number, else 0. */
KERNEL_INLINE vec finite_maximum(vec maximum) {
    const vec largest = v_splat(LARGEST_REAL);
    const vec magnitude = v_max(v_sub(v_splat(0), maximum), maximum);
    return v_select(v_greater(magnitude, largest), v_splat(0), maximum);
}

/* A double as two numbers of the dtype in every lane. */
KERNEL_INLINE vec_pair pair_of(double number) {
    const REAL high = (REAL)number;
    const vec_pair pair = {v_splat(high), v_splat((REAL)(number - (double)high))};
    return pair;
}

/* Subtracts the maximum from the lanes where it is huge; returns what was subtracted. */
KERNEL_INLINE vec shift_huge_columns(REAL (*columns)[LANES], int classes, vec maximum,
                                     REAL huge_logit) {
    const vec zero = v_splat(0);
    const vec_mask is_huge = v_greater(v_max(v_sub(zero, maximum), maximum), v_splat(huge_logit));
    if (v_mask_bits(is_huge) == 0)
        return zero;
    const vec shift = v_keep(is_huge, maximum);
    for (int64_t k = 0; k < classes; ++k)
        v_store(columns[k], v_sub(v_load(columns[k]), shift));
    return shift;
}

/* A number's size. */
KERNEL_INLINE vec magnitude_of(vec a) { return v_max(v_sub(v_splat(0), a), a); }

/* Lanes whose weights and masses, of the sizes given, are too large for the lanes' type, or make a
 * class visible that the exponentials flush to 0. */
static NEVER_INLINE unsigned lanes_out_of_reach(REAL (*columns)[LANES], int classes, vec maximum,
                                                vec factor, vec largest,
                                                const exponent_scale *scale) {
    const reach_limits reach = reach_of(factor, scale);
    unsigned leaving = v_mask_bits(v_not_less(largest, v_splat(LARGEST_FACTOR)));
    const unsigned counts = v_mask_bits(v_not_less(factor, v_splat(VISIBLE_FACTOR)));
    for (int64_t k = 0; k < classes; ++k)
        leaving |=
            counts & v_mask_bits(is_out_of_reach(v_sub(maximum, v_load(columns[k])), &reach));
    return leaving;
}

/* A vector of numbers, each as two of the dtype. */
KERNEL_INLINE vec_pair pairs_of(const double *numbers) {
    ALIGNED_64 REAL high[LANES], low[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        high[lane] = (REAL)numbers[lane];
        low[lane] = (REAL)(numbers[lane] - (double)high[lane]);
    }
    const vec_pair pairs = {v_load(high), v_load(low)};
    return pairs;
}

KERNEL_INLINE int is_small_weight(double weight) {
    return (fabs(weight) < SMALL_WEIGHT) & (weight != 0);
}

/* Whether any of a vector of weights is, eight doubles at a time. */
KERNEL_INLINE int has_small_weight(const double *weight) {
    const vec_f64 zero = v_splat_f64(0), limit = v_splat_f64(SMALL_WEIGHT);
    unsigned found = 0;
    for (int row = 0; row < LANES; row += 8) {
        const vec_f64 w = v_load_f64(weight + row);
        const vec_f64 magnitude = v_max_f64(v_sub_f64(zero, w), w);
        found |= v_mask_bits_f64(v_greater_f64(limit, magnitude)) &
                 ~v_mask_bits_f64(v_equal_f64(w, zero));
    }
    return found != 0;
}

/* Makes small weights RESCALE times larger; `last_factor` takes that back. */
static NEVER_INLINE void rescale_weights(double *weight, lane_weights *weights) {
    ALIGNED_64 REAL last_factor[LANES];
    for (int row = 0; row < LANES; ++row) {
        const int is_small = is_small_weight(weight[row]);
        weight[row] *= is_small ? RESCALE : 1;
        last_factor[row] = (REAL)(is_small ? 1 / RESCALE : 1);
    }
    weights->last_factor = v_load(last_factor);
}

/* Weights of `row_count` rows from `first_row`: sample_weight times weight_factor and, where no
 * mass carries it, the class's. */
KERNEL_INLINE void weigh_rows(const xent_batch *batch, int64_t first_row, int row_count,
                              const int64_t *labels, double *weight, int kind) {
    for (int row = 0; row < row_count; ++row)
        weight[row] = batch->weight_factor;
    if (batch->sample_weight)
        for (int row = 0; row < row_count; ++row)
            weight[row] *= batch->sample_weight[first_row + row];
    if (batch->class_weight && !HAS_MASS(kind))
        for (int row = 0; row < row_count; ++row)
            weight[row] *= weight_of_class(batch, clamped_label(labels[row], batch->classes));
}

/* Whether the weights of rows differ, of whatever class they are. */
KERNEL_INLINE int weights_differ(const xent_batch *batch) {
    return batch->sample_weight != NULL ||
           (batch->grad_output != NULL && batch->grad_output_step != 0);
}

/* The weights of gradients from those of losses; `may_leave` also where theirs reach
 * VISIBLE_FACTOR. */
static NEVER_INLINE void weigh_gradients(const xent_batch *batch, int64_t first_row, int row_count,
                                         double *weight, int *may_leave) {
    for (int row = 0; row < row_count; ++row) {
        weight[row] *= batch->grad_output[(first_row + row) * batch->grad_output_step];
        *may_leave |= !(fabs(weight[row] / batch->options.temperature) < (double)VISIBLE_FACTOR);
    }
}

/* The same as a vector, 0 beyond `row_count`.  `labels` has a whole vector where the kind has class
 * indices. */
static NEVER_INLINE void weights_of_rows(const xent_batch *batch, int64_t first_row, int row_count,
                                         const int64_t *labels, int kind, lane_weights *weights) {
    ALIGNED_64 double weight[LANES] = {0};
    if (row_count == LANES)
        weigh_rows(batch, first_row, LANES, labels, weight, kind);
    else
        weigh_rows(batch, first_row, row_count, labels, weight, kind);
    memcpy(weights->of_loss, weight, sizeof weight);
    weights->may_leave = 0;
    for (int row = 0; row < LANES; ++row)
        weights->may_leave |=
            !(fabs(weight[row] / batch->options.temperature) < (double)VISIBLE_FACTOR);
    if (batch->grad_output)
        weigh_gradients(batch, first_row, row_count, weight, &weights->may_leave);
    weights->is_rescaled = has_small_weight(weight);
    weights->last_factor = v_splat(1);
    if (weights->is_rescaled)
        rescale_weights(weight, weights);
    weights->gradient_weight = pairs_of(weight);
    if (batch->options.temperature != 1) {
        for (int row = 0; row < LANES; ++row)
            weight[row] /= batch->options.temperature;
        weights->gradient_weight = pairs_of(weight);
    }
}

KERNEL_INLINE vec_pair keep_pair(vec_mask where, vec_pair a) {
    a.high = v_keep(where, a.high);
    a.low = v_keep(where, a.low);
    return a;
}

/* Zeros in the rows whose label is -1. */
KERNEL_INLINE void clear_rows_without_label(REAL (*columns)[LANES], int classes, vec labels) {
    const vec_mask counts = v_not_less(labels, v_splat(0));
    if (v_mask_bits(counts) != (1u << LANES) - 1)
        for (int64_t k = 0; k < classes; ++k)
            v_store(columns[k], v_keep(counts, v_load(columns[k])));
}

/* Labels as lanes, -1 where there is no row or it is ignored. */
KERNEL_INLINE vec lane_labels(const xent_labels *labels, const int64_t *values, int row_count) {
    ALIGNED_64 int64_t counted[LANES];
    if (row_count == LANES && !labels->has_ignore_index)
        return v_from_integers(values);
    for (int row = 0; row < LANES; ++row)
        counted[row] = row >= row_count || is_ignored(labels, values[row]) ? -1 : values[row];
    return v_from_integers(counted);
}

/* The lse and predictions of rows, of those that are not ignored. */
static NEVER_INLINE void write_lse_and_predictions(const xent_batch *batch, int64_t first_row,
                                                   int row_count, vec labels, vec lse,
                                                   vec row_prediction, int has_labels) {
    ALIGNED_64 REAL some[LANES], prediction[LANES];
    if (has_labels) {
        const vec_mask counts = v_not_less(labels, v_splat(0));
        lse = v_select(counts, lse, v_splat(NAN));
        row_prediction = v_select(counts, row_prediction, v_splat(-1));
    }
    v_store(some, lse);
    v_store(prediction, row_prediction);
    if (batch->lse && row_count == LANES)
        v_store((REAL *)(void *)batch->lse + first_row, lse);
    else if (batch->lse)
        copy_some((REAL *)(void *)batch->lse + first_row, some, row_count);
    if (batch->prediction)
        for (int row = 0; row < row_count; ++row)
            batch->prediction[first_row + row] = (int64_t)prediction[row];
}

/* Each lane's sum of two as a double. */
KERNEL_INLINE void doubles_of(vec_pair pair, double *doubles) {
    ALIGNED_64 REAL high[LANES], low[LANES];
    v_store(high, pair.high);
    v_store(low, pair.low);
    for (int lane = 0; lane < LANES; ++lane)
        doubles[lane] = (double)high[lane] + (double)low[lane];
}

/* Takes the rows of a tile that leave its lanes from where they lie in memory; gradients to the
 * columns, unless NULL. */
static NEVER_INLINE void take_leaving_rows(const xent_batch *batch, int64_t first_row,
                                           int row_count, unsigned leaving, const int64_t *labels,
                                           REAL (*columns)[LANES], double *losses, int kind) {
    for (int row = 0; row < row_count; ++row) {
        if (!(leaving >> row & 1) || (HAS_LABELS(kind) && is_ignored(&batch->labels, labels[row])))
            continue;
        losses[row] =
            loss_of_far_row(batch, first_row + row, clamped_label(labels[row], batch->classes),
                            kind, columns ? &columns[0][row] : NULL, LANES);
    }
}
