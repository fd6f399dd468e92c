"""The loss's second order, and distillation: check, allocate, write.

Knows: what a caller may hand over, the batches that the kernels take for it.
Must not know: the mathematics, threads.
"""

cimport numpy as cnp
from cpython.object cimport PyTypeObject
from libc.math cimport INFINITY

from xent_fast import _result

from xent_fast._binding.arguments cimport (
    Given,
    as_numbers_alike,
    check_overlap,
    given_arrays,
    given_logits,
)
from xent_fast._binding.arrays cimport (
    cast_copy,
    computed_type,
    computed_type_number,
    dtype_of,
    empty_rows,
    is_read_as_stored,
    matrix_of,
    shares_memory,
)
from xent_fast._binding.batch cimport (
    describe_groups,
    loss_of_rows,
    mean_class_weight,
    point_batch_at,
    run,
    run_side_by_side,
    settle_rows,
    xent_new_pair,
)
from xent_fast._binding.engine cimport (
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.instruction_sets cimport kernels_for, softmax_kernels_of
from xent_fast._binding.kernels cimport (
    XENT_DISTILLATION,
    XENT_GRAD_HESSIAN,
    XENT_SECOND_ORDER,
    xent_batch,
    xent_distillation_batch,
    xent_grad_hessian_batch,
    xent_second_order_batch,
)
from xent_fast._binding.options cimport NONE, Options, as_real, as_temperature, read_options
from xent_fast._binding.stored cimport Groups, StoredMatrices, describe_stored, note_matrix

cnp.import_array()

cdef object LossAndGrad = _result.LossAndGrad
cdef object LossGradAndHessian = _result.LossGradAndHessian


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
    cdef xent_second_order_batch problem
    cdef bint is_void
    cdef Given given = given_arrays(logits, "logits", targets, axis, weight, sample_weight, out)
    destination = given.output(out)
    other = other_matrix(given, vector, "vector", out, destination) if has_vector else None
    matrices, targets = rows_of(given, other, destination)
    weights = settle_rows(
        &problem.batch, options, matrices[0], targets, given.weight, given.sample_weight,
        ignore_index, given.layout, &is_void
    )
    problem.mean_class_weight = mean_class_weight(given.weight, weights)
    run_side_by_side(
        &problem.batch, sizeof(problem), &problem.vector,
        softmax_kernels_of(dtype_of(matrices[0]), XENT_SECOND_ORDER), options, matrices, None,
        None, given.layout, is_void
    )
    return destination if out is None else out


def distillation(
    student_logits, teacher_logits, targets, temperature, alpha, axis, weight, sample_weight,
    ignore_index, label_smoothing, reduction, scale, out, num_threads
):
    """Return what `xent_fast.distillation_loss_grad` does; the arguments are the same."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(&options, label_smoothing, 1.0, 0.0, reduction, scale, False, num_threads)
        if targets is None:
            if ignore_index is not None:
                raise ValueError("ignore_index needs targets that are class indices")
            options.of_rows.label_smoothing = 0.0
        return distilled(
            &options, student_logits, teacher_logits, targets, as_temperature(temperature),
            as_share(alpha), axis, weight, sample_weight, ignore_index, out
        )
    finally:
        xent_restore_mode(mode)


cdef double as_share(object given) except? -1.0:
    cdef double value = as_real(given, "alpha")
    if not 0 <= value <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {value}")
    return value


cdef object distilled(
    const Options *options,
    object student,
    object teacher,
    object targets,
    double temperature,
    double share,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object out,
):
    cdef xent_distillation_batch problem
    cdef cnp.ndarray row_loss = None
    cdef bint is_void
    cdef double factor
    cdef Given given = given_logits(student, "student_logits", axis, out)
    given.add_weights(weight, sample_weight)
    if targets is not None:
        given.add_targets(targets)
    else:  # no class has a weight then
        share = 1.0
        given.weight = None
    destination = given.output(out)
    other = other_matrix(given, teacher, "teacher_logits", out, destination)
    matrices, labels = rows_of(given, other, destination)
    _kept = settle_rows(
        &problem.batch, options, matrices[0], labels, given.weight, given.sample_weight,
        ignore_index, given.layout, &is_void
    )
    factor = problem.batch.weight_factor
    problem.temperature = temperature
    problem.weight_factor = factor * share
    problem.batch.weight_factor = factor * (1.0 - share)
    problem.target_kernels = NULL
    if share < 1:
        problem.target_kernels = kernels_for(&problem.batch, dtype_of(matrices[0]))
    if options.reduction == NONE:
        row_loss = empty_rows(problem.batch.rows, computed_type_number(matrices[0]))
    loss = loss_of_rows(options, row_loss, given.layout)
    result = xent_new_pair(
        <PyTypeObject *>LossAndGrad, loss, destination if out is None else out
    )
    run_side_by_side(
        &problem.batch, sizeof(problem), &problem.teacher,
        softmax_kernels_of(dtype_of(matrices[0]), XENT_DISTILLATION), options, matrices, row_loss,
        loss, given.layout, is_void
    )
    return result


# --- the logits and another matrix like them ------------------------------------------------------


cdef object other_matrix(Given given, object other, str name, object out, object destination):
    """Another matrix like the logits, which `out` may be."""
    array = as_numbers_alike(other, name, given.logits, given.name)
    if out is not None:
        check_overlap(destination, array, name)
    if not is_read_as_stored(array, given.logits):
        array = cast_copy(array, computed_type(given.logits))
    return array


cdef tuple rows_of(Given given, object other, object destination):
    """As rows: (the logits, the result, the other matrix or None), and the targets."""
    inputs = [given.logits]
    if other is not None:
        inputs.append(other)
    if given.dense is not None:
        inputs.append(given.dense)
    matrices = given.layout.matrices(inputs, [destination])
    targets = given.labels if given.dense is None else matrices[len(inputs) - 1]
    return (matrices[0], matrices[len(inputs)], None if other is None else matrices[1]), targets


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
    object logits,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object grad_out,
    object hessian_out,
):
    """Check everything, allocate everything, then write."""
    cdef xent_batch *batch = &problem.batch
    cdef Groups groups
    cdef StoredMatrices stored
    cdef cnp.ndarray row_loss = None
    cdef cnp.ndarray rows, labels, grad_rows, hessian_rows
    cdef bint is_void
    cdef Given given = given_arrays(
        logits, "logits", targets, axis, weight, sample_weight, grad_out
    )
    grad = given.output(grad_out, "grad_out")
    hessian = given.output(hessian_out, "hessian_out", False)
    if grad_out is not None and hessian_out is not None and shares_memory(hessian, grad):
        raise ValueError("hessian_out shares memory with grad_out")
    inputs = [given.logits] if given.dense is None else [given.logits, given.dense]
    matrices = given.layout.matrices(inputs, [grad, hessian])
    rows, grad_rows, hessian_rows = matrices[0], matrices[len(inputs)], matrices[len(inputs) + 1]
    labels = given.labels if given.dense is None else matrices[1]
    weights = settle_rows(
        batch, options, rows, labels, given.weight, given.sample_weight, ignore_index,
        given.layout, &is_void
    )
    problem.mean_class_weight = mean_class_weight(given.weight, weights)
    problem.target_kernels = NULL
    if given.dense is not None or batch.options.label_smoothing != 0 or batch.options.z_loss != 0:
        problem.target_kernels = kernels_for(batch, dtype_of(rows))
    problem.hessian = matrix_of(hessian_rows)

    # Every allocation that is left.
    if options.reduction == NONE:
        row_loss = empty_rows(batch.rows, computed_type_number(rows))
    loss = loss_of_rows(options, row_loss, given.layout)
    result = LossGradAndHessian(
        loss,
        grad if grad_out is None else grad_out,
        hessian if hessian_out is None else hessian_out,
    )
    point_batch_at(batch, rows, grad_rows, row_loss)
    describe_groups(&groups, rows)
    describe_stored(&stored, batch, sizeof(problem[0]), groups.real_bytes)
    note_matrix(&stored, batch, &problem.hessian, True)
    stored.side_by_side = batch.logits.class_stride == 0 and batch.grad.class_stride == 0
    to_fill = None
    if is_void:
        to_fill = [(grad_rows, 0), (hessian_rows, max(problem.min_hessian, 0.0))]
    run(
        batch, &groups, &stored, softmax_kernels_of(dtype_of(rows), XENT_GRAD_HESSIAN), options,
        loss, given.layout, to_fill
    )
    return result
