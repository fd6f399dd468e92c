"""SciPy's own tests of its logsumexp: infinities, and weights of the exponentials.

Knows those inputs and the published values. Must not know SciPy: it need not be installed; nor
accuracy, axes and shapes, which tests/test_accuracy.py and tests/test_pytorch.py hold.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

inf, nan = np.inf, np.nan


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.arange(10.0), np.arange(10.0, 0.0, -1.0), 9.9170178533034665),
        ([1000.0, 1000.0], [1.2, 1.2], 1000 + math.log(2.4)),
        ([1.0, 10000.0], [1.0, 0.0], 1.0),
        ([math.log(2), 2.0, math.log(3)], [1.0, 0.0, 1.0], math.log(5)),
        ([0.0, -40.0], 1.0, 4.248354255291589e-18),
        ([math.log(1e-40)] * 10**6, 1.0, math.log(1e-34)),
        ([inf], 1.0, inf),
        ([-inf], 1.0, -inf),
        ([nan], 1.0, nan),
        ([-inf, -inf], 1.0, -inf),
        ([inf, inf], 1.0, inf),
        ([inf, -inf], 1.0, inf),
        ([inf, nan], 1.0, nan),
        ([1e10, 1e-10], 1.0, 1e10),
        ([-1e10, -inf], 1.0, -1e10),
    ],
    ids=lambda value: str(value)[:20],
)
def test_logsumexp(implementation: ModuleType, a: Any, b: Any, expected: float) -> None:
    """SciPy's `b`: log sum b exp(a) is the logsumexp of a + log b, and b = 0 is a logit of -inf."""
    with np.errstate(divide="ignore"):
        logits = np.asarray(a) + np.log(b)
    np.testing.assert_allclose(implementation.logsumexp(logits), expected, rtol=1e-13)
