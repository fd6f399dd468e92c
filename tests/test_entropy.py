"""Entropy, its gradient, statistics by name, `grad_output`, the gradient by dense targets.

Knows closed forms, the reference, mpmath. Must not know how anything is computed.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

import xent_fast
from xent_fast import reference

pytestmark = pytest.mark.usefixtures("isa")


def rows(shape: tuple[int, ...], dtype: type = np.float64, seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def assert_close(got: Any, want: Any, dtype: type) -> None:
    tolerance = 20 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 7, 16, 33, 1000, 5000])
def test_equal_logits_have_the_logarithm_of_their_number(dtype: type, classes: int) -> None:
    logits = np.full((2, classes), 7, dtype)
    entropy, grad = xent_fast.softmax_entropy_grad(logits, reduction="none")
    assert entropy.dtype == grad.dtype == dtype
    np.testing.assert_allclose(entropy, np.log(classes), rtol=2 * np.finfo(dtype).eps)
    assert not grad.any()


def in_last_places(got: Any, want: mpmath.mpf, size: mpmath.mpf, dtype: type) -> float:
    """|got - want| in units in the last place of `size`."""
    unit = mpmath.ldexp(float(np.finfo(dtype).eps), int(mpmath.floor(mpmath.log(size, 2))))
    return float(abs(mpmath.mpf(float(got)) - want) / unit)


def test_bounds_that_the_page_states(dtype: type) -> None:
    """Units in the last place of H, near 0 too, and of p (|log p| + H) / T in the gradient."""
    bound = 5 if dtype == np.float32 else 8
    rng = np.random.default_rng(5)
    least = float(np.finfo(dtype).tiny)
    with mpmath.workprec(200):
        for k in range(60):
            temperature = (1.0, 0.7, 3.0)[k % 3]
            logits = rng.standard_normal(int(rng.integers(2, 40))) * (1e-3, 1, 5, 30)[k % 4]
            logits[0] += (0, 0, 20, 80)[k // 4 % 4] * temperature
            given = (logits + (0, 100)[k % 2]).astype(dtype)
            entropy, grad = xent_fast.softmax_entropy_grad(
                given, temperature=temperature, reduction="none"
            )
            x = [mpmath.mpf(float(value)) / temperature for value in given]
            lse = max(x) + mpmath.log(mpmath.fsum(mpmath.exp(value - max(x)) for value in x))
            want = mpmath.fsum(mpmath.exp(value - lse) * (lse - value) for value in x)
            if want > least:
                assert in_last_places(entropy, want, want, dtype) <= bound
            for got, value in zip(grad, x, strict=True):
                p, log_p = mpmath.exp(value - lse), value - lse
                size = p * (abs(log_p) + want) / temperature
                if size > least:
                    slope = -p * (log_p + want) / temperature
                    assert in_last_places(got, slope, size, dtype) <= 8


def test_bounds_in_many_rows() -> None:
    """The same of float32, in double, which is as good as exact there."""
    rng = np.random.default_rng(7)
    epsilon, least = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
    for k in range(24):
        logits = rng.standard_normal((500, (2, 3, 10, 40)[k % 4])) * 10.0 ** rng.uniform(-3, 1.5)
        logits[:, 0] += rng.uniform(0, 40, 500) * (k % 3)
        logits = (logits + (0, 100, 1e4)[k % 3]).astype(np.float32)
        entropy, grad = xent_fast.softmax_entropy_grad(logits, reduction="none")
        want = reference.softmax_entropy_grad(logits, reduction="none")
        log_p = reference.log_softmax(logits)
        size = np.exp(log_p) * (np.abs(log_p) + want.entropy[:, np.newaxis])
        for got, exact, unit_of, bound in (
            (entropy, want.entropy, want.entropy, 5),
            (grad, want.grad, size, 8),
        ):
            counted = unit_of > least
            unit = epsilon * 2.0 ** np.floor(np.log2(unit_of[counted]))
            assert (np.abs(got - exact)[counted] <= bound * unit).all()


def test_one_dominating_class(dtype: type) -> None:
    """H = e^-d (1 + d) to first order: nothing of it is lost beside 1."""
    for distance in (20.0, 50.0, 80.0):
        entropy = xent_fast.softmax_entropy(np.array([0, -distance], dtype), reduction="none")
        first_order = np.exp(-distance) * (1 + distance)
        np.testing.assert_allclose(entropy, first_order, rtol=4e-9 + 3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("classes", [2, 5, 17, 100, 3000])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 7.0])
def test_beside_the_reference(dtype: type, classes: int, temperature: float) -> None:
    logits = rows((9, classes), dtype)
    weight = np.linspace(0, 2, 9)
    for reduction in ("mean", "sum", "none"):
        options: dict[str, Any] = {
            "temperature": temperature,
            "reduction": reduction,
            "sample_weight": weight,
            "scale": -0.5,
        }
        want = reference.softmax_entropy_grad(logits, **options)
        got = xent_fast.softmax_entropy_grad(logits, **options)
        assert_close(got.entropy, want.entropy, dtype)
        assert_close(got.grad, want.grad, dtype)
        alone = xent_fast.softmax_entropy(logits, **options)
        np.testing.assert_array_equal(alone, got.entropy)


def test_gradient_by_finite_differences() -> None:
    logits = rows((3, 6))
    grad = xent_fast.softmax_entropy_grad(logits, temperature=1.5).grad
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        above, below = (
            xent_fast.softmax_entropy(logits + sign * step, temperature=1.5) for sign in (1, -1)
        )
        np.testing.assert_allclose(grad[place], (above - below) / 2e-5, atol=1e-9)


def test_special_rows(dtype: type) -> None:
    inf, most = np.inf, float(np.finfo(dtype).max)
    logits = np.array(
        [
            [0, -inf, 0],
            [-inf, 5, -inf],
            [most, -most, most],
            [np.nan, 0, 9],
            [9, 0, np.nan],
            [inf, 0, 0],
            [-inf, -inf, -inf],
        ],
        dtype,
    )
    entropy, grad = xent_fast.softmax_entropy_grad(logits, reduction="none")
    np.testing.assert_allclose(entropy, [np.log(2), 0, np.log(2), *[np.nan] * 4], rtol=1e-6)
    assert (grad[:3] == 0).all()
    assert np.isnan(grad[3:]).all()
    both = xent_fast.softmax_entropy_grad(logits[:0])
    assert np.isnan(both.entropy)
    assert xent_fast.softmax_entropy(logits[:0], reduction="sum") == 0
    void = xent_fast.softmax_entropy_grad(logits, sample_weight=np.zeros(7))
    assert np.isnan(void.entropy)
    assert (void.grad == 0).all()


# --- statistics by name ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_statistics_by_name(dtype: type, kind: str) -> None:
    logits = rows((5, 7, 3), dtype)
    logits[0, 0, 0] = np.nan
    targets = np.random.default_rng(1).integers(0, 7, (5, 3))
    options: dict[str, Any] = {"axis": 1, "temperature": 2.0, "z_loss": 0.1, "reduction": "sum"}
    if kind == "dense":
        targets = np.random.default_rng(1).random(logits.shape)
    else:
        options.update(ignore_index=3, label_smoothing=0.1)
    names = ("target_log_probability", "entropy", "lse", "prediction", "is_correct")
    want = reference.softmax_cross_entropy(logits, targets, return_statistics=names, **options)
    loss, grad, got = xent_fast.softmax_cross_entropy_grad(
        logits, targets, return_statistics=names, **options
    )
    for name in names:
        assert_close(getattr(got, name), getattr(want.statistics, name), dtype)
        assert getattr(got, name).shape == (5, 3)
    plain = xent_fast.softmax_cross_entropy_grad(logits, targets, return_statistics=True, **options)
    np.testing.assert_array_equal(loss, plain.loss)
    np.testing.assert_array_equal(grad, plain.grad)
    assert len(plain.statistics) == 3
    for name in plain.statistics._fields:
        np.testing.assert_array_equal(getattr(got, name), getattr(plain.statistics, name))
    one = xent_fast.softmax_cross_entropy(logits, targets, return_statistics="entropy", **options)
    np.testing.assert_array_equal(one.statistics.entropy, got.entropy)
    assert one.statistics._replace(entropy=None) == (None,) * 5
    in_place = logits.copy()
    placed = xent_fast.softmax_cross_entropy_grad(
        in_place, targets, return_statistics=names, out=in_place, **options
    )
    np.testing.assert_array_equal(placed.statistics.entropy, got.entropy)
    np.testing.assert_array_equal(in_place, grad)


def test_a_target_of_probability_near_one_keeps_its_logarithm() -> None:
    loss = xent_fast.softmax_cross_entropy(
        np.array([[0.0, -40.0]]),
        [0],
        label_smoothing=0.5,
        return_statistics="target_log_probability",
    )
    np.testing.assert_allclose(loss.statistics.target_log_probability, -np.exp(-40), rtol=1e-15)


def test_unknown_names_are_refused() -> None:
    logits, out = rows((3, 4)), np.zeros((3, 4))
    for names in ("entropies", ["entropy", "loss"], ("lse", 3)):
        with pytest.raises(ValueError, match="return_statistics must be a bool or names among lse"):
            xent_fast.softmax_cross_entropy_grad(
                logits, [0, 1, 2], return_statistics=names, out=out
            )
    assert not out.any()


# --- grad_output ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (3, 40, 2), (2, 9000)])
def test_grad_output(dtype: type, shape: tuple[int, ...]) -> None:
    logits, slopes = rows(shape, dtype), rows(shape, dtype, 1)
    row_shape = (shape[0], *shape[2:])
    upstream = np.linspace(-1, 2, int(np.prod(row_shape))).reshape(row_shape)
    upstream.flat[0] = 0
    labels = np.random.default_rng(2).integers(0, shape[1], row_shape)
    per_row = np.expand_dims(upstream, 1)
    p, log_p = xent_fast.softmax(logits, axis=1), xent_fast.log_softmax(logits, axis=1)
    for number, factor in ((upstream, per_row), (-2.0, -2.0), (np.float32(0.1), np.float32(0.1))):
        for function, arguments in (
            (xent_fast.softmax_vjp, (p, slopes)),
            (xent_fast.log_softmax_vjp, (log_p, slopes)),
        ):
            whole = function(*arguments, axis=1, grad_output=number)
            once = function(*arguments, axis=1)
            np.testing.assert_array_equal(whole, once * np.asarray(factor, dtype))
            own = arguments[0].copy()
            function(own, slopes, axis=1, grad_output=number, out=own)
            np.testing.assert_array_equal(own, whole)
        options: dict[str, Any] = {"axis": 1, "reduction": "none", "ignore_index": 1}
        plain = xent_fast.softmax_cross_entropy_grad(logits, labels, **options)
        got = xent_fast.softmax_cross_entropy_grad(logits, labels, grad_output=number, **options)
        np.testing.assert_array_equal(got.loss, plain.loss)
        assert_close(got.grad, plain.grad * factor, dtype)
        own = logits.copy()
        xent_fast.softmax_cross_entropy_grad(own, labels, grad_output=number, out=own, **options)
        np.testing.assert_array_equal(own, got.grad)
        entropies = xent_fast.softmax_entropy_grad(logits, axis=1, reduction="none")
        got = xent_fast.softmax_entropy_grad(logits, axis=1, reduction="none", grad_output=number)
        np.testing.assert_array_equal(got[0], entropies.entropy)
        assert_close(got[1], entropies.grad * factor, dtype)


def test_grad_output_beside_weights_and_statistics() -> None:
    logits, labels, weight = rows((4, 3)), [0, 1, 2, 0], np.arange(4.0)
    options: dict[str, Any] = {"sample_weight": weight, "scale": 3.0, "z_loss": 0.1}
    for reduction, upstream in (("mean", 0.5), ("sum", -1.0), ("none", np.array([1.0, 2, 3, 0]))):
        want = reference.softmax_cross_entropy_grad(
            logits, labels, reduction=reduction, grad_output=upstream, **options
        )
        got = xent_fast.softmax_cross_entropy_grad(
            logits,
            labels,
            reduction=reduction,
            grad_output=upstream,
            return_statistics=True,
            **options,
        )
        assert_close(got.loss, want.loss, np.float64)
        assert_close(got.grad, want.grad, np.float64)
        assert got.statistics.lse.shape == (4,)


def test_grad_output_that_does_not_fit() -> None:
    logits, labels, out = rows((4, 3)), [0, 1, 2, 0], np.zeros((4, 3))
    calls = (
        lambda **options: xent_fast.softmax_cross_entropy_grad(logits, labels, **options),
        lambda **options: xent_fast.softmax_entropy_grad(logits, **options),
    )
    for call in calls:
        with pytest.raises(ValueError, match="grad_output must be a number where reduction is"):
            call(grad_output=np.ones(4), out=out)
        with pytest.raises(ValueError, match=r"grad_output must have shape \(4,\), not \(3,\)"):
            call(grad_output=np.ones(3), reduction="none", out=out)
        with pytest.raises(TypeError, match="grad_output must be a real number, not str"):
            call(grad_output="1", out=out)
        with pytest.raises(TypeError, match="grad_output must hold real numbers"):
            call(grad_output=np.ones(4, complex), reduction="none", out=out)
    assert not out.any()


# --- the gradient by dense targets ----------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
def test_gradient_by_targets(dtype: type, axis: int) -> None:
    logits = rows((4, 5, 6), dtype)
    classes = logits.shape[axis]
    row_shape = (4, 6) if axis == 1 else (4, 5)
    for options in (
        {},
        {"label_smoothing": 0.25, "temperature": 3.0},
        {"weight": np.linspace(0, 1, classes), "scale": -2.0, "reduction": "sum"},
        {"sample_weight": np.linspace(0, 1, 4 * row_shape[1]).reshape(row_shape)},
        {"reduction": "none", "grad_output": np.ones(row_shape) * 3},
        {"grad_output": -1.5, "reduction": "mean"},
    ):
        want = reference.softmax_cross_entropy_grad_targets(logits, axis=axis, **options)
        got = xent_fast.softmax_cross_entropy_grad_targets(logits, axis=axis, **options)
        assert got.dtype == dtype
        assert_close(got, want, dtype)


def test_gradient_by_targets_by_differences() -> None:
    """The loss is linear in its targets, so that one difference says it all."""
    rng = np.random.default_rng(0)
    logits, targets, step = rows((3, 5)), rng.random((3, 5)), rng.random((3, 5))
    options: dict[str, Any] = {
        "weight": rng.random(5),
        "sample_weight": rng.random(3),
        "label_smoothing": 0.1,
        "temperature": 2.0,
        "scale": 3.0,
    }
    grad = xent_fast.softmax_cross_entropy_grad_targets(logits, **options)
    above, below = (
        xent_fast.softmax_cross_entropy(logits, targets + sign * step, **options)
        for sign in (1, -1)
    )
    np.testing.assert_allclose((grad * step).sum(), (above - below) / 2, rtol=1e-13)


def test_gradient_by_targets_where_probabilities_are_zero() -> None:
    logits = np.array([[0.0, -np.inf], [np.nan, 0.0]])
    grad = xent_fast.softmax_cross_entropy_grad_targets(logits, reduction="sum")
    np.testing.assert_array_equal(grad, [[0, np.inf], [np.nan, np.nan]])
    grad = xent_fast.softmax_cross_entropy_grad_targets(
        logits[:1], reduction="sum", weight=[1.0, 0.0]
    )
    np.testing.assert_array_equal(grad, [[0, 0]])
    nothing = xent_fast.softmax_cross_entropy_grad_targets(logits, sample_weight=[0.0, 0.0])
    np.testing.assert_array_equal(nothing, np.zeros((2, 2)))
