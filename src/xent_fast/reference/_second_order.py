"""The second order of the loss of logits.

Knows: how mass, weight and softmax become its Hessian. Must not know: how those are made.
"""

from __future__ import annotations

import math
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import LossGradAndHessian
from xent_fast.reference._loss import Problem, loss_and_grad_of, problem_of_logits
from xent_fast.reference._rows import Float64Array, alike, written
from xent_fast.reference._softmax_rows import weighted


def softmax_cross_entropy_hvp(
    logits: ArrayLike,
    targets: ArrayLike,
    vector: ArrayLike,
    *,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
    **options: Any,
) -> NDArray[np.floating[Any]]:
    """The loss's Hessian times a vector.

    With A = Q + 2 a z lse, (A p (v - p.v) + 2 a z p (p.v)) / T^2 in every row.
    """
    problem = problem_of_logits(logits, targets, **options)
    v = alike(vector, problem.place, "vector", "logits")
    with np.errstate(all="ignore"):
        rows, z = problem.softmax, 2 * problem.z_loss
        # v - p.v is the same for v and v + constant: it is taken from the likeliest class's entry,
        # whose probability may be near 1, so that p.v does not round the others' shares away.
        v_of_largest = np.take_along_axis(v, rows.largest, axis=1)
        from_largest = v - v_of_largest
        mean_from_largest = (rows.p * from_largest).sum(axis=1, keepdims=True)
        product = _curvature(problem) * rows.p * (from_largest - mean_from_largest)
        product += z * rows.p * (v_of_largest + mean_from_largest)
    return written(_second_order(problem, product), out)


def softmax_cross_entropy_hessian_diagonal(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
    **options: Any,
) -> NDArray[np.floating[Any]]:
    """The Hessian's diagonal.

    With A = Q + 2 a z lse, (A p (1 - p) + 2 a z p^2) / T^2 in every row.
    """
    problem = problem_of_logits(logits, targets, **options)
    return written(_second_order(problem, _diagonal(problem)), out)


def softmax_cross_entropy_grad_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    factor: float = 1.0,
    min_hessian: float = 0.0,
    reduction: str = "sum",
    grad_out: NDArray[np.floating[Any]] | None = None,
    hessian_out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
    **options: Any,
) -> LossGradAndHessian[Any, Any]:
    """The loss, its gradient, and max(min_hessian, factor * the Hessian's diagonal)."""
    if not min_hessian < math.inf:
        raise ValueError(f"min_hessian must be a number below inf, not {min_hessian}")
    problem = problem_of_logits(logits, targets, reduction=reduction, **options)
    loss, grad = loss_and_grad_of(problem)
    diagonal = _second_order(problem, _diagonal(problem))
    with np.errstate(all="ignore"):
        hessian = np.maximum(factor * diagonal, min_hessian)
    return LossGradAndHessian(loss, written(grad, grad_out), written(hessian, hessian_out))


# --- once its arguments are rows ------------------------------------------------------------------


def _curvature(problem: Problem) -> Float64Array:
    """Q + 2 z lse of every row, for the row weight 1."""
    total_mass: Float64Array = problem.targets.mass.sum(axis=1)
    return (total_mass + weighted(2 * problem.z_loss, problem.softmax.lse))[:, np.newaxis]


def _diagonal(problem: Problem) -> Float64Array:
    """The Hessian's, for T = 1 and the row weight 1."""
    rows, z = problem.softmax, problem.z_loss
    with np.errstate(all="ignore"):
        return _curvature(problem) * rows.p * rows.one_minus_p + 2 * z * rows.p**2


def _second_order(problem: Problem, values: Float64Array) -> Float64Array:
    """What was computed for T = 1 and the row weight 1, weighted and in its place."""
    with np.errstate(all="ignore"):
        squared = (
            problem.temperature * problem.temperature
        )  # a float's ** would raise where it is inf
        values *= problem.targets.row_weight[:, np.newaxis] / squared
    return problem.place.restored(problem.targets.finished(values, problem.softmax.is_defined))
