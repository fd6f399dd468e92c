"""The last layer and its loss together: logits that never exist at once.

Knows: which rows go through the layer at a time, how their logits, gradients and sums are made by
matrix products, in which memory. Must not know: how the loss of those logits is computed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, loss_calls, options
from xent_fast._result import FloatT, LinearLossAndGrad

FloatArray = NDArray[np.floating[Any]]
Rows = slice | NDArray[np.intp]
Progress = Callable[[int, int], object]

# Each product reads the weights, or reads and writes their gradient, once a chunk: chunks of few
# rows wait for memory, and above 512 rows there is little left to gain. A quarter of a small batch
# keeps most of the memory that its logits and their gradient would take.
CHUNKS, FEWEST_CHUNK_ROWS, MOST_CHUNK_ROWS = 4, 128, 512
# Where that many rows' logits would take more than this, there are fewer.
MOST_CHUNK_BYTES = 128 << 20
# Matrix products do best where a chunk's rows are a multiple of this.
ROW_GRANULARITY = 16
# What is added or converted before the next step uses it stays in cache.
CACHED_BYTES = 1 << 20
# Blocks of weights and of their gradients, which products make best of some size.
BLOCK_BYTES = 4 << 20


@overload
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
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
) -> float: ...
@overload
def linear_softmax_cross_entropy(
    hidden: NDArray[FloatT],
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
    reduction: Literal["none"],
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
) -> NDArray[FloatT]: ...
@overload
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
    reduction: Literal["none"],
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
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
    layer = _layer_of(hidden, weight, bias)
    batch = _batch_of(
        layer,
        targets,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
        num_threads,
    )
    return _swept(layer, batch, _as_chunk_rows(chunk_rows, layer), _as_progress(progress), None)


@overload
def linear_softmax_cross_entropy_grad(
    hidden: NDArray[FloatT],
    weight: NDArray[FloatT],
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    grad_hidden_out: FloatArray | None = None,
    grad_weight_out: FloatArray | None = None,
    grad_bias_out: FloatArray | None = None,
    accumulate: bool = False,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LinearLossAndGrad[float, FloatT]: ...
@overload
def linear_softmax_cross_entropy_grad(
    hidden: NDArray[FloatT],
    weight: NDArray[FloatT],
    bias: ArrayLike | None,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Literal["none"],
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    grad_hidden_out: FloatArray | None = None,
    grad_weight_out: FloatArray | None = None,
    grad_bias_out: FloatArray | None = None,
    accumulate: bool = False,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LinearLossAndGrad[NDArray[FloatT], FloatT]: ...
@overload
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
    reduction: Literal["mean", "sum"] = "mean",
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    grad_hidden_out: FloatArray | None = None,
    grad_weight_out: FloatArray | None = None,
    grad_bias_out: FloatArray | None = None,
    accumulate: bool = False,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
) -> LinearLossAndGrad[float, np.floating[Any]]: ...
@overload
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
    reduction: Literal["none"],
    scale: float = 1.0,
    chunk_rows: SupportsIndex | None = None,
    grad_hidden_out: FloatArray | None = None,
    grad_weight_out: FloatArray | None = None,
    grad_bias_out: FloatArray | None = None,
    accumulate: bool = False,
    progress: Callable[[int, int], object] | None = None,
    num_threads: SupportsIndex | None = None,
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
    hidden, weight, bias, targets, class_weight, sample_weight, ignore_index, label_smoothing, \
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
    layer = _layer_of(hidden, weight, bias)
    batch = _batch_of(
        layer,
        targets,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
        num_threads,
    )
    chunk = _as_chunk_rows(chunk_rows, layer)
    callback = _as_progress(progress)
    outputs = _outputs_of(
        layer,
        (grad_hidden_out, grad_weight_out, grad_bias_out),
        (hidden, weight, bias, targets, class_weight, sample_weight),
        accumulate=bool(accumulate),
    )
    loss = _swept(layer, batch, chunk, callback, outputs)
    return LinearLossAndGrad(loss, outputs.hidden, outputs.weight, outputs.bias)


# --- arguments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """A linear layer and its input, as matrices that BLAS can take."""

    hidden: FloatArray  # (rows, features)
    weight: FloatArray  # (classes, features)
    bias: FloatArray | None  # of the logits' dtype
    hidden_shape: tuple[int, ...]
    dtype: type[np.floating[Any]]  # of the logits
    dtypes: tuple[np.dtype[Any], ...]  # of hidden, weight and bias as given

    @property
    def classes(self) -> int:
        return len(self.weight)

    @property
    def features(self) -> int:
        return int(self.weight.shape[1])


@dataclass(frozen=True)
class _Batch:
    """What the loss of some rows takes besides their logits."""

    targets: NDArray[Any]
    class_weight: NDArray[Any] | None
    sample_weight: NDArray[np.float64] | None
    factor: float | None  # None: a mean over nothing
    counted: NDArray[np.intp] | None  # the rows that are not ignored, unless all count
    label_smoothing: float
    temperature: float
    z_loss: float
    has_row_losses: bool
    num_threads: SupportsIndex | None


@dataclass(frozen=True)
class _Outputs:
    """Where gradients go, each an array of the argument's shape."""

    hidden: FloatArray
    weight: FloatArray
    bias: FloatArray | None
    is_added_to: tuple[bool, bool, bool]


def _layer_of(hidden: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> _Layer:
    h = arguments.checked_array(hidden, "hidden")
    w = arguments.checked_array(weight, "weight")
    b = None if bias is None else arguments.checked_array(bias, "bias")
    dtype = _logits_dtype(h, w, b)
    if h.ndim == 0:
        raise ValueError("hidden must have a feature axis; it has no axis at all")
    if w.ndim != 2 or w.shape[1] != h.shape[-1]:
        raise ValueError(f"weight must have shape (classes, {h.shape[-1]}), not {w.shape}")
    if len(w) == 0:
        raise ValueError(f"weight of shape {w.shape} has no class")
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias must have shape {w.shape[:1]}, not {b.shape}")
    return _Layer(
        _for_blas(h.reshape(_row_count(h.shape), h.shape[-1])),
        _for_blas(w),
        None if b is None else np.array(b, dtype=dtype),
        h.shape,
        dtype,
        tuple(a.dtype.newbyteorder("=") for a in (h, w, b) if a is not None),
    )


def _row_count(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])


def _is_half(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16 or ml_dtypes' bfloat16, which is known by its name."""
    return dtype.type is np.float16 or (dtype.name == "bfloat16" and dtype.itemsize == 2)


def _logits_dtype(
    hidden: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None
) -> type[np.floating[Any]]:
    """float64, or float32 for anything smaller; or the complaint that they do not go together."""
    for name, array in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if array is None:
            continue
        if array.dtype.type not in (np.float32, np.float64) and not _is_half(array.dtype):
            raise TypeError(
                f"{name} must be float32, float64, float16 or bfloat16, not {array.dtype}"
            )
        if (array.dtype.type is np.float64) != (hidden.dtype.type is np.float64):
            raise TypeError(
                f"{name} is {array.dtype}, but hidden {hidden.dtype}: float64 goes with float64 "
                f"alone; convert one by .astype"
            )
    return np.float64 if hidden.dtype.type is np.float64 else np.float32


def _for_blas(matrix: NDArray[Any]) -> FloatArray:
    """The same, or a copy, in native numbers with contiguous rows or contiguous columns."""
    step = matrix.itemsize
    if matrix.flags.aligned and matrix.dtype.isnative:
        for rows in (matrix, matrix.T):
            across, along = rows.strides
            if along == step and across % step == 0 and across >= step * rows.shape[1]:
                return matrix
    return np.array(matrix, dtype=matrix.dtype.newbyteorder("="), order="C")


def _batch_of(
    layer: _Layer,
    targets: ArrayLike,
    class_weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: SupportsIndex | None,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    reduction: Literal["mean", "sum", "none"],
    scale: float,
    num_threads: SupportsIndex | None,
) -> _Batch:
    rows_of_targets, weights, row_weights, factor = loss_calls.settle_batch(
        (*layer.hidden_shape[:-1], layer.classes),
        layer.dtype,
        targets,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        temperature,
        z_loss,
        reduction,
        scale,
        num_threads,
    )
    counted = None
    if ignore_index is not None:
        counts = rows_of_targets != operator.index(ignore_index)
        counted = None if counts.all() else np.flatnonzero(counts)
    return _Batch(
        rows_of_targets,
        weights,
        row_weights,
        factor,
        counted,
        label_smoothing,
        temperature,
        z_loss,
        reduction == "none",
        num_threads,
    )


def _as_chunk_rows(given: SupportsIndex | None, layer: _Layer) -> int:
    """How many rows go through the layer at a time."""
    rows = max(len(layer.hidden), 1)
    if given is None:
        fitting = MOST_CHUNK_BYTES // (layer.classes * np.dtype(layer.dtype).itemsize)
        most = max(min(-(-rows // CHUNKS), MOST_CHUNK_ROWS, fitting), FEWEST_CHUNK_ROWS)
        even = -(-rows // -(-rows // most))
        most = -(-even // ROW_GRANULARITY) * ROW_GRANULARITY
    else:
        most = int(options.checked_integer(given, "chunk_rows"))
        if most < 1:
            raise ValueError(f"chunk_rows must be at least 1, not {most}")
    return min(most, rows)


def _as_progress(given: Progress | None) -> Progress | None:
    if given is not None and not callable(given):
        raise TypeError(f"progress must be callable or None, not {type(given).__name__}")
    return given


def _outputs_of(
    layer: _Layer,
    given: tuple[FloatArray | None, FloatArray | None, FloatArray | None],
    inputs: tuple[ArrayLike | None, ...],
    *,
    accumulate: bool,
) -> _Outputs:
    """The arrays of the caller, or new ones, none of which has been written to."""
    if layer.bias is None and given[2] is not None:
        raise ValueError("grad_bias_out is given, but bias is None")
    if accumulate and all(out is None for out in given):
        raise ValueError(
            "accumulate=True adds to grad_hidden_out, grad_weight_out and grad_bias_out; "
            "none of them is given"
        )
    names = ("hidden", "weight", "bias", "targets", "class_weight", "sample_weight")
    others = [(n, a) for n, a in zip(names, inputs, strict=True) if isinstance(a, np.ndarray)]
    shapes = (layer.hidden_shape, layer.weight.shape, (layer.classes,))
    results: list[FloatArray | None] = []
    for name, out, shape, dtype in zip(names, given, shapes, (*layer.dtypes, None), strict=False):
        if out is not None:
            _check_output(out, f"grad_{name}_out", shape, dtype, layer.dtype)
            for other_name, other in others:
                if np.shares_memory(out, other):
                    raise ValueError(f"grad_{name}_out shares memory with {other_name}")
            others.append((f"grad_{name}_out", out))
            results.append(out)
        else:
            results.append(np.empty(shape, dtype) if dtype is not None else None)
    hidden, weight, bias = results
    assert hidden is not None
    assert weight is not None
    rows = hidden.reshape(len(layer.hidden), layer.features)
    if hidden.size and not np.shares_memory(rows, hidden):
        raise ValueError(
            f"the rows of grad_hidden_out must be one stride apart, as in a contiguous array; "
            f"shape {hidden.shape}, strides {hidden.strides}"
        )
    added = [accumulate and out is not None for out in given]
    return _Outputs(hidden, weight, bias, (added[0], added[1], added[2]))


def _check_output(
    out: object,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | None,
    logits_dtype: type[np.floating[Any]],
) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be an ndarray, not {type(out).__name__}")
    arguments.checked_array(out, name)
    allowed = dict.fromkeys([dtype or np.dtype(logits_dtype), np.dtype(logits_dtype)])
    if all(out.dtype.type is not one.type for one in allowed):
        raise TypeError(f"{name} must be {' or '.join(map(str, allowed))}, not {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"output array is read-only ({name})")
    if arguments.repeats_itself(out):
        raise ValueError(f"{name} overlaps itself: shape {out.shape}, strides {out.strides}")


# --- the sweep over chunks ------------------------------------------------------------------------


def _swept(
    layer: _Layer,
    batch: _Batch,
    chunk_rows: int,
    progress: Progress | None,
    outputs: _Outputs | None,
) -> float | FloatArray:
    """The loss, having written the gradients. All large arrays are allocated before that."""
    rows = len(layer.hidden)
    row_losses = np.zeros(rows, layer.dtype) if batch.has_row_losses else None
    logits = np.empty((chunk_rows, layer.classes), layer.dtype)
    inputs = _Inputs(layer, chunk_rows, is_gathered=batch.counted is not None)
    sums = None if outputs is None else _Sums(layer, outputs, inputs, chunk_rows)
    telling = _Telling(progress, rows)

    total = 0.0
    for chunk in [] if batch.factor is None else _chunks(rows, chunk_rows, batch.counted):
        hidden = inputs.of_rows(chunk)
        some_logits = logits[: len(hidden)]
        for classes, weight in inputs.weights():
            np.matmul(hidden, weight.T, out=some_logits[:, classes])
        for piece in _pieces(some_logits, layer.bias is not None):
            result = _losses(
                layer, batch, some_logits[piece], _part(chunk, piece), sums is not None
            )
            if row_losses is None:
                total += result
            else:
                row_losses[_part(chunk, piece)] = result
            if sums is not None:
                sums.add_to_bias(some_logits[piece])
        if sums is not None:
            sums.add(some_logits, hidden, chunk)
        telling.tell(chunk.stop if isinstance(chunk, slice) else int(chunk[-1]) + 1)
    if sums is not None:
        sums.finish()
    telling.end()
    if row_losses is not None:
        return row_losses.reshape(layer.hidden_shape[:-1])
    return float("nan") if batch.factor is None else total


def _chunks(rows: int, chunk_rows: int, counted: NDArray[np.intp] | None) -> Iterator[Rows]:
    for first in range(0, rows if counted is None else len(counted), chunk_rows):
        if counted is None:
            yield slice(first, min(first + chunk_rows, rows))
        else:
            yield counted[first : first + chunk_rows]


def _part(chunk: Rows, piece: slice) -> Rows:
    """Some rows of a chunk's, by their places there."""
    if isinstance(chunk, slice):
        return slice(chunk.start + piece.start, min(chunk.start + piece.stop, chunk.stop))
    return chunk[piece]


def _pieces(logits: FloatArray, in_cache: bool) -> Iterator[slice]:
    """The rows whose logits are swept over several times: few enough to stay in cache."""
    step = max(CACHED_BYTES // (logits.shape[1] * logits.itemsize), 1) if in_cache else len(logits)
    for first in range(0, len(logits), step):
        yield slice(first, min(first + step, len(logits)))


def _losses(layer: _Layer, batch: _Batch, logits: FloatArray, rows: Rows, with_grad: bool) -> Any:
    """The sum of some rows' losses, or each; the gradient takes the logits' place."""
    if layer.bias is not None:
        np.add(logits, layer.bias, out=logits)
    given = (
        logits,
        batch.targets[rows],
        -1,
        batch.class_weight,
        None if batch.sample_weight is None else batch.sample_weight[rows],
        None,  # ignored rows are not among these
        batch.label_smoothing,
        batch.temperature,
        batch.z_loss,
        "none" if batch.has_row_losses else "sum",
        batch.factor,
        False,
        batch.num_threads,
    )
    if with_grad:
        return loss_calls.loss_and_grad(*given, logits).loss
    return loss_calls.loss(*given)


class _Inputs:
    """Rows of `hidden` and blocks of `weight` in the logits' dtype."""

    def __init__(self, layer: _Layer, chunk_rows: int, *, is_gathered: bool) -> None:
        self._hidden, self._weight = layer.hidden, layer.weight
        self._rows: FloatArray | None = None
        if is_gathered or layer.hidden.dtype != layer.dtype:
            self._rows = np.empty((chunk_rows, layer.features), layer.dtype)
        self._block: FloatArray | None = None
        if layer.weight.dtype != layer.dtype:
            row_bytes = max(layer.features, 1) * np.dtype(layer.dtype).itemsize
            height = min(max(BLOCK_BYTES // row_bytes, 1), layer.classes)
            self._block = np.empty((height, layer.features), layer.dtype)

    def of_rows(self, rows: Rows) -> FloatArray:
        some = self._hidden[rows]
        if self._rows is None:
            return some
        np.copyto(self._rows[: len(some)], some)
        return self._rows[: len(some)]

    def weights(self) -> Iterator[tuple[slice, FloatArray]]:
        if self._block is None:
            yield slice(None), self._weight
            return
        for first in range(0, len(self._weight), len(self._block)):
            some = self._weight[first : first + len(self._block)]
            np.copyto(self._block[: len(some)], some)
            yield slice(first, first + len(some)), self._block[: len(some)]


class _Sums:
    """The three gradients on their way."""

    def __init__(self, layer: _Layer, outputs: _Outputs, inputs: _Inputs, chunk_rows: int) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._grad_hidden = outputs.hidden.reshape(len(layer.hidden), layer.features)
        self._chunk = np.empty((2, chunk_rows, layer.features), layer.dtype)
        self._is_weight_kept_apart = outputs.weight.dtype.type is not layer.dtype
        self._grad_weight = outputs.weight
        if self._is_weight_kept_apart:
            self._grad_weight = np.empty(layer.weight.shape, layer.dtype)
        self._has_weight = outputs.is_added_to[1] and not self._is_weight_kept_apart
        self._is_weight_plain = self._grad_weight.flags.carray and self._grad_weight.dtype.isnative
        row_bytes = max(layer.features, 1) * np.dtype(layer.dtype).itemsize
        height = min(max(BLOCK_BYTES // row_bytes, 1), layer.classes)
        self._block = np.empty((height, layer.features), layer.dtype)
        self._bias: NDArray[np.float64] | None = None
        if outputs.bias is not None:
            self._bias = np.zeros(layer.classes)
            self._bias_of_piece = np.empty(layer.classes, layer.dtype)
        self._written_rows = np.zeros(len(layer.hidden), bool)

    def add_to_bias(self, grad: FloatArray) -> None:
        if self._bias is not None:
            np.add.reduce(grad, axis=0, out=self._bias_of_piece)
            self._bias += self._bias_of_piece

    def add(self, grad: FloatArray, hidden: FloatArray, rows: Rows) -> None:
        """Add what the gradient of some rows' logits gives."""
        self._add_to_hidden(grad, rows)
        self._add_to_weight(grad, hidden)

    def _add_to_hidden(self, grad: FloatArray, rows: Rows) -> None:
        total, product = self._chunk[:, : len(grad)]
        for classes, weight in self._inputs.weights():
            if classes.start in (None, 0):
                np.matmul(grad[:, classes], weight, out=total)
            else:
                np.matmul(grad[:, classes], weight, out=product)
                np.add(total, product, out=total)
        if self._outputs.is_added_to[0]:
            total += self._grad_hidden[rows]
        self._grad_hidden[rows] = total
        self._written_rows[rows] = True

    def _add_to_weight(self, grad: FloatArray, hidden: FloatArray) -> None:
        total, is_first = self._grad_weight, not self._has_weight
        self._has_weight = True
        if self._is_weight_plain and is_first:
            np.matmul(grad.T, hidden, out=total)
        else:
            for first in range(0, len(total), len(self._block)):
                some = total[first : first + len(self._block)]
                product = self._block[: len(some)]
                np.matmul(grad[:, first : first + len(some)].T, hidden, out=product)
                if is_first:
                    some[...] = product
                else:
                    np.add(some, product, out=some)

    def finish(self) -> None:
        """Write what has not been written: rows without a loss, sums of another dtype."""
        if not self._outputs.is_added_to[0] and not self._written_rows.all():
            self._grad_hidden[~self._written_rows] = 0
        if not self._has_weight:
            self._grad_weight.fill(0)
        if self._is_weight_kept_apart:
            _place(self._outputs.weight, self._grad_weight, self._outputs.is_added_to[1])
        if self._bias is not None and self._outputs.bias is not None:
            _place(self._outputs.bias, self._bias, self._outputs.is_added_to[2])


def _place(out: FloatArray, total: FloatArray, is_added: bool) -> None:
    """Round a sum into an array, once; the sum is not used again."""
    if is_added:
        np.add(total, out, out=total, casting="unsafe")
    np.copyto(out, total, casting="unsafe")


class _Telling:
    """Calls `progress` until it raises, and raises that at the end."""

    def __init__(self, progress: Progress | None, rows: int) -> None:
        self._progress = progress
        self._rows = rows
        self._told = 0
        self._raised: Exception | None = None

    def tell(self, rows_done: int) -> None:
        if self._progress is None:
            return
        self._told = rows_done
        try:
            self._progress(rows_done, self._rows)
        except Exception as error:
            self._raised, self._progress = error, None

    def end(self) -> None:
        """All rows are done, those that did not count too."""
        if self._told != self._rows:
            self.tell(self._rows)
        if self._raised is not None:
            raise self._raised
