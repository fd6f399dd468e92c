"""Types of what Python sees of the entry points for compiled code."""

from typing import Any

import numpy as np

__all__ = ["CALL_DTYPE"]

_C_API: Any  # a capsule
CALL_DTYPE: np.dtype[Any]
