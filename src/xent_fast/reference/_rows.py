"""Arrays of any shape as rows of classes, and back.

Knows: axes and shapes. Must not know: what the numbers mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """How the rows of a (rows, classes) array lie in an array of any shape."""

    shape: tuple[int, ...]
    axis: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def rows(self) -> int:
        return math.prod(self.row_shape)

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    def as_rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array of the shape, as (rows, classes)."""
        return np.moveaxis(values, self.axis, -1).reshape(self.rows, self.classes)

    def restored(self, rows: Float64Array) -> Float64Array:
        """A (rows, classes) array in the shape it came from."""
        return np.moveaxis(rows.reshape(*self.row_shape, self.classes), -1, self.axis)

    def per_row(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value a row, in the shape without the class axis."""
        return values.reshape(self.row_shape)


def rows_of(given: ArrayLike, axis: SupportsIndex, name: str) -> tuple[Float64Array, Place]:
    """An argument as float64 of shape (rows, classes), and its place."""
    values = np.asarray(given, dtype=np.float64)
    place = Place(values.shape, normalize_axis_index(axis.__index__(), values.ndim))
    if place.classes == 0 and place.rows > 0:
        raise ValueError(
            f"{name} must have at least one class along axis {place.axis}, not shape {place.shape}"
        )
    return place.as_rows(values), place


def alike(given: ArrayLike, place: Place, name: str, other: str) -> Float64Array:
    """An argument that must have the place's shape, as (rows, classes)."""
    values = np.asarray(given, dtype=np.float64)
    if values.shape != place.shape:
        raise ValueError(f"{name} must have the shape of {other} {place.shape}, not {values.shape}")
    return place.as_rows(values)


def written(
    values: Float64Array, out: NDArray[np.floating[Any]] | None
) -> NDArray[np.floating[Any]]:
    """The result itself, or `out` holding it."""
    if out is None:
        return values
    with np.errstate(over="ignore", under="ignore"):
        np.copyto(out, values, casting="same_kind")
    return out
