# Arrays of any shape as the rows that the kernels take, included by _core.pyx.
#
# Knows: axes, strides, which layouts the kernels take as they lie.
# Must not know: what the arguments mean, kernels, threads.
#
# The kernels take (rows, classes), or (groups, rows, classes) where not all rows are one stride
# apart: with the classes side by side, or with the rows side by side and the classes any stride
# apart. So (N, C, H, W) with classes along axis 1 is N groups of H W rows.
#
# No list comprehensions: Cython 3.3 frees an item twice where the list cannot grow.

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(
        PyTypeObject *type,
        cnp.dtype descriptor,
        int ndim,
        const cnp.npy_intp *shape,
        const cnp.npy_intp *strides,
        void *data,
        int flags,
        object like,
    )


cdef inline bint is_for_kernels(cnp.ndarray array) noexcept:
    """Whether the kernels take (…, rows, classes) as it lies."""
    cdef int last = cnp.PyArray_NDIM(array) - 1
    if not cnp.PyArray_ISALIGNED(array) or not cnp.PyArray_ISNOTSWAPPED(array):
        return False
    if has_classes_side_by_side(array):
        return True
    return (
        cnp.PyArray_STRIDE(array, last) != 0
        and cnp.PyArray_STRIDE(array, last - 1) == cnp.PyArray_ITEMSIZE(array)
        and cnp.PyArray_DIM(array, last - 1) >= FEWEST_ROWS_APART
    )


cdef inline bint has_classes_side_by_side(cnp.ndarray array) noexcept:
    cdef int last = cnp.PyArray_NDIM(array) - 1
    return (
        cnp.PyArray_DIM(array, last) <= 1
        or cnp.PyArray_STRIDE(array, last) == cnp.PyArray_ITEMSIZE(array)
    )


cdef inline Py_ssize_t class_stride_of(cnp.ndarray array) noexcept:
    """Bytes from class to class, 0 where they are side by side."""
    cdef int last = cnp.PyArray_NDIM(array) - 1
    return 0 if has_classes_side_by_side(array) else cnp.PyArray_STRIDE(array, last)


cdef inline Py_ssize_t row_stride_of(cnp.ndarray array) noexcept:
    return cnp.PyArray_STRIDE(array, cnp.PyArray_NDIM(array) - 2)


cdef tuple without_axis(tuple shape, int axis):
    return shape[:axis] + shape[axis + 1:]


cdef tuple axes_by_stride(object array, int axis):
    """All axes, that of the classes last, those before it from the largest step to the smallest."""
    others = without_axis(tuple(range(array.ndim)), axis)
    if len(others) < 2:
        return (*others, axis)
    strides = array.strides
    return (*sorted(others, key=lambda other: -abs(strides[other])), axis)


cdef tuple row_axes(tuple axes, int axis):
    """The same order for arrays that lack the class axis."""
    order = []
    for other in axes:
        if other != axis:
            order.append(other - (other > axis))
    return tuple(order)


cdef object rows_in_order(object array, tuple axes, int axis):
    """One entry a row, in the order of the rows."""
    return array.transpose(row_axes(axes, axis)).reshape(-1)


cdef object rows_as_given(object values, tuple axes, int axis, tuple row_shape):
    """The reverse: one entry a row in the shape of the caller's arrays."""
    order = row_axes(axes, axis)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return values.reshape(tuple(map(row_shape.__getitem__, order))).transpose(inverse)


cdef tuple place_of_row(int64_t row, tuple shape, tuple order):
    """Indices of a row in an array of that shape, whose axes were taken in that order."""
    if not shape:
        return ()
    in_order = np.unravel_index(row, tuple(map(shape.__getitem__, order)))
    place = []
    for other in range(len(order)):
        place.append(int(in_order[order.index(other)]))
    return tuple(place)


cdef list as_groups(list arrays):
    """Views (rows, classes) or (groups, rows, classes) of arrays of one shape, classes last; None
    where the kernels do not take one of them as it lies."""
    first = arrays[0]
    shape = first.shape
    if first.size == 0:
        return None
    merged = []  # runs of axes, each as [length, axis of the smallest step]
    for number in range(first.ndim - 1):
        if shape[number] == 1:
            continue
        if merged and are_one_axis(arrays, merged[len(merged) - 1][1], number):
            merged[len(merged) - 1] = [merged[len(merged) - 1][0] * shape[number], number]
        else:
            merged.append([shape[number], number])
    if len(merged) > 2:
        return None
    views = []
    for array in arrays:
        view = view_of_rows(array, merged)
        if not is_for_kernels(view):
            return None
        views.append(view)
    return views


cdef bint are_one_axis(list arrays, int outer, int inner) except -1:
    """Whether a step along one axis is a whole turn of the next, in every array."""
    for array in arrays:
        if array.strides[outer] != array.strides[inner] * array.shape[inner]:
            return False
    return True


cdef cnp.ndarray view_of_rows(cnp.ndarray array, list merged):
    """What np.lib.stride_tricks.as_strided gives, which does not survive a failed allocation."""
    cdef cnp.npy_intp shape[3]
    cdef cnp.npy_intp strides[3]
    cdef int last = cnp.PyArray_NDIM(array) - 1
    cdef int ndim = 0
    cdef int axis
    for length, number in merged or [(1, last)]:
        axis = number
        shape[ndim] = length
        strides[ndim] = cnp.PyArray_STRIDE(array, axis)
        ndim += 1
    shape[ndim] = cnp.PyArray_DIM(array, last)
    strides[ndim] = cnp.PyArray_STRIDE(array, last)
    cdef cnp.dtype descriptor = (<object>array).dtype
    Py_INCREF(descriptor)  # the next call takes a reference
    view = PyArray_NewFromDescr(
        <PyTypeObject *>cnp.ndarray,
        descriptor,
        ndim + 1,
        shape,
        strides,
        cnp.PyArray_DATA(array),
        cnp.PyArray_FLAGS(array) & cnp.NPY_ARRAY_WRITEABLE,
        None,
    )
    cnp.set_array_base(view, array)
    return view


cdef cnp.ndarray copied_rows(object array, object dtype):
    """A native C-contiguous matrix (rows, classes) of an array whose classes are last."""
    classes = array.shape[array.ndim - 1]
    copy = np.array(array, dtype=dtype.type, order="C")
    return copy.reshape((array.size // max(classes, 1), classes))


# --- rows side by side, for kernels that take nothing else ----------------------------------------


cdef inline object classes_last(object array, int axis):
    """A view of the array with the class axis moved to the end."""
    return array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)


cdef cnp.ndarray plain_rows(object array, int axis):
    """The array as a matrix of rows with their classes side by side: a view, or else a copy."""
    moved = classes_last(array, axis)
    rows = rows_in_place(moved)
    return copied_rows(moved, array.dtype) if rows is None else rows


cdef object rows_in_place(object moved):
    """A matrix over the same memory, of rows with their classes side by side, or None."""
    classes = moved.shape[moved.ndim - 1]
    if moved.size == 0:
        return np.empty((0, classes), moved.dtype.type)
    if not has_plain_classes(moved):
        return None
    if moved.ndim == 2:
        return moved
    rows = moved.reshape(-1, classes)
    return rows if cnp.PyArray_DATA(rows) == cnp.PyArray_DATA(moved) else None


cdef inline bint has_plain_classes(cnp.ndarray array) noexcept:
    return (
        cnp.PyArray_ISALIGNED(array)
        and cnp.PyArray_ISNOTSWAPPED(array)
        and has_classes_side_by_side(array)
    )
