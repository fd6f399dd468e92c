"""The same bits of the loss always: for any callers, planes, place in the batch.

Knows circumstances that must not reach a result, beside those of tests/test_circumstances.py;
compares bit patterns, never values.
Must not know what the right result is.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import (
    aligned_bytes,
    assert_same_bits,
    assert_within,
    assert_within_spacings,
    effective_mass,
    make_logits,
    make_targets,
)
from instruction_sets import AVAILABLE, forced

from xent_fast import LossAndGrad, softmax_cross_entropy_grad

# Both kernels, every border between them, one and several blocks.
SMALL_SHAPES = ((70, 3), (70, 10), (40, 32), (40, 33), (20, 1_000), (9, 5_000), (3, 40_000))


def make_case(kind: str, shape: tuple[int, int], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Logits with a wide range of probabilities, and targets."""
    rng = np.random.default_rng(shape)
    logits = make_logits(rng, *shape, dtype, spread=8.0)
    return logits, make_targets(kind, rng, *shape, dtype)


def assert_same(got: LossAndGrad, want: LossAndGrad) -> None:
    """Loss and gradient, bit for bit."""
    assert_same_bits(got.loss, want.loss)
    assert_same_bits(got.grad, want.grad)


# (N, C, positions...): few rows side by side, whole vectors of them and not, both kernels.
SHAPES_OF_PLANES = (
    *((5, 3, 9, 4), (3, 10, 16), (1, 32, 50), (2, 21, 7), (4, 2, 3, 2, 3)),
    *((3, 33, 40), (2, 100, 5, 5), (2, 3_000, 17)),
)


def as_planes(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    count, classes, *positions = shape
    return np.moveaxis(matrix.reshape((count, *positions, classes)), -1, 1)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "weight": True}], ids=str)
def test_layouts(isa: str, dtype: type, kind: str, options: dict) -> None:
    """Classes along axis 1, in C or Fortran order, in place, or as a slice of more positions."""
    for shape in SHAPES_OF_PLANES:
        count, classes, *positions = shape
        rows = (count * int(np.prod(positions)), classes)
        logits, targets = make_case(kind, rows, dtype)
        options = dict(options)
        if "weight" in options:
            options["weight"] = np.linspace(0.5, 2, classes)
        want = softmax_cross_entropy_grad(logits, targets, reduction="none", **options)
        planes, wanted = as_planes(logits, shape), as_planes(want.grad, shape)
        planes_of_targets = (
            as_planes(targets, shape) if targets.ndim == 2 else targets.reshape((count, *positions))
        )
        wide = np.zeros((*shape[:-1], shape[-1] + 3), dtype)
        wide[..., 1:-2] = planes
        for given in (
            planes,
            np.array(planes, order="C"),
            np.array(planes, order="F"),
            wide[..., 1:-2],
            np.array(planes[:, ::-1], order="C")[:, ::-1],
        ):
            before = given.copy()
            got = softmax_cross_entropy_grad(
                given, planes_of_targets, axis=1, reduction="none", **options
            )
            assert_same_bits(got.loss.reshape(-1), want.loss)
            assert_same_bits(np.ascontiguousarray(got.grad), np.ascontiguousarray(wanted))
            assert_same_bits(np.ascontiguousarray(given), np.ascontiguousarray(before))
            in_place = softmax_cross_entropy_grad(
                given, planes_of_targets, axis=1, reduction="none", out=given, **options
            )
            assert_same_bits(in_place.loss.reshape(-1), want.loss)
            assert_same_bits(np.ascontiguousarray(given), np.ascontiguousarray(wanted))
        assert not wide[..., 0].any()
        assert not wide[..., -2:].any()


def test_position_in_batch(isa: str, dtype: type, kind: str) -> None:
    """One row, alone and at every position of batches of every size around a group of 16."""
    for classes in (1, 2, 3, 8, 10, 16, 17, 32, 33, 100, 2049):
        rows = 35 if classes <= 33 else 18
        logits, targets = make_case(kind, (rows, classes), dtype)
        alone = softmax_cross_entropy_grad(logits[:1], targets[:1], reduction="none")
        for position in range(rows):
            order = np.roll(np.arange(rows), position)
            got = softmax_cross_entropy_grad(logits[order], targets[order], reduction="none")
            assert_same_bits(got.loss[position], alone.loss[0])
            assert_same_bits(got.grad[position], alone.grad[0])
        whole = softmax_cross_entropy_grad(logits, targets, reduction="none")
        for size in range(1, rows):
            part = softmax_cross_entropy_grad(logits[:size], targets[:size], reduction="none")
            assert_same_bits(part.loss, whole.loss[:size])
            assert_same_bits(part.grad, whole.grad[:size])


def test_planes_whole_pages_apart(isa: str, dtype: type, kind: str) -> None:
    """Rows side by side from any offset, classes a multiple of 4096 bytes apart."""
    for pages, classes in itertools.product((1, 2), (8, 9, 21, 32, 33)):
        rows = pages * 4096 // np.dtype(dtype).itemsize
        count = 300
        logits, targets = make_case(kind, (count, classes), dtype)
        want = softmax_cross_entropy_grad(logits, targets, reduction="none")
        buffer = aligned_bytes((rows * classes + 17) * logits.itemsize).view(dtype)
        for offset in (0, 1, 4, 15, 16):
            planes = buffer[offset : offset + rows * classes].reshape(classes, rows).T[:count]
            planes[...] = logits
            got = softmax_cross_entropy_grad(planes, targets, reduction="none", out=planes)
            assert_same_bits(got.loss, want.loss)
            assert_same_bits(np.ascontiguousarray(got.grad), want.grad)


@pytest.mark.parametrize("shape", ((2_000, 10), (100, 1_000), (6, 40_000)), ids=str)
def test_many_callers(isa: str, dtype: type, shape: tuple[int, int]) -> None:
    """Eight Python threads call at once, each with its own number of threads."""
    logits, targets = make_case("index", shape, dtype)
    want = softmax_cross_entropy_grad(logits, targets, num_threads=1)

    def call(number: int) -> LossAndGrad:
        over = logits.copy()
        return softmax_cross_entropy_grad(over, targets, out=over, num_threads=1 + number % 3)

    with ThreadPoolExecutor(8) as callers:
        for got in callers.map(call, range(24)):
            assert_same(got, want)


def test_portable_path(dtype: type, kind: str) -> None:
    """The path without a fused multiply-add is as close as two right results are."""
    for shape in SMALL_SHAPES:
        logits, targets = make_case(kind, shape, dtype)
        with forced(AVAILABLE[0]):
            best = softmax_cross_entropy_grad(logits, targets, reduction="none")
        with forced("portable"):
            portable = softmax_cross_entropy_grad(logits, targets, reduction="none")
        if kind == "index":
            assert_within_spacings(portable.grad, best.grad, dtype, 8)
            assert_within_spacings(portable.loss, best.loss, dtype, 6)
            continue
        mass = effective_mass(targets, shape[1])
        epsilon = np.finfo(dtype).eps
        smallest = np.finfo(dtype).smallest_subnormal
        assert_within(
            portable.grad, best.grad, 8 * epsilon * (np.abs(best.grad) + 2 * mass) + 8 * smallest
        )
        below = logits.max(axis=1, keepdims=True) - logits
        magnitude = (mass * (np.log(shape[1]) + below)).sum(axis=1)
        assert_within(portable.loss, best.loss, 8 * epsilon * magnitude)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_one_column_for_all_classes(isa: str, dtype: type, rows: int) -> None:
    """Classes 0 bytes apart are not side by side."""
    column = np.arange(rows, dtype=dtype)[:, np.newaxis]
    repeated = np.broadcast_to(column, (rows, 5))
    labels = np.zeros(rows, np.int64)
    got = softmax_cross_entropy_grad(repeated, labels, reduction="none")
    want = softmax_cross_entropy_grad(repeated.copy(), labels, reduction="none")
    assert_same_bits(got.loss, want.loss)
    assert_same_bits(got.grad, want.grad)
