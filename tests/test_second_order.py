"""The Hessian's product with a vector and its diagonal, against the definition.

Knows the definition's values and the error bounds of a row's softmax; must not know how either
function reads its blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import make_problem
from instruction_sets import AVAILABLE, forced

from xent_fast import (
    reference,
    softmax,
    softmax_cross_entropy_hessian_diagonal,
    softmax_cross_entropy_hvp,
    softmax_vjp,
)

# In units of eps, of the largest number of the row: sums of 7 to 500 terms, and a softmax.
TOLERANCE = 32

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": True},
    "sample_weight": {"sample_weight": True, "reduction": "none"},
    "label_smoothing": {"label_smoothing": 0.2, "weight": True, "reduction": "sum"},
    "temperature": {"temperature": 2.5},
    "z_loss": {"z_loss": 0.3, "temperature": 0.7, "scale": -3.0},
}

# The last has more rows than a block, the one before longer rows.
SHAPES = {
    "matrix": ((5, 7), -1),
    "transposed": ((7, 5), 0),
    "middle axis": ((3, 7, 4), 1),
    "one sample": ((7,), 0),
    "long rows": ((3, 70_000), 1),
    "many rows": ((300, 500), 1),
}


def assert_close(got: np.ndarray, want: np.ndarray, dtype: type[np.floating], axis: int) -> None:
    """Within TOLERANCE eps of the largest number of each row."""
    assert got.dtype == dtype
    bound = TOLERANCE * np.finfo(dtype).eps * np.abs(want).max(axis=axis, keepdims=True, initial=0)
    assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("place", SHAPES)
def test_against_the_definition(place: str, kind: str, dtype: type[np.floating]) -> None:
    for option in OPTIONS:
        logits, vector, targets, options = make_problem(
            *SHAPES[place], kind, OPTIONS[option], dtype
        )
        originals = [array.copy() for array in (logits, targets, vector)]
        product = reference.softmax_cross_entropy_hvp(logits, targets, vector, **options)
        want = reference.softmax_cross_entropy_hessian_diagonal(logits, targets, **options)
        for isa in AVAILABLE:
            with forced(isa):
                got = softmax_cross_entropy_hvp(logits, targets, vector, **options)
                assert_close(got, product, dtype, options["axis"])
                got = softmax_cross_entropy_hessian_diagonal(logits, targets, **options)
            assert_close(got, want, dtype, options["axis"])
            if options.get("z_loss") is None:  # terms of one sign: each is accurate by itself
                # exp of a rounded difference; its error is that of the difference, up to 30 here.
                np.testing.assert_allclose(got, want, rtol=64 * np.finfo(dtype).eps, atol=0)
        for array, original in zip((logits, targets, vector), originals, strict=True):
            np.testing.assert_array_equal(array, original)


def test_probability_near_one(dtype: type[np.floating]) -> None:
    """1 - p is far below eps; a constant in the vector neither counts nor rounds."""
    logits = np.array([[60.0, 0.0, 1.0], [0.0, 80.0, -3.0]], dtype)
    vector = np.array([[1.0, 2.0, 3.0], [1e3, 1e3 + 1, 1e3 + 3]], dtype)
    got = softmax_cross_entropy_hvp(logits, [0, 0], vector)
    want = reference.softmax_cross_entropy_hvp(logits, [0, 0], vector)
    np.testing.assert_allclose(got, want, rtol=64 * np.finfo(dtype).eps)
    got = softmax_cross_entropy_hessian_diagonal(logits, [0, 0])
    want = reference.softmax_cross_entropy_hessian_diagonal(logits, [0, 0])
    assert (got > 0).all()
    assert (got < 1e-20).all()
    np.testing.assert_allclose(got, want, rtol=64 * np.finfo(dtype).eps)


def test_rows_that_do_not_count_and_rows_without_a_softmax(dtype: type[np.floating]) -> None:
    nan, inf = np.nan, np.inf
    logits = np.array(
        [[nan, 1.0], [nan, 1.0], [inf, 0.0], [-inf, -inf], [-inf, 2.0], [1.0, 1.0]], dtype
    )
    labels = [-1, 0, 0, 0, 0, 1]
    vector = np.ones_like(logits)
    vector[:, 0] = 3.0
    vector[0] = nan
    options = {"ignore_index": -1, "reduction": "sum"}
    product = softmax_cross_entropy_hvp(logits, labels, vector, **options)
    diagonal = softmax_cross_entropy_hessian_diagonal(logits, labels, **options)
    undefined, zero = [nan, nan], [0.0, 0.0]
    rows = [zero, undefined, undefined, undefined, zero]
    few_ulp = 2 * np.finfo(dtype).eps
    np.testing.assert_allclose(product, [*rows, [0.5, -0.5]], rtol=few_ulp, atol=0)
    np.testing.assert_allclose(diagonal, [*rows, [0.25, 0.25]], rtol=few_ulp, atol=0)
    for arguments in ({"ignore_index": 0}, {"sample_weight": np.zeros(6)}):
        zeros = softmax_cross_entropy_hvp(logits, np.zeros(6, int), vector, **arguments)
        np.testing.assert_array_equal(zeros, np.zeros_like(logits))


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


def test_temperatures_whose_square_the_dtype_cannot_hold() -> None:
    logits = np.array([[0.0, 50.0], [1.0, 1.0]], np.float32)
    got = softmax_cross_entropy_hessian_diagonal(
        logits, [0, 0], temperature=1e-25, scale=1e-30, reduction="sum"
    )
    np.testing.assert_allclose(got, [[0, 0], [2.5e19, 2.5e19]], rtol=1e-6)
    got = softmax_cross_entropy_hessian_diagonal(logits, [0, 0], temperature=1e-25)
    np.testing.assert_array_equal(got, [[0, 0], [np.inf, np.inf]])


@pytest.mark.parametrize("classes", [3, 10, 40])
def test_temperatures_beyond_the_lanes(isa: str, dtype: type[np.floating], classes: int) -> None:
    """Such rows go to double. All classes are as likely there: p (u - mean u), u the vector."""
    temperature = 1e35 if dtype == np.float32 else 1e280
    rng = np.random.default_rng(classes)
    logits, vector = (rng.standard_normal((5, classes)).astype(dtype) for _ in range(2))
    got = softmax_cross_entropy_hvp(
        logits,
        rng.integers(0, classes, 5),
        vector * dtype(temperature),
        temperature=temperature,
        scale=temperature,
        reduction="sum",
    )
    want = (vector - vector.mean(axis=1, keepdims=True, dtype=np.float64)) / classes
    np.testing.assert_allclose(got, want, atol=8 * np.finfo(dtype).eps)


def test_the_plain_product_is_softmax_vjp_of_kept_probabilities(dtype: type) -> None:
    rng = np.random.default_rng(8)
    logits, vector = rng.standard_normal((2, 40, 17)).astype(dtype)
    labels = rng.integers(0, 17, 40)
    p = softmax(logits)
    got = softmax_vjp(p, vector)
    want = softmax_cross_entropy_hvp(logits, labels, vector, reduction="none")
    np.testing.assert_allclose(got, want, atol=8 * np.finfo(dtype).eps * np.abs(vector).max())
