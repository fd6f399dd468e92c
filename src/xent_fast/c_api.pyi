"""Types of what Python sees of the entry points for compiled code."""

from typing import Any

import numpy as np

__all__ = ["CALL_DTYPE"]

CALL_DTYPE: np.dtype[Any]
