"""A range of classes: its arrays, its statistics, and what follows from everybody's.

Knows: how arguments are checked, everything before the first write; which call of the kernels is
which step. Must not know: the mathematics; how statistics travel from one process to another.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, class_calls
from xent_fast._binding import options as binding_options
from xent_fast._class_statistics import (
    MOST_CLASSES,
    ClassStatistics,
    Options,
    blocks_of,
    empty_statistics,
    has_class_indices,
    has_negative_weight,
    largest_logits,
    options_of,
    values_of,
)
from xent_fast._result import LossAndGrad

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
Reduction = Literal["mean", "sum", "none"]

# A measuring for a z_loss that is asked for later.
ANY_Z_LOSS = 1.0


# --- arrays ---------------------------------------------------------------------------------------


class Range(NamedTuple):
    """Arrays of a range as the kernels take them: a row's classes side by side."""

    logits: FloatArray  # (rows, classes)
    targets: NDArray[Any]
    weight: FloatArray | None
    grad: FloatArray  # as the kernels write it, or the logits where there is no gradient
    moved: FloatArray  # where the gradient belongs, classes last
    result: FloatArray

    @property
    def is_dense(self) -> bool:
        """Whether targets are numbers of each class."""
        return self.targets.ndim == 2


def range_of(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: SupportsIndex,
    weight: ArrayLike | None,
    out: FloatArray | None = None,
    *,
    with_grad: bool = False,
    has_exponentials: bool = False,
) -> Range:
    """A range's arrays, checked, with all that is allocated for it."""
    x = arguments.checked_floats(logits, "logits", out)
    number = binding_options.checked_integer(axis, "axis")
    if not -x.ndim <= number < x.ndim:
        raise np.exceptions.AxisError(number, x.ndim)
    moved = np.moveaxis(x, number, -1)
    row_shape, classes = moved.shape[:-1], moved.shape[-1]
    count = math.prod(row_shape)
    dtype = arguments.computed_dtype(x)
    given = arguments.checked_targets(targets, x, row_shape, "logits")
    rows_of_targets: NDArray[Any]
    if given.dtype.kind in "iu" and given.shape == row_shape:
        native = given.dtype.newbyteorder("=")
        rows_of_targets = np.array(given, dtype=native, order="C").reshape(count)
    else:
        rows_of_targets = np.moveaxis(given, number, -1).reshape(count, classes)
        if not (arguments.can_be_read(given, x) and _lies_in_rows(rows_of_targets)):
            rows_of_targets = np.array(rows_of_targets, dtype=dtype, order="C")
    class_weight = None
    if weight is not None:
        class_weight = np.array(
            arguments.checked_weights(weight, (classes,), "weight"), dtype=dtype
        )
    rows = moved.reshape(count, classes)
    if not _lies_in_rows(rows):
        rows = np.require(rows, x.dtype.type, ("C", "A"))
    if not with_grad:
        return Range(rows, rows_of_targets, class_weight, rows, moved, rows)
    if has_exponentials and isinstance(out, np.ndarray):
        _check_place_of_gradient(x, out)
    result = (
        np.empty(x.shape, x.dtype.type)
        if out is None
        else arguments.checked_output(out, x, "logits")
    )
    if out is not None and np.shares_memory(out, given):
        raise ValueError("out shares memory with targets")
    place = np.moveaxis(result, number, -1)
    grad = place.reshape(count, classes)
    if not (_lies_in_rows(grad) and np.shares_memory(grad, result)):
        grad = np.empty((count, classes), result.dtype.type)
    return Range(rows, rows_of_targets, class_weight, grad, place, result if out is None else out)


def _check_place_of_gradient(exponentials: FloatArray, out: FloatArray) -> None:
    is_wide = not arguments.lies_in_16_bits(exponentials)
    if is_wide and out.dtype.type is not exponentials.dtype.type:
        raise TypeError(
            f"out must be {exponentials.dtype}, as the exponentials in logits are, not "
            f"{out.dtype}: leave it out, and convert the gradient by .astype"
        )


def _lies_in_rows(array: FloatArray) -> bool:
    """Whether each row's classes lie side by side, as the kernels take them."""
    along = array.strides[1] == array.itemsize or array.shape[1] < 2
    return along and array.flags.aligned and array.dtype.isnative


# --- statistics -----------------------------------------------------------------------------------


def measured(
    rows: Range,
    first_class: SupportsIndex,
    num_classes: SupportsIndex | None,
    label_smoothing: float,
    temperature: float,
    ignore_index: SupportsIndex | None,
    *,
    leaves_exponentials: bool = False,
) -> ClassStatistics:
    """What `class_statistics` returns, of arrays that are ready.

    With `leaves_exponentials` these go where the gradient belongs.
    """
    statistics = described(
        rows, first_class, num_classes, label_smoothing, temperature, ignore_index
    )
    # From the first write on nothing is allocated.
    is_apart = leaves_exponentials and not np.shares_memory(rows.grad, rows.moved)
    exponentials = rows.grad.reshape(rows.moved.shape) if is_apart else None
    measure(rows, statistics, ignore_index, leaves_exponentials=leaves_exponentials)
    if exponentials is not None:
        np.copyto(rows.moved, exponentials)
    return statistics


def described(
    rows: Range,
    first_class: SupportsIndex,
    num_classes: SupportsIndex | None,
    label_smoothing: float,
    temperature: float,
    ignore_index: SupportsIndex | None,
) -> ClassStatistics:
    """Statistics before their rows are measured, everything having been checked."""
    label_smoothing, temperature, _, _ = binding_options.checked_options(
        label_smoothing, temperature, 0.0, "sum", 1.0
    )
    start = binding_options.checked_integer(first_class, "first_class")
    end = start + rows.logits.shape[1]
    total = None
    if num_classes is not None:
        total = binding_options.checked_integer(num_classes, "num_classes")
    if start < 0 or (total is not None and end > total):
        raise ValueError(
            f"the range of classes [{start}, {end}) does not lie in "
            f"[0, {'num_classes' if total is None else total}) (first_class, num_classes)"
        )
    if label_smoothing and total is None:
        raise ValueError("label_smoothing needs num_classes, the number of all classes")
    if rows.is_dense and ignore_index is not None:
        raise ValueError("ignore_index needs targets that are class indices, not dense targets")
    if ignore_index is not None:
        ignore_index = binding_options.checked_integer(ignore_index, "ignore_index")
    if not rows.is_dense:
        counted = True if ignore_index is None else rows.targets != ignore_index
        _check_labels(rows.targets, counted, total)
    options = Options(
        class_calls.target_kind(rows.is_dense, label_smoothing, rows.weight is not None),
        np.dtype(arguments.computed_dtype(rows.logits)).itemsize,
        temperature,
        label_smoothing,
        rows.weight is not None,
    )
    return empty_statistics(len(rows.logits), (start, end), options, total, rows.weight)


def measure(
    rows: Range,
    statistics: ClassStatistics,
    ignore_index: SupportsIndex | None,
    z_loss: float = ANY_Z_LOSS,
    *,
    leaves_exponentials: bool = False,
) -> None:
    """Fill in the numbers of a range's rows, in statistics as `described` has left them.

    `z_loss` is that of the loss, or any if it is 0 neither here nor there. With
    `leaves_exponentials`, which go where the gradient belongs, `written` is to need no logits.
    """
    exponentials = rows.grad if leaves_exponentials else None
    if exponentials is not None and arguments.lies_in_16_bits(exponentials):
        # They never lie in 16 bits: `written` makes them again.
        if not np.shares_memory(rows.grad, rows.logits):
            np.copyto(rows.grad, rows.logits)
        exponentials = None
    class_calls.measure_classes(
        rows.logits,
        rows.targets,
        rows.weight,
        ignore_index,
        options_of(statistics),
        z_loss,
        statistics.classes.start,
        max(statistics.num_classes or 0, 1),
        values_of(statistics),
        exponentials,
    )


def _check_labels(labels: NDArray[Any], counted: Any, num_classes: int | None) -> None:
    most = MOST_CLASSES if num_classes is None else num_classes
    bad = ((labels < 0) | (labels >= most)) & counted
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        size = "" if num_classes is None else f" with size {num_classes}"
        raise IndexError(f"index {labels[row]} is out of bounds for axis 1{size} (targets[{row}])")


# --- the loss, from all ranges' statistics --------------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """What rows share."""

    sample_weight: Float64Array | None
    z_loss: float
    factor: float | None  # None: a mean over nothing
    reduction: Reduction


def settled(
    statistics: ClassStatistics,
    sample_weight: ArrayLike | None,
    z_loss: float,
    reduction: Reduction,
    scale: float,
) -> Settled:
    """What rows share, everything having been checked; arguments as of `loss_from_statistics`."""
    if not isinstance(statistics, ClassStatistics):
        raise TypeError(f"statistics must be ClassStatistics, not {type(statistics).__name__}")
    _, _, z_loss, scale = binding_options.checked_options(0.0, 1.0, z_loss, reduction, scale)
    total = statistics.classes.stop if statistics.num_classes is None else statistics.num_classes
    if statistics.classes != range(total):
        raise ValueError(
            f"the statistics are those of classes [{statistics.classes.start}, "
            f"{statistics.classes.stop}), not of all, [0, {total})"
        )
    if total == 0 and statistics.rows:
        raise ValueError("the statistics have no class")
    values = values_of(statistics)
    here = values[:, class_calls.TARGETS_HERE]
    if has_class_indices(statistics) and (here == 0).any():
        row = int(np.flatnonzero(here == 0)[0])
        raise IndexError(
            f"index {int(values[row, class_calls.TARGET_CLASS])} is out of bounds for axis 1 with "
            f"size {total} (targets[{row}])"
        )
    weights = row_weights(sample_weight, (statistics.rows,))
    factor: float | None = scale
    if reduction == "mean":
        denominator = _denominator(statistics, weights)
        factor = mean_factor(scale, denominator)
    return Settled(weights, z_loss, factor, reduction)


def mean_factor(scale: float, denominator: float) -> float | None:
    """What the sum of the losses is multiplied by: None for a mean over nothing."""
    if not denominator:
        return None
    return scale / denominator if abs(denominator) < math.inf else math.nan


def row_weights(sample_weight: ArrayLike | None, row_shape: tuple[int, ...]) -> Float64Array | None:
    """One number a row, checked; None for None."""
    if sample_weight is None:
        return None
    given = arguments.checked_weights(sample_weight, row_shape, "sample_weight")
    return np.array(given, np.float64).reshape(-1)


def mean_denominator(statistics: ClassStatistics, sample_weight: ArrayLike | None) -> float:
    """The weight of some rows in a mean over these and others.

    The statistics are of all classes, or of those where the rows' targets lie.
    """
    return _denominator(statistics, row_weights(sample_weight, (statistics.rows,)))


def _denominator(statistics: ClassStatistics, weights: Float64Array | None) -> float:
    """What the sum of the losses is divided by to give their mean."""
    each = np.ones(statistics.rows) if weights is None else weights.copy()
    arguments.checked_signs(each, "sample_weight")
    if has_class_indices(statistics):
        if has_negative_weight(statistics):
            raise ValueError(
                'weight must not be negative where reduction is "mean"; take "sum" and scale'
            )
        values = values_of(statistics)
        is_ignored = values[:, class_calls.TARGETS_HERE] < 0
        each *= np.where(is_ignored, 0.0, values[:, class_calls.TARGET_WEIGHT])
    return math.fsum(each) if np.isfinite(each).all() else float(each.sum())


def losses(statistics: ClassStatistics, shared: Settled) -> float | FloatArray:
    """What `loss_from_statistics` returns, from the statistics of all classes."""
    row_loss = np.empty(statistics.rows, statistics.dtype)
    if shared.factor is None:
        return math.nan
    class_calls.settle_classes(
        values_of(statistics),
        row_loss,
        options_of(statistics),
        shared,
        statistics.classes.stop,
        sum(blocks_of(statistics)),
    )
    return row_loss if shared.reduction == "none" else float(row_loss.sum(dtype=np.float64))


# --- the gradient ---------------------------------------------------------------------------------


def written(
    rows: Range,
    statistics: ClassStatistics,
    first_class: SupportsIndex,
    sample_weight: ArrayLike | None,
    z_loss: float,
    reduction: Reduction,
    scale: float,
    *,
    has_exponentials: bool = False,
) -> LossAndGrad[Any, Any]:
    """What `grad_from_statistics` returns, of arrays that are ready.

    With `has_exponentials` the logits are the exponentials that `measure` has left.
    """
    has_exponentials = has_exponentials and not arguments.lies_in_16_bits(rows.logits)
    shared = settled(statistics, sample_weight, z_loss, reduction, scale)
    bounds = _checked_bounds(rows, statistics, first_class)
    _check_logits(rows, statistics, bounds, has_exponentials)
    # From the first write on nothing is allocated.
    result = LossAndGrad(losses(statistics, shared), rows.result)
    is_apart = not np.shares_memory(rows.grad, rows.moved)
    grad_in_shape = rows.grad.reshape(rows.moved.shape) if is_apart else None
    if shared.factor is None:
        rows.grad.fill(0)
    else:
        if has_exponentials and not np.shares_memory(rows.logits, rows.grad):
            np.copyto(rows.grad, rows.logits)
        position = statistics.ranges.index(bounds)
        blocks = blocks_of(statistics)
        class_calls.write_classes(
            rows.logits,
            rows.targets,
            rows.weight,
            rows.grad,
            values_of(statistics),
            options_of(statistics),
            shared,
            bounds[0],
            statistics.classes.stop,
            sum(blocks),
            sum(blocks[:position]),
            has_exponentials,
        )
    if grad_in_shape is not None:
        np.copyto(rows.moved, grad_in_shape)
    return result


def _check_logits(
    rows: Range, statistics: ClassStatistics, bounds: tuple[int, int], has_exponentials: bool
) -> None:
    """Complain of exponentials where logits are said to be, and the other way round.

    The first row of numbers shows it. Of exponentials the largest is near 2^32 or 2^64.
    """
    if bounds[0] == bounds[1]:
        return
    block, largest = largest_logits(statistics, bounds)
    counts = (values_of(statistics)[:, class_calls.TARGETS_HERE] >= 0) & np.isfinite(largest)
    for row in np.flatnonzero(counts):
        given = rows.logits[row, :block].astype(np.float64).max()
        if np.isnan(given):
            continue
        if not has_exponentials and given != largest[row]:
            raise ValueError(
                "logits are not those that class_statistics was given; if they are what it has "
                "left in its out, has_exponentials=True says so"
            )
        if has_exponentials and given == largest[row] < 2**30:
            raise ValueError(
                "logits are those that class_statistics was given, not what it has left in its "
                "out: leave out has_exponentials"
            )
        return


def _checked_bounds(
    rows: Range, statistics: ClassStatistics, first_class: SupportsIndex
) -> tuple[int, int]:
    """The range's first class and end, if it is among those of the statistics."""
    start = binding_options.checked_integer(first_class, "first_class")
    bounds = (start, start + rows.logits.shape[1])
    if bounds not in statistics.ranges:
        raise ValueError(
            f"the statistics have no range of classes [{bounds[0]}, {bounds[1]}) (first_class); "
            f"they were taken of {', '.join(f'[{a}, {b})' for a, b in statistics.ranges)}"
        )
    if arguments.computed_dtype(rows.logits) is not statistics.dtype.type:
        raise TypeError(
            f"logits must be those of the statistics, which were computed in {statistics.dtype}, "
            f"not {rows.logits.dtype}"
        )
    if len(rows.logits) != statistics.rows:
        raise ValueError(f"logits have {len(rows.logits)} rows, the statistics {statistics.rows}")
    options = options_of(statistics)
    has_weight = rows.weight is not None
    if options.kind != class_calls.target_kind(rows.is_dense, options.label_smoothing, has_weight):
        raise ValueError("targets and weight must be those that class_statistics was given")
    if not rows.is_dense:
        values = values_of(statistics)
        counted = values[:, class_calls.TARGETS_HERE] > 0
        _check_labels(rows.targets, counted, statistics.classes.stop)
        if (rows.targets != values[:, class_calls.TARGET_CLASS])[counted].any():
            raise ValueError("targets must be those that class_statistics was given")
    return bounds
