"""What `instruction_sets` offers; meanings stand in `instruction_sets.pyx`.

Knows: names and types. Must not know: which instruction sets there are.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport (
    xent_batch,
    xent_dtype,
    xent_labels,
    xent_matrix,
    xent_row_kernels,
    xent_shard,
    xent_shard_kernels,
    xent_softmax_function,
    xent_storage_kernels,
    xent_target_kind,
    xent_vjp_batch,
)


ctypedef void (*vjp_rows)(
    const xent_vjp_batch *batch, int64_t first_row, int64_t row_count
) noexcept nogil

# A backward pass. In `batch` the logits stand for what the products are of: p or log p.
cdef struct VjpBatch:
    xent_batch batch
    xent_matrix slopes
    vjp_rows process

# A range of classes, what is done with it, and memory for that, which one thread may use.
cdef struct ShardBatch:
    xent_shard shard  # begins with a batch
    const xent_shard_kernels *kernels
    size_t real_bytes
    void *workspace
    int work


cdef const xent_row_kernels *kernels_for(const xent_batch *batch, xent_dtype dtype) noexcept nogil
cdef const xent_row_kernels *kernels_of_kind(
    xent_dtype dtype, xent_target_kind kind
) noexcept nogil
cdef const xent_row_kernels *softmax_kernels_of(
    xent_dtype dtype, xent_softmax_function function
) noexcept nogil
cdef const xent_row_kernels *kernels_of_vjp(
    VjpBatch *batch, xent_dtype dtype, bint of_logarithm
) noexcept nogil
cdef const xent_row_kernels *kernels_of_shard(
    ShardBatch *batch, xent_dtype dtype, int work
) noexcept nogil
cdef const xent_shard_kernels *shard_kernels_of(xent_dtype dtype) noexcept nogil
cdef const xent_storage_kernels *storage_kernels() noexcept nogil

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
