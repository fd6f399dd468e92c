"""The options of a call, checked; meanings stand in `options.pyx`.

Knows: names and types. Must not know: arrays, what kernels make of the numbers.
"""

from libc.math cimport INFINITY, NAN

from xent_fast._binding.kernels cimport xent_options


cdef enum Reduction:
    UNKNOWN_REDUCTION = -1
    MEAN
    SUM
    NONE

# What a call asks for besides its arrays.
cdef struct Options:
    xent_options of_rows  # as the kernels take them
    double scale
    Reduction reduction
    bint with_grad
    bint with_statistics
    int num_threads  # 0: ours to choose


cdef inline double mean_factor(double scale, double denominator) noexcept nogil:
    """What the sum of the losses is multiplied by; NaN beside an infinite weight: inf / inf."""
    return scale / denominator if -INFINITY < denominator < INFINITY else NAN


cdef int read_options(
    Options *options,
    object label_smoothing,
    object temperature,
    object z_loss,
    object reduction,
    object scale,
    object return_statistics,
    object num_threads,
) except -1
cdef Reduction as_reduction(object given) except UNKNOWN_REDUCTION
cdef double as_real(object given, str name) except? -1.0
cdef double as_number(object given, str name) except? -1.0
cdef double as_temperature(object given) except? -1.0
cdef int as_thread_count(object given) except -1
cdef object as_integer(object given, str name)
cdef int axis_of(object given, int ndim) except -1
