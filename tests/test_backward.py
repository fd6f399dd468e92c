"""The values that the backward passes of softmax and log_softmax give.

Knows the two formulas, exactly. Must not know how a kernel adds or takes exponentials.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import le

import mpmath
import numpy as np
import pytest
from helpers import assert_same_bits
from instruction_sets import AVAILABLE, forced

from xent_fast import log_softmax_vjp, reference, softmax_vjp

inf, nan = np.inf, np.nan

FUNCTIONS = {"softmax": softmax_vjp, "log_softmax": log_softmax_vjp}
# Vectors of 8 and 16 numbers, parts of them, several at once.
CLASS_COUNTS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 48, 64, 65, 130, 300)


@pytest.fixture(params=FUNCTIONS)
def of(request: pytest.FixtureRequest) -> str:
    """Whose backward pass."""
    return request.param


def make_inputs(
    of: str, shape: tuple[int, ...], dtype: type, axis: int = -1, spread: float = 4.0
) -> tuple[np.ndarray, np.ndarray]:
    """What softmax or log_softmax gives for random logits, and slopes of either sign."""
    rng = np.random.default_rng(shape)
    logits, slopes = spread * rng.standard_normal(shape), rng.standard_normal(shape)
    values = getattr(reference, of)(logits, axis=axis)
    return values.astype(dtype), slopes.astype(dtype)


def exact_softmax_vjp(p: np.ndarray, dp: np.ndarray) -> tuple[list, list]:
    """The gradient of one row, and what its error may be relative to besides itself."""
    p, dp = [list(map(mpmath.mpf, row.tolist())) for row in (p, dp)]
    products = [a * b for a, b in zip(p, dp, strict=True)]
    total, magnitude = mpmath.fsum(products), mpmath.fsum(map(abs, products))
    return (
        [a * (b - total) for a, b in zip(p, dp, strict=True)],
        [a * magnitude for a in p],
    )


def exact_log_softmax_vjp(log_p: np.ndarray, dl: np.ndarray) -> tuple[list, list]:
    """The gradient of one row, and exp(l) sum dl."""
    dl = list(map(mpmath.mpf, dl.tolist()))
    total = mpmath.fsum(dl)
    products = [mpmath.exp(value) * total for value in log_p.tolist()]
    return [a - b for a, b in zip(dl, products, strict=True)], products


def by_isa(function: Callable[..., np.ndarray], *arguments: np.ndarray) -> dict[str, np.ndarray]:
    """What each instruction set makes of the arguments."""
    results = {}
    for isa in AVAILABLE:
        with forced(isa):
            results[isa] = function(*arguments)
    return results


def errors(got: np.ndarray, want: list) -> list[mpmath.mpf]:
    return [abs(mpmath.mpf(a) - b) for a, b in zip(got.tolist(), want, strict=True)]


@pytest.mark.parametrize("spread", [0.5, 4.0, 30.0])
def test_softmax_values(dtype: type, spread: float) -> None:
    """1.5 units in the last place, while the sum is exact to 2^-48 or 2^-98 of its terms."""
    eps, smallest = float(np.finfo(dtype).eps), mpmath.mpf(float(np.finfo(dtype).smallest_normal))
    of_sum = mpmath.mpf(2) ** (-47 if dtype == np.float32 else -97)
    with mpmath.workdps(60):
        for classes in CLASS_COUNTS:
            p, dp = make_inputs("softmax", (2, classes), dtype, spread=spread)
            results = by_isa(softmax_vjp, p, dp)
            for row in range(2):
                want, magnitude = exact_softmax_vjp(p[row], dp[row])
                bounds = [
                    eps * (1.5 * abs(value) + 2 * smallest) + of_sum * extent
                    for value, extent in zip(want, magnitude, strict=True)
                ]
                for isa, got in results.items():
                    assert all(map(le, errors(got[row], want), bounds)), isa


@pytest.mark.parametrize("spread", [0.5, 4.0, 30.0])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_log_softmax_values(dtype: type, spread: float, size: float) -> None:
    """1.1 units of exp(l) sum dl and one of the result, without FMA a third more."""
    eps, smallest = float(np.finfo(dtype).eps), mpmath.mpf(float(np.finfo(dtype).smallest_normal))
    with mpmath.workdps(60):
        for classes in CLASS_COUNTS:
            log_p, dl = make_inputs("log_softmax", (2, classes), dtype, spread=spread)
            dl *= dtype(size)
            results = by_isa(log_softmax_vjp, log_p, dl)
            for row in range(2):
                want, products = exact_log_softmax_vjp(log_p[row], dl[row])
                for isa, got in results.items():
                    allowed = 1.5 if isa == "portable" else 1.1
                    bounds = [
                        eps * (abs(value) + allowed * abs(product) + 2 * smallest)
                        for value, product in zip(want, products, strict=True)
                    ]
                    assert all(map(le, errors(got[row], want), bounds)), isa


@pytest.mark.parametrize("sum_of_slopes", [1e-38, 1e-20, 0.75, 1e20, 3e38])
def test_any_finite_log_probability(dtype: type, sum_of_slopes: float) -> None:
    """exp(l) s from the smallest subnormal number to beyond the largest, l positive or negative."""
    if dtype == np.float64:
        sum_of_slopes = sum_of_slopes**8
    info = np.finfo(dtype)
    span = float(np.log(info.max) - np.log(float(info.smallest_subnormal)))
    log_p = np.linspace(-2 * span, 2 * span, 999).astype(dtype)
    log_p[:4] = info.max, info.min, -0.0, -info.smallest_subnormal
    dl = np.zeros_like(log_p)
    dl[7] = sum_of_slopes
    results = by_isa(log_softmax_vjp, log_p, dl)
    with mpmath.workdps(60):
        _, products = exact_log_softmax_vjp(np.clip(log_p, -3 * span, 3 * span), dl)
        for place, (slope, product) in enumerate(zip(dl.tolist(), products, strict=True)):
            want, values = slope - product, [float(got[place]) for got in results.values()]
            if abs(want) > float(info.max) * (1 - 2 * float(info.eps)):
                assert all(v == -inf or v == pytest.approx(-float(info.max)) for v in values)
            else:
                units = 1.5 * product + abs(want)
                bound = float(info.eps) * units + float(info.smallest_subnormal)
                assert all(abs(value - want) <= bound for value in values)


def test_slopes_without_a_sum_pass_through(isa: str, dtype: type) -> None:
    dl = np.array([1.0, -1.0, 0.25, -0.25] * 5, dtype)
    log_p = np.linspace(-200, 2000, 20).astype(dtype)
    np.testing.assert_array_equal(log_softmax_vjp(log_p, dl), dl)


def test_a_sum_that_cancels(isa: str, dtype: type) -> None:
    """The terms cancel to a millionth of their size and less; what is left keeps its digits."""
    small = dtype(2.0**-20)
    p = np.full((1, 64), 0.25, dtype)
    dp = np.tile(np.array([1, -1], dtype), (1, 32))
    dp[0, 5] += small
    with np.errstate(under="ignore"):
        want = reference.softmax_vjp(p, dp).astype(dtype)
    np.testing.assert_array_equal(softmax_vjp(p, dp), want)
    log_p = np.log(p)
    np.testing.assert_allclose(
        log_softmax_vjp(log_p, dp)[0, 0], 1 - np.exp(float(log_p[0, 0])) * float(small), rtol=1e-6
    )
    even = log_softmax_vjp(log_p, np.where(dp == 1, dtype(0), dp * 0 + small / 64))[0, 0]
    assert even == pytest.approx(-np.exp(float(log_p[0, 0])) * float(small) / 2, rel=2e-7)


@pytest.mark.parametrize("classes", [3, 40, 1000])
def test_special_numbers_stay_in_their_row(of: str, isa: str, dtype: type, classes: int) -> None:
    """NaN and infinities give what the formula gives; other rows keep their bits."""
    values, slopes = make_inputs(of, (9, classes), dtype)
    clean = FUNCTIONS[of](values, slopes)
    for row, (place, number) in enumerate(
        ((values, nan), (slopes, nan), (slopes, inf), (slopes, -inf), (values, -inf))
    ):
        place[row, classes // 2] = number
    with np.errstate(all="ignore"):
        want = getattr(reference, f"{of}_vjp")(values, slopes)
    got = FUNCTIONS[of](values, slopes)
    assert_same_bits(got[5:], clean[5:])
    np.testing.assert_array_equal(np.isnan(got[:5]), np.isnan(want[:5]))
    infinite = np.isinf(want[:5])
    np.testing.assert_array_equal(got[:5][infinite], want[:5][infinite])


def test_infinite_log_probabilities(isa: str, dtype: type) -> None:
    log_p = np.array([[-inf, 0.0], [inf, 0.0], [inf, 0.0], [inf, 0.0]], dtype)
    dl = np.array([[3.0, 2.0], [3.0, 2.0], [3.0, -4.0], [2.0, -2.0]], dtype)
    np.testing.assert_array_equal(
        log_softmax_vjp(log_p, dl), [[3, -3], [-inf, -3], [inf, -3], [nan, -2]]
    )


def test_one_array_as_everything(dtype: type) -> None:
    p, _ = make_inputs("softmax", (4, 20), dtype)
    want = softmax_vjp(p, p.copy())
    assert_same_bits(softmax_vjp(p, p, out=p), want)
