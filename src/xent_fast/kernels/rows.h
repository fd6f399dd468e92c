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
#include "softmax_lanes.h"
#include "curvature_lanes.h"
#include "index_rows.h"
#include "long_rows.h"

/* At most so many bytes of a matrix turn at a time, unless one vector of rows has more. */
#undef BYTES_PER_TURN
#define BYTES_PER_TURN 262144

/* The same matrix without its first `k` classes, as computed. */
KERNEL_INLINE xent_matrix from_class(xent_matrix matrix, int64_t k) {
    matrix.data += k * (matrix.class_stride ? matrix.class_stride : (ptrdiff_t)sizeof(REAL));
    matrix.storage = XENT_AS_COMPUTED;
    return matrix;
}

/* Numbers from one layout to another.  A few classes of all rows come before the next few, so that
 * each cache line that is asked for is used whole, however far apart the classes lie; meanwhile the
 * rows after these come from memory. */
static NEVER_INLINE void turn(xent_matrix source, xent_matrix destination, int64_t row_count,
                              int64_t classes) {
    ALIGNED_64 REAL columns[TRANSPOSE_WIDTH][LANES];
    for (int64_t k = 0; k < classes; k += TRANSPOSE_WIDTH) {
        const int count = classes - k < TRANSPOSE_WIDTH ? (int)(classes - k) : TRANSPOSE_WIDTH;
        for (int64_t row = 0; row < row_count; row += LANES) {
            const int rows = row_count - row < LANES ? (int)(row_count - row) : LANES;
            if (source.class_stride)
                for (int j = 0; j < count; ++j)
                    PREFETCH(xent_row(&source, row + row_count) + (k + j) * source.class_stride);
            load_columns(columns, from_class(source, k), row, rows, count);
            store_columns(columns, from_class(destination, k), row, rows, count);
        }
    }
}

/* Asks for the columns that will be written. */
KERNEL_INLINE void prefetch_columns(xent_matrix matrix, int64_t row_count, int64_t classes) {
    for (int64_t k = 0; k < classes; ++k)
        for (int64_t row = 0; row < row_count; row += LANES)
            PREFETCH(xent_row(&matrix, row) + k * matrix.class_stride);
}

/* Rows of a batch with a class stride that are taken at a time: as many as have four vectors of
 * each class side by side, if a core's own cache holds them. */
KERNEL_INLINE int rows_per_turn(int64_t classes) {
    return classes * (4 * LANES) * (int64_t)sizeof(REAL) <= BYTES_PER_TURN ? 4 * LANES : LANES;
}

/* A place for them where their classes are contiguous. */
KERNEL_INLINE xent_matrix place_for_turned(char *place, int64_t classes) {
    return xent_matrix_of(place, (ptrdiff_t)classes * (ptrdiff_t)sizeof(REAL), 0);
}

KERNEL_INLINE size_t bytes_of_turned_rows(int64_t classes) {
    return (size_t)(classes * rows_per_turn(classes)) * sizeof(REAL);
}

/* Whether rows must be turned: a few classes are read and written as they lie. */
KERNEL_INLINE int must_turn(const xent_batch *batch) {
    return batch->classes > MOST_CLASSES_ALONG_ROWS &&
           (lies_in_columns(&batch->logits) ||
            (batch->grad.data && lies_in_columns(&batch->grad)) ||
            (batch->dense_targets.data && lies_in_columns(&batch->dense_targets)));
}

KERNEL_INLINE void unturned_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                 const int64_t *labels, double *row_loss, void *workspace,
                                 int kind) {
    XENT_ASSERT(!must_turn(batch));
    if (batch->classes > MOST_CLASSES_ALONG_ROWS)
        many_long_rows(batch, first_row, row_count, labels, row_loss, workspace, NULL, NULL, kind);
    else if (kind == XENT_SMOOTHED_TARGETS && batch->output != XENT_GRADIENT)
        many_softmax_rows(batch, first_row, row_count, labels, row_loss);
    else if (kind == XENT_INDEX_TARGETS)
        many_index_rows(batch, first_row, row_count, labels, row_loss);
    else
        many_short_rows(batch, first_row, row_count, labels, row_loss, kind);
}

typedef void (*rows_function)(const xent_batch *batch, int64_t first_row, int64_t row_count,
                              const int64_t *labels, double *row_loss, void *workspace);

/* The same by `compute`, where some matrix has a class stride: it turns in the workspace.  `labels`
 * has whole vectors. */
static NEVER_INLINE void turned_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                     const int64_t *labels, double *row_loss, void *workspace,
                                     rows_function compute) {
    const int64_t classes = batch->classes, at_once = rows_per_turn(classes);
    XENT_ASSERT(classes > MOST_CLASSES_ALONG_ROWS);
    char *after_summaries = (char *)workspace + bytes_of_workspace(classes);
    const xent_matrix place = place_for_turned(after_summaries, classes);
    const xent_matrix target_place =
        place_for_turned(after_summaries + bytes_of_turned_rows(classes), classes);
    for (int64_t k = 0; k < row_count; k += at_once) {
        const int64_t count = row_count - k < at_once ? row_count - k : at_once;
        const xent_batch given = xent_batch_from(batch, first_row + k, sizeof(REAL));
        const xent_matrix grad = given.grad;
        xent_batch turned = given;
        if (lies_in_columns(&given.logits)) {
            turn(given.logits, place, count, classes);
            turned.logits = place;
        }
        if (given.dense_targets.data && lies_in_columns(&given.dense_targets)) {
            turn(given.dense_targets, target_place, count, classes);
            turned.dense_targets = target_place;
        }
        if (grad.data && lies_in_columns(&grad)) {
            if (given.grad.data != given.logits.data)
                prefetch_columns(grad, count, classes);
            turned.grad = place;
        }
        compute(&turned, 0, count, labels + k, row_loss + k, workspace);
        if (turned.grad.data == place.data && grad.data)
            turn(place, grad, count, classes);
    }
}

/* Losses of rows by `compute`, unrounded to `losses` and rounded to where the batch wants them. */
KERNEL_INLINE void rows_to(const xent_batch *batch, int64_t first_row, int64_t row_count,
                           void *workspace, rows_function compute, double *losses, int kind) {
    int64_t labels[XENT_MAX_ROWS_PER_CALL + LANES];
    if (HAS_LABELS(kind))
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    else
        memset(labels, 0, sizeof labels);
    if (must_turn(batch))
        turned_rows(batch, first_row, row_count, labels, losses, workspace, compute);
    else
        compute(batch, first_row, row_count, labels, losses, workspace);
    write_losses(batch, first_row, row_count, losses);
}

KERNEL_INLINE double sum_of_losses(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                   void *workspace, rows_function compute, int kind) {
    double losses[XENT_MAX_ROWS_PER_CALL];
    rows_to(batch, first_row, row_count, workspace, compute, losses, kind);
    return xent_pairwise_sum(losses, row_count);
}

static size_t bytes_of_turning(int64_t classes) {
    return classes > MOST_CLASSES_ALONG_ROWS ? 2 * bytes_of_turned_rows(classes) : 0;
}

/* Whether numbers of a batch may lie in 16 bits, if all classes are contiguous: of long rows those
 * without dense targets. */
static int takes_storage(const xent_batch *batch) {
    if (batch->logits.class_stride || batch->grad.class_stride || batch->dense_targets.class_stride)
        return 0;
    if (REAL_BITS != 32 || batch->classes <= MOST_CLASSES_ALONG_ROWS)
        return has_stored_columns(batch->classes);
    return !batch->dense_targets.data;
}

/* Rows between their sweeps that have no place for exponentials of their own. */
static size_t bytes_of_scratch(int64_t classes) {
    const int64_t rows = rows_at_once(classes);
    return classes > MOST_CLASSES_ALONG_ROWS
               ? (size_t)(rows * scratch_row_step(classes)) * sizeof(REAL)
               : 0;
}

/* What the contract's functions for rows may assume. */
KERNEL_INLINE void assert_row_kernel(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                     const void *workspace, int kind) {
    xent_assert_batch(batch, sizeof(REAL));
    xent_assert_kind(batch, (xent_target_kind)kind);
    xent_assert_row_range(first_row, row_count, batch->rows);
    xent_assert_workspace(workspace, bytes_of_workspace(batch->classes));
    XENT_ASSERT((batch->logits.storage == XENT_AS_COMPUTED &&
                 batch->grad.storage == XENT_AS_COMPUTED &&
                 batch->dense_targets.storage == XENT_AS_COMPUTED) ||
                takes_storage(batch));
}

/* What the threads that share a row leave for each other; its blocks' summaries and sums of class
 * weights follow, and its scratch row. */
typedef struct {
    long_row row;
    call_settings settings;
    int is_ignored;
    int leaves;          /* the lanes: see double_rows.h */
    double target_logit; /* in place, the forward sweep overwrites it */
    double *weight_sums;
    row_results results;
} shared_row;

enum { summaries_at = (sizeof(shared_row) + 63) / 64 * 64 };

static int64_t count_shared_blocks(int64_t classes) {
    return classes <= MOST_CLASSES_ALONG_ROWS ? 0 : count_blocks(classes);
}

static size_t bytes_of_shared_row(int64_t classes) {
    const size_t block_bytes = sizeof(block_summary) + sizeof(double);
    return summaries_at + ((size_t)count_blocks(classes) * block_bytes + 63) / 64 * 64;
}

KERNEL_INLINE void begin_shared_row(const xent_batch *batch, int64_t row, void *workspace,
                                    int kind) {
    shared_row *shared = (shared_row *)workspace;
    block_summary *blocks = (block_summary *)(void *)((char *)workspace + summaries_at);
    int64_t label = -1;
    assert_row_kernel(batch, row, 1, workspace, kind);
    XENT_ASSERT(!must_turn(batch) && count_shared_blocks(batch->classes) > 0);
    if (HAS_LABELS(kind))
        xent_read_labels(&batch->labels, row, 1, &label);
    shared->weight_sums = (double *)(void *)(blocks + count_blocks(batch->classes));
    REAL *scratch = NULL;
    if (is_stored(batch))
        scratch = (REAL *)(void *)((char *)workspace + bytes_of_shared_row(batch->classes));
    shared->row = long_row_at(batch, row, label, blocks, shared->weight_sums, scratch, kind);
    shared->settings = call_settings_of(batch);
    shared->is_ignored = HAS_LABELS(kind) && is_ignored(&batch->labels, label);
    shared->leaves = !shared->is_ignored && leaves_lanes(&shared->row, &shared->settings, kind);
    shared->target_logit = shared->is_ignored ? 0 : logit_of_label(&shared->row, kind);
}

KERNEL_INLINE void forward_shared_row(int64_t first_block, int64_t count, void *workspace,
                                      int kind) {
    const shared_row *shared = (const shared_row *)workspace;
    const row_masses *masses = &shared->row.masses;
    XENT_ASSERT(first_block >= 0 && count >= 0 &&
                first_block + count <= count_blocks(shared->row.classes));
    if (kind == XENT_SMOOTHED_TARGETS && masses->class_weight)
        sum_weights_of_blocks(masses->class_weight, shared->row.classes, first_block, count,
                              shared->weight_sums);
    if (!shared->is_ignored && !shared->leaves)
        forward_some_blocks(&shared->row, first_block, count, &shared->settings, kind);
}

KERNEL_INLINE double finish_shared_row(const xent_batch *batch, int64_t row, void *workspace,
                                       int kind) {
    shared_row *shared = (shared_row *)workspace;
    double loss = 0;
    if (shared->is_ignored) {
        write_lse_and_prediction(batch, row, 0, -1, 0);
    } else if (shared->leaves) {
        loss = loss_of_leaving_row(batch, row, &shared->row, kind);
    } else {
        row_sums sums;
        sums.target_logit[0] = shared->target_logit;
        merge_blocks(&shared->row, &shared->settings, &sums, 0, kind);
        repeat_first_lane(&sums, 1);
        settle_rows(&sums, &shared->settings.row, &shared->results, kind);
        loss = loss_of_settled_row(batch, row, &shared->row, &shared->results, 0);
    }
    write_losses(batch, row, 1, &loss);
    return loss;
}

KERNEL_INLINE void backward_shared_row(int64_t first_block, int64_t count, void *workspace,
                                       int kind) {
    const shared_row *shared = (const shared_row *)workspace;
    XENT_ASSERT(shared->row.grad);
    XENT_ASSERT(first_block >= 0 && count >= 0 &&
                first_block + count <= count_blocks(shared->row.classes));
    if (shared->leaves)
        return;
    if (!shared->is_ignored) {
        backward_some_blocks(&shared->row, first_block, count, shared->settings.row.temperature,
                             &shared->results, 0, kind);
        return;
    }
    for (int64_t b = first_block; b < first_block + count; ++b)
        fill_gradient(&shared->row, b * BLOCK, block_length(shared->row.classes, b * BLOCK), 0);
}

/* The functions of the contract for one target kind. */
#ifndef ROW_KERNELS
#define ROW_KERNELS(name, kind, storages)                                                          \
    static NEVER_INLINE void NAME(unturned_##name##_rows)(                                         \
        const xent_batch *batch, int64_t first_row, int64_t row_count, const int64_t *labels,      \
        double *row_loss, void *workspace) {                                                       \
        unturned_rows(batch, first_row, row_count, labels, row_loss, workspace, kind);             \
    }                                                                                              \
    static double NAME(name##_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, \
                                    void *workspace) {                                             \
        assert_row_kernel(batch, first_row, row_count, workspace, kind);                           \
        return sum_of_losses(batch, first_row, row_count, workspace, NAME(unturned_##name##_rows), \
                             kind);                                                                \
    }                                                                                              \
    static void NAME(begin_##name##_row)(const xent_batch *batch, int64_t row, void *workspace) {  \
        begin_shared_row(batch, row, workspace, kind);                                             \
    }                                                                                              \
    static void NAME(forward_##name##_blocks)(int64_t first_block, int64_t count,                  \
                                              void *workspace) {                                   \
        forward_shared_row(first_block, count, workspace, kind);                                   \
    }                                                                                              \
    static double NAME(finish_##name##_row)(const xent_batch *batch, int64_t row,                  \
                                            void *workspace) {                                     \
        return finish_shared_row(batch, row, workspace, kind);                                     \
    }                                                                                              \
    static void NAME(backward_##name##_blocks)(int64_t first_block, int64_t count,                 \
                                               void *workspace) {                                  \
        backward_shared_row(first_block, count, workspace, kind);                                  \
    }
#define ROW_KERNELS_TABLE(name, dtype)                                                            \
    {name##_rows##dtype,         bytes_of_workspace##dtype,       count_shared_blocks##dtype,     \
     bytes_of_shared_row##dtype, begin_##name##_row##dtype,       forward_##name##_blocks##dtype, \
     finish_##name##_row##dtype, backward_##name##_blocks##dtype, bytes_of_turning##dtype,        \
     takes_storage##dtype,       bytes_of_scratch##dtype}
#endif

EACH_TARGET_KIND(ROW_KERNELS)
