"""Every instruction set, dtype, target kind and number of classes against the NumPy reference.

Knows the public functions, the reference and the widths at which the kernels change their path.
Must not know how a kernel works; accuracy beyond the reference's own is measured elsewhere.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import (
    LAYOUTS,
    GuardedArray,
    assert_same_bits,
    assert_within,
    assert_within_spacings,
    effective_mass,
    make_logits,
    make_targets,
    poisoned,
)

from xent_fast import reference, softmax_cross_entropy, softmax_cross_entropy_grad

# One to four virtual vectors of 16 float32 or 8 float64 lanes, and blocks of classes, each +- 1.
NARROW_WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 34)
WIDE_WIDTHS = (
    *(47, 48, 49, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025),
    *(2047, 2048, 2049, 4095, 4096, 4097, 5000),
)
SHAPES = [
    *((rows, classes) for classes in NARROW_WIDTHS for rows in (1, 2, 15, 16, 17, 33)),
    *((rows, classes) for classes in WIDE_WIDTHS for rows in (1, 3)),
    *((rows, classes) for classes in (65, 128) for rows in (15, 16, 17, 33)),
]
LABEL_DTYPES = [np.dtype(kind + width) for kind in "iu" for width in "1248"]

LOSS_SPACINGS = 3
GRADIENT_SPACINGS = 4
# The reference is itself a double: it rounds x - m, and exp makes that error |x - m| times larger.
REFERENCE_ERROR = 1e-13


def assert_gradient(
    got: np.ndarray, want: np.ndarray, mass: np.ndarray, dtype: type, kind: str
) -> None:
    """Each entry of Q p - q: relative to itself for labels, to Q p + |q| for dense targets."""
    if dtype == np.float32 and kind == "index":
        assert_within_spacings(got, want, dtype, GRADIENT_SPACINGS)
        return
    magnitude = np.abs(want) if kind == "index" else np.abs(want + mass) + np.abs(mass)
    smallest = np.finfo(dtype).smallest_subnormal
    assert_within(got, want, GRADIENT_SPACINGS * smallest + _relative_error(dtype) * magnitude)


def assert_row_losses(
    got: np.ndarray,
    want: np.ndarray,
    logits: np.ndarray,
    mass: np.ndarray,
    dtype: type,
    kind: str,
) -> None:
    """Each row's loss: relative to itself for labels, to the sum of its parts for dense targets."""
    if dtype == np.float32 and kind == "index":
        assert_within_spacings(got, want, dtype, LOSS_SPACINGS)
        return
    magnitude = np.abs(want) if kind == "index" else _dense_loss_magnitude(logits, mass)
    assert_within(
        got, want, np.finfo(dtype).smallest_subnormal + _relative_error(dtype) * magnitude
    )


def _relative_error(dtype: type) -> float:
    return GRADIENT_SPACINGS * np.finfo(np.float32).eps if dtype == np.float32 else REFERENCE_ERROR


def _dense_loss_magnitude(logits: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Sum over the classes of |q| (log S + m - x)."""
    below = logits.max(axis=1, keepdims=True).astype(np.float64) - logits
    log_sum = np.log(np.exp(-below).sum(axis=1, keepdims=True))
    return (np.abs(mass) * (log_sum + below)).sum(axis=1)


def some_rows(classes: int) -> int:
    """More than a group of 16 where rows may be side by side, few where a row is long."""
    return 19 if classes <= 129 else 5


def _case(kind: str, rows: int, classes: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([rows, classes])
    logits = make_logits(rng, rows, classes, dtype)
    return logits, make_targets(kind, rng, rows, classes, dtype)


def test_shape(isa: str, dtype: type, kind: str) -> None:
    """Losses, and a gradient over poison; nothing else written; the loss alone has those bits."""
    for rows, classes in SHAPES:
        logits, targets = _case(kind, rows, classes, dtype)
        guarded_logits, guarded_targets = GuardedArray(logits), GuardedArray(targets)
        output = poisoned(rows, classes, dtype)

        loss, grad = softmax_cross_entropy_grad(
            guarded_logits.array, guarded_targets.array, reduction="none", out=output.array
        )

        assert grad is output.array
        output.assert_guards_intact()
        guarded_logits.assert_untouched()
        guarded_targets.assert_untouched()
        assert loss.shape == (rows,)
        assert loss.dtype == dtype
        want = reference.softmax_cross_entropy_grad(logits, targets, reduction="none")
        mass = effective_mass(targets, classes)
        assert_row_losses(loss, want.loss, logits, mass, dtype, kind)
        assert_gradient(grad, want.grad, mass, dtype, kind)
        assert_same_bits(softmax_cross_entropy(logits, targets, reduction="none"), loss)


@pytest.mark.parametrize("classes", (3, 40))
def test_broadcast_logits(isa: str, dtype: type, kind: str, classes: int) -> None:
    """A row stride of zero: one row of logits, many of targets."""
    logits, targets = _case(kind, 20, classes, dtype)
    broadcast = np.broadcast_to(logits[:1], logits.shape)
    got = softmax_cross_entropy_grad(broadcast, targets, reduction="none")
    want = softmax_cross_entropy_grad(broadcast.copy(), targets, reduction="none")
    assert_same_bits(got.loss, want.loss)
    assert_same_bits(got.grad, want.grad)


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES, ids=str)
def test_labels(isa: str, dtype: type, label_dtype: np.dtype) -> None:
    """Labels of every integer dtype, in any layout, are read as they lie."""
    for layout in LAYOUTS:
        rows, classes = 35, 10
        logits, labels = _case("index", rows, classes, dtype)
        guarded = GuardedArray(labels.astype(label_dtype), layout)
        got = softmax_cross_entropy_grad(logits, guarded.array, ignore_index=3)
        want = softmax_cross_entropy_grad(logits, labels, ignore_index=3)
        guarded.assert_untouched()
        assert_same_bits(got.grad, want.grad)
        assert got.loss == want.loss


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
def test_reduction_and_weights(isa: str, dtype: type, kind: str, reduction: str) -> None:
    """Denominator, sample weights and scale reach both the loss and the gradient."""
    for weighted, scale, classes in itertools.product(
        (False, True), (1.0, 0.37), (3, 10, 40, 2049)
    ):
        rows = some_rows(classes)
        logits, targets = _case(kind, rows, classes, dtype)
        weight = np.linspace(0.0, 3.0, rows).astype(dtype) if weighted else None
        options = {"sample_weight": weight, "scale": scale, "reduction": reduction}
        guarded_weight = GuardedArray(np.ones(rows, dtype) if weight is None else weight)
        given = dict(options, sample_weight=guarded_weight.array if weighted else None)

        loss, grad = softmax_cross_entropy_grad(logits, targets, **given)

        guarded_weight.assert_untouched()
        plain_weight = np.ones(rows) if weight is None else weight.astype(np.float64)
        row_weight = plain_weight * scale / (plain_weight.sum() if reduction == "mean" else 1.0)
        want = reference.softmax_cross_entropy_grad(logits, targets, **options)
        mass = effective_mass(targets, classes, row_weight)
        assert_gradient(grad, want.grad, mass, dtype, kind)
        if reduction == "none":
            assert_row_losses(loss, want.loss, logits, mass, dtype, kind)
        else:
            assert isinstance(loss, float)
            assert_within(
                loss, want.loss, _relative_error(dtype) * _dense_loss_magnitude(logits, mass).sum()
            )
        assert_same_bits(softmax_cross_entropy(logits, targets, **given), loss)


@pytest.mark.parametrize("ignore_index", (-100, 1))
@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
def test_ignored_rows(isa: str, dtype: type, reduction: str, ignore_index: int) -> None:
    """Ignored rows are not read, have gradient 0 and leave the denominator, beside a scale too."""
    for classes in (3, 10, 40, 2049):
        rows, scale = 37, -2.5
        logits, labels = _case("index", rows, classes, dtype)
        labels[labels == ignore_index] = 0
        ignored = np.arange(rows) % 3 == 1
        labels[ignored] = ignore_index
        logits[ignored] = np.nan
        weight = np.linspace(0.5, 1.5, rows)
        weight[ignored] = np.nan
        output = poisoned(rows, classes, dtype)

        loss, grad = softmax_cross_entropy_grad(
            logits,
            labels,
            sample_weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
            scale=scale,
            out=output.array,
        )

        output.assert_guards_intact()
        assert_same_bits(grad[ignored], np.zeros((ignored.sum(), classes), dtype))
        kept_logits, kept_labels, kept_weight = logits[~ignored], labels[~ignored], weight[~ignored]
        want = reference.softmax_cross_entropy_grad(
            kept_logits, kept_labels, sample_weight=kept_weight, reduction=reduction, scale=scale
        )
        row_weight = scale * kept_weight / (kept_weight.sum() if reduction == "mean" else 1.0)
        mass = effective_mass(kept_labels, classes, row_weight)
        assert_gradient(grad[~ignored], want.grad, mass, dtype, "index")
        if reduction == "none":
            assert_same_bits(loss[ignored], np.zeros(ignored.sum(), dtype))
            assert_row_losses(loss[~ignored], want.loss, kept_logits, mass, dtype, "index")
        else:
            assert_within(loss, want.loss, _relative_error(dtype) * abs(want.loss))
