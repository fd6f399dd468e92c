# The backward passes of softmax and log_softmax, included by _core.pyx.
#
# Knows: what a caller may hand over, arrays of any shape as rows, OpenMP over chunks of rows.
# Must not know: the mathematics, what any instruction set can do.

from xent_fast._kernels cimport xent_vjp_batch, xent_vjp_kernels

ctypedef void (*vjp_rows)(
    const xent_vjp_batch *batch, int64_t first_row, int64_t row_count
) noexcept nogil


def softmax_vjp(probabilities, grad_probabilities, axis, out, num_threads):
    """Return p (dp - sum p dp); the arguments are those of `xent_fast.softmax_vjp`."""
    return vector_jacobian_product(
        probabilities, "probabilities", grad_probabilities, "grad_probabilities",
        axis, out, num_threads, False,
    )


def log_softmax_vjp(log_probabilities, grad_log_probabilities, axis, out, num_threads):
    """Return dl - exp(l) sum dl; the arguments are those of `xent_fast.log_softmax_vjp`."""
    return vector_jacobian_product(
        log_probabilities, "log_probabilities", grad_log_probabilities, "grad_log_probabilities",
        axis, out, num_threads, True,
    )


cdef object vector_jacobian_product(
    object given_values,
    str values_name,
    object given_slopes,
    str slopes_name,
    object given_axis,
    object out,
    object given_num_threads,
    bint of_logarithm,
):
    cdef xent_vjp_batch batch
    cdef cnp.ndarray values_rows, slopes_rows, working
    cdef object destination = None

    # Everything that can be wrong with the arguments.
    values = as_float_array(given_values, values_name, out)
    cdef int axis = axis_of(given_axis, values.ndim)
    check_classes(values, axis, values_name)
    slopes = as_float_array(given_slopes, slopes_name, out)
    check_alike(slopes, slopes_name, values, values_name)
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
        working = np.empty((<object>values_rows).shape, values.dtype.type)

    # The first write to memory of the caller, and all others.
    batch.rows = cnp.PyArray_DIM(values_rows, 0)
    batch.classes = cnp.PyArray_DIM(values_rows, 1)
    batch.values = cnp.PyArray_BYTES(values_rows)
    batch.values_row_stride = cnp.PyArray_STRIDE(values_rows, 0)
    batch.slopes = cnp.PyArray_BYTES(slopes_rows)
    batch.slopes_row_stride = cnp.PyArray_STRIDE(slopes_rows, 0)
    batch.grad = cnp.PyArray_BYTES(working)
    batch.grad_row_stride = cnp.PyArray_STRIDE(working, 0)
    process_vjp_batch(&batch, vjp_kernel_for(values_rows, of_logarithm), requested_threads)
    if not is_final:
        np.copyto(moved, (<object>working).reshape(moved.shape))
    return out


cdef vjp_rows vjp_kernel_for(cnp.ndarray values, bint of_logarithm) noexcept:
    cdef int dtype = XENT_FLOAT32 if cnp.PyArray_TYPE(values) == cnp.NPY_FLOAT32 else XENT_FLOAT64
    cdef const xent_vjp_kernels *kernels = &active_isa.vjp_kernels[dtype]
    return kernels.log_softmax_rows if of_logarithm else kernels.softmax_rows


cdef void process_vjp_batch(
    const xent_vjp_batch *batch, vjp_rows process, int requested_threads
) noexcept:
    cdef int64_t size = batch.rows * batch.classes
    cdef int64_t chunk, chunk_rows, chunk_count
    cdef int threads
    if size == 0:
        return
    chunk_rows = rows_per_chunk(batch.rows, batch.classes, False)
    chunk_count = (batch.rows - 1) // chunk_rows + 1
    threads = thread_count(chunk_count, size, requested_threads)
    if size < UNLOCKED_LOGITS and threads == 1:
        process(batch, 0, batch.rows)
        return
    with nogil:
        if threads == 1:
            process(batch, 0, batch.rows)
        else:
            for chunk in prange(chunk_count, schedule="static", num_threads=threads):
                process(
                    batch, chunk * chunk_rows, min(chunk_rows, batch.rows - chunk * chunk_rows)
                )


# --- arguments of any shape -----------------------------------------------------------------------


cdef object as_float_array(object given, str name, object out):
    """A plain ndarray of float32 or float64, of any shape and layout."""
    if out is not None and not isinstance(given, np.ndarray):
        raise TypeError(f"{name} must be an ndarray where out is given, not {type(given).__name__}")
    array = as_plain_array(given, name)
    if not is_supported_float(array):
        raise TypeError(f"{name} must be float32 or float64, not {array.dtype}")
    return array


cdef int check_classes(object array, int axis, str name) except -1:
    if array.shape[axis] == 0 and np.prod(np.delete(array.shape, axis), dtype=object) > 0:
        raise ValueError(f"{name} of shape {array.shape} have no class along axis {axis}")
    return 0


cdef int check_alike(object array, str name, object other, str other_name) except -1:
    """Two arrays must have one shape and one dtype, whatever the byte order."""
    if array.dtype.type is not other.dtype.type:
        raise TypeError(
            f"{name} must have the dtype {other.dtype} of {other_name}, not {array.dtype}"
        )
    if array.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape {other.shape} of {other_name}, not {array.shape}"
        )
    return 0


cdef object as_output(object out, object other, str other_name):
    """`out` as a plain ndarray of the other's shape and dtype that can be written."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
    destination = as_plain_array(out, "out")
    check_alike(destination, "out", other, other_name)
    if not destination.flags.writeable:
        raise ValueError("output array is read-only (out)")
    if may_repeat_itself(destination):
        raise ValueError(
            f"out overlaps itself: shape {destination.shape}, strides {destination.strides}"
        )
    return destination


cdef int check_overlap(object destination, object array, str name) except -1:
    """An output has all its entries where the input has them, or shares no memory with it."""
    if not has_same_entries(destination, array) and shares_memory(destination, array):
        raise ValueError(f"out overlaps {name}; it must be the same array or share no memory")
    return 0


cdef bint has_same_entries(object first, object second) except -1:
    """Whether two arrays of one shape and type have the same bytes for every entry."""
    return (
        cnp.PyArray_DATA(first) == cnp.PyArray_DATA(second)
        and first.dtype.isnative == second.dtype.isnative
        and all([
            length <= 1 or step == other_step
            for length, step, other_step in zip(
                first.shape, first.strides, second.strides, strict=True
            )
        ])
    )


cdef bint may_repeat_itself(object array) except -1:
    """Whether two entries may share bytes.

    They cannot if, from the shortest stride to the longest, each axis steps over all that the
    shorter ones reach. Arrays made by slicing and transposing pass; of those made by as_strided
    some that interleave without overlapping do not.
    """
    if array.size == 0:
        return False
    reach = array.itemsize
    for step, length in sorted([
        (abs(step), length)
        for step, length in zip(array.strides, array.shape, strict=True)
        if length > 1
    ]):
        if step < reach:
            return True
        reach += step * (length - 1)
    return False


# --- arrays as rows -------------------------------------------------------------------------------


cdef inline object classes_last(object array, int axis):
    """A view of the array with the class axis moved to the end."""
    return array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)


cdef cnp.ndarray plain_rows(object array, int axis):
    """The array as a matrix of rows that a kernel can read: a view, or else a copy."""
    moved = classes_last(array, axis)
    rows = rows_in_place(moved)
    if rows is None:
        classes = moved.shape[moved.ndim - 1]
        rows = np.array(moved, dtype=array.dtype.type, order="C").reshape(-1, classes)
    return rows


cdef object rows_in_place(object moved):
    """A matrix over the same memory, of rows that a kernel can take as they lie, or None."""
    classes = moved.shape[moved.ndim - 1]
    if moved.size == 0:
        return np.empty((0, max(classes, 1)), moved.dtype.type)
    if not has_plain_classes(moved):
        return None
    if moved.ndim == 2:
        return moved
    rows = moved.reshape(-1, classes)
    return rows if cnp.PyArray_DATA(rows) == cnp.PyArray_DATA(moved) else None


cdef bint has_plain_classes(cnp.ndarray array) noexcept:
    cdef int last = cnp.PyArray_NDIM(array) - 1
    return (
        cnp.PyArray_ISALIGNED(array)
        and cnp.PyArray_ISNOTSWAPPED(array)
        and (
            cnp.PyArray_DIM(array, last) <= 1
            or cnp.PyArray_STRIDE(array, last) == cnp.PyArray_ITEMSIZE(array)
        )
    )


# --- checks for functions that are written in Python ----------------------------------------------


def checked_floats(given, name, out):
    """An array of float32 or float64; one that is not an array only without `out`."""
    return as_float_array(given, name, out)


def checked_axis(given, array, name):
    """An axis that has a class, counted from the first."""
    axis = axis_of(given, array.ndim)
    check_classes(array, axis, name)
    return axis


def checked_output(out, array, name):
    """`out` as an array that can take a result with the shape and dtype of an input."""
    destination = as_output(out, array, name)
    check_overlap(destination, array, name)
    return destination


def checked_scale(reduction, scale, num_threads):
    """The scale as a float, all three having been checked."""
    as_reduction(reduction)
    as_thread_count(num_threads)
    return as_real(scale, "scale")


def checked_number(given, name):
    """A float from any real number but a bool."""
    return as_real(given, name)


def checked_integer(given, name):
    """A Python int from any integer but a bool."""
    return as_integer(given, name)
