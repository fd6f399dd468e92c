/* Second derivatives of a few classes: what a vector of rows writes besides its gradient.  A
 * template over REAL_BITS.
 *
 * Knows: the diagonal of the loss's Hessian and its product with a vector, lanes along rows; which
 * rows need more (double_rows.h).
 * Must not know: instruction sets, threads, Python; how exponentials are made.
 *
 * Each lane is a row with exponentials e, their sum S, and w = a Q / T^2, which a factor of the
 * diagonal is part of:
 *
 *     p = e / S      diagonal   w p (1 - p)      1 - p is the sum of the others where p > 1/2
 *                   product    w p (u - sum p u)       u = v - v_m, m the likeliest class
 *
 * Every e is a normal number, or 0 where its class does not show beside a w below LARGEST_HERE,
 * which leaves room for the u of a product; so no digits are lost before the last product.
 *
 * Classes are added in four rows, or the even and the odd ones, FEW_TERMS classes at a time, so
 * that no sum is of more than some tens of numbers one after the other.
 */
#undef LARGEST_HERE
#undef SMALLEST_HERE
#define LARGEST_HERE (VISIBLE_FACTOR / 32)
#define SMALLEST_HERE (1 / (double)LARGEST_FACTOR)

#ifndef FEW_TERMS
#define FEW_TERMS 32
#endif

/* What is written of the rows of a chunk. */
typedef struct {
    const xent_batch *batch; /* the loss, its weight_factor times that of the diagonal */
    int kind;                /* of its targets */
    int64_t first_row;
    int has_own_weights; /* else all rows have the first vector's */
    /* w; infinite for rows that leave the lanes */
    ALIGNED_64 REAL weights[XENT_MAX_ROWS_PER_CALL + LANES];
    xent_matrix vector; /* none: the diagonal */
    xent_matrix result;
    REAL least; /* what smaller numbers of a diagonal become */
} curvature_writer;

/* A vector of rows after their exponentials. */
typedef struct {
    REAL (*exponentials)[LANES]; /* NaN for rows without a softmax */
    int classes, row_count;
    int64_t first_row;
    vec labels; /* -1 for rows that do not count */
    const int64_t *label_values;
    vec total, exp_of_maximum;
} curved_rows;

/* w as the lanes take it. */
KERNEL_INLINE REAL curvature_weight(double weight) {
    return fabs(weight) < SMALLEST_HERE && weight != 0 ? (REAL)INFINITY : (REAL)weight;
}

/* The sum of each lane's exponentials but for the one above half of all, of FEW_TERMS classes at
 * most. */
KERNEL_INLINE vec some_small_exponentials(REAL (*exponentials)[LANES], int64_t classes, vec half) {
    vec even = v_splat(0), odd = v_splat(0);
    int64_t k = 0;
    for (; k + 2 <= classes; k += 2) {
        const vec e = v_load(exponentials[k]), next = v_load(exponentials[k + 1]);
        even = v_add(even, v_drop(v_greater(e, half), e));
        odd = v_add(odd, v_drop(v_greater(next, half), next));
    }
    if (k < classes) {
        const vec e = v_load(exponentials[k]);
        even = v_add(even, v_drop(v_greater(e, half), e));
    }
    return v_add(even, odd);
}

/* Of all of them. */
KERNEL_INLINE vec small_exponentials(REAL (*exponentials)[LANES], int classes, vec half) {
    vec sum = v_splat(0);
    for (int64_t k = 0; k < classes; k += FEW_TERMS)
        sum = v_add(sum, some_small_exponentials(exponentials + k,
                                                 classes - k < FEW_TERMS ? classes - k : FEW_TERMS,
                                                 half));
    return sum;
}

/* `ahead` is how far behind the destination the next rows' begins: so many planes are more than a
 * processor looks after.  Only the largest class, at least half of all, may be likely. */
KERNEL_INLINE void diagonal_columns(const curved_rows *rows, vec weight, vec least,
                                    char *destination, ptrdiff_t step, ptrdiff_t ahead) {
    const vec one = v_splat(1), half = v_mul(v_splat((REAL)0.5), rows->total),
              inverse = v_div(one, rows->total);
    const vec factor = v_mul(weight, inverse), p_of_maximum = v_mul(rows->exp_of_maximum, inverse);
    vec of_likely = one;
    if (v_mask_bits(v_greater(rows->exp_of_maximum, half))) {
        const vec others = small_exponentials(rows->exponentials, rows->classes, half);
        of_likely = v_max(least, v_mul(v_mul(others, factor), p_of_maximum));
    }
    for (int64_t k = 0; k < rows->classes; ++k) {
        const vec e = v_load(rows->exponentials[k]), rest = v_sub(one, v_mul(e, inverse));
        if (ahead)
            PREFETCH(destination + k * step + ahead);
        v_store(
            (REAL *)(void *)(destination + k * step),
            v_select(v_greater(e, half), of_likely, v_max(least, v_mul(v_mul(e, factor), rest))));
    }
}

/* v - v_m in place of v; returns the largest of their sizes, at least 1, and in `sum` that of e
 * u. */
KERNEL_INLINE vec centre_columns(const curved_rows *rows, REAL (*vector)[LANES], vec *sum) {
    vec sums[4], of_likeliest = v_splat(0), largest = v_splat(1), total = v_splat(0);
    for (int64_t k = 0; k < rows->classes; ++k)
        of_likeliest = v_select(v_equal(v_load(rows->exponentials[k]), rows->exp_of_maximum),
                                v_load(vector[k]), of_likeliest);
    for (int64_t first = 0; first < rows->classes; first += FEW_TERMS) {
        for (int j = 0; j < 4; ++j)
            sums[j] = v_splat(0);
        for (int64_t k = first; k < rows->classes && k < first + FEW_TERMS; ++k) {
            const vec u = v_sub(v_load(vector[k]), of_likeliest);
            v_store(vector[k], u);
            largest = v_max(magnitude_of(u), largest);
            sums[k & 3] = v_fma(v_load(rows->exponentials[k]), u, sums[k & 3]);
        }
        total = v_add(total, sum_of_four(sums));
    }
    *sum = total;
    return largest;
}

/* Where u = 0, as the likeliest class has it, the mean is not rounded to a p that may be a
 * subnormal number. */
KERNEL_INLINE void product_columns(const curved_rows *rows, REAL (*vector)[LANES], vec weight,
                                   vec sum, char *destination, ptrdiff_t step) {
    const vec zero = v_splat(0), inverse = v_div(v_splat(1), rows->total),
              factor = v_mul(weight, inverse);
    const vec mean = v_mul(sum, inverse), scaled_mean = v_sub(zero, v_mul(sum, factor));
    for (int64_t k = 0; k < rows->classes; ++k) {
        const vec e = v_load(rows->exponentials[k]), u = v_load(vector[k]);
        const vec product = v_mul(v_mul(e, factor), v_sub(u, mean));
        v_store((REAL *)(void *)(destination + k * step),
                v_select(v_equal(u, zero), v_mul(scaled_mean, v_mul(e, inverse)), product));
    }
}

/* Lanes whose weights, of the size given, the lanes' type cannot hold, or which make a class
 * visible whose exponential is 0. `largest` is that of |u|. */
static NEVER_INLINE unsigned leaving_curvature(const curved_rows *rows, vec weight, vec largest) {
    const vec zero = v_splat(0), size = v_mul(largest, weight),
              first = v_load(rows->exponentials[0]);
    const unsigned is_large = v_mask_bits(v_not_less(size, v_splat(LARGEST_HERE)));
    unsigned leaving = v_mask_bits(v_not_less(size, v_splat(LARGEST_FACTOR)));
    for (int64_t k = 0; k < rows->classes; ++k)
        leaving |= is_large & v_mask_bits(v_equal(v_load(rows->exponentials[k]), zero));
    leaving &= v_mask_bits(v_equal(first, first)) & v_mask_bits(v_not_less(rows->labels, zero));
    return leaving & v_mask_bits(v_greater(v_splat(INFINITY), largest));
}

/* Those of them that leave, as columns. */
static NEVER_INLINE void take_leaving_curvature(const curvature_writer *writer,
                                                const curved_rows *rows, unsigned leaving,
                                                REAL (*columns)[LANES]) {
    REAL result[MOST_CLASSES_ALONG_ROWS];
    for (int lane = 0; lane < rows->row_count; ++lane) {
        const int64_t row = rows->first_row + lane;
        const char *vector = writer->vector.data ? xent_row(&writer->vector, row) : NULL;
        if (!(leaving >> lane & 1))
            continue;
        curvature_of_far_row(writer->batch, row,
                             clamped_label(rows->label_values[lane], rows->classes), writer->kind,
                             (const REAL *)(const void *)vector, result);
        for (int64_t k = 0; k < rows->classes; ++k)
            columns[k][lane] = vector || result[k] > writer->least || result[k] != result[k]
                                   ? result[k]
                                   : writer->least;
    }
}

/* Diagonal or product of a vector of rows. */
KERNEL_INLINE void write_curvature(const curvature_writer *writer, const curved_rows *rows) {
    ALIGNED_64 REAL columns[MOST_CLASSES_ALONG_ROWS][LANES];
    XENT_ASSERT(rows->first_row >= writer->first_row &&
                rows->first_row - writer->first_row < XENT_MAX_ROWS_PER_CALL);
    char *result = xent_row(&writer->result, rows->first_row), *destination = (char *)columns;
    const int is_direct = lies_in_columns(&writer->result) && rows->row_count == LANES;
    const REAL *weights =
        writer->weights + (writer->has_own_weights ? rows->first_row - writer->first_row : 0);
    const vec weight = v_keep(v_not_less(rows->labels, v_splat(0)), v_load(weights));
    ptrdiff_t step = (ptrdiff_t)sizeof columns[0], ahead = 0;
    const vec size = magnitude_of(weight);
    vec largest = v_splat(1), sum = largest;
    unsigned leaving = 0;
    if (writer->vector.data) {
        load_columns(columns, contiguous(writer->vector), rows->first_row, rows->row_count,
                     rows->classes);
        clear_rows_without_label(columns, rows->classes, rows->labels);
        largest = centre_columns(rows, columns, &sum);
    }
    if (v_mask_bits(v_not_less(v_mul(largest, size), v_splat(LARGEST_HERE))))
        leaving = leaving_curvature(rows, size, largest);
    if (is_direct && !leaving) {
        destination = result;
        step = writer->result.class_stride;
        ahead = 4 * LANES * (ptrdiff_t)sizeof(REAL);
    }
    if (writer->vector.data)
        product_columns(rows, columns, weight, sum, destination, step);
    else
        diagonal_columns(rows, weight, v_splat(writer->least), destination, step, ahead);
    if (destination == result)
        return;
    if (leaving)
        take_leaving_curvature(writer, rows, leaving, columns);
    store_columns(columns, writer->result, rows->first_row, rows->row_count, rows->classes);
}
