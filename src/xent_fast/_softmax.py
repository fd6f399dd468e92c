"""Softmax, its logarithm and the logarithm of its denominator: one call each into the core.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast import _core

FloatArray = NDArray[np.floating[Any]]


def softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Probabilities :math:`p_c = e^{x_c} / \sum_k e^{x_k}`.

    Parameters
    ----------
    logits : array_like with a class axis, float32 or float64
        Unnormalised log-probabilities, of any memory layout. Computed in their own precision. An
        ndarray if `out` is given.
    axis : int, default -1
        The class axis.
    out : ndarray of the logits' shape and dtype, optional
        Where the result is written: `logits` themselves, or an array that shares no memory with
        them. By default a new array.
    num_threads : int, optional
        As for `softmax_cross_entropy`.

    Returns
    -------
    ndarray of the logits' shape and dtype
        `out` if it was given. NaN throughout a row that has a NaN, a +inf or nothing but -inf.

    Raises
    ------
    TypeError
        If the logits are not float32 or float64, or `out` is not an ndarray of their dtype.
    ValueError
        If there are rows but no class, or `out` has another shape, is read-only, overlaps itself
        or overlaps the logits without being the same array. An `axis` that the logits do not have
        is a `numpy.exceptions.AxisError`.
    MemoryError
        If a copy or a workspace cannot be allocated.

    See Also
    --------
    log_softmax : Its logarithm, accurate where the probabilities underflow.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax
    >>> softmax(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    result: FloatArray = _core.probabilities(logits, axis, False, out, num_threads)
    return result


def log_softmax(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Log-probabilities :math:`x_c - \log \sum_k e^{x_k}`.

    Parameters
    ----------
    logits, axis, out, num_threads
        As for `softmax`.

    Returns
    -------
    ndarray of the logits' shape and dtype
        As of `softmax`. The largest class keeps a logarithm that is as small as it is.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `softmax`.

    See Also
    --------
    softmax : The probabilities themselves.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import log_softmax
    >>> log_softmax(np.array([0.0, -40.0]))
    array([-4.24835426e-18, -4.00000000e+01])
    """
    result: FloatArray = _core.probabilities(logits, axis, True, out, num_threads)
    return result


def logsumexp(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    num_threads: SupportsIndex | None = None,
) -> FloatArray:
    r"""Logarithm of the sum of exponentials, :math:`\log \sum_k e^{x_k}`.

    Parameters
    ----------
    logits, axis, num_threads
        As for `softmax`.
    keepdims : bool, default False
        Whether the class axis stays, with length 1.

    Returns
    -------
    ndarray of the logits' dtype
        Of their shape without the class axis. NaN for a row with a NaN, otherwise +inf for one
        with a +inf, -inf for one of nothing but -inf.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `softmax`.

    See Also
    --------
    log_softmax : The logits minus this.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import logsumexp
    >>> float(logsumexp(np.array([0.0, -40.0])))
    4.248354255291589e-18
    """
    lse: FloatArray = _core.log_sum_of_exponentials(logits, axis, num_threads)
    return np.expand_dims(lse, int(axis)) if keepdims else lse
