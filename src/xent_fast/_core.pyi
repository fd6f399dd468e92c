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
def softmax_vjp(
    probabilities: object,
    grad_probabilities: object,
    axis: object,
    out: object,
    num_threads: object,
) -> NDArray[np.floating[Any]]: ...
def log_softmax_vjp(
    log_probabilities: object,
    grad_log_probabilities: object,
    axis: object,
    out: object,
    num_threads: object,
) -> NDArray[np.floating[Any]]: ...
def checked_floats(given: object, name: str, out: object) -> NDArray[np.floating[Any]]: ...
def checked_axis(given: object, array: NDArray[Any], name: str) -> int: ...
def checked_output(out: object, array: NDArray[Any], name: str) -> NDArray[np.floating[Any]]: ...
def checked_scale(reduction: object, scale: object, num_threads: object) -> float: ...
def checked_number(given: object, name: str) -> float: ...
def checked_integer(given: object, name: str) -> int: ...
def available_isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> str: ...
def configuration() -> dict[str, Any]: ...
