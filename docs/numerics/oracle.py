"""Exact loss and gradient of a batch, and errors in units in the last place.

Knows: the formula, arithmetics wider than the one under test, the ulp convention.
Must not know: which library is measured, or where the rows come from.

A row has logits x and effective mass q (one number a class), m = max x, k* its place,
e_c = exp(x_c - m), rest = sum of e_c over c != k*, S = 1 + rest, Q = sum of q. Then

    p_c    = e_c / S              log p_c = (x_c - m) - log1p(rest)         lse = m + log1p(rest)
    loss   = sum of q_c ((m - x_c) + log1p(rest))
    grad_c = Q p_c - q_c = ((Q - q_c) e_c - q_c S_without_c) / S

(with a temperature T, x is divided by it first and grad_c once more)

where S_without_c is `rest` for c = k* and S - e_c elsewhere. No term cancels for q a multiple of a
one-hot row: loss and gradient keep the relative accuracy of the arithmetic however small they are.

The ulp of a result is the spacing of its dtype at the correctly rounded exact value: 2^-23 at 1.0
in float32, 2^-149 at every subnormal number and at 0. A correctly rounded result has an error of
at most 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np


@dataclass(frozen=True)
class Arithmetic:
    """A wider arithmetic on NumPy arrays: how numbers enter it, and its two functions."""

    name: str
    convert: Callable[[np.ndarray], np.ndarray]
    exp: Callable[[np.ndarray], np.ndarray]
    log1p: Callable[[np.ndarray], np.ndarray]


def _native(dtype: type[np.floating]) -> Arithmetic:
    return Arithmetic(np.dtype(dtype).name, lambda array: array.astype(dtype), np.exp, np.log1p)


def _mpmath_context(bits: int) -> mpmath.MPContext:
    context = mpmath.MPContext()
    context.prec = bits
    return context


def _arbitrary_precision(bits: int) -> Arithmetic:
    context = _mpmath_context(bits)
    functions = (lambda number: context.mpf(float(number)), context.exp, context.log1p)
    return Arithmetic(f"mpmath, {bits} bits", *(np.frompyfunc(f, 1, 1) for f in functions))


FLOAT64 = _native(np.float64)
QUADRUPLE = _arbitrary_precision(113)
# 11 bits more than float64 on x86, 60 more on 64-bit Arm Linux, none on Windows and macOS.
EXTENDED = _native(np.longdouble) if np.finfo(np.longdouble).nmant >= 63 else QUADRUPLE

_DEFINITION = _mpmath_context(2400)


def arithmetic_for(dtype: np.dtype) -> Arithmetic:
    """The arithmetic that judges results of `dtype`."""
    return FLOAT64 if dtype == np.float32 else EXTENDED


@dataclass(frozen=True)
class Exact:
    """Loss and lse (rows,); p, gradient, Q p and log p (rows, classes), in a wider arithmetic."""

    loss: np.ndarray
    probabilities: np.ndarray
    gradient: np.ndarray
    scaled_probabilities: np.ndarray
    log_probabilities: np.ndarray
    lse: np.ndarray


def effective_mass(labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """q (rows, classes) of index targets: the row's weight at its label, else 0."""
    mass = np.zeros((labels.size, classes))
    mass[np.arange(labels.size), labels] = weights
    return mass


def _differences(
    logits: np.ndarray, row_max: np.ndarray, arithmetic: Arithmetic
) -> tuple[np.ndarray, np.ndarray]:
    """x - m as an unevaluated sum of two numbers (Knuth's TwoSum); the second is 0 at -inf.

    Rounding a large x - m would otherwise be the oracle's largest error: 2^-55 at x - m = -700.
    """
    x, m = arithmetic.convert(logits), arithmetic.convert(row_max)
    with np.errstate(invalid="ignore"):
        difference = x - m
        subtracted = difference - x
        remainder = (x - (difference - subtracted)) - (m + subtracted)
    return difference, np.where(np.isneginf(logits), 0.0, remainder)


def evaluate(
    logits: np.ndarray, mass: np.ndarray, arithmetic: Arithmetic, temperature: float = 1.0
) -> Exact:
    """Loss and gradient of finite or -inf logits (rows, classes) under effective mass q."""
    rows = np.arange(len(logits))
    place_of_max = logits.argmax(axis=1)
    row_max = logits.max(axis=1, keepdims=True)
    difference, remainder = _differences(logits, row_max, arithmetic)
    if temperature != 1.0:
        difference, remainder = difference / temperature, remainder / temperature
    exponentials = arithmetic.exp(difference) * (1 + remainder)

    without_max = exponentials.copy()
    without_max[rows, place_of_max] = arithmetic.convert(np.zeros(len(rows)))
    rest = without_max.sum(axis=1, keepdims=True)
    total = 1 + rest
    total_without_class = total - exponentials
    total_without_class[rows, place_of_max] = rest[:, 0]

    q = arithmetic.convert(mass)
    q_sum = q.sum(axis=1, keepdims=True)
    depth = np.where(mass == 0, 0, -difference)
    probabilities = exponentials / total
    log_of_total = arithmetic.log1p(rest)
    return Exact(
        loss=(q * (depth + log_of_total)).sum(axis=1),
        probabilities=probabilities,
        gradient=((q_sum - q) * exponentials - q * total_without_class) / (total * temperature),
        scaled_probabilities=q_sum * probabilities,
        log_probabilities=difference + (remainder - log_of_total),
        lse=(arithmetic.convert(row_max) / temperature + log_of_total)[:, 0],
    )


def evaluate_by_definition(logits: np.ndarray, mass: np.ndarray, temperature: float = 1.0) -> Exact:
    """The same from log(sum(exp(x))) and Q p - q word for word: slow, owing nothing to `evaluate`.

    float64 results go down to 2^-1074 beside terms of order 1: of 2400 bits, cancellation leaves
    over a thousand.
    """
    context = _DEFINITION
    loss, probabilities, gradient, scaled, log_probabilities, lse = [], [], [], [], [], []
    for row, row_mass in zip(logits.tolist(), mass.tolist(), strict=True):
        row = [context.mpf(x) / temperature for x in row]
        exponentials = [context.exp(x) for x in row]
        total = context.fsum(exponentials)
        mass_sum = context.fsum(row_mass)
        loss.append(
            context.fsum(
                q * (context.log(total) - x) for x, q in zip(row, row_mass, strict=True) if q
            )
        )
        probabilities.append([e / total for e in exponentials])
        scaled.append([mass_sum * p for p in probabilities[-1]])
        gradient.append([(s - q) / temperature for s, q in zip(scaled[-1], row_mass, strict=True)])
        lse.append(context.log(total))
        log_probabilities.append([x - lse[-1] for x in row])
    parts = (loss, probabilities, gradient, scaled, log_probabilities, lse)
    return Exact(*(np.array(part, dtype=object) for part in parts))


def exactly(number: object) -> mpmath.mpf:
    """A float, long double or mpf as an mpf, without rounding."""
    if not isinstance(number, np.longdouble):
        return _DEFINITION.convert(number)
    mantissa, exponent = np.frexp(number)
    high = float(mantissa)
    low = float(mantissa - np.longdouble(high))
    return _DEFINITION.ldexp(_DEFINITION.mpf(high) + _DEFINITION.mpf(low), int(exponent))


def lse_scale(logits: np.ndarray, exact: Exact) -> np.ndarray:
    """max(|lse|, |m|, lse - m): lse is the sum of m and a logarithm."""
    row_max = logits.max(axis=1).astype(exact.lse.dtype)
    return np.maximum(np.maximum(np.abs(exact.lse), np.abs(row_max)), exact.lse - row_max)


def ulp_errors(
    got: np.ndarray,
    want: np.ndarray,
    scale: np.ndarray | None = None,
    dtype: np.dtype | None = None,
) -> np.ndarray:
    """|got - want| in spacings of `dtype` at `scale`; NaN or inf in `got` counts as inf.

    Parameters
    ----------
    got : array
    want : array of the same shape, in a wider arithmetic
    scale : array of the same shape, optional
        Where the spacing is taken if `want` is a difference of larger numbers; else at `want`.
    dtype : dtype, optional
        By default that of `got`.

    Returns
    -------
    float64 array of the same shape
    """
    reference = np.abs(want if scale is None else scale)
    spacing = np.spacing(reference.astype(dtype or got.dtype)).astype(np.float64)
    if want.dtype != object:
        finite = np.isfinite(got)
        distance = np.abs(np.where(finite, got, 0).astype(want.dtype) - want)
        return np.where(finite, distance / spacing, np.inf).astype(np.float64)
    to_mpf = np.frompyfunc(exactly, 1, 1)
    with np.errstate(invalid="ignore"):
        distance = np.abs(to_mpf(got.astype(object)) - to_mpf(want))
    error = (distance / spacing).astype(np.float64)
    return np.where(np.isnan(error), np.inf, error)


def disagreement(
    logits: np.ndarray, mass: np.ndarray, arithmetic: Arithmetic, definition: Exact
) -> float:
    """The largest error of `evaluate` over its results, in ulps of the logits' dtype.

    Where q is no multiple of a one-hot row, the gradient counts in ulps of max(|Q p|, |q|); lse
    counts in ulps of its largest term.
    """
    ours = evaluate(logits, mass, arithmetic)
    one_hot_rows = np.count_nonzero(mass, axis=1) == 1
    larger_term = np.maximum(ours.scaled_probabilities, np.abs(arithmetic.convert(mass)))
    gradient_scale = np.where(one_hot_rows[:, None], ours.gradient, larger_term)
    is_finite = np.isfinite(logits)
    log_probabilities = (ours.log_probabilities[is_finite], definition.log_probabilities[is_finite])
    errors = [
        ulp_errors(*log_probabilities, dtype=logits.dtype),
        ulp_errors(ours.lse, definition.lse, lse_scale(logits, ours), logits.dtype),
        ulp_errors(ours.loss, definition.loss, dtype=logits.dtype),
        ulp_errors(ours.probabilities, definition.probabilities, dtype=logits.dtype),
        ulp_errors(ours.gradient, definition.gradient, gradient_scale, logits.dtype),
    ]
    return max(float(error.max()) for error in errors)
