"""Matrices that kernels do not take as they lie: some rows at a time in memory of a thread's own.

They lie in 16 bits and become float32, or have their classes apart and get them side by side.

Knows: where a batch has its matrices, how numbers are widened and rounded.
Must not know: which function it is of, threads, NumPy.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport (
    XENT_AS_COMPUTED,
    xent_batch,
    xent_group_of,
    xent_matrix,
    xent_row,
    xent_storage_kernels,
)


cdef enum:
    # Rows and classes that are turned together: a cache line of float32 each way.
    TILE = 16


ctypedef fused real:
    float
    double


cdef void describe_stored(
    StoredMatrices *stored, const xent_batch *batch, size_t batch_bytes, size_t real_bytes
) noexcept nogil:
    """The matrices of a batch, of a function's batch those that all begin with.

    Such a batch has no factors of its rows, until they are noted.
    """
    stored.batch_bytes = batch_bytes
    stored.real_bytes = real_bytes
    stored.side_by_side = False
    stored.count = 0
    stored.row_factor = 0
    stored.row_factor_step = 0
    note_matrix(stored, batch, &batch.logits, False)
    note_matrix(stored, batch, &batch.grad, True)
    note_matrix(stored, batch, &batch.dense_targets, False)


cdef void note_matrix(
    StoredMatrices *stored, const xent_batch *batch, const xent_matrix *matrix, bint is_result
) noexcept nogil:
    """Where a batch has a matrix, if it has one there."""
    if matrix.data == NULL:
        return
    stored.places[stored.count] = <const char *>matrix - <const char *>batch
    stored.are_results[stored.count] = is_result
    stored.count += 1


cdef inline xent_matrix *matrix_at(
    const StoredMatrices *stored, const void *batch, int number
) noexcept nogil:
    return <xent_matrix *>(<const char *>batch + stored.places[number])


cdef bint are_apart(const StoredMatrices *stored, const void *batch) noexcept nogil:
    """Whether some matrix has its classes apart."""
    cdef int number
    for number in range(stored.count):
        if matrix_at(stored, batch, number).class_stride != 0:
            return True
    return False


cdef bint take_as_kernels_do(const StoredMatrices *stored, void *copy) noexcept nogil:
    """Describe the matrices of a copy of the batch as the kernels take them: whether rows move."""
    cdef xent_matrix *matrix
    cdef bint are_moved = False
    cdef int number
    for number in range(stored.count):
        matrix = matrix_at(stored, copy, number)
        if matrix.storage != XENT_AS_COMPUTED:
            matrix.storage = XENT_AS_COMPUTED
            are_moved = True
        if stored.side_by_side and matrix.class_stride != 0:
            matrix.class_stride = 0
            are_moved = True
    return are_moved


cdef inline bint is_moved(const xent_matrix *matrix, const xent_matrix *taken) noexcept nogil:
    return matrix.storage != taken.storage or is_turned(matrix, taken)


cdef inline bint is_turned(const xent_matrix *matrix, const xent_matrix *taken) noexcept nogil:
    return matrix.class_stride != 0 and taken.class_stride == 0


cdef inline bint has_own_place(
    const StoredMatrices *stored, const void *batch, const void *taken, int number
) noexcept nogil:
    """The gradient takes the place of the logits that it was made from, if both are taken alike."""
    cdef const xent_matrix *matrix = matrix_at(stored, taken, number)
    cdef const xent_matrix *logits = &(<const xent_batch *>taken).logits
    if not is_moved(matrix_at(stored, batch, number), matrix):
        return False
    if matrix != &(<const xent_batch *>taken).grad:
        return True
    if not is_moved(&(<const xent_batch *>batch).logits, logits):
        return True
    return (matrix.class_stride == 0) != (logits.class_stride == 0)


cdef size_t own_bytes(
    const StoredMatrices *stored,
    const void *batch,
    const void *taken,
    int64_t chunk_rows,
    int64_t classes,
) noexcept nogil:
    """Memory for as many rows of each matrix that kernels do not take as it lies."""
    cdef size_t bytes = 0
    cdef int number
    for number in range(stored.count):
        if has_own_place(stored, batch, taken, number):
            bytes += own_count(matrix_at(stored, taken, number), chunk_rows, classes)
    return bytes * stored.real_bytes


cdef inline int64_t own_step(
    const xent_matrix *taken, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """From one row to the next or, where classes lie apart, from one class to the next.

    Those are an odd number of cache lines, so that the classes of some rows do not meet in a cache.
    """
    if taken.class_stride == 0:
        return classes
    return ((chunk_rows + 15) // 16 | 1) * 16


cdef inline int64_t own_count(
    const xent_matrix *taken, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """Numbers of some rows, so many that the next matrix is aligned."""
    cdef int64_t lines = chunk_rows if taken.class_stride == 0 else classes
    return (lines * own_step(taken, chunk_rows, classes) + 15) // 16 * 16


cdef void place_rows(
    const StoredMatrices *stored,
    const void *batch,
    void *taken,
    int64_t group,
    int64_t first_row,
    int64_t row_count,
    int64_t classes,
    char *memory,
) noexcept nogil:
    """Make the matrices of a copy of the batch begin at that row, or in `memory`."""
    cdef const xent_matrix *lying
    cdef xent_matrix *matrix
    cdef char *first_place = memory
    cdef Py_ssize_t step
    cdef int number
    for number in range(stored.count):
        lying = matrix_at(stored, batch, number)
        matrix = matrix_at(stored, taken, number)
        if not is_moved(lying, matrix):
            matrix.data = row_of_group(lying, group, first_row)
            continue
        matrix.data = first_place
        if has_own_place(stored, batch, taken, number):
            matrix.data = memory
            memory += own_count(matrix, row_count, classes) * stored.real_bytes
        step = own_step(matrix, row_count, classes) * stored.real_bytes
        if matrix.class_stride == 0:
            matrix.row_stride = step
        else:
            matrix.row_stride = stored.real_bytes
            matrix.class_stride = step


cdef void advance_factors(const StoredMatrices *stored, void *copy, int64_t rows) noexcept nogil:
    """Make the doubles of a batch's rows begin that many rows later."""
    cdef const double **factor = <const double **>(<char *>copy + stored.row_factor)
    if stored.row_factor != 0 and factor[0] != NULL:
        factor[0] += rows * (<const int64_t *>(<char *>copy + stored.row_factor_step))[0]


cdef void move_rows(
    const StoredMatrices *stored,
    const void *batch,
    const void *taken,
    Direction direction,
    const xent_storage_kernels *kernels_of_all,
    int64_t group,
    int64_t first_row,
    int64_t row_count,
    int64_t classes,
) noexcept nogil:
    """Bring what is read from its place in the batch, or the results to theirs."""
    cdef const xent_storage_kernels *kernels
    cdef const xent_matrix *lying
    cdef const xent_matrix *matrix
    cdef char *place
    cdef Py_ssize_t stored_step
    cdef int64_t step, lines, count
    cdef int number
    for number in range(stored.count):
        lying = matrix_at(stored, batch, number)
        matrix = matrix_at(stored, taken, number)
        if not is_moved(lying, matrix) or stored.are_results[number] != (direction == STORE):
            continue
        place = row_of_group(lying, group, first_row)
        kernels = &kernels_of_all[<int>lying.storage]
        if is_turned(lying, matrix):
            turn_rows(
                lying, kernels, direction, place, matrix.data, stored.real_bytes, row_count, classes
            )
            continue
        lines, count, stored_step, step = row_count, classes, lying.row_stride, matrix.row_stride
        if lying.class_stride != 0:
            lines, count = classes, row_count
            stored_step, step = lying.class_stride, matrix.class_stride
        step //= <Py_ssize_t>sizeof(float)
        if direction == LOAD:
            kernels.load(place, stored_step, lines, count, <float *>matrix.data, step)
        else:
            kernels.store(<float *>matrix.data, step, lines, count, place, stored_step)


cdef void turn_rows(
    const xent_matrix *lying,
    const xent_storage_kernels *kernels,
    Direction direction,
    char *place,
    void *numbers,
    size_t real_bytes,
    int64_t row_count,
    int64_t classes,
) noexcept nogil:
    """The same where classes lie apart and rows side by side: a tile of both at a time."""
    cdef float tile[TILE * TILE]
    cdef Py_ssize_t stored_bytes = real_bytes, apart = lying.class_stride
    cdef bint is_narrow = lying.storage != XENT_AS_COMPUTED
    cdef int64_t tile_of_classes, tile_of_rows, row, k, rows, count
    cdef char *corner
    if is_narrow:
        stored_bytes = 2
    for tile_of_classes in range((classes + TILE - 1) // TILE):
        k = tile_of_classes * TILE
        count = min(classes - k, <int64_t>TILE)
        for tile_of_rows in range((row_count + TILE - 1) // TILE):
            row = tile_of_rows * TILE
            rows = min(row_count - row, <int64_t>TILE)
            corner = place + k * apart + row * stored_bytes
            if not is_narrow and real_bytes == sizeof(double):
                turn_tile(
                    direction, <double *>corner, apart // <Py_ssize_t>sizeof(double),
                    <double *>numbers + row * classes + k, classes, rows, count
                )
            elif not is_narrow:
                turn_tile(
                    direction, <float *>corner, apart // <Py_ssize_t>sizeof(float),
                    <float *>numbers + row * classes + k, classes, rows, count
                )
            elif direction == LOAD:
                kernels.load(corner, apart, count, rows, tile, TILE)
                turn_tile(
                    LOAD, tile, TILE, <float *>numbers + row * classes + k, classes, rows, count
                )
            else:
                turn_tile(
                    STORE, tile, TILE, <float *>numbers + row * classes + k, classes, rows, count
                )
                kernels.store(tile, TILE, count, rows, corner, apart)


cdef inline void turn_tile(
    Direction direction,
    real *apart,
    Py_ssize_t class_step,
    real *side_by_side,
    int64_t row_step,
    int64_t rows,
    int64_t classes,
) noexcept nogil:
    """From classes `class_step` numbers apart to rows `row_step` numbers apart, or back."""
    cdef int64_t row, k
    if direction == LOAD:
        for row in range(rows):
            for k in range(classes):
                side_by_side[row * row_step + k] = apart[k * class_step + row]
    else:
        for k in range(classes):
            for row in range(rows):
                apart[k * class_step + row] = side_by_side[row * row_step + k]


cdef inline char *row_of_group(
    const xent_matrix *lying, int64_t group, int64_t first_row
) noexcept nogil:
    """Where the matrix has its number of that row and of class 0."""
    cdef xent_matrix rows = xent_group_of(lying, group)
    return xent_row(&rows, first_row)
