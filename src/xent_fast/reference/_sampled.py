"""The loss over a sample of the classes.

Knows: the distributions that classes are drawn from. Must not know: the formula of the loss.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import SampledLossAndGrad
from xent_fast.reference._loss import softmax_cross_entropy_grad
from xent_fast.reference._rows import Float64Array

Sampler = str | tuple[ArrayLike, ArrayLike]
ClassArray = NDArray[np.intp]
ExpectedCount = Callable[[ClassArray], Float64Array]


def sampled_softmax_loss_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    num_sampled: SupportsIndex,
    sampler: Sampler = "log_uniform",
    remove_accidental_hits: bool = True,
    rng: np.random.Generator | int | None = None,
    reduction: str = "mean",
    sample_weight: ArrayLike | None = None,
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> SampledLossAndGrad[Any, Any]:
    """The loss over a sample of the classes: the same draw from the same `rng`."""
    h, w = np.asarray(hidden, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    b = np.zeros(len(w)) if bias is None else np.asarray(bias, dtype=np.float64)
    labels = np.asarray(targets)
    samples, expected_count = _draw(sampler, num_sampled, len(w), np.random.default_rng(rng))
    logits = np.empty((len(h), 1 + len(samples)))
    classes = np.empty(logits.shape, dtype=np.intp)
    for example, label in enumerate(labels):
        classes[example] = [label, *samples]
        logits[example] = w[classes[example]] @ h[example] + b[classes[example]]
        logits[example] -= np.log(expected_count(classes[example]))
        if remove_accidental_hits:
            logits[example, 1:][samples == label] = -np.inf

    result = softmax_cross_entropy_grad(
        logits,
        np.zeros(len(h), dtype=np.intp),
        reduction=reduction,
        sample_weight=sample_weight,
        scale=scale,
    )
    grad_hidden, grad_weight, grad_bias = np.zeros_like(h), np.zeros_like(w), np.zeros_like(b)
    for example in range(len(h)):
        for k, slope in zip(classes[example], result.grad[example], strict=True):
            grad_hidden[example] += slope * w[k]
            grad_weight[k] += slope * h[example]
            grad_bias[k] += slope
    rows = np.union1d(labels, samples).astype(np.intp)
    return SampledLossAndGrad(result.loss, grad_hidden, rows, grad_weight[rows], grad_bias[rows])


def _draw(
    sampler: Sampler, num_sampled: SupportsIndex, num_classes: int, rng: np.random.Generator
) -> tuple[ClassArray, ExpectedCount]:
    """Sampled classes, and how often each class was to be expected among them."""
    count = operator.index(num_sampled)
    if count < 1:
        raise ValueError(f"num_sampled must be at least 1, not {count}")
    if not isinstance(sampler, str):
        return _given(*sampler, count, num_classes)
    if sampler not in ("log_uniform", "uniform"):
        raise ValueError(f"sampler must be 'log_uniform' or 'uniform', not {sampler!r}")
    if count > num_classes:
        raise ValueError(f"num_sampled must be at most {num_classes}, not {count}")
    if count == num_classes:  # each of them, once
        return np.arange(num_classes), lambda classes: np.ones(classes.shape)
    distinct: list[int] = []
    draws, numbers = 0, 0
    while len(distinct) < count and numbers < 8 * count:
        some = rng.random(max(2 * count, numbers))
        numbers += len(some)
        for uniform in some:
            if len(distinct) < count:
                draws += 1
                drawn = _class_of(uniform, sampler, num_classes)
                if drawn not in distinct:
                    distinct.append(drawn)
    # Of further draws the distribution alone: which classes come next, and after how many draws.
    rest = np.setdiff1d(np.arange(num_classes), distinct)
    p = _probability(rest, sampler, num_classes)
    missing = count - len(distinct)
    if missing > 0:
        order = np.argsort(rng.standard_exponential(len(rest)) / p)
        chance_of_one = np.minimum(np.cumsum(p[order][::-1])[::-1], 1.0)
        draws += int(rng.geometric(chance_of_one[:missing]).sum())
        distinct += rest[order[:missing]].tolist()

    def expected_count(classes: ClassArray) -> Float64Array:
        """1 - (1 - P(k))^draws."""
        expected: Float64Array = -np.expm1(
            draws * np.log1p(-_probability(classes, sampler, num_classes))
        )
        return expected

    return np.array(distinct, dtype=np.intp), expected_count


def _class_of(uniform: float, sampler: str, num_classes: int) -> int:
    """The first class whose cumulative probability lies beyond a number in [0, 1).

    Of the log-uniform distribution that is log(k + 2) / log(C + 1).
    """
    if sampler == "uniform":
        return min(int(uniform * num_classes), num_classes - 1)
    return min(int(np.expm1(uniform * math.log1p(num_classes))), num_classes - 1)


def _probability(classes: ClassArray, sampler: str, num_classes: int) -> Float64Array:
    """1 / C, or log((k + 2) / (k + 1)) / log(C + 1)."""
    if sampler == "uniform":
        return np.full(classes.shape, 1.0 / num_classes)
    probability: Float64Array = np.log1p(1.0 / (classes + 1.0)) / math.log1p(num_classes)
    return probability


def _given(
    samples: ArrayLike, expected_counts: ArrayLike, count: int, num_classes: int
) -> tuple[ClassArray, ExpectedCount]:
    """Classes that the caller drew, and their expected counts."""
    classes, counts = np.asarray(samples), np.asarray(expected_counts, dtype=np.float64)
    if classes.shape != (count,):
        raise ValueError(f"samples must have shape ({count},), not {classes.shape}")
    if counts.shape != (num_classes,):
        raise ValueError(f"expected_counts must have shape ({num_classes},), not {counts.shape}")
    if ((classes < 0) | (classes >= num_classes)).any():
        raise IndexError(f"samples must be classes in range({num_classes})")

    def expected_count(classes: ClassArray) -> Float64Array:
        if not ((counts[classes] > 0) & (counts[classes] < np.inf)).all():
            raise ValueError("expected_counts must be positive and finite")
        return counts[classes]

    return classes.astype(np.intp), expected_count
