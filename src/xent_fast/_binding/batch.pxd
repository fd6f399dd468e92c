"""Checked arrays as the batch that the kernels take; meanings stand in `batch.pyx`.

Knows: names and types. Must not know: arguments as given, threads.
"""

cimport numpy as cnp
from cpython.object cimport PyTypeObject

from xent_fast._binding.arrays cimport Rearrangement
from xent_fast._binding.engine cimport Groups, StoredMatrices, StoredMatrix
from xent_fast._binding.kernels cimport (
    xent_batch,
    xent_labels,
    xent_row_kernels,
    xent_target_kind,
)
from xent_fast._binding.options cimport Options, Reduction


cdef extern from "Python.h":
    ctypedef struct PyFloatObject:
        double ob_fval


cdef extern from "_binding/tuples.h":
    object xent_new_pair(PyTypeObject *type, object first, object second)


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
cdef int check_signs(
    const xent_batch *batch, Reduction reduction, cnp.ndarray weight, Rearrangement rearrangement
) except -1
cdef double check_labels_and_sum_weights(
    const xent_batch *batch,
    cnp.ndarray targets,
    cnp.ndarray weight,
    Rearrangement rearrangement,
) except? -1.0
cdef bint must_rescale(const xent_batch *batch, double denominator) noexcept
cdef cnp.ndarray rescaled(cnp.ndarray weights)
cdef cnp.ndarray rescaled_classes(const xent_batch *batch, cnp.ndarray weight)
cdef double weight_factor_of(const Options *options, double denominator) noexcept
cdef void point_batch_at(
    xent_batch *batch,
    cnp.ndarray source,
    cnp.ndarray working,
    cnp.ndarray row_loss,
    cnp.ndarray lse,
    cnp.ndarray prediction,
) noexcept
cdef void describe_groups(
    Groups *groups, cnp.ndarray source, cnp.ndarray working, cnp.ndarray targets
) noexcept
cdef void describe_stored(
    StoredMatrices *stored,
    const xent_batch *batch,
    size_t batch_bytes,
    cnp.ndarray source,
    cnp.ndarray working,
    cnp.ndarray targets,
) noexcept
cdef void begin_stored(StoredMatrices *stored, size_t batch_bytes) noexcept
cdef void add_result(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    cnp.ndarray array,
    bint takes_first_place,
) noexcept
cdef StoredMatrix *add_matrix(
    StoredMatrices *stored,
    const void *batch,
    const void *address,
    const Py_ssize_t *row_stride,
    const Py_ssize_t *class_stride,
    cnp.ndarray array,
) noexcept
cdef const StoredMatrices *if_in_16_bits(const StoredMatrices *stored) noexcept
cdef const xent_row_kernels *kernels_for(
    const xent_batch *batch, cnp.ndarray logits
) noexcept
cdef const xent_row_kernels *kernels_of(
    cnp.ndarray logits, xent_target_kind target_kind
) noexcept
