"""The arrays of a call, each checked: the ordinary case, inlined; the others in `arguments.pyx`.

Knows: NumPy's macros. Must not know: kernels, threads, the order in which a call does its work.

Each `as_*` function takes an argument as given and returns what the kernels need. The ordinary
case is settled with NumPy's macros and makes no Python object; everything else goes to its
`unusual_*` sibling, which may be slow. Nothing here writes to an array of the caller.
"""

cimport numpy as cnp
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport int64_t

from xent_fast._binding.arrays cimport (
    Layout,
    bounds_overlap,
    computed_type_number,
    is_for_kernels,
    is_supported_float,
)


# The arrays of one call, checked. Targets are class indices, one a row in the order of the rows, or
# dense ones in the shape of the logits; the other of the two is None.
cdef class Given:
    cdef str name          # what errors call the logits
    cdef object logits
    cdef object targets    # as given
    cdef object dense
    cdef Layout layout
    cdef cnp.ndarray labels
    cdef cnp.ndarray weight
    cdef cnp.ndarray sample_weight  # one a row in the order of the rows

    cdef int add_targets(self, object targets, bint are_read=*) except -1
    cdef int add_weights(self, object weight, object sample_weight) except -1
    cdef object output(self, object out, str name=*, bint may_be_logits=*)


cdef Given given_arrays(
    object logits,
    str name,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object out,
)
cdef Given given_logits(object logits, str name, object axis, object out)

cdef cnp.ndarray unusual_targets(object given, object logits, object destination)
cdef cnp.ndarray unusual_sample_weight(object given, object logits)
cdef cnp.ndarray copied_class_weight(object given, object logits)

cdef object as_float_array(object given, str name, object out)
cdef int as_axis(object given, object array, str name) except -1
cdef object as_output(object out, object other, str name, str out_name=*)
cdef object as_output_of_shape(
    object out, object dtype, object computed, object other, str name, tuple shape,
    str shape_name, str out_name=*
)
cdef int check_overlap(
    object destination, object array, str name, str out_name=*
) except -1
cdef object as_any_targets(
    object given, object logits, tuple row_shape, int axis, str name=*
)
cdef object as_numbers_alike(object given, str name, object other, str other_name)
cdef int check_alike(object array, str name, object other, str other_name) except -1
cdef object as_weights(object given, tuple shape, str name)
cdef object as_grad_output(object given, tuple row_shape, bint may_be_rows)
cdef cnp.ndarray as_row_factors(object given, Layout layout, bint may_be_rows)
cdef int check_sign(cnp.ndarray weights, str name) except -1
cdef int64_t first_negative(const double *values, int64_t count) noexcept nogil
cdef int raise_negative_weight(str name, double value, tuple where) except -1
cdef int raise_index_error(
    object label, tuple where, int axis, int64_t classes, bint may_be_ignored
) except -1


cdef inline bint is_ordinary(object given, object axis, object out) except -1:
    """Whether these are a matrix, classes last, and an output that kernels take as they lie."""
    cdef cnp.ndarray logits
    if not PyLong_CheckExact(axis) or not cnp.PyArray_CheckExact(given):
        return False
    logits = <cnp.ndarray>given
    return (
        cnp.PyArray_NDIM(logits) == 2
        and (axis == -1 or axis == 1)
        and is_supported_float(logits)
        and cnp.PyArray_DIM(logits, 1) > 0
        and is_for_kernels(logits)
        and (out is None or is_ordinary_output(out, logits))
    )


cdef inline bint is_ordinary_output(object given, cnp.ndarray logits) noexcept:
    """Whether `out` is safe to write: the logits' own memory or none of it."""
    cdef cnp.ndarray out
    if not cnp.PyArray_CheckExact(given):
        return False
    out = <cnp.ndarray>given
    return (
        (cnp.PyArray_ISCARRAY(out) or (cnp.PyArray_ISFARRAY(out) and is_for_kernels(out)))
        and cnp.PyArray_NDIM(out) == 2
        and cnp.PyArray_TYPE(out) == cnp.PyArray_TYPE(logits)
        and cnp.PyArray_DIM(out, 0) == cnp.PyArray_DIM(logits, 0)
        and cnp.PyArray_DIM(out, 1) == cnp.PyArray_DIM(logits, 1)
        and (out is logits or not bounds_overlap(out, logits))
    )


cdef inline cnp.ndarray as_targets(object given, cnp.ndarray logits, cnp.ndarray destination):
    """The targets as a plain ndarray that a kernel can read: labels (rows,) or (rows, classes)."""
    cdef cnp.ndarray targets
    if cnp.PyArray_CheckExact(given):
        targets = <cnp.ndarray>given
        if (
            cnp.PyArray_NDIM(targets) == 1
            and cnp.PyArray_DIM(targets, 0) == cnp.PyArray_DIM(logits, 0)
            and cnp.PyArray_ISINTEGER(targets)
            and cnp.PyArray_ISNOTSWAPPED(targets)
            and not (destination is not None and bounds_overlap(targets, destination))
        ):
            return targets
    return unusual_targets(given, logits, destination)


cdef inline cnp.ndarray as_sample_weight(object given, cnp.ndarray logits, cnp.ndarray destination):
    """The row weights as contiguous float64 that share no memory with `destination`, or None."""
    cdef cnp.ndarray weights
    if given is None:
        return None
    if cnp.PyArray_CheckExact(given):
        weights = <cnp.ndarray>given
        if (
            cnp.PyArray_NDIM(weights) == 1
            and cnp.PyArray_DIM(weights, 0) == cnp.PyArray_DIM(logits, 0)
            and cnp.PyArray_TYPE(weights) == cnp.NPY_FLOAT64
            and cnp.PyArray_ISCARRAY_RO(weights)
            and not (destination is not None and bounds_overlap(weights, destination))
        ):
            return weights
    return unusual_sample_weight(given, logits)


cdef inline cnp.ndarray as_class_weight(object given, cnp.ndarray logits, cnp.ndarray destination):
    """The class weights as contiguous numbers of the type that is computed in, or None."""
    cdef cnp.ndarray weights
    if given is None:
        return None
    if cnp.PyArray_CheckExact(given):
        weights = <cnp.ndarray>given
        if (
            cnp.PyArray_NDIM(weights) == 1
            and cnp.PyArray_DIM(weights, 0) == cnp.PyArray_DIM(logits, 1)
            and cnp.PyArray_TYPE(weights) == computed_type_number(logits)
            and cnp.PyArray_ISCARRAY_RO(weights)
            and not (destination is not None and bounds_overlap(weights, destination))
        ):
            return weights
    return copied_class_weight(given, logits)
