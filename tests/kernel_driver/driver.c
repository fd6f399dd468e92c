/* Runs the row kernels of one instruction set without Python: prints a digest of every result, or
 * computes one batch for a tool that counts instructions.
 *
 * Knows: the kernel contract, dispatch, and inputs made from integers alone, the same on every
 * machine.
 * Must not know: NumPy, Python, the values that should come out (tests/ compares those; here bits
 * are compared).
 *
 *     driver                                               the names of the ISAs this processor
 *                                                          has, one a line
 *     driver ISA                                           a line for each dtype and targets, pass
 *                                                          or function: 16 bits of a digest for
 *                                                          each number of classes
 *     driver ISA DTYPE TARGETS GRADIENT ROWS CLASSES       one call of `compute_batch` on ordinary
 *                                                          logits
 *
 *     DTYPE: float32 float64     TARGETS: index dense smoothed weighted (and smoothed)
 *     GRADIENT: in-place apart none
 *
 * Two ISAs agree when their digests are the same text.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"

#ifdef _WIN32 /* has no aligned_alloc */
#include <malloc.h>
#define aligned_alloc(alignment, bytes) _aligned_malloc(bytes, alignment)
#define free _aligned_free
#endif

enum { DIGEST_ROWS = 37, SPECIAL_ROWS = 8 };

static const int64_t class_counts[] = {1,  2,   3,   4,   7,    8,    9,    10,   15,   16,   17,
                                       21, 31,  32,  33,  47,   48,   49,   63,   64,   65,   79,
                                       96, 127, 128, 129, 1000, 1023, 1025, 2047, 2048, 2049, 5000};

static uint64_t state;

static uint32_t random_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* A bell of integers over [-32, 32], in steps of 2^-16: exact in float32. */
static double random_logit(void) {
    int64_t sum = 0;
    for (int k = 0; k < 4; ++k)
        sum += (int64_t)(random_bits() & 0xfffff) - 0x80000;
    return (double)(sum >> 4 << 4) / 65536.0;
}

/* What the rows at the end of a batch hold instead. */
static double special_logit(int row, int64_t k, int64_t classes, double logit) {
    switch (row) {
    case 0:
        return k == classes / 2 ? logit + 80 : logit; /* confident */
    case 1:
        return k % 3 == 1 ? -INFINITY : logit;
    case 2:
        return k == classes - 1 ? NAN : logit;
    case 3:
        return k == classes / 3 ? INFINITY : logit;
    case 4:
        return 1e8 + 8 * logit;
    case 5:
        return k % 2 ? 1e30 : -1e30;
    case 6:
        return logit - (k > classes / 2 ? 100 : 0); /* blocks far apart, subnormal probabilities */
    default:
        return -INFINITY;
    }
}

static void set_real(char *base, xent_dtype dtype, int64_t at, double value) {
    if (dtype == XENT_FLOAT32)
        ((float *)(void *)base)[at] = (float)value;
    else
        ((double *)(void *)base)[at] = value;
}

/* FNV-1a over bytes. */
static uint64_t digest_of(uint64_t digest, const void *values, size_t size) {
    const unsigned char *bytes = values;
    for (size_t k = 0; k < size; ++k)
        digest = (digest ^ bytes[k]) * 1099511628211u;
    return digest;
}

typedef struct {
    char *logits, *targets, *grad, *loss;
    int64_t *labels;
    double *weights;
} buffers;

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return memory;
}

/* Room for `rows` rows of either dtype. */
static buffers allocate_buffers(int64_t rows, int64_t classes) {
    const size_t column = (size_t)rows * sizeof(double), matrix = (size_t)classes * column;
    const buffers b = {allocate(matrix), allocate(matrix), allocate(matrix),
                       allocate(column), allocate(column), allocate(column)};
    return b;
}

static buffers make_digest_buffers(xent_dtype dtype, int64_t classes) {
    buffers b = allocate_buffers(DIGEST_ROWS, classes);
    for (int64_t row = 0; row < DIGEST_ROWS; ++row) {
        const int special = (int)(row - (DIGEST_ROWS - SPECIAL_ROWS));
        for (int64_t k = 0; k < classes; ++k) {
            double logit = random_logit();
            if (special >= 0)
                logit = special_logit(special, k, classes, logit);
            set_real(b.logits, dtype, row * classes + k, logit);
            set_real(b.targets, dtype, row * classes + k,
                     (double)(random_bits() % 5 ? 0 : random_bits() & 0xff) / 256.0);
        }
        b.labels[row] = row % 11 == 5 ? -1 : (int64_t)random_bits() % classes;
        b.weights[row] = row % 7 == 3 ? 0 : 1.0 / (double)(1 + random_bits() % 9);
    }
    return b;
}

static void free_buffers(buffers b) {
    free(b.logits);
    free(b.targets);
    free(b.grad);
    free(b.loss);
    free(b.labels);
    free(b.weights);
}

/* Digest of loss and gradient; with `in_place` the gradient takes the logits' place.  Shaped and
 * smoothed targets have every option; smoothed ones have class weights where the number of classes
 * is even. */
static uint64_t run_case(const xent_isa *isa, int kind, buffers *b, xent_dtype dtype,
                         int64_t classes, int in_place) {
    const xent_row_kernels *kernels = &isa->kernels[dtype][kind];
    const ptrdiff_t row_bytes = (ptrdiff_t)classes * (dtype == XENT_FLOAT32 ? 4 : 8);
    const int is_dense = kind == XENT_DENSE_TARGETS || kind == XENT_SHAPED_TARGETS;
    const int has_options = kind == XENT_SHAPED_TARGETS || kind == XENT_SMOOTHED_TARGETS;
    const int has_class_weight =
        kind == XENT_SHAPED_TARGETS || (kind == XENT_SMOOTHED_TARGETS && classes % 2 == 0);
    char *grad = in_place ? b->logits : b->grad;
    const xent_batch batch = {
        .rows = DIGEST_ROWS,
        .classes = classes,
        .logits = xent_matrix_of(b->logits, row_bytes, 0),
        .grad = xent_matrix_of(grad, row_bytes, 0),
        .labels = {(const char *)b->labels, sizeof(int64_t), XENT_INT64, 1, -1},
        .dense_targets = xent_matrix_of(is_dense ? b->targets : NULL, row_bytes, 0),
        .sample_weight = b->weights,
        .weight_factor = 0.37,
        .class_weight = has_class_weight ? b->targets : NULL,
        .options.label_smoothing = has_options ? 0.125 : 0,
        .options.temperature = has_options ? 1.7 : 1,
        .options.z_loss = has_options ? 0.01 : 0,
        .row_loss = b->loss,
    };
    void *workspace = allocate(kernels->workspace_bytes(classes));
    const double sum = kernels->process_rows(&batch, 0, DIGEST_ROWS, workspace);
    free(workspace);
    uint64_t digest =
        digest_of(14695981039346656037u, b->loss, DIGEST_ROWS * (size_t)(row_bytes / classes));
    digest = digest_of(digest, &sum, sizeof sum);
    return digest_of(digest, grad, DIGEST_ROWS * (size_t)row_bytes);
}

/* Digest of a backward pass of the logits and the targets, as far as no number is NaN: its bits are
 * the processor's own. */
static uint64_t run_vjp_case(const xent_isa *isa, int of_logarithm, buffers *b, xent_dtype dtype,
                             int64_t classes, int in_place) {
    const xent_vjp_kernels *kernels = &isa->vjp_kernels[dtype];
    const int64_t rows = DIGEST_ROWS - SPECIAL_ROWS + 1;
    const ptrdiff_t row_bytes = (ptrdiff_t)classes * (dtype == XENT_FLOAT32 ? 4 : 8);
    char *grad = in_place ? b->logits : b->grad;
    const xent_vjp_batch batch = {
        .rows = rows,
        .classes = classes,
        .values = xent_matrix_of(b->logits, row_bytes, 0),
        .slopes = xent_matrix_of(b->targets, row_bytes, 0),
        .grad = xent_matrix_of(grad, row_bytes, 0),
    };
    (of_logarithm ? kernels->log_softmax_rows : kernels->softmax_rows)(&batch, 0, rows);
    return digest_of(14695981039346656037u, grad, (size_t)(rows * row_bytes));
}

enum { HESSIAN_PRODUCT, HESSIAN_DIAGONAL, DISTILLATION, SOFTMAX_FUNCTIONS };

/* Digest of a function of the softmax; the targets are the vector or the teacher's logits, too. */
static uint64_t run_softmax_function_case(const xent_isa *isa, int function, buffers *b,
                                          xent_dtype dtype, int64_t classes, int in_place) {
    const int is_distillation = function == DISTILLATION;
    const xent_row_kernels *kernels =
        &isa->softmax_functions[dtype][is_distillation ? XENT_DISTILLATION : XENT_SECOND_ORDER];
    const int64_t rows = DIGEST_ROWS - SPECIAL_ROWS + 1;
    const ptrdiff_t row_bytes = (ptrdiff_t)classes * (dtype == XENT_FLOAT32 ? 4 : 8);
    char *grad = in_place ? b->logits : b->grad;
    const xent_batch batch = {
        .rows = rows,
        .classes = classes,
        .logits = xent_matrix_of(b->logits, row_bytes, 0),
        .grad = xent_matrix_of(grad, row_bytes, 0),
        .labels = {(const char *)b->labels, sizeof(int64_t), XENT_INT64, 1, -1},
        .sample_weight = b->weights,
        .weight_factor = 0.37,
        .options.temperature = is_distillation ? 1 : 1.7,
        .options.z_loss = is_distillation ? 0 : 0.01,
        .row_loss = is_distillation ? b->loss : NULL,
    };
    const xent_second_order_batch second_order = {
        .batch = batch,
        .vector = xent_matrix_of(function == HESSIAN_PRODUCT ? b->targets : NULL, row_bytes, 0),
        .mean_class_weight = 1,
    };
    const xent_distillation_batch distillation = {
        .batch = batch,
        .target_kernels = &isa->kernels[dtype][XENT_INDEX_TARGETS],
        .teacher = xent_matrix_of(b->targets, row_bytes, 0),
        .temperature = 3,
        .weight_factor = 0.11,
    };
    void *workspace = allocate(kernels->workspace_bytes(classes));
    const double sum = kernels->process_rows(
        is_distillation ? &distillation.batch : &second_order.batch, 0, rows, workspace);
    free(workspace);
    const uint64_t digest = digest_of(14695981039346656037u, &sum, sizeof sum);
    return digest_of(digest, grad, (size_t)(rows * row_bytes));
}

/* What digests are of: one case of a function, for `which` target kind, pass or function. */
typedef uint64_t digest_case(const xent_isa *isa, int which, buffers *b, xent_dtype dtype,
                             int64_t classes, int in_place);

static const struct {
    const char *name;
    digest_case *run;
    int which;
} digest_cases[] = {
    {"index", run_case, XENT_INDEX_TARGETS},
    {"dense", run_case, XENT_DENSE_TARGETS},
    {"shaped", run_case, XENT_SHAPED_TARGETS},
    {"smoothed", run_case, XENT_SMOOTHED_TARGETS},
    {"softmax_vjp", run_vjp_case, 0},
    {"log_softmax_vjp", run_vjp_case, 1},
    {"hessian_product", run_softmax_function_case, HESSIAN_PRODUCT},
    {"hessian_diagonal", run_softmax_function_case, HESSIAN_DIAGONAL},
    {"distillation", run_softmax_function_case, DISTILLATION},
};

/* A line for each dtype and case: the first 16 bits of the digest for each number of classes.
 * Returns 1 where results in place differ. */
static int print_digests(const xent_isa *isa) {
    int failed = 0;
    for (int dtype = 0; dtype < XENT_DTYPE_COUNT; ++dtype)
        for (size_t k = 0; k < sizeof digest_cases / sizeof digest_cases[0]; ++k) {
            const int which = digest_cases[k].which;
            printf("%s %s:", dtype == XENT_FLOAT32 ? "float32" : "float64", digest_cases[k].name);
            for (size_t c = 0; c < sizeof class_counts / sizeof class_counts[0]; ++c) {
                uint64_t digests[2];
                state = c * 1000003u + (unsigned)dtype * 101u + (unsigned)which;
                buffers b = make_digest_buffers((xent_dtype)dtype, class_counts[c]);
                for (int in_place = 0; in_place < 2; ++in_place)
                    digests[in_place] = digest_cases[k].run(isa, which, &b, (xent_dtype)dtype,
                                                            class_counts[c], in_place);
                free_buffers(b);
                printf(" %04x", (unsigned)(digests[0] >> 48));
                if (digests[0] != digests[1]) {
                    fprintf(stderr, "in place differs\n");
                    failed = 1;
                }
            }
            printf("\n");
        }
    return failed;
}

/* Every row of a batch, so many at a time as a kernel takes.  Kept a function of its own, by this
 * name: tools that count instructions count in here alone. */
__attribute__((noinline)) double compute_batch(const xent_row_kernels *kernels,
                                               const xent_batch *batch, void *workspace) {
    double loss_sum = 0;
    for (int64_t row = 0; row < batch->rows; row += XENT_MAX_ROWS_PER_CALL) {
        const int64_t rows_left = batch->rows - row;
        const int64_t row_count =
            rows_left < XENT_MAX_ROWS_PER_CALL ? rows_left : XENT_MAX_ROWS_PER_CALL;
        loss_sum += kernels->process_rows(batch, row, row_count, workspace);
    }
    return loss_sum;
}

/* Logits of a model in training, within 4 of 0; dense targets that sum to 1; no row ignored, none
 * weighted. */
static buffers make_ordinary_buffers(xent_dtype dtype, int64_t rows, int64_t classes) {
    buffers b = allocate_buffers(rows, classes);
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t k = 0; k < classes; ++k) {
            set_real(b.logits, dtype, row * classes + k, random_logit() / 8);
            set_real(b.targets, dtype, row * classes + k, 1.0 / (double)classes);
        }
        b.labels[row] = (int64_t)random_bits() % classes;
    }
    return b;
}

typedef struct {
    xent_dtype dtype;
    xent_target_kind kind;
    int is_weighted, with_grad, in_place;
    int64_t rows, classes;
} batch_request;

/* The place of `word` among words separated by spaces; anything else ends the program. */
static int chosen(const char *word, const char *choices) {
    const char *rest = choices;
    for (int place = 0;; ++place) {
        const size_t length = strcspn(rest, " ");
        if (length == strlen(word) && !strncmp(word, rest, length))
            return place;
        if (rest[length] == '\0')
            break;
        rest += length + 1;
    }
    fprintf(stderr, "%s is none of: %s\n", word, choices);
    exit(2);
}

static int64_t positive(const char *word) {
    const long long number = strtoll(word, NULL, 10);
    if (number <= 0) {
        fprintf(stderr, "%s is no positive number\n", word);
        exit(2);
    }
    return number;
}

static batch_request read_request(char **words) {
    static const xent_target_kind kinds[] = {XENT_INDEX_TARGETS, XENT_DENSE_TARGETS,
                                             XENT_SMOOTHED_TARGETS, XENT_SMOOTHED_TARGETS};
    const int targets = chosen(words[1], "index dense smoothed weighted");
    const int destination = chosen(words[2], "none apart in-place");
    const batch_request request = {
        .dtype = chosen(words[0], "float32 float64") ? XENT_FLOAT64 : XENT_FLOAT32,
        .kind = kinds[targets],
        .is_weighted = targets == 3,
        .with_grad = destination > 0,
        .in_place = destination == 2,
        .rows = positive(words[3]),
        .classes = positive(words[4]),
    };
    return request;
}

static int compute_request(const xent_isa *isa, batch_request request) {
    const xent_row_kernels *kernels = &isa->kernels[request.dtype][request.kind];
    const int is_dense = request.kind == XENT_DENSE_TARGETS;
    buffers b = make_ordinary_buffers(request.dtype, request.rows, request.classes);
    const ptrdiff_t row_bytes =
        (ptrdiff_t)request.classes * (request.dtype == XENT_FLOAT32 ? 4 : 8);
    const xent_batch batch = {
        .rows = request.rows,
        .classes = request.classes,
        .logits = xent_matrix_of(b.logits, row_bytes, 0),
        .grad = xent_matrix_of(!request.with_grad ? NULL
                               : request.in_place ? b.logits
                                                  : b.grad,
                               row_bytes, 0),
        .labels = {.data = (const char *)b.labels, .stride = sizeof(int64_t), .type = XENT_INT64},
        .dense_targets = xent_matrix_of(is_dense ? b.targets : NULL, row_bytes, 0),
        .class_weight = request.is_weighted ? b.targets : NULL,
        .options.label_smoothing = request.kind == XENT_SMOOTHED_TARGETS ? 0.1 : 0,
        .weight_factor = 1.0 / (double)request.rows,
        .options.temperature = 1,
    };
    void *workspace = allocate(kernels->workspace_bytes(request.classes));
    printf("loss %.9g\n", compute_batch(kernels, &batch, workspace));
    free(workspace);
    free_buffers(b);
    return 0;
}

int main(int argument_count, char **arguments) {
    if (argument_count < 2) {
        for (int k = 0; k < xent_isa_count(); ++k)
            if (xent_isa_at(k)->is_supported())
                printf("%s\n", xent_isa_at(k)->name);
        return 0;
    }
    const xent_isa *isa = xent_isa_named(arguments[1]);
    if (!isa || !isa->is_supported()) {
        fprintf(stderr, "no such ISA here: %s (known: %s)\n", arguments[1], xent_known_isa_names());
        return 2;
    }
    if (argument_count == 2)
        return print_digests(isa);
    if (argument_count != 7) {
        fprintf(stderr, "usage: driver [ISA [DTYPE TARGETS GRADIENT ROWS CLASSES]]\n");
        return 2;
    }
    return compute_request(isa, read_request(arguments + 2));
}
