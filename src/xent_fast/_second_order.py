"""The second order of the loss: its Hessian times a vector, and the Hessian's diagonal.

Knows: the Hessian's formula. Must not know: memory layouts, how a softmax is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._loss import softmax_cross_entropy
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
    reduction: str = "mean",
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
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature, \
    z_loss, reduction, scale, num_threads
        As for `softmax_cross_entropy_grad`.
    vector : array_like of the logits' shape
        Real numbers: what the Hessian is multiplied with, a direction in the space of the logits.
        Converted to the logits' dtype.
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

    Notes
    -----
    A row that is ignored, and every row where the mean's denominator is 0, is exactly 0. A row with
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
    problem = _Problem.of(
        logits,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
        num_threads,
    )
    vector = as_alike(vector, problem.place, "vector", "logits")
    check_destination(out, logits, targets, {"logits": problem.logits, "vector": vector})
    rows_of_vector = problem.place.as_rows(vector)
    dtype = problem.logits.dtype.newbyteorder("=")

    def product(block: slice, softmax: SoftmaxBlock) -> FloatArray:
        p = softmax.probabilities
        v: FloatArray = rows_of_vector[block].astype(dtype, copy=False)
        v_of_largest = np.take_along_axis(v, softmax.largest, axis=1)
        from_largest = v - v_of_largest
        mean_from_largest = (p * from_largest).sum(axis=1, keepdims=True)
        from_largest -= mean_from_largest
        from_largest *= p
        values: FloatArray = from_largest * problem.curvature(block)
        if problem.z_loss:
            p *= v_of_largest + mean_from_largest
            values = values + p * problem.z_curvature(block)
        return values

    return problem.computed(product, out)


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
    reduction: str = "mean",
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
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature, \
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
    A row that is ignored, and every row where the mean's denominator is 0, is exactly 0. A row with
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
    problem = _Problem.of(
        logits,
        targets,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
        num_threads,
    )
    check_destination(out, logits, targets, {"logits": problem.logits})

    def diagonal(block: slice, softmax: SoftmaxBlock) -> FloatArray:
        p = softmax.probabilities
        values = 1.0 - p
        np.put_along_axis(values, softmax.largest, softmax.one_minus_largest, axis=1)
        values *= p
        values = values * problem.curvature(block)
        if problem.z_loss:
            values = values + p * p * problem.z_curvature(block)
        return values

    return problem.computed(diagonal, out)


@dataclass(frozen=True)
class _Problem:
    """Arguments that have been checked, and the numbers a T^-2 A and 2 a z T^-2 of every row."""

    place: Place
    logits: FloatArray
    weights: RowWeights
    temperature: float
    z_loss: float
    num_threads: SupportsIndex | None
    row_curvature: NDArray[np.float64]
    row_z_curvature: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        logits: ArrayLike,
        targets: ArrayLike,
        axis: SupportsIndex,
        weight: ArrayLike | None,
        sample_weight: ArrayLike | None,
        ignore_index: SupportsIndex | None,
        label_smoothing: float,
        temperature: float,
        z_loss: float,
        reduction: str,
        scale: float,
        num_threads: SupportsIndex | None,
    ) -> Self:
        """The loss checks its arguments and has every row's lse."""
        statistics = softmax_cross_entropy(
            logits,
            targets,
            axis=axis,
            weight=weight,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            temperature=temperature,
            z_loss=z_loss,
            reduction=reduction,
            scale=scale,
            return_statistics=True,
            num_threads=num_threads,
        ).statistics
        x: FloatArray = np.asarray(logits)
        place = Place.of(x, axis)
        weights = RowWeights.of(
            x, place, targets, weight, sample_weight, ignore_index, reduction, scale
        )
        with np.errstate(all="ignore"):
            curvature = _total_mass(place, weights, float(label_smoothing), x.dtype)
            if z_loss:
                curvature += 2 * float(z_loss) * statistics.lse.reshape(place.rows)
            weight_over_square = weights.row_weight / float(temperature) / float(temperature)
            return cls(
                place,
                x,
                weights,
                float(temperature),
                float(z_loss),
                num_threads,
                weight_over_square * curvature,
                weight_over_square * (2 * float(z_loss)),
            )

    def curvature(self, block: slice) -> FloatArray:
        """a A / T^2 of a block's rows."""
        return as_column(self.row_curvature[block], self.logits.dtype)

    def z_curvature(self, block: slice) -> FloatArray:
        """2 a z / T^2 of a block's rows."""
        return as_column(self.row_z_curvature[block], self.logits.dtype)

    def computed(
        self, of_block: Callable[[slice, SoftmaxBlock], FloatArray], out: FloatArray | None
    ) -> FloatArray:
        """What a function makes of each block of rows and its softmax, in `out` or a new array."""
        destination = Destination.of(out, self.logits, self.place)
        if self.weights.is_void:
            return destination.filled_with_zeros()
        rows_of_logits = self.place.as_rows(self.logits)
        with np.errstate(all="ignore"):
            for block in self.place.blocks():
                softmax = SoftmaxBlock.of(rows_of_logits[block], self.temperature, self.num_threads)
                values = of_block(block, softmax)
                values[~self.weights.counted[block]] = 0.0
                destination.rows[block] = values
        return destination.finished()


def _total_mass(
    place: Place, weights: RowWeights, label_smoothing: float, dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """Q = (1 - E) sum w t + E / C sum w of every row."""
    if place.rows == 0:
        return np.zeros(0)
    targets, class_weight = weights.targets, weights.class_weight
    mean_weight = 1.0 if class_weight is None else float(class_weight.mean(dtype=np.float64))
    target_mass = np.ones(place.rows)
    if targets is not None and targets.ndim == 2:
        for block in place.blocks():
            t = targets[block].astype(dtype.newbyteorder("="), copy=False)
            target_mass[block] = (t if class_weight is None else t * class_weight).sum(axis=1)
    elif class_weight is not None:
        target_mass = class_weight[targets].astype(np.float64)
    return (1.0 - label_smoothing) * target_mass + label_smoothing * mean_weight
