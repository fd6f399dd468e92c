/* The formulas, class by class: see oracle.h. */
#include "oracle.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Every bound is a count of roundings times the dtype's unit in the last place. */
enum { ROUNDINGS = 12 };

static long double unit_of(xent_dtype dtype) {
    return dtype == XENT_FLOAT32 ? FLT_EPSILON : DBL_EPSILON;
}
static long double smallest(xent_dtype dtype) {
    return dtype == XENT_FLOAT32 ? 0x1p-149L : 0x1p-1074L;
}

/* Numbers beyond these would overflow, or lose digits to subnormal numbers, when a few of them are
 * multiplied. */
static int is_moderate(long double a) {
    return a == 0 || (fabsl(a) >= 0x1p-24L && fabsl(a) <= 0x1p24L);
}
static int is_far_from_overflow(xent_dtype dtype, long double a) {
    return fabsl(a) <= (dtype == XENT_FLOAT32 ? FLT_MAX : DBL_MAX) * 0x1p-60L;
}

/* --- one row of logits ------------------------------------------------------------------------ */

typedef struct {
    long double x[MOST_CLASSES], q[MOST_CLASSES]; /* logits as given; mass for the row weight 1 */
    long double exponentials[MOST_CLASSES];       /* relative to the maximum */
    long double maximum, others, log_sum; /* S = 1 + others relative to the maximum; log S */
    int64_t largest;
} softmax_row;

/* Whether there is a maximum: no NaN, no +inf, not all -inf. */
static int find_maximum(int64_t classes, softmax_row *s) {
    int has_nan = 0;
    s->largest = 0;
    for (int64_t c = 0; c < classes; ++c) {
        has_nan |= isnan(s->x[c]);
        if (s->x[c] > s->x[s->largest])
            s->largest = c;
    }
    s->maximum = s->x[s->largest];
    return !has_nan && isfinite(s->maximum);
}

static void add_exponentials(const problem *p, softmax_row *s) {
    s->others = 0;
    for (int64_t c = 0; c < p->classes; ++c) {
        s->exponentials[c] = expl((s->x[c] - s->maximum) / p->temperature);
        s->others += c == s->largest ? 0 : s->exponentials[c];
    }
    s->log_sum = log1pl(s->others);
}

/* lse - x / T */
static long double cost(const softmax_row *s, int64_t c, long double temperature) {
    return (s->maximum - s->x[c]) / temperature + s->log_sum;
}

/* --- masses and weights ----------------------------------------------------------------------- */

static long double class_weight(const problem *p, int64_t c) {
    return p->has_class_weight ? real_at(p->class_weight, p->dtype, c) : 1;
}

static long double target(const problem *p, int64_t row, int64_t c) {
    if (p->has_labels)
        return label_at(p, row) == c;
    return real_at(p->targets, p->dtype, (p->shares_targets ? 0 : row) * p->classes + c);
}

static void find_masses(const problem *p, int64_t row, softmax_row *s) {
    const long double share = 1 - (long double)p->label_smoothing,
                      floor = (long double)p->label_smoothing / p->classes;
    for (int64_t c = 0; c < p->classes; ++c)
        s->q[c] = class_weight(p, c) * (share * target(p, row, c) + floor);
}

static long double row_weight(const problem *p, int64_t row) {
    return (p->has_sample_weight ? (long double)p->sample_weight[row] : 1) *
           (long double)p->weight_factor;
}

/* Whether the bounds hold: see oracle.h. */
static int is_comparable(const problem *p, int64_t row, const softmax_row *s) {
    const long double t = p->temperature, weight = row_weight(p, row);
    int comparable =
        t >= 0x1p-10L && t <= 0x1p10L && is_moderate(weight) && is_moderate(p->label_smoothing) &&
        is_moderate(1 - (long double)p->label_smoothing) && is_moderate(p->z_loss) &&
        is_far_from_overflow(p->dtype, s->maximum / t * (p->z_loss == 0 ? 1 : s->maximum / t));
    for (int64_t c = 0; c < p->classes; ++c) {
        const long double x = s->x[c], distance = isinf(x) ? 0 : (s->maximum - x) / t;
        comparable &= is_moderate(class_weight(p, c)) && is_moderate(target(p, row, c));
        comparable &= is_far_from_overflow(p->dtype, distance) &&
                      (isinf(x) || is_far_from_overflow(p->dtype, x));
    }
    return comparable;
}

/* --- loss and gradient ------------------------------------------------------------------------ */

/* With index targets lse may be made of the loss and x_y, where x_y is not further below the
 * maximum than this. */
static long double detour(const problem *p, int64_t row, const softmax_row *s) {
    const long double furthest = p->dtype == XENT_FLOAT32 ? 64 : 391;
    if (p->kind != XENT_INDEX_TARGETS)
        return 0;
    return fminl(furthest, (s->maximum - s->x[label_at(p, row)]) / p->temperature);
}

static void expect_lse(const problem *p, int64_t row, const softmax_row *s, expected_row *e) {
    const long double at_maximum = s->maximum / p->temperature,
                      size = fabsl(at_maximum) + s->log_sum;
    e->lse.value = at_maximum + s->log_sum;
    e->lse.bound =
        unit_of(p->dtype) * (ROUNDINGS * size + 2 * detour(p, row, s)) + smallest(p->dtype);
    e->prediction = s->largest;
}

/* sum q (lse - x) + z lse^2, times the row's weight; 0 * inf = 0 */
static void expect_loss(const problem *p, const softmax_row *s, long double weight,
                        expected_row *e) {
    const long double z = p->z_loss;
    long double loss = z * e->lse.value * e->lse.value, size = fabsl(loss), masses = 0;
    for (int64_t c = 0; c < p->classes; ++c) {
        if (s->q[c] == 0)
            continue;
        loss += s->q[c] * cost(s, c, p->temperature);
        size += fabsl(s->q[c] * cost(s, c, p->temperature));
        masses += fabsl(s->q[c]); /* a logarithm that is subnormal is multiplied by them */
    }
    const long double of_lse = 2 * fabsl(z * e->lse.value) * e->lse.bound;
    e->loss.value = weight == 0 ? 0 : weight * loss;
    e->loss.bound = weight == 0 ? 0
                    : isinf(loss)
                        ? 0
                        : fabsl(weight) * (unit_of(p->dtype) * ROUNDINGS * size + of_lse) +
                              smallest(p->dtype) * (4 + fabsl(weight) * (4 + masses));
}

/* ((Q + 2 z lse) p - q) a / T.  At the class of all mass that is (2 z lse p - Q (1 - p)) a / T, and
 * small if 1 - p is. */
static void expect_gradient(const problem *p, const softmax_row *s, long double weight,
                            expected_row *e) {
    const long double slope = 2 * (long double)p->z_loss * e->lse.value,
                      scale = weight / p->temperature;
    const long double of_lse = 2 * fabsl((long double)p->z_loss) * e->lse.bound;
    const long double sum = 1 + s->others;
    long double mass = 0, size_of_mass = 0;
    for (int64_t c = 0; c < p->classes; ++c) {
        mass += s->q[c];
        size_of_mass += fabsl(s->q[c]);
    }
    /* a probability below the smallest number is 0 */
    const long double of_subnormals = 4 * smallest(p->dtype) * (1 + size_of_mass + fabsl(scale)) *
                                      (1 + fabsl(scale) * (size_of_mass + fabsl(slope)));
    for (int64_t c = 0; c < p->classes; ++c) {
        const long double probability = s->exponentials[c] / sum;
        const long double rest = c == s->largest ? s->others / sum : 1 - probability;
        const int has_all = p->has_labels && p->kind == XENT_INDEX_TARGETS && s->q[c] == mass;
        long double value = mass * probability - s->q[c],
                    size = size_of_mass * probability + fabsl(s->q[c]);
        if (has_all) {
            value = -mass * rest;
            size = size_of_mass * rest;
        }
        size += fabsl(slope) * probability;
        e->grad[c].value = scale * (value + slope * probability);
        e->grad[c].bound =
            fabsl(scale) * (unit_of(p->dtype) * ROUNDINGS * size + of_lse * probability) +
            of_subnormals;
    }
}

static void expect_probabilities(const problem *p, const softmax_row *s, expected_row *e) {
    for (int64_t c = 0; c < p->classes; ++c) {
        long double value = s->exponentials[c] / (1 + s->others);
        if (p->output == XENT_LOG_PROBABILITIES)
            value = -cost(s, c, p->temperature);
        e->grad[c].value = value;
        e->grad[c].bound =
            isinf(value) ? 0
                         : unit_of(p->dtype) * ROUNDINGS * fabsl(value) + 4 * smallest(p->dtype);
    }
}

static void expect_loss_row(const problem *p, int64_t row, expected_row *e) {
    static softmax_row s;
    e->is_ignored = is_ignored_row(p, row);
    e->is_comparable = 0;
    for (int64_t c = 0; c < p->classes; ++c)
        s.x[c] = real_at(p->logits, p->dtype, row * p->classes + c);
    e->is_number = find_maximum(p->classes, &s);
    if (e->is_ignored || !e->is_number || is_bad_label(p, row))
        return;
    e->is_comparable = is_comparable(p, row, &s);
    if (!e->is_comparable)
        return;
    add_exponentials(p, &s);
    find_masses(p, row, &s);
    expect_lse(p, row, &s, e);
    expect_loss(p, &s, row_weight(p, row), e);
    if (p->output == XENT_GRADIENT)
        expect_gradient(p, &s, row_weight(p, row), e);
    else
        expect_probabilities(p, &s, e);
}

/* --- backward passes -------------------------------------------------------------------------- */

/* softmax: p (dp - sum p dp); log_softmax: dl - exp(l) sum dl */
static void expect_vjp_row(const problem *p, int64_t row, expected_row *e) {
    const int of_logarithm = p->family == LOG_SOFTMAX_VJP;
    const long double unit = unit_of(p->dtype),
                      of_sum = p->dtype == XENT_FLOAT32 ? 0x1p-50L : 0x1p-60L;
    long double sum = 0, size = 0;
    e->is_ignored = 0;
    e->is_number = 1;
    e->is_comparable = 1;
    for (int64_t c = 0; c < p->classes; ++c) {
        const long double value = real_at(p->logits, p->dtype, row * p->classes + c),
                          slope = target(p, row, c);
        const long double summand = of_logarithm ? slope : value * slope;
        e->is_comparable &=
            fabsl(value) <= (of_logarithm ? 60 : 0x1p24L) && (slope == 0 || is_moderate(slope));
        sum += summand;
        size += fabsl(summand);
    }
    for (int64_t c = 0; c < p->classes; ++c) {
        const long double value = real_at(p->logits, p->dtype, row * p->classes + c),
                          slope = target(p, row, c);
        const long double factor = of_logarithm ? expl(value) : value;
        const long double product = of_logarithm ? factor * sum : factor * (slope - sum);
        e->grad[c].value = of_logarithm ? slope - product : product;
        e->grad[c].bound = unit * ROUNDINGS * (fabsl(product) + (of_logarithm ? fabsl(slope) : 0)) +
                           of_sum * fabsl(factor) * size + smallest(p->dtype) * (4 + fabsl(factor));
    }
}

void expect_row(const problem *p, int64_t row, expected_row *e) {
    if (p->family == ROW_KERNELS)
        expect_loss_row(p, row, e);
    else
        expect_vjp_row(p, row, e);
}
