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
    ALIGNED_64 REAL weight[LANES];
    ALIGNED_64 REAL weight_low[LANES];  /* what rounding the weight dropped */
    ALIGNED_64 REAL last_factor[LANES]; /* 1, or 1 / RESCALE where the weight is RESCALE times larger */
    int is_rescaled;                    /* whether any lane is */
    ALIGNED_64 REAL pivot[LANES];       /* index targets: the label, or -1 for an ignored row */
    ALIGNED_64 REAL loss[LANES];
} NAME(tile);

/* Per-lane state between the sweeps. */
typedef struct {
    vec maximum, pivot;
    NAME(pair) exp_of_maximum, exp_of_pivot;
    NAME(pair) sum_of_others;   /* of exponentials as they are stored */
    vec dropped;                /* what their last roundings took from that sum */
    vec pivot_logit;            /* index targets */
    NAME(pair) target_mass;     /* dense targets */
    vec distance, pivot_target; /* dense targets */
} NAME(lane_sums);

/* Where the square of columns that follows `done` begins: the last one overlaps the one before it. */
KERNEL_INLINE int NAME(next_square)(int done, int classes) {
    return done + TRANSPOSE_WIDTH <= classes ? done : classes - TRANSPOSE_WIDTH;
}

/* Rows to columns, number by number; rows with skip[row] become zeros and are not read. */
KERNEL_INLINE void NAME(load_some_columns)(REAL (*columns)[LANES], const char *source, ptrdiff_t row_stride,
                                           int classes, const char *skip) {
    for (int row = 0; row < LANES; ++row) {
        const REAL *values = (const REAL *)(const void *)(source + row * row_stride);
        for (int k = 0; k < classes; ++k)
            columns[k][row] = skip[row] ? 0 : values[k];
    }
}

/* Rows to columns; in squares where every row is there. */
KERNEL_INLINE void NAME(load_columns)(REAL (*columns)[LANES], const char *source, ptrdiff_t row_stride, int classes,
                                      const char *skip, int skips_any) {
    if (skips_any || classes < TRANSPOSE_WIDTH) {
        NAME(load_some_columns)(columns, source, row_stride, classes, skip);
        return;
    }
    for (int done = 0; done < classes; done += TRANSPOSE_WIDTH) {
        const int first = NAME(next_square)(done, classes);
        v_load_transposed(source + first * (ptrdiff_t)sizeof(REAL), row_stride, columns + first);
    }
}

KERNEL_INLINE void NAME(store_columns)(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride, int row_count,
                                       int classes) {
    if (row_count == LANES && classes >= TRANSPOSE_WIDTH) {
        for (int done = 0; done < classes; done += TRANSPOSE_WIDTH) {
            const int first = NAME(next_square)(done, classes);
            v_store_transposed(columns + first, destination + first * (ptrdiff_t)sizeof(REAL), row_stride);
        }
        return;
    }
    for (int row = 0; row < row_count; ++row) {
        REAL *values = (REAL *)(void *)(destination + row * row_stride);
        for (int k = 0; k < classes; ++k)
            values[k] = columns[k][row];
    }
}

/* Maximum of each lane, and for dense targets its first class. */
KERNEL_INLINE void NAME(columns_maximum)(REAL (*columns)[LANES], int classes, NAME(lane_sums) * sums, int dense) {
    vec maximum = v_splat(-INFINITY), first = v_splat(-1);
    for (int k = 0; k < classes; ++k) {
        const vec x = v_load(columns[k]);
        if (dense)
            first = v_select(v_greater(x, maximum), v_splat((REAL)k), first);
        maximum = v_max(x, maximum);
    }
    sums->maximum = maximum;
    if (dense)
        sums->pivot = first;
}

/* The maximum where it is a finite number, else 0. */
KERNEL_INLINE vec NAME(finite_maximum)(vec maximum) {
    const vec largest = v_splat(LARGEST_REAL);
    const vec magnitude = v_max(v_sub(v_splat(0), maximum), maximum);
    return v_select(v_greater(magnitude, largest), v_splat(0), maximum);
}

/* The logit of each lane's target. */
KERNEL_INLINE void NAME(columns_index_targets)(REAL (*columns)[LANES], int classes, NAME(lane_sums) * sums) {
    vec logit = v_splat(0);
    for (int k = 0; k < classes; ++k)
        logit = v_select(v_equal(sums->pivot, v_splat((REAL)k)), v_load(columns[k]), logit);
    sums->pivot_logit = logit;
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

/* Exponentials of up to four columns in place of their logits, added to the sums without the pivots. */
KERNEL_INLINE void NAME(exponentials_of_four)(REAL (*columns)[LANES], int first, int count,
                                              const NAME(exponential_reference) * reference, NAME(lane_sums) * sums) {
    const vec zero = v_splat(0);
    vec high[4] = {zero, zero, zero, zero}, low[4] = {zero, zero, zero, zero};
    for (int j = 0; j < 4 && j < count; ++j) {
        const vec_mask is_pivot = v_equal(sums->pivot, v_splat((REAL)(first + j)));
        const NAME(pair) e = NAME(scaled_exponential_pair)(v_load(columns[first + j]), *reference);
        v_store(columns[first + j], e.high);
        high[j] = v_select(is_pivot, zero, e.high);
        low[j] = v_select(is_pivot, zero, e.low);
    }
    NAME(pair_add)(&sums->sum_of_others, v_add(v_add(high[0], high[1]), v_add(high[2], high[3])));
    sums->dropped = v_add(sums->dropped, v_add(v_add(low[0], low[1]), v_add(low[2], low[3])));
}

/* Exponentials in place of the logits, and the sum of all but the pivot's; `shift` is what the logits lost. */
KERNEL_INLINE void NAME(columns_exponentials)(REAL (*columns)[LANES], int classes, vec reference_maximum, vec shift,
                                              NAME(lane_sums) * sums, int dense) {
    const NAME(exponential_reference) reference = NAME(reference_for)(NAME(reference_exponent)(reference_maximum));
    sums->sum_of_others = NAME(zero_pair)();
    sums->dropped = v_splat(0);
    for (int first = 0; first < classes; first += 4)
        NAME(exponentials_of_four)(columns, first, classes - first, &reference, sums);
    sums->exp_of_maximum = NAME(scaled_exponential_pair)(reference_maximum, reference);
    sums->exp_of_pivot = sums->exp_of_maximum;
    if (!dense)
        sums->exp_of_pivot = NAME(scaled_exponential_pair)(v_sub(sums->pivot_logit, shift), reference);
}

/* The sum of the others as accurate as it is known. */
KERNEL_INLINE NAME(pair) NAME(accurate_others)(const NAME(lane_sums) * sums) {
    const NAME(pair) others = {sums->sum_of_others.high, v_add(sums->sum_of_others.low, sums->dropped)};
    return others;
}

/* Weighted losses of the lanes. */
KERNEL_INLINE vec NAME(lane_losses)(const NAME(tile) * tile, const NAME(lane_sums) * sums, int dense) {
    const NAME(pair) top = sums->exp_of_maximum, target = sums->exp_of_pivot;
    NAME(pair) rest = NAME(accurate_others)(sums);
    if (!dense) {
        const vec_mask target_is_maximum = v_equal(sums->pivot_logit, sums->maximum);
        const vec other_rest = v_add(v_sub(rest.high, top.high), target.high);
        const vec other_low = v_add(v_sub(rest.low, top.low), target.low);
        rest.high = v_select(target_is_maximum, rest.high, other_rest);
        rest.low = v_select(target_is_maximum, rest.low, other_low);
    }
    NAME(pair) loss = NAME(log_of_1_plus)(NAME(pair_total)(NAME(quotient)(rest, top)));
    if (dense) {
        loss = NAME(pair_product)(sums->target_mass, loss);
        NAME(pair_add)(&loss, sums->distance);
    } else {
        NAME(pair) distance = {sums->maximum, v_splat(0)};
        NAME(pair_add)(&distance, v_sub(v_splat(0), sums->pivot_logit));
        NAME(pair_add)(&loss, distance.high);
        loss.low = v_add(loss.low, distance.low);
    }
    const NAME(pair) weight = {v_load(tile->weight), v_load(tile->weight_low)};
    return NAME(pair_total)(NAME(pair_product)(loss, weight));
}

/* The factor of the exponentials, weight * mass / sum.  The sum is that of the exponentials as they are stored, so that no
 * probability exceeds 1. */
KERNEL_INLINE NAME(pair) NAME(gradient_factor)(const NAME(tile) * tile, const NAME(lane_sums) * sums, int dense) {
    NAME(pair) numerator = {v_load(tile->weight), v_load(tile->weight_low)}, sum = sums->sum_of_others;
    if (dense)
        numerator = NAME(pair_product)(numerator, sums->target_mass);
    NAME(pair_add)(&sum, sums->exp_of_pivot.high);
    return NAME(quotient)(numerator, sum);
}

/* -a T / S, or a ((Q - t) e - t T) / S for dense targets: see lanes_along_classes.h. */
KERNEL_INLINE vec NAME(gradient_of_pivot)(const NAME(tile) * tile, const NAME(lane_sums) * sums, int dense) {
    const NAME(pair) others = NAME(accurate_others)(sums);
    const vec weight = v_load(tile->weight);
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
    const NAME(pair) ratio = NAME(quotient)(down, sum);
    const vec low = v_fma(ratio.high, v_load(tile->weight_low), v_mul(ratio.low, weight));
    return v_sub(v_splat(0), v_fma(ratio.high, weight, low));
}

/* The gradient in place of the exponentials. */
KERNEL_INLINE void NAME(columns_gradient)(NAME(tile) * tile, int classes, vec pivot, NAME(pair) factor,
                                          vec pivot_gradient, int dense) {
    const vec minus_weight = v_sub(v_splat(0), v_load(tile->weight));
    for (int k = 0; k < classes; ++k) {
        const vec e = v_load(tile->columns[k]);
        vec grad = NAME(product_with_pair)(e, factor);
        if (dense)
            grad = v_fma(minus_weight, v_load(tile->targets[k]), grad);
        v_store(tile->columns[k], v_select(v_equal(pivot, v_splat((REAL)k)), pivot_gradient, grad));
    }
}

/* Loss and, if asked for, gradient of the rows side by side in a tile. */
KERNEL_INLINE void NAME(rows_of_tile)(NAME(tile) * tile, int classes, int has_grad, int dense) {
    const vec zero = v_splat(0), not_a_number = v_splat(NAN), weight = v_load(tile->weight);
    NAME(lane_sums) sums;
    sums.pivot = v_load(tile->pivot);
    NAME(columns_maximum)(tile->columns, classes, &sums, dense);
    const vec base = NAME(finite_maximum)(sums.maximum);
    if (dense)
        NAME(columns_dense_targets)(tile, classes, base, &sums);
    else
        NAME(columns_index_targets)(tile->columns, classes, &sums);
    const vec shift = NAME(shift_huge_columns)(tile->columns, classes, base);
    NAME(columns_exponentials)(tile->columns, classes, v_sub(base, shift), shift, &sums, dense);

    const vec sum = v_add(sums.sum_of_others.high, sums.exp_of_pivot.high);
    const vec_mask is_number = v_greater(v_keep(v_equal(base, sums.maximum), sum), zero);
    const vec loss = v_mul(NAME(lane_losses)(tile, &sums, dense), v_load(tile->last_factor));
    v_store(tile->loss, v_select(is_number, v_select(v_equal(weight, zero), zero, loss), not_a_number));
    if (!has_grad)
        return;
    NAME(pair) factor = NAME(gradient_factor)(tile, &sums, dense);
    if (v_mask_bits(is_number) != (1u << LANES) - 1) {
        /* one NaN everywhere: which of two an operation passes on differs between processors */
        factor.high = v_select(is_number, factor.high, not_a_number);
        factor.low = v_select(is_number, factor.low, not_a_number);
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_select(is_number, v_load(tile->columns[k]), not_a_number));
    }
    const vec pivot_gradient = v_select(is_number, NAME(gradient_of_pivot)(tile, &sums, dense), not_a_number);
    NAME(columns_gradient)(tile, classes, sums.pivot, factor, pivot_gradient, dense);
    if (tile->is_rescaled)
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_mul(v_load(tile->columns[k]), v_load(tile->last_factor)));
}

/* Weights and pivots of the rows from `first_row`; skip[row] marks the ignored and the absent ones.  Returns whether there
 * are any. */
KERNEL_INLINE int NAME(prepare_tile)(const xent_batch *batch, int64_t first_row, int row_count, const int64_t *labels,
                                     NAME(tile) * tile, char *skip, int dense) {
    int skips_any = 0;
    tile->is_rescaled = 0;
    for (int row = 0; row < LANES; ++row) {
        skip[row] = (char)(row >= row_count || (!dense && is_ignored(&batch->labels, labels[row])));
        skips_any |= skip[row];
        double weight = skip[row] ? 0 : weight_of_row(batch, first_row + row);
        const int is_small = fabs(weight) < SMALL_WEIGHT && weight != 0;
        weight *= is_small ? RESCALE : 1;
        tile->is_rescaled |= is_small;
        tile->last_factor[row] = (REAL)(is_small ? 1 / RESCALE : 1);
        tile->weight[row] = (REAL)weight;
        tile->weight_low[row] = (REAL)(weight - (double)tile->weight[row]);
        tile->pivot[row] = skip[row] || dense ? -1 : (REAL)clamped_label(labels[row], batch->classes);
    }
    return skips_any;
}

/* Rows [first_row, first_row + row_count), at most a vector of them; losses to `row_loss`. */
KERNEL_INLINE void NAME(short_rows)(const xent_batch *batch, int64_t first_row, int row_count, const int64_t *labels,
                                    REAL *row_loss, int dense) {
    NAME(tile) tile;
    char skip[LANES];
    const int classes = (int)batch->classes, has_grad = batch->grad != NULL;
    const int skips_any = NAME(prepare_tile)(batch, first_row, row_count, labels, &tile, skip, dense);
    const ptrdiff_t stride = batch->logits_row_stride, target_stride = batch->dense_targets_row_stride;
    NAME(load_columns)(tile.columns, batch->logits + first_row * stride, stride, classes, skip, skips_any);
    if (dense)
        NAME(load_columns)(tile.targets, batch->dense_targets + first_row * target_stride, target_stride, classes, skip,
                           skips_any);
    NAME(rows_of_tile)(&tile, classes, has_grad, dense);
    for (int row = 0; row < row_count; ++row)
        row_loss[row] = tile.loss[row];
    if (has_grad)
        NAME(store_columns)(tile.columns, batch->grad + first_row * batch->grad_row_stride, batch->grad_row_stride,
                            row_count, classes);
}
