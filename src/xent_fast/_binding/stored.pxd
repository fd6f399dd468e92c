"""Matrices that kernels do not take as they lie; meanings stand in `stored.pyx`.

Knows: names and types. Must not know: which batch it is, threads, NumPy.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport xent_batch, xent_storage, xent_storage_kernels


cdef enum:
    MOST_MATRICES = 4

# A matrix of a batch. Where the kernels do not take one as it lies, of 16 bits or with its classes
# apart, they get some of its rows at a time in memory of the thread's own.
cdef struct StoredMatrix:
    xent_storage storage
    size_t real_bytes      # of a number in the thread's own memory
    size_t address         # where its members stand in the batch, in bytes from its beginning
    size_t row_stride
    size_t class_stride    # the same as row_stride: the batch has none
    Py_ssize_t apart       # bytes from class to class where kernels need them side by side; else 0
    Py_ssize_t group_stride
    bint is_read
    bint is_written
    bint takes_first_place  # a result that may take the first matrix's place in that memory

# All matrices of a batch of `batch_bytes` bytes.
cdef struct StoredMatrices:
    size_t batch_bytes
    int count
    bint are_needed         # the kernels cannot work on the batch as it is
    bint are_turned         # some matrix has its classes apart and kernels need them side by side
    size_t row_factor       # where the batch has doubles for its rows; 0: it has none
    size_t row_factor_step  # and where their step
    StoredMatrix matrices[MOST_MATRICES]

# Rows that are not all one stride apart: `count` groups of `rows` rows each, the bytes of one
# number, and those from one group of a matrix to the next.
cdef struct Groups:
    size_t real_bytes
    int64_t count
    int64_t rows
    Py_ssize_t logits_stride
    Py_ssize_t grad_stride
    Py_ssize_t targets_stride

cdef enum Direction:
    LOAD
    STORE


cdef void describe_stored(
    StoredMatrices *stored,
    const xent_batch *batch,
    size_t batch_bytes,
    const Groups *groups,
    xent_storage logits,
    xent_storage grad,
    xent_storage targets,
) noexcept nogil
cdef StoredMatrix *note_matrix(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    xent_storage storage,
    size_t real_bytes,
) noexcept nogil
cdef void lay_side_by_side(
    StoredMatrices *stored, xent_batch *batch, bint has_groups
) noexcept nogil
cdef void lay_apart(StoredMatrices *stored, StoredMatrix *matrix, Py_ssize_t apart) noexcept nogil
cdef size_t own_bytes(
    const StoredMatrices *stored, const void *batch, int64_t chunk_rows, int64_t classes
) noexcept nogil
cdef void place_rows(
    const StoredMatrices *stored,
    const void *batch,
    void *copy,
    int64_t group,
    int64_t first_row,
    int64_t row_count,
    int64_t classes,
    char *memory,
) noexcept nogil
cdef void advance_factors(const StoredMatrices *stored, void *copy, int64_t rows) noexcept nogil
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
) noexcept nogil
