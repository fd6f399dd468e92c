/* Lanes along rows: as many rows side by side as a vector has lanes, for few classes.  A template over REAL_BITS.
 *
 * Knows: THE algorithm for rows of a few classes; the small tile that turns rows into columns and back.
 * Must not know: instruction sets, threads, Python.
 *
 * The formulas are those of lanes_along_classes.h, each lane for its own row and in the lanes' own dtype; the row is
 * one block. Column k of the tile holds class k of every row.  The pivot, the class left out of the sum, is the target
 * (index targets) or the first maximum (dense targets).
 */
typedef struct {
    ALIGNED_64 REAL columns[MOST_CLASSES_ALONG_ROWS][LANES]; /* logits, then exponentials, then the gradient */
    ALIGNED_64 REAL targets[MOST_CLASSES_ALONG_ROWS][LANES];
} NAME(tile);

/* The weights of a vector of rows. */
typedef struct {
    NAME(pair) weight;
    vec last_factor; /* 1, or 1 / RESCALE where the weight is RESCALE times larger */
    int is_rescaled; /* whether any lane is */
} NAME(lane_weights);

/* Per-lane state between the sweeps. */
typedef struct {
    vec maximum, pivot; /* pivot: the class left out of the sum; -1 for an ignored row */
    NAME(pair) exp_of_pivot;
    NAME(pair) sum_of_others;   /* of exponentials as they are stored */
    vec dropped;                /* what their last roundings took from that sum */
    vec pivot_logit;            /* index targets */
    NAME(pair) target_mass;     /* dense targets */
    vec distance, pivot_target; /* dense targets */
} NAME(lane_sums);

/* Rows to columns, number by number; rows that are not there become zeros. */
KERNEL_INLINE void NAME(load_some_rows)(REAL (*columns)[LANES], const char *source, ptrdiff_t row_stride, int row_count,
                                        int classes) {
    for (int k = 0; k < classes; ++k)
        v_store(columns[k], v_splat(0));
    for (int row = 0; row < row_count; ++row) {
        const REAL *values = (const REAL *)(const void *)(source + row * row_stride);
        for (int k = 0; k < classes; ++k)
            columns[k][row] = values[k];
    }
}

/* Columns to rows, number by number. */
KERNEL_INLINE void NAME(store_some_rows)(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride, int row_count,
                                         int classes) {
    for (int row = 0; row < row_count; ++row) {
        REAL *values = (REAL *)(void *)(destination + row * row_stride);
        for (int k = 0; k < classes; ++k)
            values[k] = columns[k][row];
    }
}

/* The squares and half squares of columns that make up `classes`: the next begins at *first, *count columns wide, where
 * `done` are behind; the last may overlap the one before it.  Returns how many are behind then. */
KERNEL_INLINE int NAME(next_square)(int done, int classes, int *first, int *count) {
    const int left = classes - done;
    if (left >= TRANSPOSE_WIDTH || (left > TRANSPOSE_WIDTH / 2 && done > 0))
        *count = TRANSPOSE_WIDTH;
    else
        *count = classes < TRANSPOSE_WIDTH / 2 ? classes : TRANSPOSE_WIDTH / 2;
    *first = left < *count ? classes - *count : done;
    return *first + *count;
}

KERNEL_INLINE void NAME(load_columns)(REAL (*columns)[LANES], const char *source, ptrdiff_t row_stride, int row_count,
                                      int classes) {
    if (row_count < LANES) {
        NAME(load_some_rows)(columns, source, row_stride, row_count, classes);
        return;
    }
    for (int done = 0, first, count; done < classes;) {
        done = NAME(next_square)(done, classes, &first, &count);
        v_load_transposed(source + first * (ptrdiff_t)sizeof(REAL), row_stride, count, columns + first);
    }
}

KERNEL_INLINE void NAME(store_columns)(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride, int row_count,
                                       int classes) {
    if (row_count < LANES) {
        NAME(store_some_rows)(columns, destination, row_stride, row_count, classes);
        return;
    }
    for (int done = 0, first, count; done < classes;) {
        done = NAME(next_square)(done, classes, &first, &count);
        v_store_transposed(columns + first, destination + first * (ptrdiff_t)sizeof(REAL), row_stride, count);
    }
}

/* Maximum of each lane; for index targets the pivot's logit, for dense targets the maximum's first class. */
KERNEL_INLINE void NAME(columns_maximum)(REAL (*columns)[LANES], int classes, NAME(lane_sums) * sums, int dense) {
    vec maximum = v_splat(-INFINITY), first = v_splat(-1), pivot_logit = v_splat(0);
    REAL number = 0;
    for (int k = 0; k < classes; ++k, ++number) {
        const vec x = v_load(columns[k]);
        if (dense)
            first = v_select(v_greater(x, maximum), v_splat(number), first);
        else
            pivot_logit = v_select(v_equal(sums->pivot, v_splat(number)), x, pivot_logit);
        maximum = v_max(x, maximum);
    }
    sums->maximum = maximum;
    if (dense)
        sums->pivot = first;
    else
        sums->pivot_logit = pivot_logit;
}

/* The maximum where it is a finite number, else 0. */
KERNEL_INLINE vec NAME(finite_maximum)(vec maximum) {
    const vec largest = v_splat(LARGEST_REAL);
    const vec magnitude = v_max(v_sub(v_splat(0), maximum), maximum);
    return v_select(v_greater(magnitude, largest), v_splat(0), maximum);
}

/* Mass and distance of dense targets (see lanes_along_classes.h), four columns in a tree at a time. */
KERNEL_INLINE void NAME(columns_dense_targets)(const NAME(tile) * tile, int classes, vec base, NAME(lane_sums) * sums) {
    const vec zero = v_splat(0);
    NAME(pair) mass = NAME(zero_pair)(), distance = NAME(zero_pair)();
    vec pivot_target = zero;
    for (int first = 0; first < classes; first += 4) {
        vec targets[4] = {zero, zero, zero, zero}, terms[4] = {zero, zero, zero, zero};
        for (int j = 0; j < 4 && first + j < classes; ++j) {
            const int k = first + j;
            targets[j] = v_load(tile->targets[k]);
            const vec term = v_mul(targets[j], v_sub(base, v_load(tile->columns[k])));
            terms[j] = v_select(v_equal(targets[j], zero), zero, term);
            pivot_target = v_select(v_equal(sums->pivot, v_splat((REAL)k)), targets[j], pivot_target);
        }
        NAME(pair_add)(&mass, v_add(v_add(targets[0], targets[1]), v_add(targets[2], targets[3])));
        NAME(pair_add)(&distance, v_add(v_add(terms[0], terms[1]), v_add(terms[2], terms[3])));
    }
    sums->target_mass = mass;
    sums->distance = NAME(pair_total)(distance);
    sums->pivot_target = pivot_target;
}

/* Subtracts the maximum from the lanes where it is huge; returns what was subtracted. */
KERNEL_INLINE vec NAME(shift_huge_columns)(REAL (*columns)[LANES], int classes, vec maximum) {
    const vec zero = v_splat(0);
    const vec_mask is_huge = v_greater(v_max(v_sub(zero, maximum), maximum), v_splat(HUGE_LOGIT));
    if (v_mask_bits(is_huge) == 0)
        return zero;
    const vec shift = v_keep(is_huge, maximum);
    for (int k = 0; k < classes; ++k)
        v_store(columns[k], v_sub(v_load(columns[k]), shift));
    return shift;
}

/* Exponentials of `count` columns (1, 2 or 4) in place of their logits; `counted` and `dropped` are those that are summed:
 * 0 for the pivot. */
KERNEL_INLINE void NAME(exponentials_of_columns)(REAL (*columns)[LANES], int first, int count, vec pivot,
                                                 const NAME(exponential_reference) * reference, vec *counted,
                                                 vec *dropped) {
    vec x[4];
    EACH_OF(count, x[j] = v_load(columns[first + j]));
    NAME(scaled_exponentials)(x, count, *reference, counted, dropped);
    EACH_OF(count, v_store(columns[first + j], counted[j]));
    EACH_OF(count, const vec_mask is_pivot = v_equal(pivot, v_splat((REAL)(first + j)));
            counted[j] = v_drop(is_pivot, counted[j]); dropped[j] = v_drop(is_pivot, dropped[j]));
}

/* Up to four columns, added to the sums in a tree. */
KERNEL_INLINE void NAME(exponentials_of_four)(REAL (*columns)[LANES], int first, int count,
                                              const NAME(exponential_reference) * reference, NAME(lane_sums) * sums) {
    const vec zero = v_splat(0);
    vec counted[4] = {zero, zero, zero, zero}, dropped[4] = {zero, zero, zero, zero};
    int k = 0;
    for (; k + INTERLEAVED <= count; k += INTERLEAVED)
        NAME(exponentials_of_columns)(columns, first + k, INTERLEAVED, sums->pivot, reference, counted + k,
                                      dropped + k);
    for (; k < count; ++k)
        NAME(exponentials_of_columns)(columns, first + k, 1, sums->pivot, reference, counted + k, dropped + k);
    NAME(pair_add)(&sums->sum_of_others, v_add(v_add(counted[0], counted[1]), v_add(counted[2], counted[3])));
    sums->dropped = v_add(sums->dropped, v_add(v_add(dropped[0], dropped[1]), v_add(dropped[2], dropped[3])));
}

/* Exponentials in place of the logits, and the sum of all but the pivot's. */
KERNEL_INLINE void NAME(columns_exponentials)(REAL (*columns)[LANES], int classes, vec pivot_logit,
                                              NAME(exponential_reference) reference, NAME(lane_sums) * sums) {
    sums->sum_of_others = NAME(zero_pair)();
    sums->dropped = v_splat(0);
    int first = 0;
    for (; first + 4 <= classes; first += 4)
        NAME(exponentials_of_four)(columns, first, 4, &reference, sums);
    if (first < classes)
        NAME(exponentials_of_four)(columns, first, classes - first, &reference, sums);
    sums->exp_of_pivot = NAME(scaled_exponential_pair)(pivot_logit, reference);
}

/* The sum of the others as accurate as it is known. */
KERNEL_INLINE NAME(pair) NAME(accurate_others)(const NAME(lane_sums) * sums) {
    const NAME(pair) others = {sums->sum_of_others.high, v_add(sums->sum_of_others.low, sums->dropped)};
    return others;
}

/* log1p(rest / top) */
KERNEL_INLINE NAME(pair) NAME(log_of_ratio)(NAME(pair) rest, NAME(pair) top) {
    return NAME(log_of_1_plus)(NAME(pair_total)(NAME(quotient)(rest, top, NAME(inverse_of)(top))));
}

/* The losses of lanes whose target is so far below the maximum that the quotient of the formula above would overflow:
 * (m - x_y) + log1p(((T - e_m) + e_y) / e_m). */
KERNEL_INLINE NAME(pair) NAME(losses_of_distant_targets)(const NAME(lane_sums) * sums, vec shifted_maximum,
                                                         NAME(exponential_reference) reference) {
    const NAME(pair) top = NAME(scaled_exponential_pair)(shifted_maximum, reference), target = sums->exp_of_pivot;
    NAME(pair) rest = NAME(accurate_others)(sums), distance = {sums->maximum, v_splat(0)};
    rest.high = v_add(v_sub(rest.high, top.high), target.high);
    rest.low = v_add(v_sub(rest.low, top.low), target.low);
    NAME(pair) loss = NAME(log_of_ratio)(rest, top);
    NAME(pair_add)(&distance, v_sub(v_splat(0), sums->pivot_logit));
    NAME(pair_add)(&loss, distance.high);
    loss.low = v_add(loss.low, distance.low);
    return loss;
}

/* Losses for a weight of 1: log1p(T / e_y), or mass * log1p(T / e_m) + distance for dense targets. */
KERNEL_INLINE NAME(pair) NAME(lane_losses)(const NAME(lane_sums) * sums, vec shifted_maximum,
                                           NAME(exponential_reference) reference, int dense) {
    const NAME(pair) others = NAME(accurate_others)(sums);
    NAME(pair) loss = NAME(log_of_ratio)(others, sums->exp_of_pivot);
    if (dense) {
        loss = NAME(pair_product)(sums->target_mass, loss);
        NAME(pair_add)(&loss, sums->distance);
        return loss;
    }
    const vec_mask is_distant = v_greater(v_splat(DISTANT_TARGET), sums->exp_of_pivot.high);
    if (v_mask_bits(is_distant)) {
        const NAME(pair) distant = NAME(losses_of_distant_targets)(sums, shifted_maximum, reference);
        loss.high = v_select(is_distant, distant.high, loss.high);
        loss.low = v_select(is_distant, distant.low, loss.low);
    }
    return loss;
}

/* -a T / S, or a ((Q - t) e - t T) / S for dense targets: see lanes_along_classes.h.  `inverse` is nearly 1 / S. */
KERNEL_INLINE vec NAME(gradient_of_pivot)(const NAME(lane_sums) * sums, NAME(pair) weight, vec inverse, int dense) {
    const NAME(pair) others = NAME(accurate_others)(sums);
    NAME(pair) sum = others, down = others;
    NAME(pair_add)(&sum, sums->exp_of_pivot.high);
    sum.low = v_add(sum.low, sums->exp_of_pivot.low);
    if (dense) {
        NAME(pair) other_mass = sums->target_mass;
        NAME(pair_add)(&other_mass, v_sub(v_splat(0), sums->pivot_target));
        const NAME(pair) target = {sums->pivot_target, v_splat(0)};
        const NAME(pair) up = NAME(pair_product)(other_mass, sums->exp_of_pivot);
        down = NAME(pair_product)(target, others);
        NAME(pair_add)(&down, v_sub(v_splat(0), up.high));
        down.low = v_sub(down.low, up.low);
    }
    const NAME(pair) ratio = NAME(quotient)(down, sum, inverse);
    const vec low = v_fma(ratio.high, weight.low, v_mul(ratio.low, weight.high));
    return v_sub(v_splat(0), v_fma(ratio.high, weight.high, low));
}

/* The gradient in place of the exponentials. */
KERNEL_INLINE void NAME(columns_gradient)(NAME(tile) * tile, int classes, vec pivot, NAME(pair) factor,
                                          vec pivot_gradient, vec weight, int dense) {
    const vec minus_weight = v_sub(v_splat(0), weight);
    REAL number = 0;
    for (int k = 0; k < classes; ++k, ++number) {
        const vec e = v_load(tile->columns[k]);
        vec grad = NAME(product_with_pair)(e, factor);
        if (dense)
            grad = v_fma(minus_weight, v_load(tile->targets[k]), grad);
        v_store(tile->columns[k], v_select(v_equal(pivot, v_splat(number)), pivot_gradient, grad));
    }
}

/* The gradient of a tile in place of its exponentials.  The factor is weight * mass / sum, of the exponentials as they are
 * stored, so that no probability exceeds 1. */
KERNEL_INLINE void NAME(gradient_of_tile)(NAME(tile) * tile, int classes, const NAME(lane_sums) * sums,
                                          const NAME(lane_weights) * weights, vec_mask is_number, int dense) {
    const vec not_a_number = v_splat(NAN);
    NAME(pair) numerator = weights->weight, sum = sums->sum_of_others;
    if (dense)
        numerator = NAME(pair_product)(numerator, sums->target_mass);
    NAME(pair_add)(&sum, sums->exp_of_pivot.high);
    const vec inverse = NAME(inverse_of)(sum);
    NAME(pair) factor = NAME(quotient)(numerator, sum, inverse);
    vec pivot_gradient = NAME(gradient_of_pivot)(sums, weights->weight, inverse, dense);
    if (v_mask_bits(is_number) != (1u << LANES) - 1) {
        /* one NaN everywhere: which of two an operation passes on differs between processors */
        factor.high = v_select(is_number, factor.high, not_a_number);
        factor.low = v_select(is_number, factor.low, not_a_number);
        pivot_gradient = v_select(is_number, pivot_gradient, not_a_number);
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_select(is_number, v_load(tile->columns[k]), not_a_number));
    }
    NAME(columns_gradient)(tile, classes, sums->pivot, factor, pivot_gradient, weights->weight.high, dense);
    if (weights->is_rescaled)
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_mul(v_load(tile->columns[k]), weights->last_factor));
}

/* Losses, which are returned, and, if asked for, the gradient of the rows side by side in a tile. */
KERNEL_INLINE vec NAME(rows_of_tile)(NAME(tile) * tile, int classes, vec labels, const NAME(lane_weights) * weights,
                                     int has_grad, int dense) {
    const vec zero = v_splat(0);
    NAME(lane_sums) sums;
    sums.pivot = labels;
    NAME(columns_maximum)(tile->columns, classes, &sums, dense);
    const vec base = NAME(finite_maximum)(sums.maximum);
    if (dense)
        NAME(columns_dense_targets)(tile, classes, base, &sums);
    const vec shift = NAME(shift_huge_columns)(tile->columns, classes, base);
    const vec shifted_maximum = v_sub(base, shift);
    const NAME(exponential_reference) reference = NAME(reference_for)(NAME(reference_exponent)(shifted_maximum));
    NAME(columns_exponentials)(tile->columns, classes, dense ? shifted_maximum : v_sub(sums.pivot_logit, shift),
                               reference, &sums);

    const vec sum = v_add(sums.sum_of_others.high, sums.exp_of_pivot.high);
    const vec_mask is_number = v_greater(v_keep(v_equal(base, sums.maximum), sum), zero);
    const NAME(pair) unweighted = NAME(lane_losses)(&sums, shifted_maximum, reference, dense);
    const NAME(pair) weighted = NAME(pair_product)(unweighted, weights->weight);
    const vec loss = v_mul(NAME(pair_total)(weighted), weights->last_factor);
    if (has_grad)
        NAME(gradient_of_tile)(tile, classes, &sums, weights, is_number, dense);
    return v_select(is_number, v_select(v_equal(weights->weight.high, zero), zero, loss), v_splat(NAN));
}

/* Weights of the rows from `first_row`; 0 beyond `row_count`. */
KERNEL_INLINE NAME(lane_weights) NAME(weights_of_rows)(const xent_batch *batch, int64_t first_row, int row_count) {
    ALIGNED_64 REAL high[LANES], low[LANES], last_factor[LANES];
    NAME(lane_weights) weights;
    weights.is_rescaled = 0;
    for (int row = 0; row < LANES; ++row) {
        double weight = row < row_count ? weight_of_row(batch, first_row + row) : 0;
        const int is_small = fabs(weight) < SMALL_WEIGHT && weight != 0;
        weight *= is_small ? RESCALE : 1;
        weights.is_rescaled |= is_small;
        last_factor[row] = (REAL)(is_small ? 1 / RESCALE : 1);
        high[row] = (REAL)weight;
        low[row] = (REAL)(weight - (double)high[row]);
    }
    weights.weight.high = v_load(high);
    weights.weight.low = v_load(low);
    weights.last_factor = v_load(last_factor);
    return weights;
}

/* Labels as lanes, -1 where there is no row; ignored rows become -1 with a weight of 0, and their logits 0. */
KERNEL_INLINE vec NAME(lane_labels)(const xent_labels *labels, const int64_t *values, int row_count, int classes,
                                    NAME(tile) * tile, NAME(lane_weights) * weights) {
    ALIGNED_64 REAL numbers[LANES];
    for (int row = 0; row < LANES; ++row)
        numbers[row] = (REAL)(int32_t)values[row];
    vec pivot = v_load(numbers);
    if (row_count == LANES && !labels->has_ignore_index)
        return pivot;
    for (int row = 0; row < LANES; ++row)
        if (row >= row_count || is_ignored(labels, values[row]))
            numbers[row] = -1;
    pivot = v_load(numbers);
    const vec_mask counts = v_not_less(pivot, v_splat(0));
    if (v_mask_bits(counts) != (1u << LANES) - 1) {
        weights->weight.high = v_keep(counts, weights->weight.high);
        weights->weight.low = v_keep(counts, weights->weight.low);
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_keep(counts, v_load(tile->columns[k])));
    }
    return pivot;
}

/* Rows [first_row, first_row + row_count), at most a vector of them; losses to `row_loss`.  `labels` has a whole vector. */
KERNEL_INLINE void NAME(short_rows)(const xent_batch *batch, int64_t first_row, int row_count, const int64_t *labels,
                                    NAME(lane_weights) weights, REAL *row_loss, int dense) {
    NAME(tile) tile;
    const int classes = (int)batch->classes, has_grad = batch->grad != NULL;
    const ptrdiff_t stride = batch->logits_row_stride, target_stride = batch->dense_targets_row_stride;
    NAME(load_columns)(tile.columns, batch->logits + first_row * stride, stride, row_count, classes);
    vec pivot = v_splat(-1);
    if (dense)
        NAME(load_columns)(tile.targets, batch->dense_targets + first_row * target_stride, target_stride, row_count,
                           classes);
    else
        pivot = NAME(lane_labels)(&batch->labels, labels, row_count, classes, &tile, &weights);
    const vec losses = NAME(rows_of_tile)(&tile, classes, pivot, &weights, has_grad, dense);
    if (row_count == LANES)
        v_store(row_loss, losses);
    else
        v_store_first(row_loss, row_count, losses);
    if (has_grad)
        NAME(store_columns)(tile.columns, batch->grad + first_row * batch->grad_row_stride, batch->grad_row_stride,
                            row_count, classes);
}

/* All of them, a vector of rows at a time.  `labels` has whole vectors. */
KERNEL_INLINE void NAME(many_short_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                         const int64_t *labels, REAL *row_loss, int dense) {
    const int has_own_weights = batch->sample_weight != NULL;
    NAME(lane_weights) weights;
    if (!has_own_weights)
        weights = NAME(weights_of_rows)(batch, first_row, LANES);
    for (int64_t k = 0; k < row_count; k += LANES) {
        const int count = row_count - k < LANES ? (int)(row_count - k) : LANES;
        if (has_own_weights)
            weights = NAME(weights_of_rows)(batch, first_row + k, count);
        NAME(short_rows)(batch, first_row + k, count, labels + k, weights, row_loss + k, dense);
    }
}
