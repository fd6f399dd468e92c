"""Types of `_loss.pyx`: what a result is, by the logits' dtype, `reduction` and statistics."""

from collections.abc import Collection
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import (
    FloatT,
    LossAndChosenStatistics,
    LossAndGrad,
    LossAndStatistics,
    LossGradAndChosenStatistics,
    LossGradAndStatistics,
)

_FloatArray = NDArray[np.floating[Any]]

@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    return_statistics: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
) -> float: ...
@overload
def softmax_cross_entropy(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
) -> NDArray[FloatT]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
) -> _FloatArray: ...
@overload
def softmax_cross_entropy(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
) -> LossAndStatistics[float, FloatT]: ...
@overload
def softmax_cross_entropy(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
) -> LossAndStatistics[NDArray[FloatT], FloatT]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
) -> LossAndStatistics[float, np.floating[Any]]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
) -> LossAndStatistics[_FloatArray, np.floating[Any]]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    return_statistics: Collection[str],
    num_threads: SupportsIndex | None = None,
) -> LossAndChosenStatistics[Any, Any]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    return_statistics: bool | Collection[str],
    num_threads: SupportsIndex | None = None,
) -> float | _FloatArray | LossAndStatistics[Any, Any] | LossAndChosenStatistics[Any, Any]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    return_statistics: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossAndGrad[float, FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    return_statistics: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossAndGrad[float, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[False] = False,
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossAndGrad[_FloatArray, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossGradAndStatistics[float, FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossGradAndStatistics[NDArray[FloatT], FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossGradAndStatistics[float, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    return_statistics: Literal[True],
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossGradAndStatistics[_FloatArray, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    return_statistics: Collection[str],
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> LossGradAndChosenStatistics[Any, Any]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    return_statistics: bool | Collection[str],
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: _FloatArray | None = None,
) -> (
    LossAndGrad[Any, Any] | LossGradAndStatistics[Any, Any] | LossGradAndChosenStatistics[Any, Any]
): ...
@overload
def softmax_loss(x: NDArray[FloatT], y: ArrayLike) -> LossAndGrad[float, FloatT]: ...
@overload
def softmax_loss(x: ArrayLike, y: ArrayLike) -> LossAndGrad[float, np.floating[Any]]: ...
