# The second order of the loss, and distillation, included by _core.pyx.
#
# Knows: what a caller may hand over, the batches that the kernels take for it.
# Must not know: the mathematics, what any instruction set can do.

from xent_fast._kernels cimport (
    XENT_DISTILLATION,
    XENT_SECOND_ORDER,
    xent_distillation_batch,
    xent_second_order_batch,
    xent_softmax_function,
)


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


cdef double weight_factor_of(const Options *options, double denominator) noexcept:
    return options.scale / denominator if options.reduction == MEAN else options.scale


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
