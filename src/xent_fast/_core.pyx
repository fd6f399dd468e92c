"""One call from Python to the kernels: validate, allocate, write.

Knows: NumPy's arrays, the kernels' contract.
Must not know: the mathematics, threads, which instruction sets there are.
"""

import numbers
import operator
import warnings

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from xent_fast import _engine, _remedies, _result

cimport cython
cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.limits cimport INT_MAX
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from xent_fast._engine cimport (
    UNLOCKED_LOGITS,
    XENT_OPENMP_VERSION,
    Groups,
    Plan,
    StoredMatrices,
    StoredMatrix,
    check_labels,
    kernels_of_kind,
    make_plan,
    process_rows,
    process_vjp_rows,
    read_labels,
    shard_kernels_of,
    softmax_kernels_of,
    sum_of,
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._kernels cimport (
    XENT_AS_COMPUTED,
    XENT_BFLOAT16,
    XENT_BLOCK_STATISTICS,
    XENT_DENSE_TARGETS,
    XENT_FLOAT16,
    XENT_FLOAT32,
    XENT_FLOAT64,
    XENT_GRADIENT,
    XENT_INDEX_TARGETS,
    XENT_INT8,
    XENT_INT16,
    XENT_INT32,
    XENT_INT64,
    XENT_LOG_PROBABILITIES,
    XENT_PROBABILITIES,
    XENT_SHAPED_TARGETS,
    XENT_SMOOTHED_TARGETS,
    XENT_UINT8,
    XENT_UINT16,
    XENT_UINT32,
    XENT_UINT64,
    xent_batch,
    xent_dtype,
    xent_label_type,
    xent_labels,
    xent_output,
    xent_row_kernels,
    xent_storage,
    xent_target_kind,
    XENT_MEASURE,
    XENT_ROW_STATISTICS,
    XENT_SETTLE,
    XENT_TARGET_CLASS,
    XENT_TARGET_LOGIT,
    XENT_TARGET_WEIGHT,
    XENT_TARGETS_HERE,
    XENT_WRITE,
    xent_shard,
    xent_shard_kernels,
)

cnp.import_array()

# The engine's own, under the name of the module that everything else asks.
available_isas = _engine.available_isas
configuration = _engine.configuration
set_waiting = _engine.set_waiting
use_isa = _engine.use_isa


cdef extern from "Python.h":
    ctypedef struct PyFloatObject:
        double ob_fval


cdef extern from "numpy/ndarraytypes.h":
    enum:
        NPY_USERDEF  # the first number of a dtype that NumPy does not have itself


cdef extern from "_tuples.h":
    object xent_new_pair(PyTypeObject *type, object first, object second)


cdef enum:
    # Where classes lie apart and rows side by side, fewer rows than these are copied first.
    FEWEST_ROWS_APART = 8

cdef enum Reduction:
    UNKNOWN_REDUCTION = -1
    MEAN
    SUM
    NONE

cdef struct AddressRange:
    const char *low
    const char *high

# What a call asks for besides its arrays.
cdef struct Options:
    double label_smoothing
    double temperature
    double z_loss
    double scale
    Reduction reduction
    bint with_grad
    bint with_statistics
    int num_threads  # 0: ours to choose

cdef object LossAndGrad = _result.LossAndGrad
cdef object LossAndStatistics = _result.LossAndStatistics
cdef object LossGradAndStatistics = _result.LossGradAndStatistics
cdef object RowStatistics = _result.RowStatistics
cdef object UINT64_LAST = 2**64 - 1

# How a caller's arrays became the rows of a batch, and how results are shaped like them again.
cdef class Rearrangement:
    cdef object targets            # as given
    cdef int axis                  # of the classes
    cdef tuple axes                # all of them, in the order that they were taken in
    cdef tuple row_shape
    cdef object grad               # what the caller gets
    cdef cnp.ndarray last_copy_to  # None where the kernels write the gradient to its place
    cdef cnp.ndarray last_copy_from

    def rows_as_given(self, values):
        return rows_as_given(values, self.axes, self.axis, self.row_shape)


include "_arguments.pxi"
include "_layouts.pxi"


# --- the two calls --------------------------------------------------------------------------------


def loss(
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature,
    z_loss, reduction, scale, return_statistics, num_threads
):
    """Return the loss alone; the arguments are those of `xent_fast.softmax_cross_entropy`."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(
            &options, label_smoothing, temperature, z_loss, reduction, scale, return_statistics,
            num_threads
        )
        options.with_grad = False
        return compute(&options, logits, targets, axis, weight, sample_weight, ignore_index, None)
    finally:
        xent_restore_mode(mode)


def loss_and_grad(
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature,
    z_loss, reduction, scale, return_statistics, num_threads, out
):
    """Return both; the arguments are those of `xent_fast.softmax_cross_entropy_grad`."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(
            &options, label_smoothing, temperature, z_loss, reduction, scale, return_statistics,
            num_threads
        )
        options.with_grad = True
        return compute(&options, logits, targets, axis, weight, sample_weight, ignore_index, out)
    finally:
        xent_restore_mode(mode)


cdef int read_options(
    Options *options,
    object label_smoothing,
    object temperature,
    object z_loss,
    object reduction,
    object scale,
    object return_statistics,
    object num_threads,
) except -1:
    options.label_smoothing = as_label_smoothing(label_smoothing)
    options.temperature = as_temperature(temperature)
    options.z_loss = as_z_loss(z_loss)
    options.reduction = as_reduction(reduction)
    options.scale = as_real(scale, "scale")
    options.with_statistics = return_statistics
    options.num_threads = as_thread_count(num_threads)
    return 0


cdef object compute(
    const Options *options,
    object logits,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object out,
):
    """Matrices whose classes are the last axis by the short way."""
    if is_matrix_of_rows(logits, axis):
        return compute_rows(
            options, logits, targets, weight, sample_weight, ignore_index, out
        )
    return compute_rearranged(
        options, logits, targets, axis, weight, sample_weight, ignore_index, out
    )


cdef inline object packed(const Options *options, object loss, object grad, object statistics):
    """What the caller gets of the three."""
    if options.with_statistics:
        if options.with_grad:
            return LossGradAndStatistics(loss, grad, statistics)
        return LossAndStatistics(loss, statistics)
    if options.with_grad:
        return xent_new_pair(<PyTypeObject *>LossAndGrad, loss, grad)
    return loss


cdef object compute_rows(
    const Options *options,
    object given_logits,
    object given_targets,
    object given_weight,
    object given_sample_weight,
    object ignore_index,
    object out,
):
    """What the caller gets for a matrix."""
    cdef cnp.ndarray destination = None
    cdef cnp.ndarray logits = as_logits(given_logits, out)
    if out is not None:
        destination = as_destination(out, logits)
    return compute_checked(
        options,
        logits,
        as_targets(given_targets, logits, destination),
        as_class_weight(given_weight, logits),
        as_sample_weight(given_sample_weight, logits, destination),
        ignore_index,
        destination,
        out,
        None,
    )


cdef object compute_checked(
    const Options *options,
    cnp.ndarray logits,
    cnp.ndarray targets,
    cnp.ndarray weight,
    cnp.ndarray sample_weight,
    object ignore_index,
    cnp.ndarray destination,
    object out,
    Rearrangement rearrangement,
):
    """The same for logits (rows, classes) or (groups, rows, classes); each argument is checked.

    Dense targets and `destination` have the logits' shape, labels and weights one entry a row.
    The result is made before its numbers are known, so that nothing can fail once they are written.
    """
    cdef xent_batch batch
    cdef Groups groups
    cdef StoredMatrices stored
    cdef Plan plan
    cdef cnp.ndarray row_loss = None
    cdef cnp.ndarray working = None      # where the kernels write the gradient
    cdef cnp.ndarray source              # where they read the logits
    cdef cnp.ndarray lse = None
    cdef cnp.ndarray prediction = None
    cdef cnp.ndarray class_number = None  # the prediction again, of NumPy's type for indices
    cdef cnp.ndarray is_correct = None
    cdef cnp.ndarray target_classes = None
    cdef xent_labels target_labels
    cdef object loss, grad, statistics = None
    cdef double loss_sum
    cdef bint is_void

    # What the arguments say together.
    describe_rows(&batch, options, logits, targets, weight, sample_weight, ignore_index)
    check_signs(&batch, options.reduction, weight, rearrangement)
    cdef double denominator = check_labels_and_sum_weights(
        &batch, targets, weight, rearrangement
    )
    if options.reduction == MEAN and must_rescale(&batch, denominator):
        sample_weight = rescaled(sample_weight)
        weight = rescaled_classes(&batch, weight)
        describe_rows(&batch, options, logits, targets, weight, sample_weight, ignore_index)
        denominator = check_labels_and_sum_weights(&batch, targets, weight, rearrangement)
    batch.weight_factor = options.scale
    if options.reduction == MEAN:
        batch.weight_factor = options.scale / denominator
    is_void = options.reduction == MEAN and denominator == 0

    # Every allocation.
    if options.reduction == NONE:
        row_loss = empty_rows(batch.rows, computed_type_number(logits))
        loss = row_loss
    else:
        loss = NAN  # a float that nobody else has seen
    if options.with_statistics:
        lse = empty_rows(batch.rows, computed_type_number(logits))
        prediction = empty_rows(batch.rows, cnp.NPY_INT64)
        class_number = prediction
        if sizeof(cnp.npy_intp) != sizeof(int64_t):
            class_number = empty_rows(batch.rows, cnp.NPY_INTP)
        is_correct = empty_rows(batch.rows, cnp.NPY_BOOL)
        target_classes = targets if cnp.PyArray_NDIM(targets) == 1 else first_largest(targets)
        describe_labels(&target_labels, target_classes, None)
        statistics = RowStatistics(lse, class_number, is_correct)
    if options.with_grad:
        if destination is None:
            destination = empty_like(logits)
        working = destination if is_for_kernels(destination) else empty_like(destination)
    if is_for_kernels(logits):
        source = logits
    else:
        source = working if options.with_grad and not is_void else empty_like(logits)
    point_batch_at(&batch, source, None if is_void else working, row_loss, lse, prediction)
    describe_groups(&groups, source, working, targets)
    describe_stored(&stored, &batch, sizeof(batch), source, working, targets)
    grad = destination if out is None else out
    if rearrangement is not None:
        grad = rearrangement.grad
        if options.reduction == NONE:
            loss = rearrangement.rows_as_given(row_loss)
        if options.with_statistics:
            statistics = RowStatistics(*map(rearrangement.rows_as_given, statistics))
    result = packed(options, loss, grad, statistics)
    make_plan(
        &plan, &batch, &groups, if_in_16_bits(&stored), kernels_for(&batch, logits),
        options.num_threads
    )

    # The first write to memory of the caller, and all others. A copy fails before it writes, if at
    # all, and nothing else allocates.
    try:
        loss_sum = NAN
        if not is_void or options.with_statistics:
            if source is not logits:
                cnp.PyArray_CopyInto(source, logits)
            loss_sum = process_rows(&plan)
        if is_void:
            loss_sum = NAN
            if working is not None:
                working.fill(0)
        if options.reduction != NONE:
            (<PyFloatObject *>loss).ob_fval = loss_sum
        if options.with_statistics:
            judge_predictions(&target_labels, prediction, class_number, is_correct)
        if working is not destination:
            cnp.PyArray_CopyInto(destination, working)
        if rearrangement is not None and rearrangement.last_copy_to is not None:
            cnp.PyArray_CopyInto(rearrangement.last_copy_to, rearrangement.last_copy_from)
    finally:
        free(plan.memory)
    return result


cdef void judge_predictions(
    const xent_labels *targets,
    cnp.ndarray prediction,
    cnp.ndarray class_number,
    cnp.ndarray is_correct,
) noexcept:
    """Fill in whether each prediction is the row's class, and the prediction as an index."""
    cdef const int64_t *predicted = <const int64_t *>cnp.PyArray_DATA(prediction)
    cdef cnp.npy_intp *indices = <cnp.npy_intp *>cnp.PyArray_DATA(class_number)
    cdef cnp.npy_bool *correct = <cnp.npy_bool *>cnp.PyArray_DATA(is_correct)
    cdef int64_t rows = cnp.PyArray_DIM(prediction, 0)
    cdef int64_t some_targets[256]
    cdef int64_t first, count, row
    for first in range(0, rows, 256):
        count = min(rows - first, <int64_t>256)
        read_labels(targets, first, count, some_targets)
        for row in range(first, first + count):
            correct[row] = predicted[row] >= 0 and predicted[row] == some_targets[row - first]
            indices[row] = <cnp.npy_intp>predicted[row]


cdef object first_largest(object targets):
    if targets.size == 0:
        return np.empty(0, dtype=np.intp)
    return targets.argmax(axis=targets.ndim - 1).reshape(-1)


# --- any number of dimensions ---------------------------------------------------------------------


cdef object compute_rearranged(
    const Options *options,
    object given_logits,
    object given_targets,
    object given_axis,
    object given_weight,
    object given_sample_weight,
    object ignore_index,
    object out,
):
    """`compute_rows` for any number of dimensions, with the classes along any axis."""
    cdef Rearrangement rearrangement = Rearrangement()
    cdef cnp.ndarray sample_weight = None
    logits = as_float_array(given_logits, "logits", out)
    axis = as_axis(given_axis, logits, "logits")
    row_shape = without_axis(logits.shape, axis)
    destination = None if out is None else as_output(out, logits, "logits")
    if out is not None:
        check_overlap(destination, logits, "logits")
    targets = as_any_targets(given_targets, logits, row_shape, axis)
    if destination is not None and shares_memory(targets, destination):
        raise ValueError("out shares memory with targets")
    weight = as_class_weight(given_weight, np.moveaxis(logits, axis, logits.ndim - 1))
    axes = axes_by_stride(logits, axis)
    if given_sample_weight is not None:
        weights = as_weights(given_sample_weight, row_shape, "sample_weight")
        sample_weight = copied_doubles(rows_in_order(weights, axes, axis))

    if destination is None and options.with_grad:
        destination = np.empty_like(logits, dtype=logits.dtype.type, subok=False)
    rearrangement.targets = targets
    rearrangement.axis = axis
    rearrangement.axes = axes
    rearrangement.row_shape = row_shape
    rearrangement.grad = destination if out is None else out
    is_dense = not cnp.PyArray_ISINTEGER(targets)
    matrices = [logits.transpose(axes)]
    if destination is not None:
        matrices.append(destination.transpose(axes))
    if is_dense:
        if not is_read_as_stored(targets, logits) or not targets.dtype.isnative:
            targets = cast_copy(targets, computed_type(logits), "K")
        matrices.append(targets.transpose(axes))
    else:
        targets = rows_in_order(targets, axes, axis)
        targets = targets.astype(targets.dtype.newbyteorder("="), copy=False)
    grouped = as_groups(matrices)
    if grouped is None:
        dtype = logits.dtype if destination is None else destination.dtype
        grouped = [copied_rows(matrices[0], dtype)]
        if destination is not None:
            grouped.append(grouped[0])  # the gradient takes the copy's place
        if is_dense:
            grouped.append(copied_rows(matrices[len(matrices) - 1], targets.dtype))
        if destination is not None:
            rearrangement.last_copy_to = matrices[1]
            rearrangement.last_copy_from = grouped[1].reshape(matrices[1].shape)
    return compute_checked(
        options,
        grouped[0],
        grouped[len(grouped) - 1] if is_dense else targets,
        weight,
        sample_weight,
        ignore_index,
        None if destination is None else grouped[1],
        None,
        rearrangement,
    )


# --- a batch whose logits come in chunks ----------------------------------------------------------


def settle_batch(
    logits_shape, dtype, targets, weight, sample_weight, ignore_index, label_smoothing, temperature,
    z_loss, reduction, scale, num_threads
):
    """Check a loss's arguments for logits that do not exist yet, and settle what its rows share.

    `logits_shape` has the classes last, `dtype` is float32 or float64. Return what calls on some of
    the rows take: targets, one label a row as a copy or dense ones as rows; class weights and row
    weights, copies or None; and the scale with which the rows' sum is the loss, None where that is
    a mean over nothing.
    """
    cdef Options options
    cdef xent_batch batch
    cdef Rearrangement rearrangement = Rearrangement()
    cdef cnp.ndarray labels
    cdef int axis = len(logits_shape) - 1
    read_options(
        &options, label_smoothing, temperature, z_loss, reduction, scale, False, num_threads
    )
    logits = np.broadcast_to(dtype(0), logits_shape)  # one number in memory
    row_shape = tuple(logits_shape[:axis])
    rows = logits.reshape(-1, logits_shape[axis])
    given_targets = as_any_targets(targets, logits, row_shape, axis)
    class_weight = None
    if weight is not None:
        class_weight = as_weights(weight, logits_shape[axis:], "class_weight")
        class_weight = as_class_weight(class_weight, rows)
    row_weight = None
    if sample_weight is not None:
        row_weight = copied_doubles(as_weights(sample_weight, row_shape, "sample_weight"))
        row_weight = row_weight.reshape(-1)
    if given_targets.shape == row_shape:
        native = given_targets.dtype.newbyteorder("=")
        labels = np.array(given_targets, dtype=native, order="C").reshape(-1)
        rows_of_targets = labels
    else:
        rows_of_targets = given_targets.reshape(rows.shape)
        labels = rows  # as good as any dense targets, none of which is read
    rearrangement.targets = given_targets
    rearrangement.axis = axis
    rearrangement.axes = tuple(range(axis + 1))
    rearrangement.row_shape = row_shape
    describe_rows(&batch, &options, rows, labels, class_weight, row_weight, ignore_index)
    check_signs(&batch, options.reduction, None, rearrangement)
    if class_weight is not None and batch.dense_targets == NULL and options.reduction == MEAN:
        check_sign(class_weight, "class_weight")
    cdef double denominator = check_labels_and_sum_weights(
        &batch, labels, class_weight, rearrangement
    )
    if options.reduction != MEAN:
        factor = options.scale
    elif denominator == 0:
        factor = None
    else:
        factor = options.scale / denominator
    return rows_of_targets, class_weight, row_weight, factor


def repeats_itself(array):
    """Whether two entries of an array may share bytes."""
    return may_repeat_itself(array)


# --- softmax itself -------------------------------------------------------------------------------


def probabilities(given_logits, given_axis, logarithms, out, num_threads, temperature=1.0):
    """Return `xent_fast.softmax` or, with `logarithms`, `xent_fast.log_softmax`."""
    cdef double divisor = as_temperature(temperature)
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        return any_probabilities(given_logits, given_axis, logarithms, out, num_threads, divisor)
    finally:
        xent_restore_mode(mode)


cdef object any_probabilities(
    object given_logits,
    object given_axis,
    bint logarithms,
    object out,
    object num_threads,
    double temperature,
):
    cdef xent_output output = XENT_LOG_PROBABILITIES if logarithms else XENT_PROBABILITIES
    cdef int threads = as_thread_count(num_threads)
    logits = as_float_array(given_logits, "logits", out)
    axes = axes_by_stride(logits, as_axis(given_axis, logits, "logits"))
    if out is None:
        destination = np.empty_like(logits, dtype=logits.dtype.type, subok=False)
    else:
        destination = as_output(out, logits, "logits")
        check_overlap(destination, logits, "logits")
    moved = destination.transpose(axes)
    grouped = as_groups([logits.transpose(axes), moved])
    if grouped is not None:
        compute_softmax(grouped[0], grouped[1], output, threads, temperature)
    else:
        rows = copied_rows(logits.transpose(axes), destination.dtype)
        compute_softmax(rows, rows, output, threads, temperature)
        np.copyto(moved, rows.reshape(moved.shape))
    return destination if out is None else out


def log_sum_of_exponentials(given_logits, given_axis, keepdims, out, num_threads):
    """Return `xent_fast.logsumexp`; the arguments are the same."""
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        return any_log_sum_of_exponentials(given_logits, given_axis, keepdims, out, num_threads)
    finally:
        xent_restore_mode(mode)


cdef object any_log_sum_of_exponentials(
    object given_logits, object given_axis, bint keepdims, object out, object num_threads
):
    cdef int threads = as_thread_count(num_threads)
    logits = as_float_array(given_logits, "logits", out)
    axis = as_axis(given_axis, logits, "logits")
    row_shape = without_axis(logits.shape, axis)
    shape = (*row_shape[:axis], 1, *row_shape[axis:]) if keepdims else row_shape
    if out is not None:
        computed = computed_type(logits)
        destination = as_output_of_shape(
            out, np.dtype(computed), computed, logits, "logits", shape, "the result's shape"
        )
        if shares_memory(destination, logits):
            raise ValueError("out shares memory with logits")
    axes = axes_by_stride(logits, axis)
    moved = logits.transpose(axes)
    grouped = as_groups([moved])
    rows = copied_rows(moved, logits.dtype) if grouped is None else grouped[0]
    lse = compute_softmax(rows, None, XENT_PROBABILITIES, threads, 1.0)
    if has_nan(lse):  # NaN, +inf or nothing but -inf: the largest logit is the answer
        undefined = np.isnan(lse).reshape(moved.shape[:moved.ndim - 1])
        with np.errstate(all="ignore"):
            lse.reshape(undefined.shape)[undefined] = moved[undefined].max(axis=1)
    result = rows_as_given(lse, axes, axis, row_shape).reshape(shape)
    if out is None:
        return result
    cnp.PyArray_CopyInto(destination, result)
    return out


cdef bint has_nan(cnp.ndarray values) noexcept:
    """Of one contiguous axis of float32 or float64."""
    cdef const float *singles = <const float *>cnp.PyArray_DATA(values)
    cdef const double *doubles = <const double *>cnp.PyArray_DATA(values)
    cdef bint is_single = cnp.PyArray_TYPE(values) == cnp.NPY_FLOAT32
    cdef cnp.npy_intp i
    for i in range(cnp.PyArray_SIZE(values)):
        if singles[i] != singles[i] if is_single else doubles[i] != doubles[i]:
            return True
    return False


cdef object compute_softmax(
    cnp.ndarray rows, cnp.ndarray out, xent_output output, int threads, double temperature
):
    """Write probabilities or their logarithms to `out`, unless it is None; return every lse.

    Both are as `as_groups` gives them. The kernels see smoothed targets of no weight, all of
    class 0: they leave the largest exponential out of the sum, which keeps small differences.
    """
    cdef Options options
    cdef xent_batch batch
    cdef Groups groups
    cdef StoredMatrices stored
    cdef Plan plan
    cdef cnp.ndarray first_class = np.zeros(1, dtype=np.int8)
    read_options(&options, 0.0, temperature, 0.0, "sum", 1.0, False, None)
    describe_rows(&batch, &options, rows, first_class, None, None, None)
    cdef cnp.ndarray lse = empty_rows(batch.rows, computed_type_number(rows))
    batch.labels.stride = 0
    batch.weight_factor = 0.0
    batch.output = output
    point_batch_at(&batch, rows, out, None, lse, None)
    describe_groups(&groups, rows, out, first_class)
    describe_stored(&stored, &batch, sizeof(batch), rows, out, first_class)
    make_plan(
        &plan, &batch, &groups, if_in_16_bits(&stored), kernels_of(rows, XENT_SMOOTHED_TARGETS),
        threads
    )
    try:
        process_rows(&plan)
    finally:
        free(plan.memory)
    return lse


# --- the batch ------------------------------------------------------------------------------------


cdef int describe_rows(
    xent_batch *batch,
    const Options *options,
    cnp.ndarray logits,
    cnp.ndarray targets,
    cnp.ndarray weight,
    cnp.ndarray sample_weight,
    object ignore_index,
) except -1:
    cdef int last = cnp.PyArray_NDIM(logits) - 1
    batch.rows = cnp.PyArray_DIM(logits, 0)
    if last == 2:
        batch.rows *= cnp.PyArray_DIM(logits, 1)
    batch.classes = cnp.PyArray_DIM(logits, last)
    batch.label_smoothing = options.label_smoothing
    batch.temperature = options.temperature
    batch.z_loss = options.z_loss
    batch.output = XENT_GRADIENT
    batch.class_weight = NULL if weight is None else cnp.PyArray_BYTES(weight)
    batch.sample_weight = NULL
    if sample_weight is not None:
        batch.sample_weight = <const double *>cnp.PyArray_DATA(sample_weight)
    batch.dense_targets = NULL
    batch.dense_targets_row_stride = 0
    batch.dense_targets_class_stride = 0
    if cnp.PyArray_NDIM(targets) == 1:
        return describe_labels(&batch.labels, targets, ignore_index)
    if ignore_index is not None:
        raise ValueError("ignore_index needs targets that are class indices, not dense targets")
    memset(&batch.labels, 0, sizeof(batch.labels))
    batch.dense_targets = cnp.PyArray_BYTES(targets)
    batch.dense_targets_row_stride = row_stride_of(targets)
    batch.dense_targets_class_stride = class_stride_of(targets)
    return 0


cdef double check_labels_and_sum_weights(
    const xent_batch *batch,
    cnp.ndarray targets,
    cnp.ndarray weight,
    Rearrangement rearrangement,
) except? -1.0:
    """What "mean" divides by: the number of rows that count, or the sum of their weights."""
    cdef int64_t counted_rows = 0
    cdef int64_t bad_row
    cdef double weight_sum = 0.0
    cdef const char *weights = NULL
    cdef xent_dtype dtype = XENT_FLOAT32
    if batch.dense_targets != NULL:
        counted_rows = batch.rows
        if batch.sample_weight != NULL:
            weight_sum = sum_of(batch.sample_weight, batch.rows)
    else:
        if weight is not None:
            weights = cnp.PyArray_BYTES(weight)
            dtype = dtype_of(weight)
        if batch.rows < UNLOCKED_LOGITS:
            bad_row = check_labels(batch, weights, dtype, &counted_rows, &weight_sum)
        else:
            with nogil:
                bad_row = check_labels(batch, weights, dtype, &counted_rows, &weight_sum)
        if bad_row >= 0:
            raise_label_error(
                targets, bad_row, batch.classes, batch.labels.has_ignore_index, rearrangement
            )
    if batch.sample_weight == NULL and weights == NULL:
        return <double>counted_rows
    return weight_sum


cdef inline bint must_rescale(const xent_batch *batch, double denominator) noexcept:
    """Whether the weights' sum, or its inverse, leaves the normal numbers; a mean does not."""
    return (batch.sample_weight != NULL or batch.class_weight != NULL) and not (
        1e-290 < abs(denominator) < 1e290
    )


cdef cnp.ndarray rescaled(cnp.ndarray weights):
    """The same weights times a power of two that makes the largest about 1."""
    if weights is None:
        return None
    with np.errstate(all="ignore"):
        largest = np.abs(weights).max(initial=0.0)
        if not 0 < largest < INFINITY:
            return weights
        return np.ldexp(weights, -np.frexp(largest)[1])


cdef cnp.ndarray rescaled_classes(const xent_batch *batch, cnp.ndarray weight):
    """Class weights, where the mean divides by them too and nothing is free of them."""
    if batch.dense_targets != NULL or batch.z_loss != 0:
        return weight
    return rescaled(weight)


cdef inline cnp.ndarray empty_like(cnp.ndarray logits):
    """Native numbers of the logits' shape and type, in Fortran order where the logits are in it."""
    cdef bint is_fortran = (
        cnp.PyArray_NDIM(logits) == 2 and is_for_kernels(logits) and class_stride_of(logits) != 0
    )
    return cnp.PyArray_EMPTY(
        cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), cnp.PyArray_TYPE(logits), is_fortran
    )


cdef inline cnp.ndarray empty_rows(cnp.npy_intp rows, int type_number):
    """One number a row."""
    return cnp.PyArray_EMPTY(1, &rows, type_number, 0)


cdef inline void point_batch_at(
    xent_batch *batch,
    cnp.ndarray source,
    cnp.ndarray working,
    cnp.ndarray row_loss,
    cnp.ndarray lse,
    cnp.ndarray prediction,
) noexcept:
    batch.logits = cnp.PyArray_BYTES(source)
    batch.logits_row_stride = row_stride_of(source)
    batch.logits_class_stride = class_stride_of(source)
    batch.grad = NULL
    batch.grad_row_stride = 0
    batch.grad_class_stride = 0
    if working is not None:
        batch.grad = cnp.PyArray_BYTES(working)
        batch.grad_row_stride = row_stride_of(working)
        batch.grad_class_stride = class_stride_of(working)
    batch.row_loss = NULL if row_loss is None else cnp.PyArray_BYTES(row_loss)
    batch.lse = NULL if lse is None else cnp.PyArray_BYTES(lse)
    batch.prediction = NULL if prediction is None else <int64_t *>cnp.PyArray_DATA(prediction)


cdef inline void describe_groups(
    Groups *groups, cnp.ndarray source, cnp.ndarray working, cnp.ndarray targets
) noexcept:
    """`targets` count only if they are dense."""
    groups.real_bytes = sizeof(double) if dtype_of(source) == XENT_FLOAT64 else sizeof(float)
    groups.count = 1
    groups.rows = cnp.PyArray_DIM(source, 0)
    groups.logits_stride = groups.grad_stride = groups.targets_stride = 0
    if cnp.PyArray_NDIM(source) == 2:
        return
    groups.count = groups.rows
    groups.rows = cnp.PyArray_DIM(source, 1)
    groups.logits_stride = cnp.PyArray_STRIDE(source, 0)
    if working is not None:
        groups.grad_stride = cnp.PyArray_STRIDE(working, 0)
    if cnp.PyArray_NDIM(targets) == 3:
        groups.targets_stride = cnp.PyArray_STRIDE(targets, 0)


cdef inline void describe_stored(
    StoredMatrices *stored,
    const xent_batch *batch,
    size_t batch_bytes,
    cnp.ndarray source,
    cnp.ndarray working,
    cnp.ndarray targets,
) noexcept:
    """How the matrices of a batch lie in memory, of a function's batch those that all begin with.

    `targets` count only if they are dense; without `batch.grad` nothing is written to `working`.
    """
    begin_stored(stored, batch_bytes)
    add_matrix(
        stored, batch, &batch.logits, &batch.logits_row_stride, &batch.logits_class_stride, source
    ).is_read = True
    if batch.grad != NULL:
        add_result(
            stored, batch, &batch.grad, &batch.grad_row_stride, &batch.grad_class_stride, working,
            True
        )
    if batch.dense_targets != NULL:
        add_matrix(
            stored, batch, &batch.dense_targets, &batch.dense_targets_row_stride,
            &batch.dense_targets_class_stride, targets
        ).is_read = True


cdef inline void begin_stored(StoredMatrices *stored, size_t batch_bytes) noexcept:
    """Of a batch without factors of its rows, until they are noted."""
    stored.batch_bytes = batch_bytes
    stored.count = 0
    stored.in_16_bits = 0
    stored.row_factor = 0
    stored.row_factor_step = 0


cdef inline void add_result(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    cnp.ndarray array,
    bint takes_first_place,
) noexcept:
    cdef StoredMatrix *matrix = add_matrix(
        stored, batch, address, row_stride, class_stride, array
    )
    matrix.is_written = True
    matrix.takes_first_place = takes_first_place


cdef inline StoredMatrix *add_matrix(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    cnp.ndarray array,
) noexcept:
    """Note where a batch has a matrix; a batch without strides of its classes names its rows'."""
    cdef StoredMatrix *matrix = &stored.matrices[stored.count]
    stored.count += 1
    matrix.storage = storage_of(array)
    if matrix.storage != XENT_AS_COMPUTED:
        stored.in_16_bits += 1
    matrix.address = <const char *>address - <const char *>batch
    matrix.row_stride = <const char *>row_stride - <const char *>batch
    matrix.class_stride = <const char *>class_stride - <const char *>batch
    matrix.group_stride = 0
    if cnp.PyArray_NDIM(array) == 3:
        matrix.group_stride = cnp.PyArray_STRIDE(array, 0)
    matrix.is_read = False
    matrix.is_written = False
    matrix.takes_first_place = False
    return matrix


cdef inline const StoredMatrices *if_in_16_bits(const StoredMatrices *stored) noexcept:
    return stored if stored.in_16_bits > 0 else NULL


cdef inline const xent_row_kernels *kernels_for(
    const xent_batch *batch, cnp.ndarray logits
) noexcept:
    cdef bint is_shaped
    cdef xent_target_kind target_kind = XENT_INDEX_TARGETS
    if batch.dense_targets != NULL:
        is_shaped = batch.label_smoothing != 0 or batch.class_weight != NULL
        target_kind = XENT_SHAPED_TARGETS if is_shaped else XENT_DENSE_TARGETS
    elif batch.label_smoothing != 0 or (batch.z_loss != 0 and batch.class_weight != NULL):
        # The z-loss of a row carries no class weight, so that the weight belongs to the mass.
        target_kind = XENT_SMOOTHED_TARGETS
    return kernels_of(logits, target_kind)


cdef inline const xent_row_kernels *kernels_of(
    cnp.ndarray logits, xent_target_kind target_kind
) noexcept:
    return kernels_of_kind(dtype_of(logits), target_kind)


# --- the functions of the derivation --------------------------------------------------------------


include "_derivatives.pxi"
include "_softmax_functions.pxi"
include "_grad_hessian.pxi"
include "_entropy.pxi"
include "_class_statistics.pxi"
