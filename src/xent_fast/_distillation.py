"""Knowledge distillation: a student's loss against a teacher and, if given, against targets.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import second_order_calls
from xent_fast._result import FloatArray, FloatT, LossAndGrad

if TYPE_CHECKING:
    from xent_fast._options import DistillationOptions


@overload
def distillation_loss_grad(
    student_logits: NDArray[FloatT],
    teacher_logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[DistillationOptions],
) -> LossAndGrad[float, FloatT]: ...
@overload
def distillation_loss_grad(
    student_logits: NDArray[FloatT],
    teacher_logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    reduction: Literal["none"],
    **options: Unpack[DistillationOptions],
) -> LossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def distillation_loss_grad(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[DistillationOptions],
) -> LossAndGrad[float, np.floating[Any]]: ...
@overload
def distillation_loss_grad(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    reduction: Literal["none"],
    **options: Unpack[DistillationOptions],
) -> LossAndGrad[FloatArray, np.floating[Any]]: ...
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
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[Any, Any]:
    r"""Loss of a student that learns from a teacher's softened probabilities, and its gradient.

    With the teacher's and the student's softmax :math:`P` and :math:`Q` at temperature :math:`T`,
    and the student's softmax :math:`p` at 1, :math:`q` of the targets and the row's weight
    :math:`a` as for `softmax_cross_entropy`,

    .. math::

        \mathrm{loss} &= a \Bigl(\alpha T^2 \sum_c P_c \log \frac{P_c}{Q_c}
            - (1 - \alpha) \sum_c q_c \log p_c\Bigr) \\
        \mathrm{grad}_c &= a \Bigl(\alpha T (Q_c - P_c)
            + (1 - \alpha) \bigl(p_c \sum_k q_k - q_c\bigr)\Bigr)

    The factor :math:`T^2` keeps the two terms' gradients in proportion when :math:`T` changes. The
    first term is the divergence of the student from the teacher: the cross-entropy between both
    less the teacher's entropy, which does not depend on the student.

    Parameters
    ----------
    student_logits : array_like with a class axis, float16, bfloat16, float32 or float64
        The student's scores of the classes, in nats, of any memory layout. Computed in their own
        precision, those of 16 bits in float32. Must be an ndarray if `out` is given.
    teacher_logits : array_like of the same shape
        The teacher's scores, real numbers: converted to what `student_logits` are computed in. They
        get no gradient.
    targets : array_like, optional
        Class indices or dense targets, as for `softmax_cross_entropy`. Without them the loss is the
        first term alone, as with ``alpha=1``.
    temperature : float, default 1.0
        Finite and at least 2^-124; both rows of logits are divided by it in the first term.
    alpha : float in [0, 1], default 0.5
        Share of the first term.
    axis, sample_weight, ignore_index, reduction, scale, num_threads
        As for `softmax_cross_entropy_grad`. An ignored row has neither term; without targets no
        row can be ignored.
    weight, label_smoothing
        As for `softmax_cross_entropy_grad`; they belong to the second term. The mean divides
        as that of `softmax_cross_entropy` with the same arguments; without targets, as with dense
        ones.
    out : ndarray of the logits' shape, optional
        Where the gradient is written: an array of the shape and dtype of `student_logits` that is
        `student_logits` or `teacher_logits` or shares no memory with them. By default a new array.
        No other input is ever written to.

    Returns
    -------
    loss : float or ndarray of the logits' shape without the class axis
        In nats, as for `softmax_cross_entropy`.
    grad : ndarray of the logits' shape
        Gradient with respect to the student's logits, of their dtype, in nats a unit of logit;
        `out` if it was given. For ``reduction="none"`` each row holds the gradient of its own loss.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `softmax_cross_entropy_grad`; also TypeError if `teacher_logits` do not hold real
        numbers or `alpha` is none, and ValueError if `teacher_logits` have another shape or overlap
        `out` without being the same array, `alpha` is outside [0, 1], or `ignore_index` is given
        without targets. After any exception `out` holds what it held before.

    See Also
    --------
    softmax_cross_entropy_grad : The second term alone.

    Notes
    -----
    The loss of a row in which the student gives probability 0 to what the teacher does not is +inf.
    A row in which either has a NaN, a +inf or nothing but -inf has the loss NaN and a gradient of
    NaN throughout. Ignored rows are exactly 0, and so is the whole gradient where the mean
    would divide by 0; the loss then is NaN.

    The divergence is added up as :math:`\sum P (d + e^{-d} - 1)` with :math:`d = \log (P / Q)`: no
    term is negative, and 0 is exact where student and teacher agree.

    References
    ----------
    G. Hinton, O. Vinyals, J. Dean. Distilling the knowledge in a neural network. 2015, section 2.
    arXiv:1503.02531.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import distillation_loss_grad
    >>> student, teacher = np.zeros((1, 2)), np.log([[3.0, 1.0]])
    >>> loss, grad = distillation_loss_grad(student, teacher)
    >>> round(loss, 6)
    0.130812
    >>> grad.round(6)
    array([[-0.25,  0.25]])
    """
    return second_order_calls.distillation(
        student_logits, teacher_logits, targets, temperature, alpha, axis, weight, sample_weight,
        ignore_index, label_smoothing, reduction, scale, out, num_threads,
    )  # fmt: skip
