"""Arguments that do not go together, and trouble from outside: an exception, no byte written.

Knows the loss and what it refuses; what each argument refuses by itself, and in which words, is in
tests/test_every_argument.py. Must not know how it is checked.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from helpers import GuardedArray
from threads.calls import Inputs

from xent_fast import softmax_cross_entropy, softmax_cross_entropy_grad
from xent_fast._bits.functions import FUNCTIONS

ROWS, CLASSES = 6, 4
PATTERN = 0xA5
UINT64 = np.uint64

as_strided = np.lib.stride_tricks.as_strided


def make_logits(rows: int = ROWS, classes: int = CLASSES, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((rows, classes)).astype(dtype)


def make_labels(rows: int = ROWS, dtype: type = np.int64) -> np.ndarray:
    return (np.arange(rows) % CLASSES).astype(dtype)


def patterned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array whose every byte is PATTERN."""
    return np.full(shape, np.frombuffer(bytes([PATTERN] * np.dtype(dtype).itemsize), dtype)[0])


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
    error: type[Exception], message: str, logits: np.ndarray, targets: object, **options: object
) -> None:
    """All calls refuse the arguments: loss alone, in place, into `out`, into a new array."""
    inputs = (logits, targets, *options.values())
    assert_raises_and_writes_nothing(
        error, message, lambda: softmax_cross_entropy(logits, targets, **options), *inputs
    )
    assert_raises_and_writes_nothing(
        error, message, lambda: softmax_cross_entropy_grad(logits, targets, **options), *inputs
    )
    for out in (logits, patterned(logits.shape, logits.dtype)):
        assert_raises_and_writes_nothing(
            error,
            message,
            lambda out=out: softmax_cross_entropy_grad(logits, targets, out=out, **options),
            out,
            *inputs,
        )


# --- class indices out of bounds ---


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


def test_ragged_targets() -> None:
    assert_rejected(ValueError, "inhomogeneous", make_logits(2), [[1.0], [2.0, 3.0]])


@pytest.mark.parametrize("shape", [(CLASSES,), (ROWS, CLASSES, 1), (2, ROWS, CLASSES)], ids=str)
def test_labels_for_logits_of_another_number_of_dimensions(shape: tuple[int, ...]) -> None:
    message = f"class indices must have shape {shape[:-1]}, not ({ROWS},) (targets)"
    assert_rejected(ValueError, message, np.zeros(shape), make_labels())


def test_nan_in_weight_stays_with_its_class() -> None:
    logits, labels = make_logits(), make_labels()
    weight = np.ones(CLASSES)
    weight[labels[0]] = np.nan
    loss = softmax_cross_entropy(logits, labels, weight=weight, reduction="none")
    np.testing.assert_array_equal(np.isnan(loss), labels == labels[0])


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


def test_nan_in_sample_weight_propagates() -> None:
    weight = np.ones(ROWS)
    weight[2] = np.nan
    losses, grad = softmax_cross_entropy_grad(
        make_logits(), make_labels(), sample_weight=weight, reduction="none"
    )
    np.testing.assert_array_equal(np.isnan(losses), np.arange(ROWS) == 2)
    np.testing.assert_array_equal(np.isnan(grad).all(axis=1), np.arange(ROWS) == 2)
    assert np.isnan(softmax_cross_entropy(make_logits(), make_labels(), sample_weight=weight))


@pytest.mark.parametrize("kind", ["dense", None])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ignore_index_without_labels(name: str, kind: str | None) -> None:
    """Nothing could be ignored: with dense targets, and with the teacher alone."""
    function, batch = FUNCTIONS[name], Inputs.of(ROWS, CLASSES)
    if kind in function.kinds and "ignore_index" in function.keywords:
        for output in function.ways_out():
            call = function.call(batch, kind, output=output, ignore_index=0)
            message = "ignore_index needs targets that are class indices"
            assert_raises_and_writes_nothing(ValueError, message, call, *call.arrays)


@pytest.mark.parametrize("num_threads", [3, 1000, np.int64(7), 2**40, 2**70])
def test_more_threads_than_useful(num_threads: int) -> None:
    logits, labels = make_logits(5000), make_labels(5000)
    got = softmax_cross_entropy_grad(logits, labels, num_threads=num_threads)
    want = softmax_cross_entropy_grad(logits, labels, num_threads=1)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)


# --- what is odd but right ---


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
    want = softmax_cross_entropy_grad(logits.array, labels, out=out.array).grad.copy()
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
