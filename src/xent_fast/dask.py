"""The loss of Dask arrays whose rows and classes lie in chunks, on any of Dask's schedulers.

    loss, grad = softmax_cross_entropy_grad(logits, labels)

Results are Dask arrays: nothing is computed before they are asked for, and then a chunk at a time.

Knows: Dask's arrays and delayed calls; which chunks make up a row.
Must not know: what statistics hold; where and when tasks run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, options
from xent_fast._class_ranges import mean_denominator, mean_factor
from xent_fast._class_statistics import ClassStatistics, merge_class_statistics
from xent_fast._classes import class_statistics, grad_from_statistics, loss_from_statistics
from xent_fast._extras import needed_by
from xent_fast._result import LossAndGrad

with needed_by("xent_fast.dask", "dask"):
    import dask
    import dask.array as da

__all__ = ["softmax_cross_entropy", "softmax_cross_entropy_grad"]

Reduction = Literal["mean", "sum", "none"]
Index = tuple[int, ...]

# What a task takes from others' at once, of the classes of a row or of the rows' sums.
FAN_IN = 8


def softmax_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    scale: float = 1.0,
) -> Any:
    """`xent_fast.softmax_cross_entropy` of a Dask array, chunked in any way.

    Parameters
    ----------
    logits : dask.array.Array with a class axis, float16, bfloat16, float32 or float64
        In nats. Every axis may have any chunks whose sizes are known, the class axis too.
    targets : dask.array.Array or array_like
        Class indices, or dense targets. Their chunks become those of the logits.
    axis : int, default -1
        The class axis.
    weight, sample_weight : dask.array.Array or array_like, optional
        As for `xent_fast.softmax_cross_entropy`.
    ignore_index, label_smoothing, temperature, z_loss, reduction, scale
        As there.

    Returns
    -------
    dask.array.Array
        The loss in nats, of float64 and without an axis; for ``reduction="none"`` one a row, of the
        logits' dtype (float32 where that has 16 bits) and with their chunks.

    Raises
    ------
    TypeError, ValueError
        At once, if a dtype, a shape or an option is wrong. What only values show, as a class index
        out of bounds, is raised when the result is computed.

    See Also
    --------
    softmax_cross_entropy_grad : The gradient besides.

    Examples
    --------
    >>> import dask.array as da
    >>> from xent_fast.dask import softmax_cross_entropy
    >>> logits = da.zeros((6, 4), chunks=(2, 3))
    >>> round(float(softmax_cross_entropy(logits, [0, 1, 2, 3, 0, 1])), 6)
    1.386294
    """
    problem = _Problem.of(
        (logits, targets, axis, weight, sample_weight),
        (ignore_index, label_smoothing, temperature),
        (z_loss, reduction, scale),
    )
    return problem.loss()


def softmax_cross_entropy_grad(
    logits: Any,
    targets: Any,
    *,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    scale: float = 1.0,
) -> LossAndGrad[Any, Any]:
    """`xent_fast.softmax_cross_entropy_grad` of a Dask array, chunked in any way.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight
        As for `softmax_cross_entropy` of this module.
    ignore_index, label_smoothing, temperature, z_loss, reduction, scale
        As for `xent_fast.softmax_cross_entropy_grad`.

    Returns
    -------
    loss : dask.array.Array
        As of `softmax_cross_entropy`.
    grad : dask.array.Array of the logits' shape, dtype and chunks
        The gradient with respect to the logits. ``dask.compute(loss, grad)`` computes both in one
        go.

    Raises
    ------
    TypeError, ValueError
        As by `softmax_cross_entropy`.

    Notes
    -----
    Each chunk of logits is read twice, for its statistics and for its gradient. Between the two,
    Dask keeps it, makes it again, or writes it to disk, as for any array that is used twice.

    Examples
    --------
    >>> import dask.array as da
    >>> from xent_fast.dask import softmax_cross_entropy_grad
    >>> loss, grad = softmax_cross_entropy_grad(da.zeros((2, 4), chunks=(2, 2)), [0, 3])
    >>> grad.chunks
    ((2,), (2, 2))
    >>> grad.compute()[0]
    array([-0.375,  0.125,  0.125,  0.125])
    """
    problem = _Problem.of(
        (logits, targets, axis, weight, sample_weight),
        (ignore_index, label_smoothing, temperature),
        (z_loss, reduction, scale),
    )
    return LossAndGrad(problem.loss(), problem.grad())


@dataclass
class _Problem:
    """Arguments in chunks that belong together, the class axis last; delayed statistics of rows."""

    logits: Any
    axis: int
    chunks: dict[str, NDArray[Any] | None]  # delayed chunks of each array
    options: dict[str, Any]  # of measuring
    z_loss: float
    reduction: str
    scale: float

    @classmethod
    def of(
        cls, arrays: tuple[Any, ...], measuring: tuple[Any, ...], settling: tuple[Any, ...]
    ) -> _Problem:
        given, targets, axis, weight, sample_weight = arrays
        ignore_index, label_smoothing, temperature = measuring
        z_loss, reduction, scale = settling
        label_smoothing, temperature, z_loss, scale = options.checked_options(
            label_smoothing, temperature, z_loss, reduction, scale
        )
        place = _checked_axis(given, axis)
        logits = _moved(given, place, -1)
        targets = _as_targets(targets, logits, given, place)
        is_dense = targets.ndim == logits.ndim
        if is_dense and ignore_index is not None:
            raise ValueError("ignore_index needs targets that are class indices, not dense targets")
        if ignore_index is not None:
            ignore_index = options.checked_integer(ignore_index, "ignore_index")
        rows, classes = logits.chunks[:-1], logits.chunks[-1:]
        if weight is not None:
            weight = _as_weights(weight, classes, "weight")
        if sample_weight is not None:
            sample_weight = _as_weights(sample_weight, rows, "sample_weight")
        return cls(
            logits,
            place,
            {
                "logits": _delayed(logits),
                "targets": _delayed(targets.rechunk(logits.chunks if is_dense else rows)),
                "weight": _delayed(weight),
                "sample_weight": _delayed(sample_weight),
            },
            {
                "num_classes": logits.shape[-1],
                "ignore_index": ignore_index,
                "label_smoothing": label_smoothing,
                "temperature": temperature,
            },
            z_loss,
            reduction,
            scale,
        )

    def __post_init__(self) -> None:
        self._rows = list(np.ndindex(*self.logits.numblocks[:-1]))
        self._first_classes = [0, *itertools.accumulate(self.logits.chunks[-1])][:-1]
        measure = dask.delayed(_measured, pure=True)
        merge = dask.delayed(_merged, pure=True)
        self._statistics = {
            row: _tree(
                merge,
                [
                    measure(
                        *self._range(row, k),
                        first_class=first,
                        rows=self._slices(row),
                        **self.options,
                    )
                    for k, first in enumerate(self._first_classes)
                ],
            )
            for row in self._rows
        }
        self._factor: Any = self.scale
        if self.reduction == "mean":
            weigh = dask.delayed(_weighed, pure=True)
            weights = [
                weigh(self._statistics[row], self._part("sample_weight", row)) for row in self._rows
            ]
            total = _tree(dask.delayed(_summed, pure=True), weights)
            self._factor = dask.delayed(mean_factor, pure=True)(self.scale, total)

    def loss(self) -> Any:
        settle = dask.delayed(_settled, pure=True)
        is_apart = self.reduction == "none"
        losses = {
            row: settle(
                self._statistics[row],
                self._part("sample_weight", row),
                self.z_loss,
                self._factor,
                self._shape(row) if is_apart else None,
            )
            for row in self._rows
        }
        if not is_apart:
            total = _tree(dask.delayed(_summed, pure=True), list(losses.values()))
            return da.from_delayed(total, (), np.float64)
        return self._array(losses, self.logits.chunks[:-1], _computed_dtype(self.logits))

    def grad(self) -> Any:
        write = dask.delayed(_written, pure=True)
        parts = {
            (*row, k): write(
                *self._range(row, k),
                self._statistics[row],
                first_class=first,
                sample_weight=self._part("sample_weight", row),
                z_loss=self.z_loss,
                factor=self._factor,
            )
            for row in self._rows
            for k, first in enumerate(self._first_classes)
        }
        return _moved(self._array(parts, self.logits.chunks, self.logits.dtype), -1, self.axis)

    def _range(self, row: Index, k: int) -> tuple[Any, ...]:
        """Logits, targets and class weights of a chunk."""
        targets = self.chunks["targets"]
        assert targets is not None
        is_dense = targets.ndim == self.logits.ndim
        return (
            self._part("logits", (*row, k)),
            self._part("targets", (*row, k) if is_dense else row),
            self._part("weight", (k,)),
        )

    def _part(self, name: str, index: Index) -> Any:
        chunks = self.chunks[name]
        return None if chunks is None else chunks[index]

    def _shape(self, index: Index) -> tuple[int, ...]:
        return tuple(c[k] for c, k in zip(self.logits.chunks, index, strict=False))

    def _slices(self, row: Index) -> str:
        """Where a chunk's rows lie, for messages."""
        starts = (sum(c[:k]) for c, k in zip(self.logits.chunks, row, strict=False))
        return ", ".join(f"{a}:{a + n}" for a, n in zip(starts, self._shape(row), strict=True))

    def _array(
        self, parts: dict[Index, Any], chunks: tuple[tuple[int, ...], ...], dtype: Any
    ) -> Any:
        """An array of delayed chunks."""
        blocks = np.empty([len(c) for c in chunks], object)
        for index, part in parts.items():
            blocks[index] = da.from_delayed(part, self._shape(index), dtype)
        return da.block(blocks.tolist())


def _tree(function: Callable[[list[Any]], Any], parts: list[Any]) -> Any:
    while len(parts) > 1:
        parts = [function(parts[k : k + FAN_IN]) for k in range(0, len(parts), FAN_IN)]
    return parts[0] if parts else function([])


def _moved(array: Any, start: int, end: int) -> Any:
    is_last = start % array.ndim == end % array.ndim
    return array if is_last else da.moveaxis(array, start, end)


def _delayed(array: Any) -> NDArray[Any] | None:
    """An array's chunks, which stay what others know them by."""
    return None if array is None else array.to_delayed(optimize_graph=False)


# --- arguments ------------------------------------------------------------------------------------


def _checked_axis(logits: Any, axis: SupportsIndex) -> int:
    if not isinstance(logits, da.Array):
        raise TypeError(
            f"logits must be a dask array, not {type(logits).__name__}: "
            "take dask.array.from_array(logits, chunks=...)"
        )
    arguments.checked_floats(np.zeros((1,) * logits.ndim, logits.dtype), "logits", None)
    if any(math.isnan(n) for n in logits.shape):
        raise ValueError(
            f"logits must have chunks of known sizes, not shape {logits.shape}: "
            "call logits.compute_chunk_sizes() first"
        )
    place = options.checked_integer(axis, "axis")
    if not -logits.ndim <= place < logits.ndim:
        raise np.exceptions.AxisError(place, logits.ndim)
    return int(place % logits.ndim)


def _computed_dtype(logits: Any) -> type[np.floating[Any]]:
    return arguments.computed_dtype(np.zeros((1,) * logits.ndim, logits.dtype))


def _as_targets(targets: Any, logits: Any, given: Any, axis: int) -> Any:
    """Labels of the rows, or dense targets as they are computed with, the class axis last."""
    targets = da.asarray(targets)
    row_shape = logits.shape[:-1]
    if targets.shape not in (row_shape, given.shape):
        kind = (
            "class indices must have shape"
            if targets.dtype.kind in "iu"
            else "targets must have shape"
        )
        raise ValueError(
            f"{kind} {row_shape}, or that of the logits, {given.shape}, not {targets.shape}"
        )
    arguments.checked_targets(
        np.zeros((1,) * targets.ndim, targets.dtype),
        np.zeros((1,) * given.ndim, logits.dtype),
        (1,) * len(row_shape),
        "logits",
        axis,
    )
    if targets.shape == given.shape:
        return _moved(targets.astype(_computed_dtype(logits)), axis, -1)
    return targets


def _as_weights(given: Any, chunks: tuple[tuple[int, ...], ...], name: str) -> Any:
    weights = da.asarray(given)
    shape = tuple(sum(c) for c in chunks)
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {weights.shape}")
    arguments.checked_weights(np.ones((1,) * len(shape), weights.dtype), (1,) * len(shape), name)
    return weights.rechunk(chunks)


# --- tasks ----------------------------------------------------------------------------------------


@contextmanager
def _of_rows(rows: str) -> Iterator[None]:
    try:
        yield
    except IndexError as error:
        error.add_note(f"targets are here those of rows [{rows}]")
        raise


def _measured(
    logits: Any, targets: Any, weight: Any, *, first_class: int, rows: str, **options: Any
) -> ClassStatistics:
    with _of_rows(rows):
        return class_statistics(logits, targets, weight=weight, first_class=first_class, **options)


def _merged(parts: list[ClassStatistics]) -> ClassStatistics:
    return merge_class_statistics(parts)


def _summed(parts: list[float]) -> np.float64:
    return np.float64(math.fsum(parts))


def _weighed(statistics: ClassStatistics, sample_weight: Any) -> float:
    return mean_denominator(statistics, _flat(sample_weight))


def _settled(
    statistics: ClassStatistics,
    sample_weight: Any,
    z_loss: float,
    factor: float | None,
    shape: tuple[int, ...] | None,
) -> Any:
    """The sum of some rows' losses; with a shape, each."""
    if factor is None:
        return np.float64(math.nan)
    losses: Any = loss_from_statistics(
        statistics,
        sample_weight=_flat(sample_weight),
        z_loss=z_loss,
        reduction="sum" if shape is None else "none",
        scale=factor,
    )
    return np.float64(losses) if shape is None else losses.reshape(shape)


def _written(
    logits: Any,
    targets: Any,
    weight: Any,
    statistics: ClassStatistics,
    *,
    first_class: int,
    sample_weight: Any,
    z_loss: float,
    factor: float | None,
) -> Any:
    if factor is None:
        return np.zeros_like(logits)
    return grad_from_statistics(
        logits,
        targets,
        statistics,
        weight=weight,
        sample_weight=_flat(sample_weight),
        z_loss=z_loss,
        first_class=first_class,
        reduction="sum",
        scale=factor,
    ).grad


def _flat(sample_weight: Any) -> Any:
    return None if sample_weight is None else np.reshape(sample_weight, -1)
