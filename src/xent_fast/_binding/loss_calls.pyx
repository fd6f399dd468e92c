"""The loss, with or without its gradient: check, allocate, write.

Knows: which steps a call takes, in which order. Must not know: the mathematics, threads.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t

from xent_fast import _result

from xent_fast._binding.arguments cimport (
    Given,
    as_class_weight,
    as_grad_output,
    as_row_factors,
    as_sample_weight,
    as_targets,
    as_weights,
    given_arrays,
    given_logits,
    is_ordinary,
)
from xent_fast._binding.arrays cimport (
    Layout,
    computed_type_number,
    dtype_of,
    empty_like,
    empty_rows,
)
from xent_fast._binding.batch cimport (
    any_in_16_bits,
    describe_groups,
    describe_plain_labels,
    loss_of_rows,
    point_at_factors,
    point_batch_at,
    run,
    settle_rows,
    xent_new_pair,
)
from xent_fast._binding.instruction_sets cimport kernels_for, read_labels
from xent_fast._binding.kernels cimport xent_batch, xent_labels
from xent_fast._binding.options cimport NONE, Options, read_options
from xent_fast._binding.stored cimport Groups, StoredMatrices, describe_stored

cnp.import_array()

cdef object LossAndGrad = _result.LossAndGrad
cdef object LossAndStatistics = _result.LossAndStatistics
cdef object LossGradAndStatistics = _result.LossGradAndStatistics
cdef object RowStatistics = _result.RowStatistics


cdef object compute(
    const Options *options,
    object logits,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object grad_output,
    object out,
):
    """The loss, with its gradient or alone: the short way, or that of arrays of any shape, axis and
    layout. The calling thread is in the default float mode."""
    cdef cnp.ndarray rows, destination
    cdef cnp.ndarray row_factors = None
    if not is_ordinary(logits, axis, out):
        return compute_any(
            options, logits, targets, axis, weight, sample_weight, ignore_index, grad_output, out
        )
    rows = <cnp.ndarray>logits
    destination = None if out is None else <cnp.ndarray>out
    if grad_output is not None:
        row_factors = as_grad_output(
            grad_output, (cnp.PyArray_DIM(rows, 0),), options.reduction == NONE
        )
    return compute_rows(
        options,
        rows,
        as_targets(targets, rows, destination),
        as_class_weight(weight, rows, destination),
        as_sample_weight(sample_weight, rows, destination),
        ignore_index,
        row_factors,
        destination,
        out,
        None,
    )


cdef object compute_any(
    const Options *options,
    object logits,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object grad_output,
    object out,
):
    cdef Given given = given_arrays(logits, "logits", targets, axis, weight, sample_weight, out)
    inputs, outputs = [given.logits], []
    if given.dense is not None:
        inputs.append(given.dense)
    grad = out
    if options.with_grad:
        outputs.append(given.output(out))
        grad = outputs[0] if out is None else out
    matrices = given.layout.matrices(inputs, outputs)
    return compute_rows(
        options,
        matrices[0],
        given.labels if given.dense is None else matrices[1],
        given.weight,
        given.sample_weight,
        ignore_index,
        as_row_factors(grad_output, given.layout, options.reduction == NONE),
        matrices[len(inputs)] if options.with_grad else None,
        grad,
        given.layout,
    )


cdef object compute_rows(
    const Options *options,
    cnp.ndarray logits,
    cnp.ndarray targets,
    cnp.ndarray weight,
    cnp.ndarray sample_weight,
    object ignore_index,
    cnp.ndarray grad_output,
    cnp.ndarray working,
    object grad,
    Layout layout,
):
    """What the caller gets for checked arrays that kernels take as they lie.

    Logits are (rows, classes) or (groups, rows, classes), dense targets and `working`, where the
    gradient is written, alike; labels and weights have one entry a row, `grad_output` one or as
    many. `grad` is what the caller gets, None for a new array; `layout` is None for a matrix.
    """
    cdef xent_batch batch
    cdef Groups groups
    cdef StoredMatrices stored
    cdef const StoredMatrices *if_stored = NULL
    cdef cnp.ndarray row_loss = None
    cdef Judgement judgement = None
    cdef object statistics = None
    cdef bint is_void
    _kept = settle_rows(
        &batch, options, logits, targets, weight, sample_weight, ignore_index, layout, &is_void
    )

    if grad_output is not None:
        point_at_factors(&batch.grad_output, &batch.grad_output_step, grad_output)

    # Every allocation.
    if options.with_grad and working is None:
        working = grad = empty_like(logits)
    if options.reduction == NONE:
        row_loss = empty_rows(batch.rows, computed_type_number(logits))
    loss = loss_of_rows(options, row_loss, layout)
    if options.with_statistics:
        judgement = judgement_of(batch.rows, logits, targets)
        statistics = judgement.told(layout)
    result = packed(options, loss, grad, statistics)
    point_batch_at(&batch, logits, None if is_void else working, row_loss)
    if judgement is not None:
        batch.lse = cnp.PyArray_BYTES(judgement.lse)
        batch.prediction = <int64_t *>cnp.PyArray_DATA(judgement.prediction)
    describe_groups(&groups, logits)
    if any_in_16_bits(&batch):
        describe_stored(&stored, &batch, sizeof(batch), groups.real_bytes)
        if_stored = &stored
    to_fill = None
    if is_void:
        to_fill = [] if working is None else [(working, 0)]

    # All that is written.
    run(
        &batch, &groups, if_stored, kernels_for(&batch, dtype_of(logits)), options, loss, layout,
        to_fill
    )
    if judgement is not None:
        judgement.judge()
    return result


cdef inline object packed(const Options *options, object loss, object grad, object statistics):
    """What the caller gets of the three."""
    if options.with_statistics:
        if options.with_grad:
            return LossGradAndStatistics(loss, grad, statistics)
        return LossAndStatistics(loss, statistics)
    if options.with_grad:
        return xent_new_pair(<PyTypeObject *>LossAndGrad, loss, grad)
    return loss


# --- statistics -----------------------------------------------------------------------------------


# What is known of each row besides its loss.
@cython.final
cdef class Judgement:
    cdef cnp.ndarray lse
    cdef cnp.ndarray prediction
    cdef cnp.ndarray class_number  # the prediction again, of NumPy's type for indices
    cdef cnp.ndarray is_correct
    cdef cnp.ndarray targets       # class indices

    cdef object told(self, Layout layout):
        """What the caller gets, before its numbers are known."""
        if layout is None:
            return RowStatistics(self.lse, self.class_number, self.is_correct)
        return RowStatistics(
            layout.as_given(self.lse),
            layout.as_given(self.class_number),
            layout.as_given(self.is_correct),
        )

    cdef void judge(self) noexcept:
        """Fill in whether each prediction is the row's class, and the prediction as an index."""
        cdef const int64_t *predicted = <const int64_t *>cnp.PyArray_DATA(self.prediction)
        cdef cnp.npy_intp *indices = <cnp.npy_intp *>cnp.PyArray_DATA(self.class_number)
        cdef cnp.npy_bool *correct = <cnp.npy_bool *>cnp.PyArray_DATA(self.is_correct)
        cdef int64_t rows = cnp.PyArray_DIM(self.prediction, 0)
        cdef int64_t some_targets[256]
        cdef int64_t first, count, row
        cdef xent_labels labels
        describe_plain_labels(&labels, self.targets)
        for first in range(0, rows, 256):
            count = min(rows - first, <int64_t>256)
            read_labels(&labels, first, count, some_targets)
            for row in range(first, first + count):
                correct[row] = predicted[row] >= 0 and predicted[row] == some_targets[row - first]
                indices[row] = <cnp.npy_intp>predicted[row]


cdef Judgement judgement_of(int64_t rows, cnp.ndarray logits, cnp.ndarray targets):
    cdef Judgement judgement = Judgement()
    judgement.lse = empty_rows(rows, computed_type_number(logits))
    judgement.prediction = judgement.class_number = empty_rows(rows, cnp.NPY_INT64)
    if sizeof(cnp.npy_intp) != sizeof(int64_t):
        judgement.class_number = empty_rows(rows, cnp.NPY_INTP)
    judgement.is_correct = empty_rows(rows, cnp.NPY_BOOL)
    judgement.targets = targets if cnp.PyArray_NDIM(targets) == 1 else first_largest(targets)
    return judgement


cdef object first_largest(object targets):
    if targets.size == 0:
        return np.empty(0, dtype=np.intp)
    return targets.argmax(axis=targets.ndim - 1).reshape(-1)


# --- a batch whose logits come in chunks ----------------------------------------------------------


def settle_batch(
    logits_shape, dtype, targets, weight, sample_weight, ignore_index, label_smoothing, temperature,
    z_loss, reduction, scale, num_threads, axis=None, name="logits", weight_name="class_weight"
):
    """Check a loss's arguments for logits that do not exist yet, and settle what its rows share.

    `logits_shape` has the classes last or along `axis`, `dtype` is float32 or float64; errors call
    the logits `name` and the class weights `weight_name`. Return what calls on some of
    the rows take: targets, one label a row as a copy or dense ones as rows; class weights and row
    weights, copies or None; and the scale with which the rows' sum is the loss, None where that is
    a mean over nothing.
    """
    cdef Options options
    cdef xent_batch batch
    cdef Given given
    cdef bint is_void
    cdef int class_axis = len(logits_shape) - 1 if axis is None else axis
    cdef tuple classes = (logits_shape[class_axis],)
    read_options(
        &options, label_smoothing, temperature, z_loss, reduction, scale, False, num_threads
    )
    # One number in memory, whose steps keep the axes in order.
    logits = np.broadcast_to(dtype(0), logits_shape)
    if weight is not None:
        weight = as_weights(weight, classes, weight_name)
    given = given_logits(logits, name, class_axis, None)
    given.add_targets(targets, are_read=False)
    given.add_weights(weight, sample_weight)
    moved = given.layout.moved(logits)
    rows = moved.reshape(moved.size // max(classes[0], 1), classes[0])
    labels = rows  # as good as any dense targets, none of which is read
    if given.dense is None:
        rows_of_targets = labels = np.array(given.labels, order="C")
    else:
        rows_of_targets = given.layout.moved(given.dense).reshape(rows.shape)
    weights = settle_rows(
        &batch, &options, rows, labels, given.weight, given.sample_weight, ignore_index,
        given.layout, &is_void, weight_name
    )
    row_weight, class_weight = weights or (given.sample_weight, given.weight)
    return rows_of_targets, class_weight, row_weight, None if is_void else batch.weight_factor
