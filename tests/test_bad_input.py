"""Whatever is wrong: the right exception, in the right words, and not one byte written.

Knows the public functions and what they refuse. Must not know how they check it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from helpers import GuardedArray

from xent_fast import softmax_cross_entropy, softmax_cross_entropy_grad

ROWS, CLASSES = 6, 4
PATTERN = 0xA5
UINT64 = np.uint64

as_strided = np.lib.stride_tricks.as_strided


def make_logits(rows: int = ROWS, classes: int = CLASSES, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((rows, classes)).astype(dtype)


def make_labels(rows: int = ROWS, dtype: type = np.int64) -> np.ndarray:
    return (np.arange(rows) % CLASSES).astype(dtype)


def patterned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array whose every byte is PATTERN, or of zeros if it holds references."""
    array = np.zeros(shape, dtype)
    if not array.dtype.hasobject:
        array.reshape(-1).view(np.uint8)[...] = PATTERN
    return array


def assert_raises_and_writes_nothing(
    error: type[Exception],
    message: str,
    call: Callable[[], object],
    *arrays: object,
) -> None:
    """`call` raises with `message` in its words and leaves every byte of `arrays` as it was."""
    arrays = tuple(array for array in arrays if isinstance(array, np.ndarray))
    before = [array.tobytes() for array in arrays]
    with pytest.raises(error, match=re.escape(message)):
        call()
    assert [array.tobytes() for array in arrays] == before


def assert_rejected(
    error: type[Exception], message: str, logits: object, targets: object, **options: object
) -> None:
    """All calls refuse the arguments: loss alone, in place, into `out`, into a new array."""
    inputs = (logits, targets, *options.values())
    assert_raises_and_writes_nothing(
        error, message, lambda: softmax_cross_entropy(logits, targets, **options), *inputs
    )
    assert_raises_and_writes_nothing(
        error, message, lambda: softmax_cross_entropy_grad(logits, targets, **options), *inputs
    )
    if not isinstance(logits, np.ndarray) or np.ma.isMaskedArray(logits):
        return
    for out in (logits, patterned(logits.shape, logits.dtype)):
        assert_raises_and_writes_nothing(
            error,
            message,
            lambda out=out: softmax_cross_entropy_grad(logits, targets, out=out, **options),
            out,
            *inputs,
        )


# --- class indices out of bounds ---


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (CLASSES, np.int64),
        (-1, np.int64),
        (-100, np.int64),
        (np.iinfo(np.int64).max, np.int64),
        (np.iinfo(np.int64).min, np.int64),
        (2**32 + 1, np.int64),
        (2**63, UINT64),
        (2**64 - 1, UINT64),
        (2**64 - 100, UINT64),
        (2**32 + 1, UINT64),
        (-128, np.int8),
        (127, np.int8),
        (255, np.uint8),
        (-(2**15), np.int16),
        (2**16 - 1, np.uint16),
        (-(2**31), np.int32),
        (2**32 - 1, np.uint32),
    ],
)
@pytest.mark.parametrize("row", [0, 3, ROWS - 1])
def test_label_out_of_bounds(value: int, dtype: type, row: int) -> None:
    labels = make_labels(dtype=dtype)
    labels[row] = value
    message = f"index {value} is out of bounds for axis 1 with size {CLASSES} (targets[{row}])"
    assert_rejected(IndexError, message, make_logits(), labels)


@pytest.mark.parametrize("num_threads", [None, 1, 3])
def test_only_the_last_row_of_many_is_bad(dtype: type, num_threads: int | None) -> None:
    rows = 20_000
    labels = make_labels(rows)
    labels[-1] = CLASSES
    message = (
        f"index {CLASSES} is out of bounds for axis 1 with size {CLASSES} (targets[{rows - 1}])"
    )
    logits = make_logits(rows, dtype=dtype)
    assert_rejected(IndexError, message, logits, labels, num_threads=num_threads)


def test_first_bad_row_is_named() -> None:
    assert_rejected(IndexError, "index 9 is out of bounds", make_logits(3), np.array([0, 9, -7]))


@pytest.mark.parametrize("layout", ["byte-swapped", "reversed", "strided", "misaligned"])
def test_bad_label_in_any_layout(layout: str) -> None:
    labels = make_labels()
    labels[2] = -100
    labels = {
        "byte-swapped": lambda: labels.astype(">i8"),
        "reversed": lambda: labels[::-1].copy()[::-1],
        "strided": lambda: np.repeat(labels, 3)[::3],
        "misaligned": lambda: np.frombuffer(b"x" + labels.tobytes(), np.int64, offset=1),
    }[layout]()
    message = "index -100 is out of bounds for axis 1 with size 4 (targets[2])"
    assert_rejected(IndexError, message, make_logits(), labels)


@pytest.mark.parametrize(
    ("ignore_index", "label", "dtype"),
    [
        (-100, -1, np.int64),
        (-1, 2**64 - 1, UINT64),
        (-(2**63), 2**63, UINT64),
        (2**64 - 1, 2**64 - 2, UINT64),
        (2**64 - 1, -1, np.int64),
        (2**64, 2**63, UINT64),
        (-(2**70), -5, np.int64),
        (255, -1, np.int8),
    ],
)
def test_label_that_only_resembles_ignore_index(ignore_index: int, label: int, dtype: type) -> None:
    labels = make_labels(dtype=dtype)
    labels[4] = label
    message = f"index {label} is out of bounds for axis 1 with size {CLASSES} (targets[4])"
    assert_rejected(IndexError, message, make_logits(), labels, ignore_index=ignore_index)


@pytest.mark.parametrize(
    ("ignore_index", "dtype"),
    [
        (-100, np.int64),
        (np.int8(-100), np.int16),
        (CLASSES, np.int32),
        (255, np.uint8),
        (-(2**63), np.int64),
        (2**63 - 1, np.int64),
        (2**63, UINT64),
        (2**64 - 1, UINT64),
        (np.uint64(2**64 - 100), UINT64),
    ],
)
def test_ignore_index_outside_the_classes_is_never_an_index(ignore_index: int, dtype: type) -> None:
    logits = make_logits()
    labels = make_labels(dtype=dtype)
    labels[1] = labels[4] = ignore_index
    logits[1] = np.nan
    counted = [0, 2, 3, 5]
    loss, grad = softmax_cross_entropy_grad(logits, labels, ignore_index=ignore_index)
    want = softmax_cross_entropy_grad(logits[counted], labels[counted])
    assert loss == want.loss
    np.testing.assert_array_equal(grad[counted], want.grad)
    np.testing.assert_array_equal(grad[[1, 4]], 0.0)


# --- targets of the wrong kind ---


@pytest.mark.parametrize("dtype", [complex, object, "U1", "m8[s]"], ids=str)
def test_dense_targets_of_no_real_numbers(dtype: type) -> None:
    targets = np.zeros((ROWS, CLASSES), dtype)
    message = f"targets must be integers or, if dense, real numbers, not {targets.dtype}"
    assert_rejected(TypeError, message, make_logits(), targets)


@pytest.mark.parametrize(
    "shape", [(), (0,), (ROWS - 1,), (ROWS + 1,), (ROWS, 1), (1, ROWS), (ROWS, CLASSES, 1)], ids=str
)
def test_labels_of_another_shape(shape: tuple[int, ...]) -> None:
    message = f"class indices must have shape ({ROWS},), not {shape} (targets)"
    assert_rejected(ValueError, message, make_logits(), np.zeros(shape, int))


@pytest.mark.parametrize(
    "shape",
    [(ROWS - 1, CLASSES), (ROWS, 1), (1, CLASSES), (CLASSES, ROWS), (ROWS, CLASSES, 1)],
    ids=str,
)
def test_dense_targets_of_another_shape(shape: tuple[int, ...]) -> None:
    message = f"dense targets must have the logits' shape ({ROWS}, {CLASSES}), not {shape}"
    assert_rejected(ValueError, message, make_logits(), np.zeros(shape, np.float32))


def test_ragged_targets() -> None:
    assert_rejected(ValueError, "inhomogeneous", make_logits(2), [[1.0], [2.0, 3.0]])


# --- logits of the wrong kind ---


@pytest.mark.parametrize(
    "dtype",
    [np.int64, np.uint8, bool, complex, np.complex64, object, "U3", np.longdouble],
    ids=lambda dtype: np.dtype(dtype).name,
)
def test_logits_of_another_dtype(dtype: type) -> None:
    logits = np.zeros((ROWS, CLASSES), dtype)
    message = f"logits must be float16, bfloat16, float32 or float64, not {logits.dtype}"
    assert_rejected(TypeError, message, logits, make_labels())


def test_lists_become_logits_only_if_floating() -> None:
    assert_rejected(TypeError, "float32 or float64, not int64", [[1, 2]], [0])
    assert softmax_cross_entropy([[0.0, 0.0]], [0]) == pytest.approx(np.log(2))


@pytest.mark.parametrize("logits", [[[0.0, 1.0]], 1.0, "logits"], ids=["list", "float", "str"])
def test_logits_that_are_no_array_where_out_is_given(logits: object) -> None:
    out = patterned((1, 2), np.float64)
    assert_raises_and_writes_nothing(
        TypeError,
        "logits must be an ndarray where out is given",
        lambda: softmax_cross_entropy_grad(logits, [0], out=out),
        out,
    )


def test_logits_without_an_axis() -> None:
    message = "logits must have a class axis; they have no axis at all"
    assert_rejected(ValueError, message, np.zeros(()), make_labels())


@pytest.mark.parametrize("shape", [(CLASSES,), (ROWS, CLASSES, 1), (2, ROWS, CLASSES)], ids=str)
def test_labels_for_logits_of_another_number_of_dimensions(shape: tuple[int, ...]) -> None:
    message = f"class indices must have shape {shape[:-1]}, not ({ROWS},) (targets)"
    assert_rejected(ValueError, message, np.zeros(shape), make_labels())


@pytest.mark.parametrize("axis", [2, -3, 2**31, -(2**70)])
def test_axis_out_of_range(axis: int) -> None:
    message = f"axis {axis} is out of bounds for array of dimension 2"
    assert_rejected(np.exceptions.AxisError, message, make_logits(), make_labels(), axis=axis)


@pytest.mark.parametrize("axis", [0.0, None, "0", True])
def test_axis_that_is_no_integer(axis: object) -> None:
    assert_rejected(TypeError, "integer", make_logits(), make_labels(), axis=axis)


@pytest.mark.parametrize("option", ["label_smoothing", "temperature", "z_loss", "scale"])
def test_numbers_beyond_a_float(option: str) -> None:
    message = f"{option} is too large for a float"
    assert_rejected(ValueError, message, make_logits(), make_labels(), **{option: 10**400})


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_label_smoothing_out_of_range(value: float) -> None:
    message = f"label_smoothing must be in [0, 1], not {value}"
    assert_rejected(ValueError, message, make_logits(), make_labels(), label_smoothing=value)


@pytest.mark.parametrize("value", [0.0, -1.0, 2.0**-125, np.nan, np.inf])
def test_temperature_out_of_range(value: float) -> None:
    message = f"temperature must be finite and at least 2**-124, not {value}"
    assert_rejected(ValueError, message, make_logits(), make_labels(), temperature=value)


def test_z_loss_that_is_nan() -> None:
    message = "z_loss must not be NaN"
    assert_rejected(ValueError, message, make_logits(), make_labels(), z_loss=np.nan)


@pytest.mark.parametrize("option", ["label_smoothing", "temperature", "z_loss", "scale"])
@pytest.mark.parametrize("value", ["1", None, True, 1j, [0.5]], ids=repr)
def test_numbers_that_are_none(option: str, value: object) -> None:
    message = f"{option} must be a real number, not {type(value).__name__}"
    assert_rejected(TypeError, message, make_logits(), make_labels(), **{option: value})


@pytest.mark.parametrize("length", [0, 1, CLASSES - 1, CLASSES + 1])
def test_weight_of_wrong_length(length: int) -> None:
    message = f"weight must have shape ({CLASSES},), not ({length},)"
    assert_rejected(ValueError, message, make_logits(), make_labels(), weight=np.ones(length))


@pytest.mark.parametrize("dtype", [bool, complex, object, str])
def test_weight_of_wrong_dtype(dtype: type) -> None:
    weight = np.ones(CLASSES).astype(dtype)
    message = f"weight must hold real numbers, not {weight.dtype}"
    assert_rejected(TypeError, message, make_logits(), make_labels(), weight=weight)


def test_nan_in_weight_stays_with_its_class() -> None:
    logits, labels = make_logits(), make_labels()
    weight = np.ones(CLASSES)
    weight[labels[0]] = np.nan
    loss = softmax_cross_entropy(logits, labels, weight=weight, reduction="none")
    np.testing.assert_array_equal(np.isnan(loss), labels == labels[0])


@pytest.mark.parametrize(
    "targets", [np.zeros(ROWS, int), np.zeros((ROWS, 0))], ids=["index", "dense"]
)
def test_rows_without_a_class(targets: np.ndarray) -> None:
    assert_rejected(
        ValueError, f"logits of shape ({ROWS}, 0) have no class", np.zeros((ROWS, 0)), targets
    )


# --- out ---


def assert_out_rejected(
    error: type[Exception],
    message: str,
    out: object,
    logits: np.ndarray,
    targets: object,
    *memory: np.ndarray,
) -> None:
    assert_raises_and_writes_nothing(
        error,
        message,
        lambda: softmax_cross_entropy_grad(logits, targets, out=out),
        out,
        logits,
        targets,
        *memory,
    )


@pytest.mark.parametrize(
    "out", [[[0.0] * CLASSES] * ROWS, 0.0, "out", bytearray(96), np.float32(0)], ids=type
)
def test_out_that_is_no_array(out: object) -> None:
    assert_out_rejected(TypeError, "out must be an ndarray", out, make_logits(), make_labels())


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float16, np.int32, object], ids=lambda dtype: np.dtype(dtype).name
)
def test_out_of_another_dtype(dtype: type) -> None:
    out = np.zeros((ROWS, CLASSES), dtype)
    message = f"out must have the logits' dtype float32, not {out.dtype}"
    assert_out_rejected(TypeError, message, out, make_logits(), make_labels())


@pytest.mark.parametrize(
    "shape",
    [
        (ROWS - 1, CLASSES),
        (ROWS, CLASSES + 1),
        (CLASSES, ROWS),
        (ROWS * CLASSES,),
        (1, ROWS, CLASSES),
    ],
    ids=str,
)
def test_out_of_another_shape(shape: tuple[int, ...]) -> None:
    message = f"out must have the logits' shape ({ROWS}, {CLASSES}), not {shape}"
    assert_out_rejected(ValueError, message, patterned(shape), make_logits(), make_labels())


def test_read_only_out() -> None:
    logits = make_logits()
    logits.flags.writeable = False
    out = patterned(logits.shape)
    out.flags.writeable = False
    for destination in (logits, out):
        assert_out_rejected(
            ValueError, "output array is read-only (out)", destination, logits, make_labels()
        )


@pytest.mark.parametrize(
    "strides",
    [(0, 4), (16, 0), (0, 0), (4, 4), (12, 4), (-12, 4), (4, -16), (16, 2), (2, 16), (16, 12)],
    ids=str,
)
def test_out_that_overlaps_itself(strides: tuple[int, int]) -> None:
    memory = patterned((1000,))
    out = as_strided(memory[500:], (ROWS, CLASSES), strides)
    message = f"out overlaps itself: shape ({ROWS}, {CLASSES}), strides {strides}"
    assert_out_rejected(ValueError, message, out, make_logits(), make_labels(), memory)
    assert_out_rejected(ValueError, message, out, out, make_labels(), memory)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((1, CLASSES), (0, 4)),
        ((1, CLASSES), (0, 8)),
        ((ROWS, 1), (4, 0)),
        ((ROWS, 1), (12, 0)),
        ((ROWS, 1), (-12, 0)),
        ((1, 1), (0, 0)),
    ],
    ids=str,
)
def test_zero_strides_along_an_axis_of_one(
    shape: tuple[int, int], strides: tuple[int, int]
) -> None:
    out = as_strided(patterned((100,))[50:], shape, strides)
    labels = np.zeros(shape[0], int)
    got = softmax_cross_entropy_grad(np.zeros(shape, np.float32), labels, out=out)
    np.testing.assert_array_equal(
        out, softmax_cross_entropy_grad(np.zeros(shape, np.float32), labels).grad
    )
    assert got.grad is out


@pytest.mark.parametrize(
    "view",
    [
        lambda memory: memory[1 : ROWS + 1],
        lambda memory: memory[:ROWS][::-1],
        lambda memory: memory[:ROWS, ::-1],
        lambda memory: memory.reshape(-1)[2 : 2 + ROWS * CLASSES].reshape(ROWS, CLASSES),
        lambda memory: memory.reshape(-1)[: ROWS * CLASSES].reshape(CLASSES, ROWS).T,
        lambda memory: memory[::2],
        lambda memory: memory[:ROWS].view(memory.dtype.newbyteorder()),
    ],
    ids=[
        "rows down",
        "rows reversed",
        "classes reversed",
        "shifted",
        "transposed",
        "every second row",
        "byte order",
    ],
)
def test_out_that_overlaps_the_logits_partly(view: Callable[[np.ndarray], np.ndarray]) -> None:
    memory = make_logits(2 * ROWS)
    logits = memory[:ROWS]
    message = "out overlaps logits; it must be logits or share no memory with them"
    assert_out_rejected(ValueError, message, view(memory), logits, make_labels(), memory)


def test_out_between_the_logits_is_disjoint() -> None:
    memory = make_logits(ROWS, 2 * CLASSES)
    want = softmax_cross_entropy_grad(memory[:, ::2].copy(), make_labels()).grad
    untouched = memory[:, ::2].copy()
    softmax_cross_entropy_grad(memory[:, ::2], make_labels(), out=memory[:, 1::2])
    np.testing.assert_array_equal(memory[:, 1::2], want)
    np.testing.assert_array_equal(memory[:, ::2], untouched)


@pytest.mark.parametrize("place", [0, 3, CLASSES * ROWS - ROWS])
@pytest.mark.parametrize("in_place", [False, True])
def test_labels_that_share_memory_with_out(place: int, in_place: bool) -> None:
    out = patterned((ROWS, CLASSES))
    labels = out.reshape(-1).view(np.int32)[place : place + ROWS]
    labels[...] = make_labels()
    logits = out if in_place else make_logits()
    assert_out_rejected(ValueError, "out shares memory with targets", out, logits, labels)


def test_dense_targets_that_share_memory_with_out() -> None:
    memory = make_logits(2 * ROWS)
    for out in (memory[:ROWS], memory[3 : ROWS + 3], memory[:ROWS][::-1]):
        message = "out shares memory with targets"
        assert_out_rejected(ValueError, message, out, make_logits(), memory[:ROWS], memory)


def test_labels_between_the_gaps_of_out_are_disjoint() -> None:
    memory = patterned((ROWS, CLASSES + 1))
    labels = memory.view(np.int32)[:, CLASSES]
    labels[...] = make_labels()
    softmax_cross_entropy_grad(make_logits(), labels, out=memory[:, :CLASSES])
    want = softmax_cross_entropy_grad(make_logits(), make_labels())
    np.testing.assert_array_equal(memory[:, :CLASSES], want.grad)
    np.testing.assert_array_equal(labels, make_labels())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sample_weight_that_shares_memory_with_out_is_read_first(dtype: type) -> None:
    logits = make_logits(300, 300, dtype)
    labels = make_labels(300)
    options = {"reduction": "sum", "scale": 1 / 300}
    want = softmax_cross_entropy_grad(logits, labels, sample_weight=logits[0].copy(), **options)
    got = softmax_cross_entropy_grad(logits, labels, sample_weight=logits[0], out=logits, **options)
    assert got.loss == want.loss
    np.testing.assert_array_equal(logits, want.grad)


# --- the other arguments ---


@pytest.mark.parametrize(
    "dtype", [bool, complex, object, "U1", "m8[s]"], ids=lambda dtype: np.dtype(dtype).name
)
def test_sample_weight_of_no_real_numbers(dtype: type) -> None:
    weight = np.zeros(ROWS, dtype)
    message = f"sample_weight must hold real numbers, not {weight.dtype}"
    assert_rejected(TypeError, message, make_logits(), make_labels(), sample_weight=weight)


@pytest.mark.parametrize("shape", [(), (1,), (ROWS + 1,), (ROWS, 1), (ROWS, CLASSES)], ids=str)
def test_sample_weight_of_another_shape(shape: tuple[int, ...]) -> None:
    message = f"sample_weight must have shape ({ROWS},), not {shape}"
    assert_rejected(ValueError, message, make_logits(), make_labels(), sample_weight=np.ones(shape))


def test_nan_in_sample_weight_propagates() -> None:
    weight = np.ones(ROWS)
    weight[2] = np.nan
    losses, grad = softmax_cross_entropy_grad(
        make_logits(), make_labels(), sample_weight=weight, reduction="none"
    )
    np.testing.assert_array_equal(np.isnan(losses), np.arange(ROWS) == 2)
    np.testing.assert_array_equal(np.isnan(grad).all(axis=1), np.arange(ROWS) == 2)
    assert np.isnan(softmax_cross_entropy(make_logits(), make_labels(), sample_weight=weight))


@pytest.mark.parametrize(
    "reduction", ["average", "Mean", "", b"mean", None, 0, True, ["mean"], np.zeros(2)], ids=repr
)
def test_unknown_reduction(reduction: object) -> None:
    message = "reduction must be 'mean', 'sum' or 'none', not "
    assert_rejected(ValueError, message, make_logits(), make_labels(), reduction=reduction)


@pytest.mark.parametrize("option", ["ignore_index", "num_threads"])
@pytest.mark.parametrize("value", [1.0, True, np.True_, "1", [1], Decimal(1)], ids=repr)
def test_options_that_are_no_integers(option: str, value: object) -> None:
    message = f"{option} must be an integer or None"
    assert_rejected(TypeError, message, make_logits(), make_labels(), **{option: value})


def test_ignore_index_with_dense_targets() -> None:
    targets = np.zeros((ROWS, CLASSES), np.float32)
    message = "ignore_index needs targets that are class indices"
    assert_rejected(ValueError, message, make_logits(), targets, ignore_index=0)


@pytest.mark.parametrize("num_threads", [0, -1, np.int8(-2), -(2**70)])
def test_num_threads_below_one(num_threads: int) -> None:
    message = f"num_threads must be at least 1, not {num_threads}"
    assert_rejected(ValueError, message, make_logits(), make_labels(), num_threads=num_threads)


@pytest.mark.parametrize("num_threads", [3, 1000, np.int64(7), 2**40, 2**70])
def test_more_threads_than_useful(num_threads: int) -> None:
    logits, labels = make_logits(5000), make_labels(5000)
    got = softmax_cross_entropy_grad(logits, labels, num_threads=num_threads)
    want = softmax_cross_entropy_grad(logits, labels, num_threads=1)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)


@pytest.mark.parametrize(
    "option", ["dim", "class_weight", "smoothing", "size_average", "reduce", "output"]
)
def test_options_that_do_not_exist(option: str) -> None:
    assert_rejected(
        TypeError, "unexpected keyword argument", make_logits(), make_labels(), **{option: 0.0}
    )


# --- what is odd but right ---


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [0, 1, CLASSES])
@pytest.mark.parametrize("dense", [False, True])
def test_no_rows(dtype: type, reduction: str, classes: int, dense: bool) -> None:
    logits = make_logits(0, classes, dtype)
    targets = np.zeros((0, classes)) if dense else []
    loss, grad = softmax_cross_entropy_grad(logits, targets, reduction=reduction, out=logits)
    assert grad is logits
    if reduction == "none":
        assert loss.shape == (0,)
        assert loss.dtype == dtype
    else:
        assert loss == pytest.approx(np.nan if reduction == "mean" else 0.0, nan_ok=True)
    grad = softmax_cross_entropy_grad(logits, targets).grad
    assert grad.shape == (0, classes)
    assert grad.dtype == dtype


@pytest.mark.parametrize("layout", ["plain", "fortran"])
@pytest.mark.parametrize(
    "options",
    [{"ignore_index": 1}, {"sample_weight": np.zeros(ROWS)}],
    ids=["all ignored", "no weight"],
)
def test_zero_denominator_writes_exact_zeros(layout: str, options: dict) -> None:
    out = np.full((ROWS, CLASSES), np.nan, order="F" if layout == "fortran" else "C")
    loss, grad = softmax_cross_entropy_grad(out, np.ones(ROWS, int), out=out, **options)
    assert np.isnan(loss)
    assert grad is out
    np.testing.assert_array_equal(out.tobytes(), bytes(out.nbytes))


# --- beyond 2^31 and 2^32 ---


@pytest.mark.parametrize("row_stride", [2**31 + 4096, 2**32 + 4096])
def test_rows_gigabytes_apart(tmp_path, row_stride: int) -> None:
    rows, classes = 3, 10
    memory = np.memmap(tmp_path / "sparse", np.uint8, "w+", shape=rows * row_stride)
    logits = as_strided(memory.view(np.float32), (rows, classes), (row_stride, 4))
    labels = as_strided(memory[4096:].view(np.int16), (rows,), (row_stride,))
    logits[...] = make_logits(rows, classes)
    labels[...] = [9, 0, 4]
    want = softmax_cross_entropy_grad(logits.copy(), labels.copy(), reduction="none")
    got = softmax_cross_entropy_grad(logits, labels, reduction="none", out=logits)
    np.testing.assert_array_equal(got.loss, want.loss)
    np.testing.assert_array_equal(logits, want.grad)


@pytest.mark.parametrize(
    "rows", [2**17 + 3, pytest.param(2**18 + 3, marks=pytest.mark.slow)], ids=["2^31", "2^32"]
)
def test_more_logits_than_an_integer_counts(rows: int) -> None:
    """One row of memory seen as many; the labels differ at both ends."""
    classes = 2**14
    row = make_logits(1, classes)
    labels = np.zeros(rows, np.int16)
    labels[[0, -1]] = [classes - 1, 7]
    losses = softmax_cross_entropy(np.broadcast_to(row, (rows, classes)), labels, reduction="none")
    want = softmax_cross_entropy(np.repeat(row, 3, axis=0), [classes - 1, 0, 7], reduction="none")
    np.testing.assert_array_equal(losses[[0, -1]], want[[0, 2]])
    assert (losses[1:-1] == want[1]).all()


# --- trouble from outside ---


@pytest.mark.parametrize("shape", [(6000, 10), (800, 200), (3, 70_000)], ids=str)
def test_labels_changed_during_the_call(shape: tuple[int, int]) -> None:
    """Garbage in their rows is allowed; no guard around the gradient and no other row changes.

    Beyond 128 classes a label is a place in memory.
    """
    logits, out = GuardedArray(make_logits(*shape)), GuardedArray(make_logits(*shape))
    labels = np.zeros(len(out.array), np.int64)
    want = softmax_cross_entropy_grad(logits.array, labels).grad
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            for value in (2**40, -(2**40), shape[1], -1, 0):
                labels[-1] = value

    thread = threading.Thread(target=disturb)
    thread.start()
    rejected = 0
    try:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline or not rejected:
            try:
                softmax_cross_entropy_grad(logits.array, labels, out=out.array)
            except IndexError:
                rejected += 1
    finally:
        stop.set()
        thread.join()
    logits.assert_untouched()
    out.assert_guards_intact()
    assert np.isfinite(out.array).all()
    np.testing.assert_array_equal(out.array[:-1], want[:-1])


MEMORY_SCRIPT = """
import resource
import numpy as np
from xent_fast import softmax_cross_entropy, softmax_cross_entropy_grad

rows, classes = 1 << 12, 1 << 11
logits = np.ones((rows, 2 * classes))[:, ::2]  # of no layout that the kernels take
out = np.full((rows, 2 * classes), 7.0)[:, ::2]
swapped = logits.astype(logits.dtype.newbyteorder())
labels = np.zeros(rows, np.int64)
apart = np.ones((2_000_000, 8)).T  # whose rows the kernels turn, twice as many bytes
softmax_cross_entropy_grad(logits[:64], labels[:64], num_threads=1)

with open("/proc/self/statm") as status:
    used = int(status.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + logits.nbytes // 2,) * 2)

calls = {
    "new gradient": lambda: softmax_cross_entropy_grad(logits, labels, num_threads=1),
    "copy of the logits": lambda: softmax_cross_entropy(logits, labels, num_threads=1),
    "place to work": lambda: softmax_cross_entropy_grad(logits, labels, out=out, num_threads=1),
    "place to work in place": lambda: softmax_cross_entropy_grad(
        logits, labels, out=logits, num_threads=1
    ),
    "place for turned rows": lambda: softmax_cross_entropy_grad(
        apart, labels[:8], out=apart, num_threads=1
    ),
    "native targets": lambda: softmax_cross_entropy_grad(logits, swapped, out=out, num_threads=1),
}
for name, call in calls.items():
    try:
        call()
    except MemoryError:
        pass
    else:
        raise SystemExit(f"{name}: enough memory")
    assert (logits == 1.0).all(), name
    assert (out == 7.0).all(), name
    assert (apart == 1.0).all(), name
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space, and /proc")
def test_allocation_fails() -> None:
    subprocess.run([sys.executable, "-c", MEMORY_SCRIPT], check=True, timeout=120)
