"""The entropy of softmax and its gradient: signatures, documentation, one call each.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import softmax_calls
from xent_fast._result import EntropyAndGrad, FloatArray, FloatT

if TYPE_CHECKING:
    from xent_fast._options import EntropyGradOptions, EntropyOptions


@overload
def softmax_entropy(
    logits: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[EntropyOptions],
) -> float: ...
@overload
def softmax_entropy(
    logits: NDArray[FloatT],
    *,
    reduction: Literal["none"],
    **options: Unpack[EntropyOptions],
) -> NDArray[FloatT]: ...
@overload
def softmax_entropy(
    logits: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[EntropyOptions],
) -> FloatArray: ...
def softmax_entropy(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    sample_weight: ArrayLike | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float | FloatArray:
    r"""Entropy of the classes' probabilities, which are the softmax of the logits.

    For a row of logits, divided by the temperature :math:`T`, with the softmax :math:`p`

    .. math:: H = -\sum_c p_c \log p_c

    in nats: 0 where one class is certain, and the logarithm of the number of classes where all
    logits are equal. The result is :math:`a H` of each row, with the row's weight :math:`a` as for
    `softmax_cross_entropy`.

    Parameters
    ----------
    logits, axis, temperature, num_threads
        As for `softmax_cross_entropy`.
    sample_weight : array_like of the logits' shape without the class axis, optional
        Real numbers that multiply each row's entropy. ``reduction="mean"`` divides by their sum and
        refuses negative ones.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"sum"`` adds the rows' entropies, ``"mean"`` divides that sum by the number of rows or, if
        given, the sum of their weights, and ``"none"`` returns one a row.
    scale : float, default 1.0
        Multiplies the result; a negative one makes a bonus of it, for a loss that is minimised.

    Returns
    -------
    float or ndarray of the logits' shape without the class axis
        In nats. A float for ``"mean"`` and ``"sum"``, an array of the logits' dtype for ``"none"``.
        NaN for a row that has a NaN, a +inf or nothing but -inf, and for the mean of no row.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError, MemoryError
        As for `softmax`; also ValueError if `sample_weight` has another shape, is negative where
        ``reduction="mean"``, `reduction` is unknown, or `temperature` is not finite and at least
        2^-124.

    See Also
    --------
    softmax_entropy_grad : The entropy and its gradient.
    softmax_cross_entropy : With ``return_statistics="entropy"`` it gives each row's entropy too.

    Notes
    -----
    A class of probability 0 adds 0. The entropy is computed as :math:`\log(1 + R) + \sum_c p_c d_c`
    with the distances :math:`d_c` of the logits from the largest, divided by :math:`T`, and the sum
    :math:`R` of :math:`e^{-d_c}` over all classes but that one: two numbers that are not negative,
    so that an entropy near 0 keeps its digits. It is accurate to 5 units in the last place, in
    float64 8.

    References
    ----------
    C. E. Shannon. A mathematical theory of communication. Bell System Technical Journal 27 (1948).

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_entropy
    >>> softmax_entropy(np.array([[0.0, 0.0], [0.0, -40.0]]), reduction="none")
    array([6.93147181e-01, 1.74182524e-16])
    """
    result: float | FloatArray = softmax_calls.entropy(
        logits, axis, sample_weight, temperature, reduction, scale, num_threads
    )
    return result


@overload
def softmax_entropy_grad(
    logits: NDArray[FloatT],
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[EntropyGradOptions],
) -> EntropyAndGrad[float, FloatT]: ...
@overload
def softmax_entropy_grad(
    logits: NDArray[FloatT],
    *,
    reduction: Literal["none"],
    **options: Unpack[EntropyGradOptions],
) -> EntropyAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def softmax_entropy_grad(
    logits: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[EntropyGradOptions],
) -> EntropyAndGrad[float, np.floating[Any]]: ...
@overload
def softmax_entropy_grad(
    logits: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[EntropyGradOptions],
) -> EntropyAndGrad[FloatArray, np.floating[Any]]: ...
def softmax_entropy_grad(
    logits: ArrayLike,
    *,
    axis: SupportsIndex = -1,
    sample_weight: ArrayLike | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    grad_output: ArrayLike | None = None,
    out: FloatArray | None = None,
    num_threads: SupportsIndex | None = None,
) -> EntropyAndGrad[Any, Any]:
    r"""Entropy of the classes' probabilities, and its gradient with respect to the logits.

    With the symbols of `softmax_entropy` the gradient of the rows' sum is

    .. math:: -\frac{a}{T}\, p_c (\log p_c + H)

    Parameters
    ----------
    logits, axis, sample_weight, temperature, reduction, num_threads
        As for `softmax_entropy`.
    scale : float, default 1.0
        Multiplies entropy and gradient. Minus the bonus's coefficient gives what a policy gradient
        adds to its loss and to that loss's gradient.
    grad_output : float, or array_like of the logits' shape without the class axis, optional
        Derivative of a later loss with respect to the result, as a backward pass has it: it
        multiplies the gradient alone. One number a row only with ``reduction="none"``.
    out : ndarray of the logits' shape, optional
        As for `softmax_cross_entropy_grad`.

    Returns
    -------
    entropy : float or ndarray of the logits' shape without the class axis
        As for `softmax_entropy`.
    grad : ndarray of the logits' shape
        Of the logits' dtype, in nats a unit of logit; `out` if it was given.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError, MemoryError
        As for `softmax_entropy`, and of `out` as for `softmax_cross_entropy_grad`; also ValueError
        if `grad_output` has another shape. After any exception `out` holds what it held before.

    See Also
    --------
    softmax_entropy : The entropy alone.
    softmax_cross_entropy_grad : The loss that a bonus is added to.

    Notes
    -----
    A class of probability 0 has the gradient 0, a row without a softmax NaN throughout. The mean of
    no row has the gradient 0. The error is at most 8 units in the last place of
    :math:`p_c (|\log p_c| + H)`, times :math:`a / T`, where numbers are normal.

    References
    ----------
    R. J. Williams, J. Peng. Function optimization using connectionist reinforcement learning
    algorithms. Connection Science 3 (1991): the entropy as a bonus.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_entropy_grad
    >>> logits = np.log([[1.0, 1.0, 2.0]])
    >>> entropy, grad = softmax_entropy_grad(logits)
    >>> round(entropy, 6)  # 1.5 log 2
    1.039721
    >>> grad.round(6)
    array([[ 0.086643,  0.086643, -0.173287]])
    """
    result: EntropyAndGrad[Any, Any] = softmax_calls.entropy_and_grad(
        logits, axis, sample_weight, temperature, reduction, scale, grad_output, out, num_threads
    )
    return result
