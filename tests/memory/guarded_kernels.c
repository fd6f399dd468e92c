/* Runs every kernel of one instruction set over buffers whose neighbouring pages may not be
 * touched.
 *
 * Knows: the kernel contract, the widths at which kernels change their path, how memory is
 * protected on POSIX systems.
 * Must not know: Python, what values should come out.
 *
 *     guarded_kernels                   the names of the ISAs this processor has, one a line
 *     guarded_kernels ISA [quick]       the number of cases; at the first access outside a buffer
 *                                       that case, and status 1
 *
 * Every buffer that a kernel is given, its workspace too, ends where a page begins that may not be
 * touched, or begins where one ends; or each of its rows does, or each of its columns, with such
 * pages between them.  Labels hold whatever another thread may have left.
 */
#define _DEFAULT_SOURCE
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dispatch.h"
#include "labels.h"
#include "workspace.h"

typedef enum { BEFORE, BEHIND, AROUND_ROWS, AROUND_COLUMNS, SIDE_COUNT } guard_side;
typedef enum { APART, IN_PLACE, LOSS_ONLY, OUTPUT_COUNT } output_place;

enum { LARGEST_BUFFERS = 12, MOST_COLUMNS = 129 };

static const int64_t row_counts[] = {1, 2, 7, 8, 9, 15, 16, 17, 33};
static const int64_t wide_row_counts[] = {1, 2};
static const int64_t class_counts[] = {1,  2,  3,  4,  5,  7,  8,  9,  10,  11,  15,  16,
                                       17, 21, 23, 24, 25, 31, 32, 33, 39,  40,  41,  47,
                                       48, 49, 63, 64, 65, 79, 80, 81, 100, 127, 128, 129};
static const int64_t wide_class_counts[] = {1023, 1024, 1025, 2047, 2048, 2049, 5000, 40001};
static const char *const kind_names[] = {"index", "dense", "shaped", "smoothed"};
static const char *const side_names[] = {"before", "behind", "around rows", "around columns"};
static const char *const place_names[] = {"apart", "in place", "loss only"};
static const char *const storage_names[] = {"as computed", "float16", "bfloat16"};
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* --- the case under way --- */

static char case_name[256];

static void report_crash(int number) {
    const char head[] = "outside a buffer: ";
    (void)number;
    if (write(STDERR_FILENO, head, sizeof head - 1) < 0 ||
        write(STDERR_FILENO, case_name, strlen(case_name)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
        _exit(2);
    _exit(1);
}

/* --- buffers between pages --- */

/* Pieces of writable memory with guards between them, kept for the next case of the same shape. */
typedef struct {
    char *pages;
    size_t pieces, piece_bytes;
    int is_taken;
} region;

static region regions[LARGEST_BUFFERS * 2];
static int region_count;

static size_t page_size;

static void die(const char *what) {
    perror(what);
    exit(2);
}

static size_t bytes_of(const region *r) {
    return r->pieces * (r->piece_bytes + page_size) + page_size;
}

static region *new_region(size_t pieces, size_t piece_bytes) {
    if (region_count == LENGTH(regions))
        die("regions");
    region *made = &regions[region_count++];
    made->pieces = pieces;
    made->piece_bytes = piece_bytes;
    made->pages = mmap(NULL, bytes_of(made), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made->pages == MAP_FAILED)
        die("mmap");
    for (size_t k = 0; k < pieces && piece_bytes; ++k)
        if (mprotect(made->pages + page_size + k * (piece_bytes + page_size), piece_bytes,
                     PROT_READ | PROT_WRITE))
            die("mprotect");
    return made;
}

static region *take_region(size_t pieces, size_t piece_bytes) {
    region *found = NULL;
    for (int k = 0; k < region_count && !found; ++k)
        if (!regions[k].is_taken && regions[k].pieces == pieces &&
            regions[k].piece_bytes == piece_bytes)
            found = &regions[k];
    if (!found)
        found = new_region(pieces, piece_bytes);
    found->is_taken = 1;
    return found;
}

static void give_regions_back(void) {
    for (int k = 0; k < region_count; ++k)
        regions[k].is_taken = 0;
}

static void unmap_regions(void) {
    while (region_count > 0) {
        --region_count;
        munmap(regions[region_count].pages, bytes_of(&regions[region_count]));
    }
}

/* Each row or each column alone between guards, or all of it in one piece. */
static xent_matrix kept(int64_t rows, int64_t classes, size_t number_bytes, guard_side side) {
    const size_t count = (size_t)rows * (size_t)classes * number_bytes;
    const size_t pieces = side == AROUND_ROWS      ? (size_t)rows
                          : side == AROUND_COLUMNS ? (size_t)classes
                                                   : 1;
    const size_t bytes = count / pieces;
    const size_t piece_bytes = (bytes + page_size - 1) / page_size * page_size;
    const ptrdiff_t step = (ptrdiff_t)(piece_bytes + page_size);
    xent_matrix made = {.row_stride = (ptrdiff_t)(number_bytes * (size_t)classes)};
    made.data = take_region(pieces, piece_bytes)->pages + page_size +
                (side == BEFORE ? 0 : piece_bytes - bytes);
    if (side == AROUND_ROWS)
        made.row_stride = step;
    if (side == AROUND_COLUMNS && classes > 1) {
        made.row_stride = (ptrdiff_t)number_bytes;
        made.class_stride = step;
    }
    return made;
}

/* One number a row, or whatever else stands in one piece. */
static void *kept_column(int64_t rows, size_t number_bytes, guard_side side) {
    return kept(rows, 1, number_bytes, side == BEFORE ? BEFORE : BEHIND).data;
}

/* What one case is made of. */
typedef struct {
    xent_dtype dtype;
    xent_target_kind kind;
    output_place place;
    guard_side side;
    xent_label_type label_type;
    xent_output output;
    xent_storage logits_storage, grad_storage, targets_storage;
    int has_options; /* row losses, lse, predictions, weights */
    int64_t rows, classes;
} request;

/* --- what stands in them --- */

static uint64_t state = 1;

static uint32_t random_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static size_t real_bytes(xent_dtype dtype) {
    return dtype == XENT_FLOAT32 ? sizeof(float) : sizeof(double);
}

static void fill_reals(xent_matrix m, xent_dtype dtype, int64_t rows, int64_t classes,
                       double spread) {
    const ptrdiff_t class_stride = m.class_stride ? m.class_stride : (ptrdiff_t)real_bytes(dtype);
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t k = 0; k < classes; ++k) {
            const double value = spread * ((double)(random_bits() & 0xffff) / 65536.0 - 0.25);
            char *place = xent_row(&m, row) + k * class_stride;
            if (dtype == XENT_FLOAT32)
                *(float *)(void *)place = (float)value;
            else
                *(double *)(void *)place = value;
        }
}

static size_t stored_bytes(xent_dtype dtype, xent_storage storage) {
    return storage == XENT_AS_COMPUTED ? real_bytes(dtype) : sizeof(uint16_t);
}

/* A matrix of numbers as they are stored; of 16 bits any. */
static xent_matrix kept_stored(request r, xent_storage storage, double spread) {
    xent_matrix m = kept(r.rows, r.classes, stored_bytes(r.dtype, storage), r.side);
    const ptrdiff_t class_stride = m.class_stride ? m.class_stride : (ptrdiff_t)sizeof(uint16_t);
    m.storage = storage;
    if (storage == XENT_AS_COMPUTED)
        fill_reals(m, r.dtype, r.rows, r.classes, spread);
    else
        for (int64_t row = 0; row < r.rows; ++row)
            for (int64_t k = 0; k < r.classes; ++k)
                *(uint16_t *)(void *)(xent_row(&m, row) + k * class_stride) =
                    (uint16_t)random_bits();
    return m;
}

/* Classes, and here and there what is none: labels may change after they were checked. */
static void fill_labels(xent_matrix b, size_t width, int64_t rows, int64_t classes) {
    for (int64_t row = 0; row < rows; ++row) {
        int64_t label =
            row % 5 == 3 ? -1 - (int64_t)random_bits() : (int64_t)random_bits() % classes;
        if (row % 7 == 6)
            label = INT64_MAX;
        memcpy(xent_row(&b, row), &label, width); /* little-endian */
    }
}

static size_t width_of(xent_label_type type) { return (size_t)1 << ((int)type % 4); }

/* --- one case --- */

static int has_dense_targets(request r) {
    return r.kind == XENT_DENSE_TARGETS || r.kind == XENT_SHAPED_TARGETS;
}

static void point_at_targets(xent_batch *batch, request r) {
    if (has_dense_targets(r)) {
        batch->dense_targets = kept_stored(r, r.targets_storage, 1);
        return;
    }
    const size_t width = width_of(r.label_type);
    const xent_matrix labels = kept(r.rows, 1, width, r.side);
    fill_labels(labels, width, r.rows, r.classes);
    const xent_labels column = {labels.data, labels.row_stride, r.label_type, r.has_options, 1};
    batch->labels = column;
}

static void point_at_options(xent_batch *batch, request r) {
    const guard_side column_side = r.side == BEFORE ? BEFORE : BEHIND;
    const xent_matrix sample_weight = kept(r.rows, 1, sizeof(double), column_side);
    fill_reals(sample_weight, XENT_FLOAT64, r.rows, 1, 1);
    batch->sample_weight = (const double *)(const void *)sample_weight.data;
    batch->row_loss = kept_column(r.rows, real_bytes(r.dtype), r.side);
    batch->lse = kept_column(r.rows, real_bytes(r.dtype), r.side);
    batch->prediction = kept_column(r.rows, sizeof(int64_t), r.side);
    if (r.kind != XENT_DENSE_TARGETS) {
        const xent_matrix class_weight = kept(1, r.classes, real_bytes(r.dtype), column_side);
        fill_reals(class_weight, r.dtype, 1, r.classes, 1);
        batch->class_weight = class_weight.data;
    }
}

static xent_batch make_batch(request r) {
    const int has_smoothing = r.kind == XENT_SHAPED_TARGETS || r.kind == XENT_SMOOTHED_TARGETS;
    const int is_gradient = r.output == XENT_GRADIENT;
    xent_batch batch = {
        .rows = r.rows,
        .classes = r.classes,
        .logits = kept_stored(r, r.logits_storage, 8),
        .weight_factor = is_gradient ? 0.5 : 0,
        .options.label_smoothing = is_gradient && has_smoothing ? 0.1 : 0,
        .options.temperature = r.has_options ? 1.5 : 1,
        /* with one, class indices with class weights would be smoothed targets */
        .options.z_loss = r.has_options && r.kind != XENT_INDEX_TARGETS ? 0.01 : 0,
        .output = r.output,
    };
    if (r.place == APART)
        batch.grad = kept_stored(r, r.grad_storage, 8);
    else if (r.place == IN_PLACE)
        batch.grad = batch.logits;
    point_at_targets(&batch, r);
    if (r.has_options)
        point_at_options(&batch, r);
    return batch;
}

/* The same row in the steps that threads share. */
static void run_shared(const xent_row_kernels *kernels, const xent_batch *batch, guard_side side) {
    const int64_t blocks = kernels->blocks_to_share(batch->classes);
    if (blocks == 0)
        return;
    char *workspace = kept_column(1, xent_shared_row_bytes(kernels, batch), side);
    for (int64_t row = 0; row < batch->rows; ++row) {
        kernels->begin_row(batch, row, workspace);
        kernels->forward_blocks(0, blocks / 2, workspace);
        kernels->forward_blocks(blocks / 2, blocks - blocks / 2, workspace);
        kernels->finish_row(batch, row, workspace);
        if (batch->grad.data)
            kernels->backward_blocks(0, blocks, workspace);
    }
}

static void run_rows(const xent_isa *isa, request r) {
    snprintf(case_name, sizeof case_name,
             "%s %s, %s to %s, %s targets of %s, labels of type %d, output %d %s, options %d, "
             "guards %s, %" PRId64 " x %" PRId64,
             isa->name, r.dtype == XENT_FLOAT32 ? "float32" : "float64",
             storage_names[r.logits_storage], storage_names[r.grad_storage], kind_names[r.kind],
             storage_names[r.targets_storage], (int)r.label_type, (int)r.output,
             place_names[r.place], r.has_options, side_names[r.side], r.rows, r.classes);
    const xent_row_kernels *kernels = &isa->kernels[r.dtype][r.kind];
    const xent_batch batch = make_batch(r);
    void *workspace = kept_column(1, xent_workspace_bytes(kernels, &batch), r.side);
    for (int64_t row = 0; row < r.rows; row += 16)
        kernels->process_rows(&batch, row, r.rows - row < 16 ? r.rows - row : 16, workspace);
    kernels->process_rows(&batch, 0, r.rows, workspace);
    if (!batch.logits.class_stride)
        run_shared(kernels, &batch, r.side);
    if (!batch.dense_targets.data) {
        int64_t counted = 0;
        double sum = 0;
        xent_check_labels(&batch.labels, r.rows, r.classes, batch.sample_weight, NULL, XENT_FLOAT32,
                          &counted, &sum);
    }
    give_regions_back();
}

/* The same batch with matrices in 16 bits, as far as its kernels read and write these. */
static int64_t run_stored_rows(const xent_isa *isa, request r) {
    const xent_row_kernels *kernels = &isa->kernels[r.dtype][r.kind];
    const xent_batch outline = {.classes = r.classes,
                                .logits.class_stride = r.side == AROUND_COLUMNS && r.classes > 1,
                                .dense_targets.data = has_dense_targets(r) ? (char *)"" : NULL};
    int64_t cases = 0;
    if (!kernels->knows_storage(&outline))
        return cases;
    for (int first = 0; first < XENT_STORAGE_COUNT; ++first)
        for (int second = 0; second < XENT_STORAGE_COUNT; ++second) {
            r.logits_storage = (xent_storage)first;
            r.grad_storage = (xent_storage)second;
            r.targets_storage = (xent_storage)((first + second) % XENT_STORAGE_COUNT);
            if (first + second == 0 || (r.place == IN_PLACE && first != second) ||
                (r.place == LOSS_ONLY && second > 0))
                continue;
            run_rows(isa, r);
            ++cases;
        }
    return cases;
}

/* A matrix of 16 bits to float32 and back. */
static int64_t run_storage(const xent_isa *isa, request r) {
    int64_t cases = 0;
    for (int storage = XENT_FLOAT16; storage < XENT_STORAGE_COUNT && r.side != AROUND_COLUMNS;
         ++storage, ++cases) {
        const xent_storage_kernels *kernels = &isa->storage_kernels[storage];
        snprintf(case_name, sizeof case_name,
                 "%s %s to float32 and back, guards %s, %" PRId64 " x %" PRId64, isa->name,
                 storage_names[storage], side_names[r.side], r.rows, r.classes);
        const xent_matrix stored = kept_stored(r, (xent_storage)storage, 8);
        const xent_matrix wide = kept(r.rows, r.classes, sizeof(float), r.side);
        float *numbers = (float *)(void *)wide.data;
        kernels->load(stored.data, stored.row_stride, r.rows, r.classes, numbers,
                      wide.row_stride / (ptrdiff_t)sizeof(float));
        kernels->store(numbers, wide.row_stride / (ptrdiff_t)sizeof(float), r.rows, r.classes,
                       stored.data, stored.row_stride);
        give_regions_back();
    }
    return cases;
}

static void run_vjp(const xent_isa *isa, request r, int of_logarithm) {
    snprintf(case_name, sizeof case_name, "%s %s, %s_vjp, %s, guards %s, %" PRId64 " x %" PRId64,
             isa->name, r.dtype == XENT_FLOAT32 ? "float32" : "float64",
             of_logarithm ? "log_softmax" : "softmax", place_names[r.place], side_names[r.side],
             r.rows, r.classes);
    xent_vjp_batch batch = {
        .rows = r.rows,
        .classes = r.classes,
        .values = kept_stored(r, XENT_AS_COMPUTED, 1),
        .slopes = kept_stored(r, XENT_AS_COMPUTED, 1),
    };
    batch.grad = r.place == APART ? kept_stored(r, XENT_AS_COMPUTED, 1)
                 : r.rows % 2     ? batch.values
                                  : batch.slopes;
    const xent_vjp_kernels *kernels = &isa->vjp_kernels[r.dtype];
    (of_logarithm ? kernels->log_softmax_rows : kernels->softmax_rows)(&batch, 0, r.rows);
    give_regions_back();
}

typedef enum { HESSIAN_PRODUCT, HESSIAN_DIAGONAL, DISTILLATION, SOFTMAX_USE_COUNT } softmax_use;
static const char *const use_names[] = {"Hessian-vector product", "Hessian's diagonal",
                                        "distillation"};

/* A function of the softmax: its batch begins with one of the loss. */
static void run_softmax_function(const xent_isa *isa, request r, softmax_use use) {
    snprintf(case_name, sizeof case_name,
             "%s %s, %s, %s targets, %s, options %d, guards %s, %" PRId64 " x %" PRId64, isa->name,
             r.dtype == XENT_FLOAT32 ? "float32" : "float64", use_names[use], kind_names[r.kind],
             place_names[r.place], r.has_options, side_names[r.side], r.rows, r.classes);
    const xent_batch batch = make_batch(r);
    const xent_matrix none = {0}, other = kept_stored(r, XENT_AS_COMPUTED, 8);
    const xent_second_order_batch second_order = {batch, use == HESSIAN_PRODUCT ? other : none, 1};
    const xent_distillation_batch distillation = {batch, &isa->kernels[r.dtype][r.kind], other, 2,
                                                  0.5};
    const int is_distillation = use == DISTILLATION;
    const xent_row_kernels *kernels =
        &isa->softmax_functions[r.dtype][is_distillation ? XENT_DISTILLATION : XENT_SECOND_ORDER];
    void *workspace = kept_column(1, xent_aligned(kernels->workspace_bytes(r.classes)), r.side);
    kernels->process_rows(is_distillation ? &distillation.batch : &second_order.batch, 0, r.rows,
                          workspace);
    give_regions_back();
}

/* --- all of them --- */

static int64_t run_softmax_functions(const xent_isa *isa, request r) {
    int64_t cases = 0;
    if (r.side == AROUND_COLUMNS)
        return cases;
    for (int place = APART; place <= IN_PLACE; ++place)
        for (int kind = 0; kind < XENT_TARGET_KIND_COUNT; ++kind)
            for (int use = 0; use < SOFTMAX_USE_COUNT; ++use) {
                r.place = (output_place)place;
                r.kind = (xent_target_kind)kind;
                r.has_options = kind == XENT_SHAPED_TARGETS || kind == XENT_SMOOTHED_TARGETS;
                r.output = XENT_GRADIENT;
                run_softmax_function(isa, r, (softmax_use)use);
                ++cases;
            }
    return cases;
}

/* Every target kind, output and set of options of one shape; label types and, in the quick form,
 * sides take turns.  There the side that is taken depends on rows and classes so that either beside
 * each other number of the other meets every side. */
static int64_t run_shape(const xent_isa *isa, request r, int quick) {
    static int64_t turn;
    int64_t cases = 0;
    for (int side = 0; side < SIDE_COUNT; ++side) {
        r.side = (guard_side)side;
        if (side == AROUND_COLUMNS && r.classes > MOST_COLUMNS)
            continue;
        if (quick && side != (r.rows + r.classes) % SIDE_COUNT)
            continue;
        for (int place = 0; place < OUTPUT_COUNT; ++place) {
            r.place = (output_place)place;
            for (int choice = 0; choice < 2 * XENT_TARGET_KIND_COUNT; ++choice) {
                r.kind = (xent_target_kind)(choice / 2);
                r.has_options = choice % 2;
                r.label_type = (xent_label_type)(turn++ % 8);
                r.output = XENT_GRADIENT;
                run_rows(isa, r);
                cases += 1 + run_stored_rows(isa, r);
            }
            if (r.place == LOSS_ONLY)
                continue;
            r.has_options = 0;
            r.kind = XENT_INDEX_TARGETS;
            r.output = XENT_PROBABILITIES;
            run_rows(isa, r);
            cases += 1 + run_stored_rows(isa, r);
            for (int of_logarithm = 0; of_logarithm < 2; ++of_logarithm) {
                r.kind = XENT_SMOOTHED_TARGETS;
                r.output = of_logarithm ? XENT_LOG_PROBABILITIES : XENT_PROBABILITIES;
                run_rows(isa, r);
                cases += 1 + run_stored_rows(isa, r);
                if (r.side == AROUND_COLUMNS)
                    continue;
                run_vjp(isa, r, of_logarithm);
                ++cases;
            }
        }
        cases +=
            run_softmax_functions(isa, r) + (r.dtype == XENT_FLOAT32 ? run_storage(isa, r) : 0);
        unmap_regions();
    }
    return cases;
}

static int64_t run_all(const xent_isa *isa, int quick) {
    int64_t cases = 0;
    for (int dtype = 0; dtype < XENT_DTYPE_COUNT; ++dtype) {
        request r = {.dtype = (xent_dtype)dtype};
        for (size_t c = 0; c < LENGTH(class_counts); ++c)
            for (size_t n = 0; n < LENGTH(row_counts); ++n) {
                r.classes = class_counts[c];
                r.rows = row_counts[n];
                cases += run_shape(isa, r, quick);
            }
        for (size_t c = 0; c < LENGTH(wide_class_counts); ++c)
            for (size_t n = 0; n < LENGTH(wide_row_counts); ++n) {
                r.classes = wide_class_counts[c];
                r.rows = wide_row_counts[n];
                cases += run_shape(isa, r, quick);
            }
    }
    return cases;
}

int main(int argument_count, char **arguments) {
    page_size = (size_t)sysconf(_SC_PAGESIZE);
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
    signal(SIGSEGV, report_crash);
    signal(SIGBUS, report_crash);
    printf("%" PRId64 "\n", run_all(isa, argument_count > 2));
    return 0;
}
