"""Types of the compiled calls; their arguments are checked there, whatever they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent_fast._result import EntropyAndGrad

def probabilities(
    logits: object,
    axis: object,
    logarithms: bool,
    out: object,
    num_threads: object,
    temperature: object = 1.0,
) -> Any: ...
def log_sum_of_exponentials(
    logits: object, axis: object, keepdims: object, out: object, num_threads: object
) -> Any: ...
def softmax_vjp(
    probabilities: object,
    grad_probabilities: object,
    axis: object,
    grad_output: object,
    out: object,
    num_threads: object,
) -> NDArray[np.floating[Any]]: ...
def log_softmax_vjp(
    log_probabilities: object,
    grad_log_probabilities: object,
    axis: object,
    grad_output: object,
    out: object,
    num_threads: object,
) -> NDArray[np.floating[Any]]: ...
def entropy(
    logits: object,
    axis: object,
    sample_weight: object,
    temperature: object,
    reduction: object,
    scale: object,
    num_threads: object,
) -> Any: ...
def entropy_and_grad(
    logits: object,
    axis: object,
    sample_weight: object,
    temperature: object,
    reduction: object,
    scale: object,
    grad_output: object,
    out: object,
    num_threads: object,
) -> EntropyAndGrad[Any, Any]: ...
