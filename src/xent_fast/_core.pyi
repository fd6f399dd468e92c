"""Types of the compiled module; its arguments are checked there, whatever they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent_fast._result import LossAndGrad

def loss(
    logits: object,
    targets: object,
    sample_weight: object,
    ignore_index: object,
    reduction: object,
    scale: object,
    num_threads: object,
) -> float | NDArray[np.floating[Any]]: ...
def loss_and_grad(
    logits: object,
    targets: object,
    sample_weight: object,
    ignore_index: object,
    reduction: object,
    scale: object,
    num_threads: object,
    out: object,
) -> LossAndGrad[Any]: ...
def available_isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> str: ...
def configuration() -> dict[str, Any]: ...
