/* Laying out, calling, collecting: see compute.h. */
#include "compute.h"

#include <stdlib.h>
#include <string.h>

#include "labels.h"
#include "memory.h"
#include "workspace.h"

/* The arrays of a batch, one place each. */
enum {
    LOGITS,
    GRAD,
    TARGETS,
    CLASS_WEIGHT,
    LABELS,
    SAMPLE_WEIGHT,
    ROW_LOSS,
    LSE,
    PREDICTION,
    WORKSPACE,
    OTHER /* the vector, or the teacher */
};

typedef struct {
    strip at[PLACE_COUNT];
    int is_used[PLACE_COUNT], is_turned[PLACE_COUNT];
} arrays;

static int bit(int bits, int k) { return bits >> k & 1; }

static xent_storage storage_of(const layout *l, int k) {
    return k == LOGITS    ? l->logits_storage
           : k == GRAD    ? l->grad_storage
           : k == TARGETS ? l->targets_storage
                          : XENT_AS_COMPUTED;
}

static size_t item_of(const problem *p, const layout *l, int k) {
    return storage_of(l, k) == XENT_AS_COMPUTED ? (size_t)item_size(p->dtype) : 2;
}

static const strip *lay(arrays *a, int k, const layout *l, int64_t rows, size_t row_bytes,
                        ptrdiff_t gap, int is_reversed, size_t offset) {
    a->at[k] = lay_out(k, rows, row_bytes, gap, is_reversed, bit(l->at_end, k % 8), offset);
    a->is_used[k] = 1;
    return &a->at[k];
}

/* A matrix of the batch's dtype, or of 16 bits, with the layout's gap and direction number `j`; a
 * turned one has its columns as rows. */
static void lay_matrix(arrays *a, int k, const problem *p, const layout *l, int64_t rows, int j) {
    const size_t item = item_of(p, l, k);
    a->is_turned[k] = bit(l->is_turned, j) && rows == p->rows;
    const int64_t count = a->is_turned[k] ? p->classes : rows,
                  length = a->is_turned[k] ? rows : p->classes;
    const ptrdiff_t gap = l->gap[j] == PAGES ? PAGES : l->gap[j] * (ptrdiff_t)item;
    lay(a, k, l, count, (size_t)length * item, gap, bit(l->is_reversed, j), 0);
}

/* (rows, columns) to (columns, rows) */
static void turn(const char *values, int64_t rows, int64_t columns, size_t item, char *turned) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < columns; ++column)
            memcpy(turned + (size_t)(column * rows + row) * item,
                   values + (size_t)(row * columns + column) * item, item);
}

static char turned_values[ROOM_FOR_LOGITS * 8], stored_values[ROOM_FOR_LOGITS * 2];

/* Values as they lie. */
static const char *as_laid(const arrays *a, int k, const problem *p, const layout *l,
                           const char *values) {
    const xent_storage storage = storage_of(l, k);
    const char *lying = values;
    if (storage != XENT_AS_COMPUTED) {
        narrow(l->isa, storage, values, p->rows * p->classes, stored_values);
        lying = stored_values;
    }
    if (a->is_turned[k]) {
        turn(lying, p->rows, p->classes, item_of(p, l, k), turned_values);
        lying = turned_values;
    }
    return lying;
}

static void put_matrix(const arrays *a, int k, const problem *p, const layout *l,
                       const char *values) {
    put_rows(&a->at[k], as_laid(a, k, p, l, values));
}

static void get_matrix(const arrays *a, int k, const problem *p, const layout *l, char *values) {
    const xent_storage storage = storage_of(l, k);
    char *straight = storage != XENT_AS_COMPUTED ? stored_values : values;
    get_rows(&a->at[k], a->is_turned[k] ? turned_values : straight);
    if (a->is_turned[k])
        turn(turned_values, p->classes, p->rows, item_of(p, l, k), straight);
    if (storage != XENT_AS_COMPUTED)
        widen(l->isa, storage, stored_values, p->rows * p->classes, values);
}

/* As the kernels see it. */
static xent_matrix matrix_at(const arrays *a, int k, const problem *p, const layout *l) {
    xent_matrix matrix = xent_matrix_of(a->at[k].first, a->at[k].stride, 0);
    if (a->at[k].rows == 1)
        matrix.row_stride = 0;
    if (a->is_turned[k]) {
        matrix.row_stride = (ptrdiff_t)item_of(p, l, k);
        matrix.class_stride = a->at[k].stride;
    }
    matrix.storage = storage_of(l, k);
    return matrix;
}

static char *lay_row_numbers(arrays *a, int k, const problem *p, const layout *l, size_t item) {
    return lay(a, k, l, p->rows, item, 0, 0, 0)->first;
}

/* The memory of a batch, and the values in it. */
static void lay_inputs(const problem *p, const layout *l, arrays *a) {
    const size_t item = (size_t)item_size(p->dtype);
    const size_t label_bytes = (size_t)label_size(p->label_type);
    lay_matrix(a, LOGITS, p, l, p->rows, 0);
    put_matrix(a, LOGITS, p, l, p->logits);
    if (!p->has_labels) {
        lay_matrix(a, TARGETS, p, l, p->shares_targets ? 1 : p->rows, 2);
        put_matrix(a, TARGETS, p, l, p->targets);
    } else {
        const int is_reversed = l->label_gap & 1;
        put_rows(lay(a, LABELS, l, p->rows, label_bytes, l->label_gap, is_reversed,
                     (size_t)l->label_offset),
                 p->labels);
    }
    if (p->has_class_weight)
        put_rows(lay(a, CLASS_WEIGHT, l, 1, (size_t)p->classes * item, 0, 0, 0), p->class_weight);
    if (p->has_sample_weight)
        put_rows(lay(a, SAMPLE_WEIGHT, l, p->rows, sizeof(double), 0, 0, 0),
                 (const char *)p->sample_weight);
    if (l->with_grad && !l->in_place)
        lay_matrix(a, GRAD, p, l, p->rows, 1);
}

static xent_batch describe(const problem *p, const layout *l, arrays *a) {
    const size_t item = (size_t)item_size(p->dtype);
    const xent_matrix none = {0};
    xent_batch batch = {
        .rows = p->rows,
        .classes = p->classes,
        .logits = matrix_at(a, LOGITS, p, l),
        .grad = l->with_grad ? matrix_at(a, l->in_place ? LOGITS : GRAD, p, l) : none,
        .dense_targets = a->is_used[TARGETS] ? matrix_at(a, TARGETS, p, l) : none,
        .sample_weight =
            p->has_sample_weight ? (const double *)(void *)a->at[SAMPLE_WEIGHT].first : NULL,
        .weight_factor = p->weight_factor,
        .class_weight = p->has_class_weight ? a->at[CLASS_WEIGHT].first : NULL,
        .options.label_smoothing = p->label_smoothing,
        .options.temperature = p->temperature,
        .options.z_loss = p->z_loss,
        .output = p->output,
    };
    if (p->has_labels)
        batch.labels = (xent_labels){a->at[LABELS].first, a->at[LABELS].stride, p->label_type,
                                     p->has_ignore_index, p->ignore_index};
    if (l->with_row_loss)
        batch.row_loss = lay_row_numbers(a, ROW_LOSS, p, l, item);
    if (l->with_statistics) {
        batch.lse = lay_row_numbers(a, LSE, p, l, item);
        batch.prediction = (int64_t *)(void *)lay_row_numbers(a, PREDICTION, p, l, sizeof(int64_t));
    }
    return batch;
}

/* --- the calls -------------------------------------------------------------------------------- */

static void *lay_workspace(arrays *a, const layout *l, size_t bytes) {
    return lay(a, WORKSPACE, l, 1, bytes, 0, 0, 0)->first;
}

static int64_t at_most(int64_t number, int64_t most) { return number < most ? number : most; }

static int64_t rows_a_call(const problem *p, const layout *l) {
    const int64_t rows = l->order == ALL_ROWS           ? p->rows
                         : l->order == SOME_ROWS_A_CALL ? l->rows_a_call
                                                        : 1;
    return at_most(rows, XENT_MAX_ROWS_PER_CALL);
}

static double process_in_calls(const xent_row_kernels *kernels, const xent_batch *batch,
                               int64_t step, void *workspace) {
    double sum = 0;
    for (int64_t row = 0; row < batch->rows; row += step)
        sum += kernels->process_rows(batch, row, at_most(batch->rows - row, step), workspace);
    return sum;
}

/* A row's blocks in parts, the last part first. */
static void sweep(void (*blocks)(int64_t, int64_t, void *), int64_t count, int64_t part,
                  void *workspace) {
    for (int64_t first = (count - 1) / part * part; first >= 0; first -= part)
        blocks(first, at_most(count - first, part), workspace);
}

static double process_shared(const xent_row_kernels *kernels, const xent_batch *batch, int64_t part,
                             void *workspace) {
    const int64_t blocks = kernels->blocks_to_share(batch->classes);
    double sum = 0;
    for (int64_t row = 0; row < batch->rows; ++row) {
        kernels->begin_row(batch, row, workspace);
        sweep(kernels->forward_blocks, blocks, part, workspace);
        sum += kernels->finish_row(batch, row, workspace);
        if (batch->grad.data)
            sweep(kernels->backward_blocks, blocks, part, workspace);
    }
    return sum;
}

static void compute_rows(const problem *p, const layout *l, arrays *a, results *r) {
    const xent_row_kernels *kernels = &l->isa->kernels[p->dtype][p->kind];
    const xent_batch batch = describe(p, l, a);
    if (l->order == SHARED_ROWS)
        r->sum = process_shared(kernels, &batch, 1 + l->rows_a_call % 4,
                                lay_workspace(a, l, xent_shared_row_bytes(kernels, &batch)));
    else
        r->sum = process_in_calls(kernels, &batch, rows_a_call(p, l),
                                  lay_workspace(a, l, xent_workspace_bytes(kernels, &batch)));
    double sum = 0;
    r->counted = 0;
    if (p->has_labels)
        r->first_bad = xent_check_labels(&batch.labels, p->rows, p->classes, batch.sample_weight,
                                         NULL, XENT_FLOAT32, &r->counted, &sum);
}

/* A function of the softmax: its batch begins with one of the loss. */
static void compute_softmax_function(const problem *p, const layout *l, arrays *a, results *r) {
    const xent_softmax_function function =
        p->family == DISTILLATION ? XENT_DISTILLATION : XENT_SECOND_ORDER;
    const xent_row_kernels *kernels = &l->isa->softmax_functions[p->dtype][function];
    put_rows(lay(a, OTHER, l, p->rows, (size_t)(p->classes * item_size(p->dtype)), l->gap[2], 0, 0),
             p->targets);
    const xent_matrix other = matrix_at(a, OTHER, p, l), none = {0};
    const xent_second_order_batch second_order = {describe(p, l, a),
                                                  p->family == HESSIAN_PRODUCT ? other : none, 1};
    const xent_distillation_batch distillation = {.batch = second_order.batch,
                                                  .target_kernels =
                                                      &l->isa->kernels[p->dtype][p->kind],
                                                  .teacher = other,
                                                  .temperature = 2,
                                                  .weight_factor = 0.5};
    const xent_batch *batch =
        function == XENT_DISTILLATION ? &distillation.batch : &second_order.batch;
    r->sum = process_in_calls(kernels, batch, rows_a_call(p, l),
                              lay_workspace(a, l, xent_workspace_bytes(kernels, batch)));
}

static void compute_vjp(const problem *p, const layout *l, const arrays *a) {
    const xent_vjp_kernels *kernels = &l->isa->vjp_kernels[p->dtype];
    const xent_vjp_batch batch = {
        .rows = p->rows,
        .classes = p->classes,
        .values = matrix_at(a, LOGITS, p, l),
        .slopes = matrix_at(a, TARGETS, p, l),
        .grad = matrix_at(a, l->in_place ? LOGITS : GRAD, p, l),
    };
    const int64_t step = rows_a_call(p, l);
    for (int64_t row = 0; row < p->rows; row += step)
        (p->family == SOFTMAX_VJP ? kernels->softmax_rows : kernels->log_softmax_rows)(
            &batch, row, at_most(p->rows - row, step));
}

/* --- afterwards ------------------------------------------------------------------------------- */

static int is_unchanged(const arrays *a, int k, const problem *p, const layout *l,
                        const char *values) {
    static char now[ROOM_FOR_LOGITS * 8];
    const xent_storage storage = storage_of(l, k);
    const size_t bytes = (size_t)a->at[k].rows * a->at[k].row_bytes;
    if (!a->is_used[k])
        return 1;
    if (storage == XENT_AS_COMPUTED) {
        get_matrix(a, k, p, l, now);
        return memcmp(now, values, bytes) == 0;
    }
    const char *lying = as_laid(a, k, p, l, values);
    get_rows(&a->at[k], now);
    return memcmp(now, lying, bytes) == 0;
}

static const char *what_was_spoilt(const problem *p, const layout *l, const arrays *a) {
    for (int k = 0; k < PLACE_COUNT; ++k)
        if (a->is_used[k] && !has_clean_gaps(&a->at[k], k))
            return "memory around an array";
    if (!l->in_place && !is_unchanged(a, LOGITS, p, l, p->logits))
        return "the logits";
    if (!is_unchanged(a, TARGETS, p, l, p->targets) || !is_unchanged(a, LABELS, p, l, p->labels) ||
        !is_unchanged(a, OTHER, p, l, p->targets))
        return "the targets";
    if (!is_unchanged(a, CLASS_WEIGHT, p, l, p->class_weight) ||
        !is_unchanged(a, SAMPLE_WEIGHT, p, l, (const char *)p->sample_weight))
        return "the weights";
    return NULL;
}

const char *compute(const problem *p, const layout *l, results *r) {
    arrays a = {0};
    lay_inputs(p, l, &a);
    if (p->family == ROW_KERNELS)
        compute_rows(p, l, &a, r);
    else if (p->family == SOFTMAX_VJP || p->family == LOG_SOFTMAX_VJP)
        compute_vjp(p, l, &a);
    else
        compute_softmax_function(p, l, &a, r);
    if (l->with_grad)
        get_matrix(&a, l->in_place ? LOGITS : GRAD, p, l, r->grad);
    if (a.is_used[ROW_LOSS])
        get_rows(&a.at[ROW_LOSS], r->row_loss);
    if (a.is_used[LSE]) {
        get_rows(&a.at[LSE], r->lse);
        get_rows(&a.at[PREDICTION], (char *)r->prediction);
    }
    return what_was_spoilt(p, l, &a);
}
