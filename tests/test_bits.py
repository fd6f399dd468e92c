"""The same bits of the loss always: for any planes and any place in the batch.

Knows circumstances that must not reach a result, beside those of tests/test_circumstances.py;
compares bit patterns, never values.
Must not know what the right result is.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import aligned_bytes, assert_same_bits, make_logits, make_targets

from xent_fast import softmax_cross_entropy_grad


def make_case(kind: str, shape: tuple[int, int], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Logits with a wide range of probabilities, and targets."""
    rng = np.random.default_rng(shape)
    logits = make_logits(rng, *shape, dtype, spread=8.0)
    return logits, make_targets(kind, rng, *shape, dtype)


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
