"""Knowledge distillation: a student's loss against a teacher and, if given, against targets.

Knows: how the two losses are mixed, and the divergence of two softmaxes.
Must not know: memory layouts, how a softmax is computed.
"""

import numbers
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._loss import softmax_cross_entropy, softmax_cross_entropy_grad
from xent_fast._result import LossAndGrad
from xent_fast._rows import (
    Destination,
    FloatArray,
    Place,
    RowWeights,
    SoftmaxBlock,
    as_alike,
    as_column,
    check_destination,
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
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossAndGrad[Any]:
    r"""Loss of a student that learns from a teacher's softened probabilities, and its gradient.

    With the teacher's and the student's softmax :math:`P` and :math:`Q` at temperature :math:`T`,
    and the student's softmax :math:`p` at 1, the targets' mass :math:`q` and the row's weight
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
    student_logits : array_like with a class axis, float32 or float64
        Unnormalised log-probabilities, of any memory layout. Computed in their own precision. Must
        be an ndarray if `out` is given.
    teacher_logits : array_like of the same shape
        Real numbers, converted to the dtype of `student_logits`. They get no gradient.
    targets : array_like, optional
        Class indices or dense targets, as for `softmax_cross_entropy`. Without them the loss is the
        first term alone, as with ``alpha=1``.
    temperature : float, default 1.0
        Positive and finite; both rows of logits are divided by it in the first term.
    alpha : float in [0, 1], default 0.5
        Share of the first term.
    axis, sample_weight, ignore_index, reduction, scale, num_threads
        As for `softmax_cross_entropy_grad`. Ignored rows leave both terms; without targets no row
        can be ignored.
    weight, label_smoothing
        As for `softmax_cross_entropy_grad`; they belong to the second term. The mean's denominator
        is that of `softmax_cross_entropy` with the same arguments; without targets, that of dense
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
    NaN throughout. Ignored rows are exactly 0, and so is the whole gradient where the mean's
    denominator is 0; the loss then is NaN.

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
    _check(
        student_logits,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        reduction,
        scale,
        num_threads,
    )
    share = _as_share(alpha)
    student: FloatArray = np.asarray(student_logits)
    place = Place.of(student, axis)
    teacher = as_alike(teacher_logits, place, "teacher_logits", "student_logits")
    check_destination(
        out, student_logits, targets, {"student_logits": student, "teacher_logits": teacher}
    )
    weights = RowWeights.of(
        student, place, targets, weight, sample_weight, ignore_index, reduction, scale
    )
    mixture = _Mixture(
        weights,
        float(temperature),
        1.0 if targets is None else share,
        0.0 if targets is None else 1.0 - share,
        float(label_smoothing),
        num_threads,
    )
    destination = Destination.of(out, student, place)
    dtype = student.dtype.newbyteorder("=")
    row_loss = np.zeros(place.rows, dtype)
    if weights.is_void:
        return LossAndGrad(float("nan"), destination.filled_with_zeros())
    rows_of_student, rows_of_teacher = place.as_rows(student), place.as_rows(teacher)
    with np.errstate(all="ignore"):
        for block in place.blocks():
            x: FloatArray = rows_of_student[block].astype(dtype, copy=False)
            y: FloatArray = rows_of_teacher[block].astype(dtype, copy=False)
            row_loss[block], destination.rows[block] = mixture.loss_and_grad(block, x, y)
    grad = destination.finished()
    if reduction == "none":
        return LossAndGrad(row_loss.reshape(place.row_shape), grad)
    return LossAndGrad(float(row_loss.sum(dtype=np.float64)), grad)


def _check(
    student_logits: ArrayLike,
    targets: ArrayLike | None,
    axis: SupportsIndex,
    weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: SupportsIndex | None,
    label_smoothing: float,
    temperature: float,
    reduction: str,
    scale: float,
    num_threads: SupportsIndex | None,
) -> None:
    """Let the loss complain about what it has in common with this one."""
    if targets is None:
        if ignore_index is not None:
            raise ValueError("ignore_index needs targets that are class indices")
        student = np.asarray(student_logits)
        if student.ndim > 0:
            targets = np.zeros(Place.of(student, axis).row_shape, dtype=np.intp)
        else:
            targets = np.intp(0)
    softmax_cross_entropy(
        student_logits,
        targets,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        temperature=temperature,
        reduction=reduction,
        scale=scale,
        num_threads=num_threads,
    )


def _as_share(alpha: Any) -> float:
    if isinstance(alpha, np.ndarray) and alpha.ndim == 0:
        alpha = alpha[()]
    if isinstance(alpha, (bool, np.bool_)) or not isinstance(alpha, numbers.Real):
        raise TypeError(f"alpha must be a real number, not {type(alpha).__name__}")
    share = float(alpha)
    if not 0 <= share <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {share}")
    return share


@dataclass(frozen=True)
class _Mixture:
    """The two terms' shares, and what they need besides the logits."""

    weights: RowWeights
    temperature: float
    soft_share: float
    hard_share: float
    label_smoothing: float
    num_threads: SupportsIndex | None

    def loss_and_grad(
        self, block: slice, x: FloatArray, y: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Losses and gradient of a block of rows: x the student's, y the teacher's."""
        loss, grad = self._soft(self.weights.row_weight[block] * self.soft_share, x, y)
        if self.hard_share > 0:
            hard_loss, hard_grad = self._hard(block, x)
            loss, grad = loss + hard_loss, grad + hard_grad
        is_ignored = ~self.weights.counted[block]
        loss[is_ignored] = 0.0
        grad[is_ignored] = 0.0
        return loss, grad

    def _soft(
        self, row_weight: NDArray[np.float64], x: FloatArray, y: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """T^2 times the divergence, and T (Q - P), weighted."""
        student = SoftmaxBlock.of(x, self.temperature, self.num_threads)
        teacher = SoftmaxBlock.of(y, self.temperature, self.num_threads)
        difference = student.probabilities - teacher.probabilities
        grad = difference * as_column(row_weight * self.temperature, x.dtype)
        log_ratio = self._log_probabilities(y, teacher) - self._log_probabilities(x, student)
        divergence = _divergence(teacher.probabilities, log_ratio, difference)
        loss = _weighted(row_weight * self.temperature * self.temperature, divergence)
        return loss.astype(x.dtype), grad

    def _log_probabilities(self, x: FloatArray, softmax: SoftmaxBlock) -> FloatArray:
        """(x - max x) / T - log_sum."""
        log_p: FloatArray = x - np.take_along_axis(x, softmax.largest, axis=1)
        log_p /= self.temperature
        log_p -= softmax.log_sum
        return log_p

    def _hard(self, block: slice, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The loss of the targets, weighted."""
        assert self.weights.targets is not None
        return softmax_cross_entropy_grad(
            x,
            self.weights.targets[block],
            weight=self.weights.class_weight,
            sample_weight=self.weights.row_weight[block] * self.hard_share,
            label_smoothing=self.label_smoothing,
            reduction="none",
            num_threads=self.num_threads,
        )


def _divergence(p: FloatArray, d: FloatArray, q_minus_p: FloatArray) -> FloatArray:
    """sum P log(P / Q) of every row, as the sum of P d - P + Q with d = log(P / Q).

    No term is negative: it is P (d + expm1(-d)), of the order of d^2 for small d. That is not for
    Q far above P, where expm1 overflows, and not for P = 0, where the term is Q.
    """
    far = np.where(p == 0, q_minus_p, p * d + q_minus_p)
    terms: FloatArray = np.where((p != 0) & (d > -1), p * (d + np.expm1(-d)), far)
    return np.asarray(terms.sum(axis=1))


def _weighted(weight: NDArray[np.float64], values: FloatArray) -> NDArray[np.float64]:
    """weight * value, where 0 * inf = 0."""
    return np.where((weight == 0) & np.isinf(values), 0.0, weight * values)
