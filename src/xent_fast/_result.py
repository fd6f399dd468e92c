"""What a call that computes a gradient gives back.

Knows: the names of its two fields. Must not know: how they are computed.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

LossT = TypeVar("LossT", float, NDArray[np.floating[Any]])


class LossAndGrad(NamedTuple, Generic[LossT]):
    """Loss and gradient with respect to the logits; unpacks as ``loss, grad = ...``.

    Attributes
    ----------
    loss : float or ndarray of shape (rows,)
        A float for ``reduction="mean"`` and ``"sum"``, one loss a row for ``"none"``.
    grad : ndarray of shape (rows, classes)
        Gradient with respect to the logits, of their dtype.
    """

    loss: LossT
    grad: NDArray[np.floating[Any]]
