"""A user's program that is never run: mypy reads it in scripts/lint, so that results have types.

Knows the public functions' types. Must not know what they compute.
"""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import xent_fast
from xent_fast import softmax_cross_entropy, softmax_cross_entropy_grad

Floats = NDArray[np.floating[Any]]

logits = np.zeros((2, 3), dtype=np.float32)
labels = np.array([0, 2])

assert_type(softmax_cross_entropy(logits, labels), float)
assert_type(softmax_cross_entropy(logits, labels, reduction="none"), Floats)
loss, grad = softmax_cross_entropy_grad(logits, labels, out=logits)
assert_type(loss, float)
assert_type(grad, Floats)
losses, _ = softmax_cross_entropy_grad(logits, labels, reduction="none")
assert_type(losses, Floats)
assert_type(xent_fast.softmax(logits), Floats)
assert_type(xent_fast.show_config("dicts"), dict[str, Any])

# Each of these is an error, or mypy calls the comment unused.
softmax_cross_entropy(logits, labels, reduction="avg")  # type: ignore[call-overload]
softmax_cross_entropy_grad(logits, labels, reduction="average")  # type: ignore[call-overload]
xent_fast.distillation_loss_grad(logits, logits, reduction="avg")  # type: ignore[arg-type]
softmax_cross_entropy(logits, labels, -1)  # type: ignore[call-overload]
