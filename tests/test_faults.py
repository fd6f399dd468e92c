"""Inputs that once gave wrong numbers, each with its right ones, on every instruction set.

Knows the formula, in mpmath, and how far off a result may be.
Must not know the kernels, nor the reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import instruction_sets
import mpmath
import numpy as np
import pytest

import xent_fast
from xent_fast import softmax, softmax_cross_entropy, softmax_cross_entropy_grad

FLOAT32, FLOAT64 = np.float32, np.float64
LOWEST_64 = np.finfo(FLOAT64).min
DIGITS = 60


@pytest.fixture(params=instruction_sets.AVAILABLE, autouse=True)
def _isa(request: pytest.FixtureRequest) -> Iterator[None]:
    with instruction_sets.forced(request.param):
        yield


class Exact(NamedTuple):
    """One row's right numbers."""

    loss: mpmath.mpf
    grad: np.ndarray
    lse: mpmath.mpf


def exact(
    logits: np.ndarray,
    mass: np.ndarray,
    *,
    temperature: float = 1.0,
    factor: float = 1.0,
    z_loss: float = 0.0,
) -> Exact:
    """Loss, gradient and lse of one row with mass q and row weight `factor`, in many digits."""
    with mpmath.workdps(DIGITS):
        over = 1 / mpmath.mpf(temperature)
        x = [mpmath.mpf(float(value)) * over for value in logits]
        q = [mpmath.mpf(float(value)) for value in mass]
        top = max(x)
        e = [mpmath.exp(value - top) for value in x]
        # the maximum stays out of the sum, so that nothing cancels
        first = x.index(top)
        log_sum = mpmath.log1p(mpmath.fsum(e[:first] + e[first + 1 :]))
        lse = top + log_sum
        p = [value / mpmath.fsum(e) for value in e]
        total = mpmath.fsum(q)
        loss = mpmath.fsum(
            each * ((top - value) + log_sum) for each, value in zip(q, x, strict=True) if each != 0
        )
        loss += z_loss * lse**2
        slope = total + 2 * mpmath.mpf(z_loss) * lse
        grad = [factor * over * (slope * each - own) for each, own in zip(p, q, strict=True)]
        for k, own in enumerate(q):
            if own == total and z_loss == 0:
                others = mpmath.fsum(e[:k] + e[k + 1 :])
                grad[k] = -factor * over * own * others / mpmath.fsum(e)
        return Exact(mpmath.mpf(factor) * loss, np.array([float(v) for v in grad]), lse)


def one_hot(classes: int, label: int) -> np.ndarray:
    mass = np.zeros(classes)
    mass[label] = 1
    return mass


def assert_close(got: object, want: object, dtype: type, ulp: float = 6) -> None:
    """Each number within so many spacings of the dtype at the right one."""
    got, want = np.asarray(got, FLOAT64), np.asarray(want, FLOAT64)
    with np.errstate(over="ignore"):
        spacing = np.spacing(np.abs(want).astype(dtype)).astype(FLOAT64)
    assert np.isfinite(got).all(), got
    error = np.abs(got - want) / spacing
    assert error.max() <= ulp, (error.max(), got.ravel()[:8], want.ravel()[:8])


# --- blocks without a class that counts -----------------------------------------------------------


def half_masked(rest: float, classes: int, dtype: type) -> np.ndarray:
    """A row whose second half is -inf."""
    logits = np.full((1, 2 * classes), rest, dtype)
    logits[:, classes:] = -np.inf
    return logits


MASKED_HALVES = [
    *((rest, 1.0, FLOAT32) for rest in (-65535, -65536, -1e5, -5e8, -1e9, -1e10, -3.4e38)),
    (-7000, 0.1, FLOAT32),
    (-700, 0.01, FLOAT32),
    *((rest, 1.0, FLOAT64) for rest in (-1e9, -1e100, -1e308)),
]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("rest", "temperature", "dtype"), MASKED_HALVES)
def test_an_empty_block_weighs_nothing(
    rest: float, temperature: float, dtype: type, order: str
) -> None:
    classes = 2048
    logits = np.asarray(half_masked(rest, classes, dtype), order=order)
    p = np.where(np.arange(2 * classes) < classes, 1 / classes, 0)
    for targets in (np.array([5]), np.eye(1, 2 * classes, 5, dtype=dtype)):
        loss, grad = softmax_cross_entropy_grad(logits, targets, temperature=temperature)
        assert_close(loss, np.log(classes), dtype)
        assert_close(grad[0], (p - np.eye(1, 2 * classes, 5)[0]) / temperature, dtype)
    if temperature == 1:
        assert_close(softmax(logits)[0], p, dtype)
    diagonal = xent_fast.softmax_cross_entropy_hessian_diagonal(
        logits, np.array([5]), temperature=temperature
    )
    assert_close(diagonal[0], p * (1 - p) / temperature**2, dtype)
    teacher = half_masked(0, classes, dtype)
    loss, grad = xent_fast.distillation_loss_grad(logits, teacher, temperature=temperature)
    assert loss == 0
    assert (grad == 0).all()


def test_smoothed_targets_beside_an_empty_block() -> None:
    logits = half_masked(-1e5, 2048, FLOAT32)
    weight = np.where(np.isinf(logits[0]), 0, 1).astype(FLOAT32)
    loss, grad = softmax_cross_entropy_grad(
        logits, np.array([5]), label_smoothing=0.5, weight=weight
    )
    assert_close(loss, 0.75 * np.log(2048), FLOAT32)
    q = 0.5 * np.eye(1, 4096, 5)[0] + 0.5 / 4096 * weight
    assert_close(grad[0], np.where(weight, 0.75 / 2048, 0) - q, FLOAT32)


@pytest.mark.parametrize("temperature", [1.0, 0.99, 0.7])
def test_a_block_masked_with_the_lowest_number(temperature: float) -> None:
    logits = np.random.default_rng(0).standard_normal((1, 2048))
    logits[:, 1024:] = LOWEST_64
    want = exact(logits[0, :1024], one_hot(1024, 3), temperature=temperature)
    loss, grad = softmax_cross_entropy_grad(logits, np.array([3]), temperature=temperature)
    assert_close(loss, want.loss, FLOAT64)
    assert_close(grad[0], np.concatenate([want.grad, np.zeros(1024)]), FLOAT64)
    distilled, _ = xent_fast.distillation_loss_grad(logits, logits, temperature=temperature)
    assert distilled == 0


@pytest.mark.parametrize("pair", [(1e300, LOWEST_64), (1.5e308, -1.5e308), (0, LOWEST_64)])
def test_blocks_as_far_apart_as_numbers_go(pair: tuple[float, float]) -> None:
    logits = np.repeat(pair, 1024)[np.newaxis]
    loss, grad = softmax_cross_entropy_grad(logits, np.array([3]))
    assert_close(loss, np.log(1024), FLOAT64)
    assert_close(grad[0, 1024:], np.zeros(1024), FLOAT64)
    assert softmax_cross_entropy(logits, np.array([3])) == loss
