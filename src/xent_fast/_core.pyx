"""One call from Python to the kernels: validate, allocate, write; OpenMP over chunks of rows.

Knows: NumPy's arrays, the kernels' contract, OpenMP, fork.
Must not know: the mathematics, what any instruction set can do.
"""

import numbers
import operator
import os

import numpy as np

from xent_fast import _result

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.object cimport PyTypeObject
from cython.parallel cimport parallel, prange, threadid
from libc.limits cimport INT_MAX
from libc.math cimport NAN
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from xent_fast._kernels cimport (
    XENT_DENSE_TARGETS,
    XENT_FLOAT32,
    XENT_FLOAT64,
    XENT_INDEX_TARGETS,
    XENT_INT8,
    XENT_INT16,
    XENT_INT32,
    XENT_INT64,
    XENT_MAX_ROWS_PER_CALL,
    XENT_ROW_GRANULARITY,
    XENT_UINT8,
    XENT_UINT16,
    XENT_UINT32,
    XENT_UINT64,
    xent_batch,
    xent_best_isa,
    xent_check_labels,
    xent_isa,
    xent_isa_at,
    xent_isa_count,
    xent_isa_named,
    xent_known_isa_names,
    xent_label_type,
    xent_labels,
    xent_row_kernels,
)

cnp.import_array()


cdef extern from "_tuples.h":
    object xent_new_pair(PyTypeObject *type, object first, object second)


cdef extern from "_threads.h" nogil:
    enum:
        XENT_OPENMP_VERSION
    const char *XENT_COMPILER
    const char *XENT_FAST_VERSION
    int xent_max_threads()
    int xent_processor_count()


cdef enum:
    # Rows go to the kernels in chunks of about this many logits: enough to hide what a chunk costs,
    # few enough to share out evenly and to stay in a core's own cache.
    CHUNK_LOGITS = 16384

    # Fewer logits than these are not worth a parallel region, or giving up the GIL.
    THREADED_LOGITS = 32768
    UNLOCKED_LOGITS = 2048

    # An explicit num_threads counts up to this or the number of processors, whichever is more:
    # OpenMP's run-time library ends the process where it cannot start a thread.
    MOST_THREADS = 64

    # Rows of this many logits or more are shared by threads where there are fewer than
    # SHARED_ROWS rows a thread, in parts of PART_BLOCKS blocks.
    SHARED_LOGITS = 32768
    SHARED_ROWS = 4
    PART_BLOCKS = 4

    # A cache line, so that no two threads write to the same.
    WORKSPACE_ALIGNMENT = 64

cdef enum Reduction:
    UNKNOWN_REDUCTION = -1
    MEAN
    SUM
    NONE

cdef struct AddressRange:
    const char *low
    const char *high

# How the rows of one batch are shared out, and the memory that takes.
cdef struct Plan:
    const xent_batch *batch
    const xent_row_kernels *kernels
    int64_t chunk_rows
    int64_t chunk_count
    int threads
    int64_t parts          # of each row where threads share rows; else 0
    char *workspaces
    size_t workspace_step  # bytes from one thread's workspace to the next, or from one row's
    double *chunk_losses   # one sum a chunk; only with more than one thread
    void *memory           # what to free

ctypedef void (*block_sweep)(int64_t first_block, int64_t count, void *workspace) noexcept nogil

cdef object LossAndGrad = _result.LossAndGrad
cdef object UINT64_LAST = 2**64 - 1

include "_arguments.pxi"


# --- the two calls --------------------------------------------------------------------------------


def loss(logits, targets, sample_weight, ignore_index, reduction, scale, num_threads):
    """Return the loss alone; the arguments are those of `xent_fast.softmax_cross_entropy`."""
    return compute(
        logits, targets, sample_weight, ignore_index, reduction, scale, num_threads, None, False
    )


def loss_and_grad(
    logits, targets, sample_weight, ignore_index, reduction, scale, num_threads, out
):
    """Return both; the arguments are those of `xent_fast.softmax_cross_entropy_grad`."""
    return compute(
        logits, targets, sample_weight, ignore_index, reduction, scale, num_threads, out, True
    )


cdef object compute(
    object given_logits,
    object given_targets,
    object given_sample_weight,
    object ignore_index,
    object given_reduction,
    object given_scale,
    object given_num_threads,
    object out,
    bint with_grad,
):
    cdef xent_batch batch
    cdef Plan plan
    cdef cnp.ndarray row_loss = None
    cdef cnp.ndarray destination = None  # the gradient's final place
    cdef cnp.ndarray working = None      # where the kernels write it
    cdef cnp.ndarray source              # where they read the logits
    cdef double loss_sum

    # Everything that can be wrong with the arguments.
    cdef cnp.ndarray logits = as_logits(given_logits, out)
    cdef Reduction reduction = as_reduction(given_reduction)
    cdef double scale = as_scale(given_scale)
    cdef int requested_threads = as_thread_count(given_num_threads)
    if out is not None:
        destination = as_destination(out, logits)
    cdef cnp.ndarray targets = as_targets(given_targets, logits, destination)
    cdef cnp.ndarray sample_weight = as_sample_weight(given_sample_weight, logits, destination)
    describe_rows(&batch, logits, targets, sample_weight, ignore_index)
    cdef double denominator = check_labels_and_sum_weights(&batch, targets)
    batch.weight_factor = scale / denominator if reduction == MEAN else scale

    # Every allocation.
    if reduction == NONE:
        row_loss = cnp.PyArray_EMPTY(1, cnp.PyArray_DIMS(logits), cnp.PyArray_TYPE(logits), 0)
    if with_grad:
        if destination is None:
            destination = empty_like(logits)
        working = destination if has_plain_rows(destination) else empty_like(logits)
    if has_plain_rows(logits):
        source = logits
    else:
        source = working if with_grad else empty_like(logits)
    point_batch_at(&batch, source, working, row_loss)
    make_plan(&plan, &batch, kernels_for(logits, targets), requested_threads)

    # The first write to memory of the caller, and all others.
    try:
        if reduction == MEAN and denominator == 0:
            loss_sum = NAN
            clear_gradient(&batch, cnp.PyArray_ITEMSIZE(logits))
        else:
            if source is not logits:
                cnp.PyArray_CopyInto(source, logits)
            loss_sum = process_rows(&plan)
        if working is not destination:
            cnp.PyArray_CopyInto(destination, working)
    finally:
        free(plan.memory)

    result = row_loss if reduction == NONE else loss_sum
    if with_grad:
        grad = destination if out is None else out
        return xent_new_pair(<PyTypeObject *>LossAndGrad, result, grad)
    return result


# --- the batch ------------------------------------------------------------------------------------


cdef int describe_rows(
    xent_batch *batch,
    cnp.ndarray logits,
    cnp.ndarray targets,
    cnp.ndarray sample_weight,
    object ignore_index,
) except -1:
    batch.rows = cnp.PyArray_DIM(logits, 0)
    batch.classes = cnp.PyArray_DIM(logits, 1)
    batch.sample_weight = NULL
    if sample_weight is not None:
        batch.sample_weight = <const double *>cnp.PyArray_DATA(sample_weight)
    batch.dense_targets = NULL
    batch.dense_targets_row_stride = 0
    if cnp.PyArray_NDIM(targets) == 1:
        return describe_labels(&batch.labels, targets, ignore_index)
    if ignore_index is not None:
        raise ValueError("ignore_index needs targets that are class indices, not dense targets")
    memset(&batch.labels, 0, sizeof(batch.labels))
    batch.dense_targets = cnp.PyArray_BYTES(targets)
    batch.dense_targets_row_stride = cnp.PyArray_STRIDE(targets, 0)
    return 0


cdef double check_labels_and_sum_weights(
    const xent_batch *batch, cnp.ndarray targets
) except? -1.0:
    """What "mean" divides by: the number of rows that count, or the sum of their weights."""
    cdef int64_t counted_rows = 0
    cdef int64_t bad_row
    cdef double weight_sum = 0.0
    if batch.dense_targets != NULL:
        counted_rows = batch.rows
        if batch.sample_weight != NULL:
            weight_sum = sum_of(batch.sample_weight, batch.rows)
    else:
        if batch.rows < UNLOCKED_LOGITS:
            bad_row = check_labels(batch, &counted_rows, &weight_sum)
        else:
            with nogil:
                bad_row = check_labels(batch, &counted_rows, &weight_sum)
        if bad_row >= 0:
            raise_label_error(targets, bad_row, batch.classes)
    return <double>counted_rows if batch.sample_weight == NULL else weight_sum


cdef inline int64_t check_labels(
    const xent_batch *batch, int64_t *counted_rows, double *weight_sum
) noexcept nogil:
    return xent_check_labels(
        &batch.labels, batch.rows, batch.classes, batch.sample_weight, counted_rows, weight_sum
    )


cdef double sum_of(const double *values, int64_t count) noexcept nogil:
    cdef double total = 0.0
    cdef int64_t i
    for i in range(count):
        total += values[i]
    return total


cdef inline cnp.ndarray empty_like(cnp.ndarray logits):
    """A C-contiguous matrix of the logits' shape and type, in native byte order."""
    return cnp.PyArray_EMPTY(2, cnp.PyArray_DIMS(logits), cnp.PyArray_TYPE(logits), 0)


cdef inline void point_batch_at(
    xent_batch *batch, cnp.ndarray source, cnp.ndarray working, cnp.ndarray row_loss
) noexcept:
    batch.logits = cnp.PyArray_BYTES(source)
    batch.logits_row_stride = cnp.PyArray_STRIDE(source, 0)
    batch.grad = NULL if working is None else cnp.PyArray_BYTES(working)
    batch.grad_row_stride = 0 if working is None else cnp.PyArray_STRIDE(working, 0)
    batch.row_loss = NULL if row_loss is None else cnp.PyArray_BYTES(row_loss)


cdef void clear_gradient(const xent_batch *batch, size_t itemsize) noexcept:
    cdef int64_t row
    if batch.grad != NULL:
        for row in range(batch.rows):
            memset(batch.grad + row * batch.grad_row_stride, 0, batch.classes * itemsize)


# --- chunks and threads ---------------------------------------------------------------------------


cdef int make_plan(
    Plan *plan,
    const xent_batch *batch,
    const xent_row_kernels *kernels,
    int requested_threads,
) except -1:
    """Share out the rows and allocate; what a chunk is depends on the batch's shape alone."""
    cdef size_t workspace_bytes, loss_bytes
    plan.batch = batch
    plan.kernels = kernels
    plan.chunk_count = 0
    plan.threads = 1
    plan.parts = 0
    plan.workspaces = NULL
    plan.memory = NULL
    if batch.rows == 0:
        return 0
    plan.chunk_rows = rows_per_chunk(batch.classes)
    plan.chunk_count = (batch.rows - 1) // plan.chunk_rows + 1
    plan.parts = parts_per_row(plan, requested_threads)
    plan.threads = thread_count(
        max(plan.chunk_count, batch.rows * plan.parts), batch.rows * batch.classes, requested_threads
    )
    if plan.parts > 0:
        plan.workspace_step = round_up(kernels.shared_row_bytes(batch.classes))
        workspace_bytes = batch.rows * plan.workspace_step
        loss_bytes = batch.rows * sizeof(double)
    else:
        plan.workspace_step = round_up(kernels.workspace_bytes(batch.classes))
        workspace_bytes = plan.threads * plan.workspace_step
        loss_bytes = plan.chunk_count * sizeof(double) if plan.threads > 1 else 0
    if workspace_bytes + loss_bytes == 0:
        return 0
    plan.memory = malloc(workspace_bytes + loss_bytes + WORKSPACE_ALIGNMENT)
    if plan.memory == NULL:
        raise MemoryError(f"cannot allocate {workspace_bytes + loss_bytes} bytes of workspace")
    plan.workspaces = <char *>round_up(<uintptr_t>plan.memory)
    plan.chunk_losses = <double *>(plan.workspaces + workspace_bytes)
    return 0


cdef inline size_t round_up(size_t bytes) noexcept nogil:
    """The next multiple of WORKSPACE_ALIGNMENT."""
    return (bytes + WORKSPACE_ALIGNMENT - 1) // WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT


cdef inline int64_t rows_per_chunk(int64_t classes) noexcept:
    cdef int64_t rows = CHUNK_LOGITS // classes
    if rows >= XENT_MAX_ROWS_PER_CALL:
        return XENT_MAX_ROWS_PER_CALL
    if rows >= XENT_ROW_GRANULARITY:
        return rows - rows % XENT_ROW_GRANULARITY
    return max(rows, 1)


cdef int64_t parts_per_row(const Plan *plan, int requested_threads) noexcept:
    """How many parts threads take of each row; 0 where they take whole rows."""
    cdef int64_t classes = plan.batch.classes
    cdef int threads
    if classes < SHARED_LOGITS:
        return 0
    threads = thread_count(MOST_THREADS, plan.batch.rows * classes, requested_threads)
    if threads == 1 or plan.batch.rows >= SHARED_ROWS * threads:
        return 0
    return (plan.kernels.blocks_to_share(classes) - 1) // PART_BLOCKS + 1


cdef int thread_count(int64_t chunk_count, int64_t logits, int requested) noexcept:
    """As many as asked for or, by default, one a processor where the work is worth it."""
    cdef int64_t threads
    if is_forked or chunk_count == 1 or requested == 1:
        return 1
    if requested == 0 and logits < THREADED_LOGITS:
        return 1
    if requested == 0:
        threads = min(xent_max_threads(), xent_processor_count())
    else:
        threads = min(requested, max(xent_processor_count(), <int>MOST_THREADS))
    return <int>max(min(threads, chunk_count), 1)


cdef inline double process_rows(const Plan *plan) noexcept:
    """Sum of all losses, having written everything else."""
    cdef double loss_sum
    if plan.batch.rows * plan.batch.classes < UNLOCKED_LOGITS:
        return process_chunks(plan)
    with nogil:
        loss_sum = process_chunks(plan)
    return loss_sum


cdef double process_chunks(const Plan *plan) noexcept nogil:
    """Add the chunks' losses in their order, whoever computed them."""
    cdef double loss_sum = 0.0
    cdef int64_t chunk
    if plan.parts > 0:
        return process_shared_rows(plan)
    if plan.threads == 1:
        for chunk in range(plan.chunk_count):
            loss_sum += process_chunk(plan, chunk, 0)
        return loss_sum
    for chunk in prange(plan.chunk_count, schedule="static", num_threads=plan.threads):
        plan.chunk_losses[chunk] = process_chunk(plan, chunk, threadid())
    for chunk in range(plan.chunk_count):
        loss_sum += plan.chunk_losses[chunk]
    return loss_sum


cdef inline double process_chunk(const Plan *plan, int64_t chunk, int thread) noexcept nogil:
    cdef int64_t first_row = chunk * plan.chunk_rows
    cdef int64_t row_count = min(plan.chunk_rows, plan.batch.rows - first_row)
    cdef char *workspace = plan.workspaces + thread * plan.workspace_step
    return plan.kernels.process_rows(plan.batch, first_row, row_count, workspace)


cdef double process_shared_rows(const Plan *plan) noexcept nogil:
    """The same for rows that threads share: all forward parts, then all rows, then all backward."""
    cdef const xent_row_kernels *kernels = plan.kernels
    cdef double loss_sum = 0.0
    cdef int64_t row, part
    for row in range(plan.batch.rows):
        kernels.begin_row(plan.batch, row, workspace_of(plan, row))
    with parallel(num_threads=plan.threads):
        for part in prange(plan.batch.rows * plan.parts, schedule="static"):
            sweep_part(plan, part, kernels.forward_blocks)
        for row in prange(plan.batch.rows, schedule="static"):
            plan.chunk_losses[row] = kernels.finish_row(plan.batch, row, workspace_of(plan, row))
        if plan.batch.grad != NULL:
            for part in prange(plan.batch.rows * plan.parts, schedule="static"):
                sweep_part(plan, part, kernels.backward_blocks)
    for row in range(plan.batch.rows):
        loss_sum += plan.chunk_losses[row]
    return loss_sum


cdef inline void *workspace_of(const Plan *plan, int64_t row) noexcept nogil:
    return plan.workspaces + row * plan.workspace_step


cdef inline void sweep_part(const Plan *plan, int64_t part, block_sweep sweep) noexcept nogil:
    cdef int64_t blocks = plan.kernels.blocks_to_share(plan.batch.classes)
    cdef int64_t first = part % plan.parts * PART_BLOCKS
    sweep(first, min(blocks - first, <int64_t>PART_BLOCKS), workspace_of(plan, part // plan.parts))


# libgomp's threads do not survive a fork, and a parallel region in the child would wait for them
# for ever: a child runs serially, and so do its children.
cdef bint is_forked = False


def _note_fork():
    global is_forked
    is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


# --- instruction sets and configuration -----------------------------------------------------------


cdef const xent_isa *active_isa = xent_best_isa()


cdef inline const xent_row_kernels *kernels_for(cnp.ndarray logits, cnp.ndarray targets) noexcept:
    cdef int dtype = XENT_FLOAT64
    cdef int target_kind = XENT_DENSE_TARGETS
    if cnp.PyArray_TYPE(logits) == cnp.NPY_FLOAT32:
        dtype = XENT_FLOAT32
    if cnp.PyArray_NDIM(targets) == 1:
        target_kind = XENT_INDEX_TARGETS
    return &active_isa.kernels[dtype][target_kind]


def available_isas():
    """Return the names of the instruction sets in this build that run here, best first."""
    return tuple([
        xent_isa_at(position).name.decode()
        for position in range(xent_isa_count())
        if xent_isa_at(position).is_supported()
    ])


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


def configuration():
    """Return what this build is and what the next call would use, as a dict of plain values."""
    return {
        "version": XENT_FAST_VERSION.decode(),
        "isa": {"active": active_isa.name.decode(), "supported": list(available_isas())},
        "threads": {
            "openmp": XENT_OPENMP_VERSION or None,
            "default": 1 if is_forked else min(xent_max_threads(), xent_processor_count()),
            "processors": os.cpu_count(),
        },
        "compiler": XENT_COMPILER.decode(),
    }


if os.environ.get("XENT_FAST_ISA"):
    use_isa(os.environ["XENT_FAST_ISA"])


# --- the functions of the derivation --------------------------------------------------------------


include "_derivatives.pxi"
