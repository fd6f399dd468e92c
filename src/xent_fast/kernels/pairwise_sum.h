/* Sums of doubles whose error does not grow with their number.
 *
 * Knows: how numbers of a column are added, in an order that their count alone decides.
 * Must not know: what they are.
 *
 * A run is added as a tree, halves onto halves: n numbers take log2(n) roundings each.  Runs are
 * added with compensation (Knuth's two-sum), which leaves one rounding for all of them.
 */
#ifndef XENT_FAST_PAIRWISE_SUM_H
#define XENT_FAST_PAIRWISE_SUM_H

#include <stdint.h>

/* Sum of `count` numbers, which it overwrites; 0 of none. */
static inline double xent_pairwise_sum(double *restrict values, int64_t count) {
    if (count <= 0)
        return 0;
    while (count > 1) {
        const int64_t kept = (count + 1) / 2;
        double *restrict upper = values + kept;
        for (int64_t k = 0; k < count / 2; ++k)
            values[k] += upper[k];
        count = kept;
    }
    return values[0];
}

/* A sum and what its roundings dropped. */
typedef struct {
    double sum, error;
} xent_running_sum;

static inline void xent_add_to_sum(xent_running_sum *total, double value) {
    const double sum = total->sum + value, value_rounded = sum - total->sum;
    total->error += (total->sum - (sum - value_rounded)) + (value - value_rounded);
    total->sum = sum;
}

/* Beside an infinite sum, or none, the error is inf - inf and does not count. */
static inline double xent_sum_total(const xent_running_sum *total) {
    return total->sum - total->sum == 0 ? total->sum + total->error : total->sum;
}

#endif
