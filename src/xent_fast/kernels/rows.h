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

KERNEL_INLINE int64_t NAME(blocks_of_row)(int64_t classes) { return (classes + BLOCK - 1) / BLOCK; }

/* Where row `row` lies; `blocks` is its part of the workspace. */
KERNEL_INLINE NAME(long_row)
    NAME(long_row_at)(const xent_batch *batch, int64_t row, int64_t label, NAME(block_summary) * blocks, int dense) {
    NAME(long_row) r;
    r.logits = (const REAL *)(const void *)(batch->logits + row * batch->logits_row_stride);
    r.targets = r.logits; /* index targets: never read */
    if (dense)
        r.targets = (const REAL *)(const void *)(batch->dense_targets + row * batch->dense_targets_row_stride);
    r.grad = batch->grad ? (REAL *)(void *)(batch->grad + row * batch->grad_row_stride) : NULL;
    r.label = dense ? -1 : clamped_label(label, batch->classes);
    r.pivot = -1;
    r.blocks = blocks;
    return r;
}

/* Rows [first_row, first_row + count), lanes along classes; count is at most `rows_at_once`. */
KERNEL_INLINE void NAME(long_rows)(const xent_batch *batch, int64_t first_row, int count, const int64_t *labels,
                                   REAL *row_loss, NAME(block_summary) * workspace, int dense) {
    NAME(long_row) rows[ROWS_AT_ONCE];
    row_sums sums;
    row_results results;
    int taken[ROWS_AT_ONCE], lanes = 0; /* row of each lane; ignored rows take none */
    for (int k = 0; k < count; ++k) {
        NAME(long_row)
        row = NAME(long_row_at)(batch, first_row + k, labels[k],
                                workspace + lanes * NAME(blocks_of_row)(batch->classes), dense);
        if (!dense && is_ignored(&batch->labels, labels[k])) {
            row_loss[k] = 0;
            if (row.grad)
                NAME(fill)(row.grad, batch->classes, 0);
            continue;
        }
        sums.weight[lanes] = weight_of_row(batch, first_row + k);
        NAME(forward_row)(&row, batch->classes, &sums, lanes, dense);
        rows[lanes] = row;
        taken[lanes++] = k;
    }
    if (lanes == 0)
        return;
    repeat_first_lane(&sums, lanes);
    finish_rows(&sums, &results, dense);
    for (int lane = 0; lane < lanes; ++lane) {
        row_loss[taken[lane]] = (REAL)(results.is_number >> lane & 1 ? results.loss[lane] : NAN);
        if (batch->grad)
            NAME(backward_row)(&rows[lane], batch->classes, sums.weight[lane], &results, lane, dense);
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

static double NAME(index_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace) {
    return NAME(rows)(batch, first_row, row_count, workspace, 0);
}

static double NAME(dense_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace) {
    return NAME(rows)(batch, first_row, row_count, workspace, 1);
}

static size_t NAME(workspace_bytes)(int64_t classes) {
    if (classes <= MOST_CLASSES_ALONG_ROWS)
        return 0;
    return (size_t)(NAME(rows_at_once)(classes) * NAME(blocks_of_row)(classes)) * sizeof(NAME(block_summary));
}
