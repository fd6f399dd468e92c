"""Softmax, its logarithm and the logarithm of its denominator: one call each into the core.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex, Unpack, overload

from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import softmax_calls
from xent_fast._result import FloatArray, FloatT

if TYPE_CHECKING:
    from xent_fast._options import SoftmaxOptions


@overload
def softmax(
    logits: NDArray[FloatT],
    **options: Unpack[SoftmaxOptions],
) -> NDArray[FloatT]: ...
@overload
def softmax(
    logits: ArrayLike,
    **options: Unpack[SoftmaxOptions],
) -> FloatArray: ...
def softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Probabilities of the classes: exponentials of the logits, divided by their sum.

    For a row of logits :math:`x`

    .. math:: p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}

    Parameters
    ----------
    logits : array_like with a class axis, float16, bfloat16, float32 or float64
        Scores of the classes, in nats, as for `softmax_cross_entropy`: they need not be positive or
        sum to anything. Any memory layout will do. Computed in their own precision, those of 16
        bits in float32. A row is what lies along the class axis.
    axis : int, default -1
        The class axis.
    out : ndarray of the logits' shape and dtype, optional
        Where the result is written: `logits` themselves, or an array that shares no memory with
        them and may be float32 for logits of 16 bits. The logits must then be an ndarray. By
        default a new array.
    num_threads : int, optional
        As for `softmax_cross_entropy`.

    Returns
    -------
    ndarray of the logits' shape and dtype
        Probabilities, numbers without a unit; `out` if it was given. NaN throughout a row that has
        a NaN, a +inf or nothing but -inf.

    Raises
    ------
    TypeError
        If the logits are no floats of 16, 32 or 64 bits or are a masked array, `out` is not an
        ndarray of a dtype that it may have, or `axis` or `num_threads` is no integer.
    ValueError
        If there are rows but no class, `num_threads` is below 1, or `out` has another shape, is
        read-only, overlaps itself or overlaps the logits without being the same array.
    numpy.exceptions.AxisError
        If `axis` is out of range.
    MemoryError
        If a copy or a workspace cannot be allocated. After any exception `out` holds what it held
        before.

    See Also
    --------
    log_softmax : Its logarithm, accurate where the probabilities underflow.
    softmax_vjp : Its backward pass.

    Notes
    -----
    Adding a number to all logits of a row changes nothing. A logit of -inf has the probability 0.
    Every probability is accurate to 5 units in the last place, however small it is.

    References
    ----------
    J. S. Bridle. Probabilistic interpretation of feedforward classification network outputs.
    Neurocomputing, NATO ASI Series 68 (1990).

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax
    >>> softmax(np.array([[0.0, 0.0, 0.0, 0.0], [9.0, 9.0, -np.inf, -np.inf]]))
    array([[0.25, 0.25, 0.25, 0.25],
           [0.5 , 0.5 , 0.  , 0.  ]])
    """
    result: FloatArray = softmax_calls.probabilities(logits, axis, False, out, num_threads)
    return result


@overload
def log_softmax(
    logits: NDArray[FloatT],
    **options: Unpack[SoftmaxOptions],
) -> NDArray[FloatT]: ...
@overload
def log_softmax(
    logits: ArrayLike,
    **options: Unpack[SoftmaxOptions],
) -> FloatArray: ...
def log_softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Logarithms of the probabilities that softmax gives, accurate where those underflow.

    For a row of logits :math:`x`

    .. math:: \log p_c = x_c - \log \sum_k e^{x_k}

    Parameters
    ----------
    logits, axis, out, num_threads
        As for `softmax`.

    Returns
    -------
    ndarray of the logits' shape and dtype
        Log-probabilities in nats, none of them above 0; `out` if it was given. NaN throughout a row
        that has a NaN, a +inf or nothing but -inf.

    Raises
    ------
    TypeError, ValueError, MemoryError, numpy.exceptions.AxisError
        As for `softmax`.

    See Also
    --------
    softmax : The probabilities themselves.
    log_softmax_vjp : Its backward pass.

    Notes
    -----
    The largest class keeps a logarithm as small as it is: with the sum :math:`R` of the other
    classes' exponentials relative to its own, that is :math:`-\log(1 + R)`.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham. Accurately computing the log-sum-exp and softmax
    functions. IMA Journal of Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import log_softmax
    >>> log_softmax(np.array([0.0, -40.0]))
    array([-4.24835426e-18, -4.00000000e+01])
    """
    result: FloatArray = softmax_calls.probabilities(logits, axis, True, out, num_threads)
    return result


@overload
def logsumexp(
    logits: NDArray[FloatT],
    *,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[FloatT]: ...
@overload
def logsumexp(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray: ...
def logsumexp(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Logarithm of the sum of the logits' exponentials, by which softmax divides.

    For a row of logits :math:`x`

    .. math:: \mathrm{lse} = \log \sum_k e^{x_k}

    Parameters
    ----------
    logits, axis, num_threads
        As for `softmax`.
    keepdims : bool, default False
        Whether the class axis stays, with length 1.
    out : ndarray of the result's shape and dtype, optional
        Where the result is written; it shares no memory with the logits, which must then be an
        ndarray. By default a new array.

    Returns
    -------
    ndarray of the logits' dtype, or of float32 where that has 16 bits
        In nats, of the logits' shape without the class axis; `out` if it was given. NaN for a row
        with a NaN, otherwise +inf for one with a +inf, -inf for one of nothing but -inf.

    Raises
    ------
    TypeError, ValueError, MemoryError, numpy.exceptions.AxisError
        As for `softmax`, and ValueError if `out` shares memory with the logits.

    See Also
    --------
    log_softmax : The logits minus this.
    softmax : Its derivative.

    Notes
    -----
    It lies between the largest logit and that plus the logarithm of the number of classes. Where
    the largest logit is 0 it is computed as :math:`\log(1 + R)`, with the sum :math:`R` of the
    other classes' exponentials, and keeps its relative accuracy.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham. Accurately computing the log-sum-exp and softmax
    functions. IMA Journal of Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import logsumexp
    >>> logsumexp(np.array([[0.0, -40.0], [1000.0, 1000.0]]))
    array([4.24835426e-18, 1.00069315e+03])
    """
    lse: FloatArray = softmax_calls.log_sum_of_exponentials(
        logits, axis, keepdims, out, num_threads
    )
    return lse
