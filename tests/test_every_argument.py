"""Every argument of every public function, with everything that can be wrong with it.

Knows what each argument refuses, whichever function takes it. Must not know how a function checks
it. Combinations of arguments, memory that they share, and the words in full are in
tests/test_bad_input.py and in each function's own file.
"""

from __future__ import annotations

import inspect
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import xent_fast
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
    *("1", b"1", None, True, np.True_, np.array(True)),
    *(1j, [0.5], np.ones(1), Decimal(1)),
)
NO_INTEGERS = (1.0, True, np.False_, "1", [1], np.ones(2, int), Decimal(1))


def each(error: type[Exception], *values: object) -> list[tuple[type[Exception], object]]:
    return [(error, value) for value in values]


def no_floats(*shape: int) -> list[tuple[type[Exception], object]]:
    """Arrays of the right shape that are no floats."""
    zeros = [np.zeros(shape, dtype) for dtype in (int, bool, complex, object, "U1")]
    return each(TypeError, *zeros, np.ma.masked_array(np.zeros(shape)))


def no_real_arrays(shape: tuple[int, ...]) -> list[tuple[type[Exception], object]]:
    zeros = [np.zeros(shape, dtype) for dtype in (bool, complex, object, "U1", "m8[s]")]
    wrong_shapes = [np.ones(()), np.ones(shape[0] + 1), np.ones((*shape, 1))]
    masked = np.ma.masked_array(np.ones(shape))
    return each(TypeError, *zeros, masked) + each(ValueError, *wrong_shapes)


def bad_labels() -> list[tuple[type[Exception], object]]:
    def with_last(value: int, dtype: type = np.int64) -> np.ndarray:
        labels = LABELS.astype(dtype)
        labels[-1] = value
        return labels

    out_of_bounds = [with_last(value) for value in (CLASSES, -1, -100, 2**63 - 1, 2**32 + 1)]
    out_of_bounds += [with_last(value, np.uint64) for value in (2**63, 2**64 - 1)]
    dtypes = (float, np.float16, bool, complex, object, str, "S1", "m8[s]")
    no_integers = [LABELS.astype(dtype) for dtype in dtypes]
    no_integers += [LABELS.astype(float).tolist(), [True] * ROWS]
    shapes = [LABELS[:-1], np.zeros((ROWS, 1), int), np.zeros((1, ROWS), int), np.zeros((), int)]
    return (
        each(IndexError, *out_of_bounds)
        + each(TypeError, *no_integers, np.ma.masked_array(LABELS))
        + each(ValueError, *shapes)
    )


BAD_DENSE_TARGETS = [
    *each(TypeError, *(np.zeros(SHAPE, dtype) for dtype in (complex, object, "U1", "m8[s]"))),
    *each(ValueError, np.zeros((ROWS - 1, CLASSES)), np.zeros((ROWS, 1)), np.zeros((*SHAPE, 1))),
]


def bad_out(*shape: int) -> list[tuple[type[Exception], object]]:
    good = np.ones(shape)
    others = (np.float32, np.int64, object)
    no_arrays = [good.tolist(), 0.0, np.ma.masked_array(good)]
    wrong_shapes = [np.ones((*shape, 1)), np.ones(shape[0] + 1), np.ones((CLASSES, ROWS))]
    one_number = as_strided(np.ones(shape[-1]), shape, (0,) * len(shape))
    return each(TypeError, *no_arrays, *(good.astype(dtype) for dtype in others)) + each(
        ValueError, *wrong_shapes, np.broadcast_to(1.0, shape), one_number
    )


def bad_out_of(*shape: int) -> list[tuple[type[Exception], object]]:
    good = np.ones(shape)
    dtypes = (np.int64, object, np.float32)
    return each(TypeError, good.tolist(), np.ma.array(good), *map(good.astype, dtypes)) + each(
        ValueError, np.ones((*shape, 1)), np.broadcast_to(1.0, shape)
    )


BAD_OUT = [
    *bad_out(*SHAPE),
    *each(ValueError, as_strided(np.ones(40), SHAPE, (16, 8))),
    *each(ValueError, as_strided(np.ones(4), SHAPE, (0, 8))),
]
OUT_SHAPES = {
    **dict.fromkeys(("out", "grad_out", "hessian_out"), SHAPE),
    "grad_hidden_out": (ROWS, FEATURES),
    "grad_weight_out": (CLASSES, FEATURES),
    "grad_bias_out": (CLASSES,),
}
BAD_LOGITS = no_floats(*SHAPE) + each(TypeError, "abc", None) + each(ValueError, np.ones((ROWS, 0)))
BAD_REAL = each(TypeError, *NO_REAL_NUMBERS)


def no_layer(*shape: int) -> list[tuple[type[Exception], object]]:
    """No numbers of a layer that goes with float64."""
    zeros = [np.zeros(shape, dtype) for dtype in (int, bool, complex, object, "U1", "f2", "f4")]
    return each(TypeError, *zeros, np.ma.masked_array(np.zeros(shape)))


def of_layers(**refused: list[tuple[type[Exception], object]]) -> dict[tuple[str, str], Any]:
    names = ("linear_softmax_cross_entropy", "linear_softmax_cross_entropy_grad")
    return {(name, argument): bad for name in names for argument, bad in refused.items()}


REFUSED: dict[str, list[tuple[type[Exception], object]]] = {
    **dict.fromkeys(("logits", "probabilities", "x", "student_logits"), BAD_LOGITS),
    **dict.fromkeys(("log_probabilities",), BAD_LOGITS),
    **dict.fromkeys(
        ("grad_probabilities", "grad_log_probabilities"),
        no_floats(*SHAPE)
        + each(TypeError, "abc", None)
        + each(ValueError, floats(CLASSES), floats(CLASSES, ROWS))
        + each(TypeError, floats(dtype=np.float32)),
    ),
    **dict.fromkeys(("vector", "teacher_logits"), no_real_arrays(SHAPE)),
    **dict.fromkeys(("targets", "y"), bad_labels() + BAD_DENSE_TARGETS),
    "axis": each(AxisError, 2, -3, 10**30) + each(TypeError, 0.0, None, "0", [0], True),
    "weight": no_real_arrays((CLASSES,)),
    "sample_weight": no_real_arrays((ROWS,)),
    "ignore_index": each(TypeError, *NO_INTEGERS),
    "label_smoothing": each(ValueError, -0.1, 1.1, nan, inf) + BAD_REAL,
    "temperature": each(ValueError, 0.0, -1.0, nan, inf) + BAD_REAL,
    "z_loss": each(ValueError, nan) + BAD_REAL,
    "alpha": each(ValueError, -0.1, 1.1, nan, inf) + BAD_REAL,
    "clip": each(ValueError, -0.1, 0.5, nan, inf) + BAD_REAL,
    "scale": BAD_REAL,
    "factor": BAD_REAL,
    "grad_output": each(TypeError, "1", True, 1j) + each(ValueError, np.ones(ROWS + 1), [0.5]),
    "min_hessian": each(ValueError, nan, inf) + BAD_REAL,
    "reduction": each(ValueError, "average", "Mean", "", b"mean", None, 0, ["mean"]),
    "num_threads": each(ValueError, 0, -1, -(2**70)) + each(TypeError, *NO_INTEGERS),
    **dict.fromkeys(("out", "grad_out", "hessian_out"), BAD_OUT),
    "first_class": each(TypeError, *NO_INTEGERS, None) + each(ValueError, -1),
    "num_classes": each(TypeError, *NO_INTEGERS) + each(ValueError, 3),
    "statistics": each(TypeError, STATISTICS.array, None, 3),
    "class_weight": no_real_arrays((CLASSES,)),
    "chunk_rows": each(ValueError, 0, -1) + each(TypeError, *NO_INTEGERS),
    "progress": each(TypeError, 1, "tqdm", [print]),
    "grad_hidden_out": bad_out_of(ROWS, FEATURES),
    "grad_weight_out": bad_out_of(CLASSES, FEATURES),
    "grad_bias_out": bad_out_of(CLASSES),
}
# Arguments that only one function has, or has in another sense.
REFUSED_BY: dict[tuple[str, str], list[tuple[type[Exception], object]]] = {
    ("logsumexp", "out"): bad_out(ROWS),
    ("sampled_softmax_loss_grad", "hidden"): no_floats(ROWS, FEATURES)
    + each(ValueError, floats(ROWS)),
    ("sampled_softmax_loss_grad", "weight"): no_floats(CLASSES, FEATURES)
    + each(TypeError, floats(CLASSES, FEATURES, dtype=np.float32))
    + each(ValueError, floats(CLASSES), floats(CLASSES, 2), np.ones((0, FEATURES))),
    ("sampled_softmax_loss_grad", "bias"): no_floats(CLASSES)
    + each(TypeError, floats(CLASSES, dtype=np.float32))
    + each(ValueError, floats(CLASSES + 1), floats(CLASSES, 1)),
    ("sampled_softmax_loss_grad", "targets"): bad_labels(),
    ("sampled_softmax_loss_grad", "num_sampled"): each(ValueError, 0, -1, CLASSES + 1)
    + each(TypeError, *NO_INTEGERS, None),
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


def refused(function: str, argument: str) -> list[tuple[type[Exception], object]]:
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


@pytest.mark.parametrize(("function", "argument"), PAIRS, ids=str)
def test_bad_argument(function: str, argument: str) -> None:
    """The right exception, which names what is wrong, and no byte of any array written."""
    call = getattr(xent_fast, function)
    places = OUT_SHAPES.keys() & set(arguments_of(function))
    for error, value in refused(function, argument):
        arguments = {**GOOD_CALLS[function]}
        for place in places:
            shape = (ROWS,) if function == "logsumexp" else OUT_SHAPES[place]
            arguments[place] = np.full(shape, 7.0)
        arguments[argument] = value
        arrays = [array for array in arguments.values() if isinstance(array, np.ndarray)]
        before = [array.tobytes() for array in arrays]
        with pytest.raises(error) as raised:
            call(**arguments)
        assert type(raised.value) is error, f"{value!r}: {raised.value!r}"
        assert re.search(NAMED_BY.get(argument, argument), str(raised.value)), str(raised.value)
        assert [array.tobytes() for array in arrays] == before, f"{value!r}: written"
