"""The loss's second order, and distillation: check, allocate, write.

Knows: what a caller may hand over, the batches that the kernels take for it.
Must not know: the mathematics, threads.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.object cimport PyTypeObject
from libc.math cimport INFINITY, NAN
from libc.stdlib cimport free

from xent_fast import _result

from xent_fast._binding.arguments cimport (
    as_any_targets,
    as_axis,
    as_class_weight,
    as_float_array,
    as_numbers_alike,
    as_output,
    as_targets,
    as_weights,
    check_overlap,
)
from xent_fast._binding.arrays cimport (
    Rearrangement,
    as_groups,
    axes_by_stride,
    cast_copy,
    class_stride_of,
    classes_last,
    computed_type,
    computed_type_number,
    copied_doubles,
    copied_rows,
    dtype_of,
    empty_rows,
    is_read_as_stored,
    plain_rows,
    row_stride_of,
    rows_as_given,
    rows_in_order,
    rows_in_place,
    shares_memory,
    without_axis,
)
from xent_fast._binding.batch cimport (
    PyFloatObject,
    add_matrix,
    add_result,
    check_labels_and_sum_weights,
    check_signs,
    describe_groups,
    describe_rows,
    describe_stored,
    if_in_16_bits,
    kernels_for,
    must_rescale,
    point_batch_at,
    rescaled,
    rescaled_classes,
    weight_factor_of,
    xent_new_pair,
)
from xent_fast._binding.engine cimport (
    Groups,
    Plan,
    StoredMatrices,
    make_plan,
    process_rows,
    softmax_kernels_of,
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.kernels cimport (
    XENT_DISTILLATION,
    XENT_GRAD_HESSIAN,
    XENT_SECOND_ORDER,
    xent_batch,
    xent_distillation_batch,
    xent_grad_hessian_batch,
    xent_second_order_batch,
    xent_softmax_function,
)
from xent_fast._binding.options cimport MEAN, NONE, Options, as_real, as_temperature, read_options

cnp.import_array()

cdef object LossAndGrad = _result.LossAndGrad
cdef object LossGradAndHessian = _result.LossGradAndHessian


# The arrays of one call once they have been checked: as rows for the kernels, and where results go.
@cython.final
cdef class Problem:
    cdef object logits, final
    cdef tuple row_shape
    cdef int axis
    cdef cnp.ndarray rows, other, targets, weight, sample_weight, working, row_loss
    cdef bint is_final  # the kernels write to `final` itself


def hessian_times_vector(
    logits, targets, vector, axis, weight, sample_weight, ignore_index, label_smoothing,
    temperature, z_loss, reduction, scale, out, num_threads
):
    """Return what `xent_fast.softmax_cross_entropy_hvp` does; the arguments are the same."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(
            &options, label_smoothing, temperature, z_loss, reduction, scale, False, num_threads
        )
        return second_order(
            &options, logits, targets, vector, True, axis, weight, sample_weight, ignore_index, out
        )
    finally:
        xent_restore_mode(mode)


def hessian_diagonal(
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature,
    z_loss, reduction, scale, out, num_threads
):
    """Return what `xent_fast.softmax_cross_entropy_hessian_diagonal` does."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(
            &options, label_smoothing, temperature, z_loss, reduction, scale, False, num_threads
        )
        return second_order(
            &options, logits, targets, None, False, axis, weight, sample_weight, ignore_index, out
        )
    finally:
        xent_restore_mode(mode)


cdef object second_order(
    const Options *options,
    object logits,
    object targets,
    object vector,
    bint has_vector,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object out,
):
    cdef xent_second_order_batch batch
    cdef double denominator
    problem = checked_problem(logits, "logits", axis, out)
    if has_vector:
        add_other_matrix(problem, vector, "vector", "logits", out)
    denominator = add_targets(
        problem, &batch.batch, options, targets, "logits", weight, sample_weight, ignore_index, out
    )
    batch.mean_class_weight = 1.0
    if problem.weight is not None and cnp.PyArray_SIZE(problem.weight) > 0:
        batch.mean_class_weight = np.mean(problem.weight, dtype=np.float64)
    batch.vector = NULL
    batch.vector_row_stride = 0
    if has_vector:
        batch.vector = cnp.PyArray_BYTES(problem.other)
        batch.vector_row_stride = cnp.PyArray_STRIDE(problem.other, 0)
    batch.batch.weight_factor = weight_factor_of(options, denominator)
    return compute_problem(
        problem, options, &batch.batch, sizeof(batch), &batch.vector, &batch.vector_row_stride,
        XENT_SECOND_ORDER, denominator, out
    )


def distillation(
    student_logits, teacher_logits, targets, temperature, alpha, axis, weight, sample_weight,
    ignore_index, label_smoothing, reduction, scale, out, num_threads
):
    """Return what `xent_fast.distillation_loss_grad` does; the arguments are the same."""
    cdef Options options
    cdef xent_distillation_batch batch
    cdef double share, target_share, factor, denominator
    cdef bint has_targets = targets is not None
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(&options, label_smoothing, 1.0, 0.0, reduction, scale, False, num_threads)
        batch.temperature = as_temperature(temperature)
        share = as_share(alpha)
        if not has_targets:
            share = 1.0
        target_share = 1.0 - share
        if not has_targets and ignore_index is not None:
            raise ValueError("ignore_index needs targets that are class indices")
        problem = checked_problem(student_logits, "student_logits", axis, out)
        add_other_matrix(problem, teacher_logits, "teacher_logits", "student_logits", out)
        if not has_targets:
            targets = np.zeros(problem.row_shape, dtype=np.int8)
        denominator = add_targets(
            problem, &batch.batch, &options, targets, "student_logits", weight, sample_weight,
            ignore_index, out, has_targets
        )
        factor = weight_factor_of(&options, denominator)
        batch.teacher = cnp.PyArray_BYTES(problem.other)
        batch.teacher_row_stride = cnp.PyArray_STRIDE(problem.other, 0)
        batch.weight_factor = factor * share
        batch.batch.weight_factor = factor * target_share
        batch.target_kernels = NULL
        if target_share > 0:
            batch.target_kernels = kernels_for(&batch.batch, problem.rows)
        return compute_problem(
            problem, &options, &batch.batch, sizeof(batch), &batch.teacher,
            &batch.teacher_row_stride, XENT_DISTILLATION, denominator, out
        )
    finally:
        xent_restore_mode(mode)


cdef double as_share(object given) except? -1.0:
    cdef double value = as_real(given, "alpha")
    if not 0 <= value <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {value}")
    return value


# --- what is checked ------------------------------------------------------------------------------


cdef Problem checked_problem(object given_logits, str name, object given_axis, object out):
    """Logits and the result's place; nothing is written."""
    cdef Problem problem = Problem()
    logits = as_float_array(given_logits, name, out)
    problem.logits = logits
    problem.axis = as_axis(given_axis, logits, name)
    problem.row_shape = without_axis(logits.shape, problem.axis)
    if out is None:
        problem.final = np.empty(logits.shape, logits.dtype.type)
    else:
        problem.final = as_output(out, logits, name)
        check_overlap(problem.final, logits, name)
    problem.rows = plain_rows(logits, problem.axis)
    working = rows_in_place(classes_last(problem.final, problem.axis))
    problem.is_final = working is not None
    problem.working = working
    if not problem.is_final:
        problem.working = np.empty((<object>problem.rows).shape, problem.final.dtype.type)
    return problem


cdef int add_other_matrix(
    Problem problem, object given, str name, str logits_name, object out
) except -1:
    """Another matrix like the logits, which `out` may be."""
    other = as_numbers_alike(given, name, problem.logits, logits_name)
    if out is not None:
        check_overlap(problem.final, other, name)
    if not is_read_as_stored(other, problem.logits):
        other = cast_copy(other, computed_type(problem.logits))
    problem.other = plain_rows(other, problem.axis)
    return 0


cdef double add_targets(
    Problem problem,
    xent_batch *batch,
    const Options *options,
    object given_targets,
    str logits_name,
    object given_weight,
    object given_sample_weight,
    object ignore_index,
    object out,
    bint has_targets=True,
) except? -1.0:
    """Targets and weights, in `batch` too; returns what "mean" divides by.

    Without targets no class has a weight, but one that is given is checked.
    """
    cdef cnp.ndarray working = problem.working if problem.is_final else None
    cdef cnp.ndarray class_weight
    cdef Rearrangement rearrangement = Rearrangement()
    cdef double denominator
    targets = as_any_targets(
        given_targets, problem.logits, problem.row_shape, problem.axis, logits_name
    )
    if out is not None and shares_memory(targets, problem.final):
        raise ValueError("out shares memory with targets")
    rearrangement.targets = targets
    rearrangement.axis = problem.axis
    rearrangement.row_shape = problem.row_shape
    rearrangement.axes = (
        *without_axis(tuple(range(problem.logits.ndim)), problem.axis), problem.axis
    )
    if targets.ndim == problem.logits.ndim and not cnp.PyArray_ISINTEGER(targets):
        rows_of_targets = plain_rows(targets, problem.axis)
    else:
        rows_of_targets = targets.reshape(-1)
    problem.targets = as_targets(rows_of_targets, problem.rows, working)
    class_weight = as_class_weight(given_weight, problem.rows)
    problem.weight = class_weight if has_targets else None
    if given_sample_weight is not None:
        sample_weight = as_weights(given_sample_weight, problem.row_shape, "sample_weight")
        problem.sample_weight = copied_doubles(sample_weight.reshape(-1))
    describe_rows(
        batch, options, problem.rows, problem.targets, problem.weight, problem.sample_weight,
        ignore_index
    )
    if not has_targets:
        batch.label_smoothing = 0.0
    check_signs(batch, options.reduction, problem.weight, rearrangement)
    denominator = check_labels_and_sum_weights(
        batch, problem.targets, problem.weight, rearrangement
    )
    if options.reduction == MEAN and must_rescale(batch, denominator):
        problem.sample_weight = rescaled(problem.sample_weight)
        problem.weight = rescaled_classes(batch, problem.weight)
        describe_rows(
            batch, options, problem.rows, problem.targets, problem.weight, problem.sample_weight,
            ignore_index
        )
        if not has_targets:
            batch.label_smoothing = 0.0
        denominator = check_labels_and_sum_weights(
            batch, problem.targets, problem.weight, rearrangement
        )
    return denominator


# --- what is computed -----------------------------------------------------------------------------


cdef object compute_problem(
    Problem problem,
    const Options *options,
    xent_batch *batch,
    size_t batch_bytes,
    const void *other,
    const Py_ssize_t *other_row_stride,
    xent_softmax_function function,
    double denominator,
    object out,
):
    """What the caller gets: the gradient or, of distillation, the loss too.

    `other` is where the function's own batch, of so many bytes, has the problem's other matrix.
    It is made before its numbers are known, so that nothing can fail once they are written.
    """
    cdef Groups groups
    cdef StoredMatrices stored
    cdef Plan plan
    cdef cnp.ndarray last_copy_to = None
    cdef cnp.ndarray last_copy_from = None
    cdef bint is_void = options.reduction == MEAN and denominator == 0
    cdef double loss_sum = NAN
    cdef object loss = None

    # Every allocation that is left.
    result = problem.final if out is None else out
    if function == XENT_DISTILLATION:
        if options.reduction == NONE:
            problem.row_loss = empty_rows(batch.rows, computed_type_number(problem.rows))
            loss = problem.row_loss.reshape(problem.row_shape)
        else:
            loss = NAN  # a float that nobody else has seen
        result = xent_new_pair(<PyTypeObject *>LossAndGrad, loss, result)
    if not problem.is_final:
        last_copy_to = classes_last(problem.final, problem.axis)
        last_copy_from = problem.working.reshape((<object>last_copy_to).shape)
    point_batch_at(batch, problem.rows, problem.working, problem.row_loss, None, None)
    describe_groups(&groups, problem.rows, problem.working, problem.targets)
    describe_stored(&stored, batch, batch_bytes, problem.rows, problem.working, problem.targets)
    if problem.other is not None:
        add_matrix(
            &stored, batch, other, other_row_stride, other_row_stride, problem.other
        ).is_read = True
    make_plan(
        &plan,
        batch,
        &groups,
        if_in_16_bits(&stored),
        softmax_kernels_of(dtype_of(problem.rows), function),
        options.num_threads,
    )

    # The first write to memory of the caller, and all others.
    try:
        if is_void:
            problem.working.fill(0)
        else:
            loss_sum = process_rows(&plan)
        if loss is not None and options.reduction != NONE:
            (<PyFloatObject *>loss).ob_fval = loss_sum
        if last_copy_to is not None:
            cnp.PyArray_CopyInto(last_copy_to, last_copy_from)
    finally:
        free(plan.memory)
    return result


# --- gradient and Hessian diagonal in one call ----------------------------------------------------


def grad_hessian(
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature,
    z_loss, factor, min_hessian, reduction, scale, grad_out, hessian_out, num_threads
):
    """Return what `xent_fast.softmax_cross_entropy_grad_hessian` does; the same arguments."""
    cdef Options options
    cdef xent_grad_hessian_batch batch
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(
            &options, label_smoothing, temperature, z_loss, reduction, scale, False, num_threads
        )
        options.with_grad = True
        batch.factor = as_real(factor, "factor")
        batch.min_hessian = as_least_hessian(min_hessian)
        return both_derivatives(
            &options, &batch, logits, targets, axis, weight, sample_weight, ignore_index, grad_out,
            hessian_out
        )
    finally:
        xent_restore_mode(mode)


cdef double as_least_hessian(object given) except? -1.0:
    cdef double value = as_real(given, "min_hessian")
    if not value < INFINITY:
        raise ValueError(f"min_hessian must be a number below inf, not {value}")
    return value


cdef object both_derivatives(
    const Options *options,
    xent_grad_hessian_batch *problem,
    object given_logits,
    object given_targets,
    object given_axis,
    object given_weight,
    object given_sample_weight,
    object ignore_index,
    object grad_out,
    object hessian_out,
):
    """Check everything, allocate everything, then write."""
    cdef Rearrangement rearrangement = Rearrangement()
    cdef xent_batch *batch = &problem.batch
    cdef Groups groups
    cdef StoredMatrices stored
    cdef Plan plan
    cdef cnp.ndarray sample_weight = None
    cdef cnp.ndarray row_loss = None
    cdef cnp.ndarray rows, grad_rows, hessian_rows, targets_of_rows, class_weight

    # What is given, each argument by itself.
    logits = as_float_array(given_logits, "logits", grad_out)
    axis = as_axis(given_axis, logits, "logits")
    row_shape = without_axis(logits.shape, axis)
    targets = as_any_targets(given_targets, logits, row_shape, axis)
    grad = as_result_like(grad_out, "grad_out", logits, targets)
    hessian = as_result_like(hessian_out, "hessian_out", logits, targets)
    if grad_out is not None:
        check_overlap(grad, logits, "logits", "grad_out")
    if hessian_out is not None:
        if shares_memory(hessian, logits):
            raise ValueError("hessian_out shares memory with logits")
        if grad_out is not None and shares_memory(hessian, grad):
            raise ValueError("hessian_out shares memory with grad_out")
    class_weight = as_class_weight(given_weight, np.moveaxis(logits, axis, logits.ndim - 1))
    axes = axes_by_stride(logits, axis)
    if given_sample_weight is not None:
        weights = as_weights(given_sample_weight, row_shape, "sample_weight")
        sample_weight = copied_doubles(rows_in_order(weights, axes, axis))

    # All of it as rows.
    is_dense = not cnp.PyArray_ISINTEGER(targets)
    matrices = [logits.transpose(axes), grad.transpose(axes), hessian.transpose(axes)]
    if is_dense:
        if not is_read_as_stored(targets, logits) or not targets.dtype.isnative:
            targets = cast_copy(targets, computed_type(logits), "K")
        matrices.append(targets.transpose(axes))
    else:
        labels = rows_in_order(targets, axes, axis)
        labels = labels.astype(labels.dtype.newbyteorder("="), copy=False)
    copies = []  # pairs of arrays: to, from
    grouped = as_groups(matrices)
    if grouped is None or grouped[0].ndim > 2:
        rows = copied_rows(matrices[0], logits.dtype)
        grad_rows = rows
        if grad.dtype.type is not logits.dtype.type:
            grad_rows = np.empty_like(rows, dtype=grad.dtype.type)
        grouped = [rows, grad_rows, np.empty_like(rows, dtype=hessian.dtype.type)]
        copies.append((matrices[1], grouped[1].reshape(logits.transpose(axes).shape)))
        copies.append((matrices[2], grouped[2].reshape(logits.transpose(axes).shape)))
        if is_dense:
            grouped.append(copied_rows(matrices[3], targets.dtype))
    rows, grad_rows, hessian_rows = grouped[:3]
    targets_of_rows = grouped[3] if is_dense else labels
    if class_stride_of(hessian_rows) != 0 and class_stride_of(rows) == class_stride_of(grad_rows):
        if class_stride_of(rows) == 0:  # the plan looks at these two
            copies.append((hessian_rows, np.empty_like(rows, dtype=hessian.dtype.type)))
            hessian_rows = copies[len(copies) - 1][1]

    # What they say together.
    rearrangement.targets = targets
    rearrangement.axis = axis
    rearrangement.axes = axes
    rearrangement.row_shape = row_shape
    describe_rows(
        batch, options, rows, targets_of_rows, class_weight, sample_weight, ignore_index
    )
    check_signs(batch, options.reduction, class_weight, rearrangement)
    cdef double denominator = check_labels_and_sum_weights(
        batch, targets_of_rows, class_weight, rearrangement
    )
    cdef bint is_void = options.reduction == MEAN and denominator == 0
    cdef double loss_sum = NAN
    batch.weight_factor = weight_factor_of(options, denominator)
    problem.mean_class_weight = 1.0
    if class_weight is not None and cnp.PyArray_SIZE(class_weight) > 0:
        problem.mean_class_weight = np.mean(class_weight, dtype=np.float64)
    problem.target_kernels = NULL
    if is_dense or batch.label_smoothing != 0 or batch.z_loss != 0:
        problem.target_kernels = kernels_for(batch, rows)
    problem.hessian = cnp.PyArray_BYTES(hessian_rows)
    problem.hessian_row_stride = row_stride_of(hessian_rows)
    problem.hessian_class_stride = class_stride_of(hessian_rows)

    # Every allocation that is left.
    cdef object loss = NAN  # a float that nobody else has seen
    if options.reduction == NONE:
        row_loss = empty_rows(batch.rows, computed_type_number(rows))
        loss = rows_as_given(row_loss, axes, axis, row_shape)
    result = LossGradAndHessian(
        loss,
        grad if grad_out is None else grad_out,
        hessian if hessian_out is None else hessian_out,
    )
    point_batch_at(batch, rows, grad_rows, row_loss, None, None)
    describe_groups(&groups, rows, grad_rows, targets_of_rows)
    describe_stored(&stored, batch, sizeof(problem[0]), rows, grad_rows, targets_of_rows)
    add_result(
        &stored, batch, &problem.hessian, &problem.hessian_row_stride,
        &problem.hessian_class_stride, hessian_rows, False
    )
    make_plan(
        &plan,
        batch,
        &groups,
        if_in_16_bits(&stored),
        softmax_kernels_of(dtype_of(rows), XENT_GRAD_HESSIAN),
        options.num_threads,
    )

    # The first write to memory of the caller, and all others.
    try:
        if is_void:
            grad_rows.fill(0)
            hessian_rows.fill(max(problem.min_hessian, 0.0))
        else:
            loss_sum = process_rows(&plan)
        if options.reduction != NONE:
            (<PyFloatObject *>loss).ob_fval = loss_sum
        for place, copy in copies:
            cnp.PyArray_CopyInto(place, copy)
    finally:
        free(plan.memory)
    return result


cdef object as_result_like(object out, str name, object logits, object targets):
    """A new array in the logits' memory order, or the one that was given."""
    if out is None:
        return np.empty_like(logits, dtype=logits.dtype.type, subok=False)
    destination = as_output(out, logits, "logits", name)
    if shares_memory(targets, destination):
        raise ValueError(f"{name} shares memory with targets")
    return destination
