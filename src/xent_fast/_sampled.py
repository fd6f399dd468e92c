"""Softmax loss over a sample of the classes, for outputs too many to score them all.

Knows: how logits of targets and samples are made, corrected and differentiated, by NumPy's matrix
products. Must not know: how the loss of those logits is computed, or how classes are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments
from xent_fast._layer_arguments import check_shapes, logits_dtype
from xent_fast._loss import softmax_cross_entropy_grad
from xent_fast._result import FloatArray, FloatT, SampledLossAndGrad
from xent_fast._sampler import ClassArray, Sampler, as_classes, draw_candidates

if TYPE_CHECKING:
    from xent_fast._options import SampledOptions


@overload
def sampled_softmax_loss_grad(
    hidden: NDArray[FloatT],
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[SampledOptions],
) -> SampledLossAndGrad[float, FloatT]: ...
@overload
def sampled_softmax_loss_grad(
    hidden: NDArray[FloatT],
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[SampledOptions],
) -> SampledLossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def sampled_softmax_loss_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[SampledOptions],
) -> SampledLossAndGrad[float, np.floating[Any]]: ...
@overload
def sampled_softmax_loss_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[SampledOptions],
) -> SampledLossAndGrad[FloatArray, np.floating[Any]]: ...
def sampled_softmax_loss_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    num_sampled: SupportsIndex,
    sampler: Sampler = "log_uniform",
    remove_accidental_hits: bool = True,
    rng: np.random.Generator | int | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    sample_weight: ArrayLike | None = None,
    scale: float = 1.0,
    num_threads: SupportsIndex | None = None,
) -> SampledLossAndGrad[Any, Any]:
    r"""Softmax loss of each target among sampled classes, and its gradients.

    An example with the hidden vector :math:`h` and the target :math:`y` is scored against
    :math:`y` and the sampled classes alone, which all examples share. Class :math:`k` has the logit

    .. math:: h \cdot w_k + b_k - \log E_k

    where :math:`E_k` is the expected number of times that :math:`k` is sampled. The loss is the
    softmax cross-entropy of these logits. It is not an estimate of the loss over all classes, but
    with the correction both have the same optimum: the layer that has learned from samples gives
    the logits of the full softmax.

    Parameters
    ----------
    hidden : array_like of shape (batch, features)
        What the output layer is applied to: one vector an example, in any unit. float32, float64,
        float16 or bfloat16 (of ml_dtypes).
    weight : array_like of shape (classes, features)
        The output layer's weights, a row for each class: logits, in nats, a unit of `hidden`.
        float64 goes with float64 alone; float16, bfloat16 and float32 may be mixed, and are
        computed in float32.
    bias : array_like of shape (classes,), or None
        The output layer's biases, in nats, of a dtype like `weight`. None: all 0.
    targets : array_like of shape (batch,)
        Class indices, of any integer dtype.
    num_sampled : int
        How many classes are sampled: for the named samplers distinct, and at most all of them. If
        all are, no chance remains, and the loss is that of the full softmax.
    sampler : {"log_uniform", "uniform"} or (samples, expected_counts), default "log_uniform"
        ``"log_uniform"`` draws class k with probability log((k + 2) / (k + 1)) / log(classes + 1),
        which fits classes in descending order of frequency; ``"uniform"`` draws all alike. Both
        draw until `num_sampled` are distinct, and with n draws
        :math:`E_k = 1 - (1 - P(k))^n`. Or what the caller drew: `num_sampled` class indices, which
        may repeat, and one positive number a class.
    remove_accidental_hits : bool, default True
        Whether a sample that equals an example's target is left out for that example, whose target
        would otherwise compete with itself.
    rng : numpy.random.Generator or int, optional
        Where the named samplers take chance from: a generator, which advances, or the seed of a new
        one. By default a new one with a seed of the operating system's.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"sum"`` adds the losses of all examples. ``"mean"`` divides that sum by their number or,
        if given, the sum of their sample weights. ``"none"`` returns one loss an example;
        ``grad_weight`` and ``grad_bias`` are then those of the losses' sum.
    sample_weight : array_like of shape (batch,), optional
        Real numbers that multiply each example's loss. Negative ones are refused with
        ``reduction="mean"``, as by `softmax_cross_entropy`.
    scale : float, default 1.0
        Multiplies loss and gradients.
    num_threads : int, optional
        As for `softmax_cross_entropy`. The matrix products are NumPy's and use the threads of its
        linear algebra library.

    Returns
    -------
    loss : float or ndarray of shape (batch,)
        In nats. A float for ``"mean"`` and ``"sum"``: the examples' losses are added in double. For
        ``"none"`` an array of float32, or of float64 where `hidden` is.
    grad_hidden : ndarray of shape (batch, features)
        Gradient with respect to `hidden`, as all gradients in nats a unit of that argument and of
        its dtype.
    rows : ndarray of shape (distinct,), intp
        The classes that were a target or a sample: distinct, in ascending order.
    grad_weight : ndarray of shape (distinct, features)
        Gradient with respect to ``weight[rows]``; that of every other row is 0.
    grad_bias : ndarray of shape (distinct,)
        Gradient with respect to ``bias[rows]``; that of every other entry is 0.

    Raises
    ------
    IndexError
        If a target or a sample is not in [0, classes).
    TypeError
        If an argument has the wrong type or dtype: float64 with others, numbers of no float dtype
        above, targets that are not integers, a masked array.
    ValueError
        If shapes do not fit together, `num_sampled` is below 1 or above the number of classes,
        `sampler` is unknown, an expected count that is needed is not positive and finite, a sample
        weight is negative with ``reduction="mean"``, `reduction` is unknown or `num_threads` below
        1.
    MemoryError
        If an array cannot be allocated.

    See Also
    --------
    softmax_cross_entropy_grad : The loss over all classes.

    Notes
    -----
    No array has a row for every class, so that the cost does not grow with their number. Only where
    nearly all classes are sampled, the named samplers keep a few numbers a class. The logits of an
    example and the sum of a row's gradients are rounded to float32 or float64, results of 16 bits
    once more.

    For a log-uniform or uniform sample this is ``tf.nn.sampled_softmax_loss`` with one target, but
    that TensorFlow takes :math:`n P(k)` for :math:`E_k` where the first n draws were distinct.

    References
    ----------
    .. [1] S. Jean, K. Cho, R. Memisevic, Y. Bengio. On using very large target vocabulary for
       neural machine translation. ACL 2015.
    .. [2] Y. Bengio, J.-S. Senécal. Adaptive importance sampling to accelerate training of a neural
       probabilistic language model. IEEE Transactions on Neural Networks 19 (2008).

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import sampled_softmax_loss_grad
    >>> rng = np.random.default_rng(0)
    >>> hidden, weight, bias = rng.random((32, 64)), rng.random((50_000, 64)), np.zeros(50_000)
    >>> result = sampled_softmax_loss_grad(
    ...     hidden, weight, bias, np.arange(32), num_sampled=1000, rng=rng
    ... )
    >>> result.grad_weight.shape == (len(result.rows), 64)
    True
    >>> weight[result.rows] -= 0.1 * result.grad_weight
    >>> bias[result.rows] -= 0.1 * result.grad_bias
    """
    hidden, weight, bias = _layer(hidden, weight, bias)
    dtype = logits_dtype(hidden, weight, bias)
    grad_dtypes = [dtype if array is None else array.dtype for array in (hidden, weight, bias)]
    hidden = hidden.astype(dtype, copy=False)
    labels = _labels(targets, len(hidden), len(weight))
    samples, expected_count = draw_candidates(
        sampler, num_sampled, len(weight), np.random.default_rng(rng)
    )

    target_weight, sample_weights = (
        weight[classes].astype(dtype, copy=False) for classes in (labels, samples)
    )
    target_shift, sample_shift = (
        (0 if bias is None else bias[classes].astype(dtype)) - np.log(expected_count(classes))
        for classes in (labels, samples)
    )
    logits = np.empty((len(hidden), 1 + len(samples)), dtype=dtype)
    # einsum's sums over no feature are not always 0
    logits[:, 0] = np.vecdot(hidden, target_weight) + target_shift
    np.matmul(hidden, sample_weights.T, out=logits[:, 1:])
    logits[:, 1:] += sample_shift.astype(dtype)
    if remove_accidental_hits:
        logits[:, 1:][labels[:, np.newaxis] == samples] = -np.inf

    loss, grad = softmax_cross_entropy_grad(
        logits,
        np.zeros(len(hidden), dtype=np.intp),  # the target's logit is each row's first
        sample_weight=sample_weight,
        reduction=reduction,
        scale=scale,
        num_threads=num_threads,
        out=logits,
    )

    grad_target, grad_samples = grad[:, :1], grad[:, 1:]
    grad_hidden = grad_samples @ sample_weights
    grad_hidden += grad_target * target_weight
    rows, grad_weight, grad_bias = _summed_by_class(
        np.concatenate([labels, samples]),
        np.concatenate([grad_target * hidden, grad_samples.T @ hidden]),
        np.concatenate([grad_target[:, 0], grad_samples.sum(axis=0)]),
    )
    with np.errstate(all="ignore"):
        grad_hidden, grad_weight, grad_bias = (
            grad.astype(own, copy=False)
            for grad, own in zip((grad_hidden, grad_weight, grad_bias), grad_dtypes, strict=True)
        )
    return SampledLossAndGrad(loss, grad_hidden, rows, grad_weight, grad_bias)


def _layer(
    hidden: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """The float arguments as arrays whose shapes fit together."""
    h = _plain(hidden, "hidden")
    if h.ndim != 2:
        raise ValueError(f"hidden must have shape (batch, features), not {h.shape}")
    w = _plain(weight, "weight")
    b = None if bias is None else _plain(bias, "bias")
    check_shapes(h, w, b)
    return h, w, b


def _plain(given: ArrayLike, name: str) -> NDArray[Any]:
    """An array of no subclass, in the processor's byte order."""
    array = arguments.checked_array(given, name)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _labels(targets: ArrayLike, batch: int, num_classes: int) -> ClassArray:
    """The targets as valid indices of the weights' rows."""
    if np.shape(targets) != (batch,):
        raise ValueError(f"targets must have shape ({batch},), not {np.shape(targets)}")
    return as_classes(targets, num_classes, "targets")


def _summed_by_class(
    classes: ClassArray, weight_terms: FloatArray, bias_terms: FloatArray
) -> tuple[ClassArray, FloatArray, FloatArray]:
    """The distinct classes in ascending order, and the sums of the terms that belong to each."""
    order = np.argsort(classes, kind="stable")
    rows, starts = np.unique(classes[order], return_index=True)
    return (
        rows,
        np.add.reduceat(weight_terms[order], starts, axis=0),
        np.add.reduceat(bias_terms[order], starts),
    )
