"""The definition: the public functions in plain float64 NumPy, clear and accurate, not fast.

A row has logits x, a temperature T, and one number q_c a class, its effective mass, made of the
targets t (of a class index y: 1 at y and 0 elsewhere), class weights w, label smoothing E among C
classes, and a row weight a; z is the z-loss:

    q = a w ((1 - E) t + E / C)     Q = sum q
    m = max x     e = exp((x - m) / T)     S = sum e     lse = m / T + log S     p = e / S
    loss = sum q_c (lse - x_c / T) + a z lse^2
    grad = ((Q + 2 a z lse) p - q) / T

Nothing is computed by subtracting nearly equal numbers where that can be helped. With R = S - 1 the
exponentials of all classes but the largest logit's,

    lse = m / T + log1p(R)     lse - x_c / T = (m - x_c) / T + log1p(R)
    Q p_c - q_c = (e_c sum_{k != c} q_k - q_c sum_{k != c} e_k) / S

so that a loss and a gradient stay accurate to a few units in the last place however small they are
(as far as the terms of these sums do not cancel by themselves).

Knows: the mathematics and its special cases. Must not know: the compiled module. Nothing in the
package imports it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import (
    LossAndGrad,
    LossAndStatistics,
    LossGradAndStatistics,
    RowStatistics,
    SampledLossAndGrad,
)
from xent_fast._sampler import Sampler, draw_candidates

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# --- the loss of logits ---------------------------------------------------------------------------


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
    reduction: str = "mean",
    scale: float = 1.0,
    return_statistics: bool = False,
    num_threads: SupportsIndex | None = None,
) -> float | Float64Array | LossAndStatistics[Any]:
    """`xent_fast.softmax_cross_entropy` in float64.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature, \
    z_loss, reduction, scale, return_statistics
        As for `xent_fast.softmax_cross_entropy`.
    num_threads
        Not used.

    Returns
    -------
    float or ndarray of the logits' shape without the class axis, float64
        The loss. Row losses are not rounded to the logits' dtype.
    statistics : RowStatistics, only if `return_statistics`
        ``lse`` in float64.

    Raises
    ------
    IndexError, ValueError
        If a class index is out of bounds, shapes do not fit together or an option is outside its
        domain.
    """
    problem = _problem_of_logits(
        logits,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
    )
    loss, _ = _loss_and_grad(problem)
    return LossAndStatistics(loss, _statistics(problem)) if return_statistics else loss


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
    reduction: str = "mean",
    scale: float = 1.0,
    return_statistics: bool = False,
    num_threads: SupportsIndex | None = None,
    out: NDArray[np.floating[Any]] | None = None,
) -> LossAndGrad[Any] | LossGradAndStatistics[Any]:
    """`xent_fast.softmax_cross_entropy_grad` in float64.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature, \
    z_loss, reduction, scale, return_statistics
        As for `xent_fast.softmax_cross_entropy_grad`.
    num_threads
        Not used.
    out : ndarray of the logits' shape, optional
        Takes the gradient, rounded to its dtype. May be `logits`.

    Returns
    -------
    loss : float or ndarray of the logits' shape without the class axis, float64
        As of `softmax_cross_entropy`.
    grad : ndarray of the logits' shape
        A new float64 array, or `out`.
    statistics : RowStatistics, only if `return_statistics`
        ``lse`` in float64.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`.
    """
    problem = _problem_of_logits(
        logits,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
    )
    loss, grad = _loss_and_grad(problem)
    result = LossAndGrad[Any](loss, _written(grad, out))
    return LossGradAndStatistics(*result, _statistics(problem)) if return_statistics else result


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
    dx : ndarray of the shape of `x`, float64
        Gradient of the loss with respect to `x`.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`.
    """
    return cast(LossAndGrad[float], softmax_cross_entropy_grad(x, y))


# --- the second order -----------------------------------------------------------------------------


def softmax_cross_entropy_hvp(
    logits: ArrayLike,
    targets: ArrayLike,
    vector: ArrayLike,
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
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """`xent_fast.softmax_cross_entropy_hvp` in float64: the loss's Hessian times a vector.

    With A = Q + 2 a z lse, (A p (v - p.v) + 2 a z p (p.v)) / T^2 in every row.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature, \
    z_loss, reduction, scale
        As for `softmax_cross_entropy_grad`.
    vector : array_like of the logits' shape
        What the Hessian is multiplied with.
    num_threads
        Not used.
    out : ndarray of the logits' shape, optional
        Takes the product, rounded to its dtype.

    Returns
    -------
    ndarray of the logits' shape
        A new float64 array, or `out`.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`; also if `vector` has another shape than the logits.
    """
    problem = _problem_of_logits(
        logits,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
    )
    v = _alike(vector, problem.place, "vector", "logits")
    with np.errstate(all="ignore"):
        rows, z = problem.softmax, 2 * z_loss
        # v - p.v is the same for v and v + constant: it is taken from the likeliest class's entry,
        # whose probability may be near 1, so that p.v does not round the others' shares away.
        v_of_largest = np.take_along_axis(v, rows.largest, axis=1)
        from_largest = v - v_of_largest
        mean_from_largest = (rows.p * from_largest).sum(axis=1, keepdims=True)
        product = _curvature(problem) * rows.p * (from_largest - mean_from_largest)
        product += z * rows.p * (v_of_largest + mean_from_largest)
    return _written(_second_order(problem, product), out)


def softmax_cross_entropy_hessian_diagonal(
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
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """`xent_fast.softmax_cross_entropy_hessian_diagonal` in float64.

    With A = Q + 2 a z lse, (A p (1 - p) + 2 a z p^2) / T^2 in every row.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature, \
    z_loss, reduction, scale
        As for `softmax_cross_entropy_grad`.
    num_threads
        Not used.
    out : ndarray of the logits' shape, optional
        Takes the diagonal, rounded to its dtype.

    Returns
    -------
    ndarray of the logits' shape
        A new float64 array, or `out`.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`.
    """
    problem = _problem_of_logits(
        logits,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
    )
    with np.errstate(all="ignore"):
        rows = problem.softmax
        diagonal = _curvature(problem) * rows.p * rows.one_minus_p + 2 * z_loss * rows.p**2
    return _written(_second_order(problem, diagonal), out)


# --- softmax itself -------------------------------------------------------------------------------


def softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """`xent_fast.softmax` in float64: p = exp(x - lse).

    Parameters
    ----------
    logits : array_like
        Any shape with at least one axis.
    axis : int, default -1
        The axis of the classes.
    num_threads
        Not used.
    out : ndarray of the logits' shape, optional
        Takes the probabilities, rounded to its dtype.

    Returns
    -------
    ndarray of the logits' shape
        A new float64 array, or `out`. NaN throughout a row that has a NaN, a +inf or nothing but
        -inf.

    Raises
    ------
    ValueError
        If there are rows but no class.
    """
    x, place = _rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = _softmax_of(x)
        p = np.where(rows.is_defined[:, np.newaxis], rows.p, np.nan)
    return _written(place.restored(p), out)


def log_softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """`xent_fast.log_softmax` in float64: x - lse.

    Parameters
    ----------
    logits, axis, num_threads, out
        As for `softmax`.

    Returns
    -------
    ndarray of the logits' shape
        As of `softmax`.

    Raises
    ------
    ValueError
        As for `softmax`.
    """
    x, place = _rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = _softmax_of(x)
        log_p = np.where(rows.is_defined[:, np.newaxis], -rows.lse_minus_x, np.nan)
    return _written(place.restored(log_p), out)


def logsumexp(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """`xent_fast.logsumexp` in float64: lse = log sum exp(x).

    Parameters
    ----------
    logits, axis, num_threads
        As for `softmax`.
    keepdims : bool, default False
        Whether the class axis stays, with length 1.
    out : ndarray of the result's shape that shares no memory with `logits`, optional
        Where the result is written, rounded to its dtype.

    Returns
    -------
    ndarray
        A new float64 array, or `out`, of the logits' shape without the class axis. NaN for a row
        with a NaN, otherwise +inf for one with a +inf, -inf for one of nothing but -inf.

    Raises
    ------
    ValueError
        As for `softmax`.
    """
    x, place = _rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = _softmax_of(x)
        # The largest value of a row without a softmax, NaN if there is one, is the answer.
        lse = np.where(rows.is_defined, rows.lse, x.max(axis=1, initial=-np.inf))
    per_row = place.per_row(lse)
    return _written(np.expand_dims(per_row, place.axis) if keepdims else per_row, out)


def softmax_vjp(
    probabilities: ArrayLike,
    grad_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """`xent_fast.softmax_vjp` in float64: p (dp - sum p dp), softmax's backward pass.

    Parameters
    ----------
    probabilities : array_like
        What `softmax` returned.
    grad_probabilities : array_like of the same shape
        Gradient of a loss with respect to the probabilities.
    axis, num_threads, out
        As for `softmax`.

    Returns
    -------
    ndarray of the same shape
        Gradient of the loss with respect to the logits: a new float64 array, or `out`.

    Raises
    ------
    ValueError
        As for `softmax`; also if the shapes differ.
    """
    p, place = _rows_of(probabilities, axis, "probabilities")
    dp = _alike(grad_probabilities, place, "grad_probabilities", "probabilities")
    with np.errstate(all="ignore"):
        grad = p * (dp - (p * dp).sum(axis=1, keepdims=True))
    return _written(place.restored(grad), out)


def log_softmax_vjp(
    log_probabilities: ArrayLike,
    grad_log_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """`xent_fast.log_softmax_vjp` in float64: dl - exp(l) sum dl, log_softmax's backward pass.

    Parameters
    ----------
    log_probabilities : array_like
        What `log_softmax` returned.
    grad_log_probabilities : array_like of the same shape
        Gradient of a loss with respect to the log-probabilities.
    axis, num_threads, out
        As for `softmax`.

    Returns
    -------
    ndarray of the same shape
        Gradient of the loss with respect to the logits: a new float64 array, or `out`.

    Raises
    ------
    ValueError
        As for `softmax`; also if the shapes differ.
    """
    log_p, place = _rows_of(log_probabilities, axis, "log_probabilities")
    dl = _alike(grad_log_probabilities, place, "grad_log_probabilities", "log_probabilities")
    with np.errstate(all="ignore"):
        grad = dl - np.exp(log_p) * dl.sum(axis=1, keepdims=True)
    return _written(place.restored(grad), out)


def softmax_jacobian(logits: ArrayLike, *, axis: SupportsIndex = -1) -> Float64Array:
    """The derivative of every probability of a row with respect to every logit of that row.

    dp_c / dx_k = p_c (1 - p_c) if c = k, else -p_c p_k.

    Parameters
    ----------
    logits, axis
        As for `softmax`.

    Returns
    -------
    ndarray, float64
        The logits' shape without the class axis, then c, then k.

    Raises
    ------
    ValueError
        As for `softmax`.
    """
    x, place = _rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = _softmax_of(x)
        jacobian = -rows.p[:, :, np.newaxis] * rows.p[:, np.newaxis, :]
        diagonal = np.arange(x.shape[1])
        jacobian[:, diagonal, diagonal] = rows.p * rows.one_minus_p
    jacobian[~rows.is_defined] = np.nan
    return jacobian.reshape(*place.row_shape, *jacobian.shape[1:])


# --- the loss of probabilities --------------------------------------------------------------------


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
) -> LossAndGrad[Any]:
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
    p, place = _rows_of(probabilities, axis, "probabilities")
    clip = _number(clip, "clip")
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must be in [0, 0.5), not {clip}")
    masses = _targets_of(
        place, targets, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
    )
    with np.errstate(all="ignore"):
        held = np.clip(p, clip, 1 - clip) if clip > 0 else p
        row_loss = _sum_of_products(masses.mass, -np.log(held))
        loss = masses.reduced(_weighted(masses.row_weight, row_loss))
        q = masses.mass * masses.row_weight[:, np.newaxis]
        grad = np.where((q == 0) | (held != p) & ~np.isnan(p), 0.0, -q / held)
        grad = masses.finished(grad)
    return LossAndGrad(loss, _written(place.restored(grad), out))


# --- teacher and student --------------------------------------------------------------------------


def distillation_loss_grad(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    alpha: float = 0.5,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    scale: float = 1.0,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[Any]:
    """`xent_fast.distillation_loss_grad` in float64.

    With the teacher's and the student's softened distributions P and Q at temperature T, and the
    student's own probabilities p,

        loss = a alpha T^2 sum P (log P - log Q) + (1 - alpha) sum q (-log p)
        grad = a alpha T (Q - P) + (1 - alpha) (p sum q - q)

    Parameters
    ----------
    student_logits, teacher_logits : array_like of one shape
        Any shape with at least one axis.
    targets : array_like, optional
        Class indices or dense targets, as for `softmax_cross_entropy`. Without them the loss is the
        first term alone, as with ``alpha=1``.
    temperature : float, default 1.0
        Divides both rows of logits in the first term; the second is taken at 1.
    alpha : float in [0, 1], default 0.5
        Share of the first term.
    axis, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
        As for `softmax_cross_entropy`. `weight` and `label_smoothing` belong to the second term;
        ignored rows leave both.
    num_threads
        Not used.
    out : ndarray of the logits' shape, optional
        Takes the gradient, rounded to its dtype.

    Returns
    -------
    loss : float or ndarray of the logits' shape without the class axis, float64
        As of `softmax_cross_entropy`.
    grad : ndarray of the logits' shape
        Gradient with respect to the student's logits: a new float64 array, or `out`.

    Raises
    ------
    IndexError, ValueError
        As for `softmax_cross_entropy`; also if the logits' shapes differ or `alpha` is outside
        [0, 1].

    References
    ----------
    G. Hinton, O. Vinyals, J. Dean. Distilling the knowledge in a neural network. 2015.
    """
    x, place = _rows_of(student_logits, axis, "student_logits")
    teacher = _alike(teacher_logits, place, "teacher_logits", "student_logits")
    temperature, alpha = _temperature(temperature), _number(alpha, "alpha")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    masses = _targets_of(
        place, targets, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
    )
    soft_share, hard_share = (1.0, 0.0) if targets is None else (alpha, 1.0 - alpha)
    with np.errstate(all="ignore"):
        softened_teacher = _softmax_of(teacher, masses.counted, temperature)
        softened_student = _softmax_of(x, masses.counted, temperature)
        student = _softmax_of(x, masses.counted)
        is_defined = softened_teacher.is_defined & student.is_defined
        q = masses.mass * hard_share
        row_loss = _weighted(
            soft_share * (temperature * temperature),
            _divergence(softened_teacher, softened_student),
        ) + _sum_of_products(q, student.lse_minus_x)
        grad = soft_share * temperature * (softened_student.p - softened_teacher.p)
        grad += _mass_times_p_minus_mass(q, student)
        grad *= masses.row_weight[:, np.newaxis]
        loss = masses.reduced(_weighted(masses.row_weight, row_loss), is_defined)
        grad = masses.finished(grad, is_defined)
    return LossAndGrad(loss, _written(place.restored(grad), out))


# --- a sample of the classes ----------------------------------------------------------------------


def sampled_softmax_loss_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    num_sampled: SupportsIndex,
    sampler: Sampler = "log_uniform",
    remove_accidental_hits: bool = True,
    rng: np.random.Generator | int | None = None,
    reduction: str = "mean",
    sample_weight: ArrayLike | None = None,
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> SampledLossAndGrad[Any]:
    """`xent_fast.sampled_softmax_loss_grad` in float64, with the same draw from the same `rng`.

    Parameters
    ----------
    hidden, weight, bias, targets, num_sampled, sampler, remove_accidental_hits, rng, reduction, \
    sample_weight, scale
        As for `xent_fast.sampled_softmax_loss_grad`.
    num_threads
        Not used.

    Returns
    -------
    SampledLossAndGrad
        In float64.

    Raises
    ------
    IndexError, TypeError, ValueError
        As for `xent_fast.sampled_softmax_loss_grad`, of what concerns the sampler, and for
        `softmax_cross_entropy`.
    """
    h, w = np.asarray(hidden, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    b = np.zeros(len(w)) if bias is None else np.asarray(bias, dtype=np.float64)
    labels = np.asarray(targets)
    samples, expected_count = draw_candidates(
        sampler, num_sampled, len(w), np.random.default_rng(rng)
    )
    logits = np.empty((len(h), 1 + len(samples)))
    classes = np.empty(logits.shape, dtype=np.intp)
    for example, label in enumerate(labels):
        classes[example] = [label, *samples]
        logits[example] = w[classes[example]] @ h[example] + b[classes[example]]
        logits[example] -= np.log(expected_count(classes[example]))
        if remove_accidental_hits:
            logits[example, 1:][samples == label] = -np.inf

    result = softmax_cross_entropy_grad(
        logits,
        np.zeros(len(h), dtype=np.intp),
        reduction=reduction,
        sample_weight=sample_weight,
        scale=scale,
    )
    grad_hidden, grad_weight, grad_bias = np.zeros_like(h), np.zeros_like(w), np.zeros_like(b)
    for example in range(len(h)):
        for k, slope in zip(classes[example], result.grad[example], strict=True):
            grad_hidden[example] += slope * w[k]
            grad_weight[k] += slope * h[example]
            grad_bias[k] += slope
    rows = np.union1d(labels, samples).astype(np.intp)
    return SampledLossAndGrad(result.loss, grad_hidden, rows, grad_weight[rows], grad_bias[rows])


# --- arrays as rows -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """How the rows of a (rows, classes) array lie in an array of any shape."""

    shape: tuple[int, ...]
    axis: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def rows(self) -> int:
        return math.prod(self.row_shape)

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    def as_rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array of the shape, as (rows, classes)."""
        return np.moveaxis(values, self.axis, -1).reshape(self.rows, self.classes)

    def restored(self, rows: Float64Array) -> Float64Array:
        """A (rows, classes) array in the shape it came from."""
        return np.moveaxis(rows.reshape(*self.row_shape, self.classes), -1, self.axis)

    def per_row(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value a row, in the shape without the class axis."""
        return values.reshape(self.row_shape)


def _rows_of(given: ArrayLike, axis: SupportsIndex, name: str) -> tuple[Float64Array, _Place]:
    """An argument as float64 of shape (rows, classes), and its place."""
    values = np.asarray(given, dtype=np.float64)
    place = _Place(values.shape, normalize_axis_index(axis.__index__(), values.ndim))
    if place.classes == 0 and place.rows > 0:
        raise ValueError(
            f"{name} must have at least one class along axis {place.axis}, not shape {place.shape}"
        )
    return place.as_rows(values), place


def _alike(given: ArrayLike, place: _Place, name: str, other: str) -> Float64Array:
    """An argument that must have the place's shape, as (rows, classes)."""
    values = np.asarray(given, dtype=np.float64)
    if values.shape != place.shape:
        raise ValueError(f"{name} must have the shape of {other} {place.shape}, not {values.shape}")
    return place.as_rows(values)


def _written(
    values: Float64Array, out: NDArray[np.floating[Any]] | None
) -> NDArray[np.floating[Any]]:
    """The result itself, or `out` holding it."""
    if out is None:
        return values
    with np.errstate(over="ignore", under="ignore"):
        np.copyto(out, values, casting="same_kind")
    return out


# --- targets and options as mass and weight -------------------------------------------------------


@dataclass(frozen=True)
class _Targets:
    """Targets and options of a call.

    `mass` is q for the row weight 1, and 0 in the rows that do not count; `row_weight` is a.
    `target_class` is what a prediction must be. `is_void`: the mean has the denominator 0.
    """

    place: _Place
    reduction: str
    mass: Float64Array
    row_weight: Float64Array
    counted: BoolArray
    target_class: NDArray[np.intp]
    is_void: bool

    def reduced(
        self, row_loss: Float64Array, is_defined: BoolArray | None = None
    ) -> float | Float64Array:
        """The loss of rows that are weighted already."""
        row_loss = self._settled(row_loss, is_defined)
        if self.reduction == "none":
            return self.place.per_row(row_loss)
        return math.nan if self.is_void else float(row_loss.sum())

    def finished(self, grad: Float64Array, is_defined: BoolArray | None = None) -> Float64Array:
        """A gradient: nothing comes from a mean without a denominator, not even NaN."""
        return np.zeros_like(grad) if self.is_void else self._settled(grad, is_defined)

    def _settled(self, values: Float64Array, is_defined: BoolArray | None) -> Float64Array:
        """NaN in rows without a softmax, 0 in rows that do not count."""
        if is_defined is not None:
            values[~is_defined] = np.nan
        values[~self.counted] = 0.0
        return values


def _targets_of(
    place: _Place,
    targets: ArrayLike | None,
    weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: SupportsIndex | None,
    label_smoothing: float,
    reduction: str,
    scale: float,
) -> _Targets:
    """Mass and weight of every row; without targets no class has any mass."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    scale, label_smoothing = _number(scale, "scale"), _number(label_smoothing, "label_smoothing")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], not {label_smoothing}")
    class_weight = _weights(weight, (place.classes,), "weight")
    a = _weights(sample_weight, place.row_shape, "sample_weight").reshape(place.rows)

    counted = np.ones(place.rows, dtype=bool)
    if targets is None or np.ndim(targets) == len(place.shape):
        if ignore_index is not None:
            raise ValueError("ignore_index needs targets that are class indices")
        mass, target_class = _dense_mass(targets, place, class_weight, label_smoothing)
        count = a
    else:
        labels, counted = _labels(np.asarray(targets), place, ignore_index)
        mass = _index_mass(labels, counted, class_weight, label_smoothing)
        target_class = labels
        count = (a * class_weight[labels])[counted] if place.rows else a

    denominator = float(count.sum()) if reduction == "mean" else 1.0
    is_void = denominator == 0
    row_weight = np.zeros_like(a) if is_void else a * (scale / denominator)
    return _Targets(place, reduction, mass, row_weight, counted, target_class, is_void)


def _weights(given: ArrayLike | None, shape: tuple[int, ...], name: str) -> Float64Array:
    """Weights of a given shape, 1 by default."""
    weights = np.ones(shape) if given is None else np.asarray(given, dtype=np.float64)
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {weights.shape}")
    return weights


def _dense_mass(
    targets: ArrayLike | None, place: _Place, class_weight: Float64Array, smoothing: float
) -> tuple[Float64Array, NDArray[np.intp]]:
    """w ((1 - E) t + E / C), and the class of the first largest target."""
    if targets is None:
        return np.zeros((place.rows, place.classes)), np.zeros(place.rows, dtype=np.intp)
    if np.shape(targets) != place.shape:
        raise ValueError(
            f"dense targets must have the logits' shape {place.shape}, not {np.shape(targets)}"
        )
    t = place.as_rows(np.asarray(targets, dtype=np.float64))
    mass = class_weight * ((1 - smoothing) * t + smoothing / max(place.classes, 1))
    return mass, t.argmax(axis=1) if place.rows else np.zeros(0, dtype=np.intp)


def _index_mass(
    labels: NDArray[np.intp], counted: BoolArray, class_weight: Float64Array, smoothing: float
) -> Float64Array:
    """(1 - E) w_y at y, and E / C w everywhere; 0 in a row that does not count."""
    rows, classes = len(labels), len(class_weight)
    mass = np.zeros((rows, classes))
    if rows and smoothing:
        mass += class_weight * (smoothing / classes)
    if rows:
        mass[np.arange(rows), labels] += (1 - smoothing) * class_weight[labels]
    mass[~counted] = 0.0
    return mass


def _labels(
    targets: NDArray[Any], place: _Place, ignore_index: SupportsIndex | None
) -> tuple[NDArray[np.intp], BoolArray]:
    """Every row's class index, 0 where it does not count, and which rows count."""
    if targets.shape != place.row_shape:
        raise ValueError(
            f"targets must have shape {place.row_shape} or {place.shape}, not {targets.shape}"
        )
    counted = np.ones(targets.shape, dtype=bool)
    if ignore_index is not None:
        counted = np.asarray(targets != int(ignore_index))
    out_of_bounds = counted & ((targets < 0) | (targets >= place.classes))
    if out_of_bounds.any():
        position = tuple(int(i) for i in np.argwhere(out_of_bounds)[0])
        where = ", ".join(map(str, position)) or "()"
        raise IndexError(
            f"index {targets[position]} is out of bounds for axis {place.axis} "
            f"with size {place.classes} (targets[{where}])"
        )
    labels = np.where(counted, targets, 0).astype(np.intp)
    return labels.reshape(place.rows), counted.reshape(place.rows)


def _number(given: float, name: str) -> float:
    """A float of any real number: float32 beside a Python number would make float32 of both."""
    try:
        return float(given)
    except OverflowError:
        raise ValueError(f"{name} is too large for a float") from None


def _temperature(given: float) -> float:
    temperature = _number(given, "temperature")
    if not 2**-126 <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and at least 2**-126, not {temperature}")
    return temperature


# --- a row's softmax and the sums made with it ----------------------------------------------------


@dataclass(frozen=True)
class _SoftmaxRows:
    """Exponentials of rows of logits, and their sums.

    exponentials : e_c = exp((x_c - m) / T)
    sum_of_others : sum_{k != c} e_k
    lse, lse_minus_x : one a row; one a class, of x / T
    largest : class of the row's first largest logit, of shape (rows, 1)
    is_defined : rows without NaN, without +inf and not all -inf; the others hold what 0 gives
    """

    exponentials: Float64Array
    sum_of_others: Float64Array
    lse: Float64Array
    lse_minus_x: Float64Array
    largest: NDArray[np.intp]
    is_defined: BoolArray

    @classmethod
    def without_rows(cls, x: Float64Array) -> Self:
        """Of no row."""
        nothing = np.zeros(0)
        return cls(x, x, nothing, x, np.zeros((0, 1), dtype=np.intp), np.zeros(0, dtype=bool))

    @property
    def _sum(self) -> Float64Array:
        return 1.0 + np.take_along_axis(self.sum_of_others, self.largest, axis=1)

    @property
    def p(self) -> Float64Array:
        return self.exponentials / self._sum

    @property
    def one_minus_p(self) -> Float64Array:
        return self.sum_of_others / self._sum


def _softmax_of(
    x: Float64Array, counted: BoolArray | None = None, temperature: float = 1.0
) -> _SoftmaxRows:
    """The softmax of rows of logits; one that does not count is not read."""
    if len(x) == 0:
        return _SoftmaxRows.without_rows(x)
    if counted is not None:
        x = np.where(counted[:, np.newaxis], x, 0.0)
    is_defined = np.isfinite(x.max(axis=1))  # no NaN, no +inf, not all -inf
    x = np.where(is_defined[:, np.newaxis], x, 0.0)
    largest = x.argmax(axis=1, keepdims=True)
    m = np.take_along_axis(x, largest, axis=1)
    exponentials = _exp_of_difference(x, m, temperature)
    sum_of_others = _sum_of_others(exponentials)
    log_sum = np.log1p(np.take_along_axis(sum_of_others, largest, axis=1))
    return _SoftmaxRows(
        exponentials,
        sum_of_others,
        lse=(m / temperature + log_sum)[:, 0],
        lse_minus_x=(m - x) / temperature + log_sum,
        largest=largest,
        is_defined=is_defined,
    )


def _exp_of_difference(x: Float64Array, m: Float64Array, temperature: float) -> Float64Array:
    """exp((x - m) / T) to about one unit in the last place, however far x lies below m.

    x - m = d + e exactly, where d is the rounded difference and e its rounding error (Knuth's
    TwoSum); d = u T + r exactly, where u is the rounded quotient; so (x - m) / T = u + c with
    c = (r + e) / T, and exp(u + c) = exp(u) (1 + c) but for c**2 < 1e-26 wherever exp(u) is not 0.
    """
    d = x - m
    m_recovered = x - d
    e = (x - (d + m_recovered)) + (m_recovered - m)
    u = d / temperature
    c = (_minus_product(d, u, temperature) + e) / temperature
    return np.exp(u) * (1.0 + np.where(np.isfinite(c), c, 0.0))


def _minus_product(d: Float64Array, u: Float64Array, t: float) -> Float64Array:
    """d - u t exactly, for u the rounded quotient d / t (Veltkamp's and Dekker's way)."""
    product = u * t
    u_high, t_high = _high_half(u), _high_half(np.float64(t))
    u_low, t_low = u - u_high, t - t_high
    product_error: Float64Array = (
        (u_high * t_high - product) + u_high * t_low + u_low * t_high
    ) + u_low * t_low
    remainder: Float64Array = (d - product) - product_error
    return remainder


def _high_half(value: Any) -> Any:
    """The leading 26 bits of doubles."""
    shifted = 134217729.0 * value  # 2^27 + 1
    return shifted - (shifted - value)


def _sum_of_others(values: Float64Array) -> Float64Array:
    """For every entry the sum of the others in its row, accurate where no entry is negative.

    The row's sum minus the entry cancels only for an entry beyond half the sum, which only the
    largest can be: its others are added up themselves.
    """
    if values.size == 0:
        return values
    rows = np.arange(len(values))
    largest = values.argmax(axis=1)
    without_largest = values.copy()
    without_largest[rows, largest] = 0.0
    sum_without_largest = without_largest.sum(axis=1)
    row_sum = values[rows, largest] + sum_without_largest
    sum_of_others: Float64Array = row_sum[:, np.newaxis] - values
    sum_of_others[rows, largest] = sum_without_largest
    return sum_of_others


def _mass_times_p_minus_mass(q: Float64Array, rows: _SoftmaxRows) -> Float64Array:
    """Q p - q = (e_c sum_{k != c} q_k - q_c sum_{k != c} e_k) / S."""
    return _sum_of_others(q) * rows.p - q * rows.one_minus_p


def _sum_of_products(q: Float64Array, cost: Float64Array) -> Float64Array:
    """Sum of q * cost of every row, where 0 * inf = 0."""
    products = np.where(q == 0, 0.0, q * cost)
    return cast(Float64Array, products.sum(axis=1))


def _weighted(weight: Float64Array | float, values: Float64Array) -> Float64Array:
    """weight * value, where 0 * inf = 0."""
    return np.where(np.equal(weight, 0) & np.isinf(values), 0.0, weight * values)


def _divergence(teacher: _SoftmaxRows, student: _SoftmaxRows) -> Float64Array:
    """sum P log(P / Q) of every row, as the sum of P log(P / Q) - P + Q: no term is negative.

    With d = log(P / Q) the term is P (d + expm1(-d)), of the order of d^2 for small d.
    """
    big_p, big_q = teacher.p, student.p
    d = student.lse_minus_x - teacher.lse_minus_x
    near = big_p * (d + np.expm1(-d))
    far = big_p * d + (big_q - big_p)
    terms = np.where(big_p == 0, big_q, np.where(d > -1, near, far))
    return cast(Float64Array, terms.sum(axis=1))


# --- the loss of logits, once its arguments are rows ----------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """The softmax of every row, and all that weighs it."""

    place: _Place
    softmax: _SoftmaxRows
    targets: _Targets
    temperature: float
    z_loss: float


def _problem_of_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: SupportsIndex,
    weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: SupportsIndex | None,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    reduction: str,
    scale: float,
) -> _Problem:
    x, place = _rows_of(logits, axis, "logits")
    temperature, z_loss = _temperature(temperature), _number(z_loss, "z_loss")
    if math.isnan(z_loss):
        raise ValueError("z_loss must not be NaN")
    masses = _targets_of(
        place, targets, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
    )
    with np.errstate(all="ignore"):
        softmax = _softmax_of(x, masses.counted, temperature)
    return _Problem(place, softmax, masses, temperature, z_loss)


def _loss_and_grad(problem: _Problem) -> tuple[float | Float64Array, Float64Array]:
    rows, masses, z = problem.softmax, problem.targets, problem.z_loss
    with np.errstate(all="ignore"):
        row_loss = _sum_of_products(masses.mass, rows.lse_minus_x) + _weighted(z, rows.lse**2)
        loss = masses.reduced(_weighted(masses.row_weight, row_loss), rows.is_defined)
        grad = _mass_times_p_minus_mass(masses.mass, rows)
        grad += _weighted(2 * z, rows.lse)[:, np.newaxis] * rows.p
        grad *= masses.row_weight[:, np.newaxis] / problem.temperature
    return loss, problem.place.restored(masses.finished(grad, rows.is_defined))


def _curvature(problem: _Problem) -> Float64Array:
    """Q + 2 z lse of every row, for the row weight 1."""
    total_mass: Float64Array = problem.targets.mass.sum(axis=1)
    return (total_mass + _weighted(2 * problem.z_loss, problem.softmax.lse))[:, np.newaxis]


def _second_order(problem: _Problem, values: Float64Array) -> Float64Array:
    """What was computed for T = 1 and the row weight 1, weighted and in its place."""
    with np.errstate(all="ignore"):
        squared = (
            problem.temperature * problem.temperature
        )  # a float's ** would raise where it is inf
        values *= problem.targets.row_weight[:, np.newaxis] / squared
    return problem.place.restored(problem.targets.finished(values, problem.softmax.is_defined))


def _statistics(problem: _Problem) -> RowStatistics:
    """lse, prediction and whether it is right, of rows that count and have a softmax."""
    rows, masses = problem.softmax, problem.targets
    is_known = rows.is_defined & masses.counted
    prediction = np.where(is_known, rows.largest[:, 0], -1)
    return RowStatistics(
        problem.place.per_row(np.where(is_known, rows.lse, np.nan)),
        problem.place.per_row(prediction),
        problem.place.per_row(prediction == masses.target_class),
    )
