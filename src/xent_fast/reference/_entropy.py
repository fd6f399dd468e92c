"""The entropy of softmax, and its gradient.

Knows: the two formulas. Must not know: losses, how a softmax is computed.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import EntropyAndGrad
from xent_fast.reference._rows import Float64Array, Place, rows_of, written
from xent_fast.reference._softmax_rows import SoftmaxRows, softmax_of
from xent_fast.reference._targets import Targets, targets_of, temperature_of, upstream


def entropies(rows: SoftmaxRows) -> Float64Array:
    """H = sum_c p_c (lse - x_c) of every row: no term is negative."""
    with np.errstate(all="ignore"):
        terms = np.where(rows.p > 0, rows.p * rows.lse_minus_x, 0.0)
    return np.where(rows.is_defined, terms.sum(axis=1), np.nan)


def softmax_entropy(logits: ArrayLike, **options: Any) -> float | Float64Array:
    """The entropy, -sum p log p."""
    both: EntropyAndGrad[Any, Any] = softmax_entropy_grad(logits, **options)
    entropy: float | Float64Array = both.entropy
    return entropy


def softmax_entropy_grad(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    sample_weight: ArrayLike | None = None,
    temperature: float = 1.0,
    reduction: str = "mean",
    scale: float = 1.0,
    grad_output: ArrayLike | None = None,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> EntropyAndGrad[Any, Any]:
    """The entropy and its gradient, -p (log p + H) / T."""
    x, place = rows_of(logits, axis, "logits")
    temperature = temperature_of(temperature)
    weights = row_weights(place, sample_weight, reduction, scale)
    with np.errstate(all="ignore"):
        rows = softmax_of(x, None, temperature)
        entropy = entropies(rows)
        entropy_of_batch = weights.reduced(weights.row_weight * entropy, rows.is_defined)
        # log p + H = -(distance from m) / T + sum p distance / T, in which lse cancels
        distance = rows.lse_minus_x - rows.lse_minus_x.min(axis=1, keepdims=True, initial=np.inf)
        mean = np.where(rows.p > 0, rows.p * distance, 0.0).sum(axis=1, keepdims=True)
        grad = np.where(rows.p > 0, rows.p * (distance - mean), 0.0)
        grad *= (weights.row_weight * upstream(place, grad_output, reduction))[:, np.newaxis]
        grad /= temperature
    finished = place.restored(weights.finished(grad, rows.is_defined))
    return EntropyAndGrad(entropy_of_batch, written(finished, out))


def row_weights(
    place: Place, sample_weight: ArrayLike | None, reduction: str, scale: float
) -> Targets:
    """What a reduction makes of rows whose targets are dense and do not matter."""
    zeros = np.zeros(place.shape)
    return targets_of(place, zeros, None, sample_weight, None, 0.0, reduction, scale)
