"""Matrices that kernels do not take as they lie: some rows at a time in memory of a thread's own.

They lie in 16 bits and become float32, or have their classes apart and get them side by side.

Knows: where a batch has its matrices, how numbers are widened and rounded.
Must not know: which function it is of, threads, NumPy.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport (
    XENT_AS_COMPUTED,
    xent_batch,
    xent_storage,
    xent_storage_kernels,
)


cdef enum:
    # Rows and classes that are turned together: a cache line of float32 each way.
    TILE = 16


ctypedef fused real:
    float
    double


cdef void describe_stored(
    StoredMatrices *stored,
    const xent_batch *batch,
    size_t batch_bytes,
    const Groups *groups,
    xent_storage logits,
    xent_storage grad,
    xent_storage targets,
) noexcept nogil:
    """How the matrices of a batch lie in memory, of a function's batch those that all begin with.

    Such a batch has no factors of its rows, until they are noted.
    """
    cdef StoredMatrix *matrix
    stored.batch_bytes = batch_bytes
    stored.count = 0
    stored.are_needed = False
    stored.are_turned = False
    stored.row_factor = 0
    stored.row_factor_step = 0
    matrix = note_matrix(
        stored, batch, &batch.logits, &batch.logits_row_stride, &batch.logits_class_stride, logits,
        groups.real_bytes
    )
    matrix.group_stride = groups.logits_stride
    matrix.is_read = True
    if batch.grad != NULL:
        matrix = note_matrix(
            stored, batch, &batch.grad, &batch.grad_row_stride, &batch.grad_class_stride, grad,
            groups.real_bytes
        )
        matrix.group_stride = groups.grad_stride
        matrix.is_written = matrix.takes_first_place = True
    if batch.dense_targets != NULL:
        matrix = note_matrix(
            stored, batch, &batch.dense_targets, &batch.dense_targets_row_stride,
            &batch.dense_targets_class_stride, targets, groups.real_bytes
        )
        matrix.group_stride = groups.targets_stride
        matrix.is_read = True


cdef StoredMatrix *note_matrix(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    xent_storage storage,
    size_t real_bytes,
) noexcept nogil:
    """Where a batch has a matrix; a batch without strides of its classes names its rows'."""
    cdef StoredMatrix *matrix = &stored.matrices[stored.count]
    stored.count += 1
    if storage != XENT_AS_COMPUTED:
        stored.are_needed = True
    matrix.storage = storage
    matrix.real_bytes = real_bytes
    matrix.apart = 0
    matrix.address = <const char *>address - <const char *>batch
    matrix.row_stride = <const char *>row_stride - <const char *>batch
    matrix.class_stride = <const char *>class_stride - <const char *>batch
    matrix.group_stride = 0
    matrix.is_read = False
    matrix.is_written = False
    matrix.takes_first_place = False
    return matrix


cdef void lay_side_by_side(
    StoredMatrices *stored, xent_batch *batch, bint has_groups
) noexcept nogil:
    """Of all matrices noted so far, for kernels that take no strides of classes, nor groups."""
    cdef StoredMatrix *matrix
    cdef Py_ssize_t apart
    cdef int number
    stored.are_needed = stored.are_needed or has_groups
    for number in range(stored.count):
        matrix = &stored.matrices[number]
        apart = class_stride_of(matrix, batch)
        if apart != 0:
            lay_apart(stored, matrix, apart)
            set_stride(batch, matrix.class_stride, 0)


cdef void lay_apart(StoredMatrices *stored, StoredMatrix *matrix, Py_ssize_t apart) noexcept nogil:
    """Where the batch has no stride for its classes: they are so many bytes apart."""
    matrix.apart = apart
    stored.are_needed = stored.are_turned = True


cdef size_t own_bytes(
    const StoredMatrices *stored, const void *batch, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """Memory for as many rows of each matrix that kernels do not take as it lies."""
    cdef const StoredMatrix *matrix
    cdef size_t bytes = 0
    cdef int number
    for number in range(stored.count):
        matrix = &stored.matrices[number]
        if has_own_place(stored, batch, number):
            bytes += own_count(matrix, batch, chunk_rows, classes) * matrix.real_bytes
    return bytes


cdef inline bint is_moved(const StoredMatrix *matrix) noexcept nogil:
    return matrix.storage != XENT_AS_COMPUTED or matrix.apart != 0


cdef inline bint has_own_place(
    const StoredMatrices *stored, const void *batch, int number
) noexcept nogil:
    """A result takes the place of what it was made from, if both lie in the same way."""
    cdef const StoredMatrix *matrix = &stored.matrices[number]
    cdef const StoredMatrix *first = &stored.matrices[0]
    if not is_moved(matrix):
        return False
    if not matrix.takes_first_place or not is_moved(first):
        return True
    return (class_stride_of(matrix, batch) == 0) != (class_stride_of(first, batch) == 0)


cdef inline Py_ssize_t stride_at(const void *batch, size_t place) noexcept nogil:
    return (<const Py_ssize_t *>(<const char *>batch + place))[0]


cdef inline Py_ssize_t class_stride_of(
    const StoredMatrix *matrix, const void *batch
) noexcept nogil:
    if matrix.class_stride == matrix.row_stride:
        return 0
    return stride_at(batch, matrix.class_stride)


cdef inline int64_t own_step(
    const StoredMatrix *matrix, const void *batch, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """From one row to the next or, where classes lie apart, from one class to the next.

    Those are an odd number of cache lines, so that the classes of some rows do not meet in a cache.
    """
    if class_stride_of(matrix, batch) == 0:
        return classes
    return ((chunk_rows + 15) // 16 | 1) * 16


cdef inline int64_t own_count(
    const StoredMatrix *matrix, const void *batch, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """Numbers of some rows, so many that the next matrix is aligned."""
    cdef int64_t lines = chunk_rows if class_stride_of(matrix, batch) == 0 else classes
    return (lines * own_step(matrix, batch, chunk_rows, classes) + 15) // 16 * 16


cdef void place_rows(
    const StoredMatrices *stored,
    const void *batch,
    void *copy,
    int64_t group,
    int64_t first_row,
    int64_t row_count,
    int64_t classes,
    char *memory,
) noexcept nogil:
    """Make the matrices of a copy of the batch begin at that row, or in `memory`."""
    cdef const StoredMatrix *matrix
    cdef char *first_place = memory
    cdef char **address
    cdef Py_ssize_t step
    cdef int number
    for number in range(stored.count):
        matrix = &stored.matrices[number]
        address = <char **>(<char *>copy + matrix.address)
        if not is_moved(matrix):
            address[0] = stored_place(matrix, batch, group, first_row)
            continue
        if has_own_place(stored, batch, number):
            address[0] = memory
            memory += own_count(matrix, batch, row_count, classes) * matrix.real_bytes
        else:
            address[0] = first_place
        step = own_step(matrix, batch, row_count, classes) * matrix.real_bytes
        if class_stride_of(matrix, batch) == 0:
            set_stride(copy, matrix.row_stride, step)
        else:
            set_stride(copy, matrix.row_stride, matrix.real_bytes)
            set_stride(copy, matrix.class_stride, step)


cdef void advance_factors(const StoredMatrices *stored, void *copy, int64_t rows) noexcept nogil:
    """Make the doubles of a batch's rows begin that many rows later."""
    cdef const double **factor = <const double **>(<char *>copy + stored.row_factor)
    if stored.row_factor != 0 and factor[0] != NULL:
        factor[0] += rows * (<const int64_t *>(<char *>copy + stored.row_factor_step))[0]


cdef void move_rows(
    const StoredMatrices *stored,
    const void *batch,
    const void *copy,
    Direction direction,
    const xent_storage_kernels *kernels_of_all,
    int64_t group,
    int64_t first_row,
    int64_t row_count,
    int64_t classes,
) noexcept nogil:
    """Bring what is read from its place in the batch, or the results to theirs."""
    cdef const xent_storage_kernels *kernels
    cdef const StoredMatrix *matrix
    cdef float *numbers
    cdef char *place
    cdef Py_ssize_t stored_step
    cdef int64_t step, lines, count
    cdef int number
    for number in range(stored.count):
        matrix = &stored.matrices[number]
        if not is_moved(matrix):
            continue
        if not (matrix.is_read if direction == LOAD else matrix.is_written):
            continue
        place = stored_place(matrix, batch, group, first_row)
        numbers = (<float **>(<const char *>copy + matrix.address))[0]
        kernels = &kernels_of_all[<int>matrix.storage]
        if matrix.apart != 0:
            turn_rows(matrix, kernels, direction, place, numbers, row_count, classes)
            continue
        stored_step = class_stride_of(matrix, batch)
        step = stride_at(copy, matrix.row_stride if stored_step == 0 else matrix.class_stride)
        step //= <Py_ssize_t>sizeof(float)
        lines, count = classes, row_count
        if stored_step == 0:
            stored_step = stride_at(batch, matrix.row_stride)
            lines, count = row_count, classes
        if direction == LOAD:
            kernels.load(place, stored_step, lines, count, numbers, step)
        else:
            kernels.store(numbers, step, lines, count, place, stored_step)


cdef void turn_rows(
    const StoredMatrix *matrix,
    const xent_storage_kernels *kernels,
    Direction direction,
    char *place,
    void *numbers,
    int64_t row_count,
    int64_t classes,
) noexcept nogil:
    """The same where classes lie apart and rows side by side: a tile of both at a time."""
    cdef float tile[TILE * TILE]
    cdef Py_ssize_t stored_bytes = matrix.real_bytes
    cdef bint is_narrow = matrix.storage != XENT_AS_COMPUTED
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
            corner = place + k * matrix.apart + row * stored_bytes
            if not is_narrow and matrix.real_bytes == sizeof(double):
                turn_tile(
                    direction, <double *>corner, matrix.apart // <Py_ssize_t>sizeof(double),
                    <double *>numbers + row * classes + k, classes, rows, count
                )
            elif not is_narrow:
                turn_tile(
                    direction, <float *>corner, matrix.apart // <Py_ssize_t>sizeof(float),
                    <float *>numbers + row * classes + k, classes, rows, count
                )
            elif direction == LOAD:
                kernels.load(corner, matrix.apart, count, rows, tile, TILE)
                turn_tile(
                    LOAD, tile, TILE, <float *>numbers + row * classes + k, classes, rows, count
                )
            else:
                turn_tile(
                    STORE, tile, TILE, <float *>numbers + row * classes + k, classes, rows, count
                )
                kernels.store(tile, TILE, count, rows, corner, matrix.apart)


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


cdef inline char *stored_place(
    const StoredMatrix *matrix, const void *batch, int64_t group, int64_t first_row
) noexcept nogil:
    """Where the matrix has its number of that row and of class 0."""
    cdef char *first = (<char **>(<const char *>batch + matrix.address))[0]
    return first + (
        group * matrix.group_stride + first_row * stride_at(batch, matrix.row_stride)
    )


cdef inline void set_stride(void *batch, size_t place, Py_ssize_t stride) noexcept nogil:
    (<Py_ssize_t *>(<char *>batch + place))[0] = stride
