"""Checked arrays as the batch that the kernels take, and what they say together.

Knows: the kernels' contract, what a mean divides by.
Must not know: arguments as given, threads, the mathematics.
"""

import numpy as np

cimport numpy as cnp
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t
from libc.stdlib cimport free
from libc.string cimport memset

from xent_fast._binding.arguments cimport (
    check_sign,
    first_negative,
    raise_index_error,
    raise_negative_weight,
)
from xent_fast._binding.arrays cimport (
    Layout,
    copy_pairs,
    dtype_of,
    matrix_of,
    row_count_of,
)
from xent_fast._binding.engine cimport (
    UNLOCKED_LOGITS,
    Plan,
    check_all_labels,
    make_plan,
    process_rows,
)
from xent_fast._binding.instruction_sets cimport sum_of
from xent_fast._binding.kernels cimport (
    XENT_FLOAT32,
    XENT_FLOAT64,
    XENT_GRADIENT,
    XENT_INT16,
    XENT_INT32,
    XENT_INT64,
    XENT_INT8,
    XENT_UINT16,
    XENT_UINT32,
    XENT_UINT64,
    XENT_UINT8,
    xent_batch,
    xent_dtype,
    xent_label_type,
    xent_labels,
    xent_matrix,
    xent_row_kernels,
)
from xent_fast._binding.options cimport MEAN, NONE, Options, as_integer, mean_factor
from xent_fast._binding.stored cimport (
    Groups,
    StoredMatrices,
    describe_stored,
    note_matrix,
)

cnp.import_array()

cdef object UINT64_LAST = 2**64 - 1


# --- rows, labels, weights ------------------------------------------------------------------------


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
    str weight_name="weight",
):
    """Describe the rows, and settle what their targets and weights say together.

    `layout` is None for a matrix of rows. `is_void` becomes whether a mean divides by 0. Return
    None or, where a mean cannot divide by the weights as they are, the weights that took their
    place, (of the rows, of the classes): they must live as long as the batch.
    """
    cdef object instead = None
    describe_rows(batch, options, logits, targets, weight, sample_weight, ignore_index)
    if options.reduction == MEAN:
        check_signs(batch, weight, weight_name, layout)
    cdef double denominator = check_labels_and_sum_weights(
        batch, targets, weight, layout, options.num_threads
    )
    is_void[0] = False
    batch.weight_factor = options.scale
    if options.reduction != MEAN:
        return None
    if must_rescale(batch, denominator):
        sample_weight = rescaled(sample_weight)
        weight = rescaled_classes(batch, weight)
        instead = (sample_weight, weight)
        describe_rows(batch, options, logits, targets, weight, sample_weight, ignore_index)
        denominator = check_labels_and_sum_weights(
            batch, targets, weight, layout, options.num_threads
        )
    is_void[0] = denominator == 0
    batch.weight_factor = mean_factor(options.scale, denominator)
    return instead


cdef int describe_rows(
    xent_batch *batch,
    const Options *options,
    cnp.ndarray logits,
    cnp.ndarray targets,
    cnp.ndarray weight,
    cnp.ndarray sample_weight,
    object ignore_index,
) except -1:
    cdef int last = cnp.PyArray_NDIM(logits) - 1
    batch.rows = row_count_of(logits)
    batch.classes = cnp.PyArray_DIM(logits, last)
    batch.options = options.of_rows
    batch.output = XENT_GRADIENT
    batch.class_weight = NULL if weight is None else cnp.PyArray_BYTES(weight)
    batch.sample_weight = NULL
    if sample_weight is not None:
        batch.sample_weight = <const double *>cnp.PyArray_DATA(sample_weight)
    batch.grad_output = NULL
    batch.grad_output_step = 0
    if targets is not None and cnp.PyArray_NDIM(targets) == 1:
        batch.dense_targets = matrix_of(None)
        return describe_labels(&batch.labels, targets, ignore_index)
    if ignore_index is not None:
        raise ValueError("ignore_index needs targets that are class indices, not dense targets")
    memset(&batch.labels, 0, sizeof(batch.labels))
    batch.dense_targets = matrix_of(targets)
    return 0


cdef int describe_labels(xent_labels *labels, cnp.ndarray targets, object ignore_index) except -1:
    """Fill `labels` from class indices and `ignore_index` as given."""
    describe_plain_labels(labels, targets)
    if ignore_index is not None:
        describe_ignore_index(labels, as_integer(ignore_index, "ignore_index"))
    return 0


cdef void describe_plain_labels(xent_labels *labels, cnp.ndarray targets) noexcept:
    """None of them is ignored."""
    labels.data = cnp.PyArray_BYTES(targets)
    labels.stride = cnp.PyArray_STRIDE(targets, 0)
    labels.type = label_type(targets)
    labels.has_ignore_index = False
    labels.ignore_index = 0


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


cdef xent_label_type label_type(cnp.ndarray targets) noexcept:
    cdef bint is_unsigned = cnp.PyArray_ISUNSIGNED(targets)
    cdef cnp.npy_intp itemsize = cnp.PyArray_ITEMSIZE(targets)
    if itemsize == 8:
        return XENT_UINT64 if is_unsigned else XENT_INT64
    if itemsize == 4:
        return XENT_UINT32 if is_unsigned else XENT_INT32
    if itemsize == 2:
        return XENT_UINT16 if is_unsigned else XENT_INT16
    return XENT_UINT8 if is_unsigned else XENT_INT8


cdef int check_signs(
    const xent_batch *batch, cnp.ndarray weight, str weight_name, Layout layout
) except -1:
    """A mean divides by the sum of weights: none of those may be negative."""
    cdef int64_t place
    if batch.sample_weight != NULL:
        with nogil:
            place = first_negative(batch.sample_weight, batch.rows)
        if place < batch.rows:
            where = (place,) if layout is None else layout.place_of_row(place)
            raise_negative_weight("sample_weight", batch.sample_weight[place], where)
    if weight is not None and batch.dense_targets.data == NULL:
        check_sign(weight, weight_name)
    return 0


cdef double check_labels_and_sum_weights(
    const xent_batch *batch,
    cnp.ndarray targets,
    cnp.ndarray weight,
    Layout layout,
    int num_threads,
) except? -1.0:
    """What "mean" divides by: the number of rows that count, or the sum of their weights."""
    cdef int64_t counted_rows = 0
    cdef int64_t bad_row
    cdef double weight_sum = 0.0
    cdef const char *weights = NULL
    cdef xent_dtype dtype = XENT_FLOAT32
    if batch.labels.data == NULL:
        counted_rows = batch.rows
        if batch.sample_weight != NULL:
            weight_sum = sum_of(batch.sample_weight, batch.rows)
    else:
        if weight is not None:
            weights = cnp.PyArray_BYTES(weight)
            dtype = dtype_of(weight)
        if batch.rows < UNLOCKED_LOGITS:
            bad_row = check_all_labels(
                batch, weights, dtype, num_threads, &counted_rows, &weight_sum
            )
        else:
            with nogil:
                bad_row = check_all_labels(
                    batch, weights, dtype, num_threads, &counted_rows, &weight_sum
                )
        if bad_row >= 0:
            raise_label_error(
                targets, bad_row, batch.classes, batch.labels.has_ignore_index, layout
            )
    if batch.sample_weight == NULL and weights == NULL:
        return <double>counted_rows
    return weight_sum


cdef int raise_label_error(
    object targets, int64_t row, int64_t classes, bint has_ignore_index, Layout layout
) except -1:
    """Name the label in row `row` as the caller knows it."""
    axis, where = 1, (row,)
    if layout is not None:
        axis, where = layout.axis, layout.place_of_row(row)
    raise_index_error(targets[row], where, axis, classes, not has_ignore_index)
    return -1


cdef bint must_rescale(const xent_batch *batch, double denominator) noexcept:
    """Whether the weights' sum, or its inverse, leaves the normal numbers; a mean does not."""
    return (batch.sample_weight != NULL or batch.class_weight != NULL) and not (
        1e-290 < abs(denominator) < 1e290
    )


cdef cnp.ndarray rescaled(cnp.ndarray weights):
    """The same weights times a power of two that makes the largest about 1."""
    if weights is None:
        return None
    with np.errstate(all="ignore"):
        largest = np.abs(weights).max(initial=0.0)
        if not 0 < largest < INFINITY:
            return weights
        return np.ldexp(weights, -np.frexp(largest)[1])


cdef cnp.ndarray rescaled_classes(const xent_batch *batch, cnp.ndarray weight):
    """Class weights, where the mean divides by them too and nothing is free of them."""
    if batch.dense_targets.data != NULL or batch.options.z_loss != 0:
        return weight
    return rescaled(weight)


cdef double mean_class_weight(cnp.ndarray weight, object instead) except? -1.0:
    """Of the class weights that count, 1 where there are none."""
    if instead is not None:
        weight = instead[1]
    if weight is None or cnp.PyArray_SIZE(weight) == 0:
        return 1.0
    return np.mean(weight, dtype=np.float64)


# --- where the arrays lie -------------------------------------------------------------------------


cdef void point_batch_at(
    xent_batch *batch,
    cnp.ndarray source,
    cnp.ndarray working,
    cnp.ndarray row_loss,
) noexcept:
    batch.logits = matrix_of(source)
    batch.grad = matrix_of(working)
    batch.row_loss = NULL if row_loss is None else cnp.PyArray_BYTES(row_loss)
    batch.lse = NULL
    batch.prediction = NULL


cdef void point_at_factors(const double **factors, int64_t *step, cnp.ndarray given) noexcept:
    """One factor for all rows, one a row, or none."""
    factors[0] = NULL
    step[0] = 0
    if given is not None:
        factors[0] = <const double *>cnp.PyArray_DATA(given)
        step[0] = cnp.PyArray_SIZE(given) > 1


cdef void describe_groups(Groups *groups, cnp.ndarray source) noexcept:
    groups.real_bytes = sizeof(double) if dtype_of(source) == XENT_FLOAT64 else sizeof(float)
    groups.count = 1
    groups.rows = cnp.PyArray_DIM(source, 0)
    if cnp.PyArray_NDIM(source) == 3:
        groups.count = groups.rows
        groups.rows = cnp.PyArray_DIM(source, 1)


# --- the run --------------------------------------------------------------------------------------


cdef object loss_of_rows(
    const Options *options, cnp.ndarray row_loss, Layout layout
):
    """What a caller gets, made before its numbers are known: nothing can fail once they are."""
    if options.reduction != NONE:
        return NAN  # a float that nobody else has seen
    return row_loss if layout is None else layout.as_given(row_loss)


cdef int run(
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    const Options *options,
    object loss,
    Layout layout,
    list to_fill,
) except -1:
    """Write all results; the sum of losses goes to `loss`, unless that is None.

    `layout` is None where no array was copied. `to_fill` is None or, of a mean over nothing, pairs
    (result, number): the kernels give statistics at most, and each result is filled with its
    number.
    """
    cdef Plan plan
    cdef double total = NAN
    make_plan(&plan, batch, groups, stored, kernels, options.num_threads)
    # The first write to memory of the caller, and all others. A copy fails before it writes, if at
    # all, and nothing else allocates.
    try:
        if to_fill is None or batch.lse != NULL:
            if layout is not None:
                copy_pairs(layout.loads)
            total = process_rows(&plan)
        if to_fill is not None:
            total = NAN
            for result, number in to_fill:
                result.fill(number)
        if loss is not None and options.reduction != NONE:
            (<PyFloatObject *>loss).ob_fval = total
        if layout is not None:
            copy_pairs(layout.stores)
    finally:
        free(plan.memory)
    return 0


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
) except -1:
    """The same by kernels of a function's own batch, of so many bytes, which have the classes side
    by side: `matrices` are (logits, result or None, other matrix or None), and the other becomes
    `other_matrix`, NULL where the batch has none."""
    cdef Groups groups
    cdef StoredMatrices stored
    cdef cnp.ndarray logits, working, other
    cdef list to_fill = None
    logits, working, other = matrices
    point_batch_at(batch, logits, working, row_loss)
    describe_groups(&groups, logits)
    describe_stored(&stored, batch, batch_bytes, groups.real_bytes)
    stored.side_by_side = True
    if other_matrix != NULL:
        other_matrix[0] = matrix_of(other)
        note_matrix(&stored, batch, other_matrix, False)
    if is_void:
        to_fill = [] if working is None else [(working, 0)]
    return run(batch, &groups, &stored, kernels, options, loss, layout, to_fill)
