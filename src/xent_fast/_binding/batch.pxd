"""Checked arrays as the batch that the kernels take; meanings stand in `batch.pyx`.

Knows: names and types. Must not know: arguments as given, threads.
"""

cimport numpy as cnp
from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t

from xent_fast._binding.arrays cimport Layout
from xent_fast._binding.kernels cimport (
    XENT_AS_COMPUTED,
    xent_batch,
    xent_labels,
    xent_matrix,
    xent_row_kernels,
)
from xent_fast._binding.options cimport Options
from xent_fast._binding.stored cimport Groups, StoredMatrices


cdef extern from "Python.h":
    ctypedef struct PyFloatObject:
        double ob_fval


cdef extern from "_binding/tuples.h":
    object xent_new_pair(PyTypeObject *type, object first, object second)


cdef object settle_rows(
    xent_batch *batch,
    const Options *options,
    cnp.ndarray logits,
    cnp.ndarray targets,
    cnp.ndarray weight,
    cnp.ndarray sample_weight,
    object ignore_index,
    Layout layout,
    bint *is_void,
    str weight_name=*,
)
cdef int describe_rows(
    xent_batch *batch,
    const Options *options,
    cnp.ndarray logits,
    cnp.ndarray targets,
    cnp.ndarray weight,
    cnp.ndarray sample_weight,
    object ignore_index,
) except -1
cdef int describe_labels(xent_labels *labels, cnp.ndarray targets, object ignore_index) except -1
cdef void describe_plain_labels(xent_labels *labels, cnp.ndarray targets) noexcept
cdef double mean_class_weight(cnp.ndarray weight, object instead) except? -1.0
cdef void point_batch_at(
    xent_batch *batch,
    cnp.ndarray source,
    cnp.ndarray working,
    cnp.ndarray row_loss,
) noexcept
cdef void point_at_factors(
    const double **factors, int64_t *step, cnp.ndarray given
) noexcept
cdef void describe_groups(Groups *groups, cnp.ndarray source) noexcept
cdef inline bint any_in_16_bits(const xent_batch *batch) noexcept:
    return (
        batch.logits.storage != XENT_AS_COMPUTED
        or batch.grad.storage != XENT_AS_COMPUTED
        or batch.dense_targets.storage != XENT_AS_COMPUTED
    )


cdef object loss_of_rows(const Options *options, cnp.ndarray row_loss, Layout layout)
cdef int run(
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    const Options *options,
    object loss,
    Layout layout,
    list to_fill,
) except -1
cdef int run_side_by_side(
    xent_batch *batch,
    size_t batch_bytes,
    xent_matrix *other_matrix,
    const xent_row_kernels *kernels,
    const Options *options,
    tuple matrices,
    cnp.ndarray row_loss,
    object loss,
    Layout layout,
    bint is_void,
) except -1
