"""Batches beyond 2^31 and 2^32: rows, classes of one row, entries, bytes from one row to the next.

The whole takes 9 GiB of memory, --quick less than 1 GiB.

Memory that is only read is the system's page of zeros; memory that is written is the same 32 MiB
again and again, but for both ends, which are compared with the results of a small batch (bit for
bit) or with the formula. So no batch needs the memory it seems to have.

Needs Linux on a 64-bit processor, and the package in the active Python.

Knows: where an index or a product of two may overflow. Must not know: how memory is made to seem
large (tests/size/memory.py), how a kernel counts.
"""

from __future__ import annotations

import argparse
import gc
import math
import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
from checking import Outcome
from numpy.lib.stride_tricks import as_strided
from size.memory import at_stride, recurring, zeros

import xent_fast

BEYOND_31, BEYOND_32 = 2**31 + 37, 2**32 + 37
END = 37  # rows or classes that are compared at either end
Check = tuple[str, Callable[[], None]]


def fill_ends(array: np.ndarray, seed: int) -> None:
    """Numbers at both ends, nothing between."""
    rng = np.random.default_rng(seed)
    for end in (array[:END], array[-END:]):
        end[...] = (3 * rng.standard_normal(end.shape)).astype(array.dtype)


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.tobytes() == want.tobytes(), (got, want)


def assert_close(got: float, want: float, dtype: type) -> None:
    tolerance = 4 * np.finfo(dtype).eps * abs(want)
    assert abs(float(got) - want) <= tolerance, (got, want)


def complaint_about(logits: np.ndarray, labels: np.ndarray) -> str:
    """The words of the IndexError that the call must end with."""
    try:
        xent_fast.softmax_cross_entropy(logits, labels)
    except IndexError as error:
        return str(error)
    return "the label was taken"


# --- one long row ---------------------------------------------------------------------------------


def long_row(classes: int, dtype: type, threads: int, with_grad: bool, dense: bool) -> None:
    """One row of zeros but for 2.5 at the first and 1.5 at the last class, the target."""
    logits = zeros((1, classes), dtype)
    logits[0, 0], logits[0, -1] = 2.5, 1.5
    targets = np.array([classes - 1])
    if dense:
        targets = zeros((1, classes), dtype)
        targets[0, -1] = 1
    total = (classes - 2) + math.exp(2.5) + math.exp(1.5)
    options = {"reduction": "none", "return_statistics": True, "num_threads": threads}
    if with_grad:
        out = recurring((1, classes), dtype)
        loss, grad, statistics = xent_fast.softmax_cross_entropy_grad(
            logits, targets, out=out, **options
        )
        assert_close(grad[0, 0], math.exp(2.5) / total, dtype)
        assert_close(grad[0, -1], (math.exp(1.5) - total) / total, dtype)
        for near in (1, END, classes - 1 - END, classes - 2):
            assert_close(grad[0, near], 1 / total, dtype)
    else:
        loss, statistics = xent_fast.softmax_cross_entropy(logits, targets, **options)
    assert_close(loss[0], math.log(total) - 1.5, dtype)
    assert_close(statistics.lse[0], math.log(total), dtype)
    assert statistics.prediction[0] == 0
    logits[0, -2] = 7
    prediction = xent_fast.softmax_cross_entropy(logits, targets, **options)[1].prediction[0]
    assert prediction == classes - 2


def long_row_bad_label(classes: int) -> None:
    """The class one beyond the last, and below the first."""
    logits = zeros((1, classes), np.float32)
    for label in (classes, -1, 2**63 - 1):
        complaint = complaint_about(logits, np.array([label]))
        assert f"index {label} " in complaint, complaint
        assert f"size {classes} " in complaint, complaint


# --- many rows ------------------------------------------------------------------------------------


def many_rows_in_place(rows: int, classes: int, dtype: type, function: str) -> None:
    """The rows at both ends, in place, as in a batch of these rows alone."""
    logits = recurring((rows, classes), dtype)
    fill_ends(logits, rows)
    labels = zeros((rows,), np.int8)
    labels[-END:] = min(classes - 1, 100)
    ends = np.concatenate([logits[:END], logits[-END:]])
    end_labels = np.concatenate([labels[:END], labels[-END:]])
    if function == "loss":
        options = {"reduction": "sum"}
        got = xent_fast.softmax_cross_entropy_grad(logits, labels, out=logits, **options)
        want = xent_fast.softmax_cross_entropy_grad(ends, end_labels, **options).grad
        assert math.isfinite(got.loss), got.loss
    elif function == "softmax":
        xent_fast.softmax(logits, out=logits)
        want = xent_fast.softmax(ends)
    else:
        slopes = zeros((rows, classes), dtype)
        fill_ends(slopes, rows + 1)
        slope_ends = np.concatenate([slopes[:END], slopes[-END:]])
        xent_fast.softmax_vjp(logits, slopes, out=logits)
        want = xent_fast.softmax_vjp(ends, slope_ends)
    assert_same_bits(np.concatenate([logits[:END], logits[-END:]]), want)


def many_equal_rows(rows: int, classes: int) -> None:
    """One row that is read over and over: its loss, times the number of rows."""
    row = np.linspace(-1, 1, classes, dtype=np.float32)
    logits = as_strided(row, (rows, classes), (0, 4))
    labels = as_strided(np.array([1], np.int8), (rows,), (0,))
    one = xent_fast.softmax_cross_entropy(row[None], np.array([1]))
    assert_close(xent_fast.softmax_cross_entropy(logits, labels), one, np.float32)
    total = xent_fast.softmax_cross_entropy(logits, labels, reduction="sum", num_threads=1)
    assert_close(total / rows, one, np.float32)


def many_row_losses(rows: int) -> None:
    """A loss for each, beyond 2^31 of them; the labels differ at both ends."""
    logits = as_strided(np.array([0, 1], np.float32), (rows, 2), (0, 4))
    labels = zeros((rows,), np.int8)
    labels[0] = labels[-1] = 1
    losses = xent_fast.softmax_cross_entropy(logits, labels, reduction="none")
    assert losses.shape == (rows,)
    for place, label in ((0, 1), (1, 0), (rows - 2, 0), (rows - 1, 1)):
        assert_close(losses[place], math.log1p(math.e) - label, np.float32)


def last_label_bad(rows: int) -> None:
    """Found and named."""
    logits = as_strided(np.zeros(2, np.float32), (rows, 2), (0, 4))
    labels = zeros((rows,), np.int8)
    labels[-1] = 2
    complaint = complaint_about(logits, labels)
    assert f"targets[{rows - 1}]" in complaint, complaint


# --- far apart ------------------------------------------------------------------------------------


def rows_far_apart(stride: int, dtype: type, classes: int) -> None:
    """Logits, dense targets, labels and out with that many bytes from row to row."""
    item = np.dtype(dtype).itemsize
    shape, strides = (19, classes), (stride, item)
    rng = np.random.default_rng(classes)
    near, mass = rng.standard_normal(shape).astype(dtype), rng.random(shape).astype(dtype)
    labels = rng.integers(0, classes, shape[0])
    logits, targets, out = (at_stride(shape, strides, dtype) for _ in range(3))
    far_labels = at_stride((shape[0], 1), (stride, 8), np.int64)[:, 0]
    logits[...], targets[...], far_labels[...] = near, mass, labels
    for far, close in ((far_labels, labels), (targets, mass)):
        for place in (out, logits):
            got = xent_fast.softmax_cross_entropy_grad(logits, far, out=place)
            want = xent_fast.softmax_cross_entropy_grad(near, close)
            assert got.loss == want.loss
            assert_same_bits(np.ascontiguousarray(place), want.grad)
            logits[...] = near
    xent_fast.softmax_vjp(logits, targets, out=out)
    assert_same_bits(np.ascontiguousarray(out), xent_fast.softmax_vjp(near, mass))


def classes_far_apart(stride: int, dtype: type) -> None:
    """The same with that many bytes from class to class, where results may differ in last bits."""
    near = np.random.default_rng(1).standard_normal((5, 7)).astype(dtype)
    labels = np.arange(5)
    logits = at_stride(near.shape, (near.itemsize, stride), dtype)
    logits[...] = near
    want = xent_fast.softmax_cross_entropy_grad(near, labels)
    got = xent_fast.softmax_cross_entropy_grad(logits, labels, out=logits)
    assert_close(got.loss, want.loss, dtype)
    np.testing.assert_allclose(logits, want.grad, rtol=8 * np.finfo(dtype).eps)


# --- the lists ------------------------------------------------------------------------------------


def named(function: Callable[..., None], *arguments: object) -> Check:
    words = [getattr(one, "__name__", str(one)) for one in (function, *arguments)]
    return " ".join(words), lambda: function(*arguments)


def quick_checks() -> Iterator[Check]:
    for stride in (2**32 + 64, 2**34 + 64, -(2**33) - 128):
        for dtype in (np.float32, np.float64):
            for classes in (3, 10, 33, 2049):
                yield named(rows_far_apart, stride, dtype, classes)
            yield named(classes_far_apart, stride, dtype)
    yield named(long_row_bad_label, BEYOND_32)
    yield named(last_label_bad, BEYOND_32)
    yield named(long_row, BEYOND_31, np.float32, 2, False, False)


def all_checks() -> Iterator[Check]:
    yield from quick_checks()
    yield named(long_row, BEYOND_31, np.float32, 1, True, False)
    yield named(long_row, BEYOND_31, np.float32, 2, True, True)
    yield named(long_row, BEYOND_31, np.float64, 2, True, False)
    yield named(long_row, BEYOND_32, np.float32, 2, True, False)
    yield named(long_row, BEYOND_32, np.float32, 1, False, False)
    for function in ("loss", "softmax", "softmax_vjp"):
        yield named(many_rows_in_place, 2**25 + 37, 130, np.float32, function)
    yield named(many_rows_in_place, BEYOND_31, 2, np.float32, "loss")
    yield named(many_rows_in_place, BEYOND_31, 1, np.float32, "softmax")
    yield named(many_equal_rows, BEYOND_32, 2)
    yield named(many_row_losses, BEYOND_31)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="checks whose name contains this")


def check(options: argparse.Namespace) -> Outcome:
    faults, count = [], 0
    for name, function in quick_checks() if options.quick else all_checks():
        if options.only not in name:
            continue
        count += 1
        started = time.monotonic()
        try:
            function()
        except (AssertionError, OSError, MemoryError) as fault:
            faults.append(name)
            print(f"FAILED {name}: {type(fault).__name__} {fault}")
        else:
            print(f"ok     {name}: {time.monotonic() - started:.1f} s", flush=True)
        gc.collect()
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"at most {largest:.1f} GiB mapped")
    figures = {
        "checks": count,
        "failed": len(faults),
        "most classes of a row": BEYOND_31 if options.quick else BEYOND_32,
        "most rows": BEYOND_32,
        "widest step from row to row, bytes": 2**34 + 64,
    }
    return Outcome(figures, count - len(faults), len(faults))
