"""Matrices that kernels do not take as they lie; meanings stand in `stored.pyx`.

Knows: names and types. Must not know: which batch it is, threads, NumPy.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport xent_batch, xent_matrix, xent_storage_kernels


cdef enum:
    MOST_MATRICES = 4

# The matrices of a batch of `batch_bytes` bytes. Where the kernels do not take one as it lies, of
# 16 bits or with its classes apart, they get some of its rows at a time in memory of the thread's
# own.
cdef struct StoredMatrices:
    size_t batch_bytes
    size_t real_bytes       # of a number in the thread's own memory
    bint side_by_side       # the kernels take no classes that lie apart
    int count
    size_t places[MOST_MATRICES]     # in the batch, in bytes from its beginning
    bint are_results[MOST_MATRICES]  # written, not read
    size_t row_factor       # where the batch has doubles for its rows; 0: it has none
    size_t row_factor_step  # and where their step

# Rows that are not all one stride apart: `count` groups of `rows` rows each, and the bytes of one
# number.
cdef struct Groups:
    size_t real_bytes
    int64_t count
    int64_t rows

cdef enum Direction:
    LOAD
    STORE


cdef void describe_stored(
    StoredMatrices *stored, const xent_batch *batch, size_t batch_bytes, size_t real_bytes
) noexcept nogil
cdef void note_matrix(
    StoredMatrices *stored, const xent_batch *batch, const xent_matrix *matrix, bint is_result
) noexcept nogil
cdef bint are_apart(const StoredMatrices *stored, const void *batch) noexcept nogil
cdef bint take_as_kernels_do(const StoredMatrices *stored, void *copy) noexcept nogil
cdef size_t own_bytes(
    const StoredMatrices *stored,
    const void *batch,
    const void *taken,
    int64_t chunk_rows,
    int64_t classes,
) noexcept nogil
cdef void place_rows(
    const StoredMatrices *stored,
    const void *batch,
    void *taken,
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
    const void *taken,
    Direction direction,
    const xent_storage_kernels *kernels_of_all,
    int64_t group,
    int64_t first_row,
    int64_t row_count,
    int64_t classes,
) noexcept nogil
