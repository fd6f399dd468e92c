"""What `engine` offers: a plan for a batch, and its run; meanings stand in `engine.pyx`.

Knows: names and types. Must not know: how rows are shared out.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport (
    xent_batch,
    xent_dtype,
    xent_labels,
    xent_row_kernels,
    xent_shard_kernels,
    xent_softmax_function,
    xent_storage_kernels,
    xent_target_kind,
    xent_vjp_batch,
)
from xent_fast._binding.stored cimport StoredMatrices


cdef extern from "_binding/float_mode.h" nogil:
    ctypedef struct xent_float_mode:
        pass
    xent_float_mode xent_use_default_mode()
    void xent_restore_mode(xent_float_mode mode)


cdef extern from "_binding/threads.h" nogil:
    enum:
        XENT_OPENMP_VERSION  # 0 where the build has none


cdef enum:
    # Fewer logits than these are not worth giving up the GIL.
    UNLOCKED_LOGITS = 2048

# Rows that are not all one stride apart: `count` groups of `rows` rows each, the bytes of one
# number, and those from one group of a matrix to the next.
cdef struct Groups:
    size_t real_bytes
    int64_t count
    int64_t rows
    Py_ssize_t logits_stride
    Py_ssize_t grad_stride
    Py_ssize_t targets_stride

ctypedef void (*vjp_rows)(
    const xent_vjp_batch *batch, int64_t first_row, int64_t row_count
) noexcept nogil

# A backward pass. In `batch` the logits stand for what the products are of: p or log p.
cdef struct VjpBatch:
    xent_batch batch
    const char *slopes
    Py_ssize_t slopes_row_stride
    vjp_rows process

# How the rows of one batch are shared out, and the memory that takes.
cdef struct Plan:
    const xent_batch *batch
    xent_batch stored_batch        # the same with storage types, for kernels that know them
    const Groups *groups
    const StoredMatrices *stored   # NULL where kernels can work on every matrix as it lies
    const xent_row_kernels *kernels
    int64_t chunk_rows
    int64_t group_chunks   # of each group
    int64_t chunk_count
    int threads
    int64_t parts          # of each row where threads share rows; else 0
    char *workspaces
    size_t kernel_bytes    # of a thread's workspace, before its own place for stored matrices
    size_t workspace_step  # bytes from one thread's workspace to the next, or from one row's
    double *chunk_losses   # one sum a chunk; only with more than one thread
    void *memory           # what to free


# A plan is made, run as often as one likes, and its `memory` freed by whoever made it. The caller's
# thread is in the default float mode.
cdef int make_plan(
    Plan *plan,
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    int requested_threads,
) except -1
cdef size_t share_out(
    Plan *plan,
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    int requested_threads,
) noexcept nogil
cdef double process_rows(const Plan *plan) noexcept
cdef double process_chunks(const Plan *plan) noexcept nogil
cdef const xent_row_kernels *kernels_for(const xent_batch *batch, xent_dtype dtype) noexcept nogil
cdef const xent_row_kernels *kernels_of_kind(
    xent_dtype dtype, xent_target_kind kind
) noexcept nogil
cdef const xent_row_kernels *kernels_of_vjp(
    VjpBatch *batch, xent_dtype dtype, bint of_logarithm
) noexcept nogil
cdef const xent_shard_kernels *shard_kernels_of(xent_dtype dtype) noexcept nogil
cdef const xent_storage_kernels *storage_kernels() noexcept nogil
cdef const xent_row_kernels *softmax_kernels_of(
    xent_dtype dtype, xent_softmax_function function
) noexcept nogil

cdef void read_labels(
    const xent_labels *labels, int64_t first_row, int64_t count, int64_t *destination
) noexcept nogil
cdef int64_t check_labels(
    const xent_batch *batch,
    const char *class_weight,
    xent_dtype dtype,
    int64_t *counted_rows,
    double *weight_sum,
) noexcept nogil
cdef double sum_of(const double *values, int64_t count) noexcept nogil
