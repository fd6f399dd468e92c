"""Classes shared out: the loss and its gradient where nobody has a whole row of logits.

Knows: ranges of classes, what their statistics hold, which ranges go together.
Must not know: the mathematics; how statistics travel from one process to another.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, class_calls, options
from xent_fast._result import FloatT, LossAndGrad

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]

LAYOUT_VERSION = 1
HEADER = 8


@dataclass(frozen=True)
class ClassStatistics:
    """What ranges of classes, side by side, say of each row: a few doubles for 2,048 classes.

    Made by `class_statistics` and `merge_class_statistics`, used by `loss_from_statistics` and
    `grad_from_statistics`. To send it, send `array`, and make it again by `from_array`; or pickle
    it.

    Attributes
    ----------
    array : ndarray of shape (1 + rows, doubles), float64
        Everything. Row 0: the layout's version, kind of targets, bytes of a logit, temperature,
        label smoothing, number of classes (-1 if not known), 1 where there are class weights (-1:
        a negative one among them), the number of ranges, and first class and end of each. The rows
        after that hold 4 doubles (targets in these ranges or -1 for an ignored row, target's logit,
        its weight, its class), and 10 for each block of 2,048 classes (float64 logits: 1,024).
    """

    array: Float64Array

    @classmethod
    def from_array(cls, array: ArrayLike) -> "ClassStatistics":
        """Statistics from their `array`.

        Parameters
        ----------
        array : array_like of float64
            As the attribute `array`.

        Returns
        -------
        ClassStatistics
            The same again.

        Raises
        ------
        ValueError
            If it is no such array.
        """
        values = np.ascontiguousarray(array, dtype=np.float64)
        if values.ndim != 2 or len(values) < 1 or values.shape[1] < HEADER + 2:
            raise ValueError(f"array of shape {values.shape} holds no class statistics")
        if values[0, 0] != LAYOUT_VERSION:
            raise ValueError(f"array holds no class statistics of layout {LAYOUT_VERSION}")
        statistics = cls(values)
        if values.shape[1] != _width(statistics._blocks, len(statistics.ranges)):
            raise ValueError(f"array of shape {values.shape} does not fit its own header")
        return statistics

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """First class and end of each range."""
        count = int(self.array[0, 7])
        bounds = self.array[0, HEADER : HEADER + 2 * count].astype(np.int64).tolist()
        return tuple(zip(bounds[::2], bounds[1::2], strict=True))

    @property
    def classes(self) -> range:
        """The classes of all its ranges."""
        return range(self.ranges[0][0], self.ranges[-1][1])

    @property
    def num_classes(self) -> int | None:
        """The number of classes that there are in all, if that was given."""
        known = int(self.array[0, 5])
        return None if known < 0 else known

    @property
    def dtype(self) -> np.dtype[Any]:
        """The logits' dtype."""
        return np.dtype(np.float32 if self.array[0, 2] == 4 else np.float64)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.array) - 1

    @property
    def _values(self) -> Float64Array:
        return self.array[1:]

    @property
    def _blocks(self) -> list[int]:
        return [
            class_calls.class_block_count(self.dtype.type, end - start)
            for start, end in self.ranges
        ]

    @property
    def _has_class_indices(self) -> bool:
        kinds = [class_calls.target_kind(False, is_shaped) for is_shaped in (False, True)]
        return int(self.array[0, 1]) in kinds

    @property
    def _options(self) -> tuple[Any, ...]:
        """What all ranges must have in common."""
        return (*self.array[0, 1:5], self.array[0, 6] != 0)


def _sign_of_weights(weight: FloatArray | None) -> int:
    if weight is None:
        return 0
    return -1 if (weight < 0).any() else 1


def _width(blocks: list[int], ranges: int) -> int:
    needed = class_calls.ROW_STATISTICS + class_calls.BLOCK_STATISTICS * sum(blocks)
    return max(needed, HEADER + 2 * ranges)


def class_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    first_class: SupportsIndex,
    num_classes: SupportsIndex | None = None,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    ignore_index: SupportsIndex | None = None,
) -> ClassStatistics:
    """What a range of classes says of each row, for a loss over all classes.

    The classes of a row lie in several places: each takes the statistics of its own, sends them,
    merges everybody's, and has the loss and its part of the gradient.

    Parameters
    ----------
    logits : array_like with a class axis, float32 or float64
        Logits in nats of the range's classes alone, of which there may be none.
    targets : array_like
        Class indices among all classes, whether they lie in the range or not; or dense targets of
        the range's classes.
    first_class : int
        The range's first class.
    num_classes : int, optional
        How many classes there are in all. Needed with `label_smoothing`. If it is given, class
        indices are checked here; otherwise by the functions that use the statistics.
    axis : int, default -1
        The class axis.
    weight : array_like of shape (classes of the range,), optional
        Class weights of the range. All ranges have them or none.
    label_smoothing, temperature, ignore_index
        As for `softmax_cross_entropy`, the same for all ranges.

    Returns
    -------
    ClassStatistics
        Of one range. Its rows are the logits' rows in C order.

    Raises
    ------
    IndexError
        If a class index is out of bounds.
    TypeError, ValueError
        As for `softmax_cross_entropy`, and if the range does not lie in [0, `num_classes`).

    See Also
    --------
    merge_class_statistics : The statistics of several ranges together.

    Notes
    -----
    The call computes on its thread alone and does not hold the interpreter's lock meanwhile.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, loss_from_statistics, merge_class_statistics
    >>> logits, labels = np.log([[1.0, 2.0, 1.0], [1.0, 1.0, 8.0]]), np.array([0, 2])
    >>> parts = [
    ...     class_statistics(logits[:, :2], labels, first_class=0),
    ...     class_statistics(logits[:, 2:], labels, first_class=2),
    ... ]
    >>> loss_from_statistics(merge_class_statistics(parts)).round(6)  # log 4, log 1.25
    array([1.386294, 0.223144])
    """
    rows = rows_of_range(logits, targets, axis, weight)
    return measured(rows, first_class, num_classes, label_smoothing, temperature, ignore_index)


def measured(
    rows: "Range",
    first_class: SupportsIndex,
    num_classes: SupportsIndex | None,
    label_smoothing: float,
    temperature: float,
    ignore_index: SupportsIndex | None,
) -> ClassStatistics:
    """What `class_statistics` returns, of arrays that are ready.

    Parameters
    ----------
    rows : Range
        The range's arrays.
    first_class, num_classes, label_smoothing, temperature, ignore_index
        As there.

    Returns
    -------
    ClassStatistics
        Of that range.
    """
    label_smoothing, temperature, _, _ = options.checked_options(
        label_smoothing, temperature, 0.0, "sum", 1.0
    )
    start = options.checked_integer(first_class, "first_class")
    end = start + rows.logits.shape[1]
    total = -1 if num_classes is None else options.checked_integer(num_classes, "num_classes")
    if start < 0 or (num_classes is not None and end > total):
        raise ValueError(
            f"the range of classes [{start}, {end}) does not lie in "
            f"[0, {'num_classes' if num_classes is None else total}) (first_class, num_classes)"
        )
    if label_smoothing and num_classes is None:
        raise ValueError("label_smoothing needs num_classes, the number of all classes")
    is_dense = rows.targets.ndim == 2
    if is_dense and ignore_index is not None:
        raise ValueError("ignore_index needs targets that are class indices, not dense targets")
    if ignore_index is not None:
        ignore_index = options.checked_integer(ignore_index, "ignore_index")
    if not is_dense and num_classes is not None:
        counted = True if ignore_index is None else rows.targets != ignore_index
        _check_labels(rows.targets, counted, total)
    kind = class_calls.target_kind(is_dense, label_smoothing != 0 or rows.weight is not None)
    blocks = [class_calls.class_block_count(rows.logits.dtype.type, end - start)]
    array = np.zeros((1 + len(rows.logits), _width(blocks, 1)))
    array[0, : HEADER + 2] = (
        LAYOUT_VERSION,
        kind,
        rows.logits.dtype.itemsize,
        temperature,
        label_smoothing,
        total,
        _sign_of_weights(rows.weight),
        1,
        start,
        end,
    )
    class_calls.measure_classes(
        rows.logits,
        rows.targets,
        rows.weight,
        ignore_index,
        kind,
        label_smoothing,
        temperature,
        start,
        max(total, 1),
        array[1:],
    )
    return ClassStatistics(array)


def merge_class_statistics(statistics: Iterable[ClassStatistics]) -> ClassStatistics:
    """The statistics of several ranges of classes together.

    What all ranges say side by side is as good as whole rows: the loss follows from it, and with
    its logits each range's gradient.

    Parameters
    ----------
    statistics : iterable of ClassStatistics
        Of ranges that lie side by side, in any order, with the same rows and options.

    Returns
    -------
    ClassStatistics
        Of all their classes.

    Raises
    ------
    TypeError
        If one is no `ClassStatistics`.
    ValueError
        If there is none, ranges overlap or leave classes out, or rows, class indices or options
        differ.

    See Also
    --------
    class_statistics : Those of one range, with an example.

    Notes
    -----
    Nothing is rounded: the ranges' numbers are laid side by side, so that merging in any order and
    in any tree gives the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, merge_class_statistics
    >>> parts = [
    ...     class_statistics(np.zeros((2, 3)), [0, 4], first_class=first) for first in (0, 3)
    ... ]
    >>> merge_class_statistics(parts).classes
    range(0, 6)
    """
    parts = list(statistics)
    for part in parts:
        if not isinstance(part, ClassStatistics):
            raise TypeError(f"statistics must be ClassStatistics, not {type(part).__name__}")
    if not parts:
        raise ValueError("there are no statistics to merge")
    parts.sort(key=lambda part: (part.classes.start, part.classes.stop))
    first = parts[0]
    for before, after in itertools.pairwise(parts):
        if before.classes.stop != after.classes.start:
            what = "overlap" if before.classes.stop > after.classes.start else "leave classes out"
            raise ValueError(
                f"the ranges of classes [{before.classes.start}, {before.classes.stop}) and "
                f"[{after.classes.start}, {after.classes.stop}) {what}"
            )
    totals = {part.num_classes for part in parts} - {None}
    for part in parts[1:]:
        if part._options != first._options or len(totals) > 1:
            raise ValueError(
                f"the statistics of classes [{part.classes.start}, {part.classes.stop}) were taken "
                f"with other options than those of [{first.classes.start}, {first.classes.stop})"
            )
        if part.rows != first.rows:
            raise ValueError(f"the statistics are of {first.rows} and of {part.rows} rows")
    ranges = [bounds for part in parts for bounds in part.ranges]
    blocks = [count for part in parts for count in part._blocks]
    array = np.zeros((1 + first.rows, _width(blocks, len(ranges))))
    array[0, :HEADER] = first.array[0, :HEADER]
    array[0, 5] = max(part.array[0, 5] for part in parts)
    array[0, 6] = min(part.array[0, 6] for part in parts)
    array[0, 7] = len(ranges)
    array[0, HEADER : HEADER + 2 * len(ranges)] = np.ravel(ranges)
    rows = array[1:]
    _merge_rows(rows, parts)
    at = class_calls.ROW_STATISTICS
    for part in parts:
        count = class_calls.BLOCK_STATISTICS * sum(part._blocks)
        rows[:, at : at + count] = part._values[:, class_calls.ROW_STATISTICS :][:, :count]
        at += count
    return ClassStatistics(array)


def _merge_rows(rows: Float64Array, parts: list[ClassStatistics]) -> None:
    """What the ranges say of the targets: at most one of them has each."""
    here = np.stack([part._values[:, class_calls.TARGETS_HERE] for part in parts])
    labels = np.stack([part._values[:, class_calls.TARGET_CLASS] for part in parts])
    if (labels != labels[0]).any() or ((here < 0) != (here[0] < 0)).any():
        row = int(np.flatnonzero(((labels != labels[0]) | ((here < 0) != (here[0] < 0))).any(0))[0])
        raise ValueError(f"the ranges were given different class indices in row {row}")
    for column in (class_calls.TARGET_LOGIT, class_calls.TARGET_WEIGHT):
        rows[:, column] = 0
        for part, has_target in zip(parts, here > 0, strict=True):
            np.copyto(rows[:, column], part._values[:, column], where=has_target)
    rows[:, class_calls.TARGETS_HERE] = here.max(axis=0)
    rows[:, class_calls.TARGET_CLASS] = labels[0]


@overload
def loss_from_statistics(
    statistics: ClassStatistics,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"],
    scale: float = 1.0,
) -> float: ...
@overload
def loss_from_statistics(
    statistics: ClassStatistics,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["none"] = "none",
    scale: float = 1.0,
) -> FloatArray: ...
def loss_from_statistics(
    statistics: ClassStatistics,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "none",
    scale: float = 1.0,
) -> float | FloatArray:
    """The loss over all classes, from their statistics.

    No logits are needed any more: what all ranges say of a row is enough.

    Parameters
    ----------
    statistics : ClassStatistics
        Of all classes, from the first to the last.
    sample_weight : array_like of shape (rows,), optional
        Real numbers that multiply each row's loss.
    z_loss, scale
        As for `softmax_cross_entropy`.
    reduction : {"none", "mean", "sum"}, default "none"
        As for `softmax_cross_entropy`.

    Returns
    -------
    loss : float or ndarray of shape (rows,)
        As of `softmax_cross_entropy`: its bits where every range begins and ends at a block
        (for class indices without class weights), elsewhere an ulp from it.

    Raises
    ------
    IndexError
        If a class index lies in no range.
    TypeError, ValueError
        If an option is wrong, or the statistics are not those of all classes.

    See Also
    --------
    class_statistics : The statistics of a range, with an example.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, loss_from_statistics
    >>> statistics = class_statistics(np.zeros((2, 4)), [0, 3], first_class=0)
    >>> round(loss_from_statistics(statistics, reduction="mean"), 6)
    1.386294
    """
    settled = _settled(statistics, sample_weight, z_loss, reduction, scale)
    return _loss(statistics, settled)


@overload
def grad_from_statistics(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    first_class: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "sum",
    scale: float = 1.0,
    out: FloatArray | None = None,
) -> LossAndGrad[float, FloatT]: ...
@overload
def grad_from_statistics(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    first_class: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    out: FloatArray | None = None,
) -> LossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def grad_from_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    first_class: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "sum",
    scale: float = 1.0,
    out: FloatArray | None = None,
) -> LossAndGrad[float, np.floating[Any]]: ...
@overload
def grad_from_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    first_class: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    out: FloatArray | None = None,
) -> LossAndGrad[FloatArray, np.floating[Any]]: ...
def grad_from_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    first_class: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "sum",
    scale: float = 1.0,
    out: FloatArray | None = None,
) -> LossAndGrad[Any, Any]:
    """The loss over all classes, and its gradient for the logits of a range of them.

    The range's logits are read once more, and its gradient is written, in place if that is asked
    for.

    Parameters
    ----------
    logits, targets, first_class, axis, weight
        A range of classes as `class_statistics` was given it; its other options are known from
        `statistics`.
    statistics : ClassStatistics
        Of all classes, from the first to the last.
    sample_weight, z_loss, scale
        As for `loss_from_statistics`.
    reduction : {"sum", "mean", "none"}, default "sum"
        As for `softmax_cross_entropy_grad`.
    out : ndarray of the logits' shape and dtype, optional
        Takes the gradient. May be `logits`.

    Returns
    -------
    loss : float or ndarray of shape (rows,)
        As of `loss_from_statistics`.
    grad : ndarray of the logits' shape
        The gradient with respect to these logits: `out`, or a new array.

    Raises
    ------
    IndexError
        If a class index lies in no range.
    TypeError, ValueError
        As for `softmax_cross_entropy_grad`, and if the statistics are not those of all classes or
        do not have this range among theirs.

    See Also
    --------
    class_statistics : The statistics of a range.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, grad_from_statistics, merge_class_statistics
    >>> left, right, labels = np.zeros((1, 2)), np.zeros((1, 2)), [3]
    >>> statistics = merge_class_statistics([
    ...     class_statistics(left, labels, first_class=0),
    ...     class_statistics(right, labels, first_class=2),
    ... ])
    >>> grad_from_statistics(right, labels, statistics, first_class=2).grad
    array([[ 0.25, -0.75]])
    """
    rows = rows_of_range(logits, targets, axis, weight, out, with_grad=True)
    return written(rows, statistics, first_class, sample_weight, z_loss, reduction, scale)


def written(
    rows: "Range",
    statistics: ClassStatistics,
    first_class: SupportsIndex,
    sample_weight: ArrayLike | None,
    z_loss: float,
    reduction: Literal["mean", "sum", "none"],
    scale: float,
) -> LossAndGrad[Any, Any]:
    """What `grad_from_statistics` returns, of arrays that are ready.

    Parameters
    ----------
    rows : Range
        The range's arrays, and where its gradient belongs.
    statistics, first_class, sample_weight, z_loss, reduction, scale
        As there.

    Returns
    -------
    LossAndGrad
        The loss, and the range's gradient.
    """
    settled = _settled(statistics, sample_weight, z_loss, reduction, scale)
    start = options.checked_integer(first_class, "first_class")
    bounds = (start, start + rows.logits.shape[1])
    if bounds not in statistics.ranges:
        raise ValueError(
            f"the statistics have no range of classes [{bounds[0]}, {bounds[1]}) (first_class); "
            f"they were taken of {', '.join(f'[{a}, {b})' for a, b in statistics.ranges)}"
        )
    if rows.logits.dtype != statistics.dtype:
        raise TypeError(f"logits must be {statistics.dtype}, not {rows.logits.dtype}")
    if len(rows.logits) != statistics.rows:
        raise ValueError(f"logits have {len(rows.logits)} rows, the statistics {statistics.rows}")
    header = statistics.array[0]
    is_dense = rows.targets.ndim == 2
    if header[1] != class_calls.target_kind(is_dense, header[4] != 0 or rows.weight is not None):
        raise ValueError("targets and weight must be those that class_statistics was given")
    values = statistics._values
    if not is_dense:
        counted = values[:, class_calls.TARGETS_HERE] > 0
        _check_labels(rows.targets, counted, statistics.classes.stop)
        if (rows.targets != values[:, class_calls.TARGET_CLASS])[counted].any():
            raise ValueError("targets must be those that class_statistics was given")
    # From the first write on nothing is allocated.
    loss = _loss(statistics, settled)
    result = LossAndGrad(loss, rows.result)
    is_apart = not np.shares_memory(rows.grad, rows.moved)
    grad_in_shape = rows.grad.reshape(rows.moved.shape) if is_apart else None
    if settled.factor is None:
        rows.grad.fill(0)
    else:
        position = statistics.ranges.index(bounds)
        blocks = statistics._blocks
        class_calls.write_classes(
            rows.logits,
            rows.targets,
            rows.weight,
            rows.grad,
            values,
            settled.sample_weight,
            int(header[1]),
            bool(header[6]),
            header[4],
            header[3],
            settled.z_loss,
            settled.factor,
            start,
            statistics.classes.stop,
            sum(blocks),
            sum(blocks[:position]),
        )
    if grad_in_shape is not None:
        np.copyto(rows.moved, grad_in_shape)
    return result


def _check_labels(labels: NDArray[Any], counted: Any, num_classes: int) -> None:
    bad = ((labels < 0) | (labels >= num_classes)) & counted
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise IndexError(
            f"index {labels[row]} is out of bounds for axis 1 with size {num_classes} "
            f"(targets[{row}])"
        )


# --- arguments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settled:
    sample_weight: Float64Array | None
    z_loss: float
    factor: float | None  # None: a mean over nothing
    reduction: Literal["mean", "sum", "none"]


def _settled(
    statistics: ClassStatistics,
    sample_weight: ArrayLike | None,
    z_loss: float,
    reduction: Literal["mean", "sum", "none"],
    scale: float,
) -> _Settled:
    """What rows share, everything having been checked."""
    if not isinstance(statistics, ClassStatistics):
        raise TypeError(f"statistics must be ClassStatistics, not {type(statistics).__name__}")
    _, _, z_loss, scale = options.checked_options(0.0, 1.0, z_loss, reduction, scale)
    total = statistics.classes.stop if statistics.num_classes is None else statistics.num_classes
    if statistics.classes != range(total):
        raise ValueError(
            f"the statistics are those of classes [{statistics.classes.start}, "
            f"{statistics.classes.stop}), not of all, [0, {total})"
        )
    if total == 0 and statistics.rows:
        raise ValueError("the statistics have no class")
    values = statistics._values
    here = values[:, class_calls.TARGETS_HERE]
    if statistics._has_class_indices and (here == 0).any():
        row = int(np.flatnonzero(here == 0)[0])
        raise IndexError(
            f"index {int(values[row, class_calls.TARGET_CLASS])} is out of bounds for axis 1 with "
            f"size {total} (targets[{row}])"
        )
    weights = _row_weights(statistics, sample_weight)
    factor: float | None = scale
    if reduction == "mean":
        denominator = _denominator(statistics, weights)
        factor = scale / denominator if denominator else None
    return _Settled(weights, z_loss, factor, reduction)


def _row_weights(
    statistics: ClassStatistics, sample_weight: ArrayLike | None
) -> Float64Array | None:
    if sample_weight is None:
        return None
    given = arguments.checked_weights(sample_weight, (statistics.rows,), "sample_weight")
    return np.array(given, np.float64)


def _denominator(statistics: ClassStatistics, weights: Float64Array | None) -> float:
    """What the sum of the losses is divided by to give their mean."""
    each = np.ones(statistics.rows) if weights is None else weights.copy()
    if (each < 0).any():
        raise ValueError(
            'sample_weight must not be negative where reduction is "mean"; take "sum" and scale'
        )
    if statistics._has_class_indices:
        if statistics.array[0, 6] < 0:
            raise ValueError(
                'weight must not be negative where reduction is "mean"; take "sum" and scale'
            )
        values = statistics._values
        is_ignored = values[:, class_calls.TARGETS_HERE] < 0
        each *= np.where(is_ignored, 0.0, values[:, class_calls.TARGET_WEIGHT])
    return math.fsum(each) if np.isfinite(each).all() else float(each.sum())


def mean_denominator(statistics: ClassStatistics, sample_weight: ArrayLike | None) -> float:
    """The weight of some rows in a mean over these and others.

    Parameters
    ----------
    statistics : ClassStatistics
        Of all classes, or of those where the rows' targets lie.
    sample_weight : array_like or None
        As for `loss_from_statistics`.

    Returns
    -------
    float
        What their losses' sum would be divided by, were there no other rows.
    """
    return _denominator(statistics, _row_weights(statistics, sample_weight))


def _loss(statistics: ClassStatistics, settled: _Settled) -> float | FloatArray:
    header = statistics.array[0]
    row_loss = np.empty(statistics.rows, statistics.dtype)
    if settled.factor is None:
        return math.nan
    class_calls.settle_classes(
        statistics._values,
        row_loss,
        settled.sample_weight,
        int(header[1]),
        bool(header[6]),
        header[4],
        header[3],
        settled.z_loss,
        settled.factor,
        statistics.classes.stop,
        sum(statistics._blocks),
    )
    return row_loss if settled.reduction == "none" else float(row_loss.sum(dtype=np.float64))


@dataclass(frozen=True)
class Range:
    """Arrays of a range as the kernels take them: a row's classes side by side."""

    logits: FloatArray  # (rows, classes)
    targets: NDArray[Any]
    weight: FloatArray | None
    grad: FloatArray  # like `logits`, or one number where there is no gradient
    moved: FloatArray  # where the gradient belongs, classes last
    result: FloatArray


def rows_of_range(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: SupportsIndex,
    weight: ArrayLike | None,
    out: FloatArray | None = None,
    *,
    with_grad: bool = False,
) -> Range:
    """A range's arrays, checked, with all that is allocated for it.

    Parameters
    ----------
    logits, targets, axis, weight, out
        As for `grad_from_statistics`.
    with_grad : bool
        Whether there will be a gradient.

    Returns
    -------
    Range
        Arrays as the kernels take them.
    """
    x = arguments.checked_floats(logits, "logits", out)
    number = options.checked_integer(axis, "axis")
    if not -x.ndim <= number < x.ndim:
        raise np.exceptions.AxisError(number, x.ndim)
    moved = np.moveaxis(x, number, -1)
    row_shape, classes = moved.shape[:-1], moved.shape[-1]
    count = math.prod(row_shape)
    dtype = x.dtype.type
    given = arguments.checked_targets(targets, x, row_shape, "logits")
    if given.dtype.kind in "iu" and given.shape == row_shape:
        native = given.dtype.newbyteorder("=")
        rows_of_targets = np.array(given, dtype=native, order="C").reshape(count)
    else:
        dense = np.moveaxis(given, number, -1).reshape(count, classes)
        rows_of_targets = np.ascontiguousarray(dense, dtype=dtype)
    class_weight = None
    if weight is not None:
        class_weight = np.array(
            arguments.checked_weights(weight, (classes,), "weight"), dtype=dtype
        )
    rows = moved.reshape(count, classes)
    if not _lies_in_rows(rows):
        rows = np.require(rows, dtype, ("C", "A"))
    if not with_grad:
        return Range(rows, rows_of_targets, class_weight, rows, moved, rows)
    result = np.empty(x.shape, dtype) if out is None else arguments.checked_output(out, x, "logits")
    if out is not None and np.shares_memory(out, given):
        raise ValueError("out shares memory with targets")
    place = np.moveaxis(result, number, -1)
    grad = place.reshape(count, classes)
    if not (_lies_in_rows(grad) and np.shares_memory(grad, result)):
        grad = np.empty((count, classes), dtype)
    return Range(rows, rows_of_targets, class_weight, grad, place, result if out is None else out)


def _lies_in_rows(array: FloatArray) -> bool:
    """Whether each row's classes lie side by side, as the kernels take them."""
    along = array.strides[1] == array.itemsize or array.shape[1] < 2
    return along and array.flags.aligned and array.dtype.isnative
