"""The options of a call, each checked and as the kernels take it.

Knows: what a caller may hand over, and the words of every complaint.
Must not know: arrays, what kernels make of the numbers, threads.
"""

import numbers
import operator
import warnings

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from libc.limits cimport INT_MAX
from libc.math cimport INFINITY
from libc.string cimport memset

from xent_fast._binding.engine cimport XENT_OPENMP_VERSION


cdef int read_options(
    Options *options,
    object label_smoothing,
    object temperature,
    object z_loss,
    object reduction,
    object scale,
    object return_statistics,
    object num_threads,
) except -1:
    """What all functions have; other options are 0 until they are set."""
    memset(&options.of_rows, 0, sizeof(options.of_rows))
    options.of_rows.label_smoothing = as_label_smoothing(label_smoothing)
    options.of_rows.temperature = as_temperature(temperature)
    options.of_rows.z_loss = as_number(z_loss, "z_loss")
    options.reduction = as_reduction(reduction)
    options.scale = as_real(scale, "scale")
    options.with_statistics = return_statistics
    options.num_threads = as_thread_count(num_threads)
    return 0


cdef Reduction as_reduction(object given) except UNKNOWN_REDUCTION:
    if isinstance(given, str):
        if given == "mean":
            return MEAN
        if given == "sum":
            return SUM
        if given == "none":
            return NONE
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {given!r}")


cdef double as_label_smoothing(object given) except? -1.0:
    cdef double value = as_real(given, "label_smoothing")
    if not 0 <= value <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], not {value}")
    return value


cdef double as_temperature(object given) except? -1.0:
    cdef double value = as_real(given, "temperature")
    # from here 8 log2(e) / T is finite in float32
    if not 2.0**-124 <= value < INFINITY:
        raise ValueError(f"temperature must be finite and at least 2**-124, not {value}")
    return value


cdef double as_number(object given, str name) except? -1.0:
    """A real number that is not NaN."""
    cdef double value = as_real(given, name)
    if value != value:
        raise ValueError(f"{name} must not be NaN")
    return value


cdef double as_real(object given, str name) except? -1.0:
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


cdef int as_thread_count(object given) except -1:
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


cdef object as_integer(object given, str name):
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


# --- checks for functions that are written in Python ----------------------------------------------


def checked_options(
    label_smoothing, temperature, z_loss, reduction, scale
):
    """Return the numbers as floats, all five having been checked."""
    as_reduction(reduction)
    return (
        as_label_smoothing(label_smoothing), as_temperature(temperature),
        as_number(z_loss, "z_loss"), as_real(scale, "scale"),
    )


def checked_number(given, name):
    """A float from any real number but a bool."""
    return as_real(given, name)


def checked_integer(given, name):
    """A Python int from any integer but a bool."""
    return as_integer(given, name)
