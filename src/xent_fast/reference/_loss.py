"""The loss of logits and its gradient.

Knows: how mass, weight and softmax become each of them. Must not know: how those are made.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import (
    ChosenStatistics,
    LossAndChosenStatistics,
    LossAndGrad,
    LossAndStatistics,
    LossGradAndChosenStatistics,
    LossGradAndStatistics,
    RowStatistics,
)
from xent_fast.reference._entropy import entropies
from xent_fast.reference._rows import (
    Float64Array,
    Place,
    rows_of,
    written,
)
from xent_fast.reference._softmax_rows import (
    SoftmaxRows,
    mass_times_p_minus_mass,
    softmax_of,
    sum_of_products,
    weighted,
)
from xent_fast.reference._targets import (
    Targets,
    number,
    targets_of,
    temperature_of,
    upstream,
    weights,
)


def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    return_statistics: bool | Collection[str] = False,
    num_threads: SupportsIndex | None = None,
    **options: Any,
) -> float | Float64Array | LossAndStatistics[Any, Any] | LossAndChosenStatistics[Any, Any]:
    """The loss of logits."""
    problem = problem_of_logits(logits, targets, **options)
    loss, _ = loss_and_grad_of(problem)
    if not return_statistics:
        return loss
    statistics = _statistics(problem, return_statistics)
    if isinstance(statistics, ChosenStatistics):
        return LossAndChosenStatistics(loss, statistics)
    return LossAndStatistics(loss, statistics)


def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    return_statistics: bool | Collection[str] = False,
    num_threads: SupportsIndex | None = None,
    grad_output: ArrayLike | None = None,
    out: NDArray[np.floating[Any]] | None = None,
    **options: Any,
) -> (
    LossAndGrad[Any, Any] | LossGradAndStatistics[Any, Any] | LossGradAndChosenStatistics[Any, Any]
):
    """The loss of logits and its gradient."""
    problem = problem_of_logits(logits, targets, **options)
    loss, grad = loss_and_grad_of(problem, upstream(problem.place, grad_output, problem.reduction))
    result = LossAndGrad[Any, Any](loss, written(grad, out))
    if not return_statistics:
        return result
    statistics = _statistics(problem, return_statistics)
    if isinstance(statistics, ChosenStatistics):
        return LossGradAndChosenStatistics(result.loss, result.grad, statistics)
    return LossGradAndStatistics(result.loss, result.grad, statistics)


def softmax_loss(x: ArrayLike, y: ArrayLike) -> LossAndGrad[float, Any]:
    """The mean loss and its gradient, by the names that courses use."""
    return cast(LossAndGrad[float, Any], softmax_cross_entropy_grad(x, y))


def softmax_cross_entropy_grad_targets(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    scale: float = 1.0,
    grad_output: ArrayLike | None = None,
    num_threads: SupportsIndex | None = None,
) -> Float64Array:
    """The gradient with respect to dense targets: a w (1 - E) (lse - x)."""
    x, place = rows_of(logits, axis, "logits")
    temperature = temperature_of(temperature)
    zeros = np.zeros(place.shape)
    masses = targets_of(
        place, zeros, weight, sample_weight, None, label_smoothing, reduction, scale
    )
    a = masses.row_weight * upstream(place, grad_output, reduction)
    w = weights(weight, (place.classes,), "weight") * (1 - label_smoothing)
    with np.errstate(all="ignore"):
        rows = softmax_of(x, None, temperature)
        grad = weighted(a[:, np.newaxis] * w, rows.lse_minus_x)
    return place.restored(masses.finished(grad, rows.is_defined))


# --- once its arguments are rows ------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """The softmax of every row, and all that weighs it."""

    place: Place
    softmax: SoftmaxRows
    targets: Targets
    temperature: float
    z_loss: float
    reduction: str


def problem_of_logits(
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
    reduction: str = "mean",
    scale: float = 1.0,
) -> Problem:
    """A batch, its arguments checked: the options of every loss of logits, and their defaults."""
    x, place = rows_of(logits, axis, "logits")
    temperature, z_loss = temperature_of(temperature), number(z_loss, "z_loss")
    if math.isnan(z_loss):
        raise ValueError("z_loss must not be NaN")
    masses = targets_of(
        place, targets, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
    )
    with np.errstate(all="ignore"):
        softmax = softmax_of(x, masses.counted, temperature)
    return Problem(place, softmax, masses, temperature, z_loss, reduction)


def loss_and_grad_of(
    problem: Problem, grad_output: Float64Array | float = 1.0
) -> tuple[float | Float64Array, Float64Array]:
    """Both, of a batch's rows."""
    rows, masses, z = problem.softmax, problem.targets, problem.z_loss
    with np.errstate(all="ignore"):
        row_loss = sum_of_products(masses.mass, rows.lse_minus_x) + weighted(z, rows.lse**2)
        loss = masses.reduced(weighted(masses.row_weight, row_loss), rows.is_defined)
        grad = mass_times_p_minus_mass(masses.mass, rows)
        grad += weighted(2 * z, rows.lse)[:, np.newaxis] * rows.p
        grad *= (masses.row_weight * grad_output)[:, np.newaxis] / problem.temperature
    return loss, problem.place.restored(masses.finished(grad, rows.is_defined))


def _statistics(
    problem: Problem, asked: bool | Collection[str]
) -> RowStatistics[Any] | ChosenStatistics[Any]:
    """lse, prediction and whether it is right, of rows that count and have a softmax; or others."""
    rows, masses = problem.softmax, problem.targets
    is_known = rows.is_defined & masses.counted
    prediction = np.where(is_known, rows.largest[:, 0], -1)
    usual = RowStatistics(
        problem.place.per_row(np.where(is_known, rows.lse, np.nan)),
        problem.place.per_row(prediction),
        problem.place.per_row(prediction == masses.target_class),
    )
    if not isinstance(asked, Collection):
        return usual
    target_class = masses.target_class[:, np.newaxis]
    log_p = -np.take_along_axis(rows.lse_minus_x, target_class, axis=1)[:, 0]
    found: dict[str, Any] = {
        **usual._asdict(),
        "entropy": problem.place.per_row(np.where(is_known, entropies(rows), np.nan)),
        "target_log_probability": problem.place.per_row(np.where(is_known, log_p, np.nan)),
    }
    names = [asked] if isinstance(asked, str) else asked
    return ChosenStatistics(**{name: found[name] for name in names})
