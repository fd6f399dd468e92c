# Gradient and Hessian diagonal in one call, included by _core.pyx.
#
# Knows: what a caller may hand over, the batch that the kernels take for it.
# Must not know: the mathematics, what any instruction set can do.

from xent_fast._kernels cimport XENT_GRAD_HESSIAN, xent_grad_hessian_batch

cdef object LossGradAndHessian = _result.LossGradAndHessian


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
