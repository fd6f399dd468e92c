"""Types of the compiled calls; their arguments are checked there, whatever they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xent_fast._result import LossAndGrad, LossGradAndHessian

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
