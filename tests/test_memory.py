"""Nothing outside an array is touched, nothing leaks, and a failed allocation changes nothing.

Knows: the public functions, and the programs in tests/memory that scripts/check_memory runs at
length. Must not know: how a kernel or an allocator works.
"""

from __future__ import annotations

import numpy as np
import pytest

import xent_fast


@pytest.mark.parametrize("rows", [15, 16, 17, 18, 33, 64, 300])
def test_one_class_beside_other_memory(isa: str, dtype: type, rows: int) -> None:
    """The least that a row can hold: shorter than anything that a kernel loads or stores at once."""
    memory = np.full(rows + 16, 7, dtype)
    out = memory[8:-8].reshape(rows, 1)
    logits = np.arange(rows, dtype=dtype).reshape(rows, 1)
    options = {"z_loss": 0.5, "reduction": "sum", "num_threads": 1}

    grad = xent_fast.softmax_cross_entropy_grad(logits, np.zeros(rows, int), out=out, **options).grad
    np.testing.assert_array_equal(memory[:8], 7)
    np.testing.assert_array_equal(memory[-8:], 7)
    np.testing.assert_allclose(grad, logits, rtol=1e-6)  # 2 z lse p, with lse = x and p = 1

    xent_fast.softmax_cross_entropy_grad(logits, np.zeros(rows, int), out=logits, **options)
    np.testing.assert_array_equal(logits, grad)
