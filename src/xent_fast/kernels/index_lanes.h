/* Class indices of a few classes: as many rows side by side as a vector has lanes.  A template over
 * REAL_BITS.
 *
 * Knows: loss and gradient of such rows in the lanes' own dtype; which rows need more
 * (double_rows.h).
 * Must not know: instruction sets, threads, Python, how rows become columns (tile.h).
 *
 * Each lane is a row with the class y.  With m its maximum, exponentials e relative to a power of
 * two near that of m, and O the sum of all but the label's:
 *
 *     S = O + e_y           R = O / e_m, or ((O - e_m) + e_y) / e_m where y is not the maximum
 *     F = a / (T S)         loss = (m - x_y) / T + log1p(R)
 *     grad_k = e_k F        grad_y = -O F
 *
 * Where y is the maximum, R and the loss have the relative accuracy of O, however small.  Elsewhere
 * the loss is at least log 2, and what O - e_m loses does not show beside it.
 *
 * With u half a unit at 1: e 1.5 u (exp.h), fours of them added in a tree 2 u, the logarithm 1.7 u,
 * each product u.  From four classes on (`is_exact`) the fours are added without loss, e_y and e_m
 * keep what their last rounding dropped, and the quotients R and F are rounded once, the weight's
 * own rounding included: a few operations for a whole vector of rows.  Two or three classes need
 * none of that.
 *
 * With z_loss and h = 2 z lse: loss + z lse^2, (1 + h) F in place of F, grad_y = (h e_y - O) F, and
 * lse = m / T + log1p of the others over the first maximum.
 */

/* Columns of a vector of rows: class k of all of them lies `step` bytes after class k - 1. */
typedef struct {
    const char *first;
    ptrdiff_t step;
} NAME(lane_columns);

KERNEL_INLINE vec NAME(load_column)(NAME(lane_columns) columns, int k) {
    return v_load((const REAL *)(const void *)(columns.first + k * columns.step));
}

/* What the sweeps find of each lane: the maximum as it is, and with the label's logit less what is
 * taken from huge ones. */
typedef struct {
    vec maximum, top, label_logit;
    NAME(pair) others, exp_of_label, exp_of_maximum;
} NAME(index_sums);

KERNEL_INLINE vec NAME(maximum_of_columns)(NAME(lane_columns) columns, int classes) {
    vec maximum = v_splat(-INFINITY), another = v_splat(-INFINITY);
    int k = 0;
    for (; k + 2 <= classes; k += 2) {
        maximum = v_max(NAME(load_column)(columns, k), maximum);
        another = v_max(NAME(load_column)(columns, k + 1), another);
    }
    if (k < classes)
        maximum = v_max(NAME(load_column)(columns, k), maximum);
    return v_max(maximum, another);
}

/* Exponentials of `count` columns (1, 2 or 4) from `k` to `place`; `labels` count from there.
 * Returns the sum of all but the labels'.  The label's and the largest are found here unless their
 * low parts count, too. */
KERNEL_INLINE vec NAME(some_index_exponentials)(NAME(lane_columns) columns, int k, int count,
                                                vec labels,
                                                const NAME(exponential_reference) * reference,
                                                REAL (*place)[LANES], NAME(index_sums) * sums,
                                                int is_exact) {
    vec x[4], e[4];
    EACH_OF(count, x[j] = NAME(load_column)(columns, k + j);
            sums->label_logit = v_select(v_equal(labels, v_splat(j)), x[j], sums->label_logit));
    if (count > INTERLEAVED) {
        for (int first = 0; first < count; first += INTERLEAVED)
            NAME(scaled_exponentials)(x + first, INTERLEAVED, *reference, e + first, NULL);
    } else {
        NAME(scaled_exponentials)(x, count, *reference, e, NULL);
    }
    if (!is_exact)
        EACH_OF(count, sums->exp_of_label.high =
                           v_select(v_equal(labels, v_splat(j)), e[j], sums->exp_of_label.high);
                sums->exp_of_maximum.high = v_max(e[j], sums->exp_of_maximum.high));
    EACH_OF(count, v_store(place[k + j], e[j]); e[j] = v_drop(v_equal(labels, v_splat(j)), e[j]));
    return count == 4   ? v_add(v_add(e[0], e[1]), v_add(e[2], e[3]))
           : count == 2 ? v_add(e[0], e[1])
                        : e[0];
}

/* Exponentials and sums relative to sums->top: of fours in a tree; the additions of these lose
 * nothing. */
KERNEL_INLINE void NAME(sum_columns)(NAME(lane_columns) columns, int classes, vec labels,
                                     const NAME(exponent_scale) * scale, REAL (*place)[LANES],
                                     NAME(index_sums) * sums, int is_exact) {
    const NAME(exponential_reference) reference =
        NAME(reference_for)(NAME(reference_exponent)(sums->top, scale), scale);
    sums->label_logit = v_splat(0);
    sums->others = sums->exp_of_label = sums->exp_of_maximum = NAME(zero_pair)();
    EACH_CLASS(classes, labels,
               const vec sum = NAME(some_index_exponentials)(columns, k, count, from_k, &reference,
                                                             place, sums, is_exact);
               if (k == 0) sums->others.high = sum; else NAME(pair_add)(&sums->others, sum));
    if (!is_exact)
        return;
    const vec ends[2] = {sums->label_logit, sums->top};
    vec exponentials[2], dropped[2];
    for (int j = 0; j < 2; j += INTERLEAVED)
        NAME(scaled_exponentials)(ends + j, INTERLEAVED < 2 ? 1 : 2, reference, exponentials + j,
                                  dropped + j);
    sums->exp_of_label.high = exponentials[0];
    sums->exp_of_label.low = dropped[0];
    sums->exp_of_maximum.high = exponentials[1];
    sums->exp_of_maximum.low = dropped[1];
}

/* First class that has the maximum. */
KERNEL_INLINE vec NAME(first_of_columns)(NAME(lane_columns) columns, int classes, vec maximum) {
    vec first = v_splat(-1);
    for (int k = classes - 1; k >= 0; --k)
        first = v_select(v_equal(NAME(load_column)(columns, k), maximum), v_splat((REAL)k), first);
    return first;
}

/* log of the sum of all exponentials over the maximum's: the same whatever the label is. */
KERNEL_INLINE vec NAME(log_of_columns)(REAL (*place)[LANES], int classes, vec first_maximum,
                                       vec exp_of_maximum) {
    NAME(pair) total = NAME(zero_pair)();
    EACH_CLASS(classes, first_maximum, vec e[4];
               EACH_OF(count, e[j] = v_drop(v_equal(from_k, v_splat(j)), v_load(place[k + j])));
               const vec sum = count == 4   ? v_add(v_add(e[0], e[1]), v_add(e[2], e[3]))
                               : count == 2 ? v_add(e[0], e[1])
                                            : e[0];
               NAME(pair_add)(&total, sum));
    return NAME(log_of_1_plus_rounded)(v_div(v_add(total.high, total.low), exp_of_maximum));
}

/* a / b as one number; `is_exact` says whether low parts count. */
KERNEL_INLINE vec NAME(rounded_quotient)(NAME(pair) a, NAME(pair) b, int is_exact) {
    if (!is_exact)
        return v_div(a.high, b.high);
    const NAME(pair) ratio = NAME(quotient)(a, b, NAME(inverse_of)(b));
    return v_add(ratio.high, ratio.low);
}

/* R */
KERNEL_INLINE vec NAME(index_ratio)(const NAME(index_sums) * sums, vec_mask leads, int is_exact) {
    NAME(pair) rest = sums->others;
    rest.high =
        v_select(leads, rest.high,
                 v_add(v_sub(rest.high, sums->exp_of_maximum.high), sums->exp_of_label.high));
    return NAME(rounded_quotient)(rest, sums->exp_of_maximum, is_exact);
}

/* Losses for a weight of 1, without the z-loss, of R and (m - x_y) / T. */
KERNEL_INLINE vec NAME(index_losses)(vec ratio, vec distance) {
    return v_add(distance, NAME(log_of_1_plus_rounded)(ratio));
}

/* What exponentials are multiplied by; the gradient of the label's class, and of others that are as
 * large as the maximum's. */
typedef struct {
    vec of_exponentials, of_label, of_maximum;
} NAME(index_factors);

KERNEL_INLINE NAME(index_factors)
    NAME(index_factors_of)(const NAME(index_sums) * sums, vec_mask leads, NAME(pair) weight,
                           int is_exact) {
    NAME(pair) others = sums->others;
    NAME(index_factors) factors;
    if (!is_exact) {
        factors.of_exponentials = v_div(weight.high, v_add(others.high, sums->exp_of_label.high));
        factors.of_label = v_mul(v_sub(v_splat(0), others.high), factors.of_exponentials);
        return factors;
    }
    others.low = v_add(others.low, v_drop(leads, sums->exp_of_maximum.low));
    NAME(pair) sum = others;
    NAME(pair_add_pair)(&sum, sums->exp_of_label);
    const NAME(pair) factor = NAME(quotient)(weight, sum, NAME(inverse_of)(sum));
    const vec low = v_fma(others.high, factor.low, v_mul(others.low, factor.high));
    factors.of_exponentials = v_add(factor.high, factor.low);
    factors.of_label = v_sub(v_splat(0), v_fma(others.high, factor.high, low));
    return factors;
}

/* F e_m, and no larger than `weight`: p of the maximum is at most 1, though e_m and F may both have
 * been rounded up. */
KERNEL_INLINE vec NAME(gradient_of_maximum)(vec exp_of_maximum, vec factor, vec weight) {
    const vec grad = v_mul(exp_of_maximum, factor);
    return v_select(v_greater(NAME(magnitude)(grad), NAME(magnitude)(weight)), weight, grad);
}

/* The gradient of as many in place of their exponentials, to `destination`. */
KERNEL_INLINE void NAME(some_index_gradients)(REAL (*place)[LANES], int k, int count, vec labels,
                                              NAME(index_factors) factors, vec exp_of_maximum,
                                              int is_bounded, char *destination, ptrdiff_t step) {
    EACH_OF(count, const vec e = v_load(place[k + j]); vec grad = v_mul(e, factors.of_exponentials);
            if (is_bounded) grad = v_select(v_equal(e, exp_of_maximum), factors.of_maximum, grad);
            v_store((REAL *)(void *)(destination + (k + j) * step),
                    v_select(v_equal(labels, v_splat(j)), factors.of_label, grad)));
}

/* All of them.  Only where F e_m is larger than the weight are there others than e F. */
KERNEL_INLINE void NAME(index_gradients)(REAL (*place)[LANES], int classes, vec labels,
                                         NAME(index_factors) factors, vec exp_of_maximum,
                                         vec weight, int is_exact, char *destination,
                                         ptrdiff_t step) {
    factors.of_maximum = NAME(gradient_of_maximum)(exp_of_maximum, factors.of_exponentials, weight);
    const vec product = v_mul(exp_of_maximum, factors.of_exponentials);
    if (is_exact && v_mask_bits(v_equal(product, factors.of_maximum)) != (1u << LANES) - 1)
        EACH_CLASS(classes, labels,
                   NAME(some_index_gradients)(place, k, count, from_k, factors, exp_of_maximum, 1,
                                              destination, step));
    else
        EACH_CLASS(classes, labels,
                   NAME(some_index_gradients)(place, k, count, from_k, factors, exp_of_maximum, 0,
                                              destination, step));
}

/* A vector of rows: where it stands in the batch, and its numbers. */
typedef struct {
    const xent_batch *batch;
    const NAME(settings) * settings;
    const int64_t *label_values;
    int64_t first_row;
    int row_count, classes;
    vec labels;
    unsigned counts; /* bit k for lane k: a row with a label */
} NAME(lane_rows);

/* Rows that are taken as double_rows.h says, known before their exponentials. */
static NEVER_INLINE unsigned NAME(leaving_index_lanes)(REAL (*columns)[LANES],
                                                       const NAME(lane_rows) * rows,
                                                       const NAME(lane_weights) * weights) {
    const NAME(settings) *settings = rows->settings;
    vec maximum = v_splat(-INFINITY);
    if (settings->all_leave)
        return (1u << LANES) - 1;
    if (settings->row.output != XENT_GRADIENT)
        return 0;
    for (int k = 0; k < rows->classes; ++k)
        maximum = v_max(v_load(columns[k]), maximum);
    const vec factor = v_mul(NAME(magnitude)(weights->gradient_weight.high), weights->last_factor);
    return NAME(lanes_out_of_reach)(columns, rows->classes, maximum, factor, factor,
                                    &settings->scale);
}

/* a times losses that are finite numbers, in double. */
KERNEL_INLINE void NAME(weigh_plain_losses)(vec loss, const double *weight, double *losses) {
#if REAL_BITS == 32
    v_store_f64(losses, v_mul_f64(v_load_f64(weight), v_low_half_as_f64(loss)));
    v_store_f64(losses + LANES / 2,
                v_mul_f64(v_load_f64(weight + LANES / 2), v_high_half_as_f64(loss)));
#else
    v_store(losses, v_mul(v_load(weight), loss));
#endif
}

/* What takes the place of losses that are not plain numbers of the lanes' type: NaN, and in double
 * those too small for it. */
static NEVER_INLINE void NAME(mend_losses)(const NAME(index_sums) * sums, vec loss,
                                           vec_mask is_number, int has_tiny, const double *weight,
                                           double *losses) {
    ALIGNED_64 REAL others[LANES], exp_of_label[LANES], numbers[LANES];
    v_store(others, sums->others.high);
    v_store(exp_of_label, sums->exp_of_label.high);
    v_store(numbers, v_select(is_number, loss, v_splat(NAN)));
    for (int lane = 0; lane < LANES; ++lane) {
        double number = (double)numbers[lane];
        if (has_tiny && number < (double)TINY_LOSS && others[lane] > 0)
            number = (double)others[lane] / (double)exp_of_label[lane];
        /* no 0 * inf; a zero keeps the sign that weigh_plain_losses would give it */
        losses[lane] = weight[lane] == 0 && number == number ? weight[lane] : weight[lane] * number;
    }
}

/* Loss and, if asked for, statistics, gradient and, where `curvature` is not NULL, second
 * derivatives of a vector of rows. */
KERNEL_INLINE void NAME(take_index_rows)(const NAME(lane_rows) * rows,
                                         const NAME(lane_weights) * weights, double *row_loss,
                                         const NAME(curvature_writer) * curvature, int is_exact) {
    const xent_batch *batch = rows->batch;
    const NAME(settings) *settings = rows->settings;
    const int classes = rows->classes;
    const unsigned all = (1u << LANES) - 1;
    const vec labels = rows->labels;
    const char *logits = batch->logits + rows->first_row * batch->logits_row_stride;
    ALIGNED_64 REAL place[MOST_CLASSES_ALONG_ROWS][LANES];
    const NAME(lane_columns) columns = {(const char *)place, sizeof place[0]};
    NAME(index_sums) sums;
    unsigned leaving = 0;

    NAME(load_columns)(place, logits, batch->logits_row_stride, batch->logits_class_stride,
                       rows->row_count, classes);
    if (rows->counts != all)
        NAME(clear_rows_without_label)(place, classes, labels);
    if (weights->may_leave)
        leaving = NAME(leaving_index_lanes)(place, rows, weights);
    sums.maximum = NAME(maximum_of_columns)(columns, classes);
    vec base = sums.maximum, shift = v_splat(0), first_maximum = v_splat(-1);
    if (settings->wants_prediction || settings->row.wants_lse)
        first_maximum = NAME(first_of_columns)(columns, classes, sums.maximum);
    if (v_mask_bits(v_greater(NAME(magnitude)(base), v_splat(settings->scale.huge_logit)))) {
        base = NAME(finite_maximum)(base);
        shift = NAME(shift_huge_columns)(place, classes, base, settings->scale.huge_logit);
    }
    sums.top = v_sub(base, shift);
    NAME(sum_columns)(columns, classes, labels, &settings->scale, place, &sums, is_exact);

    const vec_mask leads = v_equal(sums.label_logit, sums.top);
    NAME(pair) weight = weights->gradient_weight;
    const int is_softmax = settings->row.output == XENT_PROBABILITIES;
    if (is_softmax) {
        weight.high = v_splat(1);
        weight.low = v_splat(0);
    }
    NAME(index_factors) factors = NAME(index_factors_of)(&sums, leads, weight, is_exact);
    const vec distance =
        NAME(over_temperature)(v_sub(sums.top, sums.label_logit), settings->row.temperature);
    vec loss = NAME(index_losses)(NAME(index_ratio)(&sums, leads, is_exact), distance),
        lse = v_splat(0);
    if (settings->row.wants_lse)
        lse = v_add(NAME(over_temperature)(sums.maximum, settings->row.temperature),
                    NAME(log_of_columns)(place, classes, first_maximum, sums.exp_of_maximum.high));
    if (settings->row.z_loss != 0) {
        const vec z = v_splat((REAL)settings->row.z_loss), slope = v_mul(v_add(z, z), lse);
        loss = v_fma(v_mul(z, lse), lse, loss);
        factors.of_label =
            v_fma(v_mul(slope, sums.exp_of_label.high), factors.of_exponentials, factors.of_label);
        factors.of_exponentials = v_fma(slope, factors.of_exponentials, factors.of_exponentials);
        weight.high = v_fma(slope, weight.high, weight.high);
    }
    if (is_softmax)
        factors.of_label = v_mul(sums.exp_of_label.high, factors.of_exponentials);

    const vec finite = v_keep(v_greater(v_splat(INFINITY), loss), loss);
    if (rows->counts == all && v_mask_bits(v_greater(finite, v_splat((REAL)TINY_LOSS))) == all) {
        NAME(weigh_plain_losses)(loss, weights->of_loss, row_loss);
    } else {
        const vec_mask is_number = v_greater(
            v_keep(v_equal(base, sums.maximum), v_add(sums.others.high, sums.exp_of_label.high)),
            v_splat(0));
        ALIGNED_64 double losses[LANES];
        NAME(mend_losses)(&sums, loss, is_number, REAL_BITS == 32 && settings->row.z_loss == 0,
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
            for (int k = 0; k < classes; ++k)
                v_store(place[k], v_select(is_number, v_load(place[k]), v_splat(NAN)));
        }
        if (rows->counts != all)
            factors.of_exponentials =
                v_keep(v_not_less(labels, v_splat(0)), factors.of_exponentials);
    }
    if (batch->lse || batch->prediction)
        NAME(tell_lanes)(batch, rows->first_row, rows->row_count, labels, lse, first_maximum, 1);
    if (curvature) {
        const NAME(curved_rows) curved = {place,
                                          classes,
                                          rows->row_count,
                                          rows->first_row,
                                          labels,
                                          rows->label_values,
                                          v_add(sums.others.high, sums.exp_of_label.high),
                                          sums.exp_of_maximum.high};
        NAME(write_curvature)(curvature, &curved);
    }
    if (batch->grad)
        NAME(index_gradients)(place, classes, labels, factors, sums.exp_of_maximum.high,
                              weight.high, is_exact, (char *)place, sizeof place[0]);
    if (batch->grad && weights->is_rescaled && !is_softmax)
        for (int k = 0; k < classes; ++k)
            v_store(place[k], v_mul(v_load(place[k]), weights->last_factor));
    if (leaving)
        NAME(take_leaving_rows)(batch, rows->first_row, rows->row_count, leaving,
                                rows->label_values, batch->grad ? place : NULL, row_loss,
                                XENT_INDEX_TARGETS);
    if (batch->grad)
        NAME(store_columns)(place, batch->grad + rows->first_row * batch->grad_row_stride,
                            batch->grad_row_stride, batch->grad_class_stride, rows->row_count,
                            classes);
}

static NEVER_INLINE void NAME(take_two_or_three_classes)(const NAME(lane_rows) * rows,
                                                         const NAME(lane_weights) * weights,
                                                         double *row_loss,
                                                         const NAME(curvature_writer) * curvature) {
    NAME(take_index_rows)(rows, weights, row_loss, curvature, 0);
}

static NEVER_INLINE void NAME(take_more_classes)(const NAME(lane_rows) * rows,
                                                 const NAME(lane_weights) * weights,
                                                 double *row_loss,
                                                 const NAME(curvature_writer) * curvature) {
    NAME(take_index_rows)(rows, weights, row_loss, curvature, 1);
}

KERNEL_INLINE void NAME(take_any_rows)(const NAME(lane_rows) * rows,
                                       const NAME(lane_weights) * weights, double *row_loss,
                                       const NAME(curvature_writer) * curvature) {
    if (rows->classes == 2 || rows->classes == 3)
        NAME(take_two_or_three_classes)(rows, weights, row_loss, curvature);
    else
        NAME(take_more_classes)(rows, weights, row_loss, curvature);
}

/* Plain rows: a whole vector of them, which all count, of a batch of which nothing but losses,
 * gradients and the diagonal is asked for, in one layout; their weights neither leave the lanes nor
 * are rescaled.  They take the same operations as any others, but each step of some vectors before
 * the next. */
KERNEL_INLINE int NAME(is_plain_batch)(const xent_batch *batch,
                                       const NAME(curvature_writer) * curvature) {
    const int has_columns = NAME(has_columns)(batch->logits_class_stride);
    if (curvature &&
        (curvature->vector || has_columns != NAME(has_columns)(curvature->result_class_stride)))
        return 0;
    return batch->output == XENT_GRADIENT && batch->temperature == 1 && batch->z_loss == 0 &&
           !batch->lse && !batch->prediction &&
           (!batch->grad || has_columns == NAME(has_columns)(batch->grad_class_stride));
}

typedef struct {
    /* logits that were turned, exponentials, gradients */
    ALIGNED_64 REAL place[MOST_CLASSES_ALONG_ROWS][LANES];
    NAME(index_sums) sums;
    NAME(index_factors) factors;
    NAME(pair) weight;
    vec labels;
    int64_t row;  /* among those of the call */
    int is_taken; /* whether these are plain indeed */
} NAME(plain_vector);

/* R and m - x_y of a call's plain rows.  Their logarithms come last, for the same reason. */
typedef struct {
    ALIGNED_64 REAL ratio[XENT_MAX_ROWS_PER_CALL + LANES], distance[XENT_MAX_ROWS_PER_CALL + LANES];
    int64_t row[XENT_MAX_ROWS_PER_CALL / LANES + 1]; /* the first of each vector */
    int vectors;
} NAME(plain_losses);

/* Loads and sums up; a huge logit is not plain. */
KERNEL_INLINE void NAME(sum_plain_rows)(NAME(plain_vector) * rows, const xent_batch *batch,
                                        int64_t first_row, int classes, int is_exact,
                                        int has_columns) {
    const NAME(exponent_scale) scale = NAME(unit_scale)();
    const char *logits = batch->logits + (first_row + rows->row) * batch->logits_row_stride;
    NAME(lane_columns) columns = {logits, batch->logits_class_stride};
    NAME(index_sums) sums;
    if (!has_columns) {
        NAME(load_columns)(rows->place, logits, batch->logits_row_stride, 0, LANES, classes);
        columns.first = (const char *)rows->place;
        columns.step = sizeof rows->place[0];
    }
    sums.top = sums.maximum = NAME(maximum_of_columns)(columns, classes);
    rows->is_taken =
        v_mask_bits(v_greater(NAME(magnitude)(sums.top), v_splat(scale.huge_logit))) == 0;
    NAME(sum_columns)(columns, classes, rows->labels, &scale, rows->place, &sums, is_exact);
    rows->sums = sums;
}

/* Losses that are tiny, infinite or NaN are not plain. */
KERNEL_INLINE void NAME(settle_plain_rows)(NAME(plain_vector) * rows, NAME(plain_losses) * losses,
                                           int is_exact) {
    const vec_mask leads = v_equal(rows->sums.label_logit, rows->sums.top);
    const vec ratio = NAME(index_ratio)(&rows->sums, leads, is_exact);
    const vec distance = v_sub(rows->sums.top, rows->sums.label_logit);
    /* at most twice a loss that is small, infinite where it is, and NaN */
    const vec about = v_add(ratio, distance);
    const vec finite = v_keep(v_greater(v_splat(INFINITY), about), about);
    rows->is_taken &=
        v_mask_bits(v_greater(finite, v_splat((REAL)(2 * TINY_LOSS)))) == (1u << LANES) - 1;
    rows->factors = NAME(index_factors_of)(&rows->sums, leads, rows->weight, is_exact);
    v_store(losses->ratio + rows->row, ratio);
    v_store(losses->distance + rows->row, distance);
}

/* The diagonal of plain rows, whose exponentials still stand in their place. */
KERNEL_INLINE void NAME(write_plain_curvature)(NAME(plain_vector) * rows,
                                               const NAME(curvature_writer) * curvature,
                                               int64_t first_row, int classes, int has_columns) {
    ALIGNED_64 REAL columns[MOST_CLASSES_ALONG_ROWS][LANES];
    char *result = curvature->result + (first_row + rows->row) * curvature->result_row_stride;
    const vec weight = v_load(curvature->weights + (curvature->has_own_weights ? rows->row : 0));
    const vec total = v_add(rows->sums.others.high, rows->sums.exp_of_label.high);
    const NAME(curved_rows) curved = {rows->place,  classes, LANES, first_row + rows->row,
                                      rows->labels, NULL,    total, rows->sums.exp_of_maximum.high};
    if (has_columns) {
        NAME(diagonal_columns)(&curved, weight, v_splat(curvature->least), result,
                               curvature->result_class_stride, 4 * LANES * (ptrdiff_t)sizeof(REAL));
        return;
    }
    NAME(diagonal_columns)(&curved, weight, v_splat(curvature->least), (char *)columns,
                           sizeof columns[0], 0);
    NAME(store_columns)(columns, result, curvature->result_row_stride, 0, LANES, classes);
}

/* Whether the lanes hold the weights of the diagonal of the vector of rows that begins at `row` of
 * a call. */
KERNEL_INLINE int NAME(has_plain_curvature)(const NAME(curvature_writer) * curvature, int64_t row) {
    const vec weight = v_load(curvature->weights + (curvature->has_own_weights ? row : 0));
    return v_mask_bits(v_not_less(NAME(magnitude)(weight), v_splat(LARGEST_HERE))) == 0;
}

KERNEL_INLINE void NAME(write_plain_rows)(NAME(plain_vector) * rows, const xent_batch *batch,
                                          int64_t first_row, int classes, int is_exact,
                                          int has_columns) {
    char *grad = batch->grad + (first_row + rows->row) * batch->grad_row_stride;
    NAME(index_gradients)(
        rows->place, classes, rows->labels, rows->factors, rows->sums.exp_of_maximum.high,
        rows->weight.high, is_exact, has_columns ? grad : (char *)rows->place,
        has_columns ? batch->grad_class_stride : (ptrdiff_t)sizeof rows->place[0]);
    if (!has_columns)
        NAME(store_columns)(rows->place, grad, batch->grad_row_stride, 0, LANES, classes);
}

/* `count` vectors of them; those that are not taken are as they were. */
KERNEL_INLINE void NAME(take_plain_rows)(NAME(plain_vector) * rows, int count,
                                         const xent_batch *batch, int64_t first_row,
                                         NAME(plain_losses) * losses,
                                         const NAME(curvature_writer) * curvature, int classes,
                                         int is_exact, int has_columns) {
    for (int j = 0; j < count; ++j)
        NAME(sum_plain_rows)(&rows[j], batch, first_row, classes, is_exact, has_columns);
    for (int j = 0; j < count; ++j)
        NAME(settle_plain_rows)(&rows[j], losses, is_exact);
    for (int j = 0; j < count; ++j) {
        if (!rows[j].is_taken)
            continue;
        losses->row[losses->vectors++] = rows[j].row;
        if (curvature)
            NAME(write_plain_curvature)(&rows[j], curvature, first_row, classes, has_columns);
        if (batch->grad)
            NAME(write_plain_rows)(&rows[j], batch, first_row, classes, is_exact, has_columns);
    }
}

/* Their losses.  Each row's weight is `weight`'s or, where that is NULL, lies in the loss's
 * place. */
KERNEL_INLINE void NAME(finish_plain_rows)(const NAME(plain_losses) * losses, const double *weight,
                                           double *row_loss) {
    for (int j = 0; j < losses->vectors; ++j) {
        const int64_t row = losses->row[j];
        const vec loss =
            NAME(index_losses)(v_load(losses->ratio + row), v_load(losses->distance + row));
        NAME(weigh_plain_losses)(loss, weight ? weight : row_loss + row, row_loss + row);
    }
}

KERNEL_INLINE NAME(lane_rows)
    NAME(lane_rows_at)(const xent_batch *batch, const NAME(settings) * settings,
                       const int64_t *labels, int64_t first_row, int row_count) {
    const unsigned all = (1u << LANES) - 1;
    NAME(lane_rows)
    rows = {batch,
            settings,
            labels,
            first_row,
            row_count,
            (int)batch->classes,
            NAME(lane_labels)(&batch->labels, labels, row_count),
            all};
    if (row_count < LANES || batch->labels.has_ignore_index)
        rows.counts = v_mask_bits(v_not_less(rows.labels, v_splat(0)));
    return rows;
}

/* Their weights; whether those of a plain batch may be plain with them. */
KERNEL_INLINE int NAME(weigh_index_rows)(const xent_batch *batch, const NAME(settings) * settings,
                                         int64_t first_row, int row_count, const int64_t *labels,
                                         NAME(lane_weights) * weights) {
    NAME(weights_of_rows)(batch, first_row, row_count, labels, XENT_INDEX_TARGETS, weights);
    weights->may_leave |= settings->all_leave;
    return !weights->may_leave && !weights->is_rescaled;
}

/* Vectors of rows, `most` of them at a time as far as they are plain. */
KERNEL_INLINE void NAME(index_rows_of)(const xent_batch *batch, int64_t first_row,
                                       int64_t row_count, int classes, const int64_t *labels,
                                       double *row_loss, const NAME(curvature_writer) * curvature,
                                       int is_exact, int most) {
    const int has_own_weights = NAME(has_own_weights)(batch) || batch->class_weight != NULL;
    const int is_plain_batch = NAME(is_plain_batch)(batch, curvature);
    const int has_columns = NAME(has_columns)(batch->logits_class_stride);
    const NAME(settings) settings = NAME(settings_of)(batch);
    NAME(lane_weights) weights;
    NAME(plain_vector) plain[VECTORS_AT_ONCE];
    NAME(plain_losses) losses;
    losses.vectors = 0;
    int is_plain = 0;
    if (!has_own_weights)
        is_plain = NAME(weigh_index_rows)(batch, &settings, first_row, LANES, labels, &weights) &&
                   is_plain_batch;
    int count = NAME(rows_of_first_vector)(batch, first_row);
    for (int64_t k = 0; k < row_count;) {
        int vectors = 0;
        for (; k < row_count && vectors < most; k += count, count = LANES) {
            if (row_count - k < count)
                count = (int)(row_count - k);
            if (has_own_weights)
                is_plain = NAME(weigh_index_rows)(batch, &settings, first_row + k, count,
                                                  labels + k, &weights) &&
                           is_plain_batch;
            const NAME(lane_rows) rows =
                NAME(lane_rows_at)(batch, &settings, labels + k, first_row + k, count);
            if (!is_plain || rows.counts != (1u << LANES) - 1 ||
                (curvature && !NAME(has_plain_curvature)(curvature, k))) {
                NAME(take_any_rows)(&rows, &weights, row_loss + k, curvature);
                continue;
            }
            if (has_own_weights)
                memcpy(row_loss + k, weights.of_loss, sizeof weights.of_loss);
            plain[vectors].labels = rows.labels;
            plain[vectors].weight = weights.gradient_weight;
            plain[vectors++].row = k;
        }
        if (has_columns)
            NAME(take_plain_rows)(plain, vectors, batch, first_row, &losses, curvature, classes,
                                  is_exact, 1);
        else
            NAME(take_plain_rows)(plain, vectors, batch, first_row, &losses, curvature, classes,
                                  is_exact, 0);
        for (int j = 0; j < vectors; ++j) {
            if (plain[j].is_taken)
                continue;
            const int64_t row = plain[j].row;
            const NAME(lane_rows) rows =
                NAME(lane_rows_at)(batch, &settings, labels + row, first_row + row, LANES);
            if (has_own_weights)
                NAME(weigh_index_rows)(batch, &settings, first_row + row, LANES, labels + row,
                                       &weights);
            NAME(take_any_rows)(&rows, &weights, row_loss + row, curvature);
        }
    }
    NAME(finish_plain_rows)(&losses, has_own_weights ? NULL : weights.of_loss, row_loss);
}

/* The fewest classes, of which every vector of rows is a matter of some tens of instructions, have
 * code of their own, and processors find the next vector by themselves. `labels` has a whole vector
 * from each row on. */
KERNEL_INLINE void NAME(index_rows_with)(const xent_batch *batch, int64_t first_row,
                                         int64_t row_count, const int64_t *labels, double *row_loss,
                                         const NAME(curvature_writer) * curvature) {
    if (batch->classes == 2)
        NAME(index_rows_of)(batch, first_row, row_count, 2, labels, row_loss, curvature, 0, 1);
    else if (batch->classes == 3)
        NAME(index_rows_of)(batch, first_row, row_count, 3, labels, row_loss, curvature, 0, 1);
    else
        NAME(index_rows_of)(batch, first_row, row_count, (int)batch->classes, labels, row_loss,
                            curvature, 1, VECTORS_AT_ONCE);
}

KERNEL_INLINE void NAME(many_index_rows)(const xent_batch *batch, int64_t first_row,
                                         int64_t row_count, const int64_t *labels,
                                         double *row_loss) {
    NAME(index_rows_with)(batch, first_row, row_count, labels, row_loss, NULL);
}

/* With second derivatives. */
static NEVER_INLINE void NAME(index_rows_and_curvature)(const xent_batch *batch, int64_t first_row,
                                                        int64_t row_count, const int64_t *labels,
                                                        double *row_loss,
                                                        const NAME(curvature_writer) * curvature) {
    NAME(index_rows_with)(batch, first_row, row_count, labels, row_loss, curvature);
}
