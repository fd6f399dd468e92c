/* Reading and checking labels: see labels.h. */
#include "labels.h"

#include "pairwise_sum.h"

#include <string.h>

/* A contiguous column has a loop of its own, which compilers turn into vectors. */
#define READ_AS(c_type)                                                \
    if (stride == (ptrdiff_t)sizeof(c_type)) {                         \
        for (int64_t row = 0; row < count; ++row) {                    \
            c_type label;                                              \
            memcpy(&label, source + row * sizeof label, sizeof label); \
            destination[row] = (int64_t)label;                         \
        }                                                              \
    } else {                                                           \
        for (int64_t row = 0; row < count; ++row) {                    \
            c_type label;                                              \
            memcpy(&label, source + row * stride, sizeof label);       \
            destination[row] = (int64_t)label;                         \
        }                                                              \
    }                                                                  \
    break

void xent_read_labels(const xent_labels *labels, int64_t first_row, int64_t count,
                      int64_t *destination) {
    XENT_ASSERT(first_row >= 0 && count >= 1);
    XENT_ASSERT(labels->type <= XENT_UINT64);
    if (!labels->data) {
        memset(destination, 0, (size_t)count * sizeof *destination);
        return;
    }
    const ptrdiff_t stride = labels->stride;
    const char *source = labels->data + first_row * stride;
    if (stride == 0 && count > 1) {
        xent_read_labels(labels, first_row, 1, destination);
        for (int64_t row = 1; row < count; ++row)
            destination[row] = destination[0];
        return;
    }
    switch (labels->type) {
    case XENT_INT8:
        READ_AS(int8_t);
    case XENT_INT16:
        READ_AS(int16_t);
    case XENT_INT32:
        READ_AS(int32_t);
    case XENT_INT64:
        if (stride == (ptrdiff_t)sizeof(int64_t)) {
            memcpy(destination, source, (size_t)count * sizeof(int64_t));
            break;
        }
        READ_AS(int64_t);
    case XENT_UINT8:
        READ_AS(uint8_t);
    case XENT_UINT16:
        READ_AS(uint16_t);
    case XENT_UINT32:
        READ_AS(uint32_t);
    case XENT_UINT64:
        for (int64_t row = 0; row < count; ++row, source += stride) {
            uint64_t label;
            memcpy(&label, source, sizeof label);
            destination[row] = label > INT64_MAX ? XENT_LABEL_UNREPRESENTABLE : (int64_t)label;
        }
        break;
    }
}

enum { ROWS_AT_ONCE = 256 };

/* Position of the first bad label of a buffer, or -1. */
static int64_t first_bad_label(const xent_labels *labels, const int64_t *buffer, int64_t count,
                               int64_t classes) {
    for (int64_t row = 0; row < count; ++row) {
        int ignored = labels->has_ignore_index && buffer[row] == labels->ignore_index;
        if ((uint64_t)buffer[row] >= (uint64_t)classes && !ignored)
            return row;
    }
    return -1;
}

static double class_weight_at(const char *weights, xent_dtype dtype, int64_t label) {
    return dtype == XENT_FLOAT32 ? ((const float *)(const void *)weights)[label]
                                 : ((const double *)(const void *)weights)[label];
}

int64_t xent_check_labels(const xent_labels *labels, int64_t rows, int64_t classes,
                          const double *sample_weight, const char *class_weight, xent_dtype dtype,
                          int64_t *counted_rows, double *weight_sum) {
    XENT_ASSERT(labels->data && rows >= 0 && classes >= 1);
    int64_t read[ROWS_AT_ONCE];
    const int64_t *buffer = read;
    const int lie_as_read = labels->type == XENT_INT64 &&
                            labels->stride == (ptrdiff_t)sizeof(int64_t) &&
                            (uintptr_t)labels->data % sizeof(int64_t) == 0;
    double products[ROWS_AT_ONCE];
    xent_running_sum total = {*weight_sum, 0};
    for (int64_t first = 0; first < rows; first += ROWS_AT_ONCE) {
        int64_t count = rows - first < ROWS_AT_ONCE ? rows - first : ROWS_AT_ONCE;
        if (lie_as_read && !(sample_weight || class_weight)) {
            /* nothing but their signs is asked */
            buffer = (const int64_t *)(const void *)labels->data + first;
        } else {
            xent_read_labels(labels, first, count, read);
        }
        int64_t ignored = 0;
        /* negative where a label, or what is left from it to the last class, is */
        uint64_t signs = 0;
        for (int64_t row = 0; row < count; ++row)
            signs |= (uint64_t)buffer[row] | ((uint64_t)(classes - 1) - (uint64_t)buffer[row]);
        if (labels->has_ignore_index)
            for (int64_t row = 0; row < count; ++row)
                ignored += buffer[row] == labels->ignore_index;
        if (signs >> 63) {
            int64_t bad = first_bad_label(labels, buffer, count, classes);
            if (bad >= 0)
                return first + bad;
        }
        *counted_rows += count - ignored;
        if (!sample_weight && !class_weight)
            continue;
        for (int64_t row = 0; row < count; ++row) {
            products[row] = 0;
            if (!(labels->has_ignore_index && buffer[row] == labels->ignore_index))
                products[row] =
                    (sample_weight ? sample_weight[first + row] : 1) *
                    (class_weight ? class_weight_at(class_weight, dtype, buffer[row]) : 1);
        }
        xent_add_to_sum(&total, xent_pairwise_sum(products, count));
    }
    *weight_sum = xent_sum_total(&total);
    return -1;
}

double xent_sum_of(const double *values, int64_t count) {
    double some[ROWS_AT_ONCE];
    xent_running_sum total = {0, 0};
    for (int64_t first = 0; first < count; first += ROWS_AT_ONCE) {
        const int64_t left = count - first < ROWS_AT_ONCE ? count - first : ROWS_AT_ONCE;
        memcpy(some, values + first, (size_t)left * sizeof *some);
        xent_add_to_sum(&total, xent_pairwise_sum(some, left));
    }
    return xent_sum_total(&total);
}
