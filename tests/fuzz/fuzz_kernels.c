/* A batch described by bytes, through the kernels twice: as libFuzzer calls it, or replay.c.
 *
 * Knows: what the contract promises.   Must not know: how bytes become a batch, or what a result is
 * made of.
 *
 * Whatever is wrong ends the program:
 *   - a result too far from the oracle's; a row that should be NaN, or 0 because it is ignored,
 *     and is not;
 *   - other bits in another layout: in place or not, rows apart or together, blocks shared, loss
 *     alone, another ISA;
 *   - a byte read or written outside the arrays (guard pages, guard bytes, the sanitizers), or an
 *     input written.
 */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute.h"
#include "oracle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const kind_names[] = {"index", "dense", "shaped", "smoothed"};

static void describe_layout(const layout *l) {
    fprintf(stderr,
            "  %s, order %d (%d), in place %d, grad %d, row loss %d, statistics %d, gaps %d %d %d, "
            "reversed %d, turned "
            "%d, ends %d, storages %d %d %d\n",
            l->isa->name, l->order, l->rows_a_call, l->in_place, l->with_grad, l->with_row_loss,
            l->with_statistics, l->gap[0], l->gap[1], l->gap[2], l->is_reversed, l->is_turned,
            l->at_end, l->logits_storage, l->grad_storage, l->targets_storage);
}

/* Says what was computed and ends the program. */
static void fail(const problem *p, const layout *l, const char *what) {
    fprintf(stderr, "FAULT: %s\n  family %d, float%d, %s%s, output %d, %" PRId64 " x %" PRId64 "\n",
            what, p->family, 8 * item_size(p->dtype), kind_names[p->kind],
            p->has_labels ? " (labels)" : "", p->output, p->rows, p->classes);
    fprintf(stderr,
            "  class weight %d, sample weight %d, factor %g, smoothing %g, temperature %g, z %g\n",
            p->has_class_weight, p->has_sample_weight, p->weight_factor, p->label_smoothing,
            p->temperature, p->z_loss);
    describe_layout(&l[0]);
    describe_layout(&l[1]);
    abort();
}

static void fail_at(const problem *p, const layout *l, const char *what, int64_t row, int64_t c,
                    double got, expected e) {
    fprintf(stderr, "row %" PRId64 ", class %" PRId64 ": %.17g instead of %.17Lg, bound %.3Lg\n",
            row, c, got, e.value, e.bound);
    fail(p, l, what);
}

/* --- against the oracle ----------------------------------------------------------------------- */

/* Beyond the dtype's range, and a little before, infinite is right too. */
static int overflows(xent_dtype dtype, long double value) {
    const long double most = dtype == XENT_FLOAT32 ? FLT_MAX : DBL_MAX;
    return fabsl(value) >= most * (1 - 0x1p-16L);
}

static int is_near(xent_dtype dtype, double got, expected e) {
    if (isnan(e.value))
        return isnan(got);
    if (isinf(e.value))
        return (long double)got == e.value;
    if (isinf(got))
        return overflows(dtype, e.value) && (got > 0) == (e.value > 0);
    return fabsl((long double)got - e.value) <= e.bound;
}

static void check_near(const problem *p, const layout *l, const char *what, int64_t row, int64_t c,
                       double got, expected e) {
    if (!is_near(p->dtype, got, e))
        fail_at(p, l, what, row, c, got, e);
}

/* Every class's gradient, +0 bit for bit. */
static void check_zeros(const problem *p, const layout *l, int64_t row, const results *r) {
    const expected zero = {0, 0};
    for (int64_t c = 0; c < p->classes; ++c) {
        const double got = real_at(r->grad, p->dtype, row * p->classes + c);
        if (got != 0 || signbit(got))
            fail_at(p, l, "gradient of an ignored row is not +0", row, c, got, zero);
    }
}

static void check_gradient(const problem *p, const layout *l, int64_t row, const expected_row *e,
                           const results *r) {
    const expected undefined = {NAN, 0};
    if (e->is_ignored) {
        check_zeros(p, l, row, r);
        return;
    }
    for (int64_t c = 0; c < p->classes; ++c) {
        const double got = real_at(r->grad, p->dtype, row * p->classes + c);
        if (!e->is_number)
            check_near(p, l, "gradient of a row without a softmax", row, c, got, undefined);
        else if (e->is_comparable)
            check_near(p, l, "gradient", row, c, got, e->grad[c]);
    }
}

static void check_row_numbers(const problem *p, const layout *l, int64_t row, const expected_row *e,
                              const results *r) {
    const expected undefined = {NAN, 0}, zero = {0, 0};
    const double loss = real_at(r->row_loss, p->dtype, row), lse = real_at(r->lse, p->dtype, row);
    if (e->is_ignored || !e->is_number) {
        check_near(p, l, "loss of a row that has none", row, -1, loss,
                   e->is_ignored ? zero : undefined);
        check_near(p, l, "lse of a row that has none", row, -1, lse, undefined);
        if (r->prediction[row] != -1)
            fail(p, l, "prediction of a row that has none");
    } else if (e->is_comparable) {
        check_near(p, l, "loss", row, -1, loss, e->loss);
        check_near(p, l, "lse", row, -1, lse, e->lse);
        if (r->prediction[row] != e->prediction)
            fail(p, l, "prediction");
    }
}

/* What a call returns is the sum of the losses it gave, before they were rounded to the dtype:
 * where one is infinite then, the sum need not be. */
static void check_sum(const problem *p, const layout *l, const results *r) {
    long double sum = 0, size = 0;
    for (int64_t row = 0; row < p->rows; ++row) {
        const long double loss = real_at(r->row_loss, p->dtype, row);
        sum += loss;
        size += fabsl(loss);
    }
    const int is_single = p->dtype == XENT_FLOAT32;
    const long double rounding = (is_single ? FLT_EPSILON : 0) + (long double)p->rows * DBL_EPSILON;
    const expected e = {sum, size * rounding + (is_single ? (long double)p->rows * 0x1p-149L : 0)};
    if (size <= DBL_MAX || isnan((double)size) || (!is_single && !isfinite(sum)))
        check_near(p, l, "sum of the losses", -1, -1, r->sum, e);
}

/* A row with a bad label, which the caller must not hand over, may have any result. */
static void check_against_oracle(const problem *p, const layout *l, const results *r) {
    static expected_row e;
    for (int64_t row = 0; row < p->rows; ++row) {
        if (is_bad_label(p, row))
            continue;
        expect_row(p, row, &e);
        check_gradient(p, l, row, &e, r);
        if (p->family == ROW_KERNELS)
            check_row_numbers(p, l, row, &e, r);
    }
    if (p->family == ROW_KERNELS)
        check_sum(p, l, r);
}

/* --- one layout against another --------------------------------------------------------------- */

/* Ends the program where `count` numbers a row differ, bad labels left out.  Which NaN it is the
 * processor may choose. */
static void check_numbers(const problem *p, const layout *l, const char *what, const char *a,
                          const char *b, int64_t count) {
    const int item = item_size(p->dtype);
    for (int64_t k = 0; k < p->rows * count; ++k) {
        const double first = real_at(a, p->dtype, k), second = real_at(b, p->dtype, k);
        if (memcmp(a + k * item, b + k * item, (size_t)item) == 0 ||
            (isnan(first) && isnan(second)) || is_bad_label(p, k / count))
            continue;
        fprintf(stderr, "row %" PRId64 ", number %" PRId64 ": %.17g and %.17g\n", k / count,
                k % count, first, second);
        fail(p, l, what);
    }
}

/* What remains of a gradient in the storage of another layout: rounded once. */
static const char *as_stored(const problem *p, const layout *l, const char *grad) {
    static char stored[MOST_LOGITS * 2], rounded[MOST_LOGITS * 8];
    if (l->grad_storage == XENT_AS_COMPUTED)
        return grad;
    narrow(l->isa, l->grad_storage, grad, p->rows * p->classes, stored);
    widen(l->isa, l->grad_storage, stored, p->rows * p->classes, rounded);
    return rounded;
}

static void check_same_bits(const problem *p, const layout l[2], const results *a,
                            const results *b) {
    if (l[1].with_grad)
        check_numbers(p, l, "gradients of two layouts differ", as_stored(p, &l[1], a->grad),
                      b->grad, p->classes);
    if (p->family != ROW_KERNELS)
        return;
    if (l[1].with_row_loss)
        check_numbers(p, l, "losses of two layouts differ", a->row_loss, b->row_loss, 1);
    if (!l[1].with_statistics)
        return;
    check_numbers(p, l, "lse of two layouts differ", a->lse, b->lse, 1);
    for (int64_t row = 0; row < p->rows; ++row)
        if (a->prediction[row] != b->prediction[row] && !is_bad_label(p, row))
            fail(p, l, "predictions of two layouts differ");
}

/* --- labels ----------------------------------------------------------------------------------- */

static void check_labels(const problem *p, const layout *l, const results *r) {
    int64_t expected_count = 0, bad = -1;
    for (int64_t row = p->rows - 1; row >= 0; --row) {
        bad = is_bad_label(p, row) ? row : bad;
        expected_count += !is_ignored_row(p, row);
    }
    if (r->first_bad != bad)
        fail(p, l, "first bad label");
    if (bad < 0 && r->counted != expected_count)
        fail(p, l, "number of rows that count");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static problem p;
    static results r[2];
    layout l[2];
    choices c = {data, data + size};
    take_case(&c, &p, l);
    for (int k = 0; k < 2; ++k) {
        const char *spoilt = compute(&p, &l[k], &r[k]);
        if (spoilt) {
            fprintf(stderr, "layout %d: %s\n", k, spoilt);
            fail(&p, l, "written where nothing may be");
        }
        if (p.family == ROW_KERNELS && p.has_labels)
            check_labels(&p, l, &r[k]);
    }
    check_against_oracle(&p, l, &r[0]);
    check_same_bits(&p, l, &r[0], &r[1]);
    return 0;
}
