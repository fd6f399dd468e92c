"""Cases whose results' bits are kept in the repository; circumstances that must not reach them.

Knows numbers of classes and memory layouts; makes every input from integers alone, so that it is
the same on every machine and with every version of NumPy.
Must not know the functions and their options (functions.py), nor which bits are right: they are
compared with a record, and with each other.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xent_fast._bits.functions import (
    DTYPES,
    FUNCTIONS,
    Array,
    Batch,
    Function,
    arrays_of,
    is_half,
    swapped,
)

LABEL_TYPES = ("int64", "int32", "uint16", "int8", "uint8", "int16", "uint32", "uint64")
# On both sides of every border: a vector, rows or classes side by side, a block, a row for all
# threads.
FEW_CLASSES = (1, 2, 3, 4, 7, 8, 9, 10, 15, 16, 17, 21, 31, 32, 33, 48, 63, 64, 65, 100, 128)
MANY_CLASSES = (129, 1000, 1024, 1025, 2047, 2048, 2049, 5000)
SHARED_CLASSES = (40_000, 140_000)
LAYOUT_CLASSES = (2, 3, 10, 33, 128, 129, 2049)
CONTIGUOUS = "contiguous"
SPECIAL_ROWS = 8
# What every function is asked, and the one that is asked everything.
VARIANTS = ("plain", "every", "ignored", "grad_output", "hessian", "keepdims", "exponentials")
ASKED_EVERYTHING = "softmax_cross_entropy_grad"


def words(seed: int, count: int) -> Array:
    """64-bit numbers by Vigna's SplitMix64, the generator's state being seed and position."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed) << np.uint64(32)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def bell(seed: int, count: int, dtype: type[Any]) -> Array:
    """A bell of numbers over [-16, 16]: of 18 bits, in float64 45, so that 16 bits alone round."""
    word = words(seed, count)
    number = np.full(count, -2 * 0xFFFF, np.int64)
    for shift in (0, 16, 32, 48):
        number += (word >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64)
    if dtype == np.float64:
        low = (words(seed + 1, count) >> np.uint64(37)).astype(np.int64)
        return np.asarray((number * 2**27 + low).astype(dtype) / dtype(2**40))
    return np.asarray(number.astype(np.float32) / np.float32(2**13)).astype(dtype)


def special_rows(rows: Array) -> None:
    """Change the last rows into what goes wrong elsewhere."""
    classes, is_small = rows.shape[1], rows.dtype == np.float16
    confident, masked, nan, infinite, offset, huge, far, nothing = rows[-SPECIAL_ROWS:]
    confident[classes // 2] += 80
    masked[1::3] = -np.inf
    nan[-1] = np.nan
    infinite[classes // 3] = np.inf
    offset[:] = offset.astype(np.int64) * 8 + (20_000 if is_small else 100_000_000)
    huge[:] = -6e4 if is_small else -1e30
    huge[1::2] = 6e4 if is_small else 1e30
    far[classes // 2 + 1 :] -= 740 if rows.dtype == np.float64 else 100
    nothing[:] = -np.inf


def rows_for(classes: int) -> int:
    return 37 if classes <= 100 else 2 if classes in SHARED_CLASSES else 11


@dataclass(frozen=True)
class Case:
    """One function on one batch; `run(threads, in_place)` gives its results, rows first."""

    line: str
    classes: int
    layout: str
    run: Callable[[int | None, bool], list[Array]]

    @property
    def name(self) -> str:
        """The line of the record, and which of its batches."""
        return f"{self.line}, {self.classes} classes, {self.layout}"


def make_batch(classes: int, dtype: type[Any]) -> Batch:
    rows = rows_for(classes)
    seed = 64 * classes + 32 * (dtype == np.float64)
    logits = bell(seed, rows * classes, dtype).reshape(rows, classes)
    if rows > SPECIAL_ROWS:
        special_rows(logits)
    word = words(seed + 2, rows * classes)
    dense = np.where(word % np.uint64(5) == 0, word >> np.uint64(56), 0).astype(dtype) / dtype(256)
    label_word = words(seed + 3, rows)
    fits = [name for name in LABEL_TYPES if classes <= np.iinfo(name).max]
    labels = (label_word % np.uint64(classes)).astype(fits[classes % len(fits)])
    weights = (words(seed + 4, rows + classes) % np.uint64(10)).astype(np.float64) / 8
    other = bell(seed + 5, rows * classes, dtype).reshape(rows, classes)
    row_weights, class_weights = np.split(weights, [rows])
    no_layer = logits[:0]
    return Batch(
        logits,
        other,
        logits,
        labels,
        dense.reshape(rows, classes),
        row_weights,
        class_weights,
        *(no_layer, no_layer, no_layer),
    )


# --- layouts --------------------------------------------------------------------------------------


def _placed(values: Array, view: Array) -> Array:
    view[...] = values
    return view


def _empty(values: Array, rows: int, columns: int) -> Array:
    return np.zeros((values.shape[0] * rows, values.shape[1] * columns), values.dtype)


def _misaligned(values: Array) -> Array:
    memory = np.zeros(values.nbytes + 1, np.uint8)[1:]
    return _placed(values, memory.view(values.dtype).reshape(values.shape))


# Each takes a matrix and gives (array, class axis).
LAYOUTS: dict[str, Callable[[Array], tuple[Array, int]]] = {
    CONTIGUOUS: lambda a: (a, -1),
    "padded rows": lambda a: (_placed(a, _empty(a, 1, 2)[:, : a.shape[1]]), -1),
    "every second row": lambda a: (_placed(a, _empty(a, 2, 1)[::2]), -1),
    "last row first": lambda a: (_placed(a, np.empty_like(a)[::-1]), -1),
    "last class first": lambda a: (_placed(a, np.empty_like(a)[:, ::-1]), -1),
    "every second class": lambda a: (_placed(a, _empty(a, 1, 2)[:, ::2]), -1),
    "fortran": lambda a: (np.asfortranarray(a), -1),
    "misaligned": lambda a: (_misaligned(a), -1),
    "byte-swapped": lambda a: (swapped(a), -1),
    "classes first": lambda a: (np.ascontiguousarray(a.T), 0),
    "classes second of three": lambda a: (np.ascontiguousarray(a.T)[None], 1),
    "classes last of three": lambda a: (a[:, None], -1),
}


def _laid_out(batch: Batch, layout: str) -> Batch:
    """The batch with matrices in that layout, and labels and row weights in the shape to them."""
    axis = LAYOUTS[layout](batch.logits)[1]

    def of_rows(values: Array) -> Array:
        shapes = {"classes second of three": (1, -1), "classes last of three": (-1, 1)}
        return values.reshape(shapes.get(layout, (-1,)))

    matrices: dict[str, Any] = {
        name: LAYOUTS[layout](getattr(batch, name))[0]
        for name in ("logits", "other", "probabilities", "dense")
    }
    labels, row_weights = of_rows(batch.labels), of_rows(batch.row_weights)
    return replace(batch, labels=labels, row_weights=row_weights, axis=axis, **matrices)


def _rows_first(array: Array, batch: Batch) -> Array:
    """A result in the shape that it would have for rows one after another."""
    if array.shape == batch.logits.shape:
        return np.moveaxis(array, batch.axis, -1).reshape(-1, batch.classes)
    return array.reshape(-1) if array.size == batch.labels.size else array


# --- cases ----------------------------------------------------------------------------------------


def _case(
    function: Function,
    laid_out: Callable[[str], Batch],
    kind: str | None,
    variant: str,
    layout: str,
) -> Case:
    reductions: list[dict[str, str]] = [{}]
    if function.name == ASKED_EVERYTHING and variant != "grad_output":
        reductions = [{"reduction": name} for name in ("mean", "sum", "none")]

    def run(threads: int | None, in_place: bool) -> list[Array]:
        given = laid_out(layout)
        output = function.ways_out(variant)[-1] if in_place else "new"
        results = []
        for reduction in reductions:
            more: dict[str, Any] = {"num_threads": threads, **reduction}
            arrays = arrays_of(function.call(given, kind, variant, output, **more)())
            if function.loss_alone:
                alone = FUNCTIONS[function.loss_alone].call(given, kind, variant, **more)
                loss = arrays_of(alone())[0]
                assert canonical(loss) == canonical(arrays[0]), "loss alone"
            results += [_rows_first(array, given) for array in arrays]
        return results

    contiguous = laid_out(CONTIGUOUS)
    words = [word for word in (kind, variant) if word not in (None, "plain")]
    line = ", ".join([f"{contiguous.logits.dtype.name} {function.name}", *words])
    return Case(line, contiguous.classes, layout, run)


def _is_recorded(function: Function) -> bool:
    alone = {other.loss_alone for other in FUNCTIONS.values()}
    return function.is_compiled and function.name not in alone


def _cases_of(batch: Batch) -> Iterator[Case]:
    classes = batch.classes
    laid_out = functools.cache(functools.partial(_laid_out, batch))  # calls leave it as it is
    for function in FUNCTIONS.values():
        if not _is_recorded(function):
            continue
        for kind in function.kinds:
            for variant in function.variants(kind):
                if _is_asked(function, kind, variant, classes):
                    for layout in _layouts_of(function, variant, classes):
                        yield _case(function, laid_out, kind, variant, layout)


def _is_asked(function: Function, kind: str | None, variant: str, classes: int) -> bool:
    if classes in SHARED_CLASSES:
        return variant in ("plain", "every")
    if function.name == ASKED_EVERYTHING:
        return True
    if classes in LAYOUT_CLASSES:
        return variant in VARIANTS
    return variant == ("every" if "every" in function.variants(kind) else "plain")


def _layouts_of(function: Function, variant: str, classes: int) -> list[str]:
    asked = ("plain", "every") if function.name == ASKED_EVERYTHING else ("plain",)
    has_layouts = classes in LAYOUT_CLASSES and "axis" in function.keywords and variant in asked
    return list(LAYOUTS) if has_layouts else [CONTIGUOUS]


def all_cases(most_classes: int = max(SHARED_CLASSES)) -> Iterator[Case]:
    """Every case, in the order of the digests of its line; contiguous rows before other layouts."""
    for dtype in DTYPES:
        numbers = (*FEW_CLASSES, *MANY_CLASSES, *SHARED_CLASSES)
        for classes in LAYOUT_CLASSES if is_half(dtype) else numbers:
            if classes <= most_classes:
                yield from _cases_of(make_batch(classes, dtype))


# --- digests --------------------------------------------------------------------------------------


def canonical(array: Array) -> bytes:
    """The array's bytes, little-endian, with one NaN for all.

    Which of them an operation gives is the processor's own business.
    """
    if array.dtype.kind in "fV":
        unknown = np.isnan(array)
        if unknown.any():
            array = np.where(unknown, np.asarray(np.nan, array.dtype), array)
    if array.dtype.kind == "i":
        array = array.astype(np.int64)
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def digest(results: list[Array]) -> str:
    """The first 16 bits of the results' SHA-256, types and shapes included."""
    whole = hashlib.sha256()
    for array in results:
        kind = f"{array.dtype.kind}{array.dtype.itemsize}"
        whole.update(f"{kind} {array.shape};".encode() + canonical(array))
    return whole.hexdigest()[:4]


# What must not reach a result: (threads, in place).
CIRCUMSTANCES = ((1, True), (None, False), (3, True))


def digest_of(case: Case) -> str:
    return digest(case.run(1, False))


def circumstances_that_show(case: Case, want: str) -> list[str]:
    """Those of `CIRCUMSTANCES` under which the case gives other bits.

    None if its rows are not contiguous: a layout is a circumstance itself.
    """
    if case.layout != CONTIGUOUS:
        return []
    return [
        f"{threads} threads, {'in place' if in_place else 'out of place'}"
        for threads, in_place in CIRCUMSTANCES
        if digest(case.run(threads, in_place)) != want
    ]
