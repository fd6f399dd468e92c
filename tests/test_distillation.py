"""Distillation, against the definition.

Knows the definition's values and the error bounds of a row's softmax; must not know how the
function reads its blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import make_problem
from instruction_sets import AVAILABLE, forced

from xent_fast import distillation_loss_grad, reference, softmax_cross_entropy_grad

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": True, "label_smoothing": 0.2},
    "sample_weight": {"sample_weight": True, "reduction": "none"},
    "temperature": {"temperature": 4.0, "alpha": 0.9, "reduction": "sum"},
    "scale": {"scale": -3.0, "temperature": 0.7, "alpha": 0.1},
}

# The last has more rows than a block, the one before longer rows.
SHAPES = {
    "matrix": ((5, 7), -1),
    "transposed": ((7, 5), 0),
    "middle axis": ((3, 7, 4), 1),
    "one sample": ((7,), 0),
    "long rows": ((2, 40_000), 1),
    "many rows": ((300, 200), 1),
}


@pytest.mark.parametrize("kind", ["index", "dense", "none"])
@pytest.mark.parametrize("place", SHAPES)
def test_against_the_definition(place: str, kind: str, dtype: type[np.floating]) -> None:
    """A gradient within 64 eps of its row's largest number; no term of a loss is negative."""
    for option in OPTIONS:
        student, teacher, targets, options = make_problem(
            *SHAPES[place], kind, OPTIONS[option], dtype
        )
        originals = [student.copy(), teacher.copy()]
        want = reference.distillation_loss_grad(student, teacher, targets, **options)
        eps = np.finfo(dtype).eps
        bound = 64 * eps * np.abs(want.grad).max(axis=options["axis"], keepdims=True)
        for isa in AVAILABLE:
            with forced(isa):
                got = distillation_loss_grad(student, teacher, targets, **options)
            np.testing.assert_allclose(got.loss, want.loss, rtol=64 * eps)
            assert got.grad.dtype == dtype
            assert (np.abs(got.grad - want.grad) <= bound).all()
        for array, original in zip((student, teacher), originals, strict=True):
            np.testing.assert_array_equal(array, original)


@pytest.mark.parametrize("distance", [2.0**-8, 1.0])
def test_student_near_its_teacher(distance: float, dtype: type[np.floating]) -> None:
    """The divergence is of the order of the difference's square, and 0 without a difference."""
    rng = np.random.default_rng(0)
    teacher = (3 * rng.standard_normal((16, 6))).astype(dtype)
    same = distillation_loss_grad(teacher, teacher, temperature=2.0)
    assert same.loss == 0
    assert not same.grad.any()
    student = teacher + (distance * rng.choice([-1, 1], teacher.shape)).astype(dtype)
    got = distillation_loss_grad(student, teacher, temperature=2.0)
    want = reference.distillation_loss_grad(student, teacher, temperature=2.0)
    # log(P / Q), near distance / 2, is the difference of numbers below 8.
    np.testing.assert_allclose(got.loss, want.loss, rtol=16 / distance * np.finfo(dtype).eps)
    np.testing.assert_allclose(got.grad, want.grad, atol=8 * np.finfo(dtype).eps, rtol=0)


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


def test_alpha_of_zero_is_the_loss_of_the_targets(dtype: type[np.floating]) -> None:
    student, teacher, targets, options = make_problem(
        *SHAPES["many rows"], "index", OPTIONS["weight"], dtype
    )
    got = distillation_loss_grad(student, teacher, targets, alpha=0.0, **options)
    want = softmax_cross_entropy_grad(student, targets, **options)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(got.loss, want.loss, rtol=4 * eps)
    np.testing.assert_allclose(got.grad, want.grad, rtol=0, atol=4 * eps * np.abs(want.grad).max())


def test_rows_that_do_not_count_and_rows_without_a_softmax(dtype: type[np.floating]) -> None:
    nan, inf = np.nan, np.inf
    student = np.array([[nan, 0], [nan, 0], [0, 1], [-inf, 0], [-inf, 0], [0, 0]], dtype)
    teacher = np.array([[0, 0], [0, 0], [-inf, -inf], [0, 0], [-inf, 5], [nan, 0]], dtype)
    labels = [-1, 1, 1, 1, 1, 1]
    options: dict[str, Any] = {"ignore_index": -1, "reduction": "none"}
    for alpha in (0.0, 0.5, 1.0):
        got = distillation_loss_grad(student, teacher, labels, alpha=alpha, **options)
        beyond = 0.0 if alpha == 0 else inf
        np.testing.assert_array_equal(got.loss, [0.0, nan, nan, beyond, 0.0, nan])
        undefined, zero, slope = [nan, nan], [0.0, 0.0], [-alpha / 2, alpha / 2]
        np.testing.assert_array_equal(
            got.grad, [zero, undefined, undefined, slope, zero, undefined]
        )
    got = distillation_loss_grad(student, teacher, np.zeros(6, int), ignore_index=0)
    assert np.isnan(got.loss)
    np.testing.assert_array_equal(got.grad, np.zeros_like(student))


@pytest.mark.parametrize(("axis", "error"), [(None, TypeError), (2**70, np.exceptions.AxisError)])
def test_no_axis_without_targets(axis: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        distillation_loss_grad(np.zeros((2, 3)), np.zeros((2, 3)), axis=axis)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_extreme_temperatures(isa: str, dtype: type[np.floating], temperature: float) -> None:
    rtol = 16 * np.finfo(dtype).eps
    student = np.array([[1.0, 1.0], [0.0, -np.inf]], dtype)
    teacher = np.array([[1.0, -np.inf], [0.0, -np.inf]], dtype)
    loss, grad = distillation_loss_grad(
        student, teacher, temperature=temperature, scale=1 / temperature, reduction="sum"
    )
    np.testing.assert_allclose(loss, temperature * np.log(2), rtol=rtol)
    np.testing.assert_allclose(grad, [[-0.5, 0.5], [0, 0]], rtol=rtol)
