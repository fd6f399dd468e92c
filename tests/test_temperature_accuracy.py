"""Error bounds in ulps under a temperature, for every instruction set.

A temperature takes part in every exponential's argument, where its rounding would cost as many ulps
as the logit is far below the maximum.

Knows the formula, and the bounds that docs/numerics.md states without a temperature.
Must not know how a kernel divides by it.
"""

from __future__ import annotations

import functools

import mpmath
import numpy as np
import pytest

from docs.numerics.oracle import ulp_errors
from xent_fast import softmax_cross_entropy_grad

LOSS_ULPS = 3
GRADIENT_ULPS = 4
ROWS = 6
TEMPERATURES = (1e-4, 0.7, 3.7)
# Just below the logits that are taken relative to the maximum first, where the temperature is 1.
OFFSETS = {np.float32: (0.0, 6e4), np.float64: (0.0, 5e8)}


@functools.cache
def case(dtype: type, classes: int, temperature: float, offset: float) -> tuple:
    """Logits with probabilities down to 1e-30, labels, and the exact loss and gradient."""
    rng = np.random.default_rng(classes)
    spread = -60 * temperature * rng.random((ROWS, classes))
    logits = (offset + spread).astype(dtype)
    labels = rng.integers(0, classes, ROWS)
    context = mpmath.MPContext()
    context.prec = 160
    loss, gradient = [], []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        largest, divisor = context.mpf(max(row)), context.mpf(temperature)
        distances = [(context.mpf(x) - largest) / divisor for x in row]
        exponentials = [context.exp(distance) for distance in distances]
        total = context.fsum(exponentials)
        loss.append(context.log(total) - distances[label])
        gradient.append([e / total / divisor for e in exponentials])
        others = context.fsum(e for k, e in enumerate(exponentials) if k != label)
        gradient[-1][label] = -others / total / divisor
    return logits, labels, np.array(loss, object), np.array(gradient, object)


@pytest.mark.parametrize("is_offset", [False, True], ids=["around 0", "offset"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("classes", [7, 100])
def test_bounds(isa: str, dtype: type, classes: int, temperature: float, is_offset: bool) -> None:
    logits, labels, exact_loss, exact_gradient = case(
        dtype, classes, temperature, OFFSETS[dtype][is_offset]
    )
    loss, gradient = softmax_cross_entropy_grad(
        logits, labels, temperature=temperature, reduction="none"
    )
    assert ulp_errors(loss, exact_loss).max() <= LOSS_ULPS
    assert ulp_errors(gradient, exact_gradient).max() <= GRADIENT_ULPS


@pytest.mark.parametrize("classes", [3, 10, 200, 3000])
def test_smallest_temperature(isa: str, dtype: type, classes: int) -> None:
    """Of equal logits all are as likely, of others one alone."""
    least = 2.0**-124
    logits = np.zeros((2, classes), dtype)
    logits[1, 0] = 1
    loss, gradient = softmax_cross_entropy_grad(
        logits, np.zeros(2, int), temperature=least, scale=least, reduction="none"
    )
    expected = np.zeros((2, classes))
    expected[0] = 1 / classes - (np.arange(classes) == 0)
    np.testing.assert_allclose(loss / least, [np.log(classes), 0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
