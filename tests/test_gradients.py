"""Finite differences: every function that gives a derivative, under every option.

Knows which function is whose derivative, and that a central difference of step h is wrong by about
h^2 / 6 times the third derivative and by the function's rounding over h.
Must not know a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

STEP = 1e-5
# The rounding of values of order 10 over the step, and the step's square.
TOLERANCE = 1e-9

SHAPES = {"last axis": ((3, 4), -1), "middle axis": ((2, 4, 2), 1), "one sample": ((5,), 0)}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": True},
    "sample_weight": {"sample_weight": True},
    "ignore_index": {"ignore_index": 1},
    "label_smoothing": {"label_smoothing": 0.2},
    "all smoothed": {"label_smoothing": 1.0},
    "temperature": {"temperature": 2.5},
    "z_loss": {"z_loss": 0.3},
    "scale": {"scale": -3.5},
    "all at once": {
        "weight": True,
        "sample_weight": True,
        "ignore_index": 1,
        "label_smoothing": 0.1,
        "temperature": 0.7,
        "z_loss": 0.05,
        "scale": 1.5,
    },
}

# Options that have a place along the axes, in every shape; numbers in one.
OF_ROWS_OR_CLASSES = ("plain", "weight", "sample_weight", "ignore_index", "all at once")
PLACES = [
    (place, option)
    for place in SHAPES
    for option in OPTIONS
    if place == "last axis" or option in OF_ROWS_OR_CLASSES
]


def numerical_gradient(function: Callable[[np.ndarray], Any], x: np.ndarray) -> np.ndarray:
    """Slope of a function's sum along every entry of its argument."""
    slope = np.empty_like(x)
    for position in np.ndindex(x.shape):
        moved = x.copy()
        moved[position] = x[position] + STEP
        above = np.sum(function(moved))
        moved[position] = x[position] - STEP
        slope[position] = (above - np.sum(function(moved))) / (2 * STEP)
    return slope


def directional_difference(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """Derivative of an array-valued function along a direction."""
    return (function(x + STEP * direction) - function(x - STEP * direction)) / (2 * STEP)


def assert_slopes(got: np.ndarray, slope: np.ndarray) -> None:
    magnitude = 1 + np.abs(slope).max(initial=0.0)
    np.testing.assert_allclose(got, slope, rtol=0, atol=TOLERANCE * magnitude)


def problem(
    shape: tuple[int, ...], axis: int, kind: str, options: dict[str, Any], seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Logits, targets and options with weights in place of True."""
    rng = np.random.default_rng(seed)
    classes, rows = shape[axis], np.delete(shape, axis)
    logits = 1.5 * rng.standard_normal(shape)
    targets = rng.random(shape) if kind == "dense" else np.array(rng.integers(0, classes, rows))
    if kind == "index" and targets.size > 1 and classes > 1:
        targets.flat[:2] = 1, 0  # a row that ignore_index leaves out, and one that it does not
    options = {"axis": axis, **options}
    if options.get("weight"):
        options["weight"] = rng.random(classes)
    if options.get("sample_weight"):
        options["sample_weight"] = np.array(rng.random(rows))
    if kind == "dense" or targets.size == 1:
        options.pop("ignore_index", None)
    return logits, targets, options


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize(("place", "option"), PLACES)
def test_loss(implementation: ModuleType, place: str, option: str, kind: str) -> None:
    logits, targets, options = problem(*SHAPES[place], kind, OPTIONS[option])

    def loss(x: np.ndarray) -> Any:
        return implementation.softmax_cross_entropy(x, targets, **options)

    for reduction in ("mean", "sum", "none"):
        options["reduction"] = reduction
        result = implementation.softmax_cross_entropy_grad(logits, targets, **options)
        np.testing.assert_array_equal(loss(logits), result.loss)
        assert_slopes(result.grad, numerical_gradient(loss, logits))


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize(("place", "option"), PLACES)
def test_second_order(implementation: ModuleType, place: str, option: str, kind: str) -> None:
    """The Hessian's product with a vector is the gradient's slope along it."""
    logits, targets, options = problem(*SHAPES[place], kind, OPTIONS[option], seed=1)

    def gradient(x: np.ndarray) -> np.ndarray:
        return implementation.softmax_cross_entropy_grad(x, targets, **options).grad

    vector = np.random.default_rng(2).standard_normal(logits.shape)
    for reduction in ("mean", "sum", "none"):
        options["reduction"] = reduction
        got = implementation.softmax_cross_entropy_hvp(logits, targets, vector, **options)
        assert_slopes(got, directional_difference(gradient, logits, vector))
        got = implementation.softmax_cross_entropy_hessian_diagonal(logits, targets, **options)
        for position in range(0, logits.size, 3):
            unit = np.zeros_like(logits)
            unit.flat[position] = 1.0
            slope = directional_difference(gradient, logits, unit)
            assert_slopes(got.flat[position], slope.flat[position])


def test_softmax_loss(implementation: ModuleType) -> None:
    for kind in ("index", "dense"):
        logits, targets, _ = problem((3, 4), -1, kind, {}, seed=8)
        _, dx = implementation.softmax_loss(logits, targets)
        slope = numerical_gradient(
            lambda x, y=targets: implementation.softmax_loss(x, y)[0], logits
        )
        assert_slopes(dx, slope)


@pytest.mark.parametrize("place", SHAPES)
def test_softmax_and_its_relatives(implementation: ModuleType, place: str) -> None:
    shape, axis = SHAPES[place]
    logits, grad = np.random.default_rng(3).standard_normal((2, *shape))
    for function, backward in (
        (implementation.softmax, implementation.softmax_vjp),
        (implementation.log_softmax, implementation.log_softmax_vjp),
    ):
        slope = numerical_gradient(lambda x, f=function: grad * f(x, axis=axis), logits)
        assert_slopes(backward(function(logits, axis=axis), grad, axis=axis), slope)
    slope = numerical_gradient(lambda x: implementation.logsumexp(x, axis=axis), logits)
    assert_slopes(implementation.softmax(logits, axis=axis), slope)


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize(
    "option", ["plain", "weight", "sample_weight", "ignore_index", "label_smoothing", "scale"]
)
@pytest.mark.parametrize("place", SHAPES)
def test_loss_of_probabilities(
    implementation: ModuleType, place: str, option: str, kind: str
) -> None:
    """Some probabilities lie below and above what `clip` allows; none at its borders."""
    shape, axis = SHAPES[place]
    _, targets, options = problem(shape, axis, kind, OPTIONS[option], seed=4)
    rng = np.random.default_rng(5)
    probabilities = rng.choice([0.05, 0.2, 0.4, 0.7, 0.95], shape) + 0.01 * rng.random(shape)

    def loss(p: np.ndarray) -> Any:
        return implementation.cross_entropy(p, targets, **options)

    for clip, reduction in ((0.0, "mean"), (0.1, "sum"), (0.1, "none")):
        options |= {"clip": clip, "reduction": reduction}
        result = implementation.cross_entropy_grad(probabilities, targets, **options)
        np.testing.assert_array_equal(result.loss, loss(probabilities))
        # The third derivative of -log p is 2 / p^3: 16,000 at p = 0.05.
        slope = numerical_gradient(loss, probabilities)
        np.testing.assert_allclose(result.grad, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["index", "dense", "none"])
@pytest.mark.parametrize(("place", "option"), [pair for pair in PLACES if "z_loss" not in pair])
def test_distillation(implementation: ModuleType, place: str, option: str, kind: str) -> None:
    given_options = {key: value for key, value in OPTIONS[option].items() if key != "z_loss"}
    kind_of_targets = "index" if kind == "index" else "dense"
    logits, targets, options = problem(*SHAPES[place], kind_of_targets, given_options, seed=6)
    teacher = np.random.default_rng(7).standard_normal(logits.shape)
    if kind == "none":
        targets = None

    def loss(x: np.ndarray) -> Any:
        return implementation.distillation_loss_grad(x, teacher, targets, **options).loss

    for alpha, reduction in ((0.0, "mean"), (0.4, "none"), (1.0, "sum")):
        options |= {"alpha": alpha, "reduction": reduction}
        grad = implementation.distillation_loss_grad(logits, teacher, targets, **options).grad
        assert_slopes(grad, numerical_gradient(loss, logits))


@st.composite
def drawn_problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Any shape, axis, targets and mixture of options."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    options = {
        "weight": draw(st.booleans()),
        "sample_weight": draw(st.booleans()),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "temperature": draw(st.sampled_from([1.0, 0.6, 3.0])),
        "z_loss": draw(st.sampled_from([0.0, 0.2, -0.1])),
        "scale": draw(st.sampled_from([1.0, -2.0])),
        "reduction": draw(st.sampled_from(["mean", "sum"])),
    }
    for name in ("weight", "sample_weight"):
        if not options[name]:
            del options[name]
    kind, seed = draw(st.sampled_from(["index", "dense"])), draw(st.integers(0, 2**32 - 1))
    axis_of_classes = axis % len(shape)
    if draw(st.booleans()) and shape[axis_of_classes] > 1:
        options["ignore_index"] = 1
    return problem(shape, axis_of_classes, kind, options, seed)


@given(drawn=drawn_problems(), seed=st.integers(0, 2**32 - 1))
def test_loss_and_gradient_of_anything(
    implementation: ModuleType, drawn: tuple[np.ndarray, np.ndarray, dict[str, Any]], seed: int
) -> None:
    """Slopes along one random direction: of the loss, and of the gradient."""
    logits, targets, options = drawn
    direction = np.random.default_rng(seed).standard_normal(logits.shape)

    def loss(x: np.ndarray) -> Any:
        return implementation.softmax_cross_entropy(x, targets, **options)

    def gradient(x: np.ndarray) -> np.ndarray:
        return implementation.softmax_cross_entropy_grad(x, targets, **options).grad

    got = gradient(logits)
    if np.isnan(loss(logits)):  # every row is ignored
        assert not got.any()
        return
    slope = directional_difference(loss, logits, direction)
    assert np.vdot(got, direction) == pytest.approx(slope, rel=1e-7, abs=2e-8)
    product = implementation.softmax_cross_entropy_hvp(logits, targets, direction, **options)
    slope = directional_difference(gradient, logits, direction)
    np.testing.assert_allclose(product, slope, rtol=1e-7, atol=2e-8)
