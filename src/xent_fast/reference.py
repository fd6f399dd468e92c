"""The definition: the public functions in plain float64 NumPy, clear and accurate, not fast.

A row has logits x, targets t, one number a class (of a class index y: 1 at y and 0 elsewhere), and
a weight a:

    m = max x     S = sum exp(x - m)     lse = m + log S     p = exp(x - lse) = exp(x - m) / S
    loss = a sum t_c (lse - x_c)         grad = a (p_c sum t_k - t_c)

Neither is computed by subtracting nearly equal numbers. With R = S - 1 the exponentials of all
classes but the largest logit's, and e_c = exp(x_c - m),

    lse - x_c = (m - x_c) + log1p(R)     grad = a (e_c sum_{k != c} t_k - t_c sum_{k != c} e_k) / S

so that both stay accurate to a few units in the last place however small they are (the gradient of
dense targets as far as its two terms do not cancel by themselves).

Knows: the mathematics and its special cases. Must not know: the compiled module. Nothing in the
package imports it.
"""

from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import LossAndGrad

Float64Array = NDArray[np.float64]


def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: str = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float | Float64Array:
    """`xent_fast.softmax_cross_entropy` in float64.

    Parameters
    ----------
    logits, targets, sample_weight, ignore_index, reduction, scale
        As for `xent_fast.softmax_cross_entropy`.
    num_threads
        Not used.

    Returns
    -------
    float or ndarray of shape (rows,), float64
        The loss. Row losses are not rounded to the logits' dtype.

    Raises
    ------
    IndexError, ValueError
        If a class index is out of bounds, shapes do not fit together or `reduction` is unknown.
    """
    loss, _ = softmax_cross_entropy_grad(
        logits,
        targets,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        scale=scale,
    )
    return cast(float | Float64Array, loss)


def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: str = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
    out: NDArray[np.floating[Any]] | None = None,
) -> LossAndGrad[Any]:
    """`xent_fast.softmax_cross_entropy_grad` in float64.

    Parameters
    ----------
    logits, targets, sample_weight, ignore_index, reduction, scale
        As for `xent_fast.softmax_cross_entropy_grad`.
    num_threads
        Not used.
    out : ndarray of shape (rows, classes), optional
        Takes the gradient, rounded to its dtype. May be `logits`.

    Returns
    -------
    loss : float or ndarray of shape (rows,), float64
        As of `softmax_cross_entropy`.
    grad : ndarray of shape (rows, classes)
        A new float64 array, or `out`.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`.
    """
    x = np.asarray(logits, dtype=np.float64)
    if x.ndim != 2 or (x.shape[0] > 0 and x.shape[1] == 0):
        raise ValueError(
            f"logits must have shape (rows, classes) and at least one class, not shape {x.shape}"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    counted, t = _targets_of_every_class(np.asarray(targets), x, ignore_index)
    weight = (
        np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    )
    if weight.shape != (len(x),):
        raise ValueError(f"sample_weight must have shape ({len(x)},), not {weight.shape}")

    denominator = float(weight[counted].sum()) if reduction == "mean" else 1.0
    if denominator == 0:
        loss: float | Float64Array = np.nan
        grad = np.zeros_like(x)
    else:
        row_loss, grad = _row_loss_and_grad(x, t, weight * (scale / denominator), counted)
        loss = row_loss if reduction == "none" else float(row_loss.sum())
    if out is None:
        return LossAndGrad(loss, grad)
    with np.errstate(over="ignore", under="ignore"):
        np.copyto(out, grad, casting="same_kind")
    return LossAndGrad(loss, out)


def softmax_loss(x: ArrayLike, y: ArrayLike) -> LossAndGrad[float]:
    """`xent_fast.softmax_loss` in float64.

    Parameters
    ----------
    x, y : array_like
        As for `xent_fast.softmax_loss`.

    Returns
    -------
    loss : float
        Mean loss over the batch.
    dx : ndarray of shape (rows, classes), float64
        Gradient of the loss with respect to `x`.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`.
    """
    return softmax_cross_entropy_grad(x, y)


def _targets_of_every_class(
    targets: NDArray[Any], x: Float64Array, ignore_index: SupportsIndex | None
) -> tuple[NDArray[np.bool_], Float64Array]:
    """Which rows count, and the targets as one number a class: zeros in a row that does not."""
    rows, classes = x.shape
    if targets.ndim == 2:
        if targets.shape != x.shape:
            raise ValueError(
                f"dense targets must have the logits' shape {x.shape}, not {targets.shape}"
            )
        if ignore_index is not None:
            raise ValueError("ignore_index needs targets that are class indices")
        return np.ones(rows, dtype=bool), targets.astype(np.float64)
    if targets.shape != (rows,):
        raise ValueError(f"targets must have shape ({rows},) or {x.shape}, not {targets.shape}")
    counted = np.ones(rows, dtype=bool)
    if ignore_index is not None:
        counted = targets != int(ignore_index)
    out_of_bounds = counted & ((targets < 0) | (targets >= classes))
    if out_of_bounds.any():
        row = int(np.argmax(out_of_bounds))
        raise IndexError(
            f"index {targets[row]} is out of bounds for axis 1 with size {classes} (targets[{row}])"
        )
    one_hot = np.zeros_like(x)
    one_hot[counted, targets[counted].astype(np.intp)] = 1.0
    return counted, one_hot


def _row_loss_and_grad(
    x: Float64Array, t: Float64Array, a: Float64Array, counted: NDArray[np.bool_]
) -> tuple[Float64Array, Float64Array]:
    """Loss and gradient of every row: 0 where it does not count, NaN where it has no softmax."""
    if len(x) == 0:
        return np.zeros(0), np.zeros_like(x)
    x = np.where(counted[:, np.newaxis], x, 0.0)  # an ignored row is not read
    has_softmax = np.isfinite(x.max(axis=1))  # no NaN, no +inf, not all -inf
    x = np.where(has_softmax[:, np.newaxis], x, 0.0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        unweighted_loss, unweighted_grad = _unweighted_loss_and_grad(x, t)
        loss = np.where(
            (a == 0) & np.isinf(unweighted_loss), 0.0, a * unweighted_loss
        )  # 0 * inf = 0
        grad = a[:, np.newaxis] * unweighted_grad
    loss[~has_softmax] = np.nan
    grad[~has_softmax] = np.nan
    loss[~counted] = 0.0
    grad[~counted] = 0.0
    return loss, grad


def _unweighted_loss_and_grad(
    x: Float64Array, t: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Loss and gradient of rows with a finite maximum and the weight 1."""
    largest = x.argmax(axis=1, keepdims=True)
    m = np.take_along_axis(x, largest, axis=1)
    exponentials = _exp_of_difference(x, m)
    sum_of_other_exponentials = _sum_of_others(exponentials)
    r = np.take_along_axis(sum_of_other_exponentials, largest, axis=1)
    lse_minus_x = (m - x) + np.log1p(r)
    loss = np.where(t == 0, 0.0, t * lse_minus_x).sum(axis=1)  # 0 * inf = 0
    grad = (_sum_of_others(t) * exponentials - t * sum_of_other_exponentials) / (1.0 + r)
    return loss, grad


def _exp_of_difference(x: Float64Array, m: Float64Array) -> Float64Array:
    """exp(x - m) to about one unit in the last place, however far x lies below m.

    x - m = d + e exactly, where d is the rounded difference and e its rounding error (Knuth's
    TwoSum), and exp(d + e) = exp(d) (1 + e) but for e**2 < 1e-26 wherever exp(d) is not 0.
    """
    d = x - m
    m_recovered = x - d
    e = (x - (d + m_recovered)) + (m_recovered - m)
    return np.exp(d) * (1.0 + np.where(np.isfinite(e), e, 0.0))


def _sum_of_others(values: Float64Array) -> Float64Array:
    """For every entry the sum of the others in its row, accurate where no entry is negative.

    The row's sum minus the entry cancels only for an entry beyond half the sum, which only the
    largest can be: its others are added up themselves.
    """
    rows = np.arange(len(values))
    largest = values.argmax(axis=1)
    without_largest = values.copy()
    without_largest[rows, largest] = 0.0
    sum_without_largest = without_largest.sum(axis=1)
    row_sum = values[rows, largest] + sum_without_largest
    sum_of_others: Float64Array = row_sum[:, np.newaxis] - values
    sum_of_others[rows, largest] = sum_without_largest
    return sum_of_others
