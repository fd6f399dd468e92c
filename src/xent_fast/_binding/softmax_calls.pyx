"""Softmax, its logarithm, logsumexp and entropy, and the backward passes: check, allocate, write.

Knows: what a caller may hand over, the batch that the kernels take for it.
Must not know: the mathematics, threads.
"""

import numpy as np

cimport numpy as cnp
from libc.math cimport NAN
from libc.stdlib cimport free

from xent_fast import _result

from xent_fast._binding.arguments cimport (
    as_axis,
    as_float_array,
    as_grad_output,
    as_output,
    as_output_of_shape,
    as_weights,
    check_alike,
    check_overlap,
)
from xent_fast._binding.arrays cimport (
    Rearrangement,
    as_groups,
    axes_by_stride,
    classes_last,
    computed_type,
    computed_type_number,
    copied_doubles,
    copied_rows,
    dtype_of,
    empty_rows,
    plain_rows,
    rows_as_given,
    rows_in_place,
    shares_memory,
    without_axis,
)
from xent_fast._binding.batch cimport (
    PyFloatObject,
    add_matrix,
    add_result,
    begin_stored,
    check_labels_and_sum_weights,
    check_signs,
    describe_groups,
    describe_rows,
    describe_stored,
    if_in_16_bits,
    kernels_of,
    must_rescale,
    point_batch_at,
    rescaled,
    weight_factor_of,
)
from xent_fast._binding.engine cimport (
    Groups,
    Plan,
    StoredMatrices,
    make_plan,
    process_rows,
    process_vjp_rows,
    softmax_kernels_of,
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.kernels cimport (
    XENT_ENTROPY,
    XENT_LOG_PROBABILITIES,
    XENT_PROBABILITIES,
    XENT_SMOOTHED_TARGETS,
    xent_batch,
    xent_entropy_batch,
    xent_output,
    xent_vjp_batch,
)
from xent_fast._binding.options cimport (
    MEAN,
    NONE,
    Options,
    as_temperature,
    as_thread_count,
    read_options,
)

cnp.import_array()

cdef object EntropyAndGrad = _result.EntropyAndGrad


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


# --- the backward passes --------------------------------------------------------------------------


def softmax_vjp(probabilities, grad_probabilities, axis, grad_output, out, num_threads):
    """Return p (dp - sum p dp); the arguments are those of `xent_fast.softmax_vjp`."""
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        return vector_jacobian_product(
            probabilities, "probabilities", grad_probabilities, "grad_probabilities",
            axis, grad_output, out, num_threads, False,
        )
    finally:
        xent_restore_mode(mode)


def log_softmax_vjp(
    log_probabilities, grad_log_probabilities, axis, grad_output, out, num_threads
):
    """Return dl - exp(l) sum dl; the arguments are those of `xent_fast.log_softmax_vjp`."""
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        return vector_jacobian_product(
            log_probabilities, "log_probabilities", grad_log_probabilities,
            "grad_log_probabilities", axis, grad_output, out, num_threads, True,
        )
    finally:
        xent_restore_mode(mode)


cdef object vector_jacobian_product(
    object given_values,
    str values_name,
    object given_slopes,
    str slopes_name,
    object given_axis,
    object given_grad_output,
    object out,
    object given_num_threads,
    bint of_logarithm,
):
    cdef xent_vjp_batch batch
    cdef StoredMatrices stored
    cdef cnp.ndarray values_rows, slopes_rows, working
    cdef cnp.ndarray grad_output = None
    cdef object destination = None

    # Everything that can be wrong with the arguments.
    values = as_float_array(given_values, values_name, out)
    cdef int axis = as_axis(given_axis, values, values_name)
    slopes = as_float_array(given_slopes, slopes_name, out)
    check_alike(slopes, slopes_name, values, values_name)
    grad_output = as_grad_output(given_grad_output, without_axis(values.shape, axis), True)
    cdef int requested_threads = as_thread_count(given_num_threads)
    if out is not None:
        destination = as_output(out, values, values_name)
        check_overlap(destination, values, values_name)
        check_overlap(destination, slopes, slopes_name)

    # Every allocation.
    if destination is None:
        destination = out = np.empty(values.shape, values.dtype.type)
    values_rows = plain_rows(values, axis)
    slopes_rows = plain_rows(slopes, axis)
    moved = classes_last(destination, axis)
    working = rows_in_place(moved)
    is_final = working is not None
    if not is_final:
        working = np.empty((<object>values_rows).shape, destination.dtype.type)

    # The first write to memory of the caller, and all others.
    batch.rows = cnp.PyArray_DIM(values_rows, 0)
    batch.classes = cnp.PyArray_DIM(values_rows, 1)
    batch.values = cnp.PyArray_BYTES(values_rows)
    batch.values_row_stride = cnp.PyArray_STRIDE(values_rows, 0)
    batch.slopes = cnp.PyArray_BYTES(slopes_rows)
    batch.slopes_row_stride = cnp.PyArray_STRIDE(slopes_rows, 0)
    batch.grad = cnp.PyArray_BYTES(working)
    batch.grad_row_stride = cnp.PyArray_STRIDE(working, 0)
    batch.grad_output = NULL
    batch.grad_output_step = 0
    if grad_output is not None:
        batch.grad_output = <const double *>cnp.PyArray_DATA(grad_output)
        batch.grad_output_step = 1 if np.ndim(given_grad_output) > 0 else 0
    begin_stored(&stored, sizeof(batch))
    stored.row_factor = <const char *>&batch.grad_output - <const char *>&batch
    stored.row_factor_step = <const char *>&batch.grad_output_step - <const char *>&batch
    add_matrix(
        &stored, &batch, &batch.values, &batch.values_row_stride, &batch.values_row_stride,
        values_rows
    ).is_read = True
    add_matrix(
        &stored, &batch, &batch.slopes, &batch.slopes_row_stride, &batch.slopes_row_stride,
        slopes_rows
    ).is_read = True
    add_result(
        &stored, &batch, &batch.grad, &batch.grad_row_stride, &batch.grad_row_stride, working, True
    )
    process_vjp_rows(
        &batch, if_in_16_bits(&stored), dtype_of(values_rows), of_logarithm, requested_threads
    )
    if not is_final:
        np.copyto(moved, (<object>working).reshape(moved.shape))
    return out


# --- entropy --------------------------------------------------------------------------------------


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
