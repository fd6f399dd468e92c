"""What ranges of classes say of each row, and which ranges go together.

Knows: the layout of statistics, that ranges lie side by side.
Must not know: the mathematics; logits; how statistics travel from one process to another.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import class_calls

Float64Array = NDArray[np.float64]

LAYOUT_VERSION = 1
HEADER = 8
MOST_CLASSES = 1 << 53  # beyond it doubles are not all the integers
BLOCK_BYTES = 8192  # of logits as computed
BLOCK_MAXIMUM = 1  # of a block's numbers the one that is its largest logit


@dataclass(frozen=True)
class ClassStatistics:
    """What ranges of classes, side by side, say of each row: a few doubles for 2,048 classes.

    Made by `class_statistics` and `merge_class_statistics`, used by `loss_from_statistics` and
    `grad_from_statistics`. To send it, send `array`, and make it again by `from_array`; or pickle
    it.

    Attributes
    ----------
    array : ndarray of shape (1 + rows, doubles), float64
        Everything. Row 0: the layout's version, kind of targets, bytes of a logit as computed (4
        for 16 bits), temperature, label smoothing, number of classes (-1 if not known), 1 where
        there are class weights (-1: a negative one among them), the number of ranges, and first
        class and end of each. The rows after that hold 4 doubles (targets in these ranges or -1 for
        an ignored row, target's logit, its weight, its class), and 10 for each block of 2,048
        classes (float64 logits: 1,024).
    """

    array: Float64Array

    @classmethod
    def from_array(cls, array: ArrayLike) -> "ClassStatistics":
        """Statistics from their `array`.

        Parameters
        ----------
        array : array_like of float64
            As the attribute `array`.

        Returns
        -------
        ClassStatistics
            The same again.

        Raises
        ------
        ValueError
            If it is no such array.
        """
        values = np.ascontiguousarray(array, dtype=np.float64)
        if values.ndim != 2 or len(values) < 1 or values.shape[1] < HEADER + 2:
            raise ValueError(f"array of shape {values.shape} holds no class statistics")
        if values[0, 0] != LAYOUT_VERSION:
            raise ValueError(f"array holds no class statistics of layout {LAYOUT_VERSION}")
        _check_options(values[0])
        _check_ranges(values[0])
        statistics = cls(values)
        if values.shape[1] != _width(blocks_of(statistics), len(statistics.ranges)):
            raise ValueError(f"array of shape {values.shape} does not fit its own header")
        here = values[1:, class_calls.TARGETS_HERE]
        if not np.isin(here, (-1, 0, 1)).all():
            raise ValueError("array holds no class statistics: a row has not -1, 0 or 1 targets")
        return statistics

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """First class and end of each range."""
        count = int(self.array[0, 7])
        bounds = self.array[0, HEADER : HEADER + 2 * count].astype(np.int64).tolist()
        return tuple(zip(bounds[::2], bounds[1::2], strict=True))

    @property
    def classes(self) -> range:
        """The classes of all its ranges."""
        return range(self.ranges[0][0], self.ranges[-1][1])

    @property
    def num_classes(self) -> int | None:
        """The number of classes that there are in all, if that was given."""
        known = int(self.array[0, 5])
        return None if known < 0 else known

    @property
    def dtype(self) -> np.dtype[Any]:
        """The logits' dtype, or float32 where that has 16 bits."""
        return np.dtype(np.float32 if self.array[0, 2] == 4 else np.float64)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.array) - 1


def _check_options(header: Float64Array) -> None:
    """Complain of options that `class_statistics` does not write."""
    kind, itemsize, temperature, smoothing, _, sign = header[1:7].tolist()
    kinds = [class_calls.target_kind(dense, smoothing, sign != 0) for dense in (False, True)]
    for name, value, is_right in (
        ("bytes of a logit", itemsize, itemsize in (4, 8)),
        ("temperature", temperature, 0 < temperature < np.inf),
        ("label smoothing", smoothing, 0 <= smoothing <= 1),
        ("mark of class weights", sign, sign in (-1, 0, 1)),
        ("kind of targets", kind, kind in kinds),
    ):
        if not is_right:
            raise ValueError(f"array holds no class statistics: {name} {value:g}")


def _check_ranges(header: Float64Array) -> None:
    """Complain of ranges that do not lie side by side, and of more than there is room for."""
    total, count = header[5], header[7]
    if count not in range(1, (len(header) - HEADER) // 2 + 1):
        raise ValueError(f"array holds no class statistics: {count:g} ranges")
    bounds = header[HEADER : HEADER + 2 * int(count)]
    if not (
        bounds[0] >= 0
        and bounds[-1] < MOST_CLASSES
        and (bounds[1:] >= bounds[:-1]).all()
        and (bounds[1:-1:2] == bounds[2::2]).all()
        and (bounds == np.floor(bounds)).all()
    ):
        raise ValueError(f"array holds no class statistics: no ranges side by side, {bounds}")
    if total != -1 and not (bounds[-1] <= total < MOST_CLASSES and total == np.floor(total)):
        raise ValueError(f"array holds no class statistics: number of classes {total:g}")


class Options(NamedTuple):
    """What all ranges must have in common: members of the array's first row."""

    kind: int  # of targets
    itemsize: int
    temperature: float
    label_smoothing: float
    has_class_weight: bool


def options_of(statistics: ClassStatistics) -> Options:
    """The options that statistics were taken with."""
    kind, itemsize, temperature, label_smoothing, _, sign = statistics.array[0, 1:7].tolist()
    return Options(int(kind), int(itemsize), temperature, label_smoothing, sign != 0)


def has_negative_weight(statistics: ClassStatistics) -> bool:
    """Whether a class weight is negative."""
    return bool(statistics.array[0, 6] < 0)


def has_class_indices(statistics: ClassStatistics) -> bool:
    """Whether targets were class indices."""
    options = options_of(statistics)
    smoothing, has_weight = options.label_smoothing, options.has_class_weight
    return options.kind == class_calls.target_kind(False, smoothing, has_weight)


def values_of(statistics: ClassStatistics) -> Float64Array:
    """The rows' numbers."""
    return statistics.array[1:]


def blocks_of(statistics: ClassStatistics) -> list[int]:
    """The number of blocks of each range."""
    dtype = statistics.dtype.type
    return [class_calls.class_block_count(dtype, end - start) for start, end in statistics.ranges]


def largest_logits(
    statistics: ClassStatistics, bounds: tuple[int, int]
) -> tuple[int, Float64Array]:
    """How many of a range's classes are its first block; each row's largest logit there."""
    block = sum(blocks_of(statistics)[: statistics.ranges.index(bounds)])
    at = class_calls.ROW_STATISTICS + class_calls.BLOCK_STATISTICS * block + BLOCK_MAXIMUM
    return BLOCK_BYTES // statistics.dtype.itemsize, values_of(statistics)[:, at]


def empty_statistics(
    rows: int,
    bounds: tuple[int, int],
    options: Options,
    num_classes: int | None,
    weight: NDArray[np.floating[Any]] | None,
) -> ClassStatistics:
    """Those of one range, from its first class to its end, with zeros for its rows' numbers.

    `options` are what it has in common with the others, `weight` its own class weights.
    """
    start, end = bounds
    dtype = np.float32 if options.itemsize == 4 else np.float64
    blocks = [class_calls.class_block_count(dtype, end - start)]
    array = np.zeros((1 + rows, _width(blocks, 1)))
    total = -1 if num_classes is None else num_classes
    sign = 0 if weight is None else -1 if (weight < 0).any() else 1
    array[0, : HEADER + 2] = (LAYOUT_VERSION, *options[:4], total, sign, 1, start, end)
    return ClassStatistics(array)


def without_rows(header: Float64Array) -> ClassStatistics:
    """Those of one range, from what their array begins with: what they say of no rows at all."""
    blocks = blocks_of(ClassStatistics(header[None]))
    array = np.zeros((1, _width(blocks, 1)))
    array[0, : HEADER + 2] = header
    return ClassStatistics(array)


def most_numbers(rows: int, ranges: int, num_classes: int) -> int:
    """How many numbers the arrays of so many ranges can have together."""
    blocks = num_classes * np.dtype(np.float64).itemsize // BLOCK_BYTES + ranges
    return (1 + rows) * ((HEADER + 2) * ranges + class_calls.BLOCK_STATISTICS * blocks)


def _width(blocks: list[int], ranges: int) -> int:
    needed = class_calls.ROW_STATISTICS + class_calls.BLOCK_STATISTICS * sum(blocks)
    return max(needed, HEADER + 2 * ranges)


def merge_class_statistics(statistics: Iterable[ClassStatistics]) -> ClassStatistics:
    """The statistics of several ranges of classes together.

    What all ranges say side by side is as good as whole rows: the loss follows from it, and with
    its logits each range's gradient.

    Parameters
    ----------
    statistics : iterable of ClassStatistics
        Of ranges that lie side by side, in any order, with the same rows and options.

    Returns
    -------
    ClassStatistics
        Of all their classes.

    Raises
    ------
    TypeError
        If one is no `ClassStatistics`.
    ValueError
        If there is none, ranges overlap or leave classes out, or rows, class indices or options
        differ.

    See Also
    --------
    class_statistics : Those of one range, with an example.

    Notes
    -----
    Nothing is rounded: the ranges' numbers are laid side by side, so that merging in any order and
    in any tree gives the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import class_statistics, merge_class_statistics
    >>> parts = [
    ...     class_statistics(np.zeros((2, 3)), [0, 4], first_class=first) for first in (0, 3)
    ... ]
    >>> merge_class_statistics(parts).classes
    range(0, 6)
    """
    parts = list(statistics)
    for part in parts:
        if not isinstance(part, ClassStatistics):
            raise TypeError(f"statistics must be ClassStatistics, not {type(part).__name__}")
    if not parts:
        raise ValueError("there are no statistics to merge")
    parts.sort(key=lambda part: (part.classes.start, part.classes.stop))
    first = parts[0]
    for before, after in itertools.pairwise(parts):
        if before.classes.stop != after.classes.start:
            what = "overlap" if before.classes.stop > after.classes.start else "leave classes out"
            raise ValueError(
                f"the ranges of classes [{before.classes.start}, {before.classes.stop}) and "
                f"[{after.classes.start}, {after.classes.stop}) {what}"
            )
    totals = {part.num_classes for part in parts} - {None}
    for part in parts[1:]:
        if options_of(part) != options_of(first) or len(totals) > 1:
            raise ValueError(
                f"the statistics of classes [{part.classes.start}, {part.classes.stop}) were taken "
                f"with other options than those of [{first.classes.start}, {first.classes.stop})"
            )
        if part.rows != first.rows:
            raise ValueError(f"the statistics are of {first.rows} and of {part.rows} rows")
    ranges = [bounds for part in parts for bounds in part.ranges]
    blocks = [count for part in parts for count in blocks_of(part)]
    array = np.zeros((1 + first.rows, _width(blocks, len(ranges))))
    array[0, :HEADER] = first.array[0, :HEADER]
    array[0, 5] = max(part.array[0, 5] for part in parts)
    array[0, 6] = min(part.array[0, 6] for part in parts)
    array[0, 7] = len(ranges)
    array[0, HEADER : HEADER + 2 * len(ranges)] = np.ravel(ranges)
    rows = array[1:]
    _merge_rows(rows, parts)
    at = class_calls.ROW_STATISTICS
    for part in parts:
        count = class_calls.BLOCK_STATISTICS * sum(blocks_of(part))
        rows[:, at : at + count] = values_of(part)[:, class_calls.ROW_STATISTICS :][:, :count]
        at += count
    return ClassStatistics(array)


def _merge_rows(rows: Float64Array, parts: list[ClassStatistics]) -> None:
    """What the ranges say of the targets: at most one of them has each."""
    here = np.stack([values_of(part)[:, class_calls.TARGETS_HERE] for part in parts])
    labels = np.stack([values_of(part)[:, class_calls.TARGET_CLASS] for part in parts])
    if (labels != labels[0]).any() or ((here < 0) != (here[0] < 0)).any():
        row = int(np.flatnonzero(((labels != labels[0]) | ((here < 0) != (here[0] < 0))).any(0))[0])
        raise ValueError(f"the ranges were given different class indices in row {row}")
    for column in (class_calls.TARGET_LOGIT, class_calls.TARGET_WEIGHT):
        rows[:, column] = 0
        for part, has_target in zip(parts, here > 0, strict=True):
            np.copyto(rows[:, column], values_of(part)[:, column], where=has_target)
    rows[:, class_calls.TARGETS_HERE] = here.max(axis=0)
    rows[:, class_calls.TARGET_CLASS] = labels[0]
