"""A user's program that is never run: mypy and pyright read it in scripts/lint.

Knows the public functions' types. Must not know what they compute.
"""

from __future__ import annotations

from typing import Any, Literal, assert_type

import numpy as np
from numpy.typing import NDArray

import xent_fast
from xent_fast import LossAndGrad, softmax_cross_entropy, softmax_cross_entropy_grad

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Reduction = Literal["mean", "sum", "none"]

logits = np.zeros((2, 3), dtype=np.float32)
scores = np.zeros((2, 3))
labels = np.array([0, 2])

# Results have the logits' dtype; a mean or a sum is a float.
assert_type(softmax_cross_entropy(logits, labels), float)
assert_type(softmax_cross_entropy(logits, labels, reduction="none"), Float32s)
assert_type(softmax_cross_entropy(scores, labels, reduction="none"), Float64s)
loss, grad = softmax_cross_entropy_grad(logits, labels, out=logits)
assert_type(loss, float)
assert_type(grad, Float32s)
losses, grads = softmax_cross_entropy_grad(scores, labels, reduction="none")
assert_type(losses, Float64s)
assert_type(grads, Float64s)
assert_type(xent_fast.softmax_loss(scores, labels).grad, Float64s)
assert_type(xent_fast.softmax(logits), Float32s)
assert_type(xent_fast.log_softmax(scores), Float64s)
assert_type(xent_fast.logsumexp(scores), Float64s)
assert_type(xent_fast.softmax_vjp(scores, scores), Float64s)
assert_type(xent_fast.log_softmax_vjp(logits, logits), Float32s)
assert_type(xent_fast.softmax_cross_entropy_hvp(scores, labels, scores), Float64s)
assert_type(xent_fast.softmax_cross_entropy_hessian_diagonal(logits, labels), Float32s)
assert_type(xent_fast.softmax_cross_entropy_grad_hessian(scores, labels).hessian, Float64s)
assert_type(xent_fast.distillation_loss_grad(scores, scores).grad, Float64s)
assert_type(xent_fast.cross_entropy(scores, labels, reduction="none"), Float64s)
assert_type(xent_fast.cross_entropy_grad(logits, labels).grad, Float32s)
assert_type(xent_fast.softmax_entropy(scores, reduction="none"), Float64s)
assert_type(xent_fast.softmax_entropy_grad(logits).grad, Float32s)
assert_type(xent_fast.softmax_cross_entropy_grad_targets(scores), Float64s)
sampled = xent_fast.sampled_softmax_loss_grad(scores, scores, scores[0], labels, num_sampled=2)
assert_type(sampled.loss, float)
assert_type(sampled.grad_weight, Float64s)
linear = xent_fast.linear_softmax_cross_entropy_grad(scores, scores, None, labels)
assert_type(linear.grad_hidden, Float64s)
assert_type(xent_fast.linear_softmax_cross_entropy(scores, scores, None, labels), float)
statistics = xent_fast.class_statistics(scores, labels, first_class=0)
assert_type(xent_fast.loss_from_statistics(statistics), Floats)
assert_type(xent_fast.loss_from_statistics(statistics, reduction="sum"), float)
shard = xent_fast.grad_from_statistics(scores, labels, statistics, first_class=0)
assert_type(shard.loss, float)
assert_type(shard.grad, Float64s)

# Statistics of the rows too.
with_statistics = softmax_cross_entropy(scores, labels, return_statistics=True)
assert_type(with_statistics.loss, float)
assert_type(with_statistics.statistics.lse, Float64s)
assert_type(with_statistics.statistics.prediction, NDArray[np.intp])
all_three = softmax_cross_entropy_grad(logits, labels, reduction="none", return_statistics=True)
assert_type(all_three.loss, Float32s)
assert_type(all_three.grad, Float32s)

asked: bool = bool(labels[0])
result = softmax_cross_entropy_grad(scores, labels, return_statistics=asked)
assert_type(result.loss, Any)

# What is no array of these dtypes is converted or its dtype not known.
assert_type(xent_fast.softmax([[1.0, 2.0]]), Floats)
assert_type(softmax_cross_entropy([[1.0, 2.0]], [1]), float)
assert_type(xent_fast.show_config("dicts"), dict[str, Any])


def step(x: Float64s, y: NDArray[np.intp]) -> Float64s:
    """Its annotations hold."""
    return softmax_cross_entropy_grad(x, y).grad


def either(x: Floats, reduction: Reduction) -> float | Floats:
    """Options that are known at run time alone."""
    return softmax_cross_entropy(x, labels, reduction=reduction)


def general(x: Float64s) -> LossAndGrad[float, np.floating[Any]]:
    """A result of one dtype is one of any."""
    return softmax_cross_entropy_grad(x, labels)


# Each of these is an error, or the checker calls the comment unused.
softmax_cross_entropy(logits, labels, reduction="avg")  # type: ignore[call-overload]
softmax_cross_entropy_grad(logits, labels, reduction="average")  # type: ignore[call-overload]
xent_fast.distillation_loss_grad(logits, logits, reduction="avg")  # type: ignore[call-overload]
xent_fast.loss_from_statistics(statistics, reduction="avg")  # type: ignore[call-overload]
softmax_cross_entropy(logits, labels, -1)  # type: ignore[call-overload]
wrong: Float64s = xent_fast.softmax(logits)  # type: ignore[assignment]
