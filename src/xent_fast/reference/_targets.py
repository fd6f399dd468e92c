"""Targets and options as mass and weight.

Knows: labels, dense targets, weights, label smoothing, reductions. Must not know: logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast.reference._rows import (
    BoolArray,
    Float64Array,
    Place,
)


@dataclass(frozen=True)
class Targets:
    """Targets and options of a call.

    `mass` is q for the row weight 1, and 0 in the rows that do not count; `row_weight` is a.
    `target_class` is what a prediction must be. `is_void`: the mean has the denominator 0.
    """

    place: Place
    reduction: str
    mass: Float64Array
    row_weight: Float64Array
    counted: BoolArray
    target_class: NDArray[np.intp]
    is_void: bool

    def reduced(
        self, row_loss: Float64Array, is_defined: BoolArray | None = None
    ) -> float | Float64Array:
        """The loss of rows that are weighted already."""
        row_loss = self._settled(row_loss, is_defined)
        if self.reduction == "none":
            return self.place.per_row(row_loss)
        return math.nan if self.is_void else float(row_loss.sum())

    def finished(self, grad: Float64Array, is_defined: BoolArray | None = None) -> Float64Array:
        """A gradient: nothing comes from a mean without a denominator, not even NaN."""
        return np.zeros_like(grad) if self.is_void else self._settled(grad, is_defined)

    def _settled(self, values: Float64Array, is_defined: BoolArray | None) -> Float64Array:
        """NaN in rows without a softmax, 0 in rows that do not count."""
        if is_defined is not None:
            values[~is_defined] = np.nan
        values[~self.counted] = 0.0
        return values


def targets_of(
    place: Place,
    targets: ArrayLike | None,
    weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    ignore_index: SupportsIndex | None,
    label_smoothing: float,
    reduction: str,
    scale: float,
) -> Targets:
    """Mass and weight of every row; without targets no class has any mass."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    scale, label_smoothing = number(scale, "scale"), number(label_smoothing, "label_smoothing")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], not {label_smoothing}")
    class_weight = weights(weight, (place.classes,), "weight")
    a = weights(sample_weight, place.row_shape, "sample_weight").reshape(place.rows)

    if reduction == "mean":  # which divides by them again: without them no sum overflows
        a = without_power(a)

    counted = np.ones(place.rows, dtype=bool)
    if targets is None or np.ndim(targets) == len(place.shape):
        if ignore_index is not None:
            raise ValueError("ignore_index needs targets that are class indices")
        mass, target_class = _dense_mass(targets, place, class_weight, label_smoothing)
        count = a
        factors = [("sample_weight", a)]
    else:
        labels, counted = labels_of(np.asarray(targets), place, ignore_index)
        mass = _index_mass(labels, counted, class_weight, label_smoothing)
        target_class = labels
        count = (a * class_weight[labels])[counted] if place.rows else a
        factors = [("sample_weight", a), ("weight", class_weight)]

    for name, factor in factors if reduction == "mean" else ():
        if (factor < 0).any():
            raise ValueError(f"{name} must not be negative where reduction is 'mean'")
    denominator = float(count.sum()) if reduction == "mean" else 1.0
    is_void = denominator == 0
    weight_factor = 0.0
    if not is_void:  # beside an infinite weight it is inf / inf
        weight_factor = scale / denominator if np.isfinite(denominator) else np.nan
    row_weight = a * weight_factor
    return Targets(place, reduction, mass, row_weight, counted, target_class, is_void)


def without_power(values: Float64Array) -> Float64Array:
    """Over the power of two next to the largest magnitude."""
    exponent = np.frexp(np.abs(values).max(initial=0.0))[1]
    result: Float64Array = np.ldexp(values, -exponent)
    return result


def weights(given: ArrayLike | None, shape: tuple[int, ...], name: str) -> Float64Array:
    """Weights of a given shape, 1 by default."""
    weights = np.ones(shape) if given is None else np.asarray(given, dtype=np.float64)
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {weights.shape}")
    return weights


def _dense_mass(
    targets: ArrayLike | None, place: Place, class_weight: Float64Array, smoothing: float
) -> tuple[Float64Array, NDArray[np.intp]]:
    """w ((1 - E) t + E / C), and the class of the first largest target."""
    if targets is None:
        return np.zeros((place.rows, place.classes)), np.zeros(place.rows, dtype=np.intp)
    if np.shape(targets) != place.shape:
        raise ValueError(
            f"dense targets must have the logits' shape {place.shape}, not {np.shape(targets)}"
        )
    if len(place.shape) == 1 and np.asarray(targets).dtype.kind in "iub":
        raise TypeError("dense targets of one-dimensional logits must be floating-point")
    t = place.as_rows(np.asarray(targets, dtype=np.float64))
    mass = class_weight * ((1 - smoothing) * t + smoothing / max(place.classes, 1))
    return mass, t.argmax(axis=1) if place.rows else np.zeros(0, dtype=np.intp)


def _index_mass(
    labels: NDArray[np.intp], counted: BoolArray, class_weight: Float64Array, smoothing: float
) -> Float64Array:
    """(1 - E) w_y at y, and E / C w everywhere; 0 in a row that does not count."""
    rows, classes = len(labels), len(class_weight)
    mass = np.zeros((rows, classes))
    if rows and smoothing:
        mass += class_weight * (smoothing / classes)
    if rows:
        mass[np.arange(rows), labels] += (1 - smoothing) * class_weight[labels]
    mass[~counted] = 0.0
    return mass


def labels_of(
    targets: NDArray[Any], place: Place, ignore_index: SupportsIndex | None
) -> tuple[NDArray[np.intp], BoolArray]:
    """Every row's class index, 0 where it does not count, and which rows count."""
    if targets.shape != place.row_shape:
        raise ValueError(
            f"targets must have shape {place.row_shape} or {place.shape}, not {targets.shape}"
        )
    counted = np.ones(targets.shape, dtype=bool)
    if ignore_index is not None:
        counted = np.asarray(targets != int(ignore_index))
    out_of_bounds = counted & ((targets < 0) | (targets >= place.classes))
    if out_of_bounds.any():
        position = tuple(int(i) for i in np.argwhere(out_of_bounds)[0])
        where = ", ".join(map(str, position)) or "()"
        raise IndexError(
            f"index {targets[position]} is out of bounds for axis {place.axis} "
            f"with size {place.classes} (targets[{where}])"
        )
    labels = np.where(counted, targets, 0).astype(np.intp)
    return labels.reshape(place.rows), counted.reshape(place.rows)


def number(given: float, name: str) -> float:
    """A float of any real number: float32 beside a Python number would make float32 of both."""
    try:
        return float(given)
    except OverflowError:
        raise ValueError(f"{name} is too large for a float") from None


def upstream(place: Place, given: ArrayLike | None, reduction: str) -> Float64Array:
    """`grad_output` of every row: what its gradient is multiplied with."""
    if given is None or np.ndim(given) == 0:
        return np.full(place.rows, 1.0 if given is None else np.asarray(given, dtype=np.float64))
    if reduction != "none":
        raise ValueError("grad_output must be a number where reduction is 'mean' or 'sum'")
    return weights(given, place.row_shape, "grad_output").reshape(place.rows)


def temperature_of(given: float) -> float:
    temperature = number(given, "temperature")
    if not 2**-124 <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and at least 2**-124, not {temperature}")
    return temperature
