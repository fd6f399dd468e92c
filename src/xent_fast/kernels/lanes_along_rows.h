/* Targets with mass of a few classes: as many rows side by side as a vector has lanes.  A template
 * over REAL_BITS.
 *
 * Knows: loss, gradient and softmax of such rows.
 * Must not know: instruction sets, threads, Python, how rows become columns (tile.h).
 *
 * The formulas are those of lanes_along_classes.h, each lane for its own row and in the lanes' own
 * dtype; the row is one block.  The pivot, the class left out of the sum, is the first maximum.
 */
#include "lane_masses.h"

/* Exponentials of `count` columns (1, 2 or 4) from `k` to `place`, unless that is NULL; they are
 * added to the sums by twos but for the pivot's, which counts from `k`.  `has_dropped`: what their
 * last roundings dropped counts, too. */
KERNEL_INLINE void some_exponentials(lane_columns columns, REAL (*place)[LANES], int64_t k,
                                     int count, vec pivot, const exponential_reference *reference,
                                     lane_sums *sums, int has_dropped) {
    const int step = count > INTERLEAVED ? INTERLEAVED : count;
    vec x[4], e[4], dropped[4];
    EACH_OF(count, x[j] = load_column(columns, k + j));
    for (int first = 0; first < count; first += step)
        scaled_exponentials(x + first, step, *reference, e + first,
                            has_dropped ? dropped + first : NULL);
    if (place)
        EACH_OF(count, v_store(place[k + j], e[j]));
    EACH_OF(count, const vec_mask is_pivot = v_equal(pivot, v_splat(j));
            e[j] = v_drop(is_pivot, e[j]);
            if (has_dropped) dropped[j] = v_drop(is_pivot, dropped[j]));
    add_or_begin(&sums->sum_of_others, count == 1 ? e[0] : v_add(e[0], e[1]), k == 0);
    if (count == 4)
        pair_add(&sums->sum_of_others, v_add(e[2], e[3]));
    if (has_dropped)
        sums->dropped = v_add(sums->dropped, sum_of_some(dropped, count));
}

/* All of them, and the sum of all but the pivot's. */
KERNEL_INLINE void columns_exponentials(lane_columns columns, REAL (*place)[LANES], int classes,
                                        vec pivot_logit, const exponent_scale *scale,
                                        lane_sums *sums, int has_dropped) {
    const exponential_reference reference =
        reference_for(reference_exponent(pivot_logit, scale), scale);
    sums->sum_of_others = zero_pair();
    sums->dropped = v_splat(0);
    EACH_CLASS(classes, sums->pivot,
               some_exponentials(columns, place, k, count, from_k, &reference, sums, has_dropped));
    sums->exp_of_pivot = scaled_exponential_pair(pivot_logit, reference);
}

/* The sum of the others as accurate as it is known. */
KERNEL_INLINE vec_pair accurate_others(const lane_sums *sums) {
    const vec_pair others = {sums->sum_of_others.high,
                             v_add(sums->sum_of_others.low, sums->dropped)};
    return others;
}

/* log1p(rest / top) */
KERNEL_INLINE vec_pair log_of_pair_ratio(vec_pair rest, vec_pair top) {
    return log_of_1_plus(pair_total(pair_quotient(rest, top, inverse_of(top))));
}

KERNEL_INLINE vec divided_by_temperature(vec a, double temperature) {
    return temperature == 1 ? a : v_div(a, v_splat((REAL)temperature));
}

/* Losses for a weight of 1: mass * log1p(T / e_m) + distance; terms of lse added, whose slope is
 * left for the gradient. */
KERNEL_INLINE vec_pair lane_losses(lane_sums *sums, const call_settings *settings) {
    const double temperature = settings->row.temperature;
    const vec_pair others = accurate_others(sums);
    vec_pair loss = log_of_pair_ratio(others, sums->exp_of_pivot);
    sums->log_of_sum = pair_total(loss);
    sums->lse = v_splat(0);
    if (settings->row.wants_lse)
        sums->lse = v_add(divided_by_temperature(sums->maximum, temperature), sums->log_of_sum);
    loss = pair_product(sums->target_mass, loss);
    pair_add(&loss, divided_by_temperature(sums->distance, temperature));
    if (settings->row.has_lse_terms) {
        const lse_terms terms = lse_terms_of(&settings->row.options, sums->lse);
        sums->slope = terms.slope;
        pair_add(&loss, v_mul(terms.left, terms.right));
    }
    return loss;
}

/* a ((Q - q) e - q T) / S, q the pivot's: see lanes_along_classes.h.  `inverse` is nearly 1 / S. */
KERNEL_INLINE vec gradient_of_pivot(const lane_sums *sums, vec_pair weight, vec inverse,
                                    int has_slope) {
    const vec_pair others = accurate_others(sums), target = {sums->pivot_target, v_splat(0)};
    const vec_pair gained = pair_product(sums->other_mass, sums->exp_of_pivot);
    vec_pair sum = others, down = pair_product(target, others);
    pair_add(&sum, sums->exp_of_pivot.high);
    sum.low = v_add(sum.low, sums->exp_of_pivot.low);
    pair_add(&down, v_sub(v_splat(0), gained.high));
    down.low = v_sub(down.low, gained.low);
    if (has_slope) {
        const vec_pair slope = {sums->slope, v_splat(0)};
        const vec_pair up = pair_product(slope, sums->exp_of_pivot);
        pair_add(&down, v_sub(v_splat(0), up.high));
        down.low = v_sub(down.low, up.low);
    }
    const vec_pair ratio = pair_quotient(down, sum, inverse);
    const vec low = v_fma(ratio.high, weight.low, v_mul(ratio.low, weight.high));
    return v_sub(v_splat(0), v_fma(ratio.high, weight.high, low));
}

/* a b, rounded once but for terms that do not show. */
KERNEL_INLINE vec rounded_product(vec_pair a, vec_pair b) {
    const vec_pair product = pair_product(a, b);
    return v_add(product.high, product.low);
}

/* The gradient of `count` columns (1, 2 or 4) from `k` in place of their exponentials; `pivot` and
 * `labels` count from there. */
KERNEL_INLINE void some_gradients(row_tile *tile, int64_t k, int count, vec pivot, vec labels,
                                  vec_pair factor, vec pivot_gradient, vec minus_weight,
                                  vec minus_label, const REAL *class_weight, int kind) {
    vec grad[4];
    if (kind == XENT_SMOOTHED_TARGETS)
        EACH_OF(
            count, const vec mass = class_weight ? v_mul(minus_weight, v_splat(class_weight[k + j]))
                                                 : minus_weight;
            grad[j] =
                product_with_pair_plus(v_load(tile->columns[k + j]), factor,
                                       v_select(v_equal(labels, v_splat(j)), minus_label, mass)));
    else
        EACH_OF(count,
                grad[j] = product_with_pair_and_product(v_load(tile->columns[k + j]), factor,
                                                        minus_weight, v_load(tile->masses[k + j])));
    EACH_OF(count, v_store(tile->columns[k + j],
                           v_select(v_equal(pivot, v_splat(j)), pivot_gradient, grad[j])));
}

/* The gradient in place of the exponentials: e * factor - a q, and the pivot's. */
KERNEL_INLINE void columns_gradient(row_tile *tile, int classes, vec pivot, vec_pair factor,
                                    vec pivot_gradient, vec_pair weight,
                                    const smoothed_masses *smoothed, int is_weighted, int kind) {
    const vec zero = v_splat(0);
    vec minus_weight = v_sub(zero, weight.high), minus_label = zero;
    if (kind == XENT_SMOOTHED_TARGETS) {
        minus_weight = v_sub(zero, rounded_product(weight, smoothed->smoothing));
        minus_label = v_sub(zero, rounded_product(weight, smoothed->label_target));
    }
    vec labels = zero; /* counted like the pivot */
    if (kind == XENT_SMOOTHED_TARGETS)
        labels = v_sub(smoothed->labels, pivot);
    EACH_CLASS(classes, pivot,
               some_gradients(tile, k, count, from_k, v_add(labels, from_k), factor, pivot_gradient,
                              minus_weight, minus_label,
                              is_weighted ? smoothed->class_weight : NULL, kind));
}

/* The gradient of a tile in place of its exponentials.  The factor is weight * mass / sum, of the
 * exponentials as they are stored, so that no probability exceeds 1. */
KERNEL_INLINE void gradient_of_tile(row_tile *tile, int classes, const lane_sums *sums,
                                    vec_pair weight, const lane_weights *weights,
                                    const smoothed_masses *smoothed, vec_mask is_number,
                                    const row_settings *settings, int kind) {
    const vec not_a_number = v_splat(NAN);
    const int has_slope = settings->has_lse_terms;
    vec_pair mass = sums->target_mass, sum = sums->sum_of_others;
    if (has_slope)
        pair_add(&mass, sums->slope);
    const vec_pair numerator = pair_product(weight, mass);
    pair_add(&sum, sums->exp_of_pivot.high);
    const vec inverse = inverse_of(sum);
    vec_pair factor = pair_quotient(numerator, sum, inverse);
    vec pivot_gradient = gradient_of_pivot(sums, weight, inverse, has_slope);
    if (v_mask_bits(is_number) != (1u << LANES) - 1) {
        /* one NaN everywhere: which of two an operation passes on differs between processors */
        factor.high = v_select(is_number, factor.high, not_a_number);
        factor.low = v_select(is_number, factor.low, not_a_number);
        pivot_gradient = v_select(is_number, pivot_gradient, not_a_number);
        for (int64_t k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_select(is_number, v_load(tile->columns[k]), not_a_number));
    }
    if (kind == XENT_SMOOTHED_TARGETS && smoothed->class_weight)
        columns_gradient(tile, classes, sums->pivot, factor, pivot_gradient, weight, smoothed, 1,
                         kind);
    else
        columns_gradient(tile, classes, sums->pivot, factor, pivot_gradient, weight, smoothed, 0,
                         kind);
    if (weights->is_rescaled)
        for (int64_t k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_mul(v_load(tile->columns[k]), weights->last_factor));
}

/* Lanes whose loss the lanes' type holds with few digits, though a double does not: it is Q log1p(T
 * / e), and log1p(r) is r there.  0 where there are others. */
KERNEL_INLINE unsigned tiny_losses(vec loss, const lane_sums *sums, const call_settings *settings) {
    const vec zero = v_splat(0);
    unsigned tiny = v_mask_bits(v_greater(v_splat((REAL)TINY_LOSS), magnitude_of(loss)));
    if (tiny == 0 || settings->row.has_lse_terms)
        return 0;
    tiny &= v_mask_bits(v_greater(sums->sum_of_others.high, zero));
    return tiny & v_mask_bits(v_equal(sums->distance, zero));
}

/* What the rows of a tile have found, one a lane. */
typedef struct {
    vec_pair loss;    /* for a weight of 1; a sum of two */
    unsigned leaving; /* bit k for lane k: what stands there is wrong, and double_rows.h must take
                         the row */
    unsigned is_tiny; /* bit k for lane k: such a loss is mass others / exp_of_pivot */
    vec_mask is_number;
} lane_results;

/* Lanes that must leave the lanes' type (double_rows.h), as far as that is known before the
 * exponentials. */
KERNEL_INLINE unsigned leaving_lanes(REAL (*columns)[LANES], int classes, const lane_sums *sums,
                                     vec gradient_weight, const lane_weights *weights,
                                     const call_settings *settings) {
    const unsigned all = (1u << LANES) - 1;
    if (settings->all_leave)
        return all;
    const vec weight = v_mul(magnitude_of(gradient_weight), weights->last_factor);
    const vec mass = v_max(magnitude_of(sums->target_mass.high), magnitude_of(sums->pivot_target));
    const vec largest = v_max(weight, v_max(mass, magnitude_of(sums->other_mass.high)));
    const vec factor = v_max(v_mul(weight, mass), weight);
    if (v_mask_bits(v_not_less(v_max(largest, factor), v_splat(VISIBLE_FACTOR))) == 0)
        return 0;
    return lanes_out_of_reach(columns, classes, sums->maximum, factor, largest, &settings->scale);
}

/* A vector of rows on its way. */
typedef struct {
    row_tile tile;
    const lane_weights *weights;
    const smoothed_masses *smoothed;
    vec_pair gradient_weight; /* 0 for ignored rows */
    lane_sums sums;
    lane_results results;
    vec base;                 /* the maximum, or 0 where it is infinite */
    vec lanes;                /* labels; -1 where there is none or no row */
    int64_t first, row_count; /* among the rows of the call */
} short_rows;

/* What its sweeps find: masses, exponentials in place of the logits, their sums. */
KERNEL_INLINE void sum_tile(short_rows *rows, int classes, const call_settings *settings,
                            int kind) {
    row_tile *tile = &rows->tile;
    const lane_columns columns = {(const char *)tile->columns, sizeof tile->columns[0]};
    lane_sums sums;
    sums.maximum = maximum_of_columns(columns, classes);
    sums.pivot = first_of_columns(columns, classes, sums.maximum);
    const vec_mask is_huge =
        v_greater(magnitude_of(sums.maximum), v_splat(settings->scale.huge_logit));
    const int has_huge = v_mask_bits(is_huge) != 0;
    const vec base = has_huge ? finite_maximum(sums.maximum) : sums.maximum;
    vec top = base;
    if (kind == XENT_SMOOTHED_TARGETS && rows->smoothed->class_weight)
        columns_masses(tile, classes, rows->smoothed, base, &sums, 1, kind);
    else
        columns_masses(tile, classes, rows->smoothed, base, &sums, 0, kind);
    rows->results.leaving = leaving_lanes(tile->columns, classes, &sums, rows->gradient_weight.high,
                                          rows->weights, settings);
    if (has_huge)
        top = v_sub(base,
                    shift_huge_columns(tile->columns, classes, base, settings->scale.huge_logit));
    columns_exponentials(columns, tile->columns, classes, top, &settings->scale, &sums,
                         kind == XENT_SMOOTHED_TARGETS);
    rows->base = base;
    rows->sums = sums;
}

/* Losses and, if asked for, the gradient in place of the exponentials. */
KERNEL_INLINE void settle_tile(short_rows *rows, int classes, const call_settings *settings,
                               int has_grad, int kind) {
    const vec zero = v_splat(0);
    lane_sums *sums = &rows->sums;
    lane_results *results = &rows->results;
    const vec sum = v_add(sums->sum_of_others.high, sums->exp_of_pivot.high);
    const vec_mask is_number = v_greater(v_keep(v_equal(rows->base, sums->maximum), sum), zero);
    const unsigned numbers = v_mask_bits(is_number);
    vec_pair loss = lane_losses(sums, settings);
    if (has_grad)
        gradient_of_tile(&rows->tile, classes, sums, rows->gradient_weight, rows->weights,
                         rows->smoothed, is_number, &settings->row, kind);
    results->is_tiny = REAL_BITS == 32 ? numbers & tiny_losses(loss.high, sums, settings) : 0;
    results->leaving |= ~v_mask_bits(v_equal(v_sub(loss.high, loss.high), zero));
    results->leaving &= numbers;
    loss.high = v_select(is_number, loss.high, v_splat(NAN));
    results->loss = loss;
    results->is_number = is_number;
}

static NEVER_INLINE void replace_tiny_losses(const lane_sums *sums, unsigned is_tiny,
                                             double *losses) {
    ALIGNED_64 double mass[LANES], others[LANES], exp_of_pivot[LANES];
    doubles_of(sums->target_mass, mass);
    doubles_of(accurate_others(sums), others);
    doubles_of(sums->exp_of_pivot, exp_of_pivot);
    for (int lane = 0; lane < LANES; ++lane)
        if (is_tiny >> lane & 1)
            losses[lane] = mass[lane] * (others[lane] / exp_of_pivot[lane]);
}

/* a times the loss; a row without weight has none, whatever its targets. */
KERNEL_INLINE vec_f64 weighted_losses(vec_f64 loss, const double *weight) {
    const vec_f64 a = v_load_f64(weight);
    const vec_f64 weighted = v_drop_f64(v_equal_f64(a, v_splat_f64(0)), v_mul_f64(a, loss));
    return v_select_f64(v_equal_f64(loss, loss), weighted, loss);
}

/* Losses as doubles, which no rounding to the lanes' type has met. */
KERNEL_INLINE void weigh_losses(const short_rows *rows, double *losses) {
    const lane_results *results = &rows->results;
    const double *weight = rows->weights->of_loss;
    const int64_t row_count = rows->row_count;
    ALIGNED_64 double doubles[LANES], some[LANES];
    double *place = row_count == LANES ? losses : some;
    vec_pair loss = results->loss;
    /* beside an infinite loss the error is inf - inf */
    loss.low = v_keep(v_equal(loss.low, loss.low), loss.low);
#if REAL_BITS == 32
    vec_f64 sums[2] = {v_add_f64(v_low_half_as_f64(loss.high), v_low_half_as_f64(loss.low)),
                       v_add_f64(v_high_half_as_f64(loss.high), v_high_half_as_f64(loss.low))};
#else
    vec_f64 sums[1] = {v_add(loss.high, loss.low)};
#endif
    enum { VECTORS = sizeof sums / sizeof *sums };
    if (results->is_tiny) {
        for (int j = 0; j < VECTORS; ++j)
            v_store_f64(doubles + 8 * j, sums[j]);
        replace_tiny_losses(&rows->sums, results->is_tiny, doubles);
        for (int j = 0; j < VECTORS; ++j)
            sums[j] = v_load_f64(doubles + 8 * j);
    }
    for (int j = 0; j < VECTORS; ++j)
        v_store_f64(place + 8 * j, weighted_losses(sums[j], weight + 8 * j));
    if (row_count < LANES)
        memcpy(losses, some, (size_t)row_count * sizeof *losses);
}

/* Loads a vector of rows, whose weights are given, and sums it up.  `labels` has a whole vector;
 * what they make of `smoothed` is kept there. */
KERNEL_INLINE void load_short_rows(short_rows *rows, const xent_batch *batch, int64_t first_row,
                                   const int64_t *labels, smoothed_masses *smoothed,
                                   const call_settings *settings, int classes, int kind) {
    row_tile *tile = &rows->tile;
    const int row_count = (int)rows->row_count;
    load_columns(tile->columns, batch->logits, first_row, row_count, classes);
    rows->lanes = v_splat(-1);
    if (HAS_LABELS(kind)) {
        rows->lanes = lane_labels(&batch->labels, labels, row_count);
        if (row_count < LANES || batch->labels.has_ignore_index) {
            rows->gradient_weight =
                keep_pair(v_not_less(rows->lanes, v_splat(0)), rows->gradient_weight);
            clear_rows_without_label(tile->columns, classes, rows->lanes);
        }
    } else {
        load_columns(tile->masses, batch->dense_targets, first_row, row_count, classes);
    }
    if (kind == XENT_SHAPED_TARGETS)
        shape_masses(tile, batch);
    if (kind == XENT_SMOOTHED_TARGETS) {
        smoothed->labels = rows->lanes;
        if (smoothed->class_weight)
            smooth_labels(smoothed, labels, row_count, classes);
        rows->smoothed = smoothed;
    }
    sum_tile(rows, classes, settings, kind);
}

/* Its losses to `row_loss`, its lse, predictions and output to their places. */
KERNEL_INLINE void write_short_rows(short_rows *rows, const xent_batch *batch, int64_t first_row,
                                    const int64_t *labels, double *row_loss, int classes,
                                    int kind) {
    row_tile *tile = &rows->tile;
    const lane_results *results = &rows->results;
    const int row_count = (int)rows->row_count, has_grad = batch->grad.data != NULL;
    weigh_losses(rows, row_loss);
    if (HAS_LABELS(kind) && batch->labels.has_ignore_index)
        for (int row = 0; row < row_count; ++row)
            row_loss[row] = is_ignored(&batch->labels, labels[row]) ? 0 : row_loss[row];
    if (batch->lse || batch->prediction)
        write_lse_and_predictions(batch, first_row, row_count, rows->lanes,
                                  v_select(results->is_number, rows->sums.lse, v_splat(NAN)),
                                  v_select(results->is_number, rows->sums.pivot, v_splat(-1)),
                                  HAS_LABELS(kind));
    /* their weight of 0 alone gives NaN where a mass overflows */
    if (has_grad && HAS_LABELS(kind) && batch->labels.has_ignore_index)
        clear_rows_without_label(tile->columns, classes, rows->lanes);
    if (results->leaving)
        take_leaving_rows(batch, first_row, row_count, results->leaving, labels,
                          has_grad ? tile->columns : NULL, row_loss, kind);
    if (has_grad)
        store_columns(tile->columns, batch->grad, first_row, row_count, classes);
}

/* All of them, some vectors of rows at a time; smoothed targets, whose masses have one place, a
 * vector.  `labels` has a whole vector from each row on. */
KERNEL_INLINE void short_rows_of(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                 const int64_t *labels, double *row_loss, int classes, int kind) {
    const int has_own_weights = weights_differ(batch),
              most = HAS_OWN_MASSES(kind) ? vectors_at_once(batch->classes) : 1;
    const call_settings settings = call_settings_of(batch);
    lane_weights weights[VECTORS_AT_ONCE];
    smoothed_masses smoothed;
    short_rows some[VECTORS_AT_ONCE];
    if (kind == XENT_SMOOTHED_TARGETS)
        smoothed = smoothed_masses_of(batch);
    if (!has_own_weights)
        weights_of_rows(batch, first_row, LANES, labels, kind, weights);
    int count = rows_of_first_vector(batch, first_row);
    for (int64_t k = 0; k < row_count;) {
        int vectors = 0;
        for (; k < row_count && vectors < most; k += count, count = LANES, ++vectors) {
            short_rows *rows = &some[vectors];
            if (row_count - k < count)
                count = (int)(row_count - k);
            rows->weights = has_own_weights ? &weights[vectors] : weights;
            if (has_own_weights)
                weights_of_rows(batch, first_row + k, count, labels + k, kind, &weights[vectors]);
            rows->gradient_weight = rows->weights->gradient_weight;
            rows->first = k;
            rows->row_count = count;
            load_short_rows(rows, batch, first_row + k, labels + k, &smoothed, &settings, classes,
                            kind);
        }
        for (int j = 0; j < vectors; ++j)
            settle_tile(&some[j], classes, &settings, batch->grad.data != NULL, kind);
        for (int j = 0; j < vectors; ++j)
            write_short_rows(&some[j], batch, first_row + some[j].first, labels + some[j].first,
                             row_loss + some[j].first, classes, kind);
    }
}

/* Two classes of dense targets, as a mask has them, and three of any but shaped ones have code of
 * their own: there a quarter of the instructions would ask how many classes there are.  Three stand
 * in a function of their own: in one frame with the others these would take a tenth longer. */
static NEVER_INLINE void dense_rows_of_3(const xent_batch *batch, int64_t first_row,
                                         int64_t row_count, const int64_t *labels,
                                         double *row_loss) {
    short_rows_of(batch, first_row, row_count, labels, row_loss, 3, XENT_DENSE_TARGETS);
}

static NEVER_INLINE void smoothed_rows_of_3(const xent_batch *batch, int64_t first_row,
                                            int64_t row_count, const int64_t *labels,
                                            double *row_loss) {
    short_rows_of(batch, first_row, row_count, labels, row_loss, 3, XENT_SMOOTHED_TARGETS);
}

KERNEL_INLINE void many_short_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                   const int64_t *labels, double *row_loss, int kind) {
    if (kind == XENT_DENSE_TARGETS && batch->classes == 2)
        short_rows_of(batch, first_row, row_count, labels, row_loss, 2, kind);
    else if (kind == XENT_DENSE_TARGETS && batch->classes == 3)
        dense_rows_of_3(batch, first_row, row_count, labels, row_loss);
    else if (kind == XENT_SMOOTHED_TARGETS && batch->classes == 3)
        smoothed_rows_of_3(batch, first_row, row_count, labels, row_loss);
    else
        short_rows_of(batch, first_row, row_count, labels, row_loss, (int)batch->classes, kind);
}
