"""The loss of a student beside its teacher.

Knows: its formula. Must not know: how a softmax is made.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._result import LossAndGrad
from xent_fast.reference._rows import (
    alike,
    rows_of,
    written,
)
from xent_fast.reference._softmax_rows import (
    divergence,
    mass_times_p_minus_mass,
    softmax_of,
    sum_of_products,
    weighted,
)
from xent_fast.reference._targets import (
    number,
    targets_of,
    temperature_of,
)


def distillation_loss_grad(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    alpha: float = 0.5,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    scale: float = 1.0,
    out: NDArray[np.floating[Any]] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[Any, Any]:
    """The loss of a student beside its teacher, and its gradient.

    With the teacher's and the student's softened distributions P and Q at temperature T, and the
    student's own probabilities p,

        loss = a alpha T^2 sum P (log P - log Q) + (1 - alpha) sum q (-log p)
        grad = a alpha T (Q - P) + (1 - alpha) (p sum q - q)

    References
    ----------
    G. Hinton, O. Vinyals, J. Dean. Distilling the knowledge in a neural network. 2015.
    """
    x, place = rows_of(student_logits, axis, "student_logits")
    teacher = alike(teacher_logits, place, "teacher_logits", "student_logits")
    temperature, alpha = temperature_of(temperature), number(alpha, "alpha")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    masses = targets_of(
        place, targets, weight, sample_weight, ignore_index, label_smoothing, reduction, scale
    )
    soft_share, hard_share = (1.0, 0.0) if targets is None else (alpha, 1.0 - alpha)
    with np.errstate(all="ignore"):
        softened_teacher = softmax_of(teacher, masses.counted, temperature)
        softened_student = softmax_of(x, masses.counted, temperature)
        student = softmax_of(x, masses.counted)
        is_defined = softened_teacher.is_defined & student.is_defined
        q = masses.mass * hard_share
        row_loss = weighted(
            soft_share * (temperature * temperature),
            divergence(softened_teacher, softened_student),
        ) + sum_of_products(q, student.lse_minus_x)
        grad = soft_share * temperature * (softened_student.p - softened_teacher.p)
        grad += mass_times_p_minus_mass(q, student)
        grad *= masses.row_weight[:, np.newaxis]
        loss = masses.reduced(weighted(masses.row_weight, row_loss), is_defined)
        grad = masses.finished(grad, is_defined)
    return LossAndGrad(loss, written(place.restored(grad), out))
