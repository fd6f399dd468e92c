"""The statements of docs/derivation.md, each in numbers; and that what the page names exists.

Knows what follows from the formulas by hand. Must not know how anything is computed.
"""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs" / "derivation.md"
ROUNDING = 1e-14


@pytest.fixture
def logits() -> np.ndarray:
    return 2 * np.random.default_rng(0).standard_normal((40, 6))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 6, 40)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(6)[labels]


# --- softmax --------------------------------------------------------------------------------------


def test_softmax_is_a_distribution_that_keeps_order_and_ratios(
    implementation: ModuleType, logits: np.ndarray
) -> None:
    """p is positive and sums to 1, and p_i / p_j = exp(x_i - x_j)."""
    p = implementation.softmax(logits)
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=ROUNDING)
    np.testing.assert_array_equal(np.argsort(p), np.argsort(logits))
    np.testing.assert_allclose(p[:, 1:] / p[:, :-1], np.exp(np.diff(logits)), rtol=1e-13)


def test_a_shift_changes_nothing(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """Adding c to a row (exactly) leaves p and the loss, and adds c to the logsumexp."""
    steps = np.round(logits * 64) / 64
    shifted = steps + 1024
    for function in (implementation.softmax, implementation.log_softmax):
        np.testing.assert_allclose(function(shifted), function(steps), rtol=1e-13)
    np.testing.assert_allclose(
        implementation.logsumexp(shifted), implementation.logsumexp(steps) + 1024, rtol=ROUNDING
    )
    assert implementation.softmax_cross_entropy(shifted, labels) == pytest.approx(
        implementation.softmax_cross_entropy(steps, labels), rel=1e-13
    )


def test_logsumexp_is_a_smooth_maximum(implementation: ModuleType, logits: np.ndarray) -> None:
    """max x < lse <= max x + log C, with equality where all are equal."""
    lse, largest = implementation.logsumexp(logits), logits.max(axis=1)
    assert (lse > largest).all()
    assert (lse <= largest + np.log(6)).all()
    assert implementation.logsumexp(np.zeros(6)) == pytest.approx(np.log(6), rel=ROUNDING)


def test_the_jacobian_is_symmetric_and_has_no_slope_along_ones(
    implementation: ModuleType, logits: np.ndarray
) -> None:
    """diag(p) - p p^T: rows sum to 0, no eigenvalue is negative. Backward passes multiply by it."""
    p = implementation.softmax(logits)
    jacobian = p[:, :, np.newaxis] * (np.eye(6) - p[:, np.newaxis, :])
    np.testing.assert_allclose(jacobian, jacobian.transpose(0, 2, 1), rtol=ROUNDING)
    assert (np.linalg.eigvalsh(jacobian) > -ROUNDING).all()
    for k in range(6):
        unit = np.broadcast_to(np.eye(6)[k], p.shape)
        np.testing.assert_allclose(
            implementation.softmax_vjp(p, unit), jacobian[:, k], rtol=1e-12, atol=ROUNDING
        )
    np.testing.assert_allclose(implementation.softmax_vjp(p, np.ones_like(p)), 0, atol=ROUNDING)


# --- the loss and its gradient --------------------------------------------------------------------


def test_the_loss_is_minus_log_p_of_the_target(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """-log p_y = lse - x_y: not negative, and log C where all logits are equal."""
    loss = implementation.softmax_cross_entropy(logits, labels, reduction="none")
    p_y = implementation.softmax(logits)[np.arange(40), labels]
    np.testing.assert_allclose(loss, -np.log(p_y), rtol=1e-13)
    x_y = logits[np.arange(40), labels]
    np.testing.assert_allclose(loss, implementation.logsumexp(logits) - x_y, rtol=1e-12)
    assert (loss >= 0).all()
    assert implementation.softmax_cross_entropy(np.zeros(6), 3) == pytest.approx(np.log(6))


def test_the_chain_rule_collapses_to_p_minus_y(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """-y / p through softmax's backward pass, and -y through log_softmax's, are p - y."""
    p, y = implementation.softmax(logits), one_hot(labels)
    grad = implementation.softmax_cross_entropy_grad(logits, labels, reduction="sum").grad
    np.testing.assert_allclose(grad, p - y, rtol=0, atol=ROUNDING)
    grad_p = implementation.cross_entropy_grad(p, labels, reduction="sum").grad
    np.testing.assert_allclose(grad_p, -y / p, rtol=ROUNDING)
    np.testing.assert_allclose(implementation.softmax_vjp(p, grad_p), grad, rtol=0, atol=ROUNDING)
    log_p = implementation.log_softmax(logits)
    np.testing.assert_allclose(
        implementation.log_softmax_vjp(log_p, -y), grad, rtol=0, atol=ROUNDING
    )


def test_gradient_rows_sum_to_zero(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """For every kind of target: what pushes one class up pushes the others down as much."""
    dense = np.random.default_rng(2).random(logits.shape)
    for targets, smoothing in itertools.product((labels, dense), (0.0, 0.2)):
        grad = implementation.softmax_cross_entropy_grad(
            logits, targets, label_smoothing=smoothing, reduction="sum"
        ).grad
        np.testing.assert_allclose(grad.sum(axis=1), 0, atol=ROUNDING)


def test_only_the_target_is_pushed_up_and_by_1_minus_p(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """The target's entry is -(1 - p_y), the only negative one; the others, p_k, sum to 1 - p_y."""
    p = implementation.softmax(logits)
    grad = implementation.softmax_cross_entropy_grad(logits, labels, reduction="sum").grad
    rows = np.arange(40)
    np.testing.assert_array_equal(grad < 0, one_hot(labels) == 1)
    np.testing.assert_allclose(-grad[rows, labels], 1 - p[rows, labels], rtol=1e-12)
    np.testing.assert_allclose(np.abs(grad).sum(axis=1), 2 * (1 - p[rows, labels]), rtol=1e-12)
    others = one_hot(labels) == 0
    np.testing.assert_allclose(grad[others], p[others], rtol=1e-13)


def test_two_classes_are_the_logistic_loss(implementation: ModuleType) -> None:
    """log(1 + exp(-d)) with the slope -1 / (1 + exp(d)), d the target's lead."""
    lead = np.linspace(-30, 30, 61)
    logits = np.column_stack([lead, np.zeros(61)])
    loss, grad = implementation.softmax_cross_entropy_grad(
        logits, np.zeros(61, int), reduction="none"
    )
    np.testing.assert_allclose(loss, np.logaddexp(0, -lead), rtol=1e-13)
    np.testing.assert_allclose(grad[:, 0], -1 / (1 + np.exp(lead)), rtol=1e-13)


def test_mass_that_does_not_sum_to_one(implementation: ModuleType, logits: np.ndarray) -> None:
    """Q p - q, not p - q."""
    q = np.random.default_rng(3).random(logits.shape)
    grad = implementation.softmax_cross_entropy_grad(logits, q, reduction="sum").grad
    want = q.sum(axis=1, keepdims=True) * implementation.softmax(logits) - q
    np.testing.assert_allclose(grad, want, rtol=0, atol=ROUNDING)


# --- options --------------------------------------------------------------------------------------


def test_smoothing_and_weights_are_dense_targets(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """w ((1 - E) y + E / C) given as dense targets costs the same."""
    weight = np.random.default_rng(4).random(6)
    mass = weight * (0.8 * one_hot(labels) + 0.2 / 6)
    got = implementation.softmax_cross_entropy_grad(
        logits, labels, weight=weight, label_smoothing=0.2, reduction="sum"
    )
    want = implementation.softmax_cross_entropy_grad(logits, mass, reduction="sum")
    assert got.loss == pytest.approx(want.loss, rel=1e-13)
    np.testing.assert_allclose(got.grad, want.grad, rtol=0, atol=ROUNDING)


def test_a_smoothed_loss_has_its_minimum_at_a_finite_lead(implementation: ModuleType) -> None:
    """The gradient is 0 where p = (1 - E) y + E / C: no logit need grow without end."""
    smoothing = 0.1
    target = np.full(6, smoothing / 6)
    target[2] += 1 - smoothing
    _, grad = implementation.softmax_cross_entropy_grad(
        np.log(target), 2, label_smoothing=smoothing
    )
    np.testing.assert_allclose(grad, 0, atol=1e-16)


def test_temperature_divides_logits_and_gradient(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    got = implementation.softmax_cross_entropy_grad(logits, labels, temperature=4.0)
    want = implementation.softmax_cross_entropy_grad(logits / 4, labels)
    assert got.loss == pytest.approx(want.loss, rel=1e-13)
    np.testing.assert_allclose(got.grad, want.grad / 4, rtol=1e-12)


def test_z_loss_pulls_the_logsumexp_to_zero(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """It adds z lse^2, whose slope 2 z lse p is shared out by probability: a row's sum is 2 z lse.

    The loss itself is blind to a shift; this term is what makes one cost something.
    """
    plain = implementation.softmax_cross_entropy_grad(logits, labels, reduction="none")
    with_z = implementation.softmax_cross_entropy_grad(logits, labels, z_loss=0.1, reduction="none")
    lse = implementation.logsumexp(logits)
    np.testing.assert_allclose(with_z.loss, plain.loss + 0.1 * lse**2, rtol=1e-13)
    np.testing.assert_allclose(with_z.grad.sum(axis=1), 0.2 * lse, rtol=1e-10, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_the_mean_divides_by_the_weights_that_count(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray, kind: str
) -> None:
    """Those of labels, each row's times its class's; of dense targets the rows' alone."""
    rng = np.random.default_rng(9)
    weight, of_rows = rng.random(6), rng.random(40)
    options = {"weight": weight, "sample_weight": of_rows, "label_smoothing": 0.3, "z_loss": 0.5}
    counted = of_rows * (weight[labels] * (labels != 2) if kind == "index" else 1)
    options |= {"ignore_index": 2} if kind == "index" else {}
    targets = labels if kind == "index" else one_hot(labels)
    total = implementation.softmax_cross_entropy_grad(logits, targets, reduction="sum", **options)
    mean = implementation.softmax_cross_entropy_grad(logits, targets, **options)
    assert mean.loss == pytest.approx(total.loss / counted.sum(), rel=ROUNDING)
    np.testing.assert_allclose(mean.grad, total.grad / counted.sum(), rtol=ROUNDING)


# --- the second order -----------------------------------------------------------------------------


def test_the_hessian_is_the_jacobian_and_the_loss_is_convex(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """Q (diag(p) - p p^T) does not depend on the label; no vector has a negative v.Hv."""
    rng = np.random.default_rng(5)
    vector = rng.standard_normal(logits.shape)
    p = implementation.softmax(logits)
    product = implementation.softmax_cross_entropy_hvp(logits, labels, vector, reduction="sum")
    np.testing.assert_allclose(
        product, implementation.softmax_vjp(p, vector), rtol=0, atol=ROUNDING
    )
    assert ((vector * product).sum(axis=1) > 0).all()
    along_ones = implementation.softmax_cross_entropy_hvp(logits, labels, np.ones_like(logits))
    np.testing.assert_allclose(along_ones, 0, atol=ROUNDING)
    diagonal = implementation.softmax_cross_entropy_hessian_diagonal(
        logits, labels, reduction="sum"
    )
    np.testing.assert_allclose(diagonal, p * (1 - p), rtol=1e-12)
    assert (diagonal <= 0.25).all()


# --- teacher and student --------------------------------------------------------------------------


def test_a_warm_student_regresses_on_the_teachers_logits(implementation: ModuleType) -> None:
    """For a high temperature T (Q - P) tends to (x - x_teacher) / C, of logits centred on 0."""
    student, teacher = np.random.default_rng(6).standard_normal((2, 40, 6))
    student -= student.mean(axis=1, keepdims=True)
    teacher -= teacher.mean(axis=1, keepdims=True)
    grad = implementation.distillation_loss_grad(
        student, teacher, temperature=1e4, reduction="sum"
    ).grad
    np.testing.assert_allclose(grad, (student - teacher) / 6, rtol=0, atol=1e-3)


def test_a_teacher_without_doubt_is_a_label(
    implementation: ModuleType, logits: np.ndarray, labels: np.ndarray
) -> None:
    """And a student equal to its teacher has nothing to learn."""
    got = implementation.distillation_loss_grad(logits, 1e4 * one_hot(labels))
    want = implementation.softmax_cross_entropy_grad(logits, labels)
    assert got.loss == pytest.approx(want.loss, rel=1e-13)
    np.testing.assert_allclose(got.grad, want.grad, rtol=0, atol=ROUNDING)
    same = implementation.distillation_loss_grad(logits, logits, temperature=3.0)
    assert same.loss == pytest.approx(0, abs=1e-30)
    np.testing.assert_allclose(same.grad, 0, atol=ROUNDING)


# --- where the textbook's way breaks --------------------------------------------------------------


def textbook_loss_and_grad(row: np.ndarray, label: int, *, shift: bool) -> tuple[float, np.ndarray]:
    """exp(x) / sum exp(x), -log p_y, and -y / p through the Jacobian, in the row's dtype."""
    with np.errstate(all="ignore"):
        e = np.exp(row - row.max()) if shift else np.exp(row)
        p = e / e.sum()
        grad_p = np.zeros_like(p)
        grad_p[label] = -1 / p[label]
        return float(-np.log(p[label])), p * (grad_p - (p * grad_p).sum())


@pytest.mark.parametrize(
    ("dtype", "largest", "smallest"), [(np.float32, 89.0, -104.0), (np.float64, 710.0, -746.0)]
)
def test_where_the_textbooks_way_breaks(
    implementation: ModuleType, dtype: type, largest: float, smallest: float
) -> None:
    """The exponential overflows; shifted, p_y underflows to 0; and a small loss rounds to 0."""
    overflowing = np.array([largest, 0.0, largest], dtype)
    loss, grad = textbook_loss_and_grad(overflowing, 0, shift=False)
    assert np.isnan(loss)
    assert np.isnan(grad).any()
    underflowing = np.array([0.0, smallest], dtype)
    loss, grad = textbook_loss_and_grad(underflowing, 1, shift=True)
    assert loss == np.inf
    assert np.isnan(grad).all()
    sure = np.array([0.0, -40.0], dtype)
    loss, grad = textbook_loss_and_grad(sure, 0, shift=True)
    assert loss == 0
    assert grad[0] == 0

    tolerance = 10 * float(np.finfo(dtype).eps)
    for row, label, want_loss, want_grad in (
        (overflowing, 0, np.log(2), [-0.5, 0.0, 0.5]),
        (underflowing, 1, -smallest, [1.0, -1.0]),
        (sure, 0, np.exp(-40.0), [-np.exp(-40.0), np.exp(-40.0)]),
    ):
        loss, grad = implementation.softmax_cross_entropy_grad(row, label)
        assert loss == pytest.approx(want_loss, rel=tolerance)
        np.testing.assert_allclose(grad, want_grad, rtol=tolerance, atol=1e-38)


def test_clipping_trades_infinity_for_a_gradient_of_zero(implementation: ModuleType) -> None:
    """A target that is hopelessly behind is exactly the one that should be pushed up."""
    p = implementation.softmax(np.array([0.0, -30.0]))
    loss, grad = implementation.cross_entropy_grad(p, 1, clip=1e-7)
    assert loss == pytest.approx(-np.log(1e-7))  # not 30
    assert not implementation.softmax_vjp(p, grad).any()
    loss, grad = implementation.softmax_cross_entropy_grad(np.array([0.0, -30.0]), 1)
    assert loss == pytest.approx(30)
    np.testing.assert_allclose(grad, [1, -1], rtol=1e-12)


# --- the page -------------------------------------------------------------------------------------


def test_every_function_and_test_that_the_page_names_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = set(re.findall(r"`(test_\w+)`", text))
    assert len(names) > 15
    known = {
        name
        for file in (REPOSITORY / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert names <= known
    reference = importlib.import_module("xent_fast.reference")
    functions = set(re.findall(r"`(\w+)\(", text))
    assert len(functions) > 10
    assert {name for name in functions if not hasattr(reference, name)} == set()
    paths = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [path for path in paths if path.endswith(".png")]
    for path in paths:
        if not path.startswith(".."):  # the sources are not there where a wheel is tested
            assert (PAGE.parent / path).exists(), path
