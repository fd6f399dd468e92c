"""The loss of a linear layer's logits.

Knows: the layer's formula. Must not know: that of the loss.
"""

import math
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import LinearLossAndGrad
from xent_fast.reference._loss import softmax_cross_entropy, softmax_cross_entropy_grad
from xent_fast.reference._rows import Float64Array


def linear_softmax_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    chunk_rows: SupportsIndex | None = None,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
    **options: Any,
) -> Any:
    """The loss of hidden @ weight.T + bias."""
    logits = _logits_of_layer(hidden, weight, bias)
    return softmax_cross_entropy(
        logits,
        targets,
        weight=class_weight,
        **options,
    )


def linear_softmax_cross_entropy_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: str = "mean",
    chunk_rows: SupportsIndex | None = None,
    grad_hidden_out: NDArray[np.floating[Any]] | None = None,
    grad_weight_out: NDArray[np.floating[Any]] | None = None,
    grad_bias_out: NDArray[np.floating[Any]] | None = None,
    accumulate: bool = False,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
    **options: Any,
) -> LinearLossAndGrad[Any, Any]:
    """That loss and its gradients, in float64 or in the outputs that are given.

    An ignored row takes no part, whatever `hidden` holds there.
    """
    logits = _logits_of_layer(hidden, weight, bias)
    result = softmax_cross_entropy_grad(
        logits,
        targets,
        weight=class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        **options,
    )
    loss, grad = result.loss, result.grad
    h, w = np.asarray(hidden, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    if ignore_index is not None:
        h = np.where((np.asarray(targets) == ignore_index)[..., np.newaxis], 0, h)
    if reduction == "mean" and math.isnan(result.loss) and not grad.any():
        h, w = np.zeros_like(h), np.zeros_like(w)  # nothing to average: exact zeros, as in the loss
    rows = math.prod(h.shape[:-1])
    grad_rows = grad.reshape(rows, len(w))
    sums = [
        (grad_hidden_out, grad @ w),
        (grad_weight_out, grad_rows.T @ h.reshape(rows, h.shape[-1])),
        (grad_bias_out, grad_rows.sum(axis=0)),
    ]
    results = [_given_or_new(out, total, accumulate) for out, total in sums]
    return LinearLossAndGrad(loss, results[0], results[1], None if bias is None else results[2])


def _logits_of_layer(hidden: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> Float64Array:
    h, w = np.asarray(hidden, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    return h @ w.T + (0.0 if bias is None else np.asarray(bias, dtype=np.float64))


def _given_or_new(
    out: NDArray[np.floating[Any]] | None, total: Float64Array, accumulate: bool
) -> NDArray[np.floating[Any]]:
    """The sum in its place, added to what is there if that is asked for."""
    if out is None:
        return total
    out[...] = total + out if accumulate else total
    return out
