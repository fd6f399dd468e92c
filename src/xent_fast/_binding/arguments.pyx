"""The arrays of a call, each checked: whatever is not the ordinary case of `arguments.pxd`.

Knows: what a caller may hand over, NumPy's arrays, and the words of every complaint.
Must not know: kernels, threads, the order in which a call does its work.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t

from xent_fast import _remedies

from xent_fast._binding.arrays cimport (
    Layout,
    cast_copy,
    computed_type,
    copied_doubles,
    has_same_entries,
    is_bfloat16,
    is_for_kernels,
    is_read_as_stored,
    is_supported_float,
    layout_of,
    may_repeat_itself,
    result_like,
    shares_memory,
    storage_of,
    without_axis,
)
from xent_fast._binding.kernels cimport XENT_AS_COMPUTED
from xent_fast._binding.options cimport NONE, as_real, as_reduction, axis_of

cnp.import_array()


# --- a matrix whose classes are the last axis -----------------------------------------------------


cdef cnp.ndarray unusual_targets(object given, object logits, object destination):
    targets = as_any_targets(given, logits, logits.shape[:1], 1)
    if destination is not None and shares_memory(targets, destination):
        raise ValueError("out shares memory with targets")
    if cnp.PyArray_ISINTEGER(targets):
        return targets.astype(targets.dtype.newbyteorder("="), copy=False)
    if is_read_as_stored(targets, logits) and is_for_kernels(targets):
        return targets
    return cast_copy(targets, computed_type(logits))


cdef cnp.ndarray unusual_sample_weight(object given, object logits):
    return copied_doubles(as_weights(given, logits.shape[:1], "sample_weight"))


cdef cnp.ndarray copied_class_weight(object given, object logits):
    weights = as_weights(given, logits.shape[logits.ndim - 1:], "weight")
    return cast_copy(weights, computed_type(logits))


# --- any number of dimensions, any axis -----------------------------------------------------------


cdef Given given_arrays(
    object logits,
    str name,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object out,
):
    """The arrays of a loss, each checked by itself.

    `out` is any array of the caller that results are written to, or None.
    """
    check_order(logits, targets, name)
    cdef Given given = given_logits(logits, name, axis, out)
    given.add_targets(targets)
    given.add_weights(weight, sample_weight)
    return given


cdef int check_order(object logits, object targets, str name) except -1:
    """Some libraries take (targets, logits)."""
    if not cnp.PyArray_Check(logits) or not cnp.PyArray_ISINTEGER(logits):
        return 0
    if not cnp.PyArray_Check(targets) or not is_supported_float(targets):
        return 0
    raise TypeError(
        f"{name} must be float16, bfloat16, float32 or float64, not {logits.dtype}, and targets "
        f"are {targets.dtype}: the {name} come first, then the targets"
    )


cdef Given given_logits(object logits, str name, object axis, object out):
    """The same of a function without targets."""
    cdef Given given = Given()
    given.name = name
    given.logits = as_float_array(logits, name, out)
    given.layout = layout_of(given.logits, as_axis(axis, given.logits, name))
    return given


@cython.final
cdef class Given:
    cdef int add_targets(self, object targets, bint are_read=True) except -1:
        """Without `are_read`, dense ones may stay of a type that kernels do not take."""
        cdef Layout layout = self.layout
        cdef object logits = self.logits
        self.targets = as_any_targets(targets, logits, layout.row_shape, layout.axis, self.name)
        if cnp.PyArray_ISINTEGER(self.targets):
            self.labels = layout.in_order(self.targets)
            if not cnp.PyArray_ISNOTSWAPPED(self.labels):
                self.labels = self.labels.astype(self.labels.dtype.newbyteorder("="))
            return 0
        self.dense = self.targets
        if not are_read:
            return 0
        if not is_read_as_stored(self.dense, self.logits) or not self.dense.dtype.isnative:
            self.dense = cast_copy(self.dense, computed_type(self.logits), "K")
        return 0

    cdef int add_weights(self, object weight, object sample_weight) except -1:
        if weight is not None:
            self.weight = copied_class_weight(weight, self.layout.moved(self.logits))
        if sample_weight is not None:
            weights = as_weights(sample_weight, self.layout.row_shape, "sample_weight")
            self.sample_weight = copied_doubles(self.layout.in_order(weights))
        return 0

    cdef object output(self, object out, str name="out", bint may_be_logits=True):
        """A result of the logits' shape: a new array, or the one that was given for it."""
        if out is None:
            return result_like(self.logits, self.layout.axis)
        destination = as_output(out, self.logits, self.name, name)
        if may_be_logits:
            check_overlap(destination, self.logits, self.name, name)
        elif shares_memory(destination, self.logits):
            raise ValueError(f"{name} shares memory with {self.name}")
        if self.targets is not None and shares_memory(self.targets, destination):
            raise ValueError(f"{name} shares memory with targets")
        return destination


cdef object as_float_array(object given, str name, object out):
    """A plain ndarray of a float that is taken, of any shape and layout."""
    if out is not None and not isinstance(given, np.ndarray):
        raise TypeError(no_ndarray_beside_out(given, name))
    array = as_plain_array(given, name)
    check_supported_float(given, array, name)
    return array


cdef str no_ndarray_beside_out(object given, str name):
    return (
        f"{name} must be an ndarray where out is given, not {type(given).__name__}; "
        f"np.asarray({name}) makes one"
    )


cdef int check_supported_float(object given, cnp.ndarray array, str name) except -1:
    if not is_supported_float(array):
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, not "
            f"{_remedies.described(given, array)}"
            f"{_remedies.for_numbers(given, array, name, 'np.float32')}"
        )
    return 0


cdef object as_plain_array(object given, str name):
    """An ndarray of no subclass over the same memory; what is not an array is copied into one."""
    if cnp.PyArray_CheckExact(given):
        return given
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array{_remedies.for_masked(name)}")
    return np.asarray(given)


cdef int as_axis(object given, object array, str name) except -1:
    """The axis of the classes, counted from the first; every row has a class."""
    if array.ndim == 0:
        raise np.exceptions.AxisError(f"{name} must have a class axis; they have no axis at all")
    axis = axis_of(given, array.ndim)
    if array.shape[axis] == 0 and 0 not in without_axis(array.shape, axis):
        raise ValueError(f"{name} of shape {array.shape} have no class along axis {axis}")
    return axis


cdef object as_output(object out, object other, str name, str out_name="out"):
    """`out` as a plain ndarray of the other's shape that can be written.

    It has the other's dtype or, where that has 16 bits, float32.
    """
    return as_output_of_shape(
        out, other.dtype, computed_type(other), other, name, other.shape, f"the {name}' shape",
        out_name
    )


cdef object as_output_of_shape(
    object out, object dtype, object computed, object other, str name, tuple shape,
    str shape_name, str out_name="out"
):
    """The same for another shape, of one dtype or the other."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{out_name} must be an ndarray, not {type(out).__name__}")
    destination = as_plain_array(out, out_name)
    if destination.dtype.type is not dtype.type and destination.dtype.type is not computed:
        if dtype.type is not other.dtype.type:
            raise TypeError(
                f"{out_name} must have the dtype {dtype} where the {name} are {other.dtype}, not "
                f"{destination.dtype}"
            )
        alternative = "" if dtype.type is computed else " or float32"
        raise TypeError(
            f"{out_name} must have the {name}' dtype {dtype}{alternative}, not {destination.dtype}"
        )
    if destination.shape != shape:
        raise ValueError(f"{out_name} must have {shape_name} {shape}, not {destination.shape}")
    if not destination.flags.writeable:
        raise ValueError(
            f"output array is read-only ({out_name}); a copy of it can be written"
        )
    if may_repeat_itself(destination):
        raise ValueError(
            f"{out_name} overlaps itself: shape {destination.shape}, strides {destination.strides}"
        )
    return destination


cdef int check_overlap(
    object destination, object array, str name, str out_name="out"
) except -1:
    """An output has all its entries where the input has them, or shares no memory with it."""
    if not has_same_entries(destination, array) and shares_memory(destination, array):
        raise ValueError(
            f"{out_name} overlaps {name}; it must be {name} or share no memory with them"
        )
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


cdef object as_numbers_alike(object given, str name, object other, str other_name):
    """Real numbers of the other's shape as a plain ndarray."""
    array = as_plain_array(given, name)
    check_real(given, array, name)
    if array.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name} {other.shape}, not {array.shape}"
        )
    return array


# --- targets --------------------------------------------------------------------------------------


cdef object as_any_targets(
    object given, object logits, tuple row_shape, int axis, str name="logits"
):
    """Integers of the rows' shape or, dense, numbers of the logits', which errors call `name`.

    Dense targets that are no floats become numbers of the type that is computed in.
    """
    targets = as_plain_array(given, "targets")
    if not isinstance(given, np.ndarray) and targets.shape == (0,):
        targets = targets.astype(np.intp)  # NumPy makes float64 of an empty list
    if targets.shape == logits.shape and is_real_or_bool(targets.dtype):
        if is_float(targets.dtype):
            return targets
        if targets.ndim == 1:
            raise TypeError(
                f"targets of one row of {len(logits)} classes ({name} of shape {logits.shape}) are "
                f"one class index or, if dense, floating-point, not {targets.dtype} of shape "
                f"{targets.shape}; a binary loss takes two logits a row: [0, x]"
            )
        return cast_copy(targets, computed_type(logits), "K")
    if cnp.PyArray_ISINTEGER(targets):
        if targets.shape == row_shape:
            return targets
        raise ValueError(
            f"class indices must have shape {row_shape}, not {targets.shape} (targets); "
            f"{rows_and_classes(logits, row_shape, axis, name)}"
            f"{remedy_for_shape(targets.shape, logits.shape, row_shape, axis)}"
        )
    if targets.ndim < logits.ndim:
        check_label_sizes(given, targets, logits.shape[axis], axis)
        raise TypeError(
            f"class indices must be integers, not {_remedies.described(given, targets)} (targets)"
            f"{_remedies.for_labels(given, targets)}"
        )
    if not is_real_or_bool(targets.dtype):
        raise TypeError(
            f"targets must be integers or, if dense, real numbers, not "
            f"{_remedies.described(given, targets)}"
            f"{_remedies.for_numbers(given, targets, 'targets')}"
        )
    raise ValueError(
        f"dense targets must have the {name}' shape {logits.shape}, not {targets.shape}; "
        f"{rows_and_classes(logits, row_shape, axis, name)}"
        f"{remedy_for_column(targets.shape, row_shape)}"
    )


cdef str rows_and_classes(object logits, tuple row_shape, int axis, str name):
    cdef object rows = 1
    for length in row_shape:
        rows *= length
    return f"the {name} have {rows} rows of {logits.shape[axis]} classes"


cdef str remedy_for_shape(tuple shape, tuple logits_shape, tuple row_shape, int axis):
    """What may be behind class indices of another shape."""
    cdef int other
    for other in range(len(logits_shape)):
        if other != axis and without_axis(logits_shape, other) == shape:
            return f"; for classes along axis {other} pass axis={other}"
    if without_ones(shape) == without_ones(row_shape) and 0 not in shape:
        return f"; targets.reshape({row_shape}) has that shape"
    return ""


cdef str remedy_for_column(tuple shape, tuple row_shape):
    """What makes class indices of floats that have one number a row."""
    if without_ones(shape) != without_ones(row_shape) or 0 in shape:
        return ""
    return f"; class indices are integers: targets.reshape({row_shape}).astype(int)"


cdef tuple without_ones(tuple shape):
    return tuple(filter((1).__ne__, shape))


cdef int check_label_sizes(object given, object targets, object classes, int axis) except -1:
    """An integer that no integer dtype holds is out of bounds whatever the classes are."""
    place = _remedies.too_large_for_a_label(given, targets)
    if place is not None:
        label = np.array(given, dtype=object).reshape(-1)[place]
        where = tuple(map(int, np.unravel_index(place, targets.shape)))
        raise_index_error(label, where, axis, classes, False)
    return 0


cdef int raise_index_error(
    object label, tuple where, int axis, int64_t classes, bint may_be_ignored
) except -1:
    raise IndexError(
        f"index {label} is out of bounds for axis {axis} with size {classes} "
        f"(targets[{as_written(where)}])"
        f"{_remedies.for_label_out_of_bounds(label, classes, may_be_ignored)}"
    )


cdef str as_written(tuple where):
    """An index as one writes it between brackets."""
    return ", ".join(map(str, where)) or "()"


cdef bint is_real(object dtype) except -1:
    """Numbers that convert to floats."""
    return dtype.kind in "iu" or is_float(dtype)


cdef bint is_float(object dtype) except -1:
    return dtype.kind == "f" or is_bfloat16(dtype)


cdef bint is_real_or_bool(object dtype) except -1:
    return dtype.kind == "b" or is_real(dtype)


cdef int check_real(object given, object array, str name) except -1:
    if not is_real(array.dtype):
        raise TypeError(
            f"{name} must hold real numbers, not {_remedies.described(given, array)}"
            f"{_remedies.for_numbers(given, array, name)}"
        )
    return 0


# --- weights --------------------------------------------------------------------------------------


cdef object as_weights(object given, tuple shape, str name):
    """Real numbers of that shape as a plain ndarray."""
    weights = as_plain_array(given, name)
    check_real(given, weights, name)
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {weights.shape}")
    return weights


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
    return copied_doubles(as_weights(given, row_shape, "grad_output"))


cdef cnp.ndarray as_row_factors(object given, Layout layout, bint may_be_rows):
    """The same in the order of the rows."""
    factors = as_grad_output(given, layout.row_shape, may_be_rows)
    return factors if factors is None or np.ndim(given) == 0 else layout.in_order(factors)


cdef int check_sign(cnp.ndarray weights, str name) except -1:
    cdef cnp.npy_intp count = cnp.PyArray_SIZE(weights)
    cdef cnp.npy_intp place = count
    cdef const float *singles
    if cnp.PyArray_TYPE(weights) == cnp.NPY_FLOAT32 and cnp.PyArray_ISCARRAY_RO(weights):
        singles = <const float *>cnp.PyArray_DATA(weights)
        for place in range(count):
            if singles[place] < 0:
                break
        else:
            place = count
    else:
        if cnp.PyArray_TYPE(weights) != cnp.NPY_FLOAT64 or not cnp.PyArray_ISCARRAY_RO(weights):
            weights = copied_doubles(weights)
        place = first_negative(<const double *>cnp.PyArray_DATA(weights), count)
    if place < count:
        where = tuple(map(int, np.unravel_index(place, (<object>weights).shape)))
        raise_negative_weight(name, (<object>weights)[where], where)
    return 0


cdef int64_t first_negative(const double *values, int64_t count) noexcept nogil:
    """Its place, or `count`."""
    cdef int64_t i
    for i in range(count):
        if values[i] < 0:
            return i
    return count


cdef int raise_negative_weight(str name, double value, tuple where) except -1:
    raise ValueError(
        f"{name} must not be negative where reduction is 'mean', which divides by the sum of the "
        f"weights: {name}[{as_written(where)}] is {value}; reduction=\"sum\", scale=1 / rows takes "
        f"the weights as given, as policy gradients want"
    )


# --- checks for functions that are written in Python ----------------------------------------------


def checked_floats(given, name, out):
    """An array of any float that is taken; one that is not an array only without `out`."""
    return as_float_array(given, name, out)


def computed_dtype(array):
    """What an array of a float that is taken is computed in."""
    return computed_type(array)


def lies_in_16_bits(array):
    """Whether such an array has to be widened first."""
    return storage_of(array) != XENT_AS_COMPUTED


def can_be_read(array, logits):
    """Whether kernels for those logits take an array's numbers without a copy."""
    return is_read_as_stored(array, logits)


def checked_axis(given, array, name):
    """An axis that has a class, counted from the first."""
    return as_axis(given, array, name)


def checked_output(out, array, name):
    """`out` as an array that can take a result with the shape and dtype of an input."""
    destination = as_output(out, array, name)
    check_overlap(destination, array, name)
    return destination


def checked_array(given, name):
    """An array of no subclass."""
    return as_plain_array(given, name)


def checked_weights(given, shape, name):
    """Real numbers of a shape."""
    return as_weights(given, shape, name)


def checked_signs(weights, name):
    """No weight is negative."""
    check_sign(weights, name)


def checked_targets(given, array, row_shape, name, axis=-1):
    """Integers of the rows' shape, or floating-point numbers of the array's, called `name`."""
    return as_any_targets(given, array, row_shape, axis_of(axis, array.ndim), name)


def checked_grad_output(given, row_shape, reduction):
    """One float64, or one a row in the rows' order; None for None."""
    factors = as_grad_output(given, tuple(row_shape), as_reduction(reduction) == NONE)
    return None if factors is None else factors.reshape(-1)


def repeats_itself(array):
    """Whether two entries of an array may share bytes."""
    return may_repeat_itself(array)
