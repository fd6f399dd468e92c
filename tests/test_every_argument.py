"""Every argument of every public function, with everything that can be wrong with it.

Knows what each argument refuses, whichever function takes it, and in which words. Must not know how
a function checks it. Combinations of arguments are in tests/test_bad_input.py and in each
function's own file, memory that they share in tests/test_circumstances.py.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import xent_fast
from xent_fast import reference
from xent_fast._bits.functions import FUNCTIONS, Batch, Function

nan, inf = np.nan, np.inf
AxisError = np.exceptions.AxisError
as_strided = np.lib.stride_tricks.as_strided

ROWS, CLASSES, FEATURES = 6, 4, 3
SHAPE = (ROWS, CLASSES)
LABELS = np.arange(ROWS) % CLASSES


def floats(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, shape or SHAPE).astype(dtype)


BATCH = Batch(
    logits=floats(),
    other=floats(),
    probabilities=floats(),
    labels=LABELS,
    dense=floats(),
    row_weights=np.ones(ROWS),
    class_weights=np.ones(CLASSES),
    hidden=floats(ROWS, FEATURES),
    layer=floats(CLASSES, FEATURES),
    bias=floats(CLASSES),
)
STATISTICS = xent_fast.class_statistics(floats(), LABELS, first_class=0)


def good_call(function: Function) -> dict[str, Any]:
    """The arguments of an ordinary call, by name; nothing else but the axis."""
    call = function.call(BATCH, "index" if "index" in function.kinds else None)
    if function.given == ("ranges",):
        return {"statistics": [STATISTICS]}
    return dict(zip(function.parameters, call.arguments, strict=False)) | call.options


GOOD_CALLS = {name: good_call(function) for name, function in FUNCTIONS.items()}

# --- what each argument refuses -------------------------------------------------------------------

NO_REAL_NUMBERS = (
    *("1", b"1", None, True, np.True_),
    *(1j, [0.5], np.ones(1), Decimal(1)),
)
NO_INTEGERS = (1.0, True, np.False_, "1", [1], np.ones(2, int), Decimal(1))


# Error, value, and words of the message: {} is the value there, {type} its type's name.
Refused = list[tuple[type[Exception], Any, str]]


def each(error: type[Exception], *values: object, says: str = "") -> Refused:
    return [(error, value, says) for value in values]


def of_dtypes(dtypes: Iterable[Any], *shape: int, says: str) -> Refused:
    """Arrays of the right shape but not the right type, a masked one too."""
    zeros = [np.zeros(shape, dtype) for dtype in dtypes]
    return each(TypeError, *zeros, says=f"{says}, not {{0.dtype}}") + each(
        TypeError, np.ma.masked_array(np.zeros(shape)), says=" must not be a masked array"
    )


def no_floats(*shape: int) -> Refused:
    dtypes = (int, np.uint8, bool, complex, np.complex64, object, "U3", np.longdouble)
    return of_dtypes(dtypes, *shape, says=" must be float16, bfloat16, float32 or float64")


def no_real_arrays(shape: tuple[int, ...], says: str = " must have shape {}, not") -> Refused:
    dtypes = (bool, complex, object, "U1", "m8[s]")
    lengths = (np.ones(length) for length in (0, 1, shape[0] - 1, shape[0] + 1))
    wrong_shapes = [np.ones(()), np.ones((*shape, 1)), *lengths]
    return of_dtypes(dtypes, *shape, says=" must hold real numbers") + each(
        ValueError, *wrong_shapes, says=says.format(shape)
    )


def bad_labels(axis: int = 1) -> Refused:
    def with_last(value: int, dtype: type) -> Refused:
        labels = LABELS.astype(dtype)
        labels[-1] = value
        words = f"index {value} is out of bounds for axis {axis} with size {CLASSES}"
        return each(IndexError, labels, says=f"{words} (targets[{ROWS - 1}])")

    out_of_bounds = with_last(CLASSES, np.int64) + with_last(-100, np.int64)
    for dtype in np.typecodes["AllInteger"]:
        limits = np.iinfo(dtype)
        out_of_bounds += with_last(limits.max, dtype) + with_last(limits.min or 2**7, dtype)
    for value in (-1, 2**32 + 1, 2**63, 2**64 - 100):
        out_of_bounds += with_last(value, np.int64 if value < 2**63 else np.uint64)
    dtypes = (float, np.float16, bool, complex, object, str, "S1", "m8[s]")
    no_integers = [LABELS.astype(dtype) for dtype in dtypes]
    no_integers += [LABELS.astype(float).tolist(), [True] * ROWS]
    shapes = [(), (0,), (ROWS - 1,), (ROWS + 1,), (ROWS, 1), (1, ROWS), (*SHAPE, 1)]
    return (
        out_of_bounds
        + each(TypeError, *no_integers, np.ma.masked_array(LABELS))
        + each(
            ValueError,
            *(np.zeros(shape, int) for shape in shapes),
            says=f" must have shape ({ROWS},), not {{0.shape}}",
        )
    )


BAD_DENSE_TARGETS = [
    *each(
        TypeError,
        *(np.zeros(SHAPE, dtype) for dtype in (complex, object, "U1", "m8[s]")),
        says="targets must be integers or, if dense, real numbers, not {0.dtype}",
    ),
    *each(
        ValueError,
        *(np.zeros(s) for s in ((ROWS - 1, CLASSES), (ROWS, 1), SHAPE[::-1], (*SHAPE, 1))),
        says=f" shape {SHAPE}, not {{0.shape}}",
    ),
]


def bad_strides(shape: tuple[int, ...], *all_strides: tuple[int, ...]) -> Refused:
    outs = (as_strided(np.ones(1000)[500:], shape, strides) for strides in all_strides)
    return each(ValueError, *outs, says=f" overlaps itself: shape {shape}, strides {{0.strides}}")


def bad_out(*shape: int) -> Refused:
    good = np.ones(shape)
    read_only = good[:]
    read_only.flags.writeable = False
    wrong_shapes = [(*shape, 1), (1, *shape), (shape[0] + 1, *shape[1:]), (ROWS * CLASSES,)]
    return (
        each(TypeError, good.tolist(), 0.0, "out", bytearray(96), says=" must be an ndarray")
        + of_dtypes(("f4", "f2", "i8", object), *shape, says=" float64")
        + each(ValueError, *map(np.ones, wrong_shapes), says=f" shape {shape}, not {{0.shape}}")
        + each(ValueError, read_only, np.broadcast_to(1.0, shape), says="output array is read-only")
        + bad_strides(shape, (0,) * len(shape))
    )


BAD_OUT = bad_out(*SHAPE) + bad_strides(
    SHAPE,
    *((0, 8), (32, 0), (8, 8), (16, 8), (24, 8)),
    *((-24, 8), (8, -32), (32, 4), (4, 32), (32, 24)),
)
OUT_SHAPES = {
    **dict.fromkeys(("out", "grad_out", "hessian_out"), SHAPE),
    "grad_hidden_out": (ROWS, FEATURES),
    "grad_weight_out": (CLASSES, FEATURES),
    "grad_bias_out": (CLASSES,),
}
BAD_LOGITS = (
    no_floats(*SHAPE)
    + each(TypeError, "abc", None)
    + each(ValueError, np.ones((ROWS, 0)), says=f" of shape ({ROWS}, 0) have no class")
    + each(AxisError, np.ones(()), says=" no axis at all")
)
BAD_REAL = (
    each(TypeError, *NO_REAL_NUMBERS, says=" must be a real number, not {type}")
    + each(TypeError, np.array(True), says=" must be a real number, not bool")
    + each(ValueError, 10**400, says=" is too large for a float")
)
BAD_INTEGERS = each(TypeError, *NO_INTEGERS, says=" must be an integer")
BAD_SHARES = BAD_REAL + each(ValueError, -0.1, 1.1, nan, inf, says=" must be in [0, 1], not {}")


def no_layer(*shape: int) -> Refused:
    """No numbers of a layer that goes with float64."""
    zeros = [np.zeros(shape, dtype) for dtype in (int, bool, complex, object, "U1", "f2", "f4")]
    return each(TypeError, *zeros, np.ma.masked_array(np.zeros(shape)))


def of_layers(**refused: Refused) -> dict[tuple[str, str], Refused]:
    names = ("linear_softmax_cross_entropy", "linear_softmax_cross_entropy_grad")
    return {(name, argument): bad for name in names for argument, bad in refused.items()}


REFUSED: dict[str, Refused] = {
    **dict.fromkeys(
        ("logits", "x", "student_logits", "probabilities", "log_probabilities"), BAD_LOGITS
    ),
    **dict.fromkeys(
        ("grad_probabilities", "grad_log_probabilities"),
        no_floats(*SHAPE)
        + each(TypeError, "abc", None)
        + each(
            ValueError,
            *(floats(CLASSES), floats(CLASSES, ROWS)),
            says=f" must have the shape {SHAPE} of ",
        )
        + each(TypeError, floats(dtype=np.float32), says=" must have the dtype float64 of "),
    ),
    **dict.fromkeys(
        ("vector", "teacher_logits"), no_real_arrays(SHAPE, " must have the shape of ")
    ),
    **dict.fromkeys(("targets", "y"), bad_labels() + BAD_DENSE_TARGETS),
    "axis": each(
        AxisError, 2, -3, 2**31, -(2**70), says="{} is out of bounds for array of dimension 2"
    )
    + each(TypeError, 0.0, None, "0", [0], True, says="integer"),
    "weight": no_real_arrays((CLASSES,)),
    "sample_weight": no_real_arrays((ROWS,)),
    "ignore_index": BAD_INTEGERS,
    "label_smoothing": BAD_SHARES,
    "temperature": BAD_REAL
    + each(
        ValueError,
        *(0.0, -1.0, 2.0**-125, nan, inf),
        says=" must be finite and at least 2**-124, not {}",
    ),
    "z_loss": BAD_REAL + each(ValueError, nan, says=" must not be NaN"),
    "alpha": BAD_SHARES,
    "clip": BAD_REAL + each(ValueError, -0.1, 0.5, nan, inf, says=" must be in [0, 0.5), not {}"),
    "scale": BAD_REAL,
    "factor": BAD_REAL,
    "grad_output": each(TypeError, "1", True, 1j) + each(ValueError, np.ones(ROWS + 1), [0.5]),
    "min_hessian": BAD_REAL + each(ValueError, nan, inf),
    "reduction": each(
        ValueError,
        *("average", "Mean", "", b"mean", None, 0, True, ["mean"], np.zeros(2)),
        says=" must be 'mean', 'sum' or 'none', not ",
    ),
    "num_threads": BAD_INTEGERS
    + each(ValueError, 0, -1, np.int8(-2), -(2**70), says=" must be at least 1, not {}"),
    **dict.fromkeys(("out", "grad_out", "hessian_out"), BAD_OUT),
    "first_class": BAD_INTEGERS + each(TypeError, None) + each(ValueError, -1),
    "num_classes": BAD_INTEGERS + each(ValueError, 3),
    "statistics": each(TypeError, STATISTICS.array, None, 3),
    "class_weight": no_real_arrays((CLASSES,)),
    "chunk_rows": BAD_INTEGERS + each(ValueError, 0, -1),
    "progress": each(TypeError, 1, "tqdm", [print]),
    "grad_hidden_out": bad_out(ROWS, FEATURES),
    "grad_weight_out": bad_out(CLASSES, FEATURES),
    "grad_bias_out": bad_out(CLASSES),
}
# Arguments that only one function has, or has in another sense.
REFUSED_BY: dict[tuple[str, str], Refused] = {
    ("logsumexp", "out"): bad_out(ROWS),
    ("sampled_softmax_loss_grad", "hidden"): no_floats(ROWS, FEATURES)
    + each(ValueError, floats(ROWS)),
    ("sampled_softmax_loss_grad", "weight"): no_floats(CLASSES, FEATURES)
    + each(TypeError, floats(CLASSES, FEATURES, dtype=np.float32))
    + each(ValueError, floats(CLASSES), floats(CLASSES, 2), np.ones((0, FEATURES))),
    ("sampled_softmax_loss_grad", "bias"): no_floats(CLASSES)
    + each(TypeError, floats(CLASSES, dtype=np.float32))
    + each(ValueError, floats(CLASSES + 1), floats(CLASSES, 1)),
    ("sampled_softmax_loss_grad", "targets"): bad_labels(axis=0),
    ("sampled_softmax_loss_grad", "num_sampled"): each(ValueError, 0, -1, CLASSES + 1)
    + BAD_INTEGERS
    + each(TypeError, None),
    ("sampled_softmax_loss_grad", "sampler"): each(ValueError, "normal", "")
    + each(TypeError, None, 3, ([0, 1],), ([0.0, 1.0], np.ones(CLASSES)))
    + each(TypeError, ([0, 1], np.ma.masked_array(np.ones(CLASSES))))
    + each(IndexError, ([0, CLASSES], np.ones(CLASSES)), ([0, -1], np.ones(CLASSES)))
    + each(ValueError, ([0], np.ones(CLASSES)), ([0, 1], np.ones(2)), ([0, 1], np.zeros(CLASSES)))
    + each(ValueError, ([0, 1], np.full(CLASSES, nan)), ([0, 1], np.full(CLASSES, inf)))
    + each(TypeError, ([0, 1], np.ones(CLASSES, bool))),
    ("sampled_softmax_loss_grad", "rng"): each(ValueError, -1) + each(TypeError, 1.5, "seed"),
    **of_layers(
        hidden=no_layer(ROWS, FEATURES) + each(ValueError, floats(ROWS)),
        weight=no_layer(CLASSES, FEATURES)
        + each(ValueError, floats(CLASSES), floats(CLASSES, 2), np.ones((0, FEATURES))),
        bias=no_layer(CLASSES) + each(ValueError, floats(CLASSES + 1), floats(CLASSES, 1)),
    ),
    ("class_statistics", "logits"): no_floats(*SHAPE),
    ("grad_from_statistics", "logits"): no_floats(*SHAPE),
    ("merge_class_statistics", "statistics"): each(TypeError, [3], [None], [STATISTICS.array])
    + each(ValueError, [], [STATISTICS, STATISTICS]),
    ("show_config", "mode"): each(ValueError, "json", "", None, 1),
}
# What a message calls an argument, where that is not its name alone.
NAMED_BY = {
    "x": "logits",
    "y": "targets",
    "statistics": "statistics|ranges",
    "hidden": "hidden|weight must have shape",
    "sampler": "sampler|samples|expected_counts",
    "rng": "non-negative|SeedSequence|BitGenerator",  # NumPy's words
}
# Whatever is given is taken for true or false.
FLAGS = {
    "accumulate",
    "has_exponentials",
    "keepdims",
    "return_statistics",
    "remove_accidental_hits",
}


def arguments_of(function: str) -> list[str]:
    return list(inspect.signature(getattr(xent_fast, function)).parameters)


def refused(function: str, argument: str) -> Refused:
    return REFUSED_BY.get((function, argument)) or REFUSED[argument]


PAIRS = [
    (function, argument)
    for function in GOOD_CALLS
    for argument in arguments_of(function)
    if argument not in FLAGS
]


def test_every_function_is_here() -> None:
    functions = {n for n in xent_fast.__all__ if inspect.isroutine(getattr(xent_fast, n))}
    assert set(GOOD_CALLS) == functions


@pytest.mark.parametrize("function", GOOD_CALLS)
def test_the_good_call_is_good(function: str) -> None:
    getattr(xent_fast, function)(**GOOD_CALLS[function])


def bad_calls(name: str, argument: str) -> Iterator[tuple[dict[str, Any], type[Exception], str]]:
    """Arguments, the error and its words: with new results, with given ones, and in place."""
    has = arguments_of(name)
    places = {place: shape for place, shape in OUT_SHAPES.items() if place in has}
    for error, value, says in refused(name, argument):
        words = says.format(value, type=type(value).__name__)
        for way in FUNCTIONS[name].ways_out():
            arguments = {**GOOD_CALLS[name]}
            for place, shape in places.items() if way != "new" else ():
                arguments[place] = np.full((ROWS,) if name == "logsumexp" else shape, 7.0)
            if way == "in place":
                arguments[next(iter(places))] = arguments[has[0]]
            yield arguments | {argument: value}, error, words


@pytest.mark.parametrize(
    "name", [name for name, f in FUNCTIONS.items() if "axis" in f.keywords and not f.required]
)
def test_the_reference_refuses_values_and_shapes(name: str) -> None:
    """It takes numbers and arrays of any type."""
    for argument in set(arguments_of(name)) - {*FLAGS, *OUT_SHAPES, "num_threads"}:
        for arguments, error, _ in bad_calls(name, argument):
            if error is not TypeError and not OUT_SHAPES.keys() & arguments.keys():
                with pytest.raises((error, OverflowError)):
                    getattr(reference, name)(**arguments)


@pytest.mark.parametrize(("function", "argument"), PAIRS, ids=str)
def test_bad_argument(function: str, argument: str) -> None:
    """The right exception, which names what is wrong, and no byte of any array written."""
    call = getattr(xent_fast, function)
    for arguments, error, words in bad_calls(function, argument):
        value = arguments[argument]
        arrays = [array for array in arguments.values() if isinstance(array, np.ndarray)]
        before = [array.tobytes() for array in arrays]
        with pytest.raises(error) as raised:
            call(**arguments)
        message = str(raised.value)
        assert type(raised.value) is error, f"{value!r}: {raised.value!r}"
        assert re.search(NAMED_BY.get(argument, argument), message), f"{value!r}: {message}"
        assert words in message, f"{value!r}: {message}"
        assert [array.tobytes() for array in arrays] == before, f"{value!r}: written"
