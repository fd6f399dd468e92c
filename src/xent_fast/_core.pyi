"""Types of the compiled module; its arguments are checked there, whatever they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent_fast._result import EntropyAndGrad, LossAndGrad, LossGradAndHessian

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
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[np.float64] | None, float | None]: ...
def repeats_itself(array: NDArray[Any]) -> bool: ...
def probabilities(
    given_logits: object,
    given_axis: object,
    logarithms: bool,
    out: object,
    num_threads: object,
    temperature: object = 1.0,
) -> Any: ...
def log_sum_of_exponentials(
    given_logits: object, given_axis: object, keepdims: object, out: object, num_threads: object
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
def checked_grad_output(
    given: object, row_shape: tuple[int, ...], reduction: object
) -> NDArray[np.float64] | None: ...
def hessian_times_vector(
    logits: object,
    targets: object,
    vector: object,
    axis: object,
    weight: object,
    sample_weight: object,
    ignore_index: object,
    label_smoothing: object,
    temperature: object,
    z_loss: object,
    reduction: object,
    scale: object,
    out: object,
    num_threads: object,
) -> NDArray[np.floating[Any]]: ...
def hessian_diagonal(
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
    out: object,
    num_threads: object,
) -> NDArray[np.floating[Any]]: ...
def grad_hessian(
    logits: object,
    targets: object,
    axis: object,
    weight: object,
    sample_weight: object,
    ignore_index: object,
    label_smoothing: object,
    temperature: object,
    z_loss: object,
    factor: object,
    min_hessian: object,
    reduction: object,
    scale: object,
    grad_out: object,
    hessian_out: object,
    num_threads: object,
) -> LossGradAndHessian[Any, Any]: ...
def distillation(
    student_logits: object,
    teacher_logits: object,
    targets: object,
    temperature: object,
    alpha: object,
    axis: object,
    weight: object,
    sample_weight: object,
    ignore_index: object,
    label_smoothing: object,
    reduction: object,
    scale: object,
    out: object,
    num_threads: object,
) -> LossAndGrad[Any, Any]: ...
def checked_floats(given: object, name: str, out: object) -> NDArray[np.floating[Any]]: ...
def checked_logits(given: object, name: str, out: object) -> NDArray[np.floating[Any]]: ...
def checked_axis(given: object, array: NDArray[Any], name: str) -> int: ...
def checked_output(out: object, array: NDArray[Any], name: str) -> NDArray[np.floating[Any]]: ...
def checked_array(given: object, name: str) -> NDArray[Any]: ...
def checked_weights(given: object, shape: tuple[int, ...], name: str) -> NDArray[Any]: ...
def checked_signs(weights: NDArray[Any], name: str) -> None: ...
def checked_targets(
    given: object, array: NDArray[Any], row_shape: tuple[int, ...], name: str, axis: int = -1
) -> NDArray[Any]: ...
def checked_label_smoothing(given: object) -> float: ...
def checked_scale(reduction: object, scale: object, num_threads: object) -> float: ...
def checked_number(given: object, name: str) -> float: ...
def checked_integer(given: object, name: str) -> int: ...
def available_isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> str: ...
def set_waiting(how: str | None, harmful: bool) -> None: ...
def configuration() -> dict[str, Any]: ...

ROW_STATISTICS: int
BLOCK_STATISTICS: int
TARGETS_HERE: int
TARGET_LOGIT: int
TARGET_WEIGHT: int
TARGET_CLASS: int

def class_block_count(dtype: object, classes: int) -> int: ...
def target_kind(is_dense: bool, is_shaped: bool) -> int: ...
def checked_options(
    label_smoothing: object, temperature: object, z_loss: object, reduction: object, scale: object
) -> tuple[float, float, float, float]: ...
def measure_classes(
    logits: NDArray[Any],
    targets: NDArray[Any],
    weight: NDArray[Any] | None,
    ignore_index: object,
    kind: int,
    label_smoothing: float,
    temperature: float,
    first_class: int,
    num_classes: int,
    values: NDArray[np.float64],
) -> None: ...
def settle_classes(
    values: NDArray[np.float64],
    row_loss: NDArray[Any],
    sample_weight: NDArray[np.float64] | None,
    kind: int,
    has_class_weight: bool,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    factor: float,
    num_classes: int,
    whole_blocks: int,
) -> None: ...
def write_classes(
    logits: NDArray[Any],
    targets: NDArray[Any],
    weight: NDArray[Any] | None,
    out: NDArray[Any],
    values: NDArray[np.float64],
    sample_weight: NDArray[np.float64] | None,
    kind: int,
    has_class_weight: bool,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    factor: float,
    first_class: int,
    num_classes: int,
    whole_blocks: int,
    first_block: int,
) -> None: ...
