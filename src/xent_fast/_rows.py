"""Logits of any shape as blocks of rows, for the functions that are NumPy operations on blocks.

Knows: NumPy's arrays, the words of complaints about them, what weighs a row, and how the softmax of
a block comes out of the compiled gradient. Must not know: what is made of a block.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.lib.array_utils import byte_bounds, normalize_axis_index
from numpy.typing import ArrayLike, NDArray

from xent_fast._loss import softmax_cross_entropy_grad

FloatArray = NDArray[np.floating[Any]]

# About this many logits a block, so that a handful of temporaries stays in a core's own cache.
BLOCK_LOGITS = 2**16

# --- arrays as rows -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """How the rows of a (rows, classes) matrix lie in an array of any shape."""

    shape: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, array: NDArray[Any], axis: SupportsIndex) -> Self:
        """The place of an array's rows along an axis as given."""
        return cls(array.shape, normalize_axis_index(axis.__index__(), array.ndim))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def rows(self) -> int:
        """Their number."""
        return math.prod(self.row_shape)

    @property
    def classes(self) -> int:
        """Length of a row."""
        return self.shape[self.axis]

    def as_rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the shape as (rows, classes): a view where strides can say it."""
        return np.moveaxis(array, self.axis, -1).reshape(self.rows, self.classes)

    def blocks(self) -> Iterator[slice]:
        """The rows, in ranges of about BLOCK_LOGITS logits."""
        rows_per_block = max(BLOCK_LOGITS // max(self.classes, 1), 1)
        for first_row in range(0, self.rows, rows_per_block):
            yield slice(first_row, min(first_row + rows_per_block, self.rows))


def as_alike(given: ArrayLike, place: Place, name: str, other: str) -> NDArray[Any]:
    """An array of real numbers that must have the logits' shape."""
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array")
    values = np.asarray(given)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, not {values.dtype}")
    if values.shape != place.shape:
        raise ValueError(f"{name} must have the shape of {other} {place.shape}, not {values.shape}")
    return values


# --- where the result goes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Destination:
    """A result of the logits' shape and dtype, and its rows, which may have to be copied there."""

    place: Place
    result: FloatArray
    rows: FloatArray

    @classmethod
    def of(cls, out: FloatArray | None, logits: FloatArray, place: Place) -> Self:
        """In `out`, which has been checked, or in a new array."""
        if out is None:
            out = np.empty(logits.shape, dtype=logits.dtype.newbyteorder("="))
        return cls(place, out, place.as_rows(np.asarray(out)))

    def filled_with_zeros(self) -> FloatArray:
        """The result, 0 throughout."""
        self.result[...] = 0.0
        return self.result

    def finished(self) -> FloatArray:
        """The result, once all rows have been written."""
        if self.rows.size and not np.may_share_memory(self.rows, self.result):
            moved = np.moveaxis(self.result, self.place.axis, -1)
            moved[...] = self.rows.reshape(moved.shape)
        return self.result


def check_destination(
    out: object,
    given_logits: ArrayLike,
    targets: ArrayLike | None,
    same_or_apart: dict[str, NDArray[Any]],
) -> None:
    """Raise if `out` is no safe place for the result.

    Every array of `same_or_apart`, the logits first, is read block by block while `out` is written:
    it must lie in `out` entry by entry or outside of it.
    """
    if out is None:
        return
    name, logits = next(iter(same_or_apart.items()))
    if not isinstance(given_logits, np.ndarray):
        kind = type(given_logits).__name__
        raise TypeError(f"{name} must be an ndarray where out is given, not {kind}")
    if isinstance(out, np.ma.MaskedArray):
        raise TypeError("out must not be a masked array")
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
    if out.dtype.type is not logits.dtype.type:
        raise TypeError(f"out must have the logits' dtype {logits.dtype}, not {out.dtype}")
    if out.shape != logits.shape:
        raise ValueError(f"out must have the logits' shape {logits.shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError("output array is read-only (out)")
    if _may_overlap_itself(out):
        raise ValueError(f"out overlaps itself: shape {out.shape}, strides {out.strides}")
    for name, values in same_or_apart.items():
        if not _is_same_memory(out, values) and np.shares_memory(out, values):
            raise ValueError(f"out overlaps {name}; it must be {name} or share no memory with them")
    if isinstance(targets, np.ndarray) and np.shares_memory(out, targets):
        raise ValueError("out shares memory with targets")


def _may_overlap_itself(array: NDArray[Any]) -> bool:
    """Whether two entries may share bytes: an axis that steps inside what smaller steps span."""
    if array.size <= 1:
        return False
    reach = array.itemsize
    for step, length in sorted(
        (abs(step), length)
        for step, length in zip(array.strides, array.shape, strict=True)
        if length > 1
    ):
        if step < reach:
            return True
        reach += step * (length - 1)
    return False


def _is_same_memory(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays of one shape have the same bytes for every entry."""
    return (
        byte_bounds(first) == byte_bounds(second)
        and first.ctypes.data == second.ctypes.data
        and first.dtype == second.dtype
        and all(
            length <= 1 or step == other_step
            for length, step, other_step in zip(
                first.shape, first.strides, second.strides, strict=True
            )
        )
    )


# --- what weighs a row ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RowWeights:
    """Targets and weights of arguments that have been checked, as rows.

    `targets`, if any, are labels (rows,) or dense (rows, classes). `row_weight` is a: scale times
    sample weight, over the mean's denominator. `counted` is False for ignored rows. `is_void`: the
    denominator is 0. Nothing here but dense targets shares memory with an argument.
    """

    targets: NDArray[Any] | None
    class_weight: FloatArray | None
    row_weight: NDArray[np.float64]
    counted: NDArray[np.bool_]
    is_void: bool

    @classmethod
    def of(
        cls,
        logits: FloatArray,
        place: Place,
        targets: ArrayLike | None,
        weight: ArrayLike | None,
        sample_weight: ArrayLike | None,
        ignore_index: SupportsIndex | None,
        reduction: str,
        scale: float,
    ) -> Self:
        """The denominator is that of `xent_fast.softmax_cross_entropy`."""
        class_weight = None if weight is None else np.array(weight, logits.dtype.type)
        row_weight = np.ones(place.rows)
        if sample_weight is not None:
            row_weight = np.array(sample_weight, np.float64).reshape(place.rows)
        counted = np.ones(place.rows, dtype=np.bool_)
        weight_in_mean = row_weight
        rows_of_targets: NDArray[Any] | None = None
        if targets is not None:
            given_targets = np.asarray(targets)
            if given_targets.dtype.kind == "f" and given_targets.ndim == len(place.shape):
                rows_of_targets = place.as_rows(given_targets)
            else:
                rows_of_targets = given_targets.reshape(place.rows)
                if ignore_index is not None:
                    counted = np.asarray(rows_of_targets != ignore_index.__index__())
                rows_of_targets = np.where(counted, rows_of_targets, 0).astype(np.intp)
                if class_weight is not None and place.rows:
                    weight_in_mean = row_weight * class_weight[rows_of_targets]
        denominator = float(weight_in_mean[counted].sum()) if reduction == "mean" else 1.0
        is_void = denominator == 0
        if not is_void:
            row_weight = row_weight * (float(scale) / denominator)
        return cls(rows_of_targets, class_weight, row_weight, counted, is_void)


# --- the softmax of a block -----------------------------------------------------------------------


@dataclass(frozen=True)
class SoftmaxBlock:
    """The softmax p of x / T for a block of rows, every number accurate relative to itself.

    probabilities : p, of shape (rows, classes)
    largest : class of each row's first largest logit, as of all below of shape (rows, 1)
    one_minus_largest : 1 - p there
    log_sum : log sum exp((x - max x) / T)
    """

    probabilities: FloatArray
    largest: NDArray[np.intp]
    one_minus_largest: FloatArray
    log_sum: FloatArray

    @classmethod
    def of(cls, x: FloatArray, temperature: float, num_threads: SupportsIndex | None) -> Self:
        """By the gradient p - t and the loss log_sum of the target at the largest logit.

        The gradient is p but at the target, where it is -(1 - p); there p = exp(-log_sum). A row
        without a softmax is NaN throughout.
        """
        largest = x.argmax(axis=1)
        loss, p = softmax_cross_entropy_grad(
            x,
            largest,
            temperature=temperature,
            scale=temperature,  # times 1 / T, which a gradient with respect to x has
            reduction="none",
            num_threads=num_threads,
        )
        log_sum = loss / temperature
        rows = np.arange(len(x))
        one_minus_largest = -p[rows, largest]
        p[rows, largest] = np.exp(-log_sum)
        return cls(
            p,
            largest[:, np.newaxis],
            one_minus_largest[:, np.newaxis],
            log_sum[:, np.newaxis],
        )


def as_column(values: NDArray[np.float64], dtype: np.dtype[Any]) -> FloatArray:
    """One number a row as (rows, 1) in a dtype, or in double where the dtype cannot hold them."""
    narrow = values.astype(dtype.newbyteorder("="))
    fits = np.array_equal(np.isfinite(narrow), np.isfinite(values))
    return (narrow if fits else values)[:, np.newaxis]
