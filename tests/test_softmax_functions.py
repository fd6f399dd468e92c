"""The second order and distillation: the same bits whatever does not belong to a row; fine points.

Knows the circumstances that must not reach a result, and values where numbers nearly cancel. Must
not know how the kernels share out rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_bits
from instruction_sets import SAME_BITS_PAIRS, forced

from xent_fast import (
    distillation_loss_grad,
    reference,
    softmax_cross_entropy_hessian_diagonal,
    softmax_cross_entropy_hvp,
)

Results = tuple[np.ndarray, ...]

# Rows of few and of many classes, of one and of several blocks; the last two for several threads.
SHAPES = (
    (70, 1),
    (70, 3),
    (70, 10),
    (40, 33),
    (40, 128),
    (40, 129),
    (20, 1_000),
    (9, 5_000),
    (3, 40_000),
)
LARGE_SHAPES = ((20_000, 5), (300, 1_000), (5, 40_000))


def hvp(x: np.ndarray, other: np.ndarray, targets: np.ndarray, **options: Any) -> Results:
    """As a tuple of arrays, one row's result in each row."""
    return (softmax_cross_entropy_hvp(x, targets, other, z_loss=0.1, **OPTIONS, **options),)


def diagonal(x: np.ndarray, other: np.ndarray, targets: np.ndarray, **options: Any) -> Results:
    """The same."""
    return (softmax_cross_entropy_hessian_diagonal(x, targets, z_loss=0.1, **OPTIONS, **options),)


def distillation(x: np.ndarray, other: np.ndarray, targets: np.ndarray, **options: Any) -> Results:
    """The same."""
    return tuple(distillation_loss_grad(x, other, targets, **OPTIONS, **options))


OPTIONS: dict[str, Any] = {"temperature": 1.5, "label_smoothing": 0.1, "reduction": "none"}
FUNCTIONS = [hvp, diagonal, distillation]


@pytest.fixture(params=FUNCTIONS)
def function(request: pytest.FixtureRequest) -> Callable[..., Results]:
    """One of the functions made of the softmax."""
    return request.param


def make_case(
    shape: tuple[int, int], dtype: type[np.floating], *, is_dense: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, a teacher's logits or a vector, and targets."""
    rng = np.random.default_rng(shape)
    x, other = (5 * rng.standard_normal((2, *shape))).astype(dtype)
    x[:, ::7] = -np.inf
    x[:, 0] = 1
    targets = rng.random(shape).astype(dtype) if is_dense else rng.integers(0, shape[1], shape[0])
    return x, other, targets


def assert_all_same(got: Results, want: Results) -> None:
    for one, other in zip(got, want, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
@pytest.mark.parametrize("is_dense", [False, True])
def test_threads(
    function: Callable[..., Results],
    isa: str,
    dtype: type[np.floating],
    shape: tuple[int, int],
    is_dense: bool,
) -> None:
    case = make_case(shape, dtype, is_dense=is_dense)
    want = function(*case, num_threads=1)
    for threads in (2, 3, None):
        assert_all_same(function(*case, num_threads=threads), want)


def test_sums_over_threads(dtype: type[np.floating]) -> None:
    """The batch's loss is added in one order."""
    x, other, targets = make_case((3_000, 40), dtype, is_dense=False)
    losses = {
        distillation_loss_grad(x, other, targets, num_threads=threads).loss for threads in (1, 2, 3)
    }
    assert len(losses) == 1


def test_places(function: Callable[..., Results], isa: str, dtype: type[np.floating]) -> None:
    """In place of either matrix, in rows that lie apart, in another order, and by itself."""
    for shape in SHAPES:
        x, other, targets = make_case(shape, dtype, is_dense=False)
        want = function(x, other, targets)
        for place in (0, 1):
            copies = [x.copy(), other.copy()]
            assert_all_same(function(*copies, targets, out=copies[place]), want)
        apart = np.full((shape[0], shape[1] + 3), np.nan, dtype)
        assert_all_same(function(x, other, targets, out=apart[:, 1:-2]), want)
        assert np.isnan(apart[:, [0, -2, -1]]).all()
        assert_all_same(
            function(x[::-1], other[::-1], targets[::-1]), tuple(part[::-1] for part in want)
        )
        for row in (0, shape[0] - 1):
            alone = slice(row, row + 1)
            got = function(x[alone], other[alone], targets[alone])
            assert_all_same(got, tuple(part[alone] for part in want))


@pytest.mark.parametrize("names", SAME_BITS_PAIRS, ids="-".join)
def test_instruction_sets(
    function: Callable[..., Results], dtype: type[np.floating], names: tuple[str, str]
) -> None:
    for shape in SHAPES:
        case = make_case(shape, dtype, is_dense=True)
        results = []
        for name in names:
            with forced(name):
                results.append(function(*case))
        assert_all_same(*results)


@pytest.mark.parametrize("classes", [3, 40, 3_000])
def test_student_as_sure_as_its_teacher(isa: str, dtype: type[np.floating], classes: int) -> None:
    """P and Q are near 1: the gradient there is minus the others', the loss of their order."""
    rng = np.random.default_rng(classes)
    student, teacher = rng.standard_normal((2, 4, classes)).astype(dtype)
    student[:, 1] = teacher[:, 1] = 40
    got = distillation_loss_grad(student, teacher, reduction="none")
    want = reference.distillation_loss_grad(student, teacher, reduction="none")
    assert (np.abs(want.loss) < 1e-10).all()
    # log(P / Q), of the order of 0.1 and more, is the difference of numbers near 40.
    np.testing.assert_allclose(got.loss, want.loss, rtol=2**10 * np.finfo(dtype).eps)
    grad = want.grad.copy()
    grad[:, 1] = 0  # of no digits in the definition, which takes 1 from 1
    grad[:, 1] = -grad.sum(axis=1)
    error = np.abs(got.grad - grad).max(axis=1)
    # The definition rounds logarithms near 40, and thousands of differences nearly cancel.
    assert (error <= 256 * np.finfo(dtype).eps * np.abs(grad).max(axis=1)).all()


@pytest.mark.parametrize("temperature", [1e-30, 1e30, 1e60])
def test_extreme_temperatures(isa: str, dtype: type[np.floating], temperature: float) -> None:
    """What is near 0 or infinite in between does not show where the result is neither."""
    logits = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype)
    vector = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]], dtype)
    options = {"temperature": temperature, "scale": temperature**2, "reduction": "sum"}
    rtol = 16 * np.finfo(dtype).eps
    got = softmax_cross_entropy_hvp(logits, [0, 1], vector, **options)
    want = [[-1 / 3, 0, 1 / 3], [-1 / 3, -1 / 3, 2 / 3]]
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
    got = softmax_cross_entropy_hessian_diagonal(logits, [0, 1], **options)
    np.testing.assert_allclose(got, np.full((2, 3), 2 / 9), rtol=rtol)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_extreme_temperatures_of_distillation(
    isa: str, dtype: type[np.floating], temperature: float
) -> None:
    rtol = 16 * np.finfo(dtype).eps
    student = np.array([[1.0, 1.0], [0.0, -np.inf]], dtype)
    teacher = np.array([[1.0, -np.inf], [0.0, -np.inf]], dtype)
    loss, grad = distillation_loss_grad(
        student, teacher, temperature=temperature, scale=1 / temperature, reduction="sum"
    )
    np.testing.assert_allclose(loss, temperature * np.log(2), rtol=rtol)
    np.testing.assert_allclose(grad, [[-0.5, 0.5], [0, 0]], rtol=rtol)
