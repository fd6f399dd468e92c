/* Loss of a student against a teacher and against targets, and its gradient.  A template over
 * REAL_BITS.
 *
 * Knows: the divergence of two softmaxes, and how two losses are mixed.
 * Must not know: instruction sets, threads, Python; how a softmax, or the loss of targets, is
 * computed.
 *
 * With the softmax P of the teacher's row y and Q of the student's row x, both at temperature T,
 * and b = a alpha the row's weight:
 *
 *     loss = b T^2 sum P d + loss of the targets      grad = b T (Q - P) + its gradient
 *     d = log(P / Q)
 *
 * divergence.h says how both are kept accurate.  Rows of a few classes stand side by side; longer
 * ones are taken one by one.
 */
#include "distillation_lanes.h"

/* Function of the contract. */
static double distillation_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                void *workspace) {
    const xent_distillation_batch *problem = (const xent_distillation_batch *)(const void *)batch;
    const int64_t classes = batch->classes;
    double losses[XENT_MAX_ROWS_PER_CALL];
    assert_softmax_function(batch, first_row, row_count, workspace, 0);
    xent_assert_plain_matrix(&problem->teacher, sizeof(REAL), batch->rows);
    XENT_ASSERT(batch->grad.data && problem->temperature > 0 && problem->temperature < INFINITY);
    const int64_t at_once =
        classes <= MOST_CLASSES_ALONG_ROWS ? rows_of_part(classes) : rows_at_once(classes);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        if (classes <= MOST_CLASSES_ALONG_ROWS)
            distil_few_classes(problem, first_row + k, count, losses + k, workspace);
        else
            distil_one_by_one(problem, first_row + k, count, losses + k, workspace);
    }
    write_losses(batch, first_row, row_count, losses);
    return xent_pairwise_sum(losses, row_count);
}

static size_t distillation_workspace_bytes(int64_t classes) {
    return workspace_with_matrices(classes, DISTILLATION_MATRICES(classes)) +
           2 * summary_bytes(classes);
}
