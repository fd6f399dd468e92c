"""Cross-entropy of probabilities as given, and its gradient: the textbook's two steps, in NumPy.

Knows: the formula, targets and options of a loss. Must not know: where probabilities come from.

It is here to be compared with the fused functions, which are faster, more accurate and do not break
where a probability rounds to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, loss_calls, options
from xent_fast._result import FloatArray, FloatT, LossAndGrad

if TYPE_CHECKING:
    from xent_fast._options import ProbabilityGradOptions, ProbabilityOptions

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
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[ProbabilityOptions],
) -> float: ...
@overload
def cross_entropy(
    probabilities: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[ProbabilityOptions],
) -> NDArray[FloatT]: ...
@overload
def cross_entropy(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[ProbabilityOptions],
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
    :math:`y` and 0 elsewhere), class weights :math:`w` and label smoothing :math:`\varepsilon`
    among :math:`C` classes has the loss

    .. math::

        -\sum_c q_c \log p_c, \qquad
        q_c = a \, w_c \bigl((1 - \varepsilon) \, t_c + \varepsilon / C\bigr)

    in nats, where :math:`a` is the row's weight: ``scale``, times its ``sample_weight`` if given,
    divided for ``reduction="mean"`` by the sum described there.

    For probabilities that a softmax made, `softmax_cross_entropy` of its logits is faster and more
    accurate, and finite where a probability has rounded to 0.

    Parameters
    ----------
    probabilities : array_like, float32, float64, float16 or bfloat16 (of ml_dtypes)
        Numbers in [0, 1], of any shape with at least one axis and any memory layout. Rows need not
        sum to 1. What is more than 0.001 outside, as logits are, is an error: this is not PyTorch's
        function of the same name, which takes logits; that is `softmax_cross_entropy` here.
    targets : array_like of the probabilities' shape, or that without the class axis
        Either class indices, one integer a row, or dense targets, one number a probability, which
        need not sum to 1. Integers and booleans do as dense targets where there are two dimensions
        or more.
    axis : int, default -1
        The class axis.
    weight : array_like of shape (classes,), optional
        Real numbers that multiply the targets of each class. Negative ones are refused for class
        indices with ``reduction="mean"``.
    sample_weight : array_like of the probabilities' shape without the class axis, optional
        Real numbers that multiply each row's loss. Negative ones are refused with
        ``reduction="mean"``; ``reduction="sum", scale=1 / rows`` takes them as given.
    ignore_index : int, optional
        Rows whose class index equals this number do not count: their loss is 0, and the mean leaves
        them out. By default no row is ignored.
    label_smoothing : float in [0, 1], default 0.0
        The share of the targets that is spread evenly over all classes.
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
        In nats. A float for ``"mean"`` and ``"sum"``. For ``"none"`` an array of the
        probabilities' dtype, of float32 where that has 16 bits. Everything is computed in double.

    Raises
    ------
    IndexError
        If a class index is neither in [0, classes) nor `ignore_index`.
    TypeError
        If an argument has the wrong type or dtype: probabilities that are no floats of 16, 32 or 64
        bits, class indices that are not integers, dense targets that are no real numbers, a masked
        array.
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
    A class with :math:`q_c = 0` costs 0, whatever its probability is. The mean over nothing (no
    rows, all rows ignored, weights that sum to 0) is NaN.

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
    batch = _settled(
        probabilities, targets, axis, weight, sample_weight, ignore_index, label_smoothing, clip,
        reduction, scale, None, num_threads,
    )  # fmt: skip
    return _loss_and_grad(batch, reduction, None)


@overload
def cross_entropy_grad(
    probabilities: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[ProbabilityGradOptions],
) -> LossAndGrad[float, FloatT]: ...
@overload
def cross_entropy_grad(
    probabilities: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[ProbabilityGradOptions],
) -> LossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def cross_entropy_grad(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[ProbabilityGradOptions],
) -> LossAndGrad[float, np.floating[Any]]: ...
@overload
def cross_entropy_grad(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[ProbabilityGradOptions],
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

    With :math:`q` of `cross_entropy`, the gradient of the row losses' sum with respect to
    the probabilities is

    .. math:: -q_c / p_c

    and 0 where `clip` holds a probability fast.

    Parameters
    ----------
    probabilities, targets, axis, weight, sample_weight, ignore_index, label_smoothing, clip
        As for `cross_entropy`.
    reduction, scale, num_threads
        As for `cross_entropy`.
    out : ndarray of the probabilities' shape and dtype, optional
        Where the gradient is written: `probabilities` themselves, or an array, also of float32 for
        probabilities of 16 bits, that shares no memory with them. The probabilities must then be an
        ndarray. By default a new array.

    Returns
    -------
    loss : float or ndarray of the probabilities' shape without the class axis
        In nats, as for `cross_entropy`.
    grad : ndarray of the probabilities' shape
        Of the probabilities' dtype, in nats, rounded to it once; `out` if it was given. For
        ``reduction="none"`` each row holds the gradient of its own loss.

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
    A class with :math:`q_c = 0` has the gradient 0, whatever its probability is; so has an ignored
    row, and everything where the loss is NaN because the mean would divide by 0.

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
    batch = _settled(
        probabilities, targets, axis, weight, sample_weight, ignore_index, label_smoothing, clip,
        reduction, scale, out, num_threads,
    )  # fmt: skip
    rows: FloatArray = np.empty(
        batch.rows.shape, batch.rows.dtype if out is None else out.dtype.type
    )
    loss = _loss_and_grad(batch, reduction, rows)
    grad = np.moveaxis(rows.reshape(*batch.row_shape, rows.shape[1]), -1, batch.axis)
    result = LossAndGrad[Any, Any](loss, grad if out is None else out)
    if out is not None:
        np.copyto(out, grad)  # the only write to it, after which nothing can fail
    return result


class _Batch(NamedTuple):
    """Checked arguments, as rows."""

    axis: int
    row_shape: tuple[int, ...]
    rows: FloatArray  # the probabilities
    targets: NDArray[Any]  # class indices, one a row, or dense ones
    counted: NDArray[np.bool_]  # the rows that count
    class_weight: Float64Array | float
    row_weight: Float64Array  # over the mean's denominator
    label_smoothing: float
    clip: float
    is_void: bool  # a mean over nothing


def _settled(
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
) -> _Batch:
    """Everything checked, by the loss's own checks; nothing is written."""
    p = arguments.checked_floats(probabilities, "probabilities", out)
    place = arguments.checked_axis(axis, p, "probabilities")
    clip = options.checked_number(clip, "clip")
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must be in [0, 0.5), not {clip}")
    if out is not None:
        arguments.checked_output(out, p, "probabilities")
    settled, class_weight, row_weight, factor = loss_calls.settle_batch(
        p.shape, np.float64, targets, weight, sample_weight, ignore_index, label_smoothing, 1.0,
        0.0, reduction, scale, num_threads, place, "probabilities", "weight",
    )  # fmt: skip
    moved = np.moveaxis(p, place, -1)
    rows = moved.reshape(moved.size // max(p.shape[place], 1), p.shape[place])
    counted = np.ones(len(rows), dtype=bool)
    if ignore_index is not None:
        counted = np.asarray(settled != options.checked_integer(ignore_index, "ignore_index"))
    _check_probabilities(rows, counted, moved.shape[:-1], place)
    with np.errstate(all="ignore"):
        each = np.full(len(rows), 0.0 if factor is None else factor)
        each *= np.where(counted, 1.0 if row_weight is None else row_weight, 0.0)
    return _Batch(
        place,
        moved.shape[:-1],
        rows,
        settled,
        counted,
        1.0 if class_weight is None else class_weight,
        each,
        float(label_smoothing),
        clip,
        factor is None,
    )


def _check_probabilities(
    rows: FloatArray, counted: NDArray[np.bool_], row_shape: tuple[int, ...], axis: int
) -> None:
    """No probability of a row that counts is outside [0, 1]; NaN is not outside."""
    for some in _some_rows_at_a_time(*rows.shape):
        outside = (rows[some] < -_ROUNDING) | (rows[some] > 1 + _ROUNDING)
        outside &= counted[some, np.newaxis]
        if outside.any():
            row, column = (int(i) for i in np.argwhere(outside)[0])
            row += some.start
            where = [int(i) for i in np.unravel_index(row, row_shape)]
            where.insert(axis, column)
            raise ValueError(
                f"probabilities must be in [0, 1]; probabilities[{', '.join(map(str, where))}] is "
                f"{rows[row, column]}; for logits use softmax_cross_entropy or "
                "softmax_cross_entropy_grad"
            )


def _some_rows_at_a_time(rows: int, classes: int) -> Iterator[slice]:
    step = max(1, _NUMBERS_AT_ONCE // max(classes, 1))
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _loss_and_grad(
    batch: _Batch, reduction: Literal["mean", "sum", "none"], grad: FloatArray | None
) -> float | FloatArray:
    """The loss; the gradient goes to `grad`, as rows, unless that is None."""
    losses = np.zeros(len(batch.rows))
    with np.errstate(all="ignore"):
        for some in _some_rows_at_a_time(*batch.rows.shape):
            p, weight = batch.rows[some].astype(np.float64), batch.row_weight[some]
            mass = _mass(batch, some)
            held = np.clip(p, batch.clip, 1 - batch.clip) if batch.clip > 0 else p
            cost = np.where(mass == 0, 0.0, mass * (0.0 - np.log(held))).sum(axis=1)
            is_nothing = ~batch.counted[some] | ((weight == 0) & np.isinf(cost))  # 0 * inf = 0
            losses[some] = np.where(is_nothing, 0.0, weight * cost)
            if grad is not None:
                mass *= weight[:, np.newaxis]
                is_flat = (mass == 0) | ((held != p) & ~np.isnan(p))
                grad[some] = np.where(is_flat, 0.0, -mass / held)
        if reduction == "none":
            dtype = arguments.computed_dtype(batch.rows)
            return losses.astype(dtype).reshape(batch.row_shape)
    return float("nan") if batch.is_void else float(losses.sum())


def _mass(batch: _Batch, some: slice) -> Float64Array:
    """w ((1 - E) t + E / C) of some rows."""
    targets, smoothing, classes = batch.targets[some], batch.label_smoothing, batch.rows.shape[1]
    if targets.ndim == 1:
        labels = np.where(batch.counted[some], targets, 0).astype(np.intp)
        targets = np.zeros((len(labels), classes))
        targets[np.arange(len(labels)), labels] = 1.0
    shares = (1 - smoothing) * targets.astype(np.float64)
    mass: Float64Array = batch.class_weight * (shares + smoothing / classes)
    return mass
