/* Sixteen (float64: eight) rows of a few classes side by side: a small tile that turns rows into
 * columns and back. A template over REAL_BITS.
 *
 * Knows: how rows and planes lie in memory, in which storage.
 * Must not know: instruction sets, what is computed.
 */
#undef SET_PERIOD
#undef SET_LINES
#undef load_stored_columns
#undef store_stored_columns

/* Lines of memory this many bytes apart share a set of that many places in the nearest cache of
 * usual processors; those four times as far apart do in the next one too. */
#define SET_PERIOD 4096
#define SET_LINES 8

#ifndef FEWEST_STORED
#define FEWEST_STORED 8
#endif

/* Column k holds class k of every row. */
typedef struct {
    ALIGNED_64 REAL
        columns[MOST_CLASSES_ALONG_ROWS][LANES]; /* logits, then exponentials, then results */
    ALIGNED_64 REAL masses[MOST_CLASSES_ALONG_ROWS][LANES]; /* q for a row weight of 1 */
} row_tile;

/* Rows to columns, number by number; rows that are not there become zeros. */
static NEVER_INLINE void load_some_rows(REAL (*columns)[LANES], const char *source,
                                        ptrdiff_t row_stride, int row_count, int classes) {
    for (int k = 0; k < classes; ++k)
        v_store(columns[k], v_splat(0));
    for (int row = 0; row < row_count; ++row) {
        const REAL *values = (const REAL *)(const void *)(source + row * row_stride);
        for (int k = 0; k < classes; ++k)
            columns[k][row] = values[k];
    }
}

/* Columns to rows, number by number. */
static NEVER_INLINE void store_some_rows(REAL (*columns)[LANES], char *destination,
                                         ptrdiff_t row_stride, int row_count, int classes) {
    for (int row = 0; row < row_count; ++row) {
        REAL *values = (REAL *)(void *)(destination + row * row_stride);
        for (int k = 0; k < classes; ++k)
            values[k] = columns[k][row];
    }
}

/* The squares of `width` columns, and of half as many, that make up `classes`: the next begins at
 * *first, where `done` are behind; the last may overlap the one before it.  Returns how many
 * columns it has. */
VECTOR_INLINE int next_square(int64_t done, int64_t classes, int width, int64_t *first) {
    const int64_t left = classes - done;
    const int count = left >= width || (left > width / 2 && done > 0) ? width : width / 2;
    *first = left < count ? classes - count : done;
    return count;
}

/* A whole vector of rows to columns, and back. */
KERNEL_INLINE void turn_to_columns(REAL (*columns)[LANES], const char *source, ptrdiff_t row_stride,
                                   int classes) {
    if (classes < TRANSPOSE_WIDTH / 2) {
        v_load_transposed(source, row_stride, classes, columns);
        return;
    }
    for (int64_t done = 0, first; done < classes;) {
        const int count = next_square(done, classes, TRANSPOSE_WIDTH, &first);
        const char *square = source + first * (ptrdiff_t)sizeof(REAL);
        if (count == TRANSPOSE_WIDTH)
            v_load_transposed(square, row_stride, TRANSPOSE_WIDTH, columns + first);
        else
            v_load_transposed(square, row_stride, TRANSPOSE_WIDTH / 2, columns + first);
        done = first + count;
    }
}

KERNEL_INLINE void turn_to_rows(REAL (*columns)[LANES], char *destination, ptrdiff_t row_stride,
                                int classes) {
    if (classes < TRANSPOSE_WIDTH / 2) {
        v_store_transposed(columns, destination, row_stride, classes);
        return;
    }
    for (int64_t done = 0, first; done < classes;) {
        const int count = next_square(done, classes, TRANSPOSE_WIDTH, &first);
        char *square = destination + first * (ptrdiff_t)sizeof(REAL);
        if (count == TRANSPOSE_WIDTH)
            v_store_transposed(columns + first, square, row_stride, TRANSPOSE_WIDTH);
        else
            v_store_transposed(columns + first, square, row_stride, TRANSPOSE_WIDTH / 2);
        done = first + count;
    }
}

/* The same where their number is not a constant: inlined, they would be a tenth of all machine
 * code. */
static NEVER_INLINE void turn_any_to_columns(REAL (*columns)[LANES], const char *source,
                                             ptrdiff_t row_stride, int classes) {
    turn_to_columns(columns, source, row_stride, classes);
}

static NEVER_INLINE void turn_any_to_rows(REAL (*columns)[LANES], char *destination,
                                          ptrdiff_t row_stride, int classes) {
    turn_to_rows(columns, destination, row_stride, classes);
}

/* Whether classes lie apart and rows side by side. */
KERNEL_INLINE int lies_in_columns(const xent_matrix *matrix) {
    return matrix->class_stride != 0 && matrix->class_stride != (ptrdiff_t)sizeof(REAL);
}

/* Columns that lie in memory as such.  Those of later rows are asked for: they are further apart
 * than a processor looks by itself. */
KERNEL_INLINE void load_lying_columns(REAL (*columns)[LANES], const char *source,
                                      ptrdiff_t class_stride, int row_count, int classes) {
    for (int k = 0; k < classes; ++k) {
        const REAL *column = (const REAL *)(const void *)(source + k * class_stride);
        PREFETCH(column + 2 * LANES);
        v_store(columns[k],
                row_count == LANES ? v_load(column) : v_load_first(column, row_count, 0));
    }
}

/* Copies `count` numbers, at most a vector of them, in two steps that may overlap. */
KERNEL_INLINE void copy_some(REAL *destination, const REAL *source, int count) {
    enum { HALF = LANES / 2, QUARTER = LANES / 4 };
    if (count >= HALF) {
        memcpy(destination, source, HALF * sizeof(REAL));
        memcpy(destination + count - HALF, source + count - HALF, HALF * sizeof(REAL));
    } else if (count >= QUARTER) {
        memcpy(destination, source, QUARTER * sizeof(REAL));
        memcpy(destination + count - QUARTER, source + count - QUARTER, QUARTER * sizeof(REAL));
    } else {
        for (int k = 0; k < count; ++k)
            destination[k] = source[k];
    }
}

KERNEL_INLINE void store_lying_columns(REAL (*columns)[LANES], char *destination,
                                       ptrdiff_t class_stride, int row_count, int classes) {
    for (int k = 0; k < classes; ++k) {
        REAL *column = (REAL *)(void *)(destination + k * class_stride);
        if (row_count == LANES)
            v_store(column, v_load(columns[k]));
        else
            copy_some(column, columns[k], row_count);
    }
}

#if HAS_PAIRS && REAL_BITS == 32
/* A whole vector of rows of FEWEST_STORED classes or more to columns, and back: two classes of 16
 * bits side by side turn as one number of 32 bits would. */
VECTOR_INLINE void turn_pairs_to_columns(float (*columns)[LANES], const char *source,
                                         ptrdiff_t row_stride, int64_t classes, int storage) {
    ALIGNED_64 float pairs[TRANSPOSE_WIDTH][LANES];
    for (int64_t done = 0, first; done < classes;) {
        const int count = next_square(done, classes, 2 * TRANSPOSE_WIDTH, &first);
        const char *square = stored_at(source, first, storage);
        if (count == 2 * TRANSPOSE_WIDTH)
            v_load_transposed(square, row_stride, TRANSPOSE_WIDTH, pairs);
        else
            v_load_transposed(square, row_stride, TRANSPOSE_WIDTH / 2, pairs);
        for (int64_t k = (done - first) / 2 * 2; k < count; k += 2) {
            vec one, other;
            split_pairs(v_load(pairs[k / 2]), &one, &other, storage);
            v_store(columns[first + k], one);
            v_store(columns[first + k + 1], other);
        }
        done = first + count;
    }
}

VECTOR_INLINE void turn_pairs_to_rows(float (*columns)[LANES], char *destination,
                                      ptrdiff_t row_stride, int64_t classes, int storage) {
    ALIGNED_64 float pairs[MOST_CLASSES_ALONG_ROWS / 2][LANES];
    for (int64_t done = 0, first; done < classes;) {
        const int count = next_square(done, classes, 2 * TRANSPOSE_WIDTH, &first);
        char *square = destination + first * (int64_t)sizeof(uint16_t);
        /* pairs that overlap others by one class are made again */
        for (int64_t k = first % 2 ? first : done; k < first + count; k += 2)
            v_store(pairs[k / 2], join_pairs(v_load(columns[k]), v_load(columns[k + 1]), storage));
        if (count == 2 * TRANSPOSE_WIDTH)
            v_store_transposed(pairs + first / 2, square, row_stride, TRANSPOSE_WIDTH);
        else
            v_store_transposed(pairs + first / 2, square, row_stride, TRANSPOSE_WIDTH / 2);
        done = first + count;
    }
}

/* Columns of FEWEST_STORED classes or more that lie in 16 bits, and back. */
VECTOR_INLINE void load_16_bit_columns(float (*columns)[LANES], const char *source,
                                       ptrdiff_t row_stride, int row_count, int64_t classes,
                                       int storage) {
    ALIGNED_64 float few[MOST_CLASSES_ALONG_ROWS];
    if (row_count == LANES) {
        turn_pairs_to_columns(columns, source, row_stride, classes, storage);
        return;
    }
    for (int64_t k = 0; k < classes; ++k)
        v_store(columns[k], v_splat(0));
    for (int row = 0; row < row_count; ++row) {
        widen(source + row * row_stride, classes, few, storage);
        for (int64_t k = 0; k < classes; ++k)
            columns[k][row] = few[k];
    }
}

VECTOR_INLINE void store_16_bit_columns(float (*columns)[LANES], char *destination,
                                        ptrdiff_t row_stride, int row_count, int64_t classes,
                                        int storage) {
    ALIGNED_64 float few[MOST_CLASSES_ALONG_ROWS];
    if (row_count == LANES) {
        turn_pairs_to_rows(columns, destination, row_stride, classes, storage);
        return;
    }
    for (int row = 0; row < row_count; ++row) {
        for (int64_t k = 0; k < classes; ++k)
            few[k] = columns[k][row];
        narrow(few, classes, destination + row * row_stride, storage);
    }
}

static NEVER_INLINE void load_stored_columns(float (*columns)[LANES], const char *source,
                                             ptrdiff_t row_stride, int row_count, int64_t classes,
                                             int storage) {
    WITH_STORAGE(storage,
                 load_16_bit_columns(columns, source, row_stride, row_count, classes, kept));
}

static NEVER_INLINE void store_stored_columns(float (*columns)[LANES], char *destination,
                                              ptrdiff_t row_stride, int row_count, int64_t classes,
                                              int storage) {
    WITH_STORAGE(storage,
                 store_16_bit_columns(columns, destination, row_stride, row_count, classes, kept));
}
#else
#define load_stored_columns(...)
#define store_stored_columns(...)
#endif

/* Whether so many classes may lie in 16 bits; fewer are taken in by others faster. */
KERNEL_INLINE int has_stored_columns(int64_t classes) {
    return HAS_PAIRS && REAL_BITS == 32 && classes >= FEWEST_STORED;
}

/* The same matrix, of which whoever calls knows that its classes are contiguous. */
KERNEL_INLINE xent_matrix contiguous(xent_matrix matrix) {
    matrix.class_stride = 0;
    return matrix;
}

/* Columns of a vector of rows from `row` on, `row_count` of which are there, and back. */
KERNEL_INLINE void load_columns(REAL (*columns)[LANES], xent_matrix matrix, int64_t row,
                                int row_count, int classes) {
    const char *source = xent_row(&matrix, row);
    XENT_ASSERT(row_count >= 1 && row_count <= LANES);
    XENT_ASSERT(classes >= 1 && classes <= MOST_CLASSES_ALONG_ROWS);
    XENT_ASSERT(matrix.storage == XENT_AS_COMPUTED || has_stored_columns(classes));
    if (has_stored_columns(classes) && matrix.storage != XENT_AS_COMPUTED) {
        load_stored_columns(columns, source, matrix.row_stride, row_count, classes,
                            (int)matrix.storage);
        return;
    }
    if (lies_in_columns(&matrix)) {
        load_lying_columns(columns, source, matrix.class_stride, row_count, classes);
        return;
    }
    if (row_count < LANES) {
        load_some_rows(columns, source, matrix.row_stride, row_count, classes);
        return;
    }
    if (IS_CONSTANT(classes))
        turn_to_columns(columns, source, matrix.row_stride, classes);
    else
        turn_any_to_columns(columns, source, matrix.row_stride, classes);
}

KERNEL_INLINE void store_columns(REAL (*columns)[LANES], xent_matrix matrix, int64_t row,
                                 int row_count, int classes) {
    char *destination = xent_row(&matrix, row);
    XENT_ASSERT(row_count >= 1 && row_count <= LANES);
    XENT_ASSERT(classes >= 1 && classes <= MOST_CLASSES_ALONG_ROWS);
    XENT_ASSERT(matrix.storage == XENT_AS_COMPUTED || has_stored_columns(classes));
    if (has_stored_columns(classes) && matrix.storage != XENT_AS_COMPUTED) {
        store_stored_columns(columns, destination, matrix.row_stride, row_count, classes,
                             (int)matrix.storage);
        return;
    }
    if (lies_in_columns(&matrix)) {
        store_lying_columns(columns, destination, matrix.class_stride, row_count, classes);
        return;
    }
    if (row_count < LANES) {
        store_some_rows(columns, destination, matrix.row_stride, row_count, classes);
        return;
    }
    if (IS_CONSTANT(classes))
        turn_to_rows(columns, destination, matrix.row_stride, classes);
    else
        turn_any_to_rows(columns, destination, matrix.row_stride, classes);
}

/* Rows of the first vector: all of it or, where so many classes lie so far apart that their lines
 * push each other out of the cache, those before the next line, so that each vector takes one line
 * of a class's logits instead of parts of two. */
KERNEL_INLINE int rows_of_first_vector(const xent_batch *batch, int64_t first_row) {
    const char *first = xent_row(&batch->logits, first_row);
    if (!lies_in_columns(&batch->logits) || batch->logits.class_stride % SET_PERIOD != 0 ||
        batch->classes <= SET_LINES)
        return LANES;
    return LANES - (int)((uintptr_t)first / sizeof(REAL) % LANES);
}
