"""Classes shared out: a range's statistics are the range itself.

Knows: how ranges become whole rows. Must not know: the formula of the loss.
"""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import LossAndGrad
from xent_fast.reference._loss import softmax_cross_entropy, softmax_cross_entropy_grad
from xent_fast.reference._rows import Float64Array


@dataclass(frozen=True)
class ClassStatistics:
    """Rows of a range of classes, with the classes last."""

    first_class: int
    logits: Float64Array
    targets: NDArray[Any]
    weight: Float64Array | None
    options: dict[str, Any]


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
    out: NDArray[np.floating[Any]] | None = None,
) -> ClassStatistics:
    """What a range of classes says of each row: here the range as it is."""
    x = np.moveaxis(np.array(logits, dtype=np.float64), operator.index(axis), -1)
    if out is not None:
        out[...] = np.exp(logits)
    given = np.asarray(targets)
    if given.ndim == x.ndim:
        given = np.moveaxis(given, operator.index(axis), -1)
    rows = math.prod(x.shape[:-1])
    options = {"temperature": temperature, "label_smoothing": label_smoothing}
    return ClassStatistics(
        operator.index(first_class),
        x.reshape(rows, x.shape[-1]),
        given.reshape(rows, x.shape[-1]) if given.ndim == x.ndim else given.reshape(rows),
        None if weight is None else np.asarray(weight, dtype=np.float64),
        {**options, "ignore_index": ignore_index},
    )


def merge_class_statistics(statistics: Iterable[ClassStatistics]) -> ClassStatistics:
    """Those of several ranges: their classes side by side."""
    parts = sorted(statistics, key=lambda part: (part.first_class, part.logits.shape[1]))
    first = parts[0]
    weights = [part.weight for part in parts if part.weight is not None]
    targets = first.targets
    if targets.ndim == 2:
        targets = np.concatenate([part.targets for part in parts], axis=1)
    return replace(
        first,
        logits=np.concatenate([part.logits for part in parts], axis=1),
        targets=targets,
        weight=np.concatenate(weights) if weights else None,
    )


def loss_from_statistics(
    statistics: ClassStatistics,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: str = "none",
    scale: float = 1.0,
) -> Any:
    """The loss of the whole rows."""
    return softmax_cross_entropy(
        statistics.logits,
        statistics.targets,
        weight=statistics.weight,
        sample_weight=sample_weight,
        z_loss=z_loss,
        reduction=reduction,
        scale=scale,
        **statistics.options,
    )


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
    reduction: str = "sum",
    scale: float = 1.0,
    has_exponentials: bool = False,
    out: NDArray[np.floating[Any]] | None = None,
) -> LossAndGrad[Any, Any]:
    """The loss of the whole rows, and the range's part of its gradient."""
    result = softmax_cross_entropy_grad(
        statistics.logits,
        statistics.targets,
        weight=statistics.weight,
        sample_weight=sample_weight,
        z_loss=z_loss,
        reduction=reduction,
        scale=scale,
        **statistics.options,
    )
    moved = np.moveaxis(np.asarray(logits), operator.index(axis), -1)
    start = operator.index(first_class) - statistics.first_class
    part = result.grad[:, start : start + moved.shape[-1]].reshape(moved.shape)
    grad = np.moveaxis(part, -1, operator.index(axis))
    if out is None:
        return LossAndGrad(result.loss, grad)
    out[...] = grad
    return LossAndGrad(result.loss, out)
