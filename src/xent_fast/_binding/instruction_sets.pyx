"""The instruction sets of this build, and the kernels of the one in use.

The only module that is linked with the kernels; everything that needs one asks here.

Knows: the kernels' contract, which instruction sets there are.
Must not know: NumPy, threads, the mathematics.
"""

import os

from libc.stdint cimport int64_t
from libc.string cimport memset

from xent_fast._binding.kernels cimport (
    XENT_FLOAT64,
    xent_batch,
    xent_batch_from,
    xent_best_isa,
    xent_check_labels,
    xent_dtype,
    xent_isa,
    xent_isa_at,
    xent_isa_count,
    xent_isa_named,
    xent_kind_of_targets,
    xent_known_isa_names,
    xent_labels,
    xent_read_labels,
    xent_row_kernels,
    xent_shard,
    xent_shard_kernels,
    xent_softmax_function,
    xent_storage_kernels,
    xent_sum_of,
    xent_target_kind,
    xent_vjp_batch,
    xent_vjp_kernels,
)


# Written by use_isa alone, which only a program's start and tests call: never while others compute.
cdef const xent_isa *active_isa = xent_best_isa()


cdef const xent_shard_kernels *shard_kernels_of(xent_dtype dtype) noexcept nogil:
    return &active_isa.shard_kernels[<int>dtype]


cdef const xent_storage_kernels *storage_kernels() noexcept nogil:
    """What widens and rounds, by storage."""
    return active_isa.storage_kernels


cdef const xent_row_kernels *kernels_for(const xent_batch *batch, xent_dtype dtype) noexcept nogil:
    """The kernels of the loss that the targets and options of a batch need."""
    return kernels_of_kind(dtype, xent_kind_of_targets(batch))


cdef const xent_row_kernels *kernels_of_kind(
    xent_dtype dtype, xent_target_kind kind
) noexcept nogil:
    """The kernels of the loss for this dtype and kind of targets."""
    return &active_isa.kernels[<int>dtype][<int>kind]


cdef const xent_row_kernels *softmax_kernels_of(
    xent_dtype dtype, xent_softmax_function function
) noexcept nogil:
    """The kernels of what else is made of the rows' softmax."""
    return &active_isa.softmax_functions[<int>dtype][<int>function]


def available_isas():
    """Return the names of the instruction sets in this build that run here, best first."""
    return tuple([
        xent_isa_at(position).name.decode()
        for position in range(xent_isa_count())
        if xent_isa_at(position).is_supported()
    ])


def active_isa_name():
    """Return the name of the instruction set in use."""
    return active_isa.name.decode()


def use_isa(name):
    """Compute with the instruction set of that name from now on; return the one before."""
    global active_isa
    cdef const xent_isa *isa = xent_isa_named(name.encode(errors="replace"))
    if isa == NULL or not isa.is_supported():
        raise ValueError(
            f"XENT_FAST_ISA: {name!r} cannot be used; "
            f"valid names are {xent_known_isa_names().decode()}, "
            f"and this machine and build support {', '.join(available_isas())}"
        )
    previous = active_isa.name.decode()
    active_isa = isa
    return previous


if os.environ.get("XENT_FAST_ISA"):
    use_isa(os.environ["XENT_FAST_ISA"])


# --- kernels of the contract, made of others ------------------------------------------------------


cdef double process_vjp_rows(
    const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace
) noexcept nogil:
    """A backward pass of some rows."""
    cdef const VjpBatch *problem = <const VjpBatch *>batch
    cdef xent_vjp_batch rows
    rows.rows = batch.rows
    rows.classes = batch.classes
    rows.values = batch.logits
    rows.slopes = problem.slopes
    rows.grad = batch.grad
    rows.grad_output = batch.grad_output
    rows.grad_output_step = batch.grad_output_step
    problem.process(&rows, first_row, row_count)
    return 0.0


cdef size_t no_bytes(int64_t classes) noexcept nogil:
    return 0


cdef xent_row_kernels vjp_row_kernels
memset(&vjp_row_kernels, 0, sizeof(vjp_row_kernels))
vjp_row_kernels.process_rows = process_vjp_rows
vjp_row_kernels.workspace_bytes = no_bytes


cdef const xent_row_kernels *kernels_of_vjp(
    VjpBatch *batch, xent_dtype dtype, bint of_logarithm
) noexcept nogil:
    """What writes every row's product: of log_softmax, or of softmax."""
    cdef const xent_vjp_kernels *kernels = &active_isa.vjp_kernels[<int>dtype]
    batch.process = kernels.log_softmax_rows if of_logarithm else kernels.softmax_rows
    return &vjp_row_kernels


cdef double process_shard_rows(
    const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace
) noexcept nogil:
    """What is done with some rows of a range of classes."""
    cdef const ShardBatch *problem = <const ShardBatch *>batch
    cdef xent_shard rows = problem.shard
    rows.batch = xent_batch_from(batch, first_row, problem.real_bytes)
    rows.values += first_row * rows.row_step
    problem.kernels.work(&rows, row_count, problem.workspace, problem.work)
    return 0.0


cdef xent_row_kernels shard_row_kernels
memset(&shard_row_kernels, 0, sizeof(shard_row_kernels))
shard_row_kernels.process_rows = process_shard_rows
shard_row_kernels.workspace_bytes = no_bytes


cdef const xent_row_kernels *kernels_of_shard(
    ShardBatch *batch, xent_dtype dtype, int work
) noexcept nogil:
    """What measures, settles or writes a range of classes."""
    batch.kernels = shard_kernels_of(dtype)
    batch.real_bytes = sizeof(double) if dtype == XENT_FLOAT64 else sizeof(float)
    batch.work = work
    return &shard_row_kernels


# --- labels ---------------------------------------------------------------------------------------


cdef void read_labels(
    const xent_labels *labels, int64_t first_row, int64_t count, int64_t *destination
) noexcept nogil:
    """Class indices of some rows, of whatever integer type they are."""
    xent_read_labels(labels, first_row, count, destination)


cdef int64_t check_labels(
    const xent_batch *batch,
    const char *class_weight,
    xent_dtype dtype,
    int64_t *counted_rows,
    double *weight_sum,
) noexcept nogil:
    """Row of the first label out of bounds, or -1; adds up the rows that count and their weights.

    `class_weight` is NULL or of that dtype.
    """
    return xent_check_labels(
        &batch.labels, batch.rows, batch.classes, batch.sample_weight, class_weight, dtype,
        counted_rows, weight_sum
    )


cdef double sum_of(const double *values, int64_t count) noexcept nogil:
    return xent_sum_of(values, count)
