"""The cross-entropy of probabilities as given.

Knows: its formula. Must not know: logits.
"""

from __future__ import annotations

from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import LossAndGrad
from xent_fast.reference._rows import (
    Float64Array,
    rows_of,
    written,
)
from xent_fast.reference._softmax_rows import (
    sum_of_products,
    weighted,
)
from xent_fast.reference._targets import (
    number,
    targets_of,
)


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
    reduction: str = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float | Float64Array:
    """`xent_fast.cross_entropy` in float64: -sum q log p, of probabilities as given.

    Parameters
    ----------
    probabilities : array_like
        Any shape with at least one axis. They need not sum to 1.
    targets, axis, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
        As for `softmax_cross_entropy`.
    clip : float in [0, 0.5), default 0.0
        Probabilities below it count as `clip`, those above ``1 - clip`` as that; by default, as
        they are, so that p = 0 costs +inf.
    num_threads
        Not used.

    Returns
    -------
    float or ndarray of the probabilities' shape without the class axis, float64
        The loss. A class without mass costs 0, whatever its probability is.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`; also if `clip` is outside its domain.
    """
    loss, _ = cross_entropy_grad(
        probabilities,
        targets,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        clip=clip,
        reduction=reduction,
        scale=scale,
    )
    return cast(float | Float64Array, loss)


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
    reduction: str = "mean",
    scale: float = 1.0,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[Any, Any]:
    """`xent_fast.cross_entropy_grad` in float64: the gradient with respect to p is -q / p.

    Parameters
    ----------
    probabilities, targets, axis, weight, sample_weight, ignore_index, label_smoothing, clip, \
    reduction, scale
        As for `cross_entropy`.
    num_threads
        Not used.
    out : ndarray of the probabilities' shape, optional
        Takes the gradient, rounded to its dtype.

    Returns
    -------
    loss : float or ndarray, float64
        As of `cross_entropy`.
    grad : ndarray of the probabilities' shape
        A new float64 array, or `out`. The slope of the loss: where `clip` holds a probability fast
        it is 0.

    Raises
    ------
    IndexError, ValueError
        As for `cross_entropy`.
    """
    p, place = rows_of(probabilities, axis, "probabilities")
    clip = number(clip, "clip")
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must be in [0, 0.5), not {clip}")
    masses = targets_of(
        place, targets, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
    )
    if ((p < -1e-3) | (p > 1 + 1e-3))[masses.counted].any():
        raise ValueError("probabilities must be in [0, 1]")
    with np.errstate(all="ignore"):
        held = np.clip(p, clip, 1 - clip) if clip > 0 else p
        row_loss = sum_of_products(masses.mass, -np.log(held))
        loss = masses.reduced(weighted(masses.row_weight, row_loss))
        q = masses.mass * masses.row_weight[:, np.newaxis]
        grad = np.where((q == 0) | (held != p) & ~np.isnan(p), 0.0, -q / held)
        grad = masses.finished(grad)
    return LossAndGrad(loss, written(place.restored(grad), out))
