/* A batch as a fuzzer describes it: values without a layout, and layouts to compute it in.
 *
 * Knows: the kernels' contract.   Must not know: what the right result is, how arrays lie in
 * memory.
 */
#ifndef FUZZ_PROBLEM_H
#define FUZZ_PROBLEM_H

#include <stdint.h>

#include "choices.h"
#include "contract.h"

/* A batch that a fuzzer describes has at most so many logits, classes and rows; there is room for
 * more. */
enum { MOST_LOGITS = 8192, MOST_CLASSES = 6144, MOST_ROWS = 300 };
enum { ROOM_FOR_LOGITS = 80002, ROOM_FOR_CLASSES = 40001 };

/* What a fuzzer chooses among: the first three. */
typedef enum {
    ROW_KERNELS,
    SOFTMAX_VJP,
    LOG_SOFTMAX_VJP,
    HESSIAN_PRODUCT,
    HESSIAN_DIAGONAL,
    DISTILLATION,
    FAMILY_COUNT
} kernel_family;

/* Values, each matrix row after row without gaps, in the bytes of their dtype. */
typedef struct {
    kernel_family family;
    xent_dtype dtype;
    xent_target_kind kind;
    xent_output output;
    int64_t rows, classes;
    int has_labels, shares_targets; /* class indices; one row of dense targets for all */
    int has_class_weight, has_sample_weight;
    xent_label_type label_type;
    int has_ignore_index;
    int64_t ignore_index;
    xent_storage storage; /* what holds logits and targets without loss */
    double weight_factor, label_smoothing, temperature, z_loss;
    char logits[ROOM_FOR_LOGITS * 8];  /* backward passes: values */
    char targets[ROOM_FOR_LOGITS * 8]; /* backward passes: slopes; the vector or the teacher, too */
    char class_weight[ROOM_FOR_CLASSES * 8];
    double sample_weight[MOST_ROWS];
    char labels[MOST_ROWS * 8];
} problem;

/* How a batch is handed to the kernels, and what is asked for. */
typedef enum { ALL_ROWS, ONE_ROW_A_CALL, SOME_ROWS_A_CALL, SHARED_ROWS } row_order;

typedef struct {
    const xent_isa *isa;
    row_order order;
    int rows_a_call; /* SOME_ROWS_A_CALL */
    int in_place, with_grad, with_row_loss, with_statistics;
    int at_end;      /* bit k: array k ends where its memory does, else it begins there */
    int is_reversed; /* bit k: the rows of matrix k, or its columns where it is turned, lie from
                        last to first */
    int is_turned;   /* bit k: of matrix k the rows are contiguous, not the classes */
    int gap[3];      /* items between the rows of logits, gradient and targets, or PAGES */
    int label_gap, label_offset; /* bytes; the gap may be PAGES */
    xent_storage logits_storage, grad_storage, targets_storage;
} layout;

/* What came out, as the values are kept. */
typedef struct {
    char grad[ROOM_FOR_LOGITS * 8];
    char row_loss[MOST_ROWS * 8];
    char lse[MOST_ROWS * 8];
    int64_t prediction[MOST_ROWS];
    double sum;
    int64_t first_bad, counted; /* of labels, as xent_check_labels says */
} results;

static inline int item_size(xent_dtype dtype) { return dtype == XENT_FLOAT32 ? 4 : 8; }

double real_at(const char *values, xent_dtype dtype, int64_t at);
void set_real(char *values, xent_dtype dtype, int64_t at, double value);

/* Rounds float32 to numbers of 16 bits, and what of them remains. */
void narrow(const xent_isa *isa, xent_storage storage, const char *values, int64_t count,
            char *stored);
void widen(const xent_isa *isa, xent_storage storage, const char *stored, int64_t count,
           char *values);

/* Bytes of a label; the label itself, INT64_MIN where it is beyond int64. */
int label_size(xent_label_type type);
int64_t label_at(const problem *p, int64_t row);
int is_ignored_row(const problem *p, int64_t row);
int is_bad_label(const problem *p, int64_t row);

/* Values, and two layouts that must give the same bits wherever both ask for them. */
void take_case(choices *c, problem *p, layout layouts[2]);

#endif
