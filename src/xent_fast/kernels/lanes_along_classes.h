/* Lanes along classes: one row at a time, vectors along its classes.  A template over REAL_BITS.
 *
 * Knows: THE algorithm for rows longer than a few vectors.
 * Must not know: instruction sets, threads, Python.
 *
 * A row is cut into blocks of BLOCK classes, a block into groups of eight vectors.
 *
 *   forward, a block    its maximum m_b, c_b = round(m_b log2 e), e = 2^(x log2 e - c_b) stored in
 *                       the gradient's place, and the sum of all e but one class's: the target's
 *                       (index targets) or the block's first maximum (targets with mass at every
 *                       class)
 *   row                 the block of the row's maximum m gives the reference c; the others weigh
 *                       2^(c_b - c), exactly; several rows go through row_stage.h side by side
 *   backward, a block   grad = e * factor_b (- a q for targets with mass); the class left out is
 *                       written last
 *
 * Sums: the eight vectors of a group in a tree, groups in a wide sum (sums.h); blocks in their
 * order, with compensation.  Padding and excluded lanes add an exact 0, so that the order is a
 * function of the number of classes alone.
 *
 * Where logits or gradient have 16 bits, the sweeps widen and round on the way (storage.h), and
 * exponentials lie in a row of the lanes' own type.
 */

/* What the forward sweep of one block leaves for the row. */
typedef struct {
    double sum_of_others; /* times 2^-SCALE_UP, relative to the block's reference */
    double maximum;
    double shift;     /* subtracted from the logits first: 0, or the maximum where it is huge */
    double reference; /* c_b, an integer */
    double weight;    /* of this block relative to the row's reference */
    /* targets with mass q; smoothed ones: the same of w instead of q */
    double target_mass; /* sum of q */
    double distance; /* DISTANCE_UNIT times the sum of q (base - x), base: the maximum, or 0 where
                        that is infinite */
    double exp_of_pivot; /* e of the class left out, in the units of sum_of_others */
    int64_t pivot;       /* class left out, from the row's start */
    /* index targets, where lse is wanted: pivot is the block's first maximum, and sum_below that of
     * all others */
    double sum_below;
} NAME(block_summary);

/* A vector of which only `count` numbers may be there, or none. */
VECTOR_INLINE vec NAME(load_up_to)(const REAL *source, int count, REAL fill) {
    return count >= LANES ? v_load(source)
           : count > 0    ? v_load_first(source, count, fill)
                          : v_splat(fill);
}

VECTOR_INLINE vec NAME(load_stored_up_to)(const char *source, int64_t at, int64_t count, REAL fill,
                                          int storage) {
    return count >= LANES ? NAME(load_stored)(source, at, storage)
           : count > 0    ? NAME(load_first_stored)(source, at, (int)count, fill, storage)
                          : v_splat(fill);
}

/* Largest of `count` logits; NaN is passed over, so that it is -inf where there is no number. */
KERNEL_INLINE REAL NAME(block_maximum)(const char *logits, int64_t count, int storage) {
    const vec lowest = v_splat(-INFINITY);
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED) {
        ALIGNED_64 uint16_t largest[LANES] = {0};
        largest[0] = largest_of_16_bits(logits, count);
        const REAL maximum = v_first(v_load_16_bits(largest, storage));
        if (maximum == maximum)
            return maximum;
    }
#endif
    vec a = lowest, b = lowest, c = lowest, d = lowest;
    int64_t k = 0;
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        a = v_max(NAME(load_stored)(logits, k, storage), a);
        b = v_max(NAME(load_stored)(logits, k + LANES, storage), b);
        c = v_max(NAME(load_stored)(logits, k + 2 * LANES, storage), c);
        d = v_max(NAME(load_stored)(logits, k + 3 * LANES, storage), d);
    }
    for (; k + LANES <= count; k += LANES)
        a = v_max(NAME(load_stored)(logits, k, storage), a);
    if (k < count)
        b = v_max(NAME(load_first_stored)(logits, k, (int)(count - k), -INFINITY, storage), b);
    return v_largest(v_max(v_max(a, b), v_max(c, d)));
}

/* First position among `count` logits of their largest, or -1; where one of them is NaN any of the
 * two. */
KERNEL_INLINE int64_t NAME(first_position_of)(REAL value, const char *logits, int64_t count,
                                              int storage) {
    int64_t k = 0;
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        const vec a = v_max(NAME(load_stored)(logits, k, storage),
                            NAME(load_stored)(logits, k + LANES, storage));
        const vec b = v_max(NAME(load_stored)(logits, k + 2 * LANES, storage),
                            NAME(load_stored)(logits, k + 3 * LANES, storage));
        if (v_mask_bits(v_equal(v_max(a, b), v_splat(value))))
            break;
    }
    for (; k < count; k += LANES) {
        const vec x = NAME(load_stored_up_to)(logits, k, count - k, NAN, storage);
        unsigned found = v_mask_bits(v_equal(x, v_splat(value)));
        for (int64_t lane = 0; found; ++lane, found >>= 1)
            if (found & 1u)
                return k + lane;
    }
    return -1;
}

/* Where a row's masses come from: q = w ((1 - E) t + E / C), or q = E / C w and (1 - E) w_y more at
 * its class index. */
typedef struct {
    const REAL *targets;          /* t; NULL for class indices */
    const REAL *class_weight;     /* w; NULL for 1 */
    REAL share, floor;            /* 1 - E and E / C, dense targets */
    double label_mass, smoothing; /* (1 - E) w_y and E / C, class indices */
    const double *weight_sums;    /* sum of w over each block; NULL where w is */
} NAME(masses);

/* Masses of a vector of dense targets, whose class weights are given (or not used). */
VECTOR_INLINE vec NAME(shaped_mass)(const NAME(masses) * masses, vec target, vec class_weight) {
    const vec mass = v_fma(target, v_splat(masses->share), v_splat(masses->floor));
    return masses->class_weight ? v_mul(mass, class_weight) : mass;
}

VECTOR_INLINE vec NAME(mass_of_vector)(const NAME(masses) * masses, int64_t at, int kind) {
    const vec target = v_load(masses->targets + at);
    if (kind == XENT_DENSE_TARGETS)
        return target;
    return NAME(shaped_mass)(masses, target,
                             masses->class_weight ? v_load(masses->class_weight + at) : v_splat(0));
}

/* The same where only `count` classes are left: 0 beyond them. */
VECTOR_INLINE vec NAME(mass_of_some)(const NAME(masses) * masses, int64_t at, int count, int kind) {
    const vec zero = v_splat(0);
    if (count <= 0)
        return zero;
    if (count >= LANES)
        return NAME(mass_of_vector)(masses, at, kind);
    const vec target = v_load_first(masses->targets + at, count, 0);
    if (kind == XENT_DENSE_TARGETS)
        return target;
    const vec weight =
        masses->class_weight ? v_load_first(masses->class_weight + at, count, 0) : zero;
    const vec_mask is_class = v_greater(v_splat((REAL)count), v_lane_numbers());
    return v_keep(is_class, NAME(shaped_mass)(masses, target, weight));
}

/* Mass of one class, dense targets. */
KERNEL_INLINE double NAME(mass_of_class)(const NAME(masses) * masses, int64_t at, int kind) {
    return (double)v_first(NAME(mass_of_some)(masses, at, 1, kind));
}

typedef struct {
    NAME(wide) exponentials, target_mass, distance;
} NAME(block_sums);

/* What a sweep asks memory for on its way, far ahead: from where, and how many bytes further with
 * every vector. */
typedef struct {
    int is_asked;
    uintptr_t logits, logits_step;
    uintptr_t targets, targets_step;
} NAME(ahead);

/* On the way past `vectors` vectors from class `at`. */
VECTOR_INLINE void NAME(ask_ahead)(const NAME(ahead) * ahead, int64_t at, int vectors, int kind) {
    if (!ahead->is_asked)
        return;
    for (int j = 0; j < vectors; ++j) {
        const uintptr_t passed = (uintptr_t)at / LANES + (uintptr_t)j;
        PREFETCH_LATER(ahead->logits + passed * ahead->logits_step);
        if (HAS_OWN_MASSES(kind))
            PREFETCH_LATER(ahead->targets + passed * ahead->targets_step);
    }
}

/* What every group of a block shares. */
typedef struct {
    NAME(exponential_reference) reference;
    vec shift; /* subtracted from the logits first */
    vec base;  /* of the distances, times their unit in lanes */
    NAME(ahead) ahead;
} NAME(block_frame);

/* Four vectors in a tree. */
VECTOR_INLINE vec NAME(sum_of_four)(const vec *summands) { return NAME(sum_of_some)(summands, 4); }

/* Adds four vectors in a tree, then to the wide sum. */
VECTOR_INLINE void NAME(add_four)(NAME(wide) * sum, const vec *summands) {
    NAME(wide_add)(sum, NAME(sum_of_four)(summands));
}

/* LANES_DISTANCE_UNIT times base - x, rounded once; `base` has the unit already. */
VECTOR_INLINE vec NAME(distance_from)(vec base, vec x) {
    return v_fma(x, v_splat(-LANES_DISTANCE_UNIT), base);
}

/* Such distances' sum, in units of DISTANCE_UNIT. */
KERNEL_INLINE double NAME(distance_total)(NAME(wide) sum) {
    return NAME(wide_total)(sum) * (DISTANCE_UNIT / (double)LANES_DISTANCE_UNIT);
}

/* Adds the mass of half a group; its distance is returned. */
VECTOR_INLINE vec NAME(add_masses)(const vec *x, const vec *masses, vec base,
                                   NAME(block_sums) * sums) {
    vec distances[4];
    /* 0 * inf = 0: a class without mass adds nothing, whatever its logit */
    EACH_OF(4,
            distances[j] = v_drop(v_equal(masses[j], v_splat(0)), NAME(distance_from)(base, x[j])));
    NAME(add_four)(&sums->target_mass, masses);
    return NAME(sum_of_some_products)(masses, distances, 4);
}

/* Whether a block's huge maximum is taken from a copy of its logits, not from every vector on the
 * way.  Distances want them as they are: x - m may overflow. */
#ifndef SHIFTS_A_COPY
#define SHIFTS_A_COPY(kind, storage) ((storage) == XENT_AS_COMPUTED && !HAS_OWN_MASSES(kind))
#endif

/* Exponentials of half a group. */
VECTOR_INLINE void NAME(four_exponentials)(const vec *x, const NAME(block_frame) * frame, vec *e,
                                           int kind, int storage) {
    vec shifted[4];
    EACH_OF(4, shifted[j] = SHIFTS_A_COPY(kind, storage) ? x[j] : v_sub(x[j], frame->shift));
    for (int k = 0; k < 4; k += INTERLEAVED)
        NAME(scaled_exponentials)(shifted + k, INTERLEAVED, frame->reference, e + k, NULL);
}

/* Half of a whole group, from class `at`: exponentials to `e`, their sum is returned.  `excluded`,
 * a lane counted from its start (a constant below 0 where there is none), is left out of the sum.
 * `distance` is set where there are masses.  Meanwhile the same classes of the next block come
 * nearer: without that the maximum's sweep would wait for them. */
VECTOR_INLINE vec NAME(forward_half)(const char *logits, const NAME(masses) * masses, int64_t at,
                                     REAL *e, int excluded, const NAME(block_frame) * frame,
                                     NAME(block_sums) * sums, vec *distance, int kind,
                                     int storage) {
    vec x[4], exponentials[4], mass[4];
    for (int line = 0; line < HALF_GROUP; line += LANES) {
        if (line * NAME(stored_bytes)(storage) % 64 == 0)
            PREFETCH(NAME(stored_at)(logits, BLOCK + line, storage));
        if (HAS_OWN_MASSES(kind))
            PREFETCH(masses->targets + at + BLOCK + line);
    }
    NAME(ask_ahead)(&frame->ahead, at, 4, kind);
    EACH_OF(4, x[j] = NAME(load_stored)(logits, j * LANES, storage));
    if (HAS_OWN_MASSES(kind)) {
        EACH_OF(4, mass[j] = NAME(mass_of_vector)(masses, at + j * LANES, kind));
        *distance = NAME(add_masses)(x, mass, frame->base, sums);
    }
    NAME(four_exponentials)(x, frame, exponentials, kind, storage);
    EACH_OF(4, v_store(e + j * LANES, exponentials[j]));
    if (excluded > -GROUP)
        EACH_OF(4, exponentials[j] =
                       v_drop(v_equal(v_lane_numbers(), v_splat((REAL)(excluded - j * LANES))),
                              exponentials[j]));
    return NAME(sum_of_four)(exponentials);
}

/* One whole group; `excluded` counts from its start, or is -GROUP, a constant. */
VECTOR_INLINE void NAME(forward_group)(const char *logits, const NAME(masses) * masses, int64_t at,
                                       REAL *e, int excluded, const NAME(block_frame) * frame,
                                       NAME(block_sums) * sums, int kind, int storage) {
    const char *upper = NAME(stored_at)(logits, HALF_GROUP, storage);
    vec distance = v_splat(0), more = distance;
    const vec first =
        NAME(forward_half)(logits, masses, at, e, excluded, frame, sums, &distance, kind, storage);
    const vec second = NAME(forward_half)(upper, masses, at + HALF_GROUP, e + HALF_GROUP,
                                          excluded > -GROUP ? excluded - HALF_GROUP : excluded,
                                          frame, sums, &more, kind, storage);
    NAME(wide_add)(&sums->exponentials, v_add(first, second));
    if (HAS_OWN_MASSES(kind))
        NAME(wide_add)(&sums->distance, v_add(distance, more));
}

KERNEL_INLINE void NAME(store_up_to)(REAL *destination, int count, vec a) {
    if (count >= LANES)
        v_store(destination, a);
    else if (count > 0)
        v_store_first(destination, count, a);
}

/* Half of a group that is cut short: the classes that are not there have the logit -inf and no
 * target. */
KERNEL_INLINE vec NAME(forward_last_half)(const char *logits, const NAME(masses) * masses,
                                          int64_t at, REAL *e, int count, int excluded,
                                          const NAME(block_frame) * frame, NAME(block_sums) * sums,
                                          vec *distance, int kind, int storage) {
    vec x[4], exponentials[4], mass[4];
    EACH_OF(4, x[j] = NAME(load_stored_up_to)(logits, j * LANES, count - j * LANES, -INFINITY,
                                              storage));
    if (HAS_OWN_MASSES(kind)) {
        EACH_OF(4, mass[j] = NAME(mass_of_some)(masses, at + j * LANES, count - j * LANES, kind));
        *distance = NAME(add_masses)(x, mass, frame->base, sums);
    }
    NAME(four_exponentials)(x, frame, exponentials, kind, storage);
    EACH_OF(4, NAME(store_up_to)(e + j * LANES, count - j * LANES, exponentials[j]));
    EACH_OF(4, exponentials[j] =
                   v_drop(v_equal(v_lane_numbers(), v_splat((REAL)(excluded - j * LANES))),
                          exponentials[j]));
    return NAME(sum_of_four)(exponentials);
}

KERNEL_INLINE void NAME(forward_last_group)(const char *logits, const NAME(masses) * masses,
                                            int64_t at, REAL *e, int count, int excluded,
                                            const NAME(block_frame) * frame,
                                            NAME(block_sums) * sums, int kind, int storage) {
    const char *upper = NAME(stored_at)(logits, HALF_GROUP, storage);
    vec distance, more;
    vec sum = NAME(forward_last_half)(logits, masses, at, e, count, excluded, frame, sums,
                                      &distance, kind, storage);
    if (count > HALF_GROUP) {
        sum = v_add(sum, NAME(forward_last_half)(upper, masses, at + HALF_GROUP, e + HALF_GROUP,
                                                 count - HALF_GROUP, excluded - HALF_GROUP, frame,
                                                 sums, &more, kind, storage));
        if (HAS_OWN_MASSES(kind))
            distance = v_add(distance, more);
    }
    NAME(wide_add)(&sums->exponentials, sum);
    if (HAS_OWN_MASSES(kind))
        NAME(wide_add)(&sums->distance, distance);
}

/* The reference of a block by its maximum, which may be infinite or absent (-inf): then 0, and NaN,
 * if there is one, shows in the sum. */
KERNEL_INLINE NAME(block_frame)
    NAME(frame_of_block)(REAL maximum, const NAME(exponent_scale) * scale, NAME(ahead) ahead,
                         NAME(block_summary) * summary) {
    NAME(block_frame) frame;
    const int is_finite = maximum > -INFINITY && maximum < INFINITY;
    const REAL base = is_finite ? maximum : 0;
    const int is_huge = base >= scale->huge_logit || base <= -scale->huge_logit;
    const REAL scaled = (is_huge ? 0 : base) * scale->log2_e;
    const REAL reference = (scaled + ROUNDING_MAGIC) - ROUNDING_MAGIC;
    frame.ahead = ahead;
    frame.shift = v_splat(is_huge ? base : 0);
    frame.base = v_splat(base * LANES_DISTANCE_UNIT);
    frame.reference = NAME(reference_for)(v_splat(reference), scale);
    summary->maximum = maximum;
    summary->shift = is_huge ? base : 0;
    summary->reference = reference;
    return frame;
}

/* All groups of a block, the excluded class (or -1) left out of the sum.  Exponentials go to `e`,
 * or to one place again and again where it is NULL. */
KERNEL_INLINE void NAME(forward_groups)(const char *logits, const NAME(masses) * masses,
                                        int64_t first, REAL *e, int64_t count, int64_t excluded,
                                        const NAME(block_frame) * frame, NAME(block_sums) * sums,
                                        int kind, int storage) {
    ALIGNED_64 REAL nowhere[GROUP];
    REAL *place = e ? e : nowhere;
    const int64_t step = e ? GROUP : 0, whole = count - count % GROUP;
    const int64_t special = excluded < 0 || excluded >= whole ? whole : excluded - excluded % GROUP;
    int64_t k = 0;
    for (; k < special; k += GROUP, place += step)
        NAME(forward_group)(NAME(stored_at)(logits, k, storage), masses, first + k, place, -GROUP,
                            frame, sums, kind, storage);
    if (k < whole) {
        NAME(forward_group)(NAME(stored_at)(logits, k, storage), masses, first + k, place,
                            (int)(excluded - k), frame, sums, kind, storage);
        k += GROUP, place += step;
    }
    for (; k < whole; k += GROUP, place += step)
        NAME(forward_group)(NAME(stored_at)(logits, k, storage), masses, first + k, place, -GROUP,
                            frame, sums, kind, storage);
    if (k < count)
        NAME(forward_last_group)(NAME(stored_at)(logits, k, storage), masses, first + k, place,
                                 (int)(count - k), (int)(excluded - k), frame, sums, kind, storage);
}

/* LANES_DISTANCE_UNIT times w (base - x); with `drops_zeros` 0 where w is, whatever the logit. */
KERNEL_INLINE vec NAME(weighted_distance)(vec x, vec class_weight, vec base, int is_weighted,
                                          int drops_zeros) {
    const vec distance = NAME(distance_from)(base, x);
    if (!is_weighted)
        return distance;
    const vec product = v_mul(class_weight, distance);
    return drops_zeros ? v_drop(v_equal(class_weight, v_splat(0)), product) : product;
}

/* The distances of smoothed targets in a block, the sum of weighted_distance: a sweep of their own,
 * since the exponentials need the registers.  Eight vectors in a tree, then in the wide sum. */
KERNEL_INLINE double NAME(sum_of_distances)(const char *logits, const REAL *class_weight,
                                            int64_t count, vec base, int is_weighted,
                                            int drops_zeros, int storage) {
    NAME(wide) sum = NAME(zero_wide)();
    const REAL nearest = v_first(base) / LANES_DISTANCE_UNIT;
    vec near[4], far[4], weight[4] = {base, base, base, base};
    int64_t k = 0;
    for (; k + GROUP <= count; k += GROUP) {
        if (is_weighted)
            EACH_OF(4, weight[j] = v_load(class_weight + k + j * LANES));
        EACH_OF(4,
                near[j] = NAME(weighted_distance)(NAME(load_stored)(logits, k + j * LANES, storage),
                                                  weight[j], base, is_weighted, drops_zeros));
        if (is_weighted)
            EACH_OF(4, weight[j] = v_load(class_weight + k + HALF_GROUP + j * LANES));
        EACH_OF(4, far[j] = NAME(weighted_distance)(
                       NAME(load_stored)(logits, k + HALF_GROUP + j * LANES, storage), weight[j],
                       base, is_weighted, drops_zeros);
                near[j] = v_add(near[j], far[j]));
        NAME(add_four)(&sum, near);
    }
    for (; k < count; k += HALF_GROUP) {
        const int left = count - k < HALF_GROUP ? (int)(count - k) : HALF_GROUP;
        if (is_weighted)
            EACH_OF(4, weight[j] =
                           NAME(load_up_to)(class_weight + k + j * LANES, left - j * LANES, 0));
        /* classes that are not there are no distance away */
        EACH_OF(4, near[j] = NAME(weighted_distance)(NAME(load_stored_up_to)(logits, k + j * LANES,
                                                                             left - j * LANES,
                                                                             nearest, storage),
                                                     weight[j], base, is_weighted, drops_zeros));
        NAME(add_four)(&sum, near);
    }
    return NAME(distance_total)(sum);
}

/* Mass and distance of a block of smoothed targets, over E / C. */
KERNEL_INLINE void NAME(smoothed_block)(const char *logits, const NAME(masses) * masses,
                                        int64_t first, int64_t count, vec base,
                                        NAME(block_summary) * summary, int storage) {
    summary->target_mass =
        masses->class_weight ? masses->weight_sums[first / BLOCK] : (double)count;
    summary->distance = 0;
    if (masses->smoothing == 0)
        return;
    if (masses->class_weight) {
        const REAL *class_weight = masses->class_weight + first;
        summary->distance =
            NAME(sum_of_distances)(logits, class_weight, count, base, 1, 0, storage);
        /* 0 * inf = 0, which is rare enough for another sweep */
        if (summary->distance != summary->distance)
            summary->distance =
                NAME(sum_of_distances)(logits, class_weight, count, base, 1, 1, storage);
    } else {
        summary->distance = NAME(sum_of_distances)(logits, NULL, count, base, 0, 0, storage);
    }
}

/* What all rows of a call have in common. */
typedef struct {
    NAME(exponent_scale) scale;
    row_settings row;
    int wants_prediction;
    int all_leave; /* no row can be taken in the lanes' own type: see double_rows.h */
} NAME(settings);

KERNEL_INLINE NAME(settings) NAME(settings_of)(const xent_batch *batch) {
    NAME(settings)
    settings = {NAME(scale_for)(batch->temperature), settings_of(batch), batch->prediction != NULL,
                0};
    settings.row.unit = EXPONENTIAL_UNIT / double_unit;
    settings.all_leave = batch->temperature >= LARGEST_TEMPERATURE ||
                         (batch->z_loss != 0 && (fabs(batch->z_loss) < 1 / LARGEST_FACTOR ||
                                                 fabs(batch->z_loss) >= LARGEST_FACTOR));
    return settings;
}

/* Exponentials of the group at `at` in a block, to `e`: from where the sweep has left them or, if
 * nowhere, again. */
KERNEL_INLINE void NAME(load_group)(const char *logits, const REAL *left, int64_t at, int64_t count,
                                    const NAME(block_frame) * frame, vec *e, int storage) {
    vec x[4];
    for (int half = 0; half < GROUP; half += HALF_GROUP) {
        const int64_t first = at + half;
        const int some = count - first < HALF_GROUP ? (int)(count - first) : HALF_GROUP;
        vec *place = e + half / LANES;
        if (left) {
            EACH_OF(4, place[j] = NAME(load_up_to)(left + first + j * LANES, some - j * LANES, 0));
        } else {
            EACH_OF(4, x[j] = NAME(load_stored_up_to)(logits, first + j * LANES, some - j * LANES,
                                                      -INFINITY, storage));
            NAME(four_exponentials)(x, frame, place, XENT_INDEX_TARGETS, storage);
        }
    }
}

/* Sum of a group but for the lane `excluded`, in the order of the sweep. */
KERNEL_INLINE vec NAME(sum_of_group)(const vec *e, int64_t excluded) {
    vec counted[8];
    for (int j = 0; j < 8; ++j)
        counted[j] = v_drop(v_equal(v_lane_numbers(), v_splat((REAL)(excluded - j * LANES))), e[j]);
    return v_add(NAME(sum_of_four)(counted), NAME(sum_of_four)(counted + 4));
}

/* Sum of a block without its first maximum, from `sum`, which lacks the target (-1: it is in
 * another block).  It is the same whatever the target is, but for roundings of the wide sum. */
static NEVER_INLINE double NAME(sum_below_maximum)(NAME(wide) sum, const char *logits,
                                                   const REAL *left, int64_t count, int64_t target,
                                                   int64_t maximum, const NAME(block_frame) * frame,
                                                   int storage) {
    const vec zero = v_splat(0);
    const int64_t positions[2] = {maximum, target};
    for (int k = 0; k < 2; ++k) {
        const int64_t at = positions[k] - (positions[k] < 0 ? 0 : positions[k] % GROUP);
        vec e[8];
        if (positions[k] < 0 || (k == 1 && maximum >= 0 && maximum / GROUP == target / GROUP))
            continue;
        NAME(load_group)(logits, left, at, count, frame, e, storage);
        NAME(wide_add)(&sum, NAME(sum_of_group)(e, k == 0 ? maximum - at : -GROUP));
        const int64_t lacking = target >= at && target < at + GROUP ? target - at : -GROUP;
        NAME(wide_add)(&sum, v_sub(zero, NAME(sum_of_group)(e, lacking)));
    }
    return NAME(wide_total)(sum);
}

/* The logits of a block whose maximum is huge, less that, at `place`, which may be theirs: few
 * blocks have such, so that the sweep does without a subtraction. */
static NEVER_INLINE const char *NAME(shift_block)(const char *logits, int64_t count, REAL shift,
                                                  REAL *place) {
    const REAL *x = (const REAL *)(const void *)logits;
    for (int64_t k = 0; k < count; ++k)
        place[k] = x[k] - shift;
    return (const char *)place;
}

/* Forward sweep of a block that begins at class `first`; `excluded` counts from there (index
 * targets). */
KERNEL_INLINE void NAME(forward_block)(const char *logits, const NAME(masses) * masses, REAL *e,
                                       int64_t count, int64_t first, int64_t excluded,
                                       NAME(ahead) ahead, const NAME(settings) * settings,
                                       NAME(block_summary) * summary, int kind, int storage) {
    const REAL maximum = NAME(block_maximum)(logits, count, storage);
    const NAME(block_frame) frame = NAME(frame_of_block)(maximum, &settings->scale, ahead, summary);
    ALIGNED_64 REAL place[BLOCK];
    NAME(block_sums) sums = {NAME(zero_wide)(), NAME(zero_wide)(), NAME(zero_wide)()};
    int64_t position = -1;
    if (HAS_MASS(kind) || settings->wants_prediction || settings->row.wants_lse) {
        position = NAME(first_position_of)(maximum, logits, count, storage);
        summary->pivot = position < 0 ? -1 : first + position;
        if (HAS_MASS(kind))
            excluded = position;
    }
    if (HAS_MASS(kind) || settings->row.wants_lse)
        summary->exp_of_pivot =
            position < 0
                ? 0
                : settings->row.unit *
                      scaled_exponential_of((double)maximum - summary->shift,
                                            summary->reference + (FLOAT64_SCALE_UP - SCALE_UP),
                                            &settings->row.scale);
    if (kind == XENT_SMOOTHED_TARGETS)
        NAME(smoothed_block)(logits, masses, first, count, frame.base, summary, storage);
    if (SHIFTS_A_COPY(kind, storage) && summary->shift != 0)
        logits = NAME(shift_block)(logits, count, maximum, e ? e : place);
    NAME(forward_groups)(logits, masses, first, e, count, excluded, &frame, &sums, kind, storage);
    summary->sum_of_others = NAME(wide_total)(sums.exponentials);
    if (!HAS_MASS(kind) && settings->row.wants_lse)
        summary->sum_below = NAME(sum_below_maximum)(sums.exponentials, logits, e, count, excluded,
                                                     position, &frame, storage);
    if (HAS_OWN_MASSES(kind)) {
        summary->target_mass = NAME(wide_total)(sums.target_mass);
        summary->distance = NAME(distance_total)(sums.distance);
    }
}

/* Weighs the blocks relative to the one that holds the row's maximum, which is returned.  Two
 * references differ by an integer power of two; only where a huge block meets another does an
 * exponential come in. */
KERNEL_INLINE const NAME(block_summary) *
    NAME(weigh_blocks)(NAME(block_summary) * blocks, int64_t count, double temperature) {
    const NAME(block_summary) *highest = blocks;
    for (int64_t b = 1; b < count; ++b)
        if (blocks[b].maximum > highest->maximum)
            highest = blocks + b;
    for (int64_t b = 0; b < count; ++b) {
        const double steps = blocks[b].reference - highest->reference;
        const double shift = blocks[b].shift - highest->shift;
        /* no class that counts: its shift and reference mean nothing */
        if (blocks[b].maximum == -INFINITY)
            blocks[b].weight = 0;
        else if (shift == 0)
            blocks[b].weight = power_of_two(steps < 0 ? steps : 0);
        else
            blocks[b].weight = exponential_of_difference(shift, steps, temperature);
    }
    return highest;
}

/* A row on its way from the forward to the backward sweep. */
typedef struct {
    const char *logits;
    char *grad;         /* NULL for the loss alone */
    REAL *exponentials; /* the same place or, where that has 16 bits, `scratch`; NULL where none are
                           kept */
    REAL *scratch; /* a row of the type that is computed with; NULL where logits and gradient both
                      are of it */
    xent_storage logits_storage, grad_storage;
    double maximum; /* found on the way */
    int64_t classes, label;
    int64_t pivot, prediction;      /* found on the way */
    double weight, gradient_weight; /* a, and a times what multiplies the gradient alone */
    NAME(masses) masses;
    NAME(block_summary) * blocks;
    uintptr_t next_logits, next_targets; /* where the row after it begins */
    int asks_ahead;                      /* for that row, which is the next to be swept */
} NAME(long_row);

/* What lies `lead` classes after these places, at so many quarters of the sweep's pace. */
KERNEL_INLINE NAME(ahead) NAME(ahead_by)(const NAME(long_row) * row, uintptr_t logits,
                                         uintptr_t targets, int64_t lead, uintptr_t quarters) {
    const uintptr_t bytes = (uintptr_t)NAME(stored_bytes)(row->logits_storage);
    const NAME(ahead)
        ahead = {row->asks_ahead, logits + (uintptr_t)lead * bytes, LANES * bytes * quarters / 4,
                 targets + (uintptr_t)lead * sizeof(REAL), LANES * sizeof(REAL) * quarters / 4};
    return ahead;
}

/* Memory is asked for a row's bytes at an even pace: three quarters of them on the way forward,
 * which is that much slower than the way back.  Each sweep goes on where the one before has ended,
 * and the first begins a block ahead of itself. */
KERNEL_INLINE NAME(ahead) NAME(ahead_of_forward)(const NAME(long_row) * row) {
    return NAME(ahead_by)(row, (uintptr_t)row->logits, (uintptr_t)row->masses.targets,
                          BLOCK + row->classes / 4, 3);
}

KERNEL_INLINE NAME(ahead) NAME(ahead_of_backward)(const NAME(long_row) * row) {
    return NAME(ahead_by)(row, row->next_logits, row->next_targets, BLOCK, 1);
}

KERNEL_INLINE int64_t NAME(block_count)(int64_t classes) { return (classes + BLOCK - 1) / BLOCK; }

KERNEL_INLINE int64_t NAME(block_length)(int64_t classes, int64_t first) {
    return classes - first < BLOCK ? classes - first : BLOCK;
}

/* Sum of the class weights of a block. */
KERNEL_INLINE double NAME(sum_of_weights)(const REAL *class_weight, int64_t count) {
    NAME(wide) sum = NAME(zero_wide)();
    vec weights[4];
    for (int64_t k = 0; k < count; k += HALF_GROUP) {
        const int left = count - k < HALF_GROUP ? (int)(count - k) : HALF_GROUP;
        EACH_OF(4,
                weights[j] = NAME(load_up_to)(class_weight + k + j * LANES, left - j * LANES, 0));
        NAME(add_four)(&sum, weights);
    }
    return NAME(wide_total)(sum);
}

/* Those of `count` blocks from `first_block`, for rows to share. */
KERNEL_INLINE void NAME(sum_weights_of_blocks)(const REAL *class_weight, int64_t classes,
                                               int64_t first_block, int64_t count,
                                               double *weight_sums) {
    for (int64_t b = first_block; b < first_block + count; ++b)
        weight_sums[b] =
            NAME(sum_of_weights)(class_weight + b * BLOCK, NAME(block_length)(classes, b * BLOCK));
}

/* What lane `k` knows of smoothed targets, from the sums over w and w (m - x), the latter times
 * DISTANCE_UNIT: q = E / C w, and at the label (1 - E) w_y more.  No mass is the difference of
 * two. */
KERNEL_INLINE void NAME(smooth_targets)(const NAME(long_row) * row, double weight_sum,
                                        double distance, row_sums *rows, int k) {
    const NAME(masses) *masses = &row->masses;
    const int is_label = row->pivot == row->label;
    const double pivot_weight = row->pivot < 0         ? 0
                                : masses->class_weight ? (double)masses->class_weight[row->pivot]
                                                       : 1;
    const double label_distance =
        row->maximum * DISTANCE_UNIT - rows->target_logit[k] * DISTANCE_UNIT;
    /* 0 * inf = 0 */
    rows->distance[k] = (masses->label_mass != 0 ? masses->label_mass * label_distance : 0) +
                        (masses->smoothing != 0 ? masses->smoothing * distance : 0);
    rows->target_mass[k] = masses->label_mass + masses->smoothing * weight_sum;
    rows->pivot_target[k] = masses->smoothing * pivot_weight + (is_label ? masses->label_mass : 0);
    rows->other_mass[k] =
        masses->smoothing * (weight_sum - pivot_weight) + (is_label ? 0 : masses->label_mass);
}

/* Brings a row's blocks together in lane `k`. */
KERNEL_INLINE void NAME(merge_blocks)(NAME(long_row) * row, const NAME(settings) * settings,
                                      row_sums *rows, int k, int kind) {
    NAME(block_summary) *blocks = row->blocks;
    const int64_t count = NAME(block_count)(row->classes);
    const NAME(block_summary) *highest =
        NAME(weigh_blocks)(blocks, count, settings->row.temperature);
    const double maximum = highest->maximum;
    double others = 0, low = 0, mass = 0, distance = 0, below = 0, below_low = 0;
    for (int64_t b = 0; b < count; ++b) {
        /* for targets with mass each block has left its own maximum out */
        const double pivot = !HAS_MASS(kind) || blocks + b == highest ? 0 : blocks[b].exp_of_pivot;
        compensated_add(&others, &low, (blocks[b].sum_of_others + pivot) * blocks[b].weight);
        if (HAS_MASS(kind)) {
            const int is_finite = blocks[b].maximum > -INFINITY;
            mass += blocks[b].target_mass;
            distance += blocks[b].distance;
            if (blocks[b].target_mass != 0)
                distance += (maximum * DISTANCE_UNIT -
                             (is_finite ? blocks[b].maximum * DISTANCE_UNIT : 0)) *
                            blocks[b].target_mass;
        }
    }
    rows->others[k] = others;
    rows->others_low[k] = low;
    rows->maximum[k] = maximum;
    rows->shift[k] = highest->shift;
    rows->reference[k] = highest->reference + (FLOAT64_SCALE_UP - SCALE_UP);
    rows->weight[k] = row->weight;
    rows->gradient_weight[k] = row->gradient_weight;
    if (!HAS_MASS(kind) && settings->row.wants_lse) {
        for (int64_t b = 0; b < count; ++b)
            compensated_add(
                &below, &below_low,
                (blocks[b].sum_below + (blocks + b == highest ? 0 : blocks[b].exp_of_pivot)) *
                    blocks[b].weight);
        rows->exp_of_pivot[k] = highest->exp_of_pivot;
    }
    rows->below[k] = below;
    rows->below_low[k] = below_low;
    row->maximum = maximum;
    row->prediction = settings->wants_prediction ? highest->pivot : -1;
    row->pivot = row->label;
    if (!HAS_MASS(kind))
        return;
    row->pivot = highest->pivot;
    rows->exp_of_pivot[k] = highest->exp_of_pivot;
    if (kind == XENT_SMOOTHED_TARGETS) {
        NAME(smooth_targets)(row, mass, distance, rows, k);
        return;
    }
    rows->target_mass[k] = mass;
    rows->distance[k] = distance;
    rows->pivot_target[k] =
        highest->pivot < 0 ? 0 : NAME(mass_of_class)(&row->masses, highest->pivot, kind);
    rows->other_mass[k] = mass - rows->pivot_target[k];
}

/* What every vector of the backward sweep is multiplied by. */
typedef struct {
    vec factor;
    vec last_factor, minus_weight; /* smoothed targets: minus_weight times E / C */
    NAME(ahead) ahead;
} NAME(backward_frame);

VECTOR_INLINE vec NAME(backward_vector)(vec e, vec mass, const NAME(backward_frame) * frame,
                                        int in_two_steps, int kind) {
    if (kind == XENT_SMOOTHED_TARGETS && !in_two_steps)
        return v_fma(e, frame->factor, mass);
    vec grad = v_mul(e, frame->factor);
    if (kind == XENT_SMOOTHED_TARGETS)
        return v_fma(grad, frame->last_factor, mass);
    if (in_two_steps)
        grad = v_mul(grad, frame->last_factor);
    return HAS_MASS(kind) ? v_fma(frame->minus_weight, mass, grad) : grad;
}

/* What the gradient of `count` classes from `at` has besides the exponentials: their masses, or -a
 * q of smoothed targets. */
VECTOR_INLINE vec NAME(backward_mass)(const NAME(masses) * masses, int64_t at, int count,
                                      const NAME(backward_frame) * frame, int is_weighted,
                                      int kind) {
    if (!HAS_MASS(kind))
        return v_splat(0);
    if (HAS_OWN_MASSES(kind))
        return NAME(mass_of_some)(masses, at, count, kind);
    if (!is_weighted)
        return frame->minus_weight;
    return v_mul(frame->minus_weight, NAME(load_up_to)(masses->class_weight + at, count, 0));
}

/* `count` classes from class `first`, whose place is `grad`; it may be that of their exponentials
 * `e`. */
KERNEL_INLINE void NAME(backward_vectors)(const REAL *e, char *grad, const NAME(masses) * masses,
                                          int64_t first, int64_t count,
                                          const NAME(backward_frame) * frame, int in_two_steps,
                                          int is_weighted, int kind, int storage) {
    int64_t k = 0;
    for (; k + 2 * LANES <= count; k += 2 * LANES) {
        NAME(ask_ahead)(&frame->ahead, first + k, 2, kind);
        for (int j = 0; j < 2 * LANES; j += LANES) {
            const vec mass =
                NAME(backward_mass)(masses, first + k + j, LANES, frame, is_weighted, kind);
            NAME(store_stored)(
                grad, k + j,
                NAME(backward_vector)(v_load(e + k + j), mass, frame, in_two_steps, kind), storage);
        }
    }
    for (; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        const vec mass = NAME(backward_mass)(masses, first + k, left, frame, is_weighted, kind);
        const vec some = v_load_first(e + k, left, 0);
        NAME(store_first_stored)(
            grad, k, left, NAME(backward_vector)(some, mass, frame, in_two_steps, kind), storage);
    }
}

/* Backward sweep of one block: grad = e * factor * block weight (- weight * t).  `label` counts
 * from its first class.  Where the factors would leave the normal numbers they are RESCALE times
 * larger, and that is taken back last. */
KERNEL_INLINE void NAME(backward_block)(const NAME(long_row) * row, int64_t first, int64_t count,
                                        double row_factor, double block_weight, double weight,
                                        int kind, int storage) {
    const REAL *e = row->exponentials + first;
    char *grad = row->grad + first * NAME(stored_bytes)(storage);
    const NAME(masses) *masses = &row->masses;
    const int64_t label = row->label - first;
    const int is_smoothed = kind == XENT_SMOOTHED_TARGETS,
              has_label = is_smoothed && label >= 0 && label < count;
    const REAL exp_of_label = has_label ? e[label] : 0;
    const int in_two_steps = fabs(row_factor * block_weight) < SMALL_FACTOR;
    const REAL factor = (REAL)(row_factor * (in_two_steps ? RESCALE : 1) * block_weight);
    const NAME(backward_frame)
        frame = {v_splat(factor), v_splat((REAL)(1 / RESCALE)),
                 v_splat(-(REAL)(is_smoothed ? weight * masses->smoothing : weight)),
                 NAME(ahead_of_backward)(row)};
    const int is_weighted = is_smoothed && masses->class_weight != NULL;
    if (in_two_steps)
        NAME(backward_vectors)(e, grad, masses, first, count, &frame, 1, is_weighted, kind,
                               storage);
    else if (is_weighted)
        NAME(backward_vectors)(e, grad, masses, first, count, &frame, 0, 1, kind, storage);
    else
        NAME(backward_vectors)(e, grad, masses, first, count, &frame, 0, 0, kind, storage);
    if (has_label) {
        const double class_weight =
            masses->class_weight ? (double)masses->class_weight[first + label] : 1;
        const vec mass =
            v_splat(-(REAL)(weight * (masses->label_mass + masses->smoothing * class_weight)));
        const vec value =
            NAME(backward_vector)(v_splat(exp_of_label), mass, &frame, in_two_steps, kind);
        NAME(store_number)(grad, label, v_first(value), storage);
    }
}

KERNEL_INLINE void NAME(fill)(REAL *destination, int64_t count, REAL value) {
    for (int64_t k = 0; k < count; ++k)
        destination[k] = value;
}

/* The same wherever a row's gradient lies. */
KERNEL_INLINE void NAME(fill_gradient)(const NAME(long_row) * row, int64_t first, int64_t count,
                                       REAL value) {
    if (row->grad_storage == XENT_AS_COMPUTED)
        NAME(fill)((REAL *)(void *)row->grad + first, count, value);
    else
        for (int64_t k = first; k < first + count; ++k)
            NAME(store_number)(row->grad, k, value, row->grad_storage);
}

/* Forward sweep of block `b`. */
KERNEL_INLINE void NAME(forward_block_of)(const NAME(long_row) * row, int64_t b,
                                          const NAME(settings) * settings, int kind, int storage) {
    const int64_t first = b * BLOCK, count = NAME(block_length)(row->classes, first),
                  in_block = row->label - first;
    const int64_t excluded = !HAS_MASS(kind) && in_block >= 0 && in_block < count ? in_block : -1;
    NAME(forward_block)(NAME(stored_at)(row->logits, first, storage), &row->masses,
                        row->exponentials ? row->exponentials + first : NULL, count, first,
                        excluded, NAME(ahead_of_forward)(row), settings, row->blocks + b, kind,
                        storage);
}

/* log p = (x - m) / T - log of the sum, of `count` classes from class `first`. */
KERNEL_INLINE void NAME(log_probabilities)(const NAME(long_row) * row, int64_t first, int64_t count,
                                           double log_of_sum, REAL temperature, int logits_storage,
                                           int storage) {
    /* what the logarithm's rounding dropped is below half a unit of every difference */
    const vec logarithm = v_splat((REAL)log_of_sum), maximum = v_splat((REAL)row->maximum);
    for (int64_t k = 0; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        vec x = v_sub(NAME(load_first_stored)(row->logits, first + k, left, 0, logits_storage),
                      maximum);
        if (temperature != 1)
            x = v_div(x, v_splat(temperature));
        NAME(store_first_stored)(row->grad, first + k, left, v_sub(x, logarithm), storage);
    }
}

/* Backward sweep of block `b` with the results in lane `k`. */
KERNEL_INLINE void NAME(backward_block_of)(const NAME(long_row) * row, int64_t b,
                                           double temperature, const row_results *results, int k,
                                           int kind, int storage) {
    const int64_t first = b * BLOCK, count = NAME(block_length)(row->classes, first);
    if (!(results->is_number >> k & 1)) {
        NAME(fill_gradient)(row, first, count, NAN);
        return;
    }
    if (kind == XENT_SMOOTHED_TARGETS && !row->exponentials) {
        const double log_of_sum = results->log_of_sum[k];
        if (row->logits_storage == (xent_storage)storage)
            NAME(log_probabilities)(row, first, count, log_of_sum, (REAL)temperature, storage,
                                    storage);
        else
            NAME(log_probabilities)(row, first, count, log_of_sum, (REAL)temperature,
                                    row->logits_storage, storage);
        return;
    }
    NAME(backward_block)(row, first, count, results->factor[k], row->blocks[b].weight,
                         row->gradient_weight / temperature, kind, storage);
    if (row->pivot >= first && row->pivot < first + count)
        NAME(store_number)(row->grad, row->pivot, (REAL)results->pivot_gradient[k], storage);
}
