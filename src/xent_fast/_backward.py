"""The backward passes of softmax and log_softmax: signatures, documentation, one call each.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast import _core
from xent_fast._result import FloatT

FloatArray = NDArray[np.floating[Any]]


@overload
def softmax_vjp(
    probabilities: NDArray[FloatT],
    grad_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[FloatT]: ...
@overload
def softmax_vjp(
    probabilities: ArrayLike,
    grad_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray: ...
def softmax_vjp(
    probabilities: ArrayLike,
    grad_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Backward pass of softmax: the gradient with respect to probabilities, taken to the logits.

    With a row's probabilities :math:`p` and the gradient :math:`\mathrm{d}p` of a later loss with
    respect to them, the gradient with respect to the logits is

    .. math:: p_c \Bigl(\mathrm{d}p_c - \sum_k p_k \, \mathrm{d}p_k\Bigr)

    the product of :math:`\mathrm{d}p` with the Jacobian :math:`\mathrm{diag}(p) - p p^\mathsf{T}`,
    which is never formed.

    Parameters
    ----------
    probabilities : array_like, float32 or float64
        What softmax returned, of any shape with at least one axis and of any memory layout. The
        formula is computed as it stands; rows need not sum to 1.
    grad_probabilities : array_like of the same shape and dtype
        Gradient of a loss with respect to the probabilities, in the loss's unit.
    axis : int, default -1
        The axis of the classes. Inputs whose classes do not lie side by side are copied.
    out : ndarray of the same shape and dtype, optional
        Where the result is written: one of the two inputs, or an array that shares no memory with
        them. Both inputs must then be ndarrays. By default a new array.
    num_threads : int, optional
        At least 1; more than there is work for are not used. By default as many as
        ``OMP_NUM_THREADS``, threadpoolctl and the processors at hand allow, and one for small
        inputs. The result does not depend on it. In a forked child there is always one.
        In a training loop leave it out; pass 1 beside other busy threads or programs.

    Returns
    -------
    ndarray of the same shape and dtype
        Gradient of the loss with respect to the logits, in the loss's unit a unit of logit; `out`
        if it was given.

    Raises
    ------
    TypeError
        If an input is not float32 or float64 or is a masked array, the dtypes differ, or `out` is
        not an ndarray of that dtype.
    ValueError
        If the shapes differ, there are rows but no class, `num_threads` is below 1, or `out` is
        read-only, overlaps itself or overlaps an input without being the same array.
    numpy.exceptions.AxisError
        If `axis` is out of range.
    MemoryError
        If an array cannot be allocated. After any exception `out` holds what it held before.

    See Also
    --------
    log_softmax_vjp : The same from log-probabilities.
    softmax_cross_entropy_grad : The fused gradient, for a cross-entropy of softmax.
    softmax_cross_entropy_hvp : The same from logits, with every option of the loss.

    Notes
    -----
    With a vector in place of the gradient, this is the product of the Hessian of a row's plain
    cross-entropy with that vector. A Newton method that takes many vectors at the same logits keeps
    the probabilities, and needs `softmax_cross_entropy_hvp` only for its options.

    The sum is taken in double for float32 and in twice the precision for float64, so that the
    result is accurate to 3 units in the last place as long as the sum's own terms do not cancel
    to less than that precision. A NaN, or an infinity times 0, makes its whole row NaN.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville. Deep Learning, section 6.5. MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_vjp
    >>> softmax_vjp(np.array([0.25, 0.5, 0.25]), np.array([0.0, -2.0, 0.0]))
    array([ 0.25, -0.5 ,  0.25])
    """
    return _core.softmax_vjp(probabilities, grad_probabilities, axis, out, num_threads)


@overload
def log_softmax_vjp(
    log_probabilities: NDArray[FloatT],
    grad_log_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[FloatT]: ...
@overload
def log_softmax_vjp(
    log_probabilities: ArrayLike,
    grad_log_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray: ...
def log_softmax_vjp(
    log_probabilities: ArrayLike,
    grad_log_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Backward pass of log_softmax: the gradient with respect to log-probabilities, to the logits.

    With a row's log-probabilities :math:`\ell` and the gradient :math:`\mathrm{d}\ell` of a later
    loss with respect to them, the gradient with respect to the logits is

    .. math:: \mathrm{d}\ell_c - e^{\ell_c} \sum_k \mathrm{d}\ell_k

    Parameters
    ----------
    log_probabilities : array_like, float32 or float64
        What log_softmax returned, in nats, of any shape with at least one axis and of any memory
        layout. The formula is computed as it stands, for positive numbers too.
    grad_log_probabilities : array_like of the same shape and dtype
        Gradient of a loss with respect to the log-probabilities, in the loss's unit a nat.
    axis, out, num_threads
        As for `softmax_vjp`.

    Returns
    -------
    ndarray of the same shape and dtype
        Gradient of the loss with respect to the logits, in the loss's unit a unit of logit; `out`
        if it was given.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError, MemoryError
        As for `softmax_vjp`.

    See Also
    --------
    softmax_vjp : The same from probabilities.
    softmax_cross_entropy_grad : The fused gradient, for a cross-entropy of softmax.

    Notes
    -----
    The error is at most 5 units in the last place of :math:`e^{\ell_c} \sum_k \mathrm{d}\ell_k`
    plus one of the result; those of the exponential and the sum are within it. A log-probability of
    -inf stands for the probability 0.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville. Deep Learning, section 6.5. MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import log_softmax_vjp
    >>> log_softmax_vjp(np.array([-np.inf, 0.0]), np.array([1.0, 2.0]))
    array([ 1., -1.])
    """
    return _core.log_softmax_vjp(log_probabilities, grad_log_probabilities, axis, out, num_threads)
