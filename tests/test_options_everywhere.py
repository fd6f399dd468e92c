"""Every option on every way that a row can take, held to the definition.

Short rows side by side, long rows of one block and of several, rows that threads share; with the
gradient and without; rows that are ignored among them; statistics too.

Knows the definition, and how many classes choose a way.
Must not know how any of these ways computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import assert_within
from instruction_sets import AVAILABLE, forced

from xent_fast import (
    distillation_loss_grad,
    log_softmax,
    reference,
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
    softmax_cross_entropy_grad_hessian,
    softmax_cross_entropy_hessian_diagonal,
    softmax_cross_entropy_hvp,
    softmax_entropy_grad,
)

# rows, classes, threads: the last two share rows, in one part of a row and in several.
WAYS = ((5, 10, 1), (5, 100, 1), (2, 5_000, 1), (2, 40_000, 2), (2, 70_001, 2))
MANY = 20_000
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "z_loss": {"z_loss": 0.01},
    "z_loss and temperature": {"z_loss": 0.01, "temperature": 2.5},
    "smoothing": {"label_smoothing": 0.1},
    "z_loss and smoothing": {"z_loss": 0.01, "label_smoothing": 0.1},
    "weight": {"weight": True},
    "weight and z_loss": {"weight": True, "z_loss": 0.01},
}
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}


def make_case(rows: int, classes: int, dtype: type, kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    logits = (3 * rng.standard_normal((rows, classes))).astype(dtype)
    if kind == "dense":
        return logits, rng.random((rows, classes)).astype(dtype)
    labels = rng.integers(0, classes, rows)
    labels[0] = logits[0].argmax()
    if kind == "ignoring":
        labels[1] = -1
    return logits, labels


@pytest.mark.parametrize("kind", ["index", "dense", "ignoring"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_against_the_definition(dtype: type, way: tuple[int, int, int], kind: str) -> None:
    rows, classes, threads = way
    logits, targets = make_case(rows, classes, dtype, kind)
    tolerance = TOLERANCE[dtype]
    for option in OPTIONS:
        options = dict(OPTIONS[option])
        if "weight" in options:
            options["weight"] = np.random.default_rng(1).uniform(0.5, 2, classes).astype(dtype)
        if kind == "ignoring":
            options["ignore_index"] = -1
        arguments: dict[str, Any] = options | {"reduction": "none", "return_statistics": True}
        want = reference.softmax_cross_entropy_grad(logits, targets, **arguments)
        largest = np.abs(want.grad).max(axis=1, keepdims=True)
        for isa in AVAILABLE:
            with forced(isa):
                got = softmax_cross_entropy_grad(logits, targets, num_threads=threads, **arguments)
                alone = softmax_cross_entropy(logits, targets, num_threads=threads, **arguments)
            assert_within(got.loss, want.loss, tolerance * np.abs(want.loss))
            assert_within(got.grad, want.grad, tolerance * np.broadcast_to(largest, logits.shape))
            np.testing.assert_array_equal(alone.loss, got.loss)
            for statistics in (got.statistics, alone.statistics):
                np.testing.assert_allclose(statistics.lse, want.statistics.lse, rtol=tolerance)
                np.testing.assert_array_equal(statistics.prediction, want.statistics.prediction)
                np.testing.assert_array_equal(statistics.is_correct, want.statistics.is_correct)
            if kind == "ignoring":
                assert not got.grad[1].any()
                assert not got.statistics.is_correct[1]


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_statistics_along_any_axis(isa: str, dtype: type, axis: int, kind: str) -> None:
    rng = np.random.default_rng(axis)
    logits = rng.standard_normal((4, 5, 6)).astype(dtype)
    targets = rng.random((4, 5, 6)).astype(dtype)
    if kind == "index":
        targets = targets.argmax(axis=axis)
    arguments: dict[str, Any] = {"axis": axis, "reduction": "none", "return_statistics": True}
    want = reference.softmax_cross_entropy_grad(logits, targets, **arguments)
    got = softmax_cross_entropy_grad(logits, targets, **arguments)
    for value, wanted in zip(got.statistics, want.statistics, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("rows", [0, 2])
def test_statistics_of_rows_without_a_softmax(isa: str, dtype: type, rows: int) -> None:
    logits = np.full((rows, 100), -np.inf, dtype)
    result = softmax_cross_entropy(logits, np.ones((rows, 100), dtype), return_statistics=True)
    assert np.isnan(result.statistics.lse).all()
    np.testing.assert_array_equal(result.statistics.prediction, [-1] * rows)
    assert not result.statistics.is_correct.any()


def test_dense_targets_that_share_memory_with_out_along_another_axis(dtype: type) -> None:
    logits = np.zeros((4, 5, 6), dtype)
    out = np.zeros((4, 5, 6), dtype)
    with pytest.raises(ValueError, match="out shares memory with targets"):
        softmax_cross_entropy_grad(logits, out, axis=1, out=out)
    assert not out.any()


@pytest.mark.parametrize("targets_dtype", [np.float16, np.float32, np.float64])
def test_dense_targets_of_another_dtype_along_another_axis(
    isa: str, dtype: type, targets_dtype: type
) -> None:
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((4, 5, 6)).astype(dtype)
    targets = rng.random((4, 5, 6)).astype(targets_dtype)
    want = reference.softmax_cross_entropy_grad(logits, targets.astype(dtype), axis=1)
    got = softmax_cross_entropy_grad(logits, targets, axis=1)
    assert_within(got.grad, want.grad, TOLERANCE[dtype])


def test_log_softmax_of_long_rows_without_a_number(isa: str, dtype: type) -> None:
    logits = np.zeros((2, 100), dtype)
    logits[0, 3] = np.nan
    result = log_softmax(logits)
    assert np.isnan(result[0]).all()
    np.testing.assert_allclose(result[1], -np.log(100), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e300, 1e-300])
def test_hessian_of_any_scale(isa: str, dtype: type, scale: float) -> None:
    logits = np.linspace(-1, 1, 40, dtype=dtype).reshape(1, 40)
    vector = np.linspace(1, 2, 40, dtype=dtype).reshape(1, 40)
    arguments: dict[str, Any] = {"scale": scale, "reduction": "sum"}
    with np.errstate(all="ignore"):
        want = reference.softmax_cross_entropy_hvp(logits, [3], vector, **arguments).astype(dtype)
    got = softmax_cross_entropy_hvp(logits, np.array([3]), vector, **arguments)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=float(np.finfo(dtype).tiny))


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]], ids=["", "weight"])
@pytest.mark.parametrize("sample_weight", [None, [1.0, 2.0, 3.0, 4.0]], ids=["", "sample_weight"])
@pytest.mark.parametrize("ignore_index", [-100, 1])
def test_mean_divides_by_the_rows_that_count(
    dtype: type, ignore_index: int, sample_weight: list[float] | None, weight: list[float] | None
) -> None:
    logits = np.arange(12, dtype=dtype).reshape(4, 3) % 5
    labels = np.array([0, ignore_index, 2, ignore_index])
    arguments: dict[str, Any] = {
        "ignore_index": ignore_index,
        "sample_weight": sample_weight,
        "weight": weight,
    }
    want = reference.softmax_cross_entropy(logits, labels, **arguments)
    got = softmax_cross_entropy(logits, labels, **arguments)
    assert_within(got, want, TOLERANCE[dtype] * want)


# Of a row, its own weight and its class's alone choose how it is computed.
WEIGHED: dict[str, Callable[..., Any]] = {
    "loss and gradient": lambda x, y, v, **o: softmax_cross_entropy_grad(
        x, y, reduction="none", **o
    ),
    "smoothed": lambda x, y, v, **o: softmax_cross_entropy_grad(
        x, y, reduction="none", label_smoothing=0.1, **o
    ),
    "dense": lambda x, y, v, **o: softmax_cross_entropy_grad(x, np.abs(v), reduction="none", **o),
    "gradient and diagonal": lambda x, y, v, **o: softmax_cross_entropy_grad_hessian(
        x, y, reduction="none", **o
    ),
    "diagonal": lambda x, y, v, **o: softmax_cross_entropy_hessian_diagonal(
        x, y, reduction="sum", **o
    ),
    "product": lambda x, y, v, **o: softmax_cross_entropy_hvp(x, y, v, reduction="sum", **o),
    "distillation": lambda x, y, v, **o: distillation_loss_grad(x, v, y, reduction="none", **o),
    "entropy": lambda x, y, v, **o: softmax_entropy_grad(x, reduction="none", **o),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_a_weight_changes_no_other_row(isa: str, dtype: type, name: str) -> None:
    for classes, order in itertools.product([3, 10, 40, 3_000], ["C", "F"]):
        rng = np.random.default_rng(classes)
        logits, vectors = (
            np.array(3 * rng.standard_normal((21, classes)), dtype, order=order) for _ in range(2)
        )
        labels, others = rng.integers(0, classes, 21), np.arange(21) % 15 != 5
        ones, weights = np.ones(21), np.ones(21)
        want = WEIGHED[name](logits, labels, vectors, sample_weight=ones)
        for weight in (1e20, 1e4, 1e-12, 1e-37, 0.0, np.nan):
            weights[~others] = weight
            got = WEIGHED[name](logits, labels, vectors, sample_weight=weights)
            pairs = zip(got, want, strict=True) if isinstance(got, tuple) else [(got, want)]
            for part, whole in pairs:
                np.testing.assert_array_equal(part[others], whole[others])


@pytest.mark.parametrize("kind", ["index", "dense", "ignoring"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_grad_output_multiplies_the_gradient_alone(
    isa: str, dtype: type, way: tuple[int, int, int], kind: str
) -> None:
    """The loss is that of a call without it, the gradient has the bits of rows with that weight.

    Some factors show what is too small for the type, or leave it: then the loss comes that way too.
    """
    rows, classes, threads = way
    logits, targets = make_case(rows, classes, dtype, kind)
    for option in ["plain", "z_loss and temperature", "smoothing"]:
        arguments: dict[str, Any] = {**OPTIONS[option], "reduction": "none", "num_threads": threads}
        if kind == "ignoring":
            arguments["ignore_index"] = -1
        plain = softmax_cross_entropy_grad(logits, targets, return_statistics=True, **arguments)
        factors = (-2.5, np.linspace(-1, 2, rows), 0.0, 1e-30, 1e30, 1e300, np.inf, np.nan)
        for factor in factors if classes < MANY else factors[:2]:
            with np.errstate(all="ignore"):
                got = softmax_cross_entropy_grad(
                    logits, targets, grad_output=factor, return_statistics=True, **arguments
                )
                weight = np.broadcast_to(factor, rows)
                want = softmax_cross_entropy_grad(
                    logits, targets, sample_weight=weight, **arguments
                )
            tolerance = 0 if factor is factors[0] or factor is factors[1] else TOLERANCE[dtype]
            np.testing.assert_allclose(got.loss, plain.loss, rtol=tolerance)
            np.testing.assert_allclose(got.statistics.lse, plain.statistics.lse, rtol=tolerance)
            np.testing.assert_array_equal(got.grad, want.grad)


def test_grad_output_beside_weights_of_rows_and_classes(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(2)
    for rows, classes, threads in WAYS:
        logits, labels = make_case(rows, classes, dtype, "index")
        options: dict[str, Any] = {
            "weight": rng.uniform(0.5, 2, classes).astype(dtype),
            "sample_weight": rng.uniform(0, 2, rows),
            "reduction": "none",
        }
        factor = rng.standard_normal(rows)
        want = reference.softmax_cross_entropy_grad(logits, labels, grad_output=factor, **options)
        got = softmax_cross_entropy_grad(
            logits, labels, grad_output=factor, num_threads=threads, **options
        )
        plain = softmax_cross_entropy(logits, labels, num_threads=threads, **options)
        np.testing.assert_array_equal(got.loss, plain)
        largest = np.abs(want.grad).max(axis=1, keepdims=True)
        tolerance = TOLERANCE[dtype] * np.broadcast_to(largest, logits.shape)
        assert_within(got.grad, want.grad, tolerance)
