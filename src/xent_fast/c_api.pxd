"""The loss for other compiled code: `from xent_fast.c_api cimport init, loss_and_grad`.

Compile with `xent_fast.get_include()` among the include directories. xent_fast.h says what every
name means.

Knows: the names of xent_fast.h. Must not know: how any of it is computed.
"""

from libc.stdint cimport int32_t, int64_t


cdef extern from "xent_fast.h" nogil:
    enum:
        XENT_FAST_API_VERSION
        XENT_FAST_FLOAT32
        XENT_FAST_FLOAT64
        XENT_FAST_FLOAT16
        XENT_FAST_BFLOAT16
        XENT_FAST_INT32
        XENT_FAST_INT64
        XENT_FAST_MEAN
        XENT_FAST_SUM
        XENT_FAST_OK
        XENT_FAST_BAD_SIZE
        XENT_FAST_BAD_ARGUMENT
        XENT_FAST_BAD_OPTION
        XENT_FAST_BAD_LAYOUT
        XENT_FAST_BAD_LABEL
        XENT_FAST_NEGATIVE_WEIGHT
        XENT_FAST_BAD_WEIGHT_SUM
        XENT_FAST_NO_MEMORY

    ctypedef struct xent_fast_call:
        size_t size
        int64_t rows
        int64_t classes
        int32_t dtype
        int32_t label_type
        const void *logits
        Py_ssize_t logits_row_stride
        const void *labels
        Py_ssize_t label_stride
        const void *targets
        Py_ssize_t target_row_stride
        void *grad
        Py_ssize_t grad_row_stride
        void *row_loss
        const double *sample_weight
        const void *class_weight
        double label_smoothing
        double temperature
        double z_loss
        double scale
        int64_t ignore_index
        int32_t has_ignore_index
        int32_t reduction
        int32_t num_threads
        int64_t error_row
        double loss

    ctypedef struct xent_fast_api:
        int version
        void (*init)(xent_fast_call *call) noexcept nogil
        int (*loss_and_grad)(xent_fast_call *call) noexcept nogil
        const char *(*message)(int status) noexcept nogil


cdef void init(xent_fast_call *call) noexcept nogil
cdef int loss_and_grad(xent_fast_call *call) noexcept nogil
cdef const char *message(int status) noexcept nogil
