/* The rows of one dtype: which way each batch goes, for both target kinds.  A template over REAL_BITS.
 *
 * Knows: the two algorithms and when each is taken; target kind is a constant that is inlined into them.
 * Must not know: instruction sets, threads, Python.
 */
#include "lanes_along_classes.h"
#include "lanes_along_rows.h"

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

/* Row after row, lanes along classes. */
KERNEL_INLINE void NAME(long_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, const int64_t *labels,
                                   REAL *row_loss, void *workspace, int dense) {
    for (int64_t k = 0; k < row_count; ++k) {
        const int64_t row = first_row + k;
        const REAL *logits = (const REAL *)(const void *)(batch->logits + row * batch->logits_row_stride);
        const REAL *targets = logits; /* index targets: never read */
        REAL *grad = batch->grad ? (REAL *)(void *)(batch->grad + row * batch->grad_row_stride) : NULL;
        if (dense)
            targets = (const REAL *)(const void *)(batch->dense_targets + row * batch->dense_targets_row_stride);
        if (!dense && is_ignored(&batch->labels, labels[k])) {
            row_loss[k] = 0;
            if (grad)
                NAME(fill)(grad, batch->classes, 0);
            continue;
        }
        const int64_t label = dense ? -1 : clamped_label(labels[k], batch->classes);
        row_loss[k] = (REAL)NAME(long_row)(logits, targets, grad, batch->classes, label, weight_of_row(batch, row),
                                           (NAME(block_summary) *)workspace, dense);
    }
}

KERNEL_INLINE double NAME(rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace,
                                int dense) {
    int64_t labels[XENT_MAX_ROWS_PER_CALL];
    REAL losses[XENT_MAX_ROWS_PER_CALL];
    REAL *row_loss = batch->row_loss ? (REAL *)(void *)batch->row_loss + first_row : losses;
    if (!dense)
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    if (batch->classes > MOST_CLASSES_ALONG_ROWS) {
        NAME(long_rows)(batch, first_row, row_count, labels, row_loss, workspace, dense);
    } else {
        for (int64_t k = 0; k < row_count; k += LANES) {
            const int count = row_count - k < LANES ? (int)(row_count - k) : LANES;
            NAME(short_rows)(batch, first_row + k, count, labels + k, row_loss + k, dense);
        }
    }
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
    return (size_t)((classes + BLOCK - 1) / BLOCK) * sizeof(NAME(block_summary));
}
