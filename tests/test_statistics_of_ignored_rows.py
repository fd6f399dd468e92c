"""A row that is ignored is no correct prediction, whatever number stands for it.

Knows that the prediction of a row that does not count is -1.
Must not know how predictions are judged.
"""

from __future__ import annotations

import numpy as np
import pytest

from xent_fast import softmax_cross_entropy


@pytest.mark.parametrize("classes", [3, 100])
def test_label_of_minus_one(isa: str, dtype: type, classes: int) -> None:
    logits = np.zeros((3, classes), dtype)
    logits[:, 1] = 1
    logits[2] = np.nan
    result = softmax_cross_entropy(
        logits, np.array([1, -1, -1]), ignore_index=-1, return_statistics=True
    )
    np.testing.assert_array_equal(result.statistics.prediction, [1, -1, -1])
    np.testing.assert_array_equal(result.statistics.is_correct, [True, False, False])
