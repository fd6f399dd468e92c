/* Runs every kernel of one instruction set over buffers whose neighbouring pages may not be
 * touched.
 *
 * Knows: the widths at which kernels change their path, what the contract lets go together.
 * Must not know: Python, how arrays are laid out and protected (tests/fuzz), what values should come
 * out.
 *
 *     guarded_kernels                   the names of the ISAs this processor has, one a line
 *     guarded_kernels ISA [quick]       the number of cases; at the first access outside a buffer
 *                                       that case, and status 1
 *
 * Every buffer that a kernel is given, its workspace too, ends where a page begins that may not be
 * touched, or begins where one ends; or each of its rows does, or each of its columns, with such
 * pages between them.  Labels hold whatever another thread may have left.
 */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../fuzz/compute.h"
#include "../fuzz/memory.h"
#include "dispatch.h"

typedef enum { BEFORE, BEHIND, AROUND_ROWS, AROUND_COLUMNS, SIDE_COUNT } guard_side;
typedef enum { APART, IN_PLACE, LOSS_ONLY, OUTPUT_COUNT } output_place;

enum { MOST_COLUMNS = 129 };

static const int64_t row_counts[] = {1, 2, 7, 8, 9, 15, 16, 17, 33};
static const int64_t wide_row_counts[] = {1, 2};
static const int64_t class_counts[] = {1,  2,  3,  4,  5,  7,  8,  9,  10,  11,  15,  16,
                                       17, 21, 23, 24, 25, 31, 32, 33, 39,  40,  41,  47,
                                       48, 49, 63, 64, 65, 79, 80, 81, 100, 127, 128, 129};
static const int64_t wide_class_counts[] = {1023, 1024, 1025, 2047, 2048, 2049, 5000, 40001};
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static problem p;
static layout l;

/* --- the case under way --- */

static char case_name[256];

static void name_case(void) {
    snprintf(case_name, sizeof case_name,
             "%s, family %d, float%d, kind %d, output %d, %" PRId64 " x %" PRId64
             ", labels of type %d, class weight %d, order %d, in place %d, grad %d, ends %d, "
             "gap %d, turned %d, storages %d %d %d\n",
             l.isa->name, p.family, 8 * item_size(p.dtype), p.kind, p.output, p.rows, p.classes,
             p.label_type, p.has_class_weight, l.order, l.in_place, l.with_grad, l.at_end, l.gap[0],
             l.is_turned, l.logits_storage, l.grad_storage, l.targets_storage);
}

static void report_crash(int number) {
    const char head[] = "outside a buffer: ";
    (void)number;
    if (write(STDERR_FILENO, head, sizeof head - 1) < 0 ||
        write(STDERR_FILENO, case_name, strlen(case_name)) < 0)
        _exit(2);
    _exit(1);
}

static int64_t run_case(void) {
    static results r;
    name_case();
    const char *spoilt = compute(&p, &l, &r);
    if (spoilt) {
        fprintf(stderr, "written where nothing may be, %s: %s", spoilt, case_name);
        exit(1);
    }
    return 1;
}

/* --- values --- */

static uint64_t state = 1;

static double random_number(double spread) {
    return spread * ((double)(next_random(&state) & 0xffff) / 65536.0 - 0.25);
}

static void fill(char *values, xent_dtype dtype, int64_t count, double spread) {
    for (int64_t k = 0; k < count; ++k)
        set_real(values, dtype, k, random_number(spread));
}

/* The problem's arrays; some rows have no softmax. */
static void fill_arrays(void) {
    fill(p.logits, p.dtype, p.rows * p.classes, 8);
    for (int64_t row = 6; row < p.rows; row += 7)
        set_real(p.logits, p.dtype, row * p.classes, row % 2 ? INFINITY : NAN);
    fill(p.targets, p.dtype, p.rows * p.classes, 1);
    fill(p.class_weight, p.dtype, p.classes, 1);
    fill((char *)p.sample_weight, XENT_FLOAT64, p.rows, 1);
}

/* Classes, and here and there what is none: labels may change after they were checked. */
static void fill_labels(void) {
    for (int64_t row = 0; row < p.rows; ++row) {
        int64_t label = row % 5 == 3 ? -1 - (int64_t)next_random(&state)
                                     : (int64_t)next_random(&state) % p.classes;
        if (row % 7 == 6)
            label = INT64_MAX;
        const size_t width = (size_t)label_size(p.label_type);
        memcpy(p.labels + (size_t)row * width, &label, width); /* little-endian */
    }
}

/* --- one problem --- */

static void choose_side(guard_side side) {
    const int gap = side >= AROUND_ROWS ? PAGES : 0;
    l.at_end = side == BEFORE ? 0 : 0xff;
    l.is_turned = side == AROUND_COLUMNS ? 7 : 0;
    l.label_gap = l.gap[0] = l.gap[1] = l.gap[2] = gap;
}

static void choose_place(output_place place) {
    l.in_place = place == IN_PLACE;
    l.with_grad = place != LOSS_ONLY;
}

/* Targets, and row losses, lse, predictions and weights or none of them. */
static void choose(kernel_family family, xent_target_kind kind, int has_options,
                   xent_output output) {
    const int has_smoothing = kind == XENT_SHAPED_TARGETS || kind == XENT_SMOOTHED_TARGETS;
    const int is_gradient = output == XENT_GRADIENT;
    p.family = family;
    p.kind = kind;
    p.output = output;
    p.has_labels = kind == XENT_INDEX_TARGETS || kind == XENT_SMOOTHED_TARGETS;
    p.has_sample_weight = p.has_ignore_index = has_options;
    p.ignore_index = 1;
    p.has_class_weight = has_options && kind != XENT_DENSE_TARGETS;
    p.weight_factor = is_gradient ? 0.5 : 0;
    p.label_smoothing = is_gradient && has_smoothing ? 0.1 : 0;
    p.temperature = has_options ? 1.5 : 1;
    /* with one, class indices with class weights would be smoothed targets */
    p.z_loss = has_options && kind != XENT_INDEX_TARGETS ? 0.01 : 0;
    l.with_row_loss = l.with_statistics = has_options;
    l.logits_storage = l.grad_storage = l.targets_storage = XENT_AS_COMPUTED;
    l.order = ALL_ROWS;
}

/* Rows sixteen a call, all in one, and in the steps that threads share. */
static int64_t run_orders(void) {
    const xent_row_kernels *kernels = &l.isa->kernels[p.dtype][p.kind];
    const int can_share = !l.is_turned && kernels->blocks_to_share(p.classes) > 0;
    for (int order = ALL_ROWS; order <= SHARED_ROWS; ++order)
        if (order != ONE_ROW_A_CALL && (order != SHARED_ROWS || can_share)) {
            l.order = (row_order)order;
            run_case();
        }
    return 1;
}

/* One batch, as its matrices lie and in 16 bits, as far as its kernels read and write these. */
static int64_t run_rows(xent_target_kind kind, int has_options, xent_output output) {
    choose(ROW_KERNELS, kind, has_options, output);
    fill_labels();
    int64_t cases = run_orders();
    const xent_row_kernels *kernels = &l.isa->kernels[p.dtype][p.kind];
    const xent_batch outline = {.classes = p.classes,
                                .logits.class_stride = l.is_turned,
                                .dense_targets.data = p.has_labels ? NULL : p.targets};
    if (!kernels->knows_storage(&outline))
        return cases;
    for (int first = 0; first < XENT_STORAGE_COUNT; ++first)
        for (int second = 0; second < XENT_STORAGE_COUNT; ++second) {
            l.logits_storage = (xent_storage)first;
            l.grad_storage = (xent_storage)second;
            l.targets_storage = (xent_storage)((first + second) % XENT_STORAGE_COUNT);
            if (first + second > 0 && (!l.in_place || first == second) &&
                (l.with_grad || second == 0))
                cases += run_orders();
        }
    return cases;
}

/* A matrix of 16 bits to float32 and back. */
static int64_t run_storage(void) {
    int64_t cases = 0;
    for (int storage = XENT_FLOAT16; storage < XENT_STORAGE_COUNT && !l.is_turned;
         ++storage, ++cases) {
        const xent_storage_kernels *kernels = &l.isa->storage_kernels[storage];
        const size_t count = (size_t)p.classes;
        const strip stored = lay_out(0, p.rows, 2 * count, l.gap[0], 0, l.at_end, 0);
        const strip wide = lay_out(1, p.rows, 4 * count, l.gap[0], 0, l.at_end, 0);
        float *numbers = (float *)(void *)wide.first;
        const int64_t step = wide.stride / (ptrdiff_t)sizeof(float);
        snprintf(case_name, sizeof case_name, "%s, storage %d to float32 and back\n", l.isa->name,
                 storage);
        put_rows(&wide, p.logits);
        kernels->store(numbers, step, p.rows, p.classes, stored.first, stored.stride);
        kernels->load(stored.first, stored.stride, p.rows, p.classes, numbers, step);
    }
    return cases;
}

static int64_t run_vjp(kernel_family family) {
    choose(family, XENT_DENSE_TARGETS, 0, XENT_GRADIENT);
    return l.is_turned ? 0 : run_case();
}

static int64_t run_softmax_functions(void) {
    int64_t cases = 0;
    for (int kind = 0; kind < XENT_TARGET_KIND_COUNT && !l.is_turned; ++kind)
        for (int family = HESSIAN_PRODUCT; family < FAMILY_COUNT; ++family) {
            const int has_options = kind == XENT_SHAPED_TARGETS || kind == XENT_SMOOTHED_TARGETS;
            choose((kernel_family)family, (xent_target_kind)kind, has_options, XENT_GRADIENT);
            fill_labels();
            cases += run_case();
        }
    return cases;
}

/* --- all of them --- */

/* Every target kind, output and set of options of one shape; label types and, in the quick form,
 * sides take turns.  There the side that is taken depends on rows and classes so that either beside
 * each other number of the other meets every side. */
static int64_t run_shape(int64_t rows, int64_t classes, int quick) {
    static int64_t turn;
    int64_t cases = 0;
    p.rows = rows;
    p.classes = classes;
    fill_arrays();
    for (int side = 0; side < SIDE_COUNT; ++side) {
        if ((side == AROUND_COLUMNS && classes > MOST_COLUMNS) ||
            (quick && side != (rows + classes) % SIDE_COUNT))
            continue;
        choose_side((guard_side)side);
        for (int place = 0; place < OUTPUT_COUNT; ++place) {
            choose_place((output_place)place);
            for (int choice = 0; choice < 2 * XENT_TARGET_KIND_COUNT; ++choice) {
                p.label_type = (xent_label_type)(turn++ % 8);
                cases += run_rows((xent_target_kind)(choice / 2), choice % 2, XENT_GRADIENT);
            }
            if (place == LOSS_ONLY)
                continue;
            cases += run_rows(XENT_INDEX_TARGETS, 0, XENT_PROBABILITIES) +
                     run_rows(XENT_SMOOTHED_TARGETS, 0, XENT_PROBABILITIES) +
                     run_rows(XENT_SMOOTHED_TARGETS, 0, XENT_LOG_PROBABILITIES) +
                     run_vjp(SOFTMAX_VJP) + run_vjp(LOG_SOFTMAX_VJP) + run_softmax_functions();
        }
        cases += p.dtype == XENT_FLOAT32 ? run_storage() : 0;
    }
    return cases;
}

static int64_t run_all(int quick) {
    int64_t cases = 0;
    for (int dtype = 0; dtype < XENT_DTYPE_COUNT; ++dtype) {
        p.dtype = (xent_dtype)dtype;
        for (size_t c = 0; c < LENGTH(class_counts); ++c)
            for (size_t n = 0; n < LENGTH(row_counts); ++n)
                cases += run_shape(row_counts[n], class_counts[c], quick);
        for (size_t c = 0; c < LENGTH(wide_class_counts); ++c)
            for (size_t n = 0; n < LENGTH(wide_row_counts); ++n)
                cases += run_shape(wide_row_counts[n], wide_class_counts[c], quick);
    }
    return cases;
}

int main(int argument_count, char **arguments) {
    if (argument_count < 2) {
        for (int k = 0; k < xent_isa_count(); ++k)
            if (xent_isa_at(k)->is_supported())
                printf("%s\n", xent_isa_at(k)->name);
        return 0;
    }
    l.isa = xent_isa_named(arguments[1]);
    if (!l.isa || !l.isa->is_supported()) {
        fprintf(stderr, "no such ISA here: %s (known: %s)\n", arguments[1], xent_known_isa_names());
        return 2;
    }
    l.rows_a_call = 16;
    signal(SIGSEGV, report_crash);
    signal(SIGBUS, report_crash);
    printf("%" PRId64 "\n", run_all(argument_count > 2));
    return 0;
}
