"""Matrices of 16 bits of a batch, and their rows as float32; meanings stand in `stored.pyx`.

Knows: names and types. Must not know: which batch it is, threads, NumPy.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport xent_storage, xent_storage_kernels


cdef enum:
    MOST_MATRICES = 4

# A matrix of a batch. Where one of them lies in 16 bits and the kernels do not know that, they get
# some of its rows at a time as float32, in memory of the thread's own.
cdef struct StoredMatrix:
    xent_storage storage
    size_t address         # where its members stand in the batch, in bytes from its beginning
    size_t row_stride
    size_t class_stride    # the same as row_stride: the batch has none
    Py_ssize_t group_stride
    bint is_read
    bint is_written
    bint takes_first_place  # a result that may take the place of the first matrix's float32

# All matrices of a batch of `batch_bytes` bytes; `in_16_bits` of them lie in 16 bits.
cdef struct StoredMatrices:
    size_t batch_bytes
    int count
    int in_16_bits
    size_t row_factor       # where the batch has doubles for its rows; 0: it has none
    size_t row_factor_step  # and where their step
    StoredMatrix matrices[MOST_MATRICES]

cdef enum Direction:
    LOAD
    STORE


cdef void begin_stored(StoredMatrices *stored, size_t batch_bytes) noexcept nogil
cdef StoredMatrix *note_matrix(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    xent_storage storage,
) noexcept nogil
cdef size_t float32_bytes(
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
