/* How much memory the kernels need for the rows of a batch.
 *
 * Knows: what of the contract's workspaces a batch asks for.
 * Must not know: kernels, how rows are shared out, threads, Python.
 */
#ifndef XENT_FAST_WORKSPACE_H
#define XENT_FAST_WORKSPACE_H

#include "contract.h"

/* A cache line, so that no two threads write to the same. */
enum { XENT_WORKSPACE_ALIGNMENT = 64 };

/* The next multiple of the alignment. */
static inline size_t xent_aligned(size_t bytes) {
    return (bytes + XENT_WORKSPACE_ALIGNMENT - 1) / XENT_WORKSPACE_ALIGNMENT *
           XENT_WORKSPACE_ALIGNMENT;
}

/* Whether the classes of some matrix lie apart. */
static inline int xent_is_turned(const xent_batch *batch) {
    return batch->logits.class_stride || batch->grad.class_stride ||
           batch->dense_targets.class_stride;
}

/* What either workspace has besides where numbers lie in 16 bits. */
static inline size_t xent_scratch_bytes(const xent_row_kernels *kernels, const xent_batch *batch) {
    if (batch->logits.storage == XENT_AS_COMPUTED && batch->grad.storage == XENT_AS_COMPUTED)
        return 0;
    XENT_ASSERT(kernels->knows_storage && kernels->knows_storage(batch));
    return xent_aligned(kernels->scratch_bytes(batch->classes));
}

/* The workspace of `process_rows`. */
static inline size_t xent_workspace_bytes(const xent_row_kernels *kernels,
                                          const xent_batch *batch) {
    XENT_ASSERT(!xent_is_turned(batch) || kernels->turning_bytes);
    const size_t turning = xent_is_turned(batch) ? kernels->turning_bytes(batch->classes) : 0;
    return xent_aligned(kernels->workspace_bytes(batch->classes) + turning) +
           xent_scratch_bytes(kernels, batch);
}

/* That of one row that threads share. */
static inline size_t xent_shared_row_bytes(const xent_row_kernels *kernels,
                                           const xent_batch *batch) {
    XENT_ASSERT(kernels->blocks_to_share && kernels->blocks_to_share(batch->classes) > 0);
    return xent_aligned(kernels->shared_row_bytes(batch->classes)) +
           xent_scratch_bytes(kernels, batch);
}

#endif
