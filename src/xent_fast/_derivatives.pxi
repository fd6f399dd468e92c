# The backward passes of softmax and log_softmax, included by _core.pyx.
#
# Knows: which rows of which arrays a backward pass takes.
# Must not know: the mathematics, threads, how arguments are checked.

from xent_fast._kernels cimport xent_vjp_batch


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
