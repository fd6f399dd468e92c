"""Inputs that once gave wrong numbers, each with its right ones, on every instruction set.

Knows the formula, in mpmath, and how far off a result may be.
Must not know the kernels, nor the reference implementation.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
from helpers import assert_within_spacings

import xent_fast
from xent_fast import softmax, softmax_cross_entropy, softmax_cross_entropy_grad

FLOAT32, FLOAT64 = np.float32, np.float64
LOWEST_64 = np.finfo(FLOAT64).min
DIGITS = 60

pytestmark = pytest.mark.usefixtures("isa")


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
        alike, counts, places = classes_alike(logits, mass)
        x = [value * over for value, _ in alike]
        q = [own for _, own in alike]
        top = max(x)
        e = [mpmath.exp(value - top) for value in x]

        def sum_without(k: int) -> mpmath.mpf:
            """Of one class of the kind k, so that nothing cancels."""
            return mpmath.fdot([(n - (j == k), e[j]) for j, n in enumerate(counts)])

        log_sum = mpmath.log1p(sum_without(x.index(top)))
        lse = top + log_sum
        sum_of_e = mpmath.fdot(counts, e)
        total = mpmath.fdot(counts, q)
        loss = mpmath.fsum(
            n * own * ((top - value) + log_sum)
            for n, own, value in zip(counts, q, x, strict=True)
            if own != 0
        )
        loss += z_loss * lse**2
        slope = total + 2 * mpmath.mpf(z_loss) * lse
        grad = [
            factor * over * (slope * each / sum_of_e - own) for each, own in zip(e, q, strict=True)
        ]
        for k, own in enumerate(q):
            if own == total and z_loss == 0:
                grad[k] = -factor * over * own * sum_without(k) / sum_of_e
        return Exact(mpmath.mpf(factor) * loss, np.array(grad, float)[places], lse)


def classes_alike(*values: np.ndarray) -> tuple[list[list[mpmath.mpf]], list[int], np.ndarray]:
    """The different columns of numbers, how many classes have each, and which one each class has.

    Long rows here have few: in many digits that is the difference between seconds and none.
    """
    columns, places, counts = np.unique(
        np.array(values, float), axis=1, return_inverse=True, return_counts=True
    )
    return (
        [[mpmath.mpf(v) for v in column] for column in columns.T],
        counts.tolist(),
        places.ravel(),
    )


def one_hot(classes: int, label: int) -> np.ndarray:
    mass = np.zeros(classes)
    mass[label] = 1
    return mass


def assert_close(got: object, want: object, dtype: type, ulp: float = 6) -> None:
    """Each number finite, and within so many spacings of the dtype at the right one."""
    got, want = np.asarray(got, FLOAT64), np.asarray(want, FLOAT64)
    assert np.isfinite(got).all(), got
    assert_within_spacings(got, want, dtype, ulp)


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


# --- sums over rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("leader", [80.0, 88.0, 95.0])
@pytest.mark.parametrize("dense", [False, True])
def test_a_mean_keeps_what_its_rows_have(leader: float, dense: bool) -> None:
    rows = 10**5
    logits = np.zeros((rows, 2), FLOAT32)
    logits[:, 0] = leader
    targets = np.zeros(rows, int)
    want = np.log1p(np.exp(-leader))
    given = np.eye(2, dtype=FLOAT32)[targets] if dense else targets
    assert_close(softmax_cross_entropy(logits, given), want, FLOAT32, 2)
    assert_close(softmax_cross_entropy(logits, given, scale=2.0**100), want * 2.0**100, FLOAT32, 2)
    each = softmax_cross_entropy(logits[:20], given[:20], reduction="none")
    assert_close(each, np.full(20, want), FLOAT32, 4)


@pytest.mark.parametrize("rows", [1, 7, 255, 257, 10**6])
def test_a_float64_mean_of_equal_rows_is_the_row(rows: int) -> None:
    logits = np.zeros((rows, 2))
    logits[:, 0] = 0.3
    want = exact(logits[0], one_hot(2, 0)).loss
    assert_close(softmax_cross_entropy(logits, np.zeros(rows, np.int8)), want, FLOAT64, 4)


@pytest.mark.parametrize("dense", [False, True])
def test_a_sum_of_weights_is_rounded_once(dense: bool) -> None:
    weights = np.random.default_rng(0).random(10**6)
    targets = np.zeros(len(weights), int)
    given = np.eye(2)[targets] if dense else targets
    grad = softmax_cross_entropy_grad(np.zeros((10**6, 2)), given, sample_weight=weights).grad
    want = -weights / 2 / math.fsum(weights)
    assert_close(grad[:, 0], want, FLOAT64, 4)


def test_small_weights_beside_a_large_one_count() -> None:
    weights = np.full(10**6, 0.999 * 2.0**-53)
    weights[0] = 1
    total = 1 + (len(weights) - 1) * weights[1]
    loss, grad = softmax_cross_entropy_grad(
        np.zeros((len(weights), 2)), np.zeros(len(weights), int), sample_weight=weights
    )
    assert_close(grad[0, 0], -0.5 / total, FLOAT64, 4)
    assert_close(loss, np.log(2), FLOAT64, 4)


# --- lse from the pass ----------------------------------------------------------------------------

LSE_ROWS = [
    ([-0.1, -3, -40], FLOAT32),
    ([-0.1, -3, -40], FLOAT64),
    ([-0.5, -0.9, -700], FLOAT64),
    (np.random.default_rng(1).standard_normal(40) * 4 - 9, FLOAT32),
    (np.random.default_rng(2).standard_normal(40) * 4 - 9, FLOAT64),
    (np.random.default_rng(3).standard_normal(300) * 3, FLOAT32),
    (np.random.default_rng(4).standard_normal(2100) * 3, FLOAT64),
]


@functools.cache  # the longest row takes seconds
def exact_lse(number: int) -> mpmath.mpf:
    row, dtype = LSE_ROWS[number]
    return exact(np.asarray(row, dtype), one_hot(len(row), 0)).lse


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("number", range(len(LSE_ROWS)))
def test_lse_is_the_row_s_whatever_its_label(number: int, in_place: bool) -> None:
    row, dtype = LSE_ROWS[number]
    labels = np.arange(len(row))
    logits = np.tile(np.asarray(row, dtype), (len(row), 1))
    want = exact_lse(number)
    if in_place:
        call = softmax_cross_entropy_grad(
            logits, labels, return_statistics=True, out=logits
        ).statistics
    else:
        call = softmax_cross_entropy(logits, labels, return_statistics=True).statistics
    assert len(set(call.lse.tolist())) == 1
    largest = max(abs(want), abs(max(row)), abs(want - max(row)))
    spacing = float(np.spacing(dtype(float(largest))))
    assert abs(float(call.lse[0]) - float(want)) <= 4 * spacing


@pytest.mark.parametrize("z_loss", [0.1, 1.0])
@pytest.mark.parametrize(("row", "dtype"), LSE_ROWS[:5])
def test_the_z_loss_has_the_same_lse(row: list[float], dtype: type, z_loss: float) -> None:
    logits = np.asarray([row], dtype)
    for label in (0, len(row) - 1):
        want = exact(logits[0], one_hot(len(row), label), z_loss=float(z_loss))
        grad = softmax_cross_entropy_grad(logits, np.array([label]), z_loss=z_loss).grad
        error = np.abs(grad[0] - want.grad)
        size = np.maximum(np.abs(want.grad), np.exp(logits[0] - float(want.lse)))
        assert (error <= 8 * np.finfo(dtype).eps * size).all()


# --- rows that the dtype's own range cannot hold --------------------------------------------------


def check_row(
    logits: list[float],
    dtype: type,
    mass: np.ndarray,
    *,
    targets: object,
    temperature: float = 1.0,
    factor: float = 1.0,
    z_loss: float = 0.0,
    wide: bool = False,
    **options: object,
) -> None:
    """Loss and gradient of one row in place and not, alone and among others."""
    x = np.asarray([logits], dtype)
    want = exact(x[0], mass, temperature=temperature, factor=factor, z_loss=z_loss)
    options = {"temperature": temperature, "z_loss": z_loss, "reduction": "sum", **options}
    loss, grad = softmax_cross_entropy_grad(x, targets, **options)
    assert_close(loss, want.loss, FLOAT64 if wide else dtype, 2**30 if wide else 6)
    assert_close(grad[0], want.grad, dtype)
    assert softmax_cross_entropy(x, targets, **options) == loss
    in_place = x.copy()
    assert softmax_cross_entropy_grad(in_place, targets, out=in_place, **options).loss == loss
    assert (in_place == grad).all()
    row_loss = softmax_cross_entropy(x, targets, **{**options, "reduction": "none"})
    assert_close(row_loss[0], want.loss, dtype)


WIDTHS = (2, 40)


def spread(values: tuple[float, ...], classes: int) -> list[float]:
    """The values, and -inf for the rest."""
    return [*values, *[-np.inf] * (classes - len(values))]


@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize(
    ("far", "scale", "dtype"),
    [
        (-112, 2.0**40, FLOAT32),
        (-110, 65536.0, FLOAT32),
        (-111, 2.0**20, FLOAT32),
        (-130, 2.0**100, FLOAT32),
        (-760, 2.0**60, FLOAT64),
        (-1000, 2.0**800, FLOAT64),
    ],
)
def test_a_large_scale_reaches_small_probabilities(
    far: float, scale: float, dtype: type, classes: int
) -> None:
    row = spread((0, far), classes)
    for options in ({"scale": scale}, {"sample_weight": [scale]}):
        check_row(row, dtype, one_hot(classes, 0), targets=np.array([0]), factor=scale, **options)
    check_row(
        row,
        dtype,
        one_hot(classes, 0),
        targets=one_hot(classes, 0)[np.newaxis].astype(dtype),
        factor=scale,
        scale=scale,
    )


LARGE = {FLOAT32: 3e38, FLOAT64: 1.5e308}


@pytest.mark.parametrize("classes", WIDTHS)
def test_a_distance_beyond_the_dtype(classes: int, dtype: type) -> None:
    row, label = spread((LARGE[dtype], -LARGE[dtype]), classes), np.array([1])
    mass = one_hot(classes, 1)
    check_row(row, dtype, mass, targets=label, temperature=10.0)
    check_row(row, dtype, mass, targets=label, factor=0.1, scale=0.1)
    check_row(row, dtype, mass, targets=label, factor=0.1, sample_weight=[0.1])
    both = np.zeros((2, classes), dtype)
    both[0] = row
    loss = softmax_cross_entropy(both, np.array([1, 0]))
    assert_close(loss, LARGE[dtype], dtype)


@pytest.mark.parametrize("classes", [2, 40, 3000])
def test_masses_of_distances_beyond_the_dtype(classes: int, dtype: type) -> None:
    large = LARGE[dtype]
    row = [large, *[-large] * (classes - 1)]
    dense = np.full((1, classes), 0.1 / classes, dtype)
    dense[0, 0] = 0.9
    smoothed = np.full(classes, 0.1 / classes)
    smoothed[0] += 0.9
    for options in ({"scale": 0.1}, {"temperature": 10.0}, {"sample_weight": [0.1]}):
        factor = {} if "temperature" in options else {"factor": 0.1}
        check_row(row, dtype, dense[0], targets=dense, **factor, **options)
        check_row(
            row,
            dtype,
            smoothed,
            targets=np.array([0]),
            label_smoothing=0.1,
            **factor,
            **options,
        )
    masked = [1.0, *[0.5] * (classes - 2), float(np.finfo(dtype).min)]
    check_row(masked, dtype, smoothed, targets=np.array([0]), label_smoothing=0.1)


@pytest.mark.parametrize("classes", [2, 40, 3000])
def test_a_float32_mean_beyond_float32(classes: int) -> None:
    """The mean is a Python float."""
    row = np.full((1, classes), -3e38, FLOAT32)
    row[0, 0] = 3e38
    dense = np.full((1, classes), 1.0, FLOAT32)
    want = exact(row[0], dense[0])
    assert_close(softmax_cross_entropy(row, dense), want.loss, FLOAT64, 2**30)


@pytest.mark.parametrize("classes", [2, 40, 3000])
def test_weights_that_meet_their_opposites(classes: int) -> None:
    row = [1, *[0] * (classes - 1)]
    mass = np.full(classes, 0.1 / classes)
    mass[0] += 0.9
    check_row(
        row,
        FLOAT32,
        mass * float(FLOAT32(1e30)),
        targets=np.array([0]),
        weight=[1e30] * classes,
        label_smoothing=0.1,
        scale=1e-30,
        factor=1e-30,
    )
    # what is left of a mean's denominator is 1e-60
    mean = softmax_cross_entropy_grad(
        np.array([row], FLOAT32), np.array([0]), weight=[1e30] * classes, label_smoothing=0.1
    )
    want = exact(np.array(row, FLOAT32), mass)
    assert_close(mean.loss, want.loss, FLOAT32)
    assert_close(mean.grad[0], want.grad, FLOAT32)


def test_masses_that_meet_a_small_weight() -> None:
    check_row(
        [1, 0],
        FLOAT32,
        np.full(2, float(FLOAT32(3e38))),
        targets=np.full((1, 2), 3e38, FLOAT32),
        sample_weight=[1e-10],
        factor=1e-10,
    )


def exact_curvature(logits: np.ndarray, vector: np.ndarray | None, factor: float) -> np.ndarray:
    """f p (1 - p), or f p (v - sum p v), of one row in many digits."""
    alike, counts, places = classes_alike(logits, logits if vector is None else vector)
    e = [mpmath.exp(x - float(max(logits))) for x, _ in alike]
    p = [value / mpmath.fdot(counts, e) for value in e]
    if vector is None:
        curvature = [factor * value * (1 - value) for value in p]
    else:
        mean = mpmath.fsum(n * value * v for n, value, (_, v) in zip(counts, p, alike, strict=True))
        curvature = [factor * value * (v - mean) for value, (_, v) in zip(p, alike, strict=True)]
    return np.array(curvature, float)[places]


@pytest.mark.parametrize("classes", [2, 10, 40, 3000])
@pytest.mark.parametrize(
    ("far", "scale", "dtype"),
    [
        (-97, 65536.0, FLOAT32),
        (-97, 1.0, FLOAT32),
        (-112, 2.0**40, FLOAT32),
        (-725, 65536.0, FLOAT64),
        (-760, 2.0**60, FLOAT64),
    ],
)
def test_a_large_scale_reaches_small_curvature(
    far: float, scale: float, dtype: type, classes: int
) -> None:
    x = np.full((1, classes), far, dtype)
    x[0, 0] = 0
    vector = np.where(np.arange(classes) % 3, 1.5, -2).astype(dtype)[np.newaxis]
    options = {"reduction": "sum", "scale": scale}
    with mpmath.workdps(400):  # 1 - p of the likeliest class
        diagonal = exact_curvature(x[0], None, scale)
        product = exact_curvature(x[0], vector[0], scale)
    got = xent_fast.softmax_cross_entropy_hessian_diagonal(x, np.array([0]), **options)
    assert_close(got[0], diagonal, dtype)
    for label in (0, 1):
        both = xent_fast.softmax_cross_entropy_grad_hessian(x, np.array([label]), **options)
        if scale > 1:
            assert_close(both.hessian[0], diagonal, dtype)
    got = xent_fast.softmax_cross_entropy_hvp(x, np.array([0]), vector, **options)
    assert_close(got[0], product, dtype)
    assert (
        xent_fast.softmax_cross_entropy_hvp(x, np.array([0]), vector, out=vector, **options) == got
    ).all()


def test_a_vector_reaches_small_probabilities() -> None:
    x, vector = np.array([[0, -112]], FLOAT32), np.array([[0, 1e30]], FLOAT32)
    with mpmath.workdps(400):
        want = exact_curvature(x[0], vector[0], 1.0)
    got = xent_fast.softmax_cross_entropy_hvp(x, np.array([0]), vector)
    assert_close(got[0], want, FLOAT32)


@pytest.mark.parametrize("classes", [2, 20, 40])
@pytest.mark.parametrize("special", [np.inf, np.nan])
def test_an_undefined_row_without_mass(special: float, classes: int, dtype: type) -> None:
    logits = np.zeros((7, classes), dtype)
    logits[2, 0] = special
    losses, grad = softmax_cross_entropy_grad(logits, np.zeros_like(logits), reduction="none")
    assert list(np.isnan(losses)) == [row == 2 for row in range(7)]
    assert np.isnan(grad[2]).all()
    assert math.isnan(softmax_cross_entropy(logits, np.zeros_like(logits)))


@pytest.mark.parametrize("size", [1e308, 1e-310, 1e-300, 1.0])
@pytest.mark.parametrize("dense", [False, True])
def test_weights_of_any_size_have_a_mean(size: float, dense: bool) -> None:
    logits = np.eye(2)
    targets = np.eye(2)[[0, 0]] if dense else np.array([0, 0])
    want = softmax_cross_entropy(logits, targets, sample_weight=[1.0, 1.0])
    got = softmax_cross_entropy_grad(logits, targets, sample_weight=[size] * 2)
    assert_close(got.loss, want, FLOAT64)
    assert_close(got.grad, softmax_cross_entropy_grad(logits, targets).grad, FLOAT64)


@pytest.mark.parametrize("size", [1e308, 1e-310, 1.0])
@pytest.mark.parametrize("dense", [False, True])
def test_weights_of_any_size_have_a_mean_of_probabilities(size: float, dense: bool) -> None:
    p = np.full((2, 2), 0.5)
    targets = np.eye(2)[[0, 0]] if dense else np.array([0, 0])
    want = xent_fast.cross_entropy_grad(p, targets)
    class_weight = {} if dense else {"weight": [size] * 2}
    for options in ({"sample_weight": [size] * 2}, class_weight):
        got = xent_fast.cross_entropy_grad(p, targets, **options)
        assert_close(got.loss, want.loss, FLOAT64)
        assert_close(got.grad, want.grad, FLOAT64)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e-40, FLOAT32), (3e38, FLOAT32), (1e-40, FLOAT64), (1e-310, FLOAT64), (1e308, FLOAT64)],
)
def test_class_weights_of_any_size_have_a_mean(size: float, dtype: type) -> None:
    row = np.array([[1, 0]], dtype)
    for smoothing in (0.0, 0.1):
        got = softmax_cross_entropy_grad(
            row, np.array([0]), weight=[size] * 2, label_smoothing=smoothing
        )
        want = softmax_cross_entropy_grad(row, np.array([0]), label_smoothing=smoothing)
        assert_close(got.loss, want.loss, dtype)
        assert_close(got.grad, want.grad, dtype)


def test_a_z_loss_below_the_dtype() -> None:
    check_row([1e30, 1e29], FLOAT32, one_hot(2, 0), targets=np.array([0]), z_loss=1e-50, wide=True)


@pytest.mark.parametrize(
    ("temperature", "dtype"),
    [(1e37, FLOAT32), (1e38, FLOAT32), (1e306, FLOAT64), (1e308, FLOAT64)],
)
@pytest.mark.parametrize("classes", [2, 3, 20, 40, 3000])
def test_temperatures_near_the_largest_number(
    temperature: float, dtype: type, classes: int
) -> None:
    logits = np.ones((1, classes), dtype)
    want = np.full(classes, 1 / classes) - one_hot(classes, 0)
    loss, grad = softmax_cross_entropy_grad(logits, np.array([0]), temperature=temperature)
    assert_close(loss, np.log(classes), dtype)
    assert_close(grad[0], want / temperature, dtype)
    logits[0, -1] = -np.inf
    loss, grad = softmax_cross_entropy_grad(logits, np.array([0]), temperature=temperature)
    rest = np.full(classes - 1, 1 / (classes - 1)) - one_hot(classes - 1, 0)
    if classes > 2:
        assert_close(loss, np.log(classes - 1), dtype)
    assert_close(grad[0], np.append(rest, 0) / temperature, dtype)


def test_a_temperature_as_large_as_the_logits() -> None:
    check_row([0, -3e38], FLOAT32, one_hot(2, 0), targets=np.array([0]), temperature=1e36)


# --- distillation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1e2, 1e4, 1e6, 1e8, 1e16, 1e20])
def test_distillation_at_a_high_temperature(dtype: type, temperature: float) -> None:
    student, teacher = np.array([[1, 0]], dtype), np.array([[0, 2]], dtype)
    loss, grad = xent_fast.distillation_loss_grad(student, teacher, temperature=temperature)
    want_loss, want_grad = exact_distillation(student[0], teacher[0], temperature)
    assert_close(loss, want_loss, dtype, 8)
    assert_close(grad[0], want_grad, dtype, 8)


@pytest.mark.parametrize("temperature", [1e160, 1e300])
def test_distillation_at_a_temperature_whose_square_overflows(temperature: float) -> None:
    loss, grad = xent_fast.distillation_loss_grad(
        np.array([[1.0, 0]]), np.array([[0, 2.0]]), temperature=temperature
    )
    assert_close(loss, 1.125, FLOAT64)
    assert_close(grad[0], [0.75, -0.75], FLOAT64)


@pytest.mark.parametrize("temperature", [1.0, 20.0, 1e8])
@pytest.mark.parametrize("classes", [3, 40, 300])
def test_distillation_near_agreement(classes: int, dtype: type, temperature: float) -> None:
    rng = np.random.default_rng(classes)
    teacher = (rng.standard_normal((1, classes)) * 3).astype(dtype)
    steps = rng.integers(-8, 9, classes).astype(dtype)
    student = (teacher + steps * np.spacing(np.abs(teacher))).astype(dtype)
    loss, grad = xent_fast.distillation_loss_grad(student, teacher, temperature=temperature)
    want_loss, want_grad = exact_distillation(student[0], teacher[0], temperature)
    assert abs(loss - want_loss) <= 1e-5 * want_loss
    assert np.abs(grad[0] - want_grad).max() <= 1e-5 * np.abs(want_grad).max()


def exact_distillation(
    student: np.ndarray, teacher: np.ndarray, temperature: float
) -> tuple[float, np.ndarray]:
    """T^2 sum P log(P / Q) and T (Q - P), in many digits."""
    with mpmath.workdps(120):
        t = mpmath.mpf(temperature)
        logs = []
        for row in (teacher, student):
            x = [mpmath.mpf(float(value)) / t for value in row]
            lse = mpmath.log(mpmath.fsum(map(mpmath.exp, x)))
            logs.append([value - lse for value in x])
        log_p, log_q = logs
        p, q = ([mpmath.exp(value) for value in each] for each in logs)
        loss = t**2 * mpmath.fsum(
            each * (a - b) for each, a, b in zip(p, log_p, log_q, strict=True)
        )
        grad = [float(t * (b - a)) for a, b in zip(p, q, strict=True)]
        return float(loss), np.array(grad)


@pytest.mark.parametrize("temperature", [1.0, 300.0])
def test_sign_of_a_loss_of_zero_is_the_rows_own(dtype: type, temperature: float) -> None:
    """A weight of -0 times a loss is -0, whether or not another row of the batch has no loss."""
    logits = np.random.default_rng(0).standard_normal((32, 11)).astype(dtype)
    options: dict = {
        "sample_weight": np.full(32, -1.0),
        "scale": 0.0,
        "temperature": temperature,
        "reduction": "none",
    }
    alone = softmax_cross_entropy(logits, np.zeros(32, int), **options)
    logits[5] = np.nan
    beside = softmax_cross_entropy(logits, np.zeros(32, int), **options)
    others = np.arange(32) != 5
    np.testing.assert_array_equal(np.signbit(beside[others]), np.signbit(alone[others]))
    assert np.isnan(beside[5])
