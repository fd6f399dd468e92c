"""Types of the compiled module; its arguments are checked there, whatever they are."""

from typing import Any

def loss(
    logits: object,
    targets: object,
    axis: object,
    weight: object,
    sample_weight: object,
    ignore_index: object,
    label_smoothing: object,
    temperature: object,
    z_loss: object,
    reduction: object,
    scale: object,
    return_statistics: object,
    num_threads: object,
) -> Any: ...
def loss_and_grad(
    logits: object,
    targets: object,
    axis: object,
    weight: object,
    sample_weight: object,
    ignore_index: object,
    label_smoothing: object,
    temperature: object,
    z_loss: object,
    reduction: object,
    scale: object,
    return_statistics: object,
    num_threads: object,
    out: object,
) -> Any: ...
def probabilities(
    given_logits: object, given_axis: object, logarithms: bool, out: object, num_threads: object
) -> Any: ...
def log_sum_of_exponentials(given_logits: object, given_axis: object, num_threads: object) -> Any: ...
def available_isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> str: ...
def configuration() -> dict[str, Any]: ...
