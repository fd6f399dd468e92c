"""The NumPy reference against mpmath, and its special cases against their definitions.

Knows the formulas and the reference. Must not know the compiled module, which it judges.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from xent_fast import LossAndGrad, reference

EPS = np.finfo(np.float64).eps
SMALLEST = np.finfo(np.float64).smallest_subnormal
# exp, one sum, log1p and three roundings, one unit or less each.
RELATIVE_ERROR = 5 * EPS

inf, nan = np.inf, np.nan


def adversarial_rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20240229)
    return {
        "one class": np.array([3.5]),
        "two classes": np.array([0.25, -1.75]),
        "normal": 3 * rng.standard_normal(40),
        "many classes": rng.standard_normal(300),
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

    def __init__(self, row: np.ndarray) -> None:
        with mpmath.workdps(self.digits):
            x = [mpmath.mpf(float(value)) for value in row]
            exponentials = [mpmath.exp(value - max(x)) for value in x]
            total = mpmath.fsum(exponentials)
            lse = max(x) + mpmath.log(total)
            self.probabilities = [value / total for value in exponentials]
            self.costs = [lse - value for value in x]

    def loss(self, targets: np.ndarray) -> mpmath.mpf:
        with mpmath.workdps(self.digits):
            return mpmath.fdot(map(float, targets), self.costs)

    def gradient(self, targets: np.ndarray, sign: int = -1) -> list[mpmath.mpf]:
        """Q p - q; or Q p + q, to which rounding errors are relative where the two cancel."""
        with mpmath.workdps(self.digits):
            mass = mpmath.fsum(map(float, targets))
            return [
                mass * p + sign * float(t) for p, t in zip(self.probabilities, targets, strict=True)
            ]


def assert_close(
    got: np.ndarray | float, want: list | mpmath.mpf, error: list | mpmath.mpf
) -> None:
    """Each number lies within RELATIVE_ERROR * error, or a few subnormals, of the exact one."""
    got, want, error = (np.atleast_1d(np.asarray(a, dtype=object)) for a in (got, want, error))
    for value, exact, scale in zip(got, want, error, strict=True):
        distance = abs(mpmath.mpf(float(value)) - exact)
        assert distance <= RELATIVE_ERROR * abs(scale) + 3 * SMALLEST, (
            value,
            mpmath.nstr(exact, 20),
        )


def test_every_class_as_target(row: np.ndarray) -> None:
    exact = ExactRow(row)
    classes = len(row)
    labels = np.arange(classes)[:: 1 + classes // 20]
    logits = np.broadcast_to(row, (len(labels), classes))
    losses, grads = reference.softmax_cross_entropy_grad(logits, labels, reduction="none")
    for label, loss, grad in zip(labels, losses, grads, strict=True):
        one_hot = np.arange(classes) == label
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
    exact = ExactRow(row)
    loss, grad = reference.softmax_cross_entropy_grad(row[np.newaxis], targets[np.newaxis])
    assert_close(loss, exact.loss(targets), exact.loss(abs(targets)))
    error = exact.gradient(targets) if kind == "one-hot" else exact.gradient(abs(targets), sign=+1)
    assert_close(grad[0], exact.gradient(targets), error)


def test_reductions_weights_and_scale() -> None:
    logits = np.random.default_rng(1).standard_normal((5, 3))
    labels = np.array([0, 2, -1, 1, 1])
    weights = np.array([0.5, 2.0, 9.0, -1.0, 3.0])
    options = {"sample_weight": weights, "ignore_index": -1, "scale": 4.0}
    counted = labels != -1
    plain = reference.softmax_cross_entropy(logits[counted], labels[counted], reduction="none")
    want = np.zeros(5)
    want[counted] = 4.0 * weights[counted] * plain

    losses, grads = reference.softmax_cross_entropy_grad(
        logits, labels, reduction="none", **options
    )
    np.testing.assert_allclose(losses, want, rtol=4 * EPS)
    total, total_grads = reference.softmax_cross_entropy_grad(
        logits, labels, reduction="sum", **options
    )
    assert total == pytest.approx(want.sum(), rel=8 * EPS)
    np.testing.assert_array_equal(total_grads, grads)
    mean, mean_grads = reference.softmax_cross_entropy_grad(logits, labels, **options)
    denominator = 0.5 + 2.0 - 1.0 + 3.0
    assert mean == pytest.approx(want.sum() / denominator, rel=8 * EPS)
    np.testing.assert_allclose(mean_grads, grads / denominator, rtol=4 * EPS)


def test_mean_of_dense_targets_divides_by_rows_or_weights() -> None:
    logits, targets = np.zeros((4, 2)), np.ones((4, 2))
    assert reference.softmax_cross_entropy(logits, targets) == pytest.approx(2 * np.log(2))
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    weighted = reference.softmax_cross_entropy(
        logits * [[1], [2], [3], [4]], targets, sample_weight=weights
    )
    assert weighted == pytest.approx(2 * np.log(2))


@pytest.mark.parametrize(
    ("row", "label", "loss", "grad"),
    [
        ([0.0, -inf, 0.0], 0, np.log(2), [-0.5, 0.0, 0.5]),
        ([0.0, -inf, 0.0], 1, inf, [0.5, -1.0, 0.5]),
        ([-inf, 2.0, -inf], 1, 0.0, [0.0, 0.0, 0.0]),
        ([0.0, nan, 0.0], 0, nan, [nan, nan, nan]),
        ([0.0, inf, 0.0], 1, nan, [nan, nan, nan]),
        ([-inf, -inf, -inf], 1, nan, [nan, nan, nan]),
        ([inf, -inf, nan], 1, nan, [nan, nan, nan]),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_infinities_and_nan_stay_in_their_row(
    row: list[float], label: int, loss: float, grad: list[float], dense: bool
) -> None:
    logits = np.array([[1.0, 2.0, 3.0], row, [3.0, 2.0, 1.0]])
    labels = np.array([2, label, 0])
    targets = np.eye(3)[labels] if dense else labels
    losses, grads = reference.softmax_cross_entropy_grad(logits, targets, reduction="none")
    others = reference.softmax_cross_entropy_grad(logits[[0, 2]], targets[[0, 2]], reduction="none")
    assert losses[1] == pytest.approx(loss, nan_ok=True)
    np.testing.assert_allclose(grads[1], grad, rtol=EPS)
    np.testing.assert_array_equal(losses[[0, 2]], others.loss)
    np.testing.assert_array_equal(grads[[0, 2]], others.grad)


def test_weight_zero_times_infinite_loss_is_zero_and_nan_stays_nan() -> None:
    logits = np.array([[0.0, -inf], [nan, 0.0]])
    losses, grads = reference.softmax_cross_entropy_grad(
        logits, np.array([1, 1]), reduction="none", sample_weight=np.zeros(2)
    )
    np.testing.assert_array_equal(losses, [0.0, nan])
    np.testing.assert_array_equal(grads, [[0.0, 0.0], [nan, nan]])


def test_ignored_rows_are_exact_zeros_over_nan() -> None:
    losses, grads = reference.softmax_cross_entropy_grad(
        np.array([[nan, inf], [0.0, 0.0]]), np.array([7, 0]), ignore_index=7, reduction="none"
    )
    np.testing.assert_array_equal(losses, [0.0, np.log(2)])
    np.testing.assert_array_equal(grads, [[0.0, 0.0], [-0.5, 0.5]])


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (0, {}),
        (3, {"ignore_index": 1}),
        (3, {"sample_weight": np.array([1.0, -2.0, 1.0])}),
    ],
    ids=["no rows", "all ignored", "weights that sum to zero"],
)
def test_zero_denominator(rows: int, options: dict) -> None:
    logits, labels = np.full((rows, 4), nan), np.ones(rows, int)
    loss, grad = reference.softmax_cross_entropy_grad(logits, labels, **options)
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, np.zeros((rows, 4)))


def test_sum_over_nothing_is_zero() -> None:
    nothing = np.empty((0, 4))
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


def test_softmax_loss_is_the_mean() -> None:
    logits, labels = np.array([[1.0, 2.0], [3.0, 0.5]]), np.array([1, 1])
    loss, dx = reference.softmax_loss(logits, labels)
    want = reference.softmax_cross_entropy_grad(logits, labels)
    assert loss == want.loss
    np.testing.assert_array_equal(dx, want.grad)


@pytest.mark.parametrize(
    ("targets", "options", "error", "message"),
    [
        (
            [0, 3],
            {},
            IndexError,
            r"index 3 is out of bounds for axis 1 with size 3 \(targets\[1\]\)",
        ),
        ([-1, 0], {}, IndexError, r"index -1 is .* \(targets\[0\]\)"),
        ([0, 1, 2], {}, ValueError, "targets"),
        (np.ones((2, 2)), {}, ValueError, "dense targets"),
        (np.ones((2, 3)), {"ignore_index": 0}, ValueError, "ignore_index"),
        ([0, 1], {"reduction": "average"}, ValueError, "reduction"),
        ([0, 1], {"sample_weight": np.ones(3)}, ValueError, "sample_weight"),
    ],
)
def test_bad_input(targets: object, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference.softmax_cross_entropy(np.zeros((2, 3)), targets, **options)


def test_rows_without_a_class() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        reference.softmax_cross_entropy(np.zeros((2, 0)), [0, 0])
