/* Reading integer labels of any width, stride and alignment.
 *
 * Knows: how labels lie in memory.
 * Must not know: instruction sets, what a label is used for.
 */
#ifndef XENT_FAST_LABELS_H
#define XENT_FAST_LABELS_H

#include "contract.h"

/* What a label outside int64 (uint64 >= 2^63) reads as: below every class, so that it is an
 * error. */
#define XENT_LABEL_UNREPRESENTABLE INT64_MIN

/* Labels of rows [first_row, first_row + count) as int64; 0 where there are none. */
void xent_read_labels(const xent_labels *labels, int64_t first_row, int64_t count,
                      int64_t *destination);

/* Row of the first label that is neither in [0, classes) nor ignored, or -1.  Adds the number of
 * rows that are not ignored to *counted_rows and, if row or class weights are given (not NULL), the
 * sum of their products to *weight_sum. Class weights are of the dtype. */
int64_t xent_check_labels(const xent_labels *labels, int64_t rows, int64_t classes,
                          const double *sample_weight, const char *class_weight, xent_dtype dtype,
                          int64_t *counted_rows, double *weight_sum);

/* Sum of a column of weights. */
double xent_sum_of(const double *values, int64_t count);

#endif
