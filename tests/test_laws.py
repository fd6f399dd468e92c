"""Laws that hold for every batch, searched with Hypothesis.

Knows what must follow from the formula whatever the numbers are.
Must not know expected values: each law compares the library with itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import (
    TARGET_KINDS,
    assert_same_bits,
    assert_within,
    assert_within_spacings,
    effective_mass,
    make_logits,
    make_targets,
    one_hot,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from xent_fast import softmax_cross_entropy, softmax_cross_entropy_grad

# Two results that are each within these of the truth are within twice these of each other.
LOSS_SPACINGS = 3
GRADIENT_SPACINGS = 4

# Above this a number times any weight used here stays clear of the subnormals.
ROUNDS_FREELY = 1e-30

CLASSES = st.one_of(st.integers(1, 70), st.sampled_from([1023, 2047, 2048, 2049, 4100]))
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Batch:
    """One drawn batch."""

    logits: np.ndarray
    targets: np.ndarray
    kind: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.logits.shape[1]

    @property
    def mass(self) -> np.ndarray:
        """Effective mass q of every class under the "none" and "sum" reductions."""
        return effective_mass(self.targets, self.classes)

    @property
    def largest_exponent(self) -> int:
        """Powers of two up to that one leave every row's weight times its mass below 2^8, from
        which on rows whose small probabilities it makes visible are computed in another way
        (docs/numerics.md).
        """
        return 7 - math.ceil(math.log2(max(np.abs(self.mass).sum(axis=1).max(), 1)))


@st.composite
def batches(draw: st.DrawFn, dtype: type, kinds: tuple[str, ...] = TARGET_KINDS) -> Batch:
    """Batches of 1 to 20 rows on both sides of every border, flat, peaked or with tied logits."""
    rows, classes, kind = draw(st.integers(1, 20)), draw(CLASSES), draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(SEEDS))
    logits = make_logits(rng, rows, classes, dtype, draw(st.sampled_from([0.0, 0.1, 3.0, 20.0])))
    if draw(st.booleans()):
        logits = np.round(logits)
    return Batch(logits, make_targets(kind, rng, rows, classes, dtype), kind)


def gradient(batch: Batch, **options: object) -> np.ndarray:
    """Gradient of the sum of the row losses, unless `options` say otherwise."""
    return softmax_cross_entropy_grad(
        batch.logits, batch.targets, **{"reduction": "sum", **options}
    ).grad


def gradient_tolerance(batch: Batch, dtype: type) -> np.ndarray:
    """How far apart two right gradients may be: each is off by a few units of Q p + |q|."""
    magnitude = np.abs(gradient(batch)) + 2 * np.abs(batch.mass)
    smallest = np.finfo(dtype).smallest_subnormal
    return 2 * GRADIENT_SPACINGS * (np.finfo(dtype).eps * magnitude + smallest)


def loss_tolerance(batch: Batch, dtype: type) -> np.ndarray:
    """How far apart two right row losses may be: a few units of sum |q| (log C + max x - x)."""
    below = batch.logits.max(axis=1, keepdims=True).astype(np.float64) - batch.logits
    magnitude = (np.abs(batch.mass) * (np.log(batch.classes) + below)).sum(axis=1)
    return (
        2
        * GRADIENT_SPACINGS
        * (np.finfo(dtype).eps * magnitude + np.finfo(dtype).smallest_subnormal)
    )


def row_losses(batch: Batch, **options: object) -> np.ndarray:
    """The loss of each row."""
    return softmax_cross_entropy(batch.logits, batch.targets, **{"reduction": "none", **options})


@given(data=st.data(), shift=st.integers(-(2**10), 2**10))
def test_shift(isa: str, dtype: type, data: st.DataObject, shift: int) -> None:
    """Adding a number to a row's logits changes neither loss nor gradient (the sums are exact)."""
    batch = data.draw(batches(dtype))
    exact = Batch(np.round(batch.logits * 64) / dtype(64), batch.targets, batch.kind)
    shifted = Batch(exact.logits + dtype(shift), exact.targets, exact.kind)
    assert_within(gradient(shifted), gradient(exact), gradient_tolerance(exact, dtype))
    assert_within(row_losses(shifted), row_losses(exact), loss_tolerance(exact, dtype))
    if batch.kind == "index":
        assert_within_spacings(gradient(shifted), gradient(exact), dtype, 2 * GRADIENT_SPACINGS)
        assert_within_spacings(row_losses(shifted), row_losses(exact), dtype, 2 * LOSS_SPACINGS)


@given(data=st.data(), seed=SEEDS)
def test_class_permutation(isa: str, dtype: type, data: st.DataObject, seed: int) -> None:
    """Renaming the classes renames the gradient's columns and keeps the loss."""
    batch = data.draw(batches(dtype))
    order = np.random.default_rng(seed).permutation(batch.classes)
    targets = np.argsort(order)[batch.targets] if batch.kind == "index" else batch.targets[:, order]
    renamed = Batch(batch.logits[:, order], targets, batch.kind)
    tolerance = gradient_tolerance(batch, dtype)
    assert_within(gradient(renamed), gradient(batch)[:, order], tolerance[:, order])
    assert_within(row_losses(renamed), row_losses(batch), loss_tolerance(batch, dtype))


@given(data=st.data())
def test_gradient_rows_sum_to_zero(isa: str, dtype: type, data: st.DataObject) -> None:
    """Sum of Q p - q over the classes is Q - Q, whatever the targets sum to."""
    batch = data.draw(batches(dtype))
    sums = gradient(batch).astype(np.float64).sum(axis=1)
    assert_within(sums, np.zeros_like(sums), gradient_tolerance(batch, dtype).sum(axis=1))


@given(data=st.data())
def test_row_alone_has_the_same_bits(isa: str, dtype: type, data: st.DataObject) -> None:
    """A row's loss and gradient do not depend on the batch it stands in, nor on where."""
    batch = data.draw(batches(dtype))
    row = data.draw(st.integers(0, len(batch.logits) - 1))
    alone = Batch(batch.logits[row : row + 1], batch.targets[row : row + 1], batch.kind)
    assert_same_bits(gradient(batch)[row], gradient(alone)[0])
    assert_same_bits(row_losses(batch)[row], row_losses(alone)[0])


@pytest.mark.parametrize("reduction", ("mean", "sum"))
@given(data=st.data(), exponent=st.integers(-8, 7), sign=st.sampled_from([1.0, -1.0]))
def test_scale_is_linear(
    isa: str, dtype: type, data: st.DataObject, reduction: str, exponent: int, sign: float
) -> None:
    """A scale that is a power of two multiplies loss and gradient exactly."""
    batch = data.draw(batches(dtype))
    exponent = min(exponent, batch.largest_exponent)
    losses = row_losses(batch)
    assume(((losses == 0) | (losses > ROUNDS_FREELY)).all())
    normal = np.abs(gradient(batch)) > ROUNDS_FREELY
    scale = sign * 2.0**exponent
    plain = softmax_cross_entropy_grad(batch.logits, batch.targets, reduction=reduction)
    scaled = softmax_cross_entropy_grad(
        batch.logits, batch.targets, reduction=reduction, scale=scale
    )
    assert scaled.loss == scale * plain.loss
    assert_same_bits(scaled.grad[normal], (dtype(scale) * plain.grad)[normal])


@given(data=st.data(), seed=SEEDS)
def test_sample_weight_is_linear(isa: str, dtype: type, data: st.DataObject, seed: int) -> None:
    """Weights that are powers of two multiply their own row exactly, and no other."""
    batch = data.draw(batches(dtype))
    exponents = np.random.default_rng(seed).integers(-6, 7, len(batch.logits))
    weight = np.exp2(np.minimum(exponents, batch.largest_exponent))
    weighted = gradient(batch, sample_weight=weight)
    plain = gradient(batch)
    normal = np.abs(plain) > ROUNDS_FREELY
    want = weight[:, np.newaxis].astype(dtype) * plain
    assert_same_bits(weighted[normal], want[normal])
    losses = row_losses(batch)
    ordinary = losses > ROUNDS_FREELY
    got = row_losses(batch, sample_weight=weight)
    assert_same_bits(got[ordinary], (weight.astype(dtype) * losses)[ordinary])


@given(data=st.data(), exponent=st.integers(-4, 4))
def test_mean_ignores_the_weights_common_factor(
    isa: str, dtype: type, data: st.DataObject, exponent: int
) -> None:
    """The mean divides by the sum of the weights: a common power of two cancels exactly."""
    batch = data.draw(batches(dtype))
    weight = np.linspace(0.5, 1.5, len(batch.logits))
    plain, multiplied = (
        softmax_cross_entropy_grad(batch.logits, batch.targets, sample_weight=factor * weight)
        for factor in (1.0, 2.0**exponent)
    )
    assert plain.loss == multiplied.loss
    assert_same_bits(multiplied.grad, plain.grad)


@given(data=st.data())
def test_one_hot_equals_index(isa: str, dtype: type, data: st.DataObject) -> None:
    """Labels written as dense targets have the labels' loss and gradient."""
    batch = data.draw(batches(dtype, kinds=("index",)))
    dense = Batch(batch.logits, one_hot(batch.targets, batch.classes, dtype), "one_hot")
    assert_within(gradient(dense), gradient(batch), gradient_tolerance(batch, dtype))
    assert_within(row_losses(dense), row_losses(batch), loss_tolerance(batch, dtype))


@given(data=st.data())
def test_loss_is_not_negative(isa: str, dtype: type, data: st.DataObject) -> None:
    """Targets of no negative mass have no negative loss."""
    batch = data.draw(batches(dtype))
    assert (row_losses(batch) >= 0).all()


@given(data=st.data())
def test_probabilities(isa: str, dtype: type, data: st.DataObject) -> None:
    """The gradient is p, and p - 1 for the target: p within [0, 1], each row adding up to 1."""
    batch = data.draw(batches(dtype, kinds=("index",)))
    grad = gradient(batch)
    target = batch.mass == 1
    assert ((grad[~target] >= 0) & (grad[~target] <= 1)).all()
    assert ((grad[target] >= -1) & (grad[target] <= 0)).all()
    totals = (grad.astype(np.float64) + batch.mass).sum(axis=1)
    assert_within(totals, np.ones_like(totals), gradient_tolerance(batch, dtype).sum(axis=1))
