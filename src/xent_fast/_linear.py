"""The last layer and its loss together: logits that never exist at once.

Knows: signatures and documentation. Must not know: what is checked (_layer_arguments.py), how the
chunks are computed (_layer_chunks.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._layer_arguments import as_chunk_rows, as_progress, batch_of, layer_of, outputs_of
from xent_fast._layer_chunks import swept
from xent_fast._result import FloatArray, FloatT, LinearLossAndGrad

if TYPE_CHECKING:
    from xent_fast._options import LayerGradOptions, LayerOptions


@overload
def linear_softmax_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[LayerOptions],
) -> float: ...
@overload
def linear_softmax_cross_entropy(
    hidden: NDArray[FloatT],
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[LayerOptions],
) -> NDArray[FloatT]: ...
@overload
def linear_softmax_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[LayerOptions],
) -> FloatArray: ...
def linear_softmax_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
) -> float | FloatArray:
    r"""Cross-entropy of a linear layer's logits, which are made some rows at a time.

    The loss is that of `softmax_cross_entropy` for the logits ``hidden @ weight.T + bias``. They
    never exist at once: a chunk of rows is multiplied, and its losses are taken before the next.

    Parameters
    ----------
    hidden : array_like with a feature axis, the last
        What the layer is applied to, one vector a row, in any unit: float32, float64, float16 or
        bfloat16 (of ml_dtypes).
    weight : array_like of shape (classes, features)
        The layer's weights, a row for each class: logits, in nats, a unit of `hidden`. Of the dtype
        of `hidden`; float16, bfloat16 and float32 may be mixed, and are computed in float32.
    bias : array_like of shape (classes,), or None
        The layer's biases, in nats, of a dtype as for `weight`. None: all 0.
    targets : array_like
        Class indices of the shape of `hidden` without the features, or dense targets with the
        classes as the last axis, as for `softmax_cross_entropy`.
    class_weight : array_like of shape (classes,), optional
        Real numbers that multiply the targets of each class: `weight` of `softmax_cross_entropy`.
    sample_weight : array_like of the shape of `hidden` without the features, optional
        Real numbers that multiply each row's loss.
    ignore_index : int, optional
        Rows whose class index equals this number do not count. They are left out of the products
        too, so that they cost nothing, whatever `hidden` holds there.
    label_smoothing, temperature, z_loss
        As for `softmax_cross_entropy`.
    reduction : {"mean", "sum", "none"}, default "mean"
        As for `softmax_cross_entropy`.
    scale : float, default 1.0
        Multiplies the loss.
    chunk_rows : int, optional
        Rows whose logits exist at a time: more make the products faster, fewer take less memory.
        By default a quarter of the batch, but 128 to 512 rows, and no more than 128 MiB where that
        leaves 128 rows.
    progress : callable, optional
        Called as ``progress(rows_done, rows)`` after each chunk. If it raises, it is not called
        again, and the exception goes on once all rows are done.
    num_threads : int, optional
        As for `softmax_cross_entropy`. The matrix products use the threads of NumPy's linear
        algebra library.

    Returns
    -------
    loss : float or ndarray of the shape of `hidden` without the features
        In nats. A float for ``"mean"`` and ``"sum"``. For ``"none"`` an array of the logits' dtype:
        float32, or float64 where `hidden` is.

    Raises
    ------
    IndexError
        If a class index is neither in [0, classes) nor `ignore_index`.
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not fit together, an option is out of its range, `chunk_rows` or `num_threads`
        is below 1.
    MemoryError
        If an array cannot be allocated.

    See Also
    --------
    linear_softmax_cross_entropy_grad : The loss and its gradients.
    softmax_cross_entropy : The loss of logits that exist.

    Notes
    -----
    Beside the result, memory is taken for a chunk's logits alone. A `weight` that is no matrix for
    BLAS (neither its rows nor its columns contiguous) is copied; one of float16 or bfloat16 is
    converted some classes at a time, twice for every chunk where gradients are wanted.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import linear_softmax_cross_entropy
    >>> rng = np.random.default_rng(0)
    >>> hidden, weight = rng.standard_normal((64, 16)), rng.standard_normal((5000, 16))
    >>> loss = linear_softmax_cross_entropy(hidden, weight, None, rng.integers(0, 5000, 64))
    >>> round(loss, 2)
    14.95
    """
    layer = layer_of(hidden, weight, bias)
    batch = batch_of(
        layer, targets, class_weight, sample_weight, ignore_index, label_smoothing, temperature,
        z_loss, reduction, scale, num_threads,
    )  # fmt: skip
    return swept(layer, batch, as_chunk_rows(chunk_rows, layer), as_progress(progress), None)


@overload
def linear_softmax_cross_entropy_grad(
    hidden: NDArray[FloatT],
    weight: NDArray[FloatT],
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[LayerGradOptions],
) -> LinearLossAndGrad[float, FloatT]: ...
@overload
def linear_softmax_cross_entropy_grad(
    hidden: NDArray[FloatT],
    weight: NDArray[FloatT],
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[LayerGradOptions],
) -> LinearLossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
def linear_softmax_cross_entropy_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    **options: Unpack[LayerGradOptions],
) -> LinearLossAndGrad[float, np.floating[Any]]: ...
@overload
def linear_softmax_cross_entropy_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[LayerGradOptions],
) -> LinearLossAndGrad[FloatArray, np.floating[Any]]: ...
def linear_softmax_cross_entropy_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    grad_hidden_out: FloatArray | None = None,
    grad_weight_out: FloatArray | None = None,
    grad_bias_out: FloatArray | None = None,
    accumulate: bool = False,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LinearLossAndGrad[Any, Any]:
    r"""Cross-entropy of a linear layer's logits, and its gradients, some rows at a time.

    Neither the logits ``hidden @ weight.T + bias`` nor their gradient exist at once: the logits of
    a chunk of rows are made, replaced by their gradient, and multiplied by `weight` and `hidden`.

    Parameters
    ----------
    hidden, weight, bias, targets, class_weight, sample_weight, ignore_index, label_smoothing
        As for `linear_softmax_cross_entropy`.
    temperature, z_loss, scale, chunk_rows, progress, num_threads
        As for `linear_softmax_cross_entropy`.
    reduction : {"mean", "sum", "none"}, default "mean"
        As for `linear_softmax_cross_entropy`. For ``"none"`` the gradients are those of the
        losses' sum.
    grad_hidden_out, grad_weight_out, grad_bias_out : ndarray of that argument's shape, optional
        Take the gradients. Of that argument's dtype or the logits'. They may share memory neither
        with an argument nor with each other. The rows of `grad_hidden_out`, if they have several
        axes, must be one stride apart.
    accumulate : bool, default False
        Whether gradients are added to what those arrays hold, as over several batches.

    Returns
    -------
    loss : float or ndarray of the shape of `hidden` without the features
        As of `linear_softmax_cross_entropy`.
    grad_hidden, grad_weight : ndarray of that argument's shape
        Gradient with respect to it, in nats a unit of it: the array that was given, or a new one of
        the argument's dtype.
    grad_bias : ndarray of shape (classes,), or None
        The same; None where `bias` is.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `linear_softmax_cross_entropy`. ValueError as well if an output is read-only or
        shares memory with another array, or `accumulate` has nothing to add to.

    See Also
    --------
    linear_softmax_cross_entropy : The loss alone.
    sampled_softmax_loss_grad : A loss over some of the classes.

    Notes
    -----
    Every argument is checked before the first product, and nothing is written before that. But
    what stops a call between two chunks, as Ctrl-C does, leaves the outputs part-way.

    A chunk's product for ``grad_weight`` is made and added some classes at a time. The sums of a
    gradient of float16 or bfloat16 are kept in a float32 array of its size and rounded once; a
    float32 `grad_weight_out` saves that array. ``grad_bias`` is added in double and rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import linear_softmax_cross_entropy_grad
    >>> rng = np.random.default_rng(0)
    >>> hidden, weight = rng.standard_normal((64, 16)), rng.standard_normal((5000, 16))
    >>> result = linear_softmax_cross_entropy_grad(
    ...     hidden, weight, None, rng.integers(0, 5000, 64)
    ... )
    >>> weight -= 0.1 * result.grad_weight
    >>> result.grad_hidden.shape, result.grad_bias
    ((64, 16), None)
    """
    layer = layer_of(hidden, weight, bias)
    batch = batch_of(
        layer, targets, class_weight, sample_weight, ignore_index, label_smoothing, temperature,
        z_loss, reduction, scale, num_threads,
    )  # fmt: skip
    chunk = as_chunk_rows(chunk_rows, layer)
    callback = as_progress(progress)
    outputs = outputs_of(
        layer,
        (grad_hidden_out, grad_weight_out, grad_bias_out),
        (hidden, weight, bias, targets, class_weight, sample_weight),
        accumulate=bool(accumulate),
    )
    loss = swept(layer, batch, chunk, callback, outputs)
    return LinearLossAndGrad(loss, outputs.hidden, outputs.weight, outputs.bias)
