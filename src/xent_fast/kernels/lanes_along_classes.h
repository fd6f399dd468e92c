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
 * Sums: four vectors in a tree (distances: eight; fewer at the end: one by one), these in a wide
 * sum (sums.h); blocks in their order, with compensation.  Padding and excluded lanes add an exact
 * 0, so that the order is a function of the number of classes alone.
 *
 * Where logits or gradient have 16 bits, the sweeps widen and round on the way (storage.h), and
 * exponentials lie in a row of the lanes' own type.
 */
#include "forward_sweep.h"

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
    row_masses masses;
    block_summary *blocks;
    uintptr_t next_logits, next_targets; /* where the row after it begins */
    int asks_ahead;                      /* for that row, which is the next to be swept */
} long_row;

/* What lies `lead` classes after these places, at so many quarters of the sweep's pace. */
KERNEL_INLINE lines_ahead ahead_by(const long_row *row, uintptr_t logits, uintptr_t targets,
                                   int64_t lead, uintptr_t quarters) {
    const uintptr_t bytes = (uintptr_t)stored_bytes(row->logits_storage);
    const lines_ahead ahead = {row->asks_ahead, logits + (uintptr_t)lead * bytes,
                               LANES * bytes * quarters, targets + (uintptr_t)lead * sizeof(REAL),
                               LANES * sizeof(REAL) * quarters};
    return ahead;
}

/* Memory is asked for a row's bytes at an even pace: three quarters of them on the way forward,
 * which is that much slower than the way back.  Each sweep goes on where the one before has ended,
 * and the first begins a block ahead of itself. */
KERNEL_INLINE lines_ahead ahead_of_forward(const long_row *row) {
    return ahead_by(row, (uintptr_t)row->logits, (uintptr_t)row->masses.targets,
                    BLOCK + row->classes / 4, 3);
}

KERNEL_INLINE lines_ahead ahead_of_backward(const long_row *row) {
    return ahead_by(row, row->next_logits, row->next_targets, BLOCK, 1);
}

KERNEL_INLINE int64_t count_blocks(int64_t classes) { return (classes + BLOCK - 1) / BLOCK; }

KERNEL_INLINE int64_t block_length(int64_t classes, int64_t first) {
    return classes - first < BLOCK ? classes - first : BLOCK;
}

/* Sum of the class weights of a block. */
KERNEL_INLINE double sum_of_weights(const REAL *class_weight, int64_t count) {
    wide_sum sum = zero_wide();
    vec weights[4];
    for (int64_t k = 0; k < count; k += HALF_GROUP) {
        const int left = count - k < HALF_GROUP ? (int)(count - k) : HALF_GROUP;
        EACH_OF(4, weights[j] = load_up_to(class_weight + k + j * LANES, left - j * LANES, 0));
        add_four(&sum, weights);
    }
    return wide_total(sum);
}

/* Those of `count` blocks from `first_block`, for rows to share. */
KERNEL_INLINE void sum_weights_of_blocks(const REAL *class_weight, int64_t classes,
                                         int64_t first_block, int64_t count, double *weight_sums) {
    for (int64_t b = first_block; b < first_block + count; ++b)
        weight_sums[b] = sum_of_weights(class_weight + b * BLOCK, block_length(classes, b * BLOCK));
}

/* What lane `k` knows of smoothed targets, from the sums over w and w (m - x), the latter times
 * DISTANCE_UNIT: q = E / C w, and at the label (1 - E) w_y more.  No mass is the difference of
 * two. */
KERNEL_INLINE void smooth_targets(const long_row *row, double weight_sum, double distance,
                                  row_sums *rows, int k) {
    const row_masses *masses = &row->masses;
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
KERNEL_INLINE void merge_blocks(long_row *row, const call_settings *settings, row_sums *rows, int k,
                                int kind) {
    block_summary *blocks = row->blocks;
    const int64_t count = count_blocks(row->classes);
    XENT_ASSERT(k >= 0 && k < ROWS_AT_ONCE && count >= 1);
    const block_summary *highest = weigh_blocks(blocks, count, settings->row.temperature);
    const double maximum = highest->maximum;
    double others = 0, low = 0, below = 0, below_low = 0;
    double mass = 0, mass_low = 0, distance = 0, distance_low = 0;
    for (int64_t b = 0; b < count; ++b) {
        /* for targets with mass each block has left its own maximum out */
        const double pivot = !HAS_MASS(kind) || blocks + b == highest ? 0 : blocks[b].exp_of_pivot;
        compensated_add(&others, &low, (blocks[b].sum_of_others + pivot) * blocks[b].weight);
        if (HAS_MASS(kind)) {
            const int is_finite = blocks[b].maximum > -INFINITY;
            const double step =
                maximum * DISTANCE_UNIT - (is_finite ? blocks[b].maximum * DISTANCE_UNIT : 0);
            compensated_add(&mass, &mass_low, blocks[b].target_mass);
            compensated_add(&distance, &distance_low, blocks[b].distance);
            if (blocks[b].target_mass != 0)
                compensated_add(&distance, &distance_low, step * blocks[b].target_mass);
        }
    }
    mass = sum_and_error(mass, mass_low);
    distance = sum_and_error(distance, distance_low);
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
        smooth_targets(row, mass, distance, rows, k);
        return;
    }
    rows->target_mass[k] = mass;
    rows->distance[k] = distance;
    rows->pivot_target[k] =
        highest->pivot < 0 ? 0 : mass_of_class(&row->masses, highest->pivot, kind);
    rows->other_mass[k] = mass - rows->pivot_target[k];
}

/* What every vector of the backward sweep is multiplied by. */
typedef struct {
    vec_pair factor;               /* its low part counts where HAS_LOW_FACTOR */
    vec last_factor, minus_weight; /* smoothed targets: minus_weight times E / C */
    lines_ahead ahead;
} backward_frame;

/* Whether what the rounding of a factor took counts: in float64 beside masses of each class.
 * Without FMA a product would gain nothing by it. */
#ifndef HAS_LOW_FACTOR
#define HAS_LOW_FACTOR(kind) (REAL_BITS == 64 && HAS_FMA && HAS_OWN_MASSES(kind))
#endif

VECTOR_INLINE vec backward_vector(vec e, vec mass, const backward_frame *frame, int in_two_steps,
                                  int kind) {
    if (HAS_LOW_FACTOR(kind) && !in_two_steps)
        return product_with_pair_and_product(e, frame->factor, frame->minus_weight, mass);
    if (kind == XENT_SMOOTHED_TARGETS && !in_two_steps)
        return v_fma(e, frame->factor.high, mass);
    vec grad = v_mul(e, frame->factor.high);
    if (kind == XENT_SMOOTHED_TARGETS)
        return v_fma(grad, frame->last_factor, mass);
    if (in_two_steps)
        grad = v_mul(grad, frame->last_factor);
    return HAS_MASS(kind) ? v_fma(frame->minus_weight, mass, grad) : grad;
}

/* What the gradient of `count` classes from `at` has besides the exponentials: their masses, or -a
 * q of smoothed targets. */
VECTOR_INLINE vec backward_mass(const row_masses *masses, int64_t at, int count,
                                const backward_frame *frame, int is_weighted, int kind) {
    if (!HAS_MASS(kind))
        return v_splat(0);
    if (HAS_OWN_MASSES(kind))
        return mass_of_some(masses, at, count, kind);
    if (!is_weighted)
        return frame->minus_weight;
    return v_mul(frame->minus_weight, load_up_to(masses->class_weight + at, count, 0));
}

/* `vectors` (1 or 4) of them from class `at` of the row; the lists begin there. */
VECTOR_INLINE void backward_some(const REAL *e, char *grad, const row_masses *masses, int64_t at,
                                 int vectors, const backward_frame *frame, int in_two_steps,
                                 int is_weighted, int kind, int storage) {
    vec some[4];
    EACH_OF(vectors,
            const vec mass = backward_mass(masses, at + j * LANES, LANES, frame, is_weighted, kind);
            some[j] = backward_vector(v_load(e + j * LANES), mass, frame, in_two_steps, kind));
    if (vectors == 1 || HAS_MASS(kind) || in_two_steps) {
        EACH_OF(vectors, store_stored(grad, j * LANES, some[j], storage));
    } else {
        store_two_stored(grad, 0, some[0], some[1], storage);
        store_two_stored(grad, 2 * LANES, some[2], some[3], storage);
    }
}

/* The same of the first `count` lanes of one vector. */
VECTOR_INLINE void backward_part(const REAL *e, char *grad, const row_masses *masses, int64_t at,
                                 int count, const backward_frame *frame, int in_two_steps,
                                 int is_weighted, int kind, int storage) {
    const vec mass = backward_mass(masses, at, count, frame, is_weighted, kind);
    const vec some = backward_vector(v_load_first(e, count, 0), mass, frame, in_two_steps, kind);
    store_first_stored(grad, 0, count, some, storage);
}

/* `count` classes from class `first`, whose place is `grad`; it may be that of their
 * exponentials `e`.  Whole vectors begin where a line of memory does, for one that lies in two
 * takes twice as long to load and to store; large arrays of NumPy begin 16 bytes after a line.  It
 * and its callers are inlined always: they multiply once a vector, and where a compiler had the
 * choice, it asked for kind and storage at every one. */
VECTOR_INLINE void backward_vectors(const REAL *e, char *grad, const row_masses *masses,
                                    int64_t first, int64_t count, const backward_frame *frame,
                                    int in_two_steps, int is_weighted, int kind, int storage) {
    const int64_t before = storage == XENT_AS_COMPUTED ? numbers_before_line(grad) : 0;
    int64_t k = 0;
    if (before > 0 && before < count) {
        backward_part(e, grad, masses, first, (int)before, frame, in_two_steps, is_weighted, kind,
                      storage);
        k = before;
    }
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        ask_ahead(&frame->ahead, first + k, 1, kind);
        backward_some(e + k, grad + k * stored_bytes(storage), masses, first + k, 4, frame,
                      in_two_steps, is_weighted, kind, storage);
    }
    for (; k + LANES <= count; k += LANES)
        backward_some(e + k, grad + k * stored_bytes(storage), masses, first + k, 1, frame,
                      in_two_steps, is_weighted, kind, storage);
    if (k < count)
        backward_part(e + k, grad + k * stored_bytes(storage), masses, first + k, (int)(count - k),
                      frame, in_two_steps, is_weighted, kind, storage);
}

/* Backward sweep of one block: grad = e * factor * block weight (- weight * t).  `label` counts
 * from its first class.  Where the factors would leave the normal numbers they are RESCALE times
 * larger, and that is taken back last.  Products of exponentials are no NaN but where the factor is
 * infinite or one. */
VECTOR_INLINE void backward_block(const long_row *row, int64_t first, int64_t count,
                                  double row_factor, double row_factor_low, double block_weight,
                                  double weight, int kind, int storage) {
    const REAL *e = row->exponentials + first;
    char *grad = row->grad + first * stored_bytes(storage);
    const row_masses *masses = &row->masses;
    const int64_t label = row->label - first;
    const int is_smoothed = kind == XENT_SMOOTHED_TARGETS,
              has_label = is_smoothed && label >= 0 && label < count;
    const REAL exp_of_label = has_label ? e[label] : 0;
    const int is_small = fabs(row_factor * block_weight) < SMALL_FACTOR;
    const double power = (is_small ? RESCALE : 1) * block_weight;
    const REAL factor = (REAL)(row_factor * power);
    const int in_two_steps = is_small || !(fabs((double)factor) <= (double)LARGEST_REAL);
    const backward_frame frame = {
        {v_splat(factor), v_splat((REAL)(row_factor_low * power))},
        v_splat((REAL)(is_small ? 1 / RESCALE : 1)),
        v_splat(-(REAL)(is_smoothed ? weight * masses->smoothing : weight)),
        ahead_of_backward(row)};
    const int is_weighted = is_smoothed && masses->class_weight != NULL;
    if (in_two_steps)
        backward_vectors(e, grad, masses, first, count, &frame, 1, is_weighted, kind, storage);
    else if (is_weighted)
        backward_vectors(e, grad, masses, first, count, &frame, 0, 1, kind, storage);
    else
        backward_vectors(e, grad, masses, first, count, &frame, 0, 0, kind, storage);
    if (has_label) {
        const double class_weight =
            masses->class_weight ? (double)masses->class_weight[first + label] : 1;
        const vec mass =
            v_splat(-(REAL)(weight * (masses->label_mass + masses->smoothing * class_weight)));
        const vec value = backward_vector(v_splat(exp_of_label), mass, &frame, in_two_steps, kind);
        store_number(grad, label, v_first(value), storage);
    }
}

KERNEL_INLINE void fill_classes(REAL *destination, int64_t count, REAL value) {
    for (int64_t k = 0; k < count; ++k)
        destination[k] = value;
}

/* The same wherever a row's gradient lies. */
KERNEL_INLINE void fill_gradient(const long_row *row, int64_t first, int64_t count, REAL value) {
    if (row->grad_storage == XENT_AS_COMPUTED)
        fill_classes((REAL *)(void *)row->grad + first, count, value);
    else
        for (int64_t k = first; k < first + count; ++k)
            store_number(row->grad, k, value, row->grad_storage);
}

/* Forward sweep of block `b`; returns 0 where it must be widened first. */
KERNEL_INLINE int forward_block_of(const long_row *row, int64_t b, const call_settings *settings,
                                   int kind, int storage) {
    const int64_t first = b * BLOCK, count = block_length(row->classes, first),
                  in_block = row->label - first;
    const int64_t excluded = !HAS_MASS(kind) && in_block >= 0 && in_block < count ? in_block : -1;
    return forward_block(stored_at(row->logits, first, storage), &row->masses,
                         row->exponentials ? row->exponentials + first : NULL, count, first,
                         excluded, ahead_of_forward(row), settings, row->blocks + b, kind, storage);
}

/* log p = (x - m) / T - log of the sum, of `count` classes from class `first`. */
KERNEL_INLINE void log_probabilities(const long_row *row, int64_t first, int64_t count,
                                     double log_of_sum, REAL temperature, int logits_storage,
                                     int storage) {
    /* what the logarithm's rounding dropped is below half a unit of every difference */
    const vec logarithm = v_splat((REAL)log_of_sum), maximum = v_splat((REAL)row->maximum);
    for (int64_t k = 0; k < count; k += LANES) {
        const int left = count - k < LANES ? (int)(count - k) : LANES;
        vec x = v_sub(load_first_stored(row->logits, first + k, left, 0, logits_storage), maximum);
        if (temperature != 1)
            x = v_div(x, v_splat(temperature));
        store_first_stored(row->grad, first + k, left, v_sub(x, logarithm), storage);
    }
}

/* Backward sweep of block `b` with the results in lane `k`. */
VECTOR_INLINE void backward_block_of(const long_row *row, int64_t b, double temperature,
                                     const row_results *results, int k, int kind, int storage) {
    const int64_t first = b * BLOCK, count = block_length(row->classes, first);
    if (!(results->is_number >> k & 1)) {
        fill_gradient(row, first, count, NAN);
        return;
    }
    if (kind == XENT_SMOOTHED_TARGETS && !row->exponentials) {
        const double log_of_sum = results->log_of_sum[k];
        if (row->logits_storage == (xent_storage)storage)
            log_probabilities(row, first, count, log_of_sum, (REAL)temperature, storage, storage);
        else
            log_probabilities(row, first, count, log_of_sum, (REAL)temperature, row->logits_storage,
                              storage);
        return;
    }
    backward_block(row, first, count, results->factor[k], results->factor_low[k],
                   row->blocks[b].weight, row->gradient_weight / temperature, kind, storage);
    if (row->pivot >= first && row->pivot < first + count)
        store_number(row->grad, row->pivot, (REAL)results->pivot_gradient[k], storage);
}
