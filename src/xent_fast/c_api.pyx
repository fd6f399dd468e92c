"""The loss and its gradient for compiled code: no Python object, no GIL, no exception.

`CALL_DTYPE` is the struct that a call takes as a NumPy dtype, for Numba and ctypes.

Knows: what xent_fast.h promises, the engine's plan. Must not know: NumPy's arrays, the mathematics.
"""

import numpy as np

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memset

from xent_fast._binding.engine cimport (
    Plan,
    check_all_labels,
    process_chunks,
    share_out,
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.instruction_sets cimport kernels_for, sum_of
from xent_fast._binding.kernels cimport (
    XENT_AS_COMPUTED,
    XENT_BFLOAT16,
    XENT_FLOAT16,
    XENT_FLOAT32,
    XENT_FLOAT64,
    XENT_GRADIENT,
    XENT_INT32,
    XENT_INT64,
    xent_batch,
    xent_dtype,
    xent_matrix,
    xent_matrix_of,
    xent_storage,
)
from xent_fast._binding.options cimport mean_factor
from xent_fast._binding.stored cimport Groups, StoredMatrices, describe_stored

__all__ = ["CALL_DTYPE"]

CALL_DTYPE = np.dtype(
    [
        ("size", np.uintp),
        ("rows", np.int64),
        ("classes", np.int64),
        ("dtype", np.int32),
        ("label_type", np.int32),
        ("logits", np.uintp),
        ("logits_row_stride", np.intp),
        ("labels", np.uintp),
        ("label_stride", np.intp),
        ("targets", np.uintp),
        ("target_row_stride", np.intp),
        ("grad", np.uintp),
        ("grad_row_stride", np.intp),
        ("row_loss", np.uintp),
        ("sample_weight", np.uintp),
        ("class_weight", np.uintp),
        ("label_smoothing", np.float64),
        ("temperature", np.float64),
        ("z_loss", np.float64),
        ("scale", np.float64),
        ("ignore_index", np.int64),
        ("has_ignore_index", np.int32),
        ("reduction", np.int32),
        ("num_threads", np.int32),
        ("reserved", np.int32),
        ("error_row", np.int64),
        ("loss", np.float64),
    ],
    align=True,
)

# Rows in memory: the first, bytes from one to the next, bytes of each.
cdef struct Rows:
    const char *first
    Py_ssize_t stride
    Py_ssize_t width
    int64_t count


# --- what a caller sees ---------------------------------------------------------------------------


cdef void init(xent_fast_call *call) noexcept nogil:
    """No arrays, int64 labels of float32 logits, the options that change nothing."""
    memset(call, 0, sizeof(xent_fast_call))
    call.size = sizeof(xent_fast_call)
    call.label_type = XENT_FAST_INT64
    call.temperature = 1.0
    call.scale = 1.0
    call.error_row = -1


cdef int loss_and_grad(xent_fast_call *call) noexcept nogil:
    """Check everything, allocate, write; the status."""
    cdef xent_float_mode mode
    cdef int status
    if call.size != sizeof(xent_fast_call):
        return XENT_FAST_BAD_SIZE
    mode = xent_use_default_mode()
    status = compute(call)
    xent_restore_mode(mode)
    return status


cdef const char *message(int status) noexcept nogil:
    if status == XENT_FAST_OK:
        return "no error"
    if status == XENT_FAST_BAD_SIZE:
        return "the call was not made by init, or by that of another version"
    if status == XENT_FAST_BAD_ARGUMENT:
        return (
            "rows or classes are below 0, rows have no class, logits are NULL, there are neither "
            "labels nor targets or both, targets have an ignored index, or dtype, label_type or "
            "reduction is unknown"
        )
    if status == XENT_FAST_BAD_OPTION:
        return (
            "label_smoothing is not in [0, 1], temperature not finite and at least 2^-124, z_loss "
            "NaN, or num_threads below 0"
        )
    if status == XENT_FAST_BAD_LAYOUT:
        return "numbers are misaligned, or an output overlaps itself or an input"
    if status == XENT_FAST_BAD_LABEL:
        return "the label of row error_row is neither in [0, classes) nor ignored"
    if status == XENT_FAST_NEGATIVE_WEIGHT:
        return "a weight is negative, and a mean divides by the sum of the weights"
    if status == XENT_FAST_BAD_WEIGHT_SUM:
        return "the sum of the weights is too large or too small to divide by; scale the weights"
    if status == XENT_FAST_NO_MEMORY:
        return "no memory for the workspace"
    return "unknown status"


cdef xent_fast_api api
api.version = XENT_FAST_API_VERSION
api.init = init
api.loss_and_grad = loss_and_grad
api.message = message

_C_API = PyCapsule_New(&api, "xent_fast.c_api._C_API", NULL)

if CALL_DTYPE.itemsize != sizeof(xent_fast_call):
    raise ImportError("CALL_DTYPE is not the struct of xent_fast.h")


# --- one call -------------------------------------------------------------------------------------


cdef int compute(xent_fast_call *call) noexcept nogil:
    cdef xent_batch batch
    cdef Groups groups
    cdef StoredMatrices stored
    cdef Plan plan
    cdef double denominator = 0.0
    cdef int status = check_arguments(call)
    if status == XENT_FAST_OK:
        status = check_options(call)
    if status == XENT_FAST_OK:
        status = check_layout(call)
    if status != XENT_FAST_OK:
        return status
    describe(call, &batch)
    status = settle_denominator(call, &batch, &denominator)
    if status != XENT_FAST_OK:
        return status
    batch.weight_factor = call.scale
    if call.reduction == XENT_FAST_MEAN:
        if denominator == 0:
            write_void(call)
            return XENT_FAST_OK
        batch.weight_factor = mean_factor(call.scale, denominator)
    groups.real_bytes = bytes_of_real(call)
    groups.count = 1
    groups.rows = batch.rows
    describe_stored(&stored, &batch, sizeof(batch), groups.real_bytes)
    if share_out(
        &plan, &batch, &groups, &stored, kernels_for(&batch, dtype_of(call)), call.num_threads
    ) != 0:
        return XENT_FAST_NO_MEMORY
    call.loss = process_chunks(&plan)
    free(plan.memory)
    return XENT_FAST_OK


cdef inline Py_ssize_t bytes_of_real(const xent_fast_call *call) noexcept nogil:
    """Of the numbers that are computed with."""
    return sizeof(double) if call.dtype == XENT_FAST_FLOAT64 else sizeof(float)


cdef inline Py_ssize_t bytes_of_stored(const xent_fast_call *call) noexcept nogil:
    """Of those of the matrices."""
    return bytes_of_real(call) if storage_of(call) == XENT_AS_COMPUTED else 2


cdef inline xent_storage storage_of(const xent_fast_call *call) noexcept nogil:
    if call.dtype == XENT_FAST_FLOAT16:
        return XENT_FLOAT16
    return XENT_BFLOAT16 if call.dtype == XENT_FAST_BFLOAT16 else XENT_AS_COMPUTED


cdef inline Py_ssize_t bytes_of_label(const xent_fast_call *call) noexcept nogil:
    return sizeof(int32_t) if call.label_type == XENT_FAST_INT32 else sizeof(int64_t)


cdef inline xent_dtype dtype_of(const xent_fast_call *call) noexcept nogil:
    return XENT_FLOAT64 if call.dtype == XENT_FAST_FLOAT64 else XENT_FLOAT32


cdef void describe(const xent_fast_call *call, xent_batch *batch) noexcept nogil:
    memset(batch, 0, sizeof(xent_batch))
    batch.rows = call.rows
    batch.classes = call.classes
    batch.logits = matrix_of_rows(call, logits_rows(call))
    batch.grad = matrix_of_rows(call, grad_rows(call))
    batch.dense_targets = matrix_of_rows(call, target_rows(call))
    batch.labels.data = <const char *>call.labels
    batch.labels.stride = label_rows(call).stride
    batch.labels.type = XENT_INT32 if call.label_type == XENT_FAST_INT32 else XENT_INT64
    batch.labels.has_ignore_index = call.has_ignore_index != 0
    batch.labels.ignore_index = call.ignore_index
    batch.sample_weight = call.sample_weight
    batch.class_weight = <const char *>call.class_weight
    batch.options.label_smoothing = call.label_smoothing
    batch.options.temperature = call.temperature
    batch.options.z_loss = call.z_loss
    batch.output = XENT_GRADIENT
    batch.row_loss = <char *>call.row_loss


cdef xent_matrix matrix_of_rows(const xent_fast_call *call, Rows rows) noexcept nogil:
    """All matrices lie alike, those that there are."""
    cdef xent_matrix matrix = xent_matrix_of(rows.first, rows.stride, 0)
    if rows.first != NULL:
        matrix.storage = storage_of(call)
    return matrix


cdef int settle_denominator(
    xent_fast_call *call, const xent_batch *batch, double *denominator
) noexcept nogil:
    """Check labels and weights; what a mean divides by."""
    cdef int64_t counted_rows = 0
    cdef double weight_sum = 0.0
    cdef bint has_weights = call.sample_weight != NULL or call.class_weight != NULL
    cdef int status = XENT_FAST_OK
    if call.reduction == XENT_FAST_MEAN:
        status = check_signs(call)
    if status != XENT_FAST_OK:
        return status
    if call.targets != NULL:
        has_weights = call.sample_weight != NULL
        counted_rows = call.rows
        if has_weights:
            weight_sum = sum_of(call.sample_weight, call.rows)
    else:
        call.error_row = check_all_labels(
            batch, batch.class_weight, dtype_of(call), call.num_threads, &counted_rows, &weight_sum
        )
        if call.error_row >= 0:
            return XENT_FAST_BAD_LABEL
    denominator[0] = weight_sum if has_weights else <double>counted_rows
    if call.reduction == XENT_FAST_MEAN and has_weights and denominator[0] != 0:
        if denominator[0] == denominator[0] and not 1e-290 < denominator[0] < 1e290:
            return XENT_FAST_BAD_WEIGHT_SUM
    return XENT_FAST_OK


cdef void write_void(xent_fast_call *call) noexcept nogil:
    """A mean over nothing: the loss is NaN, the gradient exactly 0."""
    cdef Rows grad = grad_rows(call)
    cdef int64_t row
    call.loss = NAN
    for row in range(call.rows):
        if call.grad != NULL:
            memset(<char *>grad.first + row * grad.stride, 0, grad.width)
        if call.row_loss != NULL and dtype_of(call) == XENT_FLOAT32:
            (<float *>call.row_loss)[row] = NAN
        elif call.row_loss != NULL:
            (<double *>call.row_loss)[row] = NAN


# --- what is checked ------------------------------------------------------------------------------


cdef int check_arguments(const xent_fast_call *call) noexcept nogil:
    if call.rows < 0 or call.classes < 0 or (call.rows > 0 and call.classes == 0):
        return XENT_FAST_BAD_ARGUMENT
    if not XENT_FAST_FLOAT32 <= call.dtype <= XENT_FAST_BFLOAT16:
        return XENT_FAST_BAD_ARGUMENT
    if call.label_type != XENT_FAST_INT32 and call.label_type != XENT_FAST_INT64:
        return XENT_FAST_BAD_ARGUMENT
    if call.reduction != XENT_FAST_MEAN and call.reduction != XENT_FAST_SUM:
        return XENT_FAST_BAD_ARGUMENT
    if call.targets != NULL and (call.labels != NULL or call.has_ignore_index != 0):
        return XENT_FAST_BAD_ARGUMENT
    if call.rows > 0 and (call.logits == NULL or call.labels == call.targets):
        return XENT_FAST_BAD_ARGUMENT
    return XENT_FAST_OK


cdef int check_options(const xent_fast_call *call) noexcept nogil:
    if not 0 <= call.label_smoothing <= 1 or call.z_loss != call.z_loss or call.num_threads < 0:
        return XENT_FAST_BAD_OPTION
    if not 2.0**-124 <= call.temperature < INFINITY:
        return XENT_FAST_BAD_OPTION
    return XENT_FAST_OK


cdef int check_signs(xent_fast_call *call) noexcept nogil:
    cdef int64_t k
    if call.sample_weight != NULL:
        for k in range(call.rows):
            if call.sample_weight[k] < 0:
                call.error_row = k
                return XENT_FAST_NEGATIVE_WEIGHT
    call.error_row = -1
    if call.class_weight != NULL and call.targets == NULL:
        for k in range(call.classes):
            if class_weight_at(call, k) < 0:
                return XENT_FAST_NEGATIVE_WEIGHT
    return XENT_FAST_OK


cdef inline double class_weight_at(const xent_fast_call *call, int64_t k) noexcept nogil:
    if dtype_of(call) == XENT_FLOAT32:
        return (<const float *>call.class_weight)[k]
    return (<const double *>call.class_weight)[k]


cdef Rows rows_at(
    const void *first, Py_ssize_t stride, Py_ssize_t width, int64_t count
) noexcept nogil:
    """Stride 0 stands for rows one after the other; what is NULL has no rows."""
    cdef Rows rows
    rows.first = <const char *>first
    rows.stride = stride if stride != 0 else width
    rows.width = width
    rows.count = count if first != NULL else 0
    return rows


cdef inline Rows logits_rows(const xent_fast_call *call) noexcept nogil:
    return rows_at(
        call.logits, call.logits_row_stride, call.classes * bytes_of_stored(call), call.rows
    )


cdef inline Rows grad_rows(const xent_fast_call *call) noexcept nogil:
    return rows_at(
        call.grad, call.grad_row_stride, call.classes * bytes_of_stored(call), call.rows
    )


cdef inline Rows label_rows(const xent_fast_call *call) noexcept nogil:
    return rows_at(call.labels, call.label_stride, bytes_of_label(call), call.rows)


cdef inline Rows target_rows(const xent_fast_call *call) noexcept nogil:
    return rows_at(
        call.targets, call.target_row_stride, call.classes * bytes_of_stored(call), call.rows
    )


cdef int check_layout(const xent_fast_call *call) noexcept nogil:
    """Alignment, and that nothing that is read or written lies where something else is written."""
    cdef Py_ssize_t real = bytes_of_real(call)
    cdef Py_ssize_t stored = bytes_of_stored(call)
    cdef Rows logits = logits_rows(call)
    cdef Rows grad = grad_rows(call)
    cdef Rows labels = label_rows(call)
    cdef Rows row_loss = rows_at(call.row_loss, 0, real, call.rows)
    cdef Rows others[4]
    cdef int k
    others[0] = labels
    others[1] = rows_at(call.sample_weight, 0, sizeof(double), call.rows)
    others[2] = rows_at(call.class_weight, 0, call.classes * real, 1)
    others[3] = target_rows(call)
    if not (
        is_aligned(logits, stored)
        and is_aligned(grad, stored)
        and is_aligned(labels, bytes_of_label(call))
        and is_aligned(row_loss, real)
        and is_aligned(others[1], sizeof(double))
        and is_aligned(others[2], real)
        and is_aligned(others[3], stored)
    ):
        return XENT_FAST_BAD_LAYOUT
    if grad.count > 1 and size_of(grad.stride) < grad.width:
        return XENT_FAST_BAD_LAYOUT
    if not is_same(grad, logits) and may_overlap(grad, logits):
        return XENT_FAST_BAD_LAYOUT
    if may_overlap(row_loss, logits) or may_overlap(row_loss, grad):
        return XENT_FAST_BAD_LAYOUT
    for k in range(4):
        if may_overlap(grad, others[k]) or may_overlap(row_loss, others[k]):
            return XENT_FAST_BAD_LAYOUT
    return XENT_FAST_OK


cdef inline Py_ssize_t size_of(Py_ssize_t stride) noexcept nogil:
    return -stride if stride < 0 else stride


cdef inline bint is_aligned(Rows rows, Py_ssize_t bytes) noexcept nogil:
    return rows.count == 0 or (<uintptr_t>rows.first % bytes == 0 and rows.stride % bytes == 0)


cdef inline bint is_same(Rows a, Rows b) noexcept nogil:
    return a.first == b.first and (a.stride == b.stride or a.count <= 1)


cdef const char *lowest_of(Rows rows) noexcept nogil:
    return rows.first + (rows.count - 1) * rows.stride if rows.stride < 0 else rows.first


cdef bint may_overlap(Rows a, Rows b) noexcept nogil:
    """Whether two sets of rows share bytes; of those with different strides, whether they might."""
    cdef Py_ssize_t stride = size_of(a.stride)
    cdef Py_ssize_t apart, between
    cdef const char *a_low
    cdef const char *b_low
    if a.count == 0 or b.count == 0 or a.width == 0 or b.width == 0:
        return False
    a_low = lowest_of(a)
    b_low = lowest_of(b)
    if (
        a_low + (a.count - 1) * stride + a.width <= b_low
        or b_low + (b.count - 1) * size_of(b.stride) + b.width <= a_low
    ):
        return False
    if stride != size_of(b.stride) or a.width > stride or b.width > stride:
        return True
    apart = b_low - a_low
    between = (apart % stride + stride) % stride
    return between < a.width or between + b.width > stride
