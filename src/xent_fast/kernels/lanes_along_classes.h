/* Lanes along classes: one row at a time, vectors along its classes.  A template over REAL_BITS.
 *
 * Knows: THE algorithm for rows longer than a few vectors.
 * Must not know: instruction sets, threads, Python.
 *
 * A row is cut into blocks of BLOCK classes, a block into groups of four vectors.
 *
 *   forward, a block    its maximum m_b, c_b = round(m_b log2 e), e = 2^(x log2 e - c_b) stored in the gradient's place,
 *                       and the sum of all e but one class's: the target's (index targets) or the block's first
 *                       maximum (dense targets)
 *   row                 the block of the row's maximum m gives the reference c; the others weigh 2^(c_b - c), exactly
 *   backward, a block   grad = e * factor_b (- a t for dense targets); the class left out is written last
 *
 * Leaving one class out keeps what small losses are made of.  With T the sum of the others, relative to class y:
 *
 *     loss = (m - x_y) + log1p(rest / e_m)      rest = T                  where x_y is the maximum
 *                                                      (T - e_m) + e_y     elsewhere: then m - x_y carries the loss
 *     grad_y = -a T / (T + e_y)                  dense: a ((Q - t_m) e_m - t_m T) / (T + e_m) for the row's maximum
 *
 * Sums: the four vectors of a group in a tree, groups in a wide sum (sums.h); blocks in their order, with compensation.  Padding and excluded lanes add an exact 0, so that the order is a function of the number
 * of classes alone.
 */

/* What the forward sweep of one block leaves for the row. */
typedef struct {
    double sum_of_others; /* times 2^-SCALE_UP, relative to the block's reference */
    double maximum;
    double shift;     /* subtracted from the logits first: 0, or the maximum where it is huge */
    double reference; /* c_b, an integer */
    double weight;    /* of this block relative to the row's reference */
    /* dense targets */
    double target_mass;  /* sum of t */
    double distance;     /* sum of t (base - x), base: the maximum, or 0 where that is infinite */
    double exp_of_pivot; /* e of the class left out, in the units of sum_of_others */
    int64_t pivot;       /* class left out, from the row's start */
} NAME(block_summary);

/* What the row stage gives back to the backward sweep. */
typedef struct {
    double loss;
    double factor, factor_low; /* of e, relative to the row's reference: a sum of two */
    double pivot_gradient;
    int64_t pivot;
    int is_nan;
} NAME(row_result);

KERNEL_INLINE REAL NAME(max_of_lanes)(vec a) {
    ALIGNED_64 REAL lanes[LANES];
    v_store(lanes, a);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane)
            lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
    return lanes[0];
}

/* Largest of `count` logits; NaN is passed over, so that it is -inf where there is no number. */
KERNEL_INLINE REAL NAME(block_maximum)(const REAL *logits, int64_t count) {
    const vec lowest = v_splat(-INFINITY);
    vec a = lowest, b = lowest, c = lowest, d = lowest;
    int64_t k = 0;
    for (; k + GROUP <= count; k += GROUP) {
        a = v_max(v_load(logits + k), a);
        b = v_max(v_load(logits + k + LANES), b);
        c = v_max(v_load(logits + k + 2 * LANES), c);
        d = v_max(v_load(logits + k + 3 * LANES), d);
    }
    for (; k + LANES <= count; k += LANES)
        a = v_max(v_load(logits + k), a);
    if (k < count)
        b = v_max(v_load_first(logits + k, (int)(count - k), -INFINITY), b);
    return NAME(max_of_lanes)(v_max(v_max(a, b), v_max(c, d)));
}

/* First position of a value among `count` logits, or -1. */
KERNEL_INLINE int64_t NAME(first_position_of)(REAL value, const REAL *logits, int64_t count) {
    for (int64_t k = 0; k < count; k += LANES) {
        vec x = count - k < LANES ? v_load_first(logits + k, (int)(count - k), NAN) : v_load(logits + k);
        unsigned found = v_mask_bits(v_equal(x, v_splat(value)));
        for (int64_t lane = 0; found; ++lane, found >>= 1)
            if (found & 1u)
                return k + lane;
    }
    return -1;
}

typedef struct {
    NAME(wide) exponentials, target_mass, distance;
} NAME(block_sums);

/* What every group of a block shares. */
typedef struct {
    NAME(exponential_reference) reference;
    vec shift;
    vec base; /* of the distances */
    int is_shifted;
} NAME(block_frame);

/* What one vector adds to the sums. */
typedef struct {
    vec exponentials, target_mass, distance;
} NAME(summands);

KERNEL_INLINE NAME(summands) NAME(forward_vector)(vec x, vec target, const NAME(block_frame) * frame, int dense) {
    NAME(summands) r = {v_splat(0), v_splat(0), v_splat(0)};
    if (dense) {
        /* 0 * inf = 0: a class without target adds nothing, whatever its logit */
        const vec_mask has_no_target = v_equal(target, v_splat(0));
        r.target_mass = target;
        r.distance = v_select(has_no_target, v_splat(0), v_mul(target, v_sub(frame->base, x)));
    }
    if (frame->is_shifted)
        x = v_sub(x, frame->shift);
    r.exponentials = NAME(scaled_exponential)(x, frame->reference);
    return r;
}

KERNEL_INLINE NAME(summands) NAME(add_summands)(NAME(summands) a, NAME(summands) b, int dense) {
    a.exponentials = v_add(a.exponentials, b.exponentials);
    if (dense) {
        a.target_mass = v_add(a.target_mass, b.target_mass);
        a.distance = v_add(a.distance, b.distance);
    }
    return a;
}

KERNEL_INLINE void NAME(add_group)(NAME(block_sums) * sums, NAME(summands) group, int dense) {
    NAME(wide_add)(&sums->exponentials, group.exponentials);
    if (dense) {
        NAME(wide_add)(&sums->target_mass, group.target_mass);
        NAME(wide_add)(&sums->distance, group.distance);
    }
}

/* One whole group: exponentials to `e` unless it is NULL.  Meanwhile the same group of the next block, or of the next row,
 * comes from memory: without that the maximum's sweep would wait for memory and the exponentials leave it idle. */
KERNEL_INLINE void NAME(forward_group)(const REAL *logits, const REAL *targets, REAL *e,
                                       const NAME(block_frame) * frame, NAME(block_sums) * sums, int dense) {
    NAME(summands) pair[2];
    for (int line = 0; line < GROUP; line += LANES)
        PREFETCH(logits + BLOCK + line);
    for (int half = 0; half < 2; ++half) {
        NAME(summands) of_two[2];
        for (int k = 0; k < 2; ++k) {
            const int at = (2 * half + k) * LANES;
            const vec target = dense ? v_load(targets + at) : v_splat(0);
            of_two[k] = NAME(forward_vector)(v_load(logits + at), target, frame, dense);
            if (e)
                v_store(e + at, of_two[k].exponentials);
        }
        pair[half] = NAME(add_summands)(of_two[0], of_two[1], dense);
    }
    NAME(add_group)(sums, NAME(add_summands)(pair[0], pair[1], dense), dense);
}

/* A group that is cut short, or holds the class left out of the sum (`excluded` from its start, or any other number). */
KERNEL_INLINE void NAME(forward_special_group)(const REAL *logits, const REAL *targets, REAL *e, int count,
                                               int excluded, const NAME(block_frame) * frame, NAME(block_sums) * sums,
                                               int dense) {
    const NAME(summands) nothing = {v_splat(0), v_splat(0), v_splat(0)};
    NAME(summands) summand[4] = {nothing, nothing, nothing, nothing};
    for (int k = 0; k < 4 && k * LANES < count; ++k) {
        const int at = k * LANES, left = count - at;
        const vec x = left < LANES ? v_load_first(logits + at, left, -INFINITY) : v_load(logits + at);
        vec target = v_splat(0);
        if (dense)
            target = left < LANES ? v_load_first(targets + at, left, 0) : v_load(targets + at);
        summand[k] = NAME(forward_vector)(x, target, frame, dense);
        if (e && left < LANES)
            v_store_first(e + at, left, summand[k].exponentials);
        else if (e)
            v_store(e + at, summand[k].exponentials);
        const vec_mask is_excluded = v_equal(v_lane_numbers(), v_splat((REAL)(excluded - at)));
        summand[k].exponentials = v_select(is_excluded, v_splat(0), summand[k].exponentials);
    }
    NAME(add_group)(sums,
                    NAME(add_summands)(NAME(add_summands)(summand[0], summand[1], dense),
                                       NAME(add_summands)(summand[2], summand[3], dense), dense),
                    dense);
}

/* The reference of a block by its maximum, which may be infinite or absent (-inf): then 0, and NaN, if there is one,
 * shows in the sum. */
KERNEL_INLINE NAME(block_frame) NAME(frame_of_block)(REAL maximum, NAME(block_summary) * summary) {
    NAME(block_frame) frame;
    const int is_finite = maximum > -INFINITY && maximum < INFINITY;
    const REAL base = is_finite ? maximum : 0;
    const int is_huge = base >= HUGE_LOGIT || base <= -HUGE_LOGIT;
    const REAL scaled = (is_huge ? 0 : base) * REAL_CONSTANT(log2_e);
    const REAL reference = (scaled + ROUNDING_MAGIC) - ROUNDING_MAGIC;
    frame.is_shifted = is_huge;
    frame.shift = v_splat(is_huge ? base : 0);
    frame.base = v_splat(base);
    frame.reference = NAME(reference_for)(v_splat(reference));
    summary->maximum = maximum;
    summary->shift = is_huge ? base : 0;
    summary->reference = reference;
    return frame;
}

/* All groups of a block, the excluded class (or -1) left out of the sum. */
KERNEL_INLINE void NAME(forward_groups)(const REAL *logits, const REAL *targets, REAL *e, int64_t count,
                                        int64_t excluded, const NAME(block_frame) * frame, NAME(block_sums) * sums,
                                        int dense) {
    const int64_t whole = count - count % GROUP;
    const int64_t special = excluded < 0 ? whole : excluded - excluded % GROUP;
    int64_t k = 0;
    while (k < count) {
        const int64_t pause = k <= special && special < whole ? special : whole;
        for (; k < pause; k += GROUP)
            NAME(forward_group)(logits + k, targets + k, e ? e + k : NULL, frame, sums, dense);
        if (k < count) {
            const int left = (int)(count - k < GROUP ? count - k : GROUP);
            NAME(forward_special_group)(logits + k, targets + k, e ? e + k : NULL, left, (int)(excluded - k), frame,
                                        sums, dense);
            k += GROUP;
        }
    }
}

/* Forward sweep of a block that begins at class `first`; `excluded` counts from there (index targets). */
KERNEL_INLINE void NAME(forward_block)(const REAL *logits, const REAL *targets, REAL *e, int64_t count, int64_t first,
                                       int64_t excluded, NAME(block_summary) * summary, int dense) {
    const REAL maximum = NAME(block_maximum)(logits, count);
    const NAME(block_frame) frame = NAME(frame_of_block)(maximum, summary);
    NAME(block_sums) sums;
    memset(&sums, 0, sizeof sums);
    if (dense) {
        excluded = NAME(first_position_of)(maximum, logits, count);
        summary->pivot = first + excluded;
        summary->exp_of_pivot = excluded < 0
                                    ? 0
                                    : scaled_exponential_of((double)maximum - summary->shift,
                                                            summary->reference + (FLOAT64_SCALE_UP - SCALE_UP));
    }
    NAME(forward_groups)(logits, targets, e, count, excluded, &frame, &sums, dense);
    summary->sum_of_others = NAME(wide_total)(sums.exponentials);
    if (dense) {
        summary->target_mass = NAME(wide_total)(sums.target_mass);
        summary->distance = NAME(wide_total)(sums.distance);
    }
}

/* Weighs the blocks relative to the one that holds the row's maximum, which is returned.  Two references differ by an
 * integer power of two; only where a huge block meets another does an exponential come in. */
KERNEL_INLINE const NAME(block_summary) * NAME(weigh_blocks)(NAME(block_summary) * blocks, int64_t count) {
    const NAME(block_summary) *highest = blocks;
    for (int64_t b = 1; b < count; ++b)
        if (blocks[b].maximum > highest->maximum)
            highest = blocks + b;
    for (int64_t b = 0; b < count; ++b) {
        const double steps = blocks[b].reference - highest->reference;
        const double shift = blocks[b].shift - highest->shift;
        if (shift == 0)
            blocks[b].weight = power_of_two(steps < 0 ? steps : 0);
        else
            blocks[b].weight = exponential_of_difference(shift, steps);
    }
    return highest;
}

/* Loss and gradient factors of a row from its blocks, index targets. */
KERNEL_INLINE NAME(row_result) NAME(finish_index_row)(NAME(block_summary) * blocks, int64_t count, REAL target_logit,
                                                      int64_t label, double weight) {
    const NAME(block_summary) *highest = NAME(weigh_blocks)(blocks, count);
    const double reference = highest->reference + (FLOAT64_SCALE_UP - SCALE_UP);
    const double maximum = highest->maximum;
    double others = 0, error = 0;
    for (int64_t b = 0; b < count; ++b)
        compensated_add(&others, &error, blocks[b].sum_of_others * blocks[b].weight);
    const double exp_of_target = scaled_exponential_of((double)target_logit - highest->shift, reference);
    const double exp_of_maximum = scaled_exponential_of(maximum - highest->shift, reference);
    double sum = others, sum_error = error;
    compensated_add(&sum, &sum_error, exp_of_target);
    others += error;
    const double rest = target_logit == maximum ? others : (others - exp_of_maximum) + exp_of_target;
    const double loss = (maximum - (double)target_logit) + log_of_1_plus(rest / exp_of_maximum);
    NAME(row_result) result;
    result.is_nan = !(sum > 0);
    result.loss = result.is_nan ? NAN : weight == 0 ? 0 : weight * loss;
    result.factor = scalar_quotient(weight, sum, sum_error, &result.factor_low);
    result.pivot = label;
    double ratio_low;
    const double ratio = scalar_quotient(others, sum, sum_error, &ratio_low);
    result.pivot_gradient = 0.0 - weight * (ratio + ratio_low);
    return result;
}

/* The same for dense targets; `targets` is the row's. */
KERNEL_INLINE NAME(row_result)
    NAME(finish_dense_row)(NAME(block_summary) * blocks, int64_t count, const REAL *targets, double weight) {
    const NAME(block_summary) *highest = NAME(weigh_blocks)(blocks, count);
    const double maximum = highest->maximum, exp_of_maximum = highest->exp_of_pivot;
    double others = 0, error = 0, mass = 0, distance = 0;
    for (int64_t b = 0; b < count; ++b) {
        const int is_finite = blocks[b].maximum > -INFINITY;
        const double pivot = blocks + b == highest ? 0 : blocks[b].exp_of_pivot;
        compensated_add(&others, &error, (blocks[b].sum_of_others + pivot) * blocks[b].weight);
        mass += blocks[b].target_mass;
        distance += blocks[b].distance;
        if (blocks[b].target_mass != 0)
            distance += (maximum - (is_finite ? blocks[b].maximum : 0)) * blocks[b].target_mass;
    }
    double sum = others, sum_error = error;
    compensated_add(&sum, &sum_error, exp_of_maximum);
    others += error;
    const double loss = mass * log_of_1_plus(others / exp_of_maximum) + distance;
    NAME(row_result) result;
    result.is_nan = !(sum > 0);
    result.loss = result.is_nan ? NAN : weight == 0 ? 0 : weight * loss;
    result.factor = scalar_quotient(weight * mass, sum, sum_error, &result.factor_low);
    result.pivot = highest->pivot;
    const double pivot_mass = result.pivot < 0 ? 0 : (double)targets[result.pivot];
    const double up = (mass - pivot_mass) * exp_of_maximum - pivot_mass * others;
    double ratio_low;
    const double ratio = scalar_quotient(up, sum, sum_error, &ratio_low);
    result.pivot_gradient = weight * (ratio + ratio_low);
    return result;
}

/* What every vector of the backward sweep is multiplied by. */
typedef struct {
    NAME(pair) factor;
    vec last_factor, minus_weight;
} NAME(backward_frame);

KERNEL_INLINE vec NAME(backward_vector)(vec e, vec target, const NAME(backward_frame) * frame, int in_two_steps,
                                        int dense) {
    vec grad = NAME(product_with_pair)(e, frame->factor);
    if (in_two_steps)
        grad = v_mul(grad, frame->last_factor);
    return dense ? v_fma(frame->minus_weight, target, grad) : grad;
}

KERNEL_INLINE void NAME(backward_vectors)(REAL *grad, const REAL *targets, int64_t count,
                                          const NAME(backward_frame) * frame, int in_two_steps, int dense) {
    int64_t k = 0;
    for (; k + 2 * LANES <= count; k += 2 * LANES) {
        for (int j = 0; j < 2 * LANES; j += LANES) {
            const vec target = dense ? v_load(targets + k + j) : v_splat(0);
            v_store(grad + k + j, NAME(backward_vector)(v_load(grad + k + j), target, frame, in_two_steps, dense));
        }
    }
    for (; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        const vec target = dense ? v_load_first(targets + k, left, 0) : v_splat(0);
        const vec e = v_load_first(grad + k, left, 0);
        v_store_first(grad + k, left, NAME(backward_vector)(e, target, frame, in_two_steps, dense));
    }
}

/* Backward sweep of one block: grad = e * factor * block weight (- weight * t).  Where the factors would leave the normal
 * numbers they are RESCALE times larger, and that is taken back last. */
KERNEL_INLINE void NAME(backward_block)(REAL *grad, const REAL *targets, int64_t count, const NAME(row_result) * row,
                                        double block_weight, REAL weight, int dense) {
    const int in_two_steps = fabs(row->factor * block_weight) < SMALL_FACTOR;
    const double factor = row->factor * (in_two_steps ? RESCALE : 1) * block_weight;
    const double factor_low = row->factor_low * (in_two_steps ? RESCALE : 1) * block_weight;
    const REAL high = (REAL)factor;
    const NAME(backward_frame) frame = {{v_splat(high), v_splat((REAL)((factor - (double)high) + factor_low))},
                                        v_splat((REAL)(1 / RESCALE)),
                                        v_splat(-weight)};
    if (in_two_steps)
        NAME(backward_vectors)(grad, targets, count, &frame, 1, dense);
    else
        NAME(backward_vectors)(grad, targets, count, &frame, 0, dense);
}

KERNEL_INLINE void NAME(fill)(REAL *destination, int64_t count, REAL value) {
    for (int64_t k = 0; k < count; ++k)
        destination[k] = value;
}

/* One row.  `grad` is NULL for the loss alone. */
KERNEL_INLINE double NAME(long_row)(const REAL *logits, const REAL *targets, REAL *grad, int64_t classes, int64_t label,
                                    double weight, NAME(block_summary) * blocks, int dense) {
    const int64_t block_count = (classes + BLOCK - 1) / BLOCK;
    const REAL target_logit = dense ? 0 : logits[label];
    for (int64_t b = 0, first = 0; b < block_count; ++b, first += BLOCK) {
        const int64_t count = classes - first < BLOCK ? classes - first : BLOCK;
        const int64_t excluded = !dense && label >= first && label < first + count ? label - first : -1;
        NAME(forward_block)(logits + first, targets + first, grad ? grad + first : NULL, count, first, excluded,
                            blocks + b, dense);
    }
    const NAME(row_result) result = dense ? NAME(finish_dense_row)(blocks, block_count, targets, weight)
                                          : NAME(finish_index_row)(blocks, block_count, target_logit, label, weight);
    if (grad && result.is_nan) {
        NAME(fill)(grad, classes, NAN);
    } else if (grad) {
        for (int64_t b = 0, first = 0; b < block_count; ++b, first += BLOCK) {
            const int64_t count = classes - first < BLOCK ? classes - first : BLOCK;
            NAME(backward_block)(grad + first, targets + first, count, &result, blocks[b].weight, (REAL)weight, dense);
        }
        grad[result.pivot] = (REAL)result.pivot_gradient;
    }
    return result.loss;
}
