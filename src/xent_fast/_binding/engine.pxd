"""What `engine` offers: a plan for a batch, and its run; meanings stand in `engine.pyx`.

Knows: names and types. Must not know: how rows are shared out.
"""

from libc.stdint cimport int64_t

from xent_fast._binding.kernels cimport xent_batch, xent_dtype, xent_row_kernels
from xent_fast._binding.stored cimport Groups, StoredMatrices


cdef extern from "_binding/float_mode.h" nogil:
    ctypedef struct xent_float_mode:
        pass
    xent_float_mode xent_use_default_mode()
    void xent_restore_mode(xent_float_mode mode)


cdef extern from "_binding/threads.h" nogil:
    enum:
        XENT_OPENMP_VERSION  # 0 where the build has none
    ctypedef struct xent_section:
        int64_t next, end


cdef enum:
    # Fewer logits than these are not worth giving up the GIL.
    UNLOCKED_LOGITS = 2048

# How the rows of one batch are shared out, and the memory that takes.
cdef struct Plan:
    const xent_batch *batch
    const Groups *groups
    const StoredMatrices *stored   # NULL where kernels can work on every matrix as it lies
    const xent_row_kernels *kernels
    int64_t chunk_rows
    int64_t group_chunks   # of each group
    int64_t chunk_count
    int threads
    int64_t parts          # of each row where threads share rows; else 0
    char *workspaces
    size_t kernel_bytes    # of a thread's workspace, before its own place for stored matrices
    size_t workspace_step  # bytes from one thread's workspace to the next, or from one row's
    xent_section *sections  # one a thread, of shared rows two; only with more than one thread
    double *chunk_losses   # one sum a chunk; only with more than one thread
    void *memory           # what to free


# A plan is made, run as often as one likes, and its `memory` freed by whoever made it. The caller's
# thread is in the default float mode.
cdef int make_plan(
    Plan *plan,
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    int requested_threads,
) except -1
cdef size_t share_out(
    Plan *plan,
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    int requested_threads,
) noexcept nogil
cdef double process_rows(const Plan *plan) noexcept
cdef double process_chunks(const Plan *plan) noexcept nogil
cdef int64_t check_all_labels(
    const xent_batch *batch,
    const char *class_weight,
    xent_dtype dtype,
    int requested_threads,
    int64_t *counted_rows,
    double *weight_sum,
) noexcept nogil
