"""Labels above half the range of their dtype are no negative numbers.

Knows integer dtypes.
Must not know how labels are read.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits

from xent_fast import softmax_cross_entropy_grad


@pytest.mark.parametrize("step", [1, 2], ids=["contiguous", "strided"])
@pytest.mark.parametrize("label_dtype", [np.uint8, np.uint16], ids=["uint8", "uint16"])
def test_labels_beyond_the_signed_numbers(label_dtype: type, step: int) -> None:
    classes = int(np.iinfo(label_dtype).max) + 1
    rng = np.random.default_rng(classes)
    logits = rng.standard_normal((3, classes)).astype(np.float32)
    labels = np.repeat(np.array([classes - 1, classes // 2, classes // 2 - 1], label_dtype), step)
    got = softmax_cross_entropy_grad(logits, labels[::step])
    want = softmax_cross_entropy_grad(logits, labels[::step].astype(np.int64))
    assert_same_bits(got.loss, want.loss)
    assert_same_bits(got.grad, want.grad)
