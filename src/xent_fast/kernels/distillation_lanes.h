/* Distillation of a few classes: as many rows side by side as a vector has lanes.  A template over
 * REAL_BITS.
 *
 * Knows: how a vector of rows is mixed with the loss of its targets; which of them leave the lanes.
 * Must not know: the divergence's formulas (divergence.h), instruction sets, threads, Python.
 */
#include "distillation_long_rows.h"

/* Weights of `row_count` rows from `first_row`. */
KERNEL_INLINE void divergence_weights_of(const xent_distillation_batch *problem, int64_t first_row,
                                         int row_count, divergence_weights *weights) {
    ALIGNED_64 double slope_weight[LANES];
    const double temperature = problem->temperature;
    double *weight = weights->of_loss;
    weights->leaving = 0;
    for (int lane = 0; lane < LANES; ++lane) {
        const int64_t row = first_row + (lane < row_count ? lane : 0);
        weight[lane] = divergence_weight(problem, row);
        slope_weight[lane] = weight[lane] * temperature;
        const double size = fabs(weight[lane]), slope = fabs(slope_weight[lane]);
        const int is_held = size < LARGEST_FACTOR && slope < LARGEST_FACTOR &&
                            size >= SMALL_WEIGHT && slope >= SMALL_WEIGHT &&
                            temperature < RESCALE && temperature > 1 / RESCALE;
        weights->leaving |= (unsigned)(!is_held && size != 0) << lane;
    }
    weights->weight = pairs_of(weight).high;
    weights->slope_weight = pairs_of(slope_weight).high;
    weights->temperature = temperature;
}

/* A row that leaves the lanes, by itself: its loss, and the gradient to `grad`. */
static NEVER_INLINE double distil_leaving_row(const xent_distillation_batch *problem, int64_t row,
                                              REAL *grad, void *workspace) {
    xent_distillation_batch alone = *problem;
    double loss;
    alone.batch = xent_batch_from(&problem->batch, row, sizeof(REAL));
    alone.batch.grad.data = (char *)grad;
    alone.teacher = xent_matrix_from(&problem->teacher, row);
    distil_one_by_one(&alone, 0, 1, &loss, workspace);
    return loss;
}

/* Rows [first_row, first_row + row_count), at most a vector of them. `labels` has a whole vector.
 * The targets' own gradients are there where `target_loss` is not NULL. */
KERNEL_INLINE void distil_vector_of_rows(const xent_distillation_batch *problem, int64_t first_row,
                                         int row_count, const int64_t *labels,
                                         const divergence_weights *weights,
                                         const exponent_scale *scale, const REAL *target_loss,
                                         lane_columns grad_of_targets, double *losses,
                                         void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int classes = (int)batch->classes;
    const unsigned all = (1u << LANES) - 1;
    softmax_lanes teacher, student;
    ALIGNED_64 double divergence[LANES];
    ALIGNED_64 REAL columns[MOST_CLASSES_ALONG_ROWS][LANES];
    load_columns(teacher.logits, contiguous(problem->teacher), first_row, row_count, classes);
    load_columns(student.logits, contiguous(batch->logits), first_row, row_count, classes);
    const vec counted = lane_labels(&batch->labels, labels, row_count);
    const vec_mask counts = v_not_less(counted, v_splat(0));
    softmax_of_columns(&teacher, classes, scale);
    softmax_of_columns(&student, classes, scale);
    const vec_mask teaches = teacher.is_number, learns = student.is_number;
    const divergence_results results = diverge(&teacher, &student, classes, weights);
    for (int64_t k = 0; k < classes; ++k) {
        const vec slope = v_select(v_equal(results.likeliest, v_splat((REAL)k)),
                                   results.slope_of_likeliest, v_load(student.exponentials[k]));
        v_store(columns[k], target_loss
                                ? v_fma(slope, results.factor, load_column(grad_of_targets, k))
                                : v_mul(slope, results.factor));
    }
    const unsigned numbers = v_mask_bits(teaches) & v_mask_bits(learns),
                   counting = v_mask_bits(counts);
    for (int j = 0; j < LANES / 8; ++j)
        v_store_f64(divergence + 8 * j,
                    weighted_losses(results.divergence[j], weights->of_loss + 8 * j));
    for (int lane = 0; lane < row_count; ++lane)
        losses[lane] = divergence[lane] + (target_loss ? (double)target_loss[lane] : 0);
    if ((numbers & counting) != all) {
        for (int64_t k = 0; k < classes; ++k) {
            const vec grad =
                v_select(teaches, v_select(learns, v_load(columns[k]), v_splat(NAN)), v_splat(NAN));
            v_store(columns[k], v_keep(counts, grad));
        }
        for (int lane = 0; lane < row_count; ++lane)
            if (!((numbers & counting) >> lane & 1))
                losses[lane] = counting >> lane & 1 ? (double)NAN : 0;
    }
    const unsigned leaving = weights->leaving & numbers & counting;
    for (int lane = 0; leaving && lane < row_count; ++lane) {
        REAL grad[MOST_CLASSES_ALONG_ROWS];
        if (!(leaving >> lane & 1))
            continue;
        losses[lane] = distil_leaving_row(problem, first_row + lane, grad, workspace);
        for (int64_t k = 0; k < classes; ++k)
            columns[k][lane] = grad[k];
    }
    store_columns(columns, contiguous(batch->grad), first_row, row_count, classes);
}

/* Rows of a few classes; losses to `losses`. */
static NEVER_INLINE void distil_few_classes(const xent_distillation_batch *problem,
                                            int64_t first_row, int64_t row_count, double *losses,
                                            void *workspace) {
    const xent_batch *batch = &problem->batch;
    const exponent_scale scale = scale_for(problem->temperature);
    REAL target_loss[XENT_MAX_ROWS_PER_CALL];
    int64_t labels[XENT_MAX_ROWS_PER_CALL + LANES] = {0};
    const int has_targets = problem->target_kernels != NULL;
    divergence_weights weights;
    xent_distillation_batch rows = *problem;
    xent_batch part = batch_of_targets(batch, first_row, row_count,
                                       part_matrix(workspace, batch->classes, 3), target_loss);
    if (batch->dense_targets.data)
        rows.batch.labels.has_ignore_index = 0;
    else
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    if (has_targets) {
        /* the logits turn once for both, into whole vectors of rows side by side */
        const ptrdiff_t step = (row_count + LANES - 1) / LANES * LANES * (ptrdiff_t)sizeof(REAL);
        const xent_matrix columns = xent_matrix_of(part.grad.data, sizeof(REAL), step);
        turn(part.logits, columns, row_count, batch->classes);
        part.logits = part.grad = columns;
        problem->target_kernels->process_rows(&part, 0, row_count, workspace);
    }
    for (int64_t k = 0; k < row_count; k += LANES) {
        const int count = row_count - k < LANES ? (int)(row_count - k) : LANES;
        if (k == 0 || batch->sample_weight)
            divergence_weights_of(problem, first_row + k, count, &weights);
        const lane_columns grads = {xent_row(&part.grad, k), part.grad.class_stride};
        distil_vector_of_rows(&rows, first_row + k, count, labels + k, &weights, &scale,
                              has_targets ? target_loss + k : NULL, grads, losses + k, workspace);
    }
}
