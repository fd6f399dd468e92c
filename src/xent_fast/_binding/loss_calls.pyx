"""The loss, with or without its gradient: check, allocate, write.

Knows: which steps a call takes, in which order. Must not know: the mathematics, threads.
"""

import numpy as np

cimport numpy as cnp
from cpython.object cimport PyTypeObject
from libc.math cimport NAN
from libc.stdint cimport int64_t
from libc.stdlib cimport free

from xent_fast import _result

from xent_fast._binding.arguments cimport (
    as_any_targets,
    as_axis,
    as_class_weight,
    as_destination,
    as_float_array,
    as_logits,
    as_output,
    as_sample_weight,
    as_targets,
    as_weights,
    check_overlap,
    check_sign,
    is_matrix_of_rows,
)
from xent_fast._binding.arrays cimport (
    Rearrangement,
    as_groups,
    axes_by_stride,
    cast_copy,
    computed_type,
    computed_type_number,
    copied_doubles,
    copied_rows,
    empty_like,
    empty_rows,
    is_for_kernels,
    is_read_as_stored,
    rows_in_order,
    shares_memory,
    without_axis,
)
from xent_fast._binding.batch cimport (
    PyFloatObject,
    check_labels_and_sum_weights,
    check_signs,
    describe_groups,
    describe_labels,
    describe_rows,
    describe_stored,
    if_in_16_bits,
    kernels_for,
    must_rescale,
    point_batch_at,
    rescaled,
    rescaled_classes,
    xent_new_pair,
)
from xent_fast._binding.engine cimport (
    Groups,
    Plan,
    StoredMatrices,
    make_plan,
    process_rows,
    read_labels,
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.kernels cimport xent_batch, xent_labels
from xent_fast._binding.options cimport MEAN, NONE, Options, read_options

cnp.import_array()

cdef object LossAndGrad = _result.LossAndGrad
cdef object LossAndStatistics = _result.LossAndStatistics
cdef object LossGradAndStatistics = _result.LossGradAndStatistics
cdef object RowStatistics = _result.RowStatistics


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
