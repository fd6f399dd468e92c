/* The rows of one dtype: which way each batch goes, for every target kind.  A template over
 * REAL_BITS.
 *
 * Knows: the two algorithms and when each is taken; target kind is a constant that is inlined into
 * them.
 * Must not know: instruction sets, threads, Python.
 */
#include "storage.h"
#include "lanes_along_classes.h"
#include "double_rows.h"
#include "lanes_along_rows.h"
#include "curvature_lanes.h"
#include "index_lanes.h"

/* Long rows are taken this many logits at a time. */
#undef LOGITS_AT_ONCE
#define LOGITS_AT_ONCE (32768 / (int)sizeof(REAL))

/* At most so many bytes of a matrix turn at a time, unless one vector of rows has more. */
#undef BYTES_PER_TURN
#define BYTES_PER_TURN 262144

/* Rows that lie between their two sweeps at once: as many as row_stage.h takes, but no more than
 * stay in the nearest cache. */
KERNEL_INLINE int NAME(rows_at_once)(int64_t classes) {
    const int64_t rows = LOGITS_AT_ONCE / classes;
    return rows < 1 ? 1 : rows < ROWS_AT_ONCE ? (int)rows : ROWS_AT_ONCE;
}

/* Block summaries of the rows between their sweeps and sums of class weights of each block, in
 * whole cache lines. */
static size_t NAME(workspace_bytes)(int64_t classes) {
    const size_t blocks = (size_t)NAME(block_count)(classes),
                 rows = (size_t)NAME(rows_at_once)(classes);
    const size_t bytes = blocks * (rows * sizeof(NAME(block_summary)) + sizeof(double));
    return classes <= MOST_CLASSES_ALONG_ROWS ? 0 : (bytes + 63) / 64 * 64;
}

/* Numbers from one scratch row to the next. */
KERNEL_INLINE int64_t NAME(scratch_step)(int64_t classes) {
    return (classes + LANES - 1) / LANES * LANES;
}

/* Masses of row `row`, whose class index is `label` if it has one; `weight_sums`, of the class
 * weights of each block. */
KERNEL_INLINE NAME(masses) NAME(masses_of_row)(const xent_batch *batch, int64_t row, int64_t label,
                                               const double *weight_sums, int kind) {
    NAME(masses) masses = {NULL, NULL, 1, 0, 0, 0, NULL};
    if (!HAS_MASS(kind))
        return masses;
    if (kind != XENT_DENSE_TARGETS)
        masses.class_weight = (const REAL *)(const void *)batch->class_weight;
    if (kind == XENT_SMOOTHED_TARGETS) {
        masses.label_mass = (1 - batch->label_smoothing) * NAME(class_weight)(batch, label);
        masses.smoothing = batch->label_smoothing / (double)batch->classes;
        masses.weight_sums = masses.class_weight ? weight_sums : NULL;
        return masses;
    }
    masses.targets =
        (const REAL *)(const void *)(batch->dense_targets + row * batch->dense_targets_row_stride);
    if (kind == XENT_SHAPED_TARGETS) {
        masses.share = (REAL)(1 - batch->label_smoothing);
        masses.floor = (REAL)(batch->label_smoothing / (double)batch->classes);
    }
    return masses;
}

/* A row's weight: that of its class, too, where no mass carries it. */
KERNEL_INLINE double NAME(weight_of_row)(const xent_batch *batch, int64_t row, int64_t label,
                                         int kind) {
    const double weight = batch->sample_weight ? batch->weight_factor * batch->sample_weight[row]
                                               : batch->weight_factor;
    return HAS_MASS(kind) || !batch->class_weight ? weight
                                                  : weight * NAME(class_weight)(batch, label);
}

/* Whether numbers of a batch lie in 16 bits. */
KERNEL_INLINE int NAME(is_stored)(const xent_batch *batch) {
    return batch->logits_storage != XENT_AS_COMPUTED || batch->grad_storage != XENT_AS_COMPUTED;
}

/* Where row `row` lies; `blocks` and `scratch` are its parts of the workspace. */
KERNEL_INLINE NAME(long_row) NAME(long_row_at)(const xent_batch *batch, int64_t row, int64_t label,
                                               NAME(block_summary) * blocks,
                                               const double *weight_sums, REAL *scratch, int kind) {
    const int64_t class_index = HAS_LABELS(kind) ? clamped_label(label, batch->classes) : -1;
    const int keeps_exponentials = batch->grad && batch->output != XENT_LOG_PROBABILITIES;
    NAME(long_row) r;
    r.logits = batch->logits + row * batch->logits_row_stride;
    r.grad = batch->grad ? batch->grad + row * batch->grad_row_stride : NULL;
    r.scratch = scratch;
    r.exponentials = !keeps_exponentials                       ? NULL
                     : batch->grad_storage == XENT_AS_COMPUTED ? (REAL *)(void *)r.grad
                                                               : scratch;
    r.logits_storage = batch->logits_storage;
    r.grad_storage = batch->grad_storage;
    r.classes = batch->classes;
    r.label = class_index;
    r.pivot = r.prediction = -1;
    r.weight = r.gradient_weight = NAME(weight_of_row)(batch, row, class_index, kind);
    if (batch->grad_output)
        r.gradient_weight *= batch->grad_output[row * batch->grad_output_step];
    r.masses = NAME(masses_of_row)(batch, row, class_index, weight_sums, kind);
    r.blocks = blocks;
    r.next_logits = (uintptr_t)r.logits + (uintptr_t)batch->logits_row_stride;
    r.next_targets = (uintptr_t)r.masses.targets + (uintptr_t)batch->dense_targets_row_stride;
    r.asks_ahead = 0;
    return r;
}

typedef void (*NAME(forward_sweep))(const NAME(long_row) * row, int64_t b,
                                    const NAME(settings) * settings);
typedef void (*NAME(backward_sweep))(const NAME(long_row) * row, int64_t b, double temperature,
                                     const row_results *results, int k);

/* The two sweeps over a block are functions of their own, one for each storage: one copy of each
 * serves rows and parts of rows. */
#ifndef BLOCK_SWEEPS
#define BLOCK_SWEEPS(type, storage, name, kind)                                                \
    static void NAME(forward_##name##_##type)(const NAME(long_row) * row, int64_t b,           \
                                              const NAME(settings) * settings) {               \
        NAME(forward_block_of)(row, b, settings, kind, storage);                               \
    }                                                                                          \
    static void NAME(backward_##name##_##type)(const NAME(long_row) * row, int64_t b,          \
                                               double temperature, const row_results *results, \
                                               int k) {                                        \
        NAME(backward_block_of)(row, b, temperature, results, k, kind, storage);               \
    }
#define FORWARD_SWEEP(type, storage, name, kind) NAME(forward_##name##_##type),
#define BACKWARD_SWEEP(type, storage, name, kind) NAME(backward_##name##_##type),
/* Both, by the storage of logits or gradient. */
#define SWEEP_TABLES(name, kind, each)                                                         \
    each(BLOCK_SWEEPS, name, kind) static const NAME(forward_sweep)                            \
        NAME(forward_##name##_sweeps)[XENT_STORAGE_COUNT] = {each(FORWARD_SWEEP, name, kind)}; \
    static const NAME(backward_sweep)                                                          \
        NAME(backward_##name##_sweeps)[XENT_STORAGE_COUNT] = {each(BACKWARD_SWEEP, name, kind)};
#define AS_COMPUTED_ALONE(each, ...) each(as_computed, XENT_AS_COMPUTED, __VA_ARGS__)
#endif
SWEEP_TABLES(index, XENT_INDEX_TARGETS, EACH_STORAGE)
SWEEP_TABLES(dense, XENT_DENSE_TARGETS, AS_COMPUTED_ALONE)
SWEEP_TABLES(shaped, XENT_SHAPED_TARGETS, AS_COMPUTED_ALONE)
SWEEP_TABLES(smoothed, XENT_SMOOTHED_TARGETS, EACH_STORAGE)

KERNEL_INLINE void NAME(forward_some_blocks)(const NAME(long_row) * row, int64_t first,
                                             int64_t count, const NAME(settings) * settings,
                                             int kind) {
    const NAME(forward_sweep) *sweeps = kind == XENT_INDEX_TARGETS   ? NAME(forward_index_sweeps)
                                        : kind == XENT_DENSE_TARGETS ? NAME(forward_dense_sweeps)
                                        : kind == XENT_SHAPED_TARGETS
                                            ? NAME(forward_shaped_sweeps)
                                            : NAME(forward_smoothed_sweeps);
    for (int64_t b = first; b < first + count; ++b)
        sweeps[row->logits_storage](row, b, settings);
}

KERNEL_INLINE void NAME(backward_some_blocks)(const NAME(long_row) * row, int64_t first,
                                              int64_t count, double temperature,
                                              const row_results *results, int k, int kind) {
    const NAME(backward_sweep) *sweeps = kind == XENT_INDEX_TARGETS   ? NAME(backward_index_sweeps)
                                         : kind == XENT_DENSE_TARGETS ? NAME(backward_dense_sweeps)
                                         : kind == XENT_SHAPED_TARGETS
                                             ? NAME(backward_shaped_sweeps)
                                             : NAME(backward_smoothed_sweeps);
    for (int64_t b = first; b < first + count; ++b)
        sweeps[row->grad_storage](row, b, temperature, results, k);
}

/* What is told of a row besides its loss, if asked for. */
KERNEL_INLINE void NAME(tell_statistics)(const xent_batch *batch, int64_t row, double lse,
                                         int64_t prediction, int is_number) {
    if (batch->lse)
        ((REAL *)(void *)batch->lse)[row] = (REAL)(is_number ? lse : NAN);
    if (batch->prediction)
        batch->prediction[row] = is_number ? prediction : -1;
}

/* The rows' losses, rounded, if asked for. */
KERNEL_INLINE void NAME(tell_losses)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                     const double *losses) {
    if (!batch->row_loss)
        return;
    REAL *row_loss = (REAL *)(void *)batch->row_loss + first_row;
    for (int64_t k = 0; k < row_count; ++k)
        row_loss[k] = (REAL)losses[k];
}

/* Loss and statistics of a row with the results in lane `k`. */
KERNEL_INLINE double NAME(tell_row)(const xent_batch *batch, int64_t row,
                                    const NAME(long_row) * values, const row_results *results,
                                    int k) {
    const int is_number = (int)(results->is_number >> k & 1);
    NAME(tell_statistics)(batch, row, results->lse[k], values->prediction, is_number);
    return is_number ? results->loss[k] : NAN;
}

/* Whether the lanes' type cannot hold a row, which is a question of its logits where the weight is
 * large. */
static NEVER_INLINE int NAME(long_row_leaves)(const NAME(long_row) * row,
                                              const NAME(settings) * settings, double factor,
                                              int is_lost) {
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
    const NAME(reach) reach = NAME(reach_of)(v_splat((REAL)factor), &settings->scale);
    unsigned found = 0;
    for (int64_t k = 0; k < row->classes; k += LANES) {
        const int left = row->classes - k < LANES ? (int)(row->classes - k) : LANES;
        const vec x = v_load_first(logits + k, left, maximum);
        found |= v_mask_bits(NAME(is_out_of_reach)(v_sub(v_splat(maximum), x), &reach));
    }
    return found != 0;
}

/* Whether a row leaves the lanes; asked before its first exponential is written.  Logits of 16 bits
 * that must be looked at are widened for good. */
KERNEL_INLINE int NAME(leaves_lanes)(NAME(long_row) * row, const NAME(settings) * settings,
                                     int kind) {
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
        NAME(widen)(row->logits, row->classes, row->scratch, row->logits_storage);
        row->logits = (const char *)row->scratch;
        row->logits_storage = XENT_AS_COMPUTED;
    }
    return NAME(long_row_leaves)(row, settings, factor, is_lost);
}

/* Loss of row `at`, which does, and its gradient. */
KERNEL_INLINE double NAME(loss_of_leaving_row)(const xent_batch *batch, int64_t at,
                                               const NAME(long_row) * row, int kind) {
    const int is_rounded = row->grad && row->grad_storage != XENT_AS_COMPUTED;
    xent_batch plain = *batch;
    plain.logits = row->logits;
    plain.logits_row_stride = 0;
    const double loss = NAME(loss_of_far_row)(
        &plain, at, row->label, kind, is_rounded ? row->scratch : (REAL *)(void *)row->grad, 1);
    if (is_rounded)
        NAME(narrow)(row->scratch, row->classes, row->grad, row->grad_storage);
    return loss;
}

/* In place, the forward sweep overwrites it. */
KERNEL_INLINE double NAME(logit_of_label)(const NAME(long_row) * row, int kind) {
    return HAS_LABELS(kind)
               ? (double)NAME(load_number)(row->logits, row->label, row->logits_storage)
               : 0;
}

/* What is done with a row's gradient as soon as it is written; `context` is the function's own.
 * NULL: nothing. */
typedef void (*NAME(after_row))(const void *context, int64_t row);

/* Rows [first_row, first_row + count), lanes along classes; count is at most `rows_at_once`. */
KERNEL_INLINE void NAME(long_rows)(const xent_batch *batch, int64_t first_row, int count,
                                   const int64_t *labels, double *row_loss,
                                   NAME(block_summary) * workspace, const double *weight_sums,
                                   REAL *scratch, const NAME(settings) * settings,
                                   NAME(after_row) after, const void *context, int kind) {
    const int64_t blocks = NAME(block_count)(batch->classes);
    const int64_t scratch_step = NAME(scratch_step)(batch->classes);
    NAME(long_row) rows[ROWS_AT_ONCE];
    row_sums sums;
    row_results results;
    int taken[ROWS_AT_ONCE], lanes = 0; /* row of each lane; ignored rows take none */
    for (int k = 0; k < count; ++k) {
        NAME(long_row) *row = &rows[lanes];
        *row =
            NAME(long_row_at)(batch, first_row + k, labels[k], workspace + lanes * blocks,
                              weight_sums, scratch ? scratch + lanes * scratch_step : NULL, kind);
        if (HAS_LABELS(kind) && is_ignored(&batch->labels, labels[k])) {
            row_loss[k] = 0;
            NAME(tell_statistics)(batch, first_row + k, 0, -1, 0);
            if (row->grad)
                NAME(fill_gradient)(row, 0, batch->classes, 0);
            if (after)
                after(context, first_row + k);
            continue;
        }
        if (NAME(leaves_lanes)(row, settings, kind)) {
            row_loss[k] = NAME(loss_of_leaving_row)(batch, first_row + k, row, kind);
            if (after)
                after(context, first_row + k);
            continue;
        }
        row->asks_ahead = count == 1 && row->exponentials;
        sums.target_logit[lanes] = NAME(logit_of_label)(row, kind);
        NAME(forward_some_blocks)(row, 0, blocks, settings, kind);
        NAME(merge_blocks)(row, settings, &sums, lanes, kind);
        taken[lanes++] = k;
    }
    if (lanes == 0)
        return;
    repeat_first_lane(&sums, lanes);
    finish_rows(&sums, &settings->row, &results, kind);
    for (int lane = 0; lane < lanes; ++lane) {
        row_loss[taken[lane]] =
            NAME(tell_row)(batch, first_row + taken[lane], &rows[lane], &results, lane);
        if (batch->grad)
            NAME(backward_some_blocks)(&rows[lane], 0, blocks, settings->row.temperature, &results,
                                       lane, kind);
        if (after)
            after(context, first_row + taken[lane]);
    }
}

KERNEL_INLINE void NAME(many_long_rows)(const xent_batch *batch, int64_t first_row,
                                        int64_t row_count, const int64_t *labels, double *row_loss,
                                        void *workspace, NAME(after_row) after, const void *context,
                                        int kind) {
    const int at_once = NAME(rows_at_once)(batch->classes);
    const int64_t blocks = NAME(block_count)(batch->classes);
    const NAME(settings) settings = NAME(settings_of)(batch);
    double *weight_sums = (double *)(void *)((NAME(block_summary) *)workspace + at_once * blocks);
    REAL *scratch = NULL;
    if (NAME(is_stored)(batch))
        scratch = (REAL *)(void *)((char *)workspace + NAME(workspace_bytes)(batch->classes));
    if (kind == XENT_SMOOTHED_TARGETS && batch->class_weight)
        NAME(sum_weights_of_blocks)((const REAL *)(const void *)batch->class_weight, batch->classes,
                                    0, blocks, weight_sums);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int count = row_count - k < at_once ? (int)(row_count - k) : at_once;
        NAME(long_rows)(batch, first_row + k, count, labels + k, row_loss + k,
                        (NAME(block_summary) *)workspace, weight_sums, scratch, &settings, after,
                        context, kind);
    }
}

/* One matrix of a batch, from some row on. */
typedef struct {
    char *data; /* NULL: there is none */
    ptrdiff_t row_stride, class_stride;
} NAME(matrix);

KERNEL_INLINE NAME(matrix)
    NAME(matrix_of)(const char *data, ptrdiff_t row_stride, ptrdiff_t class_stride) {
    const NAME(matrix) matrix = {(char *)data, row_stride, class_stride};
    return matrix;
}

/* Numbers from one layout to another.  A few classes of all rows come before the next few, so that
 * each cache line that is asked for is used whole, however far apart the classes lie; meanwhile the
 * rows after these come from memory. */
KERNEL_INLINE void NAME(turn)(NAME(matrix) source, NAME(matrix) destination, int64_t row_count,
                              int64_t classes) {
    ALIGNED_64 REAL columns[TRANSPOSE_WIDTH][LANES];
    const ptrdiff_t source_step =
        source.class_stride ? source.class_stride : (ptrdiff_t)sizeof(REAL);
    const ptrdiff_t step =
        destination.class_stride ? destination.class_stride : (ptrdiff_t)sizeof(REAL);
    for (int64_t k = 0; k < classes; k += TRANSPOSE_WIDTH) {
        const int count = classes - k < TRANSPOSE_WIDTH ? (int)(classes - k) : TRANSPOSE_WIDTH;
        for (int64_t row = 0; row < row_count; row += LANES) {
            const int rows = row_count - row < LANES ? (int)(row_count - row) : LANES;
            if (source.class_stride)
                for (int j = 0; j < count; ++j)
                    PREFETCH(source.data + (row + row_count) * source.row_stride +
                             (k + j) * source_step);
            NAME(load_columns)(columns, source.data + row * source.row_stride + k * source_step,
                               source.row_stride, source.class_stride, rows, count);
            NAME(store_columns)(columns, destination.data + row * destination.row_stride + k * step,
                                destination.row_stride, destination.class_stride, rows, count);
        }
    }
}

/* Asks for the columns that will be written. */
KERNEL_INLINE void NAME(prefetch_columns)(NAME(matrix) matrix, int64_t row_count, int64_t classes) {
    for (int64_t k = 0; k < classes; ++k)
        for (int64_t row = 0; row < row_count; row += LANES)
            PREFETCH(matrix.data + row * matrix.row_stride + k * matrix.class_stride);
}

/* Rows of a batch with a class stride that are taken at a time: as many as have four vectors of
 * each class side by side, if a core's own cache holds them. */
KERNEL_INLINE int NAME(rows_per_turn)(int64_t classes) {
    return classes * (4 * LANES) * (int64_t)sizeof(REAL) <= BYTES_PER_TURN ? 4 * LANES : LANES;
}

/* A place for them where their classes are contiguous. */
KERNEL_INLINE NAME(matrix) NAME(place_for_turned)(char *place, int64_t classes) {
    return NAME(matrix_of)(place, (ptrdiff_t)classes * (ptrdiff_t)sizeof(REAL), 0);
}

KERNEL_INLINE size_t NAME(bytes_of_turned)(int64_t classes) {
    return (size_t)(classes * NAME(rows_per_turn)(classes)) * sizeof(REAL);
}

/* Whether rows must be turned: a few classes are read and written as they lie. */
KERNEL_INLINE int NAME(must_turn)(const xent_batch *batch) {
    return batch->classes > MOST_CLASSES_ALONG_ROWS &&
           (NAME(has_columns)(batch->logits_class_stride) ||
            (batch->grad && NAME(has_columns)(batch->grad_class_stride)) ||
            (batch->dense_targets && NAME(has_columns)(batch->dense_targets_class_stride)));
}

KERNEL_INLINE void NAME(plain_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                    const int64_t *labels, double *row_loss, void *workspace,
                                    int kind) {
    if (batch->classes > MOST_CLASSES_ALONG_ROWS)
        NAME(many_long_rows)(batch, first_row, row_count, labels, row_loss, workspace, NULL, NULL,
                             kind);
    else if (kind == XENT_INDEX_TARGETS)
        NAME(many_index_rows)(batch, first_row, row_count, labels, row_loss);
    else
        NAME(many_short_rows)(batch, first_row, row_count, labels, row_loss, kind);
}

typedef void (*NAME(rows_function))(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                    const int64_t *labels, double *row_loss, void *workspace);

/* The same by `compute`, where some matrix has a class stride: it turns in the workspace.  `labels`
 * has whole vectors. */
static NEVER_INLINE void NAME(turned_rows)(const xent_batch *batch, int64_t first_row,
                                           int64_t row_count, const int64_t *labels,
                                           double *row_loss, void *workspace,
                                           NAME(rows_function) compute) {
    const int64_t classes = batch->classes, at_once = NAME(rows_per_turn)(classes);
    char *after_summaries = (char *)workspace + NAME(workspace_bytes)(classes);
    const NAME(matrix) place = NAME(place_for_turned)(after_summaries, classes);
    const NAME(matrix) target_place =
        NAME(place_for_turned)(after_summaries + NAME(bytes_of_turned)(classes), classes);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        const xent_batch given = xent_batch_from(batch, first_row + k, sizeof(REAL));
        const NAME(matrix) grad =
            NAME(matrix_of)(given.grad, given.grad_row_stride, given.grad_class_stride);
        xent_batch turned = given;
        if (NAME(has_columns)(given.logits_class_stride)) {
            NAME(turn)(
                NAME(matrix_of)(given.logits, given.logits_row_stride, given.logits_class_stride),
                place, count, classes);
            turned.logits = place.data;
            turned.logits_row_stride = place.row_stride;
            turned.logits_class_stride = place.class_stride;
        }
        if (given.dense_targets && NAME(has_columns)(given.dense_targets_class_stride)) {
            NAME(turn)(NAME(matrix_of)(given.dense_targets, given.dense_targets_row_stride,
                                       given.dense_targets_class_stride),
                       target_place, count, classes);
            turned.dense_targets = target_place.data;
            turned.dense_targets_row_stride = target_place.row_stride;
            turned.dense_targets_class_stride = target_place.class_stride;
        }
        if (grad.data && NAME(has_columns)(grad.class_stride)) {
            if (given.grad != given.logits)
                NAME(prefetch_columns)(grad, count, classes);
            turned.grad = place.data;
            turned.grad_row_stride = place.row_stride;
            turned.grad_class_stride = place.class_stride;
        }
        compute(&turned, 0, count, labels + k, row_loss + k, workspace);
        if (turned.grad == place.data && grad.data)
            NAME(turn)(place, grad, count, classes);
    }
}

/* Losses of rows by `compute`, unrounded to `losses` and rounded to where the batch wants them. */
KERNEL_INLINE void NAME(rows_to)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                 void *workspace, NAME(rows_function) compute, double *losses,
                                 int kind) {
    int64_t labels[XENT_MAX_ROWS_PER_CALL + LANES];
    if (HAS_LABELS(kind))
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    else
        memset(labels, 0, sizeof labels);
    if (NAME(must_turn)(batch))
        NAME(turned_rows)(batch, first_row, row_count, labels, losses, workspace, compute);
    else
        compute(batch, first_row, row_count, labels, losses, workspace);
    NAME(tell_losses)(batch, first_row, row_count, losses);
}

KERNEL_INLINE double NAME(rows)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                void *workspace, NAME(rows_function) compute, int kind) {
    double losses[XENT_MAX_ROWS_PER_CALL];
    NAME(rows_to)(batch, first_row, row_count, workspace, compute, losses, kind);
    return xent_pairwise_sum(losses, row_count);
}

static size_t NAME(turning_bytes)(int64_t classes) {
    return classes > MOST_CLASSES_ALONG_ROWS ? 2 * NAME(bytes_of_turned)(classes) : 0;
}

/* Rows between their sweeps that have no place for exponentials of their own. */
MAYBE_UNUSED static size_t NAME(scratch_bytes)(int64_t classes) {
    const int64_t rows = NAME(rows_at_once)(classes);
    return classes > MOST_CLASSES_ALONG_ROWS
               ? (size_t)(rows * NAME(scratch_step)(classes)) * sizeof(REAL)
               : 0;
}

/* What the threads that share a row leave for each other; its blocks' summaries and sums of class
 * weights follow, and its scratch row. */
typedef struct {
    NAME(long_row) row;
    NAME(settings) settings;
    int is_ignored;
    int leaves;          /* the lanes: see double_rows.h */
    double target_logit; /* in place, the forward sweep overwrites it */
    double *weight_sums;
    row_results results;
} NAME(shared_row);

enum { NAME(summaries_at) = (sizeof(NAME(shared_row)) + 63) / 64 * 64 };

static int64_t NAME(blocks_to_share)(int64_t classes) {
    return classes <= MOST_CLASSES_ALONG_ROWS ? 0 : NAME(block_count)(classes);
}

static size_t NAME(shared_row_bytes)(int64_t classes) {
    const size_t block_bytes = sizeof(NAME(block_summary)) + sizeof(double);
    return NAME(summaries_at) + ((size_t)NAME(block_count)(classes) * block_bytes + 63) / 64 * 64;
}

KERNEL_INLINE void NAME(begin_row)(const xent_batch *batch, int64_t row, void *workspace,
                                   int kind) {
    NAME(shared_row) *shared = (NAME(shared_row) *)workspace;
    NAME(block_summary) *blocks =
        (NAME(block_summary) *)(void *)((char *)workspace + NAME(summaries_at));
    int64_t label = -1;
    if (HAS_LABELS(kind))
        xent_read_labels(&batch->labels, row, 1, &label);
    shared->weight_sums = (double *)(void *)(blocks + NAME(block_count)(batch->classes));
    REAL *scratch = NULL;
    if (NAME(is_stored)(batch))
        scratch = (REAL *)(void *)((char *)workspace + NAME(shared_row_bytes)(batch->classes));
    shared->row = NAME(long_row_at)(batch, row, label, blocks, shared->weight_sums, scratch, kind);
    shared->settings = NAME(settings_of)(batch);
    shared->is_ignored = HAS_LABELS(kind) && is_ignored(&batch->labels, label);
    shared->leaves =
        !shared->is_ignored && NAME(leaves_lanes)(&shared->row, &shared->settings, kind);
    shared->target_logit = shared->is_ignored ? 0 : NAME(logit_of_label)(&shared->row, kind);
}

KERNEL_INLINE void NAME(forward_shared)(int64_t first_block, int64_t count, void *workspace,
                                        int kind) {
    const NAME(shared_row) *shared = (const NAME(shared_row) *)workspace;
    const NAME(masses) *masses = &shared->row.masses;
    if (kind == XENT_SMOOTHED_TARGETS && masses->class_weight)
        NAME(sum_weights_of_blocks)(masses->class_weight, shared->row.classes, first_block, count,
                                    shared->weight_sums);
    if (!shared->is_ignored && !shared->leaves)
        NAME(forward_some_blocks)(&shared->row, first_block, count, &shared->settings, kind);
}

KERNEL_INLINE double NAME(finish_row)(const xent_batch *batch, int64_t row, void *workspace,
                                      int kind) {
    NAME(shared_row) *shared = (NAME(shared_row) *)workspace;
    double loss = 0;
    if (shared->is_ignored) {
        NAME(tell_statistics)(batch, row, 0, -1, 0);
    } else if (shared->leaves) {
        loss = NAME(loss_of_leaving_row)(batch, row, &shared->row, kind);
    } else {
        row_sums sums;
        sums.target_logit[0] = shared->target_logit;
        NAME(merge_blocks)(&shared->row, &shared->settings, &sums, 0, kind);
        repeat_first_lane(&sums, 1);
        finish_rows(&sums, &shared->settings.row, &shared->results, kind);
        loss = NAME(tell_row)(batch, row, &shared->row, &shared->results, 0);
    }
    NAME(tell_losses)(batch, row, 1, &loss);
    return loss;
}

KERNEL_INLINE void NAME(backward_shared)(int64_t first_block, int64_t count, void *workspace,
                                         int kind) {
    const NAME(shared_row) *shared = (const NAME(shared_row) *)workspace;
    if (shared->leaves)
        return;
    if (!shared->is_ignored) {
        NAME(backward_some_blocks)(&shared->row, first_block, count,
                                   shared->settings.row.temperature, &shared->results, 0, kind);
        return;
    }
    for (int64_t b = first_block; b < first_block + count; ++b)
        NAME(fill_gradient)(&shared->row, b * BLOCK,
                            NAME(block_length)(shared->row.classes, b * BLOCK), 0);
}

/* The functions of the contract for one target kind. */
#ifndef ROW_KERNELS
#define ROW_KERNELS(name, kind)                                                                    \
    static NEVER_INLINE void NAME(plain_##name##_rows)(const xent_batch *batch, int64_t first_row, \
                                                       int64_t row_count, const int64_t *labels,   \
                                                       double *row_loss, void *workspace) {        \
        NAME(plain_rows)(batch, first_row, row_count, labels, row_loss, workspace, kind);          \
    }                                                                                              \
    static double NAME(name##_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, \
                                    void *workspace) {                                             \
        return NAME(rows)(batch, first_row, row_count, workspace, NAME(plain_##name##_rows),       \
                          kind);                                                                   \
    }                                                                                              \
    static void NAME(begin_##name##_row)(const xent_batch *batch, int64_t row, void *workspace) {  \
        NAME(begin_row)(batch, row, workspace, kind);                                              \
    }                                                                                              \
    static void NAME(forward_##name##_blocks)(int64_t first_block, int64_t count,                  \
                                              void *workspace) {                                   \
        NAME(forward_shared)(first_block, count, workspace, kind);                                 \
    }                                                                                              \
    static double NAME(finish_##name##_row)(const xent_batch *batch, int64_t row,                  \
                                            void *workspace) {                                     \
        return NAME(finish_row)(batch, row, workspace, kind);                                      \
    }                                                                                              \
    static void NAME(backward_##name##_blocks)(int64_t first_block, int64_t count,                 \
                                               void *workspace) {                                  \
        NAME(backward_shared)(first_block, count, workspace, kind);                                \
    }
#define ROW_KERNELS_TABLE(name, dtype, scratch_bytes)                                       \
    {PASTE_NAMES(name##_rows, dtype),         PASTE_NAMES(workspace_bytes, dtype),          \
     PASTE_NAMES(blocks_to_share, dtype),     PASTE_NAMES(shared_row_bytes, dtype),         \
     PASTE_NAMES(begin_##name##_row, dtype),  PASTE_NAMES(forward_##name##_blocks, dtype),  \
     PASTE_NAMES(finish_##name##_row, dtype), PASTE_NAMES(backward_##name##_blocks, dtype), \
     PASTE_NAMES(turning_bytes, dtype),       scratch_bytes}
#endif

ROW_KERNELS(index, XENT_INDEX_TARGETS)
ROW_KERNELS(dense, XENT_DENSE_TARGETS)
ROW_KERNELS(shaped, XENT_SHAPED_TARGETS)
ROW_KERNELS(smoothed, XENT_SMOOTHED_TARGETS)
