"""Classes that lie apart: the bits of the same rows side by side, and no array of the logits' size.

Knows: the public functions that take another matrix beside the logits, and their options.
Must not know: how the rows reach the kernels.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import xent_fast

Layout = Callable[[np.ndarray], np.ndarray]


def planes(rows: np.ndarray) -> np.ndarray:
    """(N, H, W, C) as they lie in (N, C, H, W)."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(rows, -1, 1)), 1, -1)


def part_of_planes(rows: np.ndarray) -> np.ndarray:
    """The same where planes are followed by others, and rows of pixels are not."""
    memory = np.full((rows.shape[0], rows.shape[3] + 2, *rows.shape[1:3]), np.nan, rows.dtype)
    part = np.moveaxis(memory[:, 1:-1], 1, -1)
    part[...] = rows
    return part


def fortran(rows: np.ndarray) -> np.ndarray:
    """All rows side by side."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(rows, -1, 0)), 0, -1)


def side_by_side(rows: np.ndarray) -> np.ndarray:
    return rows.copy()


def results_of(name: str, x: np.ndarray, v: np.ndarray, t: np.ndarray, out: Any) -> list[Any]:
    """What a function makes of logits (N, H, W, C), another matrix like them and targets."""
    rng = np.random.default_rng(5)
    each = rng.random(x.shape[:-1])
    options: dict[str, Any] = {"sample_weight": each, "reduction": "none"}
    if name == "hvp":
        return [xent_fast.softmax_cross_entropy_hvp(x, t, v, out=out, **options)]
    if name == "diagonal":
        return [xent_fast.softmax_cross_entropy_hessian_diagonal(x, t, out=out, **options)]
    if name == "grad_hessian":
        return list(xent_fast.softmax_cross_entropy_grad_hessian(x, t, grad_out=out, **options))
    if name == "distillation":
        return list(xent_fast.distillation_loss_grad(x, v, t, out=out, temperature=2.0, **options))
    if name == "entropy":
        return list(xent_fast.softmax_entropy_grad(x, grad_output=each[::-1], out=out, **options))
    vjp = getattr(xent_fast, name)
    return [vjp(x, v, grad_output=each, out=out)]


NAMES = (
    "hvp", "diagonal", "grad_hessian", "distillation", "entropy", "softmax_vjp", "log_softmax_vjp",
)  # fmt: skip
LAYOUTS = (planes, part_of_planes, fortran, side_by_side)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_same_bits_in_every_layout(name: str, dtype: Any) -> None:
    for classes in [3, 21, 40, 150]:
        rng = np.random.default_rng(classes)
        shape = (3, 5, 14, classes)
        x, v = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        for t in (rng.integers(0, classes, shape[:-1]), rng.random(shape).astype(dtype)):
            wanted = results_of(name, x, v, t, None)
            for k, layout in enumerate(LAYOUTS):
                logits = layout(x)
                other = LAYOUTS[k - 1](v)
                targets = t if t.ndim == 3 else LAYOUTS[k - 2](t)
                for out in (None, LAYOUTS[k - 3](np.zeros(shape, dtype)), logits):
                    got = results_of(name, logits, other, targets, out)
                    for a, b in zip(got, wanted, strict=True):
                        assert np.array_equal(a, b), (layout.__name__, out is None)
            if name not in ("diagonal", "grad_hessian", "entropy"):
                other = planes(v)
                got = results_of(name, planes(x), other, t, other)
                assert np.array_equal(got[-1], wanted[-1])


@pytest.mark.thread_unsafe(reason="measures the whole process")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", NAMES)
def test_no_array_of_the_logits_size(name: str, dtype: Any) -> None:
    shape = (4, 32, 32, 150)
    rng = np.random.default_rng(0)
    x, v = (planes(rng.standard_normal(shape).astype(dtype)) for _ in range(2))
    labels = rng.integers(0, shape[-1], shape[:-1])
    results_of(name, x, v, labels, x)
    tracemalloc.start()
    try:
        results_of(name, x, v, labels, x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the Hessian's diagonal is a new array
    assert peak < x.nbytes * (1.3 if name == "grad_hessian" else 0.2)
