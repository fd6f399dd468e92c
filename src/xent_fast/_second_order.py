"""The second order of the loss: its Hessian times a vector, and its diagonal, alone or beside both.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import second_order_calls
from xent_fast._result import FloatArray, FloatT, LossGradAndHessian

if TYPE_CHECKING:
    from xent_fast._options import GradHessianOptions, SecondOrderOptions


@overload
def softmax_cross_entropy_hvp(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    vector: ArrayLike,
    **options: Unpack[SecondOrderOptions],
) -> NDArray[FloatT]: ...
@overload
def softmax_cross_entropy_hvp(
    logits: ArrayLike,
    targets: ArrayLike,
    vector: ArrayLike,
    **options: Unpack[SecondOrderOptions],
) -> FloatArray: ...
def softmax_cross_entropy_hvp(
    logits: ArrayLike,
    targets: ArrayLike,
    vector: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""The loss's Hessian times a vector.

    With the symbols of `softmax_cross_entropy_grad`, :math:`Q = \sum_k q_k`,
    :math:`A = Q + 2 z\, \mathrm{lse}` and the mean :math:`\bar v = \sum_k p_k v_k` of the vector in
    a row, the product is

    .. math:: \frac{a}{T^2} \bigl(A\, p_c (v_c - \bar v) + 2 z\, p_c \bar v\bigr)

    It is the derivative of the gradient along the vector. The Hessian itself, with as many rows and
    columns as there are logits, is never made.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature
        As for `softmax_cross_entropy_grad`.
    z_loss, reduction, scale, num_threads
        As for `softmax_cross_entropy_grad`.
    vector : array_like of the logits' shape
        Real numbers: what the Hessian is multiplied with, a direction in the space of the logits.
        Converted to what the logits are computed in.
    out : ndarray of the logits' shape, optional
        Where the product is written: an array of the logits' shape and dtype that is `logits` or
        `vector` or shares no memory with them. By default a new array. No other input is ever
        written to.

    Returns
    -------
    ndarray of the logits' shape
        The product, of the logits' dtype, in nats a unit of logit where `vector` is in such units;
        `out` if it was given. For ``reduction="none"`` each row holds the product with the Hessian
        of its own loss.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `softmax_cross_entropy_grad`; also TypeError if `vector` does not hold real numbers
        and ValueError if it has another shape than the logits or overlaps `out` without being the
        same array. After any exception `out` holds what it held before.

    See Also
    --------
    softmax_cross_entropy_hessian_diagonal : The Hessian's diagonal.
    softmax_cross_entropy_grad : The first derivative.
    softmax_vjp : The same product of the plain loss from probabilities that were kept.

    Notes
    -----
    Without options, and for targets that sum to 1, the product of each row's own loss is
    ``softmax_vjp(p, vector)`` with ``p = softmax(logits)``. A Newton method that takes many vectors
    at the same logits keeps p and calls that, at about a third of the cost: this function computes
    p each time. The mean's product is that divided by the number of rows.

    A row that is ignored, and every row where the mean would divide by 0, is exactly 0. A row with
    a NaN, a +inf or nothing but -inf is NaN throughout.

    :math:`v - \bar v` is the same for :math:`v` plus a constant. It is taken from the entry of the
    likeliest class, whose probability may be near 1, so that the other entries' shares are not
    rounded away.

    References
    ----------
    B. A. Pearlmutter. Fast exact multiplication by the Hessian. Neural Computation 6 (1994).

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy_hvp
    >>> softmax_cross_entropy_hvp(np.zeros((1, 4)), np.array([0]), np.array([[1.0, 0.0, 0.0, 0.0]]))
    array([[ 0.1875, -0.0625, -0.0625, -0.0625]])
    """
    return second_order_calls.hessian_times_vector(
        logits, targets, vector, axis, weight, sample_weight, ignore_index, label_smoothing,
        temperature, z_loss, reduction, scale, out, num_threads,
    )  # fmt: skip


@overload
def softmax_cross_entropy_hessian_diagonal(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    **options: Unpack[SecondOrderOptions],
) -> NDArray[FloatT]: ...
@overload
def softmax_cross_entropy_hessian_diagonal(
    logits: ArrayLike,
    targets: ArrayLike,
    **options: Unpack[SecondOrderOptions],
) -> FloatArray: ...
def softmax_cross_entropy_hessian_diagonal(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""The diagonal of the loss's Hessian: its second derivative with respect to every logit.

    With the symbols of `softmax_cross_entropy_grad`, :math:`Q = \sum_k q_k` and
    :math:`A = Q + 2 z\, \mathrm{lse}`, it is

    .. math:: \frac{a}{T^2} \bigl(A\, p_c (1 - p_c) + 2 z\, p_c^2\bigr)

    Gradient boosting and diagonal preconditioners are what it is for.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature
        As for `softmax_cross_entropy_grad`.
    z_loss, reduction, scale, num_threads
        As for `softmax_cross_entropy_grad`.
    out : ndarray of the logits' shape, optional
        Where the diagonal is written: `logits` themselves, or an array of their shape and dtype
        that shares no memory with them. By default a new array. No other input is ever written to.

    Returns
    -------
    ndarray of the logits' shape
        The diagonal, of the logits' dtype, in nats a squared unit of logit; `out` if it was given.
        For ``reduction="none"`` each row holds the diagonal for its own loss.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `softmax_cross_entropy_grad`. After any exception `out` holds what it held before.

    See Also
    --------
    softmax_cross_entropy_hvp : The whole Hessian, times a vector.
    softmax_cross_entropy_grad : The first derivative.

    Notes
    -----
    A row that is ignored, and every row where the mean would divide by 0, is exactly 0. A row with
    a NaN, a +inf or nothing but -inf is NaN throughout. For the likeliest class, :math:`1 - p` is
    the sum of the other probabilities and thus accurate however close :math:`p` is to 1.

    References
    ----------
    J. Friedman, T. Hastie, R. Tibshirani. Additive logistic regression: a statistical view of
    boosting. The Annals of Statistics 28 (2000), section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy_hessian_diagonal
    >>> softmax_cross_entropy_hessian_diagonal(np.zeros((1, 4)), np.array([0]))
    array([[0.1875, 0.1875, 0.1875, 0.1875]])
    """
    return second_order_calls.hessian_diagonal(
        logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature,
        z_loss, reduction, scale, out, num_threads,
    )  # fmt: skip


@overload
def softmax_cross_entropy_grad_hessian(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "sum",
    **options: Unpack[GradHessianOptions],
) -> LossGradAndHessian[float, FloatT]: ...
@overload
def softmax_cross_entropy_grad_hessian(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[GradHessianOptions],
) -> LossGradAndHessian[NDArray[FloatT], FloatT]: ...
@overload
def softmax_cross_entropy_grad_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "sum",
    **options: Unpack[GradHessianOptions],
) -> LossGradAndHessian[float, np.floating[Any]]: ...
@overload
def softmax_cross_entropy_grad_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[GradHessianOptions],
) -> LossGradAndHessian[FloatArray, np.floating[Any]]: ...
def softmax_cross_entropy_grad_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    factor: float = 1.0,
    min_hessian: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "sum",
    scale: float = 1.0,
    grad_out: FloatArray | None = None,
    hessian_out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> LossGradAndHessian[Any, Any]:
    r"""Loss, gradient and the Hessian's diagonal, from one pass over the logits.

    What gradient boosting asks of a loss in every round. With the symbols of
    `softmax_cross_entropy_grad`, :math:`Q = \sum_k q_k`, :math:`A = Q + 2 z\, \mathrm{lse}`, the
    factor :math:`f` and the least value :math:`h_0`,

    .. math::
        g_c = \frac{a}{T} (A\, p_c - q_c) \qquad
        h_c = \max\Bigl(h_0,\; \frac{f a}{T^2} \bigl(A\, p_c (1 - p_c) + 2 z\, p_c^2\bigr)\Bigr)

    For class indices without options that is :math:`g = p - y` and :math:`h = f p (1 - p)`.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature
        As for `softmax_cross_entropy_grad`.
    z_loss, scale, num_threads
        As for `softmax_cross_entropy_grad`. Any layout is read as it lies: rows or columns of a
        matrix side by side make no difference to the results and little to the time.
    factor : float, default 1.0
        Multiplies the diagonal alone: 2 as XGBoost's own objective has it, ``K / (K - 1)`` for
        ``K`` classes as LightGBM's.
    min_hessian : float, default 0.0
        What every smaller number of the diagonal becomes, after all weights; XGBoost takes 1e-16.
        In rows that are ignored as well. With negative weights the diagonal is negative:
        ``min_hessian=-np.inf`` leaves it so.
    reduction : {"sum", "mean", "none"}, default "sum"
        As for `softmax_cross_entropy_grad`, but for the default: boosting wants the gradient of
        each row's own loss, not divided by the number of rows.
    grad_out : ndarray of the logits' shape, optional
        Where the gradient is written: `logits` themselves, or an array of their shape and dtype
        that shares no memory with them. By default a new array in the logits' memory order.
    hessian_out : ndarray of the logits' shape, optional
        Where the diagonal is written: an array of the logits' shape and dtype that shares no memory
        with any other. By default a new array in the logits' memory order.

    Returns
    -------
    loss : float or ndarray
        As of `softmax_cross_entropy`.
    grad : ndarray of the logits' shape
        Of the logits' dtype, in nats a unit of logit; `grad_out` if it was given.
    hessian : ndarray of the logits' shape
        Of the logits' dtype, in nats a squared unit of logit; `hessian_out` if it was given.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `softmax_cross_entropy_grad`; also ValueError if `min_hessian` is NaN or plus
        infinity. After any exception both outputs hold what they held before.

    See Also
    --------
    softmax_cross_entropy_grad : Loss and gradient.
    softmax_cross_entropy_hessian_diagonal : The diagonal alone.
    softmax_cross_entropy_hvp : The whole Hessian, times a vector.

    Notes
    -----
    Where weights are below 2^60 (float64: 2^400) the loss has the bits of
    `softmax_cross_entropy_grad`; the gradient may differ from that in its last bits, since it is
    made of rounded probabilities.

    Of the class with a probability above 1/2, :math:`1 - p` is the sum of the others, so that the
    diagonal is accurate to a few units in the last place however close :math:`p` is to 1.

    Dense targets, `label_smoothing` and `z_loss` take two passes instead of one.

    References
    ----------
    J. Friedman, T. Hastie, R. Tibshirani. Additive logistic regression: a statistical view of
    boosting. The Annals of Statistics 28 (2000), section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy_grad_hessian
    >>> loss, grad, hessian = softmax_cross_entropy_grad_hessian(np.zeros((1, 4)), [0], factor=2.0)
    >>> grad
    array([[-0.75,  0.25,  0.25,  0.25]])
    >>> hessian
    array([[0.375, 0.375, 0.375, 0.375]])
    """
    return second_order_calls.grad_hessian(
        logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature,
        z_loss, factor, min_hessian, reduction, scale, grad_out, hessian_out, num_threads,
    )  # fmt: skip
