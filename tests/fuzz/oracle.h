/* The right results of one row in long double, straight from the formulas, and how far from them a
 * kernel may be.
 *
 * Knows: the formulas of the kernels' contract, the precision of the dtypes.
 * Must not know: how a kernel goes about it.
 */
#ifndef FUZZ_ORACLE_H
#define FUZZ_ORACLE_H

#include "problem.h"

/* A number and the distance from it that is allowed. */
typedef struct {
    long double value, bound;
} expected;

/* One row.  `is_comparable`: its numbers and all steps on the way are within the range in which the
 * bounds hold; the rest is known of every row. */
typedef struct {
    int is_ignored, is_number, is_comparable;
    expected loss, lse;
    int64_t prediction;
    expected grad[MOST_CLASSES];
} expected_row;

void expect_row(const problem *p, int64_t row, expected_row *e);

#endif
