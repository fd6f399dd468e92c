"""Gradient and Hessian diagonal in one call, against the definition, in every layout.

Knows the definition's values and the bounds of a few ulp; must not know how the diagonal keeps its
digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from instruction_sets import AVAILABLE, forced

from xent_fast import (
    LossGradAndHessian,
    reference,
    softmax_cross_entropy_grad,
    softmax_cross_entropy_grad_hessian,
)

ULPS = 8  # of a probability 4, of the sum of the others the same, two products

CLASSES = (1, 2, 3, 4, 5, 10, 31, 32, 33, 128, 129, 500, 9000)
LAYOUTS = {
    "C": lambda x: np.ascontiguousarray(x),
    "F": lambda x: np.asfortranarray(x),
    "padded": lambda x: np.pad(x, ((0, 0), (0, 3)))[:, : x.shape[1]],
    "columns of a wider one": lambda x: np.asfortranarray(np.pad(x, ((0, 5), (0, 0))))[:-5],
    "reversed": lambda x: x[::-1].copy()[::-1],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "XGBoost's": {"factor": 2.0, "min_hessian": 1e-16},
    "weights": {"sample_weight": True, "weight": True, "ignore_index": 0, "reduction": "none"},
    "temperature": {"temperature": 0.7, "reduction": "mean", "factor": -1.5, "min_hessian": -1.0},
    "tiny": {"scale": 1e-30, "sample_weight": True},
    "huge": {"scale": 1e30, "factor": 1e7},
}
WITH_MASS: dict[str, dict[str, Any]] = {
    "smoothed": {"label_smoothing": 0.2, "factor": 2.0},
    "smoothed and weighted": {"label_smoothing": 0.2, "weight": True, "min_hessian": 0.01},
    "z": {"z_loss": 0.1, "temperature": 1.5},
}


def with_weights(options: dict[str, Any], rows: int, classes: int) -> dict[str, Any]:
    rng = np.random.default_rng(rows)
    made = {"sample_weight": rng.random(rows), "weight": rng.random(classes)}
    return {name: made.get(name, value) for name, value in options.items()}


def problem(rows: int, classes: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Some rows are nearly certain, rightly or not, so that p is next to 1."""
    rng = np.random.default_rng(classes)
    logits = 3 * rng.standard_normal((rows, classes))
    labels = rng.integers(0, classes, rows)
    logits[::3, classes // 2] += 25
    logits[np.arange(0, rows, 2), labels[::2]] += 30
    return logits.astype(dtype), labels


def assert_within(got: np.ndarray, want: np.ndarray, ulps: float) -> None:
    limits = np.finfo(got.dtype)
    with np.errstate(over="ignore"):
        want_rounded = want.astype(got.dtype)
    infinite = np.isinf(want_rounded)
    np.testing.assert_array_equal(got[infinite], want_rounded[infinite])
    bound = ulps * limits.eps * np.abs(want) + 2 * float(limits.smallest_subnormal)
    assert (np.abs(got.astype(np.float64) - want) <= bound)[~infinite].all()


EVERYWHERE = [(isa, layout) for isa in AVAILABLE for layout in LAYOUTS.values()]


@pytest.mark.parametrize("option", OPTIONS)
def test_class_indices(option: str, dtype: type) -> None:
    """Every number by itself within a few ulp; the loss has the bits of the gradient's call."""
    # float32 rows of such weights leave their type for the loss alone
    tolerance = np.finfo(dtype).eps if option == "huge" and dtype == np.float32 else 0
    for classes in CLASSES:
        rows = 5 if classes > 129 else 70
        logits, labels = problem(rows, classes, dtype)
        options = with_weights(OPTIONS[option], rows, classes)
        of_loss = {k: v for k, v in options.items() if k not in ("factor", "min_hessian")}
        of_loss = {"reduction": "sum", **of_loss}
        want = reference.softmax_cross_entropy_grad_hessian(logits, labels, **options)
        for isa, layout in EVERYWHERE:
            given = layout(logits)
            with forced(isa):
                got = softmax_cross_entropy_grad_hessian(given, labels, **options)
                loss = softmax_cross_entropy_grad(given, labels, **of_loss).loss
            assert got.grad.dtype == got.hessian.dtype == dtype
            assert_within(got.grad, want.grad, ULPS)
            assert_within(got.hessian, want.hessian, ULPS)
            np.testing.assert_allclose(got.loss, loss, rtol=tolerance)
            np.testing.assert_array_equal(given, logits)


@pytest.mark.parametrize("option", WITH_MASS)
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_targets_with_mass(kind: str, option: str, dtype: type) -> None:
    """The gradient has the bits of its own function."""
    for classes in (2, 10, 33, 128, 129, 500):
        rows = 70
        logits, targets = problem(rows, classes, dtype)
        if kind == "dense":
            targets = np.random.default_rng(1).random((rows, classes)).astype(dtype)
        options = with_weights(WITH_MASS[option], rows, classes)
        of_loss = {k: v for k, v in options.items() if k not in ("factor", "min_hessian")}
        want = reference.softmax_cross_entropy_grad_hessian(logits, targets, **options)
        size = np.abs(want.hessian).max(axis=1, keepdims=True)
        for isa, layout in EVERYWHERE:
            given = layout(logits), layout(targets) if kind == "dense" else targets
            with forced(isa):
                got = softmax_cross_entropy_grad_hessian(*given, **options)
                loss, grad = softmax_cross_entropy_grad(*given, reduction="sum", **of_loss)
            assert (np.abs(got.hessian - want.hessian) <= 32 * np.finfo(dtype).eps * size).all()
            assert got.loss == loss
            np.testing.assert_array_equal(got.grad, grad)


def test_result(dtype: type) -> None:
    result = softmax_cross_entropy_grad_hessian(np.zeros((2, 4), dtype), [0, 3])
    assert isinstance(result, LossGradAndHessian)
    loss, grad, hessian = result
    assert loss == pytest.approx(2 * np.log(4))
    np.testing.assert_array_equal(grad, [[-0.75, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, -0.75]])
    np.testing.assert_array_equal(hessian, np.full((2, 4), 0.1875))


def test_probability_next_to_one(dtype: type) -> None:
    """1 - p is far below eps, whether the certain class is the label or not."""
    logits = np.array([[60.0, 0.0, 1.0], [0.0, 80.0, -3.0]], dtype)
    for labels in ([0, 1], [1, 2]):
        got = softmax_cross_entropy_grad_hessian(logits, labels)
        want = reference.softmax_cross_entropy_grad_hessian(logits, labels)
        assert (got.hessian > 0).all()
        assert (got.hessian < 1e-20).all()
        assert_within(got.grad, want.grad, ULPS)
        assert_within(got.hessian, want.hessian, ULPS)


@pytest.mark.parametrize("classes", [3, 40])
def test_rows_that_do_not_count_and_rows_without_a_softmax(classes: int, dtype: type) -> None:
    logits = np.zeros((4, classes), dtype)
    logits[0, 0] = logits[1, 1] = np.nan
    logits[2] = -np.inf
    got = softmax_cross_entropy_grad_hessian(logits, [-1, 0, 0, 0], ignore_index=-1)
    assert np.isnan(got.loss)
    np.testing.assert_array_equal(got.grad[0], 0)
    np.testing.assert_array_equal(got.hessian[0], 0)
    for array in got[1:]:
        assert np.isnan(array[1:3]).all()
        assert np.isfinite(array[3]).all()
    got = softmax_cross_entropy_grad_hessian(logits, [-1] * 4, ignore_index=-1, min_hessian=0.5)
    assert got.loss == 0
    np.testing.assert_array_equal(got.grad, 0)
    np.testing.assert_array_equal(got.hessian, 0.5)
    got = softmax_cross_entropy_grad_hessian(
        logits, [-1] * 4, ignore_index=-1, min_hessian=0.5, reduction="mean"
    )
    assert np.isnan(got.loss)
    np.testing.assert_array_equal(got.grad, 0)
    np.testing.assert_array_equal(got.hessian, 0.5)


def test_negative_weights(dtype: type) -> None:
    logits, weights = np.zeros((2, 2), dtype), [-1.0, 1.0]
    got = softmax_cross_entropy_grad_hessian(logits, [0, 0], sample_weight=weights)
    np.testing.assert_array_equal(got.grad, [[0.5, -0.5], [-0.5, 0.5]])
    np.testing.assert_array_equal(got.hessian, [[0, 0], [0.25, 0.25]])
    got = softmax_cross_entropy_grad_hessian(
        logits, [0, 0], sample_weight=weights, min_hessian=-np.inf
    )
    np.testing.assert_array_equal(got.hessian, [[-0.25, -0.25], [0.25, 0.25]])
