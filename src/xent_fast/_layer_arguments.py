"""Arguments of the last layer and its loss, checked, with all that is allocated for their results.

Knows: which arrays and options go together, how many rows go through the layer at a time.
Must not know: how the loss or a product is computed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, loss_calls, options

FloatArray = NDArray[np.floating[Any]]
Progress = Callable[[int, int], object]

# Each product reads the weights, or reads and writes their gradient, once a chunk: chunks of few
# rows wait for memory, and above 512 rows there is little left to gain. A quarter of a small batch
# keeps most of the memory that its logits and their gradient would take.
CHUNKS, FEWEST_CHUNK_ROWS, MOST_CHUNK_ROWS = 4, 128, 512
# Where that many rows' logits would take more than this, there are fewer.
MOST_CHUNK_BYTES = 128 << 20
# Matrix products do best where a chunk's rows are a multiple of this.
ROW_GRANULARITY = 16


@dataclass(frozen=True)
class Layer:
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
class Batch:
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
class Outputs:
    """Where gradients go, each an array of the argument's shape."""

    hidden: FloatArray
    weight: FloatArray
    bias: FloatArray | None
    is_added_to: tuple[bool, bool, bool]


def layer_of(hidden: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> Layer:
    """The layer and its input as matrices: views or, where BLAS could not take these, copies."""
    h = arguments.checked_array(hidden, "hidden")
    w = arguments.checked_array(weight, "weight")
    b = None if bias is None else arguments.checked_array(bias, "bias")
    dtype = logits_dtype(h, w, b)
    if h.ndim == 0:
        raise ValueError("hidden must have a feature axis; it has no axis at all")
    check_shapes(h, w, b)
    return Layer(
        _for_blas(h.reshape(_row_count(h.shape), h.shape[-1])),
        _for_blas(w),
        None if b is None else np.array(b, dtype=dtype),
        h.shape,
        dtype,
        tuple(a.dtype.newbyteorder("=") for a in (h, w, b) if a is not None),
    )


def _row_count(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])


def check_shapes(hidden: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
    """Complain of a layer whose arrays do not fit together."""
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        is_turned = weight.ndim == 2 and weight.shape[0] == hidden.shape[-1]
        remedy = "; weight.T has that shape" if is_turned else ""
        raise ValueError(
            f"weight must have shape (classes, {hidden.shape[-1]}), not {weight.shape}{remedy}"
        )
    if len(weight) == 0:
        raise ValueError(f"weight of shape {weight.shape} has no class")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape {weight.shape[:1]}, not {bias.shape}")


def logits_dtype(
    hidden: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None
) -> type[np.floating[Any]]:
    """float64, or float32 for anything smaller; or the complaint that they do not go together."""
    for name, array in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if array is None:
            continue
        arguments.checked_floats(array, name, None)
        if arguments.computed_dtype(array) is not arguments.computed_dtype(hidden):
            raise TypeError(
                f"{name} is {array.dtype}, but hidden {hidden.dtype}: float64 goes with float64 "
                f"alone; convert one by .astype"
            )
    return arguments.computed_dtype(hidden)


def _for_blas(matrix: NDArray[Any]) -> FloatArray:
    """The same, or a copy, in native numbers with contiguous rows or contiguous columns."""
    step = matrix.itemsize
    if matrix.flags.aligned and matrix.dtype.isnative:
        for rows in (matrix, matrix.T):
            across, along = rows.strides
            if along == step and across % step == 0 and across >= step * rows.shape[1]:
                return matrix
    return np.array(matrix, dtype=matrix.dtype.newbyteorder("="), order="C")


def batch_of(
    layer: Layer,
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
) -> Batch:
    """What the loss takes besides the logits, settled for the batch as a whole.

    Denominators and labels are final.
    """
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
    return Batch(
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


def as_chunk_rows(given: SupportsIndex | None, layer: Layer) -> int:
    """How many rows go through the layer at a time, at least 1; `given` is the caller's."""
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


def as_progress(given: Progress | None) -> Progress | None:
    """The callback, checked."""
    if given is not None and not callable(given):
        raise TypeError(f"progress must be callable or None, not {type(given).__name__}")
    return given


def outputs_of(
    layer: Layer,
    given: tuple[FloatArray | None, FloatArray | None, FloatArray | None],
    inputs: tuple[ArrayLike | None, ...],
    *,
    accumulate: bool,
) -> Outputs:
    """The arrays of the caller, or new ones, none of which has been written to.

    `given` are those for the gradients of hidden, weight and bias, to which they are added with
    `accumulate`; `inputs` are whose memory these may not share.
    """
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
    return Outputs(hidden, weight, bias, (added[0], added[1], added[2]))


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
