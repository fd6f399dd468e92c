"""Matrices of 16 bits: some of their rows at a time as float32, in memory of a thread's own.

Knows: where a batch has its matrices, how numbers are widened and rounded.
Must not know: which batch it is, threads, NumPy.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport XENT_AS_COMPUTED, xent_storage, xent_storage_kernels


cdef void begin_stored(StoredMatrices *stored, size_t batch_bytes) noexcept nogil:
    """Of a batch without factors of its rows, until they are noted."""
    stored.batch_bytes = batch_bytes
    stored.count = 0
    stored.in_16_bits = 0
    stored.row_factor = 0
    stored.row_factor_step = 0


cdef StoredMatrix *note_matrix(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    xent_storage storage,
) noexcept nogil:
    """Where a batch has a matrix; a batch without strides of its classes names its rows'."""
    cdef StoredMatrix *matrix = &stored.matrices[stored.count]
    stored.count += 1
    if storage != XENT_AS_COMPUTED:
        stored.in_16_bits += 1
    matrix.storage = storage
    matrix.address = <const char *>address - <const char *>batch
    matrix.row_stride = <const char *>row_stride - <const char *>batch
    matrix.class_stride = <const char *>class_stride - <const char *>batch
    matrix.group_stride = 0
    matrix.is_read = False
    matrix.is_written = False
    matrix.takes_first_place = False
    return matrix


cdef size_t float32_bytes(
    const StoredMatrices *stored, const void *batch, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """Memory for as many rows of each matrix in 16 bits."""
    cdef size_t bytes = 0
    cdef int number
    for number in range(stored.count):
        if has_own_float32(stored, batch, number):
            bytes += float32_count(&stored.matrices[number], batch, chunk_rows, classes) * sizeof(
                float
            )
    return bytes


cdef inline bint has_own_float32(
    const StoredMatrices *stored, const void *batch, int number
) noexcept nogil:
    """A result takes the place of what it was made from, if both lie in the same way."""
    cdef const StoredMatrix *matrix = &stored.matrices[number]
    cdef const StoredMatrix *first = &stored.matrices[0]
    if matrix.storage == XENT_AS_COMPUTED:
        return False
    if not matrix.takes_first_place or first.storage == XENT_AS_COMPUTED:
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


cdef inline int64_t float32_step(
    const StoredMatrix *matrix, const void *batch, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """From one row to the next or, where classes lie apart, from one class to the next.

    Those steps are no power of two, so that the classes of some rows do not meet in a cache.
    """
    if class_stride_of(matrix, batch) == 0:
        return classes
    return (chunk_rows + 15) // 16 * 16 + 16


cdef inline int64_t float32_count(
    const StoredMatrix *matrix, const void *batch, int64_t chunk_rows, int64_t classes
) noexcept nogil:
    """Numbers of some rows, so many that the next matrix is aligned."""
    cdef int64_t lines = chunk_rows if class_stride_of(matrix, batch) == 0 else classes
    return (lines * float32_step(matrix, batch, chunk_rows, classes) + 15) // 16 * 16


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
    """Make the matrices of a copy of the batch begin at that row, those of 16 bits in `memory`."""
    cdef const StoredMatrix *matrix
    cdef const double **factor
    cdef char *first_place = memory
    cdef char **address
    cdef Py_ssize_t step
    cdef int number
    for number in range(stored.count):
        matrix = &stored.matrices[number]
        address = <char **>(<char *>copy + matrix.address)
        if matrix.storage == XENT_AS_COMPUTED:
            address[0] = stored_place(matrix, batch, group, first_row)
            continue
        if has_own_float32(stored, batch, number):
            address[0] = memory
            memory += float32_count(matrix, batch, row_count, classes) * sizeof(float)
        else:
            address[0] = first_place
        step = float32_step(matrix, batch, row_count, classes) * sizeof(float)
        if class_stride_of(matrix, batch) == 0:
            set_stride(copy, matrix.row_stride, step)
        else:
            set_stride(copy, matrix.row_stride, sizeof(float))
            set_stride(copy, matrix.class_stride, step)
    if stored.row_factor != 0:
        factor = <const double **>(<char *>copy + stored.row_factor)
        if factor[0] != NULL:
            factor[0] += first_row * (<const int64_t *>(<char *>copy + stored.row_factor_step))[0]


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
    """Widen what is read from its place in the batch, or round the results to theirs."""
    cdef const xent_storage_kernels *kernels
    cdef const StoredMatrix *matrix
    cdef float *numbers
    cdef char *place
    cdef Py_ssize_t stored_step
    cdef int64_t step, lines, count
    cdef int number
    for number in range(stored.count):
        matrix = &stored.matrices[number]
        if matrix.storage == XENT_AS_COMPUTED:
            continue
        if not (matrix.is_read if direction == LOAD else matrix.is_written):
            continue
        place = stored_place(matrix, batch, group, first_row)
        numbers = (<float **>(<const char *>copy + matrix.address))[0]
        stored_step = class_stride_of(matrix, batch)
        if stored_step == 0:
            stored_step = stride_at(batch, matrix.row_stride)
            step = stride_at(copy, matrix.row_stride) // <Py_ssize_t>sizeof(float)
            lines, count = row_count, classes
        else:
            step = stride_at(copy, matrix.class_stride) // <Py_ssize_t>sizeof(float)
            lines, count = classes, row_count
        kernels = &kernels_of_all[<int>matrix.storage]
        if direction == LOAD:
            kernels.load(place, stored_step, lines, count, numbers, step)
        else:
            kernels.store(numbers, step, lines, count, place, stored_step)


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
