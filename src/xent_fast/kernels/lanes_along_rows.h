/* Targets with mass of a few classes: as many rows side by side as a vector has lanes.  A template over REAL_BITS.
 *
 * Knows: loss, gradient and softmax of such rows; what they share with class indices (index_lanes.h): weights, labels, what is
 * told of rows, which of them leave the lanes.
 * Must not know: instruction sets, threads, Python, how rows become columns (tile.h).
 *
 * The formulas are those of lanes_along_classes.h, each lane for its own row and in the lanes' own dtype; the row is
 * one block.  The pivot, the class left out of the sum, is the first maximum.
 */
#include "tile.h"

/* The weights of a vector of rows. */
typedef struct {
    double of_loss[LANES];      /* a */
    NAME(pair) gradient_weight; /* a / T, times what multiplies the gradient alone */
    vec last_factor;            /* 1, or 1 / RESCALE where the weight is RESCALE times larger */
    int is_rescaled;            /* whether any lane is */
    int may_leave;              /* whether some weight reaches VISIBLE_FACTOR */
} NAME(lane_weights);

/* Per-lane state between the sweeps. */
typedef struct {
    vec maximum, pivot; /* pivot: the class left out of the sum; -1 for an ignored row */
    NAME(pair) exp_of_pivot;
    NAME(pair) sum_of_others; /* of exponentials as they are stored */
    vec dropped;              /* what their last roundings took from that sum */
    NAME(pair) target_mass;
    vec distance, pivot_target;
    NAME(pair) other_mass; /* all but the pivot's */
    vec lse, log_of_sum;
    vec slope; /* 2 z lse */
} NAME(lane_sums);

/* Where the masses of smoothed targets come from: q = E / C w, and at the label (1 - E) w_y more. */
typedef struct {
    const REAL *class_weight;             /* w; NULL for 1 */
    NAME(pair) share, smoothing;          /* 1 - E and E / C */
    NAME(pair) weight_sum;                /* of all classes */
    vec labels, label_mass;               /* y and (1 - E) w_y */
    NAME(pair) label_target, target_mass; /* q_y and Q */
} NAME(smoothed_masses);

/* Maximum of each lane, and its first class. */
KERNEL_INLINE void NAME(columns_maximum)(REAL (*columns)[LANES], int classes, NAME(lane_sums) * sums) {
    vec maximum = v_splat(-INFINITY), first = v_splat(-1);
    REAL number = 0;
    for (int k = 0; k < classes; ++k, ++number) {
        const vec x = v_load(columns[k]);
        first = v_select(v_greater(x, maximum), v_splat(number), first);
        maximum = v_max(x, maximum);
    }
    sums->maximum = maximum;
    sums->pivot = first;
}

/* The maximum where it is a finite number, else 0. */
KERNEL_INLINE vec NAME(finite_maximum)(vec maximum) {
    const vec largest = v_splat(LARGEST_REAL);
    const vec magnitude = v_max(v_sub(v_splat(0), maximum), maximum);
    return v_select(v_greater(magnitude, largest), v_splat(0), maximum);
}

/* Masses of shaped targets in place of dense ones: w ((1 - E) t + E / C). */
KERNEL_INLINE void NAME(shape_masses)(NAME(tile) * tile, const xent_batch *batch) {
    const REAL *class_weight = (const REAL *)(const void *)batch->class_weight;
    const vec share = v_splat((REAL)(1 - batch->label_smoothing));
    const vec floor = v_splat((REAL)(batch->label_smoothing / (double)batch->classes));
    for (int k = 0; k < (int)batch->classes; ++k) {
        const vec mass = v_fma(v_load(tile->masses[k]), share, floor);
        v_store(tile->masses[k], class_weight ? v_mul(mass, v_splat(class_weight[k])) : mass);
    }
}

/* A double as two numbers of the dtype in every lane. */
KERNEL_INLINE NAME(pair) NAME(pair_of)(double number) {
    const REAL high = (REAL)number;
    const NAME(pair) pair = {v_splat(high), v_splat((REAL)(number - (double)high))};
    return pair;
}

/* What the labels' weights make of the masses. */
KERNEL_INLINE void NAME(weigh_labels)(NAME(smoothed_masses) * masses, vec label_weight) {
    const NAME(pair) weight = {label_weight, v_splat(0)};
    const NAME(pair) label_mass = NAME(pair_product)(masses->share, weight);
    masses->label_mass = v_add(label_mass.high, label_mass.low);
    masses->label_target = NAME(pair_product)(masses->smoothing, weight);
    masses->target_mass = NAME(pair_product)(masses->smoothing, masses->weight_sum);
    NAME(pair_add_pair)(&masses->label_target, label_mass);
    NAME(pair_add_pair)(&masses->target_mass, label_mass);
}

/* The masses of a call's smoothed targets, as far as they do not depend on a row's label. */
KERNEL_INLINE NAME(smoothed_masses) NAME(smoothed_masses_of)(const xent_batch *batch) {
    double weight_sum = (double)batch->classes;
    NAME(smoothed_masses) masses;
    masses.class_weight = (const REAL *)(const void *)batch->class_weight;
    if (masses.class_weight) {
        weight_sum = 0;
        for (int k = 0; k < (int)batch->classes; ++k)
            weight_sum += (double)masses.class_weight[k];
    }
    masses.share = NAME(pair_of)(1 - batch->label_smoothing);
    masses.smoothing = NAME(pair_of)(batch->label_smoothing / (double)batch->classes);
    masses.weight_sum = NAME(pair_of)(weight_sum);
    NAME(weigh_labels)(&masses, v_splat(1));
    return masses;
}

/* Those of a vector of labels, of which `row_count` are rows'. */
KERNEL_INLINE void NAME(smooth_labels)(NAME(smoothed_masses) * masses, const int64_t *values, int row_count,
                                       int64_t classes) {
    ALIGNED_64 REAL label_weight[LANES] = {0};
    for (int row = 0; row < row_count; ++row)
        label_weight[row] = masses->class_weight[clamped_label(values[row], classes)];
    NAME(weigh_labels)(masses, v_load(label_weight));
}

/* What a sweep over the columns finds of the masses: the sums of q and of q (base - x), or of w (base - x) for smoothed
 * targets, and what is the label's and the pivot's own. */
typedef struct {
    NAME(pair) mass, distance;
    vec label_distance, pivot_mass; /* base - x of the label, smoothed targets; q of the pivot, or its w */
} NAME(column_sums);

/* Adds up to four columns in a tree.  0 * inf = 0. */
KERNEL_INLINE void NAME(add_four_columns)(const NAME(tile) * tile, int first, int count,
                                          const NAME(smoothed_masses) * smoothed, vec base, vec pivot,
                                          NAME(column_sums) * sums, int is_weighted, int kind) {
    const vec zero = v_splat(0);
    vec masses[4] = {zero, zero, zero, zero}, terms[4] = {zero, zero, zero, zero};
    for (int j = 0; j < count; ++j) {
        const vec number = v_splat((REAL)(first + j));
        terms[j] = v_sub(base, v_load(tile->columns[first + j]));
        if (kind == XENT_SMOOTHED_TARGETS) {
            sums->label_distance = v_select(v_equal(smoothed->labels, number), terms[j], sums->label_distance);
            if (!is_weighted)
                continue;
            const REAL weight = smoothed->class_weight[first + j];
            masses[j] = v_splat(weight);
            terms[j] = weight == 0 ? zero : v_mul(masses[j], terms[j]);
        } else {
            masses[j] = v_load(tile->masses[first + j]);
            terms[j] = v_select(v_equal(masses[j], zero), zero, v_mul(masses[j], terms[j]));
        }
        sums->pivot_mass = v_select(v_equal(pivot, number), masses[j], sums->pivot_mass);
    }
    if (kind != XENT_SMOOTHED_TARGETS)
        NAME(pair_add)(&sums->mass, v_add(v_add(masses[0], masses[1]), v_add(masses[2], masses[3])));
    NAME(pair_add)(&sums->distance, v_add(v_add(terms[0], terms[1]), v_add(terms[2], terms[3])));
}

/* Mass and distance of smoothed targets; no mass is the difference of two. */
KERNEL_INLINE void NAME(smooth_lanes)(const NAME(smoothed_masses) * smoothed, const NAME(column_sums) * found,
                                      NAME(lane_sums) * sums) {
    const vec zero = v_splat(0), smoothing = smoothed->smoothing.high, label_mass = smoothed->label_mass;
    const vec_mask is_label = v_equal(sums->pivot, smoothed->labels);
    const vec other_weight = v_add(v_sub(smoothed->weight_sum.high, found->pivot_mass), smoothed->weight_sum.low);
    /* 0 * inf = 0 */
    sums->distance = v_drop(v_equal(label_mass, zero), v_mul(label_mass, found->label_distance));
    if (v_first(smoothing) != 0)
        sums->distance = v_fma(smoothing, NAME(pair_total)(found->distance), sums->distance);
    sums->target_mass = smoothed->target_mass;
    sums->pivot_target = v_select(is_label, smoothed->label_target.high, v_mul(smoothing, found->pivot_mass));
    sums->other_mass.high = v_fma(smoothing, other_weight, v_drop(is_label, label_mass));
    sums->other_mass.low = zero;
}

/* Mass and distance (see lanes_along_classes.h). */
KERNEL_INLINE void NAME(columns_masses)(const NAME(tile) * tile, int classes, const NAME(smoothed_masses) * smoothed,
                                        vec base, NAME(lane_sums) * sums, int is_weighted, int kind) {
    const vec zero = v_splat(0);
    const int has_unit_mass = kind == XENT_SMOOTHED_TARGETS && !is_weighted;
    NAME(column_sums)
    found = {NAME(zero_pair)(), NAME(zero_pair)(), zero, v_splat(has_unit_mass ? 1 : 0)};
    int first = 0;
    for (; first + 4 <= classes; first += 4)
        NAME(add_four_columns)(tile, first, 4, smoothed, base, sums->pivot, &found, is_weighted, kind);
    if (first < classes)
        NAME(add_four_columns)(tile, first, classes - first, smoothed, base, sums->pivot, &found, is_weighted, kind);
    if (kind == XENT_SMOOTHED_TARGETS) {
        NAME(smooth_lanes)(smoothed, &found, sums);
        return;
    }
    sums->target_mass = sums->other_mass = found.mass;
    NAME(pair_add)(&sums->other_mass, v_sub(zero, found.pivot_mass));
    sums->distance = NAME(pair_total)(found.distance);
    sums->pivot_target = found.pivot_mass;
}

/* Targets of no mass, for probabilities. */
KERNEL_INLINE void NAME(forget_masses)(NAME(lane_sums) * sums) {
    sums->target_mass = sums->other_mass = NAME(zero_pair)();
    sums->distance = sums->pivot_target = v_splat(0);
}

/* Subtracts the maximum from the lanes where it is huge; returns what was subtracted. */
KERNEL_INLINE vec NAME(shift_huge_columns)(REAL (*columns)[LANES], int classes, vec maximum, REAL huge_logit) {
    const vec zero = v_splat(0);
    const vec_mask is_huge = v_greater(v_max(v_sub(zero, maximum), maximum), v_splat(huge_logit));
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

/* Adds z lse^2 to the losses; leaves lse and the slope of that for the gradient. */
KERNEL_INLINE void NAME(add_z_loss)(NAME(lane_sums) * sums, NAME(pair) * loss, REAL z_loss) {
    sums->slope = v_mul(v_splat(2 * z_loss), sums->lse);
    NAME(pair_add)(loss, v_mul(v_mul(v_splat(z_loss), sums->lse), sums->lse));
}

/* Losses for a weight of 1: mass * log1p(T / e_m) + distance; z_loss added. */
KERNEL_INLINE NAME(pair) NAME(lane_losses)(NAME(lane_sums) * sums, const NAME(settings) * settings) {
    const vec temperature = v_splat((REAL)settings->row.temperature);
    const NAME(pair) others = NAME(accurate_others)(sums);
    NAME(pair) loss = NAME(log_of_ratio)(others, sums->exp_of_pivot);
    sums->log_of_sum = NAME(pair_total)(loss);
    sums->lse = v_add(v_div(sums->maximum, temperature), sums->log_of_sum);
    loss = NAME(pair_product)(sums->target_mass, loss);
    NAME(pair_add)(&loss, v_div(sums->distance, temperature));
    if (settings->row.z_loss != 0)
        NAME(add_z_loss)(sums, &loss, (REAL)settings->row.z_loss);
    return loss;
}

/* a ((Q - q) e - q T) / S, q the pivot's: see lanes_along_classes.h.  `inverse` is nearly 1 / S. */
KERNEL_INLINE vec NAME(gradient_of_pivot)(const NAME(lane_sums) * sums, NAME(pair) weight, vec inverse, int has_slope) {
    const NAME(pair) others = NAME(accurate_others)(sums), target = {sums->pivot_target, v_splat(0)};
    const NAME(pair) gained = NAME(pair_product)(sums->other_mass, sums->exp_of_pivot);
    NAME(pair) sum = others, down = NAME(pair_product)(target, others);
    NAME(pair_add)(&sum, sums->exp_of_pivot.high);
    sum.low = v_add(sum.low, sums->exp_of_pivot.low);
    NAME(pair_add)(&down, v_sub(v_splat(0), gained.high));
    down.low = v_sub(down.low, gained.low);
    if (has_slope) {
        const NAME(pair) slope = {sums->slope, v_splat(0)};
        const NAME(pair) up = NAME(pair_product)(slope, sums->exp_of_pivot);
        NAME(pair_add)(&down, v_sub(v_splat(0), up.high));
        down.low = v_sub(down.low, up.low);
    }
    const NAME(pair) ratio = NAME(quotient)(down, sum, inverse);
    const vec low = v_fma(ratio.high, weight.low, v_mul(ratio.low, weight.high));
    return v_sub(v_splat(0), v_fma(ratio.high, weight.high, low));
}

/* a b, rounded once but for terms that do not show. */
KERNEL_INLINE vec NAME(rounded_product)(NAME(pair) a, NAME(pair) b) {
    const NAME(pair) product = NAME(pair_product)(a, b);
    return v_add(product.high, product.low);
}

/* The gradient in place of the exponentials: e * factor - a q, and the pivot's. */
KERNEL_INLINE void NAME(columns_gradient)(NAME(tile) * tile, int classes, vec pivot, NAME(pair) factor,
                                          vec pivot_gradient, NAME(pair) weight, const NAME(smoothed_masses) * smoothed,
                                          int is_weighted, int kind) {
    const vec zero = v_splat(0);
    vec minus_weight = v_sub(zero, weight.high), minus_label = zero;
    if (kind == XENT_SMOOTHED_TARGETS) {
        minus_weight = v_sub(zero, NAME(rounded_product)(weight, smoothed->smoothing));
        minus_label = v_sub(zero, NAME(rounded_product)(weight, smoothed->label_target));
    }
    REAL number = 0;
    for (int k = 0; k < classes; ++k, ++number) {
        const vec e = v_load(tile->columns[k]);
        vec grad;
        if (kind == XENT_SMOOTHED_TARGETS) {
            const vec mass = is_weighted ? v_mul(minus_weight, v_splat(smoothed->class_weight[k])) : minus_weight;
            const vec_mask is_label = v_equal(smoothed->labels, v_splat(number));
            grad = NAME(product_with_pair_plus)(e, factor, v_select(is_label, minus_label, mass));
        } else {
            grad = v_fma(minus_weight, v_load(tile->masses[k]), NAME(product_with_pair)(e, factor));
        }
        v_store(tile->columns[k], v_select(v_equal(pivot, v_splat(number)), pivot_gradient, grad));
    }
}

/* The gradient of a tile in place of its exponentials.  The factor is weight * mass / sum, of the exponentials as they are
 * stored, so that no probability exceeds 1. */
KERNEL_INLINE void NAME(gradient_of_tile)(NAME(tile) * tile, int classes, const NAME(lane_sums) * sums,
                                          const NAME(lane_weights) * weights, const NAME(smoothed_masses) * smoothed,
                                          vec_mask is_number, const row_settings *settings, int kind) {
    const vec not_a_number = v_splat(NAN);
    const int has_slope = settings->z_loss != 0;
    const NAME(pair) weight = weights->gradient_weight;
    NAME(pair) mass = sums->target_mass, sum = sums->sum_of_others;
    if (has_slope)
        NAME(pair_add)(&mass, sums->slope);
    const NAME(pair) numerator = NAME(pair_product)(weight, mass);
    NAME(pair_add)(&sum, sums->exp_of_pivot.high);
    const vec inverse = NAME(inverse_of)(sum);
    NAME(pair) factor = NAME(quotient)(numerator, sum, inverse);
    vec pivot_gradient = NAME(gradient_of_pivot)(sums, weight, inverse, has_slope);
    if (settings->output == XENT_PROBABILITIES) {
        const NAME(pair) one = {v_splat(1), v_splat(0)};
        factor = NAME(quotient)(one, sum, inverse);
        pivot_gradient = NAME(product_with_pair)(sums->exp_of_pivot.high, factor);
    }
    if (v_mask_bits(is_number) != (1u << LANES) - 1) {
        /* one NaN everywhere: which of two an operation passes on differs between processors */
        factor.high = v_select(is_number, factor.high, not_a_number);
        factor.low = v_select(is_number, factor.low, not_a_number);
        pivot_gradient = v_select(is_number, pivot_gradient, not_a_number);
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_select(is_number, v_load(tile->columns[k]), not_a_number));
    }
    if (kind == XENT_SMOOTHED_TARGETS && smoothed->class_weight)
        NAME(columns_gradient)(tile, classes, sums->pivot, factor, pivot_gradient, weight, smoothed, 1, kind);
    else
        NAME(columns_gradient)(tile, classes, sums->pivot, factor, pivot_gradient, weight, smoothed, 0, kind);
    if (weights->is_rescaled && settings->output == XENT_GRADIENT)
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_mul(v_load(tile->columns[k]), weights->last_factor));
}

/* Lanes whose loss the lanes' type holds with few digits, though a double does not: it is Q log1p(T / e), and log1p(r) is r
 * there.  0 where there are others. */
KERNEL_INLINE unsigned NAME(tiny_losses)(const NAME(pair) * loss, const NAME(lane_sums) * sums,
                                         const NAME(settings) * settings) {
    const vec zero = v_splat(0), limit = v_splat((REAL)TINY_LOSS);
    const vec magnitude = v_max(v_sub(zero, loss->high), loss->high);
    unsigned tiny = v_mask_bits(v_greater(limit, magnitude)) & v_mask_bits(v_greater(sums->sum_of_others.high, zero));
    tiny &= v_mask_bits(v_equal(sums->distance, zero));
    return settings->row.z_loss != 0 ? 0 : tiny;
}

/* What the rows of a tile have to tell, one a lane. */
typedef struct {
    NAME(pair) loss;                       /* for a weight of 1; a sum of two */
    NAME(pair) mass, others, exp_of_pivot; /* what losses too small for the lanes' type are made of */
    unsigned leaving; /* bit k for lane k: what stands there is wrong, and double_rows.h must take the row */
    unsigned is_tiny; /* bit k for lane k: such a loss is mass others / exp_of_pivot */
    vec lse, prediction;
    vec maximum, log_of_sum; /* lse = maximum / T + log_of_sum, targets with mass; NaN where there is no number */
} NAME(lane_results);

/* A number's size. */
KERNEL_INLINE vec NAME(magnitude)(vec a) { return v_max(v_sub(v_splat(0), a), a); }

/* Lanes whose weights and masses, of the sizes given, are too large for the lanes' type, or make a class visible that the
 * exponentials flush to 0. */
static NEVER_INLINE unsigned NAME(lanes_out_of_reach)(REAL (*columns)[LANES], int classes, vec maximum, vec factor,
                                                      vec largest, const NAME(exponent_scale) * scale) {
    const NAME(reach) reach = NAME(reach_of)(factor, scale);
    unsigned leaving = v_mask_bits(v_not_less(largest, v_splat(LARGEST_FACTOR)));
    const unsigned counts = v_mask_bits(v_not_less(factor, v_splat(VISIBLE_FACTOR)));
    for (int k = 0; k < classes; ++k)
        leaving |= counts & v_mask_bits(NAME(is_out_of_reach)(v_sub(maximum, v_load(columns[k])), &reach));
    return leaving;
}

/* Lanes that must leave the lanes' type (double_rows.h), as far as that is known before the exponentials. */
KERNEL_INLINE unsigned NAME(leaving_lanes)(REAL (*columns)[LANES], int classes, const NAME(lane_sums) * sums,
                                           const NAME(lane_weights) * weights, const NAME(settings) * settings) {
    const unsigned all = (1u << LANES) - 1;
    if (settings->all_leave)
        return all;
    if (settings->row.output != XENT_GRADIENT)
        return 0;
    const vec weight = v_mul(NAME(magnitude)(weights->gradient_weight.high), weights->last_factor);
    const vec mass = v_max(NAME(magnitude)(sums->target_mass.high), NAME(magnitude)(sums->pivot_target));
    const vec largest = v_max(weight, v_max(mass, NAME(magnitude)(sums->other_mass.high)));
    const vec factor = v_max(v_mul(weight, mass), weight);
    if (v_mask_bits(v_not_less(v_max(largest, factor), v_splat(VISIBLE_FACTOR))) == 0)
        return 0;
    return NAME(lanes_out_of_reach)(columns, classes, sums->maximum, factor, largest, &settings->scale);
}

/* Losses and, if asked for, statistics and gradient of the rows side by side in a tile. */
KERNEL_INLINE NAME(lane_results) NAME(rows_of_tile)(NAME(tile) * tile, int classes, const NAME(lane_weights) * weights,
                                                    const NAME(smoothed_masses) * smoothed,
                                                    const NAME(settings) * settings, int has_grad, int kind) {
    const vec zero = v_splat(0);
    NAME(lane_sums) sums;
    NAME(lane_results) results;
    sums.slope = zero;
    NAME(columns_maximum)(tile->columns, classes, &sums);
    const vec base = NAME(finite_maximum)(sums.maximum);
    if (kind == XENT_SMOOTHED_TARGETS && settings->row.output != XENT_GRADIENT)
        NAME(forget_masses)(&sums);
    else if (kind == XENT_SMOOTHED_TARGETS && smoothed->class_weight)
        NAME(columns_masses)(tile, classes, smoothed, base, &sums, 1, kind);
    else
        NAME(columns_masses)(tile, classes, smoothed, base, &sums, 0, kind);
    results.leaving = NAME(leaving_lanes)(tile->columns, classes, &sums, weights, settings);
    const vec shift = NAME(shift_huge_columns)(tile->columns, classes, base, settings->scale.huge_logit);
    const vec shifted_maximum = v_sub(base, shift);
    const NAME(exponential_reference) reference =
        NAME(reference_for)(NAME(reference_exponent)(shifted_maximum, &settings->scale), &settings->scale);
    NAME(columns_exponentials)(tile->columns, classes, shifted_maximum, reference, &sums);

    const vec sum = v_add(sums.sum_of_others.high, sums.exp_of_pivot.high);
    const vec_mask is_number = v_greater(v_keep(v_equal(base, sums.maximum), sum), zero);
    results.loss = NAME(lane_losses)(&sums, settings);
    if (has_grad)
        NAME(gradient_of_tile)(tile, classes, &sums, weights, smoothed, is_number, &settings->row, kind);
    results.is_tiny = REAL_BITS == 32 ? NAME(tiny_losses)(&results.loss, &sums, settings) : 0;
    results.others = NAME(accurate_others)(&sums);
    results.exp_of_pivot = sums.exp_of_pivot;
    results.mass = sums.target_mass;
    if (settings->row.output == XENT_GRADIENT)
        results.leaving |= ~v_mask_bits(v_equal(v_sub(results.loss.high, results.loss.high), zero));
    results.leaving &= v_mask_bits(is_number);
    results.is_tiny &= v_mask_bits(is_number);
    results.loss.high = v_select(is_number, results.loss.high, v_splat(NAN));
    results.lse = v_select(is_number, sums.lse, v_splat(NAN));
    results.maximum = v_select(is_number, sums.maximum, v_splat(NAN));
    results.log_of_sum = sums.log_of_sum;
    results.prediction = v_select(is_number, sums.pivot, v_splat(-1));
    return results;
}

/* A class's weight. */
KERNEL_INLINE double NAME(class_weight)(const xent_batch *batch, int64_t label) {
    return batch->class_weight ? (double)((const REAL *)(const void *)batch->class_weight)[label] : 1;
}

/* A vector of numbers, each as two of the dtype. */
KERNEL_INLINE NAME(pair) NAME(pairs_of)(const double *numbers) {
    ALIGNED_64 REAL high[LANES], low[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        high[lane] = (REAL)numbers[lane];
        low[lane] = (REAL)(numbers[lane] - (double)high[lane]);
    }
    const NAME(pair) pairs = {v_load(high), v_load(low)};
    return pairs;
}

KERNEL_INLINE int NAME(is_small_weight)(double weight) { return (fabs(weight) < SMALL_WEIGHT) & (weight != 0); }

/* Whether any of a vector of weights is, eight doubles at a time. */
KERNEL_INLINE int NAME(has_small_weight)(const double *weight) {
    const vec_f64 zero = v_splat_f64(0), limit = v_splat_f64(SMALL_WEIGHT);
    unsigned found = 0;
    for (int row = 0; row < LANES; row += 8) {
        const vec_f64 w = v_load_f64(weight + row);
        const vec_f64 magnitude = v_max_f64(v_sub_f64(zero, w), w);
        found |= v_mask_bits_f64(v_greater_f64(limit, magnitude)) & ~v_mask_bits_f64(v_equal_f64(w, zero));
    }
    return found != 0;
}

/* Makes small weights RESCALE times larger; `last_factor` takes that back. */
KERNEL_INLINE void NAME(rescale_weights)(double *weight, NAME(lane_weights) * weights) {
    ALIGNED_64 REAL last_factor[LANES];
    for (int row = 0; row < LANES; ++row) {
        const int is_small = NAME(is_small_weight)(weight[row]);
        weight[row] *= is_small ? RESCALE : 1;
        last_factor[row] = (REAL)(is_small ? 1 / RESCALE : 1);
    }
    weights->last_factor = v_load(last_factor);
}

/* Weights of `row_count` rows from `first_row`: sample_weight times weight_factor and, where no mass carries it, the class's. */
KERNEL_INLINE void NAME(weigh_rows)(const xent_batch *batch, int64_t first_row, int row_count, const int64_t *labels,
                                    double *weight, int kind) {
    for (int row = 0; row < row_count; ++row)
        weight[row] = batch->weight_factor;
    if (batch->sample_weight)
        for (int row = 0; row < row_count; ++row)
            weight[row] *= batch->sample_weight[first_row + row];
    if (batch->class_weight && !HAS_MASS(kind))
        for (int row = 0; row < row_count; ++row)
            weight[row] *= NAME(class_weight)(batch, clamped_label(labels[row], batch->classes));
}

/* Whether the weights of rows differ, of whatever class they are. */
KERNEL_INLINE int NAME(has_own_weights)(const xent_batch *batch) {
    return batch->sample_weight != NULL || (batch->grad_output != NULL && batch->grad_output_step != 0);
}

/* The weights of gradients from those of losses; `may_leave` also where theirs reach VISIBLE_FACTOR. */
static NEVER_INLINE void NAME(weigh_gradients)(const xent_batch *batch, int64_t first_row, int row_count,
                                               double *weight, int *may_leave) {
    for (int row = 0; row < row_count; ++row) {
        weight[row] *= batch->grad_output[(first_row + row) * batch->grad_output_step];
        *may_leave |= !(fabs(weight[row] / batch->temperature) < (double)VISIBLE_FACTOR);
    }
}

/* The same as a vector, 0 beyond `row_count`.  `labels` has a whole vector where the kind has class indices. */
KERNEL_INLINE void NAME(weights_of_rows)(const xent_batch *batch, int64_t first_row, int row_count,
                                         const int64_t *labels, int kind, NAME(lane_weights) * weights) {
    ALIGNED_64 double weight[LANES] = {0};
    if (row_count == LANES)
        NAME(weigh_rows)(batch, first_row, LANES, labels, weight, kind);
    else
        NAME(weigh_rows)(batch, first_row, row_count, labels, weight, kind);
    memcpy(weights->of_loss, weight, sizeof weight);
    weights->may_leave = 0;
    for (int row = 0; row < LANES; ++row)
        weights->may_leave |= !(fabs(weight[row] / batch->temperature) < (double)VISIBLE_FACTOR);
    if (batch->grad_output)
        NAME(weigh_gradients)(batch, first_row, row_count, weight, &weights->may_leave);
    weights->is_rescaled = NAME(has_small_weight)(weight);
    weights->last_factor = v_splat(1);
    if (weights->is_rescaled)
        NAME(rescale_weights)(weight, weights);
    weights->gradient_weight = NAME(pairs_of)(weight);
    if (batch->temperature != 1) {
        for (int row = 0; row < LANES; ++row)
            weight[row] /= batch->temperature;
        weights->gradient_weight = NAME(pairs_of)(weight);
    }
}

KERNEL_INLINE NAME(pair) NAME(keep_pair)(vec_mask where, NAME(pair) a) {
    a.high = v_keep(where, a.high);
    a.low = v_keep(where, a.low);
    return a;
}

/* Zeros in the rows whose label is -1. */
KERNEL_INLINE void NAME(clear_rows_without_label)(REAL (*columns)[LANES], int classes, vec labels) {
    const vec_mask counts = v_not_less(labels, v_splat(0));
    if (v_mask_bits(counts) != (1u << LANES) - 1)
        for (int k = 0; k < classes; ++k)
            v_store(columns[k], v_keep(counts, v_load(columns[k])));
}

/* Labels as lanes, -1 where there is no row or it is ignored. */
KERNEL_INLINE vec NAME(lane_labels)(const xent_labels *labels, const int64_t *values, int row_count) {
    ALIGNED_64 int64_t counted[LANES];
    if (row_count == LANES && !labels->has_ignore_index)
        return v_from_integers(values);
    for (int row = 0; row < LANES; ++row)
        counted[row] = row >= row_count || is_ignored(labels, values[row]) ? -1 : values[row];
    return v_from_integers(counted);
}

/* Statistics of rows, of those that are not ignored. */
KERNEL_INLINE void NAME(tell_lanes)(const xent_batch *batch, int64_t first_row, int row_count, vec labels, vec row_lse,
                                    vec row_prediction, int has_labels) {
    ALIGNED_64 REAL numbers[LANES], lse[LANES], prediction[LANES];
    v_store(numbers, labels);
    v_store(lse, row_lse);
    v_store(prediction, row_prediction);
    if (batch->lse)
        for (int row = 0; row < row_count; ++row)
            ((REAL *)(void *)batch->lse)[first_row + row] = has_labels && numbers[row] < 0 ? (REAL)NAN : lse[row];
    if (batch->prediction)
        for (int row = 0; row < row_count; ++row)
            batch->prediction[first_row + row] = has_labels && numbers[row] < 0 ? -1 : (int64_t)prediction[row];
}

/* log p = (x - m) / T - log of the sum, in place of the logits. */
KERNEL_INLINE void NAME(columns_log_probabilities)(REAL (*columns)[LANES], int classes,
                                                   const NAME(lane_results) * results, REAL temperature) {
    const vec_mask is_number = v_equal(results->maximum, results->maximum);
    for (int k = 0; k < classes; ++k) {
        const vec distance = v_div(v_sub(v_load(columns[k]), results->maximum), v_splat(temperature));
        const vec logarithm = v_sub(distance, results->log_of_sum);
        v_store(columns[k], v_select(is_number, logarithm, v_splat(NAN)));
    }
}

/* Each lane's sum of two as a double. */
KERNEL_INLINE void NAME(doubles_of)(NAME(pair) pair, double *doubles) {
    ALIGNED_64 REAL high[LANES], low[LANES];
    v_store(high, pair.high);
    v_store(low, pair.low);
    for (int lane = 0; lane < LANES; ++lane)
        doubles[lane] = (double)high[lane] + (double)low[lane];
}

static NEVER_INLINE void NAME(replace_tiny_losses)(const NAME(lane_results) * results, double *losses) {
    ALIGNED_64 double mass[LANES], others[LANES], exp_of_pivot[LANES];
    NAME(doubles_of)(results->mass, mass);
    NAME(doubles_of)(results->others, others);
    NAME(doubles_of)(results->exp_of_pivot, exp_of_pivot);
    for (int lane = 0; lane < LANES; ++lane)
        if (results->is_tiny >> lane & 1)
            losses[lane] = mass[lane] * (others[lane] / exp_of_pivot[lane]);
}

/* a times the loss; a row without weight has none, whatever its targets. */
KERNEL_INLINE vec_f64 NAME(weighted_losses)(vec_f64 loss, const double *weight) {
    const vec_f64 a = v_load_f64(weight);
    const vec_f64 weighted = v_drop_f64(v_equal_f64(a, v_splat_f64(0)), v_mul_f64(a, loss));
    return v_select_f64(v_equal_f64(loss, loss), weighted, loss);
}

/* Losses as doubles, which no rounding to the lanes' type has met. */
KERNEL_INLINE void NAME(weigh_losses)(const NAME(lane_results) * results, const double *weight, int row_count,
                                      double *losses) {
    ALIGNED_64 double doubles[LANES], some[LANES];
    double *place = row_count == LANES ? losses : some;
    NAME(pair) loss = results->loss;
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
        NAME(replace_tiny_losses)(results, doubles);
        for (int j = 0; j < VECTORS; ++j)
            sums[j] = v_load_f64(doubles + 8 * j);
    }
    for (int j = 0; j < VECTORS; ++j)
        v_store_f64(place + 8 * j, NAME(weighted_losses)(sums[j], weight + 8 * j));
    if (row_count < LANES)
        memcpy(losses, some, (size_t)row_count * sizeof *losses);
}

/* Takes the rows of a tile that leave its lanes from where they lie in memory; gradients to the columns, unless NULL. */
static NEVER_INLINE void NAME(take_leaving_rows)(const xent_batch *batch, int64_t first_row, int row_count,
                                                 unsigned leaving, const int64_t *labels, REAL (*columns)[LANES],
                                                 double *losses, int kind) {
    for (int row = 0; row < row_count; ++row) {
        if (!(leaving >> row & 1) || (HAS_LABELS(kind) && is_ignored(&batch->labels, labels[row])))
            continue;
        losses[row] = NAME(loss_of_far_row)(batch, first_row + row, clamped_label(labels[row], batch->classes), kind,
                                            columns ? &columns[0][row] : NULL, LANES);
    }
}

/* Rows [first_row, first_row + row_count), at most a vector of them; losses to `row_loss`.  `labels` has a whole vector. */
KERNEL_INLINE void NAME(short_rows)(const xent_batch *batch, int64_t first_row, int row_count, const int64_t *labels,
                                    NAME(lane_weights) weights, NAME(smoothed_masses) * smoothed, double *row_loss,
                                    const NAME(settings) * settings, int kind) {
    NAME(tile) tile;
    const int classes = (int)batch->classes, has_grad = batch->grad != NULL;
    const char *logits = batch->logits + first_row * batch->logits_row_stride;
    NAME(load_columns)(tile.columns, logits, batch->logits_row_stride, batch->logits_class_stride, row_count, classes);
    vec lanes = v_splat(-1);
    if (HAS_LABELS(kind)) {
        lanes = NAME(lane_labels)(&batch->labels, labels, row_count);
        if (row_count < LANES || batch->labels.has_ignore_index) {
            weights.gradient_weight = NAME(keep_pair)(v_not_less(lanes, v_splat(0)), weights.gradient_weight);
            NAME(clear_rows_without_label)(tile.columns, classes, lanes);
        }
    } else {
        NAME(load_columns)(tile.masses, batch->dense_targets + first_row * batch->dense_targets_row_stride,
                           batch->dense_targets_row_stride, batch->dense_targets_class_stride, row_count, classes);
    }
    if (kind == XENT_SHAPED_TARGETS)
        NAME(shape_masses)(&tile, batch);
    if (kind == XENT_SMOOTHED_TARGETS) {
        smoothed->labels = lanes;
        if (smoothed->class_weight)
            NAME(smooth_labels)(smoothed, labels, row_count, classes);
    }
    const int is_logarithm = settings->row.output == XENT_LOG_PROBABILITIES;
    const NAME(lane_results) results =
        NAME(rows_of_tile)(&tile, classes, &weights, smoothed, settings, has_grad && !is_logarithm, kind);
    if (has_grad && is_logarithm) {
        NAME(load_columns)(tile.columns, logits, batch->logits_row_stride, batch->logits_class_stride, row_count,
                           classes);
        NAME(columns_log_probabilities)(tile.columns, classes, &results, (REAL)settings->row.temperature);
    }
    NAME(weigh_losses)(&results, weights.of_loss, row_count, row_loss);
    if (HAS_LABELS(kind) && batch->labels.has_ignore_index)
        for (int row = 0; row < row_count; ++row)
            row_loss[row] = is_ignored(&batch->labels, labels[row]) ? 0 : row_loss[row];
    if (batch->lse || batch->prediction)
        NAME(tell_lanes)(batch, first_row, row_count, lanes, results.lse, results.prediction, HAS_LABELS(kind));
    /* their weight of 0 alone gives NaN where a mass overflows */
    if (has_grad && HAS_LABELS(kind) && batch->labels.has_ignore_index)
        NAME(clear_rows_without_label)(tile.columns, classes, lanes);
    if (results.leaving)
        NAME(take_leaving_rows)(batch, first_row, row_count, results.leaving, labels, has_grad ? tile.columns : NULL,
                                row_loss, kind);
    if (has_grad)
        NAME(store_columns)(tile.columns, batch->grad + first_row * batch->grad_row_stride, batch->grad_row_stride,
                            batch->grad_class_stride, row_count, classes);
}

/* All of them, a vector of rows at a time.  `labels` has a whole vector from each row on. */
KERNEL_INLINE void NAME(many_short_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                         const int64_t *labels, double *row_loss, int kind) {
    const int has_own_weights = NAME(has_own_weights)(batch);
    const NAME(settings) settings = NAME(settings_of)(batch);
    NAME(lane_weights) weights = {.is_rescaled = 0}; /* compilers do not see that it is always set */
    NAME(smoothed_masses) smoothed;
    if (kind == XENT_SMOOTHED_TARGETS)
        smoothed = NAME(smoothed_masses_of)(batch);
    if (!has_own_weights)
        NAME(weights_of_rows)(batch, first_row, LANES, labels, kind, &weights);
    int count = NAME(rows_of_first_vector)(batch, first_row);
    for (int64_t k = 0; k < row_count; k += count, count = LANES) {
        if (row_count - k < count)
            count = (int)(row_count - k);
        if (has_own_weights)
            NAME(weights_of_rows)(batch, first_row + k, count, labels + k, kind, &weights);
        NAME(short_rows)(batch, first_row + k, count, labels + k, weights, &smoothed, row_loss + k, &settings, kind);
    }
}
