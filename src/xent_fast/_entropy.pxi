# Entropy of rows' softmax, and its gradient, included by _core.pyx.
#
# Knows: what a caller may hand over, the batch that the kernels take for it.
# Must not know: the mathematics, what any instruction set can do.

from xent_fast._kernels cimport XENT_ENTROPY, xent_entropy_batch

cdef object EntropyAndGrad = _result.EntropyAndGrad


def entropy(logits, axis, sample_weight, temperature, reduction, scale, num_threads):
    """Return what `xent_fast.softmax_entropy` does; the arguments are the same."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(&options, 0.0, temperature, 0.0, reduction, scale, False, num_threads)
        options.with_grad = False
        return any_entropy(&options, logits, axis, sample_weight, None, None)
    finally:
        xent_restore_mode(mode)


def entropy_and_grad(
    logits, axis, sample_weight, temperature, reduction, scale, grad_output, out, num_threads
):
    """Return what `xent_fast.softmax_entropy_grad` does; the arguments are the same."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(&options, 0.0, temperature, 0.0, reduction, scale, False, num_threads)
        options.with_grad = True
        return any_entropy(&options, logits, axis, sample_weight, grad_output, out)
    finally:
        xent_restore_mode(mode)


def checked_grad_output(given, row_shape, reduction):
    """A float or one float64 a row in the rows' order, None for None."""
    return as_grad_output(given, row_shape, as_reduction(reduction) == NONE)


cdef object as_grad_output(object given, tuple row_shape, bint may_be_rows):
    """The derivative of a later loss by what the rows gave: float64, one or one a row."""
    if given is None:
        return None
    if np.ndim(given) == 0:
        return np.full(1, as_real(given, "grad_output"))
    if not may_be_rows:
        raise ValueError(
            "grad_output must be a number where reduction is 'mean' or 'sum', whose result is one; "
            "reduction=\"none\" takes one a row"
        )
    weights = copied_doubles(as_weights(given, row_shape, "grad_output"))
    return weights.reshape(-1)


cdef object any_entropy(
    const Options *options,
    object given_logits,
    object given_axis,
    object given_sample_weight,
    object given_grad_output,
    object out,
):
    """Check everything, allocate everything, then write."""
    cdef xent_entropy_batch problem
    cdef xent_batch *batch = &problem.batch
    cdef Groups groups
    cdef StoredMatrices stored
    cdef Plan plan
    cdef Rearrangement rearrangement = Rearrangement()
    cdef cnp.ndarray sample_weight = None
    cdef cnp.ndarray grad_output = None
    cdef cnp.ndarray row_entropy = None
    cdef cnp.ndarray working = None
    cdef cnp.ndarray rows
    cdef cnp.ndarray no_labels = np.zeros(1, dtype=np.int8)
    cdef object destination = None
    cdef object moved = None
    cdef double total = NAN
    cdef double denominator

    # What is given.
    logits = as_float_array(given_logits, "logits", out)
    cdef int axis = as_axis(given_axis, logits, "logits")
    row_shape = without_axis(logits.shape, axis)
    if out is not None:
        destination = as_output(out, logits, "logits")
        check_overlap(destination, logits, "logits")
    grad_output = as_grad_output(given_grad_output, row_shape, options.reduction == NONE)
    if given_sample_weight is not None:
        weights = as_weights(given_sample_weight, row_shape, "sample_weight")
        sample_weight = copied_doubles(weights).reshape(-1)
    rows = plain_rows(logits, axis)
    rearrangement.axis = axis
    rearrangement.axes = (*without_axis(tuple(range(logits.ndim)), axis), axis)
    rearrangement.row_shape = row_shape
    describe_rows(batch, options, rows, no_labels, None, sample_weight, None)
    batch.labels.stride = 0
    check_signs(batch, options.reduction, None, rearrangement)
    denominator = check_labels_and_sum_weights(batch, no_labels, None, rearrangement)
    if options.reduction == MEAN and must_rescale(batch, denominator):
        sample_weight = rescaled(sample_weight)
        describe_rows(batch, options, rows, no_labels, None, sample_weight, None)
        batch.labels.stride = 0
        denominator = check_labels_and_sum_weights(batch, no_labels, None, rearrangement)
    cdef bint is_void = options.reduction == MEAN and denominator == 0
    batch.weight_factor = weight_factor_of(options, denominator)
    problem.grad_output = NULL
    problem.grad_output_step = 0
    if grad_output is not None:
        problem.grad_output = <const double *>cnp.PyArray_DATA(grad_output)
        problem.grad_output_step = 1 if np.ndim(given_grad_output) > 0 else 0

    # Every allocation that is left.
    cdef object result = NAN  # a float that nobody else has seen
    cdef object entropies = result
    if options.reduction == NONE:
        row_entropy = empty_rows(batch.rows, computed_type_number(rows))
        entropies = result = row_entropy.reshape(row_shape)
    if options.with_grad:
        if destination is None:
            destination = out = np.empty(logits.shape, logits.dtype.type)
        moved = classes_last(destination, axis)
        working = rows_in_place(moved)
        if working is None:
            working = np.empty((<object>rows).shape, destination.dtype.type)
        else:
            moved = None
        result = EntropyAndGrad(entropies, out)
    point_batch_at(batch, rows, working, row_entropy, None, None)
    describe_groups(&groups, rows, working, no_labels)
    describe_stored(&stored, batch, sizeof(problem), rows, working, no_labels)
    stored.row_factor = <const char *>&problem.grad_output - <const char *>batch
    stored.row_factor_step = <const char *>&problem.grad_output_step - <const char *>batch
    make_plan(
        &plan, batch, &groups, if_in_16_bits(&stored),
        softmax_kernels_of(dtype_of(rows), XENT_ENTROPY), options.num_threads
    )

    # The first write to memory of the caller, and all others.
    try:
        if not is_void:
            total = process_rows(&plan)
        elif working is not None:
            working.fill(0)
        if options.reduction != NONE:
            (<PyFloatObject *>entropies).ob_fval = total
        if moved is not None:
            np.copyto(moved, (<object>working).reshape(moved.shape))
    finally:
        free(plan.memory)
    return result
