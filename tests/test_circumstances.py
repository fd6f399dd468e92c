"""What must not reach a result of any public function, and which memory none accepts as output.

Knows the register of public functions and how arrays lie in memory; compares bits, never values.
Must not know what is computed, or how rows are shared out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import LAYOUTS, OUTPUT_LAYOUTS, GuardedArray, aligned_bytes, assert_same_bits
from threads.calls import Inputs

from xent_fast._bits.functions import FUNCTIONS, OUTPUTS, Batch, Function, arrays_of

# Functions of whole rows; those of ranges of classes have a file of their own.
OF_ROWS = [name for name, f in FUNCTIONS.items() if "axis" in f.keywords and not f.required]
NAMES = [name for name in OF_ROWS if FUNCTIONS[name].is_compiled]
WRITING = [name for name in NAMES if FUNCTIONS[name].ways_out()[1:]]
# Vectors of 8 and 16 numbers, parts of them, several at once; both kernels, one and several blocks.
CLASS_COUNTS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 128, 129, 300, 5000)
LARGE_SHAPES = ((3_000, 3), (1_000, 33), (60, 1_000), (3, 70_000))
MEMBERS = ("logits", "other", "probabilities", "labels", "dense", "row_weights")
# Arguments that are not converted where an output is given.
AS_THEY_LIE = {
    *("logits", "student_logits", "probabilities", "grad_probabilities"),
    *("log_probabilities", "grad_log_probabilities"),
}
A_ROW = {"reduction": "none"}  # for functions that add rows up otherwise


def asked(name: str) -> Iterator[tuple[Function, dict[str, Any]]]:
    """No option with any kind of targets, and every option with labels."""
    function = FUNCTIONS[name]
    for kind in function.kinds:
        yield function, {"kind": kind, "variant": "plain"}
    kind = "index" if "index" in function.kinds else None
    if "every" in function.variants(kind):
        yield function, {"kind": kind, "variant": "every"}


def make_batch(rows: int, classes: int, dtype: type) -> Batch:
    """Some classes have no probability."""
    batch = Inputs.of(rows, classes, dtype)
    logits = batch.logits.copy()
    logits[:, 6::7] = -np.inf
    logits.flags.writeable = False
    return replace(batch, logits=logits)


def rows_of(batch: Batch, rows: Any) -> Batch:
    return replace(batch, **{name: getattr(batch, name)[rows] for name in MEMBERS})


def assert_same(got: Any, want: list[np.ndarray], case: object, rows: Any = slice(None)) -> None:
    """The bits of those rows, of all of them also what was added up over rows."""
    for part, whole in zip(arrays_of(got), want, strict=True):
        if whole.ndim or rows == slice(None):
            native = np.array(part, part.dtype.newbyteorder("="))
            try:
                assert_same_bits(native, np.array(whole[rows] if whole.ndim else whole))
            except AssertionError as different:
                raise AssertionError(f"{case}: {different}") from None


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_threads(name: str, isa: str, dtype: type, shape: tuple[int, int]) -> None:
    """Any number, in place where that can be."""
    batch = make_batch(*shape, dtype)
    for function, options in asked(name):
        want = arrays_of(function.call(batch, **options, num_threads=1)())
        output = function.ways_out()[-1]
        for threads in (1, 2, 3, None):
            got = function.call(batch, **options, output=output, num_threads=threads)()
            assert_same(got, want, (options, output, threads))


@pytest.mark.parametrize("name", NAMES)
def test_rows_in_another_order_and_alone(name: str, isa: str, dtype: type) -> None:
    for function, options in asked(name):
        for classes in CLASS_COUNTS:
            batch = make_batch(19, classes, dtype)
            want = arrays_of(function.call(batch, **options, **A_ROW)())
            for rows in (slice(None, None, -1), slice(7), slice(9, 10), slice(18, 19), 0):
                got = function.call(rows_of(batch, rows), **options, **A_ROW)()
                assert_same(got, want, (options, classes, rows), rows)


@pytest.mark.parametrize("name", NAMES)
def test_any_alignment(name: str, isa: str, dtype: type) -> None:
    """Every offset, in items, from a cache line's border; results in another place or in place."""

    def moved(array: np.ndarray, offset: int) -> np.ndarray:
        memory = aligned_bytes((array.size + 17) * array.itemsize).view(array.dtype)
        there = memory[offset : offset + array.size].reshape(array.shape)
        there[...] = array
        return there

    for function, options in asked(name):
        for classes in (3, 10, 33, 129, 2049):
            batch = make_batch(5, classes, dtype)
            want = arrays_of(function.call(batch, **options)())
            for offset in range(17):
                members = {each: moved(getattr(batch, each), offset) for each in MEMBERS}
                there = replace(batch, **members, copied=lambda a, k=16 - offset: moved(a, k))
                for output in function.ways_out():
                    got = function.call(there, **options, output=output)()
                    assert_same(got, want, (options, classes, offset, output))


class Guards:
    """A batch whose arrays lie in one layout, its outputs in several; what is around them stays."""

    def __init__(self, batch: Batch, layout: str) -> None:
        first = OUTPUT_LAYOUTS.index(layout) if layout in OUTPUT_LAYOUTS else 0
        self.layouts = itertools.cycle(OUTPUT_LAYOUTS[first:] + OUTPUT_LAYOUTS[:first])
        self.inputs = {name: GuardedArray(getattr(batch, name), layout) for name in MEMBERS}
        self.outputs: list[GuardedArray] = []
        arrays: dict[str, Any] = {name: guarded.array for name, guarded in self.inputs.items()}
        self.batch = replace(batch, **arrays, copied=self.copied)

    def copied(self, array: np.ndarray) -> np.ndarray:
        native = array.astype(array.dtype.newbyteorder("="))
        self.outputs.append(GuardedArray(native, next(self.layouts)))
        return self.outputs[-1].array

    def check(self) -> None:
        for guarded in self.inputs.values():
            guarded.assert_untouched()
        for guarded in self.outputs:
            guarded.assert_guards_intact()


@pytest.mark.parametrize("name", NAMES)
def test_any_layout(name: str, isa: str, dtype: type) -> None:
    """Results in a new array like the input, in given ones, in place of either matrix.

    Of long rows each row's: where classes lie apart, entropies are added up some rows at a time.
    """
    cases = itertools.product(asked(name), LAYOUTS, (1, 5, 16, 37, 130, 2049))
    for (function, options), layout, classes in cases:
        batch = make_batch(11, classes, dtype)
        options = options | A_ROW if classes > 1000 else options
        want = arrays_of(function.call(batch, **options)())
        guards = Guards(batch, layout)
        case = (options, layout, classes)
        new = function.call(guards.batch, **options)()
        assert_same(new, want, case)
        for array in arrays_of(new):
            assert array.dtype.isnative
            assert array.flags.forc
            assert array.shape != batch.logits.shape or array.flags["FA"[layout != "fortran"]]
        for output in function.ways_out()[1:]:
            call = function.call(guards.batch, **options, output=output)
            got = call()
            assert_same(got, want, (*case, output))
            assert {id(array) for array in call.outputs} <= {id(a) for a in arrays_of(got)}
        if "other" in function.given:
            other = guards.copied(batch.other)
            call = function.call(replace(guards.batch, other=other), **options, out=other)
            assert_same(call(), want, (*case, "in place of the other matrix"))
        guards.check()


@pytest.mark.parametrize("name", OF_ROWS)
def test_lists(name: str) -> None:
    """They are taken as their arrays, unless there is an output, which shows that speed matters."""
    batch = Inputs.of(5, 3, np.float64)
    for function, options in asked(name):
        call = function.call(batch, **options)
        lists = [a.tolist() if isinstance(a, np.ndarray) else a for a in call.arguments]
        assert_same(function.function(*lists, **call.options), arrays_of(call()), options)
        for output in function.ways_out()[1:2]:
            call = function.call(batch, **options, output=output)
            given = dict(zip(function.parameters, call.arguments, strict=False)) | call.options
            for argument in given.keys() & AS_THEY_LIE:
                words = f"^{argument} must be an ndarray where .*out is given, not list"
                with pytest.raises(TypeError, match=words):
                    function.function(**given | {argument: given[argument].tolist()})


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("name", OF_ROWS)
def test_no_rows(name: str, shape: tuple[int, ...], dtype: type) -> None:
    """Empty results in the shapes of rows; a sum over nothing is 0, a mean is not a number."""
    nothing, numbers = np.empty(shape, dtype), np.empty(shape[:-1])
    batch = replace(
        Inputs.of(1, 3, dtype),
        **dict.fromkeys(("logits", "other", "probabilities", "dense"), nothing),
        labels=numbers.astype(int),
        row_weights=numbers,
        class_weights=np.ones(shape[-1]),
    )
    for function, options in asked(name):
        for output, reduction in itertools.product(function.ways_out(), ("mean", "sum", "none")):
            call = function.call(batch, **options | {"variant": "plain"}, output=output)
            if "reduction" in function.keywords:
                call.options["reduction"] = reduction
            for array in arrays_of(call()):
                if array.ndim == 0:
                    assert np.isnan(array) if reduction == "mean" else array == 0, reduction
                else:
                    assert array.dtype == dtype or not function.is_compiled
                    assert array.size == 0
                    assert array.shape[: len(shape) - 1] == shape[:-1]


@pytest.mark.parametrize("view", ["exactly", "shifted", "backwards"])
@pytest.mark.parametrize("name", WRITING)
def test_memory_that_an_output_may_not_share(name: str, view: str) -> None:
    """Matrices that the first output may replace are that output itself, or apart from it."""
    batch = Inputs.of(6, 4, np.float64)
    for function, options in asked(name):
        call = function.call(batch, options["kind"], output="apart")
        places = [place for place in OUTPUTS if place in call.options]
        given = dict(zip(function.parameters, call.arguments, strict=False)) | call.options
        others = [other for other in given if other in (*function.parameters, *places[:-1])]
        for place, other in itertools.product(places, others):
            out, array = given[place], given[other]
            may_be = place == places[0] and function.in_place and array.shape == out.shape
            if other == place or (view == "exactly" and may_be and other != "targets"):
                continue
            memory = np.zeros(40)
            shared = memory[view == "shifted" :][: array.size].view(array.dtype)
            shared = shared.reshape(array.shape)[:: -1 if view == "backwards" else 1]
            out = memory[: out.size].reshape(out.shape)
            with pytest.raises(ValueError, match=f"{place} (overlaps|shares memory with) {other}"):
                function.function(**given | {other: shared, place: out})
            assert not memory.any(), (place, other)
