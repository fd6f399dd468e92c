/* The rows of one dtype: which way each batch goes, for both target kinds.  A template over REAL_BITS.
 *
 * Knows: the two algorithms and when each is taken; target kind is a constant that is inlined into them.
 * Must not know: instruction sets, threads, Python.
 */
#include "lanes_along_classes.h"
#include "lanes_along_rows.h"

/* Long rows are taken this many logits at a time. */
#undef LOGITS_AT_ONCE
#define LOGITS_AT_ONCE (32768 / (int)sizeof(REAL))

/* Sum in double, eight interleaved chains. */
KERNEL_INLINE double NAME(sum_of_losses)(const REAL *losses, int64_t count) {
    double chains[8] = {0};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8)
        for (int j = 0; j < 8; ++j)
            chains[j] += (double)losses[k + j];
    for (int j = 0; k + j < count; ++j)
        chains[j] += (double)losses[k + j];
    return ((chains[0] + chains[4]) + (chains[2] + chains[6])) + ((chains[1] + chains[5]) + (chains[3] + chains[7]));
}

/* Rows that lie between their two sweeps at once: as many as row_stage.h takes, but no more than stay in the nearest cache. */
KERNEL_INLINE int NAME(rows_at_once)(int64_t classes) {
    const int64_t rows = LOGITS_AT_ONCE / classes;
    return rows < 1 ? 1 : rows < ROWS_AT_ONCE ? (int)rows : ROWS_AT_ONCE;
}

/* Where row `row` lies; `blocks` is its part of the workspace. */
KERNEL_INLINE NAME(long_row)
    NAME(long_row_at)(const xent_batch *batch, int64_t row, int64_t label, NAME(block_summary) * blocks, int dense) {
    NAME(long_row) r;
    r.logits = (const REAL *)(const void *)(batch->logits + row * batch->logits_row_stride);
    r.targets = r.logits; /* index targets: never read */
    if (dense)
        r.targets = (const REAL *)(const void *)(batch->dense_targets + row * batch->dense_targets_row_stride);
    r.grad = batch->grad ? (REAL *)(void *)(batch->grad + row * batch->grad_row_stride) : NULL;
    r.classes = batch->classes;
    r.label = dense ? -1 : clamped_label(label, batch->classes);
    r.pivot = -1;
    r.blocks = blocks;
    return r;
}

/* The two sweeps over a block are functions of their own: one copy of each serves rows and parts of rows. */
static void NAME(forward_index_block)(const NAME(long_row) * row, int64_t b) { NAME(forward_block_of)(row, b, 0); }

static void NAME(forward_dense_block)(const NAME(long_row) * row, int64_t b) { NAME(forward_block_of)(row, b, 1); }

static void NAME(backward_index_block)(const NAME(long_row) * row, int64_t b, double weight, const row_results *results,
                                       int k) {
    NAME(backward_block_of)(row, b, weight, results, k, 0);
}

static void NAME(backward_dense_block)(const NAME(long_row) * row, int64_t b, double weight, const row_results *results,
                                       int k) {
    NAME(backward_block_of)(row, b, weight, results, k, 1);
}

KERNEL_INLINE void NAME(forward_some_blocks)(const NAME(long_row) * row, int64_t first, int64_t count, int dense) {
    for (int64_t b = first; b < first + count; ++b)
        (dense ? NAME(forward_dense_block) : NAME(forward_index_block))(row, b);
}

KERNEL_INLINE void NAME(backward_some_blocks)(const NAME(long_row) * row, int64_t first, int64_t count, double weight,
                                              const row_results *results, int k, int dense) {
    for (int64_t b = first; b < first + count; ++b)
        (dense ? NAME(backward_dense_block) : NAME(backward_index_block))(row, b, weight, results, k);
}

/* The sums of a row's blocks, to lane `k`. */
KERNEL_INLINE void NAME(sums_of_row)(NAME(long_row) * row, double target_logit, double weight, row_sums *sums, int k,
                                     int dense) {
    sums->target_logit[k] = target_logit;
    sums->weight[k] = weight;
    row->pivot =
        NAME(merge_blocks)(row->blocks, NAME(block_count)(row->classes), row->targets, row->label, sums, k, dense);
}

KERNEL_INLINE double NAME(loss_in_lane)(const row_results *results, int k) {
    return results->is_number >> k & 1 ? results->loss[k] : NAN;
}

/* Rows [first_row, first_row + count), lanes along classes; count is at most `rows_at_once`. */
KERNEL_INLINE void NAME(long_rows)(const xent_batch *batch, int64_t first_row, int count, const int64_t *labels,
                                   REAL *row_loss, NAME(block_summary) * workspace, int dense) {
    const int64_t blocks = NAME(block_count)(batch->classes);
    NAME(long_row) rows[ROWS_AT_ONCE];
    row_sums sums;
    row_results results;
    int taken[ROWS_AT_ONCE], lanes = 0; /* row of each lane; ignored rows take none */
    for (int k = 0; k < count; ++k) {
        NAME(long_row) *row = &rows[lanes];
        *row = NAME(long_row_at)(batch, first_row + k, dense ? -1 : labels[k], workspace + lanes * blocks, dense);
        if (!dense && is_ignored(&batch->labels, labels[k])) {
            row_loss[k] = 0;
            if (row->grad)
                NAME(fill)(row->grad, batch->classes, 0);
            continue;
        }
        const double target_logit = dense ? 0 : (double)row->logits[row->label];
        NAME(forward_some_blocks)(row, 0, blocks, dense);
        NAME(sums_of_row)(row, target_logit, weight_of_row(batch, first_row + k), &sums, lanes, dense);
        taken[lanes++] = k;
    }
    if (lanes == 0)
        return;
    repeat_first_lane(&sums, lanes);
    finish_rows(&sums, &results, dense);
    for (int lane = 0; lane < lanes; ++lane) {
        row_loss[taken[lane]] = (REAL)NAME(loss_in_lane)(&results, lane);
        if (batch->grad)
            NAME(backward_some_blocks)(&rows[lane], 0, blocks, sums.weight[lane], &results, lane, dense);
    }
}

KERNEL_INLINE void NAME(many_long_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                        const int64_t *labels, REAL *row_loss, void *workspace, int dense) {
    const int at_once = NAME(rows_at_once)(batch->classes);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int count = row_count - k < at_once ? (int)(row_count - k) : at_once;
        NAME(long_rows)(batch, first_row + k, count, labels + k, row_loss + k, (NAME(block_summary) *)workspace, dense);
    }
}

KERNEL_INLINE double NAME(rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace,
                                int dense) {
    int64_t labels[XENT_MAX_ROWS_PER_CALL];
    REAL losses[XENT_MAX_ROWS_PER_CALL];
    REAL *row_loss = batch->row_loss ? (REAL *)(void *)batch->row_loss + first_row : losses;
    if (!dense)
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    if (batch->classes > MOST_CLASSES_ALONG_ROWS)
        NAME(many_long_rows)(batch, first_row, row_count, labels, row_loss, workspace, dense);
    else
        NAME(many_short_rows)(batch, first_row, row_count, labels, row_loss, dense);
    return NAME(sum_of_losses)(row_loss, row_count);
}

static size_t NAME(workspace_bytes)(int64_t classes) {
    if (classes <= MOST_CLASSES_ALONG_ROWS)
        return 0;
    return (size_t)(NAME(rows_at_once)(classes) * NAME(block_count)(classes)) * sizeof(NAME(block_summary));
}

/* What the threads that share a row leave for each other; its blocks' summaries follow. */
typedef struct {
    NAME(long_row) row;
    int is_ignored;
    double target_logit; /* in place, the forward sweep overwrites it */
    double weight;
    row_results results;
} NAME(shared_row);

enum { NAME(summaries_at) = (sizeof(NAME(shared_row)) + 63) / 64 * 64 };

static int64_t NAME(blocks_to_share)(int64_t classes) {
    return classes <= MOST_CLASSES_ALONG_ROWS ? 0 : NAME(block_count)(classes);
}

static size_t NAME(shared_row_bytes)(int64_t classes) {
    return NAME(summaries_at) + (size_t)NAME(block_count)(classes) * sizeof(NAME(block_summary));
}

KERNEL_INLINE void NAME(begin_row)(const xent_batch *batch, int64_t row, void *workspace, int dense) {
    NAME(shared_row) *shared = (NAME(shared_row) *)workspace;
    int64_t label = -1;
    if (!dense)
        xent_read_labels(&batch->labels, row, 1, &label);
    shared->row = NAME(long_row_at)(batch, row, label,
                                    (NAME(block_summary) *)(void *)((char *)workspace + NAME(summaries_at)), dense);
    shared->is_ignored = !dense && is_ignored(&batch->labels, label);
    shared->target_logit = dense || shared->is_ignored ? 0 : (double)shared->row.logits[shared->row.label];
    shared->weight = weight_of_row(batch, row);
}

KERNEL_INLINE void NAME(forward_shared)(int64_t first_block, int64_t count, void *workspace, int dense) {
    const NAME(shared_row) *shared = (const NAME(shared_row) *)workspace;
    if (!shared->is_ignored)
        NAME(forward_some_blocks)(&shared->row, first_block, count, dense);
}

KERNEL_INLINE double NAME(finish_row)(const xent_batch *batch, int64_t row, void *workspace, int dense) {
    NAME(shared_row) *shared = (NAME(shared_row) *)workspace;
    REAL loss = 0;
    if (!shared->is_ignored) {
        row_sums sums;
        NAME(sums_of_row)(&shared->row, shared->target_logit, shared->weight, &sums, 0, dense);
        repeat_first_lane(&sums, 1);
        finish_rows(&sums, &shared->results, dense);
        loss = (REAL)NAME(loss_in_lane)(&shared->results, 0);
    }
    if (batch->row_loss)
        ((REAL *)(void *)batch->row_loss)[row] = loss;
    return (double)loss;
}

KERNEL_INLINE void NAME(backward_shared)(int64_t first_block, int64_t count, void *workspace, int dense) {
    const NAME(shared_row) *shared = (const NAME(shared_row) *)workspace;
    if (!shared->is_ignored) {
        NAME(backward_some_blocks)(&shared->row, first_block, count, shared->weight, &shared->results, 0, dense);
        return;
    }
    for (int64_t b = first_block; b < first_block + count; ++b)
        NAME(fill)(shared->row.grad + b * BLOCK, NAME(block_length)(shared->row.classes, b * BLOCK), 0);
}

/* The functions of the contract for one target kind. */
#ifndef ROW_KERNELS
#define ROW_KERNELS(kind, dense)                                                                                      \
    static double NAME(kind##_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace) { \
        return NAME(rows)(batch, first_row, row_count, workspace, dense);                                             \
    }                                                                                                                 \
    static void NAME(begin_##kind##_row)(const xent_batch *batch, int64_t row, void *workspace) {                     \
        NAME(begin_row)(batch, row, workspace, dense);                                                                \
    }                                                                                                                 \
    static void NAME(forward_##kind##_blocks)(int64_t first_block, int64_t count, void *workspace) {                  \
        NAME(forward_shared)(first_block, count, workspace, dense);                                                   \
    }                                                                                                                 \
    static double NAME(finish_##kind##_row)(const xent_batch *batch, int64_t row, void *workspace) {                  \
        return NAME(finish_row)(batch, row, workspace, dense);                                                        \
    }                                                                                                                 \
    static void NAME(backward_##kind##_blocks)(int64_t first_block, int64_t count, void *workspace) {                 \
        NAME(backward_shared)(first_block, count, workspace, dense);                                                  \
    }
#define ROW_KERNELS_TABLE(kind, dtype)                                                     \
    {PASTE_NAMES(kind##_rows, dtype),         PASTE_NAMES(workspace_bytes, dtype),         \
     PASTE_NAMES(blocks_to_share, dtype),     PASTE_NAMES(shared_row_bytes, dtype),        \
     PASTE_NAMES(begin_##kind##_row, dtype),  PASTE_NAMES(forward_##kind##_blocks, dtype), \
     PASTE_NAMES(finish_##kind##_row, dtype), PASTE_NAMES(backward_##kind##_blocks, dtype)}
#endif

ROW_KERNELS(index, 0)
ROW_KERNELS(dense, 1)
