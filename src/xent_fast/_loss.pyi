"""Types of `_loss.pyx`: what a result is, by the logits' dtype, `reduction` and statistics."""

from collections.abc import Collection
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._options import GradOptions, LossOptions
from xent_fast._result import (
    FloatArray,
    FloatT,
    LossAndChosenStatistics,
    LossAndGrad,
    LossAndStatistics,
    LossGradAndChosenStatistics,
    LossGradAndStatistics,
)

@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_statistics: Literal[False] = False,
    **options: Unpack[LossOptions],
) -> float: ...
@overload
def softmax_cross_entropy(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[False] = False,
    **options: Unpack[LossOptions],
) -> NDArray[FloatT]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[False] = False,
    **options: Unpack[LossOptions],
) -> FloatArray: ...
@overload
def softmax_cross_entropy(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_statistics: Literal[True],
    **options: Unpack[LossOptions],
) -> LossAndStatistics[float, FloatT]: ...
@overload
def softmax_cross_entropy(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[True],
    **options: Unpack[LossOptions],
) -> LossAndStatistics[NDArray[FloatT], FloatT]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_statistics: Literal[True],
    **options: Unpack[LossOptions],
) -> LossAndStatistics[float, np.floating[Any]]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[True],
    **options: Unpack[LossOptions],
) -> LossAndStatistics[FloatArray, np.floating[Any]]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_statistics: Collection[str],
    **options: Unpack[LossOptions],
) -> LossAndChosenStatistics[Any, Any]: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_statistics: bool | Collection[str],
    **options: Unpack[LossOptions],
) -> float | FloatArray | LossAndStatistics[Any, Any] | LossAndChosenStatistics[Any, Any]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_statistics: Literal[False] = False,
    **options: Unpack[GradOptions],
) -> LossAndGrad[float, FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[False] = False,
    **options: Unpack[GradOptions],
) -> LossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_statistics: Literal[False] = False,
    **options: Unpack[GradOptions],
) -> LossAndGrad[float, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[False] = False,
    **options: Unpack[GradOptions],
) -> LossAndGrad[FloatArray, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_statistics: Literal[True],
    **options: Unpack[GradOptions],
) -> LossGradAndStatistics[float, FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[True],
    **options: Unpack[GradOptions],
) -> LossGradAndStatistics[NDArray[FloatT], FloatT]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_statistics: Literal[True],
    **options: Unpack[GradOptions],
) -> LossGradAndStatistics[float, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_statistics: Literal[True],
    **options: Unpack[GradOptions],
) -> LossGradAndStatistics[FloatArray, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_statistics: Collection[str],
    **options: Unpack[GradOptions],
) -> LossGradAndChosenStatistics[Any, Any]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_statistics: bool | Collection[str],
    **options: Unpack[GradOptions],
) -> (
    LossAndGrad[Any, Any] | LossGradAndStatistics[Any, Any] | LossGradAndChosenStatistics[Any, Any]
): ...
@overload
def softmax_loss(x: NDArray[FloatT], y: ArrayLike) -> LossAndGrad[float, FloatT]: ...
@overload
def softmax_loss(x: ArrayLike, y: ArrayLike) -> LossAndGrad[float, np.floating[Any]]: ...
