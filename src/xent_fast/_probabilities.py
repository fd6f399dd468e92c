"""Cross-entropy of probabilities as given, and its gradient: the textbook's two steps, in NumPy.

Knows: the formula, targets and options of a loss. Must not know: where probabilities come from.

It is here to be compared with the fused functions, which are faster, more accurate and do not break
where a probability rounds to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast import _remedies
from xent_fast._binding import arguments, options
from xent_fast._result import FloatT, LossAndGrad

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]

# Rows are taken so many at a time that a temporary array holds about this many numbers.
_NUMBERS_AT_ONCE = 1 << 16

# How far outside [0, 1] a probability may lie by rounding: half precision's is the coarsest.
_ROUNDING = 1e-3


@overload
def cross_entropy(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float: ...
@overload
def cross_entropy(
    probabilities: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> NDArray[FloatT]: ...
@overload
def cross_entropy(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> FloatArray: ...
def cross_entropy(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float | FloatArray:
    r"""Cross-entropy between targets and probabilities as given.

    A row of probabilities :math:`p` with targets :math:`t` (for a class index :math:`y`: 1 at
    :math:`y` and 0 elsewhere), class weights :math:`w` and label smoothing :math:`E` among
    :math:`C` classes has the loss

    .. math:: -\sum_c q_c \log p_c, \qquad q_c = a \, w_c \bigl((1 - E) \, t_c + E / C\bigr)

    in nats, where :math:`a` is the row's weight: ``scale``, times its ``sample_weight`` if given,
    divided for ``reduction="mean"`` by the sum described there.

    For probabilities that a softmax made, `softmax_cross_entropy` of its logits is faster and more
    accurate, and finite where a probability has rounded to 0.

    Parameters
    ----------
    probabilities : array_like, float32 or float64
        Numbers in [0, 1], of any shape with at least one axis and any memory layout. Rows need not
        sum to 1. What is more than 0.001 outside, as logits are, is an error: this is not PyTorch's
        function of the same name, which takes logits; that is `softmax_cross_entropy` here.
    targets : array_like of the probabilities' shape, or that without the class axis
        Either class indices, one integer a row, or dense targets, one number a probability, which
        need not sum to 1. Integers and booleans do as dense targets where there are two dimensions
        or more.
    axis : int, default -1
        The axis of the classes.
    weight : array_like of shape (classes,), optional
        Real numbers that multiply each class's share of the loss. Negative ones are refused for
        class indices with ``reduction="mean"``.
    sample_weight : array_like of the probabilities' shape without the class axis, optional
        Real numbers that multiply each row's loss. Negative ones are refused with
        ``reduction="mean"``; ``reduction="sum", scale=1 / rows`` takes them as given.
    ignore_index : int, optional
        Rows whose class index equals this number do not count: their loss is 0, and they leave the
        mean's denominator. By default no row is ignored.
    label_smoothing : float in [0, 1], default 0.0
        The share of each row's target that all classes receive in equal parts.
    clip : float in [0, 0.5), default 0.0
        Probabilities below it count as `clip`, those above ``1 - clip`` as that; by default, as
        they are, so that p = 0 costs +inf.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"sum"`` adds the losses of all rows. ``"mean"`` divides that sum, for class indices by the
        sum of sample weight times the target's class weight over rows that are not ignored, for
        dense targets by the sum of sample weights, each 1 by default. ``"none"`` returns one loss a
        row.
    scale : float, default 1.0
        Multiplies the loss.
    num_threads : int, optional
        At least 1. Taken for the sake of one signature: one thread computes this function.

    Returns
    -------
    float or ndarray of the probabilities' shape without the class axis
        In nats. A float for ``"mean"`` and ``"sum"``. An array of the probabilities' dtype for
        ``"none"``. Everything is computed in double.

    Raises
    ------
    IndexError
        If a class index is neither in [0, classes) nor `ignore_index`.
    TypeError
        If an argument has the wrong type or dtype: probabilities that are not float32 or float64,
        class indices that are not integers, dense targets that are no real numbers, a masked array.
    ValueError
        If a probability of a row that counts is outside [0, 1] by more than rounding, shapes do not
        fit together, there are rows but no class, `ignore_index` is given with dense targets, a
        weight that ``reduction="mean"`` would divide by is negative, `reduction` is unknown,
        `num_threads` is below 1, or `label_smoothing` or `clip` is outside its domain.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    softmax_cross_entropy : The same loss of logits.

    Notes
    -----
    A class without mass costs 0, whatever its probability is. The mean over nothing (no rows, all
    rows ignored, weights that sum to 0) is NaN.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville. Deep Learning, section 3.13. MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import cross_entropy
    >>> cross_entropy(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1]), reduction="none")
    array([1.38629436, 0.69314718])
    """
    problem = _checked(
        probabilities,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        clip,
        reduction,
        scale,
        None,
        num_threads,
    )
    return _loss_and_grad(problem, reduction, grad=None)


@overload
def cross_entropy_grad(
    probabilities: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[float, FloatT]: ...
@overload
def cross_entropy_grad(
    probabilities: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def cross_entropy_grad(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[float, np.floating[Any]]: ...
@overload
def cross_entropy_grad(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[FloatArray, np.floating[Any]]: ...
def cross_entropy_grad(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[Any, Any]:
    r"""Cross-entropy between targets and probabilities as given, and its gradient.

    With the mass :math:`q` of `cross_entropy`, the gradient of the row losses' sum with respect to
    the probabilities is

    .. math:: -q_c / p_c

    and 0 where `clip` holds a probability fast.

    Parameters
    ----------
    probabilities, targets, axis, weight, sample_weight, ignore_index, label_smoothing, clip, \
    reduction, scale, num_threads
        As for `cross_entropy`.
    out : ndarray of the probabilities' shape and dtype, optional
        Where the gradient is written: `probabilities` themselves, or an array that shares no memory
        with them. The probabilities must then be an ndarray. By default a new array.

    Returns
    -------
    loss : float or ndarray of the probabilities' shape without the class axis
        In nats, as for `cross_entropy`.
    grad : ndarray of the probabilities' shape
        Of the probabilities' dtype, in nats; `out` if it was given. For ``reduction="none"`` each
        row holds the gradient of its own loss.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As for `cross_entropy`; also TypeError if `out` is not an ndarray of the probabilities'
        dtype, and ValueError if it has another shape, is read-only, overlaps itself, or overlaps
        the probabilities without being the same array. After any exception `out` holds what it held
        before.

    See Also
    --------
    softmax_vjp : Takes this gradient on to the logits.
    softmax_cross_entropy_grad : Both steps at once, from the logits.

    Notes
    -----
    A class without mass has the gradient 0, whatever its probability is; so has an ignored row, and
    everything where the loss is NaN because the mean's denominator is 0.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville. Deep Learning, section 3.13. MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import cross_entropy_grad
    >>> loss, grad = cross_entropy_grad(np.array([0.25, 0.75]), 0)
    >>> round(loss, 6), grad
    (1.386294, array([-4.,  0.]))
    """
    problem = _checked(
        probabilities,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        clip,
        reduction,
        scale,
        out,
        num_threads,
    )
    p, place = problem.probabilities, problem.place
    grad = np.zeros(p.shape, p.dtype)
    loss = _loss_and_grad(problem, reduction, grad)
    grad = np.moveaxis(grad.reshape(*place.row_shape, place.classes), -1, place.axis)
    result = LossAndGrad[Any, Any](loss, grad if out is None else out)
    if out is not None:
        np.copyto(out, grad)  # the only write to it, after which nothing can fail
    return result


# --- arguments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """How rows of classes lie in an array of any shape."""

    shape: tuple[int, ...]
    axis: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    def as_rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array of the shape as (rows, classes), in the processor's byte order."""
        moved = np.moveaxis(values, self.axis, -1)
        rows = moved.reshape(int(np.prod(self.row_shape, dtype=np.intp)), self.classes)
        return rows.astype(rows.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class _Problem:
    """Checked arguments, as rows.

    labels : class indices, 0 in rows that do not count; None for dense targets
    dense_targets : None for class indices
    class_weight : one number a class
    row_weight : a
    counted : the rows that count
    is_void : the mean has the denominator 0
    """

    place: _Place
    probabilities: FloatArray
    labels: NDArray[np.intp] | None
    dense_targets: FloatArray | None
    class_weight: Float64Array
    row_weight: Float64Array
    counted: NDArray[np.bool_]
    label_smoothing: float
    clip: float
    is_void: bool


def _checked(
    probabilities: ArrayLike,
    targets: ArrayLike,
    axis: SupportsIndex,
    weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: SupportsIndex | None,
    label_smoothing: float,
    clip: float,
    reduction: Literal["mean", "sum", "none"],
    scale: float,
    out: FloatArray | None,
    num_threads: SupportsIndex | None,
) -> _Problem:
    p = arguments.checked_floats(probabilities, "probabilities", out)
    place = _Place(p.shape, arguments.checked_axis(axis, p, "probabilities"))
    scale = options.checked_scale(reduction, scale, num_threads)
    smoothing = options.checked_label_smoothing(label_smoothing)
    clip = options.checked_number(clip, "clip")
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must be in [0, 0.5), not {clip}")
    if out is not None:
        arguments.checked_output(out, p, "probabilities")
    class_weight = _weights(weight, (place.classes,), "weight")
    row_weight = _weights(sample_weight, place.row_shape, "sample_weight").reshape(-1)

    labels, dense_targets = None, None
    given = arguments.checked_targets(targets, p, place.row_shape, "probabilities", place.axis)
    if reduction == "mean":
        arguments.checked_signs(row_weight.reshape(place.row_shape), "sample_weight")
        # a mean divides by the powers of two again: without them no sum of weights overflows
        row_weight = _without_power(row_weight)
    counted, count = np.ones(row_weight.shape, dtype=bool), row_weight
    if given.dtype.kind != "f":
        if reduction == "mean":
            arguments.checked_signs(class_weight, "weight")
            class_weight = _without_power(class_weight)
        labels, counted = _labels(given, place, ignore_index)
        with np.errstate(all="ignore"):
            count = row_weight[counted] * class_weight[labels[counted]]
    elif ignore_index is not None:
        raise ValueError("ignore_index needs targets that are class indices, not dense targets")
    else:
        dense_targets = place.as_rows(given)
    rows = place.as_rows(p)
    _check_probabilities(rows, counted, place)
    with np.errstate(all="ignore"):
        denominator = float(count.sum()) if reduction == "mean" else 1.0
        is_void = denominator == 0
        factor = 0.0 if is_void else float(np.float64(scale) / denominator)
        weights = np.zeros_like(row_weight) if is_void else row_weight * factor
    return _Problem(
        place,
        rows,
        labels,
        dense_targets,
        class_weight,
        weights,
        counted,
        smoothing,
        clip,
        is_void,
    )


def _without_power(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the power of two next to the largest magnitude."""
    exponent = np.frexp(np.abs(values).max(initial=0.0))[1]
    result: NDArray[np.float64] = np.ldexp(values, -exponent)
    return result


def _check_probabilities(rows: FloatArray, counted: NDArray[np.bool_], place: _Place) -> None:
    """No probability of a row that counts is outside [0, 1]; NaN is not outside."""
    for some in _some_rows_at_a_time(*rows.shape):
        outside = (rows[some] < -_ROUNDING) | (rows[some] > 1 + _ROUNDING)
        outside &= counted[some, np.newaxis]
        if outside.any():
            row, column = (int(i) for i in np.argwhere(outside)[0])
            row += some.start
            where = [int(i) for i in np.unravel_index(row, place.row_shape)]
            where.insert(place.axis, column)
            raise ValueError(
                f"probabilities must be in [0, 1]; probabilities[{', '.join(map(str, where))}] is "
                f"{rows[row, column]}; for logits use softmax_cross_entropy or "
                "softmax_cross_entropy_grad"
            )


def _weights(given: ArrayLike | None, shape: tuple[int, ...], name: str) -> Float64Array:
    """Real numbers of a given shape, 1 by default."""
    if given is None:
        return np.ones(shape)
    with np.errstate(all="ignore"):
        return arguments.checked_weights(given, shape, name).astype(np.float64)


def _labels(
    targets: NDArray[Any], place: _Place, ignore_index: SupportsIndex | None
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Every row's class index, 0 where it does not count, and which rows count."""
    counted = np.ones(targets.shape, dtype=bool)
    if ignore_index is not None:
        counted = np.asarray(targets != options.checked_integer(ignore_index, "ignore_index"))
    out_of_bounds = counted & ((targets < 0) | (targets >= place.classes))
    if out_of_bounds.any():
        position = tuple(int(i) for i in np.argwhere(out_of_bounds)[0])
        where = ", ".join(map(str, position)) or "()"
        label = targets[position]
        raise IndexError(
            f"index {label} is out of bounds for axis {place.axis} "
            f"with size {place.classes} (targets[{where}])"
            f"{_remedies.for_label_out_of_bounds(label, place.classes, ignore_index is None)}"
        )
    labels = np.where(counted, targets, 0).astype(np.intp)
    return labels.reshape(-1), counted.reshape(-1)


# --- loss and gradient ----------------------------------------------------------------------------


def _loss_and_grad(
    problem: _Problem, reduction: Literal["mean", "sum", "none"], grad: FloatArray | None
) -> float | FloatArray:
    """The loss; the gradient is added to `grad`, rows of zeros, unless that is None."""
    dtype = problem.probabilities.dtype
    row_loss = np.zeros(len(problem.row_weight))
    with np.errstate(all="ignore"):
        if problem.labels is not None and problem.label_smoothing == 0:
            _add_targets_alone(problem, problem.labels, row_loss, grad)
        else:
            _add_all_classes(problem, row_loss, grad)
        row_loss[~problem.counted] = 0.0
        if reduction == "none":
            return row_loss.astype(dtype).reshape(problem.place.row_shape)
    return float("nan") if problem.is_void else float(row_loss.sum())


def _add_targets_alone(
    problem: _Problem, labels: NDArray[np.intp], row_loss: Float64Array, grad: FloatArray | None
) -> None:
    """Class indices without smoothing: no other probability than the target's is looked at."""
    rows = np.flatnonzero(problem.counted)
    labels = labels[rows]
    p = problem.probabilities[rows, labels].astype(np.float64)
    mass, held = problem.class_weight[labels], _held(p, problem.clip)
    cost = np.where(mass == 0, 0.0, mass * (0.0 - np.log(held)))
    row_loss[rows] = _weighted(problem.row_weight[rows], cost)
    if grad is not None:
        grad[rows, labels] = _slope(p, held, problem.row_weight[rows] * mass)


def _add_all_classes(problem: _Problem, row_loss: Float64Array, grad: FloatArray | None) -> None:
    for rows in _some_rows_at_a_time(*problem.probabilities.shape):
        p = problem.probabilities[rows].astype(np.float64)
        mass, held = _mass(problem, rows), _held(p, problem.clip)
        cost = np.where(mass == 0, 0.0, mass * (0.0 - np.log(held))).sum(axis=1)
        row_loss[rows] = _weighted(problem.row_weight[rows], cost)
        if grad is not None:
            row_weight = np.where(problem.counted[rows], problem.row_weight[rows], 0.0)
            mass *= row_weight[:, np.newaxis]
            grad[rows] = _slope(p, held, mass)


def _some_rows_at_a_time(rows: int, classes: int) -> Iterator[slice]:
    step = max(1, _NUMBERS_AT_ONCE // max(classes, 1))
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _mass(problem: _Problem, rows: slice) -> Float64Array:
    """w ((1 - E) t + E / C) of some rows."""
    smoothing, classes = problem.label_smoothing, problem.place.classes
    if problem.dense_targets is not None:
        shares = (1 - smoothing) * problem.dense_targets[rows].astype(np.float64)
    else:
        labels = cast(NDArray[np.intp], problem.labels)[rows]
        shares = np.zeros((len(labels), classes))
        shares[np.arange(len(labels)), labels] = 1 - smoothing
    mass: Float64Array = problem.class_weight * (shares + smoothing / classes)
    return mass


def _held(p: Float64Array, clip: float) -> Float64Array:
    return np.clip(p, clip, 1 - clip) if clip > 0 else p


def _weighted(weight: Float64Array, values: Float64Array) -> Float64Array:
    """weight * value, where 0 * inf = 0."""
    return np.where((weight == 0) & np.isinf(values), 0.0, weight * values)


def _slope(p: Float64Array, held: Float64Array, mass: Float64Array) -> Float64Array:
    """-q / p; 0 where there is no mass or `clip` holds p fast."""
    is_flat = (mass == 0) | ((held != p) & ~np.isnan(p))
    return np.where(is_flat, 0.0, -mass / held)
