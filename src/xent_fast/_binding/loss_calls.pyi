"""Types of the compiled calls; their arguments are checked there, whatever they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def settle_batch(
    logits_shape: tuple[int, ...],
    dtype: type[np.floating[Any]],
    targets: object,
    weight: object,
    sample_weight: object,
    ignore_index: object,
    label_smoothing: object,
    temperature: object,
    z_loss: object,
    reduction: object,
    scale: object,
    num_threads: object,
    axis: int | None = None,
    name: str = "logits",
    weight_name: str = "class_weight",
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[np.float64] | None, float | None]: ...
