"""Cases whose results' bits are kept in the repository; circumstances that must not reach them.

Knows the public functions that are compiled, their options, memory layouts; makes every input from
integers alone, so that it is the same on every machine and with every version of NumPy.
Must not know which bits are right: they are compared with a record, and with each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xent_fast

Array = NDArray[Any]
DTYPES: tuple[type[Any], ...] = (np.float32, np.float64)
LABEL_TYPES = ("int64", "int32", "uint16", "int8", "uint8", "int16", "uint32", "uint64")
# On both sides of every border: a vector, rows or classes side by side, a block, a row for all
# threads.
FEW_CLASSES = (1, 2, 3, 4, 7, 8, 9, 10, 15, 16, 17, 21, 31, 32, 33, 48, 63, 64, 65, 100)
MANY_CLASSES = (127, 1000, 1024, 1025, 2047, 2048, 2049, 5000)
SHARED_CLASSES = (40_000, 140_000)
LAYOUT_CLASSES = (2, 3, 10, 32, 33, 100, 2049)
SPECIAL_ROWS = 8
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "statistics": {"return_statistics": True},
    "sample_weight": {"sample_weight": True},
    "weight": {"weight": True},
    "label_smoothing": {"label_smoothing": 0.125},
    "temperature": {"temperature": 1.7},
    "z_loss": {"z_loss": 0.01},
    "scale": {"scale": 0.37e-30},
    "every": {
        "sample_weight": True,
        "weight": True,
        "label_smoothing": 0.125,
        "temperature": 0.3,
        "z_loss": -0.01,
        "scale": 3.7,
        "return_statistics": True,
    },
}


def words(seed: int, count: int) -> Array:
    """64-bit numbers by Vigna's SplitMix64, the generator's state being seed and position."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed) << np.uint64(32)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def bell(seed: int, count: int, dtype: type[Any]) -> Array:
    """A bell of numbers over [-16, 16]: 18 bits each, in float64 45, so that none is rounded."""
    word = words(seed, count)
    number = np.full(count, -2 * 0xFFFF, np.int64)
    for shift in (0, 16, 32, 48):
        number += (word >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64)
    if dtype == np.float32:
        return np.asarray(number.astype(dtype) / dtype(2**13))
    low = (words(seed + 1, count) >> np.uint64(37)).astype(np.int64)
    return np.asarray((number * 2**27 + low).astype(dtype) / dtype(2**40))


def special_rows(rows: Array) -> None:
    """Change the last rows into what goes wrong elsewhere."""
    classes = rows.shape[1]
    confident, masked, nan, infinite, offset, huge, far, nothing = rows[-SPECIAL_ROWS:]
    confident[classes // 2] += 80
    masked[1::3] = -np.inf
    nan[-1] = np.nan
    infinite[classes // 3] = np.inf
    offset[:] = offset.astype(np.int64) * 8 + 100_000_000
    huge[:] = -1e30
    huge[1::2] = 1e30
    far[classes // 2 + 1 :] -= 100 if rows.dtype == np.float32 else 740
    nothing[:] = -np.inf


def rows_for(classes: int) -> int:
    return 37 if classes <= 100 else 2 if classes in SHARED_CLASSES else 11


@dataclass(frozen=True)
class Case:
    """One function on one batch; `run(threads, in_place)` gives its results."""

    line: str
    classes: int
    run: Callable[[int | None, bool], list[Array]]

    @property
    def name(self) -> str:
        """The line of the record, and which of its batches."""
        return f"{self.line}, {self.classes} classes"


@dataclass(frozen=True)
class Batch:
    """Inputs of one shape: logits, both kinds of targets, slopes, weights."""

    logits: Array
    labels: Array
    dense: Array
    slopes: Array
    sample_weight: Array
    weight: Array

    def case(self, what: str, run: Callable[[int | None, bool], list[Array]]) -> Case:
        """Of a function on this batch."""
        dtype, classes = self.logits.dtype.name, self.logits.shape[1]
        return Case(f"{dtype} {what}", classes, run)


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
    slopes = bell(seed + 5, rows * classes, dtype).reshape(rows, classes)
    return Batch(logits, labels, dense.reshape(rows, classes), slopes, *np.split(weights, [rows]))


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
    "contiguous": lambda a: (a, -1),
    "padded rows": lambda a: (_placed(a, _empty(a, 1, 2)[:, : a.shape[1]]), -1),
    "every second row": lambda a: (_placed(a, _empty(a, 2, 1)[::2]), -1),
    "last row first": lambda a: (_placed(a, np.empty_like(a)[::-1]), -1),
    "last class first": lambda a: (_placed(a, np.empty_like(a)[:, ::-1]), -1),
    "every second class": lambda a: (_placed(a, _empty(a, 1, 2)[:, ::2]), -1),
    "fortran": lambda a: (np.asfortranarray(a), -1),
    "misaligned": lambda a: (_misaligned(a), -1),
    "byte-swapped": lambda a: (a.astype(a.dtype.newbyteorder()), -1),
    "classes first": lambda a: (np.ascontiguousarray(a.T), 0),
    "classes second of three": lambda a: (np.ascontiguousarray(a.T)[None], 1),
    "classes last of three": lambda a: (a[:, None], -1),
}
# Rows of these lie as the kernels take them in place: same bits as contiguous ones.
ROW_LAYOUTS = ("contiguous", "padded rows", "every second row", "last row first")


def _like(values: Array, layout: str) -> Array:
    """Labels or dense targets in the shape that belongs to logits in that layout."""
    if values.ndim == 2:
        return LAYOUTS[layout](values)[0]
    return {"classes second of three": values[None], "classes last of three": values[:, None]}.get(
        layout, values
    )


# --- cases ----------------------------------------------------------------------------------------


def _flat(result: object) -> list[Array]:
    if isinstance(result, tuple):
        return [array for part in result for array in _flat(part)]
    return [np.asarray(result)]


def _loss_case(batch: Batch, kind: str, option: str, layout: str) -> Case:
    def run(threads: int | None, in_place: bool) -> list[Array]:
        logits, axis = LAYOUTS[layout](batch.logits)
        targets = _like(batch.dense if kind == "dense" else batch.labels, layout)
        options: dict[str, Any] = {**OPTIONS[option], "axis": axis, "num_threads": threads}
        if "sample_weight" in options:
            options["sample_weight"] = _like(batch.sample_weight, layout)
        if "weight" in options:
            options["weight"] = batch.weight
        if kind == "index, ignored":
            options["ignore_index"] = int(batch.labels[0])
        results: list[Array] = []
        for reduction in ("mean", "sum", "none"):
            given = logits.copy("K") if in_place else logits
            both = xent_fast.softmax_cross_entropy_grad(
                given, targets, reduction=reduction, out=given if in_place else None, **options
            )
            loss = xent_fast.softmax_cross_entropy(logits, targets, reduction=reduction, **options)
            results += _flat(both)
            alone = loss[0] if isinstance(loss, tuple) else loss
            assert canonical(np.asarray(alone)) == canonical(np.asarray(both.loss)), "loss alone"
        return results

    return batch.case(f"loss, {kind}, {option}, {layout}", run)


def _softmax_case(batch: Batch, name: str, layout: str) -> Case:
    function = getattr(xent_fast, name)

    def run(threads: int | None, in_place: bool) -> list[Array]:
        logits, axis = LAYOUTS[layout](batch.logits)
        options: dict[str, Any] = {"axis": axis, "num_threads": threads}
        if name == "logsumexp":
            return [function(logits, **options)]
        if name == "softmax_entropy_grad":
            options.update(reduction="none", temperature=1.5)
        given = logits.copy("K") if in_place else logits
        if in_place:
            options["out"] = given
        if name.endswith("_vjp"):
            return [function(given, LAYOUTS[layout](batch.slopes)[0], **options)]
        return _flat(function(given, **options))

    return batch.case(f"{name}, {layout}", run)


def _derived_case(batch: Batch, name: str, kind: str) -> Case:
    """The second order, and distillation with the slopes as the teacher's logits."""
    function = getattr(xent_fast, name)
    targets = batch.labels if kind == "index" else batch.dense

    def run(threads: int | None, in_place: bool) -> list[Array]:
        given = batch.logits.copy() if in_place else batch.logits
        options: dict[str, Any] = {"num_threads": threads, "weight": batch.weight}
        options["label_smoothing"] = 0.125
        if in_place:
            options["grad_out" if name == "softmax_cross_entropy_grad_hessian" else "out"] = given
        if name == "softmax_cross_entropy_grad_hessian":
            if kind == "index":  # the way of one pass
                options["label_smoothing"] = 0.0
            options.update(factor=2.0, min_hessian=1e-3, reduction="none")
            return _flat(function(given, targets, **options))
        if name == "distillation_loss_grad":
            options.update(temperature=2.0, alpha=0.375, reduction="none")
            return _flat(function(given, batch.slopes, targets, **options))
        if name == "softmax_cross_entropy_hvp":
            return [function(given, targets, batch.slopes, z_loss=0.01, **options)]
        return [function(given, targets, z_loss=0.01, **options)]

    return batch.case(f"{name}, {kind}", run)


DERIVED_FUNCTIONS = (
    "softmax_cross_entropy_hvp",
    "softmax_cross_entropy_hessian_diagonal",
    "softmax_cross_entropy_grad_hessian",
    "distillation_loss_grad",
)
SOFTMAX_FUNCTIONS = (
    *("softmax", "log_softmax", "logsumexp", "softmax_vjp", "log_softmax_vjp"),
    "softmax_entropy_grad",
)
KINDS = ("index", "index, ignored", "dense")


def _cases_of(batch: Batch, classes: int) -> Iterator[Case]:
    for kind in KINDS:
        for option in OPTIONS if classes not in SHARED_CLASSES else ("plain", "every"):
            if kind != "index, ignored" or option in ("plain", "every"):
                yield _loss_case(batch, kind, option, "contiguous")
    for name in SOFTMAX_FUNCTIONS:
        yield _softmax_case(batch, name, "contiguous")
    for name in DERIVED_FUNCTIONS:
        for kind in ("index", "dense"):
            yield _derived_case(batch, name, kind)
    if classes in LAYOUT_CLASSES:
        for layout in list(LAYOUTS)[1:]:
            for kind in ("index", "dense"):
                for option in ("plain", "every"):
                    yield _loss_case(batch, kind, option, layout)
            for name in SOFTMAX_FUNCTIONS:
                yield _softmax_case(batch, name, layout)


def all_cases(most_classes: int = max(SHARED_CLASSES)) -> Iterator[Case]:
    """Every case; those of one line of the record in the order of its digests."""
    for dtype in DTYPES:
        for classes in (*FEW_CLASSES, *MANY_CLASSES, *SHARED_CLASSES):
            if classes <= most_classes:
                yield from _cases_of(make_batch(classes, dtype), classes)


# --- digests --------------------------------------------------------------------------------------


def canonical(array: Array) -> bytes:
    """The array's bytes, little-endian, with one NaN for all.

    Which of them an operation gives is the processor's own business.
    """
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.asarray(np.nan, array.dtype), array)
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
    """Those of `CIRCUMSTANCES` under which the case gives other bits."""
    return [
        f"{threads} threads, {'in place' if in_place else 'out of place'}"
        for threads, in_place in CIRCUMSTANCES
        if digest(case.run(threads, in_place)) != want
    ]
