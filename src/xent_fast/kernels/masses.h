/* Targets with mass of one row, a vector of classes at a time, and how vectors are added.  A
 * template over REAL_BITS.
 *
 * Knows: dense, shaped and smoothed targets; vectors of which only some numbers are there.
 * Must not know: exponentials, instruction sets, threads, Python.
 */

/* A vector of which only `count` numbers may be there, or none. */
VECTOR_INLINE vec load_up_to(const REAL *source, int count, REAL fill) {
    return count >= LANES ? v_load(source)
           : count > 0    ? v_load_first(source, count, fill)
                          : v_splat(fill);
}

/* Numbers of the lanes' own type until the next line of memory begins. */
KERNEL_INLINE int64_t numbers_before_line(const char *numbers) {
    return (int64_t)(-(uintptr_t)numbers % 64 / sizeof(REAL));
}

VECTOR_INLINE vec load_stored_up_to(const char *source, int64_t at, int64_t count, REAL fill,
                                    int storage) {
    return count >= LANES ? load_stored(source, at, storage)
           : count > 0    ? load_first_stored(source, at, (int)count, fill, storage)
                          : v_splat(fill);
}

/* Where a row's masses come from: q = w ((1 - E) t + E / C), or q = E / C w and (1 - E) w_y more at
 * its class index. */
typedef struct {
    const REAL *targets;          /* t; NULL for class indices */
    const REAL *class_weight;     /* w; NULL for 1 */
    REAL share, floor;            /* 1 - E and E / C, dense targets */
    double label_mass, smoothing; /* (1 - E) w_y and E / C, class indices */
    const double *weight_sums;    /* sum of w over each block; NULL where w is */
} row_masses;

/* A class's weight. */
KERNEL_INLINE double weight_of_class(const xent_batch *batch, int64_t label) {
    XENT_ASSERT(!batch->class_weight || (label >= 0 && label < batch->classes));
    return batch->class_weight ? (double)((const REAL *)(const void *)batch->class_weight)[label]
                               : 1;
}

/* Masses of row `row`, whose class index is `label` if it has one; `weight_sums`, of the class
 * weights of each block. */
KERNEL_INLINE row_masses masses_of_row(const xent_batch *batch, int64_t row, int64_t label,
                                       const double *weight_sums, int kind) {
    row_masses masses = {NULL, NULL, 1, 0, 0, 0, NULL};
    if (!HAS_MASS(kind))
        return masses;
    if (kind != XENT_DENSE_TARGETS)
        masses.class_weight = (const REAL *)(const void *)batch->class_weight;
    if (kind == XENT_SMOOTHED_TARGETS) {
        masses.label_mass = (1 - batch->options.label_smoothing) * weight_of_class(batch, label);
        masses.smoothing = batch->options.label_smoothing / (double)batch->classes;
        masses.weight_sums = masses.class_weight ? weight_sums : NULL;
        return masses;
    }
    masses.targets = (const REAL *)(const void *)xent_row(&batch->dense_targets, row);
    if (kind == XENT_SHAPED_TARGETS) {
        masses.share = (REAL)(1 - batch->options.label_smoothing);
        masses.floor = (REAL)(batch->options.label_smoothing / (double)batch->classes);
    }
    return masses;
}

/* Masses of a vector of dense targets, whose class weights are given (or not used). */
VECTOR_INLINE vec shaped_mass(const row_masses *masses, vec target, vec class_weight) {
    const vec mass = v_fma(target, v_splat(masses->share), v_splat(masses->floor));
    return masses->class_weight ? v_mul(mass, class_weight) : mass;
}

VECTOR_INLINE vec mass_of_vector(const row_masses *masses, int64_t at, int kind) {
    const vec target = v_load(masses->targets + at);
    if (kind == XENT_DENSE_TARGETS)
        return target;
    return shaped_mass(masses, target,
                       masses->class_weight ? v_load(masses->class_weight + at) : v_splat(0));
}

/* The same where only `count` classes are left: 0 beyond them. */
VECTOR_INLINE vec mass_of_some(const row_masses *masses, int64_t at, int count, int kind) {
    const vec zero = v_splat(0);
    if (count <= 0)
        return zero;
    if (count >= LANES)
        return mass_of_vector(masses, at, kind);
    const vec target = v_load_first(masses->targets + at, count, 0);
    if (kind == XENT_DENSE_TARGETS)
        return target;
    const vec weight =
        masses->class_weight ? v_load_first(masses->class_weight + at, count, 0) : zero;
    const vec_mask is_class = v_greater(v_splat((REAL)count), v_lane_numbers());
    return v_keep(is_class, shaped_mass(masses, target, weight));
}

/* Mass of one class, dense targets. */
KERNEL_INLINE double mass_of_class(const row_masses *masses, int64_t at, int kind) {
    return (double)v_first(mass_of_some(masses, at, 1, kind));
}

/* Four vectors in a tree. */
VECTOR_INLINE vec sum_of_four(const vec *summands) { return sum_of_some(summands, 4); }

/* Adds four vectors in a tree, then to the wide sum. */
VECTOR_INLINE void add_four(wide_sum *sum, const vec *summands) {
    wide_add(sum, sum_of_four(summands));
}

/* Adds two sums. */
VECTOR_INLINE void add_two_sums(wide_sum *sum, vec first, vec second) {
    wide_add(sum, first);
    wide_add(sum, second);
}

/* Adds `count` numbers of half a group that is cut short, of which a row has but one: without
 * loss. */
VECTOR_INLINE void add_last_four(wide_sum *sum, const vec *summands, int64_t count) {
    EACH_OF(4, if (j * LANES < count) wide_add(sum, summands[j]));
}

/* LANES_DISTANCE_UNIT times base - x, rounded once; `base` has the unit already. */
VECTOR_INLINE vec distance_from(vec base, vec x) {
    return v_fma(x, v_splat(-LANES_DISTANCE_UNIT), base);
}

/* Such distances' sum, in units of DISTANCE_UNIT. */
KERNEL_INLINE double distance_total(wide_sum sum) {
    return wide_total(sum) * (DISTANCE_UNIT / (double)LANES_DISTANCE_UNIT);
}

/* LANES_DISTANCE_UNIT times w (base - x); with `drops_zeros` 0 where w is, whatever the logit. */
KERNEL_INLINE vec weighted_distance(vec x, vec class_weight, vec base, int is_weighted,
                                    int drops_zeros) {
    const vec distance = distance_from(base, x);
    if (!is_weighted)
        return distance;
    const vec product = v_mul(class_weight, distance);
    return drops_zeros ? v_drop(v_equal(class_weight, v_splat(0)), product) : product;
}

/* The distances of smoothed targets in a block, the sum of weighted_distance: a sweep of their own,
 * since the exponentials need the registers.  Eight vectors in a tree, then in the wide sum. */
KERNEL_INLINE double sum_of_distances(const char *logits, const REAL *class_weight, int64_t count,
                                      vec base, int is_weighted, int drops_zeros, int storage) {
    wide_sum sum = zero_wide();
    const REAL nearest = v_first(base) / LANES_DISTANCE_UNIT;
    vec near[4], far[4], weight[4] = {base, base, base, base};
    int64_t k = 0;
    for (; k + GROUP <= count; k += GROUP) {
        if (is_weighted)
            EACH_OF(4, weight[j] = v_load(class_weight + k + j * LANES));
        EACH_OF(4, near[j] = weighted_distance(load_stored(logits, k + j * LANES, storage),
                                               weight[j], base, is_weighted, drops_zeros));
        if (is_weighted)
            EACH_OF(4, weight[j] = v_load(class_weight + k + HALF_GROUP + j * LANES));
        EACH_OF(4,
                far[j] = weighted_distance(load_stored(logits, k + HALF_GROUP + j * LANES, storage),
                                           weight[j], base, is_weighted, drops_zeros);
                near[j] = v_add(near[j], far[j]));
        add_four(&sum, near);
    }
    for (; k < count; k += HALF_GROUP) {
        const int left = count - k < HALF_GROUP ? (int)(count - k) : HALF_GROUP;
        if (is_weighted)
            EACH_OF(4, weight[j] = load_up_to(class_weight + k + j * LANES, left - j * LANES, 0));
        /* classes that are not there are no distance away */
        EACH_OF(4, near[j] = weighted_distance(
                       load_stored_up_to(logits, k + j * LANES, left - j * LANES, nearest, storage),
                       weight[j], base, is_weighted, drops_zeros));
        add_four(&sum, near);
    }
    return distance_total(sum);
}
