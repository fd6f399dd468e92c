"""Laws that hold for every batch, searched with Hypothesis.

Knows what must follow from the formula whatever the numbers are.
Must not know expected values: each law compares the library with itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import TARGET_KINDS, assert_same_bits, effective_mass, make_logits, make_targets
from hypothesis import assume, given
from hypothesis import strategies as st

from xent_fast import softmax_cross_entropy, softmax_cross_entropy_grad

# Above this a number times any weight used here stays clear of the subnormals.
ROUNDS_FREELY = 1e-30

CLASSES = st.one_of(st.integers(1, 70), st.sampled_from([1023, 2047, 2048, 2049, 4100]))
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Batch:
    """One drawn batch."""

    logits: np.ndarray
    targets: np.ndarray

    @property
    def largest_exponent(self) -> int:
        """Powers of two up to that one leave every row's weight times its mass below 2^8, from
        which on rows whose small probabilities it makes visible are computed in another way
        (docs/numerics.md).
        """
        mass = effective_mass(self.targets, self.logits.shape[1])
        return 7 - math.ceil(math.log2(max(mass.sum(axis=1).max(), 1)))


@st.composite
def batches(draw: st.DrawFn, dtype: type) -> Batch:
    """Batches of 1 to 20 rows on both sides of every border, flat, peaked or with tied logits."""
    rows, classes = draw(st.integers(1, 20)), draw(CLASSES)
    kind = draw(st.sampled_from(TARGET_KINDS))
    rng = np.random.default_rng(draw(SEEDS))
    logits = make_logits(rng, rows, classes, dtype, draw(st.sampled_from([0.0, 0.1, 3.0, 20.0])))
    if draw(st.booleans()):
        logits = np.round(logits)
    return Batch(logits, make_targets(kind, rng, rows, classes, dtype))


def gradient(batch: Batch, **options: object) -> np.ndarray:
    """Gradient of the sum of the row losses, unless `options` say otherwise."""
    return softmax_cross_entropy_grad(
        batch.logits, batch.targets, **{"reduction": "sum", **options}
    ).grad


def row_losses(batch: Batch, **options: object) -> np.ndarray:
    """The loss of each row."""
    return softmax_cross_entropy(batch.logits, batch.targets, **{"reduction": "none", **options})


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
def test_loss_is_not_negative(isa: str, dtype: type, data: st.DataObject) -> None:
    """Targets of no negative mass have no negative loss."""
    batch = data.draw(batches(dtype))
    assert (row_losses(batch) >= 0).all()
