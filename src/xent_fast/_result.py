"""What the calls give back that return more than one array.

Knows: the names of the fields. Must not know: how they are computed.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

# Here, not among the types of `_options`, so that `typing.get_type_hints` finds it.
FloatArray = NDArray[np.floating[Any]]
# Of a tuple: what the loss is, and the dtype of its arrays.
LossT = TypeVar("LossT", bound=float | FloatArray, covariant=True)
DtypeT = TypeVar("DtypeT", bound=np.floating[Any], covariant=True)
# Of a call: the dtypes that results have where the logits have them. Others are converted.
FloatT = TypeVar("FloatT", np.float32, np.float64)


class LossAndGrad(NamedTuple, Generic[LossT, DtypeT]):
    """Loss and gradient with respect to the logits; unpacks as ``loss, grad = ...``.

    Attributes
    ----------
    loss : float or ndarray of the logits' shape without the class axis
        In nats. A float for ``reduction="mean"`` and ``"sum"``, one loss a row for ``"none"``.
    grad : ndarray of the logits' shape
        Gradient with respect to the logits (`cross_entropy_grad`: to the probabilities), of
        their dtype, in nats a unit of them.
    """

    loss: LossT
    grad: NDArray[DtypeT]


class EntropyAndGrad(NamedTuple, Generic[LossT, DtypeT]):
    """Entropy and its gradient with respect to the logits; unpacks as ``entropy, grad = ...``.

    Attributes
    ----------
    entropy : float or ndarray of the logits' shape without the class axis
        In nats. A float for ``reduction="mean"`` and ``"sum"``, one a row for ``"none"``.
    grad : ndarray of the logits' shape
        Gradient with respect to the logits, of their dtype, in nats a unit of them.
    """

    entropy: LossT
    grad: NDArray[DtypeT]


class LossGradAndHessian(NamedTuple, Generic[LossT, DtypeT]):
    """Loss and both derivatives; unpacks as ``loss, grad, hessian = ...``.

    Attributes
    ----------
    loss, grad
        As of `LossAndGrad`.
    hessian : ndarray of the logits' shape
        Diagonal of the loss's Hessian with respect to the logits, of their dtype, in nats a squared
        unit of them.
    """

    loss: LossT
    grad: NDArray[DtypeT]
    hessian: NDArray[DtypeT]


class RowStatistics(NamedTuple, Generic[DtypeT]):
    """What the pass over the logits learns of each row; every array lacks the class axis.

    Attributes
    ----------
    lse : ndarray of the logits' dtype
        In nats: logarithm of the sum of the exponentials of the row's logits, which are divided by
        the temperature first. NaN where the row is ignored or has no softmax: its logits have a NaN
        or plus infinity, or are all minus infinity.
    prediction : ndarray of intp
        The class of the largest logit, the first of several; -1 where the row is ignored or has no
        softmax.
    is_correct : ndarray of bool
        Whether the prediction is the row's class index or, for dense targets, the class of the
        row's first largest target. False where the prediction is -1.
    """

    lse: NDArray[DtypeT]
    prediction: NDArray[np.intp]
    is_correct: NDArray[np.bool_]


class LossAndStatistics(NamedTuple, Generic[LossT, DtypeT]):
    """Loss and row statistics; unpacks as ``loss, statistics = ...``.

    Attributes
    ----------
    loss : float or ndarray
        As of `LossAndGrad`.
    statistics : RowStatistics
        One value a row in each of its arrays.
    """

    loss: LossT
    statistics: RowStatistics[DtypeT]


class LossGradAndStatistics(NamedTuple, Generic[LossT, DtypeT]):
    """Loss, gradient and row statistics; unpacks as ``loss, grad, statistics = ...``.

    Attributes
    ----------
    loss, grad
        As of `LossAndGrad`.
    statistics : RowStatistics
        One value a row in each of its arrays.
    """

    loss: LossT
    grad: NDArray[DtypeT]
    statistics: RowStatistics[DtypeT]


class ChosenStatistics(NamedTuple, Generic[DtypeT]):
    """The statistics that were asked for by name, None for all others; arrays lack the class axis.

    Attributes
    ----------
    lse, prediction, is_correct : ndarray, or None
        As of `RowStatistics`.
    entropy : ndarray of the logits' dtype, or None
        In nats: that of the row's softmax, as `softmax_entropy` gives it. NaN where the row is
        ignored or has no softmax.
    target_log_probability : ndarray of the logits' dtype, or None
        In nats: logarithm of the softmax's probability of the row's class index or, for dense
        targets, of the class of the row's first largest target. NaN where the row is ignored or has
        no softmax.
    """

    lse: NDArray[DtypeT] | None = None
    prediction: NDArray[np.intp] | None = None
    is_correct: NDArray[np.bool_] | None = None
    entropy: NDArray[DtypeT] | None = None
    target_log_probability: NDArray[DtypeT] | None = None


class LossAndChosenStatistics(NamedTuple, Generic[LossT, DtypeT]):
    """Loss and statistics by name; unpacks as ``loss, statistics = ...``.

    Attributes
    ----------
    loss : float or ndarray
        As of `LossAndGrad`.
    statistics : ChosenStatistics
        One value a row in each of its arrays.
    """

    loss: LossT
    statistics: ChosenStatistics[DtypeT]


class LossGradAndChosenStatistics(NamedTuple, Generic[LossT, DtypeT]):
    """Loss, gradient and statistics by name; unpacks as ``loss, grad, statistics = ...``.

    Attributes
    ----------
    loss, grad
        As of `LossAndGrad`.
    statistics : ChosenStatistics
        One value a row in each of its arrays.
    """

    loss: LossT
    grad: NDArray[DtypeT]
    statistics: ChosenStatistics[DtypeT]


class SampledLossAndGrad(NamedTuple, Generic[LossT, DtypeT]):
    """Sampled softmax loss and its gradients, those of the weights for the rows that took part.

    Attributes
    ----------
    loss : float or ndarray of shape (batch,)
        In nats. A float for ``reduction="mean"`` and ``"sum"``, one loss an example for ``"none"``.
    grad_hidden : ndarray of shape (batch, features)
        Gradient with respect to the hidden vectors, as all gradients in nats a unit of these.
    rows : ndarray of shape (distinct,), intp
        The classes that were a target or a sample: distinct, in ascending order.
    grad_weight : ndarray of shape (distinct, features)
        Gradient with respect to ``weight[rows]``; that of every other row is 0.
    grad_bias : ndarray of shape (distinct,)
        Gradient with respect to ``bias[rows]``; that of every other entry is 0.
    """

    loss: LossT
    grad_hidden: NDArray[DtypeT]
    rows: NDArray[np.intp]
    grad_weight: NDArray[DtypeT]
    grad_bias: NDArray[DtypeT]


class LinearLossAndGrad(NamedTuple, Generic[LossT, DtypeT]):
    """Loss of a linear layer's logits, and its gradients.

    Attributes
    ----------
    loss : float or ndarray
        In nats. A float for ``reduction="mean"`` and ``"sum"``, one loss a row for ``"none"``.
    grad_hidden : ndarray of the shape of `hidden`
        Gradient with respect to the layer's input, as all gradients in nats a unit of that array.
    grad_weight : ndarray of shape (classes, features)
        Gradient with respect to the weights.
    grad_bias : ndarray of shape (classes,), or None
        Gradient with respect to the biases; None where there are none.
    """

    loss: LossT
    grad_hidden: NDArray[DtypeT]
    grad_weight: NDArray[DtypeT]
    grad_bias: NDArray[DtypeT] | None
