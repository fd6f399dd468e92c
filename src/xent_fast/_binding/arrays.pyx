"""How arrays lie in memory, and arrays of any shape as the rows that the kernels take.

Knows: axes, strides, dtypes, which layouts the kernels take as they lie.
Must not know: what the arguments mean, kernels, threads.

The kernels take (rows, classes), or (groups, rows, classes) where not all rows are one stride
apart: with the classes side by side, or with the rows side by side and the classes any stride
apart. So (N, C, H, W) with classes along axis 1 is N groups of H W rows.

No list comprehensions: Cython 3.3 frees an item twice where the list cannot grow.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport XENT_AS_COMPUTED

cnp.import_array()


cdef extern from "numpy/ndarraytypes.h":
    enum:
        NPY_USERDEF  # the first number of a dtype that NumPy does not have itself


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


cdef struct AddressRange:
    const char *low
    const char *high


cdef struct RowAxes:
    # one or two axes of rows, each made of some that are one in memory
    int count
    cnp.npy_intp length[2]
    int smallest[2]  # the axis of the smallest step


# --- how an array lies in memory ------------------------------------------------------------------


cdef bint is_bfloat16(object dtype) except -1:
    """Whether it is that of ml_dtypes, which is known by its name and size alone."""
    return (
        dtype.num >= NPY_USERDEF and dtype.itemsize == 2 and dtype.type.__name__ == "bfloat16"
    )


cdef object computed_type(cnp.ndarray array):
    """The same as NumPy's type."""
    return np.float64 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else np.float32


cdef bint is_read_as_stored(cnp.ndarray array, cnp.ndarray logits) except -1:
    """Whether kernels for those logits take an array's numbers without a copy."""
    if cnp.PyArray_TYPE(array) == computed_type_number(logits):
        return True
    if computed_type_number(logits) != cnp.NPY_FLOAT32 or not is_supported_float(array):
        return False
    return storage_of(array) != XENT_AS_COMPUTED


cdef object cast_copy(object array, object dtype, str order="C"):
    """A copy of that dtype; what it cannot hold becomes inf or 0, without a word."""
    with np.errstate(all="ignore"):
        # np.array() leaves a long double that is a double
        return np.asarray(array).astype(dtype, order=order)


cdef cnp.ndarray copied_doubles(object values):
    return cast_copy(values, np.float64)


cdef bint shares_memory(cnp.ndarray first, cnp.ndarray second) except -1:
    return bounds_overlap(first, second) and np.shares_memory(first, second)


cdef bint bounds_overlap(cnp.ndarray first, cnp.ndarray second) noexcept:
    """Whether the smallest address ranges that hold the arrays meet; never for an empty array."""
    cdef AddressRange a = address_range(first)
    cdef AddressRange b = address_range(second)
    return a.low < a.high and b.low < b.high and a.low < b.high and b.low < a.high


cdef AddressRange address_range(cnp.ndarray array) noexcept:
    cdef AddressRange bounds
    cdef cnp.npy_intp reach
    cdef int axis
    bounds.low = bounds.high = cnp.PyArray_BYTES(array)
    for axis in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, axis) == 0:
            bounds.low = bounds.high = cnp.PyArray_BYTES(array)
            return bounds
        reach = (cnp.PyArray_DIM(array, axis) - 1) * cnp.PyArray_STRIDE(array, axis)
        if reach < 0:
            bounds.low += reach
        else:
            bounds.high += reach
    bounds.high += cnp.PyArray_ITEMSIZE(array)
    return bounds


cdef bint has_same_entries(cnp.ndarray first, cnp.ndarray second) except -1:
    """Whether two arrays of one shape have the same bytes for every entry."""
    cdef int axis
    if first is second:
        return True
    if cnp.PyArray_DATA(first) != cnp.PyArray_DATA(second):
        return False
    for axis in range(cnp.PyArray_NDIM(first)):
        if (
            cnp.PyArray_DIM(first, axis) > 1
            and cnp.PyArray_STRIDE(first, axis) != cnp.PyArray_STRIDE(second, axis)
        ):
            return False
    return (<object>first).dtype == (<object>second).dtype


cdef bint may_repeat_itself(object array) except -1:
    """Whether two entries may share bytes.

    They cannot if, from the shortest stride to the longest, each axis steps over all that the
    shorter ones reach. Arrays made by slicing and transposing pass; of those made by as_strided
    some that interleave without overlapping do not.
    """
    if cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array):
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


cdef cnp.ndarray empty_like(cnp.ndarray logits):
    """Native numbers of the logits' shape and type, in Fortran order where the logits are in it."""
    cdef bint is_fortran = (
        cnp.PyArray_NDIM(logits) == 2 and is_for_kernels(logits) and class_stride_of(logits) != 0
    )
    return cnp.PyArray_EMPTY(
        cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), cnp.PyArray_TYPE(logits), is_fortran
    )


# --- any number of dimensions ---------------------------------------------------------------------


cdef tuple without_axis(tuple shape, int axis):
    return shape[:axis] + shape[axis + 1:]


cdef Layout layout_of(cnp.ndarray array, int axis):
    """Rows are taken from the largest step in memory to the smallest."""
    cdef Layout layout = Layout()
    cdef int number, place
    layout.ndim = cnp.PyArray_NDIM(array)
    layout.axis = axis
    layout.row_shape = without_axis((<object>array).shape, axis)
    layout.loads = []
    layout.stores = []
    for number in range(layout.ndim):
        if number == axis:
            continue
        place = number - (number > axis)
        while place > 0 and is_larger_step(array, number, layout.axes[place - 1]):
            layout.axes[place] = layout.axes[place - 1]
            place -= 1
        layout.axes[place] = number
    layout.axes[layout.ndim - 1] = axis
    return layout


cdef bint is_larger_step(cnp.ndarray array, int axis, int other) noexcept:
    """Whether from one entry to the next it is further along the one axis than along the other."""
    cdef cnp.npy_intp step = cnp.PyArray_STRIDE(array, axis)
    cdef cnp.npy_intp other_step = cnp.PyArray_STRIDE(array, other)
    return max(step, -step) > max(other_step, -other_step)


@cython.final
cdef class Layout:
    cdef object moved(self, cnp.ndarray array):
        """A view with the axes in order, that of the classes last."""
        return transposed(array, self.axes, self.ndim)

    cdef object in_order(self, cnp.ndarray array):
        """Of an array with one entry a row: one axis, in the order of the rows."""
        cdef cnp.npy_intp order[MOST_AXES]
        self.fill_row_axes(order)
        return transposed(array, order, self.ndim - 1).reshape(-1)

    cdef object as_given(self, object values):
        """The reverse: one entry a row in the shape of the caller's arrays."""
        cdef cnp.npy_intp order[MOST_AXES]
        cdef cnp.npy_intp inverse[MOST_AXES]
        cdef int place
        self.fill_row_axes(order)
        for place in range(self.ndim - 1):
            inverse[order[place]] = place
        return transposed(values.reshape(self.shape_in_order()), inverse, self.ndim - 1)

    cdef tuple place_of_row(self, int64_t row):
        """Indices of a row in an array with one entry a row, as the caller knows it."""
        cdef cnp.npy_intp order[MOST_AXES]
        cdef int other
        if self.ndim == 1:
            return ()
        self.fill_row_axes(order)
        place = [0] * (self.ndim - 1)
        for other, index in enumerate(np.unravel_index(row, self.shape_in_order())):
            place[order[other]] = int(index)
        return tuple(place)

    cdef void fill_row_axes(self, cnp.npy_intp *order) noexcept:
        """The same order for arrays that lack the class axis."""
        cdef int place
        for place in range(self.ndim - 1):
            order[place] = self.axes[place] - (self.axes[place] > self.axis)

    cdef tuple shape_in_order(self):
        """Of an array with one entry a row."""
        cdef cnp.npy_intp order[MOST_AXES]
        cdef int place
        self.fill_row_axes(order)
        shape = []
        for place in range(self.ndim - 1):
            shape.append(self.row_shape[order[place]])
        return tuple(shape)

    cdef list matrices(self, list inputs, list outputs):
        """All arrays as the kernels take them: views, and copies of those that must be copied.

        An input is copied at once, but where the first output can take a copy of the first input:
        that is noted in `loads`. What an output gets only after the kernels is noted in `stores`.
        """
        cdef int number, output = len(inputs)
        if self.ndim == 2 and self.axis == 1:
            if are_matrices(inputs) and are_matrices(outputs):
                return inputs + outputs
        moved = []
        for array in inputs + outputs:
            moved.append(self.moved(array))
        matrices = as_groups(moved)
        if matrices is not None:
            return matrices
        matrices = []
        for array in moved:
            alone = as_groups([array], True)
            matrices.append(None if alone is None else alone[0])
        for number in range(output, len(moved)):
            if matrices[number] is None:
                array = moved[number]
                matrices[number] = np.empty(rows_and_classes_of(array), array.dtype.type)
                self.stores.append((array, matrices[number].reshape(array.shape)))
        if matrices[0] is None and output < len(moved):
            if can_take_copy(matrices, output, inputs[0]):
                matrices[0] = matrices[output]
                self.loads.append((matrices[0].reshape(moved[0].shape), moved[0]))
        for number in range(output):
            if matrices[number] is None:
                array = moved[number]
                copy = np.array(array, array.dtype.type, order="C")
                matrices[number] = copy.reshape(rows_and_classes_of(array))
        return matrices


cdef bint are_matrices(list arrays) except -1:
    """Whether kernels take these arrays of two dimensions, the classes last, as they lie."""
    for array in arrays:
        if not is_for_kernels(array):
            return False
    return True


cdef tuple rows_and_classes_of(object moved):
    classes = moved.shape[moved.ndim - 1]
    return moved.size // max(classes, 1), classes


cdef bint can_take_copy(list matrices, int output, object logits) except -1:
    """Whether the first output has the logits' dtype, and no other input is read from it."""
    cdef int number
    if matrices[output].dtype.type is not logits.dtype.type:
        return False
    for number in range(1, output):
        if matrices[number] is not None and bounds_overlap(matrices[output], matrices[number]):
            return False
    return True


cdef int copy_pairs(list pairs) except -1:
    for to, source in pairs:
        cnp.PyArray_CopyInto(to, source)
    return 0


cdef object result_like(object logits, int axis):
    """A new array of the logits' shape, native, in their memory order."""
    if logits.ndim == 2 and axis == 1:
        return empty_like(logits)
    return np.empty_like(logits, dtype=logits.dtype.type, subok=False)


cdef object transposed(cnp.ndarray array, cnp.npy_intp *order, int ndim):
    cdef cnp.PyArray_Dims axes
    axes.ptr = order
    axes.len = ndim
    return cnp.PyArray_Transpose(array, &axes)


cdef list as_groups(list arrays, bint as_rows=False):
    """Views (rows, classes) or (groups, rows, classes) of arrays of one shape, classes last; None
    where the kernels do not take one of them as it lies.

    With `as_rows` the views are of all rows with their classes side by side, or None.
    """
    cdef cnp.ndarray first = arrays[0]
    cdef cnp.npy_intp length
    cdef RowAxes merged  # runs of axes
    cdef int most = 1 if as_rows else 2
    cdef int number
    if cnp.PyArray_SIZE(first) == 0:
        return None
    merged.count = 0
    for number in range(cnp.PyArray_NDIM(first) - 1):
        length = cnp.PyArray_DIM(first, number)
        if length == 1:
            continue
        if merged.count > 0 and are_one_axis(arrays, merged.smallest[merged.count - 1], number):
            merged.length[merged.count - 1] *= length
            merged.smallest[merged.count - 1] = number
            continue
        if merged.count == most:
            return None
        merged.length[merged.count] = length
        merged.smallest[merged.count] = number
        merged.count += 1
    if merged.count == 0:
        merged.length[0] = 1
        merged.smallest[0] = cnp.PyArray_NDIM(first) - 1
        merged.count = 1
    views = []
    for array in arrays:
        view = view_of_rows(array, &merged)
        if not is_for_kernels(view) or (as_rows and not has_classes_side_by_side(view)):
            return None
        views.append(view)
    return views


cdef bint are_one_axis(list arrays, int outer, int inner) except -1:
    """Whether a step along one axis is a whole turn of the next, in every array."""
    cdef cnp.ndarray array
    for array in arrays:
        if (
            cnp.PyArray_STRIDE(array, outer)
            != cnp.PyArray_STRIDE(array, inner) * cnp.PyArray_DIM(array, inner)
        ):
            return False
    return True


cdef cnp.ndarray view_of_rows(cnp.ndarray array, const RowAxes *axes):
    """What np.lib.stride_tricks.as_strided gives, which does not survive a failed allocation."""
    cdef cnp.npy_intp shape[3]
    cdef cnp.npy_intp strides[3]
    cdef cnp.dtype descriptor = (<object>array).dtype
    cdef int last = cnp.PyArray_NDIM(array) - 1
    cdef int number
    for number in range(axes.count):
        shape[number] = axes.length[number]
        strides[number] = cnp.PyArray_STRIDE(array, axes.smallest[number])
    shape[axes.count] = cnp.PyArray_DIM(array, last)
    strides[axes.count] = cnp.PyArray_STRIDE(array, last)
    Py_INCREF(descriptor)  # the next call takes a reference
    view = PyArray_NewFromDescr(
        <PyTypeObject *>cnp.ndarray,
        descriptor,
        axes.count + 1,
        shape,
        strides,
        cnp.PyArray_DATA(array),
        cnp.PyArray_FLAGS(array) & cnp.NPY_ARRAY_WRITEABLE,
        None,
    )
    cnp.set_array_base(view, array)
    return view
