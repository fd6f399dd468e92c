"""How arrays lie in memory, and arrays of any shape as rows; meanings stand in `arrays.pyx`.

Knows: names and types, and the questions of every call, which are inlined.
Must not know: what the arguments mean, kernels, threads.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport (
    XENT_AS_COMPUTED,
    XENT_BFLOAT16,
    XENT_FLOAT16,
    XENT_FLOAT32,
    XENT_FLOAT64,
    xent_dtype,
    xent_matrix,
    xent_matrix_of,
    xent_storage,
)


cdef enum:
    # Where classes lie apart and rows side by side, fewer rows than these are copied first.
    FEWEST_ROWS_APART = 8
    MOST_AXES = 64  # of NumPy's arrays

# How one call takes the rows of its arrays, which have one shape, but for the class axis.
cdef class Layout:
    cdef int ndim
    cdef int axis         # of the classes
    cdef cnp.npy_intp axes[MOST_AXES]  # in the order of the rows, that of the classes last
    cdef tuple row_shape  # of an array without the class axis
    cdef list loads       # pairs of arrays (to, from), to be copied before the kernels run
    cdef list stores      # the same after that

    cdef object moved(self, cnp.ndarray array)
    cdef object in_order(self, cnp.ndarray array)
    cdef object as_given(self, object values)
    cdef tuple place_of_row(self, int64_t row)
    cdef void fill_row_axes(self, cnp.npy_intp *order) noexcept
    cdef tuple shape_in_order(self)
    cdef list matrices(self, list inputs, list outputs)


cdef Layout layout_of(cnp.ndarray array, int axis)
cdef int copy_pairs(list pairs) except -1
cdef object result_like(object logits, int axis)
cdef bint is_bfloat16(object dtype) except -1
cdef object computed_type(cnp.ndarray array)
cdef bint is_read_as_stored(cnp.ndarray array, cnp.ndarray logits) except -1
cdef object cast_copy(object array, object dtype, str order=*)
cdef cnp.ndarray copied_doubles(object values)
cdef bint shares_memory(cnp.ndarray first, cnp.ndarray second) except -1
cdef bint bounds_overlap(cnp.ndarray first, cnp.ndarray second) noexcept
cdef bint has_same_entries(cnp.ndarray first, cnp.ndarray second) except -1
cdef bint may_repeat_itself(object array) except -1

cdef tuple without_axis(tuple shape, int axis)
cdef cnp.ndarray empty_like(cnp.ndarray logits)


# --- the numbers of an array ----------------------------------------------------------------------


cdef inline bint is_supported_float(cnp.ndarray array) except -1:
    cdef int type_number = cnp.PyArray_TYPE(array)
    if type_number == cnp.NPY_FLOAT32 or type_number == cnp.NPY_FLOAT64:
        return True
    return type_number == cnp.NPY_FLOAT16 or is_bfloat16((<object>array).dtype)


cdef inline xent_storage storage_of(cnp.ndarray array) noexcept:
    """How the numbers of an array of a float that is taken lie in memory."""
    cdef int type_number = cnp.PyArray_TYPE(array)
    if type_number == cnp.NPY_FLOAT32 or type_number == cnp.NPY_FLOAT64:
        return XENT_AS_COMPUTED
    return XENT_FLOAT16 if type_number == cnp.NPY_FLOAT16 else XENT_BFLOAT16


cdef inline xent_dtype dtype_of(cnp.ndarray array) noexcept:
    """What an array of a float that is taken is computed in."""
    return XENT_FLOAT64 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else XENT_FLOAT32


cdef inline int computed_type_number(cnp.ndarray array) noexcept:
    """The same as NumPy's number of it."""
    return cnp.NPY_FLOAT64 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else cnp.NPY_FLOAT32


# --- the layout of (…, rows, classes) -------------------------------------------------------------


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


cdef inline xent_matrix matrix_of(cnp.ndarray array) noexcept:
    """(rows, classes) or (groups, rows, classes) as the kernels know it; None is no matrix."""
    cdef xent_matrix matrix
    if array is None:
        return xent_matrix_of(NULL, 0, 0)
    matrix = xent_matrix_of(cnp.PyArray_DATA(array), row_stride_of(array), class_stride_of(array))
    if cnp.PyArray_NDIM(array) == 3:
        matrix.group_stride = cnp.PyArray_STRIDE(array, 0)
    matrix.storage = storage_of(array)
    return matrix


cdef inline cnp.npy_intp row_count_of(cnp.ndarray array) noexcept:
    """Of (rows, classes) or (groups, rows, classes)."""
    cdef cnp.npy_intp rows = cnp.PyArray_DIM(array, 0)
    return rows if cnp.PyArray_NDIM(array) == 2 else rows * cnp.PyArray_DIM(array, 1)


cdef inline cnp.ndarray empty_rows(cnp.npy_intp rows, int type_number):
    """One number a row."""
    return cnp.PyArray_EMPTY(1, &rows, type_number, 0)
