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

#if HAS_PAIRS && REAL_BITS == 32
/* Two classes of 16 bits side by side turn as one number of 32 bits would, that many of them at a
 * time. */
enum { MOST_PAIRS = 8 };

/* The pairs that turn at a time, of FEWEST_STORED classes or more: the first class of the next
 * *count pairs is *first, where `done` classes are behind; the last pairs may overlap those before
 * them.  Returns how many classes are behind then. */
VECTOR_INLINE int64_t next_pairs(int64_t done, int64_t classes, int64_t *first, int *count) {
    const int64_t left = classes - done;
    *count =
        left >= 2 * MOST_PAIRS || (left > MOST_PAIRS && done > 0) ? MOST_PAIRS : MOST_PAIRS / 2;
    *first = left < 2 * *count ? classes - 2 * *count : done;
    return *first + 2 * *count;
}

/* A whole vector of rows to columns, and back. */
VECTOR_INLINE void turn_pairs_to_columns(float (*columns)[LANES], const char *source,
                                         ptrdiff_t row_stride, int64_t classes, int storage) {
    ALIGNED_64 float square[MOST_PAIRS][LANES];
    int count;
    for (int64_t done = 0, behind = 0, first; done < classes; behind = done) {
        done = next_pairs(behind, classes, &first, &count);
        v_load_transposed(NAME(stored_at)(source, first, storage), row_stride, count, square);
        for (int64_t j = (behind - first) / 2; j < count; ++j) {
            vec one, other;
            split_pairs(v_load(square[j]), &one, &other, storage);
            v_store(columns[first + 2 * j], one);
            v_store(columns[first + 2 * j + 1], other);
        }
    }
}

VECTOR_INLINE void turn_pairs_to_rows(float (*columns)[LANES], char *destination,
                                      ptrdiff_t row_stride, int64_t classes, int storage) {
    ALIGNED_64 float pairs[MOST_CLASSES_ALONG_ROWS / 2][LANES];
    int count;
    for (int64_t done = 0, behind = 0, first; done < classes; behind = done) {
        done = next_pairs(behind, classes, &first, &count);
        float (*square)[LANES] = pairs + first / 2;
        /* pairs that overlap others by one class are made again */
        for (int64_t j = first % 2 ? 0 : (behind - first) / 2; j < count; ++j) {
            const float (*two)[LANES] = (const float (*)[LANES])columns + first + 2 * j;
            v_store(square[j], join_pairs(v_load(two[0]), v_load(two[1]), storage));
        }
        v_store_transposed(square, destination + first * (int64_t)sizeof(uint16_t), row_stride,
                           count);
    }
}

/* Columns of FEWEST_STORED classes or more that lie in 16 bits, and back. */
VECTOR_INLINE void load_16_bit_columns(float (*columns)[LANES], const char *source,
                                       ptrdiff_t row_stride, ptrdiff_t class_stride, int row_count,
                                       int64_t classes, int storage) {
    ALIGNED_64 float few[MOST_CLASSES_ALONG_ROWS];
    if (class_stride) {
        for (int64_t k = 0; k < classes; ++k)
            v_store(columns[k],
                    NAME(load_first_stored)(source + k * class_stride, 0, row_count, 0, storage));
        return;
    }
    if (row_count == LANES) {
        turn_pairs_to_columns(columns, source, row_stride, classes, storage);
        return;
    }
    for (int64_t k = 0; k < classes; ++k)
        v_store(columns[k], v_splat(0));
    for (int row = 0; row < row_count; ++row) {
        NAME(widen)(source + row * row_stride, classes, few, storage);
        for (int64_t k = 0; k < classes; ++k)
            columns[k][row] = few[k];
    }
}

VECTOR_INLINE void store_16_bit_columns(float (*columns)[LANES], char *destination,
                                        ptrdiff_t row_stride, ptrdiff_t class_stride, int row_count,
                                        int64_t classes, int storage) {
    ALIGNED_64 float few[MOST_CLASSES_ALONG_ROWS];
    if (class_stride) {
        for (int64_t k = 0; k < classes; ++k)
            NAME(store_first_stored)(destination + k * class_stride, 0, row_count,
                                     v_load(columns[k]), storage);
        return;
    }
    if (row_count == LANES) {
        turn_pairs_to_rows(columns, destination, row_stride, classes, storage);
        return;
    }
    for (int row = 0; row < row_count; ++row) {
        for (int64_t k = 0; k < classes; ++k)
            few[k] = columns[k][row];
        NAME(narrow)(few, classes, destination + row * row_stride, storage);
    }
}

static NEVER_INLINE void load_stored_columns(float (*columns)[LANES], const char *source,
                                             ptrdiff_t row_stride, ptrdiff_t class_stride,
                                             int row_count, int64_t classes, int storage) {
    WITH_STORAGE(storage, load_16_bit_columns(columns, source, row_stride, class_stride, row_count,
                                              classes, kept));
}

static NEVER_INLINE void store_stored_columns(float (*columns)[LANES], char *destination,
                                              ptrdiff_t row_stride, ptrdiff_t class_stride,
                                              int row_count, int64_t classes, int storage) {
    WITH_STORAGE(storage, store_16_bit_columns(columns, destination, row_stride, class_stride,
                                               row_count, classes, kept));
}
#else
#define load_stored_columns(...)
#define store_stored_columns(...)
#endif

/* Whether so many classes may lie in 16 bits; fewer are taken in by others faster. */
KERNEL_INLINE int NAME(has_stored_columns)(int64_t classes) {
    return HAS_PAIRS && REAL_BITS == 32 && classes >= FEWEST_STORED;
}

/* Columns of a vector of rows, `row_count` of which are there, and back. */
KERNEL_INLINE void NAME(load_columns)(REAL (*columns)[LANES], const char *source,
                                      ptrdiff_t row_stride, ptrdiff_t class_stride, int row_count,
                                      int classes, xent_storage storage) {
    if (NAME(has_stored_columns)(classes) && storage != XENT_AS_COMPUTED) {
        load_stored_columns(columns, source, row_stride, class_stride, row_count, classes,
                            (int)storage);
        return;
    }
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
                                       int classes, xent_storage storage) {
    if (NAME(has_stored_columns)(classes) && storage != XENT_AS_COMPUTED) {
        store_stored_columns(columns, destination, row_stride, class_stride, row_count, classes,
                             (int)storage);
        return;
    }
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
