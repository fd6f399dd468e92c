/* Targets with mass of a few classes: as many rows side by side as a vector has lanes.  A template
 * over REAL_BITS.
 *
 * Knows: loss, gradient and softmax of such rows; what they share with class indices
 * (index_lanes.h): weights, labels, what is told of rows, which of them leave the lanes.
 * Must not know: instruction sets, threads, Python, how rows become columns (tile.h).
 *
 * The formulas are those of lanes_along_classes.h, each lane for its own row and in the lanes' own
 * dtype; the row is one block.  The pivot, the class left out of the sum, is the first maximum.
 */
#include "tile.h"

/* Vectors of rows are taken so many at a time, each step of all of them before the next: one vector
 * is a chain whose operations wait for each other, several are not. */
#ifndef VECTORS_AT_ONCE
#define VECTORS_AT_ONCE 4
#endif

/* A statement for k = 0, 4, ... with a constant `count` of 4, then for the one to three classes
 * that are left; `from_k` are the labels counted from k. */
#ifndef EACH_CLASS
#define EACH_CLASS(classes, labels, statement)  \
    do {                                        \
        vec from_k = labels;                    \
        int k = 0;                              \
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

/* Where the masses of smoothed targets come from: q = E / C w, and at the label (1 - E) w_y
 * more. */
typedef struct {
    const REAL *class_weight;             /* w; NULL for 1 */
    NAME(pair) share, smoothing;          /* 1 - E and E / C */
    NAME(pair) weight_sum;                /* of all classes */
    vec labels, label_mass;               /* y and (1 - E) w_y */
    NAME(pair) label_target, target_mass; /* q_y and Q */
} NAME(smoothed_masses);

/* Maximum of each lane, and its first class. */
KERNEL_INLINE void NAME(columns_maximum)(REAL (*columns)[LANES], int classes,
                                         NAME(lane_sums) * sums) {
    vec maximum = v_splat(-INFINITY), first = v_splat(-1);
    vec number = v_splat(0);
    for (int k = 0; k < classes; ++k) {
        const vec x = v_load(columns[k]);
        first = v_select(v_greater(x, maximum), number, first);
        maximum = v_max(x, maximum);
        number = v_add(number, v_splat(1));
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
KERNEL_INLINE void NAME(smooth_labels)(NAME(smoothed_masses) * masses, const int64_t *values,
                                       int row_count, int64_t classes) {
    ALIGNED_64 REAL label_weight[LANES] = {0};
    for (int row = 0; row < row_count; ++row)
        label_weight[row] = masses->class_weight[clamped_label(values[row], classes)];
    NAME(weigh_labels)(masses, v_load(label_weight));
}

/* What a sweep over the columns finds of the masses: the sums of q and of q (base - x), or of w
 * (base - x) for smoothed targets, and what is the label's and the pivot's own. */
typedef struct {
    NAME(pair) mass, distance;
    vec label_distance,
        pivot_mass; /* base - x of the label, smoothed targets; q of the pivot, or its w */
} NAME(column_sums);

/* Adds a summand; the first is the sum. */
KERNEL_INLINE void NAME(add_or_begin)(NAME(pair) * sum, vec a, int is_first) {
    if (is_first)
        sum->high = a;
    else
        NAME(pair_add)(sum, a);
}

/* Adds `count` columns (1, 2 or 4) from `k` in a tree, a dense target's masses two by two: every
 * gradient has the error of their sum.  `pivot` and `labels` count from `k`.  0 * inf = 0. */
KERNEL_INLINE void NAME(add_columns)(const NAME(tile) * tile, int k, int count,
                                     const NAME(smoothed_masses) * smoothed, vec base, vec pivot,
                                     vec labels, NAME(column_sums) * sums, int is_weighted,
                                     int kind) {
    const vec zero = v_splat(0);
    vec masses[4], terms[4] = {zero, zero, zero, zero};
    EACH_OF(count, terms[j] = v_sub(base, v_load(tile->columns[k + j])));
    if (kind == XENT_SMOOTHED_TARGETS)
        EACH_OF(count, sums->label_distance =
                           v_select(v_equal(labels, v_splat(j)), terms[j], sums->label_distance));
    if (kind == XENT_SMOOTHED_TARGETS && is_weighted) {
        EACH_OF(count, const REAL weight = smoothed->class_weight[k + j];
                masses[j] = v_splat(weight);
                terms[j] = weight == 0 ? zero : v_mul(masses[j], terms[j]));
    } else if (kind != XENT_SMOOTHED_TARGETS) {
        EACH_OF(count, masses[j] = v_load(tile->masses[k + j]);
                terms[j] = v_drop(v_equal(masses[j], zero), terms[j]));
        for (int j = 0; j < count; j += 2)
            NAME(add_or_begin)(&sums->mass, NAME(sum_of_some)(masses + j, count == 1 ? 1 : 2),
                               k + j == 0);
    }
    if (kind != XENT_SMOOTHED_TARGETS || is_weighted)
        EACH_OF(count, sums->pivot_mass =
                           v_select(v_equal(pivot, v_splat(j)), masses[j], sums->pivot_mass));
    NAME(add_or_begin)(&sums->distance,
                       kind == XENT_SMOOTHED_TARGETS
                           ? NAME(sum_of_some)(terms, count)
                           : NAME(sum_of_some_products)(masses, terms, count),
                       k == 0);
}

/* Mass and distance of smoothed targets; no mass is the difference of two. */
KERNEL_INLINE void NAME(smooth_lanes)(const NAME(smoothed_masses) * smoothed,
                                      const NAME(column_sums) * found, NAME(lane_sums) * sums) {
    const vec zero = v_splat(0), smoothing = smoothed->smoothing.high,
              label_mass = smoothed->label_mass;
    const vec_mask is_label = v_equal(sums->pivot, smoothed->labels);
    const vec other_weight =
        v_add(v_sub(smoothed->weight_sum.high, found->pivot_mass), smoothed->weight_sum.low);
    /* 0 * inf = 0 */
    sums->distance = v_drop(v_equal(label_mass, zero), v_mul(label_mass, found->label_distance));
    if (v_first(smoothing) != 0)
        sums->distance = v_fma(smoothing, NAME(pair_total)(found->distance), sums->distance);
    sums->target_mass = smoothed->target_mass;
    sums->pivot_target =
        v_select(is_label, smoothed->label_target.high, v_mul(smoothing, found->pivot_mass));
    sums->other_mass.high = v_fma(smoothing, other_weight, v_drop(is_label, label_mass));
    sums->other_mass.low = zero;
}

/* Mass and distance (see lanes_along_classes.h). */
KERNEL_INLINE void NAME(columns_masses)(const NAME(tile) * tile, int classes,
                                        const NAME(smoothed_masses) * smoothed, vec base,
                                        NAME(lane_sums) * sums, int is_weighted, int kind) {
    const vec zero = v_splat(0);
    const int has_unit_mass = kind == XENT_SMOOTHED_TARGETS && !is_weighted;
    NAME(column_sums)
    found = {NAME(zero_pair)(), NAME(zero_pair)(), zero, v_splat(has_unit_mass ? 1 : 0)};
    vec labels = zero; /* counted like the pivot */
    if (kind == XENT_SMOOTHED_TARGETS)
        labels = v_sub(smoothed->labels, sums->pivot);
    EACH_CLASS(classes, sums->pivot,
               NAME(add_columns)(tile, k, count, smoothed, base, from_k, v_add(labels, from_k),
                                 &found, is_weighted, kind));
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
KERNEL_INLINE vec NAME(shift_huge_columns)(REAL (*columns)[LANES], int classes, vec maximum,
                                           REAL huge_logit) {
    const vec zero = v_splat(0);
    const vec_mask is_huge = v_greater(v_max(v_sub(zero, maximum), maximum), v_splat(huge_logit));
    if (v_mask_bits(is_huge) == 0)
        return zero;
    const vec shift = v_keep(is_huge, maximum);
    for (int k = 0; k < classes; ++k)
        v_store(columns[k], v_sub(v_load(columns[k]), shift));
    return shift;
}

/* Exponentials of `count` columns (1, 2 or 4) from `k` in place of their logits, added to the sums
 * in a tree but for the pivot's; `pivot` counts from there.  What their last roundings dropped
 * counts for smoothed targets. */
KERNEL_INLINE void NAME(some_exponentials)(REAL (*columns)[LANES], int k, int count, vec pivot,
                                           const NAME(exponential_reference) * reference,
                                           NAME(lane_sums) * sums, int kind) {
    const int step = count > INTERLEAVED ? INTERLEAVED : count,
              has_dropped = kind == XENT_SMOOTHED_TARGETS;
    vec x[4], e[4], dropped[4];
    EACH_OF(count, x[j] = v_load(columns[k + j]));
    for (int first = 0; first < count; first += step)
        NAME(scaled_exponentials)(x + first, step, *reference, e + first,
                                  has_dropped ? dropped + first : NULL);
    EACH_OF(count, v_store(columns[k + j], e[j]));
    EACH_OF(count, const vec_mask is_pivot = v_equal(pivot, v_splat(j));
            e[j] = v_drop(is_pivot, e[j]);
            if (has_dropped) dropped[j] = v_drop(is_pivot, dropped[j]));
    NAME(add_or_begin)(&sums->sum_of_others, NAME(sum_of_some)(e, count), k == 0);
    if (has_dropped)
        sums->dropped = v_add(sums->dropped, NAME(sum_of_some)(dropped, count));
}

/* Exponentials in place of the logits, and the sum of all but the pivot's. */
KERNEL_INLINE void NAME(columns_exponentials)(REAL (*columns)[LANES], int classes, vec pivot_logit,
                                              NAME(exponential_reference) reference,
                                              NAME(lane_sums) * sums, int kind) {
    sums->sum_of_others = NAME(zero_pair)();
    sums->dropped = v_splat(0);
    EACH_CLASS(classes, sums->pivot,
               NAME(some_exponentials)(columns, k, count, from_k, &reference, sums, kind));
    sums->exp_of_pivot = NAME(scaled_exponential_pair)(pivot_logit, reference);
}

/* The sum of the others as accurate as it is known. */
KERNEL_INLINE NAME(pair) NAME(accurate_others)(const NAME(lane_sums) * sums) {
    const NAME(pair)
        others = {sums->sum_of_others.high, v_add(sums->sum_of_others.low, sums->dropped)};
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

KERNEL_INLINE vec NAME(over_temperature)(vec a, double temperature) {
    return temperature == 1 ? a : v_div(a, v_splat((REAL)temperature));
}

/* Losses for a weight of 1: mass * log1p(T / e_m) + distance; z_loss added. */
KERNEL_INLINE NAME(pair)
    NAME(lane_losses)(NAME(lane_sums) * sums, const NAME(settings) * settings) {
    const double temperature = settings->row.temperature;
    const NAME(pair) others = NAME(accurate_others)(sums);
    NAME(pair) loss = NAME(log_of_ratio)(others, sums->exp_of_pivot);
    sums->log_of_sum = NAME(pair_total)(loss);
    sums->lse = v_splat(0);
    if (settings->row.wants_lse)
        sums->lse = v_add(NAME(over_temperature)(sums->maximum, temperature), sums->log_of_sum);
    loss = NAME(pair_product)(sums->target_mass, loss);
    NAME(pair_add)(&loss, NAME(over_temperature)(sums->distance, temperature));
    if (settings->row.z_loss != 0)
        NAME(add_z_loss)(sums, &loss, (REAL)settings->row.z_loss);
    return loss;
}

/* a ((Q - q) e - q T) / S, q the pivot's: see lanes_along_classes.h.  `inverse` is nearly 1 / S. */
KERNEL_INLINE vec NAME(gradient_of_pivot)(const NAME(lane_sums) * sums, NAME(pair) weight,
                                          vec inverse, int has_slope) {
    const NAME(pair) others = NAME(accurate_others)(sums),
                     target = {sums->pivot_target, v_splat(0)};
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

/* The gradient of `count` columns (1, 2 or 4) from `k` in place of their exponentials; `pivot` and
 * `labels` count from there. */
KERNEL_INLINE void NAME(some_gradients)(NAME(tile) * tile, int k, int count, vec pivot, vec labels,
                                        NAME(pair) factor, vec pivot_gradient, vec minus_weight,
                                        vec minus_label, const REAL *class_weight, int kind) {
    vec grad[4];
    if (kind == XENT_SMOOTHED_TARGETS)
        EACH_OF(count, const vec mass = class_weight
                                            ? v_mul(minus_weight, v_splat(class_weight[k + j]))
                                            : minus_weight;
                grad[j] = NAME(product_with_pair_plus)(
                    v_load(tile->columns[k + j]), factor,
                    v_select(v_equal(labels, v_splat(j)), minus_label, mass)));
    else
        EACH_OF(count,
                grad[j] = v_fma(minus_weight, v_load(tile->masses[k + j]),
                                NAME(product_with_pair)(v_load(tile->columns[k + j]), factor)));
    EACH_OF(count, v_store(tile->columns[k + j],
                           v_select(v_equal(pivot, v_splat(j)), pivot_gradient, grad[j])));
}

/* The gradient in place of the exponentials: e * factor - a q, and the pivot's. */
KERNEL_INLINE void NAME(columns_gradient)(NAME(tile) * tile, int classes, vec pivot,
                                          NAME(pair) factor, vec pivot_gradient, NAME(pair) weight,
                                          const NAME(smoothed_masses) * smoothed, int is_weighted,
                                          int kind) {
    const vec zero = v_splat(0);
    vec minus_weight = v_sub(zero, weight.high), minus_label = zero;
    if (kind == XENT_SMOOTHED_TARGETS) {
        minus_weight = v_sub(zero, NAME(rounded_product)(weight, smoothed->smoothing));
        minus_label = v_sub(zero, NAME(rounded_product)(weight, smoothed->label_target));
    }
    vec labels = zero; /* counted like the pivot */
    if (kind == XENT_SMOOTHED_TARGETS)
        labels = v_sub(smoothed->labels, pivot);
    EACH_CLASS(classes, pivot,
               NAME(some_gradients)(tile, k, count, from_k, v_add(labels, from_k), factor,
                                    pivot_gradient, minus_weight, minus_label,
                                    is_weighted ? smoothed->class_weight : NULL, kind));
}

/* The gradient of a tile in place of its exponentials.  The factor is weight * mass / sum, of the
 * exponentials as they are stored, so that no probability exceeds 1. */
KERNEL_INLINE void NAME(gradient_of_tile)(NAME(tile) * tile, int classes,
                                          const NAME(lane_sums) * sums, NAME(pair) weight,
                                          const NAME(lane_weights) * weights,
                                          const NAME(smoothed_masses) * smoothed,
                                          vec_mask is_number, const row_settings *settings,
                                          int kind) {
    const vec not_a_number = v_splat(NAN);
    const int has_slope = settings->z_loss != 0;
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
        NAME(columns_gradient)(tile, classes, sums->pivot, factor, pivot_gradient, weight, smoothed,
                               1, kind);
    else
        NAME(columns_gradient)(tile, classes, sums->pivot, factor, pivot_gradient, weight, smoothed,
                               0, kind);
    if (weights->is_rescaled && settings->output == XENT_GRADIENT)
        for (int k = 0; k < classes; ++k)
            v_store(tile->columns[k], v_mul(v_load(tile->columns[k]), weights->last_factor));
}

/* Lanes whose loss the lanes' type holds with few digits, though a double does not: it is Q log1p(T
 * / e), and log1p(r) is r there.  0 where there are others. */
KERNEL_INLINE unsigned NAME(tiny_losses)(const NAME(pair) * loss, const NAME(lane_sums) * sums,
                                         const NAME(settings) * settings) {
    const vec zero = v_splat(0), limit = v_splat((REAL)TINY_LOSS);
    const vec magnitude = v_max(v_sub(zero, loss->high), loss->high);
    unsigned tiny = v_mask_bits(v_greater(limit, magnitude)) &
                    v_mask_bits(v_greater(sums->sum_of_others.high, zero));
    tiny &= v_mask_bits(v_equal(sums->distance, zero));
    return settings->row.z_loss != 0 ? 0 : tiny;
}

/* What the rows of a tile have to tell, one a lane. */
typedef struct {
    NAME(pair) loss; /* for a weight of 1; a sum of two */
    NAME(pair)
    mass, others, exp_of_pivot; /* what losses too small for the lanes' type are made of */
    unsigned leaving; /* bit k for lane k: what stands there is wrong, and double_rows.h must take
                         the row */
    unsigned is_tiny; /* bit k for lane k: such a loss is mass others / exp_of_pivot */
    vec lse, prediction;
    vec maximum, log_of_sum; /* lse = maximum / T + log_of_sum, targets with mass; NaN where there
                                is no number */
} NAME(lane_results);

/* A number's size. */
KERNEL_INLINE vec NAME(magnitude)(vec a) { return v_max(v_sub(v_splat(0), a), a); }

/* Lanes whose weights and masses, of the sizes given, are too large for the lanes' type, or make a
 * class visible that the exponentials flush to 0. */
static NEVER_INLINE unsigned NAME(lanes_out_of_reach)(REAL (*columns)[LANES], int classes,
                                                      vec maximum, vec factor, vec largest,
                                                      const NAME(exponent_scale) * scale) {
    const NAME(reach) reach = NAME(reach_of)(factor, scale);
    unsigned leaving = v_mask_bits(v_not_less(largest, v_splat(LARGEST_FACTOR)));
    const unsigned counts = v_mask_bits(v_not_less(factor, v_splat(VISIBLE_FACTOR)));
    for (int k = 0; k < classes; ++k)
        leaving |=
            counts & v_mask_bits(NAME(is_out_of_reach)(v_sub(maximum, v_load(columns[k])), &reach));
    return leaving;
}

/* Lanes that must leave the lanes' type (double_rows.h), as far as that is known before the
 * exponentials. */
KERNEL_INLINE unsigned NAME(leaving_lanes)(REAL (*columns)[LANES], int classes,
                                           const NAME(lane_sums) * sums, vec gradient_weight,
                                           const NAME(lane_weights) * weights,
                                           const NAME(settings) * settings) {
    const unsigned all = (1u << LANES) - 1;
    if (settings->all_leave)
        return all;
    if (settings->row.output != XENT_GRADIENT)
        return 0;
    const vec weight = v_mul(NAME(magnitude)(gradient_weight), weights->last_factor);
    const vec mass =
        v_max(NAME(magnitude)(sums->target_mass.high), NAME(magnitude)(sums->pivot_target));
    const vec largest = v_max(weight, v_max(mass, NAME(magnitude)(sums->other_mass.high)));
    const vec factor = v_max(v_mul(weight, mass), weight);
    if (v_mask_bits(v_not_less(v_max(largest, factor), v_splat(VISIBLE_FACTOR))) == 0)
        return 0;
    return NAME(lanes_out_of_reach)(columns, classes, sums->maximum, factor, largest,
                                    &settings->scale);
}

/* A vector of rows on its way. */
typedef struct {
    NAME(tile) tile;
    const NAME(lane_weights) * weights;
    const NAME(smoothed_masses) * smoothed;
    NAME(pair) gradient_weight; /* 0 for ignored rows */
    NAME(lane_sums) sums;
    NAME(lane_results) results;
    vec base;                 /* the maximum, or 0 where it is infinite */
    vec lanes;                /* labels; -1 where there is none or no row */
    int64_t first, row_count; /* among the rows of the call */
} NAME(short_rows);

/* What its sweeps find: masses, exponentials in place of the logits, their sums. */
KERNEL_INLINE void NAME(sum_tile)(NAME(short_rows) * rows, int classes,
                                  const NAME(settings) * settings, int kind) {
    NAME(tile) *tile = &rows->tile;
    NAME(lane_sums) sums;
    sums.slope = v_splat(0);
    NAME(columns_maximum)(tile->columns, classes, &sums);
    const vec base = NAME(finite_maximum)(sums.maximum);
    if (kind == XENT_SMOOTHED_TARGETS && settings->row.output != XENT_GRADIENT)
        NAME(forget_masses)(&sums);
    else if (kind == XENT_SMOOTHED_TARGETS && rows->smoothed->class_weight)
        NAME(columns_masses)(tile, classes, rows->smoothed, base, &sums, 1, kind);
    else
        NAME(columns_masses)(tile, classes, rows->smoothed, base, &sums, 0, kind);
    rows->results.leaving = NAME(leaving_lanes)(
        tile->columns, classes, &sums, rows->gradient_weight.high, rows->weights, settings);
    const vec shift =
        NAME(shift_huge_columns)(tile->columns, classes, base, settings->scale.huge_logit);
    const vec shifted_maximum = v_sub(base, shift);
    const NAME(exponential_reference) reference = NAME(reference_for)(
        NAME(reference_exponent)(shifted_maximum, &settings->scale), &settings->scale);
    NAME(columns_exponentials)(tile->columns, classes, shifted_maximum, reference, &sums, kind);
    rows->base = base;
    rows->sums = sums;
}

/* Losses, statistics and, if asked for, the gradient in place of the exponentials. */
KERNEL_INLINE void NAME(settle_tile)(NAME(short_rows) * rows, int classes,
                                     const NAME(settings) * settings, int has_grad, int kind) {
    const vec zero = v_splat(0);
    NAME(lane_sums) sums = rows->sums;
    NAME(lane_results) results;
    results.leaving = rows->results.leaving;
    const vec sum = v_add(sums.sum_of_others.high, sums.exp_of_pivot.high);
    const vec_mask is_number = v_greater(v_keep(v_equal(rows->base, sums.maximum), sum), zero);
    results.loss = NAME(lane_losses)(&sums, settings);
    if (has_grad)
        NAME(gradient_of_tile)(&rows->tile, classes, &sums, rows->gradient_weight, rows->weights,
                               rows->smoothed, is_number, &settings->row, kind);
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
    rows->results = results;
}

/* A class's weight. */
KERNEL_INLINE double NAME(class_weight)(const xent_batch *batch, int64_t label) {
    return batch->class_weight ? (double)((const REAL *)(const void *)batch->class_weight)[label]
                               : 1;
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

KERNEL_INLINE int NAME(is_small_weight)(double weight) {
    return (fabs(weight) < SMALL_WEIGHT) & (weight != 0);
}

/* Whether any of a vector of weights is, eight doubles at a time. */
KERNEL_INLINE int NAME(has_small_weight)(const double *weight) {
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
KERNEL_INLINE void NAME(rescale_weights)(double *weight, NAME(lane_weights) * weights) {
    ALIGNED_64 REAL last_factor[LANES];
    for (int row = 0; row < LANES; ++row) {
        const int is_small = NAME(is_small_weight)(weight[row]);
        weight[row] *= is_small ? RESCALE : 1;
        last_factor[row] = (REAL)(is_small ? 1 / RESCALE : 1);
    }
    weights->last_factor = v_load(last_factor);
}

/* Weights of `row_count` rows from `first_row`: sample_weight times weight_factor and, where no
 * mass carries it, the class's. */
KERNEL_INLINE void NAME(weigh_rows)(const xent_batch *batch, int64_t first_row, int row_count,
                                    const int64_t *labels, double *weight, int kind) {
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
    return batch->sample_weight != NULL ||
           (batch->grad_output != NULL && batch->grad_output_step != 0);
}

/* The weights of gradients from those of losses; `may_leave` also where theirs reach
 * VISIBLE_FACTOR. */
static NEVER_INLINE void NAME(weigh_gradients)(const xent_batch *batch, int64_t first_row,
                                               int row_count, double *weight, int *may_leave) {
    for (int row = 0; row < row_count; ++row) {
        weight[row] *= batch->grad_output[(first_row + row) * batch->grad_output_step];
        *may_leave |= !(fabs(weight[row] / batch->temperature) < (double)VISIBLE_FACTOR);
    }
}

/* The same as a vector, 0 beyond `row_count`.  `labels` has a whole vector where the kind has class
 * indices. */
KERNEL_INLINE void NAME(weights_of_rows)(const xent_batch *batch, int64_t first_row, int row_count,
                                         const int64_t *labels, int kind,
                                         NAME(lane_weights) * weights) {
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
KERNEL_INLINE vec NAME(lane_labels)(const xent_labels *labels, const int64_t *values,
                                    int row_count) {
    ALIGNED_64 int64_t counted[LANES];
    if (row_count == LANES && !labels->has_ignore_index)
        return v_from_integers(values);
    for (int row = 0; row < LANES; ++row)
        counted[row] = row >= row_count || is_ignored(labels, values[row]) ? -1 : values[row];
    return v_from_integers(counted);
}

/* Statistics of rows, of those that are not ignored. */
KERNEL_INLINE void NAME(tell_lanes)(const xent_batch *batch, int64_t first_row, int row_count,
                                    vec labels, vec row_lse, vec row_prediction, int has_labels) {
    ALIGNED_64 REAL numbers[LANES], lse[LANES], prediction[LANES];
    v_store(numbers, labels);
    v_store(lse, row_lse);
    v_store(prediction, row_prediction);
    if (batch->lse)
        for (int row = 0; row < row_count; ++row)
            ((REAL *)(void *)batch->lse)[first_row + row] =
                has_labels && numbers[row] < 0 ? (REAL)NAN : lse[row];
    if (batch->prediction)
        for (int row = 0; row < row_count; ++row)
            batch->prediction[first_row + row] =
                has_labels && numbers[row] < 0 ? -1 : (int64_t)prediction[row];
}

/* log p = (x - m) / T - log of the sum, in place of the logits. */
KERNEL_INLINE void NAME(columns_log_probabilities)(REAL (*columns)[LANES], int classes,
                                                   const NAME(lane_results) * results,
                                                   REAL temperature) {
    const vec_mask is_number = v_equal(results->maximum, results->maximum);
    for (int k = 0; k < classes; ++k) {
        const vec distance =
            v_div(v_sub(v_load(columns[k]), results->maximum), v_splat(temperature));
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

static NEVER_INLINE void NAME(replace_tiny_losses)(const NAME(lane_results) * results,
                                                   double *losses) {
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
KERNEL_INLINE void NAME(weigh_losses)(const NAME(lane_results) * results, const double *weight,
                                      int row_count, double *losses) {
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

/* Takes the rows of a tile that leave its lanes from where they lie in memory; gradients to the
 * columns, unless NULL. */
static NEVER_INLINE void NAME(take_leaving_rows)(const xent_batch *batch, int64_t first_row,
                                                 int row_count, unsigned leaving,
                                                 const int64_t *labels, REAL (*columns)[LANES],
                                                 double *losses, int kind) {
    for (int row = 0; row < row_count; ++row) {
        if (!(leaving >> row & 1) || (HAS_LABELS(kind) && is_ignored(&batch->labels, labels[row])))
            continue;
        losses[row] = NAME(loss_of_far_row)(batch, first_row + row,
                                            clamped_label(labels[row], batch->classes), kind,
                                            columns ? &columns[0][row] : NULL, LANES);
    }
}

/* Loads a vector of rows, whose weights are given, and sums it up.  `labels` has a whole vector;
 * what they make of `smoothed` is kept there. */
KERNEL_INLINE void NAME(load_short_rows)(NAME(short_rows) * rows, const xent_batch *batch,
                                         int64_t first_row, const int64_t *labels,
                                         NAME(smoothed_masses) * smoothed,
                                         const NAME(settings) * settings, int kind) {
    NAME(tile) *tile = &rows->tile;
    const int classes = (int)batch->classes, row_count = (int)rows->row_count;
    const char *logits = batch->logits + first_row * batch->logits_row_stride;
    NAME(load_columns)(tile->columns, logits, batch->logits_row_stride, batch->logits_class_stride,
                       row_count, classes);
    rows->lanes = v_splat(-1);
    if (HAS_LABELS(kind)) {
        rows->lanes = NAME(lane_labels)(&batch->labels, labels, row_count);
        if (row_count < LANES || batch->labels.has_ignore_index) {
            rows->gradient_weight =
                NAME(keep_pair)(v_not_less(rows->lanes, v_splat(0)), rows->gradient_weight);
            NAME(clear_rows_without_label)(tile->columns, classes, rows->lanes);
        }
    } else {
        NAME(load_columns)(
            tile->masses, batch->dense_targets + first_row * batch->dense_targets_row_stride,
            batch->dense_targets_row_stride, batch->dense_targets_class_stride, row_count, classes);
    }
    if (kind == XENT_SHAPED_TARGETS)
        NAME(shape_masses)(tile, batch);
    if (kind == XENT_SMOOTHED_TARGETS) {
        smoothed->labels = rows->lanes;
        if (smoothed->class_weight)
            NAME(smooth_labels)(smoothed, labels, row_count, classes);
        rows->smoothed = smoothed;
    }
    NAME(sum_tile)(rows, classes, settings, kind);
}

/* Its losses to `row_loss`, its statistics and its output to their places. */
KERNEL_INLINE void NAME(write_short_rows)(NAME(short_rows) * rows, const xent_batch *batch,
                                          int64_t first_row, const int64_t *labels,
                                          double *row_loss, const NAME(settings) * settings,
                                          int kind) {
    NAME(tile) *tile = &rows->tile;
    const NAME(lane_results) *results = &rows->results;
    const int classes = (int)batch->classes, row_count = (int)rows->row_count,
              has_grad = batch->grad != NULL;
    if (has_grad && settings->row.output == XENT_LOG_PROBABILITIES) {
        NAME(load_columns)(tile->columns, batch->logits + first_row * batch->logits_row_stride,
                           batch->logits_row_stride, batch->logits_class_stride, row_count,
                           classes);
        NAME(columns_log_probabilities)(tile->columns, classes, results,
                                        (REAL)settings->row.temperature);
    }
    NAME(weigh_losses)(results, rows->weights->of_loss, row_count, row_loss);
    if (HAS_LABELS(kind) && batch->labels.has_ignore_index)
        for (int row = 0; row < row_count; ++row)
            row_loss[row] = is_ignored(&batch->labels, labels[row]) ? 0 : row_loss[row];
    if (batch->lse || batch->prediction)
        NAME(tell_lanes)(batch, first_row, row_count, rows->lanes, results->lse,
                         results->prediction, HAS_LABELS(kind));
    /* their weight of 0 alone gives NaN where a mass overflows */
    if (has_grad && HAS_LABELS(kind) && batch->labels.has_ignore_index)
        NAME(clear_rows_without_label)(tile->columns, classes, rows->lanes);
    if (results->leaving)
        NAME(take_leaving_rows)(batch, first_row, row_count, results->leaving, labels,
                                has_grad ? tile->columns : NULL, row_loss, kind);
    if (has_grad)
        NAME(store_columns)(tile->columns, batch->grad + first_row * batch->grad_row_stride,
                            batch->grad_row_stride, batch->grad_class_stride, row_count, classes);
}

/* All of them, some vectors of rows at a time; smoothed targets, whose masses have one place, a
 * vector.  `labels` has a whole vector from each row on. */
KERNEL_INLINE void NAME(many_short_rows)(const xent_batch *batch, int64_t first_row,
                                         int64_t row_count, const int64_t *labels, double *row_loss,
                                         int kind) {
    const int has_own_weights = NAME(has_own_weights)(batch),
              most = HAS_OWN_MASSES(kind) ? VECTORS_AT_ONCE : 1;
    const int has_gradient = batch->grad != NULL && batch->output != XENT_LOG_PROBABILITIES;
    const NAME(settings) settings = NAME(settings_of)(batch);
    NAME(lane_weights) weights[VECTORS_AT_ONCE];
    NAME(smoothed_masses) smoothed;
    NAME(short_rows) some[VECTORS_AT_ONCE];
    if (kind == XENT_SMOOTHED_TARGETS)
        smoothed = NAME(smoothed_masses_of)(batch);
    if (!has_own_weights)
        NAME(weights_of_rows)(batch, first_row, LANES, labels, kind, weights);
    int count = NAME(rows_of_first_vector)(batch, first_row);
    for (int64_t k = 0; k < row_count;) {
        int vectors = 0;
        for (; k < row_count && vectors < most; k += count, count = LANES, ++vectors) {
            NAME(short_rows) *rows = &some[vectors];
            if (row_count - k < count)
                count = (int)(row_count - k);
            rows->weights = has_own_weights ? &weights[vectors] : weights;
            if (has_own_weights)
                NAME(weights_of_rows)(batch, first_row + k, count, labels + k, kind,
                                      &weights[vectors]);
            rows->gradient_weight = rows->weights->gradient_weight;
            rows->first = k;
            rows->row_count = count;
            NAME(load_short_rows)(rows, batch, first_row + k, labels + k, &smoothed, &settings,
                                  kind);
        }
        for (int j = 0; j < vectors; ++j)
            NAME(settle_tile)(&some[j], (int)batch->classes, &settings, has_gradient, kind);
        for (int j = 0; j < vectors; ++j)
            NAME(write_short_rows)(&some[j], batch, first_row + some[j].first,
                                   labels + some[j].first, row_loss + some[j].first, &settings,
                                   kind);
    }
}
