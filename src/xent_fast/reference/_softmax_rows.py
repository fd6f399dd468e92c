"""The softmax of rows of logits, and the sums that are made with it without cancelling.

Knows: the mathematics of a row. Must not know: targets, options, shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from xent_fast.reference._rows import (
    BoolArray,
    Float64Array,
)


@dataclass(frozen=True)
class SoftmaxRows:
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


def softmax_of(
    x: Float64Array, counted: BoolArray | None = None, temperature: float = 1.0
) -> SoftmaxRows:
    """The softmax of rows of logits; one that does not count is not read."""
    if len(x) == 0:
        return SoftmaxRows.without_rows(x)
    if counted is not None:
        x = np.where(counted[:, np.newaxis], x, 0.0)
    is_defined = np.isfinite(x.max(axis=1))  # no NaN, no +inf, not all -inf
    x = np.where(is_defined[:, np.newaxis], x, 0.0)
    largest = x.argmax(axis=1, keepdims=True)
    m = np.take_along_axis(x, largest, axis=1)
    exponentials = _exp_of_difference(x, m, temperature)
    sum_of_others = sums_of_others(exponentials)
    log_sum = np.log1p(np.take_along_axis(sum_of_others, largest, axis=1))
    return SoftmaxRows(
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


def sums_of_others(values: Float64Array) -> Float64Array:
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


def mass_times_p_minus_mass(q: Float64Array, rows: SoftmaxRows) -> Float64Array:
    """Q p - q = (e_c sum_{k != c} q_k - q_c sum_{k != c} e_k) / S."""
    return sums_of_others(q) * rows.p - q * rows.one_minus_p


def sum_of_products(q: Float64Array, cost: Float64Array) -> Float64Array:
    """Sum of q * cost of every row, where 0 * inf = 0."""
    products = np.where(q == 0, 0.0, q * cost)
    return cast(Float64Array, products.sum(axis=1))


def weighted(weight: Float64Array | float, values: Float64Array) -> Float64Array:
    """weight * value, where 0 * inf = 0."""
    return np.where(np.equal(weight, 0) & np.isinf(values), 0.0, weight * values)


def divergence(teacher: SoftmaxRows, student: SoftmaxRows) -> Float64Array:
    """sum P log(P / Q) of every row, as the sum of P log(P / Q) - P + Q: no term is negative.

    With d = log(P / Q) the term is P (d + expm1(-d)), of the order of d^2 for small d.
    """
    big_p, big_q = teacher.p, student.p
    d = student.lse_minus_x - teacher.lse_minus_x
    near = big_p * (d + np.expm1(-d))
    far = big_p * d + (big_q - big_p)
    terms = np.where(big_p == 0, big_q, np.where(d > -1, near, far))
    return cast(Float64Array, terms.sum(axis=1))
