/* Rows of more than 128 classes, some of them between their two sweeps at once.  A template over
 * REAL_BITS.
 *
 * Knows: where each row's numbers lie; the sweeps by target kind and storage; which rows leave the
 * lanes (double_rows.h); what is written of a row besides its gradient.
 * Must not know: the sweeps' formulas (lanes_along_classes.h), instruction sets, threads, Python.
 */

/* Long rows are taken this many logits at a time. */
#undef LOGITS_AT_ONCE
#define LOGITS_AT_ONCE (32768 / (int)sizeof(REAL))

/* Rows that lie between their two sweeps at once: as many as row_stage.h takes, but no more than
 * stay in the nearest cache. */
KERNEL_INLINE int rows_at_once(int64_t classes) {
    const int64_t rows = LOGITS_AT_ONCE / classes;
    return rows < 1 ? 1 : rows < ROWS_AT_ONCE ? (int)rows : ROWS_AT_ONCE;
}

/* Block summaries of the rows between their sweeps and sums of class weights of each block, in
 * whole cache lines. */
static size_t bytes_of_workspace(int64_t classes) {
    const size_t blocks = (size_t)count_blocks(classes), rows = (size_t)rows_at_once(classes);
    const size_t bytes = blocks * (rows * sizeof(block_summary) + sizeof(double));
    return classes <= MOST_CLASSES_ALONG_ROWS ? 0 : (bytes + 63) / 64 * 64;
}

/* Numbers from one scratch row to the next. */
KERNEL_INLINE int64_t scratch_row_step(int64_t classes) {
    return (classes + LANES - 1) / LANES * LANES;
}

/* A row's weight: that of its class, too, where no mass carries it. */
KERNEL_INLINE double weight_of_row(const xent_batch *batch, int64_t row, int64_t label, int kind) {
    const double weight = batch->sample_weight ? batch->weight_factor * batch->sample_weight[row]
                                               : batch->weight_factor;
    return HAS_MASS(kind) || !batch->class_weight ? weight : weight * weight_of_class(batch, label);
}

/* Whether numbers of a batch lie in 16 bits. */
KERNEL_INLINE int is_stored(const xent_batch *batch) {
    return batch->logits.storage != XENT_AS_COMPUTED || batch->grad.storage != XENT_AS_COMPUTED;
}

/* Where row `row` lies; `blocks` and `scratch` are its parts of the workspace. */
KERNEL_INLINE long_row long_row_at(const xent_batch *batch, int64_t row, int64_t label,
                                   block_summary *blocks, const double *weight_sums, REAL *scratch,
                                   int kind) {
    const int64_t class_index = HAS_LABELS(kind) ? clamped_label(label, batch->classes) : -1;
    const int keeps_exponentials = batch->grad.data && batch->output != XENT_LOG_PROBABILITIES;
    long_row r;
    r.logits = xent_row(&batch->logits, row);
    r.grad = batch->grad.data ? xent_row(&batch->grad, row) : NULL;
    r.scratch = scratch;
    r.exponentials = !keeps_exponentials                       ? NULL
                     : batch->grad.storage == XENT_AS_COMPUTED ? (REAL *)(void *)r.grad
                                                               : scratch;
    r.logits_storage = batch->logits.storage;
    r.grad_storage = batch->grad.storage;
    r.classes = batch->classes;
    r.label = class_index;
    r.pivot = r.prediction = -1;
    r.weight = r.gradient_weight = weight_of_row(batch, row, class_index, kind);
    if (batch->grad_output)
        r.gradient_weight *= batch->grad_output[row * batch->grad_output_step];
    r.masses = masses_of_row(batch, row, class_index, weight_sums, kind);
    r.blocks = blocks;
    r.next_logits = (uintptr_t)r.logits + (uintptr_t)batch->logits.row_stride;
    r.next_targets = (uintptr_t)r.masses.targets + (uintptr_t)batch->dense_targets.row_stride;
    r.asks_ahead = 0;
    return r;
}

typedef void (*forward_sweep)(const long_row *row, int64_t b, const call_settings *settings);
typedef void (*backward_sweep)(const long_row *row, int64_t b, double temperature,
                               const row_results *results, int k);

/* Forward sweep of a block of 16 bits as one of the lanes' own type, by `sweep`. */
MAYBE_UNUSED static NEVER_INLINE void forward_widened(const long_row *row, int64_t b,
                                                      const call_settings *settings,
                                                      forward_sweep sweep) {
    const int64_t first = b * BLOCK, count = block_length(row->classes, first);
    long_row widened = *row;
    XENT_ASSERT(row->scratch && row->logits_storage != XENT_AS_COMPUTED);
    widen(stored_at(row->logits, first, row->logits_storage), count, row->scratch + first,
          row->logits_storage);
    widened.logits = (const char *)row->scratch;
    widened.logits_storage = XENT_AS_COMPUTED;
    sweep(&widened, b, settings);
}

/* The two sweeps over a block are functions of their own, one for each storage: one copy of each
 * serves rows and parts of rows. */
#ifndef BLOCK_SWEEPS
#define BLOCK_SWEEPS(type, storage, name, kind)                                                    \
    static void NAME(forward_##name##_##type)(const long_row *row, int64_t b,                      \
                                              const call_settings *settings) {                     \
        if (!forward_block_of(row, b, settings, kind, storage))                                    \
            forward_widened(row, b, settings, NAME(forward_##name##_as_computed));                 \
    }                                                                                              \
    static void NAME(backward_##name##_##type)(const long_row *row, int64_t b, double temperature, \
                                               const row_results *results, int k) {                \
        backward_block_of(row, b, temperature, results, k, kind, storage);                         \
    }
#define FORWARD_SWEEP(type, storage, name, kind) NAME(forward_##name##_##type),
#define BACKWARD_SWEEP(type, storage, name, kind) NAME(backward_##name##_##type),
/* Both, by the storage of logits or gradient. */
#define SWEEP_TABLES(name, kind, each)                                                    \
    each(BLOCK_SWEEPS, name, kind) static const forward_sweep NAME(                       \
        forward_##name##_sweeps)[XENT_STORAGE_COUNT] = {each(FORWARD_SWEEP, name, kind)}; \
    static const backward_sweep NAME(backward_##name##_sweeps)[XENT_STORAGE_COUNT] = {    \
        each(BACKWARD_SWEEP, name, kind)};
#define FORWARD_TABLE(name, kind, each) [kind] = NAME(forward_##name##_sweeps),
#define BACKWARD_TABLE(name, kind, each) [kind] = NAME(backward_##name##_sweeps),
#define AS_COMPUTED_ALONE(each, ...) each(as_computed, XENT_AS_COMPUTED, __VA_ARGS__)
#endif
EACH_TARGET_KIND(SWEEP_TABLES)
static const forward_sweep *const forward_sweeps[] = {EACH_TARGET_KIND(FORWARD_TABLE)};
static const backward_sweep *const backward_sweeps[] = {EACH_TARGET_KIND(BACKWARD_TABLE)};

KERNEL_INLINE void forward_some_blocks(const long_row *row, int64_t first, int64_t count,
                                       const call_settings *settings, int kind) {
    const forward_sweep *sweeps = forward_sweeps[kind];
    for (int64_t b = first; b < first + count; ++b)
        sweeps[row->logits_storage](row, b, settings);
}

KERNEL_INLINE void backward_some_blocks(const long_row *row, int64_t first, int64_t count,
                                        double temperature, const row_results *results, int k,
                                        int kind) {
    const backward_sweep *sweeps = backward_sweeps[kind];
    for (int64_t b = first; b < first + count; ++b)
        sweeps[row->grad_storage](row, b, temperature, results, k);
}

/* What is written of a row besides loss and gradient, if asked for. */
KERNEL_INLINE void write_lse_and_prediction(const xent_batch *batch, int64_t row, double lse,
                                            int64_t prediction, int is_number) {
    if (batch->lse)
        ((REAL *)(void *)batch->lse)[row] = (REAL)(is_number ? lse : NAN);
    if (batch->prediction)
        batch->prediction[row] = is_number ? prediction : -1;
}

/* The rows' losses, rounded, if asked for. */
KERNEL_INLINE void write_losses(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                const double *losses) {
    if (!batch->row_loss)
        return;
    REAL *row_loss = (REAL *)(void *)batch->row_loss + first_row;
    for (int64_t k = 0; k < row_count; ++k)
        row_loss[k] = (REAL)losses[k];
}

/* Loss of a row with the results in lane `k`; its lse and prediction to their places. */
KERNEL_INLINE double loss_of_settled_row(const xent_batch *batch, int64_t row,
                                         const long_row *values, const row_results *results,
                                         int k) {
    const int is_number = (int)(results->is_number >> k & 1);
    write_lse_and_prediction(batch, row, results->lse[k], values->prediction, is_number);
    return is_number ? results->loss[k] : NAN;
}

/* Whether the lanes' type cannot hold a row, which is a question of its logits where the weight is
 * large. */
static NEVER_INLINE int long_row_leaves(const long_row *row, const call_settings *settings,
                                        double factor, int is_lost) {
    const REAL *logits = (const REAL *)(const void *)row->logits;
    REAL maximum = logits[0];
    int is_number = 1;
    for (int64_t k = 0; k < row->classes; ++k) {
        is_number &= logits[k] < INFINITY;
        maximum = logits[k] > maximum ? logits[k] : maximum;
    }
    if (!is_number || maximum == -INFINITY)
        return 0;
    if (settings->all_leave || is_lost || !(factor < LARGEST_FACTOR))
        return 1;
    const reach_limits reach = reach_of(v_splat((REAL)factor), &settings->scale);
    unsigned found = 0;
    for (int64_t k = 0; k < row->classes; k += LANES) {
        const int left = row->classes - k < LANES ? (int)(row->classes - k) : LANES;
        const vec x = v_load_first(logits + k, left, maximum);
        found |= v_mask_bits(is_out_of_reach(v_sub(v_splat(maximum), x), &reach));
    }
    return found != 0;
}

/* Whether a row leaves the lanes; asked before its first exponential is written.  Logits of 16 bits
 * that must be looked at are widened for good. */
KERNEL_INLINE int leaves_lanes(long_row *row, const call_settings *settings, int kind) {
    if (settings->row.output != XENT_GRADIENT && !settings->all_leave)
        return 0;
    const double mass = fabs(row->masses.label_mass) + fabs(row->masses.smoothing);
    const double weight = fabs(row->weight / settings->row.temperature);
    const double slope = fabs(row->gradient_weight / settings->row.temperature);
    const double factor =
        (weight > slope ? weight : slope) * (HAS_OWN_MASSES(kind) || mass < 1 ? 1 : mass);
    /* times a mass it is no small number, but it has lost its digits before */
    const int is_lost = HAS_MASS(kind) && slope < SMALL_FACTOR && slope != 0;
    if (!settings->all_leave && !is_lost && factor < VISIBLE_FACTOR)
        return 0;
    if (row->logits_storage != XENT_AS_COMPUTED) {
        widen(row->logits, row->classes, row->scratch, row->logits_storage);
        row->logits = (const char *)row->scratch;
        row->logits_storage = XENT_AS_COMPUTED;
    }
    return long_row_leaves(row, settings, factor, is_lost);
}

/* Loss of row `at`, which does, and its gradient. */
KERNEL_INLINE double loss_of_leaving_row(const xent_batch *batch, int64_t at, const long_row *row,
                                         int kind) {
    const int is_rounded = row->grad && row->grad_storage != XENT_AS_COMPUTED;
    xent_batch alone = *batch;
    alone.logits = xent_matrix_of(row->logits, 0, 0);
    alone.logits.storage = (xent_storage)row->logits_storage;
    const double loss = loss_of_far_row(&alone, at, row->label, kind,
                                        is_rounded ? row->scratch : (REAL *)(void *)row->grad, 1);
    if (is_rounded)
        narrow(row->scratch, row->classes, row->grad, row->grad_storage);
    return loss;
}

/* In place, the forward sweep overwrites it. */
KERNEL_INLINE double logit_of_label(const long_row *row, int kind) {
    return HAS_LABELS(kind) ? (double)load_number(row->logits, row->label, row->logits_storage) : 0;
}

/* What is done with a row's gradient as soon as it is written; `context` is the function's own.
 * NULL: nothing. */
typedef void (*after_row)(const void *context, int64_t row);

/* Rows [first_row, first_row + count), lanes along classes; count is at most `rows_at_once`. */
KERNEL_INLINE void long_rows(const xent_batch *batch, int64_t first_row, int count,
                             const int64_t *labels, double *row_loss, block_summary *workspace,
                             const double *weight_sums, REAL *scratch,
                             const call_settings *settings, after_row after, const void *context,
                             int kind) {
    const int64_t blocks = count_blocks(batch->classes);
    const int64_t scratch_step = scratch_row_step(batch->classes);
    XENT_ASSERT(count >= 1 && count <= rows_at_once(batch->classes));
    long_row rows[ROWS_AT_ONCE];
    row_sums sums;
    row_results results;
    int taken[ROWS_AT_ONCE], lanes = 0; /* row of each lane; ignored rows take none */
    for (int k = 0; k < count; ++k) {
        long_row *row = &rows[lanes];
        *row = long_row_at(batch, first_row + k, labels[k], workspace + lanes * blocks, weight_sums,
                           scratch ? scratch + lanes * scratch_step : NULL, kind);
        if (HAS_LABELS(kind) && is_ignored(&batch->labels, labels[k])) {
            row_loss[k] = 0;
            write_lse_and_prediction(batch, first_row + k, 0, -1, 0);
            if (row->grad)
                fill_gradient(row, 0, batch->classes, 0);
            if (after)
                after(context, first_row + k);
            continue;
        }
        if (leaves_lanes(row, settings, kind)) {
            row_loss[k] = loss_of_leaving_row(batch, first_row + k, row, kind);
            if (after)
                after(context, first_row + k);
            continue;
        }
        row->asks_ahead = count == 1 && row->exponentials;
        sums.target_logit[lanes] = logit_of_label(row, kind);
        forward_some_blocks(row, 0, blocks, settings, kind);
        merge_blocks(row, settings, &sums, lanes, kind);
        taken[lanes++] = k;
    }
    if (lanes == 0)
        return;
    repeat_first_lane(&sums, lanes);
    settle_rows(&sums, &settings->row, &results, kind);
    for (int lane = 0; lane < lanes; ++lane) {
        row_loss[taken[lane]] =
            loss_of_settled_row(batch, first_row + taken[lane], &rows[lane], &results, lane);
        if (batch->grad.data)
            backward_some_blocks(&rows[lane], 0, blocks, settings->row.temperature, &results, lane,
                                 kind);
        if (after)
            after(context, first_row + taken[lane]);
    }
}

KERNEL_INLINE void many_long_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                  const int64_t *labels, double *row_loss, void *workspace,
                                  after_row after, const void *context, int kind) {
    const int at_once = rows_at_once(batch->classes);
    const int64_t blocks = count_blocks(batch->classes);
    XENT_ASSERT(batch->classes > MOST_CLASSES_ALONG_ROWS);
    const call_settings settings = call_settings_of(batch);
    double *weight_sums = (double *)(void *)((block_summary *)workspace + at_once * blocks);
    REAL *scratch = NULL;
    if (is_stored(batch))
        scratch = (REAL *)(void *)((char *)workspace + bytes_of_workspace(batch->classes));
    if (kind == XENT_SMOOTHED_TARGETS && batch->class_weight)
        sum_weights_of_blocks((const REAL *)(const void *)batch->class_weight, batch->classes, 0,
                              blocks, weight_sums);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int count = row_count - k < at_once ? (int)(row_count - k) : at_once;
        long_rows(batch, first_row + k, count, labels + k, row_loss + k, (block_summary *)workspace,
                  weight_sums, scratch, &settings, after, context, kind);
    }
}
