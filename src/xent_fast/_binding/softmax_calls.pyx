"""Softmax, its logarithm, logsumexp and entropy, and the backward passes: check, allocate, write.

Knows: what a caller may hand over, the batch that the kernels take for it.
Must not know: the mathematics, threads.
"""

import numpy as np

cimport numpy as cnp

from xent_fast import _result

from xent_fast._binding.arguments cimport (
    Given,
    as_float_array,
    as_output_of_shape,
    as_row_factors,
    check_alike,
    check_overlap,
    given_logits,
    is_ordinary,
)
from xent_fast._binding.arrays cimport (
    Layout,
    computed_type,
    computed_type_number,
    dtype_of,
    empty_like,
    empty_rows,
    shares_memory,
)
from xent_fast._binding.batch cimport (
    describe_groups,
    describe_rows,
    loss_of_rows,
    point_at_factors,
    point_batch_at,
    run,
    run_side_by_side,
    settle_rows,
)
from xent_fast._binding.engine cimport (
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.instruction_sets cimport (
    VjpBatch,
    kernels_of_kind,
    kernels_of_vjp,
    softmax_kernels_of,
)
from xent_fast._binding.kernels cimport (
    XENT_ENTROPY,
    XENT_LOG_PROBABILITIES,
    XENT_PROBABILITIES,
    XENT_SMOOTHED_TARGETS,
    xent_batch,
    xent_output,
)
from xent_fast._binding.options cimport NONE, Options, as_temperature, as_thread_count, read_options
from xent_fast._binding.stored cimport Groups, StoredMatrices, describe_stored

cnp.import_array()

cdef object EntropyAndGrad = _result.EntropyAndGrad


# --- softmax itself -------------------------------------------------------------------------------


def probabilities(logits, axis, logarithms, out, num_threads, temperature=1.0):
    """Return `xent_fast.softmax` or, with `logarithms`, `xent_fast.log_softmax`."""
    cdef double divisor = as_temperature(temperature)
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        return any_probabilities(logits, axis, logarithms, out, num_threads, divisor)
    finally:
        xent_restore_mode(mode)


cdef object any_probabilities(
    object logits,
    object axis,
    bint logarithms,
    object out,
    object num_threads,
    double temperature,
):
    cdef xent_output output = XENT_LOG_PROBABILITIES if logarithms else XENT_PROBABILITIES
    cdef int threads = as_thread_count(num_threads)
    cdef Given given
    if is_ordinary(logits, axis, out):
        destination = empty_like(logits) if out is None else out
        compute_softmax(logits, destination, output, threads, temperature, None)
        return destination
    given = given_logits(logits, "logits", axis, out)
    destination = given.output(out)
    matrices = given.layout.matrices([given.logits], [destination])
    compute_softmax(matrices[0], matrices[1], output, threads, temperature, given.layout)
    return destination if out is None else out


def log_sum_of_exponentials(logits, axis, keepdims, out, num_threads):
    """Return `xent_fast.logsumexp`; the arguments are the same."""
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        return any_log_sum_of_exponentials(logits, axis, keepdims, out, num_threads)
    finally:
        xent_restore_mode(mode)


cdef object any_log_sum_of_exponentials(
    object logits, object axis, bint keepdims, object out, object num_threads
):
    cdef int threads = as_thread_count(num_threads)
    cdef Given given
    cdef Layout layout
    if out is None and not keepdims and is_ordinary(logits, axis, None):
        lse = compute_softmax(logits, None, XENT_PROBABILITIES, threads, 1.0, None)
        settle_undefined(lse, logits)
        return lse
    given = given_logits(logits, "logits", axis, out)
    layout = given.layout
    shape = layout.row_shape
    if keepdims:
        shape = (*shape[:layout.axis], 1, *shape[layout.axis:])
    if out is not None:
        computed = computed_type(given.logits)
        destination = as_output_of_shape(
            out, np.dtype(computed), computed, given.logits, "logits", shape, "the result's shape"
        )
        if shares_memory(destination, given.logits):
            raise ValueError("out shares memory with logits")
    rows = layout.matrices([given.logits], [])[0]
    lse = compute_softmax(rows, None, XENT_PROBABILITIES, threads, 1.0, layout)
    settle_undefined(lse, layout.moved(given.logits))
    result = layout.as_given(lse).reshape(shape)
    if out is None:
        return result
    cnp.PyArray_CopyInto(destination, result)
    return out


cdef int settle_undefined(cnp.ndarray lse, object logits) except -1:
    """Of rows with NaN, +inf or nothing but -inf the largest logit; classes are the last axis."""
    if has_nan(lse):
        undefined = np.isnan(lse).reshape(logits.shape[:logits.ndim - 1])
        with np.errstate(all="ignore"):
            lse.reshape(undefined.shape)[undefined] = logits[undefined].max(axis=1)
    return 0


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
    cnp.ndarray rows,
    cnp.ndarray out,
    xent_output output,
    int threads,
    double temperature,
    Layout layout,
):
    """Write probabilities or their logarithms to `out`; where it is None, return every lse.

    The rows have no targets. The kernels of smoothed ones leave the largest exponential out of the
    sum, which keeps small differences.
    """
    cdef Options options
    cdef xent_batch batch
    cdef Groups groups
    cdef StoredMatrices stored
    read_options(&options, 0.0, temperature, 0.0, "sum", 1.0, False, None)
    options.num_threads = threads
    describe_rows(&batch, &options, rows, None, None, None, None)
    cdef cnp.ndarray lse = None
    batch.weight_factor = 0.0
    batch.output = output
    point_batch_at(&batch, rows, out, None)
    if out is None:
        lse = empty_rows(batch.rows, computed_type_number(rows))
        batch.lse = cnp.PyArray_BYTES(lse)
    describe_groups(&groups, rows)
    describe_stored(&stored, &batch, sizeof(batch), groups.real_bytes)
    run(
        &batch, &groups, &stored, kernels_of_kind(dtype_of(rows), XENT_SMOOTHED_TARGETS), &options,
        None, layout, None
    )
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
    object axis,
    object given_grad_output,
    object out,
    object num_threads,
    bint of_logarithm,
):
    cdef Options options
    cdef VjpBatch problem
    cdef cnp.ndarray values, slopes, grad
    cdef cnp.ndarray grad_output = None

    # Everything that can be wrong with the arguments, and every allocation.
    read_options(&options, 0.0, 1.0, 0.0, "sum", 1.0, False, num_threads)
    cdef Given given = given_logits(given_values, values_name, axis, out)
    slopes_as_given = as_float_array(given_slopes, slopes_name, out)
    check_alike(slopes_as_given, slopes_name, given.logits, values_name)
    grad_output = as_row_factors(given_grad_output, given.layout, True)
    destination = given.output(out)
    if out is not None:
        check_overlap(destination, slopes_as_given, slopes_name)
    values, slopes, grad = given.layout.matrices([given.logits, slopes_as_given], [destination])
    problem.batch.weight_factor = 1.0
    describe_rows(&problem.batch, &options, values, None, None, None, None)
    point_at_factors(&problem.batch.grad_output, &problem.batch.grad_output_step, grad_output)
    run_side_by_side(
        &problem.batch, sizeof(problem), &problem.slopes,
        kernels_of_vjp(&problem, dtype_of(values), of_logarithm), &options,
        (values, grad, slopes), None, None, given.layout, False
    )
    return destination if out is None else out


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
    object logits,
    object axis,
    object sample_weight,
    object given_grad_output,
    object out,
):
    """Check everything, allocate everything, then write."""
    cdef xent_batch batch
    cdef cnp.ndarray row_entropy = None
    cdef cnp.ndarray working = None
    cdef cnp.ndarray rows
    cdef bint is_void
    cdef Given given = given_logits(logits, "logits", axis, out)
    given.add_weights(None, sample_weight)
    cdef cnp.ndarray grad_output = as_row_factors(
        given_grad_output, given.layout, options.reduction == NONE
    )
    outputs = [given.output(out)] if options.with_grad else []
    matrices = given.layout.matrices([given.logits], outputs)
    rows = matrices[0]
    _kept = settle_rows(
        &batch, options, rows, None, None, given.sample_weight, None, given.layout, &is_void
    )
    point_at_factors(&batch.grad_output, &batch.grad_output_step, grad_output)

    # Every allocation that is left.
    if options.reduction == NONE:
        row_entropy = empty_rows(batch.rows, computed_type_number(rows))
    result = entropies = loss_of_rows(options, row_entropy, given.layout)
    if options.with_grad:
        working = matrices[1]
        result = EntropyAndGrad(entropies, outputs[0] if out is None else out)
    run_side_by_side(
        &batch, sizeof(batch), NULL, softmax_kernels_of(dtype_of(rows), XENT_ENTROPY), options,
        (rows, working, None), row_entropy, entropies, given.layout, is_void
    )
    return result
