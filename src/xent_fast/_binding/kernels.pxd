"""The C headers of `kernels/` as Cython sees them; the meaning of every name stands there.

Knows: names and types. Must not know: NumPy, OpenMP, how a kernel works.
"""
from libc.stdint cimport int64_t


cdef extern from "kernels/contract.h" nogil:
    void XENT_ASSERT(bint condition)

    ctypedef enum xent_dtype:
        XENT_FLOAT32
        XENT_FLOAT64

    ctypedef enum xent_storage:
        XENT_AS_COMPUTED
        XENT_FLOAT16
        XENT_BFLOAT16

    ctypedef struct xent_matrix:
        char *data
        Py_ssize_t row_stride
        Py_ssize_t class_stride
        Py_ssize_t group_stride
        xent_storage storage

    xent_matrix xent_matrix_of(const void *data, Py_ssize_t row_stride, Py_ssize_t class_stride)
    char *xent_row(const xent_matrix *matrix, int64_t row)
    xent_matrix xent_group_of(const xent_matrix *matrix, int64_t group)

    ctypedef enum xent_target_kind:
        XENT_SMOOTHED_TARGETS
        XENT_TARGET_KIND_COUNT

    ctypedef enum xent_output:
        XENT_GRADIENT
        XENT_PROBABILITIES
        XENT_LOG_PROBABILITIES

    ctypedef enum xent_label_type:
        XENT_INT8
        XENT_INT16
        XENT_INT32
        XENT_INT64
        XENT_UINT8
        XENT_UINT16
        XENT_UINT32
        XENT_UINT64

    ctypedef struct xent_labels:
        const char *data
        Py_ssize_t stride
        xent_label_type type
        bint has_ignore_index
        int64_t ignore_index

    ctypedef struct xent_options:
        double label_smoothing
        double temperature
        double z_loss

    ctypedef struct xent_batch:
        int64_t rows
        int64_t classes
        xent_matrix logits
        xent_matrix grad
        xent_matrix dense_targets
        xent_labels labels
        const double *sample_weight
        double weight_factor
        const double *grad_output
        int64_t grad_output_step
        const char *class_weight
        xent_options options
        xent_output output
        char *row_loss
        char *lse
        int64_t *prediction

    xent_batch xent_batch_from(const xent_batch *batch, int64_t row, size_t real_bytes)
    xent_target_kind xent_kind_of_targets(const xent_batch *batch)

    enum:
        XENT_MAX_ROWS_PER_CALL
        XENT_ROW_GRANULARITY

    ctypedef struct xent_row_kernels:
        double (*process_rows)(
            const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace
        ) noexcept nogil
        size_t (*workspace_bytes)(int64_t classes) noexcept nogil
        int64_t (*blocks_to_share)(int64_t classes) noexcept nogil
        size_t (*shared_row_bytes)(int64_t classes) noexcept nogil
        void (*begin_row)(const xent_batch *batch, int64_t row, void *workspace) noexcept nogil
        void (*forward_blocks)(int64_t first_block, int64_t count, void *workspace) noexcept nogil
        double (*finish_row)(
            const xent_batch *batch, int64_t row, void *workspace
        ) noexcept nogil
        void (*backward_blocks)(int64_t first_block, int64_t count, void *workspace) noexcept nogil
        size_t (*turning_bytes)(int64_t classes) noexcept nogil
        bint (*knows_storage)(const xent_batch *batch) noexcept nogil

    ctypedef struct xent_vjp_batch:
        int64_t rows
        int64_t classes
        xent_matrix values
        xent_matrix slopes
        xent_matrix grad
        const double *grad_output
        int64_t grad_output_step

    ctypedef struct xent_vjp_kernels:
        void (*softmax_rows)(
            const xent_vjp_batch *batch, int64_t first_row, int64_t row_count
        ) noexcept nogil
        void (*log_softmax_rows)(
            const xent_vjp_batch *batch, int64_t first_row, int64_t row_count
        ) noexcept nogil

    ctypedef enum xent_softmax_function:
        XENT_SECOND_ORDER
        XENT_DISTILLATION
        XENT_GRAD_HESSIAN
        XENT_ENTROPY

    ctypedef struct xent_second_order_batch:
        xent_batch batch
        xent_matrix vector
        double mean_class_weight

    ctypedef struct xent_distillation_batch:
        xent_batch batch
        const xent_row_kernels *target_kernels
        xent_matrix teacher
        double temperature
        double weight_factor

    ctypedef struct xent_grad_hessian_batch:
        xent_batch batch
        const xent_row_kernels *target_kernels
        xent_matrix hessian
        double factor
        double min_hessian
        double mean_class_weight

    enum:
        XENT_TARGETS_HERE
        XENT_TARGET_LOGIT
        XENT_TARGET_WEIGHT
        XENT_TARGET_CLASS
        XENT_ROW_STATISTICS
        XENT_BLOCK_STATISTICS
        XENT_MEASURE
        XENT_SETTLE
        XENT_WRITE

    ctypedef struct xent_shard:
        xent_batch batch
        xent_target_kind kind
        bint has_class_weight
        int64_t first_class
        int64_t num_classes
        double *values
        int64_t row_step
        int64_t whole_blocks
        int64_t first_block
        bint has_exponentials

    ctypedef struct xent_shard_kernels:
        void (*work)(
            const xent_shard *shard, int64_t row_count, void *workspace, int work
        ) noexcept nogil
        int64_t (*block_count)(int64_t classes) noexcept nogil
        size_t (*workspace_bytes)(int64_t whole_blocks, int64_t classes) noexcept nogil

    ctypedef struct xent_storage_kernels:
        void (*load)(
            const char *stored, Py_ssize_t stored_step, int64_t lines, int64_t count,
            float *numbers, int64_t step
        ) noexcept nogil
        void (*store)(
            const float *numbers, int64_t step, int64_t lines, int64_t count, char *stored,
            Py_ssize_t stored_step
        ) noexcept nogil

    ctypedef struct xent_isa:
        const char *name
        bint (*is_supported)() noexcept nogil
        xent_row_kernels kernels[2][XENT_TARGET_KIND_COUNT]
        xent_vjp_kernels vjp_kernels[2]
        xent_row_kernels softmax_functions[2][4]
        xent_shard_kernels shard_kernels[2]
        xent_storage_kernels storage_kernels[3]


cdef extern from "kernels/dispatch.h" nogil:
    int xent_isa_count()
    const xent_isa *xent_isa_at(int position)
    const xent_isa *xent_best_isa()
    const xent_isa *xent_isa_named(const char *name)
    const char *xent_known_isa_names()


cdef extern from "kernels/labels.h" nogil:
    void xent_read_labels(
        const xent_labels *labels, int64_t first_row, int64_t count, int64_t *destination
    )
    int64_t xent_check_labels(
        const xent_labels *labels, int64_t rows, int64_t classes, const double *sample_weight,
        const char *class_weight, xent_dtype dtype, int64_t *counted_rows, double *weight_sum
    )
    double xent_sum_of(const double *values, int64_t count)


cdef extern from "kernels/workspace.h" nogil:
    enum:
        XENT_WORKSPACE_ALIGNMENT

    size_t xent_aligned(size_t bytes)
    bint xent_is_turned(const xent_batch *batch)
    size_t xent_workspace_bytes(const xent_row_kernels *kernels, const xent_batch *batch)
    size_t xent_shared_row_bytes(const xent_row_kernels *kernels, const xent_batch *batch)


cdef extern from "kernels/pairwise_sum.h" nogil:
    ctypedef struct xent_running_sum:
        double sum
        double error

    void xent_add_to_sum(xent_running_sum *total, double value)
    double xent_sum_total(const xent_running_sum *total)
