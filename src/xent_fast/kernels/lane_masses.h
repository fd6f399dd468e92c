/* Targets with mass of a few classes, one row a lane: the masses, their sums and distances.  A
 * template over REAL_BITS.
 *
 * Knows: dense, shaped and smoothed targets; the state of a vector of rows between the sweeps.
 * Must not know: how exponentials are made, instruction sets, threads, Python.
 */
#include "lane_rows.h"

/* Per-lane state between the sweeps. */
typedef struct {
    vec maximum, pivot; /* pivot: the class left out of the sum; -1 for an ignored row */
    vec_pair exp_of_pivot;
    vec_pair sum_of_others; /* of exponentials as they are stored */
    vec dropped;            /* what their last roundings took from that sum */
    vec_pair target_mass;
    vec distance, pivot_target;
    vec_pair other_mass; /* all but the pivot's */
    vec lse, log_of_sum;
    vec slope; /* 2 z lse */
} lane_sums;

/* Where the masses of smoothed targets come from: q = E / C w, and at the label (1 - E) w_y
 * more. */
typedef struct {
    const REAL *class_weight;           /* w; NULL for 1 */
    vec_pair share, smoothing;          /* 1 - E and E / C */
    vec_pair weight_sum;                /* of all classes */
    vec labels, label_mass;             /* y and (1 - E) w_y */
    vec_pair label_target, target_mass; /* q_y and Q */
} smoothed_masses;

/* Masses of shaped targets in place of dense ones: w ((1 - E) t + E / C). */
KERNEL_INLINE void shape_masses(row_tile *tile, const xent_batch *batch) {
    const REAL *class_weight = (const REAL *)(const void *)batch->class_weight;
    const vec share = v_splat((REAL)(1 - batch->options.label_smoothing));
    const vec floor = v_splat((REAL)(batch->options.label_smoothing / (double)batch->classes));
    for (int64_t k = 0; k < batch->classes; ++k) {
        const vec mass = v_fma(v_load(tile->masses[k]), share, floor);
        v_store(tile->masses[k], class_weight ? v_mul(mass, v_splat(class_weight[k])) : mass);
    }
}

/* What the labels' weights make of the masses. */
KERNEL_INLINE void weigh_labels(smoothed_masses *masses, vec label_weight) {
    const vec_pair weight = {label_weight, v_splat(0)};
    const vec_pair label_mass = pair_product(masses->share, weight);
    masses->label_mass = v_add(label_mass.high, label_mass.low);
    masses->label_target = pair_product(masses->smoothing, weight);
    masses->target_mass = pair_product(masses->smoothing, masses->weight_sum);
    pair_add_pair(&masses->label_target, label_mass);
    pair_add_pair(&masses->target_mass, label_mass);
}

/* The masses of a call's smoothed targets, as far as they do not depend on a row's label. */
KERNEL_INLINE smoothed_masses smoothed_masses_of(const xent_batch *batch) {
    double weight_sum = (double)batch->classes;
    smoothed_masses masses;
    masses.class_weight = (const REAL *)(const void *)batch->class_weight;
    if (masses.class_weight) {
        weight_sum = 0;
        for (int64_t k = 0; k < batch->classes; ++k)
            weight_sum += (double)masses.class_weight[k];
    }
    masses.share = pair_of(1 - batch->options.label_smoothing);
    masses.smoothing = pair_of(batch->options.label_smoothing / (double)batch->classes);
    masses.weight_sum = pair_of(weight_sum);
    weigh_labels(&masses, v_splat(1));
    return masses;
}

/* Those of a vector of labels, of which `row_count` are rows'. */
KERNEL_INLINE void smooth_labels(smoothed_masses *masses, const int64_t *values, int row_count,
                                 int64_t classes) {
    ALIGNED_64 REAL label_weight[LANES] = {0};
    for (int row = 0; row < row_count; ++row)
        label_weight[row] = masses->class_weight[clamped_label(values[row], classes)];
    weigh_labels(masses, v_load(label_weight));
}

/* What a sweep over the columns finds of the masses: the sums of q and of q (base - x), or of w
 * (base - x) for smoothed targets, and what is the label's and the pivot's own. */
typedef struct {
    vec_pair mass, distance;
    vec label_distance,
        pivot_mass; /* base - x of the label, smoothed targets; q of the pivot, or its w */
} column_sums;

/* Adds `count` columns (1, 2 or 4) from `k` in a tree, a dense target's masses two by two: every
 * gradient has the error of their sum (without FMA, where more is rounded, one by one).  `pivot`
 * and `labels` count from `k`.  0 * inf = 0. */
KERNEL_INLINE void add_columns(const row_tile *tile, int64_t k, int count,
                               const smoothed_masses *smoothed, vec base, vec pivot, vec labels,
                               column_sums *sums, int is_weighted, int kind) {
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
        const int together = HAS_FMA && count > 1 ? 2 : 1;
        for (int j = 0; j < count; j += together)
            add_or_begin(&sums->mass, sum_of_some(masses + j, together), k + j == 0);
    }
    if (kind != XENT_SMOOTHED_TARGETS || is_weighted)
        EACH_OF(count, sums->pivot_mass =
                           v_select(v_equal(pivot, v_splat(j)), masses[j], sums->pivot_mass));
    add_or_begin(&sums->distance,
                 kind == XENT_SMOOTHED_TARGETS ? sum_of_some(terms, count)
                                               : sum_of_some_products(masses, terms, count),
                 k == 0);
}

/* Mass and distance of smoothed targets; no mass is the difference of two. */
KERNEL_INLINE void smooth_lanes(const smoothed_masses *smoothed, const column_sums *found,
                                lane_sums *sums) {
    const vec zero = v_splat(0), smoothing = smoothed->smoothing.high,
              label_mass = smoothed->label_mass;
    const vec_mask is_label = v_equal(sums->pivot, smoothed->labels);
    const vec other_weight =
        v_add(v_sub(smoothed->weight_sum.high, found->pivot_mass), smoothed->weight_sum.low);
    /* 0 * inf = 0 */
    sums->distance = v_drop(v_equal(label_mass, zero), v_mul(label_mass, found->label_distance));
    if (v_first(smoothing) != 0)
        sums->distance = v_fma(smoothing, pair_total(found->distance), sums->distance);
    sums->target_mass = smoothed->target_mass;
    sums->pivot_target =
        v_select(is_label, smoothed->label_target.high, v_mul(smoothing, found->pivot_mass));
    sums->other_mass.high = v_fma(smoothing, other_weight, v_drop(is_label, label_mass));
    sums->other_mass.low = zero;
}

/* Mass and distance (see lanes_along_classes.h). */
KERNEL_INLINE void columns_masses(const row_tile *tile, int classes,
                                  const smoothed_masses *smoothed, vec base, lane_sums *sums,
                                  int is_weighted, int kind) {
    const vec zero = v_splat(0);
    const int has_unit_mass = kind == XENT_SMOOTHED_TARGETS && !is_weighted;
    column_sums found = {zero_pair(), zero_pair(), zero, v_splat(has_unit_mass ? 1 : 0)};
    vec labels = zero; /* counted like the pivot */
    if (kind == XENT_SMOOTHED_TARGETS)
        labels = v_sub(smoothed->labels, sums->pivot);
    EACH_CLASS(classes, sums->pivot,
               add_columns(tile, k, count, smoothed, base, from_k, v_add(labels, from_k), &found,
                           is_weighted, kind));
    if (kind == XENT_SMOOTHED_TARGETS) {
        smooth_lanes(smoothed, &found, sums);
        return;
    }
    sums->target_mass = sums->other_mass = found.mass;
    pair_add(&sums->other_mass, v_sub(zero, found.pivot_mass));
    sums->distance = pair_total(found.distance);
    sums->pivot_target = found.pivot_mass;
}
