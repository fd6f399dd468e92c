/* Sixteen (float64: eight) rows of a few classes side by side: a small tile that turns rows into
 * columns and back. A template over REAL_BITS.
 *
 * Knows: how rows and planes lie in memory.
 * Must not know: instruction sets, what is computed.
 */
#undef SET_PERIOD
#undef SET_LINES

/* Lines of memory this many bytes apart share a set of that many places in the nearest cache of
 * usual processors; those four times as far apart do in the next one too. */
#define SET_PERIOD 4096
#define SET_LINES 8

/* Column k holds class k of every row. */
typedef struct {
    ALIGNED_64 REAL
        columns[MOST_CLASSES_ALONG_ROWS][LANES]; /* logits, then exponentials, then results */
    ALIGNED_64 REAL masses[MOST_CLASSES_ALONG_ROWS][LANES]; /* q for a row weight of 1 */
} NAME(tile);

/* Rows to columns, number by number; rows that are not there become zeros. */
static NEVER_INLINE void NAME(load_some_rows)(REAL (*columns)[LANES], const char *source,
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
static NEVER_INLINE void NAME(store_some_rows)(REAL (*columns)[LANES], char *destination,
                                               ptrdiff_t row_stride, int row_count, int classes) {
    for (int row = 0; row < row_count; ++row) {
        REAL *values = (REAL *)(void *)(destination + row * row_stride);
        for (int k = 0; k < classes; ++k)
            values[k] = columns[k][row];
    }
}

/* The squares and half squares of columns that make up `classes`: the next begins at *first, *count
 * columns wide, where `done` are behind; the last may overlap the one before it.  Returns how many
 * are behind then. */
KERNEL_INLINE int64_t NAME(next_square)(int64_t done, int classes, int64_t *first, int *count) {
    const int64_t left = classes - done;
    if (left >= TRANSPOSE_WIDTH || (left > TRANSPOSE_WIDTH / 2 && done > 0))
        *count = TRANSPOSE_WIDTH;
    else
        *count = classes < TRANSPOSE_WIDTH / 2 ? classes : TRANSPOSE_WIDTH / 2;
    *first = left < *count ? classes - *count : done;
    return *first + *count;
}

/* A whole vector of rows to columns, and back. */
KERNEL_INLINE void NAME(turn_to_columns)(REAL (*columns)[LANES], const char *source,
                                         ptrdiff_t row_stride, int classes) {
    int count;
    for (int64_t done = 0, first; done < classes;) {
        done = NAME(next_square)(done, classes, &first, &count);
        v_load_transposed(source + first * (ptrdiff_t)sizeof(REAL), row_stride, count,
                          columns + first);
    }
}

KERNEL_INLINE void NAME(turn_to_rows)(REAL (*columns)[LANES], char *destination,
                                      ptrdiff_t row_stride, int classes) {
    int count;
    for (int64_t done = 0, first; done < classes;) {
        done = NAME(next_square)(done, classes, &first, &count);
        v_store_transposed(columns + first, destination + first * (ptrdiff_t)sizeof(REAL),
                           row_stride, count);
    }
}

/* The same where their number is not a constant: inlined, they would be a tenth of all machine
 * code. */
static NEVER_INLINE void NAME(turn_any_to_columns)(REAL (*columns)[LANES], const char *source,
                                                   ptrdiff_t row_stride, int classes) {
    NAME(turn_to_columns)(columns, source, row_stride, classes);
}

static NEVER_INLINE void NAME(turn_any_to_rows)(REAL (*columns)[LANES], char *destination,
                                                ptrdiff_t row_stride, int classes) {
    NAME(turn_to_rows)(columns, destination, row_stride, classes);
}

/* Whether classes lie apart and rows side by side. */
KERNEL_INLINE int NAME(has_columns)(ptrdiff_t class_stride) {
    return class_stride != 0 && class_stride != (ptrdiff_t)sizeof(REAL);
}

/* Columns that lie in memory as such.  Those of later rows are asked for: they are further apart
 * than a processor looks by itself. */
KERNEL_INLINE void NAME(load_lying_columns)(REAL (*columns)[LANES], const char *source,
                                            ptrdiff_t class_stride, int row_count, int classes) {
    for (int k = 0; k < classes; ++k) {
        const REAL *column = (const REAL *)(const void *)(source + k * class_stride);
        PREFETCH(column + 2 * LANES);
        v_store(columns[k],
                row_count == LANES ? v_load(column) : v_load_first(column, row_count, 0));
    }
}

/* Copies `count` numbers, at most a vector of them, in two steps that may overlap. */
KERNEL_INLINE void NAME(copy_some)(REAL *destination, const REAL *source, int count) {
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

KERNEL_INLINE void NAME(store_lying_columns)(REAL (*columns)[LANES], char *destination,
                                             ptrdiff_t class_stride, int row_count, int classes) {
    for (int k = 0; k < classes; ++k) {
        REAL *column = (REAL *)(void *)(destination + k * class_stride);
        if (row_count == LANES)
            v_store(column, v_load(columns[k]));
        else
            NAME(copy_some)(column, columns[k], row_count);
    }
}

KERNEL_INLINE void NAME(load_columns)(REAL (*columns)[LANES], const char *source,
                                      ptrdiff_t row_stride, ptrdiff_t class_stride, int row_count,
                                      int classes) {
    if (NAME(has_columns)(class_stride)) {
        NAME(load_lying_columns)(columns, source, class_stride, row_count, classes);
        return;
    }
    if (row_count < LANES) {
        NAME(load_some_rows)(columns, source, row_stride, row_count, classes);
        return;
    }
    if (IS_CONSTANT(classes))
        NAME(turn_to_columns)(columns, source, row_stride, classes);
    else
        NAME(turn_any_to_columns)(columns, source, row_stride, classes);
}

KERNEL_INLINE void NAME(store_columns)(REAL (*columns)[LANES], char *destination,
                                       ptrdiff_t row_stride, ptrdiff_t class_stride, int row_count,
                                       int classes) {
    if (NAME(has_columns)(class_stride)) {
        NAME(store_lying_columns)(columns, destination, class_stride, row_count, classes);
        return;
    }
    if (row_count < LANES) {
        NAME(store_some_rows)(columns, destination, row_stride, row_count, classes);
        return;
    }
    if (IS_CONSTANT(classes))
        NAME(turn_to_rows)(columns, destination, row_stride, classes);
    else
        NAME(turn_any_to_rows)(columns, destination, row_stride, classes);
}

/* Rows of the first vector: all of it or, where so many classes lie so far apart that their lines
 * push each other out of the cache, those before the next line, so that each vector takes one line
 * of a class's logits instead of parts of two. */
KERNEL_INLINE int NAME(rows_of_first_vector)(const xent_batch *batch, int64_t first_row) {
    const char *first = batch->logits + first_row * batch->logits_row_stride;
    if (!NAME(has_columns)(batch->logits_class_stride) ||
        batch->logits_class_stride % SET_PERIOD != 0 || batch->classes <= SET_LINES)
        return LANES;
    return LANES - (int)((uintptr_t)first / sizeof(REAL) % LANES);
}
