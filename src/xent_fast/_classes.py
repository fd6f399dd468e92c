"""Classes shared out: the loss and its gradient where nobody has a whole row of logits.

Knows: signatures and documentation. Must not know: what statistics hold (_class_statistics.py), how
ranges are measured and written (_class_ranges.py), how statistics travel between processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._class_ranges import losses, measured, range_of, settled, written
from xent_fast._class_statistics import ClassStatistics
from xent_fast._result import FloatArray, FloatT, LossAndGrad

if TYPE_CHECKING:
    from xent_fast._options import RangeGradOptions


def class_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    first_class: SupportsIndex,
    num_classes: SupportsIndex | None = None,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    ignore_index: SupportsIndex | None = None,
    out: FloatArray | None = None,
) -> ClassStatistics:
    """What a range of classes says of each row, for a loss over all classes.

    The classes of a row lie in several places: each takes the statistics of its own, sends them,
    merges everybody's, and has the loss and its part of the gradient.

    Parameters
    ----------
    logits : array_like with a class axis, float16, bfloat16, float32 or float64
        Logits in nats of the range's classes alone, of which there may be none.
    targets : array_like
        Class indices among all classes, whether they lie in the range or not; or dense targets of
        the range's classes.
    first_class : int
        The range's first class.
    num_classes : int, optional
        How many classes there are in all. Needed with `label_smoothing`. If it is given, class
        indices are checked here; otherwise by the functions that use the statistics, but for those
        that no class can have.
    axis : int, default -1
        The class axis.
    weight : array_like of shape (classes of the range,), optional
        Class weights of the range. All ranges have them or none.
    label_smoothing, temperature, ignore_index
        As for `softmax_cross_entropy`, the same for all ranges.
    out : ndarray of the logits' shape and dtype, optional
        Takes what `grad_from_statistics` can make the gradient from in place of the logits. May be
        `logits`, which are gone then. With 16 bits it holds the logits themselves, as exponentials
        need more; an array of float32 holds exponentials for logits of 16 bits too.

    Returns
    -------
    ClassStatistics
        Of one range. Its rows are the logits' rows in C order.

    Raises
    ------
    IndexError
        If a class index is out of bounds.
    TypeError, ValueError
        As for `softmax_cross_entropy`, and if the range does not lie in [0, `num_classes`).
        Nothing is written then.

    See Also
    --------
    merge_class_statistics : The statistics of several ranges together.

    Notes
    -----
    The call computes on its thread alone and does not hold the interpreter's lock meanwhile.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, loss_from_statistics, merge_class_statistics
    >>> logits, labels = np.log([[1.0, 2.0, 1.0], [1.0, 1.0, 8.0]]), np.array([0, 2])
    >>> parts = [
    ...     class_statistics(logits[:, :2], labels, first_class=0),
    ...     class_statistics(logits[:, 2:], labels, first_class=2),
    ... ]
    >>> loss_from_statistics(merge_class_statistics(parts)).round(6)  # log 4, log 1.25
    array([1.386294, 0.223144])
    """
    leaves = out is not None
    rows = range_of(logits, targets, axis, weight, out, with_grad=leaves)
    return measured(
        rows,
        first_class,
        num_classes,
        label_smoothing,
        temperature,
        ignore_index,
        leaves_exponentials=leaves,
    )


@overload
def loss_from_statistics(
    statistics: ClassStatistics,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"],
    scale: float = 1.0,
) -> float: ...
@overload
def loss_from_statistics(
    statistics: ClassStatistics,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["none"] = "none",
    scale: float = 1.0,
) -> FloatArray: ...
def loss_from_statistics(
    statistics: ClassStatistics,
    *,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "none",
    scale: float = 1.0,
) -> float | FloatArray:
    """The loss over all classes, from their statistics.

    No logits are needed any more: what all ranges say of a row is enough.

    Parameters
    ----------
    statistics : ClassStatistics
        Of all classes, from the first to the last.
    sample_weight : array_like of shape (rows,), optional
        Real numbers that multiply each row's loss. Statistics do not know the rows' shape: of
        several axes ``.reshape(-1)`` is to be passed.
    z_loss, scale
        As for `softmax_cross_entropy`.
    reduction : {"none", "mean", "sum"}, default "none"
        As for `softmax_cross_entropy`.

    Returns
    -------
    loss : float or ndarray of shape (rows,)
        As of `softmax_cross_entropy`. Its bits for more than 128 classes where every range begins
        and ends at a block of `ClassStatistics`, the gradient's too; but with class weights of
        class indices, without smoothing, within 2 ulp, and the gradient within 3. Elsewhere a few
        ulps from it: of 200,000 rows with random cuts at most 3 in float32 and 4 in float64. Of the
        logits' dtype, of float32 where that has 16 bits.

    Raises
    ------
    IndexError
        If a class index lies in no range.
    TypeError, ValueError
        If an option is wrong, or the statistics are not those of all classes.

    See Also
    --------
    class_statistics : The statistics of a range, with an example.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, loss_from_statistics
    >>> statistics = class_statistics(np.zeros((2, 4)), [0, 3], first_class=0)
    >>> round(loss_from_statistics(statistics, reduction="mean"), 6)
    1.386294
    """
    return losses(statistics, settled(statistics, sample_weight, z_loss, reduction, scale))


@overload
def grad_from_statistics(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    reduction: Literal["mean", "sum"] = "sum",
    **options: Unpack[RangeGradOptions],
) -> LossAndGrad[float, FloatT]: ...
@overload
def grad_from_statistics(
    logits: NDArray[FloatT],
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    reduction: Literal["none"],
    **options: Unpack[RangeGradOptions],
) -> LossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def grad_from_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    reduction: Literal["mean", "sum"] = "sum",
    **options: Unpack[RangeGradOptions],
) -> LossAndGrad[float, np.floating[Any]]: ...
@overload
def grad_from_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    reduction: Literal["none"],
    **options: Unpack[RangeGradOptions],
) -> LossAndGrad[FloatArray, np.floating[Any]]: ...
def grad_from_statistics(
    logits: ArrayLike,
    targets: ArrayLike,
    statistics: ClassStatistics,
    *,
    first_class: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "sum",
    scale: float = 1.0,
    has_exponentials: bool = False,
    out: FloatArray | None = None,
) -> LossAndGrad[Any, Any]:
    """The loss over all classes, and its gradient for the logits of a range of them.

    The range's logits are read once more, or their exponentials where `class_statistics` has left
    them, and its gradient is written, in place if that is asked for.

    Parameters
    ----------
    logits, targets, first_class, axis, weight
        A range of classes as `class_statistics` was given it; its other options are known from
        `statistics`.
    statistics : ClassStatistics
        Of all classes, from the first to the last.
    sample_weight, z_loss, scale
        As for `loss_from_statistics`.
    reduction : {"sum", "mean", "none"}, default "sum"
        As for `softmax_cross_entropy_grad`.
    has_exponentials : bool, default False
        Whether `logits` are not those but what `class_statistics` has left in its `out`. No
        exponential is taken again, which is faster; but for numbers of 16 bits. To pass the one and
        say the other is an error.
    out : ndarray of the logits' shape and dtype, optional
        Takes the gradient. May be `logits`; for logits of 16 bits also an array of float32.

    Returns
    -------
    loss : float or ndarray of shape (rows,)
        As of `loss_from_statistics`.
    grad : ndarray of the logits' shape
        The gradient with respect to these logits, rounded once: `out`, or a new array of their
        dtype.

    Raises
    ------
    IndexError
        If a class index lies in no range.
    TypeError, ValueError
        As for `softmax_cross_entropy_grad`, and if the statistics are not those of all classes, do
        not have this range among theirs, or were taken of other logits, as one row shows.

    See Also
    --------
    class_statistics : The statistics of a range.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, grad_from_statistics, merge_class_statistics
    >>> left, right, labels = np.zeros((1, 2)), np.zeros((1, 2)), [3]
    >>> statistics = merge_class_statistics([
    ...     class_statistics(left, labels, first_class=0),
    ...     class_statistics(right, labels, first_class=2),
    ... ])
    >>> grad_from_statistics(right, labels, statistics, first_class=2).grad
    array([[ 0.25, -0.75]])
    """
    has_exponentials = bool(has_exponentials)
    rows = range_of(
        logits, targets, axis, weight, out, with_grad=True, has_exponentials=has_exponentials
    )
    return written(
        rows,
        statistics,
        first_class,
        sample_weight,
        z_loss,
        reduction,
        scale,
        has_exponentials=has_exponentials,
    )
