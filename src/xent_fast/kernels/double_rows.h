/* Rows that the lanes' own type cannot hold.  A template over REAL_BITS.
 *
 * Knows: the formula of contract.h, for one row of any layout and target kind, with exponents of
 * any size (far.h).
 * Must not know: lanes, blocks, instruction sets, threads, Python.
 *
 * The kernels send a row here by a test that costs them next to nothing (`leaves_lanes`, and a loss
 * that is no finite number): one whose masses, weights or distances leave the range of its type on
 * the way to a result that does not, or whose vanishing probabilities a large weight makes visible.
 *
 * `far_row` gives the row's loss with its weight, and writes lse, if asked for, and the row of the
 * output.  It reads logits and targets as they lie in memory, so it must come before anything else
 * is written there.  `output` may be that place: each class is read for the last time before its
 * own place is written.  Everything is far: only the exponentials, off by a unit of 2^-53, and the
 * last rounding show, and the bits are the same wherever there is fused multiply-add.
 *
 *     e = exp((x - m) / T)      O = sum of e but for the first maximum's      S = 1 + O
 *     log_sum = log1p(O)
 *     loss = a (Q log_sum + sum q (m - x) / T + z lse^2)                      lse = m / T + log_sum
 *     grad = a / T ((Q + 2 z lse) e / S - q)                                  of the first maximum:
 *     grad_m = a / T ((Q - q_m + 2 z lse) - q_m O) / S                        Q - q_m is a sum, too
 */

/* How far below the maximum a probability is flushed to 0 though the row's factor makes it
 * visible. */
typedef struct {
    vec nearest, farthest;
} reach_limits;

KERNEL_INLINE reach_limits reach_of(vec factor, const exponent_scale *scale) {
    const vec flushed = v_splat(EXPONENT_BIAS - 3 + SCALE_UP),
              visible = v_splat(EXPONENT_BIAS + 2 + SIGNIFICAND_SHIFT);
    const reach_limits reach = {v_mul(flushed, v_splat(scale->ln_2)),
                                v_mul(v_add(visible, v_exponent(factor)), v_splat(scale->ln_2))};
    return reach;
}

/* Of a class that lies `distance` below the maximum. */
KERNEL_INLINE vec_mask is_out_of_reach(vec distance, const reach_limits *reach) {
    return v_greater(v_keep(v_greater(distance, reach->nearest), reach->farthest), distance);
}

/* One row and its numbers. */
typedef struct {
    const xent_batch *batch;
    int64_t at, classes, label;
    int kind;
    int64_t pivot; /* the first maximum */
    REAL maximum;
    far over_temperature, share, floor;           /* 1 / T, 1 - E, E / C */
    far others, other_mass, pivot_mass, distance; /* O, Q - q_m, q_m, sum of q (m - x) / T */
} far_row;

KERNEL_INLINE REAL far_logit(const far_row *row, int64_t k) {
    return number_at(&row->batch->logits, row->at, k);
}

/* (x - m) / T of class k */
static NEVER_INLINE far far_distance(const far_row *row, int64_t k) {
    const REAL x = far_logit(row, k);
    return far_product(far_sum(far_of((double)x), far_of(-(double)row->maximum)),
                       row->over_temperature);
}

/* q of class k, for a row weight of 1 */
static NEVER_INLINE far far_mass(const far_row *row, int64_t k) {
    far mass = far_of(0), weight = far_of(1);
    if (row->batch->class_weight)
        weight = far_of((double)((const REAL *)(const void *)row->batch->class_weight)[k]);
    if (row->batch->dense_targets.data)
        mass = far_of((double)number_at(&row->batch->dense_targets, row->at, k));
    if (row->kind == XENT_DENSE_TARGETS)
        return mass;
    if (row->kind == XENT_SHAPED_TARGETS)
        mass = far_product(row->share, mass);
    else if (k == row->label)
        mass = row->kind == XENT_INDEX_TARGETS ? far_of(1) : row->share;
    if (row->kind != XENT_INDEX_TARGETS)
        mass = far_sum(mass, row->floor);
    return mass.high == 0 ? mass : far_product(mass, weight);
}

static NEVER_INLINE far_row far_row_at(const xent_batch *batch, int64_t at, int64_t label,
                                       int kind) {
    far_row row;
    row.batch = batch;
    row.at = at;
    row.classes = batch->classes;
    row.label = label;
    row.kind = kind;
    row.over_temperature = far_quotient(far_of(1), far_of(batch->options.temperature));
    row.share = far_of(1 - batch->options.label_smoothing);
    row.floor =
        far_quotient(far_of(batch->options.label_smoothing), far_of((double)batch->classes));
    row.pivot = 0;
    row.maximum = far_logit(&row, 0);
    for (int64_t k = 1; k < row.classes; ++k) {
        const REAL x = far_logit(&row, k);
        if (x > row.maximum) {
            row.maximum = x;
            row.pivot = k;
        }
    }
    return row;
}

/* The sums over classes. */
static NEVER_INLINE void add_far_classes(far_row *row) {
    row->others = row->other_mass = row->pivot_mass = row->distance = far_of(0);
    for (int64_t k = 0; k < row->classes; ++k) {
        const far below = far_distance(row, k), mass = far_mass(row, k);
        if (k == row->pivot) {
            row->pivot_mass = mass;
            continue;
        }
        row->others = far_sum(row->others, far_exponential(below));
        row->other_mass = far_sum(row->other_mass, mass);
        if (mass.high != 0) /* 0 * inf = 0 */
            row->distance = far_sum(row->distance, far_minus(far_product(mass, below)));
    }
}

/* Loss of row `at` of a batch, whose maximum is a finite number and none of whose logits is NaN;
 * the output to `output`, a class every `step` numbers, unless that is NULL. */
static NEVER_INLINE double loss_of_far_row(const xent_batch *batch, int64_t at, int64_t label,
                                           int kind, REAL *output, ptrdiff_t step) {
    far_row row = far_row_at(batch, at, label, kind);
    far weight = far_of(batch->weight_factor);
    XENT_ASSERT(isfinite(row.maximum) && (!HAS_LABELS(kind) || label < row.classes));
    add_far_classes(&row);
    if (batch->sample_weight)
        weight = far_product(weight, far_of(batch->sample_weight[at]));
    const far log_sum = far_log_of_1_plus(row.others), total = far_sum(far_of(1), row.others);
    const far mass = far_sum(row.other_mass, row.pivot_mass);
    const far lse =
        far_sum(far_product(far_of((double)row.maximum), row.over_temperature), log_sum);
    const far_lse_terms terms = far_lse_terms_of(&batch->options, lse);
    far loss = far_sum(far_product(mass, log_sum), row.distance);
    if (lse_counts(&batch->options))
        loss = far_sum(loss, terms.loss);
    if (batch->lse)
        ((REAL *)(void *)batch->lse)[at] = (REAL)far_value(lse);
    if (batch->prediction)
        batch->prediction[at] = row.pivot;
    far steepness = far_product(weight, row.over_temperature);
    if (batch->grad_output)
        steepness =
            far_product(steepness, far_of(batch->grad_output[at * batch->grad_output_step]));
    for (int64_t k = 0; output && k < row.classes; ++k) {
        const far below = far_distance(&row, k), e = far_exponential(below),
                  own = far_mass(&row, k);
        far value = far_quotient(e, total);
        if (batch->output == XENT_LOG_PROBABILITIES) {
            value = far_sum(below, far_minus(log_sum));
        } else if (batch->output == XENT_GRADIENT) {
            if (k == row.pivot)
                value = far_quotient(far_sum(far_sum(row.other_mass, terms.slope),
                                             far_minus(far_product(own, row.others))),
                                     total);
            else
                value = far_sum(far_product(far_sum(mass, terms.slope), value), far_minus(own));
            value = far_product(steepness, value);
        }
        output[k * step] = (REAL)far_value(value);
    }
    return weight.high == 0 ? 0 : far_value(far_product(weight, loss));
}

/* The loss's Hessian of row `at`, a row as above: times `vector`, or its diagonal where that is
 * NULL (second_order.h has the formulas).  `result`, classes side by side like those of the vector,
 * may be the place of either. */
static NEVER_INLINE void curvature_of_far_row(const xent_batch *batch, int64_t at, int64_t label,
                                              int kind, const REAL *vector, REAL *result) {
    far_row row = far_row_at(batch, at, label, kind);
    add_far_classes(&row);
    const far total = far_sum(far_of(1), row.others), log_sum = far_log_of_1_plus(row.others);
    const far lse =
        far_sum(far_product(far_of((double)row.maximum), row.over_temperature), log_sum);
    const far_lse_terms terms = far_lse_terms_of(&batch->options, lse);
    const far mass = far_sum(far_sum(row.other_mass, row.pivot_mass), terms.slope);
    far weight = far_product(far_of(batch->weight_factor),
                             far_product(row.over_temperature, row.over_temperature));
    if (batch->sample_weight)
        weight = far_product(weight, far_of(batch->sample_weight[at]));
    const far likeliest = far_of(vector ? (double)vector[row.pivot] : 0);
    far mean = far_of(0);
    for (int64_t k = 0; vector && k < row.classes; ++k) {
        const far above = far_sum(far_of((double)vector[k]), far_minus(likeliest));
        mean = far_sum(mean, far_product(far_exponential(far_distance(&row, k)), above));
    }
    mean = far_quotient(mean, total);
    for (int64_t k = 0; k < row.classes; ++k) {
        const far e = k == row.pivot ? far_of(1) : far_exponential(far_distance(&row, k));
        const far p = far_quotient(e, total);
        far first, second = p; /* the factors of A p and of 2 z p */
        if (vector) {
            first =
                far_sum(far_sum(far_of((double)vector[k]), far_minus(likeliest)), far_minus(mean));
            second = far_sum(likeliest, mean);
        } else {
            first = far_quotient(k == row.pivot ? row.others : far_sum(total, far_minus(e)), total);
        }
        const far value =
            far_product(p, far_sum(far_product(mass, first), far_product(terms.curvature, second)));
        result[k] = (REAL)far_value(far_product(weight, value));
    }
}
