"""The public functions: signatures, documentation, and one call each into the compiled module.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast import _core
from xent_fast._result import LossAndGrad

FloatArray = NDArray[np.floating[Any]]


@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: Literal["none"],
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> FloatArray: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: str,
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float | FloatArray: ...
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: str = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> float | FloatArray:
    r"""Cross-entropy between targets and the softmax of logits.

    A row of logits :math:`x` with targets :math:`t`, one number a class (for a class index
    :math:`y`: 1 at :math:`y` and 0 elsewhere), has the loss

    .. math:: a \sum_c t_c \Bigl(\log \sum_k e^{x_k} - x_c\Bigr)

    where :math:`a` is its weight: ``scale``, times its ``sample_weight`` if given, divided for
    ``reduction="mean"`` by the sum described there.

    Parameters
    ----------
    logits : array_like of shape (rows, classes), float32 or float64
        Unnormalised log-probabilities, of any memory layout. Computed in their own precision.
    targets : array_like of shape (rows,) or (rows, classes)
        Either class indices, one integer a row, or dense targets, one floating-point number a
        logit, which need not sum to 1 and are converted to the logits' dtype.
    sample_weight : array_like of shape (rows,), optional
        Real numbers that multiply each row's loss. Negative ones are used as given.
    ignore_index : int, optional
        Rows whose class index equals this number do not count: their logits are not read, their
        loss is 0, and they leave the mean's denominator. The number need not be a class. By default
        no row is ignored.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"sum"`` adds the losses of all rows. ``"mean"`` divides that sum by the number of rows
        that are not ignored or, if given, by the sum of their sample weights. ``"none"`` returns
        one loss a row.
    scale : float, default 1.0
        Multiplies the loss.
    num_threads : int, optional
        At least 1; more than there is work for are not used. By default as many as
        ``OMP_NUM_THREADS``, threadpoolctl and the processors at hand allow, and one for small
        inputs. The result does not depend on it. In a forked child there is always one.

    Returns
    -------
    float or ndarray of shape (rows,)
        A float for ``"mean"`` and ``"sum"``: the rows' losses rounded to the logits' dtype and
        added in double. An array of the logits' dtype for ``"none"``.

    Raises
    ------
    IndexError
        If a class index is neither in [0, classes) nor `ignore_index`.
    TypeError
        If an argument has the wrong type or dtype: logits that are not float32 or float64, class
        indices that are not integers, dense targets that are not floating-point, a masked array.
    ValueError
        If shapes do not fit together, the logits have rows but no class, `ignore_index` is given
        with dense targets, `reduction` is unknown or `num_threads` below 1.
    MemoryError
        If a copy or a workspace cannot be allocated.

    See Also
    --------
    softmax_cross_entropy_grad : The loss and its gradient.

    Notes
    -----
    A logit of -inf has probability 0; the loss is +inf if its target is positive. A row with a NaN,
    a +inf or nothing but -inf has the loss NaN and leaves the other rows alone. The mean over
    nothing (no rows, all rows ignored, weights that sum to 0) is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy
    >>> softmax_cross_entropy(np.zeros((2, 4)), np.array([0, 3]))
    1.3862943611198906
    """
    return _core.loss(logits, targets, sample_weight, ignore_index, reduction, scale, num_threads)


@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
    out: FloatArray | None = None,
) -> LossAndGrad[float]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: Literal["none"],
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
    out: FloatArray | None = None,
) -> LossAndGrad[FloatArray]: ...
@overload
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: str,
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
    out: FloatArray | None = None,
) -> LossAndGrad[Any]: ...
def softmax_cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    reduction: str = "mean",
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
    out: FloatArray | None = None,
) -> LossAndGrad[Any]:
    r"""Cross-entropy between targets and the softmax of logits, and its gradient.

    With the row weight :math:`a` and the targets :math:`t` of `softmax_cross_entropy`, and the
    row's softmax :math:`p`, the gradient of the row losses' sum with respect to the logits is

    .. math:: a \Bigl(p_c \sum_k t_k - t_c\Bigr)

    which is :math:`a (p - t)` for class indices and for targets that sum to 1.

    Parameters
    ----------
    logits, targets, sample_weight, ignore_index, reduction, num_threads
        As for `softmax_cross_entropy`. `logits` must be an ndarray if `out` is given.
    scale : float, default 1.0
        Multiplies loss and gradient, as a loss scale or 1 / (number of accumulated batches) does.
    out : ndarray of shape (rows, classes), optional
        Where the gradient is written: `logits` themselves, or an array of their shape and dtype
        that shares no memory with them. By default a new array. No other input is ever written to.

    Returns
    -------
    loss : float or ndarray of shape (rows,)
        As for `softmax_cross_entropy`.
    grad : ndarray of shape (rows, classes)
        Of the logits' dtype; `out` if it was given. For ``reduction="none"`` each row holds the
        gradient of its own loss.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `softmax_cross_entropy`; also TypeError if `out` is not an ndarray of the logits'
        dtype, and ValueError if it has another shape, is read-only, overlaps itself, overlaps the
        logits without being the same array, or shares memory with `targets`. After any exception
        `out` holds what it held before.

    See Also
    --------
    softmax_cross_entropy : The loss alone.
    softmax_loss : The same with fewer options, as courses write it.

    Notes
    -----
    The gradient of an ignored row is exactly 0, even where its logits are NaN. Where the loss is
    NaN because the mean's denominator is 0, the whole gradient is exactly 0. A row with a NaN, a
    +inf or nothing but -inf has a gradient of NaN throughout. For a row whose loss is +inf the
    gradient stays finite.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy_grad
    >>> logits = np.zeros((2, 4))
    >>> loss, grad = softmax_cross_entropy_grad(logits, np.array([0, 3]), out=logits)
    >>> grad
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    >>> grad is logits
    True
    """
    return _core.loss_and_grad(
        logits, targets, sample_weight, ignore_index, reduction, scale, num_threads, out
    )


def softmax_loss(x: ArrayLike, y: ArrayLike) -> LossAndGrad[float]:
    """Mean softmax loss over a batch and its gradient, under the names that courses use.

    Parameters
    ----------
    x : array_like of shape (rows, classes), float32 or float64
        Scores.
    y : array_like of shape (rows,)
        Class indices. Dense targets of the shape of `x` are taken as well.

    Returns
    -------
    loss : float
        Mean loss over the batch.
    dx : ndarray of shape (rows, classes)
        Gradient of the loss with respect to `x`: a new array. It is the field ``grad`` of the
        tuple.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `softmax_cross_entropy_grad`, which this is: ``softmax_cross_entropy_grad(x, y)``.
        There `x` goes by the name of logits and `y` by that of targets.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_loss
    >>> loss, dx = softmax_loss(np.zeros((2, 4)), np.array([0, 3]))
    """
    return _core.loss_and_grad(x, y, None, None, "mean", 1.0, None, None)
