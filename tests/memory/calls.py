"""Every call of the register over arrays in many layouts: what the checks of memory repeat.

Knows: the ways in which arrays may lie in memory.
Must not know: the functions and their options (xent_fast._bits.functions), nor what is checked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xent_fast._bits.functions import FUNCTIONS, OUTPUTS, Batch, Call, Function, arrays_of, swapped

__all__ = ["LAYOUTS", "OUTPUTS", "Call", "arrays_of", "every_call"]

LAYOUTS = ("rows", "padded", "reversed", "fortran", "byte_swapped", "axis_1", "axis_0_of_3")
# Options that are numbers, and allocate nothing: asked of one layout.
NUMBERS = ("temperature", "z_loss", "scale", "label_smoothing", "hessian")
FEATURES = 3


def every_call(
    rows: int, classes: int, layouts: tuple[str, ...] = LAYOUTS, dtype: type = np.float32
) -> Iterator[Call]:
    """Every public function with every layout, output and option that changes what it allocates."""
    for layout in layouts:
        batch = make_batch(rows, classes, layout, dtype)
        for function in FUNCTIONS.values():
            if "axis" in function.keywords:
                yield from calls_of(function, batch, layout)
    batch = make_batch(rows, classes, "rows", dtype)
    for function in FUNCTIONS.values():
        if function.given and "axis" not in function.keywords:
            yield from calls_of(function, batch, "rows")


def calls_of(function: Function, batch: Batch, layout: str) -> Iterator[Call]:
    """One function's, over arrays that no two calls share."""
    for kind in function.kinds:
        variants = function.variants(kind)
        for variant in variants if layout == "rows" else [v for v in variants if v not in NUMBERS]:
            for output in function.ways_out(variant):
                # what is written in place are probabilities again, for a second call
                is_overwritten = function.given[0] == "probabilities" and output == "in place"
                more = {"scale": 0.0} if is_overwritten else {}
                yield function.call(batch, kind, variant, output, layout=layout, **more)


def make_batch(rows: int, classes: int, layout: str, dtype: type) -> Batch:
    """Random arrays in one layout."""
    rng = np.random.default_rng(classes)
    axis = {"axis_1": 1, "axis_0_of_3": 0}.get(layout, -1)
    shape = {
        "axis_1": (rows // 2, classes, 2),
        "axis_0_of_3": (classes, rows // 2, 2),
    }.get(layout, (rows, classes))
    row_shape = tuple(np.delete(shape, axis))

    def numbers(*shape: int) -> np.ndarray:
        return laid_out(rng.standard_normal(shape).astype(dtype), layout)

    def probabilities() -> np.ndarray:
        e = np.exp(rng.standard_normal(shape))
        return laid_out((e / e.sum(axis=axis, keepdims=True)).astype(dtype), layout)

    return Batch(
        logits=numbers(*shape),
        other=numbers(*shape),
        probabilities=probabilities(),
        labels=rng.integers(0, classes, row_shape),
        dense=probabilities(),
        row_weights=rng.random(row_shape) + 0.5,
        class_weights=rng.random(classes) + 0.5,
        hidden=rng.standard_normal((rows, FEATURES)).astype(dtype),
        layer=rng.standard_normal((classes, FEATURES)).astype(dtype),
        bias=rng.standard_normal(classes).astype(dtype),
        axis=axis,
        copied=lambda array: laid_out(array, layout),
    )


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """A copy; arrays of other dimensions than the layout's are merely copied."""
    if layout == "fortran":
        return np.array(values, order="F")
    if layout == "byte_swapped":
        return swapped(values)
    if layout == "reversed":
        return values[::-1].copy()[::-1]
    if layout == "padded" and values.ndim == 2:
        return np.pad(values, ((0, 0), (0, 3)))[:, : values.shape[1]]
    return values.copy()
