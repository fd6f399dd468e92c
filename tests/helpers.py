"""Buffers, data and comparisons that the tests share.

Knows how arrays lie in memory and how far apart two floats are.
Must not know the library under test: each test file says what is compared, and how closely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

TARGET_KINDS = ("index", "dense", "one_hot")

# Every byte outside an array under test.  As a float it is NaN and as an integer -1, so that a read
# outside shows in the result; a write outside shows in the buffer.
GUARD_BYTE = 0xFF
_MARGIN = 256
_ALIGNMENT = 64


@dataclass(frozen=True)
class Layout:
    """How a matrix lies in a buffer: `strides(rows, columns, itemsize)` in bytes, and oddities."""

    strides: Callable[[int, int, int], tuple[int, int]]
    misalignment: int = 0
    byte_swapped: bool = False
    read_only: bool = False


def _contiguous(rows: int, columns: int, itemsize: int) -> tuple[int, int]:
    return columns * itemsize, itemsize


LAYOUTS = {
    "contiguous": Layout(_contiguous),
    "padded_rows": Layout(lambda rows, columns, itemsize: ((columns + 5) * itemsize, itemsize)),
    "reversed_rows": Layout(lambda rows, columns, itemsize: (-columns * itemsize, itemsize)),
    "reversed_columns": Layout(lambda rows, columns, itemsize: (columns * itemsize, -itemsize)),
    "fortran": Layout(lambda rows, columns, itemsize: (itemsize, rows * itemsize)),
    "sliced_columns": Layout(
        lambda rows, columns, itemsize: (2 * columns * itemsize, 2 * itemsize)
    ),
    "misaligned": Layout(_contiguous, misalignment=1),
    "packed_records": Layout(
        lambda rows, columns, itemsize: (columns * itemsize + 1, itemsize), misalignment=1
    ),
    "read_only": Layout(_contiguous, read_only=True),
    "byte_swapped": Layout(_contiguous, byte_swapped=True),
}
OUTPUT_LAYOUTS = tuple(name for name, layout in LAYOUTS.items() if not layout.read_only)


class GuardedArray:
    """A copy of `values` in a given layout, inside a buffer whose every other byte is `GUARD_BYTE`.

    Attributes
    ----------
    array : ndarray
        The copy; its margins and the gaps between its rows and items are guards.
    """

    def __init__(self, values: np.ndarray, layout: str = "contiguous") -> None:
        chosen = LAYOUTS[layout]
        values = np.asarray(values)
        matrix = values if values.ndim == 2 else values[:, np.newaxis]
        dtype = matrix.dtype.newbyteorder() if chosen.byte_swapped else matrix.dtype
        strides = chosen.strides(*matrix.shape, dtype.itemsize)
        steps = [
            (length - 1) * stride
            for length, stride in zip(matrix.shape, strides, strict=True)
            if length
        ]
        first = _MARGIN + chosen.misalignment - sum(step for step in steps if step < 0)
        size = first + sum(step for step in steps if step > 0) + dtype.itemsize + _MARGIN
        self._buffer = aligned_bytes(size)
        self._buffer[:] = GUARD_BYTE
        placed = np.ndarray(matrix.shape, dtype, self._buffer, first, strides)
        placed[...] = matrix
        placed.flags.writeable = not chosen.read_only
        self.array = placed if values.ndim == 2 else placed[:, 0]
        self._outside = np.ones(size, bool)
        np.ndarray((*matrix.shape, dtype.itemsize), bool, self._outside, first, (*strides, 1)).fill(
            False
        )
        self._bytes_before = self._buffer.copy()

    def assert_guards_intact(self) -> None:
        """Nothing outside the array was written."""
        assert (self._buffer[self._outside] == GUARD_BYTE).all(), "written outside the array"

    def assert_untouched(self) -> None:
        """Neither the array nor anything outside it was written."""
        assert np.array_equal(self._buffer, self._bytes_before), "an input was written"


def aligned_bytes(size: int) -> np.ndarray:
    """`size` bytes that begin at a multiple of 64."""
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    skipped = -buffer.ctypes.data % _ALIGNMENT
    return buffer[skipped : skipped + size]


def poisoned(rows: int, classes: int, dtype: type, layout: str = "contiguous") -> GuardedArray:
    """An output full of NaN: whatever the library forgets to write stays NaN."""
    return GuardedArray(np.full((rows, classes), np.nan, dtype), layout)


def make_logits(
    rng: np.random.Generator, rows: int, classes: int, dtype: type, spread: float = 3.0
) -> np.ndarray:
    """Normal logits of standard deviation `spread`."""
    return (spread * rng.standard_normal((rows, classes))).astype(dtype)


def make_targets(
    kind: str, rng: np.random.Generator, rows: int, classes: int, dtype: type
) -> np.ndarray:
    """Random int64 labels, dense targets whose rows do not sum to 1, or labels written one-hot."""
    if kind == "dense":
        return rng.random((rows, classes)).astype(dtype)
    labels = rng.integers(0, classes, rows)
    return labels if kind == "index" else one_hot(labels, classes, dtype)


def make_problem(
    shape: tuple[int, ...], axis: int, kind: str, options: dict[str, Any], dtype: type
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Two matrices of logits, targets, and the options with weights in place of True.

    Dense targets of any row sum, or class indices, one of which is ignored; or no targets.
    """
    rng = np.random.default_rng(shape)
    row_shape = np.delete(shape, axis)
    logits, other = (4 * rng.standard_normal((2, *shape))).astype(dtype)
    options = {"axis": axis, **options}
    targets = None
    if kind == "dense":
        targets = rng.random(shape).astype(dtype)
    elif kind == "index":
        targets = np.array(rng.integers(0, shape[axis], row_shape))
        if targets.size > 1:
            options["ignore_index"] = targets.flat[1]
    if "weight" in options:
        options["weight"] = rng.random(shape[axis]).astype(dtype)
    if "sample_weight" in options:
        options["sample_weight"] = np.array(rng.random(row_shape))
    return logits, other, targets, options


def one_hot(labels: np.ndarray, classes: int, dtype: type) -> np.ndarray:
    """Labels as dense targets."""
    return (labels[:, np.newaxis] == np.arange(classes)).astype(dtype)


def effective_mass(
    targets: np.ndarray, classes: int, row_weight: np.ndarray | float = 1.0
) -> np.ndarray:
    """The mass q = a * target of every class, in double; a is `row_weight`."""
    dense = targets if targets.ndim == 2 else one_hot(targets, classes, np.float64)
    return np.reshape(row_weight, (-1, 1)) * dense.astype(np.float64)


def bits(values: np.ndarray | float) -> np.ndarray:
    """The bit patterns of floats, as unsigned integers."""
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}")


def assert_same_bits(got: np.ndarray | float, want: np.ndarray | float) -> None:
    """Equal dtype, shape and bits: tells -0 from 0 and one NaN from another."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    differs = bits(got) != bits(want)
    assert not differs.any(), f"{differs.sum()} of {differs.size} differ, first {_first(differs)}"


def spacings_apart(got: np.ndarray | float, want: np.ndarray | float, dtype: type) -> np.ndarray:
    """|got - want| in units of the spacing of `dtype` at |want|.

    0 where both are NaN or the same infinity.  Where |want| is below the smallest normal number
    the unit is the smallest subnormal.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = want.astype(dtype)
        apart = np.abs(got - want) / np.spacing(np.abs(rounded)).astype(np.float64)
    same = (got == rounded) | (np.isnan(got) & np.isnan(want))
    finite = np.isfinite(got) & np.isfinite(rounded)
    return np.where(same & ~finite, 0.0, np.where(finite, apart, np.inf))


def assert_within_spacings(
    got: np.ndarray | float, want: np.ndarray | float, dtype: type, limit: float
) -> None:
    """Every entry is at most `limit` spacings of `dtype` away; NaN and infinities must agree."""
    apart = spacings_apart(got, want, dtype)
    far = ~(apart <= limit)
    assert not far.any(), (
        f"{far.sum()} of {far.size} beyond {limit} spacings, worst {apart.max()}, first "
        f"{_first(far)}: {np.asarray(got)[_first(far)]!r} for {np.asarray(want)[_first(far)]!r}"
    )


def assert_within(
    got: np.ndarray | float, want: np.ndarray | float, tolerance: np.ndarray | float
) -> None:
    """Every entry is at most `tolerance` away, which may differ from entry to entry."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    far = ~(np.abs(got - want) <= tolerance)
    assert not far.any(), (
        f"{far.sum()} of {far.size} too far, first {_first(far)}: {got[_first(far)]!r} for "
        f"{want[_first(far)]!r}, tolerance {np.broadcast_to(tolerance, far.shape)[_first(far)]!r}"
    )


def _first(condition: np.ndarray) -> tuple[int, ...]:
    """Index of the first true entry."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(condition), condition.shape))


# For a program in Linux: the most bytes that were resident. What `resource` says of a process
# begins with the process that has started it.
PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""
