"""Classes shared out: what of a range of them the kernels measure, settle and write.

Knows: the kernels' contract for ranges of classes. Must not know: what the ranges of others are,
nor how statistics travel.
"""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from xent_fast._binding.arrays cimport dtype_of, matrix_of
from xent_fast._binding.batch cimport describe_groups, describe_labels
from xent_fast._binding.engine cimport (
    Plan,
    make_plan,
    process_chunks,
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.instruction_sets cimport ShardBatch, kernels_of_shard, shard_kernels_of
from xent_fast._binding.kernels cimport (
    XENT_BLOCK_STATISTICS,
    XENT_FLOAT32,
    XENT_FLOAT64,
    XENT_MEASURE,
    XENT_ROW_STATISTICS,
    XENT_SETTLE,
    XENT_TARGETS_HERE,
    XENT_TARGET_CLASS,
    XENT_TARGET_LOGIT,
    XENT_TARGET_WEIGHT,
    XENT_WORKSPACE_ALIGNMENT,
    XENT_WRITE,
    xent_aligned,
    xent_batch,
    xent_dtype,
    xent_kind_of_targets,
    xent_row_kernels,
    xent_shard,
    xent_target_kind,
)
from xent_fast._binding.stored cimport Groups, StoredMatrices, describe_stored

cnp.import_array()


ROW_STATISTICS = XENT_ROW_STATISTICS
BLOCK_STATISTICS = XENT_BLOCK_STATISTICS
TARGETS_HERE, TARGET_LOGIT, TARGET_WEIGHT, TARGET_CLASS = (
    XENT_TARGETS_HERE, XENT_TARGET_LOGIT, XENT_TARGET_WEIGHT, XENT_TARGET_CLASS
)


def class_block_count(dtype, int64_t classes):
    """Return into how many blocks a range of classes is cut."""
    return shard_kernels_of(
        XENT_FLOAT32 if dtype == np.float32 else XENT_FLOAT64
    ).block_count(classes)


def target_kind(bint is_dense, double label_smoothing, bint has_class_weight):
    """Return how the kernels take such targets, whose rows may have a z_loss."""
    cdef xent_batch batch
    memset(&batch, 0, sizeof(batch))
    if is_dense:
        batch.dense_targets.data = b""
    if has_class_weight:
        batch.class_weight = b""
    batch.options.label_smoothing = label_smoothing
    batch.options.z_loss = 1.0
    return <int>xent_kind_of_targets(&batch)


def measure_classes(
    cnp.ndarray logits, cnp.ndarray targets, cnp.ndarray weight, object ignore_index,
    object options, double z_loss, int64_t first_class, int64_t num_classes, cnp.ndarray values,
    cnp.ndarray exponentials,
):
    """Write the statistics of a range of classes to `values`, a row of doubles a row.

    Without `z_loss` they are less than `settle_classes` needs with one. With `exponentials`, which
    may be the logits but never lie in 16 bits, these go there, for `write_classes`.
    """
    cdef ShardBatch problem
    cdef xent_shard *shard = &problem.shard
    cdef StoredMatrices stored
    cdef Groups groups
    describe_shard(shard, values, options, z_loss, 1.0, num_classes)
    describe_range(shard, logits, targets, weight, ignore_index, first_class)
    shard.batch.grad = matrix_of(exponentials)
    describe_matrices(&stored, &groups, &problem, logits)
    work_on_shard(&problem, &stored, &groups, dtype_of(logits), XENT_MEASURE)


def settle_classes(
    cnp.ndarray values, cnp.ndarray row_loss, object options, object shared, int64_t num_classes,
    int64_t whole_blocks,
):
    """Write each row's loss, from the statistics of all ranges."""
    cdef ShardBatch problem
    cdef xent_shard *shard = &problem.shard
    cdef Groups groups
    describe_settled(shard, values, options, shared, num_classes, whole_blocks)
    shard.batch.rows = cnp.PyArray_DIM(values, 0)
    shard.batch.row_loss = cnp.PyArray_BYTES(row_loss)
    describe_groups(&groups, values)
    groups.real_bytes = cnp.PyArray_ITEMSIZE(row_loss)
    work_on_shard(&problem, NULL, &groups, dtype_of(row_loss), XENT_SETTLE)


def write_classes(
    cnp.ndarray logits, cnp.ndarray targets, cnp.ndarray weight, cnp.ndarray out,
    cnp.ndarray values, object options, object shared, int64_t first_class, int64_t num_classes,
    int64_t whole_blocks, int64_t first_block, bint has_exponentials,
):
    """Write the gradient of a range of classes, from the statistics of all ranges.

    Where `out` has the exponentials already, the logits are not read.
    """
    cdef ShardBatch problem
    cdef xent_shard *shard = &problem.shard
    cdef StoredMatrices stored
    cdef Groups groups
    describe_settled(shard, values, options, shared, num_classes, whole_blocks)
    describe_range(shard, logits, targets, weight, None, first_class)
    shard.batch.grad = matrix_of(out)
    shard.first_block = first_block
    shard.has_exponentials = has_exponentials
    describe_matrices(&stored, &groups, &problem, logits)
    work_on_shard(&problem, &stored, &groups, dtype_of(logits), XENT_WRITE)


cdef int describe_shard(
    xent_shard *shard, cnp.ndarray values, object options, double z_loss, double factor,
    int64_t num_classes,
) except -1:
    """What all ranges have in common."""
    memset(shard, 0, sizeof(shard[0]))
    shard.kind = <xent_target_kind><int>options.kind
    shard.has_class_weight = options.has_class_weight
    shard.values = <double *>cnp.PyArray_DATA(values)
    shard.row_step = cnp.PyArray_STRIDE(values, 0) // <Py_ssize_t>sizeof(double)
    shard.num_classes = num_classes
    shard.batch.options.label_smoothing = options.label_smoothing
    shard.batch.options.temperature = options.temperature
    shard.batch.options.z_loss = z_loss
    shard.batch.weight_factor = factor
    return 0


cdef int describe_settled(
    xent_shard *shard, cnp.ndarray values, object options, object shared, int64_t num_classes,
    int64_t whole_blocks,
) except -1:
    """What is known of all ranges together, of which `shared` is what rows share."""
    describe_shard(shard, values, options, shared.z_loss, shared.factor, num_classes)
    cdef cnp.ndarray sample_weight = shared.sample_weight
    if sample_weight is not None:
        shard.batch.sample_weight = <const double *>cnp.PyArray_DATA(sample_weight)
    shard.whole_blocks = whole_blocks
    return 0


cdef int describe_range(
    xent_shard *shard, cnp.ndarray logits, cnp.ndarray targets, cnp.ndarray weight,
    object ignore_index, int64_t first_class,
) except -1:
    """Rows and classes of a range; all arrays are as kernels take them."""
    shard.first_class = first_class
    shard.batch.rows = cnp.PyArray_DIM(logits, 0)
    shard.batch.classes = cnp.PyArray_DIM(logits, 1)
    shard.batch.logits = matrix_of(logits)
    if weight is not None and shard.batch.classes > 0:
        shard.batch.class_weight = cnp.PyArray_BYTES(weight)
    if cnp.PyArray_NDIM(targets) == 1:
        return describe_labels(&shard.batch.labels, targets, ignore_index)
    shard.batch.dense_targets = matrix_of(targets)
    return 0


cdef void describe_matrices(
    StoredMatrices *stored, Groups *groups, ShardBatch *problem, cnp.ndarray logits
) noexcept:
    """Each row has its statistics besides."""
    cdef const char *batch = <const char *>problem
    describe_groups(groups, logits)
    describe_stored(stored, &problem.shard.batch, sizeof(problem[0]), groups.real_bytes)
    stored.row_factor = <const char *>&problem.shard.values - batch
    stored.row_factor_step = <const char *>&problem.shard.row_step - batch


cdef int work_on_shard(
    ShardBatch *problem, const StoredMatrices *stored, const Groups *groups, xent_dtype dtype,
    int work
) except -1:
    """On the calling thread, without the interpreter's lock."""
    cdef const xent_row_kernels *kernels = kernels_of_shard(problem, dtype, work)
    cdef const xent_batch *batch = &problem.shard.batch
    cdef size_t bytes = problem.kernels.workspace_bytes(problem.shard.whole_blocks, batch.classes)
    cdef void *memory = malloc(bytes + XENT_WORKSPACE_ALIGNMENT)
    cdef Plan plan
    cdef xent_float_mode mode
    if memory == NULL:
        raise MemoryError(f"cannot allocate {bytes} bytes of workspace")
    problem.workspace = <void *>xent_aligned(<uintptr_t>memory)
    try:
        make_plan(&plan, batch, groups, stored, kernels, 1)
        with nogil:
            mode = xent_use_default_mode()
            process_chunks(&plan)
            xent_restore_mode(mode)
        free(plan.memory)
    finally:
        free(memory)
    return 0
