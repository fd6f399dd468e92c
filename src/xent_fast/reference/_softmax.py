"""Softmax and its relatives: logarithms, backward passes, the Jacobian.

Knows: their formulas. Must not know: losses, targets.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast.reference._rows import (
    Float64Array,
    alike,
    rows_of,
    written,
)
from xent_fast.reference._softmax_rows import softmax_of
from xent_fast.reference._targets import upstream


def softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """p = exp(x - lse); NaN throughout a row with a NaN, a +inf or nothing but -inf."""
    x, place = rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = softmax_of(x)
        p = np.where(rows.is_defined[:, np.newaxis], rows.p, np.nan)
    return written(place.restored(p), out)


def log_softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """x - lse; NaN where `softmax` is."""
    x, place = rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = softmax_of(x)
        log_p = np.where(rows.is_defined[:, np.newaxis], -rows.lse_minus_x, np.nan)
    return written(place.restored(log_p), out)


def logsumexp(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """lse = log sum exp(x).

    NaN for a row with a NaN, otherwise +inf for one with a +inf, -inf for one of nothing but -inf.
    """
    x, place = rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = softmax_of(x)
        # The largest value of a row without a softmax, NaN if there is one, is the answer.
        lse = np.where(rows.is_defined, rows.lse, x.max(axis=1, initial=-np.inf))
    per_row = place.per_row(lse)
    return written(np.expand_dims(per_row, place.axis) if keepdims else per_row, out)


def softmax_vjp(
    probabilities: ArrayLike,
    grad_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    grad_output: ArrayLike | None = None,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """p (dp - sum p dp), softmax's backward pass."""
    p, place = rows_of(probabilities, axis, "probabilities")
    dp = alike(grad_probabilities, place, "grad_probabilities", "probabilities")
    with np.errstate(all="ignore"):
        grad = p * (dp - (p * dp).sum(axis=1, keepdims=True))
        grad *= upstream(place, grad_output, "none")[:, np.newaxis]
    return written(place.restored(grad), out)


def log_softmax_vjp(
    log_probabilities: ArrayLike,
    grad_log_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    grad_output: ArrayLike | None = None,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[np.floating[Any]]:
    """dl - exp(l) sum dl, log_softmax's backward pass."""
    log_p, place = rows_of(log_probabilities, axis, "log_probabilities")
    dl = alike(grad_log_probabilities, place, "grad_log_probabilities", "log_probabilities")
    with np.errstate(all="ignore"):
        grad = dl - np.exp(log_p) * dl.sum(axis=1, keepdims=True)
        grad *= upstream(place, grad_output, "none")[:, np.newaxis]
    return written(place.restored(grad), out)


def softmax_jacobian(logits: ArrayLike, *, axis: SupportsIndex = -1) -> Float64Array:
    """The derivative of every probability of a row with respect to every logit of that row.

    dp_c / dx_k = p_c (1 - p_c) if c = k, else -p_c p_k: the logits' shape without the class axis,
    then c, then k.
    """
    x, place = rows_of(logits, axis, "logits")
    with np.errstate(all="ignore"):
        rows = softmax_of(x)
        jacobian = -rows.p[:, :, np.newaxis] * rows.p[:, np.newaxis, :]
        diagonal = np.arange(x.shape[1])
        jacobian[:, diagonal, diagonal] = rows.p * rows.one_minus_p
    jacobian[~rows.is_defined] = np.nan
    return jacobian.reshape(*place.row_shape, *jacobian.shape[1:])
