"""The cross-entropy of probabilities as given.

Knows: its formula. Must not know: logits.
"""

from __future__ import annotations

from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import LossAndGrad
from xent_fast.reference._rows import (
    Float64Array,
    rows_of,
    written,
)
from xent_fast.reference._softmax_rows import (
    sum_of_products,
    weighted,
)
from xent_fast.reference._targets import (
    number,
    targets_of,
)


def cross_entropy(
    probabilities: ArrayLike, targets: ArrayLike, **options: Any
) -> float | Float64Array:
    """-sum q log p, of probabilities as given: a class without mass costs 0, whatever its p."""
    return cast(float | Float64Array, cross_entropy_grad(probabilities, targets, **options).loss)


def cross_entropy_grad(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    clip: float = 0.0,
    reduction: str = "mean",
    scale: float = 1.0,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[Any, Any]:
    """That loss and its gradient with respect to p, -q / p; 0 where `clip` holds p fast."""
    p, place = rows_of(probabilities, axis, "probabilities")
    clip = number(clip, "clip")
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must be in [0, 0.5), not {clip}")
    masses = targets_of(
        place, targets, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
    )
    if ((p < -1e-3) | (p > 1 + 1e-3))[masses.counted].any():
        raise ValueError("probabilities must be in [0, 1]")
    with np.errstate(all="ignore"):
        held = np.clip(p, clip, 1 - clip) if clip > 0 else p
        row_loss = sum_of_products(masses.mass, -np.log(held))
        loss = masses.reduced(weighted(masses.row_weight, row_loss))
        q = masses.mass * masses.row_weight[:, np.newaxis]
        grad = np.where((q == 0) | (held != p) & ~np.isnan(p), 0.0, -q / held)
        grad = masses.finished(grad)
    return LossAndGrad(loss, written(place.restored(grad), out))
