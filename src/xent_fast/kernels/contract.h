/* The contract between the Python layer and the row kernels.
 *
 * Knows: what a kernel is given, what it gives back, and what it may assume.
 * Must not know: Python, NumPy, OpenMP, which instruction sets exist.
 *
 * The formula.  A row has logits x and effective mass q, one number a class:
 *
 *     class index y     q = a ((1 - E) w_y onehot(y) + E/C w)
 *     dense target t    q = a w ((1 - E) t + E/C)          a: the row's weight, w: class weights,
 *                       E: smoothing
 *
 *     x = logits / T      m = max x      S = sum exp(x - m)      lse = m + log S
 *     p = exp(x - lse)      Q = sum q
 *     loss = sum q_c (lse - x_c) + a z lse^2           grad = ((Q + 2 a z lse) p - q) / T
 *
 * What every kernel promises:
 *   - a row's bits depend on that row, on the number of classes and on nothing else;
 *   - each logit is read before its place in `grad` is written, so that `grad` may be `logits`;
 *   - no address outside the rows given is read or written, whatever the labels hold.
 */
#ifndef XENT_FAST_CONTRACT_H
#define XENT_FAST_CONTRACT_H

#include <stddef.h>
#include <stdint.h>

#include "checked.h"

typedef enum { XENT_FLOAT32 = 0, XENT_FLOAT64 = 1, XENT_DTYPE_COUNT = 2 } xent_dtype;

/* How numbers lie in memory: of the type that they are computed in, or in 16 bits, where that is
 * float32. */
typedef enum {
    XENT_AS_COMPUTED = 0,
    XENT_FLOAT16 = 1,
    XENT_BFLOAT16 = 2,
    XENT_STORAGE_COUNT = 3
} xent_storage;

/* One number a row and class, as it lies in memory.  Strides are in bytes and of any sign, numbers
 * aligned to their own size.  Either the classes of one row are contiguous (class stride 0 says so)
 * or its rows are: then the row stride is the size of one number.  Groups of rows are whatever one
 * row stride does not reach: kernels are given the rows of one. */
typedef struct {
    char *data; /* class 0 of row 0; NULL: there is no matrix, its numbers are as computed */
    ptrdiff_t row_stride, class_stride, group_stride;
    xent_storage storage;
} xent_matrix;

/* One group of numbers as they are computed. */
static inline xent_matrix xent_matrix_of(const void *data, ptrdiff_t row_stride,
                                         ptrdiff_t class_stride) {
    const xent_matrix matrix = {(char *)data, row_stride, class_stride, 0, XENT_AS_COMPUTED};
    return matrix;
}

/* Class 0 of a row. */
static inline char *xent_row(const xent_matrix *matrix, int64_t row) {
    return matrix->data + (ptrdiff_t)row * matrix->row_stride;
}

/* The matrix whose row 0 is that row. */
static inline xent_matrix xent_matrix_from(const xent_matrix *matrix, int64_t row) {
    xent_matrix rest = *matrix;
    rest.data = matrix->data ? xent_row(matrix, row) : NULL;
    return rest;
}

/* The matrix whose rows are those of that group. */
static inline xent_matrix xent_group_of(const xent_matrix *matrix, int64_t group) {
    xent_matrix rows = *matrix;
    rows.data = matrix->data ? matrix->data + (ptrdiff_t)group * matrix->group_stride : NULL;
    return rows;
}

/* Shaped targets are dense ones with label smoothing or class weights; smoothed ones are class
 * indices with label smoothing, or with class weights and z_loss, or those of whatever asks for p
 * and log p.  Class indices with class weights alone are index targets: w_y is part of the row's
 * weight. */
typedef enum {
    XENT_INDEX_TARGETS = 0,
    XENT_DENSE_TARGETS = 1,
    XENT_SHAPED_TARGETS = 2,
    XENT_SMOOTHED_TARGETS = 3,
    XENT_TARGET_KIND_COUNT = 4
} xent_target_kind;

/* What takes the gradient's place: the gradient; or p, whatever the class indices are; or p or log
 * p, for smoothed targets whose rows have no weight. */
typedef enum { XENT_GRADIENT = 0, XENT_PROBABILITIES = 1, XENT_LOG_PROBABILITIES = 2 } xent_output;

/* Integer labels are read as they lie in memory, whatever their width. */
typedef enum {
    XENT_INT8,
    XENT_INT16,
    XENT_INT32,
    XENT_INT64,
    XENT_UINT8,
    XENT_UINT16,
    XENT_UINT32,
    XENT_UINT64
} xent_label_type;

/* One label column.  `ignore_index` counts only where `has_ignore_index` is set, which is only
 * where the label type can hold that value (a uint64 column cannot hold -1). */
typedef struct {
    const char *data; /* label of row 0; NULL: none, for results that depend on none; read as 0 */
    ptrdiff_t stride; /* bytes from one label to the next; any sign */
    xent_label_type type;
    int has_ignore_index;
    int64_t ignore_index;
} xent_labels;

/* The numbers of the formula above. */
typedef struct {
    double label_smoothing; /* E */
    double temperature;     /* T */
    double z_loss;          /* z */
} xent_options;

/* One batch; which of its matrices may lie in 16 bits is said by `knows_storage`.  The caller has
 * checked that every label is in [0, classes) or ignored; kernels clamp what they read again, since
 * another thread may have changed it since. */
typedef struct {
    int64_t rows;
    int64_t classes;             /* at least 1 */
    xent_matrix logits;          /* never written to */
    xent_matrix grad;            /* none: loss only; may be `logits`, else disjoint */
    xent_matrix dense_targets;   /* none: class indices; row stride 0: one row of targets for all */
    xent_labels labels;          /* class indices */
    const double *sample_weight; /* one number a row, or NULL for 1 */
    double weight_factor;        /* a row's weight a = sample_weight * weight_factor */
    const double *grad_output;   /* multiplies the gradient alone: one number every
                                    `grad_output_step`, or NULL for 1 */
    int64_t grad_output_step;    /* from one row's to the next: 1, or 0 for the same */
    const char *class_weight;    /* w: one number a class, of the logits' dtype, or NULL for 1 */
    xent_options options;
    xent_output output; /* what goes to grad */
    char
        *row_loss; /* `rows` numbers of the logits' dtype, or NULL where only their sum is wanted */
    char *lse;     /* the same; NaN for rows that have none or do not count */
    int64_t *prediction; /* class of each row's first maximum, or NULL; -1 for the same rows */
} xent_batch;

/* The batch whose row 0 is row `row` of another, whose numbers take `real_bytes` each. */
static inline xent_batch xent_batch_from(const xent_batch *batch, int64_t row, size_t real_bytes) {
    xent_batch rest = *batch;
    XENT_ASSERT(row >= 0 && row <= batch->rows);
    const ptrdiff_t first = (ptrdiff_t)row, first_byte = first * (ptrdiff_t)real_bytes;
    rest.rows -= row;
    rest.logits = xent_matrix_from(&batch->logits, row);
    rest.grad = xent_matrix_from(&batch->grad, row);
    rest.dense_targets = xent_matrix_from(&batch->dense_targets, row);
    rest.labels.data =
        batch->labels.data ? batch->labels.data + first * batch->labels.stride : NULL;
    rest.sample_weight = batch->sample_weight ? batch->sample_weight + first : NULL;
    rest.grad_output =
        batch->grad_output ? batch->grad_output + first * (ptrdiff_t)batch->grad_output_step : NULL;
    rest.row_loss = batch->row_loss ? batch->row_loss + first_byte : NULL;
    rest.lse = batch->lse ? batch->lse + first_byte : NULL;
    rest.prediction = batch->prediction ? batch->prediction + first : NULL;
    return rest;
}

/* The kind of a batch's targets: the one place where it is decided. */
static inline xent_target_kind xent_kind_of_targets(const xent_batch *batch) {
    const int is_smoothed = batch->options.label_smoothing != 0,
              is_weighted = batch->class_weight != NULL;
    if (batch->dense_targets.data)
        return is_smoothed || is_weighted ? XENT_SHAPED_TARGETS : XENT_DENSE_TARGETS;
    /* The z-loss of a row carries no class weight, so that the weight belongs to the mass. */
    if (is_smoothed || (is_weighted && batch->options.z_loss != 0))
        return XENT_SMOOTHED_TARGETS;
    return XENT_INDEX_TARGETS;
}

/* Rows a call of `process_rows` may be given at most, and the multiple its first row should be
 * of. */
enum { XENT_MAX_ROWS_PER_CALL = 256, XENT_ROW_GRANULARITY = 16 };

/* Kernels of one dtype and one target kind. */
typedef struct {
    /* Loss and (unless grad is NULL) gradient of rows [first_row, first_row + row_count).  Returns
     * the sum of their losses, added in double in an order that depends on row_count alone.
     * `workspace` holds `workspace_bytes(classes)` bytes aligned to 64, private to the calling
     * thread. */
    double (*process_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                           void *workspace);
    size_t (*workspace_bytes)(int64_t classes);

    /* One row of contiguous classes in steps that several threads share, with the same bits: begin
     * it; sweep forward over its `blocks_to_share` blocks in any order; finish it, which returns
     * its loss; sweep backward over its blocks, unless grad is NULL. `workspace` holds
     * `shared_row_bytes(classes)` bytes aligned to 64, the row's own through all steps.  Rows of 0
     * blocks are too short to share.  Kernels that know no such steps have NULL for all of them. */
    int64_t (*blocks_to_share)(int64_t classes);
    size_t (*shared_row_bytes)(int64_t classes);
    void (*begin_row)(const xent_batch *batch, int64_t row, void *workspace);
    void (*forward_blocks)(int64_t first_block, int64_t count, void *workspace);
    double (*finish_row)(const xent_batch *batch, int64_t row, void *workspace);
    void (*backward_blocks)(int64_t first_block, int64_t count, void *workspace);

    /* Bytes that the workspace of `process_rows` has besides, where a matrix has a class stride. */
    size_t (*turning_bytes)(int64_t classes);

    /* Whether matrices of a batch may lie in 16 bits; what either workspace has besides if logits
     * or gradient do, after a multiple of 64.  NULL: they may not. */
    int (*knows_storage)(const xent_batch *batch);
    size_t (*scratch_bytes)(int64_t classes);
} xent_row_kernels;

/* What is made of the rows' softmax besides the loss.  These batches begin with one of the loss,
 * whose `grad` takes the result: their `process_rows` is given its address.  The other matrix has
 * contiguous classes, but for `hessian`, whose classes may lie apart; `grad` may be it, or
 * disjoint.
 *
 * Of entropies there is no other matrix: they take the losses' place, times the row's weight, and
 * their gradient that of the loss, which may be NULL.  Labels, class weights, label_smoothing,
 * z_loss, lse and prediction are not used. */
typedef enum {
    XENT_SECOND_ORDER = 0,
    XENT_DISTILLATION = 1,
    XENT_GRAD_HESSIAN = 2,
    XENT_ENTROPY = 3,
    XENT_SOFTMAX_FUNCTION_COUNT = 4
} xent_softmax_function;

/* The loss's Hessian times a vector, or its diagonal. */
typedef struct {
    xent_batch batch;         /* row_loss, lse and prediction are not used */
    xent_matrix vector;       /* none: the diagonal */
    double mean_class_weight; /* 1 where there are none */
} xent_second_order_batch;

/* Student and teacher.  `batch` is the loss of the targets with its share in weight_factor; where
 * there is no such loss, there are no labels and `target_kernels` is NULL. */
typedef struct {
    xent_batch batch; /* lse and prediction are not used */
    const xent_row_kernels *target_kernels;
    xent_matrix teacher;
    double temperature;   /* T of the divergence */
    double weight_factor; /* of the divergence, its share included; sample_weight is the batch's */
} xent_distillation_batch;

/* The loss, its gradient, which may take the logits' place, and its Hessian's diagonal, disjoint
 * from every other matrix. */
typedef struct {
    xent_batch batch; /* lse and prediction are not used */
    const xent_row_kernels
        *target_kernels; /* NULL for class indices without label smoothing and z_loss */
    xent_matrix hessian;
    double factor;            /* of the diagonal */
    double min_hessian;       /* what smaller numbers of the diagonal become */
    double mean_class_weight; /* 1 where there are none */
} xent_grad_hessian_batch;

/* One batch of a backward pass, a row at a time; the classes of all three matrices are contiguous.
 */
typedef struct {
    int64_t rows;
    int64_t classes;    /* at least 1 */
    xent_matrix values; /* p of softmax, or l of log_softmax */
    xent_matrix slopes; /* dp or dl: the gradient with respect to `values` */
    xent_matrix grad;   /* with respect to the logits; may be either of the two, else disjoint */
    const double *grad_output; /* multiplies `grad`, rounded to the dtype; NULL for 1 */
    int64_t grad_output_step;  /* numbers from one row's to the next; 0: one for all */
} xent_vjp_batch;

/* Backward passes of one dtype, for rows [first_row, first_row + row_count):
 *
 *     softmax        grad = p (dp - sum p dp)
 *     log_softmax    grad = dl - exp(l) sum dl
 */
typedef struct {
    void (*softmax_rows)(const xent_vjp_batch *batch, int64_t first_row, int64_t row_count);
    void (*log_softmax_rows)(const xent_vjp_batch *batch, int64_t first_row, int64_t row_count);
} xent_vjp_kernels;

/* Where the classes are shared out: a range of them, and what is known of all.  A row's
 * statistics are XENT_ROW_STATISTICS doubles, then XENT_BLOCK_STATISTICS for each block.  Those
 * of several ranges are merged by adding the row's numbers and laying the blocks side by side in
 * class order. */
enum {
    XENT_TARGETS_HERE = 0, /* 1: the row's class index lies in the range; 0: it does not, or targets
                              are dense; -1: ignored */
    XENT_TARGET_LOGIT = 1,
    XENT_TARGET_WEIGHT = 2, /* w_y */
    XENT_TARGET_CLASS = 3,  /* y among all classes */
    XENT_ROW_STATISTICS = 4,
    /* e but the one left out, maximum, shift, reference; with mass: mass, distance, e of the
     * maximum, its class, t and w */
    XENT_BLOCK_STATISTICS = 10
};

/* What is done with rows: write the range's statistics; each row's loss from all ranges'; the
 * range's gradient from these. */
enum { XENT_MEASURE = 0, XENT_SETTLE = 1, XENT_WRITE = 2 };

typedef struct {
    xent_batch batch; /* logits, dense targets, class weights and gradient of the range, classes
                         contiguous; it may have none */
    xent_target_kind kind;
    int has_class_weight; /* of some range */
    int64_t first_class;  /* of the range; labels count from the first of all */
    int64_t num_classes;  /* of all */
    double *values; /* statistics of row 0: the range's to be written, or those of all to be read */
    int64_t row_step;     /* doubles from one row's to the next */
    int64_t whole_blocks; /* of all ranges; measuring: 0 */
    int64_t first_block;  /* of the range among them */
    int has_exponentials; /* writing: measuring was given the gradient too, and has left
                             exponentials there */
} xent_shard;

typedef struct {
    void (*work)(const xent_shard *shard, int64_t row_count, void *workspace, int work);
    int64_t (*block_count)(int64_t classes);
    size_t (*workspace_bytes)(int64_t whole_blocks, int64_t classes);
} xent_shard_kernels;

/* Numbers of 16 bits, in `lines` lines of `count` numbers side by side: each line's first is
 * `stored_step` bytes and, widened, `step` numbers after that of the line before.  `store` rounds
 * to nearest, ties to even.  NULL for what lies as computed. */
typedef struct {
    void (*load)(const char *stored, ptrdiff_t stored_step, int64_t lines, int64_t count,
                 float *numbers, int64_t step);
    void (*store)(const float *numbers, int64_t step, int64_t lines, int64_t count, char *stored,
                  ptrdiff_t stored_step);
} xent_storage_kernels;

/* Everything one instruction set exports. */
typedef struct {
    const char *name;          /* the name XENT_FAST_ISA knows it by */
    int (*is_supported)(void); /* processor and operating system both */
    xent_row_kernels kernels[XENT_DTYPE_COUNT][XENT_TARGET_KIND_COUNT];
    xent_vjp_kernels vjp_kernels[XENT_DTYPE_COUNT];
    xent_row_kernels softmax_functions[XENT_DTYPE_COUNT][XENT_SOFTMAX_FUNCTION_COUNT];
    xent_shard_kernels shard_kernels[XENT_DTYPE_COUNT];
    xent_storage_kernels storage_kernels[XENT_STORAGE_COUNT];
} xent_isa;

#endif
