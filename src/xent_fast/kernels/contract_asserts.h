/* What kernels may assume of what they are given, as asserts (checked.h): contract.h says it in
 * words.
 *
 * Knows: the contract.
 * Must not know: how a kernel works, Python, which instruction sets exist.
 */
#ifndef XENT_FAST_CONTRACT_ASSERTS_H
#define XENT_FAST_CONTRACT_ASSERTS_H

#include <math.h>

#include "contract.h"
#include "workspace.h"

static inline int xent_is_aligned(const void *numbers, size_t bytes) {
    return (uintptr_t)numbers % bytes == 0;
}

/* Rows [first_row, first_row + row_count) of `rows`. */
static inline void xent_assert_row_range(int64_t first_row, int64_t row_count, int64_t rows) {
    XENT_ASSERT(first_row >= 0 && first_row <= rows - row_count);
    XENT_ASSERT(row_count >= 1 && row_count <= XENT_MAX_ROWS_PER_CALL);
}

/* A matrix of `rows` rows: its numbers lie at multiples of their size, and the classes of a row or
 * the rows of a class side by side. */
static inline void xent_assert_matrix(const xent_matrix *matrix, size_t real_bytes, int64_t rows) {
    const size_t bytes = matrix->storage == XENT_AS_COMPUTED ? real_bytes : sizeof(uint16_t);
    const ptrdiff_t step = (ptrdiff_t)bytes;
    XENT_ASSERT(matrix->data && xent_is_aligned(matrix->data, bytes));
    XENT_ASSERT(matrix->row_stride % step == 0 && matrix->class_stride % step == 0);
    XENT_ASSERT(matrix->class_stride == 0 || matrix->class_stride == step ||
                matrix->row_stride == step || rows == 1);
}

/* One whose classes are contiguous, as computed. */
static inline void xent_assert_plain_matrix(const xent_matrix *matrix, size_t real_bytes,
                                            int64_t rows) {
    XENT_ASSERT(matrix->storage == XENT_AS_COMPUTED && matrix->class_stride == 0);
    xent_assert_matrix(matrix, real_bytes, rows);
}

/* A matrix that results take, and another that it may be. */
static inline void xent_assert_same_or_apart(const xent_matrix *result, const xent_matrix *other,
                                             int64_t rows) {
    XENT_ASSERT(result->data != other->data ||
                (result->storage == other->storage && result->class_stride == other->class_stride &&
                 (result->row_stride == other->row_stride || rows == 1)));
}

static inline void xent_assert_options(const xent_options *options) {
    XENT_ASSERT(options->label_smoothing >= 0 && options->label_smoothing <= 1);
    XENT_ASSERT(options->temperature > 0 && options->temperature < INFINITY);
    XENT_ASSERT(options->z_loss == options->z_loss);
}

/* Any batch, or the one that another begins with. */
static inline void xent_assert_batch(const xent_batch *batch, size_t real_bytes) {
    XENT_ASSERT(batch->classes >= 1);
    xent_assert_matrix(&batch->logits, real_bytes, batch->rows);
    if (batch->grad.data)
        xent_assert_matrix(&batch->grad, real_bytes, batch->rows);
    if (batch->dense_targets.data && batch->dense_targets.row_stride != 0)
        xent_assert_matrix(&batch->dense_targets, real_bytes, batch->rows);
    xent_assert_same_or_apart(&batch->grad, &batch->logits, batch->rows);
    XENT_ASSERT(batch->labels.type <= XENT_UINT64);
    XENT_ASSERT(batch->grad_output_step == 0 || batch->grad_output_step == 1);
    XENT_ASSERT(xent_is_aligned(batch->class_weight, real_bytes) &&
                xent_is_aligned(batch->row_loss, real_bytes) &&
                xent_is_aligned(batch->lse, real_bytes));
    xent_assert_options(&batch->options);
}

/* Targets of the kind that a kernel is for, or that it takes as well: smoothed labels may have no
 * smoothing, and shaped targets their own masses.  And an output that it has. */
static inline void xent_assert_kind(const xent_batch *batch, xent_target_kind kind) {
    const int has_labels = kind == XENT_INDEX_TARGETS || kind == XENT_SMOOTHED_TARGETS;
    const int takes_all = kind == XENT_SMOOTHED_TARGETS || kind == XENT_SHAPED_TARGETS;
    XENT_ASSERT(has_labels ? batch->labels.data || batch->output != XENT_GRADIENT
                           : batch->dense_targets.data != NULL);
    XENT_ASSERT(batch->output != XENT_GRADIENT || takes_all || xent_kind_of_targets(batch) == kind);
    XENT_ASSERT(batch->output == XENT_GRADIENT || has_labels);
    XENT_ASSERT(batch->output != XENT_LOG_PROBABILITIES || kind == XENT_SMOOTHED_TARGETS);
    XENT_ASSERT(batch->output == XENT_GRADIENT || kind == XENT_INDEX_TARGETS ||
                batch->weight_factor == 0);
}

static inline void xent_assert_workspace(const void *workspace, size_t bytes) {
    XENT_ASSERT(bytes == 0 || (workspace && xent_is_aligned(workspace, XENT_WORKSPACE_ALIGNMENT)));
}

/* Matrices of a function of the softmax: as computed, and all classes contiguous unless it turns
 * them. */
static inline void xent_assert_computed_matrices(const xent_batch *batch, int turns) {
    XENT_ASSERT(batch->logits.storage == XENT_AS_COMPUTED &&
                batch->grad.storage == XENT_AS_COMPUTED &&
                batch->dense_targets.storage == XENT_AS_COMPUTED);
    XENT_ASSERT(turns || !xent_is_turned(batch));
}

static inline void xent_assert_vjp(const xent_vjp_batch *batch, size_t real_bytes) {
    XENT_ASSERT(batch->classes >= 1);
    xent_assert_plain_matrix(&batch->values, real_bytes, batch->rows);
    xent_assert_plain_matrix(&batch->slopes, real_bytes, batch->rows);
    xent_assert_plain_matrix(&batch->grad, real_bytes, batch->rows);
    xent_assert_same_or_apart(&batch->grad, &batch->values, batch->rows);
    xent_assert_same_or_apart(&batch->grad, &batch->slopes, batch->rows);
}

/* What is done with a range of `blocks` blocks, which may be 0; settling has no range. */
static inline void xent_assert_shard(const xent_shard *shard, int64_t blocks, int work,
                                     size_t real_bytes) {
    const int64_t all_blocks = work == XENT_MEASURE ? blocks : shard->whole_blocks;
    XENT_ASSERT(work == XENT_MEASURE || work == XENT_SETTLE || work == XENT_WRITE);
    if (work == XENT_SETTLE) {
        XENT_ASSERT(shard->batch.row_loss);
        xent_assert_options(&shard->batch.options);
    } else if (shard->batch.classes > 0) {
        xent_assert_batch(&shard->batch, real_bytes);
        xent_assert_computed_matrices(&shard->batch, 0);
    }
    XENT_ASSERT(shard->first_class >= 0 && shard->num_classes >= 1);
    XENT_ASSERT(work != XENT_MEASURE || shard->whole_blocks == 0);
    XENT_ASSERT(work != XENT_WRITE || shard->batch.grad.data || blocks == 0);
    XENT_ASSERT(work != XENT_WRITE ||
                (shard->first_block >= 0 && shard->first_block + blocks <= shard->whole_blocks));
    XENT_ASSERT(shard->row_step >= XENT_ROW_STATISTICS + all_blocks * XENT_BLOCK_STATISTICS);
}

#endif
