"""The loss of probabilities as given: against the definition, and what it refuses.

Knows the definition and its special cases. Must not know how rows are taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import OUTPUT_LAYOUTS, GuardedArray, poisoned
from hypothesis import given
from hypothesis import strategies as st

from xent_fast import LossAndGrad, cross_entropy, cross_entropy_grad, reference

inf, nan = np.inf, np.nan


@st.composite
def calls(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Any shape, axis, dtype, targets and options; probabilities of 0, 1 and NaN among them."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, row_shape = shape[axis], tuple(np.delete(shape, axis))
    probabilities = rng.random(shape).astype(draw(st.sampled_from([np.float32, np.float64])))
    if draw(st.booleans()):
        special = rng.choice([0.0, 1.0, nan, 0.01, 0.99], shape)
        probabilities = np.where(
            rng.random(shape) < 0.3, special.astype(probabilities.dtype), probabilities
        )
    options: dict[str, Any] = {
        "axis": axis,
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "clip": draw(st.sampled_from([0.0, 0.1])),
        "scale": draw(st.sampled_from([1.0, -2.5])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    if draw(st.booleans()):
        options["weight"] = rng.choice([0.0, 0.5, 2.0], classes)
    if draw(st.booleans()):
        options["sample_weight"] = np.array(rng.choice([0.0, 0.5, 2.0], row_shape))
    if draw(st.booleans()):
        targets = np.where(rng.random(shape) < 0.3, 0.0, rng.random(shape))
    else:
        targets = np.array(rng.integers(0, classes, row_shape))
        if draw(st.booleans()):
            options["ignore_index"] = 0
    return probabilities, targets, options


@given(call=calls())
def test_agrees_with_the_definition(call: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
    probabilities, targets, options = call
    want = reference.cross_entropy_grad(probabilities, targets, **options)
    got = cross_entropy_grad(probabilities, targets, **options)
    assert type(got) is LossAndGrad
    eps = np.finfo(probabilities.dtype).eps
    tolerance = {"rtol": 4 * eps, "atol": 8 * np.finfo(np.float64).eps}
    np.testing.assert_allclose(got.loss, want.loss, **tolerance)
    np.testing.assert_allclose(got.grad, want.grad, **tolerance)
    assert got.grad.dtype == probabilities.dtype
    if options["reduction"] == "none":
        assert got.loss.dtype == probabilities.dtype
        assert got.loss.shape == want.loss.shape
    else:
        assert type(got.loss) is float
    np.testing.assert_array_equal(cross_entropy(probabilities, targets, **options), got.loss)


def test_more_rows_than_are_taken_at_once(dtype: type) -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.random((3000, 50)).astype(dtype)
    labels = rng.integers(0, 50, 3000)
    for targets in (labels, np.eye(50)[labels]):
        for smoothing in (0.0, 0.25):
            options = {"label_smoothing": smoothing, "reduction": "sum"}
            got = cross_entropy_grad(probabilities, targets, **options)
            want = reference.cross_entropy_grad(probabilities, targets, **options)
            assert got.loss == pytest.approx(want.loss, rel=1e-13)
            np.testing.assert_allclose(got.grad, want.grad, rtol=2 * np.finfo(dtype).eps)


def test_zero_probability() -> None:
    p = np.array([[0.0, 1.0], [0.0, 1.0]])
    loss, grad = cross_entropy_grad(p, np.array([0, 1]), reduction="none")
    np.testing.assert_array_equal(loss, [inf, 0])
    np.testing.assert_array_equal(grad, [[-inf, 0], [0, -1]])
    loss, grad = cross_entropy_grad(p, np.array([0, 1]), reduction="none", clip=1e-7)
    np.testing.assert_allclose(loss, [-np.log(1e-7), -np.log(1 - 1e-7)])
    assert not grad.any()


def test_ignored_rows_and_void_means() -> None:
    p = np.array([[nan, nan], [0.5, 0.5]])
    loss, grad = cross_entropy_grad(p, np.array([-1, 0]), ignore_index=-1)
    assert loss == np.log(2)
    np.testing.assert_array_equal(grad, [[0, 0], [-2, 0]])
    smoothed = cross_entropy_grad(p, np.array([-1, 0]), ignore_index=-1, label_smoothing=1.0)
    assert smoothed.loss == np.log(2)
    np.testing.assert_array_equal(smoothed.grad, [[0, 0], [-1, -1]])
    for targets in (np.array([-1, -1]), np.empty((0,), int)):
        void = cross_entropy_grad(p[: len(targets)], targets, ignore_index=-1)
        assert np.isnan(void.loss)
        assert not void.grad.any()
        assert cross_entropy(p[: len(targets)], targets, ignore_index=-1, reduction="sum") == 0


@pytest.mark.parametrize("label_dtype", [kind + size for kind in "iu" for size in "1248"])
def test_labels_of_any_integer_dtype(label_dtype: str) -> None:
    p = np.random.default_rng(5).random((4, 3))
    labels = np.array([0, 2, 1, 1])
    want = cross_entropy(p, labels)
    assert cross_entropy(p, labels.astype(label_dtype)) == want
    assert cross_entropy(p, labels.astype(label_dtype).astype(f">{label_dtype}")) == want
    assert cross_entropy(p, labels.astype(label_dtype), ignore_index=-1) == want


@pytest.mark.parametrize("layout", OUTPUT_LAYOUTS)
def test_outputs(dtype: type, layout: str) -> None:
    rng = np.random.default_rng(6)
    p, labels = rng.random((7, 5)).astype(dtype), rng.integers(0, 5, 7)
    want = cross_entropy_grad(p, labels, label_smoothing=0.1)
    out = poisoned(7, 5, dtype, layout)
    over = GuardedArray(p, layout)
    for guarded, source in ((out, p), (over, over.array)):
        got = cross_entropy_grad(source, labels, label_smoothing=0.1, out=guarded.array)
        assert got.grad is guarded.array
        assert got.loss == want.loss
        np.testing.assert_array_equal(got.grad, want.grad)
        guarded.assert_guards_intact()


GOOD = np.full((6, 4), 0.25, np.float32)
LABELS = np.arange(6) % 4


def test_bad_input() -> None:
    out_of_bounds = np.full(6, 2**64 - 1, np.uint64)
    for function in (cross_entropy, cross_entropy_grad):
        with pytest.raises(IndexError, match="18446744073709551615"):
            function(GOOD, out_of_bounds, ignore_index=-1)
    with pytest.raises(ValueError, match="out overlaps probabilities"):
        cross_entropy_grad(GOOD, LABELS, out=GOOD[::-1])
    assert (GOOD == 0.25).all()
