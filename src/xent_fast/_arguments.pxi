# Validation of the arguments, included by _core.pyx.
#
# Knows: what a caller may hand over, NumPy's arrays, and the words of every complaint.
# Must not know: kernels, threads, the order in which a call does its work.
#
# Each `as_*` function takes an argument as given and returns what the kernels need. The ordinary
# case is settled with NumPy's macros and makes no Python object; everything else goes to its
# `unusual_*` sibling, which may be slow. Nothing here writes to an array of the caller.


# --- logits and out -------------------------------------------------------------------------------


cdef inline cnp.ndarray as_logits(object given, object out):
    """The logits as a plain ndarray (rows, classes) of a float that is taken, of any layout."""
    cdef cnp.ndarray logits
    if cnp.PyArray_CheckExact(given):
        logits = <cnp.ndarray>given
        if (
            cnp.PyArray_NDIM(logits) == 2
            and is_supported_float(logits)
            and cnp.PyArray_DIM(logits, 1) > 0
        ):
            return logits
    return unusual_logits(given, out)


cdef cnp.ndarray unusual_logits(object given, object out):
    if out is not None and not isinstance(given, np.ndarray):
        raise TypeError(no_ndarray_beside_out(given, "logits"))
    logits = as_plain_array(given, "logits")
    check_supported_float(given, logits, "logits")
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape (rows, classes), not {logits.shape}")
    if logits.shape[0] > 0 and logits.shape[1] == 0:
        raise ValueError(f"logits of shape {logits.shape} have no class")
    return logits


cdef inline cnp.ndarray as_destination(object out, cnp.ndarray logits):
    """`out` as a plain ndarray that is safe to write: the logits' own memory or none of it."""
    cdef cnp.ndarray destination
    if cnp.PyArray_CheckExact(out):
        destination = <cnp.ndarray>out
        if (
            cnp.PyArray_ISCARRAY(destination)
            and cnp.PyArray_NDIM(destination) == 2
            and cnp.PyArray_TYPE(destination) == cnp.PyArray_TYPE(logits)
            and cnp.PyArray_DIM(destination, 0) == cnp.PyArray_DIM(logits, 0)
            and cnp.PyArray_DIM(destination, 1) == cnp.PyArray_DIM(logits, 1)
            and (destination is logits or not bounds_overlap(destination, logits))
        ):
            return destination
    return unusual_destination(out, logits)


cdef cnp.ndarray unusual_destination(object out, object logits):
    destination = as_output(out, logits, "logits")
    check_overlap(destination, logits, "logits")
    return destination


# --- targets --------------------------------------------------------------------------------------


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


cdef cnp.ndarray unusual_targets(object given, object logits, object destination):
    targets = as_any_targets(given, logits, logits.shape[:1], 1)
    if destination is not None and shares_memory(targets, destination):
        raise ValueError("out shares memory with targets")
    if cnp.PyArray_ISINTEGER(targets):
        return targets.astype(targets.dtype.newbyteorder("="), copy=False)
    if is_read_as_stored(targets, logits) and is_for_kernels(targets):
        return targets
    return cast_copy(targets, computed_type(logits))


cdef int describe_labels(xent_labels *labels, cnp.ndarray targets, object ignore_index) except -1:
    """Fill `labels` from class indices and `ignore_index` as given."""
    labels.data = cnp.PyArray_BYTES(targets)
    labels.stride = cnp.PyArray_STRIDE(targets, 0)
    labels.type = label_type(targets)
    labels.has_ignore_index = False
    labels.ignore_index = 0
    if ignore_index is not None:
        describe_ignore_index(labels, as_integer(ignore_index, "ignore_index"))
    return 0


cdef int describe_ignore_index(xent_labels *labels, object ignore_index) except -1:
    """A value that the labels' type cannot hold ignores nothing."""
    cdef int overflow = 0
    cdef int64_t value = PyLong_AsLongLongAndOverflow(ignore_index, &overflow)
    if overflow > 0 and labels.type == XENT_UINT64 and ignore_index <= UINT64_LAST:
        # The same bytes read as int64: this value and all others beyond int64 become negative and
        # stay distinct.
        labels.type = XENT_INT64
        value = ignore_index - UINT64_LAST - 1
    elif overflow != 0 or (value < 0 and labels.type >= XENT_UINT8):
        return 0
    labels.has_ignore_index = True
    labels.ignore_index = value
    return 0


cdef inline xent_label_type label_type(cnp.ndarray targets) noexcept:
    cdef bint is_unsigned = cnp.PyArray_ISUNSIGNED(targets)
    cdef cnp.npy_intp itemsize = cnp.PyArray_ITEMSIZE(targets)
    if itemsize == 8:
        return XENT_UINT64 if is_unsigned else XENT_INT64
    if itemsize == 4:
        return XENT_UINT32 if is_unsigned else XENT_INT32
    if itemsize == 2:
        return XENT_UINT16 if is_unsigned else XENT_INT16
    return XENT_UINT8 if is_unsigned else XENT_INT8


cdef int raise_label_error(
    object targets,
    int64_t row,
    int64_t classes,
    bint has_ignore_index,
    Rearrangement rearrangement,
) except -1:
    """Name the label in row `row` as the caller knows it."""
    axis, where = 1, (row,)
    if rearrangement is not None:
        targets, axis = rearrangement.targets, rearrangement.axis
        where = place_of_row(row, targets.shape, row_axes(rearrangement.axes, axis))
    raise_index_error(targets[where], where, axis, classes, not has_ignore_index)
    return -1


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


# --- any number of dimensions, any axis -----------------------------------------------------------


cdef inline bint is_matrix_of_rows(object logits, object axis) except -1:
    """Whether the classes are the last axis of a matrix; what is not an ndarray may be one."""
    cdef int64_t number
    if not PyLong_CheckExact(axis) or not cnp.PyArray_CheckExact(logits):
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray>logits) != 2:
        return False
    return axis == -1 or axis == 1


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


cdef int check_computed_float(object given, cnp.ndarray array, str name) except -1:
    """Of functions that are written in Python."""
    cdef int type_number = cnp.PyArray_TYPE(array)
    if type_number != cnp.NPY_FLOAT32 and type_number != cnp.NPY_FLOAT64:
        raise TypeError(
            f"{name} must be float32 or float64, not {_remedies.described(given, array)}"
            f"{_remedies.for_numbers(given, array, name, 'np.float32')}"
        )
    return 0


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


cdef object as_numbers_alike(object given, str name, object other, str other_name):
    """Real numbers of the other's shape as a plain ndarray."""
    array = as_plain_array(given, name)
    check_real(given, array, name)
    if array.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name} {other.shape}, not {array.shape}"
        )
    return array


cdef object as_any_targets(
    object given, object logits, tuple row_shape, int axis, str name="logits"
):
    """Integers of the rows' shape or, dense, numbers of the logits', which errors call `name`.

    Dense targets that are neither floats of NumPy's nor of the logits' dtype become numbers of the
    type that is computed in.
    """
    targets = as_plain_array(given, "targets")
    if not isinstance(given, np.ndarray) and targets.shape == (0,):
        targets = targets.astype(np.intp)  # NumPy makes float64 of an empty list
    if targets.shape == logits.shape and is_real_or_bool(targets.dtype):
        if targets.dtype.kind == "f" or targets.dtype.type is logits.dtype.type:
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


cdef bint is_real(object dtype) except -1:
    """Numbers that convert to floats."""
    return dtype.kind in "fiu" or is_bfloat16(dtype)


cdef bint is_real_or_bool(object dtype) except -1:
    return dtype.kind == "b" or is_real(dtype)


cdef int check_real(object given, object array, str name) except -1:
    if not is_real(array.dtype):
        raise TypeError(
            f"{name} must hold real numbers, not {_remedies.described(given, array)}"
            f"{_remedies.for_numbers(given, array, name)}"
        )
    return 0


cdef object cast_copy(object array, object dtype, str order="C"):
    """A copy of that dtype; what it cannot hold becomes inf or 0, without a word."""
    with np.errstate(all="ignore"):
        return np.array(array, dtype=dtype, order=order)


# --- the other arguments --------------------------------------------------------------------------


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


cdef cnp.ndarray unusual_sample_weight(object given, object logits):
    return copied_doubles(as_weights(given, logits.shape[:1], "sample_weight"))


cdef object as_weights(object given, tuple shape, str name):
    """Real numbers of that shape as a plain ndarray."""
    weights = as_plain_array(given, name)
    check_real(given, weights, name)
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {weights.shape}")
    return weights


cdef inline cnp.ndarray copied_doubles(object values):
    return cast_copy(values, np.float64)


cdef inline Reduction as_reduction(object given) except UNKNOWN_REDUCTION:
    if isinstance(given, str):
        if given == "mean":
            return MEAN
        if given == "sum":
            return SUM
        if given == "none":
            return NONE
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {given!r}")


cdef inline double as_real(object given, str name) except? -1.0:
    return PyFloat_AS_DOUBLE(given) if PyFloat_CheckExact(given) else unusual_real(given, name)


cdef double unusual_real(object given, str name) except? -1.0:
    if isinstance(given, np.ndarray) and given.ndim == 0:
        given = given[()]
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, numbers.Real):
        raise TypeError(f"{name} must be a real number, not {type(given).__name__}")
    try:
        return float(given)
    except OverflowError:
        raise ValueError(f"{name} is too large for a float") from None


cdef inline double as_label_smoothing(object given) except? -1.0:
    cdef double value = as_real(given, "label_smoothing")
    if not 0 <= value <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], not {value}")
    return value


cdef inline double as_temperature(object given) except? -1.0:
    cdef double value = as_real(given, "temperature")
    # from here log2(e) / T is finite in float32
    if not 2.0**-126 <= value < INFINITY:
        raise ValueError(f"temperature must be finite and at least 2**-126, not {value}")
    return value


cdef inline double as_z_loss(object given) except? -1.0:
    cdef double value = as_real(given, "z_loss")
    if value != value:
        raise ValueError("z_loss must not be NaN")
    return value


cdef inline cnp.ndarray as_class_weight(object given, cnp.ndarray logits):
    """The class weights as contiguous numbers of the type that is computed in, or None."""
    return None if given is None else copied_class_weight(given, logits)


cdef cnp.ndarray copied_class_weight(object given, object logits):
    weights = as_weights(given, logits.shape[logits.ndim - 1:], "weight")
    return cast_copy(weights, computed_type(logits))


cdef int check_signs(
    const xent_batch *batch, Reduction reduction, cnp.ndarray weight, Rearrangement rearrangement
) except -1:
    """A mean divides by the sum of weights: none of those may be negative."""
    cdef int64_t place
    cdef tuple where
    if reduction != MEAN:
        return 0
    if batch.sample_weight != NULL:
        with nogil:
            place = first_negative(batch.sample_weight, batch.rows)
        if place < batch.rows:
            where = (place,)
            if rearrangement is not None:
                where = place_of_row(
                    place,
                    rearrangement.row_shape,
                    row_axes(rearrangement.axes, rearrangement.axis),
                )
            raise_negative_weight("sample_weight", batch.sample_weight[place], where)
    if weight is not None and batch.dense_targets == NULL:
        check_sign(weight, "weight")
    return 0


cdef int check_sign(object weights, str name) except -1:
    cdef cnp.ndarray doubles = copied_doubles(weights)
    cdef int64_t place = first_negative(
        <const double *>cnp.PyArray_DATA(doubles), cnp.PyArray_SIZE(doubles)
    )
    if place < cnp.PyArray_SIZE(doubles):
        where = tuple(map(int, np.unravel_index(place, weights.shape)))
        raise_negative_weight(name, doubles[where], where)
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


cdef inline int as_thread_count(object given) except -1:
    """The threads asked for, or 0 where the choice is ours."""
    return 0 if given is None else checked_thread_count(as_integer(given, "num_threads"))


cdef int checked_thread_count(object count) except -1:
    if count < 1:
        raise ValueError(f"num_threads must be at least 1, not {count}")
    if count > 1 and not XENT_OPENMP_VERSION:
        warn_of_serial_build()
    return min(count, INT_MAX)


cdef bint has_warned_of_serial_build = False


cdef int warn_of_serial_build() except -1:
    """Once in a process."""
    global has_warned_of_serial_build
    if not has_warned_of_serial_build:
        has_warned_of_serial_build = True
        warnings.warn(
            "this build of xent_fast has no OpenMP: num_threads has no effect and every call uses "
            "one thread (XENT_FAST_REQUIRE_OPENMP=1 makes a build without it fail)",
            RuntimeWarning,
            stacklevel=3,
        )
    return 0


cdef inline object as_integer(object given, str name):
    """A Python int from any integer but a bool."""
    return given if PyLong_CheckExact(given) else unusual_integer(given, name)


cdef object unusual_integer(object given, str name):
    if not isinstance(given, (bool, np.bool_)):
        try:
            return operator.index(given)
        except TypeError:
            pass
    raise TypeError(f"{name} must be an integer or None, not {type(given).__name__}")


cdef int axis_of(object given, int ndim) except -1:
    """An axis counted from the first."""
    cdef int overflow = 0
    cdef long long axis
    if PyLong_CheckExact(given):
        axis = PyLong_AsLongLongAndOverflow(given, &overflow)
        if not overflow and -ndim <= axis < ndim:
            return <int>(axis + ndim if axis < 0 else axis)
    if isinstance(given, (bool, np.bool_)) or not hasattr(given, "__index__"):
        raise TypeError(f"axis must be an integer, not {type(given).__name__}")
    number = operator.index(given)
    try:
        return normalize_axis_index(number, ndim)
    except OverflowError:
        raise np.exceptions.AxisError(number, ndim) from None


cdef object as_plain_array(object given, str name):
    """An ndarray of no subclass over the same memory; what is not an array is copied into one."""
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array{_remedies.for_masked(name)}")
    return np.asarray(given)


# --- how an array lies in memory ------------------------------------------------------------------


cdef inline bint is_supported_float(cnp.ndarray array) except -1:
    cdef int type_number = cnp.PyArray_TYPE(array)
    if type_number == cnp.NPY_FLOAT32 or type_number == cnp.NPY_FLOAT64:
        return True
    return type_number == cnp.NPY_FLOAT16 or is_bfloat16((<object>array).dtype)


cdef inline bint is_bfloat16(object dtype) except -1:
    """Whether it is that of ml_dtypes, which is known by its name and size alone."""
    return (
        dtype.num >= NPY_USERDEF and dtype.itemsize == 2 and dtype.type.__name__ == "bfloat16"
    )


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


cdef inline object computed_type(cnp.ndarray array):
    """The same as NumPy's type."""
    return np.float64 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else np.float32


cdef inline bint is_read_as_stored(cnp.ndarray array, cnp.ndarray logits) except -1:
    """Whether kernels for those logits take an array's numbers without a copy."""
    if cnp.PyArray_TYPE(array) == computed_type_number(logits):
        return True
    if computed_type_number(logits) != cnp.NPY_FLOAT32 or not is_supported_float(array):
        return False
    return storage_of(array) != XENT_AS_COMPUTED


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


# --- checks for functions that are written in Python ----------------------------------------------


def checked_floats(given, name, out):
    """An array of float32 or float64; one that is not an array only without `out`."""
    if out is not None and not isinstance(given, np.ndarray):
        raise TypeError(no_ndarray_beside_out(given, name))
    array = as_plain_array(given, name)
    check_computed_float(given, array, name)
    return array


def checked_logits(given, name, out):
    """An array of any float that is taken; one that is not an array only without `out`."""
    return as_float_array(given, name, out)


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


def checked_label_smoothing(given):
    """A float in [0, 1]."""
    return as_label_smoothing(given)


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
