"""The NumPy reference against mpmath, and some of its special cases against their definitions.

Knows the formulas and the reference; the special values of the loss are in
tests/test_closed_forms.py. Must not know the compiled module, which it judges.
"""

from __future__ import annotations

import ast
import functools
import importlib.resources
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from xent_fast import reference
from xent_fast._result import (
    LossAndGrad,
    LossAndStatistics,
    LossGradAndStatistics,
    RowStatistics,
)

EPS = np.finfo(np.float64).eps
SMALLEST = np.finfo(np.float64).smallest_subnormal
LARGEST = float(np.finfo(np.float64).max)
# exp, one sum, log1p and three roundings, one unit or less each.
RELATIVE_ERROR = 5 * EPS

inf, nan = np.inf, np.nan


def adversarial_rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20240229)
    return {
        "one class": np.array([3.5]),
        "two classes": np.array([0.25, -1.75]),
        "normal": 3 * rng.standard_normal(40),
        "many classes": rng.standard_normal(130),
        "wide": 100 * rng.standard_normal(40),
        "exponentials of every size": -np.linspace(0, 745, 60),
        "one far above": np.r_[40.0, rng.standard_normal(20)],
        "one farther above": np.r_[rng.standard_normal(20), 700.0],
        "one beyond reach": np.r_[1000.0, rng.standard_normal(20)],
        "ties at the top": np.r_[5.0, 5.0, 5.0, rng.standard_normal(9)],
        "nearly tied": 7.0 + np.arange(12) * 2.0**-50,
        "difference that rounds": np.array([1e16, 1e16 - 2, 0.3, 1 / 3]),
        "difference that rounds far down": np.array([0.1, -600 - 1 / 3, -37.7, -16.1]),
        "huge and equal": np.full(10, 3e38),
        "huge and not equal": 1e8 + rng.standard_normal(10),
        "very small": 1e-300 * rng.standard_normal(10),
        "largest doubles": np.array([8e307, -8e307, 8e307]),
    }


ROWS = adversarial_rows()


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def row(request: pytest.FixtureRequest) -> np.ndarray:
    return request.param


class ExactRow:
    """Loss and gradient of one row: log(1 + exp(-700)) has 300 zeros before its first digit."""

    digits = 400

    def __init__(self, row: np.ndarray, temperature: float = 1.0) -> None:
        with mpmath.workdps(self.digits):
            x = [mpmath.mpf(float(value)) / temperature for value in row]
            exponentials = [mpmath.exp(value - max(x)) for value in x]
            total = mpmath.fsum(exponentials)
            self.temperature = temperature
            self.lse = max(x) + mpmath.log(total)
            # What the rounding errors of lse are relative to: its two terms may cancel.
            self.lse_magnitude = abs(max(x)) + mpmath.log(total)
            self.probabilities = [value / total for value in exponentials]
            self.costs = [self.lse - value for value in x]

    def loss(self, mass: np.ndarray, z_loss: float = 0.0) -> mpmath.mpf:
        with mpmath.workdps(self.digits):
            return mpmath.fdot(map(mpmath.mpf, mass), self.costs) + z_loss * self.lse**2

    def loss_magnitude(self, mass: np.ndarray, z_loss: float = 0.0) -> mpmath.mpf:
        """The loss with every term taken positive: its rounding errors are relative to this."""
        with mpmath.workdps(self.digits):
            terms = mpmath.fdot([abs(mpmath.mpf(q)) for q in mass], self.costs)
            return terms + abs(z_loss) * self.lse_magnitude**2

    def gradient(self, mass: np.ndarray, z_loss: float = 0.0) -> list[mpmath.mpf]:
        """(Q + 2 z lse) p - q over T."""
        with mpmath.workdps(self.digits):
            pull = mpmath.fsum(map(mpmath.mpf, mass)) + 2 * z_loss * self.lse
            return [
                (pull * p - mpmath.mpf(q)) / self.temperature
                for p, q in zip(self.probabilities, mass, strict=True)
            ]

    def gradient_magnitude(self, mass: np.ndarray, z_loss: float = 0.0) -> list[mpmath.mpf]:
        """(sum |q| + 2 |z lse|) p + |q| over T, to which the gradient's errors are relative."""
        with mpmath.workdps(self.digits):
            q = [abs(mpmath.mpf(value)) for value in mass]
            pull = mpmath.fsum(q) + 2 * abs(z_loss) * self.lse_magnitude
            return [
                (pull * p + value) / self.temperature
                for p, value in zip(self.probabilities, q, strict=True)
            ]


@functools.cache
def _exact(row: tuple[float, ...], temperature: float) -> ExactRow:
    return ExactRow(np.array(row), temperature)


def exact_row(row: np.ndarray, temperature: float = 1.0) -> ExactRow:
    """The exact row of these logits, computed once for all tests."""
    return _exact(tuple(row.tolist()), temperature)


def assert_close(
    got: np.ndarray | float,
    want: list | mpmath.mpf,
    error: list | mpmath.mpf,
    subnormals: int = 3,
) -> None:
    """Each number lies within RELATIVE_ERROR * error, or a few subnormals, of the exact one.

    One beyond the largest double is infinite.
    """
    got, want, error = (np.atleast_1d(np.asarray(a, dtype=object)) for a in (got, want, error))
    for value, exact, scale in zip(got, want, error, strict=True):
        if abs(exact) > LARGEST:
            assert value == mpmath.sign(exact) * inf
        else:
            distance = abs(mpmath.mpf(float(value)) - exact)
            tolerance = RELATIVE_ERROR * abs(scale) + subnormals * SMALLEST
            assert distance <= tolerance, (value, mpmath.nstr(exact, 20))


def test_every_class_as_target(row: np.ndarray) -> None:
    exact = exact_row(row)
    classes = len(row)
    labels = np.arange(classes)[:: 1 + classes // 20]
    logits = np.broadcast_to(row, (len(labels), classes))
    losses, grads = reference.softmax_cross_entropy_grad(logits, labels, reduction="none")
    for label, loss, grad in zip(labels, losses, grads, strict=True):
        one_hot = (np.arange(classes) == label).astype(float)
        assert_close(loss, exact.loss(one_hot), exact.loss(one_hot))
        assert_close(grad, exact.gradient(one_hot), exact.gradient(one_hot))


@pytest.mark.parametrize("kind", ["one-hot", "unnormalised", "sparse", "signed"])
def test_dense_targets(row: np.ndarray, kind: str) -> None:
    rng = np.random.default_rng(7)
    classes = len(row)
    targets = {
        "one-hot": (np.arange(classes) == row.argmax()).astype(float),
        "unnormalised": rng.random(classes),
        "sparse": rng.random(classes) * (rng.random(classes) < 0.2),
        "signed": rng.standard_normal(classes),
    }[kind]
    exact = exact_row(row)
    loss, grad = reference.softmax_cross_entropy_grad(row[np.newaxis], targets[np.newaxis])
    assert_close(loss, exact.loss(targets), exact.loss_magnitude(targets))
    error = exact.gradient(targets) if kind == "one-hot" else exact.gradient_magnitude(targets)
    assert_close(grad[0], exact.gradient(targets), error)


OPTIONS = {
    "smoothing": {"label_smoothing": 0.1},
    "all smoothed": {"label_smoothing": 1.0},
    "weight": {"weight": True},
    "temperature": {"temperature": 3.7},
    "small temperature": {"temperature": 0.3},
    "z loss": {"z_loss": 0.25},
    "everything": {"label_smoothing": 0.3, "weight": True, "temperature": 1.7, "z_loss": -0.01},
}


def exact_mass(targets: np.ndarray, weight: np.ndarray, smoothing: float) -> list[mpmath.mpf]:
    """The effective mass w ((1 - E) t + E / C)."""
    exact_smoothing = mpmath.mpf(smoothing)
    return [
        mpmath.mpf(w)
        * ((1 - exact_smoothing) * mpmath.mpf(float(t)) + exact_smoothing / len(targets))
        for t, w in zip(targets, weight, strict=True)
    ]


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_options(row: np.ndarray, kind: str) -> None:
    for option in OPTIONS:
        rng = np.random.default_rng(11)
        classes = len(row)
        options = dict(OPTIONS[option])
        weight = rng.random(classes) if options.pop("weight", False) else np.ones(classes)
        label = int(rng.integers(classes))
        targets = rng.random(classes) if kind == "dense" else np.arange(classes) == label
        z_loss = options.get("z_loss", 0.0)
        with mpmath.workdps(ExactRow.digits):
            mass = exact_mass(targets, weight, options.get("label_smoothing", 0.0))
        exact = exact_row(row, options.get("temperature", 1.0))

        loss, grad, statistics = reference.softmax_cross_entropy_grad(
            row,
            targets if kind == "dense" else label,
            weight=weight,
            reduction="sum",
            return_statistics=True,
            **options,
        )

        assert_close(loss, exact.loss(mass, z_loss), exact.loss_magnitude(mass, z_loss))
        assert_close(grad, exact.gradient(mass, z_loss), exact.gradient_magnitude(mass, z_loss))
        assert_close(statistics.lse, exact.lse, exact.lse_magnitude)
        assert statistics.prediction == row.argmax()


def test_small_losses_survive_every_temperature() -> None:
    """Loss and target's gradient stay relatively accurate where p_y rounds to 1."""
    for gap, temperature in ((40.0, 1.0), (40.0, 0.5), (400.0, 3.3), (3.0, 0.07)):
        row = np.array([0.1, 0.1 - gap, -gap])
        exact = exact_row(row, temperature)
        one_hot = np.array([1.0, 0.0, 0.0])
        loss, grad = reference.softmax_cross_entropy_grad(row, 0, temperature=temperature)
        assert_close(loss, exact.loss(one_hot), exact.loss(one_hot))
        assert_close(grad, exact.gradient(one_hot), exact.gradient(one_hot))


def test_probabilities_and_their_logarithms(row: np.ndarray) -> None:
    exact = exact_row(row)
    with mpmath.workdps(ExactRow.digits):
        log_p = [-cost for cost in exact.costs]
        jacobian = [
            [p * ((c == k) - q) for k, q in enumerate(exact.probabilities)]
            for c, p in enumerate(exact.probabilities[:20])
        ]
    assert_close(reference.softmax(row), exact.probabilities, exact.probabilities)
    assert_close(reference.log_softmax(row), log_p, log_p)
    assert_close(reference.logsumexp(row), exact.lse, exact.lse_magnitude)
    for got, want in zip(reference.softmax_jacobian(row), jacobian, strict=False):
        assert_close(got, want, want)


def test_logsumexp_keeps_small_differences() -> None:
    with mpmath.workdps(60):
        for gap in (40, 80, 700):
            want = mpmath.log1p(mpmath.exp(-gap))
            assert_close(reference.logsumexp([0.0, -gap]), want, want)


@pytest.mark.parametrize("z_loss", [0.0, 0.25])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_second_order(row: np.ndarray, z_loss: float, temperature: float) -> None:
    """(A p (v - p.v) + 2 z p (p.v)) / T^2 with A = Q + 2 z lse; its diagonal has v = 1 at c."""
    rng = np.random.default_rng(5)
    classes = len(row)
    targets, vector = rng.random(classes), rng.standard_normal(classes)
    exact = exact_row(row, temperature)
    p = exact.probabilities
    with mpmath.workdps(ExactRow.digits):
        square = mpmath.mpf(temperature) ** 2
        mass = mpmath.fsum(map(float, targets))
        a = mass + 2 * z_loss * exact.lse
        a_magnitude = mass + 2 * z_loss * exact.lse_magnitude
        mean = mpmath.fdot(p, map(float, vector))
        spread = mpmath.fdot(p, map(float, abs(vector - vector[row.argmax()])))
        product = [
            (a * q * (v - mean) + 2 * z_loss * q * mean) / square
            for q, v in zip(p, map(float, vector), strict=True)
        ]
        magnitude = [
            q * (a_magnitude * (abs(v) + spread) + 2 * z_loss * (spread + 3)) / square
            for q, v in zip(p, map(float, vector - vector[row.argmax()]), strict=True)
        ]
        diagonal = [(a * q * (1 - q) + 2 * z_loss * q**2) / square for q in p]
        diagonal_magnitude = [(a_magnitude * q * (1 - q) + 2 * z_loss * q**2) / square for q in p]
    options = {"z_loss": z_loss, "temperature": temperature}
    got = reference.softmax_cross_entropy_hvp(row, targets, vector, **options)
    assert_close(got, product, magnitude, subnormals=30)  # p's own, times A (v - p.v)
    got = reference.softmax_cross_entropy_hessian_diagonal(row, targets, **options)
    assert_close(got, diagonal, diagonal_magnitude, subnormals=30)


def test_backward_passes_are_products_with_the_jacobian() -> None:
    rng = np.random.default_rng(6)
    logits, grad = rng.standard_normal((2, 4, 5))
    p, jacobian = reference.softmax(logits), reference.softmax_jacobian(logits)
    np.testing.assert_array_equal(reference.softmax_jacobian(logits.T, axis=0), jacobian)
    want = np.einsum("nck,nc->nk", jacobian, grad)
    np.testing.assert_allclose(reference.softmax_vjp(p, grad), want, rtol=0, atol=1e-15)
    # d log p_c / dx_k is row c of the Jacobian, divided by p_c.
    want = np.einsum("nck,nc->nk", jacobian / p[:, :, np.newaxis], grad)
    got = reference.log_softmax_vjp(reference.log_softmax(logits), grad)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-15)


def test_textbook_path_equals_the_fused_one_where_it_holds() -> None:
    """Cross-entropy of probabilities, chained through softmax's backward pass."""
    rng = np.random.default_rng(8)
    logits, labels = rng.standard_normal((6, 5)), rng.integers(0, 5, 6)
    for targets in (labels, rng.random((6, 5))):
        options = {"weight": rng.random(5), "label_smoothing": 0.2}
        p = reference.softmax(logits)
        loss, grad_p = reference.cross_entropy_grad(p, targets, **options)
        want = reference.softmax_cross_entropy_grad(logits, targets, **options)
        assert loss == pytest.approx(want.loss, rel=1e-14)
        np.testing.assert_allclose(reference.softmax_vjp(p, grad_p), want.grad, atol=1e-15)


def test_clipping_flattens_the_loss() -> None:
    p = np.array([[0.0, 1.0], [0.25, 0.75], [1e-9, 1 - 1e-9]])
    labels = np.array([0, 0, 1])
    loss, grad = reference.cross_entropy_grad(p, labels, clip=1e-7, reduction="none")
    np.testing.assert_allclose(loss, -np.log([1e-7, 0.25, 1 - 1e-7]), rtol=1e-15)
    np.testing.assert_array_equal(grad, [[0.0, 0.0], [-4.0, 0.0], [0.0, 0.0]])
    loss, grad = reference.cross_entropy_grad(p, labels, reduction="none")
    np.testing.assert_array_equal(loss[:2], [inf, np.log(4)])
    np.testing.assert_array_equal(grad[:2], [[-inf, 0.0], [-4.0, 0.0]])


def test_a_class_without_mass_costs_nothing_whatever_its_probability() -> None:
    loss, grad = reference.cross_entropy_grad([nan, 0.0, 0.5], 2)
    assert loss == np.log(2)
    np.testing.assert_array_equal(grad, [0.0, 0.0, -2.0])
    loss, grad = reference.cross_entropy_grad([nan, 0.0, 0.5], 0)
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, [nan, 0.0, 0.0])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation(row: np.ndarray, temperature: float) -> None:
    """T^2 KL(P || Q) and T (Q - P), down to a teacher that the student nearly equals."""
    rng = np.random.default_rng(9)
    for distance in (1.0, 1e-3):
        teacher = row * (1 + distance * rng.standard_normal(len(row)) / (1 + abs(row)))
        exact_teacher, exact_student = exact_row(teacher, temperature), exact_row(row, temperature)
        pairs = list(zip(exact_teacher.probabilities, exact_student.probabilities, strict=True))
        with mpmath.workdps(ExactRow.digits):
            gaps = [
                student - teacher
                for student, teacher in zip(exact_student.costs, exact_teacher.costs, strict=True)
            ]
            divergence = temperature**2 * mpmath.fsum(
                p * gap for (p, _), gap in zip(pairs, gaps, strict=True)
            )
            # A gap is a difference of costs, and a term p (gap + expm1(-gap)) has the slope p - q.
            magnitude = divergence + temperature**2 * mpmath.fsum(
                abs(p - q) * (a + b)
                for (p, q), a, b in zip(
                    pairs, exact_student.costs, exact_teacher.costs, strict=True
                )
            )
            grad = [temperature * (q - p) for p, q in pairs]
            grad_magnitude = [temperature * (q + p) for p, q in pairs]
        got = reference.distillation_loss_grad(row, teacher, temperature=temperature)
        assert_close(got.loss, divergence, magnitude)
        assert_close(got.grad, grad, grad_magnitude)


def test_distillation_mixes_two_losses() -> None:
    rng = np.random.default_rng(10)
    student, teacher = rng.standard_normal((2, 6, 4))
    labels, a = np.array([0, 1, 2, 3, -1, 2]), rng.random(6)
    options = {"sample_weight": a, "ignore_index": -1, "weight": rng.random(4)}
    soft_targets = reference.softmax(teacher / 3)
    counted = labels >= 0
    hard = reference.softmax_cross_entropy_grad(
        student, labels, label_smoothing=0.1, reduction="sum", **options
    )
    soft = reference.softmax_cross_entropy_grad(
        student, soft_targets, temperature=3, reduction="none", sample_weight=a * counted
    )
    entropy = -(soft_targets * np.log(soft_targets)).sum(axis=1) * a * counted
    got = reference.distillation_loss_grad(
        student,
        teacher,
        labels,
        temperature=3,
        alpha=0.7,
        label_smoothing=0.1,
        **options,
    )
    denominator = (a * options["weight"][labels])[counted].sum()
    loss = (0.7 * 9 * (soft.loss - entropy).sum() + 0.3 * hard.loss) / denominator
    assert got.loss == pytest.approx(loss, rel=1e-14)
    want = (0.7 * 9 * soft.grad + 0.3 * hard.grad) / denominator
    np.testing.assert_allclose(got.grad, want, rtol=0, atol=1e-15)


def test_distillation_beyond_reach_and_undefined() -> None:
    student = np.array([[0.0, -inf], [0.0, 0.0], [nan, 0.0], [0.0, 1.0]])
    teacher = np.array([[0.0, 0.0], [0.0, -inf], [0.0, 0.0], [inf, 0.0]])
    loss, grad = reference.distillation_loss_grad(student, teacher, reduction="none")
    np.testing.assert_allclose(loss, [inf, np.log(2), nan, nan], rtol=EPS)
    np.testing.assert_array_equal(grad[:2], [[0.5, -0.5], [-0.5, 0.5]])
    assert np.isnan(grad[2:]).all()
    off = reference.distillation_loss_grad(student[:1], teacher[:1], [0], alpha=0.0)
    assert off.loss == 0.0
    ignored = reference.distillation_loss_grad(
        student, teacher, [0, 0, 9, 9], ignore_index=9, reduction="none"
    )
    np.testing.assert_array_equal(ignored.grad[2:], np.zeros((2, 2)))


@pytest.mark.parametrize("number", [np.float32, np.float16, lambda value: np.array(value, "f4")])
def test_options_of_any_precision(number: Callable[[float], Any]) -> None:
    """A number counts as the float that it is: nothing is computed in its own precision."""
    logits = np.random.default_rng(0).standard_normal((7, 3))
    labels = [2, 2, 1, 2, 0, 0, 0]
    probabilities = reference.softmax(logits)
    distillation = functools.partial(reference.distillation_loss_grad, -logits)
    for function, numbers, options in (
        (reference.softmax_cross_entropy_grad, logits, ("temperature", "z_loss")),
        (reference.cross_entropy_grad, probabilities, ("clip",)),
        (distillation, logits, ("temperature", "alpha")),
    ):
        for option in ("label_smoothing", "scale", *options):
            given = number(0.3)
            got = function(numbers, labels, **{option: given})
            want = function(numbers, labels, **{option: float(given)})
            np.testing.assert_array_equal(got.loss, want.loss, option)
            np.testing.assert_array_equal(got.grad, want.grad, option)


def test_statistics() -> None:
    logits = np.array(
        [[1.0, 3.0, 3.0], [nan, 0.0, 0.0], [0.0, inf, 0.0], [5.0, 0.0, 0.0], [2.0, 0.0, 1.0]]
    )
    result = reference.softmax_cross_entropy(
        logits, np.array([1, 1, 1, 7, 2]), ignore_index=7, return_statistics=True
    )
    assert isinstance(result, LossAndStatistics)
    assert isinstance(result.statistics, RowStatistics)
    lse, prediction, is_correct = result.statistics
    assert prediction.dtype == np.intp
    np.testing.assert_array_equal(prediction, [1, -1, -1, -1, 0])
    np.testing.assert_array_equal(is_correct, [True, False, False, False, False])
    np.testing.assert_array_equal(np.isnan(lse), [False, True, True, True, False])
    dense = np.array([[0.2, 0.4, 0.4]])
    result = reference.softmax_cross_entropy_grad(logits[:1], dense, return_statistics=True)
    assert isinstance(result, LossGradAndStatistics)
    assert result.statistics.is_correct.all()
    # Known also where the mean has no denominator.
    void = reference.softmax_cross_entropy(
        logits[:1], [1], sample_weight=[0.0], return_statistics=True
    )
    assert np.isnan(void.loss)
    assert void.statistics.is_correct.all()


def test_functions_of_undefined_rows() -> None:
    logits = np.array([[0.0, nan], [inf, 0.0], [-inf, -inf], [0.0, -inf]])
    np.testing.assert_array_equal(reference.logsumexp(logits), [nan, inf, -inf, 0.0])
    for function, defined in (
        (reference.softmax, [1.0, 0.0]),
        (reference.log_softmax, [0.0, -inf]),
    ):
        np.testing.assert_array_equal(function(logits), [[nan] * 2] * 3 + [defined])
    for second_order in (
        reference.softmax_cross_entropy_hvp(logits, [0, 0, 0, 1], np.ones((4, 2))),
        reference.softmax_cross_entropy_hessian_diagonal(logits, [0, 0, 0, 1]),
    ):
        np.testing.assert_array_equal(second_order, [[nan] * 2] * 3 + [[0.0, 0.0]])


def test_smoothing_puts_mass_on_every_class() -> None:
    """Also on one at -inf, unless its class weight is 0: 0 * inf = 0."""
    row = [0.0, 0.0, -inf]
    assert reference.softmax_cross_entropy(row, 0, label_smoothing=0.1) == inf
    loss = reference.softmax_cross_entropy(
        row, 0, label_smoothing=0.1, weight=[1.0, 1.0, 0.0], reduction="sum"
    )
    assert loss == pytest.approx((1 - 0.1 / 3) * np.log(2), rel=4 * EPS)


def test_nan_weight_of_another_class_matters_only_to_smoothing() -> None:
    weight = [1.0, nan]
    assert reference.softmax_cross_entropy([0.0, 0.0], 0, weight=weight) == np.log(2)
    assert np.isnan(
        reference.softmax_cross_entropy([0.0, 0.0], 0, weight=weight, label_smoothing=0.5)
    )


def test_sum_over_nothing_is_zero() -> None:
    nothing = np.empty((0, 4))
    assert np.isnan(reference.softmax_cross_entropy(nothing, nothing))
    assert reference.softmax_cross_entropy(nothing, np.empty(0, int), reduction="sum") == 0.0
    assert reference.softmax_cross_entropy(nothing, nothing, reduction="none").shape == (0,)


def test_out_takes_the_rounded_gradient() -> None:
    logits = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)
    labels = np.array([0, 1, 2, 3])
    want = reference.softmax_cross_entropy_grad(logits, labels)
    got = reference.softmax_cross_entropy_grad(logits, labels, out=logits)
    assert isinstance(got, LossAndGrad)
    assert got.grad is logits
    assert got.loss == want.loss
    np.testing.assert_array_equal(logits, want.grad.astype(np.float32))


@pytest.mark.thread_unsafe(reason="Python 3.11's ast.parse fails beside itself in another thread")
def test_the_reference_is_numpy_alone() -> None:
    """An oracle that called what it judges would agree with it whatever it gave."""
    folder = importlib.resources.files(reference)
    allowed = {"__future__", "math", "operator", "collections.abc", "dataclasses", "typing"}
    imported = set()
    for file in folder.iterdir():
        if file.name.endswith(".py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {name.name for name in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module)
    ours = {name for name in imported if name.startswith("xent_fast.")}
    assert {name for name in ours if not name.startswith("xent_fast.reference.")} == {
        "xent_fast._result"  # the tuples that calls return
    }
    assert {name for name in imported - ours if name.split(".")[0] != "numpy"} <= allowed
