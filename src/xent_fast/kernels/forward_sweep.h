/* The forward sweep of one block of a long row: its maximum, exponentials and sums.  A template
 * over REAL_BITS.
 *
 * Knows: the order of every sum; where one class is left out; how memory is asked ahead.
 * Must not know: what other blocks have found, instruction sets, threads, Python.
 *
 * lanes_along_classes.h says what these are for.
 */
#include "masses.h"

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
} block_summary;

/* Whether a block's smallest logit is looked for, which may save its exponentials the mask.  To
 * find it among 16 bits, or where x is not multiplied and added at once, costs more. */
#undef FINDS_SMALLEST
#define FINDS_SMALLEST(storage) (HAS_FMA && (storage) == XENT_AS_COMPUTED)

/* Largest of `count` logits; NaN is passed over, so that it is -inf where there is no number.
 * `smallest`: the least, NaN passed over; -inf where it is not looked for. */
KERNEL_INLINE REAL block_maximum(const char *logits, int64_t count, int storage, REAL *smallest) {
    const vec lowest = v_splat(-INFINITY);
    *smallest = -INFINITY;
#if REAL_BITS == 32
    if (storage != XENT_AS_COMPUTED) {
        const REAL maximum = widened(largest_of_16_bits(logits, count), storage);
        if (maximum == maximum)
            return maximum;
    }
#endif
    /* so many of each: with four, AVX2 has no register left */
    enum { CHAINS = INTERLEAVED == 4 ? 4 : 2 };
    vec x[4], most[CHAINS], least[CHAINS];
    EACH_OF(CHAINS, most[j] = lowest; least[j] = v_splat(INFINITY));
    int64_t k = 0;
    /* whole vectors that do not cross lines, as in backward_vectors */
    if (storage == XENT_AS_COMPUTED && numbers_before_line(logits) < count) {
        k = numbers_before_line(logits);
        x[0] = load_stored_up_to(logits, 0, k, NAN, storage);
        most[0] = v_max(x[0], most[0]);
        least[0] = v_min(x[0], least[0]);
    }
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        EACH_OF(4, x[j] = load_stored(logits, k + j * LANES, storage);
                most[j % CHAINS] = v_max(x[j], most[j % CHAINS]);
                if (FINDS_SMALLEST(storage)) least[j % CHAINS] = v_min(x[j], least[j % CHAINS]));
    }
    for (; k < count; k += LANES) {
        x[0] = load_stored_up_to(logits, k, count - k, NAN, storage);
        most[0] = v_max(x[0], most[0]);
        least[0] = v_min(x[0], least[0]);
    }
    for (int chain = 1; chain < CHAINS; ++chain) {
        most[0] = v_max(most[0], most[chain]);
        least[0] = v_min(least[0], least[chain]);
    }
    if (FINDS_SMALLEST(storage))
        *smallest = -v_largest(v_sub(v_splat(0), least[0]));
    return v_largest(most[0]);
}

/* First position among `count` logits of their largest, or -1; where one of them is NaN any of the
 * two. */
KERNEL_INLINE int64_t first_position_of(REAL value, const char *logits, int64_t count,
                                        int storage) {
    int64_t k = 0;
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        const vec a =
            v_max(load_stored(logits, k, storage), load_stored(logits, k + LANES, storage));
        const vec b = v_max(load_stored(logits, k + 2 * LANES, storage),
                            load_stored(logits, k + 3 * LANES, storage));
        if (v_mask_bits(v_equal(v_max(a, b), v_splat(value))))
            break;
    }
    for (; k < count; k += LANES) {
        const vec x = load_stored_up_to(logits, k, count - k, NAN, storage);
        unsigned found = v_mask_bits(v_equal(x, v_splat(value)));
        for (int64_t lane = 0; found; ++lane, found >>= 1)
            if (found & 1u)
                return k + lane;
    }
    return -1;
}

typedef struct {
    wide_sum target_mass, distance;
} block_sums;

/* What a sweep asks memory for on its way, far ahead: from where, and how many bytes further with
 * every HALF_GROUP. */
typedef struct {
    int is_asked;
    uintptr_t logits, logits_step;
    uintptr_t targets, targets_step;
} lines_ahead;

/* `lines` of them, the quarters of ahead_by, from where those of the HALF_GROUP at class `at`
 * begin; of 16 bits they overlap the next one's. */
VECTOR_INLINE void ask_ahead(const lines_ahead *ahead, int64_t at, int lines, int kind) {
    if (!ahead->is_asked)
        return;
    const uintptr_t passed = (uintptr_t)at / HALF_GROUP;
    const uintptr_t logits = ahead->logits + passed * ahead->logits_step,
                    targets = ahead->targets + passed * ahead->targets_step;
    for (uintptr_t line = 0; line < (uintptr_t)lines; ++line) {
        PREFETCH_LATER(logits + line * 64);
        if (HAS_OWN_MASSES(kind))
            PREFETCH_LATER(targets + line * 64);
    }
}

/* What every group of a block shares. */
typedef struct {
    exponential_reference reference;
    vec shift; /* subtracted from the logits first */
    vec base;  /* of the distances, times their unit in lanes */
    lines_ahead ahead;
    int flushes; /* 0 where no exponential of a whole group is flushed to 0 */
} block_frame;

/* Adds the mass of half a group, or of the `last` classes of one; its distance is returned. */
VECTOR_INLINE vec add_masses(const vec *x, const vec *masses, vec base, block_sums *sums,
                             int last) {
    vec distances[4];
    /* 0 * inf = 0: a class without mass adds nothing, whatever its logit */
    EACH_OF(4, distances[j] = v_drop(v_equal(masses[j], v_splat(0)), distance_from(base, x[j])));
    if (last)
        add_last_four(&sums->target_mass, masses, last);
    else
        add_two_sums(&sums->target_mass, v_add(masses[0], masses[1]), v_add(masses[2], masses[3]));
    return sum_of_some_products(masses, distances, 4);
}

/* Whether a block's huge maximum is taken from a copy of its logits, not from every vector on the
 * way.  Distances want them as they are: x - m may overflow. */
#ifndef SHIFTS_A_COPY
#define SHIFTS_A_COPY(kind) (!HAS_OWN_MASSES(kind))
#endif

/* Exponentials of `count` vectors (1, 2 or 4); where they are whole, `flushes` may be 0. */
VECTOR_INLINE void shifted_exponentials(const vec *x, int count, const block_frame *frame, vec *e,
                                        int kind, int flushes) {
    vec shifted[4];
    EACH_OF(count, shifted[j] = SHIFTS_A_COPY(kind) ? x[j] : v_sub(x[j], frame->shift));
    exponentials_in_reach(shifted, count, frame->reference, e, NULL, flushes);
}

/* The same of whole ones, from memory to `e`, and their sum.  That each is stored before the next
 * is loaded holds compilers back from loading more than their registers hold. */
VECTOR_INLINE vec forward_some(const char *logits, REAL *e, int count, const block_frame *frame,
                               int kind, int storage, int flushes) {
    vec x[4], exponentials[4];
    EACH_OF(count, x[j] = v_held(load_stored(logits, j * LANES, storage)));
    shifted_exponentials(x, count, frame, exponentials, kind, flushes);
    EACH_OF(count, v_store(e + j * LANES, exponentials[j]));
    return sum_of_some(exponentials, count);
}

/* The same of two vectors, one after the other: side by side they take more registers than AVX2
 * has. */
VECTOR_INLINE vec forward_two(const char *logits, REAL *e, const block_frame *frame, int kind,
                              int storage, int flushes) {
    const vec first = forward_some(logits, e, 1, frame, kind, storage, flushes);
    return v_add(first, forward_some(stored_at(logits, LANES, storage), e + LANES, 1, frame, kind,
                                     storage, flushes));
}

/* Half of a whole group, from class `at`: exponentials to `e`, their sum is returned.  `distance`
 * is set where there are masses.  Meanwhile the same classes of the next block come nearer: without
 * that the maximum's sweep would wait for them. */
VECTOR_INLINE vec forward_half(const char *logits, const row_masses *masses, int64_t at, REAL *e,
                               const block_frame *frame, block_sums *sums, vec *distance, int kind,
                               int storage, int flushes) {
    vec x[4], mass[4];
    for (int line = 0; line < HALF_GROUP; line += LANES) {
        if (line * stored_bytes(storage) % 64 == 0)
            PREFETCH(stored_at(logits, BLOCK + line, storage));
        if (HAS_OWN_MASSES(kind))
            PREFETCH(masses->targets + at + BLOCK + line);
    }
    ask_ahead(&frame->ahead, at, 3, kind);
    if (HAS_OWN_MASSES(kind)) {
        EACH_OF(4, x[j] = load_stored(logits, j * LANES, storage);
                mass[j] = mass_of_vector(masses, at + j * LANES, kind));
        *distance = add_masses(x, mass, frame->base, sums, 0);
    }
    if (INTERLEAVED == 4)
        return forward_some(logits, e, 4, frame, kind, storage, flushes);
    const vec first = forward_two(logits, e, frame, kind, storage, flushes);
    return v_add(first, forward_two(stored_at(logits, 2 * LANES, storage), e + 2 * LANES, frame,
                                    kind, storage, flushes));
}

/* One whole group; the sums of its halves to `summands`. */
VECTOR_INLINE void forward_group(const char *logits, const row_masses *masses, int64_t at, REAL *e,
                                 vec *summands, const block_frame *frame, block_sums *sums,
                                 int kind, int storage, int flushes) {
    const char *upper = stored_at(logits, HALF_GROUP, storage);
    vec distance = v_splat(0), more = distance;
    summands[0] =
        forward_half(logits, masses, at, e, frame, sums, &distance, kind, storage, flushes);
    summands[1] = forward_half(upper, masses, at + HALF_GROUP, e + HALF_GROUP, frame, sums, &more,
                               kind, storage, flushes);
    if (HAS_OWN_MASSES(kind))
        wide_add(&sums->distance, v_add(distance, more));
}

KERNEL_INLINE void store_up_to(REAL *destination, int count, vec a) {
    if (count >= LANES)
        v_store(destination, a);
    else if (count > 0)
        v_store_first(destination, count, a);
}

/* Half of a group that is cut short, vector by vector: the classes that are not there have the
 * logit -inf and no target. */
KERNEL_INLINE void forward_last_half(const char *logits, const row_masses *masses, int64_t at,
                                     REAL *e, int count, vec *summands, const block_frame *frame,
                                     block_sums *sums, vec *distance, int kind, int storage) {
    vec x[4], mass[4];
    EACH_OF(4, x[j] = load_stored_up_to(logits, j * LANES, count - j * LANES, -INFINITY, storage));
    if (HAS_OWN_MASSES(kind)) {
        EACH_OF(4, mass[j] = mass_of_some(masses, at + j * LANES, count - j * LANES, kind));
        *distance = add_masses(x, mass, frame->base, sums, count);
    }
    for (int k = 0; k < 4; k += INTERLEAVED)
        shifted_exponentials(x + k, INTERLEAVED, frame, summands + k, kind, 1);
    EACH_OF(4, store_up_to(e + j * LANES, count - j * LANES, summands[j]));
}

/* The last group of a block, which is not whole. */
KERNEL_INLINE void forward_last_group(const char *logits, const row_masses *masses, int64_t at,
                                      REAL *e, int count, vec *summands, const block_frame *frame,
                                      block_sums *sums, int kind, int storage) {
    vec distance = v_splat(0), more = distance;
    if (count >= HALF_GROUP) {
        *summands++ = forward_half(logits, masses, at, e, frame, sums, &distance, kind, storage, 1);
        logits = stored_at(logits, HALF_GROUP, storage);
        at += HALF_GROUP, e += HALF_GROUP, count -= HALF_GROUP;
    }
    if (count > 0)
        forward_last_half(logits, masses, at, e, count, summands, frame, sums, &more, kind,
                          storage);
    if (HAS_OWN_MASSES(kind))
        wide_add(&sums->distance, v_add(distance, more));
}

/* The reference of a block by its maximum, which may be infinite or absent (-inf): then 0, and NaN,
 * if there is one, shows in the sum. */
KERNEL_INLINE void frame_block(REAL maximum, REAL smallest, const exponent_scale *scale,
                               lines_ahead ahead, block_frame *frame, block_summary *summary) {
    const int is_finite = maximum > -INFINITY && maximum < INFINITY;
    const REAL base = is_finite ? maximum : 0;
    const int is_huge = base >= scale->huge_logit || base <= -scale->huge_logit;
    const REAL scaled = (is_huge ? 0 : base) * scale->log2_e;
    const REAL reference = (scaled + ROUNDING_MAGIC) - ROUNDING_MAGIC;
    frame->ahead = ahead;
    frame->shift = v_splat(is_huge ? base : 0);
    frame->base = v_splat(base * LANES_DISTANCE_UNIT);
    set_reference(&frame->reference, v_splat(reference), scale);
    frame->flushes = is_huge || !(smallest >= v_first(frame->reference.lowest));
    summary->maximum = maximum;
    summary->shift = is_huge ? base : 0;
    summary->reference = reference;
}

/* All groups of a block, and what its sum is made of: the sums of whole half groups, and the
 * vectors of one that is cut short. */
KERNEL_INLINE void forward_groups(const char *logits, const row_masses *masses, int64_t first,
                                  REAL *e, int64_t count, vec *summands, const block_frame *frame,
                                  block_sums *sums, int kind, int storage) {
    const int64_t whole = count - count % GROUP;
    int64_t k = 0;
    XENT_ASSERT(e && count >= 1 && count <= BLOCK);
    if (!FINDS_SMALLEST(storage) || frame->flushes)
        for (; k < whole; k += GROUP, summands += 2)
            forward_group(stored_at(logits, k, storage), masses, first + k, e + k, summands, frame,
                          sums, kind, storage, 1);
    else
        for (; k < whole; k += GROUP, summands += 2)
            forward_group(stored_at(logits, k, storage), masses, first + k, e + k, summands, frame,
                          sums, kind, storage, 0);
    if (k < count)
        forward_last_group(stored_at(logits, k, storage), masses, first + k, e + k,
                           (int)(count - k), summands, frame, sums, kind, storage);
}

VECTOR_INLINE vec without_lane(vec a, int64_t lane) {
    return v_drop(v_equal(v_lane_numbers(), v_splat((REAL)lane)), a);
}

/* The sum of a block's exponentials `e` without the class `excluded` (-1: of all).  The summand
 * that has it is taken anew, afterwards: processors cannot foresee which it is. */
KERNEL_INLINE double sum_without(const REAL *e, int64_t count, int64_t excluded, vec *summands) {
    const int64_t halves = count / HALF_GROUP, rest = count % HALF_GROUP;
    const int64_t half = excluded < 0 ? 0 : excluded / HALF_GROUP, at = excluded % HALF_GROUP;
    vec *summand = summands + half + (half < halves ? 0 : at / LANES);
    XENT_ASSERT(count >= 1 && count <= BLOCK && excluded >= -1 && excluded < count);
    const vec with = *summand;
    wide_sum sum = zero_wide();
    if (excluded >= 0 && half < halves) {
        vec counted[4];
        EACH_OF(4, counted[j] =
                       without_lane(v_load(e + half * HALF_GROUP + j * LANES), at - j * LANES));
        *summand = sum_of_four(counted);
    } else if (excluded >= 0) {
        *summand = without_lane(with, at % LANES);
    }
    for (int64_t k = 0; k < halves + (rest + LANES - 1) / LANES; ++k)
        wide_add(&sum, summands[k]);
    *summand = with;
    return wide_total(sum);
}

/* Mass and distance of a block of smoothed targets, over E / C. */
KERNEL_INLINE void smoothed_block(const char *logits, const row_masses *masses, int64_t first,
                                  int64_t count, vec base, block_summary *summary, int storage) {
    summary->target_mass =
        masses->class_weight ? masses->weight_sums[first / BLOCK] : (double)count;
    summary->distance = 0;
    if (masses->smoothing == 0)
        return;
    if (masses->class_weight) {
        const REAL *class_weight = masses->class_weight + first;
        summary->distance = sum_of_distances(logits, class_weight, count, base, 1, 0, storage);
        /* 0 * inf = 0, which is rare enough for another sweep */
        if (summary->distance != summary->distance)
            summary->distance = sum_of_distances(logits, class_weight, count, base, 1, 1, storage);
    } else {
        summary->distance = sum_of_distances(logits, NULL, count, base, 0, 0, storage);
    }
}

/* What all rows of a call have in common. */
typedef struct {
    exponent_scale scale;
    row_settings row;
    int wants_prediction;
    int all_leave; /* no row can be taken in the lanes' own type: see double_rows.h */
} call_settings;

KERNEL_INLINE call_settings call_settings_of(const xent_batch *batch) {
    call_settings settings = {scale_for(batch->options.temperature), row_settings_of(batch),
                              batch->prediction != NULL, 0};
    settings.row.unit = EXPONENTIAL_UNIT / double_unit;
    settings.all_leave =
        batch->options.temperature >= LARGEST_TEMPERATURE || lse_terms_leave_lanes(&batch->options);
    return settings;
}

/* The logits of a block whose maximum is huge, less that, at `place`, which may be theirs: few
 * blocks have such, so that the sweep does without a subtraction. */
static NEVER_INLINE const char *shift_block(const char *logits, int64_t count, REAL shift,
                                            REAL *place) {
    const REAL *x = (const REAL *)(const void *)logits;
    for (int64_t k = 0; k < count; ++k)
        place[k] = x[k] - shift;
    return (const char *)place;
}

/* Forward sweep of a block that begins at class `first`; `excluded` counts from there (index
 * targets).  Returns 0 where 16 bits must be widened first: the maximum is huge. */
KERNEL_INLINE int forward_block(const char *logits, const row_masses *masses, REAL *e,
                                int64_t count, int64_t first, int64_t excluded, lines_ahead ahead,
                                const call_settings *settings, block_summary *summary, int kind,
                                int storage) {
    REAL smallest;
    XENT_ASSERT(count >= 1 && count <= BLOCK && excluded >= -1 && excluded < count);
    const REAL maximum = block_maximum(logits, count, storage, &smallest);
    block_frame frame;
    frame_block(maximum, smallest, &settings->scale, ahead, &frame, summary);
    ALIGNED_64 REAL place[BLOCK];
    vec summands[BLOCK / HALF_GROUP + 3];
    block_sums sums = {zero_wide(), zero_wide()};
    int64_t position = -1;
    if (!e)
        e = place;
    if (storage != XENT_AS_COMPUTED && summary->shift != 0)
        return 0;
    if (HAS_MASS(kind) || settings->wants_prediction || settings->row.wants_lse) {
        position = first_position_of(maximum, logits, count, storage);
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
        smoothed_block(logits, masses, first, count, frame.base, summary, storage);
    if (SHIFTS_A_COPY(kind) && summary->shift != 0)
        logits = shift_block(logits, count, maximum, e);
    forward_groups(logits, masses, first, e, count, summands, &frame, &sums, kind, storage);
    summary->sum_of_others = sum_without(e, count, excluded, summands);
    if (!HAS_MASS(kind) && settings->row.wants_lse)
        summary->sum_below = sum_without(e, count, position, summands);
    if (HAS_OWN_MASSES(kind)) {
        summary->target_mass = wide_total(sums.target_mass);
        summary->distance = distance_total(sums.distance);
    }
    return 1;
}

/* Weighs the blocks relative to the one that holds the row's maximum, which is returned.  Two
 * references differ by an integer power of two; only where a huge block meets another does an
 * exponential come in. */
KERNEL_INLINE const block_summary *weigh_blocks(block_summary *blocks, int64_t count,
                                                double temperature) {
    const block_summary *highest = blocks;
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
