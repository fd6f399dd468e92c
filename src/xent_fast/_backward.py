"""The backward passes of softmax and log_softmax, and the loss's to its dense targets.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, loss_calls, softmax_calls
from xent_fast._result import FloatArray, FloatT

if TYPE_CHECKING:
    from xent_fast._options import ProductOptions, TargetGradOptions

# Numbers of 16 bits are taken so many at a time, in float32: enough for all threads.
_NUMBERS_AT_ONCE = 1 << 20


@overload
def softmax_vjp(
    probabilities: NDArray[FloatT],
    grad_probabilities: ArrayLike,
    **options: Unpack[ProductOptions],
) -> NDArray[FloatT]: ...
@overload
def softmax_vjp(
    probabilities: ArrayLike,
    grad_probabilities: ArrayLike,
    **options: Unpack[ProductOptions],
) -> FloatArray: ...
def softmax_vjp(
    probabilities: ArrayLike,
    grad_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    grad_output: ArrayLike | None = None,
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
    probabilities : array_like, float16, bfloat16, float32 or float64
        What softmax returned, of any shape with at least one axis and of any memory layout. The
        formula is computed as it stands; rows need not sum to 1.
    grad_probabilities : array_like of the same shape and dtype
        Gradient of a loss with respect to the probabilities, in the loss's unit.
    axis : int, default -1
        The class axis. Inputs are copied only where these lie neither side by side nor
        some distance apart with at least eight rows side by side, as in (N, C, H, W).
    grad_output : float, or array_like of the shape without the class axis, optional
        One more factor of the whole result or, one a row, of its rows, rounded to their dtype: the
        derivative of a later loss by what `grad_probabilities` is the gradient of.
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
        If an input is no float of 16, 32 or 64 bits or is a masked array, the dtypes differ, or
        `out` is not an ndarray of a dtype that it may have.
    ValueError
        If the shapes differ or do not fit `grad_output`, there are rows but no class,
        `num_threads` is below 1, or `out` is read-only, overlaps itself or overlaps an input
        without being the same array.
    numpy.exceptions.AxisError
        If `axis` is out of range.
    MemoryError
        If an array cannot be allocated. After any exception `out` holds what it held before.

    See Also
    --------
    log_softmax_vjp : The same from log-probabilities.
    softmax_cross_entropy_grad : Both steps at once, for a cross-entropy of softmax.
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
    return softmax_calls.softmax_vjp(
        probabilities, grad_probabilities, axis, grad_output, out, num_threads
    )


@overload
def log_softmax_vjp(
    log_probabilities: NDArray[FloatT],
    grad_log_probabilities: ArrayLike,
    **options: Unpack[ProductOptions],
) -> NDArray[FloatT]: ...
@overload
def log_softmax_vjp(
    log_probabilities: ArrayLike,
    grad_log_probabilities: ArrayLike,
    **options: Unpack[ProductOptions],
) -> FloatArray: ...
def log_softmax_vjp(
    log_probabilities: ArrayLike,
    grad_log_probabilities: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    grad_output: ArrayLike | None = None,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Backward pass of log_softmax: the gradient with respect to log-probabilities, to the logits.

    With a row's log-probabilities :math:`\ell` and the gradient :math:`\mathrm{d}\ell` of a later
    loss with respect to them, the gradient with respect to the logits is

    .. math:: \mathrm{d}\ell_c - e^{\ell_c} \sum_k \mathrm{d}\ell_k

    Parameters
    ----------
    log_probabilities : array_like, float16, bfloat16, float32 or float64
        What log_softmax returned, in nats, of any shape with at least one axis and of any memory
        layout. The formula is computed as it stands, for positive numbers too.
    grad_log_probabilities : array_like of the same shape and dtype
        Gradient of a loss with respect to the log-probabilities, in the loss's unit a nat.
    axis, grad_output, out, num_threads
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
    softmax_cross_entropy_grad : Both steps at once, for a cross-entropy of softmax.

    Notes
    -----
    The error is at most 3 units (float32: 2.5) in the last place of
    :math:`e^{\ell_c} \sum_k \mathrm{d}\ell_k` plus one and a half of the result, as far as a search
    has found; those of the exponential and the sum are within it. A log-probability of -inf stands
    for the probability 0.

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
    return softmax_calls.log_softmax_vjp(
        log_probabilities, grad_log_probabilities, axis, grad_output, out, num_threads
    )


@overload
def softmax_cross_entropy_grad_targets(
    logits: NDArray[FloatT],
    **options: Unpack[TargetGradOptions],
) -> NDArray[FloatT]: ...
@overload
def softmax_cross_entropy_grad_targets(
    logits: ArrayLike,
    **options: Unpack[TargetGradOptions],
) -> FloatArray: ...
def softmax_cross_entropy_grad_targets(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    grad_output: ArrayLike | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Gradient of the loss with respect to its dense targets, which it does not depend on.

    The loss is linear in the targets. With the symbols of `softmax_cross_entropy` its derivative is

    .. math:: a\, w_c\, (1 - \varepsilon) (\mathrm{lse} - x_c)

    that is :math:`-\log p_c` without options. A z-loss does not depend on the targets.

    Parameters
    ----------
    logits, axis, temperature, num_threads
        As for `softmax_cross_entropy`.
    weight : array_like of shape (classes,), optional
        Real numbers that multiply the targets of each class.
    sample_weight, label_smoothing, reduction, scale
        As for `softmax_cross_entropy`, as with dense targets.
    grad_output : float, or array_like of the logits' shape without the class axis, optional
        Derivative of a later loss by this one: multiplies the result. One number a row only with
        ``reduction="none"``.

    Returns
    -------
    ndarray of the logits' shape
        A new array of the logits' dtype, in nats a unit of target. +inf where a probability is 0
        and the weights are not; NaN throughout a row that has a NaN, a +inf or nothing but -inf.
        Exactly 0 where the mean would divide by 0.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError, MemoryError
        As for `softmax_cross_entropy`; also ValueError if `grad_output` has another shape.

    See Also
    --------
    log_softmax : What it is without options, but for the sign.
    softmax_cross_entropy_grad : The gradient with respect to the logits.

    Notes
    -----
    A teacher that is trained with its student, labels that are learned, and a framework's backward
    pass need it.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville. Deep Learning, section 6.2.2.3. MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy_grad_targets
    >>> softmax_cross_entropy_grad_targets(np.log([[1.0, 3.0]])).round(6)  # log 4, log 4/3
    array([[1.386294, 0.287682]])
    """
    array = arguments.checked_floats(logits, "logits", None)
    dtype = arguments.computed_dtype(array)
    place = arguments.checked_axis(axis, array, "logits")
    row_shape = array.shape[:place] + array.shape[place + 1 :]
    shape = (*row_shape, array.shape[place])
    class_weight = (
        None if weight is None else arguments.checked_weights(weight, shape[-1:], "weight")
    )
    upstream = arguments.checked_grad_output(grad_output, row_shape, reduction)
    _, class_weight, row_weight, factor = loss_calls.settle_batch(
        shape, dtype, np.broadcast_to(dtype(0), shape), class_weight,
        sample_weight, None, label_smoothing, temperature, 0.0, reduction, scale, num_threads,
    )  # fmt: skip
    if factor is None:
        return np.zeros_like(array, dtype=array.dtype.type, subok=False)
    row_factor = np.full(1, -factor * (1 - float(label_smoothing)))
    for more in (row_weight, upstream):
        row_factor = row_factor if more is None else row_factor * more
    result: FloatArray
    if not arguments.lies_in_16_bits(array):
        result = softmax_calls.probabilities(array, place, True, None, num_threads, temperature)
        if len(row_factor) > 1:
            row_factor = np.expand_dims(row_factor.reshape(row_shape), place)
        _multiply(result, row_factor)
        if class_weight is not None:
            _multiply(result, class_weight.reshape(-1, *(1,) * (array.ndim - 1 - place)))
        return result
    rows = np.moveaxis(array, place, -1).reshape(-1, shape[-1])
    result = np.empty(rows.shape, array.dtype.type)
    step = max(1, _NUMBERS_AT_ONCE // shape[-1])
    for some in (slice(first, first + step) for first in range(0, len(rows), step)):
        wide: FloatArray = softmax_calls.probabilities(
            rows[some], 1, True, np.empty(rows[some].shape, dtype), num_threads, temperature
        )
        _multiply(wide, row_factor if len(row_factor) == 1 else row_factor[some, np.newaxis])
        if class_weight is not None:
            _multiply(wide, class_weight)
        with np.errstate(all="ignore"):
            result[some] = wide
    return np.ascontiguousarray(np.moveaxis(result.reshape(shape), -1, place))


def _multiply(values: FloatArray, factor: Any) -> None:
    """In place and in the values' dtype; 0 times an infinity is 0, as for targets of no weight."""
    factor = factor.astype(values.dtype)
    if not factor.all():
        np.copyto(values, 0, where=np.isinf(values) & (factor == 0))
    with np.errstate(all="ignore"):
        np.multiply(values, factor, out=values)
